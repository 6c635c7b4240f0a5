//! Regions that a predecessor has left in the store: found by their names, mapped again, and shown anew.
//!
//! What a roster says follows from the registry, so it is written again from there: an update that the predecessor did
//! not come to the end of is mended by that. The other regions are their members', and are left as they are.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use libipc::lane::layout::{Claim, LaneStatus, Limits, RosterHeader, SlotState, Traffic};
use libipc::lane::position::Position;
use libipc::lane::repair::slot_is_idle;
use libipc::protocol::{LaneInfo, LaneTicket, Receivers};
use libipc::regions::{Cursors, Doorstep, Roster};
use libipc::sync::Ordering;
use libipc::sys::mapping::{Access, MapError};

use super::show::{Backstage, Counts, Show};
use super::{
    Handed, LaneRegion, MailboxRegions, Region, cursors_name, doorsteps::doorstep_name, lane_name,
    roster_name,
};
use crate::registry::group::Place;
use crate::registry::mailbox::Mailbox;
use crate::store::Kept;

/// What was in the store, by name.
#[derive(Debug, Default)]
pub struct Found {
    regions: HashMap<String, Region>,
}

/// A roster that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedRoster {
    /// Of which mailbox.
    pub mailbox_id: u64,
    /// Since it was taken into use for which time: [`Mailbox::generation`].
    pub nth: u64,
    name: String,
}

impl NamedRoster {
    fn of(name: &str) -> Option<Self> {
        let (id, rest) = name.split_once('.')?;
        let nth = match rest.strip_prefix("roster")? {
            "" => 1,
            suffix => suffix.strip_prefix('.')?.parse().ok()?,
        };
        Some(Self { mailbox_id: id.parse().ok()?, nth, name: name.to_owned() })
    }
}

/// Why a mailbox cannot be had back.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A region is not in the store.
    #[error("{0} is not in the store")]
    Missing(String),
    /// It cannot be mapped.
    #[error(transparent)]
    Map(#[from] MapError),
}

impl Found {
    /// Adds a region.
    pub fn add(&mut self, name: String, fd: OwnedFd, kept: Rc<Kept>) {
        let region = Region::found(&name, fd, kept);
        self.regions.insert(name, region);
    }

    /// A descriptor of a region, as one was handed out before.
    #[must_use]
    pub fn hand(&self, name: &str, read_only: bool) -> Option<Handed> {
        let region = self.regions.get(name)?;
        Some(if read_only { region.read_only_later() } else { region.read_write() })
    }

    /// The rosters that there are.
    #[must_use]
    pub fn rosters(&self) -> Vec<NamedRoster> {
        self.regions.keys().filter_map(|name| NamedRoster::of(name)).collect()
    }

    /// The doorsteps of a mailbox, by index and in the order in which they were made.
    fn doorsteps(&self, mailbox_id: u64) -> BTreeMap<(usize, u64), Region> {
        let which = |name: &str| {
            let (mailbox, which) = name.split_once(".doorstep.")?;
            let (index, told) = which.split_once('.')?;
            let ours = mailbox.parse() == Ok(mailbox_id);
            Some((index.parse().ok()?, told.parse().ok()?)).filter(|_| ours)
        };
        let found = self.regions.iter();
        found.filter_map(|(name, region)| Some((which(name)?, region.clone()))).collect()
    }

    fn get(&self, name: String) -> Result<Region, RestoreError> {
        self.regions.get(&name).cloned().ok_or(RestoreError::Missing(name))
    }
}

impl MailboxRegions {
    /// The regions of a mailbox that a predecessor has left.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub fn restore(
        mailbox: &Mailbox,
        found: &Found,
        backstage: &Rc<Backstage>,
    ) -> Result<Self, RestoreError> {
        let (id, limits, nth) = (mailbox.id, mailbox.limits(), mailbox.generation());
        let roster = found.get(roster_name(id, nth))?;
        let roster_words = Roster::map(&roster, limits, Access::ReadWrite)?;
        let cursors = (0..limits.groups).map(|group| {
            let region = found.get(cursors_name(id, nth, group))?;
            let words = Cursors::map(&region, limits, Access::ReadWrite)?;
            Ok((region, words))
        });
        let cursors = cursors.collect::<Result<_, RestoreError>>()?;
        let doorsteps = (0u16..).zip(mailbox.doorsteps()).map(|(index, slot)| {
            let region = found.get(doorstep_name(id, index, slot.told))?;
            let words = Doorstep::map(&region, limits, Access::ReadWrite)?;
            Ok((region, words))
        });
        let doorsteps = doorsteps.collect::<Result<_, RestoreError>>()?;
        let mut lanes = BTreeMap::new();
        for slot in mailbox.lanes().iter().filter(|slot| slot.state != SlotState::Free) {
            let region = found.get(lane_name(id, slot.info.ticket))?;
            let LaneInfo { doorstep, capacity_bytes, .. } = slot.info;
            let mut lane = LaneRegion { region, doorstep, capacity_bytes, last_tail: None };
            if slot.state == SlotState::Gone {
                lane.last_tail = Some(lane.tail());
            }
            lanes.insert(slot.info.ticket.index, lane);
        }
        let turns = mailbox.attributes.receivers == Receivers::Exclusive;
        let (roster, backstage) = ((roster, roster_words), backstage.clone());
        let mailbox_id = id;
        Ok(Self {
            mailbox_id,
            backstage,
            roster,
            cursors,
            doorsteps,
            replaced: Vec::new(),
            lanes,
            limits,
            turns,
        })
    }

    /// Shows the members all that the registry has of the mailbox, and wakes them: whatever the predecessor had
    /// shown, and however far it had come.
    pub fn show_all(&self, mailbox: &Mailbox, barrier: bool) {
        for freeing in &mailbox.freeing {
            self.show(&Show::Free(*freeing));
        }
        self.give_letters_back(mailbox);
        for slot in mailbox.lanes() {
            let lane = &slot.info;
            let entry = self.roster().lanes.get(usize::from(lane.ticket.index));
            let shown = entry.map(|entry| entry.status.load(Ordering::Relaxed));
            let shown = LaneStatus::from_word(shown.unwrap_or(0));
            // Once a lane was shown its claim is its receivers'.
            if slot.state != SlotState::Free && shown.generation != lane.ticket.generation {
                self.show(&Show::Lane(*lane));
            }
            self.show(&Show::LaneState(*lane, slot.state));
        }
        for (group, table) in (0u8..).zip(mailbox.groups()) {
            for (slot, entry) in (0u16..).zip(table.slots()) {
                let shown = self.roster().receivers.get(self.entry_of(group, slot));
                let prepared = shown.is_some_and(|shown| {
                    SlotState::from_word(shown.state.load(Ordering::Relaxed)) == SlotState::Active
                        && shown.generation.load(Ordering::Relaxed) == entry.generation
                });
                if entry.state == SlotState::Active && !prepared {
                    let idle = self.cursors(group).is_none_or(|it| slot_is_idle(it, slot));
                    let place = Place { slot, generation: entry.generation, inherited: !idle };
                    self.show(&Show::Receiver { group, place, identity: entry.identity });
                } else {
                    self.show(&Show::ReceiverState { group, slot, state: entry.state });
                }
            }
        }
        if mailbox.fences {
            self.show(&Show::Fences { barrier });
        }
        self.show(&Show::Counts(Box::new(Counts::of(mailbox))));
        self.show(&Show::Traffic(mailbox.traffic));
        self.show(&Show::Everybody);
    }

    /// A dead letter that the predecessor has taken, and whose end it has not come to note, is there again: no receiver
    /// has claimed it, for that would have left its number.
    fn give_letters_back(&self, mailbox: &Mailbox) {
        let gone = mailbox.lanes().iter().filter(|slot| slot.state == SlotState::Gone);
        for lane in gone.map(|slot| &slot.info).filter(|info| info.dead_letter.is_some()) {
            let index = usize::from(lane.ticket.index);
            let cell = self.cursors(0).and_then(|cursors| cursors.claims.get(index));
            let first = Position::new(lane.first_position);
            if let Some(cell) = cell {
                let claim = Claim::from_word(cell.claim.load(Ordering::Acquire));
                if claim.winner.is_none() && claim.position != first {
                    let whole = Claim { position: first, winner: None };
                    cell.claim.store(whole.to_word(), Ordering::Release);
                }
            }
        }
    }

    /// Tells the members of a mailbox that is no more, as far as its regions are in the store.
    pub fn show_gone(named: &NamedRoster, found: &Found, backstage: &Rc<Backstage>, why: Traffic) {
        if let Some(regions) = Self::of_roster(named, found, backstage) {
            regions.show(&Show::Traffic(why));
            regions.show(&Show::Everybody);
        }
    }

    /// Tells whoever still has regions mapped that a mailbox had when it was in use before that nothing in them is theirs any
    /// more.
    pub fn show_put_away(
        named: &NamedRoster,
        found: &Found,
        backstage: &Rc<Backstage>,
        traffic: Traffic,
    ) {
        let Some(regions) = Self::of_roster(named, found, backstage) else { return };
        let roster = regions.roster();
        for entry in roster.lanes.iter() {
            let status = LaneStatus::from_word(entry.status.load(Ordering::Relaxed));
            let free = LaneStatus { state: SlotState::Free, ..status };
            // PAIR(lanes): as in `show`.
            entry.status.store(free.to_word(), Ordering::Release);
        }
        for group in 0..regions.limits.groups {
            for slot in 0..regions.limits.receivers_max {
                regions.show(&Show::ReceiverState { group, slot, state: SlotState::Free });
            }
        }
        regions.show(&Show::Traffic(traffic));
        regions.show(&Show::Everybody);
        for (index, entry) in (0u16..).zip(roster.lanes.iter()) {
            regions.ring_freed_at(entry.doorstep.load(Ordering::Relaxed) as u16, index);
        }
    }

    /// What is in the store of the regions that a mailbox had, as its roster tells.
    fn of_roster(named: &NamedRoster, found: &Found, backstage: &Rc<Backstage>) -> Option<Self> {
        let id = named.mailbox_id;
        let roster = found.get(named.name.clone()).ok()?;
        // We wrote it ourselves.
        let header = |offset| roster.word(offset) as u32;
        let limits = Limits {
            lanes_max: header(std::mem::offset_of!(RosterHeader, lanes_max)) as u16,
            receivers_max: header(std::mem::offset_of!(RosterHeader, receivers_max)) as u16,
            groups: header(std::mem::offset_of!(RosterHeader, groups_count)) as u8,
        };
        let words = Roster::map(&roster, limits, Access::ReadWrite).ok()?;
        let mut doorsteps: Vec<(Region, Doorstep)> = Vec::new();
        let own = |&((index, told), _): &((usize, u64), Region)| {
            if index == 0 { told == named.nth } else { told > named.nth }
        };
        for ((index, _), region) in found.doorsteps(id).into_iter().filter(own) {
            let Ok(words) = Doorstep::map(&region, limits, Access::ReadWrite) else { break };
            match doorsteps.get_mut(index) {
                Some(place) => *place = (region, words),
                None => doorsteps.push((region, words)),
            }
        }
        let lanes = (0u16..).zip(words.lanes.iter()).filter_map(|(index, entry)| {
            let status = LaneStatus::from_word(entry.status.load(Ordering::Relaxed));
            let ticket = LaneTicket { index, generation: status.generation };
            let region = found.get(lane_name(id, ticket)).ok()?;
            let doorstep = entry.doorstep.load(Ordering::Relaxed) as u16;
            let capacity_bytes = entry.capacity_bytes.load(Ordering::Relaxed);
            Some((index, LaneRegion { region, doorstep, capacity_bytes, last_tail: None }))
        });
        let lanes = lanes.collect();
        let (roster, backstage) = ((roster, words), backstage.clone());
        // Nobody stands in line where nobody takes turns, and waking nobody does no harm.
        let (cursors, turns) = (Vec::new(), true);
        Some(Self {
            mailbox_id: id,
            backstage,
            roster,
            cursors,
            doorsteps,
            replaced: Vec::new(),
            lanes,
            limits,
            turns,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::mailbox::Mailbox;
    use crate::registry::permission::Ownership;
    use crate::store::Store;
    use libipc::protocol::{Identity, MailboxAttributes, MailboxName};
    use std::os::fd::AsFd;

    #[test]
    fn a_roster_is_told_by_its_name() {
        let named = |name: &str| NamedRoster::of(name).map(|it| (it.mailbox_id, it.nth));
        assert_eq!(named("7.roster"), Some((7, 1)));
        assert_eq!(named("7.roster.12"), Some((7, 12)));
        for other in ["7.rosters", "7.roster.", "7.cursors.0", "x.roster", "7", "7.roster.x"] {
            assert_eq!(named(other), None, "{other}");
        }
    }

    /// A daemon has died when it had noted that nobody has the mailbox open, and before it had told anybody.
    #[test]
    fn whoever_has_regions_of_a_mailbox_that_was_put_away_is_told() {
        let name = MailboxName::new("left").unwrap();
        let attributes = MailboxAttributes::default();
        let ownership = Ownership { uid: 7, gid: 7, mode: 0o600 };
        let mailbox = Mailbox::new(3, name, attributes, ownership, &[], 0);
        let backstage = Backstage::new(Store::none());
        let regions = MailboxRegions::create(&mailbox, &backstage).unwrap();
        let sender = Identity { pid: 9, uid: 7, gid: 7 };
        let ticket = LaneTicket { index: 2, generation: 5 };
        let lane = LaneInfo {
            ticket,
            capacity_bytes: 4096,
            first_position: 0,
            doorstep: 0,
            sender,
            priority: 0,
            predecessor: None,
            dead_letter: None,
            only_for: None,
        };
        regions.show(&Show::LaneState(lane, SlotState::Active));
        let (group, slot) = (0, 1);
        regions.show(&Show::ReceiverState { group, slot, state: SlotState::Active });
        let mut found = Found::default();
        let files = [&regions.roster.0, &regions.doorsteps[0].0];
        for file in files {
            let kept = Rc::new(backstage.store.keep(&[file.as_fd()]).unwrap());
            found.add(file.name().to_owned(), file.as_fd().try_clone_to_owned().unwrap(), kept);
        }
        let [named] = &found.rosters()[..] else { panic!("one roster") };
        let header = &regions.roster().header;
        let changes = header.changes.load(Ordering::Relaxed);
        let freed = &regions.doorsteps[0].1.freed[2];
        MailboxRegions::show_put_away(named, &found, &backstage, Traffic::Closed);
        let status = regions.roster().lanes[2].status.load(Ordering::Relaxed);
        let expected = LaneStatus { generation: 5, state: SlotState::Free };
        assert_eq!(LaneStatus::from_word(status), expected);
        let state = regions.roster().receivers[1].state.load(Ordering::Relaxed);
        assert_eq!(SlotState::from_word(state), SlotState::Free);
        assert_eq!(header.traffic.load(Ordering::Relaxed), Traffic::Closed as u32);
        assert_ne!(header.changes.load(Ordering::Relaxed), changes);
        assert_ne!(freed.load(Ordering::Relaxed), 0, "whoever sleeps there is woken");
    }
}
