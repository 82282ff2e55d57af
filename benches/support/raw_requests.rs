//! What the network allows: the same requests over connections that stay open, without an engine.
//! Once from one event-driven thread, which is the limit of any sender, and once from blocking threads
//! with one connection each. A request is as long as the engine's, and a connection has one in flight.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::time::Timespec;

use super::Outcome;
use super::receiver_process::{ANSWER, Receivers, watch};

/// The numbers of blocking threads that are tried.
pub(crate) const THREADS: [usize; 3] = [4, 16, 64];
/// Connections of the event-driven sender.
const CONNECTIONS: usize = 64;

/// What raw requests reached.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawRate {
    pub(crate) per_s: f64,
    /// CPU of the sender.
    pub(crate) cpu_us: f64,
}

/// Requests a second of one event-driven thread.
pub(crate) fn event_driven(
    receivers: &mut Receivers,
    payload: &[u8],
    span: Duration,
) -> Outcome<RawRate> {
    event_driven_to(receivers, authorities(receivers.port()), payload, span)
}

/// Requests a second of one event-driven thread with one connection to each of these, which are host and port.
pub(crate) fn event_driven_to(
    receivers: &mut Receivers,
    authorities: impl Iterator<Item = String>,
    payload: &[u8],
    span: Duration,
) -> Outcome<RawRate> {
    let request = request(receivers.port(), payload);
    let mut sender = EventDriven::to(authorities)?;
    let rate = measured(|started| sender.run(&request, started, span));
    receivers.reset()?;
    rate
}

/// Requests a second of the best of [`THREADS`] blocking threads.
pub(crate) fn blocking(
    receivers: &mut Receivers,
    payload: &[u8],
    span: Duration,
) -> Outcome<RawRate> {
    let mut best = RawRate { per_s: 0.0, cpu_us: 0.0 };
    for threads in THREADS {
        let rate = blocking_threads(receivers, threads, payload, span)?;
        if rate.per_s > best.per_s {
            best = rate;
        }
    }
    Ok(best)
}

/// Requests a second of so many blocking threads.
pub(crate) fn blocking_threads(
    receivers: &mut Receivers,
    threads: usize,
    payload: &[u8],
    span: Duration,
) -> Outcome<RawRate> {
    let port = receivers.port();
    let request = request(port, payload);
    let rate = measured(|started| {
        thread::scope(|scope| {
            let send = || send_blocking(port, &request, started, span);
            let all: Vec<_> = (0..threads).map(|_| scope.spawn(send)).collect();
            let mut done = 0;
            for thread in all {
                done += thread.join().map_err(|_| "a sender panicked")??;
            }
            Ok(done)
        })
    });
    receivers.reset()?;
    rate
}

fn measured(run: impl FnOnce(Instant) -> Outcome<u32>) -> Outcome<RawRate> {
    let (cpu_before, started) = (super::cpu_time(), Instant::now());
    let done = f64::from(run(started)?);
    let elapsed = started.elapsed().as_secs_f64();
    let cpu_us = (super::cpu_time() - cpu_before).as_secs_f64() * 1e6 / done;
    Ok(RawRate { per_s: done / elapsed, cpu_us })
}

fn connect(authority: &str) -> Outcome<TcpStream> {
    let stream = TcpStream::connect(authority)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn authority(port: u16) -> String {
    format!("127.1.0.1:{port}")
}

fn authorities(port: u16) -> impl Iterator<Item = String> {
    std::iter::repeat_n(authority(port), CONNECTIONS)
}

/// One thread with many connections, which waits in epoll.
pub(crate) struct EventDriven {
    epoll: rustix::fd::OwnedFd,
    streams: Vec<TcpStream>,
}

impl EventDriven {
    pub(crate) fn connect(port: u16) -> Outcome<EventDriven> {
        EventDriven::to(authorities(port))
    }

    fn to(authorities: impl Iterator<Item = String>) -> Outcome<EventDriven> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut streams = Vec::new();
        for authority in authorities {
            let stream = connect(&authority)?;
            stream.set_nonblocking(true)?;
            watch(&epoll, &stream, streams.len() as u64)?;
            streams.push(stream);
        }
        Ok(EventDriven { epoll, streams })
    }

    /// Sends for `span`, then waits for the last answers. Returns how many came.
    pub(crate) fn run(&mut self, request: &[u8], started: Instant, span: Duration) -> Outcome<u32> {
        const WAIT: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };
        for stream in &mut self.streams {
            stream.write_all(request)?;
        }
        let (mut done, mut in_flight) = (0, self.streams.len());
        let mut ready = Vec::with_capacity(CONNECTIONS);
        while in_flight > 0 {
            epoll::wait(&self.epoll, spare_capacity(&mut ready), Some(&WAIT))?;
            if ready.is_empty() {
                return Err("no answer in time".into());
            }
            for event in ready.drain(..) {
                let slot = usize::try_from(event.data.u64())?;
                let stream = self.streams.get_mut(slot).ok_or("no such connection")?;
                if !has_answer(stream)? {
                    continue;
                }
                done += 1;
                match started.elapsed() < span {
                    // A request fits into the buffer of an idle connection.
                    true => stream.write_all(request)?,
                    false => in_flight -= 1,
                }
            }
        }
        Ok(done)
    }
}

/// Answers are shorter than a packet, so one arrives whole.
fn has_answer(stream: &mut TcpStream) -> Outcome<bool> {
    let mut answer = [0; 256];
    match stream.read(&mut answer) {
        Ok(read) if answer.get(..read) == Some(ANSWER) => Ok(true),
        Ok(_) => Err("no answer".into()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn send_blocking(port: u16, request: &[u8], started: Instant, span: Duration) -> Outcome<u32> {
    let mut stream = connect(&authority(port))?;
    let mut done = 0;
    while started.elapsed() < span {
        stream.write_all(request)?;
        if !has_answer(&mut stream)? {
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
