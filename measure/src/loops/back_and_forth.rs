//! One message there, one back.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::{histogram, with_percentiles};
use crate::check::{Checker, END, Seen, stamp};
use crate::ends::{Ends, ReceiveEnd, SendEnd};
use crate::job::{Job, Report};
use crate::load::Kind;

pub(super) fn ping<S: SendEnd, R: ReceiveEnd>(job: &Job, ends: &mut Ends<S, R>) -> Result<Report> {
    // In picoseconds, so that half a round trip keeps its last digit.
    let picoseconds_a_ns = if job.load.kind == Kind::Call { 1000 } else { 500 };
    let mut checker = Checker::new(job.load.bytes, 1, false);
    let mut histogram = histogram()?;
    let start = Instant::now();
    let (warm, end) = (start + job.warm_up, start + job.warm_up + job.duration);
    let mut before = Instant::now();
    while before < end || histogram.is_empty() {
        let sequence = checker.seen.messages;
        ends.sender()?.send(|message| stamp(message, 0, sequence))?;
        let seen = ends.receiver()?.receive(|message| checker.check(message))?;
        ensure!(seen == Seen::Message, "the other side ended too early");
        ensure!(checker.seen.messages > sequence, "a broken message came back");
        let after = Instant::now();
        if before >= warm {
            let elapsed_ns = (after - before).as_nanos() as u64;
            histogram.saturating_record(elapsed_ns * picoseconds_a_ns);
        }
        before = after;
    }
    ends.sender()?.send(|message| stamp(message, 0, END))?;
    Ok(with_percentiles(checker.seen, &histogram))
}

pub(super) fn pong<S: SendEnd, R: ReceiveEnd>(job: &Job, ends: &mut Ends<S, R>) -> Result<Report> {
    let mut checker = Checker::new(job.load.bytes, 1, false);
    let mut message = vec![0; job.load.bytes];
    loop {
        let seen = ends.receiver()?.receive(|bytes| {
            if bytes.len() == message.len() {
                message.copy_from_slice(bytes);
            }
            checker.check(bytes)
        })?;
        if seen == Seen::End {
            break;
        }
        ends.sender()?.send(|bytes| bytes.copy_from_slice(&message))?;
    }
    Ok(checker.seen)
}
