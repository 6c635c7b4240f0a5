//! Taking a message back: settled between its sender and whoever receives it, without `ipcd`.
//!
//! A record that is published cannot be unpublished: a receiver may be about to claim it. So its sender marks it,
//! and the lane's **verdict** word says who has it. That word lies in the doorstep, which both sides write.
//!
//! ```text
//! sender, which wants its record at P back        receiver, which has claimed P
//!   verdict = (P, open)                             move the claim beyond P
//!   mark P: withdrawing                             light barrier
//!   P beside the tail no more                       P beside the tail? hand it out
//!   heavy barrier                                   P marked?
//!   has any claim come beyond P?                      not at all    hand it out
//!     no:  verdict (P, open) -> (P, withdrawn)        withdrawn     skip it
//!     yes: verdict (P, open) -> (P, cancelled)        withdrawing   verdict (P, open) -> (P, taken)
//!   mark P: withdrawn if that was done, else nothing
//! ```
//!
//! PAIR(withdraw): either the sender sees the claim, or whoever claims later sees the mark, and nothing beside the
//! tail: both write, pass a barrier and then read. So once no claim has come beyond P every receiver that ever gets to P asks the verdict,
//! and of two compare-and-swaps from (P, open) one fails: a message is withdrawn or handed out, never both, never
//! neither. With several groups of receivers there are several claims and one verdict: what one group has taken
//! every group gets, and what is withdrawn no group does.
//!
//! A receiver that finds the verdict settled reads it: *withdrawn* is skipped, all else handed out. A receiver
//! that finds another record's verdict came so late that the sender has gone on: by then P's mark is final.
//!
//! Killed in between, a sender leaves (P, open), which the receiver takes, or a verdict with the mark still at
//! *withdrawing*, which receivers honour: no other record of that lane is ever withdrawn. A receiver killed
//! with (P, taken) leaves a record that it has claimed: it is offered, and whoever takes it over reads *taken*.
//!
//! A withdrawn record keeps its room until a receiver comes past it and skips it.

use crate::lane::layout::{
    Claim, GroupEntry, Hold, LaneHeader, RosterHeader, SlotCell, Verdict, VerdictState,
};
use crate::lane::park::{Park, heavy_barrier};
use crate::lane::position::Position;
use crate::lane::record::{Marks, RecordHeader, RecordWord};
use crate::lane::repair::owned_holds;
use crate::regions::Cursors;
use crate::sync::AtomicU64;
use crate::sync::Ordering::{AcqRel, Acquire};
use crate::sync::fence;

/// A record that its sender has published, as the sender remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it begins.
    pub at: Position,
    /// Its first word, without marks.
    pub word: RecordWord,
}

impl Record {
    /// A message of so many bytes without a stamp.
    #[must_use]
    pub fn message(at: Position, len: usize) -> Self {
        Self { at, word: RecordWord::message(len) }
    }

    /// Behind it.
    #[must_use]
    pub fn end(self) -> Position {
        self.at.advance(self.word.granules())
    }
}

/// How a withdrawal ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawal {
    /// The message is its sender's again: nobody receives it.
    Withdrawn,
    /// Some receiver has claimed it, whatever has become of it since.
    Taken,
    /// The kernel refused the barrier, without which nobody can be sure: it stays queued.
    Refused,
}

/// Takes a record back, if nobody has claimed it. `claimed` says whether any group's claim has come beyond it.
///
/// The caller sees to it that the lane has no second withdrawal under way, and that the record's room is not
/// written anew meanwhile.
pub fn withdraw(
    roster: &RosterHeader,
    lane: &LaneHeader,
    records: &impl Marks,
    verdict: &AtomicU64,
    record: Record,
    park: &impl Park,
    claimed: impl Fn() -> bool,
) -> Withdrawal {
    let word = |state| Verdict { position: record.at, state }.to_word();
    let mark = |flags| records.mark(record.at, record.word.with_flags(flags));
    let mut before = verdict.load(Acquire);
    loop {
        // Behind the load: if the lane's slot is another's by now, so is what stands in the word, or soon.
        if claimed() {
            return Withdrawal::Taken;
        }
        // PAIR(verdict): the Release lets whoever sees this verdict see the final mark of the one before.
        match verdict.compare_exchange(before, word(VerdictState::Open), AcqRel, Acquire) {
            Ok(_) => break,
            Err(now) => before = now,
        }
    }
    // PAIR(mark): Release, behind the verdict.
    mark(RecordHeader::WITHDRAWING);
    lane.beside.forget(record.at, record.word);
    // PAIR(withdraw): between the mark and the look at the claims.
    let refused = !heavy_barrier(roster, park);
    let aim = if refused || claimed() { VerdictState::Cancelled } else { VerdictState::Withdrawn };
    // PAIR(verdict): against the receiver's from the same word.
    let won = verdict.compare_exchange(word(VerdictState::Open), word(aim), AcqRel, Acquire);
    let withdrawn = won.is_ok() && aim == VerdictState::Withdrawn;
    mark(if withdrawn { RecordHeader::WITHDRAWN } else { 0 });
    match (withdrawn, refused && won.is_ok()) {
        (true, _) => Withdrawal::Withdrawn,
        (false, true) => Withdrawal::Refused,
        (false, false) => Withdrawal::Taken,
    }
}

/// Whether a receiver that has claimed the marked record at `at` is to hand it out: false says that its sender
/// has it back. `word` is the first of its header, read behind the claim and the barrier; `again` reads it again.
#[cold]
pub fn is_to_be_handed_out(
    verdict: Option<&AtomicU64>,
    at: Position,
    word: RecordWord,
    again: impl Fn() -> RecordWord,
) -> bool {
    // PAIR(mark): Acquire, behind the load of the word; the verdict is seen.
    fence(Acquire);
    let flags = word.flags();
    if flags & RecordHeader::WITHDRAWN != 0 {
        return false;
    }
    let Some(verdict) = verdict.filter(|_| flags & RecordHeader::WITHDRAWING != 0) else {
        return true;
    };
    let word = |state| Verdict { position: at, state }.to_word();
    let (open, taken) = (word(VerdictState::Open), word(VerdictState::Taken));
    // PAIR(verdict): against the sender's from the same word; or the mark is seen that it made final before.
    match verdict.compare_exchange(open, taken, AcqRel, Acquire) {
        Ok(_) => true,
        Err(now) => {
            let now = Verdict::from_word(now);
            if now.position == at {
                now.state != VerdictState::Withdrawn
            } else {
                again().flags() & RecordHeader::WITHDRAWN == 0
            }
        }
    }
}

/// Whether the sender of a record has it back, as far as an observer can tell, from its header's flags.
#[must_use]
pub fn is_withdrawn(verdict: Option<&AtomicU64>, at: Position, flags: u8) -> bool {
    let withdrawn = Verdict { position: at, state: VerdictState::Withdrawn }.to_word();
    // PAIR(verdict): Acquire; the mark is final soon.
    let settled = || verdict.is_some_and(|verdict| verdict.load(Acquire) == withdrawn);
    flags & RecordHeader::WITHDRAWN != 0 || (flags & RecordHeader::WITHDRAWING != 0 && settled())
}

/// How far a record has come, as its sender can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// No group's claim has come beyond it.
    Queued,
    /// Claimed, and some receiver holds it, or some group has still to claim it.
    InHand,
    /// Every group has claimed it, and nobody holds it any more.
    Done,
}

/// Scans of the holds, each of several tries, before takeovers that disturb them are taken for a hold.
const SCANS: usize = 16;

/// How far a record of `lane` has come with every group: each one's cursors and entry in the roster.
pub fn progress<'a>(
    groups: impl Iterator<Item = (&'a Cursors, &'a GroupEntry)>,
    lane: u16,
    record: Record,
) -> Progress {
    let (mut untouched, mut done) = (true, true);
    for (cursors, entry) in groups {
        // PAIR(claim): Acquire; the claim before the slots and their holds, as where a sender looks for room.
        let claim = Claim::from_word(cursors.claims[usize::from(lane)].claim.load(Acquire));
        let claimed = claim.position.since(record.at) > 0;
        untouched &= !claimed;
        done &= claimed && !is_held(cursors, entry, lane, claim, record.at);
    }
    match (untouched, done) {
        (true, _) => Progress::Queued,
        (false, false) => Progress::InHand,
        (false, true) => Progress::Done,
    }
}

/// Whether any group's claim has come beyond a position.
pub fn is_claimed<'a>(
    mut groups: impl Iterator<Item = &'a Cursors>,
    lane: u16,
    at: Position,
) -> bool {
    // PAIR(claim): Acquire.
    let claim = |cursors: &Cursors| cursors.claims[usize::from(lane)].claim.load(Acquire);
    groups.any(|cursors| Claim::from_word(claim(cursors)).position.since(at) > 0)
}

fn is_held(cursors: &Cursors, entry: &GroupEntry, lane: u16, claim: Claim, at: Position) -> bool {
    // PAIR(slots): Acquire. A slot that is free now has no hold.
    let high = entry.receivers_high.load(Acquire) as usize;
    for _ in 0..SCANS {
        let mut held = false;
        let each = |cell: &SlotCell, from: Position| held |= covers(cell, from, at);
        if owned_holds(cursors, high, lane, claim, each).is_some() {
            return held;
        }
    }
    true
}

/// Whether a hold that was found to begin at `from` reaches over `at`.
fn covers(cell: &SlotCell, from: Position, at: Position) -> bool {
    if at.since(from) < 0 {
        return false;
    }
    // PAIR(hold): Acquire. It may be the end of the slot's next hold already: then the hold has moved, and so
    // will whoever moved it ring.
    let end = Position::new(cell.end.load(Acquire));
    let now = Hold::from_word(cell.hold.load(Acquire));
    now.is_none_or(|now| now.position != from) || end.since(at) > 0
}
