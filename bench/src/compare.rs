//! Two builds of ours, in turns within one run: what has a change done?

use std::fmt::Write as _;

use anyhow::Result;
use measure::machine::Machine;
use measure::results::Results;
use measure::run::{allowed_cores, measure_all, progress};
use measure::sampler::Settings;
use measure::spread::{Spread, times};
use measure::system::System;
use measure::systems::Ours;
use measure::table;

use crate::cli::Compare;
use crate::contest::chosen_loads;
use crate::daemon::Daemon;
use crate::{floors, interrupt, write};

/// Our two kinds of mailboxes, by their keys.
const OURS: [&str; 2] = ["ours", "ours-single"];

/// Measures, and writes the report.
pub(crate) fn run(args: &Compare) -> Result<()> {
    interrupt::watch()?;
    let machine = Machine::look();
    let here = Daemon::start(&args.effort.ipcd)?;
    let there = Daemon::start(&args.other_ipcd)?;
    let mut systems: Vec<Box<dyn System>> = Vec::new();
    for ours in [Ours::any_receivers, Ours::one_receiver] {
        systems.push(Box::new(ours(Some(here.socket()))));
        let other = ours(Some(there.socket())).of_program(&args.other, args.other_bench.clone());
        systems.push(Box::new(other));
    }
    systems.extend(floors::all());
    let systems: Vec<_> = systems.iter().map(AsRef::as_ref).collect();
    let loads = chosen_loads(args.effort.only.as_deref())?;
    let (runs, duration) = args.effort.amount();
    let settings = Settings::new(runs, duration, allowed_cores()?);
    let bar = progress(&settings, &loads, &systems, write::draws_progress());
    let mut results = measure_all(settings, &loads, &systems, &bar, &interrupt::happened)?;
    results.notes.extend(machine.busy());
    let pairs = pairs(&results, &args.other);
    write::say(&pairs);
    write::results(&args.effort.out, "compare", &results, &machine, &pairs)
}

/// A line for each load: what this build reached, the other one, and the ratios within each run.
fn pairs(results: &Results, other: &str) -> String {
    let mut text = format!(
        "\n## This build against {other}, run by run\n\n\
         Ratios above 1 mean that this build is better: each is of one run, both measured at the same distance of the cores, \
         one right after the other.\n\n\
         | load | unit | system | here | {other} | better by, median | range | of each run |\n\
         | --- | --- | --- | ---: | ---: | ---: | ---: | --- |\n"
    );
    for (number, load) in results.loads.iter().enumerate() {
        let (unit, scale) = load.kind.unit();
        let comparison = results.main_comparison(number);
        for key in OURS {
            let there = format!("{key}@{other}");
            let shown = |key: &str| {
                let spread = comparison.row(key).and_then(|row| row.spread);
                spread.map_or("-".to_owned(), |spread| table::shown(spread, scale))
            };
            let ratios = results.paired(number, key, &there).into_iter();
            let ratios: Vec<_> =
                ratios.map(|ratio| if load.kind.is_rate() { ratio } else { 1.0 / ratio }).collect();
            let Some(spread) = Spread::of(&ratios) else { continue };
            let each: Vec<_> = ratios.iter().map(|ratio| format!("{ratio:.2}")).collect();
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "| {} | {unit} | {key} | {} | {} | **{}** | {} to {} | {} |",
                load.name,
                shown(key),
                shown(&there),
                times(spread.median),
                times(spread.lowest),
                times(spread.highest),
                each.join(", "),
            );
        }
    }
    text
}
