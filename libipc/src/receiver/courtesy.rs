//! Before a receiver sleeps it may let others on its processor go on: a sender that stands in line for it has more to say, and
//! then neither of them has to sleep and to be woken.
//!
//! Where that line is of strangers it costs a slice of time, milliseconds: then not for a while.

use std::time::{Duration, Instant};

/// Longer than any of ours runs before it has to wait, and shorter than the slice that the kernel gives to whoever never
/// waits.
const LONG: Duration = Duration::from_micros(300);
/// For so long nobody is let go on after that was too long once, and for twice as long after the next time.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// And no longer.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// So many messages sent meanwhile say that it was no stranger who went on, however long.
const SENT_MEANWHILE: u64 = 16;

/// Whether others may go on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Courtesy {
    /// Not before then.
    next: Option<Instant>,
    pause: Duration,
}

impl Courtesy {
    /// Lets others on this processor go on; false if that has cost too much lately. `sent` is how many messages were sent so
    /// far.
    pub(super) fn let_others_go_on(&mut self, sent: impl Fn() -> u64) -> bool {
        self.try_at(Instant::now(), || {
            let before = sent();
            std::thread::yield_now();
            (Instant::now(), sent().wrapping_sub(before))
        })
    }

    fn try_at(&mut self, now: Instant, go_on: impl FnOnce() -> (Instant, u64)) -> bool {
        if self.next.is_some_and(|next| now < next) {
            return false;
        }
        let (back, sent) = go_on();
        if back.saturating_duration_since(now) > LONG && sent < SENT_MEANWHILE {
            self.pause = (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
            self.next = Some(back + self.pause);
        } else {
            (self.next, self.pause) = (None, self.pause / 2);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tries at a time, and comes back so much later, after so many messages.
    fn try_for(courtesy: &mut Courtesy, at: Instant, taken: Duration, sent: u64) -> bool {
        courtesy.try_at(at, || (at + taken, sent))
    }

    #[test]
    fn whoever_lost_a_slice_to_strangers_lets_them_wait() {
        let (mut courtesy, mut now) = (Courtesy::default(), Instant::now());
        let (short, slice) = (Duration::from_micros(1), Duration::from_millis(3));
        for (taken, sent) in [(short, 1), (slice, 1000), (short, 0), (slice, SENT_MEANWHILE)] {
            assert!(try_for(&mut courtesy, now, taken, sent), "nothing is known against it");
        }
        for pause in [10u64, 20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 10_000, 10_000] {
            let pause = Duration::from_millis(pause);
            assert!(try_for(&mut courtesy, now, slice, 1), "once more");
            assert!(!try_for(&mut courtesy, now + slice + pause - short, short, 1), "{pause:?}");
            now += slice + pause;
        }
        for _ in 0..20 {
            assert!(try_for(&mut courtesy, now, short, 1), "they are gone");
        }
        assert!(try_for(&mut courtesy, now, slice, 1));
        assert!(!try_for(&mut courtesy, now + slice, short, 1));
        assert!(try_for(&mut courtesy, now + slice + PAUSE_MIN, short, 1), "all is forgotten");
    }
}
