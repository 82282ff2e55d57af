//! Makes attempts through an HTTP or SOCKS proxy, each on the thread of its caller.
//!
//! ureq speaks to the proxy: such a host needs neither the isolation nor the speed of the I/O threads, because all of
//! its attempts share the proxy. The proxy makes the connections, so only an address that a URL contains can be
//! checked here. Each TLS setting has an agent of its own, and so connections of its own.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::Response as HttpResponse;
use http::header::RETRY_AFTER;
use parking_lot::Mutex;
use ureq::config::AutoHeaderValue;
use ureq::{Agent, Body, Proxy};

use super::guard::{Guard, Host, host_of};
use super::http1::USER_AGENT_VALUE;
use super::io_loop::failure;
use super::response_headers::{DELIVERY_CONTROL, control, retry_after_ms};
use super::tls::{self, check_roots};
use crate::error::{Error, Result};
use crate::network::{Network, Roots};
use crate::subscription::Tls;
use crate::text::debug_fields;
use crate::transport::{EXCERPT_BYTES_MAX, Failure, Reply, Request, Response, Shortage, Transport};

/// The transport of a network that is left through a proxy.
pub(crate) struct ProxyTransport {
    guard: Guard,
    proxy: Proxy,
    roots: Roots,
    agents: Mutex<HashMap<Option<[u8; 32]>, Agent>>,
    is_interrupted: AtomicBool,
}

/// How many TLS settings have an agent. Beyond, all agents are made anew.
const AGENTS_MAX: usize = 1_024;

/// How much of a response's body is read, so that its connection can be used again.
const BODY_BYTES_MAX: u64 = 64 * 1024;

const IDLE_AGE_MAX: Duration = Duration::from_secs(30);

impl ProxyTransport {
    /// `None` without a proxy.
    ///
    /// # Errors
    /// [`Error::Invalid`] that names `network.proxy` or `network.roots`.
    pub(crate) fn new(network: &Network) -> Result<Option<ProxyTransport>> {
        let Some(url) = &network.proxy else { return Ok(None) };
        network.check()?;
        check_roots(&network.roots)?;
        let expected = "the URL of a proxy";
        let proxy = Proxy::new(url)
            .map_err(|_| Error::invalid("network.proxy", "[not shown]", expected))?;
        Ok(Some(ProxyTransport {
            guard: Guard::new(network.clone()),
            proxy,
            roots: network.roots.clone(),
            agents: Mutex::default(),
            is_interrupted: AtomicBool::new(false),
        }))
    }

    fn agent(&self, settings: Option<&Tls>) -> Result<Agent> {
        let key = settings.map(tls::digest);
        if let Some(agent) = self.agents.lock().get(&key) {
            return Ok(agent.clone());
        }
        let building = Agent::config_builder()
            .proxy(Some(self.proxy.clone()))
            .http_status_as_error(false)
            .max_redirects(0)
            .allow_non_standard_methods(true)
            .user_agent(USER_AGENT_VALUE)
            .accept(AutoHeaderValue::None)
            .accept_encoding(AutoHeaderValue::None)
            .max_idle_age(IDLE_AGE_MAX);
        #[cfg(feature = "tls")]
        let building = building.tls_config(tls::proxied(settings, &self.roots)?);
        let agent = Agent::new_with_config(building.build());
        let mut agents = self.agents.lock();
        if agents.len() >= AGENTS_MAX {
            agents.clear();
        }
        Ok(agents.entry(key).or_insert(agent).clone())
    }

    fn exchange(&self, request: &Request<'_>) -> Result<Reply, Failure> {
        if let Host::Address(address) = host_of(&request.url) {
            self.guard.admit(address).map_err(|rule| Failure::Guard(rule.as_str().to_owned()))?;
        }
        let agent =
            self.agent(request.tls.as_deref()).map_err(|_| Failure::Shortage(Shortage::Files))?;
        let mut building = http::Request::builder().method(&request.method).uri(&request.url);
        for (name, value) in &request.headers {
            building = building.header(name, value);
        }
        let timeout = Some(request.timeout);
        let response = if request.body.is_empty() {
            let built = building.body(()).map_err(|_| Failure::Internal)?;
            agent.run(agent.configure_request(built).timeout_global(timeout).build())
        } else {
            let built = building.body(&*request.body).map_err(|_| Failure::Internal)?;
            agent.run(agent.configure_request(built).timeout_global(timeout).build())
        };
        Ok(Reply::Response(read(response.map_err(|error| failure_of(&error))?, request.wall_ms)))
    }
}

impl Transport for ProxyTransport {
    fn send(&self, request: &Request<'_>) -> Reply {
        if self.is_interrupted.load(Ordering::SeqCst) {
            return Reply::Failed(Failure::Interrupted);
        }
        self.exchange(request).unwrap_or_else(Reply::Failed)
    }

    /// Attempts in flight end by their timeout: ureq offers no way to end them earlier.
    fn interrupt(&self) {
        self.is_interrupted.store(true, Ordering::SeqCst);
    }
}

debug_fields!(ProxyTransport: roots);

/// Reduces a response to what the engine uses. It counts from its head on, whatever becomes of the body.
fn read(response: HttpResponse<Body>, wall_ms: u64) -> Response {
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    let mut reduced = Response::new(response.status().as_u16());
    let after_ms = header(&RETRY_AFTER).and_then(|value| retry_after_ms(value, wall_ms));
    reduced.retry_after = after_ms.map(Duration::from_millis);
    reduced.control = header(&DELIVERY_CONTROL).and_then(control);
    let mut body = response.into_body().into_reader().take(BODY_BYTES_MAX);
    let mut excerpt = Vec::new();
    let _ = body.by_ref().take(EXCERPT_BYTES_MAX as u64).read_to_end(&mut excerpt);
    let _ = io::copy(&mut body, &mut io::sink());
    reduced.excerpt = excerpt;
    reduced
}

/// The texts of these errors may name an address, so nothing of them is kept.
fn failure_of(error: &ureq::Error) -> Failure {
    match error {
        ureq::Error::Timeout(_) => Failure::Timeout,
        ureq::Error::HostNotFound => Failure::Dns,
        ureq::Error::Io(error) => failure(error),
        #[cfg(feature = "tls")]
        ureq::Error::Rustls(error) => Failure::Tls(tls::word(error).to_owned()),
        ureq::Error::Tls(_) => Failure::Tls("handshake".to_owned()),
        ureq::Error::Protocol(_) | ureq::Error::LargeResponseHeader(..) => Failure::Protocol,
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => Failure::Internal,
        _ => Failure::Connect,
    }
}
