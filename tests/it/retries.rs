//! What becomes of a delivery whose attempts fail, with a bystander that must not notice.

use std::time::Duration;

use wabahook::{
    Control, DeadLetterFilter, Event, Failure, Notice, Policy, Reason, Retry, State, Subscription,
};

use crate::world::{Answer, DEADLINE, World, quick, quick_policy};

#[test]
fn a_failed_attempt_is_repeated_with_the_same_id_when_it_is_due_and_not_before() {
    let world = World::new();
    world.receivers.script("crm", &[Answer::Status(503), Answer::Status(500), Answer::Status(200)]);
    world.subscribe("crm");
    world.subscribe("bystander");
    let accepted = world.publish("ADD_TAG", "{}");
    world.wait_until(|stats| stats.retried == 1 && stats.delivered == 1);
    world.clock.advance_ms(999);
    assert_eq!(world.receivers.at("crm").len(), 1);
    world.clock.advance_ms(1);
    world.wait_until(|stats| stats.retried == 2);
    world.clock.advance_ms(1_999);
    assert_eq!(world.receivers.at("crm").len(), 2);
    world.clock.advance_ms(1);
    world.wait_until(|stats| stats.delivered == 2);
    let arrivals = world.receivers.at("crm");
    assert_eq!(arrivals.iter().map(|a| a.attempt).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(arrivals.iter().all(|arrival| arrival.id == accepted.id.to_string()));
    assert_eq!(world.receivers.at("bystander").len(), 1);
    assert_eq!(world.engine.stats().owed, 0);
}

#[test]
fn retry_after_is_kept_when_it_is_later_than_the_backoff() {
    let world = World::new();
    world.receivers.script("crm", &[Answer::StatusAfter(429, 60_000), Answer::Status(200)]);
    world.subscribe("crm");
    world.publish("ADD_TAG", "{}");
    world.wait_until(|stats| stats.retried == 1);
    world.clock.advance_ms(59_999);
    assert_eq!(world.receivers.at("crm").len(), 1);
    world.clock.advance_ms(1);
    assert_eq!(world.receivers.wait_for("crm", 2).len(), 2);
}

#[test]
fn an_endpoint_that_asks_for_time_is_sent_nothing_else_until_then() {
    let world = World::new();
    world.receivers.script("crm", &[Answer::StatusAfter(429, 60_000), Answer::Status(200)]);
    world.subscribe("crm");
    world.subscribe("bystander");
    world.publish("ADD_TAG", "1");
    world.wait_until(|stats| (stats.retried, stats.delivered) == (1, 1));
    world.publish("ADD_TAG", "2");
    world.clock.advance_ms(59_999);
    world.publish("ADD_TAG", "3");
    let stats = world.wait_until(|stats| stats.delivered == 3);
    assert_eq!((stats.owed, stats.lanes[0].rests_for_ms), (3, 1));
    assert_eq!(world.receivers.at("crm").len(), 1);
    world.clock.advance_ms(1);
    world.wait_until(|stats| stats.delivered == 6);
    let bodies: Vec<_> = world.receivers.at("crm").into_iter().map(|one| one.body).collect();
    assert_eq!(bodies[..2], [b"1", b"1"], "what failed goes first");
    assert_eq!((bodies.len(), world.receivers.at("bystander").len()), (4, 3));
}

/// One delivery that dies by these answers, beside one that is delivered.
fn check_dead(answers: &[Answer], policy: Policy, advances_ms: &[u64], reason: &Reason) {
    let world = World::new();
    let notices = world.engine.notices();
    world.receivers.script("dies", answers);
    let id = world.engine.subscribe(quick("dies").policy(policy)).unwrap();
    world.subscribe("bystander");
    let accepted = world.publish("ADD_TAG", "{}");
    for (n, advance_ms) in (1..).zip(advances_ms) {
        world.wait_until(|stats| stats.retried == n);
        world.clock.advance_ms(*advance_ms);
    }
    let stats = world.wait_until(|stats| stats.dead == 1 && stats.delivered == 1);
    assert_eq!((stats.owed, stats.lanes.len()), (0, 2));
    let died = Notice::Died { event: accepted.id, subscription: id, reason: reason.clone() };
    assert_eq!(notices.next_timeout(DEADLINE), Some(died));
    assert_eq!(world.receivers.at("bystander").len(), 1);
}

#[test]
fn what_no_attempt_can_help_is_dead_at_once() {
    let failed = |failure: Failure| (Answer::Fails(failure.clone()), Reason::Failed(failure));
    for (answer, reason) in [
        (Answer::Status(404), Reason::Status(404)),
        (Answer::Status(302), Reason::Status(302)),
        failed(Failure::Guard("private".to_owned())),
    ] {
        check_dead(&[answer], Policy::default(), &[], &reason);
    }
}

#[test]
fn attempts_and_age_end_a_delivery() {
    let retry = Retry::Linear { step_ms: 1_000, max_ms: 1_000 };
    let twice = Policy { retry: retry.clone(), attempts_max: Some(2), ..Policy::default() };
    check_dead(&[Answer::Status(503)], twice, &[1_000], &Reason::Status(503));
    let short = Policy { retry, age_max_ms: 1_500, ..Policy::default() };
    check_dead(&[Answer::Status(503)], short, &[1_000], &Reason::Expired);
    let once = Policy { retry_on_timeout: false, ..Policy::default() };
    check_dead(&[Answer::Fails(Failure::Timeout)], once, &[], &Reason::Failed(Failure::Timeout));
}

#[test]
fn a_receiver_that_is_gone_disables_its_subscription_and_what_it_is_owed_waits_and_grows_no_more() {
    let world = World::new();
    let notices = world.engine.notices();
    world.receivers.script("gone", &[Answer::Status(410)]);
    let id = world.subscribe("gone");
    world.subscribe("bystander");
    let both = ["1", "2"].map(|payload| Event::new("ADD_TAG", payload).number("919999999999"));
    world.engine.publish_many(both.into()).unwrap().wait_timeout(DEADLINE).unwrap().unwrap();
    let disabled = Notice::Disabled { subscription: id, reason: Reason::Status(410) };
    assert!(matches!(notices.next_timeout(DEADLINE), Some(Notice::Died { .. })));
    assert_eq!(notices.next_timeout(DEADLINE), Some(disabled));
    assert_eq!(world.engine.subscription(id).unwrap().state, State::Disabled);
    assert_eq!(world.publish("ADD_TAG", "3").owed, 1, "the bystander's alone");
    let stats = world.wait_until(|stats| stats.delivered == 3);
    assert_eq!((stats.owed, stats.dead, stats.unrouted), (1, 1, 0));
    assert_eq!(world.receivers.at("gone").len(), 1);

    world.engine.close(DEADLINE).unwrap();
    let again = world.after_a_power_cut();
    assert_eq!(again.engine.subscription(id).unwrap().state, State::Disabled);
    assert_eq!(again.engine.stats().owed, 1);
    again.subscribe("gone");
    assert_eq!(again.receivers.wait_for("gone", 1)[0].body, b"2", "subscribed again");
    assert!(again.receivers.at("bystander").is_empty());
}

/// One event to an endpoint that answers so, beside one that is delivered. Returns what was told,
/// what the endpoint was (delivered, retried, dead), and what became of its subscription.
fn asked(answer: Answer, policy: Policy) -> (Vec<Notice>, [u64; 3], State) {
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
    // What is told last is told after the counters have changed.
    world.engine.close(DEADLINE).unwrap();
    let told = std::iter::from_fn(|| notices.next_timeout(Duration::ZERO)).collect();
    assert_eq!(world.engine.subscription(bystander).unwrap().state, State::Active);
    assert_eq!(world.receivers.at("bystander").len(), 1);
    (told, ended, world.engine.subscription(id).unwrap().state)
}

#[test]
fn a_receiver_that_asks_for_no_more_deliveries_is_disabled_for_that_reason_where_it_is_obeyed() {
    let subscription = wabahook::SubscriptionId(1);
    let disabled = vec![Notice::Disabled { subscription, reason: Reason::Asked }];
    for (status, ended) in [(200, [1, 0, 0]), (503, [0, 1, 0])] {
        let answer = Answer::Asks(status, Control::Disable);
        let seen = asked(answer.clone(), quick_policy());
        assert_eq!(seen, (disabled.clone(), ended, State::Disabled), "{status}");
        let deaf = Policy { obeys_receiver: false, ..quick_policy() };
        assert_eq!(asked(answer, deaf), (vec![], ended, State::Active), "{status}");
    }
}

#[test]
fn a_receiver_that_asks_for_no_more_attempts_of_a_delivery_has_it_given_up_where_it_is_obeyed() {
    let answer = || Answer::Asks(503, Control::AbortMessage);
    let (told, ended, state) = asked(answer(), quick_policy());
    assert!(matches!(&told[..], [Notice::Died { reason: Reason::Aborted, .. }]), "{told:?}");
    assert_eq!((ended, state), ([0, 0, 1], State::Active));
    let deaf = Policy { obeys_receiver: false, ..quick_policy() };
    assert_eq!(asked(answer(), deaf), (vec![], [0, 1, 0], State::Active));
}

#[test]
fn nothing_but_failure_for_long_enough_disables_for_that_reason_and_what_is_owed_stays() {
    let world = World::new();
    let notices = world.engine.notices();
    world.receivers.script("fails", &[Answer::Status(503)]);
    let policy = Policy { disable_after_ms: Some(3_000), ..quick_policy() };
    let id = world.engine.subscribe(quick("fails").policy(policy)).unwrap();
    let bystander = world.subscribe("bystander");
    world.publish("ADD_TAG", "{}");
    world.wait_until(|stats| (stats.retried, stats.delivered) == (1, 1));
    world.clock.advance_ms(1_000);
    world.wait_until(|stats| stats.retried == 2);
    assert_eq!(world.engine.subscription(id).unwrap().state, State::Active);
    assert_eq!(notices.next_timeout(Duration::ZERO), None);
    world.clock.advance_ms(2_000);
    let disabled = Notice::Disabled { subscription: id, reason: Reason::Failing };
    assert_eq!(notices.next_timeout(DEADLINE), Some(disabled));
    assert_eq!(world.engine.subscription(id).unwrap().state, State::Disabled);
    assert_eq!(world.engine.subscription(bystander).unwrap().state, State::Active);
    assert_eq!(world.publish("ADD_TAG", "{}").owed, 1, "the bystander's alone");
    let stats = world.wait_until(|stats| stats.delivered == 2);
    assert_eq!((stats.owed, stats.dead, world.receivers.at("fails").len()), (1, 0, 3));
}

#[test]
fn a_changed_url_applies_to_what_is_already_owed() {
    let world = World::new();
    world.receivers.script("old", &[Answer::Status(503)]);
    let id = world.engine.subscribe(quick("old").name("crm")).unwrap();
    let accepted = world.publish("ADD_TAG", "{}");
    world.wait_until(|stats| stats.retried == 1);
    let moved = Subscription::to("https://new/hook").unwrap().name("crm");
    assert_eq!(world.engine.subscribe(moved).unwrap(), id, "the same name keeps its id");
    world.clock.advance_ms(1_000);
    let arrivals = world.receivers.wait_for("new", 1);
    assert_eq!((arrivals[0].id.clone(), arrivals[0].attempt), (accepted.id.to_string(), 2));
    assert_eq!(world.receivers.at("old").len(), 1);
}

#[test]
fn a_dead_letter_is_listed_and_replayed_with_the_same_id_also_after_a_power_cut() {
    let world = World::new();
    world.receivers.script("crm", &[Answer::Status(404), Answer::Status(404), Answer::Status(200)]);
    let id = world.subscribe("crm");
    world.subscribe("bystander");
    let first = world.publish("ADD_TAG", "first");
    let second = world.publish("ADD_TAG", "second");
    world.wait_until(|stats| stats.dead == 2 && stats.delivered == 2);
    world.engine.close(DEADLINE).unwrap();
    let again = world.after_a_power_cut();
    let letters = again.engine.dead_letters(&DeadLetterFilter::default(), None, 10).unwrap();
    let listed: Vec<_> = letters.iter().map(|letter| letter.event).collect();
    assert_eq!(listed, [second.id, first.id], "the newest first");
    assert!(letters.iter().all(|l| l.subscription == id && l.reason == Reason::Status(404)));
    again.engine.replay(&letters[1]).unwrap();
    let [arrival] = again.receivers.wait_for("crm", 1).try_into().unwrap();
    assert_eq!((arrival.id, arrival.attempt), (first.id.to_string(), 1));
    let stats = again.wait_until(|stats| stats.delivered == 1);
    assert_eq!((stats.replayed, stats.owed), (1, 0));
    let left = again.engine.dead_letters(&DeadLetterFilter::default(), None, 10).unwrap();
    assert_eq!(left, letters[..1]);
    assert!(again.receivers.at("bystander").is_empty());
}
