//! Processes that others reach by name or pid, and the mailboxes to which answers come: mailboxes whose names
//! `ipcd` alone gives.

use libipc::lane::layout::LANES_MAX;
use libipc::protocol::{
    DirectAddress, Identity, LaneTicket, MailboxAttributes, MailboxName, Owner, Refusal, Role,
};

use super::link::{LinkRole, SessionId};
use super::mailbox::Mailbox;
use super::permission::Caller;
use super::{Admission, Registry, no_session};

const PROCESS: &str = "process/";
/// Begins the name of each mailbox to which answers come.
pub const REPLY: &str = "reply/";
/// Of an address that is nobody's, an answer repeats no more than this.
const SHOWN: usize = 64;

/// Says whether a client may give this name to a mailbox.
///
/// # Errors
/// [`Refusal::InvalidName`].
pub fn check_free_name(name: &MailboxName) -> Result<(), Refusal> {
    let kept = [PROCESS, REPLY, MailboxName::DEAD_LETTERS];
    if kept.iter().any(|kept| name.as_str().starts_with(kept)) {
        let reason = format!("names that begin with {} are given by ipcd", kept.join(", "));
        return Err(Refusal::InvalidName { name: name.to_string(), reason });
    }
    Ok(())
}

impl Registry {
    /// Makes the inbox of the caller's process, and says its number and name.
    ///
    /// # Errors
    /// A name that is none, or another process's pid; a second inbox; and as for [`Self::create`].
    pub fn register(
        &mut self,
        session: SessionId,
        caller: &Caller<'_>,
        name: Option<&str>,
        attributes: &MailboxAttributes,
    ) -> Result<(u64, MailboxName), Refusal> {
        let pid = caller.identity.pid;
        if pid == 0 {
            // Of another pid namespace: it is not the only one.
            return Err(no_such(&DirectAddress::Pid(pid)));
        }
        let name = inbox_name(name, pid)?;
        if let Some(inbox) = self.inboxes.get(&pid).and_then(|&id| self.mailbox(id)) {
            return Err(Refusal::AlreadyExists { name: inbox.name.to_string() });
        }
        let attributes =
            MailboxAttributes { owner: Owner::Process, owner_uid: None, ..*attributes };
        let id = self.make(session, caller, &name, &attributes, &[])?;
        self.mailbox_mut(id).ok_or_else(no_session)?.inbox = true;
        self.inboxes.insert(pid, id);
        Ok((id, name))
    }

    /// Opens a process's inbox to send.
    ///
    /// # Errors
    /// [`Refusal::NoSuchProcess`], and as for [`Self::open`].
    pub fn open_direct(
        &mut self,
        session: SessionId,
        caller: &Caller<'_>,
        to: &DirectAddress,
    ) -> Result<Admission, Refusal> {
        let name = self.inbox(to)?.name.clone();
        self.open(session, caller, &name, Role::Send, None)
    }

    /// Who a registered process is, if the caller may see its inbox.
    ///
    /// # Errors
    /// [`Refusal::NoSuchProcess`].
    pub fn find_process(
        &self,
        caller: &Caller<'_>,
        of: &DirectAddress,
    ) -> Result<Identity, Refusal> {
        let inbox = self.inbox(of)?;
        let session = inbox.owner_process.and_then(|owner| self.sessions.get(&owner.session));
        let found = session.filter(|_| inbox.ownership.may_see(caller));
        found.map(|session| session.identity).ok_or_else(|| no_such(of))
    }

    /// The inbox of a process.
    ///
    /// # Errors
    /// [`Refusal::NoSuchProcess`].
    pub fn inbox(&self, of: &DirectAddress) -> Result<&Mailbox, Refusal> {
        let found = match of {
            DirectAddress::Pid(pid) => self.inboxes.get(pid).and_then(|&id| self.mailbox(id)),
            DirectAddress::Name(name) => MailboxName::new(&format!("{PROCESS}{name}"))
                .ok()
                .and_then(|name| self.find(&name).ok())
                .filter(|mailbox| mailbox.inbox),
        };
        found.ok_or_else(|| no_such(of))
    }

    /// Makes the mailbox to which answers to calls over a sender's link come, and opens it to receive. It goes
    /// with that link.
    ///
    /// # Errors
    /// Not a sender's link; it is there already ([`Refusal::AlreadyExists`]); a quota.
    pub fn open_replies(
        &mut self,
        session: SessionId,
        caller: &Caller<'_>,
        link: u32,
    ) -> Result<Admission, Refusal> {
        let called = self.sent_to((session, link), "be answered")?;
        let there = self.link(session, link, "be answered")?.replies;
        if let Some(mailbox) = there.and_then(|id| self.mailbox(id)) {
            return Err(Refusal::AlreadyExists { name: mailbox.name.to_string() });
        }
        let attributes = MailboxAttributes {
            // An answer may be as long as a call.
            capacity_bytes: called.attributes.capacity_bytes,
            mode: 0o600,
            receivers_max: 1,
            // One for each who may answer, and as many that are gone and not drained.
            lanes_max: (2 * called.limits().slots()).clamp(2, LANES_MAX.into()) as u16,
            owner: Owner::Process,
            ..MailboxAttributes::default()
        };
        let name = MailboxName::new(&format!("{REPLY}{}", self.last_id + 1))?;
        let id = self.make(session, caller, &name, &attributes, &[])?;
        match self.admit(session, caller.identity, id, Role::Receive, 0) {
            Ok(admission) => {
                let entry = self.sessions.get_mut(&session).ok_or_else(no_session)?;
                entry.link_mut(link).ok_or_else(no_session)?.replies = Some(id);
                Ok(admission)
            }
            Err(refusal) => {
                self.remove(id);
                Err(refusal)
            }
        }
    }

    /// Opens, to send, the mailbox for answers of the caller whose lane this is. Whoever may receive a call may
    /// answer it: no mode is looked at.
    ///
    /// # Errors
    /// Not a receiver's link; [`Refusal::CallerGone`]; full, over quota.
    pub fn open_reply(
        &mut self,
        session: SessionId,
        server: &Caller<'_>,
        link: u32,
        lane: LaneTicket,
    ) -> Result<Admission, Refusal> {
        let replies = self.answered(session, link, lane)?;
        self.admit(session, server.identity, replies, Role::Send, 0)
    }

    /// The mailbox for answers of the caller whose lane this is.
    ///
    /// # Errors
    /// Not a receiver's link; [`Refusal::CallerGone`].
    pub fn answered(
        &self,
        session: SessionId,
        link: u32,
        lane: LaneTicket,
    ) -> Result<u64, Refusal> {
        let found = self.link(session, link, "answer")?;
        if !matches!(found.role, LinkRole::Receive { .. }) {
            return Err(Refusal::NoSuchLink { link, wanted: "answer".into() });
        }
        let called = self.mailbox(found.mailbox_id).ok_or_else(no_session)?;
        // A lane that its sender has replaced names its link still.
        let caller = called.lane(lane).and_then(|lane| lane.link);
        let (caller, number) = caller.ok_or(Refusal::CallerGone)?;
        let replies = self.link(caller, number, "be answered").ok().and_then(|link| link.replies);
        replies.filter(|id| self.mailboxes.contains_key(id)).ok_or(Refusal::CallerGone)
    }
}

fn inbox_name(name: Option<&str>, pid: u32) -> Result<MailboxName, Refusal> {
    let own = pid.to_string();
    let name = MailboxName::new(name.unwrap_or(&own))?;
    let name = name.as_str();
    if name != own && name.bytes().all(|byte| byte.is_ascii_digit()) {
        let reason = "a number names the process of that pid, and this is another one".to_owned();
        return Err(Refusal::InvalidName { name: name.to_owned(), reason });
    }
    MailboxName::new(&format!("{PROCESS}{name}"))
}

fn no_such(address: &DirectAddress) -> Refusal {
    let address = match address {
        DirectAddress::Name(name) => {
            DirectAddress::Name(name.chars().take(SHOWN).collect()).to_string()
        }
        DirectAddress::Pid(_) => address.to_string(),
    };
    Refusal::NoSuchProcess { address }
}
