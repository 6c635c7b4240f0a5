//! Hostile members: they have opened the mailbox, and write into whatever they were given a descriptor of, at any moment.

use std::mem::offset_of;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use arbitrary::Arbitrary;
use libipc::lane::beside::Beside;
use libipc::lane::layout::{
    ClaimCell, CursorsHeader, DoorstepHeader, LANE_HEADER_BYTES, LAYOUT_VERSION, LaneHeader,
    Limits, SlotCell, cursors_map, doorstep_map, lane_data_offset,
};
use libipc::lane::position::{GRANULE_BYTES, Position, granules_of, record_granules};
use libipc::lane::record::RecordHeader;
use libipc::protocol::{
    Answer, LaneInfo, MESSAGE_BYTES_MAX, MailboxName, Opened, OpenedRole, PROTOCOL_VERSION,
    Request, Role, decode, encode,
};
use libipc::sys::socket;
use nix::sys::uio::pwrite;

use crate::words::Word;

/// What a hostile member does.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Act {
    /// Writes a word.
    Scribble { member: u8, place: Place, value: Word },
    /// Publishes what looks like a message, of any kind; beside the tail stands one of so many bytes, less one.
    Publish { member: u8, len: u8, kind: u8, flags: u8, beside: u8 },
    /// Closes its link and opens the mailbox again.
    Reopen { member: u8 },
}

/// A word, by what it means.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Place {
    /// Of its lane.
    Tail,
    Beside(u8),
    Waiting,
    Watched,
    Sent,
    Fate(u8),
    Record(i8),
    Stamp(i8),
    Data(u16),
    /// Of a doorstep that it has.
    Bell {
        doorstep: u8,
        group: u8,
    },
    Hints {
        doorstep: u8,
    },
    Freed {
        doorstep: u8,
        lane: u8,
    },
    Verdict {
        doorstep: u8,
        lane: u8,
    },
    /// Of the cursors, if it has them.
    Sleeping,
    Changes,
    Offered,
    Turn,
    Choosy,
    Slot {
        slot: u8,
        word: u8,
    },
    Claim {
        lane: u8,
    },
}

/// One that keeps what honest members close.
struct Member {
    socket: OwnedFd,
    asked: u64,
    role: Role,
    opened: Option<(Opened, Vec<OwnedFd>)>,
    /// Where its lane goes on, if it is a sender that has told no lie yet.
    tail: Position,
}

/// All of them.
pub struct Hostile {
    members: Vec<Member>,
    name: MailboxName,
    first: Position,
}

impl Hostile {
    /// Nobody.
    pub fn new(name: &str, first: Position) -> Self {
        Self { members: Vec::new(), name: MailboxName::new(name).expect("a name"), first }
    }

    /// One more, if the mailbox lets it in.
    pub fn join(&mut self, path: &Path, role: Role) {
        let socket = socket::connect_to(path).expect("the daemon listens");
        let mut member = Member { socket, asked: 0, role, opened: None, tail: self.first };
        let hello = Request::Hello {
            version_min: PROTOCOL_VERSION,
            version_max: PROTOCOL_VERSION,
            layout_version: LAYOUT_VERSION,
            barrier: true,
        };
        let _ = member.ask(&hello);
        member.open(&self.name);
        self.members.push(member);
    }

    /// One of them does something.
    pub fn act(&mut self, act: Act) {
        let first = self.first;
        let (Act::Scribble { member, .. } | Act::Publish { member, .. } | Act::Reopen { member }) =
            act;
        let count = self.members.len().max(1);
        let Some(member) = self.members.get_mut(usize::from(member) % count) else { return };
        match act {
            Act::Scribble { place, value, .. } => {
                member.write(place, value.to_word(first), first);
            }
            Act::Publish { len, kind, flags, beside, .. } => {
                member.publish(len, kind, flags, beside);
            }
            Act::Reopen { .. } => {
                if let Some((opened, _)) = member.opened.take() {
                    let _ = member.ask(&Request::CloseLink { link: opened.link });
                }
                member.open(&self.name);
            }
        }
    }
}

impl Member {
    fn ask(&mut self, request: &Request) -> (Answer, Vec<OwnedFd>) {
        self.asked += 1;
        let bytes = encode(self.asked, 0, request).expect("it fits into a message");
        socket::send(self.socket.as_fd(), &bytes, &[], false).expect("the daemon listens");
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        let received = loop {
            match socket::receive(self.socket.as_fd(), &mut buffer) {
                // The fuzzer's own clock.
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                received => break received.expect("an answer"),
            }
        };
        let bytes = &buffer[..received.len];
        let (_, answer) = decode(bytes, received.descriptors.len()).expect("an answer");
        (answer, received.descriptors)
    }

    fn open(&mut self, name: &MailboxName) {
        let request = Request::Open { name: name.clone(), role: self.role, group: None };
        if let (Answer::Opened(opened), fds) = self.ask(&request) {
            if let OpenedRole::Send { lane } = opened.role {
                self.tail = Position::new(lane.first_position);
            }
            self.opened = Some((opened, fds));
        }
    }

    fn limits(opened: &Opened) -> Limits {
        opened.attributes.limits(opened.groups.len().max(1))
    }

    fn write(&self, place: Place, word: u64, first: Position) {
        let Some((opened, fds)) = &self.opened else { return };
        let limits = Self::limits(opened);
        let found = match &opened.role {
            OpenedRole::Send { lane } => in_sender(place, limits, lane, first),
            OpenedRole::Receive { .. } => in_receiver(place, limits, opened),
            OpenedRole::Observe => None,
        };
        let Some((fd, offset)) = found else { return };
        if let Some(fd) = fds.get(fd) {
            // Never beyond a region's end: that is sealed.
            let _ = pwrite(fd, &word.to_ne_bytes(), offset as i64);
        }
    }

    /// Writes a record behind the last, as an honest sender would, and then says that it is there.
    fn publish(&mut self, len: u8, kind: u8, flags: u8, beside: u8) {
        let Some((opened, fds)) = &self.opened else { return };
        let OpenedRole::Send { lane } = &opened.role else { return };
        let header = RecordHeader {
            len: len.into(),
            kind: kind % 4,
            flags: if flags < 200 { 0 } else { flags % 4 },
            stamp: 0,
        };
        let fd = &fds[1 + usize::from(Self::limits(opened).groups)];
        let word = header.word().get();
        let at = data_offset(lane, self.tail);
        let _ = pwrite(fd, &word.to_ne_bytes(), at as i64);
        let of = self.tail.get() << 16 | u64::from(kind) << 8 | u64::from(beside);
        let _ = pwrite(fd, &of.to_ne_bytes(), offset_of!(LaneHeader, beside) as i64);
        self.tail = self.tail.advance(record_granules(len.into()));
        let tail = offset_of!(LaneHeader, tail);
        let _ = pwrite(fd, &self.tail.get().to_ne_bytes(), tail as i64);
    }
}

fn data_offset(lane: &LaneInfo, at: Position) -> usize {
    let index = at.get() & (granules_of(lane.capacity_bytes) - 1);
    lane_data_offset(lane.capacity_bytes) as usize + index as usize * GRANULE_BYTES
}

/// Which of a sender's descriptors has a word, and where.
fn in_sender(
    place: Place,
    limits: Limits,
    lane: &LaneInfo,
    first: Position,
) -> Option<(usize, usize)> {
    let (the_lane, doorstep) = (1 + usize::from(limits.groups), 2 + usize::from(limits.groups));
    let at = |offset: i8| match u64::try_from(offset) {
        Ok(ahead) => first.advance(ahead),
        Err(_) => first.back(offset.unsigned_abs().into()),
    };
    let offset = match place {
        Place::Tail => offset_of!(LaneHeader, tail),
        Place::Beside(word) => {
            let words = size_of::<Beside>() / 8;
            offset_of!(LaneHeader, beside) + usize::from(word) % words * 8
        }
        Place::Waiting => offset_of!(LaneHeader, waiting),
        Place::Watched => offset_of!(LaneHeader, watched),
        Place::Sent => offset_of!(LaneHeader, sent),
        Place::Fate(granule) => LANE_HEADER_BYTES + usize::from(granule) / 8 * 8,
        Place::Record(offset) => data_offset(lane, at(offset)),
        Place::Stamp(offset) => data_offset(lane, at(offset)) + 8,
        Place::Data(word) => {
            let capacity = lane.capacity_bytes as usize;
            lane_data_offset(lane.capacity_bytes) as usize + usize::from(word) * 8 % capacity
        }
        _ => return Some((doorstep, in_doorstep(place, limits)?.1)),
    };
    Some((the_lane, offset))
}

/// The same of a receiver: the cursors, and behind them the doorsteps.
fn in_receiver(place: Place, limits: Limits, opened: &Opened) -> Option<(usize, usize)> {
    let map = cursors_map(limits);
    let offset = match place {
        Place::Sleeping => offset_of!(CursorsHeader, sleeping),
        Place::Changes => offset_of!(CursorsHeader, sleep_changes),
        Place::Offered => offset_of!(CursorsHeader, offered),
        Place::Turn => offset_of!(CursorsHeader, turn),
        Place::Choosy => offset_of!(CursorsHeader, choosy),
        Place::Slot { slot, word } => {
            let slot = usize::from(slot) % limits.cells();
            // Hold, end, taker and attempts, received, cpu, in_line, marked.
            map.first + slot * size_of::<SlotCell>() + usize::from(word % 7) * 8
        }
        Place::Claim { lane } => {
            map.second + usize::from(u16::from(lane) % limits.lanes_max) * size_of::<ClaimCell>()
        }
        _ => {
            let (doorstep, offset) = in_doorstep(place, limits)?;
            let count = opened.fetched.doorsteps.len().max(1);
            return Some((2 + usize::from(doorstep) % count, offset));
        }
    };
    Some((1, offset))
}

fn in_doorstep(place: Place, limits: Limits) -> Option<(u8, usize)> {
    let map = doorstep_map(limits);
    let lane = |lane: u8| usize::from(u16::from(lane) % limits.lanes_max);
    Some(match place {
        Place::Bell { doorstep, group } => {
            (doorstep, offset_of!(DoorstepHeader, bells) + usize::from(group % 8) / 2 * 8)
        }
        Place::Hints { doorstep } => (doorstep, map.first),
        Place::Freed { doorstep, lane: index } => (doorstep, map.second + lane(index) / 2 * 8),
        Place::Verdict { doorstep, lane: index } => (doorstep, map.third + lane(index) * 8),
        _ => return None,
    })
}
