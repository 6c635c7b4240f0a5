//! Every message is numbered by its sender and checked by its receiver.
//!
//! The first word of a message holds the sender (8 bits) and the sequence number (56 bits); the last
//! byte of a longer one repeats some of it, so that a message that was cut or mixed is seen.

use crate::job::Report;

/// Bits of the first word that hold the sequence number.
const SEQUENCE_BITS: u32 = 56;
/// The sequence number that says: this sender sends no more.
pub const END: u64 = (1 << SEQUENCE_BITS) - 1;

/// Writes sender and sequence number into a message; returns its first word.
///
/// # Panics
/// If the message is shorter than 8 bytes.
#[inline]
pub fn stamp(message: &mut [u8], sender: u8, sequence: u64) -> u64 {
    let word = u64::from(sender) << SEQUENCE_BITS | sequence;
    message[..8].copy_from_slice(&word.to_le_bytes());
    if let [_, _, _, _, _, _, _, _, .., last] = message {
        *last = last_byte(word);
    }
    word
}

/// Makes a message what its first word says it is: the other half of [`stamp`], for what carries that word alone.
///
/// # Panics
/// If the message is shorter than 8 bytes.
pub fn restore(message: &mut [u8], word: u64) {
    stamp(message, (word >> SEQUENCE_BITS) as u8, word & END);
}

/// Whether a message says that its sender sends no more.
#[must_use]
pub fn is_end(message: &[u8]) -> bool {
    message.first_chunk().is_some_and(|first| u64::from_le_bytes(*first) & END == END)
}

/// What stands in the last byte of a message of more than 8 bytes.
#[inline]
fn last_byte(word: u64) -> u8 {
    word as u8 ^ 0xa5
}

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A message, counted, be it whole or not.
    Message,
    /// A sender sends no more.
    End,
}

/// A receiver's memory of what came.
#[derive(Debug)]
pub struct Checker {
    bytes: usize,
    /// Others take messages too: numbers rise, but not by one.
    competing: bool,
    next: [u64; SENDERS_MAX],
    senders: usize,
    /// What came.
    pub seen: Report,
}

/// Most senders of a load.
const SENDERS_MAX: usize = 8;

impl Checker {
    /// Nothing came yet.
    ///
    /// # Panics
    /// If there are more than 8 senders.
    #[must_use]
    pub fn new(bytes: usize, senders: u8, competing: bool) -> Self {
        let senders = usize::from(senders);
        assert!(senders <= SENDERS_MAX, "{senders} senders");
        Self { bytes, competing, next: [0; SENDERS_MAX], senders, seen: Report::default() }
    }

    /// Checks a message: length, sender, order, last byte.
    #[inline]
    pub fn check(&mut self, message: &[u8]) -> Seen {
        let Some((first, rest)) = message.split_first_chunk::<8>() else {
            self.seen.corrupt += 1;
            return Seen::Message;
        };
        let word = u64::from_le_bytes(*first);
        let (sender, sequence) = ((word >> SEQUENCE_BITS) as usize, word & END);
        let whole = message.len() == self.bytes
            && sender < self.senders
            && rest.last().is_none_or(|last| *last == last_byte(word));
        if !whole {
            self.seen.corrupt += 1;
            return Seen::Message;
        }
        if sequence == END {
            return Seen::End;
        }
        let next = &mut self.next[sender % SENDERS_MAX];
        if sequence != *next && !(self.competing && sequence > *next) {
            self.seen.disordered += 1;
        }
        *next = sequence + 1;
        self.seen.messages += 1;
        self.seen.sum = self.seen.sum.wrapping_add(word);
        Seen::Message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: usize, sender: u8, sequence: u64) -> Vec<u8> {
        let mut message = vec![0; bytes];
        stamp(&mut message, sender, sequence);
        message
    }

    #[test]
    fn messages_in_order_are_counted_and_summed() {
        for bytes in [8, 9, 64] {
            let mut checker = Checker::new(bytes, 2, false);
            let mut sum = 0u64;
            for sequence in 0..10 {
                for sender in 0..2 {
                    let mut message = vec![0; bytes];
                    sum = sum.wrapping_add(stamp(&mut message, sender, sequence));
                    assert_eq!(checker.check(&message), Seen::Message);
                }
            }
            assert_eq!(checker.check(&message(bytes, 1, END)), Seen::End);
            let Report { messages, sum: seen, disordered, corrupt, .. } = checker.seen;
            assert_eq!((messages, seen, disordered, corrupt), (20, sum, 0, 0));
        }
    }

    #[test]
    fn lost_doubled_cut_and_mixed_messages_are_seen() {
        let mut checker = Checker::new(64, 1, false);
        let mut check = |message: &[u8]| {
            checker.check(message);
            (checker.seen.disordered, checker.seen.corrupt)
        };
        assert_eq!(check(&message(64, 0, 0)), (0, 0));
        assert_eq!(check(&message(64, 0, 2)), (1, 0), "one was lost");
        assert_eq!(check(&message(64, 0, 2)), (2, 0), "it came twice");
        assert_eq!(check(&message(64, 3, 3)), (2, 1), "nobody's");
        assert_eq!(check(&message(64, 0, 3)[..63]), (2, 2), "cut");
        let mut mixed = message(64, 0, 3);
        mixed[63] ^= 1;
        assert_eq!(check(&mixed), (2, 3), "mixed");
        assert_eq!(check(b"short"), (2, 4));
    }

    #[test]
    fn competing_receivers_see_rising_numbers() {
        let mut checker = Checker::new(8, 1, true);
        for (sequence, disordered) in [(5, 0), (9, 0), (9, 1), (7, 2)] {
            checker.check(&message(8, 0, sequence));
            assert_eq!(checker.seen.disordered, disordered);
        }
    }
}
