//! What came of a measurement, and what may be compared with what.

use serde::Serialize;

use crate::distance::Distance;
use crate::load::Load;
use crate::sampler::{Measured, Settings};
use crate::spread::Spread;
use crate::system::{Standing, System};

/// A system, as the results remember it.
#[derive(Clone, Debug)]
pub struct Contender {
    /// Its name in options and in JSON.
    pub key: String,
    /// Its name, as we show it.
    pub name: String,
    /// How it stands to us.
    pub standing: Standing,
    /// Whether it can carry each of the loads.
    suits: Vec<bool>,
}

/// One measurement that may be shown.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sample {
    /// Which load.
    #[serde(skip)]
    pub load: usize,
    /// Which contender.
    #[serde(skip)]
    pub contender: usize,
    /// In which run.
    pub run: u32,
    /// Messages a second, or ns.
    pub value: f64,
    /// 99 of 100 are faster, in ns.
    pub p99_ns: Option<f64>,
    /// Messages that never came.
    pub lost: u64,
    /// Messages that came broken, out of order, twice, or from nowhere.
    pub corrupt: u64,
    /// One way of a cache line right before, in ns; 0 on one core.
    pub line_before_ns: f64,
    /// The same right after.
    pub line_after_ns: f64,
    /// The class of both.
    pub distance: Distance,
}

/// A measurement that came to nothing.
#[derive(Clone, Debug, Serialize)]
pub struct Miss {
    /// Which load.
    #[serde(skip)]
    pub load: usize,
    /// Which contender.
    #[serde(skip)]
    pub contender: usize,
    /// In which run.
    pub run: u32,
    /// Why.
    pub why: Why,
}

/// Why there is no sample.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// The system failed.
    Failed(String),
    /// The cores' distance changed while it was measured, each time.
    Moved,
}

/// Everything that was measured.
#[derive(Debug)]
pub struct Results {
    /// How it was measured.
    pub settings: Settings,
    /// The loads.
    pub loads: Vec<Load>,
    /// The systems.
    pub contenders: Vec<Contender>,
    /// The samples, in the order in which they were taken.
    pub samples: Vec<Sample>,
    /// What came to nothing.
    pub misses: Vec<Miss>,
    /// What the reader should know.
    pub notes: Vec<String>,
}

/// What a contender reached in one load at one distance.
#[derive(Clone, Debug)]
pub struct Row<'a> {
    /// Who.
    pub contender: &'a Contender,
    /// Its samples; messages a second, or ns.
    pub spread: Option<Spread>,
    /// The median of its 99th percentiles, in ns.
    pub p99_ns: Option<f64>,
    /// How many samples these are.
    pub samples: usize,
    /// Messages lost in all its samples, at whatever distance.
    pub lost: u64,
    /// Messages corrupt, likewise.
    pub corrupt: u64,
    /// Why it failed, where it did.
    pub failure: Option<&'a str>,
    /// Measurements dropped because the distance moved.
    pub moved: usize,
    /// How many times better than the best rival.
    pub to_best_rival: Option<f64>,
    /// Its figure over the floor's.
    pub to_floor: Option<f64>,
}

impl Row<'_> {
    /// Whether every message came, once and whole.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.lost == 0 && self.corrupt == 0
    }
}

/// One load at one distance: all contenders.
#[derive(Clone, Debug)]
pub struct Comparison<'a> {
    /// The load.
    pub load: &'a Load,
    /// The distance of the cores in all of its samples.
    pub distance: Distance,
    /// A row for each contender that the load suits.
    pub rows: Vec<Row<'a>>,
}

impl<'a> Comparison<'a> {
    /// The row of a contender that has a figure.
    #[must_use]
    pub fn row(&self, key: &str) -> Option<&Row<'a>> {
        self.rows.iter().find(|row| row.contender.key == key && row.spread.is_some())
    }

    /// The best of all rows of one standing, messages whole.
    #[must_use]
    pub fn best(&self, standing: Standing) -> Option<&Row<'a>> {
        self.best_of(|contender| contender.standing == standing)
    }

    /// The same of these contenders.
    pub(crate) fn best_of(&self, these: impl Fn(&Contender) -> bool) -> Option<&Row<'a>> {
        let figure = |row: &&Row<'_>| {
            let median = row.spread.map_or(0.0, |spread| spread.median);
            if self.load.kind.is_rate() { median } else { -median }
        };
        self.rows
            .iter()
            .filter(|row| these(row.contender))
            .filter(|row| row.spread.is_some() && row.is_sound())
            .max_by(|a, b| figure(a).total_cmp(&figure(b)))
    }
}

impl Results {
    /// No sample yet.
    #[must_use]
    pub fn new(settings: Settings, loads: Vec<Load>, systems: &[&dyn System]) -> Self {
        let contender = |system: &&dyn System| Contender {
            key: system.key().to_owned(),
            name: system.name().to_owned(),
            standing: system.standing(),
            suits: loads.iter().map(|load| system.suits(load)).collect(),
        };
        let contenders = systems.iter().map(contender).collect();
        let (samples, misses, notes) = (Vec::new(), Vec::new(), Vec::new());
        Self { settings, loads, contenders, samples, misses, notes }
    }

    /// Adds a sample.
    pub(crate) fn add(
        &mut self,
        (load, contender, run): (usize, usize, u32),
        measured: Measured,
        lines_ns: (f64, f64),
        distance: Distance,
    ) {
        let Measured { value, p99_ns, lost, corrupt } = measured;
        let (line_before_ns, line_after_ns) = lines_ns;
        self.samples.push(Sample {
            load,
            contender,
            run,
            value,
            p99_ns,
            lost,
            corrupt,
            line_before_ns,
            line_after_ns,
            distance,
        });
    }

    /// Adds a note, once.
    pub fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// What may be compared in one load: all contenders at the distance at which most of their samples were
    /// taken; and, behind it, at each other distance at which half of them or more have three.
    #[must_use]
    pub fn comparisons(&self, load: usize) -> Vec<Comparison<'_>> {
        let of = |distance, contender| {
            let samples = self.samples.iter();
            samples
                .filter(|s| (s.load, s.contender, s.distance) == (load, contender, distance))
                .count()
        };
        let contenders: Vec<_> = (0..self.contenders.len())
            .filter(|&index| self.contenders[index].suits[load])
            .collect();
        let mut distances = [Distance::Same, Distance::Near, Distance::Mixed, Distance::Far]
            .map(|distance| (contenders.iter().map(|&c| of(distance, c)).sum::<usize>(), distance));
        // The sort is stable: of equals, the nearest stays in front.
        distances.sort_by_key(|(samples, _)| std::cmp::Reverse(*samples));
        let is_shown = |place: usize, distance| {
            let enough = contenders.iter().filter(|&&c| of(distance, c) >= 3).count();
            place == 0 || enough * 2 >= contenders.len().max(1)
        };
        distances
            .iter()
            .enumerate()
            .filter(|(place, (_, distance))| is_shown(*place, *distance))
            .map(|(_, (_, distance))| self.comparison(load, *distance, &contenders))
            .collect()
    }

    /// The first of [`Self::comparisons`].
    #[must_use]
    pub fn main_comparison(&self, load: usize) -> Comparison<'_> {
        self.comparisons(load).swap_remove(0)
    }

    fn comparison(&self, load: usize, distance: Distance, contenders: &[usize]) -> Comparison<'_> {
        let rows = contenders.iter().map(|&contender| self.row(load, contender, distance));
        let mut comparison = Comparison { load: &self.loads[load], distance, rows: rows.collect() };
        let median = |row: Option<&Row<'_>>| Some(row?.spread?.median);
        let rival = median(comparison.best(Standing::Rival));
        let floor = median(comparison.best(Standing::Floor));
        let is_rate = self.loads[load].kind.is_rate();
        for row in &mut comparison.rows {
            let Some(spread) = row.spread else { continue };
            row.to_floor = floor.map(|floor| spread.median / floor);
            row.to_best_rival = rival
                .map(|rival| if is_rate { spread.median / rival } else { rival / spread.median });
        }
        comparison
    }

    fn row(&self, load: usize, contender: usize, distance: Distance) -> Row<'_> {
        let all =
            || self.samples.iter().filter(move |s| (s.load, s.contender) == (load, contender));
        let here = || all().filter(move |sample| sample.distance == distance);
        let values: Vec<_> = here().map(|sample| sample.value).collect();
        let p99_ns: Vec<_> = here().filter_map(|sample| sample.p99_ns).collect();
        let misses =
            || self.misses.iter().filter(move |m| (m.load, m.contender) == (load, contender));
        Row {
            contender: &self.contenders[contender],
            spread: Spread::of(&values),
            p99_ns: Spread::of(&p99_ns).map(|spread| spread.median),
            samples: values.len(),
            lost: all().map(|sample| sample.lost).sum(),
            corrupt: all().map(|sample| sample.corrupt).sum(),
            failure: misses().find_map(|miss| match &miss.why {
                Why::Failed(why) => Some(why.as_str()),
                Why::Moved => None,
            }),
            moved: misses().filter(|miss| miss.why == Why::Moved).count(),
            to_best_rival: None,
            to_floor: None,
        }
    }

    /// For each run in which both contenders were measured at the same distance: the first's figure over the
    /// second's.
    #[must_use]
    pub fn paired(&self, load: usize, first: &str, second: &str) -> Vec<f64> {
        let of = |key: &str| {
            let contender = self.contenders.iter().position(|contender| contender.key == key);
            self.samples.iter().filter(move |s| s.load == load && Some(s.contender) == contender)
        };
        of(first)
            .filter_map(|a| {
                let b = of(second).find(|b| (b.run, b.distance) == (a.run, a.distance))?;
                Some(a.value / b.value)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::job::Job;
    use crate::stage::Stage;

    struct Fake(&'static str, Standing);

    impl System for Fake {
        fn key(&self) -> &str {
            self.0
        }

        fn standing(&self) -> Standing {
            self.1
        }

        fn suits(&self, _load: &Load) -> bool {
            true
        }

        fn work(&self, _job: &Job, _stage: &mut Stage) -> anyhow::Result<()> {
            anyhow::bail!("it does no work")
        }
    }

    /// Results of one stream: ours, two rivals and a floor.
    fn results() -> Results {
        let systems = [
            Fake("ours", Standing::Ours),
            Fake("good", Standing::Rival),
            Fake("lossy", Standing::Rival),
            Fake("floor", Standing::Floor),
        ];
        let systems: Vec<&dyn System> = systems.iter().map(|system| system as _).collect();
        let settings = Settings::new(2, Duration::from_millis(1), (0, 1));
        Results::new(settings, vec![Load::new("stream".into(), 8)], &systems)
    }

    fn add(results: &mut Results, contender: usize, run: u32, value: f64, distance: Distance) {
        let measured = Measured { value, p99_ns: None, lost: 0, corrupt: 0 };
        results.add((0, contender, run), measured, (1.0, 1.0), distance);
    }

    #[test]
    fn only_samples_of_one_distance_are_compared() {
        let mut results = results();
        for run in 1..=2 {
            add(&mut results, 0, run, 10.0, Distance::Near);
            add(&mut results, 1, run, 5.0, Distance::Near);
            add(&mut results, 3, run, 40.0, Distance::Near);
        }
        add(&mut results, 0, 3, 1.0, Distance::Far);
        let comparisons = results.comparisons(0);
        assert_eq!(comparisons.len(), 1);
        let ours = comparisons[0].row("ours").unwrap();
        assert_eq!((comparisons[0].distance, ours.samples), (Distance::Near, 2));
        assert_eq!((ours.to_best_rival, ours.to_floor), (Some(2.0), Some(0.25)));
    }

    #[test]
    fn who_loses_messages_is_not_the_best_rival() {
        let mut results = results();
        add(&mut results, 0, 1, 10.0, Distance::Near);
        add(&mut results, 1, 1, 5.0, Distance::Near);
        let lossy = Measured { value: 100.0, p99_ns: None, lost: 3, corrupt: 0 };
        results.add((0, 2, 1), lossy, (1.0, 1.0), Distance::Near);
        let comparison = results.main_comparison(0);
        assert_eq!(comparison.best(Standing::Rival).unwrap().contender.key, "good");
        assert_eq!(comparison.row("lossy").unwrap().lost, 3);
        assert!(!comparison.row("lossy").unwrap().is_sound());
    }

    #[test]
    fn pairs_are_of_one_run_and_one_distance() {
        let mut results = results();
        for (run, ours, other, distance) in [
            (1, 10.0, 5.0, (Distance::Near, Distance::Near)),
            (2, 9.0, 3.0, (Distance::Near, Distance::Near)),
            (3, 9.0, 1.0, (Distance::Near, Distance::Far)),
        ] {
            add(&mut results, 0, run, ours, distance.0);
            add(&mut results, 1, run, other, distance.1);
        }
        assert_eq!(results.paired(0, "ours", "good"), [2.0, 3.0]);
    }
}
