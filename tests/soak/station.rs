//! A mailbox with its workers, each a process of its own.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use libipc::Reason;
use tests::numbered::{self, Entry};
use tests::{Child, Dice, TestDaemon, UIDS, wait_until};

use crate::kinds::Kind;

/// A process at work.
pub(crate) struct Worker {
    pub(crate) child: Child,
    /// The step in which it goes on.
    pub(crate) stopped_until: Option<u64>,
}

impl Worker {
    fn new(child: Child) -> Self {
        Self { child, stopped_until: None }
    }

    pub(crate) fn stop(&mut self, until: u64) {
        self.child.stop(true);
        self.stopped_until = Some(until);
    }

    /// # Panics
    /// If it has found something wrong.
    pub(crate) fn kill(&mut self) {
        let answer = self.child.try_answer().unwrap_or_default();
        assert!(!answer.starts_with("error"), "{answer}");
        self.child.kill();
    }

    pub(crate) fn go_on(&mut self) {
        if self.stopped_until.take().is_some() {
            self.child.stop(false);
        }
    }
}

/// A dead letter that was taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Letter {
    pub(crate) sender: u32,
    pub(crate) number: u64,
    pub(crate) hand_outs: u32,
    pub(crate) reason: Reason,
    pub(crate) group: u8,
}

/// A mailbox, its workers, and what those leave.
pub(crate) struct Station {
    pub(crate) kind: Kind,
    pub(crate) senders: Vec<Worker>,
    /// With the index of the group of each.
    pub(crate) receivers: Vec<(usize, Worker)>,
    /// A log for each receiver that there ever was, with its group.
    pub(crate) logs: Vec<(usize, PathBuf)>,
    /// What each sender that there ever was has noted, with its number.
    pub(crate) progress: Vec<(u32, PathBuf)>,
    pub(crate) letters: Vec<Letter>,
    pub(crate) closed: bool,
}

impl Station {
    pub(crate) fn new(kind: Kind) -> Self {
        let (senders, receivers, logs) = (Vec::new(), Vec::new(), Vec::new());
        let (progress, letters) = (Vec::new(), Vec::new());
        Self { kind, senders, receivers, logs, progress, letters, closed: false }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.kind.name
    }

    /// Everybody who works here.
    pub(crate) fn workers(&mut self) -> impl Iterator<Item = &mut Worker> {
        self.senders.iter_mut().chain(self.receivers.iter_mut().map(|(_, worker)| worker))
    }

    pub(crate) fn receivers_of(&self, group: usize) -> usize {
        self.receivers.iter().filter(|(theirs, _)| *theirs == group).count()
    }

    /// Adds a sender with this number, unless the mailbox is closed. Says whether it did.
    pub(crate) fn add_sender(&mut self, daemon: &TestDaemon, dice: &mut Dice, id: u32) -> bool {
        let mut child = self.hire(daemon, dice);
        if !child.ask(&format!("sender {}", self.name())).starts_with("ok") {
            return false;
        }
        let progress = open_file(daemon, &format!("progress{id}"));
        let (bytes, seed) = (numbered::BYTES_MIN as u64 + dice.below(180), dice.below(1 << 32));
        let command = self.kind.sends.command();
        child.tell(&format!("{command} {id} {bytes} {seed} {}", progress.display()));
        self.senders.push(Worker::new(child));
        self.progress.push((id, progress));
        true
    }

    /// Adds a receiver to a group.
    pub(crate) fn add_receiver(&mut self, daemon: &TestDaemon, dice: &mut Dice, group: usize) {
        let mut child = self.hire(daemon, dice);
        let name = self.name();
        let open = match self.kind.groups.get(group) {
            Some((group, _)) => format!("receiver {name} {group}"),
            None => format!("receiver {name}"),
        };
        // Where there is one place it is free once the daemon has seen that whoever had it is dead.
        wait_until("there is a place to receive", || child.ask(&open).starts_with("ok"));
        let log = open_file(daemon, &format!("{name}-{}", self.logs.len()));
        let receives = self.kind.receives.command();
        // What a lossy group gives back does not come again.
        let how = if self.kind.is_lossy(group) { "labour_receive plain" } else { receives };
        child.tell(&format!("{how} {} {}", dice.below(1 << 32), log.display()));
        self.logs.push((group, log));
        self.receivers.push((group, Worker::new(child)));
    }

    /// A process, perhaps of another uid.
    fn hire(&self, daemon: &TestDaemon, dice: &mut Dice) -> Child {
        let uid = UIDS.get(dice.below(1 + UIDS.len() as u64) as usize);
        daemon.worker(uid.copied().filter(|_| self.kind.strangers))
    }

    /// How many messages a sender has been told that it sent.
    pub(crate) fn sent(&self, progress: &Path) -> u64 {
        if self.kind.sends.tells() {
            return self.told(progress).len() as u64;
        }
        let bytes = std::fs::read(progress).unwrap_or_default();
        <[u8; 8]>::try_from(bytes).map_or(0, u64::from_le_bytes)
    }

    /// What a sender knows of each of its messages, where it keeps a log of that.
    pub(crate) fn told(&self, progress: &Path) -> Vec<Entry> {
        if self.kind.sends.tells() { numbered::read_log(progress) } else { Vec::new() }
    }
}

/// A file that a worker of any uid writes.
fn open_file(daemon: &TestDaemon, name: &str) -> PathBuf {
    let path = daemon.folder().join(name);
    File::create_new(&path).expect("a file of ours");
    let anybody = std::fs::Permissions::from_mode(0o666);
    std::fs::set_permissions(&path, anybody).expect("a file of ours");
    path
}
