//! Priority: a sender has a lane for each priority that it uses, and receivers take the highest first.

mod stage;

use libipc::{Client, MailboxOptions};
use stage::{Outcome, check, fresh, part, start};

const WARD: &str = "guide/priority";

fn main() -> Outcome {
    if part() == "doctor" { see_patients() } else { bring_patients() }
}

fn bring_patients() -> Outcome {
    let client = Client::connect()?;
    fresh(&client, WARD, &MailboxOptions::new())?;
    let mut ward = client.sender(WARD)?;
    for (priority, patient) in [(0, "a cold"), (0, "a cough"), (20, "a heart"), (7, "a leg")] {
        ward.set_priority(priority)?;
        ward.send(patient.as_bytes())?;
        println!("{patient} arrives, priority {priority}");
    }
    start("doctor")?.ends_well()?;
    client.delete(WARD)?;
    Ok(())
}

fn see_patients() -> Outcome {
    let mut ward = Client::connect()?.receiver(WARD)?;
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(String::from_utf8(ward.receive()?.into_bytes())?);
    }
    println!("the doctor sees {seen:?}");
    check("the highest priority is first", seen[..2] == ["a heart", "a leg"])?;
    check("equals keep their sender's order", seen[2..] == ["a cold", "a cough"])
}
