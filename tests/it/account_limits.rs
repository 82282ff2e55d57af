//! The limits of one account hit that account alone: beside a noisy account that reaches a limit, a quiet one
//! publishes, is delivered to and keeps its dead letters as if it were alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use wabahook::clock::ManualClock;
use wabahook::store::Memory;
use wabahook::testing::{ScriptedReply, ScriptedTransport};
use wabahook::{
    Account, AccountLimits, AccountUsage, Config, DeadLetterFilter, Engine, Error, Event, Limits,
    Notice, PublishError, Receipt, Subscription, SubscriptionId,
};

use crate::support::wait_until;
use crate::world::{BEGIN_WALL_MS, DEADLINE, World, quick};

const NOISY_NUMBER: &str = "919999999999";
const QUIET_NUMBER: &str = "918888888888";

/// The accounts `noisy`, with these limits of its own, and `quiet`.
fn accounts(limits: AccountLimits) -> impl Fn(Config) -> Config {
    move |config| {
        config
            .account(Account::new("noisy").waba("1", [NOISY_NUMBER]).limits(limits.clone()))
            .account(Account::new("quiet").waba("2", [QUIET_NUMBER]))
    }
}

fn own() -> AccountLimits {
    AccountLimits::default()
}

fn event(account: &str) -> Event {
    let number = if account == "noisy" { NOISY_NUMBER } else { QUIET_NUMBER };
    Event::new("ADD_TAG", "{}").account(account).number(number)
}

/// A subscription of the host of the same name as its account.
fn subscribe(engine: &Engine, account: &str) -> SubscriptionId {
    engine.subscribe(quick(account).account(account)).unwrap()
}

fn subscribe_both(engine: &Engine) -> [SubscriptionId; 2] {
    ["noisy", "quiet"].map(|account| subscribe(engine, account))
}

fn publish(engine: &Engine, account: &str) -> Result<(), PublishError> {
    let accepted = |receipt: Receipt| receipt.wait_timeout(DEADLINE).unwrap().unwrap();
    engine.publish(event(account)).map(|receipt| assert_eq!(accepted(receipt).owed, 1))
}

fn usage(engine: &Engine, account: &str) -> AccountUsage {
    engine.account_usage(engine.accounts().named(account).unwrap().id())
}

#[track_caller]
fn check_limit(refused: &Error, name: &str, figures: (u64, u64)) {
    match refused {
        Error::LimitReached { limit, used, allowed, .. } => {
            assert_eq!((*limit, (*used, *allowed)), (name, figures));
        }
        other => panic!("{other}"),
    }
}

/// The quiet account publishes 20 events, all of which arrive. It owes one at a time, so no limit of its own is reached.
fn check_quiet(world: &World) {
    let before = world.receivers.at("quiet").len();
    for _ in 0..20 {
        publish(&world.engine, "quiet").unwrap();
        assert!(wait_until(|| usage(&world.engine, "quiet").owed_events == 0));
    }
    assert_eq!(world.receivers.at("quiet").len(), before + 20);
}

#[test]
fn owed_events_are_limited_by_account_over_restarts() {
    let change = accounts(own().owed_events_max(Some(3)));
    let world = World::with(&change);
    subscribe_both(&world.engine);
    world.receivers.script("noisy", &[ScriptedReply::Status(500)]);
    for _ in 0..3 {
        publish(&world.engine, "noisy").unwrap();
    }
    let refused = publish(&world.engine, "noisy").unwrap_err();
    check_limit(&refused.error, "owed_events_max", (3, 3));
    assert!(refused.is_busy() && refused.events.len() == 1);
    check_quiet(&world);
    assert_eq!(world.engine.stats().busy, 1);
    world.engine.close(DEADLINE).unwrap();
    let (store, clock) = (world.store.clone(), Arc::clone(&world.clock));
    drop(world);
    let world = World::on(store, clock, &change);
    assert_eq!(usage(&world.engine, "noisy").owed_events, 3);
    check_limit(&publish(&world.engine, "noisy").unwrap_err().error, "owed_events_max", (3, 3));
    check_quiet(&world);
    // The receiver works again, so what is owed ends.
    world.clock.advance(Duration::from_secs(10));
    assert!(wait_until(|| usage(&world.engine, "noisy").owed_events == 0));
    publish(&world.engine, "noisy").unwrap();
}

#[test]
fn one_account_takes_at_most_half_of_what_all_share() {
    let limits = || Limits::default().outbox_events_max(40).outbox_bytes_max(1_000_000);
    let world = World::with(|config| accounts(own())(config).limits(limits()));
    subscribe_both(&world.engine);
    world.receivers.script("noisy", &[ScriptedReply::Status(500)]);
    let accepted = (0..100).filter(|_| publish(&world.engine, "noisy").is_ok()).count();
    assert_eq!(accepted, 20);
    check_quiet(&world);
    let large = Event::new("ADD_TAG", vec![b'1'; 600_000]).account("noisy").number(NOISY_NUMBER);
    let refused = world.engine.publish(large).unwrap_err();
    assert!(matches!(refused.error, Error::TooLarge { limit: 500_000, .. }), "{refused}");
    // The only account of an engine may use all.
    let alone = World::with(|config| config.limits(limits()));
    alone.subscribe("noisy");
    alone.receivers.script("noisy", &[ScriptedReply::Status(500)]);
    let event = || Event::new("ADD_TAG", "{}").number(NOISY_NUMBER);
    let accepted =
        (0..100).filter(|_| alone.engine.publish(event()).is_ok_and(|r| r.wait().is_ok()));
    assert_eq!(accepted.count(), 40);
}

#[test]
fn the_publish_rate_of_an_account_is_its_own() {
    let world = World::with(accounts(own().publish_rate(5, Duration::from_secs(1))));
    subscribe_both(&world.engine);
    let publish_noisy = || (0..50).filter(|_| publish(&world.engine, "noisy").is_ok()).count();
    assert_eq!(publish_noisy(), 5);
    let refused = publish(&world.engine, "noisy").unwrap_err();
    check_limit(&refused.error, "publish_rate", (5, 5));
    let Error::LimitReached { retry_after, .. } = refused.error else { panic!() };
    assert_eq!(retry_after, Some(Duration::from_millis(200)));
    check_quiet(&world);
    world.clock.advance(Duration::from_millis(400));
    assert_eq!(publish_noisy(), 2);
    let many = world.engine.publish_many((0..6).map(|_| event("noisy")).collect()).unwrap_err();
    assert!(matches!(many.error, Error::TooLarge { given: 6, limit: 5, .. }), "{many}");
}

#[test]
fn subscriptions_are_limited_by_account() {
    let world = World::with(accounts(own().subscriptions_max(Some(2))));
    let named = |account: &str, name: &str| {
        let to = Subscription::to(format!("https://{name}/hook")).unwrap();
        world.engine.subscribe(to.name(name).account(account))
    };
    let first = named("noisy", "a").unwrap();
    assert!(named("noisy", "b").is_ok());
    let refused = named("noisy", "c").unwrap_err();
    check_limit(&refused, "subscriptions_max", (2, 2));
    assert!(matches!(refused, Error::LimitReached { retry_after: None, .. }), "waiting is no help");
    assert_eq!(refused.field(), Some("subscriptions_max"));
    assert_eq!(named("noisy", "a").unwrap(), first, "a replaced one is no new one");
    assert!((0..5).all(|n| named("quiet", &format!("q{n}")).is_ok()));
    world.engine.unsubscribe(first).unwrap();
    assert!(named("noisy", "c").is_ok());
    assert_eq!(usage(&world.engine, "noisy").subscriptions, 2);
}

#[test]
fn dead_letters_of_a_neighbour_are_never_erased() {
    let limits = Limits::default().dead_letters_max(10);
    let world = World::with(|config| accounts(own())(config).limits(limits));
    let notices = world.engine.notices();
    let [_, quiet] = subscribe_both(&world.engine);
    for host in ["noisy", "quiet"] {
        world.receivers.script(host, &[ScriptedReply::Status(404)]);
    }
    for _ in 0..5 {
        publish(&world.engine, "quiet").unwrap();
    }
    world.wait_until(|stats| stats.dead == 5);
    for n in 0..100 {
        publish(&world.engine, "noisy").unwrap();
        world.wait_until(|stats| stats.dead == 6 + n);
    }
    world.wait_until(|stats| stats.letters_dropped == 95);
    let kept = |filter: &DeadLetterFilter| {
        world.engine.dead_letters(filter, None, 100).unwrap().items.len()
    };
    assert_eq!(kept(&DeadLetterFilter::default().subscription(quiet)), 5);
    assert_eq!(kept(&DeadLetterFilter::default()), 10);
    assert_eq!(usage(&world.engine, "noisy").dead_letters, 5);
    world.clock.advance(Duration::from_secs(61));
    publish(&world.engine, "noisy").unwrap();
    world.wait_until(|stats| stats.letters_dropped == 96);
    let told = || std::iter::from_fn(|| notices.try_next());
    let dropped: Vec<(String, u64)> = told()
        .filter_map(|notice| match notice {
            Notice::DeadLettersDropped { account, letters } => Some((account, letters)),
            _ => None,
        })
        .collect();
    let noisy = world.engine.accounts().named("noisy").unwrap().id().to_owned();
    assert_eq!(dropped, [(noisy.clone(), 1), (noisy, 95)], "once a minute, with all counted");
}

#[test]
fn dedup_keys_of_a_neighbour_stay() {
    let world = World::with(accounts(own().dedup_keys_max(Some(3))));
    subscribe_both(&world.engine);
    let publish = |account: &str, key: &str| {
        let receipt = world.engine.publish(event(account).dedup_key(key)).unwrap();
        receipt.wait_timeout(DEADLINE).unwrap().unwrap().duplicate
    };
    assert!(!publish("quiet", "first"));
    assert!((0..50).all(|n| !publish("noisy", &format!("{n}"))));
    assert!(publish("quiet", "first"), "the neighbour's key is remembered");
    assert!(publish("noisy", "49") && !publish("noisy", "0"), "its own newest are");
}

#[test]
fn tests_are_limited_by_account() {
    let world = World::with(accounts(own().tests_per_minute(Some(2))));
    let [noisy, quiet] = subscribe_both(&world.engine);
    assert!(world.engine.test(noisy).is_ok() && world.engine.test(noisy).is_ok());
    check_limit(&world.engine.test(noisy).unwrap_err(), "tests_per_minute", (2, 2));
    assert!((0..20).all(|_| world.engine.test(quiet).is_ok()));
    world.clock.advance(Duration::from_secs(30));
    assert!(world.engine.test(noisy).is_ok());
    assert_eq!(world.receivers.at("noisy").len(), 3, "a refused test sends nothing");
}

#[test]
fn attempts_in_flight_are_limited_by_account() {
    let limits = Limits::default().transport_threads(8);
    let world = World::with(|config| accounts(own())(config).limits(limits));
    for n in 0..20 {
        let host = format!("hangs-{n}");
        world.receivers.script(&host, &[ScriptedReply::Hangs]);
        world.engine.subscribe(quick(&host).account("noisy")).unwrap();
    }
    subscribe(&world.engine, "quiet");
    world.engine.publish(event("noisy")).unwrap().wait().unwrap();
    assert!(wait_until(|| usage(&world.engine, "noisy").in_flight > 0));
    check_quiet(&world);
    let noisy = usage(&world.engine, "noisy");
    assert!(noisy.in_flight <= 4 && noisy.bounds.in_flight_max == 4, "{noisy:?}");
}

/// A fan-out is delivered at 50 deliveries/s by the manual clock while another number of the account and the quiet
/// account publish.
#[test]
fn a_large_fan_out_delays_no_other_number_and_no_neighbour() {
    const LANES: usize = 3_000;
    const BEFORE: usize = 300;
    let clock = Arc::new(ManualClock::new(BEGIN_WALL_MS, 11));
    let (arrived, ticking) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&clock));
    let (ask, asked) = std::sync::mpsc::sync_channel::<()>(0);
    let (done, resume) = std::sync::mpsc::sync_channel::<()>(0);
    let resume = parking_lot::Mutex::new(resume);
    let counted = Arc::clone(&arrived);
    let transport = ScriptedTransport::new(move |_| {
        ticking.advance(Duration::from_millis(20));
        // The first part of the fan-out is delivered: let the test publish in the middle of it.
        if counted.fetch_add(1, Ordering::SeqCst) + 1 == BEFORE {
            ask.send(()).unwrap();
            resume.lock().recv_timeout(DEADLINE).unwrap();
        }
        ScriptedReply::Status(200)
    });
    let transport = Arc::new(transport);
    let config = Config::new("unused").store(Arc::new(Memory::default())).clock(clock);
    let config = config.transport(transport.clone()).limits(Limits::default().transport_threads(1));
    let two_numbers = Account::new("noisy").waba("1", [NOISY_NUMBER, "917777777777"]);
    let quiet = Account::new("quiet").waba("2", [QUIET_NUMBER]);
    let engine = Engine::open(config.account(two_numbers).account(quiet)).unwrap();
    let to =
        |host: String, account: &str, number: &str| quick(&host).account(account).numbers([number]);
    let lanes = (0..LANES).map(|n| to(format!("lane-{n}"), "noisy", NOISY_NUMBER));
    for together in lanes.collect::<Vec<_>>().chunks(50) {
        engine.subscribe_many(together.to_vec()).unwrap();
    }
    engine.subscribe(to("other".into(), "noisy", "917777777777")).unwrap();
    engine.subscribe(to("quiet".into(), "quiet", QUIET_NUMBER)).unwrap();
    let accepted = engine.publish(event("noisy")).unwrap().wait_timeout(DEADLINE).unwrap().unwrap();
    assert_eq!(accepted.owed as usize, LANES);
    asked.recv_timeout(DEADLINE).unwrap();
    let other = Event::new("ADD_TAG", "{}").account("noisy").number("917777777777");
    for event in [other, event("quiet")] {
        assert_eq!(engine.publish(event).unwrap().wait_timeout(DEADLINE).unwrap().unwrap().owed, 1);
    }
    done.send(()).unwrap();
    transport.wait_for("other", 1);
    transport.wait_for("quiet", 1);
    let arrivals = transport.arrivals();
    let place = |host: &str| arrivals.iter().position(|arrival| arrival.host == host).unwrap();
    assert!(
        place("quiet") <= BEFORE + 4,
        "the neighbour's event came as number {}",
        place("quiet")
    );
    assert!(place("other") <= BEFORE + 400, "the other number's came as number {}", place("other"));
    engine.close(DEADLINE).unwrap();
}

/// The device takes its time while the noisy account fills its part of the queue.
#[test]
fn accounts_take_turns_in_the_queue_for_the_device() {
    let (world, faults) = World::faulty(accounts(own()));
    subscribe_both(&world.engine);
    faults.hold_syncs();
    let noisy: Vec<_> = (0..5_000).map(|_| world.engine.publish(event("noisy")).unwrap()).collect();
    let quiet: Vec<_> = (0..5).map(|_| world.engine.publish(event("quiet")).unwrap()).collect();
    faults.release_syncs();
    let accepted = |receipt: &Receipt| receipt.wait_timeout(DEADLINE).unwrap().unwrap().id;
    let quiet: Vec<_> = quiet.iter().map(accepted).collect();
    let noisy: Vec<_> = noisy.iter().map(accepted).collect();
    assert!(quiet.is_sorted() && noisy.is_sorted(), "each account keeps its order");
    // One group of 1,024 may have been on its way to the device.
    let before = noisy.iter().filter(|id| **id < quiet[4]).count();
    assert!(before <= 1_024 + 6, "{before} events of the neighbour went first");
}
