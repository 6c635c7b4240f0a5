//! Every interleaving of a withdrawal with those who receive, and of a watcher with an acknowledgement.
//!
//! Each of these changes was made on purpose once, and the models caught it: the receiver's light barrier behind
//! its claim left out, the sender's heavy barrier left out, the claim looked at before the mark is written, and the
//! verdict not asked (each time withdrawn and received); the first record's mark never made final (the second
//! withdrawal's verdict is then taken for its own); a skip that rings nobody (its sender asleep for ever); the
//! watcher's bit wiped by the sender that gets up, one sleeper woken instead of all, the bit not looked at, and
//! the watcher's barrier left out (a watcher asleep for ever).

use super::{
    Arc, Claimant, Hand, MESSAGE_BYTES, Mailbox, Mended, Model, Relaxed, drain, explore, mend_slot,
    thread,
};
use crate::lane::claim::Next;
use crate::lane::park::{self, Park};
use crate::lane::position::Position;
use crate::lane::withdraw::{Progress, Record, Withdrawal, is_claimed, progress, withdraw};
use crate::sync::Ordering::Acquire;

impl Mailbox {
    fn claimed(&self, record: Record) -> bool {
        is_claimed([&self.cursors].into_iter(), 0, record.at)
    }

    pub(super) fn withdraw(&self, record: Record) -> bool {
        let roster = &self.roster.header;
        let claimed = || self.claimed(record);
        let end =
            withdraw(roster, &self.lane, &self.model, &self.verdict, record, &self.park, claimed);
        assert_ne!(end, Withdrawal::Refused);
        end == Withdrawal::Withdrawn
    }

    fn progress(&self, record: Record) -> Progress {
        let groups = [(&self.cursors, &self.roster.header.groups[0])];
        progress(groups.into_iter(), 0, record)
    }

    /// Sleeps, as a ticket does, until a record is done.
    pub(super) fn await_done(&self, record: Record) {
        park::watch(&self.lane, Some(record.at));
        park::heavy_barrier(&self.roster.header, &self.park);
        loop {
            let seen = self.freed.load(Acquire);
            if self.progress(record) == Progress::Done {
                break;
            }
            self.park.wait(&[(&self.freed, seen)], None);
        }
        park::watch(&self.lane, None);
    }
}

/// The record of the `n`-th message that a model sends.
pub(super) fn nth(mailbox: &Mailbox, n: u64) -> Record {
    Record::message(mailbox.first.advance(2 * n), MESSAGE_BYTES)
}

/// Takes and acknowledges whatever there is, in a slot.
pub(super) fn receive_all(mailbox: &Mailbox, slot: u16, single: bool) -> Vec<u64> {
    let mut claimant = mailbox.claimant(slot, single);
    drain(mailbox, &mut claimant)
}

/// Whatever the withdrawals said: what was withdrawn never came, all else came once.
pub(super) fn check(mut got: Vec<u64>, withdrawn: &[(u64, bool)]) {
    got.sort_unstable();
    let left = withdrawn.iter().filter(|(_, withdrawn)| !withdrawn);
    let expected: Vec<_> = left.map(|&(message, _)| message).collect();
    assert_eq!(got, expected, "{withdrawn:?}");
}

fn against_one(single: bool) {
    explore(3, move || {
        let mailbox = Mailbox::new(1, 8);
        let mut writer = mailbox.writer();
        mailbox.send(&mut writer, 1);
        let other = mailbox.clone();
        let thread = thread::spawn(move || receive_all(&other, 0, single));
        let withdrawn = mailbox.withdraw(nth(&mailbox, 0));
        let mut got = thread.join().unwrap();
        got.extend(receive_all(&mailbox, 0, single));
        check(got, &[(1, withdrawn)]);
        assert_eq!(mailbox.progress(nth(&mailbox, 0)), Progress::Done);
    });
}

#[test]
fn loom_a_message_is_withdrawn_or_received_by_the_only_receiver() {
    against_one(true);
}

#[test]
fn loom_a_message_is_withdrawn_or_received() {
    against_one(false);
}

#[test]
fn loom_a_message_is_withdrawn_or_received_by_one_of_two() {
    explore(2, || {
        let mailbox = Mailbox::new(2, 8);
        let mut writer = mailbox.writer();
        mailbox.send(&mut writer, 1);
        let threads = [0, 1].map(|slot| {
            let mailbox = mailbox.clone();
            thread::spawn(move || receive_all(&mailbox, slot, false))
        });
        let withdrawn = mailbox.withdraw(nth(&mailbox, 0));
        let mut got: Vec<_> = threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
        got.extend(receive_all(&mailbox, 0, false));
        check(got, &[(1, withdrawn)]);
    });
}

/// Two groups, one receiver each: what one of them gets both do.
#[test]
fn loom_a_message_is_withdrawn_from_every_group_or_from_none() {
    explore(2, || {
        let mailbox = Mailbox::new(1, 8);
        let other = Mailbox { cursors: Mailbox::new(1, 8).cursors, ..mailbox.clone() };
        let mut writer = mailbox.writer();
        mailbox.send(&mut writer, 1);
        let record = nth(&mailbox, 0);
        let groups = [mailbox.clone(), other.clone()];
        let threads = groups.map(|group| thread::spawn(move || receive_all(&group, 0, false)));
        let claimed = || mailbox.claimed(record) || other.claimed(record);
        let (roster, park) = (&mailbox.roster.header, &mailbox.park);
        let end = withdraw(
            roster,
            &mailbox.lane,
            &mailbox.model,
            &mailbox.verdict,
            record,
            park,
            claimed,
        );
        for (thread, group) in threads.into_iter().zip([&mailbox, &other]) {
            let mut got = thread.join().unwrap();
            got.extend(receive_all(group, 0, false));
            check(got, &[(1, end == Withdrawal::Withdrawn)]);
        }
    });
}

/// The one verdict word serves the second withdrawal while a receiver may still ask it about the first.
#[test]
fn loom_two_messages_are_withdrawn_or_received_one_after_the_other() {
    explore(2, || {
        let mailbox = Mailbox::new(1, 8);
        let mut writer = mailbox.writer();
        mailbox.send(&mut writer, 1);
        mailbox.send(&mut writer, 2);
        let other = mailbox.clone();
        let thread = thread::spawn(move || receive_all(&other, 0, false));
        let first = mailbox.withdraw(nth(&mailbox, 0));
        let second = mailbox.withdraw(nth(&mailbox, 1));
        let mut got = thread.join().unwrap();
        got.extend(receive_all(&mailbox, 0, false));
        check(got, &[(1, first), (2, second)]);
    });
}

/// A receiver dies at each step of its claim, the withdrawal goes on; whoever takes over agrees with it.
#[test]
fn loom_a_receivers_death_and_a_withdrawal_agree() {
    for checkpoint in 1..=2 {
        explore(2, move || {
            let mailbox = Mailbox::new(2, 8);
            let mut writer = mailbox.writer();
            mailbox.send(&mut writer, 1);
            let doomed = mailbox.clone();
            let thread = thread::spawn(move || super::die_while_receiving(&doomed, checkpoint));
            let withdrawn = mailbox.withdraw(nth(&mailbox, 0));
            let mut got = thread.join().unwrap();
            let mended = mend_slot(&mailbox.cursors, 1);
            assert!(matches!(mended, Mended::Nothing | Mended::Offered));
            got.extend(receive_all(&mailbox, 0, false));
            check(got, &[(1, withdrawn)]);
        });
    }
}

/// The sender dies with its withdrawal open, having marked the record: the message is received.
#[test]
fn loom_a_withdrawal_that_its_sender_did_not_survive_never_was() {
    explore(3, || {
        let mailbox = Mailbox::new(2, 8);
        let mut writer = mailbox.writer();
        mailbox.send(&mut writer, 1);
        let record = nth(&mailbox, 0);
        // What `withdraw` writes before its barrier.
        let open = crate::lane::layout::Verdict {
            position: record.at,
            state: crate::lane::layout::VerdictState::Open,
        };
        mailbox.verdict.store(open.to_word(), Relaxed);
        let flags = crate::lane::record::RecordHeader::WITHDRAWING;
        crate::lane::record::Marks::mark(&mailbox.model, record.at, record.word.with_flags(flags));
        let other = mailbox.clone();
        let thread = thread::spawn(move || receive_all(&other, 1, false));
        let mut got = receive_all(&mailbox, 0, false);
        got.extend(thread.join().unwrap());
        assert_eq!(got, [1]);
    });
}

/// A lane full of a withdrawn message: its sender sleeps until the receiver has skipped it.
#[test]
fn loom_the_sender_that_waits_for_a_withdrawn_messages_room_is_woken() {
    explore(3, || {
        let mailbox = Mailbox::new(1, 2);
        let mut writer = mailbox.writer();
        mailbox.send(&mut writer, 1);
        assert!(mailbox.withdraw(nth(&mailbox, 0)));
        let other = mailbox.clone();
        let thread = thread::spawn(move || other.receive(&mut other.claimant(0, false)));
        mailbox.send(&mut writer, 2);
        assert_eq!(thread.join().unwrap(), 2);
    });
}

fn take_one(mailbox: &Mailbox, claimant: &mut Claimant<Model>) {
    let mut hand = Hand::default();
    assert!(claimant.claim_next().unwrap());
    assert_eq!(claimant.take_from_run(&mut hand).unwrap(), Next::Message);
    mailbox.acknowledge(claimant);
}

#[test]
fn loom_a_watcher_is_woken_by_the_acknowledgement() {
    explore(3, || {
        let mailbox = Mailbox::new(1, 8);
        let mut writer = mailbox.writer();
        mailbox.send(&mut writer, 1);
        let other = mailbox.clone();
        let thread = thread::spawn(move || take_one(&other, &mut other.claimant(0, false)));
        mailbox.await_done(nth(&mailbox, 0));
        thread.join().unwrap();
    });
}

/// A ticket's watcher and the sender itself sleep on the same word, and share the word that says so.
#[test]
fn loom_a_watcher_and_a_full_sender_are_both_woken() {
    explore(2, || {
        let mailbox = Mailbox::new(1, 2);
        let mut writer = mailbox.writer();
        mailbox.send(&mut writer, 1);
        let watching = mailbox.clone();
        let watcher = thread::spawn(move || watching.await_done(nth(&watching, 0)));
        let other = mailbox.clone();
        let receiver = thread::spawn(move || take_one(&other, &mut other.claimant(0, false)));
        mailbox.send(&mut writer, 2);
        watcher.join().unwrap();
        receiver.join().unwrap();
    });
}

/// Done is never said of a record that a receiver still holds, though its slot goes on to other records.
///
/// The one that only looks is the spawned thread. Of a word that the other thread loads and then changes, loom
/// remembers the load as the last access; had the looks come first, it would never try them later.
#[test]
fn loom_progress_is_done_only_once_the_record_is_acknowledged() {
    explore(3, || {
        let mailbox = Mailbox::new(1, 8);
        let mut writer = mailbox.writer();
        mailbox.send(&mut writer, 1);
        mailbox.send(&mut writer, 2);
        let acknowledged = Arc::new(crate::sync::AtomicU32::new(0));
        let (watching, count) = (mailbox.clone(), acknowledged.clone());
        let thread = thread::spawn(move || {
            for n in 0..2 {
                if watching.progress(nth(&watching, n)) == Progress::Done {
                    // PAIR(free) lets us see what came before the acknowledgement.
                    assert!(u64::from(count.load(Relaxed)) > n, "message {n} is not done");
                }
            }
        });
        let mut claimant = mailbox.claimant(0, false);
        for message in 1..=2 {
            assert_eq!(mailbox.take(&mut claimant), Some(u64::from(message)));
            acknowledged.store(message, Relaxed);
            mailbox.acknowledge(&mut claimant);
        }
        thread.join().unwrap();
        let last: Position = nth(&mailbox, 1).end();
        assert_eq!(last, writer.0.tail());
    });
}
