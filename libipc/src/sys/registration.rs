//! A descriptor of our own, known to a tokio runtime.

#![expect(unsafe_code, reason = "tokio leaves it to the caller that a descriptor stays open")]

use std::io;
use std::os::fd::OwnedFd;

use ::tokio::io::Interest;
use ::tokio::io::unix::AsyncFd;

/// Has the runtime that this is called in tell when the descriptor is readable.
///
/// # Errors
/// What the kernel said.
///
/// # Panics
/// Outside of a tokio runtime, or in one without I/O.
pub fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, and always the same descriptor, until it is dropped; the `AsyncFd` owns
    // it until it has taken it off the runtime.
    let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    registered.map_err(io::Error::from)
}
