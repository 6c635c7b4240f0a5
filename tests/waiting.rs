//! Waiting elsewhere than in a call: on descriptors, on many mailboxes at once, in futures.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use libipc::{
    Client, MailboxOptions, Receiver, Sender, TryReceiveError, TrySendError, WaitError, WaitSet,
    Waitable,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tests::numbered::{Census, check_order, read_log};
use tests::{Dice, TestDaemon, is_asleep, patience, seed, wait_until};

/// A small mailbox: a lane of it holds 256 messages of up to 8 bytes.
fn small() -> MailboxOptions {
    MailboxOptions::new().capacity_bytes(4096).receivers_max(8).lanes_max(8)
}

/// Whether a descriptor is readable now.
fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).expect("a descriptor to poll") == 1
}

/// Waits until a descriptor is readable.
fn await_readable(fd: BorrowedFd<'_>) {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(tests::PATIENCE).expect("a minute");
    assert_eq!(poll(&mut fds, timeout).expect("a descriptor to poll"), 1, "never readable");
}

fn is_empty(receiver: &mut Receiver) -> bool {
    matches!(receiver.try_receive(), Err(TryReceiveError::Empty))
}

fn take(receiver: &mut Receiver) -> Vec<u8> {
    receiver.try_receive().expect("a message").into_bytes()
}

fn fill(sender: &mut Sender) -> usize {
    std::iter::repeat_with(|| sender.try_send(&[7; 16])).take_while(Result::is_ok).count()
}

/// Promise 31.
#[test]
fn a_receivers_descriptor_is_readable_until_it_has_found_nothing_and_again_when_there_is_news() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut receiver = client.receiver("orders").unwrap();
    let mut sender = client.sender("orders").unwrap();
    let fd = receiver.poll_fd().unwrap().try_clone_to_owned().unwrap();
    assert!(is_readable(fd.as_fd()), "nobody has looked yet");
    assert!(is_empty(&mut receiver));
    // The sender's opening is news of a kind: one wake-up.
    wait_until("it is quiet", || is_empty(&mut receiver) && !is_readable(fd.as_fd()));
    for round in 0..3u8 {
        sender.try_send(&[round]).unwrap();
        sender.try_send(&[round, round]).unwrap();
        await_readable(fd.as_fd());
        assert!(is_readable(fd.as_fd()), "nothing was read");
        assert_eq!(take(&mut receiver), [round]);
        assert!(is_readable(fd.as_fd()), "there is more");
        assert_eq!(take(&mut receiver), [round, round]);
        assert!(is_readable(fd.as_fd()), "it has not been told that there is no more");
        assert!(is_empty(&mut receiver));
        assert!(!is_readable(fd.as_fd()), "nothing is there");
        assert!(is_empty(&mut receiver), "asking again changes nothing");
        assert!(!is_readable(fd.as_fd()));
    }
    client.close("orders").unwrap();
    await_readable(fd.as_fd());
    assert!(matches!(receiver.try_receive(), Err(TryReceiveError::Closed)));
    assert!(is_readable(fd.as_fd()), "it stays closed");
    client.open("orders").unwrap();
    wait_until("it is quiet", || is_empty(&mut receiver) && !is_readable(fd.as_fd()));
    client.delete("orders").unwrap();
    await_readable(fd.as_fd());
    assert!(matches!(receiver.try_receive(), Err(TryReceiveError::Deleted)));
}

/// Promise 31.
#[test]
fn a_senders_descriptor_is_readable_again_when_there_may_be_room() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut receiver = client.receiver("orders").unwrap();
    let mut sender = client.sender("orders").unwrap();
    let fd = sender.poll_fd().unwrap().try_clone_to_owned().unwrap();
    assert!(is_readable(fd.as_fd()), "there is room");
    assert_eq!(fill(&mut sender), 128);
    wait_until("it is quiet", || {
        matches!(sender.try_send(&[7; 16]), Err(TrySendError::Full)) && !is_readable(fd.as_fd())
    });
    for _ in 0..128 {
        drop(take(&mut receiver));
    }
    await_readable(fd.as_fd());
    sender.try_send(&[7; 16]).unwrap();
    assert!(is_readable(fd.as_fd()), "it has not been told that it is full");
    fill(&mut sender);
    client.close("orders").unwrap();
    await_readable(fd.as_fd());
    assert!(matches!(sender.try_send(b""), Err(TrySendError::Closed)));
}

/// A lane that holds one message at a time: every message needs both sides to wake each other.
fn one_record() -> MailboxOptions {
    MailboxOptions::new().capacity_bytes(4 << 10).receivers_max(16).lanes_max(16)
}

const FILLS_A_LANE: usize = 4080;

fn numbers(answer: &str) -> Vec<u64> {
    let rest = answer.strip_prefix("ok ").unwrap_or_else(|| panic!("{answer}"));
    rest.split(' ').map(|word| word.parse().unwrap_or_else(|_| panic!("{answer}"))).collect()
}

/// Each sender and receiver is a process, told with which command to send or to drain.
fn crowd(daemon: &TestDaemon, senders: &[&str], receivers: &[&str], messages: u64) {
    let client = daemon.client_with("crowded", &one_record());
    let open = |role: &str| {
        let mut child = daemon.child();
        child.done(&format!("{role} crowded"));
        child.done("never_spin");
        child
    };
    let log = |index: usize| daemon.folder().join(format!("log{index}"));
    let mut drains: Vec<_> = receivers.iter().map(|_| open("receiver")).collect();
    let mut sends: Vec<_> = senders.iter().map(|_| open("sender")).collect();
    for (index, (child, verb)) in drains.iter_mut().zip(receivers).enumerate() {
        child.tell(&format!("{verb} {}", log(index).display()));
    }
    for (id, (child, verb)) in sends.iter_mut().zip(senders).enumerate() {
        child.tell(&format!("{verb} {id} 0 {messages} {FILLS_A_LANE}"));
    }
    for (child, verb) in sends.iter_mut().zip(senders) {
        let answer = child.slow_answer();
        assert!(answer.starts_with("ok"), "{answer}");
        if *verb == "send_numbered_polled" {
            let [wakes, refusals] = numbers(&answer)[..] else { panic!("{answer}") };
            assert!(wakes <= refusals, "a wake-up without an answer before it: {answer}");
        }
    }
    client.close("crowded").expect("ours to close");
    for (child, verb) in drains.iter_mut().zip(receivers) {
        let answer = child.slow_answer();
        println!("{verb}: {answer}");
        if *verb == "drain_polled" {
            let [_, wakes, empties] = numbers(&answer)[..] else { panic!("{answer}") };
            assert!(wakes <= empties + 1, "more than one wake-up an arming: {answer}");
        }
    }
    let logs: Vec<_> = (0..receivers.len()).map(|index| read_log(&log(index))).collect();
    logs.iter().for_each(|log| check_order(log));
    let census = Census::of(&logs);
    for id in 0..senders.len() {
        census.check_exactly_once(id as u32, messages);
    }
    client.delete("crowded").expect("ours to delete");
    for index in 0..receivers.len() {
        std::fs::remove_file(log(index)).expect("a log");
    }
}

/// Promise 32.
#[test]
fn no_wake_up_is_lost_between_one_sender_and_one_receiver_that_polls() {
    let daemon = TestDaemon::start(&[]);
    crowd(&daemon, &["send_numbered"], &["drain_polled"], 10_000);
    crowd(&daemon, &["send_numbered_polled"], &["drain"], 10_000);
    crowd(&daemon, &["send_numbered_polled"], &["drain_polled"], 10_000);
}

/// Promise 32.
#[test]
fn no_wake_up_is_lost_among_competitors_that_poll_and_that_sleep() {
    let daemon = TestDaemon::start(&[]);
    let senders =
        ["send_numbered", "send_numbered_polled", "send_numbered", "send_numbered_polled"];
    let receivers = ["drain_polled", "drain", "drain_polled", "drain"];
    crowd(&daemon, &senders, &receivers, 4_000);
    crowd(&daemon, &["send_numbered"], &receivers, 8_000);
}

/// Promise 32.
#[test]
fn no_wake_up_is_lost_to_those_who_poll_where_the_kernel_refuses_the_barrier() {
    let daemon = TestDaemon::start(&["--no-barrier"]);
    crowd(&daemon, &["send_numbered", "send_numbered_polled"], &["drain_polled", "drain"], 4_000);
}

/// Promise 32.
#[test]
fn a_message_does_not_wait_for_a_slow_event_loop_while_another_receiver_sleeps() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let mut sender = client.sender("orders").unwrap();
    let mut slow = client.receiver("orders").unwrap();
    let fd = slow.poll_fd().unwrap().try_clone_to_owned().unwrap();
    let mut child = daemon.child();
    child.done("receiver orders");
    // A round tells something if the one that polls was woken first, as it is if its watcher lay down first.
    let (mut round, mut rounds_that_tell) = (0, 0);
    while rounds_that_tell < 10 {
        wait_until("it is quiet", || is_empty(&mut slow) && !is_readable(fd.as_fd()));
        child.tell("receive");
        wait_until("the other receiver sleeps", || child.sleeps());
        let text = format!("round {round}");
        sender.try_send(text.as_bytes()).unwrap();
        assert!(child.answer().ends_with(&text));
        rounds_that_tell += u32::from(is_readable(fd.as_fd()));
        round += 1;
    }
}

/// Promise 31.
#[test]
fn any_number_of_receivers_is_watched_by_more_threads_than_one_if_need_be() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("first", &small());
    let count = 150;
    let names: Vec<_> = (0..count).map(|index| format!("box/{index}")).collect();
    let mut ends: Vec<(Receiver, Sender)> = Vec::new();
    for name in &names {
        client.create(name, &small()).unwrap();
        let sender = client.sender(name).unwrap();
        let mut receiver = client.receiver(name).unwrap();
        receiver.poll_fd().unwrap();
        ends.push((receiver, sender));
    }
    for (receiver, _) in &mut ends {
        wait_until("it is quiet", || {
            is_empty(receiver) && !is_readable(receiver.poll_fd().unwrap())
        });
    }
    let mut dice = Dice::new(seed());
    for _ in 0..2_000 {
        let (receiver, sender) = &mut ends[dice.below(count) as usize];
        sender.try_send(b"news").unwrap();
        await_readable(receiver.poll_fd().unwrap());
        assert_eq!(take(receiver), b"news");
        if dice.below(4) > 0 {
            assert!(is_empty(receiver));
        }
    }
}

fn sources(receivers: &mut [Receiver]) -> Vec<&mut dyn Waitable> {
    receivers.iter_mut().map(|receiver| receiver as &mut dyn Waitable).collect()
}

fn many(client: &Client, count: usize) -> (Vec<Receiver>, Vec<Sender>) {
    let names = (0..count).map(|index| format!("box/{index}"));
    names
        .map(|name| {
            client.create(&name, &small()).expect("a mailbox");
            let sender = client.sender(&name).expect("it is there");
            (client.receiver(&name).expect("it is there"), sender)
        })
        .unzip()
}

/// Promise 33.
#[test]
fn a_wait_on_many_tells_which_are_ready_whichever_that_is() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client();
    let (mut receivers, senders) = many(&client, 12);
    let mut dice = Dice::new(seed());
    let rounds = 4_000;
    let (tell, told) = std::sync::mpsc::channel::<usize>();
    let (done, acknowledged) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut senders = senders;
            for index in told {
                senders[index].try_send(&[index as u8]).unwrap();
                acknowledged.recv().unwrap();
            }
        });
        let mut set = WaitSet::new();
        for round in 0..rounds {
            if round == rounds / 2 {
                set.set_spin_max(Duration::ZERO);
            }
            let index = dice.below(12) as usize;
            tell.send(index).unwrap();
            let ready = loop {
                let mut sources = sources(&mut receivers);
                let ready = set.wait_deadline(&mut sources, patience()).unwrap();
                assert!(!ready.is_empty());
                if let Some(&found) = ready.iter().find(|&&found| found == index) {
                    break found;
                }
            };
            assert_eq!(take(&mut receivers[ready]), [index as u8]);
            done.send(()).unwrap();
        }
        drop(tell);
    });
}

/// Promise 33.
#[test]
fn a_wait_on_many_ends_with_its_deadline_with_a_closing_and_with_a_deletion() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client();
    let (mut receivers, mut senders) = many(&client, 3);
    let mut set = WaitSet::new();
    let soon = Instant::now() + Duration::from_millis(20);
    let late = set.wait_deadline(&mut sources(&mut receivers), soon).unwrap_err();
    assert_eq!(late, WaitError::TimedOut);
    assert!(Instant::now() >= soon);
    assert_eq!(set.wait(&mut []).unwrap_err(), WaitError::NoSources);
    std::thread::scope(|scope| {
        scope.spawn(|| client.close("box/1").unwrap());
        assert_eq!(set.wait_deadline(&mut sources(&mut receivers), patience()).unwrap(), [1]);
    });
    assert!(matches!(receivers[1].try_receive(), Err(TryReceiveError::Closed)));
    receivers.remove(1);
    std::thread::scope(|scope| {
        scope.spawn(|| client.delete("box/2").unwrap());
        assert_eq!(set.wait_deadline(&mut sources(&mut receivers), patience()).unwrap(), [1]);
    });
    assert!(matches!(receivers[1].try_receive(), Err(TryReceiveError::Deleted)));
    receivers.remove(1);
    // Who serves only the first that is named serves all.
    let other = client.receiver("box/0").unwrap();
    fill(&mut senders[0]);
    receivers.push(other);
    let firsts: Vec<_> = (0..4).map(|_| set.look(&mut sources(&mut receivers))[0]).collect();
    assert!(firsts == [0, 1, 0, 1] || firsts == [1, 0, 1, 0], "{firsts:?}");
}

/// Promise 33.
#[test]
fn a_wait_on_many_takes_senders_that_wait_for_room_too() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client();
    let (mut receivers, mut senders) = many(&client, 2);
    for sender in &mut senders {
        assert_eq!(fill(sender), 128);
    }
    let mut set = WaitSet::new();
    let [first, second] = &mut senders[..] else { panic!("two") };
    let soon = Instant::now() + Duration::from_millis(20);
    assert_eq!(set.wait_deadline(&mut [first, second], soon), Err(WaitError::TimedOut));
    std::thread::scope(|scope| {
        scope.spawn(|| drop(take(&mut receivers[1])));
        let ready = set.wait_deadline(&mut [first, second], patience()).unwrap();
        assert_eq!(ready, [1]);
    });
    second.try_send(&[7; 16]).unwrap();
}

/// Threads of this process that sleep for a wait on very many.
fn companions() -> usize {
    let names = std::fs::read_dir("/proc/self/task").expect("our threads").flatten();
    let names = names.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| name.trim_end() == "ipc-companion").count()
}

/// Promise 33.
#[test]
fn a_wait_on_more_words_than_the_kernel_watches_in_one_sleep_is_one_all_the_same() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client();
    let (mut receivers, mut senders) = many(&client, 300);
    let mut set = WaitSet::new();
    set.set_spin_max(Duration::ZERO);
    for (count, threads) in [(128, 0), (129, 1), (300, 2), (200, 2)] {
        let receivers = &mut receivers[..count];
        let soon = Instant::now() + Duration::from_millis(20);
        let timed_out = set.wait_deadline(&mut sources(receivers), soon).map(drop);
        assert_eq!(timed_out, Err(WaitError::TimedOut), "{count}");
        assert_eq!(companions(), threads, "{count}");
        // Whichever part of them it is in whose words something changes.
        for woken in [0, 126, 127, count - 1] {
            let us = nix::unistd::gettid();
            let sender = &mut senders[woken];
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    wait_until("it sleeps", || is_asleep(us.as_raw().cast_unsigned()));
                    sender.try_send(b"found").unwrap();
                });
                let ready = set.wait_deadline(&mut sources(receivers), patience());
                assert_eq!(ready.unwrap(), [woken], "{count}");
            });
            receivers[woken].try_receive().unwrap().acknowledge();
        }
    }
    drop(set);
    wait_until("their threads end with the set", || companions() == 0);
}

/// Promise 33.
#[test]
fn no_wake_up_is_lost_between_processes_that_wait_on_many() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client();
    let names = ["red", "green", "blue"];
    names.iter().for_each(|name| client.create(name, &one_record()).unwrap());
    let log = |index: usize| daemon.folder().join(format!("log{index}"));
    let mut waiters: Vec<_> = (0..2).map(|_| daemon.child()).collect();
    for (index, child) in waiters.iter_mut().enumerate() {
        child.tell(&format!("drain_set {} red green blue", log(index).display()));
    }
    let mut senders: Vec<_> = (0..6).map(|_| daemon.child()).collect();
    for (id, child) in senders.iter_mut().enumerate() {
        child.done(&format!("sender {}", names[id % 3]));
        child.done("never_spin");
        child.tell(&format!("send_numbered {id} 0 3000 {FILLS_A_LANE}"));
    }
    senders.iter_mut().for_each(|child| assert_eq!(child.slow_answer(), "ok"));
    names.iter().for_each(|name| client.close(name).unwrap());
    waiters.iter_mut().for_each(|child| assert_eq!(numbers(&child.slow_answer()).len(), 1));
    let logs: Vec<_> = (0..2).map(|index| read_log(&log(index))).collect();
    logs.iter().for_each(|log| check_order(log));
    let census = Census::of(&logs);
    (0..6).for_each(|id| census.check_exactly_once(id, 3_000));
}
