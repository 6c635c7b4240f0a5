//! The only unsafe code here: shared memory, the futex, and rivals whose interfaces want it.

#[cfg(feature = "boost")]
pub(crate) mod boost;
pub(crate) mod futex;
#[cfg(feature = "iceoryx2")]
pub(crate) mod iceoryx2;
pub(crate) mod shared;
#[cfg(feature = "shmem-ipc")]
pub(crate) mod shmem_ipc;
