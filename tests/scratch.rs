mod common;
use std::time::*;
use std::thread;
use anyhow::Result;
use braid_lab::generator::{Server, fetch};
use braid_lab::link::Direction;
use braid_lab::topology::sink_address;
use common::{Family, boxes, topology, shell};
#[test]
fn scratch() -> Result<()> {
    let topology = topology()?;
    let mut boxes = boxes(&topology)?;
    let address = sink_address(Family::V4, 4242)?;
    let _server = topology.sink.run(move || Server::start(&[address]))??;
    let start = Instant::now();
    for (n, link) in topology.links.iter().enumerate() {
        thread::scope(|scope| -> Result<()> {
            let host = &topology.host;
            let d = scope.spawn(move || host.run(move || fetch(address, 100_000_000, 3, Duration::from_secs(60))));
            thread::sleep(Duration::from_millis(400));
            println!("{:?} carrier down {n}", start.elapsed());
            link.carrier(false)?;
            for _ in 0..40 {
                if d.is_finished() { break }
                thread::sleep(Duration::from_millis(300));
                println!("{:?} {:?} {:?}", start.elapsed(), topology.links[0].counters(Direction::Down).tally.bytes_delivered, topology.links[1].counters(Direction::Down).tally.bytes_delivered);
                if !d.is_finished() { println!("{}", shell(&topology.egress, "ss -tnMi | grep -v '^State' | head -60")?); }
            }
            println!("{:?} {:?}", start.elapsed(), d.join().unwrap()?);
            link.carrier(true)?;
            Ok(())
        })?;
    }
    for l in boxes.ingress.log() { println!("I {l}"); }
    for l in boxes.egress.log() { println!("E {l}"); }
    Ok(())
}
