//! Random operations keep the registry's invariants; [`rules`] tells the rules one by one,
//! [`replay`] that the records of what has changed have all of it.

mod replay;
mod rules;

use std::collections::HashMap;

use libipc::lane::layout::Traffic;
use libipc::protocol::{
    Buffering, DirectAddress, Group, Identity, LaneTicket, MailboxAttributes, MailboxName, Owner,
    Reason, Receivers, Refusal, Role, SlowGroup, Usage,
};
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};

use super::dead_letter::Message;
use super::doorstep::Entry;
use super::link::SessionId;
use super::mailbox::LaneWish;
use super::permission::Caller;
use super::quota::{DEFAULT_LIMITS, Quotas};
use super::{Admission, Got, Registry};

const LIMITS: Usage = Usage {
    mailboxes: 3,
    lanes: 6,
    sessions: 3,
    links: 9,
    bytes: 1 << 20,
    dead_letters: 3,
    descriptors: 24,
};

#[derive(Clone, Debug)]
enum Step {
    Begin { session: u8, uid: u8 },
    End { session: u8 },
    Create { session: u8, name: u8, mode: u16, kind: u8 },
    Delete { session: u8, name: u8 },
    Open { session: u8, name: u8, role: Role },
    Withdraw { session: u8, name: u8, role: Role },
    Close { session: u8, link: u8 },
    FreeLane { name: u8, lane: u8 },
    FreeReceiver { name: u8, group: u8, slot: u8 },
    Traffic { name: u8, traffic: Traffic },
    AddLane { session: u8, link: u8, priority: u8, size: u8, replaces: Option<u8>, fails: bool },
    Register { session: u8, name: Option<u8> },
    OpenDirect { session: u8, pid: u8 },
    OpenReplies { session: u8, link: u8, fails: bool },
    OpenReply { session: u8, link: u8, lane: u8, generation: u8 },
    Bury { name: u8, len: u16, fails: bool },
    Requeue { name: u8, number: Option<u64> },
    FreeLetter { name: u8, lane: u8 },
    DeleteLetters { name: u8 },
    OpenLetters { session: u8, name: u8, role: Role },
}

fn step() -> impl Strategy<Value = Step> {
    let role = || prop_oneof![Just(Role::Send), Just(Role::Receive), Just(Role::Observe)];
    let (session, name) = (|| 0u8..4, || 0u8..4);
    let traffic =
        || prop_oneof![Just(Traffic::Open), Just(Traffic::Closed), Just(Traffic::Draining)];
    prop_oneof![
        1 => (session(), 0u8..3).prop_map(|(session, uid)| Step::Begin { session, uid }),
        1 => session().prop_map(|session| Step::End { session }),
        1 => (session(), name(), prop_oneof![Just(0o600), Just(0o666), Just(0o622)], 0u8..5)
            .prop_map(|(session, name, mode, kind)| Step::Create { session, name, mode, kind }),
        1 => (session(), name()).prop_map(|(session, name)| Step::Delete { session, name }),
        3 => (session(), name(), role()).prop_map(|(session, name, role)| Step::Open {
            session,
            name,
            role
        }),
        1 => (session(), name(), role()).prop_map(|(session, name, role)| Step::Withdraw {
            session,
            name,
            role
        }),
        1 => (session(), 0u8..12).prop_map(|(session, link)| Step::Close { session, link }),
        1 => (name(), 0u8..4).prop_map(|(name, lane)| Step::FreeLane { name, lane }),
        1 => (name(), 0u8..3, 0u8..4)
            .prop_map(|(name, group, slot)| Step::FreeReceiver { name, group, slot }),
        1 => (name(), traffic()).prop_map(|(name, traffic)| Step::Traffic { name, traffic }),
        4 => (session(), 0u8..8, 0u8..34, 0u8..4, proptest::option::of(0u8..4), any::<bool>())
            .prop_map(|(session, link, priority, size, replaces, fails)| Step::AddLane {
                session,
                link,
                priority: if priority < 30 { priority % 3 } else { priority },
                size,
                replaces,
                fails,
            }),
        1 => (session(), proptest::option::of(0u8..3))
            .prop_map(|(session, name)| Step::Register { session, name }),
        1 => (session(), 0u8..4).prop_map(|(session, pid)| Step::OpenDirect { session, pid }),
        2 => (session(), 0u8..8, any::<bool>())
            .prop_map(|(session, link, fails)| Step::OpenReplies { session, link, fails }),
        3 => (session(), 0u8..8, 0u8..3, 0u8..3).prop_map(
            |(session, link, lane, generation)| Step::OpenReply { session, link, lane, generation }
        ),
        3 => (name(), 0u16..9000, any::<bool>())
            .prop_map(|(name, len, fails)| Step::Bury { name, len, fails }),
        2 => (name(), proptest::option::of(0u64..4))
            .prop_map(|(name, number)| Step::Requeue { name, number }),
        1 => (name(), 0u8..4).prop_map(|(name, lane)| Step::FreeLetter { name, lane }),
        1 => name().prop_map(|name| Step::DeleteLetters { name }),
        1 => (session(), name(), role())
            .prop_map(|(session, name, role)| Step::OpenLetters { session, name, role }),
    ]
}

fn name(number: u8) -> MailboxName {
    MailboxName::new(&format!("m{number}")).unwrap()
}

fn id(session: u8) -> SessionId {
    SessionId(session.into())
}

/// A few kinds of mailbox, with their groups.
fn kind(kind: u8, mode: u16) -> (MailboxAttributes, Vec<Group>) {
    let base = MailboxAttributes {
        capacity_bytes: 4096,
        mode,
        receivers_max: 2,
        lanes_max: 3,
        ..MailboxAttributes::default()
    };
    let group = |name: &str, slow| Group { name: MailboxName::new(name).unwrap(), slow };
    let groups = vec![group("fast", SlowGroup::Block), group("slow", SlowGroup::DropOldest)];
    match kind {
        0 => (base, Vec::new()),
        1 => (MailboxAttributes { buffering: Buffering::Unbounded, ..base }, Vec::new()),
        2 => (base, groups),
        3 => (MailboxAttributes { owner: Owner::Process, ..base }, Vec::new()),
        _ => {
            let receivers = Receivers::Single;
            (MailboxAttributes { receivers, receivers_max: 1, ..base }, Vec::new())
        }
    }
}

/// Does what a service does about links that have ended.
fn depart(registry: &mut Registry, departure: super::Departure) {
    for orphan in departure.orphans {
        remove(registry, orphan);
    }
}

/// Removes a mailbox as a service does: its dead letters first.
fn remove(registry: &mut Registry, id: u64) {
    if let Some(dead) = registry.mailbox(id).and_then(|mailbox| mailbox.dead_letters) {
        registry.remove(dead).unwrap();
    }
    registry.remove(id);
}

/// Opens, and takes it back as a service does that cannot make the regions.
fn withdraw(registry: &mut Registry, step: &Step) {
    let Step::Withdraw { session, name: mailbox, role } = *step else { return };
    let Some(identity) = registry.sessions.get(&id(session)).map(|session| session.identity) else {
        return;
    };
    let caller = Caller { identity, groups: &[] };
    let group = group_of(registry, mailbox);
    let session = id(session);
    let opened = registry.open(session, &caller, &name(mailbox), role, group.as_ref());
    if let Ok(admission) = opened {
        registry.withdraw(session, &admission);
    }
}

/// Does a step, and what a service does once a request is done.
fn apply(registry: &mut Registry, step: &Step) {
    act(registry, step);
    registry.put_idle_away();
    assert_eq!(registry.check_in_use(), Ok(()));
}

fn act(registry: &mut Registry, step: &Step) {
    let identity = |registry: &Registry, session: u8| {
        registry.sessions.get(&id(session)).map(|session| session.identity)
    };
    let number = |registry: &Registry, mailbox: u8| registry.find(&name(mailbox)).map(|m| m.id);
    match *step {
        Step::Begin { session, uid } => {
            if identity(registry, session).is_none() {
                let pid = u32::from(session % 3) + 1;
                let identity = Identity { pid, uid: u32::from(uid) + 10, gid: 5 };
                let _ = registry.begin_session(id(session), identity);
            }
        }
        Step::End { session } => {
            let departure = registry.end_session(id(session));
            depart(registry, departure);
        }
        Step::Create { session, name: mailbox, mode, kind: number } => {
            let Some(identity) = identity(registry, session) else { return };
            let (attributes, groups) = kind(number, mode);
            let caller = Caller { identity, groups: &[] };
            let _ = registry.create(id(session), &caller, &name(mailbox), &attributes, &groups);
        }
        Step::Delete { session, name: mailbox } => {
            let Some(identity) = identity(registry, session) else { return };
            let caller = Caller { identity, groups: &[] };
            if let Ok(id) = registry.administered(&caller, &name(mailbox), "delete") {
                remove(registry, id);
            }
        }
        Step::Open { session, name: mailbox, role } => {
            let Some(identity) = identity(registry, session) else { return };
            let caller = Caller { identity, groups: &[] };
            let group = group_of(registry, mailbox);
            let _ = registry.open(id(session), &caller, &name(mailbox), role, group.as_ref());
        }
        Step::Withdraw { .. } => withdraw(registry, step),
        Step::Close { session, link } => {
            if let Ok(departure) = registry.close_link(id(session), link.into()) {
                depart(registry, departure);
            }
        }
        Step::FreeLane { name: mailbox, lane } => {
            if let Ok(id) = number(registry, mailbox) {
                registry.free_lane(id, lane.into(), 7, 1);
            }
        }
        Step::FreeReceiver { name: mailbox, group, slot } => {
            if let Ok(id) = number(registry, mailbox)
                && let Some(table) = registry.mailbox_mut(id).unwrap().group_mut(group)
            {
                table.free(slot.into(), 1);
            }
        }
        Step::Traffic { name: mailbox, traffic } => {
            if let Ok(id) = number(registry, mailbox) {
                registry.mailbox_mut(id).unwrap().traffic = traffic;
            }
        }
        Step::AddLane { .. } => add_lane(registry, step),
        Step::Register { .. }
        | Step::OpenDirect { .. }
        | Step::OpenReplies { .. }
        | Step::OpenReply { .. } => reach(registry, step),
        Step::Bury { .. }
        | Step::Requeue { .. }
        | Step::FreeLetter { .. }
        | Step::DeleteLetters { .. }
        | Step::OpenLetters { .. } => bury(registry, step),
    }
}

/// Steps of dead letters.
fn bury(registry: &mut Registry, step: &Step) {
    let number =
        |registry: &Registry, mailbox: u8| registry.find(&name(mailbox)).ok().map(|m| m.id);
    let letters = |registry: &Registry, mailbox: u8| {
        registry.find(&name(mailbox)).ok().and_then(|mailbox| mailbox.dead_letters)
    };
    match *step {
        Step::Bury { name, len, fails } => {
            let Some(id) = number(registry, name) else { return };
            let Ok((dead, _)) = registry.dead_letters_for(id) else { return };
            let sender = Identity { pid: 9, uid: 77, gid: 5 };
            let message = Message { sender, priority: 3, len: len.into() };
            let lane = registry.add_dead_letter(dead, message, Reason::Rejected, 1, 0);
            if let Ok(lane) = lane {
                let number = lane.dead_letter.unwrap().number;
                assert_eq!(number, registry.mailbox(dead).unwrap().last_dead_letter);
                assert!(lane.capacity_bytes >= u64::from(len) + 16);
                if fails {
                    registry.free_lane(dead, lane.ticket.index, lane.first_position, 0);
                }
            }
        }
        Step::Requeue { name, number: which } => {
            let Some((id, dead)) = number(registry, name).zip(letters(registry, name)) else {
                return;
            };
            let found = registry.mailbox(dead).unwrap().letters(which);
            assert!(which.is_none() || found.len() < 2, "a number is one letter's");
            for (_, lane) in found {
                let message = Message { sender: lane.sender, priority: lane.priority, len: 8 };
                if let Ok(requeued) = registry.add_requeued(id, message, 0) {
                    assert_eq!((requeued.sender, requeued.dead_letter), (lane.sender, None));
                    registry.free_lane(dead, lane.ticket.index, 3, 1);
                }
            }
        }
        Step::FreeLetter { name, lane } => {
            if let Some(dead) = letters(registry, name) {
                registry.free_lane(dead, lane.into(), 7, 1);
            }
        }
        Step::DeleteLetters { name } => {
            if let Some(dead) = letters(registry, name) {
                registry.remove(dead).unwrap();
            }
        }
        Step::OpenLetters { session, name: mailbox, role } => {
            let Some(entry) = registry.sessions.get(&id(session)) else { return };
            let caller = Caller { identity: entry.identity, groups: &[] };
            let dead = name(mailbox).of_dead_letters();
            if let Some(of) = registry.wants_dead_letters(&caller, &dead, role) {
                let _ = registry.dead_letters_for(of);
            }
            let opened = registry.open(id(session), &caller, &dead, role, None);
            assert!(role != Role::Send || opened.is_err(), "ipcd alone writes dead letters");
        }
        _ => {}
    }
}

fn add_lane(registry: &mut Registry, step: &Step) {
    let Step::AddLane { session, link, priority, size, replaces, fails } = *step else { return };
    let key = (id(session), u32::from(link));
    let capacity_bytes = 4096 << size;
    let own = |nth: u8| {
        let mailbox = registry.sent_to(key, "be looked at").ok()?;
        let lane = mailbox.lanes().get(usize::from(nth))?;
        Some((lane.info.ticket, lane.info.priority))
    };
    let replaced = replaces.and_then(own);
    let priority = replaced.map_or(priority, |(_, priority)| priority);
    let predecessor = replaced.map(|(ticket, _)| ticket);
    let wish = LaneWish { priority, capacity_bytes, predecessor };
    let Ok(lane) = registry.add_lane(key, wish) else { return };
    let id = registry.sent_to(key, "be there").unwrap().id;
    match predecessor {
        _ if fails => registry.withdraw_lane(id, key, &lane),
        Some(replaced) => registry.mailbox_mut(id).unwrap().retire_lane(key, replaced),
        None => {}
    }
}

/// Steps of direct naming, and of answers to calls.
fn reach(registry: &mut Registry, step: &Step) {
    let identity = |registry: &Registry, session: u8| {
        registry.sessions.get(&id(session)).map(|session| session.identity)
    };
    match *step {
        Step::Register { session, name } => {
            let Some(identity) = identity(registry, session) else { return };
            let caller = Caller { identity, groups: &[] };
            let (attributes, _) = kind(0, 0o622);
            let name = name.map(|name| format!("p{name}"));
            let _ = registry.register(id(session), &caller, name.as_deref(), &attributes);
        }
        Step::OpenDirect { session, pid } => {
            let Some(identity) = identity(registry, session) else { return };
            let caller = Caller { identity, groups: &[] };
            let to = DirectAddress::Pid(pid.into());
            let _ = registry.open_direct(id(session), &caller, &to);
        }
        Step::OpenReplies { session, link, fails } => {
            let Some(identity) = identity(registry, session) else { return };
            let caller = Caller { identity, groups: &[] };
            let opened = registry.open_replies(id(session), &caller, link.into());
            if let Some(admission) = opened.ok().filter(|_| fails) {
                registry.withdraw(id(session), &admission);
                registry.remove(admission.mailbox_id);
            }
        }
        Step::OpenReply { session, link, lane, generation } => {
            let Some(identity) = identity(registry, session) else { return };
            let caller = Caller { identity, groups: &[] };
            let lane = LaneTicket { index: lane.into(), generation: generation.into() };
            let _ = registry.open_reply(id(session), &caller, link.into(), lane);
        }
        _ => {}
    }
}

/// A group of a mailbox, if it has any.
fn group_of(registry: &Registry, mailbox: u8) -> Option<MailboxName> {
    let mailbox = registry.find(&name(mailbox)).ok()?;
    mailbox.named_groups().get(mailbox.id as usize % 2).map(|group| group.name.clone())
}

proptest! {
    #[test]
    fn any_operations_keep_quotas_exact_and_links_whole(
        steps in proptest::collection::vec(step(), 1..120)
    ) {
        let mut registry = Registry::new(Quotas::new(LIMITS, HashMap::new()), 0);
        for step in &steps {
            apply(&mut registry, step);
            registry.check_invariants().unwrap();
        }
        for session in 0..4 {
            let departure = registry.end_session(id(session));
            depart(&mut registry, departure);
        }
        let left: Vec<u64> = registry.mailboxes.keys().copied().collect();
        for mailbox in left {
            remove(&mut registry, mailbox);
        }
        assert_eq!(registry.quotas.users().count(), 0, "everything is given back");
    }
}

fn root() -> Caller<'static> {
    Caller { identity: Identity { pid: 1, uid: 0, gid: 0 }, groups: &[] }
}

fn with_mailbox(attributes: MailboxAttributes) -> Registry {
    let mut registry = Registry::new(Quotas::new(DEFAULT_LIMITS, HashMap::new()), 5);
    registry.begin_session(id(0), root().identity).unwrap();
    registry.create(id(0), &root(), &name(0), &attributes, &[]).unwrap();
    registry
}

#[test]
fn a_mailbox_has_room_for_a_bounded_number_of_sender_uids() {
    let mut registry = with_mailbox(MailboxAttributes { mode: 0o622, ..Default::default() });
    let mut open = |uid| {
        let caller = Caller { identity: Identity { uid, ..root().identity }, groups: &[] };
        registry.open(id(0), &caller, &name(0), Role::Send, None).map(|admission| admission.got)
    };
    for uid in 1..=127 {
        assert!(matches!(open(uid), Ok(Got::Lane { entry: Entry::Added, .. })));
    }
    let refusal = open(128).unwrap_err();
    assert!(
        matches!(&refusal, Refusal::MailboxFull { what, limit: 127, .. } if what == "sender uids"),
        "{refusal:?}"
    );
    assert!(matches!(open(127), Ok(Got::Lane { entry: Entry::Known, .. })));
}

#[test]
fn a_doorstep_is_given_to_another_uid_once_its_own_has_no_lane_and_none_is_left() {
    let mut registry = with_mailbox(MailboxAttributes { mode: 0o622, ..Default::default() });
    let mailbox = registry.find(&name(0)).unwrap().id;
    let open = |registry: &mut Registry, uid| {
        let caller = Caller { identity: Identity { uid, ..root().identity }, groups: &[] };
        registry.open(id(0), &caller, &name(0), Role::Send, None)
    };
    let lane_of = |admission: &Admission| match admission.got {
        Got::Lane { lane, entry } => (lane, entry),
        _ => panic!("{admission:?}"),
    };
    let admissions: Vec<_> = (1..=127).map(|uid| open(&mut registry, uid).unwrap()).collect();
    let fifth = lane_of(&admissions[4]).0;
    registry.close_link(id(0), admissions[4].link).unwrap();
    // Its lane is yet to be drained.
    let refusal = open(&mut registry, 128).unwrap_err();
    assert!(matches!(refusal, Refusal::MailboxFull { .. }), "{refusal}");
    registry.free_lane(mailbox, fifth.ticket.index, 5, 0);
    let (used, told) = (registry.quotas().used(0), registry.mailbox(mailbox).unwrap());
    let told = told.attachments_after(0, usize::MAX).through;
    let admission = open(&mut registry, 128).unwrap();
    let (lane, entry) = lane_of(&admission);
    assert!(matches!(entry, Entry::InPlaceOf(old) if old.uid == 5), "{entry:?}");
    assert_eq!(lane.doorstep, fifth.doorstep);
    let page = registry.mailbox(mailbox).unwrap().attachments_after(told, usize::MAX);
    assert_eq!(page.doorsteps, [(fifth.doorstep, 128)]);
    registry.check_invariants().unwrap();
    assert!(matches!(open(&mut registry, 5).unwrap_err(), Refusal::MailboxFull { .. }));
    // Its region could not be made.
    registry.withdraw(id(0), &admission);
    registry.check_invariants().unwrap();
    assert_eq!(registry.quotas().used(0), used);
    let told = registry.mailbox(mailbox).unwrap().attachments_after(0, usize::MAX);
    assert!(told.doorsteps.contains(&(fifth.doorstep, 5)), "{told:?}");
    assert_eq!(lane_of(&open(&mut registry, 5).unwrap()).1, Entry::Known);
}

#[test]
fn a_slots_next_lane_begins_where_it_is_told_to() {
    let mut registry = with_mailbox(MailboxAttributes::default());
    let open = |registry: &mut Registry| {
        let admission = registry.open(id(0), &root(), &name(0), Role::Send, None).unwrap();
        let Got::Lane { lane, .. } = admission.got else { panic!() };
        (admission.link, lane)
    };
    let (link, first) = open(&mut registry);
    assert_eq!((first.ticket.generation, first.first_position), (1, 5));
    registry.close_link(id(0), link).unwrap();
    let (_, other) = open(&mut registry);
    assert_eq!(other.ticket.index, 1, "a lane that is not drained keeps its slot");
    registry.free_lane(1, 0, 42, 0);
    let (_, next) = open(&mut registry);
    assert_eq!((next.ticket.index, next.ticket.generation, next.first_position), (0, 2, 42));
}
