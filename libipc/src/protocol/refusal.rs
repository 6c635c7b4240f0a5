//! The ways in which `ipcd` says no. Each names what was refused, and what to do.

use serde::{Deserialize, Serialize};

/// Why `ipcd` refused a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// Nothing of that name.
    #[error("no mailbox is named {name:?}")]
    NoSuchMailbox {
        /// The name.
        name: String,
    },
    /// Something of that name is there already.
    #[error("a mailbox named {name:?} exists already")]
    AlreadyExists {
        /// The name.
        name: String,
    },
    /// The mode does not let this uid do that.
    #[error(
        "uid {uid} may not {wanted} {name:?}: it belongs to uid {owner_uid} (gid {owner_gid}), mode {mode:04o}"
    )]
    PermissionDenied {
        /// The mailbox.
        name: String,
        /// What was asked for: send, receive, observe, delete, close, open, give away.
        wanted: String,
        /// Who asked.
        uid: u32,
        /// Whose it is.
        owner_uid: u32,
        /// Its group.
        owner_gid: u32,
        /// Its mode.
        mode: u16,
    },
    /// A uid has all that it may have.
    #[error("uid {uid} uses {used} of {limit} {what}; {asked} more were asked for")]
    QuotaExceeded {
        /// Whose quota.
        uid: u32,
        /// Of what: mailboxes, lanes, sessions, bytes, descriptors.
        what: String,
        /// In use.
        used: u64,
        /// Asked for.
        asked: u64,
        /// The limit.
        limit: u64,
    },
    /// A mailbox has all the members that it was created for.
    #[error("mailbox {name:?} has all {limit} {what} that it was created for")]
    MailboxFull {
        /// The mailbox.
        name: String,
        /// Of what: receivers, lanes, sender uids.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// The mailbox lets no new senders in.
    #[error("mailbox {name:?} is closed to new sends")]
    Closed {
        /// The mailbox.
        name: String,
    },
    /// The mailbox is gone.
    #[error("mailbox {name:?} was deleted")]
    Deleted {
        /// The mailbox.
        name: String,
    },
    /// Not a name.
    #[error("invalid name {name:?}: {reason}")]
    InvalidName {
        /// The name (its beginning).
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An attribute is out of its range.
    #[error("invalid {attribute} {value}: allowed is {allowed}")]
    InvalidAttribute {
        /// Which.
        attribute: String,
        /// Its value.
        value: u64,
        /// Its range.
        allowed: String,
    },
    /// Not a link of this session, or not one that can do that.
    #[error("this session has no link {link} that can {wanted}")]
    NoSuchLink {
        /// The link.
        link: u32,
        /// For what it was used.
        wanted: String,
    },
    /// The session was made by another process (a fork's child must connect for itself).
    #[error("this session belongs to process {session_pid}, not to process {pid}")]
    ForeignSession {
        /// Who made it.
        session_pid: u32,
        /// Who used it.
        pid: u32,
    },
    /// The two sides share no version.
    #[error(
        "client speaks protocol {version_min} to {version_max}, layout {layout_version}; this ipcd speaks {ours}, layout {our_layout}"
    )]
    Version {
        /// The client's oldest.
        version_min: u16,
        /// The client's newest.
        version_max: u16,
        /// The client's layout.
        layout_version: u32,
        /// The daemon's protocol.
        ours: u16,
        /// The daemon's layout.
        our_layout: u32,
    },
    /// What came was no request, or came out of order. The session is closed behind this answer.
    #[error("protocol error: {reason}")]
    Protocol {
        /// What was wrong.
        reason: String,
    },
    /// The daemon ran out of something: descriptors, memory.
    #[error("ipcd cannot {step}: {error}")]
    Resources {
        /// What it was doing.
        step: String,
        /// What the kernel said.
        error: String,
    },
    /// Two attributes that do not go together.
    #[error("{one} does not go with {other}: {why}")]
    Incompatible {
        /// One of them.
        one: String,
        /// The other.
        other: String,
        /// Why not.
        why: String,
    },
    /// A link of two processes has its two.
    #[error("mailbox {name:?} is a link of two processes, and process {pid} {does} already")]
    Occupied {
        /// The mailbox.
        name: String,
        /// Who is there.
        pid: u32,
        /// As what: sends, receives.
        does: String,
    },
    /// Only the process that owns the mailbox receives from it.
    #[error("only process {owner_pid}, which owns mailbox {name:?}, receives from it")]
    NotTheOwner {
        /// The mailbox.
        name: String,
        /// Who owns it.
        owner_pid: u32,
    },
    /// Nothing of that name among the mailbox's groups.
    #[error("mailbox {name:?} has no group {group:?}: it has {groups}")]
    NoSuchGroup {
        /// The mailbox.
        name: String,
        /// What was asked for; empty: no group was named.
        group: String,
        /// What there is.
        groups: String,
    },
    /// No process has registered so.
    #[error("no process has registered as {address}")]
    NoSuchProcess {
        /// As what.
        address: String,
    },
    /// There is one link between two processes, and it is there.
    #[error("process {pid} is linked to {name:?} already: there is one link between two processes")]
    AlreadyLinked {
        /// The inbox.
        name: String,
        /// Who asked.
        pid: u32,
    },
    /// What is to become a dead letter is not in that receiver's hand.
    #[error("the message is not in hand any more: in a group that drops the oldest it never is")]
    NotInHand,
    /// Dead letters are there to be received, put back or thrown away.
    #[error("{name:?} holds dead letters: ipcd alone puts them there, and they become none again")]
    DeadLetters {
        /// The mailbox.
        name: String,
    },
    /// No dead letter has that number, or somebody has it in hand.
    #[error("mailbox {name:?} has no dead letter {number} that nobody has in hand")]
    NoSuchDeadLetter {
        /// The mailbox.
        name: String,
        /// The number.
        number: u64,
    },
    /// Whoever called is gone, or waits for no answer.
    #[error("the caller is gone: nobody waits for this answer")]
    CallerGone,
    /// Only root and the daemon's own uid may.
    #[error("uid {uid} may not {wanted}: root and uid {daemon_uid} may")]
    NotAdministrator {
        /// What was asked for.
        wanted: String,
        /// Who asked.
        uid: u32,
        /// The daemon's uid.
        daemon_uid: u32,
    },
}

impl Refusal {
    /// What a person can do about it.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self {
            Self::NoSuchMailbox { .. } => {
                "create it first (ipcctl create NAME), or look with ipcctl list"
            }
            Self::AlreadyExists { .. } => "use another name, or open the one that is there",
            Self::PermissionDenied { .. } => {
                "ask its owner for a mode that lets you (read = receive, write = send)"
            }
            Self::QuotaExceeded { .. } => {
                "close or delete something of that uid that is in use, or raise its limit in ipcd's configuration"
            }
            Self::MailboxFull { .. } => "close a member, or create the mailbox with a higher limit",
            Self::Closed { .. } => "its owner can let traffic in again (ipcctl open NAME)",
            Self::Deleted { .. } => "create it again, and open it again",
            Self::InvalidName { .. } | Self::InvalidAttribute { .. } => "correct it and ask again",
            Self::NoSuchLink { .. } => "open the mailbox again",
            Self::ForeignSession { .. } => "connect anew in the child process",
            Self::Version { .. } => "bring client and ipcd to versions that share a protocol",
            Self::Protocol { .. } => "connect again; if it stays, client and ipcd do not fit",
            Self::Resources { .. } => "free memory or descriptors, or raise ipcd's limits",
            Self::Incompatible { .. } => "leave one of the two out",
            Self::Occupied { .. } => {
                "wait until that process is gone, or create a mailbox for many"
            }
            Self::NotTheOwner { .. } => "send to it, or create a mailbox that the system owns",
            Self::NoSuchGroup { .. } => "name one of its groups (ipcctl show NAME lists them)",
            Self::NoSuchProcess { .. } => "start it first, or see which there are (ipcctl list)",
            Self::AlreadyLinked { .. } => "use the link that is there",
            Self::NotInHand => "acknowledge it, or let it be received again",
            Self::DeadLetters { .. } => "receive them, or see ipcctl dead",
            Self::NoSuchDeadLetter { .. } => "see which there are (ipcctl dead list NAME)",
            Self::CallerGone => "nothing is to be done: acknowledge the message",
            Self::NotAdministrator { .. } => "ask as root",
        }
    }
}
