//! A look at what waits in a mailbox, without taking anything.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::error::{Fault, RequestError};
use crate::lane::layout::Claim;
use crate::lane::memory::{Payload, RingMemory};
use crate::lane::position::Position;
use crate::lane::reader::LaneReader;
use crate::lane::record::Storage;
use crate::link::{Link, NOT_OPENED, Neighbours, map_roster};
use crate::protocol::{DeadLetter, Identity, LaneInfo, Opened, OpenedRole};
use crate::regions::{Cursors, Roster};
use crate::session::{Session, Wait};
use crate::sync::Ordering::Acquire;
use crate::sys::mapping::Access;
use crate::sys::process::ForkGuard;

/// A message that waited when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peeked {
    /// Who sent it.
    pub sender: Identity,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What is known of it, if it is a dead letter.
    pub dead_letter: Option<DeadLetter>,
}

/// Looks at a mailbox: maps everything read-only, takes nothing, is no receiver.
#[derive(Debug)]
pub struct Observer {
    roster: Roster,
    cursors: Cursors,
    neighbours: Neighbours,
    lanes: Vec<Option<LaneReader<RingMemory>>>,
    guard: ForkGuard,
    link: Link,
}

impl Observer {
    pub(crate) fn new(
        session: Arc<Session>,
        opened: Opened,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Self, RequestError> {
        let link = Link::new(session, opened.link);
        let step = "open a mailbox to observe";
        let mut descriptors = descriptors.into_iter();
        let (OpenedRole::Observe, Some(roster), Some(cursors)) =
            (&opened.role, descriptors.next(), descriptors.next())
        else {
            return Err(Fault::new(step, NOT_OPENED).into());
        };
        let (limits, roster) = map_roster(step, &opened, roster)?;
        let cursors = Cursors::map(cursors, limits, Access::ReadOnly)
            .map_err(|error| Fault::new(step, error))?;
        let mut observer = Self {
            roster,
            cursors,
            neighbours: Neighbours::new(limits),
            lanes: (0..limits.lanes_max).map(|_| None).collect(),
            guard: ForkGuard::get(),
            link,
        };
        let (lanes, neighbours) = (&mut observer.lanes, &mut observer.neighbours);
        let attach = |info: &LaneInfo, lane| lanes[usize::from(info.ticket.index)] = Some(lane);
        neighbours.add(opened.fetched, descriptors.collect(), attach)?;
        Ok(observer)
    }

    /// Up to `count` messages that wait now: lane by lane, the oldest first. A message that is claimed
    /// while it is being looked at is left out, and so is one that its sender has taken back.
    ///
    /// # Errors
    /// [`RequestError`] if the daemon is asked for new lanes and does not answer, or after a fork.
    pub fn peek(&mut self, count: usize) -> Result<Vec<Peeked>, RequestError> {
        if !self.guard.is_original() {
            return Err(RequestError::Forked);
        }
        if self.neighbours.lacks_any(&self.roster) {
            let lanes = &mut self.lanes;
            let attach = |info: &LaneInfo, lane| lanes[usize::from(info.ticket.index)] = Some(lane);
            self.neighbours.update(&self.link, Wait::until(None), attach)?;
        }
        let mut peeked = Vec::new();
        for (index, lane) in (0u16..).zip(&self.lanes) {
            let known = self.neighbours.status(&self.roster, index).is_some();
            if let (Some(lane), Some(info), true) = (lane, self.neighbours.lane(index), known) {
                self.peek_lane(lane, info, count, &mut peeked);
            }
        }
        Ok(peeked)
    }

    fn peek_lane(
        &self,
        lane: &LaneReader<RingMemory>,
        info: &LaneInfo,
        count: usize,
        peeked: &mut Vec<Peeked>,
    ) {
        let claim = || {
            // PAIR(claim): Acquire.
            let index = usize::from(info.ticket.index);
            let word = self.cursors.claims[index].claim.load(Acquire);
            Claim::from_word(word).position
        };
        let mut at: Position = claim();
        let Some(mut left) = lane.published(at) else { return };
        let mut payload = Payload::default();
        while left > 0 && peeked.len() < count {
            let Some(word) = lane.record(at, left) else { return };
            lane.storage().copy_out(at, word, &mut payload);
            // The copy is whole if nobody had claimed the record when it was done: only then may its
            // sender write there again.
            std::sync::atomic::fence(Acquire);
            if claim().since(at) <= 0 && !lane.is_withdrawn(at, word) {
                let LaneInfo { sender, dead_letter, .. } = *info;
                peeked.push(Peeked { sender, bytes: payload.take(), dead_letter });
            }
            at = at.advance(word.granules());
            left -= word.granules();
        }
    }
}
