//! Figures as SVG, written by ourselves: readable on a light and on a dark page.

mod bars;
mod lines;

pub use bars::{Bar, bars};
pub use lines::{Line, lines};

use std::fmt::Write as _;

use crate::spread::figure;
use crate::system::Standing;

/// Spans wider than this, highest to lowest, are drawn on a logarithmic axis.
const LINEAR_SPAN_MAX: f64 = 30.0;

/// A figure that is drawn, and not yet written.
#[derive(Clone, Debug)]
pub struct Figure {
    width: f64,
    height: f64,
    body: String,
}

/// The page's colours are the reader's.
const STYLE: &str = "<style>
.page { fill: #ffffff; } .text { fill: #1f2328; } .faint { fill: #59636e; } .rule { stroke: #d1d9e0; }
.whisker { stroke: #1f2328; }
.ours { fill: #0969da; } .rival { fill: #9a6700; } .floor { fill: #6e7781; } .reference { fill: #8c959f; }
@media (prefers-color-scheme: dark) {
.page { fill: #0d1117; } .text { fill: #e6edf3; } .faint { fill: #9198a1; } .rule { stroke: #3d444d; }
.whisker { stroke: #e6edf3; }
.ours { fill: #4493f8; } .rival { fill: #d29922; } .floor { fill: #7d8590; } .reference { fill: #656d76; }
}
</style>
";

impl Figure {
    /// An empty figure with its title.
    fn begin(width: f64, height: f64, title: &str, subtitle: &str) -> Self {
        let (title, subtitle) = (escape(title), escape(subtitle));
        let body = format!(
            "<text class=\"text\" x=\"16\" y=\"26\" font-size=\"16\" font-weight=\"600\">{title}</text>\n\
             <text class=\"faint\" x=\"16\" y=\"45\">{subtitle}</text>\n"
        );
        Self { width, height, body }
    }

    /// Several figures in one, below each other.
    #[must_use]
    pub fn stack(figures: &[Self]) -> Self {
        let mut stack = Self { width: 0.0, height: 0.0, body: String::new() };
        for figure in figures {
            // Writing to a String cannot fail.
            let _ = writeln!(
                stack.body,
                "<g transform=\"translate(0 {:.1})\">\n{}</g>",
                stack.height, figure.body
            );
            stack.width = stack.width.max(figure.width);
            stack.height += figure.height + 10.0;
        }
        stack
    }

    /// The figure as an SVG document.
    #[must_use]
    pub fn svg(&self) -> String {
        let Self { width, height, body } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
             height=\"{height}\" font-family=\"system-ui, sans-serif\" font-size=\"13\">\n{STYLE}\
             <rect class=\"page\" width=\"{width}\" height=\"{height}\" rx=\"6\"/>\n{body}</svg>\n"
        )
    }
}

fn class(standing: Standing) -> &'static str {
    match standing {
        Standing::Ours => "ours",
        Standing::Rival => "rival",
        Standing::Floor => "floor",
        Standing::Reference => "reference",
    }
}

/// Text that XML takes as text.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Where values lie between two ends of an axis.
struct Axis {
    from: f64,
    to: f64,
    is_logarithmic: bool,
}

impl Axis {
    /// An axis that holds these values: from 0, or logarithmic where they span more than 30 times.
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let (mut lowest, mut highest) = (f64::INFINITY, 0.0_f64);
        for value in values.filter(|value| *value > 0.0) {
            lowest = lowest.min(value);
            highest = highest.max(value);
        }
        if lowest > highest {
            return Self { from: 0.0, to: 1.0, is_logarithmic: false };
        }
        match highest / lowest > LINEAR_SPAN_MAX {
            true => Self::logarithmic(lowest, highest),
            false => Self { from: 0.0, to: highest * 1.05, is_logarithmic: false },
        }
    }

    /// A logarithmic axis from the power of ten below to the one above.
    fn logarithmic(lowest: f64, highest: f64) -> Self {
        let from = 10f64.powf(lowest.log10().floor());
        let to = 10f64.powf((highest * 1.001).log10().ceil());
        Self { from, to, is_logarithmic: true }
    }

    /// How far along the axis a value lies, 0 to 1.
    fn at(&self, value: f64) -> f64 {
        let along = match self.is_logarithmic {
            true => (value / self.from).log10() / (self.to / self.from).log10(),
            false => (value - self.from) / (self.to - self.from),
        };
        along.clamp(0.0, 1.0)
    }

    /// Where rules and numbers belong.
    fn ticks(&self) -> Vec<f64> {
        if self.is_logarithmic {
            let decades = (self.to / self.from).log10().round() as i32;
            return (0..=decades).map(|decade| self.from * 10f64.powi(decade)).collect();
        }
        let rough = self.to / 5.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
        let step = step.into_iter().find(|step| *step >= rough).unwrap_or(rough);
        (0..=5).map(|number| f64::from(number) * step).filter(|tick| *tick <= self.to).collect()
    }
}

/// A number at a rule: no more digits than it needs.
fn tick_text(value: f64) -> String {
    let text = figure(value);
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wide_span_gets_a_logarithmic_axis() {
        let axis = Axis::of([0.5, 40.0].into_iter());
        assert!(axis.is_logarithmic);
        assert_eq!((axis.from, axis.to), (0.1, 100.0));
        assert_eq!(axis.ticks().len(), 4);
        assert!((axis.at(1.0) - 1.0 / 3.0).abs() < 1e-9);
        assert!(!Axis::of([2.0, 40.0].into_iter()).is_logarithmic);
        assert_eq!(Axis::of([].into_iter()).at(3.0), 1.0);
    }
}
