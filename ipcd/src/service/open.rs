//! Links: opened, told what is new, closed.

use libipc::protocol::{
    Answer, DESCRIPTORS_MAX, Fetched, GroupName, MailboxName, Opened, OpenedRole, Refresh, Refusal,
    Role,
};
use tracing::debug;

use super::{Asker, Reply, Service, missing, reopen, resources};
use crate::regions::Handed;
use crate::registry::doorstep::Entry;
use crate::registry::group::Place;
use crate::registry::link::LinkRole;
use crate::registry::{Admission, Got};

impl Service {
    pub(super) fn open(
        &mut self,
        asker: &Asker<'_>,
        name: &MailboxName,
        role: Role,
        group: Option<&GroupName>,
    ) -> Result<Reply, Refusal> {
        if let Ok(mailbox) = self.registry.find(name) {
            let id = mailbox.id;
            self.sweep(id);
        }
        if let Some(of) = self.registry.wants_dead_letters(&asker.caller, name, role) {
            self.dead_letters_for(of)?;
        }
        let admission = self.registry.open(asker.session, &asker.caller, name, role, group)?;
        let reply = self.give(asker, &admission)?;
        if role == Role::Receive && self.tidy(admission.mailbox_id) {
            self.tell(admission.mailbox_id);
        }
        debug!(mailbox = %name, %role, link = admission.link, by = %asker.caller.identity, "opened");
        Ok(reply)
    }

    /// Gives what an open that the registry has granted needs, or undoes it.
    pub(super) fn give(
        &mut self,
        asker: &Asker<'_>,
        admission: &Admission,
    ) -> Result<Reply, Refusal> {
        let opened = self.admit(asker, admission);
        if opened.is_err() {
            self.registry.withdraw(asker.session, admission);
            self.withdraw_regions(admission);
        } else if let Some(regions) = self.regions.get_mut(&admission.mailbox_id) {
            regions.forget_replaced();
        }
        opened
    }

    /// Makes what an open needs, and only when all of it is there lets the members see it.
    fn admit(&mut self, asker: &Asker<'_>, admission: &Admission) -> Result<Reply, Refusal> {
        let id = admission.mailbox_id;
        self.regions_in_use(id)?;
        let mailbox = self.registry.mailbox(id).ok_or_else(missing)?;
        let regions = self.regions.get_mut(&id).ok_or_else(missing)?;
        let mut descriptors = vec![regions.roster_region().read_only().map_err(reopen)?];
        let role = match &admission.got {
            Got::Lane { lane, entry } => {
                for cursors in regions.cursors_regions() {
                    descriptors.push(cursors.read_only().map_err(reopen)?);
                }
                if *entry != Entry::Known {
                    let slot = mailbox.doorsteps().get(usize::from(lane.doorstep));
                    let slot = *slot.ok_or_else(missing)?;
                    regions.put_doorstep(lane.doorstep, slot).map_err(resources)?;
                }
                regions.add_lane(lane).map_err(resources)?;
                let file = regions.lane(lane.ticket.index).ok_or_else(missing)?;
                descriptors.push(file.region().read_write());
                let doorstep = regions.doorstep_region(lane.doorstep).ok_or_else(missing)?;
                descriptors.push(doorstep.read_write());
                OpenedRole::Send { lane: *lane }
            }
            Got::Slot { group, place } => {
                let cursors = regions.cursors_region(*group).ok_or_else(missing)?;
                descriptors.push(cursors.read_write());
                let Place { slot, generation, .. } = *place;
                OpenedRole::Receive { slot, group: *group, generation }
            }
            Got::Look { group } => {
                let cursors = regions.cursors_region(*group).ok_or_else(missing)?;
                descriptors.push(cursors.read_only().map_err(reopen)?);
                OpenedRole::Observe
            }
        };
        let mut fetched = Fetched::default();
        if !matches!(admission.got, Got::Lane { .. }) {
            let observes = matches!(admission.got, Got::Look { .. });
            fetched = self.attachments(id, 0, observes, &mut descriptors)?;
        }
        let (attributes, groups) = (mailbox.attributes, mailbox.named_groups().to_vec());
        // Whoever only looks neither sleeps nor wakes anybody: it needs no barrier.
        if !asker.barrier && !matches!(admission.got, Got::Look { .. }) {
            self.fence(id);
        }
        self.publish(admission, asker);
        let link = admission.link;
        let opened = Opened { link, mailbox_id: id, attributes, groups, role, fetched };
        Ok(Reply { answer: Answer::Opened(opened), descriptors })
    }

    fn publish(&mut self, admission: &Admission, asker: &Asker<'_>) {
        let mailbox = self.registry.mailbox_mut(admission.mailbox_id);
        let regions = self.regions.get(&admission.mailbox_id);
        let (Some(mailbox), Some(regions)) = (mailbox, regions) else { return };
        match &admission.got {
            Got::Lane { lane, .. } => {
                regions.publish_lane(lane);
                regions.publish_counts(mailbox);
                // A sleeping receiver learns of the lane.
                regions.ring_bells();
            }
            Got::Slot { group, place } => {
                if let Some(table) = mailbox.group_mut(*group).filter(|_| place.inherited) {
                    let received = regions.received(*group, place.slot);
                    table.retired_received = table.retired_received.saturating_add(received);
                }
                regions.publish_receiver(*group, *place, asker.caller.identity);
                regions.publish_counts(mailbox);
            }
            Got::Look { .. } => {}
        }
    }

    fn withdraw_regions(&mut self, admission: &Admission) {
        let Some(regions) = self.regions.get_mut(&admission.mailbox_id) else { return };
        let Some(mailbox) = self.registry.mailbox(admission.mailbox_id) else { return };
        if let Got::Lane { lane, .. } = &admission.got {
            regions.remove_lane(lane.ticket.index);
        }
        regions.withdraw_doorsteps(mailbox.doorsteps());
    }

    fn attachments(
        &self,
        mailbox_id: u64,
        after: u64,
        observes: bool,
        descriptors: &mut Vec<Handed>,
    ) -> Result<Fetched, Refusal> {
        let mailbox = self.registry.mailbox(mailbox_id).ok_or_else(missing)?;
        let regions = self.regions.get(&mailbox_id).ok_or_else(missing)?;
        let mut page = mailbox.attachments_after(after, DESCRIPTORS_MAX - descriptors.len());
        if observes {
            // Whoever can read a bell can rob its sleepers: only those who sleep or ring map one.
            page.doorsteps.clear();
        }
        for &(index, _) in &page.doorsteps {
            let doorstep = regions.doorstep_region(index).ok_or_else(missing)?;
            descriptors.push(doorstep.read_write());
        }
        for lane in &page.lanes {
            let lane = regions.lane(lane.ticket.index).ok_or_else(missing)?;
            descriptors.push(lane.region().read_only().map_err(reopen)?);
        }
        let through = page.through;
        Ok(Fetched { doorsteps: page.doorsteps, lanes: page.lanes, through, more: page.more })
    }

    pub(super) fn fetch(&mut self, asker: &Asker<'_>, refresh: Refresh) -> Result<Reply, Refusal> {
        let Refresh { link, after } = refresh;
        let found = self.registry.link(asker.session, link, "fetch")?;
        let (mailbox_id, name) = (found.mailbox_id, found.name.to_string());
        let observes = match found.role {
            LinkRole::Receive { .. } => false,
            LinkRole::Observe => true,
            LinkRole::Send => {
                return Err(Refusal::NoSuchLink { link, wanted: "fetch".into() });
            }
        };
        self.sweep(mailbox_id);
        if self.registry.mailbox(mailbox_id).is_none() {
            // It was there only until it was drained.
            return Err(Refusal::Deleted { name });
        }
        let mut descriptors = Vec::new();
        let fetched = self.attachments(mailbox_id, after, observes, &mut descriptors)?;
        Ok(Reply { answer: Answer::Fetched(fetched), descriptors })
    }

    pub(super) fn close_link(&mut self, asker: &Asker<'_>, link: u32) -> Result<Reply, Refusal> {
        let departure = self.registry.close_link(asker.session, link)?;
        self.mend(&departure);
        Ok(Answer::Done.into())
    }
}
