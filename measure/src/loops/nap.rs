//! A message now and then, to a receiver that waits.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::time::{ClockId, clock_gettime};

use super::{histogram, with_percentiles};
use crate::check::{Checker, END, Seen, stamp};
use crate::ends::{ReceiveEnd, SendEnd};
use crate::job::{Job, Report};

/// The pause before a message to a receiver that shall be asleep.
const NAP: Duration = Duration::from_millis(1);

pub(super) fn send<S: SendEnd>(job: &Job, number: u8, sender: &mut S) -> Result<Report> {
    let mut report = Report::default();
    let end = Instant::now() + job.warm_up + job.duration;
    while Instant::now() < end {
        thread::sleep(NAP);
        let now_ns = monotonic_ns()?;
        let word = sender.send(|message| {
            message[8..16].copy_from_slice(&now_ns.to_le_bytes());
            stamp(message, number, report.messages)
        })?;
        report.messages += 1;
        report.sum = report.sum.wrapping_add(word);
    }
    sender.send(|message| stamp(message, number, END))?;
    Ok(report)
}

pub(super) fn receive<R: ReceiveEnd>(job: &Job, receiver: &mut R) -> Result<Report> {
    let mut checker = Checker::new(job.load.bytes, job.load.senders, false);
    let mut histogram = histogram()?;
    let mut warm = Some(Instant::now() + job.warm_up);
    loop {
        let (seen, sent_ns) = receiver.receive(|message| {
            let stamp = message.get(8..).and_then(|rest| rest.first_chunk()).copied();
            (checker.check(message), u64::from_le_bytes(stamp.unwrap_or_default()))
        })?;
        if seen == Seen::End {
            break;
        }
        let elapsed_ns = monotonic_ns()?.saturating_sub(sent_ns);
        // What came before does not count, unless nothing comes behind.
        if warm.take_if(|warm| Instant::now() >= *warm).is_some() {
            histogram.reset();
        }
        histogram.saturating_record(elapsed_ns.saturating_mul(1000));
    }
    Ok(with_percentiles(checker.seen, &histogram))
}

/// The clock that both processes share.
fn monotonic_ns() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(Duration::from(now).as_nanos() as u64)
}
