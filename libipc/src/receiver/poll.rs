//! A receiver that is waited for elsewhere: on its descriptor, or in a [`crate::WaitSet`].

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

use super::Receiver;
use crate::error::{Fault, TryReceiveError};
use crate::sleeper::{BellSleeper, Sleeper, bell};
use crate::sync::Ordering::Acquire;
use crate::watch::{WORDS_WATCHED_MAX, Watch};

/// What a receiver knows of those who wait for it elsewhere.
#[derive(Debug, Default)]
pub(super) struct Elsewhere {
    /// Its descriptor, once it was asked for.
    pub(super) watch: Option<Watch>,
    /// A [`crate::WaitSet`] has slept for it, and it has not looked since.
    woken: bool,
    /// As made last, and good for as long as the roster stays the same.
    sleeper: Option<Arc<BellSleeper>>,
}

impl Elsewhere {
    /// Whether quick steps must be left out, so that [`Receiver::was_woken`] is asked.
    pub(super) fn must_be_asked(&self) -> bool {
        self.woken || self.watch.as_ref().is_some_and(Watch::is_busy)
    }

    /// Before the receiver sleeps by itself, or goes.
    pub(super) fn disarm(&self) {
        if let Some(watch) = &self.watch {
            watch.disarm();
        }
    }
}

impl Receiver {
    /// A descriptor for `poll`, `epoll` and event loops: readable while [`Self::try_receive`] may have
    /// something to say, be it a message, an ending or an error.
    ///
    /// It is readable from the beginning, and stays so until `try_receive` has answered
    /// [`TryReceiveError::Empty`]; so receive until then, and only then wait. Each such answer is followed
    /// by one wake-up at most, which may turn out to be for nothing: another receiver was quicker. A call that
    /// sleeps (`receive`, a [`crate::WaitSet`]) makes it readable. Only wait on it: nothing is to be read from it
    /// or written to it. It is the same descriptor at each call, and lives as long as the receiver.
    ///
    /// The first descriptor of a session that is waited on starts a thread, which sleeps on the mailbox's
    /// futexes for all of them.
    ///
    /// # Errors
    /// [`Fault`]: no descriptor is to be had, this is the child of a fork, or the mailbox's receivers take turns:
    /// those stand in line while they execute receive, so there is nothing to poll.
    pub fn poll_fd(&mut self) -> Result<BorrowedFd<'_>, Fault> {
        let step = "make a descriptor to poll";
        if !self.guard.is_original() {
            return Err(Fault::new(step, TryReceiveError::Forked));
        }
        if self.takes_turns() {
            return Err(Fault::new(step, "the mailbox's receivers take turns: block in receive"));
        }
        Watch::made_in(&mut self.elsewhere.watch, self.link.watchers()).map(Watch::fd)
    }

    /// As [`Receiver::take`] thoroughly; a polled receiver that finds nothing is armed.
    #[cold]
    pub(super) fn take_or_arm(&mut self) -> Result<bool, TryReceiveError> {
        self.take_patiently(false)
    }

    /// For the tokio adapter: as `try_receive`, but spins before it arms.
    #[cfg(feature = "tokio")]
    pub(crate) fn take_or_spin_or_arm(&mut self) -> Result<(), TryReceiveError> {
        self.until = None;
        self.ask_for_daemon();
        if self.take_patiently(true)? { Ok(()) } else { Err(self.why_nothing()) }
    }

    fn take_patiently(&mut self, spin: bool) -> Result<bool, TryReceiveError> {
        let woken = self.was_woken();
        let mut result = self.take(true);
        if spin && matches!(result, Ok(false)) && self.ending().is_none() {
            result = self.spin(None);
        }
        while matches!(result, Ok(false)) && self.must_arm() {
            result = match self.arm() {
                Ok(true) => break,
                Ok(false) => self.take(true),
                Err(fault) => Err(fault.into()),
            };
        }
        if woken {
            self.pass_the_baton();
        }
        result
    }

    fn must_arm(&self) -> bool {
        let watch = self.elsewhere.watch.as_ref();
        self.ending().is_none() && watch.is_some_and(|watch| !watch.is_armed())
    }

    fn arm(&mut self) -> Result<bool, Fault> {
        if self.stale {
            self.refresh();
        }
        self.note_processor();
        self.settle_fencing();
        let sleeper = self.bell_sleeper();
        let Some(watch) = &self.elsewhere.watch else { return Ok(true) };
        let (claimant, header) = (&self.claimant, &self.roster.header);
        let seen = self.seen_changes;
        let look = || claimant.anything_to_take() || header.changes.load(Acquire) != seen;
        let armed = watch.arm(sleeper, look)?;
        if armed {
            // Whoever was woken for it must be asked for before anything is taken.
            self.undisturbed_changes = u64::MAX;
        }
        Ok(armed)
    }

    /// Whether somebody who slept on this receiver's behalf has been woken since it last looked: then it
    /// has the baton.
    pub(super) fn was_woken(&mut self) -> bool {
        let fired = self.elsewhere.watch.as_ref().is_some_and(Watch::come);
        let woken = std::mem::take(&mut self.elsewhere.woken);
        if self.undisturbed_changes == u64::MAX {
            // Quick steps may perhaps be taken again.
            self.settle_quickness();
        }
        fired || woken
    }

    fn bell_sleeper(&mut self) -> Arc<BellSleeper> {
        let known = self.elsewhere.sleeper.take();
        let fits = |sleeper: &Arc<BellSleeper>| {
            sleeper.seen_changes == self.seen_changes
                && sleeper.hurried == self.stale
                && sleeper.lifeline.is_some() == self.lifeline.is_kept()
        };
        let sleeper = known.filter(fits).unwrap_or_else(|| Arc::new(self.new_bell_sleeper()));
        self.elsewhere.sleeper = Some(sleeper.clone());
        sleeper
    }

    fn new_bell_sleeper(&self) -> BellSleeper {
        let bell = |doorstep| bell(doorstep, self.group);
        let bells: Vec<_> = self.doorsteps_to_listen_at().map(bell).collect();
        let lanes = self.claimant.lanes().iter().filter_map(|&lane| {
            let reader = self.claimant.lane(lane)?;
            Some((lane, reader.shared_header()))
        });
        BellSleeper {
            roster: self.roster.clone(),
            cursors: self.claimant.cursors().clone(),
            slot: self.claimant.slot(),
            sleeping_words: self.sleeping_words,
            seen_changes: self.seen_changes,
            hurried: self.stale,
            lifeline: self.lifeline.is_kept().then(|| Arc::downgrade(self.link.session())),
            bells: bells.into_iter().take(WORDS_WATCHED_MAX).collect(),
            lanes: lanes.collect(),
        }
    }

    /// For a [`crate::WaitSet`] that is to end by then.
    pub(crate) fn end_by(&mut self, deadline: Option<Instant>) {
        self.until = deadline;
    }

    /// For a [`crate::WaitSet`]: whether `try_receive` would have something to say.
    pub(crate) fn has_news(&mut self) -> bool {
        self.unsettle_fencing();
        self.ask_for_daemon();
        self.check().is_err()
            || self.unreported.is_some()
            || self.ending().is_some()
            || self.claimant.has_run()
            || self.claimant.anything_to_take()
    }

    /// For a [`crate::WaitSet`] that is about to sleep for this receiver.
    pub(crate) fn sleeper(&mut self) -> Arc<dyn Sleeper> {
        self.elsewhere.disarm();
        if self.stale {
            self.refresh();
        }
        self.note_processor();
        self.settle_fencing();
        self.bell_sleeper()
    }

    /// For a [`crate::WaitSet`] that has slept for this receiver. `served`: its caller is told of this receiver
    /// first, and can be expected to look at once; others should not have to wait until it does for the rest.
    pub(crate) fn rise(&mut self, served: bool) {
        if served {
            self.elsewhere.woken = true;
            self.undisturbed_changes = u64::MAX;
        } else {
            self.pass_the_baton();
        }
    }

    /// For a [`crate::WaitSet`]: what it left to the receiver that it served first, and nobody has looked at.
    pub(crate) fn settle(&mut self) {
        if self.guard.is_original() && self.was_woken() {
            self.pass_the_baton();
        }
    }

    /// Whether spinning for this receiver may pay.
    pub(crate) fn peer_runs_elsewhere(&self) -> bool {
        self.sender_runs_elsewhere()
    }
}
