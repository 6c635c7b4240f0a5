//! `bench`: mailboxes and the kernel's own message passing, on this machine, in one run.
//!
//! [`plan`] names loads and systems; [`sample`] takes one sample of a load on a system, with a process
//! for each end ([`mod@peer`]), which do what [`measure`] says through [`ours`] or [`rivals`], each message
//! checked ([`check`]); [`floor`] measures what the machine gives at best; [`report`] shows it all.

mod bulk;
mod check;
mod floor;
mod measure;
mod ours;
mod peer;
mod plan;
mod report;
mod rivals;
mod sample;

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use libipc::Client;
use nix::sched::sched_getaffinity;
use nix::unistd::Pid;

use crate::cli::{Bench, BenchPeer};
use crate::exit_code::{ExitCode, Failure, Outcome};
use crate::interrupt::Interrupted;
use crate::output::Output;

use plan::{Load, System};
use report::Results;
use sample::Sampler;

/// Measures, and shows the results.
pub(crate) fn run(client: &Client, args: &Bench, output: &mut Output) -> Outcome {
    // An interrupt must not leave mailboxes and queues behind.
    let interrupted = Interrupted::watch()?;
    let results = measure_all(client, args, &interrupted, output)
        .map_err(|error| Failure::new(ExitCode::Failed, "cannot measure", format!("{error:#}")))?;
    if output.json {
        output.object(&results.json())?;
    } else {
        output.line(&results.text())?;
    }
    Ok(ExitCode::Done)
}

/// One end of a measurement, in a process of its own.
pub(crate) fn peer(args: &BenchPeer) -> Outcome {
    peer::serve(&args.job)
        .map_err(|error| Failure::new(ExitCode::Failed, "cannot measure", format!("{error:#}")))?;
    Ok(ExitCode::Done)
}

/// What the options come to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Times that each load and system is measured.
    runs: u32,
    /// Before each measurement.
    warm_up: Duration,
    /// Of each measurement.
    duration: Duration,
    /// Of the first sender, and of the first receiver.
    cores: (usize, usize),
}

impl Settings {
    fn of(args: &Bench) -> Result<Self> {
        let (runs, duration) = match args.quick {
            true => (1, Duration::from_millis(100)),
            false => (args.runs, args.duration),
        };
        let mut cores = match args.cores {
            Some(cores) => cores,
            None => allowed_cores()?,
        };
        if args.same_core {
            cores.1 = cores.0;
        }
        Ok(Self { runs, warm_up: duration / 5, duration, cores })
    }

    fn same_core(&self) -> bool {
        self.cores.0 == self.cores.1
    }
}

/// The first two cores that this process may use; twice the same where there is only one.
fn allowed_cores() -> Result<(usize, usize)> {
    let set = sched_getaffinity(Pid::from_raw(0)).context("cannot ask for the allowed cores")?;
    let mut allowed =
        (0..nix::sched::CpuSet::count()).filter(|core| set.is_set(*core).unwrap_or(false));
    let Some(first) = allowed.next() else { bail!("this process may use no core") };
    Ok((first, allowed.next().unwrap_or(first)))
}

/// All runs: in each, every load on every system, so that all of them see the same moods of the machine.
fn measure_all(
    client: &Client,
    args: &Bench,
    interrupted: &Interrupted,
    output: &Output,
) -> Result<Results> {
    let settings = Settings::of(args)?;
    let loads = chosen_loads(args)?;
    let progress = progress(&settings, &loads, output);
    let mut results = Results::new(settings, &loads);
    let mut sampler = Sampler::new(client, settings);
    results.note(busy());
    'runs: for run in 1..=settings.runs {
        if !settings.same_core() {
            progress.set_message(format!("run {run}: the machine's floor"));
            results.add_floor(
                floor::bounce_ns(settings.cores)?,
                floor::ring_rate(settings.cores, 8, settings.duration)?,
                floor::ring_rate(settings.cores, 64, settings.duration)?,
            );
        }
        for load in &loads {
            for system in System::ALL.into_iter().filter(|system| load.suits(*system)) {
                progress.set_message(format!("run {run}: {}, {}", load.name, system.name()));
                match sampler.sample(load, system) {
                    _ if interrupted.happened() => {
                        results.note(Some(format!("Interrupted in run {run}.")));
                        break 'runs;
                    }
                    Ok(sample) => results.add(load, system, sample),
                    Err(error) if system.is_ours() => {
                        return Err(error.context(format!("{}, {}", load.name, system.name())));
                    }
                    Err(error) => results.cannot(load, system, &error),
                }
                progress.inc(1);
            }
        }
    }
    progress.finish_and_clear();
    results.note(sampler.note());
    Ok(results)
}

/// The loads that `--only` leaves.
fn chosen_loads(args: &Bench) -> Result<Vec<&'static Load>> {
    let chosen = |load: &&Load| args.only.as_ref().is_none_or(|only| load.name.contains(only));
    let loads: Vec<&Load> = Load::ALL.iter().filter(chosen).collect();
    if loads.is_empty() {
        let names: Vec<_> = Load::ALL.iter().map(|load| load.name).collect();
        bail!("no load is named so: there are {}", names.join("; "));
    }
    Ok(loads)
}

/// A note if others keep the machine's cores busy: then no figure means much.
fn busy() -> Option<String> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    let load: f64 = text.split(' ').next()?.parse().ok()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (load > 0.5 * cores as f64).then(|| {
        format!("This machine was busy before (load {load} on {cores} cores): figures suffer.")
    })
}

fn progress(settings: &Settings, loads: &[&Load], output: &Output) -> ProgressBar {
    if !output.draws_progress() {
        return ProgressBar::hidden();
    }
    let systems = |load: &&Load| System::ALL.into_iter().filter(|s| load.suits(*s)).count();
    let samples = loads.iter().map(systems).sum::<usize>() as u64 * u64::from(settings.runs);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} (eta {eta})");
    // The template is a constant; a wrong one would only look dull.
    ProgressBar::new(samples).with_style(style.unwrap_or(ProgressStyle::default_bar()))
}
