//! What members leave behind: a lane with messages in it, a delivery in hand. Mended here, and freed
//! once nobody needs it any more.

use libipc::lane::layout::SlotState;
use libipc::lane::position::{Position, granules_of};
use libipc::lane::repair::{
    Held, discard_slot, held_by_gone, lane_is_drained, lane_is_held, mend_slot, slot_is_idle,
};
use libipc::lane::tidy;
use libipc::protocol::{LaneInfo, LaneTicket};
use tracing::{debug, warn};

use crate::regions::MailboxRegions;
use crate::registry::dead_letter::Freeing;
use crate::registry::link::LinkRole;
use crate::registry::mailbox::Mailbox;
use crate::registry::{Ended, Registry};

/// Lanes, and slots of each group, that one sweep looks at: a sweep is part of somebody's request.
const SWEEP_MAX: usize = 64;

/// Shows the members that a link's holder is gone. What the link held is `Gone` in the registry already; what a receiver had
/// in hand is [`mend_slot_of`]'s, and [`sweep`] frees what nobody needs any more.
pub fn show_member_gone(mailbox: &Mailbox, regions: &mut MailboxRegions, ended: &Ended) {
    match ended.role {
        LinkRole::Send => {
            for &lane in &ended.lanes {
                show_gone(mailbox, regions, lane);
            }
        }
        LinkRole::Receive { group, slot } => {
            regions.clear_sleeping(group, slot);
            regions.set_receiver_state(group, slot, SlotState::Gone);
            regions.leave_line(group, slot);
        }
        LinkRole::Observe => {}
    }
}

/// Shows the members that a lane gets no more messages.
pub fn show_gone(mailbox: &Mailbox, regions: &mut MailboxRegions, lane: LaneTicket) {
    let Some(slot) = mailbox.lane(lane) else { return };
    regions.set_lane_state(&slot.info, SlotState::Gone);
    if let Some(lane) = regions.lane_mut(lane.index) {
        lane.last_tail = Some(lane.tail());
    }
}

/// Offers again what a receiver that is gone has in its slot, or counts it as dropped where nothing comes twice.
pub fn mend_slot_of(mailbox: &mut Mailbox, regions: &MailboxRegions, group: u8, slot: u16) {
    let Some(cursors) = regions.cursors(group) else { return };
    if mailbox.drops_oldest(group) {
        // What its receivers get they get at most once: it may have been in hand.
        let held = held_by_gone(cursors, slot);
        match held {
            Some(held) => drop_held(mailbox, regions, (group, slot), &held),
            None => discard_slot(cursors, slot),
        }
        debug!(mailbox = %mailbox.name, group, slot, dropped = held.is_some(), "receiver gone");
    } else if mailbox.frees_of_gone(group, slot) {
        regions.mend_later(group, slot);
    } else {
        let mended = mend_slot(cursors, slot);
        debug!(mailbox = %mailbox.name, group, slot, ?mended, "receiver gone");
    }
}

/// Puts right what no receiver that is there has written, and none could mend: somebody may have left it who was not
/// honest. Says whether there was anything.
pub fn tidy(mailbox: &mut Mailbox, regions: &MailboxRegions) -> bool {
    let mut anything = false;
    for group in 0..mailbox.groups().len() as u8 {
        let (Some(cursors), Some(table)) =
            (regions.cursors(group), mailbox.groups().get(usize::from(group)))
        else {
            continue;
        };
        let gone = (0u16..).zip(table.slots()).filter(|(_, it)| it.state == SlotState::Gone);
        let mended = |&slot: &u16| !table.is_held_back(slot) && !mailbox.frees_of_gone(group, slot);
        for slot in gone.map(|(slot, _)| slot).filter(mended) {
            // Once more, should somebody have written there since: it does no harm.
            if mailbox.drops_oldest(group) {
                discard_slot(cursors, slot);
            } else {
                mend_slot(cursors, slot);
            }
        }
        let state = |slot: u16| {
            table.slots().get(usize::from(slot)).map_or(SlotState::Free, |slot| slot.state)
        };
        let granules = |lane: u16| {
            let slot = mailbox.lanes().get(usize::from(lane));
            let there = slot.filter(|slot| slot.state != SlotState::Free);
            there.map(|slot| granules_of(slot.info.capacity_bytes))
        };
        let tidied = tidy::tidy(cursors, state, granules);
        if tidied.anything {
            warn!(mailbox = %mailbox.name, group, lost = tidied.lost, "put right what no honest receiver leaves");
        }
        if let Some(table) = mailbox.group_mut(group).filter(|_| tidied.lost > 0) {
            table.dropped = table.dropped.saturating_add(tidied.lost);
            regions.publish_dropped(mailbox);
        }
        anything |= tidied.anything;
    }
    anything
}

/// Counts what a slot holds as dropped, and frees it once the state has that.
fn drop_held(
    mailbox: &mut Mailbox,
    regions: &MailboxRegions,
    (group, slot): (u8, u16),
    held: &Held,
) {
    let Some(table) = mailbox.group_mut(group) else { return };
    table.dropped = table.dropped.saturating_add(1);
    let (lane, at, next) = (held.lane, held.from.get(), held.end.get());
    let freeing = Freeing { group, slot, lane, at, next, fate: None, gone: true };
    mailbox.freeing.push(freeing);
    regions.free_later(freeing);
}

/// Frees receiver slots that are idle again and lanes that have drained, of those whose members are
/// gone. Says whether anything was freed.
pub fn sweep(registry: &mut Registry, regions: &mut MailboxRegions, mailbox_id: u64) -> bool {
    let Some(mailbox) = registry.mailbox_mut(mailbox_id) else { return false };
    let mut freed = false;
    for (group, table) in mailbox.groups_mut() {
        let Some(cursors) = regions.cursors(group) else { continue };
        for slot in table.next_gone(SWEEP_MAX) {
            if slot_is_idle(cursors, slot) {
                table.free(slot, regions.received(group, slot));
                regions.set_receiver_state(group, slot, SlotState::Free);
                freed = true;
            }
        }
    }
    for lane in mailbox.next_gone_lanes(SWEEP_MAX) {
        freed |= free_lane_if_drained(registry, regions, mailbox_id, lane);
    }
    freed
}

/// Frees the lane of a sender that is gone, if nothing in it is left to be taken.
pub fn free_lane_if_drained(
    registry: &mut Registry,
    regions: &mut MailboxRegions,
    mailbox_id: u64,
    index: u16,
) -> bool {
    let Some(mailbox) = registry.mailbox(mailbox_id) else { return false };
    let Some(slot) = mailbox.lanes().get(usize::from(index)) else { return false };
    let Some(lane) = regions.lane(index).filter(|_| slot.state == SlotState::Gone) else {
        return false;
    };
    let (info, sent) = (slot.info, lane.sent());
    let end = match drained(regions, &info) {
        Drained::No => return false,
        Drained::Yes { at } => at,
        Drained::Corrupt { at } => {
            warn!(
                mailbox = %mailbox.name, lane = index, sender = %info.sender,
                tail = lane.tail().get(), claim = at.get(),
                "freed a corrupt lane: its tail does not fit what receivers have claimed"
            );
            at
        }
    };
    let next_position = behind_claims(regions, index, end);
    regions.set_lane_state(&info, SlotState::Free);
    regions.remove_lane(index);
    registry.free_lane(mailbox_id, index, next_position.get(), sent);
    true
}

/// Where the next lane of a slot begins: behind where this one ended, and where no group's claim is. A receiver may have
/// read that claim just now, and what its sender had published then; it is not to move the next lane's by it.
fn behind_claims(regions: &MailboxRegions, index: u16, end: Position) -> Position {
    let groups = (0u8..).zip(regions.all_cursors());
    let claims: Vec<_> = groups.map(|(group, _)| regions.claimed(group, index)).collect();
    let mut next = end.advance(1);
    // Ends: there are fewer groups than positions.
    while claims.contains(&next) {
        next = next.advance(1);
    }
    next
}

/// Whether nothing of a mailbox is left to be taken, by any group, and nothing is in hand.
#[must_use]
pub fn is_drained(mailbox: &Mailbox, regions: &MailboxRegions) -> bool {
    let mut lanes = mailbox.lanes().iter().filter(|slot| slot.state != SlotState::Free);
    lanes.all(|slot| drained(regions, &slot.info) != Drained::No)
}

/// What is left in a lane.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Drained {
    /// Something is queued for some group, or in hand.
    No,
    /// Nothing, up to here.
    Yes { at: Position },
    /// Its tail and some group's claim cannot be true together: nobody can read on. Nothing is in hand.
    Corrupt { at: Position },
}

fn drained(regions: &MailboxRegions, lane: &LaneInfo) -> Drained {
    let index = lane.ticket.index;
    let Some(tail) = regions.lane(index).map(|lane| lane.tail()) else {
        return Drained::Yes { at: regions.claimed(0, index) };
    };
    let mut corrupt = None;
    for (group, cursors) in (0u8..).zip(regions.all_cursors()) {
        let claimed = regions.claimed(group, index);
        let left = match queued_granules(tail, claimed, lane.capacity_bytes) {
            Some(_) => !lane_is_drained(cursors, index, tail),
            // What somebody holds of it stays: the slot's next lane must not be taken for this one.
            None => {
                corrupt = Some(claimed);
                lane_is_held(cursors, index)
            }
        };
        if left {
            return Drained::No;
        }
    }
    corrupt.map_or(Drained::Yes { at: tail }, |at| Drained::Corrupt { at })
}

/// Granules that lie unclaimed in a lane; `None` if the two positions cannot be true together.
#[must_use]
pub fn queued_granules(tail: Position, claimed: Position, capacity_bytes: u64) -> Option<u64> {
    let queued = u64::try_from(tail.since(claimed)).ok()?;
    (queued <= granules_of(capacity_bytes)).then_some(queued)
}
