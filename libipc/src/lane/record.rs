//! Records: what stands in front of a payload, and where they lie.

use crate::lane::position::{Position, RECORD_HEADER_BYTES, record_granules};
use crate::sync::AtomicU64;

/// Bytes of the number behind a call or a reply.
pub const CALL_NUMBER_BYTES: usize = 8;

/// The first word of a record: how long it is, and what.
///
/// ```text
/// len u32 | kind u7 | stamped u1 | flags u8 | 0 u16
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordWord(u64);

impl RecordWord {
    const STAMPED: u64 = 1 << 39;

    /// The word of a message of so many bytes, without a stamp.
    #[inline]
    #[must_use]
    pub fn message(len: usize) -> Self {
        Self(len as u32 as u64)
    }

    /// The word that was read: any number may stand there.
    #[inline]
    #[must_use]
    pub fn new(word: u64) -> Self {
        Self(word)
    }

    /// The word as it is written.
    #[inline]
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }

    /// Bytes of the payload.
    #[inline]
    #[must_use]
    pub fn payload_len(self) -> usize {
        self.0 as u32 as usize
    }

    /// What the record is: see [`RecordHeader`].
    #[inline]
    #[must_use]
    pub fn kind(self) -> u8 {
        (self.0 >> 32) as u8 & 0x7f
    }

    /// Whether its sender wants it back: see [`RecordHeader`].
    #[inline]
    #[must_use]
    pub fn flags(self) -> u8 {
        (self.0 >> 40) as u8
    }

    /// The word with these flags instead of its own.
    #[inline]
    #[must_use]
    pub fn with_flags(self, flags: u8) -> Self {
        Self(self.0 & !(0xff << 40) | u64::from(flags) << 40)
    }

    /// Whether its sender has asked for it back.
    #[inline]
    #[must_use]
    pub fn is_marked(self) -> bool {
        self.0 >> 40 != 0
    }

    /// Granules of the record, if it is a message without a stamp that its sender has not marked.
    #[inline(always)]
    #[must_use]
    pub fn plain_granules(self) -> Option<u64> {
        (self.0 >> 32 == 0).then(|| record_granules(self.0 as usize))
    }

    /// Whether a stamp stands between this word and the payload.
    #[inline]
    #[must_use]
    pub fn is_stamped(self) -> bool {
        self.0 & Self::STAMPED != 0
    }

    /// Bytes in front of the payload.
    #[inline]
    #[must_use]
    pub fn payload_offset(self) -> usize {
        // The bit, shifted to be the 8 bytes of the stamp.
        RECORD_HEADER_BYTES + ((self.0 & Self::STAMPED) >> 36) as usize
    }

    /// Granules of the whole record.
    #[inline]
    #[must_use]
    pub fn granules(self) -> u64 {
        record_granules(self.payload_len() + self.payload_offset() - RECORD_HEADER_BYTES)
    }

    /// Bytes of the message in the payload.
    #[inline]
    #[must_use]
    pub fn message_len(self) -> usize {
        match self.kind() {
            RecordHeader::MESSAGE => self.payload_len(),
            _ => self.payload_len().saturating_sub(CALL_NUMBER_BYTES),
        }
    }
}

/// What stands in front of a payload: the first word, and a stamp where there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordHeader {
    /// Bytes of the payload.
    pub len: u32,
    /// What the record is: [`Self::MESSAGE`], or one of those below.
    pub kind: u8,
    /// Whether its sender wants it back; written once more after it is published.
    pub flags: u8,
    /// Where messages are received in the order of their arrival: nanoseconds on the monotonic clock, read
    /// before the record was published. 0 is none.
    pub stamp: u64,
}

impl RecordHeader {
    /// A message.
    pub const MESSAGE: u8 = 0;
    /// A message whose sender waits for an answer; the payload ends with the call's number, 8 bytes, the
    /// least significant first.
    pub const CALL: u8 = 1;
    /// The answer to a call; the payload ends with the call's number.
    pub const REPLY: u8 = 2;
    /// Flag: its sender has asked for it back; its verdict says whether it got it.
    pub const WITHDRAWING: u8 = 1;
    /// Flag: its sender has it back; it is to be skipped.
    pub const WITHDRAWN: u8 = 2;

    /// Takes the words apart; `second` is looked at where the first says that it is a stamp.
    #[inline]
    #[must_use]
    pub fn from_words(first: RecordWord, second: impl FnOnce() -> u64) -> Self {
        let stamp = if first.is_stamped() { second() } else { 0 };
        let len = first.payload_len() as u32;
        Self { len, kind: first.kind(), flags: first.flags(), stamp }
    }

    /// The first word.
    #[inline]
    #[must_use]
    pub fn word(self) -> RecordWord {
        let stamped = if self.stamp == 0 { 0 } else { RecordWord::STAMPED };
        let (kind, flags) = (u64::from(self.kind & 0x7f) << 32, u64::from(self.flags) << 40);
        RecordWord(u64::from(self.len) | kind | flags | stamped)
    }

    /// Granules of the whole record.
    #[inline]
    #[must_use]
    pub fn granules(self) -> u64 {
        self.word().granules()
    }
}

/// Where records lie: mapped memory, or cells of a model.
pub trait Storage {
    /// What a payload is copied into.
    type Payload;

    /// Granules that it has: a power of two.
    fn capacity(&self) -> u64;

    /// Writes a record's header. The record must fit, and no receiver may look there.
    fn write_header(&self, at: Position, header: RecordHeader);

    /// Writes a record. It must fit, and no receiver may look there.
    fn write(&self, at: Position, header: RecordHeader, payload: &[u8]);

    /// Writes a message without a stamp, which takes so many granules. It must fit, and no receiver may look there.
    #[inline(always)]
    fn write_message(&self, at: Position, _granules: u64, payload: &[u8]) {
        let len = payload.len() as u32;
        self.write(at, RecordHeader { len, ..RecordHeader::default() }, payload);
    }

    /// Reads the header at a position; it may be of a record that is being overwritten.
    fn header(&self, at: Position) -> RecordHeader;

    /// The first word of the header at a position.
    fn word(&self, at: Position) -> RecordWord;

    /// How many records stand in so many granules from `at` on, `records_max` at most, and how many of the granules they take.
    /// What is no record ends them: it is found out when its turn comes.
    fn count_records(&self, at: Position, granules: u64, records_max: u32) -> (u64, u32) {
        let (mut left, mut records) = (granules, 0);
        while records < records_max && left > 0 {
            let next = self.word(at.advance(granules - left)).granules();
            let Some(rest) = left.checked_sub(next) else { break };
            left = rest;
            records += 1;
        }
        (granules - left, records)
    }

    /// Copies out the payload of the record at a position, which the reader holds and whose first word it has read.
    fn copy_out(&self, at: Position, word: RecordWord, into: &mut Self::Payload);

    /// The same for a message without a stamp, of so many granules.
    #[inline(always)]
    fn copy_message_out(
        &self,
        at: Position,
        word: RecordWord,
        _granules: u64,
        into: &mut Self::Payload,
    ) {
        self.copy_out(at, word, into);
    }

    /// Copies the payload of a record whose words were found elsewhere, at the beginning of these. False where payloads are
    /// only seen in their place.
    fn copy_words(words: &[AtomicU64], word: RecordWord, into: &mut Self::Payload) -> bool;

    /// Copies out a run of so many granules, which the reader holds: [`Self::show_copied`] shows its messages. False where
    /// payloads are only seen in their place, or it is too long.
    fn copy_run(&self, _at: Position, _granules: u64, _into: &mut Self::Payload) -> bool {
        false
    }

    /// Shows the record that begins so many granules before the end of the run that was copied last, if it is a message
    /// without a stamp or a mark, and ends there or before: its first word, and its granules.
    fn show_copied(_ahead: u64, _into: &mut Self::Payload) -> Option<(RecordWord, u64)> {
        None
    }

    /// Has memory allocated for `granules` from `at` on, so that writing there cannot fail.
    ///
    /// # Errors
    /// What the kernel said.
    fn prepare(&self, at: Position, granules: u64) -> std::io::Result<()>;

    /// The record at a position will be read soon.
    #[inline]
    fn expect_read(&self, _at: Position) {}

    /// The line of a word will be read soon.
    #[inline]
    fn expect_word(_word: &AtomicU64) {}

    /// So many granules will be written soon, which begin so many behind `at`; where they are many that is quicker without.
    #[inline(always)]
    fn expect_writes(&self, _at: Position, _granules: u64, _behind: u64) {}

    /// A record will be written at a position soon.
    #[inline]
    fn expect_write(&self, _at: Position) {}

    /// Stands between any two steps of a claim that a death may come between. Does nothing, but in the
    /// models, which kill there.
    #[inline]
    fn checkpoint(&self) {}
}

/// The headers of a lane's records, once they are published.
pub trait Marks {
    /// Writes the first word of a record anew: only its flags differ.
    fn mark(&self, at: Position, word: RecordWord);
}
