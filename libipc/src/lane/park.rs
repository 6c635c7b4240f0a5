//! Who sleeps and who wakes whom.
//!
//! Whoever is about to sleep says so in a word, then looks once more; whoever makes something new
//! looks at that word afterwards. Between the two steps each side needs a full barrier, or both could
//! miss each other. The one that sleeps pays for both: it calls the asymmetric barrier, and the fast
//! side only keeps the compiler from reordering. Where a member may not call it, the roster's `fences`
//! word makes the fast side fence too.
//!
//! ```text
//! sender                               receiver
//!   publish the tail                     set my sleeping bit
//!   light barrier                        heavy barrier
//!   any sleeping bit? bump, wake one     anything published? else sleep until the bell changes
//!
//! receiver                             sender
//!   free the record (hold)               set my waiting word
//!   light barrier                        heavy barrier
//!   waiting, and claim far enough?       any room? else sleep until my freed word changes
//!     bump, wake
//! ```
//!
//! PAIR(sleep) names both. A wait may end for no reason: whoever was woken looks again.

use std::time::{Duration, Instant};

use crate::lane::fencing;
use crate::lane::layout::{Claim, CursorsHeader, LaneHeader, RosterHeader, Waiting};
use crate::lane::position::Position;
use crate::sync::Ordering::{Acquire, Relaxed, Release, SeqCst};
use crate::sync::{AtomicU32, AtomicU64, fence};
use crate::sys::mapping::Shared;

/// Why a sleep ended. None of them says that what was waited for is there: look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woke {
    /// Woken, or a signal came, or a word had changed already, or for no reason.
    Perhaps,
    /// The deadline has passed.
    TimedOut,
}

/// Sleeping on shared words: the kernel's futexes, or a model of them.
pub trait Park {
    /// Sleeps while every word has the value beside it, until woken or until the deadline.
    fn wait(&self, words: &[(&AtomicU32, u32)], deadline: Option<Instant>) -> Woke;

    /// Wakes up to `count` sleepers of a word.
    fn wake(&self, word: &AtomicU32, count: u32);

    /// A full barrier here and in every running process that has registered; false if refused.
    fn barrier(&self) -> bool;
}

/// How long a sleeper whose heavy barrier was refused (it went into a sandbox since) may sleep at most.
const SLEEP_WITHOUT_BARRIER: Duration = Duration::from_millis(10);

/// How long a sleeper may sleep at most where receivers of another uid could rob it of its wake-up.
pub const SLEEP_AMONG_STRANGERS: Duration = Duration::from_millis(100);

/// How long one may sleep at most in this mailbox: receivers of whatever group map all the words on which its
/// members sleep, so those of another uid may rob them.
pub fn among_strangers(roster: &RosterHeader) -> Option<Duration> {
    (roster.receiver_uids.load(Relaxed) > 1).then_some(SLEEP_AMONG_STRANGERS)
}

/// The shorter of two bounds.
pub fn at_most(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    one.into_iter().chain(other).min()
}

/// The fast side's barrier between making something new and looking for sleepers.
#[inline]
pub fn light_barrier(roster: &RosterHeader) {
    #[cfg(not(loom))]
    {
        keep_order();
        // Read after the publishing store: a barrier of `ipcd`'s between this read and the store below it
        // in the program would have completed the store (see `docs/ordering.md`, PAIR(fences)).
        if roster.fences.load(Relaxed) != 0 {
            fence(SeqCst);
        }
    }
    #[cfg(loom)]
    {
        let _ = roster;
        fence(SeqCst);
    }
}

/// Has the compiler leave in their order what stands before and behind; the processor may do as it likes.
#[inline]
fn keep_order() {
    #[cfg(not(loom))]
    std::sync::atomic::compiler_fence(SeqCst);
}

/// The same for a sender, whom the receivers of a group may have asked to fence.
#[inline]
pub fn light_barrier_of_sender(roster: &RosterHeader, cursors: &CursorsHeader) {
    keep_order();
    // PAIR(fencing): read behind the publishing store, as `fences` is.
    if fencing::is_asked_for(cursors) {
        fence(SeqCst);
    } else {
        light_barrier(roster);
    }
}

/// The slow side's barrier. False if it was refused, so that a fast side may not have been reached.
pub fn heavy_barrier(roster: &RosterHeader, park: &impl Park) -> bool {
    fence(SeqCst);
    reach_running(park)(roster)
}

/// A barrier on the processors of all others: what it says of each mailbox is whether its fast sides were reached.
fn reach_running(park: &impl Park) -> impl Fn(&RosterHeader) -> bool {
    // The barrier first: while `fences` is just being set, a fast side may still go without its fence.
    let reached = park.barrier();
    move |roster| reached || roster.fences.load(Acquire) != 0
}

/// For whom a sleeper waits.
#[derive(Clone, Copy, Debug)]
pub enum Facing<'a> {
    /// The senders to a group of the mailbox, who may fence.
    Senders(&'a RosterHeader, &'a CursorsHeader),
    /// The mailbox's receivers.
    Receivers(&'a RosterHeader),
}

impl<'a> Facing<'a> {
    fn roster(self) -> &'a RosterHeader {
        match self {
            Self::Senders(roster, _) | Self::Receivers(roster) => roster,
        }
    }

    /// Whether they fence, so that nobody needs the barrier; asked behind a full fence.
    fn fence(self) -> bool {
        matches!(self, Self::Senders(_, cursors) if fencing::is_on(cursors))
    }
}

/// The slow side's barrier between saying that it will sleep and looking for the last time, unless the fast side fences. Returns how
/// long it may then sleep at most: for ever, unless the barrier was refused or a stranger could rob it.
pub fn barrier_before_sleep(facing: Facing<'_>, park: &impl Park) -> Option<Duration> {
    barrier_before_sleep_in_all(std::iter::once(facing), park)
}

/// The same for somebody who sleeps in several mailboxes at once: one barrier is enough for all.
pub fn barrier_before_sleep_in_all<'a>(
    facing: impl Iterator<Item = Facing<'a>> + Clone,
    park: &impl Park,
) -> Option<Duration> {
    fence(SeqCst);
    // PAIR(fencing): asked behind what says that we sleep.
    if facing.clone().all(Facing::fence) {
        return facing.filter_map(|it| among_strangers(it.roster())).min();
    }
    let reached = reach_running(park);
    let bound = |roster: &'a RosterHeader| {
        if reached(roster) { among_strangers(roster) } else { Some(SLEEP_WITHOUT_BARRIER) }
    };
    facing.filter_map(|it| bound(it.roster())).min()
}

/// Whether any receiver sleeps or is about to. `words` is how many words the mailbox's receivers need.
#[inline]
pub fn anyone_sleeps(cursors: &CursorsHeader, words: usize) -> bool {
    // PAIR(sleep): Relaxed, ordered by the light barrier in front.
    any_bit(&cursors.sleeping, words)
}

/// Whether any bit is set in the first `words` of a bit set. Relaxed: the caller says what orders it.
#[inline]
pub fn any_bit<const N: usize>(set: &[AtomicU64; N], words: usize) -> bool {
    let is_set = |word: &AtomicU64| word.load(Relaxed) != 0;
    // Two words are as many as most have: without a loop.
    is_set(&set[0]) || words > 1 && (is_set(&set[1]) || set[2..words].iter().any(is_set))
}

/// Whether any receiver but `slot` sleeps or is about to.
pub fn another_sleeps(cursors: &CursorsHeader, words: usize, slot: u16) -> bool {
    let (mine, bit) = slot_bit(slot);
    cursors.sleeping[..words]
        .iter()
        .enumerate()
        .any(|(index, word)| word.load(Relaxed) & !(if index == mine { bit } else { 0 }) != 0)
}

/// The word and the bit of a slot in the bit sets of the cursors.
#[inline]
pub fn slot_bit(slot: u16) -> (usize, u64) {
    (usize::from(slot) / 64, 1 << (slot % 64))
}

/// Changes a futex word and wakes sleepers of it.
#[cold]
pub fn ring(word: &AtomicU32, count: u32, park: &impl Park) {
    // PAIR(bell): Release here, Acquire where the woken one looks; what made us ring is seen.
    word.fetch_add(1, Release);
    park.wake(word, count);
}

/// What a sender remembers of the sleepers: it rings once for each state of theirs.
///
/// Whoever was rung for is on its way, and changes that state when it comes: it looks for messages
/// after that, and passes the baton on. Until then a second ring would only cost system calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rung {
    /// The cursors' `sleep_changes` when the bell was last rung.
    at: Option<u32>,
    /// Messages announced since without ringing.
    silent: u32,
}

/// Messages after which a sender rings again although no sleeper has come: one may have been stopped on
/// its way.
const SILENT_MAX: u32 = 64;

/// The fast side of a sender: something was published; if any receiver sleeps that has not been rung for,
/// one is woken. Says whether the bell was rung.
#[inline]
pub fn announce(
    roster: &RosterHeader,
    cursors: &CursorsHeader,
    words: usize,
    rung: &mut Rung,
    bell: &AtomicU32,
    park: &impl Park,
) -> bool {
    light_barrier_of_sender(roster, cursors);
    anyone_sleeps(cursors, words) && ring_once(cursors, words, rung, bell, park)
}

/// How many sleepers a ring wakes: one, which takes what is new or passes the baton on. All of them, while some
/// of them wait for one sender's messages only and would leave it.
pub fn sleepers_to_wake(cursors: &CursorsHeader, words: usize) -> u32 {
    // PAIR(sleep): Relaxed, ordered by the light barrier in front.
    let choosy = any_bit(&cursors.choosy, words);
    if choosy { u32::MAX } else { 1 }
}

/// What [`announce`] does where somebody was found asleep behind the barrier.
#[cold]
pub fn ring_once(
    cursors: &CursorsHeader,
    words: usize,
    rung: &mut Rung,
    bell: &AtomicU32,
    park: &impl Park,
) -> bool {
    // PAIR(sleep): Relaxed, ordered by the light barrier.
    let now = cursors.sleep_changes.load(Relaxed);
    if rung.at == Some(now) && rung.silent < SILENT_MAX {
        rung.silent += 1;
        return false;
    }
    *rung = Rung { at: Some(now), silent: 0 };
    ring(bell, sleepers_to_wake(cursors, words), park);
    true
}

/// The baton: a receiver that has slept, and has taken a message or leaves without one, wakes the next
/// sleeper if there is more to take. `look` says whether there is.
pub fn pass_on(
    roster: &RosterHeader,
    cursors: &CursorsHeader,
    words: usize,
    slot: u16,
    park: &impl Park,
    look: impl FnOnce() -> bool,
) -> bool {
    if !another_sleeps(cursors, words, slot) {
        return false;
    }
    // PAIR(sleep): a sender that has not rung again since we were rung for published before it read that we
    // had not come yet: what it published is seen behind this barrier.
    barrier_before_sleep(Facing::Senders(roster, cursors), park);
    look()
}

/// The fast side of a receiver: a record of the lane was freed; whether anybody waits for that on its sender's
/// side. If so, [`wake_sender`].
#[inline]
pub fn sender_waits(roster: &RosterHeader, lane: &LaneHeader) -> bool {
    light_barrier(roster);
    // PAIR(sleep): Relaxed, ordered by the light barrier.
    lane.waiting.load(Relaxed) != Waiting::AWAKE
}

/// Wakes the sender of a lane if it still waits and the claim has come as far as it wants, and whoever watches
/// a message of the lane if the claim has come beyond it.
///
/// The claim counts, not the record: with several receivers the one that frees the last record before
/// the wanted position may be late, and it finds the claim beyond it all the same.
///
/// A sender for which somebody has rung since it lay down is on its way: it takes some microseconds, and a system call a
/// record until then would be for nothing.
#[cold]
pub fn wake_sender(lane: &LaneHeader, claim: &AtomicU64, freed: &AtomicU32, park: &impl Park) {
    // PAIR(sleep): both ordered by the light barrier in front.
    // PAIR(rings): Acquire here, Release in `set_wanted`: what is read of `freed` then is no older than what is compared with it.
    let word = lane.waiting.load(Acquire);
    let watched = Position::new(lane.watched.load(Relaxed));
    let claim = Claim::from_word(claim.load(Acquire)).position;
    let room = Waiting::from_word(word)
        .is_some_and(|wait| claim.since(wait.wanted) >= 0 && !wait.is_rung(freed.load(Relaxed)));
    let news = word & Waiting::WATCHED != 0 && claim.since(watched) > 0;
    if room || news {
        // All of them: the sender and its tickets, in several threads, may sleep on this word.
        ring(freed, u32::MAX, park);
    }
}

/// Says which message of a lane is the earliest that somebody watches, if any. A heavy barrier must come
/// between this and the watcher's look. The caller keeps other threads of its process out.
pub fn watch(lane: &LaneHeader, earliest: Option<Position>) {
    // PAIR(sleep): Relaxed, ordered by the heavy barrier. The word's other bits are the sleeping sender's.
    match earliest {
        Some(position) => {
            lane.watched.store(position.get(), Relaxed);
            lane.waiting.fetch_or(Waiting::WATCHED, Relaxed);
        }
        None => {
            lane.waiting.fetch_and(!Waiting::WATCHED, Relaxed);
        }
    }
}

/// A sender says that it sleeps until the claim of its lane has come as far as `wanted`. `freed` is what the word said on which
/// it sleeps, or has said since.
pub fn wait_for_room(lane: &LaneHeader, wanted: Position, freed: u32) {
    set_wanted(lane, Waiting::new(wanted, freed).to_word());
}

/// A sender takes that back.
pub fn stop_waiting_for_room(lane: &LaneHeader) {
    set_wanted(lane, Waiting::AWAKE);
}

/// In one step: the word's highest bit is the watchers', who may be in other threads.
fn set_wanted(lane: &LaneHeader, wanted: u64) {
    let mut word = lane.waiting.load(Relaxed);
    loop {
        let next = word & Waiting::WATCHED | wanted;
        // PAIR(sleep): ordered by the heavy barrier that comes next, if it says that we sleep.
        // PAIR(rings): Release here, Acquire in `wake_sender`.
        match lane.waiting.compare_exchange_weak(word, next, Release, Relaxed) {
            Ok(_) => return,
            Err(now) => word = now,
        }
    }
}

/// A sender's sleep: until its freed word changes or the deadline has passed, and no longer than `bound`
/// at a time. `look` is the last look: whether there is something to do after all.
pub fn sleep_for_room(
    roster: &RosterHeader,
    lane: &Shared<LaneHeader>,
    freed: &AtomicU32,
    wanted: Position,
    (deadline, bound): (Option<Instant>, Option<Duration>),
    park: &impl Park,
    look: impl FnOnce() -> bool,
) -> Woke {
    let seen = freed.load(Acquire);
    wait_for_room(lane, wanted, seen);
    let bound = at_most(barrier_before_sleep(Facing::Receivers(roster), park), bound);
    let woke =
        if look() { Woke::Perhaps } else { bounded_wait(&[(freed, seen)], deadline, bound, park) };
    stop_waiting_for_room(lane);
    woke
}

/// A receiver says that it sleeps, or sleeps anew after it was woken.
pub fn lie_down(cursors: &CursorsHeader, slot: u16) {
    let (word, bit) = slot_bit(slot);
    // PAIR(sleep): ordered by the heavy barrier that comes next.
    cursors.sleeping[word].fetch_or(bit, Relaxed);
    cursors.sleep_changes.fetch_add(1, Relaxed);
}

/// A receiver takes that back.
pub fn get_up(cursors: &CursorsHeader, slot: u16) {
    let (word, bit) = slot_bit(slot);
    cursors.sleeping[word].fetch_and(!bit, Relaxed);
    cursors.sleep_changes.fetch_add(1, Relaxed);
    // PAIR(bell): what was published before the bell was rung is seen from here on.
    fence(Acquire);
}

/// A receiver's sleep: on all bells of its mailbox, until one of them changes.
///
/// It never sleeps longer than `bound` at a time; only the deadline is a time-out. `look` is the last look: whether
/// there is something to do after all. The caller looks again whatever the answer; on a deadline it must pass the baton on if it leaves something behind.
pub fn sleep_on_bells<'a>(
    roster: &RosterHeader,
    cursors: &CursorsHeader,
    slot: u16,
    bells: impl Iterator<Item = &'a AtomicU32>,
    (deadline, bound): (Option<Instant>, Option<Duration>),
    park: &impl Park,
    look: impl FnOnce() -> bool,
) -> Woke {
    // The bells before the bit, and the bit before the look: a ring in between changes a bell.
    let words: Vec<_> = bells.map(|bell| (bell, bell.load(Acquire))).collect();
    lie_down(cursors, slot);
    let bound = at_most(barrier_before_sleep(Facing::Senders(roster, cursors), park), bound);
    let woke = if look() { Woke::Perhaps } else { bounded_wait(&words, deadline, bound, park) };
    get_up(cursors, slot);
    woke
}

/// Waits until the deadline, but no longer than `at_most`; only the deadline itself is a time-out.
pub fn bounded_wait(
    words: &[(&AtomicU32, u32)],
    deadline: Option<Instant>,
    at_most: Option<Duration>,
    park: &impl Park,
) -> Woke {
    until(deadline, at_most, |until| park.wait(words, until))
}

/// The same, whatever it is that waits.
pub fn until(
    deadline: Option<Instant>,
    at_most: Option<Duration>,
    wait: impl FnOnce(Option<Instant>) -> Woke,
) -> Woke {
    let Some(at_most) = at_most else { return wait(deadline) };
    let bound = Instant::now() + at_most;
    match deadline {
        Some(deadline) if deadline <= bound => wait(Some(deadline)),
        _ => {
            wait(Some(bound));
            Woke::Perhaps
        }
    }
}

/// How long to spin before sleeping: adapts between a floor and the handle's bound by whether spinning
/// has paid lately.
#[derive(Clone, Copy, Debug)]
pub struct SpinBudget {
    max: Duration,
    now: Duration,
}

/// What even a spinner without success tries: less than a tenth of what a sleep costs.
const SPIN_FLOOR: Duration = Duration::from_micros(1);

impl SpinBudget {
    /// The bound that handles have unless told otherwise: about what a sleep and a wake-up cost on a
    /// virtual machine.
    pub const DEFAULT: Duration = Duration::from_micros(50);

    /// A budget of at most `max`; zero never spins.
    #[must_use]
    pub fn new(max: Duration) -> Self {
        Self { max, now: max }
    }

    /// How long to spin this time.
    #[must_use]
    pub fn current(&self) -> Duration {
        self.now
    }

    /// Spinning found what it waited for.
    pub fn paid(&mut self) {
        self.now = (self.now * 2).clamp(SPIN_FLOOR.min(self.max), self.max);
    }

    /// Spinning was in vain.
    pub fn failed(&mut self) {
        self.now = (self.now / 2).clamp(SPIN_FLOOR.min(self.max), self.max);
    }
}

/// How long a receiver that has just emptied a lane leaves it alone before it looks again.
///
/// Each look takes the cache line in which the sender publishes away from it, so a receiver that looks at
/// once slows a stream down to a message a look. If a lull ends with a backlog the messages come in a
/// stream, and a longer lull may bring more; if it ends with a single message, the sender waits for us and
/// a lull only delays. Tried again from time to time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lull {
    pauses: u32,
    quiet: u32,
}

/// Longest lull, in pauses of the processor.
const LULL_PAUSES_MAX: u32 = 32;
/// The lull that is tried from time to time.
const LULL_PAUSES_TRIED: u32 = 4;
/// Waits without a lull between two tries.
const LULL_TRIED_EVERY: u32 = 64;

impl Lull {
    /// Pauses to make before the first look.
    #[inline]
    pub fn pauses(&mut self) -> u32 {
        if self.pauses == 0 {
            self.quiet += 1;
            if self.quiet == LULL_TRIED_EVERY {
                self.quiet = 0;
                self.pauses = LULL_PAUSES_TRIED;
            }
        }
        self.pauses
    }

    /// The first look after a lull found so many granules behind the message that it took.
    #[inline]
    pub fn ended(&mut self, backlog_granules: u64) {
        if backlog_granules >= LULL_BACKLOG_GRANULES {
            self.pauses = (self.pauses * 2).min(LULL_PAUSES_MAX);
        } else {
            self.pauses /= 2;
        }
    }
}

/// A backlog of so many granules says that messages come in a stream.
const LULL_BACKLOG_GRANULES: u64 = 8;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Counts the wake-ups.
    #[derive(Default)]
    struct Counted(std::cell::Cell<u32>);

    impl Park for Counted {
        fn wait(&self, _: &[(&AtomicU32, u32)], _: Option<Instant>) -> Woke {
            Woke::Perhaps
        }

        fn wake(&self, _: &AtomicU32, _: u32) {
            self.0.set(self.0.get() + 1);
        }

        fn barrier(&self) -> bool {
            true
        }
    }

    #[test]
    fn a_sender_is_rung_for_once_each_time_that_it_lies_down() {
        let (lane, freed, park) = (LaneHeader::default(), AtomicU32::new(0), Counted::default());
        let at = |granules| {
            AtomicU64::new(Claim { position: Position::new(granules), winner: None }.to_word())
        };
        let wake = |claim: &AtomicU64, times| {
            (0..times).for_each(|_| wake_sender(&lane, claim, &freed, &park));
            park.0.take()
        };
        let wanted = Position::new(9);
        assert_eq!(wake(&at(9), 2), 0, "nobody waits");
        for time in 1..=3 {
            wait_for_room(&lane, wanted, freed.load(Relaxed));
            assert_eq!(wake(&at(8), 2), 0, "it wants more");
            assert_eq!(wake(&at(9), 5), 1, "the {time}. time");
        }
        // Who watches a message of it may need each.
        watch(&lane, Some(Position::new(8)));
        assert_eq!(wake(&at(9), 5), 5);
        stop_waiting_for_room(&lane);
        assert_eq!(wake(&at(9), 2), 2);
        watch(&lane, None);
        assert_eq!(wake(&at(9), 2), 0);
    }
}
