//! Where there is no systemd: the small parent that keeps the daemon's descriptors and starts it again.
//!
//! It has no registry and reads nothing of what it keeps: descriptors come with a name and go by it, in systemd's own
//! words (`FDSTORE=1`, `FDNAME=`, `FDSTOREREMOVE=1`). It talks with the daemon over a pair of sockets, so nobody else can
//! talk with either, and each learns of the other's end. A new daemon is started with all that is kept open, as systemd
//! starts one, and so nothing can be in the way of that: neither what clients have not read nor a limit. What is which it
//! is told over the line: into the environment no more than 128 KiB of names would fit.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use libipc::sys::process::inherited_fd;
use libipc::sys::socket::{receive, send};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, socketpair, sockopt};
use nix::unistd::Pid;
use tracing::{error, info, warn};

use crate::closers;
use crate::config::Settings;
use crate::detach;
use crate::startup::{self, Listener};

/// A daemon that ends with this code is started anew, and goes on.
pub const AGAIN: u8 = 75;

/// A daemon that lived no longer than this, or was never ready, died at once.
const AT_ONCE: Duration = Duration::from_millis(20);
/// So many may do so one after the other before the next has to wait, each time twice as long.
const HASTY: u32 = 5;
const WAIT_MIN: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(5);

/// How long it sleeps, in milliseconds, before it looks for more behind a word of the daemon's.
const NAP_MS: u8 = 2;

/// Descriptors of which one message of a hand-over tells.
const A_MESSAGE: usize = 128;
const MESSAGE_BYTES: usize = 16 << 10;
const HANDED: &str = "HANDED";
const END: &str = "END";
const LISTENER: &str = "ipcd.listener";
const LOCK: &str = "ipcd.lock";

/// What a keeper hands to its daemon.
#[derive(Debug)]
pub struct HandedOver {
    /// The line to the keeper.
    pub line: OwnedFd,
    /// The lock of the socket's path, where it has one.
    pub lock: Option<OwnedFd>,
    /// What it keeps, by name, and the socket that listens.
    pub named: Vec<(String, OwnedFd)>,
}

/// Keeps what a daemon needs, and starts that until it ends in order; returns its exit code.
///
/// # Errors
/// A sentence that says what is in the way.
pub fn run(settings: &Settings) -> anyhow::Result<u8> {
    startup::raise_descriptor_limit();
    let signals = startup::stop_signals()?;
    let listener = match startup::activated()? {
        Some(socket) => Listener::inherited(socket),
        None if settings.detached => match detach::bind(settings)? {
            Some(listener) => listener,
            None => {
                detach::say_ready()?;
                return Ok(0);
            }
        },
        None => Listener::bind(&settings.socket, settings.into())?,
    };
    let program = std::env::current_exe().context("cannot find this program's file")?;
    let mut keeper = Keeper {
        program,
        detached: settings.detached,
        listener,
        signals,
        stopping: false,
        ready: false,
        ready_now: false,
        kept: BTreeMap::new(),
    };
    let result = keeper.keep_going();
    keeper.end();
    result
}

struct Keeper {
    program: PathBuf,
    /// Somebody waits to hear that the daemon is ready.
    detached: bool,
    listener: Listener,
    signals: SignalFd,
    stopping: bool,
    /// A daemon has said that it is ready: any, and this one.
    ready: bool,
    ready_now: bool,
    kept: BTreeMap<String, Vec<OwnedFd>>,
}

impl Keeper {
    /// Leaves what is kept to the end of this process.
    fn end(self) {
        let Self { listener, kept, .. } = self;
        listener.end();
        kept.into_values().flatten().for_each(std::mem::forget);
    }

    fn keep_going(&mut self) -> anyhow::Result<u8> {
        let mut hasty = 0;
        loop {
            let started = Instant::now();
            match self.run_once() {
                Ok(status) => {
                    if let Some(code) = self.verdict(status) {
                        return Ok(code);
                    }
                }
                // The program may be about to be replaced: what is kept is worth another try.
                Err(error) if self.ready => error!("{error:#}"),
                Err(error) => return Err(error),
            }
            let at_once = !self.ready_now || started.elapsed() < AT_ONCE;
            hasty = if at_once { hasty + 1 } else { 0 };
            if hasty > HASTY && !self.wait(hasty)? {
                return Ok(0);
            }
        }
    }

    /// The exit code, if that was the last daemon.
    fn verdict(&self, status: ExitStatus) -> Option<u8> {
        let code = status.code().map(|code| code as u8);
        if code == Some(0) {
            return code;
        }
        if self.stopping || !self.ready {
            // It has said why.
            return code.or(Some(1));
        }
        if code == Some(AGAIN) {
            info!("starts the daemon anew");
            return None;
        }
        let why = match status.signal() {
            Some(signal) => format!("killed by signal {signal}"),
            None => status.to_string(),
        };
        error!(why, "the daemon died: starting it again with all that it had");
        None
    }

    /// Waits before the next daemon; false if there is to be none.
    fn wait(&mut self, hasty: u32) -> anyhow::Result<bool> {
        let wait = WAIT_MIN.saturating_mul(1 << (hasty - HASTY - 1).min(16)).min(WAIT_MAX);
        warn!(
            deaths = hasty,
            ?wait,
            "daemons die as soon as they are started: waiting before the next"
        );
        let until = Instant::now() + wait;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(true);
            }
            let mut watched = [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut watched, left) {
                Err(nix::Error::EINTR) | Ok(0) => {}
                Err(error) => return Err(error).context("cannot wait for signals"),
                Ok(_) => return Ok(false),
            }
        }
    }

    /// Starts a daemon, tells it what is kept, and keeps what it says until it has ended.
    fn run_once(&mut self) -> anyhow::Result<ExitStatus> {
        self.ready_now = false;
        let flags = SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)
            .context("cannot make a line to the daemon")?;
        let mut child = self.start(theirs).context("cannot start the daemon")?;
        if let Err(error) = self.hand_over(&ours) {
            // Mostly it has died, which its end of the line tells as well.
            warn!(%error, "cannot hand over what is kept");
        }
        self.listen(&ours, &child)?;
        child.wait().context("cannot wait for the daemon")
    }

    /// All that a daemon is to have, by name.
    fn things(&self) -> Vec<(&str, BorrowedFd<'_>)> {
        let mut things = vec![(LISTENER, self.listener.socket.as_fd())];
        things.extend(self.listener.lock().map(|lock| (LOCK, lock)));
        let kept = self.kept.iter();
        things
            .extend(kept.flat_map(|(name, fds)| fds.iter().map(|fd| (name.as_str(), fd.as_fd()))));
        things
    }

    fn start(&self, line: OwnedFd) -> io::Result<Child> {
        let arguments = std::env::args_os().skip(1).chain([OsString::from("--kept")]);
        let mut command = Command::new(&self.program);
        command.args(arguments).stdin(line);
        for variable in ["NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
            command.env_remove(variable);
        }
        if self.detached {
            // That is where whoever started us hears from us.
            command.stdout(Stdio::null());
        }
        // Nobody else starts anything here.
        self.bequeath(FdFlag::empty())?;
        let child = command.spawn();
        self.bequeath(FdFlag::FD_CLOEXEC)?;
        child
    }

    /// Says whether a program that is started gets what is kept.
    fn bequeath(&self, flags: FdFlag) -> io::Result<()> {
        let mut things = self.things().into_iter();
        things.try_for_each(|(_, fd)| fcntl(fd, FcntlArg::F_SETFD(flags)).map(drop))?;
        Ok(())
    }

    fn hand_over(&self, line: &OwnedFd) -> io::Result<()> {
        for things in self.things().chunks(A_MESSAGE) {
            let named = things.iter().map(|(name, fd)| format!("\n{name} {}", fd.as_raw_fd()));
            let message = format!("{HANDED}{}", named.collect::<String>());
            retry(|| send(line.as_fd(), message.as_bytes(), &[], false))?;
        }
        retry(|| send(line.as_fd(), END.as_bytes(), &[], false))
    }

    /// Does what the daemon says until it hangs up, which it does when it ends.
    ///
    /// What it says waits in the line as well as it does here, so behind the first word of many we sleep for a moment: the
    /// daemon shall not have to wake us at each of them.
    fn listen(&mut self, line: &OwnedFd, child: &Child) -> anyhow::Result<()> {
        let mut buffer = vec![0; MESSAGE_BYTES];
        loop {
            let said = self.wait_for(line, PollTimeout::NONE, true)?;
            self.pass_on(child);
            if said {
                while self.wait_for(line, PollTimeout::ZERO, true)? {
                    if !self.hear(line, &mut buffer)? {
                        return Ok(());
                    }
                }
                self.wait_for(line, PollTimeout::from(NAP_MS), false)?;
            }
        }
    }

    /// Waits for a signal, and for the line's next word if that is wanted; says whether there is one.
    fn wait_for(&self, line: &OwnedFd, timeout: PollTimeout, wanted: bool) -> anyhow::Result<bool> {
        let watch = if wanted { PollFlags::POLLIN } else { PollFlags::empty() };
        let mut watched = [
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(line.as_fd(), watch),
        ];
        match poll(&mut watched, timeout) {
            Err(nix::Error::EINTR) => Ok(false),
            Err(error) => Err(error).context("cannot wait for the daemon"),
            Ok(_) => Ok(watched[1].any().unwrap_or(false)),
        }
    }

    /// Passes a signal on to the daemon, whose end will be ours.
    fn pass_on(&mut self, child: &Child) {
        if let Ok(Some(_)) = self.signals.read_signal() {
            self.stopping = true;
            // Fails only if it has ended already.
            let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
        }
    }

    /// Does what one message says; false at the line's end.
    fn hear(&mut self, line: &OwnedFd, buffer: &mut [u8]) -> anyhow::Result<bool> {
        let received = match receive(line.as_fd(), buffer) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            // With unread words of ours in the line its end is told so.
            Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => return Ok(false),
            Err(error) => return Err(error).context("cannot hear the daemon"),
        };
        if received.len == 0 {
            return Ok(false);
        }
        if received.truncated {
            error!("out of descriptors: something of the daemon's cannot be kept; raise the limit");
        }
        let message = String::from_utf8_lossy(buffer.get(..received.len).unwrap_or_default());
        let says = |what: &str| message.lines().any(|line| line == what);
        let name = message.lines().find_map(|line| line.strip_prefix("FDNAME="));
        match name {
            Some(name) if says("FDSTORE=1") => {
                self.kept.entry(name.to_owned()).or_default().extend(received.descriptors);
            }
            Some(name) if says("FDSTOREREMOVE=1") => {
                // A socket may have something in it whose end waits.
                self.kept.remove(name).into_iter().flatten().for_each(closers::close);
            }
            _ => {}
        }
        if says("READY=1") {
            self.ready_now = true;
            if !std::mem::replace(&mut self.ready, true) && self.detached {
                detach::say_ready()?;
            }
        }
        Ok(true)
    }
}

/// Calls until no signal interrupts.
fn retry(mut call: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// In the daemon: takes what the keeper hands over, and the line to it, which is standard input.
///
/// # Errors
/// There is no keeper, or it has ended.
pub fn take_over() -> anyhow::Result<HandedOver> {
    let line = io::stdin().as_fd().try_clone_to_owned().context("cannot take the line over")?;
    if getsockopt(&line, sockopt::SockType) != Ok(SockType::SeqPacket) {
        bail!("--kept is what ipcd starts itself with: leave it out");
    }
    let null = std::fs::File::open("/dev/null").context("cannot open /dev/null")?;
    nix::unistd::dup2_stdin(&null).context("cannot let go of standard input")?;
    let (mut named, mut lock) = (Vec::new(), None);
    let mut buffer = vec![0; MESSAGE_BYTES];
    loop {
        let received = match receive(line.as_fd(), &mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result.context("cannot hear the keeper")?,
        };
        let message = String::from_utf8_lossy(buffer.get(..received.len).unwrap_or_default());
        let mut lines = message.lines();
        match lines.next() {
            Some(HANDED) if !received.truncated => {
                for line in lines {
                    let (name, number) = line.split_once(' ').context("the keeper is not ours")?;
                    let fd = inherited_fd(number.parse().context("the keeper is not ours")?)
                        .context("what the keeper has handed over is not open")?;
                    if name == LOCK {
                        lock = Some(fd);
                    } else {
                        named.push((name.to_owned(), fd));
                    }
                }
            }
            Some(END) => return Ok(HandedOver { line, lock, named }),
            _ => bail!("the keeper ended before all was handed over"),
        }
    }
}
