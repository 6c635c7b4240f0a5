//! What every machine has: our mailboxes, what the kernel offers, and a bare ring between threads.

mod bare_ring;
mod descriptors;
mod mq;
mod ours;
mod ours_bulk;
mod sysv;
mod sysv_calls;

use std::path::PathBuf;

pub use bare_ring::BareRing;
pub use descriptors::{Pipe, Seqpacket, UnixStream};
pub use mq::PosixQueue;
pub use ours::Ours;
pub use sysv::SysVQueue;

use crate::system::System;

/// All of them, in the order in which they are shown and measured; ours with the daemon at `socket` (peers find it
/// in their job).
#[must_use]
pub fn everywhere(socket: Option<PathBuf>) -> Vec<Box<dyn System>> {
    vec![
        Box::new(Ours::any_receivers(socket.clone())),
        Box::new(Ours::one_receiver(socket)),
        Box::new(PosixQueue),
        Box::new(SysVQueue),
        Box::new(Pipe),
        Box::new(Seqpacket),
        Box::new(UnixStream),
    ]
}
