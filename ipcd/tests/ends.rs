//! How mailboxes end: drained, with their owner, with the call that they answer. And the line for the turn.

mod common;

use std::os::fd::OwnedFd;

use common::{
    Client, Daemon, create, delete, lane_of, name, open_request, publish, small, wait_until,
};
use libipc::lane::layout::{Hold, LINE_JOINING, Traffic};
use libipc::lane::position::Position;
use libipc::protocol::{
    Answer, DirectAddress, Group, LaneTicket, MailboxAttributes, Opened, OpenedRole, Owner, Queued,
    Receivers, Refresh, Refusal, Request, Role, SlowGroup, Usage,
};
use libipc::regions::{Cursors, Doorstep, Roster};
use libipc::sync::Ordering;
use libipc::sys::mapping::Access::{ReadOnly, ReadWrite};

fn drain(mailbox: &str) -> Request {
    Request::Delete { name: name(mailbox), queued: Queued::Drain }
}

fn roster(opened: &Opened, fds: &[OwnedFd]) -> Roster {
    Roster::map(&fds[0], opened.attributes.limits(opened.groups.len()), ReadOnly).expect("a roster")
}

fn cursors(opened: &Opened, fds: &[OwnedFd]) -> Cursors {
    Cursors::map(&fds[1], opened.attributes.limits(opened.groups.len()), ReadWrite)
        .expect("cursors")
}

fn traffic(roster: &Roster) -> Traffic {
    Traffic::from_word(roster.header.traffic.load(Ordering::Relaxed))
}

fn names(client: &mut Client) -> Vec<String> {
    let Answer::Listed { mailboxes, .. } = client.ask(&Request::List { after: None }) else {
        panic!()
    };
    mailboxes.into_iter().map(|mailbox| mailbox.name.to_string()).collect()
}

#[test]
fn a_mailbox_that_is_deleted_to_drain_goes_when_every_group_has_all_and_nothing_is_in_hand() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let group = |group: &str| Group { name: name(group), slow: SlowGroup::Block };
    let groups = vec![group("one"), group("two")];
    let create = Request::Create { name: name("orders"), attributes: small(), groups };
    client.ask(&create);
    let (sender, fds) = client.open("orders", Role::Send);
    publish(&fds[3], 4096, 2, 1);
    let (one, fds) = client.join("orders", "one");
    let (roster, one_cursors) = (roster(&one, &fds), cursors(&one, &fds));
    let home = Doorstep::map(&fds[2], one.attributes.limits(2), ReadOnly).unwrap();
    let bells = || [0, 1].map(|group: usize| home.header.bells[group].load(Ordering::Relaxed));
    let before = bells();
    assert_eq!(client.ask(&drain("orders")), Answer::Deleted { queued: 1 });
    assert_eq!(traffic(&roster), Traffic::Draining);
    assert!(bells()[0] != before[0] && bells()[1] != before[1], "both groups are told");
    assert!(!client.show("orders").summary.open);
    assert!(matches!(client.refused(&open_request("orders", Role::Send)), Refusal::Closed { .. }));
    let further =
        Request::AddLane { link: sender.link, priority: 1, capacity_bytes: 4096, replaces: None };
    assert!(matches!(client.refused(&further), Refusal::Closed { .. }));
    let open = Request::SetTraffic { name: name("orders"), open: true };
    assert!(matches!(client.refused(&open), Refusal::Deleted { .. }), "there is no way back");
    assert!(matches!(client.refused(&create), Refusal::AlreadyExists { .. }));
    // Receivers are let in: somebody must drain it.
    let (two, fds) = client.join("orders", "two");
    let two_cursors = cursors(&two, &fds);
    one_cursors.claims[0].claim.store(2 << 16 | 1, Ordering::Release);
    let drained = |client: &mut Client, link| {
        assert_eq!(client.ask(&Request::Drained { link }), Answer::Done);
        traffic(&roster)
    };
    assert_eq!(drained(&mut client, one.link), Traffic::Draining, "the other group has it to come");
    let hold = Hold { confirmed: true, lane: 0, position: Position::new(0) };
    two_cursors.slots[0].hold.store(hold.to_word(), Ordering::Release);
    two_cursors.claims[0].claim.store(2 << 16 | 1, Ordering::Release);
    assert_eq!(drained(&mut client, two.link), Traffic::Draining, "it is in hand");
    two_cursors.slots[0].hold.store(Hold::IDLE, Ordering::Release);
    let before = bells();
    assert_eq!(drained(&mut client, two.link), Traffic::Deleted);
    assert!(bells()[0] != before[0] && bells()[1] != before[1], "both groups are told");
    let again = Request::Drained { link: two.link };
    assert!(matches!(client.refused(&again), Refusal::Deleted { .. }));
    let fetch = Request::Fetch(Refresh { link: one.link, after: 0 });
    assert!(matches!(client.refused(&fetch), Refusal::Deleted { .. }));
    client.ask(&create);
    client.ask(&delete("orders"));
    assert_eq!((client.status().mailboxes, client.status().usage.lanes), (0, 0));
}

#[test]
fn an_empty_mailbox_that_is_deleted_to_drain_goes_at_once_and_a_full_one_can_be_given_up() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    client.ask(&create("empty", small()));
    let (_, fds) = client.open("empty", Role::Send);
    assert_eq!(client.ask(&drain("empty")), Answer::Deleted { queued: 0 });
    let roster = Roster::map(&fds[0], small().limits(0), ReadOnly).unwrap();
    assert_eq!(traffic(&roster), Traffic::Deleted);
    client.ask(&create("full", small()));
    let mut other = daemon.client();
    let (_, fds) = other.open("full", Role::Send);
    publish(&fds[2], 4096, 2, 1);
    for _ in 0..2 {
        assert_eq!(client.ask(&drain("full")), Answer::Deleted { queued: 1 });
    }
    drop(other);
    wait_until("its sender is gone", || client.show("full").summary.senders == 0);
    assert_eq!(client.ask(&delete("full")), Answer::Deleted { queued: 1 });
    assert_eq!(client.status().mailboxes, 0);
}

#[test]
fn a_draining_mailbox_goes_with_the_last_link_that_held_it_up() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    client.ask(&create("orders", small()));
    let (_, fds) = client.open("orders", Role::Send);
    publish(&fds[2], 4096, 2, 1);
    let (receiver, fds) = client.open("orders", Role::Receive);
    client.ask(&drain("orders"));
    cursors(&receiver, &fds).claims[0].claim.store(2 << 16, Ordering::Release);
    client.ask(&Request::CloseLink { link: receiver.link });
    assert_eq!(client.status().mailboxes, 0);
}

#[test]
fn a_mailbox_of_a_process_goes_with_it_and_tells_all_members_why() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let before = client.status().usage;
    let mut owner = daemon.client();
    owner.ask(&create("own", MailboxAttributes { owner: Owner::Process, ..small() }));
    owner.open("own", Role::Receive);
    let (observer, fds) = client.open("own", Role::Observe);
    let roster = roster(&observer, &fds);
    let (_, fds) = client.open("own", Role::Send);
    let doorstep = Doorstep::map(&fds[3], small().limits(0), ReadOnly).unwrap();
    let freed = doorstep.freed[0].load(Ordering::Relaxed);
    drop(owner);
    wait_until("the mailbox is gone", || traffic(&roster) == Traffic::OwnerGone);
    wait_until("its session is over", || client.status().sessions == 1);
    assert_ne!(doorstep.freed[0].load(Ordering::Relaxed), freed, "a sender that waits is woken");
    // The links of the others are theirs to close.
    assert_eq!(client.status().usage, Usage { links: 2, ..before });
    let open = open_request("own", Role::Send);
    assert!(matches!(client.refused(&open), Refusal::NoSuchMailbox { .. }));
}

#[test]
fn whoever_dies_in_line_leaves_it_and_gives_the_turn_back() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let attributes = MailboxAttributes { receivers: Receivers::Exclusive, ..small() };
    client.ask(&create("orders", attributes));
    let (receiver, fds) = client.open("orders", Role::Receive);
    let cursors = cursors(&receiver, &fds);
    let home = Doorstep::map(&fds[2], attributes.limits(0), ReadOnly).unwrap();
    let word = || home.freed[0].load(Ordering::Relaxed);
    for (generation, (in_line, turn, left)) in
        (1..).zip([(7, 2, 0), (9, 1, 1), (LINE_JOINING, 0, 0)])
    {
        let mut other = daemon.client();
        let (opened, _) = other.open("orders", Role::Receive);
        assert_eq!(opened.role, OpenedRole::Receive { slot: 1, group: 0, generation });
        assert_eq!(cursors.slots[1].in_line.load(Ordering::Acquire), 0, "a new one is in no line");
        cursors.slots[1].in_line.store(in_line, Ordering::Release);
        cursors.header.turn.store(turn, Ordering::Release);
        let before = word();
        drop(other);
        wait_until("it is gone", || client.status().sessions == 1);
        assert_eq!(cursors.slots[1].in_line.load(Ordering::Acquire), 0);
        assert_eq!(cursors.header.turn.load(Ordering::Acquire), left);
        assert_ne!(word(), before, "the next one is woken");
    }
    // A slot that is given out is in no line, whatever somebody has written there meanwhile.
    cursors.slots[1].in_line.store(5, Ordering::Release);
    client.open("orders", Role::Receive);
    assert_eq!(cursors.slots[1].in_line.load(Ordering::Acquire), 0);
    // Whoever stands in line learns that the mailbox is closed.
    let before = word();
    client.ask(&Request::SetTraffic { name: name("orders"), open: false });
    assert_ne!(word(), before);
}

fn register(name: Option<&str>) -> Request {
    let attributes = MailboxAttributes { mode: 0o622, ..small() };
    Request::Register { name: name.map(str::to_owned), attributes }
}

#[test]
fn a_process_is_reached_by_name_and_by_pid_until_it_is_gone() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let mut lamp = daemon.client();
    let pid = std::process::id();
    let inbox = name("process/lamp");
    let answer = lamp.ask(&register(Some("lamp")));
    assert_eq!(answer, Answer::Registered { name: inbox });
    assert!(matches!(client.refused(&register(None)), Refusal::AlreadyExists { .. }));
    let (receiver, _) = lamp.open("process/lamp", Role::Receive);
    assert_eq!(receiver.attributes.owner, Owner::Process);
    let by_name = DirectAddress::Name("lamp".into());
    for of in [by_name.clone(), DirectAddress::Pid(pid)] {
        let Answer::Found { identity } = client.ask(&Request::Find { of }) else { panic!() };
        assert_eq!(identity.pid, pid);
    }
    let (opened, _) = client.link(&Request::OpenDirect { to: by_name.clone() });
    assert!(matches!(opened.role, OpenedRole::Send { .. }));
    let again = Request::OpenDirect { to: DirectAddress::Pid(pid) };
    assert!(matches!(client.refused(&again), Refusal::AlreadyLinked { .. }));
    assert_eq!(names(&mut client), ["process/lamp"]);
    assert_eq!(client.show("process/lamp").summary.senders, 1);
    drop(lamp);
    wait_until("it is gone", || client.status().sessions == 1);
    let gone = client.refused(&Request::OpenDirect { to: by_name });
    assert!(matches!(gone, Refusal::NoSuchProcess { .. }), "{gone}");
    assert!(names(&mut client).is_empty());
}

#[test]
fn hostile_names_and_addresses_are_refused_and_the_session_goes_on() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let long = "x".repeat(50_000);
    for bad in ["", "1", "\0", "../up", &long] {
        let refusal = client.refused(&register(Some(bad)));
        assert!(matches!(refusal, Refusal::InvalidName { .. }), "{refusal}");
        for to in [DirectAddress::Name(bad.into()), DirectAddress::Pid(u32::MAX)] {
            let refusal = client.refused(&Request::OpenDirect { to: to.clone() });
            assert!(matches!(refusal, Refusal::NoSuchProcess { .. }), "{refusal}");
            let refusal = client.refused(&Request::Find { of: to });
            assert!(matches!(refusal, Refusal::NoSuchProcess { .. }), "{refusal}");
        }
    }
    let odd = MailboxAttributes { capacity_bytes: u64::MAX, ..small() };
    let request = Request::Register { name: None, attributes: odd };
    assert!(matches!(client.refused(&request), Refusal::InvalidAttribute { .. }));
    for kept in ["process/x", "reply/x"] {
        let refusal = client.refused(&create(kept, small()));
        assert!(matches!(refusal, Refusal::InvalidName { .. }), "{refusal}");
    }
    let lane = LaneTicket { index: u16::MAX, generation: u32::MAX };
    let (receiver, sender) = {
        client.ask(&create("orders", small()));
        (client.open("orders", Role::Receive).0, client.open("orders", Role::Send).0)
    };
    for link in [0, 99, u32::MAX, sender.link] {
        for request in [Request::Drained { link }, Request::OpenReply { link, lane }] {
            let refusal = client.refused(&request);
            assert!(matches!(refusal, Refusal::NoSuchLink { .. }), "{request:?}: {refusal}");
        }
    }
    for link in [0, 99, u32::MAX, receiver.link] {
        let (priority, capacity_bytes, replaces) = (0, 4096, Some(lane));
        let further = Request::AddLane { link, priority, capacity_bytes, replaces };
        for request in [Request::OpenReplies { link }, further] {
            let refusal = client.refused(&request);
            assert!(matches!(refusal, Refusal::NoSuchLink { .. }), "{request:?}: {refusal}");
        }
    }
    let nobody = client.refused(&Request::OpenReply { link: receiver.link, lane });
    assert_eq!(nobody, Refusal::CallerGone);
    assert_eq!(client.ask(&Request::Drained { link: receiver.link }), Answer::Done);
    assert_eq!(client.status().mailboxes, 1);
}

#[test]
fn answers_come_to_a_mailbox_that_lives_as_long_as_the_callers_link() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    client.ask(&create("sums", small()));
    // The doorstep of this uid stays.
    let (sender, _) = client.open("sums", Role::Send);
    client.ask(&Request::CloseLink { link: sender.link });
    let before = client.status();
    let mut caller = daemon.client();
    let (calls, _) = caller.open("sums", Role::Send);
    let (replies, fds) = caller.link(&Request::OpenReplies { link: calls.link });
    assert_eq!(replies.role, OpenedRole::Receive { slot: 0, group: 0, generation: 1 });
    assert_eq!(replies.attributes.receivers_max, 1);
    assert_eq!(replies.attributes.capacity_bytes, small().capacity_bytes);
    let roster = roster(&replies, &fds);
    let lane = lane_of(&calls).ticket;
    let (server, _) = client.open("sums", Role::Receive);
    let (answers, _) = client.link(&Request::OpenReply { link: server.link, lane });
    assert_eq!(answers.mailbox_id, replies.mailbox_id);
    assert_eq!(roster.header.senders.load(Ordering::Relaxed), 1);
    let listed = names(&mut client);
    assert_eq!(listed, [format!("reply/{}", replies.mailbox_id), "sums".to_owned()]);
    assert_eq!(client.show(&listed[0]).members.len(), 2);
    caller.ask(&Request::CloseLink { link: calls.link });
    assert_eq!(traffic(&roster), Traffic::OwnerGone);
    let late = client.refused(&Request::OpenReply { link: server.link, lane });
    assert_eq!(late, Refusal::CallerGone);
    // The other way: the caller dies.
    let (calls, _) = caller.open("sums", Role::Send);
    caller.link(&Request::OpenReplies { link: calls.link });
    drop(caller);
    wait_until("the caller is gone", || client.status().sessions == 1);
    for link in [server.link, answers.link] {
        client.ask(&Request::CloseLink { link });
    }
    let after = client.status();
    assert_eq!((after.usage, after.mailboxes), (before.usage, before.mailboxes));
}

#[test]
fn answers_still_come_when_the_mailbox_that_was_called_is_deleted() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    client.ask(&create("sums", small()));
    let (calls, _) = client.open("sums", Role::Send);
    let (replies, fds) = client.link(&Request::OpenReplies { link: calls.link });
    let roster = roster(&replies, &fds);
    client.ask(&delete("sums"));
    assert_eq!(traffic(&roster), Traffic::Open, "who has it open to answer may still do so");
    client.ask(&Request::CloseLink { link: calls.link });
    assert_eq!(traffic(&roster), Traffic::OwnerGone);
    assert_eq!(client.status().mailboxes, 0);
}
