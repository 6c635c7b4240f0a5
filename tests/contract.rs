//! The promises of `docs/contract.md`, one by one. The number of each stands above its test.

use std::time::{Duration, Instant};

use libipc::{
    MailboxOptions, ReceiveError, Receiver, Refusal, RequestError, SendError, Sender,
    TryReceiveError, TrySendError,
};
use tests::{Child, Got, TestDaemon, UIDS, patience, program, skip_unless_root, wait_until};

/// A small mailbox: a lane of it holds 256 messages of up to 8 bytes.
fn small() -> MailboxOptions {
    MailboxOptions::new().capacity_bytes(4096).receivers_max(4).lanes_max(8)
}

fn received(receiver: &mut Receiver) -> Vec<u8> {
    receiver.receive_deadline(patience()).expect("a message").into_bytes()
}

fn fill(sender: &mut Sender) -> usize {
    let sent = std::iter::repeat_with(|| sender.try_send(&[7; 16])).take_while(Result::is_ok);
    sent.count()
}

fn refusal<T>(result: Result<T, RequestError>) -> Refusal {
    match result {
        Err(RequestError::Refused(refusal)) => refusal,
        Err(other) => panic!("no refusal: {other:?}"),
        Ok(_) => panic!("nothing was refused"),
    }
}

/// Promise 1.
#[test]
fn a_lane_takes_what_its_capacity_holds_and_then_says_that_it_is_full() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut sender = client.sender("orders").unwrap();
    assert_eq!(fill(&mut sender), 4096 / 32);
    assert!(matches!(sender.try_send(b""), Err(TrySendError::Full)));
    let mut other = client.sender("orders").unwrap();
    assert_eq!(fill(&mut other), 128, "each sender has a lane of its own");
    let mut receiver = client.receiver("orders").unwrap();
    drop(received(&mut receiver));
    wait_until("there is room again", || sender.try_send(b"one more").is_ok());
}

/// Promise 2.
#[test]
fn a_send_waits_for_room_and_a_deadline_withdraws_it_whole() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut receiver = client.receiver("orders").unwrap();
    let mut child = daemon.child();
    child.done("sender orders");
    for _ in 0..256 {
        child.done("send queued");
    }
    child.refused("send_within 20 late", "TimedOut");
    child.refused("try_send late", "Full");
    child.tell("send waited");
    wait_until("the sender sleeps", || child.sleeps());
    for _ in 0..256 {
        assert_eq!(received(&mut receiver), b"queued");
    }
    assert_eq!(child.answer(), "ok");
    assert_eq!(received(&mut receiver), b"waited");
    assert!(matches!(receiver.try_receive(), Err(TryReceiveError::Empty)));
}

/// Promise 3.
#[test]
fn a_receive_waits_for_a_message_and_a_deadline_ends_the_waiting() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut child = daemon.child();
    child.done("receiver orders");
    child.refused("try_receive", "Empty");
    child.refused("receive_within 20", "TimedOut");
    child.tell("receive");
    wait_until("the receiver sleeps", || child.sleeps());
    client.sender("orders").unwrap().send(b"at last").unwrap();
    assert_eq!(Got::parse(&child.answer()).text, "at last");
}

/// Promise 4.
#[test]
fn messages_have_any_length_from_nothing_to_the_capacity_less_16_bytes() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut sender = client.sender("orders").unwrap();
    let mut receiver = client.receiver("orders").unwrap();
    assert_eq!(sender.message_bytes_max(), 4080);
    let lens = (0..40).chain([127, 128, 129, 1000, 4079, 4080]);
    // Twice: the second time every record lies elsewhere in the ring.
    for len in lens.clone().chain(lens) {
        let message: Vec<u8> = (0..len).map(|i: usize| (i * 7 + len) as u8).collect();
        sender.send(&message).unwrap();
        assert_eq!(received(&mut receiver), message, "{len} bytes");
    }
    let error = sender.try_send(&[0; 4081]).unwrap_err();
    assert!(matches!(error, TrySendError::TooLong { len: 4081, max: 4080 }), "{error:?}");
    let error = sender.send(&[0; 5000]).unwrap_err();
    assert!(matches!(error, SendError::TooLong { len: 5000, max: 4080 }), "{error:?}");
    assert!(error.to_string().contains("4080"), "{error}");
    sender.send(b"goes on").unwrap();
    assert_eq!(received(&mut receiver), b"goes on");
}

/// Promise 5.
#[test]
fn messages_of_one_sender_are_received_in_the_order_in_which_they_were_sent() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut receiver = client.receiver("orders").unwrap();
    let mut senders = [daemon.child(), daemon.child(), daemon.child()];
    for (id, sender) in senders.iter_mut().enumerate() {
        sender.done("sender orders");
        sender.tell(&format!("send_numbered {id} 0 2000 24"));
    }
    let mut log = Vec::new();
    for _ in 0..6000 {
        let delivery = receiver.receive_deadline(patience()).unwrap();
        log.push(tests::numbered::read(delivery.bytes(), delivery.attempts()));
        delivery.acknowledge();
    }
    tests::numbered::check_order(&log);
    let census = tests::numbered::Census::of(&[log]);
    for (id, sender) in senders.iter_mut().enumerate() {
        census.check_exactly_once(id as u32, 2000);
        assert_eq!(sender.answer(), "ok");
    }
}

/// Promise 6.
#[test]
fn each_message_goes_to_exactly_one_of_the_competing_receivers() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let log = |index: usize| daemon.folder().join(format!("log{index}"));
    let mut receivers = [daemon.child(), daemon.child(), daemon.child()];
    for (index, receiver) in receivers.iter_mut().enumerate() {
        receiver.done("receiver orders");
        receiver.tell(&format!("drain {}", log(index).display()));
    }
    let mut sender = daemon.child();
    sender.done("sender orders");
    sender.done("send_numbered 1 0 5000 40");
    client.close("orders").unwrap();
    for receiver in &mut receivers {
        assert!(receiver.answer().starts_with("ok"));
    }
    let logs: Vec<_> = (0..3).map(|index| tests::numbered::read_log(&log(index))).collect();
    logs.iter().for_each(|log| tests::numbered::check_order(log));
    tests::numbered::Census::of(&logs).check_exactly_once(1, 5000);
}

/// Promise 7.
#[test]
fn a_delivery_tells_its_senders_pid_uid_and_gid_as_the_kernel_attests_them() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small().mode(0o622));
    let mut receiver = client.receiver("orders").unwrap();
    let mut senders = vec![(daemon.child(), nix::unistd::geteuid().as_raw())];
    if !skip_unless_root("senders of two other uids") {
        senders.extend(UIDS.map(|uid| (daemon.child_as(uid), uid)));
    }
    for (sender, uid) in &mut senders {
        sender.done("sender orders");
        sender.done("send me");
        let delivery = receiver.receive_deadline(patience()).unwrap();
        let identity = delivery.sender();
        delivery.acknowledge();
        assert_eq!((identity.pid, identity.uid), (sender.pid(), *uid));
        assert_eq!(identity.gid, *uid, "the tests give each uid the gid of the same number");
    }
}

/// Promise 8.
#[test]
fn what_was_sent_is_received_after_its_senders_death_with_its_name_on_it() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut sender = daemon.child();
    let pid = sender.pid();
    sender.done("sender orders");
    sender.done("send first");
    sender.done("send last");
    sender.kill();
    let mut early = client.receiver("orders").unwrap();
    assert_eq!(early.receive_deadline(patience()).unwrap().into_bytes(), b"first");
    wait_until("the daemon has noticed", || client.show("orders").unwrap().summary.senders == 0);
    let delivery = early.receive_deadline(patience()).unwrap();
    assert_eq!((delivery.bytes(), delivery.sender().pid), (&b"last"[..], pid));
    delivery.acknowledge();
    wait_until("the lane is given back", || {
        let _ = early.try_receive();
        daemon.status(&client).usage.lanes == 0
    });
}

/// Promise 9.
#[test]
fn a_closed_mailbox_takes_nothing_new_drains_and_then_tells_its_receivers() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut sender = client.sender("orders").unwrap();
    let mut receiver = client.receiver("orders").unwrap();
    sender.send(b"before").unwrap();
    client.close("orders").unwrap();
    assert!(matches!(sender.try_send(b"after"), Err(TrySendError::Closed)));
    assert!(matches!(sender.send(b"after"), Err(SendError::Closed)));
    assert!(matches!(refusal(client.sender("orders")), Refusal::Closed { .. }));
    assert_eq!(received(&mut receiver), b"before");
    assert!(matches!(receiver.try_receive(), Err(TryReceiveError::Closed)));
    assert!(matches!(receiver.receive(), Err(ReceiveError::Closed)));
    client.open("orders").unwrap();
    assert!(matches!(receiver.try_receive(), Err(TryReceiveError::Empty)));
    sender.send(b"again").unwrap();
    assert_eq!(received(&mut receiver), b"again");
}

/// Promise 10.
#[test]
fn closing_wakes_a_blocked_sender_and_a_blocked_receiver() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("full", &small());
    client.create("empty", &small()).unwrap();
    let (mut sender, mut receiver) = blocked_ends(&daemon);
    client.close("full").unwrap();
    client.close("empty").unwrap();
    assert_eq!(sender.answer(), "error Closed");
    assert_eq!(receiver.answer(), "error Closed");
}

/// Promise 11.
#[test]
fn deleting_tells_a_blocked_sender_and_a_blocked_receiver_at_once() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("full", &small());
    client.create("empty", &small()).unwrap();
    let (mut sender, mut receiver) = blocked_ends(&daemon);
    assert_eq!(client.delete("full").unwrap(), 256, "what was queued is counted");
    assert_eq!(client.delete("empty").unwrap(), 0);
    assert_eq!(sender.answer(), "error Deleted");
    assert_eq!(receiver.answer(), "error Deleted");
    sender.refused("try_send more", "Deleted");
    receiver.refused("try_receive", "Deleted");
    // The name is free, and the old ends do not reach the new mailbox.
    client.create("empty", &small()).unwrap();
    receiver.refused("try_receive", "Deleted");
}

/// A sender that sleeps since the mailbox `full` is, and a receiver that sleeps since `empty` is.
fn blocked_ends(daemon: &TestDaemon) -> (Child, Child) {
    let (mut sender, mut receiver) = (daemon.child(), daemon.child());
    sender.done("sender full");
    for _ in 0..256 {
        sender.done("try_send queued");
    }
    sender.tell("send waits");
    receiver.done("receiver empty");
    receiver.tell("receive");
    wait_until("both sleep", || sender.sleeps() && receiver.sleeps());
    (sender, receiver)
}

/// Promise 12.
#[test]
fn a_returned_delivery_comes_again_and_says_so() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    client.sender("orders").unwrap().send(b"hot").unwrap();
    let mut receiver = client.receiver("orders").unwrap();
    let delivery = receiver.receive_deadline(patience()).unwrap();
    assert_eq!(delivery.attempts(), 0);
    delivery.return_to_queue();
    // Dropping is returning.
    for attempts in 1..4 {
        let delivery = receiver.receive_deadline(patience()).unwrap();
        assert_eq!((delivery.bytes(), delivery.attempts()), (&b"hot"[..], attempts));
        drop(delivery);
    }
    let mut other = client.receiver("orders").unwrap();
    let delivery = other.receive_deadline(patience()).unwrap();
    assert_eq!((delivery.bytes(), delivery.attempts()), (&b"hot"[..], 4));
    delivery.acknowledge();
    assert!(matches!(receiver.try_receive(), Err(TryReceiveError::Empty)));
}

/// Promise 13.
#[test]
fn receiver_killed_with_a_delivery_in_hand_gets_it_redelivered_once_and_marked() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut sender = client.sender("orders").unwrap();
    sender.send(b"precious").unwrap();
    let mut victim = daemon.child();
    victim.done("receiver orders");
    assert_eq!(victim.got("hold").attempts, 0);
    let mut heir = daemon.child();
    heir.done("receiver orders");
    heir.tell("receive");
    wait_until("the heir sleeps", || heir.sleeps());
    victim.kill();
    let got = Got::parse(&heir.answer());
    assert_eq!((got.text.as_str(), got.attempts), ("precious", 1));
    heir.refused("try_receive", "Empty");
    sender.send(b"next").unwrap();
    assert_eq!(heir.got("receive").attempts, 0, "the mark does not stay");
}

/// Promise 14.
#[test]
fn a_mailbox_for_one_receiver_refuses_the_second_and_its_successor_gets_what_was_in_hand() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small().receivers_max(1));
    let mut sender = client.sender("orders").unwrap();
    for text in ["one", "two", "three"] {
        sender.send(text.as_bytes()).unwrap();
    }
    let mut first = daemon.child();
    first.done("receiver orders");
    let refused = refusal(client.receiver("orders"));
    assert!(matches!(refused, Refusal::MailboxFull { limit: 1, .. }), "{refused:?}");
    assert_eq!(first.got("receive").text, "one");
    assert_eq!(first.got("hold").text, "two");
    first.kill();
    let mut second = daemon.child();
    wait_until("the place is free", || second.ask("receiver orders") == "ok");
    let got = second.got("receive_within 60000");
    assert_eq!((got.text.as_str(), got.attempts), ("two", 1));
    assert_eq!(second.got("receive_within 60000").text, "three");
    second.refused("try_receive", "Empty");
}

/// Promise 15.
#[test]
fn capacities_reach_from_4_kib_to_1_gib_and_others_are_refused_with_the_limits() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client();
    for bytes in [2048, 2 << 30] {
        let result = client.create("odd", &MailboxOptions::new().capacity_bytes(bytes));
        let Refusal::InvalidAttribute { allowed, value, .. } = refusal(result) else {
            panic!("another refusal")
        };
        assert_eq!(value, bytes);
        assert!(allowed.contains("4096") && allowed.contains("1073741824"), "{allowed}");
    }
    for bytes in [4096, 1 << 30] {
        let name = format!("m{bytes}");
        client.create(&name, &small().capacity_bytes(bytes)).unwrap();
        let mut sender = client.sender(&name).unwrap();
        assert_eq!(sender.message_bytes_max() as u64, bytes - 16);
        sender.send(b"small").unwrap();
        assert_eq!(received(&mut client.receiver(&name).unwrap()), b"small");
    }
    let resident = daemon.status(&client).resident_bytes;
    assert!(resident < 8 << 20, "{resident} bytes are resident: only what is used may be");
}

/// Promise 15, in bulk.
#[test]
fn a_message_of_256_mib_arrives_whole() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("big", &small().capacity_bytes(256 << 20));
    let mut sender = client.sender("big").unwrap();
    let mut message: Vec<u8> = vec![0x5a; sender.message_bytes_max()];
    for (index, page) in message.chunks_mut(4096).enumerate() {
        page[..4].copy_from_slice(&(index as u32).to_le_bytes());
    }
    sender.send(&message).unwrap();
    assert!(received(&mut client.receiver("big").unwrap()) == message);
}

/// Promise 16.
#[test]
fn a_child_of_fork_is_refused_everywhere_and_cannot_break_its_parents_lanes() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut parent = daemon.child();
    parent.done("sender orders");
    parent.done("receiver orders");
    parent.done("polled");
    parent.done("send before");
    let said = parent.done("fork");
    let answers: Vec<_> = said.split('|').collect();
    assert_eq!(answers[..3], ["Forked", "Forked", "Forked"], "{said}");
    assert!(answers[3].starts_with("ForeignSession"), "{said}");
    assert_eq!(answers[4], "allowed", "the child connects anew: {said}");
    assert_eq!(parent.got("receive").text, "before");
    parent.done("send after");
    assert_eq!(parent.got("receive").text, "after");
    let summary = client.show("orders").unwrap().summary;
    assert_eq!((summary.senders, summary.receivers), (1, 1));
}

/// Promise 17.
#[test]
fn a_mailbox_and_what_is_in_it_outlive_all_who_use_it() {
    let daemon = TestDaemon::start(&[]);
    {
        let client = daemon.client_with("orders", &small());
        client.sender("orders").unwrap().send(b"for later").unwrap();
    }
    let client = daemon.client();
    wait_until("the first session is over", || daemon.status(&client).sessions == 1);
    assert_eq!(received(&mut client.receiver("orders").unwrap()), b"for later");
}

/// Promise 18.
#[test]
fn an_observer_sees_what_waits_and_takes_nothing() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut sender = client.sender("orders").unwrap();
    sender.send(b"one").unwrap();
    sender.send(b"two").unwrap();
    let mut observer = client.observer("orders").unwrap();
    for _ in 0..2 {
        let peeked = observer.peek(10).unwrap();
        let texts: Vec<_> = peeked.iter().map(|peeked| peeked.bytes.as_slice()).collect();
        assert_eq!(texts, [b"one", b"two"]);
        assert_eq!(peeked[0].sender.pid, std::process::id());
    }
    let mut receiver = client.receiver("orders").unwrap();
    // The only receiver may claim more than it hands out at once.
    assert_eq!(received(&mut receiver), b"one");
    assert!(observer.peek(10).unwrap().iter().all(|peeked| peeked.bytes == b"two"));
    assert_eq!(received(&mut receiver), b"two");
}

/// Promise 19.
#[test]
fn names_that_are_taken_missing_or_none_are_refused_by_name() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let exists = refusal(client.create("orders", &small()));
    assert_eq!(exists, Refusal::AlreadyExists { name: "orders".into() });
    let missing = Refusal::NoSuchMailbox { name: "nothing".into() };
    assert_eq!(refusal(client.sender("nothing")), missing);
    assert_eq!(refusal(client.receiver("nothing")), missing);
    assert_eq!(refusal(client.delete("nothing")), missing);
    assert_eq!(refusal(client.close("nothing")), missing);
    for bad in ["", "sp ace", "-option", "new\nline", &"x".repeat(201)] {
        assert!(matches!(refusal(client.create(bad, &small())), Refusal::InvalidName { .. }));
    }
}

/// Promise 20.
#[test]
fn an_idle_mailbox_with_one_lane_has_at_most_64_kib_resident() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &MailboxOptions::new());
    let mut sender = client.sender("orders").unwrap();
    let mut receiver = client.receiver("orders").unwrap();
    sender.send(b"one").unwrap();
    assert_eq!(received(&mut receiver), b"one");
    let resident = daemon.status(&client).resident_bytes;
    assert!(resident <= 64 << 10, "{resident} bytes are resident");
}

/// Promise 21.
#[test]
fn users_without_a_system_daemon_get_one_private_daemon_on_first_use() {
    let folder = tempfile::tempdir().unwrap();
    let environment = || {
        let runtime = ("XDG_RUNTIME_DIR", folder.path().to_owned());
        [runtime, ("IPCD_PROGRAM", program("ipcd"))]
    };
    if std::path::Path::new(libipc::protocol::SYSTEM_SOCKET).exists() {
        println!("SKIPPED: a system daemon runs here, so no private one is started");
        return;
    }
    let start = || Child::start_alone(&program("misbehave"), environment());
    // Both are at it before either has answered.
    let (mut one, mut other) = (start(), start());
    assert_eq!((one.answer().as_str(), other.answer().as_str()), ("ok", "ok"));
    let daemon = Stopped(nix::unistd::Pid::from_raw(one.done("status").parse().unwrap()));
    assert_eq!(other.done("status"), daemon.0.to_string(), "both talk to the same daemon");
    one.done("create orders");
    one.done("sender orders");
    one.done("send to my other half");
    other.done("receiver orders");
    assert_eq!(other.got("receive").text, "to my other half");
    drop(daemon);
    let socket = folder.path().join(libipc::protocol::PRIVATE_SOCKET);
    wait_until("the private daemon has gone", || !socket.exists());
    other.refused("try_receive", "Deleted");
}

/// A private daemon, which is no child of ours; asked to stop when dropped.
struct Stopped(nix::unistd::Pid);

impl Drop for Stopped {
    fn drop(&mut self) {
        // It may have stopped already.
        let _ = nix::sys::signal::kill(self.0, nix::sys::signal::Signal::SIGTERM);
    }
}

/// Promise 22.
#[test]
fn ends_that_are_dropped_are_closed_and_their_places_are_free() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small().lanes_max(1).receivers_max(1));
    // The uid's first lane brings a doorstep, which stays as long as the mailbox.
    drop(client.sender("orders").unwrap());
    let before = daemon.status_alone(&client);
    for _ in 0..3 {
        let (mut sender, mut receiver) =
            (client.sender("orders").unwrap(), client.receiver("orders").unwrap());
        let refused = refusal(client.sender("orders"));
        assert!(matches!(refused, Refusal::MailboxFull { limit: 1, .. }), "{refused:?}");
        let deadline = Instant::now() + Duration::from_secs(60);
        sender.send_deadline(b"x", deadline).unwrap();
        drop(sender);
        drop(received(&mut receiver));
    }
    let after = daemon.status(&client);
    assert_eq!((after.usage, after.descriptors), (before.usage, before.descriptors));
}

#[test]
fn each_promise_names_tests_that_exist() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let contract = std::fs::read_to_string(folder.join("../docs/contract.md")).unwrap();
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let sources = files.filter(|file| file.extension().is_some_and(|end| end == "rs"));
    let tests: String = sources.map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let is_test = |name: &&str| name.matches('_').count() > 2 && !name.contains('/');
    let named: Vec<_> = contract.split('`').filter(is_test).collect();
    assert!(named.len() > 20, "{named:?}");
    for name in named {
        assert!(tests.contains(&format!("fn {name}()")), "no test is called {name}");
    }
    let numbers = (1..=30).chain(61..=66);
    for number in numbers {
        let promise = format!("\n{number}. ");
        assert_eq!(contract.matches(&promise).count(), 1, "promise {number} stands there once");
    }
}
