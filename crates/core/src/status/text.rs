//! A status as a person reads it: a paragraph a peer, a line a way, within 80 columns where the
//! addresses are IPv4.

use std::fmt::{self, Display, Formatter};

use super::{CarrierCounts, KernelStatus, PeerStatus, SessionStatus, Status, WayState, WayStatus};
use crate::control::Protection;
use crate::path::Role;

/// What stands for what is not known.
const UNKNOWN: &str = "–";

/// The heads of the table of ways; the first of them have text below, the others numbers.
const HEADS: [&str; COLUMNS] =
    ["path", "local > remote", "role", "state", "RTT ms", "Mbit/s", "carriers"];
const COLUMNS: usize = 7;
const TEXTS: usize = 4;

impl Display for Status {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { braid, process, public_key, up_s, .. } = self;
        writeln!(f, "braid {braid}, process {process}, up {}", age(*up_s))?;
        writeln!(f, "key   {public_key}")?;
        for path in self.paths.iter().filter(|path| !self.has_way(&path.interface)) {
            writeln!(f, "path  {}, {}: no way to any peer", path.interface, role(path.role))?;
        }
        let bounds = [
            ("unproved connections", self.bounds_met.unproved_connections),
            ("flows of one host", self.bounds_met.flows_of_one_host),
        ];
        bounds_met(f, "bound", &bounds)?;
        write!(f, "{}", self.kernel)?;
        self.peers.iter().try_for_each(|peer| write!(f, "\n{peer}"))
    }
}

impl Status {
    fn has_way(&self, interface: &str) -> bool {
        let mut ways = self.peers.iter().flat_map(|peer| &peer.ways);
        ways.any(|way| way.path.as_deref() == Some(interface))
    }
}

impl Display for PeerStatus {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.session {
            Some(session) => writeln!(f, "peer {}: {session}", self.name)?,
            None => writeln!(f, "peer {}: no session", self.name)?,
        }
        table(f, &self.ways)?;
        let (carriers, flows) = (&self.carriers, &self.flows);
        writeln!(f, "  carriers  ours:   {}", carriers.ours)?;
        writeln!(f, "            theirs: {}", carriers.theirs)?;
        writeln!(f, "            {} being dialled, bound {}", carriers.dialling, carriers.bound)?;
        writeln!(
            f,
            "  flows     {} ours, {} theirs, bound {}",
            flows.ours, flows.theirs, flows.bound
        )?;
        let bounds = [
            ("carriers", self.bounds_met.carriers),
            ("flows", self.bounds_met.flows),
            ("unfetched connections", self.bounds_met.unfetched_connections),
        ];
        bounds_met(f, "  bound", &bounds)
    }
}

impl Display for SessionStatus {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let payloads = match self.protection {
            Protection::Seal => "sealed",
            Protection::None => "payloads in clear",
        };
        let dialler = if self.dialled_here { "dialled here" } else { "dialled by the peer" };
        write!(f, "session up {}, {payloads} ({}), {dialler}", age(self.up_s), self.suite)
    }
}

impl Display for CarrierCounts {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} idle, {} busy, {} shared", self.idle, self.busy, self.shared)
    }
}

impl Display for KernelStatus {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if !self.changed.is_empty() {
            writeln!(f, "kernel sysctls changed until braid stops: {}", self.changed.len())?;
        }
        for refused in &self.refused {
            let (sysctl, wanted, reason) = (&refused.sysctl, &refused.wanted, &refused.reason);
            writeln!(f, "kernel {sysctl} = \"{wanted}\" refused: {reason}")?;
        }
        for restored in &self.restored {
            writeln!(f, "kernel {} restored {} times", restored.what, restored.times)?;
        }
        Ok(())
    }
}

/// Only what was met.
fn bounds_met(f: &mut Formatter<'_>, head: &str, bounds: &[(&str, u64)]) -> fmt::Result {
    for (what, times) in bounds.iter().filter(|(_, times)| *times > 0) {
        writeln!(f, "{head} met {times} times: too many {what}")?;
    }
    Ok(())
}

fn table(f: &mut Formatter<'_>, ways: &[WayStatus]) -> fmt::Result {
    let rows: Vec<_> = ways.iter().map(cells).collect();
    let widths: [usize; COLUMNS] = std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([HEADS[column].len()]).max().unwrap_or_default()
    });
    if !rows.is_empty() {
        line(f, &HEADS.map(str::to_owned), &widths)?;
    }
    for (row, way) in rows.iter().zip(ways) {
        line(f, row, &widths)?;
        let more = why(way);
        if !more.is_empty() {
            writeln!(f, "    {more}")?;
        }
    }
    Ok(())
}

fn line(f: &mut Formatter<'_>, row: &[String; COLUMNS], widths: &[usize; COLUMNS]) -> fmt::Result {
    f.write_str(" ")?;
    for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
        if column < TEXTS {
            write!(f, " {cell:<width$}")?;
        } else {
            write!(f, " {cell:>width$}")?;
        }
    }
    f.write_str("\n")
}

fn cells(way: &WayStatus) -> [String; COLUMNS] {
    let known = |text: Option<&str>| text.unwrap_or(UNKNOWN).to_owned();
    let number =
        |value: Option<f64>| value.map_or(UNKNOWN.to_owned(), |value| format!("{value:.1}"));
    let state = way.state.map(|state| match state {
        WayState::Up => "up",
        WayState::Degraded => "degraded",
        WayState::Down => "down",
    });
    [
        known(way.path.as_deref()),
        format!("{} > {}", way.local, way.remote),
        known(way.role.map(role)),
        known(state),
        number(way.rtt_ms),
        number(way.delivery_rate_mbit),
        way.carriers.to_string(),
    ]
}

/// What there is to say of a way beside its figures.
fn why(way: &WayStatus) -> String {
    let since = way.state_s.map(|seconds| format!("for {}", age(seconds)));
    let loss = way.loss_percent.filter(|loss| *loss > 0.0).map(|loss| format!("loss {loss:.1} %"));
    let said = [way.reason.clone(), loss, since];
    said.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Normal => "normal",
        Role::Backup => "backup",
        Role::Off => "off",
    }
}

/// A time in its two largest units.
fn age(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}
