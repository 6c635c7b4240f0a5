//! What is measured: the loads, the same for every system.

use serde::{Deserialize, Serialize};

/// What a load does with its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// As many as go through. Figure: messages a second.
    Stream,
    /// As many as go through, written and read where they lie. Figure: messages a second.
    InPlace,
    /// As many as go through, sent and received in batches. Figure: messages a second.
    Batches,
    /// One there, one back. Figure: ns one way.
    PingPong,
    /// A question there, an answer back, by the system's own means where it has them. Figure: ns there and back.
    Call,
    /// One now and then, to a receiver that waits. Figure: ns from send to receive.
    WakeUp,
    /// Create, open both ends, one message, delete. Figure: ns for all of it.
    Setup,
}

impl Kind {
    /// Whether its figure is messages a second.
    #[must_use]
    pub fn is_rate(self) -> bool {
        matches!(self, Self::Stream | Self::InPlace | Self::Batches)
    }

    /// The unit in which its figure is shown, and how many of the figure's own units that is.
    #[must_use]
    pub fn unit(self) -> (&'static str, f64) {
        match self {
            Self::Stream | Self::InPlace | Self::Batches => ("M/s", 1e6),
            Self::PingPong => ("ns one way", 1.0),
            Self::Call => ("ns there and back", 1.0),
            Self::WakeUp => ("us one way", 1e3),
            Self::Setup => ("us", 1e3),
        }
    }
}

/// How the processes of a load wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wait {
    /// They look again and again, and never sleep.
    Polling,
    /// They block, as the system ships: it may look for a while first.
    Shipped,
    /// They block, and sleep at once where the system can be told so.
    Asleep,
}

/// A load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Its name, as we show it.
    pub name: String,
    /// What it does.
    pub kind: Kind,
    /// Bytes of a message.
    pub bytes: usize,
    /// Processes that send.
    pub senders: u8,
    /// Processes that receive.
    pub receivers: u8,
    /// How they wait.
    pub wait: Wait,
    /// All processes share one core.
    pub one_core: bool,
    /// Bytes that each system may buffer, where it lets one say.
    pub buffer_bytes: usize,
}

/// The sizes of the messages of streams.
const SIZES: [(&str, usize); 6] = [
    ("8 B", 8),
    ("64 B", 64),
    ("1 KiB", 1 << 10),
    ("16 KiB", 16 << 10),
    ("64 KiB", 64 << 10),
    ("1 MiB", 1 << 20),
];

impl Load {
    /// All of them, in the order in which they are shown and measured.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut loads = vec![
            Self::ping_pong("ping-pong, polling", Wait::Polling),
            Self::ping_pong("ping-pong, both awake", Wait::Shipped),
            Self::ping_pong("ping-pong, asleep", Wait::Asleep),
            Self { one_core: true, ..Self::ping_pong("ping-pong, one core", Wait::Shipped) },
        ];
        loads.extend(SIZES.map(|(size, bytes)| Self::new(format!("stream {size}"), bytes)));
        loads.extend(SIZES.map(|(size, bytes)| Self::in_place(size, bytes)));
        loads.extend(SIZES[..2].iter().map(|(size, bytes)| Self {
            kind: Kind::Batches,
            ..Self::new(format!("batches of {size}"), *bytes)
        }));
        loads.extend(
            [2, 4].map(|senders| Self {
                senders,
                ..Self::new(format!("{senders} senders, 64 B"), 64)
            }),
        );
        loads.extend([2, 4].map(|receivers| Self {
            receivers,
            ..Self::new(format!("{receivers} receivers, 64 B"), 64)
        }));
        loads.extend([
            Self { kind: Kind::WakeUp, ..Self::new("wake-up 64 B".into(), 64) },
            Self { kind: Kind::Call, ..Self::new("call and reply 64 B".into(), 64) },
            Self { kind: Kind::Setup, ..Self::new("create to delete".into(), 64) },
        ]);
        loads
    }

    /// A stream from one process to another.
    #[must_use]
    pub fn new(name: String, bytes: usize) -> Self {
        Self {
            name,
            kind: Kind::Stream,
            bytes,
            senders: 1,
            receivers: 1,
            wait: Wait::Shipped,
            one_core: false,
            // The default lane, or some long messages.
            buffer_bytes: (256 << 10).max(bytes * 16),
        }
    }

    fn ping_pong(name: &str, wait: Wait) -> Self {
        Self { kind: Kind::PingPong, wait, ..Self::new(name.into(), 64) }
    }

    fn in_place(size: &str, bytes: usize) -> Self {
        Self {
            kind: Kind::InPlace,
            // What lies between the ends of a long message that nobody copies is but address space.
            buffer_bytes: (256 << 10).max(bytes * 128),
            ..Self::new(format!("in place {size}"), bytes)
        }
    }

    /// Channels it needs: one, and one for the way back.
    #[must_use]
    pub fn channels(&self) -> usize {
        if self.goes_back() { 2 } else { 1 }
    }

    /// Whether messages go back too.
    #[must_use]
    pub fn goes_back(&self) -> bool {
        matches!(self.kind, Kind::PingPong | Kind::Call)
    }

    /// Whether one process sends and one receives.
    #[must_use]
    pub fn is_one_to_one(&self) -> bool {
        self.senders == 1 && self.receivers == 1
    }

    /// Whole messages that the buffer holds.
    #[must_use]
    pub fn buffered_messages(&self) -> usize {
        (self.buffer_bytes / self.bytes).max(1)
    }
}
