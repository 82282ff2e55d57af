//! Lanes that come and go, and deliveries that come twice or from a recovery.

use super::*;

#[test]
fn a_removed_lane_is_cancelled_and_its_attempt_ignored() {
    let mut bench = Bench::new(LIMITS);
    bench.owe([1, 2, 3]);
    bench.run(1, 1, retry());
    let second = bench.take(2, 1);
    assert_eq!(bench.dispatcher.remove_lane(LANE).len(), 3);
    assert_eq!(bench.dispatcher.remove_lane(LANE).len(), 0);
    assert_eq!((bench.dispatcher.owed(), bench.dispatcher.in_flight()), (2, 1));
    assert_eq!(bench.dispatcher.next_wake_ms(), None, "no timer of it is left");
    assert_eq!(bench.next(), None);
    let targets = [LANE, BYSTANDER];
    bench.set(BYSTANDER, policy(), PAUSED);
    assert_eq!(bench.dispatcher.accept(900, 0, &targets), 1);
    assert_eq!(bench.end(second, Outcome::Delivered), Completed::default());
    assert_eq!(bench.dispatcher.in_flight(), 0);
}

#[test]
fn deliveries_of_an_unknown_subscription_are_held() {
    let mut bench = Bench::new(LIMITS);
    let unknown = SubscriptionId(3);
    bench.dispatcher.recovered(unknown, [1].into_iter().collect(), &HashMap::new());
    bench.dispatcher.recovered(unknown, [1].into_iter().collect(), &HashMap::new());
    bench.dispatcher.recovered(unknown, (2..5).collect(), &HashMap::new());
    let failed = DeliveryId { sequence: 5, subscription: unknown };
    let state = RetryState { attempts: 1, age_ms: 0, due_wall_ms: WALL_MS, saved_wall_ms: WALL_MS };
    bench.dispatcher.recovered_retry(failed, 0, &state, 0, WALL_MS);
    bench.pass_ms(1);
    assert_eq!((bench.dispatcher.held(), bench.dispatcher.owed()), (5, 7));
    assert_eq!(bench.next(), None);
    bench.set(unknown, policy(), ACTIVE);
    assert_eq!((bench.dispatcher.held(), bench.dispatcher.owed()), (0, 7));
    assert_eq!(bench.next(), Some(Attempt { delivery: failed, number: 2 }));
    bench.dispatcher.recovered(SubscriptionId(4), [1].into_iter().collect(), &HashMap::new());
    assert_eq!(bench.dispatcher.remove_lane(SubscriptionId(4)).len(), 1);
    assert_eq!((bench.dispatcher.held(), bench.dispatcher.remove_lane(unknown).len()), (0, 5));
}

#[test]
fn recovered_deliveries_keep_their_attempts_age_and_wait() {
    let mut bench = Bench::new(LIMITS);
    bench.now_ms = 50;
    let state = RetryState {
        attempts: 1,
        age_ms: 6_000,
        due_wall_ms: WALL_MS + 1_000,
        saved_wall_ms: WALL_MS,
    };
    // Two hundred milliseconds of downtime; then again with a clock that jumped back.
    bench.dispatcher.recovered_retry(delivery(1), 0, &state, 50, WALL_MS + 200);
    bench.dispatcher.recovered_retry(delivery(2), 0, &state, 50, 0);
    bench.dispatcher.recovered_retry(delivery(2), 0, &state, 50, WALL_MS + 9_000);
    bench.dispatcher.recovered(LANE, (1..4).collect(), &HashMap::new());
    assert_eq!(bench.stats(LANE).owed, 3);
    assert_eq!(bench.dispatcher.next_wake_ms(), Some(850));
    bench.run(3, 1, Outcome::Delivered);
    bench.pass_ms(800);
    let first = bench.take(1, 2);
    assert_eq!(bench.dispatcher.next_wake_ms(), Some(1_050));
    assert_eq!(bench.end(first, retry()), waits(1, 2, 7_000, 850, 2_000));
    bench.pass_ms(200);
    let second = bench.take(2, 2);
    bench.now_ms += 2_001;
    assert_eq!(bench.end(second, retry()), waits(2, 2, 9_001, 3_051, 999), "the age that is left");
}

#[test]
fn a_delivery_owed_twice_is_owed_once_wherever_it_is() {
    let mut bench = Bench::new(LIMITS);
    bench.owe([1, 1, 2]);
    let first = bench.take(1, 1);
    bench.owe([1]);
    bench.dispatcher.recovered(LANE, (1..3).collect(), &HashMap::new());
    assert_eq!(bench.stats(LANE).owed, 2);
    let _ = bench.end(first, retry());
    bench.owe([1]);
    bench.dispatcher.recovered(LANE, (1..3).collect(), &HashMap::new());
    assert_eq!(bench.stats(LANE).owed, 2);
    bench.run(2, 1, Outcome::Delivered);
    assert_eq!(bench.next(), None);
}

#[test]
fn changed_terms_apply_to_what_is_already_owed() {
    let mut bench = Bench::new(LIMITS);
    bench.owe([1]);
    let first = bench.take(1, 1);
    let once = Policy { attempts_max: Some(1), ..policy() };
    bench.set(LANE, once, ACTIVE);
    assert_eq!(bench.end(first, retry()), dead(1, Reason::Status(503), 1, 0));
}

#[test]
fn a_run_of_events_is_owed_as_one_after_the_other_is() {
    let mut bench = Bench::new(LIMITS);
    let other = SubscriptionId(2);
    bench.set(other, policy(), PAUSED);
    bench.owe([2, 4]);
    bench.run(2, 1, retry());
    let _in_flight = bench.take(4, 1);
    // Of the run, 2 waits for its next attempt and 4 is in flight.
    let targets = [LANE, SubscriptionId(77), other];
    assert_eq!(bench.dispatcher.accepted_whole(1..=5, &[0; 5], &targets), 5, "77 has no lane");
    assert_eq!(bench.dispatcher.accepted_whole(5..=6, &[0; 2], &[LANE]), 0);
    assert_eq!(bench.dispatcher.owed(), 6 + 5 + 2);
    let mut owed = bench.dispatcher.owed_among(&(0..100).collect());
    assert_eq!(owed.remove(&LANE), Some((1..=6).collect()));
    assert_eq!(owed.remove(&other), Some((1..=5).collect()));
    assert_eq!(owed.len(), 0);
}
