//! Members of other uids that mean harm, as real processes, while honest ones work. What each of them can do to
//! others, and cannot, stands in the table of `docs/security.md`, which names these tests.
//!
//! The honest receiver is in this process, so that a build with AddressSanitizer looks over its shoulder.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::scope;
use std::time::{Duration, Instant};

use libipc::{
    Client, Corrupt, MailboxOptions, ReceiveError, Receiver, SendError, SlowGroup, TryReceiveError,
};
use tests::numbered::{self, Census, Entry, check_order};
use tests::{
    Baseline, Child, DAEMON_UID, Dice, Got, TestDaemon, UIDS, patience, seed, skip_unless_root,
    wait_until,
};

/// The number with which the honest sender signs.
const HONEST: u32 = 1;

const MESSAGE_BYTES: usize = 48;

fn small() -> MailboxOptions {
    MailboxOptions::new().capacity_bytes(4096).receivers_max(8).lanes_max(16)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_millis(20)
}

/// Has a child of another uid do harm until [`end`] is called.
fn menace(daemon: &TestDaemon, command: &str) -> Child {
    let mut child = daemon.child_as(UIDS[0]);
    assert_eq!(child.ask(command), "ok at it");
    child
}

/// Ends the harm; returns how much was done.
fn end(mut menace: Child) -> u64 {
    menace.tell("enough");
    let answer = menace.slow_answer();
    let words: Vec<_> = answer.split(' ').collect();
    let ["ok", _rounds, done] = words[..] else { panic!("{answer}") };
    done.parse().expect("a number")
}

/// A child of a second uid that sends so many numbered messages.
fn honest_sender(daemon: &TestDaemon, mailbox: &str, messages: u64) -> Child {
    let mut child = daemon.child_as(UIDS[1]);
    child.done(&format!("sender {mailbox}"));
    child.tell(&format!("send_numbered {HONEST} 0 {messages} {MESSAGE_BYTES}"));
    child
}

/// What one of the honest receivers has seen.
#[derive(Default)]
struct Seen {
    honest: Vec<Entry>,
    from_others: u64,
    corrupt: Vec<Corrupt>,
}

impl Seen {
    /// Receives until so many messages of the honest sender have come to all receivers together.
    fn receive(receiver: &mut Receiver, came: &AtomicU64, messages: u64) -> Self {
        let mut seen = Self::default();
        let mut last = (Instant::now(), 0);
        while came.load(Relaxed) < messages {
            let progress = came.load(Relaxed);
            if progress != last.1 {
                last = (Instant::now(), progress);
            }
            assert!(last.0.elapsed() < tests::PATIENCE, "stuck after {progress} messages");
            match receiver.receive_deadline(soon()) {
                Ok(delivery) if delivery.sender().uid == UIDS[1] => {
                    seen.honest.push(numbered::read(delivery.bytes(), delivery.attempts()));
                    delivery.acknowledge();
                    came.fetch_add(1, Relaxed);
                }
                Ok(delivery) => {
                    assert!(delivery.bytes().len() <= 4096, "longer than its lane");
                    // Every byte of it is there to be read.
                    std::hint::black_box(
                        delivery.bytes().iter().map(|&byte| u64::from(byte)).sum::<u64>(),
                    );
                    delivery.acknowledge();
                    seen.from_others += 1;
                }
                Err(ReceiveError::Corrupt(corrupt)) => seen.corrupt.push(corrupt),
                Err(ReceiveError::TimedOut) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
        seen
    }

    /// Holds that all messages of the honest sender came once and in order.
    fn check_exact(all: Vec<Self>, messages: u64) -> (u64, Vec<Corrupt>) {
        let from_others = all.iter().map(|seen| seen.from_others).sum();
        let (logs, corrupt): (Vec<_>, Vec<_>) =
            all.into_iter().map(|seen| (seen.honest, seen.corrupt)).unzip();
        logs.iter().for_each(|log| check_order(log));
        Census::of(&logs).check_exactly_once(HONEST, messages);
        assert!(
            logs.iter().flatten().all(|entry| entry.attempts == 0),
            "none was in another's hand"
        );
        (from_others, corrupt.into_iter().flatten().collect())
    }
}

#[test]
fn who_writes_at_random_into_all_that_it_may_as_a_sender_spoils_its_own_lane_alone() {
    if skip_unless_root("a sender of another uid that scribbles") {
        return;
    }
    const MESSAGES: u64 = 50_000;
    const CORRUPT: usize = 10;
    let seed = seed();
    let daemon = TestDaemon::start(&["--log", "error"]);
    let client = daemon.client();
    let before = Baseline::take(&daemon, &client);
    for receivers_max in [1, 8] {
        client.create("orders", &small().receivers_max(receivers_max).mode(0o622)).unwrap();
        let mut receivers: Vec<_> =
            (0..receivers_max.min(2)).map(|_| client.receiver("orders").unwrap()).collect();
        let menace = menace(&daemon, &format!("menace scribble send orders {seed}"));
        let mut sender = daemon.child_as(UIDS[1]);
        sender.done("sender orders");
        let (mut corrupt, mut from_others, mut rounds) = (Vec::new(), 0, 0);
        let deadline = patience();
        while corrupt.len() < CORRUPT {
            assert!(
                Instant::now() < deadline,
                "{} lanes corrupt after {rounds} rounds",
                corrupt.len()
            );
            sender.tell(&format!("send_numbered {HONEST} 0 {MESSAGES} {MESSAGE_BYTES}"));
            let came = &AtomicU64::new(0);
            let seen = scope(|scope| {
                let receive =
                    |receiver| scope.spawn(move || Seen::receive(receiver, came, MESSAGES));
                let threads: Vec<_> = receivers.iter_mut().map(receive).collect();
                threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
            });
            assert_eq!(sender.slow_answer(), "ok");
            let (others, found) = Seen::check_exact(seen, MESSAGES);
            from_others += others;
            corrupt.extend(found);
            rounds += 1;
        }
        let written = end(menace);
        println!(
            "{receivers_max} receivers, {rounds} rounds: {written} words written at random, {} lanes corrupt, \
             {from_others} messages from there",
            corrupt.len()
        );
        for found in &corrupt {
            match found.peer {
                Some(peer) => assert_eq!(peer.uid, UIDS[0], "{found}"),
                None => assert!(receivers_max > 1, "{found}"),
            }
        }
        drop((sender, receivers));
        client.delete("orders").unwrap();
    }
    before.check(&daemon, &client);
}

/// Uses the mailbox until told: nothing but an error may come of it.
fn use_until(client: &Client, over: &AtomicBool) -> (u64, u64) {
    let (mut sender, mut receiver) =
        (client.sender("orders").unwrap(), client.receiver("orders").unwrap());
    let (mut sent, mut received) = (0, 0);
    while !over.load(Relaxed) {
        match sender.send_deadline(&[7; 64], soon()) {
            Ok(()) => sent += 1,
            Err(SendError::TimedOut) => {}
            // Its receivers are not to be believed: it begins anew.
            Err(SendError::Corrupt(_)) => {
                if let Ok(another) = client.sender("orders") {
                    sender = another;
                }
            }
            Err(error) => panic!("{error:?}"),
        }
        for _ in 0..4 {
            match receiver.try_receive() {
                Ok(delivery) => {
                    assert!(delivery.bytes().len() <= 4096);
                    delivery.acknowledge();
                    received += 1;
                }
                Err(TryReceiveError::Empty | TryReceiveError::Corrupt(_)) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
    }
    (sent, received)
}

#[test]
fn who_writes_at_random_into_all_that_it_may_as_a_receiver_spoils_its_own_mailbox_alone() {
    if skip_unless_root("a receiver of another uid that scribbles") {
        return;
    }
    const MESSAGES: u64 = 300_000;
    let seed = seed();
    let daemon = TestDaemon::start(&["--log", "error"]);
    let client = daemon.client();
    let before = Baseline::take(&daemon, &client);
    client.create("orders", &small().mode(0o666)).unwrap();
    client.create("other", &small().mode(0o622)).unwrap();
    let mut at_other = client.receiver("other").unwrap();
    let menace = menace(&daemon, &format!("menace scribble receive orders {seed}"));
    let (over, came) = (AtomicBool::new(false), AtomicU64::new(0));
    let (used, seen) = scope(|scope| {
        let using = scope.spawn(|| use_until(&client, &over));
        let mut sender = honest_sender(&daemon, "other", MESSAGES);
        let seen = Seen::receive(&mut at_other, &came, MESSAGES);
        assert_eq!(sender.slow_answer(), "ok");
        over.store(true, Relaxed);
        wait_until("nobody hangs", || using.is_finished());
        (using.join().expect("no panic"), seen)
    });
    let (_, corrupt) = Seen::check_exact(vec![seen], MESSAGES);
    assert_eq!(corrupt.len(), 0, "nobody writes there");
    let written = end(menace);
    println!("{written} words written at random; the spoilt mailbox: {used:?} sent and received");
    assert!(written > 1000, "{written}");
    drop(at_other);
    for name in ["orders", "other"] {
        client.delete(name).unwrap();
    }
    before.check(&daemon, &client);
}

/// Holds that somebody of another uid connects, sends and is received from while one uid floods the daemon, which
/// has all back afterwards.
fn flooded(command: &str, flags: &[&str]) {
    const MESSAGES: u64 = 20_000;
    if skip_unless_root(command) {
        return;
    }
    let seed = seed();
    // Without the rights of root: it is that whom the kernel sets limits.
    let flags = [&["--sessions-max", "200", "--log", "error"], flags].concat();
    let daemon = TestDaemon::start_kept_as(DAEMON_UID, 20_000, &flags);
    let client = daemon.client();
    let before = Baseline::take(&daemon, &client);
    client.create("orders", &small().mode(0o622)).unwrap();
    let mut receiver = client.receiver("orders").unwrap();
    let mut honest = daemon.child_as(UIDS[1]);
    // Before strangers have all the lanes of that mailbox, which they may have since they may send.
    let mut sender = daemon.child_as(UIDS[1]);
    sender.done("sender orders");
    let quiet = honest.done("time_connections 50");
    let menace = menace(&daemon, &format!("{command} {seed}"));
    honest.tell("time_connections 50");
    let flooded = honest.slow_answer();
    sender.tell(&format!("send_numbered {HONEST} 0 {MESSAGES} {MESSAGE_BYTES}"));
    let seen = Seen::receive(&mut receiver, &AtomicU64::new(0), MESSAGES);
    Seen::check_exact(vec![seen], MESSAGES);
    assert_eq!(sender.slow_answer(), "ok");
    let done = end(menace);
    println!(
        "{command}: {done}; microseconds to connect, middle and longest: {quiet}, then {flooded}"
    );
    assert!(done > 200, "it was a flood: {done}");
    assert!(flooded.starts_with("ok"), "{flooded}");
    drop((receiver, sender, honest));
    for name in ["orders", "flood0", "flood1", "flood2", "flood3"] {
        let _ = client.delete(name);
    }
    before.check(&daemon, &client);
}

#[test]
fn a_flood_of_requests_whose_answers_nobody_reads_keeps_nobody_out() {
    flooded("menace requests orders", &[]);
}

#[test]
fn a_flood_of_half_messages_keeps_nobody_out() {
    flooded("menace halves", &[]);
}

#[test]
fn a_flood_of_descriptors_keeps_nobody_out_and_leaves_none() {
    flooded("menace descriptors", &[]);
}

#[test]
fn a_flood_of_descriptors_that_the_kernel_lets_through_keeps_nobody_out_and_leaves_none() {
    flooded("menace descriptors", &["--take-descriptors"]);
}

#[test]
fn who_holds_a_message_for_ever_keeps_up_its_sender_alone() {
    if skip_unless_root("a receiver of another uid that never acknowledges") {
        return;
    }
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small().mode(0o666));
    let mut held_up = daemon.child_as(UIDS[1]);
    held_up.done("sender orders");
    held_up.done("send held");
    let mut menace = daemon.child_as(UIDS[0]);
    menace.done("receiver orders");
    assert_eq!(menace.got("hold").text, "held");
    let mut receiver = client.receiver("orders").unwrap();
    // A lane is a ring: what is behind the held message is received, its room is not free before the held one's.
    let mut sent = 0;
    while held_up.ask("try_send behind") == "ok" {
        sent += 1;
        assert_eq!(receiver.receive_deadline(patience()).unwrap().into_bytes(), b"behind");
    }
    assert!(sent >= 64, "{sent}");
    held_up.refused("send_within 20 late", "TimedOut");
    let mut sender = client.sender("orders").unwrap();
    for n in 0..2000u32 {
        sender.send_deadline(&n.to_le_bytes(), patience()).unwrap();
        let delivery = receiver.receive_deadline(patience()).unwrap();
        assert_eq!(delivery.into_bytes(), n.to_le_bytes());
    }
    menace.kill();
    let delivery = receiver.receive_deadline(patience()).unwrap();
    assert_eq!((delivery.bytes(), delivery.attempts()), (&b"held"[..], 1));
    delivery.acknowledge();
    held_up.done("send free");
    assert_eq!(receiver.receive_deadline(patience()).unwrap().into_bytes(), b"free");
}

#[test]
fn who_never_receives_keeps_up_senders_of_that_mailbox_alone() {
    if skip_unless_root("a receiver of another uid that never receives") {
        return;
    }
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small().mode(0o666));
    client.create("other", &small()).unwrap();
    let mut menace = daemon.child_as(UIDS[0]);
    menace.done("receiver orders");
    let mut sender = client.sender("orders").unwrap();
    while sender.try_send(&[0; 100]).is_ok() {}
    assert!(matches!(sender.send_deadline(&[0; 100], soon()), Err(SendError::TimedOut)));
    let (mut at_other, mut from_other) =
        (client.sender("other").unwrap(), client.receiver("other").unwrap());
    for n in 0..1000u32 {
        at_other.send(&n.to_le_bytes()).unwrap();
        assert_eq!(from_other.receive_deadline(patience()).unwrap().into_bytes(), n.to_le_bytes());
    }
    // It need not receive for another to.
    let mut receiver = client.receiver("orders").unwrap();
    assert_eq!(receiver.receive_deadline(patience()).unwrap().into_bytes(), [0; 100]);
    sender.send_deadline(&[0; 100], patience()).unwrap();
}

/// Waits until a child sleeps, and long enough for a robber to come by: without that the tests would show less, and
/// not fail.
fn asleep(child: &Child) {
    wait_until("it sleeps", || child.sleeps());
    std::thread::sleep(Duration::from_millis(5));
}

/// A receiver and a sender that sleep at once, as root and as a second uid.
fn sleepers(daemon: &TestDaemon, mailbox: &str) -> (Child, Child) {
    let (mut receiver, mut sender) = (daemon.child(), daemon.child_as(UIDS[1]));
    receiver.done(&format!("receiver {mailbox}"));
    sender.done(&format!("sender {}", mailbox.split(' ').next().expect("a name")));
    receiver.done("never_spin");
    sender.done("never_spin");
    (receiver, sender)
}

/// One who sleeps in `receive` gets what comes, and one who sleeps for room has it when it is there.
fn all_wake(receiver: &mut Child, sender: &mut Child, times: u32) {
    for round in 0..times {
        receiver.tell("receive");
        asleep(receiver);
        sender.done(&format!("send {round}"));
        assert_eq!(Got::parse(&receiver.answer()).text, round.to_string());
    }
    let fill = |sender: &mut Child| while sender.ask("try_send sixteen.bytes..") == "ok" {};
    for _ in 0..times {
        fill(sender);
        sender.tell("send sixteen.bytes..");
        // Past its first sleep, which is short.
        (0..4).for_each(|_| asleep(sender));
        while receiver.ask("try_receive").starts_with("got") {}
        assert_eq!(sender.answer(), "ok");
        while receiver.ask("try_receive").starts_with("got") {}
    }
}

#[test]
fn a_receiver_that_robs_others_of_their_wake_ups_costs_them_time_and_no_message() {
    if skip_unless_root("a robber of another uid") {
        return;
    }
    let daemon = TestDaemon::start(&[]);
    let _client = daemon.client_with("bells", &small().mode(0o666));
    let (mut receiver, mut sender) = sleepers(&daemon, "bells");
    // It comes when somebody sleeps already.
    receiver.tell("receive");
    asleep(&receiver);
    let menace = menace(&daemon, "rob receive bells");
    std::thread::sleep(Duration::from_millis(50));
    sender.done("send first");
    assert_eq!(Got::parse(&receiver.answer()).text, "first");
    all_wake(&mut receiver, &mut sender, 20);
    let carried_off = end(menace);
    println!("{carried_off} sleepers carried off");
    assert!(carried_off > 0, "it has robbed nobody");
}

/// Holds that all wake of whom a receiver of another uid robs, in whatever way.
fn robbed(options: &MailboxOptions, mailbox: &str, command: &str) {
    if skip_unless_root("a robber of another uid") {
        return;
    }
    let daemon = TestDaemon::start(&[]);
    let _client = daemon.client_with("bells", options);
    let (mut receiver, mut sender) = sleepers(&daemon, mailbox);
    let menace = menace(&daemon, command);
    all_wake(&mut receiver, &mut sender, 20);
    let carried_off = end(menace);
    println!("{carried_off} sleepers carried off");
    assert!(carried_off > 0, "it has robbed nobody");
}

#[test]
fn a_receiver_of_one_group_that_robs_another_costs_it_time_and_no_message() {
    let options = small().mode(0o666).group("honest", SlowGroup::Block).unwrap();
    let options = options.group("robbers", SlowGroup::DropOldest).unwrap();
    robbed(&options, "bells honest", "rob receive bells robbers");
}

#[test]
fn a_receiver_that_has_closed_its_link_and_robs_others_costs_them_no_more() {
    robbed(&small().mode(0o666), "bells", "leave_and_rob receive bells");
}

#[test]
fn of_two_receivers_the_second_gets_what_the_first_leaves_though_a_sender_robs_its_own_sleepers() {
    if skip_unless_root("a robber of another uid") {
        return;
    }
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("batons", &small().mode(0o622));
    // Its lane and its bell come first.
    let menace = menace(&daemon, "rob send batons");
    let mut receivers = [daemon.child(), daemon.child()];
    for receiver in &mut receivers {
        receiver.done("receiver batons");
        receiver.done("never_spin");
    }
    let mut sender = client.sender("batons").unwrap();
    for _ in 0..10 {
        receivers.iter_mut().for_each(|receiver| receiver.tell("receive"));
        receivers.iter().for_each(asleep);
        // One ring for two messages: the second receiver is woken by the first.
        sender.send_batch(&["one", "two"]).unwrap();
        let mut got = receivers.each_mut().map(|receiver| Got::parse(&receiver.answer()).text);
        got.sort();
        assert_eq!(got, ["one", "two"]);
    }
    assert!(end(menace) > 0, "it has robbed nobody");
}

/// Somebody who does one thing again and again, and is stopped in the middle of it.
struct Stranger {
    what: &'static str,
    child: Child,
}

impl Stranger {
    fn new(daemon: &TestDaemon, what: &'static str, commands: &[&str]) -> Self {
        let mut child = daemon.child_as(UIDS[0]);
        let (last, first) = commands.split_last().expect("a command");
        first.iter().for_each(|command| drop(child.done(command)));
        child.tell(last);
        Self { what, child }
    }

    fn is_at_it(&mut self) {
        assert_eq!(self.child.try_answer(), None, "{} ended early", self.what);
    }
}

/// A log that any uid may write.
fn log_for_all(daemon: &TestDaemon) -> PathBuf {
    let log = daemon.folder().join("log");
    std::fs::write(&log, []).expect("a file in our folder");
    std::fs::set_permissions(&log, PermissionsExt::from_mode(0o666)).expect("a file's mode");
    log
}

/// Strangers that send, receive, sleep and ask the daemon, without end. What is received is logged.
fn strangers(daemon: &TestDaemon, log: &str, seed: u64) -> Vec<Stranger> {
    let churn = format!("churn {seed} churn {}", daemon.folder().join("never").display());
    let drain = format!("drain_logged {log}");
    let new = |what, commands: &[&str]| Stranger::new(daemon, what, commands);
    vec![
        new("one that sends", &["sender orders", "send_numbered 7 0 1000000000 48"]),
        new("one that sends batches", &["sender orders", "send_numbered_batches 8 1000000000 24"]),
        new("one that waits for room", &["sender full", "send_numbered 9 0 1000000000 48"]),
        new("one that receives", &["receiver orders", &drain]),
        // From a process that sends nothing.
        new("one that sleeps", &["receiver quiet", "never_spin", "receive_from 1"]),
        new("one that asks the daemon", &[&churn]),
    ]
}

#[test]
fn who_is_stopped_in_the_middle_of_whatever_it_does_keeps_no_other_from_sending_and_receiving() {
    const ROUNDS: u32 = 40;
    const MESSAGES: u64 = 300;
    /// The first number with which honest senders sign.
    const FIRST: u32 = 100;
    if skip_unless_root("members of another uid that are stopped") {
        return;
    }
    let seed = seed();
    let mut dice = Dice::new(seed);
    let daemon = TestDaemon::start(&["--log", "error"]);
    let client = daemon.client_with("orders", &small().mode(0o666));
    for name in ["full", "quiet"] {
        client.create(name, &small().mode(0o666)).unwrap();
    }
    let log = log_for_all(&daemon);
    let mut strangers = strangers(&daemon, log.to_str().expect("text"), seed);
    let (mut receiver, mut got) = (client.receiver("orders").unwrap(), Vec::new());
    let mut take_one = |deadline| {
        let delivery = receiver.receive_deadline(deadline).ok()?;
        got.push(numbered::read(delivery.bytes(), delivery.attempts()));
        delivery.acknowledge();
        Some(())
    };
    let mut sleeper = daemon.child();
    sleeper.done("receiver quiet");
    sleeper.done("never_spin");
    for round in 0..ROUNDS {
        // One of them, or all.
        let chosen = dice.below(strangers.len() as u64 + 2) as usize;
        std::thread::sleep(Duration::from_micros(dice.below(3000)));
        strangers.iter_mut().for_each(Stranger::is_at_it);
        let all = chosen >= strangers.len();
        let stopped = if all { &strangers[..] } else { &strangers[chosen..=chosen] };
        stopped.iter().for_each(|stranger| stranger.child.stop(true));
        let place = || {
            format!(
                "round {round}, stopped: {}, seed {seed}",
                if all { "all" } else { stopped[0].what }
            )
        };
        // Who comes now has a lane that none of them has touched.
        let mut sender = daemon.child_as(UIDS[1]);
        sender.done("sender orders");
        sender.tell(&format!("send_numbered {} 0 {MESSAGES} {MESSAGE_BYTES}", FIRST + round));
        let deadline = patience();
        let mut answer = None;
        while answer.is_none() {
            assert!(Instant::now() < deadline, "held up: {}", place());
            (0..100).take_while(|_| take_one(soon()).is_some()).for_each(drop);
            answer = sender.try_answer();
        }
        assert_eq!(answer.as_deref(), Some("ok"), "{}", place());
        // And who sleeps is woken, though another sleeper may be rung for in its place.
        sleeper.tell("receive");
        wait_until("it sleeps", || sleeper.sleeps());
        sender.done("sender quiet");
        sender.done(&format!("send {round}"));
        let woken = sleeper.answer_by(patience()).unwrap_or_else(|| panic!("asleep: {}", place()));
        assert_eq!(Got::parse(&woken).text, round.to_string());
        stopped.iter().for_each(|stranger| stranger.child.stop(false));
    }
    // What is still on its way comes, too.
    client.close("orders").unwrap();
    let drained = strangers[3].child.slow_answer();
    assert!(drained.starts_with("ok"), "{drained}");
    while take_one(soon()).is_some() {}
    let logs = [got, numbered::read_log(&log)];
    logs.iter().for_each(|log| check_order(log));
    let census = Census::of(&logs);
    (FIRST..FIRST + ROUNDS).for_each(|sender| census.check_exactly_once(sender, MESSAGES));
    println!("{} and {} messages received", logs[0].len(), logs[1].len());
}
