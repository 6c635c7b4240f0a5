//! One lane from a receiver's side: what is published, and what stands there.

use crate::lane::beside::Found;
use crate::lane::lag::Lag;
use crate::lane::layout::LaneHeader;
use crate::lane::order::Standing;
use crate::lane::position::Position;
use crate::lane::record::{RecordWord, Storage};
use crate::lane::withdraw::is_withdrawn;
use crate::sync::AtomicU64;
use crate::sync::Ordering::Acquire;
use crate::sys::mapping::Shared;

/// A lane as a receiver sees it.
#[derive(Debug)]
pub struct LaneReader<S> {
    pub(super) storage: S,
    pub(super) header: Shared<LaneHeader>,
    /// Who has the record that the sender wants back; `None` where that is not to be known.
    pub(super) verdict: Option<Shared<AtomicU64>>,
    /// The tail as last seen.
    pub(super) tail: Position,
    /// Which of its slot's lanes it is.
    pub(super) generation: u32,
    /// Something impossible was found in it: it is left alone.
    pub(super) corrupt: bool,
    /// Its records may be taken: it is not corrupt, and no other lane is to be emptied first.
    pub(super) open: bool,
    /// What comes before it.
    pub(super) standing: Standing,
    /// Where it stands in the order of turns.
    pub(super) place: usize,
    /// The last message that came alone was found beside the tail.
    pub(super) beside: bool,
    /// How long its tail is left alone.
    pub(super) lag: Lag,
}

/// What lies behind a claim.
pub(super) struct Seen {
    /// Granules that are published; means something only where that is `possible`.
    pub(super) published: u64,
    /// No more than the lane has.
    pub(super) possible: bool,
    /// Granules of the first record, if it is one.
    pub(super) granules: Option<u64>,
    /// That record, where it was found beside the tail.
    pub(super) beside: Found,
    /// The tail was read for this.
    pub(super) anew: bool,
}

impl<S: Storage> LaneReader<S> {
    /// The reading end of a lane that began at `first`.
    pub fn new(storage: S, header: Shared<LaneHeader>, first: Position, generation: u32) -> Self {
        let standing = Standing::default();
        Self {
            storage,
            header,
            verdict: None,
            tail: first,
            generation,
            corrupt: false,
            open: true,
            standing,
            place: 0,
            beside: false,
            lag: Lag::default(),
        }
    }

    /// The same, of this priority and behind this lane.
    #[must_use]
    pub fn standing(self, standing: Standing) -> Self {
        Self { open: standing.after.is_none(), standing, ..self }
    }

    /// The same, with its verdict: without one no record is known to be withdrawn before its mark is final.
    #[must_use]
    pub fn with_verdict(self, verdict: Option<Shared<AtomicU64>>) -> Self {
        Self { verdict, ..self }
    }

    /// Leaves it alone from now on.
    pub(super) fn spoil(&mut self) {
        self.corrupt = true;
        self.open = false;
    }

    /// The sender's words.
    pub fn header(&self) -> &LaneHeader {
        &self.header
    }

    /// A view of the sender's words that outlives this reader.
    pub fn shared_header(&self) -> Shared<LaneHeader> {
        self.header.clone()
    }

    /// What lies between the claim and the tail, if it can be true.
    pub fn published(&self, claim: Position) -> Option<u64> {
        // PAIR(publish): Acquire here, Release in `ring::LaneWriter::publish`.
        let tail = Position::new(self.header.tail.load(Acquire));
        u64::try_from(tail.since(claim)).ok().filter(|&n| n <= self.storage.capacity())
    }

    /// The checked first word of a record at `at` with at most `available` granules behind it.
    #[inline]
    pub fn record(&self, at: Position, available: u64) -> Option<RecordWord> {
        let word = self.storage.word(at);
        (word.granules() <= available).then_some(word)
    }

    /// What lies behind a claim, as far as is known, or else as the tail has it now; `None` is nothing.
    #[inline(always)]
    pub(super) fn look(&mut self, claim: Position) -> Option<Seen> {
        let known = self.tail.since(claim);
        let anew = known <= 0;
        let (published, beside) = match anew {
            false => (known, Found::default()),
            true => self.look_behind(claim),
        };
        if published == 0 {
            return None;
        }
        let possible = published > 0 && published as u64 <= self.storage.capacity();
        let published = published as u64;
        let record = match possible {
            true if beside.is_nothing() => self.record(claim, published),
            true => Some(beside.word()),
            false => None,
        };
        let granules = record.map(RecordWord::granules);
        Some(Seen { published, possible, granules, beside, anew })
    }

    /// Granules that are published behind a claim up to which everything is known, and the record there, where it was found
    /// beside the tail: only then, for that line is the sender's to write.
    #[inline(always)]
    fn look_behind(&mut self, claim: Position) -> (i64, Found) {
        self.lag.keep();
        // PAIR(publish): Acquire here, Release in `ring::LaneWriter::publish`.
        self.tail = Position::new(self.header.tail.load(Acquire));
        if self.tail == claim {
            self.lag.found_nothing();
            return (0, Found::default());
        }
        if self.lag.is_to_be_tried() {
            self.try_lag();
        }
        let published = self.tail.since(claim);
        let found = self.header.beside.find(claim, published as u64);
        self.beside &= !found.is_nothing();
        (published, found)
    }

    /// Looks whether anything comes in a while.
    #[cold]
    fn try_lag(&mut self) {
        Lag::wait_for_more();
        // PAIR(publish): as above.
        let later = Position::new(self.header.tail.load(Acquire));
        self.lag.tried(later != self.tail);
        self.tail = later;
    }

    /// Copies the payload of a record that was found beside the tail, if it stands there still, whole.
    #[inline(always)]
    pub(super) fn copy_beside(&mut self, found: Found, into: &mut S::Payload) -> bool {
        let mut copied = false;
        let copy = |words: &[AtomicU64]| copied = S::copy_words(words, found.word(), into);
        self.beside = self.header.beside.read(found, copy) && copied;
        self.beside
    }

    /// What comes is fetched, if it is to be where the last came from: with each look, and behind the look at the tail, it
    /// is read sooner.
    #[inline]
    pub(super) fn expect_news(&self, tail: Position) {
        if self.beside {
            S::expect_word(self.header.beside.second_line());
        } else {
            self.storage.expect_read(tail);
        }
    }

    /// Whether the sender of a record at `at` has it back.
    pub fn is_withdrawn(&self, at: Position, word: RecordWord) -> bool {
        is_withdrawn(self.verdict.as_deref(), at, word.flags())
    }

    /// Where the records are.
    pub fn storage(&self) -> &S {
        &self.storage
    }
}
