//! All rivals, in one run.

use std::path::PathBuf;

use anyhow::{Result, bail};
use measure::load::Load;
use measure::machine::Machine;
use measure::run::{allowed_cores, measure_all, progress};
use measure::sampler::Settings;
use measure::system::System;
use measure::systems::{Ours, everywhere};

use crate::cli::Contest;
use crate::daemon::Daemon;
use crate::{floors, interrupt, rivals, write};

/// Everything that can be measured, in the order in which it is; ours with the daemon at `socket` (peers find it in
/// their job).
pub(crate) fn systems(socket: Option<PathBuf>) -> Vec<Box<dyn System>> {
    let mut systems = everywhere(socket.clone());
    systems.insert(2, Box::new(Ours::polling(socket)));
    systems.extend(rivals::all());
    systems.extend(floors::all());
    systems
}

/// Measures, and writes the report.
pub(crate) fn run(args: &Contest) -> Result<()> {
    if args.list {
        systems(None)
            .iter()
            .for_each(|system| write::say(&format!("system {}: {}", system.key(), system.name())));
        Load::all().iter().for_each(|load| write::say(&format!("load {}", load.name)));
        return Ok(());
    }
    interrupt::watch()?;
    let machine = Machine::look();
    let daemon = Daemon::start(&args.effort.ipcd)?;
    let systems = systems(Some(daemon.socket()));
    let systems = chosen_systems(&systems, &args.systems)?;
    let loads = chosen_loads(args.effort.only.as_deref())?;
    let (runs, duration) = args.effort.amount();
    let settings = Settings::new(runs, duration, allowed_cores()?);
    let bar = progress(&settings, &loads, &systems, write::draws_progress());
    let mut results = measure_all(settings, &loads, &systems, &bar, &interrupt::happened)?;
    results.notes.extend(machine.busy());
    write::results(&args.effort.out, "bench", &results, &machine, "")
}

fn chosen_systems<'a>(
    systems: &'a [Box<dyn System>],
    keys: &[String],
) -> Result<Vec<&'a dyn System>> {
    if let Some(key) = keys.iter().find(|key| systems.iter().all(|system| system.key() != *key)) {
        let known: Vec<_> = systems.iter().map(|system| system.key()).collect();
        bail!("no system is named {key}: there are {}", known.join(", "));
    }
    let is_chosen =
        |system: &&dyn System| keys.is_empty() || keys.iter().any(|key| key == system.key());
    Ok(systems.iter().map(AsRef::as_ref).filter(is_chosen).collect())
}

/// The loads whose names contain `only`.
pub(crate) fn chosen_loads(only: Option<&str>) -> Result<Vec<Load>> {
    let mut loads = Load::all();
    loads.retain(|load| load.name.contains(only.unwrap_or_default()));
    if loads.is_empty() {
        let names: Vec<_> = Load::all().into_iter().map(|load| load.name).collect();
        bail!("no load is named so: there are {}", names.join("; "));
    }
    Ok(loads)
}
