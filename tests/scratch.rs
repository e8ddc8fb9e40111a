//! scratch
mod common;
use anyhow::Result;
use braid_lab::boxes::{Boxes, Setup};
use braid_lab::generator::{Server, fetch};
use braid_lab::link::Awake;
use braid_lab::profile::Profiles;
use braid_lab::topology::{Topology, sink_address};
use common::{Family, shell};
use std::time::*;
#[test]
fn scratch() -> Result<()> {
    let name = std::env::var("P").unwrap_or("eq".into());
    let size: u64 = std::env::var("SIZE").unwrap_or("100000".into()).parse()?;
    let profiles = Profiles::load(None)?;
    let topology = Topology::build(profiles.get(&name)?, "cubic", 1)?;
    let _awake = Awake::start()?;
    let mut boxes = Boxes::start(
        &topology,
        &Setup {
            log: "debug",
            ..Setup::new(std::path::Path::new("/work/main/target/release/braid"))
        },
    )?;
    let address = sink_address(Family::V4, 4242)?;
    let _server = topology.sink.run(move || Server::start(&[address]))??;
    std::thread::sleep(Duration::from_secs(2));
    if std::env::var("DUMP").is_ok() {
        for node in [&topology.egress, &topology.ingress] {
            let line = "timeout 8 tcpdump -i any -nn -s 120 -w /tmp/$0.pcap tcp 2>/dev/null";
            let line = line.replace("$0", node.label());
            let n = node.spawn({
                let mut c = std::process::Command::new("sh");
                c.args(["-c", &line]);
                c
            })?;
            std::mem::forget(n);
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    for n in 0..30 {
        let t = topology.host.run(move || fetch(address, size, 3, Duration::from_secs(60)))??;
        println!("{n} {t:?}");
        if std::env::var("SS").is_ok() {
            println!(
                "{}",
                shell(
                    &topology.egress,
                    "ss -tnMiOm | grep 10.77 | grep -E 'bytes_sent:[0-9]{5,}' | sed 's/.*10.77.\\([12]\\).2\\]:4770/\\1/;s/cubic.*cwnd/cwnd/;s/bytes_acked.*notsent/ notsent/;s/lastsnd.*minrtt/minrtt/;s/tcp-ulp.*//' | cut -c1-200; true"
                )?
            );
        }
    }
    for (name, node) in [("egress", &topology.egress), ("ingress", &topology.ingress)] {
        println!(
            "{name}\n{}",
            shell(
                node,
                "ss -tnMiO | grep 10.77 | grep -v bytes_sent:23 | grep -v 'bytes_acked:74' | grep bytes_sent | sed 's/send .*notsent/notsent/;s/lastsnd.*minrtt/minrtt/' | cut -c1-600"
            )?
        );
    }
    if std::env::var("LOG").is_ok() {
        for l in boxes.ingress.log() {
            println!("I {l}");
        }
        for l in boxes.egress.log() {
            println!("E {l}");
        }
    }
    Ok(())
}
