//! What each process of a measurement does, whatever carries the messages.

mod back_and_forth;
mod call;
mod cycle;
mod nap;
mod stream;

use anyhow::{Result, bail};
use hdrhistogram::Histogram;

pub use call::{answer, ask};
pub use cycle::cycle;
pub use stream::{receive_all, send_all};

use crate::ends::{Ends, ReceiveEnd, SendEnd};
use crate::job::{Job, Report, Role};
use crate::load::Kind;

/// Does a job, from the moment on which all processes are ready.
///
/// # Errors
/// What the ends say, or that one is missing.
pub fn run<S: SendEnd, R: ReceiveEnd>(job: &Job, ends: &mut Ends<S, R>) -> Result<Report> {
    match (job.role, job.load.kind) {
        (Role::Send(number), Kind::WakeUp) => nap::send(job, number, ends.sender()?),
        (Role::Receive(_), Kind::WakeUp) => nap::receive(job, ends.receiver()?),
        (Role::Send(number), _) => stream::send(job, number, ends.sender()?),
        (Role::Receive(_), _) => stream::receive(job, ends.receiver()?),
        (Role::Ping, _) => back_and_forth::ping(job, ends),
        (Role::Pong, _) => back_and_forth::pong(job, ends),
        (role @ (Role::Cycle | Role::Both), _) => bail!("{role:?} is no part of this loop"),
    }
}

/// A histogram of picoseconds, up to ten seconds.
fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 10_000_000_000_000, 3)?)
}

/// Median and 99th percentile of a histogram of picoseconds, in ns, beside what was counted.
fn with_percentiles(report: Report, histogram: &Histogram<u64>) -> Report {
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    Report { p50_ns: at(0.5), p99_ns: at(0.99), ..report }
}
