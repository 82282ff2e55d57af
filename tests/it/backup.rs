//! A backup of a running engine, opened elsewhere: every event acknowledged before it began is there, with the
//! subscriptions that it is owed to.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use wabahook::testing::{ScriptedReply, ScriptedTransport};
use wabahook::{Account, Config, Engine, Error, Event, Limits, Transport};

use crate::world::{DEADLINE, World, quick};

const PUBLISHERS: usize = 4;

fn config(path: &Path, receivers: &Arc<ScriptedTransport>) -> Config {
    // Small generations, so that the backup has many of them and some are removed meanwhile.
    Config::new(path)
        .limits(Limits::default().generation_bytes(128 * 1024))
        .transport(receivers.clone())
        .account(Account::new("acme"))
        .account(Account::new("beta"))
}

fn publish(engine: &Engine, account: &str, n: usize) -> String {
    let payload = format!("{{\"n\":{n},\"pad\":{:?}}}", "x".repeat(500));
    let event = Event::new("ADD_TAG", payload).account(account);
    let receipt = engine.publish(event).unwrap();
    receipt.wait_timeout(DEADLINE).unwrap().unwrap().id.to_string()
}

fn subscribe(engine: &Engine, account: &str, host: &str) {
    engine.subscribe(quick(host).account(account)).unwrap();
}

#[test]
fn a_backup_under_load_has_every_event_acknowledged_before_it() {
    let directory = tempfile::tempdir().unwrap();
    let receivers = Arc::new(ScriptedTransport::default());
    receivers.script("hangs.example", &[ScriptedReply::Hangs]);
    let engine = Engine::open(config(&directory.path().join("data"), &receivers)).unwrap();
    subscribe(&engine, "acme", "hangs.example");
    subscribe(&engine, "beta", "answers.example");
    let (acknowledged, is_over) = (Mutex::new(BTreeSet::new()), AtomicBool::new(false));
    let next = AtomicUsize::new(0);
    let copy = directory.path().join("backups/today");
    let before = thread::scope(|scope| {
        for publisher in 0..PUBLISHERS {
            let (engine, acknowledged, is_over, next) = (&engine, &acknowledged, &is_over, &next);
            scope.spawn(move || {
                while !is_over.load(Ordering::SeqCst) {
                    let n = next.fetch_add(1, Ordering::SeqCst);
                    let account = if publisher % 2 == 0 { "acme" } else { "beta" };
                    let id = publish(engine, account, n);
                    if account == "acme" {
                        acknowledged.lock().unwrap().insert(id);
                    }
                }
            });
        }
        let count = || acknowledged.lock().unwrap().len();
        let grown_to = |least: usize| crate::support::wait_until(|| count() >= least);
        assert!(grown_to(1_000));
        let before = acknowledged.lock().unwrap().clone();
        engine.backup(&copy).unwrap();
        // A second one, while generations are removed.
        engine.backup(directory.path().join("again")).unwrap();
        let after = count();
        assert!(grown_to(after + 100), "events are accepted after the backup");
        is_over.store(true, Ordering::SeqCst);
        before
    });
    receivers.interrupt();
    engine.close(DEADLINE).unwrap();

    let restored = Arc::new(ScriptedTransport::default());
    let engine = Engine::open(config(&copy, &restored)).unwrap();
    assert_eq!(engine.subscriptions().len(), 2);
    let owed = engine.stats().recovered;
    assert!(owed >= before.len() as u64, "{owed} owed, {} acknowledged before", before.len());
    let arrivals = restored.wait_for("hangs.example", before.len());
    let drained = crate::support::wait_until(|| engine.stats().owed == 0);
    assert!(drained, "{:?}", engine.stats());
    let arrived: BTreeSet<String> = restored
        .at("hangs.example")
        .iter()
        .chain(&arrivals)
        .map(|arrival| arrival.id.clone())
        .collect();
    assert!(arrived.is_superset(&before), "{} of {} arrived", arrived.len(), before.len());
    println!("{} acknowledged before, {} in the copy", before.len(), arrived.len());
    let fresh = publish(&engine, "acme", 0);
    assert!(!arrived.contains(&fresh), "ids are not given twice");
    engine.close(DEADLINE).unwrap();
}

#[test]
fn a_backup_needs_an_empty_directory() {
    let world = World::new();
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("file"), "").unwrap();
    let error = world.engine.backup(directory.path()).unwrap_err();
    assert!(matches!(&error, Error::Invalid { field, .. } if field == "backup"), "{error}");
    assert!(fs::read_dir(directory.path()).unwrap().count() == 1, "nothing was written");
    world.engine.close(DEADLINE).unwrap();
    let error = world.engine.backup(directory.path().join("new")).unwrap_err();
    assert!(matches!(error, Error::Closed), "{error}");
}

/// Half a backup, as of a process that was killed, is refused.
#[test]
fn half_a_backup_is_not_opened() {
    let world = World::new();
    world.subscribe("crm");
    world.publish("ADD_TAG", "{}");
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("copy");
    world.engine.backup(&copy).unwrap();
    fs::remove_file(copy.join("format")).unwrap();
    let error = Engine::open(Config::new(&copy)).unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
}
