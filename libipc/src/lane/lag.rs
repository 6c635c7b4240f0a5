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

    /// A look found so many granules published, of which so many were claimed at once, with so many records.
    #[inline]
    pub(super) fn found(&mut self, published: u64, claimed: u64, records: u32) {
        self.steps = if claimed < published {
            // There is more than is claimed at once.
            self.steps.saturating_sub(1)
        } else if records == 1 {
            // The sender waits for us, or we for it: whoever waits longer only comes later.
            self.steps / 2
        } else if records < Self::RECORDS && published < Self::GRANULES {
            (2 * self.steps + 1).min(Self::STEPS_MAX)
        } else {
            self.steps
        };
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn who_gets_a_stream_in_small_steps_stays_behind_and_who_waits_for_messages_does_not() {
        let mut lag = Lag::default();
        let single = |lag: &mut Lag| lag.found(1, 1, 1);
        let few = |lag: &mut Lag| lag.found(4, 4, 4);
        let many = |lag: &mut Lag| lag.found(64, 64, 64);
        single(&mut lag);
        many(&mut lag);
        assert!(lag.is_none(), "{lag:?}");
        (0..10).for_each(|_| few(&mut lag));
        assert_eq!(lag.steps, Lag::STEPS_MAX);
        many(&mut lag);
        assert_eq!(lag.steps, Lag::STEPS_MAX, "as it should be");
        lag.found(65, 64, 64);
        assert_eq!(lag.steps, Lag::STEPS_MAX - 1, "more than enough");
        (0..5).for_each(|_| single(&mut lag));
        assert!(lag.is_none(), "{lag:?}");
        (0..10).for_each(|_| few(&mut lag));
        (0..6).for_each(|_| lag.found_nothing());
        assert!(lag.is_none(), "{lag:?}");
    }

    #[test]
    fn a_long_message_is_worth_a_look() {
        let mut lag = Lag::default();
        lag.found(130, 130, 2);
        assert!(lag.is_none(), "{lag:?}");
    }
}
