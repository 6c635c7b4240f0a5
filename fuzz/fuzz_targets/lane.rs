//! The code of the lanes against regions in which hostile peers write anything, at any moment: before each read of the
//! code that ships, and between its calls.
//!
//! Either everybody but one honest receiver and its senders may be hostile; then nothing may be read out of bounds,
//! panic or hang. Or the senders of one uid alone are; then the others get what they are promised as well: each message
//! of an honest sender whole, once, in order, and none is lost. At each read another honest party may have its turn, so
//! this also looks for interleavings that the models are too small for.
#![no_main]

#[path = "lane/book.rs"]
mod book;
#[path = "lane/regions.rs"]
mod regions;
#[path = "lane/taker.rs"]
mod taker;
#[path = "shared/words.rs"]
mod words;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::mem::offset_of;
use std::rc::Rc;
use std::time::Instant;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use libipc::lane::hints;
use libipc::lane::layout::{Claim, LaneHeader, lane_data_offset};
use libipc::lane::memory::{RecordMarks, RingMemory};
use libipc::lane::park::{self, Park, Rung, Woke};
use libipc::lane::position::Position;
use libipc::lane::record::RecordHeader;
use libipc::lane::repair;
use libipc::lane::ring::{LaneWriter, NoRoom};
use libipc::lane::turn;
use libipc::lane::withdraw::{self, Progress, Record, Withdrawal};
use libipc::sync::AtomicU32;
use libipc::sync::Ordering::Relaxed;
use libipc::sync::hostile::before_each_read;

use book::Book;
use regions::{CAPACITY, CAPACITY_BYTES, GROUPS, HONEST_LANES, LANES, Place, RECEIVERS, Regions};
use taker::{Do, Taker};
use words::Word;

/// Receivers that the code under test plays; the slots beyond are a stranger's.
const TAKERS: u16 = 2;
const STEPS_MAX: usize = 150;
/// The first word of a lane's data.
const LANE_DATA_WORD: u16 = lane_data_offset(CAPACITY_BYTES) as u16 / 8;
/// Records that a sender remembers.
const RECORDS_MAX: usize = 64;

#[derive(Arbitrary, Debug)]
struct Input {
    /// Hostile are the senders of the second uid alone.
    senders_only: bool,
    /// The mailbox admits one receiver.
    single: bool,
    by_arrival: bool,
    near_the_wrap: bool,
    /// Messages may be withdrawn.
    tickets: bool,
    /// There is a second group of receivers, which receives nothing.
    two_groups: bool,
    /// The second lane goes on from the first.
    chained: bool,
    priorities: [u8; LANES as usize],
    steps: Vec<Step>,
    /// What others do after so many reads.
    meanwhile: Vec<(u8, Step)>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Scribble {
        region: u8,
        word: u16,
        value: Word,
    },
    /// The first word of what lies at a lane's claim.
    SpoilRecord {
        lane: u8,
        word: Word,
    },
    /// What stands beside a lane's tail, said to be what lies at the lane's claim.
    SpoilBeside {
        lane: u8,
        kind: u8,
        len: u8,
    },
    Publish {
        lane: u8,
        len: u16,
    },
    Withdraw {
        lane: u8,
        back: u8,
    },
    Ask {
        lane: u8,
        back: u8,
    },
    Receive {
        who: u8,
        what: Do,
    },
    Kill {
        who: u8,
        orderly: bool,
    },
    Mend {
        slot: u8,
        discard: bool,
    },
    Drop {
        lane: u8,
        from: i16,
        granules: u8,
    },
    Turn {
        slot: u8,
        what: u8,
    },
}

/// Nobody sleeps here.
struct Nobody;

impl Park for Nobody {
    fn wait(&self, _: &[(&AtomicU32, u32)], _: Option<Instant>) -> Woke {
        Woke::TimedOut
    }
    fn wake(&self, _: &AtomicU32, _: u32) {}
    fn barrier(&self) -> bool {
        true
    }
}

/// A sender, and what it remembers.
struct Giver {
    writer: LaneWriter<RingMemory>,
    marks: RecordMarks,
    records: VecDeque<(u16, Record)>,
    rung: Rung,
    next: u16,
}

struct World {
    regions: Rc<Regions>,
    input: Input,
    first: Position,
    givers: Vec<RefCell<Giver>>,
    takers: Vec<RefCell<Taker>>,
    book: RefCell<Book>,
    /// The first lane gets no more messages.
    moved_on: Cell<bool>,
}

thread_local! {
    static REGIONS: Rc<Regions> = Rc::new(Regions::new());
    static CLOCK: Cell<u64> = const { Cell::new(0) };
}

fn tick() -> u64 {
    CLOCK.set(CLOCK.get() + 1);
    CLOCK.get()
}

fuzz_target!(|input: Input| {
    CLOCK.set(0);
    let regions = REGIONS.with(Rc::clone);
    let first = Position::new(if input.near_the_wrap { (1 << 48) - 100 } else { 0 });
    regions.reset(first);
    let mut input = input;
    let meanwhile = std::mem::take(&mut input.meanwhile);
    let steps = std::mem::take(&mut input.steps);
    let world = Rc::new(World::new(regions, input, first));
    let mut meanwhile: VecDeque<_> = meanwhile.into();
    let others = world.clone();
    let hook = move || match meanwhile.front_mut() {
        Some((0, _)) => {
            if let Some((_, step)) = meanwhile.pop_front() {
                others.take(&step);
            }
        }
        Some((reads, _)) => *reads -= 1,
        None => {}
    };
    before_each_read(Some(Box::new(hook)));
    for step in steps.iter().take(STEPS_MAX) {
        world.take(step);
    }
    world.drain();
    before_each_read(None);
    // What came while all were looking for the last time.
    world.drain();
    if world.input.senders_only {
        world.book.borrow().check_all_settled(|| world.regions.describe());
    }
});

impl World {
    fn new(regions: Rc<Regions>, input: Input, first: Position) -> Self {
        let groups = if input.two_groups { GROUPS } else { 1 };
        let giver = |lane| {
            let mut writer = regions.writer(lane, groups, first);
            if input.tickets {
                writer.expect_withdrawals();
            }
            if input.by_arrival {
                writer.stamp_with(tick);
            }
            let marks = writer.storage().marks();
            let (records, rung) = (VecDeque::new(), Rung::default());
            RefCell::new(Giver { writer, marks, records, rung, next: 0 })
        };
        let givers = (0..LANES).map(giver).collect();
        let book = RefCell::new(Book::new());
        let mut world = Self {
            regions,
            input,
            first,
            givers,
            takers: Vec::new(),
            book,
            moved_on: Cell::new(false),
        };
        let takers = if world.input.single { 1 } else { TAKERS };
        world.takers = (0..takers).map(|slot| RefCell::new(world.new_taker(slot))).collect();
        world
    }

    fn new_taker(&self, slot: u16) -> Taker {
        let mut claimant = self.regions.claimant(slot, self.input.single);
        if self.input.by_arrival {
            claimant.set_by_arrival();
        }
        for lane in 0..LANES {
            claimant.attach(lane, self.regions.reader(lane, self.place(lane), self.first));
        }
        Taker::new(claimant)
    }

    fn place(&self, lane: u16) -> Place {
        let priority = self.input.priorities[usize::from(lane)] % 3;
        match lane {
            // A lane that goes on from another has its priority.
            1 if self.input.chained => {
                Place { priority: self.input.priorities[0] % 3, after: Some(0) }
            }
            _ => Place { priority, after: None },
        }
    }

    /// Whether what comes through a lane must be what its sender sent.
    fn is_honest(&self, lane: u16) -> bool {
        self.input.senders_only && lane < HONEST_LANES
    }

    fn take(&self, step: &Step) {
        match *step {
            Step::Scribble { region, word, value } => {
                let value = value.to_word(self.first);
                self.regions.scribble(region, word, value, self.input.senders_only);
            }
            Step::SpoilRecord { lane, word } => {
                let (lane, first_record) = (u16::from(lane) % LANES, LANE_DATA_WORD);
                let at = self.claim_position(lane).get() & (CAPACITY - 1);
                self.spoil(lane, first_record + 2 * at as u16, word.to_word(self.first));
            }
            Step::SpoilBeside { lane, kind, len } => {
                let (lane, of) = (u16::from(lane) % LANES, offset_of!(LaneHeader, beside) / 8);
                let position = self.claim_position(lane).get();
                self.spoil(lane, of as u16, position << 16 | u64::from(kind) << 8 | u64::from(len));
            }
            Step::Publish { lane, len } => self.publish(u16::from(lane) % LANES, len.into()),
            Step::Withdraw { lane, back } => self.withdraw(u16::from(lane) % LANES, back.into()),
            Step::Ask { lane, back } => {
                self.ask(usize::from(lane) % usize::from(LANES), back.into())
            }
            Step::Receive { who, ref what } => {
                // One that is in the middle of something does not do another thing.
                if let Ok(mut taker) = self.taker(who).try_borrow_mut() {
                    taker.act(self, what);
                }
            }
            Step::Kill { who, orderly } => self.kill(who, orderly),
            Step::Mend { slot, discard } => self.mend(slot, discard),
            Step::Drop { lane, from, granules } => {
                if !self.input.senders_only {
                    let from = Word::Position(from).to_word(self.first);
                    let from = Position::new(from);
                    let through = from.advance(u64::from(granules));
                    let cursors = &self.regions.seen.cursors[1];
                    repair::drop_through(cursors, u16::from(lane) % LANES, from, through);
                }
            }
            Step::Turn { slot, what } => self.turn(u16::from(slot) % RECEIVERS, what),
        }
    }

    fn taker(&self, who: u8) -> &RefCell<Taker> {
        &self.takers[usize::from(who) % self.takers.len()]
    }

    fn claim_position(&self, lane: u16) -> Position {
        let claim = self.regions.seen.cursors[0].claims[usize::from(lane)].claim.load(Relaxed);
        Claim::from_word(claim).position
    }

    /// A hostile sender changes a word of its lane, of what receivers are about to take.
    fn spoil(&self, lane: u16, word: u16, value: u64) {
        if self.is_honest(lane) {
            return;
        }
        // The files come first the cursors, then the doorsteps, then the lanes; for senders the lanes alone.
        let region = if self.input.senders_only { lane - HONEST_LANES } else { 4 + lane };
        self.regions.scribble(region as u8, word, value, self.input.senders_only);
    }

    fn publish(&self, lane: u16, len: usize) {
        let lane = if lane == 0 && self.moved_on.get() { 1 } else { lane };
        let Ok(mut giver) = self.givers[usize::from(lane)].try_borrow_mut() else { return };
        let longest = CAPACITY as usize * 16 - 16;
        // Half of them short: those stand beside the tail too, and many are in the lane at once.
        let len_max = if len.is_multiple_of(2) { 120 } else { longest };
        let len = book::BYTES_MIN + len / 2 % (len_max - book::BYTES_MIN + 1);
        let granules = giver.writer.granules(len);
        if !giver.writer.has_room(granules) {
            match giver.writer.find_room(granules) {
                Ok(()) => {}
                Err(NoRoom::Full) => return,
                Err(other) => {
                    assert!(!self.is_honest(lane), "nobody has spoiled the cursors: {other:?}");
                    return;
                }
            }
        }
        if lane == 1 && self.input.chained {
            self.moved_on.set(true);
        }
        let number = giver.next;
        giver.next += 1;
        let bytes = book::bytes((lane, number), len);
        let record = giver.writer.record_to_come(RecordHeader::MESSAGE, len);
        if self.is_honest(lane) {
            // It may be received before its sender's call returns.
            self.book.borrow_mut().sent((lane, number), len);
        }
        if giver.writer.is_plain() {
            giver.writer.publish_plainly(&bytes);
        } else {
            giver.writer.publish(&bytes);
        }
        let doorstep = self.regions.doorstep_of(lane);
        if self.place(lane).priority == 0 {
            hints::give(&doorstep.hints, lane);
        } else {
            hints::give_surely(&doorstep.hints, lane);
        }
        let (roster, cursors) = (&self.regions.seen.roster.header, &self.regions.seen.cursors[0]);
        let bell = &doorstep.header.bells[0];
        park::announce(roster, &cursors.header, 1, &mut giver.rung, bell, &Nobody);
        giver.records.push_back((number, record));
        if giver.records.len() > RECORDS_MAX {
            giver.records.pop_front();
        }
    }

    fn withdraw(&self, lane: u16, back: usize) {
        let Ok(giver) = self.givers[usize::from(lane)].try_borrow_mut() else { return };
        let Some(&(number, record)) = giver.records.iter().rev().nth(back) else { return };
        // As a ticket does: once, and only while it seems queued, so that its room is not another record's.
        let settled = self.book.borrow().is_withdrawn((lane, number));
        let queued = giver.writer.progress(record) == Progress::Queued;
        if !self.input.tickets || settled || !queued {
            return;
        }
        let (seen, groups) = (&self.regions.seen, if self.input.two_groups { 2 } else { 1 });
        let verdict = &self.regions.doorstep_of(lane).verdicts[usize::from(lane)];
        let claimed = || withdraw::is_claimed(seen.cursors.iter().take(groups), lane, record.at);
        let (roster, header) = (&seen.roster.header, giver.writer.header());
        let end =
            withdraw::withdraw(roster, header, &giver.marks, verdict, record, &Nobody, claimed);
        if end == Withdrawal::Withdrawn && self.is_honest(lane) {
            self.book.borrow_mut().withdrawn((lane, number));
        }
    }

    /// What a sender asks its words and those of the receivers.
    fn ask(&self, lane: usize, back: usize) {
        let Ok(mut giver) = self.givers[lane].try_borrow_mut() else { return };
        if let Some(&(_, record)) = giver.records.iter().rev().nth(back) {
            let _ = giver.writer.progress(record);
        }
        let _ = giver.writer.in_use();
        let _ = giver.writer.oldest_of(1, 1 + back as u64);
        let _ = giver.writer.wanted_claim(1 + back as u64);
    }

    fn kill(&self, who: u8, orderly: bool) {
        let Ok(mut taker) = self.taker(who).try_borrow_mut() else { return };
        self.book.borrow_mut().undisturbed = false;
        if orderly {
            taker.settle();
        }
        let slot = taker.slot();
        let cursors = &self.regions.seen.cursors[0];
        repair::mend_slot(cursors, slot);
        repair::leave_line(cursors, slot);
        *taker = self.new_taker(slot);
    }

    fn mend(&self, slot: u8, discard: bool) {
        let cursors = &self.regions.seen.cursors[0];
        // Of those that live nobody mends anything; the last slot is a stranger's that has died.
        let slot = if slot < 200 { TAKERS } else { slot.into() };
        if discard && !self.input.senders_only {
            repair::discard_slot(cursors, slot);
        } else {
            repair::mend_slot(cursors, slot);
        }
        let _ = repair::slot_is_idle(cursors, slot);
        for lane in 0..LANES {
            let _ = repair::lane_is_held(cursors, lane);
            let _ = repair::lane_is_drained(cursors, lane, self.first);
        }
    }

    fn turn(&self, slot: u16, what: u8) {
        let cursors = &self.regions.seen.cursors[0];
        let receivers = usize::from(RECEIVERS);
        match what % 6 {
            0 => turn::join(cursors, slot),
            1 => drop(turn::advance(cursors, receivers, slot)),
            2 => drop(turn::try_take(cursors, receivers, slot)),
            3 => drop(turn::leave(cursors, receivers, slot)),
            4 => drop(turn::release(cursors, receivers)),
            _ => {
                park::lie_down(&cursors.header, slot);
                park::get_up(&cursors.header, slot);
            }
        }
    }

    /// Everybody receives and acknowledges until nothing is left.
    fn drain(&self) {
        let mut quiet = 0;
        for round in 0..20_000 {
            let mut taker = self.takers[round % self.takers.len()].borrow_mut();
            taker.acknowledge(self);
            quiet = if taker.take(self) { 0 } else { quiet + 1 };
            if quiet > 3 * self.takers.len() {
                break;
            }
        }
    }
}
