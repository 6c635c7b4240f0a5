//! `bench`: mailboxes and the kernel's own message passing, on this machine, in one run.
//!
//! The loads, and how they are measured, are those of the crate `measure`; here is what the options come to, and
//! how the results are shown ([`report`]).

mod report;

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use libipc::Client;
use measure::load::{Kind, Load, Wait};
use measure::machine::Machine;
use measure::results::{Results, Why};
use measure::run::{allowed_cores, measure_all, progress};
use measure::sampler::Settings;
use measure::stage;
use measure::system::{Standing, System};
use measure::systems::{BareRing, everywhere};

use crate::cli::{Bench, BenchPeer};
use crate::exit_code::{ExitCode, Failure, Outcome};
use crate::interrupt::Interrupted;
use crate::output::Output;

use report::Report;

/// Measures, and shows the results.
pub(crate) fn run(client: &Client, args: &Bench, output: &mut Output) -> Outcome {
    // An interrupt must not leave mailboxes and queues behind.
    let interrupted = Interrupted::watch()?;
    let failed = |error: anyhow::Error| {
        Failure::new(ExitCode::Failed, "cannot measure", format!("{error:#}"))
    };
    let results = measure(client, args, &interrupted, output).map_err(failed)?;
    let report = Report::of(&results);
    if let Some(file) = &args.figure {
        std::fs::write(file, report.figure().svg())
            .map_err(|error| Failure::io("cannot write the figure", &error))?;
        output.tell(&format!("The figure is in {}.", file.display()));
    }
    if output.json {
        output.object(&report.json())?;
    } else {
        output.line(&report.text())?;
    }
    Ok(ExitCode::Done)
}

/// One end of a measurement, in a process of its own.
pub(crate) fn peer(args: &BenchPeer) -> Outcome {
    stage::serve(&systems(None), &args.job)
        .map_err(|error| Failure::new(ExitCode::Failed, "cannot measure", format!("{error:#}")))?;
    Ok(ExitCode::Done)
}

/// What is measured here: what every machine has.
fn systems(client: Option<&Client>) -> Vec<Box<dyn System>> {
    let mut systems = everywhere(client.map(|client| client.socket_path().to_owned()));
    systems.push(Box::new(BareRing));
    systems
}

fn settings(args: &Bench) -> Result<Settings> {
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
    Ok(Settings::new(runs, duration, cores))
}

fn measure(
    client: &Client,
    args: &Bench,
    interrupted: &Interrupted,
    output: &Output,
) -> Result<Results> {
    let settings = settings(args)?;
    let is_one_core = settings.cores.0 == settings.cores.1;
    let loads = chosen_loads(args, is_one_core)?;
    let systems = systems(Some(client));
    let systems: Vec<&dyn System> = systems
        .iter()
        .map(AsRef::as_ref)
        .filter(|system| !is_one_core || system.standing() != Standing::Floor)
        .collect();
    let busy = Machine::look().busy();
    let bar = progress(&settings, &loads, &systems, output.draws_progress());
    let happened = || interrupted.happened();
    let mut results = measure_all(settings, &loads, &systems, &bar, &happened)?;
    results.notes.extend(busy);
    for miss in &results.misses {
        let (load, contender) = (&results.loads[miss.load], &results.contenders[miss.contender]);
        let what = format!("{}, {}", load.name, contender.name);
        match &miss.why {
            Why::Failed(why) if contender.standing == Standing::Ours => {
                return Err(anyhow::anyhow!("{why}")).context(what);
            }
            Why::Failed(why) => results.notes.push(format!("{what}: {why}.")),
            Why::Moved => {
                results.notes.push(format!("{what}: dropped, the cores' distance kept changing."));
            }
        }
    }
    results.notes.sort();
    results.notes.dedup();
    Ok(results)
}

/// The loads that everybody wants to know of, and of them those that `--only` leaves.
fn chosen_loads(args: &Bench, is_one_core: bool) -> Result<Vec<Load>> {
    let is_asked_here = |load: &Load| match load.kind {
        Kind::InPlace => load.bytes >= 64 << 10,
        Kind::Batches => load.bytes == 8,
        // Two that share a core and never sleep only wait for each other's time to pass.
        Kind::PingPong => !is_one_core || load.wait != Wait::Polling,
        _ => load.senders <= 2 && load.receivers <= 2,
    };
    let loads: Vec<_> = Load::all().into_iter().filter(is_asked_here).collect();
    let names: Vec<_> = loads.iter().map(|load| load.name.clone()).collect();
    let only = args.only.as_deref().unwrap_or_default();
    let chosen: Vec<_> = loads.into_iter().filter(|load| load.name.contains(only)).collect();
    if chosen.is_empty() {
        bail!("no load is named so: there are {}", names.join("; "));
    }
    Ok(chosen)
}
