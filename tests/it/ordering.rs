//! Ordering where it is configured, and only there: per key, per lane, and of a dependent subscription
//! after its main one, also across restarts.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use wabahook::policy::{Breaker, Ordering};
use wabahook::{
    DeadLetterFilter, Event, LaneStats, Notice, Reason, Stats, Subscription, SubscriptionId,
};

use crate::world::{DEADLINE, World, quick, quick_policy};
use wabahook::testing::Arrival;
use wabahook::testing::ScriptedReply;

/// The seed by which an endpoint fails.
const SEED: u64 = 4;

/// The longest backoff of [`quick`]. After it, everything in retry is due.
const LONGEST_WAIT_MS: u64 = 3_000;

fn event(key: &str, place: u64) -> Event {
    Event::new("ADD_TAG", format!("{key} {place}")).number("919999999999").key(key)
}

fn publish_all(world: &World, events: Vec<Event>) {
    world.engine.publish_many(events).unwrap().wait_timeout(DEADLINE).unwrap().unwrap();
}

/// Retries after 1 s, 2 s, 3 s, and its breaker never opens.
fn ordered(host: &str, ordering: Ordering) -> Subscription {
    let breaker = Breaker::default().failures(None);
    quick(host).policy(quick_policy().ordering(ordering).breaker(breaker))
}

/// The key of what arrived, and its number within the key.
fn told(arrival: &Arrival) -> (String, u64) {
    let body = String::from_utf8(arrival.body.clone()).unwrap();
    let (key, place) = body.split_once(' ').unwrap();
    (key.to_owned(), place.parse().unwrap())
}

/// Fails a third of the attempts, each independently.
fn fails_a_third(arrival: &Arrival) -> u16 {
    let mut chance = DefaultHasher::new();
    (SEED, &arrival.body, arrival.attempt).hash(&mut chance);
    if chance.finish().is_multiple_of(3) { 503 } else { 200 }
}

/// Accepts everything except what has the key `stubborn`.
fn refuses_one_key(arrival: &Arrival) -> u16 {
    if arrival.body.starts_with(b"stubborn") { 503 } else { 200 }
}

fn lane(stats: &Stats, id: SubscriptionId) -> LaneStats {
    let found = stats.lanes.iter().find(|lane| lane.subscription == id);
    found.cloned().unwrap_or_default()
}

/// Advances the clock whenever nothing is ready, until everything is delivered.
fn deliver_all(world: &World, id: SubscriptionId) {
    let stands_still = |stats: &Stats| {
        let lane = lane(stats, id);
        lane.in_flight == 0 && lane.retrying + lane.blocked == lane.owed
    };
    while world.wait_until(stands_still).owed > 0 {
        let attempts = world.engine.stats().attempts;
        world.clock.advance(Duration::from_millis(LONGEST_WAIT_MS));
        world.wait_until(|stats| stats.attempts > attempts);
    }
}

/// What arrived, by key. Each event must be accepted before the next one is tried.
fn check_in_order(arrivals: &[Arrival], places: u64) -> BTreeMap<String, Vec<Arrival>> {
    let mut by_key = BTreeMap::<String, Vec<Arrival>>::new();
    for arrival in arrivals {
        by_key.entry(told(arrival).0).or_default().push(arrival.clone());
    }
    for (key, arrivals) in &by_key {
        let (mut place, mut attempt) = (0, 1);
        for arrival in arrivals {
            assert_eq!((told(arrival).1, arrival.attempt), (place, attempt), "of {key}");
            match fails_a_third(arrival) {
                200 => (place, attempt) = (place + 1, 1),
                _ => attempt += 1,
            }
        }
        assert_eq!(place, places, "of {key}");
    }
    by_key
}

#[test]
fn every_key_stays_in_order_through_failures() {
    let world = World::new();
    world.receivers.script("crm", &[ScriptedReply::Judges(fails_a_third)]);
    let id = world.engine.subscribe(ordered("crm", Ordering::PerKey)).unwrap();
    world.subscribe("bystander");
    let (keys, places) = (50, 200);
    let of_all = |place| (0..keys).map(move |key| event(&format!("k{key}"), place));
    publish_all(&world, (0..places).flat_map(of_all).collect());
    world.wait_until(|stats| lane(stats, id).owed == stats.owed);
    let without_the_clock = world.receivers.at("bystander").len() as u64;
    deliver_all(&world, id);
    let arrivals = world.receivers.at("crm");
    assert_eq!(check_in_order(&arrivals, places).len() as u64, keys);
    let failed = arrivals.iter().filter(|arrival| fails_a_third(arrival) != 200).count();
    assert!(failed * 4 > arrivals.len() && failed * 5 < arrivals.len() * 2, "{failed}");
    let bystanders = world.receivers.at("bystander").len() as u64;
    assert_eq!((without_the_clock, bystanders), (keys * places, keys * places));
}

#[test]
fn a_strict_lane_ignores_keys() {
    let world = World::new();
    world.receivers.script("crm", &[ScriptedReply::Judges(fails_a_third)]);
    let id = world.engine.subscribe(ordered("crm", Ordering::Strict)).unwrap();
    let bystander = world.subscribe("bystander");
    let places = 60;
    let any_key = |place: u64| {
        let key = format!("k{}", place % 7);
        Event::new("ADD_TAG", format!("all {place}")).number("919999999999").key(key)
    };
    publish_all(&world, (0..places).map(any_key).collect());
    world.wait_until(|stats| lane(stats, bystander).delivered == places);
    deliver_all(&world, id);
    check_in_order(&world.receivers.at("crm"), places);
    assert_eq!(world.receivers.at("bystander").len() as u64, places);
}

#[test]
fn a_failing_key_blocks_only_its_own_events() {
    let world = World::new();
    world.receivers.script("crm", &[ScriptedReply::Judges(refuses_one_key)]);
    let id = world.engine.subscribe(ordered("crm", Ordering::PerKey)).unwrap();
    let bystander = world.subscribe("bystander");
    let of_all = |place| {
        let unkeyed = Event::new("ADD_TAG", format!("unkeyed {place}")).number("919999999999");
        let keyed = ["stubborn", "a", "b"].map(|key| event(key, place));
        keyed.into_iter().chain([unkeyed])
    };
    publish_all(&world, (0..20).flat_map(of_all).collect());
    for attempts in 1..=5 {
        world.wait_until(|stats| {
            let (of_crm, of_bystander) = (lane(stats, id), lane(stats, bystander));
            (of_crm.retried, of_crm.delivered, of_bystander.delivered) == (attempts, 60, 80)
        });
        let now = lane(&world.engine.stats(), id);
        assert_eq!((now.owed, now.retrying, now.blocked), (20, 1, 19));
        world.clock.advance(Duration::from_millis(LONGEST_WAIT_MS));
    }
    let arrivals = world.receivers.at("crm");
    let places_of = |wanted: &str| -> Vec<u64> {
        let told = arrivals.iter().map(told);
        told.filter(|(key, _)| key == wanted).map(|(_, place)| place).collect()
    };
    assert_eq!([places_of("a"), places_of("b")], [(); 2].map(|()| (0..20).collect::<Vec<_>>()));
    assert_eq!(places_of("unkeyed").len(), 20);
    assert!(places_of("stubborn").iter().all(|place| *place == 0));
    assert_eq!(world.receivers.at("bystander").len(), 80);
}

/// A main subscription of three attempts, two that depend on it, and one that depends on none.
fn gated(world: &World) -> [SubscriptionId; 4] {
    let policy = quick_policy().attempts_max(Some(3));
    let main = world.engine.subscribe(quick("main").policy(policy)).unwrap();
    let waits = ["w1", "w2"].map(|host| world.engine.subscribe(quick(host).after(main)).unwrap());
    [main, waits[0], waits[1], world.subscribe("bystander")]
}

/// An event whose main delivery failed before and after a restart.
fn failed_over_a_restart() -> (World, [SubscriptionId; 4], String) {
    let world = World::new();
    world.receivers.script("main", &[ScriptedReply::Status(503)]);
    let ids = gated(&world);
    let id = world.publish("ADD_TAG", "{}").id.to_string();
    world.wait_until(|stats| (stats.retried, stats.delivered) == (1, 1));
    let hosts = ["main", "w1", "w2", "bystander"];
    assert_eq!(hosts.map(|host| world.receivers.at(host).len()), [1, 0, 0, 1]);
    let again = world.reopened();
    assert_eq!(again.engine.stats().recovered, 3);
    again.receivers.script("main", &[ScriptedReply::Status(503)]);
    again.clock.advance(Duration::from_millis(1_000));
    let stats = again.wait_until(|stats| stats.retried == 1);
    let blocked: u64 = stats.lanes.iter().map(|lane| lane.blocked).sum();
    assert_eq!((blocked, stats.owed), (2, 3), "both wait on");
    (again, ids, id)
}

#[test]
fn dependents_go_when_the_main_delivery_succeeds() {
    let (world, _, id) = failed_over_a_restart();
    let world = world.reopened();
    world.clock.advance(Duration::from_millis(2_000));
    world.wait_until(|stats| (stats.delivered, stats.owed) == (3, 0));
    for (host, attempt) in [("main", 3), ("w1", 1), ("w2", 1)] {
        let arrivals = world.receivers.at(host);
        let seen: Vec<_> = arrivals.iter().map(|one| (one.id.clone(), one.attempt)).collect();
        assert_eq!(seen, [(id.clone(), attempt)], "{host}");
    }
    assert!(world.receivers.at("bystander").is_empty());
    assert_eq!(world.reopened().engine.stats().recovered, 0);
}

#[test]
fn dependents_die_and_come_back_with_the_main_delivery() {
    let (world, [main, first, second, bystander], id) = failed_over_a_restart();
    let notices = world.engine.notices();
    world.clock.advance(Duration::from_millis(2_000));
    let stats = world.wait_until(|stats| stats.dead == 3);
    assert_eq!((stats.owed, stats.delivered), (0, 0));
    assert_eq!([main, first, second].map(|id| lane(&stats, id).dead), [1, 1, 1]);
    assert_eq!(lane(&stats, bystander), LaneStats::default());
    let gave_up = [(main, Reason::Status(503)), (first, Reason::Gate), (second, Reason::Gate)];
    for told in &gave_up {
        match notices.next_timeout(DEADLINE) {
            Some(Notice::DeadLettered { event, subscription, reason }) => {
                assert_eq!((event.to_string(), &(subscription, reason)), (id.clone(), told));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(notices.next_timeout(Duration::ZERO), None);

    let world = world.reopened();
    let mut letters =
        world.engine.dead_letters(&DeadLetterFilter::default(), None, 10).unwrap().items;
    letters.sort_unstable_by_key(|letter| letter.subscription);
    let listed = letters.iter().map(|letter| (letter.subscription, letter.reason.clone()));
    assert_eq!(listed.collect::<Vec<_>>(), gave_up);
    world.receivers.script("main", &[ScriptedReply::Status(503), ScriptedReply::Status(200)]);
    world.engine.replay(&letters[0]).unwrap();
    world.wait_until(|stats| stats.retried == 1);
    assert!(["w1", "w2"].iter().all(|host| world.receivers.at(host).is_empty()));
    let world = world.reopened();
    assert_eq!(world.engine.stats().recovered, 3);
    world.clock.advance(Duration::from_millis(1_000));
    world.wait_until(|stats| (stats.delivered, stats.owed) == (3, 0));
    for (host, attempt) in [("main", 2), ("w1", 1), ("w2", 1)] {
        let arrivals = world.receivers.at(host);
        let seen: Vec<_> = arrivals.iter().map(|one| (one.id.clone(), one.attempt)).collect();
        assert_eq!(seen, [(id.clone(), attempt)], "{host}");
    }
    assert!(world.receivers.at("bystander").is_empty());
}
