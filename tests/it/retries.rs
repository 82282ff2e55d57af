//! What happens to a delivery whose attempts fail, next to a bystander that must not be affected.

use std::time::Duration;

use wabahook::policy::{Policy, Retry};
use wabahook::{
    DeadLetterFilter, DeliveryControl, Event, Failure, Notice, Reason, Subscription,
    SubscriptionState,
};

use crate::world::{DEADLINE, World, quick, quick_policy};
use wabahook::testing::ScriptedReply;

#[test]
fn a_failed_attempt_is_retried_when_due_with_the_same_id() {
    let world = World::new();
    world.receivers.script(
        "crm",
        &[ScriptedReply::Status(503), ScriptedReply::Status(500), ScriptedReply::Status(200)],
    );
    world.subscribe("crm");
    world.subscribe("bystander");
    let accepted = world.publish("ADD_TAG", "{}");
    world.wait_until(|stats| stats.retried == 1 && stats.delivered == 1);
    world.clock.advance(Duration::from_millis(999));
    assert_eq!(world.receivers.at("crm").len(), 1);
    world.clock.advance(Duration::from_millis(1));
    world.wait_until(|stats| stats.retried == 2);
    world.clock.advance(Duration::from_millis(1_999));
    assert_eq!(world.receivers.at("crm").len(), 2);
    world.clock.advance(Duration::from_millis(1));
    world.wait_until(|stats| stats.delivered == 2);
    let arrivals = world.receivers.at("crm");
    assert_eq!(arrivals.iter().map(|a| a.attempt).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(arrivals.iter().all(|arrival| arrival.id == accepted.id.to_string()));
    assert_eq!(world.receivers.at("bystander").len(), 1);
    assert_eq!(world.engine.stats().owed, 0);
}

#[test]
fn a_retry_after_later_than_the_backoff_is_kept() {
    let world = World::new();
    world.receivers.script(
        "crm",
        &[ScriptedReply::RetryAfter(429, Duration::from_secs(60)), ScriptedReply::Status(200)],
    );
    world.subscribe("crm");
    world.publish("ADD_TAG", "{}");
    world.wait_until(|stats| stats.retried == 1);
    world.clock.advance(Duration::from_millis(59_999));
    assert_eq!(world.receivers.at("crm").len(), 1);
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(world.receivers.wait_for("crm", 2).len(), 2);
}

#[test]
fn retry_after_pauses_the_whole_endpoint() {
    let world = World::new();
    world.receivers.script(
        "crm",
        &[ScriptedReply::RetryAfter(429, Duration::from_secs(60)), ScriptedReply::Status(200)],
    );
    world.subscribe("crm");
    world.subscribe("bystander");
    world.publish("ADD_TAG", "1");
    world.wait_until(|stats| (stats.retried, stats.delivered) == (1, 1));
    world.publish("ADD_TAG", "2");
    world.clock.advance(Duration::from_millis(59_999));
    world.publish("ADD_TAG", "3");
    let stats = world.wait_until(|stats| stats.delivered == 3);
    assert_eq!((stats.owed, stats.lanes[0].rests_for), (3, Duration::from_millis(1)));
    assert_eq!(world.receivers.at("crm").len(), 1);
    world.clock.advance(Duration::from_millis(1));
    world.wait_until(|stats| stats.delivered == 6);
    let bodies: Vec<_> = world.receivers.at("crm").into_iter().map(|one| one.body).collect();
    assert_eq!(bodies[..2], [b"1", b"1"], "what failed goes first");
    assert_eq!((bodies.len(), world.receivers.at("bystander").len()), (4, 3));
}

/// One delivery that dies by these answers, next to one that is delivered.
fn check_dead(answers: &[ScriptedReply], policy: Policy, advances_ms: &[u64], reason: &Reason) {
    let world = World::new();
    let notices = world.engine.notices();
    world.receivers.script("dies", answers);
    let id = world.engine.subscribe(quick("dies").policy(policy)).unwrap();
    world.subscribe("bystander");
    let accepted = world.publish("ADD_TAG", "{}");
    for (n, advance_ms) in (1..).zip(advances_ms) {
        world.wait_until(|stats| stats.retried == n);
        world.clock.advance(Duration::from_millis(*advance_ms));
    }
    let stats = world.wait_until(|stats| stats.dead == 1 && stats.delivered == 1);
    assert_eq!((stats.owed, stats.lanes.len()), (0, 2));
    let died =
        Notice::DeadLettered { event: accepted.id, subscription: id, reason: reason.clone() };
    assert_eq!(notices.next_timeout(DEADLINE), Some(died));
    assert_eq!(world.receivers.at("bystander").len(), 1);
}

#[test]
fn permanent_failures_are_dead_at_once() {
    let failed =
        |failure: Failure| (ScriptedReply::Fails(failure.clone()), Reason::Failed(failure));
    for (answer, reason) in [
        (ScriptedReply::Status(404), Reason::Status(404)),
        (ScriptedReply::Status(302), Reason::Status(302)),
        failed(Failure::Guard("private".to_owned())),
    ] {
        check_dead(&[answer], Policy::default(), &[], &reason);
    }
}

#[test]
fn attempts_and_age_end_a_delivery() {
    let retry =
        Retry::Linear { step: Duration::from_millis(1_000), max: Duration::from_millis(1_000) };
    let twice = Policy::default().retry(retry.clone()).attempts_max(Some(2));
    check_dead(&[ScriptedReply::Status(503)], twice, &[1_000], &Reason::Status(503));
    let short = Policy::default().retry(retry).age_max(Duration::from_millis(1_500));
    // The last attempt is made when the age is used up.
    check_dead(&[ScriptedReply::Status(503)], short, &[1_000, 500], &Reason::Expired);
    let once = Policy::default().retry_on_timeout(false);
    check_dead(
        &[ScriptedReply::Fails(Failure::Timeout)],
        once,
        &[],
        &Reason::Failed(Failure::Timeout),
    );
}

#[test]
fn status_410_disables_and_freezes_the_backlog() {
    let world = World::new();
    let notices = world.engine.notices();
    world.receivers.script("gone", &[ScriptedReply::Status(410)]);
    let id = world.subscribe("gone");
    world.subscribe("bystander");
    let both = ["1", "2"].map(|payload| Event::new("ADD_TAG", payload).number("919999999999"));
    world.engine.publish_many(both.into()).unwrap().wait_timeout(DEADLINE).unwrap().unwrap();
    let disabled = Notice::Disabled { subscription: id, reason: Reason::Status(410) };
    assert!(matches!(notices.next_timeout(DEADLINE), Some(Notice::DeadLettered { .. })));
    assert_eq!(notices.next_timeout(DEADLINE), Some(disabled));
    assert_eq!(world.engine.subscription(id).unwrap().state, SubscriptionState::Disabled);
    assert_eq!(world.publish("ADD_TAG", "3").owed, 1, "the bystander's alone");
    let stats = world.wait_until(|stats| stats.delivered == 3);
    assert_eq!((stats.owed, stats.dead, stats.unrouted), (1, 1, 0));
    assert_eq!(world.receivers.at("gone").len(), 1);

    world.engine.close(DEADLINE).unwrap();
    let again = world.after_a_power_cut();
    assert_eq!(again.engine.subscription(id).unwrap().state, SubscriptionState::Disabled);
    assert_eq!(again.engine.stats().owed, 1);
    again.subscribe("gone");
    assert_eq!(again.receivers.wait_for("gone", 1)[0].body, b"2", "subscribed again");
    assert!(again.receivers.at("bystander").is_empty());
}

/// One event to an endpoint with this answer, next to one that is delivered. Returns the notices, the
/// endpoint's counters (delivered, retried, dead), and the state of its subscription.
fn asked(answer: ScriptedReply, policy: Policy) -> (Vec<Notice>, [u64; 3], SubscriptionState) {
    let world = World::new();
    let notices = world.engine.notices();
    world.receivers.script("asks", &[answer]);
    let id = world.engine.subscribe(quick("asks").policy(policy)).unwrap();
    let bystander = world.subscribe("bystander");
    world.publish("ADD_TAG", "{}");
    let stats = world.wait_until(|stats| {
        stats.attempts == 2 && stats.delivered + stats.retried + stats.dead == 2
    });
    let ended = [stats.lanes[0].delivered, stats.lanes[0].retried, stats.lanes[0].dead];
    // The last notice is sent after the counters have changed.
    world.engine.close(DEADLINE).unwrap();
    let told = std::iter::from_fn(|| notices.next_timeout(Duration::ZERO)).collect();
    assert_eq!(world.engine.subscription(bystander).unwrap().state, SubscriptionState::Active);
    assert_eq!(world.receivers.at("bystander").len(), 1);
    (told, ended, world.engine.subscription(id).unwrap().state)
}

#[test]
fn the_disable_header_is_honored_where_configured() {
    let subscription = wabahook::SubscriptionId(1);
    let disabled = vec![Notice::Disabled { subscription, reason: Reason::ReceiverDisabled }];
    for (status, ended) in [(200, [1, 0, 0]), (503, [0, 1, 0])] {
        let answer = ScriptedReply::Controls(status, DeliveryControl::Disable);
        let seen = asked(answer.clone(), quick_policy());
        assert_eq!(seen, (disabled.clone(), ended, SubscriptionState::Disabled), "{status}");
        let deaf = quick_policy().honor_delivery_control(false);
        assert_eq!(asked(answer, deaf), (vec![], ended, SubscriptionState::Active), "{status}");
    }
}

#[test]
fn the_abort_header_is_honored_where_configured() {
    let answer = || ScriptedReply::Controls(503, DeliveryControl::AbortMessage);
    let (told, ended, state) = asked(answer(), quick_policy());
    assert!(
        matches!(&told[..], [Notice::DeadLettered { reason: Reason::Aborted, .. }]),
        "{told:?}"
    );
    assert_eq!((ended, state), ([0, 0, 1], SubscriptionState::Active));
    let deaf = quick_policy().honor_delivery_control(false);
    assert_eq!(asked(answer(), deaf), (vec![], [0, 1, 0], SubscriptionState::Active));
}

#[test]
fn persistent_failure_disables_and_keeps_the_backlog() {
    let world = World::new();
    let notices = world.engine.notices();
    world.receivers.script("fails", &[ScriptedReply::Status(503)]);
    let policy = quick_policy().disable_after(Some(Duration::from_secs(8)));
    let id = world.engine.subscribe(quick("fails").policy(policy)).unwrap();
    let bystander = world.subscribe("bystander");
    world.publish("ADD_TAG", "{}");
    // A gap between two failures counts at most an eighth of the time.
    for failures in 1..=8 {
        world.wait_until(|stats| (stats.retried, stats.delivered) == (failures, 1));
        assert_eq!(world.engine.subscription(id).unwrap().state, SubscriptionState::Active);
        world.clock.advance(Duration::from_secs(60));
    }
    let mut told = std::iter::from_fn(|| notices.next_timeout(DEADLINE));
    let disabled = Notice::Disabled { subscription: id, reason: Reason::Failing };
    assert_eq!(told.find(|notice| matches!(notice, Notice::Disabled { .. })), Some(disabled));
    assert_eq!(world.engine.subscription(id).unwrap().state, SubscriptionState::Disabled);
    assert_eq!(world.engine.subscription(bystander).unwrap().state, SubscriptionState::Active);
    assert_eq!(world.publish("ADD_TAG", "{}").owed, 1, "the bystander's alone");
    let stats = world.wait_until(|stats| stats.delivered == 2);
    assert_eq!((stats.owed, stats.dead, world.receivers.at("fails").len()), (1, 0, 9));
}

#[test]
fn a_changed_url_applies_to_what_is_already_owed() {
    let world = World::new();
    world.receivers.script("old", &[ScriptedReply::Status(503)]);
    let id = world.engine.subscribe(quick("old").name("crm")).unwrap();
    let accepted = world.publish("ADD_TAG", "{}");
    world.wait_until(|stats| stats.retried == 1);
    let failures = || world.engine.stats().lane(id).unwrap().failures_in_row;
    world.engine.subscribe(quick("old").name("crm").header("x-tenant", "acme")).unwrap();
    assert_eq!(failures(), 1, "it is the same endpoint");
    let moved = Subscription::to("https://new/hook").unwrap().name("crm");
    assert_eq!(world.engine.subscribe(moved).unwrap(), id, "the same name keeps its id");
    assert_eq!(failures(), 0, "nothing is known of the new one");
    world.clock.advance(Duration::from_millis(1_000));
    let arrivals = world.receivers.wait_for("new", 1);
    assert_eq!((arrivals[0].id.clone(), arrivals[0].attempt), (accepted.id.to_string(), 2));
    assert_eq!(world.receivers.at("old").len(), 1);
}

#[test]
fn a_dead_letter_is_replayed_with_the_same_id() {
    let world = World::new();
    world.receivers.script(
        "crm",
        &[ScriptedReply::Status(404), ScriptedReply::Status(404), ScriptedReply::Status(200)],
    );
    let id = world.subscribe("crm");
    world.subscribe("bystander");
    let first = world.publish("ADD_TAG", "first");
    let second = world.publish("ADD_TAG", "second");
    world.wait_until(|stats| stats.dead == 2 && stats.delivered == 2);
    world.engine.close(DEADLINE).unwrap();
    let again = world.after_a_power_cut();
    let letters = again.engine.dead_letters(&DeadLetterFilter::default(), None, 10).unwrap().items;
    let listed: Vec<_> = letters.iter().map(|letter| letter.event).collect();
    assert_eq!(listed, [second.id, first.id], "the newest first");
    assert!(letters.iter().all(|l| l.subscription == id && l.reason == Reason::Status(404)));
    again.engine.replay(&letters[1]).unwrap();
    let [arrival] = again.receivers.wait_for("crm", 1).try_into().unwrap();
    assert_eq!((arrival.id, arrival.attempt), (first.id.to_string(), 1));
    let stats = again.wait_until(|stats| stats.delivered == 1);
    assert_eq!((stats.replayed, stats.owed), (1, 0));
    let left = again.engine.dead_letters(&DeadLetterFilter::default(), None, 10).unwrap().items;
    assert_eq!(left, letters[..1]);
    assert!(again.receivers.at("bystander").is_empty());
}
