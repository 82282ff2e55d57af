//! Decides what an attempt costs: signed requests through our transport beside the same bytes over
//! plain sockets, to one endpoint, to a thousand, and under TLS.
//!
//! Leaves to others: everything before and after an attempt (`outbox`, `isolation`). Invariants: the
//! receiver is a process of its own; what is compared takes turns in slices of one run, over
//! connections that were made before, and every answer is read whole.
//!
//! `cargo bench --bench delivery -- --runs 9 --ms 500 --threads 16`; `--only endpoints` runs that
//! alone.

mod bed;

use std::borrow::Cow;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bed::remote::{self, Remote};
use bed::{Outcome, median};
use http::{HeaderName, HeaderValue, Method};
use parking_lot::Mutex;
use wabahook::clock::System;
use wabahook::signature::Signer;
use wabahook::{Http, Network, Reply, Request, Roots, Secret, Transport};

const BODY_BYTES: usize = 1024;
const ENDPOINTS: usize = 1_000;
const TIMEOUT_MS: u64 = 15_000;

fn main() -> Outcome {
    if bed::text(remote::OPTION).is_some() {
        bed::raise_file_limit()?;
        return remote::receive();
    }
    bed::raise_file_limit()?;
    let only = bed::text("only").unwrap_or_default();
    let remote = Remote::start()?;
    let one = Endpoints::new(&[remote.plain(0)])?;
    let many: Vec<_> = (0..ENDPOINTS).map(|n| remote.plain(n)).collect();
    let many = Endpoints::new(&many)?;
    let many_tls = Endpoints::new(&remote.tls())?;
    let tls = Endpoints::new(remote.tls().get(..1).ok_or("no endpoint under TLS")?)?;
    // First, while nothing that was freed could be used again.
    if "idle".contains(&only) {
        idle_memory(&remote, "idle_connection", &many)?;
        idle_memory(&remote, "idle_connection_tls", &many_tls)?;
    }
    let raw = Raw::new(&remote, &one)?;
    let (plain, apart) = (client(&remote)?, client(&remote)?);
    let ours = |endpoints| Side::Ours(&plain, endpoints);
    let thousand = Side::Ours(&apart, &many);
    for (what, figure, limit_is, limit) in [
        ("signed", ours(&one), "raw_keepalive", Side::Raw(&raw)),
        ("endpoints_1000", thousand, "one_endpoint", ours(&one)),
        ("tls", ours(&tls), "plain", ours(&one)),
    ] {
        if what.contains(&only) {
            compare(what, &figure, limit_is, &limit)?;
        }
    }
    Ok(())
}

/// What is measured.
enum Side<'a> {
    Ours(&'a Http, &'a Endpoints),
    Raw(&'a Raw),
}

impl Side<'_> {
    /// One request, by the thread of this number.
    fn send(&self, thread: usize, turn: u64) -> Outcome {
        match self {
            Side::Ours(http, endpoints) => endpoints.send(http, turn),
            Side::Raw(raw) => raw.send(thread),
        }
    }
}

/// What comes of one slice: requests a second, and CPU of this process for each, in microseconds.
struct Slice {
    rate: f64,
    cpu_us: f64,
}

fn compare(what: &str, figure: &Side<'_>, limit_is: &str, limit: &Side<'_>) -> Outcome {
    let runs: usize = bed::option("runs", 9);
    let span = Duration::from_millis(bed::option("ms", 500));
    println!("\n{what} beside {limit_is}, {runs} runs of {span:?} each");
    let (mut figures, mut limits, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    slice(figure, span)?;
    slice(limit, span)?;
    for run in 0..runs {
        // Each goes first in every other run.
        let (ours, other) = if run % 2 == 0 {
            let ours = slice(figure, span)?;
            (ours, slice(limit, span)?)
        } else {
            let other = slice(limit, span)?;
            (slice(figure, span)?, other)
        };
        println!(
            "  run {run}: {:.0}/s at {:.1} us, {limit_is} {:.0}/s at {:.1} us",
            ours.rate, ours.cpu_us, other.rate, other.cpu_us
        );
        ratios.push(ours.rate / other.rate);
        figures.push(ours);
        limits.push(other);
    }
    let cpu = |slices: &[Slice]| median(slices.iter().map(|slice| slice.cpu_us).collect());
    let rate = |slices: &[Slice]| median(slices.iter().map(|slice| slice.rate).collect());
    println!("  CPU a request: {:.1} us beside {:.1}", cpu(&figures), cpu(&limits));
    let limit = (rate(&limits), limit_is);
    bed::result("delivery", what, rate(&figures), "deliveries/s", limit, median(ratios));
    Ok(())
}

fn slice(side: &Side<'_>, span: Duration) -> Outcome<Slice> {
    let threads: usize = bed::option("threads", 16);
    let turns = AtomicU64::new(0);
    let (cpu, started) = (bed::cpu_time(), Instant::now());
    thread::scope(|scope| {
        let each = (0..threads).map(|thread| {
            let turns = &turns;
            scope.spawn(move || -> Outcome {
                while started.elapsed() < span {
                    side.send(thread, turns.fetch_add(1, Ordering::Relaxed))?;
                }
                Ok(())
            })
        });
        let each: Vec<_> = each.collect();
        each.into_iter().try_for_each(|one| one.join().map_err(|_| "a thread panicked")?)
    })?;
    let sent = turns.into_inner() as f64;
    let cpu_us = (bed::cpu_time() - cpu).as_secs_f64() * 1e6 / sent;
    Ok(Slice { rate: sent / started.elapsed().as_secs_f64(), cpu_us })
}

fn client(remote: &Remote) -> Outcome<Http> {
    let network = Network {
        allow: vec!["127.0.0.0/8".parse()?, "::1/128".parse()?],
        allow_http: true,
        roots: Roots::Given(remote.roots.clone()),
    };
    Ok(Http::new(network, 16, Arc::new(System::new()))?)
}

/// Where requests go to, in turns, and what they are.
struct Endpoints {
    urls: Vec<http::Uri>,
    headers: Vec<(HeaderName, HeaderValue)>,
    signer: Signer,
    body: Vec<u8>,
}

impl Endpoints {
    fn new(urls: &[String]) -> Outcome<Endpoints> {
        let header = |name, value| (HeaderName::from_static(name), HeaderValue::from_static(value));
        Ok(Endpoints {
            urls: urls.iter().map(|url| url.parse()).collect::<Result<_, _>>()?,
            headers: vec![
                header("content-type", "application/json"),
                header("x-webhook-event", "MESSAGE_RECEIVED"),
                header("x-webhook-number", "919999999999"),
                header("x-webhook-attempt", "1"),
            ],
            signer: Signer::new(&Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"))?,
            body: vec![b'x'; BODY_BYTES],
        })
    }

    /// As a subscription's requests are made: the headers that never change, then the signed ones.
    fn request(&self, turn: u64) -> Outcome<Request<'_>> {
        let id = format!("evt_{turn:032x}");
        let timestamp_s = 1_700_000_000;
        let signed = [
            ("webhook-id", id.clone()),
            ("webhook-timestamp", timestamp_s.to_string()),
            ("webhook-signature", self.signer.standard(&id, timestamp_s, &self.body)),
            ("x-hub-signature-256", self.signer.hub(&self.body)),
        ];
        let mut headers = Vec::with_capacity(self.headers.len() + signed.len());
        headers.extend_from_slice(&self.headers);
        for (name, value) in signed {
            headers.push((HeaderName::from_static(name), HeaderValue::try_from(value)?));
        }
        let place = usize::try_from(turn)? % self.urls.len();
        Ok(Request {
            method: Method::POST,
            url: self.urls.get(place).ok_or("no URL")?.clone(),
            headers,
            body: Cow::Borrowed(&self.body),
            timeout_ms: TIMEOUT_MS,
            tls: None,
            wall_ms: timestamp_s * 1_000,
        })
    }

    fn send(&self, http: &Http, turn: u64) -> Outcome {
        match http.send(&self.request(turn)?) {
            Reply::Answered(answer) if answer.status == 200 => Ok(()),
            reply => Err(format!("{reply:?}").into()),
        }
    }
}

/// Plain sockets that carry the bytes that our transport sends, made once.
struct Raw {
    streams: Vec<Mutex<TcpStream>>,
    bytes: Vec<u8>,
}

impl Raw {
    fn new(remote: &Remote, endpoints: &Endpoints) -> Outcome<Raw> {
        let threads: usize = bed::option("threads", 16);
        let streams = (0..threads).map(|_| remote.connect().map(Mutex::new));
        let request = endpoints.request(0)?;
        let mut head = format!("POST {} HTTP/1.1\r\n", request.url.path());
        let authority = request.url.authority().map(|authority| authority.as_str().to_owned());
        head += &format!("host: {}\r\n", authority.unwrap_or_default());
        for (name, value) in &request.headers {
            head += &format!("{name}: {}\r\n", value.to_str()?);
        }
        head += &format!("content-length: {BODY_BYTES}\r\nuser-agent: wabahook/0.1.0\r\n\r\n");
        let bytes = [head.as_bytes(), &request.body].concat();
        Ok(Raw { streams: streams.collect::<Result<_, _>>()?, bytes })
    }

    fn send(&self, thread: usize) -> Outcome {
        let mut stream = self.streams.get(thread).ok_or("no stream")?.lock();
        stream.write_all(&self.bytes)?;
        let (mut chunk, mut read) = ([0_u8; 1024], 0);
        while read < remote::ANSWER.len() {
            match stream.read(&mut chunk)? {
                0 => return Err("the receiver closed the connection".into()),
                bytes => read += bytes,
            }
        }
        Ok(())
    }
}

/// What one idle connection keeps, in KiB of resident memory: every endpoint is sent to once.
fn idle_memory(remote: &Remote, what: &str, endpoints: &Endpoints) -> Outcome {
    const AIM_KIB: f64 = 40.0;
    // Whatever is made once, such as the room of this thread, is made before.
    endpoints.send(&client(remote)?, 0)?;
    let http = client(remote)?;
    let before_mb = bed::status_mb("VmRSS:");
    let connections = endpoints.urls.len() as u64;
    (0..connections).try_for_each(|turn| endpoints.send(&http, turn))?;
    let kib = (bed::status_mb("VmRSS:") - before_mb) * 1e6 / 1024.0 / connections as f64;
    println!("\n{what}: {kib:.1} KiB for each of {connections}");
    bed::result("delivery", what, kib, "KiB", (AIM_KIB, "aim"), kib / AIM_KIB);
    Ok(())
}
