//! Whether the senders to a group fence behind what they publish, so that its receivers need no barrier before they sleep.
//!
//! The barrier of [`super::park`] is a system call, and interrupts every processor that runs a member. Where receivers sleep for
//! nearly every message a fence a message costs less. So the receivers of a group say in a word of their cursors which it
//! is to be:
//!
//! ```text
//! off ──▶ coming ──(the barrier)──▶ on ──▶ off
//! ```
//!
//! While it is not off a sender fences between publishing and looking for sleepers. Only while it is on may a receiver that has said
//! that it sleeps do without the barrier: it reads the word behind its sleeping bit. Then a sender that has read "off" and no
//! bit has done so before the last "coming", so the barrier behind that has completed what it published. Anybody may turn
//! it off at any time. The word counts its changes: an "on" must not be that of a barrier before the last "off".
//!
//! PAIR(fencing) names both ends; `docs/ordering.md` has the argument, and the tests below go through all orders of a small case.

use crate::lane::layout::CursorsHeader;
use crate::lane::park::Park;
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed, SeqCst};
use crate::sync::{AtomicU64, fence};

/// What a word of `fencing` says, in its lowest two bits; the others count.
const STATE: u64 = 3;
const OFF: u64 = 0;
const COMING: u64 = 1;
const ON: u64 = 2;

/// The word that follows another, with a state of its own.
fn next(word: u64, state: u64) -> u64 {
    (word & !STATE).wrapping_add(STATE + 1) | state
}

/// Whether senders are to fence.
#[inline]
pub fn is_asked_for(cursors: &CursorsHeader) -> bool {
    // PAIR(fencing): Acquire, so that the sleeping bits are read behind it.
    cursors.fencing.load(Acquire) & STATE != OFF
}

/// Whether who has set its sleeping bit, with a full fence behind it, needs no barrier.
pub fn is_on(cursors: &CursorsHeader) -> bool {
    // PAIR(fencing): Acquire, so that the look for news comes behind it.
    cursors.fencing.load(Acquire) & STATE == ON
}

/// Has senders fence from now on. False if the barrier was refused: then who asks cannot have it.
#[cold]
pub fn turn_on(cursors: &CursorsHeader, park: &impl Park) -> bool {
    let word = cursors.fencing.load(Acquire);
    let coming = match word & STATE {
        ON => return true,
        COMING => word,
        _ => next(word, COMING),
    };
    if coming != word && !exchange(&cursors.fencing, word, coming) {
        return true;
    }
    fence(SeqCst);
    let reached = park.barrier();
    // Unless somebody has changed it meanwhile.
    exchange(&cursors.fencing, coming, next(coming, if reached { ON } else { OFF }));
    reached
}

/// Has senders fence no more, also where whoever was about to turn it on is gone.
#[cold]
pub fn turn_off(cursors: &CursorsHeader) {
    let word = cursors.fencing.load(Relaxed);
    if word & STATE != OFF {
        exchange(&cursors.fencing, word, next(word, OFF));
    }
}

fn exchange(word: &AtomicU64, from: u64, to: u64) -> bool {
    // PAIR(fencing): AcqRel, Acquire in `is_asked_for` and `is_on`; who sees "on" is behind the barrier.
    word.compare_exchange(from, to, AcqRel, Relaxed).is_ok()
}

/// How often a receiver sleeps, for what it receives.
#[derive(Clone, Copy, Debug, Default)]
pub struct Drowsiness {
    /// Messages that it had received when it slept last.
    received: u64,
    /// Sleeps one after the other with few messages between them.
    short: u32,
    /// The same with many.
    long: u32,
    /// It may not have what it wants.
    refused: bool,
}

/// What a receiver had better have its senders do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// What they do.
    Nothing,
    /// Fence.
    Fences,
    /// Fence no more.
    NoFences,
}

impl Drowsiness {
    /// With fewer messages than that between two sleeps fences cost less than the barrier: they some 9 ns, it 370.
    const FEW: u64 = 32;
    /// With more than that they cost more.
    const MANY: u64 = 64;
    /// With so many since the last sleep nobody waits for the next one to tell.
    const TOO_MANY: u64 = 256;
    /// Sleeps one after the other that agree before anything is changed.
    const SLEEPS: u32 = 4;

    /// About to sleep, with so many messages received.
    pub fn sleeps(&mut self, received: u64) -> Wish {
        let messages = received.wrapping_sub(self.received);
        self.received = received;
        self.short = if messages < Self::FEW { self.short + 1 } else { 0 };
        self.long = if messages > Self::MANY { self.long + 1 } else { 0 };
        if messages >= Self::TOO_MANY || self.long == Self::SLEEPS {
            self.long = 0;
            return Wish::NoFences;
        }
        // And then not at each: others may wish for the contrary.
        let often = self.short == Self::SLEEPS;
        self.short %= Self::SLEEPS;
        if often && !self.refused { Wish::Fences } else { Wish::Nothing }
    }

    /// Whether senders had better fence no more, with so many messages received since the last sleep.
    #[inline]
    pub fn is_over(&self, received: u64) -> bool {
        received.wrapping_sub(self.received) >= Self::TOO_MANY
    }

    /// It cannot be had.
    pub fn give_up(&mut self) {
        self.refused = true;
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
