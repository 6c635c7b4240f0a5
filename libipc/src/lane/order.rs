//! Which lane a receiver takes from next: by turns, and where a mailbox asks for more, by what else decides.
//!
//! Plainly the turn goes round, a lane keeps it for some records, and hints say where to look. Beyond that:
//!
//! - A lane that goes on from another one is left alone until the claim of that one has come to its end. The
//!   sender writes there no more, so that is then true for ever.
//! - Lanes of a higher priority come first; within one priority the turn goes round.
//! - In the order of arrival the earliest of the lanes' first records is taken ([`Claimant::earliest`]).

use std::cmp::Reverse;

use crate::lane::claim::{Claimant, Malformed, TURN_RECORDS};
use crate::lane::hints::{self, Hints};
use crate::lane::layout::{Hold, LaneStatus, SlotState};
use crate::lane::position::Position;
use crate::lane::reader::LaneReader;
use crate::lane::record::Storage;
use crate::lane::repair::is_offered;
use crate::lane::run::Reach;
use crate::sync::Ordering::{Acquire, Relaxed};

/// With so many lanes of one priority it is as quick to look at each.
pub const LANES_WITHOUT_HINTS: usize = 8;

/// Names a lane: its slot, and which of the slot's lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneId {
    /// The slot.
    pub index: u16,
    /// Counts the slot's lanes.
    pub generation: u32,
}

/// What comes before a lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Lanes of a higher priority come first.
    pub priority: u8,
    /// The lane that it goes on from.
    pub after: Option<LaneId>,
}

/// What decides besides the turn.
#[derive(Debug, Default)]
pub(super) struct Choice {
    /// Messages are taken in the order of their arrival.
    by_arrival: bool,
    /// The lanes by priority, the highest first; none where all have priority 0.
    classes: Vec<Class>,
    /// Lanes have come or gone since `classes` was made.
    outdated: bool,
    /// Some lane has a priority above 0.
    prioritised: bool,
    /// Some lane waits for another one to be emptied.
    waiting: bool,
    /// The lane that was looked at last without a hint, by its place.
    patrol: usize,
}

/// The lanes of one priority.
#[derive(Debug, Default)]
struct Class {
    priority: u8,
    /// In the order of their slots.
    lanes: Vec<u16>,
    /// The same, one bit a lane.
    mask: Vec<u64>,
    /// The lane whose turn it was last, and how many records it has had in this turn.
    last: u16,
    records: u32,
}

impl Class {
    fn add(&mut self, lane: u16) {
        let (word, bit) = (usize::from(lane) / 64, 1 << (lane % 64));
        if self.mask.len() <= word {
            self.mask.resize(word + 1, 0);
        }
        self.mask[word] |= bit;
        self.lanes.push(lane);
    }

    fn note_turn(&mut self, lane: u16) {
        self.records = if lane == self.last { self.records.saturating_add(1) } else { 1 };
        self.last = lane;
    }
}

/// The first record of a lane that nobody has claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The lane.
    pub lane: u16,
    /// Where the record begins.
    pub position: Position,
    key: (Reverse<u8>, u64),
}

impl Head {
    /// Whether whatever was there when `earlier` was found and comes before this one would have been found
    /// with this one.
    #[must_use]
    pub fn is_settled_by(&self, earlier: &Self) -> bool {
        self.key.0 == earlier.key.0 && self.key.1 <= earlier.key.1
    }
}

impl<S: Storage> Claimant<S> {
    /// From now on messages are taken in the order of their arrival.
    pub fn set_by_arrival(&mut self) {
        self.choice.by_arrival = true;
    }

    /// Whether messages are taken in the order of their arrival.
    pub fn is_by_arrival(&self) -> bool {
        self.choice.by_arrival
    }

    /// Whether some lane has a priority above 0.
    pub fn is_prioritised(&self) -> bool {
        self.choice.prioritised
    }

    /// Whether nothing but the turn decides.
    pub fn is_plain(&self) -> bool {
        !(self.choice.by_arrival || self.choice.prioritised || self.choice.waiting)
    }

    /// Lanes have come or gone.
    pub(super) fn review_choice(&mut self) {
        let readers = || self.order.iter().filter_map(|&lane| self.lane(lane));
        let prioritised = readers().any(|reader| reader.standing.priority > 0);
        let waiting = readers().any(|reader| reader.standing.after.is_some() && !reader.open);
        self.choice = Choice {
            prioritised,
            waiting,
            outdated: true,
            classes: std::mem::take(&mut self.choice.classes),
            by_arrival: self.choice.by_arrival,
            patrol: self.choice.patrol,
        };
    }

    /// A lane that is not open: whether it is from now on.
    #[cold]
    pub(super) fn opens(&mut self, lane: u16) -> bool {
        let opens = self.lane(lane).is_some_and(|reader| !reader.corrupt) && self.is_due(lane);
        if let (true, Some(Some(reader))) = (opens, self.lanes.get_mut(usize::from(lane))) {
            reader.open = true;
            self.review_choice();
        }
        opens
    }

    /// Whether every lane that this one goes on from has been claimed to its end.
    fn is_due(&self, lane: u16) -> bool {
        self.first_of_chain(lane) == Some(lane)
    }

    /// The first lane of those that `lane` goes on from, and itself, that has something, or else `lane`. `None` if
    /// one of them is not mapped here, though it is there.
    fn first_of_chain(&self, lane: u16) -> Option<u16> {
        let mut first = lane;
        let mut at = lane;
        // No longer than there are lanes, whatever they say.
        for _ in 0..self.order.len() {
            let Some(after) = self.lane(at)?.standing.after else { break };
            // PAIR(lanes): Acquire here, Release where `ipcd` gives the slot to a lane.
            let status = self.roster.lanes.get(usize::from(after.index))?.status.load(Acquire);
            let status = LaneStatus::from_word(status);
            if status.generation != after.generation || status.state == SlotState::Free {
                break;
            }
            let reader = self.lane(after.index)?;
            if reader.generation != after.generation {
                return None;
            }
            at = after.index;
            // What is corrupt is left alone: nothing is to be waited for.
            if !reader.corrupt && self.has_some(after.index, reader) {
                first = at;
            }
        }
        Some(first)
    }

    /// Whether a lane has something that nobody has claimed. An impossible tail counts: taking will say so.
    fn has_some(&self, lane: u16, reader: &LaneReader<S>) -> bool {
        reader.published(self.claim_position(lane)) != Some(0)
    }

    /// Looks at one lane, a further one at each call: names it if it has something, whatever its hint says.
    pub fn patrol(&mut self) -> Option<u16> {
        self.choice.patrol = (self.choice.patrol + 1) % self.order.len().max(1);
        let lane = *self.order.get(self.choice.patrol)?;
        self.lane(lane).is_some_and(|reader| self.has_some(lane, reader)).then_some(lane)
    }

    /// Whether anything could be taken now, from any lane or by taking over: reads every lane's words.
    pub fn anything_to_take(&self) -> bool {
        self.anything_to_take_of(&self.order, |_| true)
    }

    /// Whether anything could be taken now from one of these lanes, or by taking over what is of a lane that
    /// `offers` names.
    pub fn anything_to_take_of(&self, lanes: &[u16], offers: impl Fn(u16) -> bool) -> bool {
        let occupied = self.returned && self.is_on_offer();
        // Of lanes that go on from each other the first that has something may be taken from, so it does not
        // matter which: only that none of them is unknown.
        let published = |&lane: &u16| {
            self.lane(lane).filter(|reader| !reader.corrupt).is_some_and(|reader| {
                self.has_some(lane, reader) && (reader.open || self.first_of_chain(lane).is_some())
            })
        };
        (self.anything_offered() && self.could_take_over(occupied, &offers))
            || (!occupied && lanes.iter().any(published))
    }

    /// Whether some offer is there that this receiver could take over: of a lane that it has, and that nobody
    /// else is about to take.
    fn could_take_over(&self, occupied: bool, lanes: impl Fn(u16) -> bool) -> bool {
        (0u16..).zip(self.cursors.slots.iter()).any(|(slot, cell)| {
            is_offered(&self.cursors, slot)
                && (slot == self.slot || !occupied)
                && cell.taker.load(Acquire) == 0
                && Hold::from_word(cell.hold.load(Acquire)).is_some_and(|hold| {
                    // What cannot be true nobody takes over.
                    let end = Position::new(cell.end.load(Relaxed));
                    lanes(hold.lane) && self.plausible(hold, end)
                })
        })
    }

    /// Claims as [`Self::claim_next`] does, but looks only where a hint says that there may be something.
    ///
    /// # Errors
    /// [`Malformed`]: that lane is left alone from now on.
    pub fn claim_hinted(&mut self, hints: Hints<'_>) -> Result<bool, Malformed> {
        if self.returned || self.unreported.is_some() {
            return self.claim_next();
        }
        let last = self.order.get(self.turn).copied().unwrap_or_default();
        // Whoever is found begins a turn: those behind the last one are asked first.
        self.turn_records = 0;
        hints::scan(
            hints,
            |_| u64::MAX,
            last,
            |lane| {
                let claimed = self.claim_as_hinted(lane, hints)?;
                if let (true, Some(reader)) = (claimed, self.lane(lane)) {
                    self.turn = reader.place;
                }
                Ok(claimed)
            },
        )
    }

    /// Claims of a lane whose hint was found. Where it has something, but another is to be emptied before, it keeps
    /// the hint: its sender may have nothing more to send that would give it anew.
    fn claim_as_hinted(&mut self, lane: u16, hints: Hints<'_>) -> Result<bool, Malformed> {
        // A hint of a lane that is not attached (yet) is as good as none.
        if usize::from(lane) >= self.lanes.len() {
            return Ok(false);
        }
        let claimed = self.claim_from(lane)?;
        let waits =
            |reader: &LaneReader<S>| !reader.open && !reader.corrupt && self.has_some(lane, reader);
        if !claimed && self.lane(lane).is_some_and(waits) {
            hints.give_again(lane);
        }
        Ok(claimed)
    }

    /// Claims one record of one of these lanes, the first that has something.
    ///
    /// # Errors
    /// [`Malformed`]: that lane is left alone from now on.
    pub fn claim_one_of(&mut self, lanes: &[u16]) -> Result<Option<u16>, Malformed> {
        if let Some(malformed) = self.unreported.take() {
            return Err(malformed);
        }
        if !self.has_free_hands() {
            return Ok(None);
        }
        let reach = self.set_reach(Reach::ONE);
        let mut lanes = lanes.iter();
        let claimed = lanes.find_map(|&lane| match self.claim_from(lane) {
            Ok(false) => None,
            Ok(true) => Some(Ok(lane)),
            Err(malformed) => Some(Err(malformed)),
        });
        self.set_reach(reach);
        claimed.transpose()
    }

    /// Claims one record of the highest priority, at least `floor`, that has any. `hints` are looked at where a
    /// priority has many lanes; if it is `full`, every lane is.
    ///
    /// # Errors
    /// [`Malformed`]: that lane is left alone from now on.
    pub fn claim_highest<'a>(
        &mut self,
        floor: u8,
        hints: impl Iterator<Item = Hints<'a>> + Clone,
        full: bool,
    ) -> Result<bool, Malformed> {
        if let Some(malformed) = self.unreported.take() {
            return Err(malformed);
        }
        if !self.has_free_hands() {
            return Ok(false);
        }
        if self.choice.outdated {
            self.sort_by_priority();
        }
        let mut classes = std::mem::take(&mut self.choice.classes);
        let mut claimed = Ok(false);
        for class in classes.iter_mut().take_while(|class| class.priority >= floor) {
            claimed = self.claim_of_class(class, hints.clone(), full);
            if !matches!(claimed, Ok(false)) {
                break;
            }
        }
        self.choice.classes = classes;
        claimed
    }

    fn claim_of_class<'a>(
        &mut self,
        class: &mut Class,
        mut hints: impl Iterator<Item = Hints<'a>>,
        full: bool,
    ) -> Result<bool, Malformed> {
        if class.records >= TURN_RECORDS {
            class.records = 0;
        } else if class.lanes.binary_search(&class.last).is_ok() && self.claim_from(class.last)? {
            class.note_turn(class.last);
            return Ok(true);
        }
        if full || class.lanes.len() <= LANES_WITHOUT_HINTS {
            let first = class.lanes.partition_point(|&lane| lane <= class.last);
            for step in 0..class.lanes.len() {
                let lane = class.lanes[(first + step) % class.lanes.len()];
                if self.claim_from(lane)? {
                    class.note_turn(lane);
                    return Ok(true);
                }
            }
            return Ok(false);
        }
        hints.try_fold(false, |claimed, hints| {
            if claimed {
                return Ok(true);
            }
            let mask = |word| class.mask.get(word).copied().unwrap_or(0);
            let mut from = None;
            let claimed = hints::scan(hints, mask, class.last, |lane| {
                from = Some(lane);
                self.claim_as_hinted(lane, hints)
            })?;
            if let (true, Some(lane)) = (claimed, from) {
                class.note_turn(lane);
            }
            Ok(claimed)
        })
    }

    fn sort_by_priority(&mut self) {
        let before = std::mem::take(&mut self.choice.classes);
        let priority = |lane: u16| self.lane(lane).map_or(0, |reader| reader.standing.priority);
        let mut lanes = self.order.clone();
        lanes.sort_unstable_by_key(|&lane| (Reverse(priority(lane)), lane));
        let mut classes: Vec<Class> = Vec::new();
        for lane in lanes {
            let priority = priority(lane);
            if classes.last().is_none_or(|class| class.priority != priority) {
                let known = before.iter().find(|class| class.priority == priority);
                let (last, records) = known.map_or((0, 0), |class| (class.last, class.records));
                classes.push(Class { priority, last, records, ..Class::default() });
            }
            if let Some(class) = classes.last_mut() {
                class.add(lane);
            }
        }
        self.choice.classes = classes;
        self.choice.outdated = false;
    }

    /// Of the first records of these lanes, or of all, the one that arrived first, among those of the highest priority.
    ///
    /// A message that arrived before one that is found now may have come into a lane that was looked at
    /// before: but then it was there when the other was found. So a second look finds it, and what that finds is
    /// the earliest, if it is no later than what the first has found ([`Head::is_settled_by`]).
    pub fn earliest(&self, lanes: Option<&[u16]>) -> Option<Head> {
        let heads = lanes.unwrap_or(&self.order).iter().filter_map(|&lane| self.head(lane));
        heads.min_by_key(|head| head.key)
    }

    /// The first unclaimed record of a lane, or of the first of those that it goes on from that has one.
    fn head(&self, lane: u16) -> Option<Head> {
        let reader = self.lane(lane).filter(|reader| !reader.corrupt)?;
        let lane = if reader.open { lane } else { self.first_of_chain(lane)? };
        let reader = self.lane(lane)?;
        let position = self.claim_position(lane);
        let available = reader.published(position);
        if available == Some(0) {
            return None;
        }
        // What is impossible comes first: claiming it tells why.
        let record = available.and_then(|available| reader.record(position, available));
        let stamp = record.map_or(0, |_| reader.storage().header(position).stamp);
        Some(Head { lane, position, key: (Reverse(reader.standing.priority), stamp) })
    }

    /// Claims a record that was found to be the earliest, unless somebody else has meanwhile, or is just taking over
    /// what this receiver has returned.
    ///
    /// # Errors
    /// [`Malformed`]: the lane is left alone from now on.
    pub fn claim_head(&mut self, head: Head) -> Result<bool, Malformed> {
        if !self.has_free_hands() {
            return Ok(false);
        }
        let reach = self.set_reach(Reach::ONE);
        let claimed = self.claim_if(head.lane, |claim| claim == head.position);
        self.set_reach(reach);
        claimed
    }
}
