//! The machine against a simulated network, in simulated time.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

/// What a simulated way does to heartbeats, there and back together.
#[derive(Clone, Copy, Debug)]
struct Line {
    round_trip: Duration,
    /// Of 100.
    loss: u32,
    is_dead: bool,
    udp_blocked: bool,
}

const GOOD: Line =
    Line { round_trip: Duration::from_millis(30), loss: 0, is_dead: false, udp_blocked: false };

struct Sim {
    now: Instant,
    health: Health,
    lines: Vec<Line>,
    /// Answers on their way, by the time at which they arrive.
    answers: BTreeSet<(Instant, u8, u32)>,
    turns: Vec<(Instant, usize, State)>,
    /// When each way died last.
    died: BTreeMap<usize, Instant>,
    sent: usize,
    chance: u64,
    /// Whether TCP has something on its way on all ways.
    has_tcp: bool,
    traffic: bool,
}

impl Sim {
    fn new(lines: &[Line]) -> Self {
        let now = Instant::now();
        let mut health = Health::new(now);
        health.set_ways(0..lines.len(), now);
        let (answers, turns) = (BTreeSet::new(), Vec::new());
        let lines = lines.to_vec();
        Self {
            now,
            health,
            lines,
            answers,
            turns,
            died: BTreeMap::new(),
            sent: 0,
            chance: 7,
            has_tcp: false,
            traffic: false,
        }
    }

    /// A number below 100.
    fn percent(&mut self) -> u32 {
        self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ((self.chance >> 33) % 100) as u32
    }

    fn run(&mut self, time: Duration) {
        let (end, mut spins) = (self.now + time, 0);
        while self.now < end {
            let answer = self.answers.first().map(|(at, ..)| *at);
            let next = answer.into_iter().chain([self.health.wake(), end]).min().unwrap();
            // Once for each answer, and once when a connection could be made.
            spins = if next > self.now { 0 } else { spins + 1 };
            assert!(spins < 100, "it spins");
            self.now = next.max(self.now);
            while let Some((at, way, sequence)) =
                self.answers.first().copied().filter(|a| a.0 <= self.now)
            {
                self.answers.remove(&(at, way, sequence));
                self.health.handle_answer(Heartbeat { way, sequence, live: 0 }, self.now);
            }
            if self.traffic {
                self.health.handle_traffic(self.now);
            }
            self.poll();
        }
    }

    fn poll(&mut self) {
        let (lines, has_tcp) = (self.lines.clone(), self.has_tcp);
        let silent = |dead| if dead { 2 * TCP } else { MS };
        let signs = |way: usize| {
            let is_dead = lines[way].is_dead;
            has_tcp.then_some(TcpSigns { silent: silent(is_dead), timeouts: u8::from(is_dead) * 3 })
        };
        for action in self.health.poll(self.now, signs) {
            match action {
                Action::Send(Heartbeat { way, sequence, live }) => {
                    for (number, report) in self.health.reports() {
                        assert_eq!(live >> number & 1 != 0, report.state != State::Down);
                    }
                    self.send(way, sequence);
                }
                Action::Turn { way, state } => {
                    // It may have died since its last answer: in an idle box that was 10 s ago.
                    let died = self.died.get(&way).filter(|_| self.lines[way].is_dead);
                    let is_known = died.is_some_and(|died| self.now - *died > 12_000 * MS);
                    assert!(state != State::Up || !is_known, "up, and dead for long");
                    self.turns.push((self.now, way, state));
                }
                Action::Connect { way } => {
                    if !self.lines[way].is_dead {
                        self.health.handle_connected(way, self.now);
                    }
                }
            }
        }
    }

    fn send(&mut self, way: u8, sequence: u32) {
        self.sent += 1;
        let (line, percent) = (self.lines[usize::from(way)], self.percent());
        if !line.is_dead && !line.udp_blocked && percent >= line.loss {
            self.answers.insert((self.now + line.round_trip, way, sequence));
        }
    }

    /// Everything on the way is gone, as when a link dies.
    fn kill(&mut self, way: usize) {
        if !self.lines[way].is_dead {
            self.died.insert(way, self.now);
        }
        self.lines[way].is_dead = true;
        self.answers.retain(|(_, of, _)| usize::from(*of) != way);
    }

    fn state(&self, way: usize) -> State {
        self.health.reports().nth(way).unwrap().1.state
    }

    /// How long after `since` the way was last in another state.
    fn turned(&self, way: usize, to: State, since: Instant) -> Duration {
        let turned =
            self.turns.iter().find(|(at, of, state)| *at >= since && (*of, *state) == (way, to));
        turned.unwrap_or_else(|| panic!("never {to:?}: {:?}", self.turns)).0 - since
    }
}

/// TCP that has been silent for twice that is stuck.
const TCP: Duration = Duration::from_secs(2);

fn busy(lines: &[Line]) -> Sim {
    let mut sim = Sim::new(lines);
    sim.traffic = true;
    sim.has_tcp = true;
    sim.run(Duration::from_secs(5));
    assert!(sim.turns.is_empty(), "{:?}", sim.turns);
    sim
}

#[test]
fn silence_is_noticed_within_120_ms_and_the_return_within_200() {
    let far = Line { round_trip: 80 * MS, ..GOOD };
    let mut sim = busy(&[GOOD, far]);
    for way in [0, 1] {
        let hole = sim.now;
        sim.kill(way);
        sim.run(4 * Duration::from_secs(1));
        let noticed = sim.turned(way, State::Down, hole);
        assert!(noticed <= 120 * MS, "{noticed:?}");
        sim.lines[way].is_dead = false;
        let back = sim.now;
        sim.run(5 * Duration::from_secs(1));
        let taken_back = sim.turned(way, State::Up, back);
        assert!(taken_back <= 200 * MS + sim.lines[way].round_trip, "{taken_back:?}");
    }
    assert_eq!(sim.turns.len(), 4, "{:?}", sim.turns);
}

#[test]
fn an_idle_way_costs_little_and_one_lost_heartbeat_is_nothing() {
    let mut sim = Sim::new(&[Line { loss: 10, ..GOOD }]);
    sim.run(Duration::from_secs(3600));
    assert!(sim.turns.iter().all(|(.., state)| *state != State::Down), "{:?}", sim.turns);
    assert!(sim.sent < 500, "{} an hour", sim.sent);
    let mut sim = Sim::new(&[GOOD]);
    sim.run(Duration::from_secs(3600));
    assert!((360..=362).contains(&sim.sent), "{} an hour", sim.sent);
}

#[test]
fn a_way_that_dies_while_idle_is_noticed_by_the_next_heartbeat() {
    let mut sim = Sim::new(&[GOOD, GOOD]);
    sim.run(Duration::from_secs(60));
    let hole = sim.now;
    sim.kill(1);
    sim.run(Duration::from_secs(12));
    assert!(sim.turned(1, State::Down, hole) <= Duration::from_millis(10_300));
}

#[test]
fn traffic_after_idle_finds_a_dead_way_at_once() {
    let mut sim = Sim::new(&[GOOD, GOOD]);
    sim.run(Duration::from_secs(60));
    sim.run(Duration::from_millis(1));
    sim.kill(1);
    let start = sim.now;
    sim.traffic = true;
    sim.run(Duration::from_secs(1));
    assert!(
        sim.turned(1, State::Down, start) <= 180 * MS,
        "{:?}",
        sim.turned(1, State::Down, start)
    );
}

#[test]
fn where_udp_is_blocked_tcp_decides() {
    let blocked = Line { udp_blocked: true, ..GOOD };
    let mut sim = Sim::new(&[blocked, GOOD]);
    (sim.traffic, sim.has_tcp) = (true, true);
    sim.run(Duration::from_secs(60));
    assert!(sim.turns.is_empty() && sim.health.reports().next().unwrap().1.is_blind);
    // Blocked in mid-transfer: the same.
    let mut sim = busy(&[GOOD, GOOD]);
    sim.lines[0].udp_blocked = true;
    sim.run(Duration::from_secs(60));
    assert!(sim.turns.is_empty(), "{:?}", sim.turns);
    // Dead all the same, and back.
    let hole = sim.now;
    sim.kill(0);
    sim.run(Duration::from_secs(10));
    assert!(sim.turned(0, State::Down, hole) <= Duration::from_secs(1));
    assert_eq!(sim.turns.len(), 1, "{:?}", sim.turns);
    sim.lines[0].is_dead = false;
    let back = sim.now;
    sim.run(Duration::from_secs(10));
    assert!(sim.turned(0, State::Up, back) <= Duration::from_secs(4));
}

/// TCP had nothing to say when UDP was blocked: it is asked, and takes the way back at once.
#[test]
fn where_udp_is_blocked_and_tcp_is_quiet_tcp_is_asked() {
    let mut sim = busy(&[GOOD, GOOD]);
    sim.has_tcp = false;
    sim.lines[0].udp_blocked = true;
    let blocked = sim.now;
    sim.run(Duration::from_secs(60));
    let [(_, 0, State::Down), (_, 0, State::Up)] = sim.turns[..] else {
        panic!("{:?}", sim.turns);
    };
    assert!(sim.turned(0, State::Up, blocked) <= 200 * MS);
}

#[test]
fn heavy_loss_demotes_and_a_little_does_not() {
    let mut sim = busy(&[GOOD, GOOD]);
    sim.lines[1].loss = 1;
    sim.run(Duration::from_secs(600));
    assert!(sim.turns.is_empty(), "{:?}", sim.turns);
    sim.lines[1].loss = 20;
    let start = sim.now;
    sim.run(Duration::from_secs(5));
    assert!(sim.turned(1, State::Degraded(Trouble::Loss), start) <= Duration::from_secs(2));
    sim.run(Duration::from_secs(60));
    assert!(sim.state(1) != State::Up);
    sim.lines[1].loss = 0;
    let well = sim.now;
    sim.run(Duration::from_secs(70));
    sim.turned(1, State::Up, well);
}

#[test]
fn a_bloated_queue_demotes_and_its_end_promotes() {
    let mut sim = busy(&[GOOD, GOOD]);
    // It grows at a rate at which heartbeats do not stop coming.
    for _ in 0..40 {
        sim.lines[0].round_trip += 50 * MS;
        sim.run(200 * MS);
    }
    assert_eq!(sim.state(0), State::Degraded(Trouble::Delay), "{:?}", sim.turns);
    sim.lines[0] = GOOD;
    sim.run(Duration::from_secs(20));
    assert_eq!(sim.state(0), State::Up, "{:?}", sim.turns);
}

#[test]
fn a_box_that_was_stopped_blames_no_way() {
    let mut sim = busy(&[GOOD, GOOD]);
    for _ in 0..20 {
        sim.now += Duration::from_millis(700);
        sim.run(Duration::from_secs(1));
    }
    assert!(sim.turns.is_empty(), "{:?}", sim.turns);
}

#[test]
fn new_keys_are_no_loss() {
    let far = Line { round_trip: 400 * MS, ..GOOD };
    let mut sim = busy(&[far, GOOD]);
    for _ in 0..20 {
        sim.answers.clear();
        sim.health.handle_new_keys(sim.now);
        sim.run(Duration::from_secs(2));
    }
    assert!(sim.turns.is_empty(), "{:?}", sim.turns);
}

#[test]
fn flapping_every_five_seconds_costs_little_and_quicker_flapping_is_bounded() {
    let mut sim = busy(&[GOOD, GOOD]);
    let mut up = Duration::ZERO;
    for _ in 0..60 {
        sim.kill(1);
        sim.run(Duration::from_secs(5));
        sim.lines[1].is_dead = false;
        let back = sim.now;
        sim.run(Duration::from_secs(5));
        up += Duration::from_secs(5) - sim.turned(1, State::Up, back);
    }
    assert!(up >= Duration::from_secs(60 * 5) * 9 / 10, "{up:?}");
    let before = sim.turns.len();
    for _ in 0..600 {
        sim.kill(1);
        sim.run(Duration::from_millis(500));
        sim.lines[1].is_dead = false;
        sim.run(Duration::from_millis(500));
    }
    let turns = sim.turns.len() - before;
    assert!(turns <= 20, "{turns} turns in 600 s");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]

    /// 48 hours of random events: see the asserts.
    #[test]
    fn two_days_of_random_events(seed in any::<u64>()) {
        let mut sim = Sim::new(&[GOOD, Line { round_trip: 80 * MS, ..GOOD }, GOOD]);
        sim.chance = seed | 1;
        sim.has_tcp = true;
        let start = sim.now;
        while sim.now - start < Duration::from_secs(48 * 3600) {
            let way = sim.percent() as usize % 3;
            match sim.percent() {
                0..30 => sim.kill(way),
                30..50 => sim.lines[way].loss = sim.percent() % 30,
                50..60 => sim.lines[way].udp_blocked ^= true,
                60..70 => sim.lines[way].round_trip = MS * (5 + 20 * sim.percent()),
                _ => sim.lines[way] = GOOD,
            }
            sim.traffic = sim.percent() < 10;
            let pause = if sim.traffic { sim.percent() / 5 } else { 5 * sim.percent() };
            sim.run(Duration::from_secs(pause.into()));
            if sim.percent() < 10 {
                // All is well for long enough: whoever answers is not down.
                sim.lines = vec![GOOD; 3];
                sim.traffic = false;
                sim.run(Duration::from_secs(120));
                for way in 0..3 {
                    prop_assert_ne!(sim.state(way), State::Down);
                }
            }
        }
        let hours = (sim.now - start).as_secs() / 3600 + 1;
        for way in 0..3 {
            let downs = sim.turns.iter().filter(|(_, of, state)| (*of, *state) == (way, State::Down));
            // No more than one in three seconds, and never two within the hold of the first.
            prop_assert!(downs.count() as u64 <= hours * 1200);
        }
    }
}
