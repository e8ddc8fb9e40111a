//! The overview's strips: all throughput figures of a setting and direction on one axis.
//!
//! A dot is a figure's share of the limit, a tick the target. The axis is the same in all rows, so
//! that the eye can run down a column.

use super::figure::{Throughput, Verdict};
use super::model::Results;
use super::svg::{Anchor, Svg};

const WIDTH: f64 = 170.0;
const HEIGHT: f64 = 18.0;
const MARGIN: f64 = 12.0;

/// The axis of all strips, in per cent of the limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    /// From the ten below the least figure or target to the hundred, or the ten above the greatest.
    pub(super) fn new(results: &Results) -> Self {
        let figures = results.settings.iter().flat_map(|setting| &setting.throughput);
        let values = figures.flat_map(|f| [f.reached_percent(), Some(f.target_percent)]).flatten();
        let (low, high) = values.fold((90.0, 100.0), |(low, high): (f64, f64), value| {
            (low.min(value), high.max(value - 2.0))
        });
        Self { low: (low / 10.0).floor() * 10.0, high: (high / 10.0).ceil() * 10.0 }
    }

    fn at(self, percent: f64) -> f64 {
        MARGIN + (WIDTH - 2.0 * MARGIN) * (percent - self.low) / (self.high - self.low)
    }

    /// The axis itself, for the head of a column.
    pub(super) fn head(self) -> String {
        let mut svg = Svg::sized(WIDTH, HEIGHT, "axis in per cent of the limit");
        for (percent, unit) in [(self.low, ""), (self.high, " %")] {
            let text = format!("{percent}{unit}");
            svg.text("tick", (self.at(percent), 12.0), Anchor::Middle, &text);
        }
        svg.finish()
    }

    /// One strip.
    pub(super) fn strip<'a>(self, figures: impl Iterator<Item = &'a Throughput>) -> String {
        let mut svg = Svg::sized(WIDTH, HEIGHT, "share of the limit by figure");
        let middle = HEIGHT / 2.0;
        svg.line("grid", (self.at(self.low), middle), (self.at(self.high), middle));
        for end in [self.low, self.high] {
            svg.line("grid", (self.at(end), middle - 3.0), (self.at(end), middle + 3.0));
        }
        for figure in figures {
            let target = self.at(figure.target_percent);
            svg.line("target", (target, middle - 7.0), (target, middle + 7.0));
            if let Some(reached) = figure.reached_percent() {
                let missed = figure.verdict() == Some(Verdict::Missed);
                let class = if missed { "dot missed" } else { "dot" };
                svg.circle(class, (self.at(reached), middle), 3.2);
            }
        }
        svg.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::sample;
    use super::*;

    #[test]
    fn axis_holds_all_figures_and_targets() {
        let mut results = sample();
        assert_eq!(Axis::new(&results), Axis { low: 90.0, high: 100.0 });
        results.settings[0].throughput[0].braid.mbit = vec![64.0];
        assert_eq!(Axis::new(&results).low, 30.0);
    }
}
