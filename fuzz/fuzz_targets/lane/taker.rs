//! A receiver: it does with its lanes what `libipc::Receiver` does, and minds what it gets.

use arbitrary::Arbitrary;
use libipc::lane::claim::{Claimant, Malformed, Next};
use libipc::lane::hints::Hints;
use libipc::lane::memory::{Payload, RingMemory};
use libipc::lane::park;
use libipc::lane::position::{GRANULE_BYTES, Position};
use libipc::lane::record::Storage;
use libipc::lane::run::Reach;

use super::book::{self, Key};
use super::regions::LANES;
use super::{Nobody, World};

#[derive(Arbitrary, Debug)]
pub enum Do {
    Take,
    Acknowledge,
    Quick,
    FromRun,
    Claim,
    Hinted { doorstep: bool },
    Highest { floor: u8, full: bool },
    OneOf { lanes: u8 },
    Earliest { lanes: Option<u8> },
    TakeOver,
    TakeOverOne { lanes: u8 },
    PutAside,
    Return,
    LetGo,
    Batch { max: u8 },
    AcknowledgeSome { count: u8 },
    Reach { records: u8 },
    Look,
    Peek { lane: u8 },
}

pub struct Taker {
    claimant: Claimant<RingMemory>,
    payload: Payload,
    /// The messages in hand that honest senders sent.
    hand: Vec<Key>,
    /// Where those of a batch lie, and how long they are.
    /// Of every message in hand where it lies, and where its bytes are among those of all, and how many.
    batch: Vec<(Position, usize, usize)>,
    acknowledged: usize,
    /// The last of each lane, while all comes in order.
    last: [Option<u16>; LANES as usize],
}

fn named(mask: u8) -> Vec<u16> {
    (0..LANES).filter(|lane| mask >> lane & 1 != 0).collect()
}

impl Taker {
    pub fn new(claimant: Claimant<RingMemory>) -> Self {
        let (payload, last) = (Payload::default(), [None; LANES as usize]);
        Self { claimant, payload, hand: Vec::new(), batch: Vec::new(), acknowledged: 0, last }
    }

    pub fn slot(&self) -> u16 {
        self.claimant.slot()
    }

    /// Before it ends in order.
    pub fn settle(&mut self) {
        self.claimant.return_to_queue();
        self.claimant.offer_left_over();
    }

    pub fn act(&mut self, world: &World, what: &Do) {
        let idle = !self.claimant.has_in_hand() && !self.claimant.has_run();
        match *what {
            Do::Take => {
                let _ = self.take(world);
            }
            Do::Acknowledge => self.acknowledge(world),
            Do::Return => self.give_back(world),
            Do::LetGo => self.let_go(world),
            Do::AcknowledgeSome { count } => self.acknowledge_some(world, count.into()),
            Do::Reach { records } => {
                let alone = self.claimant.lanes().len() == usize::from(records);
                let reach = Reach::batch(records.into(), false);
                self.claimant.set_reach(if alone { Reach::ONE } else { reach });
            }
            Do::Look => {
                let _ = self.claimant.anything_to_take();
                let _ = self.claimant.patrol();
                let _ = self.claimant.highest_offer();
                let _ = self.claimant.backlog();
                let _ = self.claimant.granules();
            }
            Do::Peek { lane } => self.peek(u16::from(lane) % LANES),
            _ if self.claimant.has_in_hand() => {}
            Do::Quick => {
                if self.claimant.is_plain() && self.claimant.take_quickly(&mut self.payload) {
                    self.got(world);
                }
            }
            Do::FromRun => {
                let _ = self.next_of_run(world);
            }
            Do::PutAside => {
                world.book.borrow_mut().undisturbed = false;
                self.claimant.put_aside();
            }
            Do::Batch { max } => self.receive_batch(world, max.into()),
            _ if idle => self.claim(world, what),
            _ => {}
        }
    }

    /// What may be done with nothing in hand and nothing claimed.
    fn claim(&mut self, world: &World, what: &Do) {
        let doorsteps = &world.regions.seen.doorsteps;
        let claimed = match *what {
            Do::Claim => self.claimant.claim_next(),
            Do::Hinted { doorstep } => {
                self.claimant.claim_hinted(Hints::of_any(&doorsteps[usize::from(doorstep)].hints))
            }
            Do::Highest { floor, full } => {
                let hints = doorsteps.iter().map(|doorstep| Hints::of_any(&doorstep.hints));
                self.claimant.claim_highest(floor % 3, hints, full)
            }
            Do::OneOf { lanes } => {
                self.claimant.claim_one_of(&named(lanes)).map(|lane| lane.is_some())
            }
            Do::Earliest { lanes } => {
                let _ = self.take_earliest(world, lanes.map(named));
                return;
            }
            Do::TakeOver => Ok(self.claimant.anything_offered() && self.claimant.take_over()),
            Do::TakeOverOne { lanes } => {
                world.book.borrow_mut().undisturbed = false;
                Ok(self.claimant.take_over_one(|lane| named(lanes).contains(&lane)))
            }
            _ => Ok(false),
        };
        self.after_claim(world, claimed);
    }

    fn after_claim(&mut self, world: &World, claimed: Result<bool, Malformed>) -> bool {
        match claimed {
            Ok(claimed) => claimed,
            Err(malformed) => {
                self.blame(world, malformed);
                // There is more to look at: another lane.
                true
            }
        }
    }

    fn blame(&self, world: &World, malformed: Malformed) {
        assert!(!world.is_honest(malformed.lane), "an honest sender is blamed: {malformed:?}");
        let by_receiver = !malformed.by_sender && world.input.senders_only;
        assert!(!by_receiver || !world.input.single, "no receiver did it: {malformed:?}");
    }

    /// Takes a message as `Receiver::take_once` does. False: there is nothing.
    pub fn take(&mut self, world: &World) -> bool {
        if self.claimant.has_in_hand() {
            self.give_back(world);
        }
        if self.claimant.is_prioritised() && !self.claimant.is_by_arrival() {
            return self.take_highest(world);
        }
        if self.next_of_run(world) {
            return true;
        }
        if self.claimant.anything_offered() && self.claimant.take_over() {
            return self.next_of_run(world);
        }
        if self.claimant.is_by_arrival() {
            return self.take_earliest(world, None);
        }
        let claimed = self.claimant.claim_next();
        self.after_claim(world, claimed) && {
            self.next_of_run(world);
            true
        }
    }

    fn take_highest(&mut self, world: &World) -> bool {
        if self.claimant.left_over().is_some() && !self.claimant.put_aside() {
            return self.next_of_run(world);
        }
        if self.claimant.anything_offered() {
            world.book.borrow_mut().undisturbed = false;
            if !self.claimant.has_free_hands() {
                self.claimant.put_aside();
            }
            if let Some(offer) = self.claimant.highest_offer() {
                let hints = world
                    .regions
                    .seen
                    .doorsteps
                    .iter()
                    .map(|doorstep| Hints::of_any(&doorstep.hints));
                let claimed = self.claimant.claim_highest(offer.saturating_add(1), hints, true);
                if self.after_claim(world, claimed) {
                    return self.next_of_run(world);
                }
                let priority = |lane| world.place(lane).priority;
                // What is offered may have changed since, to a lane that nobody has.
                if self.claimant.take_over_one(|lane| lane < LANES && priority(lane) == offer) {
                    return self.next_of_run(world);
                }
            }
        }
        let hints =
            world.regions.seen.doorsteps.iter().map(|doorstep| Hints::of_any(&doorstep.hints));
        let claimed = self.claimant.claim_highest(0, hints, true);
        self.after_claim(world, claimed) && {
            self.next_of_run(world);
            true
        }
    }

    fn take_earliest(&mut self, world: &World, lanes: Option<Vec<u16>>) -> bool {
        let mut first = None;
        for _ in 0..20 {
            let Some(head) = self.claimant.earliest(lanes.as_deref()) else { return false };
            if first.is_some_and(|first| head.is_settled_by(&first)) {
                let claimed = self.claimant.claim_head(head);
                if self.after_claim(world, claimed) {
                    self.next_of_run(world);
                    return true;
                }
                first = None;
                continue;
            }
            first = Some(head);
        }
        false
    }

    /// Takes the next message of what was claimed.
    fn next_of_run(&mut self, world: &World) -> bool {
        loop {
            match self.claimant.take_from_run(&mut self.payload) {
                Ok(Next::Message) => break,
                Ok(Next::Over) => return false,
                Ok(Next::Skipped(lane)) => self.freed(world, lane),
                Err(malformed) => {
                    self.blame(world, malformed);
                    return false;
                }
            }
        }
        self.got(world);
        true
    }

    /// A message is in hand.
    fn got(&mut self, world: &World) {
        let taken = self.claimant.in_hand().expect("a message is in hand");
        let bytes = self.payload.bytes();
        book::check_length(bytes);
        self.batch.clear();
        self.hand.clear();
        if world.is_honest(taken.lane) {
            let key = world.book.borrow().handed_out(taken.lane, bytes);
            self.hand.push(key);
            self.note_order(world, key);
        }
    }

    fn note_order(&mut self, world: &World, key: Key) {
        if world.book.borrow().undisturbed {
            let last = self.last[usize::from(key.0)].replace(key.1);
            assert!(last.is_none_or(|last| last < key.1), "{key:?} behind {last:?}");
        }
    }

    fn receive_batch(&mut self, world: &World, max: usize) {
        let reach = self.claimant.set_reach(Reach::batch(max, false));
        self.payload.begin_batch();
        let taken = self.take_first_of_batch(world);
        self.claimant.set_reach(reach);
        self.batch.clear();
        self.hand.clear();
        self.acknowledged = 0;
        let first = self.claimant.position_in_hand().unwrap_or(Position::new(0));
        let (batch, mut first_offset) = (&mut self.batch, 0);
        self.claimant.take_more(max.max(1), |behind, header, len, _| {
            if behind == 0 {
                first_offset = header;
            }
            let offset = behind as usize * GRANULE_BYTES + header - first_offset;
            batch.push((first.advance(behind), offset, len));
        });
        let bytes = self.batch.last().map_or(0, |&(_, offset, len)| offset + len);
        let lane = self.claimant.in_hand().filter(|_| taken).map(|taken| taken.lane);
        match lane.and_then(|lane| self.claimant.lane(lane)) {
            Some(lane) => self.payload.end_batch(lane.storage(), first, first_offset, bytes),
            None => return self.payload.abandon_batch(),
        }
        book::check_length(self.payload.bytes());
        if let Some(lane) = lane
            && world.is_honest(lane)
        {
            for &(_, offset, len) in &self.batch {
                let came = &self.payload.bytes()[offset..offset + len];
                self.hand.push(world.book.borrow().handed_out(lane, came));
            }
        }
    }

    /// The first message of a batch, which is only seen.
    fn take_first_of_batch(&mut self, world: &World) -> bool {
        loop {
            match self.claimant.take_from_run(&mut self.payload) {
                Ok(Next::Message) => return true,
                Ok(Next::Skipped(lane)) => self.freed(world, lane),
                Ok(Next::Over) => {}
                Err(malformed) => self.blame(world, malformed),
            }
            if self.claimant.has_run() {
                continue;
            }
            match self.claimant.claim_next() {
                Ok(true) => {}
                Ok(false) => return false,
                Err(malformed) => {
                    self.blame(world, malformed);
                    return false;
                }
            }
        }
    }

    pub fn acknowledge(&mut self, world: &World) {
        // Before the call: in the middle of it the room may be the sender's again.
        self.done(world, usize::MAX);
        let lane = match self.batch.is_empty() {
            true => self.claimant.acknowledge(),
            false => {
                let count = self.batch.len() - self.acknowledged;
                self.claimant.acknowledge_some(count as u64, None)
            }
        };
        self.batch.clear();
        if let Some(lane) = lane {
            self.freed(world, lane);
        }
    }

    fn acknowledge_some(&mut self, world: &World, count: usize) {
        let count = count.min(self.batch.len() - self.acknowledged.min(self.batch.len()));
        if count == 0 {
            return;
        }
        self.acknowledged += count;
        self.done(world, count);
        let next = self.batch.get(self.acknowledged).map(|&(at, ..)| at);
        if let Some(lane) = self.claimant.acknowledge_some(count as u64, next) {
            self.freed(world, lane);
        }
        if next.is_none() {
            self.batch.clear();
        }
    }

    fn let_go(&mut self, world: &World) {
        if self.batch.is_empty() {
            self.done(world, usize::MAX);
            if let Some(lane) = self.claimant.let_go() {
                self.freed(world, lane);
            }
        }
    }

    fn give_back(&mut self, world: &World) {
        world.book.borrow_mut().undisturbed = false;
        self.hand.clear();
        self.batch.clear();
        self.claimant.return_to_queue();
    }

    /// The first messages in hand are done with.
    fn done(&mut self, world: &World, count: usize) {
        for key in self.hand.drain(..count.min(self.hand.len())) {
            world.book.borrow_mut().acknowledged(key);
        }
    }

    fn freed(&self, world: &World, lane: u16) {
        let roster = &world.regions.seen.roster.header;
        let Some(reader) = self.claimant.lane(lane) else { return };
        if park::sender_waits(roster, reader.header()) {
            let claim = &world.regions.seen.cursors[0].claims[usize::from(lane)].claim;
            let freed = &world.regions.doorstep_of(lane).freed[usize::from(lane)];
            park::wake_sender(reader.header(), claim, freed, &Nobody);
        }
    }

    /// Looks as `libipc::Observer` does.
    fn peek(&self, lane: u16) {
        let Some(reader) = self.claimant.lane(lane) else { return };
        let mut at = self.claimant.claim_position(lane);
        let Some(mut left) = reader.published(at) else { return };
        let mut payload = Payload::default();
        while left > 0 {
            let Some(word) = reader.record(at, left) else { return };
            reader.storage().copy_out(at, word, &mut payload);
            book::check_length(payload.bytes());
            let _ = reader.is_withdrawn(at, word);
            at = at.advance(word.granules());
            left -= word.granules();
        }
    }
}
