//! A carrier of two ways, the second one near or far.

use super::*;

fn ways() -> Vec<Pairing> {
    let way = |path, local: &str, remote: &str| Pairing {
        path,
        local: local.parse().unwrap(),
        remote: remote.parse().unwrap(),
        backup: false,
    };
    vec![way(0, "10.1.0.1", "10.1.0.2:1"), way(1, "10.2.0.1", "10.2.0.2:1")]
}

fn near(_: usize) -> bool {
    false
}

fn second_is_far(way: usize) -> bool {
    way == 1
}

fn create(way: usize) -> Ask {
    Ask::Create { way, backup: false }
}

#[test]
fn the_second_way_is_asked_for_once_established() {
    let start = Instant::now();
    let mut joins = Joins::new(&ways(), 0, start);
    assert!(joins.poll(start, near).is_empty());
    joins.handle_established(start);
    assert_eq!(joins.poll(start, near), [create(1)]);
    assert!(joins.poll(start, near).is_empty());
    let later = start + Duration::from_millis(30);
    assert_eq!(joins.handle_joined(ways()[1].local, later), [(1, Duration::from_millis(30))]);
    assert_eq!(joins.wake(), None);
}

#[test]
fn a_lost_event_is_made_good() {
    let start = Instant::now();
    let mut joins = Joins::new(&ways(), 0, start);
    assert_eq!(joins.poll(start + UNTOLD, near), [create(1)]);
}

#[test]
fn any_way_comes_back_with_growing_pauses() {
    let mut now = Instant::now();
    let mut joins = Joins::new(&ways(), 0, now);
    joins.handle_established(now);
    joins.poll(now, near);
    joins.handle_joined(ways()[1].local, now);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        joins.handle_closed(ways()[0].local, now);
        let wake = joins.wake().unwrap();
        pauses.push((wake - now).as_millis());
        now = wake;
        assert_eq!(joins.poll(now, near), [create(0)]);
    }
    assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
    joins.handle_joined(ways()[0].local, now);
    joins.handle_closed(ways()[0].local, now);
    assert_eq!(joins.wake(), Some(now + AGAIN.0));
}

#[test]
fn a_way_that_is_refused_is_asked_for_again() {
    let now = Instant::now();
    let mut joins = Joins::new(&ways(), 0, now);
    joins.handle_established(now);
    let [ask] = joins.poll(now, near)[..] else { panic!("one is asked for") };
    joins.handle_refused(ask, now);
    assert_eq!(joins.wake(), Some(now + AGAIN.0));
    assert_eq!(joins.poll(now + AGAIN.0, near), [create(1)]);
}

#[test]
fn a_way_that_comes_back_is_last_in_the_list() {
    let now = Instant::now();
    let mut joins = Joins::new(&ways(), 0, now);
    assert_eq!(joins.first(), Some(0));
    joins.handle_joined(ways()[1].local, now);
    joins.handle_closed(ways()[0].local, now);
    joins.handle_joined(ways()[0].local, now);
    assert_eq!(joins.first(), Some(1));
    assert_eq!(joins.joined(), 0b11);
    joins.handle_closed(ways()[0].local, now);
    joins.handle_closed(ways()[1].local, now);
    assert_eq!(joins.first(), None);
}

#[test]
fn a_far_way_is_a_backup_until_the_carrier_is_bulk() {
    let now = Instant::now();
    let mut joins = Joins::new(&ways(), 0, now);
    joins.handle_established(now);
    let far = |backup| [Ask::SetBackup { way: 1, backup }];
    assert_eq!(joins.poll(now, second_is_far), [Ask::Create { way: 1, backup: true }]);
    joins.handle_joined(ways()[1].local, now);
    assert!(joins.poll(now, second_is_far).is_empty());
    joins.set_spread(true);
    assert_eq!(joins.poll(now, second_is_far), far(false));
    joins.set_spread(false);
    assert_eq!(joins.poll(now, second_is_far), far(true));
    assert_eq!(joins.wake(), None);
}

#[test]
fn one_that_turns_out_to_be_far_becomes_a_backup_when_the_kernel_lets_it() {
    let mut now = Instant::now();
    let mut joins = Joins::new(&ways(), 0, now);
    joins.handle_established(now);
    assert_eq!(joins.poll(now, near), [create(1)]);
    joins.handle_joined(ways()[1].local, now);
    let mut pauses = Vec::new();
    for _ in 0..10 {
        let [ask @ Ask::SetBackup { way: 1, backup: true }] = joins.poll(now, second_is_far)[..]
        else {
            panic!("its priority is asked for");
        };
        joins.handle_refused(ask, now);
        assert!(joins.poll(now, second_is_far).is_empty(), "not before the pause is over");
        pauses.push((joins.wake().unwrap() - now).as_millis());
        now = joins.wake().unwrap();
    }
    assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
    assert_eq!(joins.poll(now, second_is_far).len(), 1);
    assert_eq!(joins.wake(), None);
}
