//! Answering calls: `sender/call.rs` tells the story.

use super::Receiver;
use crate::delivery::Delivery;
use crate::error::{ReplyError, RequestError, TrySendError};
use crate::lane::record::RecordHeader;
use crate::link::Link;
use crate::protocol::{LaneTicket, Refusal};
use crate::sender::Sender;
use crate::session::{Errand, Wait};

/// The end with which a caller is answered, once the daemon has given it.
#[derive(Debug, Default)]
pub(super) struct Way {
    sender: Option<Sender>,
    asked: Errand,
}

/// The ends with which calls are answered.
#[derive(Debug, Default)]
pub(super) struct Ways {
    /// By the slot of the caller's lane: which of the slot's lanes it is, and the end.
    slots: Vec<Option<(u32, Box<Way>)>>,
}

impl Ways {
    /// The way to a caller; what led to one before it in the same slot is gone.
    fn to(&mut self, caller: LaneTicket) -> &mut Way {
        let slot = usize::from(caller.index);
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        let entry = &mut self.slots[slot];
        if entry.as_ref().is_some_and(|(generation, _)| *generation != caller.generation) {
            *entry = None;
        }
        &mut entry.get_or_insert_with(|| (caller.generation, Box::default())).1
    }

    /// There is nobody to be answered in a slot.
    pub(super) fn forget(&mut self, slot: u16) {
        if let Some(entry) = self.slots.get_mut(usize::from(slot)) {
            *entry = None;
        }
    }
}

impl Delivery<'_> {
    /// Whether the sender waits for an answer.
    #[must_use]
    pub fn is_call(&self) -> bool {
        self.kind() == RecordHeader::CALL && self.number().is_some()
    }

    /// Answers the call that this message is, and acknowledges it. Never waits, but for a daemon that has to make the way
    /// to a new caller and does not answer: 100 ms at most.
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
        let Way { sender, asked } = self.answers.to(lane);
        let sender = match sender {
            Some(sender) => sender,
            None => sender.insert(open_reply(&self.link, asked, lane)?),
        };
        let result = sender.try_publish_numbered(RecordHeader::REPLY, number, answer);
        if matches!(result, Err(TrySendError::Deleted | TrySendError::OwnerGone)) {
            self.answers.forget(lane.index);
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
        self.claimant.word().kind()
    }

    /// The number behind the message in hand.
    pub(crate) fn number(&self) -> Option<u64> {
        Some(u64::from_le_bytes(self.payload.behind().try_into().ok()?))
    }

    /// The lane of the message in hand.
    fn lane_in_hand(&self) -> Option<LaneTicket> {
        Some(self.neighbours.lane(self.in_hand()?.lane)?.ticket)
    }
}

/// Opens the mailbox for the answers to a caller.
fn open_reply(link: &Link, asked: &mut Errand, caller: LaneTicket) -> Result<Sender, ReplyError> {
    let opened = link.open_reply(asked, caller, Wait::a_moment()).and_then(|opened| {
        let session = link.session();
        opened.map(|(opened, fds)| Sender::new(session.clone(), opened, fds)).transpose()
    });
    match opened {
        Ok(Some(sender)) => Ok(sender),
        Ok(None) => Err(ReplyError::TimedOut),
        Err(RequestError::Refused(Refusal::CallerGone)) => Err(ReplyError::CallerGone),
        Err(other) => Err(ReplyError::NoLink(other)),
    }
}
