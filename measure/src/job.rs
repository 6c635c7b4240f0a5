//! What the processes of a measurement say to each other.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::load::Load;

/// What one process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Sends; the number is the sender's own.
    Send(u8),
    /// Receives; the number is the receiver's own.
    Receive(u8),
    /// Sends, and waits for it to come back.
    Ping,
    /// Sends back.
    Pong,
    /// Creates, uses and deletes, again and again.
    Cycle,
    /// Both sides, in two threads.
    Both,
}

impl Role {
    /// Whether it starts what goes on: the messages that it sends are those that others have to see.
    #[must_use]
    pub fn sends(self) -> bool {
        matches!(self, Self::Send(_) | Self::Ping)
    }
}

/// What carries messages one way: a name, descriptors, or both.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Channel {
    /// Unique on this machine.
    pub name: String,
    /// Descriptors that every process of the measurement inherits, in the system's own order.
    pub descriptors: Vec<i32>,
}

/// The job of one process of a measurement, as it travels in its argument.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// The key of what carries the messages.
    pub system: String,
    /// What they do.
    pub load: Load,
    /// This process's part.
    pub role: Role,
    /// It is the first of all, and makes what the others open.
    pub first: bool,
    /// The core to stay on.
    pub core: usize,
    /// The cores of the two sides.
    pub cores: (usize, usize),
    /// How long to warm up.
    pub warm_up: Duration,
    /// How long to measure.
    pub duration: Duration,
    /// Where ipcd listens.
    pub socket: Option<PathBuf>,
    /// A folder of this measurement's own.
    pub folder: PathBuf,
    /// The channel to send on.
    pub channel_out: Option<Channel>,
    /// The channel to receive from.
    pub channel_in: Option<Channel>,
}

impl Job {
    /// The channels of this job: to receive from, then to send on.
    pub fn channels(&self) -> impl Iterator<Item = &Channel> {
        self.channel_in.iter().chain(&self.channel_out)
    }
}

/// What a process of a measurement has seen.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Messages sent or received in all.
    pub messages: u64,
    /// The sum of their first words, wrapping: equal on both sides if each came exactly once.
    pub sum: u64,
    /// Messages that did not come in order: one was missing, or came late, or twice.
    pub disordered: u64,
    /// Messages that were cut, mixed or nobody's.
    pub corrupt: u64,
    /// Messages a second, warm-up left out; receivers of a stream tell it.
    pub rate: f64,
    /// Median in ns; latency loads tell it.
    pub p50_ns: f64,
    /// 99 of 100 are faster, in ns.
    pub p99_ns: f64,
}

/// What a process of a measurement says to the one that started it, a line each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Its ends are open: it waits for the line that lets it go.
    Ready,
    /// It is done; one report a role.
    Report(Vec<(Role, Report)>),
    /// It failed.
    Failed(String),
}
