//! The errors, one type an operation, each with only what can happen there.
//!
//! Outcomes are variants for callers to match. Faults (the kernel said no, a region is malformed) are
//! opaque: they name the step that failed, and are only to be passed on.

use std::path::PathBuf;

use crate::lane::fate::Fate;
use crate::protocol::{Identity, Refusal};
use crate::ticket::Ticket;

/// Something that should not happen: the kernel refused a step, or the daemon broke the protocol.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}: {source}")]
pub struct Fault {
    step: &'static str,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl Fault {
    /// A fault at a step.
    pub(crate) fn new(
        step: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { step, source: source.into() }
    }
}

/// Why no daemon could be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens there.
    #[error("no ipcd listens at {}: start it (systemctl start ipcd.socket, or ipcd --socket PATH)", path.display())]
    NoDaemon {
        /// Where.
        path: PathBuf,
    },
    /// No system daemon, and nowhere to put a private one.
    #[error("no ipcd listens at {} and XDG_RUNTIME_DIR is not set, so no private one can be started: start ipcd, or set IPCD_SOCKET", path.display())]
    NoRuntimeDirectory {
        /// Where the system daemon would be.
        path: PathBuf,
    },
    /// A private daemon was to be started, and was not ready in time or could not be run.
    #[error("could not start a private ipcd ({}): {reason}", program.display())]
    PrivateDaemon {
        /// The program.
        program: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// The socket belongs to somebody whom this process has no reason to trust.
    #[error("the socket {} is served by uid {uid}, neither root nor this user: set IPCD_TRUSTED_UID={uid} if that is meant", path.display())]
    WrongOwner {
        /// Where.
        path: PathBuf,
        /// Who serves it.
        uid: u32,
    },
    /// The socket's own permissions keep this process out.
    #[error("this user may not connect to {}", path.display())]
    PermissionDenied {
        /// Where.
        path: PathBuf,
    },
    /// The kernel lacks something that we need.
    #[error("this kernel lacks {what}: Linux 5.16 or newer is needed")]
    Kernel {
        /// What.
        what: &'static str,
    },
    /// The daemon refused the session.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A fault.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Why a request to the daemon had no success.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The daemon said no, and why.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The daemon is away; links that are open go on.
    #[error("ipcd is away: links that are open go on, new requests need a new connection")]
    DaemonAway,
    /// This process is the child of a fork: connect for itself.
    #[error("this client belongs to the parent process: connect anew after a fork")]
    Forked,
    /// A fault.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Why a message was not sent without waiting. The message is still the caller's, but for
/// [`TrySendError::InHand`].
#[derive(Debug, thiserror::Error)]
pub enum TrySendError {
    /// No room: receivers must acknowledge first; where lanes grow, or a group loses its oldest messages, the daemon must
    /// help, and has not answered.
    #[error("the lane is full")]
    Full,
    /// Only in a rendezvous mailbox: no receiver took it at once.
    #[error("no receiver took the message")]
    NotTaken,
    /// Only in a rendezvous mailbox: a receiver has it and has not acknowledged it. The message is not the caller's
    /// any more; the ticket tells what becomes of it.
    #[error("a receiver has the message, and has not acknowledged it yet")]
    InHand(Ticket),
    /// Only in a rendezvous mailbox: a receiver rejected it, or it was handed out as often as that may be. It is among
    /// the mailbox's dead letters.
    #[error("the message is among the mailbox's dead letters")]
    DeadLettered,
    /// Only in a rendezvous mailbox: a receiver died with it, and the mailbox drops what a dead receiver had in hand.
    #[error("a receiver died with the message, and the mailbox drops it")]
    Dropped,
    /// Longer than any message may be here.
    #[error("the message has {len} bytes, this mailbox takes at most {max}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The mailbox is closed to new sends.
    #[error("the mailbox is closed to new sends")]
    Closed,
    /// The mailbox is gone.
    #[error("the mailbox was deleted")]
    Deleted,
    /// The mailbox is gone, with the process that owned it.
    #[error("the process that owned the mailbox is gone, and the mailbox with it")]
    OwnerGone,
    /// A receiver wrote what no receiver of ours writes.
    #[error("the mailbox is corrupt: {0}")]
    Corrupt(Corrupt),
    /// This process is the child of a fork: open the mailbox for itself.
    #[error("this sender belongs to the parent process: open the mailbox anew after a fork")]
    Forked,
    /// Only where that is asked for: nobody has the mailbox open to receive.
    #[error("nobody has the mailbox open to receive")]
    NoReceivers,
    /// Only where that is asked for: no receiver of the process that must receive has the mailbox open.
    #[error("the process that must receive has not got the mailbox open")]
    ReceiverGone,
    /// The daemon does not let the lane grow, or gives no further one: a quota, as a rule.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No room, and the daemon is away: the lane would have to grow, or the sender is to end with the daemon.
    #[error("the lane is full, and ipcd is away")]
    DaemonAway,
    /// The kernel has no memory for the message.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl TrySendError {
    /// The same where waiting could change nothing; `None` for [`Self::Full`].
    pub(crate) fn lasting(self) -> Option<SendError> {
        Some(match self {
            Self::Full | Self::NotTaken => return None,
            Self::InHand(ticket) => SendError::InHand(ticket),
            Self::DeadLettered => SendError::DeadLettered,
            Self::Dropped => SendError::Dropped,
            Self::TooLong { len, max } => SendError::TooLong { len, max },
            Self::Closed => SendError::Closed,
            Self::Deleted => SendError::Deleted,
            Self::OwnerGone => SendError::OwnerGone,
            Self::Corrupt(corrupt) => SendError::Corrupt(corrupt),
            Self::Forked => SendError::Forked,
            Self::NoReceivers => SendError::NoReceivers,
            Self::ReceiverGone => SendError::ReceiverGone,
            Self::Refused(refusal) => SendError::Refused(refusal),
            Self::DaemonAway => SendError::DaemonAway,
            Self::Fault(fault) => SendError::Fault(fault),
        })
    }
}

impl From<Fate> for SendError {
    fn from(fate: Fate) -> Self {
        match fate {
            Fate::DeadLettered => Self::DeadLettered,
            Fate::Dropped => Self::Dropped,
        }
    }
}

impl From<RequestError> for TrySendError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Refused(refusal) => Self::Refused(refusal),
            RequestError::DaemonAway => Self::DaemonAway,
            RequestError::Forked => Self::Forked,
            RequestError::Fault(fault) => Self::Fault(fault),
        }
    }
}

/// Why a message was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Only with a deadline: it passed, and there was no room (where lanes grow: no answer of the daemon), or, where a send
    /// waits for the acknowledgement, no receiver had taken it. Nobody has it.
    #[error(
        "the deadline passed before there was room for the message, or before a receiver took it"
    )]
    TimedOut,
    /// Only where a send waits for the acknowledgement: the deadline passed, or the mailbox, who must receive or the
    /// daemon is gone, and a receiver has the message, or died with it, and it is not acknowledged. It is not the
    /// caller's any more; the ticket tells what becomes of it.
    #[error("a receiver has the message, and has not acknowledged it yet")]
    InHand(Ticket),
    /// Only where a send waits for the acknowledgement: a receiver rejected it, or it was handed out as often as that may be. It is among
    /// the mailbox's dead letters.
    #[error("the message is among the mailbox's dead letters")]
    DeadLettered,
    /// Only where a send waits for the acknowledgement: a receiver died with it, and the mailbox drops what a dead receiver had in hand.
    #[error("a receiver died with the message, and the mailbox drops it")]
    Dropped,
    /// Longer than any message may be here.
    #[error("the message has {len} bytes, this mailbox takes at most {max}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The mailbox is closed to new sends.
    #[error("the mailbox is closed to new sends")]
    Closed,
    /// The mailbox is gone.
    #[error("the mailbox was deleted")]
    Deleted,
    /// The mailbox is gone, with the process that owned it.
    #[error("the process that owned the mailbox is gone, and the mailbox with it")]
    OwnerGone,
    /// A receiver wrote what no receiver of ours writes.
    #[error("the mailbox is corrupt: {0}")]
    Corrupt(Corrupt),
    /// This process is the child of a fork: open the mailbox for itself.
    #[error("this sender belongs to the parent process: open the mailbox anew after a fork")]
    Forked,
    /// Only where that is asked for: nobody has the mailbox open to receive.
    #[error("nobody has the mailbox open to receive")]
    NoReceivers,
    /// Only where that is asked for: no receiver of the process that must receive has the mailbox open.
    #[error("the process that must receive has not got the mailbox open")]
    ReceiverGone,
    /// The daemon does not let the lane grow, or gives no further one: a quota, as a rule.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The daemon is away, and there is no room: the lane would have to grow, or the sender is to end with the daemon;
    /// then also where a send waits for the acknowledgement, and no receiver has taken the message.
    #[error("ipcd is away, and there is no room for the message or no receiver has taken it")]
    DaemonAway,
    /// The kernel has no memory for the message.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Why a message was not sent to a process. The message is still the caller's.
#[derive(Debug, thiserror::Error)]
pub enum SendToError {
    /// There is no link to it, and none could be made: nobody has registered so, or it lets nobody send.
    #[error(transparent)]
    NoLink(#[from] RequestError),
    /// As for any sender.
    #[error(transparent)]
    Send(SendError),
}

/// Why a reserved message was not sent. Nothing of it was, but for [`CommitError::InHand`].
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Only in a rendezvous mailbox: it, who must receive or the daemon is gone, and a receiver has the message and has
    /// not acknowledged it.
    #[error("a receiver has the message, and has not acknowledged it yet")]
    InHand(Ticket),
    /// Only in a rendezvous mailbox: a receiver rejected it, or it was handed out as often as that may be. It is among
    /// the mailbox's dead letters.
    #[error("the message is among the mailbox's dead letters")]
    DeadLettered,
    /// Only in a rendezvous mailbox: a receiver died with it, and the mailbox drops what a dead receiver had in hand.
    #[error("a receiver died with the message, and the mailbox drops it")]
    Dropped,
    /// The mailbox was closed to new sends meanwhile.
    #[error("the mailbox is closed to new sends")]
    Closed,
    /// The mailbox is gone.
    #[error("the mailbox was deleted")]
    Deleted,
    /// The mailbox is gone, with the process that owned it.
    #[error("the process that owned the mailbox is gone, and the mailbox with it")]
    OwnerGone,
    /// Only where that is asked for: nobody has the mailbox open to receive.
    #[error("nobody has the mailbox open to receive")]
    NoReceivers,
    /// Only where that is asked for: no receiver of the process that must receive has the mailbox open.
    #[error("the process that must receive has not got the mailbox open")]
    ReceiverGone,
    /// Only in a rendezvous mailbox, and where the sender is to end with the daemon: it is away, and no receiver has
    /// taken the message.
    #[error("ipcd is away, and no receiver has taken the message")]
    DaemonAway,
    /// This process is the child of a fork: open the mailbox for itself.
    #[error("this sender belongs to the parent process: open the mailbox anew after a fork")]
    Forked,
}

/// Where and why a batch stopped: the first `sent` messages were sent, the others were not.
#[derive(Debug, thiserror::Error)]
#[error("{sent} messages were sent, the next was not: {why}")]
pub struct BatchStopped<E: std::error::Error + 'static> {
    /// Messages that were sent.
    pub sent: usize,
    /// Why the one behind them was not.
    #[source]
    pub why: E,
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Only with a deadline: it passed. Nobody has the request, and nobody will.
    #[error("the deadline passed and nobody had taken the request")]
    TimedOut,
    /// Only with a deadline: it passed, and a server has the request and has not answered yet.
    #[error("the deadline passed; a server has the request, and has not answered yet")]
    InHand(Ticket),
    /// No server is left. If one had the request in hand, the next that comes may get it.
    #[error("the server is gone, and there is no other")]
    ServerGone,
    /// Only where that is asked for: no receiver of the process that must receive has the mailbox open any more. If
    /// the request was in hand another server may get it.
    #[error("the process that must receive has not got the mailbox open")]
    ReceiverGone,
    /// Only where that is asked for: the daemon is away. A server that has the request in hand may still answer, but
    /// nobody waits for that.
    #[error("ipcd is away, and no answer has come")]
    DaemonAway,
    /// A server has acknowledged the request and answered nothing.
    #[error("the request was acknowledged without an answer")]
    NotAnswered,
    /// A server rejected the request, or it was handed out as often as that may be. It is among the mailbox's dead
    /// letters.
    #[error("the request is among the mailbox's dead letters")]
    DeadLettered,
    /// A server died with the request, and the mailbox drops what a dead receiver had in hand.
    #[error("a server died with the request, and the mailbox drops it")]
    Dropped,
    /// The mailbox is gone.
    #[error("the mailbox was deleted")]
    Deleted,
    /// The mailbox is gone, with the process that owned it.
    #[error("the process that owned the mailbox is gone, and the mailbox with it")]
    OwnerGone,
    /// The request was not sent.
    #[error(transparent)]
    NotSent(#[from] SendError),
    /// There is no way for answers, and none could be made.
    #[error(transparent)]
    NoWayBack(#[from] RequestError),
    /// A server wrote what no server of ours writes.
    #[error("the way for answers is corrupt: {0}")]
    Corrupt(Corrupt),
    /// This process is the child of a fork.
    #[error("this sender belongs to the parent process: open the mailbox anew after a fork")]
    Forked,
    /// A fault.
    #[error(transparent)]
    Fault(Fault),
}

/// Why an answer did not go.
#[derive(Debug, thiserror::Error)]
pub enum ReplyError {
    /// Nobody waits for an answer to this message.
    #[error("the message is no call")]
    NotACall,
    /// The caller is gone. The message was acknowledged.
    #[error("the caller is gone")]
    CallerGone,
    /// The caller has left so many answers unread that there is no room for this one.
    #[error("the caller reads no answers")]
    CallerBusy,
    /// There is no way to the caller yet: `ipcd` was asked for one, and has not answered. The message goes back to the mailbox;
    /// when it comes again there may be one.
    #[error("ipcd has not yet made the way to the caller")]
    TimedOut,
    /// Longer than an answer may be.
    #[error("the answer takes {len} bytes with its number, the caller takes at most {max}")]
    TooLong {
        /// Its length in bytes, with the 8 of the call's number.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// There is no way to the caller, and none could be made.
    #[error(transparent)]
    NoLink(RequestError),
    /// The caller wrote what no caller of ours writes.
    #[error("the way to the caller is corrupt: {0}")]
    Corrupt(Corrupt),
}

/// Why no message was received without waiting.
#[derive(Debug, thiserror::Error)]
pub enum TryReceiveError {
    /// Nothing there; in an exclusive mailbox also: others receive, or wait for their turn.
    #[error("the mailbox is empty")]
    Empty,
    /// Closed to new sends, and drained.
    #[error("the mailbox is closed and drained")]
    Closed,
    /// Only where asked for: senders have been there, none is now, and all they sent has been received.
    #[error("the last sender is gone and all is received")]
    NoSenders,
    /// Only from a named sender: it is gone, and all it sent has been received.
    #[error("the sender is gone and all it sent is received")]
    SenderGone,
    /// Only where asked for: nothing there, and the daemon is away.
    #[error("nothing is there, and ipcd is away")]
    DaemonAway,
    /// Only from a named sender: messages of so many others were given back, and nobody has taken them again, that
    /// there is no place for more. Receive those first, from anybody or from their senders.
    #[error("too many messages of other senders were given back and are to be received first")]
    HandsFull,
    /// The mailbox is gone.
    #[error("the mailbox was deleted")]
    Deleted,
    /// The mailbox is gone, with the process that owned it.
    #[error("the process that owned the mailbox is gone, and the mailbox with it")]
    OwnerGone,
    /// A member wrote what no member of ours writes; its lane is left out from now on.
    #[error("a lane is corrupt: {0}")]
    Corrupt(Corrupt),
    /// This process is the child of a fork: open the mailbox for itself.
    #[error("this receiver belongs to the parent process: open the mailbox anew after a fork")]
    Forked,
    /// A fault.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Why no message was received.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// Only with a deadline: it passed, and nothing came.
    #[error("the deadline passed and no message came")]
    TimedOut,
    /// Closed to new sends, and drained.
    #[error("the mailbox is closed and drained")]
    Closed,
    /// Only where asked for: senders have been there, none is now, and all they sent has been received.
    #[error("the last sender is gone and all is received")]
    NoSenders,
    /// Only from a named sender: it is gone, and all it sent has been received.
    #[error("the sender is gone and all it sent is received")]
    SenderGone,
    /// Only where asked for: nothing there, and the daemon is away.
    #[error("nothing is there, and ipcd is away")]
    DaemonAway,
    /// Only from a named sender: messages of so many others were given back, and nobody has taken them again, that
    /// there is no place for more. Receive those first, from anybody or from their senders.
    #[error("too many messages of other senders were given back and are to be received first")]
    HandsFull,
    /// The mailbox is gone.
    #[error("the mailbox was deleted")]
    Deleted,
    /// The mailbox is gone, with the process that owned it.
    #[error("the process that owned the mailbox is gone, and the mailbox with it")]
    OwnerGone,
    /// A member wrote what no member of ours writes; its lane is left out from now on.
    #[error("a lane is corrupt: {0}")]
    Corrupt(Corrupt),
    /// This process is the child of a fork: open the mailbox for itself.
    #[error("this receiver belongs to the parent process: open the mailbox anew after a fork")]
    Forked,
    /// A fault.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// What a member found in shared memory that no honest member writes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} of lane {lane}{}", peer.map_or(String::new(), |peer| format!(", sent by {peer}")))]
pub struct Corrupt {
    /// Which word, or which record.
    pub what: &'static str,
    /// The lane's slot.
    pub lane: u16,
    /// The lane's sender, where the sender is to blame.
    pub peer: Option<Identity>,
}
