//! The results as text for a terminal of 100 columns: the verdict first, then figure by figure.
//!
//! Owns the layout; the words for numbers are in `words`.

use super::change_lines::{self, Line};
use super::figure::{
    BlackHole, Burst, Direction, FlowTimes, Idle, Proofs, Quantiles, Storm, Taps, Throughput,
    Times, Verdict,
};
use super::model::{Results, Setting};
use super::words;

/// The widest line, in columns.
const WIDTH: usize = 100;

/// All results as text that ends in a newline; `colour` adds ANSI colours to verdicts.
#[must_use]
pub fn text(results: &Results, colour: bool) -> String {
    let mut page = Page { lines: Vec::new(), colour };
    page.head(results);
    page.summary(results);
    for setting in &results.settings {
        page.setting(setting);
    }
    page.failures(results);
    page.lines.join("\n") + "\n"
}

struct Page {
    lines: Vec<String>,
    colour: bool,
}

impl Page {
    fn line(&mut self, line: &str) {
        self.lines.push(line.trim_end().to_owned());
    }

    fn heading(&mut self, title: &str) {
        let rest = WIDTH.saturating_sub(title.chars().count() + 4);
        self.line("");
        self.line(&format!("── {title} {}", "─".repeat(rest)));
    }

    /// Text of any length on lines of at most [`WIDTH`] columns.
    fn prose(&mut self, indent: &str, text: &str) {
        let mut line = String::new();
        for word in text.split_whitespace() {
            let long = indent.len() + line.chars().count() + word.chars().count() + 1 > WIDTH;
            if long && !line.is_empty() {
                self.line(&format!("{indent}{line}"));
                line.clear();
            }
            line += if line.is_empty() { "" } else { " " };
            line += word;
        }
        self.line(&format!("{indent}{line}"));
    }

    /// Text that ends in a verdict, broken into lines as without its colour.
    fn judged_prose(&mut self, text: &str, verdict: Option<Verdict>) {
        let plain = words::verdict(verdict);
        self.prose("  ", &format!("{text}: {plain}"));
        let coloured = self.verdict(verdict);
        if let Some(last) = self.lines.last_mut()
            && let Some(start) = last.strip_suffix(&plain)
        {
            *last = format!("{start}{coloured}");
        }
    }

    fn verdict(&self, verdict: Option<Verdict>) -> String {
        let text = words::verdict(verdict);
        match (self.colour, verdict) {
            (false, _) => text,
            (true, Some(Verdict::Met)) => format!("\x1b[32m{text}\x1b[0m"),
            (true, Some(Verdict::Missed)) => format!("\x1b[1;31m{text}\x1b[0m"),
            (true, None) => format!("\x1b[33m{text}\x1b[0m"),
        }
    }

    fn head(&mut self, results: &Results) {
        let run = &results.run;
        let title = format!(
            "braid {} ({}) on Linux {}, {} cores, {}",
            run.version, run.commit, run.kernel, run.cores, run.date
        );
        self.prose("", &title);
        self.line("");
        let verdict = self.verdict(words::run_verdict(results));
        self.line(&format!("Verdict: {verdict}"));
        self.prose("  ", &format!("{}.", words::answer(results).join(", ")));
        for warning in &run.warnings {
            self.prose("  ", &format!("Note: {warning}."));
        }
    }

    fn summary(&mut self, results: &Results) {
        self.line("");
        self.line(&format!(
            "{:<18} {:<17} {:<17} {:<8} {:<7} {:<7} {:<7} verdict",
            "of the limit", "down", "up", "stall", "flows", "storm", "proofs"
        ));
        for setting in &results.settings {
            let reached = |direction| words::percents(setting.reached_percent(direction));
            let stall = setting.black_holes.iter().map(|hole| hole.longest_stall_ms);
            let stall = stall.reduce(f64::max).map_or(words::NONE.to_owned(), words::ms);
            let flows = words::met_of(setting.flows());
            let storm = short(setting.storm.as_ref().map(Storm::verdict));
            let proofs = short(setting.proved());
            let verdict = self.verdict(words::setting_verdict(setting));
            self.line(&format!(
                "  {:<16} {:<17} {:<17} {stall:<8} {flows:<7} {storm:<7} {proofs:<7} {verdict}",
                clip(&setting.title(), 16),
                reached(Direction::Down),
                reached(Direction::Up)
            ));
        }
    }

    fn setting(&mut self, setting: &Setting) {
        self.heading(&clip(&setting.title(), WIDTH - 8));
        self.prose("  ", &format!("{}:", setting.links));
        for path in &setting.paths {
            let name = clip(&path.name, 12);
            self.line(&format!("    {name:<12} down  {}", words::link(&path.down)));
            self.line(&format!("    {:<12} up    {}", "", words::link(&path.up)));
        }
        let (boxes, hosts) = (&setting.box_congestion, &setting.host_congestion);
        self.prose(
            "  ",
            &format!("Congestion control: {boxes} in the boxes, {hosts} at the ends."),
        );
        self.throughput(&setting.throughput);
        self.flow_times(&setting.flow_times);
        self.bursts(&setting.bursts);
        self.idle(setting.idle.as_ref());
        self.black_holes(&setting.black_holes);
        self.changes(setting);
        self.storm(setting.storm.as_ref());
        self.proofs(setting.proofs.as_ref());
        self.taps(setting.taps.as_ref());
    }

    fn throughput(&mut self, figures: &[Throughput]) {
        if figures.is_empty() {
            return;
        }
        self.line("");
        self.line(&format!(
            "  {:<23} {:>22} {:>8} {:>8} {:>9} {:>7}  verdict",
            "throughput, Mbit/s", "each path alone", "limit", "braid", "reached", "target"
        ));
        for figure in figures {
            let verdict = self.verdict(figure.verdict());
            self.line(&format!(
                "    {:<21} {:>22} {:>8} {:>8} {:>9} {:>5} %  {verdict}",
                label(figure),
                alone(figure),
                words::mbit(figure.limit()),
                words::mbit(figure.braid.median()),
                words::percent(figure.reached_percent()),
                figure.target_percent
            ));
        }
    }

    fn flow_times(&mut self, sizes: &[FlowTimes]) {
        if sizes.is_empty() {
            return;
        }
        self.line("");
        self.line(&flow_row(
            "  flow times, ms",
            ["plain p50 / p90 / p99", "braid p50 / p90 / p99"],
            ["ratio", "target", "verdict"],
        ));
        for flow in sizes {
            self.line(&flow_row(
                &format!("    {}", flow.label()),
                [&complete(flow.plain), &complete(flow.braid)],
                [&words::ratio(flow.ratio()), &target(flow.target), &self.judged(flow.verdict())],
            ));
        }
    }

    fn bursts(&mut self, bursts: &[Burst]) {
        if bursts.is_empty() {
            return;
        }
        self.line("");
        self.line(&flow_row(
            "  flows at once, ms",
            ["plain p50 / p90", "braid p50 / p90"],
            ["ratio", "target", "verdict"],
        ));
        for burst in bursts {
            let both = |of: fn(Times) -> Quantiles| {
                [burst.plain, burst.braid].map(|times| two(times.map(of)))
            };
            let [plain, braid] = both(|times| times.complete);
            let verdict = self.judged(burst.verdict());
            self.line(&flow_row(
                &format!("    {}", burst.label()),
                [&plain, &braid],
                [&words::ratio(burst.ratio()), &target(burst.target), &verdict],
            ));
            let [plain, braid] = both(|times| times.first_byte);
            self.line(&flow_row("      to the first byte", [&plain, &braid], [""; 3]));
        }
    }

    fn idle(&mut self, idle: Option<&Idle>) {
        let Some(idle) = idle else { return };
        self.line("");
        self.prose("  ", &words::idle(idle));
    }

    /// The verdict where there is one to be had.
    fn judged(&self, verdict: Option<Verdict>) -> String {
        if verdict.is_some() { self.verdict(verdict) } else { String::new() }
    }

    fn black_holes(&mut self, holes: &[BlackHole]) {
        for hole in holes {
            let back = hole.recovered_ms.map_or("never back".to_owned(), |ms| {
                format!("90 % back {} after its return", words::ms(ms))
            });
            self.line("");
            self.prose(
                "  ",
                &format!(
                    "black hole on {} ({}): longest stall {}, {back}",
                    hole.path,
                    hole.direction,
                    words::ms(hole.longest_stall_ms)
                ),
            );
        }
    }

    fn changes(&mut self, setting: &Setting) {
        for Line { head, text, verdict } in change_lines::of(setting) {
            self.line("");
            match verdict {
                Some(verdict) => self.judged_prose(&format!("{head}: {text}"), verdict),
                None => self.prose("  ", &format!("{head}: {text}")),
            }
        }
    }

    fn storm(&mut self, storm: Option<&Storm>) {
        let Some(storm) = storm else { return };
        let verdict = self.verdict(Some(storm.verdict()));
        self.line(&format!(
            "  storm: {} flows, {}: {} wrong bytes, {} hung, descriptors {} → {}: {verdict}",
            words::count(storm.flows),
            words::bytes(storm.bytes),
            storm.wrong_bytes,
            storm.hung_flows,
            storm.descriptors_before,
            storm.descriptors_after
        ));
    }

    fn proofs(&mut self, proofs: Option<&Proofs>) {
        let Some(proofs) = proofs else { return };
        let plain: u64 = proofs.paths.iter().map(|path| path.forbidden).sum();
        let examined: u64 = proofs.wires().map(|wire| wire.examined).sum();
        let verdict = self.verdict(Some(proofs.verdict()));
        self.line(&format!(
            "  proofs: {plain} plain packets on paths, {} routes round braid, {} MPTCP at the ends",
            proofs.lan_routes.len(),
            proofs.host.forbidden + proofs.sink.forbidden
        ));
        self.line(&format!("          in {} packets examined: {verdict}", words::count(examined)));
    }

    fn taps(&mut self, taps: Option<&Taps>) {
        let Some(taps) = taps else { return };
        self.judged_prose(&format!("taps: {}", words::taps(taps)), Some(taps.verdict()));
    }

    fn failures(&mut self, results: &Results) {
        if results.failures.is_empty() {
            return;
        }
        self.heading("failed");
        for failure in &results.failures {
            let setting = failure.setting.as_deref().unwrap_or("run");
            self.prose("  ", &format!("{setting}: {}: {}", failure.step, failure.message));
        }
    }
}

/// Direction, family and streams in columns.
fn label(figure: &Throughput) -> String {
    let noun = if figure.streams == 1 { "stream" } else { "streams" };
    format!("{:4}  {}  {} {noun}", figure.direction, figure.family, figure.streams)
}

/// What each path carries alone, as a sum; only how many there are where that is too long.
fn alone(figure: &Throughput) -> String {
    let paths: Vec<_> = figure.alone.iter().map(|a| words::mbit(a.goodput.median())).collect();
    let text = paths.join(" + ");
    if text.len() <= 22 { text } else { format!("{} paths", paths.len()) }
}

fn complete(times: Option<Times>) -> String {
    times.map_or(words::NONE.to_owned(), |times| {
        let q = times.complete;
        format!("{:.0} / {:.0} / {:.0}", q.p50, q.p90, q.p99)
    })
}

fn two(times: Option<Quantiles>) -> String {
    times.map_or(words::NONE.to_owned(), |q| format!("{:.0} / {:.0}", q.p50, q.p90))
}

fn target(target: Option<f64>) -> String {
    target.map_or(String::new(), |target| format!("{target:.2}"))
}

/// A row of flows' times: plain and braid, then ratio, target and verdict.
fn flow_row(label: &str, times: [&str; 2], end: [&str; 3]) -> String {
    let ([plain, braid], [ratio, target, verdict]) = (times, end);
    format!("{label:<27} {plain:>22} {braid:>22} {ratio:>5} {target:>6}  {verdict}")
}

/// A verdict for a narrow column.
fn short(verdict: Option<Verdict>) -> String {
    verdict.map_or(words::NONE.to_owned(), |verdict| verdict.to_string())
}

/// The first `width` characters.
fn clip(text: &str, width: usize) -> String {
    text.chars().take(width).collect()
}

#[cfg(test)]
mod tests {
    use super::super::sample::{sample, small_sample};
    use super::*;

    #[test]
    fn text_of_one_setting() {
        assert_eq!(text(&small_sample(), false), include_str!("table.golden.txt"));
    }

    #[test]
    fn lines_fit_the_terminal_and_colours_change_no_letter() {
        let plain = text(&sample(), false);
        for line in plain.lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
        let coloured = text(&sample(), true);
        let bare = ["\x1b[32m", "\x1b[1;31m", "\x1b[33m", "\x1b[0m"]
            .iter()
            .fold(coloured.clone(), |text, code| text.replace(code, ""));
        assert!(coloured.contains("\x1b[1;31mMISSED\x1b[0m"));
        assert_eq!(bare, plain);
    }

    #[test]
    fn what_was_not_measured_is_named() {
        let text = text(&sample(), false);
        assert!(text.contains("not measured"));
        assert!(text.contains("never back"));
        assert!(text.contains("far / cubic: down, IPv6, 8 streams, braid: no byte for 10 s"));
    }
}
