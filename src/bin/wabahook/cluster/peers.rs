//! Sends requests to other hosts over kept connections. What matters when that fails is whether the other host may have
//! begun with the request: one that was never sent can be sent again, whatever it does.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::request::Parts;
use axum::http::{HeaderName, Request, Uri, header};
use axum::response::Response;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use rustls::ClientConfig;
use wabahook::Secret;
use wabahook::clock::{Clock, SystemClock};

use super::connector::PeerConnector;
use super::mark::{FORWARDED, ForwardMark, MARK_REFUSED};

/// Shorter than the time after which a host closes a connection without requests.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// For how long `/healthz` tells that a host could not be reached, where nothing is sent to it since.
const PROBLEM_TOLD_MS: u64 = 60_000;

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

/// Why a host does not get what is forwarded to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PeerProblem {
    Unreachable,
    /// It has another `cluster.key`, or the clocks differ.
    MarkRefused,
}

impl PeerProblem {
    pub(super) fn text(self) -> &'static str {
        match self {
            PeerProblem::Unreachable => "cannot be reached at its address",
            PeerProblem::MarkRefused => "refuses what this host forwards: see its log",
        }
    }
}

/// The connections to other hosts.
pub(super) struct Peers {
    client: Client<PeerConnector, Body>,
    key: Secret,
    clock: SystemClock,
    /// By address, the problem of the last request and when it was sent.
    problems: Mutex<BTreeMap<String, (PeerProblem, u64)>>,
}

impl Peers {
    pub(super) fn new(key: Secret, tls: Option<Arc<ClientConfig>>) -> Peers {
        let mut client = Client::builder(TokioExecutor::new());
        client.pool_idle_timeout(IDLE_MAX).pool_timer(TokioTimer::new());
        let (client, clock) = (client.build(PeerConnector::new(tls)), SystemClock::new());
        Peers { client, key, clock, problems: Mutex::default() }
    }

    /// The problem with the host at an address, if the last request of the last minute met one.
    pub(super) fn problem(&self, address: &str) -> Option<PeerProblem> {
        let now_ms = self.clock.monotonic_ms();
        let problems = self.problems.lock();
        let (problem, at_ms) = problems.get(address)?;
        (now_ms.saturating_sub(*at_ms) < PROBLEM_TOLD_MS).then_some(*problem)
    }

    fn note(&self, address: &str, problem: Option<PeerProblem>) {
        let mut problems = self.problems.lock();
        match problem {
            Some(problem) => {
                problems.insert(address.to_owned(), (problem, self.clock.monotonic_ms()));
            }
            None => drop(problems.remove(address)),
        }
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
            Ok(response) if response.headers().contains_key(&MARK_REFUSED) => {
                self.note(address, Some(PeerProblem::MarkRefused));
                tracing::warn!(
                    address,
                    "another host refuses what this host forwards: see its log"
                );
                Err(ForwardFailure::NotSent)
            }
            Ok(response) => {
                self.note(address, None);
                Ok(response.map(Body::new))
            }
            Err(error) if error.is_connect() => {
                self.note(address, Some(PeerProblem::Unreachable));
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

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::StatusCode;

    use super::super::mark::ForwardTarget;
    use super::*;

    async fn send(peers: &Peers, address: &str) -> Result<Response, ForwardFailure> {
        let (parts, ()) = Request::new(()).into_parts();
        let client = [127, 0, 0, 1].into();
        let mark = ForwardMark { target: ForwardTarget::Host, client };
        peers.send(address, mark, &parts, Bytes::new()).await
    }

    /// A host that answers every request so.
    async fn host(answer: (StatusCode, [(HeaderName, &'static str); 1])) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let routes = Router::new().fallback(async move || answer);
        tokio::spawn(async move { axum::serve(listener, routes).await });
        address
    }

    // A host with another key refuses every mark. Its refusal must not reach the customer.
    #[tokio::test]
    async fn a_refused_mark_counts_as_not_sent() {
        let refused = [(MARK_REFUSED, "1")];
        let address = host((StatusCode::FORBIDDEN, refused)).await;
        let peers = Peers::new(Secret::new("the key of the cluster"), None);
        let sent = send(&peers, &address).await;
        assert!(matches!(sent, Err(ForwardFailure::NotSent)));
        assert_eq!(peers.problem(&address), Some(PeerProblem::MarkRefused));
    }

    #[tokio::test]
    async fn a_problem_is_told_until_the_host_answers() {
        let address = host((StatusCode::OK, [(header::SERVER, "it")])).await;
        let peers = Peers::new(Secret::new("the key of the cluster"), None);
        peers.note(&address, Some(PeerProblem::Unreachable));
        assert_eq!(peers.problem(&address), Some(PeerProblem::Unreachable));
        assert!(send(&peers, &address).await.is_ok());
        assert_eq!(peers.problem(&address), None);
        // Nothing listens there.
        assert!(send(&peers, "http://127.0.0.1:1").await.is_err());
        assert_eq!(peers.problem("http://127.0.0.1:1"), Some(PeerProblem::Unreachable));
    }
}
