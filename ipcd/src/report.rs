//! What `list`, `show` and `status` tell. Counters that members write are allegations: they are added
//! up with care, shown to people, and decide nothing.

use std::path::Path;

use libipc::lane::layout::{SlotState, Traffic};
use libipc::lane::position::GRANULE_BYTES;
use libipc::protocol::{
    Answer, GroupReport, Identity, MailboxDetail, MailboxName, MailboxSummary, MemberInfo, Role,
    ServerStatus,
};
use nix::sys::resource::{Resource, getrlimit};

use crate::regions::MailboxRegions;
use crate::registry::mailbox::{LaneSlot, Mailbox};
use crate::repair::queued_granules;
use crate::service::dead_letter::count_letters;
use crate::service::{Asker, Service, is_member};

/// Mailboxes in one page of a list: each takes at most some 300 bytes of the message.
const MAILBOXES_A_PAGE: usize = 128;
/// Lanes that one page of a list looks at, whatever the number of mailboxes.
const LANES_A_PAGE: usize = 4096;
/// Members in one page: each takes at most some 50 bytes of the message, and its group's name.
const MEMBERS_A_PAGE: usize = 512;
/// Bytes that the group names of one page may take.
const NAMES_A_PAGE: usize = 16 << 10;

/// What a mailbox's members' counters add up to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sent and not yet acknowledged, by the group for which that is most.
    pub queued_messages: u64,
    /// Bytes that lie unclaimed, in each lane by the group for which that is most.
    pub queued_bytes: u64,
    /// Sent.
    pub sent_messages: u64,
    /// Sent and not yet acknowledged, by each group.
    pub queued_of_groups: Vec<u64>,
}

/// Adds up the counters of a mailbox; one that is not in use has no regions, and nothing in it.
#[must_use]
pub fn count(mailbox: &Mailbox, regions: Option<&MailboxRegions>) -> Counts {
    let mut counts = Counts { sent_messages: mailbox.retired_sent, ..Counts::default() };
    for slot in mailbox.lanes().iter().filter(|slot| is_member(slot.state)) {
        let (sent, bytes) = count_lane(slot, regions);
        counts.sent_messages = counts.sent_messages.saturating_add(sent);
        counts.queued_bytes = counts.queued_bytes.saturating_add(bytes);
    }
    for (group, table) in (0u8..).zip(mailbox.groups()) {
        let slots = (0u16..).zip(table.slots()).filter(|(_, slot)| is_member(slot.state));
        let received = slots.fold(table.retired_received, |sum, (slot, _)| {
            sum.saturating_add(received(regions, group, slot))
        });
        let done = received.saturating_add(table.dropped).saturating_add(table.dead_lettered);
        let queued = counts.sent_messages.saturating_sub(done);
        counts.queued_messages = counts.queued_messages.max(queued);
        counts.queued_of_groups.push(queued);
    }
    counts
}

/// Messages sent through a lane, and bytes that lie unclaimed in it.
fn count_lane(slot: &LaneSlot, regions: Option<&MailboxRegions>) -> (u64, u64) {
    let index = slot.info.ticket.index;
    let lane = regions.and_then(|regions| Some((regions, regions.lane(index)?)));
    let Some((regions, lane)) = lane else { return (0, 0) };
    let tail = lane.tail();
    let queued = (0u8..).zip(regions.all_cursors()).filter_map(|(group, _)| {
        queued_granules(tail, regions.claimed(group, index), slot.info.capacity_bytes)
    });
    (lane.sent(), queued.max().unwrap_or(0) * GRANULE_BYTES as u64)
}

/// Messages acknowledged through a slot.
fn received(regions: Option<&MailboxRegions>, group: u8, slot: u16) -> u64 {
    regions.map_or(0, |regions| regions.received(group, slot))
}

fn summary(service: &Service, mailbox: &Mailbox, counts: &Counts) -> MailboxSummary {
    MailboxSummary {
        name: mailbox.name.clone(),
        mailbox_id: mailbox.id,
        attributes: mailbox.attributes,
        open: mailbox.traffic == Traffic::Open,
        senders: mailbox.senders().len() as u32,
        receivers: mailbox.active_receivers(),
        queued_messages: counts.queued_messages,
        queued_bytes: counts.queued_bytes,
        sent_messages: counts.sent_messages,
        dead_letters: count_letters(service, mailbox),
    }
}

/// A page of the mailboxes that the caller may see.
#[must_use]
pub fn list(service: &Service, asker: &Asker<'_>, after: Option<&MailboxName>) -> Answer {
    let mut visible = service.registry.visible(&asker.caller, after).peekable();
    let (mut mailboxes, mut lanes) = (Vec::new(), 0);
    while mailboxes.len() < MAILBOXES_A_PAGE && lanes < LANES_A_PAGE {
        let Some(mailbox) = visible.next() else { break };
        lanes += mailbox.lanes().len();
        let regions = service.regions(mailbox.id);
        mailboxes.push(summary(service, mailbox, &count(mailbox, regions)));
    }
    Answer::Listed { mailboxes, more: visible.peek().is_some() }
}

/// One mailbox, and a page of its members.
#[must_use]
pub fn show(
    service: &Service,
    mailbox: &Mailbox,
    regions: Option<&MailboxRegions>,
    skip: u32,
) -> MailboxDetail {
    let lanes = mailbox.lanes().iter().filter(|slot| is_member(slot.state)).map(|slot| {
        let (messages, queued_bytes) = count_lane(slot, regions);
        let (index, identity) = (slot.info.ticket.index, slot.info.sender);
        let alive = slot.state == SlotState::Active;
        let (priority, group) = (slot.info.priority, None);
        MemberInfo {
            role: Role::Send,
            index,
            priority,
            group,
            identity,
            alive,
            messages,
            queued_bytes,
        }
    });
    let receivers = (0u8..).zip(mailbox.groups()).flat_map(|(group, table)| {
        let slots = (0u16..).zip(table.slots()).filter(|(_, slot)| is_member(slot.state));
        slots.map(move |(index, slot)| MemberInfo {
            role: Role::Receive,
            index,
            priority: 0,
            group: mailbox.named_groups().get(usize::from(group)).map(|it| it.name.clone()),
            identity: slot.identity,
            alive: slot.state == SlotState::Active,
            messages: received(regions, group, index),
            queued_bytes: 0,
        })
    });
    let mut rest = lanes.chain(receivers).skip(skip as usize).peekable();
    let (mut members, mut names) = (Vec::new(), 0);
    while members.len() < MEMBERS_A_PAGE && names < NAMES_A_PAGE {
        let Some(member) = rest.next() else { break };
        names += member.group.as_ref().map_or(0, |name| name.as_str().len());
        members.push(member);
    }
    let counts = count(mailbox, regions);
    let tables = mailbox.groups().iter().zip(&counts.queued_of_groups);
    let groups = mailbox.named_groups().iter().zip(tables);
    let groups = groups.map(|(group, (table, &queued_messages))| GroupReport {
        group: group.clone(),
        receivers: table.receivers(),
        queued_messages,
        dropped_messages: table.dropped,
    });
    MailboxDetail {
        summary: summary(service, mailbox, &counts),
        reserved_bytes: mailbox.reserved_bytes(),
        descriptors: mailbox.owner_usage().descriptors + mailbox.lane_count(),
        fences: mailbox.fences,
        dropped_messages: mailbox.groups().iter().map(|group| group.dropped).sum(),
        dead_lettered_messages: mailbox.groups().iter().map(|group| group.dead_lettered).sum(),
        groups: groups.collect(),
        members,
        more: rest.peek().is_some(),
    }
}

/// The daemon, and the caller's quotas.
#[must_use]
pub fn status(service: &Service, asker: &Asker<'_>) -> Answer {
    let quotas = service.registry.quotas();
    let caller: Identity = asker.caller.identity;
    Answer::Status(Box::new(ServerStatus {
        version: crate::VERSION.to_owned(),
        pid: std::process::id(),
        uid: nix::unistd::geteuid().as_raw(),
        mailboxes: service.registry.mailbox_count() as u64,
        sessions: service.registry.session_count() as u64,
        descriptors: open_descriptors(),
        descriptors_max: getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft),
        resident_bytes: service.resident_bytes(),
        barrier: service.barrier(),
        caller,
        usage: quotas.used(caller.uid),
        limits: quotas.limits(caller.uid),
    }))
}

/// Descriptors that this process has open, but for the one that the count itself takes.
#[must_use]
pub fn open_descriptors() -> u64 {
    let count = std::fs::read_dir(Path::new("/proc/self/fd")).map_or(0, Iterator::count);
    (count as u64).saturating_sub(1)
}
