//! The calls of System V message queues, which no crate of ours wraps.

#![expect(unsafe_code, reason = "msgget, msgctl, msgsnd, msgrcv")]

use nix::errno::Errno;

/// What stands in front of each message: its type, a positive number.
const TYPE_BYTES: usize = size_of::<libc::c_long>();

/// Creates a queue without a key: only its number leads to it.
pub(super) fn create() -> nix::Result<i32> {
    // SAFETY: the call takes no pointer.
    Errno::result(unsafe { libc::msgget(libc::IPC_PRIVATE, 0o600) })
}

/// Removes a queue.
pub(super) fn remove(queue: i32) -> nix::Result<()> {
    // SAFETY: for this command the kernel ignores the pointer.
    Errno::result(unsafe { libc::msgctl(queue, libc::IPC_RMID, std::ptr::null_mut()) }).map(drop)
}

/// Sets how many bytes a queue may hold; returns how many it may hold now.
pub(super) fn set_capacity(queue: i32, bytes: usize) -> nix::Result<usize> {
    let mut state = std::mem::MaybeUninit::<libc::msqid_ds>::zeroed();
    // SAFETY: the pointer is valid for a whole structure, which the kernel fills.
    Errno::result(unsafe { libc::msgctl(queue, libc::IPC_STAT, state.as_mut_ptr()) })?;
    // SAFETY: all zeros are a valid structure, and so is what the kernel wrote.
    let mut state = unsafe { state.assume_init() };
    let before = state.msg_qbytes as usize;
    state.msg_qbytes = bytes as libc::msglen_t;
    // SAFETY: the pointer is valid for a whole structure, which the kernel reads.
    match Errno::result(unsafe { libc::msgctl(queue, libc::IPC_SET, &raw mut state) }) {
        Ok(_) => Ok(bytes),
        Err(_) => Ok(before),
    }
}

/// A message with the room for its type in front, which stays within this file.
#[repr(align(8))]
pub(super) struct Message(Vec<u64>, usize);

impl Message {
    /// A message of so many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        let mut words = vec![0; 1 + bytes.div_ceil(8)];
        // A type that is not 0, which the kernel refuses.
        words[0] = 1;
        Self(words, bytes)
    }

    /// Its bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the words behind the first are plain initialized memory of at least so many bytes.
        unsafe { std::slice::from_raw_parts(self.0[1..].as_ptr().cast(), self.1) }
    }

    /// Its bytes, to write.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and any bytes are valid words.
        unsafe { std::slice::from_raw_parts_mut(self.0[1..].as_mut_ptr().cast(), self.1) }
    }

    /// Sends it.
    pub(super) fn send(&self, queue: i32, flags: i32) -> nix::Result<()> {
        // SAFETY: behind the type, which is the first word, lie as many bytes as are told.
        Errno::result(unsafe { libc::msgsnd(queue, self.0.as_ptr().cast(), self.1, flags) })
            .map(drop)
    }

    /// Receives the next; returns its length.
    pub(super) fn receive(&mut self, queue: i32, flags: i32) -> nix::Result<usize> {
        // SAFETY: behind the type lies room for as many bytes as are told, which nobody else looks at.
        let len = unsafe { libc::msgrcv(queue, self.0.as_mut_ptr().cast(), self.1, 0, flags) };
        Ok(Errno::result(len)? as usize)
    }
}

const _: () = assert!(TYPE_BYTES == 8);
