//! Waiting on many: a `WaitSet` sleeps on many mailboxes at once; a descriptor puts a mailbox into any event loop.

mod stage;

use std::io::{self, PipeReader, Read as _, Write as _};
use std::os::fd::AsFd as _;

use libipc::{Client, MailboxOptions, Receiver, TryReceiveError, WaitSet};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use stage::{Outcome, check, fresh, part, start};

const ORDERS: &str = "guide/waiting/orders";
const RETURNS: &str = "guide/waiting/returns";

fn main() -> Outcome {
    if part() == "shop" { sell() } else { serve() }
}

fn serve() -> Outcome {
    let client = Client::connect()?;
    fresh(&client, ORDERS, &MailboxOptions::new())?;
    fresh(&client, RETURNS, &MailboxOptions::new())?;
    let (mut orders, mut returns) = (client.receiver(ORDERS)?, client.receiver(RETURNS)?);
    let shop = start("shop")?;

    let mut set = WaitSet::new();
    let mut received = [0, 0];
    while received != [3, 2] {
        for &ready in set.wait(&mut [&mut orders, &mut returns])? {
            let receiver = if ready == 0 { &mut orders } else { &mut returns };
            if try_one(receiver)? {
                received[ready] += 1;
            }
        }
    }
    check("3 orders and 2 returns came to one thread, which waited for both", true)?;
    shop.ends_well()?;

    let (pipe, mut other_end) = io::pipe()?;
    other_end.write_all(b"!")?;
    check("poll: the pipe has something", first_of(&mut orders, &pipe)? == "pipe")?;
    client.sender(ORDERS)?.send(b"one more")?;
    check("poll: the mailbox has something", first_of(&mut orders, &pipe)? == "mailbox")?;
    client.delete(ORDERS)?;
    client.delete(RETURNS)?;
    Ok(())
}

fn try_one(receiver: &mut Receiver) -> Result<bool, TryReceiveError> {
    match receiver.try_receive() {
        Ok(delivery) => {
            delivery.acknowledge();
            Ok(true)
        }
        // Another receiver was quicker.
        Err(TryReceiveError::Empty) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Waits for a message or for a byte of a pipe, and takes it.
fn first_of(
    orders: &mut Receiver,
    mut pipe: &PipeReader,
) -> Result<&'static str, Box<dyn std::error::Error>> {
    loop {
        // First receive until there is nothing: only then the descriptor tells of what is new.
        if try_one(orders)? {
            return Ok("mailbox");
        }
        let mut descriptors = [
            PollFd::new(orders.poll_fd()?, PollFlags::POLLIN),
            PollFd::new(pipe.as_fd(), PollFlags::POLLIN),
        ];
        poll(&mut descriptors, PollTimeout::NONE)?;
        if descriptors[1].any() == Some(true) {
            pipe.read_exact(&mut [0])?;
            return Ok("pipe");
        }
    }
}

fn sell() -> Outcome {
    let client = Client::connect()?;
    let (mut orders, mut returns) = (client.sender(ORDERS)?, client.sender(RETURNS)?);
    orders.send(b"tea")?;
    returns.send(b"a cup")?;
    orders.send(b"cake")?;
    returns.send(b"a plate")?;
    orders.send(b"the bill")?;
    Ok(())
}
