//! What a receiver does that finds nothing at once: it looks again for a while, lets others go on, and sleeps.

use std::time::Instant;

use super::courtesy::Courtesy;
use super::{Receiver, SENDERS_ASKED};
use crate::delivery::Delivery;
use crate::error::{ReceiveError, TryReceiveError};
use crate::lane::park::{Lull, SpinBudget, Woke};
use crate::sync::Ordering::Relaxed;
use crate::sync::spin_hint;
use crate::sys::clock::has_passed;

/// Looks that a spinning receiver takes before it asks whether spinning makes sense at all.
const LOOKS_BEFORE_ASKING: u32 = 24;
/// Looks between two readings of the clock while spinning.
const LOOKS_BETWEEN_CLOCKS: u32 = 32;

/// What a receiver knows of how to wait.
#[derive(Debug)]
pub(super) struct Patience {
    pub(super) spin: SpinBudget,
    lull: Lull,
    courtesy: Courtesy,
    /// Some sender was found on another processor when last asked.
    sender_elsewhere: bool,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            spin: SpinBudget::new(SpinBudget::DEFAULT),
            lull: Lull::default(),
            courtesy: Courtesy::default(),
            sender_elsewhere: true,
        }
    }
}

impl Receiver {
    pub(super) fn try_slowly(&mut self, deadline: Option<Instant>) -> Result<(), TryReceiveError> {
        self.until = deadline;
        self.ask_for_daemon();
        if self.stale {
            self.refresh();
        }
        let taken = if !self.takes_turns() {
            self.take_or_arm()
        } else if self.try_turn()? {
            let taken = self.take(true);
            self.pass_the_turn();
            taken
        } else {
            return Err(TryReceiveError::Empty);
        };
        if taken? { Ok(()) } else { Err(self.why_nothing()) }
    }

    #[cold]
    pub(super) fn take_slowly(&mut self, deadline: Option<Instant>) -> Result<(), ReceiveError> {
        self.until = deadline;
        if !self.takes_turns() {
            return self.take_or_wait(deadline);
        }
        self.await_turn(deadline)?;
        let result = self.take_or_wait(deadline);
        self.pass_the_turn();
        result
    }

    fn take_or_wait(&mut self, deadline: Option<Instant>) -> Result<(), ReceiveError> {
        let mut slept = self.was_woken();
        // Where a look would find nothing none is taken: who is about to send needs the lines, and we are to look soon.
        let taken = if self.is_quiet() { Ok(false) } else { self.take(false) };
        let result = match taken {
            Ok(true) => Ok(()),
            Ok(false) => self.wait_and_take(deadline, &mut slept),
            Err(error) => Err(without_empty(error)),
        };
        // Woken for a message that is left to others, or with more behind it: somebody else's turn.
        if slept {
            self.pass_the_baton();
        }
        result
    }

    fn wait_and_take(
        &mut self,
        deadline: Option<Instant>,
        slept: &mut bool,
    ) -> Result<(), ReceiveError> {
        loop {
            if self.spin(deadline).map_err(without_empty)? {
                return Ok(());
            }
            if self.lets_others_go_on(deadline) && self.take(false).map_err(without_empty)? {
                return Ok(());
            }
            self.ask_for_daemon();
            if let Some(end) = self.take_the_last() {
                return end;
            }
            if self.stale {
                self.refresh();
            }
            let woke = self.sleep(deadline);
            *slept = true;
            if self.take(true).map_err(without_empty)? {
                return Ok(());
            }
            if woke == Woke::TimedOut || has_passed(deadline) {
                return Err(ReceiveError::TimedOut);
            }
        }
    }

    /// Lets others go on if this receiver may be in a sender's way, on its processor: where one was last seen here, or many
    /// receive. Not where others decide how long it may take: those that stand in line behind it, or a lane that overflows.
    fn lets_others_go_on(&mut self, deadline: Option<Instant>) -> bool {
        let in_the_way = !self.alone || !self.patience.sender_elsewhere;
        if !in_the_way || self.lossy || self.takes_turns() || self.wanted.is_some() {
            return false;
        }
        let claimant = &self.claimant;
        // Relaxed: they may be any number, and say only whether it was worth while.
        let sent = |&lane: &u16| claimant.lane(lane).map_or(0, |it| it.header().sent.load(Relaxed));
        let all =
            || claimant.lanes().iter().take(SENDERS_ASKED).map(sent).fold(0, u64::wrapping_add);
        self.patience.courtesy.let_others_go_on(deadline, all)
    }

    /// Takes a message, if one comes as long as looking again and again may pay.
    pub(crate) fn receive_spinning(
        &mut self,
        deadline: Option<Instant>,
    ) -> Result<Option<Delivery<'_>>, TryReceiveError> {
        self.until = deadline;
        Ok(if self.spin(deadline)? { Some(Delivery::new(self)) } else { None })
    }

    fn glance(&mut self) -> Result<bool, TryReceiveError> {
        Ok(!self.is_quiet() && (self.take_quickly() || self.take(false)?))
    }

    /// Looks again and again, as long as that may pay.
    pub(super) fn spin(&mut self, deadline: Option<Instant>) -> Result<bool, TryReceiveError> {
        let mut budget = self.patience.spin.current();
        if budget.is_zero() {
            return Ok(false);
        }
        self.unsettle_fencing();
        // Where last time the senders were found on this very processor, that is asked before any look.
        if !self.patience.sender_elsewhere {
            self.patience.sender_elsewhere = self.sender_runs_elsewhere();
            if !self.patience.sender_elsewhere {
                return Ok(false);
            }
        }
        let lull = self.patience.lull.pauses();
        for _ in 0..lull {
            spin_hint();
        }
        for look in 0..LOOKS_BEFORE_ASKING {
            if self.glance()? {
                self.patience.spin.paid();
                if lull > 0 {
                    self.patience.lull.ended(if look == 0 { self.claimant.backlog() } else { 0 });
                }
                return Ok(true);
            }
            spin_hint();
        }
        self.patience.sender_elsewhere = self.sender_runs_elsewhere();
        if !self.patience.sender_elsewhere {
            return Ok(false);
        }
        let start = Instant::now();
        if let Some(deadline) = deadline {
            budget = budget.min(deadline.saturating_duration_since(start));
        }
        loop {
            for _ in 0..LOOKS_BETWEEN_CLOCKS {
                if self.glance()? {
                    self.patience.spin.paid();
                    return Ok(true);
                }
                // Without a pause the next look would begin before this one is over, and have to be undone.
                spin_hint();
            }
            if self.ending().is_some() || start.elapsed() >= budget {
                self.patience.spin.failed();
                return Ok(false);
            }
        }
    }
}

pub(crate) fn without_empty(error: TryReceiveError) -> ReceiveError {
    match error {
        // `take` says this by `Ok(None)`.
        TryReceiveError::Empty | TryReceiveError::Closed => ReceiveError::Closed,
        TryReceiveError::NoSenders => ReceiveError::NoSenders,
        TryReceiveError::SenderGone => ReceiveError::SenderGone,
        TryReceiveError::DaemonAway => ReceiveError::DaemonAway,
        TryReceiveError::HandsFull => ReceiveError::HandsFull,
        TryReceiveError::Deleted => ReceiveError::Deleted,
        TryReceiveError::OwnerGone => ReceiveError::OwnerGone,
        TryReceiveError::Corrupt(corrupt) => ReceiveError::Corrupt(corrupt),
        TryReceiveError::Forked => ReceiveError::Forked,
        TryReceiveError::Fault(fault) => ReceiveError::Fault(fault),
    }
}
