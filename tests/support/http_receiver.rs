//! An HTTP receiver on loopback over real sockets. Its answers are bytes, and it can also close, reset,
//! hang, drip or flood. It reports each request before it answers it, and ends with its test.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver as Inbox, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::DEADLINE;

/// What a receiver does with a request.
#[derive(Clone)]
pub enum Act {
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

pub fn say(text: &str) -> Act {
    Act::Say(text.as_bytes().to_vec())
}

pub fn close() -> Act {
    Act::SayAndClose(Vec::new())
}

pub fn hang() -> Act {
    Act::SayAndHang(Vec::new())
}

pub const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A request as it arrived: on which connection, counted from 0, and its exact bytes.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub connection: usize,
    pub method: String,
    pub path: String,
    pub head: String,
    pub body: Vec<u8>,
}

impl Attempt {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.lines().filter_map(|line| line.split_once(':'));
        let header = headers.find(|(known, _)| known.eq_ignore_ascii_case(name));
        header.map(|(_, value)| value.trim())
    }

    pub fn id(&self) -> &str {
        self.header("webhook-id").unwrap()
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

type Script = dyn Fn(usize) -> Act + Send + Sync;

/// An accepted stream, ready for bytes of HTTP. `None` if that failed.
type Accepted = dyn Fn(TcpStream) -> Option<Box<dyn Duplex>> + Send + Sync;

/// Both directions of a connection.
pub trait Duplex: Read + Write + Send {
    /// The socket below.
    fn socket(&self) -> &TcpStream;
}

impl Duplex for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

/// An HTTP receiver that answers its n-th request, from 0, as its script says.
pub struct Receiver {
    pub address: SocketAddr,
    attempts: Inbox<Attempt>,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    accepted: Box<Accepted>,
    script: Box<Script>,
    tell: Mutex<Sender<Attempt>>,
    requests: AtomicUsize,
    /// How long the next connection waits before it reads.
    pause: Mutex<Option<Duration>>,
    /// Bytes that a flood has written.
    flooded: AtomicUsize,
    stopping: AtomicBool,
    /// Dropped when the receiver stops, so that a drip ends.
    stop: Mutex<Option<Sender<()>>>,
    stopped: Mutex<Inbox<()>>,
}

impl Receiver {
    pub fn start(script: impl Fn(usize) -> Act + Send + Sync + 'static) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Receiver::over(listener, |stream| Some(Box::new(stream)), script)
    }

    /// A receiver on this listener. `accepted` prepares each connection, for example for TLS.
    pub fn over(
        listener: TcpListener,
        accepted: impl Fn(TcpStream) -> Option<Box<dyn Duplex>> + Send + Sync + 'static,
        script: impl Fn(usize) -> Act + Send + Sync + 'static,
    ) -> Receiver {
        let address = listener.local_addr().unwrap();
        let ((tell, attempts), (stop, stopped)) = (channel(), channel());
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
        Receiver { address, attempts, shared, accepting }
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook?a=b", self.address)
    }

    pub fn next(&self) -> Attempt {
        self.attempts.recv_timeout(DEADLINE).expect("a request within the deadline")
    }

    /// All requests that arrived and were not taken yet.
    pub fn arrived(&self) -> Vec<Attempt> {
        self.attempts.try_iter().collect()
    }

    /// Whether no other request arrived.
    pub fn saw_nothing(&self) -> bool {
        self.attempts.try_recv().is_err()
    }

    /// Makes the next connection wait before it reads.
    pub fn pause_once(&self, pause: Duration) {
        *self.shared.pause.lock().unwrap() = Some(pause);
    }

    pub fn flooded(&self) -> usize {
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
    while let Some(attempt) = read_attempt(&mut reader, connection) {
        let _ = shared.tell.lock().unwrap().send(attempt);
        let answer = (shared.script)(shared.requests.fetch_add(1, Ordering::SeqCst));
        let stream = reader.get_mut();
        match answer {
            Act::Say(bytes) => {
                let _ = put(stream, &bytes);
            }
            Act::SayAndClose(bytes) => {
                let _ = put(stream, &bytes);
                let _ = stream.socket().shutdown(Shutdown::Both);
                return;
            }
            Act::SayAndReset(bytes) => {
                let _ = put(stream, &bytes);
                let at_once = Some(Duration::ZERO);
                rustix::net::sockopt::set_socket_linger(stream.socket(), at_once).unwrap();
                return;
            }
            Act::SayAndHang(bytes) => {
                let _ = put(stream, &bytes);
                let _ = reader.read_to_end(&mut Vec::new());
                return;
            }
            Act::Drip(first, drops, pause) => {
                let _ = put(stream, &first);
                if drip(stream, &drops, pause, &shared.stopped.lock().unwrap()).is_none() {
                    return;
                }
            }
            Act::Flood(first, bytes) => {
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

/// The next request of a connection; `None` where its peer closed it.
fn read_attempt(stream: &mut impl BufRead, connection: usize) -> Option<Attempt> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        (stream.read_line(&mut head).ok()? > 0).then_some(())?;
    }
    let mut words = head.split(' ').map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut attempt = Attempt { connection, method, path, head, body: Vec::new() };
    let length = attempt.header("content-length").map_or(0, |length| length.parse().unwrap());
    attempt.body.resize(length, 0);
    stream.read_exact(&mut attempt.body).ok()?;
    Some(attempt)
}
