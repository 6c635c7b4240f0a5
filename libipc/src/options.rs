//! A mailbox's attributes, as one sets them at its creation.

use crate::protocol::MailboxAttributes;

/// Attributes of a mailbox to create. What is not set has the value that `Default` says.
///
/// ```
/// let options = libipc::MailboxOptions::new().capacity_bytes(1 << 20).mode(0o622);
/// assert_eq!(options.attributes().capacity_bytes, 1 << 20);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MailboxOptions {
    attributes: MailboxAttributes,
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

    /// The attributes as the daemon gets them.
    #[must_use]
    pub fn attributes(&self) -> MailboxAttributes {
        self.attributes
    }
}
