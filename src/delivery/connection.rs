//! Decides how bytes pass over one connection, in the clear or under TLS, and when waiting ends.
//!
//! Leaves to others: what the bytes are (`exchange`), who makes connections (`dialer`) and who keeps
//! them (`pool`). Invariant: every call ends by its deadline, however few bytes arrive at a time.

use std::fmt;
#[cfg(feature = "tls")]
use std::io::BufRead;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use super::pool::Alive;
use crate::clock::Clock;

/// A connection to a receiver.
pub(super) struct Connection {
    socket: Socket,
    #[cfg(feature = "tls")]
    tls: Option<Box<rustls::ClientConnection>>,
    /// When it was made, on the monotonic clock.
    pub(super) opened_ms: u64,
    _alive: Alive,
}

/// What became of bytes to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    Whole,
    /// The receiver took no more. It may have answered all the same.
    Cut,
}

impl Connection {
    /// A connection in the clear, counted as alive for as long as it lasts.
    pub(super) fn new(stream: Arc<TcpStream>, alive: Alive, clock: Arc<dyn Clock>) -> Connection {
        let opened_ms = clock.monotonic_ms();
        let socket = Socket { stream, clock, receive_ms: 0, send_ms: 0 };
        Connection {
            socket,
            #[cfg(feature = "tls")]
            tls: None,
            opened_ms,
            _alive: alive,
        }
    }

    /// Makes TLS of it. An error wraps the reason of rustls where TLS failed.
    #[cfg(feature = "tls")]
    pub(super) fn secure(
        mut self,
        mut session: rustls::ClientConnection,
        until_ms: u64,
    ) -> io::Result<Connection> {
        while session.is_handshaking() {
            if session.wants_write() {
                session.write_tls(&mut self.socket.during(until_ms))?;
            } else {
                self.socket.receive_tls(&mut session, until_ms)?;
            }
        }
        self.tls = Some(Box::new(session));
        Ok(self)
    }

    /// Sends all of it, unless the receiver closes the connection or answers before it has all.
    pub(super) fn send(&mut self, bytes: &[u8], until_ms: u64) -> io::Result<Sent> {
        #[cfg(feature = "tls")]
        if let Some(session) = &mut self.tls {
            return self.socket.send_tls(session, bytes, until_ms);
        }
        self.socket.send(bytes, until_ms)
    }

    /// Waits for bytes; 0 when the receiver has closed the connection.
    pub(super) fn receive(&mut self, into: &mut [u8], until_ms: u64) -> io::Result<usize> {
        #[cfg(feature = "tls")]
        if let Some(session) = &mut self.tls {
            loop {
                match session.reader().read(into) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        self.socket.receive_tls(session, until_ms)?;
                    }
                    result => return result,
                }
            }
        }
        self.socket.receive(into, until_ms)
    }

    /// Whether it can carry another request: it is open, and the receiver sent nothing unasked.
    pub(super) fn is_open(&mut self) -> bool {
        match self.socket.pending(&mut [0]) {
            Ok(None) => true,
            #[cfg(feature = "tls")]
            // Most likely tickets for later sessions, which come when the receiver likes.
            Ok(Some(1..)) => {
                let Some(session) = &mut self.tls else { return false };
                let is_quiet = |state: rustls::IoState| {
                    !state.peer_has_closed() && state.plaintext_bytes_to_read() == 0
                };
                self.socket.take_in(session).is_ok_and(is_quiet)
            }
            _ => false,
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("opened_ms", &self.opened_ms).finish_non_exhaustive()
    }
}

/// A TCP socket, with the timeouts that are set on it at present: setting one costs a system call.
struct Socket {
    stream: Arc<TcpStream>,
    clock: Arc<dyn Clock>,
    receive_ms: u64,
    send_ms: u64,
}

impl Socket {
    fn send(&mut self, mut bytes: &[u8], until_ms: u64) -> io::Result<Sent> {
        while !bytes.is_empty() {
            match self.send_some(bytes, until_ms) {
                Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
                Err(error) if is_cut(error.kind()) => return Ok(Sent::Cut),
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                Err(_) if self.is_answered() => return Ok(Sent::Cut),
                Err(_) => {}
            }
        }
        Ok(Sent::Whole)
    }

    /// Sends some of it. An error that is `WouldBlock` when the receiver takes nothing and has sent
    /// something, be it an answer or not.
    fn send_some(&mut self, bytes: &[u8], until_ms: u64) -> io::Result<usize> {
        loop {
            let wait_ms = self.left_ms(until_ms)?.min(ANSWER_LOOK_MS);
            if wait_ms != self.send_ms {
                self.stream.set_write_timeout(Some(Duration::from_millis(wait_ms)))?;
                self.send_ms = wait_ms;
            }
            match (&*self.stream).write(bytes) {
                Ok(0) => return Err(ErrorKind::BrokenPipe.into()),
                Err(error) if is_pause(error.kind()) => {
                    if !matches!(self.pending(&mut [0]), Ok(None)) {
                        return Err(ErrorKind::WouldBlock.into());
                    }
                }
                result => return result,
            }
        }
    }

    /// Whether what the receiver has sent is an answer, or the end.
    fn is_answered(&self) -> bool {
        let mut start = [0; STATUS_BYTES];
        match self.pending(&mut start) {
            Ok(None) => false,
            Ok(Some(0)) | Err(_) => true,
            Ok(Some(bytes)) => is_final(start.get(..bytes).unwrap_or_default()),
        }
    }

    fn receive(&mut self, into: &mut [u8], until_ms: u64) -> io::Result<usize> {
        loop {
            let wait_ms = patience_ms(self.receive_ms, self.left_ms(until_ms)?);
            if wait_ms != self.receive_ms {
                self.stream.set_read_timeout(Some(Duration::from_millis(wait_ms)))?;
                self.receive_ms = wait_ms;
            }
            match (&*self.stream).read(into) {
                Err(error) if is_pause(error.kind()) => {}
                result => return result,
            }
        }
    }

    /// How much time is left; an error when there is none.
    fn left_ms(&self, until_ms: u64) -> io::Result<u64> {
        let left_ms = until_ms.saturating_sub(self.clock.monotonic_ms());
        if left_ms == 0 { Err(ErrorKind::TimedOut.into()) } else { Ok(left_ms) }
    }

    /// Looks without waiting whether bytes came: none yet, some, or 0 when it is closed.
    #[cfg(unix)]
    fn pending(&self, into: &mut [u8]) -> io::Result<Option<usize>> {
        use rustix::net::{RecvFlags, recv};
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        match recv(&*self.stream, into, flags) {
            Ok((_, bytes)) => Ok(Some(bytes)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Looks without waiting whether bytes came: none yet, some, or 0 when it is closed.
    #[cfg(not(unix))]
    fn pending(&self, into: &mut [u8]) -> io::Result<Option<usize>> {
        self.stream.set_nonblocking(true)?;
        let peeked = self.stream.peek(into);
        self.stream.set_nonblocking(false)?;
        match peeked {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(feature = "tls")]
impl Socket {
    fn during(&mut self, until_ms: u64) -> During<'_> {
        During { socket: self, until_ms }
    }

    fn send_tls(
        &mut self,
        session: &mut rustls::ClientConnection,
        bytes: &[u8],
        until_ms: u64,
    ) -> io::Result<Sent> {
        // No more than the session keeps at once, so that it takes each piece whole.
        for piece in bytes.chunks(TLS_PIECE_BYTES) {
            session.writer().write_all(piece)?;
            while session.wants_write() {
                match session.write_tls(&mut self.during(until_ms)) {
                    Ok(_) => {}
                    Err(error) if is_cut(error.kind()) => return Ok(Sent::Cut),
                    Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                    Err(_) if self.is_answered_under(session) => return Ok(Sent::Cut),
                    Err(_) => {}
                }
            }
        }
        Ok(Sent::Whole)
    }

    /// Waits for what the other side sends next, and takes it in.
    fn receive_tls(
        &mut self,
        session: &mut rustls::ClientConnection,
        until_ms: u64,
    ) -> io::Result<()> {
        let received = session.read_tls(&mut self.during(until_ms))?;
        if received == 0 && session.is_handshaking() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if let Err(reason) = session.process_new_packets() {
            // Tells the other side why, if it still listens.
            let _ = session.write_tls(&mut self.during(until_ms));
            return Err(io::Error::new(ErrorKind::InvalidData, reason));
        }
        Ok(())
    }

    /// Takes in what came, without waiting.
    fn take_in(&self, session: &mut rustls::ClientConnection) -> io::Result<rustls::IoState> {
        self.stream.set_nonblocking(true)?;
        let taken = session.read_tls(&mut &*self.stream);
        self.stream.set_nonblocking(false)?;
        if taken? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        session
            .process_new_packets()
            .map_err(|reason| io::Error::new(ErrorKind::InvalidData, reason))
    }

    /// As `is_answered`. What came may be tickets for later sessions, which are no answer.
    fn is_answered_under(&self, session: &mut rustls::ClientConnection) -> bool {
        if self.take_in(session).is_err() {
            return true;
        }
        match session.reader().fill_buf() {
            Ok(start) => start.is_empty() || is_final(start),
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        }
    }
}

/// A socket as rustls wants it, with one deadline for all that it does.
#[cfg(feature = "tls")]
struct During<'a> {
    socket: &'a mut Socket,
    until_ms: u64,
}

#[cfg(feature = "tls")]
impl Read for During<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.socket.receive(into, self.until_ms)
    }
}

#[cfg(feature = "tls")]
impl Write for During<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.send_some(bytes, self.until_ms)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How long one wait on a socket may be, where `set_ms` is set already. Never longer than what is
/// left, and changed seldom: a request that starts with about the same time left as the one before
/// finds a timeout that it can use.
fn patience_ms(set_ms: u64, left_ms: u64) -> u64 {
    if set_ms <= left_ms && set_ms >= left_ms / 2 && set_ms > 0 {
        return set_ms;
    }
    if left_ms <= SHORT_MS { left_ms } else { left_ms - left_ms / 8 }
}

/// Whether this is the start of an answer, and not of a word in advance, such as `100 Continue`, after
/// which the receiver waits for the rest of the request.
fn is_final(start: &[u8]) -> bool {
    start.get(STATUS_BYTES - 1).is_some_and(|class| *class != b'1')
}

/// The connection broke, from whichever side.
pub(super) fn is_cut(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::NotConnected
    )
}

/// The wait was over, or was disturbed; the deadline says whether there is another one.
fn is_pause(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// How often an early answer is looked for while the receiver takes no more of a request.
const ANSWER_LOOK_MS: u64 = 250;

/// `HTTP/1.1 1`: as much of an answer as tells of which class it is.
const STATUS_BYTES: usize = 10;

/// What is left of this or less is waited for in one go.
const SHORT_MS: u64 = 64;

/// What one record of TLS holds.
#[cfg(feature = "tls")]
const TLS_PIECE_BYTES: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn check_patience(set_ms: u64, left_ms: u64, expected_ms: u64) {
        let wait_ms = patience_ms(set_ms, left_ms);
        assert_eq!(wait_ms, expected_ms, "{set_ms} set, {left_ms} left");
        assert!(wait_ms > 0 && wait_ms <= left_ms, "{set_ms} set, {left_ms} left");
    }

    #[test]
    fn a_wait_is_never_longer_than_what_is_left_and_seldom_set_anew() {
        check_patience(0, 15_000, 13_125);
        check_patience(13_125, 15_000, 13_125);
        check_patience(13_125, 14_200, 13_125);
        check_patience(13_125, 13_124, 11_484);
        check_patience(13_125, 27_000, 23_625);
        check_patience(13_125, 64, 64);
        check_patience(0, 1, 1);
        check_patience(1, 1, 1);
    }

    #[test]
    fn the_waits_of_one_attempt_are_few_and_add_up_to_its_time() {
        let (mut set_ms, mut left_ms, mut waits) = (0, 15_000, 0);
        while left_ms > 0 {
            set_ms = patience_ms(set_ms, left_ms);
            left_ms -= set_ms;
            waits += 1;
        }
        assert!(waits < 10, "{waits}");
    }
}
