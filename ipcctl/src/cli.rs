//! What can be typed. Help, man pages and completions all come from these definitions.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use libipc::{
    Buffering, DirectAddress, Group, GroupName, MailboxName, OnDeath, Order, Owner, Receivers,
};

use crate::exit_code::ExitCode;
use crate::parse;

/// Administer and try out mailboxes
///
/// Mailboxes carry messages between processes, of one or of several users. They belong to the daemon
/// ipcd, which decides who may send and who may receive.
#[derive(Debug, Parser)]
#[command(name = "ipcctl", version, after_help = exit_codes(), propagate_version = true)]
pub(crate) struct Cli {
    /// What every command understands.
    #[command(flatten)]
    pub(crate) common: Common,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command understands.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Print the result as JSON, one object a line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// The daemon's socket [default: $IPCD_SOCKET, else the system daemon's, else a private daemon's]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Print results and errors only, not what was done
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a mailbox
    Create(Create),
    /// Let traffic into a closed mailbox again
    Open(Named),
    /// Shut a mailbox to new sends and let it drain
    Close(Named),
    /// Delete a mailbox and what is queued in it
    Delete(Delete),
    /// List the mailboxes that you may see
    List,
    /// Show a mailbox's attributes, counts and members
    Show(Named),
    /// Send messages to a mailbox
    Send(Send),
    /// Send a request to a mailbox, and print the reply
    Call(Call),
    /// Receive messages from a mailbox, and acknowledge them
    Receive(Receive),
    /// Look at the next messages of a mailbox without taking them
    Peek(Peek),
    /// Receive and throw away all that is queued in a mailbox now
    Purge(Purge),
    /// List, inspect, put back or throw away the dead letters of a mailbox
    #[command(subcommand)]
    Dead(Dead),
    /// Measure mailboxes and the kernel's own message passing on this machine
    Bench(Bench),
    /// The daemon itself
    #[command(subcommand)]
    Daemon(Daemon),
    /// Tell what is wrong on this machine, and what to do about it
    Doctor,
    /// Write man pages or shell completions
    #[command(hide = true)]
    Generate(Generate),
    /// One end of a measurement; bench starts these itself
    #[command(hide = true)]
    BenchPeer(BenchPeer),
}

/// `daemon`
#[derive(Debug, Subcommand)]
pub(crate) enum Daemon {
    /// Start the daemon anew, from the program that is installed now: mailboxes, messages and sessions stay, traffic goes on
    Upgrade,
}

/// A command about one mailbox.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The mailbox
    #[arg(value_parser = parse::mailbox_name)]
    pub(crate) name: MailboxName,
}

/// `create`
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// The mailbox
    #[arg(value_parser = parse::mailbox_name)]
    pub(crate) name: MailboxName,
    /// Room of each sender's lane, 4KiB to 1GiB, rounded up to a power of two [default: 256KiB]
    #[arg(long, value_name = "SIZE", value_parser = parse::size)]
    pub(crate) capacity: Option<u64>,
    /// Who may, in octal: read = receive, write = send, for owner, group and others [default: 0600]
    #[arg(long, value_name = "MODE", value_parser = parse::mode)]
    pub(crate) mode: Option<u16>,
    /// Whose it is: USER or UID, with :GROUP or :GID [default: you]
    #[arg(long, value_name = "OWNER", value_parser = parse::owner)]
    pub(crate) owner: Option<parse::Owner>,
    /// Receivers that may have it open at a time, 1 to 512 [default: 64]
    #[arg(long, value_name = "N")]
    pub(crate) max_receivers: Option<u16>,
    /// Senders that may have it open at a time, 1 to 32000 [default: 1024]
    #[arg(long, value_name = "N")]
    pub(crate) max_lanes: Option<u16>,
    /// Where a sender is ahead: it waits for room, waits for each message to be received, or never waits
    #[arg(long, value_name = "HOW", default_value = "bounded", value_parser = parse::word(Buffering::ALL, Buffering::as_str))]
    pub(crate) buffering: Buffering,
    /// Who gets a message: any receiver, the one whose turn it is, or the one receiver of a link of two
    #[arg(long, value_name = "WHO", default_value = "any", value_parser = parse::word(Receivers::ALL, Receivers::as_str))]
    pub(crate) receivers: Receivers,
    /// In which order messages are received: each sender's own, or also across senders
    #[arg(long, value_name = "ORDER", default_value = "sender", value_parser = parse::word(Order::ALL, Order::as_str))]
    pub(crate) order: Order,
    /// What becomes of what a receiver had in hand when it died: others get it, it is dropped, or a dead letter
    #[arg(long, value_name = "WHAT", default_value = "redeliver", value_parser = parse::word(OnDeath::ALL, OnDeath::as_str))]
    pub(crate) on_death: OnDeath,
    /// How often a message is handed out before it is a dead letter; 0: as often as need be [default: 16]
    #[arg(long, value_name = "N")]
    pub(crate) max_attempts: Option<u32>,
    /// How long it lives; "process" is for programs, which create their own
    #[arg(long, value_name = "OWNER", default_value = "system", value_parser = parse::lifetime)]
    pub(crate) lifetime: Owner,
    /// A group of receivers, which gets every message, and what it does when it is slow: hold senders back
    /// (NAME or NAME:block) or lose its oldest (NAME:drop-oldest); may be given several times
    #[arg(long = "group", value_name = "NAME[:SLOW]", value_parser = parse::group)]
    pub(crate) groups: Vec<Group>,
}

/// `delete`
#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// The mailbox
    #[arg(value_parser = parse::mailbox_name)]
    pub(crate) name: MailboxName,
    /// Let what is queued be received first; nothing new comes in meanwhile
    #[arg(long)]
    pub(crate) drain: bool,
}

/// `send`
#[derive(Debug, Args)]
pub(crate) struct Send {
    /// The mailbox; not with --to
    #[arg(required_unless_present = "to")]
    pub(crate) name: Option<OsString>,
    /// The message; without it, all of stdin is the message
    #[arg(conflicts_with_all = ["lines", "file"])]
    pub(crate) text: Option<OsString>,
    /// Send to the process that has registered by this name, or has this process id, and to no mailbox
    #[arg(long, value_name = "PROCESS", value_parser = parse::process)]
    pub(crate) to: Option<DirectAddress>,
    /// Each line is a message, without its newline
    #[arg(long)]
    pub(crate) lines: bool,
    /// Read this file in place of stdin
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// With this priority: 0, the lowest, to 31, which is received first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=31), conflicts_with = "to")]
    pub(crate) priority: Option<u8>,
    /// Wait until each message has been received and acknowledged; once --timeout has passed take it back
    #[arg(long, conflicts_with_all = ["to", "tracked"])]
    pub(crate) sync: bool,
    /// Print what becomes of each message, until that is settled; once --timeout has passed look no longer
    #[arg(long, conflicts_with = "to")]
    pub(crate) tracked: bool,
    /// Wait at most so long for each message, as in 500ms or 2s [default: as long as it takes]
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    pub(crate) timeout: Option<Duration>,
}

/// `call`
#[derive(Debug, Args)]
pub(crate) struct Call {
    /// The mailbox
    #[arg(value_parser = parse::mailbox_name)]
    pub(crate) name: MailboxName,
    /// The request; without it, all of stdin is the request
    pub(crate) text: Option<OsString>,
    /// Wait at most so long for the reply, as in 500ms or 2s [default: as long as it takes]
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    pub(crate) timeout: Option<Duration>,
}

/// `receive`
#[derive(Debug, Args)]
pub(crate) struct Receive {
    /// The mailbox
    #[arg(value_parser = parse::mailbox_name)]
    pub(crate) name: MailboxName,
    /// As a member of this group of the mailbox
    #[arg(long, value_name = "NAME", value_parser = parse::mailbox_name)]
    pub(crate) group: Option<GroupName>,
    /// Only what this process sends: the name it has registered, or its process id
    #[arg(long, value_name = "PROCESS", value_parser = parse::process)]
    pub(crate) from: Option<DirectAddress>,
    /// Reply with this text to what is a call
    #[arg(long, value_name = "TEXT")]
    pub(crate) reply: Option<OsString>,
    /// Reject each message in place of acknowledging it: it becomes a dead letter
    #[arg(long, conflicts_with = "reply")]
    pub(crate) reject: bool,
    /// Receive so many messages
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "follow")]
    pub(crate) count: u64,
    /// Receive until interrupted, or until there will be nothing more: closed and drained, or the sender gone
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Wait at most so long for each message, as in 500ms or 2s [default: as long as it takes]
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    pub(crate) timeout: Option<Duration>,
    /// Print messages as they are, without a newline behind each
    #[arg(long, conflicts_with = "json")]
    pub(crate) raw: bool,
}

/// `peek`
#[derive(Debug, Args)]
pub(crate) struct Peek {
    /// The mailbox
    #[arg(value_parser = parse::mailbox_name)]
    pub(crate) name: MailboxName,
    /// What waits for this group of the mailbox [default: the first, where there are groups]
    #[arg(long, value_name = "NAME", value_parser = parse::mailbox_name)]
    pub(crate) group: Option<GroupName>,
    /// Look at so many messages
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(crate) count: usize,
}

/// `purge`
#[derive(Debug, Args)]
pub(crate) struct Purge {
    /// The mailbox
    #[arg(value_parser = parse::mailbox_name)]
    pub(crate) name: MailboxName,
    /// What is queued for this group of the mailbox
    #[arg(long, value_name = "NAME", value_parser = parse::mailbox_name)]
    pub(crate) group: Option<GroupName>,
}

/// `dead`
#[derive(Debug, Subcommand)]
pub(crate) enum Dead {
    /// List the dead letters: why each is one, how often it was handed out, who sent it
    List(Named),
    /// Print a dead letter as it is
    Show(Letter),
    /// Put dead letters back into the mailbox, as if they had just been sent
    Requeue(Letters),
    /// Throw dead letters away
    Discard(Letters),
}

/// `dead show`
#[derive(Debug, Args)]
pub(crate) struct Letter {
    /// The mailbox
    #[arg(value_parser = parse::mailbox_name)]
    pub(crate) name: MailboxName,
    /// The dead letter's number, as dead list tells it
    pub(crate) number: u64,
    /// Print it without a newline behind
    #[arg(long, conflicts_with = "json")]
    pub(crate) raw: bool,
}

/// `dead requeue`, `dead discard`
#[derive(Debug, Args)]
pub(crate) struct Letters {
    /// The mailbox
    #[arg(value_parser = parse::mailbox_name)]
    pub(crate) name: MailboxName,
    /// The dead letters' numbers, as dead list tells them
    #[arg(required_unless_present = "all")]
    pub(crate) numbers: Vec<u64>,
    /// All of them
    #[arg(long, conflicts_with = "numbers")]
    pub(crate) all: bool,
}

/// `bench`
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Measure each load and system so often; medians are printed
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) runs: u32,
    /// Measure each load and system for so long in a run
    #[arg(long, value_name = "TIME", default_value = "300ms", value_parser = parse::duration)]
    pub(crate) duration: Duration,
    /// One short run
    #[arg(long, conflicts_with_all = ["runs", "duration"])]
    pub(crate) quick: bool,
    /// Pin both processes on one core
    #[arg(long)]
    pub(crate) same_core: bool,
    /// Pin the processes on these two cores [default: the first two allowed]
    #[arg(long, value_name = "A,B", value_parser = parse::cores)]
    pub(crate) cores: Option<(usize, usize)>,
    /// Measure only loads whose name contains this
    #[arg(long, value_name = "TEXT")]
    pub(crate) only: Option<String>,
    /// Draw the results into this file, as SVG
    #[arg(long, value_name = "FILE")]
    pub(crate) figure: Option<PathBuf>,
}

/// `bench-peer`
#[derive(Debug, Args)]
pub(crate) struct BenchPeer {
    /// The job, as JSON
    pub(crate) job: String,
}

/// `generate`
#[derive(Debug, Args)]
pub(crate) struct Generate {
    /// What to write.
    #[command(subcommand)]
    pub(crate) what: GenerateWhat,
}

/// What `generate` writes.
#[derive(Debug, Subcommand)]
pub(crate) enum GenerateWhat {
    /// Man pages, one a command
    Man {
        /// The folder to write them to
        directory: PathBuf,
    },
    /// Completions for a shell
    Completions {
        /// The shell
        shell: Shell,
        /// The folder to write them to
        directory: PathBuf,
    },
}

/// The exit codes, as the help shows them.
pub(crate) fn exit_codes() -> String {
    let mut text = String::from("Exit codes:");
    for code in ExitCode::ALL {
        text.push_str(&format!("\n  {}  {}", code.number(), code.meaning()));
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn commands_parse_as_people_type_them() {
        for line in [
            "ipcctl create orders --capacity 1MiB --mode 0622",
            "ipcctl create orders --owner root:0 --max-receivers 1 --max-lanes 5",
            "ipcctl create orders --buffering unbounded --order arrival --lifetime system",
            "ipcctl create orders --receivers exclusive --buffering rendezvous",
            "ipcctl create prices --group audit --group screen:drop-oldest",
            "ipcctl receive prices --group audit --from 4711",
            "ipcctl peek prices --group audit",
            "ipcctl purge prices --group audit",
            "ipcctl create orders --on-death dead-letter --max-attempts 3",
            "ipcctl receive orders --reject",
            "ipcctl dead list orders --json",
            "ipcctl dead show orders 7 --raw",
            "ipcctl dead requeue orders 1 2 3",
            "ipcctl dead discard orders --all",
            "ipcctl delete orders --drain",
            "ipcctl send orders text",
            "ipcctl send orders text --priority 31",
            "ipcctl send orders text --sync --timeout 1s",
            "ipcctl send orders text --tracked --priority 3",
            "ipcctl send --to printer text --timeout 1s",
            "ipcctl send --to 4711 --lines",
            "ipcctl send orders --lines",
            "ipcctl send orders --lines --file x --timeout 1s",
            "ipcctl receive orders --count 3 --timeout 2s",
            "ipcctl receive orders --follow --json",
            "ipcctl list --json",
            "ipcctl --json --socket /tmp/s list",
            "ipcctl delete orders --quiet",
            "ipcctl bench --quick --same-core --figure bench.svg",
            "ipcctl daemon upgrade --json",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "ipcctl",
            "ipcctl send",
            "ipcctl create .hidden",
            "ipcctl create orders --mode 0888",
            "ipcctl create orders --buffering lazy",
            "ipcctl create orders --lifetime process",
            "ipcctl create orders --group audit:sometimes",
            "ipcctl send orders text --lines",
            "ipcctl send orders text --priority 32",
            "ipcctl send --to printer text --priority 1",
            "ipcctl send --to printer text --sync",
            "ipcctl send orders text --sync --tracked",
            "ipcctl receive orders --follow --count 3",
            "ipcctl receive orders --raw --json",
            "ipcctl receive orders --reject --reply no",
            "ipcctl create orders --on-death never",
            "ipcctl dead",
            "ipcctl dead requeue orders",
            "ipcctl dead discard orders 1 --all",
            "ipcctl bench --quick --runs 3",
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.use_stderr(), "{line}");
        }
    }
}
