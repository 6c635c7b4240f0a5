//! Who receives: any of many; one at a time, in turn (`exclusive`); or the one receiver of a link of two
//! processes (`single`).

mod stage;

use std::time::Duration;

use libipc::{Client, MailboxOptions, Receivers, Refusal, RequestError};
use stage::{Outcome, check, fresh, part, start};

const LINK: &str = "guide/who/single";
const DESK: &str = "guide/who/exclusive";
const SERVED: &str = "guide/who/served";
const IN_TURN: u32 = 20;

fn main() -> Outcome {
    match part().as_str() {
        "clerk" => serve(),
        "stranger" => intrude(),
        _ => single().and_then(|()| exclusive()),
    }
}

/// A link: one process sends, one receives.
fn single() -> Outcome {
    let client = Client::connect()?;
    fresh(&client, LINK, &MailboxOptions::new().receivers(Receivers::Single))?;
    let (_sender, _receiver) = (client.sender(LINK)?, client.receiver(LINK)?);
    start("stranger")?.ends_well()?;
    client.delete(LINK)?;
    Ok(())
}

fn intrude() -> Outcome {
    let client = Client::connect()?;
    let refused = |error| matches!(error, Some(RequestError::Refused(Refusal::Occupied { .. })));
    check("single: no second process may send", refused(client.sender(LINK).err()))?;
    check("single: none may receive", client.receiver(LINK).is_err())
}

/// Two clerks at a desk: the one that has waited longest is next.
fn exclusive() -> Outcome {
    let client = Client::connect()?;
    fresh(&client, DESK, &MailboxOptions::new().receivers(Receivers::Exclusive))?;
    fresh(&client, SERVED, &MailboxOptions::new())?;
    let (mut desk, mut served) = (client.sender(DESK)?, client.receiver(SERVED)?);
    let clerks = [start("clerk")?, start("clerk")?];
    while client.show(DESK)?.summary.receivers < 2 {
        std::thread::sleep(Duration::from_millis(1));
    }
    // As soon as both stand in line they take turns; until then one may serve several.
    let (mut turns, mut last, mut customers) = (0, 0, 0);
    while turns < IN_TURN && customers < 10_000 {
        let clerk = next_served(&mut desk, &mut served)?;
        turns = if clerk == last { 0 } else { turns + 1 };
        (last, customers) = (clerk, customers + 1);
    }
    check("exclusive: two clerks serve twenty customers in turn", turns == IN_TURN)?;
    client.close(DESK)?;
    for clerk in clerks {
        clerk.ends_well()?;
    }
    client.delete(DESK)?;
    client.delete(SERVED)?;
    Ok(())
}

/// Sends one customer; who has served it.
fn next_served(
    desk: &mut libipc::Sender,
    served: &mut libipc::Receiver,
) -> Result<u32, Box<dyn std::error::Error>> {
    desk.send(b"a customer")?;
    let done = served.receive()?;
    let clerk = done.sender().pid;
    done.acknowledge();
    Ok(clerk)
}

fn serve() -> Outcome {
    let client = Client::connect()?;
    let (mut desk, mut served) = (client.receiver(DESK)?, client.sender(SERVED)?);
    loop {
        match desk.receive() {
            Ok(customer) => customer.acknowledge(),
            Err(libipc::ReceiveError::Closed) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        served.send(b"served")?;
    }
}
