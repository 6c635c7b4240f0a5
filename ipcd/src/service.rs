//! What each request does: the registry decides, the regions follow. One function a request, no socket
//! in here.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use libipc::lane::layout::{SlotState, Traffic};
use libipc::protocol::{
    Answer, DESCRIPTORS_MAX, Fetched, LaneTicket, MailboxAttributes, MailboxName, Opened,
    OpenedRole, Refresh, Refusal, Request, Role,
};
use libipc::sys::futex;
use libipc::sys::mapping::MapError;
use tracing::{debug, info};

use crate::regions::MailboxRegions;
use crate::registry::link::{LinkRole, SessionId};
use crate::registry::permission::Caller;
use crate::registry::{Admission, Ended, Got, Registry};
use crate::repair;
use crate::report;

/// An answer with its descriptors.
#[derive(Debug)]
pub struct Reply {
    /// The answer.
    pub answer: Answer,
    /// Its descriptors, in the order that the answer's type says.
    pub descriptors: Vec<Rc<OwnedFd>>,
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        Self { answer, descriptors: Vec::new() }
    }
}

/// A session that asks.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// Which.
    pub session: SessionId,
    /// Who.
    pub caller: Caller<'a>,
    /// It may call the barrier.
    pub barrier: bool,
}

/// The registry and the regions of its mailboxes.
#[derive(Debug)]
pub struct Service {
    /// Who has what.
    pub registry: Registry,
    regions: HashMap<u64, MailboxRegions>,
    barrier: bool,
}

impl Service {
    /// With nothing in it. `barrier`: this process may call the barrier.
    #[must_use]
    pub fn new(registry: Registry, barrier: bool) -> Self {
        Self { registry, regions: HashMap::new(), barrier }
    }

    /// This process may call the barrier.
    #[must_use]
    pub fn barrier(&self) -> bool {
        self.barrier
    }

    /// The regions of a mailbox.
    #[must_use]
    pub fn regions(&self, mailbox_id: u64) -> Option<&MailboxRegions> {
        self.regions.get(&mailbox_id)
    }

    /// Bytes resident in all regions.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        self.regions.values().map(MailboxRegions::resident_bytes).sum()
    }

    /// Does what a request asks.
    ///
    /// # Errors
    /// The [`Refusal`] to answer with.
    pub fn handle(&mut self, asker: &Asker<'_>, request: Request) -> Result<Reply, Refusal> {
        match request {
            Request::Hello { .. } => {
                Err(Refusal::Protocol { reason: "a second hello in one session".into() })
            }
            Request::Create { name, attributes, .. } => self.create(asker, &name, &attributes),
            Request::Open { name, role, .. } => self.open(asker, &name, role),
            Request::CloseLink { link } => self.close_link(asker, link),
            Request::Fetch(refresh) => self.fetch(asker, refresh),
            Request::LaneDrained { link, lane } => self.lane_drained(asker, link, lane),
            Request::SetTraffic { name, open } => self.set_traffic(asker, &name, open),
            Request::Delete { name, .. } => self.delete(asker, &name),
            Request::List { after } => Ok(report::list(self, asker, after.as_ref()).into()),
            Request::Show { name, skip } => self.show(asker, &name, skip),
            Request::Status => Ok(report::status(self, asker).into()),
            _ => Err(Refusal::Protocol { reason: "not yet".into() }),
        }
    }

    /// Ends a session: every link of it, as if closed.
    pub fn end_session(&mut self, session: SessionId) {
        let ended = self.registry.end_session(session);
        self.mend(&ended);
    }

    /// Ends every mailbox, so that nobody waits for a daemon that is gone.
    pub fn end_all(&mut self) {
        for regions in self.regions.values() {
            regions.set_traffic(Traffic::Deleted);
            regions.ring();
        }
        for id in self.regions.drain().map(|(id, _)| id) {
            self.registry.remove(id);
        }
    }

    fn create(
        &mut self,
        asker: &Asker<'_>,
        name: &MailboxName,
        attributes: &MailboxAttributes,
    ) -> Result<Reply, Refusal> {
        let mailbox_id = self.registry.create(&asker.caller, name, attributes)?;
        let mailbox = self.registry.mailbox(mailbox_id).ok_or_else(missing)?;
        match MailboxRegions::create(mailbox) {
            Ok(regions) => self.regions.insert(mailbox_id, regions),
            Err(error) => {
                self.registry.remove(mailbox_id);
                return Err(resources(error));
            }
        };
        if !self.barrier {
            self.fence(mailbox_id);
        }
        info!(mailbox = %name, id = mailbox_id, by = %asker.caller.identity, "created");
        Ok(Answer::Created { mailbox_id }.into())
    }

    fn open(
        &mut self,
        asker: &Asker<'_>,
        name: &MailboxName,
        role: Role,
    ) -> Result<Reply, Refusal> {
        if let Ok(mailbox) = self.registry.find(name) {
            let id = mailbox.id;
            self.sweep(id);
        }
        let admission = self.registry.open(asker.session, &asker.caller, name, role)?;
        let opened = self.admit(asker, &admission);
        match opened {
            Ok(reply) => {
                debug!(mailbox = %name, %role, link = admission.link, by = %asker.caller.identity, "opened");
                Ok(reply)
            }
            Err(refusal) => {
                self.registry.withdraw(asker.session, &admission);
                self.withdraw_regions(&admission);
                Err(refusal)
            }
        }
    }

    /// Makes what an open needs, and only when all of it is there lets the members see it.
    fn admit(&mut self, asker: &Asker<'_>, admission: &Admission) -> Result<Reply, Refusal> {
        let id = admission.mailbox_id;
        let mailbox = self.registry.mailbox(id).ok_or_else(missing)?;
        let regions = self.regions.get_mut(&id).ok_or_else(missing)?;
        let mut descriptors = vec![regions.roster_region().read_only().map_err(reopen)?];
        let cursors = regions.cursors_region();
        let role = match &admission.got {
            Got::Lane { lane, doorstep_is_new } => {
                descriptors.push(cursors.read_only().map_err(reopen)?);
                if *doorstep_is_new {
                    regions.add_doorstep(lane.sender.uid).map_err(resources)?;
                }
                regions.add_lane(lane).map_err(resources)?;
                let file = regions.lane(lane.ticket.index).ok_or_else(missing)?;
                descriptors.push(file.region().read_write());
                let doorstep = regions.doorstep_region(lane.doorstep).ok_or_else(missing)?;
                descriptors.push(doorstep.read_write());
                OpenedRole::Send { lane: *lane }
            }
            Got::Slot { slot, .. } => {
                descriptors.push(cursors.read_write());
                OpenedRole::Receive { slot: *slot, group: 0 }
            }
            Got::Nothing => {
                descriptors.push(cursors.read_only().map_err(reopen)?);
                OpenedRole::Observe
            }
        };
        let mut fetched = Fetched::default();
        if !matches!(admission.got, Got::Lane { .. }) {
            let observes = matches!(admission.got, Got::Nothing);
            fetched = self.attachments(id, 0, observes, &mut descriptors)?;
        }
        let attributes = mailbox.attributes;
        if !asker.barrier {
            self.fence(id);
        }
        self.publish(admission, asker);
        let link = admission.link;
        let opened = Opened { link, mailbox_id: id, attributes, groups: Vec::new(), role, fetched };
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
            Got::Slot { slot, inherited } => {
                if *inherited {
                    let received = regions.received(*slot);
                    mailbox.retired_received = mailbox.retired_received.saturating_add(received);
                }
                regions.publish_receiver(*slot, asker.caller.identity, *inherited);
                regions.publish_counts(mailbox);
            }
            Got::Nothing => {}
        }
    }

    fn withdraw_regions(&mut self, admission: &Admission) {
        let Some(regions) = self.regions.get_mut(&admission.mailbox_id) else { return };
        let Some(mailbox) = self.registry.mailbox(admission.mailbox_id) else { return };
        if let Got::Lane { lane, .. } = &admission.got {
            regions.remove_lane(lane.ticket.index);
        }
        regions.truncate_doorsteps(mailbox.doorsteps().len());
    }

    /// Makes a mailbox's members keep their fences. Those that went without run the barrier's other
    /// half now: from here on each of them either has seen the word or has passed a full barrier.
    fn fence(&mut self, mailbox_id: u64) {
        let Some(mailbox) = self.registry.mailbox_mut(mailbox_id) else { return };
        let Some(regions) = self.regions.get(&mailbox_id).filter(|_| !mailbox.fences) else {
            return;
        };
        mailbox.fences = true;
        regions.set_fences();
        if self.barrier {
            futex::barrier();
        }
        // Whoever went to sleep between the two without a barrier of its own looks once more.
        regions.ring();
    }

    fn attachments(
        &self,
        mailbox_id: u64,
        after: u64,
        observes: bool,
        descriptors: &mut Vec<Rc<OwnedFd>>,
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

    fn fetch(&mut self, asker: &Asker<'_>, refresh: Refresh) -> Result<Reply, Refusal> {
        let Refresh { link, after } = refresh;
        let found = self.registry.link(asker.session, link, "fetch")?;
        let mailbox_id = found.mailbox_id;
        let observes = match found.role {
            LinkRole::Receive { .. } => false,
            LinkRole::Observe => true,
            LinkRole::Send { .. } => {
                return Err(Refusal::NoSuchLink { link, wanted: "fetch".into() });
            }
        };
        self.sweep(mailbox_id);
        let mut descriptors = Vec::new();
        let fetched = self.attachments(mailbox_id, after, observes, &mut descriptors)?;
        Ok(Reply { answer: Answer::Fetched(fetched), descriptors })
    }

    fn close_link(&mut self, asker: &Asker<'_>, link: u32) -> Result<Reply, Refusal> {
        let ended = self.registry.close_link(asker.session, link)?;
        self.mend(ended.as_slice());
        Ok(Answer::Done.into())
    }

    fn lane_drained(
        &mut self,
        asker: &Asker<'_>,
        link: u32,
        lane: LaneTicket,
    ) -> Result<Reply, Refusal> {
        let wanted = "report a drained lane";
        let found = self.registry.link(asker.session, link, wanted)?;
        if !matches!(found.role, LinkRole::Receive { .. }) {
            return Err(Refusal::NoSuchLink { link, wanted: wanted.into() });
        }
        let mailbox_id = found.mailbox_id;
        let mailbox = self.registry.mailbox(mailbox_id).ok_or_else(missing)?;
        let slot = mailbox.lanes().get(usize::from(lane.index));
        if slot.is_some_and(|slot| slot.info.ticket == lane)
            && let Some(regions) = self.regions.get_mut(&mailbox_id)
        {
            let registry = &mut self.registry;
            if repair::free_lane_if_drained(registry, regions, mailbox_id, lane.index) {
                self.tell(mailbox_id);
            }
        }
        self.sweep(mailbox_id);
        Ok(Answer::Done.into())
    }

    fn set_traffic(
        &mut self,
        asker: &Asker<'_>,
        name: &MailboxName,
        open: bool,
    ) -> Result<Reply, Refusal> {
        let wanted = if open { "open" } else { "close" };
        let id = self.registry.administered(&asker.caller, name, wanted)?;
        if let Some(mailbox) = self.registry.mailbox_mut(id) {
            mailbox.open = open;
        }
        if let Some(regions) = self.regions.get(&id) {
            regions.set_traffic(if open { Traffic::Open } else { Traffic::Closed });
            regions.ring();
        }
        self.sweep(id);
        info!(mailbox = %name, open, by = %asker.caller.identity, "traffic set");
        Ok(Answer::Done.into())
    }

    fn delete(&mut self, asker: &Asker<'_>, name: &MailboxName) -> Result<Reply, Refusal> {
        let id = self.registry.administered(&asker.caller, name, "delete")?;
        let mailbox = self.registry.remove(id).ok_or_else(missing)?;
        let mut discarded = 0;
        if let Some(regions) = self.regions.remove(&id) {
            regions.set_traffic(Traffic::Deleted);
            regions.ring();
            discarded = report::count(&mailbox, &regions).queued_messages;
        }
        info!(mailbox = %name, id, discarded, by = %asker.caller.identity, "deleted");
        Ok(Answer::Deleted { queued: discarded }.into())
    }

    fn show(&mut self, asker: &Asker<'_>, name: &MailboxName, skip: u32) -> Result<Reply, Refusal> {
        let mailbox = self.registry.find(name)?;
        if !mailbox.ownership.may_see(&asker.caller) {
            return Err(mailbox.ownership.refuse(name, "show", &asker.caller));
        }
        let id = mailbox.id;
        self.sweep(id);
        let mailbox = self.registry.mailbox(id).ok_or_else(missing)?;
        let regions = self.regions.get(&id).ok_or_else(missing)?;
        Ok(Answer::Shown(Box::new(report::show(mailbox, regions, skip))).into())
    }

    /// Mends what ended links have left, then tells each mailbox's members once.
    fn mend(&mut self, ended: &[Ended]) {
        let mut touched = BTreeSet::new();
        for Ended { mailbox_id, role } in ended {
            let mailbox = self.registry.mailbox(*mailbox_id);
            let (Some(mailbox), Some(regions)) = (mailbox, self.regions.get_mut(mailbox_id)) else {
                continue;
            };
            repair::mend_member(mailbox, regions, *role);
            if let LinkRole::Send { lane } = role {
                let registry = &mut self.registry;
                repair::free_lane_if_drained(registry, regions, *mailbox_id, lane.index);
            }
            if !matches!(role, LinkRole::Observe) {
                touched.insert(*mailbox_id);
            }
        }
        for mailbox_id in touched {
            if let Some(regions) = self.regions.get_mut(&mailbox_id) {
                repair::sweep(&mut self.registry, regions, mailbox_id);
            }
            self.tell(mailbox_id);
        }
    }

    fn sweep(&mut self, mailbox_id: u64) {
        let Some(regions) = self.regions.get_mut(&mailbox_id) else { return };
        if repair::sweep(&mut self.registry, regions, mailbox_id) {
            self.tell(mailbox_id);
        }
    }

    /// Tells a mailbox's members that something has changed, and wakes them.
    fn tell(&self, mailbox_id: u64) {
        let mailbox = self.registry.mailbox(mailbox_id);
        if let (Some(mailbox), Some(regions)) = (mailbox, self.regions.get(&mailbox_id)) {
            regions.publish_counts(mailbox);
            regions.ring();
        }
    }
}

/// Whether a slot counts as a member in a report: someone has it, or left something in it.
#[must_use]
pub fn is_member(state: SlotState) -> bool {
    state != SlotState::Free
}

fn missing() -> Refusal {
    Refusal::Resources { step: "find a region".into(), error: "it is not there".into() }
}

fn resources(error: MapError) -> Refusal {
    match error {
        MapError::Kernel { step, error } => {
            Refusal::Resources { step: step.into(), error: error.to_string() }
        }
        other => Refusal::Resources { step: "make a region".into(), error: other.to_string() },
    }
}

fn reopen(error: std::io::Error) -> Refusal {
    let step = "reopen a region for reading".into();
    Refusal::Resources { step, error: error.to_string() }
}
