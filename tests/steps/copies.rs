//! A mailbox's memory as it would be if a process were killed now: copied, mended as `ipcd` mends it after a death, and
//! drained by the code that receivers run. So what a death at one instruction after the other leaves is seen without one.
//!
//! The regions are the daemon's, found among its descriptors. What the kernel does at a death is not seen here, nor who is woken.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use libipc::MailboxOptions;
use libipc::lane::claim::{Claimant, Next};
use libipc::lane::layout::{
    Claim, LaneStatus, Limits, SlotState, cursors_map, doorstep_map, lane_file_bytes, roster_map,
};
use libipc::lane::memory::{Payload, RingMemory};
use libipc::lane::park::slot_bit;
use libipc::lane::position::Position;
use libipc::lane::reader::LaneReader;
use libipc::lane::repair::{discard_slot, lane_is_drained, leave_line, mend_slot, slot_is_idle};
use libipc::protocol::SlowGroup;
use libipc::regions::{Cursors, Doorstep, LaneWords, Roster};
use libipc::sync::Ordering::{Acquire, Relaxed};
use libipc::sys::mapping::{Access, Mapping};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use tests::numbered::{self, Entry};

/// Messages that a receiver takes out of a copy at most: more than all lanes hold.
const MESSAGES_MAX: usize = 100_000;

/// A region of the daemon's, and a copy of it.
struct Region {
    file: File,
    copy: OwnedFd,
    /// What was in it at the last look.
    bytes: Vec<u8>,
    scratch: Vec<u8>,
}

impl Region {
    fn new(file: File, len: usize) -> Self {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let copy = memfd_create("copy", flags).expect("memory");
        nix::unistd::ftruncate(&copy, len as i64).expect("memory");
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
        fcntl(&copy, FcntlArg::F_ADD_SEALS(seals)).expect("a file of ours");
        Self { file, copy, bytes: Vec::new(), scratch: vec![0; len] }
    }

    /// Looks at it; whether it has changed.
    fn look(&mut self) -> bool {
        self.file.read_exact_at(&mut self.scratch, 0).expect("as long as it was");
        let changed = self.scratch != self.bytes;
        if changed {
            self.bytes.clone_from(&self.scratch);
        }
        changed
    }

    fn write_copy(&self) {
        let written = nix::sys::uio::pwrite(&self.copy, &self.bytes, 0);
        assert_eq!(written, Ok(self.bytes.len()), "a file of ours");
    }
}

struct Lane {
    region: Region,
    words: LaneWords,
    mapping: Arc<Mapping>,
    capacity_bytes: u64,
    generation: u32,
}

/// The regions of a mailbox, and their copies.
pub(crate) struct Copies {
    daemon: u32,
    mailbox: u64,
    limits: Limits,
    /// A receiver needs no compare-and-swap.
    single: bool,
    /// Of each group, whether it loses messages.
    lossy: Vec<bool>,
    roster: (Region, Roster),
    cursors: Vec<(Region, Cursors)>,
    doorsteps: Vec<(Region, Doorstep)>,
    lanes: BTreeMap<u16, Lane>,
    /// Looks at which something had changed.
    pub(crate) changes: u64,
}

impl Copies {
    /// Of a mailbox of this daemon. `None` if its descriptors may not be looked at.
    pub(crate) fn new(daemon: u32, mailbox: u64, options: &MailboxOptions) -> Option<Self> {
        let (attributes, groups) = (options.attributes(), options.groups());
        let limits = attributes.limits(groups.len().max(1));
        let open =
            |name: &str, len| Some(Region::new(find(daemon, mailbox, &format!("{name} "))?, len));
        let roster = open("roster", roster_map(limits).len)?;
        let words = Roster::map(&roster.copy, limits, Access::ReadWrite).expect("a copy");
        let cursors = (0..limits.groups).map(|group| {
            let region = open(&format!("cursors.{group}"), cursors_map(limits).len)?;
            let words = Cursors::map(&region.copy, limits, Access::ReadWrite).expect("a copy");
            Some((region, words))
        });
        let lossy = groups.iter().map(|group| group.slow == SlowGroup::DropOldest).collect();
        Some(Self {
            daemon,
            mailbox,
            limits,
            single: attributes.claims_alone(groups),
            lossy: if groups.is_empty() { vec![false] } else { lossy },
            cursors: cursors.collect::<Option<_>>()?,
            roster: (roster, words),
            doorsteps: Vec::new(),
            lanes: BTreeMap::new(),
            changes: 0,
        })
    }

    /// Looks at all regions; whether anything has changed since the last look.
    pub(crate) fn look(&mut self) -> bool {
        let mut changed = self.roster.0.look();
        if changed {
            self.roster.0.write_copy();
            self.find_more();
        }
        for (region, _) in &mut self.cursors {
            changed |= region.look();
        }
        for (region, _) in &mut self.doorsteps {
            changed |= region.look();
        }
        for lane in self.lanes.values_mut() {
            changed |= lane.region.look();
        }
        self.changes += u64::from(changed);
        changed
    }

    /// Finds the lanes and doorsteps that came since, and forgets those that went.
    fn find_more(&mut self) {
        for index in 0.. {
            if index >= self.doorsteps.len() {
                let file = find(self.daemon, self.mailbox, &format!("doorstep.{index}."));
                let Some(file) = file else { break };
                let region = Region::new(file, doorstep_map(self.limits).len);
                let words = Doorstep::map(&region.copy, self.limits, Access::ReadWrite);
                self.doorsteps.push((region, words.expect("a copy")));
            }
        }
        for (index, entry) in (0u16..).zip(self.roster.1.lanes.iter()) {
            let LaneStatus { generation, state } =
                LaneStatus::from_word(entry.status.load(Acquire));
            if state == SlotState::Free {
                self.lanes.remove(&index);
                continue;
            }
            if self.lanes.get(&index).is_some_and(|lane| lane.generation == generation) {
                continue;
            }
            let name = format!("lane.{index}.{generation} ");
            let file = find(self.daemon, self.mailbox, &name).expect("a lane has its file");
            let capacity_bytes = entry.capacity_bytes.load(Relaxed);
            let region = Region::new(file, lane_file_bytes(capacity_bytes) as usize);
            let mapped = LaneWords::map(&region.copy, capacity_bytes, Access::ReadWrite);
            let (words, mapping) = mapped.expect("a copy");
            let lane = Lane { region, words, mapping, capacity_bytes, generation };
            self.lanes.insert(index, lane);
        }
    }

    /// What the others would receive if a process were killed now, by groups. `before`: so many messages they
    /// receive before it is dead.
    ///
    /// # Panics
    /// If anything is left then: a hold, an offer, room, a turn.
    pub(crate) fn receive_without(&self, pid: u32, before: usize) -> Vec<Vec<Entry>> {
        self.roster.0.write_copy();
        self.cursors.iter().for_each(|(region, _)| region.write_copy());
        self.doorsteps.iter().for_each(|(region, _)| region.write_copy());
        self.lanes.values().for_each(|lane| lane.region.write_copy());
        (0..self.cursors.len()).map(|group| self.receive_in(group, pid, before)).collect()
    }

    fn receive_in(&self, group: usize, pid: u32, before: usize) -> Vec<Entry> {
        let cursors = &self.cursors[group].1;
        let dead: Vec<u16> =
            self.slots(group).filter(|(_, it)| *it == Some(pid)).map(|(slot, _)| slot).collect();
        let free = |(slot, owner): (u16, Option<u32>)| owner.is_none().then_some(slot);
        let free = |slot| free(slot).filter(|&slot| slot_is_idle(cursors, slot));
        let mut got = Vec::new();
        if before > 0 {
            let slot = self.slots(group).find_map(free).expect("a place to receive");
            self.receive(group, slot, before, &mut got);
        }
        for &slot in &dead {
            let (word, bit) = slot_bit(slot);
            cursors.header.sleeping[word].fetch_and(!bit, Relaxed);
            leave_line(cursors, slot);
            if self.lossy[group] {
                discard_slot(cursors, slot);
            } else {
                mend_slot(cursors, slot);
            }
            assert_ne!(
                cursors.header.turn.load(Relaxed),
                u32::from(slot) + 1,
                "the turn of the dead"
            );
        }
        // Where there is one place, it is the dead one's.
        let slot = self.slots(group).rev().find_map(free).or(dead.first().copied());
        self.receive(group, slot.expect("a place to receive"), MESSAGES_MAX, &mut got);
        for slot in 0..cursors.slots.len() as u16 {
            assert!(
                slot_is_idle(cursors, slot),
                "something is left in slot {slot} of group {group}"
            );
        }
        for (&index, lane) in &self.lanes {
            let tail = Position::new(lane.words.header.tail.load(Acquire));
            let drained = lane_is_drained(cursors, index, tail);
            assert!(drained, "something is left in lane {index}, for group {group}");
        }
        got
    }

    /// The receiver slots of a group, and whose they are.
    fn slots(&self, group: usize) -> impl DoubleEndedIterator<Item = (u16, Option<u32>)> {
        let slots = self.limits.receivers_max;
        (0..slots).map(move |slot| {
            let entry = &self.roster.1.receivers[group * usize::from(slots) + usize::from(slot)];
            let active = SlotState::from_word(entry.state.load(Acquire)) == SlotState::Active;
            (slot, active.then(|| entry.pid.load(Relaxed)))
        })
    }

    /// A receiver comes to a slot, and takes so many messages, or all.
    fn receive(&self, group: usize, slot: u16, count: usize, got: &mut Vec<Entry>) {
        let cursors = &self.cursors[group].1;
        let mut claimant = Claimant::new(self.roster.1.clone(), cursors.clone(), slot, self.single);
        for (&index, lane) in &self.lanes {
            let first = Claim::from_word(cursors.claims[usize::from(index)].claim.load(Acquire));
            let doorstep = self.roster.1.lanes[usize::from(index)].doorstep.load(Relaxed);
            let (_, doorstep) = &self.doorsteps[doorstep as usize];
            let memory = RingMemory::new(&lane.mapping, lane.capacity_bytes);
            let header = lane.words.header.clone();
            let reader = LaneReader::new(memory, header, first.position, lane.generation);
            let verdict = doorstep.verdicts.element(index.into());
            claimant.attach(index, reader.with_verdict(Some(verdict)));
        }
        let mut payload = Payload::default();
        for _ in 0..count {
            if !take(&mut claimant, &mut payload) {
                return;
            }
            let attempts = claimant.in_hand().expect("it was taken").attempts;
            got.push(numbered::read(payload.bytes(), attempts));
            claimant.acknowledge();
        }
    }
}

/// Takes the next message, if there is one.
fn take(claimant: &mut Claimant<RingMemory>, payload: &mut Payload) -> bool {
    for _ in 0..MESSAGES_MAX {
        match claimant.take_from_run(payload).expect("whole") {
            Next::Message => return true,
            Next::Skipped(_) => continue,
            Next::Over => {}
        }
        let more = claimant.anything_offered() && claimant.take_over();
        if !more && !claimant.claim_next().expect("whole") {
            return false;
        }
    }
    panic!("it takes without end, and gets nothing");
}

/// A region of a daemon's, by its name.
/// The file of the daemon's whose name begins so: a blank ends a name.
fn find(daemon: u32, mailbox: u64, name: &str) -> Option<File> {
    let wanted = format!("/memfd:{mailbox}.{name}");
    let all = std::fs::read_dir(format!("/proc/{daemon}/fd")).ok()?;
    let mut paths = all.filter_map(|entry| Some(entry.ok()?.path()));
    let path = paths.find(|path| {
        std::fs::read_link(path).is_ok_and(|link| link.to_string_lossy().starts_with(&wanted))
    })?;
    File::open(path).ok()
}
