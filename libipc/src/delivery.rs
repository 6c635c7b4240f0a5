//! A message in hand.

use crate::error::RequestError;
use crate::protocol::{DeadLetter, Identity, Reason};
use crate::receiver::Receiver;

/// A message in a receiver's hand: acknowledge it when the work is done. Dropped without that, it goes
/// back to the mailbox, to be received again by whoever comes first; if this process dies, likewise.
#[derive(Debug)]
#[must_use = "a delivery that is not acknowledged goes back to the mailbox"]
pub struct Delivery<'a> {
    receiver: &'a mut Receiver,
}

impl<'a> Delivery<'a> {
    #[inline]
    pub(crate) fn new(receiver: &'a mut Receiver) -> Self {
        Self { receiver }
    }

    /// The message: 0 bytes up to the mailbox's longest. A copy of our own, which the sender cannot change;
    /// after [`Receiver::read_in_place`] the sender's own bytes.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.receiver.payload()
    }

    /// What the message is: see `lane::record::RecordHeader`.
    pub(crate) fn kind(&self) -> u8 {
        self.receiver.kind()
    }

    /// The number behind a call or a reply, if there is one.
    pub(crate) fn number(&self) -> Option<u64> {
        self.receiver.number()
    }

    pub(crate) fn receiver_mut(&mut self) -> &mut Receiver {
        self.receiver
    }

    /// Who sent it, as the kernel attested when the sender opened the mailbox.
    #[must_use]
    pub fn sender(&self) -> Identity {
        self.receiver.sender()
    }

    /// How often it may have been handed out before: 0 unless a receiver died with it or returned it.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.receiver.attempts()
    }

    /// The work is done: the message is gone for good, its room is the sender's again.
    #[inline(always)]
    pub fn acknowledge(self) {
        self.receiver.acknowledge();
        std::mem::forget(self);
    }

    /// The message, as a vector of the caller's; acknowledges.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        let bytes = self.receiver.take_payload();
        self.acknowledge();
        bytes
    }

    /// Gives the message back: whoever receives next gets it, with its attempts counted. If that was the last time
    /// that it may be handed out ([`crate::MailboxOptions::max_attempts`]) it becomes a dead letter instead.
    pub fn return_to_queue(self) {
        drop(self);
    }

    /// Nobody will ever be able to deal with the message: it becomes a dead letter, in the mailbox `dead/NAME`, which
    /// whoever may receive from this one may receive from. Its sender, if it waits or has a ticket, hears of it. The
    /// daemon does this.
    ///
    /// # Errors
    /// The message is given back then. [`RequestError::Refused`]: this is a dead letter, or was received from a group
    /// that drops the oldest; it is longer than 16 MiB; a quota of the mailbox's owner.
    pub fn reject(self) -> Result<(), RequestError> {
        let rejected = self.receiver.reject(Reason::Rejected);
        if rejected.is_ok() {
            std::mem::forget(self);
        }
        rejected
    }

    /// What is known of a dead letter: `None` if this is none. [`Self::sender`] is who sent the message at first.
    #[must_use]
    pub fn dead_letter(&self) -> Option<DeadLetter> {
        self.receiver.dead_letter()
    }
}

impl Drop for Delivery<'_> {
    fn drop(&mut self) {
        self.receiver.give_back();
    }
}
