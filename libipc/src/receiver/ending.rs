//! When there will be nothing more to receive, and why.

use super::Receiver;
use super::wait::without_empty;
use crate::error::{ReceiveError, TryReceiveError};
use crate::lane::layout::{SlotState, Traffic};
use crate::sync::Ordering::Relaxed;

impl Receiver {
    /// Forgets the lanes that are freed, and notes those that are to be reported once they are empty.
    pub(super) fn look_for_gone_senders(&mut self) {
        self.reports = self.traffic == Traffic::Draining;
        for lane in self.claimant.lanes().to_vec() {
            match self.neighbours.status(&self.roster, lane) {
                Some(SlotState::Gone) => {
                    self.reports = true;
                    self.report_if_drained(lane);
                }
                Some(_) => {}
                None => {
                    if self.claimant.detach(lane) {
                        self.neighbours.forget(lane);
                        self.senders.detach(lane);
                        self.answers.forget(lane);
                    }
                }
            }
        }
    }

    /// From now on this receiver is told when the last sender has gone: once senders have been there, none is
    /// now, and all they sent has been received, a receive ends with `NoSenders` instead of waiting for the next
    /// sender. Should one come after all, receiving goes on.
    pub fn end_with_last_sender(&mut self) {
        self.ends_with_senders = true;
    }

    /// From now on this receiver ends with the daemon: a receive that finds nothing fails with `DaemonAway` instead of
    /// waiting, and one that waits when the daemon goes, be it for a message or for its turn, does so within about
    /// 100 ms. Otherwise it goes on waiting, for the senders need no daemon.
    ///
    /// What is there is still received. A [`Self::try_receive`] says `DaemonAway` instead of `Empty` (not where others
    /// have the turn), and the descriptor, a [`crate::WaitSet`] and the future that wait for this receiver are told,
    /// too. Once lost the daemon stays lost: connect anew to the one that comes after it.
    pub fn end_without_daemon(&mut self) {
        self.lifeline.keep();
        // Whoever sleeps for this receiver sleeps too long.
        self.elsewhere.disarm();
    }

    /// Learns whether the daemon is away, where receiving ends with it. Before a last look for messages.
    pub(super) fn ask_for_daemon(&mut self) {
        self.lifeline.ask(self.link.session());
    }

    /// Why a receiver that finds nothing is not to wait: there will be nothing.
    pub(super) fn ending(&self) -> Option<TryReceiveError> {
        let header = &self.roster.header;
        // Relaxed: written before `changes` moved, which was acquired.
        let no_senders =
            || header.senders.load(Relaxed) == 0 && header.senders_ever.load(Relaxed) > 0;
        if self.wanted.is_some_and(|pid| self.senders.is_gone(pid)) {
            Some(TryReceiveError::SenderGone)
        } else if matches!(self.traffic, Traffic::Closed | Traffic::Draining) {
            Some(TryReceiveError::Closed)
        } else if self.ends_with_senders && no_senders() {
            Some(TryReceiveError::NoSenders)
        } else if self.lifeline.is_lost() {
            Some(TryReceiveError::DaemonAway)
        } else {
            None
        }
    }

    /// Takes what is left, if it is the end: `None` if it is not.
    pub(super) fn take_the_last(&mut self) -> Option<Result<(), ReceiveError>> {
        self.ending()?;
        match self.take(true) {
            Ok(true) => Some(Ok(())),
            Ok(false) => {
                let end = self.ending()?;
                self.report_if_all_drained();
                Some(Err(without_empty(end)))
            }
            Err(error) => Some(Err(without_empty(error))),
        }
    }

    /// Why nothing was taken.
    pub(super) fn why_nothing(&self) -> TryReceiveError {
        self.report_if_all_drained();
        self.ending().unwrap_or(TryReceiveError::Empty)
    }

    /// If the mailbox is there only until it is drained, and seems to be, tells the daemon, which looks for
    /// itself.
    pub(super) fn report_if_all_drained(&self) {
        if self.traffic == Traffic::Draining && !self.claimant.anything_to_take() {
            // If the daemon is away it will look when it is back.
            let _ = self.link.drained();
        }
    }
}
