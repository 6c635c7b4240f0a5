//! Process termination: whoever waits is told who or what has gone, at once and by the kernel's word; and what a
//! dead process leaves is not lost.

mod stage;

use std::time::{Duration, Instant};

use libipc::{Client, MailboxOptions, ReceiveError, SendError};
use stage::{Outcome, check, fresh, part, start};

const WORK: &str = "guide/endings";
const READY: &str = "guide/endings/ready";

fn main() -> Outcome {
    match part().as_str() {
        "sender" => send_two(),
        "holder" => hold_one(),
        "waiter" => wait_until_deleted(),
        _ => survive(),
    }
}

fn survive() -> Outcome {
    let client = Client::connect()?;
    fresh(&client, WORK, &MailboxOptions::new())?;
    fresh(&client, READY, &MailboxOptions::new())?;
    let mut ready = client.receiver(READY)?;

    let mut work = client.receiver(WORK)?;
    work.end_with_last_sender();
    let sender = start("sender")?;
    let pid = sender.pid();
    let first = work.receive()?.into_bytes();
    let second = work.receive()?.into_bytes();
    sender.ends_well()?;
    check("what it sent is received, though it is gone", first == b"one" && second == b"two")?;
    let ended = work.receive().err();
    check("then: the last sender is gone", matches!(ended, Some(ReceiveError::NoSenders)))?;
    check("and who that was", work.departed().iter().any(|gone| gone.pid == pid))?;
    drop(work);

    let mut to_work = client.sender(WORK)?;
    to_work.send(b"three")?;
    let holder = start("holder")?;
    ready.receive()?.acknowledge();
    to_work.require_receivers();
    holder.kill()?; // with the message in hand
    let alone = loop {
        // The daemon hears of it a moment later.
        if let Err(error) = to_work.send(b"is anybody there?") {
            break error;
        }
    };
    check("a sender that asks for it is told", matches!(alone, SendError::NoReceivers))?;
    let mut work = client.receiver(WORK)?;
    let again = work.receive()?;
    let (text, attempts) = (again.bytes() == b"three", again.attempts());
    check("what the dead one had in hand comes first, and says so", text && attempts == 1)?;
    again.acknowledge();
    drop(work);

    let holder = start("holder")?;
    let pid = holder.pid();
    let other = client.receiver(WORK)?;
    let mut to_work = client.sender(WORK)?;
    to_work.send(b"four")?;
    ready.receive()?.acknowledge();
    to_work.require_receiver(pid);
    holder.kill()?;
    let gone = loop {
        if let Err(error) = to_work.send(b"are you there?") {
            break error;
        }
    };
    check("and of the one it cannot do without", matches!(gone, SendError::ReceiverGone))?;
    drop(other);

    let mut work = client.receiver(WORK)?;
    while let Ok(left) = work.try_receive() {
        left.acknowledge();
    }
    work.end_without_daemon();
    let waited = work.receive_deadline(Instant::now() + Duration::from_millis(1)).map(drop);
    check("with a daemon, it waits as ever", matches!(waited, Err(ReceiveError::TimedOut)))?;
    drop(work);

    let waiter = start("waiter")?;
    ready.receive()?.acknowledge();
    client.delete(WORK)?;
    waiter.ends_well()?;
    let sent = to_work.send(b"five");
    check("a sender is told as well", matches!(sent, Err(SendError::Deleted)))?;
    client.delete(READY)?;
    Ok(())
}

fn send_two() -> Outcome {
    let mut work = Client::connect()?.sender(WORK)?;
    work.send(b"one")?;
    work.send(b"two")?;
    Ok(())
}

fn hold_one() -> Outcome {
    let client = Client::connect()?;
    let mut work = client.receiver(WORK)?;
    let _in_hand = work.receive()?;
    client.sender(READY)?.send(b"")?;
    loop {
        std::thread::park();
    }
}

fn wait_until_deleted() -> Outcome {
    let client = Client::connect()?;
    let mut work = client.receiver(WORK)?;
    client.sender(READY)?.send(b"")?;
    loop {
        match work.receive() {
            Ok(left) => left.acknowledge(),
            Err(ReceiveError::Deleted) => break,
            Err(error) => return Err(error.into()),
        }
    }
    check("whoever waits is told that the mailbox is deleted", true)
}
