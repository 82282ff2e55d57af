//! The receivers of the benches, in a process of their own, so that what the sender uses is told
//! apart from what they use. One epoll thread serves every connection, so that thousands of receivers
//! cost no threads. The address that a connection was made to says how its receiver behaves: it
//! answers 200 at once, after one of [`LATENCIES_MS`], or never, or 404 at once.
//!
//! The process is the bench itself, started with `--receive`. It prints `port N` and then answers
//! lines: `reset` with `done`; `count` with the number of requests since the last reset; `until N MS`
//! with `reached NS` once so many requests had arrived, or `late N` after so many milliseconds;
//! `times FROM` with a line `EVENT NS` for each event from that number on, and `done`.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::time::{ClockId, Timespec, clock_gettime};

use super::{Outcome, Process};

/// How long receivers may take to answer. The first answers at once.
pub(crate) const LATENCIES_MS: [u64; 7] = [0, 20, 50, 100, 200, 280, 1_000];

/// How every request is answered.
pub(crate) const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// How a request is refused.
const REFUSAL: &[u8] = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";

/// Receivers at addresses `127.2.x.y` never answer; at `127.3.x.y` they refuse; at `127.(16 + n).x.y` they answer after the n-th
/// latency.
const HANGING: u8 = 2;
const REFUSING: u8 = 3;
const FIRST_LATENCY: u8 = 16;

/// Nanoseconds of the monotonic clock, which all processes share.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// The receivers, as the sender sees them.
pub(crate) struct Receivers {
    _process: Process,
    commands: ChildStdin,
    replies: BufReader<ChildStdout>,
    port: u16,
}

impl Receivers {
    /// Starts the process.
    pub(crate) fn start() -> Outcome<Receivers> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg("--receive")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let commands = process.stdin.take().ok_or("no standard input")?;
        let replies = BufReader::new(process.stdout.take().ok_or("no standard output")?);
        let mut receivers = Receivers { _process: Process(process), commands, replies, port: 0 };
        receivers.port = receivers.line()?.strip_prefix("port ").ok_or("no port")?.parse()?;
        Ok(receivers)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The address of the n-th receiver that answers at once; each has a host of its own.
    pub(crate) fn prompt(&self, n: usize) -> String {
        self.url(1, n)
    }

    /// The address of the n-th receiver that never answers.
    pub(crate) fn hanging(&self, n: usize) -> String {
        self.url(HANGING, n)
    }

    /// The same as host and port.
    pub(crate) fn hanging_authority(&self, n: usize) -> String {
        self.authority(HANGING, n)
    }

    /// The address of the n-th receiver that answers 404.
    pub(crate) fn refusing(&self, n: usize) -> String {
        self.url(REFUSING, n)
    }

    /// The address of the n-th receiver that answers after `LATENCIES_MS[latency]`.
    pub(crate) fn delayed(&self, latency: usize, n: usize) -> String {
        format!("http://{}/hook", self.delayed_authority(latency, n))
    }

    /// The same as host and port.
    pub(crate) fn delayed_authority(&self, latency: usize, n: usize) -> String {
        self.authority(u8::try_from(latency).map_or(HANGING, |latency| FIRST_LATENCY + latency), n)
    }

    fn url(&self, kind: u8, n: usize) -> String {
        format!("http://{}/hook", self.authority(kind, n))
    }

    fn authority(&self, kind: u8, n: usize) -> String {
        format!("127.{kind}.{}.{}:{}", n / 200, n % 200 + 1, self.port)
    }

    /// Forgets what arrived so far.
    pub(crate) fn reset(&mut self) -> Outcome {
        self.ask("reset").map(drop)
    }

    /// How many requests have arrived since the last reset.
    pub(crate) fn count(&mut self) -> Outcome<u64> {
        Ok(self.ask("count")?.parse()?)
    }

    /// When so many requests had arrived since the last reset, by [`now_ns`].
    pub(crate) fn until(&mut self, count: u64, most_ms: u64) -> Outcome<u64> {
        let reply = self.ask(&format!("until {count} {most_ms}"))?;
        let reached = reply.strip_prefix("reached ");
        Ok(reached.ok_or_else(|| format!("{reply} of {count} arrived in time"))?.parse()?)
    }

    /// Which events from number `from` on arrived and when, in the order in which they arrived.
    pub(crate) fn times(&mut self, from: u64) -> Outcome<Vec<(u64, u64)>> {
        let mut times = Vec::new();
        let mut line = self.ask(&format!("times {from}"))?;
        while line != "done" {
            let (event, at_ns) = line.split_once(' ').ok_or("half a line")?;
            times.push((event.parse()?, at_ns.parse()?));
            line = self.line()?;
        }
        Ok(times)
    }

    fn ask(&mut self, command: &str) -> Outcome<String> {
        // By one write, which a pipe keeps together.
        self.commands.write_all(format!("{command}\n").as_bytes())?;
        self.line()
    }

    fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        self.replies.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }
}

const LISTENER: u64 = 0;
const COMMANDS: u64 = 1;
/// Connections are known by their slot from here on.
const CONNECTIONS: u64 = 2;
/// How many connections may wait to be accepted: beyond the usual 128 the system drops some, and they
/// are tried again after a second.
const PENDING_MAX: i32 = 4_096;
const READ_BYTES: usize = 64 * 1024;

/// Receives until the sender is gone.
pub(crate) fn receive() -> Outcome {
    super::raise_file_limit()?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    rustix::net::listen(&listener, PENDING_MAX)?;
    listener.set_nonblocking(true)?;
    println!("port {}", listener.local_addr()?.port());
    let mut server = Server::new(listener)?;
    let mut stdin = std::io::stdin();
    watch(&server.epoll, &stdin, COMMANDS)?;
    let mut ready = Vec::with_capacity(256);
    let mut chunk = vec![0; READ_BYTES];
    loop {
        let wait = server.wait();
        epoll::wait(&server.epoll, spare_capacity(&mut ready), wait.as_ref())?;
        for event in ready.drain(..) {
            match event.data.u64() {
                LISTENER => server.accept()?,
                COMMANDS => {
                    let read = stdin.read(&mut chunk)?;
                    if read == 0 {
                        return Ok(());
                    }
                    let line = String::from_utf8_lossy(chunk.get(..read).unwrap_or_default());
                    server.log.answer(&line)?;
                }
                slot => server.serve(usize::try_from(slot - CONNECTIONS)?, &mut chunk),
            }
        }
        server.answer_due();
        server.log.tell_if_reached()?;
    }
}

pub(crate) fn watch(epoll: impl AsFd, source: impl AsFd, data: u64) -> Outcome {
    Ok(epoll::add(epoll, source, epoll::EventData::new_u64(data), epoll::EventFlags::IN)?)
}

/// When a receiver answers.
#[derive(Clone, Copy)]
enum Pace {
    AtOnce,
    Refuse,
    /// After the latency of this index.
    After(usize),
    Never,
}

impl Pace {
    fn of(stream: &TcpStream) -> Pace {
        let Ok(IpAddr::V4(ip)) = stream.local_addr().map(|address| address.ip()) else {
            return Pace::AtOnce;
        };
        let [_, kind, ..] = ip.octets();
        match kind {
            HANGING => Pace::Never,
            REFUSING => Pace::Refuse,
            kind if kind > FIRST_LATENCY => Pace::After(usize::from(kind - FIRST_LATENCY)),
            _ => Pace::AtOnce,
        }
    }
}

struct Connection {
    stream: TcpStream,
    pace: Pace,
    /// The beginning of a request that has not arrived completely.
    read: Vec<u8>,
}

struct Server {
    listener: TcpListener,
    epoll: OwnedFd,
    /// Slots are not used again, so that a late answer never goes to another connection.
    connections: Vec<Option<Connection>>,
    /// By latency: when an answer is due and on which connection. Of one latency they are due in the
    /// order in which the requests arrived.
    due: [VecDeque<(u64, usize)>; LATENCIES_MS.len()],
    log: Log,
}

impl Server {
    fn new(listener: TcpListener) -> Outcome<Server> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        watch(&epoll, &listener, LISTENER)?;
        let (connections, due, log) = (Vec::new(), Default::default(), Log::default());
        Ok(Server { listener, epoll, connections, due, log })
    }

    fn accept(&mut self) -> Outcome {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            watch(&self.epoll, &stream, CONNECTIONS + self.connections.len() as u64)?;
            let pace = Pace::of(&stream);
            self.connections.push(Some(Connection { stream, pace, read: Vec::new() }));
        }
    }

    /// Reads what arrived on a connection, and answers every whole request or notes when to.
    fn serve(&mut self, slot: usize, chunk: &mut [u8]) {
        let Some(place) = self.connections.get_mut(slot) else { return };
        let Some(connection) = place else { return };
        let Some(requests) = connection.requests(chunk, &mut self.log) else {
            *place = None;
            return;
        };
        for _ in 0..requests {
            match connection.pace {
                Pace::Never => {}
                Pace::AtOnce | Pace::Refuse => connection.answer(),
                Pace::After(latency) => {
                    let after_ms = LATENCIES_MS.get(latency).copied().unwrap_or_default();
                    let due_ns = now_ns() + after_ms * 1_000_000;
                    if let Some(due) = self.due.get_mut(latency) {
                        due.push_back((due_ns, slot));
                    }
                }
            }
        }
    }

    fn answer_due(&mut self) {
        let now = now_ns();
        for due in &mut self.due {
            while due.front().is_some_and(|(due_ns, _)| *due_ns <= now) {
                let Some((_, slot)) = due.pop_front() else { break };
                if let Some(Some(connection)) = self.connections.get_mut(slot) {
                    connection.answer();
                }
            }
        }
    }

    /// Until the next answer is due, or what the sender waits for is late.
    fn wait(&self) -> Option<Timespec> {
        let due = self.due.iter().filter_map(|due| due.front()).map(|(due_ns, _)| *due_ns);
        let end_ns = due.chain(self.log.awaited.map(|(_, end_ns)| end_ns)).min()?;
        let left_ns = end_ns.saturating_sub(now_ns());
        let tv_sec = i64::try_from(left_ns / 1_000_000_000).unwrap_or(i64::MAX);
        Some(Timespec { tv_sec, tv_nsec: (left_ns % 1_000_000_000).cast_signed() })
    }
}

impl Connection {
    /// How many whole requests arrived. `None` when the connection is over.
    fn requests(&mut self, chunk: &mut [u8], log: &mut Log) -> Option<usize> {
        let read = match self.stream.read(chunk) {
            Ok(0) => return None,
            Ok(read) => chunk.get(..read)?,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Some(0),
            Err(_) => return None,
        };
        if self.read.is_empty()
            && let Some((event, length)) = request(read)
            && length == read.len()
        {
            log.arrived(event, self.pace);
            return Some(1);
        }
        self.read.extend_from_slice(read);
        let mut requests = 0;
        while let Some((event, length)) = request(&self.read) {
            self.read.drain(..length);
            log.arrived(event, self.pace);
            requests += 1;
        }
        Some(requests)
    }

    /// A peer that is gone is found out by the next read.
    fn answer(&mut self) {
        let refuses = matches!(self.pace, Pace::Refuse);
        let _ = self.stream.write_all(if refuses { REFUSAL } else { ANSWER });
    }
}

/// The first whole request: the number of its event, and its length.
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

/// What arrived at receivers that answer, and what the sender waits for.
#[derive(Default)]
struct Log {
    arrived: Vec<(u64, u64)>,
    /// So many, until then.
    awaited: Option<(usize, u64)>,
}

impl Log {
    fn arrived(&mut self, event: u64, pace: Pace) {
        if !matches!(pace, Pace::Never) {
            self.arrived.push((event, now_ns()));
        }
    }

    fn answer(&mut self, line: &str) -> Outcome {
        let mut words = line.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("reset"), ..) => {
                self.arrived.clear();
                println!("done");
            }
            (Some("count"), ..) => println!("{}", self.arrived.len()),
            (Some("until"), Some(count), Some(most_ms)) => {
                let most_ms: u64 = most_ms.parse()?;
                self.awaited = Some((count.parse()?, now_ns() + most_ms * 1_000_000));
            }
            (Some("times"), Some(from), _) => {
                let from: u64 = from.parse()?;
                let wanted = self.arrived.iter().filter(|(event, _)| *event >= from);
                let lines = wanted.map(|(event, at_ns)| format!("{event} {at_ns}\n"));
                println!("{}done", lines.collect::<String>());
            }
            _ => return Err(format!("unknown command {line:?}").into()),
        }
        Ok(())
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
