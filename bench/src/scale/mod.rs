//! What costs as it grows: lanes, mailboxes that one waits on, mailboxes and sessions that a daemon has, receivers
//! that compete, capacity.
//!
//! [`task`] names what is measured at one place and does it in a process with a deadline ([`lanes`], [`waiting`],
//! [`daemon`] do the work); [`streams`] measures streams as the contest does. [`report`] draws it all.

mod daemon;
mod lanes;
mod report;
mod streams;
mod task;
mod waiting;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use measure::machine::Machine;

use crate::cli::Scale;
use crate::daemon::Daemon;
use crate::{interrupt, write};

use report::Report;
use task::Task;

pub(crate) use task::HAND_COMMAND;

/// Idle lanes beside the active one.
const LANES: [u32; 4] = [1, 10, 100, 1000];
/// Mailboxes in a wait set; it sleeps on 128 words at most.
const WAITED_FOR: [u32; 6] = [1, 10, 64, 127, 128, 1000];
/// Mailboxes that a daemon has.
const MAILBOXES: [u32; 5] = [10, 100, 1000, 5000, 10_000];
/// Sessions that a daemon has.
const SESSIONS: [u32; 3] = [10, 100, 1000];

/// Measures, and writes the report.
pub(crate) fn run(args: &Scale) -> Result<()> {
    interrupt::watch()?;
    let machine = Machine::look();
    let (runs, duration) = args.effort.amount();
    let is_wanted = |name: &str| args.effort.only.as_deref().is_none_or(|only| name.contains(only));
    let tasks: Vec<Task> = LANES
        .map(|count| Task::Lanes { count })
        .into_iter()
        .chain(WAITED_FOR.map(|count| Task::WaitSet { count }))
        .chain(MAILBOXES.map(|count| Task::Mailboxes { count }))
        .chain(SESSIONS.map(|count| Task::Sessions { count }))
        .filter(|task| is_wanted(task.name()))
        .collect();
    let streams: Vec<_> =
        streams::all().into_iter().filter(|stream| is_wanted(stream.what.name())).collect();
    let bar = progress((tasks.len() + streams.len()) as u64 * u64::from(runs));
    let mut report = Report::default();
    let daemon = Daemon::start(&args.effort.ipcd)?;
    for run in 1..=runs {
        for task in &tasks {
            if interrupt::happened() {
                break;
            }
            bar.set_message(format!("run {run}: {}, {}", task.name(), task.count()));
            let outcome = match task {
                // What such a task leaves in the daemon's memory would be the next one's.
                Task::Mailboxes { .. } | Task::Sessions { .. } => {
                    task.start(&Daemon::start(&args.effort.ipcd)?)
                }
                _ => task.start(&daemon),
            };
            report.add_task(task, outcome);
            bar.inc(1);
        }
        let mut sampler = streams::Streams::new(&daemon, duration)?;
        for stream in &streams {
            if interrupt::happened() {
                break;
            }
            bar.set_message(format!("run {run}: {}", stream.load.name));
            report.add_stream(stream, sampler.sample(&stream.load));
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    report.write(&args.effort.out, &machine, runs, duration)
}

/// Does the task of a hand, in its own process.
pub(crate) fn hand(task: &str) -> Result<()> {
    task::serve(task)
}

fn progress(steps: u64) -> ProgressBar {
    if !write::draws_progress() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} (eta {eta})");
    // The template is a constant; a wrong one would only look dull.
    ProgressBar::new(steps).with_style(style.unwrap_or(ProgressStyle::default_bar()))
}
