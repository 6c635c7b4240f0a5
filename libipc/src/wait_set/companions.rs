//! Sleeping on more words than the kernel watches in one wait: threads of this process sleep on the rest.
//!
//! ```text
//! whoever waits    hands each companion its words, and sleeps on the first ones and on `over`
//! a companion      sleeps on its words and on `over`; whatever wakes it, it ends the sleep
//! to end a sleep   moves `over` on, and wakes all who sleep on it
//! whoever waits    goes on when every companion has left its words: wake-ups there are others' again
//! ```
//!
//! The words were read before whoever waits had lain down, as for a sleep of one thread: one that has changed since
//! lets nobody sleep.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use crate::lane::park::Woke;
use crate::sleeper::Sleeper;
use crate::sync::AtomicU32;
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed};
use crate::sys::futex::{self, WORDS_MAX};
use crate::sys::process::ForkGuard;
use crate::watch::start_thread;

/// Words of the sources that one thread sleeps on, beside `over`.
pub(super) const WORDS_EACH: usize = WORDS_MAX - 1;

/// What the words of a sleeper said before it lay down.
pub(super) type Seen = (Arc<dyn Sleeper>, Vec<u32>);

/// The threads; started when they are first needed.
#[derive(Debug)]
pub(super) struct Companions {
    /// Futex: the number of sleeps that are over.
    over: Arc<AtomicU32>,
    threads: Vec<Companion>,
    guard: ForkGuard,
}

#[derive(Debug)]
struct Companion {
    tasks: Sender<Task>,
    /// It has left the words of its last task.
    left: Receiver<()>,
}

/// A part of a sleep.
#[derive(Debug)]
struct Task {
    words: Vec<Seen>,
    /// The sleep's number.
    sleep: u32,
}

impl Default for Companions {
    fn default() -> Self {
        Self { over: Arc::default(), threads: Vec::new(), guard: ForkGuard::get() }
    }
}

impl Drop for Companions {
    fn drop(&mut self) {
        if !self.guard.is_original() {
            // A child of fork has none of its parent's threads, and one of them may have been in the middle of anything.
            std::mem::forget(std::mem::take(&mut self.threads));
        }
    }
}

impl Companions {
    /// Has so many threads there; false if they cannot be had.
    pub(super) fn gather(&mut self, count: usize) -> bool {
        if !self.guard.is_original() {
            *self = Self::default();
        }
        while self.threads.len() < count {
            let Some(companion) = Companion::start(&self.over) else { return false };
            self.threads.push(companion);
        }
        true
    }

    /// Sleeps as [`futex::wait`] does, on the words of all parts, of which each has [`WORDS_EACH`] at most, an only one one more: the first
    /// here, the others in threads that were [gathered](Self::gather).
    pub(super) fn sleep(&self, mut parts: Vec<Vec<Seen>>, deadline: Option<Instant>) -> Woke {
        if let [all] = &*parts {
            return sleep_on(all, None, deadline);
        }
        // Relaxed: whoever waits moves it on itself, or has seen everybody leave who did.
        let sleep = self.over.load(Relaxed);
        let others = parts.split_off(1);
        let mut asleep = Vec::new();
        for (companion, words) in self.threads.iter().zip(others) {
            if companion.tasks.send(Task { words, sleep }).is_ok() {
                asleep.push(companion);
            }
        }
        let woke = sleep_on(&parts.concat(), Some((&self.over, sleep)), deadline);
        end(&self.over, sleep);
        for companion in asleep {
            // It fails only if the thread is no more: then it has left, too.
            let _ = companion.left.recv();
        }
        woke
    }
}

impl Companion {
    fn start(over: &Arc<AtomicU32>) -> Option<Self> {
        let (tasks, inbox) = channel::<Task>();
        let (leave, left) = channel();
        let over = over.clone();
        // It ends when its tasks' sender goes.
        let life = move || {
            for task in inbox {
                sleep_on(&task.words, Some((&over, task.sleep)), None);
                end(&over, task.sleep);
                drop(task);
                let _ = leave.send(());
            }
        };
        start_thread("ipc-companion", life).ok()?;
        Some(Self { tasks, left })
    }
}

fn sleep_on(words: &[Seen], over: Option<(&AtomicU32, u32)>, deadline: Option<Instant>) -> Woke {
    let of = |(sleeper, seen): &'_ Seen| {
        let words = sleeper.words().iter().zip(seen.clone());
        words.map(|(word, seen)| (word.clone(), seen)).collect::<Vec<_>>()
    };
    let watched: Vec<_> = words.iter().flat_map(of).collect();
    let all = watched.iter().map(|(word, seen)| (&**word, *seen));
    futex::wait(&all.chain(over).collect::<Vec<_>>(), deadline)
}

/// Ends a sleep, if nobody has.
fn end(over: &AtomicU32, sleep: u32) {
    if over.compare_exchange(sleep, sleep.wrapping_add(1), AcqRel, Acquire).is_ok() {
        futex::wake(over, u32::MAX);
    }
}
