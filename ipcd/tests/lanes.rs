//! Further lanes of a sender, and what a slow group loses of them.

mod common;

use std::os::fd::OwnedFd;

use common::{
    Client, Daemon, create, delete, lane_of, name, open_request, publish, small, wait_until,
};
use libipc::lane::layout::{Claim, Hold, LaneStatus, SlotState};
use libipc::lane::position::Position;
use libipc::protocol::{
    Answer, Buffering, Group, LaneTicket, MailboxAttributes, Opened, OpenedRole, Refresh, Refusal,
    Request, Role, SlowGroup,
};
use libipc::regions::{Cursors, Roster};
use libipc::sync::Ordering;
use libipc::sys::mapping::Access::{ReadOnly, ReadWrite};

fn roster(opened: &Opened, fds: &[OwnedFd]) -> Roster {
    let limits = opened.attributes.limits(opened.groups.len());
    Roster::map(&fds[0], limits, ReadOnly).expect("a roster")
}

fn cursors(opened: &Opened, fd: &OwnedFd) -> Cursors {
    let limits = opened.attributes.limits(opened.groups.len());
    Cursors::map(fd, limits, ReadWrite).expect("cursors")
}

fn status(roster: &Roster, lane: u16) -> (u32, SlotState) {
    let word = roster.lanes[usize::from(lane)].status.load(Ordering::Acquire);
    let LaneStatus { generation, state } = LaneStatus::from_word(word);
    (generation, state)
}

#[test]
fn a_lane_a_priority_is_seen_by_the_members_and_ends_with_its_link() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    client.ask(&create("orders", small()));
    let (receiver, fds) = client.open("orders", Role::Receive);
    let roster = roster(&receiver, &fds);
    let mut other = daemon.client();
    let (sender, _) = other.open("orders", Role::Send);
    let changes = roster.header.changes.load(Ordering::Acquire);
    let (urgent, file) = other.add_lane(sender.link, 9, 4096, None);
    assert_ne!(roster.header.changes.load(Ordering::Acquire), changes);
    assert_eq!((urgent.priority, urgent.predecessor), (9, None));
    assert_eq!(urgent.doorstep, lane_of(&sender).doorstep);
    assert_eq!(roster.lanes[1].priority.load(Ordering::Relaxed), 9);
    assert_eq!(status(&roster, 1), (1, SlotState::Active));
    assert_eq!(roster.header.senders.load(Ordering::Relaxed), 1, "one sender, two lanes");
    assert_eq!(roster.header.senders_ever.load(Ordering::Relaxed), 1);
    let refresh = Refresh { link: receiver.link, after: receiver.fetched.through };
    let Answer::Fetched(fetched) = client.ask(&Request::Fetch(refresh)) else { panic!() };
    assert_eq!(fetched.lanes, [lane_of(&sender), urgent]);
    let shown = client.show("orders");
    let lanes: Vec<_> = shown.members.iter().map(|it| (it.role, it.index, it.priority)).collect();
    assert_eq!(lanes, [(Role::Send, 0, 0), (Role::Send, 1, 9), (Role::Receive, 0, 0)]);
    assert_eq!(shown.summary.senders, 1);
    assert_eq!(client.status().usage.lanes, 2);
    publish(&file, 4096, 2, 1);
    other.ask(&Request::CloseLink { link: sender.link });
    assert_eq!(status(&roster, 0), (1, SlotState::Free));
    assert_eq!(status(&roster, 1), (1, SlotState::Gone), "what was sent is to be taken");
    assert_eq!(roster.header.senders.load(Ordering::Relaxed), 0);
    other.open("orders", Role::Send);
    assert_eq!(roster.header.senders_ever.load(Ordering::Relaxed), 2);
}

#[test]
fn a_grown_lane_takes_the_place_of_the_old_one_which_goes_when_it_is_drained() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let unbounded = MailboxAttributes { buffering: Buffering::Unbounded, ..small() };
    client.ask(&create("orders", unbounded));
    let (receiver, fds) = client.open("orders", Role::Receive);
    let (roster, cursors) = (roster(&receiver, &fds), cursors(&receiver, &fds[1]));
    let (sender, fds) = client.open("orders", Role::Send);
    let first = lane_of(&sender);
    publish(&fds[2], 4096, 256, 128);
    let before = client.status().usage;
    let (grown, _) = client.add_lane(sender.link, 0, 16384, Some(first.ticket));
    assert_eq!((grown.capacity_bytes, grown.predecessor), (16384, Some(first.ticket)));
    assert_eq!(status(&roster, 0), (1, SlotState::Gone));
    assert_eq!(status(&roster, 1), (1, SlotState::Active));
    assert_eq!(roster.lanes[1].capacity_bytes.load(Ordering::Relaxed), 16384);
    let after = client.status().usage;
    assert_eq!((after.lanes, after.bytes), (before.lanes + 1, before.bytes + 2 * 4096 + 16384));
    let shown = client.show("orders").summary;
    assert_eq!((shown.senders, shown.queued_messages, shown.queued_bytes), (1, 128, 4096));
    // What its sender does to it from here on counts no more.
    publish(&fds[2], 4096, 300, 999);
    cursors.claims[0].claim.store(256 << 16, Ordering::Release);
    let lane = first.ticket;
    client.ask(&Request::LaneDrained { link: receiver.link, lane });
    assert_eq!(status(&roster, 0), (1, SlotState::Free));
    let usage = client.status().usage;
    assert_eq!((usage.lanes, usage.bytes), (before.lanes, before.bytes + 16384 - 4096));
    // And back to a small one; a drained lane goes at once.
    let (small, _) = client.add_lane(sender.link, 0, 4096, Some(grown.ticket));
    assert_eq!((small.ticket.index, small.ticket.generation), (0, 2));
    assert_eq!(small.first_position, 257);
    assert_eq!(status(&roster, 1), (1, SlotState::Free));
    assert_eq!(client.status().usage.bytes, before.bytes);
}

#[test]
fn more_gone_lanes_than_one_sweep_sees_are_all_freed_in_the_end() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let attributes =
        MailboxAttributes { buffering: Buffering::Unbounded, lanes_max: 300, ..small() };
    client.ask(&create("orders", attributes));
    let (receiver, fds) = client.open("orders", Role::Receive);
    let cursors = cursors(&receiver, &fds[1]);
    let (sender, fds) = client.open("orders", Role::Send);
    publish(&fds[2], 4096, 2, 1);
    let mut ticket = lane_of(&sender).ticket;
    for _ in 0..200 {
        let (lane, file) = client.add_lane(sender.link, 0, 4096, Some(ticket));
        publish(&file, 4096, 2, 1);
        ticket = lane.ticket;
    }
    assert_eq!(client.status().usage.lanes, 201);
    // All but the first hundred have drained.
    for claim in &cursors.claims[100..201] {
        claim.claim.store(2 << 16, Ordering::Release);
    }
    wait_until("the drained ones are freed", || {
        client.show("orders");
        client.status().usage.lanes == 101
    });
}

fn two_groups() -> Request {
    let group = |group: &str, slow| Group { name: name(group), slow };
    Request::Create {
        name: name("news"),
        attributes: small(),
        groups: vec![group("audit", SlowGroup::Block), group("screen", SlowGroup::DropOldest)],
    }
}

#[test]
fn each_group_has_cursors_slots_and_counts_of_its_own() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let before = client.status().usage.bytes;
    client.ask(&two_groups());
    let (sender, sender_fds) = client.open("news", Role::Send);
    assert_eq!(sender_fds.len(), 5, "roster, two cursors, lane, doorstep");
    assert_eq!(sender.groups.len(), 2);
    let limits = sender.attributes.limits(2);
    for fd in &sender_fds[1..3] {
        assert!(Cursors::map(fd, limits, ReadWrite).is_err());
        Cursors::map(fd, limits, ReadOnly).unwrap();
    }
    let (audit, audit_fds) = client.join("news", "audit");
    let (screen, screen_fds) = client.join("news", "screen");
    assert_eq!(audit.role, OpenedRole::Receive { slot: 0, group: 0, generation: 1 });
    assert_eq!(screen.role, OpenedRole::Receive { slot: 0, group: 1, generation: 1 });
    let (audit_cursors, screen_cursors) =
        (cursors(&audit, &audit_fds[1]), cursors(&screen, &screen_fds[1]));
    let roster = roster(&audit, &audit_fds);
    let state =
        |index: usize| SlotState::from_word(roster.receivers[index].state.load(Ordering::Acquire));
    assert_eq!([0, 1, 2, 3].map(state), {
        use SlotState::{Active, Free};
        [Active, Free, Active, Free]
    });
    let header = &roster.header;
    assert_eq!(header.groups_count.load(Ordering::Relaxed), 2);
    assert_eq!(header.receivers.load(Ordering::Relaxed), 2);
    for group in &header.groups[..2] {
        let words = [&group.receivers, &group.receivers_high];
        assert_eq!(words.map(|word| word.load(Ordering::Relaxed)), [1, 1]);
    }
    assert_eq!(header.receiver_uids.load(Ordering::Relaxed), 1, "both are ours");
    publish(&sender_fds[3], 4096, 4, 2);
    audit_cursors.claims[0].claim.store(4 << 16 | 1, Ordering::Release);
    audit_cursors.slots[0].received.store(2, Ordering::Relaxed);
    let shown = client.show("news");
    let queued: Vec<_> = shown.groups.iter().map(|group| group.queued_messages).collect();
    assert_eq!(queued, [0, 2]);
    assert_eq!((shown.summary.queued_messages, shown.summary.queued_bytes), (2, 64));
    let groups: Vec<_> =
        shown.members.iter().map(|member| member.group.as_ref().map(ToString::to_string)).collect();
    assert_eq!(groups, [None, Some("audit".to_owned()), Some("screen".to_owned())]);
    // The lane stays until the last group has drained it.
    client.ask(&Request::CloseLink { link: sender.link });
    assert_eq!(status(&roster, 0), (1, SlotState::Gone));
    screen_cursors.claims[0].claim.store(4 << 16, Ordering::Release);
    let lane = lane_of(&sender).ticket;
    client.ask(&Request::LaneDrained { link: screen.link, lane });
    assert_eq!(status(&roster, 0), (1, SlotState::Free));
    client.ask(&delete("news"));
    assert_eq!(client.status().usage.bytes, before);
}

#[test]
fn members_of_many_groups_with_long_names_come_in_pages_that_fit() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let names: Vec<_> = (0..8).map(|n| format!("{n}{}", "x".repeat(199))).collect();
    let groups: Vec<_> =
        names.iter().map(|group| Group { name: name(group), slow: SlowGroup::Block }).collect();
    let attributes = MailboxAttributes { receivers_max: 50, ..small() };
    client.ask(&Request::Create { name: name("news"), attributes, groups });
    for group in &names {
        for _ in 0..50 {
            client.join("news", group);
        }
    }
    let (mut seen, mut more) = (0, true);
    while more {
        let request = Request::Show { name: name("news"), skip: seen };
        let Answer::Shown(detail) = client.ask(&request) else { panic!() };
        seen += detail.members.len() as u32;
        more = detail.more;
    }
    assert_eq!(seen, 400);
}

/// A full lane of 256 records of one granule each, and a receiver of the group that drops.
struct Full {
    sender: Opened,
    screen: Cursors,
    roster: Roster,
}

fn full(client: &mut Client) -> Full {
    client.ask(&two_groups());
    let (screen, fds) = client.join("news", "screen");
    let (roster, screen) = (roster(&screen, &fds), cursors(&screen, &fds[1]));
    let (sender, fds) = client.open("news", Role::Send);
    publish(&fds[3], 4096, 256, 256);
    Full { sender, screen, roster }
}

#[test]
fn a_slow_group_that_drops_loses_its_oldest_and_what_is_in_hand_stays_known() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let Full { sender, screen, roster } = full(&mut client);
    let (link, lane) = (sender.link, lane_of(&sender).ticket);
    // Its receiver has won the first two.
    let hold = Hold { confirmed: false, lane: 0, position: Position::new(0) };
    screen.slots[0].end.store(2, Ordering::Relaxed);
    screen.slots[0].hold.store(hold.to_word(), Ordering::Release);
    let won = Claim { position: Position::new(2), winner: Some(0) };
    screen.claims[0].claim.store(won.to_word(), Ordering::Release);
    let drop = |from, through, messages| Request::DropOldest {
        link,
        lane,
        group: 1,
        from,
        through,
        messages,
    };
    let early = client.ask(&drop(0, 10, 10));
    assert_eq!(early, Answer::Dropped { done: false }, "the claim is elsewhere");
    assert_eq!(client.ask(&drop(2, 10, 8)), Answer::Dropped { done: true });
    let claim = Claim::from_word(screen.claims[0].claim.load(Ordering::Acquire));
    assert_eq!(claim, Claim { position: Position::new(10), winner: None });
    let hold = Hold::from_word(screen.slots[0].hold.load(Ordering::Acquire)).unwrap();
    assert!(hold.confirmed, "what was won is known though the claim has forgotten it");
    assert_eq!(roster.header.groups[1].dropped.load(Ordering::Relaxed), 8);
    let groups = client.show("news").groups;
    let seen: Vec<_> = groups.iter().map(|it| (it.queued_messages, it.dropped_messages)).collect();
    assert_eq!(seen, [(256, 0), (248, 8)]);
    assert_eq!(client.ask(&drop(10, 256, 246)), Answer::Dropped { done: true });
}

#[test]
fn what_a_sender_alleges_of_its_oldest_is_checked() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let Full { sender, screen, roster } = full(&mut client);
    let mut other = daemon.client();
    let (receiver, _) = client.join("news", "screen");
    let (stranger, _) = other.open("news", Role::Send);
    let (link, lane) = (sender.link, lane_of(&sender).ticket);
    let good = (link, lane, 1, 0, 10, 10);
    let ask = |client: &mut Client, (link, lane, group, from, through, messages)| {
        client.refused(&Request::DropOldest { link, lane, group, from, through, messages })
    };
    let (far, wrapped) = (1 << 48, (1 << 48) - 1);
    for (from, through, messages) in [
        (0, 0, 1),
        (0, 257, 10),
        (10, 0, 10),
        (0, wrapped, 10),
        (wrapped, 256, 10),
        (0, far, 10),
        (far, 10, 10),
        (u64::MAX, u64::MAX, u64::MAX),
        (0, 10, 0),
        (0, 10, 11),
        (0, 10, u64::MAX),
        (200, 300, 10),
    ] {
        let refusal = ask(&mut client, (link, lane, 1, from, through, messages));
        assert!(matches!(refusal, Refusal::InvalidAttribute { .. }), "{from} {through}: {refusal}");
    }
    for group in [0, 2, 255] {
        let refusal = ask(&mut client, (link, lane, group, 0, 10, 10));
        assert!(matches!(refusal, Refusal::NoSuchGroup { .. }), "{group}: {refusal}");
    }
    let stale = LaneTicket { generation: lane.generation.wrapping_sub(1), ..lane };
    let nowhere = LaneTicket { index: u16::MAX, generation: u32::MAX };
    for lane in [lane_of(&stranger).ticket, stale, nowhere] {
        let refusal = ask(&mut client, (link, lane, 1, 0, 10, 10));
        assert!(matches!(refusal, Refusal::NoSuchLink { .. }), "{lane:?}: {refusal}");
    }
    for link in [receiver.link, 99, u32::MAX] {
        let refusal = ask(&mut client, (link, good.1, 1, 0, 10, 10));
        assert!(matches!(refusal, Refusal::NoSuchLink { .. }), "{link}: {refusal}");
    }
    let refusal = ask(&mut other, good);
    assert!(matches!(refusal, Refusal::NoSuchLink { .. }), "another session's: {refusal}");
    let claim = screen.claims[0].claim.load(Ordering::Acquire);
    assert_eq!((claim, roster.header.groups[1].dropped.load(Ordering::Relaxed)), (0, 0));
}

#[test]
fn what_a_dead_receiver_of_a_group_that_drops_had_in_hand_is_dropped_and_counted() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let Full { roster, screen, .. } = full(&mut client);
    let mut other = daemon.client();
    let (receiver, _) = other.join("news", "screen");
    assert_eq!(receiver.role, OpenedRole::Receive { slot: 1, group: 1, generation: 1 });
    let hold = Hold { confirmed: false, lane: 0, position: Position::new(0) };
    screen.slots[1].end.store(2, Ordering::Relaxed);
    screen.slots[1].hold.store(hold.to_word(), Ordering::Release);
    let won = Claim { position: Position::new(2), winner: Some(1) };
    screen.claims[0].claim.store(won.to_word(), Ordering::Release);
    drop(other);
    wait_until("the slot is free at once", || {
        SlotState::from_word(roster.receivers[3].state.load(Ordering::Acquire)) == SlotState::Free
    });
    assert_eq!(screen.slots[1].hold.load(Ordering::Acquire), Hold::IDLE);
    assert_eq!(screen.header.offered[0].load(Ordering::Acquire), 0);
    wait_until("it is counted", || roster.header.groups[1].dropped.load(Ordering::Relaxed) == 1);
    // An intent that the claim never came to is nothing that could be lost.
    let mut other = daemon.client();
    other.join("news", "screen");
    let hold = Hold { confirmed: false, lane: 0, position: Position::new(2) };
    screen.slots[1].hold.store(hold.to_word(), Ordering::Release);
    drop(other);
    wait_until("the session is over", || client.status().sessions == 1);
    assert_eq!(client.show("news").groups[1].dropped_messages, 1);
}

#[test]
fn a_mailbox_with_groups_and_wrong_ones_are_refused_by_name() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    client.ask(&two_groups());
    let refusal = client.refused(&open_request("news", Role::Receive));
    assert!(
        matches!(&refusal, Refusal::NoSuchGroup { group, groups, .. }
            if group.is_empty() && groups == "audit, screen"),
        "{refusal}"
    );
    client.create("plain");
    let group = Some(name("audit"));
    let request = Request::Open { name: name("plain"), role: Role::Receive, group };
    assert!(matches!(client.refused(&request), Refusal::NoSuchGroup { .. }));
    let group = |n: usize| Group { name: name(&format!("g{n}")), slow: SlowGroup::Block };
    let many = Request::Create {
        name: name("many"),
        attributes: small(),
        groups: (0..1000).map(group).collect(),
    };
    assert!(matches!(client.refused(&many), Refusal::InvalidAttribute { .. }));
}
