//! A message in hand.

use crate::protocol::Identity;
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

    /// What the message is: see `lane::ring::RecordHeader`.
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
    #[inline]
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

    /// Gives the message back: whoever receives next gets it, with its attempts counted.
    pub fn return_to_queue(self) {
        drop(self);
    }
}

impl Drop for Delivery<'_> {
    fn drop(&mut self) {
        self.receiver.return_to_queue();
    }
}
