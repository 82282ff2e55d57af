//! Accounts have ids of their own: a later account of a name gets nothing of an earlier one, in no direction. The
//! deliveries of an account that is suspended or removed are held, and go on, move or end when the host says so.

use std::sync::Arc;
use std::time::Duration;

use wabahook::testing::ScriptedReply;
use wabahook::{
    Account, AccountInfo, AccountState, ApiKey, Config, DeadLetterFilter, Engine, Error, Event,
    Notice, PurgeFilter, Subscription, SubscriptionId, Transport,
};

use crate::support::DEADLINE;
use crate::world::{World, quick};

const NUMBER: &str = "919999999999";
const BYSTANDER: &str = "917777777777";

fn acme() -> Account {
    Account::new("acme").api_key("acme-key").waba("1", [NUMBER])
}

fn bystander() -> Account {
    Account::new("bystander").waba("2", [BYSTANDER])
}

fn with(accounts: impl IntoIterator<Item = Account>) -> impl FnOnce(Config) -> Config {
    let accounts: Vec<_> = accounts.into_iter().collect();
    |config| accounts.into_iter().fold(config.without_default_account(), Config::account)
}

fn subscribe(world: &World, account: &str, host: &str) -> SubscriptionId {
    world.engine.subscribe(quick(host).account(account)).unwrap()
}

fn publish(world: &World, account: &str, number: &str, payload: &str) -> u32 {
    let event = Event::new("MESSAGE_RECEIVED", payload).account(account).number(number);
    world.engine.publish(event).unwrap().wait_timeout(DEADLINE).unwrap().unwrap().owed
}

/// The bystander's events are delivered as ever.
fn check_bystander(world: &World) {
    let before = world.receivers.at("bystander").len();
    assert_eq!(publish(world, "bystander", BYSTANDER, "b"), 1);
    world.receivers.wait_for("bystander", before + 1);
}

/// A world on the same store and clock, after a power cut.
fn again(world: World, accounts: impl IntoIterator<Item = Account>) -> World {
    let (store, clock) = (world.store.crash(), world.clock.clone());
    world.receivers.interrupt();
    World::on(store, clock, with(accounts))
}

fn named(engine: &Engine, name: &str) -> Arc<AccountInfo> {
    engine.accounts().named(name).unwrap()
}

#[test]
fn a_name_declared_again_is_another_account() {
    let world = World::with(with([acme(), bystander()]));
    let first = named(&world.engine, "acme");
    let old = subscribe(&world, "acme", "old");
    subscribe(&world, "bystander", "bystander");
    world.receivers.script("old", &[ScriptedReply::Status(500)]);
    assert_eq!(publish(&world, "acme", NUMBER, "for the first"), 1);
    world.receivers.wait_for("old", 1);

    let world = again(world, [bystander()]);
    let held = Notice::AccountHeld {
        account: first.id.clone(),
        name: "acme".into(),
        state: AccountState::Removed,
        deliveries: 1,
    };
    let notices = world.engine.notices();
    let told: Vec<_> = std::iter::from_fn(|| notices.try_next()).collect();
    assert!(told.contains(&held), "{told:?}");
    assert!(world.engine.accounts().authenticate(b"acme-key").is_none());
    check_bystander(&world);

    let world = again(world, [acme(), bystander()]);
    let second = named(&world.engine, "acme");
    assert_ne!(second.id, first.id);
    assert_eq!(world.engine.accounts().authenticate(b"acme-key").unwrap().id, second.id);
    assert!(world.engine.subscriptions_of("acme").is_empty());
    assert_eq!(publish(&world, "acme", NUMBER, "for the second"), 0, "the former gets nothing");
    let new = subscribe(&world, "acme", "new");
    assert_eq!(publish(&world, "acme", NUMBER, "for the second"), 1);
    assert_eq!(world.receivers.wait_for("new", 1)[0].text(), "for the second");
    // The dedup keys of the first account are not the second one's.
    check_bystander(&world);
    world.clock.advance(Duration::from_secs(10 * 3_600));
    check_bystander(&world);
    assert!(world.receivers.at("old").is_empty(), "its deliveries are held");
    let of =
        |id: &str| world.engine.subscriptions_of(id).iter().map(|one| one.id).collect::<Vec<_>>();
    assert_eq!((of(first.id()), of(second.id())), (vec![old], vec![new]));
}

#[test]
fn a_suspended_account_goes_on_where_it_stopped() {
    let world = World::with(with([acme(), bystander()]));
    subscribe(&world, "acme", "acme");
    subscribe(&world, "bystander", "bystander");
    let id = named(&world.engine, "acme").id.clone();
    let set = |world: &World, state: AccountState| {
        let set = world
            .engine
            .revise_account(id.as_str(), |one| Ok::<_, Error>(Account::from(one).state(state)));
        assert_eq!(set.unwrap().state, state);
    };
    set(&world, AccountState::Suspended);
    assert!(world.engine.accounts().authenticate(b"acme-key").is_none());
    assert_eq!(publish(&world, "acme", NUMBER, "held"), 1, "callbacks go on being accepted");
    check_bystander(&world);
    let world = again(world, [acme(), bystander()]);
    check_bystander(&world);
    assert!(world.receivers.at("acme").is_empty());
    set(&world, AccountState::Active);
    assert_eq!(world.receivers.wait_for("acme", 1)[0].text(), "held");
}

/// The time until the suspension counts as failing, and the time of the suspension does not.
#[test]
fn a_suspension_keeps_how_long_a_webhook_has_failed() {
    let world = World::with(with([acme(), bystander()]));
    let failing = subscribe(&world, "acme", "acme");
    subscribe(&world, "bystander", "bystander");
    world.receivers.script("acme", &[ScriptedReply::Status(503)]);
    publish(&world, "acme", NUMBER, "1");
    world.wait_until(|stats| stats.retried == 1);
    let failing_for = |world: &World| world.engine.stats().lane(failing).unwrap().failing_for;
    let (before, long) = (Duration::from_secs(1), Duration::from_secs(86_400));
    let id = named(&world.engine, "acme").id.clone();
    let set = |world: &World, state: AccountState| {
        let set = |one: &AccountInfo| Ok::<_, Error>(Account::from(one).state(state));
        world.engine.revise_account(id.as_str(), set).unwrap();
    };
    world.clock.advance(before);
    world.wait_until(|stats| stats.retried == 2);
    assert_eq!(failing_for(&world), before);
    world.clock.advance(before);
    set(&world, AccountState::Suspended);
    let until_then = failing_for(&world);
    assert!(until_then >= before * 2, "{until_then:?}");
    world.clock.advance(long);
    assert_eq!(failing_for(&world), until_then);
    set(&world, AccountState::Active);
    assert_eq!(failing_for(&world), until_then);
    check_bystander(&world);
}

#[test]
fn changes_at_run_time_survive_a_power_cut() {
    let key = ApiKey::generate().unwrap();
    let world = World::with(with([bystander()]));
    let created = world
        .engine
        .create_account(Account::new("acme").api_key(key.reveal_text()).waba("1", [NUMBER]));
    let id = created.unwrap().id.clone();
    let (ci, ci_key) = world.engine.add_api_key(id.as_str(), "ci", None).unwrap();
    let renamed = |one: &AccountInfo| Ok::<_, Error>(Account::from(one).rename("acme two"));
    world.engine.revise_account(id.as_str(), renamed).unwrap();
    let world = again(world, [bystander()]);
    let accounts = world.engine.accounts();
    for key in [&key, &ci_key] {
        assert_eq!(accounts.authenticate(key.reveal_text().as_bytes()).unwrap().id, id);
    }
    assert_eq!(accounts.owner_of_number(NUMBER.parse().unwrap()).unwrap().name, "acme two");
    world.engine.remove_api_key(id.as_str(), &ci.id).unwrap();
    assert!(accounts.authenticate(ci_key.reveal_text().as_bytes()).is_none());
    world.engine.remove_account(id.as_str()).unwrap();
    let world = again(world, [bystander()]);
    let accounts = world.engine.accounts();
    assert!(accounts.authenticate(key.reveal_text().as_bytes()).is_none());
    assert_eq!(accounts.get(id.as_str()).unwrap().state, AccountState::Removed);
    assert!(accounts.owner_of_number(NUMBER.parse().unwrap()).is_none());
    world.engine.forget_account(id.as_str()).unwrap();
    let world = again(world, [bystander()]);
    assert!(world.engine.accounts().get(id.as_str()).is_none());
}

#[test]
fn a_moved_account_s_deliveries_go_on_in_the_other_one() {
    let world = World::with(with([bystander()]));
    let create = |account: Account| world.engine.create_account(account).unwrap().id.clone();
    let from = create(Account::new("from").waba("1", [NUMBER]));
    let to = create(Account::new("to").waba("3", ["916666666666"]));
    let moved = subscribe(&world, "from", "moved");
    let dead = subscribe(&world, "from", "dead");
    subscribe(&world, "bystander", "bystander");
    world.receivers.script("dead", &[ScriptedReply::Status(404)]);
    world.receivers.script("moved", &[ScriptedReply::Status(500), ScriptedReply::Status(200)]);
    publish(&world, "from", NUMBER, "m");
    world.wait_until(|stats| stats.dead == 1 && stats.retried == 1);
    let refused = world.engine.move_account(from.as_str(), to.as_str()).unwrap_err();
    assert_eq!(refused.field(), Some("account"), "an active account is not moved");
    world.engine.remove_account(from.as_str()).unwrap();
    world.clock.advance(Duration::from_secs(3_600));
    check_bystander(&world);
    assert_eq!(world.receivers.at("moved").len(), 1, "held");
    world.engine.move_account(from.as_str(), to.as_str()).unwrap();
    world.receivers.wait_for("moved", 2);
    let own: Vec<_> = world.engine.subscriptions_of("to").iter().map(|one| one.id).collect();
    assert_eq!(own, [moved, dead]);
    let letters = |account: &str| {
        let filter = DeadLetterFilter::default().account(account);
        world.engine.dead_letters(&filter, None, 10).unwrap().items.len()
    };
    assert_eq!((letters("to"), letters(from.as_str())), (1, 0));
    let again = world.engine.revise_account(from.as_str(), |one| {
        Ok::<_, Error>(Account::from(one).state(AccountState::Active))
    });
    assert_eq!(again.unwrap_err().field(), Some("account"), "a moved account is not resumed");
    let purged = world.engine.purge(&PurgeFilter::default().account("to")).unwrap();
    assert_eq!(purged.deliveries, 1, "what was moved ends with its new account");
    assert_eq!(letters("to"), 0, "what was moved ends with its new account");
    check_bystander(&world);
}

#[test]
fn a_number_that_goes_elsewhere_leaves_webhooks_changeable() {
    let world = World::with(with([bystander()]));
    let create = |account: Account| world.engine.create_account(account).unwrap().id.clone();
    let first = create(Account::new("first").waba("1", [NUMBER]));
    let second = create(Account::new("second"));
    let hook = quick("first").account("first").numbers([NUMBER]);
    let hook = world.engine.subscribe(hook).unwrap();
    let without = |one: &AccountInfo| Ok::<_, Error>(Account::from(one).without_wabas());
    world.engine.revise_account(first.as_str(), without).unwrap();
    let taking = |one: &AccountInfo| Ok::<_, Error>(Account::from(one).waba("1", [NUMBER]));
    world.engine.revise_account(second.as_str(), taking).unwrap();
    assert_eq!(publish(&world, "second", NUMBER, "x"), 0, "the old owner gets nothing");
    let renamed =
        |one: &wabahook::SubscriptionInfo| Ok::<_, Error>(Subscription::from(one).name("renamed"));
    world.engine.revise(hook, renamed).unwrap();
    let more = world
        .engine
        .revise(hook, |one| Ok::<_, Error>(Subscription::from(one).numbers([NUMBER, BYSTANDER])));
    assert!(matches!(more, Err(Error::Forbidden { .. })), "{more:?}");
}

#[test]
fn a_bad_declaration_changes_nothing() {
    let world = World::with(with([acme(), bystander()]));
    let taken = Account::new("third").waba("3", [BYSTANDER]);
    let refused = world.engine.declare_accounts([bystander(), taken]).unwrap_err();
    assert_eq!(refused.field(), Some("account.waba.numbers"));
    assert_eq!(named(&world.engine, "acme").state, AccountState::Active);
    // A number may go from one declared account to another at once.
    let moved = Account::new("acme").waba("1", [BYSTANDER]);
    let other = Account::new("bystander").waba("2", [NUMBER]);
    let changes = world.engine.declare_accounts([moved, other]).unwrap();
    assert_eq!(changes.changed, ["acme", "bystander"]);
    assert!(world.engine.accounts().authenticate(b"acme-key").is_none());
    let owner = world.engine.accounts().owner_of_number(NUMBER.parse().unwrap());
    assert_eq!(owner.unwrap().name, "bystander");
    let declared = named(&world.engine, "acme");
    let error = world.engine.remove_account(declared.id()).unwrap_err();
    assert_eq!(error.field(), Some("account"), "it is removed where it is declared");
    assert!(
        error.to_string().contains("its settings and its end are in the configuration"),
        "{error}"
    );
}

#[test]
fn a_move_that_a_crash_interrupts_is_whole_or_absent() {
    let mut outcomes = [0, 0];
    for operations in 0..24 {
        let (world, faults) = World::faulty(with([bystander()]));
        let create = |account: Account| world.engine.create_account(account).unwrap().id.clone();
        let (from, to) = (create(Account::new("from")), create(Account::new("to")));
        let ids = ["a", "b", "c"].map(|host| subscribe(&world, "from", host));
        world.engine.remove_account(from.as_str()).unwrap();
        faults.fail_after(operations);
        let moved = world.engine.move_account(from.as_str(), to.as_str());
        let world = again(world, [bystander()]);
        let of = |id: &str| {
            world.engine.subscriptions_of(id).iter().map(|one| one.id).collect::<Vec<_>>()
        };
        let is_moved = of(to.as_str()) == ids;
        assert!(is_moved || of(from.as_str()) == ids, "after {operations} operations");
        assert_eq!(of(from.as_str()).len() + of(to.as_str()).len(), ids.len());
        assert!(is_moved || moved.is_err(), "what was answered is there");
        outcomes[usize::from(is_moved)] += 1;
    }
    assert!(outcomes.iter().all(|count| *count > 0), "{outcomes:?}");
}
