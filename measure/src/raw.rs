//! All samples, as JSON for programs.

use serde::Serialize;

use crate::load::Load;
use crate::machine::Machine;
use crate::results::{Miss, Results, Sample};

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Raw<'a> {
    /// Where.
    pub machine: &'a Machine,
    /// Runs that were asked for.
    pub runs: u32,
    /// Of each measurement.
    pub duration_ms: u64,
    /// The cores of the two sides.
    pub cores: [usize; 2],
    /// What was measured.
    pub loads: &'a [Load],
    /// The samples.
    pub samples: Vec<Placed<'a, Sample>>,
    /// What came to nothing, and why.
    pub misses: Vec<Placed<'a, Miss>>,
    /// What the reader should know.
    pub notes: &'a [String],
}

/// Something of one load and one system.
#[derive(Debug, Serialize)]
pub struct Placed<'a, T> {
    /// The load's name.
    pub load: &'a str,
    /// The system's key.
    pub system: &'a str,
    /// The rest.
    #[serde(flatten)]
    pub rest: &'a T,
}

impl<'a> Raw<'a> {
    /// The results of a machine.
    #[must_use]
    pub fn of(results: &'a Results, machine: &'a Machine) -> Self {
        let load = |index: usize| results.loads[index].name.as_str();
        let system = |index: usize| results.contenders[index].key.as_str();
        let sample = |sample: &'a Sample| Placed {
            load: load(sample.load),
            system: system(sample.contender),
            rest: sample,
        };
        let miss = |miss: &'a Miss| Placed {
            load: load(miss.load),
            system: system(miss.contender),
            rest: miss,
        };
        Self {
            machine,
            runs: results.settings.runs,
            duration_ms: results.settings.duration.as_millis() as u64,
            cores: results.settings.cores.into(),
            loads: &results.loads,
            samples: results.samples.iter().map(sample).collect(),
            misses: results.misses.iter().map(miss).collect(),
            notes: &results.notes,
        }
    }
}
