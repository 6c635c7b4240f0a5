//! When a send is not to go, or not to wait, though the mailbox is open: who must receive is gone, or the daemon is.

use super::Sender;
use crate::error::{SendError, TrySendError};
use crate::lane::layout::{Limits, SlotState};
use crate::regions::Roster;
use crate::sync::Ordering::{Acquire, Relaxed};

/// Who must have the mailbox open to receive.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Required {
    anybody: bool,
    process: Option<u32>,
}

/// Who of them has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// There is no receiver at all.
    Everybody,
    /// The process that was named.
    Process,
}

impl Sender {
    /// Has every send fail with `NoReceivers` while nobody has the mailbox open to receive, also one that waits
    /// when the last receiver goes. Otherwise messages wait for receivers to come.
    pub fn require_receivers(&mut self) {
        self.required.anybody = true;
        self.refresh();
    }

    /// Has every send fail with `ReceiverGone` while no receiver of this process has the mailbox open, be it gone or
    /// not there yet; also one that waits when the last receiver of that process is closed or dies. Messages still go
    /// to whichever receiver takes them. Of several calls the last counts.
    ///
    /// Processes are named as [`crate::Identity`] names them: by the number that they have for the daemon, under
    /// which a delivery tells its sender and a [`crate::Reply`] its server. A later process that got the same number
    /// counts as the same one.
    ///
    /// ```no_run
    /// # let client = libipc::Client::connect()?;
    /// let mut orders = client.sender("orders")?;
    /// orders.require_receiver(client.find("clerk")?.pid);
    /// match orders.send(b"two pounds of tea") {
    ///     Err(libipc::SendError::ReceiverGone) => println!("the clerk has left"),
    ///     sent => sent?,
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn require_receiver(&mut self, pid: u32) {
        self.required.process = Some(pid);
        self.refresh();
    }

    /// From now on this sender ends with the daemon: a send that finds no room fails with `DaemonAway` instead of
    /// waiting, one that waits when the daemon goes does so within about 100 ms, and so does one that waits for an
    /// acknowledgement or an answer (these get 100 ms without a daemon, too). Otherwise sends go on waiting, for the
    /// receivers need no daemon.
    ///
    /// What there is room for is still sent. A [`Self::try_send`] says `DaemonAway` instead of `Full`, up to 10 ms
    /// late, and so do the descriptor, a [`crate::WaitSet`] and the future that wait for it. A ticket's wait goes on.
    /// Once lost the daemon stays lost: connect anew to the one that comes after it.
    pub fn end_without_daemon(&mut self) {
        self.lifeline.keep();
        // Whoever sleeps for this sender sleeps too long.
        self.elsewhere.disarm();
    }

    /// Why a send that finds no room has to do without.
    pub(super) fn why_no_room(&mut self) -> TrySendError {
        if !self.has_lost_daemon() {
            return TrySendError::Full;
        }
        // A daemon that ends in order tells of that first.
        self.check().err().unwrap_or(TrySendError::DaemonAway)
    }

    /// Whether a wait is to end, for the daemon is away. Asks the kernel where that was asked for.
    pub(super) fn has_lost_daemon(&mut self) -> bool {
        self.lifeline.ask(self.link.session())
    }
}

impl Required {
    /// Who is missing, as the roster has it now.
    pub(super) fn missing(self, roster: &Roster, limits: Limits) -> Option<Missing> {
        // Relaxed: written before `changes` moved, which was acquired.
        if self.anybody && roster.header.receivers.load(Relaxed) == 0 {
            return Some(Missing::Everybody);
        }
        let pid = self.process?;
        (!receives(roster, limits, pid)).then_some(Missing::Process)
    }
}

/// Whether some receiver of a process has the mailbox open.
fn receives(roster: &Roster, limits: Limits, pid: u32) -> bool {
    loop {
        let changes = roster.header.changes.load(Acquire);
        let mut groups =
            roster.receivers.chunks(limits.receivers_max.into()).zip(&roster.header.groups);
        let found = groups.any(|(entries, group)| {
            let high = group.receivers_high.load(Acquire) as usize;
            entries.iter().take(high).any(|entry| {
                // PAIR(slots): Acquire here, Release in `ipcd`; the pid was written before.
                SlotState::from_word(entry.state.load(Acquire)) == SlotState::Active
                    && entry.pid.load(Relaxed) == pid
            })
        });
        // It may have opened a slot that was read already and then closed one that was not yet.
        if found || roster.header.changes.load(Acquire) == changes {
            return found;
        }
    }
}

impl From<Missing> for TrySendError {
    fn from(missing: Missing) -> Self {
        match missing {
            Missing::Everybody => Self::NoReceivers,
            Missing::Process => Self::ReceiverGone,
        }
    }
}

impl From<Missing> for SendError {
    fn from(missing: Missing) -> Self {
        match missing {
            Missing::Everybody => Self::NoReceivers,
            Missing::Process => Self::ReceiverGone,
        }
    }
}
