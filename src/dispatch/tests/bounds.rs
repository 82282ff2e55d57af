//! What may be in flight at once, whose turn it is, and what a shortage changes.

use super::*;

#[test]
fn ready_lanes_take_turns() {
    let (mut bench, other) = (Bench::new(LIMITS), SubscriptionId(2));
    bench.set(other, policy(), ACTIVE);
    bench.owe([8]);
    bench.run(8, 1, Outcome::Delivered);
    let _ = bench.dispatcher.accept(9, 0, &[other]);
    let first = bench.next().unwrap();
    let _ = bench.end(first, Outcome::Delivered);
    bench.owe([1, 2, 3]);
    for sequence in [1, 2] {
        let _ = bench.dispatcher.accept(sequence, 0, &[other]);
    }
    let mut served = Vec::new();
    while let Some(attempt) = bench.next() {
        served.push((attempt.delivery.subscription.0, attempt.delivery.sequence));
        let _ = bench.end(attempt, Outcome::Delivered);
    }
    assert_eq!(served, [(1, 1), (2, 1), (1, 2), (2, 2), (1, 3)]);
}

#[test]
fn a_lane_that_timed_out_queues_behind_lanes_never_tried() {
    let mut bench = Bench::new(LIMITS);
    bench.owe([1, 2]);
    bench.run(1, 1, timeout());
    let never_tried = SubscriptionId(2);
    bench.set(never_tried, policy(), ACTIVE);
    let _ = bench.dispatcher.accept(5, 0, &[never_tried]);
    assert_eq!(bench.next().unwrap().delivery.subscription, never_tried);
    bench.take(2, 1);
}

#[test]
fn each_thread_takes_its_own_lanes_within_one_bound() {
    let mut bench = Bench::new(DispatchLimits { in_flight_max: 3, threads: 2, ..LIMITS });
    let odd = SubscriptionId(2);
    bench.set(odd, policy(), ACTIVE);
    bench.dispatcher.set_destination(odd, 7);
    bench.owe([1, 2, 3]);
    for sequence in 1..=3 {
        let _ = bench.dispatcher.accept(sequence, 0, &[odd]);
    }
    let next = |bench: &mut Bench, thread| {
        let attempt = bench.dispatcher.next_attempt_of(LoopId(thread), bench.now_ms)?;
        Some((attempt.delivery.subscription, attempt))
    };
    let startable = |bench: &Bench| [0, 1].map(|n| bench.dispatcher.startable_of(LoopId(n)));
    assert_eq!(startable(&bench), [1, 1], "each lane begins with one");
    let (of_first, first) = next(&mut bench, 0).unwrap();
    let (of_second, second) = next(&mut bench, 1).unwrap();
    assert_eq!([of_first, of_second], [LANE, odd]);
    assert_eq!((next(&mut bench, 0), next(&mut bench, 1)), (None, None), "at their caps");
    for attempt in [first, second] {
        let _ = bench.end(attempt, Outcome::Delivered);
    }
    assert_eq!(startable(&bench), [2, 2]);
    let mut in_flight: Vec<_> = [1, 1, 0].map(|n| next(&mut bench, n).unwrap().1).into();
    assert_eq!(next(&mut bench, 0), None);
    assert_eq!(bench.dispatcher.bound(), Some(Bound::InFlight), "both threads have the same");
    // A lane that leads elsewhere is given to the other thread.
    bench.dispatcher.set_destination(LANE, 1);
    let _ = bench.end(in_flight.pop().unwrap(), Outcome::Delivered);
    assert_eq!(startable(&bench), [0, 1]);
    let (id, last) = next(&mut bench, 1).unwrap();
    assert_eq!(id, LANE);
    for attempt in in_flight.into_iter().chain([last]) {
        let _ = bench.end(attempt, Outcome::Delivered);
    }
}

#[test]
fn a_thread_leaves_room_to_another_one_that_waits() {
    for (in_flight_max, account_max) in [(1, 9), (2, 9), (5, 9), (16, 16), (16, 2)] {
        let mut bench = Bench::new(DispatchLimits { in_flight_max, threads: 2, ..LIMITS });
        bench.dispatcher.set_account_limit(ACCOUNT, account_max);
        let most = in_flight_max.min(account_max);
        let lanes: Vec<_> = (10..30).map(SubscriptionId).collect();
        for (id, thread) in lanes.iter().zip([0, 1].into_iter().cycle()) {
            bench.set(*id, policy(), ACTIVE);
            bench.dispatcher.set_destination(*id, thread);
        }
        let _ = bench.dispatcher.accepted_whole(1..=50, &[0; 50], &lanes);
        let take = |bench: &mut Bench, thread| {
            let next = || bench.dispatcher.next_attempt_of(LoopId(thread), bench.now_ms);
            std::iter::from_fn(next).collect::<Vec<_>>()
        };
        // The first thread takes all, and asks first whenever one of its attempts ended.
        let mut of_first = VecDeque::from(take(&mut bench, 0));
        let mut of_second = take(&mut bench, 1);
        for _ in 0..60 {
            let Some(ended) = of_first.pop_front() else { break };
            let _ = bench.end(ended, Outcome::Delivered);
            of_first.extend(take(&mut bench, 0));
            of_second.extend(take(&mut bench, 1));
            of_first.extend(take(&mut bench, 0));
            assert_eq!(bench.dispatcher.startable(), 0, "no room is left while lanes wait");
        }
        assert!(of_second.len() * 2 >= most, "{most}: {}", of_second.len());
        for attempt in of_first.into_iter().chain(of_second) {
            let _ = bench.end(attempt, Outcome::Delivered);
        }
    }
}

#[test]
fn in_flight_max_bounds_all_lanes_and_is_reported() {
    let mut bench = Bench::new(DispatchLimits { in_flight_max: 3, ..LIMITS });
    bench.owe([1]);
    let _ = bench.take(1, 1);
    let lanes: Vec<_> = (10..18).map(SubscriptionId).collect();
    for id in &lanes {
        bench.dispatcher.set_lane(*id, "other", policy(), ACTIVE, &HashMap::new());
    }
    let _ = bench.dispatcher.accepted_whole(2..=3, &[0, 0], &lanes);
    assert_eq!((bench.dispatcher.startable(), bench.dispatcher.bound()), (2, None));
    let first = bench.next().unwrap();
    let second = bench.next().unwrap();
    assert_eq!(bench.next(), None);
    assert_eq!(bench.dispatcher.bound(), Some(Bound::InFlight));
    assert_eq!((bench.dispatcher.startable(), bench.dispatcher.in_flight()), (0, 3));
    let _ = bench.dispatcher.complete(first, &answered(200), bench.context());
    assert_eq!(bench.dispatcher.bound(), None);
    let _ = bench.dispatcher.complete(attempt(1, 1), &answered(200), bench.context());
    let _ = bench.dispatcher.complete(second, &answered(200), bench.context());
}

#[test]
fn a_shortage_does_not_count_and_starts_fewer_attempts() {
    let mut bench = Bench::new(LIMITS);
    let other = SubscriptionId(2);
    bench.set(other, policy(), ACTIVE);
    bench.owe([1, 2]);
    let _ = bench.dispatcher.accept(7, 0, &[other]);
    let (first, second) = (bench.next().unwrap(), bench.next().unwrap());
    let before = bench.stats(LANE);
    let ended = bench.end_short(first, Shortage::Files);
    assert_eq!((ended.record, ended.health), (None, None));
    assert_eq!((bench.next(), bench.dispatcher.bound()), (None, Some(FILES)));
    assert_eq!(bench.dispatcher.next_wake_ms(), Some(50));
    bench.pass_ms(50);
    // One was in flight, which is as many as there may be.
    assert_eq!(bench.next(), None);
    let ended = bench.dispatcher.complete(second, &answered(200), bench.context());
    assert!(ended.record.is_some());
    let again = bench.take(1, 1);
    assert_eq!(bench.stats(LANE), before, "neither an attempt nor a failure");
    let _ = bench.end(again, Outcome::Delivered);
}

#[test]
fn a_lane_or_a_delivery_pauses_after_its_own_shortage() {
    let mut bench = Bench::new(LIMITS);
    bench.owe([1, 2]);
    let first = bench.take(1, 1);
    let _ = bench.end_short(first, Shortage::HostConnections);
    assert_eq!((bench.next(), bench.dispatcher.next_wake_ms()), (None, Some(100)));
    bench.pass_ms(100);
    let first = bench.take(1, 1);
    assert_eq!(bench.end_short(first, Shortage::Panic).record, None);
    assert_eq!(bench.dispatcher.next_wake_ms(), Some(5_100));
    bench.run(2, 1, Outcome::Delivered);
    bench.pass_ms(5_000);
    bench.run(1, 1, Outcome::Delivered);
    let failures = bench.stats(LANE).failures_in_row;
    assert_eq!((failures, bench.stats(LANE).retried, bench.stats(LANE).delivered), (0, 0, 2));
}

#[test]
fn the_next_event_does_not_wait_for_a_whole_fan_out() {
    let mut bench = Bench::new(DispatchLimits { in_flight_max: 1, ..LIMITS });
    let lanes: Vec<_> = (10..1_000).map(SubscriptionId).collect();
    for id in &lanes {
        bench.set(*id, policy(), ACTIVE);
    }
    let _ = bench.dispatcher.accept(1, 0, &lanes);
    bench.pass_ms(2);
    bench.owe([2]);
    let served = (0..100).map(|_| {
        let attempt = bench.next().unwrap();
        let _ = bench.dispatcher.complete(attempt, &answered(200), bench.context());
        attempt.delivery.subscription
    });
    let place = served.collect::<Vec<_>>().iter().position(|id| *id == LANE);
    assert!(place.is_some_and(|place| place < 70), "{place:?}");
}

/// A lane per id, each of which has just responded once.
fn with_proven_lanes(limits: DispatchLimits, ids: impl Iterator<Item = u32>) -> Bench {
    let mut bench = Bench::new(limits);
    let lanes: Vec<_> = ids.map(SubscriptionId).collect();
    for id in &lanes {
        bench.set(*id, policy(), ACTIVE);
    }
    let _ = bench.dispatcher.accept(1, 0, &lanes);
    for attempt in bench.take_all() {
        let _ = bench.dispatcher.complete(attempt, &answered(200), bench.context());
    }
    bench
}

#[test]
fn a_single_event_goes_before_lanes_with_a_backlog() {
    let (many, prompt) = (10..60, SubscriptionId(60));
    let mut bench = with_proven_lanes(DispatchLimits { in_flight_max: 128, ..LIMITS }, 10..61);
    let many: Vec<_> = many.map(SubscriptionId).collect();
    bench.pass_ms(1_000);
    let _ = bench.dispatcher.accepted_whole(2..=100, &[0; 99], &many);
    bench.pass_ms(90);
    let _ = bench.dispatcher.accept(101, 0, &[prompt]);
    assert_eq!(bench.next().unwrap().delivery.subscription, prompt);
    // Lanes that waited longer than it queues ahead go first.
    bench.pass_ms(20);
    let _ = bench.dispatcher.accept(102, 0, &[prompt]);
    assert_ne!(bench.next().unwrap().delivery.subscription, prompt);
}

#[test]
fn a_busy_moment_does_not_cost_a_lane_its_reserve() {
    let mut bench = with_proven_lanes(DispatchLimits { in_flight_max: 48, ..LIMITS }, 10..27);
    let many: Vec<_> = (10..26).map(SubscriptionId).collect();
    let prompt = SubscriptionId(26);
    // All lanes respond slowly once.
    let _ = bench.dispatcher.accept(2, 0, &many);
    let _ = bench.dispatcher.accept(3, 0, &[prompt]);
    let in_flight = bench.take_all();
    bench.pass_ms(1_000);
    for attempt in in_flight {
        let _ = bench.dispatcher.complete(attempt, &answered(200), bench.context());
    }
    // The others fill what is not kept.
    let _ = bench.dispatcher.accepted_whole(4..=103, &[0; 100], &many);
    let mut in_flight = bench.take_all();
    assert_eq!(in_flight.len(), 45);
    for sequence in [104, 105] {
        let _ = bench.dispatcher.accept(sequence, 0, &[prompt]);
        let attempt = bench.next().unwrap();
        assert_eq!(attempt.delivery, DeliveryId { sequence, subscription: prompt });
        in_flight.push(attempt);
    }
    for attempt in in_flight {
        let _ = bench.dispatcher.complete(attempt, &answered(200), bench.context());
    }
}

#[test]
fn a_tick_is_bounded_and_says_that_there_is_more() {
    let mut bench = Bench::new(LIMITS);
    let state = RetryState { attempts: 1, age_ms: 0, due_wall_ms: WALL_MS, saved_wall_ms: WALL_MS };
    let many = TICK_MAX as u64 + 1;
    for sequence in 0..many {
        bench.dispatcher.recovered_retry(delivery(sequence), 0, &state, 0, WALL_MS);
    }
    bench.pass_ms(1);
    assert_eq!(bench.dispatcher.next_wake_ms(), Some(0));
    bench.pass_ms(0);
    assert_eq!(bench.dispatcher.next_wake_ms(), None);
    assert_eq!(bench.stats(LANE).retrying, many);
}
