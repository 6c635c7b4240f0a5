//! Much traffic between many processes: everything arrives, once, in order, and nobody sleeps through it.

use std::path::PathBuf;

use libipc::{Client, MailboxOptions};
use tests::numbered::{Census, check_order, read_log};
use tests::{Child, TestDaemon};

/// Senders and receivers at one mailbox, each a process.
struct Crowd<'a> {
    daemon: &'a TestDaemon,
    client: Client,
    senders: Vec<Child>,
    receivers: Vec<Child>,
}

impl<'a> Crowd<'a> {
    fn gather(daemon: &'a TestDaemon, options: &MailboxOptions, each: [usize; 2]) -> Self {
        let client = daemon.client_with("crowded", options);
        let children = |count, open: &str| {
            let child = || {
                let mut child = daemon.child();
                child.done(open);
                child
            };
            std::iter::repeat_with(child).take(count).collect()
        };
        let [senders, receivers] = each;
        let (senders, receivers) =
            (children(senders, "sender crowded"), children(receivers, "receiver crowded"));
        Self { daemon, client, senders, receivers }
    }

    /// Has some sleep at once where there is nothing to do, so that all depends on their wake-ups.
    fn sleepy(mut self, [senders, receivers]: [bool; 2]) -> Self {
        let senders = self.senders.iter_mut().filter(|_| senders);
        for child in senders.chain(self.receivers.iter_mut().filter(|_| receivers)) {
            child.done("never_spin");
        }
        self
    }

    fn log(&self, receiver: usize) -> PathBuf {
        self.daemon.folder().join(format!("log{receiver}"))
    }

    /// Every sender sends so many messages; the receivers take them all; nothing is amiss.
    fn moves(mut self, messages: u64, bytes: usize) {
        for index in 0..self.receivers.len() {
            let log = self.log(index);
            self.receivers[index].tell(&format!("drain {}", log.display()));
        }
        for (id, sender) in self.senders.iter_mut().enumerate() {
            sender.tell(&format!("send_numbered {id} 0 {messages} {bytes}"));
        }
        for sender in &mut self.senders {
            assert_eq!(sender.slow_answer(), "ok");
        }
        self.client.close("crowded").expect("ours to close");
        for receiver in &mut self.receivers {
            let answer = receiver.slow_answer();
            assert!(answer.starts_with("ok"), "{answer}");
        }
        let logs: Vec<_> = (0..self.receivers.len()).map(|i| read_log(&self.log(i))).collect();
        logs.iter().for_each(|log| check_order(log));
        let census = Census::of(&logs);
        for id in 0..self.senders.len() {
            census.check_exactly_once(id as u32, messages);
        }
        let summary = self.client.show("crowded").expect("ours to see").summary;
        assert_eq!(summary.sent_messages, messages * self.senders.len() as u64);
        assert_eq!((summary.queued_messages, summary.queued_bytes), (0, 0));
        self.client.delete("crowded").expect("ours to delete");
        for index in 0..self.receivers.len() {
            std::fs::remove_file(self.log(index)).expect("a log");
        }
    }
}

#[test]
fn four_senders_and_four_receivers_move_a_million_messages_exactly_once_and_in_order() {
    let daemon = TestDaemon::start(&[]);
    let options = MailboxOptions::new().capacity_bytes(64 << 10);
    Crowd::gather(&daemon, &options, [4, 4]).moves(250_000, 32);
}

#[test]
fn a_lane_that_starts_100_records_before_its_position_wraps_carries_on() {
    // A record of a 32-byte message takes 3 granules; position has 48 bits.
    let first = (1u64 << 48) - 300;
    let daemon = TestDaemon::start(&["--first-position", &first.to_string()]);
    let options = MailboxOptions::new().capacity_bytes(4 << 10);
    Crowd::gather(&daemon, &options, [2, 2]).moves(10_000, 32);
}

#[test]
fn a_single_receiver_across_the_wrap_gets_all() {
    let first = (1u64 << 48) - 300;
    let daemon = TestDaemon::start(&["--first-position", &first.to_string()]);
    let options = MailboxOptions::new().capacity_bytes(4 << 10).receivers_max(1);
    Crowd::gather(&daemon, &options, [2, 1]).moves(10_000, 32);
}

/// A lane that holds one message at a time: every message needs both sides to wake each other.
fn one_record() -> MailboxOptions {
    MailboxOptions::new().capacity_bytes(4 << 10).receivers_max(16).lanes_max(16)
}

const FILLS_A_LANE: usize = 4080;

#[test]
fn no_wake_up_is_lost_between_ten_senders_and_ten_receivers_of_one_record_lanes() {
    let daemon = TestDaemon::start(&[]);
    Crowd::gather(&daemon, &one_record(), [10, 10]).moves(10_000, FILLS_A_LANE);
}

#[test]
fn no_wake_up_is_lost_where_nobody_spins() {
    let daemon = TestDaemon::start(&[]);
    Crowd::gather(&daemon, &one_record(), [10, 10])
        .sleepy([true, true])
        .moves(10_000, FILLS_A_LANE);
}

#[test]
fn no_wake_up_is_lost_where_the_kernel_refuses_the_barrier() {
    let daemon = TestDaemon::start(&["--no-barrier"]);
    Crowd::gather(&daemon, &one_record(), [10, 10])
        .sleepy([true, true])
        .moves(10_000, FILLS_A_LANE);
}

/// With one of each, nobody else's wake-up covers for one that is lost: the first is the last. Where one
/// side spins, it acts within the very instant in which the other goes to sleep.
#[test]
fn no_wake_up_is_lost_between_one_sender_and_one_receiver_whoever_sleeps() {
    let daemon = TestDaemon::start(&[]);
    for receivers_max in [1, 2] {
        for sleepy in [[true, false], [false, true], [true, true]] {
            let options = one_record().receivers_max(receivers_max);
            let crowd = Crowd::gather(&daemon, &options, [1, 1]);
            crowd.sleepy(sleepy).moves(50_000, FILLS_A_LANE);
        }
    }
}
