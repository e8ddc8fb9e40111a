//! Host, ingress box, paths, egress box and sink, each in a namespace of its own.
//!
//! It owns the addresses and the plain routes: over one path for the baseline, none at all while
//! braid runs. What runs in the boxes is `boxes`'s.

use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use braid_sys::{netns::Netns, sysctl, tap::Tap};
use ipnet::IpNet;

use crate::link::Link;
use crate::profile::Profile;
use crate::report::figure::Family;

/// The host's and the sink's LAN, IPv4 and IPv6.
pub const HOST_LAN: [&str; 2] = ["192.168.10.0/24", "fd00:10::/64"];
/// See [`HOST_LAN`].
pub const SINK_LAN: [&str; 2] = ["192.168.20.0/24", "fd00:20::/64"];
/// The port at which a box listens.
pub const CARRIER_PORT: u16 = 4770;

/// Everything between host and sink, and they themselves.
#[derive(Debug)]
pub struct Topology {
    /// Where flows begin.
    pub host: Netns,
    /// The box at the host's LAN.
    pub ingress: Netns,
    /// The box at the sink's LAN.
    pub egress: Netns,
    /// Where flows go.
    pub sink: Netns,
    /// One emulated link for each path, in the profile's order.
    pub links: Vec<Link>,
}

impl Topology {
    /// Builds it for a profile, with this congestion control everywhere. No box has a route to
    /// the other's LAN yet.
    ///
    /// # Errors
    /// With the step that failed. What was built until then vanishes.
    pub fn build(profile: &Profile, congestion: &str, seed: u64) -> Result<Self> {
        let namespace = |label: &str| Netns::new(label).context("make a network namespace (root?)");
        let (host, ingress) = (namespace("host")?, namespace("ingress")?);
        let (egress, sink) = (namespace("egress")?, namespace("sink")?);
        for node in [&host, &ingress, &egress, &sink] {
            prepare(node, congestion)?;
        }
        lan(&ingress, &host, HOST_LAN).context("host's LAN")?;
        lan(&egress, &sink, SINK_LAN).context("sink's LAN")?;
        let mut links = Vec::new();
        for (number, duplex) in profile.paths.iter().enumerate() {
            let name = format!("wan{}", number + 1);
            let (a, b) = (path_end(&ingress, number, 1)?, path_end(&egress, number, 2)?);
            let link = Link::start(&name, a, b, duplex, seed.wrapping_add(number as u64));
            links.push(link.context("start a link")?);
        }
        Ok(Self { host, ingress, egress, sink, links })
    }

    /// Routes between the LANs over one path, plainly, for the baseline.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn route_over(&self, path: usize) -> Result<()> {
        for family in [Family::V4, Family::V6] {
            let index = usize::from(family == Family::V6);
            let (near, far) = (path_address(path, 1, family)?, path_address(path, 2, family)?);
            ip(&self.ingress, &format!("route replace {} via {far}\n", SINK_LAN[index]))?;
            ip(&self.egress, &format!("route replace {} via {near}\n", HOST_LAN[index]))?;
        }
        for node in [&self.ingress, &self.egress] {
            set(node, "net.ipv4.ip_forward", "1")?;
            set(node, "net.ipv6.conf.all.forwarding", "1")?;
        }
        Ok(())
    }

    /// Starts wandering rates over from their seeds: measurements that are to be compared begin so.
    ///
    /// # Errors
    /// When a link has ended.
    pub fn restart_wander(&self) -> Result<()> {
        self.links.iter().try_for_each(|link| Ok(link.restart_wander()?))
    }

    /// Ways by which a box would reach the other's LAN plainly; there are none while braid runs.
    ///
    /// # Errors
    /// When `ip` cannot be run.
    pub fn plain_ways(&self) -> Result<Vec<String>> {
        let mut ways = Vec::new();
        for (node, family) in
            [(&self.ingress, 0), (&self.ingress, 1), (&self.egress, 0), (&self.egress, 1)]
        {
            let lan = if std::ptr::eq(node, &raw const self.ingress) { SINK_LAN } else { HOST_LAN };
            let far = address(lan[family], 2)?;
            let command = command("ip", &["route", "get", &far.to_string()]);
            let output = node.run(move || { command }.output())??;
            if output.status.success() {
                let way = String::from_utf8_lossy(&output.stdout);
                ways.push(format!("{}: {}", node.label(), way.trim()));
            } else {
                let words = String::from_utf8_lossy(&output.stderr);
                ensure!(words.contains("unreachable"), "ip route get: {}", words.trim());
            }
        }
        Ok(ways)
    }

    /// The addresses at which the ingress box reaches the egress box, one a path.
    ///
    /// # Errors
    /// Never for the paths that there are.
    pub fn endpoints(&self, family: Family) -> Result<Vec<SocketAddr>> {
        self.path_ends(2, family)
    }

    /// The addresses at which the egress box reaches the ingress box, one a path.
    ///
    /// # Errors
    /// Never for the paths that there are.
    pub fn ingress_endpoints(&self, family: Family) -> Result<Vec<SocketAddr>> {
        self.path_ends(1, family)
    }

    fn path_ends(&self, end: u16, family: Family) -> Result<Vec<SocketAddr>> {
        let address = |path| Ok(SocketAddr::new(path_address(path, end, family)?, CARRIER_PORT));
        (0..self.links.len()).map(address).collect()
    }
}

/// The host's address, or a socket there.
///
/// # Errors
/// Never: the address is ours.
pub fn host_address(family: Family, port: u16) -> Result<SocketAddr> {
    Ok(SocketAddr::new(address(HOST_LAN[usize::from(family == Family::V6)], 2)?, port))
}

/// The sink's address, or a socket there.
///
/// # Errors
/// Never: the address is ours.
pub fn sink_address(family: Family, port: u16) -> Result<SocketAddr> {
    Ok(SocketAddr::new(address(SINK_LAN[usize::from(family == Family::V6)], 2)?, port))
}

/// The prefixes that must not be seen on a path while braid runs.
///
/// # Errors
/// Never: the prefixes are ours.
pub fn lan_prefixes() -> Result<Vec<IpNet>> {
    HOST_LAN.iter().chain(&SINK_LAN).map(|text| Ok(text.parse()?)).collect()
}

/// A command whose words are known.
pub(crate) fn command(program: &str, words: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Starts commands in a namespace, for what takes a closure.
pub(crate) fn spawner(node: &Netns) -> impl Fn(Command) -> io::Result<Child> {
    |command| node.spawn(command)
}

fn prepare(node: &Netns, congestion: &str) -> Result<()> {
    set_congestion(node, congestion)?;
    // No delay before an address can be used, and no router solicitations on the paths.
    for name in ["all", "default"] {
        node.run(move || {
            let of = |key: &str| format!("net.ipv6.conf.{name}.{key}");
            sysctl::write(&of("accept_dad"), "0")
                .and_then(|()| sysctl::write(&of("accept_ra"), "0"))
        })??;
    }
    Ok(())
}

/// A namespace's default congestion control. The kernel lets no namespace but the first default
/// to one that is not allowed to everybody: then it is allowed for the moment of the change.
fn set_congestion(node: &Netns, congestion: &str) -> Result<()> {
    const ALLOWED: &str = "net.ipv4.tcp_allowed_congestion_control";
    let wanted = congestion.to_owned();
    let try_it = move || sysctl::write("net.ipv4.tcp_congestion_control", &wanted);
    if node.run(try_it.clone())?.is_ok() {
        return Ok(());
    }
    let _lock = alone_on_this_machine()?;
    let allowed = sysctl::read(ALLOWED)?.unwrap_or_default();
    sysctl::write(ALLOWED, &format!("{allowed} {congestion}"))
        .with_context(|| format!("this kernel has no congestion control \"{congestion}\""))?;
    let outcome = node.run(try_it);
    sysctl::write(ALLOWED, &allowed)?;
    outcome?.with_context(|| format!("set congestion control {congestion}"))
}

/// A lock against all labs of this machine that nothing is left of: an abstract socket's name.
fn alone_on_this_machine() -> Result<UnixListener> {
    let name = UnixAddress::from_abstract_name("braid-lab-congestion-control")?;
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match UnixListener::bind_addr(&name) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            other => return other.context("lock against other labs"),
        }
    }
}

fn set(node: &Netns, name: &'static str, value: &'static str) -> Result<()> {
    node.run(move || sysctl::write(name, value))?.with_context(|| format!("set {name}"))
}

/// Joins a box and an end host by a veth; the box is the end host's default gateway.
fn lan(node: &Netns, end: &Netns, prefixes: [&str; 2]) -> Result<()> {
    let far = end.path();
    ip(node, &format!("link add lan0 type veth peer name lan0 netns {}\n", far.display()))?;
    for (namespace, number) in [(node, 1), (end, 2)] {
        ip(namespace, "link set lan0 up\n")?;
        for prefix in prefixes {
            add_address(namespace, "lan0", address(prefix, number)?, prefix)?;
        }
    }
    for prefix in prefixes {
        ip(end, &format!("route add default via {}\n", address(prefix, 1)?))?;
    }
    Ok(())
}

fn path_end(node: &Netns, path: usize, number: u16) -> Result<Tap> {
    let name = format!("wan{}", path + 1);
    let device = name.clone();
    let tap = node.run(move || Tap::open(&device))?.context("open a TAP device")?;
    ip(node, &format!("link set {name} up\n"))?;
    for family in [Family::V4, Family::V6] {
        let prefix = if family == Family::V4 { "/24" } else { "/64" };
        add_address(node, &name, path_address(path, number, family)?, prefix)?;
    }
    Ok(tap)
}

fn path_address(path: usize, number: u16, family: Family) -> Result<IpAddr> {
    ensure!(path < 200, "a profile has at most 200 paths");
    Ok(match family {
        Family::V4 => format!("10.77.{}.{number}", path + 1).parse()?,
        Family::V6 => format!("fd77:{:x}::{number}", path + 1).parse()?,
    })
}

fn add_address(node: &Netns, device: &str, address: IpAddr, prefix: &str) -> Result<()> {
    let length = prefix.rsplit_once('/').map_or(prefix, |(_, length)| length);
    let nodad = if address.is_ipv6() { " nodad" } else { "" };
    ip(node, &format!("address add {address}/{length} dev {device}{nodad}\n"))
}

/// The address numbered `number` in a prefix.
fn address(prefix: &str, number: u16) -> Result<IpAddr> {
    Ok(match prefix.parse()? {
        IpNet::V4(v4) => IpAddr::V4((u32::from(v4.network()) + u32::from(number)).into()),
        IpNet::V6(v6) => IpAddr::V6((u128::from(v6.network()) + u128::from(number)).into()),
    })
}

/// Runs `ip -batch` with these lines in a namespace.
pub(crate) fn ip(node: &Netns, lines: &str) -> Result<()> {
    let input = lines.to_owned();
    let output = node.run(move || -> io::Result<_> {
        let mut command = command("ip", &["-batch", "-"]);
        let mut child = command.stdin(Stdio::piped()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        child.wait_with_output()
    })?;
    let output = output.context("run `ip` (Debian: apt install iproute2)")?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("{}: ip {}: {}", node.label(), lines.trim(), words.trim());
    }
    Ok(())
}
