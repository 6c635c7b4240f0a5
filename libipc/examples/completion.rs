//! Completion: a ticket tells what has become of a message: look, wait, or have a descriptor, a function or a
//! signal tell; and as long as nobody has it, take it back.

mod stage;

use std::sync::mpsc;

use libipc::{Client, MailboxOptions, Returned, TicketState, TryReceiveError};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use stage::{Outcome, check, fresh, part, start};

const ORDERS: &str = "guide/completion";

fn main() -> Outcome {
    if part() == "cook" { cook() } else { order() }
}

fn order() -> Outcome {
    // For the signal below, and before there are other threads, which would take it.
    let signals = SigSet::from(Signal::SIGUSR1);
    signals.thread_block()?;

    let client = Client::connect()?;
    fresh(&client, ORDERS, &MailboxOptions::new())?;
    let mut orders = client.sender(ORDERS)?;

    let soup = orders.send_tracked(b"soup")?;
    check("look: nobody has the soup yet", soup.state()? == TicketState::Queued)?;
    let cook = start("cook")?;
    check("wait: it is received and acknowledged", soup.wait()? == TicketState::Done)?;

    let stew = orders.send_tracked(b"stew")?;
    poll(&mut [PollFd::new(stew.poll_fd()?, PollFlags::POLLIN)], PollTimeout::NONE)?;
    check("poll: the stew is done", stew.state()? == TicketState::Done)?;

    let (tell, told) = mpsc::channel();
    let roast = orders.send_tracked(b"roast")?;
    roast.on_settled(move |state| _ = tell.send(state))?;
    check("a function: the roast is done", told.recv()? == TicketState::Done)?;

    let cake = orders.send_tracked(b"cake")?;
    cake.signal(Signal::SIGUSR1 as i32, 0)?;
    check("a signal: the cake is done", signals.wait()? == Signal::SIGUSR1)?;
    cook.ends_well()?;

    let salad = orders.send_tracked(b"salad")?;
    let withdrawn = TicketState::Returned(Returned::Withdrawn);
    check("the salad is taken back in time", salad.withdraw()? == withdrawn)?;
    let next = client.receiver(ORDERS)?.try_receive().err();
    check("so nobody ever receives it", matches!(next, Some(TryReceiveError::Empty)))?;
    client.delete(ORDERS)?;
    Ok(())
}

fn cook() -> Outcome {
    let mut orders = Client::connect()?.receiver(ORDERS)?;
    for _ in 0..4 {
        let order = orders.receive()?;
        println!("    the cook has made {}", order.bytes().escape_ascii());
        order.acknowledge(); // this is what the tickets wait for
    }
    Ok(())
}
