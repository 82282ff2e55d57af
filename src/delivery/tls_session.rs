//! One TLS connection over a socket that never waits.
//!
//! rustls is given whole records and one at a time, so exactly what belongs to a response is decrypted, and
//! half a record that is left over is seen. What was decrypted is handed on at once and never kept.

use std::io::{self, BufRead, ErrorKind, Write};

use rustls::ClientConnection;

use super::http1::{OutgoingRequest, Sending};

pub(super) struct TlsSession {
    rustls: ClientConnection,
    /// The start of a record whose rest has not arrived.
    partial: Vec<u8>,
    /// Bytes of messages of TLS itself since the handshake.
    message_bytes: usize,
    is_closed: bool,
}

/// The type, version and length before each record.
const RECORD_HEAD_BYTES: usize = 5;

/// The longest body of a TLS record (RFC 8446, 5.2, and RFC 5246, 6.2.3).
const RECORD_BYTES_MAX: usize = 16 * 1024 + 2_048;

/// How much of session tickets and other messages of TLS itself is taken in over a connection, in bytes. Servers send
/// a few; a ticket of 50 bytes costs as much time as a small request.
const MESSAGE_BYTES_MAX: usize = 32 * 1024;

/// The most plaintext that one TLS record holds, and so the most that is encrypted at once.
const PLAINTEXT_BYTES_MAX: usize = 16 * 1024;

impl TlsSession {
    pub(super) fn new(rustls: ClientConnection) -> TlsSession {
        TlsSession { rustls, partial: Vec::new(), message_bytes: 0, is_closed: false }
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.rustls.is_handshaking()
    }

    /// Whether the other side said that it sends no more.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Whether half a record is left, or the other side wants to close.
    pub(super) fn has_leftover(&self) -> bool {
        self.is_closed || !self.partial.is_empty()
    }

    /// Writes what TLS has to say of itself or has encrypted.
    pub(super) fn flush(&mut self, socket: &mut impl Write) -> io::Result<Sending> {
        while self.rustls.wants_write() {
            match self.rustls.write_tls(socket) {
                Ok(0) => return Err(ErrorKind::BrokenPipe.into()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Sending::Blocked),
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
        }
        Ok(Sending::Complete)
    }

    /// Encrypts and writes what is unsent, a record at a time.
    pub(super) fn send(
        &mut self,
        socket: &mut impl Write,
        request: &OutgoingRequest,
        sent: &mut usize,
    ) -> io::Result<Sending> {
        loop {
            if self.flush(socket)? == Sending::Blocked {
                return Ok(Sending::Blocked);
            }
            let [head, body] = request.unsent(*sent);
            let part = if head.is_empty() { body } else { head };
            if part.is_empty() {
                return Ok(Sending::Complete);
            }
            let part = part.get(..PLAINTEXT_BYTES_MAX).unwrap_or(part);
            *sent += self.rustls.writer().write(part)?;
        }
    }

    /// Takes in bytes as they arrived, and hands on what they decrypt to. An error wraps the reason of rustls.
    pub(super) fn take_in(
        &mut self,
        mut bytes: &[u8],
        read: &mut dyn FnMut(&[u8]),
    ) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.partial.is_empty() {
                let length = record_bytes(bytes).unwrap_or(usize::MAX);
                if let Some((record, rest)) = bytes.split_at_checked(length) {
                    self.take_record(record, read)?;
                    bytes = rest;
                } else {
                    self.partial.extend_from_slice(bytes);
                    return Ok(());
                }
            } else {
                let length = record_bytes(&self.partial).unwrap_or(RECORD_HEAD_BYTES);
                let missing = length.saturating_sub(self.partial.len()).min(bytes.len());
                let (part, rest) = bytes.split_at(missing);
                self.partial.extend_from_slice(part);
                bytes = rest;
                if record_bytes(&self.partial).is_some_and(|length| self.partial.len() >= length) {
                    let record = std::mem::take(&mut self.partial);
                    self.take_record(&record, read)?;
                }
            }
        }
        Ok(())
    }

    fn take_record(&mut self, mut record: &[u8], read: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let bytes = record.len();
        while !record.is_empty() {
            if self.rustls.read_tls(&mut record)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            let state = self
                .rustls
                .process_new_packets()
                .map_err(|reason| io::Error::new(ErrorKind::InvalidData, reason))?;
            self.is_closed |= state.peer_has_closed();
            let mut left = state.plaintext_bytes_to_read();
            if left == 0 && !self.rustls.is_handshaking() {
                self.message_bytes += bytes;
            }
            if self.message_bytes > MESSAGE_BYTES_MAX {
                return Err(ErrorKind::InvalidData.into());
            }
            while left > 0 {
                let mut reader = self.rustls.reader();
                let bytes = reader.fill_buf()?;
                let length = bytes.len();
                read(bytes);
                reader.consume(length);
                left = left.saturating_sub(length.max(1));
            }
        }
        Ok(())
    }
}

/// The length of the record that starts here; `None` if it is not known yet. Bytes that are not a record go to rustls
/// as they are, which reports the error.
fn record_bytes(start: &[u8]) -> Option<usize> {
    let [kind, major, _, high, low] = *start.first_chunk::<RECORD_HEAD_BYTES>()?;
    let length = usize::from(u16::from_be_bytes([high, low]));
    let is_record = (20..=24).contains(&kind) && major == 3 && length <= RECORD_BYTES_MAX;
    Some(if is_record { RECORD_HEAD_BYTES + length } else { start.len() })
}
