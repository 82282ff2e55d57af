//! Connections that only hold a place, or send a byte now and then, keep nobody out.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use crate::client::{self, Pending};
use crate::host_process::{ACME, HostDirectory, HostProcess};

const CONNECTIONS_MAX: usize = 16;

fn start(per_address_max: usize) -> (HostDirectory, HostProcess) {
    let limits = format!(
        "[limits]\nconnections_max = {CONNECTIONS_MAX}\nconnections_per_address_max = {per_address_max}"
    );
    HostDirectory::with(&limits).serving()
}

/// A connection that has sent the beginning of a request.
fn slow(served: &HostProcess) -> TcpStream {
    let mut stream = TcpStream::connect(served.address).unwrap();
    stream.write_all(b"P").unwrap();
    stream
}

/// The requests are answered long before any timeout could have freed a place.
#[test]
fn slow_heads_and_bodies_do_not_stop_the_host() {
    for per_address_max in [CONNECTIONS_MAX, 4] {
        let (_directory, served) = start(per_address_max);
        let heads: Vec<_> = (0..4 * CONNECTIONS_MAX).map(|_| slow(&served)).collect();
        served.get("/subscriptions", ACME).with_status(200);
        let body = |_| Pending::open(served.address, "POST", "/meta/webhook", &[], 1_000);
        let bodies: Vec<_> = (0..4 * CONNECTIONS_MAX).map(body).collect();
        served.get("/subscriptions", ACME).with_status(200);
        drop((heads, bodies));
    }
}

#[test]
fn a_request_with_a_key_outlives_a_crowd() {
    let (directory, served) = start(CONNECTIONS_MAX);
    let body = "{\"type\":\"T\",\"number\":\"919000000001\",\"payload\":1}";
    let headers = [("authorization", ACME), ("expect", "100-continue")];
    let mut request = Pending::open(served.address, "POST", "/events", &headers, body.len());
    request.until_asked_for_the_body();
    let crowd: Vec<_> = (0..4 * CONNECTIONS_MAX).map(|_| slow(&served)).collect();
    client::send(served.address, "GET", "/healthz", &[], b"").with_status(200);
    request.more(body.as_bytes());
    request.answer().with_status(202);
    drop(crowd);
    let log = std::fs::read_to_string(directory.path("stderr.log")).unwrap();
    assert_eq!(log.matches("too many connections").count(), 1, "{log}");
}

/// The longest head is 64 KiB, however it arrives.
#[test]
fn a_head_over_the_bound_is_refused() {
    let (_directory, served) = HostProcess::fresh();
    let answered = |bytes: usize| {
        let head = format!("GET /healthz HTTP/1.1\r\nhost: {}\r\n", served.address);
        let fill = "x".repeat(bytes - head.len() - "fill: \r\n\r\n".len());
        let mut stream = TcpStream::connect(served.address).unwrap();
        stream.set_read_timeout(Some(crate::DEADLINE)).unwrap();
        // The host may have closed the connection by then.
        let _ = stream.write_all(format!("{head}fill: {fill}\r\n\r\n").as_bytes());
        let mut status = [0; 12];
        let read = stream.read_exact(&mut status);
        read.map(|()| String::from_utf8_lossy(&status).into_owned()).map_err(|error| error.kind())
    };
    assert_eq!(answered(64 * 1024 - 1).as_deref(), Ok("HTTP/1.1 200"));
    // Whether the refusal arrives: the system may drop the answer of a connection that is closed with unread bytes.
    let is_told = |bytes: usize| match answered(bytes) {
        Ok(status) => {
            assert_eq!(status, "HTTP/1.1 431", "{bytes}");
            true
        }
        Err(kind) => {
            assert_eq!(kind, ErrorKind::ConnectionReset, "{bytes}");
            false
        }
    };
    assert!((0..10).any(|_| is_told(64 * 1024 + 1)), "10 connections were reset");
    for bytes in [70_000, 110_000] {
        is_told(bytes);
    }
    served.get("/subscriptions", ACME).with_status(200);
}
