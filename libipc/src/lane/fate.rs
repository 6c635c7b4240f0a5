//! Records that end otherwise than acknowledged, and how their senders learn of it.
//!
//! A record that a receiver rejects, or with which one dies too often, is freed by `ipcd`, like an acknowledged
//! one. What became of it stands in the lane's fates, one byte a granule, at the granule where the record begins:
//!
//! ```text
//! ipcd, which frees the record at P               the record's sender
//!   fate of P                                       P is freed?
//!   the roster's count of the slot's fates + 1      the count is 0: acknowledged
//!   free P                                          else: as the fate of P says
//! ```
//!
//! PAIR(fate): whoever sees P freed sees the fate. A sender that writes a record of which it wants to hear sets its
//! fate back first; before it takes up room again it looks at what it still wants to hear of, so no fate is
//! another record's.

use serde::{Deserialize, Serialize};

use crate::lane::layout::LaneEntry;
use crate::lane::position::Position;
use crate::sync::AtomicU8;
use crate::sync::Ordering::{Acquire, Relaxed};

/// How a record ended that was not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum Fate {
    /// It is among the dead letters of its mailbox.
    DeadLettered = 1,
    /// A receiver died with it, and the mailbox drops what a dead receiver had in hand.
    Dropped = 2,
}

impl Fate {
    /// The fate that a byte says; anything unknown is none.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::DeadLettered),
            2 => Some(Self::Dropped),
            _ => None,
        }
    }
}

/// Where in the fates of a lane with `granules` the fate of the record at a position stands.
#[must_use]
pub fn index(at: Position, granules: usize) -> usize {
    (at.get() as usize) & (granules - 1)
}

/// What became of the record at a position, which is known to be freed, where it was not acknowledged: from its
/// lane's entry in the roster, and the lane's fates.
#[must_use]
pub fn read(entry: &LaneEntry, fates: &[AtomicU8], at: Position) -> Option<Fate> {
    // PAIR(fate): Acquire here, Release in `ipcd` behind the fate.
    if entry.fates.load(Acquire) == 0 {
        return None;
    }
    // Relaxed: ordered by the count, and by what told that the record is freed.
    Fate::from_byte(fates[index(at, fates.len())].load(Relaxed))
}

/// Sets the fate of a record back that is about to be published at a position.
pub fn clear(fates: &[AtomicU8], at: Position) {
    let fate = &fates[index(at, fates.len())];
    if fate.load(Relaxed) != 0 {
        // Relaxed: published with the record.
        fate.store(0, Relaxed);
    }
}
