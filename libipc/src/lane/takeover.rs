//! How a receiver takes over what others offer, and puts aside what it cannot hand out now.
//!
//! An offer lies in a slot: a hold, and the slot's bit in `offered`. Besides the receivers' there are spare slots.
//! Where a receiver is to take from another lane than the one of which it still holds something, it moves
//! what it holds to a spare slot, offered there to itself as to all others:
//!
//! ```text
//! CAS its taker 0 -> me, and it is empty     it is mine to fill
//! its attempts, end = mine, its offered bit
//! its hold = mine
//! my hold = idle, its taker = 0
//! ```
//!
//! Killed in between, [`super::repair`] finds what it finds when a takeover is cut short: the offer stands and
//! the copy goes, or there was no offer yet. While no spare slot is empty a receiver takes over a record at a
//! time, so nothing is left over.

use crate::lane::claim::Claimant;
use crate::lane::layout::{Claim, Hold, Marked};
use crate::lane::park::slot_bit;
use crate::lane::position::{Position, granules_of};
use crate::lane::record::Storage;
use crate::lane::repair::{is_offered, slot_is_idle};
use crate::lane::run::Run;
use crate::regions::{Cursors, Roster};
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crate::sync::overwrite;

/// How much of what is offered is taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Share {
    All,
    First,
}

/// Whether an offered run can be true: inside what its lane of so many granules has room for, before its claim.
fn is_plausible(cursors: &Cursors, hold: Hold, end: Position, capacity: u64) -> bool {
    let len = end.since(hold.position);
    let claim = cursors.claims.get(usize::from(hold.lane)).map(|cell| cell.claim.load(Acquire));
    let claimed = |word| Claim::from_word(word).position.since(end) >= 0;
    len > 0 && len as u64 <= capacity && claim.is_some_and(claimed)
}

/// Whether a slot offers what can be true, and nobody is about to take it, as far as can be seen without having the lane:
/// what a receiver would not take over is no reason to wake it.
#[cfg_attr(loom, allow(dead_code, reason = "the models have no sleepers of that kind"))]
pub(crate) fn offers_something(cursors: &Cursors, roster: &Roster, slot: u16) -> bool {
    let Some(cell) = cursors.slots.get(usize::from(slot)) else { return false };
    let free = is_offered(cursors, slot) && cell.taker.load(Acquire) == 0;
    let Some(hold) = free.then(|| Hold::from_word(cell.hold.load(Acquire))).flatten() else {
        return false;
    };
    let entry = roster.lanes.get(usize::from(hold.lane));
    // Relaxed: written before the lane's status, and the slot's next lane may be as long as it likes.
    let capacity = entry.map_or(0, |entry| granules_of(entry.capacity_bytes.load(Relaxed)));
    is_plausible(cursors, hold, Position::new(cell.end.load(Relaxed)), capacity)
}

impl<S: Storage> Claimant<S> {
    /// Takes over what is offered, if there is something: afterwards it is this receiver's run.
    #[cold]
    pub fn take_over(&mut self) -> bool {
        // With our own slot still offered there is no place for another's.
        let free = self.has_free_hands();
        let share = if self.can_put_aside() { Share::All } else { Share::First };
        for slot in 0..self.cursors.slots.len() as u16 {
            if (slot == self.slot || free)
                && is_offered(&self.cursors, slot)
                && self.take_over_from(slot, share)
            {
                return true;
            }
        }
        false
    }

    /// Takes over the first record of an offer of one of the lanes that `lanes` names, if there is one.
    #[cold]
    pub fn take_over_one(&mut self, lanes: impl Fn(u16) -> bool) -> bool {
        let free = self.has_free_hands();
        let mut first: Option<(u16, Hold)> = None;
        for slot in 0..self.cursors.slots.len() as u16 {
            let offer = self.offer(slot).filter(|hold| lanes(hold.lane));
            let Some(offer) = offer.filter(|_| slot == self.slot || free) else {
                continue;
            };
            // Of one lane the earliest.
            let earlier =
                |known: Hold| known.lane == offer.lane && offer.position.since(known.position) < 0;
            if first.is_none_or(|(_, known)| earlier(known)) {
                first = Some((slot, offer));
            }
        }
        first.is_some_and(|(slot, _)| self.take_over_from(slot, Share::First))
    }

    /// The highest priority of which something is offered.
    pub fn highest_offer(&self) -> Option<u8> {
        let lanes =
            (0..self.cursors.slots.len() as u16).filter_map(|slot| Some(self.offer(slot)?.lane));
        lanes.filter_map(|lane| Some(self.lane(lane)?.standing.priority)).max()
    }

    /// What a slot offers, if nobody is about to take it.
    fn offer(&self, slot: u16) -> Option<Hold> {
        let cell = &self.cursors.slots[usize::from(slot)];
        let free = is_offered(&self.cursors, slot) && cell.taker.load(Acquire) == 0;
        free.then(|| Hold::from_word(cell.hold.load(Acquire))).flatten()
    }

    /// Whether nothing that this receiver has held before is still in its slot.
    #[inline]
    pub fn has_free_hands(&mut self) -> bool {
        if self.returned {
            self.notice_that_ours_was_taken();
        }
        !self.returned
    }

    /// The lane of what is left of a run, if no message is in hand.
    pub fn left_over(&self) -> Option<u16> {
        (!self.run.is_over() && !self.has_in_hand()).then_some(self.run.lane)
    }

    /// Whether some spare slot is empty.
    pub fn can_put_aside(&self) -> bool {
        self.cursors.spares().any(|spare| slot_is_idle(&self.cursors, spare))
    }

    /// Puts aside what is left of a run, or what was returned and nobody has taken over yet, so that something
    /// else can be claimed. No message may be in hand. False: no spare slot is empty, or somebody is just taking
    /// over what was returned.
    #[cold]
    pub fn put_aside(&mut self) -> bool {
        let left_over = self.left_over().is_some();
        if !left_over && self.has_free_hands() {
            return true;
        }
        let Some(slot) = self.cursors.spares().find(|&spare| self.reserve(spare)) else {
            return false;
        };
        let spare = self.cursors.slots.element(slot.into());
        if !left_over && !self.take_back() {
            overwrite(&spare.taker, 0);
            return self.has_free_hands();
        }
        if left_over {
            self.leave();
            self.run.finish();
        }
        let mine = &self.mine;
        if let Some(hold) = Hold::from_word(mine.hold.load(Acquire)) {
            spare.attempts.store(mine.attempts.load(Relaxed), Relaxed);
            spare.marked.store(mine.marked.load(Relaxed), Relaxed);
            spare.end.store(mine.end.load(Relaxed), Release);
            let (word, bit) = slot_bit(slot);
            // PAIR(offer): before the hold, for whoever looks for holds looks at marked spare slots only. Nobody
            // takes it over as long as we are its taker.
            self.cursors.header.offered[word].fetch_or(bit, Release);
            self.checkpoint(hold.lane);
            // PAIR(hold): as in `claim_if`; the records are never without a hold.
            overwrite(&spare.hold, Hold { confirmed: true, ..hold }.to_word());
            self.checkpoint(hold.lane);
            // PAIR(takeover): whoever saw neither hold sees this word changed.
            self.cursors.header.takeovers.fetch_add(1, AcqRel);
            mine.attempts.store(0, Relaxed);
            mine.marked.store(Marked::FIRST, Relaxed);
            overwrite(&mine.hold, Hold::IDLE);
            self.checkpoint(hold.lane);
        }
        // PAIR(taken): the offer stands.
        overwrite(&spare.taker, 0);
        true
    }

    /// Before this receiver's slot is given up: offers what is left of a run, if no message is in hand. So the end of
    /// its link is the end of none of that, and whoever takes it over finds the attempts as they are.
    pub fn offer_left_over(&mut self) {
        if self.left_over().is_some() {
            self.leave();
            self.run.finish();
            self.returned = true;
            let (word, bit) = slot_bit(self.slot);
            // PAIR(offer)
            self.cursors.header.offered[word].fetch_or(bit, Release);
        }
    }

    /// Where the models kill.
    fn checkpoint(&self, lane: u16) {
        if let Some(lane) = self.lane(lane) {
            lane.storage().checkpoint();
        }
    }

    /// Makes an empty spare slot ours to fill.
    fn reserve(&self, slot: u16) -> bool {
        let spare = &self.cursors.slots[usize::from(slot)];
        // PAIR(taken)
        if spare.taker.compare_exchange(0, u32::from(self.slot) + 1, AcqRel, Relaxed).is_err() {
            return false;
        }
        let empty = spare.hold.load(Acquire) == Hold::IDLE && !is_offered(&self.cursors, slot);
        if !empty {
            overwrite(&spare.taker, 0);
        }
        empty
    }

    /// Takes our own offer back, to be put aside: false if somebody has it, or is about to.
    fn take_back(&mut self) -> bool {
        let mine = &self.mine;
        // PAIR(taken): from here on the offer is ours to finish.
        if mine.taker.compare_exchange(0, u32::from(self.slot) + 1, AcqRel, Relaxed).is_err() {
            return false;
        }
        let there = is_offered(&self.cursors, self.slot);
        if there {
            let (word, bit) = slot_bit(self.slot);
            self.cursors.header.offered[word].fetch_and(!bit, AcqRel);
            self.returned = false;
        }
        overwrite(&self.mine.taker, 0);
        there
    }

    pub(super) fn notice_that_ours_was_taken(&mut self) {
        if self.returned && !self.is_on_offer() {
            self.returned = false;
            self.mine.attempts.store(0, Relaxed);
            self.mine.marked.store(Marked::FIRST, Relaxed);
        }
    }

    /// Whether what this slot held still waits to be taken over. The taker may still have its last step
    /// to do: that touches nothing of ours any more.
    pub(super) fn is_on_offer(&self) -> bool {
        // PAIR(taken): Acquire here, Release and AcqRel in the steps of a takeover.
        self.mine.hold.load(Acquire) != Hold::IDLE || is_offered(&self.cursors, self.slot)
    }

    fn take_over_from(&mut self, slot: u16, share: Share) -> bool {
        let theirs = &self.cursors.slots[usize::from(slot)];
        let me = u32::from(self.slot) + 1;
        // PAIR(taken): from here on the offer is ours to finish.
        if theirs.taker.compare_exchange(0, me, AcqRel, Relaxed).is_err() {
            return false;
        }
        // Only now: before, somebody else might have taken it, or its owner might have it in hand again.
        let (word, bit) = slot_bit(slot);
        let offered = is_offered(&self.cursors, slot);
        let hold = Hold::from_word(theirs.hold.load(Acquire)).filter(|_| offered);
        let lane = hold.and_then(|hold| self.lane(hold.lane));
        if lane.is_some_and(|lane| lane.corrupt) {
            // Nobody can read it any more: its sender has spoiled the lane.
            overwrite(&theirs.hold, Hold::IDLE);
            self.cursors.header.offered[word].fetch_and(!bit, AcqRel);
            overwrite(&theirs.taker, 0);
            return false;
        }
        // Once: another receiver may write it still, and what was looked at is what is used.
        let end = Position::new(theirs.end.load(Relaxed));
        let usable = hold.filter(|hold| lane.is_some() && self.plausible(*hold, end));
        let Some(hold) = usable else {
            // Nothing there any more, or of a lane that we do not know (yet): somebody else may.
            overwrite(&theirs.taker, 0);
            return false;
        };
        let attempts = theirs.attempts.load(Relaxed).wrapping_add(1);
        let marked_end = Marked::end_of(theirs.marked.load(Relaxed), hold.position, end);
        let rest = match share {
            Share::First if slot != self.slot => self.end_of_first(hold, end),
            _ => None,
        };
        let end = rest.unwrap_or(end);
        let mine = &self.mine;
        mine.attempts.store(attempts, Relaxed);
        let marked = if attempts == 0 { Marked::FIRST } else { Marked::to_word(marked_end) };
        mine.marked.store(marked, Relaxed);
        if slot == self.slot {
            self.returned = false;
        } else {
            mine.end.store(end.get(), Release);
            let ours = Hold { confirmed: true, ..hold };
            // PAIR(hold): as in `claim_if`; the record is never without a hold.
            overwrite(&mine.hold, ours.to_word());
            self.checkpoint(hold.lane);
            // PAIR(takeover): whoever saw neither hold sees this word changed.
            self.cursors.header.takeovers.fetch_add(1, AcqRel);
            let left = rest.map_or(Hold::IDLE, |position| Hold { position, ..ours }.to_word());
            overwrite(&theirs.hold, left);
            self.checkpoint(hold.lane);
        }
        if let Some(rest) = rest {
            if rest.since(marked_end) >= 0 {
                // Those behind were never handed out.
                theirs.attempts.store(0u32.wrapping_sub(1), Relaxed);
                theirs.marked.store(Marked::FIRST, Relaxed);
            }
        } else {
            self.cursors.header.offered[word].fetch_and(!bit, AcqRel);
        }
        self.checkpoint(hold.lane);
        overwrite(&theirs.taker, 0);
        let run = Run::new(hold.lane, hold.position, end);
        self.run = run.taken_over(attempts, marked_end);
        true
    }

    /// Whether an offered run of a lane that this receiver has can be true.
    pub(super) fn plausible(&self, hold: Hold, end: Position) -> bool {
        let capacity = self.lane(hold.lane).map_or(0, |lane| lane.storage().capacity());
        is_plausible(&self.cursors, hold, end, capacity)
    }

    /// Behind the first record of what is offered, if there are more.
    fn end_of_first(&self, hold: Hold, end: Position) -> Option<Position> {
        let available = u64::try_from(end.since(hold.position)).ok()?;
        let record = self.lane(hold.lane)?.record(hold.position, available)?;
        Some(hold.position.advance(record.granules())).filter(|&first| first != end)
    }
}
