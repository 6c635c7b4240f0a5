//! Work without end: until the mailbox is closed, or until whoever does it is killed. Each worker leaves notes from which
//! its mailbox's accounts are made, whenever that may be.
//!
//! ```text
//! labour_send HOW ID BYTES SEED PROGRESS     HOW: plain, urgent (of several priorities), batches, or withdrawn (some are
//!                                            taken back); PROGRESS: how many were sent, or where some are taken back a log
//!                                            of what is known of each
//! labour_call ID BYTES SEED PROGRESS         PROGRESS: the same log
//! labour_receive HOW SEED LOG                HOW: picky, batches, answers, or plain
//! ```

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use libipc::{
    BatchStopped, CallError, Delivery, ReceiveError, Receiver, Refusal, ReplyError, RequestError,
    Returned, SendError, Sender, TicketState,
};
use tests::Dice;
use tests::numbered::{self, Deed, Entry, HANDFUL, NOBODY, Note, SOMEBODY, UNTOLD};

use crate::{Outcome, number, path, picky, said};

/// For how long a sender leaves a mailbox alone that is full.
const AWHILE: Duration = Duration::from_millis(5);

/// What was done, or that the mailbox is closed.
type Done<T> = Result<Option<T>, String>;

pub(crate) fn send<'a>(sender: &mut Sender, words: &mut impl Iterator<Item = &'a str>) -> Outcome {
    let how = words.next().unwrap_or_default();
    let (id, len) = (number(words.next())?, number(words.next())?);
    let mut dice = Dice::new(number(words.next())?);
    let to = path(words.next())?;
    match how {
        "plain" => {
            count(to, |from| send_one(sender, &message(id, from, len)).map(|it| it.map(|()| 1)))
        }
        "urgent" => count(to, |from| {
            prefer(sender, dice.below(3) as u8)?;
            Ok(send_one(sender, &message(id, from, len))?.map(|()| 1))
        }),
        "batches" => count(to, |from| {
            let through = from + 1 + dice.below(HANDFUL);
            let messages: Vec<_> = (from..through).map(|n| message(id, n, len)).collect();
            match sender.send_batch(&messages) {
                Ok(()) => Ok(Some(messages.len() as u64)),
                // A part of it may have been sent: whoever looks for more finds the mailbox closed.
                Err(BatchStopped { sent, why: SendError::Closed }) if sent > 0 => {
                    Ok(Some(sent as u64))
                }
                Err(BatchStopped { why: SendError::Closed, .. }) => Ok(None),
                Err(error) => Err(said(error)),
            }
        }),
        "withdrawn" => tell(to, id, |n| send_or_not(sender, &message(id, n, len), &mut dice)),
        _ => Err(format!("usage: no way {how} to send")),
    }
}

fn message(id: u32, number: u64, len: usize) -> Vec<u8> {
    let mut message = Vec::new();
    numbered::write(id, number, len, &mut message);
    message
}

/// Sends on from what was sent already; notes after each time how much that is now.
fn count(to: &Path, mut send: impl FnMut(u64) -> Done<u64>) -> Outcome {
    let progress = File::options().write(true).open(to).map_err(said)?;
    let mut sent = 0;
    while let Some(more) = send(sent)? {
        sent += more;
        progress.write_all_at(&sent.to_le_bytes(), 0).map_err(said)?;
    }
    Ok(sent.to_string())
}

/// Sends one after the other; notes what is known of each.
fn tell(to: &Path, id: u32, mut send: impl FnMut(u64) -> Done<u32>) -> Outcome {
    let mut log = numbered::open_log(to).map_err(said)?;
    for number in 0.. {
        let Some(fate) = send(number)? else { break };
        numbered::log(Entry { sender: id, attempts: fate, number }, &mut log).map_err(said)?;
    }
    Ok(String::new())
}

fn send_one(sender: &mut Sender, message: &[u8]) -> Done<()> {
    loop {
        match sender.send(message) {
            // Where nothing is buffered it is told at once that nobody could deal with it.
            Ok(()) | Err(SendError::DeadLettered | SendError::Dropped) => return Ok(Some(())),
            Err(SendError::Closed) => return Ok(None),
            // A backlog in as many lanes as there may be, some of the dead: it is told, and there is room later.
            Err(SendError::Refused(Refusal::MailboxFull { .. })) => std::thread::sleep(AWHILE),
            Err(error) => return Err(said(error)),
        }
    }
}

/// Sends at another priority from now on, if there is a lane for it.
fn prefer(sender: &mut Sender, priority: u8) -> Result<(), String> {
    match sender.set_priority(priority) {
        Ok(()) | Err(RequestError::Refused(_)) => Ok(()),
        Err(error) => Err(said(error)),
    }
}

/// Sends a message, and may take it back: at once, in a while, or when nobody has received it by some time.
fn send_or_not(sender: &mut Sender, message: &[u8], dice: &mut Dice) -> Done<u32> {
    if dice.below(4) == 0 {
        let deadline = Instant::now() + Duration::from_micros(dice.below(2000));
        return Ok(Some(match sender.send_sync_deadline(message, deadline) {
            Ok(()) | Err(SendError::InHand(_) | SendError::DeadLettered) => SOMEBODY,
            Err(SendError::TimedOut) => NOBODY,
            Err(SendError::Closed) => return Ok(None),
            Err(error) => return Err(said(error)),
        }));
    }
    let ticket = match sender.send_tracked(message) {
        Ok(ticket) => ticket,
        Err(SendError::Closed) => return Ok(None),
        Err(error) => return Err(said(error)),
    };
    if dice.below(2) == 0 {
        return Ok(Some(SOMEBODY));
    }
    for _ in 0..dice.below(2000) {
        std::hint::spin_loop();
    }
    Ok(Some(match ticket.withdraw().map_err(said)? {
        TicketState::Returned(Returned::Withdrawn) => NOBODY,
        TicketState::InHand | TicketState::Done | TicketState::DeadLettered => SOMEBODY,
        other => return Err(said(other)),
    }))
}

pub(crate) fn call<'a>(sender: &mut Sender, words: &mut impl Iterator<Item = &'a str>) -> Outcome {
    let (id, len) = (number(words.next())?, number(words.next())?);
    let mut dice = Dice::new(number(words.next())?);
    tell(path(words.next())?, id, |n| call_one(sender, &message(id, n, len), &mut dice))
}

/// Calls, with a deadline or without, and holds the answer to what was asked.
fn call_one(sender: &mut Sender, request: &[u8], dice: &mut Dice) -> Done<u32> {
    let reply = match dice.below(4) {
        0 => {
            sender.call_deadline(request, Instant::now() + Duration::from_micros(dice.below(5000)))
        }
        _ => sender.call(request),
    };
    Ok(Some(match reply {
        Ok(reply) if reply.bytes() == request => SOMEBODY,
        Ok(_) => return Err("the answer to something else".to_owned()),
        Err(CallError::TimedOut | CallError::NoWayBack(RequestError::Refused(_))) => NOBODY,
        // What was taken back has its room until a server comes past it.
        Err(CallError::NotSent(SendError::TimedOut)) => NOBODY,
        // Whoever receives a call answers it; but a daemon that is away may not let the answer through.
        Err(CallError::InHand(_) | CallError::DeadLettered | CallError::NotAnswered) => SOMEBODY,
        // Whether it was taken back before the next server came is not said.
        Err(CallError::ServerGone) => UNTOLD,
        Err(CallError::NotSent(SendError::Closed)) => return Ok(None),
        Err(error) => return Err(said(error)),
    }))
}

pub(crate) fn receive<'a>(
    receiver: &mut Receiver,
    words: &mut impl Iterator<Item = &'a str>,
) -> Outcome {
    let how = words.next().unwrap_or_default();
    let mut dice = Dice::new(number(words.next())?);
    let log = path(words.next())?;
    match how {
        "picky" => picky::drain(receiver, log),
        "plain" => drain(receiver, log, |delivery, _| {
            delivery.acknowledge();
            Ok(())
        }),
        "answers" => drain(receiver, log, answer),
        "batches" => drain_batches(receiver, log, &mut dice),
        _ => Err(format!("usage: no way {how} to receive")),
    }
}

/// Receives until the mailbox is closed and empty, and acknowledges all, or does what comes to that.
fn drain(
    receiver: &mut Receiver,
    log: &Path,
    mut acknowledge: impl FnMut(Delivery<'_>, &mut File) -> Result<(), String>,
) -> Outcome {
    let mut log = numbered::open_log(log).map_err(said)?;
    loop {
        let delivery = match receiver.receive() {
            Ok(delivery) => delivery,
            Err(ReceiveError::Closed) => break,
            Err(error) => return Err(said(error)),
        };
        numbered::log(numbered::read(delivery.bytes(), delivery.attempts()), &mut log)
            .map_err(said)?;
        acknowledge(delivery, &mut log)?;
    }
    Note::alone(Deed::Settled).log(&mut log).map_err(said)?;
    Ok(String::new())
}

/// Answers a call with what was asked.
fn answer(delivery: Delivery<'_>, log: &mut File) -> Result<(), String> {
    let request = delivery.bytes().to_vec();
    match delivery.reply(&request) {
        Ok(()) | Err(ReplyError::CallerGone) => Ok(()),
        // It goes back: there may be a way when it comes again.
        Err(
            ReplyError::TimedOut
            | ReplyError::CallerBusy
            | ReplyError::NoLink(RequestError::Refused(_)),
        ) => Note::alone(Deed::Undone).log(log).map_err(said),
        Err(error) => Err(said(error)),
    }
}

/// The same in batches: some of the first are acknowledged by themselves, some of the last given back.
fn drain_batches(receiver: &mut Receiver, log: &Path, dice: &mut Dice) -> Outcome {
    let mut log = numbered::open_log(log).map_err(said)?;
    loop {
        let max = 1 + dice.below(HANDFUL) as usize;
        let mut batch = match receiver.receive_batch(max) {
            Ok(batch) => batch,
            Err(ReceiveError::Closed) => break,
            Err(error) => return Err(said(error)),
        };
        let len = batch.len();
        let first = dice.below(len as u64 + 1) as usize;
        let returns = dice.below(20) == 0;
        let mut notes = Vec::new();
        for (n, message) in batch.iter().enumerate() {
            let deed = if returns && n >= first { Deed::Returns } else { Deed::Acknowledges };
            let entry = numbered::read(message.bytes(), message.attempts());
            let note = Note { with_next: n + 1 < len, ..Note::of(entry, deed) };
            note.log(&mut notes).map_err(said)?;
        }
        // In one piece: whoever is killed here has noted all of it or nothing.
        std::io::Write::write_all(&mut log, &notes).map_err(said)?;
        batch.acknowledge_first(first);
        if returns { batch.return_to_queue() } else { batch.acknowledge() }
    }
    Note::alone(Deed::Settled).log(&mut log).map_err(said)?;
    Ok(String::new())
}
