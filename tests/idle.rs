//! What an idle engine costs: how often its threads wake, and those of its store, while it owes deliveries and
//! nothing is due. A binary of its own, because it counts the wake-ups of the whole process.
#![cfg(target_os = "linux")]
use std::collections::BTreeMap;
use std::fs;
use std::sync::mpsc;
use std::time::Duration;

use wabahook::{Config, Engine, Event, Subscription};

/// The most wake-ups of the engine's own threads in a second.
const WAKES_MAX: f64 = 0.5;

/// The same with sled's: a flusher for each of three open databases wakes twice in four seconds, and the threads of its pool
/// about once a minute.
const WAKES_WITH_SLED_MAX: f64 = 2.0;
const SPAN: Duration = Duration::from_secs(6);
const QUIET_MAX: u32 = 10;

/// How often each thread has gone to sleep, by name and id.
fn sleeps() -> BTreeMap<String, u64> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let read = |task: fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        let value = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.trim().to_owned())
        };
        let name = format!("{} {}", value("Name:")?, task.file_name().to_string_lossy());
        Some((name, value("voluntary_ctxt_switches:")?.parse().ok()?))
    };
    tasks.filter_map(|task| read(task.ok()?)).collect()
}

/// The wake-ups a second of each thread but this one's, while nothing is done.
fn wakes() -> Vec<(String, f64)> {
    let before = sleeps();
    let (_sender, receiver) = mpsc::channel::<()>();
    assert!(receiver.recv_timeout(SPAN).is_err());
    let counted = sleeps().into_iter().map(|(name, after)| {
        let woken = after.saturating_sub(before.get(&name).copied().unwrap_or(after));
        (name, woken as f64 / SPAN.as_secs_f64())
    });
    let is_own = |name: &str| name.starts_with("idle") || name.starts_with("an_idle_engine");
    counted.filter(|(name, rate)| *rate > 0.0 && !is_own(name)).collect()
}

#[test]
fn an_idle_engine_sleeps() {
    let directory = tempfile::tempdir().unwrap();
    let engine = Engine::open(Config::new(directory.path())).unwrap();
    let crm = engine.subscribe(Subscription::to("https://crm.example/hook").unwrap()).unwrap();
    engine.pause(crm).unwrap();
    for _ in 0..10 {
        engine.publish(Event::new("ADD_TAG", "{}")).unwrap().wait().unwrap();
    }
    // What was begun by the writes ends within seconds.
    let mut quiet = Vec::new();
    for _ in 0..QUIET_MAX {
        quiet = wakes();
        let sum: f64 = quiet.iter().map(|(_, rate)| rate).sum();
        let own = quiet.iter().filter(|(name, _)| name.starts_with("wabahook"));
        let own: f64 = own.map(|(_, rate)| rate).sum();
        println!("an idle engine wakes {own:.1} times a second, {sum:.1} with sled: {quiet:?}");
        if own <= WAKES_MAX && sum <= WAKES_WITH_SLED_MAX {
            assert_eq!(engine.stats().owed, 10);
            engine.close(Duration::from_secs(10)).unwrap();
            return;
        }
    }
    panic!("it wakes too often: {quiet:?}");
}
