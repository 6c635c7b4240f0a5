//! Every interleaving of a sender that goes on from a full lane in another one with those who receive.
//!
//! What `ipcd` does between the two, and how a receiver learns of it, is done here in its place ([`Chain::grow`],
//! [`Taker::look_for_lanes`]); all else is the code that ships.
//!
//! Each of these changes was made on purpose once, and the models caught it: a lane open from the start; opened without a
//! look at the claim of the one before; opened by the tail as it was last seen there; opened when the one just before it is
//! claimed, whatever comes before that; opened though the one before is not known; a lane whose sender has left it taken
//! for one that is gone (each time a later message too early); a lane that never opens.

use super::{
    Acquire, CheckpointsLeft, Claimant, Killed, LaneEntry, LaneHeader, LaneReader, LaneWriter,
    MESSAGE_BYTES, Mailbox, Mended, Model, Relaxed, Release, SlotState, explore, lane_is_drained,
    mend_slot, shared, shared_slice, slot_is_idle, thread,
};
use crate::lane::hints::{self, Hints};
use crate::lane::layout::{Claim, ClaimCell, LaneStatus};
use crate::lane::order::{LANES_WITHOUT_HINTS, LaneId, Standing};
use crate::lane::position::Position;
use crate::regions::{Cursors, Roster};
use crate::sync::AtomicU64;

/// What a model's lane holds, and what a message takes.
const GRANULES: usize = 2;

/// The lanes of one mailbox, each with the mailbox as its sender and its readers see it.
#[derive(Clone)]
pub(super) struct Chain {
    pub(super) lanes: Vec<Mailbox>,
    standings: Vec<Standing>,
}

/// Stands behind this lane.
fn behind(lane: u16) -> Standing {
    Standing { priority: 0, after: Some(LaneId { index: lane, generation: 0 }) }
}

impl Chain {
    /// Lanes that stand like this; the first is there, and those that stand behind none.
    pub(super) fn new(receivers: usize, standings: &[Standing]) -> Self {
        let mailbox = Mailbox::new(receivers, GRANULES);
        let count = standings.len();
        let roster = Roster { lanes: shared_slice::<LaneEntry>(count), ..mailbox.roster.clone() };
        let claims = shared_slice::<ClaimCell>(count);
        for (entry, cell) in roster.lanes.iter().zip(claims.iter()) {
            entry.status.store(SlotState::Free as u64, Relaxed);
            cell.claim.store(mailbox.first.get() << 16, Relaxed);
        }
        let cursors = Cursors { claims, ..mailbox.cursors.clone() };
        let lane = || {
            let header = LaneHeader::default();
            header.tail.store(mailbox.first.get(), Relaxed);
            let (roster, cursors) = (roster.clone(), cursors.clone());
            let (lane, model) = (shared(header), Model::new(GRANULES));
            Mailbox { roster, cursors, lane, model, ..mailbox.clone() }
        };
        let chain = Self {
            lanes: standings.iter().map(|_| lane()).collect(),
            standings: standings.to_vec(),
        };
        for (lane, _) in (0..).zip(standings).filter(|(_, standing)| standing.after.is_none()) {
            chain.show(lane, SlotState::Active);
        }
        chain
    }

    pub(super) fn mailbox(&self) -> &Mailbox {
        &self.lanes[0]
    }

    /// What `ipcd` writes about a lane.
    fn show(&self, lane: u16, state: SlotState) {
        let roster = &self.mailbox().roster;
        let status = LaneStatus { generation: 0, state }.to_word();
        roster.lanes[usize::from(lane)].status.store(status, Release);
        roster.header.changes.fetch_add(1, Release);
    }

    /// The sender sends one message in this lane, which is full then.
    pub(super) fn send(&self, lane: u16, message: u8) {
        let Mailbox { model, lane: header, roster, cursors, first, .. } =
            self.lanes[usize::from(lane)].clone();
        let mut writer = LaneWriter::new(model, header, roster, [cursors], lane, first);
        writer.find_room(GRANULES as u64).unwrap();
        writer.append(&[message; MESSAGE_BYTES]);
        writer.publish_appended();
    }

    /// The sender leaves one lane for the next, having published its last in the one before.
    fn grow(&self, from: u16, to: u16) {
        self.show(to, SlotState::Active);
        self.show(from, SlotState::Gone);
    }

    /// Whether all that was ever published in a lane, one message, is claimed.
    pub(super) fn is_claimed(&self, lane: u16) -> bool {
        let cell = &self.mailbox().cursors.claims[usize::from(lane)];
        let end = self.mailbox().first.advance(GRANULES as u64);
        Claim::from_word(cell.claim.load(Relaxed)).position == end
    }

    pub(super) fn taker(&self, slot: u16) -> Taker {
        self.taker_dying_at(slot, None)
    }

    /// A receiver that dies at this checkpoint of all that it passes, in whichever lane.
    fn taker_dying_at(&self, slot: u16, checkpoint: Option<u32>) -> Taker {
        let Mailbox { roster, cursors, .. } = self.mailbox().clone();
        let deadly = self.mailbox().model.deadly(checkpoint.unwrap_or_default());
        let checkpoints_left = deadly.checkpoints_left.filter(|_| checkpoint.is_some());
        let mut taker = Taker {
            chain: self.clone(),
            claimant: Claimant::new(roster, cursors, slot, false),
            checkpoints_left,
            seen_changes: 0,
            by_priority: false,
        };
        taker.look_for_lanes();
        taker
    }

    /// Afterwards nothing is left anywhere.
    fn check_is_drained(&self) {
        let Mailbox { cursors, .. } = self.mailbox();
        for (index, lane) in (0..).zip(&self.lanes) {
            let tail = Position::new(lane.lane.tail.load(Relaxed));
            assert!(lane_is_drained(cursors, index, tail), "lane {index}");
        }
    }
}

/// A receiver.
pub(super) struct Taker {
    chain: Chain,
    pub(super) claimant: Claimant<Model>,
    checkpoints_left: Option<CheckpointsLeft>,
    seen_changes: u32,
    by_priority: bool,
}

impl Taker {
    /// As a receiver does before each take.
    fn look_for_lanes(&mut self) {
        let roster = &self.chain.mailbox().roster;
        // PAIR(changes)
        let changes = roster.header.changes.load(Acquire);
        if changes == self.seen_changes {
            return;
        }
        self.seen_changes = changes;
        // The last first: the turn begins with what is to wait, so that nothing but the chain holds it back.
        for index in (0..self.chain.lanes.len() as u16).rev() {
            let status = roster.lanes[usize::from(index)].status.load(Acquire);
            let there = LaneStatus::from_word(status).state != SlotState::Free;
            if there && self.claimant.lane(index).is_none() {
                self.claimant.attach(index, self.reader(index));
            }
        }
    }

    fn reader(&self, index: u16) -> LaneReader<Model> {
        let Mailbox { model, lane, first, .. } = &self.chain.lanes[usize::from(index)];
        let checkpoints_left = self.checkpoints_left.clone();
        let model = Model { checkpoints_left, ..model.clone() };
        let standing = self.chain.standings[usize::from(index)];
        LaneReader::new(model, lane.clone(), *first, 0).standing(standing)
    }

    /// Takes a message if there is one, and sees that none has overtaken another of its sender.
    fn take(&mut self) -> Option<u64> {
        self.look_for_lanes();
        let mailbox = self.chain.mailbox();
        if self.by_priority && !self.claimant.has_run() {
            let _ = self.claimant.claim_highest(0, std::iter::empty(), true).unwrap();
        }
        let message = mailbox.take(&mut self.claimant)?;
        let lane = self.claimant.in_hand().unwrap().lane;
        let mut at = self.chain.standings[usize::from(lane)].after;
        while let Some(before) = at {
            let empty = mailbox.first.get() == self.tail_of(before.index);
            assert!(empty || self.chain.is_claimed(before.index), "{message} came too early");
            at = self.chain.standings[usize::from(before.index)].after;
        }
        Some(message)
    }

    fn tail_of(&self, lane: u16) -> u64 {
        self.chain.lanes[usize::from(lane)].lane.tail.load(Relaxed)
    }

    /// Takes and acknowledges whatever there is.
    fn take_all(&mut self) -> Vec<u64> {
        let mut got = Vec::new();
        while let Some(message) = self.take() {
            self.chain.mailbox().acknowledge(&mut self.claimant);
            got.push(message);
        }
        got
    }
}

/// A receiver while the sender leaves its lane for another, and a second one beside it: each message once, and of what
/// one receiver gets the earlier first.
#[test]
fn loom_what_a_lane_goes_on_in_is_taken_behind_it_and_once() {
    explore(3, || {
        let chain = Chain::new(2, &[Standing::default(), behind(0)]);
        let other = chain.clone();
        let thread = thread::spawn(move || other.taker(1).take_all());
        chain.send(0, 1);
        chain.grow(0, 1);
        chain.send(1, 2);
        let mut got = chain.taker(0).take_all();
        let theirs = thread.join().unwrap();
        assert!(got.is_sorted() && theirs.is_sorted(), "{got:?} {theirs:?}");
        got.extend(theirs);
        got.extend(chain.taker(0).take_all());
        got.sort_unstable();
        assert_eq!(got, [1, 2]);
        chain.check_is_drained();
    });
}

/// The sender has left a second lane without having published anything there.
#[test]
fn loom_an_empty_lane_between_two_holds_back_what_comes_behind_it() {
    explore(3, || {
        let chain = Chain::new(2, &[Standing::default(), behind(0), behind(1)]);
        chain.send(0, 1);
        chain.grow(0, 1);
        let other = chain.clone();
        let thread = thread::spawn(move || other.taker(1).take_all());
        chain.grow(1, 2);
        chain.send(2, 2);
        let mut got = chain.taker(0).take_all();
        got.extend(thread.join().unwrap());
        got.extend(chain.taker(0).take_all());
        got.sort_unstable();
        assert_eq!(got, [1, 2]);
        chain.check_is_drained();
    });
}

/// A receiver dies at each step of its claims in both lanes while another one goes on.
#[test]
fn loom_a_death_while_a_lane_goes_on_in_another_loses_and_doubles_nothing() {
    for checkpoint in 1..=4 {
        explore(2, move || {
            let chain = Chain::new(2, &[Standing::default(), behind(0)]);
            let doomed = chain.clone();
            let thread = thread::spawn(move || {
                let mut got = Vec::new();
                let mut taker = doomed.taker_dying_at(1, Some(checkpoint));
                let life = std::panic::AssertUnwindSafe(|| {
                    while let Some(message) = taker.take() {
                        doomed.mailbox().acknowledge(&mut taker.claimant);
                        got.push(message);
                    }
                });
                if let Err(cause) = std::panic::catch_unwind(life)
                    && !cause.is::<Killed>()
                {
                    std::panic::resume_unwind(cause);
                }
                got
            });
            chain.send(0, 1);
            chain.grow(0, 1);
            chain.send(1, 2);
            let mut taker = chain.taker(0);
            let mut got = taker.take_all();
            got.extend(thread.join().unwrap());
            let cursors = &chain.mailbox().cursors;
            let mended = mend_slot(cursors, 1);
            assert_eq!(mended == Mended::Nothing, slot_is_idle(cursors, 1));
            got.extend(taker.take_all());
            got.sort_unstable();
            assert_eq!(got, [1, 2], "death at checkpoint {checkpoint}: {mended:?}");
            chain.check_is_drained();
        });
    }
}

/// A lane of a higher priority goes on in another: who knows of that takes nothing lower before.
#[test]
fn loom_what_a_lane_of_a_priority_goes_on_in_comes_before_what_is_lower() {
    explore(2, || {
        let first = Standing { priority: 1, after: None };
        let second = Standing { priority: 1, ..behind(0) };
        let chain = Chain::new(2, &[first, second, Standing::default()]);
        chain.send(2, 3);
        let receive = |chain: &Chain, slot| {
            let mut taker = chain.taker(slot);
            taker.by_priority = true;
            let mut got = Vec::new();
            while let Some(message) = taker.take() {
                let knows = taker.claimant.lane(1).is_some();
                assert!(message != 3 || !knows || chain.is_claimed(0), "3 came before 1");
                chain.mailbox().acknowledge(&mut taker.claimant);
                got.push(message);
            }
            got
        };
        let other = chain.clone();
        let thread = thread::spawn(move || receive(&other, 1));
        chain.send(0, 1);
        chain.grow(0, 1);
        chain.send(1, 2);
        let mut got = receive(&chain, 0);
        got.extend(thread.join().unwrap());
        got.extend(chain.taker(0).take_all());
        got.sort_unstable();
        assert_eq!(got, [1, 2, 3]);
        chain.check_is_drained();
    });
}

/// A receiver that has not heard of the first lane, though it is there, leaves the second alone.
#[test]
fn loom_a_lane_behind_an_unknown_one_waits() {
    explore(2, || {
        let chain = Chain::new(2, &[Standing::default(), behind(0)]);
        chain.send(0, 1);
        chain.grow(0, 1);
        let other = chain.clone();
        let thread = thread::spawn(move || other.taker(1).take_all());
        chain.send(1, 2);
        let mut taker = chain.taker(0);
        assert!(taker.claimant.detach(0));
        assert_eq!(taker.take_all(), [0; 0]);
        let reader = taker.reader(0);
        taker.claimant.attach(0, reader);
        let mut got = taker.take_all();
        got.extend(thread.join().unwrap());
        got.extend(chain.taker(0).take_all());
        got.sort_unstable();
        assert_eq!(got, [1, 2]);
    });
}

/// Where lanes are so many that only hints are followed, a lane that had to wait when its hint was found is not
/// passed over for a lower priority once the one before it is empty.
#[test]
fn loom_a_lane_that_waits_keeps_its_hint() {
    explore(1, || {
        let high = |after| Standing { priority: 1, after };
        let mut standings = vec![high(None); LANES_WITHOUT_HINTS + 1];
        standings[1] = high(behind(2).after);
        standings.push(Standing::default());
        let low = standings.len() as u16 - 1;
        let chain = Chain::new(1, &standings);
        let hints = [AtomicU64::new(0)];
        for (lane, message) in [(2, 1), (1, 2), (low, 3)] {
            chain.send(lane, message);
            hints::give(&hints, lane);
        }
        chain.grow(2, 1);
        let Taker { mut claimant, .. } = chain.taker(0);
        // Lane 1 is looked at first, and has to wait.
        let mut got = Vec::new();
        while claimant.claim_highest(0, [Hints::of_any(&hints[..])].into_iter(), false).unwrap() {
            got.extend(chain.mailbox().take(&mut claimant));
            chain.mailbox().acknowledge(&mut claimant);
        }
        assert_eq!(got, [1, 2, 3]);
    });
}
