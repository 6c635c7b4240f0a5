//! A daemon in a test's hand: it runs when and as far as the test lets it, and may be killed where it stands.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::{PATIENCE, wait_until};

/// A daemon that has not come to its next instruction for so long sleeps: it has done all that there is to do.
const ASLEEP: Duration = Duration::from_millis(50);

/// The daemon in our hand, until it is killed or let go.
#[derive(Debug)]
pub struct Stepped(Pid);

/// Where a daemon stands still: before or behind a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtCall {
    /// The call's number.
    pub call: i64,
    /// The kernel has done it.
    pub done: bool,
}

impl Stepped {
    /// Stops a process of ours, when it sleeps: it has nothing to do.
    ///
    /// # Panics
    /// If it may not be traced.
    #[must_use]
    pub fn take(pid: u32) -> Self {
        wait_until("the daemon sleeps", || is_asleep(pid));
        let pid = Pid::from_raw(pid.cast_signed());
        ptrace::seize(pid, ptrace::Options::PTRACE_O_TRACESYSGOOD).expect("a process of ours");
        ptrace::interrupt(pid).expect("it is seized");
        waitpid(pid, Some(WaitPidFlag::__WALL)).expect("it stops");
        Self(pid)
    }

    /// Lets it do so many instructions, or until it sleeps; how many it has done. Notes which were system calls.
    ///
    /// # Panics
    /// If it is no more.
    pub fn steps(&self, limit: u64, mut calls: Option<&mut Vec<u64>>) -> u64 {
        for done in 0..limit {
            if let Some(calls) = calls.as_mut().filter(|_| self.is_at_call()) {
                calls.push(done);
            }
            ptrace::step(self.0, None).expect("it is stopped");
            let start = Instant::now();
            let flags = WaitPidFlag::WNOHANG | WaitPidFlag::__WALL;
            while waitpid(self.0, Some(flags)) == Ok(WaitStatus::StillAlive) {
                if start.elapsed() > ASLEEP && self.sleeps() {
                    return done;
                }
            }
        }
        limit
    }

    /// Lets it go on with what it is asked, to the beginning or the end of so many system calls, or until it is about to
    /// sleep; where it has been. Its looks for something to do do not count.
    ///
    /// # Panics
    /// If it is no more, or does not go on.
    #[must_use]
    pub fn calls(&self, limit: usize) -> Vec<AtCall> {
        let mut calls = Vec::new();
        while calls.len() < limit {
            ptrace::syscall(self.0, None).expect("it is stopped");
            self.await_call();
            let registers = ptrace::getregs(self.0).expect("it is stopped");
            let call = registers.orig_rax.cast_signed();
            let done = registers.rax.cast_signed() != -i64::from(libc::ENOSYS);
            if call == libc::SYS_epoll_wait {
                let may_sleep = registers.r10 != 0;
                if may_sleep && !done && !calls.is_empty() {
                    break;
                }
            } else if call != libc::SYS_sched_yield {
                calls.push(AtCall { call, done });
            }
        }
        calls
    }

    /// Waits until it stands before or behind a system call.
    fn await_call(&self) {
        let start = Instant::now();
        loop {
            let flags = WaitPidFlag::WNOHANG | WaitPidFlag::__WALL;
            match waitpid(self.0, Some(flags)).expect("a process of ours") {
                WaitStatus::PtraceSyscall(_) => return,
                WaitStatus::StillAlive => {
                    assert!(start.elapsed() < PATIENCE, "never: the daemon goes on");
                    std::thread::yield_now();
                }
                other => panic!("the daemon ends: {other:?}"),
            }
        }
    }

    /// Whether its next instruction is a system call.
    fn is_at_call(&self) -> bool {
        const SYSCALL: i64 = 0x050f;
        let at = ptrace::getregs(self.0).expect("it is stopped").rip;
        let word = ptrace::read(self.0, at as ptrace::AddressType).expect("its next instruction");
        word & 0xffff == SYSCALL
    }

    fn sleeps(&self) -> bool {
        is_asleep(self.0.as_raw().cast_unsigned())
    }

    /// Kills it where it stands.
    ///
    /// # Panics
    /// If it is no more.
    pub fn kill(self) {
        kill(self.0, Signal::SIGKILL).expect("it is there");
        loop {
            // We hear of its death first, then its keeper.
            match waitpid(self.0, Some(WaitPidFlag::__WALL)) {
                Ok(WaitStatus::Signaled(..)) | Err(Errno::ECHILD) => return,
                _ => {}
            }
        }
    }

    /// Lets it go on by itself.
    ///
    /// # Panics
    /// If it is no more.
    pub fn let_go(self) {
        if self.sleeps() {
            ptrace::interrupt(self.0).expect("it is seized");
            waitpid(self.0, Some(WaitPidFlag::__WALL)).expect("it stops");
        }
        ptrace::detach(self.0, None).expect("it is stopped");
    }
}

/// Whether a process waits for something in the kernel.
#[must_use]
pub fn is_asleep(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| stat.contains(") S "))
}
