//! What the page says of flows' times: those with a target and their verdicts, and every time.

use super::figure::{Idle, Quantiles, Times, Verdict};
use super::html::verdict;
use super::model::Setting;
use super::svg::escape;
use super::words;

/// One figure, whichever kind it is of.
struct Row<'a> {
    label: String,
    best_path: &'a str,
    plain: Option<Times>,
    braid: Option<Times>,
    /// Which quantile of the time to the last byte is compared.
    compared: fn(Quantiles) -> f64,
    ratio: Option<f64>,
    target: Option<f64>,
    verdict: Option<Verdict>,
}

/// Those with a target, and all that went at once, in a table; nothing if there are none.
pub(super) fn judged(setting: &Setting) -> String {
    let shown = rows(setting).into_iter().filter(Row::shown);
    let rows: String = shown.map(|row| row.judged()).collect();
    if rows.is_empty() {
        return rows;
    }
    format!(
        "<div class=\"scroll\">\n<table class=\"flows\">\n<thead><tr><th>ms to the last byte</th>\
         <th>plain</th><th>braid</th><th>ratio</th><th>target</th><th>verdict</th></tr></thead>\n\
         {rows}</table>\n</div>\n"
    )
}

/// What idling costs, in a sentence.
pub(super) fn idle(idle: &Idle) -> String {
    format!("<p><b>Idle</b> {}.</p>\n", escape(words::idle(idle).trim_start_matches("idle: ")))
}

/// Every time measured, in a table.
pub(super) fn every_time(setting: &Setting) -> String {
    let rows: String = rows(setting).iter().map(Row::every_time).collect();
    format!(
        "<table>\n<thead><tr><th>ms, p50 / p90 / p99</th><th>n</th><th>connected</th>\
         <th>first byte</th><th>last byte</th></tr></thead>\n{rows}</table>\n"
    )
}

fn rows(setting: &Setting) -> Vec<Row<'_>> {
    let flows = setting.flow_times.iter().map(|flow| Row {
        label: flow.label(),
        best_path: &flow.best_path,
        plain: flow.plain,
        braid: flow.braid,
        compared: |q| q.p50,
        ratio: flow.ratio(),
        target: flow.target,
        verdict: flow.verdict(),
    });
    let bursts = setting.bursts.iter().map(|burst| Row {
        label: format!("{} at once", burst.label()),
        best_path: &burst.best_path,
        plain: burst.plain,
        braid: burst.braid,
        compared: |q| q.p90,
        ratio: burst.ratio(),
        target: burst.target,
        verdict: burst.verdict(),
    });
    flows.chain(bursts).collect()
}

impl Row<'_> {
    fn shown(&self) -> bool {
        self.target.is_some() || self.label.ends_with("at once")
    }

    fn judged(&self) -> String {
        let ms = |times: Option<Times>| {
            times.map_or(words::NONE.to_owned(), |t| words::ms((self.compared)(t.complete)))
        };
        let verdict = self.target.map_or(String::new(), |_| verdict(self.verdict));
        format!(
            "<tr><th>{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{verdict}</td></tr>\n",
            self.label,
            ms(self.plain),
            ms(self.braid),
            words::ratio(self.ratio),
            self.target.map_or(String::new(), |target| format!("{target:.2}")),
        )
    }

    fn every_time(&self) -> String {
        let cell = |q: Quantiles| format!("<td>{:.1} / {:.1} / {:.1}</td>", q.p50, q.p90, q.p99);
        let plain = format!("{} over {}", self.label, escape(self.best_path));
        let braid = format!("{} by braid", self.label);
        let named = [(plain, self.plain), (braid, self.braid)];
        let measured = named.into_iter().filter_map(|(name, times)| Some((name, times?)));
        let row = |(name, times): (String, Times)| {
            let cells = [times.connect, times.first_byte, times.complete].map(cell).concat();
            format!("<tr><th>{name}</th><td>{}</td>{cells}</tr>\n", times.n)
        };
        measured.map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::small_sample;
    use super::*;

    #[test]
    fn targets_have_verdicts_and_bursts_their_times() {
        let mut setting = small_sample().settings.remove(0);
        let table = judged(&setting);
        assert_eq!(table.matches("✓ met").count(), 5);
        assert!(table.contains("<th>200 of 10 kB at once</th>"), "{table}");
        setting.flow_times[0].target = Some(0.1);
        setting.bursts[0].braid = None;
        let table = judged(&setting);
        assert_eq!(table.matches("✗ missed").count(), 1);
        assert_eq!(table.matches("? not measured").count(), 1);
        assert!(every_time(&setting).contains("1 kB after silence by braid"));
    }

    #[test]
    fn nothing_judged_is_no_table() {
        assert_eq!(judged(&Setting::default()), "");
    }
}
