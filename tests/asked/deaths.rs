//! Every way for a session to end, and what it leaves behind. Another session asks for what changes nothing then.

use libipc::protocol::{Owner, Request};
use libipc::{MailboxOptions, OnDeath, Receivers, Role, SlowGroup};
use tests::publish;

use crate::hands::Hands;
use crate::requests::open_in_group;
use crate::scene::{MESSAGE, NAME, Prepare, Scene, link_and_lane, name, small};

pub(crate) const DEATHS: &[(&str, Prepare)] = &[
    ("with an intent", |scene| leave(scene, |it| it.intend(0, 1))),
    ("with what it has won, and nobody has noted", |scene| leave(scene, |it| it.win(0, 1))),
    ("with a run", |scene| leave(scene, |it| it.win(0, 3))),
    ("with a batch", |scene| {
        leave(scene, |it| {
            it.win(0, 3);
            it.hand_out(0, 2);
        })
    }),
    ("with what it has given back", |scene| {
        leave(scene, |it| {
            it.win(0, 2);
            it.offer();
        })
    }),
    ("with a takeover begun", |scene| take_over(scene, |it, from| it.reach_for(from))),
    ("with a takeover half done", |scene| {
        take_over(scene, |it, from| {
            it.reach_for(from);
            it.copy(from);
        })
    }),
    ("with a takeover all but done", |scene| {
        take_over(scene, |it, from| {
            it.reach_for(from);
            it.copy(from);
            it.empty(from);
        })
    }),
    ("with something put aside half way", |scene| {
        leave(scene, |it| {
            it.win(0, 3);
            let spare = it.reserve();
            it.put_aside(spare);
        })
    }),
    ("with something put aside all but done", |scene| {
        leave(scene, |it| {
            it.win(0, 3);
            let spare = it.reserve();
            it.put_aside(spare);
            it.acknowledge();
        })
    }),
    ("with the turn, and in line for it", |scene| {
        let options = small().receivers(Receivers::Exclusive);
        leave_in(scene, "turns", &options, |it| {
            it.stand_in_line();
            it.take_turn();
        })
    }),
    ("asleep", |scene| leave(scene, Hands::lie_down)),
    ("with what is dropped then", |scene| {
        leave_in(scene, "dropped", &small().on_death(OnDeath::Drop), |it| it.win(0, 1))
    }),
    ("with a batch that is dropped then", |scene| {
        leave_in(scene, "dropped", &small().on_death(OnDeath::Drop), |it| {
            it.win(0, 3);
            it.hand_out(0, 2);
        })
    }),
    ("with what is a dead letter then", |scene| {
        leave_in(scene, "buried", &small().on_death(OnDeath::DeadLetter), |it| it.win(0, 1))
    }),
    ("with a batch of dead letters", |scene| {
        leave_in(scene, "buried", &small().on_death(OnDeath::DeadLetter), |it| {
            it.win(0, 3);
            it.hand_out(0, 2);
        })
    }),
    ("with a message for the last time", |scene| {
        leave_in(scene, "once", &small().max_attempts(1), |it| it.win(0, 1))
    }),
    ("with a message of a group that drops", |scene| {
        let group = small().group("fast", SlowGroup::DropOldest).expect("a name");
        scene.client.create("prices", &group).expect("a mailbox");
        scene.client.sender("prices").expect("ours to open").send(MESSAGE).expect("sent");
        let mut ends = scene.another();
        Hands::of(&open_in_group(&mut ends, "prices", "fast")).win(0, 1);
        end(scene, ends)
    }),
    ("with a lane that is empty", |scene| {
        let mut ends = scene.another();
        let _ = ends.open(NAME, Role::Send).expect("ours to open");
        end(scene, ends)
    }),
    ("with messages in its lanes", |scene| {
        let mut ends = scene.another();
        let opened = ends.open(NAME, Role::Send).expect("ours to open");
        publish(&opened.0, &opened.1, &[MESSAGE; 3]);
        let (link, lane) = link_and_lane(&opened.0);
        let capacity_bytes = lane.capacity_bytes;
        let _ = ends.ask(&Request::AddLane { link, priority: 3, capacity_bytes, replaces: None });
        end(scene, ends)
    }),
    ("with a mailbox of its own, and its answers", |scene| {
        let mut ends = scene.another();
        let attributes = small().lifetime(Owner::Process).attributes();
        let own = libipc::MailboxName::new("own").expect("a name");
        let _ = ends.ask(&Request::Create { name: own, attributes, groups: Vec::new() });
        let opened = ends.open(NAME, Role::Send).expect("ours to open");
        let _ = ends.ask(&Request::OpenReplies { link: opened.0.link });
        end(scene, ends)
    }),
];

/// A receiver ends that has done so much with three messages.
fn leave(scene: &mut Scene<'_>, act: impl FnOnce(&Hands)) -> Request {
    scene.send(3);
    let mut ends = scene.another();
    act(&Hands::of(&ends.open(NAME, Role::Receive).expect("ours to open")));
    end(scene, ends)
}

/// The same in another mailbox.
fn leave_in(
    scene: &mut Scene<'_>,
    name: &str,
    options: &MailboxOptions,
    act: impl FnOnce(&Hands),
) -> Request {
    scene.client.create(name, options).expect("a mailbox");
    let mut sender = scene.client.sender(name).expect("ours to open");
    (0..3).for_each(|_| sender.send(MESSAGE).expect("sent"));
    drop(sender);
    let mut ends = scene.another();
    act(&Hands::of(&ends.open(name, Role::Receive).expect("ours to open")));
    end(scene, ends)
}

/// A receiver ends that has done so much with what another one, which stays, has given back.
fn take_over(scene: &mut Scene<'_>, act: impl FnOnce(&Hands, u16)) -> Request {
    scene.send(3);
    let (mut stays, mut ends) = (scene.another(), scene.another());
    let theirs = Hands::of(&stays.open(NAME, Role::Receive).expect("ours to open"));
    theirs.win(0, 2);
    theirs.offer();
    act(&Hands::of(&ends.open(NAME, Role::Receive).expect("ours to open")), theirs.slot);
    scene.stay.push(stays);
    end(scene, ends)
}

fn end(scene: &mut Scene<'_>, ends: tests::RawClient) -> Request {
    scene.ends = Some(ends);
    Request::SetTraffic { name: name(), open: true }
}
