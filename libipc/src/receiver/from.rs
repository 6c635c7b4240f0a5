//! Receiving from one named sender: its lanes alone are looked at.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::Receiver;
use crate::delivery::Delivery;
use crate::error::{ReceiveError, TryReceiveError};
use crate::lane::claim::TURN_RECORDS;
use crate::lane::park::slot_bit;
use crate::protocol::{Identity, LaneInfo};
use crate::sync::Ordering::Relaxed;

/// Processes that have gone which a receiver remembers.
const GONE_REMEMBERED: usize = 4096;

/// The processes that send to a mailbox, and their lanes.
#[derive(Debug, Default)]
pub(super) struct Senders {
    known: HashMap<u32, Known>,
    /// Whose each lane is.
    owners: HashMap<u16, u32>,
    /// Those that are gone, the last at the back, and whether they have been told of.
    gone: VecDeque<(Identity, bool)>,
}

#[derive(Debug)]
struct Known {
    identity: Identity,
    /// The highest priority first, then the oldest.
    lanes: Vec<u16>,
    priorities: Vec<Reverse<u8>>,
    gone: bool,
    /// The lane that was last taken from, and how often in turn.
    last: u16,
    turn: u32,
}

impl Senders {
    pub(super) fn attach(&mut self, info: &LaneInfo) {
        let lane = info.ticket.index;
        self.detach(lane);
        let identity = info.sender;
        self.owners.insert(lane, identity.pid);
        let known = self.known.entry(identity.pid).or_insert_with(|| Known {
            identity,
            lanes: Vec::new(),
            priorities: Vec::new(),
            gone: false,
            last: lane,
            turn: 0,
        });
        (known.identity, known.gone) = (identity, false);
        let priority = Reverse(info.priority);
        let place = known.priorities.partition_point(|&other| other <= priority);
        known.priorities.insert(place, priority);
        known.lanes.insert(place, lane);
    }

    pub(super) fn detach(&mut self, lane: u16) {
        let Some(known) = self.owners.remove(&lane).and_then(|pid| self.known.get_mut(&pid)) else {
            return;
        };
        if let Some(place) = known.lanes.iter().position(|&other| other == lane) {
            known.lanes.remove(place);
            known.priorities.remove(place);
        }
    }

    /// The lanes of a process.
    pub(super) fn lanes(&self, pid: u32) -> &[u16] {
        self.known.get(&pid).map_or(&[], |known| &known.lanes)
    }

    /// A lane of a process was taken from: after some records it goes behind the others of its priority.
    fn note_turn(&mut self, pid: u32, lane: u16) {
        let Some(known) = self.known.get_mut(&pid).filter(|known| known.lanes.len() > 1) else {
            return;
        };
        known.turn = if known.last == lane { known.turn + 1 } else { 1 };
        known.last = lane;
        if known.turn >= TURN_RECORDS
            && let Some(place) = known.lanes.iter().position(|&other| other == lane)
        {
            known.turn = 0;
            let behind =
                known.priorities.partition_point(|&other| other <= known.priorities[place]);
            known.lanes[place..behind].rotate_left(1);
        }
    }

    /// Whether a process was here and has gone. What it sent may still be there.
    pub(super) fn is_gone(&self, pid: u32) -> bool {
        self.known.get(&pid).is_some_and(|known| known.gone)
    }

    /// Notes who has gone: those who have no lane left that is `active`.
    pub(super) fn note_gone(&mut self, active: impl Fn(u16) -> bool) {
        for known in self.known.values_mut().filter(|known| !known.gone) {
            if !known.lanes.iter().any(|&lane| active(lane)) {
                known.gone = true;
                self.gone.push_back((known.identity, false));
            }
        }
        while self.gone.len() > GONE_REMEMBERED {
            if let Some((oldest, _)) = self.gone.pop_front()
                && self.known.get(&oldest.pid).is_some_and(|k| k.gone && k.lanes.is_empty())
            {
                self.known.remove(&oldest.pid);
            }
        }
    }

    fn take_departed(&mut self) -> Vec<Identity> {
        let new = self.gone.iter_mut().filter(|(_, told)| !told);
        new.map(|(identity, told)| {
            *told = true;
            *identity
        })
        .collect()
    }
}

impl Receiver {
    /// Receives a message of one sender, named by its process id, if one is there. Waits no more than
    /// [`Self::try_receive`].
    ///
    /// Only that process's lanes are looked at: it costs the same whatever others have sent. A sender that is not
    /// known here may still come; one that has gone and has left nothing is an error.
    ///
    /// # Errors
    /// [`TryReceiveError`].
    pub fn try_receive_from(&mut self, pid: u32) -> Result<Delivery<'_>, TryReceiveError> {
        self.wanted = Some(pid);
        let result = self.try_slowly(None);
        self.wanted = None;
        result?;
        Ok(Delivery::new(self))
    }

    /// Receives a message of one sender, named by its process id; waits for one if none is there, and for the
    /// sender if it is not there yet.
    ///
    /// Messages of others stay where they are, in order, for whoever receives them: this receiver later, or
    /// another one.
    ///
    /// # Errors
    /// [`ReceiveError`], never `TimedOut`.
    pub fn receive_from(&mut self, pid: u32) -> Result<Delivery<'_>, ReceiveError> {
        self.wait_for(pid, None)?;
        Ok(Delivery::new(self))
    }

    /// Receives a message of one sender, named by its process id; waits for one until the deadline if none is
    /// there.
    ///
    /// # Errors
    /// [`ReceiveError`].
    pub fn receive_from_deadline(
        &mut self,
        pid: u32,
        deadline: Instant,
    ) -> Result<Delivery<'_>, ReceiveError> {
        self.wait_for(pid, Some(deadline))?;
        Ok(Delivery::new(self))
    }

    /// The senders that have gone since this was last asked, or since this receiver was opened, as far as it had
    /// seen their lanes: processes that hold the mailbox open to send no longer. What they sent may still be
    /// there. The last 4,096 at most.
    pub fn departed(&mut self) -> Vec<Identity> {
        self.until = None;
        // A mailbox that is gone has no senders either; who asks for messages is told.
        let _ = self.check();
        self.senders.take_departed()
    }

    fn wait_for(&mut self, pid: u32, deadline: Option<Instant>) -> Result<(), ReceiveError> {
        self.wanted = Some(pid);
        self.undisturbed_changes = u64::MAX;
        let result = self.take_slowly(deadline);
        self.wanted = None;
        // Quick again at the next receive, if nothing is against it.
        result
    }

    /// Takes the next message of a process, if there is one.
    pub(super) fn take_from(&mut self, pid: u32) -> Result<bool, TryReceiveError> {
        let left_over = self.claimant.left_over();
        if left_over.is_some_and(|lane| self.senders.lanes(pid).contains(&lane)) {
            return self.next_of_run();
        }
        if left_over.is_some() && !self.put_aside() {
            return Err(TryReceiveError::HandsFull);
        }
        if self.take_over_of(pid) {
            return self.next_of_run();
        }
        if !self.claimant.has_free_hands() {
            if !self.put_aside() {
                // If there is a place, somebody is just taking over what is in our hands.
                let busy = self.claimant.can_put_aside();
                return if busy { Ok(false) } else { Err(TryReceiveError::HandsFull) };
            }
            // With free hands also what others offer.
            if self.take_over_of(pid) {
                return self.next_of_run();
            }
        }
        if self.claimant.is_by_arrival() {
            return self.take_earliest(Some(pid));
        }
        match self.claimant.claim_one_of(self.senders.lanes(pid)) {
            Ok(Some(lane)) => {
                self.senders.note_turn(pid, lane);
                self.next_of_run()
            }
            Ok(None) => Ok(false),
            Err(malformed) => Err(self.corrupt(malformed)),
        }
    }

    /// Takes over what is offered of a process, if there is something.
    fn take_over_of(&mut self, pid: u32) -> bool {
        let lanes = self.senders.lanes(pid);
        self.claimant.anything_offered()
            && self.claimant.take_over_one(|lane| lanes.contains(&lane))
    }

    /// Puts what is held aside, for other receivers to take, or for this one later.
    pub(super) fn put_aside(&mut self) -> bool {
        let before = self.claimant.left_over();
        let returned = before.is_none() && !self.claimant.has_free_hands();
        let done = self.claimant.put_aside();
        // Whoever looked meanwhile for what was returned saw nothing to take.
        if before.is_some() || returned {
            self.wake_another(before);
        }
        done
    }

    /// Whether there is something of the wanted sender, or, without one, of anybody.
    pub(super) fn anything_wanted(&self) -> bool {
        let Some(pid) = self.wanted else { return self.claimant.anything_to_take() };
        let lanes = self.senders.lanes(pid);
        self.claimant.anything_to_take_of(lanes, |lane| lanes.contains(&lane))
    }

    /// Says whether this receiver, should it sleep, leaves the messages of others: then whoever rings wakes all.
    pub(super) fn set_choosy(&self, choosy: bool) {
        let (word, bit) = slot_bit(self.claimant.slot());
        let words = &self.claimant.cursors().header.choosy[word];
        // Relaxed: ordered by the heavy barrier before the last look, as the sleeping bit is.
        if choosy {
            words.fetch_or(bit, Relaxed)
        } else {
            words.fetch_and(!bit, Relaxed)
        };
    }
}
