//! Descriptors that clients send the daemon: where the kernel refuses them none comes, and where it does not (before
//! Linux 6.16, or told so by a flag) the end of none can hold anybody up, however long it waits.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;

use libipc::{Client, ClientOptions, MailboxOptions};
use nix::sys::socket::{setsockopt, sockopt};
use tests::{Baseline, RawClient, TestDaemon, descriptors_of, patience};

/// What makes a daemon behave as if the kernel could not refuse descriptors.
const TAKING: &str = "--take-descriptors";

/// A socket whose last close waits for an hour: something is left to be sent, and the peer, the other one, does not
/// read.
fn lingering() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let mut gift = TcpStream::connect(listener.local_addr().expect("an address")).expect("a peer");
    let (peer, _) = listener.accept().expect("a peer");
    gift.set_nonblocking(true).expect("a socket");
    let much = vec![7; 1 << 20];
    while gift.write(&much).is_ok() {}
    gift.set_nonblocking(false).expect("a socket");
    let hour = libc::linger { l_onoff: 1, l_linger: 3600 };
    setsockopt(&gift, sockopt::Linger, &hour).expect("a socket");
    (gift, peer)
}

fn small() -> MailboxOptions {
    MailboxOptions::new().capacity_bytes(4096)
}

/// Holds that somebody else connects, and that mailboxes are made and go: that takes the keeper as well.
fn others_are_served(daemon: &TestDaemon, client: &Client) {
    let until = patience();
    std::thread::scope(|scope| {
        let using = scope.spawn(|| {
            for n in 0..300 {
                let name = format!("m{n}");
                client.create(&name, &small()).expect("a mailbox");
                client.delete(&name).expect("ours");
            }
            let other = ClientOptions::new().socket(daemon.socket()).connect();
            other.expect("a session").status().expect("an answer");
        });
        while !using.is_finished() {
            // Or this would wait for ever.
            assert!(
                std::time::Instant::now() < until || give_up(daemon),
                "never: others are served"
            );
            std::thread::yield_now();
        }
    });
}

/// Kills whoever hangs, so that the test ends.
fn give_up(daemon: &TestDaemon) -> bool {
    for pid in [daemon.keeper_pid(), daemon.pid()] {
        let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }
    false
}

fn start(kept: bool, flags: &[&str]) -> TestDaemon {
    let flags = [&["--log", "error"], flags].concat();
    if kept { TestDaemon::start_kept(&flags) } else { TestDaemon::start(&flags) }
}

/// What a client leaves in its socket: behind a message that ends its session, in one that does, and where nobody has let
/// it in yet.
fn leave_gifts(daemon: &TestDaemon) -> Vec<TcpStream> {
    let mut peers = Vec::new();
    for messages in [&[&b"nonsense"[..], b"more"], &[&b"nonsense"[..], b""], &[&b""[..], b"more"]] {
        let (gift, peer) = lingering();
        let raw = RawClient::connect(&daemon.socket());
        // The daemon finds both at once.
        let still = daemon.stand_still();
        for message in messages {
            raw.send(message, &[]).expect("the daemon is there");
            raw.send(b"a gift", &[gift.as_fd()]).expect("this kernel lets it through");
        }
        drop((gift, still, raw));
        peers.push(peer);
    }
    peers
}

#[test]
fn what_a_client_leaves_in_its_socket_holds_up_neither_the_daemon_nor_its_keeper() {
    for kept in [false, true] {
        let daemon = start(kept, &[TAKING]);
        let client = daemon.client();
        let before = Baseline::take(&daemon, &client);
        let mut peers = Vec::new();
        for _ in 0..3 {
            peers.extend(leave_gifts(&daemon));
            others_are_served(&daemon, &client);
        }
        // Not even those who closed them wait, and nothing of them is left.
        before.check(&daemon, &client);
        if kept {
            daemon.kill_kept();
            others_are_served(&daemon, &client);
        }
        drop(peers);
    }
}

#[test]
fn connections_that_are_turned_away_with_something_in_them_hold_up_nobody() {
    let daemon = start(true, &[TAKING, "--sessions-max", "4000"]);
    let client = daemon.client();
    let before = Baseline::take(&daemon, &client);
    let still = daemon.stand_still();
    let mut peers = Vec::new();
    // More than may wait.
    let raws: Vec<_> = (0..1500)
        .map(|n| {
            let raw = RawClient::connect(&daemon.socket());
            if n > 1000 && n % 50 == 0 {
                let (gift, peer) = lingering();
                raw.send(b"nonsense", &[gift.as_fd()]).expect("this kernel lets it through");
                raw.send(b"more", &[gift.as_fd()]).expect("this kernel lets it through");
                drop(gift);
                peers.push(peer);
            }
            raw
        })
        .collect();
    drop(still);
    others_are_served(&daemon, &client);
    drop(raws);
    others_are_served(&daemon, &client);
    before.check(&daemon, &client);
}

#[test]
fn descriptors_that_come_unasked_are_never_opened_by_the_daemon() {
    let daemon = start(false, &[TAKING]);
    let client = daemon.client();
    let before = Baseline::take(&daemon, &client);
    let (gift, _peer) = lingering();
    let raws: Vec<_> = (0..200).map(|_| RawClient::greet(&daemon.socket())).collect();
    let most = descriptors_of(daemon.pid());
    for raw in &raws {
        let many: Vec<_> = (0..253).map(|_| gift.as_fd()).collect();
        raw.send(b"nonsense", &many).expect("this kernel lets it through");
        let now = descriptors_of(daemon.pid());
        assert!(now <= most, "{now} of {most}");
    }
    // Where the daemon has closed the others already this is the last of them, and waits.
    std::thread::spawn(move || drop(gift));
    for raw in &raws {
        while raw.receive().is_some() {}
        let now = descriptors_of(daemon.pid());
        assert!(now <= most, "{now} of {most}");
    }
    drop(raws);
    others_are_served(&daemon, &client);
    before.check(&daemon, &client);
}

#[test]
fn where_the_kernel_refuses_descriptors_none_can_be_sent() {
    for kept in [false, true] {
        let daemon = start(kept, &[]);
        let client = daemon.client();
        let mut raw = RawClient::connect(&daemon.socket());
        if !libipc::sys::socket::refuse_descriptors(&raw).expect("a socket") {
            println!("SKIPPED: sockets that refuse descriptors (this kernel has none)");
            return;
        }
        let (gift, peer) = lingering();
        let still = daemon.stand_still();
        // Neither before the connection is accepted nor after.
        let early = RawClient::connect(&daemon.socket());
        for raw in [&early, &raw] {
            let refused = raw.send(b"nonsense", &[gift.as_fd()]).expect_err("it is refused");
            assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        }
        drop((still, peer, gift));
        let (answer, _) = raw.ask(&tests::hello());
        assert!(matches!(answer, libipc::protocol::Answer::Hello { .. }), "{answer:?}");
        others_are_served(&daemon, &client);
        if kept {
            daemon.kill_kept();
            let refused = raw.send(b"nonsense", &[client_gift().as_fd()]).expect_err("still");
            assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        }
    }
}

fn client_gift() -> std::fs::File {
    std::fs::File::open("/dev/null").expect("a descriptor")
}

#[test]
fn a_daemon_ends_in_order_whatever_is_left_in_its_sockets() {
    for kept in [false, true] {
        let mut daemon = start(kept, &[TAKING]);
        let (gift, _peer) = lingering();
        let (let_in, waits) =
            (RawClient::greet(&daemon.socket()), RawClient::connect(&daemon.socket()));
        let still = daemon.stand_still();
        // It is told to stop before it looks at any of these.
        let pid = nix::unistd::Pid::from_raw(daemon.pid().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("a process of ours");
        let late = RawClient::connect(&daemon.socket());
        for raw in [&let_in, &waits, &late] {
            raw.send(b"nonsense", &[]).expect("the daemon is there");
            raw.send(b"more", &[gift.as_fd()]).expect("this kernel lets it through");
        }
        drop(gift);
        drop((still, late));
        assert_eq!(daemon.wait().code(), Some(0));
    }
}
