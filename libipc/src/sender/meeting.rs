//! A rendezvous that the tokio adapter waits for: the steps of [`Sender::meet`], taken one at a time.
//!
//! Where that sleeps, a watcher sleeps on the sender's behalf, on the same word (the lane's `freed`) and after the same
//! last look. Receivers ring it when they have come beyond the record, `ipcd` when the mailbox or its members
//! change; so the sender's one descriptor tells of both, and no wake-up can be lost between two of them.

use super::Sender;
use super::rendezvous::Offer;
use crate::error::SendError;
use crate::session::Wait;
use crate::ticket::{Ticket, TicketState};

/// A message that was offered to the receivers, and is not acknowledged yet.
#[derive(Debug)]
pub(crate) struct Meeting {
    offer: Offer,
    /// A watcher sleeps for it.
    armed: bool,
}

impl Sender {
    /// For the tokio adapter: whether a send waits for more than room.
    pub(crate) fn is_rendezvous(&self) -> bool {
        self.rendezvous
    }

    /// For the tokio adapter: as `try_send`, but spins before it arms.
    pub(crate) fn send_or_spin_or_arm(&mut self, message: &[u8]) -> Option<Result<(), SendError>> {
        Some(match self.send_thoroughly(message) {
            Ok(()) => Ok(()),
            Err(error) => match error.lasting() {
                Some(error) => Err(error),
                None => {
                    self.spin_for_room(self.lane.writer.granules(message.len()), None);
                    match self.send_or_arm(message) {
                        Ok(()) => Ok(()),
                        Err(error) => Err(error.lasting()?),
                    }
                }
            },
        })
    }

    /// For the tokio adapter: one step of a rendezvous, from where the last one has left it. `None`: come again when
    /// the descriptor is readable.
    pub(crate) fn meet_or_arm(
        &mut self,
        message: &[u8],
        meeting: &mut Option<Meeting>,
    ) -> Option<Result<(), SendError>> {
        let at = match meeting {
            Some(meeting) => meeting,
            None => match self.room_or_arm(message.len()) {
                Ok(true) => {
                    let offer = Offer::new(self.publish_record(message));
                    meeting.insert(Meeting { offer, armed: false })
                }
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            },
        };
        let end = self.go_on_meeting(at)?;
        *meeting = None;
        Some(end)
    }

    /// Whether there is room for a message of so many bytes. If not the descriptor tells when there may be.
    fn room_or_arm(&mut self, len: usize) -> Result<bool, SendError> {
        let mut may_spin = true;
        loop {
            match self.make_room(len, Wait::BRIEFLY) {
                Ok(()) => return Ok(true),
                Err(error) => match error.lasting() {
                    Some(error) => return Err(error),
                    None if std::mem::take(&mut may_spin) => {
                        self.spin_for_room(self.lane.writer.granules(len), None);
                    }
                    None if self.arm(len)? => return Ok(false),
                    None => {}
                },
            }
        }
    }

    fn go_on_meeting(&mut self, meeting: &mut Meeting) -> Option<Result<(), SendError>> {
        if std::mem::take(&mut meeting.armed) {
            if self.elsewhere.is_armed() {
                // The runtime tells of something old: the watcher still sleeps, and will find what there is.
                meeting.armed = true;
                return None;
            }
            meeting.offer.lost = self.has_lost_daemon();
        }
        let record = meeting.offer.record;
        loop {
            if self.spin_for_acknowledgement(record, None) {
                return Some(self.end_of_freed(record));
            }
            if let Some(end) = self.end_of(&mut meeting.offer) {
                return Some(end);
            }
            match self.arm_for_acknowledgement(record) {
                Ok(true) => {
                    meeting.armed = true;
                    return None;
                }
                Ok(false) => {}
                Err(fault) => return Some(self.give_up(record, fault.into())),
            }
        }
    }

    /// For the tokio adapter: nobody waits for a meeting any more, so the message is taken back. The ticket if
    /// somebody has it.
    pub(crate) fn leave_meeting(&mut self, meeting: Meeting) -> Option<Ticket> {
        self.elsewhere.disarm();
        let ticket = self.ticket(meeting.offer.record);
        let taken_back = matches!(ticket.withdraw(), Ok(TicketState::Returned(_)) | Err(_));
        (!taken_back).then_some(ticket)
    }
}
