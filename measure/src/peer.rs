//! The processes of a measurement, as the one that started them sees them.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::job::{Answer, Job, Report, Role};

/// How much longer than its measurement a peer may take before it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(10);

/// The hidden command of our programs that does a peer's job: its one argument is the job.
pub const PEER_COMMAND: &str = "bench-peer";

/// A peer. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Peer {
    child: Child,
    control: BufReader<UnixStream>,
    log: PathBuf,
}

impl Peer {
    /// Starts a peer, with the descriptors that all inherit, and waits until it is ready.
    pub(crate) fn start(
        program: Option<&Path>,
        job: &Job,
        inherited: &[BorrowedFd<'_>],
        number: usize,
    ) -> Result<Self> {
        let (control, theirs) = UnixStream::pair()?;
        control.set_read_timeout(Some(job.warm_up + job.duration + PATIENCE))?;
        let program = match program {
            Some(program) => program.to_owned(),
            None => std::env::current_exe()?,
        };
        let log = job.folder.join(format!("peer-{number}.log"));
        let mut command = Command::new(program);
        command
            .arg(PEER_COMMAND)
            .arg(serde_json::to_string(job)?)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(File::create(&log)?);
        // Nobody else starts a process meanwhile: this is a program's only thread that does.
        keep_over_exec(inherited, FdFlag::empty())?;
        let child = command.spawn().context("cannot start a process");
        keep_over_exec(inherited, FdFlag::FD_CLOEXEC)?;
        let mut peer = Self { child: child?, control: BufReader::new(control), log };
        match peer.hear()? {
            Answer::Ready => Ok(peer),
            other => bail!("a process should be ready, and says {other:?}"),
        }
    }

    /// Lets it go on.
    pub(crate) fn go(&mut self) -> Result<()> {
        Ok(self.control.get_mut().write_all(b"go\n")?)
    }

    /// Waits for the reports of all, one a role; the first that fails fails all.
    pub(crate) fn reports(peers: &mut [Self], patience: Duration) -> Result<Vec<(Role, Report)>> {
        let deadline = Instant::now() + patience + PATIENCE;
        let mut reports = Vec::new();
        let mut waiting: Vec<_> = peers.iter_mut().collect();
        while !waiting.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut polled: Vec<_> = waiting
                .iter()
                .map(|peer| PollFd::new(peer.control.get_ref().as_fd(), PollFlags::POLLIN))
                .collect();
            // An interrupted wait is begun again.
            let _ = poll(&mut polled, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
            let said: Vec<_> = polled.iter().map(|fd| fd.any() == Some(true)).collect();
            if left.is_zero() && !said.contains(&true) {
                bail!("a process is stuck: nothing came for {} s", PATIENCE.as_secs());
            }
            for (peer, _) in waiting.iter_mut().zip(&said).filter(|(_, said)| **said) {
                match peer.hear()? {
                    Answer::Report(report) => reports.extend(report),
                    other => bail!("a process should report, and says {other:?}"),
                }
            }
            let mut said = said.into_iter();
            waiting.retain(|_| said.next() == Some(false));
        }
        Ok(reports)
    }

    /// Lets it end, in good order if it does so soon.
    pub(crate) fn end(mut self) {
        // It may have died meanwhile: then it has ended too.
        let _ = self.go();
        // EOF is its end; what it would say is of no interest any more.
        let _ = self.control.get_ref().set_read_timeout(Some(Duration::from_secs(2)));
        let _ = self.control.read_line(&mut String::new());
    }

    fn hear(&mut self) -> Result<Answer> {
        let mut line = String::new();
        match self.control.read_line(&mut line) {
            Ok(0) => bail!("a process has died: {}{}", self.child.wait()?, self.last_words()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                bail!("a process is stuck: nothing came for {} s", PATIENCE.as_secs())
            }
            Err(error) => return Err(error.into()),
        }
        match serde_json::from_str(&line) {
            Ok(Answer::Failed(why)) => bail!("{why}"),
            Ok(answer) => Ok(answer),
            Err(_) => bail!("a process says: {}", line.trim()),
        }
    }

    fn last_words(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        match text.lines().rfind(|line| !line.trim().is_empty()) {
            Some(line) => format!(" ({})", line.trim().chars().take(160).collect::<String>()),
            None => String::new(),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It has ended, or it shall: either way it is reaped here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn keep_over_exec(descriptors: &[BorrowedFd<'_>], flags: FdFlag) -> Result<()> {
    for descriptor in descriptors {
        fcntl(descriptor, FcntlArg::F_SETFD(flags))?;
    }
    Ok(())
}
