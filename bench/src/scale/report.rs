//! The scaling loads, drawn and told: a figure of lines and a table for each.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use measure::figure::{Line, lines};
use measure::machine::Machine;
use measure::spread::{Spread, grouped};
use measure::table;
use nix::sys::resource::{Resource, getrlimit};

use super::streams::{Stream, What};
use super::task::{Figures, Task};
use crate::write;

/// One figure: its file's name, its title, what grows, and the unit.
struct Drawing {
    file: &'static str,
    title: &'static str,
    across: &'static str,
    unit: &'static str,
}

/// All figures, in the order in which they are told.
const DRAWINGS: [Drawing; 8] = [
    Drawing {
        file: "scale-lanes",
        title: "A message of 64 B beside idle lanes, one thread",
        across: "idle lanes",
        unit: "ns",
    },
    Drawing {
        file: "scale-wait-set",
        title: "A wait for many mailboxes (WaitSet)",
        across: "mailboxes waited for",
        unit: "ns, one wait",
    },
    Drawing {
        file: "scale-mailboxes",
        title: "Control of many mailboxes",
        across: "mailboxes of the daemon",
        unit: "us each",
    },
    Drawing {
        file: "scale-list",
        title: "Listing all mailboxes",
        across: "mailboxes of the daemon",
        unit: "ms",
    },
    Drawing {
        file: "scale-sessions",
        title: "Many sessions",
        across: "sessions of the daemon",
        unit: "us each",
    },
    Drawing {
        file: "scale-memory",
        title: "Memory of many mailboxes and sessions",
        across: "mailboxes or sessions",
        unit: "KiB each",
    },
    Drawing {
        file: "scale-receivers",
        title: "Competing receivers on two cores, 64 B",
        across: "receivers",
        unit: "million messages/s",
    },
    Drawing {
        file: "scale-capacity",
        title: "Capacity of a lane",
        across: "KiB",
        unit: "million messages/s",
    },
];

/// Samples of a line, by place; places are whole numbers.
type Places = BTreeMap<u64, Vec<f64>>;

/// What was measured.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// By figure's file, then by line in the order of their first samples.
    samples: BTreeMap<&'static str, Vec<(String, Places)>>,
    failures: Vec<String>,
}

impl Report {
    /// Adds what a task came to.
    pub(crate) fn add_task(&mut self, task: &Task, outcome: Result<Figures>) {
        let figures = match outcome {
            Ok(figures) => figures,
            Err(error) => {
                self.fail(format!("{}, {}: {error:#}", task.name(), task.count()));
                return;
            }
        };
        for (line, value) in figures {
            let file = match (task, line.as_str()) {
                (Task::Lanes { .. }, _) => "scale-lanes",
                (Task::WaitSet { .. }, _) => "scale-wait-set",
                (_, line) if line.starts_with("a mailbox") || line.starts_with("a session") => {
                    "scale-memory"
                }
                (Task::Mailboxes { .. }, "list all") => "scale-list",
                (Task::Mailboxes { .. }, _) => "scale-mailboxes",
                (Task::Sessions { .. }, _) => "scale-sessions",
            };
            self.add(file, &line, u64::from(task.count()), value);
        }
    }

    /// Adds what a stream came to.
    pub(crate) fn add_stream(&mut self, stream: &Stream, outcome: Result<f64>) {
        let file = match stream.what {
            What::Receivers => "scale-receivers",
            What::Capacity => "scale-capacity",
        };
        match outcome {
            Ok(value) => self.add(file, stream.line, stream.at as u64, value),
            Err(error) => {
                self.fail(format!("{}, {}: {error:#}", stream.what.name(), stream.load.name));
            }
        }
    }

    fn fail(&mut self, failure: String) {
        if !self.failures.contains(&failure) {
            self.failures.push(failure);
        }
    }

    fn add(&mut self, file: &'static str, line: &str, at: u64, value: f64) {
        let lines = self.samples.entry(file).or_default();
        let index = lines.iter().position(|(name, _)| name == line).unwrap_or_else(|| {
            lines.push((line.to_owned(), Places::new()));
            lines.len() - 1
        });
        lines[index].1.entry(at).or_default().push(value);
    }

    /// Writes `scale.md`, `scale.json` and the figures.
    pub(crate) fn write(
        &self,
        folder: &Path,
        machine: &Machine,
        runs: u32,
        duration: Duration,
    ) -> Result<()> {
        std::fs::create_dir_all(folder).context("cannot make the folder")?;
        let mut text = format!(
            "# What costs as it grows\n\n{}\n- {runs} runs, medians; streams of {duration:?} each\n\
             - descriptors that a process may have here: {}\n",
            table::facts(machine),
            getrlimit(Resource::RLIMIT_NOFILE)?.1,
        );
        for failure in &self.failures {
            // Writing to a String cannot fail, here and below.
            let _ = writeln!(text, "- failed: {failure}");
        }
        for drawing in &DRAWINGS {
            let Some(samples) = self.samples.get(drawing.file) else { continue };
            let file = format!("{}.svg", drawing.file);
            let _ = write!(text, "\n## {}\n\n![{0}]({file})\n\n", drawing.title);
            text.push_str(&told(drawing, samples));
            let drawn: Vec<_> = samples.iter().map(|(name, places)| line(name, places)).collect();
            let svg = lines(drawing.title, drawing.across, drawing.unit, &drawn).svg();
            write::file(folder, &file, &svg)?;
        }
        write::file(folder, "scale.md", &text)?;
        let json = serde_json::json!({ "machine": machine, "samples": self.samples, "failures": self.failures });
        write::file(folder, "scale.json", &serde_json::to_string_pretty(&json)?)?;
        write::say(&text);
        write::say(&folder.join("scale.md").display().to_string());
        Ok(())
    }
}

fn line(name: &str, places: &Places) -> Line {
    let points =
        places.iter().filter_map(|(at, values)| Some((*at as f64, Spread::of(values)?))).collect();
    Line { name: name.to_owned(), points }
}

/// The table of a figure: a row for each place, a column for each line.
fn told(drawing: &Drawing, samples: &[(String, Places)]) -> String {
    let mut places: Vec<u64> =
        samples.iter().flat_map(|(_, places)| places.keys().copied()).collect();
    places.sort_unstable();
    places.dedup();
    let mut text = format!("| {} |", drawing.across);
    let mut rule = String::from("| ---: |");
    for (name, _) in samples {
        let _ = write!(text, " {name}, {} |", drawing.unit);
        rule.push_str(" ---: |");
    }
    text = format!("{text}\n{rule}\n");
    for place in places {
        let _ = write!(text, "| {} |", grouped(place as f64));
        for (_, of) in samples {
            let spread = of.get(&place).and_then(|values| Spread::of(values));
            let shown = spread.map_or("-".to_owned(), |spread| table::shown(spread, 1.0));
            let _ = write!(text, " {shown} |");
        }
        text.push('\n');
    }
    text
}
