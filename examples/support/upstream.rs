//! Sends events to a host over TCP, one per line, at the rate of the load. It ends when each line was
//! answered.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread::{self, JoinHandle};

use super::{END_MAX, Load, Outcome, line};

/// A system that hands events to the host and keeps each until the host has answered `ok`.
pub(crate) struct Upstream {
    thread: JoinHandle<Outcome<u64>>,
}

impl Upstream {
    /// Connects and begins to send.
    pub(crate) fn start(host: SocketAddr, load: Load) -> Upstream {
        Upstream { thread: thread::spawn(move || send(host, load)) }
    }

    /// Waits for the last answer. Returns how many were `ok`.
    pub(crate) fn end(self) -> Outcome<u64> {
        self.thread.join().map_err(|_| "the upstream panicked")?
    }
}

fn send(host: SocketAddr, load: Load) -> Outcome<u64> {
    let mut stream = TcpStream::connect(host)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(END_MAX))?;
    let answers = stream.try_clone()?;
    let counting = thread::spawn(move || count(answers));
    load.run(|numbers| {
        let lines: String = numbers.map(line).collect();
        Ok(stream.write_all(lines.as_bytes())?)
    })?;
    stream.shutdown(Shutdown::Write)?;
    counting.join().map_err(|_| "the reader of answers panicked")?
}

fn count(answers: TcpStream) -> Outcome<u64> {
    let mut confirmed = 0;
    for answer in BufReader::new(answers).lines() {
        confirmed += u64::from(answer?.starts_with("ok "));
    }
    Ok(confirmed)
}
