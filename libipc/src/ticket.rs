//! What has become of a message: the ticket of a tracked send.

use std::os::fd::BorrowedFd;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::error::Fault;
use crate::lane::fate::Fate;
use crate::lane::layout::Traffic;
use crate::lane::park::{self, Facing};
use crate::lane::withdraw::{Progress, Record, Withdrawal};
use crate::sleeper::{News, Sleeper};
use crate::sync::AtomicU32;
use crate::sync::Ordering::{Acquire, Relaxed};
use crate::sys::futex::Futex;
use crate::sys::mapping::Shared;
use crate::wait_set::{Waitable, private::Source};

mod lane;
mod notice;

pub(crate) use lane::{LaneView, SentLane};
use notice::Notice;

/// What has become of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TicketState {
    /// Nobody has it yet.
    Queued,
    /// A receiver has it in hand, or has died with it or returned it, so that another will; in a mailbox with
    /// groups: some group has it, and not all are done with it.
    InHand,
    /// It was received and acknowledged; in a mailbox with groups: by every group.
    Done,
    /// It is among the dead letters of its mailbox, or was: a receiver rejected it, or it was handed out as often as
    /// that may be; in a mailbox with groups: in one of them at least, and all are done with it.
    DeadLettered,
    /// A receiver died with it, and the mailbox drops what a dead receiver had in hand.
    Dropped,
    /// Nobody has received it, and nobody will.
    Returned(Returned),
}

/// Why a message is its sender's again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Returned {
    /// Its sender has taken it back.
    Withdrawn,
    /// The mailbox was deleted.
    Deleted,
    /// The process that owned the mailbox is gone, and the mailbox with it.
    OwnerGone,
}

impl TicketState {
    /// Whether this is the end: it will not change any more.
    #[must_use]
    pub fn is_settled(self) -> bool {
        !matches!(self, Self::Queued | Self::InHand)
    }
}

/// Why a ticket does not tell.
#[derive(Debug, thiserror::Error)]
pub enum TicketError {
    /// This process is the child of a fork: the message is its parent's.
    #[error("this ticket belongs to the parent process")]
    Forked,
    /// A fault.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Tells what has become of one message, and takes it back. It needs neither the sender, which may be gone, nor
/// the daemon, and may be used and cloned by any thread; dropping it changes nothing.
///
/// ```no_run
/// # let client = libipc::Client::connect()?;
/// use libipc::{Returned, TicketState};
///
/// let mut orders = client.sender("orders")?;
/// let ticket = orders.send_tracked(b"two pounds of tea")?;
/// match ticket.withdraw()? {
///     TicketState::Returned(Returned::Withdrawn) => println!("nobody will ever see it"),
///     TicketState::InHand => println!("too late: {:?}", ticket.wait()?),
///     state => println!("{state:?}"),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Ticket {
    sent: Arc<Sent>,
}

/// One message, as its tickets and whoever is to be told of it share it.
#[derive(Debug)]
struct Sent {
    lane: Arc<SentLane>,
    record: Record,
    settled: OnceLock<TicketState>,
    /// The descriptor, once it was asked for.
    descriptor: OnceLock<Arc<notice::Descriptor>>,
}

impl Sent {
    /// What is known now. What is settled is remembered: the lane goes on.
    fn look(&self) -> TicketState {
        if let Some(&settled) = self.settled.get() {
            return settled;
        }
        let state = match self.lane.progress(self.record) {
            Progress::Done => {
                // Skipped, perhaps: whoever withdraws it at this moment says so before the lock is free.
                drop(self.lane.lock());
                self.ended()
            }
            Progress::InHand => TicketState::InHand,
            Progress::Queued => match self.lane.why_over() {
                // A receiver may have begun to take it before it looked at the mailbox: it must be told.
                Some(why) => self.take_back(why),
                None => TicketState::Queued,
            },
        };
        self.settle(state)
    }

    /// How it ended, now that nobody has it any more.
    fn ended(&self) -> TicketState {
        match self.lane.fate(self.record.at) {
            None => TicketState::Done,
            Some(Fate::DeadLettered) => TicketState::DeadLettered,
            Some(Fate::Dropped) => TicketState::Dropped,
        }
    }

    fn settle(&self, state: TicketState) -> TicketState {
        // Somebody in another thread may have been first: what is settled is settled.
        if state.is_settled() { *self.settled.get_or_init(|| state) } else { state }
    }

    /// Withdraws it if nobody has it.
    fn take_back(&self, why: Returned) -> TicketState {
        match self.lane.withdraw(self.record, &self.settled, why) {
            Withdrawal::Withdrawn => TicketState::Returned(why),
            Withdrawal::Refused => TicketState::Queued,
            Withdrawal::Taken => match self.lane.progress(self.record) {
                Progress::Done => self.ended(),
                Progress::Queued | Progress::InHand => TicketState::InHand,
            },
        }
    }

    /// As [`Self::look`], for whoever waits: whether there is nothing to wait for any more.
    fn is_over(&self) -> Option<TicketState> {
        let state = self.look();
        // In hand in a mailbox that is gone: whether it is acknowledged yet nobody will tell for sure.
        let over =
            state.is_settled() || (state == TicketState::InHand && self.lane.why_over().is_some());
        over.then_some(state)
    }
}

impl Ticket {
    pub(crate) fn new(lane: Arc<SentLane>, record: Record) -> Self {
        let (settled, descriptor) = (OnceLock::new(), OnceLock::new());
        let sent = Arc::new(Sent { lane, record, settled, descriptor });
        sent.lane.expect_questions(&sent);
        Self { sent }
    }

    /// What has become of the message, as of now.
    ///
    /// # Errors
    /// [`TicketError::Forked`].
    pub fn state(&self) -> Result<TicketState, TicketError> {
        self.check()?;
        Ok(self.sent.look())
    }

    /// Waits until it is settled. One other answer there is: [`TicketState::InHand`] if the mailbox is deleted, or
    /// its owner gone, while a receiver has the message; whether it is acknowledged yet it may still tell.
    ///
    /// # Errors
    /// [`TicketError::Forked`].
    pub fn wait(&self) -> Result<TicketState, TicketError> {
        self.check()?;
        Ok(self.wait_until(None))
    }

    /// Waits until it is settled, or until the deadline: then it says how far the message has come, which has
    /// become of it what it may. To have it back use [`Self::withdraw`].
    ///
    /// # Errors
    /// [`TicketError::Forked`].
    pub fn wait_deadline(&self, deadline: Instant) -> Result<TicketState, TicketError> {
        self.check()?;
        Ok(self.wait_until(Some(deadline)))
    }

    /// Takes the message back if no receiver has it yet. The answer is how that ended:
    /// [`Returned::Withdrawn`], nobody receives it; [`TicketState::InHand`], [`TicketState::Done`] and the like, too late.
    /// [`TicketState::Queued`] only where the kernel refuses this process the barrier that it takes.
    ///
    /// A withdrawn message keeps its room in the lane until a receiver comes past it.
    ///
    /// # Errors
    /// [`TicketError::Forked`].
    pub fn withdraw(&self) -> Result<TicketState, TicketError> {
        self.check()?;
        let state = self.sent.look();
        if state != TicketState::Queued {
            return Ok(state);
        }
        let state = self.sent.take_back(Returned::Withdrawn);
        Ok(self.sent.settle(state))
    }

    /// A descriptor for `poll`, `epoll` and event loops: it becomes readable once the message is settled (or
    /// [`Self::wait`] would return), and stays so. It is the same at each call, and lives as long as the ticket.
    ///
    /// # Errors
    /// [`TicketError`].
    pub fn poll_fd(&self) -> Result<BorrowedFd<'_>, TicketError> {
        self.check()?;
        if self.sent.descriptor.get().is_none() {
            let made = Arc::new(notice::Descriptor::new()?);
            if self.sent.descriptor.set(made.clone()).is_ok() {
                SentLane::notify(&self.sent.lane, &self.sent, Notice::Descriptor(made))?;
            }
        }
        match self.sent.descriptor.get() {
            Some(descriptor) => Ok(descriptor.fd()),
            None => Err(Fault::new("make a descriptor to poll", "it is gone").into()),
        }
    }

    /// Has a function called once the message is settled (or [`Self::wait`] would return), with what that says:
    /// in a thread of this library, at once if it is settled already. It keeps the other functions of this
    /// sender's tickets waiting; a panic in it is ignored.
    ///
    /// # Errors
    /// [`TicketError`]; it is not called then.
    pub fn on_settled(
        &self,
        call: impl FnOnce(TicketState) + Send + 'static,
    ) -> Result<(), TicketError> {
        self.check()?;
        SentLane::notify(&self.sent.lane, &self.sent, Notice::Call(Box::new(call)))?;
        Ok(())
    }

    /// Has a signal sent to this process once the message is settled (or [`Self::wait`] would return), with a value
    /// (`si_value`) that tells the ticket from others. Use a real-time signal: of the others one swallows the next.
    ///
    /// # Errors
    /// [`TicketError`]; among them that there is no such signal.
    pub fn signal(&self, signal: i32, value: usize) -> Result<(), TicketError> {
        self.check()?;
        crate::sys::signal::check(signal).map_err(|error| Fault::new("send a signal", error))?;
        SentLane::notify(&self.sent.lane, &self.sent, Notice::Signal { signal, value })?;
        Ok(())
    }

    /// Who sleeps for it.
    pub(crate) fn sleeper(&self) -> Arc<dyn Sleeper> {
        self.sent.clone()
    }

    fn check(&self) -> Result<(), TicketError> {
        if self.sent.lane.is_ours() { Ok(()) } else { Err(TicketError::Forked) }
    }

    fn wait_until(&self, deadline: Option<Instant>) -> TicketState {
        if let Some(state) = self.sent.is_over() {
            return state;
        }
        let lane = &self.sent.lane;
        let _watching = lane.watch(self.sent.record.at);
        loop {
            // The word before the look: whoever acknowledges in between changes it.
            let seen = lane.freed().load(Acquire);
            let at_most = park::barrier_before_sleep(Facing::Receivers(lane.roster()), &Futex);
            if let Some(state) = self.sent.is_over() {
                return state;
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return self.sent.look();
            }
            park::bounded_wait(&[(lane.freed(), seen)], deadline, at_most, &Futex);
        }
    }
}

/// Whoever waits for one ticket among others sleeps as this.
impl Sleeper for Sent {
    fn words(&self) -> &[Shared<AtomicU32>] {
        std::slice::from_ref(self.lane.freed())
    }

    fn facing(&self) -> Facing<'_> {
        Facing::Receivers(self.lane.roster())
    }

    fn lie_down(&self) {
        self.lane.watch_from(self.record.at);
    }

    fn get_up(&self) {
        self.lane.unwatch(self.record.at);
    }

    fn look(&self) -> News {
        if self.is_over().is_some() { News::ForAll } else { News::None }
    }
}

impl Waitable for Ticket {}

/// A ticket is ready when it is settled, or [`Ticket::wait`] would return.
impl Source for Ticket {
    fn has_news(&mut self) -> bool {
        self.check().is_err() || self.sent.is_over().is_some()
    }

    fn sleeper(&mut self) -> Arc<dyn Sleeper> {
        (*self).sleeper()
    }

    fn peer_runs_elsewhere(&self) -> bool {
        true
    }
}

/// Why there is nothing any more to send to or to receive from.
fn why_over(traffic: u32) -> Option<Returned> {
    match Traffic::from_word(traffic) {
        Traffic::Deleted => Some(Returned::Deleted),
        Traffic::OwnerGone => Some(Returned::OwnerGone),
        Traffic::Open | Traffic::Closed | Traffic::Draining => None,
    }
}

impl SentLane {
    /// Why nobody will receive what is still queued, if so.
    fn why_over(&self) -> Option<Returned> {
        // PAIR(changes): Acquire here, Release in `ipcd` behind what it changed.
        self.roster().changes.load(Acquire);
        why_over(self.roster().traffic.load(Relaxed))
    }
}
