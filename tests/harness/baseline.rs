//! What must be as it was once everybody has gone.

use libipc::{Client, ServerStatus};

use crate::{TestDaemon, descriptors_of, wait_until};

/// A daemon with one client: what it uses then.
#[derive(Debug)]
pub struct Baseline {
    status: ServerStatus,
    descriptors: usize,
    regions: usize,
}

impl Baseline {
    /// What the daemon uses now, with this client alone.
    #[must_use]
    pub fn take(daemon: &TestDaemon, client: &Client) -> Self {
        wait_until("only we are there", || daemon.status(client).sessions == 1);
        let status = daemon.status(client);
        Self {
            status,
            descriptors: descriptors_of(daemon.pid()),
            regions: regions_of(daemon.pid()),
        }
    }

    /// Holds that sessions, descriptors, mailboxes, lanes, and bytes reserved, mapped and resident are what they were.
    ///
    /// # Panics
    /// If they do not become so.
    pub fn check(&self, daemon: &TestDaemon, client: &Client) {
        wait_until("all sessions of the dead are over", || daemon.status(client).sessions == 1);
        let pid = daemon.pid();
        wait_until("all descriptors are closed", || descriptors_of(pid) == self.descriptors);
        let (before, now) = (&self.status, daemon.status(client));
        assert_eq!(now.usage, before.usage);
        assert_eq!((now.mailboxes, now.descriptors), (before.mailboxes, before.descriptors));
        assert_eq!(now.resident_bytes, before.resident_bytes);
        assert_eq!(regions_of(pid), self.regions, "regions that the daemon has mapped");
    }
}

/// Mappings of memory files that a process has.
fn regions_of(pid: u32) -> usize {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"));
    maps.expect("a process of ours").lines().filter(|line| line.contains("memfd:")).count()
}
