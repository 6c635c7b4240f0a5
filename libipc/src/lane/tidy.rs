//! What nobody mends but `ipcd`, once whoever may have written it is gone.
//!
//! A receiver may write everywhere in the cursors, and what [`super::repair`] mends is what an honest one can leave. One that
//! was not honest may leave more: a turn that is nobody's, a place in line, a taker, an offer of what never was. Each of these
//! would keep honest receivers waiting, or looking in vain, for ever. `ipcd` looks for them when a receiver ends
//! and when a slot is given out.
//!
//! Receivers go on meanwhile, and whatever an honest one may be in the middle of is left alone:
//! - what a slot's own receiver alone writes is put right only where the slot has none: nobody acts in its name;
//! - `turn` and a slot's `taker` are taken by compare-and-swap from 0 by receivers that are there: a value that
//!   names none of these is no step of theirs, and is replaced by compare-and-swap, too;
//! - an offer is touched under its slot's `taker`, as whoever takes it over touches it: its owner leaves it alone from the
//!   moment at which it is marked, until it has the `taker` word itself. What seemed wrong is looked at once more under it.
//!
//! A death of `ipcd` in between leaves a `taker` that names nobody, or an offer that is empty: its successor finds both.

use crate::lane::layout::{Claim, Hold, SlotCell, SlotState};
use crate::lane::park::slot_bit;
use crate::lane::position::Position;
use crate::lane::repair::is_offered;
use crate::regions::Cursors;
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed};
use crate::sync::{AtomicU64, overwrite};

/// The `taker` of a slot at which `ipcd` is: no receiver has this number.
const IPCD: u32 = u32::MAX;

/// Numbers in the line that are given out in no mailbox's life: from here on they would soon be what [`super::turn`] gives
/// another meaning.
const LINE_MAX: u64 = 1 << 63;

/// What was put right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tidied {
    /// Something was: whoever sleeps is to look again.
    pub anything: bool,
    /// Offers of what cannot be were thrown away: messages may be lost.
    pub lost: u64,
}

/// Puts right what no receiver that is there has written, or could mend. `state` says whose a receiver slot is,
/// `granules` how many a lane has, if there is one. Called by `ipcd` alone, once those that are gone were mended by
/// [`super::repair::mend_slot`].
pub fn tidy(
    cursors: &Cursors,
    state: impl Fn(u16) -> SlotState,
    granules: impl Fn(u16) -> Option<u64>,
) -> Tidied {
    let receivers = cursors.receivers() as u16;
    let is_there = |slot: u16| slot < receivers && state(slot) == SlotState::Active;
    // A taker, or who has the turn: its slot, plus one.
    let names_nobody = |number: u32| {
        let slot = number.checked_sub(1).map(u16::try_from);
        slot.is_some_and(|slot| !slot.is_ok_and(is_there))
    };
    let mut tidied = Tidied::default();
    tidied.anything |= keep_bits(&cursors.header.sleeping, is_there);
    tidied.anything |= keep_bits(&cursors.header.choosy, is_there);
    let cells = cursors.slots.len() as u16;
    tidied.anything |= keep_bits(&cursors.header.offered, |slot| slot < cells);
    tidied.anything |= tidy_line(cursors, names_nobody);
    for (slot, cell) in (0u16..).zip(cursors.slots.iter()) {
        let kind = if slot < receivers { Some(state(slot)) } else { None };
        if kind.is_some_and(|state| state != SlotState::Active) && cell.in_line.load(Acquire) != 0 {
            overwrite(&cell.in_line, 0);
            tidied.anything = true;
        }
        let taker = cell.taker.load(Acquire);
        if names_nobody(taker) {
            // PAIR(taken): it is nobody's step, so no honest one is undone.
            let freed = cell.taker.compare_exchange(taker, 0, AcqRel, Relaxed);
            tidied.anything |= freed.is_ok();
        }
        let wrong = || what_is_wrong(cursors, slot, cell, kind, &granules);
        let still_wrong = || wrong();
        // PAIR(taken): from here on nobody else touches what is offered there.
        if wrong().is_some() && cell.taker.compare_exchange(0, IPCD, AcqRel, Relaxed).is_ok() {
            if let Some(wrong) = still_wrong() {
                overwrite(&cell.hold, Hold::IDLE);
                let (word, bit) = slot_bit(slot);
                cursors.header.offered[word].fetch_and(!bit, AcqRel);
                tidied.lost += u64::from(wrong == Wrong::Impossible);
            }
            overwrite(&cell.taker, 0);
            tidied.anything = true;
        }
    }
    tidied
}

/// Clears the bits of those that are not `there`; says whether any was set.
fn keep_bits(words: &[AtomicU64], there: impl Fn(u16) -> bool) -> bool {
    let mut any = false;
    for (index, word) in (0u16..).zip(words) {
        let mut stray = 0;
        let mut rest = word.load(Acquire);
        while rest != 0 {
            let bit = rest & rest.wrapping_neg();
            rest &= !bit;
            if !there(index * 64 + bit.trailing_zeros() as u16) {
                stray |= bit;
            }
        }
        if stray != 0 {
            // Those of receivers that are there stay, whatever they do with them meanwhile.
            word.fetch_and(!stray, AcqRel);
            any = true;
        }
    }
    any
}

fn tidy_line(cursors: &Cursors, names_nobody: impl Fn(u32) -> bool) -> bool {
    let header = &cursors.header;
    let (turn, line) = (header.turn.load(Acquire), header.line.load(Acquire));
    // PAIR(turn): as where it is given up; whoever sleeps in line is woken after this.
    let free = names_nobody(turn) && header.turn.compare_exchange(turn, 0, AcqRel, Relaxed).is_ok();
    let anew = line >= LINE_MAX && header.line.compare_exchange(line, 0, AcqRel, Relaxed).is_ok();
    free || anew
}

/// What a slot says that cannot be so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    /// It holds or offers something, and is nobody's; or offers nothing.
    Stray,
    /// It offers what no receiver can have claimed.
    Impossible,
}

/// `kind`: whose the slot is, a spare one's is `None`.
fn what_is_wrong(
    cursors: &Cursors,
    slot: u16,
    cell: &SlotCell,
    kind: Option<SlotState>,
    granules: impl Fn(u16) -> Option<u64>,
) -> Option<Wrong> {
    let word = cell.hold.load(Acquire);
    let (offered, hold) = (is_offered(cursors, slot), Hold::from_word(word));
    match (kind, hold) {
        (Some(SlotState::Free), _) => (offered || word != Hold::IDLE).then_some(Wrong::Stray),
        // In hand, or to be mended by others: not ours to judge.
        (Some(SlotState::Active), _) if !offered => None,
        (Some(SlotState::Gone), Some(_)) if !offered => None,
        // Whoever fills a spare slot has its taker's word, and marks it before it puts a hold there.
        (None, Some(_)) if !offered => Some(Wrong::Stray),
        (_, None) => (offered || word != Hold::IDLE).then_some(Wrong::Stray),
        (_, Some(hold)) => {
            let end = Position::new(cell.end.load(Acquire));
            (!is_possible(cursors, hold, end, granules)).then_some(Wrong::Impossible)
        }
    }
}

/// Whether a receiver can have claimed what is offered: as much as the lane has room for, before its claim, and not
/// overwritten since.
fn is_possible(
    cursors: &Cursors,
    hold: Hold,
    end: Position,
    granules: impl Fn(u16) -> Option<u64>,
) -> bool {
    let cell = cursors.claims.get(usize::from(hold.lane));
    let Some((cell, granules)) = cell.zip(granules(hold.lane)) else { return false };
    // PAIR(claim): Acquire; it only moves on.
    let claim = Claim::from_word(cell.claim.load(Acquire)).position;
    let fits = |n: i64| u64::try_from(n).is_ok_and(|n| n <= granules);
    end.since(hold.position) > 0 && claim.since(end) >= 0 && fits(claim.since(hold.position))
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::lane::layout::{ClaimCell, CursorsHeader, LINE_JOINING};
    use crate::lane::repair::slot_is_idle;
    use crate::sys::mapping::{Shared, SharedWords};

    const GRANULES: u64 = 256;
    const STATES: [SlotState; 4] =
        [SlotState::Active, SlotState::Active, SlotState::Gone, SlotState::Free];
    /// The first spare slot.
    const SPARE: u16 = 4;

    fn row<T: SharedWords + Send + Sync + Default + 'static>(count: usize) -> Shared<[T]> {
        Shared::from((0..count).map(|_| T::default()).collect::<Arc<[T]>>())
    }

    /// Slots 0 and 1 have a receiver, that of slot 2 is gone, nobody has slot 3; there is lane 0, claimed up to 1000.
    fn scene() -> Cursors {
        let cells = STATES.len() + crate::lane::layout::SPARES_MIN;
        let header = Shared::from(Arc::new(CursorsHeader::default()));
        let cursors = Cursors { header, slots: row(cells), claims: row::<ClaimCell>(2) };
        let claim = Claim { position: Position::new(1000), winner: None };
        cursors.claims[0].claim.store(claim.to_word(), Relaxed);
        cursors
    }

    fn tidy_up(cursors: &Cursors) -> Tidied {
        let granules = |lane| (lane == 0).then_some(GRANULES);
        tidy(cursors, |slot| STATES[usize::from(slot)], granules)
    }

    fn hold(cursors: &Cursors, slot: u16, lane: u16, (from, end): (u64, u64)) {
        let cell = &cursors.slots[usize::from(slot)];
        cell.end.store(end, Relaxed);
        let hold = Hold { confirmed: true, lane, position: Position::new(from) };
        cell.hold.store(hold.to_word(), Relaxed);
    }

    fn offer(cursors: &Cursors, slot: u16, lane: u16, range: (u64, u64)) {
        hold(cursors, slot, lane, range);
        cursors.header.offered[0].fetch_or(1 << slot, Relaxed);
    }

    const RIGHT: Tidied = Tidied { anything: false, lost: 0 };
    const STRAY: Tidied = Tidied { anything: true, lost: 0 };

    #[test]
    fn what_honest_receivers_write_is_left_alone() {
        let cursors = scene();
        let header = &cursors.header;
        header.sleeping[0].store(0b11, Relaxed);
        header.choosy[0].store(0b10, Relaxed);
        header.turn.store(2, Relaxed);
        header.line.store(77, Relaxed);
        cursors.slots[0].in_line.store(LINE_JOINING, Relaxed);
        // In hand, put aside, offered by the dead, being taken over, just being put aside.
        hold(&cursors, 0, 0, (990, 1000));
        offer(&cursors, SPARE, 0, (900, 950));
        offer(&cursors, 2, 0, (1000 - GRANULES, 1000));
        offer(&cursors, 1, 0, (5, 3));
        cursors.slots[1].taker.store(1, Relaxed);
        header.offered[0].fetch_or(1 << (SPARE + 1), Relaxed);
        cursors.slots[usize::from(SPARE) + 1].taker.store(2, Relaxed);
        let words = || {
            let cells = cursors.slots.iter();
            let cells = cells.map(|it| (it.hold.load(Relaxed), it.taker.load(Relaxed)));
            (cells.collect::<Vec<_>>(), header.offered[0].load(Relaxed))
        };
        let before = words();
        assert_eq!(tidy_up(&cursors), RIGHT);
        assert_eq!(words(), before);
        assert_eq!((header.turn.load(Relaxed), header.sleeping[0].load(Relaxed)), (2, 0b11));
        assert_eq!(cursors.slots[0].in_line.load(Relaxed), LINE_JOINING);
    }

    #[test]
    fn a_turn_a_taker_or_a_place_in_line_that_is_nobodys_is_given_back() {
        for nobody in [3, 4, 5, 77, 999, 1 << 16, (1 << 16) + 1, u32::MAX] {
            let cursors = scene();
            cursors.header.turn.store(nobody, Relaxed);
            offer(&cursors, 0, 0, (990, 1000));
            cursors.slots[0].taker.store(nobody, Relaxed);
            assert_eq!(tidy_up(&cursors), STRAY, "{nobody}");
            assert_eq!(cursors.header.turn.load(Relaxed), 0);
            assert_eq!(cursors.slots[0].taker.load(Relaxed), 0, "the offer stands");
            assert!(is_offered(&cursors, 0));
            assert_eq!(tidy_up(&cursors), RIGHT, "once");
        }
        let cursors = scene();
        cursors.header.line.store(u64::MAX - 1, Relaxed);
        for slot in [2, 3] {
            cursors.slots[slot].in_line.store(LINE_JOINING, Relaxed);
        }
        assert_eq!(tidy_up(&cursors), STRAY);
        assert_eq!(cursors.header.line.load(Relaxed), 0);
        assert!(cursors.slots.iter().all(|cell| cell.in_line.load(Relaxed) == 0));
    }

    #[test]
    fn bits_of_slots_that_are_nobodys_are_cleared() {
        let cursors = scene();
        let header = &cursors.header;
        for words in [&header.sleeping[..], &header.choosy[..], &header.offered[..]] {
            words.iter().for_each(|word| word.store(u64::MAX, Relaxed));
        }
        assert_eq!(tidy_up(&cursors), STRAY);
        for words in [&header.sleeping, &header.choosy] {
            let left: Vec<_> = words.iter().map(|word| word.load(Relaxed)).collect();
            assert_eq!(left, [0b11, 0, 0, 0, 0, 0, 0, 0]);
        }
        assert!(header.offered.iter().all(|word| word.load(Relaxed) == 0), "nothing is offered");
    }

    #[test]
    fn an_offer_of_what_nobody_can_have_claimed_is_thrown_away_and_counted() {
        let too_long = (1000 - GRANULES - 1, 1000);
        let overwritten = (1000 - GRANULES - 9, 1000 - GRANULES);
        for range in [(990, 990), (990, 980), (990, 1001), (1000, 1004), too_long, overwritten] {
            for slot in [0, 2, SPARE] {
                let cursors = scene();
                offer(&cursors, slot, 0, range);
                assert_eq!(tidy_up(&cursors), Tidied { lost: 1, ..STRAY }, "{range:?} in {slot}");
                assert!(slot_is_idle(&cursors, slot));
                assert_eq!(tidy_up(&cursors), RIGHT, "once");
            }
        }
        for lane in [1, 2, 9999] {
            let cursors = scene();
            offer(&cursors, 0, lane, (990, 1000));
            assert_eq!(tidy_up(&cursors), Tidied { lost: 1, ..STRAY }, "lane {lane}");
        }
        // Nobody's slot holds nothing, a spare one nothing that it does not offer.
        for slot in [3, SPARE] {
            let cursors = scene();
            hold(&cursors, slot, 0, (990, 1000));
            assert_eq!(tidy_up(&cursors), STRAY);
            assert!(slot_is_idle(&cursors, slot));
        }
        let cursors = scene();
        offer(&cursors, 3, 0, (990, 1000));
        assert_eq!(tidy_up(&cursors), STRAY);
        assert!(slot_is_idle(&cursors, 3));
    }
}
