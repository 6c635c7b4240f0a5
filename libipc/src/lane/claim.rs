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
//! Killed in between, [`super::repair`] either gives it back to the old slot or finishes the step.

use crate::lane::layout::{Claim, Hold, LaneStatus, Marked, SlotCell, SlotState};
use crate::lane::order::Choice;
use crate::lane::park::{self, slot_bit};
use crate::lane::position::{Position, RECORD_HEADER_BYTES};
use crate::lane::reader::LaneReader;
use crate::lane::record::{RecordWord, Storage};
use crate::lane::repair::slot_is_idle;
use crate::lane::run::{NotHandedOut, Pace, Reach, Run};
use crate::regions::{Cursors, Roster};
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crate::sync::{fence, overwrite};
use crate::sys::mapping::Shared;

/// Times that a claim is tried again when others win.
const CLAIM_TRIES: u32 = 1000;
/// Records taken from one lane before the others get their turn.
pub(crate) const TURN_RECORDS: u32 = 64;

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

/// A message in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The lane it came through.
    pub lane: u16,
    /// How often it, or the run it was claimed with, has been handed out before.
    pub attempts: u32,
}

/// What came of asking a run for its next message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is in hand.
    Message,
    /// There is none left.
    Over,
    /// Its sender has it back; its room is free, as after an acknowledgement: the caller looks whether the
    /// sender of this lane waits for it, and asks again.
    Skipped(u16),
}

/// The taking end of one receiver, over all lanes of its mailbox.
#[derive(Debug)]
pub struct Claimant<S> {
    pub(super) roster: Roster,
    pub(super) cursors: Cursors,
    /// This receiver's slot, and the words in it.
    pub(super) slot: u16,
    pub(super) mine: Shared<SlotCell>,
    /// The mailbox admits one receiver: the claim is ours alone to move.
    single: bool,
    /// How many records may be claimed in one step.
    pub(super) reach: Reach,
    /// How quickly they are dealt with.
    pace: Pace,
    pub(super) lanes: Vec<Option<Box<LaneReader<S>>>>,
    /// Indexes of the lanes there are; the turn goes round.
    pub(super) order: Vec<u16>,
    pub(super) turn: usize,
    pub(super) turn_records: u32,
    /// Where more than the turn decides.
    pub(super) choice: Choice,
    pub(super) run: Run,
    /// What this slot held is offered: until somebody has taken it over, nothing new can be claimed.
    pub(super) returned: bool,
    pub(super) received: u64,
    /// Words of bits that the slots take.
    offered_words: usize,
    /// Something impossible that the quick path came upon.
    pub(super) unreported: Option<Malformed>,
}

impl<S: Storage> Claimant<S> {
    /// The taking end of a slot. The slot may still offer what a receiver before us left.
    pub fn new(roster: Roster, cursors: Cursors, slot: u16, single: bool) -> Self {
        let lanes = (0..cursors.claims.len()).map(|_| None).collect();
        let mine = cursors.slots.element(slot.into());
        let returned = !slot_is_idle(&cursors, slot);
        let received = mine.received.load(Relaxed);
        let offered_words = cursors.slots.len().div_ceil(64);
        Self {
            roster,
            cursors,
            slot,
            mine,
            single,
            reach: Reach::ONE,
            pace: Pace::default(),
            lanes,
            order: Vec::new(),
            turn: 0,
            turn_records: 0,
            choice: Choice::default(),
            run: Run::default(),
            returned,
            received,
            offered_words,
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

    /// Says how many records may be claimed in one step from now on; returns how many it were.
    pub fn set_reach(&mut self, reach: Reach) -> Reach {
        std::mem::replace(&mut self.reach, reach)
    }

    /// Adds a lane. An older one in the same slot goes.
    pub fn attach(&mut self, lane: u16, reader: LaneReader<S>) {
        if !self.detach(lane) {
            // `ipcd` gives no slot out that somebody holds something of: whatever this run is, it is void.
            self.give_up_run();
            self.detach(lane);
        }
        if let Some(slot) = self.lanes.get_mut(usize::from(lane)) {
            *slot = Some(Box::new(LaneReader { place: self.order.len(), ..reader }));
            self.order.push(lane);
            self.review_choice();
        }
    }

    /// Removes a lane, unless a message of it is in hand: false, ask again later.
    pub fn detach(&mut self, lane: u16) -> bool {
        if !self.run.is_over() && self.run.lane == lane {
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
            self.review_choice();
        }
        true
    }

    /// The lanes there are.
    pub fn lanes(&self) -> &[u16] {
        &self.order
    }

    /// One lane, if it is there.
    pub fn lane(&self, lane: u16) -> Option<&LaneReader<S>> {
        self.lanes.get(usize::from(lane))?.as_deref()
    }

    /// Granules that all lanes have together.
    pub fn granules(&self) -> u64 {
        let lanes = self.order.iter().filter_map(|&lane| self.lane(lane));
        lanes.map(|lane| lane.storage.capacity()).sum()
    }

    /// Whether a message is in hand.
    #[inline]
    pub fn has_in_hand(&self) -> bool {
        self.run.has_in_hand()
    }

    /// The first word of the record handed out last.
    #[inline]
    pub fn word(&self) -> RecordWord {
        self.run.word
    }

    /// Whether records are claimed that have not been acknowledged.
    pub fn has_run(&self) -> bool {
        !self.run.is_over()
    }

    /// The next message of a run that is ours already, copied out.
    ///
    /// # Errors
    /// [`Malformed`]: the sender has overwritten the run; what is left of it is given up.
    pub fn take_from_run(&mut self, into: &mut S::Payload) -> Result<Next, Malformed> {
        if self.run.is_over() {
            return Ok(Next::Over);
        }
        match self.copy_next(into) {
            Ok(()) => Ok(Next::Message),
            Err(NotHandedOut::Withdrawn(word)) => Ok(Next::Skipped(self.skip(word))),
            Err(NotHandedOut::Malformed) => Err(self.give_up_run()),
        }
    }

    /// Passes over a withdrawn record, with nothing in hand: as acknowledged, but not counted.
    #[cold]
    fn skip(&mut self, word: RecordWord) -> u16 {
        self.run.step_over(word);
        self.free_in_hand()
    }

    /// Copies out the record at the run's beginning, if it is what a record can be and its sender has not
    /// taken it back.
    fn copy_next(&mut self, into: &mut S::Payload) -> Result<(), NotHandedOut> {
        if !self.run.beside.is_nothing() && self.copy_beside(into) {
            return Ok(());
        }
        let Some(Some(lane)) = self.lanes.get(usize::from(self.run.lane)) else {
            return Err(NotHandedOut::Malformed);
        };
        let at = self.run.next_to_hand_out();
        let word = self.run.hand_out(&lane.storage, lane.verdict.as_deref())?;
        lane.storage.copy_out(at, word, into);
        Ok(())
    }

    /// Hands out what is left of the run behind the message in hand, up to so many records with that one:
    /// then all of them are in hand together. `each` is told of every one of them how many granules behind the first it
    /// begins, its bytes in front of and in the message, and how often it was handed out before.
    ///
    /// A record that is not as it should be, or that its sender has back, is left for its turn.
    #[inline]
    pub fn take_more(&mut self, records_max: usize, mut each: impl FnMut(u64, usize, usize, u32)) {
        let run = &mut self.run;
        let Some(Some(lane)) = self.lanes.get(usize::from(run.lane)) else { return };
        if !run.has_in_hand() {
            return;
        }
        run.take_back();
        let first = run.next();
        let mut records = 0;
        if run.attempts == 0 {
            records = run.hand_out_plain(&lane.storage, records_max, |behind, len| {
                each(behind, RECORD_HEADER_BYTES, len, 0);
            });
        }
        while records < records_max && !run.is_handed_out() {
            let at = run.next_to_hand_out();
            let Ok(word) = run.hand_out(&lane.storage, lane.verdict.as_deref()) else { break };
            let behind = at.since(first) as u64;
            each(behind, word.payload_offset(), word.message_len(), run.attempts_at(at));
            records += 1;
        }
        let behind = run.next_to_hand_out();
        if run.attempts == 0 || behind.since(run.marked_end) > 0 {
            run.marked_end = behind;
        }
        if records > 1 {
            // Relaxed: whoever reads it comes after our death, or by way of the offer.
            self.mine.marked.store(Marked::to_word(run.marked_end), Relaxed);
        }
    }

    /// Granules that were seen published behind the message in hand, in its lane.
    pub fn backlog(&self) -> u64 {
        let lane = self.lane(self.run.lane).filter(|_| !self.run.is_over());
        lane.map_or(0, |lane| lane.tail.since(self.run.next_to_hand_out())).max(0) as u64
    }

    /// The lane of the run that is in hand, or was last.
    pub fn run_lane(&self) -> u16 {
        self.run.lane
    }

    /// What is known of the message in hand; `None` if there is none.
    pub fn in_hand(&self) -> Option<Taken> {
        let Run { lane, .. } = self.run;
        let attempts = self.run.attempts_at(self.run.next());
        self.has_in_hand().then_some(Taken { lane, attempts })
    }

    /// Where the message in hand lies; the first, if there are several.
    pub fn position_in_hand(&self) -> Option<Position> {
        self.has_in_hand().then(|| self.run.next())
    }

    /// Whether anything is offered that could be taken over.
    #[inline]
    pub fn anything_offered(&self) -> bool {
        // Relaxed: only a reason to look; `take_over` acquires.
        park::any_bit(&self.cursors.header.offered, self.offered_words)
    }

    /// Claims the next record, or run of records, of the lane whose turn it is, or of the next that has
    /// something: afterwards it is this receiver's run.
    ///
    /// # Errors
    /// [`Malformed`]: that lane is left alone from now on.
    #[inline]
    pub fn claim_next(&mut self) -> Result<bool, Malformed> {
        debug_assert!(self.run.is_over(), "what is claimed is handed out before more is claimed");
        if let Some(malformed) = self.unreported.take() {
            return Err(malformed);
        }
        if !self.has_free_hands() {
            return Ok(false);
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

    /// Claims the next record, or run of records, of one lane: afterwards it is this receiver's run.
    ///
    /// # Errors
    /// [`Malformed`]: the lane is left alone from now on.
    pub fn claim_from(&mut self, index: u16) -> Result<bool, Malformed> {
        self.claim_if(index, |_| true)
    }

    /// The same, but only while the lane's next record is at a position that is `wanted`.
    #[inline(always)]
    pub(super) fn claim_if(
        &mut self,
        index: u16,
        wanted: impl Fn(Position) -> bool,
    ) -> Result<bool, Malformed> {
        let place = usize::from(index);
        let open = matches!(self.lanes.get(place), Some(Some(lane)) if lane.open);
        if !open && !self.opens(index) {
            return Ok(false);
        }
        let Some(Some(lane)) = self.lanes.get_mut(place) else { return Ok(false) };
        let lane = &mut **lane;
        let cell = &self.cursors.claims[place].claim;
        let status = &self.roster.lanes[place].status;
        let mine = &*self.mine;
        for _ in 0..CLAIM_TRIES {
            // PAIR(claim): Acquire here and in `ring`, AcqRel below; the last winner's hold is seen.
            let word = cell.load(Acquire);
            let claim = Claim::from_word(word);
            // The claim may be that of the slot's next lane already: then the roster says so.
            // PAIR(lanes): Acquire here, Release where `ipcd` gives the slot to a lane.
            let status = LaneStatus::from_word(status.load(Acquire));
            if status.generation != lane.generation || status.state == SlotState::Free {
                return Ok(false);
            }
            if !wanted(claim.position) {
                return Ok(false);
            }
            let Some(seen) = lane.look(claim.position) else { return Ok(false) };
            let Some(granules) = seen.granules else {
                // Stale, or impossible: if nobody has moved the claim, it is what it seems.
                fence(Acquire);
                if cell.load(Acquire) != word {
                    lane.lag.end();
                    continue;
                }
                lane.spoil();
                return Err(self.what_is_impossible(index, seen.possible));
            };
            let (pace, storage) = (&mut self.pace, &lane.storage);
            let (granules, records) =
                self.reach.extend(pace, storage, claim.position, granules, seen.published);
            if seen.anew {
                lane.lag.found(seen.published, granules, records);
            }
            let end = claim.position.advance(granules);
            if !self.single {
                confirm_winner(&self.cursors, self.slot, index, claim);
            }
            // PAIR(hold): whoever sees the new end sees that the hold before it is over.
            mine.end.store(end.get(), Release);
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
                // PAIR(withdraw): between the claim and the look at the records' marks.
                park::light_barrier(&self.roster.header);
                self.turn_records = self.turn_records.saturating_add(records);
                let several = records > 1 && self.reach.is_copied_whole();
                self.run = Run::claimed(index, claim.position, end, granules);
                (self.run.beside, self.run.several) = (seen.beside, several);
                return Ok(true);
            }
            // Somebody else has it.
            overwrite(&mine.hold, Hold::IDLE);
            lane.lag.end();
        }
        // Others keep winning, or somebody only moves the claim about: the caller looks at its clock.
        Ok(false)
    }

    /// What is wrong with a lane whose claim nobody has moved meanwhile: with the record there, if the tail is `possible`.
    #[cold]
    fn what_is_impossible(&self, lane: u16, possible: bool) -> Malformed {
        // A claim that nobody else moves is as it should be: then it is the tail.
        let what = match (possible, self.single) {
            (true, _) => "a record",
            (false, true) => "the tail",
            (false, false) => "tail or claim",
        };
        Malformed { what, lane, by_sender: self.blames_sender() && (possible || self.single) }
    }

    /// Acknowledges the message in hand: its room is the sender's again. Returns the lane; the caller
    /// looks whether its sender waits.
    #[inline]
    pub fn acknowledge(&mut self) -> Option<u16> {
        if !self.has_in_hand() {
            return None;
        }
        self.count_received(1);
        Some(self.free_in_hand())
    }

    /// Is done with what is in hand; returns its lane.
    #[inline]
    fn free_in_hand(&mut self) -> u16 {
        self.run.acknowledge();
        let lane = self.free();
        let (mine, run) = (&self.mine, &mut self.run);
        if run.attempts != 0 && run.next().since(run.marked_end) >= 0 {
            // The records behind had never been in another's hand. Not before the hold has moved on: until then
            // what is in hand comes again after a death, and has been handed out so often.
            run.attempts = 0;
            mine.attempts.store(0, Relaxed);
            mine.marked.store(Marked::FIRST, Relaxed);
        }
        lane
    }

    /// Acknowledges those of the messages in hand that lie before `first_left`, of which there are `count`,
    /// with one store; `None` is all of them. Returns the lane; the caller looks whether its sender waits.
    pub fn acknowledge_some(&mut self, count: u64, first_left: Option<Position>) -> Option<u16> {
        let run = &mut self.run;
        let first_left = first_left.unwrap_or(run.next_to_hand_out());
        if !run.acknowledge_before(first_left) {
            return None;
        }
        self.count_received(count);
        let lane = self.free();
        let all = !self.run.has_in_hand();
        if all && self.run.next().since(self.run.marked_end) >= 0 {
            // Behind the hold: until that has moved on the whole batch counts as handed out.
            self.run.attempts = 0;
            self.mine.attempts.store(0, Relaxed);
            self.mine.marked.store(Marked::FIRST, Relaxed);
        }
        Some(lane)
    }

    /// Shows that everything before the run's beginning is free; returns the lane.
    #[inline]
    fn free(&mut self) -> u16 {
        let hold = self.run.hold_word();
        // PAIR(free): Release here, Acquire in `ring::LaneWriter::refresh_limit`; our reads of the record
        // come before the sender's overwriting it.
        overwrite(&self.mine.hold, hold);
        self.run.lane
    }

    /// Lets the message in hand go as [`Self::acknowledge`] does, without counting it as received.
    pub fn let_go(&mut self) -> Option<u16> {
        let received = self.received;
        let lane = self.acknowledge();
        self.received = received;
        self.mine.received.store(received, Relaxed);
        lane
    }

    /// Messages received through the slot.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Counts messages as received.
    #[inline]
    pub fn count_received(&mut self, count: u64) {
        self.received = self.received.wrapping_add(count);
        // Relaxed: a counter for people.
        self.mine.received.store(self.received, Relaxed);
    }

    /// Where in [`Self::lanes`] the lane stands whose turn it is.
    pub fn turn(&self) -> usize {
        self.turn.min(self.order.len())
    }

    /// Gives the message in hand, and what was claimed with it, back: it is offered to all receivers, this
    /// one among them. Returns its lane.
    pub fn return_to_queue(&mut self) -> Option<u16> {
        if !self.has_in_hand() {
            return None;
        }
        self.run.finish();
        self.returned = true;
        let (word, bit) = slot_bit(self.slot);
        // PAIR(offer): Release here and in `mend_slot`, Acquire in `take_over`; the hold is seen.
        self.cursors.header.offered[word].fetch_or(bit, Release);
        Some(self.run.lane)
    }

    /// Notes that the first record of what is left of a run was never handed out, so that whoever takes it over does not
    /// count that.
    pub(super) fn leave(&mut self) {
        if !self.run.is_over() && !self.has_in_hand() {
            self.mine.attempts.store(self.run.attempts.wrapping_sub(1), Relaxed);
        }
    }

    /// The claim of a lane, as it is now.
    pub fn claim_position(&self, lane: u16) -> Position {
        Claim::from_word(self.cursors.claims[usize::from(lane)].claim.load(Acquire)).position
    }

    /// Whether what is wrong with a record is its sender's doing: no receiver of another uid was ever here that could have
    /// moved the claim, or alleged a hold, where no record begins.
    fn blames_sender(&self) -> bool {
        // Relaxed: it only grows, and before a stranger has the cursors.
        self.roster.header.receiver_uids.load(Relaxed) <= 1
    }

    fn give_up_run(&mut self) -> Malformed {
        let lane = self.run.lane;
        self.run.finish();
        if let Some(Some(reader)) = self.lanes.get_mut(usize::from(lane)) {
            reader.spoil();
        }
        self.mine.attempts.store(0, Relaxed);
        self.mine.marked.store(Marked::FIRST, Relaxed);
        overwrite(&self.mine.hold, Hold::IDLE);
        Malformed { what: "a record", lane, by_sender: self.blames_sender() }
    }
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
