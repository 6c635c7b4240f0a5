//! Waiting on many at once, in one thread and with one sleep; of very many, with a sleep in several threads.

mod companions;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::lane::park::{self, SpinBudget, Woke};
use crate::receiver::Receiver;
use crate::sender::Sender;
use crate::sleeper::Sleeper;
use crate::sync::Ordering::Acquire;
use crate::sync::spin_hint;
use crate::sys::clock::has_passed;
use crate::sys::futex::{Futex, WORDS_MAX};
use companions::{Companions, Seen, WORDS_EACH};

/// Pauses between two looks at all sources: a look reads what others write.
const PAUSES_BETWEEN_LOOKS: u32 = 16;

/// Why a wait on many ended without any of them ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// Only with a deadline: it passed, and none was ready.
    #[error("the deadline passed and nothing was ready")]
    TimedOut,
    /// Nothing to wait for was given.
    #[error("a wait needs something to wait for")]
    NoSources,
    /// A receiver of a mailbox whose receivers take turns: it stands in line while it executes receive.
    #[error("the receivers of one of the mailboxes take turns: block in receive instead")]
    TakesTurns,
    /// The kernel cannot watch so many words in one sleep, and there are no threads to be had for the others.
    #[error(
        "the sources have {words} futex words, one thread can sleep on at most {max}, and no more can be started"
    )]
    TooManyWords {
        /// Words that the sources need: a sender one, a receiver one for each uid that sends to its mailbox, and
        /// sometimes one more.
        words: usize,
        /// The kernel's limit.
        max: usize,
    },
}

/// What a [`WaitSet`] waits for: a [`Receiver`] is ready when `try_receive` has something to say (a
/// message, an ending, an error); a [`Sender`] when `try_send` has another answer than that the lane is full, for the
/// message that it last said so of, or for an empty one.
pub trait Waitable: private::Source {}

impl Waitable for Receiver {}
impl Waitable for Sender {}

/// Not for others to implement: what a wait asks of its sources.
pub(crate) mod private {
    use std::sync::Arc;
    use std::time::Instant;

    use crate::sleeper::Sleeper;

    /// See [`super::Waitable`].
    pub trait Source {
        /// The wait is to end by then, whoever the source itself waits for.
        fn end_by(&mut self, _deadline: Option<Instant>) {}
        /// Whether there is news for the source's user.
        fn has_news(&mut self) -> bool;
        /// Who is to lie down for it.
        fn sleeper(&mut self) -> Arc<dyn Sleeper>;
        /// The wait has slept for it. `first`: its user is told of it first.
        fn rise(&mut self, _first: bool) {}
        /// What an earlier wait left to it, and nobody has looked at.
        fn settle(&mut self) {}
        /// Whether spinning may pay.
        fn peer_runs_elsewhere(&self) -> bool;
        /// Whether nobody can wait on its behalf.
        fn takes_turns(&self) -> bool {
            false
        }
    }
}

impl private::Source for Receiver {
    fn end_by(&mut self, deadline: Option<Instant>) {
        self.end_by(deadline);
    }

    fn has_news(&mut self) -> bool {
        self.has_news()
    }

    fn sleeper(&mut self) -> Arc<dyn Sleeper> {
        self.sleeper()
    }

    fn rise(&mut self, first: bool) {
        self.rise(first);
    }

    fn settle(&mut self) {
        self.settle();
    }

    fn peer_runs_elsewhere(&self) -> bool {
        self.peer_runs_elsewhere()
    }

    fn takes_turns(&self) -> bool {
        self.takes_turns()
    }
}

impl private::Source for Sender {
    fn has_news(&mut self) -> bool {
        self.has_news()
    }

    fn sleeper(&mut self) -> Arc<dyn Sleeper> {
        self.sleeper()
    }

    fn peer_runs_elsewhere(&self) -> bool {
        self.peer_runs_elsewhere()
    }
}

/// Waits until one of many mailboxes has something to say, in the caller's own thread: no watcher, no
/// descriptor, one sleep on all their futex words. The kernel watches 128 of them in one sleep; for more (a receiver has
/// one for each uid that sends to its mailbox, and sometimes one more) the set keeps a thread for each further 127.
///
/// The sources are borrowed for the wait only; what comes back are their indexes, and then each is asked by its own
/// `try_` call. That call may find nothing after all, where another receiver was quicker.
///
/// ```no_run
/// # fn demo(orders: &mut libipc::Receiver, replies: &mut libipc::Receiver) -> Result<(), Box<dyn std::error::Error>> {
/// let mut set = libipc::WaitSet::new();
/// loop {
///     for &ready in set.wait(&mut [orders, replies])? {
///         let receiver = if ready == 0 { &mut *orders } else { &mut *replies };
///         match receiver.try_receive() {
///             Ok(delivery) => delivery.acknowledge(),
///             Err(libipc::TryReceiveError::Empty) => {}
///             Err(error) => return Err(error.into()),
///         }
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct WaitSet {
    spin: SpinBudget,
    /// Where the rotation stands.
    turn: usize,
    ready: Vec<usize>,
    /// For more words than one thread can sleep on.
    companions: Companions,
}

impl Default for WaitSet {
    fn default() -> Self {
        Self::new()
    }
}

impl WaitSet {
    /// A set that has waited for nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            spin: SpinBudget::new(SpinBudget::DEFAULT),
            turn: 0,
            ready: Vec::new(),
            companions: Companions::default(),
        }
    }

    /// How long a wait may spin before it sleeps; zero never spins.
    pub fn set_spin_max(&mut self, max: Duration) {
        self.spin = SpinBudget::new(max);
    }

    /// Waits until a source is ready. Returns the indexes of all that are, in rotation: the one that comes first is
    /// another each time, so that whoever serves only the first serves all.
    ///
    /// # Errors
    /// [`WaitError`], never `TimedOut`.
    pub fn wait(&mut self, sources: &mut [&mut dyn Waitable]) -> Result<&[usize], WaitError> {
        self.wait_until(sources, None)
    }

    /// As [`Self::wait`], until the deadline at most.
    ///
    /// # Errors
    /// [`WaitError`].
    pub fn wait_deadline(
        &mut self,
        sources: &mut [&mut dyn Waitable],
        deadline: Instant,
    ) -> Result<&[usize], WaitError> {
        self.wait_until(sources, Some(deadline))
    }

    /// Looks which sources are ready. Never waits; none ready is no error.
    pub fn look(&mut self, sources: &mut [&mut dyn Waitable]) -> &[usize] {
        sources.iter_mut().for_each(|source| source.end_by(None));
        self.find_ready(sources);
        self.next_turn();
        &self.ready
    }

    fn wait_until(
        &mut self,
        sources: &mut [&mut dyn Waitable],
        deadline: Option<Instant>,
    ) -> Result<&[usize], WaitError> {
        if sources.is_empty() {
            return Err(WaitError::NoSources);
        }
        if sources.iter().any(|source| source.takes_turns()) {
            return Err(WaitError::TakesTurns);
        }
        // Whoever was served first last time, and was not looked at, shares with others before we sleep.
        sources.iter_mut().for_each(|source| source.settle());
        sources.iter_mut().for_each(|source| source.end_by(deadline));
        let mut slept = false;
        let result = loop {
            if self.find_ready(sources) || self.spin(sources, deadline) {
                break Ok(());
            }
            match self.sleep(sources, deadline) {
                Ok(woke) => {
                    slept = true;
                    let over = has_passed(deadline);
                    if !self.find_ready(sources) && (woke == Woke::TimedOut || over) {
                        break Err(WaitError::TimedOut);
                    }
                }
                Err(error) => break Err(error),
            }
        };
        if slept {
            let first = self.ready.first().copied().filter(|_| result.is_ok());
            for (index, source) in sources.iter_mut().enumerate() {
                source.rise(first == Some(index));
            }
        }
        self.next_turn();
        result.map(|()| &*self.ready)
    }

    fn next_turn(&mut self) {
        if let Some(first) = self.ready.first() {
            self.turn = first + 1;
        }
    }

    /// Whether any is ready; `self.ready` tells which, from the one on whose turn it is.
    fn find_ready(&mut self, sources: &mut [&mut dyn Waitable]) -> bool {
        self.ready.clear();
        let count = sources.len();
        for index in (0..count).map(|nth| (self.turn + nth) % count) {
            if sources[index].has_news() {
                self.ready.push(index);
            }
        }
        !self.ready.is_empty()
    }

    fn spin(&mut self, sources: &mut [&mut dyn Waitable], deadline: Option<Instant>) -> bool {
        let mut budget = self.spin.current();
        if budget.is_zero() || !sources.iter().any(|source| source.peer_runs_elsewhere()) {
            return false;
        }
        let start = Instant::now();
        if let Some(deadline) = deadline {
            budget = budget.min(deadline.saturating_duration_since(start));
        }
        while start.elapsed() < budget {
            for _ in 0..PAUSES_BETWEEN_LOOKS {
                spin_hint();
            }
            if self.find_ready(sources) {
                self.spin.paid();
                return true;
            }
        }
        self.spin.failed();
        false
    }

    /// One sleep for all of them, as `park` has it for one: words, lie down, barrier, last look, sleep, get up.
    fn sleep(
        &mut self,
        sources: &mut [&mut dyn Waitable],
        deadline: Option<Instant>,
    ) -> Result<Woke, WaitError> {
        let sleepers: Vec<Arc<dyn Sleeper>> = sources.iter_mut().map(|s| s.sleeper()).collect();
        let words: usize = sleepers.iter().map(|sleeper| sleeper.words().len()).sum();
        let parts = parts_of(&sleepers, words);
        if !self.companions.gather(parts.len() - 1) {
            return Err(WaitError::TooManyWords { words, max: WORDS_MAX });
        }
        sleepers.iter().for_each(|sleeper| sleeper.lie_down());
        let unsure = park::barrier_before_sleep_in_all(sleepers.iter().map(|s| s.facing()), &Futex);
        let at_most = sleepers.iter().filter_map(|sleeper| sleeper.at_most()).chain(unsure).min();
        // A source that finds its roster changed looks at what is new: its sleeper then knows too little.
        let news = sources.iter_mut().any(|source| source.has_news())
            || sleepers.iter().any(|sleeper| sleeper.is_outdated());
        let companions = &self.companions;
        let woke = match news {
            true => Woke::Perhaps,
            false => park::until(deadline, at_most, |until| companions.sleep(parts, until)),
        };
        sleepers.iter().for_each(|sleeper| sleeper.get_up());
        Ok(woke)
    }
}

/// What the words of all say, cut into what each thread sleeps on.
fn parts_of(sleepers: &[Arc<dyn Sleeper>], words: usize) -> Vec<Vec<Seen>> {
    let each = if words <= WORDS_MAX { WORDS_MAX } else { WORDS_EACH };
    let mut parts = vec![Vec::new()];
    let mut left = each;
    for sleeper in sleepers {
        let seen: Vec<_> = sleeper.words().iter().map(|word| word.load(Acquire)).collect();
        if seen.len() > left {
            parts.push(Vec::new());
            left = each;
        }
        left = left.saturating_sub(seen.len());
        parts.last_mut().expect("one at least").push((sleeper.clone(), seen));
    }
    parts
}
