//! Every interleaving of small cases, over the code that ships.
//!
//! Under loom (`RUSTFLAGS="--cfg loom"`) each case runs through all interleavings and all values that the
//! memory model allows; otherwise each runs some times on real threads, which Miri can watch too. Memory
//! is a few cells that loom checks for races, sleeping is a condition variable, and a death is a panic
//! at a [`Storage::checkpoint`].

mod arrival;
mod batch;
mod beside;
mod choice;
mod copied;
mod growth;
mod letters;
mod takeover;
mod withdraw;

use std::io;
use std::sync::Arc;
use std::time::Instant;

use crate::lane::claim::{Claimant, Next};
use crate::lane::fencing;
use crate::lane::layout::{
    ClaimCell, CursorsHeader, LaneEntry, LaneHeader, Limits, ReceiverEntry, RosterHeader, SlotCell,
    SlotState,
};
use crate::lane::park::{self, Park, Rung, Woke};
use crate::lane::position::{Position, record_granules};
use crate::lane::reader::LaneReader;
use crate::lane::record::{Marks, RecordHeader, RecordWord, Storage};
use crate::lane::repair::{Mended, lane_is_drained, mend_slot, slot_is_idle};
use crate::lane::ring::{LaneWriter, NoRoom};
use crate::lane::run::Reach;
use crate::regions::{Cursors, Roster};
use crate::sync::Ordering::{Acquire, Relaxed, Release};
use crate::sync::{AtomicU32, AtomicU64};
use crate::sys::mapping::{Shared, SharedWords};

#[cfg(loom)]
use loom::{
    cell::UnsafeCell,
    sync::{Condvar, Mutex},
    thread,
};
#[cfg(not(loom))]
use std::{
    sync::{Condvar, Mutex},
    thread,
};

/// A cell whose accesses loom checks for races; elsewhere an atomic that Miri lets through.
#[cfg(not(loom))]
#[derive(Default)]
struct UnsafeCell<T>(Mutex<T>);

#[cfg(not(loom))]
impl<T: Copy> UnsafeCell<T> {
    fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }
}

fn set_cell(cell: &UnsafeCell<u64>, value: u64) {
    #[cfg(loom)]
    cell.with_mut(|pointer| crate::sys::mapping::write_cell(pointer, value));
    #[cfg(not(loom))]
    {
        *cell.0.lock().unwrap() = value;
    }
}

fn get_cell(cell: &UnsafeCell<u64>) -> u64 {
    #[cfg(loom)]
    return cell.with(|pointer| crate::sys::mapping::read_cell(pointer));
    #[cfg(not(loom))]
    return *cell.0.lock().unwrap();
}

/// Bytes of a message: with its header it takes two granules, in the second of which its payload's cell is.
const MESSAGE_BYTES: usize = 16;

/// A lane's data: a header and a payload cell a granule.
struct Cells {
    headers: Vec<[AtomicU64; 2]>,
    payloads: Vec<UnsafeCell<u64>>,
}

/// How many are left until one that kills. loom sees nothing of it.
type CheckpointsLeft = Arc<std::sync::atomic::AtomicU32>;

/// A view of the data; `deadly_checkpoint` kills whoever comes by for the n-th time.
#[derive(Clone)]
struct Model {
    cells: Arc<Cells>,
    checkpoints_left: Option<CheckpointsLeft>,
}

impl Model {
    fn new(granules: usize) -> Self {
        let headers = (0..granules).map(|_| [AtomicU64::new(0), AtomicU64::new(0)]).collect();
        let payloads = (0..granules).map(|_| UnsafeCell::new(0)).collect();
        Self { cells: Arc::new(Cells { headers, payloads }), checkpoints_left: None }
    }

    fn deadly(&self, checkpoint: u32) -> Self {
        let left = Arc::new(std::sync::atomic::AtomicU32::new(checkpoint));
        Self { checkpoints_left: Some(left), ..self.clone() }
    }

    fn index(&self, at: Position) -> usize {
        (at.get() & (self.capacity() - 1)) as usize
    }
}

/// What a death at a checkpoint throws.
struct Killed;

/// What a receiver has in hand.
#[derive(Default)]
struct Hand {
    message: u64,
    /// A run that was copied: the header and the payload cell of each granule.
    run: Vec<(RecordWord, u64)>,
}

impl Storage for Model {
    type Payload = Hand;

    fn capacity(&self) -> u64 {
        self.cells.headers.len() as u64
    }

    fn write_header(&self, at: Position, header: RecordHeader) {
        let [first, second] = &self.cells.headers[self.index(at)];
        first.store(header.word().get(), Relaxed);
        if header.word().is_stamped() {
            second.store(header.stamp, Relaxed);
        }
    }

    fn write(&self, at: Position, header: RecordHeader, payload: &[u8]) {
        self.write_header(at, header);
        set_cell(&self.cells.payloads[self.index(at.advance(1))], u64::from(payload[0]));
    }

    fn header(&self, at: Position) -> RecordHeader {
        let [_, second] = &self.cells.headers[self.index(at)];
        RecordHeader::from_words(self.word(at), || second.load(Relaxed))
    }

    fn word(&self, at: Position) -> RecordWord {
        let [first, _] = &self.cells.headers[self.index(at)];
        RecordWord::new(first.load(Relaxed))
    }

    fn copy_out(&self, at: Position, _word: RecordWord, into: &mut Hand) {
        into.message = get_cell(&self.cells.payloads[self.index(at.advance(1))]);
    }

    fn copy_words(words: &[AtomicU64], _word: RecordWord, into: &mut Hand) -> bool {
        // Each word has the message in each of its bytes: with another beside it, it is none.
        let [first, second] = [&words[0], &words[1]].map(|word| word.load(Relaxed));
        into.message = if first == second { first & 0xff } else { u64::MAX };
        true
    }

    fn copy_run(&self, at: Position, granules: u64, into: &mut Hand) -> bool {
        let places = (0..granules).map(|behind| at.advance(behind));
        let cell = |at| get_cell(&self.cells.payloads[self.index(at)]);
        into.run = places.map(|at| (self.word(at), cell(at))).collect();
        true
    }

    fn show_copied(ahead: u64, into: &mut Hand) -> Option<(RecordWord, u64)> {
        let place = into.run.len() - ahead as usize;
        let (word, _) = into.run[place];
        let granules = word.plain_granules().filter(|&granules| granules <= ahead)?;
        into.message = into.run[place + 1].1;
        Some((word, granules))
    }

    fn prepare(&self, _at: Position, _granules: u64) -> io::Result<()> {
        Ok(())
    }

    fn checkpoint(&self) {
        if let Some(left) = &self.checkpoints_left
            && left.fetch_sub(1, Relaxed) == 1
        {
            std::panic::resume_unwind(Box::new(Killed));
        }
    }
}

impl Marks for Model {
    fn mark(&self, at: Position, word: RecordWord) {
        self.cells.headers[self.index(at)][0].store(word.get(), Release);
    }
}

/// Futexes as they are documented: compare and sleep are one step. Two queues: the bell's, and the other
/// word's.
#[derive(Clone)]
struct ModelPark {
    queues: Arc<(Mutex<()>, [Condvar; 2])>,
    bell: Arc<AtomicU32>,
}

impl ModelPark {
    fn new(bell: Arc<AtomicU32>) -> Self {
        Self { queues: Arc::new((Mutex::new(()), [Condvar::new(), Condvar::new()])), bell }
    }

    fn queue(&self, word: &AtomicU32) -> &Condvar {
        &self.queues.1[usize::from(std::ptr::eq(word, &raw const *self.bell))]
    }
}

impl Park for ModelPark {
    fn wait(&self, words: &[(&AtomicU32, u32)], _deadline: Option<Instant>) -> Woke {
        let [(word, expected)] = words else { panic!("the models wait on one word") };
        let guard = self.queues.0.lock().unwrap();
        if word.load(Relaxed) == *expected {
            drop(self.queue(word).wait(guard).unwrap());
        }
        Woke::Perhaps
    }

    fn wake(&self, word: &AtomicU32, count: u32) {
        let guard = self.queues.0.lock().unwrap();
        drop(guard);
        let queue = self.queue(word);
        if count == 1 { queue.notify_one() } else { queue.notify_all() }
    }

    fn barrier(&self) -> bool {
        true
    }
}

/// The writing end, and what it remembers of the sleepers.
type Writer = (LaneWriter<Model>, Rung);

/// A mailbox with one lane, as its members see it.
#[derive(Clone)]
struct Mailbox {
    roster: Roster,
    cursors: Cursors,
    lane: Shared<LaneHeader>,
    model: Model,
    bell: Arc<AtomicU32>,
    freed: Arc<AtomicU32>,
    verdict: Shared<AtomicU64>,
    park: ModelPark,
    first: Position,
}

fn shared<T: SharedWords + Send + Sync + 'static>(value: T) -> Shared<T> {
    Shared::from(Arc::new(value))
}

fn shared_slice<T: SharedWords + Send + Sync + Default + 'static>(count: usize) -> Shared<[T]> {
    Shared::from((0..count).map(|_| T::default()).collect::<Arc<[T]>>())
}

impl Mailbox {
    /// `granules` of lane; it begins three granules before its position wraps.
    fn new(receivers: usize, granules: usize) -> Self {
        let first = Position::new(0).back(3);
        let limits = Limits { receivers_max: receivers as u16, lanes_max: 1, groups: 1 };
        let header = RosterHeader::default();
        // No kernel runs a barrier in the other threads here, so both sides must fence: without this the
        // models lose wake-ups on real threads, and under Miri, which shows it at once.
        header.fences.store(1, Relaxed);
        header.groups[0].receivers_high.store(receivers as u32, Relaxed);
        let roster = Roster {
            header: shared(header),
            receivers: shared_slice::<ReceiverEntry>(receivers),
            lanes: shared_slice::<LaneEntry>(1),
        };
        roster.lanes[0].status.store(SlotState::Active as u64, Relaxed);
        for entry in roster.receivers.iter() {
            entry.state.store(SlotState::Active as u32, Relaxed);
        }
        let cursors = Cursors {
            header: shared(CursorsHeader::default()),
            slots: shared_slice::<SlotCell>(limits.cells()),
            claims: shared_slice::<ClaimCell>(1),
        };
        cursors.claims[0].claim.store(first.get() << 16, Relaxed);
        let bell = Arc::new(AtomicU32::new(0));
        let lane = LaneHeader::default();
        lane.tail.store(first.get(), Relaxed);
        Self {
            roster,
            cursors,
            lane: shared(lane),
            model: Model::new(granules),
            bell: bell.clone(),
            freed: Arc::new(AtomicU32::new(0)),
            verdict: shared(AtomicU64::new(0)),
            park: ModelPark::new(bell),
            first,
        }
    }

    fn writer(&self) -> Writer {
        let (roster, cursors) = (self.roster.clone(), self.cursors.clone());
        let (model, lane) = (self.model.clone(), self.lane.clone());
        (LaneWriter::new(model, lane, roster, [cursors], 0, self.first), Rung::default())
    }

    fn claimant(&self, slot: u16, single: bool) -> Claimant<Model> {
        self.claimant_over(self.model.clone(), slot, single)
    }

    fn claimant_over(&self, model: Model, slot: u16, single: bool) -> Claimant<Model> {
        let mut claimant = Claimant::new(self.roster.clone(), self.cursors.clone(), slot, single);
        claimant.attach(
            0,
            LaneReader::new(model, self.lane.clone(), self.first, 0)
                .with_verdict(Some(self.verdict.clone())),
        );
        claimant
    }

    /// Sends, sleeping for room as a sender does. The message does not stand beside the tail: what is read where it lies is
    /// what these models are about, but for those of `beside`.
    fn send(&self, (writer, rung): &mut Writer, message: u8) {
        let granules = record_granules(MESSAGE_BYTES);
        while !writer.has_room(granules) {
            match writer.find_room(granules) {
                Ok(()) => break,
                Err(NoRoom::Full) => {}
                Err(other) => panic!("{other:?}"),
            }
            let wanted = writer.wanted_claim(granules);
            let header = writer.shared_header();
            let look = || !matches!(writer.find_room(granules), Err(NoRoom::Full));
            let (roster, freed) = (&self.roster.header, &self.freed);
            park::sleep_for_room(roster, &header, freed, wanted, (None, None), &self.park, look);
        }
        writer.append(&[message; MESSAGE_BYTES]);
        writer.publish_appended();
        let (roster, cursors) = (&self.roster.header, &self.cursors.header);
        park::announce(roster, cursors, 1, rung, &self.bell, &self.park);
    }

    /// Takes one message if there is one, without acknowledging it.
    fn take(&self, claimant: &mut Claimant<Model>) -> Option<u64> {
        let mut hand = Hand::default();
        loop {
            match claimant.take_from_run(&mut hand).unwrap() {
                Next::Message => return Some(hand.message),
                Next::Skipped(_) => self.has_freed(),
                Next::Over => {
                    let taken = claimant.anything_offered() && claimant.take_over();
                    if !taken && !claimant.claim_next().unwrap() {
                        return None;
                    }
                }
            }
        }
    }

    fn acknowledge(&self, claimant: &mut Claimant<Model>) {
        claimant.acknowledge().expect("a message in hand");
        self.has_freed();
    }

    fn has_freed(&self) {
        let claim = &self.cursors.claims[0].claim;
        if park::sender_waits(&self.roster.header, &self.lane) {
            park::wake_sender(&self.lane, claim, &self.freed, &self.park);
        }
    }

    /// Receives, sleeping as a receiver does, and acknowledges.
    fn receive(&self, claimant: &mut Claimant<Model>) -> u64 {
        let (roster, cursors) = (&self.roster.header, &self.cursors.header);
        let slot = claimant.slot();
        let mut slept = false;
        loop {
            if let Some(message) = self.take(claimant) {
                let look = || claimant.anything_to_take();
                if slept && park::pass_on(roster, cursors, 1, slot, &self.park, look) {
                    park::ring(&self.bell, 1, &self.park);
                }
                self.acknowledge(claimant);
                return message;
            }
            let look = || claimant.anything_to_take();
            park::sleep_on_bells(
                roster,
                cursors,
                slot,
                std::iter::once(&*self.bell),
                (None, None),
                &self.park,
                look,
            );
            slept = true;
        }
    }
}

/// Runs a case through every interleaving (loom) or some times (threads, Miri).
fn explore(preemptions: usize, case: impl Fn() + Send + Sync + 'static) {
    #[cfg(loom)]
    {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(preemptions);
        let count = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let counted = count.clone();
        builder.check(move || {
            counted.fetch_add(1, Relaxed);
            case();
        });
        println!("{} interleavings", count.load(Relaxed));
    }
    #[cfg(not(loom))]
    {
        let _ = preemptions;
        for _ in 0..if cfg!(miri) { 6 } else { 200 } {
            case();
        }
    }
}

#[test]
fn loom_a_record_is_seen_whole_and_never_overwritten_in_hand() {
    explore(3, || {
        let mailbox = Mailbox::new(1, 4);
        let sender = mailbox.clone();
        let thread = thread::spawn(move || {
            let mut writer = sender.writer();
            for message in 1..=3 {
                sender.send(&mut writer, message);
            }
        });
        let mut claimant = mailbox.claimant(0, false);
        for message in 1..=3 {
            assert_eq!(mailbox.receive(&mut claimant), message);
        }
        thread.join().unwrap();
    });
}

#[test]
fn loom_the_only_receiver_takes_runs_without_a_compare_and_swap() {
    explore(3, || {
        let mailbox = Mailbox::new(1, 4);
        let sender = mailbox.clone();
        let thread = thread::spawn(move || {
            let mut writer = sender.writer();
            for message in 1..=3 {
                sender.send(&mut writer, message);
            }
        });
        let mut claimant = mailbox.claimant(0, true);
        claimant.set_reach(Reach::alone(false));
        for message in 1..=3 {
            assert_eq!(mailbox.receive(&mut claimant), message);
        }
        thread.join().unwrap();
    });
}

#[test]
fn loom_competing_receivers_get_each_message_once() {
    explore(3, || {
        let mailbox = Mailbox::new(2, 4);
        let mut writer = mailbox.writer();
        mailbox.send(&mut writer, 1);
        mailbox.send(&mut writer, 2);
        let other = mailbox.clone();
        let receive = |mailbox: Mailbox, slot| {
            let mut claimant = mailbox.claimant(slot, false);
            let mut got = Vec::new();
            while let Some(message) = mailbox.take(&mut claimant) {
                mailbox.acknowledge(&mut claimant);
                got.push(message);
            }
            got
        };
        let thread = thread::spawn(move || receive(other, 1));
        let mut got = receive(mailbox.clone(), 0);
        got.extend(thread.join().unwrap());
        got.sort_unstable();
        assert_eq!(got, [1, 2]);
        assert!(
            lane_is_drained(&mailbox.cursors, 0, writer.0.tail()),
            "{:?} {:?} {:?}",
            mailbox.cursors.claims[0].claim.load(Relaxed),
            mailbox.cursors.slots.iter().map(|s| s.hold.load(Relaxed)).collect::<Vec<_>>(),
            writer.0.tail()
        );
    });
}

#[test]
fn loom_a_full_sender_waits_for_both_receivers_and_is_woken() {
    explore(2, || {
        let mailbox = Mailbox::new(2, 4);
        let mut writer = mailbox.writer();
        mailbox.send(&mut writer, 1);
        mailbox.send(&mut writer, 2);
        let threads = [0, 1].map(|slot| {
            let mailbox = mailbox.clone();
            thread::spawn(move || {
                let mut claimant = mailbox.claimant(slot, false);
                let message = mailbox.take(&mut claimant);
                if message.is_some() {
                    mailbox.acknowledge(&mut claimant);
                }
                message
            })
        });
        mailbox.send(&mut writer, 3);
        let mut got: Vec<_> = threads.into_iter().filter_map(|t| t.join().unwrap()).collect();
        let mut last = mailbox.claimant(0, false);
        while let Some(message) = mailbox.take(&mut last) {
            mailbox.acknowledge(&mut last);
            got.push(message);
        }
        got.sort_unstable();
        assert_eq!(got, [1, 2, 3]);
    });
}

/// Both receivers may sleep; two messages wake both, directly or by the baton.
#[test]
fn loom_no_wake_up_is_lost_between_two_sleepers() {
    explore(2, || wake_both(&Mailbox::new(2, 8)));
}

/// The same where it is the sender that fences, and who sleeps calls no barrier.
#[test]
fn loom_no_wake_up_is_lost_while_senders_fence() {
    explore(2, || {
        let mailbox = Mailbox::new(2, 8);
        assert!(fencing::turn_on(&mailbox.cursors.header, &mailbox.park));
        assert!(fencing::is_on(&mailbox.cursors.header));
        wake_both(&mailbox);
    });
}

fn wake_both(mailbox: &Mailbox) {
    let threads = [0, 1].map(|slot| {
        let mailbox = mailbox.clone();
        thread::spawn(move || mailbox.receive(&mut mailbox.claimant(slot, false)))
    });
    let mut writer = mailbox.writer();
    mailbox.send(&mut writer, 1);
    mailbox.send(&mut writer, 2);
    let mut got = threads.map(|t| t.join().unwrap());
    got.sort_unstable();
    assert_eq!(got, [1, 2]);
}

/// A receiver dies at each step of its claims while another goes on; afterwards everything published was
/// received by the living, or is offered again and taken over, marked: exactly one of these.
#[test]
fn loom_a_death_at_any_step_of_a_claim_loses_and_doubles_nothing() {
    for checkpoint in 1..=4 {
        explore(2, move || {
            let mailbox = Mailbox::new(2, 8);
            let mut writer = mailbox.writer();
            mailbox.send(&mut writer, 1);
            mailbox.send(&mut writer, 2);
            let doomed = mailbox.clone();
            let thread = thread::spawn(move || die_while_receiving(&doomed, checkpoint));
            let mut claimant = mailbox.claimant(0, false);
            let mut got = drain(&mailbox, &mut claimant);
            got.extend(thread.join().unwrap());

            let mended = mend_slot(&mailbox.cursors, 1);
            assert_eq!(mended == Mended::Nothing, slot_is_idle(&mailbox.cursors, 1));
            got.extend(drain(&mailbox, &mut claimant));
            got.sort_unstable();
            assert_eq!(got, [1, 2], "death at checkpoint {checkpoint}: {mended:?}");
            assert!(slot_is_idle(&mailbox.cursors, 1));
            assert!(lane_is_drained(&mailbox.cursors, 0, writer.0.tail()));
        });
    }
}

/// Receives and acknowledges in slot 1 until it dies at a checkpoint; returns what it had acknowledged.
fn die_while_receiving(mailbox: &Mailbox, checkpoint: u32) -> Vec<u64> {
    let mut got = Vec::new();
    let mut claimant = mailbox.claimant_over(mailbox.model.deadly(checkpoint), 1, false);
    let life = std::panic::AssertUnwindSafe(|| {
        while let Some(message) = mailbox.take(&mut claimant) {
            mailbox.acknowledge(&mut claimant);
            got.push(message);
        }
    });
    if let Err(cause) = std::panic::catch_unwind(life)
        && !cause.is::<Killed>()
    {
        std::panic::resume_unwind(cause);
    }
    got
}

fn drain(mailbox: &Mailbox, claimant: &mut Claimant<Model>) -> Vec<u64> {
    let mut got = Vec::new();
    while let Some(message) = mailbox.take(claimant) {
        mailbox.acknowledge(claimant);
        got.push(message);
    }
    got
}

/// One receiver returns what it has in hand; both, the returning one too, may take it over: one does.
#[test]
fn loom_what_is_returned_is_taken_over_once_and_marked() {
    explore(2, || {
        let mailbox = Mailbox::new(2, 8);
        let mut writer = mailbox.writer();
        mailbox.send(&mut writer, 1);
        let mut returning = mailbox.claimant(0, false);
        assert_eq!(mailbox.take(&mut returning), Some(1));
        returning.return_to_queue();
        let other = mailbox.clone();
        let thread = thread::spawn(move || drain(&other, &mut other.claimant(1, false)));
        let mut got = drain(&mailbox, &mut returning);
        got.extend(thread.join().unwrap());
        got.extend(drain(&mailbox, &mut mailbox.claimant(1, false)));
        assert_eq!(got, [1]);
        assert!(slot_is_idle(&mailbox.cursors, 0) && slot_is_idle(&mailbox.cursors, 1));
    });
}

/// The sender scans the holds while one moves from a slot above to a slot below: it must not slip through.
#[test]
fn loom_what_is_taken_over_is_never_overwritten_in_hand() {
    explore(3, || {
        let mailbox = Mailbox::new(2, 2);
        let mut writer = mailbox.writer();
        mailbox.send(&mut writer, 1);
        let mut returning = mailbox.claimant(1, false);
        assert_eq!(mailbox.take(&mut returning), Some(1));
        returning.return_to_queue();
        let other = mailbox.clone();
        let thread = thread::spawn(move || drain(&other, &mut other.claimant(0, false)));
        mailbox.send(&mut writer, 2);
        let mut got = thread.join().unwrap();
        got.extend(drain(&mailbox, &mut mailbox.claimant(0, false)));
        assert_eq!(got, [1, 2]);
    });
}

/// One receiver shows a hold and loses the race; the sender must not wait for it.
#[test]
fn loom_a_late_intent_does_not_keep_a_full_sender_asleep() {
    explore(3, || {
        let mailbox = Mailbox::new(2, 2);
        let mut writer = mailbox.writer();
        mailbox.send(&mut writer, 1);
        let threads = [0, 1].map(|slot| {
            let mailbox = mailbox.clone();
            thread::spawn(move || drain(&mailbox, &mut mailbox.claimant(slot, false)))
        });
        mailbox.send(&mut writer, 2);
        let mut got: Vec<_> = threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
        got.extend(drain(&mailbox, &mut mailbox.claimant(0, false)));
        got.sort_unstable();
        assert_eq!(got, [1, 2]);
    });
}
