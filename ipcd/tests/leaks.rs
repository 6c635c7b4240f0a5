//! Counts descriptors and mappings of this process, so there is one test in this file.

mod common;

use std::os::fd::AsFd;

use common::{Client, Daemon, create, delete, lane_of, name, small, wait_until};
use ipcd::report::open_descriptors;
use libipc::protocol::{
    Buffering, DirectAddress, Group, MailboxAttributes, Queued, Request, Role, SlowGroup, encode,
};

/// Regions that this process has mapped.
fn mappings() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
    maps.lines().filter(|line| line.contains("memfd:")).count()
}

/// Makes lanes, groups, an inbox, mailboxes for answers, and leaves some of them to the end of the session.
fn use_every_request(client: &mut Client) {
    let group = |group: &str, slow| Group { name: name(group), slow };
    let groups = vec![group("a", SlowGroup::Block), group("b", SlowGroup::DropOldest)];
    client.ask(&Request::Create { name: name("news"), attributes: small(), groups });
    client.join("news", "b");
    let (server, _) = client.join("news", "a");
    let (sender, _) = client.open("news", Role::Send);
    let (urgent, _) = client.add_lane(sender.link, 5, 4096, None);
    client.link(&Request::OpenReplies { link: sender.link });
    client.link(&Request::OpenReply { link: server.link, lane: urgent.ticket });
    client.ask(&Request::Register { name: Some("lamp".into()), attributes: small() });
    client.open("process/lamp", Role::Receive);
    client.link(&Request::OpenDirect { to: DirectAddress::Name("lamp".into()) });
    let attributes = MailboxAttributes { buffering: Buffering::Unbounded, ..small() };
    client.ask(&create("grows", attributes));
    let (grows, _) = client.open("grows", Role::Send);
    let mut ticket = lane_of(&grows).ticket;
    for doubled in 1..4 {
        ticket = client.add_lane(grows.link, 0, 4096 << doubled, Some(ticket)).0.ticket;
    }
    client.refused(&Request::AddLane {
        link: grows.link,
        priority: 1,
        capacity_bytes: 1,
        replaces: None,
    });
    client.ask(&Request::Delete { name: name("grows"), queued: Queued::Drain });
}

#[test]
fn no_descriptor_is_left_by_sessions_mailboxes_or_bad_input() {
    let daemon = Daemon::taking_descriptors();
    let mut client = daemon.client();
    let before = (open_descriptors(), mappings(), client.status().usage);
    for round in 0..20 {
        let mut other = daemon.client();
        other.ask(&create("orders", MailboxAttributes::default()));
        for role in [Role::Send, Role::Receive, Role::Observe, Role::Send] {
            let (opened, _) = other.open("orders", role);
            if round % 2 == 0 {
                other.ask(&Request::CloseLink { link: opened.link });
            }
        }
        use_every_request(&mut other);
        if round % 3 == 0 {
            let many: Vec<_> = (0..200).map(|_| other.socket.as_fd()).collect();
            other.send(&encode(1, 0, &Request::Status).unwrap(), &many);
        }
        drop(other);
        client.ask(&delete("orders"));
        client.ask(&delete("news"));
    }
    wait_until("all sessions are over", || client.status().sessions == 1);
    // What clients sent unasked is closed by a thread of its own.
    wait_until("all descriptors are closed", || open_descriptors() == before.0);
    assert_eq!((open_descriptors(), mappings(), client.status().usage), before);
    assert_eq!(client.status().resident_bytes, 0);
}
