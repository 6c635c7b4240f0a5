//! A process that goes on by single instructions, and is killed between two of them.
//!
//! It stops at its first marker by itself. Before each further instruction the tracer looks what that will be: a
//! marker is stepped over without being run; a system call may take long, so it is waited for with an eye on
//! whether it has gone to sleep; anything else is done soon. Where it is known which instructions come it runs to one of
//! them at once, up to a breakpoint that the processor keeps: nothing of the program is changed for that.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tests::{breakpoint, patience};

use crate::shared::NOT_TRACED;

/// What comes next in a program.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Instruction {
    Marker,
    SystemCall,
    /// Fills memory, a byte at a time, of which each would be a step: it is one instruction all the same.
    Fill,
    Other,
}

/// Length of an [`Instruction::Fill`].
const FILL_BYTES: u64 = 2;

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
    /// Where it has been: the addresses of its instructions, in their order.
    been: Vec<u64>,
    /// Where it is to stop, if it was not to go on by one instruction.
    target: Option<u64>,
    /// What it last did was a system call, or as long.
    called: bool,
    /// It sleeps in `poll`, too, where it waits for nobody but the others.
    pub(crate) polls: bool,
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
        let (instructions, been) = (HashMap::new(), Vec::new());
        let [called, polls, asleep, over] = [false; 4];
        let target = None;
        let mut victim =
            Self { output, pid, instructions, been, target, called, polls, asleep, over };
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

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw().cast_unsigned()
    }

    /// Where it has been: the address before each of its steps.
    pub(crate) fn been(&self) -> &[u64] {
        &self.been
    }

    /// Whether it sleeps.
    pub(crate) fn is_asleep(&self) -> bool {
        self.asleep
    }

    /// The address of its next instruction, unless it sleeps.
    pub(crate) fn address(&self) -> Option<u64> {
        (!self.asleep).then(|| next_address(self.pid, 0))
    }

    /// Whether its last step was one in which others may have been told of something.
    pub(crate) fn has_called(&self) -> bool {
        self.called
    }

    /// Whether it sleeps over something that others are to do.
    fn sleeps(&self, task: &Path) -> bool {
        is_asleep(task) || self.polls && sleeps_in(task, &POLL_CALLS).is_some()
    }

    /// Goes one step.
    pub(crate) fn step(&mut self) -> Step {
        self.called = true;
        if self.asleep {
            self.been.extend(self.been.last().copied());
            self.asleep = false;
            self.await_step();
            return self.where_it_stopped();
        }
        let address = next_address(self.pid, 0);
        self.been.push(address);
        let next = self.instruction_at(address);
        if next == Instruction::Marker {
            next_address(self.pid, 1);
            return Step::Marker;
        }
        self.called = next == Instruction::SystemCall;
        if next == Instruction::Fill {
            breakpoint::set(self.pid, Some(address + FILL_BYTES));
            ptrace::cont(self.pid, None).expect("our child has stopped");
            self.await_step();
            breakpoint::set(self.pid, None);
            return Step::Done;
        }
        ptrace::step(self.pid, None).expect("our child has stopped");
        if next == Instruction::SystemCall {
            return self.await_stop();
        }
        self.await_step();
        Step::Done
    }

    /// Runs to the next marker.
    pub(crate) fn run_to_marker(&mut self) {
        assert_eq!(self.run_to(0), Step::Marker, "it sleeps though there is nothing to wait for");
    }

    /// Runs until it comes to an address, or to a marker or to sleep before.
    pub(crate) fn run_to(&mut self, address: u64) -> Step {
        breakpoint::set(self.pid, Some(address));
        ptrace::cont(self.pid, None).expect("our child has stopped");
        self.target = Some(address);
        match self.await_stop() {
            Step::Asleep => Step::Asleep,
            _ => self.where_it_stopped(),
        }
    }

    /// Whether that is behind a marker to which it has run.
    fn where_it_stopped(&mut self) -> Step {
        let Some(target) = self.target.take() else { return Step::Done };
        breakpoint::set(self.pid, None);
        let address = next_address(self.pid, 0);
        if address == target { Step::Done } else { Step::Marker }
    }

    fn instruction_at(&mut self, address: u64) -> Instruction {
        let read = || {
            // What cannot be read has no marker in it.
            let word = ptrace::read(self.pid, address as ptrace::AddressType).unwrap_or_default();
            match word.to_le_bytes() {
                [0xcc, ..] => Instruction::Marker,
                [0x0f, 0x05, ..] => Instruction::SystemCall,
                [0xf3, 0xaa, ..] => Instruction::Fill,
                _ => Instruction::Other,
            }
        };
        *self.instructions.entry(address).or_insert_with(read)
    }

    fn await_step(&self) {
        let status = waitpid(self.pid, None).expect("our child");
        assert_eq!(status, WaitStatus::Stopped(self.pid, Signal::SIGTRAP), "no step");
    }

    /// Waits until it stops, be it behind a system call; or sleeps in one.
    fn await_stop(&mut self) -> Step {
        let task = format!("/proc/{}", self.pid);
        let deadline = patience();
        for look in 0.. {
            assert!(Instant::now() < deadline, "never: a system call returns");
            match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)).expect("our child") {
                WaitStatus::Stopped(_, Signal::SIGTRAP) => break,
                WaitStatus::StillAlive if look < 10 => std::thread::yield_now(),
                WaitStatus::StillAlive if self.sleeps(Path::new(&task)) => {
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
        breakpoint::set(self.pid, None);
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
        // Its pid is its own until it has been waited for; then there is nothing to kill.
        let _ = kill(self.pid, Signal::SIGKILL);
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

/// Where a process or a thread sleeps on a futex: whether only until some time.
fn sleep_of(task: &Path) -> Option<Bounded> {
    let words = sleeps_in(task, &FUTEX_CALLS)?;
    Some(Bounded(words.split(' ').nth(4) != Some("0x0")))
}

/// The system call in which a process or a thread sleeps, if it is one of these.
fn sleeps_in(task: &Path, calls: &[&str]) -> Option<String> {
    let read = |name: &str| std::fs::read_to_string(task.join(name)).unwrap_or_default();
    let call = read("syscall");
    let wanted = call.split(' ').next().is_some_and(|number| calls.contains(&number));
    // Behind the call: what has stopped for its tracer says which call it comes from, too.
    (wanted && read("stat").contains(") S ")).then_some(call)
}

/// Whether a process or a thread, given as its folder in /proc, sleeps on a futex.
pub(crate) fn is_asleep(task: &Path) -> bool {
    sleep_of(task).is_some()
}

/// A sleep ends at some time by itself.
struct Bounded(bool);

/// `futex` and `futex_waitv` on x86-64, as the kernel prints them; the fourth argument of both is the time.
const FUTEX_CALLS: [&str; 2] = ["202", "449"];

/// `poll`.
const POLL_CALLS: [&str; 1] = ["7"];

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
