//! Records in mapped memory.
//!
//! The data of a lane is mapped twice, back to back, so a record lies in one piece wherever it begins.
//! Headers are atomics, since a receiver may read one that is just being overwritten (its claim then
//! fails). Payloads are copied with raw pointers: there is never a reference to bytes that another
//! process may write.

#![expect(unsafe_code, reason = "copies payloads in and out of memory that other processes write")]

use std::ptr::NonNull;
use std::sync::Arc;

use crate::lane::layout::LANE_HEADER_BYTES;
use crate::lane::position::{GRANULE_BYTES, Position, record_granules};
use crate::lane::ring::{RecordHeader, Storage};
use crate::sync::AtomicU64;
use crate::sync::Ordering::{Relaxed, Release};
use crate::sys::mapping::Mapping;

/// The data of one mapped lane. Clones show the same.
#[derive(Clone, Debug)]
pub struct RingMemory {
    /// First byte of the data. **Invariant:** twice `capacity` granules lie behind it, mapped, the
    /// second half showing the same memory as the first; `keeper` keeps them mapped.
    data: NonNull<u8>,
    /// A power of two.
    capacity: u64,
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
        assert_eq!(mapping.len(), LANE_HEADER_BYTES + 2 * capacity, "not a lane's mapping");
        // SAFETY: the mapping is longer than its header, checked one line above.
        let data = unsafe { mapping.base().add(LANE_HEADER_BYTES) };
        Self { data, capacity: (capacity / GRANULE_BYTES) as u64, keeper: mapping.clone() }
    }

    /// The first byte of the granule at a position; a whole capacity lies mapped behind it.
    #[inline]
    fn granule(&self, at: Position) -> NonNull<u8> {
        let index = (at.get() & (self.capacity - 1)) as usize;
        // SAFETY: index < capacity, and two capacities are mapped behind `data` (invariant).
        unsafe { self.data.add(index * GRANULE_BYTES) }
    }

    #[inline]
    fn header_words(&self, at: Position) -> [&AtomicU64; 2] {
        let first = self.granule(at).cast::<AtomicU64>();
        // SAFETY: `granule` gives 16 mapped bytes, aligned to 16 since the data begins on a page.
        let second = unsafe { first.add(1) };
        [word(self, first), word(self, second)]
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
    fn write(&self, at: Position, header: RecordHeader, payload: &[u8]) {
        assert!(header.granules() <= self.capacity, "a record longer than its lane");
        let [first, second] = self.header_words(at);
        let words = header.to_words();
        // Relaxed: published by the tail.
        first.store(words[0], Relaxed);
        second.store(words[1], Relaxed);
        let target = self.granule(at).as_ptr().wrapping_add(GRANULE_BYTES);
        // SAFETY: `payload` is readable and is not in the ring (no reference into it exists); header and
        // payload take at most a capacity (asserted), which is mapped behind the granule.
        unsafe { copy_in(payload.as_ptr(), target, payload.len()) };
    }

    #[inline]
    fn header(&self, at: Position) -> RecordHeader {
        let [first, second] = self.header_words(at);
        // Relaxed: ordered by the tail that was read before; a stale header is told by the claim.
        RecordHeader::from_words([first.load(Relaxed), second.load(Relaxed)])
    }

    #[inline]
    fn first_word(&self, at: Position) -> u64 {
        // Relaxed: as in `header`.
        word(self, self.granule(at).cast()).load(Relaxed)
    }

    fn mark(&self, at: Position, header: RecordHeader) {
        let [first, _] = self.header_words(at);
        // PAIR(mark): Release here, Acquire in `withdraw::is_to_be_handed_out`; the verdict is seen.
        first.store(header.to_words()[0], Release);
    }

    #[inline]
    fn copy_out(&self, at: Position, len: usize, into: &mut Payload) {
        assert!(record_granules(len) <= self.capacity, "a record longer than its lane");
        let source = self.granule(at).as_ptr().wrapping_add(GRANULE_BYTES);
        let target = into.room(len);
        // SAFETY: header and padded payload take at most a capacity (asserted), mapped behind the
        // granule; `room` gives space for the padded length, and is not in the ring.
        unsafe { copy_granules(source, target, len) };
        // SAFETY: `len` bytes were written one line above.
        unsafe { into.bytes.set_len(len) };
    }

    fn prepare(&self, at: Position, granules: u64) -> std::io::Result<()> {
        let index = (at.get() & (self.capacity - 1)) as usize;
        let offset = LANE_HEADER_BYTES + index * GRANULE_BYTES;
        self.keeper.populate(offset, granules as usize * GRANULE_BYTES)
    }
}

/// The bytes of one message, copied out. Its memory is kept for the next.
#[derive(Debug, Default)]
pub struct Payload {
    bytes: Vec<u8>,
}

impl Payload {
    /// The bytes.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes, taken away.
    #[must_use]
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// Space for `len` bytes, rounded up to granules; empty.
    #[inline]
    fn room(&mut self, len: usize) -> *mut u8 {
        self.bytes.clear();
        // No overflow: no allocation is as long as that, and no lane.
        if self.bytes.capacity() < len + GRANULE_BYTES {
            self.grow(len);
        }
        self.bytes.as_mut_ptr()
    }

    #[cold]
    fn grow(&mut self, len: usize) {
        self.bytes.reserve_exact((len + GRANULE_BYTES).next_power_of_two());
    }
}

/// Payloads up to this many bytes are copied in place, without a call.
const SHORT_BYTES: usize = 128;

/// Copies `len` bytes; short ones in pieces that overlap, so that no byte outside is touched.
///
/// # Safety
/// `source` is readable and `target` writable for `len` bytes, and they do not overlap.
#[inline]
unsafe fn copy_in(source: *const u8, target: *mut u8, len: usize) {
    /// Two pieces of type `T`: the first and the last `size_of::<T>()` bytes of `len`.
    ///
    /// # Safety
    /// As `copy_in`, and `size_of::<T>() <= len <= 2 * size_of::<T>()`.
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
    match len {
        0 => {}
        // SAFETY: len is 1.
        1 => unsafe { both_ends::<u8>(source, target, len) },
        // SAFETY: 2 <= len <= 4.
        2..=3 => unsafe { both_ends::<u16>(source, target, len) },
        // SAFETY: 4 <= len <= 8.
        4..=7 => unsafe { both_ends::<u32>(source, target, len) },
        // SAFETY: 8 <= len <= 16.
        8..=16 => unsafe { both_ends::<u64>(source, target, len) },
        // SAFETY: 16 <= len <= 32.
        17..=32 => unsafe { both_ends::<u128>(source, target, len) },
        // SAFETY: 32 <= len <= 64.
        33..=64 => unsafe { both_ends::<[u128; 2]>(source, target, len) },
        // SAFETY: 64 <= len <= 128.
        65..=SHORT_BYTES => unsafe { both_ends::<[u128; 4]>(source, target, len) },
        // SAFETY: the contract.
        _ => unsafe { std::ptr::copy_nonoverlapping(source, target, len) },
    }
}

/// Copies `len` bytes rounded up to granules.
///
/// # Safety
/// `source` is readable and `target` writable for `len` rounded up to granules, and they do not overlap.
#[inline]
unsafe fn copy_granules(source: *const u8, target: *mut u8, len: usize) {
    if len > SHORT_BYTES {
        // SAFETY: the contract.
        unsafe { std::ptr::copy_nonoverlapping(source, target, len) };
        return;
    }
    let mut done = 0;
    while done < len {
        // SAFETY: `done` is a multiple of a granule below `len`, so this granule is inside (contract).
        let granule = unsafe { source.wrapping_add(done).cast::<u128>().read_unaligned() };
        // SAFETY: as for the source.
        unsafe { target.wrapping_add(done).cast::<u128>().write_unaligned(granule) };
        done += GRANULE_BYTES;
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

            let padded: Vec<u8> = (0..len.next_multiple_of(16)).map(|i| i as u8).collect();
            let mut payload = Payload::default();
            let room = payload.room(len);
            // SAFETY: both have `len` rounded up to granules.
            unsafe { copy_granules(padded.as_ptr(), room, len) };
            // SAFETY: `len` bytes were written one line above.
            unsafe { payload.bytes.set_len(len) };
            assert_eq!(payload.bytes(), &padded[..len]);
        }
    }
}
