//! Mailboxes between processes: the kernel's guarantees at the speed of shared memory.

pub mod lane;
pub mod protocol;
pub mod regions;
pub mod sync;
pub mod sys;
