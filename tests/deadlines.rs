//! Operations that need the daemon while none answers: each ends at its deadline, nothing is asked twice, and once the
//! daemon is back everything is as if nobody had given up.

use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use libipc::tokio::{AsyncReceiver, AsyncSender};
use libipc::{
    Buffering, CallError, Client, MailboxOptions, ReceiveError, Receiver, ReplyError, SendError,
    SendToError, Sender, SlowGroup, TryReceiveError, TrySendError, WaitError, WaitSet,
};
use tests::{Absence, Baseline, Dice, PATIENCE, TestDaemon, patience, seed, wait_until};

/// How a daemon can be away: it stands still, or it is dead and another is yet to come.
const WAYS: [fn(&TestDaemon) -> Absence; 2] = [TestDaemon::stand_still, TestDaemon::stay_dead];

/// A lane of it holds 256 messages of up to 8 bytes.
fn small() -> MailboxOptions {
    MailboxOptions::new().capacity_bytes(4096).receivers_max(4).lanes_max(64)
}

fn unbounded() -> MailboxOptions {
    small().buffering(Buffering::Unbounded)
}

/// An operation that ends with its deadline: not before it, and with this error.
#[track_caller]
fn times_out<T: Debug, E: Debug>(
    operation: impl FnOnce(Instant) -> Result<T, E>,
    is_time_out: impl FnOnce(&E) -> bool,
) {
    let deadline = Instant::now() + Duration::from_millis(20);
    let error = operation(deadline).expect_err("nobody could do it");
    assert!(is_time_out(&error), "{error:?}");
    assert!(Instant::now() >= deadline, "it has given up too early");
}

/// A daemon, a session with it, and a mailbox `orders`.
struct Stage {
    daemon: TestDaemon,
    client: Client,
    before: Baseline,
}

impl Stage {
    fn new(options: &MailboxOptions) -> Self {
        let daemon = TestDaemon::start_kept(&[]);
        let client = daemon.client();
        let before = Baseline::take(&daemon, &client);
        client.create("orders", options).expect("a mailbox");
        Self { daemon, client, before }
    }

    /// Deletes the mailbox, and holds that nothing else is left.
    fn end(self) {
        self.client.delete("orders").expect("ours to delete");
        self.before.check(&self.daemon, &self.client);
    }
}

fn send(sender: &mut Sender, number: u64) -> Result<(), SendError> {
    sender.send_deadline(&number.to_le_bytes(), patience())
}

/// Sends numbers from `first` on until the lane is full; says which was not sent.
fn fill(sender: &mut Sender, first: u64) -> u64 {
    let mut next = first;
    loop {
        match sender.try_send(&next.to_le_bytes()) {
            Ok(()) => next += 1,
            Err(TrySendError::Full) => return next,
            Err(other) => panic!("{other:?}"),
        }
    }
}

fn receive(receiver: &mut Receiver) -> Vec<u8> {
    receiver.receive_deadline(patience()).expect("a message").into_bytes()
}

fn receive_number(receiver: &mut Receiver, number: u64) {
    assert_eq!(receive(receiver), number.to_le_bytes());
}

fn lanes(client: &Client) -> u64 {
    client.status().expect("a status").usage.lanes
}

/// A thread that does something, and sleeps over it by now.
fn asleep<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let (tell, told) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        tell.send(nix::unistd::gettid()).expect("somebody listens");
        work()
    });
    let stat = format!("/proc/self/task/{}/stat", told.recv().expect("a thread"));
    wait_until("it sleeps", || std::fs::read_to_string(&stat).is_ok_and(|it| it.contains(") S ")));
    thread
}

/// Promises 110 and 111.
#[test]
fn a_sender_that_needs_a_larger_lane_gives_up_at_its_deadline_and_goes_on_in_the_one_it_asked_for()
{
    for away in WAYS {
        let stage = Stage::new(&unbounded());
        let (daemon, client) = (&stage.daemon, &stage.client);
        let mut sender = client.sender("orders").expect("a sender");
        let mut receiver = client.receiver("orders").expect("a receiver");
        let at_first = lanes(client);
        let absence = away(daemon);
        let next = fill(&mut sender, 0);
        let (short, long) = (next.to_le_bytes(), [7; 20_000]);
        let is_over = |error: &SendError| matches!(error, SendError::TimedOut);
        times_out(|by| sender.send_deadline(&short, by), is_over);
        times_out(|by| sender.send_deadline(&long, by), is_over);
        (0..next).for_each(|number| receive_number(&mut receiver, number));
        // What is free in the lane that it is to leave is nobody's: the daemon may free it at any moment.
        assert!(matches!(sender.try_send(&short), Err(TrySendError::Full)));
        times_out(|by| sender.send_deadline(&short, by), is_over);
        times_out(|by| sender.send_tracked_deadline(&short, by), is_over);
        times_out(|by| sender.send_sync_deadline(&short, by), is_over);
        times_out(|by| sender.reserve_deadline(8, by).map(drop), is_over);
        times_out(|by| sender.send_batch_deadline(&[short], by), |error| is_over(&error.why));
        let is_over = |error: &WaitError| *error == WaitError::TimedOut;
        let mut set = WaitSet::new();
        times_out(|by| set.wait_deadline(&mut [&mut sender], by).map(drop), is_over);
        drop(absence);
        assert_eq!(set.wait_deadline(&mut [&mut sender], patience()), Ok(&[0][..]));
        sender.send_deadline(&long, patience()).expect("sent");
        assert_eq!(lanes(client), at_first, "each lane has gone but the one in use");
        send(&mut sender, next).expect("sent");
        let shown = client.show("orders").expect("ours to see").summary;
        assert_eq!((shown.senders, shown.queued_messages, shown.sent_messages), (1, 2, next + 2));
        assert_eq!(receive(&mut receiver), long);
        receive_number(&mut receiver, next);
        assert!(matches!(receiver.try_receive(), Err(TryReceiveError::Empty)));
        drop((sender, receiver));
        stage.end();
    }
}

#[test]
fn a_sender_whose_mailbox_is_closed_before_it_has_its_lane_is_told_just_that() {
    for away in WAYS {
        let daemon = TestDaemon::start_kept(&[]);
        let client = daemon.client_with("orders", &unbounded());
        let mut sender = daemon.client().sender("orders").expect("a sender");
        let absence = away(&daemon);
        // Both wait for the daemon, the closing first.
        let closing = asleep(move || client.close("orders").map(|()| client));
        (0..256).for_each(|number| send(&mut sender, number).expect("there is room"));
        let sending = asleep(move || (send(&mut sender, 256), sender));
        drop(absence);
        let client = closing.join().expect("no panic").expect("ours to close");
        let (sent, mut sender) = sending.join().expect("no panic");
        assert!(matches!(sent, Err(SendError::Closed)), "{sent:?}");
        client.open("orders").expect("ours to open");
        send(&mut sender, 256).expect("sent");
    }
}

/// Promise 111.
#[test]
fn a_lane_that_its_sender_did_not_live_to_get_goes_with_it() {
    for away in WAYS {
        let stage = Stage::new(&unbounded());
        let (daemon, client) = (&stage.daemon, &stage.client);
        let mut sender = client.sender("orders").expect("a sender");
        let absence = away(daemon);
        let next = fill(&mut sender, 0);
        drop(sender);
        drop(absence);
        let mut receiver = client.receiver("orders").expect("a receiver");
        (0..next).for_each(|number| receive_number(&mut receiver, number));
        wait_until("both lanes are gone", || lanes(client) == 0);
        drop(receiver);
        stage.end();
    }
}

/// Promise 111.
#[test]
fn a_sender_goes_on_with_another_priority_while_the_lane_of_one_is_still_to_come() {
    let daemon = TestDaemon::start_kept(&[]);
    let client = daemon.client_with("orders", &unbounded());
    let mut sender = client.sender("orders").expect("a sender");
    sender.set_priority(7).expect("a lane");
    sender.set_priority(0).expect("its own");
    let absence = daemon.stand_still();
    let next = fill(&mut sender, 0);
    sender.set_priority(7).expect("it has one");
    sender.try_send(b"urgent").expect("there is room");
    sender.set_priority(0).expect("it has one");
    assert!(matches!(sender.try_send(b""), Err(TrySendError::Full)));
    sender.set_priority(7).expect("it has one");
    // Both need a larger one now.
    let urgent = fill(&mut sender, 0);
    let is_over = |error: &SendError| matches!(error, SendError::TimedOut);
    times_out(|by| sender.send_deadline(b"", by), is_over);
    drop(absence);
    send(&mut sender, urgent).expect("sent");
    sender.set_priority(0).expect("it has one");
    send(&mut sender, next).expect("sent");
    sender.set_priority(9).expect("a lane");
    assert_eq!(lanes(&client), 5, "two, two larger ones, and one");
    let mut receiver = client.receiver("orders").expect("a receiver");
    assert_eq!(receive(&mut receiver), b"urgent");
    (0..=urgent).for_each(|number| receive_number(&mut receiver, number));
    (0..=next).for_each(|number| receive_number(&mut receiver, number));
}

/// Promise 111.
#[test]
fn a_sender_goes_on_in_its_lane_where_no_daemon_will_ever_give_another() {
    let mut daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &unbounded());
    let mut sender = client.sender("orders").expect("a sender");
    let mut receiver = client.receiver("orders").expect("a receiver");
    let absence = daemon.stand_still();
    let next = fill(&mut sender, 0);
    (0..next).for_each(|number| receive_number(&mut receiver, number));
    daemon.kill();
    drop(absence);
    for number in next..2 * next {
        send(&mut sender, number).expect("its lane is as it was");
        receive_number(&mut receiver, number);
    }
}

/// Promise 113.
#[test]
fn a_lane_with_room_is_left_for_a_smaller_one_only_while_a_daemon_answers() {
    let daemon = TestDaemon::start_kept(&[]);
    let client = daemon.client_with("orders", &unbounded());
    let mut sender = client.sender("orders").expect("a sender");
    let mut receiver = client.receiver("orders").expect("a receiver");
    (0..2000).for_each(|number| send(&mut sender, number).expect("sent"));
    (0..2000).for_each(|number| receive_number(&mut receiver, number));
    let reserved = || client.show("orders").expect("ours to see").reserved_bytes;
    let grown = reserved();
    let absence = daemon.stand_still();
    for number in 0..2000 {
        sender.try_send(&u64::to_le_bytes(number)).expect("there is room");
        receive_number(&mut receiver, number);
    }
    drop(absence);
    wait_until("it has gone on in a small one", || {
        send(&mut sender, 0).expect("sent");
        receive_number(&mut receiver, 0);
        reserved() < grown
    });
}

/// Promise 110.
#[test]
fn a_group_that_loses_its_oldest_holds_a_sender_back_no_longer_than_its_deadline() {
    for away in WAYS {
        let daemon = TestDaemon::start_kept(&[]);
        let client = daemon.client();
        let before = Baseline::take(&daemon, &client);
        let options = small().group("slow", SlowGroup::DropOldest).expect("a name");
        client.create("orders", &options).expect("a mailbox");
        let mut sender = client.sender("orders").expect("a sender");
        let absence = away(&daemon);
        let next = fill(&mut sender, 0);
        let is_over = |error: &SendError| matches!(error, SendError::TimedOut);
        for _ in 0..3 {
            times_out(|by| sender.send_deadline(&next.to_le_bytes(), by), is_over);
        }
        let patient = asleep(move || {
            sender.send(&next.to_le_bytes()).expect("sent");
            sender
        });
        // Long enough that it sleeps for room, and not for the answer.
        std::thread::sleep(Duration::from_millis(50));
        drop(absence);
        let mut sender = patient.join().expect("no panic");
        let last = next + 2000;
        (next + 1..=last).for_each(|number| send(&mut sender, number).expect("sent"));
        let mut receiver = client.receiver_in_group("orders", "slow").expect("a receiver");
        let lost = receiver.lost();
        (lost..=last).for_each(|number| receive_number(&mut receiver, number));
        let shown = client.show("orders").expect("ours to see");
        assert_eq!((shown.dropped_messages, shown.summary.sent_messages), (lost, last + 1));
        drop((sender, receiver));
        client.delete("orders").expect("ours to delete");
        before.check(&daemon, &client);
    }
}

/// Promises 110 and 111.
#[test]
fn a_first_call_gives_up_at_its_deadline_and_the_way_for_answers_is_made_once() {
    for away in WAYS {
        let stage = Stage::new(&small());
        let (daemon, client) = (&stage.daemon, &stage.client);
        let mut server = daemon.child();
        server.done("receiver orders");
        let mut caller = client.sender("orders").expect("a sender");
        let mut given_up = client.sender("orders").expect("a sender");
        let absence = away(daemon);
        let is_over = |error: &CallError| matches!(error, CallError::TimedOut);
        times_out(|by| caller.call_deadline(b"tea?", by), is_over);
        times_out(|by| caller.call_deadline(b"tea?", by), is_over);
        times_out(|by| given_up.call_deadline(b"tea?", by), is_over);
        drop(given_up);
        drop(absence);
        server.tell("answer");
        let reply = caller.call_deadline(b"coffee?", patience()).expect("an answer");
        assert_eq!(reply.bytes(), b"re: coffee?");
        assert!(server.answer().starts_with("ok"));
        assert_eq!(client.status().expect("a status").mailboxes, 2, "orders, and one for answers");
        let shown = client.show("orders").expect("ours to see").summary;
        assert_eq!((shown.senders, shown.sent_messages), (1, 1));
        drop((caller, server));
        stage.end();
    }
}

/// Promise 110.
#[test]
fn an_answer_to_a_new_caller_waits_a_moment_and_can_be_given_when_the_daemon_is_back() {
    let stage = Stage::new(&small());
    let (daemon, client) = (&stage.daemon, &stage.client);
    let mut server = client.receiver("orders").expect("a receiver");
    let mut caller = daemon.child();
    caller.done("sender orders");
    caller.tell("call tea?");
    let call = server.receive_deadline(patience()).expect("a call");
    let absence = daemon.stand_still();
    assert!(matches!(call.reply(b"none"), Err(ReplyError::TimedOut)));
    let call = server.receive_deadline(patience()).expect("it comes again");
    assert_eq!(call.attempts(), 1);
    assert!(matches!(call.reply(b"none"), Err(ReplyError::TimedOut)));
    drop(absence);
    server.receive_deadline(patience()).expect("and again").reply(b"here").expect("answered");
    assert_eq!(caller.answer(), "ok here");
    drop((server, caller));
    stage.end();
}

/// Promises 110 and 113.
#[test]
fn a_receiver_that_has_to_be_told_of_a_sender_gives_up_at_its_deadline_and_receives_from_the_others()
 {
    for away in WAYS {
        let stage = Stage::new(&small());
        let (daemon, client) = (&stage.daemon, &stage.client);
        let mut known = client.sender("orders").expect("a sender");
        let mut receiver = client.receiver("orders").expect("a receiver");
        let mut tries = client.receiver("orders").expect("a receiver");
        let mut new = client.sender("orders").expect("a sender");
        send(&mut new, 1).expect("sent");
        let absence = away(daemon);
        let is_over = |error: &ReceiveError| matches!(error, ReceiveError::TimedOut);
        times_out(|by| receiver.receive_deadline(by).map(drop), is_over);
        times_out(|by| receiver.receive_batch_deadline(9, by).map(drop), is_over);
        times_out(|by| receiver.receive_from_deadline(1, by).map(drop), is_over);
        assert!(matches!(receiver.try_receive(), Err(TryReceiveError::Empty)));
        let is_over = |error: &WaitError| *error == WaitError::TimedOut;
        times_out(|by| WaitSet::new().wait_deadline(&mut [&mut tries], by).map(drop), is_over);
        assert!(matches!(tries.try_receive(), Err(TryReceiveError::Empty)));
        send(&mut known, 2).expect("sent");
        receive_number(&mut receiver, 2);
        drop(absence);
        wait_until("whoever tries is told of it", || {
            tries.try_receive().is_ok_and(|delivery| delivery.into_bytes()[0] == 1)
        });
        // What the other one has asked is answered by now, and knows nothing of this sender.
        let mut newest = client.sender("orders").expect("a sender");
        send(&mut newest, 3).expect("sent");
        receive_number(&mut receiver, 3);
        drop((known, new, newest, receiver, tries));
        stage.end();
    }
}

/// Promise 113.
#[test]
fn a_receiver_that_known_senders_keep_busy_is_told_of_a_new_one_all_the_same() {
    for away in WAYS {
        let stage = Stage::new(&small());
        let (daemon, client) = (&stage.daemon, &stage.client);
        let mut known = client.sender("orders").expect("a sender");
        let mut receiver = client.receiver("orders").expect("a receiver");
        let mut new = client.sender("orders").expect("a sender");
        send(&mut new, 0).expect("sent");
        let absence = away(daemon);
        // It asks for the new sender, in vain, and goes on with the one that it knows.
        send(&mut known, 1).expect("sent");
        receive_number(&mut receiver, 1);
        drop(absence);
        let (mut next, end) = (2u64, patience());
        loop {
            assert!(Instant::now() < end, "the new sender is overlooked while the other one sends");
            // Never idle: there is always something of the known sender.
            next = fill(&mut known, next);
            if receive(&mut receiver) == 0u64.to_le_bytes() {
                break;
            }
        }
        drop((known, new, receiver));
        stage.end();
    }
}

/// Promise 110.
#[test]
fn a_message_to_a_process_gives_up_at_its_deadline_and_the_link_is_made_once() {
    for away in WAYS {
        let daemon = TestDaemon::start_kept(&[]);
        let client = daemon.client();
        let before = Baseline::take(&daemon, &client);
        let mut inbox = client.register(Some("us"), &small()).expect("an inbox");
        let sends = daemon.client();
        let absence = away(&daemon);
        let is_over = |error: &SendToError| matches!(error, SendToError::Send(SendError::TimedOut));
        times_out(|by| sends.send_to_deadline("us", b"lost", by), is_over);
        times_out(|by| sends.send_to_deadline(std::process::id(), b"lost", by), is_over);
        drop(absence);
        sends.send_to_deadline("us", b"one", patience()).expect("sent");
        sends.send_to_deadline(std::process::id(), b"two", patience()).expect("sent");
        for expected in [b"one", b"two"] {
            assert_eq!(receive(&mut inbox), expected);
        }
        assert_eq!(client.show("process/us").expect("ours to see").summary.senders, 1);
        drop((inbox, sends));
        client.delete("process/us").expect("ours to delete");
        before.check(&daemon, &client);
    }
}

/// Promise 114.
#[test]
fn a_thread_that_waits_without_a_deadline_holds_nobody_up() {
    let daemon = TestDaemon::start_kept(&[]);
    let client = daemon.client_with("orders", &unbounded());
    let mut sender = client.sender("orders").expect("a sender");
    let mut receiver = client.receiver("orders").expect("a receiver");
    let absence = daemon.stand_still();
    let lists = client.clone();
    let patient = asleep(move || lists.list().expect("a list").len());
    let next = fill(&mut sender, 0);
    let is_over = |error: &SendError| matches!(error, SendError::TimedOut);
    times_out(|by| sender.send_deadline(&next.to_le_bytes(), by), is_over);
    (0..next).for_each(|number| receive_number(&mut receiver, number));
    drop(absence);
    assert_eq!(patient.join().expect("no panic"), 1);
    send(&mut sender, next).expect("sent");
    receive_number(&mut receiver, next);
}

/// Promise 114.
#[test]
fn a_thread_that_waits_for_room_in_an_inbox_holds_nobody_up() {
    let daemon = TestDaemon::start_kept(&[]);
    let client = daemon.client();
    let mut inbox = client.register(Some("us"), &small()).expect("an inbox");
    let send = |by| client.send_to_deadline("us", &[1], by);
    let soon = || Instant::now() + Duration::from_millis(20);
    let mut sent = 0;
    while send(soon()).is_ok() {
        sent += 1;
    }
    let patient = client.clone();
    let patient = asleep(move || patient.send_to("us", &[2]));
    times_out(send, |error| matches!(error, SendToError::Send(SendError::TimedOut)));
    (0..sent).for_each(|_| assert_eq!(receive(&mut inbox), [1]));
    assert_eq!(receive(&mut inbox), [2]);
    patient.join().expect("no panic").expect("sent");
}

/// Promises 110, 111 and 113.
#[test]
fn killed_again_and_again_the_daemon_does_once_what_is_given_up_again_and_again() {
    let mut dice = Dice::new(seed());
    let daemon = TestDaemon::start_kept(&["--log", "warn"]);
    let client = daemon.client();
    let before = Baseline::take(&daemon, &client);
    client.create("orders", &unbounded().lanes_max(1024)).expect("a mailbox");
    // What is sent and not received may be so much: senders that come and go would take every lane else, sooner or later.
    const BACKLOG: u64 = 100_000;
    let (over, received) = (AtomicBool::new(false), AtomicU64::new(0));
    let soon = |dice: &mut Dice| Instant::now() + Duration::from_micros(dice.below(3000));
    let (sent, given_up) = std::thread::scope(|scope| {
        let (over, received) = (&over, &received);
        let (sends, receives) = (daemon.client(), daemon.client());
        let (mut sending, mut receiving) = (Dice::new(dice.below(1 << 30)), Dice::new(7));
        let sender = scope.spawn(move || {
            let mut sender = sends.sender("orders").expect("a sender");
            let (mut next, mut given_up) = (0u64, 0u64);
            while !over.load(Relaxed) {
                if next > received.load(Relaxed) + BACKLOG {
                    std::thread::yield_now();
                    continue;
                }
                match sender.send_deadline(&next.to_le_bytes(), soon(&mut sending)) {
                    Ok(()) => next += 1,
                    Err(SendError::TimedOut) => given_up += 1,
                    Err(other) => panic!("{other:?}"),
                }
                if sending.below(2000) == 0 {
                    // What it leaves is there for a receiver that does not know of the next one.
                    sender = sends.sender("orders").expect("a sender");
                }
            }
            (next, given_up)
        });
        let receiver = scope.spawn(move || {
            let mut receiver = receives.receiver("orders").expect("a receiver");
            let mut got = Vec::new();
            loop {
                match receiver.receive_deadline(soon(&mut receiving)) {
                    Ok(delivery) => {
                        let number = delivery.into_bytes().try_into().expect("a number");
                        got.push(u64::from_le_bytes(number));
                        received.fetch_add(1, Relaxed);
                    }
                    Err(ReceiveError::TimedOut) => {}
                    Err(ReceiveError::Closed) => return got,
                    Err(other) => panic!("{other:?}"),
                }
                if !over.load(Relaxed) && receiving.below(300) == 0 {
                    // A backlog, so that lanes grow.
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        });
        for _ in 0..30 {
            let dead = daemon.kill_kept();
            wait_until("a successor answers", || daemon.status(&client).pid != dead);
            std::thread::sleep(Duration::from_micros(dice.below(60_000)));
        }
        over.store(true, Relaxed);
        let sent = sender.join();
        client.close("orders").expect("ours to close");
        let (sent, mut got) = (sent.expect("no panic"), receiver.join().expect("no panic"));
        got.sort_unstable();
        assert!((0..sent.0).eq(got), "each once");
        sent
    });
    println!("{sent} sent, {given_up} given up");
    client.delete("orders").expect("ours to delete");
    before.check(&daemon, &client);
}

async fn patiently<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("stuck")
}

/// Promise 112.
#[test]
fn futures_that_need_the_daemon_are_done_when_it_is_back() {
    let daemon = TestDaemon::start_kept(&[]);
    let client = daemon.client_with("orders", &unbounded());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let mut sender =
            AsyncSender::new(client.sender("orders").expect("it is there")).expect("a descriptor");
        let mut receiver = AsyncReceiver::new(client.receiver("orders").expect("it is there"))
            .expect("a descriptor");
        let mut new = client.sender("orders").expect("a sender");
        new.send(b"new").expect("sent");
        let absence = daemon.stand_still();
        let soon = Duration::from_millis(20);
        let timed_out = tokio::time::timeout(soon, receiver.receive()).await.is_err();
        assert!(timed_out, "it does not know of the message yet");
        let next = fill(sender.get_mut(), 0);
        let message = next.to_le_bytes();
        let comes_back = async {
            // Long enough that the descriptor has told of nothing by then.
            tokio::time::sleep(Duration::from_millis(50)).await;
            drop(absence);
        };
        let (sent, ()) = tokio::join!(patiently(sender.send(&message)), comes_back);
        sent.expect("sent");
        let mut got = Vec::new();
        for _ in 0..next + 2 {
            got.push(patiently(receiver.receive()).await.expect("a message").into_bytes());
        }
        assert!(got.contains(&b"new".to_vec()));
        got.retain(|message| message != b"new");
        assert!((0..=next).map(|number| number.to_le_bytes().to_vec()).eq(got), "in order");
    });
}
