//! What ties a handle to its mailbox: the link's number, and the lanes and doorsteps that came with it or
//! since.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::error::{Fault, RequestError};
use crate::lane::hints::Hints;
use crate::lane::layout::{LaneStatus, Limits, SlotState, hint_words};
use crate::lane::memory::RingMemory;
use crate::lane::order::{LaneId, Standing};
use crate::lane::position::Position;
use crate::lane::reader::LaneReader;
use crate::lane::ring::Oldest;
use crate::protocol::{Answer, Fetched, LaneInfo, LaneTicket, Opened, Reason, Refresh, Request};
use crate::regions::{Doorstep, LaneWords, Roster};
use crate::session::{Errand, Session, Wait, opened, unexpected};
use crate::sync::Ordering::Acquire;
use crate::sys::mapping::Access;
use crate::watch::Watchers;

/// Why nothing can be mapped: where the process has no descriptor left, the kernel drops those that come with an answer.
pub(crate) const NOT_HANDED_OVER: &str =
    "its descriptors did not come (has this process any left?)";

/// The same of an open.
pub(crate) const NOT_OPENED: &str = "it was opened for something else, or its descriptors did not come (has this process any left?)";

/// A link; closed with the daemon's help when its handle goes.
#[derive(Debug)]
pub(crate) struct Link {
    session: Arc<Session>,
    number: u32,
}

impl Link {
    pub(crate) fn new(session: Arc<Session>, number: u32) -> Self {
        Self { session, number }
    }

    /// The watchers of this session.
    pub(crate) fn watchers(&self) -> &Arc<Watchers> {
        self.session.watchers()
    }

    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Asks the daemon for the mailbox to which the answers to this link's calls come. `None`: it has not answered yet.
    pub(crate) fn open_replies(
        &self,
        errand: &mut Errand,
        wait: Wait,
    ) -> Result<Option<(Opened, Vec<OwnedFd>)>, RequestError> {
        self.open(errand, &Request::OpenReplies { link: self.number }, wait)
    }

    /// Asks the daemon for a sender's link to where a caller waits for answers. `None`: it has not answered yet.
    pub(crate) fn open_reply(
        &self,
        errand: &mut Errand,
        caller: LaneTicket,
        wait: Wait,
    ) -> Result<Option<(Opened, Vec<OwnedFd>)>, RequestError> {
        self.open(errand, &Request::OpenReply { link: self.number, lane: caller }, wait)
    }

    fn open(
        &self,
        errand: &mut Errand,
        request: &Request,
        wait: Wait,
    ) -> Result<Option<(Opened, Vec<OwnedFd>)>, RequestError> {
        errand.run(&self.session, request, wait)?.map(opened).transpose()
    }

    /// What the daemon is asked for a further lane of a sender's link.
    pub(crate) fn add_lane(
        &self,
        priority: u8,
        capacity_bytes: u64,
        replaces: Option<LaneTicket>,
    ) -> Request {
        Request::AddLane { link: self.number, priority, capacity_bytes, replaces }
    }

    /// What the daemon is asked to drop a group's oldest messages.
    pub(crate) fn drop_oldest(&self, lane: LaneTicket, group: u8, oldest: Oldest) -> Request {
        let Oldest { from, through, messages } = oldest;
        let (from, through) = (from.get(), through.get());
        Request::DropOldest { link: self.number, lane, group, from, through, messages }
    }

    /// Has the daemon make a dead letter of the message in hand, which lies at a position of a lane.
    pub(crate) fn reject(
        &self,
        lane: LaneTicket,
        position: Position,
        reason: Reason,
    ) -> Result<(), RequestError> {
        let (link, position) = (self.number, position.get());
        match self.session.request(&Request::Reject { link, lane, position, reason })?.0 {
            Answer::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Tells the daemon that the mailbox, which is only there until it is drained, was found empty.
    pub(crate) fn drained(&self) -> Result<(), RequestError> {
        self.session.post(&Request::Drained { link: self.number })
    }

    /// Tells the daemon that a lane whose sender is gone is empty.
    pub(crate) fn lane_drained(&self, lane: LaneTicket) -> Result<(), RequestError> {
        self.session.post(&Request::LaneDrained { link: self.number, lane })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Whatever goes wrong here (the daemon is away, this is a fork's child), the daemon closes the
        // link when the session ends.
        let _ = self.session.close_link(self.number);
    }
}

/// Maps what every member of a mailbox maps: the roster, to read. How large its other regions are follows from
/// the limits.
pub(crate) fn map_roster(
    step: &'static str,
    opened: &Opened,
    roster: OwnedFd,
) -> Result<(Limits, Roster), RequestError> {
    opened.attributes.check(&opened.groups)?;
    let limits = opened.attributes.limits(opened.groups.len());
    let roster = Roster::map(roster, limits, Access::ReadOnly);
    Ok((limits, roster.map_err(|error| Fault::new(step, error))?))
}

/// The doorstep of one uid's senders, and which lanes are theirs.
#[derive(Debug)]
pub(crate) struct Entrance {
    /// Whose; the home doorstep has `u32::MAX`.
    pub(crate) uid: u32,
    pub(crate) doorstep: Doorstep,
    /// One bit a lane.
    lanes: Vec<u64>,
}

impl Entrance {
    /// What their senders say of where there may be something.
    pub(crate) fn hints(&self) -> Hints<'_> {
        Hints::of(&self.doorstep.hints, &self.lanes)
    }

    pub(crate) fn is_home(&self) -> bool {
        self.uid == u32::MAX
    }

    fn note(&mut self, lane: u16, theirs: bool) {
        let (word, bit) = (usize::from(lane) / 64, 1 << (lane % 64));
        if let Some(word) = self.lanes.get_mut(word) {
            *word = if theirs { *word | bit } else { *word & !bit };
        }
    }
}

/// The lanes and doorsteps of a mailbox that a receiver or observer has mapped.
#[derive(Debug)]
pub(crate) struct Neighbours {
    doorsteps: Vec<Option<Entrance>>,
    lanes: Vec<Option<LaneInfo>>,
    /// The daemon's count of what we have been told of.
    through: u64,
    /// The request for what is new.
    fetching: Errand,
    limits: Limits,
}

impl Neighbours {
    pub(crate) fn new(limits: Limits) -> Self {
        let lanes = vec![None; limits.lanes_max.into()];
        Self { doorsteps: Vec::new(), lanes, through: 0, fetching: Errand::default(), limits }
    }

    /// A lane that is mapped.
    pub(crate) fn lane(&self, lane: u16) -> Option<&LaneInfo> {
        self.lanes.get(usize::from(lane))?.as_ref()
    }

    /// The doorstep of a lane's sender.
    pub(crate) fn doorstep_of(&self, lane: u16) -> Option<&Doorstep> {
        let index = usize::from(self.lane(lane)?.doorstep);
        Some(&self.doorsteps.get(index)?.as_ref()?.doorstep)
    }

    /// All doorsteps with their uids.
    pub(crate) fn entrances(&self) -> impl Iterator<Item = &Entrance> + Clone {
        self.doorsteps.iter().flatten()
    }

    /// The doorstep that no sender maps.
    pub(crate) fn home(&self) -> Option<&Doorstep> {
        self.entrances().find(|it| it.is_home()).map(|it| &it.doorstep)
    }

    /// Whose a lane is from now on: the senders' of this doorstep, or nobody's.
    fn note(&mut self, lane: u16, doorstep: Option<u16>) {
        for (index, entrance) in (0u16..).zip(&mut self.doorsteps) {
            if let Some(entrance) = entrance {
                entrance.note(lane, doorstep == Some(index));
            }
        }
    }

    /// Forgets a lane.
    pub(crate) fn forget(&mut self, lane: u16) {
        if let Some(place) = self.lanes.get_mut(usize::from(lane)) {
            *place = None;
        }
        self.note(lane, None);
    }

    /// What the roster says of a lane that is mapped: `None` once it is another's or nobody's.
    pub(crate) fn status(&self, roster: &Roster, lane: u16) -> Option<SlotState> {
        let entry = roster.lanes.get(usize::from(lane))?;
        // PAIR(changes): the roster's words were written before `changes` moved.
        let status = LaneStatus::from_word(entry.status.load(Acquire));
        let ours = self.lane(lane)?.ticket.generation == status.generation;
        Some(status.state).filter(|&state| ours && state != SlotState::Free)
    }

    /// Whether the roster names a lane that is not mapped.
    pub(crate) fn lacks_any(&self, roster: &Roster) -> bool {
        let high = roster.header.lanes_high.load(Acquire) as usize;
        roster.lanes.iter().zip(&self.lanes).take(high).any(|(entry, known)| {
            let status = LaneStatus::from_word(entry.status.load(Acquire));
            status.state != SlotState::Free
                && known.is_none_or(|info| info.ticket.generation != status.generation)
        })
    }

    /// Asks the daemon for all that is new, and maps it. False: it has not told all of it yet.
    pub(crate) fn update(
        &mut self,
        link: &Link,
        wait: Wait,
        mut attach: impl FnMut(&LaneInfo, LaneReader<RingMemory>),
    ) -> Result<bool, RequestError> {
        loop {
            // An answer to what was asked earlier knows nothing of what came since.
            let early = self.fetching.is_under_way();
            let request = Request::Fetch(Refresh { link: link.number, after: self.through });
            let (fetched, descriptors) = match self.fetching.run(&link.session, &request, wait)? {
                None => return Ok(false),
                Some((Answer::Fetched(fetched), descriptors)) => (fetched, descriptors),
                Some((other, _)) => return Err(unexpected(&other)),
            };
            let more = fetched.more || early;
            self.add(fetched, descriptors, &mut attach)?;
            if !more {
                return Ok(true);
            }
        }
    }

    /// Maps what the daemon has handed over.
    pub(crate) fn add(
        &mut self,
        fetched: Fetched,
        descriptors: Vec<OwnedFd>,
        mut attach: impl FnMut(&LaneInfo, LaneReader<RingMemory>),
    ) -> Result<(), Fault> {
        let step = "map what ipcd handed over";
        if descriptors.len() != fetched.doorsteps.len() + fetched.lanes.len() {
            return Err(Fault::new(step, NOT_HANDED_OVER));
        }
        let mut descriptors = descriptors.into_iter();
        for ((index, uid), fd) in fetched.doorsteps.into_iter().zip(&mut descriptors) {
            let index = usize::from(index);
            let doorstep = Doorstep::map(fd, self.limits, Access::ReadWrite)
                .map_err(|e| Fault::new(step, e))?;
            if self.doorsteps.len() <= index {
                self.doorsteps.resize_with(index + 1, || None);
            }
            // Told of again, as it was mapped before something else could not be; or another file in its place, though of
            // the same uid: others may have had it meanwhile.
            let known = self.doorsteps[index].take().filter(|known| known.uid == uid);
            let none = || vec![0; hint_words(self.limits.lanes_max)];
            let lanes = known.map_or_else(none, |known| known.lanes);
            self.doorsteps[index] = Some(Entrance { uid, doorstep, lanes });
        }
        for (info, fd) in fetched.lanes.into_iter().zip(&mut descriptors) {
            let index = info.ticket.index;
            let Some(place) = self.lanes.get_mut(usize::from(index)) else {
                return Err(Fault::new(step, "a lane that the mailbox does not have"));
            };
            // Records of it may be in hand, or claimed.
            if place.is_some_and(|known| known.ticket == info.ticket) {
                continue;
            }
            let (words, mapping) = LaneWords::map(fd, info.capacity_bytes, Access::ReadOnly)
                .map_err(|e| Fault::new(step, e))?;
            let doorstep = self.doorsteps.get(usize::from(info.doorstep)).and_then(Option::as_ref);
            let verdict = doorstep.map(|it| it.doorstep.verdicts.element(index.into()));
            *place = Some(info);
            self.note(index, Some(info.doorstep));
            let id =
                |ticket: LaneTicket| LaneId { index: ticket.index, generation: ticket.generation };
            let standing = Standing { priority: info.priority, after: info.predecessor.map(id) };
            let memory = RingMemory::new(&mapping, info.capacity_bytes);
            let first = Position::new(info.first_position);
            let reader = LaneReader::new(memory, words.header, first, info.ticket.generation);
            attach(&info, reader.standing(standing).with_verdict(verdict));
        }
        self.through = fetched.through;
        Ok(())
    }
}
