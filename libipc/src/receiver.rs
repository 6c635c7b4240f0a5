//! The receiving end of a mailbox.

mod answer;
mod batch;
mod courtesy;
mod dead_letter;
mod ending;
mod from;
mod loss;
mod order;
mod poll;
mod turn;
pub(crate) mod wait;
mod wake;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::delivery::Delivery;
use crate::error::{Corrupt, Fault, ReceiveError, RequestError, TryReceiveError};
use crate::lane::claim::{Claimant, Malformed, Next, Taken};
use crate::lane::fencing::{self, Drowsiness};
use crate::lane::hints;
use crate::lane::layout::{SlotState, Traffic};
use crate::lane::memory::{Payload, RingMemory, TrustedSenders};
use crate::lane::order::LANES_WITHOUT_HINTS;
use crate::lane::park::{self, SpinBudget};
use crate::lane::run::Reach;
use crate::lifeline::Lifeline;
use crate::link::{Link, NOT_OPENED, Neighbours, map_roster};
use crate::protocol::{
    Identity, LaneInfo, MailboxAttributes, OnDeath, Opened, OpenedRole, Order, SlowGroup,
};
use crate::regions::{Cursors, Roster};
use crate::session::{Session, Wait};
use crate::sync::Ordering::{Acquire, Relaxed};
use crate::sys::mapping::Access;
use crate::sys::process::ForkGuard;

use batch::BatchIndex;
pub use batch::{Batch, BatchMessage};

/// One claim in so many looks at a further lane whatever its hint says, for hints may be wrong. At every lane, and at
/// once, it would cost more than everything else where there are a thousand.
const CLAIMS_PER_PATROL: u32 = 16;
/// One look for messages in so many also asks the daemon for an answer that it owes.
const LOOKS_PER_QUESTION: u32 = 256;
/// Senders of which a waiting receiver asks where they run, and how much they have sent.
const SENDERS_ASKED: usize = 16;

/// Receives messages from one mailbox, in competition with its other receivers. One process's, one
/// thread's at a time, with one message in hand at a time.
#[derive(Debug)]
pub struct Receiver {
    claimant: Claimant<RingMemory>,
    payload: Payload,
    batch: BatchIndex,
    roster: Roster,
    neighbours: Neighbours,
    attributes: MailboxAttributes,
    /// The index of this receiver's group.
    group: usize,
    /// The roster's `changes` at the last refresh.
    seen_changes: u32,
    /// The same while there is nothing to see to; else a value that it never has.
    undisturbed_changes: u64,
    /// The same while nothing is to be seen to behind an acknowledgement.
    settled_changes: u64,
    traffic: Traffic,
    /// Something withdrawn was skipped since this was last set to false.
    skipped: bool,
    /// The daemon has not told of new lanes: ask again before sleeping.
    stale: bool,
    /// Why some of them could not be had, to be said once.
    unreported: Option<Fault>,
    /// Looks for messages while that is so.
    looks_while_stale: u32,
    /// When the operation in hand is to end, whoever it waits for.
    until: Option<Instant>,
    /// Counts attempts to claim.
    claims: u32,
    /// Some lane's sender is gone, or the mailbox is to go once it is drained: what is empty is reported.
    reports: bool,
    senders: from::Senders,
    /// The process whose messages alone are received now.
    wanted: Option<u32>,
    /// The end of the last sender ends receiving.
    ends_with_senders: bool,
    /// The daemon, where receiving ends with it.
    lifeline: Lifeline,
    /// Which of its slot's receivers this is.
    generation: u32,
    /// The daemon has ended the session, though this process lives: the slot is another's, or will be.
    has_lost_slot: bool,
    /// The group loses messages rather than hold senders back: what is copied is let go at once.
    lossy: bool,
    /// What is in hand, where it was let go.
    let_go: Option<loss::LetGo>,
    /// Several messages are being received at once.
    batching: bool,
    /// Messages that were given back after they had been let go.
    lost: u64,
    /// No other receiver is there now.
    alone: bool,
    sleeping_words: usize,
    patience: wait::Patience,
    drowsiness: Drowsiness,
    uid: u32,
    elsewhere: poll::Elsewhere,
    guard: ForkGuard,
    /// The ends with which calls are answered, one a caller's lane.
    answers: answer::Ways,
    link: Link,
}

impl Receiver {
    pub(crate) fn new(
        session: Arc<Session>,
        opened: Opened,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Self, RequestError> {
        let link = Link::new(session, opened.link);
        let step = "open a mailbox to receive";
        let mut descriptors = descriptors.into_iter();
        let (OpenedRole::Receive { slot, group, generation }, Some(roster), Some(cursors)) =
            (opened.role.clone(), descriptors.next(), descriptors.next())
        else {
            return Err(Fault::new(step, NOT_OPENED).into());
        };
        let attributes = opened.attributes;
        let (limits, roster) = map_roster(step, &opened, roster)?;
        let cursors = Cursors::map(cursors, limits, Access::ReadWrite)
            .map_err(|error| Fault::new(step, error))?;
        if slot >= limits.receivers_max || group >= limits.groups {
            return Err(Fault::new(step, "ipcd gave a slot that the mailbox does not have").into());
        }
        let single = attributes.claims_alone(&opened.groups);
        let slow = opened.groups.get(usize::from(group)).map(|group| group.slow);
        let mut receiver = Self {
            claimant: Claimant::new(roster.clone(), cursors, slot, single),
            payload: Payload::default(),
            batch: BatchIndex::default(),
            roster,
            neighbours: Neighbours::new(limits),
            attributes,
            group: group.into(),
            seen_changes: 0,
            undisturbed_changes: u64::MAX,
            settled_changes: u64::MAX,
            traffic: Traffic::Open,
            skipped: false,
            stale: false,
            unreported: None,
            looks_while_stale: 0,
            until: None,
            claims: 0,
            reports: false,
            senders: from::Senders::default(),
            wanted: None,
            ends_with_senders: false,
            lifeline: Lifeline::default(),
            generation,
            has_lost_slot: false,
            lossy: slow == Some(SlowGroup::DropOldest),
            let_go: None,
            batching: false,
            lost: 0,
            alone: false,
            sleeping_words: usize::from(limits.receivers_max).div_ceil(64),
            patience: wait::Patience::default(),
            drowsiness: Drowsiness::default(),
            uid: nix::unistd::geteuid().as_raw(),
            elsewhere: poll::Elsewhere::default(),
            guard: ForkGuard::get(),
            answers: answer::Ways::default(),
            link,
        };
        receiver.note_processor();
        if attributes.order == Order::Arrival {
            receiver.claimant.set_by_arrival();
        }
        let (claimant, senders) = (&mut receiver.claimant, &mut receiver.senders);
        let attach = |info: &LaneInfo, lane| {
            claimant.attach(info.ticket.index, lane);
            senders.attach(info);
        };
        receiver.neighbours.add(opened.fetched, descriptors.collect(), attach)?;
        receiver.refresh();
        Ok(receiver)
    }

    /// How long a receive may spin before it sleeps; zero never spins.
    pub fn set_spin_max(&mut self, max: Duration) {
        self.patience.spin = SpinBudget::new(max);
    }

    /// From now on messages are read in place: [`Delivery::bytes`] is the very memory into which the sender
    /// wrote them, until they are acknowledged. Nothing is copied, however long they are.
    ///
    /// ```no_run
    /// # let client = libipc::Client::connect()?;
    /// let mut frames = client.receiver("frames")?;
    /// // SAFETY: both programs that may write to this mailbox, and the one that may read it, are ours.
    /// frames.read_in_place(unsafe { libipc::TrustedSenders::new() });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read_in_place(&mut self, trust: TrustedSenders) {
        self.payload.trust(trust);
        self.claimant.forget_copy();
        self.settle_reach();
    }

    /// Receives a message if one is there. Never waits, but for a daemon that has to tell of a new sender and does not
    /// answer: 100 ms at most, then for that sender's messages it is asked again later; and behind a stream with which this
    /// receiver keeps up for a few microseconds, so as not to slow it down.
    ///
    /// # Errors
    /// [`TryReceiveError`].
    #[inline(always)]
    pub fn try_receive(&mut self) -> Result<Delivery<'_>, TryReceiveError> {
        if self.is_quiet() {
            self.unsettle_fencing();
            return Err(TryReceiveError::Empty);
        }
        if !self.take_quickly() {
            self.try_slowly(None)?;
        }
        Ok(Delivery::new(self))
    }

    /// As [`Self::try_receive`], and waits for nobody beyond the deadline.
    pub(crate) fn try_receive_by(
        &mut self,
        deadline: Option<Instant>,
    ) -> Result<Delivery<'_>, TryReceiveError> {
        self.try_slowly(deadline)?;
        Ok(Delivery::new(self))
    }

    /// Receives a message; waits for one if none is there.
    ///
    /// # Errors
    /// [`ReceiveError`], never `TimedOut`.
    #[inline(always)]
    pub fn receive(&mut self) -> Result<Delivery<'_>, ReceiveError> {
        if !self.take_quickly() {
            self.take_slowly(None)?;
        }
        Ok(Delivery::new(self))
    }

    /// Receives a message; waits for one until the deadline if none is there, also where the daemon has to tell of its
    /// sender.
    ///
    /// # Errors
    /// [`ReceiveError`].
    #[inline(always)]
    pub fn receive_deadline(&mut self, deadline: Instant) -> Result<Delivery<'_>, ReceiveError> {
        if !self.take_quickly() {
            self.take_slowly(Some(deadline))?;
        }
        Ok(Delivery::new(self))
    }

    #[inline]
    pub(crate) fn payload(&self) -> &[u8] {
        self.payload.bytes()
    }

    pub(crate) fn take_payload(&mut self) -> Vec<u8> {
        self.payload.take()
    }

    /// The sender of the message in hand.
    pub(crate) fn sender(&self) -> Identity {
        let nobody = Identity { pid: 0, uid: u32::MAX, gid: u32::MAX };
        let lane = self.in_hand().and_then(|taken| self.neighbours.lane(taken.lane));
        lane.map_or(nobody, |info| info.sender)
    }

    /// How often the message in hand has been handed out before.
    pub(crate) fn attempts(&self) -> u32 {
        self.in_hand().map_or(0, |taken| taken.attempts)
    }

    fn in_hand(&self) -> Option<Taken> {
        self.let_go.map(|let_go| let_go.taken).or_else(|| self.claimant.in_hand())
    }

    #[inline(always)]
    pub(crate) fn acknowledge(&mut self) {
        let settled = self.guard.is_original()
            // PAIR(changes): Acquire here, Release in `ipcd` behind every change of the roster.
            && u64::from(self.roster.header.changes.load(Acquire)) == self.settled_changes;
        match self.claimant.acknowledge_quickly(settled) {
            Some(reader) => {
                if park::sender_waits(&self.roster.header, reader.header()) {
                    self.wake_waiting_sender();
                }
            }
            None => self.acknowledge_slowly(),
        }
    }

    #[cold]
    fn acknowledge_slowly(&mut self) {
        if !self.may_settle() {
            return;
        }
        match self.claimant.acknowledge() {
            Some(lane) => self.has_freed(lane),
            None => self.count_let_go(1),
        }
    }

    /// Somebody waits for what was just acknowledged.
    #[cold]
    fn wake_waiting_sender(&mut self) {
        self.wake_sender(self.claimant.run_lane());
    }

    /// Sees to whoever waits for what was just acknowledged.
    fn has_freed(&mut self, lane: u16) {
        let reader = self.claimant.lane(lane);
        if reader.is_some_and(|reader| park::sender_waits(&self.roster.header, reader.header())) {
            self.wake_sender(lane);
        }
        if self.reports {
            self.report_if_drained(lane);
            self.report_if_all_drained();
        }
    }

    /// Whether what is in hand is still this receiver's to acknowledge or to give back: the daemon may have ended the
    /// session, and offered it to others.
    #[inline]
    fn may_settle(&self) -> bool {
        // PAIR(changes): Acquire here, Release in `ipcd` behind every change of the roster.
        let unchanged = self.roster.header.changes.load(Acquire) == self.seen_changes;
        self.guard.is_original() && (unchanged || self.has_slot())
    }

    /// Whether the slot is this receiver's, as the roster has it now.
    #[cold]
    fn has_slot(&self) -> bool {
        let place = self.place_in_line(self.claimant.slot());
        self.roster.receivers.get(place).is_some_and(|entry| {
            // PAIR(slots): Acquire here, Release in `ipcd`; the generation was written before.
            SlotState::from_word(entry.state.load(Acquire)) == SlotState::Active
                && entry.generation.load(Relaxed) == self.generation
        })
    }

    pub(crate) fn return_to_queue(&mut self) {
        if !self.may_settle() {
            return;
        }
        if self.lossy {
            self.let_go(1);
            self.lost += self.let_go.take().map_or(0, |let_go| let_go.count);
        } else if let Some(lane) = self.claimant.return_to_queue() {
            self.wake_another(Some(lane));
        }
    }

    /// Something of a lane was offered: whoever sleeps may take it.
    fn wake_another(&self, lane: Option<u16>) {
        let slot = self.claimant.slot();
        let cursors = &self.claimant.cursors().header;
        park::light_barrier_of_sender(&self.roster.header, cursors);
        if park::another_sleeps(cursors, self.sleeping_words, slot) {
            match lane {
                Some(lane) => self.ring_bell_of(lane),
                None => self.ring_common_bells(),
            }
        }
    }

    /// Takes the next message of the run in hand, or of the lane whose turn it is, if nothing else is to
    /// be seen to. Whatever it does not do, [`Self::take`] does.
    #[inline(always)]
    pub(crate) fn take_quickly(&mut self) -> bool {
        let undisturbed = self.guard.is_original()
            && !self.claimant.has_in_hand()
            // PAIR(changes): Acquire here, Release in `ipcd` behind every change of the roster.
            && u64::from(self.roster.header.changes.load(Acquire)) == self.undisturbed_changes;
        undisturbed && self.claimant.take_quickly(&mut self.payload)
    }

    /// Whether there is nothing, as nothing has changed since a look that found nothing, and nothing else is to be seen to.
    #[inline]
    pub(crate) fn is_quiet(&self) -> bool {
        let only_looks = self.traffic == Traffic::Open
            && !self.ends_with_senders
            && !self.lifeline.is_kept()
            && self.elsewhere.watch.is_none();
        !self.claimant.has_run()
            && only_looks
            && self.guard.is_original()
            // PAIR(changes): Acquire here, Release in `ipcd` behind every change of the roster.
            && u64::from(self.roster.header.changes.load(Acquire)) == self.undisturbed_changes
            && self.claimant.is_quiet()
    }

    /// Takes the next message, if there is one; if it is not `thorough` it may miss one for a while.
    fn take(&mut self, thorough: bool) -> Result<bool, TryReceiveError> {
        let mut rounds = 0;
        loop {
            self.skipped = false;
            if self.take_once(thorough)? {
                return Ok(true);
            }
            // What was claimed was withdrawn: there may be more, though no more than the lanes can hold.
            rounds += 1;
            if !self.skipped || rounds > self.claimant.granules() {
                return Ok(false);
            }
        }
    }

    fn take_once(&mut self, thorough: bool) -> Result<bool, TryReceiveError> {
        self.check()?;
        if self.stale {
            self.ask_again();
        }
        if let Some(fault) = self.unreported.take() {
            return Err(fault.into());
        }
        if let Some(pid) = self.wanted {
            return self.take_from(pid);
        }
        if self.claimant.is_prioritised() && !self.claimant.is_by_arrival() {
            return self.take_highest(thorough);
        }
        if self.next_of_run()? {
            return Ok(true);
        }
        if self.claimant.anything_offered() && self.take_over() {
            if self.claimant.anything_offered() {
                // Whoever looked while it was being taken over saw nothing to take.
                self.wake_another(None);
            }
            return self.next_of_run();
        }
        if self.claimant.is_by_arrival() {
            return self.take_earliest(None);
        }
        match self.claim(thorough) {
            Ok(true) => self.next_of_run(),
            Ok(false) => Ok(false),
            Err(malformed) => Err(self.corrupt(malformed)),
        }
    }

    /// Claims from the lanes in turn; where they are many, only from those with a hint, unless that finds
    /// nothing and the look is to be thorough, or it is time for a thorough one.
    fn claim(&mut self, thorough: bool) -> Result<bool, Malformed> {
        if self.undisturbed_changes == u64::MAX {
            self.settle_quickness();
        }
        let few = self.claimant.lanes().len() <= LANES_WITHOUT_HINTS;
        self.claims = self.claims.wrapping_add(1);
        if few {
            return self.claimant.claim_next();
        }
        self.patrol();
        // Each uid's senders in turn.
        let count = self.neighbours.entrances().count().max(1);
        let first = self.claims as usize % count;
        let entrances = self.neighbours.entrances();
        for entrance in entrances.clone().skip(first).chain(entrances.take(first)) {
            if self.claimant.claim_hinted(entrance.hints())? {
                return Ok(true);
            }
        }
        if thorough { self.claimant.claim_next() } else { Ok(false) }
    }

    /// From time to time gives one lane the hint that it should have.
    fn patrol(&mut self) {
        if self.claims.is_multiple_of(CLAIMS_PER_PATROL)
            && let Some(lane) = self.claimant.patrol()
            && let Some(doorstep) = self.neighbours.doorstep_of(lane)
        {
            hints::give(&doorstep.hints, lane);
        }
    }

    fn next_of_run(&mut self) -> Result<bool, TryReceiveError> {
        loop {
            match self.claimant.take_from_run(&mut self.payload) {
                Ok(Next::Message) => break,
                Ok(Next::Over) => return Ok(false),
                Ok(Next::Skipped(lane)) => {
                    self.skipped = true;
                    self.has_freed(lane);
                }
                Err(malformed) => return Err(self.corrupt(malformed)),
            }
        }
        if self.lossy && self.lets_go() {
            self.let_go(1);
        }
        Ok(true)
    }

    fn check(&mut self) -> Result<(), TryReceiveError> {
        if !self.guard.is_original() {
            return Err(TryReceiveError::Forked);
        }
        if self.claimant.has_in_hand() {
            // A delivery was forgotten without its destructor.
            self.return_to_queue();
        }
        self.let_go = None;
        if self.roster.header.changes.load(Acquire) != self.seen_changes {
            self.refresh();
        }
        match self.traffic {
            Traffic::Deleted => Err(TryReceiveError::Deleted),
            Traffic::OwnerGone => Err(TryReceiveError::OwnerGone),
            // The session is over: what was in hand is offered to others.
            _ if self.has_lost_slot => Err(TryReceiveError::DaemonAway),
            Traffic::Open | Traffic::Closed | Traffic::Draining => Ok(()),
        }
    }

    #[cold]
    fn corrupt(&self, malformed: Malformed) -> TryReceiveError {
        let Malformed { what, lane, by_sender } = malformed;
        let peer = self.neighbours.lane(lane).map(|info| info.sender).filter(|_| by_sender);
        TryReceiveError::Corrupt(Corrupt { what, lane, peer })
    }

    /// Reads the roster again, and has the daemon hand over the lanes that are new.
    #[cold]
    fn refresh(&mut self) {
        self.refresh_within(Wait::until(self.until).briefly());
    }

    fn refresh_within(&mut self, wait: Wait) {
        let header = &self.roster.header;
        self.seen_changes = header.changes.load(Acquire);
        self.traffic = Traffic::from_word(header.traffic.load(Relaxed));
        let deleted = self.traffic.is_over();
        (self.undisturbed_changes, self.settled_changes) = (u64::MAX, u64::MAX);
        self.alone = header.groups[self.group].receivers.load(Relaxed) == 1;
        self.has_lost_slot = !deleted && !self.has_slot();
        if deleted || self.has_lost_slot {
            return;
        }
        self.look_for_gone_senders();
        let lacks_any = self.neighbours.lacks_any(&self.roster);
        if lacks_any {
            let (claimant, senders) = (&mut self.claimant, &mut self.senders);
            let attach = |info: &LaneInfo, lane| {
                claimant.attach(info.ticket.index, lane);
                senders.attach(info);
            };
            let updated = self.neighbours.update(&self.link, wait, attach);
            // The daemon is away: what is mapped flows on; ask again when nothing else is to do.
            self.stale = !matches!(updated, Ok(true));
            if let Err(RequestError::Fault(fault)) = updated {
                self.unreported = Some(fault);
            }
            // A sender may be gone before its lane is known here.
            self.look_for_gone_senders();
        }
        self.stale &= lacks_any;
        if !self.stale {
            let (neighbours, roster) = (&self.neighbours, &self.roster);
            let active = |lane| neighbours.status(roster, lane) == Some(SlotState::Active);
            self.senders.note_gone(active);
        }
        self.settle_reach();
        self.settle_quickness();
        if !self.reports && !self.lossy {
            self.settled_changes = self.seen_changes.into();
        }
    }

    /// The daemon owes an answer: looks for it from time to time, however much there is to receive from the senders that
    /// are known.
    #[cold]
    fn ask_again(&mut self) {
        self.looks_while_stale = self.looks_while_stale.wrapping_add(1);
        if self.looks_while_stale.is_multiple_of(LOOKS_PER_QUESTION) {
            self.refresh_within(Wait::not());
        }
    }

    /// Whether the quick path will do: nothing but the turn decides who takes what.
    fn settle_quickness(&mut self) {
        let plain = self.claimant.is_plain() && !self.lossy && !self.takes_turns();
        let asked = self.wanted.is_some() || self.stale || self.elsewhere.must_be_asked();
        let asked = asked || self.unreported.is_some();
        if plain && !asked && !self.traffic.is_over() {
            self.undisturbed_changes = self.seen_changes.into();
        }
    }

    /// How many records a claim takes unasked.
    fn settle_reach(&mut self) {
        if self.batching {
            return;
        }
        let in_place = self.payload.is_in_place();
        // What others are to have is not claimed in advance.
        let alone = self.alone && !self.lossy && !self.takes_turns();
        let alone = alone && !self.claimant.is_prioritised() && !self.claimant.is_by_arrival();
        // Nor what a death would end, though nobody has seen it.
        let alone = alone && self.attributes.on_death == OnDeath::Redeliver;
        let alone = alone && self.attributes.max_attempts != 1;
        self.claimant.set_reach(if alone { Reach::alone(in_place) } else { Reach::ONE });
    }

    /// If the sender of a lane is gone and nothing is left in it, tells the daemon, which frees it.
    fn report_if_drained(&mut self, lane: u16) {
        let gone = self.neighbours.status(&self.roster, lane) == Some(SlotState::Gone);
        let claim = self.claimant.claim_position(lane);
        let empty = self.claimant.lane(lane).is_some_and(|l| l.published(claim) == Some(0));
        if let (true, true, Some(info)) = (gone, empty, self.neighbours.lane(lane)) {
            // The daemon looks for itself; if it is away it will look when it is back.
            let _ = self.link.lane_drained(info.ticket);
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if self.guard.is_original() {
            self.settle();
            self.elsewhere.disarm();
            // Others who sleep often have it turned on again.
            fencing::turn_off(&self.claimant.cursors().header);
            if !self.lossy && self.has_slot() {
                self.claimant.offer_left_over();
            }
        }
    }
}
