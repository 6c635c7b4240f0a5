//! What members leave behind: a lane with messages in it, a delivery in hand. Mended here, and freed
//! once nobody needs it any more.

use libipc::lane::layout::SlotState;
use libipc::lane::position::{GRANULE_BYTES, Position};
use libipc::lane::repair::{lane_is_drained, lane_is_held, mend_slot, slot_is_idle};
use tracing::{debug, warn};

use crate::regions::MailboxRegions;
use crate::registry::Registry;
use crate::registry::link::LinkRole;
use crate::registry::mailbox::Mailbox;

/// Lanes and slots that one sweep looks at: a sweep is part of somebody's request.
const SWEEP_MAX: usize = 64;

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
            let mended = mend_slot(regions.cursors(), slot);
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
            if !lane_is_drained(regions.cursors(), index, tail) {
                return false;
            }
        }
        // What somebody holds of it stays: the slot's next lane must not be taken for this one.
        None if lane_is_held(regions.cursors(), index) => return false,
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
