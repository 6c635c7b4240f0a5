//! Mailboxes by their names: create, close and open, delete, show.

use std::collections::hash_map::Entry;

use libipc::lane::layout::Traffic;
use libipc::protocol::{Answer, Group, MailboxAttributes, MailboxName, Queued, Refusal};
use tracing::info;

use super::{Asker, Reply, Service, missing, resources};
use crate::regions::MailboxRegions;
use crate::report;

impl Service {
    pub(super) fn create(
        &mut self,
        asker: &Asker<'_>,
        name: &MailboxName,
        attributes: &MailboxAttributes,
        groups: &[Group],
    ) -> Result<Reply, Refusal> {
        let (session, caller) = (asker.session, &asker.caller);
        let mailbox_id = self.registry.create(session, caller, name, attributes, groups)?;
        self.settle_fences(mailbox_id);
        info!(mailbox = %name, id = mailbox_id, by = %asker.caller.identity, "created");
        Ok(Answer::Created { mailbox_id }.into())
    }

    /// The regions of a mailbox that the registry has taken into use; made, if it was not in use before.
    pub(super) fn regions_in_use(
        &mut self,
        mailbox_id: u64,
    ) -> Result<&mut MailboxRegions, Refusal> {
        match self.regions.entry(mailbox_id) {
            Entry::Occupied(there) => Ok(there.into_mut()),
            Entry::Vacant(place) => {
                let mailbox = self.registry.mailbox(mailbox_id).ok_or_else(missing)?;
                let made = MailboxRegions::create(mailbox, &self.backstage);
                Ok(place.insert(made.map_err(resources)?))
            }
        }
    }

    /// Has no regions for mailboxes that are in use no more. Whoever was a member is told still what is due.
    pub(super) fn put_idle_away(&mut self) {
        for id in self.registry.put_idle_away() {
            self.departing.extend(self.regions.remove(&id).map(|regions| (id, regions)));
        }
    }

    pub(super) fn set_traffic(
        &mut self,
        asker: &Asker<'_>,
        name: &MailboxName,
        open: bool,
    ) -> Result<Reply, Refusal> {
        let wanted = if open { "open" } else { "close" };
        let id = self.registry.administered(&asker.caller, name, wanted)?;
        let mailbox = self.registry.mailbox_mut(id).ok_or_else(missing)?;
        if mailbox.traffic == Traffic::Draining {
            return Err(Refusal::Deleted { name: name.to_string() });
        }
        let traffic = if open { Traffic::Open } else { Traffic::Closed };
        mailbox.traffic = traffic;
        if let Some(regions) = self.regions.get(&id) {
            regions.set_traffic(traffic);
            regions.ring();
        }
        self.sweep(id);
        info!(mailbox = %name, open, by = %asker.caller.identity, "traffic set");
        Ok(Answer::Done.into())
    }

    pub(super) fn delete(
        &mut self,
        asker: &Asker<'_>,
        name: &MailboxName,
        queued: Queued,
    ) -> Result<Reply, Refusal> {
        let id = self.registry.administered(&asker.caller, name, "delete")?;
        info!(mailbox = %name, id, %queued, by = %asker.caller.identity, "deleted");
        let queued = match queued {
            Queued::Discard => self.remove(id, Traffic::Deleted),
            Queued::Drain => self.drain(id)?,
        };
        Ok(Answer::Deleted { queued }.into())
    }

    /// Lets nothing more into a mailbox, which goes once it is empty; says how many messages it has.
    fn drain(&mut self, id: u64) -> Result<u64, Refusal> {
        let mailbox = self.registry.mailbox_mut(id).ok_or_else(missing)?;
        mailbox.traffic = Traffic::Draining;
        let regions = self.regions.get(&id);
        if let Some(regions) = regions {
            regions.set_traffic(Traffic::Draining);
            regions.ring();
        }
        let queued = report::count(mailbox, regions).queued_messages;
        self.sweep(id);
        Ok(queued)
    }

    pub(super) fn show(
        &mut self,
        asker: &Asker<'_>,
        name: &MailboxName,
        skip: u32,
    ) -> Result<Reply, Refusal> {
        let mailbox = self.registry.find(name)?;
        if !mailbox.ownership.may_see(&asker.caller) {
            return Err(mailbox.ownership.refuse(name, "show", &asker.caller));
        }
        let id = mailbox.id;
        self.sweep(id);
        // It may have been there only until it was drained.
        let mailbox = self.registry.find(name)?;
        let regions = self.regions.get(&id);
        Ok(Answer::Shown(Box::new(report::show(self, mailbox, regions, skip))).into())
    }
}
