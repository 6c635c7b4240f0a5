//! Synchronous send, rendezvous: nothing is buffered, and a send returns when the message has been received and
//! acknowledged. Where a deadline passes, the sender learns which of the two it was.

mod stage;

use std::time::{Duration, Instant};

use libipc::{Buffering, Client, MailboxOptions, SendError, TicketState};
use stage::{Outcome, check, fresh, part, start};

const HATCH: &str = "guide/rendezvous";
const DONE: &str = "guide/rendezvous/done";
const GO_ON: &str = "guide/rendezvous/go-on";

fn main() -> Outcome {
    if part() == "waiter" { take() } else { pass() }
}

fn pass() -> Outcome {
    let client = Client::connect()?;
    fresh(&client, HATCH, &MailboxOptions::new().buffering(Buffering::Rendezvous))?;
    fresh(&client, DONE, &MailboxOptions::new())?;
    fresh(&client, GO_ON, &MailboxOptions::new())?;
    let (mut hatch, mut done) = (client.sender(HATCH)?, client.receiver(DONE)?);

    let sent = hatch.send_deadline(b"soup", soon());
    check("nobody came: timed out, nobody has it", matches!(sent, Err(SendError::TimedOut)))?;

    let waiter = start("waiter")?;
    hatch.send(b"soup")?;
    let carried = done.try_receive()?.into_bytes();
    check("when send returns the waiter has done its work", carried == b"soup")?;

    let ticket = loop {
        match hatch.send_deadline(b"stew", soon()) {
            Err(SendError::InHand(ticket)) => break ticket,
            Err(SendError::TimedOut) => {} // the waiter has not come back yet
            other => return Err(format!("not expected: {other:?}").into()),
        }
    };
    check("the waiter has the stew in hand, and has not said that it is done", true)?;
    client.sender(GO_ON)?.send(b"")?;
    check("the ticket tells how that ended", ticket.wait()? == TicketState::Done)?;
    waiter.ends_well()?;
    for name in [HATCH, DONE, GO_ON] {
        client.delete(name)?;
    }
    Ok(())
}

fn soon() -> Instant {
    Instant::now() + Duration::from_millis(20)
}

fn take() -> Outcome {
    let client = Client::connect()?;
    let (mut hatch, mut done) = (client.receiver(HATCH)?, client.sender(DONE)?);
    let soup = hatch.receive()?;
    done.send(soup.bytes())?;
    soup.acknowledge();

    let stew = hatch.receive()?;
    client.receiver(GO_ON)?.receive()?.acknowledge();
    stew.acknowledge();
    Ok(())
}
