//! When much is asked for, or nothing is left: who asked is told by name, and everybody else is served.

use std::time::Instant;

use libipc::protocol::{MailboxName, Request};
use libipc::{Client, MailboxOptions, Observer, Refusal, RequestError, Role, Sender, SlowGroup};
use tests::{
    Baseline, Child, DAEMON_UID, RawClient, TestDaemon, UIDS, descriptors_of, limit,
    limit_address_space, patience, skip_unless_root, wait_until,
};

fn small() -> MailboxOptions {
    MailboxOptions::new().capacity_bytes(4096)
}

fn refusal<T>(result: Result<T, RequestError>) -> Option<Refusal> {
    match result {
        Ok(_) => None,
        Err(RequestError::Refused(refusal)) => Some(refusal),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_thousand_sessions_at_ten_mailboxes_are_served_and_leave_nothing() {
    const CHILDREN: usize = 4;
    const SESSIONS: usize = 250;
    let flags = ["--lanes-max", "20000", "--sessions-max", "2000", "--descriptors-max", "20000"];
    let daemon = TestDaemon::start(&[&flags[..], &["--log", "warn"]].concat());
    let client = daemon.client();
    let before = Baseline::take(&daemon, &client);
    let names: Vec<String> = (0..10).map(|n| format!("m{n}")).collect();
    for name in &names {
        client.create(name, &small().lanes_max(1024)).expect("a mailbox");
    }
    let mut children: Vec<_> = (0..CHILDREN).map(|_| daemon.child()).collect();
    for child in &mut children {
        child.tell(&format!("crowd {SESSIONS} {}", names.join(" ")));
    }
    for child in &mut children {
        assert_eq!(child.slow_answer(), "ok");
    }
    let status = daemon.status(&client);
    assert!(status.usage.sessions as usize > CHILDREN * SESSIONS, "{status:?}");
    assert_eq!(status.usage.lanes as usize, CHILDREN * SESSIONS * names.len());
    for name in &names {
        let mut receiver = client.receiver(name).expect("its place");
        for _ in 0..CHILDREN * SESSIONS {
            let delivery = receiver.receive_deadline(patience()).expect("one of each");
            assert_eq!(delivery.bytes(), name.as_bytes());
            delivery.acknowledge();
        }
        assert!(receiver.try_receive().is_err(), "one of each, and no more");
    }
    // Killed all at once.
    for child in &mut children {
        child.kill();
    }
    wait_until("the daemon has seen to the dead", || daemon.status(&client).sessions == 1);
    for name in &names {
        client.delete(name).expect("ours to delete");
    }
    before.check(&daemon, &client);
}

#[test]
fn a_flood_of_connections_by_one_uid_keeps_no_other_out() {
    if skip_unless_root("a flood of connections by another uid") {
        return;
    }
    let daemon = TestDaemon::start(&["--sessions-max", "200", "--log", "error"]);
    let client = daemon.client();
    let before = Baseline::take(&daemon, &client);
    let mut honest = daemon.child_as(UIDS[1]);
    let quiet = honest.done("time_connections 50");
    let mut flood = daemon.child_as(UIDS[0]);
    flood.tell("flood");
    wait_until("the flood has begun", || daemon.status(&client).sessions > 2);
    let flooded = honest.done("time_connections 50");
    // Another uid's limit is not reached by it either.
    let sessions: Vec<_> = (0..20).map(|_| daemon.client()).collect();
    assert!(sessions.iter().all(|session| session.status().is_ok()));
    drop(sessions);
    flood.tell("enough");
    let connections: u64 = flood.slow_answer().trim_start_matches("ok ").parse().expect("a number");
    println!(
        "microseconds, middle and longest: quiet {quiet}, in a flood of {connections}: {flooded}"
    );
    assert!(connections > 100, "it was a flood: {connections}");
    drop((flood, honest));
    before.check(&daemon, &client);
}

/// Takes what there is until the daemon has none left; returns why.
fn exhaust<T>(mut take: impl FnMut(usize) -> Result<T, RequestError>) -> (Vec<T>, Refusal) {
    let mut taken = Vec::new();
    for n in 0..100_000 {
        match take(n) {
            Ok(one) => taken.push(one),
            Err(error) => return (taken, refusal::<()>(Err(error)).expect("a refusal")),
        }
    }
    panic!("there is no end to it");
}

/// A mailbox that somebody looks at; none, where that cannot be.
fn in_use(
    client: &Client,
    name: &str,
    options: &MailboxOptions,
) -> Result<(String, Observer), RequestError> {
    client.create(name, options)?;
    let opened = client.observer(name);
    if opened.is_err() {
        client.delete(name).expect("ours");
    }
    Ok((name.to_owned(), opened?))
}

fn nobody_at(client: &Client) {
    wait_until("the lanes are free", || client.show("steady").expect("ours").summary.senders == 0);
}

/// What goes on while the daemon has nothing left to give.
fn goes_on(daemon: &TestDaemon, client: &Client) {
    let mut sender = client.sender("steady").expect("a lane");
    let mut receiver = client.receiver("steady").expect("a place");
    for n in 0..100u32 {
        sender.send(&n.to_le_bytes()).expect("there is room");
        let delivery = receiver.receive_deadline(patience()).expect("a message");
        assert_eq!(delivery.into_bytes(), n.to_le_bytes());
    }
    assert_eq!(daemon.status(client).mailboxes, client.list().expect("a list").len() as u64);
}

#[test]
fn out_of_descriptors_the_daemon_says_so_and_serves_everybody_else() {
    let daemon = TestDaemon::start(&["--log", "error"]);
    let client = daemon.client();
    let before = Baseline::take(&daemon, &client);
    client.create("steady", &small()).expect("a mailbox");
    limit(daemon.pid(), "--nofile=100:");
    for _ in 0..3 {
        let (lanes, why) = exhaust(|_| client.sender("steady"));
        assert!(matches!(why, Refusal::Resources { .. }), "{why}");
        assert!(why.advice().contains("descriptors"), "{}", why.advice());
        assert!(lanes.len() > 20, "{}", lanes.len());
        // It takes none, until somebody opens it.
        client.create("another", &small()).expect("a mailbox");
        let refused = refusal(client.receiver("another"));
        assert!(matches!(refused, Some(Refusal::Resources { .. })), "{refused:?}");
        client.delete("another").expect("ours");
        assert_eq!(client.show("steady").expect("ours").summary.senders as usize, lanes.len());
        // Who connects now until there is no place is turned away, and does not wait for ever.
        let connect = || libipc::ClientOptions::new().socket(daemon.socket()).connect();
        let connected: Vec<_> = std::iter::repeat_with(connect).map_while(Result::ok).collect();
        assert!(connected.len() < 20, "{}", connected.len());
        drop(connected);
        drop(lanes);
        nobody_at(&client);
        goes_on(&daemon, &client);
        nobody_at(&client);
    }
    limit(daemon.pid(), "--nofile=1000:");
    client.delete("steady").expect("ours");
    before.check(&daemon, &client);
}

#[test]
fn who_uses_its_descriptors_up_is_told_so_and_keeps_no_other_out() {
    if skip_unless_root("another uid beside the greedy one") {
        return;
    }
    let daemon = TestDaemon::start_kept_limited(2000, &["--log", "error"]);
    let client = daemon.client();
    let before = Baseline::take(&daemon, &client);
    let groups = (0..8).try_fold(small(), |it, n| it.group(&format!("g{n}"), SlowGroup::Block));
    let groups = groups.expect("eight groups");
    let mut opened = Vec::new();
    // What has many descriptors first, then what has few.
    for (kind, options) in [("g", &groups), ("m", &small())] {
        let (more, why) = exhaust(|n| in_use(&client, &format!("{kind}{n}"), options));
        let uid = nix::unistd::geteuid().as_raw();
        let Refusal::QuotaExceeded { uid: who, what, used, limit, .. } = &why else {
            panic!("{why}")
        };
        assert_eq!((*who, what.as_str()), (uid, "descriptors"), "{why}");
        assert!(*used + 10 >= *limit && *limit < 2000 / 4, "{why}");
        opened.extend(more);
    }
    let status = daemon.status(&client);
    assert!(status.usage.descriptors < status.limits.descriptors, "{status:?}");
    assert!(status.descriptors < status.descriptors_max / 2, "{status:?}");
    // It can connect still, and give something back.
    drop(daemon.client());
    let mut other = daemon.child_as(UIDS[1]);
    for command in ["create honest", "sender honest", "receiver honest", "send hello"] {
        other.done(command);
    }
    assert_eq!(other.got("receive").text, "hello");
    other.done("delete honest");
    drop(other);
    for (name, _) in opened {
        client.delete(&name).expect("ours");
    }
    before.check(&daemon, &client);
}

/// Bytes of the files in which a daemon writes what it knows.
fn state_bytes(pid: u32) -> u64 {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("a process of ours");
    let paths = descriptors.flatten().map(|it| it.path());
    let states = paths.filter(|path| {
        std::fs::read_link(path).is_ok_and(|it| it.to_string_lossy().contains("ipcd.state"))
    });
    states.filter_map(|path| Some(std::fs::metadata(path).ok()?.len())).sum()
}

#[test]
fn out_of_descriptors_a_kept_daemon_writes_its_state_anew_and_loses_nothing_when_it_dies() {
    let flags = ["--descriptors-max", "100000", "--log", "warn"];
    let daemon = TestDaemon::start_kept_limited(400, &flags);
    let client = daemon.client();
    let before = Baseline::take(&daemon, &client);
    client.create("steady", &small().lanes_max(1000)).expect("a mailbox");
    let mut steady = client.sender("steady").expect("a lane");
    steady.send(b"do not lose me").expect("there is room");
    let (lanes, why) = exhaust(|_| client.sender("steady"));
    assert!(matches!(why, Refusal::Resources { .. }), "{why}");
    let connect = || libipc::ClientOptions::new().socket(daemon.socket()).connect();
    let sessions: Vec<_> = std::iter::repeat_with(connect).map_while(Result::ok).collect();
    // Every change goes into the log, until that is so long that it is written anew.
    let mut longest = 0;
    wait_until("the log is written anew", || {
        for _ in 0..100 {
            client.close("steady").and_then(|()| client.open("steady")).expect("ours");
        }
        let bytes = state_bytes(daemon.pid());
        longest = longest.max(bytes);
        bytes < longest / 2 || daemon.log().contains("cannot write the state")
    });
    assert!(longest > 1 << 19, "{longest} bytes");
    assert!(!daemon.log().contains("cannot write the state"), "{}", daemon.log());
    let count = lanes.len() as u32 + 1;
    daemon.kill_kept();
    let summary = client.show("steady").expect("it is there").summary;
    assert_eq!((summary.senders, summary.queued_messages), (count, 1));
    let descriptors = descriptors_of(daemon.pid());
    assert!(descriptors > 330, "{descriptors}: it is where its predecessor was");
    steady.send(b"nor me").expect("its link is as it was");
    drop((lanes, sessions));
    // The slots were full of others: this is the first for which there is a place.
    wait_until("the lanes are free", || client.show("steady").expect("ours").summary.senders == 1);
    let mut receiver = client.receiver("steady").expect("a place");
    for text in [&b"do not lose me"[..], b"nor me"] {
        let delivery = receiver.receive_deadline(patience()).expect("a message");
        assert_eq!(delivery.into_bytes(), text);
    }
    drop((steady, receiver));
    client.delete("steady").expect("ours");
    before.check(&daemon, &client);
}

#[test]
fn a_state_that_cannot_be_written_holds_requests_up_and_loses_nothing() {
    const MAILBOXES: usize = 500;
    let daemon = TestDaemon::start_kept(&["--log", "warn"]);
    let client = daemon.client();
    let before = Baseline::take(&daemon, &client);
    for n in 0..MAILBOXES {
        client.create(&format!("m{n}"), &small()).expect("a mailbox");
    }
    let mut sender = client.sender("m0").expect("a lane");
    let mut receiver = client.receiver("m0").expect("a place");
    let bytes = state_bytes(daemon.pid());
    assert!(bytes > 1 << 15, "{bytes} bytes");
    let closed = || client.list().expect("a list").iter().filter(|it| !it.open).count();
    for (round, killed) in [(0, false), (1, true), (2, false)] {
        let said = daemon.log().matches("cannot write the state: ").count();
        // What the daemon says still fits into its file, and what it knows does not.
        limit(daemon.pid(), "--fsize=16384:");
        let name = format!("m{}", 7 + round);
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| client.close(&name));
            wait_until("it cannot be written", || {
                daemon.log().matches("cannot write the state: ").count() > said
            });
            // Messages do not need it; nobody is told what a successor would not know.
            for n in 0..100u32 {
                sender.send(&n.to_le_bytes()).expect("there is room");
                let delivery = receiver.receive_deadline(patience()).expect("a message");
                assert_eq!(delivery.into_bytes(), n.to_le_bytes());
            }
            assert!(!asked.is_finished(), "it was answered before it was written down");
            match killed {
                true => drop(daemon.kill_kept()),
                false => limit(daemon.pid(), "--fsize=unlimited:"),
            }
            asked.join().expect("no panic").expect("it was asked once, and done");
        });
        assert_eq!(closed(), round + 1);
    }
    daemon.kill_kept();
    assert_eq!((closed(), client.list().expect("a list").len()), (3, MAILBOXES));
    sender.send(b"and on").expect("there is room");
    assert_eq!(receiver.receive_deadline(patience()).expect("a message").into_bytes(), b"and on");
    drop((sender, receiver));
    for summary in client.list().expect("a list") {
        client.delete(summary.name.as_str()).expect("ours");
    }
    before.check(&daemon, &client);
}

#[test]
fn out_of_address_space_the_daemon_says_so_and_serves_everybody_else() {
    let daemon = TestDaemon::start(&["--log", "error"]);
    let client = daemon.client();
    let before = Baseline::take(&daemon, &client);
    client.create("steady", &small()).expect("a mailbox");
    let observer = client.observer("steady").expect("a look");
    limit_address_space(daemon.pid(), 8 << 20);
    for _ in 0..3 {
        let large = small().lanes_max(8000);
        let (opened, why) = exhaust(|n| in_use(&client, &format!("more{n}"), &large));
        assert!(matches!(why, Refusal::Resources { .. }), "{why}");
        assert!(!opened.is_empty());
        goes_on(&daemon, &client);
        for (name, _) in opened {
            client.delete(&name).expect("ours");
        }
    }
    limit(daemon.pid(), "--as=unlimited:unlimited");
    goes_on(&daemon, &client);
    drop(observer);
    client.delete("steady").expect("ours");
    before.check(&daemon, &client);
}

/// A daemon without the rights of root, one mailbox of which an answer has more than twenty descriptors, and who holds its
/// lanes. What it has on its way counts against its uid, so no other is to run as that.
fn with_lanes(uid: u32, descriptors_max: u32) -> (TestDaemon, Client, Baseline, Vec<Sender>) {
    let daemon = TestDaemon::start_kept_as(uid, descriptors_max, &["--log", "warn"]);
    let client = daemon.client();
    let before = Baseline::take(&daemon, &client);
    client.create("steady", &small().mode(0o666)).expect("a mailbox");
    let senders = (0..20).map(|_| client.sender("steady").expect("a lane")).collect();
    (daemon, client, before, senders)
}

/// Holds that something is done soon, whoever does not read; or has those gone.
fn done_beside(hoards: &mut Vec<Child>, what: &str, act: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let acting = scope.spawn(act);
        let end = patience();
        while !acting.is_finished() && Instant::now() < end {
            std::thread::yield_now();
        }
        let done = acting.is_finished();
        if !done {
            // Or it would not end.
            hoards.clear();
        }
        assert!(done, "never, beside who does not read: {what}");
    });
}

#[test]
fn descriptors_that_one_uid_does_not_read_hold_up_its_own_answers_alone() {
    if skip_unless_root("a daemon of another uid") {
        return;
    }
    let (daemon, client, before, senders) = with_lanes(DAEMON_UID + 1, 780);
    let mut hoards = vec![daemon.child_as(UIDS[0])];
    // One that ends before it has read what it was sent.
    hoards[0].done("hoard 1 10 steady");
    hoards[0].done("spoil_hoard");
    wait_until("that session is over", || daemon.status(&client).sessions == 2);
    for _ in 0..4 {
        hoards[0].done("hoard 1 10 steady");
        hoards[0].done("spoil_hoard");
    }
    hoards[0].done("hoard 4 20 steady");
    for what in ["create a mailbox, open it and use it", "the same once more"] {
        done_beside(&mut hoards, what, || {
            goes_on(&daemon, &client);
            client.create("another", &small()).expect("a mailbox");
            client.delete("another").expect("ours");
            drop(daemon.client());
        });
        // A successor neither has to wait for those who do not read, nor forgets them.
        daemon.kill_kept();
    }
    assert!(!daemon.log().contains("on their way"), "{}", daemon.log());
    drop((hoards, senders));
    nobody_at(&client);
    client.delete("steady").expect("ours");
    before.check(&daemon, &client);
}

/// Descriptors on their way to clients of several uids that do not read them, up to as many as the daemon may have there.
#[test]
fn descriptors_that_nobody_reads_hold_answers_up_and_end_no_session() {
    if skip_unless_root("a daemon of another uid") {
        return;
    }
    const ASKED: usize = 60;
    let (daemon, client, before, senders) = with_lanes(DAEMON_UID, 780);
    let other = daemon.client();
    let conspirators = [UIDS[0], UIDS[1], DAEMON_UID, DAEMON_UID + 2];
    let mut hoards = conspirators.map(|uid| daemon.child_as(uid));
    hoards.iter_mut().for_each(|child| drop(child.done(&format!("hoard 1 {ASKED} steady"))));
    wait_until("no more may be on their way", || daemon.log().contains("on their way"));
    let [mut first, others @ ..] = hoards;
    std::thread::scope(|scope| {
        // Until as much is on its way as may be, an opening comes between.
        let end = patience();
        let opening = loop {
            let opening = scope.spawn(|| client.receiver("steady").map(drop));
            // What needs no descriptor is answered meanwhile; so is who comes, and what the daemon gives to its keeper alone.
            for _ in 0..10 {
                (0..10).for_each(|_| drop(other.show("steady").expect("an answer")));
                drop(daemon.client());
                other.create("another", &small()).expect("a mailbox");
                other.delete("another").expect("ours");
            }
            if !opening.is_finished() {
                break opening;
            }
            assert!(opening.join().expect("no panic").is_ok());
            assert!(Instant::now() < end, "there is nothing to wait for");
        };
        drop(others);
        assert!(opening.join().expect("no panic").is_ok(), "it has waited for its turn");
    });
    // Who reads after all gets all that it has asked for.
    let came: usize = first.done("read_hoard").parse().expect("a number");
    assert!(came >= ASKED * senders.len(), "{came}");
    drop((first, senders, other));
    nobody_at(&client);
    client.delete("steady").expect("ours");
    before.check(&daemon, &client);
}

/// A memory cgroup of its own for a test; `None` where there is none to be had.
struct MemoryGroup(std::path::PathBuf);

impl MemoryGroup {
    fn make(name: &str) -> Option<Self> {
        let name = format!("{name}-{}", std::process::id());
        ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"].iter().find_map(|root| {
            let folder = std::path::Path::new(root).join(&name);
            std::fs::create_dir(&folder).ok()?;
            let made = Self(folder);
            made.charged().map(|_| made)
        })
    }

    fn charged(&self) -> Option<u64> {
        let files = ["memory.usage_in_bytes", "memory.current"];
        let text = files.iter().find_map(|file| std::fs::read_to_string(self.0.join(file)).ok())?;
        text.trim().parse().ok()
    }

    fn add(&self, pid: u32) {
        std::fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("a process of ours");
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // Empty by now: whoever was in it has ended.
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn memory_is_charged_to_the_cgroup_of_who_sends() {
    if skip_unless_root("memory cgroups") {
        return;
    }
    let Some(group) = MemoryGroup::make("ipcd-test-sender") else {
        println!("SKIPPED: memory cgroups (none can be made here)");
        return;
    };
    let Some(others) = MemoryGroup::make("ipcd-test-others") else {
        println!("SKIPPED: memory cgroups (only one can be made here)");
        return;
    };
    const SENT: u64 = 24 << 20;
    let daemon = TestDaemon::start(&["--log", "error"]);
    others.add(daemon.pid());
    let client = daemon.client_with("orders", &small().capacity_bytes(32 << 20));
    let mut receiver = daemon.child();
    others.add(receiver.pid());
    receiver.done("receiver orders");
    let mut sender = daemon.child();
    group.add(sender.pid());
    sender.done("sender orders");
    let charged = || (group.charged().expect("a number"), others.charged().expect("a number"));
    let before = charged();
    sender.done(&format!("send_numbered 1 0 {} 1008", SENT / 1024));
    let queued = charged();
    // Some pages are charged in batches, and the children have memory of their own.
    assert!(queued.0 - before.0 >= SENT - (SENT >> 3), "{before:?} {queued:?}");
    assert!(queued.1.saturating_sub(before.1) < SENT >> 3, "{before:?} {queued:?}");
    receiver.done(&format!("take {} {}", SENT / 1024, daemon.folder().join("log").display()));
    let received = charged();
    assert!(received.1.saturating_sub(before.1) < SENT >> 2, "{before:?} {received:?}");
    println!("of {SENT} bytes: the sender's cgroup {}", queued.0 - before.0);
    drop((sender, receiver));
    client.delete("orders").expect("ours to delete");
}

/// Nanoseconds of a processor that a process has had.
fn processor_time(pid: u32) -> u64 {
    let spent = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).expect("it is there");
    spent.split_whitespace().next().and_then(|ns| ns.parse().ok()).expect("nanoseconds")
}

/// Its session is over, and the daemon keeps its end until it has read what it was sent.
#[test]
fn a_client_that_is_hung_up_on_and_does_not_read_costs_no_processor_time() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut unread = RawClient::greet(&daemon.socket());
    let name = MailboxName::new("orders").expect("a name");
    unread.tell(&Request::Open { name, role: Role::Receive, group: None });
    unread.send(b"nonsense", &[]).expect("it is sent");
    wait_until("it is hung up on", || client.status().expect("an answer").sessions == 1);
    let before = processor_time(daemon.pid());
    std::thread::sleep(std::time::Duration::from_millis(300));
    // All of it, where it spins, or half on a busy machine; next to nothing where it sleeps.
    let spent = processor_time(daemon.pid()) - before;
    assert!(spent < 50_000_000, "{spent} ns of processor time");
    drop(unread);
}
