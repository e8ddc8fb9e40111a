//! The page for people: one file with its style and drawings in it, for screen, phone and paper.
//!
//! Owns the page's frame: question and answer, the overview of all settings, the machine, and how
//! to run it again. What is said of one setting is in `section`.

use super::figure::{Direction, Storm, Verdict};
use super::model::{Failure, Results, Run, Setting};
use super::strip::Axis;
use super::svg::escape;
use super::{section, words};

const STYLE: &str = include_str!("style.css");

/// The whole page.
#[must_use]
pub fn page(results: &Results) -> String {
    let sections: String = results.settings.iter().map(section::setting).collect();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>braid: {title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <header>\n{head}</header>\n<main>\n{overview}{failures}{key}{machine}{sections}</main>\n\
         </body>\n</html>\n",
        title = escape(&words::answer(results)[0]),
        head = head(results),
        overview = overview(results),
        failures = failures(&results.failures),
        key = KEY,
        machine = machine(results),
    )
}

fn head(results: &Results) -> String {
    let run = &results.run;
    let answer = escape(&words::answer(results).join(" · "));
    let warnings: String = run
        .warnings
        .iter()
        .map(|w| format!("<p class=\"warning\">Note: {}.</p>\n", escape(w)))
        .collect();
    format!(
        "<p class=\"run\">braid {} ({}) · Linux {} · {}</p>\n\
         <h1>How much of what the links allow does braid reach?</h1>\n\
         <p class=\"answer\">{}: {answer}</p>\n{warnings}",
        escape(&run.version),
        escape(&run.commit),
        escape(&run.kernel),
        escape(&run.date),
        verdict(words::run_verdict(results)),
    )
}

/// A verdict that colour alone does not tell.
pub(super) fn verdict(verdict: Option<Verdict>) -> String {
    let (class, mark) = match verdict {
        Some(Verdict::Met) => ("met", "✓"),
        Some(Verdict::Missed) => ("missed", "✗"),
        None => ("unmeasured", "?"),
    };
    let text = words::verdict(verdict).to_lowercase();
    format!("<span class=\"verdict {class}\">{mark} {text}</span>")
}

fn overview(results: &Results) -> String {
    let axis = Axis::new(results);
    let rows: String = results.settings.iter().map(|setting| row(setting, axis)).collect();
    format!(
        "<figure class=\"overview\">\n<div class=\"scroll\">\n<table>\n<thead><tr><th>links</th>\
         <th>verdict</th><th>reached down{head}</th><th>reached up{head}</th>\
         <th class=\"number\">longest stall</th><th class=\"number\">flows</th>\
         <th class=\"mark\">storm</th>\
         <th class=\"mark\">proofs</th></tr></thead>\n<tbody>\n{rows}</tbody>\n\
         </table>\n</div>\n<figcaption>Each dot is one throughput figure in per cent of what the \
         links allow; the green tick is its target, an open dot misses it. Longest stall: while \
         one path swallowed everything. Flows: flow times that met their target. Storm: many \
         flows, each byte checked. Proofs: nothing went round braid, and nothing can be read on \
         the paths.</figcaption>\n</figure>\n",
        head = axis.head(),
    )
}

fn row(setting: &Setting, axis: Axis) -> String {
    let reached = |direction| {
        let text = words::percents(setting.reached_percent(direction));
        let strip = axis.strip(setting.throughput_of(direction));
        format!("<td class=\"reached\" data-label=\"{direction}\">{strip}<span>{text}</span></td>")
    };
    let stall = setting.black_holes.iter().map(|hole| hole.longest_stall_ms).reduce(f64::max);
    format!(
        "<tr><th><a href=\"#{id}\">{title}</a><small>{links}</small></th><td>{verdict}</td>\
         {down}{up}<td class=\"number\" data-label=\"stall\">{stall}</td>\
         <td class=\"number\" data-label=\"flows\">{flows}</td>{storm}{proofs}</tr>\n",
        id = section::id(setting),
        title = escape(&setting.title()),
        links = escape(&setting.links),
        verdict = verdict(words::setting_verdict(setting)),
        down = reached(Direction::Down),
        up = reached(Direction::Up),
        stall = stall.map_or(words::NONE.to_owned(), words::ms),
        flows = words::met_of(setting.flows()),
        storm = mark("storm", setting.storm.as_ref().map(Storm::verdict)),
        proofs = mark("proofs", setting.proved()),
    )
}

/// A verdict in a narrow cell of the overview.
fn mark(label: &str, verdict: Option<Verdict>) -> String {
    let (class, mark) = match verdict {
        Some(Verdict::Met) => ("mark", "✓"),
        Some(Verdict::Missed) => ("mark bad", "✗"),
        None => ("mark", words::NONE),
    };
    format!("<td class=\"{class}\" data-label=\"{label}\">{mark}</td>")
}

const KEY: &str = "<section class=\"key\">\n<h2>How to read the bars</h2>\n<p>\
    The pale bands are what plain routing carries over <b>each path alone</b>, laid end to end. The \
    black line near their end is the <b>limit</b>: their sum, less the 20 bytes that Multipath TCP \
    puts into each segment of the IPv4 carriers (plain IPv6 has as long headers already). The areas \
    over time are bytes on the wire, headers and all. The dark bar is <b>braid</b> over all paths (median), the small dots \
    its repeats, the green tick below the limit the <b>target</b>. Host and sink speak plain TCP; \
    they know nothing of braid.</p>\n</section>\n";

fn failures(failures: &[Failure]) -> String {
    if failures.is_empty() {
        return String::new();
    }
    let item = |failure: &Failure| {
        let setting = escape(failure.setting.as_deref().unwrap_or("run"));
        let (step, message) = (escape(&failure.step), escape(&failure.message));
        format!("<li><b>{setting}</b>, {step}: {message}</li>\n")
    };
    let items: String = failures.iter().map(item).collect();
    format!("<section class=\"failures\">\n<h2>What failed</h2>\n<ul>\n{items}</ul>\n</section>\n")
}

fn machine(results: &Results) -> String {
    let run = &results.run;
    let ceiling = run.emulator_ceiling_mbit.map(|mbit| format!("{mbit:.0} Mbit/s"));
    let rows = [
        ("processor", format!("{} cores, {}", run.cores, run.cpu)),
        ("kernel", format!("Linux {}", run.kernel)),
        ("link emulator carries at most", ceiling.unwrap_or(words::NONE.to_owned())),
        ("seed", run.seed.to_string()),
    ];
    let rows =
        rows.map(|(name, value)| format!("<tr><th>{name}</th><td>{}</td></tr>\n", escape(&value)));
    format!(
        "<section class=\"machine\">\n<h2>The machine, and how to run it again</h2>\n\
         <table>\n{}</table>\n<pre>{}</pre>\n<p>Commit {}. The figures behind this page, every \
         repeat of them, are in <code>results.json</code> beside it.</p>\n</section>\n",
        rows.concat(),
        escape(&command(run)),
        escape(&run.commit),
    )
}

fn command(run: &Run) -> String {
    format!("$ {}", run.command_line)
}

#[cfg(test)]
mod tests {
    use super::super::model::Run;
    use super::super::sample::sample;
    use super::*;

    #[test]
    fn page_holds_every_figure() {
        let (results, page) = (sample(), page(&sample()));
        for figure in results.settings.iter().flat_map(|setting| &setting.throughput) {
            assert!(
                page.contains(&format!(">{}<", words::mbit(figure.braid.median())))
                    || figure.braid.mbit.is_empty()
            );
        }
        assert_eq!(page.matches("<section class=\"setting\"").count(), 7);
        assert_eq!(page.matches("class=\"braid\"").count(), 55);
        assert!(page.contains("not measured") && page.contains("✗ missed"));
        assert!(page.contains(&escape(&results.run.command_line)));
    }

    #[test]
    fn page_needs_nothing_from_elsewhere() {
        let page = page(&sample());
        for foreign in ["http:", "https:", "<script", "<link", "<img", "url(", "@import"] {
            assert!(!page.contains(foreign), "{foreign}");
        }
    }

    #[test]
    fn data_cannot_become_markup() {
        let mut results = sample();
        let bad = "<b>\"&'";
        results.run.command_line = bad.into();
        results.run.warnings = vec![bad.into()];
        for setting in &mut results.settings {
            (setting.profile, setting.links) = (bad.into(), bad.into());
            setting.paths[0].name = bad.into();
            setting.throughput[0].alone[0].path = bad.into();
            setting.black_holes[0].path = bad.into();
            setting.flow_times[0].best_path = bad.into();
            setting.bursts[0].best_path = bad.into();
            setting.idle.as_mut().unwrap().paths[0].path = bad.into();
            setting.taps.as_mut().unwrap().found.push(bad.into());
        }
        assert!(!page(&results).contains("<b>\""));
        assert!(page(&sample()).contains("&quot;connect &lt;timed out&gt; &amp; gave up&quot;"));
    }

    #[test]
    fn a_page_is_written_even_with_nothing_measured() {
        let mut results = Results::new(Run::default());
        results.settings.push(Setting::default());
        assert!(page(&results).contains("? not measured"));
    }
}
