//! What a receiver does for a message with which nothing is to be seen to. Every instruction counts here, and whatever is
//! not plain is left to the thorough ways in [`super::claim`].
//!
//! A run of several messages is copied out in one piece, behind the claim, and handed out from the copy: so a message of it
//! costs little more than the look at its length and the store that acknowledges it.

use crate::lane::claim::{Claimant, TURN_RECORDS};
use crate::lane::layout::Claim;
use crate::lane::position::Position;
use crate::lane::reader::LaneReader;
use crate::lane::record::Storage;
use crate::sync::Ordering::{Acquire, Relaxed};
use crate::sync::overwrite;

/// Lanes that a receiver glances at before it looks.
const LANES_GLANCED_AT: usize = 4;

impl<S: Storage> Claimant<S> {
    /// Takes the next message of the run in hand, or claims of the lane whose turn it is, if nothing is
    /// offered. False says only that it did not: the thorough calls tell why.
    #[inline(always)]
    pub fn take_quickly(&mut self, into: &mut S::Payload) -> bool {
        if self.run.is_copied() && self.show_copied(into) {
            return true;
        }
        if self.run.is_over() {
            return self.claim_and_take(into);
        }
        self.take_claimed(into)
    }

    #[inline(never)]
    fn claim_and_take(&mut self, into: &mut S::Payload) -> bool {
        if !self.claim_quickly() {
            return false;
        }
        if !self.run.beside.is_nothing() && self.copy_beside(into) {
            return true;
        }
        self.take_claimed(into)
    }

    /// Takes the next message of a run in its lane, or of all that is left of it a copy, and from there.
    #[inline(always)]
    fn take_claimed(&mut self, into: &mut S::Payload) -> bool {
        self.run.several && self.copy_run(into) || self.copy_unmarked(into)
    }

    /// Hands out the next message of a run that was copied, if nothing is to be asked about it.
    #[inline(always)]
    fn show_copied(&mut self, into: &mut S::Payload) -> bool {
        // PAIR(withdraw): the word was read behind the claim and its barrier.
        let shown = S::show_copied(self.run.granules_ahead(), into);
        if let Some((word, granules)) = shown {
            self.run.step_over_granules(word, granules);
        }
        shown.is_some()
    }

    /// What is left of a run is handed out from its lane, though it was copied.
    pub fn forget_copy(&mut self) {
        self.run.forget_copy();
    }

    /// Copies out a run of several messages, and hands out the first.
    #[inline(never)]
    fn copy_run(&mut self, into: &mut S::Payload) -> bool {
        self.run.several = false;
        let Some(Some(lane)) = self.lanes.get(usize::from(self.run.lane)) else { return false };
        let (at, granules) = (self.run.next_to_hand_out(), self.run.granules_ahead());
        // PAIR(withdraw): the marks are read behind the claim and its barrier.
        let copied = lane.storage.copy_run(at, granules, into);
        if copied {
            self.run.note_copied();
        }
        copied && self.show_copied(into)
    }

    /// Copies out the only record of a run from beside the tail, where it was found, if it stands there still: it is in hand
    /// then.
    #[inline(always)]
    pub(super) fn copy_beside(&mut self, into: &mut S::Payload) -> bool {
        let found = std::mem::take(&mut self.run.beside);
        let Some(Some(lane)) = self.lanes.get_mut(usize::from(self.run.lane)) else { return false };
        // PAIR(withdraw): looked at behind the claim and its barrier.
        let copied = lane.copy_beside(found, into);
        if copied {
            self.run.step_over(found.word());
        }
        copied
    }

    /// Copies out the record at the run's beginning, if it is what a record can be and nothing is to be
    /// asked about it.
    #[inline(always)]
    fn copy_unmarked(&mut self, into: &mut S::Payload) -> bool {
        let Some(Some(lane)) = self.lanes.get(usize::from(self.run.lane)) else { return false };
        let at = self.run.next_to_hand_out();
        // PAIR(withdraw): the word was read behind the claim and its barrier.
        let word = lane.storage.word(at);
        let Some(granules) = word.plain_granules() else { return self.copy_unmarked_slowly(into) };
        let fits = granules <= self.run.granules_ahead();
        if fits {
            lane.storage.copy_message_out(at, word, granules, into);
            self.run.step_over_granules(word, granules);
        }
        fits
    }

    /// The same where there is a stamp, or a call's number, or a mark.
    #[inline(never)]
    fn copy_unmarked_slowly(&mut self, into: &mut S::Payload) -> bool {
        let Some(Some(lane)) = self.lanes.get(usize::from(self.run.lane)) else { return false };
        let at = self.run.next_to_hand_out();
        let Some(word) = self.run.hand_out_unmarked(&lane.storage) else { return false };
        lane.storage.copy_out(at, word, into);
        true
    }

    #[inline(always)]
    fn claim_quickly(&mut self) -> bool {
        let Some(&lane) = self.order.get(self.turn) else { return false };
        let turn_is_over = self.turn_records >= TURN_RECORDS && self.order.len() > 1;
        if turn_is_over || self.returned || self.anything_offered() {
            return false;
        }
        self.claim_if(lane, |_| true).unwrap_or_else(|malformed| {
            self.unreported = Some(malformed);
            false
        })
    }

    /// Whether a look would find nothing: neither more in a lane than was seen, all of which is claimed, nor an offer. Says
    /// so of few lanes only.
    #[inline]
    pub fn is_quiet(&self) -> bool {
        let idle = self.run.is_over() && !self.returned && self.unreported.is_none();
        idle && self.order.len() <= LANES_GLANCED_AT
            && !self.anything_offered()
            && self.order.iter().all(|&lane| self.has_nothing_new(lane))
    }

    #[inline]
    fn has_nothing_new(&self, index: u16) -> bool {
        let Some(Some(lane)) = self.lanes.get(usize::from(index)) else { return false };
        if !lane.lag.is_none() {
            // Not to be looked at in passing.
            return false;
        }
        // PAIR(claim): Acquire.
        let word = self.cursors.claims[usize::from(index)].claim.load(Acquire);
        // PAIR(publish): Acquire here, Release in `ring::LaneWriter::publish`.
        let tail = Position::new(lane.header.tail.load(Acquire));
        lane.expect_news(tail);
        lane.open && tail == lane.tail && Claim::from_word(word).position == tail
    }

    /// Does what [`Self::acknowledge`] does, and less, for a message in hand that nobody has had in hand before, unless told
    /// not to; nothing with any other.
    #[inline(always)]
    pub fn acknowledge_quickly(&mut self, may: bool) -> Option<&LaneReader<S>> {
        if !may || self.run.attempts != 0 {
            return None;
        }
        debug_assert!(self.run.has_in_hand(), "what is acknowledged is in hand");
        // Here, where nothing has been done yet if there is none.
        let lane = self.lanes.get(usize::from(self.run.lane))?.as_deref()?;
        let hold = self.run.acknowledge();
        let received = self.received.wrapping_add(1);
        self.received = received;
        // Relaxed: a counter for people.
        self.mine.received.store(received, Relaxed);
        // PAIR(free): as in `free`.
        overwrite(&self.mine.hold, hold);
        Some(lane)
    }
}
