//! What one uid can do to another through a mailbox: nothing that the mailbox's mode does not say.
//!
//! These tests need root, for other uids; where they have it not they say so aloud. Processes of one uid can
//! trace each other, so the boundary is the uid: nothing here tries to keep a process from its own twin.

use std::collections::BTreeMap;

use libipc::MailboxOptions;
use tests::{Child, Got, TestDaemon, UIDS, skip_unless_root, wait_until};

fn small() -> MailboxOptions {
    MailboxOptions::new().capacity_bytes(4096).receivers_max(4).lanes_max(8)
}

/// What a child has tried, and what came of it.
fn attack(child: &mut Child, role: &str, mailbox: &str) -> BTreeMap<String, String> {
    let answer = child.done(&format!("attack {role} {mailbox}"));
    let tried: Vec<(String, String)> = serde_json::from_str(&answer).expect("a list");
    tried.into_iter().collect()
}

/// Holds that each of these was tried and failed with one of the errors given.
fn check(tried: &BTreeMap<String, String>, what: &str, regions: &[&str], errors: &[&str]) {
    for region in regions {
        let what = what.replace('*', region);
        let outcome = tried.get(&what).unwrap_or_else(|| panic!("not tried: {what} of {tried:?}"));
        assert!(errors.contains(&outcome.as_str()), "{what}: {outcome}");
    }
}

/// What nobody may do with a region, and what nobody may do who has it to read.
fn check_regions(tried: &BTreeMap<String, String>, read_only: &[&str], all: &[&str]) {
    check(tried, "map the * writable", read_only, &["EACCES"]);
    check(tried, "make the mapped * writable", read_only, &["EACCES"]);
    check(tried, "reopen the *", read_only, &["EACCES"]);
    check(tried, "write into the *", read_only, &["EBADF"]);
    check(tried, "punch a hole into the *", read_only, &["EBADF"]);
    check(tried, "shrink the *", all, &["EPERM", "EINVAL", "EBADF"]);
    check(tried, "grow the *", all, &["EPERM", "EINVAL", "EBADF"]);
    check(tried, "seal the *", all, &["EPERM"]);
    check(tried, "open the * to all", all, &["EPERM"]);
}

#[test]
fn a_send_only_member_can_neither_map_nor_read_nor_forge() {
    if skip_unless_root("a send-only member of another uid") {
        return;
    }
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("letters", &small().mode(0o622));
    client.sender("letters").unwrap().send(b"a secret").unwrap();
    let mut attacker = daemon.child_as(UIDS[0]);
    let tried = attack(&mut attacker, "send", "letters");
    let all = ["roster", "cursors", "lane", "doorstep"];
    check_regions(&tried, &all[..2], &all);
    for role in ["receive", "observe"] {
        let outcome = &tried[&format!("open to {role}")];
        assert!(outcome.contains("PermissionDenied"), "open to {role}: {outcome}");
    }
    assert_eq!(tried["fetch the lanes"], "nothing");
    assert_eq!(tried["say to be root"], "EPERM");
    // Nothing of it has done any harm.
    let mut receiver = client.receiver("letters").unwrap();
    let delivery = receiver.receive_deadline(tests::patience()).unwrap();
    assert_eq!((delivery.bytes(), delivery.sender().uid), (&b"a secret"[..], 0));
}

#[test]
fn a_receive_only_member_cannot_send() {
    if skip_unless_root("a receive-only member of another uid") {
        return;
    }
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("news", &small().mode(0o644));
    let mut sender = client.sender("news").unwrap();
    sender.send(b"true news").unwrap();
    let mut attacker = daemon.child_as(UIDS[0]);
    let tried = attack(&mut attacker, "receive", "news");
    check_regions(&tried, &["roster", "lane"], &["roster", "lane", "cursors", "doorstep"]);
    assert!(tried["open to send"].contains("PermissionDenied"), "{tried:?}");
    attacker.refused("sender news", "PermissionDenied");
    let mut reader = daemon.child_as(UIDS[1]);
    reader.done("receiver news");
    let got = reader.got("receive");
    assert_eq!((got.text.as_str(), got.uid), ("true news", 0));
}

#[test]
fn a_sender_cannot_rob_other_uids_of_their_wake_ups() {
    if skip_unless_root("a robber of another uid") {
        return;
    }
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("bells", &small().mode(0o622));
    // The receiver is root's, the honest sender one uid's, the robber another's.
    let (mut receiver, mut sender) = (daemon.child(), daemon.child_as(UIDS[0]));
    receiver.done("receiver bells");
    sender.done("sender bells");
    let mut robber = daemon.child_as(UIDS[1]);
    assert_eq!(robber.ask("rob send bells"), "ok at it");
    for round in 0..200 {
        receiver.tell("receive");
        // It sleeps, as far as the robber lets it.
        wait_until("the receiver sleeps", || receiver.sleeps());
        sender.done(&format!("send {round}"));
        let got = Got::parse(&receiver.answer());
        assert_eq!((got.text, got.uid), (round.to_string(), UIDS[0]));
    }
    // And a sender that sleeps for room is woken all the same.
    for _ in 0..128 {
        sender.done("try_send sixteen.bytes..");
    }
    for _ in 0..50 {
        sender.tell("send sixteen.bytes..");
        wait_until("the sender sleeps", || sender.sleeps());
        assert_eq!(receiver.got("receive").text, "sixteen.bytes..");
        // The only receiver claims runs: it may take some to make room.
        let mut more = 1;
        wait_until("the sender was woken", || {
            let woken = sender.try_answer();
            assert!(woken.as_deref().is_none_or(|answer| answer == "ok"), "{woken:?}");
            if woken.is_none() && more < 100 {
                more += usize::from(receiver.ask("try_receive").starts_with("got"));
            }
            woken.is_some()
        });
        for _ in 1..more {
            sender.done("try_send sixteen.bytes..");
        }
    }
    robber.tell("enough");
    let answer = robber.answer();
    let rounds: u64 = answer.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap();
    assert!(rounds > 0, "the robber was at work: {answer}");
    drop(client);
}

/// One who may do something, and what: (may send, may receive).
type Rights = (u32, u32, (bool, bool));

#[test]
fn mode_bits_decide_for_owner_group_and_others_who_may_send_and_receive() {
    if skip_unless_root("openers of several uids and gids") {
        return;
    }
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client();
    let (owner, group, stranger) = (UIDS[0], 64100, UIDS[1]);
    // Each mode, and what the owner, one of the group, and a stranger may.
    let (none, send, receive, both) = ((false, false), (true, false), (false, true), (true, true));
    let table = [
        (0o600, [both, none, none]),
        (0o622, [both, send, send]),
        (0o644, [both, receive, receive]),
        (0o640, [both, receive, none]),
        (0o460, [receive, both, none]),
        (0o206, [send, none, both]),
        (0o000, [none, none, none]),
    ];
    for (mode, rights) in table {
        let name = format!("m{mode:o}");
        let options = small().mode(mode).owner(Some(owner), Some(group));
        client.create(&name, &options).unwrap();
        let [owners, groups, others] = rights;
        let callers: [Rights; 3] =
            [(owner, owner, owners), (stranger, group, groups), (stranger, stranger, others)];
        for (uid, gid, (may_send, may_receive)) in callers {
            let mut child = daemon.child_in_group(uid, gid);
            for (verb, may) in
                [("sender", may_send), ("receiver", may_receive), ("observer", may_receive)]
            {
                let command = format!("{verb} {name}");
                if may {
                    child.done(&command);
                } else {
                    let refused = child.refused(&command, "PermissionDenied");
                    assert!(refused.contains(&format!("uid: {uid}")), "{refused}");
                }
            }
            if uid != owner {
                child.refused(&format!("delete {name}"), "PermissionDenied");
            }
        }
    }
}

#[test]
fn only_root_gives_a_mailbox_to_another_owner() {
    if skip_unless_root("a client of another uid") {
        return;
    }
    let daemon = TestDaemon::start(&[]);
    let mut child = daemon.child_as(UIDS[0]);
    child.done("create mine");
    let client = daemon.client();
    assert_eq!(client.show("mine").unwrap().summary.attributes.owner_uid, Some(UIDS[0]));
    child.refused(&format!("create_for {} theirs", UIDS[1]), "PermissionDenied");
    // Another's mailbox is not even seen.
    let mut other = daemon.child_as(UIDS[1]);
    assert_eq!(other.done("list"), "");
    assert_eq!(child.done("list"), "mine");
}

/// The first of many uids that own nothing.
const MANY_UIDS: u32 = 64_100;

/// Promise 115.
#[test]
fn a_mailbox_takes_messages_from_more_uids_than_it_has_doorsteps() {
    if skip_unless_root("senders of very many uids") {
        return;
    }
    let daemon = TestDaemon::start_kept(&[]);
    let client = daemon.client_with("bells", &small().mode(0o622));
    let mut receiver = daemon.child();
    receiver.done("receiver bells");
    let open = |uid: u32| {
        let mut sender = daemon.child_as(uid);
        sender.done("sender bells");
        sender
    };
    // Nothing but the doorstep of the sender's uid wakes the receiver.
    let exchange = |receiver: &mut Child, sender: &mut Child, uid: u32| {
        receiver.tell("receive");
        wait_until("the receiver sleeps", || receiver.sleeps());
        sender.done(&format!("send {uid}"));
        let got = Got::parse(&receiver.answer());
        assert_eq!((got.text, got.uid), (uid.to_string(), uid));
    };
    let gone = || {
        let nobody = || client.show("bells").unwrap().summary.senders == 0;
        wait_until("nobody sends", nobody);
    };
    let [first, .., last, other] = std::array::from_fn::<u32, 128, _>(|n| MANY_UIDS + n as u32);
    exchange(&mut receiver, &mut open(first), first);
    (first + 1..=last).for_each(|uid| drop(open(uid)));
    gone();
    exchange(&mut receiver, &mut open(other), other);
    gone();
    exchange(&mut receiver, &mut open(first), first);
    gone();
    // Another has had its place meanwhile, of which the receiver has seen nothing.
    drop(open(other));
    gone();
    let mut sender = open(first);
    exchange(&mut receiver, &mut sender, first);
    daemon.kill_kept();
    assert_eq!(client.show("bells").unwrap().summary.senders, 1);
    exchange(&mut receiver, &mut sender, first);
    exchange(&mut receiver, &mut open(other), other);
}
