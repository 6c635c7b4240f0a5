//! Boost.Interprocess's message_queue, through the few lines of C++ beside this.

#![expect(unsafe_code, reason = "calls C++")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::marker::{PhantomData, PhantomPinned};
use std::ptr::NonNull;

use anyhow::{Context as _, Result, bail};

#[repr(C)]
struct Opaque {
    data: [u8; 0],
    marker: PhantomData<(*mut u8, PhantomPinned)>,
}

// The functions of queue.cpp, with their very types.
unsafe extern "C" {
    fn bench_queue_create(name: *const c_char, messages: usize, bytes: usize) -> *mut Opaque;
    fn bench_queue_open(name: *const c_char) -> *mut Opaque;
    fn bench_queue_close(queue: *mut Opaque);
    fn bench_queue_remove(name: *const c_char) -> c_int;
    fn bench_queue_send(queue: *mut Opaque, bytes: *const c_void, len: usize, waits: bool)
    -> c_int;
    fn bench_queue_receive(
        queue: *mut Opaque,
        bytes: *mut c_void,
        room: usize,
        len: *mut usize,
        waits: bool,
    ) -> c_int;
}

/// A handle of a queue.
pub(crate) struct Queue(NonNull<Opaque>);

impl Queue {
    /// Creates a queue and opens it.
    pub(crate) fn create(name: &CStr, messages: usize, bytes: usize) -> Result<Self> {
        // SAFETY: the name ends with a zero, and is only read.
        let queue = unsafe { bench_queue_create(name.as_ptr(), messages, bytes) };
        NonNull::new(queue).map(Self).context("cannot create a queue")
    }

    /// Opens a queue that is there.
    pub(crate) fn open(name: &CStr) -> Result<Self> {
        // SAFETY: as above.
        let queue = unsafe { bench_queue_open(name.as_ptr()) };
        NonNull::new(queue).map(Self).context("cannot open a queue")
    }

    /// Sends a message; false if there was no room, and that was not to be waited for.
    #[inline]
    pub(crate) fn send(&mut self, message: &[u8], waits: bool) -> Result<bool> {
        let (bytes, len) = (message.as_ptr().cast(), message.len());
        // SAFETY: the queue is open until this handle is dropped; the message is only read.
        match unsafe { bench_queue_send(self.0.as_ptr(), bytes, len, waits) } {
            0 => Ok(true),
            1 => Ok(false),
            _ => bail!("cannot send"),
        }
    }

    /// Receives a message and returns its length; `None` if there was none, and that was not to be waited for.
    #[inline]
    pub(crate) fn receive(&mut self, buffer: &mut [u8], waits: bool) -> Result<Option<usize>> {
        let (bytes, room) = (buffer.as_mut_ptr().cast(), buffer.len());
        let mut len = 0;
        // SAFETY: the queue is open until this handle is dropped; the buffer is written up to its length.
        match unsafe { bench_queue_receive(self.0.as_ptr(), bytes, room, &raw mut len, waits) } {
            0 => Ok(Some(len)),
            1 => Ok(None),
            _ => bail!("cannot receive"),
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: the handle is open, and nobody has it any more.
        unsafe { bench_queue_close(self.0.as_ptr()) }
    }
}

/// Takes a queue's name away, if it is there.
pub(crate) fn remove(name: &CStr) {
    // SAFETY: the name ends with a zero, and is only read.
    let _ = unsafe { bench_queue_remove(name.as_ptr()) };
}
