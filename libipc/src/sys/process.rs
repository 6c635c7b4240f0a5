//! Facts about this process and its peers: processor, pidfds, groups, and whether we are the child of
//! a fork.

#![expect(unsafe_code, reason = "a few system calls that nix lacks, and the page that fork wipes")]

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use memmap2::{MmapMut, MmapOptions, MmapRaw};

/// The processor that this thread runs on now, plus one; 0 if unknown.
#[must_use]
pub fn processor() -> u32 {
    // SAFETY: no argument, no memory.
    let cpu = unsafe { libc::sched_getcpu() };
    u32::try_from(cpu + 1).unwrap_or(0)
}

/// A variable of the environment, unless this process has more rights than whoever started it (set-user-id).
#[must_use]
pub fn trusted_variable(name: &str) -> Option<OsString> {
    // SAFETY: the call takes a number only.
    let secure = unsafe { libc::getauxval(libc::AT_SECURE) } != 0;
    std::env::var_os(name).filter(|_| !secure)
}

/// Processors that this process may run on.
#[must_use]
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A descriptor that becomes readable when the process dies.
///
/// # Errors
/// What the kernel said; ESRCH if there is no such process.
pub fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes numbers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// The supplementary groups of the process at the other end, as they were when it connected.
///
/// # Errors
/// What the kernel said.
pub fn peer_groups(socket: impl AsFd) -> io::Result<Vec<u32>> {
    let mut groups = vec![0u32; 64];
    loop {
        let mut len = (groups.len() * size_of::<u32>()) as libc::socklen_t;
        // SAFETY: `groups` has `len` bytes, and the kernel writes at most that many.
        let result = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        let count = len as usize / size_of::<u32>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

/// Takes over a descriptor that this process was started with (socket activation).
///
/// # Errors
/// EBADF if it is not open.
pub fn inherited_fd(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes numbers only.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open (one line above); the caller says that it was handed to this process at its
    // start, so nothing else in it owns the number.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A word that the kernel wipes in the child of a fork: it tells parent from child without a system call,
/// however the child was made.
#[derive(Clone, Copy, Debug)]
pub struct ForkGuard {
    word: &'static AtomicU32,
    /// What the word says in the process that took this guard.
    generation: u32,
}

impl ForkGuard {
    /// The guard of this process.
    ///
    /// # Panics
    /// If the kernel has no page for us.
    pub fn get() -> Self {
        static PAGE: OnceLock<MmapRaw> = OnceLock::new();
        let page = PAGE.get_or_init(|| {
            let page: io::Result<MmapMut> = MmapOptions::new().len(4096).map_anon();
            let page = MmapRaw::from(page.expect("one page of memory"));
            let start = page.as_mut_ptr().cast();
            // SAFETY: the advice covers the page that was mapped two lines above, and nothing else.
            let advised = unsafe { libc::madvise(start, page.len(), libc::MADV_WIPEONFORK) };
            assert_eq!(advised, 0, "MADV_WIPEONFORK needs Linux 4.14");
            page
        });
        // SAFETY: a static keeps the page mapped for ever, it is page-aligned, and an AtomicU32 has no
        // invalid bit pattern.
        let word = unsafe { &*page.as_mut_ptr().cast::<AtomicU32>() };
        // The count is ordinary memory, which a child inherits: each process of a family gets its own number.
        static GENERATIONS: AtomicU32 = AtomicU32::new(0);
        let mut generation = word.load(Ordering::Relaxed);
        if generation == 0 {
            let next = GENERATIONS.fetch_add(1, Ordering::Relaxed) + 1;
            // Two threads may come here at once: the first one's number counts.
            let first = word.compare_exchange(0, next, Ordering::Relaxed, Ordering::Relaxed);
            generation = first.err().unwrap_or(next);
        }
        Self { word, generation }
    }

    /// Whether this is the process that took this guard. A child of fork is not; it takes one of its own.
    #[inline]
    #[must_use]
    pub fn is_original(self) -> bool {
        // Relaxed: the kernel wiped the word before the child's first instruction.
        self.word.load(Ordering::Relaxed) == self.generation
    }
}
