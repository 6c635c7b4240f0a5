//! Several messages with one publish.

use std::time::Instant;

use crate::error::{BatchStopped, SendError, TrySendError};
use crate::sender::Sender;
use crate::session::Wait;

impl Sender {
    /// Sends as many of the messages as there is room for. Never waits, as [`Self::try_send`] does not. See [`Self::send_batch`].
    ///
    /// # Errors
    /// [`BatchStopped`] says how many were sent, and why the next was not.
    pub fn try_send_batch<M: AsRef<[u8]>>(
        &mut self,
        messages: &[M],
    ) -> Result<(), BatchStopped<TrySendError>> {
        if self.rendezvous {
            return one_by_one(messages, |message| self.try_to_meet(message));
        }
        self.send_all(messages, |sender, len| sender.make_room(len, Wait::BRIEFLY))
    }

    /// Sends messages, in their order; waits for room as often as there is none.
    ///
    /// As many as there is room for are published in one step: receivers see none of these before the last is
    /// written, and are woken once. They are messages like any other: another sender's may come between, and
    /// several receivers may share them. A sender that dies in the middle has sent the first of them, or none.
    ///
    /// # Errors
    /// [`BatchStopped`] says how many were sent, and why the next was not; never `TimedOut`.
    pub fn send_batch<M: AsRef<[u8]>>(
        &mut self,
        messages: &[M],
    ) -> Result<(), BatchStopped<SendError>> {
        self.send_all_waiting(messages, None)
    }

    /// As [`Self::send_batch`]; waits for room until the deadline at most.
    ///
    /// # Errors
    /// [`BatchStopped`] says how many were sent, and why the next was not.
    pub fn send_batch_deadline<M: AsRef<[u8]>>(
        &mut self,
        messages: &[M],
        deadline: Instant,
    ) -> Result<(), BatchStopped<SendError>> {
        self.send_all_waiting(messages, Some(deadline))
    }

    fn send_all_waiting<M: AsRef<[u8]>>(
        &mut self,
        messages: &[M],
        deadline: Option<Instant>,
    ) -> Result<(), BatchStopped<SendError>> {
        if self.rendezvous {
            return one_by_one(messages, |message| self.meet(message, deadline));
        }
        self.send_all(messages, |sender, len| sender.wait_for_room(len, deadline))
    }

    fn send_all<M: AsRef<[u8]>, E: std::error::Error>(
        &mut self,
        messages: &[M],
        mut room: impl FnMut(&mut Self, usize) -> Result<(), E>,
    ) -> Result<(), BatchStopped<E>> {
        let mut sent = self.send_what_fits(messages);
        while let Some(next) = messages.get(sent) {
            room(self, next.as_ref().len()).map_err(|why| BatchStopped { sent, why })?;
            sent += self.send_what_fits(&messages[sent..]);
        }
        Ok(())
    }

    /// Sends the first of the messages, those for which there is room as far as is known; returns how many.
    fn send_what_fits<M: AsRef<[u8]>>(&mut self, messages: &[M]) -> usize {
        if !self.is_undisturbed() {
            return 0;
        }
        let mut count = 0;
        if self.plain_changes == u64::from(self.seen_changes) {
            let mut messages = messages.iter().map(AsRef::as_ref);
            while messages.next().is_some_and(|message| self.lane.writer.append_plainly(message)) {
                count += 1;
            }
        } else {
            for message in messages.iter().map(AsRef::as_ref) {
                if !self.fits(message.len()) {
                    break;
                }
                self.lane.writer.append(message);
                count += 1;
            }
        }
        if count > 0 {
            self.lane.writer.publish_appended();
            self.announce();
        }
        count
    }
}

/// Where nothing is buffered each message is a rendezvous of its own.
fn one_by_one<M: AsRef<[u8]>, E: std::error::Error>(
    messages: &[M],
    mut send: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), BatchStopped<E>> {
    messages.iter().enumerate().try_for_each(|(sent, message)| {
        send(message.as_ref()).map_err(|why| BatchStopped { sent, why })
    })
}
