//! One lane from its sender's side: records, where they go, and where there is room.
//!
//! A record is a header of one word, or of two where messages are stamped, and a payload, padded to granules. The
//! sender writes it behind its tail, where no receiver looks, and then publishes it by moving the tail. Whenever the sender
//! dies, the record was published or it never existed.

use crate::lane::layout::{Claim, GroupEntry, LaneHeader};
use crate::lane::position::{
    GRANULE_BYTES, GRANULES_A_LINE, Position, RECORD_HEADER_BYTES, record_granules,
};
use crate::lane::record::{RecordHeader, RecordWord, Storage};
use crate::lane::repair::owned_holds;
use crate::lane::withdraw::{self, Progress, Record};
use crate::regions::{Cursors, Roster};
use crate::sync::Ordering::{Acquire, Relaxed, Release};
use crate::sys::mapping::Shared;

/// So many records ahead whoever deals with long ones in place says where the next will begin: each begins in
/// another page, where no processor looks by itself.
pub(super) const RECORDS_AHEAD: u64 = 4;

/// So far ahead of its tail a sender of short messages has the lines fetched that it is about to write: they are where they
/// were read last, with the receiver.
const GRANULES_AHEAD: u64 = 64;
/// Granules of a message that is short.
const SHORT_GRANULES: u64 = 8;

/// Why there is no room for a record.
#[derive(Debug)]
pub enum NoRoom {
    /// Receivers must acknowledge first.
    Full,
    /// A receiver has moved the claim where no receiver of ours moves it.
    Corrupt,
    /// The kernel has no memory for this part of the lane.
    Memory(std::io::Error),
}

/// Granules for which memory is allocated at the first step; each further step doubles it.
const PREPARE_GRANULES_FIRST: u64 = 1024;
const PREPARE_GRANULES_MAX: u64 = 128 << 10;

/// How far one group of receivers has come in a lane.
#[derive(Debug)]
struct GroupLimit {
    cursors: Cursors,
    /// Everything before it the group has done with.
    limit: Position,
    /// The claim as it was last seen: it never goes back.
    claim: Position,
}

/// The writing end of a lane. There is one, and it alone moves the tail.
#[derive(Debug)]
pub struct LaneWriter<S> {
    pub(super) storage: S,
    pub(super) header: Shared<LaneHeader>,
    roster: Roster,
    /// One a group.
    groups: Vec<GroupLimit>,
    lane: u16,
    /// Behind the last record written; published with every record.
    tail: Position,
    /// Everything before it is free again: every group has done with it.
    limit: Position,
    /// Bytes of the longest message that is plain.
    len_max: usize,
    /// Granules that may be written: up to the end of the free room, or of the allocated memory.
    writable: u64,
    /// Where the lane began; means nothing any more once the first lap is over.
    first: Position,
    /// Granules from `first` on for which memory is allocated; at the capacity the first lap is over.
    prepared: u64,
    /// Looks at what receivers have done at least every so many granules; `None`: only when it is full.
    look_every: Option<u64>,
    sent: u64,
    /// Set once the shared count of messages may be lowered, by withdrawals in other threads: how many of
    /// `sent` have been added to it.
    counted: Option<u64>,
    /// What stamps the messages, where they are received in the order of their arrival.
    clock: Option<fn() -> u64>,
    /// Neither of these two is there.
    plain: bool,
}

/// The oldest messages of a lane that one group has not claimed: where they begin and end, and how many
/// there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Oldest {
    /// The group's claim.
    pub from: Position,
    /// Behind the last of them.
    pub through: Position,
    /// How many.
    pub messages: u64,
}

impl<S: Storage> LaneWriter<S> {
    /// The writing end of a lane that begins at `first`, where `ipcd` has put its tail.
    pub fn new(
        storage: S,
        header: Shared<LaneHeader>,
        roster: Roster,
        groups: impl IntoIterator<Item = Cursors>,
        lane: u16,
        first: Position,
    ) -> Self {
        let group = |cursors| GroupLimit { cursors, limit: first, claim: first };
        let groups = groups.into_iter().map(group).collect();
        // A granule less than the lane has, as it would be with a stamp.
        let bytes = storage.capacity().saturating_sub(1) * GRANULE_BYTES as u64;
        Self {
            storage,
            len_max: usize::try_from(bytes).unwrap_or(usize::MAX),
            header,
            roster,
            groups,
            lane,
            tail: first,
            limit: first,
            writable: 0,
            first,
            prepared: 0,
            look_every: None,
            sent: 0,
            counted: None,
            clock: None,
            plain: true,
        }
    }

    /// Says that messages of this lane may be withdrawn from now on. Asked once, with nothing unpublished.
    pub fn expect_withdrawals(&mut self) {
        self.plain = false;
        self.counted = Some(self.sent);
    }

    /// Where the records are.
    pub fn storage(&self) -> &S {
        &self.storage
    }

    /// How far a published record has come.
    pub fn progress(&self, record: Record) -> Progress {
        let cursors = self.groups.iter().map(|group| &group.cursors);
        withdraw::progress(cursors.zip(&self.roster.header.groups), self.lane, record)
    }

    /// The mailbox's roster.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// The lane's slot.
    pub fn lane(&self) -> u16 {
        self.lane
    }

    /// Granules of the lane.
    pub fn capacity(&self) -> u64 {
        self.storage.capacity()
    }

    /// The lane's header.
    pub fn header(&self) -> &LaneHeader {
        &self.header
    }

    /// The lane's header, to be kept while the writer is busy.
    pub fn shared_header(&self) -> Shared<LaneHeader> {
        self.header.clone()
    }

    /// Every record before it is freed by every group, as of the last look.
    pub fn limit(&self) -> Position {
        self.limit
    }

    /// Behind the last published record.
    pub fn tail(&self) -> Position {
        self.tail
    }

    /// Whether a record of so many granules can be written now, as far as is known: if it really is
    /// full, only [`Self::find_room`] can tell.
    #[inline]
    pub fn has_room(&self, granules: u64) -> bool {
        self.writable >= granules
    }

    /// Looks whether there is room for a record of so many granules: reads the receivers' words, so a
    /// sender that waits must pause between two looks.
    ///
    /// # Errors
    /// [`NoRoom`]: full, or what a receiver wrote is impossible, or no memory.
    #[cold]
    pub fn find_room(&mut self, granules: u64) -> Result<(), NoRoom> {
        if self.free_granules() < granules as i64 {
            self.refresh_limit()?;
            if self.free_granules() < granules as i64 {
                self.settle_writable();
                return Err(NoRoom::Full);
            }
        }
        self.prepare(granules)?;
        self.settle_writable();
        if let Some(every) = self.look_every {
            self.writable = self.writable.min(every.max(granules));
        }
        Ok(())
    }

    /// Has the receivers' words looked at every so many granules even if there is room.
    pub fn look_every(&mut self, granules: u64) {
        self.look_every = Some(granules);
        self.writable = 0;
    }

    /// Granules in use, after a look at the receivers' words.
    ///
    /// # Errors
    /// [`NoRoom::Corrupt`].
    pub fn in_use(&mut self) -> Result<u64, NoRoom> {
        self.refresh_limit()?;
        Ok(self.tail.since(self.limit).max(0) as u64)
    }

    /// The messages that a group would have to lose so that there is room for a record of so many granules, and
    /// for some more so that it is not asked for each anew; `None` if it has claimed far enough itself.
    pub fn oldest_of(&self, group: usize, granules: u64) -> Option<Oldest> {
        let wanted = self.least_claim(granules);
        let from = self.groups.get(group)?.claim;
        if from.since(wanted) >= 0 {
            return None;
        }
        let plenty = wanted.advance(self.capacity() / 8);
        let (mut through, mut messages) = (from, 0);
        // Our own records: whatever the group's claim says, this ends at our tail.
        while through.since(plenty) < 0 && through != self.tail {
            let word = self.storage.word(through);
            if self.tail.since(through.advance(word.granules())) < 0 {
                return None;
            }
            through = through.advance(word.granules());
            messages += u64::from(word.flags() & RecordHeader::WITHDRAWN == 0);
        }
        Some(Oldest { from, through, messages })
    }

    /// Granules that could be written now, as far as is known.
    pub fn room(&self) -> u64 {
        self.free_granules().max(0) as u64
    }

    /// The claim position from which on there is room for a record of so many granules.
    pub fn least_claim(&self, granules: u64) -> Position {
        self.tail.advance(granules).back(self.capacity())
    }

    /// The claim position from which on the sender would rather be woken: room for the record, and, so that
    /// it is not woken for each record anew, for a quarter of the lane if that much is in use.
    pub fn wanted_claim(&self, granules: u64) -> Position {
        let capacity = self.capacity();
        let least = self.least_claim(granules);
        let in_use = self.tail.since(least).max(0) as u64;
        least.advance((capacity / 4).min(in_use))
    }

    /// Whether messages need nothing but to be written: no stamp, and nobody else counts them.
    #[inline]
    pub fn is_plain(&self) -> bool {
        self.plain
    }

    /// Does what [`Self::publish`] does, and less, if [`Self::is_plain`] and there is room, as far as is known; false if
    /// there is none, or the message is too long.
    #[inline(always)]
    pub fn publish_plainly(&mut self, payload: &[u8]) -> bool {
        debug_assert!(self.plain, "what is not plain is published with all that belongs to it");
        let at = self.tail;
        let appended = self.append_plainly(payload);
        if appended {
            let (header, tail, sent) = (&*self.header, self.tail, self.sent);
            header.beside.write(at, RecordWord::message(payload.len()), payload);
            // Relaxed: a counter for people.
            header.sent.store(sent, Relaxed);
            store_tail(header, tail);
        }
        appended
    }

    /// Writes a message to be published later, if [`Self::is_plain`] and there is room, as far as is known.
    #[inline(always)]
    pub fn append_plainly(&mut self, payload: &[u8]) -> bool {
        if payload.len() > self.len_max {
            return false;
        }
        let granules = record_granules(payload.len());
        let Some(writable) = self.writable.checked_sub(granules) else { return false };
        let at = self.tail;
        self.storage.write_message(at, granules, payload);
        self.tail = at.advance(granules);
        self.writable = writable;
        self.fetch_ahead(at, granules);
        self.sent = self.sent.wrapping_add(1);
        true
    }

    /// Granules of a record with a payload of so many bytes.
    #[inline]
    #[must_use]
    pub fn granules(&self, len: usize) -> u64 {
        record_granules(len + self.payload_offset() - RECORD_HEADER_BYTES)
    }

    /// Bytes in front of a payload.
    #[inline]
    #[must_use]
    pub fn payload_offset(&self) -> usize {
        if self.clock.is_some() { 2 * RECORD_HEADER_BYTES } else { RECORD_HEADER_BYTES }
    }

    /// The record that begins at the tail, to be remembered: of this kind, with a payload of so many bytes.
    #[must_use]
    pub fn record_to_come(&self, kind: u8, len: usize) -> Record {
        let stamp = u64::from(self.clock.is_some());
        let header = RecordHeader { len: len as u32, kind, stamp, ..RecordHeader::default() };
        Record { at: self.tail, word: header.word() }
    }

    /// Writes a message and publishes it. There must be room ([`Self::has_room`]).
    #[inline]
    pub fn publish(&mut self, payload: &[u8]) {
        let Record { at, word } = self.record_to_come(RecordHeader::MESSAGE, payload.len());
        self.append(payload);
        self.header.beside.write(at, word, payload);
        self.publish_shown();
    }

    /// Writes a message, to be published later. There must be room ([`Self::has_room`]).
    #[inline]
    pub fn append(&mut self, payload: &[u8]) {
        self.write(self.header_of(payload.len()), payload);
    }

    #[inline]
    fn write(&mut self, header: RecordHeader, payload: &[u8]) {
        let at = self.tail;
        self.storage.write(at, header, payload);
        self.step_over(header.word());
        self.fetch_ahead(at, header.granules());
    }

    /// A record was written: the next lies behind it.
    #[inline]
    fn step_over(&mut self, word: RecordWord) {
        let granules = word.granules();
        self.tail = self.tail.advance(granules);
        self.writable = self.writable.saturating_sub(granules);
        self.sent = self.sent.wrapping_add(1);
    }

    /// Behind a record at `at`, of so many granules: as many will be written further on. Not where receivers may still read.
    #[inline(always)]
    fn fetch_ahead(&self, at: Position, granules: u64) {
        // Only where it reaches into another line.
        let other_line = (at.get() ^ at.get().wrapping_add(granules)) >= GRANULES_A_LINE;
        if other_line && self.writable >= granules + GRANULES_AHEAD {
            self.storage.expect_writes(at, granules, granules + GRANULES_AHEAD);
        }
    }

    /// Makes a message, to be published later, of what was written in place. There must be room
    /// ([`Self::has_room`]).
    #[inline]
    pub fn append_written(&mut self, kind: u8, len: usize) {
        let header = RecordHeader { kind, ..self.header_of(len) };
        let at = self.tail;
        self.storage.write_header(at, header);
        self.step_over(header.word());
        // Of a longer one perhaps not every line was written: `expect_more`.
        if header.granules() <= SHORT_GRANULES {
            self.fetch_ahead(at, header.granules());
        }
    }

    #[inline]
    fn header_of(&self, len: usize) -> RecordHeader {
        // 0 is none.
        let stamp = self.clock.map_or(0, |now| now().max(1));
        RecordHeader { len: len as u32, stamp, ..RecordHeader::default() }
    }

    /// Stamps the messages from now on with the time.
    pub fn stamp_with(&mut self, clock: fn() -> u64) {
        self.plain = false;
        self.clock = Some(clock);
    }

    /// Where the next record is written, and where that lies.
    #[inline]
    pub fn next_record(&mut self) -> (&mut S, Position) {
        (&mut self.storage, self.tail)
    }

    /// After a record of so many granules was written: those behind it are probably as long, and what they
    /// begin with can be on its way here. Not where receivers may still read.
    #[inline]
    pub fn expect_more(&self, granules: u64) {
        if self.has_room(granules * (RECORDS_AHEAD + 1)) {
            self.storage.expect_write(self.tail.advance(granules * RECORDS_AHEAD));
        }
    }

    /// Publishes what has been appended.
    #[inline]
    pub fn publish_appended(&mut self) {
        self.header.beside.clear();
        self.publish_shown();
    }

    /// The same where what was appended last stands beside the tail.
    #[inline]
    pub(super) fn publish_shown(&mut self) {
        // Relaxed: a counter for people.
        match &mut self.counted {
            None => self.header.sent.store(self.sent, Relaxed),
            Some(counted) => {
                self.header.sent.fetch_add(self.sent - *counted, Relaxed);
                *counted = self.sent;
            }
        }
        store_tail(&self.header, self.tail);
    }

    fn free_granules(&self) -> i64 {
        self.limit.advance(self.capacity()).since(self.tail)
    }

    fn settle_writable(&mut self) {
        self.writable = self.room();
        if self.prepared < self.capacity() {
            // In the first lap: no further than memory is allocated.
            let prepared = self.first.advance(self.prepared).since(self.tail).max(0) as u64;
            self.writable = self.writable.min(prepared);
        }
    }

    /// In the first lap, has memory allocated for a record of so many granules.
    fn prepare(&mut self, granules: u64) -> Result<(), NoRoom> {
        while self.prepared < self.capacity()
            && self.first.advance(self.prepared).since(self.tail) < granules as i64
        {
            let step = self.prepared.clamp(PREPARE_GRANULES_FIRST, PREPARE_GRANULES_MAX);
            let step = step.min(self.capacity() - self.prepared);
            let at = self.first.advance(self.prepared);
            self.storage.prepare(at, step).map_err(NoRoom::Memory)?;
            self.prepared += step;
        }
        Ok(())
    }

    /// Everything before the least of every group's claim and holds on this lane is free.
    fn refresh_limit(&mut self) -> Result<(), NoRoom> {
        let mut limit = self.tail;
        for (group, entry) in self.groups.iter_mut().zip(&self.roster.header.groups) {
            group.refresh(entry, self.lane, self.tail)?;
            if group.limit.since(limit) < 0 {
                limit = group.limit;
            }
        }
        self.limit = limit;
        Ok(())
    }
}

#[inline(always)]
fn store_tail(header: &LaneHeader, tail: Position) {
    // PAIR(publish): Release here, Acquire in `reader::LaneReader::look_behind`; makes the record's
    // bytes visible to whoever sees the tail.
    header.tail.store(tail.get(), Release);
}

impl GroupLimit {
    /// The least of the claim and the holds: claim first, then the list of slots, then their holds.
    fn refresh(&mut self, entry: &GroupEntry, lane: u16, tail: Position) -> Result<(), NoRoom> {
        // PAIR(claim): Acquire here, AcqRel (or Release) in `claim::Claimant::claim_if`; whoever moved the
        // claim had stored its hold before, so the hold, or what came after it, is seen below.
        let word = self.cursors.claims[usize::from(lane)].claim.load(Acquire);
        let claim = Claim::from_word(word);
        if claim.position.since(self.claim) < 0 || tail.since(claim.position) < 0 {
            return Err(NoRoom::Corrupt);
        }
        self.claim = claim.position;
        // PAIR(slots): Acquire here, Release where `ipcd` gives a slot out. A slot that is free now has no hold.
        let high = entry.receivers_high.load(Acquire) as usize;
        let (known, mut limit) = (self.limit, claim.position);
        let scanned = owned_holds(&self.cursors, high, lane, claim, |_, held| {
            // A hold before the limit that is known already came too late to be owned.
            if held.since(known) >= 0 && held.since(limit) < 0 {
                limit = held;
            }
        });
        if scanned.is_some() {
            self.limit = limit;
        }
        Ok(())
    }
}
