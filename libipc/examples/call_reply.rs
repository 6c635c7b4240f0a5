//! Request and reply: a call is sent, received and answered, and the answer comes back to the caller, with each
//! side's identity as the kernel attests it.

mod stage;

use std::time::{Duration, Instant};

use libipc::{CallError, Client, MailboxOptions};
use stage::{Outcome, check, fresh, part, start};

const SUMS: &str = "guide/sums";

fn main() -> Outcome {
    if part() == "server" { serve() } else { call() }
}

fn call() -> Outcome {
    let client = Client::connect()?;
    fresh(&client, SUMS, &MailboxOptions::new())?;
    let mut sums = client.sender(SUMS)?;
    let soon = Instant::now() + Duration::from_millis(20);
    let called = sums.call_deadline(b"1 2 3", soon);
    check(
        "nobody answers: the deadline ends the call",
        matches!(called, Err(CallError::TimedOut)),
    )?;

    let server = start("server")?;
    for (numbers, sum) in [("1 2 3", "6"), ("40 2", "42"), ("", "0")] {
        let reply = sums.call(numbers.as_bytes())?;
        check(&format!("the sum of {numbers:?} is {sum}"), reply.bytes() == sum.as_bytes())?;
        check("and it was the server that said so", reply.server().pid == server.pid())?;
    }
    server.ends_well()?;
    client.delete(SUMS)?;
    Ok(())
}

fn serve() -> Outcome {
    let mut sums = Client::connect()?.receiver(SUMS)?;
    for _ in 0..3 {
        let request = sums.receive()?;
        let numbers = std::str::from_utf8(request.bytes())?.split_whitespace();
        let sum: i64 = numbers.map(str::parse::<i64>).sum::<Result<_, _>>()?;
        request.reply(sum.to_string().as_bytes())?;
    }
    Ok(())
}
