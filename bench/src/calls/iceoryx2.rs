//! Samples of iceoryx2 that are written where they lie.

#![expect(unsafe_code, reason = "a loaned slice must be called initialized by its user")]

use iceoryx2::sample_mut::SampleMut;
use iceoryx2::sample_mut_uninit::SampleMutUninit;
use iceoryx2::service::ipc;
use std::mem::MaybeUninit;

/// A loaned slice of bytes, as it lies in shared memory.
pub(crate) fn as_it_is(
    sample: SampleMutUninit<ipc::Service, [MaybeUninit<u8>], ()>,
) -> SampleMut<ipc::Service, [u8], ()> {
    // SAFETY: shared memory comes zeroed from the kernel, and any bytes are valid bytes.
    unsafe { sample.assume_init() }
}
