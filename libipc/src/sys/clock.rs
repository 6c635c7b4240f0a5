//! The clock by which messages of several senders are put in order, and deadlines.

use std::time::Instant;

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds on the monotonic clock: the same for all processes of this machine, whatever they do to the time
/// of day.
#[must_use]
pub fn monotonic_nanos() -> u64 {
    // It cannot fail: the clock exists. Were it to, arrival would be as good as equal.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC);
    now.map_or(0, |now| now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}

/// Whether a deadline has passed; none never does.
#[must_use]
pub fn has_passed(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}
