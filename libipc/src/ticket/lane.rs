//! What a sender and its tickets share of their lane.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use super::notice::Notices;
use super::{Returned, Sent, TicketState};
use crate::lane::fate::{self, Fate};
use crate::lane::layout::{LaneHeader, RosterHeader};
use crate::lane::memory::RecordMarks;
use crate::lane::park;
use crate::lane::position::Position;
use crate::lane::withdraw::{self, Progress, Record, Withdrawal};
use crate::regions::{Cursors, Roster};
use crate::sync::Ordering::Relaxed;
use crate::sync::{AtomicU8, AtomicU32, AtomicU64};
use crate::sys::futex::Futex;
use crate::sys::mapping::Shared;
use crate::sys::process::ForkGuard;
use crate::watch::Watchers;

/// A sender's lane, for its tickets: it stays mapped as long as there are any, and what they do in several threads
/// is kept apart here, by locks of this process.
#[derive(Debug)]
pub(crate) struct SentLane {
    words: LaneView,
    /// Locked through a withdrawal, and while the sender looks for room: so what is withdrawn is never a
    /// record whose room was written anew.
    marks: Mutex<RecordMarks>,
    /// The positions of the records that are watched, each as often as it is.
    watched: Mutex<Vec<Position>>,
    /// Those of its messages of which somebody may still ask.
    outstanding: Mutex<Outstanding>,
    pub(super) notices: Notices,
    guard: ForkGuard,
}

/// The words of a lane that its sender's side reads and writes.
#[derive(Debug)]
pub(crate) struct LaneView {
    pub(crate) roster: Roster,
    /// One a group.
    pub(crate) groups: Box<[Cursors]>,
    pub(crate) lane: u16,
    pub(crate) header: Shared<LaneHeader>,
    pub(crate) freed: Shared<AtomicU32>,
    pub(crate) verdict: Shared<AtomicU64>,
    pub(crate) fates: Shared<[AtomicU8]>,
}

impl SentLane {
    pub(crate) fn new(words: LaneView, marks: RecordMarks, watchers: Arc<Watchers>) -> Self {
        Self {
            words,
            marks: Mutex::new(marks),
            watched: Mutex::default(),
            outstanding: Mutex::default(),
            notices: Notices::new(watchers),
            guard: ForkGuard::get(),
        }
    }

    /// Whether this is the process that sent.
    pub(crate) fn is_ours(&self) -> bool {
        self.guard.is_original()
    }

    pub(crate) fn roster(&self) -> &RosterHeader {
        &self.words.roster.header
    }

    /// What became of a record that is freed, where it was not acknowledged.
    pub(super) fn fate(&self, at: Position) -> Option<Fate> {
        let LaneView { roster, lane, fates, .. } = &self.words;
        fate::read(&roster.lanes[usize::from(*lane)], fates, at)
    }

    /// Notes a message of which somebody may ask.
    pub(super) fn expect_questions(&self, sent: &Arc<Sent>) {
        let mut outstanding = self.outstanding.lock().unwrap_or_else(PoisonError::into_inner);
        outstanding.add(sent.record.at, sent);
    }

    /// Before the room up to `limit` is taken up again: has every message there of which somebody may ask remember
    /// how it ended, while that can still be told.
    pub(crate) fn settle_before(&self, limit: Position) {
        let mut outstanding = self.outstanding.lock().unwrap_or_else(PoisonError::into_inner);
        outstanding.settle_before(limit);
    }

    /// The word that whoever waits for acknowledgements sleeps on.
    pub(crate) fn freed(&self) -> &Shared<AtomicU32> {
        &self.words.freed
    }

    /// Keeps withdrawals out.
    pub(crate) fn lock(&self) -> MutexGuard<'_, RecordMarks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn progress(&self, record: Record) -> Progress {
        let LaneView { roster, groups, lane, .. } = &self.words;
        withdraw::progress(groups.iter().zip(&roster.header.groups), *lane, record)
    }

    /// Takes a record back if nobody has claimed it; if so `settled` says it before anybody can look again.
    pub(crate) fn withdraw(
        &self,
        record: Record,
        settled: &OnceLock<TicketState>,
        why: Returned,
    ) -> Withdrawal {
        let LaneView { roster, groups, lane, header, verdict, .. } = &self.words;
        let marks = self.lock();
        if matches!(settled.get(), Some(TicketState::Returned(_))) {
            // By another thread, which had the lock before.
            return Withdrawal::Withdrawn;
        }
        let claimed = || withdraw::is_claimed(groups.iter(), *lane, record.at);
        let end =
            withdraw::withdraw(&roster.header, header, &*marks, verdict, record, &Futex, claimed);
        if end == Withdrawal::Withdrawn {
            settled.get_or_init(|| TicketState::Returned(why));
            // Relaxed: a counter for people.
            header.sent.fetch_sub(1, Relaxed);
            drop(marks);
            // Whoever waits for this message waits in this process.
            self.ring();
        }
        end
    }

    /// Has everybody look who sleeps on this lane's word.
    pub(super) fn ring(&self) {
        park::ring(self.freed(), u32::MAX, &Futex);
    }

    /// From here on whoever acknowledges the record at a position rings, until what is returned is dropped. A
    /// heavy barrier must come before the watcher's look.
    pub(crate) fn watch(&self, at: Position) -> Watching<'_> {
        self.watch_from(at);
        Watching { lane: self, at }
    }

    /// As [`Self::watch`], until [`Self::unwatch`].
    pub(super) fn watch_from(&self, at: Position) {
        self.change_watched(|watched| watched.push(at));
    }

    pub(super) fn unwatch(&self, at: Position) {
        self.change_watched(|watched| {
            if let Some(index) = watched.iter().position(|&watched| watched == at) {
                watched.swap_remove(index);
            }
        });
    }

    fn change_watched(&self, change: impl FnOnce(&mut Vec<Position>)) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut watched);
        let earlier = |a: Position, b: Position| if b.since(a) < 0 { b } else { a };
        park::watch(&self.words.header, watched.iter().copied().reduce(earlier));
    }
}

/// Messages of which somebody may ask, in the order in which they lie in the lane. Those of which nobody can ask any
/// more are forgotten from time to time.
#[derive(Debug, Default)]
struct Outstanding {
    messages: VecDeque<(Position, Weak<Sent>)>,
    /// How many there may be before those to forget are looked for.
    room: usize,
}

impl Outstanding {
    const ROOM_MIN: usize = 64;

    fn add(&mut self, at: Position, sent: &Arc<Sent>) {
        if self.messages.len() >= self.room {
            self.messages.retain(|(_, sent)| sent.strong_count() > 0);
            self.room = (2 * self.messages.len()).max(Self::ROOM_MIN);
        }
        // Nearly always the last: of a send that waits one hears later.
        let behind = self.messages.iter().rev().take_while(|(other, _)| other.since(at) > 0);
        let index = self.messages.len() - behind.count();
        self.messages.insert(index, (at, Arc::downgrade(sent)));
    }

    fn settle_before(&mut self, limit: Position) {
        while let Some((_, sent)) = self.messages.pop_front_if(|(at, _)| at.since(limit) < 0) {
            if let Some(sent) = sent.upgrade() {
                sent.look();
            }
        }
    }
}

/// Keeps a record watched.
#[derive(Debug)]
pub(crate) struct Watching<'a> {
    lane: &'a SentLane,
    at: Position,
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        self.lane.unwatch(self.at);
    }
}
