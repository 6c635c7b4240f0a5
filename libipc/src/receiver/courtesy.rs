//! Before a receiver sleeps it may let others on its processor go on: a sender that stands in line for it has more to say, and
//! then neither of them has to sleep and to be woken.
//!
//! Where that line is of strangers, or of a sender that takes its time, it costs a slice of time, milliseconds: then not for
//! a while.

use std::time::{Duration, Instant};

/// Longer than any of ours runs before it has to wait, and shorter than the slice that the kernel gives to whoever never
/// waits.
const LONG: Duration = Duration::from_micros(300);
/// It was worth it all the same if a message was sent for each of these.
const MESSAGE_MAX: Duration = Duration::from_micros(2);
/// Longer than a slice: whoever is to be back earlier lets nobody go on.
const SLICE_MAX: Duration = Duration::from_millis(5);
/// For so long nobody is let go on after a slice was lost once, and for twice as long after the next time.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// And no longer.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Whether others may go on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Courtesy {
    /// When a slice was lost last, or that began to be forgotten; with for how long nobody is let go on then.
    lost: Option<(Instant, Duration)>,
}

impl Courtesy {
    /// Lets others on this processor go on; false if that has cost too much lately, or might cost the deadline. `sent` is how
    /// many messages were sent so far.
    pub(super) fn let_others_go_on(
        &mut self,
        deadline: Option<Instant>,
        sent: impl Fn() -> u64,
    ) -> bool {
        let now = Instant::now();
        let in_time = deadline.is_none_or(|deadline| deadline > now + SLICE_MAX);
        in_time
            && self.try_at(now, || {
                let before = sent();
                std::thread::yield_now();
                (Instant::now(), sent().wrapping_sub(before) as i64)
            })
    }

    fn try_at(&mut self, now: Instant, go_on: impl FnOnce() -> (Instant, i64)) -> bool {
        if self.lost.is_some_and(|(at, pause)| now < at + pause) {
            return false;
        }
        let (back, sent) = go_on();
        let taken = back.saturating_duration_since(now);
        // What was withdrawn counts as not sent: it may be fewer than none.
        let sent = u32::try_from(sent.max(0)).unwrap_or(u32::MAX);
        if taken > LONG && taken > MESSAGE_MAX.saturating_mul(sent) {
            let pause = self.lost.map_or(PAUSE_MIN, |(_, pause)| (pause * 2).min(PAUSE_MAX));
            self.lost = Some((back, pause));
        } else if let Some((at, pause)) = self.lost
            // Not before it has gone well for as long as it was left alone: between two slices of a stranger it does, for
            // a while.
            && now >= at + 2 * pause
        {
            self.lost = Some((now, pause / 2)).filter(|_| pause > PAUSE_MIN);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_micros(1);
    const SLICE: Duration = Duration::from_millis(3);

    /// Tries at a time, and comes back so much later, after so many messages.
    fn try_for(courtesy: &mut Courtesy, at: Instant, taken: Duration, sent: i64) -> bool {
        courtesy.try_at(at, || (at + taken, sent))
    }

    #[test]
    fn whoever_lost_a_slice_lets_others_wait() {
        let (mut courtesy, mut now) = (Courtesy::default(), Instant::now());
        for (taken, sent) in [(SHORT, 0), (SLICE, 2000), (SHORT, 1), (SLICE, i64::MAX)] {
            assert!(try_for(&mut courtesy, now, taken, sent), "nothing is known against it");
        }
        // A sender that computes for 20 us between two messages, and one that has taken some back.
        let slow = [150, -1].into_iter().cycle();
        for (pause, sent) in [10u64, 20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 10_000, 10_000]
            .into_iter()
            .zip(slow)
        {
            let pause = Duration::from_millis(pause);
            assert!(try_for(&mut courtesy, now, SLICE, sent), "once more");
            assert!(!try_for(&mut courtesy, now + SLICE + pause - SHORT, SHORT, 1), "{pause:?}");
            now += SLICE + pause;
            assert!(try_for(&mut courtesy, now, SHORT, 1), "between two slices");
        }
    }

    #[test]
    fn a_lost_slice_is_forgotten_in_the_end() {
        let (mut courtesy, mut now) = (Courtesy::default(), Instant::now());
        for _ in 0..3 {
            assert!(try_for(&mut courtesy, now, SLICE, 0));
            now += SLICE + 4 * PAUSE_MIN;
        }
        // 40 ms, which last until then.
        for pause in [4, 2, 1] {
            now += pause * PAUSE_MIN;
            assert!(try_for(&mut courtesy, now, SHORT, 0), "good for so long");
            let again = try_for(&mut courtesy, now, SHORT, 0);
            assert_eq!(again, pause == 1, "half of it is still to be waited for");
            now += pause * PAUSE_MIN / 2;
        }
    }

    #[test]
    fn whoever_is_to_be_back_soon_lets_nobody_go_on() {
        let mut courtesy = Courtesy::default();
        let soon = Instant::now() + Duration::from_millis(1);
        assert!(!courtesy.let_others_go_on(Some(soon), || unreachable!("nobody is let go on")));
        let late = Instant::now() + Duration::from_secs(100);
        assert!(courtesy.let_others_go_on(Some(late), || 0));
        assert!(Courtesy::default().let_others_go_on(None, || 0));
    }
}
