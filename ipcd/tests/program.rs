//! The daemon as a program: starting, stopping, the background, and messages through it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use libipc::{Client, ClientOptions, MailboxOptions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ipcd");

fn ipcd(socket: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("--socket").arg(socket).args(["--log", "warn"]);
    command.stdin(Stdio::null()).stderr(Stdio::piped()).stdout(Stdio::null());
    command
}

/// A process that a failing test does not leave behind.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl std::ops::Deref for Running {
    type Target = Child;
    fn deref(&self) -> &Child {
        &self.0
    }
}

impl std::ops::DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

fn start(socket: &Path, more: &[&str]) -> Running {
    // These tests look at the daemon itself, and kill it.
    let child = Running(ipcd(socket).arg("--no-keeper").args(more).spawn().unwrap());
    wait_until("the daemon listens", || libipc::sys::socket::connect_to(socket).is_ok());
    child
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn connect(socket: &Path) -> Client {
    ClientOptions::new().socket(socket).private_daemon(false).connect().unwrap()
}

#[test]
fn messages_flow_across_the_wrap_and_a_signal_stops_the_daemon_cleanly() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("run/ipcd.sock");
    let first = ((1u64 << 48) - 100).to_string();
    for more in [&["--first-position", first.as_str()][..], &["--no-barrier"]] {
        let mut daemon = start(&socket, more);
        let client = connect(&socket);
        client.create("orders", &MailboxOptions::new().capacity_bytes(4096)).unwrap();
        let mut receiver = client.receiver("orders").unwrap();
        let mut sender = client.sender("orders").unwrap();
        let sending = std::thread::spawn(move || {
            for number in 0u32..2000 {
                sender.send(&number.to_le_bytes()).unwrap();
            }
        });
        for number in 0u32..2000 {
            let delivery = receiver.receive().unwrap();
            assert_eq!(delivery.bytes(), number.to_le_bytes());
            assert_eq!(delivery.sender().pid, std::process::id());
            delivery.acknowledge();
        }
        sending.join().unwrap();
        kill(Pid::from_raw(daemon.id() as i32), Signal::SIGTERM).unwrap();
        assert_eq!(daemon.wait().unwrap().code(), Some(0));
        assert!(!socket.exists());
        assert!(receiver.receive().is_err(), "the mailbox ended with its daemon");
    }
}

#[test]
fn a_second_daemon_on_the_same_socket_says_so_and_fails() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("ipcd.sock");
    let mut daemon = start(&socket, &[]);
    let output = ipcd(&socket).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("another ipcd listens"), "{said}");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    // What a killed daemon left is in nobody's way.
    let mut daemon = start(&socket, &[]);
    connect(&socket);
    kill(Pid::from_raw(daemon.id() as i32), Signal::SIGINT).unwrap();
    assert_eq!(daemon.wait().unwrap().code(), Some(0));
}

#[test]
fn many_start_a_private_daemon_at_once_get_one_and_it_leaves_when_idle() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("ipcd/ipcd.sock");
    let arguments = ["--private", "--detach", "--idle-exit", "1"];
    let children: Vec<_> = (0..5).map(|_| ipcd(&socket).args(arguments).spawn().unwrap()).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let clients: Vec<_> = (0..5).map(|_| connect(&socket)).collect();
    let status = clients[0].status().unwrap();
    assert_eq!(status.sessions, 5, "all are in one daemon");
    drop(clients);
    wait_until("the daemon has left", || !socket.exists());
}

#[test]
fn a_daemon_that_cannot_start_in_the_background_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("file/ipcd.sock");
    std::fs::write(directory.path().join("file"), "").unwrap();
    let output = ipcd(&socket).args(["--private", "--detach"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("cannot create"), "{said}");
}

#[test]
fn a_daemon_out_of_descriptors_turns_clients_away_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("ipcd.sock");
    let script =
        "ulimit -n 40; exec \"$0\" --log error --descriptors-max 99 --no-keeper --socket \"$1\"";
    let daemon = Command::new("sh").args(["-c", script, PROGRAM]).arg(&socket).spawn();
    let mut daemon = Running(daemon.unwrap());
    wait_until("the daemon listens", || libipc::sys::socket::connect_to(&socket).is_ok());
    let client = connect(&socket);
    let many: Vec<_> = (0..60).map(|_| libipc::sys::socket::connect_to(&socket).unwrap()).collect();
    assert!(client.status().unwrap().sessions < 40);
    // It is an entry in a table, until somebody opens it.
    client.create("orders", &MailboxOptions::new()).unwrap();
    let error = client.sender("orders").unwrap_err().to_string();
    assert!(error.contains("cannot create a region"), "{error}");
    let last = many.last().unwrap();
    let flags = nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK);
    nix::fcntl::fcntl(last, flags).unwrap();
    wait_until("the last one is turned away", || {
        use std::os::fd::AsFd;
        let received = libipc::sys::socket::receive(last.as_fd(), &mut [0; 8]);
        received.is_ok_and(|received| received.len == 0)
    });
    drop(many);
    wait_until("the sessions are over", || client.status().unwrap().sessions == 1);
    drop(client.sender("orders").unwrap());
    kill(Pid::from_raw(daemon.id() as i32), Signal::SIGTERM).unwrap();
    assert_eq!(daemon.wait().unwrap().code(), Some(0));
}

/// This very program again, running only the helper of that name, with a descriptor as its input.
fn helper(name: &str, socket: &Path, input: Stdio) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--ignored", "--nocapture"]);
    command.env("HELPER_SOCKET", socket).stdin(input).stdout(Stdio::piped());
    command
}

#[test]
#[ignore = "helper: makes a session whose socket a child process keeps open"]
fn helper_leaves_its_socket_to_a_child() {
    let Some(path) = std::env::var_os("HELPER_SOCKET") else { return };
    let socket = libipc::sys::socket::connect_to(Path::new(&path)).unwrap();
    let mut child = Command::new("sleep").arg("60").stdin(socket).spawn().unwrap();
    println!("child {}", child.id());
    child.wait().unwrap();
}

#[test]
fn a_killed_process_ends_its_session_though_a_child_keeps_the_socket_open() {
    use std::io::{BufRead, BufReader};
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("ipcd.sock");
    let mut daemon = start(&socket, &[]);
    let client = connect(&socket);
    let name = "helper_leaves_its_socket_to_a_child";
    let mut killed = helper(name, &socket, Stdio::null()).spawn().unwrap();
    let output = BufReader::new(killed.stdout.take().unwrap());
    let child = output
        .lines()
        .find_map(|line| line.unwrap().split("child ").nth(1)?.trim().parse::<i32>().ok());
    wait_until("both are there", || client.status().unwrap().sessions == 2);
    killed.kill().unwrap();
    // Before anybody has reaped it.
    wait_until("its session is over", || client.status().unwrap().sessions == 1);
    kill(Pid::from_raw(child.unwrap()), Signal::SIGKILL).unwrap();
    killed.wait().unwrap();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}

#[test]
#[ignore = "helper: asks on a session that another process has made"]
fn helper_asks_on_its_input() {
    use libipc::protocol::{Answer, Request, decode, encode};
    use std::os::fd::AsFd;
    if std::env::var_os("HELPER_SOCKET").is_none() {
        return;
    }
    let (input, mut buffer) = (std::io::stdin(), vec![0; 65_536]);
    let request = encode(1, 0, &Request::Status).unwrap();
    libipc::sys::socket::send(input.as_fd(), &request, &[], true).unwrap();
    let received = libipc::sys::socket::receive(input.as_fd(), &mut buffer).unwrap();
    let (_, answer) = decode::<Answer>(&buffer[..received.len], 0).unwrap();
    println!("{answer:?}");
}

#[test]
fn a_session_serves_the_process_that_made_it_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("ipcd.sock");
    let mut daemon = start(&socket, &[]);
    let session = libipc::sys::socket::connect_to(&socket).unwrap();
    let output = helper("helper_asks_on_its_input", &socket, session.into()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let expected = format!("ForeignSession {{ session_pid: {}", std::process::id());
    assert!(said.contains(&expected), "{said}");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}
