//! Sends requests to other hosts over kept connections. What matters when that fails is whether the other host may have
//! begun with the request: one that was never sent can be sent again, whatever it does.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::request::Parts;
use axum::http::{HeaderName, Request, Uri, header};
use axum::response::Response;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use wabahook::Secret;
use wabahook::clock::{Clock, SystemClock};

use super::connector::PeerConnector;
use super::mark::{FORWARDED, ForwardMark};

/// Shorter than the time after which a host closes a connection without requests.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// What belongs to one connection and not to the request.
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::CONTENT_LENGTH,
    header::EXPECT,
];

/// Why no answer came.
#[derive(Debug)]
pub(super) enum ForwardFailure {
    /// The other host has not begun with the request.
    NotSent,
    /// It may have begun with it.
    Unknown,
}

/// The connections to other hosts.
pub(super) struct Peers {
    client: Client<PeerConnector, Body>,
    key: Secret,
    clock: SystemClock,
}

impl Peers {
    pub(super) fn new(key: Secret, tls: Option<Arc<ClientConfig>>) -> Peers {
        let mut client = Client::builder(TokioExecutor::new());
        client.pool_idle_timeout(IDLE_MAX).pool_timer(TokioTimer::new());
        Peers { client: client.build(PeerConnector::new(tls)), key, clock: SystemClock::new() }
    }

    /// The mark of a request that another host sent here.
    pub(super) fn mark_of(&self, parts: &Parts) -> Result<Option<ForwardMark>, &'static str> {
        let request = (&parts.method, &parts.uri, &parts.headers);
        ForwardMark::read(&self.key, request, self.now_s())
    }

    /// Sends a request whole, with a mark, and returns the answer as it comes.
    pub(super) async fn send(
        &self,
        address: &str,
        mark: ForwardMark,
        parts: &Parts,
        body: Bytes,
    ) -> Result<Response, ForwardFailure> {
        let request = self.request(address, mark, parts, body).ok_or(ForwardFailure::NotSent)?;
        match self.client.request(request).await {
            Ok(response) => Ok(response.map(Body::new)),
            Err(error) if error.is_connect() => {
                let why = error.source().map(ToString::to_string).unwrap_or_default();
                tracing::warn!(why, address, "another host cannot be reached");
                Err(ForwardFailure::NotSent)
            }
            Err(error) => {
                tracing::warn!(%error, address, "a forwarded request was not answered");
                Err(ForwardFailure::Unknown)
            }
        }
    }

    fn request(
        &self,
        address: &str,
        mark: ForwardMark,
        parts: &Parts,
        body: Bytes,
    ) -> Option<Request<Body>> {
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let uri: Uri = format!("{address}{path}").parse().ok()?;
        let header = mark.header(&self.key, &parts.method, &uri, self.now_s())?;
        let mut request = Request::new(Body::from(body));
        *request.method_mut() = parts.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = parts.headers.clone();
        let headers = request.headers_mut();
        HOP_BY_HOP.iter().for_each(|name| drop(headers.remove(name)));
        headers.insert(FORWARDED, header);
        Some(request)
    }

    fn now_s(&self) -> u64 {
        self.clock.wall_ms() / 1_000
    }
}
