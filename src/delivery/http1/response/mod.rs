//! Reads a response as its bytes arrive, and says whether the connection may be used again.
//!
//! An attempt is judged on the status line alone. Where it is unambiguous and what follows it is not (headers
//! over the limit, folded or with a space before the colon, a broken body), the status stands and the
//! connection is closed. The result is the same however the bytes are cut into pieces.

use std::time::Duration;

use http::HeaderName;
use http::header::{CONNECTION, CONTENT_LENGTH, RETRY_AFTER, TRANSFER_ENCODING};
use httparse::{EMPTY_HEADER, Header, Status};

use super::chunked::Chunked;
use crate::delivery::response_headers::{DELIVERY_CONTROL, control, retry_after_ms};
use crate::transport::{DeliveryControl, EXCERPT_BYTES_MAX, Response};

/// How far the reading of a response is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The head is not complete.
    Head,
    /// The status is known. The rest is read only so that the connection can be used again.
    Body,
    /// Nothing more is to be read.
    Done(Reuse),
}

/// What becomes of the connection after a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reuse {
    /// It may carry another request.
    Keep,
    Close,
}

/// The other side does not speak HTTP/1, or ambiguously.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MalformedResponse;

/// Reads one response.
#[derive(Debug)]
pub(crate) struct ResponseReader {
    /// The response to a HEAD request has no body.
    is_head_request: bool,
    /// What a date in `Retry-After` is counted from, in milliseconds since the Unix epoch.
    wall_ms: u64,
    /// The part of a head that has arrived.
    partial: Vec<u8>,
    /// How many line ends were skipped before the status line.
    skipped: usize,
    /// Bytes of interim responses, whose heads have the same limit together as one alone.
    interim: usize,
    has_begun: bool,
    state: ReadState,
    reuse: Reuse,
    response: Response,
    /// Bytes of the body that were read.
    drained: usize,
}

#[derive(Debug)]
enum ReadState {
    Head,
    Length(u64),
    Chunked(Chunked),
    UntilClose,
    Done,
}

/// The longest head that is read. A longer one is treated like one that cannot be parsed.
pub(crate) const HEAD_BYTES_MAX: usize = 15 * 1024;

/// How much of a body is read. A receiver that sends more pays with a new connection.
const DRAIN_BYTES_MAX: usize = 64 * 1024;

/// A head with more headers than this is treated like one that cannot be parsed.
const HEADERS_MAX: usize = 100;

/// Some servers send line ends after a body. Up to this many bytes of them are skipped before a response.
const SKIPPED_BYTES_MAX: usize = 4;

impl ResponseReader {
    pub(crate) fn new(is_head_request: bool, wall_ms: u64) -> ResponseReader {
        ResponseReader {
            is_head_request,
            wall_ms,
            partial: Vec::new(),
            skipped: 0,
            interim: 0,
            has_begun: false,
            state: ReadState::Head,
            reuse: Reuse::Keep,
            response: Response::new(0),
            drained: 0,
        }
    }

    /// Reads the bytes that arrived next.
    pub(crate) fn feed(&mut self, mut input: &[u8]) -> Result<Progress, MalformedResponse> {
        self.has_begun |= !input.is_empty();
        while !input.is_empty() {
            let used = match &mut self.state {
                ReadState::Head => self.feed_head(input)?,
                ReadState::Done => {
                    // Nobody asked for it, so nothing that follows can be told apart either.
                    self.reuse = Reuse::Close;
                    input.len()
                }
                _ => self.feed_body(input),
            };
            input = input.get(used..).unwrap_or_default();
        }
        Ok(self.progress())
    }

    pub(crate) fn progress(&self) -> Progress {
        match self.state {
            ReadState::Head => Progress::Head,
            ReadState::Done => Progress::Done(self.reuse),
            _ => Progress::Body,
        }
    }

    /// Whether anything arrived, be it part of a response or not.
    pub(crate) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// The response, where its status is known, however much of its body has arrived.
    pub(crate) fn into_response(self) -> Option<Response> {
        (!matches!(self.state, ReadState::Head)).then_some(self.response)
    }

    /// Uses some of the input, at least one byte.
    fn feed_head(&mut self, input: &[u8]) -> Result<usize, MalformedResponse> {
        if self.partial.is_empty() {
            if self.skipped < SKIPPED_BYTES_MAX && matches!(input.first(), Some(b'\r' | b'\n')) {
                self.skipped += 1;
                return Ok(1);
            }
            let within = input.get(..HEAD_BYTES_MAX).unwrap_or(input);
            status_of(within)?;
            if let Some(length) = head_length(within, 0) {
                self.take_head(within.get(..length).unwrap_or_default())?;
                return Ok(length);
            }
        }
        let before = self.partial.len();
        let room = HEAD_BYTES_MAX - before;
        let part = input.get(..room).unwrap_or(input);
        self.partial.extend_from_slice(part);
        let status = status_of(&self.partial)?;
        if let Some(length) = head_length(&self.partial, before.saturating_sub(2)) {
            let head = std::mem::take(&mut self.partial);
            self.take_head(head.get(..length).unwrap_or_default())?;
            return Ok(length - before);
        }
        if self.partial.len() == HEAD_BYTES_MAX {
            let is_line_complete = self.partial.contains(&b'\n');
            let status = status.filter(|status| is_line_complete && is_final(status.code));
            let head = std::mem::take(&mut self.partial);
            self.take_broken_head(status.ok_or(MalformedResponse)?, &head);
        }
        Ok(part.len())
    }

    /// A head with a status line that was checked.
    fn take_head(&mut self, head: &[u8]) -> Result<(), MalformedResponse> {
        let Ok(Some(status)) = status_of(head) else { return Ok(()) };
        if !is_final(status.code) {
            self.interim += head.len();
            return if self.interim > HEAD_BYTES_MAX { Err(MalformedResponse) } else { Ok(()) };
        }
        let mut headers = [EMPTY_HEADER; HEADERS_MAX];
        let mut parsed = httparse::Response::new(&mut headers);
        if parsed.parse(head) != Ok(Status::Complete(head.len())) {
            self.take_broken_head(status, head);
            return Ok(());
        }
        self.response.status = status.code;
        let mut framing = Framing::default();
        for Header { name, value } in parsed.headers.iter() {
            self.note_header(name.as_bytes(), value);
            framing.note(name.as_bytes(), value);
        }
        self.begin_body(status, &framing);
        Ok(())
    }

    /// Takes a head that cannot be parsed as a whole: its status counts, and what `Retry-After` and
    /// `webhook-delivery` ask for. The connection is closed.
    fn take_broken_head(&mut self, status: StatusLine, head: &[u8]) {
        self.response.status = status.code;
        for line in head.split_inclusive(|byte| *byte == b'\n').skip(1) {
            // A line that was cut by the limit says nothing.
            let Some(line) = line.strip_suffix(b"\n") else { break };
            if let Some(colon) = line.iter().position(|byte| *byte == b':') {
                let (name, value) = line.split_at(colon);
                self.note_header(name.trim_ascii_end(), value.get(1..).unwrap_or_default());
            }
        }
        self.end(Reuse::Close);
    }

    fn note_header(&mut self, name: &[u8], value: &[u8]) {
        let text = || {
            let value = value.trim_ascii();
            let is_visible =
                value.iter().all(|byte| (b' '..=b'~').contains(byte) || *byte == b'\t');
            std::str::from_utf8(value).ok().filter(|_| is_visible)
        };
        let asked: &mut Option<Duration> = &mut self.response.retry_after;
        if is(name, &RETRY_AFTER) && asked.is_none() {
            let wait_ms = text().and_then(|text| retry_after_ms(text, self.wall_ms));
            *asked = wait_ms.map(Duration::from_millis);
        }
        let asked: &mut Option<DeliveryControl> = &mut self.response.control;
        if is(name, &DELIVERY_CONTROL) && asked.is_none() {
            *asked = text().and_then(control);
        }
    }

    fn begin_body(&mut self, status: StatusLine, framing: &Framing) {
        if framing.is_ambiguous || status.code == 101 || !framing.is_kept(status.minor_version) {
            self.reuse = Reuse::Close;
        }
        let has_none = self.is_head_request || matches!(status.code, 101 | 204 | 304);
        self.state = match (framing.coding, framing.length) {
            _ if has_none => {
                let is_announced =
                    framing.coding != Coding::None || framing.length.unwrap_or(0) > 0;
                // An announced body may still arrive, and would be read as the next response.
                let is_odd = is_announced && !self.is_head_request;
                return self.end(if is_odd { Reuse::Close } else { self.reuse });
            }
            _ if framing.is_ambiguous && framing.coding != Coding::Chunked => {
                return self.end(Reuse::Close);
            }
            (Coding::Chunked, _) => ReadState::Chunked(Chunked::default()),
            (Coding::Other, _) | (Coding::None, None) => ReadState::UntilClose,
            (Coding::None, Some(0)) => return self.end(self.reuse),
            (Coding::None, Some(length)) => ReadState::Length(length),
        };
        self.end_at_limit();
    }

    fn feed_body(&mut self, input: &[u8]) -> usize {
        let (used, is_over) = match &mut self.state {
            ReadState::Length(left) => {
                let used = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
                *left -= used as u64;
                let is_over = *left == 0;
                self.keep(input.get(..used).unwrap_or_default());
                (used, is_over)
            }
            ReadState::Chunked(chunked) => {
                let Ok(step) = chunked.step(input) else {
                    self.end(Reuse::Close);
                    return input.len();
                };
                self.keep(input.get(step.data).unwrap_or_default());
                (step.used, step.is_over)
            }
            ReadState::UntilClose => {
                self.keep(input);
                (input.len(), false)
            }
            ReadState::Head | ReadState::Done => (input.len(), false),
        };
        self.drained += used;
        if is_over {
            self.end(if self.drained > DRAIN_BYTES_MAX { Reuse::Close } else { self.reuse });
        } else {
            self.end_at_limit();
        }
        used
    }

    /// Keeps the start of a body that says why.
    fn keep(&mut self, bytes: &[u8]) {
        if self.wants_excerpt() {
            let room = EXCERPT_BYTES_MAX - self.response.excerpt.len();
            self.response.excerpt.extend(bytes.iter().take(room));
        }
    }

    fn wants_excerpt(&self) -> bool {
        let is_success = (200..300).contains(&self.response.status);
        !is_success && self.response.excerpt.len() < EXCERPT_BYTES_MAX
    }

    /// Stops where the body is longer than what is read of it anyway.
    fn end_at_limit(&mut self) {
        let left = if let ReadState::Length(left) = self.state { left } else { 0 };
        let is_too_long = self.drained as u64 + left > DRAIN_BYTES_MAX as u64;
        if is_too_long && !self.wants_excerpt() {
            self.end(Reuse::Close);
        }
    }

    fn end(&mut self, reuse: Reuse) {
        self.state = ReadState::Done;
        self.reuse = reuse;
    }
}

#[derive(Debug, Clone, Copy)]
struct StatusLine {
    minor_version: u8,
    code: u16,
}

/// The status of a head that may be incomplete; `None` as long as it could still become one.
fn status_of(head: &[u8]) -> Result<Option<StatusLine>, MalformedResponse> {
    let fits = |(at, byte): (usize, &u8)| match at {
        7 => matches!(byte, b'0' | b'1'),
        9 => (b'1'..=b'9').contains(byte),
        10 | 11 => byte.is_ascii_digit(),
        12 => matches!(byte, b' ' | b'\r' | b'\n'),
        13 if head.get(12) == Some(&b'\r') => *byte == b'\n',
        _ => PATTERN.get(at).is_none_or(|expected| expected == byte),
    };
    if !head.iter().take(STATUS_BYTES).enumerate().all(fits) {
        return Err(MalformedResponse);
    }
    let [_, _, _, _, _, _, _, minor, _, hundreds, tens, ones, _, ..] = head else {
        return Ok(None);
    };
    let digit = |byte: &u8| u16::from(byte - b'0');
    let code = digit(hundreds) * 100 + digit(tens) * 10 + digit(ones);
    Ok(Some(StatusLine { minor_version: minor - b'0', code }))
}

/// The start of every status line; the digits are placeholders.
const PATTERN: &[u8; 9] = b"HTTP/1.1 ";

/// `HTTP/1.1 200\r\n`: enough to recognize a status line.
const STATUS_BYTES: usize = 14;

/// Whether a status ends the exchange: one in advance, such as `100 Continue`, is followed by another.
fn is_final(code: u16) -> bool {
    code >= 200 || code == 101
}

/// Where the empty line after the headers ends, looked for from a byte on.
fn head_length(bytes: &[u8], from: usize) -> Option<usize> {
    let tail = bytes.get(from..)?;
    tail.iter().enumerate().filter(|(_, byte)| **byte == b'\n').find_map(|(at, _)| {
        match tail.get(at + 1..)? {
            [b'\n', ..] => Some(from + at + 2),
            [b'\r', b'\n', ..] => Some(from + at + 3),
            _ => None,
        }
    })
}

fn is(name: &[u8], header: &HeaderName) -> bool {
    name.eq_ignore_ascii_case(header.as_str().as_bytes())
}

/// What the headers say about where the body ends and what becomes of the connection.
#[derive(Debug, Default)]
struct Framing {
    length: Option<u64>,
    coding: Coding,
    /// Two headers contradict each other, or one is unreadable.
    is_ambiguous: bool,
    says_close: bool,
    says_keep_alive: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Coding {
    #[default]
    None,
    Chunked,
    Other,
}

impl Framing {
    fn note(&mut self, name: &[u8], value: &[u8]) {
        if is(name, &CONTENT_LENGTH) {
            let length = length_of(value);
            let is_second = self.length.is_some();
            self.is_ambiguous |= length.is_none() || is_second || self.coding != Coding::None;
            self.length = length;
        } else if is(name, &TRANSFER_ENCODING) {
            self.is_ambiguous |= self.coding != Coding::None || self.length.is_some();
            let is_chunked = value.trim_ascii().eq_ignore_ascii_case(b"chunked");
            self.coding = if is_chunked { Coding::Chunked } else { Coding::Other };
        } else if is(name, &CONNECTION) {
            for word in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                self.says_close |= word.eq_ignore_ascii_case(b"close");
                self.says_keep_alive |= word.eq_ignore_ascii_case(b"keep-alive");
            }
        }
    }

    fn is_kept(&self, minor_version: u8) -> bool {
        let is_old = minor_version == 0;
        // HTTP/1.0 has no chunked bodies.
        !self.says_close && (!is_old || self.says_keep_alive && self.coding == Coding::None)
    }
}

fn length_of(value: &[u8]) -> Option<u64> {
    let digits = value.trim_ascii();
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| is_number)?.parse().ok()
}

#[cfg(test)]
mod tests;
