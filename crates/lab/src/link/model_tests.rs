//! The model in simulated time.

use std::time::Duration;

use proptest::prelude::*;

use super::super::shape::{Jitter, Loss, Probability, Rate};
use super::*;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;

fn shape(mbit: f64, delay_ms: u64, queue: u64) -> Shape {
    Shape::plain(Rate::from_mbit(mbit).unwrap(), Duration::from_millis(delay_ms), queue)
}

/// Offers frames of `length` every `gap` until `until`, waking as a driver does, then drains.
/// Returns the time and number of each that came out.
fn run(model: &mut Model<u64>, length: usize, gap: u64, until: u64) -> Vec<(u64, u64)> {
    let (mut out, mut offered, mut now) = (Vec::new(), 0, 0);
    loop {
        let arrival = offered * gap;
        let next = (arrival < until).then_some(arrival);
        let Some(at) = next.into_iter().chain(model.wake_at()).min() else { return out };
        now = at.max(now);
        if next == Some(at) {
            model.offer(now, length, offered);
            offered += 1;
        }
        while let Some(frame) = model.deliver(now) {
            out.push((now, frame));
        }
    }
}

fn in_order(out: &[(u64, u64)]) -> bool {
    out.windows(2).all(|pair| pair[0].1 < pair[1].1 && pair[0].0 <= pair[1].0)
}

#[test]
fn a_lone_frame_takes_its_sending_time_and_the_delay() {
    let mut model = Model::new(shape(100.0, 5, 100_000), 1);
    assert_eq!(model.wake_at(), None);
    model.offer(7, 1514, 0);
    let due = 7 + 121_120 + 5 * MS;
    assert_eq!(model.wake_at(), Some(due));
    assert_eq!(model.deliver(due - 1), None);
    assert_eq!(model.deliver(due), Some(0));
    assert_eq!(model.wake_at(), None);
}

#[test]
fn a_saturated_link_gives_its_rate_and_bounds_its_queue() {
    let mut model = Model::new(shape(20.0, 40, 50_000), 1);
    let out = run(&mut model, 1514, 100_000, SECOND);
    let tally = model.tally();
    let mbit =
        (tally.bytes_delivered - 1514) as f64 * 8e3 / (out[out.len() - 1].0 - out[0].0) as f64;
    assert!((19.8..20.2).contains(&mbit), "{mbit}");
    assert_eq!(tally.frames_in, tally.frames_delivered + tally.dropped_queue);
    // The last of a full queue of 33 frames waits for the others, one of them partly sent.
    let waits = out.iter().map(|(at, frame)| at - frame * 100_000 - 40 * MS);
    assert!((32 * 605_600..=33 * 605_600).contains(&waits.max().unwrap()));
}

#[test]
fn a_rate_change_catches_the_frame_in_mid_sending() {
    let mut model = Model::new(shape(1.0, 0, 100_000), 1);
    model.offer(0, 1250, 0); // 10 ms at 1 Mbit/s
    model.offer(0, 1250, 1);
    model.set_shape(4 * MS, shape(2.0, 0, 100_000));
    assert_eq!(model.deliver(7 * MS - 1), None);
    assert_eq!(model.deliver(7 * MS), Some(0));
    assert_eq!(model.deliver(12 * MS - 1), None);
    assert_eq!(model.deliver(12 * MS), Some(1));
}

#[test]
fn a_shorter_delay_lets_none_overtake() {
    let mut model = Model::new(shape(1000.0, 50, 100_000), 1);
    model.offer(0, 125, 0); // 1 µs
    model.set_shape(MS, shape(1000.0, 10, 100_000));
    model.offer(MS, 125, 1);
    assert_eq!(model.deliver(50 * MS), None);
    assert_eq!(model.deliver(50 * MS + 1_000), Some(0));
    assert_eq!(model.deliver(50 * MS + 1_000), Some(1));
}

#[test]
fn a_black_hole_swallows_and_gives_back_nothing() {
    let mut model = Model::new(shape(1.0, 10, 100_000), 1);
    (0..3).for_each(|frame| model.offer(0, 1250, frame));
    model.set_cut(15 * MS, true); // one in flight, one being sent, one waiting
    model.offer(16 * MS, 1250, 3);
    assert_eq!(model.wake_at(), None);
    assert_eq!(model.deliver(SECOND), None);
    model.set_cut(SECOND, false);
    model.offer(SECOND, 1250, 4);
    assert_eq!(model.wake_at(), Some(SECOND + 20 * MS));
    assert_eq!(model.deliver(SECOND + 20 * MS), Some(4));
    assert_eq!(model.tally().dropped_hole, 4);
    assert_eq!(model.reclaim().collect::<Vec<_>>(), [1, 2, 0, 3]);
    assert_eq!(model.queued(), (0, 0));
}

#[test]
fn random_loss_is_near_what_was_asked() {
    let random = Probability::new(0.005).unwrap();
    let loss = Loss { random, burst: None };
    let mut model = Model::new(Shape { loss, ..shape(100.0, 10, 100_000) }, 3);
    run(&mut model, 1514, 125_000, 25 * SECOND); // 200 000 frames, of which 1000 should go
    assert!((850..1150).contains(&model.tally().dropped_loss), "{:?}", model.tally());
}

#[test]
fn burst_loss_has_its_rate_and_its_length() {
    let p = |value| Probability::new(value).unwrap();
    let burst = Burst { enter: p(0.001), leave: p(0.1), loss: p(1.0) };
    let loss = Loss { random: p(0.0), burst: Some(burst) };
    let mut model = Model::new(Shape { loss, ..shape(100.0, 10, 100_000) }, 3);
    let out = run(&mut model, 1514, 125_000, 50 * SECOND);
    // In the bad state 0.001 / 0.101 of the time, for 10 frames at a time.
    let lost = model.tally().dropped_loss as f64 / 400_000.0;
    assert!((0.007..0.013).contains(&lost), "{lost}");
    let bursts = out.windows(2).filter(|pair| pair[1].1 > pair[0].1 + 1).count();
    let length = model.tally().dropped_loss as f64 / bursts as f64;
    assert!((7.0..13.0).contains(&length), "{length}");
}

#[test]
fn jitter_spreads_delays_over_its_range_and_keeps_order() {
    let jitter = Jitter { min: Duration::from_millis(1), max: Duration::from_millis(8) };
    let mut model = Model::new(Shape { jitter, ..shape(1000.0, 2, 1_000_000) }, 5);
    let out = run(&mut model, 125, MS, 10 * SECOND);
    assert_eq!(out.len(), 10_000);
    assert!(in_order(&out));
    let delays = || out.iter().map(|(at, frame)| at - frame * MS);
    assert!(delays().min().unwrap() >= 3 * MS && delays().min().unwrap() < 3 * MS + MS / 5);
    assert!(delays().max().unwrap() <= 10 * MS + 1_000 && delays().max().unwrap() > 9 * MS);
}

prop_compose! {
    fn any_shape()(
        mbit in 1.0..1000.0, delay in 0u64..100, queue in 2_000u64..200_000,
        jitter in 0u64..10, random in 0.0..0.3, enter in 0.0..0.1,
    ) -> Shape {
        let jitter = Jitter { min: Duration::ZERO, max: Duration::from_millis(jitter) };
        let p = |value| Probability::new(value).unwrap();
        let burst = Some(Burst { enter: p(enter), leave: p(0.2), loss: p(0.8) });
        Shape { jitter, loss: Loss { random: p(random), burst }, ..shape(mbit, delay, queue) }
    }
}

proptest! {
    #[test]
    fn every_frame_is_accounted_for_in_order_and_alike_for_a_seed(
        shape in any_shape(), seed: u64, gap in 10_000u64..1_000_000, length in 60usize..1515,
    ) {
        let mut model = Model::new(shape, seed);
        let out = run(&mut model, length, gap, SECOND / 10);
        let tally = model.tally();
        prop_assert!(in_order(&out));
        prop_assert_eq!(out.len() as u64, tally.frames_delivered);
        prop_assert_eq!(
            tally.frames_in, tally.frames_delivered + tally.dropped_queue + tally.dropped_loss
        );
        prop_assert_eq!(model.reclaim().count() as u64, tally.dropped_queue + tally.dropped_loss);
        let mut again = Model::new(shape, seed);
        prop_assert_eq!(run(&mut again, length, gap, SECOND / 10), out);
    }

    #[test]
    fn changes_never_break_order_or_the_queue_bound(
        shapes in prop::collection::vec((any_shape(), any::<bool>()), 1..8),
        gap in 10_000u64..1_000_000,
    ) {
        let mut model = Model::new(shapes[0].0, 1);
        let (mut out, mut now, mut frame) = (Vec::new(), 0, 0);
        let mut bound = 0;
        for (shape, cut) in shapes {
            model.set_shape(now, shape);
            model.set_cut(now, cut);
            bound = shape.queue.max(bound);
            for _ in 0..50 {
                now += gap;
                frame += 1;
                model.offer(now, 1514, frame);
                prop_assert!(model.queued().0 <= bound);
                while let Some(frame) = model.deliver(now) {
                    out.push((now, frame));
                }
            }
        }
        prop_assert!(in_order(&out));
    }
}

#[test]
fn what_the_rate_allows_is_counted_but_not_while_cut() {
    let mut model: Model<u64> = Model::new(shape(80.0, 5, 100_000), 1);
    let allowed = |model: &mut Model<u64>, now| {
        assert_eq!(model.deliver(now), None);
        model.tally().bytes_allowed
    };
    assert_eq!(allowed(&mut model, 100 * MS), 1_000_000);
    model.set_shape(100 * MS, shape(8.0, 5, 100_000));
    assert_eq!(allowed(&mut model, 200 * MS), 1_100_000);
    model.set_cut(300 * MS, true);
    assert_eq!(allowed(&mut model, 400 * MS), 1_200_000);
    model.set_cut(500 * MS, false);
    assert_eq!(allowed(&mut model, 600 * MS), 1_300_000);
}

#[test]
fn loss_and_delay_change_in_mid_run() {
    let mut model = Model::new(shape(100.0, 5, 100_000), 1);
    model.offer(0, 1000, 0);
    assert_eq!(model.deliver(6 * MS), Some(0));
    let later = Shape { delay: Duration::from_millis(2005), ..model.shape() };
    model.set_shape(6 * MS, later);
    model.offer(6 * MS, 1000, 1);
    assert_eq!((model.deliver(2000 * MS), model.deliver(2012 * MS)), (None, Some(1)));
    let random = Probability::new(1.0).unwrap();
    model.set_shape(2012 * MS, Shape { loss: Loss { random, burst: None }, ..later });
    model.offer(2012 * MS, 1000, 2);
    assert_eq!((model.deliver(5000 * MS), model.tally().dropped_loss), (None, 1));
}
