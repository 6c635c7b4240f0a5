//! Every interleaving of a receiver that looks at many lanes with those who send in them: the order of arrival, and
//! hints that must not be lost.

use std::sync::atomic::AtomicU64 as Clock;

use super::growth::{Chain, Taker};
use super::{LaneWriter, MESSAGE_BYTES, Mailbox, Relaxed, explore, thread};
use crate::lane::hints::{self, Hints};
use crate::lane::order::{LANES_WITHOUT_HINTS, Standing};
use crate::sync::AtomicU64;

/// A clock that goes on with each look. loom sees nothing of it.
fn now() -> u64 {
    static NOW: Clock = Clock::new(1);
    NOW.fetch_add(1, Relaxed)
}

/// Sends one message, with the time, in a lane.
fn send_stamped(chain: &Chain, lane: u16, message: u8) {
    let Mailbox { model, lane: header, roster, cursors, first, .. } =
        chain.lanes[usize::from(lane)].clone();
    let mut writer = LaneWriter::new(model, header, roster, [cursors], lane, first);
    writer.stamp_with(now);
    writer.find_room(2).unwrap();
    writer.publish(&[message; MESSAGE_BYTES]);
}

/// Takes the earliest as a receiver does, looking twice, and acknowledges it.
fn take_earliest(chain: &Chain, taker: &mut Taker) -> Option<u64> {
    let claimant = &mut taker.claimant;
    let mut first = None;
    loop {
        let head = claimant.earliest(None)?;
        if first.is_some_and(|first| head.is_settled_by(&first)) {
            if claimant.claim_head(head).unwrap() {
                break;
            }
            first = None;
        } else {
            first = Some(head);
        }
    }
    let message = chain.mailbox().take(claimant);
    chain.mailbox().acknowledge(claimant);
    message
}

/// One message after the other, in two lanes, the later one in the lane that is looked at last.
#[test]
fn loom_what_arrived_before_another_is_received_before_it() {
    explore(3, || {
        let chain = Chain::new(1, &[Standing::default(); 2]);
        let sender = chain.clone();
        let thread = thread::spawn(move || {
            send_stamped(&sender, 1, 1);
            send_stamped(&sender, 0, 2);
        });
        let mut taker = chain.taker(0);
        assert_eq!(taker.claimant.lanes(), [1, 0]);
        let mut got = Vec::new();
        got.extend(take_earliest(&chain, &mut taker));
        got.extend(take_earliest(&chain, &mut taker));
        thread.join().unwrap();
        while let Some(message) = take_earliest(&chain, &mut taker) {
            got.push(message);
        }
        assert_eq!(got, [1, 2]);
    });
}

/// Another receiver takes what the first look has found, so the second finds something later, and maybe not yet what
/// came before that: then it does not count. (The one that looks is the spawned thread, as in the model of "done".)
#[test]
fn loom_what_arrived_before_another_is_claimed_before_it_by_one_of_two() {
    explore(2, || {
        // The lane that is looked at first gets 2, the next one 3.
        let chain = Chain::new(2, &[Standing::default(); 3]);
        send_stamped(&chain, 0, 1);
        let looking = chain.clone();
        let thread = thread::spawn(move || {
            let mut taker = looking.taker(0);
            let mut got = Vec::new();
            while let Some(message) = take_earliest(&looking, &mut taker) {
                assert!(message != 3 || looking.is_claimed(2), "3 came before 2");
                got.push(message);
            }
            got
        });
        let mut taker = chain.taker(1);
        let mut got = Vec::new();
        got.extend(take_earliest(&chain, &mut taker));
        send_stamped(&chain, 2, 2);
        send_stamped(&chain, 1, 3);
        got.extend(thread.join().unwrap());
        while let Some(message) = take_earliest(&chain, &mut taker) {
            got.push(message);
        }
        got.sort_unstable();
        assert_eq!(got, [1, 2, 3]);
    });
}

/// A receiver finds an old hint of a lane that is empty, and clears it, while a message comes into that lane: it
/// takes the message, or the hint stands again.
#[test]
fn loom_what_comes_while_its_hint_is_cleared_is_not_overlooked() {
    explore(3, || {
        let high = Standing { priority: 1, after: None };
        let chain = Chain::new(1, &[high; LANES_WITHOUT_HINTS + 1]);
        let hints = std::sync::Arc::new([AtomicU64::new(0)]);
        // Not lane 0: that one is looked at unasked, as the last that had its turn.
        hints::give_surely(&*hints, 3);
        let (sender, given) = (chain.clone(), hints.clone());
        let thread = thread::spawn(move || {
            sender.send(3, 7);
            hints::give_surely(&*given, 3);
        });
        let mut taker = chain.taker(0);
        let mut got = Vec::new();
        let mut take = |taker: &mut Taker| {
            let claimant = &mut taker.claimant;
            if claimant.claim_highest(0, [Hints::of_any(&hints[..])].into_iter(), false).unwrap() {
                got.extend(chain.mailbox().take(claimant));
                chain.mailbox().acknowledge(claimant);
            }
        };
        take(&mut taker);
        thread.join().unwrap();
        take(&mut taker);
        assert_eq!(got, [7]);
    });
}
