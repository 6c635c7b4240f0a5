//! Sends that wait for the acknowledgement: all of those of a rendezvous mailbox, and synchronous ones in any.
//!
//! The message is published like any other. Then its sender looks whether it is acknowledged: often for a while,
//! if the receiver may be at it on another processor; then it sleeps, on the word on which it would sleep for room.
//! At the deadline the message is taken back ([`crate::lane::withdraw`]), which fails if a receiver has it: so
//! every answer is true, and none of them needs the daemon.

use std::time::{Duration, Instant};

use super::Sender;
use crate::error::{SendError, TrySendError};
use crate::lane::layout::Traffic;
use crate::lane::park::{self, Woke};
use crate::lane::withdraw::{Progress, Record};
use crate::session::Wait;
use crate::sync::Ordering::{Acquire, Relaxed};
use crate::sync::spin_hint;
use crate::sys::futex::Futex;
use crate::ticket::TicketState;

/// How long a `try_send` gives receivers that are awake to take the message.
const TRY_AWAKE: Duration = Duration::from_micros(50);
/// The same if one sleeps: it has been rung for, and must wake up.
const TRY_ASLEEP: Duration = Duration::from_millis(1);

/// Looks that a spinning sender takes before it asks whether spinning makes sense at all.
const LOOKS_BEFORE_ASKING: u32 = 32;
/// Pauses between two looks: it must leave the receiver's cache lines alone while that is at work.
const PAUSES_BETWEEN_LOOKS: u32 = 4;
/// Looks between two readings of the clock.
const LOOKS_BETWEEN_CLOCKS: u32 = 16;

/// A record whose acknowledgement is waited for.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) record: Record,
    /// The mailbox was closed when a receiver had it: it will be acknowledged yet.
    drains: bool,
    /// The daemon was found away, after a sleep.
    pub(super) lost: bool,
}

impl Offer {
    pub(super) fn new(record: Record) -> Self {
        Self { record, drains: false, lost: false }
    }
}

impl Sender {
    /// Sends, and waits for the acknowledgement.
    pub(super) fn meet(
        &mut self,
        message: &[u8],
        deadline: Option<Instant>,
    ) -> Result<(), SendError> {
        self.wait_for_room(message.len(), deadline)?;
        let record = self.publish_record(message);
        self.await_acknowledgement(record, deadline)
    }

    /// Sends if a receiver is there to take it. Whether one looks for messages at this moment nobody can know, so
    /// the message is offered for a moment, and taken back.
    #[cold]
    pub(super) fn try_to_meet(&mut self, message: &[u8]) -> Result<(), TrySendError> {
        self.make_room(message.len(), Wait::BRIEFLY)?;
        if self.roster.header.receivers.load(Relaxed) == 0 {
            return Err(TrySendError::NotTaken);
        }
        let words = self.sleeping_words;
        let asleep = |cursors| park::anyone_sleeps(cursors, words);
        let asleep = self.groups.iter().any(|(cursors, _)| asleep(&cursors.header));
        let record = self.publish_record(message);
        let patience = if asleep { TRY_ASLEEP } else { TRY_AWAKE };
        match self.await_acknowledgement(record, Some(Instant::now() + patience)) {
            Ok(()) => Ok(()),
            Err(SendError::InHand(ticket)) => Err(TrySendError::InHand(ticket)),
            Err(SendError::Closed) => Err(TrySendError::Closed),
            Err(SendError::Deleted) => Err(TrySendError::Deleted),
            Err(SendError::OwnerGone) => Err(TrySendError::OwnerGone),
            Err(SendError::NoReceivers) => Err(TrySendError::NoReceivers),
            Err(SendError::ReceiverGone) => Err(TrySendError::ReceiverGone),
            Err(SendError::DeadLettered) => Err(TrySendError::DeadLettered),
            Err(SendError::Dropped) => Err(TrySendError::Dropped),
            Err(_) => Err(TrySendError::NotTaken),
        }
    }

    /// Waits until every group has acknowledged a record. After the deadline, or if the mailbox is over or who must
    /// receive is gone, the record is taken back, unless somebody has it.
    pub(super) fn await_acknowledgement(
        &mut self,
        record: Record,
        deadline: Option<Instant>,
    ) -> Result<(), SendError> {
        let mut offer = Offer::new(record);
        loop {
            if self.spin_for_acknowledgement(record, deadline) {
                return self.end_of_freed(record);
            }
            if let Some(end) = self.end_of(&mut offer) {
                return end;
            }
            if self.sleep_for_acknowledgement(record, deadline) == Woke::TimedOut {
                return self.give_up(record, SendError::TimedOut);
            }
            offer.lost = self.has_lost_daemon();
        }
    }

    /// How a wait ends whose record is freed: it may have been a dead letter, or dropped.
    pub(super) fn end_of_freed(&self, record: Record) -> Result<(), SendError> {
        self.lane.fate(record).map_or(Ok(()), |fate| Err(fate.into()))
    }

    /// How the wait for an acknowledgement ends before that has come, if it is to.
    pub(super) fn end_of(&mut self, offer: &mut Offer) -> Option<Result<(), SendError>> {
        if self.roster.header.changes.load(Acquire) != self.seen_changes {
            self.refresh();
        }
        let otherwise = match self.traffic {
            Traffic::Deleted => SendError::Deleted,
            Traffic::OwnerGone => SendError::OwnerGone,
            Traffic::Closed | Traffic::Draining if self.rendezvous && !offer.drains => {
                match self.give_up(offer.record, SendError::Closed) {
                    // It will be acknowledged yet.
                    Err(SendError::InHand(_)) => offer.drains = true,
                    end => return Some(end),
                }
                self.missing_or_away(offer)?
            }
            Traffic::Open | Traffic::Closed | Traffic::Draining => self.missing_or_away(offer)?,
        };
        Some(self.give_up(offer.record, otherwise))
    }

    /// Why an open mailbox is none for an offer.
    fn missing_or_away(&self, offer: &Offer) -> Option<SendError> {
        let missing = self.missing.map(SendError::from);
        missing.or_else(|| offer.lost.then_some(SendError::DaemonAway))
    }

    /// Takes a record back: with success the answer is `otherwise`.
    #[cold]
    pub(super) fn give_up(
        &mut self,
        record: Record,
        otherwise: SendError,
    ) -> Result<(), SendError> {
        let ticket = self.ticket(record);
        match ticket.withdraw() {
            Ok(TicketState::Done) => Ok(()),
            Ok(TicketState::DeadLettered) => Err(SendError::DeadLettered),
            Ok(TicketState::Dropped) => Err(SendError::Dropped),
            Ok(TicketState::Returned(_)) => Err(otherwise),
            Ok(TicketState::Queued | TicketState::InHand) => Err(SendError::InHand(ticket)),
            Err(_) => Err(SendError::Forked),
        }
    }

    /// Whether the record was freed before the spinning was over: [`Self::end_of_freed`] says how it ended.
    pub(super) fn spin_for_acknowledgement(
        &mut self,
        record: Record,
        deadline: Option<Instant>,
    ) -> bool {
        let mut budget = self.spin.current();
        let look = || {
            for _ in 0..PAUSES_BETWEEN_LOOKS {
                spin_hint();
            }
            self.lane.writer.progress(record) == Progress::Done
        };
        if budget.is_zero() {
            return look();
        }
        if (0..LOOKS_BEFORE_ASKING).any(|_| look()) {
            self.spin.paid();
            return true;
        }
        if !self.receiver_runs_elsewhere() {
            return look();
        }
        let start = Instant::now();
        if let Some(deadline) = deadline {
            budget = budget.min(deadline.saturating_duration_since(start));
        }
        loop {
            if (0..LOOKS_BETWEEN_CLOCKS).any(|_| look()) {
                self.spin.paid();
                return true;
            }
            let changed = self.roster.header.changes.load(Relaxed) != self.seen_changes;
            if changed || start.elapsed() >= budget {
                self.spin.failed();
                return false;
            }
        }
    }

    /// Sleeps until receivers have come beyond the record, something changed, or the deadline has passed.
    fn sleep_for_acknowledgement(&mut self, record: Record, deadline: Option<Instant>) -> Woke {
        self.elsewhere.disarm();
        let header = self.lane.writer.shared_header();
        let freed = &self.doorstep.freed[usize::from(self.lane.writer.lane())];
        let (roster, writer, seen) = (&self.roster.header, &self.lane.writer, self.seen_changes);
        let look =
            || writer.progress(record) == Progress::Done || roster.changes.load(Acquire) != seen;
        let (wanted, limits) = (record.end(), (deadline, self.lifeline.bound(None)));
        let woke = park::sleep_for_room(roster, &header, freed, wanted, limits, &Futex, look);
        self.note_processor();
        woke
    }
}
