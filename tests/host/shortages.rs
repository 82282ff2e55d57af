//! The host where the system grants few files or few threads, beside endpoints that accept and never respond.
//! The others get all their deliveries at the first attempt, and `/healthz` responds throughout.
#![cfg(target_os = "linux")]

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};

use crate::client::assert_members;
use crate::host_process::{ACME, CONFIGURATION, HostDirectory, HostProcess, line};
use crate::receiver::Receiver;

const HEALTHY: usize = 20;
const EVENTS: usize = 50;
/// How many connections may wait to be accepted.
const PENDING_MAX: i32 = 4_096;
/// A user of the test's own, because the bound on threads does not hold for root.
const USER: u32 = 64_123;

/// Endpoints that take a connection and never respond. The system itself completes the connections, so they cost
/// this process nothing.
struct HangingEndpoints(TcpListener);

impl HangingEndpoints {
    fn start() -> HangingEndpoints {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        rustix::net::listen(&listener, PENDING_MAX).unwrap();
        HangingEndpoints(listener)
    }

    /// Each has a host of its own.
    fn url(&self, n: usize) -> String {
        let port = self.0.local_addr().unwrap().port();
        format!("http://127.2.{}.{}:{port}/", n / 200, n % 200 + 1)
    }
}

/// Sets a flag when it goes.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Delivers to the healthy endpoints alone, and again beside so many that hang. Returns the stats at the end.
fn deliver_beside(place: &HostDirectory, host: &HostProcess, hanging: usize) -> Value {
    let receiver = Receiver::answering(200);
    let endpoints = HangingEndpoints::start();
    for n in 0..HEALTHY {
        host.subscribe(
            ACME,
            &receiver.url(&format!("/{n}")),
            json!({"events": ["MESSAGE_RECEIVED"]}),
        );
    }
    for n in 0..hanging {
        host.subscribe(ACME, &endpoints.url(n), json!({"events": ["ADD_TAG"]}));
    }
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        // Also when an assertion fails: the scope waits for the other thread.
        let over = SetOnDrop(&is_over);
        let answered = scope.spawn(|| {
            let mut answers = 0;
            while !is_over.load(Ordering::SeqCst) {
                host.get("/healthz", ACME).with_status(200);
                answers += 1;
            }
            answers
        });
        let lines = (0..EVENTS).fold(String::new(), |mut lines, n| {
            write!(lines, "{}", line(n)).unwrap();
            lines
        });
        let deliver = |owed: usize| {
            let started = Instant::now();
            host.post_lines(ACME, &lines).with_status(202);
            host.until(|stats| stats["owed"] == owed);
            started.elapsed()
        };
        let alone = deliver(0);
        let event = line(0).replace("MESSAGE_RECEIVED", "ADD_TAG");
        host.post_lines(ACME, &event).with_status(202);
        // Three quarters are open to endpoints that never responded, and one account may have half of these.
        let most = |stats: &Value| stats["in_flight_max"].as_u64().unwrap() * 3 / 8;
        host.until(|stats| stats["in_flight"].as_u64() >= Some(most(stats).min(hanging as u64)));
        let beside = deliver(hanging);
        drop(over);
        let answers = answered.join().unwrap();
        println!(
            "alone {alone:?}, beside {hanging} hanging {beside:?}, {answers} answers of /healthz"
        );
    });
    assert_eq!(receiver.arrived().len(), 2 * EVENTS * HEALTHY);
    let stats = host.stats();
    assert_eq!(stats["retried"], 0, "{stats}");
    for one in stats["subscriptions"].as_array().unwrap() {
        assert_members(one, json!({"breaker_trips": 0, "failures_in_row": 0}));
    }
    let log = fs::read_to_string(place.path("stderr.log")).unwrap();
    assert!(log.matches("a bound is reached").count() <= 1, "a bound is told once: {log}");
    stats
}

/// Starts a program with at most 60 threads, as this user where that is permitted.
fn thread_bound(user: u32) -> Vec<String> {
    let command = match rustix::process::geteuid().is_root() {
        true => {
            format!("prlimit --nproc=60:60 setpriv --reuid={user} --regid={user} --clear-groups")
        }
        false => "unshare --user prlimit --nproc=60:60".to_owned(),
    };
    command.split(' ').map(str::to_owned).collect()
}

/// Lets the user of the test's own read the directory and run the program.
fn give_away(place: &HostDirectory) {
    fs::copy(env!("CARGO_BIN_EXE_wabahook"), place.path("wabahook")).unwrap();
    if rustix::process::geteuid().is_root() {
        for path in [place.path(""), place.path("wabahook.toml"), place.path("wabahook")] {
            chown(path, Some(USER), Some(USER)).unwrap();
        }
    } else {
        fs::set_permissions(place.path(""), fs::Permissions::from_mode(0o777)).unwrap();
    }
}

#[test]
fn few_files_and_many_that_hang_do_not_stop_the_others() {
    if Command::new("prlimit").arg("--version").output().is_err() {
        return println!("skipped: no prlimit");
    }
    let place = HostDirectory::new(CONFIGURATION);
    let host = place.start_under(&["prlimit", "--nofile=256:256"], None);
    let stats = deliver_beside(&place, &host, 300);
    assert_eq!(stats["in_flight_max"], 96);
    let healthz = host.get("/healthz", ACME).json();
    assert_eq!(healthz["status"], "degraded", "{healthz}");
    assert_eq!(healthz["reasons"].as_array().unwrap().len(), 1, "{healthz}");
    assert_eq!(host.get("/livez", "").json(), healthz);
    assert_eq!(host.stats()["reasons"], healthz["reasons"]);
}

#[test]
fn few_threads_and_many_that_hang_do_not_stop_the_others() {
    let place = HostDirectory::new(CONFIGURATION);
    let probe_prefix = thread_bound(USER + 1);
    let prefix = thread_bound(USER);
    // Where the bound holds, a shell cannot start so many children.
    let many = "for n in $(seq 100); do sleep 1 & done; wait";
    let probe =
        Command::new(&probe_prefix[0]).args(&probe_prefix[1..]).args(["sh", "-c", many]).output();
    match probe {
        Err(error) => return println!("skipped: {error}"),
        Ok(output) if !String::from_utf8_lossy(&output.stderr).to_lowercase().contains("fork") => {
            return println!("skipped: the bound on threads does not hold here: {output:?}");
        }
        Ok(_) => {}
    }
    give_away(&place);
    let program = place.path("wabahook");
    let prefix: Vec<_> = prefix.iter().map(String::as_str).collect();
    let host = place.start_under(&prefix, Some(&program));
    deliver_beside(&place, &host, 200);
    let threads: u32 = host.status_of("Threads").unwrap().parse().unwrap();
    assert!(threads <= 60, "{threads}");
}
