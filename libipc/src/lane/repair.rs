//! What a receiver that is gone has left, and how `ipcd` mends it.
//!
//! [`super::claim`] sees to it that the claim and the holds tell at every moment what each receiver owns.
//! So a death at any instruction leaves one of these: nothing; an intent that the claim never came to,
//! which is cleared; records that were won, which are offered in place; or a takeover half done, which is
//! given back or finished.

use crate::lane::layout::{Claim, Hold, Marked, SlotCell};
use crate::lane::park::slot_bit;
use crate::lane::position::Position;
use crate::regions::Cursors;
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crate::sync::{fence, overwrite};

/// What a receiver that is gone has left in its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mended {
    /// Nothing: the slot can be given out again.
    Nothing,
    /// What it held is offered to the others; the slot stays until it is taken over.
    Offered,
}

/// Repairs what receiver `slot` has left: called by `ipcd` alone, once nobody acts in that slot's name any
/// more. Calling it again does no harm.
pub fn mend_slot(cursors: &Cursors, slot: u16) -> Mended {
    match left_in(cursors, slot) {
        Left::Nothing => Mended::Nothing,
        Left::Offer => Mended::Offered,
        Left::Owned => {
            let (word, bit) = slot_bit(slot);
            // PAIR(offer)
            cursors.header.offered[word].fetch_or(bit, Release);
            Mended::Offered
        }
    }
}

/// Records of one lane that a slot holds for certain, and that are not offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The lane.
    pub lane: u16,
    /// The first of them.
    pub from: Position,
    /// Behind the last.
    pub end: Position,
    /// Those before have been handed out.
    pub handed_out_end: Position,
    /// How often those have been handed out.
    pub hand_outs: u32,
}

/// What a receiver that is gone has won and not acknowledged, before it is offered by [`mend_slot`]. Called by
/// `ipcd` alone, once nobody acts in that slot's name any more.
pub fn held_by_gone(cursors: &Cursors, slot: u16) -> Option<Held> {
    (left_in(cursors, slot) == Left::Owned).then(|| held_by(cursors, slot)).flatten()
}

/// What a receiver has in hand, that waits for `ipcd` meanwhile. The words are its own: an allegation, but for
/// that the slot has won it.
pub fn held_by(cursors: &Cursors, slot: u16) -> Option<Held> {
    let cell = cursors.slots.get(usize::from(slot))?;
    if is_offered(cursors, slot) || cell.taker.load(Acquire) != 0 {
        return None;
    }
    let hold = owned_hold(cursors, slot, cell)?;
    let end = Position::new(cell.end.load(Acquire));
    let handed_out_end = Marked::end_of(cell.marked.load(Relaxed), hold.position, end);
    let hand_outs = cell.attempts.load(Relaxed).wrapping_add(1);
    let possible = end.since(hold.position) > 0;
    possible.then_some(Held {
        lane: hold.lane,
        from: hold.position,
        end,
        handed_out_end,
        hand_outs,
    })
}

/// Frees the first record of what a slot holds, which ends at `next`, on its receiver's behalf: as if that had
/// acknowledged it. Called by `ipcd` alone. A receiver that is there counts attempts itself; for one that is
/// `gone` it is seen to here that what it never handed out does not count.
pub fn free_first(cursors: &Cursors, slot: u16, held: &Held, next: Position, gone: bool) {
    let Some(cell) = cursors.slots.get(usize::from(slot)) else { return };
    if next.since(held.end) >= 0 {
        // PAIR(free), PAIR(fate)
        overwrite(&cell.hold, Hold::IDLE);
        return;
    }
    if gone && next.since(held.handed_out_end) >= 0 {
        // Those behind were never handed out.
        cell.attempts.store(0u32.wrapping_sub(1), Relaxed);
        cell.marked.store(Marked::FIRST, Relaxed);
    }
    // PAIR(free), PAIR(fate)
    overwrite(&cell.hold, Hold { confirmed: true, lane: held.lane, position: next }.to_word());
}

/// As [`mend_slot`], in a group that hands out nothing twice: what the slot owned is nobody's any more.
pub fn discard_slot(cursors: &Cursors, slot: u16) {
    let owned = left_in(cursors, slot) == Left::Owned;
    if let Some(cell) = cursors.slots.get(usize::from(slot)).filter(|_| owned) {
        overwrite(&cell.hold, Hold::IDLE);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    /// What is offered already, or just being taken over.
    Offer,
    /// What the slot has won, and still holds.
    Owned,
}

fn left_in(cursors: &Cursors, slot: u16) -> Left {
    let Some(mine) = cursors.slots.get(usize::from(slot)) else { return Left::Nothing };
    let (word, bit) = slot_bit(slot);
    if let Some(choosy) = cursors.header.choosy.get(word) {
        choosy.fetch_and(!bit, Relaxed);
    }
    finish_takeovers_of(cursors, slot);
    if is_offered(cursors, slot) || mine.taker.load(Acquire) != 0 {
        return Left::Offer;
    }
    if owned_hold(cursors, slot, mine).is_some() {
        return Left::Owned;
    }
    if mine.hold.load(Acquire) != Hold::IDLE {
        // Only an intent: the claim never came to it.
        overwrite(&mine.hold, Hold::IDLE);
    }
    Left::Nothing
}

/// A slot's hold, if it has won what that names.
fn owned_hold(cursors: &Cursors, slot: u16, mine: &SlotCell) -> Option<Hold> {
    let hold = Hold::from_word(mine.hold.load(Acquire))?;
    let cell = cursors.claims.get(usize::from(hold.lane))?;
    // The claim first, then the hold again: whoever moved the claim on had confirmed the hold before, so
    // if the claim no longer names this slot, the mark is there to be seen. PAIR(claim), PAIR(hold).
    let claim = Claim::from_word(cell.claim.load(Acquire));
    let hold = Hold::from_word(mine.hold.load(Acquire)).unwrap_or(hold);
    let won_last = claim.winner == Some(slot) && claim.position.since(hold.position) > 0;
    (hold.confirmed || won_last).then_some(hold)
}

/// Drops what lies in a lane from `from`, which must be the claim, to `through`: nobody gets it. False if the
/// claim is elsewhere: then nothing is done. Called by `ipcd` alone.
pub fn drop_through(cursors: &Cursors, lane: u16, from: Position, through: Position) -> bool {
    let Some(cell) = cursors.claims.get(usize::from(lane)) else { return false };
    // PAIR(claim): as a receiver moves it on; the last winner is confirmed before the claim forgets it.
    let word = cell.claim.load(Acquire);
    let claim = Claim::from_word(word);
    if claim.position != from {
        return false;
    }
    confirm_winner(cursors, lane, claim);
    let dropped = Claim { position: through, winner: None }.to_word();
    cell.claim.compare_exchange(word, dropped, AcqRel, Relaxed).is_ok()
}

/// Notes in the hold of a claim's last winner, if it still holds what it won, that it did win: the claim is
/// about to forget it.
fn confirm_winner(cursors: &Cursors, lane: u16, claim: Claim) {
    let winner = claim.winner.and_then(|winner| cursors.slots.get(usize::from(winner)));
    let Some(cell) = winner else { return };
    // PAIR(hold): Acquire here, Release where the winner stored it.
    let word = cell.hold.load(Acquire);
    let Some(hold) = Hold::from_word(word) else { return };
    if hold.lane == lane && !hold.confirmed && claim.position.since(hold.position) > 0 {
        let confirmed = Hold { confirmed: true, ..hold }.to_word();
        // Failing is fine: the winner has let go of it meanwhile.
        let _ = cell.hold.compare_exchange(word, confirmed, AcqRel, Relaxed);
    }
}

/// Takes a receiver that is gone out of the line for the turn, and gives the turn back if it had it. The
/// others are to be woken then. Called by `ipcd` alone.
pub fn leave_line(cursors: &Cursors, slot: u16) {
    let Some(cell) = cursors.slots.get(usize::from(slot)) else { return };
    overwrite(&cell.in_line, 0);
    let mine = u32::from(slot) + 1;
    // PAIR(turn): Release here, as where a living one gives it up; no look at the line follows, for all in it are
    // woken. Failing is fine: the turn is another's, or nobody's.
    let _ = cursors.header.turn.compare_exchange(mine, 0, AcqRel, Relaxed);
}

/// What the dead receiver was just taking over, or putting aside, is given back to where it was offered, or, if it had come
/// so far that the old slot's hold is idle, the step is finished and the dead one's own hold counts.
fn finish_takeovers_of(cursors: &Cursors, slot: u16) {
    let me = u32::from(slot) + 1;
    for (index, theirs) in (0u16..).zip(cursors.slots.iter()) {
        if theirs.taker.load(Acquire) != me {
            continue;
        }
        // The mark before the hold. Behind a takeover that has come to clear the mark the slot's owner goes on: it may have
        // claimed, and returned, something else since, and that offer is none of ours to end.
        let offered = is_offered(cursors, index);
        let held = Hold::from_word(theirs.hold.load(Acquire));
        if offered && held.is_none() {
            let (word, bit) = slot_bit(index);
            cursors.header.offered[word].fetch_and(!bit, AcqRel);
        } else if offered && index != slot {
            // The offer stands where it was; the copy of it goes.
            let mine = &cursors.slots[usize::from(slot)];
            let ours = Hold::from_word(mine.hold.load(Acquire));
            let same = |a: Hold, b: Hold| a.lane == b.lane && a.position == b.position;
            if held.zip(ours).is_some_and(|(a, b)| same(a, b)) {
                overwrite(&mine.hold, Hold::IDLE);
                mine.attempts.store(0, Relaxed);
                mine.marked.store(Marked::FIRST, Relaxed);
            }
        }
        overwrite(&theirs.taker, 0);
    }
}

/// Whether nothing is left in a slot whose receiver is gone.
pub fn slot_is_idle(cursors: &Cursors, slot: u16) -> bool {
    cursors.slots.get(usize::from(slot)).is_none_or(|cell| {
        cell.taker.load(Acquire) == 0
            && cell.hold.load(Acquire) == Hold::IDLE
            && !is_offered(cursors, slot)
    })
}

/// Whether nothing is left in a lane that was published up to `tail`: all claimed, and no slot holds any.
pub fn lane_is_drained(cursors: &Cursors, lane: u16, tail: Position) -> bool {
    let Some(cell) = cursors.claims.get(usize::from(lane)) else { return true };
    // PAIR(claim): Acquire; the claim before the holds, as a sender reads them.
    let claim = Claim::from_word(cell.claim.load(Acquire));
    claim.position == tail
        && owned_holds(cursors, cursors.receivers(), lane, claim, |_, _| ()).is_some_and(|n| n == 0)
}

/// Whether any slot holds anything of a lane, or seems to.
pub fn lane_is_held(cursors: &Cursors, lane: u16) -> bool {
    let Some(cell) = cursors.claims.get(usize::from(lane)) else { return false };
    // PAIR(claim): Acquire.
    let claim = Claim::from_word(cell.claim.load(Acquire));
    owned_holds(cursors, cursors.receivers(), lane, claim, |_, _| ()) != Some(0)
}

/// Whether a slot offers what it holds.
pub(super) fn is_offered(cursors: &Cursors, slot: u16) -> bool {
    let (word, bit) = slot_bit(slot);
    // PAIR(offer): Acquire.
    cursors.header.offered[word].load(Acquire) & bit != 0
}

/// Tries of a scan that takeovers keep disturbing.
const SCANS: usize = 4;

/// Shows `each` the slot and the position of every hold on a lane that may be owned, among the slots of the first `receivers`
/// receivers, given the claim as it was read before; returns how many there are. `None` if takeovers kept moving holds about:
/// then some may have been missed.
///
/// A hold that is not confirmed, lies before the claim and is not the last winner's is no more than an
/// intent that came too late: whoever moves the claim on confirms the winner's hold first.
pub fn owned_holds(
    cursors: &Cursors,
    receivers: usize,
    lane: u16,
    claim: Claim,
    mut each: impl FnMut(&SlotCell, Position),
) -> Option<usize> {
    for _ in 0..SCANS {
        // PAIR(takeover): Acquire here, AcqRel between the two stores of a takeover in `claim`.
        let before = cursors.header.takeovers.load(Acquire);
        let mut count = 0;
        // The spare ones last, and only those marked: the mark is set before the hold of what is put aside.
        let spares = cursors.spares().filter(|&spare| is_offered(cursors, spare));
        for index in (0..receivers.min(cursors.receivers()) as u16).chain(spares) {
            let cell = &cursors.slots[usize::from(index)];
            // PAIR(free), PAIR(hold): Acquire here, Release where the receiver stores it.
            let Some(hold) = Hold::from_word(cell.hold.load(Acquire)) else { continue };
            let late = !hold.confirmed
                && claim.position.since(hold.position) > 0
                && claim.winner != Some(index);
            if hold.lane == lane && !late {
                count += 1;
                each(cell, hold.position);
            }
        }
        fence(Acquire);
        if cursors.header.takeovers.load(Relaxed) == before {
            return Some(count);
        }
    }
    None
}
