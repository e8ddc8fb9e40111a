//! What the paths carried over time, one upon the other.
//!
//! Each area is labelled at its right end; the dashed line is the sum of what the paths carry
//! alone; the time in which a path was dead is shaded.

use super::figure::{BlackHole, Series, Throughput};
use super::svg::{Anchor, Scale, Svg};

const LEFT: f64 = 34.0;
const RIGHT: f64 = 392.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 146.0;
const HEIGHT: f64 = 178.0;

/// The least distance between two labels, so that neither hides the other.
const LABEL: f64 = 13.0;

/// One repeat of a throughput figure over time; none if none was recorded.
pub(super) fn of_throughput(figure: &Throughput) -> Option<String> {
    let series = figure.series.as_ref().filter(|series| !series.is_empty())?;
    let label = format!("{}: goodput by path over time", figure.label());
    let mut chart = Timeline::new(series, figure.sum(), &label);
    chart.areas(series);
    chart.limit(figure.sum());
    Some(chart.svg.finish())
}

/// A black hole over time; none if none was recorded.
pub(super) fn of_black_hole(hole: &BlackHole, sum: Option<f64>) -> Option<String> {
    let series = hole.series.as_ref().filter(|series| !series.is_empty())?;
    let label = format!("goodput by path while {} swallows everything", hole.path);
    let mut chart = Timeline::new(series, sum, &label);
    chart.shade(hole);
    chart.areas(series);
    chart.limit(sum);
    chart.events(hole);
    Some(chart.svg.finish())
}

struct Timeline {
    svg: Svg,
    x: Scale,
    y: Scale,
    /// The lowest label's base so far; the next one goes above it.
    lowest: f64,
}

impl Timeline {
    /// Axes on which the series and the sum have room.
    fn new(series: &Series, sum: Option<f64>, label: &str) -> Self {
        let greatest = (0..series.len()).map(|at| total(series, at, series.paths.len()));
        let greatest = greatest.fold(sum.unwrap_or(0.0), f64::max);
        let x = Scale::exact(series.seconds(), 8.0, LEFT, RIGHT);
        let y = Scale::exact(greatest * 1.04, 4.0, BOTTOM, TOP);
        let mut svg = Svg::new(HEIGHT, label);
        for (value, text) in y.ticks() {
            svg.line("grid", (LEFT, y.at(value)), (RIGHT, y.at(value)));
            svg.text("tick", (LEFT - 5.0, y.at(value) + 4.0), Anchor::End, &text);
        }
        for (value, text) in x.ticks() {
            svg.text("tick", (x.at(value), BOTTOM + 14.0), Anchor::Middle, &text);
        }
        svg.text("unit", (0.0, 9.0), Anchor::Start, "Mbit/s on the wire");
        svg.text("unit", (RIGHT, HEIGHT - 4.0), Anchor::End, "time, s");
        Self { svg, x, y, lowest: BOTTOM + LABEL }
    }

    fn areas(&mut self, series: &Series) {
        for index in 0..series.paths.len() {
            let points = self.outline(series, index);
            self.svg.area(&points, index);
        }
        self.labels(series);
    }

    /// Along the top of the paths up to `index`, and back along the top of those below it.
    fn outline(&self, series: &Series, index: usize) -> Vec<(f64, f64)> {
        let interval = f64::from(series.interval_ms) / 1000.0;
        let edge = |paths: usize| {
            (0..series.len()).map(move |at| {
                let seconds = (at as f64 + 0.5) * interval;
                (self.x.at(seconds), self.y.at(total(series, at, paths)))
            })
        };
        edge(index + 1).chain(edge(index).rev()).collect()
    }

    /// Names each path beside the middle of its area, pushed up where that is too close.
    fn labels(&mut self, series: &Series) {
        let tail = (series.len() * 3 / 4)..series.len();
        let mean = |paths: usize| {
            let sum: f64 = tail.clone().map(|at| total(series, at, paths)).sum();
            sum / tail.len().max(1) as f64
        };
        for (index, path) in series.paths.iter().enumerate() {
            let middle = self.y.at(f64::midpoint(mean(index), mean(index + 1)));
            let base = (middle + 4.0).min(self.lowest - LABEL);
            self.svg.path_rect("swatch", (RIGHT + 6.0, base - 8.0), (8.0, 8.0), index);
            self.svg.text("label", (RIGHT + 18.0, base), Anchor::Start, &path.path);
            self.lowest = base;
        }
    }

    fn limit(&mut self, sum: Option<f64>) {
        let Some(sum) = sum else { return };
        let y = self.y.at(sum);
        self.svg.line("sum", (LEFT, y), (RIGHT, y));
        let base = (y + 4.0).min(self.lowest - LABEL);
        self.svg.text("note", (RIGHT + 6.0, base), Anchor::Start, &format!("sum {sum:.1}"));
    }

    fn shade(&mut self, hole: &BlackHole) {
        let (from, to) = (self.x.at(hole.hit_s), self.x.at(hole.returned_s).min(RIGHT));
        self.svg.rect("dead", (from, TOP), (to - from, BOTTOM - TOP));
    }

    fn events(&mut self, hole: &BlackHole) {
        let text = [(hole.hit_s, "dead from here"), (hole.returned_s, "whole again")];
        for (seconds, what) in text {
            let x = self.x.at(seconds);
            self.svg.line("event", (x, TOP - 3.0), (x, BOTTOM));
            self.svg.text("event-note", (x, TOP - 5.0), Anchor::Middle, what);
        }
    }
}

/// What the first `paths` paths carried in one interval, in Mbit/s.
fn total(series: &Series, at: usize, paths: usize) -> f64 {
    series.paths.iter().take(paths).map(|path| path.mbit.get(at).copied().unwrap_or(0.0)).sum()
}

#[cfg(test)]
mod tests {
    use super::super::figure::PathSeries;
    use super::super::sample::sample;
    use super::*;

    #[test]
    fn paths_are_stacked_and_a_short_one_ends_at_zero() {
        let path = |name: &str, mbit: &[f64]| PathSeries { path: name.into(), mbit: mbit.into() };
        let paths = vec![path("a", &[10.0, 20.0]), path("b", &[5.0])];
        let series = Series { interval_ms: 100, paths };
        assert_eq!((total(&series, 0, 2), total(&series, 1, 2)), (15.0, 20.0));
        let chart = Timeline::new(&series, None, "");
        let outline = chart.outline(&series, 1);
        assert_eq!(outline.len(), 4);
        assert_eq!(outline[0].1, chart.y.at(15.0));
        assert_eq!(outline[2].1, chart.y.at(20.0));
    }

    #[test]
    fn a_black_hole_is_shaded_and_marked() {
        let setting = &sample().settings[0];
        let drawn = of_black_hole(&setting.black_holes[0], Some(191.2)).unwrap();
        assert_eq!(drawn.matches("class=\"dead\"").count(), 1);
        assert_eq!(drawn.matches("class=\"event\"").count(), 2);
        assert!(drawn.contains("sum 191.2"));
        assert!(of_throughput(&setting.throughput[2]).is_none(), "it has no series");
    }
}
