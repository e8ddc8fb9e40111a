//! What there is to say of changing paths and of used up carriers, line by line, for the terminal and
//! for the page.

use super::beyond::{Beyond, SharedGoodput, SharedTimes};
use super::change::{Degraded, Flapping, Outages, Spread};
use super::figure::{Flap, Verdict};
use super::model::Setting;
use super::words;

/// One figure in words.
pub(super) struct Line {
    /// What was measured.
    pub(super) head: &'static str,
    /// What came of it.
    pub(super) text: String,
    /// Whether it is good enough, where it is judged; see [`words::verdict`] for none.
    pub(super) verdict: Option<Option<Verdict>>,
}

/// All of a setting, in the order of the experiment.
pub(super) fn of(setting: &Setting) -> Vec<Line> {
    let outages = setting.outages.iter().map(|figure| Line {
        head: "outages",
        text: outages(figure),
        verdict: figure.target.map(|_| figure.verdict()),
    });
    let flapping = setting.flapping.iter().map(|figure| Line {
        head: "flapping",
        text: flapping(figure),
        verdict: Some(figure.verdict()),
    });
    let degraded = setting.degraded.iter().map(|figure| Line {
        head: "degraded",
        text: degraded(figure),
        verdict: Some(figure.verdict()),
    });
    let beyond = setting.beyond.iter().map(|figure| Line {
        head: "beyond the carriers",
        text: beyond(figure),
        verdict: None,
    });
    outages.chain(flapping).chain(degraded).chain(beyond).collect()
}

fn outages(figure: &Outages) -> String {
    let target = figure.target;
    let stall = target.map_or(String::new(), |target| {
        let (most, never) = (words::ms(target.stall_ms), words::ms(target.worst_stall_ms));
        format!(" (19 of 20 within {most}, none above {never})")
    });
    let back = target.map_or(String::new(), |target| {
        format!(" (19 of 20 within {})", words::ms(target.back_ms))
    });
    format!(
        "{} of paths, {} in {} downloads, as median / 95 % / worst: longest stall {}{stall}; {} % of \
         {:.1} Mbit/s back {} after the return{back}; downloads broken: {}, not measured: {}",
        figure.kind,
        figure.outages.len(),
        figure.runs,
        spread(figure.stalls()),
        figure.bar_percent,
        figure.limit_mbit(),
        spread(figure.backs()),
        figure.broken,
        figure.unmeasured
    )
}

fn spread(spread: Option<Spread>) -> String {
    let time = |ms: f64| if ms.is_finite() { words::ms(ms) } else { "never".to_owned() };
    spread.map_or(words::NONE.to_owned(), |spread| {
        [spread.median, spread.p95, spread.worst].map(time).join(" / ")
    })
}

fn flapping(figure: &Flapping) -> String {
    let how = match figure.kind {
        Flap::Silence => "silent",
        Flap::CarrierLoss => "without carrier",
    };
    format!(
        "each path in turn {how} for {} s, then all back for {} s, {:.0} s in all: {:.1} Mbit/s of \
         {:.1} that the live links allow, {} (target {} %); {} of {} flows lost",
        figure.half_s,
        figure.half_s,
        figure.seconds,
        figure.mbit(),
        figure.allowed_mbit(),
        words::percent(figure.reached_percent()),
        figure.target_percent,
        figure.lost,
        words::count(figure.flows)
    )
}

fn degraded(figure: &Degraded) -> String {
    format!(
        "{} on {}: {:.1} Mbit/s before, {:.1} in the {} s from then on, {} of the {:.1} that plain \
         routing carries over the rest (target {} %); longest stall {}",
        figure.trouble,
        figure.path,
        figure.before_mbit,
        figure.mbit,
        figure.seconds,
        words::percent(figure.reached_percent()),
        figure.others_mbit,
        figure.target_percent,
        words::ms(figure.stall_ms)
    )
}

fn beyond(figure: &Beyond) -> String {
    let goodput = |figure: &SharedGoodput| {
        let [free, used_up] = [&figure.free, &figure.used_up].map(|g| words::mbit(g.median()));
        let ratio = part(figure.ratio());
        format!("one stream {} {used_up} Mbit/s by {free}, {ratio}", figure.direction)
    };
    let times = |figure: &SharedTimes| {
        let time = |times: Option<super::figure::Times>| {
            times.map_or(words::NONE.to_owned(), |times| words::ms(times.complete.p50))
        };
        let (free, used_up, ratio) =
            (time(figure.free), time(figure.used_up), part(figure.ratio()));
        format!("{} in {used_up} by {free}, {ratio}", words::bytes(figure.size))
    };
    let all: Vec<_> =
        figure.goodput.iter().map(goodput).chain(figure.times.iter().map(times)).collect();
    format!(
        "{} idle flows at a bound of {}, by as many at the usual one: {}",
        figure.idle_flows,
        figure.carriers,
        all.join("; ")
    )
}

/// A ratio that has no target to be rounded away from.
fn part(ratio: Option<f64>) -> String {
    ratio.map_or(words::NONE.to_owned(), |ratio| format!("{ratio:.2}"))
}

#[cfg(test)]
mod tests {
    use super::super::sample::small_sample;
    use super::*;

    #[test]
    fn each_figure_has_its_line_and_only_what_is_judged_a_verdict() {
        let mut setting = small_sample().settings.remove(0);
        let heads: Vec<_> = of(&setting).iter().map(|line| line.head).collect();
        assert_eq!(
            heads,
            ["outages", "outages", "flapping", "degraded", "degraded", "beyond the carriers"]
        );
        setting.outages[0].outages[..2].iter_mut().for_each(|outage| outage.back_ms = None);
        setting.outages[1].target = None;
        let lines = of(&setting);
        assert!(lines[0].text.contains("/ never after the return"), "{}", lines[0].text);
        assert_eq!(lines[0].verdict, Some(Some(Verdict::Missed)));
        assert_eq!((lines[1].verdict, lines[5].verdict), (None, None));
        assert_eq!(of(&Setting::default()).len(), 0);
    }
}
