//! A run: records of one lane that a receiver has claimed in one step, and how they are handed out of it,
//! one after the other, or several at once.

use crate::lane::beside::Found;
use crate::lane::layout::Hold;
use crate::lane::position::Position;
use crate::lane::record::{RecordWord, Storage};
use crate::lane::ring::RECORDS_AHEAD;
use crate::lane::withdraw::is_to_be_handed_out;
use crate::sync::AtomicU64;
use crate::sys::clock::ticks;

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
    /// A receiver that takes its time with a message claims few.
    paced: bool,
}

/// How quickly a receiver deals with what it claims.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// When it claimed last, in [`ticks`].
    claimed: u64,
    /// What it claimed then.
    records: u32,
}

impl Pace {
    /// Ticks for a message at most, a microsecond or two: much more than a claim costs.
    const QUICK_TICKS: u64 = 4096;
    /// Records that even the slowest claims where nobody competes.
    const SLOW_RECORDS: u32 = 2;

    /// Records that may be claimed now.
    fn next(&mut self) -> u32 {
        let now = ticks();
        let taken = now.wrapping_sub(self.claimed);
        // Counted slowly, instruction by instruction, nobody is quick.
        let quick =
            cfg!(feature = "counted") || taken <= Self::QUICK_TICKS * u64::from(self.records);
        self.claimed = now;
        if quick { self.records.saturating_mul(2) } else { 0 }.max(Self::SLOW_RECORDS)
    }
}

impl Reach {
    /// Records of the longest batch: beyond that one claim more is nothing.
    pub const BATCH_RECORDS_MAX: usize = 4096;
    /// Granules of the longest batch that is copied: 1 MiB, so that it is still in the cache when it is read.
    const COPIED_GRANULES_MAX: u64 = (1 << 20) / 16;
    /// Records that the only receiver of a mailbox claims with one step, unasked, once it is quick.
    const ALONE_RECORDS: u32 = 64;
    /// Granules of such a run where messages are copied: what comes behind long ones is left to others.
    const ALONE_GRANULES: u64 = 256;

    /// A record at a time: others wait for the next.
    pub const ONE: Self = Self { records: 1, granules: 0, in_place: false, paced: false };

    /// What the only receiver of a mailbox claims unasked. In place the bytes cost nothing: the records count.
    pub fn alone(in_place: bool) -> Self {
        let granules = if in_place { u64::MAX } else { Self::ALONE_GRANULES };
        Self { records: Self::ALONE_RECORDS, granules, in_place, paced: true }
    }

    /// Whether a run of several records is copied out before the first of them is handed out.
    pub(super) fn is_copied_whole(self) -> bool {
        self.paced && !self.in_place
    }

    /// What a receiver claims that has asked for a batch.
    pub fn batch(records: usize, in_place: bool) -> Self {
        let granules = if in_place { u64::MAX } else { Self::COPIED_GRANULES_MAX };
        let records = records.clamp(1, Self::BATCH_RECORDS_MAX) as u32;
        Self { records, granules, in_place, paced: false }
    }

    /// Goes on from a first record at `begin`, of so many granules, over those behind it: the granules of the run, and how many
    /// records it has. So many granules are published from `begin` on.
    #[inline(always)]
    pub(super) fn extend(
        &self,
        pace: &mut Pace,
        storage: &impl Storage,
        begin: Position,
        first: u64,
        published: u64,
    ) -> (u64, u32) {
        if self.records == 1 || published == first {
            return (first, 1);
        }
        self.extend_further(pace, storage, begin, first, published)
    }

    #[inline(never)]
    fn extend_further(
        &self,
        pace: &mut Pace,
        storage: &impl Storage,
        begin: Position,
        first: u64,
        published: u64,
    ) -> (u64, u32) {
        let records_max = if self.paced { self.records.min(pace.next()) } else { self.records };
        let granules_max = self.granules.min((storage.capacity() / 4).max(Self::ALONE_GRANULES));
        // How much of what is published the run may take.
        let max = published.min(granules_max);
        let (granules, records) = if self.in_place {
            Self::count_expecting(storage, begin, first, published, max, records_max)
        } else {
            let left = max.saturating_sub(first);
            let (granules, more) =
                storage.count_records(begin.advance(first), left, records_max - 1);
            (first + granules, 1 + more)
        };
        pace.records = records;
        (granules, records)
    }

    /// Counts the records of a run, and has the beginnings of those behind fetched: whoever reads in place has read nothing
    /// that is near.
    fn count_expecting(
        storage: &impl Storage,
        begin: Position,
        first: u64,
        published: u64,
        max: u64,
        records_max: u32,
    ) -> (u64, u32) {
        // A record may begin there, if that much is published: not where its sender is still writing.
        let expect = |behind: u64| {
            if behind < published {
                storage.expect_read(begin.advance(behind));
            }
        };
        (1..RECORDS_AHEAD).for_each(|n| expect(first * n));
        let (mut taken, mut records) = (first, 1);
        while records < records_max && taken < max {
            // A malformed word ends the run before it: it is found out when its turn comes.
            let granules = storage.word(begin.advance(taken)).granules();
            if granules <= published - taken {
                expect(taken + granules * RECORDS_AHEAD);
            }
            if granules > max - taken {
                break;
            }
            taken += granules;
            records += 1;
        }
        (taken, records)
    }
}

/// Records of one lane that this receiver owns and has not acknowledged.
///
/// ```text
/// next           in hand            not handed out     end
///  |---------------------------------|------------------|
///  |<-------------------- held ------------------------>|
///                                    |<----- ahead ---->|
/// ```
///
/// Two lengths rather than two positions: what is asked for each record is how they compare.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Run {
    /// Behind the last record.
    end: Position,
    /// Granules that are not acknowledged; 0 if there is no run.
    held: u64,
    /// Granules that are not handed out.
    ahead: u64,
    /// Granules at its end that were copied out in one piece, and are handed out from there.
    copied: u64,
    /// There are several records that nobody else ever had in hand: what is left is to be copied out in one piece.
    pub(super) several: bool,
    pub(super) lane: u16,
    /// Where it is one record that was found beside the tail, and has not been copied from there.
    pub(super) beside: Found,
    /// The word of a hold on that lane, without a position.
    hold: u64,
    /// How often the records before `marked_end` have been handed out before; the others never were.
    pub(super) attempts: u32,
    /// Means something only where `attempts` is not 0.
    pub(super) marked_end: Position,
    /// The first word of the record handed out last.
    pub(super) word: RecordWord,
}

/// Why a record is not handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotHandedOut {
    /// It is none.
    Malformed,
    /// Its sender has it back.
    Withdrawn(RecordWord),
}

impl Run {
    /// Records that are this receiver's: as far as is known here nobody had them before.
    pub(super) fn new(lane: u16, next: Position, end: Position) -> Self {
        Self::claimed(lane, next, end, end.since(next) as u64)
    }

    /// The same where it is known how long it is.
    #[inline(always)]
    pub(super) fn claimed(lane: u16, next: Position, end: Position, held: u64) -> Self {
        let hold = Hold { confirmed: true, lane, position: Position::new(0) }.to_word();
        Self { end, held, ahead: held, lane, hold, marked_end: next, ..Self::default() }
    }

    /// Records that others had before.
    pub(super) fn taken_over(self, attempts: u32, marked_end: Position) -> Self {
        Self { attempts, marked_end, ..self }
    }

    #[inline]
    pub(super) fn is_over(&self) -> bool {
        self.held == 0
    }

    /// The first record that is not acknowledged.
    #[inline]
    pub(super) fn next(&self) -> Position {
        self.end.back(self.held)
    }

    /// The first record that is not handed out.
    #[inline]
    pub(super) fn next_to_hand_out(&self) -> Position {
        self.end.back(self.ahead)
    }

    #[inline]
    pub(super) fn has_in_hand(&self) -> bool {
        self.held != self.ahead
    }

    /// Whether the next record that is not handed out was copied with the others, if there is one.
    #[inline(always)]
    pub(super) fn is_copied(&self) -> bool {
        self.ahead.wrapping_sub(1) < self.copied
    }

    /// From now on it counts as not copied, and is not copied any more.
    pub(super) fn forget_copy(&mut self) {
        (self.copied, self.several) = (0, false);
    }

    /// What is not handed out was copied.
    pub(super) fn note_copied(&mut self) {
        self.copied = self.ahead;
    }

    /// Whether every record has been handed out.
    pub(super) fn is_handed_out(&self) -> bool {
        self.ahead == 0
    }

    /// The word of a hold on what is not acknowledged.
    #[inline]
    pub(super) fn hold_word(&self) -> u64 {
        self.hold_word_of(self.held)
    }

    #[inline(always)]
    fn hold_word_of(&self, held: u64) -> u64 {
        if held == 0 { Hold::IDLE } else { self.hold | self.end.back(held).get() }
    }

    /// What is in hand is acknowledged; returns the word of the hold on what is left.
    #[inline(always)]
    pub(super) fn acknowledge(&mut self) -> u64 {
        let left = self.ahead;
        self.held = left;
        self.hold_word_of(left)
    }

    /// What is in hand before `first_left` is acknowledged; false if that is no record in hand.
    pub(super) fn acknowledge_before(&mut self, first_left: Position) -> bool {
        let left = self.end.since(first_left);
        let inside = left >= self.ahead as i64 && left < self.held as i64;
        if inside {
            self.held = left as u64;
        }
        inside
    }

    /// What is in hand is to be handed out anew.
    pub(super) fn take_back(&mut self) {
        self.ahead = self.held;
    }

    /// Gives up what is left: nothing in hand, nothing to come.
    pub(super) fn finish(&mut self) {
        (self.held, self.ahead) = (0, 0);
    }

    /// How often the record at `at` has been handed out before.
    pub(super) fn attempts_at(&self, at: Position) -> u32 {
        if self.marked_end.since(at) > 0 { self.attempts } else { 0 }
    }

    /// Hands out the next record, if it is what a record can be and its sender has not taken it back: it is in hand then.
    /// Every record that any receiver gets is handed out here or where nothing is to be asked about it:
    /// [`Self::hand_out_unmarked`], [`Self::hand_out_plain`], and in `claim::Claimant`.
    pub(super) fn hand_out(
        &mut self,
        storage: &impl Storage,
        verdict: Option<&AtomicU64>,
    ) -> Result<RecordWord, NotHandedOut> {
        // PAIR(withdraw): the word was read behind the claim and its barrier.
        let at = self.next_to_hand_out();
        let word = storage.word(at);
        if word.granules() > self.ahead {
            return Err(NotHandedOut::Malformed);
        }
        if word.is_marked() && !is_to_be_handed_out(verdict, at, word, || storage.word(at)) {
            return Err(NotHandedOut::Withdrawn(word));
        }
        Ok(self.step_over(word))
    }

    /// The same for a record that its sender has not marked; does nothing with any other.
    #[inline]
    pub(super) fn hand_out_unmarked(&mut self, storage: &impl Storage) -> Option<RecordWord> {
        // PAIR(withdraw): as above.
        let word = storage.word(self.next_to_hand_out());
        let plain = word.granules() <= self.ahead && !word.is_marked();
        plain.then(|| self.step_over(word))
    }

    /// The same for all messages that come next, while they have no stamp: `each` is told how many granules behind what is
    /// held each begins, and its bytes. No more than `records_max`; returns how many.
    #[inline(always)]
    pub(super) fn hand_out_plain(
        &mut self,
        storage: &impl Storage,
        records_max: usize,
        mut each: impl FnMut(u64, usize),
    ) -> usize {
        let (end, held, mut ahead) = (self.end, self.held, self.ahead);
        let (mut records, mut last) = (0, self.word);
        while records < records_max && ahead > 0 {
            // PAIR(withdraw): as above.
            let word = storage.word(end.back(ahead));
            let Some(granules) = word.plain_granules().filter(|&granules| granules <= ahead) else {
                break;
            };
            each(held - ahead, word.payload_len());
            ahead -= granules;
            (records, last) = (records + 1, word);
        }
        (self.ahead, self.word) = (ahead, last);
        records
    }

    /// A record is in hand.
    #[inline]
    pub(super) fn step_over(&mut self, word: RecordWord) -> RecordWord {
        self.step_over_granules(word, word.granules());
        word
    }

    /// The same, where it is known how long it is.
    #[inline(always)]
    pub(super) fn step_over_granules(&mut self, word: RecordWord, granules: u64) {
        self.ahead -= granules;
        self.word = word;
    }

    /// Granules that are not handed out.
    #[inline(always)]
    pub(super) fn granules_ahead(&self) -> u64 {
        self.ahead
    }
}
