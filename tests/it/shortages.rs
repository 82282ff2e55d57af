//! A shortage of the machine at open is an error that passes, and no damage: with `OnDamage::SetAside`
//! damage costs a part of what is owed. A child process opens the engine under a bound on its memory,
//! from one too low for a thread to one that suffices.
#![cfg(target_os = "linux")]

use std::path::Path;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use wabahook::store::StoreFailure;
use wabahook::{Config, Engine, Error, Event, OnDamage};

use crate::world::{DEADLINE, quick};

const DIRECTORY: &str = "WABAHOOK_TEST_SHORTAGE";
const EVENTS: u64 = 30;

/// The child: it opens the directory and prints how that went. Alone it does nothing.
#[test]
fn the_child_opens_under_a_bound() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    println!("begins");
    let config = Config::new(directory).on_damage(OnDamage::SetAside);
    match Engine::open(config) {
        Ok(engine) => println!("owed {}", engine.stats().owed),
        Err(Error::Store { source: StoreFailure::Io(error), .. }) => println!("short: {error}"),
        Err(Error::Directory { source, .. }) => println!("short: {source}"),
        Err(error) => println!("failed: {error:?}"),
    }
    // The bound may not let the threads end in order.
    std::process::exit(0);
}

/// Runs the child with this bound on its address space, or on its open files.
fn open_with(bound: &str, directory: &Path) -> Output {
    let child = Command::new("prlimit")
        .arg(bound)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "shortages::the_child_opens_under_a_bound", "--nocapture"])
        .args(["--test-threads", "1"])
        .env(DIRECTORY, directory)
        // Without memory for a backtrace std waits for itself for ever.
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap();
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > DEADLINE {
            child.kill().unwrap();
            panic!("{bound}: the open hangs");
        }
        std::thread::park_timeout(Duration::from_millis(2));
    }
    child.wait_with_output().unwrap()
}

/// How an open under a bound ended, and whether it may end so.
fn check(bound: &str, directory: &Path) -> String {
    let output = open_with(bound, directory);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    let said = text
        .lines()
        .find(|line| ["owed", "short", "failed"].iter().any(|word| line.starts_with(word)));
    let names = std::fs::read_dir(directory).unwrap();
    let aside: Vec<_> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("damaged-"))
        .collect();
    assert!(aside.is_empty(), "{bound}: {aside:?} {text} {errors}");
    match said {
        Some(said) if said.starts_with("owed") => assert_eq!(said, format!("owed {EVENTS}")),
        Some(said) => assert!(said.starts_with("short"), "{bound}: {said}"),
        // Memory that Rust's allocator is refused ends the process.
        None => assert!(!ends_well(output.status), "{bound}: {text} {errors}"),
    }
    said.unwrap_or("ended").to_owned()
}

fn ends_well(status: ExitStatus) -> bool {
    status.success()
}

#[test]
fn a_bound_on_memory_or_files_at_open_sets_nothing_aside() {
    if Command::new("prlimit").arg("--version").output().is_err() {
        return println!("skipped: no prlimit");
    }
    let directory = tempfile::tempdir().unwrap();
    let engine = Engine::open(Config::new(directory.path())).unwrap();
    engine.subscribe(quick("crm.invalid")).unwrap();
    let bystander = engine.subscribe(quick("bystander.invalid").name("bystander")).unwrap();
    engine.pause(bystander).unwrap();
    for _ in 0..EVENTS / 2 {
        let event = Event::new("ADD_TAG", "{}").number("919999999999");
        engine.publish(event).unwrap().wait().unwrap();
    }
    engine.close(DEADLINE).unwrap();
    // From less than the program itself takes to more than the engine does.
    let sizes = std::iter::successors(Some(64_u64 << 20), |bytes| Some(bytes + bytes / 6));
    let memory = sizes.take_while(|bytes| *bytes < 4 << 30).map(|bytes| format!("--as={bytes}"));
    let files = (4..40).step_by(3).map(|files| format!("--nofile={files}"));
    let said: Vec<_> = memory.chain(files).map(|bound| check(&bound, directory.path())).collect();
    assert!(said.iter().any(|said| said.starts_with("short")), "{said:?}");
    let engine = Engine::open(Config::new(directory.path())).unwrap();
    assert_eq!((engine.stats().owed, engine.subscriptions().len()), (EVENTS, 2));
}
