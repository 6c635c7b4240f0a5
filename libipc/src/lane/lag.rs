//! How far a receiver stays behind a stream that it could keep up with.
//!
//! Each look at a lane's tail takes the cache line in which its sender publishes away from it. A receiver as quick as the
//! sender finds a few messages at each look, looks again after those few, and so slows the sender down to its own steps.
//! One that stays some dozens of messages behind lets both go on: the stream of 64 bytes is nearly twice as fast then.

use crate::sync::spin_hint;
use crate::sys::clock::ticks;

/// How long a receiver waits before it looks at a tail up to which it has taken everything.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lag {
    steps: u32,
}

/// What a look at a tail brought.
#[derive(Clone, Copy, Debug)]
pub(super) struct Haul {
    /// Granules that were published.
    pub(super) granules: u64,
    /// Records that were claimed of them at once.
    pub(super) records: u32,
    /// That was all.
    pub(super) all: bool,
}

impl Lag {
    /// Ticks of a step.
    const STEP_TICKS: u64 = 64;
    /// The longest wait is a microsecond or less: 2048 ticks.
    const STEPS_MAX: u32 = 32;
    /// So many records are worth a look,
    const RECORDS: u32 = 32;
    /// or so many granules: 2 KiB.
    const GRANULES: u64 = 128;

    /// Whether there is nothing to wait for.
    #[inline]
    pub(super) fn is_none(self) -> bool {
        self.steps == 0
    }

    /// Waits, if that has paid.
    #[inline]
    pub(super) fn keep(self) {
        if !self.is_none() {
            self.wait();
        }
    }

    #[inline(never)]
    fn wait(self) {
        // Models have no time, and instructions that only wait are not counted.
        if cfg!(any(loom, feature = "counted")) {
            return;
        }
        let begin = ticks();
        while ticks().wrapping_sub(begin) < u64::from(self.steps) * Self::STEP_TICKS {
            spin_hint();
        }
    }

    /// A look brought nothing.
    #[inline]
    pub(super) fn found_nothing(&mut self) {
        self.steps /= 2;
    }

    /// A look brought something.
    #[inline]
    pub(super) fn found(&mut self, haul: Haul) {
        self.steps = match haul {
            // There was more than is claimed at once.
            Haul { all: false, .. } => self.steps.saturating_sub(1),
            // The sender waits for us, or we for it: whoever waits longer only comes later.
            Haul { records: ..=1, .. } => self.steps / 2,
            Haul { records, granules, .. }
                if records < Self::RECORDS && granules < Self::GRANULES =>
            {
                (2 * self.steps + 1).min(Self::STEPS_MAX)
            }
            Haul { .. } => self.steps,
        };
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn who_gets_a_stream_in_small_steps_stays_behind_and_who_waits_for_messages_does_not() {
        let mut lag = Lag::default();
        let single = Haul { granules: 1, records: 1, all: true };
        let few = Haul { granules: 4, records: 4, all: true };
        let many = Haul { granules: 64, records: 64, all: true };
        lag.found(single);
        lag.found(many);
        assert!(lag.is_none(), "{lag:?}");
        (0..10).for_each(|_| lag.found(few));
        assert_eq!(lag.steps, Lag::STEPS_MAX);
        lag.found(many);
        assert_eq!(lag.steps, Lag::STEPS_MAX, "as it should be");
        lag.found(Haul { all: false, ..many });
        assert_eq!(lag.steps, Lag::STEPS_MAX - 1, "more than enough");
        (0..5).for_each(|_| lag.found(single));
        assert!(lag.is_none(), "{lag:?}");
        (0..10).for_each(|_| lag.found(few));
        (0..6).for_each(|_| lag.found_nothing());
        assert!(lag.is_none(), "{lag:?}");
    }

    #[test]
    fn a_long_message_is_worth_a_look() {
        let mut lag = Lag::default();
        lag.found(Haul { granules: 130, records: 2, all: true });
        assert!(lag.is_none(), "{lag:?}");
    }
}
