//! The daemon's service behind a real socket, in a thread of the fuzzer: who connects is who the fuzzer says.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use ipcd::registry::Registry;
use ipcd::registry::link::SessionId;
use ipcd::registry::permission::Caller;
use ipcd::registry::quota::{DEFAULT_LIMITS, Quotas};
use ipcd::service::{Asker, Reply, Service};
use libipc::protocol::{Answer, Identity, MESSAGE_BYTES_MAX, PROTOCOL_VERSION, Refusal, Request};
use libipc::protocol::{decode, encode};
use libipc::sys::socket;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{Backlog, SockFlag, UnixAddr, bind, listen};
use nix::sys::stat::Mode;

/// A listening socket, and where it is found: under no name.
struct Place {
    listener: OwnedFd,
    path: PathBuf,
    _file: OwnedFd,
}

fn place() -> &'static Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    PLACE.get_or_init(|| {
        let name = std::env::temp_dir().join(format!("ipcd-fuzz-{}", std::process::id()));
        let listener = socket::seqpacket(SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK);
        let listener = listener.expect("a socket");
        let address = UnixAddr::new(&name).expect("a short path");
        bind(listener.as_raw_fd(), &address).expect("a path of ours");
        listen(&listener, Backlog::new(8).expect("a number")).expect("a socket of ours");
        let file = nix::fcntl::open(&name, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
        let file = file.expect("it is there");
        std::fs::remove_file(&name).expect("a file of ours");
        let path = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
        Place { listener, path, _file: file }
    })
}

/// A daemon, until it is stopped.
pub struct Daemon {
    /// The uid of whoever connects next.
    next_uid: Arc<AtomicU32>,
    stop: OwnedFd,
    thread: JoinHandle<()>,
}

impl Daemon {
    /// One whose lanes begin at a position.
    pub fn start(first_position: u64) -> Self {
        let next_uid = Arc::new(AtomicU32::new(0));
        let (stop, stopped) = pair();
        let uid = next_uid.clone();
        let serve = move || Serving::new(first_position, uid).serve(stopped.as_fd());
        let thread = std::thread::Builder::new().name("daemon".into()).spawn(serve);
        Self { next_uid, stop, thread: thread.expect("a thread") }
    }

    /// Where it is found.
    pub fn path(&self) -> PathBuf {
        place().path.clone()
    }

    /// Says who connects next.
    pub fn expect(&self, uid: u32) {
        self.next_uid.store(uid, SeqCst);
    }

    /// Ends it, when everybody has gone; everything must have been given back.
    pub fn stop(self) {
        drop(self.stop);
        self.thread.join().expect("it holds what it promises");
    }
}

fn pair() -> (OwnedFd, OwnedFd) {
    let (family, kind) =
        (nix::sys::socket::AddressFamily::Unix, nix::sys::socket::SockType::SeqPacket);
    nix::sys::socket::socketpair(family, kind, None, SockFlag::SOCK_CLOEXEC).expect("two sockets")
}

struct Session {
    socket: OwnedFd,
    identity: Identity,
    barrier: bool,
}

struct Serving {
    service: Service,
    sessions: HashMap<u64, Session>,
    last: u64,
    next_uid: Arc<AtomicU32>,
    buffer: Vec<u8>,
}

impl Serving {
    fn new(first_position: u64, next_uid: Arc<AtomicU32>) -> Self {
        let registry = Registry::new(Quotas::new(DEFAULT_LIMITS, HashMap::new()), first_position);
        let service = Service::new(registry, true);
        let (sessions, buffer) = (HashMap::new(), vec![0; MESSAGE_BYTES_MAX]);
        Self { service, sessions, last: 0, next_uid, buffer }
    }

    fn serve(mut self, stopped: BorrowedFd<'_>) {
        loop {
            let fds = [place().listener.as_fd(), stopped];
            let ids: Vec<u64> = self.sessions.keys().copied().collect();
            let sockets = ids.iter().map(|id| self.sessions[id].socket.as_fd());
            let watch = |fd| PollFd::new(fd, PollFlags::POLLIN);
            let mut watched: Vec<_> = fds.into_iter().chain(sockets).map(watch).collect();
            if poll(&mut watched, PollTimeout::NONE).is_err() {
                // The fuzzer's own clock.
                continue;
            }
            let ready: Vec<bool> = watched.iter().map(|it| it.any().unwrap_or(false)).collect();
            if ready[0] {
                self.accept();
            }
            let any = ids.iter().zip(&ready[2..]).filter(|(_, ready)| **ready);
            let any: Vec<u64> = any.map(|(id, _)| *id).collect();
            any.iter().for_each(|&id| self.turn(id));
            if ready[1] && any.is_empty() && !ready[0] {
                break;
            }
        }
        let ids: Vec<u64> = self.sessions.keys().copied().collect();
        ids.iter().for_each(|&id| self.end(id));
        self.service.end_all();
        let left = self.service.registry.quotas().users().count();
        assert_eq!(left, 0, "everything is given back");
    }

    fn accept(&mut self) {
        let Ok(socket) = socket::accept(place().listener.as_fd()) else { return };
        self.last += 1;
        // Each uid is one process: so it is told who has sent what.
        let uid = self.next_uid.load(SeqCst);
        let identity = Identity { pid: 1000 + uid, uid, gid: 7 };
        self.sessions.insert(self.last, Session { socket, identity, barrier: false });
    }

    fn turn(&mut self, id: u64) {
        let session = self.sessions.get_mut(&id).expect("it is there");
        let received = match socket::try_receive(session.socket.as_fd(), &mut self.buffer) {
            Ok(received) if received.len > 0 => received,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return,
            _ => return self.end(id),
        };
        let bytes = &self.buffer[..received.len];
        let (frame, request) = decode::<Request>(bytes, 0).expect("the library has written it");
        let Session { identity, barrier, .. } = *session;
        let caller = Caller { identity, groups: &[] };
        let asker = Asker { session: SessionId(id), caller, barrier };
        let reply = match request {
            Request::Hello { barrier, .. } => {
                session.barrier = barrier;
                let begun = self.service.registry.begin_session(SessionId(id), identity);
                let hello = Answer::Hello { version: PROTOCOL_VERSION, daemon: "fuzz".into() };
                begun.map(|()| Reply::from(hello))
            }
            request => self.service.handle(&asker, request),
        };
        self.service.settle();
        if let Err(broken) = self.service.registry.check_invariants() {
            panic!("{broken}");
        }
        self.answer(id, frame.request, reply);
    }

    fn answer(&mut self, id: u64, request: u64, reply: Result<Reply, Refusal>) {
        let Reply { answer, mut descriptors } =
            reply.unwrap_or_else(|refusal| Answer::Refused(refusal).into());
        let bytes = encode(request, descriptors.len(), &answer).expect("it fits into a message");
        for handed in &mut descriptors {
            handed.take_up().expect("a descriptor");
        }
        let fds: Vec<_> =
            descriptors.iter().filter_map(|handed| Some(handed.fd()?.as_fd())).collect();
        let socket = self.sessions[&id].socket.as_fd();
        // Whoever asked may have gone.
        let _ = socket::send(socket, &bytes, &fds, false);
    }

    fn end(&mut self, id: u64) {
        self.sessions.remove(&id);
        self.service.end_session(SessionId(id));
    }
}
