//! A host of a cluster freezes at the moment at which the server goes away, so nobody can take over: what the other host
//! forwards to it is refused in time all the same.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::cluster::{ClusterHost, OPERATOR, has_half_each, number, wait_for, with_logs};
use crate::hosts::expect;
use crate::proxy::Proxy;
use crate::servers::Servers;

/// Some of them are in shards of the host that freezes.
const ACCOUNTS: usize = 12;

/// Keys that no account has.
const UNKNOWN_KEYS: usize = 6;

/// What a request waits for an owner, and a reserve for a busy machine.
const REFUSED_WITHIN: Duration = Duration::from_secs(13);

/// What an event of its own waits at most: 5 s for a write that is under way, 8 s for its own, then 10 s for the outcome,
/// and a reserve.
const UNKNOWN_WITHIN: Duration = Duration::from_secs(25);

pub fn refuse_in_time(program: &str, servers: &Servers) -> Result<String, String> {
    servers.query("CREATE DATABASE owner_away")?;
    let directory = tempfile::tempdir().unwrap();
    let proxy = Proxy::to(servers.primary_port());
    let new = |name: &str| {
        ClusterHost::new(program, name, servers, "owner_away", directory.path())
            .through(servers.primary_port(), proxy.port)
    };
    let (mut first, mut second) = (new("host-a"), new("host-b"));
    first.start();
    second.start();
    let told = run(&first, &second, &proxy);
    proxy.release();
    with_logs(told, &first, &second)
}

fn run(first: &ClusterHost, second: &ClusterHost, proxy: &Proxy) -> Result<String, String> {
    wait_for("both hosts to serve half of the shards", || has_half_each(first, second))?;
    for account in 0..ACCOUNTS {
        expect(first.ask("GET", "/subscriptions", (&format!("key-{account}"), &[]), "")?, 200)?;
    }
    proxy.hold_all();
    second.signal(Signal::STOP);
    let mut requests: Vec<(&'static str, &str, String, String)> = Vec::new();
    for account in 0..ACCOUNTS {
        let event = json!({"type": "ADD_TAG", "number": number(account), "payload": 1});
        requests.push(("GET", "/subscriptions", format!("key-{account}"), String::new()));
        requests.push(("POST", "/events", format!("key-{account}"), event.to_string()));
    }
    requests.push(("GET", "/dead-letters", OPERATOR.to_owned(), String::new()));
    // Each of them has the accounts read from the server.
    let unknown = (0..UNKNOWN_KEYS).map(|n| format!("unknown-{n}"));
    requests.extend(unknown.map(|key| ("GET", "/subscriptions", key, String::new())));
    let timed = |(method, path, key, body): &(&'static str, &str, String, String)| {
        let began = Instant::now();
        let (status, _) = first.ask(method, path, (key, &[]), body)?;
        Ok(Answer { method, key: key.clone(), status, took: began.elapsed() })
    };
    let answers: Result<Vec<Answer>, String> = thread::scope(|scope| {
        let asked: Vec<_> = requests.iter().map(|one| scope.spawn(|| timed(one))).collect();
        asked.into_iter().map(|one| one.join().unwrap()).collect()
    });
    second.signal(Signal::CONT);
    let answers = answers?;
    // Of its own accounts a host can still tell.
    let is_own = |key: &str| {
        answers.iter().any(|one| one.method == "GET" && one.key == key && one.status == 200)
    };
    let (own, others): (Vec<&Answer>, Vec<&Answer>) =
        answers.iter().partition(|one| one.key != OPERATOR && is_own(&one.key));
    let slowest = |answers: &[&Answer]| answers.iter().map(|one| one.took).max();
    let told = format!(
        "{} requests forwarded or with unknown keys answered after {:?} at most, {} of its own after {:?}",
        others.len(),
        slowest(&others),
        own.len(),
        slowest(&own)
    );
    let is_in_time = |answers, within| slowest(answers).is_some_and(|took: Duration| took < within);
    match is_in_time(&others, REFUSED_WITHIN) && is_in_time(&own, UNKNOWN_WITHIN) {
        true => Ok(told),
        false => Err(format!("{told}: {others:?}")),
    }
}

#[derive(Debug)]
struct Answer {
    method: &'static str,
    key: String,
    status: u16,
    took: Duration,
}
