//! Decides how the receivers of these tests behave, and how requests are sent to them.
//!
//! Leaves to others: what is expected. Invariant: a receiver answers as its script says, tells of each
//! request before it answers it, and ends with its test.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver as Inbox, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use wabahook::clock::System;
use wabahook::{Failure, Http, Network, Reply, Request, Transport};

/// What is seen later than this never comes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// What a receiver does with a request.
#[derive(Clone)]
pub(crate) enum Answer {
    /// Sends these bytes and waits for the next request.
    Say(Vec<u8>),
    /// Sends these bytes and closes the connection.
    SayAndClose(Vec<u8>),
    /// Sends these bytes and breaks the connection.
    SayAndReset(Vec<u8>),
    /// Sends these bytes and then nothing, until the other side closes.
    SayAndHang(Vec<u8>),
    /// Sends the first bytes, then one of the others after each pause.
    Drip(Vec<u8>, Vec<u8>, Duration),
    /// Sends these bytes, then so many more, or as many as the other side takes.
    Flood(Vec<u8>, u64),
}

pub(crate) fn say(text: &str) -> Answer {
    Answer::Say(text.as_bytes().to_vec())
}

pub(crate) fn close() -> Answer {
    Answer::SayAndClose(Vec::new())
}

pub(crate) fn hang() -> Answer {
    Answer::SayAndHang(Vec::new())
}

pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A request as it came: over which connection, counted from 0, and its exact bytes.
pub(crate) struct Seen {
    pub(crate) connection: usize,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

type Script = dyn Fn(usize) -> Answer + Send + Sync;

/// A stream as it was accepted, ready for bytes of HTTP; nothing where that failed.
type Accepted = dyn Fn(TcpStream) -> Option<Box<dyn Duplex>> + Send + Sync;

/// Both directions of a connection.
pub(crate) trait Duplex: Read + Write + Send {
    /// The socket below.
    fn socket(&self) -> &TcpStream;
}

impl Duplex for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

/// An HTTP receiver on loopback that answers its n-th request, from 0, as its script says.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    seen: Inbox<Seen>,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    accepted: Box<Accepted>,
    script: Box<Script>,
    tell: Mutex<Sender<Seen>>,
    requests: AtomicUsize,
    /// Taken by the next connection, which waits so long before it reads.
    pause: Mutex<Option<Duration>>,
    /// Bytes that a flood has got rid of.
    flooded: AtomicUsize,
    stopping: AtomicBool,
    /// Dropped when the receiver stops, so that a drip ends.
    stop: Mutex<Option<Sender<()>>>,
    stopped: Mutex<Inbox<()>>,
}

impl Receiver {
    pub(crate) fn start(script: impl Fn(usize) -> Answer + Send + Sync + 'static) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Receiver::over(listener, |stream| Some(Box::new(stream)), script)
    }

    /// One on this listener, whose connections are first made ready.
    pub(crate) fn over(
        listener: TcpListener,
        accepted: impl Fn(TcpStream) -> Option<Box<dyn Duplex>> + Send + Sync + 'static,
        script: impl Fn(usize) -> Answer + Send + Sync + 'static,
    ) -> Receiver {
        let address = listener.local_addr().unwrap();
        let ((tell, seen), (stop, stopped)) = (channel(), channel());
        let shared = Arc::new(Shared {
            accepted: Box::new(accepted),
            script: Box::new(script),
            tell: Mutex::new(tell),
            requests: AtomicUsize::new(0),
            pause: Mutex::new(None),
            flooded: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            stop: Mutex::new(Some(stop)),
            stopped: Mutex::new(stopped),
        });
        let of_thread = Arc::clone(&shared);
        let accepting = Some(thread::spawn(move || accept(&listener, &of_thread)));
        Receiver { address, seen, shared, accepting }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook?a=b", self.address)
    }

    pub(crate) fn next(&self) -> Seen {
        self.seen.recv_timeout(DEADLINE).expect("a request within the deadline")
    }

    /// Whether no request came that was not looked at.
    pub(crate) fn saw_nothing(&self) -> bool {
        self.seen.try_recv().is_err()
    }

    /// Lets the next connection wait for a while before anything is read from it.
    pub(crate) fn pause_once(&self, pause: Duration) {
        *self.shared.pause.lock().unwrap() = Some(pause);
    }

    pub(crate) fn flooded(&self) -> usize {
        self.shared.flooded.load(Ordering::SeqCst)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        drop(self.shared.stop.lock().unwrap().take());
        let _ = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for (connection, stream) in listener.incoming().enumerate() {
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            let stream = stream.unwrap();
            stream.set_nodelay(true).unwrap();
            if let Some(stream) = (shared.accepted)(stream) {
                let pause = shared.pause.lock().unwrap().take();
                if let Some(pause) = pause {
                    let _ = shared.stopped.lock().unwrap().recv_timeout(pause);
                }
                serve(stream, connection, &shared);
            }
        });
    }
}

fn serve(stream: Box<dyn Duplex>, connection: usize, shared: &Shared) {
    let mut reader = BufReader::new(stream);
    while let Some((head, body)) = read_request(&mut reader) {
        let answer = (shared.script)(shared.requests.fetch_add(1, Ordering::SeqCst));
        let _ = shared.tell.lock().unwrap().send(Seen { connection, head, body });
        let stream = reader.get_mut();
        match answer {
            Answer::Say(bytes) => {
                let _ = put(stream, &bytes);
            }
            Answer::SayAndClose(bytes) => {
                let _ = put(stream, &bytes);
                let _ = stream.socket().shutdown(Shutdown::Both);
                return;
            }
            Answer::SayAndReset(bytes) => {
                let _ = put(stream, &bytes);
                let at_once = Some(Duration::ZERO);
                rustix::net::sockopt::set_socket_linger(stream.socket(), at_once).unwrap();
                return;
            }
            Answer::SayAndHang(bytes) => {
                let _ = put(stream, &bytes);
                let _ = reader.read_to_end(&mut Vec::new());
                return;
            }
            Answer::Drip(first, drops, pause) => {
                let _ = put(stream, &first);
                if drip(stream, &drops, pause, &shared.stopped.lock().unwrap()).is_none() {
                    return;
                }
            }
            Answer::Flood(first, bytes) => {
                let _ = put(stream, &first);
                flood(stream, bytes, &shared.flooded);
                return;
            }
        }
    }
}

fn put(stream: &mut Box<dyn Duplex>, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes)?;
    stream.flush()
}

fn drip(
    stream: &mut Box<dyn Duplex>,
    drops: &[u8],
    pause: Duration,
    stopped: &Inbox<()>,
) -> Option<()> {
    for drop in drops {
        if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
            return None;
        }
        put(stream, &[*drop]).ok()?;
    }
    Some(())
}

fn flood(stream: &mut Box<dyn Duplex>, bytes: u64, flooded: &AtomicUsize) {
    let piece = [b'x'; 64 * 1024];
    for _ in 0..bytes / piece.len() as u64 {
        match stream.write(&piece) {
            Ok(taken) => flooded.fetch_add(taken, Ordering::SeqCst),
            Err(_) => return,
        };
    }
}

fn read_request(stream: &mut impl BufRead) -> Option<(String, Vec<u8>)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        (stream.read_line(&mut head).ok()? > 0).then_some(())?;
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).ok()?;
    Some((head, body))
}

pub(crate) fn network(allow: &[&str]) -> Network {
    let allow = allow.iter().map(|range| range.parse().unwrap()).collect();
    Network { allow, allow_http: true, ..Network::default() }
}

pub(crate) fn http(network: Network) -> Http {
    Http::new(network, 16, Arc::new(System::new())).unwrap()
}

/// A client that may reach the receivers of these tests.
pub(crate) fn client() -> Http {
    http(network(&["127.0.0.0/8", "::1/128"]))
}

/// Wed, 21 Oct 2015 07:28:00 GMT.
pub(crate) const WALL_MS: u64 = 1_445_412_480_000;

pub(crate) fn request<'a>(url: &str, body: &'a [u8], timeout_ms: u64) -> Request<'a> {
    let header = |name, value| (HeaderName::from_static(name), HeaderValue::from_static(value));
    Request {
        method: Method::POST,
        url: url.parse().unwrap(),
        headers: vec![
            header("content-type", "application/json"),
            header("x-tenant", "acme"),
            header("webhook-id", "evt_1"),
        ],
        body: body.into(),
        tls: None,
        timeout_ms,
        wall_ms: WALL_MS,
    }
}

pub(crate) fn send(client: &Http, url: &str) -> Reply {
    client.send(&request(url, b"{}", 10_000))
}

/// Sends on another thread, so that the test's own deadline holds whatever the client does.
pub(crate) fn send_aside(client: &Arc<Http>, url: String, timeout_ms: u64) -> Inbox<Reply> {
    let (tell, reply) = channel();
    let client = Arc::clone(client);
    thread::spawn(move || tell.send(client.send(&request(&url, b"{}", timeout_ms))));
    reply
}

pub(crate) fn status(status: u16) -> Reply {
    Reply::status(status)
}

pub(crate) fn failed(failure: Failure) -> Reply {
    Reply::Failed(failure)
}
