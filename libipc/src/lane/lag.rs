//! How far a receiver stays behind a stream that it could keep up with.
//!
//! Each look at a lane's tail takes the cache line in which its sender publishes away from it. A receiver as quick as the
//! sender finds a few messages at each look, looks again after those few, and so slows the sender down to its own steps.
//! One that stays some dozens of messages behind lets both go on: the stream of 64 bytes is nearly twice as fast then.
//!
//! A sender that waits for an answer to each few messages looks the same at first, and is only held up. So it is tried from
//! time to time whether anything comes while the receiver waits.

use crate::sync::spin_hint;
use crate::sys::clock::ticks;

/// How long a receiver waits before it looks at a tail up to which it has taken everything.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lag {
    steps: u32,
    /// Looks that brought little, or, where there is a lag, looks, since it was tried last.
    looks: u32,
    /// After so many of the former it is tried again.
    patience: u32,
}

impl Default for Lag {
    fn default() -> Self {
        Self { steps: 0, looks: 0, patience: Self::PATIENCE_MIN }
    }
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
    /// Looks between two trials.
    const PATIENCE_MIN: u32 = 8;
    const PATIENCE_MAX: u32 = 4096;
    /// The same where there is a lag.
    const LOOKS: u32 = 64;

    /// Whether there is nothing to wait for.
    #[inline]
    pub(super) fn is_none(self) -> bool {
        self.steps == 0
    }

    /// Waits, if that has paid.
    #[inline]
    pub(super) fn keep(self) {
        if !self.is_none() {
            wait(self.steps);
        }
    }

    /// Others take from the lane, too: nobody is waited for.
    #[inline]
    pub(super) fn end(&mut self) {
        self.steps = 0;
    }

    /// A look brought nothing.
    #[inline]
    pub(super) fn found_nothing(&mut self) {
        self.steps /= 2;
    }

    /// A look has brought something: whether it is to be tried now if anything comes in a while. If so it is told then
    /// ([`Self::tried`]).
    #[inline]
    pub(super) fn is_to_be_tried(self) -> bool {
        self.looks >= self.patience
    }

    /// Something came while this receiver waited ([`Self::wait_for_more`]), or nothing.
    #[cold]
    pub(super) fn tried(&mut self, came: bool) {
        self.looks = 0;
        if came {
            self.steps = self.steps.max(Self::STEPS_MAX / 2);
            self.patience = Self::LOOKS;
        } else {
            let longer = if self.is_none() { 8 * self.patience } else { Self::PATIENCE_MIN };
            self.patience = longer.min(Self::PATIENCE_MAX);
            self.steps = 0;
        }
    }

    /// Waits as long as a receiver ever does.
    #[cold]
    pub(super) fn wait_for_more() {
        wait(Self::STEPS_MAX);
    }

    /// A look found so many granules published, of which so many were claimed at once, with so many records.
    #[inline]
    pub(super) fn found(&mut self, published: u64, claimed: u64, records: u32) {
        if claimed < published {
            // There is more than is claimed at once.
            self.steps = self.steps.saturating_sub(1);
        } else if records == 1 {
            // The sender waits for us, or we for it: whoever waits longer only comes later.
            self.steps /= 2;
        } else {
            self.found_several(published, records);
        }
    }

    fn found_several(&mut self, published: u64, records: u32) {
        let little = records < Self::RECORDS && published < Self::GRANULES;
        if self.is_none() {
            self.looks += u32::from(little);
            return;
        }
        self.looks += 1;
        if little {
            self.steps = (2 * self.steps).min(Self::STEPS_MAX);
        }
    }
}

#[inline(never)]
fn wait(steps: u32) {
    // Models have no time, and instructions that only wait are not counted.
    if cfg!(any(loom, feature = "counted")) {
        return;
    }
    let begin = ticks();
    while ticks().wrapping_sub(begin) < u64::from(steps) * Lag::STEP_TICKS {
        spin_hint();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn single(lag: &mut Lag) {
        lag.found(1, 1, 1);
    }

    fn few(lag: &mut Lag) {
        lag.found(4, 4, 4);
    }

    fn many(lag: &mut Lag) {
        lag.found(64, 64, 64);
    }

    /// One that was tried, and something came.
    fn tried() -> Lag {
        let mut lag = Lag::default();
        (0..Lag::PATIENCE_MIN).for_each(|_| few(&mut lag));
        assert!(lag.is_to_be_tried() && lag.is_none(), "{lag:?}");
        lag.tried(true);
        lag
    }

    #[test]
    fn who_gets_a_stream_in_small_steps_stays_behind_and_who_waits_for_messages_does_not() {
        let mut lag = Lag::default();
        (0..100).for_each(|_| single(&mut lag));
        (0..100).for_each(|_| many(&mut lag));
        assert!(lag.is_none() && !lag.is_to_be_tried(), "{lag:?}");
        let mut lag = tried();
        (0..10).for_each(|_| few(&mut lag));
        assert_eq!(lag.steps, Lag::STEPS_MAX);
        many(&mut lag);
        assert_eq!(lag.steps, Lag::STEPS_MAX, "as it should be");
        lag.found(65, 64, 64);
        assert_eq!(lag.steps, Lag::STEPS_MAX - 1, "more than enough");
        (0..5).for_each(|_| single(&mut lag));
        assert!(lag.is_none(), "{lag:?}");
        let mut lag = tried();
        (0..6).for_each(|_| lag.found_nothing());
        assert!(lag.is_none(), "{lag:?}");
    }

    #[test]
    fn whoever_waits_for_an_answer_to_each_few_is_waited_for_ever_more_seldom() {
        let mut lag = Lag::default();
        let (mut looks, mut trials) = (0, 0);
        while trials < 6 {
            few(&mut lag);
            looks += 1;
            if lag.is_to_be_tried() {
                lag.tried(false);
                trials += 1;
            }
            assert!(lag.is_none(), "{lag:?}");
        }
        assert_eq!(looks, 8 + 64 + 512 + 3 * 4096);
    }

    #[test]
    fn a_stream_that_has_become_something_else_is_found_out() {
        let mut lag = tried();
        let mut looks = 0;
        while !lag.is_to_be_tried() {
            few(&mut lag);
            looks += 1;
        }
        lag.tried(false);
        assert!(lag.is_none() && looks == Lag::LOOKS, "{looks}: {lag:?}");
    }

    #[test]
    fn a_long_message_is_worth_a_look() {
        let mut lag = Lag::default();
        (0..100).for_each(|_| lag.found(130, 130, 2));
        assert!(lag.is_none() && !lag.is_to_be_tried(), "{lag:?}");
    }
}
