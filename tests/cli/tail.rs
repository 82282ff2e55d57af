//! `tail` follows the notices of the account, which `GET /notices` streams.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::client::assert_members;
use crate::host_process::{ACME, BETA, HostProcess, line};
use crate::program::against;
use crate::receiver::Receiver;

#[test]
fn tail_shows_the_notices_of_the_account() {
    let (_place, served) = HostProcess::fresh();
    let (dead, theirs) = (Receiver::answering(404), Receiver::answering(404));
    served.subscribe(ACME, &dead.url("/dead"), json!({}));
    served.subscribe(BETA, &theirs.url("/beta"), json!({}));
    let mut tail = against(&served, &["tail", "--json", "--count", "2", "--interval-s", "0"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    // Shown once the stream is open: nothing is missed from now on.
    assert_eq!(next(), json!({"kind": "counters", "owed": 0, "in_flight": 0}));
    let theirs = line(0).replace("919000000001", "919000000003");
    served.post("/events", BETA, theirs).with_status(202);
    served.until(|stats| stats["dead"] == 1);
    let id = served.post("/events", ACME, line(1)).json()["id"].clone();
    let died = next();
    assert_eq!((&died["kind"], &died["event_id"]), (&json!("dead_lettered"), &id));
    assert_members(&died, json!({"subscription": 1, "reason": "status:404"}));
    dead.answer(410);
    served.post("/events", ACME, line(2));
    let kinds: Vec<_> = [next()].iter().map(|line| line["kind"].clone()).collect();
    assert!(kinds.iter().all(|kind| *kind == "dead_lettered" || *kind == "disabled"), "{kinds:?}");
    assert!(tail.wait().unwrap().success());
}

#[test]
fn the_stream_ends_when_the_host_stops() {
    let (_place, served) = HostProcess::fresh();
    let tail = against(&served, &["tail", "--interval-s", "0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut tail = tail;
    let mut first = String::new();
    BufReader::new(tail.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(first, "0 owed, 0 in_flight\n");
    served.send_signal("TERM");
    assert!(served.ended().success());
    assert_eq!(tail.wait().unwrap().code(), Some(3));
}
