//! Dead letters once they are there: put back, thrown away, inspected, whose they are, and how many there may be.
//! The promises of `docs/contract.md` on dead letters.

#[path = "letters/shared.rs"]
mod shared;

use libipc::{MailboxOptions, Order, Refusal, SlowGroup, TicketState};
use tests::shell::Shell;
use tests::{TestDaemon, UIDS, patience, skip_unless_root};

use shared::{ended, letters, next, none, refused, small};

#[test]
fn dead_letters_are_put_back_or_thrown_away() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small().order(Order::Arrival));
    let mut child = daemon.child();
    child.done("sender orders");
    for text in ["one", "two", "three", "four"] {
        child.done(&format!("send {text}"));
    }
    let mut receiver = client.receiver("orders").unwrap();
    for _ in 0..4 {
        receiver.receive_deadline(patience()).unwrap().reject().unwrap();
    }
    let pid = child.pid();
    child.kill();
    assert_eq!(client.requeue("orders", Some(2)).unwrap(), 1);
    let delivery = receiver.receive_deadline(patience()).unwrap();
    assert_eq!((delivery.bytes(), delivery.sender().pid), (&b"two"[..], pid), "its own sender's");
    assert_eq!((delivery.attempts(), delivery.dead_letter()), (0, None));
    delivery.acknowledge();
    let refusal = refused(client.requeue("orders", Some(2)));
    assert!(matches!(refusal, Refusal::NoSuchDeadLetter { number: 2, .. }), "{refusal}");
    assert_eq!(client.discard_dead_letters("orders", Some(1)).unwrap(), 1);
    // What somebody has in hand is not moved.
    let mut reading = letters(&client, "orders");
    let in_hand = reading.receive_deadline(patience()).unwrap();
    assert_eq!(in_hand.bytes(), b"three");
    assert!(matches!(refused(client.requeue("orders", Some(3))), Refusal::NoSuchDeadLetter { .. }));
    assert_eq!(client.requeue("orders", None).unwrap(), 1);
    assert_eq!(receiver.receive_deadline(patience()).unwrap().into_bytes(), b"four");
    drop(in_hand);
    assert_eq!(next(&mut reading).0, "three");
    assert_eq!(client.requeue("orders", None).unwrap(), 0, "nothing is left");
    assert_eq!(client.discard_dead_letters("orders", None).unwrap(), 0);
    let summary = client.show("orders").unwrap().summary;
    assert_eq!((summary.dead_letters, summary.queued_messages, summary.queued_bytes), (0, 0, 0));
    // No number is given twice.
    client.sender("orders").unwrap().send(b"five").unwrap();
    receiver.receive_deadline(patience()).unwrap().reject().unwrap();
    assert_eq!(next(&mut reading).2.number, 5);
}

#[test]
fn what_is_put_back_is_received_as_it_was_sent() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small().order(Order::Arrival));
    let mut children = ["before", "it", "behind"].map(|text| {
        let mut child = daemon.child();
        child.done("sender orders");
        child.done(&format!("send {text}"));
        child
    });
    let mut receiver = client.receiver("orders").unwrap();
    let it = receiver.receive_from_deadline(children[1].pid(), patience()).unwrap();
    it.reject().unwrap();
    // At its place in the order of arrival.
    assert_eq!(client.requeue("orders", None).unwrap(), 1);
    for expected in ["before", "it", "behind"] {
        assert_eq!(
            receiver.receive_deadline(patience()).unwrap().into_bytes(),
            expected.as_bytes()
        );
    }
    // At its priority.
    client.create("urgent", &small()).unwrap();
    children.iter_mut().for_each(|child| drop(child.done("sender urgent")));
    children[0].done("priority 9");
    children[0].done("send first");
    let mut receiver = client.receiver("urgent").unwrap();
    receiver.receive_deadline(patience()).unwrap().reject().unwrap();
    children[1].done("send second");
    assert_eq!(client.requeue("urgent", None).unwrap(), 1);
    for expected in [b"first".as_slice(), b"second"] {
        assert_eq!(receiver.receive_deadline(patience()).unwrap().into_bytes(), expected);
    }
    // Not into what is closed: there it stays.
    client.sender("urgent").unwrap().send(b"third").unwrap();
    receiver.receive_deadline(patience()).unwrap().reject().unwrap();
    client.close("urgent").unwrap();
    let refusal = refused(client.requeue("urgent", None));
    assert!(matches!(refusal, Refusal::Closed { .. }), "{refusal}");
    client.open("urgent").unwrap();
    assert_eq!(client.requeue("urgent", None).unwrap(), 1);
    assert_eq!(receiver.receive_deadline(patience()).unwrap().into_bytes(), b"third");
}

#[test]
fn of_several_groups_each_has_its_own_dead_letters() {
    let daemon = TestDaemon::start(&[]);
    let group = |options: MailboxOptions, name| options.group(name, SlowGroup::Block).unwrap();
    let client = daemon.client_with("news", &group(group(small(), "left"), "right"));
    let [mut left, mut right] =
        ["left", "right"].map(|name| client.receiver_in_group("news", name).unwrap());
    let mut sender = client.sender("news").unwrap();
    let ticket = sender.send_tracked(b"item").unwrap();
    right.receive_deadline(patience()).unwrap().reject().unwrap();
    assert_eq!(ticket.state().unwrap(), TicketState::InHand, "the other group has still to see it");
    assert_eq!(left.receive_deadline(patience()).unwrap().into_bytes(), b"item");
    assert_eq!(ended(&ticket), TicketState::DeadLettered);
    assert_eq!(client.requeue("news", None).unwrap(), 1);
    assert_eq!(right.receive_deadline(patience()).unwrap().into_bytes(), b"item");
    assert!(none(&mut left), "it has had it");
    let detail = client.show("news").unwrap();
    assert_eq!(detail.summary.queued_messages, 0);
    assert!(detail.groups.iter().all(|group| group.queued_messages == 0));
    // Received at most once: it is in nobody's hand.
    let lossy = small().group("fast", SlowGroup::DropOldest).unwrap();
    client.create("prices", &lossy).unwrap();
    client.sender("prices").unwrap().send(b"old").unwrap();
    let mut fast = client.receiver_in_group("prices", "fast").unwrap();
    client.sender("prices").unwrap().send(b"new").unwrap();
    let delivery = fast.receive_deadline(patience()).unwrap();
    assert_eq!(refused(delivery.reject()), Refusal::NotInHand);
}

#[test]
fn dead_letters_are_their_owners_and_ipcd_alone_makes_them() {
    if skip_unless_root("dead letters and other uids") {
        return;
    }
    let daemon = TestDaemon::start(&[]);
    // Others may send and not receive.
    let client = daemon.client_with("inbox", &small().mode(0o622));
    let mut receiver = client.receiver("inbox").unwrap();
    let mut stranger = daemon.child_as(UIDS[0]);
    stranger.done("sender inbox");
    stranger.done("send mine");
    receiver.receive_deadline(patience()).unwrap().reject().unwrap();
    for command in ["receiver dead/inbox", "observer dead/inbox", "sender dead/inbox"] {
        let answer = stranger.ask(command);
        assert!(answer.contains("PermissionDenied") || answer.contains("DeadLetters"), "{answer}");
    }
    // Not even root sends there.
    let refusal = refused(client.sender("dead/inbox"));
    assert!(matches!(refusal, Refusal::DeadLetters { .. }), "{refusal}");
    let refusal = refused(client.create("dead/other", &small()));
    assert!(matches!(refusal, Refusal::InvalidName { .. }), "{refusal}");
    let mut reading = letters(&client, "inbox");
    let delivery = reading.receive_deadline(patience()).unwrap();
    assert_eq!(delivery.sender().uid, UIDS[0], "whose it was at first");
    let refusal = refused(delivery.reject());
    assert!(matches!(refusal, Refusal::DeadLetters { .. }), "{refusal}");
    reading.receive_deadline(patience()).unwrap().return_to_queue();
    drop(reading);
    assert_eq!(client.status().unwrap().usage.dead_letters, 1, "its owner pays");
    client.create("quiet", &small().mode(0o622)).unwrap();
    stranger.refused("receiver dead/quiet", "NoSuchMailbox");
    assert!(client.show("dead/quiet").is_err(), "nor do they have it made");
    let mut reading = letters(&client, "inbox");
    assert_eq!(next(&mut reading).0, "mine", "given back, and not lost");
    stranger.done("send again");
    receiver.receive_deadline(patience()).unwrap().reject().unwrap();
    assert_eq!(client.requeue("inbox", None).unwrap(), 1);
    let delivery = receiver.receive_deadline(patience()).unwrap();
    assert_eq!(delivery.sender().uid, UIDS[0], "it still is");
}

#[test]
fn a_full_quota_of_dead_letters_loses_nothing() {
    let daemon = TestDaemon::start(&["--dead-letters-max", "2"]);
    let client = daemon.client_with("orders", &small().max_attempts(2));
    let mut sender = client.sender("orders").unwrap();
    let tickets: Vec<_> = (0..3u8).map(|n| sender.send_tracked(&[n]).unwrap()).collect();
    let mut receiver = client.receiver("orders").unwrap();
    for _ in 0..2 {
        receiver.receive_deadline(patience()).unwrap().reject().unwrap();
    }
    let refusal = refused(receiver.receive_deadline(patience()).unwrap().reject());
    let Refusal::QuotaExceeded { what, used: 2, limit: 2, .. } = &refusal else {
        panic!("{refusal}");
    };
    assert_eq!(what, "dead letters");
    // However often it is given back, it comes again.
    for attempts in 1..5 {
        assert_eq!(receiver.receive_deadline(patience()).unwrap().attempts(), attempts);
    }
    drop(receiver);
    let mut child = daemon.child();
    child.done("receiver orders");
    assert_eq!(child.got("hold").attempts, 5);
    child.kill();
    let mut receiver = client.receiver("orders").unwrap();
    let delivery = receiver.receive_deadline(patience()).unwrap();
    assert_eq!((delivery.bytes(), delivery.attempts()), (&[2][..], 6));
    assert_eq!(tickets[2].state().unwrap(), TicketState::InHand);
    assert_eq!(client.discard_dead_letters("orders", None).unwrap(), 2);
    drop(delivery);
    assert_eq!(ended(&tickets[2]), TicketState::DeadLettered, "now there is room");
    let usage = client.status().unwrap().usage;
    assert_eq!(usage.dead_letters, 1);
    // With their mailbox they go.
    drop(receiver);
    assert_eq!(client.delete("orders").unwrap(), 1);
    let after = client.status().unwrap().usage;
    assert_eq!((after.dead_letters, after.mailboxes, after.bytes, after.lanes), (0, 0, 0, 0));
}

#[test]
fn administrators_list_inspect_requeue_and_discard() {
    let shell = Shell::new();
    shell.does("create orders --max-attempts 2 --on-death dead-letter");
    let shown = shell.does("show orders");
    assert!(shown.contains("dead-letter") && shown.contains("0 now, 0 ever"), "{shown}");
    for text in ["one", "two", "three"] {
        shell.does(&format!("send orders {text}"));
    }
    shell.does("receive orders --count 3 --reject");
    let ran = shell.run("dead list orders --json", "");
    let json = &ran.json()[0];
    let numbers: Vec<_> = json["dead_letters"].as_array().unwrap().iter().collect();
    assert_eq!(numbers.len(), 3);
    assert_eq!((&numbers[1]["number"], &numbers[1]["text"]), (&2.into(), &"two".into()));
    assert_eq!((&numbers[1]["reason"], &numbers[1]["attempts"]), (&"rejected".into(), &1.into()));
    let listed = shell.does("dead list orders");
    assert!(listed.lines().count() == 4 && listed.contains("rejected"), "{listed}");
    assert_eq!(shell.does("dead show orders 3"), "three\n");
    shell.ends("dead show orders 9", 1);
    shell.does("dead requeue orders 1 3");
    assert_eq!(shell.does("receive orders --count 2"), "one\nthree\n");
    shell.ends("dead requeue orders 1", 1);
    shell.does("dead discard orders --all");
    assert!(shell.does("dead list orders").is_empty());
    assert!(shell.does("show orders").contains("0 now, 3 ever"));
    assert!(shell.does("list").contains("dead/orders"));
    shell.ends("dead list nothing", 6);
    shell.ends("send dead/orders x", 1);
    shell.does("delete orders");
    assert!(!shell.does("list").contains("dead"));
}
