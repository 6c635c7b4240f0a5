//! What the examples of the guide share: claims that are checked, and other processes to talk to.

#![allow(dead_code, reason = "each example uses what it needs")]

use std::error::Error;
use std::io;
use std::process::{Child, Command};

use libipc::{Client, MailboxOptions, RequestError};

pub(crate) type Outcome = Result<(), Box<dyn Error>>;

/// Tells a claim that holds; one that does not ends the example, which then exits with 1.
pub(crate) fn check(claim: &str, holds: bool) -> Outcome {
    if holds {
        println!("{claim}");
        return Ok(());
    }
    Err(format!("does not hold: {claim}").into())
}

/// Creates a mailbox anew, also where a run that failed has left one of that name.
pub(crate) fn fresh(
    client: &Client,
    name: &str,
    options: &MailboxOptions,
) -> Result<(), RequestError> {
    let _ = client.delete(name);
    client.create(name, options)
}

/// The part that this process plays: empty for the one that was started by hand.
pub(crate) fn part() -> String {
    std::env::args().nth(1).unwrap_or_default()
}

/// Another process of this program, with a part of its own. Killed when dropped.
pub(crate) struct Actor(Child);

/// Starts this program once more, to play a part.
pub(crate) fn start(part: &str) -> io::Result<Actor> {
    Command::new(std::env::current_exe()?).arg(part).spawn().map(Actor)
}

impl Actor {
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Waits for its end, and fails if it has failed.
    pub(crate) fn ends_well(mut self) -> Outcome {
        let status = self.0.wait()?;
        if status.success() { Ok(()) } else { Err(format!("an actor failed: {status}").into()) }
    }

    /// Ends it as no process can prevent.
    pub(crate) fn kill(mut self) -> io::Result<()> {
        self.0.kill()?;
        self.0.wait().map(drop)
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
