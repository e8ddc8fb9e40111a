//! Throughput against the limit: one bar a figure.
//!
//! Behind braid's bar lie the paths' own goodputs end to end, in the paths' colours; a line is
//! the limit, a small triangle the target, and each repeat a dot.

use super::figure::{Direction, Throughput, Verdict};
use super::model::Setting;
use super::svg::{Anchor, Scale, Svg};
use super::words;

const LEFT: f64 = 98.0;
const RIGHT: f64 = 348.0;
const TOP: f64 = 18.0;
const ROW: f64 = 30.0;
const BAND: f64 = 20.0;
const BAR: f64 = 9.0;

/// The figures of one direction; none if there are none.
pub(super) fn chart(setting: &Setting, direction: Direction) -> Option<String> {
    let figures: Vec<_> = setting.throughput_of(direction).collect();
    if figures.is_empty() {
        return None;
    }
    let bottom = TOP + ROW * figures.len() as f64;
    let label = format!("{}: goodput {direction} against the limit, in Mbit/s", setting.title());
    let mut svg = Svg::new(bottom + 32.0, &label);
    let x = Scale::exact(greatest(&figures) * 1.02, 4.0, LEFT, RIGHT);
    axis(&mut svg, x, bottom);
    svg.text("head", (RIGHT + 8.0, 10.0), Anchor::Start, "Mbit/s");
    svg.text("head", (Svg::WIDTH, 10.0), Anchor::End, "of limit");
    for (index, figure) in figures.iter().enumerate() {
        row(&mut svg, x, TOP + ROW * index as f64, figure);
    }
    Some(svg.finish())
}

fn greatest(figures: &[&Throughput]) -> f64 {
    let repeats = figures.iter().flat_map(|figure| figure.braid.mbit.iter().copied());
    repeats.chain(figures.iter().filter_map(|figure| figure.sum())).fold(0.0, f64::max)
}

fn axis(svg: &mut Svg, x: Scale, bottom: f64) {
    for (value, text) in x.ticks() {
        svg.line("grid", (x.at(value), TOP), (x.at(value), bottom));
        svg.text("tick", (x.at(value), bottom + 13.0), Anchor::Middle, &text);
    }
    svg.text("unit", (RIGHT, bottom + 27.0), Anchor::End, "goodput, Mbit/s");
}

fn row(svg: &mut Svg, x: Scale, top: f64, figure: &Throughput) {
    let middle = top + ROW / 2.0;
    let streams =
        if figure.streams == 1 { "1 stream" } else { &format!("{} streams", figure.streams) };
    svg.text("label", (0.0, middle + 4.0), Anchor::Start, &format!("{}, {streams}", figure.family));
    paths(svg, x, middle, figure);
    if let Some(median) = figure.braid.median() {
        svg.rect("braid", (x.at(0.0), middle - BAR / 2.0), (x.at(median) - x.at(0.0), BAR));
    }
    for repeat in &figure.braid.mbit {
        svg.circle("repeat", (x.at(*repeat), middle), 1.8);
    }
    marks(svg, x, middle, figure);
    values(svg, middle + 4.0, figure);
}

/// What each path carries alone, end to end; a path without a figure is left out.
fn paths(svg: &mut Svg, x: Scale, middle: f64, figure: &Throughput) {
    let mut from = 0.0;
    for (index, path) in figure.alone.iter().enumerate() {
        let own = path.goodput.median().unwrap_or(0.0);
        let size = (x.at(own) - x.at(0.0), BAND);
        svg.path_rect("alone", (x.at(from), middle - BAND / 2.0), size, index);
        from += own;
    }
}

fn marks(svg: &mut Svg, x: Scale, middle: f64, figure: &Throughput) {
    let (top, bottom) = (middle - BAND / 2.0 - 2.0, middle + BAND / 2.0 + 2.0);
    if let Some(limit) = figure.limit() {
        svg.line("limit", (x.at(limit), top), (x.at(limit), bottom));
    }
    if let Some(target) = figure.target() {
        svg.line("target", (x.at(target), bottom - 4.5), (x.at(target), bottom + 2.0));
    }
}

fn values(svg: &mut Svg, base: f64, figure: &Throughput) {
    let missed = figure.verdict() == Some(Verdict::Missed);
    let class = if missed { "value missed" } else { "value" };
    let Some(median) = figure.braid.median() else {
        svg.text("value missed", (RIGHT + 8.0, base), Anchor::Start, "not measured");
        return;
    };
    svg.text("value", (RIGHT + 8.0, base), Anchor::Start, &words::mbit(Some(median)));
    let mark = if missed { "✗ " } else { "" };
    let reached = format!("{mark}{}", words::percent(figure.reached_percent()));
    svg.text(class, (Svg::WIDTH, base), Anchor::End, &reached);
}

#[cfg(test)]
mod tests {
    use super::super::sample::sample;
    use super::*;

    #[test]
    fn a_row_has_its_bar_its_marks_and_its_figures() {
        let setting = &sample().settings[0];
        let drawn = chart(setting, Direction::Down).unwrap();
        let count = |what: &str| drawn.matches(what).count();
        assert_eq!(count("class=\"braid\""), 4);
        assert_eq!((count("class=\"limit\""), count("class=\"target\"")), (4, 4));
        assert_eq!(count("class=\"repeat\""), 12);
        assert!(drawn.contains("IPv6, 8 streams"));
    }

    #[test]
    fn a_figure_without_a_value_says_so() {
        let mut setting = sample().settings.remove(0);
        setting.throughput[0].braid.mbit.clear();
        setting.throughput[1].alone.clear();
        let drawn = chart(&setting, Direction::Down).unwrap();
        assert_eq!(drawn.matches("not measured").count(), 1);
        assert_eq!(drawn.matches("class=\"limit\"").count(), 3);
        setting.throughput.clear();
        assert_eq!(chart(&setting, Direction::Down), None);
    }
}
