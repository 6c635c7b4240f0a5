//! What is measured: the loads, the systems, and the job of each process that takes part.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What carries the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum System {
    /// A mailbox that admits any number of receivers.
    Ours,
    /// A mailbox that admits one receiver.
    OursSingle,
    /// A POSIX message queue.
    Mq,
    /// A pipe.
    Pipe,
    /// A Unix socket that keeps message boundaries.
    Seqpacket,
}

impl System {
    /// All of them, in the order in which they are shown and measured.
    pub(crate) const ALL: [Self; 5] =
        [Self::Ours, Self::OursSingle, Self::Mq, Self::Pipe, Self::Seqpacket];

    /// Its name, as we show it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::OursSingle => "ours, single",
            Self::Mq => "POSIX mq",
            Self::Pipe => "pipe",
            Self::Seqpacket => "seqpacket",
        }
    }

    /// Whether it is one of our mailboxes.
    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::Ours | Self::OursSingle)
    }
}

/// What a load does with its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// As many as go through. Figure: messages a second.
    Stream,
    /// As many as go through, written and read in place: reserve, commit, receive, acknowledge. Figure:
    /// messages a second.
    InPlace,
    /// As many as go through, sent and received in batches. Figure: messages a second.
    Batches,
    /// One there, one back, both sides awake. Figure: ns one way.
    PingPong,
    /// One now and then, to a receiver that sleeps. Figure: ns from send to receive.
    WakeUp,
    /// Create, open both ends, one message, delete. Figure: ns for all of it.
    Setup,
}

impl Kind {
    /// Whether its figure is messages a second.
    pub(crate) fn is_rate(self) -> bool {
        matches!(self, Self::Stream | Self::InPlace | Self::Batches)
    }
}

/// A load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Its name, as we show it.
    pub(crate) name: &'static str,
    /// What it does.
    pub(crate) kind: Kind,
    /// Bytes of a message.
    pub(crate) bytes: usize,
    /// Processes that send.
    pub(crate) senders: u8,
    /// Processes that receive.
    pub(crate) receivers: u8,
}

impl Load {
    /// All of them, in the order in which they are shown and measured.
    pub(crate) const ALL: [Self; 12] = [
        Self::stream("stream 8 B", 8, 1, 1),
        Self::stream("stream 64 B", 64, 1, 1),
        Self::stream("stream 1 KiB", 1 << 10, 1, 1),
        Self::stream("stream 64 KiB", 64 << 10, 1, 1),
        Self::stream("2 senders, 64 B", 64, 2, 1),
        Self::stream("2 receivers, 64 B", 64, 1, 2),
        Self::bulk("batches 8 B", 8, Kind::Batches),
        Self::bulk("in place 64 KiB", 64 << 10, Kind::InPlace),
        Self::bulk("in place 1 MiB", 1 << 20, Kind::InPlace),
        Self::latency("ping-pong 64 B", Kind::PingPong),
        Self::latency("wake-up 64 B", Kind::WakeUp),
        Self::latency("create to delete", Kind::Setup),
    ];

    const fn stream(name: &'static str, bytes: usize, senders: u8, receivers: u8) -> Self {
        Self { name, kind: Kind::Stream, bytes, senders, receivers }
    }

    const fn bulk(name: &'static str, bytes: usize, kind: Kind) -> Self {
        Self { name, kind, bytes, senders: 1, receivers: 1 }
    }

    const fn latency(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, bytes: 64, senders: 1, receivers: 1 }
    }

    /// Whether a system can carry it.
    pub(crate) fn suits(&self, system: System) -> bool {
        match self.kind {
            Kind::InPlace | Kind::Batches => system.is_ours(),
            _ => system != System::OursSingle || self.receivers == 1,
        }
    }

    /// Channels it needs: one, and one for the way back.
    pub(crate) fn channels(&self) -> usize {
        if self.kind == Kind::PingPong { 2 } else { 1 }
    }

    /// Bytes that each system may buffer: the default lane, or some long messages; of those in place a few
    /// more, since what lies between their first bytes costs nothing but address space.
    pub(crate) fn buffer_bytes(&self) -> usize {
        let messages = if self.kind == Kind::InPlace { 128 } else { 16 };
        (256 << 10).max(self.bytes * messages)
    }
}

/// What one process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Role {
    /// Sends; the number is the sender's own.
    Send(u8),
    /// Receives.
    Receive,
    /// Sends, and waits for it to come back.
    Ping,
    /// Sends back.
    Pong,
}

/// The job of one process of a measurement, as it travels in its argument.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    /// What carries the messages.
    pub(crate) system: System,
    /// What they do.
    pub(crate) kind: Kind,
    /// This process's part.
    pub(crate) role: Role,
    /// Bytes of a message.
    pub(crate) bytes: usize,
    /// Processes that send.
    pub(crate) senders: u8,
    /// Processes that receive.
    pub(crate) receivers: u8,
    /// The core to stay on.
    pub(crate) core: usize,
    /// How long to warm up.
    pub(crate) warm_up: Duration,
    /// How long to measure.
    pub(crate) duration: Duration,
    /// Where ipcd listens.
    pub(crate) socket: PathBuf,
    /// The channel to send on, where it has a name.
    pub(crate) channel_out: Option<String>,
    /// The channel to receive from, where it has a name.
    pub(crate) channel_in: Option<String>,
}

/// What a process of a measurement has seen.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Messages sent or received in all.
    pub(crate) messages: u64,
    /// The sum of their first words, wrapping: equal on both sides if each came exactly once.
    pub(crate) sum: u64,
    /// Messages a second, warm-up left out; receivers of a stream tell it.
    pub(crate) rate: f64,
    /// Median in ns; latency loads tell it.
    pub(crate) p50_ns: f64,
    /// 99 of 100 are faster, in ns.
    pub(crate) p99_ns: f64,
}

/// What a process of a measurement says to the one that started it, a line each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    /// Its ends are open: it waits for the line that lets it go.
    Ready,
    /// It is done.
    Report(Report),
    /// It failed.
    Failed(String),
}
