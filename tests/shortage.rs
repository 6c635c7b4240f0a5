//! A client that runs out of something for a moment: it is told so, and has lost nothing once it has it again.

use libipc::{Buffering, MailboxOptions};
use tests::{TestDaemon, limit, limit_address_space, wait_until};

fn small() -> MailboxOptions {
    MailboxOptions::new().capacity_bytes(4096).receivers_max(4).lanes_max(20)
}

/// Promise 40.
#[test]
fn a_moment_without_descriptors_costs_a_client_neither_its_session_nor_a_message() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    client.create("other", &small()).expect("a mailbox");
    let mut there = client.receiver("other").expect("a receiver");
    let mut child = daemon.child();
    child.done("receiver orders");
    child.done("sender other");
    // It has to be told of this one, with descriptors.
    client.sender("orders").expect("a sender").send(b"hello").expect("sent");
    limit(child.pid(), "--nofile=3:");
    let said = child.ask("receive_within 60000");
    assert!(said.starts_with("error ") && said.contains("descriptors"), "{said}");
    // Nor can it open anything; each of these is told so, and no more.
    let said = child.ask("observer other");
    assert!(said.starts_with("error ") && said.contains("descriptors"), "{said}");
    limit(child.pid(), "--nofile=1000:");
    assert_eq!(child.got("receive_within 60000").text, "hello");
    child.done("send still here");
    assert_eq!(there.receive().expect("a message").into_bytes(), b"still here");
    // Of the open that came to nothing, nothing is left.
    wait_until("its link is closed", || {
        child.done("status");
        client.show("other").expect("ours").members.len() == 2
    });
}

/// Promise 40.
#[test]
fn a_receiver_that_cannot_map_one_of_several_new_lanes_loses_nothing_of_the_others() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small().buffering(Buffering::Unbounded));
    let mut child = daemon.child();
    child.done("receiver orders");
    let mut few = client.sender("orders").expect("a sender");
    let mut much = client.sender("orders").expect("a sender");
    (0..40).for_each(|number| few.send(format!("number {number}").as_bytes()).expect("sent"));
    much.send(&vec![b'x'; 60 << 20]).expect("sent");
    limit_address_space(child.pid(), 60 << 20);
    let (mut next, mut errors) = (0, 0);
    let receive = |next: &mut u32, child: &mut tests::Child| {
        let said = child.ask("receive_within 60000");
        if said.starts_with("error ") {
            assert!(said.contains("step: \"map "), "{said}");
            return 1;
        }
        if *next < 40 || said.contains("number") {
            assert!(said.ends_with(&format!(" number {next}")), "{said}");
            *next += 1;
        }
        0
    };
    while next < 10 {
        errors += receive(&mut next, &mut child);
    }
    assert!(errors > 0, "it was told of what it cannot have");
    // Something changes, so it asks again, with messages claimed.
    drop(client.sender("orders").expect("a sender"));
    while next < 20 {
        receive(&mut next, &mut child);
    }
    limit(child.pid(), "--as=unlimited:unlimited");
    while next < 40 {
        receive(&mut next, &mut child);
    }
}

/// Promise 40.
#[test]
fn a_sender_that_cannot_map_the_lane_it_is_to_go_on_in_goes_on_once_it_can() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small().buffering(Buffering::Unbounded));
    let mut receiver = client.receiver("orders").expect("a receiver");
    let mut child = daemon.child();
    child.done("sender orders");
    child.done("send first");
    limit_address_space(child.pid(), 40 << 20);
    for _ in 0..3 {
        let said = child.ask("send_numbered 1 0 1 16000000");
        assert!(said.starts_with("error ") && said.contains("step: \"map "), "{said}");
    }
    limit(child.pid(), "--as=unlimited:unlimited");
    child.done("send second");
    child.done("send_numbered 1 0 1 16000000");
    for text in [&b"first"[..], b"second"] {
        assert_eq!(receiver.receive().expect("a message").into_bytes(), text);
    }
    assert_eq!(receiver.receive().expect("a message").into_bytes().len(), 16_000_000);
    drop(child);
    wait_until("all its lanes are given back", || {
        client.show("orders").is_ok() && client.status().expect("a status").usage.lanes == 0
    });
}

/// Promise 40.
#[test]
fn a_sender_that_cannot_map_the_lane_of_a_priority_has_it_once_it_can() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small().buffering(Buffering::Unbounded));
    let mut receiver = client.receiver("orders").expect("a receiver");
    let mut child = daemon.child();
    child.done("sender orders");
    limit_address_space(child.pid(), 0);
    for _ in 0..3 {
        let said = child.ask("priority 3");
        assert!(said.starts_with("error ") && said.contains("step: \"map "), "{said}");
    }
    child.done("send in the old one");
    limit(child.pid(), "--as=unlimited:unlimited");
    child.done("priority 3");
    child.done("send urgent");
    for text in [&b"urgent"[..], b"in the old one"] {
        assert_eq!(receiver.receive().expect("a message").into_bytes(), text);
    }
    let lanes = || client.status().expect("a status").usage.lanes;
    wait_until("one lane a priority is left", || client.show("orders").is_ok() && lanes() == 2);
}
