//! The processes of a measurement: how they are started, what they say, how they end.
//!
//! A peer's stdin and stdout are the descriptors that it receives from and sends to, where it has such;
//! its stderr is a socket to the process that started it: `Ready` from the peer, a line that lets it
//! go, `Report` from the peer.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::plan::{Answer, Job, Report, System};
use super::{bulk, measure, ours, rivals};

/// How much longer than its measurement a peer may take before it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(20);

/// Keeps this thread on a core.
pub(super) fn pin(core: usize) -> Result<()> {
    let mut cores = CpuSet::new();
    cores
        .set(core)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &cores))
        .with_context(|| format!("cannot stay on core {core}"))
}

/// Does the job of a peer, in the peer's own process.
pub(super) fn serve(job: &str) -> Result<()> {
    let mut control = UnixStream::from(io::stderr().as_fd().try_clone_to_owned()?);
    let answer = match work(job, &mut control) {
        Ok(report) => Answer::Report(report),
        Err(error) => Answer::Failed(format!("{error:#}")),
    };
    say(&mut control, &answer)
}

fn work(job: &str, control: &mut UnixStream) -> Result<Report> {
    let job: Job = serde_json::from_str(job).context("not a job")?;
    pin(job.core)?;
    match job.system {
        System::Ours | System::OursSingle => {
            let (_client, ends) = ours::open(&job)?;
            wait_for_go(control)?;
            bulk::run(&job, ends)
        }
        System::Mq => {
            let ends = rivals::open_queues(&job)?;
            wait_for_go(control)?;
            measure::run(&job, ends)
        }
        System::Pipe | System::Seqpacket => {
            let ends = rivals::own_descriptors(&job)?;
            wait_for_go(control)?;
            measure::run(&job, ends)
        }
    }
}

fn wait_for_go(control: &mut UnixStream) -> Result<()> {
    say(control, &Answer::Ready)?;
    let mut line = String::new();
    if BufReader::new(control).read_line(&mut line)? == 0 {
        bail!("the benchmark is gone");
    }
    Ok(())
}

fn say(control: &mut UnixStream, answer: &Answer) -> Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    Ok(control.write_all(&line)?)
}

/// A peer, as the process that started it sees it. It is killed when this is dropped.
pub(super) struct Peer {
    child: Child,
    control: BufReader<UnixStream>,
}

impl Peer {
    /// Starts a peer with its two descriptors, and waits until it is ready.
    pub(super) fn start(
        job: &Job,
        input: Option<OwnedFd>,
        output: Option<OwnedFd>,
    ) -> Result<Self> {
        let (control, theirs) = UnixStream::pair()?;
        control.set_read_timeout(Some(job.warm_up + job.duration + PATIENCE))?;
        let stdio = |fd: Option<OwnedFd>| fd.map_or_else(Stdio::null, Stdio::from);
        let child = Command::new(std::env::current_exe()?)
            .arg("bench-peer")
            .arg(serde_json::to_string(job)?)
            .stdin(stdio(input))
            .stdout(stdio(output))
            .stderr(OwnedFd::from(theirs))
            .spawn()
            .context("cannot start a process")?;
        let mut peer = Self { child, control: BufReader::new(control) };
        match peer.hear()? {
            Answer::Ready => Ok(peer),
            other => bail!("a process should be ready, and says {other:?}"),
        }
    }

    /// Lets it go.
    pub(super) fn go(&mut self) -> Result<()> {
        Ok(self.control.get_mut().write_all(b"go\n")?)
    }

    /// Waits for its report.
    pub(super) fn report(&mut self) -> Result<Report> {
        match self.hear()? {
            Answer::Report(report) => Ok(report),
            other => bail!("a process should report, and says {other:?}"),
        }
    }

    fn hear(&mut self) -> Result<Answer> {
        let mut line = String::new();
        match self.control.read_line(&mut line) {
            Ok(0) => bail!("a process has died: {}", self.child.wait()?),
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
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It has ended, or it shall: either way it is reaped here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
