//! A daemon in a thread of the test, and a client that speaks to it over a real socket.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use ipcd::registry::Registry;
use ipcd::registry::quota::{DEFAULT_LIMITS, Quotas};
use ipcd::server::Server;
use ipcd::service::Service;
use ipcd::startup::{Listener, Manner};
use libipc::lane::layout::LAYOUT_VERSION;
use libipc::protocol::{
    Answer, LaneInfo, LaneTicket, MESSAGE_BYTES_MAX, MailboxAttributes, MailboxName, Opened,
    OpenedRole, PROTOCOL_VERSION, Queued, Refusal, Request, Role, Usage, decode, encode,
};
use libipc::regions::LaneWords;
use libipc::sync::Ordering;
use libipc::sys::mapping::Access;
use libipc::sys::socket;

/// A running daemon; stopped and joined when dropped.
pub struct Daemon {
    pub path: PathBuf,
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    _directory: tempfile::TempDir,
}

impl Daemon {
    pub fn start() -> Self {
        Self::with(DEFAULT_LIMITS, 0)
    }

    pub fn with(limits: Usage, first_position: u64) -> Self {
        Self::start_as(limits, first_position, true)
    }

    /// One that behaves as if the kernel had no sockets that refuse descriptors.
    pub fn taking_descriptors() -> Self {
        Self::start_as(DEFAULT_LIMITS, 0, false)
    }

    fn start_as(limits: Usage, first_position: u64, refuse_descriptors: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ipcd.sock");
        let manner = Manner { mode: 0o600, private: false, refuse_descriptors };
        let listener = Listener::bind(&path, manner).unwrap();
        let (wait, stop) = nix::unistd::pipe().unwrap();
        let thread = std::thread::spawn(move || {
            // All of it, not just the descriptor: dropping it removes the socket's name.
            let listener = listener;
            let quotas = Quotas::new(limits, HashMap::new());
            let barrier = libipc::sys::futex::barrier_register();
            let service = Service::new(Registry::new(quotas, first_position), barrier);
            let server = Server::new(listener.socket.as_fd(), wait.as_fd(), service).unwrap();
            let mut server = server.refusing_descriptors(refuse_descriptors);
            server.run().unwrap();
            server.stop();
        });
        Self { path, stop: Some(stop), thread: Some(thread), _directory: directory }
    }

    /// A client that has said hello.
    pub fn client(&self) -> Client {
        let mut client = Client::connect(&self.path);
        let answer = client.ask(&hello());
        assert!(matches!(answer, Answer::Hello { .. }), "{answer:?}");
        client
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // The loop ends when the pipe's other end is closed.
        self.stop = None;
        let result = self.thread.take().unwrap().join();
        assert!(result.is_ok() || std::thread::panicking(), "the daemon panicked");
    }
}

/// The first request of a session.
pub fn hello() -> Request {
    Request::Hello {
        version_min: PROTOCOL_VERSION,
        version_max: PROTOCOL_VERSION,
        layout_version: LAYOUT_VERSION,
        barrier: true,
    }
}

/// One connection.
pub struct Client {
    pub socket: OwnedFd,
    last: u64,
}

impl Client {
    pub fn connect(path: &Path) -> Self {
        Self { socket: socket::connect_to(path).unwrap(), last: 0 }
    }

    /// Sends bytes as they are.
    pub fn send(&self, bytes: &[u8], descriptors: &[std::os::fd::BorrowedFd<'_>]) {
        socket::send(self.socket.as_fd(), bytes, descriptors, true).unwrap();
    }

    /// The next answer and its descriptors; `None` after a hang-up.
    pub fn receive(&self) -> Option<(u64, Answer, Vec<OwnedFd>)> {
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        let received = match socket::receive(self.socket.as_fd(), &mut buffer) {
            Ok(received) => received,
            Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => return None,
            Err(error) => panic!("{error}"),
        };
        if received.len == 0 {
            return None;
        }
        let bytes = &buffer[..received.len];
        let (frame, answer) = decode(bytes, received.descriptors.len()).unwrap();
        Some((frame.request, answer, received.descriptors))
    }

    pub fn ask_for_fds(&mut self, request: &Request) -> (Answer, Vec<OwnedFd>) {
        self.last += 1;
        self.send(&encode(self.last, 0, request).unwrap(), &[]);
        let (number, answer, descriptors) = self.receive().expect("an answer");
        assert_eq!(number, self.last);
        (answer, descriptors)
    }

    pub fn ask(&mut self, request: &Request) -> Answer {
        self.ask_for_fds(request).0
    }

    pub fn refused(&mut self, request: &Request) -> Refusal {
        match self.ask(request) {
            Answer::Refused(refusal) => refusal,
            other => panic!("not refused: {other:?}"),
        }
    }

    pub fn create(&mut self, mailbox: &str) -> Answer {
        self.ask(&create(mailbox, MailboxAttributes::default()))
    }

    pub fn open(&mut self, mailbox: &str, role: Role) -> (Opened, Vec<OwnedFd>) {
        self.link(&open_request(mailbox, role))
    }

    /// Asks for something that opens a link.
    pub fn link(&mut self, request: &Request) -> (Opened, Vec<OwnedFd>) {
        match self.ask_for_fds(request) {
            (Answer::Opened(opened), descriptors) => (opened, descriptors),
            (other, _) => panic!("not opened: {other:?}"),
        }
    }

    /// Opens to receive in a group.
    pub fn join(&mut self, mailbox: &str, group: &str) -> (Opened, Vec<OwnedFd>) {
        let group = Some(name(group));
        self.link(&Request::Open { name: name(mailbox), role: Role::Receive, group })
    }

    /// Asks for a further lane.
    pub fn add_lane(
        &mut self,
        link: u32,
        priority: u8,
        capacity_bytes: u64,
        replaces: Option<LaneTicket>,
    ) -> (LaneInfo, OwnedFd) {
        let request = Request::AddLane { link, priority, capacity_bytes, replaces };
        match self.ask_for_fds(&request) {
            (Answer::LaneAdded { lane }, mut descriptors) => (lane, descriptors.remove(0)),
            (other, _) => panic!("no lane: {other:?}"),
        }
    }

    pub fn status(&mut self) -> libipc::protocol::ServerStatus {
        match self.ask(&Request::Status) {
            Answer::Status(status) => *status,
            other => panic!("no status: {other:?}"),
        }
    }

    pub fn show(&mut self, mailbox: &str) -> libipc::protocol::MailboxDetail {
        match self.ask(&Request::Show { name: name(mailbox), skip: 0 }) {
            Answer::Shown(detail) => *detail,
            other => panic!("not shown: {other:?}"),
        }
    }
}

pub fn name(name: &str) -> MailboxName {
    MailboxName::new(name).unwrap()
}

pub fn create(mailbox: &str, attributes: MailboxAttributes) -> Request {
    Request::Create { name: name(mailbox), attributes, groups: Vec::new() }
}

pub fn open_request(mailbox: &str, role: Role) -> Request {
    Request::Open { name: name(mailbox), role, group: None }
}

pub fn delete(mailbox: &str) -> Request {
    Request::Delete { name: name(mailbox), queued: Queued::Discard }
}

/// A mailbox with one lane page, few receivers and few lanes.
pub fn small() -> MailboxAttributes {
    MailboxAttributes { capacity_bytes: 4096, receivers_max: 2, lanes_max: 4, ..Default::default() }
}

/// The lane that a sender got at its open.
pub fn lane_of(opened: &Opened) -> LaneInfo {
    match &opened.role {
        OpenedRole::Send { lane } => *lane,
        other => panic!("no lane: {other:?}"),
    }
}

/// Publishes empty records up to `tail`, as its sender would.
pub fn publish(lane: &OwnedFd, capacity_bytes: u64, tail: u64, sent: u64) {
    let (words, _mapping) =
        LaneWords::map(lane, capacity_bytes, Access::ReadWrite).expect("a lane");
    words.header.sent.store(sent, Ordering::Relaxed);
    words.header.tail.store(tail, Ordering::Release);
}

/// Waits until a condition holds; panics after ten seconds.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        std::thread::yield_now();
    }
}
