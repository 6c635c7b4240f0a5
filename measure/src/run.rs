//! All samples of a measurement, contenders in turns, so that all of them see the same moods of the machine.

use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

use crate::distance::{Distance, bounce_ns};
use crate::load::Load;
use crate::results::{Miss, Results, Why};
use crate::sampler::{Sampler, Settings};
use crate::system::System;

/// Times that a sample is taken in all, if the cores' distance changes while it is.
const ATTEMPTS: usize = 4;
/// Failures after which a system is not tried with a load again.
const FAILURES_MAX: usize = 2;

/// The first two cores that this process may use; twice the same where there is only one.
///
/// # Errors
/// If the kernel does not say.
pub fn allowed_cores() -> Result<(usize, usize)> {
    let set = sched_getaffinity(Pid::from_raw(0)).context("cannot ask for the allowed cores")?;
    let mut allowed = (0..CpuSet::count()).filter(|core| set.is_set(*core).unwrap_or(false));
    let Some(first) = allowed.next() else { bail!("this process may use no core") };
    Ok((first, allowed.next().unwrap_or(first)))
}

/// A bar for as many samples as there will be; hidden unless it is to be drawn.
#[must_use]
pub fn progress(
    settings: &Settings,
    loads: &[Load],
    systems: &[&dyn System],
    is_drawn: bool,
) -> ProgressBar {
    if !is_drawn {
        return ProgressBar::hidden();
    }
    let suited = |load: &Load| systems.iter().filter(|system| system.suits(load)).count();
    let samples = loads.iter().map(suited).sum::<usize>() as u64 * u64::from(settings.runs);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} (eta {eta})");
    // The template is a constant; a wrong one would only look dull.
    ProgressBar::new(samples).with_style(style.unwrap_or(ProgressStyle::default_bar()))
}

/// Measures every load on every system that it suits, as often as the settings say.
///
/// # Errors
/// If nothing can be measured at all; what fails on one system becomes part of the results.
pub fn measure_all(
    settings: Settings,
    loads: &[Load],
    systems: &[&dyn System],
    progress: &ProgressBar,
    is_interrupted: &dyn Fn() -> bool,
) -> Result<Results> {
    let mut results = Results::new(settings, loads.to_vec(), systems);
    let mut sampler = Sampler::new(settings)?;
    'runs: for run in 1..=settings.runs {
        let mut order: Vec<_> = systems.iter().enumerate().collect();
        if run % 2 == 0 {
            // Whoever goes first has it no better than whoever goes last.
            order.reverse();
        }
        for (load_number, load) in loads.iter().enumerate() {
            for &(number, system) in &order {
                if !system.suits(load) {
                    continue;
                }
                progress.set_message(format!("run {run}: {}, {}", load.name, system.name()));
                let place = (load_number, number, run);
                if has_failed_enough(&results, place) {
                    progress.inc(1);
                    continue;
                }
                let outcome = one(&mut sampler, &settings, load, *system);
                if is_interrupted() {
                    results.note(format!("Interrupted in run {run}."));
                    break 'runs;
                }
                match outcome? {
                    Ok((measured, lines_ns, distance)) => {
                        results.add(place, measured, lines_ns, distance);
                    }
                    Err(why) => {
                        results.misses.push(Miss {
                            load: load_number,
                            contender: number,
                            run,
                            why,
                        });
                    }
                }
                progress.inc(1);
            }
        }
    }
    progress.finish_and_clear();
    for note in sampler.notes() {
        results.note(note);
    }
    Ok(results)
}

fn has_failed_enough(results: &Results, (load, contender, _): (usize, usize, u32)) -> bool {
    let failed =
        |miss: &&Miss| (miss.load, miss.contender) == (load, contender) && miss.why != Why::Moved;
    results.misses.iter().filter(failed).count() >= FAILURES_MAX
}

type Taken = (crate::sampler::Measured, (f64, f64), Distance);

/// One sample, with the cores' distance right before and right after it; again if that changed.
fn one(
    sampler: &mut Sampler,
    settings: &Settings,
    load: &Load,
    system: &dyn System,
) -> Result<Result<Taken, Why>> {
    let cores = settings.cores_for(load);
    let line_ns = || if cores.0 == cores.1 { Ok(0.0) } else { bounce_ns(cores) };
    for _ in 0..ATTEMPTS {
        let before = line_ns()?;
        let measured = match sampler.sample(load, system) {
            Ok(measured) => measured,
            Err(error) => return Ok(Err(Why::Failed(format!("{error:#}")))),
        };
        let after = line_ns()?;
        if cores.0 == cores.1 {
            return Ok(Ok((measured, (before, after), Distance::Same)));
        }
        if Distance::of(before) == Distance::of(after) {
            return Ok(Ok((measured, (before, after), Distance::of(before))));
        }
    }
    Ok(Err(Why::Moved))
}
