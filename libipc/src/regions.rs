//! The four regions of a mailbox as typed views: what a descriptor from `ipcd` becomes once mapped.
//! Client and daemon map them alike; only the access differs.

#[cfg(not(loom))]
use std::os::fd::AsFd;
#[cfg(not(loom))]
use std::sync::Arc;

use crate::lane::layout::Limits;
use crate::lane::layout::{
    ClaimCell, CursorsHeader, DoorstepHeader, LaneEntry, LaneHeader, ReceiverEntry, RosterHeader,
    SlotCell,
};
#[cfg(not(loom))]
use crate::lane::layout::{
    LANE_HEADER_BYTES, cursors_map, doorstep_map, hint_words, lane_data_offset, roster_map,
};
#[cfg(not(loom))]
use crate::lane::position::GRANULE_BYTES;
use crate::sync::{AtomicU8, AtomicU32, AtomicU64};
use crate::sys::mapping::Shared;
#[cfg(not(loom))]
use crate::sys::mapping::{Access, MapError, Mapping, view, view_slice};

/// A mailbox's roster: `ipcd` writes it, members read it.
#[derive(Clone, Debug)]
pub struct Roster {
    /// State and limits.
    pub header: Shared<RosterHeader>,
    /// One a receiver slot, group by group.
    pub receivers: Shared<[ReceiverEntry]>,
    /// One a lane slot.
    pub lanes: Shared<[LaneEntry]>,
}

/// The cursors of a mailbox, or of one of its groups: receivers write them, senders read them, `ipcd` repairs
/// them.
#[derive(Clone, Debug)]
pub struct Cursors {
    /// Who sleeps, and what is offered.
    pub header: Shared<CursorsHeader>,
    /// What each receiver has in hand, and behind that what receivers have put aside.
    pub slots: Shared<[SlotCell]>,
    /// How far each lane has been claimed.
    pub claims: Shared<[ClaimCell]>,
}

impl Cursors {
    /// Receiver slots that there are.
    #[must_use]
    pub fn receivers(&self) -> usize {
        Limits::receivers_of(self.slots.len())
    }

    /// The spare slots: what a receiver has claimed and cannot hand out yet is offered there.
    #[must_use]
    pub fn spares(&self) -> std::ops::Range<u16> {
        self.receivers() as u16..self.slots.len() as u16
    }
}

/// A doorstep: where the senders of one uid and the receivers wake each other.
#[derive(Clone, Debug)]
pub struct Doorstep {
    /// The bell.
    pub header: Shared<DoorstepHeader>,
    /// One bit a lane slot: something may be in that lane.
    pub hints: Shared<[AtomicU64]>,
    /// One futex a lane slot: its sender sleeps here until there is room, or a completion. In the home
    /// doorstep one a receiver slot: who waits for the turn sleeps here.
    pub freed: Shared<[AtomicU32]>,
    /// One a lane slot, a [`crate::lane::layout::Verdict`]: who has the record that its sender wants back.
    pub verdicts: Shared<[AtomicU64]>,
}

/// What lies before a lane's data; that is in `lane::memory`.
#[derive(Clone, Debug)]
pub struct LaneWords {
    /// The sender's words.
    pub header: Shared<LaneHeader>,
    /// One a granule of the data: a [`crate::lane::fate::Fate`] of the record that begins there.
    pub fates: Shared<[AtomicU8]>,
}

#[cfg(not(loom))]
impl Roster {
    /// Maps a roster made for these limits.
    ///
    /// # Errors
    /// [`MapError`].
    pub fn map(fd: impl AsFd, limits: Limits, access: Access) -> Result<Self, MapError> {
        let map = roster_map(limits);
        let mapping = Mapping::map(fd, map.len, access)?;
        Ok(Self {
            header: view(&mapping, 0),
            receivers: view_slice(&mapping, map.first, limits.slots()),
            lanes: view_slice(&mapping, map.second, limits.lanes_max.into()),
        })
    }
}

#[cfg(not(loom))]
impl Cursors {
    /// Maps cursors made for these limits.
    ///
    /// # Errors
    /// [`MapError`].
    pub fn map(fd: impl AsFd, limits: Limits, access: Access) -> Result<Self, MapError> {
        let map = cursors_map(limits);
        let mapping = Mapping::map(fd, map.len, access)?;
        Ok(Self {
            header: view(&mapping, 0),
            slots: view_slice(&mapping, map.first, limits.cells()),
            claims: view_slice(&mapping, map.second, limits.lanes_max.into()),
        })
    }
}

#[cfg(not(loom))]
impl Doorstep {
    /// Maps a doorstep made for these limits.
    ///
    /// # Errors
    /// [`MapError`].
    pub fn map(fd: impl AsFd, limits: Limits, access: Access) -> Result<Self, MapError> {
        let map = doorstep_map(limits);
        let mapping = Mapping::map(fd, map.len, access)?;
        Ok(Self {
            header: view(&mapping, 0),
            hints: view_slice(&mapping, map.first, hint_words(limits.lanes_max)),
            freed: view_slice(&mapping, map.second, limits.freed_words()),
            verdicts: view_slice(&mapping, map.third, limits.lanes_max.into()),
        })
    }
}

#[cfg(not(loom))]
impl LaneWords {
    /// Maps a lane, the data twice.
    ///
    /// # Errors
    /// [`MapError`].
    pub fn map(
        fd: impl AsFd,
        capacity_bytes: u64,
        access: Access,
    ) -> Result<(Self, Arc<Mapping>), MapError> {
        let capacity = usize::try_from(capacity_bytes)
            .map_err(|_| MapError::Size { len: capacity_bytes, expected: usize::MAX as u64 })?;
        let offset = lane_data_offset(capacity_bytes) as usize;
        let mapping = Mapping::map_ring(fd, offset, capacity, access)?;
        let fates = view_slice(&mapping, LANE_HEADER_BYTES, capacity / GRANULE_BYTES);
        Ok((Self { header: view(&mapping, 0), fates }, mapping))
    }
}
