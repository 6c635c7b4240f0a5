//! The daemon over a real socket: what it answers, what it hands out, what it leaves.

mod common;

use std::os::fd::AsFd;

use common::{Client, Daemon, create, delete, hello, name, open_request, wait_until};
use ipcd::registry::quota::DEFAULT_LIMITS;
use libipc::lane::layout::{Hold, LAYOUT_VERSION, LaneStatus, SlotState, Traffic};
use libipc::lane::position::Position;
use libipc::protocol::{
    Answer, Buffering, Group, LaneTicket, MailboxAttributes, OnDeath, OpenedRole, Order, Owner,
    PROTOCOL_VERSION, Receivers, Refresh, Refusal, Request, Role, SlowGroup, Usage, encode,
};
use libipc::regions::{Cursors, Doorstep, LaneWords, Roster};
use libipc::sync::Ordering;
use libipc::sys::mapping::Access::{ReadOnly, ReadWrite};

const SMALL: MailboxAttributes = MailboxAttributes {
    capacity_bytes: 4096,
    mode: 0o600,
    owner_uid: None,
    owner_gid: None,
    receivers_max: 2,
    lanes_max: 2,
    buffering: Buffering::Bounded,
    receivers: Receivers::Any,
    owner: Owner::System,
    order: Order::Sender,
    on_death: OnDeath::Redeliver,
    max_attempts: 0,
};

#[test]
fn a_sender_and_a_receiver_get_what_they_need_and_no_more() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    assert_eq!(client.create("orders"), Answer::Created { mailbox_id: 1 });
    let (sender, fds) = client.open("orders", Role::Send);
    let OpenedRole::Send { lane } = sender.role else { panic!("{sender:?}") };
    let [roster, cursors, lane_file, doorstep] = fds.as_slice() else { panic!("{fds:?}") };
    let limits = sender.attributes.limits(0);
    assert!(Roster::map(roster, limits, ReadWrite).is_err());
    assert!(Cursors::map(cursors, limits, ReadWrite).is_err());
    let words = Roster::map(roster, limits, ReadOnly).unwrap();
    let status = LaneStatus::from_word(words.lanes[0].status.load(Ordering::Acquire));
    assert_eq!(status, LaneStatus { generation: 1, state: SlotState::Active });
    assert_eq!(words.lanes[0].pid.load(Ordering::Relaxed), std::process::id());
    assert_eq!(words.header.senders.load(Ordering::Relaxed), 1);
    LaneWords::map(lane_file, lane.capacity_bytes, ReadWrite).unwrap();
    Doorstep::map(doorstep, limits, ReadWrite).unwrap();

    let (receiver, fds) = client.open("orders", Role::Receive);
    assert_eq!(receiver.role, OpenedRole::Receive { slot: 0, group: 0, generation: 1 });
    let uid = nix::unistd::geteuid().as_raw();
    assert_eq!(receiver.fetched.doorsteps, [(0, u32::MAX), (1, uid)]);
    assert_eq!(receiver.fetched.lanes, [lane]);
    let [_, cursors, home, doorstep, lane_file] = fds.as_slice() else { panic!("{fds:?}") };
    Cursors::map(cursors, limits, ReadWrite).unwrap();
    Doorstep::map(home, limits, ReadWrite).unwrap();
    Doorstep::map(doorstep, limits, ReadWrite).unwrap();
    assert!(LaneWords::map(lane_file, lane.capacity_bytes, ReadWrite).is_err());

    let (observer, fds) = client.open("orders", Role::Observe);
    assert_eq!(observer.role, OpenedRole::Observe);
    for fd in &fds {
        let written = nix::sys::uio::pwrite(fd, b"x", 0);
        assert_eq!(written, Err(nix::Error::EBADF), "an observer only looks");
    }
}

#[test]
fn fetch_gives_each_attachment_once() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    client.create("orders");
    let (receiver, _) = client.open("orders", Role::Receive);
    let mut fetch =
        |after| match client.ask_for_fds(&Request::Fetch(Refresh { link: receiver.link, after })) {
            (Answer::Fetched(fetched), fds) => (fetched, fds.len()),
            other => panic!("{other:?}"),
        };
    let after = receiver.fetched.through;
    assert_eq!(fetch(after).1, 0);
    let mut other = daemon.client();
    let (first, _) = other.open("orders", Role::Send);
    let (page, fds) = fetch(after);
    assert_eq!((page.doorsteps.len(), page.lanes.len(), fds), (1, 1, 2));
    other.open("orders", Role::Send);
    let (page, fds) = fetch(page.through);
    assert_eq!((page.doorsteps.len(), page.lanes.len(), fds), (0, 1, 1));
    assert_eq!(fetch(page.through).1, 0);
    assert_eq!(fetch(u64::MAX).1, 0);
    // A drained lane of a closed link is freed, and no longer among those of the past.
    other.ask(&Request::CloseLink { link: first.link });
    let (page, fds) = fetch(0);
    assert_eq!((page.doorsteps.len(), page.lanes.len(), fds), (2, 1, 3));
}

#[test]
fn many_lanes_come_in_pages_that_fit() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    client.create("orders");
    for _ in 0..300 {
        client.open("orders", Role::Send);
    }
    let (receiver, fds) = client.open("orders", Role::Receive);
    assert!(receiver.fetched.more);
    let mut seen = receiver.fetched.lanes.len();
    assert_eq!(fds.len(), 2 + receiver.fetched.doorsteps.len() + seen);
    let refresh = Refresh { link: receiver.link, after: receiver.fetched.through };
    let Answer::Fetched(rest) = client.ask(&Request::Fetch(refresh)) else { panic!() };
    seen += rest.lanes.len();
    assert!(!rest.more);
    assert_eq!(seen, 300);
}

#[test]
fn bad_input_ends_its_session_with_a_reason_and_nothing_else() {
    let daemon = Daemon::taking_descriptors();
    let mut bystander = daemon.client();
    let good = encode(9, 0, &Request::Status).unwrap();
    let changed = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let with_fd = encode(9, 1, &Request::Status).unwrap();
    let cases: Vec<(&str, Vec<u8>, usize)> = vec![
        ("truncated", good[..good.len() - 1].to_vec(), 0),
        ("truncated", good[..3].to_vec(), 0),
        ("truncated", Vec::new(), 0),
        ("too long", vec![0; 65_537], 0),
        ("longer", vec![0; 70_000], 0),
        ("magic", changed(0, 0), 0),
        ("version", changed(4, 9), 0),
        ("too long", [good.clone(), vec![0]].concat(), 0),
        ("malformed", changed(24, 200), 0),
        ("descriptors", good.clone(), 1),
        ("descriptors", with_fd, 1),
        ("second hello", encode(9, 0, &hello()).unwrap(), 0),
    ];
    for (reason, bytes, descriptors) in cases {
        let client = daemon.client();
        let fds: Vec<_> = (0..descriptors).map(|_| client.socket.as_fd()).collect();
        client.send(&bytes, &fds);
        let (number, answer, _) = client.receive().expect("a reason");
        let Answer::Refused(Refusal::Protocol { reason: said }) = answer else {
            panic!("{reason}: {answer:?}")
        };
        assert!(said.contains(reason), "{said:?} does not tell {reason:?}");
        assert_eq!(number, if bytes.len() >= 24 && bytes.len() < 65_536 { 9 } else { 0 });
        assert!(client.receive().is_none(), "{reason}: the session goes on");
    }
    let mut early = Client::connect(&daemon.path);
    let refusal = early.refused(&Request::Status);
    assert!(matches!(refusal, Refusal::Protocol { .. }), "{refusal:?}");
    assert!(early.receive().is_none());
    wait_until("only the bystander is left", || bystander.status().sessions == 1);
}

#[test]
fn a_client_of_another_version_is_told_both() {
    let daemon = Daemon::start();
    for (layout_version, version_min) in [(99, PROTOCOL_VERSION), (LAYOUT_VERSION, 1)] {
        let mut client = Client::connect(&daemon.path);
        let version_max = version_min;
        let refusal = client.refused(&Request::Hello {
            version_min,
            version_max,
            layout_version,
            barrier: true,
        });
        let Refusal::Version { ours, our_layout, .. } = refusal else { panic!("{refusal:?}") };
        assert_eq!((ours, our_layout), (PROTOCOL_VERSION, LAYOUT_VERSION));
        assert!(client.receive().is_none());
    }
}

#[test]
fn refusals_name_the_cause_and_the_session_goes_on() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    client.create("orders");
    let again = create("orders", SMALL);
    assert!(matches!(client.refused(&again), Refusal::AlreadyExists { .. }));
    let odd = MailboxAttributes { capacity_bytes: 5000, ..SMALL };
    assert!(matches!(client.refused(&create("x", odd)), Refusal::InvalidAttribute { .. }));
    let nothing = open_request("nothing", Role::Send);
    assert!(matches!(client.refused(&nothing), Refusal::NoSuchMailbox { .. }));
    assert!(matches!(client.refused(&delete("nothing")), Refusal::NoSuchMailbox { .. }));
    let close = Request::CloseLink { link: 77 };
    assert!(matches!(client.refused(&close), Refusal::NoSuchLink { link: 77, .. }));
    let (sender, _) = client.open("orders", Role::Send);
    let fetch = Request::Fetch(Refresh { link: sender.link, after: 0 });
    assert!(matches!(client.refused(&fetch), Refusal::NoSuchLink { .. }));
    let lane = LaneTicket { index: 0, generation: 1 };
    let drained = Request::LaneDrained { link: sender.link, lane };
    assert!(matches!(client.refused(&drained), Refusal::NoSuchLink { .. }));
    assert_eq!(client.ask(&delete("orders")), Answer::Deleted { queued: 0 });
    assert!(matches!(client.refused(&fetch), Refusal::Deleted { .. }));
    assert_eq!(client.ask(&Request::CloseLink { link: sender.link }), Answer::Done);
}

#[test]
fn quotas_refuse_and_are_given_back_exactly() {
    let limits = Usage { mailboxes: 2, lanes: 3, sessions: 2, ..DEFAULT_LIMITS };
    let daemon = Daemon::with(limits, 0);
    let mut client = daemon.client();
    let idle = client.status().usage;
    assert_eq!(idle, Usage { sessions: 1, descriptors: 2, ..Usage::default() });
    client.create("a");
    client.create("b");
    let refusal = client.refused(&create("c", SMALL));
    assert!(
        matches!(&refusal, Refusal::QuotaExceeded { what, limit: 2, .. } if what == "mailboxes"),
        "{refusal:?}"
    );
    let mut other = daemon.client();
    for mailbox in ["a", "a", "b"] {
        other.open(mailbox, Role::Send);
    }
    let open = open_request("b", Role::Send);
    let refusal = other.refused(&open);
    assert!(
        matches!(&refusal, Refusal::QuotaExceeded { what, used: 3, .. } if what == "lanes"),
        "{refusal:?}"
    );
    let mut third = Client::connect(&daemon.path);
    let refusal = third.refused(&hello());
    assert!(
        matches!(&refusal, Refusal::QuotaExceeded { what, .. } if what == "sessions"),
        "{refusal:?}"
    );
    assert!(third.receive().is_none());
    drop(other);
    wait_until("the lanes are given back", || client.status().usage.lanes == 0);
    client.ask(&delete("a"));
    client.ask(&delete("b"));
    assert_eq!(client.status().usage, idle);
}

#[test]
fn members_beyond_a_mailboxs_limits_are_refused_by_name() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    client.ask(&create("small", SMALL));
    for (role, what) in [(Role::Send, "lanes"), (Role::Receive, "receivers")] {
        client.open("small", role);
        let (second, _) = client.open("small", role);
        let open = open_request("small", role);
        let refusal = client.refused(&open);
        assert!(
            matches!(&refusal, Refusal::MailboxFull { what: full, limit: 2, .. } if full == what),
            "{refusal:?}"
        );
        client.ask(&Request::CloseLink { link: second.link });
        client.open("small", role);
    }
}

#[test]
fn a_closed_mailbox_lets_no_new_sender_in_and_says_so_in_the_roster() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    client.ask(&create("small", SMALL));
    let (_, fds) = client.open("small", Role::Receive);
    let roster = Roster::map(&fds[0], SMALL.limits(0), ReadOnly).unwrap();
    let home = Doorstep::map(&fds[2], SMALL.limits(0), ReadOnly).unwrap();
    let traffic = || Traffic::from_word(roster.header.traffic.load(Ordering::Relaxed));
    let before = (
        roster.header.changes.load(Ordering::Relaxed),
        home.header.bells[0].load(Ordering::Relaxed),
    );
    let set = |open| Request::SetTraffic { name: name("small"), open };
    assert_eq!(client.ask(&set(false)), Answer::Done);
    assert_eq!(traffic(), Traffic::Closed);
    assert_ne!(roster.header.changes.load(Ordering::Relaxed), before.0);
    assert_ne!(home.header.bells[0].load(Ordering::Relaxed), before.1);
    let open = open_request("small", Role::Send);
    assert!(matches!(client.refused(&open), Refusal::Closed { .. }));
    client.ask(&set(true));
    assert_eq!(traffic(), Traffic::Open);
    client.open("small", Role::Send);
    client.ask(&delete("small"));
    assert_eq!(traffic(), Traffic::Deleted);
}

#[test]
fn a_gone_senders_lane_stays_until_it_has_drained() {
    let daemon = Daemon::with(DEFAULT_LIMITS, 100);
    let mut client = daemon.client();
    client.ask(&create("small", SMALL));
    let (receiver, fds) = client.open("small", Role::Receive);
    let roster = Roster::map(&fds[0], SMALL.limits(0), ReadOnly).unwrap();
    let cursors = Cursors::map(&fds[1], SMALL.limits(0), ReadWrite).unwrap();
    let mut other = daemon.client();
    let (sender, fds) = other.open("small", Role::Send);
    let OpenedRole::Send { lane } = sender.role else { panic!() };
    assert_eq!(lane.first_position, 100);
    let (words, _mapping) = LaneWords::map(&fds[2], 4096, ReadWrite).unwrap();
    assert_eq!(words.header.tail.load(Ordering::Relaxed), 100);
    assert_eq!(cursors.claims[0].claim.load(Ordering::Relaxed), 100 << 16);
    words.header.tail.store(102, Ordering::Release);
    words.header.sent.store(1, Ordering::Relaxed);
    drop(other);
    let state = || LaneStatus::from_word(roster.lanes[0].status.load(Ordering::Acquire)).state;
    wait_until("the sender is gone", || state() == SlotState::Gone);
    let shown = client.show("small");
    assert_eq!((shown.summary.senders, shown.summary.queued_messages), (0, 1));
    assert_eq!((shown.summary.queued_bytes, shown.members.len()), (32, 2));
    assert!(!shown.members[0].alive);
    // Claimed, but still in hand.
    cursors.claims[0].claim.store(102 << 16 | 1, Ordering::Release);
    let hold = Hold { confirmed: false, lane: 0, position: Position::new(100) };
    cursors.slots[0].hold.store(hold.to_word(), Ordering::Release);
    let report = Request::LaneDrained { link: receiver.link, lane: lane.ticket };
    assert_eq!(client.ask(&report), Answer::Done);
    assert_eq!(state(), SlotState::Gone);
    cursors.slots[0].hold.store(0, Ordering::Release);
    cursors.slots[0].received.store(1, Ordering::Relaxed);
    assert_eq!(client.ask(&report), Answer::Done);
    assert_eq!(state(), SlotState::Free);
    let shown = client.show("small");
    assert_eq!((shown.summary.sent_messages, shown.summary.queued_messages), (1, 0));
    // The slot's next lane goes on behind where this one ended.
    let (sender, _) = client.open("small", Role::Send);
    let OpenedRole::Send { lane } = sender.role else { panic!() };
    assert_eq!((lane.ticket.generation, lane.first_position), (2, 103));
}

#[test]
fn a_claim_that_was_read_before_its_slot_was_given_away_moves_nothing_of_the_next_lanes() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let groups = ["a", "b"].map(|it| Group { name: name(it), slow: SlowGroup::Block });
    let attributes = MailboxAttributes { lanes_max: 1, ..SMALL };
    client.ask(&Request::Create { name: name("news"), attributes, groups: groups.to_vec() });
    let limits = attributes.limits(2);
    let cursors = ["a", "b"].map(|group| {
        let (_, fds) = client.join("news", group);
        Cursors::map(&fds[1], limits, ReadWrite).unwrap()
    });
    let words = || [0, 1].map(|group| cursors[group].claims[0].claim.load(Ordering::Acquire));
    for spoil in [false, true] {
        for _ in 0..5 {
            let (sender, fds) = client.open("news", Role::Send);
            let first = words();
            if spoil {
                // One group has moved on, and the other is where the next lane would begin, or behind it.
                let (words, _mapping) = LaneWords::map(&fds[3], 4096, ReadWrite).unwrap();
                let tail = words.header.tail.load(Ordering::Relaxed);
                words.header.tail.store(tail + 9000, Ordering::Release);
                for (group, ahead) in [(0, 2), (1, 1)] {
                    let claim = &cursors[group].claims[0].claim;
                    claim.store((tail + ahead) << 16, Ordering::Release);
                }
            }
            let read = words();
            client.ask(&Request::CloseLink { link: sender.link });
            let (next, _) = client.open("news", Role::Send);
            for (group, word) in words().into_iter().enumerate() {
                assert!(!first.contains(&word) && !read.contains(&word), "{first:?} {read:?}");
                let claim = &cursors[group].claims[0].claim;
                let moved = claim.compare_exchange(
                    read[group],
                    read[group] + (3 << 16) + 1,
                    Ordering::AcqRel,
                    Ordering::Relaxed,
                );
                assert!(moved.is_err());
            }
            client.ask(&Request::CloseLink { link: next.link });
        }
    }
}

#[test]
fn a_corrupt_lane_of_a_gone_sender_is_freed() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    client.ask(&create("small", SMALL));
    let (sender, fds) = client.open("small", Role::Send);
    let (words, _mapping) = LaneWords::map(&fds[2], 4096, ReadWrite).unwrap();
    words.header.tail.store(4096 / 16 + 1, Ordering::Release);
    words.header.sent.store(u64::MAX, Ordering::Relaxed);
    client.ask(&Request::CloseLink { link: sender.link });
    let shown = client.show("small");
    assert_eq!(shown.members, []);
    assert_eq!(shown.summary.sent_messages, u64::MAX);
    assert_eq!(client.status().usage.lanes, 0);
}

#[test]
fn a_gone_receivers_delivery_keeps_its_slot_until_someone_has_taken_it_over() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    client.ask(&create("small", SMALL));
    client.open("small", Role::Send);
    let mut other = daemon.client();
    let (_, fds) = other.open("small", Role::Receive);
    let roster = Roster::map(&fds[0], SMALL.limits(0), ReadOnly).unwrap();
    let cursors = Cursors::map(&fds[1], SMALL.limits(0), ReadWrite).unwrap();
    let hold = Hold { confirmed: false, lane: 0, position: Position::new(0) };
    cursors.slots[0].end.store(2, Ordering::Relaxed);
    cursors.slots[0].hold.store(hold.to_word(), Ordering::Release);
    cursors.claims[0].claim.store(2 << 16 | 1, Ordering::Release);
    cursors.header.sleeping[0].store(1, Ordering::Relaxed);
    drop(other);
    let state = || SlotState::from_word(roster.receivers[0].state.load(Ordering::Acquire));
    wait_until("the receiver is gone", || state() == SlotState::Gone);
    wait_until("its delivery is offered", || {
        cursors.header.offered[0].load(Ordering::Acquire) == 1
    });
    assert_eq!(cursors.header.sleeping[0].load(Ordering::Relaxed), 0);
    let (receiver, _) = client.open("small", Role::Receive);
    assert_eq!(receiver.role, OpenedRole::Receive { slot: 1, group: 0, generation: 1 });
    // With no other slot left, the next receiver inherits it, the delivery still offered.
    let (heir, _) = client.open("small", Role::Receive);
    assert_eq!(heir.role, OpenedRole::Receive { slot: 0, group: 0, generation: 2 });
    assert_eq!(cursors.header.offered[0].load(Ordering::Acquire), 1);
    assert_eq!(cursors.slots[0].hold.load(Ordering::Acquire), hold.to_word());
    let open = open_request("small", Role::Receive);
    assert!(matches!(client.refused(&open), Refusal::MailboxFull { .. }));
    client.ask(&Request::CloseLink { link: heir.link });
    assert_eq!(state(), SlotState::Gone);
    // Somebody takes it over and acknowledges it.
    cursors.header.offered[0].store(0, Ordering::Release);
    cursors.slots[0].hold.store(0, Ordering::Release);
    client.show("small");
    assert_eq!(state(), SlotState::Free);
    assert_eq!(cursors.header.offered[0].load(Ordering::Acquire), 0);
}

#[test]
fn a_member_without_the_barrier_makes_all_keep_their_fences() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    client.ask(&create("small", SMALL));
    let (_, fds) = client.open("small", Role::Receive);
    let roster = Roster::map(&fds[0], SMALL.limits(0), ReadOnly).unwrap();
    assert_eq!(roster.header.fences.load(Ordering::Relaxed), 0);
    let mut slow = Client::connect(&daemon.path);
    slow.ask(&Request::Hello {
        version_min: PROTOCOL_VERSION,
        version_max: PROTOCOL_VERSION,
        layout_version: LAYOUT_VERSION,
        barrier: false,
    });
    slow.open("small", Role::Observe);
    assert_eq!(roster.header.fences.load(Ordering::Relaxed), 0, "it neither sleeps nor wakes");
    slow.open("small", Role::Send);
    assert_eq!(roster.header.fences.load(Ordering::Relaxed), 1);
    drop(slow);
    assert!(client.show("small").fences);
}

#[test]
fn a_list_comes_in_pages_in_order_of_names() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    for number in (0..200).rev() {
        client.ask(&create(&format!("m{number:03}"), SMALL));
    }
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let Answer::Listed { mailboxes, more } = client.ask(&Request::List { after }) else {
            panic!()
        };
        after = mailboxes.last().map(|mailbox| mailbox.name.clone());
        names.extend(mailboxes.into_iter().map(|mailbox| mailbox.name.to_string()));
        if !more {
            break;
        }
    }
    let expected: Vec<_> = (0..200).map(|number| format!("m{number:03}")).collect();
    assert_eq!(names, expected);
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody() {
    let daemon = Daemon::start();
    let lazy = daemon.client();
    nix::fcntl::fcntl(&lazy.socket, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))
        .unwrap();
    let mut asked = 0;
    // Until both directions are full: the daemon has stopped reading.
    wait_until("the lazy client's socket is full", || {
        let status = encode(asked + 1, 0, &Request::Status).unwrap();
        let sent = libipc::sys::socket::send(lazy.socket.as_fd(), &status, &[], true);
        asked += u64::from(sent.is_ok());
        sent.is_err()
    });
    let mut client = daemon.client();
    assert_eq!(client.status().sessions, 2);
    // Each of its requests was kept, and is answered once it reads.
    nix::fcntl::fcntl(&lazy.socket, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty()))
        .unwrap();
    for expected in 1..=asked {
        let (number, answer, _) = lazy.receive().unwrap();
        assert_eq!(number, expected);
        assert!(matches!(answer, Answer::Status(_)), "{answer:?}");
    }
    drop(lazy);
    wait_until("the lazy client is gone", || client.status().sessions == 1);
}

#[test]
fn stopping_the_daemon_ends_every_mailbox_and_wakes_its_members() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    client.ask(&create("small", SMALL));
    let (_, fds) = client.open("small", Role::Receive);
    let roster = Roster::map(&fds[0], SMALL.limits(0), ReadOnly).unwrap();
    let home = Doorstep::map(&fds[2], SMALL.limits(0), ReadOnly).unwrap();
    let bell = home.header.bells[0].load(Ordering::Relaxed);
    let path = daemon.path.clone();
    drop(daemon);
    let traffic = Traffic::from_word(roster.header.traffic.load(Ordering::Relaxed));
    assert_eq!(traffic, Traffic::Deleted);
    assert_ne!(home.header.bells[0].load(Ordering::Relaxed), bell);
    assert!(client.receive().is_none());
    assert!(!path.exists());
}
