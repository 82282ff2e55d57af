//! A restart and a reload under load: no request is refused, and everything accepted is delivered.
#![cfg(unix)]

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::client;
use crate::host_process::{ACME, CONFIGURATION, HostDirectory, line};
use crate::receiver::{HANG, Receiver};
use crate::support::wait_until;

/// 200 requests a second.
const INTERVAL: Duration = Duration::from_millis(5);
/// How many connections may wait to be accepted.
const QUEUE_MAX: i32 = 4_096;

/// Publishes 200 events a second, each on a connection of its own, while `work` runs. Returns how many there were;
/// each of them was accepted.
fn publish_during(address: SocketAddr, work: impl FnOnce(&dyn Fn(usize))) -> usize {
    let (answered, sent) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (stop, stopped) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let (answered, sent) = (&answered, &sent);
        scope.spawn(move || {
            // Nothing is received until the end: the time-out is the interval of the load.
            while stopped.recv_timeout(INTERVAL) == Err(mpsc::RecvTimeoutError::Timeout) {
                let n = sent.fetch_add(1, Ordering::SeqCst);
                scope.spawn(move || {
                    let event = line(n);
                    let headers = [("authorization", ACME)];
                    client::send(address, "POST", "/events", &headers, event.as_bytes())
                        .with_status(202);
                    answered.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        let until_answered = |more: usize| {
            let wanted = answered.load(Ordering::SeqCst) + more;
            assert!(wait_until(|| answered.load(Ordering::SeqCst) >= wanted), "no answers");
        };
        work(&until_answered);
        drop(stop);
    });
    assert_eq!(answered.load(Ordering::SeqCst), sent.load(Ordering::SeqCst));
    sent.into_inner()
}

#[test]
fn a_restart_with_a_kept_socket_refuses_nobody() {
    let place = HostDirectory::new(CONFIGURATION);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&listener, QUEUE_MAX).unwrap();
    let receiver = Receiver::answering(HANG);
    let first = place.start_on(&listener);
    assert_eq!(first.address, listener.local_addr().unwrap());
    first.subscribe(ACME, &receiver.url("/hangs"), json!({"timeout_ms": 5_000}));
    let mut second = None;
    let published = publish_during(first.address, |until_answered| {
        until_answered(100);
        let stopping = Instant::now();
        assert!(first.signal("TERM").success());
        let stopped = stopping.elapsed();
        second = Some(place.start_on(&listener));
        let gap = stopping.elapsed();
        println!("stopped within {stopped:?}, served again after {gap:?}");
        assert!(stopped < Duration::from_secs(8), "attempts that hang are cut: {stopped:?}");
        until_answered(100);
    });
    receiver.answer(200);
    let second = second.unwrap();
    let arrived: BTreeSet<String> =
        second.all_arrived(&receiver).iter().map(|attempt| attempt.id().to_owned()).collect();
    println!("{published} requests, none refused");
    assert_eq!(arrived.len(), published);
}

#[test]
fn a_reload_under_load_refuses_nobody() {
    let place = HostDirectory::new(CONFIGURATION);
    let served = place.start();
    let receiver = Receiver::answering(200);
    served.subscribe(ACME, &receiver.url("/hook"), json!({}));
    let published = publish_during(served.address, |until_answered| {
        for _ in 0..10 {
            served.send_signal("HUP");
            until_answered(20);
        }
    });
    let arrived: BTreeSet<String> =
        served.all_arrived(&receiver).iter().map(|attempt| attempt.id().to_owned()).collect();
    println!("{published} requests, none refused");
    assert_eq!(arrived.len(), published);
}
