//! How receivers take records: claim, hold, acknowledge, return, take over; and what a death leaves.
//!
//! A receiver shows what it is about to take (its hold), then takes it by moving the lane's claim on with a
//! compare-and-swap. Who moves the claim on first notes in the last winner's hold that it had really won
//! (confirmed), because the claim names only the last one. So at every moment the claim and the holds
//! together tell exactly what each receiver owns, and a death can be repaired from outside.
//!
//! What a dead or unwilling receiver owned is offered in place: its slot's bit is set in `offered`, and
//! any receiver takes the whole of it over before it claims anything new:
//!
//! ```text
//! CAS taker 0 -> me    it is mine, though still under the old slot's hold
//! my attempts, end, hold (confirmed) = theirs
//! their hold = idle, their offered bit cleared, taker = 0
//! ```
//!
//! Killed in between, [`mend_slot`] either gives it back to the old slot or finishes the step.

use crate::lane::hints;
use crate::lane::layout::{Claim, Hold, LaneHeader};
use crate::lane::park::slot_bit;
use crate::lane::position::Position;
use crate::lane::ring::{RecordHeader, Storage};
use crate::regions::Cursors;
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crate::sync::{AtomicU64, overwrite};
use crate::sys::mapping::Shared;

/// Records that the only receiver of a mailbox claims with one step, at most.
const RUN_RECORDS_MAX: u32 = 16;
/// Granules of such a run, at most; a single record may be longer.
const RUN_GRANULES_MAX: u64 = 256;
/// Records taken from one lane before the others get their turn.
const TURN_RECORDS: u32 = 64;

/// What a reader found in a lane that no honest member writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Which word, or which record.
    pub what: &'static str,
    /// The lane.
    pub lane: u16,
    /// The lane's sender is to blame (else some receiver).
    pub by_sender: bool,
}

/// A lane as a receiver sees it.
#[derive(Debug)]
pub struct LaneReader<S> {
    storage: S,
    header: Shared<LaneHeader>,
    /// The tail as last seen.
    tail: Position,
    /// Something impossible was found in it: it is left alone.
    corrupt: bool,
    /// Where it stands in the order of turns.
    place: usize,
}

impl<S: Storage> LaneReader<S> {
    /// The reading end of a lane that began at `first`.
    pub fn new(storage: S, header: Shared<LaneHeader>, first: Position) -> Self {
        Self { storage, header, tail: first, corrupt: false, place: 0 }
    }

    /// The sender's words.
    pub fn header(&self) -> &LaneHeader {
        &self.header
    }

    /// Whether it is left alone since something impossible was found in it.
    pub fn is_corrupt(&self) -> bool {
        self.corrupt
    }

    /// What lies between the claim and the tail, if it can be true.
    pub fn published(&self, claim: Position) -> Option<u64> {
        // PAIR(publish): Acquire here, Release in `ring::LaneWriter::publish`.
        let tail = Position::new(self.header.tail.load(Acquire));
        u64::try_from(tail.since(claim)).ok().filter(|&n| n <= self.storage.capacity())
    }

    /// The checked header of a record at `at` with at most `available` granules behind it.
    pub fn record(&self, at: Position, available: u64) -> Option<RecordHeader> {
        let header = self.storage.header(at);
        (header.granules() <= available).then_some(header)
    }

    /// Where the records are.
    pub fn storage(&self) -> &S {
        &self.storage
    }
}

/// A message in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The lane it came through.
    pub lane: u16,
    /// How often it, or the run it was claimed with, has been handed out before.
    pub attempts: u32,
}

/// Records of one lane that this receiver owns and has not acknowledged.
#[derive(Clone, Copy, Debug)]
struct Run {
    lane: u16,
    next: Position,
    end: Position,
    attempts: u32,
}

/// The taking end of one receiver, over all lanes of its mailbox.
#[derive(Debug)]
pub struct Claimant<S> {
    cursors: Cursors,
    slot: u16,
    /// The mailbox admits one receiver: the claim is ours alone to move.
    single: bool,
    /// No other receiver is there now: several records may be claimed in one step.
    runs: bool,
    lanes: Vec<Option<LaneReader<S>>>,
    /// Indexes of the lanes there are; the turn goes round.
    order: Vec<u16>,
    turn: usize,
    turn_records: u32,
    run: Option<Run>,
    /// Position behind the record in hand.
    in_hand: Option<Position>,
    /// What this slot held is offered: until somebody has taken it over, nothing new can be claimed.
    returned: bool,
    received: u64,
    /// Something impossible that the quick path came upon.
    unreported: Option<Malformed>,
}

impl<S: Storage> Claimant<S> {
    /// The taking end of a slot. The slot may still offer what a receiver before us left.
    pub fn new(cursors: Cursors, slot: u16, single: bool) -> Self {
        let lanes = (0..cursors.claims.len()).map(|_| None).collect();
        let cell = &cursors.slots[usize::from(slot)];
        let returned = cell.hold.load(Acquire) != Hold::IDLE;
        let received = cell.received.load(Relaxed);
        Self {
            cursors,
            slot,
            single,
            runs: false,
            lanes,
            order: Vec::new(),
            turn: 0,
            turn_records: 0,
            run: None,
            in_hand: None,
            returned,
            received,
            unreported: None,
        }
    }

    /// This receiver's slot.
    pub fn slot(&self) -> u16 {
        self.slot
    }

    /// The cursors.
    pub fn cursors(&self) -> &Cursors {
        &self.cursors
    }

    /// Says whether this is the only receiver now.
    pub fn set_alone(&mut self, alone: bool) {
        self.runs = alone;
    }

    /// Adds a lane. An older one in the same slot goes.
    pub fn attach(&mut self, lane: u16, reader: LaneReader<S>) {
        self.detach(lane);
        if let Some(slot) = self.lanes.get_mut(usize::from(lane)) {
            *slot = Some(LaneReader { place: self.order.len(), ..reader });
            self.order.push(lane);
        }
    }

    /// Removes a lane, unless a message of it is in hand: false, ask again later.
    pub fn detach(&mut self, lane: u16) -> bool {
        if self.run.is_some_and(|run| run.lane == lane) {
            return false;
        }
        if let Some(slot) = self.lanes.get_mut(usize::from(lane)) {
            *slot = None;
            self.order.retain(|&other| other != lane);
            for (place, &lane) in self.order.iter().enumerate() {
                if let Some(reader) = &mut self.lanes[usize::from(lane)] {
                    reader.place = place;
                }
            }
        }
        true
    }

    /// The lanes there are.
    pub fn lanes(&self) -> &[u16] {
        &self.order
    }

    /// One lane, if it is there.
    pub fn lane(&self, lane: u16) -> Option<&LaneReader<S>> {
        self.lanes.get(usize::from(lane))?.as_ref()
    }

    /// Whether a message is in hand.
    pub fn has_in_hand(&self) -> bool {
        self.in_hand.is_some()
    }

    /// The next message of a run that is ours already, copied out.
    ///
    /// # Errors
    /// [`Malformed`]: the sender has overwritten the run; what is left of it is given up.
    #[inline]
    pub fn take_from_run(&mut self, into: &mut S::Payload) -> Result<bool, Malformed> {
        debug_assert!(self.in_hand.is_none(), "one message in hand at a time");
        let Some(run) = self.run else { return Ok(false) };
        let lane = self.lanes[usize::from(run.lane)].as_ref().expect("a run keeps its lane");
        let left = run.end.since(run.next) as u64;
        let Some(header) = lane.record(run.next, left) else {
            return Err(self.give_up_run(run.lane));
        };
        lane.storage.copy_out(run.next, header.len as usize, into);
        self.in_hand = Some(run.next.advance(header.granules()));
        Ok(true)
    }

    /// Takes the next message of the run in hand, or claims of the lane whose turn it is, if nothing is
    /// offered. False says only that it did not: the thorough calls tell why.
    #[inline]
    pub fn take_quickly(&mut self, into: &mut S::Payload) -> bool {
        if self.run.is_none() {
            let undisturbed = !self.returned
                && (self.turn_records < TURN_RECORDS || self.order.len() == 1)
                && !self.anything_offered();
            let Some(lane) = self.order.get(self.turn).copied().filter(|_| undisturbed) else {
                return false;
            };
            let claimed = self.claim_from(lane);
            if !self.or_report_later(claimed) {
                return false;
            }
        }
        let taken = self.take_from_run(into);
        self.or_report_later(taken)
    }

    #[inline]
    fn or_report_later(&mut self, result: Result<bool, Malformed>) -> bool {
        result.unwrap_or_else(|malformed| {
            self.unreported = Some(malformed);
            false
        })
    }

    /// Granules that were seen published behind the message in hand, in its lane.
    pub fn backlog(&self) -> u64 {
        let lane = self.run.as_ref().and_then(|run| self.lane(run.lane));
        let behind = lane.zip(self.in_hand).map_or(0, |(lane, next)| lane.tail.since(next));
        behind.max(0) as u64
    }

    /// What is known of the message in hand; `None` if there is none.
    pub fn in_hand(&self) -> Option<Taken> {
        let run = self.run.filter(|_| self.in_hand.is_some())?;
        Some(Taken { lane: run.lane, attempts: run.attempts })
    }

    /// Whether anything is offered that could be taken over.
    #[inline]
    pub fn anything_offered(&self) -> bool {
        let words = self.cursors.slots.len().div_ceil(64);
        // Relaxed: only a reason to look; `take_over` acquires.
        self.cursors.header.offered[..words].iter().any(|word| word.load(Relaxed) != 0)
    }

    /// Takes over what is offered, if there is something: afterwards it is this receiver's run.
    #[cold]
    pub fn take_over(&mut self) -> bool {
        if self.returned {
            self.notice_that_ours_was_taken();
        }
        for slot in 0..self.cursors.slots.len() as u16 {
            let (word, bit) = slot_bit(slot);
            if self.cursors.header.offered[word].load(Acquire) & bit == 0 {
                continue;
            }
            // With our own slot still offered there is no place for another's.
            if (slot == self.slot || !self.returned) && self.take_over_from(slot) {
                return true;
            }
        }
        false
    }

    /// Claims the next record, or run of records, of the lane whose turn it is, or of the next that has
    /// something: afterwards it is this receiver's run.
    ///
    /// # Errors
    /// [`Malformed`]: that lane is left alone from now on.
    #[inline]
    pub fn claim_next(&mut self) -> Result<bool, Malformed> {
        debug_assert!(self.run.is_none(), "what is claimed is handed out before more is claimed");
        if let Some(malformed) = self.unreported.take() {
            return Err(malformed);
        }
        if self.returned {
            self.notice_that_ours_was_taken();
            if self.returned {
                return Ok(false);
            }
        }
        let count = self.order.len();
        if self.turn_records >= TURN_RECORDS {
            self.turn_records = 0;
            self.turn += 1;
        }
        for _ in 0..count {
            if self.turn >= count {
                self.turn = 0;
            }
            if self.claim_from(self.order[self.turn])? {
                return Ok(true);
            }
            self.turn += 1;
            self.turn_records = 0;
        }
        Ok(false)
    }

    /// Claims as [`Self::claim_next`] does, but looks only where a hint says that there may be something.
    ///
    /// # Errors
    /// [`Malformed`]: that lane is left alone from now on.
    pub fn claim_hinted(&mut self, hints: &[AtomicU64]) -> Result<bool, Malformed> {
        if self.returned || self.unreported.is_some() {
            return self.claim_next();
        }
        let last = self.order.get(self.turn).copied().unwrap_or_default();
        hints::scan(hints, last, |lane| {
            // A hint of a lane that is not attached (yet) is as good as none.
            let claimed = usize::from(lane) < self.lanes.len() && self.claim_from(lane)?;
            if let (true, Some(reader)) = (claimed, self.lane(lane)) {
                self.turn = reader.place;
            }
            Ok(claimed)
        })
    }

    /// Claims the next record, or run of records, of one lane: afterwards it is this receiver's run.
    ///
    /// # Errors
    /// [`Malformed`]: the lane is left alone from now on.
    #[inline]
    pub fn claim_from(&mut self, index: u16) -> Result<bool, Malformed> {
        let Some(lane) = self.lanes[usize::from(index)].as_mut() else { return Ok(false) };
        if lane.corrupt {
            return Ok(false);
        }
        let cell = &self.cursors.claims[usize::from(index)].claim;
        let mine = &self.cursors.slots[usize::from(self.slot)];
        loop {
            // PAIR(claim): Acquire here and in `ring`, AcqRel below; the last winner's hold is seen.
            let word = cell.load(Acquire);
            let claim = Claim::from_word(word);
            let mut available = lane.tail.since(claim.position);
            if available <= 0 {
                // PAIR(publish): Acquire here, Release in `ring::LaneWriter::publish`.
                lane.tail = Position::new(lane.header.tail.load(Acquire));
                available = lane.tail.since(claim.position);
                if available == 0 {
                    return Ok(false);
                }
            }
            let possible = available > 0 && available as u64 <= lane.storage.capacity();
            let header =
                if possible { lane.record(claim.position, available as u64) } else { None };
            let Some(header) = header else {
                // Stale, or impossible: if nobody has moved the claim, it is what it seems.
                if cell.load(Acquire) != word {
                    continue;
                }
                lane.corrupt = true;
                // A claim that nobody else moves is as it should be: then it is the tail.
                let (what, by_sender) = match (possible, self.single) {
                    (true, _) => ("a record", true),
                    (false, true) => ("the tail", true),
                    (false, false) => ("tail or claim", false),
                };
                return Err(Malformed { what, lane: index, by_sender });
            };
            let mut end = claim.position.advance(header.granules());
            let mut records = 1;
            if self.runs {
                (end, records) = extend_run(lane, claim.position, end);
            }
            if !self.single {
                confirm_winner(&self.cursors, self.slot, index, claim);
            }
            mine.end.store(end.get(), Relaxed);
            let hold = Hold { confirmed: false, lane: index, position: claim.position };
            // PAIR(hold): Release here, Acquire in `ring`, `confirm_winner` and `mend_slot`; `end` is seen.
            overwrite(&mine.hold, hold.to_word());
            lane.storage.checkpoint();
            let won = Claim { position: end, winner: Some(self.slot) }.to_word();
            // PAIR(claim): the Release makes our hold visible to whoever sees the claim moved.
            let moved = if self.single {
                cell.store(won, Release);
                true
            } else {
                cell.compare_exchange(word, won, AcqRel, Relaxed).is_ok()
            };
            lane.storage.checkpoint();
            if moved {
                self.turn_records += records;
                self.run = Some(Run { lane: index, next: claim.position, end, attempts: 0 });
                return Ok(true);
            }
            // Somebody else has it.
            overwrite(&mine.hold, Hold::IDLE);
        }
    }

    /// Acknowledges the message in hand: its room is the sender's again. Returns the lane; the caller
    /// looks whether its sender waits.
    #[inline]
    pub fn acknowledge(&mut self) -> Option<u16> {
        let next = self.in_hand.take()?;
        let run = self.run.as_mut()?;
        let lane = run.lane;
        run.next = next;
        let mine = &self.cursors.slots[usize::from(self.slot)];
        self.received += 1;
        // Relaxed: a counter for people.
        mine.received.store(self.received, Relaxed);
        if run.attempts != 0 {
            // Only the first record of what was taken over had been in another's hand.
            run.attempts = 0;
            mine.attempts.store(0, Relaxed);
        }
        let hold = if next == run.end {
            self.run = None;
            Hold::IDLE
        } else {
            Hold { confirmed: true, lane, position: next }.to_word()
        };
        // PAIR(free): Release here, Acquire in `ring::LaneWriter::refresh_limit`; our reads of the record
        // come before the sender's overwriting it.
        overwrite(&mine.hold, hold);
        Some(lane)
    }

    /// Gives the message in hand, and what was claimed with it, back: it is offered to all receivers, this
    /// one among them. Returns its lane.
    pub fn return_to_queue(&mut self) -> Option<u16> {
        self.in_hand.take()?;
        let run = self.run.take()?;
        self.returned = true;
        let (word, bit) = slot_bit(self.slot);
        // PAIR(offer): Release here and in `mend_slot`, Acquire in `take_over`; the hold is seen.
        self.cursors.header.offered[word].fetch_or(bit, Release);
        Some(run.lane)
    }

    /// Before this receiver's slot is given up: notes that the first record of what is left of a run was
    /// never handed out, so that whoever takes it over does not count that.
    pub fn leave(&mut self) {
        if let (Some(run), None) = (self.run, self.in_hand) {
            let mine = &self.cursors.slots[usize::from(self.slot)];
            mine.attempts.store(run.attempts.wrapping_sub(1), Relaxed);
        }
    }

    /// The claim of a lane, as it is now.
    pub fn claim_position(&self, lane: u16) -> Position {
        Claim::from_word(self.cursors.claims[usize::from(lane)].claim.load(Acquire)).position
    }

    /// Whether anything could be taken now, from any lane or by taking over: reads every lane's words.
    pub fn anything_to_take(&self) -> bool {
        let published = |&lane: &u16| {
            let reader = self.lane(lane).filter(|reader| !reader.corrupt);
            // An impossible tail counts: taking will say so.
            reader.is_some_and(|reader| reader.published(self.claim_position(lane)) != Some(0))
        };
        self.anything_offered() || (!self.returned && self.order.iter().any(published))
    }

    fn give_up_run(&mut self, lane: u16) -> Malformed {
        self.run = None;
        if let Some(reader) = &mut self.lanes[usize::from(lane)] {
            reader.corrupt = true;
        }
        let mine = &self.cursors.slots[usize::from(self.slot)];
        mine.attempts.store(0, Relaxed);
        overwrite(&mine.hold, Hold::IDLE);
        Malformed { what: "a record", lane, by_sender: true }
    }

    fn notice_that_ours_was_taken(&mut self) {
        let mine = &self.cursors.slots[usize::from(self.slot)];
        let (word, bit) = slot_bit(self.slot);
        // PAIR(taken): Acquire here, Release where the taker ends with `taker = 0`.
        let free = mine.taker.load(Acquire) == 0
            && mine.hold.load(Acquire) == Hold::IDLE
            && self.cursors.header.offered[word].load(Acquire) & bit == 0;
        if free {
            self.returned = false;
            mine.attempts.store(0, Relaxed);
        }
    }

    fn take_over_from(&mut self, slot: u16) -> bool {
        let theirs = &self.cursors.slots[usize::from(slot)];
        let me = u32::from(self.slot) + 1;
        // PAIR(taken): from here on the offer is ours to finish.
        if theirs.taker.compare_exchange(0, me, AcqRel, Relaxed).is_err() {
            return false;
        }
        // Only now: before, somebody else might have taken it, or its owner might have it in hand again.
        let (word, bit) = slot_bit(slot);
        let offered = self.cursors.header.offered[word].load(Acquire) & bit != 0;
        let hold = Hold::from_word(theirs.hold.load(Acquire)).filter(|_| offered);
        let usable = hold.filter(|hold| {
            self.lane(hold.lane).is_some_and(|lane| !lane.corrupt)
                && self.plausible(*hold, Position::new(theirs.end.load(Relaxed)))
        });
        let Some(hold) = usable else {
            // Nothing there any more, or of a lane that we do not know (yet): somebody else may.
            overwrite(&theirs.taker, 0);
            return false;
        };
        let attempts = theirs.attempts.load(Relaxed).wrapping_add(1);
        let end = Position::new(theirs.end.load(Relaxed));
        let mine = &self.cursors.slots[usize::from(self.slot)];
        mine.attempts.store(attempts, Relaxed);
        if slot == self.slot {
            self.returned = false;
        } else {
            mine.end.store(end.get(), Relaxed);
            let ours = Hold { confirmed: true, ..hold };
            // PAIR(hold): as in `claim_from`; the record is never without a hold.
            overwrite(&mine.hold, ours.to_word());
            overwrite(&theirs.hold, Hold::IDLE);
        }
        self.cursors.header.offered[word].fetch_and(!bit, AcqRel);
        overwrite(&theirs.taker, 0);
        self.run = Some(Run { lane: hold.lane, next: hold.position, end, attempts });
        true
    }

    /// Whether an offered run can be true: inside what its lane has room for, before its claim.
    fn plausible(&self, hold: Hold, end: Position) -> bool {
        let len = end.since(hold.position);
        let capacity = self.lane(hold.lane).map_or(0, |lane| lane.storage.capacity());
        len > 0 && len as u64 <= capacity && self.claim_position(hold.lane).since(end) >= 0
    }
}

/// Goes on from the end of a first record over the records behind it: the end of the run, and how many
/// records it has.
fn extend_run<S: Storage>(
    lane: &LaneReader<S>,
    begin: Position,
    first_end: Position,
) -> (Position, u32) {
    let (mut end, mut records) = (first_end, 1);
    while records < RUN_RECORDS_MAX {
        let left = lane.tail.since(end);
        if left <= 0 {
            break;
        }
        // A malformed header ends the run before it: it is found out when its turn comes.
        let Some(header) = lane.record(end, left as u64) else { break };
        let next = end.advance(header.granules());
        if next.since(begin) as u64 > RUN_GRANULES_MAX {
            break;
        }
        end = next;
        records += 1;
    }
    (end, records)
}

/// Before the claim moves on from what `claim` says: if the last winner still holds what it won, note
/// in its hold that it did win, for the claim is about to forget it.
#[inline]
fn confirm_winner(cursors: &Cursors, me: u16, lane: u16, claim: Claim) {
    let Some(winner) = claim.winner.filter(|&winner| winner != me) else { return };
    let Some(cell) = cursors.slots.get(usize::from(winner)) else { return };
    // PAIR(hold): Acquire here, Release where the winner stored it.
    let word = cell.hold.load(Acquire);
    let Some(hold) = Hold::from_word(word) else { return };
    if hold.lane == lane && !hold.confirmed && claim.position.since(hold.position) > 0 {
        let confirmed = Hold { confirmed: true, ..hold }.to_word();
        // Failing is fine: the winner has acknowledged meanwhile. PAIR(hold).
        let _ = cell.hold.compare_exchange(word, confirmed, AcqRel, Relaxed);
    }
}

/// What a receiver that is gone has left in its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mended {
    /// Nothing: the slot can be given out again.
    Nothing,
    /// What it held is offered to the others; the slot stays until it is taken over.
    Offered,
}

/// Repairs what receiver `slot` has left: called by `ipcd` alone, once nobody acts in that slot's name any
/// more. Calling it again does no harm.
pub fn mend_slot(cursors: &Cursors, slot: u16) -> Mended {
    let Some(mine) = cursors.slots.get(usize::from(slot)) else { return Mended::Nothing };
    finish_takeovers_of(cursors, slot);
    let (word, bit) = slot_bit(slot);
    let offered = cursors.header.offered[word].load(Acquire) & bit != 0;
    if offered || mine.taker.load(Acquire) != 0 {
        return Mended::Offered;
    }
    let Some(hold) = Hold::from_word(mine.hold.load(Acquire)) else { return Mended::Nothing };
    let Some(cell) = cursors.claims.get(usize::from(hold.lane)) else {
        overwrite(&mine.hold, Hold::IDLE);
        return Mended::Nothing;
    };
    // The claim first, then the hold again: whoever moved the claim on had confirmed the hold before, so
    // if the claim no longer names this slot, the mark is there to be seen. PAIR(claim), PAIR(hold).
    let claim = Claim::from_word(cell.claim.load(Acquire));
    let hold = Hold::from_word(mine.hold.load(Acquire)).unwrap_or(hold);
    let won_last = claim.winner == Some(slot) && claim.position.since(hold.position) > 0;
    if hold.confirmed || won_last {
        // PAIR(offer)
        cursors.header.offered[word].fetch_or(bit, Release);
        return Mended::Offered;
    }
    // Only an intent: the claim never came to it.
    overwrite(&mine.hold, Hold::IDLE);
    Mended::Nothing
}

/// What the dead receiver was just taking over is given back to where it was offered, or, if it had come
/// so far that the old slot's hold is idle, the step is finished and the dead one's own hold counts.
fn finish_takeovers_of(cursors: &Cursors, slot: u16) {
    let me = u32::from(slot) + 1;
    for (index, theirs) in (0u16..).zip(cursors.slots.iter()) {
        if theirs.taker.load(Acquire) != me {
            continue;
        }
        let (word, bit) = slot_bit(index);
        let held = Hold::from_word(theirs.hold.load(Acquire));
        let offered = cursors.header.offered[word].load(Acquire) & bit != 0;
        if held.is_none() {
            cursors.header.offered[word].fetch_and(!bit, AcqRel);
        } else if offered && index != slot {
            // The offer stands where it was; the copy of it goes.
            let mine = &cursors.slots[usize::from(slot)];
            let ours = Hold::from_word(mine.hold.load(Acquire));
            let same = |a: Hold, b: Hold| a.lane == b.lane && a.position == b.position;
            if held.zip(ours).is_some_and(|(a, b)| same(a, b)) {
                overwrite(&mine.hold, Hold::IDLE);
                mine.attempts.store(0, Relaxed);
            }
        }
        overwrite(&theirs.taker, 0);
    }
}

/// Whether nothing is left in a slot whose receiver is gone.
pub fn slot_is_idle(cursors: &Cursors, slot: u16) -> bool {
    let (word, bit) = slot_bit(slot);
    cursors.slots.get(usize::from(slot)).is_none_or(|cell| {
        cell.taker.load(Acquire) == 0
            && cell.hold.load(Acquire) == Hold::IDLE
            && cursors.header.offered[word].load(Acquire) & bit == 0
    })
}

/// Whether nothing is left in a lane that was published up to `tail`: all claimed, and no slot holds any.
/// Claim first, then the holds, as a sender does.
pub fn lane_is_drained(cursors: &Cursors, lane: u16, tail: Position) -> bool {
    let Some(cell) = cursors.claims.get(usize::from(lane)) else { return true };
    // PAIR(claim): Acquire.
    if Claim::from_word(cell.claim.load(Acquire)).position != tail {
        return false;
    }
    // PAIR(hold): Acquire.
    let holds = |cell: &crate::lane::layout::SlotCell| {
        Hold::from_word(cell.hold.load(Acquire)).is_some_and(|hold| hold.lane == lane)
    };
    !cursors.slots.iter().any(holds)
}
