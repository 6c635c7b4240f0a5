//! Where one receives at a time: whose turn it is, and who stands in line for it.
//!
//! Whoever is to receive joins the line and gets a number; the turn goes to the least number, as soon as it is
//! free. Numbers are given out between two marks in the receiver's own slot, so that nobody with a later number
//! takes the turn while an earlier one is still being written down:
//!
//! ```text
//! join                                     release, leave
//!   my in_line = LINE_JOINING                turn = 0 (or my in_line = 0)
//!   number = ++line                          full barrier
//!   my in_line = number                      the first in line: bump its word, wake it
//! wait
//!   full barrier
//!   turn free, and I am the first in line? CAS turn 0 -> me, my in_line = 0
//!   turn free, and another is the first?   bump its word, wake it
//!   sleep until my word changes
//! ```
//!
//! PAIR(line) names the barriers: either the one that leaves sees who is in line, or that one sees that the turn
//! is free. Each sleeps on a word of its own in the home doorstep. After a death `ipcd` clears `in_line`, releases
//! the turn by CAS if it was the dead one's, and wakes those in line.

use crate::lane::layout::LINE_JOINING;
use crate::regions::Cursors;
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use crate::sync::fence;

/// What a receiver in line is to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Receive: it has the turn.
    Receive,
    /// Wake this one, which is the first in line while the turn is free, and wait.
    Wake(u16),
    /// Wait.
    Wait,
}

/// Who is the first in line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    Nobody,
    /// Somebody is about to get a number, and will see to it who is the first.
    Joining,
    Slot(u16),
}

/// Joins the line.
pub fn join(cursors: &Cursors, slot: u16) {
    let in_line = &cursors.slots[usize::from(slot)].in_line;
    in_line.store(LINE_JOINING, Relaxed);
    // PAIR(line): the Release makes the mark above visible to whoever gets a later number (Acquire).
    let number = cursors.header.line.fetch_add(1, AcqRel).wrapping_add(1);
    in_line.store(number, Release);
}

/// Looks what a receiver in line is to do. `receivers` is how many slots were ever in use.
pub fn advance(cursors: &Cursors, receivers: usize, slot: u16) -> Next {
    // PAIR(line): between our mark in the line and the look at the turn.
    fence(SeqCst);
    let turn = &cursors.header.turn;
    match turn.load(Relaxed) {
        0 => {}
        // It was given to us, whoever wrote that: nobody else has it.
        taken if taken == u32::from(slot) + 1 => {
            cursors.slots[usize::from(slot)].in_line.store(0, Release);
            return Next::Receive;
        }
        _ => return Next::Wait,
    }
    match first(cursors, receivers) {
        First::Slot(first) if first == slot => {
            // PAIR(turn): Acquire here, Release where the turn was given up.
            if turn.compare_exchange(0, u32::from(slot) + 1, AcqRel, Relaxed).is_err() {
                return Next::Wait;
            }
            cursors.slots[usize::from(slot)].in_line.store(0, Release);
            Next::Receive
        }
        First::Slot(first) => Next::Wake(first),
        First::Nobody | First::Joining => Next::Wait,
    }
}

/// Takes the turn if it is free and nobody stands in line.
pub fn try_take(cursors: &Cursors, receivers: usize, slot: u16) -> bool {
    let turn = &cursors.header.turn;
    // PAIR(turn)
    turn.load(Acquire) == u32::from(slot) + 1
        || first(cursors, receivers) == First::Nobody
            && turn.compare_exchange(0, u32::from(slot) + 1, AcqRel, Relaxed).is_ok()
}

/// Leaves the line without having had the turn. Returns whom to wake.
pub fn leave(cursors: &Cursors, receivers: usize, slot: u16) -> Option<u16> {
    cursors.slots[usize::from(slot)].in_line.store(0, Release);
    next(cursors, receivers)
}

/// Gives the turn up. Returns whom to wake.
pub fn release(cursors: &Cursors, receivers: usize) -> Option<u16> {
    // PAIR(turn): Release here, Acquire where it is taken.
    cursors.header.turn.store(0, Release);
    next(cursors, receivers)
}

/// The first in line, if the turn is free for it.
fn next(cursors: &Cursors, receivers: usize) -> Option<u16> {
    // PAIR(line): between giving up and the look at the line.
    fence(SeqCst);
    if cursors.header.turn.load(Relaxed) != 0 {
        return None;
    }
    match first(cursors, receivers) {
        First::Slot(slot) => Some(slot),
        First::Nobody | First::Joining => None,
    }
}

fn first(cursors: &Cursors, receivers: usize) -> First {
    let mut first = (u64::MAX, First::Nobody);
    for (slot, cell) in (0u16..).zip(cursors.slots.iter().take(receivers)) {
        match cell.in_line.load(Acquire) {
            0 => {}
            LINE_JOINING => return First::Joining,
            number if number < first.0 => first = (number, First::Slot(slot)),
            _ => {}
        }
    }
    first.1
}
