//! Which message is taken next, by whom, and from whom. The number of each promise stands above its test.

use libipc::protocol::{Buffering, Order, Receivers, SlowGroup};
use libipc::{MailboxOptions, ReceiveError, Receiver, Sender, TryReceiveError};
use tests::{Child, Got, TestDaemon, patience, wait_until};

fn small() -> MailboxOptions {
    MailboxOptions::new().capacity_bytes(4096).receivers_max(4).lanes_max(64)
}

/// The next message as a number, and how often it was handed out before.
fn next(receiver: &mut Receiver) -> (u64, u32) {
    let delivery = receiver.receive_deadline(patience()).expect("a message");
    let attempts = delivery.attempts();
    (number(&delivery.into_bytes()), attempts)
}

fn next_from(receiver: &mut Receiver, child: &Child) -> (String, u32) {
    let delivery = receiver.receive_from_deadline(child.pid(), patience()).expect("a message");
    let attempts = delivery.attempts();
    (String::from_utf8(delivery.into_bytes()).expect("text"), attempts)
}

fn number(bytes: &[u8]) -> u64 {
    std::str::from_utf8(bytes).expect("text").parse().expect("a number")
}

fn send(sender: &mut Sender, number: u64) {
    sender.send(number.to_string().as_bytes()).expect("it takes a message");
}

fn sending_child(daemon: &TestDaemon, name: &str) -> Child {
    let mut child = daemon.child();
    child.done(&format!("sender {name}"));
    child
}

fn receiving_child(daemon: &TestDaemon, name: &str) -> Child {
    let mut child = daemon.child();
    child.done(&format!("receiver {name}"));
    child.done("never_spin");
    child
}

/// The message that a child was told to wait for.
fn text_of(child: &mut Child) -> String {
    Got::parse(&child.answer()).text
}

/// Promise 70.
#[test]
fn a_lane_that_goes_on_in_larger_ones_keeps_its_senders_order() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small().buffering(Buffering::Unbounded));
    for receivers in [1, 2] {
        let mut sender = client.sender("orders").unwrap();
        (0..5000).for_each(|n| send(&mut sender, n));
        let mut open: Vec<_> = (0..receivers).map(|_| client.receiver("orders").unwrap()).collect();
        let mut got = vec![Vec::new(); receivers];
        for n in 0..5000 {
            got[n % receivers].push(next(&mut open[n % receivers]).0);
        }
        for got in &got {
            assert!(got.is_sorted(), "out of order");
        }
        let mut all: Vec<_> = got.concat();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..5000));
        assert!(matches!(open[0].try_receive(), Err(TryReceiveError::Empty)));
    }
}

/// Promise 70. Receivers that sleep, and a sender whose lane grows under them: nobody sleeps through it.
#[test]
fn nobody_sleeps_through_a_lane_that_goes_on_in_another() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small().buffering(Buffering::Unbounded));
    let mut receivers: Vec<_> = (0..3).map(|_| receiving_child(&daemon, "orders")).collect();
    let logs: Vec<_> = (0..3).map(|n| daemon.folder().join(format!("log{n}"))).collect();
    for (child, log) in receivers.iter_mut().zip(&logs) {
        child.tell(&format!("drain {}", log.display()));
    }
    let mut senders: Vec<_> = (0..2).map(|_| sending_child(&daemon, "orders")).collect();
    for (id, sender) in senders.iter_mut().enumerate() {
        sender.tell(&format!("send_numbered {id} 0 20000 100"));
    }
    for sender in &mut senders {
        assert_eq!(sender.answer(), "ok");
    }
    client.close("orders").unwrap();
    for receiver in &mut receivers {
        assert!(receiver.answer().starts_with("ok"));
    }
    let logs: Vec<_> = logs.iter().map(|log| tests::numbered::read_log(log)).collect();
    logs.iter().for_each(|log| tests::numbered::check_order(log));
    let census = tests::numbered::Census::of(&logs);
    (0..2).for_each(|id| census.check_exactly_once(id, 20_000));
}

/// Promise 71.
#[test]
fn what_has_the_highest_priority_is_received_first() {
    let daemon = TestDaemon::start(&[]);
    for receivers_max in [1, 4] {
        let name = format!("orders{receivers_max}");
        let client = daemon.client_with(&name, &small().receivers_max(receivers_max));
        let mut receiver = client.receiver(&name).unwrap();
        let mut sender = client.sender(&name).unwrap();
        (0..30).for_each(|n| send(&mut sender, n));
        // A run of several is claimed by now; what comes with a priority goes before what is left of it.
        assert_eq!(next(&mut receiver), (0, 0));
        sender.set_priority(5).unwrap();
        send(&mut sender, 500);
        send(&mut sender, 501);
        sender.set_priority(31).unwrap();
        send(&mut sender, 3100);
        assert_eq!(next(&mut receiver), (3100, 0));
        assert_eq!(next(&mut receiver), (500, 0));
        assert_eq!(next(&mut receiver), (501, 0));
        assert_eq!(next(&mut receiver), (1, 0));
        receiver.receive().unwrap().return_to_queue();
        send(&mut sender, 3101);
        assert_eq!(next(&mut receiver), (3101, 0));
        assert_eq!(next(&mut receiver), (2, 1), "what was returned waits with its own");
        for n in 3..30 {
            assert_eq!(next(&mut receiver), (n, 0));
        }
        assert!(matches!(receiver.try_receive(), Err(TryReceiveError::Empty)));
    }
}

/// Promise 71. More lanes of one priority than are looked at one by one.
#[test]
fn among_many_lanes_the_highest_priority_goes_first_and_each_lane_in_turn() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut receiver = client.receiver("orders").unwrap();
    let mut senders: Vec<_> = (0..20).map(|_| client.sender("orders").unwrap()).collect();
    for priority in [0, 3, 7] {
        for sender in &mut senders {
            sender.set_priority(priority).unwrap();
            (0..5).for_each(|_| send(sender, priority.into()));
        }
    }
    for priority in [7, 3, 0] {
        for n in 0..100 {
            assert_eq!(next(&mut receiver), (priority, 0), "message {n}");
        }
    }
    // One at a time, whichever lane: a message that is there goes before one of less priority.
    for round in 0..200 {
        send(&mut senders[round % 7], 7);
        let low = &mut senders[10 + round % 7];
        low.set_priority(3).unwrap();
        send(low, 3);
        assert_eq!((next(&mut receiver).0, next(&mut receiver).0), (7, 3), "round {round}");
    }
}

/// Promise 73.
#[test]
fn receiving_from_one_sender_leaves_the_others_messages_in_order() {
    let daemon = TestDaemon::start(&[]);
    for receivers_max in [1, 4] {
        let name = format!("orders{receivers_max}");
        let client = daemon.client_with(&name, &small().receivers_max(receivers_max));
        let [mut tea, mut pot] = [sending_child(&daemon, &name), sending_child(&daemon, &name)];
        let mut receiver = client.receiver(&name).unwrap();
        for n in 0..20 {
            tea.done(&format!("send tea{n}"));
            pot.done(&format!("send pot{n}"));
        }
        // A run of one of the two is claimed; what is left of it must wait.
        let first = receiver.receive_deadline(patience()).unwrap().into_bytes();
        let (mut had, mut wanted) = ([&tea, &pot], [0, 0]);
        if first.starts_with(b"pot") {
            had.swap(0, 1);
        }
        wanted[0] += 1;
        let prefix = |child: &Child| if child.pid() == tea.pid() { "tea" } else { "pot" };
        // The other, the first, in turn: each goes on in its order, as if never handed out before.
        for _ in 0..10 {
            for who in [1, 0] {
                let expected = format!("{}{}", prefix(had[who]), wanted[who]);
                assert_eq!(next_from(&mut receiver, had[who]), (expected, 0));
                wanted[who] += 1;
            }
        }
        // What is returned comes again, but only to who asks for it or for anything.
        let other = receiver.receive_from(had[1].pid()).unwrap();
        other.return_to_queue();
        assert_eq!(next_from(&mut receiver, had[0]).1, 0);
        wanted[0] += 1;
        let again = format!("{}{}", prefix(had[1]), wanted[1]);
        assert_eq!(next_from(&mut receiver, had[1]), (again, 1));
        wanted[1] += 1;
        let mut left = Vec::new();
        while let Ok(delivery) = receiver.try_receive() {
            assert_eq!(delivery.attempts(), 0);
            left.push(String::from_utf8(delivery.into_bytes()).unwrap());
        }
        for who in [0, 1] {
            let name = prefix(had[who]);
            let mine: Vec<_> = left.iter().filter(|text| text.starts_with(name)).collect();
            let expected: Vec<_> = (wanted[who]..20).map(|n| format!("{name}{n}")).collect();
            assert!(mine.into_iter().eq(&expected), "{left:?}");
        }
    }
}

/// Promise 74.
#[test]
fn a_named_sender_is_waited_for_and_its_end_is_told() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut receiver = client.receiver("orders").unwrap();
    let mut waiting = receiving_child(&daemon, "orders");
    let mut sender = daemon.child();
    let pid = sender.pid();
    // Not here yet.
    assert!(matches!(receiver.try_receive_from(pid), Err(TryReceiveError::Empty)));
    waiting.tell(&format!("receive_from {pid}"));
    wait_until("it sleeps", || waiting.sleeps());
    let mut other = sending_child(&daemon, "orders");
    other.done("send for anybody");
    assert_eq!(receiver.receive_deadline(patience()).unwrap().into_bytes(), b"for anybody");
    sender.done("sender orders");
    sender.done("send first");
    assert_eq!(text_of(&mut waiting), "first");
    sender.done("send last");
    waiting.tell(&format!("receive_from {pid}"));
    assert_eq!(text_of(&mut waiting), "last");
    waiting.tell(&format!("receive_from {pid}"));
    wait_until("it sleeps", || waiting.sleeps());
    assert_eq!(receiver.departed(), []);
    sender.done("send left behind");
    assert_eq!(text_of(&mut waiting), "left behind");
    waiting.tell(&format!("receive_from {pid}"));
    sender.kill();
    assert!(waiting.answer().contains("SenderGone"));
    assert!(matches!(receiver.receive_from(pid), Err(ReceiveError::SenderGone)));
    assert_eq!(receiver.departed().iter().map(|who| who.pid).collect::<Vec<_>>(), [pid]);
    assert_eq!(receiver.departed(), []);
}

/// Promise 74. Those who wait for one sender's messages sleep beside one who takes any: nobody robs another of its wake-up.
#[test]
fn sleepers_for_one_sender_do_not_take_the_wake_ups_of_others() {
    let daemon = TestDaemon::start(&[]);
    let _client = daemon.client_with("orders", &small());
    let mut senders: Vec<_> = (0..3).map(|_| sending_child(&daemon, "orders")).collect();
    let mut receivers: Vec<_> = (0..3).map(|_| receiving_child(&daemon, "orders")).collect();
    for round in 0..50 {
        for (index, receiver) in receivers.iter_mut().enumerate() {
            match index {
                2 => receiver.tell("receive"),
                _ => receiver.tell(&format!("receive_from {}", senders[index].pid())),
            }
            wait_until("it sleeps", || receiver.sleeps());
        }
        for index in [2, 1, 0] {
            senders[index].done(&format!("send {index} of {round}"));
            assert_eq!(text_of(&mut receivers[index]), format!("{index} of {round}"));
        }
    }
}

/// Promise 76.
#[test]
fn where_one_receives_at_a_time_the_longest_waiting_is_next() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small().receivers(Receivers::Exclusive));
    let mut sender = client.sender("orders").unwrap();
    let mut receivers: Vec<_> = (0..4).map(|_| receiving_child(&daemon, "orders")).collect();
    let begin = |receiver: &mut Child| {
        receiver.tell("receive");
        wait_until("it sleeps", || receiver.sleeps());
    };
    receivers.iter_mut().for_each(begin);
    for n in 0..40 {
        let receiver = &mut receivers[n % 4];
        send(&mut sender, n as u64);
        assert_eq!(text_of(receiver), n.to_string());
        begin(receiver);
    }
    // All at once: one each.
    (0..4).for_each(|n| send(&mut sender, n));
    for (n, receiver) in receivers.iter_mut().enumerate() {
        assert_eq!(text_of(receiver), n.to_string());
    }
    receivers.iter_mut().for_each(begin);
    // Nobody overtakes by only trying.
    let mut hasty = client.receiver_or_none("orders");
    assert!(hasty.is_none());
    // The one whose turn it is dies, and the next but one, which stands in line.
    receivers[0].kill();
    receivers[2].kill();
    for n in [1, 3] {
        send(&mut sender, n);
        assert_eq!(text_of(&mut receivers[n as usize]), n.to_string());
    }
    hasty = client.receiver_or_none("orders");
    let mut hasty = hasty.expect("a place that the dead have left");
    assert!(matches!(hasty.try_receive(), Err(TryReceiveError::Empty)));
    send(&mut sender, 7);
    assert_eq!(next(&mut hasty), (7, 0));
    begin(&mut receivers[1]);
    begin(&mut receivers[3]);
    client.close("orders").unwrap();
    for receiver in [1, 3] {
        assert!(receivers[receiver].answer().contains("Closed"));
    }
}

trait OrNone {
    fn receiver_or_none(&self, name: &str) -> Option<Receiver>;
}

impl OrNone for libipc::Client {
    fn receiver_or_none(&self, name: &str) -> Option<Receiver> {
        self.receiver(name).ok()
    }
}

/// Promise 72.
#[test]
fn in_the_order_of_arrival_the_earlier_of_two_messages_goes_first() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small().order(Order::Arrival));
    let mut senders: Vec<_> = (0..6).map(|_| sending_child(&daemon, "orders")).collect();
    for receivers in [1, 2] {
        let mut open: Vec<_> = (0..receivers).map(|_| client.receiver("orders").unwrap()).collect();
        let mut dice = tests::Dice::new(tests::seed());
        for n in 0..200 {
            let sender = dice.below(senders.len() as u64) as usize;
            senders[sender].done(&format!("send {n}"));
        }
        for n in 0..200 {
            assert_eq!(next(&mut open[n % receivers]), (n as u64, 0));
        }
    }
}

/// Promise 72. Two receivers at once: each gets what it gets in the order of arrival, and so do both together as they claim.
#[test]
fn several_receivers_claim_in_the_order_of_arrival() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small().order(Order::Arrival));
    let mut receivers: Vec<_> = (0..2).map(|_| receiving_child(&daemon, "orders")).collect();
    let mut senders: Vec<_> = (0..4).map(|_| sending_child(&daemon, "orders")).collect();
    let logs: Vec<_> = (0..2).map(|n| daemon.folder().join(format!("log{n}"))).collect();
    for (child, log) in receivers.iter_mut().zip(&logs) {
        child.tell(&format!("drain {}", log.display()));
    }
    for n in 0..2000u64 {
        senders[n as usize % 4].done(&format!("send_numbered 1 {n} 1 16"));
    }
    client.close("orders").unwrap();
    for receiver in &mut receivers {
        assert!(receiver.answer().starts_with("ok"));
    }
    let logs: Vec<_> = logs.iter().map(|log| tests::numbered::read_log(log)).collect();
    logs.iter().for_each(|log| tests::numbered::check_order(log));
    tests::numbered::Census::of(&logs).check_exactly_once(1, 2000);
}

/// Promise 75.
#[test]
fn of_several_sleepers_the_one_that_has_slept_longest_is_woken() {
    let daemon = TestDaemon::start(&[]);
    let _client = daemon.client_with("orders", &small());
    let mut sender = sending_child(&daemon, "orders");
    let mut receivers: Vec<_> = (0..3).map(|_| receiving_child(&daemon, "orders")).collect();
    for round in 0..10 {
        for receiver in &mut receivers {
            receiver.tell("receive");
            wait_until("it sleeps", || receiver.sleeps());
        }
        for (n, receiver) in receivers.iter_mut().enumerate() {
            sender.done(&format!("send {n} of {round}"));
            assert_eq!(text_of(receiver), format!("{n} of {round}"));
        }
    }
}

/// Promise 75. Messages of a few, queued beside a flood: the flooder gets its share until the others are through.
#[test]
fn a_flood_gets_no_more_than_its_share_while_others_wait() {
    const TURN: usize = 64;
    let daemon = TestDaemon::start(&[]);
    for (senders, receivers) in [(3, 1), (3, 2), (20, 1), (20, 2)] {
        let options = small().capacity_bytes(1 << 20);
        let client = daemon.client_with("orders", &options);
        let mut flood = client.sender("orders").unwrap();
        (0..10_000).for_each(|_| send(&mut flood, 0));
        let mut others: Vec<_> = (0..senders).map(|_| client.sender("orders").unwrap()).collect();
        for sender in &mut others {
            (0..100).for_each(|_| send(sender, 1));
        }
        let mut open: Vec<_> = (0..receivers).map(|_| client.receiver("orders").unwrap()).collect();
        let mut got = [0; 2];
        while got[1] < 100 * senders {
            let receiver = (got[0] + got[1]) % receivers;
            got[next(&mut open[receiver]).0 as usize] += 1;
        }
        // Each of the others takes two turns of its 100; a receiver counts turns for itself.
        let share = (2 + 1) * TURN * receivers;
        assert!(got[0] <= share, "{} of a flood among {senders}", got[0]);
        client.delete("orders").unwrap();
    }
}

/// Promise 77.
#[test]
fn a_group_that_loses_its_oldest_holds_nobody_back_whatever_is_in_hand() {
    let daemon = TestDaemon::start(&[]);
    let options = small().group("view", SlowGroup::DropOldest).unwrap();
    let client = daemon.client_with("prices", &options);
    let mut receiver = client.receiver_in_group("prices", "view").unwrap();
    let mut sender = client.sender("prices").unwrap();
    send(&mut sender, 0);
    let in_hand = receiver.receive_deadline(patience()).unwrap();
    // Many laps, while the first message is in hand.
    (1..2000).for_each(|n| send(&mut sender, n));
    assert_eq!(in_hand.bytes(), b"0");
    in_hand.acknowledge();
    let mut got = vec![0];
    while let Ok(delivery) = receiver.try_receive() {
        got.push(number(delivery.bytes()));
        delivery.acknowledge();
    }
    assert!(got.is_sorted() && got.last() == Some(&1999), "{got:?}");
    let lost = receiver.lost();
    assert_eq!(lost + got.len() as u64, 2000);
    send(&mut sender, 2000);
    receiver.receive_deadline(patience()).unwrap().return_to_queue();
    assert!(matches!(receiver.try_receive(), Err(TryReceiveError::Empty)));
    assert_eq!(receiver.lost(), lost + 1);
    (0..10).for_each(|n| send(&mut sender, n));
    let batch = receiver.receive_batch(100).unwrap();
    assert_eq!(batch.len(), 10);
    drop(batch);
    assert_eq!(receiver.lost(), lost + 11);
}

/// Promise 78.
#[test]
fn the_end_of_the_last_sender_ends_receiving_where_that_is_asked_for() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut receiver = client.receiver("orders").unwrap();
    receiver.end_with_last_sender();
    assert!(matches!(receiver.try_receive(), Err(TryReceiveError::Empty)), "nobody came yet");
    let mut child = sending_child(&daemon, "orders");
    child.done("send 1");
    child.done("send 2");
    child.kill();
    assert_eq!((next(&mut receiver).0, next(&mut receiver).0), (1, 2));
    assert!(matches!(receiver.receive(), Err(ReceiveError::NoSenders)));
    assert!(matches!(receiver.try_receive(), Err(TryReceiveError::NoSenders)));
    let mut child = sending_child(&daemon, "orders");
    child.done("send 3");
    assert_eq!(next(&mut receiver), (3, 0));
    assert!(matches!(receiver.try_receive(), Err(TryReceiveError::Empty)));
    drop(child);
    assert!(matches!(receiver.receive(), Err(ReceiveError::NoSenders)));
}

/// Promise 79.
#[test]
fn a_mailbox_deleted_when_drained_goes_with_its_last_message() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut receiver = client.receiver("orders").unwrap();
    let mut sender = client.sender("orders").unwrap();
    (0..3).for_each(|n| send(&mut sender, n));
    assert_eq!(client.delete_when_drained("orders").unwrap(), 3);
    for n in 0..3 {
        assert_eq!(next(&mut receiver), (n, 0));
    }
    let end = receiver.receive_deadline(patience());
    assert!(matches!(end, Err(ReceiveError::Closed | ReceiveError::Deleted)), "{end:?}");
    wait_until("it is gone", || client.show("orders").is_err());
}
