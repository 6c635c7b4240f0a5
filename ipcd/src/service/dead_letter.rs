//! Messages that nobody can deal with: put among the dead letters, put back, thrown away.
//!
//! `ipcd` alone moves them, since a lane has one writer. A message is copied first; that it is to be freed is written
//! down with the copy ([`Freeing`]), and only then its fate is written where its sender looks, and it is freed: so at every
//! moment it is somewhere, and if the daemon dies its successor goes on where it was.
//!
//! What a receiver dies with may be thousands of messages. They are ended some at a time; until the last is, the slot holds
//! the others, offers nothing and is given to nobody. So a successor finds in the slots themselves what is left to do.

use libipc::lane::fate::Fate;
use libipc::lane::layout::SlotState;
use libipc::lane::position::{Position, granules_of};
use libipc::lane::record::RecordHeader;
use libipc::lane::repair::{Held, drop_through, held_by, held_by_gone};
use libipc::lane::withdraw::is_to_be_handed_out;
use libipc::protocol::{
    Answer, LaneInfo, LaneTicket, MailboxName, OnDeath, Reason, Refusal, Request, Role,
};
use tracing::{info, warn};

use super::{Asker, Reply, Service, missing, resources};
use crate::registry::dead_letter::{Freeing, Message};
use crate::registry::link::LinkRole;
use crate::registry::mailbox::Mailbox;
use crate::repair;

/// Records of one dead receiver that are ended in one step, and granules of them: others are served between two steps.
const A_STEP_MAX: usize = 64;
const A_STEP_GRANULES_MAX: i64 = 1 << 16;
/// Steps of one end: more than the longest batch takes, of records or of granules.
const STEPS_MAX: u32 = 512;
/// Dead letters that one request puts back or throws away.
const A_REQUEST_MAX: usize = 256;

/// How a record ends that nobody acknowledges.
#[derive(Clone, Copy, Debug)]
enum End {
    Bury(Reason),
    Drop,
}

/// What somebody holds.
#[derive(Clone, Copy, Debug)]
struct InHand {
    mailbox: u64,
    group: u8,
    slot: u16,
    held: Held,
    /// Whoever holds it is gone.
    gone: bool,
}

/// What is done with dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Move {
    Requeue,
    Discard,
}

/// A receiver's slot: mailbox, group and slot.
type Slot = (u64, u8, u16);

/// Of whose receiver more is to end, which is gone, and how many steps it has taken.
#[derive(Debug)]
pub(super) struct Place {
    slot: Slot,
    steps: u32,
}

impl Service {
    /// Makes a dead letter of what a receiver has in hand, and frees it on its behalf.
    pub(super) fn reject(
        &mut self,
        asker: &Asker<'_>,
        link: u32,
        lane: LaneTicket,
        position: u64,
        reason: Reason,
    ) -> Result<Reply, Refusal> {
        let found = self.registry.link(asker.session, link, "reject a message")?;
        let LinkRole::Receive { group, slot } = found.role else {
            return Err(Refusal::NoSuchLink { link, wanted: "reject a message".into() });
        };
        let id = found.mailbox_id;
        let mailbox = self.registry.mailbox(id).ok_or_else(missing)?;
        if mailbox.dead_letters_of.is_some() {
            return Err(Refusal::DeadLetters { name: mailbox.name.to_string() });
        }
        if mailbox.lane(lane).is_none() || mailbox.drops_oldest(group) {
            return Err(Refusal::NotInHand);
        }
        let cursors = self.regions.get(&id).and_then(|regions| regions.cursors(group));
        let held = cursors.and_then(|cursors| held_by(cursors, slot));
        let named = |held: &Held| held.lane == lane.index && held.from.get() == position;
        let held = held.filter(named).ok_or(Refusal::NotInHand)?;
        self.end_first(InHand { mailbox: id, group, slot, held, gone: false }, End::Bury(reason))?;
        Ok(Answer::Done.into())
    }

    /// Ends what a receiver that is gone had in hand, as far as it is not to be offered to others: a step of it. The others go
    /// on meanwhile, and the rest is offered once the last step is done.
    pub(super) fn end_what_is_in_hand(&mut self, (id, group, slot): Slot, steps: u32) {
        // An honest receiver has not more: somebody else writes in its place.
        let more = self.end_some(id, group, slot) && steps < STEPS_MAX;
        if let Some(table) = self.registry.mailbox_mut(id).and_then(|it| it.group_mut(group)) {
            table.hold_back(slot, more);
        }
        if more {
            self.ending.push_back(Place { slot: (id, group, slot), steps: steps + 1 });
        } else if let Some(mailbox) = self.registry.mailbox_mut(id)
            && let Some(regions) = self.regions.get(&id)
        {
            repair::mend_slot_of(mailbox, regions, group, slot);
            if !mailbox.freeing.is_empty() {
                self.freeing.insert(id);
            }
        }
    }

    /// Whether there is more of that to do.
    #[must_use]
    pub fn has_more_to_do(&self) -> bool {
        !self.ending.is_empty() || !self.sweeping.is_empty()
    }

    /// Does a step more of it, for whoever's turn it is, or of what is to be swept.
    pub fn do_more(&mut self) {
        if let Some(Place { slot, steps }) = self.ending.pop_front() {
            self.end_what_is_in_hand(slot, steps);
            self.tell(slot.0);
        } else if let Some(mailbox_id) = self.sweeping.pop_first() {
            self.sweep(mailbox_id);
        } else {
            return;
        }
        self.settle();
    }

    /// Goes on where a predecessor was: with what receivers that are gone hold still, and nobody is offered.
    pub fn find_more_to_do(&mut self) {
        let mut found = Vec::new();
        for id in self.registry.mailbox_ids() {
            let (Some(mailbox), Some(regions)) = (self.registry.mailbox(id), self.regions.get(&id))
            else {
                continue;
            };
            for (group, table) in (0u8..).zip(mailbox.groups()) {
                let Some(cursors) = regions.cursors(group) else { continue };
                let gone = (0u16..).zip(table.slots());
                let gone = gone.filter(|(_, slot)| slot.state == SlotState::Gone);
                let held = gone.filter(|&(slot, _)| held_by_gone(cursors, slot).is_some());
                found.extend(held.map(|(slot, _)| (id, group, slot)));
            }
        }
        for &(id, group, slot) in &found {
            if let Some(table) = self.registry.mailbox_mut(id).and_then(|it| it.group_mut(group)) {
                table.hold_back(slot, true);
            }
        }
        self.ending = found.into_iter().map(|slot| Place { slot, steps: 0 }).collect();
    }

    /// Whether a request is to wait: for the place of a receiver whose end is not done with yet.
    #[must_use]
    pub fn is_to_wait(&self, request: &Request) -> bool {
        let Request::Open { name, role: Role::Receive, .. } = request else { return false };
        let id = self.registry.find(name).map(|mailbox| mailbox.id);
        id.is_ok_and(|id| self.ending.iter().any(|place| place.slot.0 == id))
    }

    /// Ends some of what a receiver that is gone had in hand; says whether there is more to be ended.
    fn end_some(&mut self, id: u64, group: u8, slot: u16) -> bool {
        let Some(mailbox) = self.registry.mailbox(id).filter(|it| !it.drops_oldest(group)) else {
            return false;
        };
        let cursors = self.regions.get(&id).and_then(|regions| regions.cursors(group));
        let held = cursors.and_then(|cursors| held_by_gone(cursors, slot));
        let Some(held) = held else { return false };
        let (attributes, name) = (&mailbox.attributes, mailbox.name.clone());
        let again = attributes.max_attempts == 0 || held.hand_outs < attributes.max_attempts;
        let end = match attributes.on_death {
            // Claimed with others, and never handed out.
            _ if held.hand_outs == 0 => return false,
            OnDeath::Redeliver if again => return false,
            OnDeath::Redeliver => End::Bury(Reason::Attempts),
            OnDeath::DeadLetter => End::Bury(Reason::Death),
            OnDeath::Drop => End::Drop,
        };
        let mut in_hand = InHand { mailbox: id, group, slot, held, gone: true };
        let mut granules = 0;
        for _ in 0..A_STEP_MAX {
            let next = match self.end_first(in_hand, end) {
                Ok(next) => next,
                Err(refusal) => {
                    warn!(mailbox = %name, group, slot, %refusal, "no dead letter: offered again");
                    return false;
                }
            };
            if held.handed_out_end.since(next) <= 0 {
                return false;
            }
            granules += next.since(in_hand.held.from);
            in_hand.held.from = next;
            if granules > A_STEP_GRANULES_MAX {
                break;
            }
        }
        true
    }

    /// Ends the first record of what a slot holds: it is freed once the state has this. Says where it ends.
    fn end_first(&mut self, in_hand: InHand, end: End) -> Result<Position, Refusal> {
        let InHand { mailbox: id, group, slot, held, gone } = in_hand;
        let mailbox = self.registry.mailbox(id).ok_or_else(missing)?;
        let regions = self.regions.get(&id).ok_or_else(missing)?;
        let lane = mailbox.lanes().get(usize::from(held.lane)).ok_or(Refusal::NotInHand)?;
        let file = regions.lane(held.lane).ok_or(Refusal::NotInHand)?;
        let at = held.from;
        let header = file.header(at).map_err(io("read a message"))?;
        let word = header.word();
        let next = at.advance(word.granules());
        let room = granules_of(lane.info.capacity_bytes);
        // What the receiver alleges to hold may be no record at all.
        if word.granules() > room || held.end.since(next) < 0 {
            return Err(Refusal::NotInHand);
        }
        let again = || file.header(at).map_or(word, RecordHeader::word);
        // A receiver that died may not have got so far as to ask.
        let withdrawn =
            word.is_marked() && !is_to_be_handed_out(regions.verdict(held.lane), at, word, again);
        if let (false, End::Bury(reason)) = (withdrawn, end) {
            let LaneInfo { sender, priority, .. } = lane.info;
            let message = Message { sender, priority, len: word.message_len() as u64 };
            self.bury(in_hand, message, header, reason)?;
        }
        let fate = match end {
            _ if withdrawn => None,
            End::Bury(_) => Some(Fate::DeadLettered),
            End::Drop => Some(Fate::Dropped),
        };
        let mailbox = self.registry.mailbox_mut(id).ok_or_else(missing)?;
        let table = mailbox.group_mut(group).ok_or_else(missing)?;
        let count = match end {
            End::Bury(_) => &mut table.dead_lettered,
            End::Drop => &mut table.dropped,
        };
        *count = count.saturating_add(u64::from(!withdrawn));
        let (lane, at, next_at) = (held.lane, at.get(), next.get());
        let freeing = Freeing { group, slot, lane, at, next: next_at, fate, gone };
        mailbox.freeing.push(freeing);
        let regions = self.regions.get(&id).ok_or_else(missing)?;
        regions.publish_dropped(mailbox);
        regions.free_later(freeing);
        self.freeing.insert(id);
        Ok(next)
    }

    /// What was to be freed is: whatever has waited for that goes, a slot, a lane, a mailbox that was to be drained. Says whether
    /// there was anything.
    pub(super) fn has_freed(&mut self) -> bool {
        let freed = std::mem::take(&mut self.freeing);
        for &id in &freed {
            if let Some(mailbox) = self.registry.mailbox_mut(id) {
                mailbox.freeing.clear();
            }
            self.sweep(id);
        }
        !freed.is_empty()
    }

    /// Copies the first record of what a slot holds to the dead letters.
    fn bury(
        &mut self,
        in_hand: InHand,
        message: Message,
        header: RecordHeader,
        reason: Reason,
    ) -> Result<(), Refusal> {
        let InHand { mailbox: id, group, held, .. } = in_hand;
        let dead = self.dead_letters_for(id)?;
        let attempts = held.hand_outs.max(1);
        let lane = self.registry.add_dead_letter(dead, message, reason, attempts, group)?;
        let file = self.regions.get(&id).and_then(|regions| regions.lane(held.lane));
        let read = file.ok_or_else(missing).and_then(|file| {
            let payload = file.payload(held.from, header.word(), message.len as usize);
            payload.map_err(io("read a message"))
        });
        let made = read.and_then(|bytes| self.write_letter(dead, &lane, header.stamp, &bytes));
        if let Err(refusal) = made {
            self.withdraw_letter(dead, &lane);
            return Err(refusal);
        }
        self.publish_letter(dead, &lane);
        self.show_letters(dead);
        let name = self.registry.mailbox(id).map(|mailbox| mailbox.name.to_string());
        info!(mailbox = name, sender = %message.sender, %reason, attempts, "dead letter");
        Ok(())
    }

    /// The mailbox for a mailbox's dead letters; made if need be.
    pub(super) fn dead_letters_for(&mut self, id: u64) -> Result<u64, Refusal> {
        let (dead, is_new) = self.registry.dead_letters_for(id)?;
        if is_new {
            self.settle_fences(dead);
        }
        Ok(dead)
    }

    /// Makes the file of a lane with one message, of which nobody knows yet.
    fn write_letter(
        &mut self,
        id: u64,
        lane: &LaneInfo,
        stamp: u64,
        message: &[u8],
    ) -> Result<(), Refusal> {
        let regions = self.regions_in_use(id)?;
        regions.add_lane(lane).map_err(resources)?;
        let file = regions.lane(lane.ticket.index).ok_or_else(missing)?;
        let first = Position::new(lane.first_position);
        file.write_only(first, stamp, message).map_err(io("write a message"))
    }

    fn withdraw_letter(&mut self, id: u64, lane: &LaneInfo) {
        if let Some(regions) = self.regions.get_mut(&id) {
            regions.remove_lane(lane.ticket.index);
        }
        self.registry.free_lane(id, lane.ticket.index, lane.first_position, 0);
    }

    /// Lets the members see a lane with one message.
    fn publish_letter(&mut self, id: u64, lane: &LaneInfo) {
        let mailbox = self.registry.mailbox_mut(id);
        let (Some(mailbox), Some(regions)) = (mailbox, self.regions.get_mut(&id)) else { return };
        for (group, table) in mailbox.groups_mut() {
            if lane.only_for.is_some_and(|only| only != group) {
                // As if it had received it.
                table.retired_received = table.retired_received.saturating_add(1);
            }
        }
        regions.publish_lane(lane);
        repair::show_gone(mailbox, regions, lane.ticket);
        regions.give_hint(lane);
    }

    /// Tells the receivers of new letters.
    fn show_letters(&self, id: u64) {
        if let (Some(mailbox), Some(regions)) = (self.registry.mailbox(id), self.regions.get(&id)) {
            regions.publish_counts(mailbox);
            regions.ring_bells();
        }
    }

    /// Puts dead letters back, or throws them away: those that nobody has in hand.
    pub(super) fn move_letters(
        &mut self,
        asker: &Asker<'_>,
        name: &MailboxName,
        number: Option<u64>,
        what: Move,
    ) -> Result<Reply, Refusal> {
        let wanted = match what {
            Move::Requeue => "requeue dead letters of",
            Move::Discard => "discard dead letters of",
        };
        let id = self.registry.administered(&asker.caller, name, wanted)?;
        let dead = self.registry.mailbox(id).and_then(|mailbox| mailbox.dead_letters);
        let letters = dead.and_then(|dead| self.registry.mailbox(dead));
        let letters = letters.map(|mailbox| mailbox.letters(number)).unwrap_or_default();
        let (mut moved, mut end) = (0, Ok(()));
        for (letter, lane) in letters.iter().take(A_REQUEST_MAX) {
            let Some(dead) = dead else { break };
            let done = match what {
                Move::Requeue => self.requeue(id, dead, lane, letter.group),
                Move::Discard => Ok(self.take_letter(dead, lane)),
            };
            match done {
                Ok(done) => moved += u64::from(done),
                Err(refusal) => {
                    end = Err(refusal);
                    break;
                }
            }
        }
        if let Some(dead) = dead.filter(|_| moved > 0) {
            info!(mailbox = %name, moved, ?what, by = %asker.caller.identity, "dead letters");
            self.show_letters(dead);
            self.show_letters(id);
        }
        match (end, number) {
            (Err(refusal), _) if moved == 0 => Err(refusal),
            (_, Some(number)) if moved == 0 => {
                Err(Refusal::NoSuchDeadLetter { name: name.to_string(), number })
            }
            _ => Ok(Answer::Moved { moved, more: letters.len() > A_REQUEST_MAX }.into()),
        }
    }

    /// Puts a dead letter back into its mailbox; false if somebody has it.
    fn requeue(
        &mut self,
        id: u64,
        dead: u64,
        letter: &LaneInfo,
        group: u8,
    ) -> Result<bool, Refusal> {
        let file = self.regions.get(&dead).and_then(|it| it.lane(letter.ticket.index));
        let file = file.ok_or_else(missing)?;
        let at = Position::new(letter.first_position);
        let header = file.header(at).map_err(io("read a dead letter"))?;
        let bytes = file.payload(at, header.word(), header.len as usize);
        let bytes = bytes.map_err(io("read a dead letter"))?;
        let LaneInfo { sender, priority, .. } = *letter;
        let message = Message { sender, priority, len: bytes.len() as u64 };
        let lane = self.registry.add_requeued(id, message, group)?;
        if let Err(refusal) = self.write_letter(id, &lane, header.stamp, &bytes) {
            self.withdraw_letter(id, &lane);
            return Err(refusal);
        }
        let ours = self.take_letter(dead, letter);
        if ours {
            self.publish_letter(id, &lane);
        } else {
            self.withdraw_letter(id, &lane);
        }
        Ok(ours)
    }

    /// Takes a dead letter out, as a receiver would that acknowledges it; false if somebody has it.
    fn take_letter(&mut self, dead: u64, letter: &LaneInfo) -> bool {
        let index = letter.ticket.index;
        let Some(regions) = self.regions.get_mut(&dead) else { return false };
        let Some(tail) = regions.lane(index).map(|file| file.tail()) else { return false };
        let Some(cursors) = regions.cursors(0) else { return false };
        if !drop_through(cursors, index, Position::new(letter.first_position), tail) {
            return false;
        }
        if let Some(table) = self.registry.mailbox_mut(dead).and_then(|it| it.group_mut(0)) {
            table.retired_received = table.retired_received.saturating_add(1);
        }
        repair::free_lane_if_drained(&mut self.registry, regions, dead, index);
        true
    }
}

fn io(step: &'static str) -> impl FnOnce(std::io::Error) -> Refusal {
    move |error| Refusal::Resources { step: step.into(), error: error.to_string() }
}

/// How many dead letters a mailbox has.
#[must_use]
pub fn count_letters(service: &Service, mailbox: &Mailbox) -> u64 {
    let dead = mailbox.dead_letters.and_then(|dead| service.registry.mailbox(dead));
    dead.map_or(0, Mailbox::lane_count)
}
