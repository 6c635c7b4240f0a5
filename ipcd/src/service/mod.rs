//! What each request does: the registry decides, the regions follow. One function a request, no socket
//! in here. `mailbox` what is asked of a mailbox by its name, `open` links, `lane` what members ask of
//! their links, `direct` processes and answers, `dead_letter` what nobody can deal with, `settle` the step from what was
//! done to what is shown.

pub mod dead_letter;
mod direct;
mod lane;
mod mailbox;
mod open;
pub mod settle;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::rc::Rc;

use libipc::lane::layout::{SlotState, Traffic};
use libipc::protocol::{Answer, Refusal, Request};
use libipc::sys::mapping::MapError;
use tracing::info;

use crate::progress::Progress;
use crate::regions::show::Backstage;
use crate::regions::{Handed, MailboxRegions};
use crate::registry::link::{LinkKey, LinkRole, SessionId};
use crate::registry::mailbox::LaneWish;
use crate::registry::permission::Caller;
use crate::registry::{Departure, Registry};
use crate::repair;
use crate::report;
use crate::state::State;
use crate::store::Store;
use dead_letter::Move;

/// An answer with its descriptors.
#[derive(Debug)]
pub struct Reply {
    /// The answer.
    pub answer: Answer,
    /// Its descriptors, in the order that the answer's type says.
    pub descriptors: Vec<Handed>,
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
    /// What the regions are kept by, and what is yet to be shown.
    backstage: Rc<Backstage>,
    /// Where a successor finds what is in the registry, and whose request is in hand, if there is a store.
    state: Option<State>,
    progress: Option<Progress>,
    /// Regions of mailboxes that are gone, or in use no more, whose members are yet to be told.
    departing: Vec<(u64, MailboxRegions)>,
    /// Why they are gone.
    removed: Vec<(u64, Traffic)>,
    /// Mailboxes in which something is to be freed.
    freeing: BTreeSet<u64>,
    /// Slots of receivers that are gone, of what is in whose hand more is to end: mailbox, group and slot.
    ending: VecDeque<dead_letter::Place>,
    /// Mailboxes of which a sweep has left a part.
    sweeping: BTreeSet<u64>,
    /// The program is to be started anew.
    restarts: bool,
    /// The state has all that was done.
    settled: bool,
}

impl Service {
    /// With nothing in it, and nobody to keep it. `barrier`: this process may call the barrier.
    #[must_use]
    pub fn new(registry: Registry, barrier: bool) -> Self {
        Self::resumed(
            registry,
            barrier,
            Backstage::new(Store::none()),
            HashMap::new(),
            (None, None),
        )
    }

    /// With what a predecessor has left.
    #[must_use]
    pub fn resumed(
        registry: Registry,
        barrier: bool,
        backstage: Rc<Backstage>,
        regions: HashMap<u64, MailboxRegions>,
        (state, progress): (Option<State>, Option<Progress>),
    ) -> Self {
        let (departing, removed) = (Vec::new(), Vec::new());
        let restarts = false;
        let freeing = registry
            .mailbox_ids()
            .filter(|&id| registry.mailbox(id).is_some_and(|mailbox| !mailbox.freeing.is_empty()));
        let freeing = freeing.collect();
        Self {
            registry,
            regions,
            barrier,
            backstage,
            state,
            progress,
            departing,
            removed,
            freeing,
            ending: VecDeque::new(),
            sweeping: BTreeSet::new(),
            restarts,
            settled: true,
        }
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
            Request::Create { name, attributes, groups } => {
                self.create(asker, &name, &attributes, &groups)
            }
            Request::Open { name, role, group } => self.open(asker, &name, role, group.as_ref()),
            Request::CloseLink { link } => self.close_link(asker, link),
            Request::Fetch(refresh) => self.fetch(asker, refresh),
            Request::LaneDrained { link, lane } => self.lane_drained(asker, link, lane),
            Request::SetTraffic { name, open } => self.set_traffic(asker, &name, open),
            Request::Delete { name, queued } => self.delete(asker, &name, queued),
            Request::List { after } => Ok(report::list(self, asker, after.as_ref()).into()),
            Request::Show { name, skip } => self.show(asker, &name, skip),
            Request::Status => Ok(report::status(self, asker).into()),
            Request::AddLane { link, priority, capacity_bytes, replaces } => {
                let wish = LaneWish { priority, capacity_bytes, predecessor: replaces };
                self.add_lane(asker, link, wish)
            }
            Request::Drained { link } => self.drained(asker, link),
            Request::DropOldest { link, lane, group, from, through, messages } => {
                let oldest = lane::Oldest { lane, group, from, through, messages };
                self.drop_oldest(asker, link, &oldest)
            }
            Request::Register { name, attributes } => {
                self.register(asker, name.as_deref(), &attributes)
            }
            Request::OpenDirect { to } => self.open_direct(asker, &to),
            Request::Find { of } => self.find(asker, &of),
            Request::OpenReplies { link } => self.open_replies(asker, link),
            Request::OpenReply { link, lane } => self.open_reply(asker, link, lane),
            Request::Reject { link, lane, position, reason } => {
                self.reject(asker, link, lane, position, reason)
            }
            Request::Requeue { name, number } => {
                self.move_letters(asker, &name, number, Move::Requeue)
            }
            Request::Discard { name, number } => {
                self.move_letters(asker, &name, number, Move::Discard)
            }
            Request::Restart => self.restart(asker),
        }
    }

    /// Ends a session: every link of it, as if closed, and every mailbox that goes with it.
    pub fn end_session(&mut self, session: SessionId) {
        let departure = self.registry.end_session(session);
        self.mend(&departure);
        self.forget(session);
        self.settle();
    }

    /// Ends every mailbox, so that nobody waits for a daemon that is gone.
    pub fn end_all(&mut self) {
        for regions in self.regions.values() {
            regions.set_traffic(Traffic::Deleted);
            regions.ring();
        }
        self.end_state();
        self.show_what_is_due();
        self.regions.clear();
        for id in self.registry.mailbox_ids().collect::<Vec<_>>() {
            self.registry.remove(id);
        }
    }

    /// Makes a mailbox's members keep their fences. Those that went without run the barrier's other
    /// half now: from here on each of them either has seen the word or has passed a full barrier.
    fn fence(&mut self, mailbox_id: u64) {
        let mailbox = self.registry.mailbox_mut(mailbox_id).filter(|mailbox| !mailbox.fences);
        let Some(mailbox) = mailbox else { return };
        mailbox.fences = true;
        if let Some(regions) = self.regions.get(&mailbox_id) {
            regions.set_fences(self.barrier);
        }
    }

    /// Of a new mailbox: its members keep their fences from the beginning where this process may not call the barrier.
    fn settle_fences(&mut self, mailbox_id: u64) {
        if !self.barrier {
            self.fence(mailbox_id);
        }
    }

    /// Mends what ended links have left, tells each mailbox's members once, and removes the mailboxes that
    /// went with them.
    fn mend(&mut self, departure: &Departure) {
        let mut touched = BTreeSet::new();
        let mut left = BTreeSet::new();
        for ended in &departure.ended {
            let id = ended.mailbox_id;
            let (Some(mailbox), Some(regions)) =
                (self.registry.mailbox(id), self.regions.get_mut(&id))
            else {
                continue;
            };
            repair::show_member_gone(mailbox, regions, ended);
            if let LinkRole::Receive { group, slot } = ended.role {
                self.end_what_is_in_hand((id, group, slot), 0);
                left.insert(id);
            }
            let Some(regions) = self.regions.get_mut(&id) else { continue };
            for lane in &ended.lanes {
                repair::free_lane_if_drained(&mut self.registry, regions, id, lane.index);
            }
            if ended.role != LinkRole::Observe {
                touched.insert(id);
            }
        }
        for &orphan in &departure.orphans {
            self.remove(orphan, Traffic::OwnerGone);
            touched.remove(&orphan);
        }
        for mailbox_id in touched {
            if left.contains(&mailbox_id) {
                self.tidy(mailbox_id);
            }
            self.sweep_some(mailbox_id);
            self.tell(mailbox_id);
            self.remove_if_drained(mailbox_id);
        }
    }

    /// Puts right what receivers may have left that are gone; says whether there was anything.
    fn tidy(&mut self, mailbox_id: u64) -> bool {
        let mailbox = self.registry.mailbox_mut(mailbox_id);
        let found = mailbox.zip(self.regions.get(&mailbox_id));
        found.is_some_and(|(mailbox, regions)| repair::tidy(mailbox, regions))
    }

    fn sweep(&mut self, mailbox_id: u64) {
        if self.sweep_some(mailbox_id) {
            self.tell(mailbox_id);
        }
        self.remove_if_drained(mailbox_id);
    }

    /// Sweeps a part; says whether that has freed something. If so the rest is swept soon, unless somebody has it open, who
    /// will have it swept.
    fn sweep_some(&mut self, mailbox_id: u64) -> bool {
        let Some(regions) = self.regions.get_mut(&mailbox_id) else { return false };
        let freed = repair::sweep(&mut self.registry, regions, mailbox_id);
        let left = self.registry.mailbox(mailbox_id);
        if freed && left.is_some_and(|it| it.links.is_empty() && !it.is_idle()) {
            self.sweeping.insert(mailbox_id);
        }
        freed
    }

    /// Removes a mailbox that is only there until it is drained, if it is.
    fn remove_if_drained(&mut self, mailbox_id: u64) {
        let mailbox = self.registry.mailbox(mailbox_id);
        let draining = mailbox.filter(|mailbox| mailbox.traffic == Traffic::Draining);
        let drained = |mailbox| {
            let regions = self.regions.get(&mailbox_id);
            regions.is_none_or(|regions| repair::is_drained(mailbox, regions))
        };
        if draining.is_some_and(drained) {
            self.remove(mailbox_id, Traffic::Deleted);
        }
    }

    /// Removes a mailbox and its dead letters, and tells the members why; says how many messages went with it.
    fn remove(&mut self, mailbox_id: u64, why: Traffic) -> u64 {
        let dead = self.registry.mailbox(mailbox_id).and_then(|mailbox| mailbox.dead_letters);
        let dead = dead.map_or(0, |dead| self.remove(dead, why));
        let Some(mailbox) = self.registry.remove(mailbox_id) else { return 0 };
        let regions = self.regions.remove(&mailbox_id);
        let discarded = report::count(&mailbox, regions.as_ref()).queued_messages;
        info!(mailbox = %mailbox.name, id = mailbox_id, ?why, discarded, "removed");
        if let Some(regions) = regions {
            regions.set_traffic(why);
            regions.ring();
            self.departing.push((mailbox_id, regions));
            self.removed.push((mailbox_id, why));
        }
        discarded + dead
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

fn key(asker: &Asker<'_>, link: u32) -> LinkKey {
    (asker.session, link)
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
