//! The loop with a scripted source and real sockets.

mod connecting;

use super::event_loop::{BEHIND_MAX, EVENTS_MAX};
use crossbeam_channel::bounded;

use super::*;
use crate::attempt::AttemptEnd;
use crate::clock::{ManualClock, SystemClock};
use crate::delivery::attempt_source::{
    AttemptToken, Demand, EXCHANGE_MAX, EndedAttempt, NextAttempt, Shortage,
};
use crate::network::{Network, Roots};
use crate::transport::Request;
use crate::transport::Response;
use parking_lot::Condvar;
use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// A test that waits for longer than this fails.
const DEADLINE: Duration = Duration::from_secs(20);

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// Attempts that are handed out, and their results.
#[derive(Default)]
struct AttemptScript {
    state: Mutex<AttemptScriptState>,
    changed: Condvar,
}

#[derive(Default)]
struct AttemptScriptState {
    next: VecDeque<NextAttempt>,
    ended: BTreeMap<u64, AttemptEnd>,
    wake: Option<WakeLoop>,
    is_idle: bool,
    is_over: bool,
    panics: bool,
    detached: Option<bool>,
    largest: usize,
    /// How many attempts were wanted at each exchange that brought ends.
    wanted: Vec<usize>,
    /// What happens while the loop takes the next attempts.
    on_exchange: Option<Box<dyn FnOnce() + Send>>,
}

impl AttemptScript {
    fn give(&self, token: u64, url: &str, timeout_ms: u64) {
        let mut state = self.state.lock();
        let token = AttemptToken(token);
        state.next.push_back(NextAttempt { token, request: outgoing(url, timeout_ms), account: 0 });
        AttemptScript::wake(&mut state);
    }

    fn wake(state: &mut AttemptScriptState) {
        if std::mem::take(&mut state.is_idle)
            && let Some(wake) = &state.wake
        {
            wake();
        }
    }

    fn finish(&self) -> bool {
        let mut state = self.state.lock();
        state.is_over = true;
        AttemptScript::wake(&mut state);
        self.wait_for(state, |state| state.detached)
    }

    fn end(&self, token: u64) -> AttemptEnd {
        let state = self.state.lock();
        self.wait_for(state, |state| state.ended.get(&token).cloned())
    }

    fn wait_for<T>(
        &self,
        mut state: parking_lot::MutexGuard<'_, AttemptScriptState>,
        found: impl Fn(&AttemptScriptState) -> Option<T>,
    ) -> T {
        loop {
            if let Some(found) = found(&state) {
                return found;
            }
            assert!(!self.changed.wait_for(&mut state, DEADLINE).timed_out(), "nothing came");
        }
    }
}

impl AttemptSource for AttemptScript {
    fn attach(&self, from: LoopId, wake: WakeLoop) {
        assert_eq!(from, LoopId(0));
        self.state.lock().wake = Some(wake);
    }

    fn exchange(
        &self,
        _from: LoopId,
        ended: &mut Vec<EndedAttempt>,
        room: usize,
        next: &mut Vec<NextAttempt>,
    ) -> Demand {
        let mut state = self.state.lock();
        assert!(!state.panics, "a bug of the engine");
        assert!(next.is_empty() && room <= EXCHANGE_MAX);
        state.largest = state.largest.max(ended.len());
        if !ended.is_empty() {
            state.wanted.push(room);
        }
        for EndedAttempt { token, end } in ended.drain(..) {
            assert_eq!(state.ended.insert(token.0, end), None, "{token:?} came back twice");
        }
        let given = room.min(state.next.len());
        if given > 0
            && let Some(on_exchange) = state.on_exchange.take()
        {
            on_exchange();
        }
        next.extend(state.next.drain(..given));
        state.is_idle = next.len() < room;
        self.changed.notify_all();
        if state.is_over { Demand::Over } else { Demand::Open }
    }

    fn detach(&self, _from: LoopId, has_panicked: bool) {
        self.state.lock().detached = Some(has_panicked);
        self.changed.notify_all();
    }
}

fn outgoing(url: &str, timeout_ms: u64) -> OutgoingRequest {
    let mut request = Request::new(::http::Method::POST, url.parse().unwrap(), &b"{}"[..]);
    request.timeout = Duration::from_millis(timeout_ms);
    OutgoingRequest::new(&request, None, None).unwrap()
}

const LIMITS: LoopLimits =
    LoopLimits { idle_per_host_max: 16, idle_max: 64, in_flight_max: 0, host_in_flight_max: 100 };

fn shared(
    clock: Arc<dyn Clock>,
    ask: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static,
) -> Arc<LoopShared> {
    let allow = vec!["127.0.0.0/8".parse().unwrap()];
    let network = Network::default().allow(allow).allow_http(true);
    Arc::new(LoopShared {
        guard: Arc::new(Guard::new(network)),
        lookups: LookupThreads::asking(Box::new(ask), Arc::clone(&clock)),
        identities: Identities::new(Roots::Bundled),
        clock,
        is_interrupted: AtomicBool::new(false),
    })
}

/// A loop that takes attempts from a script.
fn bed(
    limits: LoopLimits,
    clock: Arc<dyn Clock>,
    ask: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static,
) -> (IoLoops, Arc<AttemptScript>) {
    let loops = IoLoops::new(shared(clock, ask), limits);
    let script = Arc::new(AttemptScript::default());
    let source: Arc<dyn AttemptSource> = Arc::clone(&script) as _;
    loops.serve(&source).unwrap();
    (loops, script)
}

fn no_names(_: &str) -> io::Result<Vec<IpAddr>> {
    Ok(Vec::new())
}

/// Answers every request of every connection with 200.
fn answering(listener: TcpListener) -> SocketAddr {
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut bytes = [0; 4_096];
                while stream.read(&mut bytes).is_ok_and(|read| read > 0) {
                    let _ = stream.write_all(OK);
                }
            });
        }
    });
    address
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn answered() -> AttemptEnd {
    AttemptEnd::Reply(Reply::Response(Response::new(200)))
}

fn failed(failure: Failure) -> AttemptEnd {
    AttemptEnd::Reply(Reply::Failed(failure))
}

#[test]
fn every_attempt_comes_back_once_and_the_loop_ends() {
    let (_loops, script) = bed(LIMITS, Arc::new(SystemClock::new()), no_names);
    let url = format!("http://{}/", answering(listener()));
    for token in 0..1_000 {
        script.give(token, &url, 10_000);
    }
    for token in 0..1_000 {
        assert_eq!(script.end(token), answered(), "{token}");
    }
    assert!(!script.finish());
    assert!(script.state.lock().largest <= EXCHANGE_MAX);
}

#[test]
fn a_sleeping_loop_is_woken_for_an_attempt() {
    let (_loops, script) = bed(LIMITS, Arc::new(SystemClock::new()), no_names);
    let url = format!("http://{}/", answering(listener()));
    for token in 0..20 {
        script.wait_for(script.state.lock(), |state| state.is_idle.then_some(()));
        script.give(token, &url, 10_000);
        assert_eq!(script.end(token), answered());
    }
}

#[test]
fn a_panic_of_the_source_ends_the_thread_and_is_told() {
    let (_loops, script) = bed(LIMITS, Arc::new(SystemClock::new()), no_names);
    script.state.lock().panics = true;
    script.give(1, "http://127.0.0.1:9/", 10_000);
    let state = script.state.lock();
    if let Some(wake) = &state.wake {
        wake();
    }
    assert!(script.wait_for(state, |state| state.detached));
}

#[test]
fn a_panic_ends_its_attempt_uncounted_and_no_other() {
    let (_loops, script) = bed(LIMITS, Arc::new(SystemClock::new()), no_names);
    let url = format!("http://{}/", answering(listener()));
    for token in 0..20 {
        script.give(token, if token % 2 == 0 { &url } else { "http://panics.test/" }, 10_000);
    }
    for token in 0..20 {
        let panicked = AttemptEnd::Uncounted(Shortage::Panic);
        assert_eq!(script.end(token), if token % 2 == 0 { answered() } else { panicked });
    }
    assert!(!script.finish());
}

#[test]
fn a_wait_for_a_busy_host_is_uncounted() {
    let clock = Arc::new(ManualClock::new(0, 1));
    let limits = LoopLimits { host_in_flight_max: 2, ..LIMITS };
    let (_loops, script) = bed(limits, Arc::clone(&clock) as _, no_names);
    let hanging = listener();
    let url = format!("http://{}/", hanging.local_addr().unwrap());
    let other = format!("http://{}/", answering(listener()));
    for (token, timeout_ms) in [(0, 1_000), (1, 1_000), (2, 500), (3, 500)] {
        script.give(token, &url, timeout_ms);
    }
    script.give(9, &other, 1_000);
    assert_eq!(script.end(9), answered());
    let taken: Vec<TcpStream> = (0..2).map(|_| hanging.accept().unwrap().0).collect();
    hanging.set_nonblocking(true).unwrap();
    assert!(hanging.accept().is_err());
    for (span_ms, tokens, expected) in [
        (500, [2, 3], AttemptEnd::Uncounted(Shortage::HostConnections)),
        (500, [0, 1], failed(Failure::Timeout)),
    ] {
        clock.advance(Duration::from_millis(span_ms));
        for token in tokens {
            assert_eq!(script.end(token), expected, "{token}");
        }
    }
    drop(taken);
}

#[test]
fn the_time_of_an_attempt_counts_from_when_it_is_taken() {
    let clock = Arc::new(ManualClock::new(0, 1));
    let (loops, script) = bed(LIMITS, Arc::clone(&clock) as _, no_names);
    let url = format!("http://{}/", answering(listener()));
    // The process is stopped for a minute while the loop is in the middle of a turn.
    script.state.lock().on_exchange =
        Some(Box::new(move || clock.advance(Duration::from_secs(60))));
    script.give(1, &url, 1_000);
    assert_eq!(script.end(1), answered());
    drop(loops);
}

#[test]
fn few_attempts_begin_while_more_responses_are_ready() {
    let (loops, script) = bed(LIMITS, Arc::new(SystemClock::new()), no_names);
    let (held, count) = (listener(), EVENTS_MAX as u64 + 9);
    let url = format!("http://{}/", held.local_addr().unwrap());
    for token in 0..count {
        script.give(token, &url, 10_000);
    }
    let requested = |_| {
        let mut stream = held.accept().unwrap().0;
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        assert!(stream.read(&mut [0; 4_096]).unwrap() > 0);
        stream
    };
    let streams: Arc<Vec<TcpStream>> = Arc::new((0..count).map(requested).collect());
    // All are answered while the loop is in the middle of a turn.
    let answered_together = Arc::clone(&streams);
    script.state.lock().on_exchange = Some(Box::new(move || {
        answered_together.iter().for_each(|mut stream| stream.write_all(OK).unwrap());
    }));
    script.give(count, &format!("http://{}/", answering(listener())), 10_000);
    for token in 0..=count {
        assert_eq!(script.end(token), answered(), "{token}");
    }
    let wanted = script.state.lock().wanted.clone();
    assert_eq!(wanted.first(), Some(&BEHIND_MAX), "the rest of them comes first: {wanted:?}");
    assert!(wanted.last().is_some_and(|room| *room > BEHIND_MAX), "and attempts after them");
    drop((loops, streams));
}

#[test]
fn attempts_begin_while_many_responses_trickle() {
    const BYTES: usize = 10_000;
    let (_loops, script) = bed(LIMITS, Arc::new(SystemClock::new()), no_names);
    let (held, count) = (listener(), 80);
    let url = format!("http://{}/", held.local_addr().unwrap());
    for token in 0..count {
        script.give(token, &url, 60_000);
    }
    let begin = |_| {
        let mut stream = held.accept().unwrap().0;
        stream.set_nodelay(true).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nx: ").unwrap();
        stream
    };
    let streams: Vec<TcpStream> = (0..count).map(begin).collect();
    let (has_begun, begun) = bounded(4);
    std::thread::scope(|scope| {
        let trickling: Vec<_> = streams
            .chunks(20)
            .map(|own| {
                let has_begun = has_begun.clone();
                scope.spawn(move || {
                    for byte in 0..BYTES {
                        own.iter().for_each(|mut stream| stream.write_all(b"x").unwrap());
                        if byte == 100 {
                            has_begun.send(()).unwrap();
                        }
                    }
                })
            })
            .collect();
        (0..4).for_each(|_| begun.recv_timeout(DEADLINE).unwrap());
        script.give(count, &format!("http://{}/", answering(listener())), 60_000);
        assert_eq!(script.end(count), answered());
        assert!(trickling.iter().any(|one| !one.is_finished()), "it waited until they paused");
    });
}

#[test]
fn one_turn_passes_on_to_the_next_attempt() {
    let limits = LoopLimits { host_in_flight_max: 1, ..LIMITS };
    let (_loops, script) = bed(limits, Arc::new(SystemClock::new()), no_names);
    let url = format!("http://{}/", answering(listener()));
    for token in 0..100 {
        script.give(token, &url, 10_000);
    }
    for token in 0..100 {
        assert_eq!(script.end(token), answered(), "{token}");
    }
}

#[test]
fn a_blocking_caller_uses_the_same_loop() {
    let mut loops = IoLoops::new(shared(Arc::new(SystemClock::new()), no_names), LIMITS);
    loops.threads = 3;
    let send = |request: OutgoingRequest| Answer::wait(|answer| loops.begin(request, answer));
    let url = format!("http://{}/", answering(listener()));
    assert_eq!(send(outgoing(&url, 10_000)), Reply::status(200));
    loops.interrupt();
    assert_eq!(send(outgoing(&url, 10_000)), Reply::Failed(Failure::Interrupted));
}
