//! Numbers and verdicts in words, the same in the terminal and on the page.

use super::figure::{Proofs, Storm, Verdict};
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

/// The whole run's outcome in one sentence for each kind of figure.
pub(super) fn answer(results: &Results) -> Vec<String> {
    let tally = results.tally();
    let mut parts = vec![format!("{} of {} throughput targets met", tally.met, tally.total())];
    if tally.missed > 0 {
        parts.push(format!("{} missed", tally.missed));
    }
    if tally.unmeasured > 0 {
        parts.push(format!("{} not measured", tally.unmeasured));
    }
    parts.extend(of("storms clean", results.storms()));
    parts.extend(of("proofs hold", results.proofs()));
    if !results.failures.is_empty() {
        parts.push(format!("steps failed: {}", results.failures.len()));
    }
    parts
}

fn of(what: &str, tally: Tally) -> Option<String> {
    (tally.total() > 0).then(|| format!("{what}: {} of {}", tally.met, tally.total()))
}

/// The verdict on a whole setting: its throughput, its proofs, and its storm if it had one.
pub(super) fn setting_verdict(setting: &Setting) -> Option<Verdict> {
    let storm = setting.storm.as_ref().map(Storm::verdict);
    let proofs = setting.proofs.as_ref().map(Proofs::verdict);
    let needed = [setting.tally().verdict(), proofs];
    if needed.contains(&Some(Verdict::Missed)) || storm == Some(Verdict::Missed) {
        return Some(Verdict::Missed);
    }
    needed.iter().all(Option::is_some).then_some(Verdict::Met)
}

/// What a setting missed, in words; nothing if nothing.
pub(super) fn misses(setting: &Setting) -> String {
    let throughput = match setting.tally().missed {
        0 => None,
        1 => Some("1 throughput target".to_owned()),
        n => Some(format!("{n} throughput targets")),
    };
    let missed = Some(Verdict::Missed);
    let storm = setting.storm.as_ref().map(Storm::verdict) == missed;
    let proofs = setting.proofs.as_ref().map(Proofs::verdict) == missed;
    let others = [(storm, "the storm"), (proofs, "the proofs")];
    let others = others.into_iter().filter(|other| other.0).map(|other| other.1.to_owned());
    throughput.into_iter().chain(others).collect::<Vec<_>>().join(", ")
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
