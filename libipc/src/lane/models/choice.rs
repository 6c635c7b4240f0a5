//! Every interleaving of those who take turns, and of what a receiver puts aside.
//!
//! Each of these changes to the turn was made on purpose once, and the models caught it: either fence left out, the
//! first in line not woken by another in line, a leaver that wakes nobody, a dead one's place in line or its turn kept (asleep for
//! ever); the turn taken by load and store (two at once); the turn taken or given up Relaxed (what one has done not
//! seen by the next); the mark before the number left out or not looked at, the number taken without
//! Release (a later number first). `docs/ordering.md` says which steps could be weaker.

use super::{
    Acquire, Arc, AtomicU32, Hand, Killed, Mailbox, Next, Relaxed, UnsafeCell, drain, explore,
    lane_is_drained, mend_slot, set_cell, thread,
};
use crate::lane::park::{self, Park};
use crate::lane::repair::leave_line;
use crate::lane::turn;

/// Two receivers, where one receives at a time.
#[derive(Clone)]
struct Line {
    mailbox: Mailbox,
    words: [Arc<AtomicU32>; 2],
    /// Written by whoever has the turn: loom sees whether it was handed on properly.
    inside: Arc<UnsafeCell<u64>>,
    /// The last number that had the turn. loom sees nothing of it.
    served: Arc<std::sync::Mutex<u64>>,
}

impl Line {
    fn new() -> Self {
        let words = std::array::from_fn(|_| Arc::default());
        let (inside, served) = (Arc::new(UnsafeCell::new(0)), Arc::default());
        Self { mailbox: Mailbox::new(2, 2), words, inside, served }
    }

    fn wake(&self, next: Option<u16>) {
        if let Some(next) = next {
            park::ring(&self.words[usize::from(next)], u32::MAX, &self.mailbox.park);
        }
    }

    /// Joins; returns the number.
    fn join(&self, slot: u16) -> u64 {
        turn::join(&self.mailbox.cursors, slot);
        self.mailbox.cursors.slots[usize::from(slot)].in_line.load(Relaxed)
    }

    /// Has the turn, but does not give it up.
    fn be_inside(&self, number: u64) {
        let before = std::mem::replace(&mut *self.served.lock().unwrap(), number);
        assert!(before < number, "{number} came too late");
        set_cell(&self.inside, number);
    }

    fn receive(&self, slot: u16) {
        let number = self.join(slot);
        loop {
            let word = &self.words[usize::from(slot)];
            let seen = word.load(Acquire);
            match turn::advance(&self.mailbox.cursors, 2, slot) {
                turn::Next::Receive => break,
                turn::Next::Wake(first) => self.wake(Some(first)),
                turn::Next::Wait => {}
            }
            self.mailbox.park.wait(&[(word, seen)], None);
        }
        self.be_inside(number);
        self.wake(turn::release(&self.mailbox.cursors, 2));
    }

    /// One receives, while another does something else.
    fn explore(beside: impl Fn(&Self) + Copy + Send + Sync + 'static) {
        explore(3, move || {
            let line = Self::new();
            let other = line.clone();
            let thread = thread::spawn(move || other.receive(1));
            beside(&line);
            thread.join().unwrap();
        });
    }
}

/// One receives at a time, in the order of the line: both get the turn, never at once, and nobody sleeps for ever.
#[test]
fn loom_both_get_the_turn_in_order_and_never_at_once() {
    Line::explore(|line| line.receive(0));
}

#[test]
fn loom_who_leaves_the_line_lets_the_next_come() {
    Line::explore(|line| {
        let number = line.join(0);
        let cursors = &line.mailbox.cursors;
        if turn::advance(cursors, 2, 0) == turn::Next::Receive {
            line.be_inside(number);
            line.wake(turn::release(cursors, 2));
        } else {
            line.wake(turn::leave(cursors, 2, 0));
        }
    });
}

/// Who finds nobody in line takes the turn at once, and whoever comes meanwhile waits for it.
#[test]
fn loom_the_turn_that_is_taken_at_once_is_one_s_own() {
    Line::explore(|line| {
        let cursors = &line.mailbox.cursors;
        if turn::try_take(cursors, 2, 0) {
            set_cell(&line.inside, 0);
            line.wake(turn::release(cursors, 2));
        }
    });
}

/// A death in line, or with the turn, holds nobody up once `ipcd` has seen to it, which wakes all.
#[test]
fn loom_a_death_in_line_or_with_the_turn_lets_the_next_come() {
    Line::explore(|line| {
        let number = line.join(0);
        let cursors = &line.mailbox.cursors;
        if turn::advance(cursors, 2, 0) == turn::Next::Receive {
            line.be_inside(number);
        }
        leave_line(cursors, 0);
        line.wake(Some(1));
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
                    let mut hand = Hand::default();
                    assert_eq!(claimant.take_from_run(&mut hand), Ok(Next::Message));
                    other.acknowledge(&mut claimant);
                    got.push(hand.message);
                }
                got
            });
            let mut claimant = mailbox.claimant_over(mailbox.model.deadly(steps + 3), 0, false);
            let mut got = Vec::new();
            let life = std::panic::AssertUnwindSafe(|| {
                assert_eq!(mailbox.take(&mut claimant), Some(1));
                claimant.return_to_queue();
                if claimant.put_aside() && claimant.claim_next().unwrap() {
                    let mut hand = Hand::default();
                    assert_eq!(claimant.take_from_run(&mut hand), Ok(Next::Message));
                    mailbox.acknowledge(&mut claimant);
                    got.push(hand.message);
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

/// In the order of arrival, too, a receiver claims nothing new while another one is just taking over what it has
/// returned, for the hold of that still stands in its slot. (Claiming all the same lost that one: a fuzzer found it.)
#[test]
fn loom_by_arrival_nothing_is_claimed_over_what_was_returned() {
    explore(2, || {
        let mailbox = Mailbox::new(2, 8);
        let mut writer = mailbox.writer();
        mailbox.send(&mut writer, 1);
        mailbox.send(&mut writer, 2);
        let other = mailbox.clone();
        let mut claimant = mailbox.claimant(0, false);
        claimant.set_by_arrival();
        assert_eq!(mailbox.take(&mut claimant), Some(1));
        claimant.return_to_queue();
        let thread = thread::spawn(move || {
            let mut claimant = other.claimant(1, false);
            let mut got = Vec::new();
            if claimant.take_over() {
                got.push(other.take(&mut claimant).unwrap());
                other.acknowledge(&mut claimant);
            }
            got
        });
        let mut got = Vec::new();
        let head = claimant.earliest(None);
        if claimant.take_over() || head.is_some_and(|head| claimant.claim_head(head).unwrap()) {
            got.push(mailbox.take(&mut claimant).unwrap());
            mailbox.acknowledge(&mut claimant);
        }
        got.extend(thread.join().unwrap());
        got.extend(drain(&mailbox, &mut mailbox.claimant(1, false)));
        got.sort_unstable();
        assert_eq!(got, [1, 2]);
        assert!(lane_is_drained(&mailbox.cursors, 0, writer.0.tail()));
    });
}
