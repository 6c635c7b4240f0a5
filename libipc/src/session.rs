//! The talk with `ipcd`: requests and their answers over one socket, for all threads of the process.
//!
//! The daemon answers in the order in which it was asked. [`line`] sorts who waits for which answer; an [`errand`] is
//! a request that may outlast the operation that made it, for a daemon that is away comes back and answers then.

mod errand;
mod line;
#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::{ConnectError, Fault, RequestError};
use crate::lane::layout::LAYOUT_VERSION;
use crate::protocol::{Answer, Opened, PROTOCOL_VERSION, Request};
use crate::sys::clock::has_passed;
use crate::sys::process::ForkGuard;
use crate::sys::socket::Received;
use crate::sys::{futex, socket};
use crate::watch::Watchers;
use line::Line;

pub(crate) use errand::{Errand, Wait};

/// An answer, and the descriptors that came with it.
pub(crate) type Answered = (Answer, Vec<OwnedFd>);

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

/// The socket, and what is asked on it.
#[derive(Debug)]
pub(crate) struct Session {
    socket: OwnedFd,
    line: Mutex<Line>,
    /// An answer was read, or nobody reads any more.
    read: Condvar,
    /// The daemon has hung up, or the session is broken.
    away: AtomicBool,
    /// Something went wrong on this side, or the daemon broke the protocol.
    broken: AtomicBool,
    watchers: Arc<Watchers>,
    guard: ForkGuard,
}

impl Session {
    fn new(socket: OwnedFd) -> Self {
        let (line, read, watchers) = (Mutex::default(), Condvar::new(), Arc::default());
        let [away, broken] = [false; 2].map(AtomicBool::new);
        Self { socket, line, read, away, broken, watchers, guard: ForkGuard::get() }
    }

    /// Says hello on a new socket. `None`: the daemon hung up before it answered, so nothing has happened yet.
    pub(crate) fn greet(socket: OwnedFd) -> Result<Option<Self>, ConnectError> {
        let session = Self::new(socket);
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
    pub(crate) fn request(&self, request: &Request) -> Result<Answered, RequestError> {
        // Without a deadline neither the one nor the other is given up.
        let number = self.send(request, None)?.ok_or(RequestError::DaemonAway)?;
        self.await_answer(number, None)?.ok_or(RequestError::DaemonAway)
    }

    /// Asks the daemon for a link.
    pub(crate) fn open(&self, request: &Request) -> Result<(Opened, Vec<OwnedFd>), RequestError> {
        self.request(request).and_then(opened)
    }

    /// Asks the daemon something whose answer does not matter, and that will be said again if need be: without
    /// waiting, and not at all where the daemon has so much to read already that the kernel takes no more.
    pub(crate) fn post(&self, request: &Request) -> Result<(), RequestError> {
        self.check()?;
        let sent = self.lock().post(self.socket.as_fd(), request);
        self.note(sent)
    }

    /// Has the daemon close a link, at the latest when it is next asked something. Never waits.
    pub(crate) fn close_link(&self, link: u32) -> Result<(), RequestError> {
        self.check()?;
        let sent = self.lock().close_link(self.socket.as_fd(), link);
        self.note(sent)
    }

    fn check(&self) -> Result<(), RequestError> {
        if !self.guard.is_original() {
            return Err(RequestError::Forked);
        }
        if self.away.load(Ordering::Relaxed) {
            return Err(RequestError::DaemonAway);
        }
        Ok(())
    }

    /// Notes how some talk has ended.
    fn note<T>(&self, result: Result<T, RequestError>) -> Result<T, RequestError> {
        if matches!(result, Err(RequestError::Fault(_))) {
            // What is on the line now can no longer be told apart: the session is over, for the daemon, too.
            self.broken.store(true, Ordering::Relaxed);
            let _ = nix::sys::socket::shutdown(
                self.socket.as_raw_fd(),
                nix::sys::socket::Shutdown::Both,
            );
        }
        if matches!(result, Err(RequestError::DaemonAway | RequestError::Fault(_))) {
            self.away.store(true, Ordering::Relaxed);
            self.read.notify_all();
        }
        result
    }

    /// Whether the daemon may be there though this session is over, and do what it was asked.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Sends a request whose answer is waited for; says its number. `None`: the kernel has not taken it by the
    /// deadline, so nothing was asked.
    fn send(
        &self,
        request: &Request,
        deadline: Option<Instant>,
    ) -> Result<Option<u64>, RequestError> {
        loop {
            self.check()?;
            let mut line = self.lock();
            let (sent, reads) = (line.ask(self.socket.as_fd(), request), line.is_read());
            drop(line);
            if let Some(number) = self.note(sent)? {
                return Ok(Some(number));
            }
            if has_passed(deadline) {
                return Ok(None);
            }
            // The daemon does not read on before its answers are read. Who reads them now may leave off at any moment.
            let wanted =
                if reads { PollFlags::POLLOUT } else { PollFlags::POLLOUT | PollFlags::POLLIN };
            wait_for(self.socket(), wanted, earlier(deadline, Instant::now() + LOOK_AGAIN));
        }
    }

    /// Waits for the answer to a request. `None`: it has not come by the deadline; it is kept when it comes.
    ///
    /// One of those who wait reads for all, and nobody is locked out meanwhile: each can leave at its own deadline, and then
    /// another reads on.
    fn await_answer(
        &self,
        number: u64,
        deadline: Option<Instant>,
    ) -> Result<Option<Answered>, RequestError> {
        let mut line = self.lock();
        loop {
            if let Some(answer) = line.take(number) {
                return unless_refused(answer).map(Some);
            }
            self.check()?;
            if let Some(mut buffer) = line.begin_reading() {
                drop(line);
                let received = self.receive(&mut buffer, deadline);
                line = self.lock();
                let over = matches!(received, Ok(None));
                let noted = received.and_then(|received| line.note(&buffer, received));
                line.end_reading(buffer);
                self.read.notify_all();
                self.note(noted)?;
                if over {
                    return Ok(None);
                }
                continue;
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            line = match left {
                Some(Duration::ZERO) => return Ok(None),
                Some(left) => {
                    let waited = self.read.wait_timeout(line, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.read.wait(line).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// The next datagram. `None`: none has come by the deadline.
    fn receive(
        &self,
        buffer: &mut [u8],
        deadline: Option<Instant>,
    ) -> Result<Option<Received>, RequestError> {
        let start = Instant::now();
        loop {
            let received = line::try_receive(self.socket(), buffer)?;
            if received.is_some() || has_passed(deadline) {
                return Ok(received);
            }
            if start.elapsed() < LOOK_FOR_ANSWER {
                // The daemon may need this very processor.
                std::thread::yield_now();
            } else {
                wait_for(self.socket(), PollFlags::POLLIN, deadline);
            }
        }
    }

    /// Nobody waits for an answer any more, and nobody will.
    fn abandon(&self, number: u64) {
        if self.guard.is_original() {
            let told = self.lock().abandon(self.socket.as_fd(), number);
            // Where the daemon is away there is nothing to be told.
            let _ = self.note(told);
        }
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

/// How often one who waits for the daemon to read looks whether somebody still reads its answers.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Waits until a descriptor is ready, or perhaps not.
fn wait_for(fd: BorrowedFd<'_>, wanted: PollFlags, deadline: impl Into<Option<Instant>>) {
    let timeout = deadline.into().map_or(PollTimeout::NONE, |deadline| {
        // Rounded up, so that the deadline has passed behind it.
        let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
    });
    // Whatever it says, the caller looks for itself.
    let _ = poll(&mut [PollFd::new(fd, wanted)], timeout);
}

fn earlier(deadline: Option<Instant>, other: Instant) -> Instant {
    deadline.map_or(other, |deadline| deadline.min(other))
}

/// A link, if that is what the daemon has answered.
pub(crate) fn opened(
    (answer, descriptors): Answered,
) -> Result<(Opened, Vec<OwnedFd>), RequestError> {
    match answer {
        Answer::Opened(opened) => Ok((opened, descriptors)),
        other => Err(unexpected(&other)),
    }
}

fn unless_refused(answered: Answered) -> Result<Answered, RequestError> {
    match answered {
        (Answer::Refused(refusal), _) => Err(refusal.into()),
        answered => Ok(answered),
    }
}

/// An answer that does not belong to its request: the daemon's fault.
pub(crate) fn unexpected(answer: &Answer) -> RequestError {
    let name = format!("{answer:?}");
    let name = name.split([' ', '(']).next().unwrap_or_default().to_owned();
    Fault::new("understand ipcd", format!("{name} answers another request")).into()
}
