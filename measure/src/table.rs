//! The results as Markdown: the machine, what it comes to, a table for each load.

use std::fmt::Write as _;

use crate::distance::Distance;
use crate::machine::Machine;
use crate::results::{Comparison, Results, Row};
use crate::spread::{Spread, figure, times};
use crate::system::Standing;

/// The whole report; `figure_of` tells the file of a load's figure, if there is one.
#[must_use]
pub fn report(
    results: &Results,
    machine: &Machine,
    figure_of: impl Fn(&Comparison<'_>) -> Option<String>,
) -> String {
    let mut text = String::from("# Measured side by side\n\n");
    let _ = writeln!(text, "{}\n{}", facts(machine), how(results));
    for note in &results.notes {
        let _ = writeln!(text, "- {note}");
    }
    let _ = write!(text, "\n## In short\n\n{}", summary(results));
    for load in 0..results.loads.len() {
        for comparison in results.comparisons(load) {
            let name = &comparison.load.name;
            let _ = write!(text, "\n## {name} ({})\n\n", comparison.distance);
            if let Some(file) = figure_of(&comparison) {
                let _ = write!(text, "![{name}]({file})\n\n");
            }
            text.push_str(&table(&comparison));
        }
    }
    text
}

/// The machine, a bullet a fact.
#[must_use]
pub fn facts(machine: &Machine) -> String {
    let memory_gib = machine.memory_bytes as f64 / f64::from(1 << 30);
    let mitigations = match machine.mitigations.as_slice() {
        [] => "none".to_owned(),
        some => some.join("; "),
    };
    format!(
        "- processor: {}, {} cores usable\n- kernel: {}\n- memory: {memory_gib:.0} GiB\n- compiler: {}\n- date: {}\n\
         - load average before: {}\n- mitigations: {mitigations}",
        machine.processor,
        machine.cores,
        machine.kernel,
        machine.compiler,
        machine.date,
        machine.load_before,
    )
}

fn how(results: &Results) -> String {
    let settings = &results.settings;
    let lines = |runs: std::ops::RangeInclusive<u32>| {
        let samples = results
            .samples
            .iter()
            .filter(|sample| sample.distance != Distance::Same && runs.contains(&sample.run));
        let lines: Vec<_> = samples.flat_map(|s| [s.line_before_ns, s.line_after_ns]).collect();
        Spread::of(&lines).map_or("not measured".to_owned(), |spread| shown(spread, 1.0))
    };
    let by_run: Vec<_> = (1..=results.settings.runs).map(|run| lines(run..=run)).collect();
    let moved: usize = results.misses.iter().filter(|miss| is_moved(miss)).count();
    format!(
        "- {} runs of {:?} for each load and system, systems in turns within a run, on cores {} and {}\n\
         - one way of a bounced cache line, right before and after each: {} ns; only figures of one class of it \
         are compared; by run: {}\n- measurements dropped because that changed under them, four times running: {moved}\n\
         - every message is checked by its receiver: sequence number, first and last byte, and count and sum at the end",
        settings.runs,
        settings.duration,
        settings.cores.0,
        settings.cores.1,
        lines(1..=settings.runs),
        by_run.join("; "),
    )
}

fn is_moved(miss: &crate::results::Miss) -> bool {
    miss.why == crate::results::Why::Moved
}

/// The two of ours that a summary shows.
const OURS: [&str; 2] = ["ours", "ours-single"];

/// A line for each load: ours, the best rival, the floor.
#[must_use]
pub fn summary(results: &Results) -> String {
    let mut text = String::from(
        "| load | unit | cores | ours | ours, one receiver | best rival | ours to it | floor | ours to it |\n\
         | --- | --- | --- | ---: | ---: | --- | ---: | --- | ---: |\n",
    );
    for load in 0..results.loads.len() {
        for comparison in results.comparisons(load) {
            let (unit, scale) = comparison.load.kind.unit();
            let ours = comparison.best_of(|it| OURS.contains(&it.key.as_str()));
            let cell = |key: &str| {
                let spread = comparison.row(key).and_then(|row| row.spread);
                spread.map_or("-".to_owned(), |spread| figure(spread.median / scale))
            };
            let named = |row: Option<&Row<'_>>| {
                row.and_then(|row| Some((row, row.spread?))).map_or(
                    "-".to_owned(),
                    |(row, spread)| {
                        format!("{}: {}", row.contender.name, figure(spread.median / scale))
                    },
                )
            };
            let ratio = |ratio: Option<f64>| ratio.map_or("-".to_owned(), times);
            let _ = writeln!(
                text,
                "| {} | {unit} | {} | {} | {} | {} | {} | {} | {} |",
                comparison.load.name,
                comparison.distance,
                cell(OURS[0]),
                cell(OURS[1]),
                named(comparison.best(Standing::Rival)),
                ratio(ours.and_then(|row| row.to_best_rival)),
                named(comparison.best(Standing::Floor)),
                ratio(ours.and_then(|row| row.to_floor)),
            );
        }
    }
    text.push_str(
        "\nThe ratios are those of the better of our two: to the best rival, how many times better; to the floor, our \
         figure over the floor's.\n",
    );
    text
}

/// A load's table.
#[must_use]
pub fn table(comparison: &Comparison<'_>) -> String {
    let (unit, scale) = comparison.load.kind.unit();
    let has_p99 = comparison.rows.iter().any(|row| row.p99_ns.is_some());
    let mut text = format!("| system | {unit}, median | range | runs |");
    let mut rule = String::from("| --- | ---: | ---: | ---: |");
    if has_p99 {
        text.push_str(" 99 of 100 within |");
        rule.push_str(" ---: |");
    }
    text.push_str(" to the best rival | to the floor | |\n");
    rule.push_str(" ---: | ---: | --- |\n");
    text.push_str(&rule);
    let mut rows: Vec<_> = comparison.rows.iter().collect();
    let order = |row: &Row<'_>| {
        let median = row.spread.map_or(f64::INFINITY, |spread| spread.median);
        if comparison.load.kind.is_rate() && row.spread.is_some() { -median } else { median }
    };
    rows.sort_by(|a, b| order(a).total_cmp(&order(b)));
    for row in rows {
        let ratio = |ratio: Option<f64>| ratio.map_or("-".to_owned(), times);
        let (median, range) = match row.spread {
            Some(spread) => {
                let Spread { median, lowest, highest } = spread.in_units(scale);
                (figure(median), format!("{} to {}", figure(lowest), figure(highest)))
            }
            None => ("-".to_owned(), "-".to_owned()),
        };
        let name = match row.contender.standing {
            Standing::Ours => format!("**{}**", row.contender.name),
            Standing::Rival => row.contender.name.clone(),
            Standing::Floor | Standing::Reference => format!("*{}*", row.contender.name),
        };
        let _ = write!(text, "| {name} | {median} | {range} | {} |", row.samples);
        if has_p99 {
            let p99 = row.p99_ns.map_or("-".to_owned(), |ns| figure(ns / scale));
            let _ = write!(text, " {p99} |");
        }
        let _ = writeln!(
            text,
            " {} | {} | {} |",
            ratio(row.to_best_rival),
            ratio(row.to_floor),
            remarks(row)
        );
    }
    text
}

/// What a row's figure does not say.
#[must_use]
pub fn remarks(row: &Row<'_>) -> String {
    let mut remarks = Vec::new();
    if let Some(why) = row.failure {
        remarks.push(format!("failed: {}", why.replace('|', "/").replace('\n', " ")));
    }
    if row.lost > 0 {
        remarks.push(format!("lost {}", row.lost));
    }
    if row.corrupt > 0 {
        remarks.push(format!("corrupt {}", row.corrupt));
    }
    if row.moved > 0 {
        remarks.push(format!("{} dropped", row.moved));
    }
    remarks.join("; ")
}

/// A spread in one cell.
#[must_use]
pub fn shown(spread: Spread, scale: f64) -> String {
    let Spread { median, lowest, highest } = spread.in_units(scale);
    if lowest == highest {
        return figure(median);
    }
    format!("{} ({} to {})", figure(median), figure(lowest), figure(highest))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::load::Load;
    use crate::results::{Miss, Why};
    use crate::sampler::Settings;
    use crate::system::System;
    use crate::systems::{PosixQueue, everywhere};

    #[test]
    fn what_failed_is_told_in_its_row() {
        let systems = everywhere(None);
        let systems: Vec<&dyn System> = systems.iter().map(AsRef::as_ref).collect();
        let mq = systems.iter().position(|system| system.key() == PosixQueue.key()).unwrap();
        let settings = Settings::new(1, Duration::from_millis(1), (0, 1));
        let mut results = Results::new(settings, vec![Load::new("stream".into(), 8)], &systems);
        let why = Why::Failed("it | broke\ndown".into());
        results.misses.push(Miss { load: 0, contender: mq, run: 1, why });
        let text = table(&results.main_comparison(0));
        assert!(text.contains("failed: it / broke down"), "{text}");
        assert!(summary(&results).contains("| stream |"), "the load is told all the same");
    }
}
