//! One request and its response over a connection, driven by what the connection can do at the moment.
//!
//! A response may come before the whole request was sent: it counts, and the connection is closed. A
//! connection that was used before and closes without a byte of response is stale, which is no failure of the
//! receiver.

use std::io::{self, ErrorKind};

use super::stream::{Receiving, Wire};
use crate::delivery::http1::{OutgoingRequest, Progress, ResponseReader, Reuse, Sending};
use crate::delivery::tls::word_of;
use crate::transport::{Failure, Response};

/// An exchange in progress.
#[derive(Debug)]
pub(super) struct Exchange {
    reader: ResponseReader,
    /// Bytes of the request that were written.
    sent: usize,
    sending: SendState,
    /// Whether the connection carried a request before.
    is_reused: bool,
}

/// How far the sending of the request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SendState {
    Open,
    Complete,
    /// The other side took no more, or has answered before it had all.
    Cut,
}

/// What became of an exchange at this turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Turn {
    /// It waits for the connection.
    Wait,
    /// It waits for the connection, and the status is known.
    Drain,
    /// It used up its share of this turn and can go on at once.
    Yield,
    Over(Ending),
}

/// How an exchange ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// A response, and what becomes of the connection.
    Response(Response, Reuse),
    /// The connection was closed before, which a fresh one is not.
    Stale,
    /// No usable response.
    Failed(Failure),
}

/// What the connection can do, as the system says.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ready {
    pub(super) can_read: bool,
    pub(super) can_write: bool,
    /// The other side sends no more after what there is to read.
    pub(super) is_closing: bool,
}

/// After so many reads of one connection others have their turn.
const READS_MAX: usize = 8;

impl Exchange {
    pub(super) fn new(request: &OutgoingRequest, is_reused: bool) -> Exchange {
        let reader = ResponseReader::new(request.is_head(), request.wall_ms());
        Exchange { reader, sent: 0, sending: SendState::Open, is_reused }
    }

    /// Reads what arrived with the TLS handshake, before the request was sent.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Option<Ending> {
        self.reader.feed(bytes).is_err().then_some(Ending::Failed(Failure::Protocol))
    }

    /// Whether all of the request was written, so that its bytes are not needed again.
    pub(super) fn is_sent(&self) -> bool {
        self.sending == SendState::Complete && !self.is_reused
    }

    /// Goes on as far as the connection allows.
    pub(super) fn drive(
        &mut self,
        wire: &mut impl Wire,
        request: &OutgoingRequest,
        ready: Ready,
        scratch: &mut [u8],
    ) -> Turn {
        if ready.can_write
            && self.sending == SendState::Open
            && let Err(error) = self.send(wire, request)
        {
            return Turn::Over(Ending::Failed(failure(&error)));
        }
        let is_cut = self.sending == SendState::Cut;
        if ready.can_read || ready.is_closing || is_cut {
            return self.receive(wire, ready, scratch);
        }
        self.waiting()
    }

    /// The result of an exchange that timed out or is interrupted.
    pub(super) fn give_up(self, otherwise: Failure) -> Ending {
        match self.reader.into_response() {
            Some(response) => Ending::Response(response, Reuse::Close),
            None => Ending::Failed(otherwise),
        }
    }

    fn send(&mut self, wire: &mut impl Wire, request: &OutgoingRequest) -> io::Result<()> {
        match wire.send(request, &mut self.sent) {
            Ok(Sending::Complete) => self.sending = SendState::Complete,
            Ok(Sending::Blocked) => {}
            // A response from before the connection was closed can still be read.
            Err(error) if is_cut(&error) => self.sending = SendState::Cut,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn receive(&mut self, wire: &mut impl Wire, ready: Ready, scratch: &mut [u8]) -> Turn {
        for _ in 0..READS_MAX {
            let reader = &mut self.reader;
            let mut is_malformed = false;
            let received = wire.receive(scratch, &mut |bytes| {
                is_malformed = is_malformed || reader.feed(bytes).is_err();
            });
            if is_malformed {
                return Turn::Over(Ending::Failed(Failure::Protocol));
            }
            if self.reader.progress() != Progress::Head && self.sending == SendState::Open {
                self.sending = SendState::Cut;
            }
            if let Progress::Done(reuse) = self.reader.progress() {
                let is_open = matches!(received, Ok(Receiving::Short | Receiving::Blocked));
                let is_whole = self.sending == SendState::Complete;
                let is_kept = is_open && is_whole && !ready.is_closing && !wire.has_leftover();
                return self.over(if is_kept { reuse } else { Reuse::Close });
            }
            match received {
                // The end of the connection was announced, and comes with the next read.
                Ok(Receiving::Short) if ready.is_closing => {}
                Ok(Receiving::Full) => {}
                Ok(Receiving::Short) => return self.waiting(),
                Ok(Receiving::Blocked) if self.sending == SendState::Cut && !self.has_status() => {
                    return self.closed(None);
                }
                Ok(Receiving::Blocked) => return self.waiting(),
                Ok(Receiving::Closed) => return self.closed(None),
                Err(error) => return self.closed(Some(&error)),
            }
        }
        Turn::Yield
    }

    /// Whether the status of the response is known.
    pub(super) fn has_status(&self) -> bool {
        self.reader.progress() != Progress::Head
    }

    fn waiting(&self) -> Turn {
        if self.has_status() { Turn::Drain } else { Turn::Wait }
    }

    fn over(&mut self, reuse: Reuse) -> Turn {
        let reader = std::mem::replace(&mut self.reader, ResponseReader::new(false, 0));
        match reader.into_response() {
            Some(response) => Turn::Over(Ending::Response(response, reuse)),
            None => Turn::Over(Ending::Failed(Failure::Connect)),
        }
    }

    /// The connection is closed or broken.
    fn closed(&mut self, error: Option<&io::Error>) -> Turn {
        if self.has_status() {
            return self.over(Reuse::Close);
        }
        let is_cut = error.is_none_or(is_cut);
        if is_cut && self.is_reused && !self.reader.has_begun() {
            return Turn::Over(Ending::Stale);
        }
        Turn::Over(Ending::Failed(error.map_or(Failure::Connect, failure)))
    }
}

/// What an error of a connection means for the attempt. Its text may name an address, so nothing of it is
/// kept.
pub(in crate::delivery) fn failure(error: &io::Error) -> Failure {
    // A handshake that fails comes as an I/O error around the reason.
    if let Some(word) = word_of(error) {
        return Failure::Tls(word.to_owned());
    }
    match error.kind() {
        ErrorKind::TimedOut => Failure::Timeout,
        _ => Failure::Connect,
    }
}

/// The connection broke, from whichever side.
fn is_cut(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::NotConnected
    )
}
