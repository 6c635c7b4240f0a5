//! What a member writes that means to crash, hang or mislead: nonsense in every word that it may write.
//!
//! All of it goes through the descriptors that the daemon handed over: no mapping is needed for it.

use std::fs::File;
use std::io;
use std::mem::offset_of;
use std::os::unix::fs::FileExt;
use std::path::Path;

use libipc::Role;
use libipc::lane::layout::{
    ClaimCell, CursorsHeader, DoorstepHeader, LaneHeader, SlotCell, cursors_map, doorstep_map,
    lane_data_offset, lane_file_bytes,
};
use libipc::lane::position::{GRANULE_BYTES, record_granules};
use libipc::protocol::OpenedRole;
use tests::RawClient;

use crate::said;

/// What keeps a member's link open.
pub(crate) type Kept = (RawClient, Vec<File>);

/// A sender that writes nonsense into its own lane or doorstep: `NAME WHAT`.
pub(crate) fn scribble(socket: &Path, rest: &str) -> Result<Kept, String> {
    let (name, what) = rest.split_once(' ').unwrap_or((rest, ""));
    let mut client = RawClient::greet(socket);
    let (opened, descriptors) = client.open(name, Role::Send).map_err(said)?;
    let OpenedRole::Send { lane } = opened.role else { return Err("no lane".into()) };
    let files: Vec<File> = descriptors.into_iter().map(File::from).collect();
    let [_, _, lane_file, doorstep] = &files[..] else { return Err("no regions".into()) };
    let (first, capacity) = (lane.first_position, lane.capacity_bytes);
    let granules = capacity / GRANULE_BYTES as u64;
    let tail = |position: u64| put(lane_file, offset_of!(LaneHeader, tail), position);
    let record = |len: u32| {
        let index = (first % granules) as usize * GRANULE_BYTES;
        put(lane_file, lane_data_offset(capacity) as usize + index, len.into())
    };
    // What is said of a message beside the tail, and a tail as if it were so, where the record itself cannot be.
    let beside = |of: u16| {
        record(u32::MAX)?;
        put(lane_file, offset_of!(LaneHeader, beside), first << 16 | u64::from(of))?;
        tail(first + record_granules(usize::from(of as u8).saturating_sub(1)))
    };
    if let Some(of) = what.strip_prefix("beside ") {
        let of = of.parse().map_err(|_| format!("usage: no number: {of}"))?;
        beside(of).map_err(said)?;
        return Ok((client, files));
    }
    match what {
        "tail_too_far" => tail(first.wrapping_add(granules + 1)),
        "tail_far_too_far" => tail(u64::MAX),
        "tail_back" => tail(first.wrapping_sub(1)),
        "record_longer_than_the_lane" => record(u32::MAX).and_then(|()| tail(first + 2)),
        "record_longer_than_published" => record(4000).and_then(|()| tail(first + 2)),
        "lane_full_of_ones" => {
            let ones = vec![0xff; lane_file_bytes(capacity) as usize];
            lane_file.write_all_at(&ones, 0)
        }
        "doorstep_full_of_ones" => {
            let ones = vec![0xff; doorstep_map(opened.attributes.limits(1)).len];
            doorstep.write_all_at(&ones, 0)
        }
        "bell_hammered" => {
            (0..1000).try_for_each(|value| put(doorstep, offset_of!(DoorstepHeader, bells), value))
        }
        _ => return Err(format!("usage: nothing called {what}")),
    }
    .map_err(said)?;
    // A message that is announced by its tail alone is found by whoever looks, so somebody must look.
    Ok((client, files))
}

/// A receiver that writes nonsense into the cursors: `NAME WHAT`.
pub(crate) fn derange(socket: &Path, rest: &str) -> Result<Kept, String> {
    let (name, what) = rest.split_once(' ').unwrap_or((rest, ""));
    let mut client = RawClient::greet(socket);
    let (opened, descriptors) = client.open(name, Role::Receive).map_err(said)?;
    let OpenedRole::Receive { slot, .. } = opened.role else { return Err("no slot".into()) };
    let files: Vec<File> = descriptors.into_iter().map(File::from).collect();
    let cursors = files.get(1).ok_or("no cursors")?;
    let attributes = opened.attributes;
    let map = cursors_map(attributes.limits(1));
    let claims = 0..usize::from(attributes.lanes_max);
    let claim = |lane: usize| map.second + lane * size_of::<ClaimCell>();
    let mine = map.first + usize::from(slot) * size_of::<SlotCell>();
    match what {
        "claims_far_ahead" => claims.map(claim).try_for_each(|at| put(cursors, at, u64::MAX)),
        "claims_back" => {
            claims.map(claim).try_for_each(|at| put(cursors, at, (u64::MAX / 2) << 16))
        }
        "hold_of_everything" => put(cursors, mine, u64::MAX),
        "offers_nothing" => put(cursors, offset_of!(CursorsHeader, offered), u64::MAX),
        "all_sleep" => put(cursors, offset_of!(CursorsHeader, sleeping), u64::MAX),
        "all_taken" => (0..usize::from(attributes.receivers_max)).try_for_each(|other| {
            let cell = map.first + other * size_of::<SlotCell>();
            put(cursors, cell + offset_of!(SlotCell, taker), u64::MAX)
        }),
        "all_ones" => cursors.write_all_at(&vec![0xff; map.len], 0),
        "all_zeros" => cursors.write_all_at(&vec![0; map.len], 0),
        _ => return Err(format!("usage: nothing called {what}")),
    }
    .map_err(said)?;
    Ok((client, files))
}

fn put(file: &File, offset: usize, word: u64) -> io::Result<()> {
    file.write_all_at(&word.to_le_bytes(), offset as u64)
}
