//! A mailbox's attributes, as one sets them at its creation.

use crate::protocol::{
    Buffering, Group, GroupName, MailboxAttributes, OnDeath, Order, Owner, Receivers, Refusal,
    SlowGroup,
};

/// Attributes of a mailbox to create. What is not set has the value that `Default` says.
///
/// ```
/// let options = libipc::MailboxOptions::new().capacity_bytes(1 << 20).mode(0o622);
/// assert_eq!(options.attributes().capacity_bytes, 1 << 20);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MailboxOptions {
    attributes: MailboxAttributes,
    groups: Vec<Group>,
}

impl MailboxOptions {
    /// Lanes of 256 KiB, mode 0600, owned by the caller, up to 64 receivers and 1024 lanes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes of each lane's data, 4 KiB to 1 GiB, rounded up to a power of two. The longest message is
    /// 16 bytes shorter.
    #[must_use]
    pub fn capacity_bytes(mut self, bytes: u64) -> Self {
        self.attributes.capacity_bytes = bytes.checked_next_power_of_two().unwrap_or(bytes);
        self
    }

    /// Who may: read bit = receive, write bit = send, for owner, group and others (as `chmod` has it).
    #[must_use]
    pub fn mode(mut self, mode: u16) -> Self {
        self.attributes.mode = mode;
        self
    }

    /// Whose it is; only root gives mailboxes to others.
    #[must_use]
    pub fn owner(mut self, uid: Option<u32>, gid: Option<u32>) -> Self {
        self.attributes.owner_uid = uid;
        self.attributes.owner_gid = gid;
        self
    }

    /// Receivers that may hold it open at a time, 1 to 512. With 1 the claim needs no compare-and-swap.
    #[must_use]
    pub fn receivers_max(mut self, count: u16) -> Self {
        self.attributes.receivers_max = count;
        self
    }

    /// Lanes (open senders, and those gone whose messages still wait) at a time, 1 to 32,000.
    #[must_use]
    pub fn lanes_max(mut self, count: u16) -> Self {
        self.attributes.lanes_max = count;
        self
    }

    /// What happens where a sender is ahead of the receivers. Bounded by default.
    #[must_use]
    pub fn buffering(mut self, buffering: Buffering) -> Self {
        self.attributes.buffering = buffering;
        self
    }

    /// Which receiver gets a message. Any by default; [`Receivers::Single`] also sets the number of receivers
    /// to 1.
    #[must_use]
    pub fn receivers(mut self, receivers: Receivers) -> Self {
        self.attributes.receivers = receivers;
        if receivers == Receivers::Single {
            self.attributes.receivers_max = 1;
        }
        self
    }

    /// How long the mailbox lives. Until it is deleted, by default.
    #[must_use]
    pub fn lifetime(mut self, owner: Owner) -> Self {
        self.attributes.owner = owner;
        self
    }

    /// In which order messages are received. Each sender's own, by default.
    #[must_use]
    pub fn order(mut self, order: Order) -> Self {
        self.attributes.order = order;
        self
    }

    /// What becomes of the messages that a receiver had in hand when it died. Others receive them, by default.
    #[must_use]
    pub fn on_death(mut self, on_death: OnDeath) -> Self {
        self.attributes.on_death = on_death;
        self
    }

    /// How often a message is handed out, 1 to 1,000,000, before it becomes a dead letter: 16 times by default; 0:
    /// as often as need be.
    #[must_use]
    pub fn max_attempts(mut self, count: u32) -> Self {
        self.attributes.max_attempts = count;
        self
    }

    /// Adds a group of receivers: every group gets every message. Without groups all receivers compete.
    ///
    /// # Errors
    /// [`Refusal::InvalidName`].
    pub fn group(mut self, name: &str, slow: SlowGroup) -> Result<Self, Refusal> {
        self.groups.push(Group { name: GroupName::new(name)?, slow });
        Ok(self)
    }

    /// The groups as the daemon gets them.
    #[must_use]
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The attributes as the daemon gets them.
    #[must_use]
    pub fn attributes(&self) -> MailboxAttributes {
        self.attributes
    }
}
