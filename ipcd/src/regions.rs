//! The regions of a mailbox: created, sealed, handed out, and the words that the daemon writes in them. What
//! members see of it is shown by [`show`], once the state has it; [`restore`] takes over what a predecessor has left.
//!
//! **Invariant:** nothing that is read here is trusted: it comes back as a plain number for others to check.

mod doorsteps;
pub mod restore;
pub mod show;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;

use libipc::lane::fate::{self, Fate};
use libipc::lane::hints;
use libipc::lane::layout::{
    CURSORS_MAGIC, Claim, LANE_HEADER_BYTES, LANE_MAGIC, LAYOUT_VERSION, LaneHeader, Limits,
    ROSTER_MAGIC, SlotCell, SlotState, Traffic, cursors_map, lane_data_offset, lane_file_bytes,
    roster_map,
};
use libipc::lane::position::{GRANULE_BYTES, Position, granules_of};
use libipc::lane::record::{RecordHeader, RecordWord};
use libipc::lane::repair::leave_line;
use libipc::protocol::{Identity, LaneInfo, LaneTicket, Receivers};
use libipc::regions::{Cursors, Doorstep, Roster};
use libipc::sync::{AtomicU32, AtomicU64, Ordering};
use libipc::sys::futex;
use libipc::sys::mapping::{Access, MapError};
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::sys::uio::{pread, pwrite};

use crate::registry::dead_letter::Freeing;
use crate::registry::doorstep::DoorstepSlot;
use crate::registry::group::Place;
use crate::registry::mailbox::{HOME_DOORSTEP, Mailbox};
use crate::store::{Kept, Store};

use show::{Backstage, Counts, Show};

/// A sealed piece of shared memory.
#[derive(Clone, Debug)]
pub struct Region {
    fd: Rc<OwnedFd>,
    name: Rc<str>,
    kept: Option<Rc<Kept>>,
}

/// A descriptor to be handed to a client. One that can only be read is opened for it, and need not be kept open all the
/// time that an answer waits.
#[derive(Clone, Debug)]
pub struct Handed {
    region: Region,
    read_only: bool,
    reopened: Option<Rc<OwnedFd>>,
}

impl Handed {
    /// The region's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.region.name
    }

    /// It can only be read.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// What is handed over; nothing, while it is put down.
    #[must_use]
    pub fn fd(&self) -> Option<&Rc<OwnedFd>> {
        if self.read_only { self.reopened.as_ref() } else { Some(&self.region.fd) }
    }

    /// Has it open.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn take_up(&mut self) -> io::Result<()> {
        if self.read_only && self.reopened.is_none() {
            self.reopened = Some(Rc::new(self.region.reopen()?));
        }
        Ok(())
    }

    /// Keeps nothing open for it but the region.
    pub fn put_down(&mut self) {
        self.reopened = None;
    }
}

impl Region {
    /// Creates a region of `len` zero bytes that no other uid can reopen and nobody can resize.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn create(name: &str, len: u64) -> io::Result<Self> {
        let fd = memfd(name)?;
        let len = i64::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
        nix::unistd::ftruncate(&fd, len)?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(seals))?;
        Ok(Self { fd: Rc::new(fd), name: name.into(), kept: None })
    }

    /// One that a predecessor has made.
    #[must_use]
    pub fn found(name: &str, fd: OwnedFd, kept: Rc<Kept>) -> Self {
        Self { fd: Rc::new(fd), name: name.into(), kept: Some(kept) }
    }

    /// Has the store keep it until it is dropped.
    ///
    /// # Errors
    /// As for [`Store::keep`].
    pub fn keep(mut self, store: &Rc<Store>) -> io::Result<Self> {
        self.kept = Some(Rc::new(store.keep(&[self.fd.as_fd()])?));
        Ok(self)
    }

    /// Has the store keep several as one, until the last of them is dropped.
    fn keep_together(store: &Rc<Store>, mut regions: Vec<&mut Self>) -> io::Result<()> {
        let fds: Vec<_> = regions.iter().map(|region| region.fd.clone()).collect();
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        let kept = Rc::new(store.keep(&fds)?);
        regions.iter_mut().for_each(|region| region.kept = Some(kept.clone()));
        Ok(())
    }

    /// Its name: the mailbox's number, what it is, and which of these.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A descriptor that reads and writes.
    #[must_use]
    pub fn read_write(&self) -> Handed {
        Handed { region: self.clone(), read_only: false, reopened: None }
    }

    /// A descriptor that can only be read and mapped for reading.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn read_only(&self) -> io::Result<Handed> {
        let mut handed = self.read_only_later();
        handed.take_up()?;
        Ok(handed)
    }

    /// The same, put down.
    #[must_use]
    pub fn read_only_later(&self) -> Handed {
        Handed { region: self.clone(), read_only: true, reopened: None }
    }

    fn reopen(&self) -> io::Result<OwnedFd> {
        let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        Ok(nix::fcntl::open(path.as_str(), flags, Mode::empty())?)
    }

    /// Bytes of it that are in memory.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        fstat(&self.fd).map_or(0, |stat| u64::try_from(stat.st_blocks).unwrap_or(0) * 512)
    }

    fn word(&self, offset: usize) -> u64 {
        let mut word = [0; 8];
        // A hole stays a hole: reading by call charges no page to the daemon, a mapping would.
        match pread(&self.fd, &mut word, offset as i64) {
            Ok(8) => u64::from_ne_bytes(word),
            _ => 0,
        }
    }

    fn get(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let read = pread(&self.fd, bytes, offset as i64)?;
        if read == bytes.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn set(&self, offset: usize, bytes: &[u8]) -> io::Result<()> {
        let written = pwrite(&self.fd, bytes, offset as i64)?;
        if written == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}

impl AsFd for Region {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Creates a memory file that no other uid can reopen. Kernels before 6.3 do not know the flag that forbids to execute it.
///
/// # Errors
/// What the kernel said.
pub fn memfd(name: &str) -> io::Result<OwnedFd> {
    let basic = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let no_exec = basic | MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    let fd = match memfd_create(name, no_exec) {
        Err(nix::Error::EINVAL) => memfd_create(name, basic)?,
        result => result?,
    };
    fchmod(&fd, Mode::from_bits_truncate(0o600))?;
    Ok(fd)
}

/// One lane's file and what the daemon knows of it.
#[derive(Debug)]
pub struct LaneRegion {
    region: Region,
    doorstep: u16,
    capacity_bytes: u64,
    /// The tail when its sender was gone: read once, since a stranger may write it still.
    pub last_tail: Option<Position>,
}

impl LaneRegion {
    /// The published tail, as the sender alleges it.
    #[must_use]
    pub fn tail(&self) -> Position {
        let offset = std::mem::offset_of!(LaneHeader, tail);
        self.last_tail.unwrap_or_else(|| Position::new(self.region.word(offset)))
    }

    /// Messages sent, as the sender alleges.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.region.word(std::mem::offset_of!(LaneHeader, sent))
    }

    /// The file.
    #[must_use]
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// The header of the record that is alleged to begin at a position.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn header(&self, at: Position) -> io::Result<RecordHeader> {
        let mut words = [0; GRANULE_BYTES];
        self.region.get(self.offset_of(at), &mut words)?;
        let (first, second) = words.split_at(8);
        let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_ne_bytes);
        Ok(RecordHeader::from_words(RecordWord::new(word(first)), || word(second)))
    }

    /// The first `len` bytes of the payload of the record at a position that has this first word; it is no longer than
    /// the lane.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn payload(&self, at: Position, word: RecordWord, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let (begin, to_end) = self.payload_place(at, word);
        let (front, back) = bytes.split_at_mut(len.min(to_end));
        self.region.get(begin, front)?;
        self.region.get(lane_data_offset(self.capacity_bytes), back)?;
        Ok(bytes)
    }

    /// Makes a message the only one of a lane that nobody knows of yet, and that begins at `first`.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn write_only(&self, first: Position, stamp: u64, message: &[u8]) -> io::Result<()> {
        let header = RecordHeader { len: message.len() as u32, stamp, ..RecordHeader::default() };
        let word = header.word();
        let begin = self.offset_of(first) as usize;
        self.region.set(begin, &word.get().to_ne_bytes())?;
        if word.is_stamped() {
            self.region.set(begin + size_of::<u64>(), &stamp.to_ne_bytes())?;
        }
        let (begin, to_end) = self.payload_place(first, word);
        let (front, back) = message.split_at(message.len().min(to_end));
        self.region.set(begin as usize, front)?;
        self.region.set(lane_data_offset(self.capacity_bytes) as usize, back)?;
        self.region.set(std::mem::offset_of!(LaneHeader, sent), &1u64.to_ne_bytes())?;
        let tail = first.advance(word.granules()).get();
        self.region.set(std::mem::offset_of!(LaneHeader, tail), &tail.to_ne_bytes())
    }

    /// Where a granule lies in the file.
    fn offset_of(&self, at: Position) -> u64 {
        let index = at.get() & (granules_of(self.capacity_bytes) - 1);
        lane_data_offset(self.capacity_bytes) + index * GRANULE_BYTES as u64
    }

    /// Where the payload of a record begins in the file, and how many bytes there are up to the data's end: it goes on at
    /// the data's beginning.
    fn payload_place(&self, at: Position, word: RecordWord) -> (u64, usize) {
        let (granules, bytes) =
            (word.payload_offset() / GRANULE_BYTES, word.payload_offset() % GRANULE_BYTES);
        let begin = self.offset_of(at.advance(granules as u64)) + bytes as u64;
        (begin, self.end().saturating_sub(begin) as usize)
    }

    /// Behind the last byte.
    fn end(&self) -> u64 {
        lane_file_bytes(self.capacity_bytes)
    }

    fn set_fate(&self, at: Position, fate: Fate) -> io::Result<()> {
        let granules = granules_of(self.capacity_bytes) as usize;
        self.region.set(LANE_HEADER_BYTES + fate::index(at, granules), &[fate as u8])
    }
}

/// All regions of one mailbox.
#[derive(Debug)]
pub struct MailboxRegions {
    mailbox_id: u64,
    backstage: Rc<Backstage>,
    roster: (Region, Roster),
    cursors: Vec<(Region, Cursors)>,
    doorsteps: Vec<(Region, Doorstep)>,
    /// Those whose place another has taken, until it is certain that this stays so.
    replaced: Vec<(Region, Doorstep)>,
    lanes: BTreeMap<u16, LaneRegion>,
    limits: Limits,
    /// One receives at a time: the others sleep in line.
    turns: bool,
}

impl MailboxRegions {
    /// Creates what a mailbox needs before its first member, or the first that it has again.
    ///
    /// # Errors
    /// [`MapError`]: out of descriptors, memory or address space.
    pub fn create(mailbox: &Mailbox, backstage: &Rc<Backstage>) -> Result<Self, MapError> {
        let (id, limits, nth) = (mailbox.id, mailbox.limits(), mailbox.generation());
        let make = |name: String, len: usize| create(&name, len as u64);
        let roster = make(roster_name(id, nth), roster_map(limits).len)?;
        let roster_words = Roster::map(&roster, limits, Access::ReadWrite)?;
        let header = &roster_words.header;
        // Relaxed throughout: the descriptors are handed out after this, by a system call.
        header.lanes_max.store(limits.lanes_max.into(), Ordering::Relaxed);
        header.receivers_max.store(limits.receivers_max.into(), Ordering::Relaxed);
        header.groups_count.store(limits.groups.into(), Ordering::Relaxed);
        header.mailbox_id.store(mailbox.id, Ordering::Relaxed);
        header.traffic.store(mailbox.traffic as u32, Ordering::Relaxed);
        header.fences.store(mailbox.fences.into(), Ordering::Relaxed);
        header.version.store(LAYOUT_VERSION, Ordering::Relaxed);
        header.magic.store(ROSTER_MAGIC, Ordering::Relaxed);
        let cursors = (0..limits.groups).map(|group| {
            let region = make(cursors_name(id, nth, group), cursors_map(limits).len)?;
            let words = Cursors::map(&region, limits, Access::ReadWrite)?;
            words.header.version.store(LAYOUT_VERSION, Ordering::Relaxed);
            words.header.magic.store(CURSORS_MAGIC, Ordering::Relaxed);
            Ok((region, words))
        });
        let cursors = cursors.collect::<Result<_, MapError>>()?;
        let mut regions = Self {
            mailbox_id: id,
            backstage: backstage.clone(),
            roster: (roster, roster_words),
            cursors,
            doorsteps: Vec::new(),
            replaced: Vec::new(),
            lanes: BTreeMap::new(),
            limits,
            turns: mailbox.attributes.receivers == Receivers::Exclusive,
        };
        let home = regions.make_doorstep(HOME_DOORSTEP, DoorstepSlot::home(nth))?;
        regions.doorsteps.push(home);
        // They come and go together.
        let mut together = vec![&mut regions.roster.0];
        together.extend(regions.cursors.iter_mut().map(|(region, _)| region));
        together.extend(regions.doorsteps.iter_mut().map(|(region, _)| region));
        Region::keep_together(&backstage.store, together).map_err(cannot("keep a region"))?;
        regions.show(&Show::Counts(Box::new(Counts::of(mailbox))));
        Ok(regions)
    }

    /// Makes a lane. Nobody learns of it before [`Self::publish_lane`].
    ///
    /// # Errors
    /// [`MapError`].
    pub fn add_lane(&mut self, lane: &LaneInfo) -> Result<(), MapError> {
        let name = lane_name(self.mailbox_id, lane.ticket);
        let region = create(&name, lane_file_bytes(lane.capacity_bytes))?;
        let region = region.keep(&self.backstage.store).map_err(cannot("keep a region"))?;
        let words = |error| MapError::Kernel { step: "write a lane's header", error };
        let mut constants = [0; 12];
        constants[..8].copy_from_slice(&LANE_MAGIC.to_ne_bytes());
        constants[8..].copy_from_slice(&LAYOUT_VERSION.to_ne_bytes());
        region.set(0, &constants).map_err(words)?;
        if lane.first_position != 0 {
            let tail = std::mem::offset_of!(LaneHeader, tail);
            region.set(tail, &lane.first_position.to_ne_bytes()).map_err(words)?;
        }
        let LaneInfo { doorstep, capacity_bytes, .. } = *lane;
        let made = LaneRegion { region, doorstep, capacity_bytes, last_tail: None };
        self.lanes.insert(lane.ticket.index, made);
        Ok(())
    }

    /// Lets the members see a lane: its claim and entry first, its status last.
    pub fn publish_lane(&self, lane: &LaneInfo) {
        self.later(Show::Lane(*lane));
    }

    /// Says in the roster whose a lane is now.
    pub fn set_lane_state(&self, lane: &LaneInfo, state: SlotState) {
        self.later(Show::LaneState(*lane, state));
    }

    /// Has a record freed on behalf of whoever holds it.
    pub fn free_later(&self, freeing: Freeing) {
        self.later(Show::Free(freeing));
    }

    /// Has what a receiver that is gone still holds offered to the others, once what is to be freed of it is.
    pub fn mend_later(&self, group: u8, slot: u16) {
        self.later(Show::Mend { group, slot });
    }

    /// Says how a record ended that is about to be freed without having been acknowledged.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn set_fate(&self, lane: u16, at: Position, fate: Fate) -> io::Result<()> {
        if let Some(file) = self.lanes.get(&lane) {
            file.set_fate(at, fate)?;
        }
        if let Some(entry) = self.roster().lanes.get(usize::from(lane)) {
            // PAIR(fate): Release here, Acquire in libipc's `fate::read`; whoever sees the count sees the fate.
            entry.fates.fetch_add(1, Ordering::Release);
        }
        Ok(())
    }

    /// The verdict on what the sender of a lane wants back.
    #[must_use]
    pub fn verdict(&self, lane: u16) -> Option<&AtomicU64> {
        let doorstep = self.lanes.get(&lane)?.doorstep;
        self.doorsteps.get(usize::from(doorstep))?.1.verdicts.get(usize::from(lane))
    }

    /// Says that something is in a lane.
    pub fn give_hint(&self, lane: &LaneInfo) {
        if let Some((_, doorstep)) = self.doorsteps.get(usize::from(lane.doorstep)) {
            hints::give_surely(&doorstep.hints, lane.ticket.index);
        }
    }

    /// Drops a lane's file. Members that have it mapped keep it until they unmap it.
    pub fn remove_lane(&mut self, index: u16) {
        self.lanes.remove(&index);
    }

    /// Prepares a receiver slot and lets the members see it. In an inherited one the delivery that the
    /// receiver before left stays, offered to whoever takes it over.
    pub fn publish_receiver(&self, group: u8, place: Place, identity: Identity) {
        self.later(Show::Receiver { group, place, identity });
    }

    /// Says in the roster whose a receiver slot is now.
    pub fn set_receiver_state(&self, group: u8, slot: u16, state: SlotState) {
        self.later(Show::ReceiverState { group, slot, state });
    }

    fn later(&self, show: Show) {
        self.backstage.later(self.mailbox_id, show);
    }

    /// The index of a slot of a group among those of all groups.
    fn entry_of(&self, group: u8, slot: u16) -> usize {
        usize::from(group) * usize::from(self.limits.receivers_max) + usize::from(slot)
    }

    fn slot(&self, group: u8, slot: u16) -> Option<&SlotCell> {
        self.cursors(group)?.slots.get(usize::from(slot))
    }

    /// Clears the mark that a slot offers something.
    fn clear_offered(&self, group: u8, slot: u16) {
        let (word, bit) = (usize::from(slot / 64), 1 << (slot % 64));
        if let Some(offered) = self.cursors(group).and_then(|it| it.header.offered.get(word)) {
            offered.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    /// Clears the mark of a receiver that will not wake any more.
    pub fn clear_sleeping(&self, group: u8, slot: u16) {
        let (word, bit) = (usize::from(slot / 64), 1 << (slot % 64));
        if let Some(sleeping) = self.cursors(group).and_then(|it| it.header.sleeping.get(word)) {
            sleeping.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    /// Messages acknowledged through a slot, as its receiver alleges.
    #[must_use]
    pub fn received(&self, group: u8, slot: u16) -> u64 {
        self.slot(group, slot).map_or(0, |cell| cell.received.load(Ordering::Relaxed))
    }

    /// How far a group has claimed a lane, as its receivers allege.
    #[must_use]
    pub fn claimed(&self, group: u8, lane: u16) -> Position {
        let cell = self.cursors(group).and_then(|it| it.claims.get(usize::from(lane)));
        Claim::from_word(cell.map_or(0, |cell| cell.claim.load(Ordering::Acquire))).position
    }

    /// Copies the registry's counts into the roster and tells the members to look.
    pub fn publish_counts(&self, mailbox: &Mailbox) {
        self.later(Show::Counts(Box::new(Counts::of(mailbox))));
    }

    /// Copies the counts of dropped messages into the roster: for people, so nobody is told to look.
    pub fn publish_dropped(&self, mailbox: &Mailbox) {
        self.later(Show::Dropped(mailbox.groups().iter().map(|group| group.dropped).collect()));
    }

    /// Says what the mailbox lets through, and tells the members to look.
    pub fn set_traffic(&self, traffic: Traffic) {
        self.later(Show::Traffic(traffic));
    }

    /// Makes all members keep their fences from now on.
    pub fn set_fences(&self, barrier: bool) {
        self.later(Show::Fences { barrier });
    }

    /// Wakes the receivers.
    pub fn ring_bells(&self) {
        self.later(Show::Bells);
    }

    /// Wakes everybody who may sleep on this mailbox, receivers and senders.
    pub fn ring(&self) {
        self.later(Show::Everybody);
    }

    /// Wakes the sender of a lane, and whoever waits for messages of it to be acknowledged.
    pub fn ring_freed(&self, lane: u16) {
        if let Some(file) = self.lanes.get(&lane) {
            self.ring_freed_at(file.doorstep, lane);
        }
    }

    /// The same, also where the lane's file is gone.
    fn ring_freed_at(&self, doorstep: u16, lane: u16) {
        let doorstep = self.doorsteps.get(usize::from(doorstep));
        if let Some(word) = doorstep.and_then(|(_, words)| words.freed.get(usize::from(lane))) {
            ring_word(word);
        }
    }

    /// Takes a receiver that is gone out of the line for the turn; whoever rings next wakes the others in it.
    pub fn leave_line(&self, group: u8, slot: u16) {
        if let Some(cursors) = self.cursors(group).filter(|_| self.turns) {
            leave_line(cursors, slot);
        }
    }

    /// The roster's words.
    #[must_use]
    pub fn roster(&self) -> &Roster {
        &self.roster.1
    }

    /// The words of a group's cursors.
    #[must_use]
    pub fn cursors(&self, group: u8) -> Option<&Cursors> {
        self.cursors.get(usize::from(group)).map(|(_, words)| words)
    }

    /// The words of every group's cursors.
    pub fn all_cursors(&self) -> impl Iterator<Item = &Cursors> {
        self.cursors.iter().map(|(_, words)| words)
    }

    /// The roster's file.
    #[must_use]
    pub fn roster_region(&self) -> &Region {
        &self.roster.0
    }

    /// The file of a group's cursors.
    #[must_use]
    pub fn cursors_region(&self, group: u8) -> Option<&Region> {
        self.cursors.get(usize::from(group)).map(|(region, _)| region)
    }

    /// The file of each group's cursors.
    pub fn cursors_regions(&self) -> impl Iterator<Item = &Region> {
        self.cursors.iter().map(|(region, _)| region)
    }

    /// A doorstep's file.
    #[must_use]
    pub fn doorstep_region(&self, index: u16) -> Option<&Region> {
        self.doorsteps.get(usize::from(index)).map(|(region, _)| region)
    }

    /// A lane.
    #[must_use]
    pub fn lane(&self, index: u16) -> Option<&LaneRegion> {
        self.lanes.get(&index)
    }

    /// A lane, to note things.
    pub fn lane_mut(&mut self, index: u16) -> Option<&mut LaneRegion> {
        self.lanes.get_mut(&index)
    }

    /// Bytes of it that are in memory.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        let cursors: u64 = self.cursors_regions().map(Region::resident_bytes).sum();
        let fixed = self.roster.0.resident_bytes() + cursors;
        let doorsteps: u64 = self.doorsteps.iter().map(|(region, _)| region.resident_bytes()).sum();
        let lanes: u64 = self.lanes.values().map(|lane| lane.region.resident_bytes()).sum();
        fixed + doorsteps + lanes
    }
}

fn ring_word(word: &AtomicU32) {
    // Release: pairs with the Acquire of a sleeper that finds the word changed and looks again.
    word.fetch_add(1, Ordering::Release);
    futex::wake(word, u32::MAX);
}

fn create(name: &str, len: u64) -> Result<Region, MapError> {
    Region::create(name, len).map_err(cannot("create a region"))
}

fn cannot(step: &'static str) -> impl FnOnce(io::Error) -> MapError {
    move |error| MapError::Kernel { step, error }
}

/// `nth`: [`Mailbox::generation`]. No two regions that the store ever had have the same name.
fn roster_name(mailbox_id: u64, nth: u64) -> String {
    format!("{mailbox_id}.roster{}", suffix(nth))
}

fn cursors_name(mailbox_id: u64, nth: u64, group: u8) -> String {
    format!("{mailbox_id}.cursors.{group}{}", suffix(nth))
}

/// The first ones have none: so a daemon of before has named them.
fn suffix(nth: u64) -> String {
    if nth == 1 { String::new() } else { format!(".{nth}") }
}

fn lane_name(mailbox_id: u64, lane: LaneTicket) -> String {
    format!("{mailbox_id}.lane.{}.{}", lane.index, lane.generation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_sealed_private_and_reopens_read_only() {
        let region = Region::create("test", 8192).unwrap();
        assert!(nix::unistd::ftruncate(&region, 4096).is_err());
        assert!(nix::unistd::ftruncate(&region, 16384).is_err());
        let more = fcntl(&region, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE));
        assert_eq!(more, Err(nix::Error::EPERM));
        assert_eq!(fstat(&region).unwrap().st_mode & 0o7777, 0o600);
        let mut read_only = region.read_only().unwrap();
        let fd = read_only.fd().unwrap().clone();
        assert!(pwrite(&fd, b"x", 0).is_err());
        let mut flags = fcntl(&fd, FcntlArg::F_GETFD).unwrap();
        flags &= libc::FD_CLOEXEC;
        assert_eq!(flags, libc::FD_CLOEXEC);
        read_only.put_down();
        assert!(read_only.fd().is_none() && Rc::strong_count(&fd) == 1);
        read_only.take_up().unwrap();
        assert!(pwrite(read_only.fd().unwrap(), b"x", 0).is_err());
    }
}
