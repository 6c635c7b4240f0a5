//! Groups that lose their oldest messages rather than hold senders back: what a receiver has copied holds no
//! room, and is received at most once.

use super::Receiver;
use crate::lane::claim::Taken;
use crate::lane::park;
use crate::lane::reader::LaneReader;
use crate::sync::Ordering::Relaxed;

/// What is in hand and holds no room any more.
#[derive(Clone, Copy, Debug)]
pub(super) struct LetGo {
    pub(super) taken: Taken,
    /// Messages that are not acknowledged.
    pub(super) count: u64,
}

impl Receiver {
    /// In a group that loses its oldest messages: how many it has lost. Those that were dropped because it was slow,
    /// and those that this receiver has returned, since they cannot come again.
    #[must_use]
    pub fn lost(&self) -> u64 {
        let dropped = &self.roster.header.groups[self.group].dropped;
        // Relaxed: a counter for people.
        dropped.load(Relaxed).wrapping_add(self.lost)
    }

    /// The messages in hand, so many, are this receiver's now, whatever becomes of them: their room is free.
    #[cold]
    pub(super) fn let_go(&mut self, count: u64) {
        let taken = self.claimant.in_hand();
        if let (Some(taken), Some(lane)) = (taken, self.claimant.let_go()) {
            self.let_go = Some(LetGo { taken, count });
            let reader = self.claimant.lane(lane);
            let waits = |r: &LaneReader<_>| park::sender_waits(&self.roster.header, r.header());
            if reader.is_some_and(waits) {
                self.wake_sender(lane);
            }
        }
    }

    /// Messages that were let go are done with.
    #[cold]
    pub(super) fn count_let_go(&mut self, count: u64) {
        if let Some(LetGo { taken, count: left }) = self.let_go {
            self.claimant.count_received(count);
            let left = left.saturating_sub(count);
            self.let_go = (left > 0).then_some(LetGo { taken, count: left });
            if self.reports {
                self.report_if_drained(taken.lane);
                self.report_if_all_drained();
            }
        }
    }

    /// Whether what is copied is let go at once: not what is read in place, and a batch only when all of it is
    /// copied.
    pub(super) fn lets_go(&self) -> bool {
        !self.payload.is_in_place() && !self.batching
    }
}
