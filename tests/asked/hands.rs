//! What receivers write into the cursors, written by the test: so a receiver can end at any step of what it does.

use std::os::fd::OwnedFd;

use libipc::lane::layout::{Claim, Hold, Marked, SlotCell};
use libipc::lane::park::slot_bit;
use libipc::lane::position::{Position, record_granules};
use libipc::protocol::{LaneInfo, Opened, OpenedRole};
use libipc::regions::Cursors;
use libipc::sync::Ordering::Relaxed;
use libipc::sys::mapping::Access;

use crate::scene::MESSAGE;

/// A receiver's own words, and those that it shares with others. Its messages come from one lane, and are all
/// [`MESSAGE`].
pub(crate) struct Hands {
    pub(crate) cursors: Cursors,
    pub(crate) slot: u16,
    pub(crate) lane: LaneInfo,
}

impl Hands {
    /// Of a receiver that found one lane.
    pub(crate) fn of((opened, descriptors): &(Opened, Vec<OwnedFd>)) -> Self {
        let OpenedRole::Receive { slot, .. } = opened.role else { panic!("{opened:?}") };
        let [lane] = opened.fetched.lanes[..] else { panic!("{opened:?}") };
        let limits = opened.attributes.limits(opened.groups.len().max(1));
        let cursors = Cursors::map(&descriptors[1], limits, Access::ReadWrite).expect("cursors");
        Self { cursors, slot, lane }
    }

    /// Where the n-th message begins.
    fn nth(&self, n: u64) -> Position {
        Position::new(self.lane.first_position).advance(n * record_granules(MESSAGE.len()))
    }

    /// Shows what it is about to take: so many messages from the n-th on.
    pub(crate) fn intend(&self, n: u64, count: u64) {
        let cell = self.cell(self.slot);
        cell.end.store(self.nth(n + count).get(), Relaxed);
        let lane = self.lane.ticket.index;
        let hold = Hold { confirmed: false, lane, position: self.nth(n) };
        cell.hold.store(hold.to_word(), Relaxed);
    }

    /// Takes them. Nobody has noted that it did.
    pub(crate) fn win(&self, n: u64, count: u64) {
        self.intend(n, count);
        let claim = Claim { position: self.nth(n + count), winner: Some(self.slot) };
        let cell = &self.cursors.claims[usize::from(self.lane.ticket.index)];
        cell.claim.store(claim.to_word(), Relaxed);
    }

    /// Has so many of them, the first of what it holds, in hand at once.
    pub(crate) fn hand_out(&self, n: u64, count: u64) {
        let marked = Marked::to_word(self.nth(n + count));
        self.cell(self.slot).marked.store(marked, Relaxed);
    }

    /// Acknowledges all it holds.
    pub(crate) fn acknowledge(&self) {
        self.cell(self.slot).hold.store(Hold::IDLE, Relaxed);
    }

    /// Offers what it holds to the others.
    pub(crate) fn offer(&self) {
        self.set_offered(self.slot);
    }

    /// Says that it takes over what another slot offers.
    pub(crate) fn reach_for(&self, slot: u16) {
        self.cell(slot).taker.store(u32::from(self.slot) + 1, Relaxed);
    }

    /// Writes what another slot offers into its own.
    pub(crate) fn copy(&self, from: u16) {
        let (mine, theirs) = (self.cell(self.slot), self.cell(from));
        mine.attempts.store(theirs.attempts.load(Relaxed).wrapping_add(1), Relaxed);
        mine.marked.store(theirs.marked.load(Relaxed), Relaxed);
        mine.end.store(theirs.end.load(Relaxed), Relaxed);
        let hold = Hold::from_word(theirs.hold.load(Relaxed)).expect("it holds something");
        mine.hold.store(Hold { confirmed: true, ..hold }.to_word(), Relaxed);
    }

    /// Empties the other slot. Its offer stands yet.
    pub(crate) fn empty(&self, slot: u16) {
        self.cell(slot).hold.store(Hold::IDLE, Relaxed);
    }

    /// A spare slot, of which it says that it fills it.
    pub(crate) fn reserve(&self) -> u16 {
        let spare = self.cursors.spares().start;
        self.reach_for(spare);
        spare
    }

    /// Shows in a spare slot what it holds, and offers it there.
    pub(crate) fn put_aside(&self, spare: u16) {
        let (mine, theirs) = (self.cell(self.slot), self.cell(spare));
        theirs.attempts.store(mine.attempts.load(Relaxed), Relaxed);
        theirs.marked.store(mine.marked.load(Relaxed), Relaxed);
        theirs.end.store(mine.end.load(Relaxed), Relaxed);
        self.set_offered(spare);
        let hold = Hold::from_word(mine.hold.load(Relaxed)).expect("it holds something");
        theirs.hold.store(Hold { confirmed: true, ..hold }.to_word(), Relaxed);
    }

    /// Has the turn.
    pub(crate) fn take_turn(&self) {
        self.cursors.header.turn.store(u32::from(self.slot) + 1, Relaxed);
    }

    /// Stands in line for the turn.
    pub(crate) fn stand_in_line(&self) {
        let number = self.cursors.header.line.fetch_add(1, Relaxed) + 1;
        self.cell(self.slot).in_line.store(number, Relaxed);
    }

    /// Has gone to sleep, and leaves the messages of others where they are.
    pub(crate) fn lie_down(&self) {
        let (word, bit) = slot_bit(self.slot);
        self.cursors.header.sleeping[word].fetch_or(bit, Relaxed);
        self.cursors.header.choosy[word].fetch_or(bit, Relaxed);
    }

    fn set_offered(&self, slot: u16) {
        let (word, bit) = slot_bit(slot);
        self.cursors.header.offered[word].fetch_or(bit, Relaxed);
    }

    fn cell(&self, slot: u16) -> &SlotCell {
        &self.cursors.slots[usize::from(slot)]
    }
}
