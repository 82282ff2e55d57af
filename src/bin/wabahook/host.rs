//! Decides who a request comes from and how much of its body is taken in.
//!
//! Leaves to others: what the request asks for. Invariant (I10): the bodies under way never hold
//! more than four times `body_bytes_max` together, and no body is kept before its sender is known
//! (Meta's callbacks, which are signed as a whole, have a smaller limit instead).

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use wabahook::Engine;
use wabahook::registration::Registration;

use crate::config::Meta;
use crate::notices::LISTENERS_MAX;
use crate::refusal::Refusal;

/// How long a body may pause. Meta and every client library send without pausing.
const BODY_PAUSE_MAX: Duration = Duration::from_secs(30);
/// How much of a refused body is read past, so that its sender gets to read the answer. Four bodies
/// of the default limit; they pass by and take no memory.
const DISCARDED_BYTES_MAX: usize = 256 * 1024 * 1024;
/// The room for bodies is counted in KiB.
const ROOM_UNIT: usize = 1024;
/// So many bodies of the largest size are taken in at once.
const BODIES_AT_ONCE: usize = 4;

/// So many subscriptions are tested at once, a quarter of the threads that wait.
const TESTS_AT_ONCE: usize = 4;

/// What every route works on.
pub(crate) struct Host {
    pub(crate) engine: Engine,
    pub(crate) registration: Registration,
    pub(crate) meta: Option<Meta>,
    pub(crate) body_bytes_max: usize,
    /// Changes whenever the engine told something, or this host stops.
    pub(crate) told: watch::Sender<u64>,
    /// The places for those who listen to the notices.
    pub(crate) listeners: Arc<Semaphore>,
    room: Arc<Semaphore>,
    /// Room for tests of subscriptions, each of which waits for a receiver.
    tests: Arc<Semaphore>,
    serving: AtomicBool,
}

/// The account whose API key a request shows.
pub(crate) struct Caller(pub(crate) String);

/// The part of a path that names a thing.
pub(crate) struct Named(pub(crate) String);

/// A request body, with the room it takes until it is dropped.
pub(crate) struct Taken {
    pub(crate) bytes: Vec<u8>,
    room: Option<OwnedSemaphorePermit>,
}

impl Host {
    pub(crate) fn new(engine: Engine, meta: Option<Meta>, body_bytes_max: usize) -> Host {
        let room = body_bytes_max.div_ceil(ROOM_UNIT).saturating_mul(BODIES_AT_ONCE);
        let room = Arc::new(Semaphore::new(room.min(Semaphore::MAX_PERMITS)));
        let (registration, serving) = (Registration::new(engine.clone()), AtomicBool::new(true));
        let tests = Arc::new(Semaphore::new(TESTS_AT_ONCE));
        let listeners = Arc::new(Semaphore::new(LISTENERS_MAX));
        let told = watch::Sender::new(0);
        let wake = told.clone();
        engine.on_notice(move || wake.send_modify(|changes| *changes += 1));
        Host { engine, registration, meta, body_bytes_max, told, listeners, room, tests, serving }
    }

    /// A place for a test of a subscription, held until it is over: its receiver may not answer, and
    /// must not take the threads of other requests.
    pub(crate) fn place_for_test(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        let place = Arc::clone(&self.tests).try_acquire_owned();
        place.map_err(|_| Refusal::busy("too many tests at once; try again when one has ended"))
    }

    /// From now on `/healthz` says that this host does not serve, and nobody listens on.
    pub(crate) fn stop_serving(&self) {
        self.serving.store(false, Ordering::Relaxed);
        self.told.send_modify(|changes| *changes += 1);
    }

    pub(crate) fn is_serving(&self) -> bool {
        self.serving.load(Ordering::Relaxed)
    }

    /// The caller of a request and its body; the body is kept only for a caller that is known.
    pub(crate) async fn admit(
        &self,
        request: Request,
        bytes_max: usize,
    ) -> Result<(Caller, Taken), Refusal> {
        let (parts, body) = request.into_parts();
        match self.caller(&parts.headers) {
            Ok(caller) => Ok((caller, self.take(&parts.headers, body, bytes_max).await?)),
            Err(refusal) => {
                discard(&parts.headers, body).await;
                Err(refusal)
            }
        }
    }

    /// Reads a body of at most `bytes_max` bytes.
    pub(crate) async fn take(
        &self,
        headers: &HeaderMap,
        mut body: Body,
        bytes_max: usize,
    ) -> Result<Taken, Refusal> {
        let bytes_max = bytes_max.min(self.body_bytes_max);
        if headers.get(header::CONTENT_ENCODING).is_some_and(|given| given != "identity") {
            discard(headers, body).await;
            let message = "content-encoding: compressed bodies are not supported; send it plain";
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Err(Refusal::new(status, "unsupported_media_type", message));
        }
        if body.size_hint().lower() > bytes_max as u64 {
            discard(headers, body).await;
            return Err(Refusal::too_large(bytes_max));
        }
        let mut taken = Taken { bytes: Vec::new(), room: None };
        while let Some(piece) = next_piece(&mut body).await? {
            if taken.bytes.len() + piece.len() > bytes_max {
                drop(taken);
                discard(headers, body).await;
                return Err(Refusal::too_large(bytes_max));
            }
            if !taken.grow(&piece, &self.room) {
                drop(taken);
                discard(headers, body).await;
                return Err(Refusal::busy("too many large requests at once; try again later"));
            }
        }
        Ok(taken)
    }

    fn caller(&self, headers: &HeaderMap) -> Result<Caller, Refusal> {
        let expected = "expected the account's API key: Authorization: Bearer <key>";
        let Some(shown) = headers.get(header::AUTHORIZATION) else {
            return Err(Refusal::unauthorized(&format!("authorization: missing; {expected}")));
        };
        let account = self.engine.accounts().authenticate_header(shown.as_bytes());
        let account = account.ok_or_else(|| {
            Refusal::unauthorized(&format!("authorization: no account has this key; {expected}"))
        })?;
        Ok(Caller(account.name().to_owned()))
    }
}

impl FromRequestParts<Arc<Host>> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, host: &Arc<Host>) -> Result<Caller, Refusal> {
        host.caller(&parts.headers)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Named, Refusal> {
        let name = Path::<String>::from_request_parts(parts, state).await;
        let refused = |_| Refusal::invalid("id", "expected text in UTF-8, percent-encoded");
        name.map(|Path(name)| Named(name)).map_err(refused)
    }
}

impl Taken {
    /// Adds a piece if there is room for it.
    fn grow(&mut self, piece: &Bytes, room: &Arc<Semaphore>) -> bool {
        let held = self.room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let wanted = (self.bytes.len() + piece.len()).div_ceil(ROOM_UNIT);
        let Ok(more) = u32::try_from(wanted.saturating_sub(held)) else { return false };
        let Ok(more) = Arc::clone(room).try_acquire_many_owned(more) else { return false };
        match &mut self.room {
            Some(held) => held.merge(more),
            none => *none = Some(more),
        }
        self.bytes.extend_from_slice(piece);
        true
    }
}

async fn next_piece(body: &mut Body) -> Result<Option<Bytes>, Refusal> {
    loop {
        let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context));
        let frame = tokio::time::timeout(BODY_PAUSE_MAX, frame).await.map_err(|_| {
            let message = format!("the body paused for {} s", BODY_PAUSE_MAX.as_secs());
            Refusal::new(StatusCode::REQUEST_TIMEOUT, "timeout", message)
        })?;
        let Some(frame) = frame else { return Ok(None) };
        let frame = frame.map_err(|_| {
            Refusal::new(StatusCode::BAD_REQUEST, "invalid", "the body ended before its end")
        })?;
        if let Ok(piece) = frame.into_data() {
            return Ok(Some(piece));
        }
    }
}

/// Reads past a refused body: closing with bytes unread resets the connection, and the sender
/// would see the reset in place of the answer. A sender that asked first is not waited for.
async fn discard(headers: &HeaderMap, mut body: Body) {
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let mut discarded = 0;
    while let Ok(Some(piece)) = next_piece(&mut body).await {
        discarded += piece.len();
        if discarded > DISCARDED_BYTES_MAX {
            return;
        }
    }
}

/// Runs what may wait for a disk, or reckons long, on a thread kept for that.
pub(crate) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.map_err(|_| {
        let message = "the request failed for a reason of our own; the host's log says which";
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_share_their_room_and_give_it_back() {
        let room = Arc::new(Semaphore::new(3));
        let mut first = Taken { bytes: Vec::new(), room: None };
        let mut second = Taken { bytes: Vec::new(), room: None };
        assert!(first.grow(&Bytes::from(vec![0; 1500]), &room));
        assert!(first.grow(&Bytes::from(vec![0; 500]), &room));
        assert_eq!(room.available_permits(), 1);
        assert!(second.grow(&Bytes::from(vec![1; 1000]), &room));
        assert!(!second.grow(&Bytes::from(vec![1; 1000]), &room));
        assert_eq!((first.bytes.len(), second.bytes.len()), (2000, 1000));
        drop(first);
        assert_eq!(room.available_permits(), 2);
        assert!(second.grow(&Bytes::from(vec![1; 1000]), &room));
    }
}
