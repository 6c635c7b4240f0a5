//! The control protocol, spoken without `libipc`'s client: it can break every rule, and it keeps the
//! descriptors that an honest client closes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use libipc::lane::layout::{Claim, Hold, LAYOUT_VERSION};
use libipc::lane::memory::{RecordMarks, RingMemory};
use libipc::lane::position::{Position, record_granules};
use libipc::lane::ring::LaneWriter;
use libipc::protocol::{
    Answer, GroupName, LaneTicket, MESSAGE_BYTES_MAX, Opened, OpenedRole, PROTOCOL_VERSION,
    Request, decode, encode,
};
use libipc::regions::{Cursors, LaneWords, Roster};
use libipc::sync::Ordering::Relaxed;
use libipc::sys::mapping::Access;
use libipc::sys::socket;
use libipc::{MailboxName, Refusal, Role};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::PATIENCE;

/// An answer, with the number of its request before it and its descriptors behind it.
pub type Numbered = (u64, Answer, Vec<OwnedFd>);

/// One connection.
#[derive(Debug)]
pub struct RawClient {
    socket: OwnedFd,
    last: u64,
}

impl RawClient {
    /// Connects, and says nothing.
    ///
    /// # Panics
    /// If nobody listens.
    #[must_use]
    pub fn connect(path: &Path) -> Self {
        Self { socket: socket::connect_to(path).expect("a listening daemon"), last: 0 }
    }

    /// Connects and says hello.
    ///
    /// # Panics
    /// If the daemon refuses.
    #[must_use]
    pub fn greet(path: &Path) -> Self {
        let mut client = Self::connect(path);
        let (answer, _) = client.ask(&hello());
        assert!(matches!(answer, Answer::Hello { .. }), "{answer:?}");
        client
    }

    /// Sends bytes as they are, with descriptors.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        socket::send(self.socket.as_fd(), bytes, descriptors, true)
    }

    /// The next answer with its descriptors; `None` after a hang-up.
    ///
    /// # Panics
    /// If it is no answer.
    #[must_use]
    pub fn receive(&self) -> Option<(Answer, Vec<OwnedFd>)> {
        self.receive_numbered().map(|(_, answer, descriptors)| (answer, descriptors))
    }

    /// The next answer with the number of its request, and its descriptors; `None` after a hang-up.
    ///
    /// # Panics
    /// If it is no answer, or none comes for long.
    #[must_use]
    pub fn receive_numbered(&self) -> Option<Numbered> {
        let mut line = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let patience = PollTimeout::try_from(PATIENCE).expect("milliseconds");
        assert_ne!(poll(&mut line, patience), Ok(0), "never: an answer");
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        let received = match socket::receive(self.socket.as_fd(), &mut buffer) {
            Ok(received) if received.len == 0 => return None,
            Ok(received) => received,
            Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => return None,
            Err(error) => panic!("{error}"),
        };
        let bytes = &buffer[..received.len];
        let (frame, answer) = decode(bytes, received.descriptors.len()).expect("an answer");
        Some((frame.request, answer, received.descriptors))
    }

    /// Asks one thing, and does not wait for the answer; the request's number.
    ///
    /// # Panics
    /// If the daemon has hung up.
    pub fn tell(&mut self, request: &Request) -> u64 {
        self.post(request).expect("the daemon listens");
        self.last
    }

    /// Asks one thing, and leaves the answer unread.
    ///
    /// # Errors
    /// What the kernel said: EAGAIN if the socket is a non-blocking one and full.
    ///
    /// # Panics
    /// If the request does not fit.
    pub fn post(&mut self, request: &Request) -> io::Result<()> {
        self.last += 1;
        let bytes = encode(self.last, 0, request).expect("a request that fits");
        self.send(&bytes, &[])
    }

    /// Asks one thing.
    ///
    /// # Panics
    /// If the daemon hangs up instead.
    pub fn ask(&mut self, request: &Request) -> (Answer, Vec<OwnedFd>) {
        self.tell(request);
        self.receive().expect("an answer")
    }

    /// Opens a mailbox: what it is told, and every descriptor.
    ///
    /// # Errors
    /// The refusal.
    pub fn open(&mut self, name: &str, role: Role) -> Result<(Opened, Vec<OwnedFd>), Refusal> {
        self.open_in(name, role, None)
    }

    /// Opens a mailbox as one of a group: what it is told, and every descriptor.
    ///
    /// # Errors
    /// The refusal.
    pub fn open_in(
        &mut self,
        name: &str,
        role: Role,
        group: Option<&str>,
    ) -> Result<(Opened, Vec<OwnedFd>), Refusal> {
        let name = MailboxName::new(name)?;
        let group = group.map(GroupName::new).transpose()?;
        match self.ask(&Request::Open { name, role, group }) {
            (Answer::Opened(opened), descriptors) => Ok((opened, descriptors)),
            (Answer::Refused(refusal), _) => Err(refusal),
            (other, _) => panic!("an open is answered by {other:?}"),
        }
    }
}

impl AsFd for RawClient {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Claims the first message of the only lane there is, as a receiver that was opened with it does, and has it in hand: the
/// lane, and where the message lies. A message of so many bytes.
///
/// # Panics
/// If that was no receiver.
#[must_use]
pub fn claim_first(opened: &Opened, descriptors: &[OwnedFd], len: usize) -> (LaneTicket, u64) {
    let OpenedRole::Receive { slot, .. } = opened.role else { panic!("{opened:?}") };
    let [lane] = opened.fetched.lanes[..] else { panic!("{opened:?}") };
    let limits = opened.attributes.limits(opened.groups.len().max(1));
    let cursors = Cursors::map(&descriptors[1], limits, Access::ReadWrite).expect("cursors");
    let position = Position::new(lane.first_position);
    let end = position.advance(record_granules(len));
    let (index, confirmed) = (lane.ticket.index, true);
    let cell = &cursors.slots[usize::from(slot)];
    cell.end.store(end.get(), Relaxed);
    cell.hold.store(Hold { confirmed, lane: index, position }.to_word(), Relaxed);
    let claim = Claim { position: end, winner: Some(slot) };
    cursors.claims[usize::from(index)].claim.store(claim.to_word(), Relaxed);
    (lane.ticket, position.get())
}

/// Publishes messages in the lane of a sender that was opened with it and has not sent before.
///
/// # Panics
/// If that was no sender, or there is no room.
pub fn publish(opened: &Opened, descriptors: &[OwnedFd], messages: &[&[u8]]) {
    let (mut writer, _) = lane_to_write(opened, descriptors);
    for message in messages {
        writer.find_room(record_granules(message.len())).expect("there is room");
        writer.publish(message);
    }
}

/// The lane of such a sender, and the words in front of its records.
///
/// # Panics
/// If that was no sender.
#[must_use]
pub fn lane_to_write(
    opened: &Opened,
    descriptors: &[OwnedFd],
) -> (LaneWriter<RingMemory>, RecordMarks) {
    let OpenedRole::Send { lane } = opened.role else { panic!("{opened:?}") };
    let limits = opened.attributes.limits(opened.groups.len().max(1));
    let groups = usize::from(limits.groups);
    let roster = Roster::map(&descriptors[0], limits, Access::ReadOnly).expect("a roster");
    let cursors = descriptors[1..=groups].iter();
    let cursors = cursors.map(|fd| Cursors::map(fd, limits, Access::ReadOnly).expect("cursors"));
    let capacity_bytes = lane.capacity_bytes;
    let mapped = LaneWords::map(&descriptors[1 + groups], capacity_bytes, Access::ReadWrite);
    let (words, mapping) = mapped.expect("a lane");
    let memory = RingMemory::new(&mapping, capacity_bytes);
    let marks = memory.marks();
    let first = Position::new(lane.first_position);
    let index = lane.ticket.index;
    (LaneWriter::new(memory, words.header, roster, cursors, index, first), marks)
}

/// The first request of a session.
#[must_use]
pub fn hello() -> Request {
    Request::Hello {
        version_min: PROTOCOL_VERSION,
        version_max: PROTOCOL_VERSION,
        layout_version: LAYOUT_VERSION,
        barrier: libipc::sys::futex::barrier_register(),
    }
}
