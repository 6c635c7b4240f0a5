//! Medians, and how far samples lie apart.

use serde::Serialize;

/// Median, lowest and highest of some samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The one in the middle, or the mean of the two there.
    pub median: f64,
    /// The lowest.
    pub lowest: f64,
    /// The highest.
    pub highest: f64,
}

impl Spread {
    /// Of these samples; `None` if there are none.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
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

    /// The same in units of so many.
    #[must_use]
    pub fn in_units(self, of: f64) -> Self {
        Self { median: self.median / of, lowest: self.lowest / of, highest: self.highest / of }
    }
}

/// Three digits, as many as mean anything.
#[must_use]
pub fn figure(value: f64) -> String {
    match value {
        value if value >= 99.95 => grouped(value),
        value if value >= 9.995 => format!("{value:.1}"),
        value if value >= 0.9995 => format!("{value:.2}"),
        value if value >= 0.009_995 => format!("{value:.3}"),
        0.0 => "0".to_owned(),
        value => format!("{value:.4}"),
    }
}

/// A whole number, a comma before each three digits.
#[must_use]
pub fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A ratio, as we show it.
#[must_use]
pub fn times(ratio: f64) -> String {
    match ratio {
        ratio if ratio >= 9.995 => format!("{}x", grouped(ratio)),
        ratio if ratio >= 0.1 => format!("{ratio:.2}x"),
        ratio => format!("{}x", figure(ratio)),
    }
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
        assert_eq!(figure(1_234_567.0), "1,234,567");
        assert_eq!(figure(123.4), "123");
        assert_eq!(figure(12.34), "12.3");
        assert_eq!(figure(1.234), "1.23");
        assert_eq!(figure(0.1234), "0.123");
        assert_eq!(figure(0.001_234), "0.0012");
        assert_eq!(times(41.6), "42x");
        assert_eq!(times(1.049), "1.05x");
        assert_eq!(times(0.0034), "0.0034x");
    }
}
