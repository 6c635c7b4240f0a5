//! What each process of a measurement does, whatever carries the messages.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;
use nix::time::{ClockId, clock_gettime};

use super::check::{Checker, END, Seen, stamp};
use super::plan::{Job, Kind, Report, Role};

/// An end to send on.
pub(super) trait SendEnd {
    /// Sends a message; waits for room.
    fn send(&mut self, message: &[u8]) -> Result<()>;
}

/// An end to receive from.
pub(super) trait ReceiveEnd {
    /// Waits for a message, and looks at it.
    fn receive<T>(&mut self, look: impl FnOnce(&[u8]) -> T) -> Result<T>;
}

/// The ends that a process has open.
pub(super) struct Ends<S, R> {
    /// To send on.
    pub(super) sender: Option<S>,
    /// To receive from.
    pub(super) receiver: Option<R>,
}

/// The pause before a message to a receiver that shall be asleep.
const NAP: Duration = Duration::from_millis(1);

/// Does a job, from the moment on which all processes are ready.
pub(super) fn run<S: SendEnd, R: ReceiveEnd>(job: &Job, ends: Ends<S, R>) -> Result<Report> {
    let sender = ends.sender.context("this job has nothing to send on");
    let receiver = ends.receiver.context("this job has nothing to receive from");
    match job.role {
        Role::Send(number) if job.kind == Kind::WakeUp => send_naps(job, number, sender?),
        Role::Receive if job.kind == Kind::WakeUp => receive_naps(job, receiver?),
        Role::Send(number) => send_stream(job, number, sender?),
        Role::Receive => receive_stream(job, receiver?),
        Role::Ping => ping(job, sender?, receiver?),
        Role::Pong => pong(job, sender?, receiver?),
    }
}

/// Messages between two looks at the clock: some microseconds of work, whatever their length.
fn batch(bytes: usize) -> u64 {
    (16_384 / bytes as u64).clamp(1, 512)
}

fn send_stream<S: SendEnd>(job: &Job, number: u8, mut sender: S) -> Result<Report> {
    let mut message = vec![0; job.bytes];
    let mut report = Report::default();
    let end = Instant::now() + job.warm_up + job.duration;
    while Instant::now() < end {
        for _ in 0..batch(job.bytes) {
            let word = stamp(&mut message, number, report.messages);
            sender.send(&message)?;
            report.messages += 1;
            report.sum = report.sum.wrapping_add(word);
        }
    }
    for _ in 0..job.receivers {
        stamp(&mut message, number, END);
        sender.send(&message)?;
    }
    Ok(report)
}

fn receive_stream<R: ReceiveEnd>(job: &Job, mut receiver: R) -> Result<Report> {
    receive_all(job, |checker, senders| take(&mut receiver, checker, batch(job.bytes), senders))
}

/// Receives until all senders have sent their end; `take` receives some, and counts the senders down.
pub(super) fn receive_all(
    job: &Job,
    mut take: impl FnMut(&mut Checker, &mut u8) -> Result<()>,
) -> Result<Report> {
    let mut checker = Checker::new(job.bytes, job.senders, job.receivers > 1);
    let mut senders = job.senders;
    let warm = Instant::now() + job.warm_up;
    while Instant::now() < warm && senders == job.senders {
        take(&mut checker, &mut senders)?;
    }
    let (start, before) = (Instant::now(), checker.messages);
    while senders == job.senders {
        take(&mut checker, &mut senders)?;
    }
    let rate = (checker.messages - before) as f64 / start.elapsed().as_secs_f64();
    // The others have more: it is checked, but no longer measured.
    while senders > 0 {
        take(&mut checker, &mut senders)?;
    }
    Ok(Report { messages: checker.messages, sum: checker.sum, rate, ..Report::default() })
}

/// Receives up to `count` messages, or up to the end of a sender.
#[inline]
fn take<R: ReceiveEnd>(
    receiver: &mut R,
    checker: &mut Checker,
    count: u64,
    senders: &mut u8,
) -> Result<()> {
    for _ in 0..count {
        if receiver.receive(|message| checker.check(message))?? == Seen::End {
            *senders -= 1;
            break;
        }
    }
    Ok(())
}

fn ping<S: SendEnd, R: ReceiveEnd>(job: &Job, mut sender: S, mut receiver: R) -> Result<Report> {
    let mut message = vec![0; job.bytes];
    let mut checker = Checker::new(job.bytes, 1, false);
    let mut histogram = histogram()?;
    let start = Instant::now();
    let (warm, end) = (start + job.warm_up, start + job.warm_up + job.duration);
    let mut before = Instant::now();
    while before < end {
        stamp(&mut message, 0, checker.messages);
        sender.send(&message)?;
        let seen = receiver.receive(|message| checker.check(message))??;
        ensure!(seen == Seen::Message, "the other side ended too early");
        let after = Instant::now();
        if before >= warm {
            // In picoseconds, so that half a round trip keeps its last digit.
            histogram.saturating_record((after - before).as_nanos() as u64 * 500);
        }
        before = after;
    }
    stamp(&mut message, 0, END);
    sender.send(&message)?;
    Ok(Report { messages: checker.messages, sum: checker.sum, ..percentiles(&histogram) })
}

fn pong<S: SendEnd, R: ReceiveEnd>(job: &Job, mut sender: S, mut receiver: R) -> Result<Report> {
    let mut message = vec![0; job.bytes];
    let mut checker = Checker::new(job.bytes, 1, false);
    loop {
        let seen = receiver.receive(|bytes| {
            let seen = checker.check(bytes)?;
            message.copy_from_slice(bytes);
            anyhow::Ok(seen)
        })??;
        if seen == Seen::End {
            break;
        }
        sender.send(&message)?;
    }
    Ok(Report { messages: checker.messages, sum: checker.sum, ..Report::default() })
}

fn send_naps<S: SendEnd>(job: &Job, number: u8, mut sender: S) -> Result<Report> {
    let mut message = vec![0; job.bytes];
    let mut report = Report::default();
    let end = Instant::now() + job.warm_up + job.duration;
    while Instant::now() < end {
        thread::sleep(NAP);
        let word = stamp(&mut message, number, report.messages);
        message[8..16].copy_from_slice(&monotonic_ns()?.to_le_bytes());
        sender.send(&message)?;
        report.messages += 1;
        report.sum = report.sum.wrapping_add(word);
    }
    stamp(&mut message, number, END);
    sender.send(&message)?;
    Ok(report)
}

fn receive_naps<R: ReceiveEnd>(job: &Job, mut receiver: R) -> Result<Report> {
    let mut checker = Checker::new(job.bytes, job.senders, false);
    let mut histogram = histogram()?;
    let warm = Instant::now() + job.warm_up;
    loop {
        let (seen, sent_ns) = receiver.receive(|message| {
            let seen = checker.check(message)?;
            let stamp = message[8..].first_chunk().copied().unwrap_or_default();
            anyhow::Ok((seen, u64::from_le_bytes(stamp)))
        })??;
        if seen == Seen::End {
            break;
        }
        let elapsed_ns = monotonic_ns()?.saturating_sub(sent_ns);
        if Instant::now() >= warm {
            histogram.saturating_record(elapsed_ns * 1000);
        }
    }
    Ok(Report { messages: checker.messages, sum: checker.sum, ..percentiles(&histogram) })
}

/// The clock that both processes share.
fn monotonic_ns() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(Duration::from(now).as_nanos() as u64)
}

/// A histogram of picoseconds, up to ten seconds.
pub(super) fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 10_000_000_000_000, 3)?)
}

/// Median and 99th percentile of a histogram of picoseconds, in ns.
pub(super) fn percentiles(histogram: &Histogram<u64>) -> Report {
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    Report { p50_ns: at(0.5), p99_ns: at(0.99), ..Report::default() }
}
