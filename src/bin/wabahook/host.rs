//! What every route works with: the engine, who a request comes from, and its body. The bodies being read
//! hold at most four times `body_bytes_max` together (I10), and no body is kept before its sender is known.
//! Meta's callbacks are the exception: they are signed as a whole, and have a smaller limit instead.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, StatusCode, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use wabahook::Engine;
use wabahook::registration::Registration;

use crate::caller::{Caller, named_account};
use crate::config::MetaSettings;
use crate::http_error::HttpError;
use crate::port::connections::ClientConnection;

/// How long the sender of a body may pause. Meta and the client libraries do not.
const BODY_PAUSE_MAX: Duration = Duration::from_secs(30);
/// How much of a refused body is read and dropped, so that its sender reads the answer. Four bodies of
/// the default limit; they take no memory.
const DISCARDED_BYTES_MAX: usize = 256 * 1024 * 1024;
/// How long to read a refused body.
const DISCARD_MAX: Duration = Duration::from_secs(60);
/// Memory for bodies is counted in KiB.
const BODY_UNIT: usize = 1024;
/// So many bodies of the largest size are read at once.
const BODIES_AT_ONCE: usize = 4;

/// How many may listen to the notices at once.
const LISTENERS_MAX: usize = 64;
/// How many test deliveries run at once: a quarter of the blocking threads.
const TESTS_AT_ONCE: usize = 4;

/// The state that all routes share.
pub(crate) struct HostState {
    pub(crate) engine: Engine,
    pub(crate) registration: Registration,
    pub(crate) meta: Option<MetaSettings>,
    pub(crate) body_bytes_max: usize,
    /// Changes with each notice of the engine, and when this host stops.
    pub(crate) notice_count: watch::Sender<u64>,
    /// One permit for each listener to the notices.
    pub(crate) listeners: Arc<Semaphore>,
    body_memory: Arc<Semaphore>,
    /// One permit for each test delivery, which waits for a receiver.
    tests: Arc<Semaphore>,
    serving: AtomicBool,
    alive: AtomicBool,
}

/// The id in a path.
pub(crate) struct PathId(pub(crate) String);

/// A request body, with the memory reserved for it.
pub(crate) struct RequestBody {
    pub(crate) bytes: Vec<u8>,
    memory: Option<OwnedSemaphorePermit>,
}

impl HostState {
    pub(crate) fn new(
        engine: Engine,
        meta: Option<MetaSettings>,
        body_bytes_max: usize,
    ) -> HostState {
        let units = body_bytes_max.div_ceil(BODY_UNIT).saturating_mul(BODIES_AT_ONCE);
        let body_memory = Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS)));
        let registration = Registration::new(engine.clone());
        let (serving, alive) = (AtomicBool::new(true), AtomicBool::new(true));
        let tests = Arc::new(Semaphore::new(TESTS_AT_ONCE));
        let listeners = Arc::new(Semaphore::new(LISTENERS_MAX));
        let notice_count = watch::Sender::new(0);
        let counted = notice_count.clone();
        engine.on_notice(move || counted.send_modify(|count| *count += 1));
        HostState {
            engine,
            registration,
            meta,
            body_bytes_max,
            notice_count,
            listeners,
            body_memory,
            tests,
            serving,
            alive,
        }
    }

    /// A permit for a test delivery, held until it is over: a receiver that does not answer must not take
    /// the threads of other requests.
    pub(crate) fn test_permit(&self) -> Result<OwnedSemaphorePermit, HttpError> {
        let permit = Arc::clone(&self.tests).try_acquire_owned();
        permit.map_err(|_| HttpError::busy("too many tests at once; try again when one has ended"))
    }

    /// From now on `/healthz` answers 503, and the streams of notices end.
    pub(crate) fn stop_serving(&self) {
        self.serving.store(false, Ordering::Relaxed);
        self.notice_count.send_modify(|count| *count += 1);
    }

    /// The engine stopped by itself: only a new process helps.
    pub(crate) fn engine_stopped(&self) {
        self.alive.store(false, Ordering::Relaxed);
        self.stop_serving();
    }

    pub(crate) fn is_serving(&self) -> bool {
        self.serving.load(Ordering::Relaxed)
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }

    /// The caller of a request and its body. The body of an unknown caller is dropped.
    pub(crate) async fn admit(
        &self,
        request: Request,
        bytes_max: usize,
    ) -> Result<(Caller, RequestBody), HttpError> {
        let (parts, body) = request.into_parts();
        match self.caller(&parts) {
            Ok(caller) => Ok((caller, self.read_body(&parts.headers, body, bytes_max).await?)),
            Err(error) => {
                discard(&parts.headers, body).await;
                Err(error)
            }
        }
    }

    /// Reads a body of at most `bytes_max` bytes.
    pub(crate) async fn read_body(
        &self,
        headers: &HeaderMap,
        mut body: Body,
        bytes_max: usize,
    ) -> Result<RequestBody, HttpError> {
        let bytes_max = bytes_max.min(self.body_bytes_max);
        if headers.get(header::CONTENT_ENCODING).is_some_and(|given| given != "identity") {
            discard(headers, body).await;
            let message = "content-encoding: compressed bodies are not supported";
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Err(HttpError::new(status, "unsupported_media_type", message));
        }
        if body.size_hint().lower() > bytes_max as u64 {
            discard(headers, body).await;
            return Err(HttpError::too_large(bytes_max));
        }
        let mut whole = RequestBody { bytes: Vec::new(), memory: None };
        while let Some(piece) = next_piece(&mut body).await? {
            if whole.bytes.len() + piece.len() > bytes_max {
                drop(whole);
                discard(headers, body).await;
                return Err(HttpError::too_large(bytes_max));
            }
            if !whole.grow(&piece, &self.body_memory) {
                drop(whole);
                discard(headers, body).await;
                return Err(HttpError::busy("too many large requests at once; try again later"));
            }
        }
        Ok(whole)
    }

    fn caller(&self, parts: &Parts) -> Result<Caller, HttpError> {
        let expected = "expected the account's API key: Authorization: Bearer <key>";
        let Some(given) = parts.headers.get(header::AUTHORIZATION) else {
            return Err(HttpError::unauthorized(&format!("authorization: missing; {expected}")));
        };
        let account = self.engine.accounts().authenticate_header(given.as_bytes());
        let account = account.ok_or_else(|| {
            HttpError::unauthorized(&format!("authorization: no account has this key; {expected}"))
        })?;
        authenticated(&parts.extensions);
        if named_account(&parts.uri).is_some_and(|named| named != account.name()) {
            return Err(HttpError::forbidden("account: this key is of another account"));
        }
        Ok(Caller::of_account(account.name(), "api_key"))
    }
}

impl FromRequestParts<Arc<HostState>> for Caller {
    type Rejection = HttpError;

    async fn from_request_parts(
        parts: &mut Parts,
        host: &Arc<HostState>,
    ) -> Result<Caller, HttpError> {
        host.caller(parts)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for PathId {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<PathId, HttpError> {
        let name = Path::<String>::from_request_parts(parts, state).await;
        let wrong = |_| HttpError::invalid("id", "expected text in UTF-8, percent-encoded");
        name.map(|Path(name)| PathId(name)).map_err(wrong)
    }
}

impl RequestBody {
    /// Adds a piece if there is memory for it.
    fn grow(&mut self, piece: &Bytes, memory: &Arc<Semaphore>) -> bool {
        let held = self.memory.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let wanted = (self.bytes.len() + piece.len()).div_ceil(BODY_UNIT);
        let Ok(more) = u32::try_from(wanted.saturating_sub(held)) else { return false };
        let Ok(more) = Arc::clone(memory).try_acquire_many_owned(more) else { return false };
        match &mut self.memory {
            Some(held) => held.merge(more),
            none => *none = Some(more),
        }
        self.bytes.extend_from_slice(piece);
        true
    }
}

async fn next_piece(body: &mut Body) -> Result<Option<Bytes>, HttpError> {
    loop {
        let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context));
        let frame = tokio::time::timeout(BODY_PAUSE_MAX, frame).await.map_err(|_| {
            let message = format!("the body paused for {} s", BODY_PAUSE_MAX.as_secs());
            HttpError::new(StatusCode::REQUEST_TIMEOUT, "timeout", message)
        })?;
        let Some(frame) = frame else { return Ok(None) };
        let frame = frame.map_err(|_| {
            HttpError::new(StatusCode::BAD_REQUEST, "invalid", "the body is shorter than announced")
        })?;
        if let Ok(piece) = frame.into_data() {
            return Ok(Some(piece));
        }
    }
}

/// The connection of a request is one of a known sender, and is kept in a crowd.
pub(crate) fn authenticated(extensions: &Extensions) {
    if let Some(connection) = extensions.get::<Arc<ClientConnection>>() {
        connection.authenticated();
    }
}

/// Reads and drops a refused body: closing with unread bytes resets the connection, and the sender would
/// see the reset instead of the answer. A sender that expects `100 Continue` has sent no body yet.
async fn discard(headers: &HeaderMap, mut body: Body) {
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
    let _ = tokio::time::timeout(DISCARD_MAX, drop_pieces).await;
}

/// Runs work that may wait for a disk, or compute for long, on a blocking thread.
pub(crate) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, HttpError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| {
        let message = "the request failed inside the host; see its log";
        HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_share_memory_and_give_it_back() {
        let memory = Arc::new(Semaphore::new(3));
        let mut first = RequestBody { bytes: Vec::new(), memory: None };
        let mut second = RequestBody { bytes: Vec::new(), memory: None };
        assert!(first.grow(&Bytes::from(vec![0; 1500]), &memory));
        assert!(first.grow(&Bytes::from(vec![0; 500]), &memory));
        assert_eq!(memory.available_permits(), 1);
        assert!(second.grow(&Bytes::from(vec![1; 1000]), &memory));
        assert!(!second.grow(&Bytes::from(vec![1; 1000]), &memory));
        assert_eq!((first.bytes.len(), second.bytes.len()), (2000, 1000));
        drop(first);
        assert_eq!(memory.available_permits(), 2);
        assert!(second.grow(&Bytes::from(vec![1; 1000]), &memory));
    }
}
