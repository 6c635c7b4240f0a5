//! Who may join whom, rule by rule. Each session here is a process of its own.

use std::collections::HashMap;

use libipc::lane::layout::{LANE_CAPACITY_BYTES_MAX, Traffic};
use libipc::protocol::{
    Buffering, DirectAddress, Group, Identity, LaneInfo, LaneTicket, MailboxAttributes,
    MailboxName, Owner, Receivers, Refusal, Role, SlowGroup, Usage,
};

use super::{depart, id, name};
use crate::registry::doorstep::Entry;
use crate::registry::group::Place;
use crate::registry::mailbox::LaneWish;
use crate::registry::permission::Caller;
use crate::registry::quota::{DEFAULT_LIMITS, Quotas};
use crate::registry::{Admission, Got, Registry};

/// Sessions 0 to 4 of processes 100 to 104, all of one uid.
fn registry() -> Registry {
    let limits = Usage { lanes: 9, bytes: 64 << 20, dead_letters: 2, ..DEFAULT_LIMITS };
    let mut registry = Registry::new(Quotas::new(limits, HashMap::new()), 0);
    for session in 0..5 {
        registry.begin_session(id(session), who(session).identity).unwrap();
    }
    registry
}

fn who(session: u8) -> Caller<'static> {
    let identity = Identity { pid: 100 + u32::from(session), uid: 7, gid: 7 };
    Caller { identity, groups: &[] }
}

fn create(registry: &mut Registry, attributes: MailboxAttributes, groups: &[Group]) -> u64 {
    registry.create(id(0), &who(0), &name(0), &attributes, groups).unwrap()
}

fn open(registry: &mut Registry, session: u8, role: Role) -> Result<Admission, Refusal> {
    registry.open(id(session), &who(session), &name(0), role, None)
}

fn lane_of(admission: &Admission) -> LaneInfo {
    match &admission.got {
        Got::Lane { lane, .. } => *lane,
        other => panic!("no lane: {other:?}"),
    }
}

fn close(registry: &mut Registry, session: u8, link: u32) {
    let departure = registry.close_link(id(session), link).unwrap();
    depart(registry, departure);
}

const SMALL: u64 = 4096;

fn small() -> MailboxAttributes {
    MailboxAttributes { capacity_bytes: SMALL, lanes_max: 4, ..MailboxAttributes::default() }
}

#[test]
fn a_sender_has_one_lane_a_priority_and_only_its_own() {
    let mut registry = registry();
    create(&mut registry, small(), &[]);
    let sender = open(&mut registry, 1, Role::Send).unwrap();
    let receiver = open(&mut registry, 1, Role::Receive).unwrap();
    let key = (id(1), sender.link);
    let wish = |priority| LaneWish { priority, capacity_bytes: SMALL, predecessor: None };
    let why = |registry: &mut Registry, link, wish| registry.add_lane((id(1), link), wish);
    for priority in [32, 255] {
        let refusal = why(&mut registry, sender.link, wish(priority)).unwrap_err();
        assert!(matches!(refusal, Refusal::InvalidAttribute { .. }), "{refusal}");
    }
    for capacity_bytes in [0, 1, 4095, 2048, LANE_CAPACITY_BYTES_MAX * 2, u64::MAX, 1 << 63] {
        let wish = LaneWish { capacity_bytes, ..wish(1) };
        let refusal = why(&mut registry, sender.link, wish).unwrap_err();
        assert!(matches!(refusal, Refusal::InvalidAttribute { .. }), "{refusal}");
    }
    let refusal = why(&mut registry, sender.link, wish(0)).unwrap_err();
    assert!(refusal.to_string().contains("no lane yet"), "{refusal}");
    let larger = LaneWish { capacity_bytes: SMALL * 2, ..wish(1) };
    let replacing = LaneWish { predecessor: Some(lane_of(&sender).ticket), ..wish(0) };
    for wish in [larger, replacing] {
        let refusal = why(&mut registry, sender.link, wish).unwrap_err();
        assert!(matches!(refusal, Refusal::Incompatible { .. }), "{refusal}");
    }
    for link in [receiver.link, 77, u32::MAX] {
        let refusal = why(&mut registry, link, wish(1)).unwrap_err();
        assert!(matches!(refusal, Refusal::NoSuchLink { .. }), "{refusal}");
    }
    let urgent = registry.add_lane(key, wish(31)).unwrap();
    assert_eq!((urgent.priority, urgent.predecessor, urgent.doorstep), (31, None, 1));
    registry.add_lane(key, wish(1)).unwrap();
    registry.add_lane(key, wish(2)).unwrap();
    let refusal = registry.add_lane(key, wish(3)).unwrap_err();
    assert!(matches!(refusal, Refusal::MailboxFull { limit: 4, .. }), "{refusal}");
    let mailbox = registry.find(&name(0)).unwrap();
    assert_eq!((mailbox.senders().len(), mailbox.senders_ever), (1, 1), "lanes are no senders");
    let id = mailbox.id;
    registry.mailbox_mut(id).unwrap().traffic = Traffic::Draining;
    let refusal = registry.add_lane(key, wish(3)).unwrap_err();
    assert!(matches!(refusal, Refusal::Closed { .. }), "{refusal}");
}

#[test]
fn a_lane_grows_only_from_one_that_its_sender_writes() {
    let mut registry = registry();
    let buffering = Buffering::Unbounded;
    let mailbox = create(&mut registry, MailboxAttributes { buffering, ..small() }, &[]);
    let sender = open(&mut registry, 1, Role::Send).unwrap();
    let other = open(&mut registry, 2, Role::Send).unwrap();
    let (key, first) = ((id(1), sender.link), lane_of(&sender).ticket);
    let wish = |predecessor| LaneWish {
        priority: 0,
        capacity_bytes: SMALL * 2,
        predecessor: Some(predecessor),
    };
    let stale = LaneTicket { generation: first.generation + 1, ..first };
    let nowhere = LaneTicket { index: u16::MAX, generation: u32::MAX };
    for ticket in [lane_of(&other).ticket, stale, nowhere] {
        let refusal = registry.add_lane(key, wish(ticket)).unwrap_err();
        assert!(matches!(refusal, Refusal::NoSuchLink { .. }), "{refusal}");
    }
    let refusal = registry.add_lane(key, LaneWish { priority: 1, ..wish(first) }).unwrap_err();
    assert!(refusal.to_string().contains("replaces"), "{refusal}");
    // 64 MiB is all that this uid may have.
    let far = LaneWish { capacity_bytes: 64 << 20, ..wish(first) };
    let refusal = registry.add_lane(key, far).unwrap_err();
    assert!(matches!(refusal, Refusal::QuotaExceeded { .. }), "{refusal}");
    let before = registry.quotas().used(7);
    let grown = registry.add_lane(key, wish(first)).unwrap();
    assert_eq!(grown.predecessor, Some(first));
    registry.mailbox_mut(mailbox).unwrap().retire_lane(key, first);
    let refusal = registry.add_lane(key, wish(first)).unwrap_err();
    assert!(matches!(refusal, Refusal::NoSuchLink { .. }), "it is replaced already: {refusal}");
    let used = registry.quotas().used(7);
    assert_eq!((used.lanes, used.bytes), (before.lanes + 1, before.bytes + 2 * 4096 + SMALL * 2));
    registry.free_lane(mailbox, first.index, 0, 0);
    let used = registry.quotas().used(7);
    assert_eq!((used.lanes, used.bytes), (before.lanes, before.bytes + SMALL));
}

#[test]
fn a_mailbox_with_groups_wants_a_group_named_by_its_receivers() {
    let mut registry = registry();
    let group = |name: &str| MailboxName::new(name).unwrap();
    let groups = ["audit", "work"].map(|name| Group { name: group(name), slow: SlowGroup::Block });
    create(&mut registry, small(), &groups);
    let mut open = |role, group: Option<&str>| {
        let group = group.map(|name| MailboxName::new(name).unwrap());
        registry.open(id(1), &who(1), &name(0), role, group.as_ref()).map(|it| it.got)
    };
    for (role, asked) in
        [(Role::Receive, None), (Role::Receive, Some("x")), (Role::Send, Some("x"))]
    {
        let refusal = open(role, asked).unwrap_err();
        assert!(
            matches!(&refusal, Refusal::NoSuchGroup { groups, .. } if groups == "audit, work"),
            "{refusal}"
        );
    }
    for (name, index) in [("audit", 0), ("work", 1)] {
        let got = open(Role::Receive, Some(name)).unwrap();
        let place = Place { slot: 0, generation: 1, inherited: false };
        assert_eq!(got, Got::Slot { group: index, place });
    }
    assert_eq!(open(Role::Observe, Some("work")), Ok(Got::Look { group: 1 }));
    assert_eq!(open(Role::Observe, None), Ok(Got::Look { group: 0 }));
    open(Role::Send, None).unwrap();
    let mailbox = registry.find(&name(0)).unwrap();
    assert_eq!(mailbox.active_receivers(), 2);
}

#[test]
fn an_owner_is_charged_for_regions_while_somebody_has_a_mailbox_open_or_has_left_something_in_it() {
    let mut registry = registry();
    let used = |registry: &Registry| registry.quotas().used(7);
    let before = used(&registry);
    let groups = ["a", "b", "c"]
        .map(|name| Group { name: MailboxName::new(name).unwrap(), slow: SlowGroup::Block });
    create(&mut registry, small(), &groups);
    let idle = used(&registry);
    assert_eq!(idle, Usage { mailboxes: before.mailboxes + 1, ..before });
    let sender = open(&mut registry, 1, Role::Send).unwrap();
    let lane = lane_of(&sender);
    let in_use = used(&registry);
    // A roster, three groups' cursors, the home doorstep, that of the sender's uid, and its lane.
    assert_eq!(in_use.descriptors - idle.descriptors, 7);
    close(&mut registry, 1, sender.link);
    assert_eq!(registry.put_idle_away(), [] as [u64; 0], "its lane is not drained");
    registry.free_lane(sender.mailbox_id, lane.ticket.index, 7, 1);
    assert_eq!(registry.put_idle_away(), [sender.mailbox_id]);
    assert_eq!(used(&registry), idle);
    // Who only looks needs them too.
    open(&mut registry, 2, Role::Observe).unwrap();
    assert_eq!(used(&registry).descriptors - idle.descriptors, 5);
    registry.check_invariants().unwrap();
}

#[test]
fn a_link_of_two_processes_lets_no_third_in() {
    let mut registry = registry();
    let receivers = Receivers::Single;
    create(&mut registry, MailboxAttributes { receivers, receivers_max: 1, ..small() }, &[]);
    let sender = open(&mut registry, 1, Role::Send).unwrap();
    open(&mut registry, 1, Role::Send).unwrap();
    let receiver = open(&mut registry, 2, Role::Receive).unwrap();
    for (role, pid, did) in [(Role::Send, 101, "sends"), (Role::Receive, 102, "receives")] {
        let refusal = open(&mut registry, 3, role).unwrap_err();
        let Refusal::Occupied { pid: there, does, .. } = &refusal else { panic!("{refusal}") };
        assert_eq!((*there, does.as_str()), (pid, did));
    }
    let refusal = open(&mut registry, 2, Role::Receive).unwrap_err();
    assert!(matches!(refusal, Refusal::MailboxFull { .. }), "{refusal}");
    close(&mut registry, 1, sender.link);
    assert!(open(&mut registry, 3, Role::Send).is_err(), "one link of it is still there");
    let departure = registry.end_session(id(1));
    depart(&mut registry, departure);
    open(&mut registry, 3, Role::Send).unwrap();
    close(&mut registry, 2, receiver.link);
    open(&mut registry, 3, Role::Receive).unwrap();
}

#[test]
fn only_the_owner_receives_and_its_mailbox_goes_with_it() {
    let mut registry = registry();
    let mailbox =
        create(&mut registry, MailboxAttributes { owner: Owner::Process, ..small() }, &[]);
    let refusal = open(&mut registry, 1, Role::Receive).unwrap_err();
    assert!(matches!(refusal, Refusal::NotTheOwner { owner_pid: 100, .. }), "{refusal}");
    open(&mut registry, 1, Role::Send).unwrap();
    open(&mut registry, 1, Role::Observe).unwrap();
    open(&mut registry, 0, Role::Receive).unwrap();
    let departure = registry.end_session(id(1));
    assert_eq!(departure.orphans, []);
    let departure = registry.end_session(id(0));
    assert_eq!(departure.orphans, [mailbox]);
}

#[test]
fn a_process_has_one_inbox_and_each_other_process_one_link_to_it() {
    let mut registry = registry();
    let mode = MailboxAttributes { mode: 0o622, ..small() };
    let register = |registry: &mut Registry, session: u8, name: Option<&str>| {
        registry.register(id(session), &who(session), name, &mode).map(|(_, name)| name.to_string())
    };
    let long = "x".repeat(70_000);
    for bad in ["", "101", "0", "99999999999999999999", "a b", "\n", &long] {
        let refusal = register(&mut registry, 0, Some(bad)).unwrap_err();
        assert!(matches!(refusal, Refusal::InvalidName { .. }), "{refusal}");
        assert!(refusal.to_string().len() < 300, "what is refused is not repeated at length");
    }
    assert_eq!(register(&mut registry, 0, Some("lamp")).unwrap(), "process/lamp");
    let refusal = register(&mut registry, 0, None).unwrap_err();
    assert!(matches!(&refusal, Refusal::AlreadyExists { name } if name == "process/lamp"));
    let refusal = register(&mut registry, 1, Some("lamp")).unwrap_err();
    assert!(matches!(&refusal, Refusal::AlreadyExists { name } if name == "process/lamp"));
    assert_eq!(register(&mut registry, 1, Some("101")).unwrap(), "process/101");
    assert_eq!(register(&mut registry, 2, None).unwrap(), "process/102");
    for kept in ["process/door", "process/", "reply/1"] {
        let kept = MailboxName::new(kept).unwrap();
        let refusal = registry.create(id(3), &who(3), &kept, &mode, &[]).unwrap_err();
        assert!(matches!(refusal, Refusal::InvalidName { .. }), "{refusal}");
    }
    let by_name = |name: &str| DirectAddress::Name(name.into());
    for (address, session) in [
        (by_name("lamp"), 0),
        (DirectAddress::Pid(100), 0),
        (by_name("101"), 1),
        (DirectAddress::Pid(102), 2),
    ] {
        let found = registry.find_process(&who(4), &address).unwrap();
        assert_eq!(found, who(session).identity, "{address}");
    }
    let strangers = [by_name("door"), by_name(""), by_name(&long), by_name("\n"), by_name("100")];
    let pids = [0, 103, u32::MAX].map(DirectAddress::Pid);
    for address in strangers.iter().chain(&pids) {
        let refusal = registry.open_direct(id(4), &who(4), address).unwrap_err();
        assert!(matches!(refusal, Refusal::NoSuchProcess { .. }), "{refusal}");
        assert!(refusal.to_string().len() < 200, "what is refused is not repeated at length");
    }
    let link = registry.open_direct(id(4), &who(4), &by_name("lamp")).unwrap();
    let refusal = registry.open_direct(id(4), &who(4), &DirectAddress::Pid(100)).unwrap_err();
    assert!(matches!(refusal, Refusal::AlreadyLinked { pid: 104, .. }), "{refusal}");
    let inbox = MailboxName::new("process/lamp").unwrap();
    let by_open = |registry: &mut Registry, session: u8, role| {
        registry.open(id(session), &who(session), &inbox, role, None)
    };
    let refusal = by_open(&mut registry, 4, Role::Send).unwrap_err();
    assert!(matches!(refusal, Refusal::AlreadyLinked { pid: 104, .. }), "{refusal}");
    assert!(matches!(
        by_open(&mut registry, 4, Role::Receive),
        Err(Refusal::NotTheOwner { owner_pid: 100, .. })
    ));
    by_open(&mut registry, 3, Role::Send).unwrap();
    close(&mut registry, 4, link.link);
    registry.open_direct(id(4), &who(4), &DirectAddress::Pid(100)).unwrap();
    // Who is gone can be reached no more, and its name is free.
    let departure = registry.end_session(id(0));
    depart(&mut registry, departure);
    assert!(registry.find_process(&who(4), &DirectAddress::Pid(100)).is_err());
    assert_eq!(register(&mut registry, 3, Some("lamp")).unwrap(), "process/lamp");
}

#[test]
fn a_process_that_hides_its_inbox_is_not_found() {
    let mut registry = registry();
    let attributes = MailboxAttributes { mode: 0o600, ..small() };
    registry.register(id(0), &who(0), Some("lamp"), &attributes).unwrap();
    let stranger = Identity { pid: 900, uid: 8, gid: 8 };
    registry.begin_session(id(9), stranger).unwrap();
    let stranger = Caller { identity: stranger, groups: &[] };
    let lamp = DirectAddress::Name("lamp".into());
    let refusal = registry.find_process(&stranger, &lamp).unwrap_err();
    assert!(matches!(refusal, Refusal::NoSuchProcess { .. }), "{refusal}");
    let refusal = registry.open_direct(id(9), &stranger, &lamp).unwrap_err();
    assert!(matches!(refusal, Refusal::PermissionDenied { .. }), "{refusal}");
}

#[test]
fn a_process_of_another_pid_namespace_has_no_inbox() {
    let mut registry = registry();
    let hidden = Identity { pid: 0, uid: 7, gid: 7 };
    registry.begin_session(id(9), hidden).unwrap();
    let caller = Caller { identity: hidden, groups: &[] };
    let refusal = registry.register(id(9), &caller, None, &small()).unwrap_err();
    assert!(matches!(refusal, Refusal::NoSuchProcess { .. }), "{refusal}");
    // Nor is it taken for another one of there.
    registry.begin_session(id(8), hidden).unwrap();
    let own = MailboxAttributes { owner: Owner::Process, ..small() };
    registry.create(id(9), &caller, &name(0), &own, &[]).unwrap();
    let open = |registry: &mut Registry, session| {
        registry.open(id(session), &caller, &name(0), Role::Receive, None).map(drop)
    };
    assert!(matches!(open(&mut registry, 8), Err(Refusal::NotTheOwner { .. })));
    assert_eq!(open(&mut registry, 9), Ok(()));
}

#[test]
fn whoever_receives_a_call_may_answer_it_while_its_caller_is_there() {
    let mut registry = registry();
    create(&mut registry, small(), &[]);
    let caller = open(&mut registry, 1, Role::Send).unwrap();
    let other = open(&mut registry, 2, Role::Send).unwrap();
    let server = open(&mut registry, 3, Role::Receive).unwrap();
    let second = open(&mut registry, 3, Role::Receive).unwrap();
    let looker = open(&mut registry, 3, Role::Observe).unwrap();
    let lane = lane_of(&caller).ticket;
    let answer =
        |registry: &mut Registry, link, lane| registry.open_reply(id(3), &who(3), link, lane);
    let gone = |result: Result<Admission, Refusal>| {
        assert_eq!(result.map(drop), Err(Refusal::CallerGone));
    };
    gone(answer(&mut registry, server.link, lane));
    let replies = registry.open_replies(id(1), &who(1), caller.link).unwrap();
    let refusal = registry.open_replies(id(1), &who(1), caller.link).unwrap_err();
    assert!(matches!(refusal, Refusal::AlreadyExists { .. }), "{refusal}");
    for (session, link) in [(3, server.link), (3, looker.link), (1, replies.link), (1, u32::MAX)] {
        let refusal = registry.open_replies(id(session), &who(session), link).unwrap_err();
        assert!(matches!(refusal, Refusal::NoSuchLink { .. }), "{refusal}");
    }
    for link in [looker.link, 99, u32::MAX] {
        let refusal = answer(&mut registry, link, lane).unwrap_err();
        assert!(matches!(refusal, Refusal::NoSuchLink { .. }), "{refusal}");
    }
    let stale = LaneTicket { generation: lane.generation.wrapping_sub(1), ..lane };
    let nowhere = LaneTicket { index: u16::MAX, generation: lane.generation };
    for lane in [stale, nowhere, lane_of(&other).ticket] {
        gone(answer(&mut registry, server.link, lane));
    }
    for link in [server.link, second.link] {
        let admission = answer(&mut registry, link, lane).unwrap();
        assert_eq!(admission.mailbox_id, replies.mailbox_id);
        assert_eq!(lane_of(&admission).sender, who(3).identity);
    }
    // A stranger to the mailbox that was called has no link that could answer, and the mode lets nobody in.
    let refusal = registry.open_reply(id(4), &who(4), server.link, lane).unwrap_err();
    assert!(matches!(refusal, Refusal::NoSuchLink { .. }), "{refusal}");
    let name = registry.mailbox(replies.mailbox_id).unwrap().name.clone();
    let refusal = registry.open(id(3), &who(3), &name, Role::Receive, None).unwrap_err();
    assert!(matches!(refusal, Refusal::NotTheOwner { owner_pid: 101, .. }), "{refusal}");
    let departure = registry.close_link(id(1), caller.link).unwrap();
    assert_eq!(departure.orphans, [replies.mailbox_id]);
    depart(&mut registry, departure);
    gone(answer(&mut registry, server.link, lane));
    // The slot's next lane is another caller's.
    registry.free_lane(1, lane.index, 0, 0);
    let next = open(&mut registry, 4, Role::Send).unwrap();
    registry.open_replies(id(4), &who(4), next.link).unwrap();
    assert_eq!(lane_of(&next).ticket.index, lane.index);
    gone(answer(&mut registry, server.link, lane));
    let departure = registry.end_session(id(4));
    assert_eq!(departure.orphans.len(), 1, "it goes with the session, too");
}

fn quota(refusal: Refusal) -> (u32, String, u64) {
    match refusal {
        Refusal::QuotaExceeded { uid, what, limit, .. } => (uid, what, limit),
        other => panic!("{other}"),
    }
}

#[test]
fn every_link_is_charged_to_its_session_until_it_is_closed_or_that_ends() {
    let limits = Usage { links: 3, ..DEFAULT_LIMITS };
    let mut registry = Registry::new(Quotas::new(limits, HashMap::new()), 0);
    for session in 0..2 {
        registry.begin_session(id(session), who(session).identity).unwrap();
    }
    let mailbox = create(&mut registry, small(), &[]);
    let looker = open(&mut registry, 0, Role::Observe).unwrap();
    open(&mut registry, 1, Role::Observe).unwrap();
    let sender = open(&mut registry, 1, Role::Send).unwrap();
    for role in [Role::Observe, Role::Receive, Role::Send] {
        let refusal = open(&mut registry, 0, role).unwrap_err();
        assert_eq!(refusal.to_string(), "uid 7 uses 3 of 3 links; 1 more were asked for");
    }
    // A refused open is charged nothing.
    close(&mut registry, 0, looker.link);
    registry.mailbox_mut(mailbox).unwrap().traffic = Traffic::Closed;
    let refusal = open(&mut registry, 0, Role::Send).unwrap_err();
    assert!(matches!(refusal, Refusal::Closed { .. }), "{refusal}");
    assert_eq!(registry.quotas().used(7).links, 2);
    // One to a deleted mailbox is there still.
    registry.remove(mailbox).unwrap();
    create(&mut registry, small(), &[]);
    open(&mut registry, 0, Role::Observe).unwrap();
    assert_eq!(quota(open(&mut registry, 0, Role::Observe).unwrap_err()), (7, "links".into(), 3));
    close(&mut registry, 1, sender.link);
    open(&mut registry, 0, Role::Observe).unwrap();
    registry.check_invariants().unwrap();
    for session in 0..2 {
        let departure = registry.end_session(id(session));
        depart(&mut registry, departure);
    }
    assert_eq!(registry.quotas().used(7).links, 0);
}

#[test]
fn answers_are_charged_to_who_has_called_and_not_to_who_answers() {
    let limits = Usage { lanes: 3, ..DEFAULT_LIMITS };
    let server = Caller { identity: Identity { pid: 55, uid: 8, gid: 8 }, groups: &[] };
    let none = Usage { lanes: 0, ..DEFAULT_LIMITS };
    let mut registry = Registry::new(Quotas::new(limits, HashMap::from([(8, none)])), 0);
    registry.begin_session(id(0), who(0).identity).unwrap();
    registry.begin_session(id(1), server.identity).unwrap();
    create(&mut registry, MailboxAttributes { mode: 0o644, ..small() }, &[]);
    let caller = open(&mut registry, 0, Role::Send).unwrap();
    registry.open_replies(id(0), &who(0), caller.link).unwrap();
    let receiver = registry.open(id(1), &server, &name(0), Role::Receive, None).unwrap();
    let lane = lane_of(&caller).ticket;
    let answer = |registry: &mut Registry| {
        registry.open_reply(id(1), &server, receiver.link, lane).map(|admission| admission.link)
    };
    let link = answer(&mut registry).unwrap();
    let wish = |priority| LaneWish { priority, capacity_bytes: SMALL, predecessor: None };
    registry.add_lane((id(1), link), wish(1)).unwrap();
    let used = |registry: &Registry, uid| registry.quotas().used(uid).lanes;
    assert_eq!((used(&registry, 7), used(&registry, 8)), (3, 0));
    assert_eq!(quota(answer(&mut registry).unwrap_err()), (7, "lanes".into(), 3));
    let refusal = registry.add_lane((id(1), link), wish(2)).unwrap_err();
    assert_eq!(quota(refusal), (7, "lanes".into(), 3));
    registry.check_invariants().unwrap();
    let departure = registry.end_session(id(0));
    depart(&mut registry, departure);
    registry.check_invariants().unwrap();
    assert_eq!(used(&registry, 8), 0);
}

/// A daemon that knew nothing of mailboxes in use has kept the doorsteps of those that were not.
#[test]
fn what_a_daemon_of_before_has_left_of_an_idle_mailbox_goes() {
    let mut registry = registry();
    let id = create(&mut registry, small(), &[]);
    let sender = open(&mut registry, 1, Role::Send).unwrap();
    close(&mut registry, 1, sender.link);
    registry.free_lane(id, lane_of(&sender).ticket.index, 7, 1);
    assert_eq!(registry.mailbox(id).unwrap().doorsteps().len(), 2);
    registry.complete();
    registry.check_invariants().unwrap();
    assert_eq!(registry.check_in_use(), Ok(()));
    assert_eq!(registry.mailbox(id).unwrap().doorsteps().len(), 1);
    let before = registry.mailbox(id).unwrap().generation();
    let sender = open(&mut registry, 1, Role::Send).unwrap();
    assert!(matches!(sender.got, Got::Lane { entry: Entry::Added, .. }), "{sender:?}");
    // With each use it has regions of other names.
    close(&mut registry, 1, sender.link);
    registry.free_lane(id, lane_of(&sender).ticket.index, 8, 1);
    assert_eq!(registry.put_idle_away(), [id]);
    assert!(registry.mailbox(id).unwrap().generation() > before);
}
