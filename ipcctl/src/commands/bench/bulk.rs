//! What only our mailboxes do: messages in place, and in batches.

#![expect(unsafe_code, reason = "vouches for the senders of a mailbox of the benchmark's own")]

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use libipc::{Receiver, Sender, TrustedSenders};

use super::check::{END, Seen, stamp};
use super::measure::{self, Ends};
use super::plan::{Job, Kind, Report, Role};

/// Messages in place between two looks at the clock.
const BETWEEN_LOOKS: u64 = 256;
/// Bytes of a message in place that are written, and checked: how many more there are makes no difference.
const STAMP_BYTES: usize = 8;
/// Messages of a batch.
const BATCH_MESSAGES: usize = 256;

/// Does a job with ends of ours.
pub(super) fn run(job: &Job, ends: Ends<Sender, Receiver>) -> Result<Report> {
    let open = "this job lacks an end";
    match (job.kind, job.role) {
        (Kind::InPlace, Role::Send(number)) => {
            send_in_place(job, number, ends.sender.context(open)?)
        }
        (Kind::InPlace, _) => receive_in_place(job, ends.receiver.context(open)?),
        (Kind::Batches, Role::Send(number)) => {
            send_batches(job, number, ends.sender.context(open)?)
        }
        (Kind::Batches, _) => receive_batches(job, ends.receiver.context(open)?),
        _ => measure::run(job, ends),
    }
}

fn send_in_place(job: &Job, number: u8, mut sender: Sender) -> Result<Report> {
    let mut report = Report::default();
    let end = Instant::now() + job.warm_up + job.duration;
    while Instant::now() < end {
        for _ in 0..BETWEEN_LOOKS {
            let mut message = sender.reserve(job.bytes)?;
            let word = stamp(&mut message.bytes_mut()[..STAMP_BYTES], number, report.messages);
            message.commit()?;
            report.messages += 1;
            report.sum = report.sum.wrapping_add(word);
        }
    }
    let mut last = sender.reserve(job.bytes)?;
    stamp(&mut last.bytes_mut()[..STAMP_BYTES], number, END);
    last.commit()?;
    Ok(report)
}

fn receive_in_place(job: &Job, mut receiver: Receiver) -> Result<Report> {
    // SAFETY: the mailbox was made for this measurement; who sends to it is this very program, with
    // `send_in_place`, and nobody else receives from it.
    receiver.read_in_place(unsafe { TrustedSenders::new() });
    let stamps = Job { bytes: STAMP_BYTES, ..job.clone() };
    measure::receive_all(&stamps, |checker, senders| {
        for _ in 0..BETWEEN_LOOKS {
            let message = receiver.receive()?;
            let bytes = message.bytes();
            ensure!(bytes.len() == job.bytes, "a message of {} bytes came", bytes.len());
            let seen = checker.check(&bytes[..STAMP_BYTES])?;
            message.acknowledge();
            if seen == Seen::End {
                *senders -= 1;
                break;
            }
        }
        Ok(())
    })
}

fn send_batches(job: &Job, number: u8, mut sender: Sender) -> Result<Report> {
    let mut messages = vec![vec![0; job.bytes]; BATCH_MESSAGES];
    let mut report = Report::default();
    let end = Instant::now() + job.warm_up + job.duration;
    while Instant::now() < end {
        for message in &mut messages {
            let word = stamp(message, number, report.messages);
            report.messages += 1;
            report.sum = report.sum.wrapping_add(word);
        }
        sender.send_batch(&messages)?;
    }
    stamp(&mut messages[0], number, END);
    sender.send(&messages[0])?;
    Ok(report)
}

fn receive_batches(job: &Job, mut receiver: Receiver) -> Result<Report> {
    measure::receive_all(job, |checker, senders| {
        let batch = receiver.receive_batch(BATCH_MESSAGES)?;
        for message in batch.iter() {
            if checker.check(message.bytes())? == Seen::End {
                *senders -= 1;
            }
        }
        batch.acknowledge();
        Ok(())
    })
}
