//! The lanes of one sender: one a priority, made when it is first used. Where lanes are unbounded a full one
//! goes on in a larger one, and once that is almost empty again in a small one; where a group of receivers
//! drops the oldest, a full lane loses what that group has not claimed.

use std::os::fd::OwnedFd;

use super::Sender;
use crate::error::{Fault, RequestError, TrySendError};
use crate::lane::layout::{LANE_CAPACITY_BYTES_MAX, Limits, PRIORITIES};
use crate::lane::memory::RingMemory;
use crate::lane::position::{GRANULE_BYTES, Position};
use crate::lane::ring::LaneWriter;
use crate::protocol::{Buffering, LaneInfo, LaneTicket, Order, Refusal, SlowGroup};
use crate::regions::{Cursors, LaneWords, Roster};
use crate::sync::Ordering::Relaxed;
use crate::sys::clock::monotonic_nanos;
use crate::sys::mapping::Access;
use crate::sys::process;

/// A lane grows no further than this, in bytes, but for a longer message: a backlog that is larger takes
/// several, each of which goes back when it has drained.
const GROWN_BYTES_MAX: u64 = 64 << 20;
/// How often a lane that has grown looks whether it is still needed, in granules.
const GROWN_LOOKS_EVERY: u64 = 256;
/// A lane that has grown goes on in a small one when this part of the small one, or less, is in use.
const SMALL_ENOUGH: u64 = 4;

/// Maps a lane to write it.
pub(super) fn write(
    lane: &LaneInfo,
    fd: OwnedFd,
    limits: Limits,
    order: Order,
    roster: &Roster,
    cursors: &[Cursors],
) -> Result<LaneWriter<RingMemory>, Fault> {
    let step = "map a lane to write it";
    if lane.ticket.index >= limits.lanes_max {
        return Err(Fault::new(step, "ipcd gave a lane that the mailbox does not have"));
    }
    let (words, mapping) = LaneWords::map(fd, lane.capacity_bytes, Access::ReadWrite)
        .map_err(|error| Fault::new(step, error))?;
    words.header.cpu.store(process::processor(), Relaxed);
    let memory = RingMemory::new(&mapping, lane.capacity_bytes);
    let first = Position::new(lane.first_position);
    let (roster, cursors) = (roster.clone(), cursors.to_vec());
    let mut writer =
        LaneWriter::new(memory, words.header, roster, cursors, lane.ticket.index, first);
    if order == Order::Arrival {
        writer.stamp_with(monotonic_nanos);
    }
    Ok(writer)
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
        if priority == self.lane.priority {
            return Ok(());
        }
        let known = self.others.iter().position(|(lane, ..)| lane.priority == priority);
        let index = match known {
            Some(index) => index,
            None => {
                let (lane, writer) =
                    self.add_lane(priority, self.attributes.capacity_bytes, None)?;
                self.others.push((lane, writer, None));
                self.others.len() - 1
            }
        };
        let (lane, writer, sent_lane) = &mut self.others[index];
        std::mem::swap(lane, &mut self.lane);
        std::mem::swap(writer, &mut self.writer);
        std::mem::swap(sent_lane, &mut self.sent_lane);
        self.elsewhere.forget_room();
        Ok(())
    }

    /// The priority of messages that are sent now.
    #[must_use]
    pub fn priority(&self) -> u8 {
        self.lane.priority
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
        let doubled = (self.lane.capacity_bytes * 2).min(GROWN_BYTES_MAX);
        let capacity = doubled.max(self.attributes.capacity_bytes).max(record_bytes);
        self.move_on(capacity.min(LANE_CAPACITY_BYTES_MAX))?;
        self.writer.look_every(GROWN_LOOKS_EVERY);
        Ok(())
    }

    /// Leaves a lane that has grown and is almost empty for one of the mailbox's capacity.
    fn shrink(&mut self) -> Result<(), TrySendError> {
        let capacity = self.attributes.capacity_bytes;
        if self.lane.capacity_bytes <= capacity {
            return Ok(());
        }
        let in_use = {
            let _lock = self.sent_lane.as_ref().map(|lane| lane.lock());
            self.writer.in_use()
        };
        let in_use = in_use.map_err(|error| self.no_room(error))?;
        if in_use * GRANULE_BYTES as u64 <= capacity / SMALL_ENOUGH {
            // Without a small one the large one serves as well.
            let _ = self.move_on(capacity);
        }
        Ok(())
    }

    /// Goes on in another lane; this one is freed by the daemon once it has drained.
    fn move_on(&mut self, capacity_bytes: u64) -> Result<(), RequestError> {
        let (lane, writer) =
            self.add_lane(self.lane.priority, capacity_bytes, Some(self.lane.ticket))?;
        self.lane = lane;
        self.writer = writer;
        // Its tickets keep what they share.
        self.sent_lane = None;
        self.elsewhere.forget_room();
        Ok(())
    }

    fn add_lane(
        &self,
        priority: u8,
        capacity_bytes: u64,
        replaces: Option<LaneTicket>,
    ) -> Result<(LaneInfo, LaneWriter<RingMemory>), RequestError> {
        let (lane, fd) = self.link.add_lane(priority, capacity_bytes, replaces)?;
        if lane.doorstep != self.lane.doorstep || lane.capacity_bytes != capacity_bytes {
            return Err(Fault::new("add a lane", "ipcd gave another one").into());
        }
        let cursors: Vec<_> = self.groups.iter().map(|(cursors, _)| cursors.clone()).collect();
        let writer = write(&lane, fd, self.limits, self.attributes.order, &self.roster, &cursors)?;
        Ok((lane, writer))
    }

    /// Has the groups that drop the oldest lose what keeps this lane full; says whether any did, or has come
    /// further itself meanwhile.
    fn drop_oldest(&mut self, granules: u64) -> Result<bool, TrySendError> {
        let mut dropped = false;
        for (index, group) in (0u8..).zip(&self.group_list) {
            if group.slow == SlowGroup::DropOldest
                && let Some(oldest) = self.writer.oldest_of(index.into(), granules)
            {
                match self.link.drop_oldest(self.lane.ticket, index, oldest) {
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
