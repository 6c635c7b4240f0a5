//! A short message once more, beside the tail: a receiver that looks for the tail has the message with it, and fetches no
//! line of the record's own.
//!
//! It is the last message published, or of no use: the sender writes the next over it while it may be read. So it bears its
//! position, and that is read once more behind the bytes:
//!
//! ```text
//! sender                          receiver
//!   the record, in its place        tail (Acquire)
//!   of = its position               of: that of the next record? else it reads the record in its place
//!   fence (Release)                 claim it
//!   the bytes                       the bytes
//!   tail (Release)                  fence (Acquire)
//!                                   of: the same still? else as above
//! ```
//!
//! PAIR(beside) names the fences: whoever has read a byte of a later message reads a later position behind it. That the bytes
//! are not those of an earlier one is the tail's doing. What its sender wants back is forgotten here before the barrier of
//! PAIR(withdraw): so whoever claims it later looks at the record, and at its mark.

use crate::lane::position::{Position, record_granules};
use crate::lane::record::{RecordHeader, RecordWord};
use crate::sync::Ordering::{Acquire, Relaxed, Release};
use crate::sync::{AtomicU64, fence};

/// Words of the longest message: with the tail and the position they make two cache lines.
const WORDS: usize = if cfg!(loom) { 2 } else { 14 };
/// The first word in the second line.
const SECOND_LINE: usize = if cfg!(loom) { 1 } else { 6 };
/// Bytes of the longest message.
const BYTES_MAX: usize = 8 * WORDS;
/// Granules of its record.
const GRANULES_MAX: u64 = record_granules(BYTES_MAX);

/// The place beside the tail. Written by the lane's sender.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Beside {
    /// Position of the record (48 bits) | kind (8 bits) | bytes of its payload + 1 (8 bits): of the last one published, or the
    /// one about to be; 0 where that is not here.
    of: AtomicU64,
    /// The payload, its last word padded.
    words: [AtomicU64; WORDS],
}

/// What was found beside the tail: what stood in the first word there, or 0 if that is not what was looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found(u64);

impl Found {
    const NOTHING: Self = Self(0);

    #[inline]
    pub(super) fn is_nothing(self) -> bool {
        self == Self::NOTHING
    }

    /// The first word of the record, if nobody has marked it.
    #[inline]
    pub(super) fn word(self) -> RecordWord {
        let (len, kind) = (self.bytes() as u32, (self.0 >> 8) as u8);
        RecordHeader { len, kind, ..RecordHeader::default() }.word()
    }

    /// Bytes of its payload.
    #[inline]
    fn bytes(self) -> usize {
        usize::from((self.0 as u8).wrapping_sub(1))
    }
}

impl Beside {
    /// Writes a message that is about to be published, if it is short and has no stamp.
    #[inline(always)]
    pub(super) fn write(&self, at: Position, word: RecordWord, payload: &[u8]) {
        if payload.len() > BYTES_MAX || word.is_stamped() {
            return self.clear();
        }
        // Relaxed: the fence keeps it in front of the bytes.
        self.of.store(of(at, word), Relaxed);
        // PAIR(beside): Release here, Acquire in `read`.
        fence(Release);
        match <&[u8; 8]>::try_from(payload) {
            Ok(bytes) => store_each(&self.words, &[*bytes]),
            Err(_) => self.write_bytes(payload),
        }
    }

    /// Every instruction counts here: what comes in whole lines is quickest.
    #[inline(always)]
    fn write_bytes(&self, payload: &[u8]) {
        let (whole, rest) = payload.as_chunks::<8>();
        let (fours, left) = whole.as_chunks::<4>();
        let (words, _) = self.words.as_chunks::<4>();
        for (words, four) in words.iter().zip(fours) {
            store_each(words, four);
        }
        if payload.len().is_multiple_of(32) {
            return;
        }
        store_each(&self.words[4 * fours.len()..], left);
        if let Some(word) = self.words.get(whole.len()).filter(|_| !rest.is_empty()) {
            // Relaxed: published by the tail.
            word.store(padded(payload, rest), Relaxed);
        }
    }

    /// Before something is published that is not shown here: what was written before is the last no more.
    #[inline(always)]
    pub(super) fn clear(&self) {
        // Relaxed: whoever sees the tail sees it, too.
        self.of.store(0, Relaxed);
    }

    /// Before a barrier: the record is not to be found here from now on.
    pub(super) fn forget(&self, at: Position, word: RecordWord) {
        if word.payload_len() <= BYTES_MAX {
            // Relaxed: the barrier orders it. If it fails it was never here, or something later is.
            let _ = self.of.compare_exchange(of(at, word), 0, Relaxed, Relaxed);
        }
    }

    /// The next record that is to be claimed, if it is the last one published and stands here. `granules` is how far it is
    /// from there to the tail that was seen.
    #[inline]
    pub(super) fn find(&self, at: Position, granules: u64) -> Found {
        if granules > GRANULES_MAX {
            return Found::NOTHING;
        }
        // Relaxed: not older than the tail, which was acquired; whether it is younger it says itself.
        let found = Found(self.of.load(Relaxed));
        // Where 0 stands that is 255, more than can be here.
        let bytes = found.bytes();
        let here = found.0 >> 16 == at.get() && bytes <= BYTES_MAX;
        if here && record_granules(bytes) == granules { found } else { Found::NOTHING }
    }

    /// Has the words of a message copied that was found, and what stands behind it; false if they may be those of a later
    /// one, or its sender wants it back. No position stands here twice, so one look behind the bytes is enough.
    #[inline(always)]
    pub(super) fn read(&self, found: Found, copy: impl FnOnce(&[AtomicU64])) -> bool {
        copy(&self.words);
        // PAIR(beside): Acquire here, Release in `write`.
        fence(Acquire);
        // Relaxed: behind the fence.
        self.of.load(Relaxed) == found.0
    }

    /// What does not stand in the tail's own line.
    #[inline]
    pub(super) fn second_line(&self) -> &AtomicU64 {
        &self.words[SECOND_LINE]
    }
}

#[inline(always)]
fn store_each(words: &[AtomicU64], bytes: &[[u8; 8]]) {
    for (word, bytes) in words.iter().zip(bytes) {
        // Relaxed: published by the tail.
        word.store(u64::from_le_bytes(*bytes), Relaxed);
    }
}

#[inline(always)]
fn of(at: Position, word: RecordWord) -> u64 {
    at.get() << 16 | u64::from(word.kind()) << 8 | (word.payload_len() as u64 + 1)
}

/// The last bytes of a payload, less than eight, as a word.
#[inline(always)]
fn padded(payload: &[u8], rest: &[u8]) -> u64 {
    match payload.last_chunk::<8>() {
        Some(last) => u64::from_le_bytes(*last) >> (64 - 8 * rest.len()),
        None => rest.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn bytes_of(beside: &Beside, found: Found) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let whole = beside.read(found, |words| {
            bytes.extend(words.iter().flat_map(|word| word.load(Relaxed).to_le_bytes()));
        });
        bytes.truncate(found.word().payload_len());
        whole.then_some(bytes)
    }

    #[test]
    fn a_message_of_any_length_is_found_whole_or_not_at_all() {
        let beside = Beside::default();
        for len in 0..=BYTES_MAX + 1 {
            // Before and behind the wrap.
            let at = Position::new(len as u64).back(50);
            let payload: Vec<u8> = (0..len).map(|i| i as u8 ^ 0xa5).collect();
            let word = RecordHeader { len: len as u32, kind: 2, ..RecordHeader::default() }.word();
            beside.write(at, word, &payload);
            let found = beside.find(at, word.granules());
            if len > BYTES_MAX {
                assert!(found.is_nothing(), "{len} bytes");
                continue;
            }
            assert!(!found.is_nothing() && found.word() == word, "{len} bytes: {found:?}");
            assert_eq!(bytes_of(&beside, found), Some(payload));
            assert!(beside.find(at, word.granules() + 1).is_nothing(), "not the last one");
            assert!(beside.find(at.back(1), word.granules()).is_nothing(), "another position");
        }
    }

    #[test]
    fn nothing_is_found_where_nothing_was_written_or_it_was_forgotten() {
        let beside = Beside::default();
        let (first, second) = (Position::new(0), Position::new(1));
        let word = RecordWord::message(0);
        assert!(beside.find(first, 1).is_nothing());
        beside.write(first, word, b"");
        let found = beside.find(first, 1);
        assert!(!found.is_nothing(), "it stands there");
        beside.forget(second, word);
        assert_eq!(beside.find(first, 1), found, "another was forgotten");
        beside.forget(first, word);
        assert!(beside.find(first, 1).is_nothing());
        assert_eq!(bytes_of(&beside, found), None, "forgotten while it was read");
    }

    #[test]
    fn what_is_written_over_while_it_is_read_does_not_count() {
        let beside = Beside::default();
        let (first, second) = (Position::new(7), Position::new(8));
        let word = RecordWord::message(8);
        beside.write(first, word, &[1; 8]);
        let found = beside.find(first, 1);
        assert!(!found.is_nothing(), "it stands there");
        assert!(!beside.read(found, |_| beside.write(second, word, &[2; 8])));
    }
}
