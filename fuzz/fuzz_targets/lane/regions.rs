//! The regions of one mailbox, real ones, as `ipcd` would have made them; and every word of them, to be written.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use ipcd::regions::Region;
use libipc::lane::claim::Claimant;
use libipc::lane::layout::{
    Claim, ClaimCell, Hold, LaneStatus, Limits, SlotCell, SlotState, cursors_map, doorstep_map,
    lane_file_bytes, roster_map,
};
use libipc::lane::memory::RingMemory;
use libipc::lane::order::{LaneId, Standing};
use libipc::lane::position::{GRANULE_BYTES, Position};
use libipc::lane::reader::LaneReader;
use libipc::lane::ring::LaneWriter;
use libipc::regions::{Cursors, Doorstep, LaneWords, Roster};
use libipc::sync::AtomicU64;
use libipc::sync::Ordering::Relaxed;
use libipc::sys::mapping::{Access, Mapping, Shared, view_slice};
use nix::sys::uio::pwrite;

pub const LANES: u16 = 4;
pub const RECEIVERS: u16 = 3;
pub const GROUPS: u8 = 2;
pub const CAPACITY_BYTES: u64 = 4096;
pub const CAPACITY: u64 = CAPACITY_BYTES / GRANULE_BYTES as u64;
/// Lanes of the first uid; the others are the second one's.
pub const HONEST_LANES: u16 = 2;

const LIMITS: Limits = Limits { receivers_max: RECEIVERS, lanes_max: LANES, groups: GROUPS };
const LANE_LEN: usize = lane_file_bytes(CAPACITY_BYTES) as usize;

/// One region: its file, and all its words.
struct File {
    fd: Rc<OwnedFd>,
    words: Shared<[AtomicU64]>,
}

impl File {
    fn new(len: usize) -> Self {
        let fd = Region::create("fuzz", len as u64).expect("memory").read_write();
        let fd = fd.fd().expect("it can be written").clone();
        let mapping: Arc<Mapping> = Mapping::map(&*fd, len, Access::ReadWrite).expect("memory");
        let words = view_slice(&mapping, 0, len / 8);
        Self { fd, words }
    }
}

/// A lane as one side maps it.
type Mapped = (LaneWords, Arc<Mapping>);

/// The regions.
pub struct Regions {
    roster: File,
    cursors: Vec<File>,
    doorsteps: Vec<File>,
    lanes: Vec<File>,
    /// The roster as `ipcd` maps it.
    owned_roster: Roster,
    /// The lanes as their senders map them.
    written: Vec<Mapped>,
    /// The lanes as receivers map them.
    read: Vec<Mapped>,
    pub seen: Seen,
}

/// The regions as members see them.
#[derive(Clone)]
pub struct Seen {
    pub roster: Roster,
    pub cursors: Vec<Cursors>,
    /// One a uid.
    pub doorsteps: Vec<Doorstep>,
}

/// How a lane stands to others.
#[derive(Clone, Copy, Default)]
pub struct Place {
    pub priority: u8,
    pub after: Option<u16>,
}

impl Regions {
    pub fn new() -> Self {
        let roster = File::new(roster_map(LIMITS).len);
        let cursors: Vec<_> = (0..GROUPS).map(|_| File::new(cursors_map(LIMITS).len)).collect();
        let doorsteps: Vec<_> = (0..2).map(|_| File::new(doorstep_map(LIMITS).len)).collect();
        let lanes: Vec<_> = (0..LANES).map(|_| File::new(LANE_LEN)).collect();
        let map_lanes = |access| {
            let map = |file: &File| LaneWords::map(&*file.fd, CAPACITY_BYTES, access);
            lanes.iter().map(|file| map(file).expect("mapped")).collect()
        };
        let (written, read) = (map_lanes(Access::ReadWrite), map_lanes(Access::ReadOnly));
        let write = Access::ReadWrite;
        let seen = Seen {
            // No member writes it: a store there is a fault.
            roster: Roster::map(&*roster.fd, LIMITS, Access::ReadOnly).expect("mapped"),
            cursors: cursors
                .iter()
                .map(|file| Cursors::map(&*file.fd, LIMITS, write).expect("mapped"))
                .collect(),
            doorsteps: doorsteps
                .iter()
                .map(|file| Doorstep::map(&*file.fd, LIMITS, write).expect("mapped"))
                .collect(),
        };
        let owned_roster = Roster::map(&*roster.fd, LIMITS, write).expect("mapped");
        Self { roster, cursors, doorsteps, lanes, owned_roster, written, read, seen }
    }

    /// As `ipcd` hands them out: lanes that begin at `first`, receivers in every slot.
    pub fn reset(&self, first: Position) {
        let files = [&self.roster].into_iter().chain(&self.cursors).chain(&self.doorsteps);
        for file in files.chain(&self.lanes) {
            let len = file.words.len() * 8;
            let written = pwrite(&*file.fd, &[0; LANE_LEN][..len], 0);
            assert_eq!(written, Ok(len));
        }
        let roster = &self.owned_roster;
        let header = &roster.header;
        header.lanes_high.store(LANES.into(), Relaxed);
        header.receivers.store(u32::from(RECEIVERS) * u32::from(GROUPS), Relaxed);
        for group in header.groups.iter().take(GROUPS.into()) {
            group.receivers.store(RECEIVERS.into(), Relaxed);
            group.receivers_high.store(RECEIVERS.into(), Relaxed);
        }
        for entry in roster.lanes.iter() {
            let status = LaneStatus { generation: 1, state: SlotState::Active };
            entry.status.store(status.to_word(), Relaxed);
        }
        for cursors in &self.seen.cursors {
            for cell in cursors.claims.iter() {
                cell.claim.store(Claim { position: first, winner: None }.to_word(), Relaxed);
            }
        }
        for (words, _) in &self.written {
            words.header.tail.store(first.get(), Relaxed);
        }
    }

    /// Writes a word as a hostile peer could. `senders_only`: one who sends, from the second uid.
    pub fn scribble(&self, region: u8, word: u16, value: u64, senders_only: bool) {
        let all: Vec<&File> = match senders_only {
            true => {
                self.lanes.iter().skip(HONEST_LANES.into()).chain(&self.doorsteps[1..]).collect()
            }
            false => {
                let first = self.cursors.iter().chain(&self.doorsteps);
                first.chain(&self.lanes).chain([&self.roster]).collect()
            }
        };
        let words = &all[usize::from(region) % all.len()].words;
        words[usize::from(word) % words.len()].store(value, Relaxed);
    }

    /// Who holds what, for whoever looks into a failure.
    pub fn describe(&self) -> String {
        let cursors = &self.seen.cursors[0];
        let tails: Vec<_> =
            self.written.iter().map(|(words, _)| words.header.tail.load(Relaxed)).collect();
        let claim = |cell: &ClaimCell| Claim::from_word(cell.claim.load(Relaxed));
        let claims: Vec<_> = cursors.claims.iter().map(claim).collect();
        let hold = |cell: &SlotCell| {
            let (hold, end) = (cell.hold.load(Relaxed), cell.end.load(Relaxed));
            (Hold::from_word(hold), end, cell.taker.load(Relaxed))
        };
        let holds: Vec<_> = cursors.slots.iter().map(hold).collect();
        let offered = cursors.header.offered[0].load(Relaxed);
        format!("tails {tails:?}, claims {claims:?}, holds {holds:?}, offered {offered:b}")
    }

    /// The doorstep of a lane's sender.
    pub fn doorstep_of(&self, lane: u16) -> &Doorstep {
        &self.seen.doorsteps[usize::from(lane >= HONEST_LANES)]
    }

    /// The writing end of a lane.
    pub fn writer(&self, lane: u16, groups: u8, first: Position) -> LaneWriter<RingMemory> {
        let (words, mapping) = &self.written[usize::from(lane)];
        let (header, memory) = (words.header.clone(), RingMemory::new(mapping, CAPACITY_BYTES));
        let groups = self.seen.cursors.iter().take(groups.into()).cloned();
        LaneWriter::new(memory, header, self.seen.roster.clone(), groups, lane, first)
    }

    /// The reading end of a lane.
    pub fn reader(&self, lane: u16, place: Place, first: Position) -> LaneReader<RingMemory> {
        let (words, mapping) = &self.read[usize::from(lane)];
        let (header, memory) = (words.header.clone(), RingMemory::new(mapping, CAPACITY_BYTES));
        let verdict = self.doorstep_of(lane).verdicts.element(lane.into());
        let after = place.after.map(|index| LaneId { index, generation: 1 });
        let standing = Standing { priority: place.priority, after };
        let reader = LaneReader::new(memory, header, first, 1);
        reader.standing(standing).with_verdict(Some(verdict))
    }

    /// A receiver of a slot, without lanes.
    pub fn claimant(&self, slot: u16, single: bool) -> Claimant<RingMemory> {
        let (roster, cursors) = (self.seen.roster.clone(), self.seen.cursors[0].clone());
        Claimant::new(roster, cursors, slot, single)
    }
}
