//! The requests, the answers, and the values in them.
//!
//! Variants are only ever appended: postcard numbers them in the order in which they stand here.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::attributes::{DeadLetter, Group, GroupName, MailboxAttributes, Queued, Reason};
use super::refusal::Refusal;

/// What a client asks. Every request but `Hello` needs a `Hello` before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// The first message of a session.
    Hello {
        /// Oldest version of the protocol that the client speaks.
        version_min: u16,
        /// Newest version of the protocol that the client speaks.
        version_max: u16,
        /// [`crate::lane::layout::LAYOUT_VERSION`] of the client.
        layout_version: u32,
        /// The client's process is registered for, and may call, `membarrier(GLOBAL_EXPEDITED)`.
        barrier: bool,
    },
    /// Creates a mailbox. Answer: `Created`.
    Create {
        /// Its name.
        name: MailboxName,
        /// Its attributes.
        attributes: MailboxAttributes,
        /// Its groups of receivers; none: all receivers compete.
        groups: Vec<Group>,
    },
    /// Opens a mailbox: makes a link. Answer: `Opened`, with descriptors.
    Open {
        /// Its name.
        name: MailboxName,
        /// For what.
        role: Role,
        /// Which group a receiver belongs to, or an observer looks at; `None` where there are no groups.
        group: Option<GroupName>,
    },
    /// Closes a link. Answer: `Done`.
    CloseLink {
        /// The link's number.
        link: u32,
    },
    /// Asks a receiver's or observer's link for the lanes and doorsteps that came since. Answer: `Fetched`, with descriptors.
    Fetch(Refresh),
    /// A receiver found a lane empty whose sender is gone. Answer: `Done`, freed or not.
    LaneDrained {
        /// The receiver's link.
        link: u32,
        /// Which lane.
        lane: LaneTicket,
    },
    /// Lets traffic in again (`open: true`) or closes the mailbox to new sends. Answer: `Done`.
    SetTraffic {
        /// Its name.
        name: MailboxName,
        /// Open, or closed.
        open: bool,
    },
    /// Deletes a mailbox. Answer: `Deleted`.
    Delete {
        /// Its name.
        name: MailboxName,
        /// What becomes of what is queued.
        queued: Queued,
    },
    /// Names the mailboxes after `after` in order of their names. Answer: `Listed`.
    List {
        /// The last name of the page before; `None` for the first page.
        after: Option<MailboxName>,
    },
    /// All about one mailbox. Answer: `Shown`.
    Show {
        /// Its name.
        name: MailboxName,
        /// Members to leave out from the front: what the pages before had.
        skip: u32,
    },
    /// All about the daemon and the caller's quotas. Answer: `Status`.
    Status,
    /// A sender's link needs a further lane. Answer: `LaneAdded`, with its descriptor (read-write).
    AddLane {
        /// The sender's link.
        link: u32,
        /// The lane's priority, 0 to 31.
        priority: u8,
        /// Bytes of its data: a power of two.
        capacity_bytes: u64,
        /// The lane of this link that it goes on from: that one gets no more messages.
        replaces: Option<LaneTicket>,
    },
    /// A receiver found a mailbox empty that is only there until it is drained. Answer: `Done`, gone or not.
    Drained {
        /// The receiver's link.
        link: u32,
    },
    /// A sender's lane is full because of a group that drops the oldest. Answer: `Dropped`.
    DropOldest {
        /// The sender's link.
        link: u32,
        /// The lane.
        lane: LaneTicket,
        /// The group's index.
        group: u8,
        /// The group's claim as the sender saw it.
        from: u64,
        /// Where the claim is to go: a record's beginning.
        through: u64,
        /// Messages in between.
        messages: u64,
    },
    /// Makes the inbox at which other processes reach the caller's by name or pid. Answer: `Registered`.
    Register {
        /// The name; `None`: reached by pid alone.
        name: Option<String>,
        /// The inbox's attributes; its owner is this process.
        attributes: MailboxAttributes,
    },
    /// Opens another process's inbox to send. Answer: `Opened`, with descriptors.
    OpenDirect {
        /// Whose.
        to: DirectAddress,
    },
    /// Who a registered process is. Answer: `Found`.
    Find {
        /// Which.
        of: DirectAddress,
    },
    /// Makes the mailbox to which answers to calls over a sender's link come, and opens it to receive.
    /// Answer: `Opened`, with descriptors.
    OpenReplies {
        /// The sender's link.
        link: u32,
    },
    /// Opens the mailbox for answers of the sender whose lane this is. Answer: `Opened`, with descriptors.
    OpenReply {
        /// The receiver's link.
        link: u32,
        /// The caller's lane.
        lane: LaneTicket,
    },
    /// What a receiver has in hand is a dead letter: it is freed on its behalf. Answer: `Done`.
    Reject {
        /// The receiver's link.
        link: u32,
        /// The lane.
        lane: LaneTicket,
        /// Where the message lies.
        position: u64,
        /// `Rejected` or `Attempts`.
        reason: Reason,
    },
    /// Puts dead letters back into their mailbox, some at a time. Answer: `Moved`.
    Requeue {
        /// The mailbox.
        name: MailboxName,
        /// Which; `None`: any.
        number: Option<u64>,
    },
    /// Throws dead letters away, some at a time. Answer: `Moved`.
    Discard {
        /// The mailbox.
        name: MailboxName,
        /// Which; `None`: any.
        number: Option<u64>,
    },
    /// Has the daemon end and be started anew, with all that it has: for root and the daemon's own uid. Answer: `Done`,
    /// while it is still there.
    Restart,
}

/// Names a process that has registered.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DirectAddress {
    /// By the name under which it registered.
    Name(String),
    /// By its process id, in `ipcd`'s pid namespace.
    Pid(u32),
}

impl fmt::Display for DirectAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "process {name:?}"),
            Self::Pid(pid) => write!(f, "pid {pid}"),
        }
    }
}

/// What `ipcd` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To `Hello`.
    Hello {
        /// The version that both speak.
        version: u16,
        /// `ipcd`'s own version, for people.
        daemon: String,
    },
    /// To `Create`.
    Created {
        /// The mailbox's number.
        mailbox_id: u64,
    },
    /// To `Open`.
    Opened(Opened),
    /// To `Fetch`.
    Fetched(Fetched),
    /// To whatever has nothing else to say.
    Done,
    /// To `Delete`.
    Deleted {
        /// Messages that were queued, as far as members' counters tell: discarded, or left to drain.
        queued: u64,
    },
    /// To `List`.
    Listed {
        /// Mailboxes that the caller may see, in order of their names.
        mailboxes: Vec<MailboxSummary>,
        /// There are more: ask again, after the last of these.
        more: bool,
    },
    /// To `Show`.
    Shown(Box<MailboxDetail>),
    /// To `Status`.
    Status(Box<ServerStatus>),
    /// No, and why. The session goes on unless it is [`Refusal::Protocol`].
    Refused(Refusal),
    /// To `AddLane`.
    LaneAdded {
        /// The lane.
        lane: LaneInfo,
    },
    /// To `DropOldest`.
    Dropped {
        /// False: the claim was no longer where the sender saw it; nothing was dropped.
        done: bool,
    },
    /// To `Register`.
    Registered {
        /// The inbox, to be opened to receive.
        name: MailboxName,
    },
    /// To `Find`.
    Found {
        /// The process.
        identity: Identity,
    },
    /// To `Requeue` and `Discard`.
    Moved {
        /// Dead letters that are gone from among them.
        moved: u64,
        /// There were more than one answer deals with: ask again.
        more: bool,
    },
}

/// For what a process opens a mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Role {
    /// To send: needs write permission; gets a lane of its own.
    Send,
    /// To receive: needs read permission; gets a receiver slot.
    Receive,
    /// To look without taking: needs read permission; maps everything read-only.
    Observe,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Send => "send",
            Self::Receive => "receive",
            Self::Observe => "observe",
        })
    }
}

/// A link as the client needs it. Descriptors: roster (read-only), the cursors of its group (read-write for
/// a receiver, read-only for an observer) or of every group (read-only, for a sender), then a sender's lane
/// and doorstep (both read-write); behind them those of `fetched`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// The link's number in this session.
    pub link: u32,
    /// The mailbox's number.
    pub mailbox_id: u64,
    /// The mailbox's attributes, checked and filled in.
    pub attributes: MailboxAttributes,
    /// Its groups, if it has any.
    pub groups: Vec<Group>,
    /// What the role got.
    pub role: OpenedRole,
    /// Doorsteps and lanes there are already (none for a sender).
    pub fetched: Fetched,
}

/// What a role got at its open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpenedRole {
    /// A lane, and the doorstep of the sender's uid.
    Send {
        /// The lane.
        lane: LaneInfo,
    },
    /// A receiver slot.
    Receive {
        /// Its index in its group.
        slot: u16,
        /// The group's index.
        group: u8,
        /// Which of the slot's receivers it is.
        generation: u32,
    },
    /// Nothing.
    Observe,
}

/// Asks for what came since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refresh {
    /// The link.
    pub link: u32,
    /// `through` of the last [`Fetched`].
    pub after: u64,
}

/// Lanes and doorsteps that came since. Descriptors: one a doorstep (read-write; an observer
/// gets none), then one a lane (read-only), in the order in which they are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// Index and uid of each doorstep; uid `u32::MAX` is the home doorstep.
    pub doorsteps: Vec<(u16, u32)>,
    /// The lanes.
    pub lanes: Vec<LaneInfo>,
    /// What to ask after next time.
    pub through: u64,
    /// There are more: ask again at once.
    pub more: bool,
}

/// Names one lane: its slot, and which of the slot's lanes it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LaneTicket {
    /// The lane's slot.
    pub index: u16,
    /// Counts the lanes that the slot has had.
    pub generation: u32,
}

/// All that a member must know of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneInfo {
    /// Which.
    pub ticket: LaneTicket,
    /// Bytes of its data; a power of two.
    pub capacity_bytes: u64,
    /// The position at which it began.
    pub first_position: u64,
    /// Index of its sender's doorstep.
    pub doorstep: u16,
    /// Its sender, as the kernel attested it.
    pub sender: Identity,
    /// Its priority, 0 to 31: the highest goes first.
    pub priority: u8,
    /// The lane that it goes on from: that one is to be emptied first.
    pub predecessor: Option<LaneTicket>,
    /// It holds one dead letter, and `sender` is who sent that; `ipcd` has written it.
    pub dead_letter: Option<DeadLetter>,
    /// The index of the one group that receives from it; `None`: every group.
    pub only_for: Option<u8>,
}

/// Who a process is: attested by the kernel, never by the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// Process id, in `ipcd`'s pid namespace. For people: a pid may be used again.
    pub pid: u32,
    /// Effective uid when the link was made.
    pub uid: u32,
    /// Effective gid when the link was made.
    pub gid: u32,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {} (uid {}, gid {})", self.pid, self.uid, self.gid)
    }
}

/// A checked mailbox name: 1 to 200 of letters, digits and `. _ - / : @`, beginning with a letter, a
/// digit, `_` or `/`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MailboxName(String);

impl MailboxName {
    /// Longest name in bytes.
    pub const BYTES_MAX: usize = 200;

    /// The name of the mailbox in which another's dead letters are begins so; the rest is that other's name.
    pub const DEAD_LETTERS: &str = "dead/";

    /// The name of the mailbox in which this one's dead letters are.
    #[must_use]
    pub fn of_dead_letters(&self) -> Self {
        Self(format!("{}{}", Self::DEAD_LETTERS, self.0))
    }

    /// The name of the mailbox whose dead letters are in the one of this name.
    #[must_use]
    pub fn whose_dead_letters(&self) -> Option<Self> {
        Self::new(self.0.strip_prefix(Self::DEAD_LETTERS)?).ok()
    }

    /// Checks a name.
    ///
    /// # Errors
    /// [`Refusal::InvalidName`], which says what is wrong with it.
    pub fn new(name: &str) -> Result<Self, Refusal> {
        let refuse = |reason: String| {
            Err(Refusal::InvalidName { name: name.chars().take(64).collect(), reason })
        };
        if name.is_empty() {
            return refuse("it is empty".into());
        }
        if name.strip_prefix(Self::DEAD_LETTERS).unwrap_or(name).len() > Self::BYTES_MAX {
            return refuse(format!(
                "it has {} bytes, at most {} are allowed",
                name.len(),
                Self::BYTES_MAX
            ));
        }
        if let Some(bad) =
            name.chars().find(|&c| !c.is_ascii_alphanumeric() && !"._-/:@".contains(c))
        {
            return refuse(format!("{bad:?} is not allowed: use letters, digits and . _ - / : @"));
        }
        if !name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == '/') {
            return refuse("it must begin with a letter, a digit, _ or /".into());
        }
        Ok(Self(name.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for MailboxName {
    type Error = Refusal;
    fn try_from(name: String) -> Result<Self, Refusal> {
        Self::new(&name)
    }
}

impl From<MailboxName> for String {
    fn from(name: MailboxName) -> Self {
        name.0
    }
}

impl fmt::Display for MailboxName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A line of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MailboxSummary {
    /// Its name.
    pub name: MailboxName,
    /// Its number.
    pub mailbox_id: u64,
    /// Its attributes; the owner is filled in.
    pub attributes: MailboxAttributes,
    /// Open to new sends.
    pub open: bool,
    /// Senders that hold it open.
    pub senders: u32,
    /// Receivers that hold it open.
    pub receivers: u32,
    /// Messages sent and not yet acknowledged, as far as members' counters tell.
    pub queued_messages: u64,
    /// Bytes that lie unclaimed in its lanes, headers and padding included.
    pub queued_bytes: u64,
    /// Messages sent since it was created, as far as members' counters tell.
    pub sent_messages: u64,
    /// Its dead letters.
    pub dead_letters: u64,
}

/// All about one mailbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MailboxDetail {
    /// As in a list.
    pub summary: MailboxSummary,
    /// Bytes that its regions may take in all, counted against quotas: none while it is not in use.
    pub reserved_bytes: u64,
    /// Descriptors that `ipcd` keeps for it and for its lanes, counted against quotas: none while it is not in use.
    pub descriptors: u64,
    /// Members keep the fence on the fast side, since one of them may not call the barrier.
    pub fences: bool,
    /// Messages that were dropped: a group was slow, or a receiver died with them.
    pub dropped_messages: u64,
    /// Messages that became dead letters, ever.
    pub dead_lettered_messages: u64,
    /// Its groups, if it has any.
    pub groups: Vec<GroupReport>,
    /// A page of its members: senders (also those gone whose lane still holds messages), then receivers.
    pub members: Vec<MemberInfo>,
    /// There are more: ask again with a larger `skip`.
    pub more: bool,
}

/// One group of receivers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupReport {
    /// Its name, and what it does to the senders when it is slow.
    pub group: Group,
    /// Receivers that hold it open.
    pub receivers: u32,
    /// Messages sent and not yet acknowledged by it, as far as members' counters tell.
    pub queued_messages: u64,
    /// Messages dropped because it was slow, or because a receiver died with them.
    pub dropped_messages: u64,
}

/// One member of a mailbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberInfo {
    /// `Send` or `Receive`.
    pub role: Role,
    /// Lane or receiver slot.
    pub index: u16,
    /// A lane's priority; 0 for a receiver.
    pub priority: u8,
    /// A receiver's group; `None` where there are no groups.
    pub group: Option<GroupName>,
    /// Who.
    pub identity: Identity,
    /// Still there; a sender that is gone may have left messages.
    pub alive: bool,
    /// Messages sent, or acknowledged, as far as its counter tells.
    pub messages: u64,
    /// Bytes that lie unclaimed in its lane; 0 for a receiver.
    pub queued_bytes: u64,
}

/// What one uid uses of a quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Mailboxes owned.
    pub mailboxes: u64,
    /// Lanes.
    pub lanes: u64,
    /// Sessions.
    pub sessions: u64,
    /// Links of these sessions, those that only look and those to deleted mailboxes among them.
    pub links: u64,
    /// Bytes reserved by mailboxes and lanes.
    pub bytes: u64,
    /// Dead letters of mailboxes owned.
    pub dead_letters: u64,
    /// Descriptors that `ipcd` keeps for all of these.
    pub descriptors: u64,
}

/// All about the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// `ipcd`'s version.
    pub version: String,
    /// Its process id, in its own namespace.
    pub pid: u32,
    /// The uid it runs as.
    pub uid: u32,
    /// Mailboxes there are.
    pub mailboxes: u64,
    /// Sessions there are.
    pub sessions: u64,
    /// Descriptors it has open.
    pub descriptors: u64,
    /// Descriptors it may have open.
    pub descriptors_max: u64,
    /// Bytes resident in the regions it owns.
    pub resident_bytes: u64,
    /// It may call `membarrier(GLOBAL_EXPEDITED)`.
    pub barrier: bool,
    /// Who the caller is.
    pub caller: Identity,
    /// What the caller's uid uses.
    pub usage: Usage,
    /// What the caller's uid may use.
    pub limits: Usage,
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_where_they_are_made_and_where_they_arrive() {
        for good in ["a", "orders", "/mq/x", "a.b:c@d_e-f"] {
            assert_eq!(MailboxName::new(good).unwrap().as_str(), good);
        }
        let longest = MailboxName::new(&"x".repeat(200)).unwrap();
        let dead = longest.of_dead_letters();
        assert_eq!(MailboxName::new(dead.as_str()), Ok(dead.clone()));
        assert_eq!(dead.whose_dead_letters(), Some(longest));
        let long = "x".repeat(201);
        for bad in ["", ".hidden", "-dash", "sp ace", "new\nline", "ü", &long] {
            assert!(MailboxName::new(bad).is_err(), "accepted {bad:?}");
            let bytes = postcard::to_stdvec(&bad.to_owned()).unwrap();
            assert!(postcard::from_bytes::<MailboxName>(&bytes).is_err(), "received {bad:?}");
        }
    }
}
