//! Who has what and who may: pure state. No system call, no clock and no descriptor in here, so that
//! all of it can be tested by throwing operations at it.
//!
//! [`mailbox`] one mailbox, [`group`] its receivers, [`doorstep`] where these and the senders of each uid wake each
//! other, [`in_use`] which have regions, [`lane`] further lanes of a sender, [`direct`] processes that are reached by name and answers to calls, [`dead_letter`] messages that nobody can deal with, [`link`] sessions
//! and links, [`permission`] mode bits, [`quota`] limits; [`journal`] what has changed, as a record that another
//! registry follows, and [`tracked`] the tables that tell. `invariants` counts anew, for tests and fuzzers.
//!
//! **Invariant:** a quota's use is what counting mailboxes, lanes, sessions and bytes anew would give.
//! **Invariant:** a link that is not marked deleted names a mailbox that is there and that knows it.

pub mod dead_letter;
pub mod direct;
pub mod doorstep;
pub mod group;
pub mod in_use;
#[cfg(any(test, fuzzing))]
pub mod invariants;
pub mod journal;
pub mod lane;
pub mod link;
pub mod mailbox;
pub mod permission;
pub mod quota;
#[cfg(test)]
mod tests;
pub mod tracked;

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use libipc::lane::layout::{SlotState, lane_file_bytes};
use libipc::protocol::{
    Group, GroupName, Identity, LaneInfo, LaneTicket, MailboxAttributes, MailboxName, Owner,
    Refusal, Role,
};

use doorstep::Entry;
use group::Place;
use link::{Link, LinkKey, LinkRole, SessionEntry, SessionId};
use mailbox::{LaneWish, Mailbox, OwnerProcess};
use permission::{Caller, Ownership};
use quota::{LINK, MAILBOX, Quotas, SESSION, lane_usage};
use tracked::Tracked;

/// What an open has given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The link's number.
    pub link: u32,
    /// The mailbox's number.
    pub mailbox_id: u64,
    /// What it got.
    pub got: Got,
}

/// What a role got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Got {
    /// A lane.
    Lane {
        /// Which.
        lane: LaneInfo,
        /// How it has come by its doorstep.
        entry: Entry,
    },
    /// A receiver slot.
    Slot {
        /// Of which group.
        group: u8,
        /// Which.
        place: Place,
    },
    /// A look at a group, and nothing of it.
    Look {
        /// Which.
        group: u8,
    },
}

/// A link that has ended; what it held is now `Gone`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The mailbox's number.
    pub mailbox_id: u64,
    /// What it held.
    pub role: LinkRole,
    /// A sender's lanes.
    pub lanes: Vec<LaneTicket>,
}

/// What is to be seen to after links have ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Departure {
    /// The links, but for those to deleted mailboxes.
    pub ended: Vec<Ended>,
    /// Mailboxes that went with them: to be removed.
    pub orphans: Vec<u64>,
}

/// All mailboxes, sessions and quotas.
#[derive(Debug)]
pub struct Registry {
    quotas: Quotas,
    names: BTreeMap<MailboxName, u64>,
    mailboxes: Tracked<u64, Mailbox>,
    sessions: Tracked<SessionId, SessionEntry>,
    /// The inbox of each process that has one.
    inboxes: HashMap<u32, u64>,
    last_id: u64,
    first_position: u64,
}

impl Registry {
    /// An empty one. Lanes in new slots begin at `first_position`.
    #[must_use]
    pub fn new(quotas: Quotas, first_position: u64) -> Self {
        Self {
            quotas,
            names: BTreeMap::new(),
            mailboxes: Tracked::default(),
            sessions: Tracked::default(),
            inboxes: HashMap::new(),
            last_id: 0,
            first_position,
        }
    }

    /// What uids use and may use.
    #[must_use]
    pub fn quotas(&self) -> &Quotas {
        &self.quotas
    }

    /// How many sessions there are.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// How many mailboxes there are.
    #[must_use]
    pub fn mailbox_count(&self) -> usize {
        self.mailboxes.len()
    }

    /// The mailbox of that number.
    #[must_use]
    pub fn mailbox(&self, id: u64) -> Option<&Mailbox> {
        self.mailboxes.get(&id)
    }

    /// The mailbox of that number, to change.
    pub fn mailbox_mut(&mut self, id: u64) -> Option<&mut Mailbox> {
        self.mailboxes.get_mut(&id)
    }

    /// The mailbox of that name.
    ///
    /// # Errors
    /// [`Refusal::NoSuchMailbox`].
    pub fn find(&self, name: &MailboxName) -> Result<&Mailbox, Refusal> {
        let found = self.names.get(name).and_then(|id| self.mailboxes.get(id));
        found.ok_or_else(|| Refusal::NoSuchMailbox { name: name.to_string() })
    }

    /// Mailboxes that the caller may see, in order of their names, behind `after`.
    pub fn visible<'a>(
        &'a self,
        caller: &'a Caller<'a>,
        after: Option<&MailboxName>,
    ) -> impl Iterator<Item = &'a Mailbox> + 'a {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.names
            .range::<MailboxName, _>((from, Bound::Unbounded))
            .filter_map(|(_, id)| self.mailboxes.get(id))
            .filter(|mailbox| mailbox.ownership.may_see(caller))
    }

    /// Begins a session.
    ///
    /// # Errors
    /// [`Refusal::QuotaExceeded`].
    pub fn begin_session(&mut self, id: SessionId, identity: Identity) -> Result<(), Refusal> {
        self.quotas.charge(identity.uid, SESSION)?;
        self.sessions.insert(id, SessionEntry::new(identity));
        Ok(())
    }

    /// Ends a session and all its links.
    pub fn end_session(&mut self, id: SessionId) -> Departure {
        let Some(session) = self.sessions.remove(&id) else { return Departure::default() };
        let uid = session.identity.uid;
        self.quotas.release(uid, SESSION);
        session.links().for_each(|_| self.quotas.release(uid, LINK));
        let ended = session.links().filter_map(|(number, link)| self.end(id, number, link));
        let ended = ended.collect();
        Departure { ended, orphans: session.owned.into_iter().collect() }
    }

    /// Creates a mailbox and says its number.
    ///
    /// # Errors
    /// An attribute out of range, a name in use or kept for `ipcd`, an owner that the caller may not
    /// choose, a quota.
    pub fn create(
        &mut self,
        session: SessionId,
        caller: &Caller<'_>,
        name: &MailboxName,
        attributes: &MailboxAttributes,
        groups: &[Group],
    ) -> Result<u64, Refusal> {
        direct::check_free_name(name)?;
        self.make(session, caller, name, attributes, groups)
    }

    fn make(
        &mut self,
        session: SessionId,
        caller: &Caller<'_>,
        name: &MailboxName,
        attributes: &MailboxAttributes,
        groups: &[Group],
    ) -> Result<u64, Refusal> {
        attributes.check(groups)?;
        let ownership = Ownership::at_create(attributes, caller);
        if !ownership.may_be_given_by(caller) {
            return Err(ownership.refuse(name, "give away", caller));
        }
        if self.names.contains_key(name) {
            return Err(Refusal::AlreadyExists { name: name.to_string() });
        }
        if !self.sessions.contains_key(&session) {
            return Err(no_session());
        }
        let id = self.insert(name, attributes, ownership, groups)?;
        if attributes.owner == Owner::Process
            && let Some(mailbox) = self.mailboxes.get_mut(&id)
            && let Some(entry) = self.sessions.get_mut(&session)
        {
            mailbox.owner_process = Some(OwnerProcess { session, pid: caller.identity.pid });
            entry.owned.insert(id);
        }
        Ok(id)
    }

    /// Charges a new mailbox to its owner, and lets it in.
    fn insert(
        &mut self,
        name: &MailboxName,
        attributes: &MailboxAttributes,
        ownership: Ownership,
        groups: &[Group],
    ) -> Result<u64, Refusal> {
        self.quotas.charge(ownership.uid, MAILBOX)?;
        self.last_id += 1;
        let id = self.last_id;
        let first = self.first_position;
        let mailbox = Mailbox::new(id, name.clone(), *attributes, ownership, groups, first);
        self.names.insert(name.clone(), id);
        self.mailboxes.insert(id, mailbox);
        Ok(id)
    }

    /// The mailbox of that name, if the caller may administer it.
    ///
    /// # Errors
    /// [`Refusal::NoSuchMailbox`], [`Refusal::PermissionDenied`].
    pub fn administered(
        &self,
        caller: &Caller<'_>,
        name: &MailboxName,
        wanted: &str,
    ) -> Result<u64, Refusal> {
        let mailbox = self.find(name)?;
        if !mailbox.ownership.may_administer(caller) {
            return Err(mailbox.ownership.refuse(name, wanted, caller));
        }
        Ok(mailbox.id)
    }

    /// Takes a mailbox out with all that it has; its links are dead from now on. Its dead letters are to be removed
    /// first.
    pub fn remove(&mut self, id: u64) -> Option<Mailbox> {
        let mailbox = self.mailboxes.remove(&id)?;
        self.names.remove(&mailbox.name);
        if let Some(of) = mailbox.dead_letters_of.and_then(|of| self.mailboxes.get_mut(&of)) {
            of.dead_letters = None;
        }
        for (session, link) in &mailbox.links {
            if let Some(session) = self.sessions.get_mut(session) {
                session.mark_deleted(*link);
            }
        }
        if let Some(owner) = mailbox.owner_process {
            if let Some(session) = self.sessions.get_mut(&owner.session) {
                session.owned.remove(&id);
            }
            if mailbox.inbox {
                self.inboxes.remove(&owner.pid);
            }
        }
        for lane in mailbox.lanes().iter().filter(|lane| lane.state != SlotState::Free) {
            self.quotas.release(lane.charged.0, lane.charged.1);
        }
        self.quotas.release(mailbox.ownership.uid, mailbox.owner_usage());
        Some(mailbox)
    }

    /// Opens a mailbox: permission, room, quota, then a link.
    ///
    /// # Errors
    /// No such mailbox or group, no permission, closed, full, another's, over quota.
    pub fn open(
        &mut self,
        session: SessionId,
        caller: &Caller<'_>,
        name: &MailboxName,
        role: Role,
        group: Option<&GroupName>,
    ) -> Result<Admission, Refusal> {
        let mailbox = self.find(name)?;
        if !mailbox.ownership.may_open(caller, role) {
            return Err(mailbox.ownership.refuse(name, &role.to_string(), caller));
        }
        let group = match (role, group) {
            (Role::Send | Role::Observe, None) => 0,
            (_, group) => mailbox.group_index(group)?,
        };
        self.admit(session, caller.identity, mailbox.id, role, group)
    }

    /// Lets somebody in whose right has been looked at.
    fn admit(
        &mut self,
        session: SessionId,
        identity: Identity,
        mailbox_id: u64,
        role: Role,
        group: u8,
    ) -> Result<Admission, Refusal> {
        let entry = self.sessions.get_mut(&session).ok_or_else(no_session)?;
        let uid = entry.identity.uid;
        self.quotas.charge(uid, LINK)?;
        let link = entry.next_number();
        let key = (session, link);
        let got = self.take_into_use(mailbox_id).and_then(|()| match role {
            Role::Send => self.admit_sender(key, mailbox_id, identity),
            Role::Receive => self.admit_receiver(key, mailbox_id, identity, group),
            Role::Observe => Ok(Got::Look { group }),
        });
        let got = got.inspect_err(|_| {
            self.quotas.release(uid, LINK);
            self.put_away_if_idle(mailbox_id);
        })?;
        let role = match &got {
            Got::Lane { .. } => LinkRole::Send,
            Got::Slot { group, place } => LinkRole::Receive { group: *group, slot: place.slot },
            Got::Look { .. } => LinkRole::Observe,
        };
        let mailbox = self.mailboxes.get_mut(&mailbox_id).ok_or_else(no_session)?;
        mailbox.links.insert(key);
        let name = mailbox.name.clone();
        let entry = self.sessions.get_mut(&session).ok_or_else(no_session)?;
        entry.add(link, Link { mailbox_id, name, role, deleted: false, replies: None });
        Ok(Admission { link, mailbox_id, got })
    }

    /// Undoes an open whose regions could not be made.
    pub fn withdraw(&mut self, session: SessionId, admission: &Admission) {
        let _ = self.close_link(session, admission.link);
        let id = admission.mailbox_id;
        match &admission.got {
            Got::Lane { lane, entry } => {
                self.free_lane(id, lane.ticket.index, lane.first_position, 0);
                let Some(mailbox) = self.mailboxes.get_mut(&id) else { return };
                mailbox.withdraw_doorstep(lane.doorstep, *entry);
                if *entry == Entry::Added {
                    self.quotas.release(mailbox.ownership.uid, mailbox.doorstep_usage());
                }
            }
            Got::Slot { group, place } => {
                let mailbox = self.mailboxes.get_mut(&id).filter(|_| !place.inherited);
                if let Some(table) = mailbox.and_then(|mailbox| mailbox.group_mut(*group)) {
                    table.free(place.slot, 0);
                }
            }
            Got::Look { .. } => {}
        }
        self.put_away_if_idle(id);
    }

    /// The link of that number of a session, to a mailbox that is still there.
    ///
    /// # Errors
    /// [`Refusal::NoSuchLink`], [`Refusal::Deleted`].
    pub fn link(&self, session: SessionId, link: u32, wanted: &str) -> Result<&Link, Refusal> {
        self.sessions.get(&session).ok_or_else(no_session)?.link(link, wanted)
    }

    /// Closes a link; what it held is `Gone` until it is freed.
    ///
    /// # Errors
    /// [`Refusal::NoSuchLink`].
    pub fn close_link(&mut self, id: SessionId, link: u32) -> Result<Departure, Refusal> {
        let session = self.sessions.get_mut(&id).ok_or_else(no_session)?;
        let Some(closed) = session.remove(link) else {
            return Err(Refusal::NoSuchLink { link, wanted: "be closed".into() });
        };
        self.quotas.release(session.identity.uid, LINK);
        let orphans = closed.replies.into_iter().collect();
        Ok(Departure { ended: self.end(id, link, &closed).into_iter().collect(), orphans })
    }

    /// Frees a lane whose sender is gone, and its quota.
    pub fn free_lane(&mut self, mailbox_id: u64, index: u16, next_position: u64, sent: u64) {
        let Some(mailbox) = self.mailboxes.get_mut(&mailbox_id) else { return };
        if let Some((uid, usage)) = mailbox.free_lane(index, next_position, sent) {
            self.quotas.release(uid, usage);
        }
    }

    fn admit_sender(
        &mut self,
        link: LinkKey,
        mailbox_id: u64,
        sender: Identity,
    ) -> Result<Got, Refusal> {
        let mailbox = self.mailboxes.get_mut(&mailbox_id).ok_or_else(no_session)?;
        if mailbox.dead_letters_of.is_some() {
            return Err(Refusal::DeadLetters { name: mailbox.name.to_string() });
        }
        mailbox.check_sender_room(link.0, sender)?;
        let capacity_bytes = mailbox.attributes.capacity_bytes;
        let lane = lane_usage(lane_file_bytes(capacity_bytes));
        let payer = mailbox.payer_of(sender.uid);
        self.quotas.charge(payer, lane)?;
        if mailbox.adds_doorstep_for(sender.uid) {
            let (owner, doorstep) = (mailbox.ownership.uid, mailbox.doorstep_usage());
            if let Err(refusal) = self.quotas.charge(owner, doorstep) {
                self.quotas.release(payer, lane);
                return Err(refusal);
            }
        }
        // There is one: `check_sender_room` has looked.
        let (doorstep, entry) = mailbox.give_doorstep(sender.uid).ok_or_else(no_session)?;
        mailbox.add_sender(link, sender, doorstep);
        let wish = LaneWish { priority: 0, capacity_bytes, predecessor: None };
        // There is one: `check_sender_room` has looked.
        let lane = mailbox.add_lane(link, wish).ok_or_else(no_session)?;
        Ok(Got::Lane { lane, entry })
    }

    fn admit_receiver(
        &mut self,
        link: LinkKey,
        mailbox_id: u64,
        receiver: Identity,
        group: u8,
    ) -> Result<Got, Refusal> {
        let mailbox = self.mailboxes.get_mut(&mailbox_id).ok_or_else(no_session)?;
        Ok(Got::Slot { group, place: mailbox.add_receiver(group, link.0, receiver)? })
    }

    fn end(&mut self, session: SessionId, number: u32, link: &Link) -> Option<Ended> {
        let mailbox = self.mailboxes.get_mut(&link.mailbox_id)?;
        let key = (session, number);
        mailbox.links.remove(&key);
        let mut lanes = Vec::new();
        match link.role {
            LinkRole::Send => lanes = mailbox.sender_gone(key),
            LinkRole::Receive { group, slot } => {
                if let Some(table) = mailbox.group_mut(group) {
                    table.leave(slot);
                }
            }
            LinkRole::Observe => {}
        }
        Some(Ended { mailbox_id: link.mailbox_id, role: link.role, lanes })
    }
}

/// The caller's bug, not the client's: sessions are begun before they may ask.
fn no_session() -> Refusal {
    Refusal::Protocol { reason: "the session has not begun".into() }
}
