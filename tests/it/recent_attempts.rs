//! The recent attempts kept in memory: what they record, for which account, and how many are kept.

use std::time::Duration;

use wabahook::policy::{Policy, Retry};
use wabahook::{Failure, Limits, Reason, RecentAttempt, RecentOutcome};

use crate::world::{BEGIN_WALL_MS, World, quick};
use wabahook::testing::ScriptedReply;

fn words(attempts: &[RecentAttempt]) -> Vec<(&'static str, u32, Option<u16>)> {
    let word = |attempt: &RecentAttempt| (attempt.outcome.as_str(), attempt.number, attempt.status);
    attempts.iter().map(word).collect()
}

#[test]
fn recent_attempts_are_listed_newest_first_until_a_restart() {
    let world = World::new();
    world.receivers.script(
        "crm",
        &[
            ScriptedReply::Status(503),
            ScriptedReply::Fails(Failure::Dns),
            ScriptedReply::Status(204),
        ],
    );
    world.receivers.script("dead", &[ScriptedReply::Status(404)]);
    let (crm, dead) = (world.subscribe("crm"), world.subscribe("dead"));
    let bystander = world.subscribe("bystander");
    let accepted = world.publish("Message Received", "{}");
    world.wait_until(|stats| (stats.retried, stats.delivered, stats.dead) == (1, 1, 1));
    world.clock.advance(Duration::from_millis(1_000));
    world.wait_until(|stats| stats.retried == 2);
    world.clock.advance(Duration::from_millis(2_000));
    world.wait_until(|stats| stats.delivered == 2);
    let found = world.engine.recent_attempts(crm, 10);
    let expected = [("delivered", 3, Some(204)), ("retry", 2, None), ("retry", 1, Some(503))];
    assert_eq!(words(&found), expected);
    assert_eq!(words(&world.engine.recent_attempts(crm, 1)), expected[..1]);
    assert_eq!(words(&world.engine.recent_attempts(dead, 10)), [("dead", 1, Some(404))]);
    assert_eq!(words(&world.engine.recent_attempts(bystander, 10)), [("delivered", 1, Some(200))]);
    let [last, _, first] = &found[..] else { panic!("{found:?}") };
    assert_eq!((last.event, first.event), (accepted.id, accepted.id));
    assert_eq!(last.event_type.as_ref().unwrap().as_str(), "MESSAGE_RECEIVED");
    assert_eq!((last.at_ms, first.at_ms), (BEGIN_WALL_MS + 3_000, BEGIN_WALL_MS));
    assert_eq!((&last.reason, &first.reason), (&None, &Some(Reason::Status(503))));
    let world = world.reopened();
    assert!(world.engine.recent_attempts(crm, 10).is_empty());
}

#[test]
fn an_exhausted_delivery_is_listed_as_dead() {
    let limits = Limits::default().recent_attempts_each_max(1);
    let world = World::with(|config| config.limits(limits));
    world.receivers.script("crm", &[ScriptedReply::Status(500)]);
    let policy = Policy::default()
        .retry(Retry::List { delays: vec![Duration::from_millis(10)] })
        .attempts_max(Some(2));
    let crm = world.engine.subscribe(quick("crm").policy(policy)).unwrap();
    let bystander = world.subscribe("bystander");
    world.publish("ADD_TAG", "{}");
    world.wait_until(|stats| stats.retried == 1 && stats.delivered == 1);
    world.clock.advance(Duration::from_millis(10));
    world.wait_until(|stats| stats.dead == 1);
    assert_eq!(words(&world.engine.recent_attempts(crm, 10)), [("dead", 2, Some(500))]);
    let others = world.engine.recent_attempts(bystander, 10);
    assert_eq!(others[0].outcome, RecentOutcome::Delivered);
}
