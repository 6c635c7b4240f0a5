//! From the command line to the loop: what the kernel must have, the socket and its lock, signals.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use libipc::sys::{futex, process, socket};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{
    Backlog, SockFlag, SockType, UnixAddr, bind, getsockname, getsockopt, listen, sockopt,
};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use crate::config::Settings;
use crate::recovery::{Inherited, recover};
use crate::regions::Region;
use crate::server::{Ending, Server};
use crate::{detach, keeper};

/// Starts the log, to stderr.
///
/// # Errors
/// The filter is none.
pub fn start_log(settings: &Settings) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&settings.log)
        .with_context(|| format!("--log {:?} is no level and no filter", settings.log))?;
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(terminal && std::env::var_os("NO_COLOR").is_none())
        // A full disk under the log is no reason to die.
        .log_internal_errors(false)
        .init();
    Ok(())
}

/// Runs the daemon until a signal or idleness ends it; says with which code to exit.
///
/// # Errors
/// A sentence that names what is missing or in the way, and what to do.
pub fn run(settings: &Settings) -> anyhow::Result<u8> {
    check_kernel()?;
    raise_descriptor_limit();
    if settings.kept {
        leave_some_to_the_keeper();
    }
    let stop = stop_signals()?;
    let mut inherited =
        if settings.kept { Inherited::from_keeper()? } else { Inherited::from_systemd()? };
    let listener = match inherited.listener.take() {
        Some(socket) => Listener { socket: checked(socket)?, own: None },
        None if settings.detached => match detach::bind(settings)? {
            Some(listener) => listener,
            None => return detach::say_ready().map(|()| 0),
        },
        None => Listener::bind(&settings.socket, settings.into())?,
    };
    if settings.refuse_descriptors {
        // Of those that wait there already each is told for itself when it is let in.
        socket::refuse_descriptors(&listener.socket).context("cannot set up the socket")?;
    }
    let barrier = settings.use_barrier && futex::barrier_register();
    let first_position = settings.first_position;
    let store = inherited.store.clone();
    let descriptors = descriptor_limit().min(store.max().unwrap_or(u64::MAX));
    let quotas = settings.quotas(descriptors);
    let recovered = recover(&mut inherited, &quotas, first_position, barrier);
    if listener.own.is_some() && store.is_there() {
        let kept = store.keep(&[listener.socket.as_fd()]).context("cannot keep the socket")?;
        inherited.listener_kept = Some(kept);
    }
    let mut server = Server::new(listener.socket.as_fd(), stop.as_fd(), recovered.service)
        .context("cannot set up the event loop")?
        .exit_when_idle(settings.idle_exit)
        .refusing_descriptors(settings.refuse_descriptors)
        .watched(sd_notify::watchdog_enabled().map(|limit| limit / 3));
    server.adopt(recovered.last_session, recovered.sessions, recovered.fresh);
    let (activated, kept) = (listener.own.is_none(), store.is_there());
    info!(socket = %listener.address(), activated, kept, barrier, version = crate::VERSION, "listening");
    if settings.detached && settings.kept {
        detach::let_go()?;
    }
    store.tell("READY=1");
    if settings.detached && !settings.kept {
        detach::say_ready()?;
    }
    let ending = server.run().context("the event loop failed")?;
    if ending == Ending::Again {
        info!("ends, to be started anew with all that it has");
        return Ok(keeper::AGAIN);
    }
    store.tell("STOPPING=1");
    server.stop();
    if settings.kept && !store.is_there() {
        // The keeper would have done so.
        let _ = std::fs::remove_file(&settings.socket);
    }
    drop(server);
    listener.end();
    drop(inherited.lock);
    info!("stopped");
    Ok(0)
}

/// Says what is missing, by the feature rather than by the kernel's number: sandboxes refuse things, too.
fn check_kernel() -> anyhow::Result<()> {
    let needs = "ipcd needs Linux 5.16 or newer";
    ensure!(futex::has_waitv(), "{needs}: futex_waitv is missing here (or a sandbox refuses it)");
    Region::create("probe", 4096)
        .with_context(|| format!("{needs}: cannot create and seal a memory file here"))?;
    process::pidfd_open(std::process::id())
        .with_context(|| format!("{needs}: pidfd_open is missing here"))?;
    Ok(())
}

/// Every session takes two descriptors, every lane one: as many as we are allowed.
pub(crate) fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        warn!(%error, soft, hard, "cannot raise the limit of open descriptors");
    }
}

/// The daemon of a keeper has some descriptors less than its keeper, which holds whatever the daemon does, and its own.
fn leave_some_to_the_keeper() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, soft - (soft / 8).min(64), hard)
    {
        warn!(%error, "cannot leave descriptors to the keeper");
    }
}

/// How many descriptors this process may have.
pub(crate) fn descriptor_limit() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft)
}

/// A descriptor that is readable once SIGTERM or SIGINT has come.
pub(crate) fn stop_signals() -> anyhow::Result<SignalFd> {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    signals.thread_block().context("cannot block signals")?;
    // Where files are limited in size, a write that goes beyond is an error like any other, and no reason to die.
    let too_large: SigSet = [Signal::SIGXFSZ].into_iter().collect();
    too_large.thread_block().context("cannot block signals")?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    SignalFd::with_flags(&signals, flags).context("cannot listen to signals")
}

/// The socket that the service manager listens on for us, if it does.
pub(crate) fn activated() -> anyhow::Result<Option<OwnedFd>> {
    let inherited = Inherited::from_systemd()?;
    inherited.listener.map(checked).transpose()
}

/// A socket that others have passed, if it is what it should be.
fn checked(socket: OwnedFd) -> anyhow::Result<OwnedFd> {
    let kind = getsockopt(&socket, sockopt::SockType);
    let listening = getsockopt(&socket, sockopt::AcceptConn).unwrap_or(false);
    ensure!(
        kind == Ok(SockType::SeqPacket) && listening,
        "the service manager's socket is no listening SOCK_SEQPACKET socket: use ListenSequentialPacket="
    );
    Ok(socket)
}

/// Another daemon holds the lock of the socket.
#[derive(Debug, thiserror::Error)]
#[error("another ipcd listens at {} already: stop it first, or use another --socket", .socket.display())]
pub struct AnotherDaemon {
    socket: PathBuf,
}

/// What a socket at which the daemon listens is to be like.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Its mode: who may connect.
    pub mode: u32,
    /// Its directory is one user's alone.
    pub private: bool,
    /// Clients may send no descriptors, where the kernel can have sockets refuse them.
    pub refuse_descriptors: bool,
}

impl From<&Settings> for Manner {
    fn from(settings: &Settings) -> Self {
        let &Settings { socket_mode: mode, private, refuse_descriptors, .. } = settings;
        Self { mode, private, refuse_descriptors }
    }
}

/// A listening socket. One that we made ourselves is unlinked when it is dropped.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub socket: OwnedFd,
    own: Option<OwnSocket>,
}

#[derive(Debug)]
struct OwnSocket {
    path: PathBuf,
    // Held as long as the socket is ours; the kernel lets go of it when we die.
    lock: File,
}

impl Drop for OwnSocket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            warn!(%error, socket = %self.path.display(), "cannot remove the socket");
        }
    }
}

impl Listener {
    /// A socket that is another's to unlink.
    pub(crate) fn inherited(socket: OwnedFd) -> Self {
        Self { socket, own: None }
    }

    /// The lock of its path, if we have that.
    pub(crate) fn lock(&self) -> Option<BorrowedFd<'_>> {
        self.own.as_ref().map(|own| own.lock.as_fd())
    }

    /// Removes its name if it is ours, and leaves the rest to the end of this process: whoever waits to be let in may have sent something
    /// whose end waits.
    pub(crate) fn end(self) {
        let Self { socket, own } = self;
        drop(own);
        std::mem::forget(socket);
    }

    /// Where it listens, for people.
    fn address(&self) -> String {
        let address = getsockname::<UnixAddr>(self.socket.as_raw_fd());
        let path = address.ok().and_then(|address| address.path().map(Path::to_owned));
        path.map_or_else(|| "unnamed".into(), |path| path.display().to_string())
    }

    /// Listens at `path`, unless another daemon does. A socket that a dead daemon left is replaced.
    ///
    /// # Errors
    /// A sentence that says what is in the way.
    pub fn bind(path: &Path, manner: Manner) -> anyhow::Result<Self> {
        let Manner { mode, private, refuse_descriptors } = manner;
        let shown = path.display();
        let address = UnixAddr::new(path).with_context(|| {
            format!("{shown} cannot be a socket's path: use a shorter --socket")
        })?;
        make_directory(path, private)?;
        let lock = lock(path)?;
        match std::fs::symlink_metadata(path) {
            Ok(there) if std::os::unix::fs::FileTypeExt::is_socket(&there.file_type()) => {
                std::fs::remove_file(path)
                    .with_context(|| format!("cannot remove the stale socket {shown}"))?;
            }
            Ok(_) => bail!("{shown} is there and is no socket: remove it, or use another --socket"),
            Err(_) => {}
        }
        let socket = socket::seqpacket(SockFlag::SOCK_CLOEXEC).context("cannot make a socket")?;
        bind(socket.as_raw_fd(), &address).with_context(|| format!("cannot bind {shown}"))?;
        let own = OwnSocket { path: path.to_owned(), lock };
        if refuse_descriptors {
            // Before anybody can connect.
            socket::refuse_descriptors(&socket)
                .with_context(|| format!("cannot set up {shown}"))?;
        }
        // Nobody can connect before `listen`, so there is no moment with another mode.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
            .with_context(|| format!("cannot set the mode of {shown}"))?;
        listen(&socket, Backlog::MAXALLOWABLE)
            .with_context(|| format!("cannot listen at {shown}"))?;
        Ok(Self { socket, own: Some(own) })
    }
}

fn make_directory(socket: &Path, private: bool) -> anyhow::Result<()> {
    let Some(directory) = socket.parent().filter(|path| !path.as_os_str().is_empty()) else {
        return Ok(());
    };
    let shown = directory.display();
    let mode = if private { 0o700 } else { 0o755 };
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(directory)
        .with_context(|| format!("cannot create {shown}: use another --socket, or run as root"))?;
    if private {
        let there =
            std::fs::metadata(directory).with_context(|| format!("cannot look at {shown}"))?;
        let uid = nix::unistd::geteuid().as_raw();
        ensure!(
            there.uid() == uid && there.mode() & 0o077 == 0,
            "{shown} belongs to uid {} with mode {:04o}: a private daemon needs a directory of uid {uid} \
             that nobody else enters (mode 0700)",
            there.uid(),
            there.mode() & 0o7777,
        );
    }
    Ok(())
}

/// Makes sure that we are the only daemon of this socket, for as long as the lock file is open.
fn lock(socket: &Path) -> anyhow::Result<File> {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    let shown = path.display();
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&path)
        .with_context(|| format!("cannot open {shown}: may this user listen there?"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(AnotherDaemon { socket: socket.to_owned() }.into())
        }
        Err(std::fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {shown}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Manner = Manner { mode: 0o600, private: false, refuse_descriptors: true };

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("ipcd-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn a_second_daemon_is_refused_and_a_stale_socket_replaced() {
        let directory = directory("lock");
        let path = directory.join("s");
        let first = Listener::bind(&path, OURS).unwrap();
        let error = Listener::bind(&path, OURS).unwrap_err().to_string();
        assert!(error.contains("another ipcd"), "{error}");
        let mode = std::fs::metadata(&path).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(first);
        assert!(!path.exists());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a socket that its daemon left");
        drop(Listener::bind(&path, OURS).unwrap());
        std::fs::write(&path, "precious").unwrap();
        assert!(Listener::bind(&path, OURS).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_private_daemon_wants_a_directory_of_its_own() {
        let directory = directory("private");
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o755)).unwrap();
        let private = Manner { private: true, ..OURS };
        let error = Listener::bind(&directory.join("s"), private).unwrap_err().to_string();
        assert!(error.contains("0700"), "{error}");
        drop(Listener::bind(&directory.join("own/s"), private).unwrap());
        std::fs::remove_dir_all(directory).unwrap();
    }
}
