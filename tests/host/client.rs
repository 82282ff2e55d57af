//! A blocking HTTP client that sends exactly the given bytes, also half a request.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use serde_json::Value;

use crate::DEADLINE;

/// A response of the host.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Asserts the status.
    pub(crate) fn with_status(self, status: u16) -> Answer {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    /// What a list shows.
    pub(crate) fn items(&self) -> Vec<Value> {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()["items"].as_array().unwrap().clone()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let header = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        header.map(|(_, value)| value.as_str())
    }

    /// Asserts that this is an error in the host's shape.
    pub(crate) fn assert_refused(&self, status: u16, code: &str, field: Option<&str>) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        let error = &self.json()["error"];
        assert_eq!(error["code"], code, "{self:?}");
        assert_eq!(error["field"].as_str(), field, "{self:?}");
        assert!(error["message"].as_str().is_some_and(|m| !m.is_empty()), "{self:?}");
    }

    pub(crate) fn assert_says(&self, parts: &[&str]) {
        for part in parts {
            assert!(self.body.contains(part), "{} does not say {part}", self.body);
        }
    }
}

/// Asserts that an object has these members, among others. One that is null may be left out.
pub(crate) fn assert_members(object: &Value, expected: Value) {
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(object[name], *value, "{name} of {object}");
    }
}

/// A request without its response.
pub(crate) struct Pending(TcpStream);

impl Pending {
    /// Sends the head of a request with a body of `length` bytes; [`more`](Pending::more) sends the body.
    pub(crate) fn open(
        address: SocketAddr,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        length: usize,
    ) -> Pending {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("connection: close\r\ncontent-length: {length}\r\n\r\n"));
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        Pending(stream)
    }

    pub(crate) fn more(&mut self, body: &[u8]) {
        self.0.write_all(body).unwrap();
    }

    /// Waits until the host asks for the body of a request that has `expect: 100-continue`.
    pub(crate) fn until_asked_for_the_body(&mut self) {
        let mut asked = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
        self.0.read_exact(&mut asked).unwrap();
        assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
    }

    /// Waits until the head of the response says something; what follows is not read.
    pub(crate) fn until_it_says(&mut self, part: &str) {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(part.as_bytes()) {
            self.0
                .read_exact(&mut byte)
                .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&head)));
            head.extend(byte);
        }
    }

    /// Waits until the host ends the response, which must not say something before that.
    pub(crate) fn ends_without(mut self, part: &str) {
        let (mut seen, mut bytes, started) = (String::new(), [0; 1_024], Instant::now());
        loop {
            let count = self.0.read(&mut bytes).unwrap();
            if count == 0 {
                return;
            }
            seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
            assert!(!seen.contains(part) && started.elapsed() < DEADLINE, "{seen}");
        }
    }

    /// What is still to come, until the host ends the response.
    pub(crate) fn rest(mut self) -> String {
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub(crate) fn answer(mut self) -> Answer {
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text:?}"));
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let header = |line: &str| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_owned(), value.trim().to_owned())
        };
        Answer { status, headers: lines.map(header).collect(), body: body.to_owned() }
    }
}

/// Sends a request and waits for its response.
pub(crate) fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut pending = Pending::open(address, method, path, headers, body.len());
    pending.more(body);
    pending.answer()
}
