//! The ends in tokio: nothing is lost to a dropped future, nobody sleeps through anything.

use std::collections::HashMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_core::Stream;
use libipc::tokio::{AsyncReceiver, AsyncSender, Message};
use libipc::{
    Buffering, Client, MailboxOptions, OnDeath, Owner, ReceiveError, SendError, TicketState,
    TryReceiveError,
};
use tests::{Child, Dice, PATIENCE, TestDaemon, seed, skip_unless_two_processors, wait_until};
use tokio::runtime::{Builder, Runtime};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// A lane of it holds 256 messages of up to 8 bytes.
fn small() -> MailboxOptions {
    MailboxOptions::new().capacity_bytes(4096).receivers_max(8).lanes_max(8)
}

fn receiver(client: &Client) -> AsyncReceiver {
    AsyncReceiver::new(client.receiver("orders").expect("it is there")).expect("a descriptor")
}

fn sender(client: &Client) -> AsyncSender {
    AsyncSender::new(client.sender("orders").expect("it is there")).expect("a descriptor")
}

async fn patiently<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("stuck")
}

async fn next(receiver: &mut AsyncReceiver) -> Option<Result<Message, ReceiveError>> {
    let mut receiver = Pin::new(receiver);
    patiently(std::future::poll_fn(|context| receiver.as_mut().poll_next(context))).await
}

fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Promise 34.
#[test]
fn receives_that_are_dropped_at_any_moment_lose_no_message() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let messages = 20_000u32;
    let mut child = daemon.child();
    child.done("sender orders");
    child.tell(&format!("send_numbered 0 0 {messages} 24"));
    let mut dice = Dice::new(seed());
    runtime().block_on(async {
        let mut receiver = receiver(&client);
        let (mut count, mut dropped) = (0, 0);
        while count < messages {
            if dice.below(2) == 0 {
                receiver.get_mut().set_spin_max(Duration::from_micros(dice.below(3)));
            }
            let bytes = tokio::select! {
                biased;
                () = give_up_after(dice.below(4)) => None,
                received = receiver.receive() => Some(received.unwrap().into_bytes()),
            };
            match bytes {
                Some(bytes) => {
                    let entry = tests::numbered::read(&bytes, 0);
                    assert_eq!(entry.number, u64::from(count), "in order, and none left out");
                    count += 1;
                }
                None => dropped += 1,
            }
        }
        println!("{dropped} futures were dropped");
        assert!(dropped > 0);
        assert!(matches!(poll_once(receiver.receive()), Poll::Pending));
    });
    assert_eq!(child.answer(), "ok");
}

/// Is ready at its so-manieth poll.
async fn give_up_after(polls: u64) {
    for _ in 0..polls {
        tokio::task::yield_now().await;
    }
}

/// Promise 34.
#[test]
fn a_send_that_waits_for_room_goes_on_when_there_is_some_and_a_dropped_one_has_sent_nothing() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    runtime().block_on(async {
        let mut sender = sender(&client);
        for n in 0..=255u8 {
            patiently(sender.send(&[n])).await.unwrap();
        }
        for _ in 0..3 {
            let dropped = tokio::time::timeout(Duration::from_millis(5), sender.send(b"dropped"));
            dropped.await.expect_err("there is no room");
        }
        let mut child = daemon.child();
        child.done("receiver orders");
        let waiting = tokio::spawn(async move {
            for n in 0..=255u8 {
                patiently(sender.send(&[n])).await.unwrap();
            }
            sender
        });
        let log = daemon.folder().join("texts");
        child.tell(&format!("take_bytes 512 {}", log.display()));
        let mut sender = patiently(waiting).await.unwrap();
        assert_eq!(child.answer(), "ok");
        let twice: Vec<u8> = (0..=255).chain(0..=255).collect();
        assert_eq!(std::fs::read(log).unwrap(), twice);
        client.close("orders").unwrap();
        assert!(matches!(patiently(sender.send(b"")).await, Err(SendError::Closed)));
    });
}

/// Promise 34.
#[test]
fn a_stream_yields_every_message_with_its_sender_and_ends_when_the_mailbox_is_closed_and_drained() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut children: Vec<_> = (0..3).map(|_| daemon.child()).collect();
    for (id, child) in children.iter_mut().enumerate() {
        child.done("sender orders");
        child.done("never_spin");
        child.tell(&format!("send_numbered {id} 0 5000 24"));
    }
    runtime().block_on(async {
        let mut receiver = receiver(&client);
        let mut expected = [0u64; 3];
        while expected.iter().sum::<u64>() < 15_000 {
            let message = next(&mut receiver).await.expect("no end yet").unwrap();
            let entry = tests::numbered::read(&message.bytes, message.attempts);
            let id = entry.sender as usize;
            assert_eq!((message.sender.pid, message.attempts), (children[id].pid(), 0));
            assert_eq!(entry.number, expected[id]);
            expected[id] += 1;
        }
        client.close("orders").unwrap();
        assert_eq!(next(&mut receiver).await.map(Result::unwrap), None);
        client.open("orders").unwrap();
        children[0].done("send after");
        let after = next(&mut receiver).await.expect("it goes on").unwrap();
        assert_eq!(after.bytes, b"after");
        client.delete("orders").unwrap();
        assert_eq!(next(&mut receiver).await.map(Result::unwrap), None);
        assert!(matches!(patiently(receiver.receive()).await, Err(ReceiveError::Deleted)));
    });
    let mut answers = children.iter_mut().map(tests::Child::answer);
    assert!(answers.all(|answer| answer == "ok"));
}

/// Promise 34.
#[test]
fn competing_receivers_in_one_runtime_with_several_threads_share_all_messages() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let counts = runtime.block_on(async {
        let receivers: Vec<_> = (0..4).map(|_| receiver(&client)).collect();
        let tasks: Vec<_> = receivers
            .into_iter()
            .map(|mut receiver| {
                tokio::spawn(async move {
                    let mut count = 0u32;
                    loop {
                        match patiently(receiver.receive()).await {
                            Ok(delivery) => delivery.acknowledge(),
                            Err(ReceiveError::Closed) => return count,
                            Err(error) => panic!("{error}"),
                        }
                        count += 1;
                    }
                })
            })
            .collect();
        let mut sender = sender(&client);
        for n in 0..10_000u32 {
            patiently(sender.send(&n.to_le_bytes())).await.unwrap();
            if n % 7 == 0 {
                // Now and then the receivers find nothing, and sleep.
                tokio::task::yield_now().await;
            }
        }
        client.close("orders").unwrap();
        let mut counts = Vec::new();
        for task in tasks {
            counts.push(patiently(task).await.unwrap());
        }
        counts
    });
    println!("{counts:?}");
    assert_eq!(counts.iter().sum::<u32>(), 10_000);
}

/// A task that always finds a message still lets others run, after as many as tokio allows for a poll.
#[test]
fn a_busy_receiver_lets_other_tasks_of_its_thread_run() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    runtime().block_on(async {
        let (mut receiver, mut sender) = (receiver(&client), sender(&client));
        // The runtime learns of a descriptor when it looks at all of them next.
        patiently(sender.send(b"first")).await.unwrap();
        patiently(receiver.receive()).await.unwrap().acknowledge();
        let mut count = 0;
        let busy = async {
            loop {
                sender.send(b"round and round").await.unwrap();
                receiver.receive().await.unwrap().acknowledge();
                count += 1;
            }
        };
        let ended: Poll<()> = poll_once(busy);
        assert!(ended.is_pending());
        // Each takes two of 128 steps; a lap of the lane would take as many.
        assert!((1..=128).contains(&count), "{count}");
    });
}

/// The spin's bound is the handle's: with all the time of the world the first poll waits for the message, with none
/// it says at once that there is none.
#[test]
fn a_receive_spins_as_long_as_its_handle_may_and_no_longer() {
    if skip_unless_two_processors("a_receive_spins_as_long_as_its_handle_may_and_no_longer") {
        return;
    }
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let (tell, told) = std::sync::mpsc::channel::<()>();
    let (opened, open) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let client = &client;
        scope.spawn(move || {
            tests::stay_on_processor(1);
            let mut sender = client.sender("orders").unwrap();
            opened.send(()).unwrap();
            while told.recv().is_ok() {
                wait_until("it is sent", || sender.try_send(b"late").is_ok());
            }
        });
        tests::stay_on_processor(0);
        open.recv().unwrap();
        let tell = tell;
        runtime().block_on(async {
            let mut receiver = receiver(client);
            receiver.get_mut().set_spin_max(Duration::ZERO);
            assert!(poll_once(receiver.receive()).is_pending());
            receiver.get_mut().set_spin_max(Duration::from_micros(50));
            assert!(poll_once(receiver.receive()).is_pending());
            tell.send(()).unwrap();
            assert_eq!(patiently(receiver.receive()).await.unwrap().into_bytes(), b"late");
            receiver.get_mut().set_spin_max(PATIENCE);
            // No watcher sleeps for it any more, and the runtime hears of that.
            let now = std::time::Instant::now();
            let nothing = receiver.get_mut().receive_deadline(now).map(drop);
            assert!(matches!(nothing, Err(ReceiveError::TimedOut)));
            tokio::time::sleep(Duration::from_millis(1)).await;
            tell.send(()).unwrap();
            let Poll::Ready(received) = poll_once(receiver.receive()) else { panic!("no spin") };
            assert_eq!(received.unwrap().into_bytes(), b"late");
        });
    });
}

fn rendezvous() -> MailboxOptions {
    small().buffering(Buffering::Rendezvous)
}

/// A sender of a rendezvous mailbox that never spins: what its future has not found at once it sleeps for.
fn sleepy_sender(client: &Client) -> AsyncSender {
    let mut sender = sender(client);
    sender.get_mut().set_spin_max(Duration::ZERO);
    sender
}

fn sent(client: &Client) -> u64 {
    client.show("orders").expect("ours to see").summary.sent_messages
}

/// Polls a send until its message is offered: from then on it sleeps.
async fn offered(client: &Client, mut send: Pin<&mut impl Future<Output = Result<(), SendError>>>) {
    let before = sent(client);
    let end = tests::patience();
    while sent(client) == before {
        assert!(std::time::Instant::now() < end, "never offered");
        std::future::poll_fn(|context| {
            assert!(send.as_mut().poll(context).is_pending(), "nobody has acknowledged it");
            Poll::Ready(())
        })
        .await;
        tokio::task::yield_now().await;
    }
}

fn child_with(daemon: &TestDaemon, commands: &[&str]) -> Child {
    let mut child = daemon.child();
    for command in commands {
        child.done(command);
    }
    child
}

/// Whether a receiver finds nothing.
fn is_empty(receiver: &mut libipc::Receiver) -> bool {
    matches!(receiver.try_receive(), Err(TryReceiveError::Empty))
}

/// Promises 64 and 65.
#[test]
fn a_rendezvous_future_is_done_when_its_message_is_acknowledged_whoever_does_so() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &rendezvous());
    runtime().block_on(async {
        let mut sender = sleepy_sender(&client);
        let [mut doomed, mut careless, mut careful] =
            [(); 3].map(|()| child_with(&daemon, &["receiver orders"]));
        let mut send = Box::pin(sender.send(b"tea"));
        offered(&client, send.as_mut()).await;
        assert_eq!(doomed.got("hold").text, "tea");
        assert!(poll_once(send.as_mut()).is_pending(), "in hand is not acknowledged");
        doomed.kill();
        assert_eq!(careless.got("hold").attempts, 1);
        careless.done("return");
        assert_eq!(careful.got("hold").attempts, 2);
        assert!(poll_once(send.as_mut()).is_pending(), "nobody has acknowledged it yet");
        careful.done("ack");
        patiently(send).await.unwrap();
        assert!(sender.take_in_hand().is_none());
    });
}

/// Promise 101.
#[test]
fn a_rendezvous_future_is_told_that_its_message_is_a_dead_letter_or_was_dropped() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &rendezvous().on_death(OnDeath::Drop));
    runtime().block_on(async {
        let mut sender = sleepy_sender(&client);
        let mut receiver = client.receiver("orders").unwrap();
        let mut send = Box::pin(sender.send(b"bad"));
        offered(&client, send.as_mut()).await;
        receiver.receive_deadline(tests::patience()).unwrap().reject().unwrap();
        let end = patiently(send).await;
        assert!(matches!(end, Err(SendError::DeadLettered)), "{end:?}");
        drop(receiver);
        let mut doomed = child_with(&daemon, &["receiver orders"]);
        let mut send = Box::pin(sender.send(b"poison"));
        offered(&client, send.as_mut()).await;
        assert_eq!(doomed.got("hold").text, "poison");
        doomed.kill();
        let end = patiently(send).await;
        assert!(matches!(end, Err(SendError::Dropped)), "{end:?}");
        // The next is a message like any other.
        let mut careful = child_with(&daemon, &["receiver orders"]);
        let mut send = Box::pin(sender.send(b"good"));
        offered(&client, send.as_mut()).await;
        assert_eq!(careful.got("receive").text, "good");
        patiently(send).await.unwrap();
    });
}

/// Promise 34.
#[test]
fn a_rendezvous_future_that_is_dropped_takes_its_message_back_or_says_who_has_it() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &rendezvous());
    runtime().block_on(async {
        let mut sender = sleepy_sender(&client);
        let mut receiver = client.receiver("orders").unwrap();
        {
            let mut send = Box::pin(sender.send(b"dropped"));
            offered(&client, send.as_mut()).await;
        }
        assert!(sender.take_in_hand().is_none());
        assert!(is_empty(&mut receiver), "it was taken back");
        let timed = tokio::time::timeout(Duration::from_millis(5), sender.send(b"timed")).await;
        timed.expect_err("nobody receives");
        assert!(sender.take_in_hand().is_none());
        assert!(is_empty(&mut receiver), "it was taken back");
        let delivery = {
            let mut send = Box::pin(sender.send(b"held"));
            offered(&client, send.as_mut()).await;
            receiver.try_receive().unwrap()
        };
        assert_eq!(delivery.bytes(), b"held");
        let ticket = sender.take_in_hand().expect("a receiver has it");
        assert_eq!(ticket.state().unwrap(), TicketState::InHand);
        delivery.acknowledge();
        assert_eq!(ticket.state().unwrap(), TicketState::Done);
        assert!(sender.take_in_hand().is_none(), "it is told once");
    });
}

/// Promise 66.
#[test]
fn closing_ends_a_rendezvous_future_unless_a_receiver_has_its_message() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &rendezvous());
    runtime().block_on(async {
        let mut sender = sleepy_sender(&client);
        let mut receiver = client.receiver("orders").unwrap();
        let mut send = Box::pin(sender.send(b"tea"));
        offered(&client, send.as_mut()).await;
        client.close("orders").unwrap();
        assert!(matches!(patiently(send).await, Err(SendError::Closed)));
        client.open("orders").unwrap();
        assert!(is_empty(&mut receiver), "nobody has it");
        let mut send = Box::pin(sender.send(b"tea"));
        offered(&client, send.as_mut()).await;
        let delivery = receiver.try_receive().unwrap();
        client.close("orders").unwrap();
        let early = tokio::time::timeout(Duration::from_millis(20), send.as_mut()).await;
        early.expect_err("what a receiver has goes on");
        delivery.acknowledge();
        patiently(send).await.unwrap();
    });
}

/// Promises 66 and 94.
#[test]
fn deleting_ends_a_rendezvous_future_with_the_truth_and_so_does_its_owners_end() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &rendezvous());
    runtime().block_on(async {
        let mut sender = sleepy_sender(&client);
        let mut receiver = client.receiver("orders").unwrap();
        let mut send = Box::pin(sender.send(b"tea"));
        offered(&client, send.as_mut()).await;
        let delivery = receiver.try_receive().unwrap();
        client.delete("orders").unwrap();
        let end = patiently(send).await;
        assert!(matches!(end, Err(SendError::InHand(_))), "{end:?}");
        assert!(sender.take_in_hand().is_none(), "the error has told");
        drop(delivery);
        client.create("orders", &rendezvous()).unwrap();
        let mut sender = sleepy_sender(&client);
        let mut send = Box::pin(sender.send(b"tea"));
        offered(&client, send.as_mut()).await;
        client.delete("orders").unwrap();
        assert!(matches!(patiently(send).await, Err(SendError::Deleted)));
        let owner = daemon.client_with("orders", &rendezvous().lifetime(Owner::Process));
        let mut sender = sleepy_sender(&client);
        let mut send = Box::pin(sender.send(b"tea"));
        offered(&client, send.as_mut()).await;
        drop(owner);
        assert!(matches!(patiently(send).await, Err(SendError::OwnerGone)));
    });
}

/// Promises 95 and 99.
#[test]
fn a_rendezvous_future_is_told_that_who_must_receive_is_gone() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &rendezvous());
    runtime().block_on(async {
        let mut sender = sleepy_sender(&client);
        let [mut named, mut other] = [(); 2].map(|()| child_with(&daemon, &["receiver orders"]));
        sender.get_mut().require_receiver(named.pid());
        sender.get_mut().require_receivers();
        {
            let mut send = Box::pin(sender.send(b"tea"));
            offered(&client, send.as_mut()).await;
            named.kill();
            assert!(matches!(patiently(send).await, Err(SendError::ReceiverGone)));
        }
        assert!(other.ask("try_receive").contains("Empty"), "it was taken back");
        sender.get_mut().require_receiver(other.pid());
        {
            let mut send = Box::pin(sender.send(b"tea"));
            offered(&client, send.as_mut()).await;
            assert_eq!(other.got("hold").text, "tea");
            other.kill();
            let end = patiently(send).await;
            assert!(matches!(end, Err(SendError::InHand(_))), "it died with it: {end:?}");
        }
        assert!(matches!(patiently(sender.send(b"tea")).await, Err(SendError::NoReceivers)));
    });
}

/// Promise 35.
#[test]
fn a_rendezvous_future_ends_with_the_daemon_where_that_is_asked_for() {
    let mut daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &rendezvous());
    runtime().block_on(async {
        let (mut ends, mut goes_on) = (sleepy_sender(&client), sleepy_sender(&client));
        let mut receiver = client.receiver("orders").unwrap();
        ends.get_mut().end_without_daemon();
        let mut ended = Box::pin(ends.send(b"ends"));
        offered(&client, ended.as_mut()).await;
        let mut waits = Box::pin(goes_on.send(b"goes on"));
        offered(&client, waits.as_mut()).await;
        daemon.kill();
        assert!(matches!(patiently(ended).await, Err(SendError::DaemonAway)));
        assert!(poll_once(waits.as_mut()).is_pending());
        let delivery = receiver.try_receive().unwrap();
        assert_eq!(delivery.bytes(), b"goes on", "the other was taken back");
        delivery.acknowledge();
        patiently(waits).await.unwrap();
    });
}

/// What was taken back keeps its room until a receiver comes past it.
#[test]
fn a_rendezvous_future_waits_for_room_where_dropped_ones_have_taken_it() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &rendezvous());
    runtime().block_on(async {
        let mut sender = sleepy_sender(&client);
        for _ in 0..256 {
            let mut send = Box::pin(sender.send(b"dropped"));
            offered(&client, send.as_mut()).await;
        }
        let mut send = Box::pin(sender.send(b"at last"));
        let before = sent(&client);
        let early = tokio::time::timeout(Duration::from_millis(20), send.as_mut()).await;
        early.expect_err("there is no room");
        assert_eq!(sent(&client), before, "it is not even offered");
        let mut child = child_with(&daemon, &["receiver orders"]);
        child.tell("receive");
        patiently(send).await.unwrap();
        assert_eq!(tests::Got::parse(&child.answer()).text, "at last");
    });
}

/// Promises 34 and 64: the runtime's other tasks go on, every future is told, and the truth.
#[test]
fn many_rendezvous_futures_agree_with_their_receivers_whether_they_are_dropped_or_not() {
    const SENDERS: u32 = 6;
    const MESSAGES: u64 = 2_000;
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &rendezvous());
    let log = |n: usize| daemon.folder().join(format!("log{n}"));
    let mut children: Vec<_> = (0..3).map(|_| child_with(&daemon, &["receiver orders"])).collect();
    for (n, child) in children.iter_mut().enumerate() {
        child.tell(&format!("drain {}", log(n).display()));
    }
    let seed = seed();
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let outcomes = runtime.block_on(async {
        let tasks: Vec<_> = (0..SENDERS)
            .map(|id| {
                let dice = Dice::new(seed.wrapping_add(id.into()));
                tokio::spawn(meet_and_drop(sender(&client), id, MESSAGES, dice))
            })
            .collect();
        let mut outcomes = Vec::new();
        for task in tasks {
            outcomes.push(patiently(task).await.unwrap());
        }
        outcomes
    });
    client.close("orders").unwrap();
    let mut got: HashMap<(u32, u64), u32> = HashMap::new();
    for (n, child) in children.iter_mut().enumerate() {
        assert!(child.answer().starts_with("ok"));
        for entry in tests::numbered::read_log(&log(n)) {
            *got.entry((entry.sender, entry.number)).or_default() += 1;
        }
    }
    let mut counts: HashMap<Outcome, u32> = HashMap::new();
    for (id, outcomes) in (0..SENDERS).zip(outcomes) {
        for (number, outcome) in (0..MESSAGES).zip(outcomes) {
            *counts.entry(outcome).or_default() += 1;
            let times = got.remove(&(id, number)).unwrap_or_default();
            assert_eq!(
                times,
                u32::from(outcome != Outcome::TakenBack),
                "{id} {number} {outcome:?}"
            );
        }
    }
    println!("{counts:?}");
    assert!(got.is_empty(), "nobody sent these: {got:?}");
    assert!([Outcome::Met, Outcome::TakenBack].iter().all(|outcome| counts.contains_key(outcome)));
    assert_eq!(client.show("orders").unwrap().summary.queued_messages, 0);
}

/// What became of a message, as its sender was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Outcome {
    /// The future said so.
    Met,
    /// It was dropped, and nobody had the message.
    TakenBack,
    /// It was dropped, and a receiver had it.
    InHand,
}

/// Sends numbered messages; each future may be dropped at any moment.
async fn meet_and_drop(
    mut sender: AsyncSender,
    id: u32,
    messages: u64,
    mut dice: Dice,
) -> Vec<Outcome> {
    let (mut message, mut outcomes) = (Vec::new(), Vec::new());
    for number in 0..messages {
        sender.get_mut().set_spin_max(Duration::from_micros(dice.below(10)));
        tests::numbered::write(id, number, 24, &mut message);
        let polls = if dice.below(3) == 0 { u64::MAX } else { dice.below(10) };
        let met = tokio::select! {
            biased;
            () = give_up_after(polls) => false,
            met = patiently(sender.send(&message)) => {
                met.expect("it is told");
                true
            }
        };
        outcomes.push(match sender.take_in_hand() {
            _ if met => Outcome::Met,
            None => Outcome::TakenBack,
            Some(ticket) => {
                let end = ticket.wait_deadline(tests::patience()).expect("ours");
                assert_eq!(end, TicketState::Done);
                Outcome::InHand
            }
        });
    }
    outcomes
}
