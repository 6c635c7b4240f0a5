//! Sends that one hears of again: with a ticket, or by waiting for the acknowledgement.

use std::sync::Arc;
use std::time::Instant;

use super::Sender;
use crate::error::{SendError, TrySendError};
use crate::lane::record::RecordHeader;
use crate::lane::withdraw::Record;
use crate::session::Wait;
use crate::ticket::{LaneView, SentLane, Ticket};

impl Sender {
    /// Sends, and gives a ticket that tells what becomes of the message; waits for room if there is none, and for
    /// nothing else: in a rendezvous mailbox, too, it is the ticket that tells of the meeting.
    ///
    /// # Errors
    /// [`SendError`], neither `TimedOut` nor `InHand`; the message is still the caller's.
    pub fn send_tracked(&mut self, message: &[u8]) -> Result<Ticket, SendError> {
        self.send_tracked_until(message, None)
    }

    /// As [`Self::send_tracked`]; waits for room until the deadline at most.
    ///
    /// # Errors
    /// [`SendError`], never `InHand`; the message is still the caller's.
    pub fn send_tracked_deadline(
        &mut self,
        message: &[u8],
        deadline: Instant,
    ) -> Result<Ticket, SendError> {
        self.send_tracked_until(message, Some(deadline))
    }

    /// As [`Self::send_tracked`], if there is room. Never waits, as [`Self::try_send`] does not.
    ///
    /// # Errors
    /// [`TrySendError`], neither `NotTaken` nor `InHand`; the message is still the caller's.
    pub fn try_send_tracked(&mut self, message: &[u8]) -> Result<Ticket, TrySendError> {
        self.make_room(message.len(), Wait::BRIEFLY)?;
        let record = self.publish_record(message);
        Ok(self.ticket(record))
    }

    /// Sends, and waits until the message has been received and acknowledged; with groups, by every group.
    ///
    /// A receiver that dies with it or returns it has not acknowledged it: another gets it, and the send goes on
    /// waiting. If the mailbox is closed what is queued drains, so the send goes on waiting; in a rendezvous mailbox,
    /// where nothing is queued, it ends with `Closed` if no receiver has taken the message.
    ///
    /// # Errors
    /// [`SendError`], never `TimedOut`; the message is still the caller's, but for `InHand`.
    pub fn send_sync(&mut self, message: &[u8]) -> Result<(), SendError> {
        self.meet(message, None)
    }

    /// As [`Self::send_sync`]; waits until the deadline at most. Then the message is taken back, from the middle of
    /// the queue if need be: `TimedOut` says that nobody has it, and nobody will; `InHand` that a receiver has it.
    ///
    /// # Errors
    /// [`SendError`]; the message is still the caller's, but for `InHand`.
    pub fn send_sync_deadline(
        &mut self,
        message: &[u8],
        deadline: Instant,
    ) -> Result<(), SendError> {
        self.meet(message, Some(deadline))
    }

    fn send_tracked_until(
        &mut self,
        message: &[u8],
        deadline: Option<Instant>,
    ) -> Result<Ticket, SendError> {
        self.wait_for_room(message.len(), deadline)?;
        let record = self.publish_record(message);
        Ok(self.ticket(record))
    }

    /// Publishes a message, and says where it lies.
    pub(super) fn publish_record(&mut self, message: &[u8]) -> Record {
        self.lane.expect_fate();
        let record = self.lane.writer.record_to_come(RecordHeader::MESSAGE, message.len());
        self.publish(message);
        record
    }

    /// A ticket of a message that was published.
    pub(crate) fn ticket(&mut self, record: Record) -> Ticket {
        let lane = match &self.lane.shared {
            Some(lane) => lane.clone(),
            None => self.share_lane(),
        };
        Ticket::new(lane, record)
    }

    #[cold]
    fn share_lane(&mut self) -> Arc<SentLane> {
        let lane = self.lane.writer.lane();
        let words = LaneView {
            roster: self.roster.clone(),
            groups: self.groups.iter().map(|(cursors, _)| cursors.clone()).collect(),
            lane,
            header: self.lane.writer.shared_header(),
            freed: self.doorstep.freed.element(lane.into()),
            verdict: self.doorstep.verdicts.element(lane.into()),
            fates: self.lane.fates.clone(),
        };
        self.lane.writer.expect_withdrawals();
        self.settle_plainness();
        let marks = self.lane.writer.storage().marks();
        let shared = Arc::new(SentLane::new(words, marks, self.link.watchers().clone()));
        self.lane.shared = Some(shared.clone());
        shared
    }
}
