//! Receivers take several messages with one claim.

use super::{
    Claimant, Hand, Killed, MESSAGE_BYTES, Mailbox, Model, Reach, Storage, drain, explore,
    lane_is_drained, mend_slot, park, record_granules, slot_is_idle,
};
#[cfg(loom)]
use loom::thread;
#[cfg(not(loom))]
use std::thread;

impl Mailbox {
    /// Takes up to two messages with one claim if there are any, without acknowledging them.
    fn take_batch(&self, claimant: &mut Claimant<Model>) -> Vec<u64> {
        claimant.set_reach(Reach::batch(2, false));
        let mut got = Vec::new();
        if self.take(claimant).is_some() {
            let first = claimant.position_in_hand().expect("a message is in hand");
            claimant.take_more(2, |behind, _, _, _| {
                let at = first.advance(behind);
                let mut hand = Hand::default();
                self.model.copy_out(at, self.model.word(at), &mut hand);
                got.push(hand.message);
            });
        }
        got
    }

    fn acknowledge_batch(&self, claimant: &mut Claimant<Model>, count: usize) {
        claimant.acknowledge_some(count as u64, None).expect("a batch in hand");
        let claim = &self.cursors.claims[0].claim;
        if park::sender_waits(&self.roster.header, &self.lane) {
            park::wake_sender(&self.lane, claim, &self.freed, &self.park);
        }
    }
}

/// Two receivers claim two records at a time, of three that do not fit into the lane together.
#[test]
fn loom_competing_batches_get_each_message_once_and_never_overwritten_in_hand() {
    explore(2, || {
        let mailbox = Mailbox::new(2, 4);
        let mut writer = mailbox.writer();
        writer.0.find_room(record_granules(MESSAGE_BYTES)).unwrap();
        writer.0.append(&[1; MESSAGE_BYTES]);
        mailbox.send(&mut writer, 2);
        let threads = [0, 1].map(|slot| {
            let mailbox = mailbox.clone();
            thread::spawn(move || {
                let mut claimant = mailbox.claimant(slot, false);
                let got = mailbox.take_batch(&mut claimant);
                if !got.is_empty() {
                    mailbox.acknowledge_batch(&mut claimant, got.len());
                }
                got
            })
        });
        mailbox.send(&mut writer, 3);
        let mut got: Vec<_> = threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
        got.extend(drain(&mailbox, &mut mailbox.claimant(0, false)));
        got.sort_unstable();
        assert_eq!(got, [1, 2, 3]);
        assert!(lane_is_drained(&mailbox.cursors, 0, writer.0.tail()));
    });
}

/// A receiver dies at each step of its claim of two records while another takes batches too.
#[test]
fn loom_a_death_at_any_step_of_a_batch_loses_and_doubles_nothing() {
    for checkpoint in 1..=2 {
        explore(2, move || {
            let mailbox = Mailbox::new(2, 8);
            let mut writer = mailbox.writer();
            for message in 1..=3 {
                mailbox.send(&mut writer, message);
            }
            let doomed = mailbox.clone();
            let thread = thread::spawn(move || {
                let storage = doomed.model.deadly(checkpoint);
                let mut claimant = doomed.claimant_over(storage, 1, false);
                let life = std::panic::AssertUnwindSafe(|| drop(doomed.take_batch(&mut claimant)));
                if let Err(cause) = std::panic::catch_unwind(life)
                    && !cause.is::<Killed>()
                {
                    std::panic::resume_unwind(cause);
                }
            });
            let mut claimant = mailbox.claimant(0, false);
            let mut got = mailbox.take_batch(&mut claimant);
            if !got.is_empty() {
                mailbox.acknowledge_batch(&mut claimant, got.len());
            }
            thread.join().unwrap();
            mend_slot(&mailbox.cursors, 1);
            got.extend(drain(&mailbox, &mut claimant));
            got.sort_unstable();
            assert_eq!(got, [1, 2, 3], "death at checkpoint {checkpoint}");
            assert!(slot_is_idle(&mailbox.cursors, 1));
        });
    }
}
