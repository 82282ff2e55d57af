//! A connection that follows a script, for tests and the fuzzer: how much it takes, what arrives, when it closes.

use std::io::{self, ErrorKind};
use std::ops::Range;

use http::Method;

use super::exchange::{Ending, Exchange, Ready, Turn};
use super::stream::{Receiving, Wire};
use crate::delivery::http1::{OutgoingRequest, Progress, ResponseReader, Reuse, Sending};
use crate::transport::{Failure, Request, Response};

struct ScriptedWire<'a> {
    bytes: &'a [u8],
    room: usize,
    arrived: Range<usize>,
    is_closed: bool,
    is_broken: bool,
}

impl ScriptedWire<'_> {
    /// What happens next: it takes more, more arrives, it closes or it breaks.
    fn step(&mut self, step: u8) {
        let amount = usize::from(step >> 2);
        match step & 3 {
            0 => self.room += amount * 4,
            3 if amount == 0 => self.is_broken = true,
            3 if amount == 1 => self.is_closed = true,
            _ if self.is_closed || self.is_broken => {}
            _ => self.arrived.end = self.bytes.len().min(self.arrived.end + amount + 1),
        }
    }
}

impl Wire for ScriptedWire<'_> {
    fn send(&mut self, request: &OutgoingRequest, sent: &mut usize) -> io::Result<Sending> {
        if self.is_broken {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let taken = self.room.min(request.len() - *sent);
        self.room -= taken;
        *sent += taken;
        Ok(if *sent == request.len() { Sending::Complete } else { Sending::Blocked })
    }

    fn receive(
        &mut self,
        scratch: &mut [u8],
        read: &mut dyn FnMut(&[u8]),
    ) -> io::Result<Receiving> {
        let length = scratch.len().min(self.arrived.len());
        if length == 0 {
            return match (self.is_broken, self.is_closed) {
                (true, _) => Err(ErrorKind::ConnectionReset.into()),
                (false, true) => Ok(Receiving::Closed),
                (false, false) => Ok(Receiving::Blocked),
            };
        }
        let end = self.arrived.start + length;
        read(self.bytes.get(self.arrived.start..end).unwrap_or_default());
        self.arrived.start = end;
        Ok(if length < scratch.len() { Receiving::Short } else { Receiving::Full })
    }

    fn has_leftover(&self) -> bool {
        false
    }
}

/// How much is read at once here: little, so that reads end everywhere.
const SCRATCH_BYTES: usize = 16;

/// Runs an exchange over a connection that does what `data` says, and panics where the result is not what the
/// bytes that arrived mean. The first bytes are the script, after a zero byte follow those that arrive.
#[doc(hidden)]
pub fn check_exchange(data: &[u8]) {
    let split = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (script, bytes) = data.split_at(split);
    let bytes = bytes.get(1..).unwrap_or_default();
    let is_reused = script.first().is_some_and(|byte| byte % 2 == 1);
    let mut wire =
        ScriptedWire { bytes, room: 0, arrived: 0..0, is_closed: false, is_broken: false };
    let Some((request, mut exchange)) = begin(is_reused) else { return };
    let mut scratch = [0; SCRATCH_BYTES];
    for step in script.iter().skip(1) {
        wire.step(*step);
        loop {
            let ready = Ready { can_read: true, can_write: true, is_closing: wire.is_closed };
            match exchange.drive(&mut wire, &request, ready, &mut scratch) {
                Turn::Yield => {}
                Turn::Wait | Turn::Drain => break,
                Turn::Over(ending) => {
                    let read = bytes.get(..wire.arrived.start).unwrap_or_default();
                    return check_ending(&ending, read, &wire, is_reused);
                }
            }
        }
    }
    let read = bytes.get(..wire.arrived.start).unwrap_or_default();
    check_ending(&exchange.give_up(Failure::Timeout), read, &wire, is_reused);
}

fn begin(is_reused: bool) -> Option<(OutgoingRequest, Exchange)> {
    let url = "http://crm.example/hook".parse().ok()?;
    let request = Request::new(Method::POST, url, &b"{}"[..]);
    let request = OutgoingRequest::new(&request, None, None).ok()?;
    let exchange = Exchange::new(&request, is_reused);
    Some((request, exchange))
}

/// What the bytes that were read mean by themselves.
fn meaning(read: &[u8]) -> (Option<Progress>, Option<Response>) {
    let mut reader = ResponseReader::new(false, 0);
    let progress = reader.feed(read).ok();
    (progress, progress.and_then(|_| reader.into_response()))
}

fn check_ending(ending: &Ending, read: &[u8], wire: &ScriptedWire<'_>, is_reused: bool) {
    let (progress, response) = meaning(read);
    match ending {
        Ending::Response(given, reuse) => {
            assert_eq!(Some(given), response.as_ref());
            if *reuse == Reuse::Keep {
                assert_eq!(progress, Some(Progress::Done(Reuse::Keep)));
                assert!(wire.arrived.is_empty() && !wire.is_closed && !wire.is_broken);
            }
        }
        Ending::Stale => {
            assert!(is_reused && read.is_empty() && (wire.is_closed || wire.is_broken))
        }
        Ending::Failed(Failure::Protocol) => assert_eq!(progress, None),
        Ending::Failed(failure) => {
            assert_eq!(response, None, "{failure}");
            let is_ended = wire.is_closed || wire.is_broken;
            assert_eq!(*failure == Failure::Connect, is_ended, "{failure}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn an_exchange_ends_as_its_bytes_say(
            script in proptest::collection::vec(1..=255_u8, 0..60),
            responses in proptest::collection::vec(proptest::sample::select(vec![
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
                "HTTP/1.1 100 Continue\r\n\r\n",
                "HTTP/1.1 503 Busy\r\ntransfer-encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
                "HTTP/1.1 204 No Content\r\n\r\n",
                "nonsense",
            ]), 0..4),
        ) {
            let bytes = responses.concat().into_bytes();
            check_exchange(&[script, vec![0], bytes].concat());
        }
    }
}
