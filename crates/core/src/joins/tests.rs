//! A carrier of two ways, the second one near, far, dead or changed.

use super::*;

fn pairing(path: usize, local: &str, remote: &str) -> Pairing {
    let (local, remote) = (local.parse().unwrap(), remote.parse().unwrap());
    Pairing { path, local, remote, backup: false }
}

fn ways() -> [Pairing; 2] {
    [pairing(0, "10.1.0.1", "10.1.0.2:1"), pairing(1, "10.2.0.1", "10.2.0.2:1")]
}

fn ends(way: &Pairing, port: u16) -> Ends {
    Ends { local: (way.local, port).into(), remote: way.remote }
}

fn first() -> Ends {
    ends(&ways()[0], 1000)
}

fn second() -> Ends {
    ends(&ways()[1], 2000)
}

fn near(_: usize) -> Worth {
    Worth::Near
}

fn second_is(worth: Worth) -> impl Fn(usize) -> Worth {
    move |path| if path == 1 { worth } else { Worth::Near }
}

/// Identifiers count from 1 in the order in which ways are looked at.
fn create(way: usize) -> Ask {
    Ask::Create { way: ways()[way], id: way as u8 + 1, backup: false }
}

fn new(now: Instant) -> Joins {
    Joins::new(&ways(), first(), now)
}

/// A carrier that is joined over both ways.
fn joined(now: Instant) -> Joins {
    let mut joins = new(now);
    joins.handle_established(now);
    assert_eq!(joins.poll(now, near), [create(1)]);
    joins.handle_joined(second(), now);
    assert_eq!((joins.first(), joins.joined()), (Some(0), 0b11));
    joins
}

#[test]
fn the_second_way_is_asked_for_once_established() {
    let start = Instant::now();
    let mut joins = new(start);
    assert!(joins.poll(start, near).is_empty());
    joins.handle_established(start);
    assert_eq!(joins.poll(start, near), [create(1)]);
    assert!(joins.poll(start, near).is_empty());
    let later = start + Duration::from_millis(30);
    assert_eq!(joins.handle_joined(second(), later), Some((1, Duration::from_millis(30))));
    assert_eq!(joins.wake(), None);
}

#[test]
fn a_lost_event_is_made_good() {
    let start = Instant::now();
    assert_eq!(new(start).poll(start + UNTOLD, near), [create(1)]);
}

#[test]
fn any_way_comes_back_with_growing_pauses() {
    let mut now = Instant::now();
    let mut joins = joined(now);
    joins.handle_closed(first(), now);
    let mut pauses = Vec::new();
    for port in 1..9 {
        let wake = joins.wake().unwrap();
        pauses.push((wake - now).as_millis());
        now = wake;
        assert_eq!(joins.poll(now, near), [create(0)]);
        joins.handle_closed(ends(&ways()[0], port), now);
    }
    assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
    joins.handle_joined(first(), now);
    joins.handle_closed(first(), now);
    assert_eq!(joins.wake(), Some(now + AGAIN.0));
}

#[test]
fn a_way_that_is_refused_is_asked_for_again() {
    let now = Instant::now();
    let mut joins = new(now);
    joins.handle_established(now);
    let [ask] = joins.poll(now, near)[..] else { panic!("one is asked for") };
    joins.handle_refused(ask, now);
    assert_eq!(joins.wake(), Some(now + AGAIN.0));
    assert_eq!(joins.poll(now + AGAIN.0, near), [create(1)]);
}

#[test]
fn a_way_that_comes_back_is_last_in_the_list() {
    let now = Instant::now();
    let mut joins = joined(now);
    joins.handle_closed(first(), now);
    joins.handle_joined(ends(&ways()[0], 1001), now);
    assert_eq!((joins.first(), joins.joined()), (Some(1), 0b11));
    joins.handle_closed(ends(&ways()[0], 1001), now);
    joins.handle_closed(second(), now);
    assert_eq!((joins.first(), joins.joined()), (None, 0));
}

#[test]
fn a_far_way_is_a_backup_until_the_carrier_is_bulk() {
    let now = Instant::now();
    let mut joins = new(now);
    joins.handle_established(now);
    let far = |backup| [Ask::SetBackup { way: ways()[1], backup }];
    let created = [Ask::Create { way: ways()[1], id: 2, backup: true }];
    assert_eq!(joins.poll(now, second_is(Worth::Far)), created);
    joins.handle_joined(second(), now);
    assert!(joins.poll(now, second_is(Worth::Far)).is_empty());
    joins.set_spread(true);
    assert_eq!(joins.poll(now, second_is(Worth::Far)), far(false));
    joins.set_spread(false);
    assert_eq!(joins.poll(now, second_is(Worth::Far)), far(true));
    assert_eq!(joins.wake(), None);
}

#[test]
fn one_that_turns_out_to_be_far_becomes_a_backup_when_the_kernel_lets_it() {
    let mut now = Instant::now();
    let mut joins = joined(now);
    let mut pauses = Vec::new();
    for _ in 0..10 {
        let [ask @ Ask::SetBackup { backup: true, .. }] =
            joins.poll(now, second_is(Worth::Far))[..]
        else {
            panic!("its priority is asked for");
        };
        joins.handle_refused(ask, now);
        assert!(joins.poll(now, second_is(Worth::Far)).is_empty(), "not before the pause is over");
        pauses.push((joins.wake().unwrap() - now).as_millis());
        now = joins.wake().unwrap();
    }
    assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
    assert_eq!(joins.poll(now, second_is(Worth::Far)).len(), 1);
    assert_eq!(joins.wake(), None);
}

#[test]
fn a_dead_way_is_left_and_not_asked_for_until_it_lives() {
    let now = Instant::now();
    let mut joins = joined(now);
    let destroyed = [Ask::Destroy { ends: second(), withdrawn: Some(2) }];
    assert_eq!(joins.poll(now, second_is(Worth::Dead)), destroyed);
    assert_eq!((joins.joined(), joins.wake()), (0b01, None));
    joins.handle_closed(second(), now);
    let later = now + Duration::from_secs(100);
    assert!(joins.poll(later, second_is(Worth::Dead)).is_empty());
    assert_eq!(joins.poll(later, near), [create(1)], "at once");
}

#[test]
fn the_first_subflow_goes_by_the_connections_own_identifier() {
    let now = Instant::now();
    let mut joins = joined(now);
    let first_is_dead = |path| if path == 0 { Worth::Dead } else { Worth::Near };
    let destroyed = [Ask::Destroy { ends: first(), withdrawn: Some(0) }];
    assert_eq!(joins.poll(now, first_is_dead), destroyed);
    assert_eq!(joins.first(), Some(1));
    assert_eq!(joins.poll(now, near), [create(0)]);
    // The old one's end, told of late, is not the new one's.
    joins.handle_closed(first(), now);
    assert!(joins.poll(now + FORGET / 2, near).is_empty());
    joins.handle_joined(ends(&ways()[0], 1001), now);
    let destroyed = [Ask::Destroy { ends: ends(&ways()[0], 1001), withdrawn: Some(1) }];
    assert_eq!(joins.poll(now, first_is_dead), destroyed);
}

#[test]
fn the_last_subflow_stays_until_there_is_another() {
    let now = Instant::now();
    let mut joins = joined(now);
    assert!(joins.poll(now, |_| Worth::Dead).is_empty());
    assert_eq!((joins.joined(), joins.wake()), (0b11, None));
    joins.set_ways(&[], now);
    assert!(joins.poll(now, near).is_empty());
    let other = pairing(5, "10.5.0.1", "10.5.0.2:1");
    joins.set_ways(&[other], now);
    assert_eq!(joins.poll(now, near), [Ask::Create { way: other, id: 3, backup: false }]);
    assert_eq!(joins.joined(), 0);
    joins.handle_joined(ends(&other, 5000), now);
    assert_eq!(joins.poll(now, near).len(), 2);
    assert_eq!((joins.first(), joins.joined()), (Some(5), 1 << 5));
}

#[test]
fn a_way_that_changes_its_address_is_joined_anew() {
    let now = Instant::now();
    let mut joins = joined(now);
    let moved = pairing(1, "10.2.0.77", "10.2.0.2:1");
    joins.set_ways(&[ways()[0], moved], now);
    let asked = joins.poll(now, near);
    let destroyed = Ask::Destroy { ends: second(), withdrawn: Some(2) };
    assert_eq!(asked, [destroyed, Ask::Create { way: moved, id: 3, backup: false }]);
    joins.handle_closed(second(), now);
    joins.handle_joined(ends(&moved, 2001), now);
    assert_eq!((joins.joined(), joins.wake()), (0b11, None));
    // And back: the address has the identifier that it had.
    joins.set_ways(&ways(), now);
    let destroyed = Ask::Destroy { ends: ends(&moved, 2001), withdrawn: Some(3) };
    assert_eq!(joins.poll(now, near), [destroyed, create(1)]);
}

#[test]
fn ways_that_stay_are_not_touched() {
    let now = Instant::now();
    let mut joins = joined(now);
    joins.set_ways(&ways()[..1], now);
    assert_eq!(joins.poll(now, near).len(), 1);
    let third = pairing(2, "10.3.0.1", "10.3.0.2:1");
    joins.set_ways(&[ways()[0], third], now);
    assert_eq!(joins.poll(now, near), [Ask::Create { way: third, id: 3, backup: false }]);
    joins.set_ways(&[ways()[0], third], now);
    assert!(joins.poll(now, near).is_empty());
}

#[test]
fn a_join_that_was_given_up_and_comes_after_all_is_one_too_many() {
    let now = Instant::now();
    let mut joins = new(now);
    joins.handle_established(now);
    assert_eq!(joins.poll(now, near), [create(1)]);
    joins.set_ways(&ways()[..1], now);
    joins.set_ways(&ways(), now);
    assert_eq!(joins.poll(now, near), [create(1)]);
    joins.handle_joined(second(), now);
    assert!(joins.poll(now, near).is_empty());
    let late = ends(&ways()[1], 2002);
    assert_eq!(joins.handle_joined(late, now), None);
    assert_eq!(joins.poll(now, near), [Ask::Destroy { ends: late, withdrawn: None }]);
    joins.handle_closed(late, now);
    assert_eq!((joins.joined(), joins.wake()), (0b11, None));
}

/// Its time-outs have grown meanwhile.
#[test]
fn a_subflow_that_stayed_while_all_ways_were_away_has_a_successor() {
    let all_dead = |_| Worth::Dead;
    let now = Instant::now();
    let mut gone = joined(now);
    gone.set_ways(&[], now);
    assert!(gone.poll(now, near).is_empty());
    gone.set_ways(&ways()[..1], now);
    let mut dead = joined(now);
    assert!(dead.poll(now, all_dead).is_empty());
    for (mut joins, worth) in [(gone, Worth::Near), (dead, Worth::Dead)] {
        assert_eq!(joins.poll(now, second_is(worth)), [create(0)], "{worth:?}");
        let successor = ends(&ways()[0], 1001);
        assert!(joins.handle_joined(successor, now).is_some());
        let left = [
            Ask::Destroy { ends: first(), withdrawn: None },
            Ask::Destroy { ends: second(), withdrawn: Some(2) },
        ];
        assert_eq!(joins.poll(now, second_is(worth)), left);
        joins.handle_closed(first(), now);
        assert_eq!((joins.first(), joins.joined(), joins.wake()), (Some(0), 0b01, None));
    }
}
