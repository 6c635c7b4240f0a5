//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// Our mailboxes and their rivals, side by side
///
/// Writes a Markdown report, a figure for each load and all samples as JSON into a folder. scripts/bench builds what
/// this needs and calls it.
#[derive(Debug, Parser)]
#[command(name = "bench", args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    /// What to do, if not to compare all rivals.
    #[command(subcommand)]
    pub(crate) command: Option<Verb>,
    /// How to compare.
    #[command(flatten)]
    pub(crate) contest: Contest,
}

/// What else can be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Two builds of ours, in turns
    Compare(Compare),
    /// What costs as it grows: lanes, mailboxes, sessions, receivers, capacity
    Scale(Scale),
    /// One end of a measurement; started by this program itself
    #[command(name = measure::peer::PEER_COMMAND, hide = true)]
    Peer {
        /// The job, as JSON
        job: String,
    },
    /// The daemon; started by this program itself
    #[command(name = crate::daemon::DAEMON_COMMAND, hide = true)]
    Daemon {
        /// The program and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<std::ffi::OsString>,
    },
    /// A process with sessions, mailboxes or handles of a scaling load; started by this program itself
    #[command(name = crate::scale::HAND_COMMAND, hide = true)]
    Hand {
        /// The task, as JSON
        task: String,
    },
}

/// How to measure.
#[derive(Clone, Debug, Args)]
pub(crate) struct Effort {
    /// Measure each load and system so often
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) runs: u32,
    /// Measure each load and system for so long in a run, such as 300ms or 1s
    #[arg(long, value_name = "TIME", default_value = "300ms", value_parser = duration)]
    pub(crate) duration: Duration,
    /// One run of 100 ms
    #[arg(long, conflicts_with_all = ["runs", "duration"])]
    pub(crate) quick: bool,
    /// Measure only loads whose name contains this
    #[arg(long, value_name = "TEXT")]
    pub(crate) only: Option<String>,
    /// The folder to write to
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    pub(crate) out: PathBuf,
    /// The daemon's program
    #[arg(long, value_name = "PROGRAM", default_value = "target/release/ipcd")]
    pub(crate) ipcd: PathBuf,
}

impl Effort {
    /// Runs, and the length of each measurement.
    pub(crate) fn amount(&self) -> (u32, Duration) {
        if self.quick { (1, Duration::from_millis(100)) } else { (self.runs, self.duration) }
    }
}

/// All rivals.
#[derive(Debug, Args)]
pub(crate) struct Contest {
    /// How to measure.
    #[command(flatten)]
    pub(crate) effort: Effort,
    /// Only these systems, by their keys
    #[arg(long, value_name = "KEY,...", value_delimiter = ',')]
    pub(crate) systems: Vec<String>,
    /// Tell the keys of all systems, and the names of all loads
    #[arg(long)]
    pub(crate) list: bool,
}

/// `compare`
#[derive(Debug, Args)]
pub(crate) struct Compare {
    /// How to measure.
    #[command(flatten)]
    pub(crate) effort: Effort,
    /// What the other build is called
    #[arg(long, value_name = "REV")]
    pub(crate) other: String,
    /// The other build of this program
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) other_bench: PathBuf,
    /// The other build's daemon
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) other_ipcd: PathBuf,
}

/// `scale`
#[derive(Debug, Args)]
pub(crate) struct Scale {
    /// How to measure.
    #[command(flatten)]
    pub(crate) effort: Effort,
}

fn duration(text: &str) -> Result<Duration, String> {
    let (number, scale) = match text.strip_suffix("ms") {
        Some(number) => (number, 1e-3),
        None => (text.strip_suffix('s').ok_or("say ms or s behind the number")?, 1.0),
    };
    let seconds = number.parse::<f64>().map_err(|error| error.to_string())? * scale;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}
