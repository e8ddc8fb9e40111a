//! Numbers and verdicts in words, the same in the terminal and on the page.

use super::figure::{Idle, Proofs, Storm, Taps, Verdict};
use super::model::{Link, Range, Results, Setting, Tally};

/// What stands where a figure was not measured.
pub(super) const NONE: &str = "–";

/// A value in Mbit/s with one digit after the point.
pub(super) fn mbit(value: Option<f64>) -> String {
    value.map_or(NONE.to_owned(), |value| format!("{value:.1}"))
}

/// Per cent with one digit; never rounded up to a target it misses.
pub(super) fn percent(value: Option<f64>) -> String {
    value.map_or(NONE.to_owned(), |value| format!("{:.1} %", floor_tenth(value)))
}

/// A range of per cent; its ends are never rounded up either.
pub(super) fn percents(range: Option<Range>) -> String {
    let Some(Range { low, high }) = range else { return NONE.to_owned() };
    span(Range { low: floor_tenth(low), high: floor_tenth(high) }) + " %"
}

/// A range with one digit, in one figure where both ends look the same.
pub(super) fn span(range: Range) -> String {
    let (low, high) = (format!("{:.1}", range.low), format!("{:.1}", range.high));
    if low == high { low } else { format!("{low} to {high}") }
}

fn floor_tenth(value: f64) -> f64 {
    (value * 10.0 + 1e-6).floor() / 10.0
}

/// A time in ms, or in s from 10 s on.
pub(super) fn ms(value: f64) -> String {
    match value {
        0.0..10.0 => format!("{value:.1} ms"),
        10.0..10_000.0 => format!("{value:.0} ms"),
        _ => format!("{:.1} s", value / 1000.0),
    }
}

/// A number of bytes in decimal units, as flow sizes are given.
pub(super) fn bytes(value: u64) -> String {
    match value {
        0..1_000 => format!("{value} B"),
        1_000..1_000_000 => trimmed(value as f64 / 1e3, "kB"),
        1_000_000..1_000_000_000 => trimmed(value as f64 / 1e6, "MB"),
        _ => trimmed(value as f64 / 1e9, "GB"),
    }
}

fn trimmed(value: f64, unit: &str) -> String {
    let text = format!("{value:.1}");
    format!("{} {unit}", text.strip_suffix(".0").unwrap_or(&text))
}

/// A count with its thousands apart.
pub(super) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// With its first letter as at the beginning of a sentence.
pub(super) fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

/// A verdict, or that there is none.
pub(super) fn verdict(verdict: Option<Verdict>) -> String {
    verdict.map_or("not measured".to_owned(), |verdict| verdict.to_string())
}

/// One direction of a link.
pub(super) fn link(link: &Link) -> String {
    let mut text = format!("{} Mbit/s, {} ms", link.rate_mbit, link.delay_ms);
    if link.jitter_ms > 0.0 {
        text += &format!(" ± {} ms", link.jitter_ms);
    }
    if link.loss_percent > 0.0 {
        text += &format!(", {} % lost", link.loss_percent);
    }
    text + &format!(", queue {} ms", link.queue_ms)
}

/// Braid's time as a part of plain routing's; never rounded down to a target it misses.
pub(super) fn ratio(value: Option<f64>) -> String {
    value.map_or(NONE.to_owned(), |value| format!("{:.2}", (value * 100.0 - 1e-6).ceil() / 100.0))
}

/// How many of the figures with a target met it.
pub(super) fn met_of(tally: Tally) -> String {
    if tally.total() == 0 { NONE.to_owned() } else { format!("{} of {}", tally.met, tally.total()) }
}

/// What idling costs.
pub(super) fn idle(idle: &Idle) -> String {
    let hourly = |bytes: u64| bytes_each_hour(idle.per_hour(bytes));
    let path = |path: &super::figure::IdlePath| {
        format!("{} {} up, {} down", path.path, hourly(path.up_bytes), hourly(path.down_bytes))
    };
    let paths: Vec<_> = idle.paths.iter().map(path).collect();
    format!(
        "idle: {} an hour over all paths ({}), from {} s",
        bytes_each_hour(idle.bytes_per_hour()),
        paths.join("; "),
        idle.seconds.round()
    )
}

fn bytes_each_hour(value: f64) -> String {
    bytes(value.round() as u64)
}

/// What could be read on the paths.
pub(super) fn taps(taps: &Taps) -> String {
    let examined: u64 = taps.paths.iter().map(|path| path.examined).sum();
    let examined = count(examined);
    match taps.found.as_slice() {
        [] => format!("nothing of a flow to be read in {examined} packets on the paths"),
        found => format!("to be read in {examined} packets on the paths: {}", found.join("; ")),
    }
}

/// The whole run's outcome in one sentence for each kind of figure.
pub(super) fn answer(results: &Results) -> Vec<String> {
    let (tally, flows, changes) = (results.tally(), results.flows(), results.changes());
    let mut parts = Vec::new();
    if tally.total() > 0 || flows.total() + changes.total() == 0 {
        parts.push(format!("{} throughput targets met", met_of_all(tally)));
    }
    if flows.total() > 0 {
        parts.push(format!("{} flow targets met", met_of_all(flows)));
    }
    if changes.total() > 0 {
        parts.push(format!("{} targets of changing paths met", met_of_all(changes)));
    }
    let missed = tally.missed + flows.missed + changes.missed;
    if missed > 0 {
        parts.push(format!("{missed} missed"));
    }
    let unmeasured = tally.unmeasured + flows.unmeasured + changes.unmeasured;
    if unmeasured > 0 {
        parts.push(format!("{unmeasured} not measured"));
    }
    parts.extend(of("storms clean", results.storms()));
    parts.extend(of("proofs hold", results.proofs()));
    parts.extend(of("paths tell nothing", results.taps()));
    if !results.failures.is_empty() {
        parts.push(format!("steps failed: {}", results.failures.len()));
    }
    parts
}

fn met_of_all(tally: Tally) -> String {
    format!("{} of {}", tally.met, tally.total())
}

fn of(what: &str, tally: Tally) -> Option<String> {
    (tally.total() > 0).then(|| format!("{what}: {}", met_of_all(tally)))
}

/// The verdict on a whole setting: on all that it was measured for. With throughput, proofs are
/// needed too.
pub(super) fn setting_verdict(setting: &Setting) -> Option<Verdict> {
    let figures = [setting.tally(), setting.flows(), setting.changes()];
    let figures = figures.into_iter().filter(|tally| tally.total() > 0).map(Tally::verdict);
    let storm = setting.storm.as_ref().map(|storm| Some(storm.verdict()));
    let proofs = setting.proofs.as_ref().map(|proofs| Some(proofs.verdict()));
    let proofs = proofs.or((setting.tally().total() > 0).then_some(None));
    let taps = setting.taps.as_ref().map(|taps| Some(taps.verdict()));
    let all: Vec<_> = figures.chain(storm).chain(proofs).chain(taps).collect();
    if all.contains(&Some(Verdict::Missed)) {
        return Some(Verdict::Missed);
    }
    (!all.is_empty() && all.iter().all(Option::is_some)).then_some(Verdict::Met)
}

/// What a setting missed, in words; nothing if nothing.
pub(super) fn misses(setting: &Setting) -> String {
    let targets = |kind: &str, missed: usize| match missed {
        0 => None,
        1 => Some(format!("1 {kind} target")),
        n => Some(format!("{n} {kind} targets")),
    };
    let figures = [
        targets("throughput", setting.tally().missed),
        targets("flow", setting.flows().missed),
        targets("changing path", setting.changes().missed),
    ];
    let missed = Some(Verdict::Missed);
    let others = [
        (setting.storm.as_ref().map(Storm::verdict) == missed, "the storm"),
        (setting.proofs.as_ref().map(Proofs::verdict) == missed, "the proofs"),
        (setting.taps.as_ref().map(Taps::verdict) == missed, "the taps"),
    ];
    let others = others.into_iter().filter(|other| other.0).map(|other| other.1.to_owned());
    figures.into_iter().flatten().chain(others).collect::<Vec<_>>().join(", ")
}

/// The verdict on the run: missed if any setting missed, met only if nothing is lacking.
pub(super) fn run_verdict(results: &Results) -> Option<Verdict> {
    let verdicts: Vec<_> = results.settings.iter().map(setting_verdict).collect();
    if verdicts.contains(&Some(Verdict::Missed)) {
        return Some(Verdict::Missed);
    }
    let whole = !verdicts.is_empty() && results.failures.is_empty();
    (whole && verdicts.iter().all(Option::is_some)).then_some(Verdict::Met)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn per_cent_is_never_rounded_up_to_a_target() {
        assert_eq!(percent(Some(94.999)), "94.9 %");
        assert_eq!(percent(Some(95.0)), "95.0 %");
        assert_eq!(percents(Some(Range { low: 97.02, high: 97.04 })), "97.0 %");
    }

    #[test]
    fn a_ratio_is_never_rounded_down_to_a_target() {
        assert_eq!([ratio(Some(0.5501)), ratio(Some(0.55)), ratio(None)], ["0.56", "0.55", "–"]);
    }

    #[test]
    fn a_setting_is_judged_by_what_it_was_measured_for() {
        let mut setting = super::super::sample::small_sample().settings.remove(0);
        assert_eq!(setting_verdict(&setting), Some(Verdict::Met));
        setting.proofs = None;
        assert_eq!(setting_verdict(&setting), None);
        setting.throughput.clear();
        assert_eq!(setting_verdict(&setting), Some(Verdict::Met));
        setting.bursts[0].braid = None;
        assert_eq!(setting_verdict(&setting), None);
        setting.flow_times[0].target = Some(0.1);
        setting.taps.as_mut().unwrap().paths[0].forbidden = 1;
        assert_eq!(setting_verdict(&setting), Some(Verdict::Missed));
        assert_eq!(misses(&setting), "1 flow target, the taps");
    }

    #[test]
    fn misses_are_named() {
        let results = super::super::sample::sample();
        let misses: Vec<_> = results.settings.iter().map(misses).collect();
        assert_eq!(misses[0], "");
        assert_eq!(misses[2], "8 throughput targets");
        assert_eq!(misses[5], "the storm");
        assert_eq!(run_verdict(&results), Some(Verdict::Missed));
    }

    #[test]
    fn units_follow_the_size() {
        assert_eq!([ms(3.21), ms(129.4), ms(12_000.0)], ["3.2 ms", "129 ms", "12.0 s"]);
        assert_eq!([bytes(1000), bytes(1_500_000)], ["1 kB", "1.5 MB"]);
        assert_eq!([count(7), count(1_310_720)], ["7", "1,310,720"]);
    }
}
