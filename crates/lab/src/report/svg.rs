//! A small writer of SVG drawings.
//!
//! Owns elements, number format, scales and escaping. What is drawn is the charts' affair; how it
//! looks is said by the classes of `style.css`.

use std::fmt::{Display, Write};

/// Colours that stay apart for the colour-blind (Okabe and Ito), one a path and then over again.
const PATH_COLOURS: [&str; 6] = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#8C6D00"];

/// The colour of the path with this index in its setting.
pub(super) fn path_colour(index: usize) -> &'static str {
    PATH_COLOURS[index % PATH_COLOURS.len()]
}

/// Text with everything escaped that HTML or SVG would take for its own.
pub(super) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe += "&amp;",
            '<' => safe += "&lt;",
            '>' => safe += "&gt;",
            '"' => safe += "&quot;",
            '\'' => safe += "&#39;",
            c if c.is_control() => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}

/// Where a text's anchor is.
#[derive(Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// A drawing in the making. Lengths are in units that a page of full width shows as pixels.
pub(super) struct Svg {
    body: String,
    width: f64,
    height: f64,
    label: String,
}

impl Svg {
    /// The width of a chart: two fit side by side on A4, one on a phone.
    pub(super) const WIDTH: f64 = 460.0;

    /// An empty chart; `label` says in words what it shows.
    pub(super) fn new(height: f64, label: &str) -> Self {
        Self::sized(Self::WIDTH, height, label)
    }

    /// An empty drawing of any width.
    pub(super) fn sized(width: f64, height: f64, label: &str) -> Self {
        Self { body: String::new(), width, height, label: escape(label) }
    }

    pub(super) fn rect(&mut self, class: &str, at: (f64, f64), size: (f64, f64)) {
        self.filled_rect(class, at, size, None);
    }

    /// A rectangle in a path's colour.
    pub(super) fn path_rect(&mut self, class: &str, at: (f64, f64), size: (f64, f64), path: usize) {
        self.filled_rect(class, at, size, Some(path_colour(path)));
    }

    fn filled_rect(&mut self, class: &str, at: (f64, f64), size: (f64, f64), fill: Option<&str>) {
        let (x, y, width, height) = (n(at.0), n(at.1), n(size.0), n(size.1));
        let fill = fill.map_or(String::new(), |colour| format!(" fill=\"{colour}\""));
        self.push(&format!(
            "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\"{fill}/>"
        ));
    }

    pub(super) fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let (x1, y1, x2, y2) = (n(from.0), n(from.1), n(to.0), n(to.1));
        self.push(&format!(
            "<line class=\"{class}\" x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\"/>"
        ));
    }

    pub(super) fn circle(&mut self, class: &str, at: (f64, f64), radius: f64) {
        let (x, y, radius) = (n(at.0), n(at.1), n(radius));
        self.push(&format!("<circle class=\"{class}\" cx=\"{x}\" cy=\"{y}\" r=\"{radius}\"/>"));
    }

    /// A closed outline in a path's colour.
    pub(super) fn area(&mut self, points: &[(f64, f64)], path: usize) {
        let mut outline = String::new();
        for (index, (x, y)) in points.iter().enumerate() {
            let command = if index == 0 { 'M' } else { 'L' };
            // Writing to a string cannot fail.
            let _ = write!(outline, "{command}{} {}", n(*x), n(*y));
        }
        let colour = path_colour(path);
        self.push(&format!("<path class=\"area\" fill=\"{colour}\" d=\"{outline}Z\"/>"));
    }

    pub(super) fn text(&mut self, class: &str, at: (f64, f64), anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let (x, y, text) = (n(at.0), n(at.1), escape(text));
        self.push(&format!(
            "<text class=\"{class}\" x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{text}</text>"
        ));
    }

    /// The finished drawing as an element for a page.
    pub(super) fn finish(self) -> String {
        let (width, height, label) = (n(self.width), n(self.height), self.label);
        format!(
            "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{label}\">\n{}</svg>\n",
            self.body
        )
    }

    fn push(&mut self, element: &str) {
        self.body += element;
        self.body.push('\n');
    }
}

/// A coordinate to a tenth; what is no number is drawn at zero rather than break the drawing.
fn n(value: f64) -> impl Display {
    if value.is_finite() { (value * 10.0).round() / 10.0 } else { 0.0 }
}

/// A linear scale from values that begin at zero to coordinates.
#[derive(Clone, Copy)]
pub(super) struct Scale {
    /// The value at the far end, a whole number of steps.
    pub(super) top: f64,
    step: f64,
    from: f64,
    to: f64,
}

impl Scale {
    /// A scale on which `top` has room, with about `ticks` round steps.
    pub(super) fn new(top: f64, ticks: f64, from: f64, to: f64) -> Self {
        let top = if top.is_finite() && top > 0.0 { top } else { 1.0 };
        let step = round_step(top / ticks);
        Self { top: (top / step - 1e-9).ceil() * step, step, from, to }
    }

    /// A scale that ends at `top`, whatever its steps.
    pub(super) fn exact(top: f64, ticks: f64, from: f64, to: f64) -> Self {
        let scale = Self::new(top, ticks, from, to);
        Self { top: if top > 0.0 { top } else { scale.top }, ..scale }
    }

    /// The coordinate of a value.
    pub(super) fn at(self, value: f64) -> f64 {
        self.from + (self.to - self.from) * value / self.top
    }

    /// The values to be marked on the axis, with their texts.
    pub(super) fn ticks(self) -> impl Iterator<Item = (f64, String)> {
        let digits = if self.step < 1.0 { 1 } else { 0 };
        let steps = (self.top / self.step + 1e-9).floor() as u32;
        (0..=steps).map(move |index| {
            let value = f64::from(index) * self.step;
            (value, format!("{value:.digits$}"))
        })
    }
}

/// The next of 1, 2, 5 times a power of ten that is not below `least`.
fn round_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|f| f * power >= least * (1.0 - 1e-9));
    factor.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_have_round_steps() {
        let ticks = |top| Scale::new(top, 4.0, 0.0, 100.0).ticks().map(|t| t.1).collect::<Vec<_>>();
        assert_eq!(ticks(191.0), ["0", "50", "100", "150", "200"]);
        assert_eq!(ticks(14.3), ["0", "5", "10", "15"]);
        assert_eq!(ticks(1.0), ["0.0", "0.5", "1.0"]);
        assert_eq!(ticks(f64::NAN), ticks(1.0));
        assert_eq!(Scale::new(200.0, 4.0, 10.0, 110.0).at(100.0), 60.0);
    }

    #[test]
    fn text_cannot_become_markup() {
        let mut svg = Svg::new(10.0, "a \"b\"");
        svg.text("c", (f64::NAN, 1.26), Anchor::End, "<script>&\u{1}'");
        let drawn = svg.finish();
        assert!(drawn.contains("x=\"0\" y=\"1.3\""));
        assert!(drawn.contains(">&lt;script&gt;&amp; &#39;</text>"));
        assert!(drawn.contains("aria-label=\"a &quot;b&quot;\""));
    }
}
