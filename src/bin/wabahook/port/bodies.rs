//! Reads request bodies. A body has a deadline, a least rate and a longest pause, and its memory is in a room: of
//! the accounts, of strangers, or of addresses that lately sent a valid signature, which is the reserve for
//! Meta's callbacks. What is refused is read and dropped for a while, so that its sender reads the answer.

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderMap, StatusCode, header};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout, timeout_at};

use super::body_room::{BodyHolder, BodyRoom, BodyShare, WhenFull};
use super::connections::network_of;
use crate::http_error::HttpError;

/// How many bodies of the largest size the accounts' room holds.
const BODIES_AT_ONCE: usize = 4;
/// The room of strangers, and the reserve of senders with a valid signature: eight of Meta's largest bodies each.
const STRANGERS_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How many networks with a valid signature are remembered, and for how long.
const SIGNED_NETWORKS_MAX: usize = 1_024;
const SIGNED_FOR: Duration = Duration::from_secs(24 * 3600);
/// How long the sender of a body may pause. Meta and the client libraries do not.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long a body may take before its rate counts.
const RATE_GRACE: Duration = Duration::from_secs(20);
/// How much of a refused body is read and dropped: four bodies of the default limit. They take no memory.
const DISCARDED_BYTES_MAX: usize = 256 * 1024 * 1024;
/// How long to read a refused body: of a sender with a key, and of a stranger.
const DISCARD_MAX: Duration = Duration::from_secs(60);
const STRANGER_DISCARD_MAX: Duration = Duration::from_secs(5);

/// The bounds of bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BodyLimits {
    pub(crate) bytes_max: usize,
    /// From the head of the request to the end of its body.
    pub(crate) timeout: Duration,
    /// In bytes per second, after the first 20 seconds.
    pub(crate) rate_min: usize,
}

impl Default for BodyLimits {
    fn default() -> BodyLimits {
        BodyLimits {
            // A request of 10,000 events of 6 KiB fits.
            bytes_max: 64 * 1024 * 1024,
            timeout: Duration::from_secs(300),
            rate_min: 16 * 1024,
        }
    }
}

/// Reads bodies within the limits.
pub(crate) struct Bodies {
    limits: BodyLimits,
    accounts: BodyRoom,
    strangers: BodyRoom,
    signed: BodyRoom,
    /// Networks that sent a valid signature, and when.
    signed_networks: Mutex<HashMap<IpAddr, Instant>>,
}

/// A whole request body, with the memory reserved for it.
pub(crate) struct RequestBody {
    pub(crate) bytes: Vec<u8>,
    _memory: Option<BodyShare>,
}

impl RequestBody {
    pub(crate) fn empty() -> RequestBody {
        RequestBody { bytes: Vec::new(), _memory: None }
    }
}

/// Why a body is not read to its end.
enum BodyFault {
    /// The rest is read and dropped.
    Refused(HttpError),
    /// Reading the rest would be what the sender wants.
    Abandoned(HttpError),
    /// The sender went away.
    Broken(HttpError),
}

impl Bodies {
    pub(crate) fn new(limits: BodyLimits) -> Bodies {
        let bytes_max = limits.bytes_max.saturating_mul(BODIES_AT_ONCE);
        let strangers = || BodyRoom::new(STRANGERS_BYTES_MAX, STRANGERS_BYTES_MAX, WhenFull::Cut);
        Bodies {
            limits,
            accounts: BodyRoom::new(bytes_max, bytes_max / 2, WhenFull::Refuse),
            strangers: strangers(),
            signed: strangers(),
            signed_networks: Mutex::default(),
        }
    }

    /// Reads a body of at most `bytes_max` bytes. A compressed one is refused.
    pub(crate) async fn read(
        &self,
        headers: &HeaderMap,
        body: Body,
        holder: BodyHolder,
        bytes_max: usize,
    ) -> Result<RequestBody, HttpError> {
        if headers.get(header::CONTENT_ENCODING).is_some_and(|given| given != "identity") {
            discard_for(headers, body, discard_max(&holder)).await;
            let message = "content-encoding: compressed bodies are not supported";
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Err(HttpError::new(status, "unsupported_media_type", message));
        }
        self.read_encoded(headers, body, holder, bytes_max).await
    }

    /// Reads a body of at most `bytes_max` bytes as it is, compressed or not.
    pub(crate) async fn read_encoded(
        &self,
        headers: &HeaderMap,
        mut body: Body,
        holder: BodyHolder,
        bytes_max: usize,
    ) -> Result<RequestBody, HttpError> {
        let bytes_max = bytes_max.min(self.limits.bytes_max);
        let (discard_max, from) = (discard_max(&holder), holder.clone());
        match self.read_whole(&mut body, holder, bytes_max).await {
            Ok(whole) => Ok(whole),
            Err(BodyFault::Refused(error)) => {
                log_refused(&from, &error);
                discard_for(headers, body, discard_max).await;
                Err(error)
            }
            Err(BodyFault::Abandoned(error)) => {
                log_refused(&from, &error);
                Err(error)
            }
            Err(BodyFault::Broken(error)) => Err(error),
        }
    }

    async fn read_whole(
        &self,
        body: &mut Body,
        holder: BodyHolder,
        bytes_max: usize,
    ) -> Result<RequestBody, BodyFault> {
        if body.size_hint().lower() > bytes_max as u64 {
            return Err(BodyFault::Refused(HttpError::too_large(bytes_max)));
        }
        let mut memory = self.room(&holder).open(holder);
        let started = Instant::now();
        let mut bytes = Vec::new();
        loop {
            let deadline = deadline(&self.limits, started, Instant::now(), bytes.len());
            let piece = tokio::select! {
                () = memory.cut() => return Err(BodyFault::Abandoned(cut())),
                piece = timeout_at(deadline, next_piece(body)) => piece,
            };
            let piece = piece.map_err(|_| BodyFault::Abandoned(too_slow()))?;
            let Some(piece) = piece.map_err(BodyFault::Broken)? else { break };
            if bytes.len() + piece.len() > bytes_max {
                return Err(BodyFault::Refused(HttpError::too_large(bytes_max)));
            }
            if !memory.grow_to(bytes.len() + piece.len()) {
                let busy = HttpError::busy("too many large requests at once; try again later");
                return Err(BodyFault::Refused(busy.of_host()));
            }
            bytes.extend_from_slice(&piece);
        }
        memory.finish();
        Ok(RequestBody { bytes, _memory: Some(memory) })
    }

    /// A body from this address had a valid signature: its next ones are read in the reserve.
    pub(crate) fn signature_was_valid(&self, address: IpAddr) {
        let mut networks = self.signed_networks.lock();
        let now = Instant::now();
        if networks.len() >= SIGNED_NETWORKS_MAX {
            networks.retain(|_, at| now.duration_since(*at) < SIGNED_FOR);
        }
        if networks.len() < SIGNED_NETWORKS_MAX {
            networks.insert(network_of(address), now);
        }
    }

    fn room(&self, holder: &BodyHolder) -> &BodyRoom {
        let BodyHolder::Stranger(address) = holder else { return &self.accounts };
        let is_recent = |at: &Instant| at.elapsed() < SIGNED_FOR;
        match self.signed_networks.lock().get(address).is_some_and(is_recent) {
            true => &self.signed,
            false => &self.strangers,
        }
    }
}

/// How long to read a refused body.
fn discard_max(holder: &BodyHolder) -> Duration {
    match holder {
        BodyHolder::Account(_) => DISCARD_MAX,
        BodyHolder::Stranger(_) => STRANGER_DISCARD_MAX,
    }
}

/// The deadline for the next piece of a body.
fn deadline(limits: &BodyLimits, started: Instant, now: Instant, received: usize) -> Instant {
    let seconds = received / limits.rate_min.max(1);
    let by_rate = started + RATE_GRACE + Duration::from_secs(seconds as u64);
    by_rate.min(started + limits.timeout).min(now + PAUSE_MAX)
}

fn log_refused(from: &BodyHolder, error: &HttpError) {
    tracing::warn!(%from, "a request body is refused: {}", error.message());
}

fn too_slow() -> HttpError {
    let message = "the body came too slowly";
    HttpError::new(StatusCode::REQUEST_TIMEOUT, "timeout", message)
}

fn cut() -> HttpError {
    HttpError::busy("too many unfinished bodies at once; try again later")
}

async fn next_piece(body: &mut Body) -> Result<Option<Bytes>, HttpError> {
    loop {
        let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context));
        let Some(frame) = frame.await else { return Ok(None) };
        let frame = frame.map_err(|_| {
            HttpError::new(StatusCode::BAD_REQUEST, "invalid", "the body is shorter than announced")
        })?;
        if let Ok(piece) = frame.into_data() {
            return Ok(Some(piece));
        }
    }
}

/// Reads and drops the body of a sender that is not authenticated.
pub(crate) async fn discard(headers: &HeaderMap, body: Body) {
    discard_for(headers, body, STRANGER_DISCARD_MAX).await;
}

/// Reads and drops a refused body: closing with unread bytes resets the connection, and the sender would
/// see the reset instead of the answer. A sender that expects `100 Continue` has sent no body yet.
async fn discard_for(headers: &HeaderMap, mut body: Body, time_max: Duration) {
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let drop_pieces = async {
        let mut discarded = 0;
        while let Ok(Some(piece)) = next_piece(&mut body).await {
            discarded += piece.len();
            if discarded > DISCARDED_BYTES_MAX {
                return;
            }
        }
    };
    let _ = timeout(time_max, drop_pieces).await;
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll};

    use hyper::body::Frame;

    use super::*;

    /// A body of which nothing comes.
    struct Silent;

    impl HttpBody for Silent {
        type Data = Bytes;
        type Error = std::io::Error;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
            Poll::Pending
        }
    }

    #[test]
    fn a_body_has_a_deadline_a_least_rate_and_a_longest_pause() {
        let (limits, start) = (BodyLimits::default(), Instant::now());
        let at = |second| start + Duration::from_secs(second);
        assert_eq!(deadline(&limits, start, start, 0), at(20));
        assert_eq!(deadline(&limits, start, at(19), 16 * 1024), at(21));
        assert_eq!(deadline(&limits, start, at(10), 1 << 20), at(40), "the pause");
        assert_eq!(deadline(&limits, start, at(290), 1 << 30), at(300), "the whole body");
    }

    #[tokio::test]
    async fn signed_senders_have_a_room_of_their_own() {
        let bodies = Bodies::new(BodyLimits::default());
        let address = IpAddr::from([192, 0, 2, 1]);
        let room = |address| bodies.room(&BodyHolder::stranger(address));
        assert!(std::ptr::eq(room(address), &raw const bodies.strangers));
        bodies.signature_was_valid(address);
        assert!(std::ptr::eq(room(address), &raw const bodies.signed));
        assert!(std::ptr::eq(room(IpAddr::from([192, 0, 2, 2])), &raw const bodies.strangers));
    }

    #[tokio::test]
    async fn a_dripping_body_is_cut() {
        let limits = BodyLimits { timeout: Duration::from_millis(50), ..BodyLimits::default() };
        let holder = BodyHolder::Account("acme".to_owned());
        let bodies = Bodies::new(limits);
        let read = bodies.read(&HeaderMap::new(), Body::new(Silent), holder, 1_000).await;
        assert!(format!("{:?}", read.err()).contains("too slowly"));
    }
}
