//! One place of one scaling load, measured in a process of its own that has a deadline.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::{daemon, lanes, waiting};
use crate::daemon::Daemon;

/// The hidden command of a process that does a task.
pub(crate) const HAND_COMMAND: &str = "bench-hand";

/// How long a task may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is measured, and how much of it there is.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Task {
    /// A message, beside so many lanes that carry none.
    Lanes { count: u32 },
    /// A wait for so many mailboxes.
    WaitSet { count: u32 },
    /// So many mailboxes of one daemon.
    Mailboxes { count: u32 },
    /// So many sessions of one daemon.
    Sessions { count: u32 },
}

/// Figures of a task: the name of each, and the figure.
pub(crate) type Figures = Vec<(String, f64)>;

#[derive(Debug, Serialize, Deserialize)]
struct Order {
    task: Task,
    socket: PathBuf,
    daemon: u32,
}

impl Task {
    /// What grows.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lanes { .. } => "idle lanes",
            Self::WaitSet { .. } => "mailboxes in a WaitSet",
            Self::Mailboxes { .. } => "mailboxes",
            Self::Sessions { .. } => "sessions",
        }
    }

    /// How much of it there is.
    pub(crate) fn count(self) -> u32 {
        match self {
            Self::Lanes { count }
            | Self::WaitSet { count }
            | Self::Mailboxes { count }
            | Self::Sessions { count } => count,
        }
    }

    /// Has a process do it with this daemon.
    pub(crate) fn start(self, daemon: &Daemon) -> Result<Figures> {
        let order = Order { task: self, socket: daemon.socket(), daemon: daemon.pid() };
        let mut child = Command::new(std::env::current_exe()?)
            .arg(HAND_COMMAND)
            .arg(serde_json::to_string(&order)?)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let deadline = Instant::now() + PATIENCE;
        // What it says fits into a pipe: nobody waits for us to read.
        let status = loop {
            match child.try_wait()? {
                Some(status) => break status,
                None if Instant::now() > deadline => {
                    child.kill()?;
                    child.wait()?;
                    bail!("it took more than {} s", PATIENCE.as_secs());
                }
                None => thread::sleep(Duration::from_millis(5)),
            }
        };
        let (mut said, mut complained) = (String::new(), String::new());
        child.stdout.take().context("no stdout")?.read_to_string(&mut said)?;
        child.stderr.take().context("no stderr")?.read_to_string(&mut complained)?;
        if !status.success() {
            bail!("{}", complained.trim().trim_start_matches("bench: "));
        }
        Ok(serde_json::from_str(&said)?)
    }
}

/// Does a task, and tells its figures on stdout.
pub(crate) fn serve(order: &str) -> Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    let Order { task, socket, daemon } = serde_json::from_str(order).context("not an order")?;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let options = libipc::ClientOptions::new().socket(socket);
    let figures = match task {
        Task::Lanes { count } => lanes::measure(&options, count)?,
        Task::WaitSet { count } => waiting::measure(&options, count)?,
        Task::Mailboxes { count } => daemon::mailboxes(&options, daemon, count)?,
        Task::Sessions { count } => daemon::sessions(&options, daemon, count)?,
    };
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}
