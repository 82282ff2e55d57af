//! Changes of subscriptions where the device, the stored form or the ids fail.

use std::sync::Arc;

use crate::account::Account;
use crate::book::SubscriptionStore;
use crate::clock::ManualClock;
use crate::config::{Config, OnDamage};
use crate::engine::Engine;
use crate::error::Error;
use crate::event::{Catalogue, Event};
use crate::notice::Notice;
use crate::secret::Secret;
use crate::store::{FaultInjectingStore, FaultPlan, Memory, Store};
use crate::subscription::{Subscription, SubscriptionId, SubscriptionInfo};
use crate::testing::{DEADLINE, ScriptedTransport, wait_until_idle};

fn engine_on(store: Arc<dyn Store>, receivers: &Arc<ScriptedTransport>) -> Engine {
    let config = Config::new("unused")
        .account(Account::new("acme").waba("1", ["919999999999"]))
        .account(Account::new("beta").waba("2", ["917777777777"]))
        .store(store)
        .clock(Arc::new(ManualClock::new(1_700_000_000_000, 7)))
        .transport(receivers.clone());
    Engine::open(config).unwrap()
}

fn subscription_of(account: &str, host: &str) -> Subscription {
    let target = Subscription::to(format!("https://{host}.example/hook")).unwrap();
    target.name(host).account(account)
}

fn publish_to_both(engine: &Engine) {
    for (account, number) in [("acme", "919999999999"), ("beta", "917777777777")] {
        let event = Event::new("ADD_TAG", "{}").account(account).number(number);
        engine.publish(event).unwrap().wait().unwrap();
    }
    assert!(wait_until_idle(engine, DEADLINE));
}

/// Changes a stored subscription as no call of this build would.
fn rewrite(store: &Memory, change: impl FnOnce(&mut SubscriptionInfo)) {
    let catalogue = Catalogue::default();
    let loaded =
        SubscriptionStore::open(Arc::new(store.clone()), None, &catalogue, OnDamage::Refuse);
    let mut loaded = loaded.unwrap();
    let mut first = loaded.subscriptions.remove(0);
    change(&mut first);
    loaded.store.put(&first).unwrap();
}

/// Closes an engine that owes one event to a subscription, whose secret this build then refuses.
fn close_with_one_owed(
    store: &Memory,
    receivers: &Arc<ScriptedTransport>,
) -> (SubscriptionId, SubscriptionId) {
    let engine = engine_on(Arc::new(store.clone()), receivers);
    let crm = engine.subscribe(subscription_of("acme", "crm")).unwrap();
    let bystander = engine.subscribe(subscription_of("beta", "bystander")).unwrap();
    engine.pause(crm).unwrap();
    let event = Event::new("ADD_TAG", "{}").account("acme").number("919999999999");
    engine.publish(event).unwrap().wait().unwrap();
    engine.close(DEADLINE).unwrap();
    rewrite(store, |first| first.secret = Some(Secret::new("whsec_YQ==")));
    (crm, bystander)
}

/// The bystander of another account gets its events meanwhile.
#[test]
fn one_subscription_that_cannot_be_served_is_held_at_open() {
    let (store, receivers) = (Memory::default(), Arc::new(ScriptedTransport::default()));
    let (crm, bystander) = close_with_one_owed(&store, &receivers);
    let engine = engine_on(Arc::new(store.clone()), &receivers);
    let ids: Vec<_> = engine.subscriptions().iter().map(|one| one.id).collect();
    assert_eq!(ids, [bystander]);
    let told = engine.notices().try_next();
    let Some(Notice::NotServed { subscription, name, why }) = told else { panic!("{told:?}") };
    assert_eq!((subscription, name), (crm, Some(("acme".to_owned(), "crm".to_owned()))));
    assert!(why.contains("secret") && !why.contains("YQ=="), "{why}");
    publish_to_both(&engine);
    assert_eq!(receivers.at("bystander.example").len(), 1);
    assert_eq!((engine.stats().owed, engine.stats().held), (1, 1), "the event from before");
    // Registered again under its name it gets what it is owed.
    assert_eq!(engine.register(subscription_of("acme", "crm")).unwrap(), crm);
    let taken = engine.register(subscription_of("acme", "crm"));
    assert!(matches!(taken, Err(Error::NameTaken { .. })), "{taken:?}");
    assert!(wait_until_idle(&engine, DEADLINE));
    assert_eq!((receivers.at("crm.example").len(), engine.stats().owed), (1, 0));
    assert_eq!(receivers.at("bystander.example").len(), 1);
}

#[test]
fn a_held_subscription_can_be_removed() {
    let (store, receivers) = (Memory::default(), Arc::new(ScriptedTransport::default()));
    let (crm, bystander) = close_with_one_owed(&store, &receivers);
    let engine = engine_on(Arc::new(store.clone()), &receivers);
    engine.unsubscribe(crm).unwrap();
    assert_eq!((engine.stats().owed, engine.stats().cancelled), (0, 1));
    assert!(matches!(engine.unsubscribe(crm), Err(Error::NotFound { .. })));
    engine.close(DEADLINE).unwrap();
    let engine = engine_on(Arc::new(store.clone()), &receivers);
    assert_eq!(engine.notices().try_next(), None);
    let ids: Vec<_> = engine.subscriptions().iter().map(|one| one.id).collect();
    assert_eq!(ids, [bystander]);
}

#[test]
fn ids_that_are_exhausted_are_a_clear_error() {
    let (store, receivers) = (Memory::default(), Arc::new(ScriptedTransport::default()));
    let engine = engine_on(Arc::new(store.clone()), &receivers);
    engine.subscribe(subscription_of("acme", "crm")).unwrap();
    let bystander = engine.subscribe(subscription_of("beta", "bystander")).unwrap();
    engine.close(DEADLINE).unwrap();
    rewrite(&store, |first| (first.id, first.name) = (SubscriptionId(u32::MAX - 2), "high".into()));
    let engine = engine_on(Arc::new(store.clone()), &receivers);
    let both = [subscription_of("acme", "a"), subscription_of("acme", "b")];
    let refused = engine.subscribe_many(both).unwrap_err();
    assert!(matches!(refused, Error::TooLarge { .. }), "{refused}");
    let last = engine.subscribe(subscription_of("acme", "last")).unwrap();
    assert_eq!(last, SubscriptionId(u32::MAX - 1));
    for _ in 0..2 {
        let refused = engine.subscribe(subscription_of("acme", "one-more")).unwrap_err();
        assert!(refused.to_string().contains("never reused"), "{refused}");
    }
    assert_eq!(engine.subscribe(subscription_of("beta", "bystander")).unwrap(), bystander);
    publish_to_both(&engine);
    assert_eq!(receivers.at("bystander.example").len(), 1);
}

/// Whatever of the removal failed: the tombstone, or the book after it.
#[test]
fn a_name_is_unique_after_a_refused_removal_and_a_crash() {
    for fails_after in 0..6 {
        let (memory, faults) = (Memory::default(), Arc::new(FaultPlan::default()));
        let receivers = Arc::new(ScriptedTransport::default());
        let faulty = FaultInjectingStore::new(Arc::new(memory.clone()), Arc::clone(&faults));
        let engine = engine_on(Arc::new(faulty), &receivers);
        let id = engine.subscribe(subscription_of("acme", "crm")).unwrap();
        engine.subscribe(subscription_of("beta", "bystander")).unwrap();
        faults.fail_after(fails_after);
        let removed = engine.unsubscribe(id);
        faults.heal();
        let again = engine.subscribe(subscription_of("acme", "crm"));
        let survivor = engine_on(Arc::new(memory.crash()), &receivers);
        let names: Vec<_> =
            survivor.subscriptions().iter().map(|one| (one.name.clone(), one.id)).collect();
        let crm = names.iter().filter(|(name, _)| name == "crm");
        assert!(crm.clone().count() <= 1, "{fails_after}: {removed:?} {again:?} {names:?}");
        assert!(names.iter().any(|(name, _)| name == "bystander"), "{names:?}");
        if let Ok(again) = again {
            assert!(names.contains(&("crm".to_owned(), again)), "{fails_after}: {names:?}");
        }
    }
}
