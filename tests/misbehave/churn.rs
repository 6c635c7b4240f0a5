//! Programs that ask the daemon for one thing after the other, and know what each answer must be: a request that is done
//! twice, or not at all, is told by the answer to it or to the next.

use std::path::Path;

use libipc::{Client, ClientOptions, MailboxOptions, Refusal, RequestError};
use tests::Dice;

type Checked = Result<(), String>;

fn is(what: &str, holds: bool) -> Checked {
    if holds { Ok(()) } else { Err(format!("wrong: {what}")) }
}

fn refused<T>(result: Result<T, RequestError>) -> Result<Refusal, String> {
    match result {
        Err(RequestError::Refused(refusal)) => Ok(refusal),
        Err(other) => Err(crate::said(other)),
        Ok(_) => Err("not refused".to_owned()),
    }
}

/// `churn` or `connects`.
pub(crate) fn obey<'a>(
    verb: &str,
    client: &Client,
    words: &mut impl Iterator<Item = &'a str>,
) -> crate::Outcome {
    if verb == "churn" { churn(client, words) } else { connects(words) }
}

/// `churn SEED PREFIX UNTIL`: until a file of that name is there. Answers with the number of rounds.
fn churn<'a>(client: &Client, words: &mut impl Iterator<Item = &'a str>) -> crate::Outcome {
    let mut dice = Dice::new(crate::number(words.next())?);
    let prefix = words.next().unwrap_or("churn").to_owned();
    let until = crate::path(words.next())?.to_owned();
    let mut rounds = 0u64;
    let mut kept = Vec::new();
    while !until.exists() {
        let name = format!("{prefix}{rounds}");
        round(client, &name, &mut dice).map_err(|error| format!("round {rounds}: {error}"))?;
        // Some stay, so that there is something to be had back.
        client.create(&name, &options(&mut dice)).map_err(crate::said)?;
        kept.push(name);
        if kept.len() > 8 {
            let victim = kept.swap_remove(dice.below(kept.len() as u64) as usize);
            is("it is there to be deleted", client.delete(&victim).is_ok())?;
        }
        rounds += 1;
    }
    for name in kept {
        is("what is left is there to be deleted", client.delete(&name).is_ok())?;
    }
    Ok(rounds.to_string())
}

fn options(dice: &mut Dice) -> MailboxOptions {
    let options = MailboxOptions::new().capacity_bytes(4096).lanes_max(8);
    options.receivers_max(1 + dice.below(4) as u16)
}

fn round(client: &Client, name: &str, dice: &mut Dice) -> Checked {
    client.create(name, &options(dice)).map_err(crate::said)?;
    let again = refused(client.create(name, &options(dice)))?;
    is("a name is taken once", matches!(again, Refusal::AlreadyExists { .. }))?;
    let mut receiver = client.receiver(name).map_err(crate::said)?;
    let senders = 1 + dice.below(3);
    for number in 0..senders {
        let mut sender = client.sender(name).map_err(crate::said)?;
        if dice.below(2) == 0 {
            sender.set_priority(3).map_err(crate::said)?;
        }
        sender.send(&number.to_le_bytes()).map_err(crate::said)?;
        let shown = client.show(name).map_err(crate::said)?;
        is(
            "one sends and one receives",
            shown.summary.senders == 1 && shown.summary.receivers == 1,
        )?;
        is("one is queued", shown.summary.queued_messages == 1)?;
        drop(sender);
        let delivery = receiver.receive().map_err(crate::said)?;
        is("what was sent is received", delivery.bytes() == number.to_le_bytes())?;
        is("it was not handed out before", delivery.attempts() == 0)?;
        delivery.acknowledge();
    }
    if dice.below(2) == 0 {
        drop(receiver);
    }
    let shown = client.show(name).map_err(crate::said)?;
    is("all that was sent was counted", shown.summary.sent_messages == senders)?;
    client.delete(name).map_err(crate::said)?;
    let gone = refused(client.delete(name))?;
    is("it is deleted once", matches!(gone, Refusal::NoSuchMailbox { .. }))
}

/// `connects SOCKET UNTIL`: one session after the other, each with a question. Answers with their number.
fn connects<'a>(words: &mut impl Iterator<Item = &'a str>) -> crate::Outcome {
    let socket = crate::path(words.next())?;
    let until: &Path = crate::path(words.next())?;
    let mut sessions = 0u64;
    while !until.exists() {
        let client = ClientOptions::new().socket(socket).connect().map_err(crate::said)?;
        client.status().map_err(crate::said)?;
        sessions += 1;
    }
    Ok(sessions.to_string())
}

/// `send_tracked_numbered ID COUNT BYTES UNTIL`: each is waited for. Answers with their number.
pub(crate) fn send_tracked<'a>(
    sender: &mut libipc::Sender,
    words: &mut impl Iterator<Item = &'a str>,
) -> crate::Outcome {
    let (id, len) = (crate::number(words.next())?, crate::number(words.next())?);
    let until: &Path = crate::path(words.next())?;
    let (mut number, mut message) = (0, Vec::new());
    while !until.exists() {
        tests::numbered::write(id, number, len, &mut message);
        let ticket = sender.send_tracked(&message).map_err(crate::said)?;
        let state = ticket.wait().map_err(crate::said)?;
        is("it is done", state == libipc::TicketState::Done)?;
        number += 1;
    }
    Ok(number.to_string())
}
