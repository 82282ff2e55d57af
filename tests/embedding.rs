//! Promises that the hosts of `examples/` work as the guide says (I1, I7): each is started as a program
//! with a small load, every event arrives at its receiver, and no loop waits for a receipt or for a
//! delivery.
//!
//! The receiver answers nothing until the last event was published, so a host that waited for a
//! delivery would never end. The times inside `publish` are printed and not judged: a busy machine
//! would decide them. `docs/benchmarks.md` has those of a release build.

#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the verdict")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

const RATE: u64 = 1_000;
const RUN_MAX: Duration = Duration::from_secs(180);

/// Cargo builds the examples beside the tests, and names the tests' own place alone.
fn program(example: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    profile.join("examples").join(format!("{example}{}", std::env::consts::EXE_SUFFIX))
}

/// Runs an example to its end, or ends it.
fn run(example: &str) -> Output {
    let mut command = Command::new(program(example));
    command.args(["--seconds", "1", "--rate", &RATE.to_string(), "--hold"]);
    command.args(["--data", env!("CARGO_TARGET_TMPDIR")]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.unwrap_or_else(|error| {
        panic!("{example} cannot be started ({error}): a single test needs `cargo build --examples` first")
    });
    let id = rustix::process::Pid::from_child(&child);
    let (told, ended) = mpsc::channel();
    std::thread::spawn(move || told.send(child.wait_with_output()));
    let output = ended.recv_timeout(RUN_MAX).unwrap_or_else(|_| {
        rustix::process::kill_process(id, rustix::process::Signal::KILL).unwrap();
        panic!("{example} did not end within {RUN_MAX:?}")
    });
    output.unwrap()
}

/// The number after `name=` in the line of counts.
fn count(counts: &str, name: &str) -> Option<u64> {
    let found =
        counts.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    found.map(|number| number.parse().unwrap())
}

fn check(example: &str) {
    let Output { status, stdout, stderr } = run(example);
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    println!("{stdout}{stderr}");
    assert!(status.success(), "{example}: {status}");
    let counts = stdout.lines().find(|line| line.starts_with(&format!("{example}:"))).unwrap();
    assert_eq!(count(counts, "published"), Some(RATE), "{counts}");
    assert_eq!(count(counts, "delivered"), Some(RATE), "{counts}");
    let ahead_max = count(counts, "ahead_max").unwrap();
    assert!(ahead_max > 1, "{example} waited for each receipt: {counts}");
    // A short lock that another thread holds may cost a sleep now and then. A loop that waited for its
    // receipts would sleep about once for each event.
    if let Some(slept) = count(counts, "slept_elsewhere") {
        assert!(slept < RATE / 4, "{example} waited where it must not: {counts}");
    }
    assert_eq!(stdout.matches("what=publish_").count(), 3, "{stdout}");
    assert_eq!(stderr, "", "nothing is told of a run in which nothing happened");
}

#[test]
fn a_tokio_service_answers_when_events_are_durable_and_holds_no_thread() {
    check("tokio_service");
}

#[test]
fn a_loop_per_core_looks_at_its_receipts_and_waits_for_its_inbox_alone() {
    check("thread_per_core");
}

#[test]
fn an_event_loop_is_woken_by_receipts_and_notices_and_waits_in_poll_alone() {
    check("epoll_loop");
}
