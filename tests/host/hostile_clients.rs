//! What strangers can do to the port: hold connections, send half a head, drip a body, leave large bodies
//! unfinished, and try keys. Beside all of it, requests with a key and signed callbacks are answered in time.
#![cfg(target_os = "linux")]

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType};
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::DEADLINE;
use crate::client::{self, Pending};
use crate::host_process::{ACME, HostDirectory, HostProcess, line};
use crate::meta_callbacks::{ESCAPED, signature};

/// On a quiet machine the slowest answer takes some milliseconds; this one is shared.
const ANSWER_MAX: Duration = Duration::from_secs(3);
const CALLBACK_BYTES: usize = 4 * 1024 * 1024;
const SIGNATURE: (&str, &str) = (
    "x-hub-signature-256",
    "sha256=0000000000000000000000000000000000000000000000000000000000000000",
);

/// The connections of the crowd. With fewer files, fewer.
const CROWD: u64 = 5_000;
/// Files that the rest of the test needs.
const OTHER_FILES: u64 = 4_000;

/// Lets this process open as many files as it may. Returns how large a crowd is possible.
fn raise_file_limit() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let files = limit.current.unwrap_or(u64::MAX);
    usize::try_from(files.saturating_sub(OTHER_FILES).min(CROWD)).unwrap()
}

/// A connection from 127.0.0.`host`.
fn connect_from(host: u8, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket: OwnedFd = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    let from = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, host), 0));
    rustix::net::bind(&socket, &from)?;
    rustix::net::connect(&socket, &to)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    Ok(stream)
}

/// A request that must be answered in time, and where its time went.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Asked {
    took: Duration,
    head: &'static str,
    /// Until it was connected, sent, and answered.
    phases: [Duration; 3],
    /// Since the first request.
    at: Duration,
    /// How long the host's threads for requests, and this client, were ready to run and got no processor meanwhile.
    unscheduled: [Duration; 2],
}

/// How long threads waited for a processor so far, as the system counts it.
struct RunQueueWait(Vec<File>);

impl RunQueueWait {
    fn of_host(served: &HostProcess) -> RunQueueWait {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", served.process_id())).unwrap();
        let is_http = |path: &Path| {
            let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
            name.starts_with("wabahook-http")
        };
        let threads = tasks.map(|task| task.unwrap().path()).filter(|path| is_http(path));
        RunQueueWait(threads.filter_map(|path| File::open(path.join("schedstat")).ok()).collect())
    }

    fn of_this_thread() -> RunQueueWait {
        RunQueueWait(File::open("/proc/thread-self/schedstat").into_iter().collect())
    }

    /// The sum over the threads; zero where the system does not count it.
    fn total(&mut self) -> Duration {
        let mut read = |file: &mut File| {
            let mut text = String::new();
            file.rewind().ok()?;
            file.read_to_string(&mut text).ok()?;
            text.split(' ').nth(1)?.parse::<u64>().ok()
        };
        Duration::from_nanos(self.0.iter_mut().filter_map(&mut read).sum())
    }
}

/// Asks, until it is over, what must be answered in time.
fn ask(served: &HostProcess, is_over: &AtomicBool) -> Vec<Asked> {
    let signed = signature("app-secret", ESCAPED);
    let (mut asked, first) = (Vec::new(), Instant::now());
    let mut waits = [RunQueueWait::of_host(served), RunQueueWait::of_this_thread()];
    for n in 0.. {
        if is_over.load(Ordering::SeqCst) && asked.len() >= 100 {
            break;
        }
        let before = waits.each_mut().map(RunQueueWait::total);
        let started = Instant::now();
        let headers = |name: &str, value: &str| format!("{name}: {value}");
        let (head, header, body, expected) = match n % 3 {
            0 => ("POST /events", headers("authorization", ACME), line(n), 202),
            1 => ("GET /healthz", headers("x-nothing", ""), String::new(), 200),
            _ => {
                let header = headers("x-hub-signature-256", &signed);
                ("POST /meta/webhook", header, ESCAPED.to_owned(), 200)
            }
        };
        let (status, phases) = status_with(served.address, head, &header, &body);
        assert_eq!(status, expected, "{head}");
        let (took, after) = (started.elapsed(), waits.each_mut().map(RunQueueWait::total));
        let unscheduled = [after[0] - before[0], after[1] - before[1]];
        asked.push(Asked { took, head, phases, at: first.elapsed(), unscheduled });
    }
    asked
}

/// Sends a request on a connection of its own and returns the status, and when each phase ended.
fn status_with(to: SocketAddr, head: &str, header: &str, body: &str) -> (u16, [Duration; 3]) {
    let started = Instant::now();
    let mut stream = connect_from(2, to).unwrap();
    let connected = started.elapsed();
    let length = body.len();
    let request = format!(
        "{head} HTTP/1.1\r\nhost: x\r\n{header}\r\nconnection: close\r\n\
         content-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let sent = started.elapsed();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap_or_else(|| panic!("{answer:?}"));
    (status.parse().unwrap(), [connected, sent, started.elapsed()])
}

/// What the system counts of connections that it dropped, and of packets that it sent again.
fn network_counters() -> Vec<(String, u64)> {
    let text = std::fs::read_to_string("/proc/net/netstat").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let told = ["ListenOverflows", "ListenDrops", "TCPTimeouts", "TCPBacklogDrop"];
    let all = names.split(' ').zip(values.split(' '));
    let told = all.filter(|(name, _)| told.contains(name));
    told.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
}

/// Connections from one address: idle ones, half heads, and bodies that drip.
fn crowd(to: SocketAddr, count: usize) -> Vec<TcpStream> {
    let one = |n: usize| {
        let mut stream = connect_from(1, to).ok()?;
        let sent = match n % 3 {
            0 => Ok(()),
            1 => stream.write_all(b"POST /events HTTP/1.1\r\nhost:"),
            _ => stream.write_all(
                format!(
                    "POST /meta/webhook HTTP/1.1\r\nhost: x\r\n{}: {}\r\n\
                     content-length: 1000000\r\n\r\n{{",
                    SIGNATURE.0, SIGNATURE.1
                )
                .as_bytes(),
            ),
        };
        sent.ok().map(|()| stream)
    };
    (0..count).filter_map(one).collect()
}

/// A byte more of each body, as a client that drips.
fn drip(crowd: &mut [TcpStream]) {
    for stream in crowd.iter_mut() {
        let _ = stream.write_all(b" ");
    }
}

/// Bodies of which only the last byte is missing. The host cuts most of them.
fn unfinished_bodies(to: SocketAddr) -> Vec<TcpStream> {
    let body = vec![b' '; CALLBACK_BYTES - 1];
    let open = |_| {
        let mut stream = connect_from(3, to).ok()?;
        let head = format!(
            "POST /meta/webhook HTTP/1.1\r\nhost: x\r\n{}: {}\r\ncontent-length: {CALLBACK_BYTES}\
             \r\n\r\n",
            SIGNATURE.0, SIGNATURE.1
        );
        stream.write_all(head.as_bytes()).ok()?;
        let _ = stream.write_all(&body);
        Some(stream)
    };
    (0..74).filter_map(open).collect()
}

/// Requests with as many different keys. Their answers wait, so nobody waits for them here.
fn wrong_keys(to: SocketAddr) -> Vec<TcpStream> {
    let send = |n: usize| {
        let mut stream = connect_from(4, to).ok()?;
        let request = format!("GET /stats HTTP/1.1\r\nhost: x\r\nauthorization: wrong-{n}\r\n\r\n");
        stream.write_all(request.as_bytes()).ok().map(|()| stream)
    };
    (0..3_000).filter_map(send).collect()
}

#[test]
fn requests_are_answered_in_time_beside_hostile_clients() {
    let count = raise_file_limit();
    let (place, served) = HostProcess::fresh();
    let is_over = AtomicBool::new(false);
    let counters = network_counters();
    let mut asked = thread::scope(|scope| {
        let asking = scope.spawn(|| ask(&served, &is_over));
        let hostile = scope.spawn(|| {
            let mut crowd = crowd(served.address, count);
            assert_eq!(crowd.len(), count);
            let bodies = unfinished_bodies(served.address);
            drip(&mut crowd);
            let keys = wrong_keys(served.address);
            drip(&mut crowd);
            (crowd, bodies, keys)
        });
        let held = hostile.join();
        is_over.store(true, Ordering::SeqCst);
        let asked = asking.join().unwrap();
        drop(held.unwrap());
        asked
    });
    asked.sort_unstable();
    let answers = asked.len();
    let [median, p99, worst] =
        [answers / 2, answers * 99 / 100, answers - 1].map(|place| asked[place].took);
    println!(
        "{count} connections, {answers} answers: p50 {median:?}, p99 {p99:?}, worst {worst:?}"
    );
    let slowest = &asked[answers.saturating_sub(5)..];
    let load = std::fs::read_to_string("/proc/loadavg").unwrap();
    println!("load {}, before {counters:?}, after {:?}", load.trim(), network_counters());
    slowest.iter().for_each(|one| println!("{one:?}"));
    assert!(p99 < ANSWER_MAX, "{slowest:?}");
    let log = std::fs::read_to_string(place.path("stderr.log")).unwrap();
    assert!(log.contains("a request body is refused: too many unfinished bodies"), "{log}");
    for flood in ["too many connections", "a request body is refused", "without a valid API key"] {
        assert!(log.matches(flood).count() <= 2, "{flood} floods the log");
    }
    assert!(log.contains("too many connections") && log.contains("without a valid API key"));
}

/// The key decides before the body: the answer to a wrong one does not wait for it.
#[test]
fn a_wrong_key_is_refused_without_its_body() {
    let (_place, served) = HostProcess::fresh();
    for (path, header) in [("/events", "authorization"), ("/v1/configs/webhook", "whizard-key")] {
        let headers = [(header, "wrong"), ("expect", "100-continue")];
        Pending::open(served.address, "POST", path, &headers, 1_000_000).answer().with_status(401);
    }
    let headers = [("expect", "100-continue")];
    let answer =
        Pending::open(served.address, "POST", "/meta/webhook", &headers, 1_000_000).answer();
    assert_eq!(answer.status, 401, "without a signature: {answer:?}");
    served.get("/stats", ACME).with_status(200);
}

/// Ten wrong keys of an address are answered at once, then one a second. A right key never waits.
#[test]
fn wrong_keys_are_slowed_down_and_right_ones_are_not() {
    let (_place, served) = HostProcess::fresh();
    let started = Instant::now();
    for n in 0..11 {
        served.get("/stats", &format!("wrong-{n}")).with_status(401);
    }
    assert!(started.elapsed() >= Duration::from_millis(500), "{:?}", started.elapsed());
    let hanging = Pending::open(served.address, "GET", "/stats", &[("authorization", "no")], 0);
    served.get("/stats", ACME).with_status(200);
    hanging.answer().with_status(401);
}

/// A head and a body that drip are cut, whatever their pauses.
#[test]
fn a_slow_head_and_a_slow_body_are_cut() {
    let limits = "[limits]\nhead_timeout_ms = 300\nbody_timeout_ms = 300";
    let (_place, served) = HostDirectory::with(limits).serving();
    // A connection that never sent a request ends anyway, so this one has sent one.
    let mut stream = TcpStream::connect(served.address).unwrap();
    stream.set_read_timeout(Some(DEADLINE / 3)).unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut answer = [0; 15];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    stream.write_all(b"GET /livez").unwrap();
    stream.read_to_end(&mut Vec::new()).expect("the host ends the connection");

    let headers = [("authorization", ACME)];
    let mut body = Pending::open(served.address, "POST", "/events", &headers, 100);
    body.more(b"{");
    body.answer().with_status(408);
    let ready = client::send(served.address, "GET", "/healthz", &[], b"");
    assert_eq!(ready.status, 200);
}
