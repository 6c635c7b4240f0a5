//! What members see and hear of a mailbox, put off until the state has it: a daemon that dies in between has told nobody
//! anything that its successor does not know.
//!
//! Whoever does a request says what is to be shown (the methods of [`MailboxRegions`] queue it), and
//! [`crate::service::Service::settle`] has it shown once the request is in the state file.

use std::cell::RefCell;
use std::rc::Rc;

use libipc::lane::layout::{Claim, LaneStatus, Marked, SlotState, Traffic};
use libipc::lane::position::Position;
use libipc::lane::repair::{free_first, held_by, held_by_gone, mend_slot};
use libipc::protocol::{Identity, LaneInfo};
use libipc::sync::Ordering;
use libipc::sys::futex;

use tracing::error;

use super::{MailboxRegions, ring_word};
use crate::registry::dead_letter::Freeing;
use crate::registry::group::Place;
use crate::registry::mailbox::Mailbox;
use crate::store::Store;

/// What all mailboxes' regions share: where they are kept, and what is yet to be shown.
#[derive(Debug)]
pub struct Backstage {
    /// Where they are kept.
    pub store: Rc<Store>,
    queue: RefCell<Vec<(u64, Show)>>,
}

impl Backstage {
    /// With nothing to be shown.
    #[must_use]
    pub fn new(store: Rc<Store>) -> Rc<Self> {
        Rc::new(Self { store, queue: RefCell::default() })
    }

    /// What is to be shown, in its order, with the mailbox's number.
    pub fn take(&self) -> Vec<(u64, Show)> {
        self.queue.take()
    }

    pub(super) fn later(&self, mailbox_id: u64, show: Show) {
        self.queue.borrow_mut().push((mailbox_id, show));
    }
}

/// One thing to be shown.
#[derive(Clone, Debug)]
pub enum Show {
    /// A lane is new: its claim and entry first, its status last.
    Lane(LaneInfo),
    /// Whose a lane is now.
    LaneState(LaneInfo, SlotState),
    /// A receiver is new in its slot; in an inherited one what the receiver before left stays.
    Receiver {
        /// Its group.
        group: u8,
        /// Its slot.
        place: Place,
        /// Who.
        identity: Identity,
    },
    /// Whose a receiver slot is now.
    ReceiverState {
        /// Its group.
        group: u8,
        /// The slot.
        slot: u16,
        /// Whose.
        state: SlotState,
    },
    /// The registry's counts.
    Counts(Box<Counts>),
    /// Messages dropped, by each group: for people, so nobody is told to look.
    Dropped(Vec<u64>),
    /// What the mailbox lets through.
    Traffic(Traffic),
    /// All keep their fences from now on.
    Fences {
        /// This process may call the barrier.
        barrier: bool,
    },
    /// A record is freed on behalf of whoever holds it, if that is so still, and its sender reads how it ended.
    Free(Freeing),
    /// What a receiver that is gone still holds is offered to the others.
    Mend {
        /// Its group.
        group: u8,
        /// Its slot.
        slot: u16,
    },
    /// The receivers wake up.
    Bells,
    /// Everybody wakes up.
    Everybody,
}

/// The counts that a roster has.
#[derive(Clone, Debug)]
pub struct Counts {
    lanes_high: u32,
    groups: Vec<GroupCounts>,
    receivers: u32,
    senders: u32,
    senders_ever: u32,
    receiver_uids: u32,
}

#[derive(Clone, Debug)]
struct GroupCounts {
    receivers_high: u32,
    receivers: u32,
    dropped: u64,
}

impl Counts {
    /// As the registry has them now.
    #[must_use]
    pub fn of(mailbox: &Mailbox) -> Self {
        let group = |group: &crate::registry::group::ReceiverGroup| GroupCounts {
            receivers_high: group.slots().len() as u32,
            receivers: group.receivers(),
            dropped: group.dropped,
        };
        Self {
            lanes_high: mailbox.lanes().len() as u32,
            groups: mailbox.groups().iter().map(group).collect(),
            receivers: mailbox.active_receivers(),
            senders: mailbox.senders().len() as u32,
            senders_ever: mailbox.senders_ever,
            receiver_uids: mailbox.receiver_uids(),
        }
    }
}

impl MailboxRegions {
    /// Shows the members something. Doing it twice does no harm but for [`Show::Lane`] and [`Show::Receiver`], which
    /// are for those that nobody has used yet.
    pub fn show(&self, show: &Show) {
        match show {
            Show::Lane(lane) => self.show_lane(lane),
            Show::LaneState(lane, state) => self.show_lane_state(lane, *state),
            Show::Receiver { group, place, identity } => {
                self.show_receiver(*group, *place, *identity);
            }
            Show::ReceiverState { group, slot, state } => {
                self.show_receiver_state(*group, *slot, *state);
            }
            Show::Counts(counts) => self.show_counts(counts),
            Show::Dropped(dropped) => self.show_dropped(dropped.iter().copied()),
            Show::Traffic(traffic) => {
                self.roster().header.traffic.store(*traffic as u32, Ordering::Relaxed);
                self.announce();
            }
            Show::Fences { barrier } => self.show_fences(*barrier),
            Show::Free(freeing) => self.free(freeing),
            Show::Mend { group, slot } => {
                if let Some(cursors) = self.cursors(*group) {
                    mend_slot(cursors, *slot);
                }
            }
            Show::Bells => self.ring_bells_now(),
            Show::Everybody => self.ring_now(),
        }
    }

    fn free(&self, freeing: &Freeing) {
        let &Freeing { group, slot, lane, at, next, fate, gone } = freeing;
        let Some(cursors) = self.cursors(group) else { return };
        let held = if gone { held_by_gone(cursors, slot) } else { held_by(cursors, slot) };
        // Freed already, by a predecessor, or by the receiver that had its answer.
        let held = held.filter(|held| held.lane == lane && held.from.get() == at);
        let Some(held) = held else { return };
        if let Some(fate) = fate
            && let Err(error) = self.set_fate(lane, held.from, fate)
        {
            error!(%error, "cannot tell a sender that its message is a dead letter");
        }
        free_first(cursors, slot, &held, Position::new(next), gone);
        self.ring_freed(lane);
    }

    fn show_lane(&self, lane: &LaneInfo) {
        let index = usize::from(lane.ticket.index);
        let first = Position::new(lane.first_position);
        let tail = || self.lane(lane.ticket.index).map_or(first, |file| file.tail());
        for (group, cursors) in (0u8..).zip(self.all_cursors()) {
            if let Some(cell) = cursors.claims.get(index) {
                // Of what is not for it a group has received all.
                let ours = lane.only_for.is_none_or(|only| only == group);
                let position = if ours { first } else { tail() };
                let claim = Claim { position, winner: None };
                cell.claim.store(claim.to_word(), Ordering::Release);
            }
        }
        if let Some(entry) = self.roster().lanes.get(index) {
            entry.capacity_bytes.store(lane.capacity_bytes, Ordering::Relaxed);
            entry.pid.store(lane.sender.pid, Ordering::Relaxed);
            entry.uid.store(lane.sender.uid, Ordering::Relaxed);
            entry.gid.store(lane.sender.gid, Ordering::Relaxed);
            entry.doorstep.store(lane.doorstep.into(), Ordering::Relaxed);
            entry.priority.store(lane.priority.into(), Ordering::Relaxed);
        }
        self.show_lane_state(lane, SlotState::Active);
    }

    fn show_lane_state(&self, lane: &LaneInfo, state: SlotState) {
        if let Some(entry) = self.roster().lanes.get(usize::from(lane.ticket.index)) {
            let status = LaneStatus { generation: lane.ticket.generation, state };
            // PAIR(lanes): Release here, Acquire in libipc's `claim::Claimant::claim_from`; whoever sees the status
            // sees the entry and the claim written before it.
            entry.status.store(status.to_word(), Ordering::Release);
        }
        if state == SlotState::Free {
            // Its sender has closed it, and may have a ticket still; who acknowledged last may have died of it.
            self.ring_freed_at(lane.doorstep, lane.ticket.index);
        }
    }

    fn show_receiver(&self, group: u8, place: Place, identity: Identity) {
        let Place { slot, generation, inherited } = place;
        self.clear_sleeping(group, slot);
        if !inherited {
            self.clear_offered(group, slot);
        }
        if let Some(cell) = self.slot(group, slot) {
            if !inherited {
                cell.hold.store(0, Ordering::Relaxed);
                cell.end.store(0, Ordering::Relaxed);
                cell.attempts.store(0, Ordering::Relaxed);
                cell.marked.store(Marked::FIRST, Ordering::Relaxed);
            }
            cell.received.store(0, Ordering::Relaxed);
            cell.cpu.store(0, Ordering::Relaxed);
            cell.in_line.store(0, Ordering::Relaxed);
        }
        if let Some(entry) = self.roster().receivers.get(self.entry_of(group, slot)) {
            entry.pid.store(identity.pid, Ordering::Relaxed);
            entry.uid.store(identity.uid, Ordering::Relaxed);
            entry.gid.store(identity.gid, Ordering::Relaxed);
            entry.generation.store(generation, Ordering::Relaxed);
        }
        self.show_receiver_state(group, slot, SlotState::Active);
    }

    fn show_receiver_state(&self, group: u8, slot: u16, state: SlotState) {
        if let Some(entry) = self.roster().receivers.get(self.entry_of(group, slot)) {
            // PAIR(slots): Release here, Acquire in libipc's `ring::LaneWriter::refresh_limit`; whoever sees
            // the state sees the slot's words as they were prepared.
            entry.state.store(state as u32, Ordering::Release);
        }
    }

    fn show_counts(&self, counts: &Counts) {
        let header = &self.roster().header;
        header.lanes_high.store(counts.lanes_high, Ordering::Relaxed);
        for (entry, group) in header.groups.iter().zip(&counts.groups) {
            entry.receivers_high.store(group.receivers_high, Ordering::Relaxed);
            entry.receivers.store(group.receivers, Ordering::Relaxed);
        }
        header.receivers.store(counts.receivers, Ordering::Relaxed);
        header.senders.store(counts.senders, Ordering::Relaxed);
        header.senders_ever.store(counts.senders_ever, Ordering::Relaxed);
        let uids = header.receiver_uids.swap(counts.receiver_uids, Ordering::Relaxed);
        self.show_dropped(counts.groups.iter().map(|group| group.dropped));
        self.announce();
        if uids <= 1 && counts.receiver_uids > 1 {
            // Whoever sleeps without a bound does not know yet that it could be robbed.
            self.ring_now();
        }
    }

    fn show_dropped(&self, dropped: impl Iterator<Item = u64>) {
        for (entry, dropped) in self.roster().header.groups.iter().zip(dropped) {
            entry.dropped.store(dropped, Ordering::Relaxed);
        }
    }

    /// Members that went without fences run the barrier's other half now: from here on each of them either has seen
    /// the word or has passed a full barrier.
    fn show_fences(&self, barrier: bool) {
        // PAIR(fences): the store, then a barrier in every running process; the other end is libipc's
        // `park::light_barrier`.
        self.roster().header.fences.store(1, Ordering::SeqCst);
        self.announce();
        if barrier {
            futex::barrier();
        }
        // Whoever went to sleep between the two without a barrier of its own looks once more.
        self.ring_now();
    }

    /// Moves `changes` on, after whatever has changed.
    fn announce(&self) {
        // PAIR(changes): Release here, Acquire in libipc's `Sender::check` and `Receiver::check`; whoever
        // sees the new count sees what was stored before it.
        self.roster().header.changes.fetch_add(1, Ordering::Release);
    }

    fn ring_bells_now(&self) {
        for (_, doorstep) in &self.doorsteps {
            for bell in doorstep.header.bells.iter().take(self.limits.groups.into()) {
                ring_word(bell);
            }
        }
    }

    fn ring_now(&self) {
        self.ring_bells_now();
        for group in 0..self.limits.groups {
            self.ring_line(group);
        }
        for &index in self.lanes.keys() {
            self.ring_freed(index);
        }
    }

    /// Wakes those receivers of a group who sleep in line for the turn.
    fn ring_line(&self, group: u8) {
        let home = self.doorsteps.first().filter(|_| self.turns);
        let high = self.roster().header.groups.get(usize::from(group));
        let high = high.map_or(0, |entry| entry.receivers_high.load(Ordering::Relaxed) as usize);
        let words = home.into_iter().flat_map(|(_, words)| words.freed.iter());
        words.skip(self.entry_of(group, 0)).take(high).for_each(ring_word);
    }
}
