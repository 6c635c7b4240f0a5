//! The bytes of what is in hand, out of a lane in mapped memory: a copy of our own, or seen where they lie.

#![expect(unsafe_code, reason = "keeps pointers into its own buffers and into mapped memory")]

use std::ptr::NonNull;

use super::RingMemory;
use super::copy::{SHORT_BYTES, copy_longer};
use crate::lane::position::{GRANULE_BYTES, Position, RECORD_HEADER_BYTES};
use crate::lane::record::RecordWord;

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

/// Granules of the longest run that is copied in one piece.
const RUN_GRANULES: u64 = 256;
/// Bytes of a buffer into which each short payload can be copied.
const ROOM_SHORT: usize = SHORT_BYTES + GRANULE_BYTES;

/// The bytes of what is in hand: copied out, into memory that is kept for the next, or seen where they lie.
///
/// **Invariant:** `at` has `len` bytes, and `behind` more: of `buffer`, of `run`, or of the lane that holds the record in hand,
/// whose mapping `claim::Claimant` keeps until that is given up. The bytes are asked for only while it is held.
/// **Invariant:** `run` has `RUN_GRANULES` or none.
///
/// Pointer and length stand apart: they are asked for as a pair soon after the length was written, and a load of both
/// at once would have to wait for that to reach the cache.
#[derive(Debug)]
#[repr(C)]
pub struct Payload {
    at: NonNull<u8>,
    /// Bytes behind those of the message, of a call or a reply.
    behind: usize,
    /// Bytes of the message.
    len: usize,
    /// Always empty, as a vector: its capacity is what counts.
    buffer: Vec<u8>,
    /// A run that was copied in one piece ends where this ends.
    run: Vec<[u64; 2]>,
    /// What comes next is only seen, not copied.
    views: bool,
    /// Views may be shown.
    trusted: bool,
}

impl Default for Payload {
    fn default() -> Self {
        let mut buffer = Vec::new();
        let at = beginning(&mut buffer);
        Self { at, behind: 0, len: 0, buffer, run: Vec::new(), views: false, trusted: false }
    }
}

// SAFETY: `at` points into `buffer` or `run`, or into a mapping, which is there for every thread; the bytes are only
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
        if self.at != beginning(&mut self.buffer) {
            return self.bytes().to_vec();
        }
        let mut bytes = std::mem::take(&mut self.buffer);
        // SAFETY: what is shown is the buffer (looked at above), `len` bytes of which have been written (invariant).
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

    /// Whether what comes next is only seen, not copied.
    #[inline]
    pub(super) fn views(&self) -> bool {
        self.views
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
        if len == 0 {
            // Nothing came, or nothing is in it.
            self.forget();
            return;
        }
        let source = memory.bytes_of(first, offset, len);
        if self.trusted {
            self.view(source, len);
            return;
        }
        let target = self.room(len);
        // SAFETY: the bytes lie in the lane (`bytes_of`); `room` gives space for them, and is not in the ring.
        unsafe { copy_longer(source, target, len) };
        self.is_copied(len);
    }

    /// No batch came after all.
    pub fn abandon_batch(&mut self) {
        self.views = self.trusted;
        self.forget();
    }

    /// There are no bytes.
    fn forget(&mut self) {
        self.is_copied(0);
    }

    /// So many bytes were written to [`Self::room`].
    #[inline(always)]
    pub(super) fn is_copied(&mut self, len: usize) {
        (self.at, self.len, self.behind) = (beginning(&mut self.buffer), len, 0);
    }

    #[inline]
    pub(super) fn view(&mut self, source: *const u8, len: usize) {
        if let Some(at) = NonNull::new(source.cast_mut()) {
            (self.at, self.len, self.behind) = (at, len, 0);
        }
    }

    /// Tells what of a payload is the message.
    #[inline]
    pub(super) fn part(&mut self, word: RecordWord) {
        let all = self.len;
        self.len = word.message_len().min(all);
        self.behind = all - self.len;
    }

    /// Space for `len` bytes and a granule. The bytes before are gone.
    #[inline]
    pub(super) fn room(&mut self, len: usize) -> *mut u8 {
        // No overflow: no allocation is as long as that, and no lane.
        if self.buffer.capacity() < len + GRANULE_BYTES {
            self.grow(len);
        }
        self.buffer.as_mut_ptr()
    }

    /// The same for any payload that is short, if it is there already.
    #[inline(always)]
    pub(super) fn room_for_short(&mut self) -> Option<*mut u8> {
        (self.buffer.capacity() >= ROOM_SHORT).then_some(self.buffer.as_mut_ptr())
    }

    #[cold]
    fn grow(&mut self, len: usize) {
        // Nothing of it counts: not a byte is to be moved.
        let room = (len + GRANULE_BYTES).max(ROOM_SHORT);
        self.buffer = Vec::with_capacity(room.next_power_of_two());
        self.forget();
    }

    /// Copies a run, to be shown message by message; false if it is too long. The bytes before are gone.
    ///
    /// # Safety
    /// `source` is readable for so many granules, which no buffer of this payload's has.
    pub(super) unsafe fn copy_run(&mut self, source: *const u8, granules: u64) -> bool {
        if granules > RUN_GRANULES {
            return false;
        }
        if self.run.is_empty() {
            self.run = vec![[0; 2]; RUN_GRANULES as usize];
        }
        self.forget();
        let begin = (RUN_GRANULES - granules) as usize * GRANULE_BYTES;
        let target = self.run.as_mut_ptr().cast::<u8>().wrapping_add(begin);
        // Not by `copy_longer`: of pieces as short as these the C library's copies come sooner from a far core.
        // SAFETY: the contract; behind `target` so many granules are left of the run's.
        unsafe { std::ptr::copy_nonoverlapping(source, target, granules as usize * GRANULE_BYTES) };
        true
    }

    /// Shows the record that begins so many granules before the end of the run that was copied last, if it is a message
    /// without a stamp or a mark, and ends there or before.
    #[inline(always)]
    pub(super) fn show_copied(&mut self, ahead: u64) -> Option<(RecordWord, u64)> {
        let index = RUN_GRANULES.wrapping_sub(ahead) as usize;
        let word = RecordWord::new(self.run.get(index)?[0]);
        let granules = word.plain_granules()?;
        if granules > ahead {
            return None;
        }
        let offset = index * GRANULE_BYTES + RECORD_HEADER_BYTES;
        // SAFETY: the run has `RUN_GRANULES`, for it has this one.
        self.at = unsafe { beginning(&mut self.run).add(offset) };
        (self.len, self.behind) = (word.payload_len(), 0);
        Some((word, granules))
    }
}

fn beginning<T>(buffer: &mut Vec<T>) -> NonNull<u8> {
    NonNull::new(buffer.as_mut_ptr().cast()).unwrap_or(NonNull::dangling())
}

#[cfg(test)]
mod tests {
    use super::super::copy::copy_padded;
    use super::*;
    use crate::lane::position::record_granules;
    use crate::lane::record::RecordHeader;

    #[test]
    fn a_payload_is_copied_with_what_pads_it_and_taken_without() {
        for len in 0..300usize {
            // Without a stamp and with one.
            for header in [8, 16] {
                let end = (header + len).next_multiple_of(16) - header;
                let padded: Vec<u8> = (0..end).map(|i| i as u8).collect();
                let mut payload = Payload::default();
                let room = payload.room(len);
                // SAFETY: the one has `end` bytes, the other room for a granule more than `len`.
                unsafe { copy_padded(padded.as_ptr(), room, end, len) };
                payload.is_copied(len);
                assert_eq!(payload.bytes(), &padded[..len]);
                assert_eq!(payload.take(), &padded[..len]);
                assert_eq!(payload.bytes(), b"");
            }
        }
    }

    /// Records one behind the other, each with its number in each byte.
    fn run(lens: &[usize]) -> Vec<u64> {
        let mut words = Vec::new();
        for (number, &len) in lens.iter().enumerate() {
            let begin = words.len();
            words.push(RecordWord::message(len).get());
            let bytes = u64::from_ne_bytes([number as u8; 8]);
            words.resize(begin + 2 * record_granules(len) as usize, bytes);
        }
        words
    }

    fn copy(payload: &mut Payload, words: &[u64]) -> bool {
        // SAFETY: they are there, and none of the payload's.
        unsafe { payload.copy_run(words.as_ptr().cast(), words.len() as u64 / 2) }
    }

    #[test]
    fn the_messages_of_a_run_are_shown_one_after_the_other_and_may_be_taken() {
        let lens = [8, 0, 64, 9, 1000, 24];
        let words = run(&lens);
        let (mut payload, mut ahead) = (Payload::default(), words.len() as u64 / 2);
        assert!(copy(&mut payload, &words), "it is not long");
        for (number, len) in lens.into_iter().enumerate() {
            let (word, granules) = payload.show_copied(ahead).expect("a message");
            assert_eq!((word, granules), (RecordWord::message(len), record_granules(len)));
            assert_eq!(payload.bytes(), vec![number as u8; len]);
            if number % 2 == 1 {
                assert_eq!(payload.take(), vec![number as u8; len], "a copy of the copy");
            }
            ahead -= granules;
        }
        assert_eq!(payload.show_copied(ahead), None, "that was the last");
    }

    #[test]
    fn what_is_no_plain_message_of_a_run_is_not_shown() {
        let mut payload = Payload::default();
        assert_eq!(payload.show_copied(1), None, "nothing was copied");
        assert!(!copy(&mut payload, &run(&[8; RUN_GRANULES as usize + 1])), "too long");
        assert!(copy(&mut payload, &run(&[8; RUN_GRANULES as usize])), "as long as may be");
        assert!(payload.show_copied(RUN_GRANULES).is_some(), "the first");
        for ahead in [0, RUN_GRANULES + 1, u64::MAX] {
            assert_eq!(payload.show_copied(ahead), None, "{ahead}");
        }
        let marked = RecordWord::message(8).with_flags(RecordHeader::WITHDRAWING).get();
        let stamped = RecordHeader { len: 8, stamp: 1, ..RecordHeader::default() }.word().get();
        // The last reaches beyond the run.
        for word in [marked, stamped, u64::MAX, RecordWord::message(25).get()] {
            assert!(copy(&mut payload, &[word, 0, 0, 0]), "two granules");
            assert_eq!(payload.show_copied(2), None, "{word:x}");
            assert_eq!(payload.bytes(), b"");
        }
    }
}
