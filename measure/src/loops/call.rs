//! A question there, an answer back, by the system's own means.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::{histogram, with_percentiles};
use crate::check::{Checker, END, Seen, stamp};
use crate::ends::{AnswerEnd, AskEnd};
use crate::job::{Job, Report};

/// Asks, for as long as the job says.
///
/// # Errors
/// What the end says.
pub fn ask<E: AskEnd>(job: &Job, end: &mut E) -> Result<Report> {
    let mut checker = Checker::new(job.load.bytes, 1, false);
    let mut histogram = histogram()?;
    let start = Instant::now();
    let (warm, stop) = (start + job.warm_up, start + job.warm_up + job.duration);
    let mut before = Instant::now();
    while before < stop || histogram.is_empty() {
        let sequence = checker.seen.messages;
        let seen =
            end.ask(|message| _ = stamp(message, 0, sequence), |answer| checker.check(answer))?;
        ensure!(seen == Seen::Message, "the other side ended too early");
        ensure!(checker.seen.messages > sequence, "a broken answer came");
        let after = Instant::now();
        if before >= warm {
            histogram.saturating_record((after - before).as_nanos() as u64 * 1000);
        }
        before = after;
    }
    end.ask(|message| _ = stamp(message, 0, END), |_| ())?;
    Ok(with_percentiles(checker.seen, &histogram))
}

/// Answers each question with itself, until the last.
///
/// # Errors
/// What the end says.
pub fn answer<E: AnswerEnd>(job: &Job, end: &mut E) -> Result<Report> {
    let mut checker = Checker::new(job.load.bytes, 1, false);
    loop {
        let sequence = checker.seen.messages;
        let seen = std::cell::Cell::new(Seen::End);
        end.answer(
            |question| seen.set(checker.check(question)),
            |message| {
                let answer = if seen.get() == Seen::End { END } else { sequence };
                stamp(message, 0, answer);
            },
        )?;
        if seen.get() == Seen::End {
            return Ok(checker.seen);
        }
    }
}
