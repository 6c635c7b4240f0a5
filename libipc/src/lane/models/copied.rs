//! A receiver copies a run of several messages in one piece, and hands them out from the copy.

use super::withdraw::{check, nth, receive_all};
use super::{Claimant, Hand, Mailbox, Model, Reach, Writer, drain, explore};
#[cfg(loom)]
use loom::thread;
#[cfg(not(loom))]
use std::thread;

impl Mailbox {
    /// A mailbox with two messages in it.
    fn of_two(granules: usize) -> (Self, Writer) {
        let mailbox = Self::new(1, granules);
        let mut writer = mailbox.writer();
        mailbox.send(&mut writer, 1);
        mailbox.send(&mut writer, 2);
        (mailbox, writer)
    }

    /// Receives up to two messages quickly, as the only receiver, which is returned.
    fn receive_run(&self) -> (Claimant<Model>, Vec<u64>) {
        let mut claimant = self.claimant(0, true);
        claimant.set_reach(Reach::alone(false));
        let (mut hand, mut got) = (Hand::default(), Vec::new());
        while got.len() < 2 && claimant.take_quickly(&mut hand) {
            got.push(hand.message);
            self.acknowledge(&mut claimant);
        }
        (claimant, got)
    }
}

/// The lane holds two messages: the third is written over the first while the second is yet to be handed out, and the
/// fourth over the second.
#[test]
fn loom_what_was_copied_stays_as_it_was_while_its_room_is_written_anew() {
    explore(3, || {
        let (mailbox, mut writer) = Mailbox::of_two(4);
        let other = mailbox.clone();
        let thread = thread::spawn(move || {
            let (mut claimant, mut got) = other.receive_run();
            while got.len() < 4 {
                got.push(other.receive(&mut claimant));
            }
            got
        });
        mailbox.send(&mut writer, 3);
        mailbox.send(&mut writer, 4);
        assert_eq!(thread.join().unwrap(), [1, 2, 3, 4]);
    });
}

/// The second message of a run is wanted back, before it is claimed or behind that.
#[test]
fn loom_a_message_is_withdrawn_or_received_out_of_a_copied_run() {
    explore(3, || {
        let (mailbox, _writer) = Mailbox::of_two(8);
        let other = mailbox.clone();
        let thread = thread::spawn(move || {
            let (mut claimant, mut got) = other.receive_run();
            got.extend(drain(&other, &mut claimant));
            got
        });
        let withdrawn = mailbox.withdraw(nth(&mailbox, 1));
        let mut got = thread.join().unwrap();
        got.extend(receive_all(&mailbox, 0, true));
        check(got, &[(1, false), (2, withdrawn)]);
    });
}
