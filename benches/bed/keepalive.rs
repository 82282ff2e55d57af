//! Decides what the network could do: the same requests over connections that stay open, written and
//! read by as many threads as serve it best, without an engine.
//!
//! Leaves to others: who answers (`arrivals`). Invariant: a thread has one connection and one request
//! under way, as a worker of the engine has; a request is as long as the engine's.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use super::Outcome;
use super::arrivals::Arrivals;

/// The numbers of threads that are tried.
pub(crate) const THREADS: [usize; 3] = [4, 16, 64];

/// What raw requests reached.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reached {
    pub(crate) per_s: f64,
    /// CPU of the sender.
    pub(crate) cpu_us: f64,
}

/// The best of [`THREADS`].
pub(crate) fn best(arrivals: &mut Arrivals, payload: &[u8], span: Duration) -> Outcome<Reached> {
    let mut best = Reached { per_s: 0.0, cpu_us: 0.0 };
    for threads in THREADS {
        let reached = keep_asking(arrivals, threads, payload, span)?;
        if reached.per_s > best.per_s {
            best = reached;
        }
    }
    arrivals.reset()?;
    Ok(best)
}

/// Requests a second of so many threads.
pub(crate) fn keep_asking(
    arrivals: &mut Arrivals,
    threads: usize,
    payload: &[u8],
    span: Duration,
) -> Outcome<Reached> {
    arrivals.reset()?;
    let port = arrivals.port();
    let request = request(port, payload);
    let (cpu_before, started) = (super::cpu_time(), Instant::now());
    let done = thread::scope(|scope| {
        let all: Vec<_> =
            (0..threads).map(|_| scope.spawn(|| ask(port, &request, started, span))).collect();
        let mut done = 0;
        for thread in all {
            done += thread.join().map_err(|_| "a client panicked")??;
        }
        Outcome::Ok(done)
    })?;
    let elapsed = started.elapsed().as_secs_f64();
    let cpu_us = (super::cpu_time() - cpu_before).as_secs_f64() * 1e6 / f64::from(done);
    Ok(Reached { per_s: f64::from(done) / elapsed, cpu_us })
}

fn ask(port: u16, request: &[u8], started: Instant, span: Duration) -> Outcome<u32> {
    let mut stream = TcpStream::connect(("127.1.0.1", port))?;
    stream.set_nodelay(true)?;
    let mut answer = [0; 1024];
    let mut done = 0;
    while started.elapsed() < span {
        stream.write_all(request)?;
        let read = stream.read(&mut answer)?;
        if !answer.get(..read).unwrap_or_default().starts_with(b"HTTP/1.1 200") {
            return Err("no answer".into());
        }
        done += 1;
    }
    Ok(done)
}

/// A request of the same headers and length as the engine's.
fn request(port: u16, payload: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /hook HTTP/1.1\r\nhost: 127.1.0.1:{port}\r\ncontent-type: application/json\r\n\
         webhook-id: evt_0123456789abcdef0000000000000001\r\nwebhook-timestamp: 1700000000\r\n\
         webhook-signature: v1,{:a<44}\r\nx-webhook-event: MESSAGE_RECEIVED\r\n\
         x-webhook-number: 919999999999\r\nx-webhook-attempt: 1\r\n\
         x-hub-signature-256: sha256={:a<64}\r\nuser-agent: wabahook/0.1.0\r\n\
         content-length: {}\r\n\r\n",
        "",
        "",
        payload.len()
    );
    let mut request = head.into_bytes();
    request.extend_from_slice(payload);
    request
}
