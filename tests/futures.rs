//! The ends in tokio: nothing is lost to a dropped future, nobody sleeps through anything.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_core::Stream;
use libipc::tokio::{AsyncReceiver, AsyncSender, Message};
use libipc::{Buffering, Client, MailboxOptions, ReceiveError, SendError};
use tests::{Dice, PATIENCE, TestDaemon, seed, skip_unless_two_processors, wait_until};
use tokio::runtime::{Builder, Runtime};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// A lane of it holds 128 messages of up to 16 bytes.
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
        for n in 0..128u8 {
            patiently(sender.send(&[n])).await.unwrap();
        }
        for _ in 0..3 {
            let dropped = tokio::time::timeout(Duration::from_millis(5), sender.send(b"dropped"));
            dropped.await.expect_err("there is no room");
        }
        let mut child = daemon.child();
        child.done("receiver orders");
        let waiting = tokio::spawn(async move {
            for n in 128..=255u8 {
                patiently(sender.send(&[n])).await.unwrap();
            }
            sender
        });
        let log = daemon.folder().join("texts");
        child.tell(&format!("take_bytes 256 {}", log.display()));
        let mut sender = patiently(waiting).await.unwrap();
        assert_eq!(child.answer(), "ok");
        assert_eq!(std::fs::read(log).unwrap(), (0..=255).collect::<Vec<u8>>());
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
            tell.send(()).unwrap();
            let Poll::Ready(received) = poll_once(receiver.receive()) else { panic!("no spin") };
            assert_eq!(received.unwrap().into_bytes(), b"late");
        });
    });
}

/// Promise 64: a send in a rendezvous mailbox is no mere publishing, in whatever way it is asked for.
#[test]
fn a_sender_of_a_rendezvous_mailbox_is_not_handed_to_tokio() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small().buffering(Buffering::Rendezvous));
    let runtime = runtime();
    let _inside = runtime.enter();
    let refused = AsyncSender::new(client.sender("orders").expect("it is there"));
    let why = refused.map(drop).expect_err("its sends wait for acknowledgements").to_string();
    assert!(why.contains("send_tracked"), "{why}");
}
