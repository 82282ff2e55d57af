//! HTTP/1.1 as a client speaks it, over bytes and without I/O: what a request looks like, how a response is
//! read, and whether the connection may carry another request afterwards.
//!
//! Everything here is a function of the bytes: how they were cut into pieces on the way changes nothing.

mod chunked;
mod request;
mod response;

pub(crate) use request::{OutgoingRequest, Sending, USER_AGENT_VALUE};
pub(crate) use response::{Progress, ResponseReader, Reuse};

/// Reads bytes as a response, whole and cut at these places, and panics where the results differ. For the fuzzer.
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub fn check_response(bytes: &[u8], cuts: &[u8], is_head_request: bool) {
    let read = |pieces: &mut dyn Iterator<Item = usize>| {
        let mut reader = ResponseReader::new(is_head_request, 0);
        let mut rest = bytes;
        while !rest.is_empty() {
            let length = pieces.next().map_or(rest.len(), |length| length.clamp(1, rest.len()));
            let (piece, later) = rest.split_at(length);
            rest = later;
            if reader.feed(piece).is_err() {
                return None;
            }
        }
        Some((reader.progress(), reader.into_response()))
    };
    let whole = read(&mut std::iter::empty());
    assert_eq!(read(&mut cuts.iter().map(|cut| usize::from(*cut))), whole);
    assert_eq!(read(&mut std::iter::repeat(1)), whole);
}
