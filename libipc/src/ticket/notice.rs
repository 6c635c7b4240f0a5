//! Telling that a message is settled: by a descriptor, a function or a signal.
//!
//! A watcher of the session ([`crate::watch`]) sleeps on the lane's word for all its tickets together. Whenever it
//! is rung it looks at each, writes descriptors and sends signals itself, and hands functions to a thread that
//! does nothing but call them: what they do must not keep the watcher from others. With no notice left the watcher
//! leaves the lane alone.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::{Sent, SentLane, TicketState};
use crate::error::Fault;
use crate::lane::park::{self, Facing};
use crate::lane::position::Position;
use crate::sleeper::{News, Sleeper};
use crate::sync::AtomicU32;
use crate::sys::futex::Futex;
use crate::sys::mapping::Shared;
use crate::sys::signal;
use crate::watch::{Watch, Watchers};

/// A calling thread's stack: it runs what the program gives it.
const STACK_BYTES: usize = 1 << 20;

/// How soon a signal is tried again for which the kernel has no place.
const SIGNAL_AGAIN: Duration = Duration::from_millis(10);

/// How somebody is to be told.
pub(super) enum Notice {
    Descriptor(Arc<Descriptor>),
    Call(Box<dyn FnOnce(TicketState) + Send>),
    Signal { signal: i32, value: usize },
}

impl fmt::Debug for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Descriptor(_) => "Descriptor",
            Self::Call(_) => "Call",
            Self::Signal { .. } => "Signal",
        })
    }
}

/// A ticket's descriptor.
#[derive(Debug)]
pub(super) struct Descriptor(EventFd);

impl Descriptor {
    pub(super) fn new() -> Result<Self, Fault> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let eventfd = EventFd::from_value_and_flags(0, flags);
        eventfd.map(Self).map_err(|error| Fault::new("make a descriptor to poll", error))
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn make_readable(&self) {
        // It fails only where the count is at its end: then it is readable.
        let _ = self.0.write(1);
    }
}

type Call = Box<dyn FnOnce() + Send>;

/// The notices of one lane's tickets.
pub(super) struct Notices {
    watchers: Arc<Watchers>,
    /// One thread at a time arms the watcher, or finds that it is armed.
    watch: Mutex<Option<Watch>>,
    waiting: Mutex<Vec<(Arc<Sent>, Notice)>>,
    /// The kernel had no place for a signal: it is to be tried again.
    refused: AtomicBool,
    /// To the thread that calls functions, once there was one to call.
    caller: OnceLock<mpsc::Sender<Call>>,
}

impl fmt::Debug for Notices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notices").finish_non_exhaustive()
    }
}

impl Notices {
    pub(super) fn new(watchers: Arc<Watchers>) -> Self {
        let (watch, waiting) = (Mutex::default(), Mutex::default());
        let (refused, caller) = (AtomicBool::new(false), OnceLock::new());
        Self { watchers, watch, waiting, refused, caller }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<(Arc<Sent>, Notice)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The way to the thread that calls functions.
    fn caller(&self) -> Result<&mpsc::Sender<Call>, Fault> {
        if self.caller.get().is_none() {
            let (to_caller, calls) = channel::<Call>();
            let thread = std::thread::Builder::new().name("ipc-tickets".into());
            let call_all = move || {
                for call in calls {
                    // What the program's function does is the program's matter.
                    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call));
                }
            };
            let started =
                signal::without_signals(|| thread.stack_size(STACK_BYTES).spawn(call_all));
            started.map_err(|error| Fault::new("start a thread for tickets", error))?;
            // The thread of a second that came at the same moment ends with its channel.
            let _ = self.caller.set(to_caller);
        }
        self.caller.get().ok_or_else(|| Fault::new("start a thread for tickets", "it is gone"))
    }

    /// Tells whoever is to be told of what is settled, and forgets it. True if nobody is left.
    fn tell(&self, lane: &SentLane) -> bool {
        let mut settled = Vec::new();
        let mut queued_from: Option<Position> = None;
        let over = lane.why_over().is_some();
        let mut waiting = self.waiting();
        for (sent, notice) in std::mem::take(&mut *waiting) {
            // Behind a record that nobody has claimed there is none that somebody has.
            let at = sent.record.at;
            let queued = !over && queued_from.is_some_and(|from| at.since(from) >= 0);
            let state = if queued { sent.settled.get().copied() } else { sent.is_over() };
            match state {
                Some(state) => settled.push((sent, notice, state)),
                None => {
                    if queued_from.is_none() && sent.look() == TicketState::Queued {
                        queued_from = Some(at);
                    }
                    waiting.push((sent, notice));
                }
            }
        }
        drop(waiting);
        let mut refused = Vec::new();
        for (sent, notice, state) in settled {
            match self.give(notice, state) {
                Ok(()) => lane.unwatch(sent.record.at),
                Err(notice) => refused.push((sent, notice)),
            }
        }
        // Relaxed: read by this very thread, or after the watcher was told.
        self.refused.store(!refused.is_empty(), Ordering::Relaxed);
        let mut waiting = self.waiting();
        waiting.extend(refused);
        waiting.is_empty()
    }

    /// Gives one notice; hands it back if the kernel has no place for it now.
    fn give(&self, notice: Notice, state: TicketState) -> Result<(), Notice> {
        match notice {
            Notice::Descriptor(descriptor) => descriptor.make_readable(),
            Notice::Call(call) => {
                if let Some(caller) = self.caller.get() {
                    // It fails only where the thread is gone, which ends with us.
                    let _ = caller.send(Box::new(move || call(state)));
                }
            }
            Notice::Signal { signal, value } => {
                if !signal::queue(signal, value) {
                    return Err(notice);
                }
            }
        }
        Ok(())
    }
}

impl SentLane {
    /// Has somebody told once a message of this lane is settled.
    pub(super) fn notify(lane: &Arc<Self>, sent: &Arc<Sent>, notice: Notice) -> Result<(), Fault> {
        let notices = &lane.notices;
        if matches!(notice, Notice::Call(_)) {
            notices.caller()?;
        }
        let mut watch = notices.watch.lock().unwrap_or_else(PoisonError::into_inner);
        let watch = Watch::made_in(&mut watch, &notices.watchers)?;
        lane.watch_from(sent.record.at);
        park::heavy_barrier(lane.roster(), &Futex);
        notices.waiting().push((sent.clone(), notice));
        // Asked behind the push: a watcher that is still armed then looks at what was pushed, if it is rung.
        if watch.is_armed() {
            lane.ring();
            return Ok(());
        }
        watch.come();
        // The last look tells, too: if nobody is left there is nothing to sleep for.
        let armed = watch.arm(lane.clone(), || notices.tell(lane));
        armed.map(drop)
    }
}

/// Whoever sleeps for the notices of a lane sleeps as this: it stays as long as somebody is to be told.
impl Sleeper for SentLane {
    fn words(&self) -> &[Shared<AtomicU32>] {
        std::slice::from_ref(self.freed())
    }

    fn facing(&self) -> Facing<'_> {
        Facing::Receivers(self.roster())
    }

    fn lie_down(&self) {
        // The lane says that it is watched as long as there are notices.
    }

    fn get_up(&self) {}

    fn at_most(&self) -> Option<Duration> {
        self.notices.refused.load(Ordering::Relaxed).then_some(SIGNAL_AGAIN)
    }

    fn look(&self) -> News {
        if self.notices.tell(self) { News::ForAll } else { News::None }
    }
}
