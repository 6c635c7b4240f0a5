//! What members ask of a link that they have: a further lane, room in one, that what is empty goes.

use libipc::lane::position::{POSITION_BITS, Position, granules_of};
use libipc::lane::repair::drop_through;
use libipc::protocol::{Answer, LaneInfo, LaneTicket, Refusal};
use tracing::debug;

use super::{Asker, Reply, Service, key, missing, resources};
use crate::registry::link::LinkRole;
use crate::registry::mailbox::LaneWish;
use crate::repair;

/// What a sender wants dropped for a group that is slow, as it alleges.
pub(super) struct Oldest {
    pub(super) lane: LaneTicket,
    pub(super) group: u8,
    pub(super) from: u64,
    pub(super) through: u64,
    pub(super) messages: u64,
}

impl Service {
    pub(super) fn add_lane(
        &mut self,
        asker: &Asker<'_>,
        link: u32,
        wish: LaneWish,
    ) -> Result<Reply, Refusal> {
        let key = key(asker, link);
        let id = self.registry.sent_to(key, "add a lane")?.id;
        self.sweep(id);
        let mut lane = self.registry.add_lane(key, wish)?;
        let regions = self.regions.get_mut(&id).ok_or_else(missing)?;
        if let Err(error) = regions.add_lane(&lane) {
            self.registry.withdraw_lane(id, key, &lane);
            return Err(resources(error));
        }
        let file = regions.lane(lane.ticket.index).ok_or_else(missing)?;
        let descriptors = vec![file.region().read_write()];
        regions.publish_lane(&lane);
        let mailbox = self.registry.mailbox_mut(id).ok_or_else(missing)?;
        if let Some(replaced) = wish.predecessor.and_then(|replaced| mailbox.lane(replaced))
            && let Some(file) = regions.lane(replaced.info.ticket.index)
            && file.tail() == Position::new(replaced.info.first_position)
        {
            // Nothing was ever published there, so it is freed before what it goes on from has drained: whoever
            // waited for it alone would be let past that.
            lane = mailbox.leave_out(replaced.info.ticket, lane);
        }
        if let Some(replaced) = wish.predecessor {
            mailbox.retire_lane(key, replaced);
            repair::show_gone(mailbox, regions, replaced);
            repair::free_lane_if_drained(&mut self.registry, regions, id, replaced.index);
        }
        // A sleeping receiver learns of the lane.
        let mailbox = self.registry.mailbox(id).ok_or_else(missing)?;
        regions.publish_counts(mailbox);
        regions.ring_bells();
        debug!(mailbox = %mailbox.name, ?lane, link, by = %asker.caller.identity, "lane added");
        Ok(Reply { answer: Answer::LaneAdded { lane }, descriptors })
    }

    pub(super) fn drop_oldest(
        &mut self,
        asker: &Asker<'_>,
        link: u32,
        oldest: &Oldest,
    ) -> Result<Reply, Refusal> {
        let key = key(asker, link);
        let lane = self.registry.own_lane(key, oldest.lane)?;
        let id = self.registry.sent_to(key, "drop what is oldest")?.id;
        let mailbox = self.registry.mailbox_mut(id).ok_or_else(missing)?;
        if !mailbox.drops_oldest(oldest.group) {
            return Err(mailbox.no_such_group(format!("{} that drops", oldest.group)));
        }
        let regions = self.regions.get(&id).ok_or_else(missing)?;
        let file = regions.lane(lane.ticket.index).ok_or_else(missing)?;
        let (from, through) = check_oldest(oldest, &lane, file.tail())?;
        let cursors = regions.cursors(oldest.group).ok_or_else(missing)?;
        let done = drop_through(cursors, lane.ticket.index, from, through);
        if let Some(table) = mailbox.group_mut(oldest.group).filter(|_| done) {
            table.dropped = table.dropped.saturating_add(oldest.messages);
            regions.publish_dropped(mailbox);
        }
        Ok(Answer::Dropped { done }.into())
    }

    pub(super) fn lane_drained(
        &mut self,
        asker: &Asker<'_>,
        link: u32,
        lane: LaneTicket,
    ) -> Result<Reply, Refusal> {
        let mailbox_id = self.received_from(asker, link, "report a drained lane")?;
        let mailbox = self.registry.mailbox(mailbox_id).ok_or_else(missing)?;
        if mailbox.lane(lane).is_some()
            && let Some(regions) = self.regions.get_mut(&mailbox_id)
        {
            let registry = &mut self.registry;
            if repair::free_lane_if_drained(registry, regions, mailbox_id, lane.index) {
                self.tell(mailbox_id);
            }
        }
        self.sweep(mailbox_id);
        Ok(Answer::Done.into())
    }

    pub(super) fn drained(&mut self, asker: &Asker<'_>, link: u32) -> Result<Reply, Refusal> {
        let mailbox_id = self.received_from(asker, link, "report a drained mailbox")?;
        self.sweep(mailbox_id);
        Ok(Answer::Done.into())
    }

    /// The mailbox from which a link receives.
    fn received_from(&self, asker: &Asker<'_>, link: u32, wanted: &str) -> Result<u64, Refusal> {
        let found = self.registry.link(asker.session, link, wanted)?;
        match found.role {
            LinkRole::Receive { .. } => Ok(found.mailbox_id),
            LinkRole::Send | LinkRole::Observe => {
                Err(Refusal::NoSuchLink { link, wanted: wanted.into() })
            }
        }
    }
}

/// Says whether what a sender wants dropped can lie in its lane.
fn check_oldest(
    oldest: &Oldest,
    lane: &LaneInfo,
    tail: Position,
) -> Result<(Position, Position), Refusal> {
    let invalid = |attribute: &str, value: u64, allowed: String| Refusal::InvalidAttribute {
        attribute: attribute.into(),
        value,
        allowed,
    };
    for (what, value) in [("first position", oldest.from), ("last position", oldest.through)] {
        if value >> POSITION_BITS != 0 {
            return Err(invalid(what, value, format!("{POSITION_BITS} bits")));
        }
    }
    let (from, through) = (Position::new(oldest.from), Position::new(oldest.through));
    let granules = through.since(from);
    let room = granules_of(lane.capacity_bytes);
    if granules <= 0 || granules as u64 > room || tail.since(through) < 0 {
        let allowed =
            "ahead of the first, by no more than the lane holds, and published".to_owned();
        return Err(invalid("last position", oldest.through, allowed));
    }
    // A record takes one granule at least.
    if oldest.messages == 0 || oldest.messages > granules as u64 {
        return Err(invalid("number of messages", oldest.messages, format!("1 to {granules}")));
    }
    Ok((from, through))
}
