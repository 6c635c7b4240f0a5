//! Streams where the number of receivers, or the capacity, grows; measured as the contest measures.

use std::time::Duration;

use anyhow::Result;
use measure::load::Load;
use measure::run::allowed_cores;
use measure::sampler::{Sampler, Settings};
use measure::systems::Ours;

use crate::daemon::Daemon;

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Receivers that compete.
    Receivers,
    /// Bytes of a lane.
    Capacity,
}

impl What {
    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Receivers => "competing receivers",
            Self::Capacity => "capacity",
        }
    }
}

/// One place of one line.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    /// What grows.
    pub(crate) what: What,
    /// The line's name.
    pub(crate) line: &'static str,
    /// How much there is of what grows.
    pub(crate) at: f64,
    /// What is measured.
    pub(crate) load: Load,
}

/// All of them.
pub(crate) fn all() -> Vec<Stream> {
    let receivers = [1, 2, 4, 8, 16, 32, 64].map(|receivers: u8| Stream {
        what: What::Receivers,
        line: "64 B",
        at: f64::from(receivers),
        load: Load { receivers, ..Load::new(format!("{receivers} receivers"), 64) },
    });
    let capacity = |line: &'static str, bytes: usize| {
        (12..=28).step_by(2).map(move |power| Stream {
            what: What::Capacity,
            line,
            at: (1_u64 << power) as f64 / 1024.0,
            load: Load {
                buffer_bytes: 1 << power,
                ..Load::new(format!("{line}, {} KiB", (1 << power) >> 10), bytes)
            },
        })
    };
    receivers.into_iter().chain(capacity("64 B", 64)).chain(capacity("1 KiB", 1 << 10)).collect()
}

/// Measures streams on our mailboxes.
#[derive(Debug)]
pub(crate) struct Streams {
    sampler: Sampler,
    ours: Ours,
}

impl Streams {
    /// On this daemon.
    pub(crate) fn new(daemon: &Daemon, duration: Duration) -> Result<Self> {
        let settings = Settings::new(1, duration, allowed_cores()?);
        let ours = Ours::any_receivers(Some(daemon.socket()));
        Ok(Self { sampler: Sampler::new(settings)?, ours })
    }

    /// Million messages a second.
    pub(crate) fn sample(&mut self, load: &Load) -> Result<f64> {
        let measured = self.sampler.sample(load, &self.ours)?;
        anyhow::ensure!(
            measured.lost + measured.corrupt == 0,
            "{} messages were lost, {} corrupt",
            measured.lost,
            measured.corrupt
        );
        Ok(measured.value / 1e6)
    }
}
