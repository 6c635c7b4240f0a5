//! One sample: a load on a system, once.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::job::{Channel, Job, Report, Role};
use crate::load::{Kind, Load};
use crate::peer::Peer;
use crate::system::{Prepared, System};

/// How long is measured, and where.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Times that each load and system is measured.
    pub runs: u32,
    /// Before each measurement.
    pub warm_up: Duration,
    /// Of each measurement.
    pub duration: Duration,
    /// Of the first sender, and of the first receiver.
    pub cores: (usize, usize),
}

impl Settings {
    /// Settings that warm up for a fifth of each measurement.
    #[must_use]
    pub fn new(runs: u32, duration: Duration, cores: (usize, usize)) -> Self {
        Self { runs, warm_up: duration / 5, duration, cores }
    }

    /// The cores of a load's two sides.
    #[must_use]
    pub fn cores_for(&self, load: &Load) -> (usize, usize) {
        if load.one_core { (self.cores.0, self.cores.0) } else { self.cores }
    }
}

/// What one measurement came to.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Messages a second, or the median in ns.
    pub value: f64,
    /// 99 of 100 are faster, in ns; not for streams.
    pub p99_ns: Option<f64>,
    /// Messages that were sent and never came.
    pub lost: u64,
    /// Messages that came broken, out of order, twice, or from nowhere.
    pub corrupt: u64,
}

/// Takes samples, each on channels of its own.
#[derive(Debug)]
pub struct Sampler {
    settings: Settings,
    /// What the samples leave in the file system lies in here.
    home: TempDir,
    /// Samples taken so far: the names of their channels differ by this.
    samples: u64,
    /// What the reader of the figures should know about how they were made.
    notes: Vec<String>,
}

impl Sampler {
    /// A sampler.
    ///
    /// # Errors
    /// If there is no folder for temporary files.
    pub fn new(settings: Settings) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("ipc-bench-").tempdir();
        let home = home.context("cannot make a temporary folder")?;
        Ok(Self { settings, home, samples: 0, notes: Vec::new() })
    }

    /// What the reader of the figures should know about how they were made.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Takes a sample.
    ///
    /// # Errors
    /// Why there is none.
    pub fn sample(&mut self, load: &Load, system: &dyn System) -> Result<Measured> {
        self.samples += 1;
        let name = format!("ipc-bench-{}-{}", std::process::id(), self.samples);
        let folder = self.home.path().join(&name);
        std::fs::create_dir(&folder)?;
        let names: Vec<_> = (0..load.channels()).map(|index| format!("{name}-{index}")).collect();
        let result = self.sample_on(load, system, &folder, &names);
        for name in &names {
            system.clean_up(name);
        }
        // What cannot be removed goes with its parent, at the end.
        let _ = std::fs::remove_dir_all(&folder);
        result
    }

    fn sample_on(
        &mut self,
        load: &Load,
        system: &dyn System,
        folder: &std::path::Path,
        names: &[String],
    ) -> Result<Measured> {
        let prepared: Vec<Prepared> =
            names.iter().map(|name| system.prepare(load, name)).collect::<Result<_>>()?;
        for note in prepared.iter().filter_map(|prepared| prepared.note.as_ref()) {
            if !self.notes.contains(note) {
                self.notes.push(note.clone());
            }
        }
        let channels: Vec<_> =
            prepared.iter().zip(names).map(|(prepared, name)| channel(prepared, name)).collect();
        let inherited: Vec<BorrowedFd<'_>> = prepared
            .iter()
            .flat_map(|prepared| &prepared.descriptors)
            .map(|fd| fd.as_fd())
            .collect();
        let mut peers = Vec::new();
        for (number, part) in self.cast(load, system).into_iter().enumerate() {
            let job = Job {
                system: system.peer_key().to_owned(),
                load: load.clone(),
                role: part.role,
                first: number == 0,
                core: part.core,
                cores: self.settings.cores_for(load),
                warm_up: self.settings.warm_up,
                duration: self.settings.duration,
                socket: system.socket(),
                folder: folder.to_owned(),
                channel_out: part.channel_out.map(|index| channels[index].clone()),
                channel_in: part.channel_in.map(|index| channels[index].clone()),
            };
            peers.push(Peer::start(system.program(), &job, &inherited, number)?);
        }
        for peer in &mut peers {
            peer.go()?;
        }
        let patience = self.settings.warm_up + self.settings.duration;
        let reports = Peer::reports(&mut peers, patience)?;
        for peer in peers {
            peer.end();
        }
        let measured = judge(load, &reports);
        ensure!(measured.value > 0.0, "no message came after the warm-up");
        Ok(measured)
    }

    /// Who takes part. Receivers come first: they shall be there when the first message is.
    fn cast(&self, load: &Load, system: &dyn System) -> Vec<Part> {
        let (one, other) = self.settings.cores_for(load);
        let part =
            |role, core, channel_in, channel_out| Part { role, core, channel_in, channel_out };
        if load.kind == Kind::Setup {
            return vec![part(Role::Cycle, one, None, Some(0))];
        }
        if system.is_in_one_process() {
            return vec![part(Role::Both, one, None, None)];
        }
        if load.goes_back() {
            return vec![
                part(Role::Pong, other, Some(0), Some(1)),
                part(Role::Ping, one, Some(1), Some(0)),
            ];
        }
        let receiver = |index: u8| {
            let core = if index.is_multiple_of(2) { other } else { one };
            part(Role::Receive(index), core, Some(0), None)
        };
        let sender = |index: u8| {
            let core = if index.is_multiple_of(2) { one } else { other };
            part(Role::Send(index), core, None, Some(0))
        };
        (0..load.receivers).map(receiver).chain((0..load.senders).map(sender)).collect()
    }
}

/// The part of one process.
struct Part {
    role: Role,
    core: usize,
    channel_in: Option<usize>,
    channel_out: Option<usize>,
}

fn channel(prepared: &Prepared, name: &str) -> Channel {
    Channel {
        name: prepared.name.clone().unwrap_or_else(|| name.to_owned()),
        descriptors: prepared.descriptors.iter().map(|fd| fd.as_raw_fd()).collect(),
    }
}

/// Looks whether each message came exactly once, and makes one figure of what the processes saw.
fn judge(load: &Load, reports: &[(Role, Report)]) -> Measured {
    let total = |sending: bool| {
        reports.iter().filter(|(role, _)| role.sends() == sending).fold(
            (0, 0u64),
            |(messages, sum), (_, report)| {
                (messages + report.messages, sum.wrapping_add(report.sum))
            },
        )
    };
    let (sent, received) = (total(true), total(false));
    let mut corrupt: u64 =
        reports.iter().map(|(_, report)| report.corrupt + report.disordered).sum();
    let lost = sent.0.saturating_sub(received.0);
    if lost == 0 && corrupt == 0 && sent != received {
        // As many came as were sent, or more, and they were not the same.
        corrupt = 1.max(received.0 - sent.0);
    }
    if load.kind.is_rate() {
        let value = reports.iter().map(|(_, report)| report.rate).sum();
        return Measured { value, p99_ns: None, lost, corrupt };
    }
    let slowest =
        |of: fn(&Report) -> f64| reports.iter().map(|(_, report)| of(report)).fold(0.0, f64::max);
    let (value, p99) = (slowest(|report| report.p50_ns), slowest(|report| report.p99_ns));
    Measured { value, p99_ns: Some(p99), lost, corrupt }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(messages: u64, sum: u64) -> Report {
        Report { messages, sum, rate: 7.0, ..Report::default() }
    }

    #[test]
    fn what_was_sent_and_what_came_are_compared() {
        let load = Load::new("stream".into(), 8);
        let judged = |sent, received| {
            let judged = judge(&load, &[(Role::Receive(0), received), (Role::Send(0), sent)]);
            (judged.lost, judged.corrupt)
        };
        assert_eq!(judged(report(5, 9), report(5, 9)), (0, 0));
        assert_eq!(judged(report(5, 9), report(3, 4)), (2, 0));
        assert_eq!(judged(report(5, 9), report(5, 8)), (0, 1));
        assert_eq!(judged(report(5, 9), report(7, 9)), (0, 2));
    }
}
