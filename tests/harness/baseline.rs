//! What must be as it was once everybody has gone.

use libipc::{Client, Usage};

use crate::{TestDaemon, descriptors_of, settled, wait_until};

/// What a daemon uses, and its keeper if it has one.
#[derive(Debug, PartialEq, Eq)]
pub struct Baseline {
    usage: Usage,
    mailboxes: u64,
    resident_bytes: u64,
    /// As the daemon counts them itself.
    reported: u64,
    descriptors: usize,
    regions: usize,
    keeper: Option<usize>,
}

impl Baseline {
    /// What is used now, once there are so many sessions.
    #[must_use]
    pub fn now(daemon: &TestDaemon, client: &Client, sessions: u64) -> Self {
        wait_until("nobody else is there", || daemon.status(client).sessions == sessions);
        let status = daemon.status(client);
        Self {
            usage: status.usage,
            mailboxes: status.mailboxes,
            resident_bytes: status.resident_bytes,
            reported: status.descriptors,
            descriptors: descriptors_of(status.pid),
            regions: regions_of(status.pid),
            keeper: daemon.is_kept().then(|| descriptors_of(daemon.keeper_pid())),
        }
    }

    /// What is used with this client alone.
    #[must_use]
    pub fn take(daemon: &TestDaemon, client: &Client) -> Self {
        settled(|| Self::now(daemon, client, 1))
    }

    /// Holds that sessions, descriptors, mailboxes, lanes, and bytes reserved, mapped and resident are what they were.
    ///
    /// # Panics
    /// If they do not become so.
    pub fn check(&self, daemon: &TestDaemon, client: &Client) {
        let mut now = Self::now(daemon, client, 1);
        wait_until("all descriptors are closed", || {
            now = Self::now(daemon, client, 1);
            let counts = |it: &Self| (it.reported, it.descriptors, it.keeper);
            counts(&now) == counts(self)
        });
        assert_eq!(now, *self);
    }
}

/// Mappings of memory files that a process has.
fn regions_of(pid: u32) -> usize {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"));
    maps.expect("a process of ours").lines().filter(|line| line.contains("memfd:")).count()
}
