//! A receiver takes a short message from beside the tail, while the sender may write the next there.

use super::{MESSAGE_BYTES, Mailbox, drain, explore, record_granules};
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
            let mut payload = 0;
            if claimant.take_quickly(&mut payload) {
                got.push(payload);
                mailbox.acknowledge(&mut claimant);
            }
        }
        thread.join().unwrap();
        got.extend(drain(&mailbox, &mut claimant));
        assert_eq!(got, [1, 2, 3]);
    });
}
