//! Records in mapped memory.
//!
//! The data of a lane is mapped twice, back to back, so a record lies in one piece wherever it begins.
//! Headers are atomics, since a receiver may read one that is just being overwritten (its claim then
//! fails). Payloads are copied with raw pointers: there is never a reference to bytes that another
//! process may write. Two places make references, and say why they may: what a sender has reserved
//! (`RingMemory::reserved`), and what a receiver reads in place, who has to vouch for that
//! ([`TrustedSenders`]).

#![expect(unsafe_code, reason = "copies payloads in and out of memory that other processes write")]

use std::ptr::NonNull;
use std::sync::Arc;

use crate::lane::layout::lane_data_offset;
use crate::lane::position::{
    GRANULE_BYTES, GRANULES_A_LINE, Position, RECORD_HEADER_BYTES, record_granules,
};
use crate::lane::record::{Marks, RecordHeader, RecordWord, Storage};
use crate::lane::ring::LaneWriter;
use crate::lane::withdraw::Record;
use crate::sync::AtomicU64;
use crate::sync::Ordering::{Relaxed, Release};
use crate::sys::mapping::Mapping;

mod copy;
mod payload;

use copy::{SHORT_BYTES, VECTOR_BYTES, copy_in, copy_padded};
pub use payload::{Payload, TrustedSenders};

/// The data of one mapped lane.
#[derive(Debug)]
pub struct RingMemory {
    /// First byte of the data. **Invariant:** twice `capacity` granules lie behind it, mapped, the
    /// second half showing the same memory as the first; `keeper` keeps them mapped.
    data: NonNull<u8>,
    /// A power of two.
    capacity: u64,
    /// Where the data begins in the mapping.
    offset: usize,
    keeper: Arc<Mapping>,
}

// SAFETY: the memory stays mapped whichever thread uses it (`keeper`), and all access is by atomics or
// by raw copies whose exclusion is the lane's protocol, not the thread.
unsafe impl Send for RingMemory {}

impl RingMemory {
    /// The data of a lane mapped by `LaneWords::map` with this capacity.
    ///
    /// # Panics
    /// If the mapping is not a lane of that capacity: our own bug.
    #[must_use]
    pub fn new(mapping: &Arc<Mapping>, capacity_bytes: u64) -> Self {
        let capacity = capacity_bytes as usize;
        assert!(capacity.is_power_of_two() && capacity >= GRANULE_BYTES, "not a lane's capacity");
        let offset = lane_data_offset(capacity_bytes) as usize;
        assert_eq!(mapping.len(), offset + 2 * capacity, "not a lane's mapping");
        // SAFETY: the mapping is longer than what lies before the data, checked one line above.
        let data = unsafe { mapping.base().add(offset) };
        let capacity = (capacity / GRANULE_BYTES) as u64;
        Self { data, capacity, offset, keeper: mapping.clone() }
    }

    /// The first byte of the granule at a position; a whole capacity lies mapped behind it.
    #[inline]
    fn granule(&self, at: Position) -> NonNull<u8> {
        let index = (at.get() & (self.capacity - 1)) as usize;
        // SAFETY: index < capacity, and two capacities are mapped behind `data` (invariant).
        unsafe { self.data.add(index * GRANULE_BYTES) }
    }

    /// The bytes behind the beginning of a record: `len` of them, from `offset` on.
    ///
    /// # Panics
    /// If there are more than the lane has: our own bug.
    pub(super) fn bytes_of(&self, first: Position, offset: usize, len: usize) -> *const u8 {
        let end = offset.saturating_add(len);
        assert!(end <= self.capacity_bytes(), "a batch longer than its lane");
        self.granule(first).as_ptr().wrapping_add(offset)
    }

    /// The records' headers, to be marked.
    #[must_use]
    pub fn marks(&self) -> RecordMarks {
        let Self { data, capacity, keeper, .. } = self;
        RecordMarks { data: *data, capacity: *capacity, _keeper: keeper.clone() }
    }

    /// Bytes of the whole lane.
    fn capacity_bytes(&self) -> usize {
        self.capacity as usize * GRANULE_BYTES
    }

    /// The payload of the record that is about to be written at a position, so many bytes behind its beginning: whatever
    /// lay there before.
    ///
    /// # Panics
    /// If it is longer than the lane: our own bug.
    #[inline]
    fn reserved(&mut self, at: Position, offset: usize, len: usize) -> &mut [u8] {
        assert!(
            offset.saturating_add(len) <= self.capacity_bytes(),
            "a record longer than its lane"
        );
        let pointer = self.granule(at).as_ptr().wrapping_add(offset);
        // SAFETY: what stands in front and the payload take at most a capacity (asserted), mapped behind the granule, and
        // any byte is a value. Nobody else writes there: only this mapping of the lane is writable (its descriptor
        // is closed, receivers get read-only ones, `ipcd` maps none and writes there only before it hands the lane to
        // anybody), this storage alone reaches into it, the
        // second showing of the same bytes included, and it is borrowed as long as the slice. Nobody here reads
        // there either: it lies behind the tail and before the limit up to which `ring::LaneWriter` found room.
        // A late claim reads headers there through a mapping of its own, as atomics, and fails.
        unsafe { std::slice::from_raw_parts_mut(pointer, len) }
    }

    #[inline]
    fn first(&self, at: Position) -> &AtomicU64 {
        word(self, self.granule(at).cast())
    }

    #[inline]
    fn second(&self, at: Position) -> &AtomicU64 {
        // SAFETY: `granule` gives 16 mapped bytes, aligned to 16 since the data begins on a page.
        let second = unsafe { self.granule(at).cast::<AtomicU64>().add(1) };
        word(self, second)
    }
}

#[inline]
fn word(_lifetime: &RingMemory, pointer: NonNull<AtomicU64>) -> &AtomicU64 {
    // SAFETY: the callers above give mapped, aligned words; every bit pattern is a value; the reference
    // does not outlive the RingMemory, which keeps the mapping.
    unsafe { pointer.as_ref() }
}

impl Storage for RingMemory {
    type Payload = Payload;

    #[inline]
    fn capacity(&self) -> u64 {
        self.capacity
    }

    #[inline]
    fn write_header(&self, at: Position, header: RecordHeader) {
        let word = header.word();
        // Relaxed: published by the tail.
        self.first(at).store(word.get(), Relaxed);
        if word.is_stamped() {
            self.second(at).store(header.stamp, Relaxed);
        }
    }

    #[inline]
    fn write(&self, at: Position, header: RecordHeader, payload: &[u8]) {
        let word = header.word();
        assert_eq!(word.payload_len(), payload.len(), "a header of another record");
        assert!(word.granules() <= self.capacity, "a record longer than its lane");
        self.write_header(at, header);
        let target = self.granule(at).as_ptr().wrapping_add(word.payload_offset());
        // SAFETY: `payload` is readable and is not in the ring (no reference into it exists); header and
        // payload take at most a capacity (asserted), which is mapped behind the granule.
        unsafe { copy_in(payload.as_ptr(), target, payload.len()) };
    }

    #[inline(always)]
    fn write_message(&self, at: Position, granules: u64, payload: &[u8]) {
        let word = RecordWord::message(payload.len());
        assert_eq!(granules, record_granules(payload.len()), "the length of another record");
        assert!(granules <= self.capacity, "a record longer than its lane");
        // Relaxed: published by the tail.
        self.first(at).store(word.get(), Relaxed);
        let target = self.granule(at).as_ptr().wrapping_add(RECORD_HEADER_BYTES);
        // SAFETY: as in `write`.
        unsafe { copy_in(payload.as_ptr(), target, payload.len()) };
    }

    #[inline]
    fn header(&self, at: Position) -> RecordHeader {
        // Relaxed: ordered by the tail that was read before; a stale header is told by the claim.
        RecordHeader::from_words(self.word(at), || self.second(at).load(Relaxed))
    }

    #[inline]
    fn word(&self, at: Position) -> RecordWord {
        // Relaxed: as in `header`.
        RecordWord::new(self.first(at).load(Relaxed))
    }

    #[inline]
    fn count_records(&self, at: Position, granules: u64, records_max: u32) -> (u64, u32) {
        let granules = granules.min(self.capacity);
        let begin = self.granule(at).cast::<AtomicU64>();
        let (mut taken, mut records) = (0, 0);
        while records < records_max && taken < granules {
            // SAFETY: at most a capacity lies mapped behind the granule, and this word in it.
            let first = unsafe { begin.byte_add(taken as usize * GRANULE_BYTES) };
            // Relaxed: as in `header`.
            let word = RecordWord::new(word(self, first).load(Relaxed));
            let end = taken + word.plain_granules().unwrap_or_else(|| granules_of_other(word));
            if end > granules {
                break;
            }
            taken = end;
            records += 1;
        }
        (taken, records)
    }

    fn copy_out(&self, at: Position, word: RecordWord, into: &mut Payload) {
        let granules = word.granules();
        assert!(granules <= self.capacity, "a record longer than its lane");
        let (offset, len) = (word.payload_offset(), word.payload_len());
        let source = self.granule(at).as_ptr().wrapping_add(offset);
        if into.views() {
            into.view(source, len);
            into.part(word);
            return;
        }
        let target = into.room(len);
        let padded = granules as usize * GRANULE_BYTES - offset;
        // SAFETY: the record takes at most a capacity (asserted), mapped behind the granule, and its payload with what
        // pads it the `padded` bytes from `source` on; `room` gives space for a granule more than `len`, and is not in the
        // ring.
        unsafe { copy_padded(source, target, padded, len) };
        into.is_copied(len);
        into.part(word);
    }

    #[inline(always)]
    fn copy_message_out(&self, at: Position, word: RecordWord, granules: u64, into: &mut Payload) {
        let len = word.payload_len();
        let padded = granules as usize * GRANULE_BYTES - RECORD_HEADER_BYTES;
        assert!(granules <= self.capacity, "a record longer than its lane");
        let source = self.granule(at).as_ptr().wrapping_add(RECORD_HEADER_BYTES);
        if into.views() {
            return into.view(source, len);
        }
        match into.room_for_short() {
            // SAFETY: as in `copy_out`; there is space for the longest short payload and a granule.
            Some(target) if padded <= SHORT_BYTES => unsafe {
                copy_padded(source, target, padded, len)
            },
            _ => return self.copy_out(at, word, into),
        }
        into.is_copied(len);
    }

    fn copy_run(&self, at: Position, granules: u64, into: &mut Payload) -> bool {
        if into.views() || granules > self.capacity {
            return false;
        }
        // SAFETY: so many granules lie mapped behind this one: at most a capacity.
        unsafe { into.copy_run(self.granule(at).as_ptr(), granules) }
    }

    #[inline(always)]
    fn show_copied(ahead: u64, into: &mut Payload) -> Option<(RecordWord, u64)> {
        into.show_copied(ahead)
    }

    #[inline(always)]
    fn copy_words(words: &[AtomicU64], word: RecordWord, into: &mut Payload) -> bool {
        let len = word.payload_len();
        if into.views() {
            return false;
        }
        assert!(len <= size_of_val(words), "the words of another message");
        let mut target = into.room(size_of_val(words)).cast::<u64>();
        let mut put = |word: &AtomicU64| {
            // Relaxed: the caller orders them.
            let bytes = word.load(Relaxed);
            // SAFETY: `room` gives space for all of the words.
            unsafe { target.write_unaligned(bytes) };
            target = target.wrapping_add(1);
        };
        // Four in a step, and some of them for nothing: who waits for the message waits for this.
        let (fours, rest) = words.as_chunks::<4>();
        let whole = 4 * size_of::<u64>();
        fours.iter().take(len.div_ceil(whole)).for_each(|four| four.iter().for_each(&mut put));
        if len > whole * fours.len() {
            rest.iter().for_each(put);
        }
        into.is_copied(len);
        into.part(word);
        true
    }

    #[inline]
    fn expect_read(&self, at: Position) {
        prefetch::<false>(self.granule(at).as_ptr());
    }

    #[inline]
    fn expect_word(word: &AtomicU64) {
        prefetch::<false>(word.as_ptr().cast());
    }

    #[inline]
    fn expect_write(&self, at: Position) {
        prefetch::<true>(self.granule(at).as_ptr());
    }

    #[inline(always)]
    fn expect_writes(&self, at: Position, granules: u64, behind: u64) {
        if granules > (VECTOR_BYTES / GRANULE_BYTES) as u64 {
            return;
        }
        let begin = self.granule(at).as_ptr().wrapping_add(behind as usize * GRANULE_BYTES);
        let end = begin.addr() + granules as usize * GRANULE_BYTES;
        // Each line once: where it begins.
        let mut line = begin.wrapping_add(begin.align_offset(LINE_BYTES));
        while line.addr() < end {
            prefetch_line::<true>(line);
            line = line.wrapping_add(LINE_BYTES);
        }
    }

    fn prepare(&self, at: Position, granules: u64) -> std::io::Result<()> {
        let index = (at.get() & (self.capacity - 1)) as usize;
        let offset = self.offset + index * GRANULE_BYTES;
        self.keeper.populate(offset, granules as usize * GRANULE_BYTES)
    }
}

/// Apart from those of a plain message: else the processor counts both for each.
#[inline(never)]
fn granules_of_other(word: RecordWord) -> u64 {
    word.granules()
}

impl LaneWriter<RingMemory> {
    /// The payload of the record that is written next, of so many bytes: whatever lay there before. There must be room
    /// ([`Self::has_room`]).
    #[inline]
    pub fn reserved(&mut self, len: usize) -> &mut [u8] {
        let offset = self.payload_offset();
        let (memory, at) = self.next_record();
        memory.reserved(at, offset, len)
    }

    /// Publishes what was written there, all of it.
    pub fn publish_written(&mut self, kind: u8, len: usize) {
        let Record { at, word } = self.record_to_come(kind, len);
        let offset = self.payload_offset();
        self.header.beside.write(at, word, self.storage.reserved(at, offset, len));
        self.append_written(kind, len);
        self.publish_shown();
    }
}

/// The headers of a lane's records, to be marked by whoever sent them, from any thread.
#[derive(Debug)]
pub struct RecordMarks {
    /// As in [`RingMemory`].
    data: NonNull<u8>,
    capacity: u64,
    _keeper: Arc<Mapping>,
}

// SAFETY: the memory stays mapped whichever thread uses it (`_keeper`), and all access is by atomics.
unsafe impl Send for RecordMarks {}
// SAFETY: as above.
unsafe impl Sync for RecordMarks {}

impl Marks for RecordMarks {
    fn mark(&self, at: Position, word: RecordWord) {
        let index = (at.get() & (self.capacity - 1)) as usize;
        // SAFETY: index < capacity, and two capacities are mapped behind `data` (invariant of `RingMemory`,
        // whose pointer this is).
        let first = unsafe { self.data.add(index * GRANULE_BYTES) }.cast::<AtomicU64>();
        // SAFETY: 16 mapped bytes, aligned to 16 since the data begins on a page; every bit pattern is a value.
        // It is the header of a record that was published and that nobody writes anew meanwhile (the caller of
        // `withdraw` sees to that), so no slice of `RingMemory::reserved` covers it.
        let first = unsafe { first.as_ref() };
        // PAIR(mark): Release here, Acquire in `withdraw::is_to_be_handed_out`; the verdict is seen.
        first.store(word.get(), Release);
    }
}

/// Bytes of a cache line.
const LINE_BYTES: usize = GRANULES_A_LINE as usize * GRANULE_BYTES;

/// Has the beginning of a record fetched, header and first bytes, to be read or written.
#[inline]
fn prefetch<const WRITE: bool>(record: *const u8) {
    prefetch_line::<WRITE>(record);
    prefetch_line::<WRITE>(record.wrapping_add(GRANULE_BYTES));
}

/// Has a line fetched, to be read or written.
#[inline]
fn prefetch_line<const WRITE: bool>(pointer: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        if WRITE {
            // Not `_MM_HINT_ET0`: compiled for any x86-64 that fetches the line to be read, and then the store has
            // to wait for it once more.
            // SAFETY: the instruction has no effect but on the cache, whatever the address; processors that do not
            // know it do nothing.
            unsafe {
                std::arch::asm!("prefetchw [{}]", in(reg) pointer, options(nostack, preserves_flags, readonly));
            }
        } else {
            // SAFETY: a prefetch has no effect but on the cache, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(pointer.cast()) };
        }
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = pointer;
}
