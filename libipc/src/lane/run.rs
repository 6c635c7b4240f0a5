//! A run: records of one lane that a receiver has claimed in one step, and how they are handed out of it,
//! one after the other, or several at once.

use crate::lane::position::{Position, record_granules};
use crate::lane::ring::{RECORDS_AHEAD, RecordHeader, Storage};
use crate::lane::withdraw::is_to_be_handed_out;
use crate::sync::AtomicU64;

/// How far a claim may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Records, at most.
    records: u32,
    /// Granules, at most, and never more than a quarter of the lane, if that is not small: a run is room that
    /// its sender lacks. The first record may be longer.
    granules: u64,
    /// Nothing of the records is read but their beginnings.
    in_place: bool,
}

impl Reach {
    /// Records of the longest batch: beyond that one claim more is nothing.
    pub const BATCH_RECORDS_MAX: usize = 4096;
    /// Granules of the longest batch that is copied: 1 MiB, so that it is still in the cache when it is read.
    const COPIED_GRANULES_MAX: u64 = (1 << 20) / 16;
    /// Records that the only receiver of a mailbox claims with one step, unasked.
    const ALONE_RECORDS: u32 = 16;
    /// Granules of such a run where messages are copied: what comes behind long ones is left to others.
    const ALONE_GRANULES: u64 = 256;

    /// A record at a time: others wait for the next.
    pub const ONE: Self = Self { records: 1, granules: 0, in_place: false };

    /// What the only receiver of a mailbox claims unasked. In place the bytes cost nothing: the records count.
    pub fn alone(in_place: bool) -> Self {
        let granules = if in_place { u64::MAX } else { Self::ALONE_GRANULES };
        Self { records: Self::ALONE_RECORDS, granules, in_place }
    }

    /// What a receiver claims that has asked for a batch.
    pub fn batch(records: usize, in_place: bool) -> Self {
        let granules = if in_place { u64::MAX } else { Self::COPIED_GRANULES_MAX };
        let records = records.clamp(1, Self::BATCH_RECORDS_MAX) as u32;
        Self { records, granules, in_place }
    }

    /// Goes on from the end of a first record over the records behind it: the end of the run, and how many
    /// records it has.
    #[inline]
    pub(super) fn extend(
        self,
        storage: &impl Storage,
        tail: Position,
        begin: Position,
        first_end: Position,
    ) -> (Position, u32) {
        if self.records == 1 || tail.since(first_end) <= 0 {
            return (first_end, 1);
        }
        self.extend_further(storage, tail, begin, first_end)
    }

    fn extend_further(
        self,
        storage: &impl Storage,
        tail: Position,
        begin: Position,
        first_end: Position,
    ) -> (Position, u32) {
        let (mut end, mut records) = (first_end, 1);
        let granules_max = self.granules.min((storage.capacity() / 4).max(Self::ALONE_GRANULES));
        if self.in_place {
            let granules = first_end.since(begin) as u64;
            (1..RECORDS_AHEAD).for_each(|n| expect(storage, tail, begin.advance(granules * n)));
        }
        while records < self.records {
            let left = tail.since(end);
            if left <= 0 {
                break;
            }
            // A malformed header ends the run before it: it is found out when its turn comes.
            let Some(header) = record(storage, end, left as u64) else { break };
            let next = end.advance(header.granules());
            if self.in_place {
                expect(storage, tail, end.advance(header.granules() * RECORDS_AHEAD));
            }
            if next.since(begin) as u64 > granules_max {
                break;
            }
            end = next;
            records += 1;
        }
        (end, records)
    }
}

/// Records of one lane that this receiver owns and has not acknowledged: those from `next` to `end`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Run {
    pub(super) next: Position,
    /// Behind the last record in hand; `next` if none is.
    pub(super) in_hand: Position,
    /// `next` if there is no run.
    pub(super) end: Position,
    pub(super) lane: u16,
    /// How often the records before `marked_end` have been handed out before; the others never were.
    pub(super) attempts: u32,
    /// Means something only where `attempts` is not 0.
    pub(super) marked_end: Position,
    /// What the record handed out last is: see [`RecordHeader`].
    pub(super) kind: u8,
}

/// Why a record is not handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotHandedOut {
    /// It is none.
    Malformed,
    /// Its sender has it back; it ends there.
    Withdrawn(Position),
}

impl Run {
    /// Records that were just claimed: nobody had them before.
    pub(super) fn new(lane: u16, next: Position, end: Position) -> Self {
        let kind = RecordHeader::MESSAGE;
        Self { next, in_hand: next, end, lane, attempts: 0, marked_end: next, kind }
    }

    #[inline]
    pub(super) fn is_over(&self) -> bool {
        self.next == self.end
    }

    /// Gives up what is left: nothing in hand, nothing to come.
    pub(super) fn finish(&mut self) {
        self.next = self.end;
        self.in_hand = self.end;
    }

    /// How often the record at `at` has been handed out before.
    pub(super) fn attempts_at(&self, at: Position) -> u32 {
        if self.marked_end.since(at) > 0 { self.attempts } else { 0 }
    }

    /// Hands out the record at `in_hand`, if it is what a record can be and its sender has not taken it back:
    /// returns the length of its payload, and `in_hand` is behind it. Every record that any receiver gets is
    /// handed out here, or in [`Self::hand_out_unmarked`].
    pub(super) fn hand_out(
        &mut self,
        storage: &impl Storage,
        verdict: Option<&AtomicU64>,
    ) -> Result<usize, NotHandedOut> {
        let (word, end) = self.look(storage).ok_or(NotHandedOut::Malformed)?;
        // PAIR(withdraw): the word was read behind the claim and its barrier.
        let at = self.in_hand;
        if RecordHeader::is_marked(word)
            && !is_to_be_handed_out(verdict, at, word, || storage.first_word(at))
        {
            return Err(NotHandedOut::Withdrawn(end));
        }
        Ok(self.step_over(word, end))
    }

    /// The same for a record that its sender has not marked; does nothing with any other.
    #[inline]
    pub(super) fn hand_out_unmarked(&mut self, storage: &impl Storage) -> Option<usize> {
        // PAIR(withdraw): as above.
        let (word, end) = self.look(storage)?;
        (!RecordHeader::is_marked(word)).then(|| self.step_over(word, end))
    }

    /// The first word of the record at `in_hand`, and where it ends, if that is in the run.
    #[inline]
    fn look(&self, storage: &impl Storage) -> Option<(u64, Position)> {
        // The fields one by one: the run as a whole would be loaded in pieces larger than those in which it
        // was just stored, and wait for them.
        let word = storage.first_word(self.in_hand);
        let granules = record_granules(word as u32 as usize);
        let possible = granules <= self.end.since(self.in_hand) as u64;
        possible.then(|| (word, self.in_hand.advance(granules)))
    }

    #[inline]
    fn step_over(&mut self, word: u64, end: Position) -> usize {
        self.kind = (word >> 32) as u8;
        self.in_hand = end;
        word as u32 as usize
    }
}

/// A record may begin at `at`, if that much is published: not where its sender is still writing.
#[inline]
fn expect(storage: &impl Storage, tail: Position, at: Position) {
    if tail.since(at) > 0 {
        storage.expect_read(at);
    }
}

/// The checked header of a record at `at` with at most `available` granules behind it.
#[inline]
pub(super) fn record(storage: &impl Storage, at: Position, available: u64) -> Option<RecordHeader> {
    let header = storage.header(at);
    (header.granules() <= available).then_some(header)
}
