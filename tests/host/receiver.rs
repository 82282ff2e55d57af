//! A webhook on loopback that records its requests and responds as the test says.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver as Inbox, Sender};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use crate::DEADLINE;

/// One attempt as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Attempt {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let header = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        header.map(|(_, value)| value.as_str())
    }

    pub(crate) fn id(&self) -> &str {
        self.header("webhook-id").unwrap()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// Stands for no response at all, until the sender gives up.
pub(crate) const HANG: u16 = 0;
/// Stands for no response until another status is set.
pub(crate) const HOLD: u16 = 1;

/// The response to attempts.
struct Script {
    status: Mutex<u16>,
    changed: Condvar,
    body: &'static str,
}

impl Script {
    fn status(&self) -> u16 {
        let status = self.status.lock().unwrap();
        *self.changed.wait_timeout_while(status, DEADLINE, |status| *status == HOLD).unwrap().0
    }
}

/// A receiver for any number of paths.
pub(crate) struct Receiver {
    address: SocketAddr,
    script: Arc<Script>,
    stopped: Arc<AtomicBool>,
    inbox: Inbox<Attempt>,
}

impl Receiver {
    /// Responds to everything with this status.
    pub(crate) fn answering(status: u16) -> Receiver {
        Receiver::answering_with(status, "")
    }

    /// Responds to everything with this status and this body.
    pub(crate) fn answering_with(status: u16, body: &'static str) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let status = Mutex::new(status);
        let script = Arc::new(Script { status, changed: Condvar::new(), body });
        let stopped = Arc::new(AtomicBool::new(false));
        let (sender, inbox) = mpsc::channel();
        let (answers, stop) = (Arc::clone(&script), Arc::clone(&stopped));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (script, sender) = (Arc::clone(&answers), sender.clone());
                thread::spawn(move || converse(stream.unwrap(), &script, &sender));
            }
        });
        Receiver { address, script, stopped, inbox }
    }

    /// From now on responds with this status.
    pub(crate) fn answer(&self, status: u16) {
        *self.script.status.lock().unwrap() = status;
        self.script.changed.notify_all();
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The next attempt.
    pub(crate) fn next(&self) -> Attempt {
        self.inbox.recv_timeout(DEADLINE).expect("an attempt should have arrived")
    }

    /// All attempts that arrived and were not taken yet.
    pub(crate) fn arrived(&self) -> Vec<Attempt> {
        self.inbox.try_iter().collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the listening thread, so that it stops.
        let _ = TcpStream::connect(self.address);
    }
}

/// Serves one connection until its peer closes it.
fn converse(stream: TcpStream, script: &Script, sender: &Sender<Attempt>) {
    let Ok(mut writer) = stream.try_clone() else { return };
    let mut reader = BufReader::new(stream);
    while let Some(attempt) = read_attempt(&mut reader) {
        // Recorded before the response: once the host has settled it, it is recorded.
        if sender.send(attempt).is_err() {
            return;
        }
        let status = script.status();
        if status == HANG {
            let _ = reader.read_to_end(&mut Vec::new());
            return;
        }
        let (body, length) = (script.body, script.body.len());
        let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}");
        if writer.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// The next request of a connection; `None` where its peer closed it.
pub(crate) fn read_attempt(reader: &mut impl BufRead) -> Option<Attempt> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut words = line.split(' ').map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut attempt = Attempt { method, path, headers, body: Vec::new() };
    let length = attempt.header("content-length").map_or(0, |length| length.parse().unwrap());
    attempt.body.resize(length, 0);
    reader.read_exact(&mut attempt.body).ok()?;
    Some(attempt)
}
