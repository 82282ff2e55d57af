//! The hosts in `examples/` work as the embedding guide says (I1, I7). Each runs as a program with a
//! small load. Every event arrives at its receiver, and no loop waits for a receipt or a delivery.
//!
//! The receiver does not answer until the last event was published, so a host that waited for a
//! delivery would never end. The times inside `publish` are printed and not checked, because a busy
//! machine changes them; `docs/benchmarks.md` has those of a release build.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

const RATE: u64 = 1_000;
const RUN_MAX: Duration = Duration::from_secs(180);

/// Cargo builds the examples next to the tests, and only tells the path of the test.
fn program(example: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    profile.join("examples").join(format!("{example}{}", std::env::consts::EXE_SUFFIX))
}

/// Runs an example to its end, or kills it.
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
    // A lock held by another thread may cost a sleep now and then. A loop that waited for its receipts
    // would sleep about once per event.
    if let Some(slept) = count(counts, "slept_elsewhere") {
        assert!(slept < RATE / 4, "{example} waited where it must not: {counts}");
    }
    assert_eq!(stdout.matches("what=publish_").count(), 3, "{stdout}");
    assert_eq!(stderr, "", "nothing is told of a run in which nothing happened");
}

#[test]
fn tokio_service_never_holds_a_thread() {
    check("tokio_service");
}

#[test]
fn thread_per_core_waits_for_its_inbox_only() {
    check("thread_per_core");
}

#[test]
fn epoll_loop_waits_in_poll_only() {
    check("epoll_loop");
}
