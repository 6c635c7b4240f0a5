//! The daemon dies at any moment, under load, and is started again: traffic goes on, nothing is lost or doubled, and
//! everything is as it was. `SEED=n` repeats the dice.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use libipc::{
    Buffering, Client, MailboxDetail, MailboxOptions, Owner, Receivers, ServerStatus, SlowGroup,
    TryReceiveError,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::numbered::{Census, check_order, read_log};
use tests::shell::Shell;
use tests::{Baseline, Child, Dice, TestDaemon, patience, seed, wait_until};

const WITHOUT_END: u64 = 1 << 40;

fn small() -> MailboxOptions {
    MailboxOptions::new().capacity_bytes(4096).receivers_max(4).lanes_max(64)
}

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).expect("a process of ours");
}

/// Waits until another daemon than the one of this pid answers.
fn await_successor(daemon: &TestDaemon, client: &Client, dead: u32) {
    wait_until("a successor answers", || daemon.status(client).pid != dead);
}

/// One mailbox under load, and who is at it.
struct Stream {
    name: &'static str,
    senders: Vec<(u32, Child)>,
    receivers: Vec<(Child, PathBuf)>,
}

/// Everything that goes on while the daemon dies again and again.
struct Load<'a> {
    daemon: &'a TestDaemon,
    client: Client,
    streams: Vec<Stream>,
    tracked: Child,
    /// Those who ask the daemon all the time.
    asking: Vec<Child>,
    until: PathBuf,
}

const TRACKED: u32 = 99;

impl<'a> Load<'a> {
    fn new(daemon: &'a TestDaemon, dice: &mut Dice) -> Self {
        let client = daemon.client();
        let until = daemon.folder().join("until");
        let bounded = small();
        let rendezvous = small().buffering(Buffering::Rendezvous);
        let unbounded = small().buffering(Buffering::Unbounded);
        let exclusive = small().receivers(Receivers::Exclusive);
        let mailboxes = [
            ("bounded", bounded, 2, 2),
            ("rendezvous", rendezvous, 2, 1),
            ("unbounded", unbounded, 1, 1),
            ("exclusive", exclusive, 1, 2),
        ];
        let (mut id, mut streams) = (0, Vec::new());
        for (name, options, senders, receivers) in mailboxes {
            client.create(name, &options).expect("a mailbox");
            let mut stream = Stream { name, senders: Vec::new(), receivers: Vec::new() };
            for number in 0..receivers {
                let mut child = daemon.child();
                child.done(&format!("receiver {name}"));
                let log = daemon.folder().join(format!("log-{name}-{number}"));
                child.tell(&format!("drain_logged {}", log.display()));
                stream.receivers.push((child, log));
            }
            for _ in 0..senders {
                let mut child = daemon.child();
                child.done(&format!("sender {name}"));
                let progress = daemon.folder().join(format!("progress{id}"));
                let command = format!("send_numbered {id} 0 {WITHOUT_END} 48");
                child.tell(&format!("{command} {}", progress.display()));
                stream.senders.push((id, child));
                id += 1;
            }
            streams.push(stream);
        }
        let mut tracked = daemon.child();
        tracked.done("sender bounded");
        tracked.tell(&format!("send_tracked_numbered {TRACKED} 48 {}", until.display()));
        let mut asking = Vec::new();
        for prefix in ["one", "two"] {
            let mut child = daemon.child();
            child.tell(&format!("churn {} {prefix} {}", dice.below(1 << 30), until.display()));
            asking.push(child);
        }
        let mut child = daemon.child();
        let socket = daemon.socket();
        child.tell(&format!("connects {} {}", socket.display(), until.display()));
        asking.push(child);
        Self { daemon, client, streams, tracked, asking, until }
    }

    fn sent(&self, sender: u32) -> u64 {
        let path = self.daemon.folder().join(format!("progress{sender}"));
        let bytes = std::fs::read(path).unwrap_or_default();
        <[u8; 8]>::try_from(bytes).map_or(0, u64::from_le_bytes)
    }

    /// What each stream has sent so far, to see that traffic goes on.
    fn progress(&self) -> Vec<u64> {
        let streams = self.streams.iter();
        streams.map(|it| it.senders.iter().map(|(id, _)| self.sent(*id)).sum()).collect()
    }

    /// Ends all of it, and holds that every message came exactly once, in order.
    fn end(mut self) -> Client {
        std::fs::write(&self.until, "").expect("a file");
        for child in &mut self.asking {
            let answer = child.slow_answer();
            assert!(answer.starts_with("ok"), "{answer}");
        }
        let answer = self.tracked.slow_answer();
        let tracked: u64 = answer
            .strip_prefix("ok ")
            .unwrap_or_else(|| panic!("{answer}"))
            .parse()
            .expect("a number");
        let streams = std::mem::take(&mut self.streams);
        for mut stream in streams {
            self.client.close(stream.name).expect("ours to close");
            for (_, child) in &mut stream.senders {
                assert_eq!(child.slow_answer(), "error Closed");
            }
            for (child, _) in &mut stream.receivers {
                let answer = child.slow_answer();
                assert!(answer.starts_with("ok"), "{}: {answer}", stream.name);
            }
            let logs: Vec<_> = stream.receivers.iter().map(|(_, log)| read_log(log)).collect();
            // Of several receivers the next may be on while the one before writes its log.
            logs.iter().for_each(|log| check_order(log));
            let census = Census::of(&logs);
            for (id, _) in &stream.senders {
                println!("{}: sender {id} sent {}", stream.name, self.sent(*id));
                census.check_exactly_once(*id, self.sent(*id));
            }
            if stream.name == "bounded" {
                census.check_exactly_once(TRACKED, tracked);
            }
            let shown = self.client.show(stream.name).expect("ours to see").summary;
            assert_eq!((shown.queued_messages, shown.queued_bytes), (0, 0), "{}", stream.name);
            self.client.delete(stream.name).expect("ours to delete");
        }
        self.client
    }
}

#[test]
fn killed_again_and_again_under_load_the_daemon_loses_and_doubles_nothing() {
    let mut dice = Dice::new(seed());
    let daemon = TestDaemon::start_kept(&["--log", "warn"]);
    let client = daemon.client();
    let before = Baseline::take(&daemon, &client);
    let load = Load::new(&daemon, &mut dice);
    let mut stuck_at = load.progress();
    for round in 0..30 {
        // Also before it is ready, and while it takes over.
        std::thread::sleep(Duration::from_micros(dice.below(250_000)));
        daemon.kill_kept();
        if round % 10 == 9 {
            wait_until("every stream has gone on", || {
                let now = load.progress();
                now.iter().zip(&stuck_at).all(|(now, before)| now > before)
            });
            stuck_at = load.progress();
        }
    }
    drop(load.end());
    // The keeper takes note of what is given back a moment later.
    before.check(&daemon, &client);
}

#[test]
fn killed_while_everybody_asks_the_daemon_does_each_request_once() {
    let mut dice = Dice::new(seed());
    let daemon = TestDaemon::start_kept(&["--log", "warn"]);
    let client = daemon.client();
    let before = Baseline::take(&daemon, &client);
    let until = daemon.folder().join("until");
    let mut asking: Vec<Child> = Vec::new();
    for prefix in ["one", "two", "three"] {
        let mut child = daemon.child();
        child.tell(&format!("churn {} {prefix} {}", dice.below(1 << 30), until.display()));
        asking.push(child);
    }
    let mut child = daemon.child();
    child.tell(&format!("connects {} {}", daemon.socket().display(), until.display()));
    asking.push(child);
    for _ in 0..40 {
        // Mostly some requests later, at times before it is ready.
        std::thread::sleep(Duration::from_micros(dice.below(60_000)));
        let dead = daemon.kill_kept();
        if dice.below(4) > 0 {
            await_successor(&daemon, &client, dead);
        }
    }
    std::fs::write(&until, "").expect("a file");
    for child in &mut asking {
        let answer = child.slow_answer();
        assert!(answer.starts_with("ok"), "{answer}");
        println!("asked: {answer}");
    }
    drop(asking);
    before.check(&daemon, &client);
}

/// All that is told of the daemon and its mailboxes, but for what is a new process's own.
fn told(daemon: &TestDaemon, client: &Client) -> (Vec<MailboxDetail>, ServerStatus) {
    let names = client.list().expect("a list");
    let shown = names.iter().map(|it| client.show(it.name.as_str()).expect("ours to see"));
    let status = daemon.status(client);
    (shown.collect(), ServerStatus { pid: 0, descriptors: 0, ..status })
}

fn create_of_each_kind(client: &Client) {
    let groups = small().group("all", SlowGroup::Block).expect("a name");
    let groups = groups.group("some", SlowGroup::DropOldest).expect("a name");
    client.create("groups", &groups).expect("a mailbox");
    for name in ["orders", "closed", "draining", "held", "called"] {
        client.create(name, &small()).expect("a mailbox");
    }
    client.create("grows", &small().buffering(Buffering::Unbounded)).expect("a mailbox");
    client.create("mine", &small().lifetime(Owner::Process)).expect("a mailbox");
}

#[test]
fn everything_that_is_told_is_the_same_before_and_after() {
    let daemon = TestDaemon::start_kept(&[]);
    let client = daemon.client();
    create_of_each_kind(&client);
    let _inbox = client.register(Some("us"), &small()).expect("an inbox");
    let mut children: Vec<Child> = Vec::new();
    for name in ["groups", "orders", "closed", "draining", "held", "grows", "called"] {
        let mut child = daemon.child();
        child.done(&format!("sender {name}"));
        for number in 0..5 {
            child.done(&format!("send {number}"));
        }
        child.done("priority 7");
        child.done("send urgent");
        children.push(child);
    }
    let mut grown = daemon.child();
    grown.done("sender grows");
    grown.done("send_numbered 1 0 1000 48");
    // A receiver that died with a message in hand, one that lives with one, and a sender that is gone.
    let mut dead = daemon.child();
    dead.done("receiver held");
    assert_eq!(dead.got("hold").attempts, 0);
    dead.kill();
    let mut holds = daemon.child();
    holds.done("receiver orders");
    let held = holds.got("hold").text;
    drop(children.remove(0));
    let mut in_group = daemon.child();
    in_group.done("receiver groups some");
    let mut calls = daemon.child();
    calls.done("sender called");
    calls.tell("call what?");
    client.close("closed").expect("ours to close");
    assert_eq!(client.delete_when_drained("draining").expect("ours to delete"), 6);
    wait_until("the dead are known", || daemon.status(&client).sessions == 11);
    wait_until("the call is there", || {
        client.show("called").expect("ours").summary.queued_messages == 7
    });
    let before = told(&daemon, &client);
    assert!(before.0.iter().any(|it| it.members.iter().any(|member| !member.alive)));
    for _ in 0..3 {
        let dead = daemon.kill_kept();
        await_successor(&daemon, &client, dead);
        assert_eq!(told(&daemon, &client), before);
    }
    // And all of it goes on.
    holds.done("ack");
    assert_ne!(holds.got("receive").text, held);
    let mut next = daemon.child();
    next.done("receiver held");
    assert_eq!(next.got("receive").attempts, 1, "it comes again, marked");
    let mut server = daemon.child();
    server.done("receiver called");
    for _ in 0..6 {
        let _ = server.got("receive");
    }
    server.done("answer");
    assert_eq!(calls.answer(), "ok re: what?");
    let mut drains = daemon.child();
    drains.done("receiver draining");
    for _ in 0..6 {
        let _ = drains.got("receive");
    }
    wait_until("what was to be drained is gone", || client.show("draining").is_err());
    for name in ["groups", "orders", "closed", "held", "called", "grows", "mine"] {
        client.delete(name).expect("ours to delete");
    }
}

#[test]
fn what_happens_while_no_daemon_is_there_is_made_good() {
    let daemon = TestDaemon::start_kept(&[]);
    let client = daemon.client_with("orders", &small());
    let (mut sender, mut receiver, mut asks) = (daemon.child(), daemon.child(), daemon.child());
    sender.done("sender orders");
    receiver.done("receiver orders");
    sender.done("send first");
    sender.done("send second");
    assert_eq!(receiver.got("hold").text, "first");
    let mut doomed = daemon.child();
    doomed.done("sender orders");
    let mut waits = daemon.child();
    let down = daemon.stay_dead();
    // A receiver dies with a message in hand, a sender with nothing, and others go on.
    receiver.kill();
    doomed.kill();
    sender.done("send third");
    asks.tell("create new");
    waits.tell("sender orders");
    let socket = daemon.socket();
    let connects = std::thread::spawn(move || {
        libipc::ClientOptions::new().socket(socket).connect().map(|client| client.list())
    });
    assert!(asks.answer_by(Instant::now() + Duration::from_millis(300)).is_none());
    assert!(!client.daemon_is_away(), "a daemon that is to come back is not away");
    drop(down);
    assert_eq!(asks.answer(), "ok");
    assert_eq!(waits.answer(), "ok");
    let listed = connects.join().expect("no panic").expect("a session").expect("a list");
    assert_eq!(listed.len(), 2);
    wait_until("the dead are known", || daemon.status(&client).sessions == 4);
    let shown = client.show("orders").expect("ours to see");
    assert_eq!((shown.summary.senders, shown.summary.receivers), (2, 0));
    let mut next = client.receiver("orders").expect("a receiver");
    let delivery = next.receive_deadline(patience()).expect("a message");
    assert_eq!((delivery.bytes(), delivery.attempts()), (&b"first"[..], 1));
    delivery.acknowledge();
    for expected in ["second", "third"] {
        let delivery = next.receive_deadline(patience()).expect("a message");
        assert_eq!(delivery.into_bytes(), expected.as_bytes());
    }
}

#[test]
fn a_thousand_mailboxes_come_back_with_what_is_in_them() {
    let daemon = TestDaemon::start_kept(&["--log", "warn", "--descriptors-max", "10000"]);
    let client = daemon.client();
    let before = Baseline::take(&daemon, &client);
    for number in 0..1000u32 {
        let name = format!("m{number}");
        client.create(&name, &small()).expect("a mailbox");
        client.sender(&name).expect("a sender").send(&number.to_le_bytes()).expect("sent");
    }
    // Compared before anything is received, which would free what the senders have left.
    let listed = client.list().expect("a list");
    let pid = daemon.pid();
    let start = Instant::now();
    daemon.kill_kept();
    await_successor(&daemon, &client, pid);
    println!("1,000 mailboxes with a lane each are back after {:?}", start.elapsed());
    assert_eq!(client.list().expect("a list"), listed);
    for number in 0..1000u32 {
        let name = format!("m{number}");
        let mut receiver = client.receiver(&name).expect("a receiver");
        let delivery = receiver.receive_deadline(patience()).expect("its message");
        assert_eq!(delivery.into_bytes(), number.to_le_bytes());
        drop(receiver);
        client.delete(&name).expect("ours to delete");
    }
    before.check(&daemon, &client);
    let after = daemon.kill_kept();
    await_successor(&daemon, &client, after);
    before.check(&daemon, &client);
}

#[test]
fn a_daemon_without_its_keeper_goes_on_and_ends_in_order() {
    let daemon = TestDaemon::start_kept(&[]);
    let client = daemon.client_with("orders", &small());
    let mut child = daemon.child();
    child.done("sender orders");
    let pid = daemon.pid();
    signal(daemon.keeper_pid(), Signal::SIGKILL);
    wait_until("it says so", || daemon.log().contains("without a keeper"));
    assert_eq!(daemon.status(&client).pid, pid, "it goes on");
    child.done("send still");
    client.create("more", &small()).expect("a mailbox");
    // Nobody else can listen there meanwhile.
    let second = std::process::Command::new(tests::program("ipcd"))
        .arg("--socket")
        .arg(daemon.socket())
        .output();
    let said = String::from_utf8_lossy(&second.expect("it runs").stderr).into_owned();
    assert!(said.contains("another ipcd listens"), "{said}");
    signal(pid, Signal::SIGTERM);
    wait_until("it ends", || !daemon.socket().exists());
    child.refused("send on", "Deleted");
    wait_until("and tells the client", || client.daemon_is_away());
}

#[test]
fn a_keeper_that_is_told_to_stop_ends_its_daemon_in_order() {
    let mut daemon = TestDaemon::start_kept(&[]);
    let client = daemon.client_with("orders", &small());
    let mut child = daemon.child();
    child.done("sender orders");
    let dead = daemon.kill_kept();
    await_successor(&daemon, &client, dead);
    let pid = daemon.pid();
    let status = daemon.stop();
    assert_eq!(status.code(), Some(0), "{status}");
    child.refused("send on", "Deleted");
    assert!(!daemon.socket().exists());
    assert!(client.daemon_is_away());
    assert!(!PathBuf::from(format!("/proc/{pid}")).exists(), "no process is left");
}

#[test]
fn an_upgrade_starts_the_daemon_anew_with_all_that_it_has() {
    let daemon = TestDaemon::start_kept(&[]);
    let client = daemon.client_with("orders", &small());
    let (mut sender, mut receiver) = (daemon.child(), daemon.child());
    sender.done("sender orders");
    receiver.done("receiver orders");
    let mut pids = vec![daemon.pid()];
    for _ in 0..3 {
        let before = told(&daemon, &client);
        client.restart_daemon().expect("ours to restart");
        let pid = daemon.status(&client).pid;
        assert!(!pids.contains(&pid), "the answer comes from a new daemon");
        pids.push(pid);
        assert_eq!(told(&daemon, &client), before);
        sender.done("send on");
        assert_eq!(receiver.got("receive").text, "on");
    }
    assert!(!daemon.log().contains("the daemon died"), "{}", daemon.log());
    drop(client);
    let shell = Shell { daemon };
    let ran = shell.run("daemon upgrade --json", "");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let said = &ran.json()[0];
    assert_eq!(said["done"], "upgraded");
    assert_eq!(said["before"]["pid"], pids[3]);
    assert_eq!(said["after"]["pid"], shell.daemon.pid());
}

#[test]
fn an_upgrade_is_for_administrators_and_for_daemons_that_somebody_keeps() {
    let alone = TestDaemon::start(&[]);
    let refused = alone.client().restart_daemon().expect_err("nobody would start it again");
    assert!(refused.to_string().contains("nobody keeps what it has"), "{refused}");
    if tests::skip_unless_root("an upgrade asked for by another uid") {
        return;
    }
    let daemon = TestDaemon::start_kept(&[]);
    let pid = daemon.pid();
    let mut stranger = daemon.child_as(tests::UIDS[0]);
    stranger.refused("restart", "NotAdministrator");
    assert_eq!(daemon.status(&daemon.client()).pid, pid);
}

/// It is an entry in a table then, with no regions: what it was it is all the same, and so a successor finds it.
#[test]
fn a_mailbox_that_nobody_uses_takes_nothing_and_is_what_it_was_when_it_is_used_again() {
    let daemon = TestDaemon::start_kept(&["--log", "warn"]);
    let client = daemon.client();
    let groups = |it: MailboxOptions| {
        let it = it.group("one", SlowGroup::Block).expect("a name");
        it.group("other", SlowGroup::DropOldest).expect("a name")
    };
    client.create("idle", &groups(small())).expect("a mailbox");
    let before = daemon.status_alone(&client);
    for round in 1..=3u64 {
        let receivers = ["one", "other"].map(|it| client.receiver_in_group("idle", it));
        let mut sender = client.sender("idle").expect("a lane");
        sender.send(&round.to_le_bytes()).expect("there is room");
        for receiver in receivers {
            let mut receiver = receiver.expect("a place");
            let delivery = receiver.receive_deadline(patience()).expect("a message");
            assert_eq!(delivery.into_bytes(), round.to_le_bytes());
        }
        drop(sender);
        let is_given_back = || {
            let now = daemon.status(&client);
            (now.usage, now.descriptors) == (before.usage, before.descriptors)
        };
        wait_until("all is given back", is_given_back);
        assert_eq!(daemon.status(&client).resident_bytes, before.resident_bytes);
        client.close("idle").expect("ours to close");
        if round == 2 {
            let dead = daemon.kill_kept();
            await_successor(&daemon, &client, dead);
        }
        let shown = client.show("idle").expect("ours");
        let counts = (shown.summary.sent_messages, shown.summary.queued_messages);
        assert_eq!((counts, shown.summary.open), ((round, 0), false));
        assert_eq!((shown.descriptors, shown.reserved_bytes), (0, 0));
        let refused = client.sender("idle").expect_err("it is closed").to_string();
        assert!(refused.contains("closed"), "{refused}");
        let mut receiver = client.receiver_in_group("idle", "one").expect("a place");
        assert!(matches!(receiver.try_receive(), Err(TryReceiveError::Closed)), "it sees so");
        drop(receiver);
        client.open("idle").expect("ours to open");
    }
    client.delete("idle").expect("ours");
}
