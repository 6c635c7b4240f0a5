//! Endings that a handle asks to be told of: the receiver that it needs is gone, or the daemon is.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use libipc::tokio::{AsyncReceiver, AsyncSender};
use libipc::{
    Buffering, CallError, Client, MailboxOptions, ReceiveError, Receiver, Receivers, Refusal,
    RequestError, SendError, Sender, TryReceiveError, TrySendError, WaitSet,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tests::{Child, Got, TestDaemon, patience, wait_until};

/// A small mailbox: a lane of it holds 256 messages of up to 8 bytes.
fn small() -> MailboxOptions {
    MailboxOptions::new().capacity_bytes(4096).receivers_max(8).lanes_max(8)
}

fn rendezvous() -> MailboxOptions {
    small().buffering(Buffering::Rendezvous)
}

fn fill(sender: &mut Sender) -> usize {
    std::iter::repeat_with(|| sender.try_send(&[7; 16])).take_while(Result::is_ok).count()
}

/// Whether the receiver that a sender requires is gone. Until it is, this may fill the lane.
fn is_without_receiver(sender: &mut Sender) -> bool {
    matches!(sender.try_send(b"gone?"), Err(TrySendError::ReceiverGone))
}

/// A child that has a mailbox open to receive.
fn receiving(daemon: &TestDaemon, name: &str) -> Child {
    let mut child = daemon.child();
    child.done(&format!("receiver {name}"));
    child
}

/// A child that has a mailbox open to send.
fn sending(daemon: &TestDaemon, name: &str) -> Child {
    let mut child = daemon.child();
    child.done(&format!("sender {name}"));
    child
}

/// The same, the mailbox's lane is full, and it waits for room.
fn wait_for_room(child: &mut Child) {
    while child.ask("try_send sixteen.bytes..") == "ok" {}
    child.tell("send one too many");
    wait_until("the sender sleeps", || child.sleeps());
}

/// Waits until a descriptor is readable.
fn await_readable(fd: BorrowedFd<'_>) {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(tests::PATIENCE).expect("a minute");
    assert_eq!(poll(&mut fds, timeout).expect("a descriptor to poll"), 1, "never readable");
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().expect("a runtime")
}

/// Lets a future wait, and only then the world change; what the future says.
async fn meanwhile<T>(future: impl Future<Output = T>, change: impl FnOnce()) -> T {
    let mut future = std::pin::pin!(future);
    let mut change = Some(change);
    std::future::poll_fn(move |context| {
        let polled = future.as_mut().poll(context);
        if let (true, Some(change)) = (polled.is_pending(), change.take()) {
            change();
        }
        polled
    })
    .await
}

/// What a future says, if it does so in time.
async fn within_patience<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(tests::PATIENCE, future).await.expect("the future is told")
}

/// Promise 99.
#[test]
fn a_waiting_sender_is_told_when_the_receiver_it_requires_is_killed_though_another_remains() {
    let daemon = TestDaemon::start(&[]);
    let _client = daemon.client_with("orders", &small());
    let (mut named, mut other) = (receiving(&daemon, "orders"), receiving(&daemon, "orders"));
    let mut sender = sending(&daemon, "orders");
    sender.done(&format!("require_receiver {}", named.pid()));
    sender.done("send first");
    wait_for_room(&mut sender);
    named.kill();
    assert_eq!(sender.answer(), "error ReceiverGone");
    sender.refused("try_send now", "ReceiverGone");
    assert_eq!(other.got("receive").text, "first", "what was sent before is another's");
}

/// Promise 99.
#[test]
fn a_sender_sends_again_once_the_process_it_requires_receives_again() {
    let daemon = TestDaemon::start(&[]);
    let _client = daemon.client_with("orders", &small());
    let (mut named, mut other) = (daemon.child(), receiving(&daemon, "orders"));
    let mut sender = sending(&daemon, "orders");
    sender.done(&format!("require_receiver {}", named.pid()));
    sender.refused("send nobody has come yet", "ReceiverGone");
    named.done("receiver orders");
    sender.done("send first");
    wait_for_room(&mut sender);
    named.done("close_receiver");
    assert_eq!(sender.answer(), "error ReceiverGone");
    assert_eq!(other.got("receive").text, "first");
    sender.refused("send there is room", "ReceiverGone");
    named.done("receiver orders");
    sender.done("send second");
}

/// Promise 99.
#[test]
fn the_last_receiver_of_the_required_process_counts_whoever_has_its_slot_then() {
    let daemon = TestDaemon::start(&[]);
    let ours = daemon.client_with("orders", &small());
    let us = std::process::id();
    let mut first = ours.receiver("orders").unwrap();
    let second = ours.receiver("orders").unwrap();
    let mut sender = daemon.client().sender("orders").unwrap();
    sender.require_receiver(us);
    sender.send(b"both").unwrap();
    drop(second);
    let theirs = receiving(&daemon, "orders");
    sender.send(b"one is left").unwrap();
    assert_eq!(first.receive().unwrap().into_bytes(), b"both");
    drop(first);
    wait_until("the last is closed", || is_without_receiver(&mut sender));
    // The slots have new owners, of another process.
    let more = [receiving(&daemon, "orders"), receiving(&daemon, "orders")];
    assert!(matches!(sender.try_send(b""), Err(TrySendError::ReceiverGone)));
    drop((theirs, more));
    wait_until("nobody is left", || {
        ours.show("orders").unwrap().members.iter().all(|member| member.role == libipc::Role::Send)
    });
    assert!(matches!(sender.send(b""), Err(SendError::ReceiverGone)), "not NoReceivers");
    sender.require_receivers();
    assert!(matches!(sender.send(b""), Err(SendError::NoReceivers)), "nobody at all");
    let _again = ours.receiver("orders").unwrap();
    sender.send(b"here we are").unwrap();
}

/// Promise 99.
#[test]
fn every_way_to_send_says_that_the_required_receiver_is_gone() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let _other = client.receiver("orders").unwrap();
    let named = receiving(&daemon, "orders");
    let mut sender = client.sender("orders").unwrap();
    sender.require_receiver(named.pid());
    let mut reserved = client.sender("orders").unwrap();
    reserved.require_receiver(named.pid());
    let reservation = reserved.reserve(3).unwrap();
    drop(named);
    wait_until("it is gone", || is_without_receiver(&mut sender));
    assert!(matches!(reservation.commit(), Err(libipc::CommitError::ReceiverGone)));
    assert!(matches!(sender.try_send(b"x"), Err(TrySendError::ReceiverGone)));
    assert!(matches!(sender.send(b"x"), Err(SendError::ReceiverGone)));
    assert!(matches!(sender.send_deadline(b"x", patience()), Err(SendError::ReceiverGone)));
    assert!(matches!(sender.send_sync(b"x"), Err(SendError::ReceiverGone)));
    assert!(matches!(sender.send_tracked(b"x").map(drop), Err(SendError::ReceiverGone)));
    assert!(matches!(sender.reserve(1).map(drop), Err(SendError::ReceiverGone)));
    let stopped = sender.send_batch(&[b"x", b"y"]).unwrap_err();
    assert!(stopped.sent == 0 && matches!(stopped.why, SendError::ReceiverGone));
    let called = sender.call(b"x");
    assert!(matches!(called, Err(CallError::NotSent(SendError::ReceiverGone))), "{called:?}");
}

/// Promise 99.
#[test]
fn whoever_waits_for_an_acknowledgement_or_an_answer_is_told_that_the_required_receiver_is_gone() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    client.create("meetings", &rendezvous()).unwrap();
    for (name, command) in [("orders", "send_sync x"), ("meetings", "send x"), ("orders", "call x")]
    {
        let mut other = client.receiver(name).unwrap();
        let mut named = receiving(&daemon, name);
        let mut sender = sending(&daemon, name);
        sender.done(&format!("require_receiver {}", named.pid()));
        sender.tell(command);
        wait_until("the sender sleeps", || sender.sleeps());
        named.kill();
        assert_eq!(sender.answer(), "error ReceiverGone", "{command}");
        let left = other.try_receive().map(|delivery| delivery.into_bytes());
        assert!(matches!(left, Err(TryReceiveError::Empty)), "{command}: it was taken back");
    }
}

/// Promise 99.
#[test]
fn a_caller_whose_required_server_dies_over_the_request_is_told_though_another_remains() {
    let daemon = TestDaemon::start(&[]);
    let _client = daemon.client_with("orders", &small());
    let mut named = receiving(&daemon, "orders");
    let mut caller = sending(&daemon, "orders");
    caller.done(&format!("require_receiver {}", named.pid()));
    caller.tell("call x");
    assert_eq!(named.got("hold").text, "x");
    let mut other = receiving(&daemon, "orders");
    named.kill();
    assert_eq!(caller.answer(), "error ReceiverGone");
    assert_eq!(other.got("receive").text, "x", "in hand it cannot be taken back");
}

/// Promise 99.
#[test]
fn a_descriptor_and_a_future_tell_that_the_required_receiver_is_gone() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let _other = client.receiver("orders").unwrap();
    let (first, second) = (receiving(&daemon, "orders"), receiving(&daemon, "orders"));
    let mut polled = client.sender("orders").unwrap();
    polled.require_receiver(first.pid());
    let fd = polled.poll_fd().unwrap().try_clone_to_owned().unwrap();
    fill(&mut polled);
    drop(first);
    let end = patience();
    loop {
        assert!(Instant::now() < end, "never told");
        await_readable(fd.as_fd());
        match polled.try_send(&[7; 16]) {
            Err(TrySendError::ReceiverGone) => break,
            other => assert!(matches!(other, Err(TrySendError::Full)), "{other:?}"),
        }
    }
    let mut awaited = client.sender("orders").unwrap();
    awaited.require_receiver(second.pid());
    fill(&mut awaited);
    let end = runtime().block_on(async {
        let mut awaited = AsyncSender::new(awaited).unwrap();
        within_patience(meanwhile(awaited.send(&[7; 16]), || drop(second))).await
    });
    assert!(matches!(end, Err(SendError::ReceiverGone)), "{end:?}");
}

/// Promise 35.
#[test]
fn a_receiver_that_ends_with_the_daemon_is_told_and_one_that_does_not_goes_on() {
    let mut daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("one", &small());
    client.create("other", &small()).unwrap();
    let (mut ends, mut goes_on) = (receiving(&daemon, "one"), receiving(&daemon, "other"));
    let (mut to_one, mut to_other) = (sending(&daemon, "one"), sending(&daemon, "other"));
    ends.done("end_without_daemon");
    for round in 0..3 {
        ends.tell("receive");
        wait_until("it sleeps", || ends.sleeps());
        to_one.done(&format!("send {round}"));
        assert_eq!(Got::parse(&ends.answer()).text, round.to_string(), "while there is a daemon");
    }
    ends.tell("receive");
    goes_on.tell("receive");
    wait_until("both sleep", || ends.sleeps() && goes_on.sleeps());
    daemon.kill();
    assert_eq!(ends.answer(), "error DaemonAway");
    to_one.done("send without a daemon");
    assert_eq!(ends.got("receive").text, "without a daemon", "what is there is received");
    ends.refused("receive", "DaemonAway");
    ends.refused("try_receive", "DaemonAway");
    ends.refused("receive_within 60000", "DaemonAway");
    assert_eq!(goes_on.try_answer(), None);
    to_other.done("send without a daemon");
    assert_eq!(Got::parse(&goes_on.answer()).text, "without a daemon");
    goes_on.tell("receive");
    wait_until("it sleeps though nobody is there to wake it", || goes_on.sleeps());
    to_other.done("send again");
    assert_eq!(Got::parse(&goes_on.answer()).text, "again");
    // Nothing of the one before is the new one's.
    daemon.restart(&[]);
    ends.refused("receive", "DaemonAway");
}

/// Promise 35.
#[test]
fn what_is_queued_when_the_daemon_goes_is_received_before_that_is_told() {
    let mut daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut sender = client.sender("orders").unwrap();
    let mut receiver = client.receiver("orders").unwrap();
    receiver.end_without_daemon();
    assert!(matches!(receiver.try_receive(), Err(TryReceiveError::Empty)));
    for n in 0..6u8 {
        sender.send(&[n]).unwrap();
    }
    daemon.kill();
    wait_until("the hang-up is there", || client.daemon_is_away());
    for n in 0..2 {
        assert_eq!(receiver.receive().unwrap().into_bytes(), [n]);
    }
    for n in 2..4 {
        assert_eq!(receiver.try_receive().unwrap().into_bytes(), [n]);
    }
    let batch = receiver.receive_batch(8).unwrap();
    assert_eq!(batch.iter().map(|message| message.bytes()[0]).collect::<Vec<_>>(), [4, 5]);
    batch.acknowledge();
    assert!(matches!(receiver.receive(), Err(ReceiveError::DaemonAway)));
    // In the slow way, too, which is the one that knows: the quick one looks at nothing but messages.
    sender.send(b"late").unwrap();
    let from_us = receiver.receive_from(std::process::id());
    assert_eq!(from_us.unwrap().into_bytes(), b"late");
}

/// Promise 35.
#[test]
fn a_sender_that_ends_with_the_daemon_is_told_and_one_that_does_not_goes_on() {
    let mut daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("one", &small());
    client.create("other", &small()).unwrap();
    // The senders first: without a daemon nobody learns of a new lane.
    let (mut ends, mut goes_on) = (sending(&daemon, "one"), sending(&daemon, "other"));
    let (mut from_one, mut from_other) = (receiving(&daemon, "one"), receiving(&daemon, "other"));
    ends.done("end_without_daemon");
    wait_for_room(&mut ends);
    wait_for_room(&mut goes_on);
    daemon.kill();
    assert_eq!(ends.answer(), "error DaemonAway");
    wait_until("try_send knows, too", || ends.ask("try_send x") == "error DaemonAway");
    ends.refused("send x", "DaemonAway");
    ends.refused("send_within 60000 x", "DaemonAway");
    assert_eq!(from_one.got("receive").text, "sixteen.bytes..");
    ends.done("send there is room");
    assert_eq!(goes_on.try_answer(), None);
    while goes_on.try_answer().is_none() {
        assert_eq!(from_other.got("receive").text, "sixteen.bytes..");
    }
    wait_for_room(&mut goes_on);
}

/// Promise 35.
#[test]
fn who_waits_for_its_turn_is_told_that_the_daemon_is_away_and_leaves_the_line() {
    let mut daemon = TestDaemon::start(&[]);
    let _client = daemon.client_with("orders", &small().receivers(Receivers::Exclusive));
    let mut has_turn = receiving(&daemon, "orders");
    let (mut ends, mut next) = (receiving(&daemon, "orders"), receiving(&daemon, "orders"));
    let mut sender = sending(&daemon, "orders");
    ends.done("end_without_daemon");
    for child in [&mut has_turn, &mut ends, &mut next] {
        child.tell("receive");
        wait_until("it sleeps", || child.sleeps());
    }
    daemon.kill();
    assert_eq!(ends.answer(), "error DaemonAway");
    assert_eq!((has_turn.try_answer(), next.try_answer()), (None, None));
    sender.done("send first");
    assert_eq!(Got::parse(&has_turn.answer()).text, "first");
    sender.done("send second");
    assert_eq!(Got::parse(&next.answer()).text, "second", "its place in line is nobody's");
    ends.refused("receive", "DaemonAway");
    sender.done("send third");
    assert_eq!(has_turn.got("receive").text, "third", "the turn was given back");
}

/// Promise 35.
#[test]
fn every_way_to_wait_ends_with_the_daemon_where_that_is_asked_for() {
    let mut daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    client.create("meetings", &rendezvous()).unwrap();
    client.create("served", &small()).unwrap();
    client.create("silent", &small()).unwrap();
    let mut orders = client.receiver("orders").unwrap();
    let mut meetings = client.receiver("meetings").unwrap();
    let mut server = receiving(&daemon, "served");
    let us = std::process::id();
    let receive_from = format!("receive_from {us}");
    let mut waiting = Vec::new();
    for (open, command) in [
        ("sender orders", "send_sync x"),
        ("sender meetings", "send x"),
        ("sender orders", "call x"),
        ("receiver silent", receive_from.as_str()),
        ("receiver silent", "receive_batch"),
    ] {
        let mut child = daemon.child();
        child.done(open);
        child.done("end_without_daemon");
        child.tell(command);
        wait_until("it sleeps", || child.sleeps());
        waiting.push((child, command));
    }
    let mut caller = sending(&daemon, "served");
    caller.done("end_without_daemon");
    caller.tell("call x");
    assert_eq!(server.got("hold").text, "x");
    daemon.kill();
    for (child, command) in &mut waiting {
        assert_eq!(child.answer(), "error DaemonAway", "{command}");
    }
    assert_eq!(caller.answer(), "error DaemonAway", "whoever has the request");
    for receiver in [&mut orders, &mut meetings] {
        let left = receiver.try_receive().map(|delivery| delivery.into_bytes());
        assert!(matches!(left, Err(TryReceiveError::Empty)), "{left:?} was taken back");
    }
}

/// Promise 35.
#[test]
fn without_the_daemon_an_acknowledgement_has_its_time() {
    let mut daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("meetings", &rendezvous());
    // The sender first: without a daemon nobody learns of a new lane.
    let mut sender = sending(&daemon, "meetings");
    let mut receiver = client.receiver("meetings").unwrap();
    sender.done("end_without_daemon");
    daemon.kill();
    wait_until("the hang-up is there", || client.daemon_is_away());
    // Some tries, for on a busy machine 100 ms may be over before we receive.
    let met = (0..20).any(|_| {
        sender.tell("send still");
        let mut answer = None;
        wait_until("the sender sleeps, or has given up", || {
            answer = sender.try_answer();
            answer.is_some() || sender.sleeps()
        });
        if let Ok(delivery) = receiver.try_receive() {
            delivery.acknowledge();
        }
        answer.unwrap_or_else(|| sender.answer()) == "ok"
    });
    assert!(met, "a receiver that is there acknowledges");
    sender.refused("send nobody receives", "DaemonAway");
    sender.refused("try_send nobody receives", "NotTaken");
}

/// Two handles that end with the daemon and have nothing to do: a receiver of an empty mailbox, a sender to a full
/// one.
fn idle_ends(client: &Client) -> (Receiver, Sender) {
    client.create("empty", &small()).unwrap();
    client.create("full", &small()).unwrap();
    let (mut receiver, mut sender) =
        (client.receiver("empty").unwrap(), client.sender("full").unwrap());
    receiver.end_without_daemon();
    sender.end_without_daemon();
    fill(&mut sender);
    (receiver, sender)
}

/// Promise 35.
#[test]
fn a_wait_on_many_tells_that_the_daemon_is_away() {
    let mut daemon = TestDaemon::start(&[]);
    let client = daemon.client();
    let (mut receiver, mut sender) = idle_ends(&client);
    let waits = std::thread::spawn(move || {
        let ready = WaitSet::new().wait_deadline(&mut [&mut receiver], patience()).map(drop);
        let received = receiver.try_receive().map(|delivery| delivery.into_bytes());
        let room = WaitSet::new().wait_deadline(&mut [&mut sender], patience()).map(drop);
        (ready, received, room, sender.try_send(&[7; 16]))
    });
    daemon.kill();
    let (ready, received, room, sent) = waits.join().unwrap();
    assert_eq!((ready, room), (Ok(()), Ok(())));
    assert!(matches!(received, Err(TryReceiveError::DaemonAway)), "{received:?}");
    assert!(matches!(sent, Err(TrySendError::DaemonAway)), "{sent:?}");
}

/// Promise 35.
#[test]
fn descriptors_tell_that_the_daemon_is_away() {
    let mut daemon = TestDaemon::start(&[]);
    let client = daemon.client();
    let (mut receiver, mut sender) = idle_ends(&client);
    let fds = [receiver.poll_fd(), sender.poll_fd()];
    let [to_receive, to_send] = fds.map(|fd| fd.unwrap().try_clone_to_owned().unwrap());
    assert!(matches!(receiver.try_receive(), Err(TryReceiveError::Empty)));
    assert!(matches!(sender.try_send(&[7; 16]), Err(TrySendError::Full)));
    daemon.kill();
    let end = patience();
    loop {
        assert!(Instant::now() < end, "never told");
        await_readable(to_receive.as_fd());
        match receiver.try_receive().map(|delivery| delivery.into_bytes()) {
            Err(TryReceiveError::DaemonAway) => break,
            other => assert!(matches!(other, Err(TryReceiveError::Empty)), "{other:?}"),
        }
    }
    let end = patience();
    loop {
        assert!(Instant::now() < end, "never told");
        await_readable(to_send.as_fd());
        match sender.try_send(&[7; 16]) {
            Err(TrySendError::DaemonAway) => break,
            other => assert!(matches!(other, Err(TrySendError::Full)), "{other:?}"),
        }
    }
}

/// Promise 35.
#[test]
fn futures_tell_that_the_daemon_is_away() {
    let mut daemon = TestDaemon::start(&[]);
    let client = daemon.client();
    let (receiver, sender) = idle_ends(&client);
    let received = runtime().block_on(async {
        let mut receiver = AsyncReceiver::new(receiver).unwrap();
        let receive = async { receiver.receive().await.map(drop) };
        within_patience(meanwhile(receive, || daemon.kill())).await
    });
    assert!(matches!(received, Err(ReceiveError::DaemonAway)), "{received:?}");
    let sent = runtime().block_on(async {
        let mut sender = AsyncSender::new(sender).unwrap();
        within_patience(sender.send(&[7; 16])).await
    });
    assert!(matches!(sent, Err(SendError::DaemonAway)), "{sent:?}");
}

/// Promises 29 and 35.
#[test]
fn an_orderly_end_is_told_as_what_it_is_also_to_those_who_end_with_the_daemon() {
    let mut daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("full", &small());
    client.create("empty", &small()).unwrap();
    let (mut sender, mut receiver) = (sending(&daemon, "full"), receiving(&daemon, "empty"));
    sender.done("end_without_daemon");
    receiver.done("end_without_daemon");
    wait_for_room(&mut sender);
    receiver.tell("receive");
    wait_until("it sleeps", || receiver.sleeps());
    daemon.stop();
    assert_eq!(
        (sender.answer(), receiver.answer()),
        ("error Deleted".into(), "error Deleted".into())
    );
    sender.refused("send x", "Deleted");
    receiver.refused("receive", "Deleted");
}

#[test]
fn a_request_that_is_too_long_is_refused_and_the_session_goes_on() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client();
    let error = client.find("x".repeat(70_000).as_str()).expect_err("no such name");
    assert!(matches!(error, RequestError::Refused(Refusal::Protocol { .. })), "{error:?}");
    assert!(client.status().is_ok());
}

#[test]
fn a_sender_whose_session_is_over_says_so_and_loses_nothing() {
    let daemon = TestDaemon::start(&[]);
    let (client, other) = (daemon.client_with("orders", &small()), daemon.client());
    let mut receiver = client.receiver("orders").unwrap();
    let mut sender = other.sender("orders").unwrap();
    sender.send(b"before").unwrap();
    hang_up(&other);
    wait_until("the daemon has ended it", || client.status().unwrap().sessions == 1);
    let error = sender.try_send(b"after").expect_err("nobody would get it");
    assert!(matches!(error, TrySendError::DaemonAway), "{error:?}");
    assert_eq!(receiver.receive_deadline(patience()).unwrap().into_bytes(), b"before");
    assert!(matches!(receiver.try_receive(), Err(TryReceiveError::Empty)));
}

/// Has the daemon end a client's session, though its process lives.
fn hang_up(client: &Client) {
    use std::os::fd::AsRawFd;
    nix::sys::socket::shutdown(client.as_fd().as_raw_fd(), nix::sys::socket::Shutdown::Both)
        .expect("our own socket");
}

/// A daemon that has ended a session though its process lives has offered what that had in hand, and given its slot away.
#[test]
fn a_receiver_whose_session_is_over_says_so_and_leaves_its_slot_alone() {
    let daemon = TestDaemon::start(&[]);
    // One slot: whoever comes next has that of the one before.
    let options = small().receivers_max(1);
    let (client, other) = (daemon.client_with("orders", &options), daemon.client());
    let mut sender = client.sender("orders").unwrap();
    (0..3u16).for_each(|number| sender.send(&number.to_le_bytes()).unwrap());
    let mut old = other.receiver("orders").unwrap();
    let in_hand = old.receive_deadline(patience()).unwrap();
    assert_eq!(in_hand.bytes(), [0, 0]);
    hang_up(&other);
    wait_until("the daemon has ended it", || client.status().unwrap().sessions == 1);
    let mut new = client.receiver("orders").unwrap();
    let offered = new.receive_deadline(patience()).unwrap();
    assert_eq!((offered.bytes(), offered.attempts()), (&[0, 0][..], 1));
    // It is another's by now.
    in_hand.acknowledge();
    let error = old.try_receive().expect_err("the session is over");
    assert!(matches!(error, TryReceiveError::DaemonAway), "{error:?}");
    let error = old.receive().expect_err("the session is over");
    assert!(matches!(error, ReceiveError::DaemonAway), "{error:?}");
    drop(old);
    // The new one still holds it: the room is not the sender's, and a return brings it back.
    let mut sent = 3u16;
    while sender.try_send(&sent.to_le_bytes()).is_ok() {
        sent += 1;
    }
    offered.return_to_queue();
    let again = new.try_receive().unwrap();
    assert_eq!((again.bytes(), again.attempts()), (&[0, 0][..], 2));
    again.acknowledge();
    for number in 1..sent {
        assert_eq!(new.try_receive().unwrap().into_bytes(), number.to_le_bytes());
    }
    assert!(matches!(new.try_receive(), Err(TryReceiveError::Empty)));
}

#[test]
fn a_receiver_whose_session_is_over_offers_nothing_of_its_successors_when_it_goes() {
    let daemon = TestDaemon::start(&[]);
    let options = small().receivers_max(2);
    let (client, other) = (daemon.client_with("orders", &options), daemon.client());
    let mut sender = client.sender("orders").unwrap();
    (0..2u8).for_each(|number| sender.send(&[number]).unwrap());
    // Alone, it claims both of them at once.
    let mut old = other.receiver("orders").unwrap();
    assert_eq!(old.receive_deadline(patience()).unwrap().into_bytes(), [0]);
    let mut bystander = client.receiver("orders").unwrap();
    hang_up(&other);
    wait_until("the daemon has ended it", || client.status().unwrap().sessions == 1);
    let mut new = client.receiver("orders").unwrap();
    let in_hand = new.receive_deadline(patience()).unwrap();
    assert_eq!(in_hand.bytes(), [1]);
    drop(old);
    assert!(matches!(bystander.try_receive(), Err(TryReceiveError::Empty)), "it is in hand");
    in_hand.acknowledge();
    assert!(matches!(new.try_receive(), Err(TryReceiveError::Empty)));
}
