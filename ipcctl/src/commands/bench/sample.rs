//! One sample: a load on a system, once.

use std::os::fd::OwnedFd;
use std::time::Instant;

use anyhow::{Result, ensure};
use libipc::Client;

use super::measure::{histogram, percentiles};
use super::peer::Peer;
use super::plan::{Job, Kind, Load, Report, Role, System};
use super::{Settings, ours, rivals};

/// What one sample tells.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Messages a second, or the median in ns.
    pub(super) value: f64,
    /// 99 of 100 are faster, in ns; not for streams.
    pub(super) p99_ns: Option<f64>,
}

/// Takes samples, each on channels of its own.
pub(super) struct Sampler<'a> {
    client: &'a Client,
    settings: Settings,
    /// Channels made so far: their names differ by this.
    channels: u64,
    /// Fewest messages that a POSIX queue held, where it could not hold what it should.
    shallow_queue: Option<usize>,
}

impl<'a> Sampler<'a> {
    /// A sampler on a daemon.
    pub(super) fn new(client: &'a Client, settings: Settings) -> Self {
        Self { client, settings, channels: 0, shallow_queue: None }
    }

    /// What the reader of the figures should know about how they were made.
    pub(super) fn note(&self) -> Option<String> {
        let depth = self.shallow_queue?;
        let limit = "the limits fs.mqueue.msg_max and RLIMIT_MSGQUEUE allow no more";
        Some(format!("POSIX queues held down to {depth} messages here: {limit}."))
    }

    /// Takes a sample.
    pub(super) fn sample(&mut self, load: &Load, system: System) -> Result<Sample> {
        if load.kind == Kind::Setup {
            return self.set_up(load, system);
        }
        let mut channels = Vec::new();
        for _ in 0..load.channels() {
            channels.push(self.channel(load, system)?);
        }
        let mut peers = Vec::new();
        for (role, core, channel_in, channel_out) in self.cast(load) {
            let channel_in = channel_in.map(|index| &channels[index]);
            let channel_out = channel_out.map(|index| &channels[index]);
            let job = self.job(load, system, role, core, channel_in, channel_out);
            let input = channel_in.map(Channel::read_end).transpose()?.flatten();
            let output = channel_out.map(Channel::write_end).transpose()?.flatten();
            peers.push((role, Peer::start(&job, input, output)?));
        }
        for (_, peer) in &mut peers {
            peer.go()?;
        }
        let mut reports = Vec::new();
        for (role, peer) in &mut peers {
            reports.push((*role, peer.report()?));
        }
        judge(load, &reports)
    }

    /// Who takes part: role, core, channel to receive from, channel to send to. Receivers come first:
    /// they shall be there when the first message is.
    fn cast(&self, load: &Load) -> Vec<(Role, usize, Option<usize>, Option<usize>)> {
        let (one, other) = self.settings.cores;
        if load.kind == Kind::PingPong {
            return vec![
                (Role::Pong, other, Some(0), Some(1)),
                (Role::Ping, one, Some(1), Some(0)),
            ];
        }
        let receiver =
            |index: u8| (Role::Receive, if index == 0 { other } else { one }, Some(0), None);
        let sender =
            |index: u8| (Role::Send(index), if index == 0 { one } else { other }, None, Some(0));
        (0..load.receivers).map(receiver).chain((0..load.senders).map(sender)).collect()
    }

    fn job(
        &self,
        load: &Load,
        system: System,
        role: Role,
        core: usize,
        channel_in: Option<&Channel<'_>>,
        channel_out: Option<&Channel<'_>>,
    ) -> Job {
        Job {
            system,
            kind: load.kind,
            role,
            bytes: load.bytes,
            senders: load.senders,
            receivers: load.receivers,
            core,
            warm_up: self.settings.warm_up,
            duration: self.settings.duration,
            socket: self.client.socket_path().to_owned(),
            channel_out: channel_out.and_then(Channel::name),
            channel_in: channel_in.and_then(Channel::name),
        }
    }

    fn next_name(&mut self, system: System) -> String {
        self.channels += 1;
        let name = format!("ipcctl-bench-{}-{}", std::process::id(), self.channels);
        // POSIX wants a slash in front of a queue's name.
        if system == System::Mq { format!("/{name}") } else { name }
    }

    fn channel(&mut self, load: &Load, system: System) -> Result<Channel<'a>> {
        let name = self.next_name(system);
        match system {
            System::Ours | System::OursSingle => {
                ours::create(self.client, &name, system, load)?;
                Ok(Channel::Mailbox { client: self.client, name })
            }
            System::Mq => {
                let shallow = rivals::create_queue(&name, load)?;
                self.shallow_queue = self.shallow_queue.into_iter().chain(shallow).min();
                Ok(Channel::Queue { name })
            }
            System::Pipe | System::Seqpacket => {
                let (read_end, write_end) = rivals::create_descriptors(system, load)?;
                Ok(Channel::Descriptors { read_end, write_end })
            }
        }
    }

    /// Create, open both ends, one message, delete, again and again in this process.
    fn set_up(&mut self, load: &Load, system: System) -> Result<Sample> {
        let mut histogram = histogram()?;
        let start = Instant::now();
        let warm = start + self.settings.warm_up;
        let end = warm + self.settings.duration;
        let mut before = start;
        while before < end {
            let name = self.next_name(system);
            if system.is_ours() {
                ours::set_up(self.client, &name, system, load)?;
            } else {
                rivals::set_up(&name, system, load)?;
            }
            let after = Instant::now();
            if before >= warm {
                histogram.saturating_record((after - before).as_nanos() as u64 * 1000);
            }
            before = after;
        }
        let report = percentiles(&histogram);
        Ok(Sample { value: report.p50_ns, p99_ns: Some(report.p99_ns) })
    }
}

/// Checks that each message came exactly once, and makes a sample of what the processes saw.
fn judge(load: &Load, reports: &[(Role, Report)]) -> Result<Sample> {
    let sends = |role: &Role| matches!(role, Role::Send(_) | Role::Ping);
    let total = |sending: bool| {
        reports.iter().filter(|(role, _)| sends(role) == sending).fold(
            (0, 0u64),
            |(messages, sum), (_, report)| {
                (messages + report.messages, sum.wrapping_add(report.sum))
            },
        )
    };
    let (sent, received) = (total(true), total(false));
    ensure!(sent == received, "{} messages were sent, {} came: not the same", sent.0, received.0);
    if load.kind.is_rate() {
        let value = reports.iter().map(|(_, report)| report.rate).sum();
        return Ok(Sample { value, p99_ns: None });
    }
    let slowest =
        |of: fn(&Report) -> f64| reports.iter().map(|(_, report)| of(report)).fold(0.0, f64::max);
    Ok(Sample { value: slowest(|r| r.p50_ns), p99_ns: Some(slowest(|r| r.p99_ns)) })
}

/// What carries the messages of a sample; gone when dropped.
enum Channel<'a> {
    /// One of ours.
    Mailbox {
        /// The daemon's client.
        client: &'a Client,
        /// Its name.
        name: String,
    },
    /// A POSIX message queue.
    Queue {
        /// Its name.
        name: String,
    },
    /// A pipe or a socket pair.
    Descriptors {
        /// To receive from.
        read_end: OwnedFd,
        /// To send to.
        write_end: OwnedFd,
    },
}

impl Channel<'_> {
    fn name(&self) -> Option<String> {
        match self {
            Self::Mailbox { name, .. } | Self::Queue { name } => Some(name.clone()),
            Self::Descriptors { .. } => None,
        }
    }

    fn read_end(&self) -> Result<Option<OwnedFd>> {
        match self {
            Self::Descriptors { read_end, .. } => Ok(Some(read_end.try_clone()?)),
            _ => Ok(None),
        }
    }

    fn write_end(&self) -> Result<Option<OwnedFd>> {
        match self {
            Self::Descriptors { write_end, .. } => Ok(Some(write_end.try_clone()?)),
            _ => Ok(None),
        }
    }
}

impl Drop for Channel<'_> {
    fn drop(&mut self) {
        match self {
            // What cannot be deleted here stays visible in `ipcctl list`.
            Self::Mailbox { client, name } => drop(client.delete(name)),
            Self::Queue { name } => rivals::delete_queue(name),
            Self::Descriptors { .. } => {}
        }
    }
}
