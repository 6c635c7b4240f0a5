//! The futex, between processes.

#![expect(unsafe_code, reason = "a system call that no crate of ours wraps")]

use std::ptr;
use std::sync::atomic::AtomicU32;

/// Sleeps while the word is as expected; wakes up for no reason at times.
pub(crate) fn wait(word: &AtomicU32, expected: u32) {
    let no_timeout = ptr::null::<libc::timespec>();
    // SAFETY: the word lives throughout the call; the kernel reads it and writes nothing.
    let _ = unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, expected, no_timeout)
    };
}

/// Wakes one that sleeps.
pub(crate) fn wake(word: &AtomicU32) {
    // SAFETY: the kernel takes the address alone.
    let _ = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
}
