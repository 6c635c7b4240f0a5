//! Further lanes of a sender that is in already: one a priority, and a larger one where a lane has grown.

use libipc::lane::layout::{
    LANE_CAPACITY_BYTES_MAX, LANE_CAPACITY_BYTES_MIN, PRIORITIES, lane_file_bytes,
};
use libipc::protocol::{Buffering, LaneInfo, LaneTicket, Refusal};

use super::link::{LinkKey, LinkRole};
use super::mailbox::{LaneWish, Mailbox};
use super::quota::lane_usage;
use super::{Registry, no_session};

impl Registry {
    /// The mailbox to which a link sends.
    ///
    /// # Errors
    /// [`Refusal::NoSuchLink`], [`Refusal::Deleted`].
    pub fn sent_to(&self, link: LinkKey, wanted: &str) -> Result<&Mailbox, Refusal> {
        let found = self.link(link.0, link.1, wanted)?;
        if found.role != LinkRole::Send {
            return Err(Refusal::NoSuchLink { link: link.1, wanted: wanted.into() });
        }
        self.mailbox(found.mailbox_id).ok_or_else(no_session)
    }

    /// A lane that a link's sender writes.
    ///
    /// # Errors
    /// [`Refusal::NoSuchLink`], [`Refusal::Deleted`].
    pub fn own_lane(&self, link: LinkKey, lane: LaneTicket) -> Result<LaneInfo, Refusal> {
        let mailbox = self.sent_to(link, "write a lane")?;
        let found = mailbox.lanes_of(link).find(|slot| slot.info.ticket == lane);
        let wanted = || format!("write lane {} of generation {}", lane.index, lane.generation);
        found
            .map(|slot| slot.info)
            .ok_or_else(|| Refusal::NoSuchLink { link: link.1, wanted: wanted() })
    }

    /// Gives a sender a further lane. One that it replaces is its until [`Mailbox::retire_lane`].
    ///
    /// # Errors
    /// Not a sender's link, closed, a value out of range, a mailbox whose lanes do not grow, full, over quota.
    pub fn add_lane(&mut self, link: LinkKey, wish: LaneWish) -> Result<LaneInfo, Refusal> {
        let mailbox = self.sent_to(link, "add a lane")?;
        check_wish(mailbox, &wish)?;
        match wish.predecessor {
            Some(predecessor) => {
                let replaced = self.own_lane(link, predecessor)?;
                if replaced.priority != wish.priority {
                    let allowed = format!("{}, as of the lane that it replaces", replaced.priority);
                    return Err(invalid("priority", wish.priority.into(), allowed));
                }
            }
            None if mailbox.lanes_of(link).any(|slot| slot.info.priority == wish.priority) => {
                let allowed = "one of which this sender has no lane yet".to_owned();
                return Err(invalid("priority", wish.priority.into(), allowed));
            }
            None => {}
        }
        mailbox.check_lane_room()?;
        let id = mailbox.id;
        let sender = mailbox.senders().get(&link).ok_or_else(no_session)?.identity;
        let payer = mailbox.payer_of(sender.uid);
        self.quotas.charge(payer, lane_usage(lane_file_bytes(wish.capacity_bytes)))?;
        let mailbox = self.mailboxes.get_mut(&id).ok_or_else(no_session)?;
        // There is one: `check_lane_room` has looked.
        mailbox.add_lane(link, wish).ok_or_else(no_session)
    }

    /// Undoes an added lane whose region could not be made.
    pub fn withdraw_lane(&mut self, mailbox_id: u64, link: LinkKey, lane: &LaneInfo) {
        if let Some(mailbox) = self.mailboxes.get_mut(&mailbox_id) {
            mailbox.retire_lane(link, lane.ticket);
        }
        self.free_lane(mailbox_id, lane.ticket.index, lane.first_position, 0);
    }
}

fn check_wish(mailbox: &Mailbox, wish: &LaneWish) -> Result<(), Refusal> {
    if wish.priority >= PRIORITIES {
        return Err(invalid("priority", wish.priority.into(), format!("0 to {}", PRIORITIES - 1)));
    }
    let capacity = wish.capacity_bytes;
    let (min, max) = (LANE_CAPACITY_BYTES_MIN, LANE_CAPACITY_BYTES_MAX);
    if !capacity.is_power_of_two() || !(min..=max).contains(&capacity) {
        let allowed = format!("a power of two from {min} to {max} bytes");
        return Err(invalid("capacity", capacity, allowed));
    }
    let buffering = mailbox.attributes.buffering;
    let grows = capacity != mailbox.attributes.capacity_bytes || wish.predecessor.is_some();
    if grows && buffering != Buffering::Unbounded {
        return Err(Refusal::Incompatible {
            one: format!("a lane of {capacity} bytes"),
            other: format!("buffering {buffering}"),
            why: "only unbounded lanes grow".into(),
        });
    }
    Ok(())
}

fn invalid(attribute: &str, value: u64, allowed: String) -> Refusal {
    Refusal::InvalidAttribute { attribute: attribute.into(), value, allowed }
}
