//! Messages that nobody can deal with: rejected, handed out as often as that may be, left by a receiver that died.
//! The promises of `docs/contract.md` on dead letters.

#[path = "letters/shared.rs"]
mod shared;

use std::time::Duration;

use libipc::protocol::{Answer, Request};
use libipc::{
    Buffering, CallError, DeadLetter, OnDeath, Reason, ReceiveError, Receiver, RequestError, Role,
    SendError, Sender, TicketState,
};
use tests::{Dice, RawClient, TestDaemon, claim_first, patience, seed, wait_until};

use shared::{ended, letters, next, none, refused, small};

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

/// Promise 102.
#[test]
fn what_a_batch_gave_back_keeps_one_count_while_it_comes_together() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small().max_attempts(3));
    let mut sender = client.sender("orders").unwrap();
    (0..3u8).for_each(|n| sender.send(&[b'0' + n]).unwrap());
    let mut receiver = client.receiver("orders").unwrap();
    let batch = receiver.receive_batch_deadline(2, patience()).unwrap();
    assert_eq!(batch.len(), 2);
    drop(batch);
    // The first is received alone, and given back once more.
    let mut expect = |text: &[u8], attempts, back| {
        let delivery = receiver.receive_deadline(patience()).unwrap();
        assert_eq!((delivery.bytes(), delivery.attempts()), (text, attempts));
        if back { delivery.return_to_queue() } else { delivery.acknowledge() }
    };
    expect(b"0", 1, true);
    expect(b"0", 2, false);
    expect(b"1", 2, true);
    expect(b"2", 0, false);
    assert!(none(&mut receiver));
    let (text, _, known) = next(&mut letters(&client, "orders"));
    assert_eq!((text.as_str(), known.reason, known.attempts), ("1", Reason::Attempts, 3));
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
