//! The program `misbehave` as a child process.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::patience;

/// A child process that does as it is told: a command a line, an answer a line. Killed when dropped.
#[derive(Debug)]
pub struct Child {
    process: std::process::Child,
    commands: Option<ChildStdin>,
    answers: Receiver<String>,
}

/// A message as a child received it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    /// How often it has been handed out before.
    pub attempts: u32,
    /// The sender's process.
    pub pid: u32,
    /// The sender's uid.
    pub uid: u32,
    /// The sender's gid.
    pub gid: u32,
    /// The message.
    pub text: String,
}

impl Child {
    /// Starts the program, connected to a socket, as the given uid and gid.
    ///
    /// # Panics
    /// If it does not start or does not connect.
    #[must_use]
    pub fn start(program: &Path, socket: &Path, who: Option<(u32, u32)>) -> Self {
        Self::connected(Command::new(program), socket, who)
    }

    /// The same for a child that works without end: it leaves the processors to others when they have something to do.
    ///
    /// # Panics
    /// If it does not start or does not connect.
    #[must_use]
    pub fn start_nice(program: &Path, socket: &Path, who: Option<(u32, u32)>) -> Self {
        let mut command = Command::new("nice");
        command.args(["-n", "10"]).arg(program);
        Self::connected(command, socket, who)
    }

    fn connected(mut command: Command, socket: &Path, who: Option<(u32, u32)>) -> Self {
        command.arg(socket);
        if let Some(server) = socket.metadata().ok().map(|it| it.uid()).filter(|&uid| uid != 0) {
            command.env("IPCD_TRUSTED_UID", server.to_string());
        }
        if let Some((uid, gid)) = who {
            command.uid(uid).gid(gid);
        }
        let mut child = Self::spawn(command);
        assert_eq!(child.answer(), "ok", "the child does not connect");
        child
    }

    /// Starts the program without a socket: it looks for a daemon itself. Its first answer, `ok` or an
    /// error, says how that went; it is not waited for.
    #[must_use]
    pub fn start_alone<K: AsRef<OsStr>, V: AsRef<OsStr>>(
        program: &Path,
        environment: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let mut command = Command::new(program);
        command.env_remove("IPCD_SOCKET").envs(environment);
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Self {
        command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("the child starts");
        let (commands, output) = (process.stdin.take(), process.stdout.take());
        let output = BufReader::new(output.expect("a pipe"));
        let (send, answers) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        Self { process, commands, answers }
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Gives a command, and does not wait for the answer.
    ///
    /// # Panics
    /// If the child has ended.
    pub fn tell(&mut self, command: &str) {
        let commands = self.commands.as_mut().expect("a child with a pipe");
        writeln!(commands, "{command}").expect("the child listens");
    }

    /// The next answer.
    ///
    /// # Panics
    /// If none comes.
    #[must_use]
    pub fn answer(&mut self) -> String {
        self.answer_by(patience()).expect("the child answers")
    }

    /// The next answer, if one comes before the deadline and before the child's end.
    #[must_use]
    pub fn answer_by(&mut self, deadline: Instant) -> Option<String> {
        self.answers.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
    }

    /// The next answer, which may take long, for a busy machine's sake: patience starts anew while the child runs.
    ///
    /// # Panics
    /// If the child has not run for as long as patience lasts.
    #[must_use]
    pub fn slow_answer(&mut self) -> String {
        let mut before = None;
        loop {
            if let Some(answer) = self.answer_by(patience()) {
                return answer;
            }
            let progress = self.processor_ticks();
            assert_ne!(before, Some(progress), "a child is stuck: it has not run for a minute");
            before = Some(progress);
        }
    }

    /// The next answer, if it is there already.
    #[must_use]
    pub fn try_answer(&mut self) -> Option<String> {
        self.answers.try_recv().ok()
    }

    /// Gives a command and returns the answer.
    ///
    /// # Panics
    /// If none comes.
    #[must_use]
    pub fn ask(&mut self, command: &str) -> String {
        self.tell(command);
        self.answer()
    }

    /// Gives a command that must succeed; returns what stands behind the `ok`.
    ///
    /// # Panics
    /// If it fails.
    pub fn done(&mut self, command: &str) -> String {
        let answer = self.ask(command);
        let rest = answer.strip_prefix("ok");
        rest.unwrap_or_else(|| panic!("{command}: {answer}")).trim_start().to_owned()
    }

    /// Gives a command that must fail with an error of this name; returns the whole error.
    ///
    /// # Panics
    /// If it succeeds, or fails otherwise.
    pub fn refused(&mut self, command: &str, name: &str) -> String {
        let answer = self.ask(command);
        let fits = answer.starts_with("error ") && answer.contains(name);
        assert!(fits, "{command} should fail with {name}: {answer}");
        answer
    }

    /// Gives a command that receives.
    ///
    /// # Panics
    /// If no message comes.
    #[must_use]
    pub fn got(&mut self, command: &str) -> Got {
        Got::parse(&self.ask(command))
    }

    /// Whether the child sleeps in the kernel: it waits for something, and has stopped spinning.
    #[must_use]
    pub fn sleeps(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()));
        let wait = std::fs::read_to_string(format!("/proc/{}/wchan", self.pid()));
        let asleep = stat.is_ok_and(|stat| stat.contains(") S "));
        asleep && wait.is_ok_and(|wait| wait.contains("futex"))
    }

    /// How long it has run, in the kernel's ticks: it is stuck if that stays the same.
    ///
    /// # Panics
    /// If it has ended.
    #[must_use]
    pub fn processor_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()));
        let stat = stat.expect("a process of ours");
        // Behind the name, which is in brackets: state is field 3, utime 14, stime 15.
        let behind = stat.rsplit(')').next().unwrap_or_default();
        let ticks = behind.split_whitespace().skip(11).take(2);
        ticks.filter_map(|word| word.parse::<u64>().ok()).sum()
    }

    /// Stops the child as no process can prevent, or has it go on.
    ///
    /// # Panics
    /// If it is no child of ours.
    pub fn stop(&self, stopped: bool) {
        let signal = if stopped { Signal::SIGSTOP } else { Signal::SIGCONT };
        kill(Pid::from_raw(self.pid().cast_signed()), signal).expect("our child");
    }

    /// Kills the child as no process can prevent, and waits for its end.
    ///
    /// # Panics
    /// If it is no child of ours.
    pub fn kill(&mut self) -> ExitStatus {
        self.process.kill().expect("our child");
        self.process.wait().expect("our child")
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Got {
    /// Reads `got ATTEMPTS PID UID GID TEXT`.
    ///
    /// # Panics
    /// If it is something else.
    #[must_use]
    pub fn parse(answer: &str) -> Self {
        let words: Vec<_> = answer.splitn(6, ' ').collect();
        let ["got", attempts, pid, uid, gid, text] = words[..] else {
            panic!("no message: {answer}");
        };
        let number = |word: &str| word.parse().unwrap_or_else(|_| panic!("no message: {answer}"));
        let (attempts, pid, uid, gid) = (number(attempts), number(pid), number(uid), number(gid));
        Self { attempts, pid, uid, gid, text: text.to_owned() }
    }
}
