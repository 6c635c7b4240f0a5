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
use crate::lane::position::{GRANULE_BYTES, Position, RECORD_HEADER_BYTES, record_granules};
use crate::lane::record::{Marks, RecordHeader, RecordWord, Storage};
use crate::lane::ring::LaneWriter;
use crate::lane::withdraw::Record;
use crate::sync::AtomicU64;
use crate::sync::Ordering::{Relaxed, Release};
use crate::sys::mapping::Mapping;

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

    fn copy_out(&self, at: Position, word: RecordWord, into: &mut Payload) {
        let granules = word.granules();
        assert!(granules <= self.capacity, "a record longer than its lane");
        let (offset, len) = (word.payload_offset(), word.payload_len());
        let source = self.granule(at).as_ptr().wrapping_add(offset);
        if into.views {
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
        (into.len, into.behind) = (len, 0);
        into.part(word);
    }

    #[inline(always)]
    fn copy_message_out(&self, at: Position, word: RecordWord, granules: u64, into: &mut Payload) {
        let len = word.payload_len();
        let padded = granules as usize * GRANULE_BYTES - RECORD_HEADER_BYTES;
        assert!(granules <= self.capacity, "a record longer than its lane");
        let source = self.granule(at).as_ptr().wrapping_add(RECORD_HEADER_BYTES);
        if into.views {
            return into.view(source, len);
        }
        if padded > SHORT_BYTES || into.buffer.capacity() < ROOM_SHORT {
            return self.copy_out(at, word, into);
        }
        // SAFETY: as in `copy_out`; the buffer has space for the longest short payload and a granule, and `at` is its
        // beginning (invariant).
        unsafe { copy_padded(source, into.at.as_ptr(), padded, len) };
        (into.len, into.behind) = (len, 0);
    }

    #[inline]
    fn copy_words(words: &[AtomicU64], word: RecordWord, into: &mut Payload) -> bool {
        let len = word.payload_len();
        if into.views {
            return false;
        }
        assert!(words.len() == len.div_ceil(8), "the words of another message");
        let mut target = into.room(len).cast::<u64>();
        let mut put = |word: &AtomicU64| {
            // Relaxed: the caller orders them.
            let bytes = word.load(Relaxed);
            // SAFETY: `room` gives space for `len` bytes and a granule, so for each word of them, aligned or not.
            unsafe { target.write_unaligned(bytes) };
            target = target.wrapping_add(1);
        };
        // Four in a step: who waits for the message waits for this.
        let (fours, rest) = words.as_chunks::<4>();
        fours.iter().for_each(|four| four.iter().for_each(&mut put));
        rest.iter().for_each(put);
        (into.len, into.behind) = (len, 0);
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

    fn prepare(&self, at: Position, granules: u64) -> std::io::Result<()> {
        let index = (at.get() & (self.capacity - 1)) as usize;
        let offset = self.offset + index * GRANULE_BYTES;
        self.keeper.populate(offset, granules as usize * GRANULE_BYTES)
    }
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

/// Has the beginning of a record fetched, header and first bytes, to be read or written.
#[inline]
fn prefetch<const WRITE: bool>(record: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    for pointer in [record, record.wrapping_add(GRANULE_BYTES)] {
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
    let _ = record;
}

/// Says that one trusts the senders of a mailbox, so that its messages can be read where they lie.
#[derive(Debug)]
pub struct TrustedSenders(());

impl TrustedSenders {
    /// I trust the senders of the mailbox for whose receiver I use this.
    ///
    /// # Safety
    /// For as long as a delivery, or a batch, of that receiver is in hand, nobody changes its bytes:
    ///
    /// - the senders of the mailbox (every process that may write to it) do not write to a message once they have
    ///   sent it. Those who send through this library do not; but their lanes are theirs, and nothing keeps a
    ///   hostile or a broken one from it;
    /// - the other receivers of the mailbox do not acknowledge, in the shared words that they may write, what they
    ///   do not hold: an honest sender would take the room up again.
    ///
    /// A child of fork does not touch what its parent has in hand: it has no such memory.
    ///
    /// Without that trust the bytes change under a reference, which is undefined behaviour.
    #[must_use]
    pub const unsafe fn new() -> Self {
        Self(())
    }
}

/// The bytes of what is in hand: copied out, into memory that is kept for the next, or seen where they lie.
///
/// **Invariant:** `at` has `len` bytes, and `behind` more: of `buffer`, or of the lane that holds the record in hand, whose
/// mapping `claim::Claimant` keeps until that is given up. The bytes are asked for only while it is held.
/// **Invariant:** while what comes next is copied (not `views`), `at` is the buffer's beginning.
#[derive(Debug)]
pub struct Payload {
    at: NonNull<u8>,
    /// Bytes of the message.
    len: usize,
    /// Bytes behind them, of a call or a reply.
    behind: usize,
    /// Always empty, as a vector: its capacity is what counts.
    buffer: Vec<u8>,
    /// What comes next is only seen, not copied.
    views: bool,
    /// Views may be shown.
    trusted: bool,
}

impl Default for Payload {
    fn default() -> Self {
        let mut buffer = Vec::new();
        let at = beginning(&mut buffer);
        Self { at, len: 0, behind: 0, buffer, views: false, trusted: false }
    }
}

// SAFETY: `at` points into `buffer`, or into a mapping, which is there for every thread; the bytes are only
// read through it.
unsafe impl Send for Payload {}
// SAFETY: as above; nothing is changed through a shared reference.
unsafe impl Sync for Payload {}

impl Payload {
    /// The bytes of the message.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the invariant. They do not change: they are our own, or somebody vouched for that
        // (`trust`); what is seen without trust is copied before it is shown (`end_batch`).
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.len) }
    }

    /// The bytes behind those of the message.
    #[must_use]
    pub fn behind(&self) -> &[u8] {
        let behind = self.at.as_ptr().wrapping_add(self.len);
        // SAFETY: as in `bytes`.
        unsafe { std::slice::from_raw_parts(behind, self.behind) }
    }

    /// The bytes of the message, in a vector of the caller's.
    #[must_use]
    pub fn take(&mut self) -> Vec<u8> {
        if self.views {
            return self.bytes().to_vec();
        }
        let mut bytes = std::mem::take(&mut self.buffer);
        // SAFETY: without views `at` is the buffer, `len` bytes of which have been written (invariant).
        unsafe { bytes.set_len(self.len) };
        self.forget();
        bytes
    }

    /// From now on messages are seen where they lie.
    pub fn trust(&mut self, _: TrustedSenders) {
        (self.views, self.trusted) = (true, true);
    }

    /// Whether messages are seen where they lie.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        self.trusted
    }

    /// The next message is the first of a batch: it is not copied until all are known.
    pub fn begin_batch(&mut self) {
        self.views = true;
    }

    /// The first message of a batch is seen: with it come the bytes up to `len` from the beginning of its payload on, which
    /// lies `offset` bytes behind that of its record, in its lane, and are held with it. Without trust they are copied now,
    /// in one piece.
    ///
    /// # Panics
    /// If that is not what was claimed: our own bug.
    pub fn end_batch(&mut self, memory: &RingMemory, first: Position, offset: usize, len: usize) {
        self.views = self.trusted;
        if !self.views {
            self.forget();
        }
        if len == 0 {
            // Nothing came, or nothing is in it.
            (self.len, self.behind) = (0, 0);
            return;
        }
        let end = offset.saturating_add(len);
        assert!(end <= memory.capacity_bytes(), "a batch longer than its lane");
        let source = memory.granule(first).as_ptr().wrapping_add(offset);
        if self.trusted {
            self.view(source, len);
            return;
        }
        let target = self.room(len);
        // SAFETY: the bytes lie in the lane (asserted: at most a capacity behind the granule); `room` gives space
        // for them, and is not in the ring.
        unsafe { std::ptr::copy_nonoverlapping(source, target, len) };
        (self.len, self.behind) = (len, 0);
    }

    /// No batch came after all.
    pub fn abandon_batch(&mut self) {
        self.views = self.trusted;
        self.forget();
    }

    /// There are no bytes.
    fn forget(&mut self) {
        (self.at, self.len, self.behind) = (beginning(&mut self.buffer), 0, 0);
    }

    #[inline]
    fn view(&mut self, source: *const u8, len: usize) {
        if let Some(at) = NonNull::new(source.cast_mut()) {
            (self.at, self.len, self.behind) = (at, len, 0);
        }
    }

    /// Tells what of a payload is the message.
    #[inline]
    fn part(&mut self, word: RecordWord) {
        let all = self.len;
        self.len = word.message_len().min(all);
        self.behind = all - self.len;
    }

    /// Space for `len` bytes and a granule. The bytes before are gone.
    #[inline]
    fn room(&mut self, len: usize) -> *mut u8 {
        // No overflow: no allocation is as long as that, and no lane.
        if self.buffer.capacity() < len + GRANULE_BYTES {
            self.grow(len);
        }
        self.at.as_ptr()
    }

    #[cold]
    fn grow(&mut self, len: usize) {
        // Nothing of it counts: not a byte is to be moved.
        let room = (len + GRANULE_BYTES).max(ROOM_SHORT);
        self.buffer = Vec::with_capacity(room.next_power_of_two());
        self.forget();
    }
}

fn beginning(buffer: &mut Vec<u8>) -> NonNull<u8> {
    NonNull::new(buffer.as_mut_ptr()).unwrap_or(NonNull::dangling())
}

/// Payloads up to this many bytes are copied in place, without a call.
const SHORT_BYTES: usize = 128;
/// Bytes of a buffer into which each of them can be copied.
const ROOM_SHORT: usize = SHORT_BYTES + GRANULE_BYTES;

/// Copies the first and the last `size_of::<T>()` bytes of `len`: all of them, and some of them twice.
///
/// # Safety
/// `source` is readable and `target` writable for `len` bytes, they do not overlap, and
/// `size_of::<T>() <= len <= 2 * size_of::<T>()`.
#[inline]
unsafe fn both_ends<T>(source: *const u8, target: *mut u8, len: usize) {
    let last = len - size_of::<T>();
    // SAFETY: the first size_of::<T>() bytes lie inside `len` (contract).
    let head = unsafe { source.cast::<T>().read_unaligned() };
    // SAFETY: so do the last ones.
    let tail = unsafe { source.wrapping_add(last).cast::<T>().read_unaligned() };
    // SAFETY: as for the source.
    unsafe { target.cast::<T>().write_unaligned(head) };
    // SAFETY: as for the source.
    unsafe { target.wrapping_add(last).cast::<T>().write_unaligned(tail) };
}

/// Copies `len` bytes; short ones in pieces that overlap, so that no byte outside is touched.
///
/// # Safety
/// `source` is readable and `target` writable for `len` bytes, and they do not overlap.
#[inline]
unsafe fn copy_in(source: *const u8, target: *mut u8, len: usize) {
    match len {
        // SAFETY: 8 <= len <= 16.
        8..=16 => unsafe { both_ends::<u64>(source, target, len) },
        // SAFETY: the contract.
        17.. => unsafe { copy_longer(source, target, len) },
        // SAFETY: 4 <= len <= 8.
        4..=7 => unsafe { both_ends::<u32>(source, target, len) },
        // SAFETY: 2 <= len <= 4.
        2..=3 => unsafe { both_ends::<u16>(source, target, len) },
        // SAFETY: len is 1.
        1 => unsafe { both_ends::<u8>(source, target, len) },
        0 => {}
    }
}

/// Copies `len` bytes, short ones with what pads them to a record's end.
///
/// # Safety
/// `source` is readable and `target` writable for `padded` bytes, and they do not overlap; `len <= padded`, which is a
/// multiple of 8.
#[inline]
unsafe fn copy_padded(source: *const u8, target: *mut u8, padded: usize, len: usize) {
    match padded {
        // SAFETY: 8 bytes.
        8 => unsafe { both_ends::<u64>(source, target, 8) },
        // SAFETY: the contract.
        16..=SHORT_BYTES => unsafe { copy_longer(source, target, padded) },
        0 => {}
        // SAFETY: the contract.
        _ => unsafe { copy_longer(source, target, len) },
    }
}

/// Copies `len` bytes, as quickly as may be if they are 16 or more.
///
/// # Safety
/// `source` is readable and `target` writable for `len` bytes, and they do not overlap.
#[inline]
unsafe fn copy_longer(source: *const u8, target: *mut u8, len: usize) {
    match len {
        // SAFETY: 16 <= len <= 32.
        16..=32 => unsafe { both_ends::<u128>(source, target, len) },
        // SAFETY: 32 <= len <= 64.
        33..=64 => unsafe { both_ends::<[u128; 2]>(source, target, len) },
        // SAFETY: 64 <= len <= 128.
        65..=SHORT_BYTES => unsafe { both_ends::<[u128; 4]>(source, target, len) },
        // SAFETY: the contract.
        _ => unsafe { std::ptr::copy_nonoverlapping(source, target, len) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_every_length_touch_what_they_should_and_nothing_else() {
        for len in 0..300usize {
            let source: Vec<u8> = (0..len).map(|i| i as u8 ^ 0x5a).collect();
            let mut target = vec![0xee; len + 1];
            // SAFETY: both have `len` bytes.
            unsafe { copy_in(source.as_ptr(), target.as_mut_ptr(), len) };
            assert_eq!(target[..len], source[..]);
            assert_eq!(target[len], 0xee, "wrote behind {len} bytes");

            // A record's payload and what pads it, without a stamp and with one.
            for header in [8, 16] {
                let end = (header + len).next_multiple_of(16) - header;
                let padded: Vec<u8> = (0..end).map(|i| i as u8).collect();
                let mut payload = Payload::default();
                let room = payload.room(len);
                payload.len = len;
                // SAFETY: the one has `end` bytes, the other room for a granule more than `len`.
                unsafe { copy_padded(padded.as_ptr(), room, end, len) };
                assert_eq!(payload.bytes(), &padded[..len]);
                assert_eq!(payload.take(), &padded[..len]);
                assert_eq!(payload.bytes(), b"");
            }
        }
    }
}
