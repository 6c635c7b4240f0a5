//! The promises of `docs/contract.md` about messages in place and in batches. The number of each stands above
//! its test.

#![expect(unsafe_code, reason = "vouches for the senders of mailboxes of its own")]

use std::time::Instant;

use libipc::{
    Batch, CommitError, MailboxOptions, OnDeath, Receiver, SendError, TrustedSenders,
    TryReceiveError, TrySendError,
};
use tests::numbered::{Census, check_order, read, read_log, write};
use tests::{Accounts, Child, Dice, TestDaemon, patience, seed, wait_until};

/// More than any sender sends before it is told that the mailbox is closed.
const WITHOUT_END: u64 = 1 << 40;

/// A small mailbox: a lane of it holds 256 messages of up to 8 bytes.
fn small() -> MailboxOptions {
    MailboxOptions::new().capacity_bytes(4096).receivers_max(4).lanes_max(8)
}

fn received(receiver: &mut Receiver) -> Vec<u8> {
    receiver.receive_deadline(patience()).expect("a message").into_bytes()
}

fn in_place(mut receiver: Receiver) -> Receiver {
    // SAFETY: only this test, and children of its own that keep to the library, send to its mailboxes and
    // receive from them.
    receiver.read_in_place(unsafe { TrustedSenders::new() });
    receiver
}

fn texts(batch: &Batch<'_>) -> Vec<Vec<u8>> {
    batch.iter().map(|message| message.bytes().to_vec()).collect()
}

/// Memory of this process that is resident, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("our own");
    let pages = statm.split(' ').nth(1).and_then(|word| word.parse::<usize>().ok());
    pages.expect("a number of pages") * 4096
}

/// Promise 81.
#[test]
fn a_reservation_sends_when_it_is_committed_and_nothing_before() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut sender = client.sender("orders").unwrap();
    let mut receiver = client.receiver("orders").unwrap();
    let mut dropped = sender.reserve(100).unwrap();
    dropped.bytes_mut().fill(1);
    drop(dropped);
    assert!(matches!(receiver.try_receive(), Err(TryReceiveError::Empty)));
    let mut kept = sender.reserve_deadline(300, patience()).unwrap();
    assert_eq!(kept.bytes_mut().len(), 300);
    kept.bytes_mut().fill(3);
    kept.commit().unwrap();
    sender.send(b"behind it").unwrap();
    assert_eq!(received(&mut receiver), [3; 300]);
    assert_eq!(received(&mut receiver), b"behind it");
    assert_eq!(client.show("orders").unwrap().summary.queued_bytes, 0);
}

/// Promise 81.
#[test]
fn a_reservation_may_be_truncated_and_has_the_limits_of_a_send() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut sender = client.sender("orders").unwrap();
    let mut receiver = client.receiver("orders").unwrap();
    // Round and round: each lies elsewhere, some across the end of the lane.
    for round in 0..200usize {
        let mut message = sender.reserve(4080).unwrap();
        for (index, byte) in message.bytes_mut().iter_mut().enumerate() {
            *byte = (index * 7 + round) as u8;
        }
        let len = round * 20 % 4081;
        message.truncate(len);
        message.truncate(4080);
        assert_eq!((message.len(), message.is_empty()), (len, len == 0));
        message.commit().unwrap();
        let expected: Vec<u8> = (0..len).map(|index| (index * 7 + round) as u8).collect();
        assert_eq!(received(&mut receiver), expected, "{len} bytes");
    }
    let error = sender.try_reserve(4081).unwrap_err();
    assert!(matches!(error, TrySendError::TooLong { len: 4081, max: 4080 }), "{error:?}");
    sender.reserve(4080).unwrap().commit().unwrap();
    assert!(matches!(sender.try_reserve(0), Err(TrySendError::Full)));
    let error = sender.reserve_deadline(1, Instant::now()).unwrap_err();
    assert!(matches!(error, SendError::TimedOut), "{error:?}");
}

/// Promise 81.
#[test]
fn a_reservation_is_refused_when_the_mailbox_was_closed_or_deleted_meanwhile() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut sender = client.sender("orders").unwrap();
    let mut receiver = client.receiver("orders").unwrap();
    let reservation = sender.reserve(10).unwrap();
    client.close("orders").unwrap();
    assert!(matches!(reservation.commit(), Err(CommitError::Closed)));
    client.open("orders").unwrap();
    sender.send(b"again").unwrap();
    assert_eq!(received(&mut receiver), b"again");
    let reservation = sender.reserve(10).unwrap();
    client.delete("orders").unwrap();
    assert!(matches!(reservation.commit(), Err(CommitError::Deleted)));
}

/// Promise 82.
#[test]
fn a_batch_goes_on_where_the_lane_was_full_and_says_how_many_were_sent() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut sender = client.sender("orders").unwrap();
    let messages: Vec<_> = (0..600u16).map(u16::to_le_bytes).collect();
    let stopped = sender.try_send_batch(&messages).unwrap_err();
    assert!(matches!(stopped.why, TrySendError::Full), "{stopped:?}");
    assert_eq!(stopped.sent, 256);
    let stopped = sender.send_batch_deadline(&messages[256..], Instant::now()).unwrap_err();
    assert!(matches!((stopped.sent, stopped.why), (0, SendError::TimedOut)));
    let mut receiver = client.receiver("orders").unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| sender.send_batch(&messages[256..]).unwrap());
        for message in &messages {
            assert_eq!(received(&mut receiver), message);
        }
    });
    let long: [&[u8]; 3] = [b"first", &[0; 4081], b"third"];
    let stopped = sender.send_batch(&long).unwrap_err();
    assert!(matches!((stopped.sent, stopped.why), (1, SendError::TooLong { len: 4081, .. })));
    assert_eq!(received(&mut receiver), b"first");
    sender.send_batch::<&[u8]>(&[]).unwrap();
    assert!(matches!(receiver.try_receive(), Err(TryReceiveError::Empty)));
}

/// Promise 83.
#[test]
fn a_batch_is_what_is_there_of_one_sender_and_is_acknowledged_or_returned_as_one() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small().capacity_bytes(16384));
    let mut sender = client.sender("orders").unwrap();
    for mut receiver in
        [client.receiver("orders").unwrap(), in_place(client.receiver("orders").unwrap())]
    {
        assert!(matches!(receiver.try_receive_batch(9), Err(TryReceiveError::Empty)));
        let messages: Vec<_> = (0..20u8).map(|n| vec![n; usize::from(n)]).collect();
        sender.send_batch(&messages).unwrap();
        let batch = receiver.receive_batch(8).unwrap();
        assert_eq!((batch.len(), batch.is_empty()), (8, false));
        assert_eq!(texts(&batch), messages[..8]);
        assert_eq!(batch.sender().pid, std::process::id());
        assert!(batch.iter().all(|message| message.attempts() == 0));
        assert_eq!(batch.get(7).unwrap().bytes(), messages[7]);
        assert_eq!(batch.get(8), None);
        batch.acknowledge();
        let mut batch = receiver.receive_batch_deadline(8, patience()).unwrap();
        assert_eq!(texts(&batch), messages[8..16]);
        batch.acknowledge_first(3);
        assert_eq!(texts(&batch), messages[11..16]);
        drop(batch);
        // What was not acknowledged, in its order, each of them marked; behind it what was not in hand.
        let batch = receiver.receive_batch(100).unwrap();
        assert_eq!(texts(&batch), messages[11..16]);
        assert!(batch.iter().all(|message| message.attempts() == 1));
        batch.acknowledge();
        let batch = receiver.receive_batch(0).unwrap();
        assert_eq!(texts(&batch), messages[16..17], "at least one");
        batch.return_to_queue();
        for (n, message) in (16..).zip(&messages[16..]) {
            let delivery = receiver.receive_deadline(patience()).unwrap();
            assert_eq!((delivery.bytes(), delivery.attempts()), (&message[..], u32::from(n == 16)));
            delivery.acknowledge();
        }
    }
    assert_eq!(client.show("orders").unwrap().summary.queued_bytes, 0);
}

/// Promise 83.
#[test]
fn what_a_returned_batch_held_comes_one_by_one_and_marked_too() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small().capacity_bytes(16384));
    let mut sender = client.sender("orders").unwrap();
    let mut receiver = client.receiver("orders").unwrap();
    let messages: Vec<_> = (0..6u8).map(|n| [n; 5]).collect();
    sender.send_batch(&messages).unwrap();
    // What is claimed for a batch and what is claimed unasked: of the latter not all is in hand.
    let mut batch = receiver.receive_batch(3).unwrap();
    batch.acknowledge_first(1);
    drop(batch);
    let mut other = client.receiver("orders").unwrap();
    for (n, marked) in [(1, 1), (2, 1), (3, 0), (4, 0), (5, 0)] {
        let delivery = other.receive_deadline(patience()).unwrap();
        assert_eq!((delivery.bytes(), delivery.attempts()), (&messages[n][..], marked));
        delivery.acknowledge();
    }
    sender.send(b"new").unwrap();
    assert_eq!(other.receive_deadline(patience()).unwrap().attempts(), 0, "the mark is gone");
}

/// Promise 84.
#[test]
fn receiver_killed_with_a_batch_in_hand_gets_all_of_it_redelivered_once_and_marked() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small().capacity_bytes(16384));
    let mut sender = client.sender("orders").unwrap();
    let messages: Vec<_> = (0..40u8).map(|n| format!("message {n}").into_bytes()).collect();
    sender.send_batch(&messages).unwrap();
    let mut doomed = daemon.child();
    doomed.done("receiver orders");
    assert_eq!(doomed.ask("hold_batch 10 0"), "holding 10");
    doomed.kill();
    // A second death: what the first two of them had acknowledged does not come again.
    let mut second = daemon.child();
    second.done("receiver orders");
    wait_until("the daemon knows", || client.show("orders").unwrap().summary.receivers == 1);
    assert_eq!(second.ask("hold_batch 10 4"), "holding 6");
    second.kill();
    let mut receiver = client.receiver("orders").unwrap();
    for (n, message) in messages.iter().enumerate().skip(4) {
        let delivery = receiver.receive_deadline(patience()).unwrap();
        let attempts = if n < 10 { 2 } else { 0 };
        assert_eq!((delivery.bytes(), delivery.attempts()), (&message[..], attempts));
        delivery.acknowledge();
    }
    assert!(matches!(receiver.try_receive(), Err(TryReceiveError::Empty)));
    wait_until("all is gone", || client.show("orders").unwrap().summary.queued_bytes == 0);
}

/// Promise 84.
#[test]
fn receivers_killed_at_batches_lose_nothing_and_what_comes_again_is_marked() {
    let daemon = TestDaemon::start(&["--log", "warn"]);
    let options = small().receivers_max(16).lanes_max(16);
    let client = daemon.client_with("orders", &options);
    let mut dice = Dice::new(seed());
    let mut children = [daemon.child(), daemon.child()];
    for (id, sender) in children.iter_mut().enumerate() {
        sender.done("sender orders");
        sender.tell(&format!("send_numbered_batches {id} {WITHOUT_END} 40"));
    }
    let mut logs = Vec::new();
    let mut start = |max: u64| -> (Child, std::path::PathBuf) {
        let log = daemon.folder().join(format!("log{}", logs.len()));
        logs.push(log.clone());
        let mut child = daemon.child();
        child.done("receiver orders");
        child.tell(&format!("drain_batches {max} {}", log.display()));
        (child, log)
    };
    let mut receivers: Vec<_> = (0..3).map(|index| start(1 + 7 * index)).collect();
    for _ in 0..20 {
        let victim = dice.below(3) as usize;
        let (child, log) = &mut receivers[victim];
        let taken = || std::fs::metadata(&log).map_or(0, |file| file.len());
        let enough = taken() + 1;
        wait_until("it has taken some", || taken() >= enough);
        child.kill();
        receivers[victim] = start(1 + dice.below(40));
    }
    client.close("orders").unwrap();
    let sent = children.map(|mut sender| {
        let answer = sender.answer();
        answer.strip_prefix("ok ").and_then(|sent| sent.parse().ok()).expect(&answer)
    });
    for (receiver, _) in &mut receivers {
        let answer = receiver.answer();
        assert!(answer.starts_with("ok"), "{answer}");
    }
    // A batch may have been published just behind the close, when they had found nothing more.
    let (mut last, _) = start(40);
    assert!(last.answer().starts_with("ok"));
    wait_until("all is taken", || client.show("orders").unwrap().summary.queued_bytes == 0);
    let mut accounts = Accounts::default();
    logs.iter().for_each(|log| accounts.enter_log(log, 40));
    for (id, sent) in (0..).zip(sent) {
        accounts.check_sent("orders", id, sent, 0);
    }
    println!("{:?}", accounts.check("orders", OnDeath::Redeliver));
}

/// Promise 85.
#[test]
fn competing_receivers_with_batches_get_each_message_once() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let logs: Vec<_> = (0..3).map(|n| daemon.folder().join(format!("log{n}"))).collect();
    let mut receivers: Vec<_> = logs.iter().map(|_| daemon.child()).collect();
    for (index, (receiver, log)) in receivers.iter_mut().zip(&logs).enumerate() {
        receiver.done("receiver orders");
        receiver.tell(&format!("drain_batches {} {}", 3 + 20 * index, log.display()));
    }
    let mut senders = [daemon.child(), daemon.child()];
    for (id, sender) in senders.iter_mut().enumerate() {
        sender.done("sender orders");
        sender.tell(&format!("send_numbered_batches {id} 20000 24"));
    }
    for sender in &mut senders {
        assert_eq!(sender.answer(), "ok 20000");
    }
    client.close("orders").unwrap();
    for receiver in &mut receivers {
        let answer = receiver.answer();
        assert!(answer.starts_with("ok"), "{answer}");
    }
    let logs: Vec<_> = logs.iter().map(|log| read_log(log)).collect();
    logs.iter().for_each(|log| check_order(log));
    let census = Census::of(&logs);
    for id in 0..2 {
        census.check_exactly_once(id, 20_000);
    }
}

/// Promise 85.
#[test]
fn a_batch_leaves_its_sender_three_quarters_of_the_lane() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small().capacity_bytes(64 << 10));
    let mut sender = client.sender("orders").unwrap();
    let mut receiver = client.receiver("orders").unwrap();
    let stopped = sender.try_send_batch(&vec![[7; 16]; 9999]).unwrap_err();
    assert_eq!(stopped.sent, 2048);
    let batch = receiver.receive_batch(usize::MAX).unwrap();
    assert_eq!(batch.len(), 2048 / 4);
    drop(batch);
    assert_eq!(receiver.receive_batch(100).unwrap().len(), 100);
}

/// Promise 86.
#[test]
fn in_place_the_bytes_are_the_senders_and_nothing_is_copied() {
    let daemon = TestDaemon::start(&[]);
    const LEN: usize = 256 << 20;
    let client = daemon.client_with("frames", &MailboxOptions::new().capacity_bytes(512 << 20));
    let mut child = daemon.child();
    child.done("sender frames");
    let mut receiver = in_place(client.receiver("frames").unwrap());
    // Most of it is never written: what is sent of it are its first and its last bytes.
    child.tell(&format!("send_reserved {LEN}"));
    let before = resident();
    let delivery = receiver.receive_deadline(patience()).unwrap();
    let bytes = delivery.bytes();
    assert_eq!((bytes.len(), &bytes[..5], &bytes[LEN - 4..]), (LEN, &b"begin"[..], &b"last"[..]));
    let grown = resident().saturating_sub(before);
    // Other tests run in this process; a copy would be four times as much.
    assert!(grown < LEN / 4, "{grown} bytes more are resident");
    let at = bytes.as_ptr() as usize;
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let region = maps.lines().find(|line| {
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let number = |hex| usize::from_str_radix(hex, 16).unwrap();
        (number(from)..number(to)).contains(&at)
    });
    let region = region.expect("a mapping");
    assert!(region.contains(" r--s ") && region.contains("memfd:"), "{region}");
    delivery.acknowledge();
    assert_eq!(child.answer(), "ok");
}

/// Promise 86.
#[test]
fn in_place_messages_of_every_length_arrive_whole_across_the_end_of_the_lane() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut sender = client.sender("orders").unwrap();
    let mut receiver = in_place(client.receiver("orders").unwrap());
    let mut message = Vec::new();
    for n in 0..2000u64 {
        let len = 16 + (n * 37 % 4065) as usize;
        write(7, n, len, &mut message);
        sender.send(&message).unwrap();
        let delivery = receiver.receive_deadline(patience()).unwrap();
        assert_eq!(read(delivery.bytes(), delivery.attempts()).number, n);
        if n % 3 == 0 {
            delivery.return_to_queue();
            let delivery = receiver.receive_deadline(patience()).unwrap();
            assert_eq!(read(delivery.bytes(), 0).number, n);
            assert_eq!(delivery.attempts(), 1);
            assert_eq!(delivery.into_bytes(), message);
        } else {
            delivery.acknowledge();
        }
    }
    // Batches too: three messages each, which end now before and now behind the lane's end.
    for n in 0..500u64 {
        for part in 0..3 {
            write(7, 3 * n + part, 16 + (n * 13 % 290) as usize, &mut message);
            sender.send(&message).unwrap();
        }
        let batch = receiver.receive_batch_deadline(3, patience()).unwrap();
        let numbers: Vec<_> = batch.iter().map(|m| read(m.bytes(), m.attempts()).number).collect();
        assert_eq!(numbers, [3 * n, 3 * n + 1, 3 * n + 2]);
        batch.acknowledge();
    }
}

/// Promise 83.
#[test]
fn copied_batches_across_the_end_of_the_lane_arrive_whole() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut sender = client.sender("orders").unwrap();
    let mut receiver = client.receiver("orders").unwrap();
    for n in 0..1000u64 {
        let mut messages = vec![Vec::new(); 3];
        for (part, message) in (0..).zip(&mut messages) {
            write(7, 3 * n + part, 16 + (n * 13 % 290) as usize, message);
        }
        sender.send_batch(&messages).unwrap();
        let batch = receiver.receive_batch_deadline(3, patience()).unwrap();
        assert_eq!(texts(&batch), messages);
        batch.acknowledge();
    }
}

/// Promise 83.
#[test]
fn a_call_in_a_batch_is_its_message_without_its_number() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let other = daemon.client();
    for before in 0..3 {
        let mut receiver = client.receiver("orders").unwrap();
        let mut sender = other.sender("orders").unwrap();
        (0..before).for_each(|_| sender.send(b"plain").unwrap());
        let calling = std::thread::spawn(move || sender.call_deadline(b"tea", patience()));
        let observer = &mut client.observer("orders").unwrap();
        wait_until("it calls", || observer.peek(9).is_ok_and(|there| there.len() > before));
        let there: Vec<_> = observer.peek(9).unwrap().into_iter().map(|it| it.bytes).collect();
        let batch = receiver.receive_batch_deadline(9, patience()).unwrap();
        let mut expected = vec![b"plain".to_vec(); before];
        expected.push(b"tea".to_vec());
        assert_eq!((texts(&batch), there), (expected.clone(), expected));
        batch.acknowledge();
        assert!(calling.join().unwrap().is_err(), "acknowledged, and not answered");
    }
}
