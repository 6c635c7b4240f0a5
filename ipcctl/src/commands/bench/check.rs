//! Every message is numbered by its sender and checked by its receiver.
//!
//! The first word of a message holds the sender (8 bits) and the sequence number (56 bits); the last
//! byte of a longer one repeats some of it, so that a message that was cut or mixed is seen.

use anyhow::{Result, bail};

/// Bits of the first word that hold the sequence number.
const SEQUENCE_BITS: u32 = 56;
/// The sequence number that says: this sender sends no more.
pub(crate) const END: u64 = (1 << SEQUENCE_BITS) - 1;

/// Writes sender and sequence number into a message; returns its first word.
#[inline]
pub(crate) fn stamp(message: &mut [u8], sender: u8, sequence: u64) -> u64 {
    let word = u64::from(sender) << SEQUENCE_BITS | sequence;
    message[..8].copy_from_slice(&word.to_le_bytes());
    if let [_, _, _, _, _, _, _, _, .., last] = message {
        *last = last_byte(word);
    }
    word
}

/// What stands in the last byte of a message of more than 8 bytes.
#[inline]
fn last_byte(word: u64) -> u8 {
    word as u8 ^ 0xa5
}

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// A message to count.
    Message,
    /// A sender sends no more.
    End,
}

/// A receiver's memory of what came.
#[derive(Debug)]
pub(crate) struct Checker {
    bytes: usize,
    /// Others take messages too: numbers rise, but not by one.
    competing: bool,
    next: Vec<u64>,
    /// Messages that came.
    pub(crate) messages: u64,
    /// The sum of their first words, wrapping.
    pub(crate) sum: u64,
}

impl Checker {
    /// Nothing came yet.
    pub(crate) fn new(bytes: usize, senders: u8, competing: bool) -> Self {
        let next = vec![0; usize::from(senders)];
        Self { bytes, competing, next, messages: 0, sum: 0 }
    }

    /// Checks a message: length, sender, order, last byte.
    #[inline]
    pub(crate) fn check(&mut self, message: &[u8]) -> Result<Seen> {
        let Some((first, rest)) = message.split_first_chunk::<8>() else {
            bail!("a message of {} bytes came", message.len());
        };
        let word = u64::from_le_bytes(*first);
        let (sender, sequence) = ((word >> SEQUENCE_BITS) as usize, word & END);
        if message.len() != self.bytes || rest.last().is_some_and(|last| *last != last_byte(word)) {
            bail!("a broken message came: {} bytes, first word {word:#x}", message.len());
        }
        if sequence == END {
            return Ok(Seen::End);
        }
        let Some(next) = self.next.get_mut(sender) else {
            bail!("a message of sender {sender} came, whom nobody started");
        };
        if sequence != *next && !(self.competing && sequence > *next) {
            bail!("message {sequence} of sender {sender} came where {next} was expected");
        }
        *next = sequence + 1;
        self.messages += 1;
        self.sum = self.sum.wrapping_add(word);
        Ok(Seen::Message)
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
                    assert_eq!(checker.check(&message).unwrap(), Seen::Message);
                }
            }
            assert_eq!(checker.check(&message(bytes, 1, END)).unwrap(), Seen::End);
            assert_eq!((checker.messages, checker.sum), (20, sum));
        }
    }

    #[test]
    fn lost_doubled_cut_and_mixed_messages_are_seen() {
        let mut checker = Checker::new(64, 1, false);
        assert!(checker.check(&message(64, 0, 1)).is_err(), "one was lost");
        assert!(checker.check(&message(64, 0, 0)).is_ok());
        assert!(checker.check(&message(64, 0, 0)).is_err(), "it came twice");
        assert!(checker.check(&message(64, 3, 1)).is_err(), "nobody's");
        assert!(checker.check(&message(64, 0, 1)[..63]).is_err(), "cut");
        let mut mixed = message(64, 0, 1);
        mixed[63] ^= 1;
        assert!(checker.check(&mixed).is_err(), "mixed");
        assert!(checker.check(b"short").is_err());
    }

    #[test]
    fn competing_receivers_see_rising_numbers() {
        let mut checker = Checker::new(8, 1, true);
        assert!(checker.check(&message(8, 0, 5)).is_ok());
        assert!(checker.check(&message(8, 0, 9)).is_ok());
        assert!(checker.check(&message(8, 0, 9)).is_err());
        assert!(checker.check(&message(8, 0, 7)).is_err());
    }
}
