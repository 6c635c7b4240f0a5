//! Direct naming, symmetric: the receiver names the sender, too. It takes the messages of that one process, and
//! those of the others stay where they are.

mod stage;

use libipc::{Client, MailboxOptions, ReceiveError};
use stage::{Outcome, check, part, start};

const JUDGE: &str = "guide-judge";

fn main() -> Outcome {
    match part().as_str() {
        "" => judge(),
        party => plead(party),
    }
}

fn judge() -> Outcome {
    let client = Client::connect()?;
    let mut inbox = client.register(Some(JUDGE), &MailboxOptions::new())?;
    let (alice, bob) = (start("Alice")?, start("Bob")?);
    let pids = [bob.pid(), alice.pid()];
    for (pid, name) in pids.into_iter().zip(["Bob", "Alice"]) {
        for word in 1..=2 {
            let heard = inbox.receive_from(pid)?.into_bytes();
            let expected = format!("{name}: {word}");
            check(&format!("{expected} is heard"), heard == expected.as_bytes())?;
        }
        client.send_to(pid, b"heard")?;
    }
    check("Bob was heard first, whoever spoke first", true)?;
    bob.ends_well()?;
    alice.ends_well()?;
    let gone = inbox.receive_from(pids[0]).err();
    check(
        "who has left and left nothing is an error",
        matches!(gone, Some(ReceiveError::SenderGone)),
    )
}

fn plead(name: &str) -> Outcome {
    let client = Client::connect()?;
    let mut inbox = client.register(None, &MailboxOptions::new())?;
    for word in 1..=2 {
        client.send_to(JUDGE, format!("{name}: {word}").as_bytes())?;
    }
    let judge = client.find(JUDGE)?.pid;
    check("the judge answers", inbox.receive_from(judge)?.into_bytes() == b"heard")
}
