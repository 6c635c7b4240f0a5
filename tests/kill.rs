//! SIGKILL at any moment: nothing is lost but what was never sent, nothing comes twice unmarked, and
//! nothing is left behind.
//!
//! `SEED=n` repeats the dice; which instruction a kill hits is the kernel's choice all the same.

use std::path::PathBuf;

use libipc::{Client, MailboxOptions, OnDeath};
use tests::numbered::{BYTES_MIN, check_order, read_log};
use tests::{Accounts, Balance, Baseline, Child, Dice, TestDaemon, seed, wait_until};

const MESSAGE_BYTES: usize = 48;
/// More than any sender sends before it is killed or told that the mailbox is closed.
const WITHOUT_END: u64 = 1 << 40;

/// A mailbox under load: senders that send without end, receivers that log what they take.
struct Load<'a> {
    daemon: &'a TestDaemon,
    client: Client,
    dice: Dice,
    senders: Vec<(u32, Child)>,
    senders_made: u32,
    logs: Vec<PathBuf>,
}

impl<'a> Load<'a> {
    fn new(daemon: &'a TestDaemon) -> Self {
        let options = MailboxOptions::new().capacity_bytes(4096).receivers_max(16).lanes_max(64);
        let client = daemon.client_with("busy", &options);
        let dice = Dice::new(seed());
        Self { daemon, client, dice, senders: Vec::new(), senders_made: 0, logs: Vec::new() }
    }

    fn progress(&self, sender: u32) -> PathBuf {
        self.daemon.folder().join(format!("progress{sender}"))
    }

    /// How many messages a sender has been told that it sent.
    fn sent(&self, sender: u32) -> u64 {
        let bytes = std::fs::read(self.progress(sender)).unwrap_or_default();
        <[u8; 8]>::try_from(bytes).map_or(0, u64::from_le_bytes)
    }

    fn add_sender(&mut self) {
        let id = self.senders_made;
        self.senders_made += 1;
        let mut child = self.daemon.child();
        child.done("sender busy");
        let progress = self.progress(id);
        let command = format!("send_numbered {id} 0 {WITHOUT_END} {MESSAGE_BYTES}");
        child.tell(&format!("{command} {}", progress.display()));
        self.senders.push((id, child));
    }

    fn receiver(&mut self) -> (Child, PathBuf) {
        let mut child = self.daemon.child();
        child.done("receiver busy");
        let log = self.daemon.folder().join(format!("log{}", self.logs.len()));
        self.logs.push(log.clone());
        (child, log)
    }

    fn draining_receiver(&mut self) -> (Child, PathBuf) {
        let (mut child, log) = self.receiver();
        child.tell(&format!("drain_logged {}", log.display()));
        (child, log)
    }

    /// Kills one of the senders, once it has sent at least something.
    fn kill_a_sender(&mut self) {
        let victim = self.dice.below(self.senders.len() as u64) as usize;
        let (id, mut child) = self.senders.swap_remove(victim);
        let enough = 1 + self.dice.below(50);
        wait_until("it has sent some", || self.sent(id) >= enough);
        let status = child.kill();
        assert!(!status.success(), "it was killed: {status}");
    }

    /// Ends the load: no sender is left, everything is taken, and accounted for.
    fn end(&mut self, receivers: Vec<(Child, PathBuf)>) -> Balance {
        for (_, mut child) in self.senders.drain(..) {
            child.kill();
        }
        let living = (0, receivers.len() as u32);
        wait_until("the daemon knows who is dead", || {
            let summary = self.summary();
            (summary.senders, summary.receivers) == living
        });
        self.client.close("busy").expect("ours to close");
        for (mut receiver, _) in receivers {
            let answer = receiver.answer();
            assert!(answer.starts_with("ok"), "{answer}");
        }
        wait_until("everything is taken", || self.summary().queued_bytes == 0);
        self.accounts()
    }

    fn summary(&self) -> libipc::MailboxSummary {
        self.client.show("busy").expect("ours to see").summary
    }

    /// Of every sender all that it was told to have sent came, and at most one message more, which it was
    /// not told of before it died; what came again a death explains.
    fn accounts(&self) -> Balance {
        let mut accounts = Accounts::default();
        self.logs.iter().for_each(|log| accounts.enter_log(log, 1));
        for id in 0..self.senders_made {
            accounts.check_sent("busy", id, self.sent(id), 1);
        }
        let balance = accounts.check("busy", OnDeath::Redeliver);
        println!("{balance:?}");
        balance
    }
}

/// Memory that the daemon itself holds, in pages.
fn daemon_pages(daemon: &TestDaemon) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{}/statm", daemon.pid()));
    let statm = statm.expect("a process of ours");
    statm.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a number of pages")
}

#[test]
fn senders_and_idle_receivers_killed_200_times_under_load_lose_nothing_and_leave_nothing() {
    let daemon = TestDaemon::start(&["--log", "warn"]);
    let client = daemon.client();
    let before = Baseline::take(&daemon, &client);
    let mut load = Load::new(&daemon);
    drop(client);
    let pages = daemon_pages(&daemon);
    let receivers = vec![load.draining_receiver(), load.draining_receiver()];
    for _ in 0..3 {
        load.add_sender();
    }
    for kill in 0..200 {
        if load.dice.below(3) < 2 {
            load.kill_a_sender();
            load.add_sender();
        } else {
            // It has taken some, and has nothing in hand: every message that it took is in its log.
            let (mut idle, log) = load.receiver();
            let count = load.dice.below(20);
            idle.done(&format!("take {count} {}", log.display()));
            let status = idle.kill();
            assert!(!status.success(), "kill {kill}: {status}");
        }
    }
    let balance = load.end(receivers);
    load.logs.iter().for_each(|log| check_order(&read_log(log)));
    assert_eq!(balance.deaths, 0, "nobody died with a message in hand: so none came again");
    load.client.delete("busy").expect("ours to delete");
    before.check(&daemon, &load.client);
    let grown = daemon_pages(&daemon).saturating_sub(pages);
    assert!(grown < 1024, "the daemon has grown by {grown} pages");
}

#[test]
fn receivers_killed_at_work_lose_nothing_and_what_comes_again_is_marked() {
    let daemon = TestDaemon::start(&["--log", "warn"]);
    let client = daemon.client();
    let before = Baseline::take(&daemon, &client);
    let mut load = Load::new(&daemon);
    drop(client);
    for _ in 0..3 {
        load.add_sender();
    }
    let mut receivers: Vec<_> = (0..3).map(|_| load.draining_receiver()).collect();
    for _ in 0..100 {
        let victim = load.dice.below(3) as usize;
        let (child, log) = &mut receivers[victim];
        let taken = || std::fs::metadata(&log).map_or(0, |file| file.len() / BYTES_MIN as u64);
        let enough = taken() + 1 + load.dice.below(20);
        wait_until("it has taken some", || taken() >= enough);
        child.kill();
        receivers[victim] = load.draining_receiver();
    }
    let balance = load.end(receivers);
    assert_eq!(balance.deaths, 100);
    load.client.delete("busy").expect("ours to delete");
    before.check(&daemon, &load.client);
}
