//! Broadcast: every group of receivers gets every message, and the members of a group compete. A group that is
//! slow holds its senders back, or loses its oldest messages, counted.

mod stage;

use libipc::{Client, MailboxOptions, ReceiveError, SlowGroup};
use stage::{Outcome, check, fresh, part, start};

const PRICES: &str = "guide/groups";
const COUNT: u32 = 1000;

fn main() -> Outcome {
    if part() == "audit" { audit() } else { publish() }
}

fn publish() -> Outcome {
    let client = Client::connect()?;
    let options = MailboxOptions::new()
        .capacity_bytes(4096)
        .group("audit", SlowGroup::Block)?
        .group("screen", SlowGroup::DropOldest)?;
    fresh(&client, PRICES, &options)?;
    let auditor = start("audit")?;
    let mut screen = client.receiver_in_group(PRICES, "screen")?;
    let mut prices = client.sender(PRICES)?;
    for price in 1..=COUNT {
        prices.send(&price.to_le_bytes())?; // waits for the audit, never for the screen
    }
    client.close(PRICES)?;
    auditor.ends_well()?;

    let mut shown = Vec::new();
    while let Ok(price) = screen.try_receive() {
        shown.push(u32::from_le_bytes(price.into_bytes()[..].try_into()?));
    }
    let dropped = client.show(PRICES)?.groups[1].dropped_messages;
    println!("the screen, which looked late, shows {} prices; {dropped} were dropped", shown.len());
    check("the screen has the latest price", shown.last() == Some(&COUNT))?;
    check("what it does not have is counted", shown.len() as u64 + dropped == COUNT.into())?;
    client.delete(PRICES)?;
    Ok(())
}

fn audit() -> Outcome {
    let mut prices = Client::connect()?.receiver_in_group(PRICES, "audit")?;
    let mut sum = 0;
    loop {
        match prices.receive() {
            Ok(price) => sum += u32::from_le_bytes(price.into_bytes()[..].try_into()?),
            Err(ReceiveError::Closed) => break,
            Err(error) => return Err(error.into()),
        }
    }
    check("the audit has every price", sum == COUNT * (COUNT + 1) / 2)
}
