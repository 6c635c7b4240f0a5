//! Messages that are not to be received any more: what is rejected, and what is given back for the last time.

use super::Receiver;
use crate::error::RequestError;
use crate::protocol::{DeadLetter, OnDeath, Reason, Refusal};

impl Receiver {
    /// Has the daemon make a dead letter of the message in hand. It frees the message, with all that its sender is to
    /// hear of it; what is done here is what remains to be done for this receiver.
    pub(crate) fn reject(&mut self, reason: Reason) -> Result<(), RequestError> {
        if !self.guard.is_original() {
            return Err(RequestError::Forked);
        }
        let in_hand = self.claimant.in_hand().filter(|_| !self.lossy);
        let lane = in_hand.and_then(|taken| self.neighbours.lane(taken.lane));
        let (Some(lane), Some(at)) = (lane, self.claimant.position_in_hand()) else {
            return Err(Refusal::NotInHand.into());
        };
        self.link.reject(lane.ticket, at, reason)?;
        if let Some(lane) = self.claimant.let_go() {
            self.has_freed(lane);
        }
        Ok(())
    }

    /// Gives the message in hand back; or, if it was handed out as often as that may be, away.
    pub(crate) fn give_back(&mut self) {
        let last = self.claimant.in_hand().is_some_and(|taken| self.is_worn_out(taken.attempts));
        // Without the daemon, or without room for it, it is offered once more: nothing is lost.
        if !last || self.reject(Reason::Attempts).is_err() {
            self.return_to_queue();
        }
    }

    /// Whether a message that was handed out so often before is not to be handed out again.
    pub(super) fn is_worn_out(&self, attempts: u32) -> bool {
        let limit = self.attributes.max_attempts;
        let hand_outs = attempts.saturating_add(1);
        limit != 0 && hand_outs >= limit && !self.lossy && self.dead_letter().is_none()
    }

    /// What is known of the dead letter in hand.
    pub(crate) fn dead_letter(&self) -> Option<DeadLetter> {
        let lane = self.in_hand().and_then(|taken| self.neighbours.lane(taken.lane))?;
        lane.dead_letter
    }

    /// Takes over what is offered: one at a time where a death ends what its receiver has, for the others nobody has seen.
    #[cold]
    pub(super) fn take_over(&mut self) -> bool {
        match self.attributes.on_death {
            OnDeath::Redeliver => self.claimant.take_over(),
            OnDeath::DeadLetter | OnDeath::Drop => self.claimant.take_over_one(|_| true),
        }
    }
}
