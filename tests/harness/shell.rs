//! `ipcctl` as it is typed.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::{TestDaemon, program};

/// What a command came to.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code; none where a signal ended it.
    pub code: Option<i32>,
    /// Its result.
    pub stdout: String,
    /// Its talk.
    pub stderr: String,
}

impl Ran {
    /// The lines of its result, each as JSON.
    ///
    /// # Panics
    /// If one is not.
    #[must_use]
    pub fn json(&self) -> Vec<Value> {
        let parse = |line: &str| serde_json::from_str(line).expect("a JSON object a line");
        self.stdout.lines().map(parse).collect()
    }
}

/// A shell user of one daemon.
#[derive(Debug)]
pub struct Shell {
    /// The daemon.
    pub daemon: TestDaemon,
}

impl Default for Shell {
    fn default() -> Self {
        Self::new()
    }
}

impl Shell {
    /// With a daemon of its own.
    #[must_use]
    pub fn new() -> Self {
        Self { daemon: TestDaemon::start(&[]) }
    }

    /// A line, not run yet; all of its streams are pipes.
    #[must_use]
    pub fn command(&self, line: &str) -> Command {
        let mut command = ipcctl();
        command.env("IPCD_SOCKET", self.daemon.socket()).args(line.split_whitespace());
        command
    }

    /// Runs a line with some input, whatever it comes to.
    #[must_use]
    pub fn run(&self, line: &str, input: &str) -> Ran {
        run(self.command(line), input)
    }

    /// Runs a line that must succeed; returns its result.
    ///
    /// # Panics
    /// If it fails.
    pub fn does(&self, line: &str) -> String {
        let ran = self.run(line, "");
        assert_eq!(ran.code, Some(0), "ipcctl {line}: {}", ran.stderr);
        ran.stdout
    }

    /// Runs a line that must end with a code; returns what it says.
    ///
    /// # Panics
    /// If it ends otherwise.
    pub fn ends(&self, line: &str, code: i32) -> String {
        let ran = self.run(line, "");
        assert_eq!(ran.code, Some(code), "ipcctl {line}: {}{}", ran.stdout, ran.stderr);
        assert_eq!(ran.stdout, "", "errors are no result");
        ran.stderr
    }
}

/// `ipcctl` without arguments, in an empty environment; all of its streams are pipes.
#[must_use]
pub fn ipcctl() -> Command {
    let mut command = Command::new(program("ipcctl"));
    command.env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command with some input.
///
/// # Panics
/// If it does not start.
pub fn run(mut command: Command, input: &str) -> Ran {
    let mut child = command.spawn().expect("ipcctl starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    // Whoever does not read its input has no use for it.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("our child");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    Ran { code: output.status.code(), stdout, stderr }
}
