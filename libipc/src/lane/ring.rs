//! One lane from its sender's side: records, where they go, and where there is room.
//!
//! A record is a header of one granule and a payload padded to granules. The sender writes it behind
//! its tail, where no receiver looks, and then publishes it by moving the tail. Whenever the sender
//! dies, the record was published or it never existed.

use crate::lane::layout::{Claim, GroupEntry, LaneHeader};
use crate::lane::position::{Position, record_granules};
use crate::lane::repair::owned_holds;
use crate::lane::withdraw::{self, Progress, Record};
use crate::regions::{Cursors, Roster};
use crate::sync::Ordering::{Acquire, Relaxed, Release};
use crate::sys::mapping::Shared;

/// Bytes of the number behind a call or a reply.
pub const CALL_NUMBER_BYTES: usize = 8;

/// What stands in front of a payload.
///
/// ```text
/// word 0   len u32 | kind u8 | flags u8 | 0 u16
/// word 1   stamp u64
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordHeader {
    /// Bytes of the payload.
    pub len: u32,
    /// What the record is: [`Self::MESSAGE`], or one of those below.
    pub kind: u8,
    /// Whether its sender wants it back; written once more after it is published.
    pub flags: u8,
    /// Where messages are received in the order of their arrival: nanoseconds on the monotonic clock, read
    /// before the record was published; else 0.
    pub stamp: u64,
}

impl RecordHeader {
    /// A message.
    pub const MESSAGE: u8 = 0;
    /// A message whose sender waits for an answer; the payload ends with the call's number, 8 bytes, the
    /// least significant first.
    pub const CALL: u8 = 1;
    /// The answer to a call; the payload ends with the call's number.
    pub const REPLY: u8 = 2;
    /// Flag: its sender has asked for it back; its verdict says whether it got it.
    pub const WITHDRAWING: u8 = 1;
    /// Flag: its sender has it back; it is to be skipped.
    pub const WITHDRAWN: u8 = 2;

    /// Takes two words apart.
    #[inline]
    #[must_use]
    pub fn from_words(words: [u64; 2]) -> Self {
        let [first, stamp] = words;
        Self { len: first as u32, kind: (first >> 32) as u8, flags: (first >> 40) as u8, stamp }
    }

    /// Puts two words together.
    #[inline]
    #[must_use]
    pub fn to_words(self) -> [u64; 2] {
        [u64::from(self.len) | u64::from(self.kind) << 32 | u64::from(self.flags) << 40, self.stamp]
    }

    /// Whether the first word of a record says that its sender has asked for it back.
    #[inline]
    #[must_use]
    pub fn is_marked(first_word: u64) -> bool {
        first_word >> 40 != 0
    }

    /// Bytes of the message in a payload of this length.
    #[inline]
    #[must_use]
    pub fn message_len(kind: u8, len: usize) -> usize {
        if kind == Self::MESSAGE { len } else { len.saturating_sub(CALL_NUMBER_BYTES) }
    }

    /// Granules of the whole record.
    #[inline]
    #[must_use]
    pub fn granules(self) -> u64 {
        record_granules(self.len as usize)
    }
}

/// Where records lie: mapped memory, or cells of a model.
pub trait Storage {
    /// What a payload is copied into.
    type Payload;

    /// Granules that it has: a power of two.
    fn capacity(&self) -> u64;

    /// Writes a record's header. The record must fit, and no receiver may look there.
    fn write_header(&self, at: Position, header: RecordHeader);

    /// Writes a record. It must fit, and no receiver may look there.
    fn write(&self, at: Position, header: RecordHeader, payload: &[u8]);

    /// Reads the header at a position; it may be of a record that is being overwritten.
    fn header(&self, at: Position) -> RecordHeader;

    /// The first word of the header at a position.
    #[inline]
    fn first_word(&self, at: Position) -> u64 {
        self.header(at).to_words()[0]
    }

    /// Copies out the payload of the record at a position, which the reader holds. `len` bytes lie
    /// inside the storage: the caller has checked.
    fn copy_out(&self, at: Position, len: usize, into: &mut Self::Payload);

    /// Has memory allocated for `granules` from `at` on, so that writing there cannot fail.
    ///
    /// # Errors
    /// What the kernel said.
    fn prepare(&self, at: Position, granules: u64) -> std::io::Result<()>;

    /// The record at a position will be read soon.
    #[inline]
    fn expect_read(&self, _at: Position) {}

    /// A record will be written at a position soon.
    #[inline]
    fn expect_write(&self, _at: Position) {}

    /// Stands between any two steps of a claim that a death may come between. Does nothing, but in the
    /// models, which kill there.
    #[inline]
    fn checkpoint(&self) {}
}

/// The headers of a lane's records, once they are published.
pub trait Marks {
    /// Writes the first word of a record's header anew: only its flags differ.
    fn mark(&self, at: Position, header: RecordHeader);
}

/// So many records ahead whoever deals with long ones in place says where the next will begin: each begins in
/// another page, where no processor looks by itself.
pub(super) const RECORDS_AHEAD: u64 = 4;

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
    storage: S,
    header: Shared<LaneHeader>,
    roster: Roster,
    /// One a group.
    groups: Vec<GroupLimit>,
    lane: u16,
    /// Behind the last record written; published with every record.
    tail: Position,
    /// Everything before it is free again: every group has done with it.
    limit: Position,
    /// Records may be written up to here: the end of the free room, or of the allocated memory.
    writable_end: Position,
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
        Self {
            storage,
            header,
            roster,
            groups,
            lane,
            tail: first,
            limit: first,
            writable_end: first,
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
        self.writable_end.since(self.tail) >= granules as i64
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
                self.settle_writable_end();
                return Err(NoRoom::Full);
            }
        }
        self.prepare(granules)?;
        self.settle_writable_end();
        if let Some(every) = self.look_every {
            let next_look = self.tail.advance(every.max(granules));
            if self.writable_end.since(next_look) > 0 {
                self.writable_end = next_look;
            }
        }
        Ok(())
    }

    /// Has the receivers' words looked at every so many granules even if there is room.
    pub fn look_every(&mut self, granules: u64) {
        self.look_every = Some(granules);
        self.writable_end = self.tail;
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
            let header = self.storage.header(through);
            if self.tail.since(through.advance(header.granules())) < 0 {
                return None;
            }
            through = through.advance(header.granules());
            messages += u64::from(header.flags & RecordHeader::WITHDRAWN == 0);
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

    /// Does what [`Self::publish`] does, and less, if [`Self::is_plain`].
    #[inline]
    pub fn publish_plainly(&mut self, payload: &[u8]) {
        debug_assert!(self.plain, "what is not plain is published with all that belongs to it");
        let header = RecordHeader { len: payload.len() as u32, ..RecordHeader::default() };
        self.write(header, payload);
        // Relaxed: a counter for people.
        self.header.sent.store(self.sent, Relaxed);
        self.store_tail();
    }

    /// Writes a message and publishes it. There must be room ([`Self::has_room`]).
    #[inline]
    pub fn publish(&mut self, payload: &[u8]) {
        self.append(payload);
        self.publish_appended();
    }

    /// Writes a message, to be published later. There must be room ([`Self::has_room`]).
    #[inline]
    pub fn append(&mut self, payload: &[u8]) {
        self.write(self.header_of(payload.len()), payload);
    }

    #[inline]
    fn write(&mut self, header: RecordHeader, payload: &[u8]) {
        self.storage.write(self.tail, header, payload);
        self.step_over(header);
    }

    /// A record was written: the next lies behind it.
    #[inline]
    fn step_over(&mut self, header: RecordHeader) {
        self.tail = self.tail.advance(header.granules());
        self.sent += 1;
    }

    /// Makes a message, to be published later, of what was written in place. There must be room
    /// ([`Self::has_room`]).
    #[inline]
    pub fn append_written(&mut self, kind: u8, len: usize) {
        let header = RecordHeader { kind, ..self.header_of(len) };
        self.storage.write_header(self.tail, header);
        self.step_over(header);
    }

    #[inline]
    fn header_of(&self, len: usize) -> RecordHeader {
        let stamp = self.clock.map_or(0, |now| now());
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
        // Relaxed: a counter for people.
        match &mut self.counted {
            None => self.header.sent.store(self.sent, Relaxed),
            Some(counted) => {
                self.header.sent.fetch_add(self.sent - *counted, Relaxed);
                *counted = self.sent;
            }
        }
        self.store_tail();
    }

    #[inline]
    fn store_tail(&self) {
        // PAIR(publish): Release here, Acquire in `claim::Claimant::claim_from`; makes the record's
        // bytes visible to whoever sees the tail.
        self.header.tail.store(self.tail.get(), Release);
    }

    fn free_granules(&self) -> i64 {
        self.limit.advance(self.capacity()).since(self.tail)
    }

    fn settle_writable_end(&mut self) {
        self.writable_end = self.limit.advance(self.capacity());
        if self.prepared < self.capacity() {
            // In the first lap: no further than memory is allocated.
            let prepared_end = self.first.advance(self.prepared);
            if self.writable_end.since(prepared_end) > 0 {
                self.writable_end = prepared_end;
            }
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

impl GroupLimit {
    /// The least of the claim and the holds: claim first, then the list of slots, then their holds.
    fn refresh(&mut self, entry: &GroupEntry, lane: u16, tail: Position) -> Result<(), NoRoom> {
        // PAIR(claim): Acquire here, AcqRel (or Release) in `claim::Claimant::claim_from`; whoever moved the
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
