//! What honest senders have sent, and what has become of it.

use std::collections::HashMap;

use libipc::lane::position::RECORD_HEADER_BYTES;

use super::regions::CAPACITY_BYTES;

/// A message: its lane, and its number there.
pub type Key = (u16, u16);

/// Bytes of the shortest message that says which it is.
pub const BYTES_MIN: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Sent,
    Done,
    Withdrawn,
}

#[derive(Debug)]
pub struct Book {
    /// The length and the fate of each message.
    messages: HashMap<Key, (usize, Fate)>,
    /// Nobody has returned anything, put it aside, or died: what each receiver gets is in order.
    pub undisturbed: bool,
}

/// The bytes of a message.
pub fn bytes(key: Key, len: usize) -> Vec<u8> {
    let mut bytes = vec![key.1 as u8 ^ 0x5a; len];
    bytes[..2].copy_from_slice(&key.0.to_le_bytes());
    bytes[2..4].copy_from_slice(&key.1.to_le_bytes());
    bytes[4..8].copy_from_slice(&(len as u32).to_le_bytes());
    bytes
}

impl Book {
    pub fn new() -> Self {
        Self { messages: HashMap::new(), undisturbed: true }
    }

    pub fn sent(&mut self, key: Key, len: usize) {
        assert!(self.messages.insert(key, (len, Fate::Sent)).is_none());
    }

    /// A receiver has it: it must be whole, and nobody's yet.
    pub fn handed_out(&self, lane: u16, came: &[u8]) -> Key {
        assert!(came.len() >= BYTES_MIN, "lane {lane}: {came:?} was never sent");
        let key = (lane, u16::from_le_bytes([came[2], came[3]]));
        let Some(&(len, fate)) = self.messages.get(&key) else {
            panic!("{key:?} was never sent: {came:?}")
        };
        assert_eq!(came, bytes(key, len), "{key:?} is not what was sent");
        assert_eq!(fate, Fate::Sent, "{key:?} comes once more");
        key
    }

    pub fn acknowledged(&mut self, key: Key) {
        self.settle(key, Fate::Done);
    }

    pub fn withdrawn(&mut self, key: Key) {
        self.settle(key, Fate::Withdrawn);
    }

    pub fn is_withdrawn(&self, key: Key) -> bool {
        self.messages.get(&key).is_some_and(|&(_, fate)| fate == Fate::Withdrawn)
    }

    fn settle(&mut self, key: Key, fate: Fate) {
        let entry = self.messages.get_mut(&key).expect("it was sent");
        assert_eq!(entry.1, Fate::Sent, "{key:?} becomes {fate:?} as well");
        entry.1 = fate;
    }

    /// Nothing was lost.
    pub fn check_all_settled(&self, state: impl FnOnce() -> String) {
        let mut lost = self.messages.iter().filter(|(_, (_, fate))| *fate == Fate::Sent);
        if let Some((key, (len, _))) = lost.next() {
            panic!("lost: {key:?} of {len} bytes, and {} more; {}", lost.count(), state());
        }
    }
}

/// What anybody may be handed out, whoever sent it.
pub fn check_length(came: &[u8]) {
    // Of whoever keeps to no rule: all that the lane has behind a record's first word.
    let longest = CAPACITY_BYTES as usize - RECORD_HEADER_BYTES;
    assert!(came.len() <= longest, "a message of {} bytes from a lane of {longest}", came.len());
}
