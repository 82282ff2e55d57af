//! States of a subscription: paused, resumed, disabled, and dependent on another.

use std::sync::Arc;
use std::time::Duration;

use wabahook::policy::Ordering;
use wabahook::store::{FaultInjectingStore, FaultPlan, Memory};
use wabahook::{
    Account, Config, Engine, Error, Notice, Subscription, SubscriptionId, SubscriptionState,
};

use crate::world::{DEADLINE, World, quick, quick_policy};
use wabahook::testing::ScriptedReply;

fn state(world: &World, id: SubscriptionId) -> SubscriptionState {
    world.engine.subscription(id).unwrap().state
}

#[test]
fn a_paused_subscription_is_owed_and_not_tried() {
    let world = World::new();
    let crm = world.subscribe("crm");
    let bystander = world.subscribe("bystander");
    world.engine.pause(crm).unwrap();
    assert_eq!(world.publish("ADD_TAG", "1").owed, 2);
    world.wait_until(|stats| stats.delivered == 1 && stats.owed == 1);
    world.engine.close(DEADLINE).unwrap();
    let again = world.after_a_power_cut();
    assert_eq!(state(&again, crm), SubscriptionState::Paused);
    assert_eq!(state(&again, bystander), SubscriptionState::Active);
    assert_eq!(again.subscribe("crm"), crm);
    assert_eq!(
        state(&again, crm),
        SubscriptionState::Paused,
        "a host that subscribes at its start"
    );
    again.engine.pause(crm).unwrap();
    again.publish("ADD_TAG", "2");
    again.wait_until(|stats| stats.delivered == 1 && stats.owed == 2);
    assert!(again.receivers.at("crm").is_empty());
    again.engine.resume(crm).unwrap();
    again.wait_until(|stats| stats.owed == 0);
    let arrived: Vec<_> = again.receivers.at("crm").into_iter().map(|one| one.body).collect();
    assert_eq!(arrived, [b"1", b"2"]);
    assert_eq!(state(&again, crm), SubscriptionState::Active);
    assert_eq!(again.receivers.at("bystander").len(), 1);
    let nobody = SubscriptionId(77);
    for error in [again.engine.pause(nobody), again.engine.resume(nobody)] {
        assert!(matches!(error, Err(Error::NotFound { what: "subscription", .. })), "{error:?}");
    }
    again.engine.close(DEADLINE).unwrap();
    assert!(matches!(again.engine.pause(crm), Err(Error::Closed)));
}

#[test]
fn a_disabled_subscription_is_owed_nothing_new() {
    let world = World::new();
    world.receivers.script("crm", &[ScriptedReply::Status(410), ScriptedReply::Status(200)]);
    let notices = world.engine.notices();
    let crm = world.engine.subscribe(quick("crm").events(["ADD_TAG", "NEW_LEAD"])).unwrap();
    let bystander = world.engine.subscribe(quick("bystander").events(["ADD_TAG"])).unwrap();
    world.engine.pause(crm).unwrap();
    world.publish("ADD_TAG", "1");
    world.publish("ADD_TAG", "2");
    world.engine.resume(crm).unwrap();
    while !matches!(notices.next_timeout(DEADLINE).unwrap(), Notice::Disabled { .. }) {}
    world.engine.pause(crm).unwrap();
    assert_eq!(state(&world, crm), SubscriptionState::Disabled, "it is held back already");
    assert_eq!(world.publish("ADD_TAG", "3").owed, 1);
    assert_eq!(world.publish("NEW_LEAD", "4").owed, 0);
    let stats = world.wait_until(|stats| stats.delivered == 3);
    assert_eq!((stats.unrouted, stats.owed, stats.dead), (1, 1, 1));
    world.engine.close(DEADLINE).unwrap();
    let again = world.after_a_power_cut();
    assert_eq!(again.publish("NEW_LEAD", "5").owed, 0, "not after a restart either");
    again.engine.resume(crm).unwrap();
    again.wait_until(|stats| stats.owed == 0);
    assert_eq!(again.publish("ADD_TAG", "6").owed, 2);
    again.wait_until(|stats| stats.owed == 0);
    let arrived: Vec<_> = again.receivers.at("crm").into_iter().map(|one| one.body).collect();
    assert_eq!(arrived, [b"2", b"6"]);
    assert_eq!(state(&again, crm), SubscriptionState::Active);
    assert_eq!(state(&again, bystander), SubscriptionState::Active);
    assert_eq!(again.receivers.at("bystander").len(), 1);
}

/// An engine whose subscription failed for as long as its policy allows, and a bystander.
fn disabled_by_failing(world: &World) -> [SubscriptionId; 2] {
    let notices = world.engine.notices();
    world.receivers.script("fails", &[ScriptedReply::Status(503)]);
    let policy = quick_policy().disable_after(Some(Duration::from_millis(1_000)));
    let id = world.engine.subscribe(quick("fails").policy(policy)).unwrap();
    let bystander = world.subscribe("bystander");
    world.publish("ADD_TAG", "1");
    for failures in 1..=8 {
        world.wait_until(|stats| (stats.retried, stats.delivered) == (failures, 1));
        world.clock.advance(Duration::from_secs(60));
    }
    let mut told = std::iter::from_fn(|| notices.next_timeout(DEADLINE));
    assert!(told.any(|notice| matches!(notice, Notice::Disabled { .. })));
    // Its failures are written with the next group.
    assert_eq!(world.publish("ADD_TAG", "2").owed, 1);
    world.wait_until(|stats| (stats.delivered, stats.owed) == (2, 1));
    [id, bystander]
}

#[test]
fn a_power_cut_after_resume_keeps_the_health_cleared() {
    let resumes: [fn(&World, SubscriptionId); 2] = [
        |world, id| world.engine.resume(id).unwrap(),
        |world, id| {
            let policy = world.engine.subscription(id).unwrap().policy.clone();
            world.engine.subscribe(quick("fails").policy(policy)).unwrap();
        },
    ];
    for resume in resumes {
        let world = World::new();
        let [id, bystander] = disabled_by_failing(&world);
        resume(&world, id);
        let world = world.after_a_power_cut();
        world.receivers.script("fails", &[ScriptedReply::Status(503)]);
        world.clock.advance(Duration::from_secs(5));
        let stats = world.wait_until(|stats| stats.retried == 1);
        assert_eq!(stats.lanes[0].failures_in_row, 1);
        // Takes the lock of the subscription store after the thread that would disable it.
        world.engine.pause(bystander).unwrap();
        assert_eq!(state(&world, id), SubscriptionState::Active);
        assert_eq!(state(&world, bystander), SubscriptionState::Paused);
    }
}

#[test]
fn resume_fails_if_the_health_cannot_be_cleared() {
    let (world, faults) = World::faulty(|config| config);
    let [id, bystander] = disabled_by_failing(&world);
    faults.fail_after(0);
    assert!(world.engine.resume(id).is_err());
    assert_eq!(state(&world, id), SubscriptionState::Disabled);
    assert_eq!(state(&world, bystander), SubscriptionState::Active);
    faults.heal();
    let notices = world.engine.notices();
    while world.engine.resume(id).is_err() {
        let _ = notices.next_timeout(std::time::Duration::from_millis(20));
    }
    assert_eq!(state(&world, id), SubscriptionState::Active);
    world.receivers.script("fails", &[ScriptedReply::Status(200)]);
    world.clock.advance(Duration::from_secs(5));
    world.wait_until(|stats| (stats.delivered, stats.owed) == (3, 0));
}

fn check_refused(world: &World, subscription: Subscription, expected: &str) {
    let listed = || -> Vec<_> {
        let all = world.engine.subscriptions();
        all.iter().map(|one| (one.id, one.name.clone(), one.policy.after)).collect()
    };
    let before = listed();
    match world.engine.subscribe(subscription).unwrap_err() {
        Error::Invalid { field, expected: said, .. } => {
            assert_eq!(field, "after");
            assert!(said.contains(expected), "{said}");
        }
        other => panic!("{other}"),
    }
    assert_eq!(listed(), before);
}

#[test]
fn a_dependency_is_checked_at_registration() {
    let world = World::with(|config| {
        config
            .account(Account::new("acme").waba("1", ["919999999999"]))
            .account(Account::new("beta").waba("2", ["918888888888"]))
    });
    let of_acme = |name: &str| quick(name).account("acme");
    let main = world.engine.subscribe(of_acme("main")).unwrap();
    let foreign = world.engine.subscribe(quick("foreign").account("beta")).unwrap();
    let first = world.engine.subscribe(of_acme("d0").after(main)).unwrap();
    check_refused(&world, of_acme("x").after(foreign), "of the same account");
    check_refused(&world, of_acme("x").after(SubscriptionId(99)), "of the same account");
    check_refused(&world, of_acme("main").after(main), "another subscription than this one");
    check_refused(&world, of_acme("x").after(first), "does not wait for another one");
    let other = world.engine.subscribe(of_acme("other")).unwrap();
    check_refused(&world, of_acme("main").after(other), "other subscriptions wait for this one");
    for place in 1..16 {
        world.engine.subscribe(of_acme(&format!("d{place}")).after(main)).unwrap();
    }
    check_refused(&world, of_acme("d16").after(main), "fewer than 16");
    let again = of_acme("d0")
        .after(main)
        .ordering(Ordering::PerKey)
        .rate_limit(5, Duration::from_millis(1_000));
    assert_eq!(world.engine.subscribe(again).unwrap(), first, "it counts once");
    let policy = world.engine.subscription(first).unwrap().policy.clone();
    assert_eq!((policy.after, policy.ordering), (Some(main), Ordering::PerKey));
    assert_eq!(
        policy.rate_limit.map(|limit| (limit.events, limit.per)),
        Some((5, Duration::from_secs(1)))
    );
    world.engine.subscribe(of_acme("d0")).unwrap();
    world.engine.subscribe(of_acme("d16").after(main)).unwrap();
    assert_eq!(world.engine.subscription(foreign).unwrap().policy.after, None);
    let error = world
        .engine
        .subscribe(of_acme("x").rate_limit(0, Duration::from_millis(1_000)))
        .unwrap_err();
    assert_eq!(error.field(), Some("rate_limit.events"));
}

#[test]
fn removing_a_subscription_frees_its_dependents() {
    let world = World::new();
    let (main, other) = (world.subscribe("main"), world.subscribe("other"));
    let waits = world.engine.subscribe(quick("waits").after(main)).unwrap();
    let bystander = world.engine.subscribe(quick("bystander").after(other)).unwrap();
    let after = |world: &World, id| world.engine.subscription(id).unwrap().policy.after;
    let world = world.after_a_power_cut();
    assert_eq!((after(&world, waits), after(&world, bystander)), (Some(main), Some(other)));
    world.engine.unsubscribe(main).unwrap();
    assert_eq!((after(&world, waits), after(&world, bystander)), (None, Some(other)));
    let world = world.after_a_power_cut();
    assert_eq!((after(&world, waits), after(&world, bystander)), (None, Some(other)));
    assert_eq!(world.publish("ADD_TAG", "1").owed, 3);
    assert_eq!(world.receivers.wait_for("waits", 1).len(), 1);
    world.engine.subscribe(quick("another").after(waits)).unwrap();
}

#[test]
fn an_interrupted_removal_is_all_or_nothing_for_dependents() {
    let mut seen = [false; 2];
    for fails_after in 0..12 {
        let (memory, faults) = (Memory::default(), Arc::new(FaultPlan::default()));
        let faulty =
            Arc::new(FaultInjectingStore::new(Arc::new(memory.clone()), Arc::clone(&faults)));
        let engine = Engine::open(Config::new("unused").store(faulty)).unwrap();
        let main = engine.subscribe(quick("main")).unwrap();
        let waits = engine.subscribe(quick("waits").after(main)).unwrap();
        let bystander = engine.subscribe(quick("bystander")).unwrap();
        faults.fail_after(fails_after);
        let told = engine.unsubscribe(main);
        drop(engine);
        let engine = Engine::open(Config::new("unused").store(Arc::new(memory.crash()))).unwrap();
        let removed = engine.subscription(main).is_none();
        let after = engine.subscription(waits).unwrap().policy.after;
        assert_eq!(after.is_none(), removed, "{fails_after}: {told:?}");
        assert!(removed || told.is_err(), "{fails_after}");
        assert!(engine.subscription(bystander).is_some());
        seen[usize::from(removed)] = true;
    }
    assert_eq!(seen, [true, true], "both sides of the moment were met");
}
