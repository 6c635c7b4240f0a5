//! The lanes of one sender: one a priority, made when it is first used. Where lanes are unbounded a full one
//! goes on in a larger one, and once that is almost empty again in a small one; where a group of receivers
//! drops the oldest, a full lane loses what that group has not claimed.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::Sender;
use crate::error::{Fault, RequestError, TrySendError};
use crate::lane::fate::{self, Fate};
use crate::lane::layout::{LANE_CAPACITY_BYTES_MAX, Limits, PRIORITIES};
use crate::lane::memory::RingMemory;
use crate::lane::position::{GRANULE_BYTES, Position};
use crate::lane::ring::{LaneWriter, NoRoom};
use crate::lane::withdraw::Record;
use crate::protocol::{Buffering, LaneInfo, LaneTicket, Order, Refusal, SlowGroup};
use crate::regions::{Cursors, LaneWords, Roster};
use crate::sync::AtomicU8;
use crate::sync::Ordering::Relaxed;
use crate::sys::clock::monotonic_nanos;
use crate::sys::mapping::{Access, Shared};
use crate::sys::process;
use crate::ticket::SentLane;

/// A lane grows no further than this, in bytes, but for a longer message: a backlog that is larger takes
/// several, each of which goes back when it has drained.
const GROWN_BYTES_MAX: u64 = 64 << 20;
/// How often a lane that has grown looks whether it is still needed, in granules.
const GROWN_LOOKS_EVERY: u64 = 256;
/// A lane that has grown goes on in a small one when this part of the small one, or less, is in use.
const SMALL_ENOUGH: u64 = 4;

/// How long a sender sleeps at most for more room than its message needs.
const SLEEP_FOR_PLENTY: Duration = Duration::from_millis(10);

/// A lane as its sender has it.
#[derive(Debug)]
pub(super) struct SendLane {
    pub(super) info: LaneInfo,
    pub(super) writer: LaneWriter<RingMemory>,
    /// What became of its records that were not acknowledged.
    pub(super) fates: Shared<[AtomicU8]>,
    /// What it shares with tickets, once there was one.
    pub(super) shared: Option<Arc<SentLane>>,
}

impl SendLane {
    /// Maps a lane to write it.
    pub(super) fn map(
        info: LaneInfo,
        fd: OwnedFd,
        limits: Limits,
        order: Order,
        roster: &Roster,
        cursors: &[Cursors],
    ) -> Result<Self, Fault> {
        let step = "map a lane to write it";
        if info.ticket.index >= limits.lanes_max {
            return Err(Fault::new(step, "ipcd gave a lane that the mailbox does not have"));
        }
        let (words, mapping) = LaneWords::map(fd, info.capacity_bytes, Access::ReadWrite)
            .map_err(|error| Fault::new(step, error))?;
        words.header.cpu.store(process::processor(), Relaxed);
        let memory = RingMemory::new(&mapping, info.capacity_bytes);
        let first = Position::new(info.first_position);
        let (roster, cursors) = (roster.clone(), cursors.to_vec());
        let mut writer =
            LaneWriter::new(memory, words.header, roster, cursors, info.ticket.index, first);
        if order == Order::Arrival {
            writer.stamp_with(monotonic_nanos);
        }
        Ok(Self { info, writer, fates: words.fates, shared: None })
    }

    /// Looks at what receivers have done, with withdrawals kept out: what is being withdrawn keeps its room until
    /// that is settled. What is to be remembered of the room that is free now is remembered.
    fn look<T>(&mut self, look: impl FnOnce(&mut LaneWriter<RingMemory>) -> T) -> T {
        let Some(shared) = &self.shared else { return look(&mut self.writer) };
        let lock = shared.lock();
        let seen = look(&mut self.writer);
        drop(lock);
        shared.settle_before(self.writer.limit());
        seen
    }

    /// The next record is one of which its sender wants to hear.
    pub(super) fn expect_fate(&self) {
        fate::clear(&self.fates, self.writer.tail());
    }

    /// What became of a record that is freed, where it was not acknowledged.
    pub(super) fn fate(&self, record: Record) -> Option<Fate> {
        let entry = &self.writer.roster().lanes[usize::from(self.writer.lane())];
        fate::read(entry, &self.fates, record.at)
    }

    /// Looks for room for a record of so many granules.
    pub(super) fn find_room(&mut self, granules: u64) -> Result<(), NoRoom> {
        self.look(|writer| writer.find_room(granules))
    }

    /// Whether there is room, or something to be said of it.
    pub(super) fn may_have_room(&mut self, granules: u64) -> bool {
        !matches!(self.find_room(granules), Err(NoRoom::Full))
    }

    /// How far the claim is to come before a sender that sleeps for room is woken, and how long it sleeps at
    /// most: the first time for plenty, but not for long; then for what the message needs.
    pub(super) fn wanted(&self, granules: u64, first: bool) -> (Position, Option<Duration>) {
        if first {
            (self.writer.wanted_claim(granules), Some(SLEEP_FOR_PLENTY))
        } else {
            (self.writer.least_claim(granules), None)
        }
    }
}

impl Sender {
    /// Messages that are sent from now on have this priority: 0, the lowest and what a sender begins with, to
    /// 31. Receivers take the highest first; messages of one sender and one priority stay in order. The first
    /// use of a priority asks the daemon for a lane.
    ///
    /// # Errors
    /// [`RequestError::Refused`]: no such priority, the mailbox has no lane left, a quota; then the priority
    /// stays what it was.
    pub fn set_priority(&mut self, priority: u8) -> Result<(), RequestError> {
        if !self.guard.is_original() {
            return Err(RequestError::Forked);
        }
        if priority >= PRIORITIES {
            return Err(RequestError::Refused(Refusal::InvalidAttribute {
                attribute: "priority".into(),
                value: priority.into(),
                allowed: format!("0 to {}", PRIORITIES - 1),
            }));
        }
        if priority == self.lane.info.priority {
            return Ok(());
        }
        let known = self.others.iter().position(|lane| lane.info.priority == priority);
        let lane = match known {
            Some(index) => self.others.swap_remove(index),
            None => self.add_lane(priority, self.attributes.capacity_bytes, None)?,
        };
        self.others.push(std::mem::replace(&mut self.lane, lane));
        self.elsewhere.forget_room();
        Ok(())
    }

    /// The priority of messages that are sent now.
    #[must_use]
    pub fn priority(&self) -> u8 {
        self.lane.info.priority
    }

    /// Finds room for a record of so many granules, or makes it.
    pub(super) fn provide_room(&mut self, granules: u64) -> Result<(), TrySendError> {
        self.shrink()?;
        loop {
            match self.find_room(granules) {
                Err(TrySendError::Full) if self.attributes.buffering == Buffering::Unbounded => {
                    self.grow(granules)?;
                }
                Err(TrySendError::Full) if self.drop_oldest(granules)? => {}
                result => return result,
            }
        }
    }

    /// Goes on in a lane twice as large, or as large as the record needs.
    fn grow(&mut self, granules: u64) -> Result<(), TrySendError> {
        let record_bytes = (granules * GRANULE_BYTES as u64).next_power_of_two();
        let doubled = (self.lane.info.capacity_bytes * 2).min(GROWN_BYTES_MAX);
        let capacity = doubled.max(self.attributes.capacity_bytes).max(record_bytes);
        self.move_on(capacity.min(LANE_CAPACITY_BYTES_MAX))?;
        self.lane.writer.look_every(GROWN_LOOKS_EVERY);
        Ok(())
    }

    /// Leaves a lane that has grown and is almost empty for one of the mailbox's capacity.
    fn shrink(&mut self) -> Result<(), TrySendError> {
        let capacity = self.attributes.capacity_bytes;
        if self.lane.info.capacity_bytes <= capacity {
            return Ok(());
        }
        let in_use = self.lane.look(LaneWriter::in_use).map_err(|error| self.no_room(error))?;
        if in_use * GRANULE_BYTES as u64 <= capacity / SMALL_ENOUGH {
            // Without a small one the large one serves as well.
            let _ = self.move_on(capacity);
        }
        Ok(())
    }

    /// Goes on in another lane; this one is freed by the daemon once it has drained.
    fn move_on(&mut self, capacity_bytes: u64) -> Result<(), RequestError> {
        let LaneInfo { priority, ticket, .. } = self.lane.info;
        // The tickets of the lane before keep what they share of it.
        self.lane = self.add_lane(priority, capacity_bytes, Some(ticket))?;
        self.elsewhere.forget_room();
        Ok(())
    }

    fn add_lane(
        &self,
        priority: u8,
        capacity_bytes: u64,
        replaces: Option<LaneTicket>,
    ) -> Result<SendLane, RequestError> {
        let (lane, fd) = self.link.add_lane(priority, capacity_bytes, replaces)?;
        if lane.doorstep != self.lane.info.doorstep || lane.capacity_bytes != capacity_bytes {
            return Err(Fault::new("add a lane", "ipcd gave another one").into());
        }
        let cursors: Vec<_> = self.groups.iter().map(|(cursors, _)| cursors.clone()).collect();
        let order = self.attributes.order;
        Ok(SendLane::map(lane, fd, self.limits, order, &self.roster, &cursors)?)
    }

    /// Has the groups that drop the oldest lose what keeps this lane full; says whether any did, or has come
    /// further itself meanwhile.
    fn drop_oldest(&mut self, granules: u64) -> Result<bool, TrySendError> {
        let mut dropped = false;
        for (index, group) in (0u8..).zip(&self.group_list) {
            if group.slow == SlowGroup::DropOldest
                && let Some(oldest) = self.lane.writer.oldest_of(index.into(), granules)
            {
                match self.link.drop_oldest(self.lane.info.ticket, index, oldest) {
                    Ok(_) => dropped = true,
                    // Without the daemon the group holds its senders back.
                    Err(RequestError::DaemonAway) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(dropped)
    }
}
