//! A receiver that dies with a long batch in hand: all of it ends as its mailbox says, however much it is, and whoever
//! dies meanwhile.

use libipc::{Client, MailboxOptions, OnDeath, Receiver};
use tests::{Baseline, TestDaemon, patience, wait_until};

const MESSAGES: u32 = 1500;

/// A lane of a mailbox holds four batches of so many messages.
fn long() -> MailboxOptions {
    MailboxOptions::new().capacity_bytes(256 << 10).receivers_max(1).lanes_max(8)
}

/// Has a child receive so many at once and die with them.
fn die_with_a_batch(daemon: &TestDaemon, client: &Client, options: &MailboxOptions) {
    client.create("orders", options).expect("a mailbox");
    let mut sender = client.sender("orders").expect("a lane");
    for n in 0..MESSAGES + 1 {
        sender.send(&n.to_le_bytes()).expect("there is room");
    }
    let mut child = daemon.child();
    child.done("receiver orders");
    assert_eq!(child.ask(&format!("hold_batch {MESSAGES} 0")), format!("holding {MESSAGES}"));
    child.kill();
}

/// The place of the one receiver there may be.
fn the_next(client: &Client) -> Receiver {
    let mut receiver = None;
    wait_until("its place is free", || {
        receiver = client.receiver("orders").ok();
        receiver.is_some()
    });
    receiver.expect("it is there")
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().expect("a number"))
}

/// All that is there now, and how often each was handed out before.
fn drain(receiver: &mut Receiver) -> Vec<(u32, u32)> {
    let mut got = Vec::new();
    while let Ok(delivery) = receiver.try_receive() {
        got.push((number(delivery.bytes()), delivery.attempts()));
        delivery.acknowledge();
    }
    got
}

fn each_is_a_dead_letter_once(client: &Client) {
    let mut letters = client.receiver("dead/orders").expect("a place");
    let mut got: Vec<_> = drain(&mut letters).into_iter().map(|(n, _)| n).collect();
    got.sort_unstable();
    assert!(got.iter().copied().eq(0..MESSAGES), "{} dead letters, or not each once", got.len());
}

#[test]
fn all_that_a_receiver_has_died_with_ends_as_its_mailbox_says() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client();
    let before = Baseline::take(&daemon, &client);
    let base = long();
    let kinds = [
        (base.clone().on_death(OnDeath::Drop), (MESSAGES, 0)),
        (base.clone().on_death(OnDeath::DeadLetter), (0, MESSAGES)),
        (base.max_attempts(1), (0, MESSAGES)),
    ];
    for (options, (dropped, dead)) in kinds {
        die_with_a_batch(&daemon, &client, &options);
        // Whoever has its place is given nothing of what it had.
        let mut receiver = the_next(&client);
        assert_eq!(drain(&mut receiver), [(MESSAGES, 0)]);
        let detail = client.show("orders").expect("ours");
        let ended = (detail.dropped_messages, detail.dead_lettered_messages);
        assert_eq!(ended, (u64::from(dropped), u64::from(dead)));
        assert_eq!(detail.summary.queued_messages, 0);
        if dead > 0 {
            each_is_a_dead_letter_once(&client);
        }
        drop(receiver);
        client.delete("orders").expect("ours");
    }
    before.check(&daemon, &client);
}

#[test]
fn a_daemon_that_is_killed_while_it_ends_a_long_batch_has_it_ended_once() {
    let daemon = TestDaemon::start_kept(&["--log", "warn"]);
    let client = daemon.client();
    let before = Baseline::take(&daemon, &client);
    for on_death in [OnDeath::DeadLetter, OnDeath::Drop] {
        die_with_a_batch(&daemon, &client, &long().on_death(on_death));
        let ended = || {
            let detail = client.show("orders").expect("ours");
            detail.dropped_messages + detail.dead_lettered_messages
        };
        let (mut kills, mut last) = (0, 0);
        wait_until("all of it has ended", || {
            let now = ended();
            assert!(now >= last, "{now} after {last}");
            // In the middle of it, each time a little later.
            if now < u64::from(MESSAGES) && (now > last || kills == 0) {
                daemon.kill_kept();
                kills += 1;
            }
            last = now;
            now >= u64::from(MESSAGES)
        });
        println!("{on_death}: {kills} daemons killed");
        assert!(kills > 0, "it was killed too late");
        assert_eq!(ended(), u64::from(MESSAGES));
        let mut receiver = the_next(&client);
        assert_eq!(drain(&mut receiver), [(MESSAGES, 0)]);
        if on_death == OnDeath::DeadLetter {
            each_is_a_dead_letter_once(&client);
        }
        drop(receiver);
        client.delete("orders").expect("ours");
    }
    before.check(&daemon, &client);
}

#[test]
fn where_there_is_no_room_for_dead_letters_the_rest_of_a_batch_is_offered_again() {
    let daemon = TestDaemon::start(&["--dead-letters-max", "100"]);
    let client = daemon.client();
    die_with_a_batch(&daemon, &client, &long().on_death(OnDeath::DeadLetter));
    let mut receiver = the_next(&client);
    let mut got = Vec::new();
    while got.len() as u32 + 100 <= MESSAGES {
        let delivery = receiver.receive_deadline(patience()).expect("a message");
        got.push((number(delivery.bytes()), delivery.attempts()));
        delivery.acknowledge();
    }
    let again = (100..MESSAGES).map(|n| (n, 1)).chain([(MESSAGES, 0)]);
    assert!(got.into_iter().eq(again), "those behind the first hundred, in order and marked");
    assert_eq!(client.show("orders").expect("ours").dead_lettered_messages, 100);
}
