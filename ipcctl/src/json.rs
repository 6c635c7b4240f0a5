//! The one JSON schema of `--json`; `docs/json.md` documents it for people.

use libipc::{GroupReport, Identity, MailboxDetail, MailboxSummary, MemberInfo, Role};
use libipc::{Peeked, Returned, TicketState};
use serde::Serialize;

/// Something was done to a mailbox, or sent to a process.
#[derive(Debug, Serialize)]
pub(crate) struct Done<'a> {
    /// To what.
    #[serde(flatten)]
    pub(crate) to: Target<'a>,
    /// What was done to it.
    pub(crate) done: &'static str,
    /// Messages that it was done to, where that can be said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) messages: Option<u64>,
    /// Their bytes, where that can be said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bytes: Option<u64>,
}

/// A mailbox by its name, or a process as it was addressed.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Target<'a> {
    Mailbox(&'a str),
    Process(&'a str),
}

/// What has become of a message, in `send --tracked`.
#[derive(Debug, Serialize)]
pub(crate) struct State {
    /// As [`state`] names it.
    pub(crate) state: &'static str,
}

/// A ticket's state, as we show it.
pub(crate) fn state(state: TicketState) -> &'static str {
    match state {
        TicketState::Queued => "queued",
        TicketState::InHand => "in hand",
        TicketState::Done => "done",
        TicketState::DeadLettered => "dead-lettered",
        TicketState::Dropped => "dropped",
        TicketState::Returned(Returned::Withdrawn) => "withdrawn",
        TicketState::Returned(Returned::Deleted) => "lost with its mailbox",
        TicketState::Returned(Returned::OwnerGone) => "lost with its mailbox's owner",
    }
}

/// The answer to `list`.
#[derive(Debug, Serialize)]
pub(crate) struct List {
    /// The mailboxes that the caller may see, in order of their names.
    pub(crate) mailboxes: Vec<Mailbox>,
}

/// A mailbox, in `list` and `show`.
#[derive(Debug, Serialize)]
pub(crate) struct Mailbox {
    name: String,
    id: u64,
    open: bool,
    owner: Owner,
    mode: String,
    capacity_bytes: u64,
    message_bytes_max: u64,
    receivers_max: u16,
    lanes_max: u16,
    buffering: &'static str,
    who_receives: &'static str,
    lifetime: &'static str,
    order: &'static str,
    on_death: &'static str,
    max_attempts: u32,
    senders: u32,
    receivers: u32,
    queued_messages: u64,
    queued_bytes: u64,
    sent_messages: u64,
    dead_letters: u64,
}

#[derive(Debug, Serialize)]
struct Owner {
    uid: Option<u32>,
    gid: Option<u32>,
}

impl From<&MailboxSummary> for Mailbox {
    fn from(summary: &MailboxSummary) -> Self {
        let attributes = &summary.attributes;
        Self {
            name: summary.name.to_string(),
            id: summary.mailbox_id,
            open: summary.open,
            owner: Owner { uid: attributes.owner_uid, gid: attributes.owner_gid },
            mode: format!("{:04o}", attributes.mode),
            capacity_bytes: attributes.capacity_bytes,
            message_bytes_max: attributes.message_bytes_max(),
            receivers_max: attributes.receivers_max,
            lanes_max: attributes.lanes_max,
            buffering: attributes.buffering.as_str(),
            who_receives: attributes.receivers.as_str(),
            lifetime: attributes.owner.as_str(),
            order: attributes.order.as_str(),
            on_death: attributes.on_death.as_str(),
            max_attempts: attributes.max_attempts,
            senders: summary.senders,
            receivers: summary.receivers,
            queued_messages: summary.queued_messages,
            queued_bytes: summary.queued_bytes,
            sent_messages: summary.sent_messages,
            dead_letters: summary.dead_letters,
        }
    }
}

/// The answer to `show`: a mailbox and its members.
#[derive(Debug, Serialize)]
pub(crate) struct Detail {
    #[serde(flatten)]
    mailbox: Mailbox,
    reserved_bytes: u64,
    descriptors: u64,
    fences: bool,
    dropped_messages: u64,
    dead_lettered_messages: u64,
    groups: Vec<Group>,
    members: Vec<Member>,
}

impl From<&MailboxDetail> for Detail {
    fn from(detail: &MailboxDetail) -> Self {
        Self {
            mailbox: (&detail.summary).into(),
            reserved_bytes: detail.reserved_bytes,
            descriptors: detail.descriptors,
            fences: detail.fences,
            dropped_messages: detail.dropped_messages,
            dead_lettered_messages: detail.dead_lettered_messages,
            groups: detail.groups.iter().map(Group::from).collect(),
            members: detail.members.iter().map(Member::from).collect(),
        }
    }
}

#[derive(Debug, Serialize)]
struct Group {
    name: String,
    slow: &'static str,
    receivers: u32,
    queued_messages: u64,
    dropped_messages: u64,
}

impl From<&GroupReport> for Group {
    fn from(report: &GroupReport) -> Self {
        Self {
            name: report.group.name.to_string(),
            slow: report.group.slow.as_str(),
            receivers: report.receivers,
            queued_messages: report.queued_messages,
            dropped_messages: report.dropped_messages,
        }
    }
}

#[derive(Debug, Serialize)]
struct Member {
    role: &'static str,
    index: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    identity: Person,
    alive: bool,
    messages: u64,
    queued_bytes: u64,
}

impl From<&MemberInfo> for Member {
    fn from(member: &MemberInfo) -> Self {
        Self {
            role: role(member.role),
            index: member.index,
            priority: (member.role == Role::Send).then_some(member.priority),
            group: member.group.as_ref().map(ToString::to_string),
            identity: member.identity.into(),
            alive: member.alive,
            messages: member.messages,
            queued_bytes: member.queued_bytes,
        }
    }
}

/// A role's name, as we show it.
pub(crate) fn role(role: Role) -> &'static str {
    match role {
        Role::Send => "sender",
        Role::Receive => "receiver",
        Role::Observe => "observer",
    }
}

/// Who, as the kernel attests it.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Person {
    pid: u32,
    uid: u32,
    gid: u32,
}

impl From<Identity> for Person {
    fn from(identity: Identity) -> Self {
        Self { pid: identity.pid, uid: identity.uid, gid: identity.gid }
    }
}

/// A message, in `receive` and `peek`.
#[derive(Debug, Serialize)]
pub(crate) struct Message<'a> {
    mailbox: &'a str,
    sender: Person,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<u32>,
    length: usize,
    #[serde(flatten)]
    content: Content<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Content<'a> {
    Text(&'a str),
    Base64(String),
}

impl<'a> Content<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text),
            Err(_) => Self::Base64(base64(bytes)),
        }
    }
}

impl<'a> Message<'a> {
    /// A message from a sender; `attempts` where it was received, not only looked at.
    pub(crate) fn new(
        mailbox: &'a str,
        sender: Identity,
        attempts: Option<u32>,
        bytes: &'a [u8],
    ) -> Self {
        let content = Content::of(bytes);
        Self { mailbox, sender: sender.into(), attempts, length: bytes.len(), content }
    }
}

/// The answer to `dead list`.
#[derive(Debug, Serialize)]
pub(crate) struct DeadLetters<'a> {
    pub(crate) mailbox: &'a str,
    /// Those that nobody has in hand, the oldest first.
    pub(crate) dead_letters: Vec<DeadLetter<'a>>,
}

/// A dead letter, in `dead list` and `dead show`.
#[derive(Debug, Serialize)]
pub(crate) struct DeadLetter<'a> {
    number: u64,
    reason: &'static str,
    attempts: u32,
    group: u8,
    sender: Person,
    length: usize,
    #[serde(flatten)]
    content: Content<'a>,
}

impl<'a> DeadLetter<'a> {
    /// A message that was looked at, if it is a dead letter.
    pub(crate) fn new(peeked: &'a Peeked) -> Option<Self> {
        let letter = peeked.dead_letter?;
        Some(Self {
            number: letter.number,
            reason: letter.reason.as_str(),
            attempts: letter.attempts,
            group: letter.group,
            sender: peeked.sender.into(),
            length: peeked.bytes.len(),
            content: Content::of(&peeked.bytes),
        })
    }
}

/// What `daemon upgrade` has done.
#[derive(Debug, Serialize)]
pub(crate) struct Upgraded {
    /// `upgraded`.
    pub(crate) done: &'static str,
    /// The daemon that was there.
    pub(crate) before: DaemonProcess,
    /// The one that is.
    pub(crate) after: DaemonProcess,
    /// From the request to the new daemon's first answer.
    pub(crate) gap_ns: u64,
}

/// One run of the daemon.
#[derive(Debug, Serialize)]
pub(crate) struct DaemonProcess {
    /// Its version.
    pub(crate) version: String,
    /// Its process id, in its own namespace.
    pub(crate) pid: u32,
}

/// The reply to a `call`.
#[derive(Debug, Serialize)]
pub(crate) struct Reply<'a> {
    mailbox: &'a str,
    server: Person,
    length: usize,
    #[serde(flatten)]
    content: Content<'a>,
}

impl<'a> Reply<'a> {
    /// What a server has answered.
    pub(crate) fn new(mailbox: &'a str, server: Identity, bytes: &'a [u8]) -> Self {
        let content = Content::of(bytes);
        Self { mailbox, server: server.into(), length: bytes.len(), content }
    }
}

/// Base64 with padding (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for position in 0..4 {
            let digit = (bits >> (18 - 6 * position)) as usize & 63;
            text.push(if position <= chunk.len() { ALPHABET[digit] as char } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        let pairs =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (plain, coded) in pairs {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
        assert_eq!(base64(&[0xff, 0xfe]), "//4=");
    }

    #[test]
    fn a_message_is_text_where_it_can_be() {
        let sender = Identity { pid: 7, uid: 1, gid: 2 };
        let text = serde_json::to_value(Message::new("m", sender, Some(0), b"hi")).unwrap();
        assert_eq!(
            text,
            serde_json::json!({"mailbox": "m", "sender": {"pid": 7, "uid": 1, "gid": 2},
                "attempts": 0, "length": 2, "text": "hi"})
        );
        let bytes = serde_json::to_value(Message::new("m", sender, None, b"\xff")).unwrap();
        assert_eq!(bytes["base64"], "/w==");
        assert!(bytes.get("text").is_none() && bytes.get("attempts").is_none());
    }
}
