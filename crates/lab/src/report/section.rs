//! What the page says of one setting: its links, its figures with captions, its proofs.

use super::change_lines::{self, Line};
use super::figure::{BlackHole, Direction, FlowTimes, Proofs, Series, Storm, Taps, Throughput};
use super::html::verdict;
use super::model::{Path, Range, Setting};
use super::svg::{escape, path_colour};
use super::{bars, dots, flow_section, timeline, words};

/// The setting's place in the page.
pub(super) fn id(setting: &Setting) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    setting.title().chars().map(plain).collect()
}

/// The whole section.
pub(super) fn setting(setting: &Setting) -> String {
    format!(
        "<section class=\"setting\" id=\"{}\">\n{}{}<div class=\"grid\">\n{}{}{}{}</div>\n\
         {}{}</section>\n",
        id(setting),
        head(setting),
        links(&setting.paths),
        throughput(setting),
        timelines(setting),
        black_holes(setting),
        flow_times(&setting.flow_times),
        checks(setting),
        details(setting),
    )
}

fn head(setting: &Setting) -> String {
    let tally = setting.tally();
    let reached = |direction| words::percents(setting.reached_percent(direction));
    let misses = words::misses(setting);
    let misses = if misses.is_empty() { misses } else { format!(": {misses}") };
    let mptcp: String =
        setting.mptcp.iter().map(|(key, value)| format!(", {key} {value}")).collect();
    format!(
        "<h2>{} <small>{}</small></h2>\n<p class=\"lead\">Reached <b>{}</b> of what the links allow \
         down, <b>{}</b> up; {} of {} targets met. {}{misses}</p>\n<p class=\"conditions\">Congestion control \
         {} in the boxes, {} at host and sink{}.</p>\n",
        escape(&setting.title()),
        escape(&setting.links),
        reached(Direction::Down),
        reached(Direction::Up),
        tally.met,
        tally.total(),
        verdict(words::setting_verdict(setting)),
        escape(&setting.box_congestion),
        escape(&setting.host_congestion),
        escape(&mptcp),
    )
}

fn links(paths: &[Path]) -> String {
    let row = |(index, path): (usize, &Path)| {
        let (colour, name) = (path_colour(index), escape(&path.name));
        let (down, up) = (words::link(&path.down), words::link(&path.up));
        format!(
            "<tr><th><i style=\"background:{colour}\"></i>{name}</th>\
             <td>down {down}</td><td>up {up}</td></tr>\n"
        )
    };
    let rows: String = paths.iter().enumerate().map(row).collect();
    format!("<table class=\"links\">\n{rows}</table>\n")
}

fn figure(title: &str, chart: &str, caption: &str) -> String {
    let (title, caption) = (escape(title), escape(caption));
    format!("<figure>\n<b>{title}</b>\n{chart}<figcaption>{caption}</figcaption>\n</figure>\n")
}

fn throughput(setting: &Setting) -> String {
    let of = |direction| {
        let caption = format!(
            "Braid reaches {} of the limit. {}",
            words::percents(setting.reached_percent(direction)),
            allowed(setting, direction)
        );
        bars::chart(setting, direction)
            .map(|chart| figure(&format!("Throughput {direction}"), &chart, &caption))
    };
    [Direction::Down, Direction::Up].into_iter().filter_map(of).collect()
}

/// What the links allow, and what the best of them carries alone.
fn allowed(setting: &Setting, direction: Direction) -> String {
    let limits = Range::of(setting.throughput_of(direction).filter_map(Throughput::limit));
    let alone = setting.throughput_of(direction).flat_map(|figure| &figure.alone);
    let best = Range::of(alone.filter_map(|path| path.goodput.median()));
    let (Some(limits), Some(best)) = (limits, best) else { return String::new() };
    format!(
        "The links allow {} Mbit/s; the best path alone carries {:.1}.",
        words::span(limits),
        best.high
    )
}

fn timelines(setting: &Setting) -> String {
    let of = |throughput: &Throughput| {
        let chart = timeline::of_throughput(throughput)?;
        let shares = throughput.series.as_ref().map(shares).unwrap_or_default();
        let title = format!("Over time: {}", throughput.label());
        Some(figure(&title, &chart, &format!("One repeat, path upon path. {shares}")))
    };
    setting.throughput.iter().filter_map(of).collect()
}

/// What part of all bytes each path carried.
fn shares(series: &Series) -> String {
    let sums = series.paths.iter().map(|path| path.mbit.iter().sum::<f64>());
    let total: f64 = sums.clone().sum();
    if total <= 0.0 {
        return "No path carried anything.".into();
    }
    let named = series.paths.iter().zip(sums);
    let parts = named.map(|(path, sum)| format!("{} {:.0} %", path.path, sum / total * 100.0));
    format!("Shares: {}.", parts.collect::<Vec<_>>().join(", "))
}

fn black_holes(setting: &Setting) -> String {
    let of = |hole: &BlackHole| {
        let sum = setting.throughput_of(hole.direction).find_map(Throughput::sum);
        let chart = timeline::of_black_hole(hole, sum).unwrap_or_default();
        figure("A path goes silent", &chart, &black_hole_caption(hole))
    };
    setting.black_holes.iter().map(of).collect()
}

fn black_hole_caption(hole: &BlackHole) -> String {
    let back = hole.recovered_ms.map_or("never came back".to_owned(), |ms| {
        format!("was back {} after the path's return", words::ms(ms))
    });
    format!(
        "{} swallows every packet from {:.1} s to {:.1} s. The receiver waited at most {} for a byte; \
         90 % of the sum {back}.",
        hole.path,
        hole.hit_s,
        hole.returned_s,
        words::ms(hole.longest_stall_ms)
    )
}

fn flow_times(sizes: &[FlowTimes]) -> String {
    let Some(chart) = dots::chart(sizes) else { return String::new() };
    let best = sizes.first().map_or("", |flow| &flow.best_path);
    let caption = format!(
        "Time to the last byte over {best} alone (open) and by braid (filled): the median, and a \
         line to the 99th percentile. A ratio below 1 means that braid is faster; a cross, that it \
         is above its target."
    );
    figure("Short flows", &chart, &caption)
}

fn checks(setting: &Setting) -> String {
    let storm = setting.storm.as_ref().map(storm).unwrap_or_default();
    let proofs = setting.proofs.as_ref().map(proofs).unwrap_or_default();
    let judged = flow_section::judged(setting);
    let idle = setting.idle.as_ref().map(flow_section::idle).unwrap_or_default();
    let taps = setting.taps.as_ref().map(taps).unwrap_or_default();
    let changes: String = change_lines::of(setting).iter().map(change).collect();
    format!("{judged}<div class=\"checks\">\n{idle}{changes}{storm}{proofs}{taps}</div>\n")
}

fn change(line: &Line) -> String {
    let verdict = line.verdict.map_or(String::new(), |v| verdict(v) + " ");
    format!("<p><b>{}</b> {verdict}{}.</p>\n", words::capital(line.head), escape(&line.text))
}

fn storm(storm: &Storm) -> String {
    let [flows, wrong, hung, resets, halves] =
        [storm.flows, storm.wrong_bytes, storm.hung_flows, storm.resets, storm.half_closes]
            .map(words::count);
    format!(
        "<p><b>Storm</b> {} {flows} flows with {} in all, each byte checked: {wrong} wrong bytes, \
         {hung} hung flows, {resets} resets and {halves} half-closes arrived as such; descriptors \
         open in the boxes {} before, {} after.</p>\n",
        verdict(Some(storm.verdict())),
        words::bytes(storm.bytes),
        storm.descriptors_before,
        storm.descriptors_after
    )
}

fn proofs(proofs: &Proofs) -> String {
    let found = |what: &str, wire: &super::figure::Watched| {
        format!(
            "{}: {} {what} in {} packets",
            escape(&wire.wire),
            words::count(wire.forbidden),
            words::count(wire.examined)
        )
    };
    let paths = proofs.paths.iter().map(|path| found("plain packets", path));
    let ends = [&proofs.host, &proofs.sink].map(|wire| found("MPTCP options", wire));
    let wires: Vec<_> = paths.chain(ends).collect();
    let routes = match proofs.lan_routes.as_slice() {
        [] => "none".to_owned(),
        routes => escape(&routes.join(", ")),
    };
    format!(
        "<p><b>No way round braid</b> {} {}. Routes in a box to the other's LAN: {routes}.</p>\n",
        verdict(Some(proofs.verdict())),
        wires.join("; ")
    )
}

fn taps(taps: &Taps) -> String {
    format!(
        "<p><b>Tapped paths</b> {} A flow of known bytes, up and down: {}.</p>\n",
        verdict(Some(taps.verdict())),
        escape(&words::taps(taps))
    )
}

fn details(setting: &Setting) -> String {
    format!(
        "<details>\n<summary>Every repeat, and all flow times</summary>\n<div class=\"scroll\">\n\
         {}{}</div>\n</details>\n",
        repeats(&setting.throughput),
        flow_section::every_time(setting)
    )
}

fn repeats(figures: &[Throughput]) -> String {
    let cell = |goodput: &super::figure::Goodput| {
        let all: Vec<_> = goodput.mbit.iter().map(|mbit| format!("{mbit:.1}")).collect();
        let again =
            goodput.retransmits.map_or(String::new(), |n| format!(" ({})", words::count(n)));
        format!("{}{again}", all.join(", "))
    };
    let row = |figure: &Throughput| {
        let alone =
            figure.alone.iter().map(|a| format!("{}: {}", escape(&a.path), cell(&a.goodput)));
        format!(
            "<tr><th>{}</th><td>{}</td><td>{}</td><td>{}</td><td>{} %</td></tr>\n",
            figure.label(),
            alone.collect::<Vec<_>>().join("<br>"),
            words::mbit(figure.limit()),
            cell(&figure.braid),
            figure.target_percent
        )
    };
    let rows: String = figures.iter().map(row).collect();
    format!(
        "<table>\n<thead><tr><th>Mbit/s (segments sent again)</th><th>each path alone</th>\
         <th>limit</th><th>braid</th><th>target</th></tr></thead>\n{rows}</table>\n"
    )
}
