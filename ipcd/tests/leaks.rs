//! Counts descriptors of this process, so there is one test in this file.

mod common;

use std::os::fd::AsFd;

use common::{Daemon, create, delete, wait_until};
use ipcd::report::open_descriptors;
use libipc::protocol::{MailboxAttributes, Request, Role, encode};

#[test]
fn no_descriptor_is_left_by_sessions_mailboxes_or_bad_input() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let before = (open_descriptors(), client.status().usage);
    for round in 0..20 {
        let mut other = daemon.client();
        other.ask(&create("orders", MailboxAttributes::default()));
        for role in [Role::Send, Role::Receive, Role::Observe, Role::Send] {
            let (opened, _) = other.open("orders", role);
            if round % 2 == 0 {
                other.ask(&Request::CloseLink { link: opened.link });
            }
        }
        if round % 3 == 0 {
            let many: Vec<_> = (0..200).map(|_| other.socket.as_fd()).collect();
            other.send(&encode(1, 0, &Request::Status).unwrap(), &many);
        }
        drop(other);
        client.ask(&delete("orders"));
    }
    wait_until("all sessions are over", || client.status().sessions == 1);
    assert_eq!((open_descriptors(), client.status().usage), before);
    assert_eq!(client.status().resident_bytes, 0);
}
