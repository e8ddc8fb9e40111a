//! Flow times: plain routing over the best path against braid, one row a size.
//!
//! The axis is logarithmic, so that equal distances are equal ratios. A dot is a median, the thin
//! line behind it reaches to the 99th percentile.

use super::figure::{FlowTimes, Times, Verdict};
use super::svg::{Anchor, Svg};
use super::words;

const LEFT: f64 = 56.0;
const RIGHT: f64 = 390.0;
const TOP: f64 = 22.0;
const ROW: f64 = 32.0;

/// The times to the last byte by size, while nothing befell a path; none if nothing was timed.
pub(super) fn chart(sizes: &[FlowTimes]) -> Option<String> {
    let sizes: Vec<_> = sizes.iter().filter(|flow| flow.after.is_none()).collect();
    let x = Log::new(&sizes)?;
    let bottom = TOP + ROW * sizes.len() as f64;
    let mut svg = Svg::new(bottom + 32.0, "time to the last byte by size, plain and braid, in ms");
    for ms in x.ticks() {
        svg.line("grid", (x.at(ms), TOP), (x.at(ms), bottom));
        svg.text("tick", (x.at(ms), bottom + 13.0), Anchor::Middle, &format!("{ms}"));
    }
    svg.text("unit", (RIGHT, bottom + 27.0), Anchor::End, "time to the last byte, ms (log)");
    svg.text("head", (Svg::WIDTH, 12.0), Anchor::End, "braid : plain");
    for (index, flow) in sizes.iter().enumerate() {
        row(&mut svg, &x, TOP + ROW * index as f64, flow, index == 0);
    }
    Some(svg.finish())
}

fn row(svg: &mut Svg, x: &Log, top: f64, flow: &FlowTimes, named: bool) {
    let (upper, lower) = (top + ROW * 0.34, top + ROW * 0.66);
    svg.text("label", (0.0, top + ROW / 2.0 + 4.0), Anchor::Start, &words::bytes(flow.size));
    let names = if named { ("plain ", "braid ") } else { ("", "") };
    dot(svg, x, upper, "plain-dot", flow.plain.as_ref(), names.0);
    dot(svg, x, lower, "braid-dot", flow.braid.as_ref(), names.1);
    let missed = flow.verdict() == Some(Verdict::Missed);
    let (class, mark) = if missed { ("value missed", "✗ ") } else { ("value", "") };
    let ratio = format!("{mark}{}", words::ratio(flow.ratio()));
    svg.text(class, (Svg::WIDTH, top + ROW / 2.0 + 4.0), Anchor::End, &ratio);
}

fn dot(svg: &mut Svg, x: &Log, y: f64, class: &str, times: Option<&Times>, name: &str) {
    let Some(q) = times.map(|times| times.complete) else { return };
    svg.line("whisker", (x.at(q.p50), y), (x.at(q.p99), y));
    svg.circle(class, (x.at(q.p50), y), 4.0);
    let text = format!("{name}{:.0}", q.p50);
    svg.text("note", (x.at(q.p99) + 6.0, y + 4.0), Anchor::Start, &text);
}

/// A logarithmic scale of times in ms.
struct Log {
    low: f64,
    high: f64,
}

impl Log {
    /// A scale with room for all times, and for a label after the longest.
    fn new(sizes: &[&FlowTimes]) -> Option<Self> {
        let times = sizes.iter().flat_map(|flow| [flow.plain, flow.braid]).flatten();
        let ends = times.flat_map(|times| [times.complete.p50, times.complete.p99]);
        let (mut low, mut high) = (f64::INFINITY, 0_f64);
        for ms in ends.filter(|ms| *ms > 0.0) {
            (low, high) = (low.min(ms), high.max(ms));
        }
        (high > 0.0).then_some(Self { low: low * 0.8, high: high * 1.7 })
    }

    fn at(&self, ms: f64) -> f64 {
        let part = (ms.max(self.low) / self.low).ln() / (self.high / self.low).ln();
        LEFT + (RIGHT - LEFT) * part
    }

    /// 1, 2 and 5 times the powers of ten that lie on the axis; of those too many, only 1.
    fn ticks(&self) -> Vec<f64> {
        let factors: &[f64] = if self.high / self.low > 300.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let powers = (0..7).map(|power| 10_f64.powi(power));
        let all = powers.flat_map(|power| factors.iter().map(move |factor| factor * power));
        all.filter(|ms| (self.low..self.high).contains(ms)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::sample;
    use super::*;

    #[test]
    fn each_size_has_two_dots_and_a_ratio() {
        let drawn = chart(&sample().settings[0].flow_times).unwrap();
        assert_eq!(drawn.matches("class=\"plain-dot\"").count(), 4);
        assert_eq!(drawn.matches("class=\"braid-dot\"").count(), 4);
        assert!(drawn.contains(">100 kB<") && drawn.contains(">plain "));
        assert!(!drawn.contains("value missed"));
        let mut sizes = sample().settings.remove(0).flow_times;
        sizes[1].target = Some(0.1);
        assert_eq!(chart(&sizes).unwrap().matches("class=\"value missed\"").count(), 1);
    }

    #[test]
    fn nothing_timed_is_nothing_drawn() {
        let mut sizes = sample().settings.remove(0).flow_times;
        for flow in &mut sizes {
            (flow.plain, flow.braid) = (None, None);
        }
        assert_eq!(chart(&sizes), None);
        assert_eq!(chart(&[]), None);
    }

    #[test]
    fn equal_ratios_are_equal_distances() {
        let x = Log { low: 10.0, high: 1000.0 };
        assert!((x.at(100.0) - f64::midpoint(LEFT, RIGHT)).abs() < 1e-9);
        assert_eq!(x.ticks(), [10.0, 20.0, 50.0, 100.0, 200.0, 500.0]);
    }
}
