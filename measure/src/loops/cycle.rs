//! Something done from beginning to end, again and again, in one process.

use std::time::Instant;

use anyhow::Result;

use super::{histogram, with_percentiles};
use crate::job::{Job, Report};

/// Does `once` for as long as the job says; it gets a number of its own each time.
///
/// # Errors
/// What `once` says.
pub fn cycle(job: &Job, mut once: impl FnMut(u64) -> Result<()>) -> Result<Report> {
    let mut histogram = histogram()?;
    let start = Instant::now();
    let (warm, end) = (start + job.warm_up, start + job.warm_up + job.duration);
    let mut before = start;
    let mut count = 0;
    // On a machine that is busy with other things, one may take longer than all of them should.
    while before < end || histogram.is_empty() {
        once(count)?;
        count += 1;
        let after = Instant::now();
        if before >= warm {
            histogram.saturating_record((after - before).as_nanos() as u64 * 1000);
        }
        before = after;
    }
    Ok(with_percentiles(Report::default(), &histogram))
}
