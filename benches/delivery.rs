//! What an attempt costs: signed requests through our transport, compared with raw requests of one
//! event-driven thread and of blocking threads, to one endpoint, to a thousand, and under TLS. The
//! receivers are processes of their own. Both sides take turns within one run, over connections that
//! are already open.
//!
//! `cargo bench --bench delivery -- --runs 9 --ms 500 --threads 16`; `--only endpoints` runs that alone.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use http::{HeaderName, HeaderValue, Method};
use parking_lot::Mutex;
use support::raw_requests::EventDriven;
use support::receiver_process::{self, ANSWER, Receivers};
use support::tls_receiver::{self, TlsReceivers};
use support::{Outcome, median};
use wabahook::clock::SystemClock;
use wabahook::signature::Signer;
use wabahook::{Http, Network, Reply, Request, Roots, Secret, Transport};

const BODY_BYTES: usize = 1024;
const ENDPOINTS: usize = 1_000;

fn main() -> Outcome {
    support::raise_file_limit()?;
    if support::has_option("receive") {
        return receiver_process::receive();
    }
    if support::has_option("receive-tls") {
        return tls_receiver::receive();
    }
    let only = support::text("only").unwrap_or_default();
    let (receivers, tls_receivers) = (Receivers::start()?, TlsReceivers::start()?);
    let one = Endpoints::new(&[receivers.prompt(0)])?;
    let many: Vec<_> = (0..ENDPOINTS).map(|n| receivers.prompt(n)).collect();
    let many = Endpoints::new(&many)?;
    let many_tls = Endpoints::new(&tls_receivers.urls())?;
    let tls = Endpoints::new(tls_receivers.urls().get(..1).ok_or("no endpoint under TLS")?)?;
    let roots = &tls_receivers.roots;
    // First, before any freed memory could be reused.
    if "idle".contains(&only) {
        idle_memory(roots, "idle_connection", &many)?;
        idle_memory(roots, "idle_connection_tls", &many_tls)?;
    }
    let blocking = Blocking::connect(receivers.port(), &one)?;
    let raw = Mutex::new(EventDriven::connect(receivers.port())?);
    let (raw, blocking) = (Side::Raw(&raw, &blocking.bytes), Side::Blocking(&blocking));
    let (plain, apart) = (client(roots)?, client(roots)?);
    let ours = |endpoints| Side::Ours(&plain, endpoints);
    let thousand = Side::Ours(&apart, &many);
    for (what, figure, limit_is, limit) in [
        ("signed", &ours(&one), "raw", &raw),
        ("raw_blocking", &blocking, "raw", &raw),
        ("endpoints_1000", &thousand, "one_endpoint", &ours(&one)),
        ("tls", &ours(&tls), "plain", &ours(&one)),
    ] {
        if what.contains(&only) {
            compare(what, figure, limit_is, limit)?;
        }
    }
    Ok(())
}

/// What is measured.
enum Side<'a> {
    Ours(&'a Http, &'a Endpoints),
    /// One event-driven thread that sends these bytes.
    Raw(&'a Mutex<EventDriven>, &'a [u8]),
    /// As many blocking threads as ours.
    Blocking(&'a Blocking),
}

impl Side<'_> {
    /// One request, from the thread with this number.
    fn send(&self, thread: usize, turn: u64) -> Outcome {
        match self {
            Side::Ours(http, endpoints) => endpoints.send(http, turn),
            Side::Blocking(blocking) => blocking.send(thread),
            Side::Raw(..) => Err("it sends by itself".into()),
        }
    }

    /// Requests in `span`.
    fn run(&self, started: Instant, span: Duration) -> Outcome<u64> {
        if let Side::Raw(sender, bytes) = self {
            return Ok(sender.lock().run(bytes, started, span)?.into());
        }
        let threads: usize = support::option("threads", 16);
        let turns = AtomicU64::new(0);
        thread::scope(|scope| {
            let each = (0..threads).map(|thread| {
                let turns = &turns;
                scope.spawn(move || -> Outcome {
                    while started.elapsed() < span {
                        self.send(thread, turns.fetch_add(1, Ordering::Relaxed))?;
                    }
                    Ok(())
                })
            });
            let each: Vec<_> = each.collect();
            each.into_iter().try_for_each(|one| one.join().map_err(|_| "a thread panicked")?)
        })?;
        Ok(turns.into_inner())
    }
}

/// The result of one slice: requests a second, and CPU of this process per request, in microseconds.
struct Slice {
    rate: f64,
    cpu_us: f64,
}

fn compare(what: &str, figure: &Side<'_>, limit_is: &str, limit: &Side<'_>) -> Outcome {
    let runs: usize = support::option("runs", 9);
    let span = Duration::from_millis(support::option("ms", 500));
    println!("\n{what} compared with {limit_is}, {runs} runs of {span:?} each");
    let (mut figures, mut limits, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    slice(figure, span)?;
    slice(limit, span)?;
    for run in 0..runs {
        // They go first alternately.
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
    println!("  CPU a request: {:.1} us, compared with {:.1}", cpu(&figures), cpu(&limits));
    let limit = (rate(&limits), limit_is);
    support::result("delivery", what, rate(&figures), "deliveries/s", limit, median(ratios));
    Ok(())
}

fn slice(side: &Side<'_>, span: Duration) -> Outcome<Slice> {
    let (cpu, started) = (support::cpu_time(), Instant::now());
    let sent = side.run(started, span)? as f64;
    let cpu_us = (support::cpu_time() - cpu).as_secs_f64() * 1e6 / sent;
    Ok(Slice { rate: sent / started.elapsed().as_secs_f64(), cpu_us })
}

fn client(roots: &str) -> Outcome<Http> {
    let network = Network::default()
        .allow(["127.0.0.0/8".parse()?, "::1/128".parse()?])
        .allow_http(true)
        .roots(Roots::Given(roots.to_owned()));
    Ok(Http::new(network, 16, Arc::new(SystemClock::new()))?)
}

/// The URLs of the requests, in turns, and their content.
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

    /// Built like a subscription's request: first the constant headers, then the signed ones.
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
        let url = self.urls.get(place).ok_or("no URL")?.clone();
        let mut request = Request::new(Method::POST, url, &*self.body);
        request.headers = headers;
        request.wall_ms = timestamp_s * 1_000;
        Ok(request)
    }

    fn send(&self, http: &Http, turn: u64) -> Outcome {
        match http.send(&self.request(turn)?) {
            Reply::Response(answer) if answer.status == 200 => Ok(()),
            reply => Err(format!("{reply:?}").into()),
        }
    }
}

/// Blocking sockets and the bytes that our transport sends.
struct Blocking {
    streams: Vec<Mutex<TcpStream>>,
    bytes: Vec<u8>,
}

impl Blocking {
    fn connect(port: u16, endpoints: &Endpoints) -> Outcome<Blocking> {
        let threads: usize = support::option("threads", 16);
        let streams = (0..threads).map(|_| {
            let stream = TcpStream::connect(("127.1.0.1", port))?;
            stream.set_nodelay(true)?;
            Ok(Mutex::new(stream))
        });
        let request = endpoints.request(0)?;
        let mut head = format!("POST {} HTTP/1.1\r\n", request.url.path());
        let authority = request.url.authority().map(|authority| authority.as_str().to_owned());
        head += &format!("host: {}\r\n", authority.unwrap_or_default());
        for (name, value) in &request.headers {
            head += &format!("{name}: {}\r\n", value.to_str()?);
        }
        head += &format!("content-length: {BODY_BYTES}\r\nuser-agent: wabahook/0.1.0\r\n\r\n");
        let bytes = [head.as_bytes(), &request.body].concat();
        Ok(Blocking { streams: streams.collect::<Outcome<_>>()?, bytes })
    }

    fn send(&self, thread: usize) -> Outcome {
        let mut stream = self.streams.get(thread).ok_or("no stream")?.lock();
        stream.write_all(&self.bytes)?;
        let (mut chunk, mut read) = ([0_u8; 1024], 0);
        while read < ANSWER.len() {
            match stream.read(&mut chunk)? {
                0 => return Err("the receiver closed the connection".into()),
                bytes => read += bytes,
            }
        }
        Ok(())
    }
}

/// Resident memory of one idle connection in KiB, after one request to every endpoint.
fn idle_memory(roots: &str, what: &str, endpoints: &Endpoints) -> Outcome {
    const AIM_KIB: f64 = 40.0;
    // What is allocated once, such as the buffers of this thread, is allocated first.
    endpoints.send(&client(roots)?, 0)?;
    let http = client(roots)?;
    let before_mb = support::status_mb("VmRSS:");
    let connections = endpoints.urls.len() as u64;
    (0..connections).try_for_each(|turn| endpoints.send(&http, turn))?;
    let kib = (support::status_mb("VmRSS:") - before_mb) * 1e6 / 1024.0 / connections as f64;
    println!("\n{what}: {kib:.1} KiB for each of {connections}");
    support::result("delivery", what, kib, "KiB", (AIM_KIB, "aim"), kib / AIM_KIB);
    Ok(())
}
