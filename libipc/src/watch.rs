//! Descriptors for event loops: readable when a handle may have news.
//!
//! Nothing between processes is pollable here: an eventfd that two uids share can be drained by either. So a
//! **watcher**, a thread of this process, sleeps on the futex words of the handles whose users wait on
//! descriptors, and writes an eventfd that never leaves the process. One thread watches over as many handles
//! as the kernel lets it watch words (128, one of them its own); then another is started. A watcher with
//! nothing to watch sleeps; it ends with its session.
//!
//! ```text
//! quiet     the descriptor is readable; nobody sleeps for the handle
//!   | the handle finds nothing: it lies down, looks once more, drains the eventfd, posts an entry
//! armed     a watcher sleeps on the handle's words
//!   | a word has changed: the watcher looks; for nothing it lies down again, else it gets up and
//!   | writes the eventfd
//! fired     the descriptor is readable
//!   | the handle comes
//! quiet
//! ```
//!
//! So a descriptor stays readable until the handle has found nothing, and each such answer is followed by at
//! most one wake-up. A handle that fired and does not come sits on a wake-up that another receiver could use:
//! after [`BATON_AFTER`] the watcher passes it on.
//!
//! The watchers belong to a session. A child of fork connects anew, so it never meets those of its parent.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, SigmaskHow};

use crate::error::Fault;
use crate::lane::park;
use crate::sleeper::{News, Sleeper};
use crate::sync::AtomicU32;
use crate::sync::Ordering::Acquire;
use crate::sys::futex::{self, Futex, WORDS_MAX};
use crate::sys::process::ForkGuard;

/// How long a handle whose descriptor has become readable may keep others from the message that it was woken for.
const BATON_AFTER: Duration = Duration::from_millis(2);

/// The stack of a thread that calls next to nothing.
const STACK_BYTES: usize = 128 << 10;

/// Words of its handles that one watcher can sleep on, beside its own.
pub(crate) const WORDS_WATCHED_MAX: usize = WORDS_MAX - 1;

/// A handle's descriptor.
#[derive(Debug)]
pub(crate) struct Watch {
    watched: Arc<Watched>,
    watchers: Arc<Watchers>,
    guard: ForkGuard,
}

/// What a handle and its watcher share.
#[derive(Debug)]
struct Watched {
    eventfd: EventFd,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Quiet,
    /// Which arming, and who lies down.
    Armed(u64, Arc<dyn Sleeper>),
    /// Which arming it was.
    Fired(u64),
}

impl Watched {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the descriptor readable.
    fn make_readable(&self) {
        // It fails only where the count is at its end: then it is readable.
        let _ = self.eventfd.write(1);
    }

    /// Ends an arming: whoever lay down gets up, and the descriptor becomes readable. All of it under the
    /// lock, or the handle might have lain down again before it is got up for.
    fn end(&self, state: &mut State, next: State) {
        if let State::Armed(_, sleeper) = std::mem::replace(state, next) {
            sleeper.get_up();
            self.make_readable();
        }
    }
}

impl Watch {
    /// A descriptor that is readable, for nobody has looked yet.
    fn new(watchers: Arc<Watchers>) -> Result<Self, Fault> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let eventfd = EventFd::from_value_and_flags(1, flags)
            .map_err(|error| Fault::new("make a descriptor to poll", error))?;
        let watched = Arc::new(Watched { eventfd, state: Mutex::new(State::Quiet) });
        Ok(Self { watched, watchers, guard: ForkGuard::get() })
    }

    /// The one in `place`, made when it is first asked for.
    pub(crate) fn made_in<'a>(
        place: &'a mut Option<Self>,
        watchers: &Arc<Watchers>,
    ) -> Result<&'a Self, Fault> {
        Ok(match place {
            Some(watch) => watch,
            None => place.insert(Self::new(watchers.clone())?),
        })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.watched.eventfd.as_fd()
    }

    /// Whether a watcher sleeps for the handle.
    pub(crate) fn is_armed(&self) -> bool {
        matches!(*self.watched.lock(), State::Armed(..))
    }

    /// Whether a watcher sleeps for the handle, or was woken for it and the handle has not come since.
    pub(crate) fn is_busy(&self) -> bool {
        !matches!(*self.watched.lock(), State::Quiet)
    }

    /// The handle has come. Whether a watcher had been woken for it since it last did.
    pub(crate) fn come(&self) -> bool {
        let mut state = self.watched.lock();
        let fired = matches!(*state, State::Fired(_));
        if fired {
            *state = State::Quiet;
        }
        fired
    }

    /// The handle has found nothing: from now on a watcher sleeps for it, and the descriptor is not readable
    /// until there is news. False if the last look (`look`) has found something after all. The handle must
    /// not be armed.
    pub(crate) fn arm(
        &self,
        sleeper: Arc<dyn Sleeper>,
        look: impl FnOnce() -> bool,
    ) -> Result<bool, Fault> {
        let seen = load(&*sleeper);
        sleeper.lie_down();
        let bound = park::barrier_before_sleep(sleeper.facing(), &Futex);
        let at_most = park::at_most(bound, sleeper.at_most());
        if look() {
            sleeper.get_up();
            return Ok(false);
        }
        // It fails only where there is nothing to drain.
        let _ = self.watched.eventfd.read();
        let number = self.watchers.next_number();
        *self.watched.lock() = State::Armed(number, sleeper.clone());
        let due = at_most.map(|at_most| Instant::now() + at_most);
        let watched = self.watched.clone();
        let posted = self.watchers.post(Entry { watched, number, sleeper, seen, due });
        if posted.is_err() {
            self.watched.end(&mut self.watched.lock(), State::Quiet);
        }
        posted.map(|()| true)
    }

    /// The handle lies down by itself, or goes: no watcher does anything for it from here on. The
    /// descriptor is readable, for nobody knows what there is.
    pub(crate) fn disarm(&self) {
        if !self.guard.is_original() {
            return;
        }
        let mut state = self.watched.lock();
        if matches!(*state, State::Armed(..)) {
            self.watched.end(&mut state, State::Quiet);
            drop(state);
            // The watcher still sleeps on the handle's words: it must leave them to others.
            self.watchers.kick();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.disarm();
    }
}

/// The watchers of one session.
#[derive(Debug)]
pub(crate) struct Watchers {
    posts: Mutex<Vec<Arc<Post>>>,
    number: AtomicU64,
    guard: ForkGuard,
}

impl Default for Watchers {
    fn default() -> Self {
        let number = AtomicU64::new(0);
        Self { posts: Mutex::default(), number, guard: ForkGuard::get() }
    }
}

impl Watchers {
    fn next_number(&self) -> u64 {
        // Relaxed: only to tell one arming from another.
        self.number.fetch_add(1, Ordering::Relaxed)
    }

    fn posts(&self) -> MutexGuard<'_, Vec<Arc<Post>>> {
        self.posts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands an entry to a watcher that has place for it, if need be a new one.
    fn post(&self, entry: Entry) -> Result<(), Fault> {
        let mut posts = self.posts();
        let words = entry.seen.len();
        let post = match posts.iter().find(|post| post.has_place(words)) {
            Some(post) => post.clone(),
            None => {
                let post = Post::start()?;
                posts.push(post.clone());
                post
            }
        };
        let mut inbox = post.lock();
        inbox.words += words;
        inbox.new.push(entry);
        drop(inbox);
        post.kick();
        Ok(())
    }

    /// Has every watcher look who is still armed.
    fn kick(&self) {
        self.posts().iter().for_each(|post| post.kick());
    }
}

impl Drop for Watchers {
    fn drop(&mut self) {
        // A child of fork has none of these threads.
        if self.guard.is_original() {
            for post in &*self.posts() {
                post.lock().over = true;
                post.kick();
            }
        }
    }
}

/// Where a watcher gets its entries.
#[derive(Debug)]
struct Post {
    /// Futex: the watcher sleeps here too; bumped by whoever has something for it.
    control: AtomicU32,
    inbox: Mutex<Inbox>,
}

#[derive(Debug, Default)]
struct Inbox {
    new: Vec<Entry>,
    /// Words of all entries, those that the watcher has already among them.
    words: usize,
    over: bool,
}

impl Post {
    fn start() -> Result<Arc<Self>, Fault> {
        let post = Arc::new(Self { control: AtomicU32::new(0), inbox: Mutex::default() });
        let its_own = post.clone();
        start_thread("ipc-watcher", move || its_own.watch())?;
        Ok(post)
    }

    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_place(&self, words: usize) -> bool {
        self.lock().words + words <= WORDS_WATCHED_MAX
    }

    fn kick(&self) {
        // PAIR(kick): Release here, Acquire in `watch`, which then finds what was posted.
        self.control.fetch_add(1, Ordering::Release);
        futex::wake(&self.control, 1);
    }

    /// The watcher's life.
    fn watch(&self) {
        let mut entries: Vec<Entry> = Vec::new();
        let mut late: Vec<Late> = Vec::new();
        loop {
            // PAIR(kick): before the inbox is looked into, so that no kick after it is slept through.
            let kicked = self.control.load(Ordering::Acquire);
            {
                let mut inbox = self.lock();
                if inbox.over {
                    return;
                }
                entries.append(&mut inbox.new);
            }
            self.look_at_all(&mut entries, &mut late);
            late.retain(|late| !late.is_over());
            let dues = entries.iter().filter_map(|entry| entry.due);
            let due = dues.chain(late.iter().map(|late| late.due)).min();
            let mut words = vec![(&self.control, kicked)];
            for entry in &entries {
                words
                    .extend(entry.sleeper.words().iter().zip(&entry.seen).map(|(w, s)| (&**w, *s)));
            }
            futex::wait(&words, due);
        }
    }

    /// Looks at every entry; those that need no watching any more go.
    fn look_at_all(&self, entries: &mut Vec<Entry>, late: &mut Vec<Late>) {
        let now = Instant::now();
        let mut served = Vec::new();
        let mut freed = 0;
        entries.retain_mut(|entry| match entry.look(now, &mut served) {
            Looked::Sleeps => true,
            Looked::Fired { rivals } => {
                freed += entry.seen.len();
                late.extend(rivals.then(|| Late::new(entry, now)));
                false
            }
            Looked::Gone => {
                freed += entry.seen.len();
                false
            }
        });
        // Who stood last may be served first next time: of several receivers of a mailbox only one is woken.
        if !served.is_empty() && !entries.is_empty() {
            entries.rotate_left(1);
        }
        self.lock().words -= freed;
    }
}

/// One arming, as its watcher has it.
#[derive(Debug)]
struct Entry {
    watched: Arc<Watched>,
    number: u64,
    sleeper: Arc<dyn Sleeper>,
    /// What the sleeper's words said before it lay down.
    seen: Vec<u32>,
    /// When to look whether or not a word has changed.
    due: Option<Instant>,
}

enum Looked {
    Sleeps,
    Fired { rivals: bool },
    Gone,
}

impl Entry {
    /// `served`: the mailboxes of which a receiver has been woken in this round.
    fn look(&mut self, now: Instant, served: &mut Vec<u64>) -> Looked {
        let rung = self.is_rung();
        let watched = self.watched.clone();
        let mut state = watched.lock();
        if !matches!(*state, State::Armed(number, _) if number == self.number) {
            drop(state);
            if rung {
                // We took a wake-up that another sleeper was meant to have.
                self.sleeper.pass_on(true);
            }
            return Looked::Gone;
        }
        if !rung && self.due.is_none_or(|due| due > now) {
            return Looked::Sleeps;
        }
        let mailbox = self.sleeper.competes_in();
        let is_served = mailbox.is_some_and(|mailbox| served.contains(&mailbox));
        let is_news = |news| match news {
            News::None => false,
            News::ForOne => !is_served,
            News::ForAll => true,
        };
        let mut news = is_news(self.sleeper.look());
        if !news {
            self.lie_down_again(now);
            news = is_news(self.sleeper.look());
        }
        if news {
            let rivals = self.sleeper.another_sleeps();
            watched.end(&mut state, State::Fired(self.number));
            served.extend(mailbox);
            return Looked::Fired { rivals };
        }
        Looked::Sleeps
    }

    /// PAIR(bell): Acquire here, Release where the bell is bumped.
    fn is_rung(&self) -> bool {
        self.sleeper.words().iter().zip(&self.seen).any(|(word, seen)| word.load(Acquire) != *seen)
    }

    /// For nothing, as far as can be seen: senders must know that whoever they rang for has come and gone.
    fn lie_down_again(&mut self, now: Instant) {
        self.seen = load(&*self.sleeper);
        self.sleeper.lie_down();
        let bound = park::barrier_before_sleep(self.sleeper.facing(), &Futex);
        self.due = park::at_most(bound, self.sleeper.at_most()).map(|at_most| now + at_most);
    }
}

/// A handle that fired and has rivals: after a while they get their chance.
#[derive(Debug)]
struct Late {
    watched: Arc<Watched>,
    number: u64,
    sleeper: Arc<dyn Sleeper>,
    due: Instant,
}

impl Late {
    fn new(entry: &Entry, now: Instant) -> Self {
        let (watched, sleeper) = (entry.watched.clone(), entry.sleeper.clone());
        Self { watched, number: entry.number, sleeper, due: now + BATON_AFTER }
    }

    /// Whether nothing is left to do: the handle has come, or the baton is passed on.
    fn is_over(&self) -> bool {
        let waits = matches!(*self.watched.lock(), State::Fired(number) if number == self.number);
        if waits && Instant::now() < self.due {
            return false;
        }
        if waits {
            self.sleeper.pass_on(false);
        }
        true
    }
}

/// Starts a thread that calls next to nothing, and in which no signal handler of the program runs: the program does not
/// know of it.
pub(crate) fn start_thread(name: &str, life: impl FnOnce() + Send + 'static) -> Result<(), Fault> {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK);
    let thread = std::thread::Builder::new().name(name.into()).stack_size(STACK_BYTES);
    let started = thread.spawn(life);
    if let Ok(before) = before {
        // It was this thread's mask a moment ago.
        let _ = before.thread_set_mask();
    }
    started.map(drop).map_err(|error| Fault::new("start a thread that sleeps", error))
}

fn load(sleeper: &dyn Sleeper) -> Vec<u32> {
    sleeper.words().iter().map(|word| word.load(Acquire)).collect()
}
