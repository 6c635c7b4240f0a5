//! The files of a report: Markdown, figures, all samples.

use std::fs;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use measure::figure::bars;
use measure::machine::Machine;
use measure::raw::Raw;
use measure::results::{Comparison, Results};
use measure::table;

/// Writes the results into a folder: `NAME.md`, `NAME.json`, and a figure for each table.
pub(crate) fn results(
    folder: &Path,
    name: &str,
    results: &Results,
    machine: &Machine,
    more: &str,
) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for load in 0..results.loads.len() {
        for comparison in results.comparisons(load) {
            file(folder, &figure_name(&comparison), &bars(&comparison).svg())?;
        }
    }
    let mut report = table::report(results, machine, |comparison| Some(figure_name(comparison)));
    report.push_str(more);
    file(folder, &format!("{name}.md"), &report)?;
    let raw = serde_json::to_string_pretty(&Raw::of(results, machine))?;
    file(folder, &format!("{name}.json"), &raw)?;
    say(&table::summary(results));
    say(&folder.join(format!("{name}.md")).display().to_string());
    Ok(())
}

/// Says something on stdout. A reader that goes away is no error: the files have it all.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Writes one file of a folder.
pub(crate) fn file(folder: &Path, name: &str, text: &str) -> Result<()> {
    let path = folder.join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Whether progress may be drawn.
pub(crate) fn draws_progress() -> bool {
    std::io::stderr().is_terminal()
}

fn figure_name(comparison: &Comparison<'_>) -> String {
    let name = format!("{}-{}", comparison.load.name, comparison.distance);
    let word = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let mut name: String = name.chars().map(word).collect();
    while name.contains("--") {
        name = name.replace("--", "-");
    }
    format!("{name}.svg")
}
