//! How an engine ends: closed, dropped, or failed.

use std::time::{Duration, Instant};

use wabahook::{Config, Engine, Error, Event};

use crate::world::{DEADLINE, World};
use wabahook::testing::ScriptedReply;

#[test]
fn close_waits_for_attempts_in_flight_and_not_the_backlog() {
    let world = World::new();
    world.receivers.script("crm", &[ScriptedReply::Hangs]);
    world.subscribe("crm");
    (0..100).for_each(|_| {
        world.publish("ADD_TAG", "{}");
    });
    world.receivers.wait_for("crm", 1);
    let began = Instant::now();
    world.engine.close(Duration::from_millis(100)).unwrap();
    assert!(began.elapsed() >= Duration::from_millis(100), "it was given its time");
    let again = world.after_a_power_cut();
    assert_eq!(again.engine.stats().recovered, 100, "an interrupted attempt is still owed");
    assert_eq!(again.receivers.wait_for("crm", 100)[0].attempt, 1, "and it did not count");
}

#[test]
fn a_closed_engine_refuses_and_a_second_close_does_nothing() {
    let world = World::new();
    let id = world.subscribe("crm");
    let clone = world.engine.clone();
    world.engine.close(DEADLINE).unwrap();
    clone.close(DEADLINE).unwrap();
    assert!(matches!(clone.publish(Event::new("ADD_TAG", "")).unwrap_err().error, Error::Closed));
    assert!(matches!(clone.publish_many(Vec::new()).unwrap_err().error, Error::Closed));
    assert!(matches!(clone.subscribe(crate::world::quick("x")), Err(Error::Closed)));
    assert!(matches!(clone.unsubscribe(id), Err(Error::Closed)));
}

#[test]
fn an_event_queued_at_close_is_durable_or_refused() {
    let world = World::new();
    world.subscribe("crm");
    let event = || Event::new("ADD_TAG", "{}").number("919999999999");
    let receipts: Vec<_> = (0..500).map(|_| world.engine.publish(event()).unwrap()).collect();
    world.engine.close(Duration::ZERO).unwrap();
    let accepted = receipts.into_iter().filter(|r| {
        r.wait_timeout(Duration::ZERO).expect("resolved by the time close returns").is_ok()
    });
    let accepted = accepted.count() as u64;
    let delivered = world.engine.stats().delivered;
    let again = world.after_a_power_cut();
    assert_eq!(again.engine.stats().recovered, accepted - delivered);
}

#[test]
fn a_dropped_engine_frees_its_directory_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let engine = Engine::open(Config::new(directory.path())).unwrap();
    engine.subscribe(crate::world::quick("crm.invalid")).unwrap();
    engine.close(DEADLINE).unwrap();
    let clone = engine.clone();
    drop(engine);
    let again = Engine::open(Config::new(directory.path())).unwrap();
    assert_eq!(again.subscriptions().len(), 1);
    drop(clone);
}
