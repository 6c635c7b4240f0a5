//! Who owns a mailbox: the system, until somebody deletes it, or the process that created it, which alone
//! receives from it and with which it goes.

mod stage;

use libipc::{Client, MailboxOptions, Owner, Refusal, RequestError, SendError};
use stage::{Outcome, check, fresh, part, start};

const SYSTEMS: &str = "guide/owner/system";
const PROCESSES: &str = "guide/owner/process";

fn main() -> Outcome {
    if part() == "owner" { own() } else { use_them() }
}

/// Creates a mailbox of each kind, says so, and ends when it is told to.
fn own() -> Outcome {
    let client = Client::connect()?;
    client.create(PROCESSES, &MailboxOptions::new().lifetime(Owner::Process))?;
    let mut own = client.receiver(PROCESSES)?;
    client.sender(SYSTEMS)?.send(b"both are there")?;
    own.receive()?.acknowledge();
    Ok(())
}

fn use_them() -> Outcome {
    let client = Client::connect()?;
    fresh(&client, SYSTEMS, &MailboxOptions::new().lifetime(Owner::System))?;
    let owner = start("owner")?;
    client.receiver(SYSTEMS)?.receive()?.acknowledge();

    let refused = client.receiver(PROCESSES).err();
    let not_ours = matches!(refused, Some(RequestError::Refused(Refusal::NotTheOwner { .. })));
    check("nobody but the owner receives from a process's mailbox", not_ours)?;
    let mut to_owner = client.sender(PROCESSES)?;
    to_owner.send(b"that will do")?;
    check("others send to it", true)?;

    owner.ends_well()?;
    let sent = loop {
        // The daemon hears of the owner's end a moment after it.
        if let Err(error) = to_owner.send(b"are you there?") {
            break error;
        }
    };
    check("when the owner ends its senders are told", matches!(sent, SendError::OwnerGone))?;
    let names = client.list()?.into_iter().map(|mailbox| mailbox.name);
    let left: Vec<_> =
        names.map(String::from).filter(|name| name.contains("guide/owner")).collect();
    check("its mailbox is gone, and the system's is still there", left == [SYSTEMS])?;
    client.delete(SYSTEMS)?;
    Ok(())
}
