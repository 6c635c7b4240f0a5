//! How far apart two cores are, right now: on a virtual machine this flips from one moment to the next.

use std::fmt;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use serde::Serialize;

use crate::stage::pin;

/// Below this many ns one way, cores count as near.
const NEAR_NS: f64 = 100.0;
/// Above this many ns one way, cores count as far.
const FAR_NS: f64 = 150.0;
/// Trips of the cache line there and back, of which the first tenth is not measured.
const TRIPS: u64 = 20_000;

/// A class of distances; only samples of one class are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Distance {
    /// All on one core: there is no distance.
    Same,
    /// A cache line takes less than 100 ns one way.
    Near,
    /// Neither near nor far.
    Mixed,
    /// A cache line takes more than 150 ns one way.
    Far,
}

impl Distance {
    /// The class of a time of one way.
    #[must_use]
    pub fn of(one_way_ns: f64) -> Self {
        match one_way_ns {
            ns if ns < NEAR_NS => Self::Near,
            ns if ns > FAR_NS => Self::Far,
            _ => Self::Mixed,
        }
    }
}

impl fmt::Display for Distance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Same => "one core",
            Self::Near => "near",
            Self::Mixed => "in between",
            Self::Far => "far",
        })
    }
}

/// Keeps words of different writers apart, neighbour prefetch included.
#[repr(align(128))]
struct Apart<T>(T);

/// The one-way time of a cache line between two cores, in ns: bounced between two threads.
///
/// # Errors
/// If this process may not use the cores.
pub fn bounce_ns(cores: (usize, usize)) -> Result<f64> {
    let word = Apart(AtomicU64::new(0));
    let trip = |core: usize, turn: u64| -> Result<Duration> {
        pin(core)?;
        let mut start = Instant::now();
        for round in 0..TRIPS {
            if round == TRIPS / 10 {
                start = Instant::now();
            }
            // Relaxed: nothing but the word itself is passed.
            while word.0.load(Ordering::Relaxed) != round * 2 + turn {
                spin_loop();
            }
            word.0.store(round * 2 + turn + 1, Ordering::Relaxed);
        }
        Ok(start.elapsed())
    };
    let elapsed = thread::scope(|scope| {
        let other = scope.spawn(|| trip(cores.1, 1));
        let this = scope.spawn(|| trip(cores.0, 0));
        join(other).and(join(this))
    })?;
    Ok(elapsed.as_nanos() as f64 / (TRIPS - TRIPS / 10) as f64 / 2.0)
}

/// What a thread of a measurement comes to.
pub(crate) fn join<T>(thread: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread of the measurement has panicked"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_fall_into_classes() {
        assert_eq!(Distance::of(50.0), Distance::Near);
        assert_eq!(Distance::of(120.0), Distance::Mixed);
        assert_eq!(Distance::of(250.0), Distance::Far);
    }
}
