//! What only our mailboxes do the same way: messages in place, and in batches.

#![expect(unsafe_code, reason = "vouches for the senders of a mailbox of the measurement's own")]

use anyhow::Result;
use libipc::{Receiver, Sender, TrustedSenders};

use crate::check::{END, Seen, stamp};
use crate::ends::{Ends, SendEnd};
use crate::job::{Job, Report, Role};
use crate::load::Kind;
use crate::loops::{self, receive_all, send_all};

/// Messages of a batch.
const BATCH_MESSAGES: usize = 256;

/// Does a job of one of these kinds with ends of ours.
pub(super) fn run(job: &Job, ends: &mut Ends<Sender, Receiver>) -> Result<Report> {
    match (job.load.kind, job.role) {
        (Kind::Batches, Role::Send(number)) => send_batches(job, number, ends.sender()?),
        (Kind::Batches, _) => receive_batches(job, ends.receiver()?),
        _ => {
            if let Ok(receiver) = ends.receiver() {
                // SAFETY: the mailbox was made for this measurement; who sends to it is this very program,
                // through `InPlace`, and nobody else receives from it.
                receiver.read_in_place(unsafe { TrustedSenders::new() });
            }
            let sender = ends.sender.take().map(|sender| InPlace { sender, bytes: job.load.bytes });
            let receiver = ends.receiver.take();
            let mut in_place = Ends { sender, receiver };
            let report = loops::run(job, &mut in_place);
            // They stay open until all have reported.
            ends.sender = in_place.sender.map(|end| end.sender);
            ends.receiver = in_place.receiver;
            report
        }
    }
}

/// Writes messages where they will be read.
struct InPlace {
    sender: Sender,
    bytes: usize,
}

impl SendEnd for InPlace {
    #[inline]
    fn send<T>(&mut self, mut write: impl FnMut(&mut [u8]) -> T) -> Result<T> {
        let mut message = self.sender.reserve(self.bytes)?;
        let written = write(message.bytes_mut());
        message.commit()?;
        Ok(written)
    }
}

fn send_batches(job: &Job, number: u8, sender: &mut Sender) -> Result<Report> {
    let mut messages = vec![vec![0; job.load.bytes]; BATCH_MESSAGES];
    let report = send_all(job, |report| {
        for message in &mut messages {
            let word = stamp(message, number, report.messages);
            report.messages += 1;
            report.sum = report.sum.wrapping_add(word);
        }
        Ok(sender.send_batch(&messages)?)
    })?;
    stamp(&mut messages[0], number, END);
    sender.send(&messages[0])?;
    Ok(report)
}

fn receive_batches(job: &Job, receiver: &mut Receiver) -> Result<Report> {
    receive_all(job, |checker, senders| {
        let batch = receiver.receive_batch(BATCH_MESSAGES)?;
        for message in batch.iter() {
            if checker.check(message.bytes()) == Seen::End {
                *senders -= 1;
            }
        }
        batch.acknowledge();
        Ok(())
    })
}
