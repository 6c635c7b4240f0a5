//! What a sender is told of its messages: synchronous sends, rendezvous, tickets, and taking back. The promises of
//! `docs/contract.md`, and every race between a receiver and a deadline.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use libipc::{
    Buffering, Client, MailboxOptions, Receiver, Returned, SendError, Sender, SlowGroup, Ticket,
    TicketState, TrySendError,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tests::numbered::{self, Entry, read_log};
use tests::{Child, Dice, Got, TestDaemon, patience, seed, wait_until};

/// A small mailbox: a lane of it holds 256 messages of up to 8 bytes.
fn small() -> MailboxOptions {
    MailboxOptions::new().capacity_bytes(4096).receivers_max(4).lanes_max(8)
}

fn rendezvous() -> MailboxOptions {
    small().buffering(Buffering::Rendezvous)
}

fn received(receiver: &mut Receiver) -> Vec<u8> {
    receiver.receive_deadline(patience()).expect("a message").into_bytes()
}

/// Two receivers: alone one would claim several messages at once.
fn two_receivers(client: &Client) -> (Receiver, Receiver) {
    let open = || client.receiver("orders").expect("its place");
    (open(), open())
}

fn within(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}

fn state(ticket: &Ticket) -> TicketState {
    ticket.state().expect("our ticket")
}

fn settled(ticket: &Ticket) -> TicketState {
    let state = ticket.wait_deadline(patience()).expect("our ticket");
    assert!(state.is_settled(), "{state:?}");
    state
}

const WITHDRAWN: TicketState = TicketState::Returned(Returned::Withdrawn);

#[test]
fn a_ticket_tells_queued_in_hand_and_done() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut sender = client.sender("orders").unwrap();
    let [first, second] = [b"one", b"two"].map(|text| sender.send_tracked(text).unwrap());
    assert_eq!([state(&first), state(&second)], [TicketState::Queued; 2]);
    let mut receiver = client.receiver("orders").unwrap();
    let mut other = client.receiver("orders").unwrap();
    let delivery = receiver.receive_deadline(patience()).unwrap();
    assert_eq!([state(&first), state(&second)], [TicketState::InHand, TicketState::Queued]);
    assert_eq!(first.wait_deadline(within(5)).unwrap(), TicketState::InHand, "at the deadline");
    // The second is done before the first: each has a state of its own.
    assert_eq!(received(&mut other), b"two");
    assert_eq!([state(&first), settled(&second)], [TicketState::InHand, TicketState::Done]);
    delivery.return_to_queue();
    assert_eq!(state(&first), TicketState::InHand, "it comes again");
    assert_eq!(received(&mut other), b"one");
    assert_eq!(settled(&first), TicketState::Done);
    assert_eq!(first.withdraw().unwrap(), TicketState::Done);
}

#[test]
fn a_message_in_the_middle_of_the_queue_is_withdrawn_and_nobody_sees_it() {
    let daemon = TestDaemon::start(&[]);
    for receivers_max in [1, 4] {
        let client = daemon.client_with("orders", &small().receivers_max(receivers_max));
        let mut sender = client.sender("orders").unwrap();
        let tickets: Vec<_> =
            (0..6u8).map(|n| sender.send_tracked(&[n]).expect("there is room")).collect();
        for n in [0, 2, 3, 5] {
            assert_eq!(tickets[n].withdraw().unwrap(), WITHDRAWN, "message {n}");
        }
        let seen = client.observer("orders").unwrap().peek(10).unwrap();
        assert_eq!(seen.iter().map(|peeked| peeked.bytes[0]).collect::<Vec<_>>(), [1, 4]);
        let summary = client.show("orders").unwrap().summary;
        assert_eq!((summary.sent_messages, summary.queued_messages), (2, 2));
        let mut receiver = client.receiver("orders").unwrap();
        assert_eq!([received(&mut receiver), received(&mut receiver)], [[1], [4]]);
        assert!(receiver.try_receive().is_err());
        let summary = client.show("orders").unwrap().summary;
        assert_eq!((summary.queued_messages, summary.queued_bytes), (0, 0), "its room is free");
        let states: Vec<_> = tickets.iter().map(settled).collect();
        let done = TicketState::Done;
        assert_eq!(states, [WITHDRAWN, done, WITHDRAWN, WITHDRAWN, done, WITHDRAWN]);
        client.delete("orders").unwrap();
    }
}

#[test]
fn with_groups_a_message_is_withdrawn_from_all_and_done_when_all_have_it() {
    let daemon = TestDaemon::start(&[]);
    let group = |options: MailboxOptions, name| options.group(name, SlowGroup::Block).unwrap();
    let client = daemon.client_with("news", &group(group(small(), "left"), "right"));
    let [mut left, mut right] =
        ["left", "right"].map(|name| client.receiver_in_group("news", name).unwrap());
    let mut sender = client.sender("news").unwrap();
    let [first, second] = [b"one", b"two"].map(|text| sender.send_tracked(text).unwrap());
    assert_eq!(first.withdraw().unwrap(), WITHDRAWN);
    assert_eq!(received(&mut left), b"two");
    assert_eq!(second.withdraw().unwrap(), TicketState::InHand, "one group has had it");
    assert_eq!(received(&mut right), b"two");
    assert_eq!(settled(&second), TicketState::Done);
    assert!(left.try_receive().is_err() && right.try_receive().is_err());
}

#[test]
fn a_ticket_outlives_its_sender_and_its_lane() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small().lanes_max(1));
    let mut sender = client.sender("orders").unwrap();
    let [first, second] = [b"one", b"two"].map(|text| sender.send_tracked(text).unwrap());
    drop(sender);
    assert_eq!(state(&first), TicketState::Queued);
    assert_eq!(second.withdraw().unwrap(), WITHDRAWN, "without a sender");
    let mut receiver = client.receiver("orders").unwrap();
    assert_eq!(received(&mut receiver), b"one");
    assert_eq!(settled(&first), TicketState::Done);
    // The lane's place is another's.
    let mut next = None;
    wait_until("the place is free", || {
        assert!(receiver.try_receive().is_err());
        next = client.sender("orders").ok();
        next.is_some()
    });
    let third = next.as_mut().expect("a sender").send_tracked(b"three").unwrap();
    assert_eq!(
        [state(&first), state(&second), state(&third)],
        [TicketState::Done, WITHDRAWN, TicketState::Queued]
    );
    assert_eq!(third.withdraw().unwrap(), WITHDRAWN);
    assert!(receiver.try_receive().is_err());
}

#[test]
fn deleting_settles_what_nobody_has_and_says_what_somebody_has() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut sender = client.sender("orders").unwrap();
    let [first, second] = [b"one", b"two"].map(|text| sender.send_tracked(text).unwrap());
    let (mut receiver, _rival) = two_receivers(&client);
    let delivery = receiver.receive_deadline(patience()).unwrap();
    let waiting = second.clone();
    let waiter = std::thread::spawn(move || waiting.wait().expect("our ticket"));
    client.delete("orders").unwrap();
    assert_eq!(waiter.join().expect("no panic"), TicketState::Returned(Returned::Deleted));
    assert_eq!(state(&second), TicketState::Returned(Returned::Deleted));
    assert_eq!(first.wait().unwrap(), TicketState::InHand, "it waits no longer");
    delivery.acknowledge();
    assert_eq!(settled(&first), TicketState::Done);
    assert!(matches!(sender.send_sync(b"late"), Err(SendError::Deleted)));
}

fn is_readable(fd: impl AsFd, timeout: PollTimeout) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, timeout).expect("a descriptor of ours") == 1
}

#[test]
fn a_descriptor_and_a_function_tell_once_a_message_is_settled() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut sender = client.sender("orders").unwrap();
    let tickets: Vec<_> = (0..4u8).map(|n| sender.send_tracked(&[n]).unwrap()).collect();
    let (said, told) = channel();
    for (n, ticket) in tickets.iter().enumerate() {
        let said = said.clone();
        ticket.on_settled(move |state| said.send((n, state)).expect("we listen")).unwrap();
        assert!(!is_readable(ticket.poll_fd().unwrap(), PollTimeout::ZERO));
    }
    // A function that panics is its own matter.
    tickets[0].on_settled(|_| panic!("on purpose")).unwrap();
    assert_eq!(tickets[2].withdraw().unwrap(), WITHDRAWN);
    let patience = Duration::from_secs(60);
    assert_eq!(told.recv_timeout(patience), Ok((2, WITHDRAWN)));
    let fd = tickets[2].poll_fd().unwrap();
    assert!(is_readable(fd, PollTimeout::from(60_000u16)));
    let (mut receiver, _rival) = two_receivers(&client);
    let delivery = receiver.receive_deadline(tests::patience()).unwrap();
    assert!(!is_readable(tickets[0].poll_fd().unwrap(), PollTimeout::ZERO), "in hand");
    delivery.acknowledge();
    assert_eq!(told.recv_timeout(patience), Ok((0, TicketState::Done)));
    assert!(is_readable(tickets[0].poll_fd().unwrap(), PollTimeout::from(60_000u16)));
    client.delete("orders").unwrap();
    let mut rest: Vec<_> = (0..2).map(|_| told.recv_timeout(patience).expect("told")).collect();
    rest.sort_by_key(|(n, _)| *n);
    let deleted = TicketState::Returned(Returned::Deleted);
    assert_eq!(rest, [(1, deleted), (3, deleted)]);
    // Of what is settled already too.
    let (said, told) = channel();
    tickets[0].on_settled(move |state| said.send(state).expect("we listen")).unwrap();
    assert_eq!(told.recv_timeout(patience), Ok(TicketState::Done));
}

#[test]
fn a_signal_tells_with_the_tickets_own_value() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    // In a process of its own: here another thread might take the signal.
    let mut child = daemon.child();
    child.done("sender orders");
    child.tell("signalled 77 tea");
    let mut receiver = client.receiver("orders").unwrap();
    assert_eq!(received(&mut receiver), b"tea");
    assert_eq!(child.answer(), format!("ok 77 from {}", child.pid()));
}

#[test]
fn a_synchronous_send_returns_when_the_message_is_acknowledged() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut receiver = client.receiver("orders").unwrap();
    let mut child = daemon.child();
    child.done("sender orders");
    child.done("send before");
    child.tell("send_sync tea");
    wait_until("the sender sleeps", || child.sleeps());
    assert_eq!(received(&mut receiver), b"before");
    let delivery = receiver.receive_deadline(patience()).unwrap();
    wait_until("the sender sleeps", || child.sleeps());
    assert_eq!(child.try_answer(), None, "it is only in hand");
    delivery.acknowledge();
    assert_eq!(child.answer(), "ok");
    // At the deadline: nobody has it, and nobody will.
    child.refused("send_sync_within 20 late", "TimedOut");
    assert!(receiver.try_receive().is_err());
    // At the deadline: somebody has it.
    child.tell("send_sync_within 200 held");
    let delivery = receiver.receive_deadline(patience()).unwrap();
    let answer = child.answer();
    assert!(answer.contains("InHand"), "{answer}");
    delivery.acknowledge();
}

#[test]
fn a_rendezvous_holds_the_sender_until_the_message_is_acknowledged() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &rendezvous());
    let mut child = daemon.child();
    child.done("sender orders");
    child.refused("send_within 20 nobody", "TimedOut");
    child.refused("try_send nobody", "NotTaken");
    let mut receiver = client.receiver("orders").unwrap();
    assert!(receiver.try_receive().is_err(), "nothing is buffered");
    child.refused("try_send nobody", "NotTaken");
    assert!(receiver.try_receive().is_err());
    child.tell("send tea");
    let delivery = receiver.receive_deadline(patience()).unwrap();
    assert_eq!(delivery.bytes(), b"tea");
    wait_until("the sender sleeps", || child.sleeps());
    assert_eq!(child.try_answer(), None);
    delivery.acknowledge();
    assert_eq!(child.answer(), "ok");
    child.tell("send_within 200 held");
    let delivery = receiver.receive_deadline(patience()).unwrap();
    let answer = child.answer();
    assert!(answer.contains("InHand"), "{answer}");
    delivery.acknowledge();
    // A try meets a receiver that waits.
    let mut sender = client.sender("orders").unwrap();
    child.done("receiver orders");
    child.tell("receive");
    wait_until("the receiver sleeps", || child.sleeps());
    let met = sender.try_send(b"quick");
    let got = Got::parse(&child.answer());
    assert_eq!(got.text, "quick", "{met:?}");
    match met {
        Ok(()) => {}
        Err(TrySendError::InHand(ticket)) => assert_eq!(settled(&ticket), TicketState::Done),
        other => panic!("it was received: {other:?}"),
    }
}

#[test]
fn closing_and_deleting_end_a_rendezvous_with_the_truth() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &rendezvous());
    let mut child = daemon.child();
    child.done("sender orders");
    child.tell("send tea");
    wait_until("the sender sleeps", || child.sleeps());
    client.close("orders").unwrap();
    let answer = child.answer();
    assert!(answer.contains("Closed"), "{answer}");
    client.open("orders").unwrap();
    let mut receiver = client.receiver("orders").unwrap();
    assert!(receiver.try_receive().is_err(), "nobody has it");
    // What a receiver has goes on.
    child.tell("send tea");
    let delivery = receiver.receive_deadline(patience()).unwrap();
    client.close("orders").unwrap();
    wait_until("the sender sleeps", || child.sleeps());
    assert_eq!(child.try_answer(), None);
    delivery.acknowledge();
    assert_eq!(child.answer(), "ok");
    client.open("orders").unwrap();
    child.tell("send tea");
    let delivery = receiver.receive_deadline(patience()).unwrap();
    client.delete("orders").unwrap();
    let answer = child.answer();
    assert!(answer.contains("InHand"), "{answer}");
    drop(delivery);
    let client = daemon.client_with("orders", &rendezvous());
    child.done("sender orders");
    child.tell("send tea");
    wait_until("the sender sleeps", || child.sleeps());
    client.delete("orders").unwrap();
    let answer = child.answer();
    assert!(answer.contains("Deleted"), "{answer}");
}

#[test]
fn a_rendezvous_goes_on_when_its_receiver_is_killed_with_the_message_in_hand() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &rendezvous());
    let [mut sender, mut doomed] = [daemon.child(), daemon.child()];
    sender.done("sender orders");
    doomed.done("receiver orders");
    sender.tell("send tea");
    assert_eq!(doomed.got("hold").text, "tea");
    doomed.kill();
    let mut receiver = client.receiver("orders").unwrap();
    let delivery = receiver.receive_deadline(patience()).unwrap();
    assert_eq!((delivery.bytes(), delivery.attempts()), (&b"tea"[..], 1));
    assert_eq!(sender.try_answer(), None);
    delivery.acknowledge();
    assert_eq!(sender.answer(), "ok");
}

/// How a message may end, as its sender was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Outcome {
    /// Acknowledged before the deadline: received, once.
    Delivered,
    /// Taken back at the deadline: never received.
    Withdrawn,
    /// A receiver had it at the deadline: received, once, and its ticket says so in the end.
    InHand,
}

/// How a message is sent and, perhaps, taken back.
#[derive(Clone, Copy, Debug)]
enum Way {
    Rendezvous,
    Synchronous,
    Tracked,
}

fn send(sender: &mut Sender, way: Way, message: &[u8], dice: &mut Dice) -> Outcome {
    // About as long as a receiver that is awake needs; sometimes no time at all, sometimes as much as to sleep.
    let nanos = [0, 300, 3_000, 30_000, 300_000][dice.below(5) as usize];
    let deadline = Instant::now() + Duration::from_nanos(dice.below(nanos + 1));
    let result = match way {
        Way::Rendezvous => sender.send_deadline(message, deadline),
        Way::Synchronous => sender.send_sync_deadline(message, deadline),
        Way::Tracked => {
            let ticket = sender.send_tracked(message).expect("the mailbox is open");
            while Instant::now() < deadline {
                std::hint::spin_loop();
            }
            match ticket.withdraw().expect("our ticket") {
                TicketState::Done => Ok(()),
                TicketState::Returned(Returned::Withdrawn) => Err(SendError::TimedOut),
                TicketState::InHand => Err(SendError::InHand(ticket)),
                other => panic!("no legal outcome: {other:?}"),
            }
        }
    };
    match result {
        Ok(()) => Outcome::Delivered,
        Err(SendError::TimedOut) => Outcome::Withdrawn,
        Err(SendError::InHand(ticket)) => {
            assert_eq!(settled(&ticket), TicketState::Done);
            Outcome::InHand
        }
        Err(other) => panic!("no legal outcome: {other}"),
    }
}

/// One sender against receivers of their own processes: for each message what the sender was told is what
/// happened.
fn race(options: &MailboxOptions, way: Way, receivers: usize, rounds: u64) {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", options);
    let log = |n: usize| daemon.folder().join(format!("log{n}"));
    let mut children: Vec<Child> = (0..receivers).map(|_| daemon.child()).collect();
    for (n, child) in children.iter_mut().enumerate() {
        child.done("receiver orders");
        child.tell(&format!("drain {}", log(n).display()));
    }
    let mut dice = Dice::new(seed());
    let mut sender = client.sender("orders").expect("its place");
    let mut message = Vec::new();
    let mut told = Vec::new();
    for number in 0..rounds {
        let len = numbered::BYTES_MIN + dice.below(100) as usize;
        numbered::write(1, number, len, &mut message);
        told.push(send(&mut sender, way, &message, &mut dice));
    }
    client.close("orders").expect("ours to close");
    let got: HashMap<u64, u32> = finish(&mut children, log);
    let mut counts: HashMap<Outcome, u32> = HashMap::new();
    for (number, outcome) in told.iter().enumerate() {
        *counts.entry(*outcome).or_default() += 1;
        let times = got.get(&(number as u64)).copied().unwrap_or_default();
        let expected = u32::from(*outcome != Outcome::Withdrawn);
        assert_eq!(times, expected, "message {number}, {outcome:?}");
    }
    println!("{way:?}, {receivers} receivers: {counts:?}");
    let summary = client.show("orders").expect("ours to see").summary;
    assert_eq!((summary.queued_messages, summary.queued_bytes), (0, 0));
    assert_eq!(
        summary.sent_messages,
        told.iter().filter(|o| **o != Outcome::Withdrawn).count() as u64
    );
}

/// How often each message came, once all receivers have drained the mailbox.
fn finish(children: &mut [Child], log: impl Fn(usize) -> std::path::PathBuf) -> HashMap<u64, u32> {
    let mut got = HashMap::new();
    for (n, child) in children.iter_mut().enumerate() {
        let answer = child.answer();
        assert!(answer.starts_with("ok"), "{answer}");
        for entry in read_log(&log(n)) {
            *got.entry(entry.number).or_default() += 1;
        }
    }
    got
}

#[test]
fn a_rendezvous_and_its_deadline_agree_with_one_receiver_and_with_several() {
    for receivers in [1, 3] {
        race(&rendezvous(), Way::Rendezvous, receivers, 5_000);
    }
}

#[test]
fn a_synchronous_send_and_its_deadline_agree_with_the_only_receiver_there_may_be() {
    race(&small().receivers_max(1), Way::Synchronous, 1, 5_000);
    race(&small(), Way::Synchronous, 2, 5_000);
}

#[test]
fn a_withdrawal_agrees_with_one_receiver_and_with_several() {
    for (receivers, receivers_max) in [(1, 1), (1, 4), (3, 4)] {
        race(&small().receivers_max(receivers_max), Way::Tracked, receivers, 5_000);
    }
}

#[test]
fn a_withdrawal_agrees_where_the_kernel_refuses_the_barrier_to_nobody_but_both_sides_fence() {
    let daemon = TestDaemon::start(&["--no-barrier"]);
    let client = daemon.client_with("orders", &small());
    let mut sender = client.sender("orders").unwrap();
    let ticket = sender.send_tracked(b"tea").unwrap();
    assert_eq!(ticket.withdraw().unwrap(), WITHDRAWN);
}

/// Of a sender that is killed while it takes messages back: all that it knew is true, and of the one message whose
/// fate it did not know yet, nothing is amiss.
#[test]
fn senders_killed_around_a_withdrawal_have_been_told_the_truth() {
    let daemon = TestDaemon::start(&["--log", "warn"]);
    let client: Client = daemon.client_with("orders", &small());
    let log = |n: usize| daemon.folder().join(format!("log{n}"));
    let mut children: Vec<Child> = (0..2).map(|_| daemon.child()).collect();
    for (n, child) in children.iter_mut().enumerate() {
        child.done("receiver orders");
        child.tell(&format!("drain {}", log(n).display()));
    }
    let mut dice = Dice::new(seed());
    let told = |id: u32| daemon.folder().join(format!("told{id}"));
    for id in 0..50 {
        let mut doomed = daemon.child();
        doomed.done("sender orders");
        let path = told(id);
        let seed = dice.below(u64::MAX);
        doomed.tell(&format!("withdraw_numbered {id} 1000000 32 {seed} {}", path.display()));
        let enough = 1 + dice.below(300);
        wait_until("it has sent some", || {
            std::fs::metadata(&path).is_ok_and(|file| file.len() / 16 >= enough)
        });
        doomed.kill();
    }
    wait_until("all is received", || {
        let summary = client.show("orders").expect("ours to see").summary;
        summary.queued_bytes == 0
    });
    client.close("orders").unwrap();
    let mut got: HashMap<(u32, u64), u32> = HashMap::new();
    for (n, child) in children.iter_mut().enumerate() {
        let answer = child.answer();
        assert!(answer.starts_with("ok"), "{answer}");
        for Entry { sender, number, .. } in read_log(&log(n)) {
            *got.entry((sender, number)).or_default() += 1;
        }
    }
    let mut withdrawn = 0;
    for id in 0..50 {
        let entries = read_log(&told(id));
        for Entry { attempts, number, .. } in &entries {
            let times = got.remove(&(id, *number)).unwrap_or_default();
            assert_eq!(times, *attempts, "sender {id}, message {number}");
            withdrawn += 1 - attempts;
        }
        let last = got.remove(&(id, entries.len() as u64)).unwrap_or_default();
        assert!(last <= 1, "sender {id}: its last message came {last} times");
    }
    assert!(got.is_empty(), "nobody sent these: {got:?}");
    println!("{withdrawn} messages were withdrawn");
}
