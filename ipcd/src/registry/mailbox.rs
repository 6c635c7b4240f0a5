//! One mailbox as the registry knows it: its lanes, its receiver slots, its doorsteps and its links.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use libipc::lane::layout::{
    Limits, SENDER_UIDS_MAX, SlotState, cursors_map, doorstep_map, lane_file_bytes, roster_map,
};
use libipc::protocol::{Identity, LaneInfo, LaneTicket, MailboxAttributes, MailboxName, Refusal};

use super::link::SessionId;
use super::permission::Ownership;

/// Uid of the home doorstep, which no sender maps.
pub const HOME_UID: u32 = u32::MAX;

/// One lane slot.
#[derive(Clone, Debug)]
pub struct LaneSlot {
    /// Whose it is.
    pub state: SlotState,
    /// The lane that it has, or had last.
    pub info: LaneInfo,
    attached: u64,
    next_position: u64,
}

/// One receiver slot.
#[derive(Clone, Copy, Debug)]
pub struct ReceiverSlot {
    /// Whose it is.
    pub state: SlotState,
    /// Who has it, or had it last.
    pub identity: Identity,
}

/// What receivers must map, in the order in which it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// One mailbox.
#[derive(Clone, Debug)]
pub struct Mailbox {
    /// Its number.
    pub id: u64,
    /// Its name.
    pub name: MailboxName,
    /// Its attributes, the owner filled in.
    pub attributes: MailboxAttributes,
    /// Owner and mode.
    pub ownership: Ownership,
    /// Lets new sends in.
    pub open: bool,
    /// A member may not call the barrier, so all keep their fences.
    pub fences: bool,
    /// Messages sent through lanes that are free again.
    pub retired_sent: u64,
    /// Messages acknowledged through receiver slots that are free again.
    pub retired_received: u64,
    /// Session and number of each link.
    pub links: BTreeSet<(SessionId, u32)>,
    lanes: Vec<LaneSlot>,
    free_lanes: BTreeSet<u16>,
    gone_lanes: BTreeSet<u16>,
    receivers: Vec<ReceiverSlot>,
    gone_receivers: BTreeSet<u16>,
    doorsteps: Vec<u32>,
    attachments: BTreeMap<u64, Attachment>,
    attached_last: u64,
    first_position: u64,
}

impl Mailbox {
    /// A new one, with its home doorstep.
    #[must_use]
    pub fn new(
        id: u64,
        name: MailboxName,
        attributes: MailboxAttributes,
        ownership: Ownership,
        first_position: u64,
    ) -> Self {
        let attributes = MailboxAttributes {
            owner_uid: Some(ownership.uid),
            owner_gid: Some(ownership.gid),
            ..attributes
        };
        Self {
            id,
            name,
            attributes,
            ownership,
            open: true,
            fences: false,
            retired_sent: 0,
            retired_received: 0,
            links: BTreeSet::new(),
            lanes: Vec::new(),
            free_lanes: BTreeSet::new(),
            gone_lanes: BTreeSet::new(),
            receivers: Vec::new(),
            gone_receivers: BTreeSet::new(),
            doorsteps: vec![HOME_UID],
            attachments: BTreeMap::from([(1, Attachment::Doorstep(0))]),
            attached_last: 1,
            first_position,
        }
    }

    /// What the sizes of its regions follow from.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.attributes.limits(1)
    }

    /// Bytes of a mailbox with nothing but its home doorstep.
    #[must_use]
    pub fn empty_bytes(attributes: &MailboxAttributes) -> u64 {
        let limits = attributes.limits(1);
        let bytes = roster_map(limits).len + cursors_map(limits).len;
        (bytes + doorstep_map(limits).len) as u64
    }

    /// Bytes charged to its owner.
    #[must_use]
    pub fn owner_bytes(&self) -> u64 {
        let further = (self.doorsteps.len() - 1) as u64 * self.doorstep_bytes();
        Self::empty_bytes(&self.attributes) + further
    }

    /// Bytes of one doorstep.
    #[must_use]
    pub fn doorstep_bytes(&self) -> u64 {
        doorstep_map(self.limits()).len as u64
    }

    /// Bytes of one lane, charged to its sender.
    #[must_use]
    pub fn lane_bytes(&self) -> u64 {
        lane_file_bytes(self.attributes.capacity_bytes)
    }

    /// Bytes of all its regions.
    #[must_use]
    pub fn reserved_bytes(&self) -> u64 {
        let lanes = (self.lanes.len() - self.free_lanes.len()) as u64;
        self.owner_bytes() + lanes * self.lane_bytes()
    }

    /// Lane slots ever used.
    #[must_use]
    pub fn lanes(&self) -> &[LaneSlot] {
        &self.lanes
    }

    /// Receiver slots ever used.
    #[must_use]
    pub fn receivers(&self) -> &[ReceiverSlot] {
        &self.receivers
    }

    /// The uid of each doorstep.
    #[must_use]
    pub fn doorsteps(&self) -> &[u32] {
        &self.doorsteps
    }

    /// Slots of lanes whose sender is gone.
    pub fn gone_lanes(&self) -> impl Iterator<Item = u16> + '_ {
        self.gone_lanes.iter().copied()
    }

    /// Receiver slots whose receiver is gone.
    pub fn gone_receivers(&self) -> impl Iterator<Item = u16> + '_ {
        self.gone_receivers.iter().copied()
    }

    /// Senders that hold it open.
    #[must_use]
    pub fn senders(&self) -> u32 {
        (self.lanes.len() - self.free_lanes.len() - self.gone_lanes.len()) as u32
    }

    /// Receivers that hold it open.
    #[must_use]
    pub fn active_receivers(&self) -> u32 {
        self.receivers.iter().filter(|slot| slot.state == SlotState::Active).count() as u32
    }

    /// Distinct uids among the receivers.
    #[must_use]
    pub fn receiver_uids(&self) -> u32 {
        let active = self.receivers.iter().filter(|slot| slot.state == SlotState::Active);
        active.map(|slot| slot.identity.uid).collect::<BTreeSet<_>>().len() as u32
    }

    /// The doorstep of a sender uid, if it has one.
    #[must_use]
    pub fn doorstep_of(&self, uid: u32) -> Option<u16> {
        let found = self.doorsteps.iter().skip(1).position(|&other| other == uid)?;
        Some(found as u16 + 1)
    }

    /// Says whether a sender of this uid finds a lane slot, and room for a doorstep if it needs one.
    ///
    /// # Errors
    /// [`Refusal::Closed`], [`Refusal::MailboxFull`].
    pub fn check_sender_room(&self, uid: u32) -> Result<(), Refusal> {
        let name = self.name.to_string();
        if !self.open {
            return Err(Refusal::Closed { name });
        }
        let limit = self.attributes.lanes_max;
        if self.free_lanes.is_empty() && self.lanes.len() >= usize::from(limit) {
            return Err(Refusal::MailboxFull { name, what: "lanes".into(), limit: limit.into() });
        }
        if self.doorstep_of(uid).is_none() && self.doorsteps.len() > SENDER_UIDS_MAX {
            let limit = SENDER_UIDS_MAX as u64;
            return Err(Refusal::MailboxFull { name, what: "sender uids".into(), limit });
        }
        Ok(())
    }

    /// Adds a doorstep for a sender uid.
    pub fn add_doorstep(&mut self, uid: u32) -> u16 {
        self.doorsteps.push(uid);
        let index = (self.doorsteps.len() - 1) as u16;
        self.attach(Attachment::Doorstep(index));
        index
    }

    /// Takes the doorstep that was added last away again: its region could not be made.
    pub fn withdraw_doorstep(&mut self) {
        if self.doorsteps.len() > 1 {
            self.doorsteps.pop();
            let index = self.doorsteps.len() as u16;
            self.attachments.retain(|_, &mut it| it != Attachment::Doorstep(index));
        }
    }

    /// Gives the lowest free lane slot to a sender; `None` if there is none.
    pub fn add_lane(&mut self, sender: Identity, doorstep: u16) -> Option<LaneInfo> {
        let index = match self.free_lanes.pop_first() {
            Some(index) => index,
            None if self.lanes.len() < usize::from(self.attributes.lanes_max) => {
                self.lanes.push(self.blank_lane());
                (self.lanes.len() - 1) as u16
            }
            None => return None,
        };
        let attached = self.attach(Attachment::Lane(index));
        let capacity_bytes = self.attributes.capacity_bytes;
        let slot = self.lanes.get_mut(usize::from(index))?;
        let generation = slot.info.ticket.generation.wrapping_add(1);
        slot.state = SlotState::Active;
        slot.attached = attached;
        slot.info = LaneInfo {
            ticket: LaneTicket { index, generation },
            capacity_bytes,
            first_position: slot.next_position,
            doorstep,
            sender,
            priority: 0,
            predecessor: None,
        };
        Some(slot.info)
    }

    fn blank_lane(&self) -> LaneSlot {
        LaneSlot {
            state: SlotState::Free,
            info: LaneInfo {
                ticket: LaneTicket { index: 0, generation: 0 },
                capacity_bytes: 0,
                first_position: 0,
                doorstep: 0,
                sender: Identity { pid: 0, uid: 0, gid: 0 },
                priority: 0,
                predecessor: None,
            },
            attached: 0,
            next_position: self.first_position,
        }
    }

    /// Notes that a lane's sender is gone.
    pub fn sender_gone(&mut self, index: u16) {
        if let Some(slot) = self.lanes.get_mut(usize::from(index))
            && slot.state == SlotState::Active
        {
            slot.state = SlotState::Gone;
            self.gone_lanes.insert(index);
        }
    }

    /// Frees a lane whose sender is gone; says whose it was. The slot's next lane begins at
    /// `next_position`: where this one ended, so that a receiver that still has the old lane mapped
    /// finds nothing new in it, whatever it reads.
    pub fn free_lane(&mut self, index: u16, next_position: u64, sent: u64) -> Option<Identity> {
        if !self.gone_lanes.remove(&index) {
            return None;
        }
        let slot = self.lanes.get_mut(usize::from(index))?;
        slot.state = SlotState::Free;
        slot.next_position = next_position;
        self.attachments.remove(&slot.attached);
        self.free_lanes.insert(index);
        self.retired_sent = self.retired_sent.saturating_add(sent);
        Some(slot.info.sender)
    }

    /// Gives a slot to a receiver: the lowest free one, else a new one, else one whose receiver is gone
    /// but whose delivery nobody has taken over yet (true): else the only slot of a mailbox could be
    /// lost for good.
    ///
    /// # Errors
    /// [`Refusal::MailboxFull`].
    pub fn add_receiver(&mut self, identity: Identity) -> Result<(u16, bool), Refusal> {
        let taken = ReceiverSlot { state: SlotState::Active, identity };
        let limit = self.attributes.receivers_max;
        let mut free = self.receivers.iter_mut().enumerate();
        if let Some((index, slot)) = free.find(|(_, slot)| slot.state == SlotState::Free) {
            *slot = taken;
            return Ok((index as u16, false));
        }
        if self.receivers.len() < usize::from(limit) {
            self.receivers.push(taken);
            return Ok(((self.receivers.len() - 1) as u16, false));
        }
        if let Some(index) = self.gone_receivers.pop_first()
            && let Some(slot) = self.receivers.get_mut(usize::from(index))
        {
            *slot = taken;
            return Ok((index, true));
        }
        let name = self.name.to_string();
        Err(Refusal::MailboxFull { name, what: "receivers".into(), limit: limit.into() })
    }

    /// Notes that a slot's receiver is gone.
    pub fn receiver_gone(&mut self, index: u16) {
        if let Some(slot) = self.receivers.get_mut(usize::from(index))
            && slot.state == SlotState::Active
        {
            slot.state = SlotState::Gone;
            self.gone_receivers.insert(index);
        }
    }

    /// Frees a slot whose receiver is gone.
    pub fn free_receiver(&mut self, index: u16, received: u64) {
        if self.gone_receivers.remove(&index)
            && let Some(slot) = self.receivers.get_mut(usize::from(index))
        {
            slot.state = SlotState::Free;
            self.retired_received = self.retired_received.saturating_add(received);
        }
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
                    let uid = self.doorsteps.get(usize::from(index)).copied();
                    page.doorsteps.extend(uid.map(|uid| (index, uid)));
                }
                Attachment::Lane(index) => {
                    page.lanes.extend(self.lanes.get(usize::from(index)).map(|slot| slot.info));
                }
            }
        }
        page.more = rest.next().is_some();
        page
    }

    fn attach(&mut self, attachment: Attachment) -> u64 {
        self.attached_last += 1;
        self.attachments.insert(self.attached_last, attachment);
        self.attached_last
    }
}
