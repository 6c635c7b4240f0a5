//! What a mailbox is: its attributes, their ranges, and which of them go together.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::message::MailboxName;
use super::refusal::Refusal;
use crate::lane::layout::{self, Limits};

/// Declares an attribute that is one of a few words, the same words on the command line and in reports.
macro_rules! words {
    ($(#[$about:meta])* $name:ident, $what:literal { $($(#[$doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The word for it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = String;
            fn from_str(word: &str) -> Result<Self, String> {
                let found = Self::ALL.iter().find(|value| value.as_str() == word);
                let words = || Self::ALL.iter().map(|value| value.as_str()).collect::<Vec<_>>();
                found.copied().ok_or_else(|| format!("{} is one of {}", $what, words().join(", ")))
            }
        }
    };
}

words! {
    /// What happens where a sender is ahead of the receivers.
    Buffering, "buffering" {
        /// A lane holds so many bytes; a sender waits when its lane is full.
        #[default]
        Bounded = "bounded",
        /// Nothing is buffered: a send returns when the message has been received and acknowledged.
        Rendezvous = "rendezvous",
        /// A lane grows up to its sender's quota; a sender never waits.
        Unbounded = "unbounded",
    }
}

words! {
    /// Which receiver gets a message.
    Receivers, "receivers" {
        /// Any that has the mailbox open: the one that has slept longest, or one that is awake.
        #[default]
        Any = "any",
        /// Many have it open, one executes receive at a time; the one that has waited longest is next.
        Exclusive = "exclusive",
        /// A link of two processes: one sends, one receives.
        Single = "single",
    }
}

words! {
    /// How long a mailbox lives, and who may receive from it.
    Owner, "owner" {
        /// Until it is deleted.
        #[default]
        System = "system",
        /// As long as the process that created it, which alone receives from it.
        Process = "process",
    }
}

words! {
    /// In which order messages are received.
    Order, "order" {
        /// Each sender's in the order in which it sent them.
        #[default]
        Sender = "sender",
        /// Also across senders: of two messages whose sends did not overlap the earlier one first.
        Arrival = "arrival",
    }
}

words! {
    /// What a group of receivers that is slow does to the senders.
    SlowGroup, "a slow group" {
        /// It holds them back: a sender waits for room.
        #[default]
        Block = "block",
        /// It loses its oldest messages, counted. What its receivers get they get at most once.
        DropOldest = "drop-oldest",
    }
}

words! {
    /// What becomes of queued messages when a mailbox is deleted.
    Queued, "what is queued" {
        /// They are discarded, and counted.
        #[default]
        Discard = "discard",
        /// They are received first: the mailbox lets no new ones in, and goes when it is empty.
        Drain = "drain",
    }
}

words! {
    /// What becomes of the messages that a receiver had in hand when it died.
    OnDeath, "what becomes of what a dead receiver had in hand" {
        /// Others receive them, marked, until they have been handed out as often as that may be.
        #[default]
        Redeliver = "redeliver",
        /// They are dropped, and counted.
        Drop = "drop",
        /// They are put among the mailbox's dead letters at once.
        DeadLetter = "dead-letter",
    }
}

words! {
    /// Why a message is a dead letter.
    Reason, "the reason" {
        /// A receiver rejected it.
        #[default]
        Rejected = "rejected",
        /// It was handed out as often as that may be, and nobody acknowledged it.
        Attempts = "attempts",
        /// A receiver died with it, where that is enough.
        Death = "death",
    }
}

/// What is known of a dead letter, besides who sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Its number: no other dead letter of the mailbox has it, or will.
    pub number: u64,
    /// Why it is one.
    pub reason: Reason,
    /// How often it was handed out.
    pub attempts: u32,
    /// The group of receivers for which it is one: its index, 0 where there are no groups.
    pub group: u8,
}

/// A group's name: the same rules as for a mailbox.
pub type GroupName = MailboxName;

/// A group of receivers: it gets every message, its members compete.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Group {
    /// Its name.
    pub name: GroupName,
    /// What it does to the senders when it is slow.
    pub slow: SlowGroup,
}

/// How often a message is handed out where nobody said otherwise.
const ATTEMPTS_DEFAULT: u32 = 16;
/// Largest value of `max_attempts`.
const ATTEMPTS_MAX: u32 = 1_000_000;
/// Longest message that can become a dead letter, in bytes: `ipcd` copies it.
pub const DEAD_LETTER_BYTES_MAX: u64 = 16 << 20;

/// The attributes of a mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MailboxAttributes {
    /// Bytes of each lane's data: a power of two from 4 KiB to 1 GiB.
    pub capacity_bytes: u64,
    /// Who may: read bit = receive, write bit = send, for owner, group and others; execute bits mean nothing.
    pub mode: u16,
    /// Owner; `None` at create is the caller's effective uid.
    pub owner_uid: Option<u32>,
    /// Owner's group; `None` at create is the caller's effective gid.
    pub owner_gid: Option<u32>,
    /// Receivers that may hold it open at a time, in each group; 1 lets the receiver skip the claim's compare-and-swap.
    pub receivers_max: u16,
    /// Lanes (sender handles, and what those have had to add) that may be there at a time.
    pub lanes_max: u16,
    /// What happens where a sender is ahead of the receivers.
    pub buffering: Buffering,
    /// Which receiver gets a message.
    pub receivers: Receivers,
    /// How long the mailbox lives.
    pub owner: Owner,
    /// In which order messages are received.
    pub order: Order,
    /// What becomes of what a receiver had in hand when it died.
    pub on_death: OnDeath,
    /// How often a message is handed out before it becomes a dead letter, 1 to 1,000,000; 0: as often as need be.
    pub max_attempts: u32,
}

impl Default for MailboxAttributes {
    fn default() -> Self {
        Self {
            capacity_bytes: 256 << 10,
            mode: 0o600,
            owner_uid: None,
            owner_gid: None,
            receivers_max: 64,
            lanes_max: 1024,
            buffering: Buffering::Bounded,
            receivers: Receivers::Any,
            owner: Owner::System,
            order: Order::Sender,
            on_death: OnDeath::Redeliver,
            max_attempts: ATTEMPTS_DEFAULT,
        }
    }
}

impl MailboxAttributes {
    /// Longest message in bytes: the capacity of a lane, or where lanes grow the largest capacity, less the
    /// record's own header.
    #[must_use]
    pub fn message_bytes_max(&self) -> u64 {
        let capacity = match self.buffering {
            Buffering::Bounded | Buffering::Rendezvous => self.capacity_bytes,
            Buffering::Unbounded => layout::LANE_CAPACITY_BYTES_MAX,
        };
        capacity - crate::lane::position::GRANULE_BYTES as u64
    }

    /// Says which attribute is out of its range, or which two do not go together.
    ///
    /// # Errors
    /// [`Refusal::InvalidAttribute`], [`Refusal::Incompatible`].
    pub fn check(&self, groups: &[Group]) -> Result<(), Refusal> {
        self.check_ranges()?;
        self.check_combinations(groups)
    }

    /// What the sizes of the regions follow from.
    #[must_use]
    pub fn limits(&self, groups: usize) -> Limits {
        let groups = groups.clamp(1, layout::GROUPS_MAX) as u8;
        Limits { receivers_max: self.receivers_max, lanes_max: self.lanes_max, groups }
    }

    /// Whether a single receiver may take messages without a compare-and-swap: nobody else ever moves the claim.
    #[must_use]
    pub fn claims_alone(&self, groups: &[Group]) -> bool {
        self.receivers_max == 1 && groups.iter().all(|group| group.slow == SlowGroup::Block)
    }

    fn check_combinations(&self, groups: &[Group]) -> Result<(), Refusal> {
        let refuse = |one: String, other: &str, why: &str| {
            Err(Refusal::Incompatible { one, other: other.into(), why: why.into() })
        };
        if groups.len() > layout::GROUPS_MAX {
            return Err(Refusal::InvalidAttribute {
                attribute: "number of groups".into(),
                value: groups.len() as u64,
                allowed: format!("0 to {}", layout::GROUPS_MAX),
            });
        }
        let mut names: Vec<_> = groups.iter().map(|group| &group.name).collect();
        names.sort();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            let group = format!("group {:?}", twice[0].as_str());
            return refuse(
                group,
                "a group of the same name",
                "a group's members name it by that name",
            );
        }
        let single = self.receivers == Receivers::Single;
        if single && self.receivers_max != 1 {
            let several = format!("max receivers {}", self.receivers_max);
            return refuse(several, "receivers single", "a link of two processes has one receiver");
        }
        if !groups.is_empty() {
            let groups = "several groups".to_owned();
            if single {
                return refuse(
                    groups,
                    "receivers single",
                    "a link of two processes has one receiver",
                );
            }
            if self.owner == Owner::Process {
                return refuse(groups, "owner process", "only the owner receives");
            }
        }
        if let Some(group) = groups.iter().find(|group| group.slow == SlowGroup::DropOldest) {
            let group = format!("group {:?} that drops the oldest", group.name.as_str());
            if self.on_death != OnDeath::Redeliver {
                let why = "what its receivers get they get at most once";
                return refuse(group, &format!("on death {}", self.on_death), why);
            }
            match self.buffering {
                Buffering::Bounded => {}
                Buffering::Rendezvous => {
                    return refuse(
                        group,
                        "buffering rendezvous",
                        "its sends wait until every group has received",
                    );
                }
                Buffering::Unbounded => {
                    return refuse(
                        group,
                        "buffering unbounded",
                        "a lane that is never full drops nothing",
                    );
                }
            }
        }
        Ok(())
    }

    fn check_ranges(&self) -> Result<(), Refusal> {
        let refuse = |attribute: &str, value: u64, allowed: String| {
            Err(Refusal::InvalidAttribute { attribute: attribute.into(), value, allowed })
        };
        let (min, max) = (layout::LANE_CAPACITY_BYTES_MIN, layout::LANE_CAPACITY_BYTES_MAX);
        if !self.capacity_bytes.is_power_of_two() || !(min..=max).contains(&self.capacity_bytes) {
            let allowed = format!("a power of two from {min} to {max} bytes");
            return refuse("capacity", self.capacity_bytes, allowed);
        }
        if self.mode & !0o777 != 0 {
            return refuse("mode", self.mode.into(), "octal 0 to 0777".into());
        }
        if !(1..=layout::RECEIVERS_MAX).contains(&self.receivers_max) {
            let allowed = format!("1 to {}", layout::RECEIVERS_MAX);
            return refuse("max receivers", self.receivers_max.into(), allowed);
        }
        if !(1..=layout::LANES_MAX).contains(&self.lanes_max) {
            return refuse(
                "max lanes",
                self.lanes_max.into(),
                format!("1 to {}", layout::LANES_MAX),
            );
        }
        if self.max_attempts > ATTEMPTS_MAX {
            let allowed = format!("0 to {ATTEMPTS_MAX}");
            return refuse("max attempts", self.max_attempts.into(), allowed);
        }
        Ok(())
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn attributes_out_of_range_are_named() {
        assert_eq!(MailboxAttributes::default().check(&[]), Ok(()));
        let wrong = |change: fn(&mut MailboxAttributes)| {
            let mut attributes = MailboxAttributes::default();
            change(&mut attributes);
            attributes.check(&[]).unwrap_err().to_string()
        };
        assert!(wrong(|a| a.capacity_bytes = 5000).contains("capacity"));
        assert!(wrong(|a| a.capacity_bytes = 2048).contains("capacity"));
        assert!(wrong(|a| a.mode = 0o1000).contains("mode"));
        assert!(wrong(|a| a.receivers_max = 0).contains("max receivers"));
        assert!(wrong(|a| a.lanes_max = 0).contains("max lanes"));
        assert!(wrong(|a| a.max_attempts = 1_000_001).contains("max attempts"));
    }

    #[test]
    fn what_does_not_go_together_says_why() {
        let group = |slow| Group { name: GroupName::new("audit").unwrap(), slow };
        let why = |change: fn(&mut MailboxAttributes), groups: &[Group]| {
            let mut attributes = MailboxAttributes::default();
            change(&mut attributes);
            match attributes.check(groups).unwrap_err() {
                Refusal::Incompatible { why, .. } => why,
                other => panic!("{other}"),
            }
        };
        let (block, drops) = (group(SlowGroup::Block), group(SlowGroup::DropOldest));
        assert!(why(|a| a.receivers = Receivers::Single, &[]).contains("one receiver"));
        let single = |a: &mut MailboxAttributes| {
            a.receivers = Receivers::Single;
            a.receivers_max = 1;
        };
        assert!(why(single, std::slice::from_ref(&block)).contains("one receiver"));
        assert!(why(|a| a.owner = Owner::Process, std::slice::from_ref(&block)).contains("owner"));
        let rendezvous = |a: &mut MailboxAttributes| a.buffering = Buffering::Rendezvous;
        assert!(why(rendezvous, std::slice::from_ref(&drops)).contains("every group"));
        let drop = |a: &mut MailboxAttributes| a.on_death = OnDeath::Drop;
        assert!(why(drop, std::slice::from_ref(&drops)).contains("at most once"));
        let unbounded = |a: &mut MailboxAttributes| a.buffering = Buffering::Unbounded;
        assert!(why(unbounded, std::slice::from_ref(&drops)).contains("never full"));
        assert!(why(|_| (), &[block.clone(), drops.clone()]).contains("name"));
        let mut attributes = MailboxAttributes::default();
        single(&mut attributes);
        assert_eq!(attributes.check(&[]), Ok(()));
        assert_eq!(MailboxAttributes::default().check(&[drops]), Ok(()));
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        for &buffering in Buffering::ALL {
            assert_eq!(buffering.as_str().parse(), Ok(buffering));
        }
        let error = "lazy".parse::<Receivers>().unwrap_err();
        assert_eq!(error, "receivers is one of any, exclusive, single");
    }
}
