//! As many messages as go through.

use std::time::Instant;

use anyhow::Result;

use crate::check::{Checker, END, Seen, stamp};
use crate::ends::{ReceiveEnd, SendEnd};
use crate::job::{Job, Report};
use crate::load::Kind;

/// Messages between two looks at the clock: some microseconds of work, whatever their length.
fn between_looks(job: &Job) -> u64 {
    if job.load.kind == Kind::InPlace {
        return 256;
    }
    (16_384 / job.load.bytes as u64).clamp(1, 512)
}

pub(super) fn send<S: SendEnd>(job: &Job, number: u8, sender: &mut S) -> Result<Report> {
    let count = between_looks(job);
    let send = |report: &mut Report| {
        // Counted here, where the compiler keeps them in registers.
        let (mut messages, mut sum) = (report.messages, report.sum);
        for _ in 0..count {
            let word = sender.send(|message| stamp(message, number, messages))?;
            messages += 1;
            sum = sum.wrapping_add(word);
        }
        (report.messages, report.sum) = (messages, sum);
        Ok(())
    };
    let report = send_all(job, send)?;
    for _ in 0..job.load.receivers {
        sender.send(|message| stamp(message, number, END))?;
    }
    Ok(report)
}

/// Sends for as long as the job says; `send` sends some, and counts them.
///
/// # Errors
/// What `send` says.
pub fn send_all(job: &Job, mut send: impl FnMut(&mut Report) -> Result<()>) -> Result<Report> {
    let mut report = Report::default();
    let end = Instant::now() + job.warm_up + job.duration;
    while Instant::now() < end {
        send(&mut report)?;
    }
    Ok(report)
}

pub(super) fn receive<R: ReceiveEnd>(job: &Job, receiver: &mut R) -> Result<Report> {
    let count = between_looks(job);
    receive_all(job, |checker, senders| {
        for _ in 0..count {
            if receiver.receive(|message| checker.check(message))? == Seen::End {
                *senders -= 1;
                break;
            }
        }
        Ok(())
    })
}

/// Receives until all senders have sent their end; `take` receives some, and counts the senders down.
///
/// # Errors
/// What `take` says.
pub fn receive_all(
    job: &Job,
    mut take: impl FnMut(&mut Checker, &mut u8) -> Result<()>,
) -> Result<Report> {
    let load = &job.load;
    let mut checker = Checker::new(load.bytes, load.senders, load.receivers > 1);
    let mut senders = load.senders;
    let (begin, warm) = (Instant::now(), Instant::now() + job.warm_up);
    while Instant::now() < warm && senders == load.senders {
        take(&mut checker, &mut senders)?;
    }
    let (start, before) = (Instant::now(), checker.seen.messages);
    while senders == load.senders {
        take(&mut checker, &mut senders)?;
    }
    let (mut messages, mut elapsed) = (checker.seen.messages - before, start.elapsed());
    if messages == 0 {
        // On a machine that is busy with other things, all may have come while we thought to warm up.
        (messages, elapsed) = (checker.seen.messages, begin.elapsed());
    }
    let rate = messages as f64 / elapsed.as_secs_f64();
    // The others have more: it is checked, but no longer measured.
    while senders > 0 {
        take(&mut checker, &mut senders)?;
    }
    Ok(Report { rate, ..checker.seen })
}
