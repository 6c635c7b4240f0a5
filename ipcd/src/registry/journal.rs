//! What has changed in a registry, as a record; a registry that follows all records in their order has the
//! same in it.
//!
//! A record has what may have changed, whole: a mailbox's or a session's own words, and of their long tables the
//! entries that were touched. So its size does not grow with what there is, and following a record twice
//! does no harm. What follows from other records stands in none: names, inboxes, quotas' use, which lanes are
//! free, a mailbox's links and whether it is in use ([`Registry::complete`]).

use std::collections::BTreeSet;

use libipc::lane::layout::SlotState;
use serde::{Deserialize, Serialize};

use super::Registry;
use super::link::{Link, LinkKey, SessionEntry, SessionId};
use super::mailbox::{Attachment, LaneSlot, Mailbox, Sender};
use super::quota::{LINK, SESSION};

/// The keys of what may have changed.
#[derive(Debug, Default)]
pub struct Touched {
    mailboxes: Vec<(u64, TouchedMailbox)>,
    sessions: Vec<(SessionId, BTreeSet<u32>)>,
}

#[derive(Debug, Default)]
struct TouchedMailbox {
    lanes: BTreeSet<usize>,
    senders: BTreeSet<LinkKey>,
    attachments: BTreeSet<u64>,
}

impl Touched {
    /// Nothing has changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.mailboxes.is_empty() && self.sessions.is_empty()
    }
}

/// A record as it is written.
#[derive(Debug, Serialize)]
pub struct Changes<'a> {
    last_id: u64,
    mailboxes: Vec<(u64, Option<MailboxChanges<'a>>)>,
    sessions: Vec<(SessionId, Option<SessionChanges<'a>>)>,
}

#[derive(Debug, Serialize)]
struct MailboxChanges<'a> {
    itself: &'a Mailbox,
    lanes: Vec<(usize, &'a LaneSlot)>,
    senders: Vec<(LinkKey, Option<&'a Sender>)>,
    attachments: Vec<(u64, Option<Attachment>)>,
}

#[derive(Debug, Serialize)]
struct SessionChanges<'a> {
    itself: &'a SessionEntry,
    links: Vec<(u32, Option<&'a Link>)>,
}

/// A record as it is read: field by field what [`Changes`] is.
#[derive(Debug, Deserialize)]
pub struct Record {
    last_id: u64,
    mailboxes: Vec<(u64, Option<MailboxRecord>)>,
    sessions: Vec<(SessionId, Option<SessionRecord>)>,
}

#[derive(Debug, Deserialize)]
struct MailboxRecord {
    itself: Mailbox,
    lanes: Vec<(usize, LaneSlot)>,
    senders: Vec<(LinkKey, Option<Sender>)>,
    attachments: Vec<(u64, Option<Attachment>)>,
}

#[derive(Debug, Deserialize)]
struct SessionRecord {
    itself: SessionEntry,
    links: Vec<(u32, Option<Link>)>,
}

impl Registry {
    /// The keys of what may have changed since the last time.
    pub fn take_touched(&mut self) -> Touched {
        let mut touched = Touched::default();
        for id in self.mailboxes.take_touched() {
            let mailbox = self.mailboxes.get_unnoticed(&id);
            let tables = mailbox.map_or_else(TouchedMailbox::default, |it| TouchedMailbox {
                lanes: it.lanes.take_touched(),
                senders: it.senders.take_touched(),
                attachments: it.attachments.take_touched(),
            });
            touched.mailboxes.push((id, tables));
        }
        for id in self.sessions.take_touched() {
            let session = self.sessions.get_unnoticed(&id);
            let links = session.map_or_else(BTreeSet::new, |it| it.links.take_touched());
            touched.sessions.push((id, links));
        }
        touched
    }

    /// Whether something may have changed since the last time.
    #[must_use]
    pub fn is_touched(&self) -> bool {
        self.mailboxes.is_touched() || self.sessions.is_touched()
    }

    /// The keys of all there is: a record of it is followed by a registry with nothing in it.
    #[must_use]
    pub fn everything(&self) -> Touched {
        let tables = |mailbox: &Mailbox| TouchedMailbox {
            lanes: (0..mailbox.lanes.len()).collect(),
            senders: mailbox.senders.keys().copied().collect(),
            attachments: mailbox.attachments.keys().copied().collect(),
        };
        let links = |session: &SessionEntry| session.links.keys().copied().collect();
        Touched {
            mailboxes: self.mailboxes.iter().map(|(&id, it)| (id, tables(it))).collect(),
            sessions: self.sessions.iter().map(|(&id, it)| (id, links(it))).collect(),
        }
    }

    /// The record of what was touched.
    #[must_use]
    pub fn changes<'a>(&'a self, touched: &Touched) -> Changes<'a> {
        let mailbox = |(id, tables): &(u64, TouchedMailbox)| {
            let changes = self.mailboxes.get(id).map(|itself| MailboxChanges {
                itself,
                lanes: with(&tables.lanes, |&at| itself.lanes.get(at))
                    .filter_map(|(at, slot)| Some((at, slot?)))
                    .collect(),
                senders: with(&tables.senders, |key| itself.senders.get(key)).collect(),
                attachments: with(&tables.attachments, |key| itself.attachments.get(key).copied())
                    .collect(),
            });
            (*id, changes)
        };
        let session = |(id, links): &(SessionId, BTreeSet<u32>)| {
            let changes = self.sessions.get(id).map(|itself| SessionChanges {
                itself,
                links: with(links, |number| itself.links.get(number)).collect(),
            });
            (*id, changes)
        };
        Changes {
            last_id: self.last_id,
            mailboxes: touched.mailboxes.iter().map(mailbox).collect(),
            sessions: touched.sessions.iter().map(session).collect(),
        }
    }

    /// Has nothing in it: a record of everything follows.
    pub fn begin_anew(&mut self) {
        (self.mailboxes, self.sessions) = Default::default();
    }

    /// Follows a record. [`Self::complete`] once all are followed.
    pub fn follow(&mut self, record: Record) {
        self.last_id = record.last_id;
        let mailboxes = record.mailboxes.into_iter().map(|(id, changes)| {
            let before = self.mailboxes.remove(&id);
            (id, changes.map(|changes| changes.upon(before)))
        });
        let mailboxes = mailboxes.collect();
        let sessions = record.sessions.into_iter().map(|(id, changes)| {
            let before = self.sessions.remove(&id);
            (id, changes.map(|changes| changes.upon(before)))
        });
        let sessions = sessions.collect();
        self.mailboxes.follow(mailboxes);
        self.sessions.follow(sessions);
    }

    /// Finds what follows from the records, and stands in none of them.
    pub fn complete(&mut self) {
        self.names.clear();
        self.inboxes.clear();
        self.quotas.forget();
        for (id, session) in &self.sessions {
            let uid = session.identity.uid;
            self.quotas.note(uid, SESSION);
            session.links.iter().for_each(|_| self.quotas.note(uid, LINK));
            for (&number, link) in session.links.iter().filter(|(_, link)| !link.deleted) {
                if let Some(mailbox) = self.mailboxes.get_unnoticed(&link.mailbox_id) {
                    mailbox.links.insert((*id, number));
                }
            }
        }
        for mailbox in self.mailboxes.values_unnoticed() {
            mailbox.sort_lanes();
            mailbox.complete_use();
            self.names.insert(mailbox.name.clone(), mailbox.id);
            if let Some(owner) = mailbox.owner_process {
                if let Some(session) = self.sessions.get_unnoticed(&owner.session) {
                    session.owned.insert(mailbox.id);
                }
                if mailbox.inbox {
                    self.inboxes.insert(owner.pid, mailbox.id);
                }
            }
            self.quotas.note(mailbox.ownership.uid, mailbox.owner_usage());
            for lane in mailbox.lanes.iter().filter(|lane| lane.state != SlotState::Free) {
                self.quotas.note(lane.charged.0, lane.charged.1);
            }
        }
        self.take_touched();
    }

    /// The ids of the sessions.
    pub fn session_ids(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.sessions.keys().copied()
    }

    /// The ids of the mailboxes.
    pub fn mailbox_ids(&self) -> impl Iterator<Item = u64> + '_ {
        self.mailboxes.keys().copied()
    }

    /// Who connected.
    #[must_use]
    pub fn session_identity(&self, id: SessionId) -> Option<libipc::protocol::Identity> {
        self.sessions.get(&id).map(|session| session.identity)
    }
}

impl MailboxRecord {
    /// The mailbox as it is after this, given what it was before.
    fn upon(self, before: Option<Mailbox>) -> Mailbox {
        let mut mailbox = self.itself;
        if let Some(before) = before {
            mailbox.lanes = before.lanes;
            mailbox.senders = before.senders;
            mailbox.attachments = before.attachments;
        }
        mailbox.lanes.follow(self.lanes);
        mailbox.senders.follow(self.senders);
        mailbox.attachments.follow(self.attachments);
        mailbox
    }
}

impl SessionRecord {
    fn upon(self, before: Option<SessionEntry>) -> SessionEntry {
        let mut session = self.itself;
        if let Some(before) = before {
            session.links = before.links;
        }
        session.links.follow(self.links);
        session
    }
}

/// Each key with its value.
fn with<'a, K: Copy, V>(
    keys: &'a BTreeSet<K>,
    mut value: impl FnMut(&K) -> V + 'a,
) -> impl Iterator<Item = (K, V)> + 'a {
    keys.iter().map(move |key| (*key, value(key)))
}
