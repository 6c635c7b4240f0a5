//! One group of receivers: its slots, and what those that are gone have received.

use std::collections::BTreeSet;
use std::ops::Bound;

use libipc::lane::layout::SlotState;
use libipc::protocol::Identity;
use serde::{Deserialize, Serialize};

/// One receiver slot.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ReceiverSlot {
    /// Whose it is.
    pub state: SlotState,
    /// Who has it, or had it last.
    pub identity: Identity,
    /// Counts the receivers that have had it.
    pub generation: u32,
}

/// A slot that was given to a receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which.
    pub slot: u16,
    /// Which of the slot's receivers it is.
    pub generation: u32,
    /// With the delivery that the receiver before left.
    pub inherited: bool,
}

/// The receivers of one group; a mailbox without groups has one of these.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ReceiverGroup {
    /// Messages acknowledged through slots that are free again.
    pub retired_received: u64,
    /// Messages dropped because the group was slow, or because a receiver died with them.
    pub dropped: u64,
    /// Messages that became dead letters.
    pub dead_lettered: u64,
    slots: Vec<ReceiverSlot>,
    gone: Rotation,
    /// Of those that are gone, slots that nobody is to have yet: what follows from what is in them.
    #[serde(skip)]
    held_back: BTreeSet<u16>,
    /// The uid of every receiver there ever was.
    uids: BTreeSet<u32>,
}

impl ReceiverGroup {
    /// Slots ever used.
    #[must_use]
    pub fn slots(&self) -> &[ReceiverSlot] {
        &self.slots
    }

    /// Slots that somebody has.
    pub fn active(&self) -> impl Iterator<Item = &ReceiverSlot> {
        self.slots.iter().filter(|slot| slot.state == SlotState::Active)
    }

    /// Receivers that hold it open.
    #[must_use]
    pub fn receivers(&self) -> u32 {
        self.active().count() as u32
    }

    /// The uid of every receiver there ever was: what it has mapped it has as long as it likes.
    pub fn uids(&self) -> impl Iterator<Item = u32> {
        self.uids.iter().copied()
    }

    /// Gives a slot to a receiver: the lowest free one, else a new one below `limit`, else one whose
    /// receiver is gone but whose delivery nobody has taken over yet (it is inherited): else the only slot of a
    /// mailbox could be lost for good. `None` if all have their receiver.
    pub fn add(&mut self, identity: Identity, limit: u16) -> Option<Place> {
        let added = self.place(identity, limit);
        if added.is_some() {
            self.uids.insert(identity.uid);
        }
        added
    }

    fn place(&mut self, identity: Identity, limit: u16) -> Option<Place> {
        let free = self.slots.iter().position(|slot| slot.state == SlotState::Free);
        let (index, inherited) = match free {
            Some(index) => (index, false),
            None if self.slots.len() < usize::from(limit) => {
                self.slots.push(ReceiverSlot { state: SlotState::Free, identity, generation: 0 });
                (self.slots.len() - 1, false)
            }
            None => (usize::from(self.gone.pop(|slot| !self.held_back.contains(slot))?), true),
        };
        let slot = self.slots.get_mut(index)?;
        let generation = slot.generation.wrapping_add(1);
        *slot = ReceiverSlot { state: SlotState::Active, identity, generation };
        Some(Place { slot: index as u16, generation, inherited })
    }

    /// Notes that a slot's receiver is gone.
    pub fn leave(&mut self, index: u16) {
        if let Some(slot) = self.slots.get_mut(usize::from(index))
            && slot.state == SlotState::Active
        {
            slot.state = SlotState::Gone;
            self.gone.insert(index);
        }
    }

    /// Says whether a slot is to be given to nobody for now, though its receiver is gone.
    pub fn hold_back(&mut self, index: u16, back: bool) {
        if back {
            self.held_back.insert(index);
        } else {
            self.held_back.remove(&index);
        }
    }

    /// Whether a slot is given to nobody for now.
    #[must_use]
    pub fn is_held_back(&self, index: u16) -> bool {
        self.held_back.contains(&index)
    }

    /// Frees a slot whose receiver is gone.
    pub fn free(&mut self, index: u16, received: u64) {
        self.held_back.remove(&index);
        if self.gone.remove(index)
            && let Some(slot) = self.slots.get_mut(usize::from(index))
        {
            slot.state = SlotState::Free;
            self.retired_received = self.retired_received.saturating_add(received);
        }
    }

    /// The next slots whose receiver is gone, at most `count`.
    pub fn next_gone(&mut self, count: usize) -> Vec<u16> {
        self.gone.next(count)
    }
}

/// Slots that are looked at a few at a time, each in its turn: one that stays long keeps no other waiting.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Rotation {
    slots: BTreeSet<u16>,
    last: u16,
}

impl Rotation {
    pub(super) fn insert(&mut self, slot: u16) {
        self.slots.insert(slot);
    }

    pub(super) fn remove(&mut self, slot: u16) -> bool {
        self.slots.remove(&slot)
    }

    /// The first that fits, taken out.
    fn pop(&mut self, fits: impl Fn(&u16) -> bool) -> Option<u16> {
        let first = self.slots.iter().copied().find(fits)?;
        self.slots.take(&first)
    }

    /// The next ones, at most `count`, behind those of the last time.
    pub(super) fn next(&mut self, count: usize) -> Vec<u16> {
        let behind = self.slots.range((Bound::Excluded(self.last), Bound::Unbounded));
        let around = behind.chain(self.slots.range(..=self.last));
        let next: Vec<u16> = around.copied().take(count).collect();
        self.last = next.last().copied().unwrap_or(self.last);
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_comes_to_every_slot_and_begins_anew() {
        let mut rotation = Rotation::default();
        (0..5).for_each(|slot| rotation.insert(slot));
        assert_eq!(rotation.next(2), [1, 2]);
        assert_eq!(rotation.next(2), [3, 4]);
        assert!(rotation.remove(1) && !rotation.remove(1));
        assert_eq!(rotation.next(9), [0, 2, 3, 4]);
        assert_eq!(rotation.next(1), [0]);
        assert_eq!(Rotation::default().next(3), [] as [u16; 0]);
    }
}
