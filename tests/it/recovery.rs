//! I2, I3: after a power cut the same deliveries are owed with the same ids, and no others.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use wabahook::clock::ManualClock;
use wabahook::store::{Batch, Memory, Store};
use wabahook::{Failure, Notice, SubscriptionId};

use crate::world::{BEGIN_WALL_MS, DEADLINE, World};
use wabahook::testing::ScriptedReply;

#[test]
fn owed_deliveries_survive_a_power_cut_with_their_ids() {
    let world = World::new();
    world.receivers.script("crm", &[ScriptedReply::Hangs]);
    world.subscribe("crm");
    world.subscribe("bystander");
    let ids: BTreeSet<String> =
        (0..300).map(|n| world.publish("ADD_TAG", &format!("{n}")).id.to_string()).collect();
    world.wait_until(|stats| stats.delivered == 300);
    // Settles become durable with the next group, so one more publish makes the earlier ones durable.
    world.publish("ADD_TAG", "last");
    let again = world.after_a_power_cut();
    let owed = again.engine.stats().recovered;
    assert!((301..=302).contains(&owed), "{owed} owed: the bystander has settled all but the last");
    let arrivals = again.receivers.wait_for("crm", 301);
    let arrived: BTreeSet<String> = arrivals.iter().map(|arrival| arrival.id.clone()).collect();
    assert!(arrived.is_superset(&ids));
    assert_eq!(arrived.len(), 301);
    let after = again.publish("ADD_TAG", "after");
    assert!(!arrived.contains(&after.id.to_string()), "ids are not given twice");
}

#[test]
fn retries_keep_number_due_time_and_age_across_a_restart() {
    let world = World::new();
    world.receivers.script("crm", &[ScriptedReply::Status(503)]);
    world.subscribe("crm");
    world.publish("ADD_TAG", "{}");
    world.wait_until(|stats| stats.retried == 1);
    world.engine.close(DEADLINE).unwrap();
    let again = world.after_a_power_cut();
    assert!(again.receivers.at("crm").is_empty());
    again.clock.advance(Duration::from_millis(999));
    assert_eq!(again.engine.stats().attempts, 0);
    again.clock.advance(Duration::from_millis(1));
    assert_eq!(again.receivers.wait_for("crm", 1)[0].attempt, 2);
}

#[test]
fn a_clock_jump_expires_nothing_and_delays_little() {
    for wall_ms in [0, BEGIN_WALL_MS * 2] {
        let world = World::new();
        world.receivers.script("crm", &[ScriptedReply::Status(503)]);
        world.subscribe("crm");
        world.publish("ADD_TAG", "{}");
        world.wait_until(|stats| stats.retried == 1);
        world.engine.close(DEADLINE).unwrap();
        let clock = Arc::new(ManualClock::new(wall_ms, 5));
        let again = World::on(world.store.crash(), clock.clone(), |config| config);
        clock.advance(Duration::from_millis(1_000));
        again.receivers.wait_for("crm", 1);
        let stats = again.wait_until(|stats| stats.delivered == 1);
        assert_eq!(stats.dead, 0, "from wall time {wall_ms}");
    }
}

#[test]
fn a_dead_letter_does_not_come_back() {
    let world = World::new();
    world.receivers.script("crm", &[ScriptedReply::Fails(Failure::Guard("private".to_owned()))]);
    world.subscribe("crm");
    world.subscribe("bystander");
    world.publish("ADD_TAG", "{}");
    world.wait_until(|stats| stats.dead == 1 && stats.delivered == 1);
    world.engine.close(DEADLINE).unwrap();
    let again = world.after_a_power_cut();
    assert_eq!(again.engine.stats().recovered, 0);
}

#[test]
fn a_removed_subscription_and_its_deliveries_stay_removed() {
    let world = World::new();
    let notices = world.engine.notices();
    world.receivers.script("crm", &[ScriptedReply::Status(503)]);
    world.receivers.script("bystander", &[ScriptedReply::Status(503)]);
    let id = world.subscribe("crm");
    world.subscribe("bystander");
    (0..3).for_each(|_| {
        world.publish("ADD_TAG", "{}");
    });
    world.wait_until(|stats| stats.retried == 6);
    world.engine.unsubscribe(id).unwrap();
    let cancelled = Notice::Cancelled { subscription: id, deliveries: 3 };
    assert_eq!(notices.next_timeout(DEADLINE), Some(cancelled));
    let stats = world.engine.stats();
    assert_eq!((stats.cancelled, stats.owed), (3, 3));
    let again = world.after_a_power_cut();
    let stats = again.engine.stats();
    assert_eq!((stats.recovered, stats.cancelled, stats.subscriptions), (3, 3, 1));
    again.clock.advance(Duration::from_millis(1_000));
    again.receivers.wait_for("bystander", 3);
    assert!(again.receivers.at("crm").is_empty());
    assert_ne!(again.subscribe("crm"), id, "ids are not given twice");
}

#[test]
fn deliveries_of_an_unknown_subscription_are_held() {
    let world = World::new();
    world.receivers.script("crm", &[ScriptedReply::Status(503)]);
    let id = world.subscribe("crm");
    world.subscribe("bystander");
    world.publish("ADD_TAG", "{}");
    world.wait_until(|stats| stats.retried == 1 && stats.delivered == 1);
    world.engine.close(DEADLINE).unwrap();
    let store = world.store.crash();
    lose_from_the_book(&store, id);
    let again = World::on(store, world.clock.clone(), |config| config);
    let held = Notice::Held { subscription: id, deliveries: 1 };
    assert_eq!(again.engine.notices().try_next(), Some(held));
    let stats = again.engine.stats();
    assert_eq!((stats.held, stats.owed, stats.subscriptions), (1, 1, 1));
}

/// Damages the subscription store as a lost disk block would: the record of one subscription is gone.
fn lose_from_the_book(store: &Memory, id: SubscriptionId) {
    let book = store.open("book").unwrap();
    let mut batch = Batch::default();
    batch.remove([&b"s"[..], &id.0.to_be_bytes(), &0_u16.to_be_bytes()].concat());
    book.commit(vec![batch]).unwrap();
}
