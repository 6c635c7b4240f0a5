//! Which of many lanes may have something: one bit a lane, in the doorstep of its sender's uid.
//!
//! With many lanes a receiver looks only where a bit is set, so that its cost does not grow with the
//! number of idle lanes. A bit may be wrong either way: whoever is about to sleep, or to say that the
//! mailbox is empty, looks at every lane.

use crate::sync::AtomicU64;
use crate::sync::Ordering::{AcqRel, Relaxed, Release};
use crate::sys::mapping::Shared;

/// The hints of one doorstep, as a receiver reads them.
#[derive(Clone, Copy, Debug)]
pub struct Hints<'a> {
    /// One bit a lane.
    words: &'a [AtomicU64],
    /// The lanes of that doorstep's senders, one bit a lane: what is said of others is not asked for. `None` is any lane.
    lanes: Option<&'a [u64]>,
}

impl<'a> Hints<'a> {
    /// The hints of senders that have these lanes.
    #[must_use]
    pub fn of(words: &'a [AtomicU64], lanes: &'a [u64]) -> Self {
        Self { words, lanes: Some(lanes) }
    }

    /// Hints of any lane.
    #[must_use]
    pub fn of_any(words: &'a [AtomicU64]) -> Self {
        Self { words, lanes: None }
    }

    /// Says again that a lane has something.
    pub(super) fn give_again(self, lane: u16) {
        give_surely(self.words, lane);
    }

    fn bits(self, index: usize) -> u64 {
        let lanes = self.lanes.map_or(u64::MAX, |lanes| lanes.get(index).copied().unwrap_or(0));
        // Relaxed: a hint may be wrong.
        self.words[index].load(Relaxed) & lanes
    }
}

/// Lanes of one doorstep that have nothing in spite of their hints, and that are looked at before the others have their
/// turn: whoever gives hints to no purpose holds itself up.
const VAIN_LOOKS_MAX: u32 = 64;

/// Where the hint of one lane stands: for its sender, which gives it with every message.
#[derive(Debug)]
pub struct Place {
    word: Shared<AtomicU64>,
    bit: u64,
}

impl Place {
    /// The place of a lane.
    ///
    /// # Panics
    /// If the doorstep has no such lane: our own bug.
    #[must_use]
    pub fn of(hints: &Shared<[AtomicU64]>, lane: u16) -> Self {
        let word = hints.part(|hints| &hints[usize::from(lane) / 64]);
        Self { word, bit: 1 << (lane % 64) }
    }

    /// What [`give`] does.
    #[inline(always)]
    pub fn give(&self) {
        give_bit(&self.word, self.bit);
    }
}

#[inline(always)]
fn give_bit(word: &AtomicU64, bit: u64) {
    // Relaxed: a hint may be wrong.
    if word.load(Relaxed) & bit == 0 {
        word.fetch_or(bit, Release);
    }
}

/// Says that a lane may have something. Costs a load where the bit is set already.
#[inline]
pub fn give(hints: &[AtomicU64], lane: u16) {
    if let Some(word) = hints.get(usize::from(lane) / 64) {
        give_bit(word, 1 << (lane % 64));
    }
}

/// The same for a lane that must not be overlooked, whoever clears its bit meanwhile: costs an atomic step.
#[inline]
pub fn give_surely(hints: &[AtomicU64], lane: u16) {
    if let Some(word) = hints.get(usize::from(lane) / 64) {
        // PAIR(hint): Release here, AcqRel where `scan` clears the bit before it looks once more: that look
        // sees what was published, or the bit is set again.
        word.fetch_or(1 << (lane % 64), Release);
    }
}

/// Tries the lanes whose bits are set and are in the mask (given word by word), those behind `after` first, until `take` has taken something from
/// one, or so many had nothing. The bit of a lane that has nothing is cleared, and the lane looked at once more.
///
/// # Errors
/// What `take` says.
pub fn scan<E>(
    hints: Hints<'_>,
    mask: impl Fn(usize) -> u64,
    after: u16,
    mut take: impl FnMut(u16) -> Result<bool, E>,
) -> Result<bool, E> {
    let first = usize::from(after) / 64;
    let behind = u64::MAX.checked_shl(u32::from(after % 64) + 1).unwrap_or(0);
    // The word of `after` comes twice: its bits behind `after` at the beginning, the others at the end.
    let count = hints.words.len();
    let mut vain = 0;
    for step in 0..=count {
        let index = (first + step) % count;
        let word = &hints.words[index];
        let mut bits = hints.bits(index) & mask(index);
        bits &= match step {
            0 => behind,
            _ if step == count => !behind,
            _ => u64::MAX,
        };
        while bits != 0 {
            let bit = bits & bits.wrapping_neg();
            bits &= !bit;
            let lane = (index * 64) as u16 + bit.trailing_zeros() as u16;
            if take(lane)? {
                return Ok(true);
            }
            // PAIR(hint)
            word.fetch_and(!bit, AcqRel);
            if take(lane)? {
                word.fetch_or(bit, Release);
                return Ok(true);
            }
            vain += 1;
            if vain == VAIN_LOOKS_MAX {
                return Ok(false);
            }
        }
    }
    Ok(false)
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    fn lanes(hints: &[AtomicU64], after: u16) -> Vec<u16> {
        let mut seen = Vec::new();
        let found = scan(
            Hints::of_any(hints),
            |_| u64::MAX,
            after,
            |lane| {
                if seen.last() != Some(&lane) {
                    seen.push(lane);
                }
                Ok::<_, ()>(false)
            },
        );
        assert_eq!(found, Ok(false));
        seen
    }

    #[test]
    fn lanes_are_tried_round_and_round_from_the_one_behind_the_last() {
        for after in [0, 1, 62, 63, 64, 65, 127, 191] {
            let hints: Vec<_> = (0..3).map(|_| AtomicU64::new(0)).collect();
            let given = [0, 1, 63, 64, 100, 127, 191];
            for lane in given {
                give(&hints, lane);
            }
            let mut expected: Vec<_> = given.into_iter().filter(|&lane| lane > after).collect();
            expected.extend(given.into_iter().filter(|&lane| lane <= after));
            assert_eq!(lanes(&hints, after), expected, "after {after}");
            assert_eq!(lanes(&hints, after), [0u16; 0], "all bits were cleared");
        }
    }

    #[test]
    fn the_bit_of_a_lane_with_something_stays() {
        let hints = [AtomicU64::new(0)];
        give(&hints, 5);
        let any = Hints::of_any(&hints);
        assert_eq!(scan(any, |_| u64::MAX, 0, |_| Ok::<_, ()>(true)), Ok(true));
        assert_eq!(hints[0].load(Relaxed), 1 << 5);
    }

    #[test]
    fn hints_at_the_lanes_of_others_and_hints_without_end_cost_little() {
        let hints: Vec<_> = (0..500).map(|_| AtomicU64::new(u64::MAX)).collect();
        let mut lanes = vec![0; 500];
        lanes[7] = 1 << 3;
        let mut asked = Vec::new();
        let mut ask = |lane| {
            asked.push(lane);
            Ok::<_, ()>(false)
        };
        assert_eq!(scan(Hints::of(&hints, &lanes), |_| u64::MAX, 0, &mut ask), Ok(false));
        assert_eq!(asked, [7 * 64 + 3, 7 * 64 + 3], "twice, and no other");
        let mut asked = 0;
        let ask = |_| {
            asked += 1;
            Ok::<_, ()>(false)
        };
        assert_eq!(scan(Hints::of_any(&hints), |_| u64::MAX, 0, ask), Ok(false));
        assert_eq!(asked, 2 * VAIN_LOOKS_MAX);
    }
}
