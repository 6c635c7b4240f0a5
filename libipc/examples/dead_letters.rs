//! Dead letters: messages that nobody can deal with do not come again for ever, and are not lost.

mod stage;

use libipc::{Client, MailboxOptions, Reason, SendError, TicketState};
use stage::{Outcome, check, fresh, part, start};

const WORK: &str = "guide/dead-letters";

fn main() -> Outcome {
    match part().as_str() {
        "victim" => die_of_it(),
        _ => deal_with_what_nobody_can(),
    }
}

fn deal_with_what_nobody_can() -> Outcome {
    let client = Client::connect()?;
    fresh(&client, WORK, &MailboxOptions::new().max_attempts(2))?;
    let mut to_work = client.sender(WORK)?;

    let nonsense = to_work.send_tracked(b"nonsense")?;
    let mut work = client.receiver(WORK)?;
    work.receive()?.reject()?;
    let told = nonsense.wait()? == TicketState::DeadLettered;
    check("a receiver rejects what it cannot deal with, and the sender hears of it", told)?;
    drop(work);

    let poison = to_work.send_tracked(b"poison")?;
    for _ in 0..2 {
        // Twice is as often as it may be handed out.
        let _ = start("victim")?.ends_well();
    }
    let told = poison.wait()? == TicketState::DeadLettered;
    check("what kills its receivers is put aside, whether one is left or not", told)?;

    let mut letters = client.receiver(&format!("dead/{WORK}"))?;
    for (text, reason) in [("nonsense", Reason::Rejected), ("poison", Reason::Attempts)] {
        let letter = letters.receive()?;
        let known = letter.dead_letter().is_some_and(|known| known.reason == reason);
        let whole = letter.bytes() == text.as_bytes() && letter.sender().pid == std::process::id();
        check("a dead letter says why it is one, and whose it was", known && whole)?;
        letter.return_to_queue();
        letters.receive()?.acknowledge();
    }

    to_work.send(b"too early")?;
    let mut work = client.receiver(WORK)?;
    work.receive()?.reject()?;
    check("once somebody can deal with it", client.requeue(WORK, None)? == 1)?;
    let again = work.receive()?;
    let back = again.bytes() == b"too early" && again.dead_letter().is_none();
    check("it is put back, as if it had just been sent", back)?;
    again.acknowledge();
    drop(work);

    let waiting = std::thread::spawn(|| -> Result<(), libipc::RequestError> {
        let client = Client::connect().map_err(|_| libipc::RequestError::DaemonAway)?;
        let mut work = client.receiver(WORK)?;
        work.receive().map_err(|_| libipc::RequestError::DaemonAway)?.reject()
    });
    let ended = to_work.send_sync(b"nonsense again");
    check("whoever waits is told", matches!(ended, Err(SendError::DeadLettered)))?;
    waiting.join().map_err(|_| "the receiver has panicked")??;
    client.delete(WORK)?;
    Ok(())
}

fn die_of_it() -> Outcome {
    let client = Client::connect()?;
    let mut work = client.receiver(WORK)?;
    let _in_hand = work.receive()?;
    std::process::abort()
}
