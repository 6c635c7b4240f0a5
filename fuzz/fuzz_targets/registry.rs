//! Any sequence of operations by several sessions of several users against the daemon's registry: after each of them
//! its invariants hold, and at the end everything is given back.
#![no_main]

use std::collections::HashMap;

use arbitrary::Arbitrary;
use ipcd::registry::link::SessionId;
use ipcd::registry::mailbox::LaneWish;
use ipcd::registry::permission::Caller;
use ipcd::registry::quota::Quotas;
use ipcd::registry::{Departure, Registry};
use libfuzzer_sys::fuzz_target;
use libipc::lane::layout::Traffic;
use libipc::protocol::{
    Buffering, DirectAddress, Group, Identity, LaneTicket, MailboxAttributes, MailboxName, Owner,
    Receivers, Role, SlowGroup, Usage,
};

/// Small enough that every one of them is met.
const LIMITS: Usage = Usage {
    mailboxes: 3,
    lanes: 6,
    sessions: 3,
    links: 9,
    bytes: 1 << 20,
    dead_letters: 3,
    descriptors: 24,
};
const SESSIONS: u8 = 5;
/// Most operations of one input.
const STEPS_MAX: usize = 200;

/// Who asks, and for what. Numbers are taken modulo what there is.
#[derive(Arbitrary, Debug)]
struct Step {
    session: u8,
    what: What,
}

#[derive(Arbitrary, Debug)]
enum What {
    Begin { uid: u8, gid: u8 },
    End,
    Create { name: u8, mode: u16, kind: u8 },
    Delete { name: u8 },
    Open { name: u8, role: u8, group: u8, fails: bool },
    Close { link: u8 },
    FreeLane { name: u8, lane: u8, at: u64, sent: u64 },
    FreeReceiver { name: u8, group: u8, slot: u8 },
    SetTraffic { name: u8, traffic: u8 },
    AddLane { link: u8, priority: u8, size: u8, replaces: Option<u8>, fails: bool, unused: bool },
    Register { name: Option<u8> },
    OpenDirect { pid: u8, by_name: bool },
    OpenReplies { link: u8, fails: bool },
    OpenReply { link: u8, lane: u8, generation: u8 },
    Look { name: u8, after: u64, room: u8 },
}

fuzz_target!(|steps: Vec<Step>| {
    let mut registry = Registry::new(Quotas::new(LIMITS, HashMap::new()), 0);
    let mut there = [None; SESSIONS as usize];
    for step in steps.iter().take(STEPS_MAX) {
        apply(&mut registry, &mut there, step);
        registry.put_idle_away();
        if let Err(broken) = registry.check_invariants().and_then(|()| registry.check_in_use()) {
            panic!("after {step:?}: {broken}");
        }
    }
    for session in 0..SESSIONS {
        let departure = registry.end_session(SessionId(session.into()));
        depart(&mut registry, departure);
    }
    for number in 0..8 {
        if let Ok(mailbox) = registry.find(&name(number)) {
            let id = mailbox.id;
            registry.remove(id);
        }
    }
    assert_eq!(registry.mailbox_count(), 0, "what is a process's goes with it");
    assert_eq!(registry.quotas().users().count(), 0, "everything is given back");
});

fn name(number: u8) -> MailboxName {
    MailboxName::new(&format!("m{}", number % 4)).expect("a name")
}

fn role(number: u8) -> Role {
    [Role::Send, Role::Receive, Role::Observe][usize::from(number % 3)]
}

fn kind(kind: u8, mode: u16) -> (MailboxAttributes, Vec<Group>) {
    let base = MailboxAttributes {
        capacity_bytes: 4096,
        mode: if mode > 0o777 { 0o666 } else { mode },
        receivers_max: 2,
        lanes_max: 3,
        ..MailboxAttributes::default()
    };
    let group = |name: &str, slow| Group { name: MailboxName::new(name).expect("a name"), slow };
    let groups = vec![group("fast", SlowGroup::Block), group("slow", SlowGroup::DropOldest)];
    match kind % 6 {
        0 => (base, Vec::new()),
        1 => (MailboxAttributes { buffering: Buffering::Unbounded, ..base }, Vec::new()),
        2 => (base, groups),
        3 => (MailboxAttributes { owner: Owner::Process, ..base }, Vec::new()),
        4 => (MailboxAttributes { owner: Owner::Process, ..base }, groups),
        _ => {
            let receivers = Receivers::Single;
            (MailboxAttributes { receivers, receivers_max: 1, ..base }, Vec::new())
        }
    }
}

/// Does what the service does about links that have ended.
fn depart(registry: &mut Registry, departure: Departure) {
    for orphan in departure.orphans {
        registry.remove(orphan);
    }
}

fn apply(registry: &mut Registry, there: &mut [Option<Identity>], step: &Step) {
    let number = step.session % SESSIONS;
    let session = SessionId(number.into());
    let place = &mut there[usize::from(number)];
    if let What::Begin { uid, gid } = step.what {
        // Two sessions are one process's.
        let pid = u32::from(number % 4);
        let identity = Identity { pid, uid: u32::from(uid % 3), gid: u32::from(gid % 3) };
        if place.is_none() && registry.begin_session(session, identity).is_ok() {
            *place = Some(identity);
        }
        return;
    }
    let Some(identity) = *place else { return };
    if let What::End = step.what {
        *place = None;
        let departure = registry.end_session(session);
        return depart(registry, departure);
    }
    by_name(registry, session, &Caller { identity, groups: &[1] }, &step.what);
    by_link(registry, session, &Caller { identity, groups: &[1] }, &step.what);
}

/// What is asked of a mailbox by its name, and what the daemon does of its own accord.
fn by_name(registry: &mut Registry, session: SessionId, caller: &Caller<'_>, what: &What) {
    let id = |registry: &Registry, number| registry.find(&name(number)).map(|mailbox| mailbox.id);
    match *what {
        What::Create { name: number, mode, kind: which } => {
            let (attributes, groups) = kind(which, mode);
            let _ = registry.create(session, caller, &name(number), &attributes, &groups);
        }
        What::Delete { name: number } => {
            if let Ok(id) = registry.administered(caller, &name(number), "delete") {
                registry.remove(id).expect("it was found");
            }
        }
        What::Open { name: number, role: which, group, fails } => {
            let name = name(number);
            let groups = registry.find(&name).map(|mailbox| mailbox.named_groups().to_vec());
            let groups = groups.unwrap_or_default();
            let group = groups.get(usize::from(group % 3)).map(|group| &group.name);
            let opened = registry.open(session, caller, &name, role(which), group);
            if let Some(admission) = opened.ok().filter(|_| fails) {
                registry.withdraw(session, &admission);
            }
        }
        What::FreeLane { name, lane, at, sent } => {
            if let Ok(id) = id(registry, name) {
                registry.free_lane(id, lane.into(), at, sent);
            }
        }
        What::FreeReceiver { name, group, slot } => {
            if let Ok(id) = id(registry, name)
                && let Some(mailbox) = registry.mailbox_mut(id)
                && let Some(table) = mailbox.group_mut(group)
            {
                table.free(slot.into(), 1);
            }
        }
        What::SetTraffic { name, traffic } => {
            let all = [Traffic::Open, Traffic::Closed, Traffic::Draining];
            if let Ok(id) = id(registry, name)
                && let Some(mailbox) = registry.mailbox_mut(id)
            {
                mailbox.traffic = all[usize::from(traffic % 3)];
            }
        }
        What::Look { name: number, after, room } => {
            let _ = registry.visible(caller, Some(&name(number))).count();
            if let Ok(mailbox) = registry.find(&name(number)) {
                let page = mailbox.attachments_after(after, room.into());
                assert!(page.lanes.len() + page.doorsteps.len() <= usize::from(room));
            }
        }
        _ => {}
    }
}

/// What is asked of a link, or of a process.
fn by_link(registry: &mut Registry, session: SessionId, caller: &Caller<'_>, what: &What) {
    match *what {
        What::Close { link } => {
            if let Ok(departure) = registry.close_link(session, link.into()) {
                depart(registry, departure);
            }
        }
        What::AddLane { .. } => add_lane(registry, session, what),
        What::Register { name } => {
            let name = name.map(|name| format!("p{}", name % 3));
            let (attributes, _) = kind(0, 0o622);
            let _ = registry.register(session, caller, name.as_deref(), &attributes);
        }
        What::OpenDirect { pid, by_name } => {
            let to = match by_name {
                true => DirectAddress::Name(format!("p{}", pid % 3)),
                false => DirectAddress::Pid(u32::from(pid % 4)),
            };
            let _ = registry.find_process(caller, &to);
            let _ = registry.open_direct(session, caller, &to);
        }
        What::OpenReplies { link, fails } => {
            let opened = registry.open_replies(session, caller, link.into());
            if let Some(admission) = opened.ok().filter(|_| fails) {
                registry.withdraw(session, &admission);
                registry.remove(admission.mailbox_id);
            }
        }
        What::OpenReply { link, lane, generation } => {
            let lane = LaneTicket { index: lane.into(), generation: generation.into() };
            let _ = registry.open_reply(session, caller, link.into(), lane);
        }
        _ => {}
    }
}

fn add_lane(registry: &mut Registry, session: SessionId, what: &What) {
    let What::AddLane { link, priority, size, replaces, fails, unused } = *what else { return };
    let key = (session, u32::from(link));
    let own = |nth: u8| {
        let mailbox = registry.sent_to(key, "be looked at").ok()?;
        let lane = mailbox.lanes().get(usize::from(nth))?;
        Some((lane.info.ticket, lane.info.priority))
    };
    let replaced = replaces.and_then(own);
    let priority = replaced.map_or(priority, |(_, priority)| priority);
    let predecessor = replaced.map(|(ticket, _)| ticket);
    let wish = LaneWish { priority, capacity_bytes: 4096 << (size % 20), predecessor };
    let Ok(lane) = registry.add_lane(key, wish) else { return };
    let id = registry.sent_to(key, "be there").expect("it has a lane").id;
    if fails {
        return registry.withdraw_lane(id, key, &lane);
    }
    if let (Some(replaced), Some(mailbox)) = (predecessor, registry.mailbox_mut(id)) {
        if unused {
            mailbox.leave_out(replaced, lane);
        }
        mailbox.retire_lane(key, replaced);
    }
}
