//! What a policy does to its lane: ordering, dependencies, rate, breaker, disabling. The files of the room test their
//! own part; these tests are about the parts together.

use std::time::Duration;

use super::*;
use crate::attempt::Outcome;
use crate::subscription::{Breaker, Ordering, RateLimit};

/// Waits for [`LANE`].
const DEPENDENT: SubscriptionId = SubscriptionId(2);

fn bench(policy: Policy) -> Bench {
    let mut bench = Bench::new(LIMITS);
    bench.set(LANE, policy, ACTIVE);
    bench
}

/// A dependent lane and its main lane.
fn with_dependent() -> Bench {
    let mut bench = bench(policy());
    bench.set(DEPENDENT, Policy { after: Some(LANE), ..policy() }, ACTIVE);
    bench
}

fn owe(bench: &mut Bench, sequence: u64, key_hash: u64, targets: &[SubscriptionId]) {
    assert!(bench.dispatcher.accept(sequence, key_hash, targets) == 0);
}

/// What is served until nothing is: sequences of these lanes, in the order served.
fn served(bench: &mut Bench) -> Vec<(u32, u64)> {
    let all = bench.take_all();
    all.iter().map(|one| (one.delivery.subscription.0, one.delivery.sequence)).collect()
}

fn of(id: SubscriptionId, sequence: u64) -> Attempt {
    Attempt { delivery: DeliveryId { sequence, subscription: id }, number: 1 }
}

/// A policy whose breaker opens at the second failure, for 1 s, then 2 s, with no jitter to speak of:
/// the bench's random number is 0, which takes a fifth away.
fn fragile() -> Policy {
    let breaker = Breaker { failures: Some(2), initial: ms(1_000), max: ms(10_000) };
    let retry =
        crate::subscription::Retry::Exponential { initial: ms(1), max: ms(1), jitter_permille: 0 };
    Policy { breaker, retry, attempts_max: None, age_max: ms(1_000_000), ..policy() }
}

#[test]
fn a_dependent_starts_once_its_main_is_durably_settled() {
    let mut bench = with_dependent();
    owe(&mut bench, 1, 0, &[DEPENDENT, LANE]);
    owe(&mut bench, 2, 0, &[DEPENDENT]);
    assert_eq!(served(&mut bench), [(1, 1), (2, 2)], "the second event has no main delivery");
    let _ = bench.end(of(DEPENDENT, 2), Outcome::Delivered);
    let ended = bench.end(of(LANE, 1), Outcome::Delivered);
    assert_eq!(ended.record, Some(Record::SettleMain(delivery(1))));
    assert!(served(&mut bench).is_empty());
    bench.dispatcher.settled(&[delivery(1)]);
    assert_eq!(served(&mut bench), [(2, 1)]);
    let ended = bench.end(of(DEPENDENT, 1), Outcome::Delivered);
    assert_eq!(ended.record, Some(Record::Settle(of(DEPENDENT, 1).delivery)));
}

#[test]
fn dependents_are_given_up_and_replayed_with_their_main() {
    let mut bench = with_dependent();
    for sequence in [1, 2] {
        owe(&mut bench, sequence, 0, &[LANE, DEPENDENT]);
    }
    let first = bench.take(1, 1);
    let reason = Reason::Status(404);
    let ended = bench.end(first, Outcome::Dead(reason.clone()));
    let delivery_of_dependent = of(DEPENDENT, 1).delivery;
    let letter = StoredDeadLetter {
        delivery: delivery_of_dependent,
        reason: Reason::Gate,
        attempts: 0,
        at_wall_ms: WALL_MS,
    };
    let expected = Completed { with: vec![Record::Dead(letter)], ..dead(1, reason, 1, 0) };
    assert_eq!(ended, expected);
    assert_eq!(bench.dispatcher.owed(), 4, "the second event, and the bystander's");
    let _ = bench.take(2, 1);
    assert!(bench.dispatcher.revived(&[delivery_of_dependent, delivery(1)], 0).is_empty());
    let _ = bench.end(of(LANE, 2), Outcome::Delivered);
    bench.dispatcher.settled(&[delivery(2)]);
    assert_eq!(served(&mut bench), [(1, 1), (2, 2)], "the dependent of 1 waits again");
}

#[test]
fn after_a_restart_a_dependent_waits_if_its_main_is_owed() {
    let mut bench = with_dependent();
    let none = HashMap::new();
    bench.dispatcher.recovered(LANE, [1].into_iter().collect(), &none);
    bench.dispatcher.recovered(DEPENDENT, [1, 2].into_iter().collect(), &none);
    bench.dispatcher.hold_recovered_dependents();
    assert_eq!(served(&mut bench), [(1, 1), (2, 2)]);
    assert_eq!(bench.stats(DEPENDENT).blocked, 1);
}

#[test]
fn dependents_of_a_removed_main_are_released() {
    let mut bench = with_dependent();
    owe(&mut bench, 1, 0, &[LANE, DEPENDENT]);
    assert_eq!(bench.dispatcher.remove_lane(LANE).len(), 1);
    assert_eq!(served(&mut bench), [(2, 1)]);

    let mut bench = with_dependent();
    owe(&mut bench, 1, 0, &[LANE, DEPENDENT]);
    bench.set(DEPENDENT, policy(), ACTIVE);
    assert_eq!(served(&mut bench), [(1, 1), (2, 1)]);
    bench.set(DEPENDENT, Policy { after: Some(LANE), ..policy() }, ACTIVE);
    let _ = bench.end(of(DEPENDENT, 1), Outcome::Interrupted);
    assert_eq!(served(&mut bench), [(2, 1)], "what was begun goes on");
}

#[test]
fn a_key_that_fails_holds_up_itself_alone() {
    let mut bench = bench(Policy { ordering: Ordering::PerKey, ..policy() });
    for (sequence, key_hash) in [(1, 7), (2, 8), (3, 7), (4, 8)] {
        owe(&mut bench, sequence, key_hash, &[LANE]);
    }
    bench.run(1, 1, retry());
    for sequence in [2, 4] {
        bench.run(sequence, 1, Outcome::Delivered);
    }
    assert_eq!((served(&mut bench), bench.stats(LANE).blocked), (vec![], 1));
    bench.pass_ms(1_000);
    bench.run(1, 2, Outcome::Dead(Reason::Status(400)));
    bench.take(3, 1);
}

#[test]
fn a_rate_limit_spaces_attempts() {
    let mut bench =
        bench(Policy { rate_limit: Some(RateLimit { events: 2, per: ms(500) }), ..policy() });
    bench.owe(1..=4);
    for sequence in [1, 2] {
        bench.run(sequence, 1, Outcome::Delivered);
        bench.pass_ms(10);
    }
    assert_eq!((bench.next(), bench.dispatcher.next_wake_ms()), (None, Some(500)));
    bench.pass_ms(480);
    bench.take(3, 1);
    assert_eq!(bench.next(), None);
    bench.pass_ms(10);
    bench.take(4, 1);
}

#[test]
fn an_open_breaker_admits_one_probe_at_a_time() {
    let mut bench = bench(fragile());
    bench.owe(1..=5);
    bench.run(1, 1, retry());
    bench.pass_ms(1);
    bench.run(1, 2, retry());
    assert_eq!(bench.dispatcher.next_wake_ms(), Some(2), "the delivery's own wait");
    bench.pass_ms(1);
    assert_eq!((bench.next(), bench.dispatcher.next_wake_ms()), (None, Some(801)));
    let stats = bench.stats(LANE);
    assert_eq!((stats.breaker_trips, stats.rests_for, stats.owed), (1, ms(799), 5));
    bench.pass_ms(799);
    let probe = bench.take(1, 3);
    assert_eq!(bench.next(), None, "one probe");
    let _ = bench.end(probe, retry());
    bench.pass_ms(1_599);
    assert_eq!(bench.next(), None, "twice the wait");
    bench.pass_ms(1);
    bench.run(1, 4, Outcome::Delivered);
    assert_eq!(served(&mut bench), [(1, 2), (1, 3)]);
}

#[test]
fn a_restart_keeps_the_breaker_and_the_failing_time() {
    let terms = Policy { disable_after: Some(ms(5_000)), ..fragile() };
    let mut before = bench(terms.clone());
    before.owe(1..=5);
    for number in [1, 2] {
        let attempt = before.take(1, number);
        before.now_ms += 1;
        let ended = before.end_whole(attempt, retry());
        let Some(Record::Health(LANE, health)) = ended.health else { panic!("{ended:?}") };
        assert_eq!(
            (health.failures_in_row, health.failing_for_ms),
            (number, 2 * u64::from(number) - 2)
        );
        before.pass_ms(1);
        if number == 2 {
            let mut after = bench(terms.clone());
            after.owe(1..=5);
            after.dispatcher.recovered_health(LANE, &health, 0, WALL_MS);
            assert_eq!((after.next(), after.dispatcher.next_wake_ms()), (None, Some(800)));
            // Each gap between failures counts for an eighth of the span, 625 ms, at most.
            for number in 1..=7 {
                after.pass_ms(10_000);
                let probe = after.take(1, number);
                assert_eq!(after.end(probe, retry()).disabled, None, "{number}");
            }
            after.pass_ms(10_000);
            let probe = after.take(1, 8);
            assert_eq!(after.end(probe, retry()).disabled, Some(Reason::Failing));
            after.pass_ms(100_000);
            assert_eq!((after.next(), after.stats(LANE).owed), (None, 5));
        }
    }
}

#[test]
fn a_pause_neither_shrinks_nor_adds_failing_time() {
    let mut bench = bench(fragile());
    bench.owe(1..=3);
    for number in [1, 2] {
        bench.run(1, number, retry());
        bench.pass_ms(10);
    }
    let failing_ms = |bench: &Bench| bench.stats(LANE).failing_for.as_millis();
    let set = |bench: &mut Bench, state| {
        bench.set(LANE, fragile(), state);
    };
    assert_eq!(failing_ms(&bench), 20);
    set(&mut bench, PAUSED);
    bench.pass_ms(100_000);
    assert_eq!(failing_ms(&bench), 20);
    // Another setting of a lane that is paused.
    set(&mut bench, PAUSED);
    assert_eq!(failing_ms(&bench), 20);
    set(&mut bench, ACTIVE);
    assert_eq!(failing_ms(&bench), 20);
    bench.pass_ms(5);
    assert_eq!(failing_ms(&bench), 25);
}

#[test]
fn a_retry_after_holds_the_whole_lane() {
    let mut bench = bench(policy());
    bench.owe(1..=3);
    let first = bench.take(1, 1);
    let asked = |wait| Outcome::Retry { reason: Reason::Status(429), retry_after: Some(wait) };
    let _ = bench.end(first, asked(ms(3_000)));
    bench.pass_ms(2_999);
    assert_eq!(bench.next(), None);
    bench.pass_ms(1);
    let second = bench.take(1, 2);
    let _ = bench.end(second, asked(ms(3_600_000)));
    bench.pass_ms(6_999);
    assert_eq!(bench.next(), None);
    // The age of the delivery ends: its last attempt.
    bench.pass_ms(1);
    bench.take(1, 3);
}

#[test]
fn a_backlog_behind_an_open_breaker_costs_nothing() {
    let mut bench = bench(fragile());
    bench.dispatcher.recovered(LANE, (1..=1_000_000).collect(), &HashMap::new());
    for number in [1, 2] {
        bench.run(1, number, retry());
        bench.pass_ms(1);
    }
    let mut ticks = 0;
    while bench.now_ms < 60_000 {
        let wake_ms = bench.dispatcher.next_wake_ms().unwrap();
        assert!(wake_ms > bench.now_ms, "nothing is left to do now");
        bench.pass_ms(wake_ms - bench.now_ms);
        ticks += 1;
        if let Some(probe) = bench.next() {
            let _ = bench.end(probe, retry());
        }
    }
    // Each probe, and the wait of its delivery.
    assert!(ticks < 40, "{ticks} ticks in a minute");
    assert_eq!(bench.stats(LANE).owed, 1_000_000);
}

#[test]
fn an_ordered_lane_retries_within_the_breakers_longest_rest() {
    let hour = Duration::from_secs(3_600);
    let slow = Policy {
        retry: crate::subscription::Retry::Linear { step: hour, max: hour },
        attempts_max: None,
        age_max: 24 * hour,
        ..fragile()
    };
    for (ordering, wait_ms) in [(Ordering::Strict, 10_000), (Ordering::None, 3_600_000)] {
        let mut bench = bench(Policy { ordering, ..slow.clone() });
        bench.owe([1]);
        let first = bench.take(1, 1);
        assert_eq!(bench.end(first, retry()), waits(1, 1, 0, 0, wait_ms));
    }
}
