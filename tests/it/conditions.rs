//! Conditions decide which events a subscription is owed, also after a restart, and never for another account's.

use wabahook::policy::Policy;
use wabahook::{
    Account, Condition, ConditionReport, Error, Event, Precedence, Subscription, SubscriptionId,
    UnreadablePayload,
};

use crate::world::{World, quick};

const TEXTS: &str = r#"{"pointer":"/type","in":["text","button"]}"#;

fn condition(text: &str) -> Condition {
    text.parse().unwrap()
}

#[test]
fn an_event_is_owed_only_if_the_condition_holds() {
    let world = World::new();
    world.subscribe("bystander");
    world.engine.subscribe(quick("texts").condition(condition(TEXTS))).unwrap();
    assert_eq!(world.publish("ADD_TAG", r#"{"type":"text"}"#).owed, 2);
    assert_eq!(world.publish("ADD_TAG", r#"{"type":"image"}"#).owed, 1);
    assert_eq!(world.publish("ADD_TAG", "not JSON").owed, 1);
    assert_eq!(world.receivers.wait_for("bystander", 3).len(), 3);
    let texts = world.receivers.wait_for("texts", 1);
    assert_eq!(texts.len(), 1);
    let stats = world.engine.stats();
    assert_eq!((stats.condition_unparsable, stats.unrouted), (1, 0));
}

/// An event that conditions leave without a subscriber is counted, and one that nobody reads is not parsed.
#[test]
fn an_event_without_a_subscriber_is_unrouted() {
    let world = World::new();
    let only = quick("texts").events(["ADD_TAG"]).condition(condition(TEXTS));
    world.engine.subscribe(only).unwrap();
    assert_eq!(world.publish("ADD_TAG", r#"{"type":"image"}"#).owed, 0);
    assert_eq!(world.publish("REMOVE_TAG", "not JSON").owed, 0);
    let stats = world.engine.stats();
    assert_eq!((stats.condition_unparsable, stats.unrouted), (0, 2));
}

#[test]
fn a_condition_is_stored_changed_and_removed() {
    let world = World::new();
    let texts = world.engine.subscribe(quick("texts").condition(condition(TEXTS))).unwrap();
    world.subscribe("bystander");
    let world = world.reopened();
    let info = world.engine.subscription(texts).unwrap();
    assert_eq!(info.filter.condition, Some(condition(TEXTS)));
    assert_eq!(world.publish("ADD_TAG", r#"{"type":"image"}"#).owed, 1);

    let images = condition(r#"{"pointer":"/type","eq":"image"}"#);
    world.engine.subscribe(quick("texts").condition(images)).unwrap();
    assert_eq!(world.publish("ADD_TAG", r#"{"type":"image"}"#).owed, 2);
    assert_eq!(world.publish("ADD_TAG", r#"{"type":"text"}"#).owed, 1);
    world.engine.pause(texts).unwrap();
    assert_eq!(world.publish("ADD_TAG", r#"{"type":"text"}"#).owed, 1, "paused, and still asked");

    world.engine.subscribe(quick("texts")).unwrap();
    assert_eq!(world.publish("ADD_TAG", r#"{"type":"text"}"#).owed, 2);
    let world = world.reopened();
    assert_eq!(world.engine.subscription(texts).unwrap().filter.condition, None);
    assert_eq!(world.publish("ADD_TAG", "not JSON").owed, 2);
    assert_eq!(world.engine.stats().condition_unparsable, 0);
}

/// A main subscription whose condition does not hold is not owed the event, so nothing waits for it.
#[test]
fn a_dependent_does_not_wait_for_a_condition_that_fails() {
    let world = World::new();
    let main = world.engine.subscribe(quick("main").condition(condition(TEXTS))).unwrap();
    world.engine.subscribe(quick("extra").after(main)).unwrap();
    assert_eq!(world.publish("ADD_TAG", r#"{"type":"image"}"#).owed, 1);
    assert_eq!(world.receivers.wait_for("extra", 1).len(), 1);
    assert_eq!(world.publish("ADD_TAG", r#"{"type":"text"}"#).owed, 2);
    assert_eq!(world.receivers.wait_for("extra", 2).len(), 2);
    assert_eq!(world.receivers.wait_for("main", 1).len(), 1);
}

/// Precedence is decided by filters alone.
#[test]
fn a_condition_that_fails_still_takes_precedence() {
    let world = World::new();
    let of_number = quick("number").numbers(["919999999999"]).precedence(Precedence::Number);
    let of_waba = quick("waba").precedence(Precedence::Waba);
    world.engine.subscribe(of_number.condition(condition(TEXTS))).unwrap();
    let waba = world.engine.subscribe(of_waba).unwrap();
    let event = || Event::new("ADD_TAG", r#"{"type":"image"}"#).number("919999999999");
    let accepted = world.engine.publish(event()).unwrap().wait().unwrap();
    assert_eq!(accepted.owed, 0);
    let report = world.engine.match_report(waba, event()).unwrap();
    assert!(!report.matches && !report.is_first && report.type_matches, "{report:?}");
}

fn report(world: &World, id: SubscriptionId, event: Event) -> (bool, [bool; 4], ConditionReport) {
    let report = world.engine.match_report(id, event).unwrap();
    let checks = [report.is_active, report.type_matches, report.number_matches, report.is_first];
    (report.matches, checks, report.condition)
}

#[test]
fn a_report_names_the_check_that_decides() {
    let acme = Account::new("acme").waba("1", ["919000000001", "919000000002"]);
    let beta = Account::new("beta").waba("2", ["919000000003"]);
    let world = World::with(|config| config.account(acme).account(beta));
    let both = r#"{"and":[{"pointer":"/type","eq":"text"},{"pointer":"/n","gt":1}]}"#;
    let crm = quick("crm").account("acme").events(["ADD_TAG"]).numbers(["919000000001"]);
    let id = world.engine.subscribe(crm.condition(condition(both))).unwrap();
    let event = |kind: &str, payload: &str| Event::new(kind, payload);
    let good = r#"{"type":"text","n":2}"#;
    let fails = |part: &str| ConditionReport::Fails { part: part.to_owned() };
    for (event, expected) in [
        (
            event("Tag added", good).number("919000000001"),
            (true, [true; 4], ConditionReport::Holds),
        ),
        (
            event("REMOVE_TAG", good).number("919000000001"),
            (false, [true, false, true, true], ConditionReport::Holds),
        ),
        (
            event("ADD_TAG", good).number("919000000002"),
            (false, [true, true, false, true], ConditionReport::Holds),
        ),
        (event("ADD_TAG", good).waba("1"), (true, [true; 4], ConditionReport::Holds)),
        (
            event("ADD_TAG", r#"{"type":"text","n":1}"#).number("919000000001"),
            (false, [true; 4], fails("condition.and[1].gt")),
        ),
        (
            event("ADD_TAG", "{").number("919000000001"),
            (false, [true; 4], ConditionReport::Unparsable(UnreadablePayload::NotJson)),
        ),
        (
            event("ADD_TAG", &format!("{}{}", "[".repeat(200), "]".repeat(200)))
                .number("919000000001"),
            (false, [true; 4], ConditionReport::Unparsable(UnreadablePayload::TooDeep)),
        ),
    ] {
        assert_eq!(report(&world, id, event), expected);
    }
    let of_beta = event("ADD_TAG", good).number("919000000003");
    assert!(matches!(world.engine.match_report(id, of_beta), Err(Error::Forbidden { .. })));
    let unknown = world.engine.match_report(SubscriptionId(99), event("ADD_TAG", good));
    assert!(matches!(unknown, Err(Error::NotFound { .. })));
    // Nothing was published.
    let stats = world.engine.stats();
    assert_eq!((stats.accepted, stats.condition_unparsable), (0, 0));
}

/// What was registered as a condition is part of what `From` copies.
#[test]
fn a_copied_subscription_keeps_its_condition() {
    let world = World::new();
    let policy = Policy::default().attempts_max(Some(1));
    let texts = quick("texts").policy(policy).condition(condition(TEXTS));
    let id = world.engine.subscribe(texts).unwrap();
    world
        .engine
        .revise(id, |info| Ok::<_, Error>(Subscription::from(info).description("texts")))
        .unwrap();
    let info = world.engine.subscription(id).unwrap();
    assert_eq!(info.filter.condition, Some(condition(TEXTS)));
    assert_eq!(world.publish("ADD_TAG", r#"{"type":"image"}"#).owed, 0);
}
