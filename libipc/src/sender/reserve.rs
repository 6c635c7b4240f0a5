//! Messages that are written where they will be read.

use std::time::Instant;

use crate::error::{CommitError, SendError, TrySendError};
use crate::lane::record::RecordHeader;
use crate::sender::Sender;
use crate::session::Wait;

impl Sender {
    /// Room for a message of `len` bytes, to be written in place, if there is room. Never waits, as [`Self::try_send`] does not.
    ///
    /// # Errors
    /// [`TrySendError`].
    #[inline]
    pub fn try_reserve(&mut self, len: usize) -> Result<Reservation<'_>, TrySendError> {
        if !(self.is_undisturbed() && self.fits(len)) {
            self.make_room(len, Wait::BRIEFLY)?;
        }
        Ok(Reservation { sender: self, len })
    }

    /// Room for a message of `len` bytes, to be written in place; waits for it if there is none.
    ///
    /// ```no_run
    /// # let client = libipc::Client::connect()?;
    /// let mut frames = client.sender("frames")?;
    /// let mut frame = frames.reserve(1 << 20)?;
    /// frame.bytes_mut().fill(0x80);
    /// frame.commit()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`SendError`], never `TimedOut`.
    #[inline]
    pub fn reserve(&mut self, len: usize) -> Result<Reservation<'_>, SendError> {
        if !(self.is_undisturbed() && self.fits(len)) {
            self.wait_for_room(len, None)?;
        }
        Ok(Reservation { sender: self, len })
    }

    /// Room for a message of `len` bytes, to be written in place; waits for it until the deadline if there is
    /// none.
    ///
    /// # Errors
    /// [`SendError`].
    #[inline]
    pub fn reserve_deadline(
        &mut self,
        len: usize,
        deadline: Instant,
    ) -> Result<Reservation<'_>, SendError> {
        if !(self.is_undisturbed() && self.fits(len)) {
            self.wait_for_room(len, Some(deadline))?;
        }
        Ok(Reservation { sender: self, len })
    }
}

/// Room for one message in its sender's lane. Write it, and [`commit`](Self::commit). Dropped without that,
/// nothing was sent, whatever was written.
#[derive(Debug)]
#[must_use = "a reservation that is not committed sends nothing"]
pub struct Reservation<'a> {
    sender: &'a mut Sender,
    len: usize,
}

impl Reservation<'_> {
    /// The message to be. Its first contents are whatever lay there before: write all of it. Nobody else sees or
    /// changes it before it is committed. (In a child of fork, which has no such memory, it has no bytes.)
    #[inline]
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        if !self.sender.guard.is_original() {
            return &mut [];
        }
        self.sender.lane.writer.reserved(self.len)
    }

    /// Bytes of the message to be.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the message is to have no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Makes the message shorter: its first `len` bytes. It never gets longer.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Sends the message. In a rendezvous mailbox it waits, without a deadline, for the acknowledgement.
    ///
    /// # Errors
    /// [`CommitError`]: the mailbox was closed meanwhile, say. Nothing was sent.
    #[inline]
    pub fn commit(self) -> Result<(), CommitError> {
        let Self { sender, len } = self;
        if !sender.is_undisturbed() {
            sender.check_again()?;
        }
        let record = sender.lane.writer.record_to_come(RecordHeader::MESSAGE, len);
        if sender.rendezvous {
            sender.lane.expect_fate();
        }
        sender.lane.writer.append_written(RecordHeader::MESSAGE, len);
        sender.lane.writer.publish_appended();
        sender.announce();
        if sender.rendezvous {
            return sender.await_acknowledgement(record, None).map_err(|error| match error {
                SendError::InHand(ticket) => CommitError::InHand(ticket),
                SendError::DeadLettered => CommitError::DeadLettered,
                SendError::Dropped => CommitError::Dropped,
                SendError::Closed => CommitError::Closed,
                SendError::OwnerGone => CommitError::OwnerGone,
                SendError::NoReceivers => CommitError::NoReceivers,
                SendError::ReceiverGone => CommitError::ReceiverGone,
                SendError::DaemonAway => CommitError::DaemonAway,
                _ => CommitError::Deleted,
            });
        }
        let granules = sender.lane.writer.granules(len);
        sender.lane.writer.expect_more(granules);
        Ok(())
    }
}

impl Sender {
    #[cold]
    fn check_again(&mut self) -> Result<(), CommitError> {
        self.check().map_err(|error| match error {
            TrySendError::Forked => CommitError::Forked,
            TrySendError::Closed => CommitError::Closed,
            TrySendError::OwnerGone => CommitError::OwnerGone,
            TrySendError::NoReceivers => CommitError::NoReceivers,
            TrySendError::ReceiverGone => CommitError::ReceiverGone,
            _ => CommitError::Deleted,
        })
    }
}
