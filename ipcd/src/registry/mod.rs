//! Who has what and who may: pure state. No system call, no clock and no descriptor in here, so that
//! all of it can be tested by throwing operations at it.
//!
//! [`mailbox`] one mailbox, [`link`] sessions and links, [`permission`] mode bits, [`quota`] limits.
//!
//! **Invariant:** a quota's use is what counting mailboxes, lanes, sessions and bytes anew would give.
//! **Invariant:** a link that is not marked deleted names a mailbox that is there and that knows it.

pub mod link;
pub mod mailbox;
pub mod permission;
pub mod quota;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use libipc::protocol::{Identity, LaneInfo, MailboxAttributes, MailboxName, Refusal, Role, Usage};

use link::{Link, LinkRole, SessionEntry, SessionId};
use mailbox::Mailbox;
use permission::{Caller, Ownership};
use quota::Quotas;

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
        /// Its doorstep is new, too.
        doorstep_is_new: bool,
    },
    /// A receiver slot.
    Slot {
        /// Which.
        slot: u16,
        /// With the delivery that the receiver before left.
        inherited: bool,
    },
    /// Nothing.
    Nothing,
}

/// A link that has ended; what it held is now `Gone`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The mailbox's number.
    pub mailbox_id: u64,
    /// What it held.
    pub role: LinkRole,
}

/// All mailboxes, sessions and quotas.
#[derive(Debug)]
pub struct Registry {
    quotas: Quotas,
    names: BTreeMap<MailboxName, u64>,
    mailboxes: HashMap<u64, Mailbox>,
    sessions: HashMap<SessionId, SessionEntry>,
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
            mailboxes: HashMap::new(),
            sessions: HashMap::new(),
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
        self.quotas.charge(identity.uid, Usage { sessions: 1, ..Usage::default() })?;
        self.sessions.insert(id, SessionEntry::new(identity));
        Ok(())
    }

    /// Ends a session and all its links.
    pub fn end_session(&mut self, id: SessionId) -> Vec<Ended> {
        let Some(session) = self.sessions.remove(&id) else { return Vec::new() };
        let uid = session.identity.uid;
        self.quotas.release(uid, Usage { sessions: 1, ..Usage::default() });
        session.links().filter_map(|(number, link)| self.end(id, number, link)).collect()
    }

    /// Creates a mailbox and says its number.
    ///
    /// # Errors
    /// An attribute out of range, a name in use, an owner that the caller may not choose, a quota.
    pub fn create(
        &mut self,
        caller: &Caller<'_>,
        name: &MailboxName,
        attributes: &MailboxAttributes,
    ) -> Result<u64, Refusal> {
        attributes.check(&[])?;
        let ownership = Ownership::at_create(attributes, caller);
        if !ownership.may_be_given_by(caller) {
            return Err(ownership.refuse(name, "give away", caller));
        }
        if self.names.contains_key(name) {
            return Err(Refusal::AlreadyExists { name: name.to_string() });
        }
        let bytes = Mailbox::empty_bytes(attributes);
        self.quotas.charge(ownership.uid, Usage { mailboxes: 1, bytes, ..Usage::default() })?;
        self.last_id += 1;
        let id = self.last_id;
        let mailbox = Mailbox::new(id, name.clone(), *attributes, ownership, self.first_position);
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

    /// Takes a mailbox out with all that it has; its links are dead from now on.
    pub fn remove(&mut self, id: u64) -> Option<Mailbox> {
        let mailbox = self.mailboxes.remove(&id)?;
        self.names.remove(&mailbox.name);
        for (session, link) in &mailbox.links {
            if let Some(session) = self.sessions.get_mut(session) {
                session.mark_deleted(*link);
            }
        }
        let lane_bytes = mailbox.lane_bytes();
        for lane in mailbox.lanes() {
            if lane.state != libipc::lane::layout::SlotState::Free {
                self.quotas.release(lane.info.sender.uid, lane_usage(lane_bytes));
            }
        }
        let bytes = mailbox.owner_bytes();
        let owner = mailbox.ownership.uid;
        self.quotas.release(owner, Usage { mailboxes: 1, bytes, ..Usage::default() });
        Some(mailbox)
    }

    /// Opens a mailbox: permission, room, quota, then a link.
    ///
    /// # Errors
    /// No such mailbox, no permission, closed, full, over quota.
    pub fn open(
        &mut self,
        session: SessionId,
        caller: &Caller<'_>,
        name: &MailboxName,
        role: Role,
    ) -> Result<Admission, Refusal> {
        let mailbox = self.find(name)?;
        if !mailbox.ownership.may_open(caller, role) {
            return Err(mailbox.ownership.refuse(name, &role.to_string(), caller));
        }
        let mailbox_id = mailbox.id;
        let entry = self.sessions.get(&session);
        entry.ok_or_else(no_session)?.check_room()?;
        let got = match role {
            Role::Send => self.admit_sender(mailbox_id, caller.identity)?,
            Role::Receive => {
                let mailbox = self.mailboxes.get_mut(&mailbox_id).ok_or_else(no_session)?;
                let (slot, inherited) = mailbox.add_receiver(caller.identity)?;
                Got::Slot { slot, inherited }
            }
            Role::Observe => Got::Nothing,
        };
        let role = match &got {
            Got::Lane { lane, .. } => LinkRole::Send { lane: lane.ticket },
            Got::Slot { slot, .. } => LinkRole::Receive { slot: *slot },
            Got::Nothing => LinkRole::Observe,
        };
        let entry = self.sessions.get_mut(&session).ok_or_else(no_session)?;
        let link = entry.add(Link { mailbox_id, name: name.clone(), role, deleted: false });
        if let Some(mailbox) = self.mailboxes.get_mut(&mailbox_id) {
            mailbox.links.insert((session, link));
        }
        Ok(Admission { link, mailbox_id, got })
    }

    /// Undoes an open whose regions could not be made.
    pub fn withdraw(&mut self, session: SessionId, admission: &Admission) {
        let _ = self.close_link(session, admission.link);
        let id = admission.mailbox_id;
        match &admission.got {
            Got::Lane { lane, doorstep_is_new } => {
                self.free_lane(id, lane.ticket.index, lane.first_position, 0);
                let Some(mailbox) = self.mailboxes.get_mut(&id) else { return };
                if *doorstep_is_new {
                    mailbox.withdraw_doorstep();
                    let bytes = mailbox.doorstep_bytes();
                    let owner = mailbox.ownership.uid;
                    self.quotas.release(owner, Usage { bytes, ..Usage::default() });
                }
            }
            Got::Slot { slot, inherited: false } => {
                if let Some(mailbox) = self.mailboxes.get_mut(&id) {
                    mailbox.free_receiver(*slot, 0);
                }
            }
            Got::Slot { inherited: true, .. } | Got::Nothing => {}
        }
    }

    /// The link of that number of a session, to a mailbox that is still there.
    ///
    /// # Errors
    /// [`Refusal::NoSuchLink`], [`Refusal::Deleted`].
    pub fn link(&self, session: SessionId, link: u32, wanted: &str) -> Result<&Link, Refusal> {
        self.sessions.get(&session).ok_or_else(no_session)?.link(link, wanted)
    }

    /// Closes a link; what it held is `Gone` until it is freed. `None` if its mailbox was deleted.
    ///
    /// # Errors
    /// [`Refusal::NoSuchLink`].
    pub fn close_link(&mut self, id: SessionId, link: u32) -> Result<Option<Ended>, Refusal> {
        let session = self.sessions.get_mut(&id).ok_or_else(no_session)?;
        let Some(closed) = session.remove(link) else {
            return Err(Refusal::NoSuchLink { link, wanted: "be closed".into() });
        };
        Ok(self.end(id, link, &closed))
    }

    /// Frees a lane whose sender is gone, and its quota.
    pub fn free_lane(&mut self, mailbox_id: u64, index: u16, next_position: u64, sent: u64) {
        let Some(mailbox) = self.mailboxes.get_mut(&mailbox_id) else { return };
        let bytes = mailbox.lane_bytes();
        if let Some(sender) = mailbox.free_lane(index, next_position, sent) {
            self.quotas.release(sender.uid, lane_usage(bytes));
        }
    }

    fn admit_sender(&mut self, mailbox_id: u64, sender: Identity) -> Result<Got, Refusal> {
        let mailbox = self.mailboxes.get_mut(&mailbox_id).ok_or_else(no_session)?;
        mailbox.check_sender_room(sender.uid)?;
        let lane = lane_usage(mailbox.lane_bytes());
        self.quotas.charge(sender.uid, lane)?;
        let known = mailbox.doorstep_of(sender.uid);
        let doorstep = match known {
            Some(doorstep) => doorstep,
            None => {
                let doorstep = Usage { bytes: mailbox.doorstep_bytes(), ..Usage::default() };
                if let Err(refusal) = self.quotas.charge(mailbox.ownership.uid, doorstep) {
                    self.quotas.release(sender.uid, lane);
                    return Err(refusal);
                }
                mailbox.add_doorstep(sender.uid)
            }
        };
        // There is one: `check_sender_room` has looked.
        let lane = mailbox.add_lane(sender, doorstep).ok_or_else(no_session)?;
        Ok(Got::Lane { lane, doorstep_is_new: known.is_none() })
    }

    fn end(&mut self, session: SessionId, number: u32, link: &Link) -> Option<Ended> {
        let mailbox = self.mailboxes.get_mut(&link.mailbox_id)?;
        mailbox.links.remove(&(session, number));
        match link.role {
            LinkRole::Send { lane } => mailbox.sender_gone(lane.index),
            LinkRole::Receive { slot } => mailbox.receiver_gone(slot),
            LinkRole::Observe => {}
        }
        Some(Ended { mailbox_id: link.mailbox_id, role: link.role })
    }
}

fn lane_usage(bytes: u64) -> Usage {
    Usage { lanes: 1, bytes, ..Usage::default() }
}

/// The caller's bug, not the client's: sessions are begun before they may ask.
fn no_session() -> Refusal {
    Refusal::Protocol { reason: "the session has not begun".into() }
}
