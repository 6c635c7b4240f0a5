//! What it takes to sleep on a handle's behalf: which words to sleep on, what to say before, what to take
//! back after, and what a look from outside of the handle can tell.
//!
//! A handle that blocks sleeps by itself (`Receiver::sleep`, `Sender::sleep_for_room`). A [`Sleeper`] is for
//! whoever sleeps for several at once: [`crate::watch`] for descriptors, [`crate::WaitSet`] for a thread that
//! waits on many. The protocol is that of [`crate::lane::park`] all the same.

use std::fmt::Debug;
use std::sync::Weak;
use std::time::Duration;

use crate::lane::layout::{Claim, LaneHeader};
use crate::lane::park::{self, Facing};
use crate::lane::position::Position;
use crate::lane::takeover::offers_something;
use crate::lifeline::LOOK_EVERY;
use crate::regions::{Cursors, Doorstep, Roster};
use crate::session::Session;
use crate::sync::AtomicU32;
use crate::sync::Ordering::{Acquire, Relaxed};
use crate::sys::futex::Futex;
use crate::sys::mapping::Shared;

/// What a look from outside of a handle found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// Nothing.
    None,
    /// Something that one of those who wait for it will take.
    ForOne,
    /// Something that each of those who wait must see.
    ForAll,
}

/// Somebody who waits on words of shared memory, whoever it is that sleeps there.
///
/// In order: load the words, [`Sleeper::lie_down`], the heavy barrier, a last look, sleep until one of the
/// words has changed, [`Sleeper::get_up`].
pub trait Sleeper: Debug + Send + Sync {
    /// The futex words that change when there is news. Never none.
    fn words(&self) -> &[Shared<AtomicU32>];

    /// Who may have news.
    fn facing(&self) -> Facing<'_>;

    /// Says that this one sleeps, or sleeps anew.
    fn lie_down(&self);

    /// Takes that back.
    fn get_up(&self);

    /// How long it may sleep before somebody looks again: for ever, if nothing else is said.
    fn at_most(&self) -> Option<Duration> {
        None
    }

    /// Whether there is news. It may see some where the handle then finds none; never the other way round.
    fn look(&self) -> News;

    /// Whether these are no longer the words to sleep on, as far as the roster tells.
    fn is_outdated(&self) -> bool {
        false
    }

    /// Those of one mailbox who compete for its messages have the same number; who competes with nobody has none,
    /// and nothing to do with the rest.
    fn competes_in(&self) -> Option<u64> {
        None
    }

    /// Whether somebody else sleeps who could take what there is.
    fn another_sleeps(&self) -> bool {
        false
    }

    /// The baton: wakes another sleeper if there is something to take. `for_us_too`: this one has lain down
    /// again, in another place, and may be the one to wake.
    fn pass_on(&self, _for_us_too: bool) {}
}

/// The futex word on which the receivers of a group listen to the senders of a doorstep.
pub(crate) fn bell(doorstep: &Doorstep, group: usize) -> Shared<AtomicU32> {
    doorstep.header.part(|header| &header.bells[group])
}

/// A receiver that waits for a message, or for a change of its mailbox.
#[derive(Debug)]
pub(crate) struct BellSleeper {
    pub(crate) roster: Roster,
    pub(crate) cursors: Cursors,
    pub(crate) slot: u16,
    /// Words of sleeping bits that the mailbox's receivers need.
    pub(crate) sleeping_words: usize,
    /// The roster's `changes` that the handle has seen.
    pub(crate) seen_changes: u32,
    /// The handle has lanes to ask for again: it must be let to, soon.
    pub(crate) hurried: bool,
    /// The session, where the handle ends with the daemon.
    pub(crate) lifeline: Option<Weak<Session>>,
    /// The bells to listen to.
    pub(crate) bells: Vec<Shared<AtomicU32>>,
    /// The lanes that the handle has.
    pub(crate) lanes: Vec<(u16, Shared<LaneHeader>)>,
}

impl BellSleeper {
    /// Whether a lane has something beyond its claim, or something is offered. The handle looks closer.
    fn anything(&self) -> bool {
        let published = |(index, header): &(u16, Shared<LaneHeader>)| {
            let claim = self.cursors.claims[usize::from(*index)].claim.load(Acquire);
            // PAIR(publish): Acquire here, Release in `ring::LaneWriter::publish`.
            Position::new(header.tail.load(Acquire)) != Claim::from_word(claim).position
        };
        // Relaxed: only a reason to look closer.
        let offered = &self.cursors.header.offered;
        let offers = || {
            let mut slots = 0..self.cursors.slots.len() as u16;
            slots.any(|slot| offers_something(&self.cursors, &self.roster, slot))
        };
        park::any_bit(offered, offered.len()) && offers() || self.lanes.iter().any(published)
    }

    fn news(&self) -> News {
        if self.hurried || self.is_outdated() {
            News::ForAll
        } else if self.anything() {
            News::ForOne
        } else {
            News::None
        }
    }

    /// Whether the handle is to end, for the daemon is away.
    fn has_lost_daemon(&self) -> bool {
        let session = self.lifeline.as_ref().and_then(Weak::upgrade);
        session.is_some_and(|session| session.is_away())
    }
}

impl Sleeper for BellSleeper {
    fn words(&self) -> &[Shared<AtomicU32>] {
        &self.bells
    }

    fn facing(&self) -> Facing<'_> {
        Facing::Senders(&self.roster.header, &self.cursors.header)
    }

    fn lie_down(&self) {
        park::lie_down(&self.cursors.header, self.slot);
    }

    fn get_up(&self) {
        park::get_up(&self.cursors.header, self.slot);
    }

    fn at_most(&self) -> Option<Duration> {
        let at_most = self.hurried.then_some(park::SLEEP_AMONG_STRANGERS);
        at_most.or(self.lifeline.is_some().then_some(LOOK_EVERY))
    }

    fn is_outdated(&self) -> bool {
        // PAIR(changes): Acquire here, Release in `ipcd` behind every change of the roster.
        self.roster.header.changes.load(Acquire) != self.seen_changes
    }

    fn look(&self) -> News {
        if self.has_lost_daemon() { News::ForAll } else { self.news() }
    }

    fn competes_in(&self) -> Option<u64> {
        Some(self.roster.header.mailbox_id.load(Relaxed))
    }

    fn another_sleeps(&self) -> bool {
        park::another_sleeps(&self.cursors.header, self.sleeping_words, self.slot)
    }

    fn pass_on(&self, for_us_too: bool) {
        let sleeps = if for_us_too {
            park::anyone_sleeps(&self.cursors.header, self.sleeping_words)
        } else {
            self.another_sleeps()
        };
        if sleeps {
            // PAIR(sleep): as in `park::pass_on`.
            park::barrier_before_sleep(self.facing(), &Futex);
            if self.news() != News::None {
                self.bells.iter().for_each(|bell| park::ring(bell, 1, &Futex));
            }
        }
    }
}

/// A sender that waits for room.
#[derive(Debug)]
pub(crate) struct RoomSleeper {
    pub(crate) roster: Roster,
    pub(crate) lane: Shared<LaneHeader>,
    /// The lane's `freed` word.
    pub(crate) freed: Shared<AtomicU32>,
    /// How far the lane's claim must come.
    pub(crate) wanted: Position,
    pub(crate) at_most: Option<Duration>,
}

impl Sleeper for RoomSleeper {
    fn words(&self) -> &[Shared<AtomicU32>] {
        std::slice::from_ref(&self.freed)
    }

    fn facing(&self) -> Facing<'_> {
        Facing::Receivers(&self.roster.header)
    }

    fn lie_down(&self) {
        park::wait_for_room(&self.lane, self.wanted, self.freed.load(Acquire));
    }

    fn get_up(&self) {
        park::stop_waiting_for_room(&self.lane);
    }

    fn at_most(&self) -> Option<Duration> {
        self.at_most
    }

    fn look(&self) -> News {
        // Only the sender itself can tell how much room there is.
        News::ForAll
    }
}
