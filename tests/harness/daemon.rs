//! A private `ipcd` for one test.

use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use libipc::{Client, ClientOptions, MailboxOptions, ServerStatus};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::{Child, program, wait_until};

/// A running daemon. Dropped: stopped, in order if it can be, and its folder removed. What it said is
/// shown if the test has failed.
#[derive(Debug)]
pub struct TestDaemon {
    folder: TempDir,
    process: std::process::Child,
    kept: bool,
}

impl TestDaemon {
    /// Starts a daemon with further flags, and waits until it answers. Its death is the end of its mailboxes.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start(flags: &[&str]) -> Self {
        Self::launch(&[&["--no-keeper"], flags].concat(), false)
    }

    /// Starts a daemon under its keeper, which starts it again.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start_kept(flags: &[&str]) -> Self {
        Self::launch(flags, true)
    }

    /// The same, with so many descriptors at most: the daemon has an eighth less than its keeper.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start_kept_limited(descriptors_max: u32, flags: &[&str]) -> Self {
        Self::limited(None, descriptors_max, flags, true)
    }

    /// Starts a daemon that runs as another uid, has none of the rights of root, and so many descriptors at most.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start_as(uid: u32, descriptors_max: u32, flags: &[&str]) -> Self {
        Self::limited(Some(uid), descriptors_max, &[&["--no-keeper"], flags].concat(), false)
    }

    /// The same under its keeper, which has an eighth more.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start_kept_as(uid: u32, descriptors_max: u32, flags: &[&str]) -> Self {
        Self::limited(Some(uid), descriptors_max, flags, true)
    }

    fn limited(uid: Option<u32>, descriptors_max: u32, flags: &[&str], kept: bool) -> Self {
        let folder = open_folder();
        let ipcd = match uid {
            Some(uid) => {
                chown(folder.path(), Some(uid), Some(uid)).expect("root may");
                reachable(folder.path(), "ipcd")
            }
            None => program("ipcd"),
        };
        let limit = format!("--nofile={descriptors_max}");
        let flags = [&[&limit, ipcd.to_str().expect("a path")], flags].concat();
        let mut command = command(Path::new("prlimit"), folder.path(), &flags).expect("a log");
        if let Some(uid) = uid {
            command.uid(uid).gid(uid);
        }
        let process = command.spawn().expect("ipcd starts");
        let mut daemon = Self { folder, process, kept };
        daemon.await_ready();
        daemon
    }

    fn launch(flags: &[&str], kept: bool) -> Self {
        let folder = open_folder();
        let process = spawn(folder.path(), flags).expect("ipcd starts");
        let mut daemon = Self { folder, process, kept };
        daemon.await_ready();
        daemon
    }

    /// Starts the daemon anew at the same socket, after it has been stopped or killed.
    ///
    /// # Panics
    /// If it does not start.
    pub fn restart(&mut self, flags: &[&str]) {
        let flags = [&["--no-keeper"], flags].concat();
        self.process = spawn(self.folder.path(), &flags).expect("ipcd starts");
        self.await_ready();
    }

    fn await_ready(&mut self) {
        wait_until("ipcd answers", || {
            let gone = self.process.try_wait().expect("our child").is_some();
            assert!(!gone, "ipcd ended at its start:\n{}", self.log());
            self.options().connect().is_ok()
        });
    }

    /// The daemon's folder: other uids may look into it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The daemon's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("ipcd.sock")
    }

    /// What the daemon has said so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("ipcd.log")).unwrap_or_default()
    }

    /// The daemon's process.
    ///
    /// # Panics
    /// If its keeper never starts one.
    #[must_use]
    pub fn pid(&self) -> u32 {
        if !self.kept {
            return self.process.id();
        }
        let mut pid = None;
        wait_until("the keeper has a daemon", || {
            pid = self.pid_now();
            pid.is_some()
        });
        pid.expect("it has one")
    }

    /// The daemon's process under its keeper, if there is one just now.
    #[must_use]
    pub fn pid_now(&self) -> Option<u32> {
        let keeper = self.process.id();
        let children = std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children"));
        let pid: u32 = children.ok()?.split_whitespace().next()?.parse().ok()?;
        // Not one that is dead, and not yet reaped.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        (!stat.contains(") Z ")).then_some(pid)
    }

    /// Whether it has a keeper.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.kept
    }

    /// The keeper's process.
    #[must_use]
    pub fn keeper_pid(&self) -> u32 {
        self.process.id()
    }

    /// Kills the daemon, and leaves it to its keeper to start another; returns the pid of the dead one.
    ///
    /// # Panics
    /// If there is no keeper, or no daemon.
    pub fn kill_kept(&self) -> u32 {
        assert!(self.kept, "a daemon with a keeper");
        let pid = self.pid();
        let killed = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        killed.expect("a process of ours");
        pid
    }

    /// Stops the daemon where it is: it is there, and answers nobody.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn stand_still(&self) -> Absence {
        Absence::of(self.pid())
    }

    /// Kills the daemon, and has its keeper start no other for now.
    ///
    /// # Panics
    /// If there is no keeper, or no daemon.
    #[must_use]
    pub fn stay_dead(&self) -> Absence {
        assert!(self.kept, "a daemon with a keeper");
        let pid = self.pid();
        let absence = Absence::of(self.keeper_pid());
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).expect("a process of ours");
        absence
    }

    /// A session of this test with the daemon.
    ///
    /// # Panics
    /// If there is none to be had.
    #[must_use]
    pub fn client(&self) -> Client {
        self.options().connect().expect("a session")
    }

    /// How to reach the daemon, whoever it runs as.
    fn options(&self) -> ClientOptions {
        let owner = std::fs::metadata(self.folder()).expect("our folder").uid();
        ClientOptions::new().socket(self.socket()).trusted_uid(owner)
    }

    /// A session of this test, and a mailbox created in it.
    ///
    /// # Panics
    /// If the daemon refuses.
    #[must_use]
    pub fn client_with(&self, mailbox: &str, options: &MailboxOptions) -> Client {
        let client = self.client();
        client.create(mailbox, options).expect("a mailbox");
        client
    }

    /// A child process connected to the daemon.
    #[must_use]
    pub fn child(&self) -> Child {
        Child::start(&program("misbehave"), &self.socket(), None)
    }

    /// A child process of another uid, and of the gid with the same number.
    #[must_use]
    pub fn child_as(&self, uid: u32) -> Child {
        self.child_in_group(uid, uid)
    }

    /// A child process of another uid and gid.
    ///
    /// # Panics
    /// If the program cannot be laid where that uid reaches it.
    #[must_use]
    pub fn child_in_group(&self, uid: u32, gid: u32) -> Child {
        let misbehave = reachable(self.folder.path(), "misbehave");
        Child::start(&misbehave, &self.socket(), Some((uid, gid)))
    }

    /// A child process that works without end, perhaps of another uid.
    ///
    /// # Panics
    /// If the program cannot be laid where that uid reaches it.
    #[must_use]
    pub fn worker(&self, uid: Option<u32>) -> Child {
        let misbehave = reachable(self.folder.path(), "misbehave");
        Child::start_nice(&misbehave, &self.socket(), uid.map(|uid| (uid, uid)))
    }

    /// What the daemon says of itself to a client.
    ///
    /// # Panics
    /// If it does not answer.
    #[must_use]
    pub fn status(&self, client: &Client) -> ServerStatus {
        client.status().expect("a status")
    }

    /// What the daemon says of itself once this client's session is the only one: whoever asked whether it is ready has gone.
    ///
    /// # Panics
    /// If it does not answer, or others stay.
    #[must_use]
    pub fn status_alone(&self, client: &Client) -> ServerStatus {
        crate::wait_until("only we are there", || self.status(client).sessions == 1);
        self.status(client)
    }

    /// Asks the daemon to stop, and waits until it has.
    ///
    /// # Panics
    /// If it does not end.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    /// Waits until the daemon has ended, and its keeper.
    ///
    /// # Panics
    /// If it does not end.
    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until("ipcd stops", || {
            status = self.process.try_wait().expect("our child");
            status.is_some()
        });
        status.expect("it has ended")
    }

    /// Kills the daemon, as the kernel does when memory is short.
    ///
    /// # Panics
    /// If it is no child of ours.
    pub fn kill(&mut self) {
        self.process.kill().expect("our child");
        self.process.wait().expect("our child");
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.process.id().cast_signed());
        kill(pid, signal).expect("our child");
    }
}

/// No daemon answers as long as this is there.
#[derive(Debug)]
pub struct Absence {
    stopped: Pid,
}

impl Absence {
    fn of(pid: u32) -> Self {
        let stopped = Pid::from_raw(pid.cast_signed());
        kill(stopped, Signal::SIGSTOP).expect("a process of ours");
        Self { stopped }
    }
}

impl Drop for Absence {
    fn drop(&mut self) {
        let _ = kill(self.stopped, Signal::SIGCONT);
    }
}

impl Drop for TestDaemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("ipcd said:\n{}", self.log());
            // The keeper first, or it would start another.
            let daemon = self.pid_now().filter(|_| self.kept);
            let _ = self.process.kill();
            if let Some(pid) = daemon {
                let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
            }
            let _ = self.process.wait();
        } else if let Ok(None) = self.process.try_wait() {
            self.stop();
        }
    }
}

/// A folder in which other uids reach the socket; what they may do there is the daemon's matter.
fn open_folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).expect("a folder's mode");
    folder
}

/// A program, laid where other uids reach it.
fn reachable(folder: &Path, name: &str) -> PathBuf {
    let reachable = folder.join(name);
    if !reachable.exists() {
        // By another process: a descriptor of ours, open for writing, would leak into children that
        // other threads start, and the kernel executes no file that is open for writing.
        let copied = Command::new("cp").arg(program(name)).arg(&reachable).status();
        assert!(copied.expect("cp runs").success(), "cannot copy the program");
    }
    reachable
}

fn spawn(folder: &Path, flags: &[&str]) -> std::io::Result<std::process::Child> {
    command(&program("ipcd"), folder, flags)?.spawn()
}

fn command(ipcd: &Path, folder: &Path, flags: &[&str]) -> std::io::Result<Command> {
    let log = File::options().create(true).append(true).open(folder.join("ipcd.log"))?;
    let mut command = Command::new(ipcd);
    command
        .args(flags)
        .arg("--socket")
        .arg(folder.join("ipcd.sock"))
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    Ok(command)
}

/// Descriptors that a process has open.
///
/// # Panics
/// If the process is gone, or not ours to look at.
#[must_use]
pub fn descriptors_of(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("a process of ours").count()
}
