//! A process that goes on by single instructions, and is killed between two of them.
//!
//! It stops at its first marker by itself. Before each further instruction the tracer looks what that will be: a
//! marker is stepped over without being run; a system call may take long, so it is waited for with an eye on
//! whether it has gone to sleep; anything else is done soon.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tests::patience;

use crate::shared::NOT_TRACED;

/// What comes next in a program.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Instruction {
    Marker,
    SystemCall,
    Other,
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// An instruction was run, or the system call of the step before has returned.
    Done,
    /// A marker was passed.
    Marker,
    /// A system call has put it to sleep on a futex.
    Asleep,
}

/// A process of the program `stepped`. Only the thread that has started it may step through it.
pub(crate) struct Victim {
    output: Option<ChildStdout>,
    pid: Pid,
    instructions: HashMap<u64, Instruction>,
    asleep: bool,
    over: bool,
}

impl Victim {
    /// Starts the program, and waits until it is at its first marker. `None` if it may not be traced here.
    #[expect(clippy::zombie_processes, reason = "it is waited for by its pid, at last in `end`")]
    pub(crate) fn start(program: &Path, arguments: &[&str]) -> Option<Self> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("the program starts");
        let output = process.stdout.take();
        let pid = Pid::from_raw(process.id().cast_signed());
        let instructions = HashMap::new();
        let mut victim = Self { output, pid, instructions, asleep: false, over: false };
        match waitpid(pid, None).expect("our child") {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => {}
            WaitStatus::Exited(_, NOT_TRACED) => {
                victim.over = true;
                return None;
            }
            status => panic!("{arguments:?}: {status:?} before the first marker"),
        }
        ptrace::setoptions(pid, Options::PTRACE_O_EXITKILL).expect("our child has stopped");
        Some(victim)
    }

    /// Goes one step.
    pub(crate) fn step(&mut self) -> Step {
        if self.asleep {
            self.asleep = false;
            self.await_step();
            return Step::Done;
        }
        let next = self.instruction_at(next_address(self.pid, 0));
        if next == Instruction::Marker {
            next_address(self.pid, 1);
            return Step::Marker;
        }
        ptrace::step(self.pid, None).expect("our child has stopped");
        if next == Instruction::SystemCall {
            return self.await_system_call();
        }
        self.await_step();
        Step::Done
    }

    fn instruction_at(&mut self, address: u64) -> Instruction {
        let read = || {
            // What cannot be read has no marker in it.
            let word = ptrace::read(self.pid, address as ptrace::AddressType).unwrap_or_default();
            match word.to_le_bytes() {
                [0xcc, ..] => Instruction::Marker,
                [0x0f, 0x05, ..] => Instruction::SystemCall,
                _ => Instruction::Other,
            }
        };
        *self.instructions.entry(address).or_insert_with(read)
    }

    fn await_step(&self) {
        let status = waitpid(self.pid, None).expect("our child");
        assert_eq!(status, WaitStatus::Stopped(self.pid, Signal::SIGTRAP), "no step");
    }

    fn await_system_call(&mut self) -> Step {
        let task = format!("/proc/{}", self.pid);
        let deadline = patience();
        for look in 0.. {
            assert!(Instant::now() < deadline, "never: a system call returns");
            match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)).expect("our child") {
                WaitStatus::Stopped(_, Signal::SIGTRAP) => break,
                WaitStatus::StillAlive if look < 10 => std::thread::yield_now(),
                WaitStatus::StillAlive if sleeps_on_futex(Path::new(&task)) => {
                    self.asleep = true;
                    return Step::Asleep;
                }
                WaitStatus::StillAlive => std::thread::sleep(Duration::from_micros(20)),
                status => panic!("a system call ended with {status:?}"),
            }
        }
        Step::Done
    }

    /// Kills it where it is.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    /// Lets it go on to its end; returns what it has printed. No step may have gone to sleep.
    pub(crate) fn finish(mut self) -> String {
        let status = loop {
            ptrace::cont(self.pid, None).expect("our child has stopped");
            match waitpid(self.pid, None).expect("our child") {
                WaitStatus::Stopped(_, Signal::SIGTRAP) => {}
                status => break status,
            }
        };
        assert_eq!(status, WaitStatus::Exited(self.pid, 0), "how it ended");
        self.over = true;
        let mut text = String::new();
        self.output.take().expect("a pipe").read_to_string(&mut text).expect("text");
        text
    }

    fn end(&mut self) {
        if self.over {
            return;
        }
        self.over = true;
        // Its pid is its own until it has been waited for.
        kill(self.pid, Signal::SIGKILL).expect("our child");
        while !matches!(waitpid(self.pid, None), Ok(WaitStatus::Signaled(..)) | Err(_)) {}
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.end();
    }
}

/// Where the next instruction of a process lies that has stopped; afterwards it is so many bytes further on.
#[cfg(target_arch = "x86_64")]
fn next_address(pid: Pid, skip: u64) -> u64 {
    let mut registers = ptrace::getregs(pid).expect("our child has stopped");
    let next = registers.rip;
    if skip > 0 {
        registers.rip += skip;
        ptrace::setregs(pid, registers).expect("our child has stopped");
    }
    next
}

#[cfg(not(target_arch = "x86_64"))]
fn next_address(_: Pid, _: u64) -> u64 {
    panic!("the program has no marker on other processors, and says so before it is traced")
}

/// Whether a process or a thread, given as its folder in /proc, sleeps on a futex.
fn sleeps_on_futex(task: &Path) -> bool {
    sleep_of(task).is_some()
}

/// Where a process or a thread sleeps on a futex: whether only until some time.
fn sleep_of(task: &Path) -> Option<Bounded> {
    let read = |name: &str| std::fs::read_to_string(task.join(name)).unwrap_or_default();
    let call = read("syscall");
    let mut words = call.split(' ');
    let on_futex = words.next().is_some_and(|number| FUTEX_CALLS.contains(&number));
    // Behind the call: what has stopped for its tracer says which call it comes from, too.
    let asleep = on_futex && read("stat").contains(") S ");
    asleep.then(|| Bounded(words.nth(3) != Some("0x0")))
}

/// A sleep ends at some time by itself.
struct Bounded(bool);

/// `futex` and `futex_waitv` on x86-64, as the kernel prints them; the fourth argument of both is the time.
const FUTEX_CALLS: [&str; 2] = ["202", "449"];

/// Waits until a thread or process sleeps on a futex, and if so told without an end; false if it is `over` before.
pub(crate) fn await_sleep(task: &Path, endless: bool, mut over: impl FnMut() -> bool) -> bool {
    let deadline = patience();
    while sleep_of(task).is_none_or(|Bounded(bounded)| bounded && endless) {
        if over() {
            return false;
        }
        assert!(Instant::now() < deadline, "never: {} sleeps", task.display());
        std::thread::sleep(Duration::from_micros(20));
    }
    true
}
