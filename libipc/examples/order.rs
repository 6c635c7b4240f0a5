//! Order: each sender's own by default; with `arrival`, of two messages whose sends did not overlap the earlier is
//! received first, whoever sent them.

mod stage;

use libipc::{Client, MailboxOptions, Order};
use stage::{Outcome, check, fresh};

const ROUNDS: u8 = 100;

fn main() -> Outcome {
    let client = Client::connect()?;
    let by_sender = received(&client, "guide/order/sender", Order::Sender)?;
    let of_one = |sender| by_sender.iter().filter(move |&&(from, _)| from == sender);
    let ordered = (0..3).all(|sender| of_one(sender).is_sorted());
    check("order sender: each sender's messages come in its order", ordered)?;
    println!("    among senders as it comes: {:?} ...", &by_sender[..6]);

    let by_arrival = received(&client, "guide/order/arrival", Order::Arrival)?;
    let sent = (0..ROUNDS).flat_map(|round| (0..3).map(move |sender| (sender, round)));
    check("order arrival: all of them come as they were sent", sent.eq(by_arrival.clone()))?;
    println!("    also among senders: {:?} ...", &by_arrival[..6]);
    Ok(())
}

/// Three senders send in turn; who sent what, as it is received.
fn received(
    client: &Client,
    name: &str,
    order: Order,
) -> Result<Vec<(u8, u8)>, Box<dyn std::error::Error>> {
    fresh(client, name, &MailboxOptions::new().order(order))?;
    let mut senders = [client.sender(name)?, client.sender(name)?, client.sender(name)?];
    for round in 0..ROUNDS {
        for (number, sender) in (0..).zip(&mut senders) {
            sender.send(&[number, round])?;
        }
    }
    let mut receiver = client.receiver(name)?;
    let mut received = Vec::new();
    for _ in 0..3 * u32::from(ROUNDS) {
        let message = receiver.receive()?.into_bytes();
        received.push((message[0], message[1]));
    }
    client.delete(name)?;
    Ok(received)
}
