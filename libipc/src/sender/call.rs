//! Request and reply: a message whose sender waits for the answer to it.
//!
//! A call is a message of its own kind, with a number behind its bytes, and a ticket. Answers come into a
//! mailbox that the daemon makes for the caller's link at its first call; the right to send there comes from
//! having the mailbox open that was called. So the caller waits on two things at once: for an answer with its
//! number, and, by the ticket and the roster, for the news that none will come.

use std::sync::Arc;
use std::time::Instant;

use super::{Sender, ending};
use crate::delivery::Delivery;
use crate::error::{CallError, RequestError, SendError, TryReceiveError, TrySendError};
use crate::lane::layout::{Limits, Traffic};
use crate::lane::record::{CALL_NUMBER_BYTES, RecordHeader};
use crate::lane::withdraw::Record;
use crate::protocol::Identity;
use crate::receiver::Receiver;
use crate::regions::Roster;
use crate::session::{Errand, Wait};
use crate::sleeper::Sleeper;
use crate::sync::Ordering::{Acquire, Relaxed};
use crate::sys::clock::has_passed;
use crate::ticket::{Returned, Ticket, TicketState};
use crate::wait_set::{WaitError, WaitSet, Waitable, private::Source};

/// Answers to other calls that are thrown away before a caller looks what else there is.
const ANSWERS_AT_ONCE: usize = 64;

/// The answer to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    bytes: Vec<u8>,
    server: Identity,
}

impl Reply {
    /// What was answered.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What was answered, as a vector of the caller's.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Who answered, as the kernel attested it when it first answered this caller.
    #[must_use]
    pub fn server(&self) -> Identity {
        self.server
    }
}

/// The way of the answers to a sender's calls: made at the first of them.
#[derive(Debug, Default)]
pub(super) struct WayBack {
    calls: Option<Box<Calls>>,
    opening: Errand,
}

#[derive(Debug)]
struct Calls {
    replies: Receiver,
    last: u64,
}

/// News of a call that will not be answered.
#[derive(Debug)]
struct Unanswered {
    ticket: Ticket,
    roster: Roster,
    /// Somebody has had the mailbox open to receive when the call was made, or since.
    served: bool,
    required: ending::Required,
    limits: Limits,
    /// The roster's `changes` when it was last asked who is missing.
    seen_changes: u32,
    missing: Option<ending::Missing>,
}

impl Unanswered {
    /// Why no answer is to be waited for.
    fn why(&mut self) -> Option<CallError> {
        let receivers = self.roster.header.receivers.load(Relaxed);
        self.served |= receivers > 0;
        let changes = self.roster.header.changes.load(Acquire);
        if changes != self.seen_changes {
            self.seen_changes = changes;
            self.missing = self.required.missing(&self.roster, self.limits);
        }
        let gone = self.missing == Some(ending::Missing::Process);
        match self.ticket.state() {
            Ok(TicketState::Done) => Some(CallError::NotAnswered),
            Ok(TicketState::DeadLettered) => Some(CallError::DeadLettered),
            Ok(TicketState::Dropped) => Some(CallError::Dropped),
            Ok(TicketState::Returned(Returned::OwnerGone)) => Some(CallError::OwnerGone),
            Ok(TicketState::Returned(_)) => Some(CallError::Deleted),
            Ok(TicketState::InHand) if self.is_over() => Some(CallError::Deleted),
            Ok(TicketState::Queued | TicketState::InHand) if gone => Some(CallError::ReceiverGone),
            // In hand, and nobody there: whoever had it may have come and gone since we last looked.
            Ok(TicketState::InHand) if receivers == 0 => Some(CallError::ServerGone),
            Ok(TicketState::Queued) if self.served && receivers == 0 => Some(CallError::ServerGone),
            Ok(TicketState::Queued | TicketState::InHand) => None,
            Err(_) => Some(CallError::Forked),
        }
    }

    fn is_over(&self) -> bool {
        Traffic::from_word(self.roster.header.traffic.load(Relaxed)).is_over()
    }
}

impl Waitable for Unanswered {}

impl Source for Unanswered {
    fn has_news(&mut self) -> bool {
        self.why().is_some()
    }

    fn sleeper(&mut self) -> Arc<dyn Sleeper> {
        self.ticket.sleeper()
    }

    fn peer_runs_elsewhere(&self) -> bool {
        false
    }
}

impl Sender {
    /// Sends a request, and waits for the answer to it.
    ///
    /// The request is a message like any other; whoever receives it answers with [`crate::Delivery::reply`]. If a server
    /// dies with it in hand, the next gets it; if no server is left, or the one that had it acknowledges it
    /// without an answer, the call ends at once with an error. The first call of a sender makes a mailbox for its
    /// answers.
    ///
    /// # Errors
    /// [`CallError`], neither `TimedOut` nor `InHand`.
    pub fn call(&mut self, request: &[u8]) -> Result<Reply, CallError> {
        self.call_until(request, None)
    }

    /// As [`Self::call`]; waits until the deadline at most. Then the request is taken back: `TimedOut` says that
    /// nobody has it, and nobody will (nor was it sent, if that was all the time the daemon took for the mailbox for answers); `InHand` that a server has it and has not answered yet.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn call_deadline(&mut self, request: &[u8], deadline: Instant) -> Result<Reply, CallError> {
        self.call_until(request, Some(deadline))
    }

    fn call_until(
        &mut self,
        request: &[u8],
        deadline: Option<Instant>,
    ) -> Result<Reply, CallError> {
        let mut calls = match self.calls.calls.take() {
            Some(calls) => calls,
            None => match self.open_replies(Wait::until(deadline))? {
                Some(replies) => Box::new(Calls { replies, last: 0 }),
                None => return Err(CallError::TimedOut),
            },
        };
        calls.last += 1;
        let result = self.call_and_wait(&mut calls, request, deadline);
        self.calls.calls = Some(calls);
        result
    }

    fn call_and_wait(
        &mut self,
        calls: &mut Calls,
        request: &[u8],
        deadline: Option<Instant>,
    ) -> Result<Reply, CallError> {
        let number = calls.last;
        let served = self.roster.header.receivers.load(Relaxed) > 0;
        let record = self.publish_numbered(RecordHeader::CALL, number, request, deadline)?;
        // Most answers come at once: there is nothing else to look at meanwhile.
        if let Some(reply) = calls.answer_while_spinning(number, deadline)? {
            return Ok(reply);
        }
        let mut unanswered = Unanswered {
            ticket: self.ticket(record),
            roster: self.roster.clone(),
            served,
            required: self.required,
            limits: self.limits,
            seen_changes: self.seen_changes,
            missing: self.missing,
        };
        let mut set = WaitSet::new();
        let mut lost = false;
        loop {
            if let Some(reply) = calls.answer_to(number, deadline)? {
                return Ok(reply);
            }
            if let Some(why) = unanswered.why() {
                // Whoever answers does so before it acknowledges.
                return match calls.answer_to(number, deadline)? {
                    Some(reply) => Ok(reply),
                    None => Err(give_up(&unanswered.ticket, why)),
                };
            }
            if lost {
                return Err(give_up(&unanswered.ticket, CallError::DaemonAway));
            }
            // Here, too: whoever sends answers to something else keeps every wait short.
            if has_passed(deadline) {
                return calls.last_look(number, deadline, &unanswered.ticket);
            }
            let sources: &mut [&mut dyn Waitable] = &mut [&mut calls.replies, &mut unanswered];
            let look = self.lifeline.bound(None).map(|at_most| Instant::now() + at_most);
            let waited = match deadline.into_iter().chain(look).min() {
                None => set.wait(sources),
                Some(deadline) => set.wait_deadline(sources, deadline),
            };
            match waited.map(drop) {
                Ok(()) => {}
                Err(WaitError::TimedOut) if !has_passed(deadline) => lost = self.has_lost_daemon(),
                Err(WaitError::TimedOut) => {
                    return calls.last_look(number, deadline, &unanswered.ticket);
                }
                // Two sources of this process: neither none, nor too many, nor in turns.
                Err(_) => return Err(CallError::TimedOut),
            }
        }
    }

    /// Publishes a call or a reply; waits for room until the deadline.
    fn publish_numbered(
        &mut self,
        kind: u8,
        number: u64,
        message: &[u8],
        deadline: Option<Instant>,
    ) -> Result<Record, SendError> {
        self.wait_for_room(message.len() + CALL_NUMBER_BYTES, deadline)?;
        Ok(self.write_numbered(kind, number, message))
    }

    /// Publishes a call or a reply if there is room.
    pub(crate) fn try_publish_numbered(
        &mut self,
        kind: u8,
        number: u64,
        message: &[u8],
    ) -> Result<(), TrySendError> {
        self.make_room(message.len() + CALL_NUMBER_BYTES, Wait::BRIEFLY)?;
        self.write_numbered(kind, number, message);
        Ok(())
    }

    fn write_numbered(&mut self, kind: u8, number: u64, message: &[u8]) -> Record {
        let len = message.len() + CALL_NUMBER_BYTES;
        self.lane.expect_fate();
        let record = self.lane.writer.record_to_come(kind, len);
        let (front, back) = self.lane.writer.reserved(len).split_at_mut(message.len());
        front.copy_from_slice(message);
        back.copy_from_slice(&number.to_le_bytes());
        self.lane.writer.publish_written(kind, len);
        self.announce();
        record
    }

    /// Opens the mailbox for the answers to this sender's calls. `None`: the daemon has not done so yet.
    fn open_replies(&mut self, wait: Wait) -> Result<Option<Receiver>, RequestError> {
        let opened = self.link.open_replies(&mut self.calls.opening, wait)?;
        let session = self.link.session();
        opened.map(|(opened, fds)| Receiver::new(session.clone(), opened, fds)).transpose()
    }
}

/// Takes a call back that nobody waits for any more: the error if that succeeds is `why`.
fn give_up(ticket: &Ticket, why: CallError) -> CallError {
    match (ticket.withdraw(), why) {
        (Ok(TicketState::InHand), CallError::TimedOut) => CallError::InHand(ticket.clone()),
        (Ok(TicketState::Done), CallError::TimedOut) => CallError::NotAnswered,
        (Ok(TicketState::DeadLettered), CallError::TimedOut) => CallError::DeadLettered,
        (Ok(TicketState::Dropped), CallError::TimedOut) => CallError::Dropped,
        (_, why) => why,
    }
}

impl Calls {
    /// The time is up.
    fn last_look(
        &mut self,
        number: u64,
        deadline: Option<Instant>,
        ticket: &Ticket,
    ) -> Result<Reply, CallError> {
        let error = give_up(ticket, CallError::TimedOut);
        // It may have been answered at the last moment.
        self.answer_to(number, deadline)?.ok_or(error)
    }

    /// The answer with this number, if it is there. Answers to calls that were given up go, some of them at a time.
    fn answer_to(
        &mut self,
        number: u64,
        deadline: Option<Instant>,
    ) -> Result<Option<Reply>, CallError> {
        for _ in 0..ANSWERS_AT_ONCE {
            match self.replies.try_receive_by(deadline) {
                Ok(delivery) => {
                    if let Some(reply) = reply_to(number, delivery) {
                        return Ok(Some(reply));
                    }
                }
                Err(TryReceiveError::Empty) => return Ok(None),
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(None)
    }

    /// The same, if it comes as long as looking again and again may pay.
    fn answer_while_spinning(
        &mut self,
        number: u64,
        deadline: Option<Instant>,
    ) -> Result<Option<Reply>, CallError> {
        for _ in 0..ANSWERS_AT_ONCE {
            let delivery = self.replies.receive_spinning(deadline).map_err(failed)?;
            let Some(delivery) = delivery else { break };
            if let Some(reply) = reply_to(number, delivery) {
                return Ok(Some(reply));
            }
        }
        Ok(None)
    }
}

/// What came, if it is the answer with this number.
fn reply_to(number: u64, delivery: Delivery<'_>) -> Option<Reply> {
    let (kind, answered, server) = (delivery.kind(), delivery.number(), delivery.sender());
    let bytes = delivery.into_bytes();
    (kind == RecordHeader::REPLY && answered == Some(number)).then_some(Reply { bytes, server })
}

/// Why no answer can be received any more.
fn failed(error: TryReceiveError) -> CallError {
    match error {
        TryReceiveError::Forked => CallError::Forked,
        TryReceiveError::Corrupt(corrupt) => CallError::Corrupt(corrupt),
        TryReceiveError::Fault(fault) => CallError::Fault(fault),
        _ => CallError::Deleted,
    }
}
