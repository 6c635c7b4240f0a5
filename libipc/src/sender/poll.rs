//! A sender whose room is waited for elsewhere: on its descriptor, or in a [`crate::WaitSet`].

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use super::Sender;
use crate::error::{Fault, TrySendError};
use crate::lane::position::Position;
#[cfg(feature = "tokio")]
use crate::lane::withdraw::{Progress, Record};
use crate::session::Wait;
use crate::sleeper::{RoomSleeper, Sleeper};
use crate::sync::Ordering::Acquire;
use crate::watch::Watch;

/// What a sender knows of those who wait for its room elsewhere.
#[derive(Debug, Default)]
pub(super) struct Elsewhere {
    /// Its descriptor, once it was asked for.
    watch: Option<Watch>,
    /// The room that was last found missing, in granules, and the lane's tail then.
    missing: Option<(u64, Position)>,
    /// The granules for which the descriptor is armed; 0 if for an acknowledgement.
    armed_for: u64,
}

impl Elsewhere {
    /// Messages go in another lane from now on: what was waited for is of no use any more.
    pub(super) fn forget_room(&mut self) {
        self.disarm();
        self.missing = None;
    }

    /// Whether a watcher sleeps for the sender.
    #[cfg(feature = "tokio")]
    pub(super) fn is_armed(&self) -> bool {
        self.watch.as_ref().is_some_and(Watch::is_armed)
    }

    /// Before the sender sleeps by itself.
    pub(super) fn disarm(&self) {
        if let Some(watch) = &self.watch {
            watch.disarm();
        }
    }
}

impl Sender {
    /// A descriptor for `poll`, `epoll` and event loops: *readable* while [`Self::try_send`] may have another
    /// answer than that the lane is full.
    ///
    /// It is readable from the beginning, and stays so until `try_send` has answered
    /// [`TrySendError::Full`]; it becomes readable again when there may be room for that very message, or
    /// something else is to be said. Each such answer is followed by one wake-up at most. Only wait on it:
    /// nothing is to be read from it or written to it. It is the same at each call, and lives as long as the sender.
    ///
    /// # Errors
    /// [`Fault`]: no descriptor is to be had, or this is the child of a fork.
    pub fn poll_fd(&mut self) -> Result<BorrowedFd<'_>, Fault> {
        if !self.guard.is_original() {
            return Err(Fault::new("make a descriptor to poll", TrySendError::Forked));
        }
        Watch::made_in(&mut self.elsewhere.watch, self.link.watchers()).map(Watch::fd)
    }

    /// As [`Sender::send_thoroughly`]; a polled sender that finds no room is armed.
    #[cold]
    pub(super) fn send_or_arm(&mut self, message: &[u8]) -> Result<(), TrySendError> {
        if self.rendezvous {
            return self.try_to_meet(message);
        }
        loop {
            let result = self.send_thoroughly(message);
            if !matches!(result, Err(TrySendError::Full)) || self.arm(message.len())? {
                return result;
            }
        }
    }

    /// Notes that there is no room for a message of so many bytes. False if there is after all.
    pub(super) fn arm(&mut self, len: usize) -> Result<bool, Fault> {
        let granules = self.lane.writer.granules(len);
        let first = self.elsewhere.missing != Some((granules, self.lane.writer.tail()));
        self.elsewhere.missing = Some((granules, self.lane.writer.tail()));
        let Some(watch) = &self.elsewhere.watch else { return Ok(true) };
        if self.elsewhere.armed_for != granules {
            watch.disarm();
        } else if watch.is_armed() {
            return Ok(true);
        }
        watch.come();
        self.elsewhere.armed_for = granules;
        self.note_processor();
        let sleeper = self.room_sleeper(granules, first);
        let moving = self.is_moving();
        let (roster, lane, seen) = (&self.roster.header, &mut self.lane, self.seen_changes);
        let look =
            || (!moving && lane.may_have_room(granules)) || roster.changes.load(Acquire) != seen;
        watch.arm(sleeper, look)
    }

    /// Has the descriptor tell when a record may have been acknowledged, or something else is to be seen to. False if
    /// that is so already.
    #[cfg(feature = "tokio")]
    pub(super) fn arm_for_acknowledgement(&mut self, record: Record) -> Result<bool, Fault> {
        self.note_processor();
        let sleeper = self.freed_sleeper(record.end(), None);
        let watch = Watch::made_in(&mut self.elsewhere.watch, self.link.watchers())?;
        // A wait for room that was given up may have left it armed.
        watch.disarm();
        watch.come();
        self.elsewhere.armed_for = 0;
        let (roster, writer, seen) = (&self.roster.header, &self.lane.writer, self.seen_changes);
        let look =
            || writer.progress(record) == Progress::Done || roster.changes.load(Acquire) != seen;
        watch.arm(sleeper, look)
    }

    fn room_sleeper(&self, granules: u64, first: bool) -> Arc<RoomSleeper> {
        let (wanted, at_most) = self.lane.wanted(granules, first);
        self.freed_sleeper(wanted, at_most)
    }

    /// Who sleeps until the lane's claim has come as far as `wanted`, or the mailbox has changed.
    fn freed_sleeper(&self, wanted: Position, at_most: Option<Duration>) -> Arc<RoomSleeper> {
        let index = usize::from(self.lane.writer.lane());
        Arc::new(RoomSleeper {
            roster: self.roster.clone(),
            lane: self.lane.writer.shared_header(),
            freed: self.doorstep.freed.element(index),
            wanted,
            at_most: self.bound_sleep(at_most),
        })
    }

    /// The message that a [`crate::WaitSet`] waits with: the one that last found no room, or any.
    fn waits_with(&self) -> u64 {
        self.elsewhere
            .missing
            .map_or_else(|| self.lane.writer.granules(0), |(granules, _)| granules)
    }

    /// For a [`crate::WaitSet`]: whether `try_send` would have another answer than that the lane is full.
    pub(crate) fn has_news(&mut self) -> bool {
        let granules = self.waits_with();
        if self.has_lost_daemon() || self.check().is_err() {
            return true;
        }
        let moving = self.is_moving();
        match self.take_up(Wait::not()) {
            Ok(false) if moving => false,
            Ok(_) => moving || self.lane.may_have_room(granules),
            Err(_) => true,
        }
    }

    /// For a [`crate::WaitSet`] that is about to sleep for this sender.
    pub(crate) fn sleeper(&mut self) -> Arc<dyn Sleeper> {
        self.elsewhere.disarm();
        self.note_processor();
        self.room_sleeper(self.waits_with(), false)
    }

    /// Whether spinning for this sender may pay.
    pub(crate) fn peer_runs_elsewhere(&self) -> bool {
        self.receiver_runs_elsewhere()
    }
}
