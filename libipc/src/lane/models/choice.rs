//! Every interleaving of those who take turns, and of what a receiver puts aside.

use super::{
    Acquire, Arc, AtomicU32, Killed, Mailbox, Next, Relaxed, drain, explore, lane_is_drained,
    mend_slot, thread,
};
use crate::lane::park::{self, Park};
use crate::lane::turn;

/// One receives at a time: both get the turn, never at once, and nobody sleeps for ever.
#[test]
fn loom_both_get_the_turn_and_never_at_once() {
    explore(3, || {
        let mailbox = Mailbox::new(2, 2);
        let words: [Arc<AtomicU32>; 2] = std::array::from_fn(|_| Arc::default());
        let inside = Arc::new(AtomicU32::new(0));
        let receive =
            |mailbox: Mailbox, words: [Arc<AtomicU32>; 2], inside: Arc<AtomicU32>, slot: u16| {
                let wake = |next: Option<u16>| {
                    if let Some(next) = next {
                        park::ring(&words[usize::from(next)], u32::MAX, &mailbox.park);
                    }
                };
                turn::join(&mailbox.cursors, slot);
                loop {
                    let word = &words[usize::from(slot)];
                    let seen = word.load(Acquire);
                    match turn::advance(&mailbox.cursors, 2, slot) {
                        turn::Next::Receive => break,
                        turn::Next::Wake(first) => wake(Some(first)),
                        turn::Next::Wait => {}
                    }
                    mailbox.park.wait(&[(word, seen)], None);
                }
                assert_eq!(inside.fetch_add(1, Relaxed), 0, "two receive at once");
                inside.fetch_sub(1, Relaxed);
                wake(turn::release(&mailbox.cursors, 2));
            };
        let (other, theirs, within) = (mailbox.clone(), words.clone(), inside.clone());
        let thread = thread::spawn(move || receive(other, theirs, within, 1));
        receive(mailbox, words, inside, 0);
        thread.join().unwrap();
    });
}

/// A receiver returns what it has in hand and puts it aside to take more, and dies at any step; another one
/// takes over what is offered meanwhile. Afterwards everything is there exactly once.
#[test]
fn loom_what_is_put_aside_is_neither_lost_nor_doubled() {
    for steps in 0..=3 {
        explore(2, move || {
            let mailbox = Mailbox::new(2, 8);
            let mut writer = mailbox.writer();
            mailbox.send(&mut writer, 1);
            mailbox.send(&mut writer, 2);
            let other = mailbox.clone();
            let thread = thread::spawn(move || {
                let mut claimant = other.claimant(1, false);
                let mut got = Vec::new();
                if claimant.anything_offered() && claimant.take_over() {
                    let mut payload = 0;
                    assert_eq!(claimant.take_from_run(&mut payload), Ok(Next::Message));
                    other.acknowledge(&mut claimant);
                    got.push(payload);
                }
                got
            });
            let mut claimant = mailbox.claimant_over(mailbox.model.deadly(steps + 3), 0, false);
            let mut got = Vec::new();
            let life = std::panic::AssertUnwindSafe(|| {
                assert_eq!(mailbox.take(&mut claimant), Some(1));
                claimant.return_to_queue();
                if claimant.put_aside() && claimant.claim_next().unwrap() {
                    let mut payload = 0;
                    assert_eq!(claimant.take_from_run(&mut payload), Ok(Next::Message));
                    mailbox.acknowledge(&mut claimant);
                    got.push(payload);
                }
            });
            if let Err(cause) = std::panic::catch_unwind(life)
                && !cause.is::<Killed>()
            {
                std::panic::resume_unwind(cause);
            }
            got.extend(thread.join().unwrap());
            mend_slot(&mailbox.cursors, 0);
            got.extend(drain(&mailbox, &mut mailbox.claimant(1, false)));
            got.sort_unstable();
            assert_eq!(got, [1, 2], "death at step {steps}");
            assert!(lane_is_drained(&mailbox.cursors, 0, writer.0.tail()));
        });
    }
}
