//! Decides how receivers on loopback behave: many addresses behind one listener, of which some answer
//! at once and others never.
//!
//! Leaves to others: what is sent to them. Invariant: an address answers or hangs for as long as the
//! bench runs; each request that is answered is counted once.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Addresses of the second kind: they accept and never answer.
const HANGING: u8 = 2;
const STACK_BYTES: usize = 128 * 1024;
/// How many connections may wait to be accepted.
const PENDING_MAX: i32 = 4_096;

/// A listener on every loopback address.
pub(crate) struct Receivers {
    port: u16,
    answered: Arc<Answered>,
}

#[derive(Default)]
struct Answered {
    count: Mutex<u64>,
    grew: Condvar,
}

impl Receivers {
    /// Starts to listen, until the process ends.
    pub(crate) fn start() -> io::Result<Receivers> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        // All endpoints share this listener, and a thousand may be connected to at once: beyond the
        // usual 128 the system drops connections, which are then tried again after a second.
        rustix::net::listen(&listener, PENDING_MAX)?;
        let port = listener.local_addr()?.port();
        let answered = Arc::new(Answered::default());
        let counted = Arc::clone(&answered);
        thread::spawn(move || accept(&listener, &counted));
        Ok(Receivers { port, answered })
    }

    /// The address of the n-th receiver that answers.
    pub(crate) fn prompt(&self, n: usize) -> String {
        self.url(1, n)
    }

    /// The address of the n-th receiver that hangs.
    pub(crate) fn hanging(&self, n: usize) -> String {
        self.url(HANGING, n)
    }

    fn url(&self, kind: u8, n: usize) -> String {
        format!("http://127.{kind}.{}.{}:{}/hook", n / 200, n % 200 + 1, self.port)
    }

    /// Requests answered since the start.
    pub(crate) fn answered(&self) -> u64 {
        *self.answered.count.lock()
    }

    /// Waits until so many requests were answered since the start. False when `most` passed first.
    pub(crate) fn wait_for(&self, count: u64, most: Duration) -> bool {
        let mut answered = self.answered.count.lock();
        let waits = |answered: &mut u64| *answered < count;
        !self.answered.grew.wait_while_for(&mut answered, waits, most).timed_out()
    }
}

fn accept(listener: &TcpListener, answered: &Arc<Answered>) {
    let mut kept_open = Vec::new();
    while let Ok((stream, _)) = listener.accept() {
        match stream.local_addr().map(|local| second_octet(&local)) {
            Ok(HANGING) => kept_open.push(stream),
            _ => {
                let answered = Arc::clone(answered);
                let thread = thread::Builder::new().stack_size(STACK_BYTES);
                let _ = thread.spawn(move || answer(stream, &answered));
            }
        }
    }
}

fn second_octet(local: &SocketAddr) -> u8 {
    match local.ip() {
        IpAddr::V4(ip) => ip.octets()[1],
        IpAddr::V6(_) => 0,
    }
}

/// Answers every request of a connection. Requests come one at a time, as no client of ours sends the
/// next before it has the answer.
fn answer(mut stream: TcpStream, answered: &Answered) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut read = Vec::new();
    let mut chunk = [0_u8; 16 * 1024];
    loop {
        let length = stream.read(&mut chunk).ok().filter(|length| *length > 0)?;
        read.extend_from_slice(chunk.get(..length)?);
        if !is_whole(&read) {
            continue;
        }
        read.clear();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").ok()?;
        *answered.count.lock() += 1;
        answered.grew.notify_all();
    }
}

fn is_whole(read: &[u8]) -> bool {
    let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(read.get(..end).unwrap_or_default()).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
    read.len() >= end + 4 + length
}
