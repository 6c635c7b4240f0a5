//! Mailboxes between processes: the kernel's guarantees at the speed of shared memory.
//!
//! A **mailbox** is a named object that the daemon `ipcd` owns. Processes open it to send or to receive;
//! the daemon checks who may, and hands out sealed regions of shared memory through which messages then
//! flow without it. Any number of senders and of competing receivers; each message goes to one receiver,
//! in its sender's order, with its sender's identity as the kernel attested it.
//!
//! ```no_run
//! use libipc::{Client, MailboxOptions};
//!
//! let client = Client::connect()?;
//! client.create("orders", &MailboxOptions::new().capacity_bytes(1 << 20).mode(0o622))?;
//! client.sender("orders")?.send(b"two pounds of tea")?;
//!
//! let mut receiver = client.receiver("orders")?;
//! let order = receiver.receive()?;
//! println!("{} bytes from {}", order.bytes().len(), order.sender());
//! order.acknowledge();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Map
//! - [`Client`]: the session with the daemon. [`MailboxOptions`]: attributes and their limits.
//! - [`Sender`], [`Receiver`], [`Delivery`]: the two ends, and a message in hand. [`Observer`]: a look.
//! - [`Reservation`], [`TrustedSenders`]: messages written and read in place. [`Batch`]: several at once.
//! - [`WaitSet`]: waiting on many. [`Receiver::poll_fd`], [`Sender::poll_fd`]: descriptors for event loops. With
//!   the feature `tokio`, the module of that name: futures and a stream.
//! - [`Delivery::reject`], [`DeadLetter`]: messages that nobody can deal with.
//! - [`Ticket`]: what has become of a message, told by [`Sender::send_tracked`].
//! - [`Sender::call`], [`Delivery::reply`]: request and reply. [`Client::register`], [`Client::send_to`]: processes that name
//!   each other. [`Sender::set_priority`], [`MailboxOptions::group`], [`Receiver::receive_from`]: who gets what, and when.
//! - [`error`]: one type an operation.
//! - [`lane`]: how messages lie in shared memory and who wakes whom. [`regions`], [`sys`]: what that
//!   stands on. [`protocol`]: control messages. These four are shared with `ipcd` and no stable interface.

#[cfg(not(loom))]
mod client;
#[cfg(not(loom))]
mod delivery;
#[cfg(not(loom))]
mod direct;
#[cfg(not(loom))]
pub mod error;
pub mod lane;
#[cfg(not(loom))]
mod lifeline;
#[cfg(not(loom))]
mod link;
#[cfg(not(loom))]
mod observer;
#[cfg(not(loom))]
mod options;
#[cfg(not(loom))]
mod private_daemon;
pub mod protocol;
#[cfg(not(loom))]
mod receiver;
pub mod regions;
#[cfg(not(loom))]
mod sender;
#[cfg(not(loom))]
mod session;
#[cfg(not(loom))]
mod sleeper;
pub mod sync;
pub mod sys;
#[cfg(not(loom))]
mod ticket;
#[cfg(not(loom))]
mod timed_mutex;
#[cfg(all(feature = "tokio", not(loom)))]
pub mod tokio;
#[cfg(not(loom))]
mod wait_set;
#[cfg(not(loom))]
mod watch;

#[cfg(not(loom))]
pub use client::{Client, ClientOptions};
#[cfg(not(loom))]
pub use delivery::Delivery;
#[cfg(not(loom))]
pub use error::{
    BatchStopped, CallError, CommitError, ConnectError, Corrupt, Fault, ReceiveError, ReplyError,
    RequestError, SendError, SendToError, TryReceiveError, TrySendError,
};
#[cfg(not(loom))]
pub use lane::memory::TrustedSenders;
#[cfg(not(loom))]
pub use observer::{Observer, Peeked};
#[cfg(not(loom))]
pub use options::MailboxOptions;
pub use protocol::{
    Buffering, DeadLetter, DirectAddress, Group, GroupName, GroupReport, Identity,
    MailboxAttributes, MailboxDetail, MailboxName, MailboxSummary, MemberInfo, OnDeath, Order,
    Owner, Queued, Reason, Receivers, Refusal, Role, ServerStatus, SlowGroup, Usage,
};
#[cfg(not(loom))]
pub use receiver::{Batch, BatchMessage, Receiver};
#[cfg(not(loom))]
pub use sender::{Reply, Reservation, Sender};
#[cfg(not(loom))]
pub use ticket::{Returned, Ticket, TicketError, TicketState};
#[cfg(not(loom))]
pub use wait_set::{WaitError, WaitSet, Waitable};
