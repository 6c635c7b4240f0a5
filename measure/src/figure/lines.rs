//! Lines over something that grows, both axes logarithmic where need be.

use std::fmt::Write as _;

use super::{Axis, Figure, escape, tick_text};
use crate::spread::{self, Spread};

/// One line: its name, and a spread at each place along the horizontal axis.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its name.
    pub name: String,
    /// What was measured where.
    pub points: Vec<(f64, Spread)>,
}

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 66.0;
const BOTTOM: f64 = 52.0;
/// Colours that are told apart on light and on dark, by those who see no red too.
const COLOURS: [&str; 6] = ["#4493f8", "#d29922", "#2da44e", "#bc4c9b", "#7d8590", "#cf6a4c"];

/// The figure of something that grows to the right; the horizontal axis is logarithmic.
#[must_use]
pub fn lines(title: &str, across: &str, upwards: &str, lines: &[Line]) -> Figure {
    let points = || lines.iter().flat_map(|line| &line.points);
    let (lowest, highest) = points()
        .fold((f64::INFINITY, 0.0_f64), |(lowest, highest), (at, _)| {
            (lowest.min(*at), highest.max(*at))
        });
    let vertical = Axis::of(points().flat_map(|(_, spread)| [spread.lowest, spread.highest]));
    let horizontal =
        Axis { from: lowest.max(1e-9), to: highest.max(lowest * 1.01), is_logarithmic: true };
    let x = |value: f64| LEFT + (WIDTH - LEFT - RIGHT) * horizontal.at(value);
    let y = |value: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * vertical.at(value);
    let how = if vertical.is_logarithmic { " (logarithmic)" } else { "" };
    let subtitle = format!("{upwards}{how}; medians, whiskers lowest to highest");
    let mut figure = Figure::begin(WIDTH, HEIGHT, title, &subtitle);
    // Writing to a String cannot fail, here and below.
    for tick in vertical.ticks() {
        let at = y(tick);
        let _ = writeln!(
            figure.body,
            "<line class=\"rule\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text class=\"faint\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            at + 4.5,
            tick_text(tick),
        );
    }
    let mut places: Vec<f64> = points().map(|(at, _)| *at).collect();
    places.sort_by(f64::total_cmp);
    places.dedup();
    for place in places {
        let _ = writeln!(
            figure.body,
            "<text class=\"faint\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            x(place),
            HEIGHT - BOTTOM + 20.0,
            tick_text(place),
        );
    }
    let _ = writeln!(
        figure.body,
        "<text class=\"faint\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 10.0,
        escape(across),
    );
    let mut ends = Vec::new();
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        draw_line(&mut figure.body, line, colour, &x, &y);
        if let Some((at, spread)) = line.points.last() {
            ends.push((y(spread.median), x(*at), line, spread.median, colour));
        }
    }
    // Names beside the lines' ends, none over another.
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut next = TOP;
    for (at, across, line, median, colour) in ends {
        let at = at.max(next);
        next = at + 17.0;
        let _ = writeln!(
            figure.body,
            "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\" font-weight=\"600\">{} {}</text>",
            across + 10.0,
            at + 4.5,
            escape(&line.name),
            spread::figure(median),
        );
    }
    figure
}

fn draw_line(
    svg: &mut String,
    line: &Line,
    colour: &str,
    x: &dyn Fn(f64) -> f64,
    y: &dyn Fn(f64) -> f64,
) {
    let mut path = String::new();
    for (number, (at, spread)) in line.points.iter().enumerate() {
        let letter = if number == 0 { 'M' } else { 'L' };
        let _ = write!(path, "{letter}{:.1} {:.1}", x(*at), y(spread.median));
        let _ = writeln!(
            svg,
            "<circle cx=\"{0:.1}\" cy=\"{1:.1}\" r=\"3.5\" fill=\"{colour}\"/>\
             <path stroke=\"{colour}\" stroke-width=\"1.2\" fill=\"none\" d=\"M{0:.1} {2:.1}V{3:.1}\"/>",
            x(*at),
            y(spread.median),
            y(spread.lowest),
            y(spread.highest),
        );
    }
    let _ =
        writeln!(svg, "<path stroke=\"{colour}\" stroke-width=\"2\" fill=\"none\" d=\"{path}\"/>");
}
