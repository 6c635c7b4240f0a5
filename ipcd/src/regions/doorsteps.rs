//! The files of doorsteps, whose places may be given to other uids.

use libipc::lane::layout::{DOORSTEP_MAGIC, LAYOUT_VERSION, doorstep_map};
use libipc::regions::Doorstep;
use libipc::sync::Ordering;
use libipc::sys::mapping::{Access, MapError};

use super::{MailboxRegions, Region, cannot, create};
use crate::registry::doorstep::DoorstepSlot;

impl MailboxRegions {
    /// Makes a doorstep: the next one, or one in the place of another, which is there until [`Self::forget_replaced`].
    ///
    /// # Errors
    /// [`MapError`].
    pub fn put_doorstep(&mut self, index: u16, slot: DoorstepSlot) -> Result<(), MapError> {
        let (region, words) = self.make_doorstep(index, slot)?;
        let region = region.keep(&self.backstage.store).map_err(cannot("keep a region"))?;
        match self.doorsteps.get_mut(usize::from(index)) {
            Some(place) => self.replaced.push(std::mem::replace(place, (region, words))),
            None => self.doorsteps.push((region, words)),
        }
        Ok(())
    }

    pub(super) fn make_doorstep(
        &self,
        index: u16,
        slot: DoorstepSlot,
    ) -> Result<(Region, Doorstep), MapError> {
        let name = doorstep_name(self.mailbox_id, index, slot.told);
        let region = create(&name, doorstep_map(self.limits).len as u64)?;
        let words = Doorstep::map(&region, self.limits, Access::ReadWrite)?;
        words.header.uid.store(slot.uid, Ordering::Relaxed);
        words.header.version.store(LAYOUT_VERSION, Ordering::Relaxed);
        words.header.magic.store(DOORSTEP_MAGIC, Ordering::Relaxed);
        Ok((region, words))
    }

    /// Has the doorsteps that the registry has, and no others: an open has failed for which one was made.
    pub fn withdraw_doorsteps(&mut self, slots: &[DoorstepSlot]) {
        self.doorsteps.truncate(slots.len());
        if self.replaced.is_empty() {
            return;
        }
        for ((index, slot), place) in (0u16..).zip(slots).zip(&mut self.doorsteps) {
            let name = doorstep_name(self.mailbox_id, index, slot.told);
            let before = self.replaced.iter().position(|(region, _)| region.name() == name);
            if let Some(before) = before {
                *place = self.replaced.swap_remove(before);
            }
        }
    }

    /// The open has not failed: what others have taken the place of is done with.
    pub fn forget_replaced(&mut self) {
        self.replaced.clear();
    }
}

pub(super) fn doorstep_name(mailbox_id: u64, index: u16, told: u64) -> String {
    format!("{mailbox_id}.doorstep.{index}.{told}")
}
