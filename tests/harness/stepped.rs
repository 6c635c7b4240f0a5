//! A daemon in a test's hand: it runs when and as far as the test lets it, and may be killed where it stands.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::{PATIENCE, breakpoint, wait_until};

/// A daemon that has not come to its next instruction for so long sleeps: it has done all that there is to do.
const ASLEEP: Duration = Duration::from_millis(50);

/// The daemon in our hand, until it is killed or let go.
#[derive(Debug)]
pub struct Stepped(Pid);

/// Where a daemon has been that was stepped through a request.
#[derive(Clone, Debug, Default)]
pub struct Path {
    /// The address of each of its instructions.
    pub addresses: Vec<u64>,
    /// Which of them were system calls.
    pub calls: Vec<u64>,
    /// For each the last one up to it whose address nothing before it has.
    landings: Vec<u64>,
}

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

    /// Steps it through what it is asked, until it sleeps.
    ///
    /// # Panics
    /// If it is no more.
    #[must_use]
    pub fn walk(&self) -> Path {
        let (mut path, mut seen) = (Path::default(), HashSet::new());
        loop {
            let address = self.next_address();
            let at = path.addresses.len() as u64;
            let last = path.landings.last().copied().unwrap_or_default();
            path.landings.push(if seen.insert(address) { at } else { last });
            path.addresses.push(address);
            if self.is_at_call() {
                path.calls.push(at);
            }
            if !self.step() {
                return path;
            }
        }
    }

    /// Lets it do so many of the instructions of a request through which it was stepped before. Whether it stands where it
    /// stood then: it may have gone another way, or sleep.
    ///
    /// # Panics
    /// If it is no more.
    #[must_use]
    pub fn go_along(&self, path: &Path, steps: u64) -> bool {
        let Some(&landing) = path.landings.get(steps as usize) else { return false };
        // No breakpoint at the first, on which it stands.
        if landing > 0 && !self.run_to(path.addresses[landing as usize]) {
            return false;
        }
        let there = (landing..steps).all(|_| self.step());
        there && self.next_address() == path.addresses[steps as usize]
    }

    /// Lets it do an instruction. False: it sleeps.
    fn step(&self) -> bool {
        ptrace::step(self.0, None).expect("it is stopped");
        self.await_stop()
    }

    /// Lets it run to an address. False: it sleeps before.
    fn run_to(&self, address: u64) -> bool {
        breakpoint::set(self.0, Some(address));
        ptrace::cont(self.0, None).expect("it is stopped");
        let there = self.await_stop();
        if there {
            breakpoint::set(self.0, None);
        }
        there
    }

    /// Waits until it stops. False: it sleeps.
    fn await_stop(&self) -> bool {
        let start = Instant::now();
        let flags = WaitPidFlag::WNOHANG | WaitPidFlag::__WALL;
        while waitpid(self.0, Some(flags)) == Ok(WaitStatus::StillAlive) {
            if start.elapsed() > ASLEEP && self.sleeps() {
                return false;
            }
        }
        true
    }

    fn next_address(&self) -> u64 {
        ptrace::getregs(self.0).expect("it is stopped").rip
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
        let at = self.next_address() as ptrace::AddressType;
        let word = ptrace::read(self.0, at).expect("its next instruction");
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
