//! An ipcd of the measurement's own.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, execv};
use tempfile::TempDir;

/// The hidden command that becomes the daemon.
pub(crate) const DAEMON_COMMAND: &str = "bench-daemon";

/// How long the daemon may take to listen, and to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// A daemon that ends with the measurement, and with the process that measures at the latest.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    home: TempDir,
}

impl Daemon {
    /// Starts this ipcd, with limits that no measurement meets.
    pub(crate) fn start(program: &Path) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("ipc-bench-").tempdir()?;
        let log = File::create(home.path().join("ipcd.log"))?;
        let child = Command::new(std::env::current_exe()?)
            .arg(DAEMON_COMMAND)
            .arg(program)
            .args(["--no-keeper", "--log", "warn", "--socket"])
            .arg(home.path().join("ipcd.sock"))
            .args(["--mailboxes-max", "20000", "--lanes-max", "100000"])
            .args(["--sessions-max", "4000", "--bytes-max", "64GiB"])
            .args(more_limits(program)?)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("cannot start ipcd")?;
        let mut daemon = Self { child, home };
        let deadline = Instant::now() + PATIENCE;
        while !daemon.listens() {
            if let Some(status) = daemon.child.try_wait()? {
                bail!("ipcd ended at once ({status}): {}", daemon.last_words());
            }
            if Instant::now() > deadline {
                bail!("ipcd does not listen: {}", daemon.last_words());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(daemon)
    }

    /// Whether somebody listens there, of whatever version: its socket is of another type than this one.
    fn listens(&self) -> bool {
        let refused = UnixStream::connect(self.socket()).err();
        refused.is_none_or(|error| error.raw_os_error() == Some(libc::EPROTOTYPE))
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.home.path().join("ipcd.sock")
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(self.home.path().join("ipcd.log"));
        text.ok().and_then(|text| text.lines().last().map(str::to_owned)).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Asked first, so that it ends in good order; it may have ended already.
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Limits that not every version has.
fn more_limits(program: &Path) -> Result<Vec<&'static str>> {
    let help = Command::new(program).arg("--help").output().context("cannot ask ipcd")?;
    let help = String::from_utf8_lossy(&help.stdout);
    let limits = [["--descriptors-max", "1000000"], ["--links-max", "1000000"]];
    Ok(limits.into_iter().filter(|[flag, _]| help.contains(flag)).flatten().collect())
}

/// Becomes another program, which ends when the process that started this one does.
pub(crate) fn become_program(command: &[impl AsRef<OsStr>]) -> Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    // Many mailboxes need many descriptors.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let words = command.iter().map(|word| CString::new(word.as_ref().as_bytes()));
    let words: Vec<_> = words.collect::<Result<_, _>>()?;
    let Some(program) = words.first() else { bail!("no program is named") };
    execv(program, &words)
        .with_context(|| format!("cannot start {}", program.to_string_lossy()))?;
    Ok(())
}
