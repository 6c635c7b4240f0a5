//! Doorsteps: where the senders of one uid and the receivers wake each other. A mailbox has only so many.
//!
//! Once all are given out, that of a uid which has no sender and no lane there any more is given to another uid: as a new file, for
//! what processes of the old uid have mapped they keep. Receivers are told of it like of any other, and map it in the
//! old one's place. They hear of it at the home doorstep: where senders of other uids are they all listen there.

use std::collections::BTreeSet;

use libipc::lane::layout::{SENDER_UIDS_MAX, SlotState};
use libipc::protocol::Refusal;
use serde::{Deserialize, Serialize};

use super::mailbox::{Attachment, HOME_DOORSTEP, HOME_UID, Mailbox};

/// A doorstep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoorstepSlot {
    /// Whose senders have it.
    pub uid: u32,
    /// The number with which receivers are told of it: no other doorstep of the mailbox ever has it.
    pub told: u64,
}

impl DoorstepSlot {
    /// The home doorstep, which no sender maps.
    #[must_use]
    pub fn home(told: u64) -> Self {
        Self { uid: HOME_UID, told }
    }
}

/// How a sender has come by its doorstep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Its uid has had it before.
    Known,
    /// It was added.
    Added,
    /// It is in the place of this one, which was another uid's.
    InPlaceOf(DoorstepSlot),
}

impl Mailbox {
    /// The doorstep of each uid.
    #[must_use]
    pub fn doorsteps(&self) -> &[DoorstepSlot] {
        &self.doorsteps
    }

    /// The doorstep of a sender uid, if it has one.
    #[must_use]
    pub fn doorstep_of(&self, uid: u32) -> Option<u16> {
        let found = self.doorsteps.iter().skip(1).position(|slot| slot.uid == uid)?;
        Some(found as u16 + 1)
    }

    /// Whether a sender of this uid would have a doorstep added, for which the owner is charged.
    #[must_use]
    pub fn adds_doorstep_for(&self, uid: u32) -> bool {
        self.doorstep_of(uid).is_none() && self.doorsteps.len() <= SENDER_UIDS_MAX
    }

    /// Says whether there is a doorstep for this uid.
    ///
    /// # Errors
    /// [`Refusal::MailboxFull`].
    pub(super) fn check_doorstep_room(&self, uid: u32) -> Result<(), Refusal> {
        let known = self.doorstep_of(uid).is_some() || self.adds_doorstep_for(uid);
        if known || self.idle_doorstep().is_some() {
            return Ok(());
        }
        let (name, limit) = (self.name.to_string(), SENDER_UIDS_MAX as u64);
        Err(Refusal::MailboxFull { name, what: "sender uids".into(), limit })
    }

    /// Gives a sender's uid a doorstep; `None` if there is none.
    pub(super) fn give_doorstep(&mut self, uid: u32) -> Option<(u16, Entry)> {
        if let Some(known) = self.doorstep_of(uid) {
            return Some((known, Entry::Known));
        }
        if self.adds_doorstep_for(uid) {
            let index = self.doorsteps.len() as u16;
            let told = self.attach(Attachment::Doorstep(index));
            self.doorsteps.push(DoorstepSlot { uid, told });
            return Some((index, Entry::Added));
        }
        let index = self.idle_doorstep()?;
        let old = *self.doorsteps.get(usize::from(index))?;
        self.attachments.remove(&old.told);
        let told = self.attach(Attachment::Doorstep(index));
        *self.doorsteps.get_mut(usize::from(index))? = DoorstepSlot { uid, told };
        Some((index, Entry::InPlaceOf(old)))
    }

    /// Undoes that: the region could not be made.
    pub(super) fn withdraw_doorstep(&mut self, index: u16, entry: Entry) {
        let Some(slot) = self.doorsteps.get_mut(usize::from(index)) else { return };
        let told = slot.told;
        match entry {
            Entry::Known => return,
            Entry::Added => {
                self.doorsteps.pop();
            }
            Entry::InPlaceOf(old) => {
                *slot = old;
                self.attachments.insert(old.told, Attachment::Doorstep(index));
            }
        }
        self.attachments.remove(&told);
    }

    /// A doorstep of a uid that has neither a sender nor a lane.
    fn idle_doorstep(&self) -> Option<u16> {
        let there = self.lanes.iter().filter(|lane| lane.state != SlotState::Free);
        let mut used: BTreeSet<u16> = there.map(|lane| lane.info.doorstep).collect();
        used.extend(self.senders.values().map(|sender| sender.doorstep));
        (HOME_DOORSTEP + 1..self.doorsteps.len() as u16).find(|index| !used.contains(index))
    }
}
