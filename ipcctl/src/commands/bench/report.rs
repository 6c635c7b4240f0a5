//! The results: medians over the runs, as a table for people and as JSON for programs.

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::Settings;
use super::plan::{Kind, Load, System};
use super::sample::Sample;

/// Cores at most so far apart count as near: there the figures mean most.
const NEAR_NS: f64 = 80.0;

/// The samples of all runs.
#[derive(Debug)]
pub(super) struct Results {
    settings: Settings,
    rows: Vec<Row>,
    bounce_ns: Vec<f64>,
    ring_8: Vec<f64>,
    ring_64: Vec<f64>,
    notes: Vec<String>,
}

/// A load, and its samples by system.
#[derive(Debug)]
struct Row {
    load: Load,
    cells: [Cell; System::ALL.len()],
}

/// The samples of a load on a system.
#[derive(Debug, Default)]
struct Cell {
    values: Vec<f64>,
    p99_ns: Vec<f64>,
}

impl Results {
    /// No sample yet.
    pub(super) fn new(settings: Settings, loads: &[&Load]) -> Self {
        let rows = loads.iter().map(|load| Row { load: **load, cells: Default::default() });
        Self {
            settings,
            rows: rows.collect(),
            bounce_ns: Vec::new(),
            ring_8: Vec::new(),
            ring_64: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Adds a run's floor: a bounced cache line in ns, a bare ring's rates for 8 and 64 bytes.
    pub(super) fn add_floor(&mut self, bounce_ns: f64, ring_8: f64, ring_64: f64) {
        self.bounce_ns.push(bounce_ns);
        self.ring_8.push(ring_8);
        self.ring_64.push(ring_64);
    }

    /// Adds a sample.
    pub(super) fn add(&mut self, load: &Load, system: System, sample: Sample) {
        if let Some(row) = self.rows.iter_mut().find(|row| row.load.name == load.name) {
            let cell = &mut row.cells[system as usize];
            cell.values.push(sample.value);
            cell.p99_ns.extend(sample.p99_ns);
        }
    }

    /// Notes that a load cannot be measured on a system here.
    pub(super) fn cannot(&mut self, load: &Load, system: System, error: &anyhow::Error) {
        self.note(Some(format!("{}, {}: {error:#}.", load.name, system.name())));
    }

    /// Adds a note, once.
    pub(super) fn note(&mut self, note: Option<String>) {
        self.notes.extend(note.filter(|note| !self.notes.contains(note)));
    }

    /// The table, and what it means.
    pub(super) fn text(&self) -> String {
        let mut table = Table::new();
        table.load_style(match self.settings.runs {
            1 => presets::UTF8_FULL_CONDENSED,
            _ => presets::UTF8_FULL,
        });
        let mut header = vec!["load".to_owned(), "unit".to_owned()];
        header.extend(System::ALL.map(|system| system.name().to_owned()));
        header.extend(["ours : mq".to_owned(), "single : mq".to_owned(), "bare ring".to_owned()]);
        table.set_header(header);
        for column in 2..5 + System::ALL.len() {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for row in &self.rows {
            let mut line = vec![row.load.name.to_owned(), row.unit().to_owned()];
            line.extend(row.cells.iter().map(|cell| row.shown(&cell.values)));
            line.extend([
                row.ratio(System::Ours).map_or("-".to_owned(), times),
                row.ratio(System::OursSingle).map_or("-".to_owned(), times),
                row.shown(self.ring(&row.load)),
            ]);
            table.add_row(line);
        }
        let mut text = table.to_string();
        for line in [self.machine(), self.meaning()].into_iter().chain(self.notes.iter().cloned()) {
            text.push('\n');
            text.push_str(&line);
        }
        text
    }

    /// The bare ring's rates that a load compares with.
    fn ring(&self, load: &Load) -> &[f64] {
        match (load.kind, load.senders, load.receivers, load.bytes) {
            (Kind::Stream, 1, 1, 8) => &self.ring_8,
            (Kind::Stream, 1, 1, 64) => &self.ring_64,
            _ => &[],
        }
    }

    fn machine(&self) -> String {
        let Settings { runs, duration, cores, .. } = self.settings;
        let runs = match runs {
            1 => "One run".to_owned(),
            runs => format!("Medians of {runs} runs (below them lowest to highest)"),
        };
        let where_to = match Spread::of(&self.bounce_ns) {
            None => format!("all on core {}", cores.0),
            Some(spread) => format!(
                "cores {} and {}, a cache line takes {:.0} ns one way ({:.0} to {:.0}): {}",
                cores.0,
                cores.1,
                spread.median,
                spread.lowest,
                spread.highest,
                if spread.highest <= NEAR_NS { "near" } else { "far, at least at times" },
            ),
        };
        format!("{runs} of {duration:?} each; {where_to}.")
    }

    /// One sentence on what the numbers mean.
    fn meaning(&self) -> String {
        let best = self
            .rows
            .iter()
            .filter(|row| row.load.kind == Kind::Stream)
            .find_map(|row| Some((row.load.name, row.ratio(System::Ours)?)));
        let ratio = match best {
            Some((name, ratio)) => {
                format!(
                    "Here a mailbox moves {} messages for each one of a POSIX queue ({name}).",
                    times(ratio).trim_end_matches('x')
                )
            }
            None => "Higher rates and lower times are better.".to_owned(),
        };
        let hint = "Every message was checked by its receiver; the bare ring is one writer and one \
            reader without mailboxes, the most that these two cores allow.";
        format!("{ratio} {hint}")
    }

    /// The results for programs.
    pub(super) fn json(&self) -> Json {
        let cells = self.rows.iter().flat_map(|row| {
            System::ALL.into_iter().filter_map(|system| {
                let cell = &row.cells[system as usize];
                Some(JsonResult {
                    load: row.load.name,
                    system,
                    unit: if row.load.kind.is_rate() { "messages/s" } else { "ns" },
                    spread: Spread::of(&cell.values)?,
                    p99_ns: Spread::of(&cell.p99_ns).map(|spread| spread.median),
                    ratio_to_mq: row.ratio(system),
                })
            })
        });
        Json {
            runs: self.settings.runs,
            duration_ms: self.settings.duration.as_millis() as u64,
            cores: [self.settings.cores.0, self.settings.cores.1],
            cache_line_ns: Spread::of(&self.bounce_ns),
            bare_ring_8_bytes: Spread::of(&self.ring_8),
            bare_ring_64_bytes: Spread::of(&self.ring_64),
            results: cells.collect(),
            notes: self.notes.clone(),
        }
    }
}

impl Row {
    fn unit(&self) -> &'static str {
        match self.load.kind {
            Kind::Stream | Kind::InPlace | Kind::Batches => "M/s",
            Kind::PingPong => "ns one way",
            Kind::WakeUp => "us one way",
            Kind::Setup => "us",
        }
    }

    /// A figure in this row's unit: the median, and how far the samples lie apart.
    fn shown(&self, values: &[f64]) -> String {
        let Some(spread) = Spread::of(values) else { return "-".to_owned() };
        let scale = match self.load.kind {
            Kind::Stream | Kind::InPlace | Kind::Batches => 1e6,
            Kind::PingPong => 1.0,
            Kind::WakeUp | Kind::Setup => 1e3,
        };
        let median = figure(spread.median / scale);
        match values.len() {
            1 => median,
            _ => format!(
                "{median}\n{} to {}",
                figure(spread.lowest / scale),
                figure(spread.highest / scale)
            ),
        }
    }

    /// How many times better a system is than a POSIX queue.
    fn ratio(&self, system: System) -> Option<f64> {
        let this = Spread::of(&self.cells[system as usize].values)?.median;
        let mq = Spread::of(&self.cells[System::Mq as usize].values)?.median;
        Some(if self.load.kind == Kind::Stream { this / mq } else { mq / this })
    }
}

/// Three digits, as many as mean anything.
fn figure(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value if value >= 1.0 => format!("{value:.2}"),
        value => format!("{value:.3}"),
    }
}

fn times(ratio: f64) -> String {
    if ratio >= 10.0 { format!("{ratio:.0}x") } else { format!("{ratio:.1}x") }
}

/// Median, lowest and highest of some samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    median: f64,
    lowest: f64,
    highest: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Option<Self> {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        let (lowest, highest) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            0 => (values[middle - 1] + values[middle]) / 2.0,
            _ => values[middle],
        };
        Some(Self { median, lowest, highest })
    }
}

/// All results, as JSON.
#[derive(Debug, Serialize)]
pub(super) struct Json {
    runs: u32,
    duration_ms: u64,
    cores: [usize; 2],
    cache_line_ns: Option<Spread>,
    bare_ring_8_bytes: Option<Spread>,
    bare_ring_64_bytes: Option<Spread>,
    results: Vec<JsonResult>,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct JsonResult {
    load: &'static str,
    system: System,
    unit: &'static str,
    #[serde(flatten)]
    spread: Spread,
    p99_ns: Option<f64>,
    ratio_to_mq: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_median_lowest_highest() {
        assert_eq!(Spread::of(&[]), None);
        let odd = Spread::of(&[3.0, 1.0, 2.0]).unwrap();
        assert_eq!((odd.median, odd.lowest, odd.highest), (2.0, 1.0, 3.0));
        assert_eq!(Spread::of(&[4.0, 1.0]).unwrap().median, 2.5);
    }

    #[test]
    fn figures_have_three_digits() {
        assert_eq!(figure(123.4), "123");
        assert_eq!(figure(12.34), "12.3");
        assert_eq!(figure(1.234), "1.23");
        assert_eq!(figure(0.1234), "0.123");
        assert_eq!(times(41.6), "42x");
    }
}
