//! Mailboxes that are in use: somebody has them open, or has left something in them. Only such a one has regions, for
//! which its owner is charged; what is left of another is its entry here.
//!
//! **Invariant:** a mailbox that somebody has open, or in which something is left, is noted as in use.
//! **Invariant:** one that is not in use has a home doorstep, in the registry, and no other.

use libipc::lane::layout::SlotState;
use libipc::protocol::Refusal;

use super::doorstep::DoorstepSlot;
use super::mailbox::{Attachment, HOME_DOORSTEP, Mailbox};
use super::{Registry, no_session};

impl Mailbox {
    /// Whether it is noted as in use: it has regions, or is about to have.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.in_use
    }

    /// Whether nobody has it open and nothing is left in it.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let left = |state| state != SlotState::Free;
        let slots = || self.groups().iter().flat_map(|group| group.slots());
        self.links.is_empty()
            && self.freeing.is_empty()
            && !self.lanes.iter().any(|lane| left(lane.state))
            && !slots().any(|slot| left(slot.state))
    }

    /// The number of the home doorstep: with each time that the mailbox is taken into use it is another, and names those of its
    /// regions that it has from the beginning.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.doorsteps.first().map_or(0, |home| home.told)
    }

    /// Has a home doorstep and no other, with a number that none ever had.
    pub(super) fn renew_home(&mut self) {
        for slot in std::mem::take(&mut self.doorsteps) {
            self.attachments.remove(&slot.told);
        }
        let told = self.attach(Attachment::Doorstep(HOME_DOORSTEP));
        self.doorsteps.push(DoorstepSlot::home(told));
    }

    /// Finds anew whether it is in use. What a daemon of before has left of one that is not goes.
    pub(super) fn complete_use(&mut self) {
        self.in_use = !self.is_idle();
        if !self.in_use && self.doorsteps.len() > 1 {
            self.renew_home();
        }
    }
}

impl Registry {
    /// Charges a mailbox's owner for its regions, and notes that it is in use; if it is already, nothing.
    ///
    /// # Errors
    /// [`Refusal::QuotaExceeded`].
    pub(super) fn take_into_use(&mut self, id: u64) -> Result<(), Refusal> {
        let mailbox = self.mailboxes.get_mut(&id).ok_or_else(no_session)?;
        if !mailbox.in_use {
            self.quotas.charge(mailbox.ownership.uid, mailbox.regions_usage())?;
            mailbox.in_use = true;
        }
        Ok(())
    }

    /// Notes that a mailbox is in use no more, if that is so.
    pub(super) fn put_away_if_idle(&mut self, id: u64) {
        let Some(mailbox) = self.mailboxes.get_mut(&id) else { return };
        if mailbox.in_use && mailbox.is_idle() {
            self.quotas.release(mailbox.ownership.uid, mailbox.regions_usage());
            mailbox.in_use = false;
            mailbox.renew_home();
        }
    }

    /// Notes of each mailbox that may have changed whether it is in use no more; names those that are not in use.
    pub fn put_idle_away(&mut self) -> Vec<u64> {
        let mut not_in_use = Vec::new();
        for id in self.mailboxes.touched().clone() {
            self.put_away_if_idle(id);
            if self.mailbox(id).is_some_and(|mailbox| !mailbox.in_use) {
                not_in_use.push(id);
            }
        }
        not_in_use
    }
}
