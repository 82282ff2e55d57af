//! Decides how ureq's exchange travels over a connection of ours: head and body in one write, early
//! answers heard, stale connections told from bad ones, the connection given back when it is over.
//!
//! Leaves to others: the grammar of HTTP (ureq, `shortcut`), the socket (`connection`) and where connections come
//! from (`dialer`). Invariant: a connection goes back to the pool only after a whole answer to a
//! request that was sent whole.

use std::cell::Cell;
use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use ureq::unversioned::transport::{Buffers, NextTimeout, Transport};

use super::connection::{Connection, Sent, is_cut};
use super::pool::{Place, Pool};
use crate::clock::Clock;

/// One exchange over one connection.
pub(super) struct Exchange {
    /// None once it was given back.
    connection: Option<Connection>,
    place: Place,
    pool: Arc<Pool>,
    clock: Arc<dyn Clock>,
    room: Room,
    is_https: bool,
    /// The connection carried a request before.
    reused: bool,
    /// Some byte of the answer came.
    heard: bool,
    /// The receiver took less than the whole request.
    cut: bool,
    /// The request was sent before ureq was asked; what it writes is the same once more.
    is_sent: bool,
}

impl Exchange {
    pub(super) fn new(
        connection: Connection,
        reused: bool,
        place: Place,
        pool: Arc<Pool>,
        clock: Arc<dyn Clock>,
    ) -> Exchange {
        let room = SPARE.take().unwrap_or_default();
        let (is_https, connection) = (place.is_https, Some(connection));
        Exchange {
            connection,
            place,
            pool,
            clock,
            room,
            is_https,
            reused,
            heard: false,
            cut: false,
            is_sent: false,
        }
    }

    /// Where a request can be written that is sent by [`ask`](Exchange::ask).
    pub(super) fn output(&mut self) -> &mut [u8] {
        self.room.output()
    }

    /// Sends so many bytes of the output and waits for the first of the answer.
    pub(super) fn ask(&mut self, bytes: usize, until_ms: u64) -> Result<(), ureq::Error> {
        self.room.held = bytes;
        self.is_sent = true;
        self.hear(until_ms, None)?;
        // ureq, should it carry on, looks at what is here before it waits for more.
        self.room.progressed = true;
        Ok(())
    }

    /// What came of the answer, unless the receiver took less than the whole request.
    pub(super) fn answer(&self) -> Option<&[u8]> {
        (!self.cut).then(|| self.room.input())
    }

    /// Gives the connection back after a whole answer.
    pub(super) fn end(mut self) {
        self.room.clear();
        self.give_back();
    }

    fn give_back(&mut self) {
        if let Some(connection) = self.connection.take_if(|_| !self.cut) {
            self.pool.put(&self.place, connection);
        }
    }

    fn until_ms(&self, timeout: NextTimeout) -> u64 {
        self.clock.monotonic_ms().saturating_add(whole_ms(timeout))
    }

    /// Sends what was held back. A request that is cut is no failure yet: the answer decides.
    fn flush(&mut self, until_ms: u64) -> io::Result<()> {
        let held = std::mem::take(&mut self.room.held);
        if held == 0 || self.cut {
            return Ok(());
        }
        let Some(connection) = &mut self.connection else { return Ok(()) };
        let bytes = self.room.output.get(..held).unwrap_or_default();
        self.cut = connection.send(bytes, until_ms)? == Sent::Cut;
        Ok(())
    }

    fn receive(&mut self, until_ms: u64) -> io::Result<usize> {
        let Some(connection) = &mut self.connection else { return Ok(0) };
        let into = self.room.input_append_buf();
        if into.is_empty() {
            // ureq takes out what it can use; what fills all the room is no HTTP.
            return Err(ErrorKind::FileTooLarge.into());
        }
        let received = connection.receive(into, until_ms)?;
        self.room.input_appended(received);
        Ok(received)
    }

    /// Sends what was held back and waits for bytes; says how many came. `reason` is what ureq calls
    /// the time that is up.
    fn hear(&mut self, until_ms: u64, reason: Option<ureq::Timeout>) -> Result<usize, ureq::Error> {
        let heard = self.flush(until_ms).and_then(|()| self.receive(until_ms));
        let received = heard.map_err(|error| self.failed(error, reason))?;
        if received == 0 && self.may_be_stale() {
            return Err(Stale.into());
        }
        self.heard |= received > 0;
        Ok(received)
    }

    fn failed(&self, error: io::Error, reason: Option<ureq::Timeout>) -> ureq::Error {
        match (error.kind(), reason) {
            (ErrorKind::TimedOut, Some(reason)) => ureq::Error::Timeout(reason),
            (kind, _) if is_cut(kind) && self.may_be_stale() => Stale.into(),
            _ => ureq::Error::Io(error),
        }
    }

    fn may_be_stale(&self) -> bool {
        self.reused && !self.heard
    }
}

impl Transport for Exchange {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.room
    }

    /// Holds the bytes back until there is too little room for more, or an answer is waited for.
    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        if self.is_sent {
            return Ok(());
        }
        self.room.held += amount;
        if self.room.held + OUTPUT_ROOM_MIN <= BUFFER_BYTES {
            return Ok(());
        }
        let until_ms = self.until_ms(timeout);
        self.flush(until_ms).map_err(|error| self.failed(error, Some(timeout.reason)))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let until_ms = self.until_ms(timeout);
        self.hear(until_ms, Some(timeout.reason)).map(|received| received > 0)
    }

    /// ureq asks exactly when an exchange is over and the connection could carry another one. It
    /// goes back to our pool, and ureq is told that there is nothing to keep.
    fn is_open(&mut self) -> bool {
        self.give_back();
        false
    }

    fn is_tls(&self) -> bool {
        self.is_https
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let mut room = std::mem::take(&mut self.room);
        room.clear();
        SPARE.set(Some(room));
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("reused", &self.reused).finish_non_exhaustive()
    }
}

/// How much time ureq gives, in milliseconds, a part of one counting as one.
pub(super) fn whole_ms(timeout: NextTimeout) -> u64 {
    u64::try_from(timeout.after.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX)
}

/// A kept connection broke before the receiver answered anything: most likely it had closed the
/// connection while the request was on its way.
#[derive(Debug)]
pub(super) struct Stale;

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a kept connection was closed by the receiver")
    }
}

impl std::error::Error for Stale {}

impl From<Stale> for ureq::Error {
    fn from(stale: Stale) -> ureq::Error {
        ureq::Error::Other(Box::new(stale))
    }
}

/// What is sent and what came back, of one exchange.
#[derive(Default)]
struct Room {
    output: Box<[u8]>,
    /// Bytes of `output` that are to be sent.
    held: usize,
    input: Box<[u8]>,
    start: usize,
    end: usize,
    /// Whether the last look at the input used any of it.
    progressed: bool,
}

impl Room {
    fn clear(&mut self) {
        (self.held, self.start, self.end, self.progressed) = (0, 0, 0, false);
    }
}

impl Buffers for Room {
    fn output(&mut self) -> &mut [u8] {
        if self.output.is_empty() {
            self.output = vec![0; BUFFER_BYTES].into();
        }
        self.output.get_mut(self.held..).unwrap_or_default()
    }

    fn input(&self) -> &[u8] {
        self.input.get(self.start..self.end).unwrap_or_default()
    }

    fn input_append_buf(&mut self) -> &mut [u8] {
        if self.input.is_empty() {
            self.input = vec![0; BUFFER_BYTES].into();
        }
        if self.start > 0 {
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        self.input.get_mut(self.end..).unwrap_or_default()
    }

    fn input_appended(&mut self, amount: usize) {
        self.end += amount;
    }

    fn input_consume(&mut self, amount: usize) {
        self.progressed = amount > 0;
        self.start += amount;
    }

    /// The first is for bodies sent in chunks, which ours never are.
    fn tmp_and_output(&mut self) -> (&mut [u8], &mut [u8]) {
        (&mut [], self.output())
    }

    fn can_use_input(&self) -> bool {
        self.progressed && self.start < self.end
    }
}

thread_local! {
    /// The room of this thread's last exchange. So an idle connection has none, and the threads
    /// that make attempts, which are few, make theirs once.
    static SPARE: Cell<Option<Room>> = const { Cell::new(None) };
}

/// For what is sent and for what comes back, each. Larger ones gained nothing.
pub(super) const BUFFER_BYTES: usize = 16 * 1024;

/// Below this what is held is sent, so that ureq does not fill the buffer in small pieces.
const OUTPUT_ROOM_MIN: usize = 1_024;

/// The longest head of an answer. Below the buffer, so that one that is too long is seen as such.
pub(super) const HEAD_BYTES_MAX: usize = 15 * 1024;
