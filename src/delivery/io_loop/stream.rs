//! A connection as the loop sees it: bytes pass without waiting, in the clear or under TLS.
//!
//! Whatever is read is handed on at once and nothing is read ahead, so a connection that is idle or waits for
//! a response holds no buffer of ours. Bytes beyond a response are noticed, and such a connection is not used
//! again.

use std::io::{self, ErrorKind, IoSlice, Read, Write};

use mio::net::TcpStream;

use crate::delivery::http1::{OutgoingRequest, Sending};
use crate::delivery::tls::TlsSession;

/// How bytes pass without waiting. A test or a fuzzer gives a scripted one.
pub(super) trait Wire {
    /// Writes what is unsent, and counts it.
    fn send(&mut self, request: &OutgoingRequest, sent: &mut usize) -> io::Result<Sending>;

    /// Reads once, using `scratch`, and hands on what arrived.
    fn receive(&mut self, scratch: &mut [u8], read: &mut dyn FnMut(&[u8]))
    -> io::Result<Receiving>;

    /// Whether something arrived that was not handed on, or the other side wants to close.
    fn has_leftover(&self) -> bool;
}

/// The result of one read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Receiving {
    /// Less arrived than there was room for, so no more is available now.
    Short,
    /// There may be more.
    Full,
    /// Nothing is available now.
    Blocked,
    /// The other side has closed the connection.
    Closed,
}

/// How far a TLS handshake is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handshake {
    Complete,
    Blocked,
}

/// A socket, and TLS over it.
pub(super) struct Stream {
    socket: TcpStream,
    tls: Option<Box<TlsSession>>,
}

impl Stream {
    /// A socket that may still be connecting.
    pub(super) fn new(socket: TcpStream) -> Stream {
        Stream { socket, tls: None }
    }

    pub(super) fn socket(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    /// Starts TLS over it.
    pub(super) fn secure(&mut self, session: TlsSession) {
        self.tls = Some(Box::new(session));
    }

    /// Whether the connection was made; an error where it cannot be.
    pub(super) fn is_connected(&self) -> io::Result<bool> {
        if let Some(error) = self.socket.take_error()? {
            return Err(error);
        }
        match self.socket.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Goes on with the TLS handshake. An error wraps the reason of TLS where there is one.
    pub(super) fn shake_hands(
        &mut self,
        scratch: &mut [u8],
        read: &mut dyn FnMut(&[u8]),
    ) -> io::Result<Handshake> {
        loop {
            let Some(tls) = &mut self.tls else { return Ok(Handshake::Complete) };
            if tls.flush(&mut self.socket)? == Sending::Blocked {
                return Ok(Handshake::Blocked);
            }
            if !tls.is_handshaking() {
                return Ok(Handshake::Complete);
            }
            match self.receive(scratch, read)? {
                Receiving::Closed => return Err(ErrorKind::UnexpectedEof.into()),
                Receiving::Blocked => return Ok(Handshake::Blocked),
                Receiving::Short | Receiving::Full => {}
            }
        }
    }

    /// Whether it can carry another request: it is open, and nothing but messages of TLS arrived on it since the last
    /// response.
    pub(super) fn is_quiet(&mut self, scratch: &mut [u8]) -> bool {
        if self.tls.is_none() {
            let peeked = self.socket.peek(scratch.get_mut(..1).unwrap_or_default());
            return peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        }
        let mut is_quiet = true;
        while is_quiet {
            match self.receive(scratch, &mut |_| is_quiet = false) {
                Ok(Receiving::Blocked) => return !self.has_leftover(),
                // It ends: a session takes in little but plaintext.
                Ok(Receiving::Short | Receiving::Full) => {}
                Ok(Receiving::Closed) | Err(_) => return false,
            }
        }
        false
    }

    fn read(&mut self, scratch: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match self.socket.read(scratch) {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }
}

impl Wire for Stream {
    fn send(&mut self, request: &OutgoingRequest, sent: &mut usize) -> io::Result<Sending> {
        if let Some(tls) = &mut self.tls {
            return tls.send(&mut self.socket, request, sent);
        }
        loop {
            let written = match request.unsent(*sent) {
                [[], []] => return Ok(Sending::Complete),
                [part, []] | [[], part] => self.socket.write(part),
                [head, body] => {
                    self.socket.write_vectored(&[IoSlice::new(head), IoSlice::new(body)])
                }
            };
            match written {
                Ok(0) => return Err(ErrorKind::BrokenPipe.into()),
                Ok(bytes) => *sent += bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Sending::Blocked),
                Err(error) => return Err(error),
            }
        }
    }

    fn receive(
        &mut self,
        scratch: &mut [u8],
        read: &mut dyn FnMut(&[u8]),
    ) -> io::Result<Receiving> {
        let Some(received) = self.read(scratch)? else { return Ok(Receiving::Blocked) };
        if received == 0 {
            return Ok(Receiving::Closed);
        }
        let bytes = scratch.get(..received).unwrap_or_default();
        match &mut self.tls {
            None => read(bytes),
            Some(tls) => {
                if let Err(error) = tls.take_in(bytes, read) {
                    // Tells the other side why, if it still listens.
                    let _ = tls.flush(&mut self.socket);
                    return Err(error);
                }
                // A change of keys is answered; what fails here fails the next read, too.
                let _ = tls.flush(&mut self.socket);
                if tls.is_closed() {
                    return Ok(Receiving::Closed);
                }
            }
        }
        Ok(if received < scratch.len() { Receiving::Short } else { Receiving::Full })
    }

    fn has_leftover(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.has_leftover())
    }
}
