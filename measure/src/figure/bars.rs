//! A bar for each system, with a whisker from its lowest to its highest sample.

use std::fmt::Write as _;

use super::{Axis, Figure, class, escape, tick_text};
use crate::results::Comparison;
use crate::spread::{self, Spread};
use crate::table::remarks;

/// One bar.
#[derive(Clone, Debug)]
pub struct Bar {
    label: String,
    class: &'static str,
    spread: Option<Spread>,
    remark: String,
}

const WIDTH: f64 = 860.0;
const LEFT: f64 = 190.0;
const RIGHT: f64 = 130.0;
const TOP: f64 = 60.0;
const ROW: f64 = 22.0;

/// The figure of one load at one distance, the best on top.
#[must_use]
pub fn bars(comparison: &Comparison<'_>) -> Figure {
    let kind = comparison.load.kind;
    let (unit, scale) = kind.unit();
    let mut bars: Vec<_> = comparison
        .rows
        .iter()
        .map(|row| Bar {
            label: row.contender.name.clone(),
            class: class(row.contender.standing),
            spread: row.spread.map(|spread| spread.in_units(scale)),
            remark: remarks(row),
        })
        .collect();
    let order = |bar: &Bar| match bar.spread {
        Some(spread) if kind.is_rate() => -spread.median,
        Some(spread) => spread.median,
        None => f64::INFINITY,
    };
    bars.sort_by(|a, b| order(a).total_cmp(&order(b)));
    let better = if kind.is_rate() { "more is better" } else { "less is better" };
    let axis =
        Axis::of(bars.iter().filter_map(|bar| bar.spread).flat_map(|s| [s.lowest, s.highest]));
    let how = if axis.is_logarithmic { ", logarithmic" } else { "" };
    let subtitle = format!(
        "{unit}, {better}{how}; medians, whiskers lowest to highest; cores: {}",
        comparison.distance
    );
    draw(&comparison.load.name, &subtitle, &axis, &bars)
}

fn draw(title: &str, subtitle: &str, axis: &Axis, bars: &[Bar]) -> Figure {
    let bottom = TOP + ROW * bars.len() as f64;
    let span = WIDTH - LEFT - RIGHT;
    let x = |value: f64| LEFT + span * axis.at(value);
    let mut figure = Figure::begin(WIDTH, bottom + 34.0, title, subtitle);
    // Writing to a String cannot fail, here and below.
    for tick in axis.ticks() {
        let at = x(tick);
        let _ = writeln!(
            figure.body,
            "<line class=\"rule\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>\
             <text class=\"faint\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            bottom + 18.0,
            tick_text(tick),
        );
    }
    for (number, bar) in bars.iter().enumerate() {
        let y = TOP + ROW * number as f64;
        let middle = y + ROW / 2.0;
        let weight = if bar.class == "ours" { " font-weight=\"600\"" } else { "" };
        let _ = writeln!(
            figure.body,
            "<text class=\"text\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\"{weight}>{}</text>",
            LEFT - 8.0,
            middle + 4.5,
            escape(&bar.label),
        );
        let Some(spread) = bar.spread else {
            let remark: String = bar.remark.chars().take(80).collect();
            let _ = writeln!(
                figure.body,
                "<text class=\"faint\" x=\"{LEFT}\" y=\"{:.1}\">{}</text>",
                middle + 4.5,
                escape(if remark.is_empty() { "no figure" } else { &remark }),
            );
            continue;
        };
        draw_bar(&mut figure.body, bar, spread, middle, &x);
    }
    figure
}

fn draw_bar(svg: &mut String, bar: &Bar, spread: Spread, middle: f64, x: &dyn Fn(f64) -> f64) {
    let (low, high) = (x(spread.lowest), x(spread.highest));
    let _ = writeln!(
        svg,
        "<rect class=\"{}\" x=\"{LEFT}\" y=\"{:.1}\" width=\"{:.1}\" height=\"14\" rx=\"2\"/>\
         <path class=\"whisker\" fill=\"none\" stroke-width=\"1.5\" d=\"M{low:.1} {:.1}v8m0 -4H{high:.1}m0 -4v8\"/>",
        bar.class,
        middle - 7.0,
        (x(spread.median) - LEFT).max(1.0),
        middle - 4.0,
    );
    let mut text = spread::figure(spread.median);
    if !bar.remark.is_empty() {
        let remark: String = bar.remark.chars().take(16).collect();
        text = format!("{text} ({remark})");
    }
    let _ = writeln!(
        svg,
        "<text class=\"text\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
        high.max(x(spread.median)) + 8.0,
        middle + 4.5,
        escape(&text),
    );
}
