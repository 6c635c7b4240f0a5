//! The peer's side of a measurement: a process that one of our programs started for one job.
//!
//! Its stdin is a socket to the process that measures: `Ready` from the peer, a line that lets it go, `Report` from
//! the peer, and a line once all peers have reported: until then every end stays open.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;

use anyhow::{Context as _, Result, bail};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::ends::{Ends, ReceiveEnd, SendEnd};
use crate::job::{Answer, Job, Report, Role};
use crate::loops;
use crate::system::System;

/// Keeps this thread on a core.
///
/// # Errors
/// If it may not run there.
pub fn pin(core: usize) -> Result<()> {
    let mut cores = CpuSet::new();
    cores
        .set(core)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &cores))
        .with_context(|| format!("cannot stay on core {core}"))
}

/// Does the job of a peer, in the peer's own process.
///
/// # Errors
/// If even the failure cannot be told.
pub fn serve(systems: &[Box<dyn System>], job: &str) -> Result<()> {
    // Whatever becomes of the process that measures: nobody is left behind.
    set_pdeathsig(Signal::SIGKILL)?;
    let control = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut stage = Stage { control: BufReader::new(control) };
    match work(systems, job, &mut stage) {
        Ok(()) => Ok(()),
        Err(error) => stage.say(&Answer::Failed(format!("{error:#}"))),
    }
}

fn work(systems: &[Box<dyn System>], job: &str, stage: &mut Stage) -> Result<()> {
    let job: Job = serde_json::from_str(job).context("not a job")?;
    pin(job.core)?;
    match systems.iter().find(|system| system.key() == job.system) {
        Some(system) => system.work(&job, stage),
        None => bail!("this program knows no system {}", job.system),
    }
}

/// Where a peer's work is seen by the process that measures.
#[derive(Debug)]
pub struct Stage {
    control: BufReader<UnixStream>,
}

impl Stage {
    /// Does a job with the ends that it needs, which are open now.
    ///
    /// # Errors
    /// What the ends say, or that nobody measures any more.
    pub fn run<S: SendEnd, R: ReceiveEnd>(
        &mut self,
        job: &Job,
        mut ends: Ends<S, R>,
    ) -> Result<()> {
        self.perform(job, || loops::run(job, &mut ends))
    }

    /// Does a job in a loop of the system's own. What it needs is open, and stays so until this returns.
    ///
    /// # Errors
    /// What the loop says, or that nobody measures any more.
    pub fn perform(&mut self, job: &Job, work: impl FnOnce() -> Result<Report>) -> Result<()> {
        self.perform_all(|| Ok(vec![(job.role, work()?)]))
    }

    /// The same, for a process that plays several parts.
    ///
    /// # Errors
    /// As above.
    pub fn perform_all(
        &mut self,
        work: impl FnOnce() -> Result<Vec<(Role, Report)>>,
    ) -> Result<()> {
        self.say(&Answer::Ready)?;
        self.hear().context("the measurement is gone")?;
        let reports = work()?;
        self.say(&Answer::Report(reports))?;
        // All have reported, or nobody measures any more: the same to us.
        let _ = self.hear();
        Ok(())
    }

    fn say(&mut self, answer: &Answer) -> Result<()> {
        let mut line = serde_json::to_vec(answer)?;
        line.push(b'\n');
        Ok(self.control.get_mut().write_all(&line)?)
    }

    fn hear(&mut self) -> Result<()> {
        let mut line = String::new();
        match self.control.read_line(&mut line)? {
            0 => bail!("nobody listens"),
            _ => Ok(()),
        }
    }
}
