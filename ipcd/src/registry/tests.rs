//! Random operations keep the registry's invariants.

use std::collections::{BTreeSet, HashMap};

use libipc::lane::layout::SlotState;
use libipc::protocol::{Identity, MailboxAttributes, MailboxName, Refusal, Role, Usage};
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};

use super::link::{LinkRole, SessionId};
use super::mailbox::Mailbox;
use super::permission::Caller;
use super::quota::Quotas;
use super::{Got, Registry};

const LIMITS: Usage = Usage { mailboxes: 3, lanes: 6, sessions: 3, bytes: 300 << 10 };

#[derive(Clone, Debug)]
enum Step {
    Begin { session: u8, uid: u8 },
    End { session: u8 },
    Create { session: u8, name: u8, mode: u16 },
    Delete { session: u8, name: u8 },
    Open { session: u8, name: u8, role: Role },
    Withdraw { session: u8, name: u8, role: Role },
    Close { session: u8, link: u8 },
    FreeLane { name: u8, lane: u8 },
    FreeReceiver { name: u8, slot: u8 },
    Traffic { name: u8, open: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let role = || prop_oneof![Just(Role::Send), Just(Role::Receive), Just(Role::Observe)];
    let (session, name) = (|| 0u8..4, || 0u8..4);
    prop_oneof![
        (session(), 0u8..3).prop_map(|(session, uid)| Step::Begin { session, uid }),
        session().prop_map(|session| Step::End { session }),
        (session(), name(), prop_oneof![Just(0o600), Just(0o666), Just(0o622)])
            .prop_map(|(session, name, mode)| Step::Create { session, name, mode }),
        (session(), name()).prop_map(|(session, name)| Step::Delete { session, name }),
        (session(), name(), role()).prop_map(|(session, name, role)| Step::Open {
            session,
            name,
            role
        }),
        (session(), name(), role()).prop_map(|(session, name, role)| Step::Open {
            session,
            name,
            role
        }),
        (session(), name(), role()).prop_map(|(session, name, role)| Step::Withdraw {
            session,
            name,
            role
        }),
        (session(), 0u8..12).prop_map(|(session, link)| Step::Close { session, link }),
        (name(), 0u8..4).prop_map(|(name, lane)| Step::FreeLane { name, lane }),
        (name(), 0u8..4).prop_map(|(name, slot)| Step::FreeReceiver { name, slot }),
        (name(), any::<bool>()).prop_map(|(name, open)| Step::Traffic { name, open }),
    ]
}

fn name(number: u8) -> MailboxName {
    MailboxName::new(&format!("m{number}")).unwrap()
}

fn id(session: u8) -> SessionId {
    SessionId(session.into())
}

fn apply(registry: &mut Registry, step: &Step) {
    let identity = |registry: &Registry, session: u8| {
        registry.sessions.get(&id(session)).map(|session| session.identity)
    };
    let number = |registry: &Registry, mailbox: u8| registry.find(&name(mailbox)).map(|m| m.id);
    match *step {
        Step::Begin { session, uid } => {
            if identity(registry, session).is_none() {
                let identity = Identity { pid: 1, uid: u32::from(uid) + 10, gid: 5 };
                let _ = registry.begin_session(id(session), identity);
            }
        }
        Step::End { session } => drop(registry.end_session(id(session))),
        Step::Create { session, name: mailbox, mode } => {
            let Some(identity) = identity(registry, session) else { return };
            let attributes = MailboxAttributes {
                capacity_bytes: 4096,
                mode,
                receivers_max: 2,
                lanes_max: 3,
                ..MailboxAttributes::default()
            };
            let _ = registry.create(&Caller { identity, groups: &[] }, &name(mailbox), &attributes);
        }
        Step::Delete { session, name: mailbox } => {
            let Some(identity) = identity(registry, session) else { return };
            let caller = Caller { identity, groups: &[] };
            if let Ok(id) = registry.administered(&caller, &name(mailbox), "delete") {
                registry.remove(id).unwrap();
            }
        }
        Step::Open { session, name: mailbox, role } => {
            let Some(identity) = identity(registry, session) else { return };
            let caller = Caller { identity, groups: &[] };
            let _ = registry.open(id(session), &caller, &name(mailbox), role);
        }
        Step::Withdraw { session, name: mailbox, role } => {
            let Some(identity) = identity(registry, session) else { return };
            let caller = Caller { identity, groups: &[] };
            if let Ok(admission) = registry.open(id(session), &caller, &name(mailbox), role) {
                registry.withdraw(id(session), &admission);
            }
        }
        Step::Close { session, link } => {
            let _ = registry.close_link(id(session), link.into());
        }
        Step::FreeLane { name: mailbox, lane } => {
            if let Ok(id) = number(registry, mailbox) {
                registry.free_lane(id, lane.into(), 7, 1);
            }
        }
        Step::FreeReceiver { name: mailbox, slot } => {
            if let Ok(id) = number(registry, mailbox) {
                registry.mailbox_mut(id).unwrap().free_receiver(slot.into(), 1);
            }
        }
        Step::Traffic { name: mailbox, open } => {
            if let Ok(id) = number(registry, mailbox) {
                registry.mailbox_mut(id).unwrap().open = open;
            }
        }
    }
}

/// Counts everything anew and compares.
fn check(registry: &Registry) {
    let mut used: HashMap<u32, Usage> = HashMap::new();
    for session in registry.sessions.values() {
        used.entry(session.identity.uid).or_default().sessions += 1;
    }
    for mailbox in registry.mailboxes.values() {
        let owner = used.entry(mailbox.ownership.uid).or_default();
        owner.mailboxes += 1;
        owner.bytes += mailbox.owner_bytes();
        for lane in mailbox.lanes().iter().filter(|lane| lane.state != SlotState::Free) {
            let sender = used.entry(lane.info.sender.uid).or_default();
            sender.lanes += 1;
            sender.bytes += mailbox.lane_bytes();
        }
        check_mailbox(registry, mailbox);
    }
    let counted: HashMap<u32, Usage> = registry.quotas.users().collect();
    assert_eq!(counted, used, "a quota's use is what counting anew gives");
    for usage in used.values() {
        assert!(usage.mailboxes <= LIMITS.mailboxes && usage.lanes <= LIMITS.lanes);
        assert!(usage.sessions <= LIMITS.sessions && usage.bytes <= LIMITS.bytes);
    }
    assert_eq!(registry.names.len(), registry.mailboxes.len());
    for (session, entry) in &registry.sessions {
        for (number, link) in entry.links().filter(|(_, link)| !link.deleted) {
            let mailbox = &registry.mailboxes[&link.mailbox_id];
            assert!(mailbox.links.contains(&(*session, number)), "a link that its mailbox knows");
        }
    }
}

fn check_mailbox(registry: &Registry, mailbox: &Mailbox) {
    assert_eq!(registry.names[&mailbox.name], mailbox.id);
    let (mut lanes, mut slots) = (BTreeSet::new(), BTreeSet::new());
    for (session, number) in &mailbox.links {
        let link = registry.sessions[session].link(*number, "be there").unwrap();
        assert_eq!(link.mailbox_id, mailbox.id);
        match link.role {
            LinkRole::Send { lane } => assert!(lanes.insert(lane.index), "one lane a link"),
            LinkRole::Receive { slot } => assert!(slots.insert(slot), "one slot a link"),
            LinkRole::Observe => {}
        }
    }
    for (index, lane) in (0..).zip(mailbox.lanes()) {
        assert_eq!(lane.state == SlotState::Active, lanes.contains(&index));
    }
    for (index, slot) in (0..).zip(mailbox.receivers()) {
        assert_eq!(slot.state == SlotState::Active, slots.contains(&index));
    }
    assert_eq!(mailbox.senders() as usize, lanes.len());
    assert_eq!(mailbox.active_receivers() as usize, slots.len());
    let page = mailbox.attachments_after(0, 1000);
    assert_eq!(page.doorsteps.len(), mailbox.doorsteps().len());
    let there = mailbox.lanes().iter().filter(|lane| lane.state != SlotState::Free).count();
    assert_eq!(page.lanes.len(), there, "receivers are told of every lane that is there");
    for lane in &page.lanes {
        let uid = mailbox.doorsteps()[usize::from(lane.doorstep)];
        assert_eq!(uid, lane.sender.uid, "a sender maps the doorstep of its own uid alone");
    }
}

proptest! {
    #[test]
    fn any_operations_keep_quotas_exact_and_links_whole(
        steps in proptest::collection::vec(step(), 1..120)
    ) {
        let mut registry = Registry::new(Quotas::new(LIMITS, HashMap::new()), 0);
        for step in &steps {
            apply(&mut registry, step);
            check(&registry);
        }
        for session in 0..4 {
            registry.end_session(id(session));
        }
        let left: Vec<u64> = registry.mailboxes.keys().copied().collect();
        for mailbox in left {
            registry.remove(mailbox);
        }
        assert_eq!(registry.quotas.users().count(), 0, "everything is given back");
    }
}

fn root() -> Caller<'static> {
    Caller { identity: Identity { pid: 1, uid: 0, gid: 0 }, groups: &[] }
}

fn with_mailbox(attributes: MailboxAttributes) -> Registry {
    let unlimited = Usage { mailboxes: 9, lanes: 999, sessions: 9, bytes: 1 << 40 };
    let mut registry = Registry::new(Quotas::new(unlimited, HashMap::new()), 5);
    registry.begin_session(id(0), root().identity).unwrap();
    registry.create(&root(), &name(0), &attributes).unwrap();
    registry
}

#[test]
fn a_mailbox_has_room_for_a_bounded_number_of_sender_uids() {
    let mut registry = with_mailbox(MailboxAttributes { mode: 0o622, ..Default::default() });
    let mut open = |uid| {
        let caller = Caller { identity: Identity { uid, ..root().identity }, groups: &[] };
        registry.open(id(0), &caller, &name(0), Role::Send).map(|admission| admission.got)
    };
    for uid in 1..=127 {
        assert!(matches!(open(uid), Ok(Got::Lane { doorstep_is_new: true, .. })));
    }
    let refusal = open(128).unwrap_err();
    assert!(
        matches!(&refusal, Refusal::MailboxFull { what, limit: 127, .. } if what == "sender uids"),
        "{refusal:?}"
    );
    assert!(matches!(open(127), Ok(Got::Lane { doorstep_is_new: false, .. })));
}

#[test]
fn a_slots_next_lane_begins_where_the_last_one_ended() {
    let mut registry = with_mailbox(MailboxAttributes::default());
    let open = |registry: &mut Registry| {
        let admission = registry.open(id(0), &root(), &name(0), Role::Send).unwrap();
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
