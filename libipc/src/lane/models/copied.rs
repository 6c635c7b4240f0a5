//! A receiver copies a run of several messages in one piece, and hands them out from the copy.

use super::withdraw::{check, nth, receive_all};
use super::{Claimant, Hand, Mailbox, Model, Reach, explore};
#[cfg(loom)]
use loom::thread;
#[cfg(not(loom))]
use std::thread;

impl Mailbox {
    fn quick_claimant(&self) -> Claimant<Model> {
        let mut claimant = self.claimant(0, true);
        claimant.set_reach(Reach::alone(false));
        claimant
    }

    /// Receives up to so many messages quickly.
    fn receive_quickly(&self, claimant: &mut Claimant<Model>, max: usize) -> Vec<u64> {
        let (mut hand, mut got) = (Hand::default(), Vec::new());
        while got.len() < max && claimant.take_quickly(&mut hand) {
            got.push(hand.message);
            self.acknowledge(claimant);
        }
        got
    }
}

/// The lane holds two messages: the third is written over the first while the second is yet to be handed out, and the
/// fourth over the second.
#[test]
fn loom_what_was_copied_stays_as_it_was_while_its_room_is_written_anew() {
    explore(3, || {
        let mailbox = Mailbox::new(1, 4);
        let mut writer = mailbox.writer();
        mailbox.send(&mut writer, 1);
        mailbox.send(&mut writer, 2);
        let other = mailbox.clone();
        let thread = thread::spawn(move || {
            let mut claimant = other.quick_claimant();
            let mut got = other.receive_quickly(&mut claimant, 2);
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
        let mailbox = Mailbox::new(1, 8);
        let mut writer = mailbox.writer();
        mailbox.send(&mut writer, 1);
        mailbox.send(&mut writer, 2);
        let other = mailbox.clone();
        let thread = thread::spawn(move || {
            let mut claimant = other.quick_claimant();
            let mut got = other.receive_quickly(&mut claimant, 2);
            got.extend(super::drain(&other, &mut claimant));
            got
        });
        let withdrawn = mailbox.withdraw(nth(&mailbox, 1));
        let mut got = thread.join().unwrap();
        got.extend(receive_all(&mailbox, 0, true));
        check(got, &[(1, false), (2, withdrawn)]);
    });
}
