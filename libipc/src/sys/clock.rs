//! The clock by which messages of several senders are put in order, deadlines, and a counter that costs next to nothing.

#![cfg_attr(
    all(target_arch = "x86_64", not(any(miri, loom))),
    expect(unsafe_code, reason = "reads the processor's counter")
)]

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

/// A counter that runs on by some thousands a microsecond: to be compared within one thread.
#[inline]
#[must_use]
pub fn ticks() -> u64 {
    #[cfg(all(target_arch = "x86_64", not(any(miri, loom))))]
    {
        // SAFETY: the instruction reads a counter, and every x86-64 has it.
        unsafe { std::arch::x86_64::_rdtsc() }
    }
    #[cfg(any(not(target_arch = "x86_64"), miri, loom))]
    {
        // Always now: models have no time.
        if cfg!(loom) { 0 } else { monotonic_nanos() * 2 }
    }
}

/// Whether a deadline has passed; none never does.
#[must_use]
pub fn has_passed(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}
