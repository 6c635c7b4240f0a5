//! The regions of a mailbox: created, sealed, handed out, and the words that the daemon writes in them.
//!
//! **Invariant:** nothing that is read here is trusted: it comes back as a plain number for others to check.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;

use libipc::lane::fate::{self, Fate};
use libipc::lane::hints;
use libipc::lane::layout::{
    CURSORS_MAGIC, Claim, DOORSTEP_MAGIC, LANE_HEADER_BYTES, LANE_MAGIC, LAYOUT_VERSION,
    LaneHeader, LaneStatus, Limits, Marked, ROSTER_MAGIC, SlotCell, SlotState, Traffic,
    cursors_map, doorstep_map, lane_data_offset, lane_file_bytes, roster_map,
};
use libipc::lane::position::{GRANULE_BYTES, Position};
use libipc::lane::repair::leave_line;
use libipc::lane::ring::RecordHeader;
use libipc::protocol::{Identity, LaneInfo, Receivers};
use libipc::regions::{Cursors, Doorstep, Roster};
use libipc::sync::{AtomicU32, AtomicU64, Ordering};
use libipc::sys::futex;
use libipc::sys::mapping::{Access, MapError};
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::sys::uio::{pread, pwrite};

use crate::registry::mailbox::Mailbox;

/// A sealed piece of shared memory.
#[derive(Clone, Debug)]
pub struct Region {
    fd: Rc<OwnedFd>,
}

impl Region {
    /// Creates a region of `len` zero bytes that no other uid can reopen and nobody can resize.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn create(kind: &str, len: u64) -> io::Result<Self> {
        let fd = memfd(kind)?;
        fchmod(&fd, Mode::from_bits_truncate(0o600))?;
        let len = i64::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
        nix::unistd::ftruncate(&fd, len)?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(seals))?;
        Ok(Self { fd: Rc::new(fd) })
    }

    /// A descriptor that reads and writes.
    #[must_use]
    pub fn read_write(&self) -> Rc<OwnedFd> {
        self.fd.clone()
    }

    /// A descriptor that can only be read and mapped for reading.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn read_only(&self) -> io::Result<Rc<OwnedFd>> {
        let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        Ok(Rc::new(nix::fcntl::open(path.as_str(), flags, Mode::empty())?))
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

/// Creates the memory file. Kernels before 6.3 do not know the flag that forbids to execute it.
fn memfd(kind: &str) -> io::Result<OwnedFd> {
    let basic = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let no_exec = basic | MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    match memfd_create(kind, no_exec) {
        Err(nix::Error::EINVAL) => Ok(memfd_create(kind, basic)?),
        result => Ok(result?),
    }
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
        Ok(RecordHeader::from_words([word(first), word(second)]))
    }

    /// The first `len` bytes of the payload of the record at a position; it is no longer than the lane.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn payload(&self, at: Position, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let begin = self.offset_of(at.advance(1));
        let to_end = self.end().saturating_sub(begin) as usize;
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
        let [word, stamp] = header.to_words().map(u64::to_ne_bytes);
        let begin = self.offset_of(first) as usize;
        self.region.set(begin, &word)?;
        self.region.set(begin + word.len(), &stamp)?;
        let begin = self.offset_of(first.advance(1));
        let to_end = self.end().saturating_sub(begin) as usize;
        let (front, back) = message.split_at(message.len().min(to_end));
        self.region.set(begin as usize, front)?;
        self.region.set(lane_data_offset(self.capacity_bytes) as usize, back)?;
        self.region.set(std::mem::offset_of!(LaneHeader, sent), &1u64.to_ne_bytes())?;
        let tail = first.advance(header.granules()).get();
        self.region.set(std::mem::offset_of!(LaneHeader, tail), &tail.to_ne_bytes())
    }

    /// Where a granule lies in the file.
    fn offset_of(&self, at: Position) -> u64 {
        let index = at.get() & (self.capacity_bytes / GRANULE_BYTES as u64 - 1);
        lane_data_offset(self.capacity_bytes) + index * GRANULE_BYTES as u64
    }

    /// Behind the last byte.
    fn end(&self) -> u64 {
        lane_file_bytes(self.capacity_bytes)
    }

    fn set_fate(&self, at: Position, fate: Fate) -> io::Result<()> {
        let granules = self.capacity_bytes as usize / GRANULE_BYTES;
        self.region.set(LANE_HEADER_BYTES + fate::index(at, granules), &[fate as u8])
    }
}

/// All regions of one mailbox.
#[derive(Debug)]
pub struct MailboxRegions {
    roster: (Region, Roster),
    cursors: Vec<(Region, Cursors)>,
    doorsteps: Vec<(Region, Doorstep)>,
    lanes: BTreeMap<u16, LaneRegion>,
    limits: Limits,
    /// One receives at a time: the others sleep in line.
    turns: bool,
}

impl MailboxRegions {
    /// Creates what a mailbox needs before its first member.
    ///
    /// # Errors
    /// [`MapError`]: out of descriptors, memory or address space.
    pub fn create(mailbox: &Mailbox) -> Result<Self, MapError> {
        let limits = mailbox.limits();
        let roster = make("roster", roster_map(limits).len)?;
        let roster_words = Roster::map(&roster, limits, Access::ReadWrite)?;
        let header = &roster_words.header;
        // Relaxed throughout: the descriptors are handed out after this, by a system call.
        header.lanes_max.store(limits.lanes_max.into(), Ordering::Relaxed);
        header.receivers_max.store(limits.receivers_max.into(), Ordering::Relaxed);
        header.groups_count.store(limits.groups.into(), Ordering::Relaxed);
        header.mailbox_id.store(mailbox.id, Ordering::Relaxed);
        header.version.store(LAYOUT_VERSION, Ordering::Relaxed);
        header.magic.store(ROSTER_MAGIC, Ordering::Relaxed);
        let cursors = (0..limits.groups).map(|_| {
            let region = make("cursors", cursors_map(limits).len)?;
            let words = Cursors::map(&region, limits, Access::ReadWrite)?;
            words.header.version.store(LAYOUT_VERSION, Ordering::Relaxed);
            words.header.magic.store(CURSORS_MAGIC, Ordering::Relaxed);
            Ok((region, words))
        });
        let cursors = cursors.collect::<Result<_, MapError>>()?;
        let mut regions = Self {
            roster: (roster, roster_words),
            cursors,
            doorsteps: Vec::new(),
            lanes: BTreeMap::new(),
            limits,
            turns: mailbox.attributes.receivers == Receivers::Exclusive,
        };
        regions.add_doorstep(crate::registry::mailbox::HOME_UID)?;
        Ok(regions)
    }

    /// Adds the next doorstep.
    ///
    /// # Errors
    /// [`MapError`].
    pub fn add_doorstep(&mut self, uid: u32) -> Result<(), MapError> {
        let region = make("doorstep", doorstep_map(self.limits).len)?;
        let words = Doorstep::map(&region, self.limits, Access::ReadWrite)?;
        words.header.uid.store(uid, Ordering::Relaxed);
        words.header.version.store(LAYOUT_VERSION, Ordering::Relaxed);
        words.header.magic.store(DOORSTEP_MAGIC, Ordering::Relaxed);
        self.doorsteps.push((region, words));
        Ok(())
    }

    /// Takes the doorsteps from `count` on away: the open for which they were made has failed.
    pub fn truncate_doorsteps(&mut self, count: usize) {
        self.doorsteps.truncate(count);
    }

    /// Makes a lane. Nobody learns of it before [`Self::publish_lane`].
    ///
    /// # Errors
    /// [`MapError`].
    pub fn add_lane(&mut self, lane: &LaneInfo) -> Result<(), MapError> {
        let region = make_long("lane", lane_file_bytes(lane.capacity_bytes))?;
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
        self.publish_lane_from(lane, |_| Position::new(lane.first_position));
    }

    /// The same, where each group begins to receive from it at a position of its own.
    pub fn publish_lane_from(&self, lane: &LaneInfo, begin: impl Fn(u8) -> Position) {
        let index = usize::from(lane.ticket.index);
        for (group, cursors) in (0u8..).zip(self.all_cursors()) {
            if let Some(cell) = cursors.claims.get(index) {
                let claim = Claim { position: begin(group), winner: None };
                cell.claim.store(claim.to_word(), Ordering::Release);
            }
        }
        if let Some(entry) = self.roster().lanes.get(index) {
            entry.capacity_bytes.store(lane.capacity_bytes, Ordering::Relaxed);
            entry.pid.store(lane.sender.pid, Ordering::Relaxed);
            entry.uid.store(lane.sender.uid, Ordering::Relaxed);
            entry.gid.store(lane.sender.gid, Ordering::Relaxed);
            entry.doorstep.store(lane.doorstep.into(), Ordering::Relaxed);
            entry.priority.store(lane.priority.into(), Ordering::Relaxed);
        }
        self.set_lane_state(lane, SlotState::Active);
    }

    /// Says in the roster whose a lane is now.
    pub fn set_lane_state(&self, lane: &LaneInfo, state: SlotState) {
        if let Some(entry) = self.roster().lanes.get(usize::from(lane.ticket.index)) {
            let status = LaneStatus { generation: lane.ticket.generation, state };
            // PAIR(lanes): Release here, Acquire in libipc's `claim::Claimant::claim_from`; whoever sees the status
            // sees the entry and the claim written before it.
            entry.status.store(status.to_word(), Ordering::Release);
        }
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
            // PAIR(fate): Release here, Acquire in libipc's `ticket::fate_in`; whoever sees the count sees the fate.
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
    pub fn publish_receiver(&self, group: u8, slot: u16, identity: Identity, inherited: bool) {
        self.clear_sleeping(group, slot);
        if !inherited {
            self.clear_offered(group, slot);
        }
        if let Some(cell) = self.slot(group, slot) {
            if !inherited {
                cell.hold.store(0, Ordering::Relaxed);
                cell.end.store(0, Ordering::Relaxed);
                cell.attempts.store(0, Ordering::Relaxed);
                cell.marked.store(Marked::FIRST, Ordering::Relaxed);
            }
            cell.received.store(0, Ordering::Relaxed);
            cell.cpu.store(0, Ordering::Relaxed);
            cell.in_line.store(0, Ordering::Relaxed);
        }
        if let Some(entry) = self.roster().receivers.get(self.entry_of(group, slot)) {
            entry.pid.store(identity.pid, Ordering::Relaxed);
            entry.uid.store(identity.uid, Ordering::Relaxed);
            entry.gid.store(identity.gid, Ordering::Relaxed);
        }
        self.set_receiver_state(group, slot, SlotState::Active);
    }

    /// Says in the roster whose a receiver slot is now.
    pub fn set_receiver_state(&self, group: u8, slot: u16, state: SlotState) {
        if let Some(entry) = self.roster().receivers.get(self.entry_of(group, slot)) {
            // PAIR(slots): Release here, Acquire in libipc's `ring::LaneWriter::refresh_limit`; whoever sees
            // the state sees the slot's words as they were prepared.
            entry.state.store(state as u32, Ordering::Release);
        }
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
        let header = &self.roster().header;
        header.lanes_high.store(mailbox.lanes().len() as u32, Ordering::Relaxed);
        for (entry, group) in header.groups.iter().zip(mailbox.groups()) {
            entry.receivers_high.store(group.slots().len() as u32, Ordering::Relaxed);
            entry.receivers.store(group.receivers(), Ordering::Relaxed);
            entry.receiver_uids.store(group.uids(), Ordering::Relaxed);
        }
        header.receivers.store(mailbox.active_receivers(), Ordering::Relaxed);
        header.senders.store(mailbox.senders().len() as u32, Ordering::Relaxed);
        header.senders_ever.store(mailbox.senders_ever, Ordering::Relaxed);
        self.publish_dropped(mailbox);
        self.announce();
    }

    /// Copies the counts of dropped messages into the roster: for people, so nobody is told to look.
    pub fn publish_dropped(&self, mailbox: &Mailbox) {
        for (entry, group) in self.roster().header.groups.iter().zip(mailbox.groups()) {
            entry.dropped.store(group.dropped, Ordering::Relaxed);
        }
    }

    /// Says what the mailbox lets through, and tells the members to look.
    pub fn set_traffic(&self, traffic: Traffic) {
        self.roster().header.traffic.store(traffic as u32, Ordering::Relaxed);
        self.announce();
    }

    /// Makes all members keep their fences from now on.
    pub fn set_fences(&self) {
        // PAIR(fences): the store, then a barrier in every running process (`Service::fence`); the
        // other end is libipc's `park::light_barrier`.
        self.roster().header.fences.store(1, Ordering::SeqCst);
        self.announce();
    }

    /// Moves `changes` on, after whatever has changed.
    fn announce(&self) {
        // PAIR(changes): Release here, Acquire in libipc's `Sender::check` and `Receiver::check`; whoever
        // sees the new count sees what was stored before it.
        self.roster().header.changes.fetch_add(1, Ordering::Release);
    }

    /// Wakes the receivers.
    pub fn ring_bells(&self) {
        for (_, doorstep) in &self.doorsteps {
            for bell in doorstep.header.bells.iter().take(self.limits.groups.into()) {
                ring_word(bell);
            }
        }
    }

    /// Wakes everybody who may sleep on this mailbox, receivers and senders.
    pub fn ring(&self) {
        self.ring_bells();
        for group in 0..self.limits.groups {
            self.ring_line(group);
        }
        for &index in self.lanes.keys() {
            self.ring_freed(index);
        }
    }

    /// Wakes the sender of a lane.
    pub fn ring_freed(&self, lane: u16) {
        let doorstep = self.lanes.get(&lane).map(|lane| usize::from(lane.doorstep));
        let doorstep = doorstep.and_then(|index| self.doorsteps.get(index));
        if let Some(word) = doorstep.and_then(|(_, words)| words.freed.get(usize::from(lane))) {
            ring_word(word);
        }
    }

    /// Wakes those receivers of a group who sleep in line for the turn.
    fn ring_line(&self, group: u8) {
        let home = self.doorsteps.first().filter(|_| self.turns);
        let high = self.roster().header.groups.get(usize::from(group));
        let high = high.map_or(0, |entry| entry.receivers_high.load(Ordering::Relaxed) as usize);
        let words = home.into_iter().flat_map(|(_, words)| words.freed.iter());
        words.skip(self.entry_of(group, 0)).take(high).for_each(ring_word);
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

fn make(kind: &'static str, len: usize) -> Result<Region, MapError> {
    make_long(kind, len as u64)
}

fn make_long(kind: &'static str, len: u64) -> Result<Region, MapError> {
    Region::create(kind, len).map_err(|error| MapError::Kernel { step: "create a region", error })
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
        let read_only = region.read_only().unwrap();
        assert!(pwrite(&read_only, b"x", 0).is_err());
        let mut flags = fcntl(&read_only, FcntlArg::F_GETFD).unwrap();
        flags &= libc::FD_CLOEXEC;
        assert_eq!(flags, libc::FD_CLOEXEC);
    }
}
