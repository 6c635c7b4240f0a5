//! Sessions and their links: what ties a process to a mailbox.

use std::collections::BTreeSet;

use libipc::protocol::{Identity, MailboxName, Refusal};
use serde::{Deserialize, Serialize};

use super::tracked::Tracked;

/// Names a session; never used again while this `ipcd` lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(pub u64);

/// Names a link: its session, and its number there.
pub type LinkKey = (SessionId, u32);

/// What a link holds in its mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkRole {
    /// Lanes: which, its mailbox knows.
    Send,
    /// A receiver slot.
    Receive {
        /// Of which group.
        group: u8,
        /// Which.
        slot: u16,
    },
    /// Nothing.
    Observe,
}

/// One link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The mailbox's number.
    pub mailbox_id: u64,
    /// The mailbox's name, for errors.
    pub name: MailboxName,
    /// What it holds there.
    pub role: LinkRole,
    /// The mailbox was deleted: the link holds nothing any more.
    pub deleted: bool,
    /// The mailbox to which answers to calls over this link come; it goes with the link.
    pub replies: Option<u64>,
}

/// One session: who, and its links. What is left out of its record has records of its own, or follows from others:
/// `journal`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SessionEntry {
    /// Who connected.
    pub identity: Identity,
    /// Mailboxes that go with it.
    #[serde(skip)]
    pub owned: BTreeSet<u64>,
    #[serde(skip)]
    pub(super) links: Tracked<u32, Link>,
    last: u32,
}

impl SessionEntry {
    /// A session without links.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        Self { identity, owned: BTreeSet::new(), links: Tracked::default(), last: 0 }
    }

    /// Its links in order of their numbers.
    pub fn links(&self) -> impl Iterator<Item = (u32, &Link)> {
        self.links.iter().map(|(&number, link)| (number, link))
    }

    /// A number that no link of the session has.
    pub fn next_number(&mut self) -> u32 {
        // Ends: there are far fewer links than numbers.
        loop {
            self.last = self.last.wrapping_add(1);
            if !self.links.contains_key(&self.last) {
                return self.last;
            }
        }
    }

    /// Adds a link under a number from [`Self::next_number`].
    pub fn add(&mut self, number: u32, link: Link) {
        self.links.insert(number, link);
    }

    /// The link of that number, to change.
    pub fn link_mut(&mut self, number: u32) -> Option<&mut Link> {
        self.links.get_mut(&number)
    }

    /// Takes a link out.
    pub fn remove(&mut self, number: u32) -> Option<Link> {
        self.links.remove(&number)
    }

    /// Notes that a link's mailbox is gone.
    pub fn mark_deleted(&mut self, number: u32) {
        if let Some(link) = self.links.get_mut(&number) {
            link.deleted = true;
        }
    }

    /// The link of that number, to a mailbox that is still there.
    ///
    /// # Errors
    /// [`Refusal::NoSuchLink`], [`Refusal::Deleted`].
    pub fn link(&self, number: u32, wanted: &str) -> Result<&Link, Refusal> {
        match self.links.get(&number) {
            None => Err(Refusal::NoSuchLink { link: number, wanted: wanted.into() }),
            Some(link) if link.deleted => Err(Refusal::Deleted { name: link.name.to_string() }),
            Some(link) => Ok(link),
        }
    }
}
