//! How a receiver sleeps, and whom it wakes.

use std::time::Instant;

use super::{Receiver, SENDERS_ASKED};
use crate::lane::fencing::{self, Wish};
use crate::lane::park::{self, Woke};
use crate::regions::{Cursors, Doorstep};
use crate::sync::AtomicU32;
use crate::sync::Ordering::{Acquire, Relaxed};
use crate::sys::futex::{Futex, WORDS_MAX};
use crate::sys::process;

impl Receiver {
    /// Sleeps until some bell rings or the deadline has passed.
    pub(super) fn sleep(&mut self, deadline: Option<Instant>) -> Woke {
        self.note_processor();
        self.elsewhere.disarm();
        self.settle_fencing();
        // Nobody rings when what was returned has been taken over, and our hands are free again.
        let hurried = self.stale || !self.claimant.has_free_hands();
        let header = &self.roster.header;
        let bells = self.doorsteps_to_listen_at().map(|doorstep| self.bell(doorstep));
        let bells = bells.take(WORDS_MAX);
        // With lanes that are still to be fetched, ask again soon.
        let at_most = hurried.then_some(park::SLEEP_AMONG_STRANGERS);
        let (claimant, seen) = (&self.claimant, self.seen_changes);
        let look = || self.anything_wanted() || header.changes.load(Acquire) != seen;
        let cursors: &Cursors = claimant.cursors();
        let slot = claimant.slot();
        if self.wanted.is_some() {
            self.set_choosy(true);
        }
        let limits = (deadline, self.lifeline.bound(at_most));
        let woke = park::sleep_on_bells(header, &cursors.header, slot, bells, limits, &Futex, look);
        if self.wanted.is_some() {
            self.set_choosy(false);
        }
        woke
    }

    /// Before it sleeps, or somebody for it: whether senders had better fence.
    pub(super) fn settle_fencing(&mut self) {
        let cursors = &self.claimant.cursors().header;
        match self.drowsiness.sleeps(self.claimant.received()) {
            Wish::Nothing => {}
            Wish::Fences => {
                if !fencing::turn_on(cursors, &Futex) {
                    self.drowsiness.give_up();
                }
            }
            Wish::NoFences => fencing::turn_off(cursors),
        }
    }

    /// Before it looks again and again: whether they had better not, any more.
    #[inline]
    pub(super) fn unsettle_fencing(&self) {
        if self.drowsiness.is_over(self.claimant.received()) {
            fencing::turn_off(&self.claimant.cursors().header);
        }
    }

    /// The doorsteps whose bells wake this receiver.
    pub(super) fn doorsteps_to_listen_at(&self) -> impl Iterator<Item = &Doorstep> {
        // Where every sender is of our own uid, their bell is as safe as one of our own.
        let senders = || self.neighbours.entrances().filter(|it| !it.is_home());
        let all_ours = senders().next().is_some() && senders().all(|it| it.uid == self.uid);
        let entrances = self.neighbours.entrances();
        entrances.filter(move |it| !(all_ours && it.is_home())).map(|it| &it.doorstep)
    }

    /// Wakes another sleeper, if there is one and something to take for it.
    #[cold]
    pub(super) fn pass_the_baton(&self) {
        if !self.guard.is_original() {
            return;
        }
        let (claimant, roster) = (&self.claimant, &self.roster.header);
        let (cursors, slot) = (&claimant.cursors().header, claimant.slot());
        let look = || self.stale || claimant.anything_to_take();
        if park::pass_on(roster, cursors, self.sleeping_words, slot, &Futex, look) {
            self.ring_common_bells();
        }
    }

    /// Rings for whatever lane: each receiver listens to all senders' bells that it knows. A single bell would not do, since the
    /// senders whose it is may have carried off whoever sleeps there.
    #[cold]
    pub(super) fn ring_common_bells(&self) {
        self.doorsteps_to_listen_at().for_each(|doorstep| self.ring(doorstep));
    }

    /// Rings the bell of a lane's sender.
    #[cold]
    pub(super) fn ring_bell_of(&self, lane: u16) {
        if let Some(doorstep) = self.neighbours.doorstep_of(lane) {
            self.ring(doorstep);
        }
    }

    fn ring(&self, doorstep: &Doorstep) {
        let cursors = &self.claimant.cursors().header;
        let count = park::sleepers_to_wake(cursors, self.sleeping_words);
        park::ring(self.bell(doorstep), count, &Futex);
    }

    /// The word of a doorstep on which this receiver's group sleeps.
    pub(super) fn bell<'a>(&self, doorstep: &'a Doorstep) -> &'a AtomicU32 {
        &doorstep.header.bells[self.group]
    }

    /// Wakes the sender of a lane if it waits for the room that was just made.
    #[cold]
    pub(super) fn wake_sender(&self, lane: u16) {
        let index = usize::from(lane);
        if let Some(reader) = self.claimant.lane(lane)
            && let Some(doorstep) = self.neighbours.doorstep_of(lane)
        {
            let claim = &self.claimant.cursors().claims[index].claim;
            park::wake_sender(reader.header(), claim, &doorstep.freed[index], &Futex);
        }
    }

    /// Whether some sender was last seen on another processor: only then can spinning pay.
    pub(super) fn sender_runs_elsewhere(&self) -> bool {
        let here = self.note_processor();
        let lanes = match self.wanted {
            Some(pid) => self.senders.lanes(pid),
            None => self.claimant.lanes(),
        };
        // Those whose turn it is, and no more than a few: where they run is a guess in any case.
        let first = if self.wanted.is_some() { 0 } else { self.claimant.turn() };
        let lanes = lanes.iter().skip(first).chain(lanes.iter().take(first)).take(SENDERS_ASKED);
        let mut readers = lanes.filter_map(|&lane| self.claimant.lane(lane));
        readers.any(|lane| lane.header().cpu.load(Relaxed) != here)
    }

    pub(super) fn note_processor(&self) -> u32 {
        let here = process::processor();
        let slot = usize::from(self.claimant.slot());
        self.claimant.cursors().slots[slot].cpu.store(here, Relaxed);
        here
    }
}
