//! Mailboxes that are in use: somebody has them open, or has left something in them. Only such a one has regions, for
//! which its owner is charged; what is left of another is its entry here.
//!
//! **Invariant:** a mailbox that somebody has open, or in which something is left, is noted as in use.

use libipc::lane::layout::SlotState;
use libipc::protocol::Refusal;

use super::mailbox::{HOME_DOORSTEP, Mailbox};
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

    /// Forgets whose doorsteps there were. Their numbers are given to no others.
    fn forget_doorsteps(&mut self) {
        for slot in self.doorsteps.drain(usize::from(HOME_DOORSTEP) + 1..) {
            self.attachments.remove(&slot.told);
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
            mailbox.forget_doorsteps();
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
