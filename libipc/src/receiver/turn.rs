//! Receiving where one receives at a time: the line and the turn, round each call.

use std::time::Instant;

use super::Receiver;
use crate::error::{ReceiveError, TryReceiveError};
use crate::lane::park::{self, Woke};
use crate::lane::turn::{self, Next};
use crate::protocol::Receivers;
use crate::sync::AtomicU32;
use crate::sync::Ordering::Acquire;
use crate::sys::futex::Futex;

impl Receiver {
    /// Whether one receives at a time.
    pub(crate) fn takes_turns(&self) -> bool {
        self.attributes.receivers == Receivers::Exclusive
    }

    /// Takes the turn if it is free and nobody waits for it.
    pub(super) fn try_turn(&mut self) -> Result<bool, TryReceiveError> {
        self.check()?;
        let (cursors, slot) = (self.claimant.cursors(), self.claimant.slot());
        Ok(turn::try_take(cursors, self.receivers_high(), slot))
    }

    /// Stands in line until it is this receiver's turn.
    pub(super) fn await_turn(&mut self, deadline: Option<Instant>) -> Result<(), ReceiveError> {
        self.check().map_err(super::wait::without_empty)?;
        let slot = self.claimant.slot();
        turn::join(self.claimant.cursors(), slot);
        loop {
            self.ask_for_daemon();
            // The words before the look: whoever wakes us after it changes one of them.
            let words = self.words_in_line();
            let words: Vec<_> = words.iter().map(|&word| (word, word.load(Acquire))).collect();
            match turn::advance(self.claimant.cursors(), self.receivers_high(), slot) {
                Next::Receive => return Ok(()),
                Next::Wake(first) => self.wake_in_line(Some(first)),
                Next::Wait => {}
            }
            let at_most = self.lifeline.bound(park::among_strangers(&self.roster.header));
            let lost = self.lifeline.is_lost();
            let changed = self.roster.header.changes.load(Acquire) != self.seen_changes;
            let woke = if changed || lost {
                Woke::Perhaps
            } else {
                park::bounded_wait(&words, deadline, at_most, &Futex)
            };
            drop(words);
            let over = match self.check() {
                Err(error) => super::wait::without_empty(error),
                Ok(()) if lost => ReceiveError::DaemonAway,
                Ok(()) if woke == Woke::TimedOut => ReceiveError::TimedOut,
                Ok(()) => continue,
            };
            if self.has_slot() {
                let next = turn::leave(self.claimant.cursors(), self.receivers_high(), slot);
                self.wake_in_line(next);
            }
            return Err(over);
        }
    }

    /// Gives the turn to the next in line.
    pub(super) fn pass_the_turn(&self) {
        if !self.has_slot() {
            // The daemon has given it to the next.
            return;
        }
        let next = turn::release(self.claimant.cursors(), self.receivers_high());
        self.wake_in_line(next);
    }

    /// The words on which this receiver sleeps in line: its own, and the bell that `ipcd` rings when the
    /// mailbox changes. No sender maps either.
    fn words_in_line(&self) -> Vec<&AtomicU32> {
        let place = self.place_in_line(self.claimant.slot());
        let words =
            self.neighbours.home().map(|home| [home.freed.get(place), Some(self.bell(home))]);
        words.into_iter().flatten().flatten().collect()
    }

    /// Where a slot of this group stands among those of all groups.
    pub(super) fn place_in_line(&self, slot: u16) -> usize {
        self.group * usize::from(self.attributes.receivers_max) + usize::from(slot)
    }

    fn wake_in_line(&self, slot: Option<u16>) {
        let place = slot.map(|slot| self.place_in_line(slot));
        if let (Some(place), Some(home)) = (place, self.neighbours.home())
            && let Some(word) = home.freed.get(place)
        {
            park::ring(word, 1, &Futex);
        }
    }

    fn receivers_high(&self) -> usize {
        // PAIR(slots): Acquire here, Release where `ipcd` gives a slot out.
        self.roster.header.groups[self.group].receivers_high.load(Acquire) as usize
    }
}
