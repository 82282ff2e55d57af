//! A webhook on loopback that records its requests, and responds with a status that the test may change.

use std::sync::{Arc, Condvar, Mutex};

use crate::DEADLINE;
pub(crate) use crate::support::http_receiver::Attempt;
use crate::support::http_receiver::{self as http, hang, say};

/// Stands for no response at all, until the sender gives up.
pub(crate) const HANG: u16 = 0;
/// Stands for no response until another status is set.
pub(crate) const HOLD: u16 = 1;

/// The status of the next response.
struct Script {
    status: Mutex<u16>,
    changed: Condvar,
}

impl Script {
    fn status(&self) -> u16 {
        let status = self.status.lock().unwrap();
        *self.changed.wait_timeout_while(status, DEADLINE, |status| *status == HOLD).unwrap().0
    }
}

/// A receiver for any number of paths.
pub(crate) struct Receiver {
    script: Arc<Script>,
    http: http::Receiver,
}

impl Receiver {
    /// Responds to everything with this status.
    pub(crate) fn answering(status: u16) -> Receiver {
        Receiver::answering_with(status, "")
    }

    /// Responds to everything with this status and this body.
    pub(crate) fn answering_with(status: u16, body: &'static str) -> Receiver {
        let script = Arc::new(Script { status: Mutex::new(status), changed: Condvar::new() });
        let (answers, length) = (Arc::clone(&script), body.len());
        let http = http::Receiver::start(move |_| match answers.status() {
            HANG => hang(),
            status => {
                say(&format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}"))
            }
        });
        Receiver { script, http }
    }

    /// From now on responds with this status.
    pub(crate) fn answer(&self, status: u16) {
        *self.script.status.lock().unwrap() = status;
        self.script.changed.notify_all();
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http.address)
    }

    /// The next attempt.
    pub(crate) fn next(&self) -> Attempt {
        self.http.next()
    }

    /// All attempts that arrived and were not taken yet.
    pub(crate) fn arrived(&self) -> Vec<Attempt> {
        self.http.arrived()
    }
}
