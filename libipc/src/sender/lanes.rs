//! The lanes of one sender: one a priority, made when it is first used. Where lanes are unbounded a full one
//! goes on in a larger one, and once that is almost empty again in a small one; where a group of receivers
//! drops the oldest, a full lane loses what that group has not claimed.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::Sender;
use crate::error::{Fault, RequestError, TrySendError};
use crate::lane::fate::{self, Fate};
use crate::lane::hints;
use crate::lane::layout::{LANE_CAPACITY_BYTES_MAX, LaneStatus, Limits, PRIORITIES, SlotState};
use crate::lane::memory::RingMemory;
use crate::lane::position::{GRANULE_BYTES, Position};
use crate::lane::ring::{LaneWriter, NoRoom};
use crate::lane::withdraw::Record;
use crate::lifeline::LOOK_EVERY;
use crate::link::NOT_HANDED_OVER;
use crate::protocol::{
    Answer, Buffering, DirectAddress, LaneInfo, LaneTicket, Order, Refusal, Request, SlowGroup,
};
use crate::regions::{Cursors, Doorstep, LaneWords, Roster};
use crate::session::{Answered, Errand, Wait, unexpected};
use crate::sync::AtomicU8;
use crate::sync::Ordering::{Acquire, Relaxed};
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

/// What the daemon was asked for a sender, and has not answered.
#[derive(Debug)]
pub(super) struct Owed {
    errand: Errand,
    /// If it is a lane of so many bytes: which one it replaces.
    ///
    /// **Invariant:** in that one nothing is published any more. Nobody knows when the daemon comes to the request; from
    /// then on it frees that lane as soon as it finds it empty.
    replaces: Option<(LaneTicket, u64)>,
    /// The lane that the daemon has given for it, and that could not be mapped: another is to go on from that.
    given: Option<LaneTicket>,
}

/// A lane as its sender has it.
#[derive(Debug)]
pub(super) struct SendLane {
    pub(super) info: LaneInfo,
    pub(super) writer: LaneWriter<RingMemory>,
    /// Where receivers are told that it may have something.
    pub(super) hint: hints::Place,
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
        doorstep: &Doorstep,
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
        let hint = hints::Place::of(&doorstep.hints, info.ticket.index);
        Ok(Self { info, writer, hint, fates: words.fates, shared: None })
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

/// Which lane the daemon has given, if that is what it has answered.
fn lane_given((answer, _): &Answered) -> Option<LaneTicket> {
    match answer {
        Answer::LaneAdded { lane } => Some(lane.ticket),
        _ => None,
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
            None => {
                self.take_up(Wait::until(None))?;
                let capacity = self.attributes.capacity_bytes;
                let given = self.given.iter().find(|(of, _)| *of == priority);
                let request = self.link.add_lane(priority, capacity, given.map(|(_, lane)| *lane));
                let added = self.link.session().request(&request)?;
                let ticket = lane_given(&added);
                let mapped = self.map_added(added, capacity);
                self.given.retain(|(of, _)| *of != priority);
                if mapped.is_err() {
                    self.given.extend(ticket.map(|lane| (priority, lane)));
                }
                mapped?
            }
        };
        self.others.push(std::mem::replace(&mut self.lane, lane));
        self.elsewhere.forget_room();
        self.refresh();
        Ok(())
    }

    /// The priority of messages that are sent now.
    #[must_use]
    pub fn priority(&self) -> u8 {
        self.lane.info.priority
    }

    /// Whether messages are to go on in a lane that the daemon has not given yet.
    pub(super) fn is_moving(&self) -> bool {
        let replaced = self.owed.as_ref().and_then(|owed| owed.replaces);
        replaced.is_some_and(|(lane, _)| lane == self.lane.info.ticket)
    }

    /// How long this sender may sleep: with an answer still to come it looks from time to time whether it has.
    pub(super) fn bound_sleep(&self, at_most: Option<Duration>) -> Option<Duration> {
        let at_most = self.lifeline.bound(at_most);
        let owed = self.owed.is_some().then_some(LOOK_EVERY);
        at_most.into_iter().chain(owed).min()
    }

    /// Finds room for a record of so many granules, or makes it.
    pub(super) fn provide_room(&mut self, granules: u64, wait: Wait) -> Result<(), TrySendError> {
        if self.is_moving() && !self.take_up(wait)? {
            return Err(TrySendError::Full);
        }
        if !self.shrink(wait)? {
            return Err(TrySendError::Full);
        }
        loop {
            match self.find_room(granules) {
                Err(TrySendError::Full) if self.attributes.buffering == Buffering::Unbounded => {
                    if !self.grow(granules, wait)? {
                        return Err(TrySendError::Full);
                    }
                }
                Err(TrySendError::Full) if self.drop_oldest(granules, wait)? => {}
                result => return result,
            }
        }
    }

    /// Goes on in a lane twice as large, or as large as the record needs. False: the daemon has not given it yet.
    fn grow(&mut self, granules: u64, wait: Wait) -> Result<bool, TrySendError> {
        let record_bytes = (granules * GRANULE_BYTES as u64).next_power_of_two();
        let doubled = (self.lane.info.capacity_bytes * 2).min(GROWN_BYTES_MAX);
        let capacity = doubled.max(self.attributes.capacity_bytes).max(record_bytes);
        self.move_on(capacity.min(LANE_CAPACITY_BYTES_MAX), wait).map_err(|error| self.why(error))
    }

    /// Why there is no help from the daemon: a mailbox that was closed or deleted meanwhile says so in the same words as
    /// ever.
    fn why(&mut self, error: RequestError) -> TrySendError {
        match error {
            RequestError::Refused(_) => self.check().err().unwrap_or_else(|| error.into()),
            error => error.into(),
        }
    }

    /// Leaves a lane that has grown and is almost empty for one of the mailbox's capacity. False: it has left it, and the
    /// daemon has not given another yet.
    fn shrink(&mut self, wait: Wait) -> Result<bool, TrySendError> {
        let capacity = self.attributes.capacity_bytes;
        if self.lane.info.capacity_bytes <= capacity {
            return Ok(true);
        }
        let in_use = self.lane.look(LaneWriter::in_use).map_err(|error| self.no_room(error))?;
        if in_use * GRANULE_BYTES as u64 <= capacity / SMALL_ENOUGH && self.daemon_answers(wait) {
            // Without a small one the large one serves as well.
            let _ = self.move_on(capacity, wait);
        }
        Ok(!self.is_moving())
    }

    /// Whether the daemon is there just now, so that what can wait may be asked of it.
    fn daemon_answers(&mut self, wait: Wait) -> bool {
        if !self.take_up(wait.briefly()).unwrap_or(false) {
            return false;
        }
        let nobody = Request::Find { of: DirectAddress::Pid(0) };
        self.ask(&nobody, None, wait.briefly()).map_or_else(
            |error| matches!(error, RequestError::Refused(_)),
            |answer| answer.is_some(),
        )
    }

    /// Goes on in another lane; this one is freed by the daemon once it has drained. False: the daemon has not given it yet.
    fn move_on(&mut self, capacity_bytes: u64, wait: Wait) -> Result<bool, RequestError> {
        let LaneInfo { priority, ticket, .. } = self.lane.info;
        if !self.take_up(wait)? {
            return Ok(false);
        }
        let request = self.link.add_lane(priority, capacity_bytes, Some(ticket));
        match self.ask(&request, Some((ticket, capacity_bytes)), wait) {
            Ok(Some(added)) => self.replace((ticket, capacity_bytes), added).map(|()| true),
            Ok(None) => {
                self.refresh();
                Ok(false)
            }
            Err(error) => Err(self.stop((ticket, capacity_bytes), None, error)),
        }
    }

    /// Goes on in a lane that the daemon has given, where messages went in another one before.
    fn replace(
        &mut self,
        replaces: (LaneTicket, u64),
        added: Answered,
    ) -> Result<(), RequestError> {
        let (replaced, capacity_bytes) = replaces;
        let given = lane_given(&added);
        let mut lane = match self.map_added(added, capacity_bytes) {
            Ok(lane) => lane,
            Err(error) => return Err(self.stop(replaces, given, error)),
        };
        if capacity_bytes > self.attributes.capacity_bytes {
            lane.writer.look_every(GROWN_LOOKS_EVERY);
        }
        // The tickets of the lane before keep what they share of it.
        if self.lane.info.ticket == replaced {
            self.lane = lane;
            self.elsewhere.forget_room();
        } else if let Some(place) =
            self.others.iter_mut().find(|other| other.info.ticket == replaced)
        {
            *place = lane;
        }
        self.settle_plainness();
        Ok(())
    }

    /// There is no lane to go on in. If the daemon has come to the request nothing is sent before there is: this lane is its
    /// to free.
    fn stop(
        &mut self,
        replaces: (LaneTicket, u64),
        given: Option<LaneTicket>,
        error: RequestError,
    ) -> RequestError {
        let may_be_done = self.link.session().is_broken() || !self.still_has(replaces.0);
        if given.is_some() || (!matches!(error, RequestError::Refused(_)) && may_be_done) {
            let (errand, replaces) = (Errand::default(), Some(replaces));
            self.owed = Some(Owed { errand, replaces, given });
        }
        self.refresh();
        error
    }

    /// Maps a lane that the daemon has given.
    fn map_added(
        &self,
        (answer, descriptors): Answered,
        capacity_bytes: u64,
    ) -> Result<SendLane, RequestError> {
        let Answer::LaneAdded { lane } = answer else { return Err(unexpected(&answer)) };
        let [fd] = <[OwnedFd; 1]>::try_from(descriptors)
            .map_err(|_| Fault::new("add a lane", NOT_HANDED_OVER))?;
        if lane.doorstep != self.lane.info.doorstep || lane.capacity_bytes != capacity_bytes {
            return Err(Fault::new("add a lane", "ipcd gave another one").into());
        }
        let cursors: Vec<_> = self.groups.iter().map(|(cursors, _)| cursors.clone()).collect();
        let order = self.attributes.order;
        Ok(SendLane::map(lane, fd, self.limits, order, &self.roster, &cursors, &self.doorstep)?)
    }

    /// Has the groups that drop the oldest lose what keeps this lane full; says whether any did, or has come
    /// further itself meanwhile.
    fn drop_oldest(&mut self, granules: u64, wait: Wait) -> Result<bool, TrySendError> {
        if self.owed.is_some() {
            // What was asked earlier may have made the room.
            return Ok(self.take_up(wait.briefly())?);
        }
        let mut dropped = false;
        for (index, number) in (0u8..).enumerate().take(self.group_list.len()) {
            let drops = self.group_list[index].slow == SlowGroup::DropOldest;
            let oldest = drops.then(|| self.lane.writer.oldest_of(index, granules)).flatten();
            let Some(oldest) = oldest else { continue };
            let request = self.link.drop_oldest(self.lane.info.ticket, number, oldest);
            match self.ask(&request, None, wait.briefly()) {
                Ok(Some((Answer::Dropped { .. }, _))) => dropped = true,
                Ok(Some((other, _))) => return Err(unexpected(&other).into()),
                // Without the daemon the group holds its senders back.
                Ok(None) => break,
                Err(RequestError::DaemonAway) => {}
                Err(error) => return Err(self.why(error)),
            }
        }
        Ok(dropped)
    }

    /// Asks the daemon; what it has not answered by then it owes. Nothing may be owed before.
    fn ask(
        &mut self,
        request: &Request,
        replaces: Option<(LaneTicket, u64)>,
        wait: Wait,
    ) -> Result<Option<Answered>, RequestError> {
        let mut errand = Errand::default();
        let answer = errand.run(self.link.session(), request, wait)?;
        self.owed = errand.is_under_way().then_some(Owed { errand, replaces, given: None });
        Ok(answer)
    }

    /// Takes up what the daemon owes; false if it still does.
    pub(super) fn take_up(&mut self, wait: Wait) -> Result<bool, RequestError> {
        let Some(mut owed) = self.owed.take() else { return Ok(true) };
        let answer = if owed.errand.is_under_way() {
            owed.errand.take_up(wait)
        } else if self.link.session().is_away() {
            Err(RequestError::DaemonAway)
        } else if let Some(request) = self.instead_of(&owed) {
            owed.errand.run(self.link.session(), &request, wait)
        } else {
            Err(Fault::new("go on in another lane", "it could not be mapped").into())
        };
        match (answer, owed.replaces) {
            (Ok(None), _) => {
                self.owed = Some(owed);
                return Ok(false);
            }
            (Ok(Some(added)), Some(replaces)) => self.replace(replaces, added)?,
            (Err(error), Some(replaces)) => {
                let error = self.stop(replaces, owed.given, error);
                if self.owed.is_some() {
                    return Err(error);
                }
                // What was refused, or never done, whoever still needs it asks for again, and hears why.
            }
            (_, None) => {}
        }
        self.refresh();
        Ok(true)
    }

    /// What the daemon is asked instead of a lane that it has given and that could not be mapped: one that goes on from it.
    fn instead_of(&self, owed: &Owed) -> Option<Request> {
        let (given, (replaced, capacity_bytes)) = (owed.given?, owed.replaces?);
        let mut lanes = std::iter::once(&self.lane).chain(&self.others);
        let lane = lanes.find(|lane| lane.info.ticket == replaced)?;
        Some(self.link.add_lane(lane.info.priority, capacity_bytes, Some(given)))
    }

    /// Whether a lane is this sender's, as the daemon has it.
    pub(super) fn still_has(&self, lane: LaneTicket) -> bool {
        self.roster.lanes.get(usize::from(lane.index)).is_some_and(|entry| {
            // PAIR(slots): Acquire here, Release in `ipcd`.
            let status = LaneStatus::from_word(entry.status.load(Acquire));
            status.state == SlotState::Active && status.generation == lane.generation
        })
    }
}
