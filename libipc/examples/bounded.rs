//! Asynchronous send over a bounded buffer: a send returns once the message is in the lane, and waits only
//! while the lane is full.

mod stage;

use std::time::{Duration, Instant};

use libipc::{Client, MailboxOptions, SendError, TrySendError};
use stage::{Outcome, check, fresh, part, start};

const ORDERS: &str = "guide/bounded";
/// With its header of 16 bytes, a quarter of a lane of 4 KiB.
const ORDER_BYTES: usize = 1008;

fn main() -> Outcome {
    if part() == "consumer" { consume() } else { produce() }
}

fn produce() -> Outcome {
    let client = Client::connect()?;
    fresh(&client, ORDERS, &MailboxOptions::new().capacity_bytes(4096))?;
    let mut orders = client.sender(ORDERS)?;
    for number in 0..4 {
        orders.send(&[number; ORDER_BYTES])?;
    }
    check("four orders were sent, though nobody receives yet", true)?;

    let fifth = [4; ORDER_BYTES];
    let tried = orders.try_send(&fifth);
    check("try_send says that the lane is full", matches!(tried, Err(TrySendError::Full)))?;
    let sent = orders.send_deadline(&fifth, Instant::now() + Duration::from_millis(20));
    check("send_deadline waits, then gives up", matches!(sent, Err(SendError::TimedOut)))?;

    let consumer = start("consumer")?;
    orders.send(&fifth)?;
    check("send waited until the consumer had made room", true)?;
    consumer.ends_well()?;
    client.delete(ORDERS)?;
    Ok(())
}

fn consume() -> Outcome {
    let mut orders = Client::connect()?.receiver(ORDERS)?;
    for number in 0..5 {
        let order = orders.receive()?;
        check(&format!("order {number} is received"), order.bytes() == [number; ORDER_BYTES])?;
        order.acknowledge();
    }
    Ok(())
}
