//! Peers that send and write nonsense: it ends with them, and nobody else notices.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use libipc::lane::layout::Hold;
use libipc::lane::position::{Position, record_granules};
use libipc::lane::record::{Marks, RecordHeader, RecordWord};
use libipc::protocol::{
    Answer, LaneTicket, MESSAGE_BYTES_MAX, OpenedRole, Refresh, Request, encode,
};
use libipc::regions::Cursors;
use libipc::sync::Ordering::Relaxed;
use libipc::sys::mapping::Access;
use libipc::sys::socket;
use libipc::{
    Client, Corrupt, MailboxName, MailboxOptions, Reason, ReceiveError, Refusal, Role, SendError,
    SlowGroup, TicketState, TryReceiveError,
};
use tests::{
    Dice, RawClient, TestDaemon, claim_first, descriptors_of, lane_to_write, patience, seed,
    skip_unless_root, wait_until,
};

fn small() -> MailboxOptions {
    MailboxOptions::new().capacity_bytes(4096).receivers_max(8).lanes_max(8)
}

fn name() -> MailboxName {
    MailboxName::new("orders").expect("a name")
}

/// Bytes that are no request, with what is wrong with them.
fn nonsense() -> Vec<(&'static str, Vec<u8>)> {
    let good = encode(1, 0, &Request::Open { name: name(), role: Role::Send, group: None })
        .expect("it fits");
    let changed = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] ^= byte;
        bytes
    };
    vec![
        ("empty", Vec::new()),
        ("one byte", vec![0]),
        ("half a header", good[..12].to_vec()),
        ("truncated", good[..good.len() - 1].to_vec()),
        ("another magic", changed(0, 1)),
        ("another version", changed(4, 8)),
        ("descriptors announced that do not come", changed(6, 1)),
        ("length too small", changed(8, 1)),
        ("length far too large", changed(11, 0x80)),
        ("reserved bits", changed(12, 1)),
        ("no such request", changed(24, 0x40)),
        ("something behind the body", [good.as_slice(), &[0; 9]].concat()),
        ("the largest message, of ones", vec![0xff; MESSAGE_BYTES_MAX]),
        ("oversized", vec![0xff; MESSAGE_BYTES_MAX + 1]),
        ("oversized, well begun", [good.as_slice(), &vec![0; MESSAGE_BYTES_MAX]].concat()),
    ]
}

/// Holds that a session is told that it broke the protocol, and is then closed.
fn expect_the_end(client: &RawClient, what: &str) {
    match client.receive() {
        Some((Answer::Refused(Refusal::Protocol { reason }), fds)) => {
            assert!(!reason.is_empty() && fds.is_empty(), "{what}");
        }
        other => panic!("{what}: {other:?}"),
    }
    assert!(client.receive().is_none(), "{what}: the session goes on");
}

#[test]
fn nonsense_on_the_control_socket_ends_that_session_alone_and_leaves_no_descriptor() {
    nonsense_ends_that_session_alone(&[], &[0]);
    nonsense_ends_that_session_alone(&["--take-descriptors"], &[0, 1, 3, 253]);
}

fn nonsense_ends_that_session_alone(flags: &[&str], gifts: &[usize]) {
    let daemon = TestDaemon::start(flags);
    let client = daemon.client_with("orders", &small());
    let (mut sender, mut receiver) =
        (client.sender("orders").unwrap(), client.receiver("orders").unwrap());
    let alone = daemon.status_alone(&client);
    let before = (descriptors_of(daemon.pid()), alone.usage);
    let gift = std::fs::File::open("/dev/null").expect("a descriptor to give away");
    for (what, bytes) in nonsense() {
        for &gifts in gifts {
            for greeted in [true, false] {
                let raw = if greeted { RawClient::greet } else { RawClient::connect };
                let raw = raw(&daemon.socket());
                let gifts: Vec<_> = (0..gifts).map(|_| gift.as_fd()).collect();
                // The kernel itself refuses what is too long for a socket.
                if raw.send(&bytes, &gifts).is_ok() {
                    expect_the_end(&raw, what);
                }
            }
        }
        sender.send(what.as_bytes()).expect("others do not notice");
        let delivery = receiver.receive_deadline(patience()).expect("others do not notice");
        assert_eq!(delivery.into_bytes(), what.as_bytes());
    }
    wait_until("all of them are gone", || daemon.status(&client).sessions == 1);
    wait_until("their descriptors are closed", || descriptors_of(daemon.pid()) <= before.0);
    assert_eq!(daemon.status(&client).usage, before.1);
}

#[test]
fn descriptors_that_come_with_a_good_request_are_refused_or_end_the_session() {
    let daemon = TestDaemon::start(&["--take-descriptors"]);
    let client = daemon.client();
    wait_until("only we are there", || daemon.status(&client).sessions == 1);
    let before = descriptors_of(daemon.pid());
    let gift = std::fs::File::open("/dev/null").expect("a descriptor to give away");
    for announced in [0, 2] {
        let raw = RawClient::greet(&daemon.socket());
        let bytes = encode(1, announced, &Request::Status).expect("it fits");
        raw.send(&bytes, &[gift.as_fd(), gift.as_fd()]).expect("the kernel takes it");
        expect_the_end(&raw, "descriptors");
    }
    // What somebody left who looked whether the daemon listens may have been among those before.
    wait_until("their descriptors are closed", || descriptors_of(daemon.pid()) <= before);
    let refusing = TestDaemon::start(&[]);
    let mut raw = RawClient::greet(&refusing.socket());
    if !socket::refuse_descriptors(&raw).unwrap() {
        println!("SKIPPED: sockets that refuse descriptors (this kernel has none)");
        return;
    }
    let bytes = encode(1, 1, &Request::Status).expect("it fits");
    let refused = raw.send(&bytes, &[gift.as_fd()]).expect_err("no descriptor is taken");
    assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    assert!(matches!(raw.ask(&Request::Status).0, Answer::Status(_)), "the session goes on");
}

#[test]
fn requests_out_of_order_are_refused() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let early = [Request::Status, Request::CloseLink { link: 0 }, Request::List { after: None }];
    for request in early {
        let raw = RawClient::connect(&daemon.socket());
        let bytes = encode(1, 0, &request).expect("it fits");
        raw.send(&bytes, &[]).expect("the daemon listens");
        expect_the_end(&raw, "before the hello");
    }
    let mut raw = RawClient::greet(&daemon.socket());
    let lane = LaneTicket { index: u16::MAX, generation: u32::MAX };
    let strangers = [
        Request::CloseLink { link: u32::MAX },
        Request::Fetch(Refresh { link: 7, after: u64::MAX }),
        Request::LaneDrained { link: 7, lane },
        Request::AddLane {
            link: 7,
            priority: u8::MAX,
            capacity_bytes: u64::MAX,
            replaces: Some(lane),
        },
        Request::Drained { link: u32::MAX },
        Request::DropOldest {
            link: 7,
            lane,
            group: u8::MAX,
            from: u64::MAX,
            through: u64::MAX,
            messages: u64::MAX,
        },
        Request::OpenReplies { link: u32::MAX },
        Request::OpenReply { link: 7, lane },
    ];
    for request in strangers {
        let (answer, fds) = raw.ask(&request);
        let refused = matches!(answer, Answer::Refused(Refusal::NoSuchLink { .. }));
        assert!(refused && fds.is_empty(), "{request:?}: {answer:?}");
    }
    let (opened, _) = raw.open("orders", Role::Receive).expect("the session goes on");
    let (answer, _) = raw.ask(&Request::LaneDrained { link: opened.link, lane });
    assert_eq!(answer, Answer::Done, "a lane that is not there is not freed");
    let (answer, _) = raw.ask(&Request::Fetch(Refresh { link: opened.link, after: u64::MAX }));
    assert!(matches!(answer, Answer::Fetched(_) | Answer::Refused(_)), "{answer:?}");
    assert_eq!(client.show("orders").unwrap().summary.receivers, 1);
}

/// What a hostile sender writes into its lane that a receiver cannot believe.
const SCRIBBLES: [&str; 6] = [
    "tail_too_far",
    "tail_far_too_far",
    "tail_back",
    "record_longer_than_the_lane",
    "record_longer_than_published",
    "lane_full_of_ones",
];

/// Receives until so many good messages have come; returns what was found corrupt.
fn receive_among_nonsense(receiver: &mut libipc::Receiver, good: usize) -> Vec<Corrupt> {
    let mut corrupt = Vec::new();
    let mut texts = Vec::new();
    let mut more_looks = 8;
    while texts.len() < good || more_looks > 0 {
        let deadline = if texts.len() < good { patience() } else { Instant::now() };
        match receiver.receive_deadline(deadline) {
            Ok(delivery) => texts.push(delivery.into_bytes()),
            Err(ReceiveError::Corrupt(found)) => corrupt.push(found),
            Err(ReceiveError::TimedOut) => more_looks -= 1,
            Err(error) => panic!("{error:?}"),
        }
    }
    let expected: Vec<_> = (0..good).map(|n| n.to_string().into_bytes()).collect();
    assert_eq!(texts, expected, "the honest lane goes on, whole and in order");
    corrupt
}

#[test]
fn a_scribbled_lane_is_corrupt_by_name_once_and_the_other_lanes_go_on() {
    let daemon = TestDaemon::start(&[]);
    let hostile_uid = nix::unistd::geteuid().as_raw();
    for receivers in [1, 8] {
        for what in SCRIBBLES {
            let options = small().receivers_max(receivers);
            let client = daemon.client_with("orders", &options);
            let mut receiver = client.receiver("orders").unwrap();
            let mut honest = client.sender("orders").unwrap();
            let mut hostile = daemon.child();
            hostile.done(&format!("scribble orders {what}"));
            for n in 0..20 {
                honest.send(n.to_string().as_bytes()).unwrap();
            }
            let corrupt = receive_among_nonsense(&mut receiver, 20);
            let [found] = &corrupt[..] else { panic!("{what} to {receivers}: {corrupt:?}") };
            assert_eq!(found.lane, 1, "{what} to {receivers}");
            match found.peer {
                Some(peer) => {
                    assert_eq!((peer.pid, peer.uid), (hostile.pid(), hostile_uid), "{what}");
                    assert!(found.to_string().contains(&format!("pid {}", peer.pid)), "{found}");
                }
                // Another receiver may have moved the claim: nobody is blamed who may be innocent.
                None => assert!(receivers > 1 && found.what == "tail or claim", "{what}: {found}"),
            }
            // The dead scribbler's lane is no burden for ever.
            drop(hostile);
            wait_until("the scribbled lane is given back", || {
                let _ = receiver.try_receive();
                client.show("orders").is_ok_and(|detail| detail.summary.senders == 1)
            });
            client.delete("orders").unwrap();
        }
    }
    let client = daemon.client();
    wait_until("all is given back", || daemon.status(&client).sessions == 1);
    let status = daemon.status(&client);
    assert_eq!((status.usage.lanes, status.usage.bytes, status.resident_bytes), (0, 0, 0));
}

/// A sender changes a record that its receiver has claimed, and copied with the one before it: a batch that begins there is what
/// stands in the lane, so that nonsense is met, and nobody else waits for ever.
#[test]
fn a_record_that_is_changed_behind_a_copied_one_ends_its_lane_and_no_other() {
    let withdrawn =
        RecordHeader { len: 3, flags: RecordHeader::WITHDRAWN, ..RecordHeader::default() };
    for word in [RecordWord::message(u32::MAX as usize - 7), withdrawn.word()] {
        let daemon = TestDaemon::start(&[]);
        let client = daemon.client_with("orders", &small());
        let mut receiver = client.receiver("orders").unwrap();
        let mut raw = RawClient::greet(&daemon.socket());
        let (opened, descriptors) = raw.open("orders", Role::Send).expect("a lane");
        let (mut writer, marks) = lane_to_write(&opened, &descriptors);
        let mut honest = client.sender("orders").unwrap();
        // A receiver that is quick claims several.
        for _ in 0..3 {
            writer.find_room(1).unwrap();
            writer.publish(b"first");
            received(&mut receiver, b"first");
        }
        let second = writer.tail().advance(record_granules(3));
        for message in [b"one", b"two"] {
            writer.find_room(record_granules(3)).unwrap();
            writer.append(message);
        }
        writer.publish_appended();
        received(&mut receiver, b"one");
        marks.mark(second, word);
        honest.send(b"honest").unwrap();
        let mut got: Vec<Vec<u8>> = Vec::new();
        for _ in 0..2 {
            match receiver.receive_batch_deadline(8, patience()) {
                Ok(batch) => {
                    assert!(!batch.is_empty(), "at least one");
                    got.extend(batch.iter().map(|it| it.bytes().to_vec()));
                    batch.acknowledge();
                }
                Err(ReceiveError::Corrupt(found)) => assert_eq!(found.lane, 0, "{found}"),
                Err(error) => panic!("{error}"),
            }
            if !got.is_empty() {
                break;
            }
        }
        assert_eq!(got, [b"honest"], "{word:?}");
    }
}

fn received(receiver: &mut libipc::Receiver, message: &[u8]) {
    let delivery = receiver.receive_deadline(patience()).unwrap();
    assert_eq!(delivery.bytes(), message);
    delivery.acknowledge();
}

/// What stands beside the tail is a copy that the sender makes: one that lies there sends what it says, or nothing.
#[test]
fn what_a_sender_alleges_beside_its_tail_is_a_short_message_or_a_corrupt_lane() {
    // The kind and the bytes of a payload, and one: with what is received.
    let allegations =
        [(0x0001, Some(0)), (0x0009, Some(8)), (0x0071, Some(112)), (0x0109, Some(0))];
    let impossible = [(0x0000, None), (0x0072, None), (0x00ff, None), (0xffff, None)];
    let daemon = TestDaemon::start(&[]);
    for receivers in [1, 8] {
        for (of, expected) in allegations.into_iter().chain(impossible) {
            let client = daemon.client_with("orders", &small().receivers_max(receivers));
            let mut receiver = client.receiver("orders").unwrap();
            let mut honest = client.sender("orders").unwrap();
            let mut hostile = daemon.child();
            hostile.done(&format!("scribble orders beside {of}"));
            honest.send(b"fine").unwrap();
            let (mut others, mut corrupt, mut fine) = (Vec::new(), 0, 0);
            for _ in 0..8 {
                match receiver.receive_deadline(Instant::now() + Duration::from_millis(5)) {
                    Ok(delivery) => match delivery.into_bytes() {
                        bytes if bytes == b"fine" => fine += 1,
                        bytes => others.push(bytes),
                    },
                    Err(ReceiveError::Corrupt(_)) => corrupt += 1,
                    Err(ReceiveError::TimedOut) => {}
                    Err(error) => panic!("{of:#x}: {error:?}"),
                }
            }
            assert_eq!(fine, 1, "{of:#x}: the honest lane goes on");
            let expected: Vec<Vec<u8>> = expected.map(|len| vec![0; len]).into_iter().collect();
            assert_eq!(others, expected, "{of:#x}");
            assert_eq!(corrupt, usize::from(expected.is_empty()), "{of:#x}");
            drop(hostile);
            client.delete("orders").unwrap();
        }
    }
}

#[test]
fn a_doorstep_full_of_nonsense_stops_nobody_of_another_handle() {
    let daemon = TestDaemon::start(&[]);
    for what in ["doorstep_full_of_ones", "bell_hammered"] {
        let client = daemon.client_with("orders", &small());
        let mut receiver = client.receiver("orders").unwrap();
        let mut honest = client.sender("orders").unwrap();
        let mut hostile = daemon.child();
        hostile.done(&format!("scribble orders {what}"));
        for n in 0..500u32 {
            honest.send(&n.to_le_bytes()).unwrap();
            let delivery = receiver.receive_deadline(patience()).unwrap();
            assert_eq!(delivery.into_bytes(), n.to_le_bytes(), "{what}");
        }
        client.delete("orders").unwrap();
    }
}

/// What a hostile receiver writes into the cursors.
const DERANGEMENTS: [&str; 8] = [
    "claims_far_ahead",
    "claims_back",
    "hold_of_everything",
    "offers_nothing",
    "all_sleep",
    "all_taken",
    "all_ones",
    "all_zeros",
];

#[test]
fn nonsense_in_the_cursors_ends_in_errors_and_never_in_a_panic_or_a_hang() {
    let daemon = TestDaemon::start(&[]);
    for what in DERANGEMENTS {
        for queued in [0, 5] {
            deranged(&daemon, what, queued);
        }
    }
    // Other mailboxes have not noticed, and nothing is left.
    let client = daemon.client_with("other", &small());
    client.sender("other").unwrap().send(b"fine").unwrap();
    let mut receiver = client.receiver("other").unwrap();
    assert_eq!(receiver.receive_deadline(patience()).unwrap().into_bytes(), b"fine");
    drop(receiver);
    client.delete("other").unwrap();
    wait_until("all sessions are over", || daemon.status(&client).sessions == 1);
    let status = daemon.status(&client);
    assert_eq!((status.mailboxes, status.usage.lanes, status.resident_bytes), (0, 0, 0));
}

/// One mailbox with an honest sender and an honest receiver, whose cursors a hostile one deranges.
fn deranged(daemon: &TestDaemon, what: &str, queued: u64) {
    let client = daemon.client_with("orders", &small());
    let mut sender = client.sender("orders").unwrap();
    let mut send = |deadline: Instant| sender.send_deadline(&[7; 64], deadline);
    (0..queued).for_each(|_| send(patience()).unwrap());
    let mut honest = client.receiver("orders").unwrap();
    let mut hostile = daemon.child();
    hostile.done(&format!("derange orders {what}"));
    let soon = || Instant::now() + Duration::from_millis(20);
    for _ in 0..100 {
        match send(soon()) {
            Ok(()) | Err(SendError::TimedOut | SendError::Corrupt(_)) => {}
            Err(error) => panic!("{what}: the sender fails with {error:?}"),
        }
        take_what_there_is(&mut honest, what);
    }
    drop(hostile);
    wait_until("the daemon has mended it", || receivers(&client) == 1);
    client.delete("orders").unwrap();
}

/// What the messages say is not looked at: whoever may receive may spoil what other receivers get.
fn take_what_there_is(receiver: &mut libipc::Receiver, what: &str) {
    for _ in 0..4 {
        match receiver.try_receive() {
            Ok(delivery) => delivery.acknowledge(),
            Err(TryReceiveError::Empty | TryReceiveError::Corrupt(_)) => {}
            Err(error) => panic!("{what}: the receiver fails with {error:?}"),
        }
    }
}

fn receivers(client: &Client) -> u32 {
    client.show("orders").map_or(0, |detail| detail.summary.receivers)
}

#[test]
fn a_receiver_that_rejects_what_it_does_not_hold_harms_nobody_else() {
    let seed = seed();
    let mut dice = Dice::new(seed);
    let daemon = TestDaemon::start(&["--dead-letters-max", "50"]);
    let group = |options: MailboxOptions, name| options.group(name, SlowGroup::Block).unwrap();
    let client = daemon.client_with("news", &group(group(small(), "honest"), "other"));
    let mut honest = client.receiver_in_group("news", "honest").unwrap();
    let mut sender = client.sender("news").unwrap();
    let message = |n: u8| vec![n; 10 + usize::from(n) * 3];
    let first_end = Position::new(0).advance(record_granules(message(0).len()));
    let tickets: Vec<_> =
        (0..30).map(|n| sender.send_tracked(&message(n)).expect("there is room")).collect();
    let mut raw = RawClient::greet(&daemon.socket());
    let name = MailboxName::new("news").unwrap();
    let group = Some(MailboxName::new("other").unwrap());
    let asked = raw.ask(&Request::Open { name, role: Role::Receive, group });
    let (Answer::Opened(opened), descriptors) = asked else { panic!("{asked:?}") };
    let OpenedRole::Receive { slot, .. } = opened.role else { panic!("{opened:?}") };
    let lane = opened.fetched.lanes[0].ticket;
    let limits = opened.attributes.limits(2);
    let cursors = Cursors::map(&descriptors[1], limits, Access::ReadWrite).unwrap();
    let cell = &cursors.slots[usize::from(slot)];
    // One that is in hand, by another name.
    cell.end.store(first_end.get(), Relaxed);
    let position = Position::new(0);
    cell.hold.store(Hold { confirmed: true, lane: lane.index, position }.to_word(), Relaxed);
    let other = LaneTicket { generation: lane.generation + 1, ..lane };
    for (lane, position) in [(lane, 1), (lane, first_end.get()), (other, 0)] {
        let (link, reason) = (opened.link, Reason::Rejected);
        let answer = raw.ask(&Request::Reject { link, lane, position, reason }).0;
        assert_eq!(answer, Answer::Refused(Refusal::NotInHand));
    }
    assert_eq!(client.show("news").unwrap().dead_lettered_messages, 0);
    let mut refusals = 0;
    for _ in 0..400 {
        let position = Position::new(dice.below(300).wrapping_sub(20));
        let end = position.advance([1, 2, 5, 300, 1 << 40][dice.below(5) as usize]);
        let confirmed = dice.below(4) > 0;
        let index = if dice.below(8) == 0 { 7 } else { lane.index };
        cell.end.store(end.get(), Relaxed);
        cell.attempts.store(dice.below(4) as u32, Relaxed);
        cell.hold.store(Hold { confirmed, lane: index, position }.to_word(), Relaxed);
        let lane = if dice.below(8) == 0 { LaneTicket { generation: 9, ..lane } } else { lane };
        let (position, reason) = (position.get(), Reason::Rejected);
        match raw.ask(&Request::Reject { link: opened.link, lane, position, reason }).0 {
            Answer::Done => {}
            Answer::Refused(_) => refusals += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(refusals > 50, "{refusals}");
    for n in 0..30 {
        let delivery = honest.receive_deadline(patience()).unwrap();
        assert!(delivery.bytes() == message(n), "message {n}, seed {seed}");
        delivery.acknowledge();
    }
    // Nothing is settled by what the other group has not received.
    assert!(tickets.iter().all(|ticket| ticket.state().unwrap() == TicketState::InHand));
    // It goes, and an honest one receives what it never took. What it held to the end its group would be offered, be it a
    // record or not.
    cell.hold.store(Hold::IDLE, Relaxed);
    drop((raw, descriptors));
    let mut other = client.receiver_in_group("news", "other").unwrap();
    wait_until("it is gone", || client.show("news").unwrap().summary.receivers == 2);
    client.discard_dead_letters("news", None).unwrap();
    let last = (0..30).map(|_| other.receive_deadline(patience()).unwrap().into_bytes()).last();
    assert_eq!(last, Some(message(29)), "seed {seed}");
}

/// What a receiver of the same mailbox may have caused is not laid at the sender's door, once one of another uid has been there.
#[test]
fn what_a_receiver_alleges_inside_a_record_is_blamed_on_nobody_where_strangers_receive() {
    for stranger in [false, true] {
        if stranger && skip_unless_root("a receiver of another uid") {
            return;
        }
        let daemon = TestDaemon::start(&[]);
        let client = daemon.client_with("orders", &small().mode(0o666));
        if stranger {
            daemon.child_as(65_501).done("receiver orders");
        }
        // Its payload is no header.
        client.sender("orders").unwrap().send(&[0xff; 64]).unwrap();
        let mut raw = RawClient::greet(&daemon.socket());
        let (opened, descriptors) = raw.open("orders", Role::Receive).unwrap();
        let (lane, position) = claim_first(&opened, &descriptors, 64);
        let OpenedRole::Receive { slot, .. } = opened.role else { panic!("{opened:?}") };
        let limits = opened.attributes.limits(1);
        let cursors = Cursors::map(&descriptors[1], limits, Access::ReadWrite).unwrap();
        let hold = &cursors.slots[usize::from(slot)].hold;
        let position = Position::new(position).advance(1);
        let inside = Hold { confirmed: true, lane: lane.index, position };
        hold.store(inside.to_word(), Relaxed);
        drop((raw, descriptors));
        let mut honest = client.receiver("orders").unwrap();
        let error = honest.receive_deadline(patience()).expect_err("no record begins there");
        let ReceiveError::Corrupt(Corrupt { peer, .. }) = error else { panic!("{error:?}") };
        assert_eq!(peer.is_none(), stranger, "{peer:?}");
    }
}
