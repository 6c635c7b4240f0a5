//! The line to `ipcd`: one request and one answer at a time, over one socket.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::{ConnectError, Fault, RequestError};
use crate::lane::layout::LAYOUT_VERSION;
use crate::protocol::{
    Answer, MESSAGE_BYTES_MAX, Opened, PROTOCOL_VERSION, Request, decode, encode,
};
use crate::sys::process::ForkGuard;
use crate::sys::socket::Received;
use crate::sys::{futex, socket};
use crate::watch::Watchers;

/// Connects to a socket, telling the ways in which that can fail apart.
pub(crate) fn open_socket(path: &Path) -> Result<OwnedFd, ConnectError> {
    socket::connect_to(path).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT | libc::ECONNREFUSED | libc::ENOTDIR) => {
            ConnectError::NoDaemon { path: path.to_owned() }
        }
        Some(libc::EACCES | libc::EPERM) => {
            ConnectError::PermissionDenied { path: path.to_owned() }
        }
        _ => Fault::new("connect to ipcd", error).into(),
    })
}

/// The socket and whose turn it is on it.
#[derive(Debug)]
pub(crate) struct Session {
    socket: Arc<OwnedFd>,
    line: Mutex<Line>,
    /// The daemon has hung up, or broke the protocol.
    away: AtomicBool,
    watchers: Arc<Watchers>,
    guard: ForkGuard,
}

#[derive(Debug)]
struct Line {
    socket: Arc<OwnedFd>,
    last_request: u64,
    /// The last request whose answer has been read. A daemon that has died answers one again, rather than not at all.
    last_answered: u64,
    buffer: Vec<u8>,
}

impl Session {
    /// Says hello on a new socket. `None`: the daemon hung up before it answered, so nothing has happened yet.
    pub(crate) fn greet(socket: OwnedFd) -> Result<Option<Self>, ConnectError> {
        let guard = ForkGuard::get();
        let socket = Arc::new(socket);
        let line = Line {
            socket: socket.clone(),
            last_request: 0,
            last_answered: 0,
            buffer: vec![0; MESSAGE_BYTES_MAX],
        };
        let (line, away) = (Mutex::new(line), AtomicBool::new(false));
        let session = Self { socket, line, away, watchers: Arc::default(), guard };
        let hello = Request::Hello {
            version_min: PROTOCOL_VERSION,
            version_max: PROTOCOL_VERSION,
            layout_version: LAYOUT_VERSION,
            barrier: futex::barrier_register(),
        };
        match session.request(&hello) {
            Ok((Answer::Hello { .. }, _)) => Ok(Some(session)),
            Err(RequestError::DaemonAway) => Ok(None),
            Ok((other, _)) => Err(Fault::new("greet ipcd", unexpected(&other).to_string()).into()),
            Err(RequestError::Refused(refusal)) => Err(refusal.into()),
            Err(RequestError::Fault(fault)) => Err(fault.into()),
            Err(other) => Err(Fault::new("greet ipcd", other).into()),
        }
    }

    /// Who watches over the handles of this session whose users wait on descriptors.
    pub(crate) fn watchers(&self) -> &Arc<Watchers> {
        &self.watchers
    }

    /// Asks the daemon one thing, and waits for its answer.
    pub(crate) fn request(
        &self,
        request: &Request,
    ) -> Result<(Answer, Vec<OwnedFd>), RequestError> {
        match self.on_the_line(|line| line.exchange(request))? {
            (Answer::Refused(refusal), _) => Err(refusal.into()),
            answer => Ok(answer),
        }
    }

    /// Asks the daemon for a link.
    pub(crate) fn open(&self, request: &Request) -> Result<(Opened, Vec<OwnedFd>), RequestError> {
        match self.request(request)? {
            (Answer::Opened(opened), descriptors) => Ok((opened, descriptors)),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Asks the daemon something whose answer does not matter, without waiting for it.
    pub(crate) fn post(&self, request: &Request) -> Result<(), RequestError> {
        self.on_the_line(|line| line.post(request))
    }

    fn on_the_line<T>(
        &self,
        talk: impl FnOnce(&mut Line) -> Result<T, RequestError>,
    ) -> Result<T, RequestError> {
        if !self.guard.is_original() {
            return Err(RequestError::Forked);
        }
        if self.away.load(Ordering::Relaxed) {
            return Err(RequestError::DaemonAway);
        }
        let result = talk(&mut self.lock());
        if matches!(result, Err(RequestError::DaemonAway | RequestError::Fault(_))) {
            // What is on the line now can no longer be told apart.
            self.away.store(true, Ordering::Relaxed);
        }
        result
    }

    /// The line to the daemon, to be polled for a hang-up.
    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether the daemon has hung up, as the kernel tells now.
    pub(crate) fn is_away(&self) -> bool {
        if self.away.load(Ordering::Relaxed) {
            return true;
        }
        let mut line = [PollFd::new(self.socket(), PollFlags::empty())];
        // Answers that wait to be read are no news here.
        let polled = poll(&mut line, PollTimeout::ZERO);
        let over = PollFlags::POLLHUP | PollFlags::POLLERR;
        polled.is_ok() && line[0].revents().is_some_and(|events| events.intersects(over))
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a client looks for its answer before it sleeps: the daemon needs a few microseconds, a
/// wake-up costs many.
const LOOK_FOR_ANSWER: Duration = Duration::from_micros(100);

impl Line {
    fn exchange(&mut self, request: &Request) -> Result<(Answer, Vec<OwnedFd>), RequestError> {
        let number = self.send(request)?;
        loop {
            let (answered, answer, descriptors) = self.receive()?;
            if answered == number {
                return Ok((answer, descriptors));
            }
            if answered > number {
                return Err(Fault::new("read ipcd's answer", "it answers another request").into());
            }
            // The answer to something that was only posted, or one that has been read already.
        }
    }

    /// Sends a request whose answer nobody waits for.
    fn post(&mut self, request: &Request) -> Result<(), RequestError> {
        // What has been answered meanwhile is taken off the line, or the daemon would stop reading.
        while self.last_answered < self.last_request && self.try_receive()?.is_some() {}
        self.send(request).map(drop)
    }

    fn send(&mut self, request: &Request) -> Result<u64, RequestError> {
        self.last_request += 1;
        let bytes = encode(self.last_request, 0, request)
            .map_err(|error| Fault::new("encode a request", error))?;
        retry(|| socket::send(self.socket.as_fd(), &bytes, &[], true))?;
        Ok(self.last_request)
    }

    fn receive(&mut self) -> Result<(u64, Answer, Vec<OwnedFd>), RequestError> {
        let start = Instant::now();
        while start.elapsed() < LOOK_FOR_ANSWER {
            if let Some(answer) = self.try_receive()? {
                return Ok(answer);
            }
            // The daemon may need this very processor.
            std::thread::yield_now();
        }
        let received = retry(|| socket::receive(self.socket.as_fd(), &mut self.buffer))?;
        self.understand(received)
    }

    fn try_receive(&mut self) -> Result<Option<(u64, Answer, Vec<OwnedFd>)>, RequestError> {
        let received = retry(|| match socket::try_receive(self.socket.as_fd(), &mut self.buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            result => result.map(Some),
        });
        received?.map(|received| self.understand(received)).transpose()
    }

    fn understand(
        &mut self,
        received: Received,
    ) -> Result<(u64, Answer, Vec<OwnedFd>), RequestError> {
        if received.len == 0 {
            return Err(RequestError::DaemonAway);
        }
        if received.truncated {
            let why = "it was cut off (has this process descriptors left?)";
            return Err(Fault::new("read ipcd's answer", why).into());
        }
        let bytes = &self.buffer[..received.len];
        let (frame, answer) = decode::<Answer>(bytes, received.descriptors.len())
            .map_err(|error| Fault::new("read ipcd's answer", error))?;
        self.last_answered = self.last_answered.max(frame.request);
        Ok((frame.request, answer, received.descriptors))
    }
}

fn retry<T>(mut call: impl FnMut() -> std::io::Result<T>) -> Result<T, RequestError> {
    loop {
        match call() {
            Ok(value) => return Ok(value),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN) => {
                    return Err(RequestError::DaemonAway);
                }
                _ => return Err(Fault::new("talk to ipcd", error).into()),
            },
        }
    }
}

/// An answer that does not belong to its request: the daemon's fault.
pub(crate) fn unexpected(answer: &Answer) -> RequestError {
    let name = format!("{answer:?}");
    let name = name.split([' ', '(']).next().unwrap_or_default().to_owned();
    Fault::new("understand ipcd", format!("{name} answers another request")).into()
}
