//! Sleeping on a word, waking its sleepers, and the barrier that lets the fast side go without one.
//!
//! All futexes are shared between processes: never the private kind. A wait may end for no reason;
//! whoever waits looks again.

#![expect(unsafe_code, reason = "three system calls that no crate offers for shared words")]

use std::io;
use std::time::{Duration, Instant};

use crate::lane::park::{Park, Woke};
use crate::sync::AtomicU32;

/// The kernel's futexes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Futex;

impl Park for Futex {
    fn wait(&self, words: &[(&AtomicU32, u32)], deadline: Option<Instant>) -> Woke {
        wait(words, deadline)
    }

    fn wake(&self, word: &AtomicU32, count: u32) {
        wake(word, count);
    }

    fn barrier(&self) -> bool {
        barrier()
    }
}

/// How long a wait that the kernel has no memory for takes all the same.
const RETRY: Duration = Duration::from_millis(1);

/// Most words that one wait may watch (the kernel's limit).
pub const WORDS_MAX: usize = 128;

/// Sleeps while every word has the value beside it, until woken or until `deadline`.
///
/// # Panics
/// With no word, or with more than [`WORDS_MAX`].
pub fn wait(words: &[(&AtomicU32, u32)], deadline: Option<Instant>) -> Woke {
    let deadline = match deadline.map(monotonic) {
        Some(None) => return Woke::TimedOut,
        Some(Some(time)) => Some(time),
        None => None,
    };
    let timeout = deadline.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let result = match words {
        [(word, expected)] => wait_one(word, *expected, timeout),
        _ => wait_many(words, timeout),
    };
    match result {
        Ok(()) => Woke::Perhaps,
        Err(error) => match error.raw_os_error() {
            Some(libc::ETIMEDOUT) => Woke::TimedOut,
            // The word had changed already, or a signal came.
            Some(libc::EAGAIN | libc::EINTR) => Woke::Perhaps,
            // No memory for the wait, or for the word's page: as good as woken, but not at once.
            _ => {
                std::thread::sleep(RETRY);
                Woke::Perhaps
            }
        },
    }
}

fn wait_one(word: &AtomicU32, expected: u32, timeout: *const libc::timespec) -> io::Result<()> {
    // SAFETY: `word` is a live, aligned u32 for the length of the call; `timeout` is null or points to
    // a timespec in the caller's frame. FUTEX_WAIT_BITSET takes an absolute CLOCK_MONOTONIC time.
    let result = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT_BITSET,
            expected,
            timeout,
            std::ptr::null::<u32>(),
            libc::FUTEX_BITSET_MATCH_ANY,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `struct futex_waitv` of the kernel.
#[repr(C)]
struct WaitEntry {
    value: u64,
    address: u64,
    flags: u32,
    reserved: u32,
}

fn wait_many(words: &[(&AtomicU32, u32)], timeout: *const libc::timespec) -> io::Result<()> {
    const FUTEX2_SIZE_U32: u32 = 2;
    assert!((1..=WORDS_MAX).contains(&words.len()), "a wait watches 1 to {WORDS_MAX} words");
    let entries: Vec<WaitEntry> = words
        .iter()
        .map(|(word, expected)| WaitEntry {
            value: u64::from(*expected),
            address: word.as_ptr().expose_provenance() as u64,
            flags: FUTEX2_SIZE_U32,
            reserved: 0,
        })
        .collect();
    // SAFETY: `entries` are as many as said and live through the call, as do the words they name;
    // `timeout` is null or points to a timespec in the caller's frame.
    let result = unsafe {
        libc::syscall(
            libc::SYS_futex_waitv,
            entries.as_ptr(),
            entries.len() as libc::c_uint,
            0,
            timeout,
            libc::CLOCK_MONOTONIC,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Wakes up to `count` sleepers of a word; says how many were woken.
pub fn wake(word: &AtomicU32, count: u32) -> usize {
    // The kernel takes a signed count.
    let count = count.min(i32::MAX as u32);
    // SAFETY: the address is only looked up; a wake neither reads nor writes the word.
    let woken = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, count) };
    usize::try_from(woken).unwrap_or(0)
}

/// The CLOCK_MONOTONIC time of an instant; `None` if it has passed.
fn monotonic(deadline: Instant) -> Option<libc::timespec> {
    let remaining = deadline.checked_duration_since(Instant::now()).filter(|d| !d.is_zero())?;
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).ok()?;
    let nanos = now.tv_nsec() + i64::from(remaining.subsec_nanos());
    let seconds = i64::try_from(remaining.as_secs()).unwrap_or(i64::MAX / 2);
    Some(libc::timespec {
        tv_sec: now.tv_sec().saturating_add(seconds).saturating_add(nanos / 1_000_000_000),
        tv_nsec: nanos % 1_000_000_000,
    })
}

// linux/membarrier.h
const MEMBARRIER_CMD_GLOBAL_EXPEDITED: libc::c_int = 1 << 1;
const MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED: libc::c_int = 1 << 2;

/// Registers this process for the barrier and tries it: whether its fast side may go without a fence.
pub fn barrier_register() -> bool {
    membarrier(MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED) && barrier()
}

/// A full memory barrier on every processor that runs a registered process now; false if the kernel or
/// a sandbox refuses.
pub fn barrier() -> bool {
    membarrier(MEMBARRIER_CMD_GLOBAL_EXPEDITED)
}

fn membarrier(command: libc::c_int) -> bool {
    // SAFETY: the call takes numbers only.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) };
    result == 0
}

/// Whether the kernel has `futex_waitv` (5.16) and lets us call it.
pub fn has_waitv() -> bool {
    let words = [AtomicU32::new(1), AtomicU32::new(1)];
    let result = wait_many(&[(&words[0], 0), (&words[1], 0)], std::ptr::null());
    result.is_err_and(|error| error.raw_os_error() == Some(libc::EAGAIN))
}
