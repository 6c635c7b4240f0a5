//! What the tests of dead letters have in common.

use libipc::{
    Client, DeadLetter, MailboxOptions, Receiver, Refusal, RequestError, TicketState,
    TryReceiveError,
};
use tests::patience;

/// A small mailbox: a lane of it holds 256 messages of up to 8 bytes.
pub(crate) fn small() -> MailboxOptions {
    MailboxOptions::new().capacity_bytes(4096).receivers_max(4).lanes_max(8)
}

/// A receiver of the mailbox's dead letters.
pub(crate) fn letters(client: &Client, name: &str) -> Receiver {
    client.receiver(&format!("dead/{name}")).expect("a place among the dead letters")
}

/// The next dead letter: what it says, who sent it, and what is known of it.
pub(crate) fn next(letters: &mut Receiver) -> (String, u32, DeadLetter) {
    let delivery = letters.receive_deadline(patience()).expect("a dead letter");
    let known = delivery.dead_letter().expect("it is a dead letter");
    let pid = delivery.sender().pid;
    (String::from_utf8(delivery.into_bytes()).expect("text"), pid, known)
}

pub(crate) fn none(receiver: &mut Receiver) -> bool {
    matches!(receiver.try_receive(), Err(TryReceiveError::Empty))
}

pub(crate) fn ended(ticket: &libipc::Ticket) -> TicketState {
    ticket.wait_deadline(patience()).expect("our ticket")
}

pub(crate) fn refused<T: std::fmt::Debug>(result: Result<T, RequestError>) -> Refusal {
    match result {
        Err(RequestError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}
