//! Messages that nobody can deal with: each mailbox that has had one has a second, `dead/NAME`, in which they are.
//!
//! A dead letter is a lane of its own in there, as a sender that is gone would leave it: so it is received, looked
//! at, returned and freed like any message, its sender is who sent it at first, and nothing else has to know of
//! it. It is charged to the owner of the mailbox.
//!
//! **Invariant:** a mailbox's `dead_letters` names one whose `dead_letters_of` names it, and the other way round.

use libipc::lane::fate::Fate;
use libipc::lane::layout::{LANE_CAPACITY_BYTES_MIN, SlotState, lane_file_bytes};
use libipc::lane::position::{GRANULE_BYTES, RECORD_HEADER_BYTES, record_granules};
use libipc::protocol::{
    Buffering, DEAD_LETTER_BYTES_MAX, DeadLetter, Identity, LaneInfo, MailboxAttributes,
    MailboxName, Reason, Refusal, Role, Usage,
};

use serde::{Deserialize, Serialize};

use super::mailbox::{Letter, Mailbox};
use super::permission::{Caller, Ownership};
use super::quota::{dead_letter_usage, lane_usage};
use super::{Registry, no_session};

/// Dead letters that one mailbox may have.
const DEAD_LETTERS_MAX: u16 = 4096;
/// Of a mode, who may receive.
const MAY_RECEIVE: u16 = 0o444;

/// A record that is to be freed on its receiver's behalf: by whoever finds it in the state, if it is held still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeing {
    /// The receiver's group.
    pub group: u8,
    /// Its slot.
    pub slot: u16,
    /// The lane's slot.
    pub lane: u16,
    /// Where the record begins.
    pub at: u64,
    /// Where it ends.
    pub next: u64,
    /// What its sender is to read, if anything.
    pub fate: Option<Fate>,
    /// The receiver is gone.
    pub gone: bool,
}

/// A message that is about to become a dead letter, or to be one no more.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// Who sent it.
    pub sender: Identity,
    /// Its priority.
    pub priority: u8,
    /// Its length in bytes.
    pub len: u64,
}

impl Message {
    /// The lane for it alone.
    fn letter(self, dead_letter: Option<DeadLetter>, only_for: Option<u8>) -> Letter {
        let Self { sender, priority, len } = self;
        // With a stamp, where it had one.
        let bytes = record_granules(len as usize + RECORD_HEADER_BYTES) * GRANULE_BYTES as u64;
        let capacity_bytes = bytes.next_power_of_two().max(LANE_CAPACITY_BYTES_MIN);
        Letter { sender, priority, capacity_bytes, dead_letter, only_for }
    }
}

impl Registry {
    /// The mailbox for a mailbox's dead letters; true if it is new.
    ///
    /// # Errors
    /// It holds dead letters itself; [`Refusal::QuotaExceeded`].
    pub fn dead_letters_for(&mut self, of: u64) -> Result<(u64, bool), Refusal> {
        let mailbox = self.mailboxes.get(&of).ok_or_else(no_session)?;
        if let Some(id) = mailbox.dead_letters {
            return Ok((id, false));
        }
        if mailbox.dead_letters_of.is_some() {
            return Err(Refusal::DeadLetters { name: mailbox.name.to_string() });
        }
        let mode = mailbox.ownership.mode & MAY_RECEIVE;
        let ownership = Ownership { mode, ..mailbox.ownership };
        let attributes = MailboxAttributes {
            // Of each lane it is as large as its message needs.
            capacity_bytes: LANE_CAPACITY_BYTES_MIN,
            buffering: Buffering::Unbounded,
            mode,
            receivers_max: mailbox.attributes.receivers_max,
            lanes_max: DEAD_LETTERS_MAX,
            max_attempts: 0,
            ..MailboxAttributes::default()
        };
        let name = mailbox.name.of_dead_letters();
        let id = self.insert(&name, &attributes, ownership, &[])?;
        if let Some(dead) = self.mailboxes.get_mut(&id) {
            dead.dead_letters_of = Some(of);
        }
        if let Some(mailbox) = self.mailboxes.get_mut(&of) {
            mailbox.dead_letters = Some(id);
        }
        Ok((id, true))
    }

    /// The mailbox whose dead letters somebody wants to receive or look at, where there is no mailbox for them yet: if
    /// they may.
    #[must_use]
    pub fn wants_dead_letters(
        &self,
        caller: &Caller<'_>,
        name: &MailboxName,
        role: Role,
    ) -> Option<u64> {
        let of = name.whose_dead_letters().filter(|_| role != Role::Send)?;
        let mailbox = self.find(&of).ok().filter(|_| self.find(name).is_err())?;
        mailbox.ownership.may_open(caller, role).then_some(mailbox.id)
    }

    /// A lane among a mailbox's dead letters, in the mailbox for them (`dead`), for one more.
    ///
    /// # Errors
    /// It is too long; [`Refusal::MailboxFull`], [`Refusal::QuotaExceeded`].
    pub fn add_dead_letter(
        &mut self,
        dead: u64,
        message: Message,
        reason: Reason,
        attempts: u32,
        group: u8,
    ) -> Result<LaneInfo, Refusal> {
        if message.len > DEAD_LETTER_BYTES_MAX {
            return Err(Refusal::InvalidAttribute {
                attribute: "length of a dead letter".into(),
                value: message.len,
                allowed: format!("0 to {DEAD_LETTER_BYTES_MAX} bytes"),
            });
        }
        let last = self.mailbox(dead).ok_or_else(no_session)?.last_dead_letter;
        let dead_letter = DeadLetter { number: last + 1, reason, attempts, group };
        let letter = message.letter(Some(dead_letter), None);
        let usage = dead_letter_usage(lane_file_bytes(letter.capacity_bytes));
        let lane = self.add_letter(dead, letter, usage)?;
        if let Some(mailbox) = self.mailboxes.get_mut(&dead) {
            mailbox.last_dead_letter = dead_letter.number;
        }
        Ok(lane)
    }

    /// A lane in the mailbox itself for a dead letter that is to be one no more, for the group for which it was dead;
    /// the owner is charged for it.
    ///
    /// # Errors
    /// [`Refusal::Closed`], [`Refusal::MailboxFull`], [`Refusal::QuotaExceeded`].
    pub fn add_requeued(
        &mut self,
        id: u64,
        message: Message,
        group: u8,
    ) -> Result<LaneInfo, Refusal> {
        let letter = message.letter(None, Some(group));
        let usage = lane_usage(lane_file_bytes(letter.capacity_bytes));
        self.add_letter(id, letter, usage)
    }

    /// A lane for one message, charged to the owner of the mailbox.
    fn add_letter(&mut self, id: u64, letter: Letter, usage: Usage) -> Result<LaneInfo, Refusal> {
        let mailbox = self.mailboxes.get_mut(&id).ok_or_else(no_session)?;
        mailbox.check_lane_room()?;
        let charged = (mailbox.ownership.uid, usage);
        self.take_into_use(id)?;
        if let Err(refusal) = self.quotas.charge(charged.0, charged.1) {
            self.put_away_if_idle(id);
            return Err(refusal);
        }
        let mailbox = self.mailboxes.get_mut(&id).ok_or_else(no_session)?;
        // There is a slot: `check_lane_room` has looked.
        mailbox.add_letter(letter, charged).ok_or_else(no_session)
    }
}

impl Mailbox {
    /// Whether something that a receiver held who is gone is yet to be freed.
    #[must_use]
    pub fn frees_of_gone(&self, group: u8, slot: u16) -> bool {
        let freeing = self.freeing.iter();
        freeing.filter(|it| it.gone).any(|it| (it.group, it.slot) == (group, slot))
    }

    /// Its dead letters, if it holds another's, of this number or all, the oldest first.
    #[must_use]
    pub fn letters(&self, number: Option<u64>) -> Vec<(DeadLetter, LaneInfo)> {
        let there = self.lanes().iter().filter(|slot| slot.state != SlotState::Free);
        let letters = there.filter_map(|slot| Some((slot.info.dead_letter?, slot.info)));
        let mut letters: Vec<_> =
            letters.filter(|(letter, _)| number.is_none_or(|it| it == letter.number)).collect();
        letters.sort_by_key(|(letter, _)| letter.number);
        letters
    }
}
