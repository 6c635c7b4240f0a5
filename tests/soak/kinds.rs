//! The mailboxes of the soak: what each is like, and what its workers do.

use libipc::{Buffering, MailboxOptions, OnDeath, Order, Receivers, SlowGroup};
use tests::numbered::HANDFUL;

/// What senders do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sends {
    Plain,
    /// At several priorities.
    Urgent,
    Batches,
    /// Some are taken back.
    Withdrawn,
    Calls,
}

impl Sends {
    /// What the program `misbehave` is told.
    pub(crate) fn command(self) -> &'static str {
        match self {
            Self::Plain => "labour_send plain",
            Self::Urgent => "labour_send urgent",
            Self::Batches => "labour_send batches",
            Self::Withdrawn => "labour_send withdrawn",
            Self::Calls => "labour_call",
        }
    }

    /// Messages of which a sender that is killed may not have been told that it sent them.
    pub(crate) fn under_way(self) -> u64 {
        if self == Self::Batches { HANDFUL } else { 1 }
    }

    /// Senders keep a log of what they know of each message.
    pub(crate) fn tells(self) -> bool {
        matches!(self, Self::Withdrawn | Self::Calls)
    }
}

/// What receivers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Receives {
    /// They reject some messages and give others back.
    Picky,
    Batches,
    Answers,
}

impl Receives {
    /// What the program `misbehave` is told.
    pub(crate) fn command(self) -> &'static str {
        match self {
            Self::Picky => "labour_receive picky",
            Self::Batches => "labour_receive batches",
            Self::Answers => "labour_receive answers",
        }
    }

    /// Messages that a receiver has in hand at most.
    pub(crate) fn in_hand_max(self) -> u64 {
        if self == Self::Batches { HANDFUL } else { 1 }
    }
}

/// A kind of mailbox.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) options: MailboxOptions,
    pub(crate) groups: &'static [(&'static str, SlowGroup)],
    pub(crate) sends: Sends,
    pub(crate) receives: Receives,
    /// Receivers of each group, at most.
    pub(crate) receivers_max: usize,
    /// Some workers are of other uids.
    pub(crate) strangers: bool,
}

impl Kind {
    fn new(name: &'static str, options: MailboxOptions) -> Self {
        let (sends, receives) = (Sends::Plain, Receives::Picky);
        let (groups, receivers_max): (&[_], _) = (&[], 4);
        Self { name, options, groups, sends, receives, receivers_max, strangers: false }
    }

    /// How many groups it has: one where there are none.
    pub(crate) fn group_count(&self) -> usize {
        self.groups.len().max(1)
    }

    /// A group loses messages rather than hold senders back.
    pub(crate) fn is_lossy(&self, group: usize) -> bool {
        self.groups.get(group).is_some_and(|(_, slow)| *slow == SlowGroup::DropOldest)
    }

    pub(crate) fn on_death(&self) -> OnDeath {
        self.options.attributes().on_death
    }
}

/// One of each.
pub(crate) fn kinds() -> Vec<Kind> {
    let small = || MailboxOptions::new().capacity_bytes(4096).receivers_max(8).lanes_max(64);
    let new = Kind::new;
    let groups = {
        let groups: &[_] = &[
            ("audit", SlowGroup::Block),
            ("ticker", SlowGroup::DropOldest),
            ("ledger", SlowGroup::Block),
        ];
        let add = |options: MailboxOptions, &(name, slow): &(&str, _)| {
            options.group(name, slow).expect("a name")
        };
        let options = groups.iter().fold(small(), add);
        Kind { groups, receivers_max: 2, strangers: true, ..new("groups", options) }
    };
    let single = small().receivers(Receivers::Single);
    let calls = new("calls", small());
    let batches = new("batches", small().capacity_bytes(16 << 10));
    vec![
        Kind { strangers: true, ..new("bounded", small()) },
        new("long", small().capacity_bytes(64 << 10)),
        new("unbounded", small().buffering(Buffering::Unbounded).max_attempts(0)),
        new("rendezvous", small().buffering(Buffering::Rendezvous)),
        new("exclusive", small().receivers(Receivers::Exclusive)),
        new("arrival", small().order(Order::Arrival)),
        Kind { receivers_max: 1, ..new("single", single) },
        groups,
        Kind { sends: Sends::Urgent, ..new("priorities", small()) },
        Kind { sends: Sends::Batches, receives: Receives::Batches, ..batches },
        new("dropped", small().on_death(OnDeath::Drop)),
        Kind { strangers: true, ..new("buried", small().on_death(OnDeath::DeadLetter)) },
        Kind { sends: Sends::Calls, receives: Receives::Answers, strangers: true, ..calls },
        Kind { sends: Sends::Withdrawn, ..new("withdrawn", small()) },
    ]
}
