//! Runs the real iperf3 (3.12) between two namespaces and reads what it reports.
//!
//! Both of its processes are started by the caller's `Spawn`, which knows the namespaces; they live
//! no longer than `measure`. Rounds, orders and comparisons are the caller's.

pub(crate) mod child;

use child::Reaped;
use serde::Serialize;
use serde_json::Value;
use std::{
    fmt,
    fs::File,
    io::{self, Read, Seek},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Starts a command in the namespace it is meant for; its outputs are set already.
pub type Spawn<'a> = &'a dyn Fn(Command) -> io::Result<Child>;

/// How long the server may take to listen, and to end after its client.
const SERVER_WAIT: Duration = Duration::from_secs(5);

/// How long the client may take beside its test: to connect, and to exchange results.
const CLIENT_WAIT: Duration = Duration::from_secs(15);

/// iperf3's own bound on its control connection; within `CLIENT_WAIT`.
const CONNECT_MILLIS: &str = "8000";

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Direction {
    /// From the client to the server.
    Up,
    /// From the server to the client (`-R`).
    Down,
}

/// One iperf3 test over TCP.
#[derive(Clone, Debug)]
pub struct IperfPlan {
    /// Where the server listens, and so the family; the port must be free there.
    pub server: SocketAddr,
    /// Which way the bytes go.
    pub direction: Direction,
    /// Parallel connections, 1 to 128.
    pub streams: u8,
    /// How long it measures, in whole seconds.
    pub duration: Duration,
    /// How long it runs before, not counted, in whole seconds.
    pub omit: Duration,
    /// The length of each of `IperfResult::intervals_mbit`, 100 ms at least.
    pub interval: Duration,
}

/// What iperf3 measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IperfResult {
    /// Mbit/s of payload that the receiver got, over all streams.
    pub goodput_mbit: f64,
    /// Segments sent again, over all streams.
    pub retransmits: u64,
    /// The same as `goodput_mbit` for each interval, at the receiver, without the omitted.
    pub intervals_mbit: Vec<f64>,
    /// The sender's congestion control.
    pub sender_cc: String,
    /// The receiver's congestion control.
    pub receiver_cc: String,
}

/// Why there is no result.
#[derive(Debug)]
pub enum IperfError {
    /// The server was running another test.
    Busy,
    /// Nobody listened at the server's address.
    Refused,
    /// It did not end in time, and was killed.
    TimedOut,
    /// iperf3 gave up with this message.
    Failed(String),
    /// Its report lacks this.
    Unreadable(String),
    /// It could not be started or waited for.
    Io(io::Error),
}

impl fmt::Display for IperfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy => f.write_str("the iperf3 server is busy"),
            Self::Refused => f.write_str("the iperf3 server refused the connection"),
            Self::TimedOut => f.write_str("iperf3 did not end in time"),
            Self::Failed(message) => write!(f, "iperf3: {message}"),
            Self::Unreadable(what) => write!(f, "iperf3's report lacks {what}"),
            Self::Io(error) => write!(f, "iperf3 could not be run: {error}"),
        }
    }
}

impl std::error::Error for IperfError {}

impl From<io::Error> for IperfError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Runs `plan` with a server of its own, started by `at_server`, and a client started by `at_client`.
///
/// Takes at most `omit + duration` and 25 s.
pub fn measure(
    plan: &IperfPlan,
    at_server: Spawn<'_>,
    at_client: Spawn<'_>,
) -> Result<IperfResult, IperfError> {
    let mut server = start(server_command(plan), at_server)?;
    await_listening(&mut server, plan.server)?;
    let mut client = start(client_command(plan), at_client)?;
    let client = client.report(plan.omit + plan.duration + CLIENT_WAIT)?;
    let server = server.report(SERVER_WAIT)?;
    let receiver = if plan.direction == Direction::Up { &server } else { &client };
    read(&client, receiver, plan.interval)
}

/// An iperf3 process and where its outputs go: files, which never fill up as pipes do.
struct Iperf {
    process: Reaped,
    report: File,
    complaints: File,
}

fn start(mut command: Command, spawn: Spawn<'_>) -> Result<Iperf, IperfError> {
    let (report, complaints) = (tempfile::tempfile()?, tempfile::tempfile()?);
    command.stdin(Stdio::null()).stdout(report.try_clone()?).stderr(complaints.try_clone()?);
    Ok(Iperf { process: Reaped::new(spawn(command)?), report, complaints })
}

impl Iperf {
    /// Waits for it to end and reads its report.
    fn report(&mut self, limit: Duration) -> Result<Value, IperfError> {
        self.process.wait(limit)?.ok_or(IperfError::TimedOut)?;
        let report = text(&mut self.report)?;
        match serde_json::from_str::<Value>(&report) {
            Ok(report) => match report["error"].as_str() {
                Some(message) => Err(classify(message)),
                None => Ok(report),
            },
            Err(_) => Err(classify(&format!("{report}{}", text(&mut self.complaints)?))),
        }
    }
}

fn server_command(plan: &IperfPlan) -> Command {
    let mut command = common_command(plan);
    command.args(["-s", "-1", "-B", &plan.server.ip().to_string()]);
    command
}

fn client_command(plan: &IperfPlan) -> Command {
    let mut command = common_command(plan);
    command.args(["-c", &plan.server.ip().to_string(), "--connect-timeout", CONNECT_MILLIS]);
    command.args(["-P", &plan.streams.to_string()]);
    command.args(["-t", &plan.duration.as_secs().to_string()]);
    command.args(["-O", &plan.omit.as_secs().to_string()]);
    if plan.direction == Direction::Down {
        command.arg("-R");
    }
    command
}

fn common_command(plan: &IperfPlan) -> Command {
    let mut command = Command::new("iperf3");
    command.args(["-J", "-p", &plan.server.port().to_string()]);
    command.args(["-i", &plan.interval.as_secs_f64().to_string()]);
    command
}

/// Waits until the server's namespace has a listener on its port.
///
/// Its own output would say so too, but not with `-J`; and a connection would be its one test.
fn await_listening(server: &mut Iperf, addr: SocketAddr) -> Result<(), IperfError> {
    let family = if addr.is_ipv4() { "tcp" } else { "tcp6" };
    let table = format!("/proc/{}/net/{family}", server.process.id());
    let until = Instant::now() + SERVER_WAIT;
    while Instant::now() < until {
        if listens(&std::fs::read_to_string(&table)?, addr.port()) {
            return Ok(());
        }
        if server.process.wait(Duration::from_millis(5))?.is_some() {
            server.report(Duration::ZERO)?;
            return Err(IperfError::Failed("the server ended before its test".into()));
        }
    }
    Err(IperfError::TimedOut)
}

/// Whether a table of `/proc/net/tcp`'s form has a listener on `port`.
fn listens(table: &str, port: u16) -> bool {
    const LISTEN: &str = "0A";
    let port = format!(":{port:04X}");
    table.lines().skip(1).any(|line| {
        let mut columns = line.split_ascii_whitespace().skip(1);
        let local = columns.next();
        local.is_some_and(|local| local.ends_with(&port)) && columns.nth(1) == Some(LISTEN)
    })
}

fn text(file: &mut File) -> io::Result<String> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ok(text)
}

fn classify(message: &str) -> IperfError {
    if message.contains("server is busy") {
        IperfError::Busy
    } else if message.contains("Connection refused") {
        IperfError::Refused
    } else {
        IperfError::Failed(message.trim().to_owned())
    }
}

/// Reads the client's report, which has both sides' sums, and the receiving side's intervals.
fn read(client: &Value, receiver: &Value, interval: Duration) -> Result<IperfResult, IperfError> {
    let find = |path: &str| {
        client
            .pointer(path)
            .ok_or_else(|| IperfError::Unreadable(path.trim_start_matches('/').into()))
    };
    let name =
        |path: &str| Ok::<_, IperfError>(find(path)?.as_str().unwrap_or_default().to_owned());
    let intervals = receiver["intervals"].as_array().map(Vec::as_slice).unwrap_or_default();
    // What arrives after the last whole interval makes one of a few milliseconds: no rate to speak of.
    let is_whole = |sum: &Value| sum["seconds"].as_f64() > Some(interval.as_secs_f64() / 2.0);
    let sums = intervals.iter().map(|interval| &interval["sum"]);
    let counted = sums.filter(|sum| sum["omitted"].as_bool() != Some(true) && is_whole(sum));
    Ok(IperfResult {
        goodput_mbit: mbit(find("/end/sum_received/bits_per_second")?),
        retransmits: find("/end/sum_sent/retransmits")?.as_u64().unwrap_or_default(),
        intervals_mbit: counted.map(|sum| mbit(&sum["bits_per_second"])).collect(),
        sender_cc: name("/end/sender_tcp_congestion")?,
        receiver_cc: name("/end/receiver_tcp_congestion")?,
    })
}

fn mbit(bits: &Value) -> f64 {
    bits.as_f64().unwrap_or_default() / 1e6
}

#[cfg(test)]
mod tests;
