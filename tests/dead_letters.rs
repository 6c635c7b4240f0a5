//! Messages that nobody can deal with: rejected, handed out as often as that may be, left by a receiver that died.
//! The promises of `docs/contract.md` on dead letters.

use std::time::Duration;

use libipc::protocol::{Answer, Request};
use libipc::{
    Buffering, CallError, Client, DeadLetter, MailboxOptions, OnDeath, Order, Reason, ReceiveError,
    Receiver, Refusal, RequestError, Role, SendError, Sender, SlowGroup, TicketState,
    TryReceiveError,
};
use tests::shell::Shell;
use tests::{
    Dice, RawClient, TestDaemon, UIDS, claim_first, patience, seed, skip_unless_root, wait_until,
};

/// A small mailbox: a lane of it holds 128 messages of up to 16 bytes.
fn small() -> MailboxOptions {
    MailboxOptions::new().capacity_bytes(4096).receivers_max(4).lanes_max(8)
}

/// A receiver of the mailbox's dead letters.
fn letters(client: &Client, name: &str) -> Receiver {
    client.receiver(&format!("dead/{name}")).expect("a place among the dead letters")
}

/// The next dead letter: what it says, who sent it, and what is known of it.
fn next(letters: &mut Receiver) -> (String, u32, DeadLetter) {
    let delivery = letters.receive_deadline(patience()).expect("a dead letter");
    let known = delivery.dead_letter().expect("it is a dead letter");
    let pid = delivery.sender().pid;
    (String::from_utf8(delivery.into_bytes()).expect("text"), pid, known)
}

fn none(receiver: &mut Receiver) -> bool {
    matches!(receiver.try_receive(), Err(TryReceiveError::Empty))
}

fn ended(ticket: &libipc::Ticket) -> TicketState {
    ticket.wait_deadline(patience()).expect("our ticket")
}

fn refused<T: std::fmt::Debug>(result: Result<T, RequestError>) -> Refusal {
    match result {
        Err(RequestError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_rejected_message_is_a_dead_letter_and_its_sender_knows() {
    let daemon = TestDaemon::start(&[]);
    for receivers_max in [1, 4] {
        let client = daemon.client_with("orders", &small().receivers_max(receivers_max));
        let mut sender = client.sender("orders").unwrap();
        let [good, bad] = [b"good", b"bad!"].map(|text| sender.send_tracked(text).unwrap());
        let mut receiver = client.receiver("orders").unwrap();
        receiver.receive_deadline(patience()).unwrap().acknowledge();
        let delivery = receiver.receive_deadline(patience()).unwrap();
        assert_eq!(delivery.dead_letter(), None);
        delivery.reject().unwrap();
        assert_eq!([ended(&good), ended(&bad)], [TicketState::Done, TicketState::DeadLettered]);
        assert_eq!(bad.withdraw().unwrap(), TicketState::DeadLettered, "too late");
        assert!(none(&mut receiver), "it does not come again");
        let detail = client.show("orders").unwrap();
        assert_eq!((detail.summary.dead_letters, detail.dead_lettered_messages), (1, 1));
        assert_eq!((detail.summary.queued_messages, detail.summary.queued_bytes), (0, 0));
        // Its sender may be gone.
        drop(sender);
        let mut letters = letters(&client, "orders");
        let (text, pid, known) = next(&mut letters);
        assert_eq!((text.as_str(), pid), ("bad!", std::process::id()));
        let expected = DeadLetter { number: 1, reason: Reason::Rejected, attempts: 1, group: 0 };
        assert_eq!(known, expected);
        assert!(none(&mut letters));
        wait_until("it is gone", || client.show("orders").unwrap().summary.dead_letters == 0);
        assert_eq!(client.show("orders").unwrap().dead_lettered_messages, 1, "ever");
        client.delete("orders").unwrap();
    }
}

#[test]
fn whoever_waits_for_an_acknowledgement_or_an_answer_is_told() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("meet", &small().buffering(Buffering::Rendezvous));
    client.create("serve", &small()).unwrap();
    let [mut at_meet, mut at_serve] = ["meet", "serve"].map(|name| client.receiver(name).unwrap());
    let rejecting = std::thread::spawn(move || {
        at_meet.receive_deadline(patience()).unwrap().reject().unwrap();
        at_serve.receive_deadline(patience()).unwrap().reject().unwrap();
        (at_meet, at_serve)
    });
    let mut sender = client.sender("meet").unwrap();
    let end = sender.send_deadline(b"no", patience());
    assert!(matches!(end, Err(SendError::DeadLettered)), "{end:?}");
    let mut caller = client.sender("serve").unwrap();
    let end = caller.call_deadline(b"what?", patience());
    assert!(matches!(end, Err(CallError::DeadLettered)), "{end:?}");
    let _kept = rejecting.join().unwrap();
    // A request is a message without its number.
    assert_eq!(next(&mut letters(&client, "serve")).0, "what?");
    // The next is a message like any other.
    drop(_kept);
    let mut receiver = client.receiver("meet").unwrap();
    let taking = std::thread::spawn(move || {
        receiver.receive_deadline(patience()).unwrap().acknowledge();
    });
    sender.send_deadline(b"yes", patience()).unwrap();
    taking.join().unwrap();
}

#[test]
fn a_message_is_handed_out_so_often_and_no_more() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small().max_attempts(3));
    let mut sender = client.sender("orders").unwrap();
    let ticket = sender.send_tracked(b"hot").unwrap();
    let mut receiver = client.receiver("orders").unwrap();
    for attempts in 0..3 {
        let delivery = receiver.receive_deadline(patience()).unwrap();
        assert_eq!(delivery.attempts(), attempts);
        assert_eq!(ticket.state().unwrap(), TicketState::InHand);
        drop(delivery);
    }
    assert_eq!(ended(&ticket), TicketState::DeadLettered);
    assert!(none(&mut receiver));
    let mut letters = letters(&client, "orders");
    let known = next(&mut letters).2;
    assert_eq!((known.reason, known.attempts), (Reason::Attempts, 3));
    // With 0 it is handed out as often as need be.
    client.create("patient", &small().max_attempts(0)).unwrap();
    client.sender("patient").unwrap().send(b"cold").unwrap();
    let mut receiver = client.receiver("patient").unwrap();
    for attempts in 0..40 {
        assert_eq!(receiver.receive_deadline(patience()).unwrap().attempts(), attempts);
    }
}

/// Promise 102.
#[test]
fn what_is_given_back_in_batches_is_handed_out_so_often_and_no_more() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small().max_attempts(3));
    let mut sender = client.sender("orders").unwrap();
    let hot: Vec<_> =
        (0..3).map(|n| sender.send_tracked(format!("hot {n}").as_bytes()).unwrap()).collect();
    let mut receiver = client.receiver("orders").unwrap();
    for attempts in 0..3 {
        let batch = receiver.receive_batch_deadline(3, patience()).unwrap();
        assert!(batch.iter().all(|message| message.attempts() == attempts));
        assert_eq!(batch.len(), if attempts == 0 { 3 } else { batch.len() });
        drop(batch);
        // What a batch leaves comes one by one: the others are given back as often.
        while attempts > 0
            && let Ok(delivery) = receiver.try_receive()
            && delivery.attempts() == attempts
        {
            delivery.return_to_queue();
        }
    }
    wait_until("all are dead", || {
        while let Ok(batch) = receiver.try_receive_batch(3) {
            assert!(batch.iter().all(|message| message.attempts() < 3), "handed out too often");
        }
        hot.iter().all(|ticket| ticket.state().unwrap() == TicketState::DeadLettered)
    });
    let mut letters = letters(&client, "orders");
    for n in 0..3 {
        let (text, _, known) = next(&mut letters);
        assert_eq!((text, known.reason, known.attempts), (format!("hot {n}"), Reason::Attempts, 3));
    }
    // The first of a batch has been out as often as it may, those behind it have not.
    sender.send(b"worn").unwrap();
    for _ in 0..2 {
        drop(receiver.receive_deadline(patience()).unwrap());
    }
    sender.send(b"fresh").unwrap();
    let batch = receiver.receive_batch_deadline(9, patience()).unwrap();
    let alone = batch.len() == 1;
    drop(batch);
    assert_eq!(next(&mut letters).0, "worn");
    let fresh = receiver.receive_deadline(patience()).unwrap();
    assert_eq!((fresh.bytes(), fresh.attempts()), (&b"fresh"[..], u32::from(!alone)));
}

/// Promise 28.
#[test]
fn attempts_that_somebody_has_made_up_are_no_harm() {
    use libipc::regions::Cursors;
    use libipc::sync::Ordering::Relaxed;
    use libipc::sys::mapping::Access;
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    client.sender("orders").unwrap().send(b"hot").unwrap();
    let mut raw = RawClient::greet(&daemon.socket());
    let (opened, descriptors) = raw.open("orders", Role::Receive).unwrap();
    let _ = claim_first(&opened, &descriptors, 3);
    let limits = opened.attributes.limits(opened.groups.len());
    let cursors = Cursors::map(&descriptors[1], limits, Access::ReadWrite).unwrap();
    cursors.slots[0].attempts.store(u32::MAX - 1, Relaxed);
    cursors.header.offered[0].fetch_or(1, Relaxed);
    let mut receiver = client.receiver("orders").unwrap();
    let delivery = receiver.receive_deadline(patience()).unwrap();
    assert_eq!(delivery.attempts(), u32::MAX);
    drop(delivery);
    assert_eq!(next(&mut letters(&client, "orders")).0, "hot");
}

/// Has a child receive a message, and kills it with that in hand.
fn die_with(daemon: &TestDaemon, attempts: u32, text: &str) {
    let mut child = daemon.child();
    child.done("receiver orders");
    let got = child.got("hold");
    assert_eq!((got.attempts, got.text.as_str()), (attempts, text));
    child.kill();
}

#[test]
fn a_message_that_kills_its_receivers_is_a_dead_letter_in_the_end() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small().max_attempts(3));
    let mut sender = client.sender("orders").unwrap();
    let poison = sender.send_tracked(b"poison").unwrap();
    let good = sender.send_tracked(b"good").unwrap();
    for attempts in 0..3 {
        assert!(!poison.state().unwrap().is_settled());
        die_with(&daemon, attempts, "poison");
    }
    // Nobody is there to receive: the daemon alone sees to it.
    assert_eq!(ended(&poison), TicketState::DeadLettered);
    let known = next(&mut letters(&client, "orders")).2;
    assert_eq!((known.reason, known.attempts), (Reason::Attempts, 3));
    let mut receiver = client.receiver("orders").unwrap();
    let delivery = receiver.receive_deadline(patience()).unwrap();
    assert_eq!(
        (delivery.bytes(), delivery.attempts()),
        (&b"good"[..], 0),
        "it was never handed out"
    );
    delivery.acknowledge();
    assert_eq!(ended(&good), TicketState::Done);
}

#[test]
fn what_a_dead_receiver_had_in_hand_is_dropped_or_a_dead_letter_where_that_is_asked_for() {
    let daemon = TestDaemon::start(&[]);
    let ends = [
        (OnDeath::Drop, TicketState::Dropped),
        (OnDeath::DeadLetter, TicketState::DeadLettered),
        (OnDeath::Redeliver, TicketState::InHand),
    ];
    for (on_death, end) in ends {
        // Alone, a receiver claims several at once.
        let client = daemon.client_with("orders", &small().on_death(on_death).receivers_max(1));
        let mut sender = client.sender("orders").unwrap();
        let tickets: Vec<_> = (0..5u8).map(|n| sender.send_tracked(&[b'0' + n]).unwrap()).collect();
        let mut child = daemon.child();
        child.done("receiver orders");
        // Three in hand, of which one is acknowledged.
        assert_eq!(child.ask("hold_batch 3 1"), "holding 2");
        child.kill();
        let mut receiver = None;
        wait_until("its place is free", || {
            receiver = client.receiver("orders").ok();
            receiver.is_some()
        });
        let mut receiver = receiver.unwrap();
        assert_eq!(ended(&tickets[0]), TicketState::Done);
        for ticket in &tickets[1..3] {
            wait_until("the daemon has seen to it", || ticket.state().unwrap() == end);
        }
        let mut left = Vec::new();
        while let Ok(delivery) = receiver.receive_deadline(short()) {
            left.push((delivery.attempts(), delivery.bytes()[0] - b'0'));
            delivery.acknowledge();
        }
        let detail = client.show("orders").unwrap();
        let counts = (detail.dropped_messages, detail.dead_lettered_messages);
        match on_death {
            OnDeath::Redeliver => assert_eq!(left, [(1, 1), (1, 2), (0, 3), (0, 4)]),
            _ => assert_eq!(left, [(0, 3), (0, 4)]),
        }
        let expected = match on_death {
            OnDeath::Redeliver => (0, 0),
            OnDeath::Drop => (2, 0),
            OnDeath::DeadLetter => (0, 2),
        };
        assert_eq!((counts, detail.summary.queued_messages), (expected, 0), "{on_death}");
        if on_death == OnDeath::DeadLetter {
            let mut letters = letters(&client, "orders");
            let [first, second] = [next(&mut letters), next(&mut letters)];
            assert_eq!([first.0.as_str(), second.0.as_str()], ["1", "2"]);
            assert_eq!([first.2.reason, second.2.reason], [Reason::Death; 2]);
            assert!(none(&mut letters));
        }
        client.delete("orders").unwrap();
    }
}

#[test]
fn what_a_receiver_has_claimed_and_not_in_hand_is_neither_dropped_nor_a_dead_letter_at_its_end() {
    let daemon = TestDaemon::start(&[]);
    for on_death in [OnDeath::Drop, OnDeath::DeadLetter] {
        let client = daemon.client_with("orders", &small().on_death(on_death));
        let mut sender = client.sender("orders").unwrap();
        (0..5u8).for_each(|n| sender.send(&[b'0' + n]).unwrap());
        let give_back = |receiver: &mut Receiver, count| {
            let batch = receiver.receive_batch_deadline(count, patience()).unwrap();
            assert_eq!(batch.len(), count);
            batch.return_to_queue();
        };
        // What is given back may be claimed together again: by one that closes...
        let mut receiver = client.receiver("orders").unwrap();
        give_back(&mut receiver, 2);
        assert_eq!(receiver.receive_deadline(patience()).unwrap().into_bytes(), b"0");
        drop(receiver);
        // ... and by one that dies with the first of it.
        let mut receiver = client.receiver("orders").unwrap();
        assert_eq!(receiver.receive_deadline(patience()).unwrap().into_bytes(), b"1");
        give_back(&mut receiver, 3);
        let mut child = daemon.child();
        child.done("receiver orders");
        assert_eq!(child.got("hold").text, "2");
        child.kill();
        for expected in [b"3", b"4"] {
            let delivery = receiver.receive_deadline(patience()).unwrap();
            assert_eq!((delivery.bytes(), delivery.attempts()), (&expected[..], 1));
            delivery.acknowledge();
        }
        let ended = || {
            let detail = client.show("orders").unwrap();
            detail.dropped_messages + detail.dead_lettered_messages
        };
        wait_until("the daemon has seen to it", || ended() > 0);
        assert_eq!(ended(), 1);
        drop(receiver);
        client.delete("orders").unwrap();
    }
}

fn short() -> std::time::Instant {
    std::time::Instant::now() + Duration::from_millis(50)
}

#[test]
fn dead_letters_are_put_back_or_thrown_away() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small().order(Order::Arrival));
    let mut child = daemon.child();
    child.done("sender orders");
    for text in ["one", "two", "three", "four"] {
        child.done(&format!("send {text}"));
    }
    let mut receiver = client.receiver("orders").unwrap();
    for _ in 0..4 {
        receiver.receive_deadline(patience()).unwrap().reject().unwrap();
    }
    let pid = child.pid();
    child.kill();
    assert_eq!(client.requeue("orders", Some(2)).unwrap(), 1);
    let delivery = receiver.receive_deadline(patience()).unwrap();
    assert_eq!((delivery.bytes(), delivery.sender().pid), (&b"two"[..], pid), "its own sender's");
    assert_eq!((delivery.attempts(), delivery.dead_letter()), (0, None));
    delivery.acknowledge();
    let refusal = refused(client.requeue("orders", Some(2)));
    assert!(matches!(refusal, Refusal::NoSuchDeadLetter { number: 2, .. }), "{refusal}");
    assert_eq!(client.discard_dead_letters("orders", Some(1)).unwrap(), 1);
    // What somebody has in hand is not moved.
    let mut reading = letters(&client, "orders");
    let in_hand = reading.receive_deadline(patience()).unwrap();
    assert_eq!(in_hand.bytes(), b"three");
    assert!(matches!(refused(client.requeue("orders", Some(3))), Refusal::NoSuchDeadLetter { .. }));
    assert_eq!(client.requeue("orders", None).unwrap(), 1);
    assert_eq!(receiver.receive_deadline(patience()).unwrap().into_bytes(), b"four");
    drop(in_hand);
    assert_eq!(next(&mut reading).0, "three");
    assert_eq!(client.requeue("orders", None).unwrap(), 0, "nothing is left");
    assert_eq!(client.discard_dead_letters("orders", None).unwrap(), 0);
    let summary = client.show("orders").unwrap().summary;
    assert_eq!((summary.dead_letters, summary.queued_messages, summary.queued_bytes), (0, 0, 0));
    // No number is given twice.
    client.sender("orders").unwrap().send(b"five").unwrap();
    receiver.receive_deadline(patience()).unwrap().reject().unwrap();
    assert_eq!(next(&mut reading).2.number, 5);
}

#[test]
fn what_is_put_back_is_received_as_it_was_sent() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small().order(Order::Arrival));
    let mut children = ["before", "it", "behind"].map(|text| {
        let mut child = daemon.child();
        child.done("sender orders");
        child.done(&format!("send {text}"));
        child
    });
    let mut receiver = client.receiver("orders").unwrap();
    let it = receiver.receive_from_deadline(children[1].pid(), patience()).unwrap();
    it.reject().unwrap();
    // At its place in the order of arrival.
    assert_eq!(client.requeue("orders", None).unwrap(), 1);
    for expected in ["before", "it", "behind"] {
        assert_eq!(
            receiver.receive_deadline(patience()).unwrap().into_bytes(),
            expected.as_bytes()
        );
    }
    // At its priority.
    client.create("urgent", &small()).unwrap();
    children.iter_mut().for_each(|child| drop(child.done("sender urgent")));
    children[0].done("priority 9");
    children[0].done("send first");
    let mut receiver = client.receiver("urgent").unwrap();
    receiver.receive_deadline(patience()).unwrap().reject().unwrap();
    children[1].done("send second");
    assert_eq!(client.requeue("urgent", None).unwrap(), 1);
    for expected in [b"first".as_slice(), b"second"] {
        assert_eq!(receiver.receive_deadline(patience()).unwrap().into_bytes(), expected);
    }
    // Not into what is closed: there it stays.
    client.sender("urgent").unwrap().send(b"third").unwrap();
    receiver.receive_deadline(patience()).unwrap().reject().unwrap();
    client.close("urgent").unwrap();
    let refusal = refused(client.requeue("urgent", None));
    assert!(matches!(refusal, Refusal::Closed { .. }), "{refusal}");
    client.open("urgent").unwrap();
    assert_eq!(client.requeue("urgent", None).unwrap(), 1);
    assert_eq!(receiver.receive_deadline(patience()).unwrap().into_bytes(), b"third");
}

#[test]
fn of_several_groups_each_has_its_own_dead_letters() {
    let daemon = TestDaemon::start(&[]);
    let group = |options: MailboxOptions, name| options.group(name, SlowGroup::Block).unwrap();
    let client = daemon.client_with("news", &group(group(small(), "left"), "right"));
    let [mut left, mut right] =
        ["left", "right"].map(|name| client.receiver_in_group("news", name).unwrap());
    let mut sender = client.sender("news").unwrap();
    let ticket = sender.send_tracked(b"item").unwrap();
    right.receive_deadline(patience()).unwrap().reject().unwrap();
    assert_eq!(ticket.state().unwrap(), TicketState::InHand, "the other group has still to see it");
    assert_eq!(left.receive_deadline(patience()).unwrap().into_bytes(), b"item");
    assert_eq!(ended(&ticket), TicketState::DeadLettered);
    assert_eq!(client.requeue("news", None).unwrap(), 1);
    assert_eq!(right.receive_deadline(patience()).unwrap().into_bytes(), b"item");
    assert!(none(&mut left), "it has had it");
    let detail = client.show("news").unwrap();
    assert_eq!(detail.summary.queued_messages, 0);
    assert!(detail.groups.iter().all(|group| group.queued_messages == 0));
    // Received at most once: it is in nobody's hand.
    let lossy = small().group("fast", SlowGroup::DropOldest).unwrap();
    client.create("prices", &lossy).unwrap();
    client.sender("prices").unwrap().send(b"old").unwrap();
    let mut fast = client.receiver_in_group("prices", "fast").unwrap();
    client.sender("prices").unwrap().send(b"new").unwrap();
    let delivery = fast.receive_deadline(patience()).unwrap();
    assert_eq!(refused(delivery.reject()), Refusal::NotInHand);
}

#[test]
fn dead_letters_are_their_owners_and_ipcd_alone_makes_them() {
    if skip_unless_root("dead letters and other uids") {
        return;
    }
    let daemon = TestDaemon::start(&[]);
    // Others may send and not receive.
    let client = daemon.client_with("inbox", &small().mode(0o622));
    let mut receiver = client.receiver("inbox").unwrap();
    let mut stranger = daemon.child_as(UIDS[0]);
    stranger.done("sender inbox");
    stranger.done("send mine");
    receiver.receive_deadline(patience()).unwrap().reject().unwrap();
    for command in ["receiver dead/inbox", "observer dead/inbox", "sender dead/inbox"] {
        let answer = stranger.ask(command);
        assert!(answer.contains("PermissionDenied") || answer.contains("DeadLetters"), "{answer}");
    }
    // Not even root sends there.
    let refusal = refused(client.sender("dead/inbox"));
    assert!(matches!(refusal, Refusal::DeadLetters { .. }), "{refusal}");
    let refusal = refused(client.create("dead/other", &small()));
    assert!(matches!(refusal, Refusal::InvalidName { .. }), "{refusal}");
    let mut reading = letters(&client, "inbox");
    let delivery = reading.receive_deadline(patience()).unwrap();
    assert_eq!(delivery.sender().uid, UIDS[0], "whose it was at first");
    let refusal = refused(delivery.reject());
    assert!(matches!(refusal, Refusal::DeadLetters { .. }), "{refusal}");
    reading.receive_deadline(patience()).unwrap().return_to_queue();
    drop(reading);
    assert_eq!(client.status().unwrap().usage.dead_letters, 1, "its owner pays");
    client.create("quiet", &small().mode(0o622)).unwrap();
    stranger.refused("receiver dead/quiet", "NoSuchMailbox");
    assert!(client.show("dead/quiet").is_err(), "nor do they have it made");
    let mut reading = letters(&client, "inbox");
    assert_eq!(next(&mut reading).0, "mine", "given back, and not lost");
    stranger.done("send again");
    receiver.receive_deadline(patience()).unwrap().reject().unwrap();
    assert_eq!(client.requeue("inbox", None).unwrap(), 1);
    let delivery = receiver.receive_deadline(patience()).unwrap();
    assert_eq!(delivery.sender().uid, UIDS[0], "it still is");
}

#[test]
fn a_full_quota_of_dead_letters_loses_nothing() {
    let daemon = TestDaemon::start(&["--dead-letters-max", "2"]);
    let client = daemon.client_with("orders", &small().max_attempts(2));
    let mut sender = client.sender("orders").unwrap();
    let tickets: Vec<_> = (0..3u8).map(|n| sender.send_tracked(&[n]).unwrap()).collect();
    let mut receiver = client.receiver("orders").unwrap();
    for _ in 0..2 {
        receiver.receive_deadline(patience()).unwrap().reject().unwrap();
    }
    let refusal = refused(receiver.receive_deadline(patience()).unwrap().reject());
    let Refusal::QuotaExceeded { what, used: 2, limit: 2, .. } = &refusal else {
        panic!("{refusal}");
    };
    assert_eq!(what, "dead letters");
    // However often it is given back, it comes again.
    for attempts in 1..5 {
        assert_eq!(receiver.receive_deadline(patience()).unwrap().attempts(), attempts);
    }
    drop(receiver);
    let mut child = daemon.child();
    child.done("receiver orders");
    assert_eq!(child.got("hold").attempts, 5);
    child.kill();
    let mut receiver = client.receiver("orders").unwrap();
    let delivery = receiver.receive_deadline(patience()).unwrap();
    assert_eq!((delivery.bytes(), delivery.attempts()), (&[2][..], 6));
    assert_eq!(tickets[2].state().unwrap(), TicketState::InHand);
    assert_eq!(client.discard_dead_letters("orders", None).unwrap(), 2);
    drop(delivery);
    assert_eq!(ended(&tickets[2]), TicketState::DeadLettered, "now there is room");
    let usage = client.status().unwrap().usage;
    assert_eq!(usage.dead_letters, 1);
    // With their mailbox they go.
    drop(receiver);
    assert_eq!(client.delete("orders").unwrap(), 1);
    let after = client.status().unwrap().usage;
    assert_eq!((after.dead_letters, after.mailboxes, after.bytes, after.lanes), (0, 0, 0, 0));
}

/// Sends, and has every message acknowledged, rejected or returned at random; returns how many of each end there were.
fn mingle(
    dice: &mut Dice,
    sender: &mut Sender,
    receivers: &mut [Receiver],
    messages: u32,
) -> (u32, u32) {
    let mut tickets = Vec::new();
    let mut expected = std::collections::HashMap::new();
    let mut sent = 0;
    let (mut done, mut dead) = (0, 0);
    while done + dead < messages {
        while sent < messages && dice.below(3) > 0 {
            let length = dice.below(200) as usize;
            let mut message = sent.to_le_bytes().to_vec();
            message.resize(4 + length, 7);
            match sender.try_send_tracked(&message) {
                Ok(ticket) => tickets.push(ticket),
                Err(libipc::TrySendError::Full) => break,
                Err(error) => panic!("{error}"),
            }
            sent += 1;
        }
        let receiver = &mut receivers[dice.below(2) as usize];
        let Ok(delivery) = receiver.try_receive() else { continue };
        let number = u32::from_le_bytes(delivery.bytes()[..4].try_into().expect("4 bytes"));
        match dice.below(4) {
            0 => {
                delivery.reject().expect("it is in hand");
                dead += 1;
                assert_eq!(expected.insert(number, TicketState::DeadLettered), None);
            }
            1 if delivery.attempts() < 3 => delivery.return_to_queue(),
            _ => {
                delivery.acknowledge();
                done += 1;
                assert_eq!(expected.insert(number, TicketState::Done), None);
            }
        }
    }
    // Long after their room was taken up again.
    for (number, ticket) in (0..).zip(&tickets) {
        assert_eq!(ticket.state().expect("our ticket"), expected[&number], "message {number}");
    }
    (done, dead)
}

#[test]
fn tickets_tell_the_truth_however_late_they_are_asked() {
    let seed = seed();
    let daemon = TestDaemon::start(&[]);
    let mut dice = Dice::new(seed);
    for buffering in [Buffering::Bounded, Buffering::Unbounded] {
        let client = daemon.client_with("orders", &small().buffering(buffering));
        let mut sender = client.sender("orders").unwrap();
        let mut receivers = [0; 2].map(|_| client.receiver("orders").unwrap());
        let (done, dead) = mingle(&mut dice, &mut sender, &mut receivers, 3000);
        assert_eq!(done + dead, 3000);
        let detail = client.show("orders").unwrap();
        assert_eq!(detail.dead_lettered_messages, u64::from(dead), "seed {seed}");
        assert_eq!(client.discard_dead_letters("orders", None).unwrap(), u64::from(dead));
        client.delete("orders").unwrap();
    }
}

#[test]
fn long_messages_and_a_lanes_end_are_no_hindrance() {
    // Close to where positions begin anew.
    let first = ((1u64 << 48) - 100).to_string();
    let daemon = TestDaemon::start(&["--first-position", &first]);
    let client = daemon.client_with("orders", &small().capacity_bytes(1 << 20).max_attempts(1));
    let mut sender = client.sender("orders").unwrap();
    let mut receiver = client.receiver("orders").unwrap();
    let mut reading = letters(&client, "orders");
    for n in 0..12u8 {
        let message = vec![n; 300_000 + usize::from(n)];
        sender.send(&message).unwrap();
        // The last time that it may be handed out.
        drop(receiver.receive_deadline(patience()).unwrap());
        let delivery = reading.receive_deadline(patience()).unwrap();
        assert!(delivery.bytes() == message, "message {n}");
        delivery.return_to_queue();
        assert_eq!(client.requeue("orders", None).unwrap(), 0, "offered, it is in a hand still");
        reading.receive_deadline(patience()).unwrap().acknowledge();
    }
    client.create("huge", &small().capacity_bytes(32 << 20)).unwrap();
    client.sender("huge").unwrap().send(&vec![1; (16 << 20) + 1]).unwrap();
    let mut receiver = client.receiver("huge").unwrap();
    let refusal = refused(receiver.receive_deadline(patience()).unwrap().reject());
    assert!(refusal.to_string().contains("length of a dead letter 16777217"), "{refusal}");
    assert_eq!(receiver.receive_deadline(patience()).unwrap().attempts(), 1);
}

#[test]
fn a_receiver_that_is_gone_rejects_nothing_and_one_without_a_daemon_gives_back() {
    let mut daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    client.sender("orders").unwrap().send(b"x").unwrap();
    let mut receiver = client.receiver("orders").unwrap();
    let delivery = receiver.receive_deadline(patience()).unwrap();
    daemon.kill();
    let error = delivery.reject().unwrap_err();
    assert!(matches!(error, RequestError::DaemonAway), "{error}");
    let delivery = receiver.receive_deadline(patience()).unwrap();
    assert_eq!((delivery.bytes(), delivery.attempts()), (&b"x"[..], 1));
    delivery.acknowledge();
    assert!(matches!(receiver.receive_deadline(short()), Err(ReceiveError::TimedOut)));
}

#[test]
fn a_mailbox_that_is_being_drained_goes_with_its_last_message_however_that_ends() {
    let daemon = TestDaemon::start(&[]);
    for on_death in [OnDeath::Drop, OnDeath::DeadLetter] {
        let client = daemon.client_with("orders", &small().on_death(on_death));
        client.sender("orders").unwrap().send(b"last").unwrap();
        let mut child = daemon.child();
        child.done("receiver orders");
        assert_eq!(child.got("hold").text, "last");
        assert_eq!(client.delete_when_drained("orders").unwrap(), 1);
        child.kill();
        // Nobody asks for it.
        wait_until("it is gone", || client.status().unwrap().mailboxes == 0);
    }
}

/// A receiver that has claimed the only message there is, and has not come to look whether its sender wants it back.
fn claims_and_looks_no_further(daemon: &TestDaemon, len: usize) -> (RawClient, Request) {
    let mut raw = RawClient::greet(&daemon.socket());
    let (opened, descriptors) = raw.open("orders", Role::Receive).expect("ours to open");
    let (lane, position) = claim_first(&opened, &descriptors, len);
    let (link, reason) = (opened.link, Reason::Rejected);
    (raw, Request::Reject { link, lane, position, reason })
}

#[test]
fn what_its_sender_has_back_is_no_dead_letter_and_is_not_dropped() {
    let daemon = TestDaemon::start(&[]);
    for on_death in [OnDeath::Drop, OnDeath::DeadLetter] {
        for rejects in [false, true] {
            let client = daemon.client_with("orders", &small().on_death(on_death));
            let mut sender = client.sender("orders").unwrap();
            let ticket = sender.send_tracked(b"mine").unwrap();
            let back = ticket.withdraw().unwrap();
            assert!(matches!(back, TicketState::Returned(_)), "{back:?}");
            let (mut raw, reject) = claims_and_looks_no_further(&daemon, 4);
            if rejects {
                assert_eq!(raw.ask(&reject).0, Answer::Done);
            }
            drop(raw);
            wait_until("it is gone", || client.show("orders").unwrap().summary.receivers == 0);
            let detail = client.show("orders").unwrap();
            assert_eq!((detail.dropped_messages, detail.dead_lettered_messages), (0, 0));
            assert_eq!((detail.summary.dead_letters, detail.summary.queued_messages), (0, 0));
            assert_eq!(ticket.state().unwrap(), back);
            // Its room is free.
            let mut receiver = client.receiver("orders").unwrap();
            for n in 0..200u8 {
                sender.try_send(&[n]).unwrap();
                assert_eq!(receiver.receive_deadline(patience()).unwrap().into_bytes(), [n]);
            }
            drop(receiver);
            client.delete("orders").unwrap();
        }
    }
}

#[test]
fn administrators_list_inspect_requeue_and_discard() {
    let shell = Shell::new();
    shell.does("create orders --max-attempts 2 --on-death dead-letter");
    let shown = shell.does("show orders");
    assert!(shown.contains("dead-letter") && shown.contains("0 now, 0 ever"), "{shown}");
    for text in ["one", "two", "three"] {
        shell.does(&format!("send orders {text}"));
    }
    shell.does("receive orders --count 3 --reject");
    let ran = shell.run("dead list orders --json", "");
    let json = &ran.json()[0];
    let numbers: Vec<_> = json["dead_letters"].as_array().unwrap().iter().collect();
    assert_eq!(numbers.len(), 3);
    assert_eq!((&numbers[1]["number"], &numbers[1]["text"]), (&2.into(), &"two".into()));
    assert_eq!((&numbers[1]["reason"], &numbers[1]["attempts"]), (&"rejected".into(), &1.into()));
    let listed = shell.does("dead list orders");
    assert!(listed.lines().count() == 4 && listed.contains("rejected"), "{listed}");
    assert_eq!(shell.does("dead show orders 3"), "three\n");
    shell.ends("dead show orders 9", 1);
    shell.does("dead requeue orders 1 3");
    assert_eq!(shell.does("receive orders --count 2"), "one\nthree\n");
    shell.ends("dead requeue orders 1", 1);
    shell.does("dead discard orders --all");
    assert!(shell.does("dead list orders").is_empty());
    assert!(shell.does("show orders").contains("0 now, 3 ever"));
    assert!(shell.does("list").contains("dead/orders"));
    shell.ends("dead list nothing", 6);
    shell.ends("send dead/orders x", 1);
    shell.does("delete orders");
    assert!(!shell.does("list").contains("dead"));
}
