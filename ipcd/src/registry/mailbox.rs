//! One mailbox as the registry knows it: its lanes, its senders, its groups of receivers, its doorsteps and
//! its links.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use libipc::lane::layout::{
    Limits, SlotState, Traffic, cursors_map, doorstep_map, lane_file_bytes, roster_map,
};
use libipc::protocol::{
    DeadLetter, Group, GroupName, Identity, LaneInfo, LaneTicket, MailboxAttributes, MailboxName,
    Receivers, Refusal, SlowGroup, Usage,
};

use serde::{Deserialize, Serialize};

use super::dead_letter::Freeing;
use super::direct::REPLY;
use super::doorstep::DoorstepSlot;
use super::group::{Place, ReceiverGroup, Rotation};
use super::link::{LinkKey, SessionId};
use super::permission::Ownership;
use super::quota::{MAILBOX, lane_usage};
use super::tracked::{Tracked, TrackedRow};

/// Uid of the home doorstep, which no sender maps.
pub const HOME_UID: u32 = u32::MAX;
/// Its index.
pub const HOME_DOORSTEP: u16 = 0;
/// Of a lane that has no slot yet.
const NO_TICKET: LaneTicket = LaneTicket { index: 0, generation: 0 };

/// One lane slot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LaneSlot {
    /// Whose it is.
    pub state: SlotState,
    /// The lane that it has, or had last.
    pub info: LaneInfo,
    /// The link that it was made for; none, where `ipcd` has written what is in it.
    pub link: Option<LinkKey>,
    /// Whose quota it is charged to, and what.
    pub charged: (u32, Usage),
    attached: u64,
    next_position: u64,
}

impl LaneSlot {
    /// Bytes of its lane.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        lane_file_bytes(self.info.capacity_bytes)
    }
}

/// One sender that holds the mailbox open, with one lane or more.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sender {
    /// Who, as of its open.
    pub identity: Identity,
    /// The doorstep of its uid.
    pub doorstep: u16,
    /// The lanes that it writes: one of each priority that it uses.
    pub lanes: Vec<LaneTicket>,
}

/// The process that a mailbox goes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerProcess {
    /// The session whose end is its end.
    pub session: SessionId,
    /// Its process id.
    pub pid: u32,
}

/// A lane that `ipcd` writes itself: one message, whose sender may be long gone.
#[derive(Clone, Copy, Debug)]
pub struct Letter {
    /// Who sent it.
    pub sender: Identity,
    /// Its priority.
    pub priority: u8,
    /// Bytes of the lane's data.
    pub capacity_bytes: u64,
    /// What is known of it, if it is a dead one.
    pub dead_letter: Option<DeadLetter>,
    /// The one group that is to receive it; `None`: every group.
    pub only_for: Option<u8>,
}

/// What a further lane is to be.
#[derive(Clone, Copy, Debug)]
pub struct LaneWish {
    /// Its priority.
    pub priority: u8,
    /// Bytes of its data.
    pub capacity_bytes: u64,
    /// The lane that it goes on from.
    pub predecessor: Option<LaneTicket>,
}

/// What receivers must map, in the order in which it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Attachment {
    /// The doorstep of that index.
    Doorstep(u16),
    /// The lane in that slot.
    Lane(u16),
}

/// A page of attachments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttachmentPage {
    /// Doorsteps (index, uid).
    pub doorsteps: Vec<(u16, u32)>,
    /// Lanes.
    pub lanes: Vec<LaneInfo>,
    /// Sequence number of the last one, or what was asked for if there is none.
    pub through: u64,
    /// There are more.
    pub more: bool,
}

/// One mailbox. What is left out of its record has records of its own, or follows from others: `journal`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mailbox {
    /// Its number.
    pub id: u64,
    /// Its name.
    pub name: MailboxName,
    /// Its attributes, the owner filled in.
    pub attributes: MailboxAttributes,
    /// Owner and mode.
    pub ownership: Ownership,
    /// What it lets through.
    pub traffic: Traffic,
    /// A member may not call the barrier, so all keep their fences.
    pub fences: bool,
    /// Messages sent through lanes that are free again.
    pub retired_sent: u64,
    /// The process that it goes with, if it does.
    pub owner_process: Option<OwnerProcess>,
    /// It is where other processes reach its owner.
    pub inbox: bool,
    /// Senders that have held it open, ever.
    pub senders_ever: u32,
    /// The mailbox in which its dead letters are, once there was one.
    pub dead_letters: Option<u64>,
    /// The mailbox whose dead letters are in this one.
    pub dead_letters_of: Option<u64>,
    /// The number of its last dead letter.
    pub last_dead_letter: u64,
    /// What is to be freed once the state has this.
    pub freeing: Vec<Freeing>,
    /// It has regions, for which its owner is charged: `in_use`.
    #[serde(skip)]
    pub(super) in_use: bool,
    /// Session and number of each link.
    #[serde(skip)]
    pub links: BTreeSet<LinkKey>,
    named_groups: Vec<Group>,
    groups: Vec<ReceiverGroup>,
    #[serde(skip)]
    pub(super) senders: Tracked<LinkKey, Sender>,
    #[serde(skip)]
    pub(super) lanes: TrackedRow<LaneSlot>,
    #[serde(skip)]
    free_lanes: BTreeSet<u16>,
    #[serde(skip)]
    gone_lanes: Rotation,
    pub(super) doorsteps: Vec<DoorstepSlot>,
    #[serde(skip)]
    pub(super) attachments: Tracked<u64, Attachment>,
    attached_last: u64,
    first_position: u64,
}

impl Mailbox {
    /// A new one, with its home doorstep; without groups all its receivers are one.
    #[must_use]
    pub fn new(
        id: u64,
        name: MailboxName,
        attributes: MailboxAttributes,
        ownership: Ownership,
        groups: &[Group],
        first_position: u64,
    ) -> Self {
        let attributes = MailboxAttributes {
            owner_uid: Some(ownership.uid),
            owner_gid: Some(ownership.gid),
            ..attributes
        };
        let mut mailbox = Self {
            id,
            name,
            attributes,
            ownership,
            traffic: Traffic::Open,
            fences: false,
            retired_sent: 0,
            owner_process: None,
            inbox: false,
            senders_ever: 0,
            dead_letters: None,
            dead_letters_of: None,
            last_dead_letter: 0,
            freeing: Vec::new(),
            in_use: false,
            links: BTreeSet::new(),
            named_groups: groups.to_vec(),
            groups: vec![ReceiverGroup::default(); groups.len().max(1)],
            senders: Tracked::default(),
            lanes: TrackedRow::default(),
            free_lanes: BTreeSet::new(),
            gone_lanes: Rotation::default(),
            doorsteps: Vec::new(),
            attachments: Tracked::default(),
            attached_last: 0,
            first_position,
        };
        mailbox.renew_home();
        mailbox
    }

    /// What the sizes of its regions follow from.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.attributes.limits(self.groups.len())
    }

    /// What its owner is charged: for itself, and while it is in use for its regions.
    #[must_use]
    pub fn owner_usage(&self) -> Usage {
        let regions = if self.in_use { self.regions_usage() } else { Usage::default() };
        Usage { mailboxes: MAILBOX.mailboxes, ..regions }
    }

    /// What its owner is charged for its regions: its roster, the cursors of each group, its doorsteps.
    #[must_use]
    pub fn regions_usage(&self) -> Usage {
        let limits = self.limits();
        let (groups, doorsteps) = (u64::from(limits.groups), self.doorsteps.len() as u64);
        let cursors = cursors_map(limits).len as u64 * groups;
        let doorsteps_bytes = doorsteps * self.doorstep_usage().bytes;
        let bytes = roster_map(limits).len as u64 + cursors + doorsteps_bytes;
        Usage { bytes, descriptors: 1 + groups + doorsteps, ..Usage::default() }
    }

    /// What its owner is charged for the doorstep of one more uid.
    #[must_use]
    pub fn doorstep_usage(&self) -> Usage {
        let bytes = doorstep_map(self.limits()).len as u64;
        Usage { bytes, descriptors: 1, ..Usage::default() }
    }

    /// Who is charged for the lanes of a sender's uid: that uid, but for answers to calls whoever has called, as this one
    /// has made the mailbox for them.
    #[must_use]
    pub fn payer_of(&self, sender: u32) -> u32 {
        if self.name.as_str().starts_with(REPLY) { self.ownership.uid } else { sender }
    }

    /// Bytes of all its regions.
    #[must_use]
    pub fn reserved_bytes(&self) -> u64 {
        let lanes = self.lanes.iter().filter(|lane| lane.state != SlotState::Free);
        self.owner_usage().bytes + lanes.map(LaneSlot::bytes).sum::<u64>()
    }

    /// Its groups as they were asked for: none where all receivers are one.
    #[must_use]
    pub fn named_groups(&self) -> &[Group] {
        &self.named_groups
    }

    /// Whether a group that is behind loses its oldest messages: what it receives it receives at most once, and it
    /// is in nobody's hand.
    #[must_use]
    pub fn drops_oldest(&self, group: u8) -> bool {
        let group = self.named_groups.get(usize::from(group));
        group.is_some_and(|group| group.slow == SlowGroup::DropOldest)
    }

    /// Its groups of receivers, at least one.
    #[must_use]
    pub fn groups(&self) -> &[ReceiverGroup] {
        &self.groups
    }

    /// A group of receivers, to change.
    pub fn group_mut(&mut self, group: u8) -> Option<&mut ReceiverGroup> {
        self.groups.get_mut(usize::from(group))
    }

    /// Every group with its index.
    pub fn groups_mut(&mut self) -> impl Iterator<Item = (u8, &mut ReceiverGroup)> {
        (0u8..).zip(&mut self.groups)
    }

    /// The index of a group; `None` names the only one there is.
    ///
    /// # Errors
    /// [`Refusal::NoSuchGroup`].
    pub fn group_index(&self, name: Option<&GroupName>) -> Result<u8, Refusal> {
        let found = match name {
            None if self.named_groups.is_empty() => Some(0),
            None => None,
            Some(name) => self.named_groups.iter().position(|group| group.name == *name),
        };
        let asked = || name.map_or(String::new(), GroupName::to_string);
        found.map(|index| index as u8).ok_or_else(|| self.no_such_group(asked()))
    }

    /// The refusal of a group that is not there.
    #[must_use]
    pub fn no_such_group(&self, group: String) -> Refusal {
        let names: Vec<_> = self.named_groups.iter().map(|group| group.name.as_str()).collect();
        let groups = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        Refusal::NoSuchGroup { name: self.name.to_string(), group, groups }
    }

    /// Lane slots ever used.
    #[must_use]
    pub fn lanes(&self) -> &[LaneSlot] {
        &self.lanes
    }

    /// The next lanes whose sender is gone, at most `count`.
    pub fn next_gone_lanes(&mut self, count: usize) -> Vec<u16> {
        self.gone_lanes.next(count)
    }

    /// Senders that hold it open: links, however many lanes each has.
    #[must_use]
    pub fn senders(&self) -> &BTreeMap<LinkKey, Sender> {
        &self.senders
    }

    /// Receivers that hold it open, of all groups.
    #[must_use]
    pub fn active_receivers(&self) -> u32 {
        self.groups.iter().map(ReceiverGroup::receivers).sum()
    }

    /// Distinct uids among the receivers that there ever were, of all groups.
    #[must_use]
    pub fn receiver_uids(&self) -> u32 {
        self.groups.iter().flat_map(ReceiverGroup::uids).collect::<BTreeSet<_>>().len() as u32
    }

    /// Says whether a new sender is let in, and finds a lane slot, and room for a doorstep if it needs one.
    ///
    /// # Errors
    /// [`Refusal::AlreadyLinked`], [`Refusal::Occupied`], [`Refusal::Closed`], [`Refusal::MailboxFull`].
    pub fn check_sender_room(&self, session: SessionId, sender: Identity) -> Result<(), Refusal> {
        let name = self.name.to_string();
        let process = (session, sender.pid);
        let mut there = self.senders.iter().map(|(link, it)| (link.0, it.identity.pid));
        if self.inbox && there.clone().any(|it| is_same_process(it, process)) {
            return Err(Refusal::AlreadyLinked { name, pid: sender.pid });
        }
        if self.attributes.receivers == Receivers::Single
            && let Some((_, pid)) = there.find(|&it| !is_same_process(it, process))
        {
            return Err(Refusal::Occupied { name, pid, does: "sends".into() });
        }
        self.check_lane_room()?;
        self.check_doorstep_room(sender.uid)
    }

    /// Says whether a lane may be added.
    ///
    /// # Errors
    /// [`Refusal::Closed`], [`Refusal::MailboxFull`].
    pub fn check_lane_room(&self) -> Result<(), Refusal> {
        let name = self.name.to_string();
        if self.traffic != Traffic::Open {
            return Err(Refusal::Closed { name });
        }
        let limit = self.attributes.lanes_max;
        if self.free_lanes.is_empty() && self.lanes.len() >= usize::from(limit) {
            return Err(Refusal::MailboxFull { name, what: "lanes".into(), limit: limit.into() });
        }
        Ok(())
    }

    /// Lets a sender in, as yet without a lane.
    pub fn add_sender(&mut self, link: LinkKey, identity: Identity, doorstep: u16) {
        self.senders.insert(link, Sender { identity, doorstep, lanes: Vec::new() });
        self.senders_ever = self.senders_ever.saturating_add(1);
    }

    /// Gives the lowest free lane slot to a sender, which is charged for it; `None` if there is none, or no such
    /// sender.
    pub fn add_lane(&mut self, link: LinkKey, wish: LaneWish) -> Option<LaneInfo> {
        let sender = self.senders.get(&link)?;
        let (identity, doorstep) = (sender.identity, sender.doorstep);
        let charged =
            (self.payer_of(identity.uid), lane_usage(lane_file_bytes(wish.capacity_bytes)));
        let info = LaneInfo {
            ticket: NO_TICKET,
            capacity_bytes: wish.capacity_bytes,
            first_position: 0,
            doorstep,
            sender: identity,
            priority: wish.priority,
            predecessor: wish.predecessor,
            dead_letter: None,
            only_for: None,
        };
        let info = self.place_lane(Some(link), charged, info)?;
        self.senders.get_mut(&link)?.lanes.push(info.ticket);
        Some(info)
    }

    /// Gives the lowest free lane slot to a message that `ipcd` writes itself: the lane of a sender that is gone. A
    /// uid is charged for it. `None` if there is none.
    pub fn add_letter(&mut self, letter: Letter, charged: (u32, Usage)) -> Option<LaneInfo> {
        let info = LaneInfo {
            ticket: NO_TICKET,
            capacity_bytes: letter.capacity_bytes,
            first_position: 0,
            // Nobody waits for room in it.
            doorstep: HOME_DOORSTEP,
            sender: letter.sender,
            priority: letter.priority,
            predecessor: None,
            dead_letter: letter.dead_letter,
            only_for: letter.only_for,
        };
        let info = self.place_lane(None, charged, info)?;
        self.mark_gone(info.ticket.index);
        Some(info)
    }

    fn place_lane(
        &mut self,
        link: Option<LinkKey>,
        charged: (u32, Usage),
        info: LaneInfo,
    ) -> Option<LaneInfo> {
        let index = match self.free_lanes.pop_first() {
            Some(index) => index,
            None if self.lanes.len() < usize::from(self.attributes.lanes_max) => {
                self.lanes.push(self.blank_lane());
                (self.lanes.len() - 1) as u16
            }
            None => return None,
        };
        let attached = self.attach(Attachment::Lane(index));
        let slot = self.lanes.get_mut(usize::from(index))?;
        let generation = slot.info.ticket.generation.wrapping_add(1);
        slot.state = SlotState::Active;
        (slot.link, slot.charged, slot.attached) = (link, charged, attached);
        slot.info = LaneInfo {
            ticket: LaneTicket { index, generation },
            first_position: slot.next_position,
            ..info
        };
        Some(slot.info)
    }

    fn blank_lane(&self) -> LaneSlot {
        LaneSlot {
            state: SlotState::Free,
            info: LaneInfo {
                ticket: NO_TICKET,
                capacity_bytes: 0,
                first_position: 0,
                doorstep: HOME_DOORSTEP,
                sender: Identity { pid: 0, uid: 0, gid: 0 },
                priority: 0,
                predecessor: None,
                dead_letter: None,
                only_for: None,
            },
            link: None,
            charged: (0, Usage::default()),
            attached: 0,
            next_position: self.first_position,
        }
    }

    /// How many lanes there are, of senders that are there and of those that are gone.
    #[must_use]
    pub fn lane_count(&self) -> u64 {
        (self.lanes.len() - self.free_lanes.len()) as u64
    }

    /// The lane that a ticket names: in whatever state, but not another one of its slot.
    #[must_use]
    pub fn lane(&self, ticket: LaneTicket) -> Option<&LaneSlot> {
        self.lanes.get(usize::from(ticket.index)).filter(|slot| slot.info.ticket == ticket)
    }

    /// Lanes that a sender writes.
    pub fn lanes_of(&self, link: LinkKey) -> impl Iterator<Item = &LaneSlot> {
        let tickets = self.senders.get(&link).into_iter().flat_map(|sender| &sender.lanes);
        tickets.filter_map(|&ticket| self.lane(ticket))
    }

    /// Notes that a sender is gone; says which lanes it leaves.
    pub fn sender_gone(&mut self, link: LinkKey) -> Vec<LaneTicket> {
        let lanes = self.senders.remove(&link).map_or(Vec::new(), |sender| sender.lanes);
        for lane in &lanes {
            self.mark_gone(lane.index);
        }
        lanes
    }

    /// Notes that a sender writes a lane no more.
    pub fn retire_lane(&mut self, link: LinkKey, lane: LaneTicket) {
        let Some(sender) = self.senders.get_mut(&link) else { return };
        if let Some(at) = sender.lanes.iter().position(|&it| it == lane) {
            sender.lanes.swap_remove(at);
            self.mark_gone(lane.index);
        }
    }

    /// Has a new lane go on from what an unused one goes on from, instead of from that one.
    pub fn leave_out(&mut self, unused: LaneTicket, mut lane: LaneInfo) -> LaneInfo {
        lane.predecessor = self.lane(unused).and_then(|slot| slot.info.predecessor);
        if let Some(slot) = self.lanes.get_mut(usize::from(lane.ticket.index)) {
            slot.info = lane;
        }
        lane
    }

    /// Finds anew what follows from the state of its lanes: which slots are free, and which are to be freed.
    pub(super) fn sort_lanes(&mut self) {
        self.free_lanes.clear();
        self.gone_lanes = Rotation::default();
        for (index, slot) in (0u16..).zip(&*self.lanes) {
            match slot.state {
                SlotState::Free => drop(self.free_lanes.insert(index)),
                SlotState::Gone => self.gone_lanes.insert(index),
                SlotState::Active => {}
            }
        }
    }

    fn mark_gone(&mut self, index: u16) {
        if let Some(slot) = self.lanes.get_mut(usize::from(index)) {
            slot.state = SlotState::Gone;
            self.gone_lanes.insert(index);
        }
    }

    /// Frees a lane whose sender is gone; says who was charged for it, and what. The slot's next lane begins at
    /// `next_position`: behind where this one ended, so that a receiver that still has the old lane mapped finds nothing in
    /// it that it could claim, whatever it reads.
    pub fn free_lane(&mut self, index: u16, next_position: u64, sent: u64) -> Option<(u32, Usage)> {
        if !self.gone_lanes.remove(index) {
            return None;
        }
        let slot = self.lanes.get_mut(usize::from(index))?;
        slot.state = SlotState::Free;
        slot.next_position = next_position;
        self.attachments.remove(&slot.attached);
        let charged = slot.charged;
        self.free_lanes.insert(index);
        self.retired_sent = self.retired_sent.saturating_add(sent);
        Some(charged)
    }

    /// Gives a slot of a group to a receiver.
    ///
    /// # Errors
    /// [`Refusal::NotTheOwner`], [`Refusal::Occupied`], [`Refusal::MailboxFull`], [`Refusal::NoSuchGroup`].
    pub fn add_receiver(
        &mut self,
        group: u8,
        session: SessionId,
        identity: Identity,
    ) -> Result<Place, Refusal> {
        let name = self.name.to_string();
        let process = (session, identity.pid);
        if let Some(OwnerProcess { session, pid }) = self.owner_process
            && !is_same_process((session, pid), process)
        {
            return Err(Refusal::NotTheOwner { name, owner_pid: pid });
        }
        let limit = self.attributes.receivers_max;
        let single = self.attributes.receivers == Receivers::Single;
        let missing = self.no_such_group(group.to_string());
        let table = self.group_mut(group).ok_or(missing)?;
        let other = table.active().map(|slot| slot.identity.pid).find(|&pid| pid != identity.pid);
        if let Some(pid) = other.filter(|_| single) {
            return Err(Refusal::Occupied { name, pid, does: "receives".into() });
        }
        let full = Refusal::MailboxFull { name, what: "receivers".into(), limit: limit.into() };
        table.add(identity, limit).ok_or(full)
    }

    /// What was attached after `after`, at most `room` of it.
    #[must_use]
    pub fn attachments_after(&self, after: u64, room: usize) -> AttachmentPage {
        let mut page = AttachmentPage { through: after, ..AttachmentPage::default() };
        let mut rest = self.attachments.range((Bound::Excluded(after), Bound::Unbounded));
        for (&sequence, &attachment) in rest.by_ref().take(room) {
            page.through = sequence;
            match attachment {
                Attachment::Doorstep(index) => {
                    let slot = self.doorsteps.get(usize::from(index));
                    page.doorsteps.extend(slot.map(|slot| (index, slot.uid)));
                }
                Attachment::Lane(index) => {
                    page.lanes.extend(self.lanes.get(usize::from(index)).map(|slot| slot.info));
                }
            }
        }
        page.more = rest.next().is_some();
        page
    }

    pub(super) fn attach(&mut self, attachment: Attachment) -> u64 {
        self.attached_last += 1;
        self.attachments.insert(self.attached_last, attachment);
        self.attached_last
    }
}

/// Whether two sessions are one process's. All processes of another pid namespace have pid 0 here: of them
/// only the session tells.
fn is_same_process(one: (SessionId, u32), other: (SessionId, u32)) -> bool {
    one.0 == other.0 || (one.1 == other.1 && one.1 != 0)
}
