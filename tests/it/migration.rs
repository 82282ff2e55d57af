//! I3 and I11 when everything moves to another store: what was owed arrives from there, and the source is refused.

use std::sync::Arc;

use wabahook::store::{FaultInjectingStore, FaultPlan, Memory, Store};
use wabahook::{Config, DeadLetterFilter, Engine, Error, Event, Limits, Subscription};

use crate::world::DEADLINE;
use wabahook::testing::{ScriptedReply, ScriptedTransport};

fn config(store: Arc<dyn Store>, status: u16) -> (Config, Arc<ScriptedTransport>) {
    let receivers = Arc::new(ScriptedTransport::new(move |_| ScriptedReply::Status(status)));
    let limits = Limits::default().generation_bytes(20_000);
    let config = Config::new("unused").store(store).transport(receivers.clone()).limits(limits);
    (config, receivers)
}

/// An outbox of several generations that owes 40 events, and a dead letter.
fn fill(store: &Memory) {
    let (config, _) = config(Arc::new(store.clone()), 404);
    let engine = Engine::open(config).unwrap();
    let crm = engine.subscribe(Subscription::to("https://crm/hook").unwrap().name("crm")).unwrap();
    let event = |n: usize| Event::new("ADD_TAG", format!("{n} {}", "x".repeat(1_500)));
    engine.publish(event(0).dedup_key("first")).unwrap().wait().unwrap();
    assert!(crate::support::wait_until(|| engine.stats().dead == 1));
    engine.pause(crm).unwrap();
    for n in 1..=40 {
        engine.publish(event(n)).unwrap().wait().unwrap();
    }
    engine.close(DEADLINE).unwrap();
}

fn migrate(from: Arc<dyn Store>, to: Arc<dyn Store>) -> wabahook::Result<wabahook::Migration> {
    Engine::migrate(&config(from, 200).0, &config(to, 200).0)
}

fn check_moved(store: &Memory) {
    let (config, receivers) = config(Arc::new(store.clone()), 200);
    let engine = Engine::open(config).unwrap();
    let crm = engine.subscriptions()[0].id;
    engine.resume(crm).unwrap();
    assert!(crate::support::wait_until(|| engine.stats().owed == 0), "{:?}", engine.stats());
    assert_eq!(receivers.at("crm").len(), 40);
    let letters = engine.dead_letters(&DeadLetterFilter::default(), None, 9).unwrap().items;
    assert_eq!(letters.len(), 1);
    let again = Event::new("ADD_TAG", "again").dedup_key("first");
    assert!(engine.publish(again).unwrap().wait().unwrap().duplicate);
    engine.close(DEADLINE).unwrap();
}

#[test]
fn everything_moves_and_the_source_is_refused() {
    let (source, target) = (Memory::default(), Memory::default());
    fill(&source);
    let moved = migrate(Arc::new(source.clone()), Arc::new(target.clone())).unwrap();
    assert!(moved.databases > 3 && moved.bytes > 60_000, "{moved:?}");
    let (again, _) = config(Arc::new(source.clone()), 200);
    let refused = Engine::open(again).unwrap_err();
    assert!(matches!(refused, Error::Invalid { .. }), "{refused}");
    let twice = migrate(Arc::new(source), Arc::new(Memory::default()));
    assert!(matches!(twice, Err(Error::Invalid { .. })), "{twice:?}");
    check_moved(&target);
}

#[test]
fn an_interrupted_migration_is_refused_until_repeated() {
    let (source, target) = (Memory::default(), Memory::default());
    fill(&source);
    let mut cuts = 0;
    for after in [1, 3, 5] {
        let faults = Arc::new(FaultPlan::default());
        let failing = FaultInjectingStore::new(Arc::new(target.clone()), Arc::clone(&faults));
        faults.fail_after(after);
        if migrate(Arc::new(source.clone()), Arc::new(failing)).is_err() {
            cuts += 1;
            let (early, _) = config(Arc::new(target.clone()), 200);
            assert!(matches!(Engine::open(early), Err(Error::Invalid { .. })), "cut after {after}");
        }
    }
    assert!(cuts > 1, "nothing was cut short");
    migrate(Arc::new(source), Arc::new(target.clone())).unwrap();
    check_moved(&target);
}

#[test]
fn a_store_that_holds_something_is_no_target() {
    let (source, target) = (Memory::default(), Memory::default());
    fill(&source);
    fill(&target);
    let refused = migrate(Arc::new(source.clone()), Arc::new(target.clone()));
    assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    check_moved(&source);
    check_moved(&target);
}

/// The webhooks of a directory, by name.
fn webhooks_in(directory: &std::path::Path) -> Vec<String> {
    let engine = Engine::open(Config::new(directory)).unwrap();
    let names = engine.subscriptions().iter().map(|one| one.name.clone()).collect();
    engine.close(DEADLINE).unwrap();
    names
}

// An operator who goes back to the old directory meets what is still in it.
#[test]
fn an_old_directory_is_no_target_until_it_is_moved_away() {
    let directory = tempfile::tempdir().unwrap();
    let (old, server) = (Config::new(directory.path()), Memory::default());
    let add = |config: &Config, name: &str| {
        let engine = Engine::open(config.clone()).unwrap();
        let hook = Subscription::to("https://crm.example/hook").unwrap().name(name);
        engine.subscribe(hook).unwrap();
        engine.close(DEADLINE).unwrap();
    };
    add(&old, "first");
    let (new, _) = config(Arc::new(server), 200);
    assert!(Engine::check_config(&old).is_ok());
    // A file of that name is no mark, for both of them.
    let file = directory.path().join("moved");
    std::fs::write(&file, "by somebody else").unwrap();
    Engine::open(old.clone()).unwrap().close(DEADLINE).unwrap();
    assert!(Engine::check_config(&old).is_ok());
    std::fs::remove_file(file).unwrap();
    Engine::migrate(&old, &new).unwrap();
    let refused = Engine::check_config(&old).unwrap_err().to_string();
    assert!(refused.contains("it was moved to"), "{refused}");
    add(&new, "second");
    let refused = Engine::migrate(&new, &old).unwrap_err().to_string();
    assert!(refused.contains("move the old directory away"), "{refused}");
    // The log that is left there knows only the first one.
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap();
        }
    }
    let refused = Engine::migrate(&new, &old).unwrap_err().to_string();
    assert!(refused.contains("book.log"), "{refused}");
    std::fs::remove_file(directory.path().join("book.log")).unwrap();
    Engine::migrate(&new, &old).unwrap();
    assert_eq!(webhooks_in(directory.path()).len(), 2);
}
