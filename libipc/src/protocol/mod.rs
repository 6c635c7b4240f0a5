//! What clients and `ipcd` say to each other: one request and one answer a datagram, on a Unix
//! `SOCK_SEQPACKET` socket. One definition for both sides.
//!
//! [`frame`] is the fixed header in front of every message, [`message`] what stands behind it,
//! [`attributes`] what a mailbox is created with, [`refusal`] the ways in which `ipcd` says no.

pub mod attributes;
pub mod frame;
pub mod message;
pub mod refusal;

pub use attributes::{
    Buffering, DEAD_LETTER_BYTES_MAX, DeadLetter, Group, GroupName, MailboxAttributes, OnDeath,
    Order, Owner, Queued, Reason, Receivers, SlowGroup,
};
pub use frame::{Frame, FrameError, decode, decode_alone, encode};
pub use message::{
    Answer, DirectAddress, Fetched, GroupReport, Identity, LaneInfo, LaneTicket, MailboxDetail,
    MailboxName, MailboxSummary, MemberInfo, Opened, OpenedRole, Refresh, Request, Role,
    ServerStatus, Usage,
};
pub use refusal::Refusal;

/// Version of the messages; `Hello` agrees on one.
pub const PROTOCOL_VERSION: u16 = 4;
/// Largest datagram either side accepts, header included.
pub const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Most descriptors that one message may carry (the kernel's own limit is 253).
pub const DESCRIPTORS_MAX: usize = 250;
/// Where the system daemon listens.
pub const SYSTEM_SOCKET: &str = "/run/ipcd/ipcd.sock";
/// Where a private daemon listens, below `$XDG_RUNTIME_DIR`.
pub const PRIVATE_SOCKET: &str = "ipcd/ipcd.sock";
