//! The daemon as an administrator meets it: starting, stopping, limits, and life without it.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

use libipc::{Client, ClientOptions, ConnectError, MailboxOptions, Refusal, RequestError, Usage};
use tests::{
    Got, TestDaemon, UIDS, descriptors_of, patience, program, skip_unless_root, wait_until,
};

fn small() -> MailboxOptions {
    MailboxOptions::new().capacity_bytes(4096).receivers_max(4).lanes_max(8)
}

fn connect(path: &std::path::Path) -> Result<Client, ConnectError> {
    ClientOptions::new().socket(path).connect()
}

/// An `ipcd` that should end by itself, with what it said.
fn ipcd(arguments: &[&str]) -> (Output, String) {
    let output = Command::new(program("ipcd")).args(arguments).output().expect("ipcd runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, said)
}

#[test]
fn a_second_daemon_on_the_same_socket_is_refused_and_the_first_goes_on() {
    let daemon = TestDaemon::start(&[]);
    let socket = daemon.socket();
    let (output, said) = ipcd(&["--socket", socket.to_str().expect("an UTF-8 path")]);
    assert!(!output.status.success());
    assert!(said.contains("another ipcd listens at"), "{said}");
    assert!(said.contains("use another --socket"), "it says what to do: {said}");
    connect(&socket).expect("the first daemon goes on");
}

#[test]
fn what_is_in_the_way_of_the_socket_is_named_and_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("precious");
    std::fs::write(&path, "precious").expect("a file");
    let (output, said) = ipcd(&["--socket", path.to_str().expect("an UTF-8 path")]);
    assert!(!output.status.success());
    assert!(said.contains("is no socket"), "{said}");
    assert_eq!(std::fs::read(&path).expect("still there"), b"precious");
    let (output, said) = ipcd(&["--socket", &format!("/{}", "long/".repeat(40))]);
    assert!(!output.status.success());
    assert!(said.contains("shorter --socket"), "{said}");
}

#[test]
fn sigterm_is_an_orderly_end_and_tells_every_member() {
    let mut daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("full", &small());
    client.create("empty", &small()).expect("a mailbox");
    let (mut sender, mut receiver) = (daemon.child(), daemon.child());
    sender.done("sender full");
    for _ in 0..128 {
        sender.done("try_send sixteen.bytes..");
    }
    sender.tell("send waits for ever");
    receiver.done("receiver empty");
    receiver.tell("receive");
    wait_until("both sleep", || sender.sleeps() && receiver.sleeps());
    let status = daemon.stop();
    assert_eq!(status.code(), Some(0), "{status}");
    assert_eq!(sender.answer(), "error Deleted");
    assert_eq!(receiver.answer(), "error Deleted");
    assert!(!daemon.socket().exists(), "the socket is gone");
    receiver.refused("status", "DaemonAway");
    assert!(matches!(connect(&daemon.socket()), Err(ConnectError::NoDaemon { .. })));
}

#[test]
fn links_that_are_open_go_on_when_the_daemon_is_killed() {
    let mut daemon = TestDaemon::start(&[]);
    let _client = daemon.client_with("orders", &small());
    let (mut sender, mut receiver) = (daemon.child(), daemon.child());
    sender.done("sender orders");
    receiver.done("receiver orders");
    sender.done("send before");
    assert_eq!(receiver.got("receive").text, "before");
    daemon.kill();
    for round in 0..1000 {
        receiver.tell("receive");
        if round < 3 {
            wait_until("the receiver sleeps", || receiver.sleeps());
        }
        sender.done(&format!("send {round}"));
        assert_eq!(Got::parse(&receiver.answer()).text, round.to_string());
    }
    sender.refused("status", "DaemonAway");
    sender.refused("sender other", "DaemonAway");
    // The socket that the killed daemon left is no hindrance for the next.
    assert!(daemon.socket().exists());
    daemon.restart(&[]);
    sender.done("send still");
    assert_eq!(receiver.got("receive").text, "still");
}

fn exceeded<T>(result: Result<T, RequestError>) -> (String, u64) {
    match result {
        Err(RequestError::Refused(refusal)) => limit_of(refusal),
        Err(other) => panic!("another error: {other:?}"),
        Ok(_) => panic!("nothing was exceeded"),
    }
}

fn limit_of(refusal: Refusal) -> (String, u64) {
    let text = refusal.to_string();
    let Refusal::QuotaExceeded { what, limit, uid, used, .. } = refusal else {
        panic!("another refusal: {refusal:?}")
    };
    assert_eq!(uid, nix::unistd::geteuid().as_raw(), "it names who");
    assert!(used <= limit && text.contains(&limit.to_string()), "{text}");
    (what, limit)
}

#[test]
fn each_quota_is_refused_by_name_and_given_back_to_the_last_byte() {
    let flags = ["--mailboxes-max", "2", "--lanes-max", "3", "--bytes-max", "1MiB"];
    let daemon = TestDaemon::start(&flags);
    let client = daemon.client();
    let idle = daemon.status(&client);
    assert_eq!(idle.usage, Usage { sessions: 1, descriptors: 2, ..Usage::default() });
    for _ in 0..3 {
        client.create("a", &small()).expect("the first mailbox");
        client.create("b", &small().capacity_bytes(512 << 10)).expect("the second mailbox");
        assert_eq!(exceeded(client.create("c", &small())), ("mailboxes".into(), 2));
        let lanes: Vec<_> = (0..3).map(|_| client.sender("a").expect("a lane")).collect();
        assert_eq!(exceeded(client.sender("a")), ("lanes".into(), 3));
        drop(lanes);
        let large = client.sender("b").expect("a large lane");
        assert_eq!(exceeded(client.sender("b")), ("bytes".into(), 1 << 20));
        drop(large);
        let mut child = daemon.child();
        child.done("sender b");
        child.kill();
        wait_until("the dead child's lane is given back", || {
            daemon.status(&client).usage.lanes == 0
        });
        client.delete("a").expect("ours");
        client.delete("b").expect("ours");
        wait_until("its session is over", || daemon.status(&client).sessions == 1);
        let now = daemon.status(&client);
        assert_eq!((now.usage, now.descriptors), (idle.usage, idle.descriptors));
        assert_eq!((now.mailboxes, now.resident_bytes), (0, 0));
    }
}

/// Promise 24.
#[test]
fn whoever_only_looks_uses_links_up_as_all_others_do() {
    let daemon = TestDaemon::start_kept(&["--links-max", "3"]);
    let client = daemon.client_with("a", &small());
    for _ in 0..3 {
        let looks: Vec<_> = (0..2).map(|_| client.observer("a").expect("a look")).collect();
        // In whatever session of the uid.
        let other = daemon.client();
        let sender = other.sender("a").expect("a lane");
        assert_eq!(exceeded(client.observer("a")), ("links".into(), 3));
        assert_eq!(exceeded(client.receiver("a")), ("links".into(), 3));
        daemon.kill_kept();
        assert_eq!(exceeded(client.observer("a")), ("links".into(), 3));
        drop((looks, sender, other));
        wait_until("all are given back", || daemon.status(&client).usage.links == 0);
    }
}

#[test]
fn sessions_beyond_the_quota_are_told_so_and_the_place_is_given_back() {
    let daemon = TestDaemon::start(&["--sessions-max", "2"]);
    let client = daemon.client();
    wait_until("the start's session is over", || daemon.status(&client).sessions == 1);
    for _ in 0..3 {
        let second = daemon.client();
        match connect(&daemon.socket()) {
            Err(ConnectError::Refused(refusal)) => {
                assert_eq!(limit_of(refusal), ("sessions".into(), 2));
            }
            other => panic!("not refused: {other:?}"),
        }
        drop(second);
        wait_until("only one is left", || daemon.status(&client).usage.sessions == 1);
    }
    let before = descriptors_of(daemon.pid());
    drop(daemon.client());
    wait_until("the descriptors are closed", || descriptors_of(daemon.pid()) <= before);
}

#[test]
fn nobody_there_is_an_error_that_says_where() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("nobody.sock");
    let error = connect(&path).expect_err("nobody listens");
    assert!(matches!(error, ConnectError::NoDaemon { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("nobody.sock") && text.contains("start it"), "{text}");
}

#[test]
fn a_socket_that_a_stranger_serves_is_not_trusted() {
    if skip_unless_root("a daemon of another uid") {
        return;
    }
    let mut stranger = StrangersDaemon::start();
    let mut error = None;
    wait_until("the stranger listens", || {
        error = connect(&stranger.socket()).err();
        !matches!(error, Some(ConnectError::NoDaemon { .. }))
    });
    // Root trusts no other; the uid itself and whoever names it do.
    match error {
        Some(ConnectError::WrongOwner { uid, .. }) => assert_eq!(uid, UIDS[0]),
        other => panic!("trusted: {other:?}"),
    }
    let trusting = ClientOptions::new().socket(stranger.socket()).trusted_uid(UIDS[0]);
    trusting.connect().expect("a uid that was named is trusted");
    stranger.end();
}

/// A daemon that a user runs at a path where others may find it.
struct StrangersDaemon {
    folder: tempfile::TempDir,
    process: std::process::Child,
}

impl StrangersDaemon {
    fn start() -> Self {
        use std::os::unix::process::CommandExt;
        let folder = tempfile::tempdir().expect("a folder");
        let open = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(folder.path(), open).expect("its mode");
        let copy = folder.path().join("ipcd");
        let copied = Command::new("cp").arg(program("ipcd")).arg(&copy).status();
        assert!(copied.expect("cp runs").success());
        let mut command = Command::new(copy);
        command.arg("--no-keeper").arg("--socket").arg(folder.path().join("s"));
        command.uid(UIDS[0]).gid(UIDS[0]);
        let process = command.current_dir("/").stderr(Stdio::null()).spawn().expect("ipcd starts");
        Self { folder, process }
    }

    fn socket(&self) -> std::path::PathBuf {
        self.folder.path().join("s")
    }

    fn end(&mut self) {
        // Whoever is killed has nothing to say any more.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for StrangersDaemon {
    fn drop(&mut self) {
        self.end();
    }
}

#[test]
fn a_socket_that_is_not_for_everyone_refuses_by_name() {
    if skip_unless_root("a client of another uid") {
        return;
    }
    let daemon = TestDaemon::start(&["--socket-mode", "600"]);
    let reachable = daemon.folder().join("misbehave");
    let copied = Command::new("cp").arg(program("misbehave")).arg(&reachable).status();
    assert!(copied.expect("cp runs").success());
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(reachable);
    command.arg(daemon.socket()).uid(UIDS[0]).gid(UIDS[0]).current_dir("/");
    let output = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.starts_with("error PermissionDenied"), "{said}");
    assert!(said.contains("may not connect to"), "{said}");
}

#[test]
fn a_mailbox_that_is_busy_goes_on_while_others_come_and_go() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut receiver = client.receiver("orders").expect("a receiver");
    for round in 0..50u32 {
        let mut sender = daemon.client().sender("orders").expect("a sender");
        sender.send(&round.to_le_bytes()).expect("sent");
        drop(sender);
        let delivery = receiver.receive_deadline(patience()).expect("a message");
        assert_eq!(delivery.into_bytes(), round.to_le_bytes());
    }
    wait_until("all lanes are given back", || {
        let _ = receiver.try_receive();
        daemon.status(&client).usage.lanes == 0
    });
}
