//! A receiver takes a short message from beside the tail, while the sender may write the next there.

use super::withdraw::{check, nth, receive_all};
use super::{Hand, MESSAGE_BYTES, Mailbox, drain, explore, record_granules};
#[cfg(loom)]
use loom::thread;
#[cfg(not(loom))]
use std::thread;

/// Messages come one after the other, each found beside the tail, or, where the next was being written there, in its
/// place.
#[test]
fn loom_a_message_beside_the_tail_is_that_of_its_position_and_whole() {
    explore(3, || {
        let mailbox = Mailbox::new(1, 8);
        let sender = mailbox.clone();
        let thread = thread::spawn(move || {
            let (mut writer, _) = sender.writer();
            writer.find_room(3 * record_granules(MESSAGE_BYTES)).unwrap();
            for message in 1..=3 {
                assert!(writer.publish_plainly(&[message; MESSAGE_BYTES]));
            }
        });
        let mut claimant = mailbox.claimant(0, false);
        let mut got = Vec::new();
        for _ in 0..2 {
            let mut hand = Hand::default();
            if claimant.take_quickly(&mut hand) {
                got.push(hand.message);
                mailbox.acknowledge(&mut claimant);
            }
        }
        thread.join().unwrap();
        got.extend(drain(&mailbox, &mut claimant));
        assert_eq!(got, [1, 2, 3]);
    });
}

fn withdrawn_or_received(receivers: usize) {
    explore(2, move || {
        let mailbox = Mailbox::new(receivers, 8);
        let (mut writer, _) = mailbox.writer();
        writer.find_room(2 * record_granules(MESSAGE_BYTES)).unwrap();
        writer.publish(&[1; MESSAGE_BYTES]);
        let threads: Vec<_> = (0..receivers as u16)
            .map(|slot| {
                let mailbox = mailbox.clone();
                thread::spawn(move || receive_all(&mailbox, slot, receivers == 1))
            })
            .collect();
        let withdrawn = mailbox.withdraw(nth(&mailbox, 0));
        // In the place of the first, whoever may still be reading that.
        writer.publish(&[2; MESSAGE_BYTES]);
        let mut got: Vec<_> = threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
        got.extend(receive_all(&mailbox, 0, receivers == 1));
        check(got, &[(1, withdrawn), (2, false)]);
    });
}

#[test]
fn loom_a_message_beside_the_tail_is_withdrawn_or_received_by_the_only_receiver() {
    withdrawn_or_received(1);
}

#[test]
fn loom_a_message_beside_the_tail_is_withdrawn_or_received_by_one_of_two() {
    withdrawn_or_received(2);
}
