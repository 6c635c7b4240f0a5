//! Every interleaving of `ipcd` that frees records of a dead receiver, or tidies up, with those who go on meanwhile.
//!
//! What `ipcd` does besides is done here in its place ([`bury`]); all else is the code that ships.

use super::{
    Arc, Claimant, MESSAGE_BYTES, Mailbox, Mended, Model, Reach, Relaxed, Release, SlotState,
    Writer, drain, explore, get_cell, lane_is_drained, mend_slot, slot_is_idle, thread,
};
use crate::lane::fate::{self, Fate};
use crate::lane::park;
use crate::lane::record::Storage;
use crate::lane::repair::{Held, free_first, held_by_gone};
use crate::lane::tidy::tidy;
use crate::lane::withdraw::Record;
use crate::sync::AtomicU8;

/// The slot of the dead receiver.
const DEAD: u16 = 1;

/// Frees the first record of what the dead one holds, as where it is among the dead letters: returns its payload.
fn bury(mailbox: &Mailbox, held: &Held) -> u64 {
    let header = mailbox.model.header(held.from);
    let at = mailbox.model.index(held.from.advance(1));
    let payload = get_cell(&mailbox.model.cells.payloads[at]);
    let next = held.from.advance(header.granules());
    free_first(&mailbox.cursors, DEAD, held, next, true);
    park::ring(&mailbox.freed, u32::MAX, &mailbox.park);
    payload
}

/// Takes and acknowledges whatever there is, which nobody was handed out before.
fn receive_fresh(mailbox: &Mailbox, claimant: &mut Claimant<Model>) -> Vec<u64> {
    let mut got = Vec::new();
    while let Some(message) = mailbox.take(claimant) {
        let attempts = claimant.in_hand().map(|taken| taken.attempts);
        assert_eq!(attempts, Some(0), "{message} was never handed out");
        mailbox.acknowledge(claimant);
        got.push(message);
    }
    got
}

/// A lane in which a receiver has died with two records, the first of them in hand.
fn with_a_death(granules: usize) -> (Mailbox, Writer) {
    let mailbox = Mailbox::new(2, granules);
    let mut writer = mailbox.writer();
    mailbox.send(&mut writer, 1);
    mailbox.send(&mut writer, 2);
    let mut doomed = mailbox.claimant(DEAD, false);
    doomed.set_reach(Reach::batch(2, false));
    assert_eq!(mailbox.take(&mut doomed), Some(1));
    (mailbox, writer)
}

/// What `ipcd` does then: the first is a dead letter, the other, which was never handed out, is offered.
fn repair(mailbox: &Mailbox) {
    let held = held_by_gone(&mailbox.cursors, DEAD).expect("it had won two");
    assert_eq!(held.hand_outs, 1);
    assert_eq!(bury(mailbox, &held), 1);
    let rest = held_by_gone(&mailbox.cursors, DEAD).expect("one is left");
    assert_eq!(rest.hand_outs, 0, "it was never handed out");
    assert_eq!(mend_slot(&mailbox.cursors, DEAD), Mended::Offered);
}

/// Afterwards the living receive what is left, and that is all.
fn check_rest(mailbox: &Mailbox, writer: &Writer, mut got: Vec<u64>, expected: &[u64]) {
    got.extend(receive_fresh(mailbox, &mut mailbox.claimant(0, false)));
    got.sort_unstable();
    assert_eq!(got, expected);
    assert!(slot_is_idle(&mailbox.cursors, DEAD));
    assert!(lane_is_drained(&mailbox.cursors, 0, writer.0.tail()));
}

/// Another receiver goes on in the lane meanwhile: what is left is received once, as what nobody had.
#[test]
fn loom_the_rest_behind_a_dead_letter_is_received_once() {
    explore(3, || {
        let (mailbox, mut writer) = with_a_death(8);
        mailbox.send(&mut writer, 3);
        let daemon = mailbox.clone();
        let daemon = thread::spawn(move || repair(&daemon));
        let got = receive_fresh(&mailbox, &mut mailbox.claimant(0, false));
        daemon.join().unwrap();
        check_rest(&mailbox, &writer, got, &[2, 3]);
    });
}

/// The lane is full, and its sender waits for the room of the first record: that alone it gets.
#[test]
fn loom_the_room_of_a_dead_letter_is_its_senders_again() {
    explore(3, || {
        let (mailbox, mut writer) = with_a_death(4);
        let daemon = mailbox.clone();
        let daemon = thread::spawn(move || repair(&daemon));
        mailbox.send(&mut writer, 3);
        daemon.join().unwrap();
        check_rest(&mailbox, &writer, Vec::new(), &[2, 3]);
    });
}

/// Both at once.
#[test]
fn loom_a_dead_letter_a_full_sender_and_another_receiver_agree() {
    explore(1, || {
        let (mailbox, mut writer) = with_a_death(8);
        // As long as the two together: the lane is full.
        writer.0.find_room(4).unwrap();
        writer.0.publish(&[3; 48]);
        let (daemon, other) = (mailbox.clone(), mailbox.clone());
        let daemon = thread::spawn(move || repair(&daemon));
        let receiver = thread::spawn(move || receive_fresh(&other, &mut other.claimant(0, false)));
        mailbox.send(&mut writer, 4);
        daemon.join().unwrap();
        let got = receiver.join().unwrap();
        check_rest(&mailbox, &writer, got, &[2, 3, 4]);
    });
}

/// Whoever sees that a record is done sees its fate.
#[test]
fn loom_the_fate_of_a_dead_letter_is_seen_with_its_end() {
    explore(3, || {
        let mailbox = Mailbox::new(2, 8);
        let mut writer = mailbox.writer();
        mailbox.send(&mut writer, 1);
        assert_eq!(mailbox.take(&mut mailbox.claimant(DEAD, false)), Some(1));
        let fates: Arc<Vec<_>> = Arc::new((0..8).map(|_| AtomicU8::new(0)).collect());
        let (daemon, written) = (mailbox.clone(), fates.clone());
        let daemon = thread::spawn(move || {
            let held = held_by_gone(&daemon.cursors, DEAD).expect("it had won one");
            let index = fate::index(held.from, written.len());
            written[index].store(Fate::DeadLettered as u8, Relaxed);
            // PAIR(fate): Release here, as in `ipcd`.
            daemon.roster.lanes[0].fates.fetch_add(1, Release);
            bury(&daemon, &held);
        });
        mailbox.await_done(Record::message(mailbox.first, MESSAGE_BYTES));
        let fate = fate::read(&mailbox.roster.lanes[0], &fates, mailbox.first);
        assert_eq!(fate, Some(Fate::DeadLettered), "taken for acknowledged, or not seen");
        daemon.join().unwrap();
    });
}

/// `ipcd` tidies up while a receiver returns what it has, and puts it aside to take more: none of that is touched.
#[test]
fn loom_what_is_returned_and_put_aside_is_left_alone_by_who_tidies_up() {
    explore(3, || {
        let mailbox = Mailbox::new(2, 8);
        let mut writer = mailbox.writer();
        mailbox.send(&mut writer, 1);
        mailbox.send(&mut writer, 2);
        let tidier = mailbox.clone();
        let mut claimant = mailbox.claimant(0, false);
        assert_eq!(mailbox.take(&mut claimant), Some(1));
        let thread = thread::spawn(move || {
            tidy(&tidier.cursors, |_| SlotState::Active, |lane| (lane == 0).then_some(8))
        });
        claimant.return_to_queue();
        let mut got = Vec::new();
        if claimant.put_aside() && claimant.claim_next().unwrap() {
            got.push(mailbox.take(&mut claimant).unwrap());
            mailbox.acknowledge(&mut claimant);
        }
        assert_eq!(thread.join().unwrap().lost, 0);
        drop(claimant);
        got.extend(drain(&mailbox, &mut mailbox.claimant(1, false)));
        got.sort_unstable();
        assert_eq!(got, [1, 2]);
        assert!(lane_is_drained(&mailbox.cursors, 0, writer.0.tail()));
    });
}
