//! Every kind of request, and what comes before it. One is left out: whoever has the daemon start anew ends it
//! (`tests/restart.rs`).

use std::os::fd::OwnedFd;

use libipc::protocol::{DirectAddress, LaneInfo, Opened, OpenedRole, Queued, Refresh, Request};
use libipc::{GroupName, MailboxName, Reason, Role, SlowGroup};
use tests::publish;

use crate::hands::Hands;
use crate::scene::{self, MESSAGE, NAME, Prepare, Scene, link_and_lane, name, small};

/// Requests that change something, with what comes before them.
pub(crate) const CHANGES: &[(&str, Prepare)] = &[
    ("create", |_| {
        let name = MailboxName::new("new").expect("a name");
        Request::Create { name, attributes: small().attributes(), groups: Vec::new() }
    }),
    ("register", |_| Request::Register {
        name: Some("us".into()),
        attributes: small().attributes(),
    }),
    ("delete", |scene| {
        scene.send(1);
        Request::Delete { name: name(), queued: Queued::Discard }
    }),
    ("delete, somebody waits", |scene| {
        let mut child = scene.daemon.child();
        child.done(&format!("receiver {NAME}"));
        child.tell("receive");
        tests::wait_until("the receiver sleeps", || child.sleeps());
        scene.waits = Some(child);
        Request::Delete { name: name(), queued: Queued::Discard }
    }),
    ("delete when drained", |scene| {
        scene.send(1);
        Request::Delete { name: name(), queued: Queued::Drain }
    }),
    ("open to send", |_| open(Role::Send)),
    ("open to receive", |scene| {
        scene.send(1);
        open(Role::Receive)
    }),
    ("open to look", |scene| {
        scene.send(1);
        open(Role::Observe)
    }),
    ("open what nobody has open any more", |scene| {
        let (link, _) = scene.open_to_send();
        let _ = scene.asks.ask(&Request::CloseLink { link });
        open(Role::Send)
    }),
    ("open another process's inbox", |scene| {
        register(scene);
        Request::OpenDirect { to: DirectAddress::Name("them".into()) }
    }),
    ("open for answers", |scene| Request::OpenReplies { link: scene.open_to_send().0 }),
    ("open to answer", |scene| {
        let mut caller = scene.another();
        let (link, lane) = link_and_lane(&caller.open(NAME, Role::Send).expect("ours to open").0);
        let _ = caller.ask(&Request::OpenReplies { link });
        scene.stay.push(caller);
        Request::OpenReply { link: scene.open(Role::Receive).0.link, lane: lane.ticket }
    }),
    ("add a lane", |scene| {
        let (link, lane) = scene.open_to_send();
        let capacity_bytes = lane.capacity_bytes;
        Request::AddLane { link, priority: 3, capacity_bytes, replaces: None }
    }),
    ("go on in a lane", |scene| {
        let (link, lane) = scene.open_to_send();
        let capacity_bytes = 2 * lane.capacity_bytes;
        Request::AddLane { link, priority: 0, capacity_bytes, replaces: Some(lane.ticket) }
    }),
    ("have the oldest dropped", |scene| {
        let (link, lane) = send_to_group(scene);
        let (from, granules) = (lane.first_position, 2 * 2);
        let (group, through, messages) = (0, from + granules, 2);
        Request::DropOldest { link, lane: lane.ticket, group, from, through, messages }
    }),
    ("report a drained lane", |scene| {
        let (link, hands) = receive_all(scene);
        hands.acknowledge();
        Request::LaneDrained { link, lane: hands.lane.ticket }
    }),
    ("report a drained mailbox", |scene| {
        let (link, hands) = receive_all(scene);
        scene.client.delete_when_drained(NAME).expect("ours to delete");
        hands.acknowledge();
        Request::Drained { link }
    }),
    ("close a sender's link", |scene| Request::CloseLink { link: scene.open_to_send().0 }),
    ("close a receiver's link", |scene| {
        let (link, ..) = scene.open_with_message_in_hand();
        Request::CloseLink { link }
    }),
    ("close to new sends", |_| Request::SetTraffic { name: name(), open: false }),
    ("open to new sends", |scene| {
        scene.client.close(NAME).expect("ours to close");
        Request::SetTraffic { name: name(), open: true }
    }),
    ("reject", |scene| {
        let (link, lane, position) = scene.open_with_message_in_hand();
        Request::Reject { link, lane, position, reason: Reason::Rejected }
    }),
    ("requeue", |scene| {
        scene.reject(1);
        Request::Requeue { name: name(), number: None }
    }),
    ("discard", |scene| {
        scene.reject(2);
        Request::Discard { name: name(), number: Some(2) }
    }),
];

/// Requests that only ask, and the first of a session.
pub(crate) const QUESTIONS: &[(&str, Prepare)] = &[
    ("connect, say hello", scene::connect),
    ("fetch", |scene| {
        let (opened, _) = scene.open(Role::Receive);
        scene.send(1);
        Request::Fetch(Refresh { link: opened.link, after: opened.fetched.through })
    }),
    ("list", |_| Request::List { after: None }),
    ("show", |scene| {
        scene.send(1);
        Request::Show { name: name(), skip: 0 }
    }),
    ("status", |_| Request::Status),
    ("find", |scene| {
        register(scene);
        Request::Find { of: DirectAddress::Name("them".into()) }
    }),
];

fn open(role: Role) -> Request {
    Request::Open { name: name(), role, group: None }
}

/// Another session has an inbox.
fn register(scene: &mut Scene<'_>) {
    let mut them = scene.another();
    let (name, attributes) = (Some("them".into()), small().attributes());
    let _ = them.ask(&Request::Register { name, attributes });
    scene.stay.push(them);
}

/// The session that asks has sent three messages to a mailbox with a group that loses messages: its link, and its lane.
fn send_to_group(scene: &mut Scene<'_>) -> (u32, LaneInfo) {
    let group = small().group("fast", SlowGroup::DropOldest).expect("a name");
    scene.client.create("prices", &group).expect("a mailbox");
    let opened = scene.asks.open("prices", Role::Send).expect("ours to open");
    publish(&opened.0, &opened.1, &[MESSAGE; 3]);
    link_and_lane(&opened.0)
}

/// The session that asks has in hand all that a sender had left: its link, and its hands.
fn receive_all(scene: &mut Scene<'_>) -> (u32, Hands) {
    scene.send(1);
    let opened = scene.open(Role::Receive);
    let hands = Hands::of(&opened);
    hands.win(0, 1);
    (opened.0.link, hands)
}

/// Opens a mailbox to receive in a group.
pub(crate) fn open_in_group(
    client: &mut tests::RawClient,
    name: &str,
    group: &str,
) -> (Opened, Vec<OwnedFd>) {
    let group = GroupName::new(group).expect("a name");
    let opened = client.open_in(name, Role::Receive, Some(group.as_str()));
    let opened = opened.expect("ours to open");
    assert!(matches!(opened.0.role, OpenedRole::Receive { .. }));
    opened
}
