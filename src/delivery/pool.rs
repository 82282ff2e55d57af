//! Decides which connections are kept for the next attempt, and how many.
//!
//! Leaves to others: what is sent over them (`transport`) and where they may lead (`resolver`).
//! Each place (scheme, authority, timeout) has a ureq agent of its own, because one pool of ureq
//! for many hosts takes time quadratic in their number, and because a timeout that belongs to the
//! agent lets its TLS sessions be resumed. Invariants (I10): at most [`PLACES_MAX`] agents are
//! kept beside those in use, each with at most `idle_max` idle connections; once interrupted, the
//! pool gives out none.

use std::collections::HashMap;
use std::fmt;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::uri::{Authority, Scheme};
use parking_lot::Mutex;
use ureq::Agent;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, DefaultConnector, NextTimeout, Transport,
};

use super::guard::Guard;
use super::resolver::Lookup;

/// The connections to all receivers.
pub(crate) struct Pool {
    guard: Arc<Guard>,
    idle_max: usize,
    agents: Mutex<Agents>,
}

#[derive(Default)]
struct Agents {
    by_place: HashMap<Place, Kept>,
    uses: u64,
    interrupted: bool,
}

type Place = (Scheme, Authority, u64);

struct Kept {
    /// An attempt holds a clone while it is under way: so a count above one means "in use".
    agent: Arc<Agent>,
    last_use: u64,
}

impl Pool {
    /// A pool that keeps up to `idle_max` idle connections for each place.
    pub(crate) fn new(guard: Arc<Guard>, idle_max: usize) -> Pool {
        Pool { guard, idle_max, agents: Mutex::default() }
    }

    /// The agent for this URL and timeout, or none when the pool was interrupted.
    pub(crate) fn agent(&self, url: &Uri, timeout_ms: u64) -> Option<Arc<Agent>> {
        let scheme = url.scheme().cloned().unwrap_or(Scheme::HTTPS);
        let authority = url.authority().cloned()?;
        let place = (scheme, authority, timeout_ms);
        let mut agents = self.agents.lock();
        if agents.interrupted {
            return None;
        }
        agents.uses += 1;
        let now = agents.uses;
        if let Some(kept) = agents.by_place.get_mut(&place) {
            kept.last_use = now;
            return Some(Arc::clone(&kept.agent));
        }
        let evicted = agents.evict();
        let agent = Arc::new(self.new_agent(timeout_ms));
        agents.by_place.insert(place, Kept { agent: Arc::clone(&agent), last_use: now });
        drop(agents);
        // Closes idle connections, which should not happen under the lock.
        drop(evicted);
        Some(agent)
    }

    /// Breaks the attempts under way and refuses every later one.
    pub(crate) fn interrupt(&self) {
        let mut agents = self.agents.lock();
        agents.interrupted = true;
        let by_place = std::mem::take(&mut agents.by_place);
        drop(agents);
        by_place.into_values().for_each(|kept| Agent::clone(&kept.agent).shutdown());
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        self.agents.lock().interrupted
    }

    fn new_agent(&self, timeout_ms: u64) -> Agent {
        let config = Agent::config_builder()
            .proxy(None) // from the environment; it would look names up behind the guard's back
            .max_redirects(0) // a redirect is an answer; to follow it would leak the signature
            .http_status_as_error(false)
            .accept("")
            .user_agent(concat!("wabahook/", env!("CARGO_PKG_VERSION")))
            .input_buffer_size(BUFFER_BYTES)
            .output_buffer_size(BUFFER_BYTES)
            .max_response_header_size(HEAD_BYTES_MAX)
            .max_idle_connections(self.idle_max)
            .max_idle_connections_per_host(self.idle_max)
            .timeout_global(Some(Duration::from_millis(timeout_ms)))
            .build();
        let connector = Connector::<()>::chain(DefaultConnector::default(), Watch);
        Agent::with_parts(config, connector, Lookup::new(Arc::clone(&self.guard)))
    }
}

impl Agents {
    /// Makes room for one more: takes out the place that was used longest ago and is not in use.
    fn evict(&mut self) -> Option<Kept> {
        if self.by_place.len() < PLACES_MAX {
            return None;
        }
        let unused = self.by_place.iter().filter(|(_, kept)| Arc::strong_count(&kept.agent) == 1);
        let oldest = unused.min_by_key(|(_, kept)| kept.last_use)?.0.clone();
        self.by_place.remove(&oldest)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("idle_max", &self.idle_max).finish_non_exhaustive()
    }
}

/// How many places keep an agent. A thousand receivers are served without a new connection for
/// each attempt; beyond, the connections used longest ago are closed.
const PLACES_MAX: usize = 1_024;

/// Per connection, once for what is sent and once for what comes back. Larger ones cost memory for
/// every idle connection (265 KiB with ureq's own) and gained nothing.
const BUFFER_BYTES: usize = 16 * 1024;

/// The longest head of an answer. Below the buffer, or ureq would report a broken connection.
const HEAD_BYTES_MAX: usize = 15 * 1024;

/// A kept connection broke before the receiver answered anything: most likely it had closed the
/// connection while the request was on its way.
#[derive(Debug)]
pub(crate) struct Stale;

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a kept connection was closed by the receiver")
    }
}

impl std::error::Error for Stale {}

/// Wraps each connection to tell a stale one from one that was never any good; ureq does not.
#[derive(Debug)]
struct Watch;

impl<In: Transport> Connector<In> for Watch {
    type Out = Watched<In>;

    fn connect(
        &self,
        _details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Watched<In>>, ureq::Error> {
        Ok(chained.map(|inner| Watched { inner, reused: false, heard: false }))
    }
}

#[derive(Debug)]
struct Watched<T> {
    inner: T,
    reused: bool,
    /// Whether any byte of the present answer came.
    heard: bool,
}

impl<T: Transport> Watched<T> {
    fn judge<V>(&self, result: Result<V, ureq::Error>) -> Result<V, ureq::Error> {
        match result {
            Err(ureq::Error::Io(error)) if self.may_be_stale() && is_disconnect(error.kind()) => {
                Err(ureq::Error::Other(Box::new(Stale)))
            }
            result => result,
        }
    }

    fn may_be_stale(&self) -> bool {
        self.reused && !self.heard
    }
}

fn is_disconnect(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
    )
}

impl<T: Transport> Transport for Watched<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let result = self.inner.transmit_output(amount, timeout);
        self.judge(result)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let result = self.inner.await_input(timeout);
        let progress = self.judge(result)?;
        if !progress && self.may_be_stale() {
            return Err(ureq::Error::Other(Box::new(Stale)));
        }
        self.heard |= progress;
        Ok(progress)
    }

    fn is_open(&mut self) -> bool {
        // ureq asks when it keeps a connection and when it takes a kept one, never in between.
        self.reused = true;
        self.heard = false;
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Network;

    fn pool() -> Pool {
        Pool::new(Arc::new(Guard::new(Network::default())), 4)
    }

    fn url(n: usize) -> Uri {
        format!("http://r{n}.example/a").parse().unwrap()
    }

    #[test]
    fn a_place_keeps_its_agent_whatever_the_path_and_another_place_has_its_own() {
        let pool = pool();
        let agent = |url: &str, timeout_ms| pool.agent(&url.parse().unwrap(), timeout_ms).unwrap();
        let first = agent("http://crm.example/a", 15_000);
        assert!(Arc::ptr_eq(&first, &agent("http://CRM.example/b?c", 15_000)));
        for (other, timeout_ms) in [
            ("https://crm.example/a", 15_000),
            ("http://crm.example:8080/a", 15_000),
            ("http://other.example/a", 15_000),
            ("http://crm.example/a", 5_000),
        ] {
            assert!(!Arc::ptr_eq(&first, &agent(other, timeout_ms)), "{other} {timeout_ms}");
        }
    }

    #[test]
    fn the_place_used_longest_ago_makes_room_unless_an_attempt_is_under_way() {
        let pool = pool();
        let busy = pool.agent(&url(0), 1).unwrap();
        let oldest_idle = Arc::downgrade(&pool.agent(&url(1), 1).unwrap());
        for n in 2..PLACES_MAX {
            pool.agent(&url(n), 1).unwrap();
        }
        assert!(oldest_idle.upgrade().is_some());
        pool.agent(&url(PLACES_MAX), 1).unwrap();
        assert_eq!(pool.agents.lock().by_place.len(), PLACES_MAX);
        assert!(oldest_idle.upgrade().is_none());
        assert!(Arc::ptr_eq(&busy, &pool.agent(&url(0), 1).unwrap()));
    }

    #[test]
    fn an_interrupted_pool_gives_out_nothing() {
        let pool = pool();
        assert!(pool.agent(&url(0), 1).is_some());
        assert!(!pool.is_interrupted());
        pool.interrupt();
        assert!(pool.is_interrupted());
        assert!(pool.agent(&url(0), 1).is_none());
        assert!(pool.agent(&url(1), 1).is_none());
    }
}
