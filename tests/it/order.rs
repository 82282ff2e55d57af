//! Order where it is asked for, and only there: by key, of a whole lane, and of a dependent behind its
//! main subscription, also over restarts.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use wabahook::{
    Breaker, DeadLetterFilter, Event, LaneStats, Notice, Ordering, Policy, Reason, Stats,
    Subscription, SubscriptionId,
};

use crate::world::{Answer, Arrival, DEADLINE, World, quick, quick_policy};

/// Begins the chance by which an endpoint fails.
const SEED: u64 = 4;

/// The longest wait of [`quick`]: after it, everything that waits is due.
const LONGEST_WAIT_MS: u64 = 3_000;

fn event(key: &str, place: u64) -> Event {
    Event::new("ADD_TAG", format!("{key} {place}")).number("919999999999").key(key)
}

fn publish_all(world: &World, events: Vec<Event>) {
    world.engine.publish_many(events).unwrap().wait_timeout(DEADLINE).unwrap().unwrap();
}

/// Tries again after 1 s, 2 s, 3 s, and is never left alone.
fn ordered(host: &str, ordering: Ordering) -> Subscription {
    let breaker = Breaker { failures: None, ..Breaker::default() };
    quick(host).policy(Policy { ordering, breaker, ..quick_policy() })
}

/// The key and the place of what arrived.
fn told(arrival: &Arrival) -> (String, u64) {
    let body = String::from_utf8(arrival.body.clone()).unwrap();
    let (key, place) = body.split_once(' ').unwrap();
    (key.to_owned(), place.parse().unwrap())
}

/// Fails a third of the attempts, each by a chance of its own.
fn fails_a_third(arrival: &Arrival) -> u16 {
    let mut chance = DefaultHasher::new();
    (SEED, &arrival.body, arrival.attempt).hash(&mut chance);
    if chance.finish().is_multiple_of(3) { 503 } else { 200 }
}

/// Takes everything but what has the key `stubborn`.
fn refuses_one_key(arrival: &Arrival) -> u16 {
    if arrival.body.starts_with(b"stubborn") { 503 } else { 200 }
}

fn lane(stats: &Stats, id: SubscriptionId) -> LaneStats {
    let found = stats.lanes.iter().find(|lane| lane.subscription == id);
    found.cloned().unwrap_or_default()
}

/// Moves the clock whenever nothing goes on without that, until everything is delivered.
fn deliver_all(world: &World, id: SubscriptionId) {
    let stands_still = |stats: &Stats| {
        let lane = lane(stats, id);
        lane.in_flight == 0 && lane.retrying + lane.blocked == lane.owed
    };
    while world.wait_until(stands_still).owed > 0 {
        let attempts = world.engine.stats().attempts;
        world.clock.advance_ms(LONGEST_WAIT_MS);
        world.wait_until(|stats| stats.attempts > attempts);
    }
}

/// What arrived, by key: each event until it is taken, and then the next.
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
fn each_of_many_keys_arrives_in_its_order_through_an_endpoint_that_fails_a_third() {
    let world = World::new();
    world.receivers.script("crm", &[Answer::Judges(fails_a_third)]);
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
fn a_strict_lane_is_served_in_the_order_published_whatever_the_keys() {
    let world = World::new();
    world.receivers.script("crm", &[Answer::Judges(fails_a_third)]);
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
fn a_key_that_never_succeeds_holds_up_its_own_events_alone_and_those_without_a_key_go() {
    let world = World::new();
    world.receivers.script("crm", &[Answer::Judges(refuses_one_key)]);
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
        world.clock.advance_ms(LONGEST_WAIT_MS);
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

/// A main subscription of three attempts, two that wait for it, and one that waits for nobody.
fn gated(world: &World) -> [SubscriptionId; 4] {
    let policy = Policy { attempts_max: Some(3), ..quick_policy() };
    let main = world.engine.subscribe(quick("main").policy(policy)).unwrap();
    let waits = ["w1", "w2"].map(|host| world.engine.subscribe(quick(host).after(main)).unwrap());
    [main, waits[0], waits[1], world.subscribe("bystander")]
}

/// An event whose main delivery has failed before and after a restart.
fn failed_over_a_restart() -> (World, [SubscriptionId; 4], String) {
    let world = World::new();
    world.receivers.script("main", &[Answer::Status(503)]);
    let ids = gated(&world);
    let id = world.publish("ADD_TAG", "{}").id.to_string();
    world.wait_until(|stats| (stats.retried, stats.delivered) == (1, 1));
    let hosts = ["main", "w1", "w2", "bystander"];
    assert_eq!(hosts.map(|host| world.receivers.at(host).len()), [1, 0, 0, 1]);
    let again = world.reopened();
    assert_eq!(again.engine.stats().recovered, 3);
    again.receivers.script("main", &[Answer::Status(503)]);
    again.clock.advance_ms(1_000);
    let stats = again.wait_until(|stats| stats.retried == 1);
    let blocked: u64 = stats.lanes.iter().map(|lane| lane.blocked).sum();
    assert_eq!((blocked, stats.owed), (2, 3), "both wait on");
    (again, ids, id)
}

#[test]
fn those_that_wait_go_when_the_main_delivery_succeeds_two_restarts_later() {
    let (world, _, id) = failed_over_a_restart();
    let world = world.reopened();
    world.clock.advance_ms(2_000);
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
fn those_that_wait_die_with_a_main_delivery_after_a_restart_are_told_and_come_back_with_it() {
    let (world, [main, first, second, bystander], id) = failed_over_a_restart();
    let notices = world.engine.notices();
    world.clock.advance_ms(2_000);
    let stats = world.wait_until(|stats| stats.dead == 3);
    assert_eq!((stats.owed, stats.delivered), (0, 0));
    assert_eq!([main, first, second].map(|id| lane(&stats, id).dead), [1, 1, 1]);
    assert_eq!(lane(&stats, bystander), LaneStats::default());
    let gave_up = [(main, Reason::Status(503)), (first, Reason::Gate), (second, Reason::Gate)];
    for told in &gave_up {
        match notices.next_timeout(DEADLINE) {
            Some(Notice::Died { event, subscription, reason }) => {
                assert_eq!((event.to_string(), &(subscription, reason)), (id.clone(), told));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(notices.next_timeout(Duration::ZERO), None);

    let world = world.reopened();
    let mut letters = world.engine.dead_letters(&DeadLetterFilter::default(), None, 10).unwrap();
    letters.sort_unstable_by_key(|letter| letter.subscription);
    let listed = letters.iter().map(|letter| (letter.subscription, letter.reason.clone()));
    assert_eq!(listed.collect::<Vec<_>>(), gave_up);
    world.receivers.script("main", &[Answer::Status(503), Answer::Status(200)]);
    world.engine.replay(&letters[0]).unwrap();
    world.wait_until(|stats| stats.retried == 1);
    assert!(["w1", "w2"].iter().all(|host| world.receivers.at(host).is_empty()));
    let world = world.reopened();
    assert_eq!(world.engine.stats().recovered, 3);
    world.clock.advance_ms(1_000);
    world.wait_until(|stats| (stats.delivered, stats.owed) == (3, 0));
    for (host, attempt) in [("main", 2), ("w1", 1), ("w2", 1)] {
        let arrivals = world.receivers.at(host);
        let seen: Vec<_> = arrivals.iter().map(|one| (one.id.clone(), one.attempt)).collect();
        assert_eq!(seen, [(id.clone(), attempt)], "{host}");
    }
    assert!(world.receivers.at("bystander").is_empty());
}
