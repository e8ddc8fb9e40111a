//! Figures while idle flows use up the peer's bound of carriers, so that further flows share some.
//!
//! The same boxes with the usual bound, under the same idle flows, are what they are compared with.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::times::{MIDDLE, SMALL, measure_sizes, medians};
use super::{Plan, Session, meter};
use crate::report::figure::{
    Beyond, Direction, Family, Goodput, SharedGoodput, SharedTimes, Times, Watched,
};
use crate::topology::{Topology, sink_address};

/// The bound, and the idle flows that use it up: on a single carrier there is one flow, so more flows
/// than carriers leave none idle.
const CARRIERS: u16 = 16;
const IDLE_FLOWS: usize = 20;

/// Where the idle flows go.
const PORT: u16 = 4244;

/// What the boxes have to dial all the carriers that they may, before and between flows.
const SETTLE: Duration = Duration::from_secs(2);

/// An idle flow that exchanges no byte within this has failed.
const LIMIT: Duration = Duration::from_secs(20);

/// What was measured under one bound, over the plan's repeats.
#[derive(Default)]
struct Measured {
    goodput: [Goodput; 2],
    times: Vec<Vec<(u64, Times)>>,
}

const WAYS: [Direction; 2] = [Direction::Down, Direction::Up];

impl Session<'_> {
    pub(super) fn beyond(&mut self, seen: &mut Vec<Watched>) {
        for (step, carriers) in [("free carriers", None), ("carriers used up", Some(CARRIERS))] {
            let measured = self.under_bound(carriers, seen);
            self.keep(step, measured, |setting, measured| {
                let new = || Beyond::new(CARRIERS, IDLE_FLOWS as u64);
                let figure = setting.beyond.get_or_insert_with(new);
                take(figure, measured, carriers.is_none());
            });
        }
    }

    fn under_bound(&self, carriers: Option<u16>, seen: &mut Vec<Watched>) -> Result<Measured> {
        let mut measured = Measured::default();
        for repeat in 0..self.plan.repeat {
            let bond = self.bond_with(repeat, carriers)?;
            let outcome = self.measure_beyond(&bond.topology, &mut measured);
            bond.stop(seen)?;
            outcome?;
        }
        Ok(measured)
    }

    fn measure_beyond(&self, topology: &Topology, measured: &mut Measured) -> Result<()> {
        thread::sleep(SETTLE);
        let held = hold(topology).context("idle flows")?;
        thread::sleep(SETTLE);
        measured.times.push(measure_sizes(topology, &[SMALL, MIDDLE])?);
        for (direction, goodput) in WAYS.into_iter().zip(&mut measured.goodput) {
            let choice = (direction, Family::V4, 1);
            let plan = meter::plan(self.plan, choice, Plan::omit(self.profile))?;
            topology.restart_wander()?;
            let result = meter::iperf(topology, &plan)?;
            self.check(topology, &result)?;
            meter::add(goodput, &result);
        }
        still_open(held).context("an idle flow, at the end")
    }
}

/// Opens the idle flows one after the other, each with a byte both ways; both ends of each.
fn hold(topology: &Topology) -> Result<Vec<[TcpStream; 2]>> {
    let address = sink_address(Family::V4, PORT)?;
    let listener = topology.sink.run(move || TcpListener::bind(address))??;
    let mut held = Vec::new();
    for _ in 0..IDLE_FLOWS {
        let connect = move || TcpStream::connect_timeout(&address, LIMIT);
        let host = topology.host.run(connect)??;
        let mut ends = [host, listener.accept()?.0];
        exchange(&mut ends)?;
        held.push(ends);
    }
    Ok(held)
}

/// That each has lived until now: a byte still crosses.
fn still_open(mut held: Vec<[TcpStream; 2]>) -> Result<()> {
    held.iter_mut().try_for_each(exchange)
}

fn exchange([host, sink]: &mut [TcpStream; 2]) -> Result<()> {
    for end in [&*host, &*sink] {
        end.set_read_timeout(Some(LIMIT))?;
    }
    let mut byte = [0];
    host.write_all(b"?")?;
    sink.read_exact(&mut byte)?;
    sink.write_all(b"!")?;
    Ok(host.read_exact(&mut byte)?)
}

fn take(figure: &mut Beyond, measured: Measured, free: bool) {
    for (direction, goodput) in WAYS.into_iter().zip(measured.goodput) {
        let place = figure.goodput.iter().position(|known| known.direction == direction);
        let place = place.unwrap_or_else(|| {
            figure.goodput.push(SharedGoodput::new(direction));
            figure.goodput.len() - 1
        });
        let known = &mut figure.goodput[place];
        *if free { &mut known.free } else { &mut known.used_up } = goodput;
    }
    for (size, times) in medians(&measured.times) {
        let place = figure.times.iter().position(|known| known.size == size);
        let place = place.unwrap_or_else(|| {
            figure.times.push(SharedTimes::new(size));
            figure.times.len() - 1
        });
        let known = &mut figure.times[place];
        *if free { &mut known.free } else { &mut known.used_up } = Some(times);
    }
}
