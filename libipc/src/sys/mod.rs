//! The homes of system calls and, with `lane::memory`, of all unsafe code.
//!
//! [`mapping`] regions in this process's address space, [`futex`] sleeping, waking and the
//! asymmetric barrier, [`clock`] the time of a message and deadlines, [`socket`] control messages with descriptors and credentials, [`process`] who
//! we are, on which processor, and whether we are a fork's child; `registration` (with the feature
//! `tokio`) descriptors that a runtime waits on.

pub mod clock;
#[cfg(not(loom))]
pub mod futex;
pub mod mapping;
#[cfg(not(loom))]
pub mod process;
#[cfg(all(feature = "tokio", not(loom)))]
pub mod registration;
#[cfg(not(loom))]
pub mod signal;
#[cfg(not(loom))]
pub mod socket;
