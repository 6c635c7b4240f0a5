//! Answering calls: `sender/call.rs` tells the story.

use std::collections::hash_map::Entry;

use super::Receiver;
use crate::delivery::Delivery;
use crate::error::{ReplyError, RequestError, TrySendError};
use crate::lane::ring::RecordHeader;
use crate::link::Link;
use crate::protocol::{LaneTicket, Refusal};
use crate::sender::Sender;

impl Delivery<'_> {
    /// Whether the sender waits for an answer.
    #[must_use]
    pub fn is_call(&self) -> bool {
        self.kind() == RecordHeader::CALL && self.number().is_some()
    }

    /// Answers the call that this message is, and acknowledges it. Never waits.
    ///
    /// An answer to a caller that is gone is an error, and the message is acknowledged all the same: nobody is left
    /// to do it for. After any other error the message goes back to the mailbox.
    ///
    /// # Errors
    /// [`ReplyError`].
    pub fn reply(self, answer: &[u8]) -> Result<(), ReplyError> {
        let Some(number) = self.number().filter(|_| self.is_call()) else {
            return Err(ReplyError::NotACall);
        };
        let mut this = self;
        let result = this.receiver_mut().answer(number, answer);
        if matches!(result, Ok(()) | Err(ReplyError::CallerGone)) {
            this.acknowledge();
        }
        result
    }
}

impl Receiver {
    fn answer(&mut self, number: u64, answer: &[u8]) -> Result<(), ReplyError> {
        let lane = self.lane_in_hand().ok_or(ReplyError::CallerGone)?;
        let sender = match self.answers.entry(lane) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(open_reply(&self.link, lane)?),
        };
        let result = sender.try_publish_numbered(RecordHeader::REPLY, number, answer);
        if matches!(result, Err(TrySendError::Deleted | TrySendError::OwnerGone)) {
            self.answers.remove(&lane);
        }
        result.map_err(|error| match error {
            TrySendError::Full => ReplyError::CallerBusy,
            TrySendError::TooLong { len, max } => ReplyError::TooLong { len, max },
            TrySendError::Forked => ReplyError::NoLink(RequestError::Forked),
            TrySendError::Corrupt(corrupt) => ReplyError::Corrupt(corrupt),
            TrySendError::Fault(fault) => ReplyError::NoLink(RequestError::Fault(fault)),
            _ => ReplyError::CallerGone,
        })
    }

    /// What the message in hand is.
    pub(crate) fn kind(&self) -> u8 {
        self.claimant.kind()
    }

    /// The number behind the message in hand.
    pub(crate) fn number(&self) -> Option<u64> {
        let (kind, bytes) = (self.claimant.kind(), self.payload.bytes());
        let number = bytes.get(RecordHeader::message_len(kind, bytes.len())..);
        number.and_then(|number| Some(u64::from_le_bytes(number.try_into().ok()?)))
    }

    /// The lane of the message in hand.
    fn lane_in_hand(&self) -> Option<LaneTicket> {
        Some(self.neighbours.lane(self.in_hand()?.lane)?.ticket)
    }
}

/// Opens the mailbox for the answers to a caller.
fn open_reply(link: &Link, caller: LaneTicket) -> Result<Sender, ReplyError> {
    let opened = link
        .open_reply(caller)
        .and_then(|(opened, descriptors)| Sender::new(link.session().clone(), opened, descriptors));
    opened.map_err(|error| match error {
        RequestError::Refused(Refusal::CallerGone) => ReplyError::CallerGone,
        other => ReplyError::NoLink(other),
    })
}
