//! The byte map of the four regions. Layout only: what the words mean to each other is in
//! [`super::ring`], [`super::claim`] and [`super::park`]; who may map which region how is in
//! `docs/layout.md`.
//!
//! Every word below is an atomic, because somebody in another process may read or write it at any
//! moment. Each struct says who writes it. Words of different writers never share 128 bytes (two
//! cache lines: processors fetch them in pairs).
//!
//! ```text
//! roster   (ipcd writes, every member reads)
//!   0      RosterHeader          512 bytes
//!   512    ReceiverEntry[G * R]   32 bytes each, G = groups, R = max_receivers; group by group
//!   ...    LaneEntry[L]           64 bytes each, L = max_lanes
//!
//! cursors  (one a group; its receivers write, ipcd repairs, senders read)
//!   0      CursorsHeader         512 bytes
//!   512    SlotCell[R + spares]  128 bytes each: the receivers', then spare ones
//!   ...    ClaimCell[L]          128 bytes each
//!
//! doorstep (senders of one uid, receivers and ipcd write; nobody else maps it)
//!   0      DoorstepHeader        256 bytes
//!   256    hints u64[L / 64]
//!   ...    freed u32[max(L, G * R)]
//!   ...    verdicts u64[L]
//!
//! lane     (its sender writes, receivers and ipcd read)
//!   0      LaneHeader            4096 bytes
//!   4096   fates u8[capacity / 16]  (ipcd writes; a fate is a [`super::fate::Fate`])
//!   ...    data                  capacity bytes, from a page's beginning on, mapped twice back to back
//! ```

use serde::{Deserialize, Serialize};

use crate::lane::beside::Beside;
use crate::lane::position::{POSITION_BITS, Position, granules_of};
use crate::sync::{AtomicU32, AtomicU64, Padding};

/// Version of everything in this file; a member of another version is refused by `ipcd`.
pub const LAYOUT_VERSION: u32 = 7;

/// First word of every region: "ipcd" and a letter for the kind.
pub const ROSTER_MAGIC: u64 = u64::from_le_bytes(*b"ipcdROST");
/// See [`ROSTER_MAGIC`].
pub const CURSORS_MAGIC: u64 = u64::from_le_bytes(*b"ipcdCURS");
/// See [`ROSTER_MAGIC`].
pub const DOORSTEP_MAGIC: u64 = u64::from_le_bytes(*b"ipcdDOOR");
/// See [`ROSTER_MAGIC`].
pub const LANE_MAGIC: u64 = u64::from_le_bytes(*b"ipcdLANE");

/// Smallest capacity of a lane, in bytes.
pub const LANE_CAPACITY_BYTES_MIN: u64 = 4 << 10;
/// Largest capacity of a lane, in bytes.
pub const LANE_CAPACITY_BYTES_MAX: u64 = 1 << 30;
/// Most lanes that a mailbox may be created for (a hold has 15 bits for the lane, one value is "none").
pub const LANES_MAX: u16 = 32_000;
/// Most receivers that a mailbox may be created for (eight words of bits).
pub const RECEIVERS_MAX: u16 = 512;
/// Most sender uids of one mailbox: a sleeping receiver waits on one bell each, and on the home bell.
pub const SENDER_UIDS_MAX: usize = 127;
/// Most groups of receivers of one mailbox.
pub const GROUPS_MAX: usize = 8;
/// Priorities there are: 0, the lowest and every lane's own, to 31.
pub const PRIORITIES: u8 = 32;
/// Spare slots that a group has at least; with more receivers it has as many as those.
pub const SPARES_MIN: usize = if cfg!(loom) { 1 } else { 7 };
/// Words of bits, one bit a receiver slot.
pub const RECEIVER_WORDS: usize = RECEIVERS_MAX as usize / 64;
/// Bytes before a lane's fates.
pub const LANE_HEADER_BYTES: usize = 4096;

/// The head of a roster. Written by `ipcd` alone.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub struct RosterHeader {
    /// [`ROSTER_MAGIC`]; set before the region is handed out, constant since.
    pub magic: AtomicU64,
    /// [`LAYOUT_VERSION`]; constant.
    pub version: AtomicU32,
    /// Lane slots; constant.
    pub lanes_max: AtomicU32,
    /// Receiver slots of each group; constant.
    pub receivers_max: AtomicU32,
    /// Groups of receivers; constant.
    pub groups_count: AtomicU32,
    /// The mailbox's number, never used again while this `ipcd` lives; constant.
    pub mailbox_id: AtomicU64,
    constants_end: Padding<12>,
    /// Grows with every change in this region: members look at the rest only when it has moved.
    pub changes: AtomicU32,
    /// A [`Traffic`] value.
    pub traffic: AtomicU32,
    /// 0: the side that waits calls the barrier, the fast side needs none. 1: both sides fence.
    pub fences: AtomicU32,
    /// Lane slots ever used; those above have never been.
    pub lanes_high: AtomicU32,
    /// Receivers that hold the mailbox open now, of all groups.
    pub receivers: AtomicU32,
    /// Senders that hold the mailbox open now.
    pub senders: AtomicU32,
    /// Senders that have held the mailbox open, ever; stays at its highest value.
    pub senders_ever: AtomicU32,
    /// Distinct uids among the receivers there ever were, of all groups: with more than one a sleeper looks again every 100 ms.
    pub receiver_uids: AtomicU32,
    words_end: Padding<12>,
    /// One a group.
    pub groups: [GroupEntry; GROUPS_MAX],
}

/// One group's public face. Written by `ipcd` alone.
#[repr(C, align(32))]
#[derive(Debug, Default)]
pub struct GroupEntry {
    /// Receivers that hold it open now.
    pub receivers: AtomicU32,
    /// Receiver slots ever used; those above have never been.
    pub receivers_high: AtomicU32,
    reserved: [AtomicU32; 2],
    /// Messages dropped because the group was slow.
    pub dropped: AtomicU64,
    group_end: Padding<1>,
}

/// What a mailbox lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u32)]
pub enum Traffic {
    /// Messages flow.
    Open = 0,
    /// No new sends; what is queued drains.
    Closed = 1,
    /// The mailbox is gone.
    Deleted = 2,
    /// The mailbox is gone, with the process that owned it.
    OwnerGone = 3,
    /// Closed to new sends; gone as soon as what is queued has drained.
    Draining = 4,
}

impl Traffic {
    /// The value for a word of the roster; anything unknown is [`Traffic::Deleted`], the one that stops everybody.
    #[must_use]
    pub fn from_word(word: u32) -> Self {
        match word {
            0 => Self::Open,
            1 => Self::Closed,
            3 => Self::OwnerGone,
            4 => Self::Draining,
            _ => Self::Deleted,
        }
    }

    /// Whether there is nothing any more to send to or to receive from.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, Self::Deleted | Self::OwnerGone)
    }
}

/// One receiver slot's public face. Written by `ipcd` alone.
#[repr(C, align(32))]
#[derive(Debug, Default)]
pub struct ReceiverEntry {
    /// A [`SlotState`] value.
    pub state: AtomicU32,
    /// Process id in `ipcd`'s namespace; for people, not for decisions.
    pub pid: AtomicU32,
    /// Effective uid at the open.
    pub uid: AtomicU32,
    /// Effective gid at the open.
    pub gid: AtomicU32,
    /// Counts the receivers that this slot has had; written before `state`.
    pub generation: AtomicU32,
    reserved: AtomicU32,
    entry_end: Padding<1>,
}

/// Who a receiver slot or a lane belongs to now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u32)]
pub enum SlotState {
    /// Nobody's; its words mean nothing.
    Free = 0,
    /// A living member's.
    Active = 1,
    /// Its member is gone; what it left is still to be taken.
    Gone = 2,
}

impl SlotState {
    /// The value for a word of the roster; anything unknown is [`SlotState::Free`].
    #[must_use]
    pub fn from_word(word: u32) -> Self {
        match word {
            1 => Self::Active,
            2 => Self::Gone,
            _ => Self::Free,
        }
    }
}

/// One lane's public face. Written by `ipcd` alone.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct LaneEntry {
    /// Generation in the upper half, [`SlotState`] in the lower: see [`LaneStatus`].
    pub status: AtomicU64,
    /// Capacity of the lane's data, in bytes.
    pub capacity_bytes: AtomicU64,
    /// Process id of the sender in `ipcd`'s namespace; for people, not for decisions.
    pub pid: AtomicU32,
    /// Effective uid of the sender at the open.
    pub uid: AtomicU32,
    /// Effective gid of the sender at the open.
    pub gid: AtomicU32,
    /// Index of the doorstep of that uid.
    pub doorstep: AtomicU32,
    /// Priority of the lane, 0 to 31.
    pub priority: AtomicU32,
    /// Grows whenever a fate is written in a lane of this slot; never set back.
    pub fates: AtomicU32,
    reserved: Padding<2>,
}

/// The `status` word of a [`LaneEntry`], taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneStatus {
    /// Counts the lanes that this slot has had: an old mapping is told from a new one by it.
    pub generation: u32,
    /// Whose it is.
    pub state: SlotState,
}

impl LaneStatus {
    /// Takes a word apart.
    #[must_use]
    pub fn from_word(word: u64) -> Self {
        Self { generation: (word >> 32) as u32, state: SlotState::from_word(word as u32) }
    }

    /// Puts a word together.
    #[must_use]
    pub fn to_word(self) -> u64 {
        u64::from(self.generation) << 32 | self.state as u64
    }
}

/// The head of the cursors. Written by receivers and, after a death, by `ipcd`.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub struct CursorsHeader {
    /// [`CURSORS_MAGIC`]; written by `ipcd` before the region is handed out.
    pub magic: AtomicU64,
    /// [`LAYOUT_VERSION`].
    pub version: AtomicU32,
    reserved: AtomicU32,
    constants_end: Padding<14>,
    /// One bit a receiver slot: it is about to sleep, or sleeps.
    pub sleeping: [AtomicU64; RECEIVER_WORDS],
    /// Grows whenever a receiver sets or clears its bit: a sender rings once for each state of the sleepers.
    pub sleep_changes: AtomicU32,
    /// Grows whenever a hold moves from one slot to another: who looks at all holds looks again.
    pub takeovers: AtomicU32,
    /// Whether senders fence behind what they publish: see [`super::fencing`].
    pub fencing: AtomicU64,
    sleeping_end: Padding<6>,
    /// One bit a slot, spare ones behind the others: what its hold names is offered to whoever takes it over.
    pub offered: [AtomicU64; 2 * RECEIVER_WORDS],
    /// Where one receives at a time: whose turn it is, slot + 1, or 0. Taken by CAS.
    pub turn: AtomicU32,
    turn_padding: AtomicU32,
    /// The last number given to who stands in line for the turn.
    pub line: AtomicU64,
    /// One bit a receiver slot: it sleeps for the messages of one sender, and leaves others where they are.
    pub choosy: [AtomicU64; RECEIVER_WORDS],
    turn_end: Padding<6>,
}

/// What one receiver has in hand. Written by that receiver; others set only the confirmed mark of
/// `hold` (by CAS) and take over what is offered; `ipcd` repairs it after a death.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub struct SlotCell {
    /// A [`Hold`] word; 0 is idle.
    pub hold: AtomicU64,
    /// Position behind the last record held; written before `hold`.
    pub end: AtomicU64,
    /// Who takes over what is offered here: slot + 1, or 0. Written by CAS.
    pub taker: AtomicU32,
    /// How often what is held has been handed out before; written before `hold`.
    pub attempts: AtomicU32,
    /// Messages acknowledged through this slot since it was given out.
    pub received: AtomicU64,
    /// The processor on which the receiver last began to wait, plus one; 0 is unknown.
    pub cpu: AtomicU32,
    reserved: AtomicU32,
    /// This receiver's number in the line for the turn; 0: not in line, [`LINE_JOINING`]: about to get one.
    pub in_line: AtomicU64,
    /// A [`Marked`] word: how far `attempts` counts, where a batch was handed out; else 0.
    pub marked: AtomicU64,
    slot_end: Padding<8>,
}

/// `in_line` of a receiver that has not got its number yet: it comes before every number.
pub const LINE_JOINING: u64 = u64::MAX;

/// The claim word of one lane. Written by whichever receiver wins the next record.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub struct ClaimCell {
    /// A [`Claim`] word.
    pub claim: AtomicU64,
    claim_end: Padding<15>,
}

/// The head of a doorstep. Written by the senders of one uid, the receivers and `ipcd`.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub struct DoorstepHeader {
    /// [`DOORSTEP_MAGIC`]; written by `ipcd` before the region is handed out.
    pub magic: AtomicU64,
    /// [`LAYOUT_VERSION`].
    pub version: AtomicU32,
    /// The senders' uid; `u32::MAX` for the home doorstep, which no sender maps.
    pub uid: AtomicU32,
    constants_end: Padding<14>,
    /// Futexes, one a group: its receivers sleep here; bumped by whoever wakes them.
    pub bells: [AtomicU32; GROUPS_MAX],
    bell_end: Padding<12>,
}

/// The head of a lane. Written by its sender alone.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub struct LaneHeader {
    /// [`LANE_MAGIC`]; the sender's word, so readers know it only as an allegation.
    pub magic: AtomicU64,
    /// [`LAYOUT_VERSION`].
    pub version: AtomicU32,
    reserved: AtomicU32,
    constants_end: Padding<14>,
    /// Position behind the last published record.
    pub tail: AtomicU64,
    /// The last message, if it is short.
    pub beside: Beside,
    /// A [`Waiting`] word: whether the sender sleeps for room, and how far the claim must come.
    pub waiting: AtomicU64,
    /// The processor on which the sender last waited or woke somebody, plus one; 0 is unknown.
    pub cpu: AtomicU32,
    waiting_padding: AtomicU32,
    /// Meaningful while `waiting` says that completions are watched: a claim that comes beyond this position
    /// is news.
    pub watched: AtomicU64,
    waiting_end: Padding<13>,
    /// Messages published in this lane. Away from the tail: a receiver that polls the tail would otherwise
    /// take the line between the two stores of a publish.
    pub sent: AtomicU64,
    sent_end: Padding<15>,
}

const HOLD_CONFIRMED: u64 = 1 << 63;
const HOLD_LANE_BITS: u64 = (1 << 15) - 1;

/// The `hold` word of a receiver: confirmed (1 bit) | lane + 1 (15 bits) | position (48 bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Somebody who moved the claim on has noted that the record was really this receiver's.
    pub confirmed: bool,
    /// The lane's slot.
    pub lane: u16,
    /// First record held.
    pub position: Position,
}

impl Hold {
    /// The word of a receiver that has nothing in hand.
    pub const IDLE: u64 = 0;

    /// Takes a word apart; `None` for an idle one.
    #[inline]
    #[must_use]
    pub fn from_word(word: u64) -> Option<Self> {
        let lane = (word >> 48) & HOLD_LANE_BITS;
        if lane == 0 {
            return None;
        }
        let confirmed = word & HOLD_CONFIRMED != 0;
        Some(Self { confirmed, lane: lane as u16 - 1, position: Position::new(word) })
    }

    /// Puts a word together.
    #[inline]
    #[must_use]
    pub fn to_word(self) -> u64 {
        let confirmed = if self.confirmed { HOLD_CONFIRMED } else { 0 };
        confirmed | (u64::from(self.lane) + 1) << 48 | self.position.get()
    }
}

/// The `marked` word of a receiver: set (bit 63) | position (48 bits).
///
/// Of what is held, the records before the position have been handed out, and their `attempts` are those
/// of the slot. Without it that goes for the first record alone.
#[derive(Clone, Copy, Debug)]
pub struct Marked;

impl Marked {
    /// The word where the first record alone counts.
    pub const FIRST: u64 = 0;

    /// The word of a receiver that has handed out what lies before `end`.
    #[must_use]
    pub fn to_word(end: Position) -> u64 {
        1 << 63 | end.get()
    }

    /// Behind the last record that counts, of what is held from `begin` to `end`: a word that cannot be
    /// true of it counts the first alone.
    #[must_use]
    pub fn end_of(word: u64, begin: Position, end: Position) -> Position {
        let marked = Position::new(word);
        let possible = word >> 63 == 1 && marked.since(begin) > 0 && end.since(marked) >= 0;
        // No record is shorter than a granule, so the second begins here at the earliest.
        if possible { marked } else { begin.advance(1) }
    }
}

/// The `claim` word of a lane: position (48 bits) | slot of the last winner + 1 (16 bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The next record that nobody has claimed.
    pub position: Position,
    /// Who claimed the one before it.
    pub winner: Option<u16>,
}

impl Claim {
    /// Takes a word apart.
    #[inline]
    #[must_use]
    pub fn from_word(word: u64) -> Self {
        let winner = word as u16;
        Self { position: Position::new(word >> 16), winner: winner.checked_sub(1) }
    }

    /// Puts a word together.
    #[inline]
    #[must_use]
    pub fn to_word(self) -> u64 {
        self.position.get() << 16 | self.winner.map_or(0, |slot| u64::from(slot) + 1)
    }
}

/// The `waiting` word of a lane: asleep (1 bit, the lowest) | wanted claim position (48 bits) | rings (14 bits) | completions
/// are watched (1 bit, the highest).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The sender wants to be woken by acknowledgements once the claim has come this far.
    pub wanted: Position,
    /// What the lowest bits of the lane's `freed` word said when it lay down, twice and one more; 0 where that is not told.
    rings: u16,
}

impl Waiting {
    /// The word of a sender that does not wait.
    pub const AWAKE: u64 = 0;
    /// Somebody waits for messages of this lane to be acknowledged: see [`LaneHeader::watched`].
    pub const WATCHED: u64 = 1 << 63;
    /// Where `rings` begins.
    const RINGS_SHIFT: u32 = 1 + POSITION_BITS;
    /// Its bits.
    const RINGS_MASK: u16 = (1 << (63 - Self::RINGS_SHIFT)) - 1;

    /// Of a sender that is about to sleep on the lane's `freed` word while that says `freed`.
    #[inline]
    #[must_use]
    pub fn new(wanted: Position, freed: u32) -> Self {
        Self { wanted, rings: Self::rings(freed) }
    }

    /// Whether somebody has rung for this sleeper, as the `freed` word has it now: it is on its way. No may be wrong, where
    /// there were very many rings since, or the sender does not tell.
    #[inline]
    #[must_use]
    pub fn is_rung(self, freed: u32) -> bool {
        self.rings != 0 && self.rings != Self::rings(freed)
    }

    fn rings(freed: u32) -> u16 {
        (freed << 1 | 1) as u16 & Self::RINGS_MASK
    }

    /// Takes a word apart; `None` if the sender does not wait for room.
    #[inline]
    #[must_use]
    pub fn from_word(word: u64) -> Option<Self> {
        let rings = (word >> Self::RINGS_SHIFT) as u16 & Self::RINGS_MASK;
        (word & 1 == 1).then(|| Self { wanted: Position::new(word >> 1), rings })
    }

    /// Puts a word together.
    #[inline]
    #[must_use]
    pub fn to_word(self) -> u64 {
        u64::from(self.rings) << Self::RINGS_SHIFT | self.wanted.get() << 1 | 1
    }
}

/// A `verdict` word: which record its sender wants back, and who has it (`super::withdraw` tells the story).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Where the record begins.
    pub position: Position,
    /// Who has it.
    pub state: VerdictState,
}

/// What a [`Verdict`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum VerdictState {
    /// Asked for, not settled.
    Open = 0,
    /// A receiver has taken it.
    Taken = 1,
    /// Its sender has it back.
    Withdrawn = 2,
    /// Its sender came too late, and has given up.
    Cancelled = 3,
}

impl Verdict {
    /// Takes a word apart.
    #[must_use]
    pub fn from_word(word: u64) -> Self {
        let state = match word & 3 {
            0 => VerdictState::Open,
            1 => VerdictState::Taken,
            2 => VerdictState::Withdrawn,
            _ => VerdictState::Cancelled,
        };
        Self { position: Position::new(word >> 2), state }
    }

    /// Puts a word together.
    #[must_use]
    pub fn to_word(self) -> u64 {
        self.position.get() << 2 | self.state as u64
    }
}

/// What a mailbox was created for: the sizes of its regions follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Receiver slots of each group.
    pub receivers_max: u16,
    /// Lane slots.
    pub lanes_max: u16,
    /// Groups of receivers, 1 to [`GROUPS_MAX`].
    pub groups: u8,
}

impl Limits {
    /// Receiver slots of all groups.
    #[must_use]
    pub const fn slots(self) -> usize {
        self.receivers_max as usize * self.groups as usize
    }

    /// Slots in the cursors of one group: one a receiver, and spare ones.
    #[must_use]
    pub const fn cells(self) -> usize {
        let receivers = self.receivers_max as usize;
        receivers + if receivers > SPARES_MIN { receivers } else { SPARES_MIN }
    }

    /// Of so many slots in the cursors, those that are receivers'.
    #[must_use]
    pub const fn receivers_of(cells: usize) -> usize {
        if cells > 2 * SPARES_MIN { cells / 2 } else { cells - SPARES_MIN }
    }

    /// Futexes behind a doorstep's hints: one a lane, and in the home doorstep one a receiver slot.
    #[must_use]
    pub const fn freed_words(self) -> usize {
        if self.slots() > self.lanes_max as usize { self.slots() } else { self.lanes_max as usize }
    }
}

/// Where the parts of a region lie, in bytes, for a mailbox of given limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionMap {
    /// Offset of the first array (receiver entries, slots, hints).
    pub first: usize,
    /// Offset of the second array (lane entries, claims, freed words).
    pub second: usize,
    /// Offset of the third array (verdicts; else the end).
    pub third: usize,
    /// Bytes of the whole region, a multiple of 4096.
    pub len: usize,
}

/// The parts of a roster.
#[must_use]
pub const fn roster_map(limits: Limits) -> RegionMap {
    region_map(512, 32 * limits.slots(), 64, 64 * limits.lanes_max as usize, 0)
}

/// The parts of one group's cursors.
#[must_use]
pub const fn cursors_map(limits: Limits) -> RegionMap {
    let slots = 128 * limits.cells();
    region_map(512, slots, 128, 128 * limits.lanes_max as usize, 0)
}

/// The parts of a doorstep.
#[must_use]
pub const fn doorstep_map(limits: Limits) -> RegionMap {
    let hints = 8 * hint_words(limits.lanes_max);
    region_map(256, hints, 64, 4 * limits.freed_words(), 8 * limits.lanes_max as usize)
}

/// Hint words in a doorstep: one bit a lane slot.
#[must_use]
pub const fn hint_words(lanes_max: u16) -> usize {
    (lanes_max as usize).div_ceil(64)
}

/// Bytes before a lane's data: the header's page, and a fate for each of the data's granules.
#[must_use]
pub const fn lane_data_offset(capacity_bytes: u64) -> u64 {
    LANE_HEADER_BYTES as u64 + granules_of(capacity_bytes).next_multiple_of(4096)
}

/// Bytes of the file behind a lane.
#[must_use]
pub const fn lane_file_bytes(capacity_bytes: u64) -> u64 {
    lane_data_offset(capacity_bytes) + capacity_bytes
}

const fn region_map(
    first: usize,
    first_bytes: usize,
    align: usize,
    second_bytes: usize,
    third_bytes: usize,
) -> RegionMap {
    let second = (first + first_bytes).next_multiple_of(align);
    let third = (second + second_bytes).next_multiple_of(64);
    RegionMap { first, second, third, len: (third + third_bytes).next_multiple_of(4096) }
}

// The layout cannot drift: other processes run other builds of this file. (loom's atomics are
// larger; under loom nothing is mapped.)
#[cfg(not(loom))]
const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<RosterHeader>() == 512);
    assert!(offset_of!(RosterHeader, changes) == 128);
    assert!(offset_of!(RosterHeader, senders_ever) == 152);
    assert!(offset_of!(RosterHeader, groups) == 256);
    assert!(size_of::<GroupEntry>() == 32);
    assert!(offset_of!(GroupEntry, dropped) == 16);
    assert!(size_of::<ReceiverEntry>() == 32);
    assert!(offset_of!(ReceiverEntry, generation) == 16);
    assert!(size_of::<LaneEntry>() == 64);
    assert!(offset_of!(LaneEntry, priority) == 32);
    assert!(offset_of!(LaneEntry, fates) == 36);
    assert!(size_of::<CursorsHeader>() == 512);
    assert!(offset_of!(CursorsHeader, sleeping) == 128);
    assert!(offset_of!(CursorsHeader, sleep_changes) == 192);
    assert!(offset_of!(CursorsHeader, offered) == 256);
    assert!(offset_of!(CursorsHeader, takeovers) == 196);
    assert!(offset_of!(CursorsHeader, fencing) == 200);
    assert!(offset_of!(CursorsHeader, turn) == 384);
    assert!(offset_of!(CursorsHeader, line) == 392);
    assert!(offset_of!(CursorsHeader, choosy) == 400);
    assert!(size_of::<SlotCell>() == 128);
    assert!(offset_of!(SlotCell, end) == 8);
    assert!(offset_of!(SlotCell, cpu) == 32);
    assert!(offset_of!(SlotCell, in_line) == 40);
    assert!(offset_of!(SlotCell, marked) == 48);
    assert!(size_of::<ClaimCell>() == 128);
    assert!(size_of::<DoorstepHeader>() == 256);
    assert!(offset_of!(DoorstepHeader, bells) == 128);
    assert!(size_of::<LaneHeader>() == 512);
    assert!(offset_of!(LaneHeader, tail) == 128);
    assert!(offset_of!(LaneHeader, beside) == 136);
    assert!(size_of::<Beside>() == 120);
    assert!(offset_of!(LaneHeader, waiting) == 256);
    assert!(offset_of!(LaneHeader, cpu) == 264);
    assert!(offset_of!(LaneHeader, watched) == 272);
    assert!(offset_of!(LaneHeader, sent) == 384);
};

#[cfg(all(test, not(loom)))]
mod tests;
