//! How a command ends: the exit codes, and the failures that lead to them.

use std::io;
use std::process;

use libipc::protocol::Refusal;
use libipc::{CallError, ReplyError};
use libipc::{ConnectError, ReceiveError, RequestError, SendError, SendToError, TryReceiveError};

/// The exit codes. Scripts depend on them: a number never changes its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ExitCode {
    /// Everything asked for was done.
    Done = 0,
    /// It failed, for a reason that no other code names.
    Failed = 1,
    /// What was typed is no valid command.
    Usage = 2,
    /// No daemon could be reached.
    NoDaemon = 3,
    /// The caller may not do that.
    PermissionDenied = 4,
    /// The time allowed passed first.
    TimedOut = 5,
    /// There is no mailbox of that name (any more).
    NoSuchMailbox = 6,
    /// Nobody is there to send, to receive or to answer.
    NobodyThere = 7,
    /// A receiver has the message, and has not said that its work is done.
    InHand = 8,
    /// No receiver could deal with the message: it is a dead letter, or dropped with a receiver that died.
    Undeliverable = 9,
}

impl ExitCode {
    /// Every code, in order.
    pub(crate) const ALL: [Self; 10] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::NoDaemon,
        Self::PermissionDenied,
        Self::TimedOut,
        Self::NoSuchMailbox,
        Self::NobodyThere,
        Self::InHand,
        Self::Undeliverable,
    ];

    /// The number that the shell sees.
    pub(crate) fn number(self) -> u8 {
        self as u8
    }

    /// What it means, for the help and the man page.
    pub(crate) fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Usage => "wrong usage",
            Self::NoDaemon => "no daemon could be reached",
            Self::PermissionDenied => "permission denied",
            Self::TimedOut => "timed out",
            Self::NoSuchMailbox => "no such mailbox",
            Self::NobodyThere => "nobody is there to send, to receive or to answer",
            Self::InHand => "a receiver has the message and has not acknowledged it",
            Self::Undeliverable => "no receiver could deal with the message",
        }
    }
}

impl From<ExitCode> for process::ExitCode {
    fn from(code: ExitCode) -> Self {
        code.number().into()
    }
}

/// What a command comes to: how it ended, or why it stopped early.
pub(crate) type Outcome = Result<ExitCode, Stop>;

/// Why a command stopped early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Whoever read our stdout has gone: nothing is left to do, and nothing is wrong.
    ReaderGone,
    /// It failed.
    Failed(Box<Failure>),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(Box::new(failure))
    }
}

/// What to do where a process's mailbox has gone with it.
const OWNER_GONE: &str = "start the program that owns it again";
/// What to do where a process that must receive does not.
const RECEIVER_GONE: &str = "look who receives (ipcctl show NAME)";
/// What to do with a dead letter.
const DEAD_LETTERED: &str = "see why (ipcctl dead list NAME), mend the receiver, and put it back";
/// What to do where a message went with a receiver.
const DROPPED: &str = "send it again, or create the mailbox with --on-death redeliver";
/// What to do where the daemon is away.
const DAEMON_AWAY: &str = "start ipcd again, or wait for its restart, and repeat the command";

/// A failure as a person reads it: `ipcctl: what: why`, and a hint where there is one.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What was being done.
    pub(crate) what: String,
    /// Why it did not succeed.
    pub(crate) why: String,
    /// What to do about it.
    pub(crate) hint: Option<String>,
    /// The exit code that it leads to.
    pub(crate) code: ExitCode,
}

impl Failure {
    /// A failure without a hint.
    pub(crate) fn new(code: ExitCode, what: impl Into<String>, why: impl ToString) -> Self {
        Self { what: what.into(), why: why.to_string(), hint: None, code }
    }

    /// Adds what a person can do about it.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A system call or file that failed.
    pub(crate) fn io(what: impl Into<String>, error: &io::Error) -> Self {
        let code = match error.kind() {
            io::ErrorKind::PermissionDenied => ExitCode::PermissionDenied,
            _ => ExitCode::Failed,
        };
        Self::new(code, what, error)
    }

    /// The daemon said no.
    pub(crate) fn refused(what: impl Into<String>, refusal: &Refusal) -> Self {
        let code = match refusal {
            Refusal::NoSuchMailbox { .. } | Refusal::Deleted { .. } => ExitCode::NoSuchMailbox,
            Refusal::PermissionDenied { .. }
            | Refusal::NotTheOwner { .. }
            | Refusal::NotAdministrator { .. } => ExitCode::PermissionDenied,
            Refusal::InvalidName { .. }
            | Refusal::InvalidAttribute { .. }
            | Refusal::Incompatible { .. }
            | Refusal::NoSuchGroup { .. } => ExitCode::Usage,
            Refusal::NoSuchProcess { .. } | Refusal::CallerGone => ExitCode::NobodyThere,
            _ => ExitCode::Failed,
        };
        Self::new(code, what, refusal).hint(refusal.advice())
    }

    /// No daemon was reached.
    pub(crate) fn connect(error: &ConnectError) -> Self {
        let what = "cannot reach ipcd";
        let code = match error {
            ConnectError::Refused(refusal) => return Self::refused(what, refusal),
            ConnectError::NoDaemon { .. }
            | ConnectError::NoRuntimeDirectory { .. }
            | ConnectError::PrivateDaemon { .. }
            | ConnectError::WrongOwner { .. } => ExitCode::NoDaemon,
            ConnectError::PermissionDenied { .. } => ExitCode::PermissionDenied,
            _ => ExitCode::Failed,
        };
        Self::new(code, what, error).hint("ipcctl doctor tells what is wrong and what to do")
    }

    /// A request to the daemon had no success.
    pub(crate) fn request(what: impl Into<String>, error: &RequestError) -> Self {
        match error {
            RequestError::Refused(refusal) => Self::refused(what, refusal),
            RequestError::DaemonAway => {
                Self::new(ExitCode::NoDaemon, what, error).hint(DAEMON_AWAY)
            }
            _ => Self::new(ExitCode::Failed, what, error),
        }
    }

    /// A message was not sent.
    pub(crate) fn send(what: impl Into<String>, error: &SendError) -> Self {
        let (code, hint) = match error {
            SendError::TimedOut => {
                (ExitCode::TimedOut, "receivers must take messages first, or allow more --timeout")
            }
            SendError::TooLong { .. } => {
                (ExitCode::Failed, "create the mailbox with a larger --capacity")
            }
            SendError::Closed => {
                (ExitCode::Failed, "its owner can let traffic in again (ipcctl open NAME)")
            }
            SendError::Deleted => (ExitCode::NoSuchMailbox, "create it again (ipcctl create NAME)"),
            SendError::OwnerGone => (ExitCode::NoSuchMailbox, OWNER_GONE),
            SendError::NoReceivers => {
                (ExitCode::NobodyThere, "start a receiver first (ipcctl receive NAME)")
            }
            SendError::ReceiverGone => (ExitCode::NobodyThere, RECEIVER_GONE),
            SendError::DaemonAway => (ExitCode::NoDaemon, DAEMON_AWAY),
            SendError::InHand(_) => {
                (ExitCode::InHand, "the receiver may still finish: do not send it again unseen")
            }
            SendError::DeadLettered => (ExitCode::Undeliverable, DEAD_LETTERED),
            SendError::Dropped => (ExitCode::Undeliverable, DROPPED),
            SendError::Refused(refusal) => return Self::refused(what, refusal),
            _ => return Self::new(ExitCode::Failed, what, error),
        };
        Self::new(code, what, error).hint(hint)
    }

    /// A call has no reply.
    pub(crate) fn call(what: impl Into<String>, error: &CallError) -> Self {
        let (code, hint) = match error {
            CallError::NotSent(error) => return Self::send(what, error),
            CallError::NoWayBack(error) => return Self::request(what, error),
            CallError::TimedOut => {
                (ExitCode::TimedOut, "start a server first, or allow more --timeout")
            }
            CallError::InHand(_) => {
                (ExitCode::InHand, "the server may still do it: do not call again unseen")
            }
            CallError::ServerGone => {
                (ExitCode::NobodyThere, "start a server first (ipcctl receive NAME --reply TEXT)")
            }
            CallError::DeadLettered => (ExitCode::Undeliverable, DEAD_LETTERED),
            CallError::Dropped => (ExitCode::Undeliverable, DROPPED),
            CallError::ReceiverGone => (ExitCode::NobodyThere, RECEIVER_GONE),
            CallError::DaemonAway => (ExitCode::NoDaemon, DAEMON_AWAY),
            CallError::Deleted => (ExitCode::NoSuchMailbox, "create it again (ipcctl create NAME)"),
            CallError::OwnerGone => (ExitCode::NoSuchMailbox, OWNER_GONE),
            _ => return Self::new(ExitCode::Failed, what, error),
        };
        Self::new(code, what, error).hint(hint)
    }

    /// A reply did not go.
    pub(crate) fn reply(what: impl Into<String>, error: &ReplyError) -> Self {
        match error {
            ReplyError::NoLink(error) => Self::request(what, error),
            ReplyError::CallerGone => Self::new(ExitCode::NobodyThere, what, error),
            _ => Self::new(ExitCode::Failed, what, error),
        }
    }

    /// A message was not sent to a process.
    pub(crate) fn send_to(what: impl Into<String>, error: &SendToError) -> Self {
        match error {
            SendToError::NoLink(error) => Self::request(what, error),
            SendToError::Send(error) => Self::send(what, error),
        }
    }

    /// No message was received.
    pub(crate) fn receive(what: impl Into<String>, error: &ReceiveError) -> Self {
        let (code, hint) = match error {
            ReceiveError::TimedOut => {
                (ExitCode::TimedOut, "allow more --timeout, or look who sends (ipcctl show NAME)")
            }
            ReceiveError::Closed => {
                (ExitCode::Failed, "its owner can let traffic in again (ipcctl open NAME)")
            }
            ReceiveError::Deleted => {
                (ExitCode::NoSuchMailbox, "create it again (ipcctl create NAME)")
            }
            ReceiveError::SenderGone | ReceiveError::NoSenders => {
                (ExitCode::NobodyThere, "look who sends (ipcctl show NAME)")
            }
            ReceiveError::DaemonAway => (ExitCode::NoDaemon, DAEMON_AWAY),
            ReceiveError::OwnerGone => (ExitCode::NoSuchMailbox, OWNER_GONE),
            _ => return Self::new(ExitCode::Failed, what, error),
        };
        Self::new(code, what, error).hint(hint)
    }

    /// No message was received or seen without waiting.
    pub(crate) fn try_receive(what: impl Into<String>, error: &TryReceiveError) -> Self {
        match error {
            TryReceiveError::Deleted => Self::new(ExitCode::NoSuchMailbox, what, error)
                .hint("create it again (ipcctl create NAME)"),
            TryReceiveError::DaemonAway => {
                Self::new(ExitCode::NoDaemon, what, error).hint(DAEMON_AWAY)
            }
            TryReceiveError::OwnerGone => {
                Self::new(ExitCode::NoSuchMailbox, what, error).hint(OWNER_GONE)
            }
            _ => Self::new(ExitCode::Failed, what, error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_documented_numbers() {
        let numbers: Vec<u8> = ExitCode::ALL.iter().map(|code| code.number()).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(ExitCode::NoDaemon.number(), 3);
        assert_eq!(ExitCode::PermissionDenied.number(), 4);
        assert_eq!(ExitCode::TimedOut.number(), 5);
        assert_eq!(ExitCode::NoSuchMailbox.number(), 6);
        assert_eq!(ExitCode::NobodyThere.number(), 7);
        assert_eq!(ExitCode::InHand.number(), 8);
        assert_eq!(ExitCode::Undeliverable.number(), 9);
    }

    #[test]
    fn refusals_lead_to_their_codes_and_bring_advice() {
        let missing = Refusal::NoSuchMailbox { name: "orders".into() };
        let failure = Failure::refused("cannot send to orders", &missing);
        assert_eq!(failure.code, ExitCode::NoSuchMailbox);
        assert!(failure.hint.is_some_and(|hint| hint.contains("ipcctl create")));

        let denied = Refusal::PermissionDenied {
            name: "orders".into(),
            wanted: "send".into(),
            uid: 1,
            owner_uid: 0,
            owner_gid: 0,
            mode: 0o600,
        };
        assert_eq!(Failure::refused("x", &denied).code, ExitCode::PermissionDenied);
        let owned = Refusal::NotTheOwner { name: "orders".into(), owner_pid: 7 };
        assert_eq!(Failure::refused("x", &owned).code, ExitCode::PermissionDenied);
        let (one, other) = ("this".into(), "that".into());
        let incompatible = Refusal::Incompatible { one, other, why: "it is so".into() };
        assert_eq!(Failure::refused("x", &incompatible).code, ExitCode::Usage);
        let nobody = Refusal::NoSuchProcess { address: "pid 7".into() };
        assert_eq!(Failure::refused("x", &nobody).code, ExitCode::NobodyThere);
        let closed = Refusal::Closed { name: "orders".into() };
        assert_eq!(Failure::refused("x", &closed).code, ExitCode::Failed);
    }

    #[test]
    fn errors_of_each_operation_lead_to_their_codes() {
        let path = std::path::PathBuf::from("/nowhere");
        let none = ConnectError::NoDaemon { path: path.clone() };
        assert_eq!(Failure::connect(&none).code, ExitCode::NoDaemon);
        let denied = ConnectError::PermissionDenied { path };
        assert_eq!(Failure::connect(&denied).code, ExitCode::PermissionDenied);
        assert_eq!(Failure::request("x", &RequestError::DaemonAway).code, ExitCode::NoDaemon);
        assert_eq!(Failure::send("x", &SendError::TimedOut).code, ExitCode::TimedOut);
        assert_eq!(Failure::send("x", &SendError::Deleted).code, ExitCode::NoSuchMailbox);
        assert_eq!(Failure::send("x", &SendError::OwnerGone).code, ExitCode::NoSuchMailbox);
        assert_eq!(Failure::send("x", &SendError::NoReceivers).code, ExitCode::NobodyThere);
        assert_eq!(Failure::send("x", &SendError::ReceiverGone).code, ExitCode::NobodyThere);
        assert_eq!(Failure::send("x", &SendError::DaemonAway).code, ExitCode::NoDaemon);
        assert_eq!(Failure::call("x", &CallError::ReceiverGone).code, ExitCode::NobodyThere);
        assert_eq!(Failure::call("x", &CallError::DaemonAway).code, ExitCode::NoDaemon);
        assert_eq!(Failure::receive("x", &ReceiveError::DaemonAway).code, ExitCode::NoDaemon);
        assert_eq!(Failure::send("x", &SendError::Dropped).code, ExitCode::Undeliverable);
        assert_eq!(Failure::call("x", &CallError::DeadLettered).code, ExitCode::Undeliverable);
        assert_eq!(Failure::call("x", &CallError::TimedOut).code, ExitCode::TimedOut);
        assert_eq!(Failure::call("x", &CallError::ServerGone).code, ExitCode::NobodyThere);
        assert_eq!(Failure::reply("x", &ReplyError::CallerGone).code, ExitCode::NobodyThere);
        assert_eq!(Failure::receive("x", &ReceiveError::SenderGone).code, ExitCode::NobodyThere);
        assert_eq!(Failure::receive("x", &ReceiveError::OwnerGone).code, ExitCode::NoSuchMailbox);
        assert_eq!(Failure::receive("x", &ReceiveError::TimedOut).code, ExitCode::TimedOut);
        assert_eq!(Failure::receive("x", &ReceiveError::Closed).code, ExitCode::Failed);
        assert_eq!(
            Failure::try_receive("x", &TryReceiveError::Deleted).code,
            ExitCode::NoSuchMailbox
        );
    }
}
