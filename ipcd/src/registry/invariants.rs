//! What is true of a registry at all times, whatever was asked of it: for tests and fuzzers, which ask after each
//! operation.

use std::collections::{BTreeSet, HashMap};

use libipc::lane::layout::SlotState;
use libipc::protocol::{Receivers, Usage};

use super::Registry;
use super::doorstep::DoorstepSlot;
use super::link::LinkRole;
use super::mailbox::{Attachment, Mailbox};
use super::quota::is_within;

/// What is not as it must be.
type Broken = Result<(), String>;

/// Says what is wrong, if it is.
fn hold(true_now: bool, what: impl FnOnce() -> String) -> Broken {
    if true_now { Ok(()) } else { Err(what()) }
}

impl Registry {
    /// Counts everything anew and compares.
    ///
    /// # Errors
    /// The first thing that is not as it must be.
    pub fn check_invariants(&self) -> Result<(), String> {
        let mut used: HashMap<u32, Usage> = HashMap::new();
        for session in self.sessions.values() {
            let user = used.entry(session.identity.uid).or_default();
            user.sessions += 1;
            user.descriptors += 2;
            user.links += session.links().count() as u64;
        }
        for mailbox in self.mailboxes.values() {
            let owner = used.entry(mailbox.ownership.uid).or_default();
            owner.mailboxes += 1;
            owner.bytes += mailbox.owner_usage().bytes;
            if mailbox.is_in_use() {
                // Its roster, and what each group and each sender uid has.
                let each = mailbox.groups().len() + mailbox.doorsteps().len();
                owner.descriptors += 1 + each as u64;
            }
            for lane in mailbox.lanes().iter().filter(|lane| lane.state != SlotState::Free) {
                let by_us = lane.link.is_none();
                let by_owner = by_us || mailbox.name.as_str().starts_with("reply/");
                let payer = if by_owner { mailbox.ownership.uid } else { lane.info.sender.uid };
                let payer = used.entry(payer).or_default();
                payer.lanes += u64::from(lane.info.dead_letter.is_none());
                payer.dead_letters += u64::from(lane.info.dead_letter.is_some());
                payer.bytes += lane.bytes();
                payer.descriptors += 1;
            }
            self.check_mailbox(mailbox)?;
        }
        self.check_quotas(&used)?;
        hold(self.names.len() == self.mailboxes.len(), || "a name for each mailbox".into())?;
        self.check_sessions()?;
        let inboxes = self.mailboxes.values().filter(|mailbox| mailbox.inbox);
        hold(self.inboxes.len() == inboxes.count(), || "one inbox a process".into())
    }

    /// Says which mailbox is not in use exactly while somebody has it open or something is left in it: true after
    /// [`Self::put_idle_away`].
    ///
    /// # Errors
    /// The first.
    pub fn check_in_use(&self) -> Result<(), String> {
        let wrong =
            self.mailboxes.values().find(|mailbox| mailbox.is_in_use() == mailbox.is_idle());
        hold(wrong.is_none(), || format!("in use or idle: {wrong:?}"))
    }

    fn check_quotas(&self, used: &HashMap<u32, Usage>) -> Broken {
        let noted: HashMap<u32, Usage> = self.quotas.users().collect();
        hold(&noted == used, || format!("quotas say {noted:?}, counting anew gives {used:?}"))?;
        for (&uid, usage) in used {
            let limits = self.quotas.limits(uid);
            hold(is_within(*usage, limits), || format!("uid {uid} uses {usage:?} of {limits:?}"))?;
        }
        Ok(())
    }

    fn check_sessions(&self) -> Broken {
        for (session, entry) in &self.sessions {
            for (number, link) in entry.links().filter(|(_, link)| !link.deleted) {
                let mailbox = self.mailboxes.get(&link.mailbox_id);
                let known = mailbox.is_some_and(|it| it.links.contains(&(*session, number)));
                hold(known, || format!("{link:?} is a link that its mailbox knows"))?;
            }
            let owners = self.mailboxes.values().filter_map(|mailbox| mailbox.owner_process);
            let owned = owners.filter(|owner| owner.session == *session).count();
            hold(entry.owned.len() == owned, || "a session knows what goes with it".into())?;
        }
        Ok(())
    }

    fn check_mailbox(&self, mailbox: &Mailbox) -> Broken {
        let named = self.names.get(&mailbox.name) == Some(&mailbox.id);
        hold(named, || format!("{} has its name", mailbox.name))?;
        let noted = mailbox.is_in_use() || mailbox.is_idle();
        hold(noted, || format!("{} is noted as in use", mailbox.name))?;
        let bare = mailbox.is_in_use() || mailbox.doorsteps().len() == 1;
        hold(bare, || format!("{} is not in use and has doorsteps", mailbox.name))?;
        let (mut lanes, mut slots, mut senders) = (BTreeSet::new(), BTreeSet::new(), 0);
        for key in &mailbox.links {
            let session = self.sessions.get(&key.0).ok_or("a link has a session")?;
            let link = session.link(key.1, "be there").map_err(|refusal| refusal.to_string())?;
            hold(link.mailbox_id == mailbox.id, || "a link names its mailbox".into())?;
            match link.role {
                LinkRole::Send => {
                    senders += 1;
                    let mut priorities = BTreeSet::new();
                    for lane in mailbox.lanes_of(*key) {
                        hold(lane.link == Some(*key), || "a lane names its link".into())?;
                        let new = lanes.insert(lane.info.ticket.index);
                        hold(new, || "a lane has one link".into())?;
                        let new = priorities.insert(lane.info.priority);
                        hold(new, || "one lane a priority".into())?;
                    }
                    let open = priorities.contains(&0);
                    hold(open, || "every sender has the lane of its open".into())?;
                    let known = mailbox.senders().get(key).map_or(0, |sender| sender.lanes.len());
                    hold(priorities.len() == known, || "a sender's lanes are its own".into())?;
                }
                LinkRole::Receive { group, slot } => {
                    hold(slots.insert((group, slot)), || "one slot a link".into())?;
                }
                LinkRole::Observe => {}
            }
        }
        for (index, lane) in (0..).zip(mailbox.lanes()) {
            let active = lane.state == SlotState::Active;
            hold(active == lanes.contains(&index), || "a lane is active while linked".into())?;
        }
        for (group, table) in (0..).zip(mailbox.groups()) {
            for (index, slot) in (0..).zip(table.slots()) {
                let active = slot.state == SlotState::Active;
                let linked = slots.contains(&(group, index));
                hold(active == linked, || "a slot is active while linked".into())?;
            }
        }
        hold(mailbox.senders().len() == senders, || "as many senders as links".into())?;
        hold(mailbox.senders_ever as usize >= senders, || "senders ever".into())?;
        let receivers = mailbox.active_receivers() as usize;
        hold(receivers == slots.len(), || "as many receivers as links".into())?;
        self.check_members(mailbox)?;
        self.check_dead_letters(mailbox)?;
        check_attachments(mailbox)
    }

    /// A mailbox and the one for its dead letters name each other.
    fn check_dead_letters(&self, mailbox: &Mailbox) -> Broken {
        if let Some(dead) = mailbox.dead_letters {
            let back = self.mailboxes.get(&dead).and_then(|dead| dead.dead_letters_of);
            hold(back == Some(mailbox.id), || "dead letters are of their mailbox".into())?;
        }
        if let Some(of) = mailbox.dead_letters_of {
            let of = self.mailboxes.get(&of);
            let named = of.is_some_and(|of| {
                of.dead_letters == Some(mailbox.id) && of.name.of_dead_letters() == mailbox.name
            });
            hold(named, || "a mailbox knows its dead letters".into())?;
            let mut there = mailbox.lanes().iter().filter(|lane| lane.state != SlotState::Free);
            let dead = there.all(|lane| lane.info.dead_letter.is_some());
            hold(dead, || "dead letters are among themselves".into())?;
        }
        Ok(())
    }

    /// Who may be in it.
    fn check_members(&self, mailbox: &Mailbox) -> Broken {
        if let Some(owner) = mailbox.owner_process {
            let session = self.sessions.get(&owner.session);
            let known = session.is_some_and(|session| session.owned.contains(&mailbox.id));
            hold(known, || "an owner knows its mailbox".into())?;
            let mut receivers = mailbox.groups().iter().flat_map(|group| group.active());
            let ours = receivers.all(|slot| slot.identity.pid == owner.pid);
            hold(ours, || "only the owner receives".into())?;
        }
        let pids = mailbox.senders().values().map(|sender| sender.identity.pid);
        let pids: BTreeSet<u32> = pids.collect();
        if mailbox.attributes.receivers == Receivers::Single {
            let two = pids.len() <= 1 && mailbox.active_receivers() <= 1;
            hold(two, || "a link of two processes".into())?;
        }
        // Of a process of another pid namespace nobody knows whether it is the same: its sessions count.
        let processes = mailbox.senders().iter().map(|(link, sender)| match sender.identity.pid {
            0 => (0, Some(link.0)),
            pid => (pid, None),
        });
        let processes: BTreeSet<_> = processes.collect();
        let pairs = !mailbox.inbox || processes.len() == mailbox.senders().len();
        hold(pairs, || "one link a pair".into())
    }
}

fn check_attachments(mailbox: &Mailbox) -> Broken {
    let page = mailbox.attachments_after(0, usize::MAX);
    let told = page.doorsteps.len() == mailbox.doorsteps().len();
    hold(told, || "receivers are told of every doorstep".into())?;
    let own = |(index, slot): (u16, &DoorstepSlot)| {
        mailbox.attachments.get(&slot.told) == Some(&Attachment::Doorstep(index))
    };
    let own = (0u16..).zip(mailbox.doorsteps()).all(own);
    hold(own, || "each doorstep has the number with which receivers are told of it".into())?;
    let there = mailbox.lanes().iter().filter(|lane| lane.state != SlotState::Free).count();
    hold(page.lanes.len() == there, || "receivers are told of every lane that is there".into())?;
    for lane in &page.lanes {
        let uid = mailbox.doorsteps().get(usize::from(lane.doorstep)).map(|slot| slot.uid);
        let by_us = mailbox.lane(lane.ticket).is_some_and(|slot| slot.link.is_none());
        let expected = if by_us { u32::MAX } else { lane.sender.uid };
        let own = uid == Some(expected);
        hold(own, || "a sender maps the doorstep of its own uid alone".into())?;
    }
    Ok(())
}
