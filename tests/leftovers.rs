//! What a receiver that was not honest leaves in the cursors, and honest ones could not mend: once it has gone, the daemon
//! does, and when somebody takes its place.

use std::os::fd::OwnedFd;

use libipc::lane::layout::{Claim, Hold, SlotCell};
use libipc::lane::position::Position;
use libipc::protocol::{Opened, OpenedRole};
use libipc::regions::Cursors;
use libipc::sync::Ordering::{Acquire, Relaxed};
use libipc::sys::mapping::Access;
use libipc::{Client, MailboxOptions, Receiver, Receivers, Role, TicketState, TryReceiveError};
use tests::{RawClient, TestDaemon, is_asleep, patience, wait_until};

fn small() -> MailboxOptions {
    MailboxOptions::new().capacity_bytes(4096).receivers_max(4).lanes_max(8)
}

/// A receiver that writes where it likes; dropped, it is gone.
struct Dishonest {
    cursors: Cursors,
    slot: u16,
    _client: RawClient,
    _descriptors: Vec<OwnedFd>,
}

impl Dishonest {
    fn open(daemon: &TestDaemon, name: &str) -> Self {
        let mut client = RawClient::greet(&daemon.socket());
        let (opened, descriptors) = client.open(name, Role::Receive).expect("a place");
        let Opened { role: OpenedRole::Receive { slot, .. }, attributes, .. } = opened else {
            panic!("{opened:?}")
        };
        let limits = attributes.limits(1);
        let cursors = Cursors::map(&descriptors[1], limits, Access::ReadWrite).expect("cursors");
        Self { cursors, slot, _client: client, _descriptors: descriptors }
    }

    fn cell(&self, slot: u16) -> &SlotCell {
        &self.cursors.slots[usize::from(slot)]
    }

    /// Takes the first record of each lane, and acknowledges it, without a word to anybody.
    fn take_silently(&self) {
        for cell in self.cursors.claims.iter() {
            let claim = Claim { position: Position::new(1), winner: None };
            cell.claim.store(claim.to_word(), Relaxed);
        }
    }

    /// Has a slot offer what begins at the first record of the first lane and ends so far behind.
    fn offer(&self, slot: u16, granules: u64) {
        let hold = Hold { confirmed: true, lane: 0, position: Position::new(0) };
        self.cell(slot).end.store(granules, Relaxed);
        self.cell(slot).hold.store(hold.to_word(), Relaxed);
        self.cursors.header.offered[0].fetch_or(1 << slot, Relaxed);
    }
}

fn send(client: &Client, name: &str, count: u32) -> libipc::Sender {
    let mut sender = client.sender(name).expect("a lane");
    (0..count).for_each(|n| sender.send(&n.to_le_bytes()).expect("there is room"));
    sender
}

fn receive(receiver: &mut Receiver) -> u32 {
    let delivery = receiver.receive_deadline(patience()).expect("a message");
    let number = u32::from_le_bytes(delivery.bytes().try_into().expect("a number"));
    delivery.acknowledge();
    number
}

fn receivers(client: &Client, name: &str) -> u32 {
    client.show(name).expect("ours").summary.receivers
}

#[test]
fn a_turn_that_is_nobodys_is_given_back_once_whoever_took_it_has_gone() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("turns", &small().receivers(Receivers::Exclusive));
    let mut receiver = client.receiver("turns").expect("a place");
    for nobody in [3, 77, 65_537, u32::MAX] {
        let _sender = send(&client, "turns", 2);
        let dishonest = Dishonest::open(&daemon, "turns");
        dishonest.cursors.header.turn.store(nobody, Relaxed);
        // Somebody stands in line already.
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| receive(&mut receiver));
            wait_until("it stands in line", || {
                dishonest.cell(0).in_line.load(Acquire) != 0 || waiting.is_finished()
            });
            assert!(!waiting.is_finished(), "it was not its turn");
            drop(dishonest);
            assert_eq!(waiting.join().expect("no panic"), 0);
        });
        assert_eq!(receive(&mut receiver), 1);
    }
}

/// The word names somebody who is there: the daemon cannot know that it is not so.
#[test]
fn a_turn_that_is_said_to_be_somebodys_is_that_ones() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("turns", &small().receivers(Receivers::Exclusive));
    let mut receiver = client.receiver("turns").expect("a place");
    let _sender = send(&client, "turns", 2);
    for number in 0..2 {
        let dishonest = Dishonest::open(&daemon, "turns");
        dishonest.cursors.header.turn.store(1, Relaxed);
        drop(dishonest);
        wait_until("it has gone", || receivers(&client, "turns") == 1);
        if number == 0 {
            assert_eq!(receive(&mut receiver), number);
        } else {
            receiver.try_receive().expect("a message").acknowledge();
        }
    }
}

#[test]
fn a_place_in_line_that_is_nobodys_keeps_nobody_waiting() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("turns", &small().receivers(Receivers::Exclusive));
    let mut first = client.receiver("turns").expect("a place");
    let dishonest = Dishonest::open(&daemon, "turns");
    let second = client.receiver("turns").expect("a place");
    assert_eq!(dishonest.slot, 1);
    drop(second);
    wait_until("its place is free", || receivers(&client, "turns") == 2);
    // One that is about to get its number, for ever, in a place that nobody has, and a number of which there is no next.
    dishonest.cell(2).in_line.store(u64::MAX, Relaxed);
    dishonest.cursors.header.line.store(u64::MAX - 1, Relaxed);
    drop(dishonest);
    wait_until("it has gone", || receivers(&client, "turns") == 1);
    let _sender = send(&client, "turns", 3);
    assert_eq!([0; 3].map(|_| receive(&mut first)), [0, 1, 2]);
    let mut second = client.receiver("turns").expect("a place");
    assert!(matches!(second.try_receive(), Err(TryReceiveError::Empty)));
}

#[test]
fn an_offer_that_cannot_be_is_thrown_away_and_told() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("orders", &small());
    let _sender = send(&client, "orders", 1);
    let mut receiver = client.receiver("orders").expect("a place");
    let words = Dishonest::open(&daemon, "orders");
    let dishonest = Dishonest::open(&daemon, "orders");
    // In the place of somebody who is there, in its own, in nobody's, and in a spare one.
    for slot in [words.slot, dishonest.slot, 3, 5] {
        dishonest.offer(slot, 0);
    }
    dishonest.cursors.header.offered[0].fetch_or(1 << 40, Relaxed);
    drop(dishonest);
    wait_until("it has gone", || receivers(&client, "orders") == 2);
    wait_until("nothing is offered", || words.cursors.header.offered[0].load(Acquire) == 0);
    assert!(words.cursors.slots.iter().all(|cell| cell.hold.load(Acquire) == 0));
    assert!(words.cursors.slots.iter().all(|cell| cell.taker.load(Acquire) == 0));
    // Three of them could have been messages, of which nobody knows any more.
    assert_eq!(client.show("orders").expect("ours").dropped_messages, 3);
    assert_eq!(receive(&mut receiver), 0);
    assert!(matches!(receiver.try_receive(), Err(TryReceiveError::Empty)));
}

#[test]
fn what_somebody_is_said_to_take_over_who_is_not_there_is_taken_over() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("again", &small());
    let _sender = send(&client, "again", 2);
    let mut receiver = client.receiver("again").expect("a place");
    for number in 0..2 {
        let dishonest = Dishonest::open(&daemon, "again");
        dishonest.cell(0).taker.store(999, Relaxed);
        dishonest.cell(dishonest.slot).taker.store(4, Relaxed);
        receiver.receive_deadline(patience()).expect("a message").return_to_queue();
        drop(dishonest);
        assert_eq!(receive(&mut receiver), number);
    }
}

/// What has been mapped stays mapped: whoever is gone can write still. Then it is the next who comes.
#[test]
fn what_is_written_by_somebody_who_is_gone_is_put_right_when_somebody_comes() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("turns", &small().receivers(Receivers::Exclusive));
    let _sender = send(&client, "turns", 1);
    let (cursors, slot) = {
        let dishonest = Dishonest::open(&daemon, "turns");
        (dishonest.cursors.clone(), dishonest.slot)
    };
    wait_until("it has gone", || receivers(&client, "turns") == 0);
    cursors.header.turn.store(u32::from(slot) + 9, Relaxed);
    cursors.slots[3].in_line.store(1, Relaxed);
    cursors.header.sleeping[0].store(u64::MAX, Relaxed);
    let mut receiver = client.receiver("turns").expect("a place");
    assert_eq!(receive(&mut receiver), 0);
    assert_eq!(cursors.header.sleeping[0].load(Acquire), 0);
}

/// Once nobody has a mailbox open and nothing is in it, whoever comes gets regions of its own.
#[test]
fn what_is_written_by_somebody_who_has_left_a_mailbox_empty_reaches_nobody() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("turns", &small().receivers(Receivers::Exclusive));
    let before = daemon.status_alone(&client).descriptors;
    let cursors = Dishonest::open(&daemon, "turns").cursors.clone();
    wait_until("it has gone", || daemon.status(&client).descriptors == before);
    let _sender = send(&client, "turns", 2);
    let scribble = || {
        cursors.slots.iter().for_each(|cell| cell.hold.store(u64::MAX, Relaxed));
        cursors.claims.iter().for_each(|cell| cell.claim.store(u64::MAX, Relaxed));
        cursors.header.sleeping[0].store(u64::MAX, Relaxed);
    };
    scribble();
    let mut receiver = client.receiver("turns").expect("a place");
    assert_eq!(receive(&mut receiver), 0);
    scribble();
    assert_eq!(receive(&mut receiver), 1);
    assert!(matches!(receiver.try_receive(), Err(TryReceiveError::Empty)));
    assert_eq!(cursors.header.sleeping[0].load(Acquire), u64::MAX, "nobody else writes there");
}

/// Whoever acknowledges may be killed before it wakes who waits for that.
#[test]
fn the_ticket_of_a_sender_that_is_closed_is_told_of_what_a_dead_receiver_had_acknowledged() {
    for open in [true, false] {
        let daemon = TestDaemon::start(&[]);
        let client = daemon.client_with("box", &small());
        let mut sender = client.sender("box").expect("a lane");
        let ticket = sender.send_tracked(b"x").expect("there is room");
        let kept = open.then_some(sender);
        let dishonest = Dishonest::open(&daemon, "box");
        let (tell, told) = std::sync::mpsc::channel();
        let waiter = std::thread::spawn(move || {
            tell.send(nix::unistd::gettid()).expect("somebody listens");
            ticket.wait()
        });
        let thread = told.recv().expect("it runs").as_raw().cast_unsigned();
        wait_until("it sleeps", || is_asleep(thread));
        dishonest.take_silently();
        drop(dishonest);
        wait_until("it is told", || waiter.is_finished());
        let state = waiter.join().expect("no panic").expect("it can be waited for");
        assert_eq!(state, TicketState::Done);
        drop(kept);
    }
}

/// More than one sweep looks at, and nobody comes who would have another one begun.
#[test]
fn a_mailbox_with_many_drained_lanes_that_everybody_has_left_takes_nothing_in_the_end() {
    let daemon = TestDaemon::start(&[]);
    let client = daemon.client_with("many", &small().lanes_max(200));
    let before = daemon.status_alone(&client);
    (0..200).for_each(|_| drop(send(&client, "many", 1)));
    let dishonest = Dishonest::open(&daemon, "many");
    dishonest.take_silently();
    drop(dishonest);
    wait_until("all is given back", || daemon.status(&client).usage == before.usage);
    wait_until("nothing is left open", || daemon.status(&client).descriptors == before.descriptors);
}
