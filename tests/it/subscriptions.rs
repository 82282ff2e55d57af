//! Registered subscriptions: what is stored, what replaces what, and which account sees them.

use std::sync::Arc;
use std::time::Duration;

use wabahook::store::{FaultInjectingStore, FaultPlan, Memory};
use wabahook::{Account, Error, Filter, Limits, Secret, Subscription, SubscriptionId};

use crate::world::{World, quick};

#[test]
fn a_listed_subscription_shows_no_secret() {
    let world = World::new();
    let id = world
        .engine
        .subscribe(
            quick("crm")
                .events(["Tag added", "ADD_TAG", "custom.type"])
                .numbers(["+91 99999 99999"])
                .header("x-tenant", "hidden-value")
                .secret("hidden-secret"),
        )
        .unwrap();
    let [listed] = world.engine.subscriptions().try_into().unwrap();
    assert_eq!(listed.id, id);
    assert_eq!(listed.name.as_str(), "crm");
    assert_eq!(listed.account.as_str(), "acct_default");
    let Filter { events, numbers, .. } = &listed.filter;
    let events: Vec<_> = events.iter().flatten().map(ToString::to_string).collect();
    assert_eq!(events, ["ADD_TAG", "custom.type"]);
    assert_eq!(numbers.iter().flatten().next().unwrap().to_string(), "919999999999");
    assert!(!format!("{listed:?}").contains("hidden"), "{listed:?}");
    assert_eq!(world.engine.subscription(id).unwrap().name, "crm");
}

#[test]
fn the_same_name_replaces_and_register_refuses_it() {
    let world = World::new();
    let id = world.subscribe("crm");
    let bystander = world.subscribe("bystander");
    let narrower = quick("crm").events(["ADD_TAG"]);
    assert!(matches!(
        world.engine.register(narrower.clone()),
        Err(Error::NameTaken { name }) if name == "crm"
    ));
    assert_eq!(world.engine.subscribe(narrower).unwrap(), id);
    assert_eq!(world.publish("NEW_LEAD", "{}").owed, 1);
    assert_eq!(world.publish("ADD_TAG", "{}").owed, 2);
    assert_eq!(world.receivers.wait_for("bystander", 2).len(), 2);
    assert_eq!(world.engine.subscriptions().len(), 2);
    assert_eq!(world.engine.subscription(bystander).unwrap().filter, Filter::default());
}

/// A host may subscribe at every start without a sync.
#[test]
fn an_unchanged_subscribe_writes_nothing() {
    let faults = Arc::new(FaultPlan::default());
    let store = FaultInjectingStore::new(Arc::new(Memory::default()), Arc::clone(&faults));
    let world = World::with(|config| config.store(Arc::new(store)));
    let crm = || quick("crm").events(["ADD_TAG"]).secret("first").header("x-tenant", "acme");
    let bystander = || quick("bystander").after(SubscriptionId(1));
    let ids = [crm(), bystander()].map(|one| world.engine.subscribe(one).unwrap());
    let before = faults.operations();
    assert_eq!([crm(), bystander()].map(|one| world.engine.subscribe(one).unwrap()), ids);
    assert_eq!(faults.operations(), before);
    world.engine.subscribe(crm().secret("second")).unwrap();
    assert!(faults.operations() > before);
    let again = faults.operations();
    world.engine.subscribe(bystander()).unwrap();
    assert_eq!(faults.operations(), again);
    assert_eq!(world.publish("ADD_TAG", "{}").owed, 2);
}

#[test]
fn without_a_name_the_url_is_the_name() {
    let world = World::new();
    let to = |url: &str| Subscription::to(url).unwrap();
    let one = world.engine.subscribe(to("https://a.example/x")).unwrap();
    assert_eq!(world.engine.subscribe(to("https://a.example/x")).unwrap(), one);
    assert_ne!(world.engine.subscribe(to("https://a.example/y")).unwrap(), one);
    assert_eq!(world.engine.subscription(one).unwrap().name, "https://a.example/x");
}

#[test]
fn accounts_have_their_own_names_numbers_and_events() {
    let world = World::with(|config| {
        config
            .account(Account::new("acme").waba("1", ["919999999999"]))
            .account(Account::new("beta").waba("2", ["918888888888"]))
    });
    let acme = world.engine.subscribe(quick("acme.hook").name("crm").account("acme")).unwrap();
    let beta = world.engine.subscribe(quick("beta.hook").name("crm").account("beta")).unwrap();
    assert_ne!(acme, beta, "the same name in two accounts");
    let publish = |account: &str, number: &str| {
        let event = wabahook::Event::new("ADD_TAG", "{}").account(account).number(number);
        world.engine.publish(event)
    };
    assert_eq!(publish("acme", "919999999999").unwrap().wait().unwrap().owed, 1);
    world.wait_until(|stats| stats.delivered == 1);
    assert_eq!(world.receivers.at("acme.hook").len(), 1);
    assert!(world.receivers.at("beta.hook").is_empty());
    for (account, number) in [("acme", "918888888888"), ("beta", "917777777777")] {
        let error = publish(account, number).unwrap_err().error;
        assert!(matches!(&error, Error::Forbidden { field, .. } if field == "number"), "{error}");
    }
    let foreign = quick("x").account("beta").numbers(["919999999999"]);
    let error = world.engine.subscribe(foreign).unwrap_err();
    assert!(matches!(&error, Error::Forbidden { field, .. } if field == "numbers[0]"), "{error}");
    assert_eq!(world.engine.subscribe(quick("x")).unwrap_err().field(), Some("account"));
}

#[test]
fn the_limit_refuses_a_new_subscription_and_not_a_change() {
    let limits = Limits::default().subscriptions_max(1);
    let world = World::with(|config| config.limits(limits));
    world.subscribe("crm");
    let error = world.engine.subscribe(quick("second")).unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit: 1, .. }), "{error}");
    world.subscribe("crm");
    assert_eq!(world.engine.subscriptions().len(), 1);
}

#[test]
fn a_change_keeps_the_old_secret_unless_it_sets_one() {
    let world = World::new();
    let crm = world.engine.subscribe(quick("crm").secret("first")).unwrap();
    let bystander = world.engine.subscribe(quick("bystander").secret("other")).unwrap();
    for id in [crm, bystander] {
        world
            .engine
            .rotate_secret(id, Some(Secret::new("second")), Duration::from_secs(60))
            .unwrap();
    }
    let retiring = |id| world.engine.subscription(id).unwrap().retiring.len();
    world
        .engine
        .revise(crm, |crm| Ok::<_, Error>(Subscription::from(crm).name("renamed")))
        .unwrap();
    assert_eq!((retiring(crm), retiring(bystander)), (1, 1));
    world
        .engine
        .revise(crm, |crm| Ok::<_, Error>(Subscription::from(crm).secret("third")))
        .unwrap();
    assert_eq!((retiring(crm), retiring(bystander)), (0, 1));
}
