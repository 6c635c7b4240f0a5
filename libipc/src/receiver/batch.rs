//! Several messages of one sender in hand at once.

use std::time::Instant;

use crate::error::{ReceiveError, RequestError, TryReceiveError};
use crate::lane::position::{GRANULE_BYTES, Position};
use crate::lane::run::Reach;
use crate::protocol::{Identity, Reason, Refusal};
use crate::receiver::Receiver;

/// The messages of the batch in hand. Kept by the receiver, so that its memory serves the next.
#[derive(Debug, Default)]
pub(super) struct BatchIndex {
    entries: Vec<Entry>,
    /// Entries acknowledged already.
    acknowledged: usize,
    /// Where the first record lies, and its payload behind its beginning, in bytes.
    first: Position,
    first_offset: usize,
}

/// One message of a batch.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Granules from the beginning of the first record.
    granules: u32,
    /// Bytes from the beginning of the first payload.
    offset: u32,
    len: u32,
    attempts: u32,
}

impl BatchIndex {
    fn at(&self, entry: Entry) -> Position {
        self.first.advance(entry.granules.into())
    }
}

/// Batches that a hostile sender may make empty, one after the other, each at the right moment, before the caller gets one.
const EMPTY_BATCHES_MAX: u32 = 100;

impl Receiver {
    /// Receives up to `max` messages of one sender if any are there, with one claim. Waits no more than [`Self::try_receive`].
    /// See [`Self::receive_batch`].
    ///
    /// # Errors
    /// [`TryReceiveError`].
    pub fn try_receive_batch(&mut self, max: usize) -> Result<Batch<'_>, TryReceiveError> {
        self.take_batch(max, |it| it.try_slowly(None))
    }

    /// Receives up to `max` messages of one sender (at least one, even for a `max` of 0), with one claim; waits
    /// until there is one, and not for more: what is there then is the batch.
    ///
    /// What is in a batch no other receiver gets, and its room the sender gets back when it is acknowledged. So
    /// a batch takes no more than a quarter of the sender's lane (or 4 KiB; a single message may be longer),
    /// 4096 messages and, unless they are read in place, 1 MiB; ask for as many as you deal with at once where
    /// others compete.
    ///
    /// # Errors
    /// [`ReceiveError`], never `TimedOut`.
    pub fn receive_batch(&mut self, max: usize) -> Result<Batch<'_>, ReceiveError> {
        self.receive_batch_until(max, None)
    }

    /// As [`Self::receive_batch`]; waits until the deadline at most.
    ///
    /// # Errors
    /// [`ReceiveError`].
    pub fn receive_batch_deadline(
        &mut self,
        max: usize,
        deadline: Instant,
    ) -> Result<Batch<'_>, ReceiveError> {
        self.receive_batch_until(max, Some(deadline))
    }

    fn receive_batch_until(
        &mut self,
        max: usize,
        deadline: Option<Instant>,
    ) -> Result<Batch<'_>, ReceiveError> {
        self.take_batch(max, |it| it.take_slowly(deadline))
    }

    fn take_batch<E>(
        &mut self,
        max: usize,
        slowly: impl Fn(&mut Self) -> Result<(), E>,
    ) -> Result<Batch<'_>, E> {
        for _ in 0..EMPTY_BATCHES_MAX {
            self.begin_batch(max);
            let taken = if self.take_quickly() { Ok(()) } else { slowly(self) };
            self.end_batch(max, taken.is_ok());
            taken?;
            // Empty: what the first message was its sender has just changed. The next look is at what it is now.
            if !self.batch.entries.is_empty() {
                break;
            }
        }
        Ok(Batch { receiver: self })
    }

    fn begin_batch(&mut self, max: usize) {
        self.claimant.set_reach(Reach::batch(max, self.payload.is_in_place()));
        self.payload.begin_batch();
        // What comes with the first message is looked at in its lane: so is that one.
        self.claimant.forget_copy();
        self.batching = true;
    }

    /// The first message is in hand, if one was `taken`: so are those behind it in its run from here on.
    fn end_batch(&mut self, max: usize, taken: bool) {
        self.batching = false;
        self.settle_reach();
        let index = &mut self.batch;
        index.entries.clear();
        index.acknowledged = 0;
        let max = max.clamp(1, Reach::BATCH_RECORDS_MAX);
        if let Some(first) = self.claimant.position_in_hand() {
            index.first = first;
        }
        let (first_offset, entries) = (&mut index.first_offset, &mut index.entries);
        self.claimant.take_more(max, |behind, header, len, attempts| {
            // The first is no longer in front of its payload than what stands in front of the others.
            // Its word is read anew: what stood there before, its sender may have changed.
            if behind == 0 {
                *first_offset = header;
            }
            let offset = behind as usize * GRANULE_BYTES + header - *first_offset;
            let (granules, len) = (behind as u32, len as u32);
            entries.push(Entry { granules, offset: offset as u32, len, attempts });
        });
        let last = index.entries.last();
        let bytes = last.map_or(0, |last| last.offset as usize + last.len as usize);
        let lane = self.claimant.in_hand().filter(|_| taken).map(|taken| taken.lane);
        match lane.and_then(|lane| self.claimant.lane(lane)) {
            Some(lane) => {
                let memory = lane.storage();
                self.payload.end_batch(memory, index.first, index.first_offset, bytes);
            }
            None => self.payload.abandon_batch(),
        }
        if self.lossy && self.lets_go() {
            self.let_go(self.batch.entries.len() as u64);
        }
    }

    /// Gives back what of the batch is not acknowledged; what was handed out as often as it may be, and that comes first, away.
    fn give_batch_back(&mut self) {
        while self.may_settle() && self.first_is_worn_out() && self.bury_first().is_ok() {}
        if self.batch.acknowledged < self.batch.entries.len() {
            self.return_to_queue();
        }
    }

    fn first_is_worn_out(&self) -> bool {
        let first = self.batch.entries.get(self.batch.acknowledged);
        first.is_some_and(|entry| self.is_worn_out(entry.attempts))
    }

    /// Has the daemon make a dead letter of the first message that is left, and goes on to the next.
    fn bury_first(&mut self) -> Result<(), RequestError> {
        let lane = self.claimant.in_hand().and_then(|taken| self.neighbours.lane(taken.lane));
        let (Some(lane), Some(at)) = (lane, self.claimant.position_in_hand()) else {
            return Err(Refusal::NotInHand.into());
        };
        self.link.reject(lane.ticket, at, Reason::Attempts)?;
        let index = &mut self.batch;
        index.acknowledged += 1;
        let next = index.entries.get(index.acknowledged).map(|entry| index.at(*entry));
        // It is not received: it does not count.
        if let Some(lane) = self.claimant.acknowledge_some(0, next) {
            self.has_freed(lane);
        }
        Ok(())
    }

    fn acknowledge_some(&mut self, count: usize) {
        let may_settle = self.may_settle();
        let index = &mut self.batch;
        let count = count.min(index.entries.len() - index.acknowledged);
        if count == 0 || !may_settle {
            return;
        }
        index.acknowledged += count;
        let next = index.entries.get(index.acknowledged).map(|entry| index.at(*entry));
        if let Some(lane) = self.claimant.acknowledge_some(count as u64, next) {
            self.has_freed(lane);
        } else {
            self.count_let_go(count as u64);
        }
    }
}

/// Messages in hand: one sender's, in its order. Acknowledge them when the work is done. Dropped without
/// that, they go back to the mailbox, all of those that are not acknowledged; if this process dies,
/// likewise.
#[derive(Debug)]
#[must_use = "a batch that is not acknowledged goes back to the mailbox"]
pub struct Batch<'a> {
    receiver: &'a mut Receiver,
}

impl Batch<'_> {
    /// Messages that are not acknowledged.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries().len()
    }

    /// Whether all of them are acknowledged: at first none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries().is_empty()
    }

    /// Who sent them, as the kernel attested when the sender opened the mailbox.
    #[must_use]
    pub fn sender(&self) -> Identity {
        self.receiver.sender()
    }

    /// The messages that are not acknowledged, in the order in which they were sent.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = BatchMessage<'_>> + DoubleEndedIterator {
        self.entries().iter().map(|entry| self.message(*entry))
    }

    /// One of the messages that are not acknowledged; 0 is the first.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<BatchMessage<'_>> {
        self.entries().get(index).map(|entry| self.message(*entry))
    }

    /// The work is done: the messages are gone for good, their room is the sender's again.
    pub fn acknowledge(self) {
        self.receiver.acknowledge_some(usize::MAX);
        std::mem::forget(self);
    }

    /// The work on the first `count` messages is done; the others stay in hand.
    pub fn acknowledge_first(&mut self, count: usize) {
        self.receiver.acknowledge_some(count);
    }

    /// Gives the messages back: whoever receives next gets them, with their attempts counted.
    pub fn return_to_queue(self) {
        drop(self);
    }

    fn entries(&self) -> &[Entry] {
        &self.receiver.batch.entries[self.receiver.batch.acknowledged..]
    }

    fn message(&self, entry: Entry) -> BatchMessage<'_> {
        let begin = entry.offset as usize;
        // All that was copied, or is seen: a call's number is left out by the entry's length.
        let bytes = &self.receiver.payload.bytes()[begin..begin + entry.len as usize];
        BatchMessage { bytes, attempts: entry.attempts }
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.receiver.give_batch_back();
    }
}

/// A message of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchMessage<'a> {
    bytes: &'a [u8],
    attempts: u32,
}

impl<'a> BatchMessage<'a> {
    /// The message: 0 bytes up to the mailbox's longest.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// How often it may have been handed out before: 0 unless a receiver died with it or returned it.
    #[inline]
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }
}
