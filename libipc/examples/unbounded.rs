//! An unbounded buffer: a lane that is full goes on in a larger one, so a sender never waits. What bounds it is
//! the sender's quota.

mod stage;

use libipc::{Buffering, Client, MailboxOptions};
use stage::{Outcome, check, fresh, part, start};

const LOG: &str = "guide/unbounded";
const LINES: u32 = 10_000;

fn main() -> Outcome {
    if part() == "reader" { read() } else { write() }
}

fn write() -> Outcome {
    let client = Client::connect()?;
    let options = MailboxOptions::new().capacity_bytes(4096).buffering(Buffering::Unbounded);
    fresh(&client, LOG, &options)?;
    let mut log = client.sender(LOG)?;
    for number in 0..LINES {
        log.try_send(&line(number))?; // try_send never waits, and never says that the lane is full
    }
    let queued = client.show(LOG)?.summary.queued_bytes;
    println!("{LINES} lines, {queued} bytes, wait in a mailbox of lanes of 4096 bytes");
    check("they are far more than a lane holds", queued > 100 * 4096)?;
    start("reader")?.ends_well()?;
    let queued = client.show(LOG)?.summary.queued_bytes;
    check("once they are received nothing is left", queued == 0)?;
    client.delete(LOG)?;
    Ok(())
}

fn read() -> Outcome {
    let mut log = Client::connect()?.receiver(LOG)?;
    let in_order = (0..LINES).try_fold(true, |so_far, number| {
        log.receive().map(|delivery| so_far & (delivery.into_bytes() == line(number)))
    })?;
    check("all of them are received, in the order in which they were sent", in_order)
}

fn line(number: u32) -> Vec<u8> {
    format!("line {number} of what happened, of a certain length").into_bytes()
}
