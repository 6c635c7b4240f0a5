//! The descriptor store: what this daemon's descriptors are put into, so that its successor has them back.
//!
//! systemd has one (`FDSTORE=1` and its like, sent over `$NOTIFY_SOCKET`); where there is no systemd, [`crate::keeper`]
//! holds them and understands the same messages. A descriptor's name in the store is a short number, since systemd
//! hands all names back in one variable of at most 128 KiB. What it is says the kernel's name of it
//! ([`what_is`]); which session a socket belongs to, [`crate::state`].

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use libipc::sys::socket;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect};
use tracing::{error, warn};

/// How many descriptors systemd may be asked to keep: the names of so many fit into what it hands them back with.
pub const DESCRIPTORS_MAX: usize = 32_000;

/// How long to wait for descriptors on their way to be taken.
const ON_THEIR_WAY: Duration = Duration::from_millis(50);

/// Names there may be.
const NUMBERS_MAX: u32 = 36u32.pow(4);

/// Whoever keeps descriptors for us, if anybody does.
#[derive(Debug)]
pub struct Store {
    inner: RefCell<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    line: Option<Line>,
    /// Numbers below `next` that name nothing.
    free: BTreeSet<u32>,
    next: u32,
    /// Numbers whose descriptors are to be given back.
    gone: Vec<u32>,
    /// Descriptors kept, and how many may be.
    count: usize,
    max: Option<usize>,
}

/// The way to the store.
#[derive(Debug)]
struct Line {
    socket: OwnedFd,
    /// Where systemd listens; a keeper's line is a pair of sockets.
    address: Option<PathBuf>,
}

/// Descriptors in the store under one name; given back at the first [`Store::flush`] after this is dropped.
#[derive(Debug)]
pub struct Kept {
    store: Rc<Store>,
    number: u32,
    count: usize,
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut inner = self.store.inner.borrow_mut();
        inner.gone.push(self.number);
        inner.count = inner.count.saturating_sub(self.count);
    }
}

impl Kept {
    /// The name in the store.
    #[must_use]
    pub fn name(&self) -> String {
        name(self.number)
    }
}

impl Store {
    /// Nobody keeps anything.
    #[must_use]
    pub fn none() -> Rc<Self> {
        Rc::new(Self { inner: RefCell::default() })
    }

    /// The keeper at the other end of a socket keeps what we have.
    #[must_use]
    pub fn keeper(socket: OwnedFd) -> Rc<Self> {
        let line = Some(Line { socket, address: None });
        Rc::new(Self { inner: RefCell::new(Inner { line, ..Inner::default() }) })
    }

    /// systemd does, at the address of `$NOTIFY_SOCKET`.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn systemd(address: PathBuf) -> io::Result<Rc<Self>> {
        let socket = connect_to(&address)?;
        let line = Some(Line { socket, address: Some(address) });
        let max = Some(DESCRIPTORS_MAX);
        Ok(Rc::new(Self { inner: RefCell::new(Inner { line, max, ..Inner::default() }) }))
    }

    /// Whether somebody keeps what we have.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.inner.borrow().line.is_some()
    }

    /// Whether it is a keeper of ours, whose end its line tells.
    #[must_use]
    pub fn is_keeper(&self) -> bool {
        self.inner.borrow().line.as_ref().is_some_and(|line| line.address.is_none())
    }

    /// How many descriptors it keeps at most, if there is a limit.
    #[must_use]
    pub fn max(&self) -> Option<u64> {
        self.inner.borrow().max.map(|max| max as u64)
    }

    /// Has it keep nothing more.
    #[cfg(test)]
    pub(crate) fn fill_up(&self) {
        self.inner.borrow_mut().max = Some(0);
    }

    /// Does something with the line to the store, if there is one.
    pub fn with_line<T>(&self, act: impl FnOnce(BorrowedFd<'_>) -> T) -> Option<T> {
        self.inner.borrow().line.as_ref().map(|line| act(line.socket.as_fd()))
    }

    /// Notes that nobody keeps anything any more.
    pub fn lose(&self) {
        self.inner.borrow_mut().line = None;
    }

    /// Puts descriptors into the store, under one name.
    ///
    /// # Errors
    /// The store is full, or what the kernel said. That there is no store is no error.
    pub fn keep(self: &Rc<Self>, descriptors: &[BorrowedFd<'_>]) -> io::Result<Kept> {
        let mut inner = self.inner.borrow_mut();
        let count = inner.count + descriptors.len();
        if let Some(max) = inner.max.filter(|&max| count > max) {
            let why = format!("the descriptor store is full: {max} is its limit");
            return Err(io::Error::other(why));
        }
        let number = inner.free.pop_first().unwrap_or_else(|| {
            inner.next += 1;
            inner.next - 1
        });
        let message = format!("FDSTORE=1\nFDNAME={}\nFDPOLL=0", name(number));
        if let Err(error) = inner.send(&message, descriptors) {
            inner.free.insert(number);
            return Err(error);
        }
        inner.count = count;
        Ok(Kept { store: self.clone(), number, count: descriptors.len() })
    }

    /// Takes over `count` descriptors that our predecessor has put under a name; `None` if that is none of our names.
    #[must_use]
    pub fn take_back(self: &Rc<Self>, named: &str, count: usize) -> Option<Kept> {
        let number = u32::from_str_radix(named, 36).ok().filter(|&number| name(number) == named);
        let number = number.filter(|&number| number < NUMBERS_MAX)?;
        let mut inner = self.inner.borrow_mut();
        if number >= inner.next {
            let between = inner.next..number;
            inner.free.extend(between);
            inner.next = number + 1;
        } else if !inner.free.remove(&number) {
            return None;
        }
        inner.count += count;
        Some(Kept { store: self.clone(), number, count })
    }

    /// Gives back what is kept no more.
    pub fn flush(&self) {
        let mut inner = self.inner.borrow_mut();
        for number in std::mem::take(&mut inner.gone) {
            let message = format!("FDSTOREREMOVE=1\nFDNAME={}", name(number));
            match inner.send(&message, &[]) {
                Ok(()) => drop(inner.free.insert(number)),
                // It is never used again, so nothing can be taken for it.
                Err(error) => error!(%error, "cannot give a descriptor back to the store"),
            }
        }
    }

    /// Tells whoever keeps our descriptors about us, such as `READY=1`.
    pub fn tell(&self, state: &str) {
        if let Err(error) = self.inner.borrow_mut().send(state, &[]) {
            warn!(%error, state, "cannot notify the service manager");
        }
    }
}

impl Inner {
    fn send(&mut self, message: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let Some(line) = &mut self.line else { return Ok(()) };
        let mut tried_anew = false;
        let begin = Instant::now();
        loop {
            match socket::send(line.socket.as_fd(), message.as_bytes(), descriptors, false) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_gone(&error) => {
                    let anew = line.address.as_deref().filter(|_| !tried_anew).map(connect_to);
                    match anew {
                        Some(Ok(socket)) => line.socket = socket,
                        Some(Err(_)) | None => {
                            warn!(%error, "nobody keeps our descriptors any more: a death of this daemon is the end of its mailboxes now");
                            self.line = None;
                            return Ok(());
                        }
                    }
                    tried_anew = true;
                }
                // The store has not taken yet what is on its way; or it is clients that do not read theirs.
                Err(error)
                    if error.raw_os_error() == Some(libc::ETOOMANYREFS)
                        && begin.elapsed() < ON_THEIR_WAY =>
                {
                    std::thread::yield_now();
                }
                result => return result,
            }
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EPIPE | libc::ECONNRESET | libc::ECONNREFUSED | libc::ENOTCONN | libc::ENOENT)
    )
}

/// Connects a datagram socket to a service manager's. A name that begins with `@` is an abstract one.
fn connect_to(address: &Path) -> io::Result<OwnedFd> {
    use std::os::unix::ffi::OsStrExt;
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = nix::sys::socket::socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
    let address = match address.as_os_str().as_bytes().strip_prefix(b"@") {
        Some(name) => UnixAddr::new_abstract(name)?,
        None => UnixAddr::new(address)?,
    };
    connect(socket.as_raw_fd(), &address)?;
    Ok(socket)
}

fn name(mut number: u32) -> String {
    let mut digits = Vec::new();
    loop {
        digits.extend(char::from_digit(number % 36, 36));
        number /= 36;
        if number == 0 {
            return digits.iter().rev().collect();
        }
    }
}

/// What a descriptor is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Thing {
    /// A memory file that was created under this name.
    Memory(String),
    /// A socket that listens.
    Listener,
    /// Another socket.
    Socket,
    /// A process.
    Process,
    /// Anything else.
    Other,
}

/// Asks the kernel what a descriptor is.
#[must_use]
pub fn what_is(fd: BorrowedFd<'_>) -> Thing {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let link = std::fs::read_link(path).unwrap_or_default();
    let link = link.to_string_lossy();
    let listens = || nix::sys::socket::getsockopt(&fd, nix::sys::socket::sockopt::AcceptConn);
    if let Some(name) = link.strip_prefix("/memfd:") {
        return Thing::Memory(name.strip_suffix(" (deleted)").unwrap_or(name).to_owned());
    }
    if link.starts_with("socket:") {
        return if listens() == Ok(true) { Thing::Listener } else { Thing::Socket };
    }
    // Its name has changed with the kernel's version.
    if link.contains("pidfd") { Thing::Process } else { Thing::Other }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::socketpair;

    fn pair() -> (Rc<Store>, OwnedFd) {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        (Store::keeper(ours), theirs)
    }

    fn said(line: &OwnedFd) -> (String, usize) {
        let mut buffer = [0; 256];
        let received = socket::receive(line.as_fd(), &mut buffer).unwrap();
        let text = String::from_utf8(buffer[..received.len].to_vec()).unwrap();
        (text, received.descriptors.len())
    }

    #[test]
    fn what_is_kept_is_given_back_by_name_and_the_name_used_again() {
        let (store, line) = pair();
        let null = std::fs::File::open("/dev/null").unwrap();
        let first = store.keep(&[null.as_fd(), null.as_fd()]).unwrap();
        let second = store.keep(&[null.as_fd()]).unwrap();
        assert_eq!(said(&line), ("FDSTORE=1\nFDNAME=0\nFDPOLL=0".to_owned(), 2));
        assert_eq!(said(&line), ("FDSTORE=1\nFDNAME=1\nFDPOLL=0".to_owned(), 1));
        drop(first);
        // Not before it is given back is its name used again.
        let third = store.keep(&[null.as_fd()]).unwrap();
        assert_eq!(said(&line).0, "FDSTORE=1\nFDNAME=2\nFDPOLL=0");
        store.flush();
        assert_eq!(said(&line), ("FDSTOREREMOVE=1\nFDNAME=0".to_owned(), 0));
        assert_eq!(store.keep(&[null.as_fd()]).unwrap().name(), "0");
        assert_eq!((second.name(), third.name()), ("1".into(), "2".into()));
    }

    #[test]
    fn names_that_were_taken_back_are_not_given_out() {
        let (store, _line) = pair();
        let null = std::fs::File::open("/dev/null").unwrap();
        let back = ["4", "1", "zz", "4", "ZZ", "state", "-", "04"];
        let kept: Vec<_> = back.iter().filter_map(|name| store.take_back(name, 1)).collect();
        let names: Vec<_> = kept.iter().map(Kept::name).collect();
        assert_eq!(names, ["4", "1", "zz"]);
        let new: Vec<_> = (0..4).map(|_| store.keep(&[null.as_fd()]).unwrap()).collect();
        let names: Vec<_> = new.iter().map(Kept::name).collect();
        assert_eq!(names, ["0", "2", "3", "5"]);
    }

    #[test]
    fn a_store_that_goes_away_is_no_error_and_a_full_one_is() {
        let (store, line) = pair();
        let null = std::fs::File::open("/dev/null").unwrap();
        store.inner.borrow_mut().max = Some(1);
        let kept = store.keep(&[null.as_fd()]).unwrap();
        let error = store.keep(&[null.as_fd()]).unwrap_err().to_string();
        assert!(error.contains("1 is its limit"), "{error}");
        drop((kept, line));
        store.keep(&[null.as_fd()]).unwrap();
        assert!(!store.is_there());
        store.flush();
    }

    #[test]
    fn the_kernel_tells_what_a_descriptor_is() {
        let region = crate::regions::Region::create("7.roster", 4096).unwrap();
        assert_eq!(what_is(region.as_fd()), Thing::Memory("7.roster".into()));
        let (store, line) = pair();
        assert_eq!(store.with_line(what_is), Some(Thing::Socket));
        drop(line);
        let process = libipc::sys::process::pidfd_open(std::process::id()).unwrap();
        assert_eq!(what_is(process.as_fd()), Thing::Process);
        let null = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(what_is(null.as_fd()), Thing::Other);
    }
}
