//! The sending end of a mailbox.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Corrupt, Fault, RequestError, SendError, TrySendError};
use crate::lane::hints;
use crate::lane::layout::{Limits, RosterHeader, SlotState, Traffic};
use crate::lane::park::{self, Rung, SpinBudget, Woke};
use crate::lane::ring::NoRoom;
use crate::lifeline::Lifeline;
use crate::link::{Link, NOT_OPENED, map_roster};
use crate::protocol::{Buffering, Group, LaneTicket, MailboxAttributes, Opened, OpenedRole};
use crate::regions::{Cursors, Doorstep, Roster};
use crate::session::{Session, Wait};
use crate::sync::Ordering::{Acquire, Relaxed};
use crate::sync::{AtomicU32, spin_hint};
use crate::sys::futex::Futex;
use crate::sys::mapping::Access;
use crate::sys::process::{self, ForkGuard};

mod batch;
mod call;
mod ending;
mod lanes;
#[cfg(feature = "tokio")]
pub(crate) mod meeting;
mod poll;
mod rendezvous;
mod reserve;
mod tracked;

pub use call::Reply;
pub use reserve::Reservation;

/// Pauses between two looks of a sender that waits for room: it must leave the receivers' cache lines
/// alone, or it slows them down tenfold.
const PAUSES_BETWEEN_LOOKS: u32 = 100;

/// Room for which a sender that spins anyway waits a little longer, in granules.
const PLENTY_GRANULES: u64 = 1024;
/// Looks after which a spinning sender contents itself with the room there is.
const LOOKS_FOR_PLENTY: u32 = 4;

/// Sends messages into one mailbox, through a lane of its own. One process's, one thread's at a time.
///
/// Messages of one sender are received in the order in which they were sent.
#[derive(Debug)]
pub struct Sender {
    /// The lane in which messages go now.
    lane: lanes::SendLane,
    /// The lanes of other priorities.
    others: Vec<lanes::SendLane>,
    attributes: MailboxAttributes,
    limits: Limits,
    group_list: Vec<Group>,
    roster: Roster,
    /// The cursors of every group, and what is remembered of its sleepers.
    groups: Box<[(Cursors, Rung)]>,
    doorstep: Doorstep,
    /// Words of sleeping bits that the mailbox's receivers need.
    sleeping_words: usize,
    /// The roster's `changes` when `state` was read.
    seen_changes: u32,
    traffic: Traffic,
    /// Nothing keeps messages from being sent, as far as the roster tells, and nothing is to be done behind it.
    ready: bool,
    /// `seen_changes` if so and messages are plain; else a value that it never has.
    plain_changes: u64,
    /// Who must have the mailbox open to receive.
    required: ending::Required,
    /// Who of them has not.
    missing: Option<ending::Missing>,
    /// The daemon has ended the session, though this process lives.
    has_lost_lane: bool,
    /// The daemon, where sends end with it.
    lifeline: Lifeline,
    /// Nothing is buffered: a send waits for the acknowledgement.
    rendezvous: bool,
    message_bytes_max: usize,
    spin: SpinBudget,
    elsewhere: poll::Elsewhere,
    guard: ForkGuard,
    /// What the daemon was asked, and has not answered.
    owed: Option<lanes::Owed>,
    /// Lanes of other priorities that it has given and that could not be mapped.
    given: Vec<(u8, LaneTicket)>,
    /// What its calls need.
    calls: call::WayBack,
    link: Link,
}

impl Sender {
    pub(crate) fn new(
        session: Arc<Session>,
        opened: Opened,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Self, RequestError> {
        let link = Link::new(session, opened.link);
        let fault = |why: &'static str| Fault::new("open a mailbox to send", why);
        let OpenedRole::Send { lane } = opened.role else {
            return Err(fault(NOT_OPENED).into());
        };
        let attributes = opened.attributes;
        let groups = attributes.limits(opened.groups.len()).groups.into();
        let mut descriptors = descriptors.into_iter();
        let (roster, cursors) = (descriptors.next(), descriptors.by_ref().take(groups).collect());
        let (cursors, rest): (Vec<_>, Vec<_>) = (cursors, descriptors.collect());
        let (Some(roster), Ok([lane_fd, doorstep])) = (roster, <[OwnedFd; 2]>::try_from(rest))
        else {
            return Err(fault(NOT_OPENED).into());
        };
        let step = "map a mailbox to send";
        let (limits, roster) = map_roster(step, &opened, roster)?;
        let map = |error| Fault::new(step, error);
        let cursors = cursors.into_iter().map(|fd| Cursors::map(fd, limits, Access::ReadOnly));
        let cursors = cursors.collect::<Result<Vec<_>, _>>().map_err(map)?;
        let doorstep = Doorstep::map(doorstep, limits, Access::ReadWrite).map_err(map)?;
        let order = attributes.order;
        let lane =
            lanes::SendLane::map(lane, lane_fd, limits, order, &roster, &cursors, &doorstep)?;
        let mut sender = Self {
            lane,
            others: Vec::new(),
            attributes,
            limits,
            group_list: opened.groups,
            groups: cursors.into_iter().map(|cursors| (cursors, Rung::default())).collect(),
            doorstep,
            sleeping_words: usize::from(limits.receivers_max).div_ceil(64),
            seen_changes: 0,
            traffic: Traffic::Open,
            ready: false,
            plain_changes: u64::MAX,
            required: ending::Required::default(),
            missing: None,
            has_lost_lane: false,
            lifeline: Lifeline::default(),
            rendezvous: attributes.buffering == Buffering::Rendezvous,
            message_bytes_max: usize::try_from(attributes.message_bytes_max())
                .unwrap_or(usize::MAX),
            spin: SpinBudget::new(SpinBudget::DEFAULT),
            elsewhere: poll::Elsewhere::default(),
            guard: ForkGuard::get(),
            roster,
            owed: None,
            given: Vec::new(),
            calls: call::WayBack::default(),
            link,
        };
        sender.refresh();
        Ok(sender)
    }

    /// Longest message in bytes: the lane's capacity less 16, or where lanes grow 1 GiB less 16.
    #[must_use]
    pub fn message_bytes_max(&self) -> usize {
        self.message_bytes_max
    }

    /// How long a send may spin for room before it sleeps; zero never spins.
    pub fn set_spin_max(&mut self, max: Duration) {
        self.spin = SpinBudget::new(max);
    }

    /// Sends if there is room. Never waits, but for a daemon that has to help and does not answer: 100 ms at most, then
    /// the lane counts as full.
    ///
    /// # Errors
    /// [`TrySendError`]; the message is still the caller's.
    #[inline(always)]
    pub fn try_send(&mut self, message: &[u8]) -> Result<(), TrySendError> {
        if self.send_quickly(message) { Ok(()) } else { self.send_or_arm(message) }
    }

    /// Sends; waits for room if there is none.
    ///
    /// # Errors
    /// [`SendError`], never `TimedOut`; the message is still the caller's.
    #[inline(always)]
    pub fn send(&mut self, message: &[u8]) -> Result<(), SendError> {
        if self.send_quickly(message) { Ok(()) } else { self.send_slowly(message, None) }
    }

    /// Sends; waits for room until the deadline if there is none, also where the daemon has to make it.
    ///
    /// # Errors
    /// [`SendError`]; the message is still the caller's.
    #[inline(always)]
    pub fn send_deadline(&mut self, message: &[u8], deadline: Instant) -> Result<(), SendError> {
        if self.send_quickly(message) { Ok(()) } else { self.send_slowly(message, Some(deadline)) }
    }

    /// Sends if nothing has to be seen to first. Whatever it does not do, [`Self::send_thoroughly`] does.
    #[inline(always)]
    pub(crate) fn send_quickly(&mut self, message: &[u8]) -> bool {
        // PAIR(changes): Acquire here, Release in `ipcd` behind every change of the roster.
        let plain = self.guard.is_original()
            && u64::from(self.roster.header.changes.load(Acquire)) == self.plain_changes;
        if plain && self.lane.writer.publish_plainly(message) {
            self.announce_plainly();
            return true;
        }
        !plain && self.send_less_quickly(message)
    }

    /// The same where messages are stamped, counted with others, of a priority, or for several groups.
    #[inline(never)]
    fn send_less_quickly(&mut self, message: &[u8]) -> bool {
        let can = self.is_undisturbed() && self.fits(message.len());
        if can {
            self.publish(message);
        }
        can
    }

    #[cold]
    fn send_thoroughly(&mut self, message: &[u8]) -> Result<(), TrySendError> {
        self.make_room(message.len(), Wait::BRIEFLY)?;
        self.publish(message);
        Ok(())
    }

    #[cold]
    fn send_slowly(&mut self, message: &[u8], deadline: Option<Instant>) -> Result<(), SendError> {
        if self.rendezvous {
            return self.meet(message, deadline);
        }
        self.wait_for_room(message.len(), deadline)?;
        self.publish(message);
        Ok(())
    }

    /// Whether nothing has to be seen to before something is sent.
    #[inline]
    fn is_undisturbed(&self) -> bool {
        self.guard.is_original()
            // PAIR(changes): Acquire here, Release in `ipcd` behind every change of the roster.
            && self.roster.header.changes.load(Acquire) == self.seen_changes
            && self.ready
    }

    /// Whether a message may be so long, and there is room for it, as far as is known.
    #[inline]
    fn fits(&self, len: usize) -> bool {
        len <= self.message_bytes_max && self.lane.writer.has_room(self.lane.writer.granules(len))
    }

    /// Sees to it that a message of this length can be written, if that can be without waiting for receivers.
    #[cold]
    fn make_room(&mut self, len: usize, wait: Wait) -> Result<(), TrySendError> {
        self.check()?;
        if len > self.message_bytes_max {
            return Err(TrySendError::TooLong { len, max: self.message_bytes_max });
        }
        let granules = self.lane.writer.granules(len);
        if !self.is_moving() && self.lane.writer.has_room(granules) {
            return Ok(());
        }
        match self.provide_room(granules, wait) {
            Err(TrySendError::Full) => Err(self.why_no_room()),
            result => result,
        }
    }

    #[inline]
    fn publish(&mut self, message: &[u8]) {
        self.lane.writer.publish(message);
        self.announce();
    }

    /// A plain message was published.
    #[inline(always)]
    fn announce_plainly(&mut self) {
        self.lane.hint.give();
        let [(cursors, _)] = &*self.groups else { return self.announce() };
        park::light_barrier_of_sender(&self.roster.header, &cursors.header);
        if park::anyone_sleeps(&cursors.header, self.sleeping_words) {
            self.ring();
        }
    }

    /// A plain message was published, and the only group has somebody who sleeps.
    #[cold]
    fn ring(&mut self) {
        let [(cursors, rung)] = &mut *self.groups else { return };
        let bell = &self.doorstep.header.bells[0];
        if park::ring_once(&cursors.header, self.sleeping_words, rung, bell, &Futex) {
            self.note_processor();
        }
    }

    /// Something was published.
    #[inline(never)]
    fn announce(&mut self) {
        if self.lane.info.priority == 0 {
            self.lane.hint.give();
        } else {
            // What has a priority must not be overlooked for what has a lower one.
            hints::give_surely(&self.doorstep.hints, self.lane.writer.lane());
        }
        let (roster, words) = (&self.roster.header, self.sleeping_words);
        let bells = &self.doorstep.header.bells;
        let rang = match &mut *self.groups {
            [(cursors, rung)] => {
                park::announce(roster, &cursors.header, words, rung, &bells[0], &Futex)
            }
            groups => announce_to_all(roster, groups, words, bells),
        };
        if rang {
            self.note_processor();
        }
    }

    /// What must be true before anything is sent: read anew only when the roster has changed.
    fn check(&mut self) -> Result<(), TrySendError> {
        if !self.guard.is_original() {
            return Err(TrySendError::Forked);
        }
        if self.roster.header.changes.load(Acquire) != self.seen_changes {
            self.refresh();
        }
        match self.traffic {
            // The session is over: the lane is the daemon's to free, or another's by now.
            Traffic::Open if self.has_lost_lane => Err(TrySendError::DaemonAway),
            Traffic::Open => self.missing.map_or(Ok(()), |missing| Err(missing.into())),
            Traffic::Closed | Traffic::Draining => Err(TrySendError::Closed),
            Traffic::Deleted => Err(TrySendError::Deleted),
            Traffic::OwnerGone => Err(TrySendError::OwnerGone),
        }
    }

    #[cold]
    fn refresh(&mut self) {
        self.seen_changes = self.roster.header.changes.load(Acquire);
        self.traffic = Traffic::from_word(self.roster.header.traffic.load(Relaxed));
        self.missing = self.required.missing(&self.roster, self.limits);
        // A lane that it is to leave may be gone, as the daemon has it, before the answer is here.
        self.has_lost_lane = !self.is_moving() && !self.still_has(self.lane.info.ticket);
        let open = self.traffic == Traffic::Open && self.missing.is_none() && !self.has_lost_lane;
        self.ready = open && !self.rendezvous && !self.is_moving();
        self.settle_plainness();
    }

    /// Whether a message need only be written and announced.
    fn settle_plainness(&mut self) {
        let alone = self.groups.len() == 1 && self.lane.info.priority == 0;
        let plain = self.ready && alone && self.lane.writer.is_plain();
        self.plain_changes = if plain { self.seen_changes.into() } else { u64::MAX };
    }

    #[cold]
    fn find_room(&mut self, granules: u64) -> Result<(), TrySendError> {
        self.lane.find_room(granules).map_err(|error| self.no_room(error))
    }

    fn no_room(&self, error: NoRoom) -> TrySendError {
        match error {
            NoRoom::Full => TrySendError::Full,
            NoRoom::Corrupt => {
                let lane = self.lane.writer.lane();
                TrySendError::Corrupt(Corrupt { what: "the claim", lane, peer: None })
            }
            NoRoom::Memory(error) => Fault::new("get memory for a message", error).into(),
        }
    }

    /// Waits until a message of this length can be written.
    #[cold]
    fn wait_for_room(&mut self, len: usize, deadline: Option<Instant>) -> Result<(), SendError> {
        let granules = self.lane.writer.granules(len);
        let (mut last_look, mut first) = (false, true);
        loop {
            match self.make_room(len, Wait::until(deadline)) {
                Ok(()) => return Ok(()),
                Err(error) => match error.lasting() {
                    Some(error) => return Err(error),
                    // The daemon was waited for as long as it may be.
                    None if last_look || self.is_moving() => return Err(SendError::TimedOut),
                    None => {}
                },
            }
            let room = self.spin_for_room(granules, deadline);
            if !room && self.sleep_for_room(granules, deadline, first) == Woke::TimedOut {
                last_look = true;
            }
            first &= room;
        }
    }

    /// Whether there was room (or something else to see to) before the spinning was over.
    fn spin_for_room(&mut self, granules: u64, deadline: Option<Instant>) -> bool {
        let mut budget = self.spin.current();
        if budget.is_zero() || !self.receiver_runs_elsewhere() {
            return false;
        }
        let start = Instant::now();
        if let Some(deadline) = deadline {
            budget = budget.min(deadline.saturating_duration_since(start));
        }
        // A sender that takes up each record's room at once looks once a record: it waits for some more.
        let plenty = granules.max((self.lane.writer.capacity() / 8).min(PLENTY_GRANULES));
        let mut looks_with_room = 0;
        loop {
            for _ in 0..PAUSES_BETWEEN_LOOKS {
                spin_hint();
            }
            if self.lane.may_have_room(granules) {
                looks_with_room += 1;
                if self.lane.writer.room() >= plenty || looks_with_room == LOOKS_FOR_PLENTY {
                    self.spin.paid();
                    return true;
                }
            }
            if self.roster.header.changes.load(Relaxed) != self.seen_changes {
                return true;
            }
            if start.elapsed() >= budget {
                self.spin.failed();
                return false;
            }
        }
    }

    /// Sleeps until receivers have made room, something changed, or the deadline has passed. The first time
    /// for plenty of room, but not for long: then for what the message needs.
    fn sleep_for_room(&mut self, granules: u64, deadline: Option<Instant>, first: bool) -> Woke {
        self.elsewhere.disarm();
        let (wanted, at_most) = self.lane.wanted(granules, first);
        let limits = (deadline, self.bound_sleep(at_most));
        let header = self.lane.writer.shared_header();
        let freed = &self.doorstep.freed[usize::from(self.lane.writer.lane())];
        let (roster, lane, seen) = (&self.roster.header, &mut self.lane, self.seen_changes);
        let look = || lane.may_have_room(granules) || roster.changes.load(Acquire) != seen;
        let woke = park::sleep_for_room(roster, &header, freed, wanted, limits, &Futex, look);
        self.note_processor();
        woke
    }

    /// Whether some receiver was last seen on another processor: only then can spinning pay.
    fn receiver_runs_elsewhere(&self) -> bool {
        let here = self.note_processor();
        let entries = self.roster.receivers.chunks(self.limits.receivers_max.into());
        let groups = self.groups.iter().zip(entries).zip(&self.roster.header.groups);
        groups.into_iter().any(|(((cursors, _), entries), group)| {
            let high = group.receivers_high.load(Acquire) as usize;
            entries.iter().zip(cursors.slots.iter()).take(high).any(|(entry, slot)| {
                SlotState::from_word(entry.state.load(Relaxed)) == SlotState::Active
                    && slot.cpu.load(Relaxed) != here
            })
        })
    }

    #[cold]
    fn note_processor(&self) -> u32 {
        let here = process::processor();
        self.lane.writer.header().cpu.store(here, Relaxed);
        here
    }
}

/// Announces to several groups of receivers what was published; says whether any bell was rung.
#[inline(never)]
fn announce_to_all(
    roster: &RosterHeader,
    groups: &mut [(Cursors, Rung)],
    words: usize,
    bells: &[AtomicU32],
) -> bool {
    let mut rang = false;
    for ((cursors, rung), bell) in groups.iter_mut().zip(bells) {
        rang |= park::announce(roster, &cursors.header, words, rung, bell, &Futex);
    }
    rang
}
