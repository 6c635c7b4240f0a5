//! Descriptors that a process of a measurement was started with.

#![expect(unsafe_code, reason = "takes over descriptors by the numbers that the job tells")]

use std::os::fd::{BorrowedFd, OwnedFd};

use anyhow::{Context as _, Result, ensure};
use nix::fcntl::{FcntlArg, fcntl};

use crate::job::Channel;

/// The descriptors of a channel, each a duplicate of the inherited one, which stays open.
///
/// # Errors
/// If one is not open, or no more can be.
pub fn descriptors<const COUNT: usize>(channel: &Channel) -> Result<[OwnedFd; COUNT]> {
    let mut found = Vec::new();
    for &number in &channel.descriptors {
        ensure!(number > 2, "descriptor {number} is not of this measurement");
        // SAFETY: it is borrowed for the two calls below alone; the first tells whether it is open at all, and
        // nothing in a peer closes what it inherited.
        let inherited = unsafe { BorrowedFd::borrow_raw(number) };
        fcntl(inherited, FcntlArg::F_GETFD).context("a descriptor was not inherited")?;
        found.push(inherited.try_clone_to_owned()?);
    }
    let count = found.len();
    found.try_into().ok().with_context(|| format!("{count} descriptors came, not {COUNT}"))
}
