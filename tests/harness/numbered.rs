//! Messages that say who sent them and which they are, the logs of those who received them, and what a
//! pile of logs must show.
//!
//! ```text
//! message   sender u32 | length u32 | number u64 | filling, which sender and number determine
//!           or of 8 bytes: sender u32 | number u24 | filling u8
//! log       sender u32 | attempts u24 | deed u8 | number u64, one after the other
//! ```
//!
//! A receiver notes what it does with a message before it does it. What all the notes of a mailbox must come to:
//! [`crate::Accounts`].

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

/// Bytes of the shortest numbered message but a small one, and of a log's entry.
pub const BYTES_MIN: usize = 16;

/// Bytes of a small one.
pub const BYTES_SMALL: usize = 8;

/// One entry of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Who sent it, by its own number.
    pub sender: u32,
    /// How often it had been handed out before.
    pub attempts: u32,
    /// Which of the sender's messages it is, from 0.
    pub number: u64,
}

/// What a receiver does with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Acknowledges it.
    Acknowledges,
    /// Gives it back.
    Returns,
    /// Makes a dead letter of it.
    Rejects,
    /// No message: all that was noted before is done.
    Settled,
    /// No message: what was noted last could not be done, and the message was given back instead.
    Undone,
}

/// A note in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    /// Which message.
    pub entry: Entry,
    /// What the receiver does with it.
    pub deed: Deed,
    /// It has the message of the next note in hand at the same time.
    pub with_next: bool,
}

impl Note {
    const DEEDS: [Deed; 5] =
        [Deed::Acknowledges, Deed::Returns, Deed::Rejects, Deed::Settled, Deed::Undone];
    const WITH_NEXT: u8 = 0x80;

    /// A message in hand by itself.
    #[must_use]
    pub fn of(entry: Entry, deed: Deed) -> Self {
        Self { entry, deed, with_next: false }
    }

    /// A note of no message.
    #[must_use]
    pub fn alone(deed: Deed) -> Self {
        Self::of(Entry { sender: 0, attempts: 0, number: 0 }, deed)
    }

    /// Appends it to a log.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn log(&self, into: &mut impl Write) -> io::Result<()> {
        let mut bytes = [0; BYTES_MIN];
        bytes[..4].copy_from_slice(&self.entry.sender.to_le_bytes());
        bytes[4..7].copy_from_slice(&self.entry.attempts.to_le_bytes()[..3]);
        bytes[7] = self.deed as u8 | if self.with_next { Self::WITH_NEXT } else { 0 };
        bytes[8..].copy_from_slice(&self.entry.number.to_le_bytes());
        into.write_all(&bytes)
    }

    fn read(bytes: &[u8; BYTES_MIN]) -> Self {
        let entry = Entry {
            sender: le_u32(&bytes[..4]),
            attempts: le_u32(&bytes[4..7]),
            number: le_u64(&bytes[8..]),
        };
        let deed = Self::DEEDS[usize::from(bytes[7] & !Self::WITH_NEXT)];
        Self { entry, deed, with_next: bytes[7] & Self::WITH_NEXT != 0 }
    }
}

/// Writes a message of `len` bytes.
///
/// # Panics
/// If it is shorter than [`BYTES_MIN`], and not a small one.
pub fn write(sender: u32, number: u64, len: usize, into: &mut Vec<u8>) {
    into.clear();
    into.extend_from_slice(&sender.to_le_bytes());
    if len == BYTES_SMALL {
        assert!(number < 1 << 24, "a small message has a small number");
        into.extend_from_slice(&number.to_le_bytes()[..3]);
        into.push(filling(sender, number));
        return;
    }
    assert!(len >= BYTES_MIN, "a numbered message has {BYTES_MIN} bytes or more");
    into.extend_from_slice(&(len as u32).to_le_bytes());
    into.extend_from_slice(&number.to_le_bytes());
    into.resize(len, filling(sender, number));
}

/// Reads a message, every byte of it.
///
/// # Panics
/// If it is not what [`write()`] wrote: torn, mixed or of another length.
#[must_use]
pub fn read(bytes: &[u8], attempts: u32) -> Entry {
    if bytes.len() == BYTES_SMALL {
        let (sender, number) = (le_u32(&bytes[..4]), le_u64(&bytes[4..7]));
        assert_eq!(bytes[7], filling(sender, number), "a torn message");
        return Entry { sender, attempts, number };
    }
    assert!(bytes.len() >= BYTES_MIN, "a message of {} bytes", bytes.len());
    let (sender, number) = (le_u32(&bytes[..4]), le_u64(&bytes[8..16]));
    assert_eq!(le_u32(&bytes[4..8]) as usize, bytes.len(), "a message of another length");
    let expected = filling(sender, number);
    assert!(bytes[BYTES_MIN..].iter().all(|&byte| byte == expected), "a torn message");
    Entry { sender, attempts, number }
}

/// What a sender knows of a message that it has taken back, or tried to, in the place of its attempts: nobody has it
/// or ever will; somebody has, or will; it was not told.
pub const FATES: [u32; 3] = [NOBODY, SOMEBODY, UNTOLD];
/// See [`FATES`].
pub const NOBODY: u32 = 0;
/// See [`FATES`].
pub const SOMEBODY: u32 = 1;
/// See [`FATES`].
pub const UNTOLD: u32 = 2;

/// Messages sent, or received, with one call at most.
pub const HANDFUL: u64 = 40;

/// Whether a picky receiver rejects a message of this number.
#[must_use]
pub fn is_rejected(number: u64) -> bool {
    number % 9973 == 996
}

/// Whether a picky receiver gives a message of this number back a few times.
#[must_use]
pub fn is_returned(number: u64) -> bool {
    number % 101 == 100
}

fn filling(sender: u32, number: u64) -> u8 {
    (number as u8).wrapping_mul(31) ^ sender as u8
}

/// Notes in a log that a message is acknowledged.
///
/// # Errors
/// What the kernel said.
pub fn log(entry: Entry, into: &mut impl Write) -> io::Result<()> {
    Note::of(entry, Deed::Acknowledges).log(into)
}

/// Shows `each` the notes of a log, in order; a receiver that was never heard of has an empty one.
///
/// # Panics
/// If it is no log.
pub fn read_notes(path: &Path, mut each: impl FnMut(Note)) {
    let Ok(file) = File::open(path) else { return };
    let len = file.metadata().expect("a file").len();
    assert_eq!(len % BYTES_MIN as u64, 0, "{} is cut off", path.display());
    let mut file = BufReader::with_capacity(1 << 20, file);
    let mut bytes = [0; BYTES_MIN];
    for _ in 0..len / BYTES_MIN as u64 {
        file.read_exact(&mut bytes).expect("a log that nobody cuts off");
        each(Note::read(&bytes));
    }
}

/// Reads of a log what was acknowledged.
///
/// # Panics
/// If it is no log.
#[must_use]
pub fn read_log(path: &Path) -> Vec<Entry> {
    let mut entries = Vec::new();
    read_notes(path, |note| {
        if note.deed == Deed::Acknowledges {
            entries.push(note.entry);
        }
    });
    entries
}

/// Opens a log to append to: each entry is in the file when the write has returned, whatever happens to
/// the process afterwards.
///
/// # Errors
/// What the kernel said.
pub fn open_log(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).open(path)
}

/// Holds that in one receiver's log each sender's messages stand in the order in which they were sent.
///
/// # Panics
/// Naming the first that does not.
pub fn check_order(log: &[Entry]) {
    let mut last: HashMap<u32, u64> = HashMap::new();
    for entry in log {
        let before = last.insert(entry.sender, entry.number);
        let ordered = before.is_none_or(|before| before < entry.number);
        assert!(ordered, "{entry:?} came after number {before:?} of the same sender");
    }
}

/// How often each sender's messages stand in some logs.
#[derive(Clone, Debug, Default)]
pub struct Census {
    counts: HashMap<u32, Vec<u32>>,
    /// Messages that came a second time without a mark.
    pub unmarked_duplicates: Vec<Entry>,
}

impl Census {
    /// Counts the entries of all logs.
    #[must_use]
    pub fn of(logs: &[Vec<Entry>]) -> Self {
        let mut unmarked: HashMap<(u32, u64), u32> = HashMap::new();
        let mut census = Self::default();
        for entry in logs.iter().flatten() {
            let counts = census.counts.entry(entry.sender).or_default();
            let index = entry.number as usize;
            if counts.len() <= index {
                counts.resize(index + 1, 0);
            }
            counts[index] += 1;
            if entry.attempts == 0 {
                let seen = unmarked.entry((entry.sender, entry.number)).or_default();
                *seen += 1;
                if *seen > 1 {
                    census.unmarked_duplicates.push(*entry);
                }
            }
        }
        census
    }

    /// Of one sender's messages, how often each came, in order of their numbers.
    #[must_use]
    pub fn counts(&self, sender: u32) -> &[u32] {
        self.counts.get(&sender).map_or(&[], Vec::as_slice)
    }

    /// Holds that each of the first `sent` messages of a sender came exactly once and no other came.
    ///
    /// # Panics
    /// Naming one that did not.
    pub fn check_exactly_once(&self, sender: u32, sent: u64) {
        let counts = self.counts(sender);
        assert_eq!(counts.len() as u64, sent, "sender {sender}: the last messages");
        let odd = counts.iter().position(|&count| count != 1);
        assert_eq!(odd, None, "sender {sender}: a message that came not once");
    }
}

fn le_u32(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte))
}

fn le_u64(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}
