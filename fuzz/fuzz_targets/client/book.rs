//! The honest messages, and what has become of each.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use crate::HOSTILE;

/// What has become of an honest message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was sent.
    Sent,
    /// It is a call that nobody waits for any more: it may come, or not.
    Perhaps,
    Received,
    Withdrawn,
}

/// The book of all honest members. Nobody has it open while a call of the library goes on: others may write in it then.
#[derive(Clone)]
pub struct Book {
    /// Each message is to be received once.
    pub exact: bool,
    entries: Rc<RefCell<Entries>>,
}

#[derive(Default)]
struct Entries {
    last: u64,
    fates: HashMap<u64, Fate>,
}

impl Book {
    pub fn new(exact: bool) -> Self {
        Self { exact, entries: Rc::default() }
    }

    /// A message of its own kind, with its number: every byte tells which it is.
    pub fn write(&self, len: usize) -> (u64, Vec<u8>) {
        let mut entries = self.entries.borrow_mut();
        entries.last += 1;
        (entries.last, bytes(entries.last, len.max(8)))
    }

    pub fn note(&self, number: u64, fate: Fate) {
        self.entries.borrow_mut().fates.insert(number, fate);
    }

    pub fn fate(&self, number: u64) -> Option<Fate> {
        self.entries.borrow().fates.get(&number).copied()
    }

    /// Holds that a message of an honest sender is one that was sent, and is to come. Says its number.
    pub fn read(&self, uid: u32, message: &[u8]) -> Option<u64> {
        if !self.exact || uid == HOSTILE {
            return None;
        }
        let number = u64::from_le_bytes(*message.first_chunk().expect("an honest message"));
        assert_eq!(message, bytes(number, message.len()), "an honest message, and not whole");
        let fate = self.fate(number);
        let fits = matches!(fate, Some(Fate::Sent | Fate::Perhaps));
        assert!(fits, "message {number} comes, and it is {fate:?}");
        Some(number)
    }

    pub fn received(&self, number: Option<u64>) {
        if let Some(number) = number {
            self.note(number, Fate::Received);
        }
    }

    /// Holds that everything that was sent has come.
    pub fn check(&self) {
        let entries = self.entries.borrow();
        let lost = entries.fates.iter().find(|(_, fate)| **fate == Fate::Sent);
        assert_eq!(lost, None, "an honest message is lost");
    }
}

fn bytes(number: u64, len: usize) -> Vec<u8> {
    let mut message = number.to_le_bytes().to_vec();
    message.resize(len, number as u8);
    message
}
