//! The ends as an event loop uses them: a try, and where that finds nothing a `poll` on the descriptor; and
//! as a thread uses them that waits on many.

use std::io::{BufWriter, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use libipc::{
    Client, Delivery, Receiver, Sender, TryReceiveError, TrySendError, WaitSet, Waitable,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tests::numbered;

use crate::{Outcome, number, path, said};

/// Asks for the descriptors of the ends that are open, and has them armed where there is nothing to do.
pub(crate) fn make(
    sender: Option<&mut Sender>,
    receiver: Option<&mut Receiver>,
) -> Result<(), String> {
    if let Some(sender) = sender {
        sender.poll_fd().map_err(said)?;
    }
    if let Some(receiver) = receiver {
        receiver.poll_fd().map_err(said)?;
        match receiver.try_receive() {
            Err(TryReceiveError::Empty) => {}
            other => {
                return Err(format!(
                    "not empty: {:?}",
                    other.map(|delivery| delivery.into_bytes())
                ));
            }
        }
    }
    Ok(())
}

fn wait_readable(fd: BorrowedFd<'_>) -> Result<(), String> {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(said(error)),
    }
}

/// Sends numbered messages; says how often it slept and how often it was told that there is no room.
pub(crate) fn send_numbered<'a>(
    sender: &mut Sender,
    words: &mut impl Iterator<Item = &'a str>,
) -> Outcome {
    let id = number(words.next())?;
    let (first, count): (u64, u64) = (number(words.next())?, number(words.next())?);
    let len = number(words.next())?;
    let fd = sender.poll_fd().map_err(said)?.try_clone_to_owned().map_err(said)?;
    let (mut wakes, mut refusals) = (0u64, 0u64);
    let mut message = Vec::new();
    for n in first..first + count {
        numbered::write(id, n, len, &mut message);
        loop {
            match sender.try_send(&message) {
                Ok(()) => break,
                Err(TrySendError::Full) => refusals += 1,
                Err(error) => return Err(said(error)),
            }
            wait_readable(fd.as_fd())?;
            wakes += 1;
        }
    }
    Ok(format!("{wakes} {refusals}"))
}

fn log(delivery: Delivery<'_>, log: &mut impl Write) -> Result<(), String> {
    let entry = numbered::read(delivery.bytes(), delivery.attempts());
    numbered::log(entry, log).map_err(said)?;
    delivery.acknowledge();
    Ok(())
}

/// Receives numbered messages until the mailbox is closed and empty; says how many, how often it slept, and
/// how often it found nothing.
pub(crate) fn drain(receiver: &mut Receiver, to: &Path) -> Outcome {
    let mut to = BufWriter::new(numbered::open_log(to).map_err(said)?);
    let fd = receiver.poll_fd().map_err(said)?.try_clone_to_owned().map_err(said)?;
    let (mut count, mut wakes, mut empties) = (0u64, 0u64, 0u64);
    loop {
        wait_readable(fd.as_fd())?;
        wakes += 1;
        loop {
            match receiver.try_receive() {
                Ok(delivery) => log(delivery, &mut to)?,
                Err(TryReceiveError::Empty) => break,
                Err(TryReceiveError::Closed) => {
                    to.flush().map_err(said)?;
                    return Ok(format!("{count} {wakes} {empties}"));
                }
                Err(error) => return Err(said(error)),
            }
            count += 1;
        }
        empties += 1;
    }
}

/// Receives numbered messages from several mailboxes until all are closed and empty; says how many.
pub(crate) fn drain_set<'a>(client: &Client, words: &mut impl Iterator<Item = &'a str>) -> Outcome {
    let mut to = BufWriter::new(numbered::open_log(path(words.next())?).map_err(said)?);
    let opened: Result<Vec<_>, _> = words.map(|name| client.receiver(name)).collect();
    let mut receivers = opened.map_err(said)?;
    let mut set = WaitSet::new();
    set.set_spin_max(std::time::Duration::ZERO);
    let mut count = 0u64;
    while !receivers.is_empty() {
        let mut sources: Vec<_> = receivers.iter_mut().map(|r| r as &mut dyn Waitable).collect();
        // Only the first each time: the rotation must serve all.
        let ready = set.wait(&mut sources).map_err(said)?[0];
        let closed = match receivers[ready].try_receive() {
            Ok(delivery) => {
                log(delivery, &mut to)?;
                count += 1;
                false
            }
            Err(TryReceiveError::Empty) => false,
            Err(TryReceiveError::Closed) => true,
            Err(error) => return Err(said(error)),
        };
        if closed {
            receivers.remove(ready);
        }
    }
    to.flush().map_err(said)?;
    Ok(count.to_string())
}
