//! The limits of this machine without an engine: the same bytes appended to a plain file and synced, and the
//! same requests sent on kept connections. Each append is followed by one `fdatasync`, and each request waits
//! for its whole response, as the engine's do.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::raw_file::RawFile;

/// Appends to a file in `directory` and syncs it for `span`; returns the appends per second.
pub(crate) fn appends_per_s(directory: &Path, bytes: usize, span: Duration) -> io::Result<f64> {
    let mut file = RawFile::new(directory)?;
    let (started, mut appends) = (Instant::now(), 0_u32);
    while started.elapsed() < span {
        file.append(bytes)?;
        appends += 1;
    }
    Ok(f64::from(appends) / started.elapsed().as_secs_f64())
}

/// Sends requests on this many connections for `span`; returns the responses per second.
pub(crate) fn requests_per_s(
    to: SocketAddr,
    connections: usize,
    body: &[u8],
    span: Duration,
) -> io::Result<f64> {
    let head = format!(
        "POST /hook HTTP/1.1\r\nhost: {to}\r\ncontent-type: application/json\r\n\
         webhook-id: evt_00000000000000000000000000000000\r\nwebhook-timestamp: 1700000000\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    let request = [head.as_bytes(), body].concat();
    let started = Instant::now();
    let answered: u64 = thread::scope(|scope| {
        let clients: Vec<_> =
            (0..connections).map(|_| scope.spawn(|| converse(to, &request, span))).collect();
        let counts = clients.into_iter().map(|client| match client.join() {
            Ok(Ok(count)) => Ok(count),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::Error::other("a client failed")),
        });
        counts.sum::<io::Result<u64>>()
    })?;
    Ok(answered as f64 / started.elapsed().as_secs_f64())
}

fn converse(to: SocketAddr, request: &[u8], span: Duration) -> io::Result<u64> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    let (started, mut answered) = (Instant::now(), 0);
    let mut answer = [0_u8; ANSWER.len()];
    while started.elapsed() < span {
        stream.write_all(request)?;
        stream.read_exact(&mut answer)?;
        answered += 1;
    }
    Ok(answered)
}

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// Starts a receiver on loopback that answers every request until the process ends.
pub(crate) fn receiver() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || answer(stream));
        }
    });
    Ok(address)
}

fn answer(mut stream: TcpStream) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let (mut line, mut body) = (String::new(), Vec::new());
    loop {
        let mut length = 0;
        loop {
            line.clear();
            reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
            let Some((name, value)) = line.split_once(':') else {
                if line.trim().is_empty() {
                    break;
                }
                continue;
            };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().ok()?;
            }
        }
        body.resize(length, 0);
        reader.read_exact(&mut body).ok()?;
        stream.write_all(ANSWER).ok()?;
    }
}
