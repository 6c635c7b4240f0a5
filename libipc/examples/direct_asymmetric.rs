//! Direct naming, asymmetric: the sender names the receiver, by the name under which it has registered or by its
//! process id; the receiver takes from anybody, and is told from whom.

mod stage;

use libipc::{Client, MailboxOptions, Refusal, RequestError, SendToError};
use stage::{Outcome, check, part, start};

const PRINTER: &str = "guide-printer";

fn main() -> Outcome {
    if part() == "user" { print_twice() } else { print() }
}

/// The printer: whoever knows its name can send to it.
fn print() -> Outcome {
    let client = Client::connect()?;
    let mut inbox = client.register(Some(PRINTER), &MailboxOptions::new())?;
    let user = start("user")?;
    for expected in ["by name", "by process id"] {
        let page = inbox.receive()?;
        println!("the printer prints {} for {}", page.bytes().escape_ascii(), page.sender());
        check("it is told who sent", page.sender().pid == user.pid())?;
        check("and gets what was sent", page.bytes() == expected.as_bytes())?;
        page.acknowledge();
    }
    user.ends_well()
}

/// A user of the printer: the link to it is made by the first message.
fn print_twice() -> Outcome {
    let client = Client::connect()?;
    client.send_to(PRINTER, b"by name")?;
    client.send_to(client.find(PRINTER)?.pid, b"by process id")?;
    let unknown = client.send_to("guide-plotter", b"by a wrong name");
    let refused = matches!(
        unknown,
        Err(SendToError::NoLink(RequestError::Refused(Refusal::NoSuchProcess { .. })))
    );
    check("a name under which nobody has registered is refused", refused)
}
