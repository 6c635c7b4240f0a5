//! Closes sockets of clients where nobody waits for it.
//!
//! A datagram that nobody has read keeps the descriptors that were sent with it, and the kernel closes those in the thread
//! that throws the datagram away, or closes the socket. If one of them is a file whose last close waits, such as a TCP
//! socket that lingers, so does that thread, for as long as the client likes. So the daemon's own thread closes no
//! socket that may have such a thing in it, nor does the keeper's: some threads of ours do, that wait for nobody but
//! their clients.
//!
//! A signal that a timer sends to such a thread interrupts its waiting (a lingering socket then goes on closing without
//! it). What no signal interrupts holds up one thread, and another takes its place. Before a socket is closed
//! it is emptied: whoever else has it open and closes it last, a keeper or a process that was just started, finds
//! nothing in it.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use libipc::sys::{signal, socket};
use nix::sys::signal::{SigEvent, SigevNotify, Signal};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;
use tracing::warn;

/// How long one may wait before it is interrupted, again and again.
const PATIENCE: Duration = Duration::from_millis(2);
/// What interrupts it: by itself the signal does nothing.
const INTERRUPTION: Signal = Signal::SIGURG;
/// Threads there may be: so many closes that cannot be interrupted come to an end some other time.
const THREADS_MAX: usize = 16;
/// Datagrams that are read out of one socket: more than fit into one.
const DATAGRAMS_MAX: usize = 1 << 20;

static CLOSERS: Closers = Closers {
    work: Mutex::new(Work { sockets: VecDeque::new(), threads: 0, idle: 0 }),
    come: Condvar::new(),
};

#[derive(Debug)]
struct Closers {
    work: Mutex<Work>,
    come: Condvar,
}

#[derive(Debug)]
struct Work {
    sockets: VecDeque<OwnedFd>,
    threads: usize,
    /// Threads that have nothing to do.
    idle: usize,
}

/// Closes a socket on which was hung up, in a thread that may wait.
pub fn close(socket: OwnedFd) {
    let mut work = CLOSERS.lock();
    work.sockets.push_back(socket);
    if work.idle < work.sockets.len() && work.threads < THREADS_MAX {
        let started = std::thread::Builder::new().name("closer".into()).spawn(|| CLOSERS.run());
        match started {
            Ok(_) => work.threads += 1,
            // The socket waits for one of those that are there, or for the next.
            Err(error) => warn!(%error, "cannot start a thread that closes sockets"),
        }
    }
    drop(work);
    CLOSERS.come.notify_one();
}

impl Closers {
    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut alarm =
            alarm().inspect_err(|error| warn!(%error, "a closer without an alarm")).ok();
        loop {
            let socket = self.next();
            let every = Expiration::IntervalDelayed(PATIENCE.into(), PATIENCE.into());
            let set = |alarm: &mut Timer| alarm.set(every, TimerSetTimeFlags::empty());
            let is_set = alarm.as_mut().map(set);
            empty(&socket);
            drop(socket);
            if let (Some(alarm), Some(Ok(()))) = (&mut alarm, is_set) {
                let never = Expiration::OneShot(Duration::ZERO.into());
                // It is there: it was set before.
                let _ = alarm.set(never, TimerSetTimeFlags::empty());
            }
        }
    }

    fn next(&self) -> OwnedFd {
        let mut work = self.lock();
        loop {
            if let Some(socket) = work.sockets.pop_front() {
                return socket;
            }
            work.idle += 1;
            work = self.come.wait(work).unwrap_or_else(PoisonError::into_inner);
            work.idle -= 1;
        }
    }
}

/// A timer that interrupts this very thread.
fn alarm() -> std::io::Result<Timer> {
    signal::only_interrupts(INTERRUPTION)?;
    let us = nix::unistd::gettid().as_raw();
    let interrupt = SigevNotify::SigevThreadId { signal: INTERRUPTION, thread_id: us, si_value: 0 };
    Ok(Timer::new(ClockId::CLOCK_MONOTONIC, SigEvent::new(interrupt))?)
}

/// Throws away what is in a socket into which nothing more comes.
fn empty(client: &OwnedFd) {
    // By its credentials an empty datagram is told from the end.
    if setsockopt(client, sockopt::PassCred, &true).is_err() {
        return;
    }
    for _ in 0..DATAGRAMS_MAX {
        match socket::discard(client.as_fd()) {
            Ok(true) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Ok(false) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    use crate::client_socket::tests::{lingering, pair, wait_for_hang_up};
    use nix::sys::socket::Shutdown;

    #[test]
    fn closers_are_not_held_up_by_what_lingers_however_much_there_is() {
        let left: Vec<_> = (0..4 * THREADS_MAX)
            .map(|_| {
                let (theirs, ours) = pair();
                let (gift, peer) = lingering();
                let (ends, last) = nix::unistd::pipe().unwrap();
                for gift in [gift.as_fd(), gift.as_fd(), last.as_fd()] {
                    socket::send(theirs.as_fd(), b"x", &[gift], false).unwrap();
                }
                // The last of each is not ours to close.
                drop((gift, last));
                nix::sys::socket::shutdown(ours.as_raw_fd(), Shutdown::Both).unwrap();
                close(ours);
                (theirs, peer, ends)
            })
            .collect();
        // Each socket is emptied to its end, though nobody reads what lingers.
        for (_, _, ends) in &left {
            wait_for_hang_up(ends);
        }
    }
}
