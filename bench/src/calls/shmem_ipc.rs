//! Messages in and out of shmem-ipc's ring, which shows raw pointers.

#![expect(unsafe_code, reason = "shmem-ipc has its users read and write through pointers")]

use anyhow::Result;
use shmem_ipc::sharedring::{Receiver, Sender};

/// Has a message written where it will be read, if there is room for it.
#[inline]
pub(crate) fn try_send<T, const BYTES: usize>(
    ring: &mut Sender<[u8; BYTES]>,
    write: &mut impl FnMut(&mut [u8]) -> T,
) -> Result<Option<T>> {
    let mut written = None;
    ring.send_raw(|pointer, _room| {
        // SAFETY: the ring calls this only if there is room for one or more messages behind the pointer, mapped
        // and initialized, and its one reader looks at none of it before this returns.
        let message = unsafe { &mut *pointer };
        written = Some(write(message));
        1
    })?;
    Ok(written)
}

/// Looks at a message where it lies, if there is one.
#[inline]
pub(crate) fn try_receive<T, const BYTES: usize>(
    ring: &mut Receiver<[u8; BYTES]>,
    look: &mut impl FnMut(&[u8]) -> T,
) -> Result<Option<T>> {
    let mut seen = None;
    ring.receive_raw(|pointer, _there| {
        // SAFETY: the ring calls this only if one or more messages lie behind the pointer, and its one writer, of
        // this very program, leaves them alone before this returns.
        let message = unsafe { &*pointer };
        seen = Some(look(message));
        1
    })?;
    Ok(seen)
}
