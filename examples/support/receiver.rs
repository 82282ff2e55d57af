//! The receiver on loopback. It answers 200 at once, or with `--hold` only after the last event was
//! published, which shows that no host waits for a delivery. It remembers every `webhook-id`, as a
//! receiver must to process each event once.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// A webhook receiver on a port of its own, until the process ends.
pub(crate) struct Receiver {
    address: SocketAddr,
    desk: Arc<Desk>,
}

struct Desk {
    book: Mutex<Book>,
    changed: Condvar,
}

#[derive(Default)]
struct Book {
    answers: bool,
    ids: HashSet<String>,
}

impl Receiver {
    pub(crate) fn start() -> io::Result<Receiver> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let answers = !std::env::args().any(|given| given == "--hold");
        let book = Mutex::new(Book { answers, ..Book::default() });
        let desk = Arc::new(Desk { book, changed: Condvar::new() });
        let shared = Arc::clone(&desk);
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let desk = Arc::clone(&shared);
                thread::spawn(move || answer(stream, &desk));
            }
        });
        Ok(Receiver { address, desk })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// Answers from now on, and waits until so many events have arrived. Returns how many did.
    pub(crate) fn collect(&self, events: u64, most: Duration) -> usize {
        let mut book = self.desk.book.lock();
        book.answers = true;
        self.desk.changed.notify_all();
        let few = |book: &mut Book| (book.ids.len() as u64) < events;
        let _ = self.desk.changed.wait_while_for(&mut book, few, most);
        book.ids.len()
    }
}

impl Desk {
    fn take(&self, id: String) {
        let mut book = self.book.lock();
        self.changed.wait_while(&mut book, |book| !book.answers);
        book.ids.insert(id);
        self.changed.notify_all();
    }
}

/// Answers the requests of a connection, which arrive one at a time.
fn answer(mut stream: TcpStream, desk: &Desk) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut read = Vec::new();
    let mut chunk = [0_u8; 16 * 1024];
    loop {
        let length = stream.read(&mut chunk).ok().filter(|length| *length > 0)?;
        read.extend_from_slice(chunk.get(..length)?);
        let Some(id) = id_of_whole(&read) else { continue };
        read.clear();
        desk.take(id);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").ok()?;
    }
}

/// The `webhook-id` of a complete request.
fn id_of_whole(read: &[u8]) -> Option<String> {
    let end = read.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(read.get(..end)?).to_ascii_lowercase();
    let value = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let length: usize = value("content-length:")?.parse().ok()?;
    let is_whole = read.len() >= end + 4 + length;
    value("webhook-id:").filter(|_| is_whole).map(str::to_owned)
}
