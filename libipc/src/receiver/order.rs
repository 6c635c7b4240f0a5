//! Taking where more than the turn decides: priorities, and the order of arrival.

use super::Receiver;
use crate::error::TryReceiveError;
use crate::link::Entrance;
use crate::sync::Ordering::Acquire;

/// Times that the earliest message is looked for again when others take it first.
const LOOKS_FOR_EARLIEST: usize = 1000;

impl Receiver {
    /// Takes the next message of the highest priority, if there is one.
    pub(super) fn take_highest(&mut self, thorough: bool) -> Result<bool, TryReceiveError> {
        // What is left of a run from before there were priorities waits with its own.
        if self.claimant.left_over().is_some() && !self.put_aside() {
            return self.next_of_run();
        }
        if self.claimant.anything_offered() {
            if !self.claimant.has_free_hands() {
                // If that fails, what is in the way is the only thing to be taken now.
                self.put_aside();
            }
            if let Some(offer) = self.claimant.highest_offer() {
                if self.claim_highest(offer.saturating_add(1), thorough)? {
                    return self.next_of_run();
                }
                let neighbours = &self.neighbours;
                let priority = |lane| neighbours.lane(lane).map(|info| info.priority);
                if self.claimant.take_over_one(|lane| priority(lane) == Some(offer)) {
                    return self.next_of_run();
                }
            }
        }
        if self.claim_highest(0, thorough)? { self.next_of_run() } else { Ok(false) }
    }

    fn claim_highest(&mut self, floor: u8, thorough: bool) -> Result<bool, TryReceiveError> {
        self.claims = self.claims.wrapping_add(1);
        self.patrol();
        let entrances = || self.neighbours.entrances().map(Entrance::hints);
        // Each uid's senders in turn.
        let first = self.claims as usize % entrances().count().max(1);
        let hints = || entrances().skip(first).chain(entrances().take(first));
        let claimed = match self.claimant.claim_highest(floor, hints(), false) {
            Ok(false) if thorough => self.claimant.claim_highest(floor, hints(), true),
            other => other,
        };
        claimed.map_err(|malformed| self.corrupt(malformed))
    }

    /// Takes the message that arrived first; with a `wanted` sender, of that one's.
    pub(super) fn take_earliest(&mut self, wanted: Option<u32>) -> Result<bool, TryReceiveError> {
        if !self.claimant.has_free_hands() {
            // Somebody is just taking over what was returned: until then there is no place for another message.
            return Ok(false);
        }
        let mut first = None;
        for _ in 0..LOOKS_FOR_EARLIEST {
            let lanes = wanted.map(|pid| self.senders.lanes(pid));
            let Some(head) = self.claimant.earliest(lanes) else { return Ok(false) };
            if first.is_some_and(|first| head.is_settled_by(&first)) {
                match self.claimant.claim_head(head) {
                    Ok(true) => return self.next_of_run(),
                    Ok(false) => first = None,
                    Err(malformed) => return Err(self.corrupt(malformed)),
                }
                continue;
            }
            first = Some(head);
            // A lane that came before that message was sent must not be missing in the next look.
            // PAIR(changes): Acquire here, Release in `ipcd` behind every change of the roster.
            if self.roster.header.changes.load(Acquire) != self.seen_changes {
                self.check()?;
            }
        }
        Ok(false)
    }
}
