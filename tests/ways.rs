//! The ways of message passing that change what a sender's lane does: lanes that grow, groups that drop, and
//! processes that name each other.

use std::collections::HashMap;

use libipc::{
    Buffering, Client, MailboxOptions, Owner, ReceiveError, Receiver, Receivers, Refusal,
    RequestError, SendError, SendToError, Sender, SlowGroup, TryReceiveError, TrySendError,
};
use tests::{Child, Dice, TestDaemon, descriptors_of, patience, seed, wait_until};

fn small() -> MailboxOptions {
    MailboxOptions::new().capacity_bytes(4096).receivers_max(4).lanes_max(64)
}

fn unbounded(daemon: &TestDaemon) -> Client {
    daemon.client_with("orders", &small().buffering(Buffering::Unbounded))
}

fn numbered(number: u64, len: usize) -> Vec<u8> {
    let mut message = number.to_le_bytes().to_vec();
    message.extend((8..len.max(8)).map(|at| (number as usize * 31 + at) as u8));
    message
}

fn receive_numbered(receiver: &mut Receiver, number: u64, len: usize) {
    let got = receiver.receive_deadline(patience()).expect("a message").into_bytes();
    assert_eq!(got, numbered(number, len), "message {number}");
}

fn bytes_used(client: &Client) -> (u64, u64) {
    let usage = client.status().expect("the daemon answers").usage;
    (usage.bytes, usage.lanes)
}

fn refused<T>(result: Result<T, RequestError>) -> Refusal {
    match result {
        Err(RequestError::Refused(refusal)) => refusal,
        Err(other) => panic!("no refusal: {other:?}"),
        Ok(_) => panic!("nothing was refused"),
    }
}

#[test]
fn an_unbounded_sender_never_waits_and_its_backlog_comes_in_order() {
    let daemon = TestDaemon::start(&[]);
    let client = unbounded(&daemon);
    let mut sender = client.sender("orders").unwrap();
    let mut dice = Dice::new(seed());
    let lens: Vec<usize> = (0..20_000).map(|_| 8 + dice.below(200) as usize).collect();
    for (number, &len) in (0..).zip(&lens) {
        sender.try_send(&numbered(number, len)).unwrap();
    }
    let mut receiver = client.receiver("orders").unwrap();
    for (number, &len) in (0..).zip(&lens) {
        receive_numbered(&mut receiver, number, len);
    }
    assert!(matches!(receiver.try_receive(), Err(TryReceiveError::Empty)));
}

#[test]
fn an_unbounded_lane_takes_messages_longer_than_its_capacity() {
    let daemon = TestDaemon::start(&[]);
    let client = unbounded(&daemon);
    let mut sender = client.sender("orders").unwrap();
    let mut receiver = client.receiver("orders").unwrap();
    for (number, len) in [(0, 5000), (1, 100), (2, 1 << 20), (3, 10), (4, 4080), (5, 4081)] {
        sender.send(&numbered(number, len)).unwrap();
    }
    for (number, len) in [(0, 5000), (1, 100), (2, 1 << 20), (3, 10), (4, 4080), (5, 4081)] {
        receive_numbered(&mut receiver, number, len);
    }
}

/// Room that was reserved and given up leaves a lane in which nothing was ever sent: what comes behind it still
/// waits for what came before.
#[test]
fn room_reserved_in_a_larger_lane_and_given_up_lets_nothing_overtake() {
    let daemon = TestDaemon::start(&[]);
    let client = unbounded(&daemon);
    let mut sender = client.sender("orders").unwrap();
    // More than a receiver takes from one lane before it looks at the next.
    let (count, len) = (128, 16);
    for number in 0..count {
        sender.try_send(&numbered(number, len)).unwrap();
    }
    let (_, lanes) = bytes_used(&client);
    drop(sender.try_reserve(len).unwrap());
    assert_eq!(bytes_used(&client).1, lanes + 1, "it goes on in a larger lane");
    // Longer than what it may write there without a look at what is in use.
    let long = 6000;
    sender.try_send(&numbered(count, long)).unwrap();
    let mut receiver = client.receiver("orders").unwrap();
    for number in 0..=count {
        receive_numbered(&mut receiver, number, if number == count { long } else { len });
    }
    assert!(matches!(receiver.try_receive(), Err(TryReceiveError::Empty)));
}

#[test]
fn what_an_unbounded_lane_has_grown_by_goes_back_once_it_is_drained() {
    let daemon = TestDaemon::start(&[]);
    let client = unbounded(&daemon);
    let mut sender = client.sender("orders").unwrap();
    let mut receiver = client.receiver("orders").unwrap();
    sender.send(&numbered(0, 100)).unwrap();
    receive_numbered(&mut receiver, 0, 100);
    let (bytes, lanes) = bytes_used(&client);
    let descriptors = descriptors_of(daemon.pid());
    let resident = client.status().unwrap().resident_bytes;
    for round in 0..3 {
        for number in 0..30_000 {
            sender.send(&numbered(number, 100)).unwrap();
        }
        assert!(bytes_used(&client).0 > bytes + 3_000_000, "round {round}: it has grown");
        for number in 0..30_000 {
            receive_numbered(&mut receiver, number, 100);
        }
        // The next sends notice that little is in use.
        for number in 0..100 {
            sender.send(&numbered(number, 100)).unwrap();
            receive_numbered(&mut receiver, number, 100);
        }
        wait_until("everything is back", || {
            let _ = receiver.try_receive();
            bytes_used(&client) == (bytes, lanes) && descriptors_of(daemon.pid()) == descriptors
        });
        let now = client.status().unwrap().resident_bytes;
        assert!(now <= resident + (64 << 10), "{now} bytes resident, {resident} before");
    }
}

#[test]
fn an_unbounded_sender_at_its_quota_is_told_which_and_goes_on_once_there_is_room() {
    let daemon = TestDaemon::start(&["--bytes-max", "4MiB"]);
    let client = unbounded(&daemon);
    let mut sender = client.sender("orders").unwrap();
    let mut sent = 0;
    let error = loop {
        match sender.try_send(&numbered(sent, 1000)) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
    };
    let TrySendError::Refused(Refusal::QuotaExceeded { what, limit, .. }) = &error else {
        panic!("not the quota: {error:?}");
    };
    assert_eq!((what.as_str(), *limit), ("bytes", 4 << 20), "{error}");
    assert!(matches!(sender.send(&numbered(sent, 1000)), Err(SendError::Refused(_))));
    let mut receiver = client.receiver("orders").unwrap();
    for number in 0..sent {
        receive_numbered(&mut receiver, number, 1000);
    }
    sender.send(&numbered(sent, 1000)).unwrap();
    receive_numbered(&mut receiver, sent, 1000);
}

#[test]
fn competing_receivers_share_a_growing_backlog_exactly() {
    let daemon = TestDaemon::start(&[]);
    let client = unbounded(&daemon);
    let total = 40_000u64;
    let mut seen = HashMap::new();
    std::thread::scope(|scope| {
        let receivers: Vec<_> = (0..3)
            .map(|_| {
                let mut receiver = client.receiver("orders").unwrap();
                scope.spawn(move || {
                    let mut got = Vec::new();
                    loop {
                        match receiver.receive_deadline(patience()) {
                            Ok(delivery) => {
                                got.push(u64::from_le_bytes(
                                    delivery.bytes()[..8].try_into().unwrap(),
                                ));
                                delivery.acknowledge();
                            }
                            Err(ReceiveError::Closed) => return got,
                            Err(other) => panic!("{other}"),
                        }
                    }
                })
            })
            .collect();
        let mut sender = client.sender("orders").unwrap();
        for number in 0..total {
            sender.send(&numbered(number, 64)).unwrap();
        }
        client.close("orders").unwrap();
        for receiver in receivers {
            let got = receiver.join().unwrap();
            assert!(got.windows(2).all(|pair| pair[0] < pair[1]), "each sees the sender's order");
            for number in got {
                *seen.entry(number).or_insert(0) += 1;
            }
        }
    });
    assert_eq!(seen.len() as u64, total);
    assert!(seen.values().all(|&times| times == 1));
}

#[test]
fn the_highest_priority_goes_first_and_each_priority_keeps_its_order() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut sender = client.sender("orders").unwrap();
    let mut other = client.sender("orders").unwrap();
    let mut receiver = client.receiver("orders").unwrap();
    for (priority, text) in
        [(0, "low 1"), (31, "top 1"), (7, "mid 1"), (0, "low 2"), (7, "mid 2"), (31, "top 2")]
    {
        sender.set_priority(priority).unwrap();
        assert_eq!(sender.priority(), priority);
        sender.send(text.as_bytes()).unwrap();
    }
    other.set_priority(8).unwrap();
    other.send(b"other").unwrap();
    let expected = ["top 1", "top 2", "other", "mid 1", "mid 2", "low 1", "low 2"];
    for text in expected {
        let got = receiver.receive_deadline(patience()).unwrap().into_bytes();
        assert_eq!(String::from_utf8_lossy(&got), text);
    }
    let refusal = refused(sender.set_priority(32));
    assert!(refusal.to_string().contains("0 to 31"), "{refusal}");
    assert_eq!(sender.priority(), 31, "a refusal changes nothing");
}

#[test]
fn what_comes_with_a_higher_priority_is_received_before_what_waits() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut sender = client.sender("orders").unwrap();
    let mut receiver = client.receiver("orders").unwrap();
    sender.set_priority(1).unwrap();
    sender.set_priority(0).unwrap();
    for round in 0..50u8 {
        sender.send(&[0, round]).unwrap();
    }
    for round in 0..25u8 {
        let got = receiver.receive_deadline(patience()).unwrap().into_bytes();
        assert_eq!(got, [0, round]);
        sender.set_priority(1).unwrap();
        sender.send(&[1, round]).unwrap();
        sender.set_priority(0).unwrap();
        let got = receiver.receive_deadline(patience()).unwrap().into_bytes();
        assert_eq!(got, [1, round]);
    }
}

fn audited(slow: SlowGroup) -> MailboxOptions {
    let work = small().group("work", SlowGroup::Block).expect("a name");
    work.group("audit", slow).expect("a name")
}

#[test]
fn every_group_gets_every_message_and_its_members_compete() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &audited(SlowGroup::Block));
    let mut sender = client.sender("orders").unwrap();
    let mut one = client.receiver_in_group("orders", "work").unwrap();
    let mut two = client.receiver_in_group("orders", "work").unwrap();
    let mut audit = client.receiver_in_group("orders", "audit").unwrap();
    for number in 0..20 {
        sender.send(&numbered(number, 16)).unwrap();
    }
    for number in 0..20 {
        receive_numbered(&mut audit, number, 16);
    }
    for number in 0..20 {
        let receiver = if number % 3 == 0 { &mut one } else { &mut two };
        receive_numbered(receiver, number, 16);
    }
    for receiver in [&mut one, &mut two, &mut audit] {
        assert!(matches!(receiver.try_receive(), Err(TryReceiveError::Empty)));
    }
    let nameless = refused(client.receiver("orders"));
    assert!(matches!(nameless, Refusal::NoSuchGroup { .. }), "{nameless}");
    let wrong = refused(client.receiver_in_group("orders", "nobody"));
    assert!(wrong.to_string().contains("audit"), "{wrong}");
}

#[test]
fn of_every_group_somebody_who_sleeps_is_woken() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &audited(SlowGroup::Block));
    let mut sender = client.sender("orders").unwrap();
    let mut receivers = ["work", "audit"].map(|group| {
        let mut child = daemon.child();
        child.done(&format!("receiver orders {group}"));
        child
    });
    for round in 0..5 {
        receivers.iter_mut().for_each(|child| child.tell("receive"));
        wait_until("both sleep", || receivers.iter().all(Child::sleeps));
        sender.send(format!("round {round}").as_bytes()).unwrap();
        for child in &mut receivers {
            assert!(child.answer().ends_with(&format!("round {round}")));
        }
    }
}

#[test]
fn a_slow_group_that_blocks_holds_its_senders_back() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &audited(SlowGroup::Block));
    let mut sender = client.sender("orders").unwrap();
    let mut work = client.receiver_in_group("orders", "work").unwrap();
    let mut audit = client.receiver_in_group("orders", "audit").unwrap();
    let mut sent = 0;
    while sender.try_send(&numbered(sent, 16)).is_ok() {
        sent += 1;
    }
    assert_eq!(sent, 128);
    for number in 0..sent {
        receive_numbered(&mut work, number, 16);
    }
    assert!(matches!(sender.try_send(b"more"), Err(TrySendError::Full)), "audit has all to come");
    for number in 0..sent {
        receive_numbered(&mut audit, number, 16);
    }
    sender.try_send(b"more").unwrap();
}

#[test]
fn a_slow_group_that_drops_the_oldest_loses_them_counted_and_holds_nobody_back() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &audited(SlowGroup::DropOldest));
    let mut sender = client.sender("orders").unwrap();
    let mut work = client.receiver_in_group("orders", "work").unwrap();
    let mut audit = client.receiver_in_group("orders", "audit").unwrap();
    let total = 1000;
    for number in 0..total {
        sender.try_send(&numbered(number, 16)).unwrap();
        receive_numbered(&mut work, number, 16);
    }
    let dropped = |client: &Client| {
        let groups = client.show("orders").unwrap().groups;
        let found = groups.iter().find(|report| report.group.name.as_str() == "audit");
        found.unwrap().dropped_messages
    };
    let first = dropped(&client);
    assert!(first > 800, "{first} dropped: the lane holds 128");
    for number in first..total {
        receive_numbered(&mut audit, number, 16);
    }
    assert!(matches!(audit.try_receive(), Err(TryReceiveError::Empty)));
    assert_eq!(dropped(&client), first, "what is received is not dropped");
    let work_report = client.show("orders").unwrap().groups;
    assert_eq!(work_report[0].dropped_messages, 0);
    assert_eq!(work_report[0].queued_messages, 0);
}

#[test]
fn a_group_that_drops_while_it_receives_gets_each_message_once_or_counts_it() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &audited(SlowGroup::DropOldest));
    let total = 20_000u64;
    let got = std::thread::scope(|scope| {
        let mut audit = client.receiver_in_group("orders", "audit").unwrap();
        let mut work = client.receiver_in_group("orders", "work").unwrap();
        let reader = scope.spawn(move || {
            let mut got = Vec::new();
            loop {
                match audit.receive_deadline(patience()) {
                    Ok(delivery) => {
                        got.push(u64::from_le_bytes(delivery.bytes()[..8].try_into().unwrap()));
                        delivery.acknowledge();
                        for _ in 0..got.len() % 500 {
                            std::hint::spin_loop();
                        }
                    }
                    Err(ReceiveError::Closed) => return got,
                    Err(other) => panic!("{other}"),
                }
            }
        });
        let worker = scope.spawn(move || {
            for number in 0..total {
                receive_numbered(&mut work, number, 24);
            }
        });
        let mut sender = client.sender("orders").unwrap();
        for number in 0..total {
            sender.send(&numbered(number, 24)).unwrap();
        }
        worker.join().unwrap();
        client.close("orders").unwrap();
        reader.join().unwrap()
    });
    assert!(got.windows(2).all(|pair| pair[0] < pair[1]), "in order, none twice");
    let dropped = client.show("orders").unwrap().groups[1].dropped_messages;
    assert_eq!(got.len() as u64 + dropped, total);
}

#[test]
fn processes_reach_each_other_by_name_and_by_pid_over_one_link() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client();
    let mut inbox = client.register(Some("clerk"), &small()).unwrap();
    let us = std::process::id();
    let other = daemon.client();
    other.send_to("clerk", b"by name").unwrap();
    other.send_to(us, b"by pid").unwrap();
    other.clone().send_to("clerk", b"by a clone").unwrap();
    for text in ["by name", "by pid", "by a clone"] {
        let delivery = inbox.receive_deadline(patience()).unwrap();
        assert_eq!(delivery.sender().pid, us, "receive tells who sent");
        assert_eq!(String::from_utf8_lossy(&delivery.into_bytes()), text);
    }
    assert_eq!(client.find("clerk").unwrap().pid, us);
    let members = client.show("process/clerk").unwrap().members;
    let senders = members.iter().filter(|member| member.role == libipc::Role::Send);
    assert_eq!(senders.count(), 1, "one link between two processes");
    let second = refused(other.sender("process/clerk"));
    assert!(matches!(second, Refusal::AlreadyLinked { .. }), "{second}");
    let nobody = other.send_to("nobody", b"lost").unwrap_err();
    let SendToError::NoLink(RequestError::Refused(Refusal::NoSuchProcess { .. })) = nobody else {
        panic!("{nobody:?}");
    };
}

#[test]
fn an_inbox_goes_with_its_process_and_a_name_can_come_back() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client();
    {
        let first = daemon.client();
        let inbox = first.register(Some("clerk"), &small()).unwrap();
        client.send_to("clerk", b"to the first").unwrap();
        drop(inbox);
    }
    wait_until("the inbox is gone", || client.find("clerk").is_err());
    assert!(matches!(
        client.send_to("clerk", b"to nobody"),
        Err(SendToError::NoLink(_) | SendToError::Send(SendError::OwnerGone))
    ));
    let second = daemon.client();
    let mut inbox = second.register(Some("clerk"), &small()).unwrap();
    client.send_to("clerk", b"to the second").unwrap();
    assert_eq!(inbox.receive_deadline(patience()).unwrap().into_bytes(), b"to the second");
}

#[test]
fn a_mailbox_that_a_process_owns_goes_with_it_and_tells_who_waits() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client();
    let owner = daemon.client();
    owner.create("own", &small().lifetime(Owner::Process)).unwrap();
    let mut receiver = owner.receiver("own").unwrap();
    let mut sender = client.sender("own").unwrap();
    sender.send(b"while it lives").unwrap();
    assert_eq!(receiver.receive_deadline(patience()).unwrap().into_bytes(), b"while it lives");
    while sender.try_send(&[0; 1000]).is_ok() {}
    let waits = std::thread::spawn(move || sender.send(&[0; 1000]));
    drop((receiver, owner));
    assert!(matches!(waits.join().unwrap(), Err(SendError::OwnerGone)));
    assert!(client.sender("own").is_err());
}

#[test]
fn a_link_of_two_processes_admits_no_third() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("pair", &small().receivers(Receivers::Single));
    let _sender = client.sender("pair").unwrap();
    let _again = client.sender("pair").unwrap();
    let _receiver = client.receiver("pair").unwrap();
    let mut child = daemon.child();
    child.refused("sender pair", "Occupied");
    child.refused("receiver pair", "");
}

#[test]
fn a_mailbox_deleted_when_drained_lets_no_more_in_and_goes_with_the_last_message() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut sender = client.sender("orders").unwrap();
    let mut receiver = client.receiver("orders").unwrap();
    for number in 0..10 {
        sender.send(&numbered(number, 16)).unwrap();
    }
    assert_eq!(client.delete_when_drained("orders").unwrap(), 10);
    assert!(matches!(sender.send(b"late"), Err(SendError::Closed)));
    assert!(matches!(refused(client.sender("orders")), Refusal::Closed { .. }));
    for number in 0..10 {
        receive_numbered(&mut receiver, number, 16);
    }
    let end = receiver.receive_deadline(patience()).map(drop);
    assert!(matches!(end, Err(ReceiveError::Closed | ReceiveError::Deleted)), "{end:?}");
    wait_until("it is gone", || matches!(receiver.try_receive(), Err(TryReceiveError::Deleted)));
    assert!(matches!(sender.send(b"late"), Err(SendError::Deleted)));
}

#[test]
fn a_sender_that_requires_receivers_is_told_when_there_is_none() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut sender: Sender = client.sender("orders").unwrap();
    sender.send(b"for later").unwrap();
    sender.require_receivers();
    assert!(matches!(sender.send(b"now"), Err(SendError::NoReceivers)));
    let receiver = client.receiver("orders").unwrap();
    while sender.try_send(&[0; 1000]).is_ok() {}
    let waits = std::thread::spawn(move || sender.send(&[0; 1000]));
    drop(receiver);
    assert!(matches!(waits.join().unwrap(), Err(SendError::NoReceivers)));
}
