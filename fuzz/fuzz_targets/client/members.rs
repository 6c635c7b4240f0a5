//! Honest members, and what they are promised.

use std::time::Instant;

use arbitrary::Arbitrary;
use libipc::{
    Client, Delivery, Observer, Receiver, Returned, Sender, Ticket, TicketState, TryReceiveError,
    WaitSet, Waitable,
};

use crate::book::{Book, Fate};
use crate::{HOSTILE, NAME};

const ENDS_MAX: usize = 3;
const TICKETS_MAX: usize = 16;
/// Errors that a receiver gets in a row at most, in the end: a corrupt lane is reported once.
const CORRUPT_MAX: usize = 100;

/// What an honest member does. Ends, tickets and the like are chosen by their numbers.
#[derive(Arbitrary, Debug)]
pub enum Step {
    OpenSender,
    CloseSender { sender: u8 },
    OpenReceiver { group: u8 },
    CloseReceiver { receiver: u8 },
    OpenObserver { group: u8 },
    Send { sender: u8, len: u16 },
    Reserve { sender: u8, len: u16, commit: bool },
    SendBatch { sender: u8, count: u8, len: u8 },
    SendTracked { sender: u8, len: u16 },
    SetPriority { sender: u8, priority: u8 },
    Call { sender: u8, len: u8 },
    Withdraw { ticket: u8 },
    Look { ticket: u8 },
    Receive { receiver: u8, then: Then },
    ReceiveFrom { receiver: u8, hostile: bool, then: Then },
    ReceiveBatch { receiver: u8, max: u8, first: u8, acknowledge: bool },
    Departed { receiver: u8 },
    Ready,
    Peek { count: u8 },
}

/// What is done with a delivery.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Then {
    Acknowledge,
    Take,
    Return,
    Reject,
    Reply,
}

pub struct Members {
    client: Client,
    groups: Vec<String>,
    senders: Vec<Sender>,
    receivers: Vec<Receiver>,
    observer: Option<Observer>,
    tickets: Vec<(u64, Ticket)>,
    book: Book,
}

/// Which of some things a number means.
fn choose(number: u8, count: usize) -> Option<usize> {
    (count > 0).then(|| usize::from(number) % count)
}

impl Members {
    pub fn new(client: Client, groups: Vec<String>, book: Book) -> Self {
        let (senders, receivers, tickets) = (Vec::new(), Vec::new(), Vec::new());
        let mut members =
            Self { client, groups, senders, receivers, observer: None, tickets, book };
        members.take(&Step::OpenSender);
        members.take(&Step::OpenReceiver { group: 0 });
        members
    }

    pub fn take(&mut self, step: &Step) {
        match *step {
            Step::OpenSender
            | Step::CloseSender { .. }
            | Step::OpenReceiver { .. }
            | Step::CloseReceiver { .. }
            | Step::OpenObserver { .. } => {
                self.open_or_close(step);
                // What was asked without waiting is done before anything else is.
                self.client.status().expect("the daemon answers");
            }
            Step::Send { .. }
            | Step::Reserve { .. }
            | Step::SendBatch { .. }
            | Step::SendTracked { .. }
            | Step::SetPriority { .. }
            | Step::Call { .. }
            | Step::Withdraw { .. }
            | Step::Look { .. } => self.send(step),
            _ => self.receive(step),
        }
    }

    fn open_or_close(&mut self, step: &Step) {
        let group = |number: u8| Some(self.groups[choose(number, self.groups.len())?].as_str());
        match *step {
            Step::OpenSender if self.senders.len() < ENDS_MAX => {
                self.senders.extend(self.client.sender(NAME));
            }
            Step::OpenReceiver { group: number } if self.receivers.len() < ENDS_MAX => {
                self.receivers.extend(match group(number) {
                    Some(group) => self.client.receiver_in_group(NAME, group),
                    None => self.client.receiver(NAME),
                });
            }
            Step::OpenObserver { group: number } => {
                self.observer = match group(number) {
                    Some(group) => self.client.observer_of_group(NAME, group).ok(),
                    None => self.client.observer(NAME).ok(),
                };
            }
            Step::CloseSender { sender } => {
                if let Some(sender) = choose(sender, self.senders.len()) {
                    self.senders.swap_remove(sender);
                }
            }
            Step::CloseReceiver { receiver } => {
                if let Some(receiver) = choose(receiver, self.receivers.len()) {
                    self.receivers.swap_remove(receiver);
                }
            }
            _ => {}
        }
    }

    fn send(&mut self, step: &Step) {
        let (Self { book, senders, tickets, .. }, now) = (self, Instant::now());
        let (Step::Withdraw { ticket: number }
        | Step::Look { ticket: number }
        | Step::Send { sender: number, .. }
        | Step::Reserve { sender: number, .. }
        | Step::SendBatch { sender: number, .. }
        | Step::SendTracked { sender: number, .. }
        | Step::SetPriority { sender: number, .. }
        | Step::Call { sender: number, .. }) = *step
        else {
            return;
        };
        let ticket = choose(number, tickets.len());
        let sender = choose(number, senders.len()).map(|sender| &mut senders[sender]);
        match (step, sender, ticket) {
            (Step::Withdraw { .. }, _, Some(ticket)) => {
                let (number, ticket) = &tickets[ticket];
                let state = ticket.withdraw().expect("no fork");
                if state == TicketState::Returned(Returned::Withdrawn) {
                    let came = book.exact && book.fate(*number) == Some(Fate::Received);
                    assert!(!came, "message {number} was received, and its sender has it back");
                    book.note(*number, Fate::Withdrawn);
                }
            }
            (Step::Look { .. }, _, Some(ticket)) => {
                let (number, ticket) = &tickets[ticket];
                let state = ticket.state().expect("no fork");
                let done = book.fate(*number) != Some(Fate::Sent);
                assert!(done || !book.exact || state != TicketState::Done, "it is in no hand yet");
            }
            (&Step::Send { len, .. }, Some(sender), _) => {
                let (number, message) = book.write(usize::from(len % 5000));
                if sender.try_send(&message).is_ok() {
                    book.note(number, Fate::Sent);
                }
            }
            (&Step::Reserve { len, commit, .. }, Some(sender), _) => {
                let (number, message) = book.write(usize::from(len % 5000));
                let Ok(mut reserved) = sender.try_reserve(message.len()) else { return };
                reserved.bytes_mut().copy_from_slice(&message);
                if commit && reserved.commit().is_ok() {
                    book.note(number, Fate::Sent);
                }
            }
            (&Step::SendBatch { count, len, .. }, Some(sender), _) => {
                let messages: Vec<_> =
                    (0..count % 20).map(|_| book.write(usize::from(len))).collect();
                let bytes: Vec<_> = messages.iter().map(|(_, message)| message).collect();
                let sent = match sender.try_send_batch(&bytes) {
                    Ok(()) => messages.len(),
                    Err(stopped) => stopped.sent,
                };
                messages.iter().take(sent).for_each(|(number, _)| book.note(*number, Fate::Sent));
            }
            (&Step::SendTracked { len, .. }, Some(sender), _) => {
                let (number, message) = book.write(usize::from(len % 5000));
                let Ok(ticket) = sender.try_send_tracked(&message) else { return };
                book.note(number, Fate::Sent);
                tickets.push((number, ticket));
                if tickets.len() > TICKETS_MAX {
                    tickets.remove(0);
                }
            }
            (Step::SetPriority { priority, .. }, Some(sender), _) => {
                let _ = sender.set_priority(priority % 4);
            }
            (&Step::Call { len, .. }, Some(sender), _) => {
                let (number, message) = book.write(len.into());
                // It may be sent, and taken back; or in hand.
                book.note(number, Fate::Perhaps);
                let _ = sender.call_deadline(&message, now);
            }
            _ => {}
        }
    }

    fn receive(&mut self, step: &Step) {
        let (Self { book, receivers, observer, .. }, mut set) = (self, WaitSet::new());
        if let (Step::Peek { count }, Some(observer)) = (step, observer.as_mut()) {
            for peeked in observer.peek((*count).into()).unwrap_or_default() {
                touch(&peeked.bytes);
            }
        }
        if let Step::Ready = step {
            let sources = receivers.iter_mut().map(|it| it as &mut dyn Waitable);
            let mut sources: Vec<_> = sources.collect();
            let ready = set.look(&mut sources).to_vec();
            assert!(ready.iter().all(|&ready| ready < sources.len()));
        }
        let (Step::Receive { receiver, .. }
        | Step::ReceiveFrom { receiver, .. }
        | Step::ReceiveBatch { receiver, .. }
        | Step::Departed { receiver }) = *step
        else {
            return;
        };
        let Some(receiver) = choose(receiver, receivers.len()) else { return };
        let receiver = &mut receivers[receiver];
        match *step {
            Step::Receive { then, .. } => match receiver.try_receive() {
                Ok(delivery) => deal(book, delivery, then),
                Err(error) => check_error(book, &error),
            },
            Step::ReceiveFrom { hostile, then, .. } => {
                let uid = if hostile { HOSTILE } else { nix::unistd::geteuid().as_raw() };
                match receiver.try_receive_from(1000 + uid) {
                    Ok(delivery) => deal(book, delivery, then),
                    Err(error) => check_error(book, &error),
                }
            }
            Step::ReceiveBatch { max, first, acknowledge, .. } => {
                match receiver.try_receive_batch(max.into()) {
                    Ok(mut batch) => {
                        let uid = batch.sender().uid;
                        let numbers: Vec<_> = batch
                            .iter()
                            .map(|message| {
                                touch(message.bytes());
                                book.read(uid, message.bytes())
                            })
                            .collect();
                        let first = usize::from(first).min(batch.len());
                        batch.acknowledge_first(first);
                        numbers[..first].iter().for_each(|&number| book.received(number));
                        if acknowledge {
                            batch.acknowledge();
                            numbers[first..].iter().for_each(|&number| book.received(number));
                        }
                    }
                    Err(error) => check_error(book, &error),
                }
            }
            Step::Departed { .. } => {
                receiver.departed();
                let _ = receiver.lost();
            }
            _ => {}
        }
    }

    /// In the end everything that was sent has come.
    pub fn end(mut self) {
        self.observer = None;
        self.receivers.clear();
        self.client.status().expect("the daemon answers");
        if self.book.exact {
            self.drain(NAME);
            self.drain(&format!("dead/{NAME}"));
            self.book.check();
        }
        self.tickets.clear();
        self.senders.clear();
        let _ = self.client.delete(NAME);
    }

    fn drain(&mut self, name: &str) {
        let mut receiver = self.client.receiver(name).expect("there is a place again");
        let mut errors = 0;
        loop {
            match receiver.try_receive() {
                Ok(delivery) => deal(&self.book, delivery, Then::Acknowledge),
                Err(TryReceiveError::Empty) => return,
                Err(error) => {
                    check_error(&self.book, &error);
                    errors += 1;
                    assert!(errors < CORRUPT_MAX, "the same error for ever: {error}");
                }
            }
        }
    }
}

fn deal(book: &Book, delivery: Delivery<'_>, then: Then) {
    touch(delivery.bytes());
    let _ = (delivery.attempts(), delivery.dead_letter());
    let number = book.read(delivery.sender().uid, delivery.bytes());
    match then {
        Then::Acknowledge => delivery.acknowledge(),
        Then::Take => touch(&delivery.into_bytes()),
        Then::Return => return delivery.return_to_queue(),
        // It comes once more: as a dead letter, or because that was refused.
        Then::Reject => return drop(delivery.reject()),
        Then::Reply if delivery.is_call() => {
            // After an error it may come again.
            if delivery.reply(b"an answer").is_err() {
                number.into_iter().for_each(|number| book.note(number, Fate::Perhaps));
                return;
            }
        }
        Then::Reply => return delivery.return_to_queue(),
    }
    book.received(number);
}

/// Where senders alone are hostile no other is to blame.
fn check_error(book: &Book, error: &TryReceiveError) {
    if let (true, TryReceiveError::Corrupt(corrupt)) = (book.exact, error) {
        let right = corrupt.peer.is_none_or(|peer| peer.uid == HOSTILE);
        assert!(right, "{corrupt}");
    }
}

/// Reads every byte.
fn touch(bytes: &[u8]) {
    std::hint::black_box(bytes.iter().fold(0u8, |sum, byte| sum ^ byte));
}
