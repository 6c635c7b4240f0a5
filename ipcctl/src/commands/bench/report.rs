//! The results: medians over the runs, as a table for people, as JSON for programs, as a figure.

use comfy_table::{CellAlignment, Table, presets};
use measure::distance::Distance;
use measure::figure::{Figure, bars};
use measure::load::{Kind, Load};
use measure::results::{Comparison, Results, Row};
use measure::spread::{Spread, figure, times};
use measure::system::Standing;
use serde::Serialize;

/// The samples of all runs, each load at the distance of the cores that most of its samples share.
#[derive(Debug)]
pub(super) struct Report<'a> {
    results: &'a Results,
    comparisons: Vec<Comparison<'a>>,
}

/// The system whose figures stand in a column of their own, at the end.
const BARE_RING: &str = "bare-ring";

impl<'a> Report<'a> {
    /// What results come to.
    pub(super) fn of(results: &'a Results) -> Self {
        let loads = 0..results.loads.len();
        Self { results, comparisons: loads.map(|load| results.main_comparison(load)).collect() }
    }

    /// All loads, drawn below each other.
    pub(super) fn figure(&self) -> Figure {
        Figure::stack(&self.comparisons.iter().map(bars).collect::<Vec<_>>())
    }

    /// The table, and what it means.
    pub(super) fn text(&self) -> String {
        let mut table = Table::new();
        table.load_style(match self.results.settings.runs {
            1 => presets::UTF8_FULL_CONDENSED,
            _ => presets::UTF8_FULL,
        });
        let mut header = vec!["load".to_owned(), "unit".to_owned()];
        header.extend(self.results.contenders.iter().map(|contender| contender.name.clone()));
        header.push("ours : best".to_owned());
        let columns = header.len();
        table.set_header(header);
        for column in 2..columns {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for comparison in &self.comparisons {
            let unit = comparison.load.kind.unit().0;
            let mut line = vec![comparison.load.name.clone(), unit.to_owned()];
            line.extend(
                self.results
                    .contenders
                    .iter()
                    .map(|contender| self.shown(comparison.load, comparison.row(&contender.key))),
            );
            line.push(best_ratio(comparison).map_or("-".to_owned(), times));
            table.add_row(line);
        }
        let mut text = table.to_string();
        let notes = self.results.notes.iter().cloned();
        for line in [self.machine(), self.meaning()].into_iter().chain(notes) {
            text.push('\n');
            text.push_str(&line);
        }
        text
    }

    /// A figure in its load's unit: the median, and how far the samples lie apart.
    fn shown(&self, load: &Load, row: Option<&Row<'_>>) -> String {
        let Some((row, spread)) = row.and_then(|row| Some((row, row.spread?))) else {
            return "-".to_owned();
        };
        let spread = spread.in_units(load.kind.unit().1);
        let mut text = figure(spread.median);
        if self.results.settings.runs > 1 {
            text = format!("{text}\n{} to {}", figure(spread.lowest), figure(spread.highest));
        }
        if row.is_sound() { text } else { format!("{text}\nlost {}", row.lost + row.corrupt) }
    }

    fn lines_ns(&self) -> Option<Spread> {
        let far = self.results.samples.iter().filter(|s| s.distance != Distance::Same);
        Spread::of(&far.flat_map(|s| [s.line_before_ns, s.line_after_ns]).collect::<Vec<_>>())
    }

    fn machine(&self) -> String {
        let settings = &self.results.settings;
        let (cores, duration) = (settings.cores, settings.duration);
        let runs = match settings.runs {
            1 => "One run".to_owned(),
            runs => format!("Medians of {runs} runs (below them lowest to highest)"),
        };
        let apart = match self.lines_ns() {
            None => format!("all on core {}", cores.0),
            Some(Spread { median, lowest, highest }) => format!(
                "cores {} and {}, a cache line takes {median:.0} ns one way ({lowest:.0} to {highest:.0}); each load is \
                 compared where the cores were equally far apart",
                cores.0, cores.1,
            ),
        };
        format!("{runs} of {duration:?} each; {apart}.")
    }

    /// What the numbers mean to who reads them, in a sentence or two.
    fn meaning(&self) -> String {
        let stream = self.comparisons.iter().find(|comparison| {
            comparison.load.kind == Kind::Stream && best_ratio(comparison).is_some()
        });
        let mut text = match stream
            .and_then(|c| Some((c, c.best(Standing::Rival)?, best_ratio(c)?)))
        {
            Some((comparison, rival, ratio)) => {
                let (load, rival) = (&comparison.load.name, &rival.contender.name);
                let ratio = times(ratio);
                let ratio = ratio.trim_end_matches('x');
                format!(
                    "Here a mailbox moves {ratio} messages for each one of the best that the kernel offers ({rival}; {load})."
                )
            }
            None => "Higher rates and lower times are better.".to_owned(),
        };
        text.push_str(&self.meaning_of_waiting());
        text.push_str(
            " Every message was checked by its receiver; the bare ring is one writer and one reader without \
             mailboxes, about the most that these two cores allow.",
        );
        text
    }

    /// What it means for programs that wait for each other.
    fn meaning_of_waiting(&self) -> String {
        let call = self.comparisons.iter().find(|comparison| comparison.load.kind == Kind::Call);
        let median = |row: Option<&Row<'_>>| Some(row?.spread?.median / 1e3);
        let both = call.and_then(|comparison| {
            let ours = median(comparison.best(Standing::Ours))?;
            let rival = comparison.best(Standing::Rival)?;
            Some((ours, rival.contender.name.as_str(), median(Some(rival))?))
        });
        both.map_or(String::new(), |(ours, name, rival)| {
            format!(
                " A question to another process and its answer take {} us, by {name} {} us.",
                figure(ours),
                figure(rival)
            )
        })
    }

    /// The results for programs.
    pub(super) fn json(&self) -> Json<'_> {
        let settings = &self.results.settings;
        let ring = |bytes| {
            let comparison = self.comparisons.iter().find(|c| {
                c.load.kind == Kind::Stream && c.load.is_one_to_one() && c.load.bytes == bytes
            });
            comparison?.row(BARE_RING)?.spread
        };
        let results = self.comparisons.iter().flat_map(|comparison| {
            let rows = comparison.rows.iter().filter(|row| row.contender.key != BARE_RING);
            rows.filter_map(|row| JsonResult::of(comparison, row))
        });
        Json {
            runs: settings.runs,
            duration_ms: settings.duration.as_millis() as u64,
            cores: [settings.cores.0, settings.cores.1],
            cache_line_ns: self.lines_ns(),
            bare_ring_8_bytes: ring(8),
            bare_ring_64_bytes: ring(64),
            results: results.collect(),
            notes: &self.results.notes,
        }
    }
}

/// How many times better the better of ours is than the best that the kernel offers.
fn best_ratio(comparison: &Comparison<'_>) -> Option<f64> {
    comparison.best(Standing::Ours)?.to_best_rival
}

/// All results, as JSON.
#[derive(Debug, Serialize)]
pub(super) struct Json<'a> {
    runs: u32,
    duration_ms: u64,
    cores: [usize; 2],
    cache_line_ns: Option<Spread>,
    bare_ring_8_bytes: Option<Spread>,
    bare_ring_64_bytes: Option<Spread>,
    results: Vec<JsonResult<'a>>,
    notes: &'a [String],
}

#[derive(Debug, Serialize)]
struct JsonResult<'a> {
    load: &'a str,
    system: &'a str,
    unit: &'static str,
    distance: Distance,
    samples: usize,
    #[serde(flatten)]
    spread: Spread,
    p99_ns: Option<f64>,
    lost: u64,
    corrupt: u64,
    ratio_to_mq: Option<f64>,
    ratio_to_best: Option<f64>,
}

impl<'a> JsonResult<'a> {
    fn of(comparison: &Comparison<'a>, row: &Row<'a>) -> Option<Self> {
        let spread = row.spread?;
        let is_rate = comparison.load.kind.is_rate();
        let better = |mq: f64| if is_rate { spread.median / mq } else { mq / spread.median };
        let mq = comparison.row("mq").and_then(|row| row.spread);
        Some(Self {
            load: &comparison.load.name,
            system: &row.contender.key,
            unit: if is_rate { "messages/s" } else { "ns" },
            distance: comparison.distance,
            samples: row.samples,
            spread,
            p99_ns: row.p99_ns,
            lost: row.lost,
            corrupt: row.corrupt,
            ratio_to_mq: mq.map(|mq| better(mq.median)),
            ratio_to_best: row.to_best_rival,
        })
    }
}
