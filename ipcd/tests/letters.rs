//! What becomes of records that the service frees on their receivers' behalf, step by step.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;

use ipcd::registry::Registry;
use ipcd::registry::link::SessionId;
use ipcd::registry::mailbox::Mailbox;
use ipcd::registry::permission::Caller;
use ipcd::registry::quota::{DEFAULT_LIMITS, Quotas};
use ipcd::service::{Asker, Reply, Service};
use libipc::lane::layout::{Claim, Hold};
use libipc::lane::position::Position;
use libipc::protocol::{
    Answer, Identity, LaneTicket, MailboxAttributes, MailboxName, OnDeath, Opened, OpenedRole,
    Reason, Request, Role,
};
use libipc::regions::Cursors;
use libipc::sync::Ordering::Relaxed;
use libipc::sys::mapping::Access;

const US: Identity = Identity { pid: 1, uid: 0, gid: 0 };

fn ask(service: &mut Service, request: Request) -> Reply {
    let caller = Caller { identity: US, groups: &[] };
    service.handle(&Asker { session: SessionId(1), caller, barrier: true }, request).unwrap()
}

/// A mailbox with a receiver that has the first record of its only lane in hand whenever [`Self::hold`] says so.
struct Scene {
    service: Service,
    mailbox_id: u64,
    cursors: Cursors,
    opened: Opened,
    slot: u16,
}

impl Scene {
    fn new(attributes: MailboxAttributes) -> Self {
        let quotas = Quotas::new(DEFAULT_LIMITS, HashMap::new());
        let mut service = Service::new(Registry::new(quotas, 0), true);
        service.registry.begin_session(SessionId(1), US).unwrap();
        let name = MailboxName::new("orders").unwrap();
        let create = Request::Create { name: name.clone(), attributes, groups: Vec::new() };
        let Answer::Created { mailbox_id } = ask(&mut service, create).answer else { panic!() };
        let open = |role| Request::Open { name: name.clone(), role, group: None };
        ask(&mut service, open(Role::Send));
        let reply = ask(&mut service, open(Role::Receive));
        service.settle();
        let Answer::Opened(opened) = reply.answer else { panic!("{reply:?}") };
        let OpenedRole::Receive { slot, .. } = opened.role else { panic!("{opened:?}") };
        let limits = opened.attributes.limits(1);
        let cursors =
            Cursors::map(reply.descriptors[1].fd().unwrap(), limits, Access::ReadWrite).unwrap();
        Self { service, mailbox_id, cursors, opened, slot }
    }

    fn lane(&self) -> LaneTicket {
        self.opened.fetched.lanes[0].ticket
    }

    /// Holds the record, which has been handed out so often, and one more if that is in hand.
    fn hold(&self, attempts: u32) -> u64 {
        let (cell, position) = (&self.cursors.slots[usize::from(self.slot)], Position::new(0));
        let hold = Hold { confirmed: true, lane: self.lane().index, position }.to_word();
        cell.attempts.store(attempts, Relaxed);
        let end = position.advance(1);
        cell.end.store(end.get(), Relaxed);
        let claim = Claim { position: end, winner: Some(self.slot) };
        self.cursors.claims[usize::from(self.lane().index)].claim.store(claim.to_word(), Relaxed);
        cell.hold.store(hold, Relaxed);
        hold
    }

    fn held(&self) -> u64 {
        self.cursors.slots[usize::from(self.slot)].hold.load(Relaxed)
    }

    fn mailbox(&self) -> &Mailbox {
        self.service.registry.mailbox(self.mailbox_id).unwrap()
    }
}

#[test]
fn what_was_to_be_freed_and_is_is_noted_no_more() {
    let mut scene = Scene::new(MailboxAttributes::default());
    for _ in 0..3 {
        let hold = scene.hold(0);
        let (link, lane, reason) = (scene.opened.link, scene.lane(), Reason::Rejected);
        ask(&mut scene.service, Request::Reject { link, lane, position: 0, reason });
        assert_eq!(scene.held(), hold, "not before the state has it");
        assert_eq!(scene.mailbox().freeing.len(), 1);
        scene.service.settle();
        assert_eq!((scene.held(), scene.mailbox().freeing.len()), (Hold::IDLE, 0));
    }
}

#[test]
fn what_a_receiver_that_died_as_it_closed_never_had_in_hand_is_offered() {
    for on_death in [OnDeath::Drop, OnDeath::DeadLetter] {
        for (attempts, ended) in [(0, 1), (0u32.wrapping_sub(1), 0)] {
            let mut scene = Scene::new(MailboxAttributes { on_death, ..Default::default() });
            let hold = scene.hold(attempts);
            scene.service.end_session(SessionId(1));
            let group = &scene.mailbox().groups()[0];
            assert_eq!(group.dropped + group.dead_lettered, ended, "{on_death}");
            assert_eq!(scene.held(), if ended == 0 { hold } else { Hold::IDLE });
        }
    }
}
