//! What members leave behind: a lane with messages in it, a delivery in hand. Mended here, and freed
//! once nobody needs it any more.

use libipc::lane::layout::{Claim, Hold, SlotState};
use libipc::lane::position::{GRANULE_BYTES, Position};
use libipc::regions::Cursors;
use libipc::sync::Ordering;
use tracing::{debug, warn};

use crate::regions::MailboxRegions;
use crate::registry::Registry;
use crate::registry::link::LinkRole;
use crate::registry::mailbox::Mailbox;

/// Lanes and slots that one sweep looks at: a sweep is part of somebody's request.
const SWEEP_MAX: usize = 64;

/// What mending a slot came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mended {
    /// The receiver had nothing in hand.
    Nothing,
    /// What it had in hand is offered to the other receivers.
    Offered,
}

/// Shows the members that a link's holder is gone, and offers again what it had in hand. What the
/// link held is `Gone` in the registry already; [`sweep`] frees it.
pub fn mend_member(mailbox: &Mailbox, regions: &mut MailboxRegions, role: LinkRole) {
    match role {
        LinkRole::Send { lane } => {
            let Some(slot) = mailbox.lanes().get(usize::from(lane.index)) else { return };
            regions.set_lane_state(&slot.info, SlotState::Gone);
            if let Some(lane) = regions.lane_mut(lane.index) {
                lane.last_tail = Some(lane.tail());
            }
        }
        LinkRole::Receive { slot } => {
            regions.clear_sleeping(slot);
            regions.set_receiver_state(slot, SlotState::Gone);
            let mended = mend_slot(regions.cursors(), regions.receivers_max(), slot);
            debug!(mailbox = %mailbox.name, slot, ?mended, "receiver gone");
        }
        LinkRole::Observe => {}
    }
}

/// Frees receiver slots that are idle again and lanes that have drained, of those whose members are
/// gone. Says whether anything was freed.
pub fn sweep(registry: &mut Registry, regions: &mut MailboxRegions, mailbox_id: u64) -> bool {
    let Some(mailbox) = registry.mailbox_mut(mailbox_id) else { return false };
    let mut freed = false;
    let slots: Vec<u16> = mailbox.gone_receivers().take(SWEEP_MAX).collect();
    for slot in slots {
        if slot_is_idle(regions.cursors(), slot) {
            mailbox.free_receiver(slot, regions.received(slot));
            regions.clear_receiver_bits(slot);
            regions.set_receiver_state(slot, SlotState::Free);
            freed = true;
        }
    }
    let lanes: Vec<u16> = mailbox.gone_lanes().take(SWEEP_MAX).collect();
    for lane in lanes {
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
    let (tail, claimed, sent) = (lane.tail(), regions.claimed(index), lane.sent());
    let queued = queued_granules(tail, claimed, slot.info.capacity_bytes);
    match queued {
        Some(_) => {
            if !lane_is_drained(regions.cursors(), regions.receivers_max(), index, tail) {
                return false;
            }
        }
        None => warn!(
            mailbox = %mailbox.name, lane = index, sender = %slot.info.sender,
            tail = tail.get(), claim = claimed.get(),
            "freed a corrupt lane: its tail does not fit what receivers have claimed"
        ),
    }
    regions.set_lane_state(&slot.info, SlotState::Free);
    regions.remove_lane(index);
    registry.free_lane(mailbox_id, index, claimed.get(), sent);
    true
}

/// Granules that lie unclaimed in a lane; `None` if the two positions cannot be true together.
#[must_use]
pub fn queued_granules(tail: Position, claimed: Position, capacity_bytes: u64) -> Option<u64> {
    let queued = u64::try_from(tail.since(claimed)).ok()?;
    (queued <= capacity_bytes / GRANULE_BYTES as u64).then_some(queued)
}

/// Mends what receiver `slot` left: what it owned is offered again, a mere intent is cleared.
fn mend_slot(cursors: &Cursors, slots: u16, slot: u16) -> Mended {
    release_taken(cursors, slots, slot);
    let Some(cell) = cursors.slots.get(usize::from(slot)) else { return Mended::Nothing };
    let Some(hold) = Hold::from_word(cell.hold.load(Ordering::Acquire)) else {
        return Mended::Nothing;
    };
    let Some(claim) = cursors.claims.get(usize::from(hold.lane)) else {
        cell.hold.store(Hold::IDLE, Ordering::Release);
        return Mended::Nothing;
    };
    let claim = Claim::from_word(claim.claim.load(Ordering::SeqCst));
    let again = Hold::from_word(cell.hold.load(Ordering::SeqCst));
    let confirmed = again.is_some_and(|hold| hold.confirmed);
    if confirmed || (claim.winner == Some(slot) && claim.position.since(hold.position) > 0) {
        let (word, bit) = (usize::from(slot / 64), 1 << (slot % 64));
        if let Some(offered) = cursors.header.offered.get(word) {
            offered.fetch_or(bit, Ordering::Release);
        }
        return Mended::Offered;
    }
    cell.hold.store(Hold::IDLE, Ordering::Release);
    Mended::Nothing
}

/// Offers again what a receiver had taken over from another that died before it.
fn release_taken(cursors: &Cursors, slots: u16, taker: u16) {
    for slot in 0..slots {
        let Some(cell) = cursors.slots.get(usize::from(slot)) else { return };
        let taken = u32::from(taker) + 1;
        if cell.taker.compare_exchange(taken, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            && cell.hold.load(Ordering::Acquire) != Hold::IDLE
        {
            let (word, bit) = (usize::from(slot / 64), 1 << (slot % 64));
            if let Some(offered) = cursors.header.offered.get(word) {
                offered.fetch_or(bit, Ordering::Release);
            }
        }
    }
}

/// Nothing is held in the slot and nobody is taking it over.
fn slot_is_idle(cursors: &Cursors, slot: u16) -> bool {
    cursors.slots.get(usize::from(slot)).is_none_or(|cell| {
        cell.hold.load(Ordering::Acquire) == Hold::IDLE && cell.taker.load(Ordering::Acquire) == 0
    })
}

/// All of a lane is claimed and nobody holds any of it.
fn lane_is_drained(cursors: &Cursors, slots: u16, lane: u16, tail: Position) -> bool {
    let Some(claim) = cursors.claims.get(usize::from(lane)) else { return true };
    let claim = Claim::from_word(claim.claim.load(Ordering::SeqCst));
    let held = cursors.slots.iter().take(slots.into()).any(|cell| {
        Hold::from_word(cell.hold.load(Ordering::SeqCst)).is_some_and(|hold| hold.lane == lane)
    });
    claim.position == tail && !held
}
