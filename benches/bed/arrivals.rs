//! Decides how deliveries are received and when each came: in a process of its own, so that what the
//! sender uses is told apart from what the receiver uses.
//!
//! Leaves to others: what is sent. Invariant: one thread answers every request whole and at once with 200
//! and notes which event it was and when, by the monotonic clock that all processes share.
//!
//! The process is the same program, started with `--receive`. It says `port N`, and then answers lines:
//! `reset` with `done`; `until N MS` with `reached NS` once so many requests were answered since the last
//! reset, or with `late N` when the time passed first; `times` with a line `EVENT NS` for each and `done`.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::time::{ClockId, Timespec, clock_gettime};

use super::{Outcome, Process};

/// Nanoseconds of the monotonic clock.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// The receiver, as the sender sees it.
pub(crate) struct Arrivals {
    _process: Process,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
    port: u16,
}

impl Arrivals {
    /// Starts the process.
    pub(crate) fn start() -> Outcome<Arrivals> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg("--receive")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let asks = process.stdin.take().ok_or("the receiver cannot be asked")?;
        let stdout = process.stdout.take().ok_or("the receiver cannot be heard")?;
        let (_process, answers) = (Process(process), BufReader::new(stdout));
        let mut arrivals = Arrivals { _process, asks, answers, port: 0 };
        arrivals.port = arrivals.heard()?.strip_prefix("port ").ok_or("no port")?.parse()?;
        Ok(arrivals)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The address of the n-th endpoint; each has a host of its own.
    pub(crate) fn url(&self, n: usize) -> String {
        format!("http://127.1.{}.{}:{}/hook", n / 200, n % 200 + 1, self.port)
    }

    /// Forgets what came so far.
    pub(crate) fn reset(&mut self) -> Outcome {
        self.asked("reset").map(drop)
    }

    /// When so many had come since the last reset, by [`now_ns`].
    pub(crate) fn until(&mut self, count: u64, most_ms: u64) -> Outcome<u64> {
        let answer = self.asked(&format!("until {count} {most_ms}"))?;
        let reached = answer.strip_prefix("reached ");
        Ok(reached.ok_or_else(|| format!("{answer} of {count} came in time"))?.parse()?)
    }

    /// Which events came and when, in the order in which they came.
    pub(crate) fn times(&mut self) -> Outcome<Vec<(u64, u64)>> {
        let mut times = Vec::new();
        let mut line = self.asked("times")?;
        while line != "done" {
            let (event, at_ns) = line.split_once(' ').ok_or("half a line")?;
            times.push((event.parse()?, at_ns.parse()?));
            line = self.heard()?;
        }
        Ok(times)
    }

    fn asked(&mut self, line: &str) -> Outcome<String> {
        // By one write, which a pipe keeps together.
        self.asks.write_all(format!("{line}\n").as_bytes())?;
        self.heard()
    }

    fn heard(&mut self) -> Outcome<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }
}

const LISTENER: u64 = 0;
const ASKED: u64 = 1;
/// Connections are known by their place from here on.
const CONNECTIONS: u64 = 2;
/// How many connections may wait to be accepted.
const PENDING_MAX: i32 = 4_096;
const READ_BYTES: usize = 64 * 1024;
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// Receives until the sender is gone.
pub(crate) fn receive() -> Outcome {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    rustix::net::listen(&listener, PENDING_MAX)?;
    listener.set_nonblocking(true)?;
    println!("port {}", listener.local_addr()?.port());
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut stdin = std::io::stdin();
    watch(&epoll, &listener, LISTENER)?;
    watch(&epoll, &stdin, ASKED)?;
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut log = Log::default();
    let mut ready = Vec::with_capacity(256);
    let mut chunk = vec![0; READ_BYTES];
    loop {
        let wait = log.timeout();
        epoll::wait(&epoll, spare_capacity(&mut ready), wait.as_ref())?;
        for event in ready.drain(..) {
            match event.data.u64() {
                LISTENER => accept(&listener, &epoll, &mut connections)?,
                ASKED => {
                    let read = stdin.read(&mut chunk)?;
                    if read == 0 {
                        return Ok(());
                    }
                    log.answer(&String::from_utf8_lossy(chunk.get(..read).unwrap_or_default()))?;
                }
                place => {
                    let place = usize::try_from(place - CONNECTIONS)?;
                    let Some(slot) = connections.get_mut(place) else { continue };
                    let open = slot.as_mut().and_then(|one| one.serve(&mut chunk, &mut log));
                    if open.is_none() {
                        *slot = None;
                    }
                }
            }
        }
        log.tell_if_reached()?;
    }
}

fn watch(epoll: &impl std::os::fd::AsFd, source: impl std::os::fd::AsFd, place: u64) -> Outcome {
    Ok(epoll::add(epoll, source, epoll::EventData::new_u64(place), epoll::EventFlags::IN)?)
}

fn accept(
    listener: &TcpListener,
    epoll: &impl std::os::fd::AsFd,
    connections: &mut Vec<Option<Connection>>,
) -> Outcome {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        watch(epoll, &stream, CONNECTIONS + connections.len() as u64)?;
        connections.push(Some(Connection { stream, read: Vec::new() }));
    }
}

struct Connection {
    stream: TcpStream,
    /// What came of a request that is not whole yet.
    read: Vec<u8>,
}

impl Connection {
    /// Reads what came and answers what is whole. `None` when the connection is over.
    fn serve(&mut self, chunk: &mut [u8], log: &mut Log) -> Option<()> {
        let read = match self.stream.read(chunk) {
            Ok(0) => return None,
            Ok(read) => chunk.get(..read)?,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Some(()),
            Err(_) => return None,
        };
        if self.read.is_empty()
            && let Some((event, length)) = request(read)
            && length == read.len()
        {
            return self.reply(event, log);
        }
        self.read.extend_from_slice(read);
        while let Some((event, length)) = request(&self.read) {
            self.read.drain(..length);
            self.reply(event, log)?;
        }
        Some(())
    }

    fn reply(&mut self, event: u64, log: &mut Log) -> Option<()> {
        log.arrived(event);
        self.stream.write_all(ANSWER).ok()
    }
}

/// The first whole request: which event it brings, and how long it is.
fn request(read: &[u8]) -> Option<(u64, usize)> {
    let head_ends = read.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = read.get(..head_ends)?;
    let named = |line: &&[u8]| {
        line.len() > CONTENT_LENGTH.len()
            && line.iter().zip(CONTENT_LENGTH).all(|(a, b)| a.eq_ignore_ascii_case(b))
    };
    let line = head.split(|byte| *byte == b'\n').find(named)?;
    let length = digits(line.get(CONTENT_LENGTH.len()..)?);
    let body = read.get(head_ends..head_ends + usize::try_from(length).ok()?)?;
    let number = body.iter().position(u8::is_ascii_digit).and_then(|at| body.get(at..));
    Some((number.map_or(0, digits), head_ends + body.len()))
}

const CONTENT_LENGTH: &[u8] = b"content-length:";

fn digits(text: &[u8]) -> u64 {
    let text = text.trim_ascii_start();
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}

/// What came, and what the sender waits for.
#[derive(Default)]
struct Log {
    arrived: Vec<(u64, u64)>,
    /// So many, until then.
    awaited: Option<(usize, u64)>,
}

impl Log {
    fn arrived(&mut self, event: u64) {
        self.arrived.push((event, now_ns()));
    }

    fn answer(&mut self, line: &str) -> Outcome {
        let mut words = line.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("reset"), ..) => {
                self.arrived.clear();
                println!("done");
            }
            (Some("until"), Some(count), Some(most_ms)) => {
                let most_ms: u64 = most_ms.parse()?;
                self.awaited = Some((count.parse()?, now_ns() + most_ms * 1_000_000));
            }
            (Some("times"), ..) => {
                let mut out = std::io::stdout().lock();
                let mut text = String::new();
                for (event, at_ns) in &self.arrived {
                    text.push_str(&format!("{event} {at_ns}\n"));
                }
                writeln!(out, "{text}done")?;
            }
            _ => return Err(format!("asked {line:?}").into()),
        }
        Ok(())
    }

    fn timeout(&self) -> Option<Timespec> {
        let (_, end_ns) = self.awaited?;
        let left_ns = end_ns.saturating_sub(now_ns());
        let tv_sec = i64::try_from(left_ns / 1_000_000_000).unwrap_or(i64::MAX);
        Some(Timespec { tv_sec, tv_nsec: (left_ns % 1_000_000_000).cast_signed() })
    }

    fn tell_if_reached(&mut self) -> Outcome {
        let Some((count, end_ns)) = self.awaited else { return Ok(()) };
        let last = count.checked_sub(1).and_then(|last| self.arrived.get(last));
        match last {
            Some((_, at_ns)) => println!("reached {at_ns}"),
            None if now_ns() >= end_ns => println!("late {}", self.arrived.len()),
            None => return Ok(()),
        }
        self.awaited = None;
        Ok(())
    }
}
