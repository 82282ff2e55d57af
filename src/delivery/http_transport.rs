//! The built-in transport: HTTP/1.1 over kept connections, carried by the I/O threads.
//!
//! The engine gives it an [`AttemptSource`] and waits for nothing; every other caller, such as a test delivery or a
//! transport of the host that wraps this one, waits in [`Transport::send`] for its own attempt, which takes the same
//! way.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;

use super::attempt_source::AttemptSource;
use super::guard::Guard;
use super::http1::OutgoingRequest;
use super::io_loop::{IoLoops, LoopLimits, LoopShared};
use super::name_lookup::LookupThreads;
use super::tls::{Identities, check_roots};
use crate::clock::Clock;
use crate::error::Result;
use crate::network::Network;
use crate::process::file_limit;
use crate::subscription::Tls;
use crate::text::debug_fields;
use crate::transport::{Answer, Reply, Request, Transport};

/// What makes the attempts of an engine that is given no other transport: HTTP/1.1 over connections
/// that are kept. Public for a host whose own transport stands around it, to count or to record.
///
/// ```
/// use std::sync::Arc;
/// use wabahook::{Config, Http, Network, Reply, Request, Transport, clock::SystemClock};
///
/// struct Shown(Http);
///
/// impl Transport for Shown {
///     fn send(&self, request: &Request<'_>) -> Reply {
///         let reply = self.0.send(request);
///         println!("{request:?} {reply:?}");
///         reply
///     }
///
///     fn interrupt(&self) {
///         self.0.interrupt();
///     }
/// }
///
/// let http = Http::new(Network::default(), 16, Arc::new(SystemClock::new()))?;
/// let config = Config::new("outbox").transport(Arc::new(Shown(http)));
/// # let _ = config;
/// # Ok::<(), wabahook::Error>(())
/// ```
pub struct Http {
    loops: IoLoops,
    /// TLS settings of callers that wait, shared between their requests.
    settings: Mutex<Vec<Arc<Tls>>>,
}

impl Http {
    /// Reaches what `network` allows, and keeps up to `idle_max` idle connections for each receiver, 16,384 in all or
    /// a quarter of the files that the process may open, for 30 s each. An engine gives
    /// [`lane_in_flight_max`](crate::Limits::lane_in_flight_max): what a lane may have under way.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) if the given roots are no certificates, or a NAT64 prefix is not
    /// one. It makes connections itself, so `network`'s proxy is not used.
    pub fn new(network: Network, idle_max: usize, clock: Arc<dyn Clock>) -> Result<Http> {
        network.check()?;
        check_roots(&network.roots)?;
        let lookups = LookupThreads::new(Arc::clone(&clock));
        Ok(Http::over(lookups, network, idle_max, clock))
    }

    /// Sets how many I/O threads there are. Defaults to one.
    #[must_use]
    pub fn io_threads(mut self, threads: usize) -> Http {
        self.loops.threads = threads.max(1);
        self
    }

    /// Sets how many attempts may be in flight to one host and port. Defaults to 100.
    #[must_use]
    pub fn host_in_flight_max(mut self, attempts: usize) -> Http {
        self.loops.limits.host_in_flight_max = attempts.max(1);
        self
    }

    /// Says how many attempts an engine has in flight at most. While fewer are, more connections may stay idle.
    pub(crate) fn in_flight_max(mut self, attempts: usize) -> Http {
        self.loops.limits.in_flight_max = attempts;
        self
    }

    /// Knows names as a test says.
    #[cfg(test)]
    pub(crate) fn looking_up(
        network: Network,
        clock: Arc<dyn Clock>,
        ask: impl Fn(&str) -> io::Result<Vec<std::net::IpAddr>> + Send + Sync + 'static,
    ) -> Http {
        let lookups = LookupThreads::asking(Box::new(ask), Arc::clone(&clock));
        Http::over(lookups, network, 1, clock)
    }

    fn over(
        lookups: LookupThreads,
        network: Network,
        idle_per_host_max: usize,
        clock: Arc<dyn Clock>,
    ) -> Http {
        let identities = Identities::new(network.roots.clone());
        let limits = LoopLimits {
            idle_per_host_max,
            idle_max: idle_max(file_limit::soft_limit()),
            in_flight_max: 0,
            host_in_flight_max: HOST_IN_FLIGHT_MAX,
        };
        let shared = LoopShared {
            guard: Arc::new(Guard::new(network)),
            lookups,
            identities,
            clock,
            is_interrupted: AtomicBool::new(false),
        };
        Http { loops: IoLoops::new(Arc::new(shared), limits), settings: Mutex::default() }
    }

    /// Has the I/O threads take attempts from an engine.
    pub(crate) fn serve(&self, source: &Arc<dyn AttemptSource>) -> io::Result<()> {
        self.loops.serve(source)
    }

    fn make(&self, request: &Request<'_>, answer: Answer) {
        let tls = request.tls.as_deref().map(|tls| self.shared_settings(tls));
        match OutgoingRequest::new(request, None, tls.as_ref()) {
            Err(failure) => answer.reply(Reply::Failed(failure)),
            Ok(request) => self.loops.begin(request, answer),
        }
    }

    /// The same settings, shared: the I/O threads know them by their address.
    fn shared_settings(&self, tls: &Tls) -> Arc<Tls> {
        let mut settings = self.settings.lock();
        if let Some(known) = settings.iter().find(|known| ***known == *tls) {
            return Arc::clone(known);
        }
        if settings.len() >= SETTINGS_MAX {
            settings.clear();
        }
        let shared = Arc::new(tls.clone());
        settings.push(Arc::clone(&shared));
        shared
    }
}

impl Transport for Http {
    fn send(&self, request: &Request<'_>) -> Reply {
        Answer::wait(|answer| self.make(request, answer))
    }

    fn begin(&self, request: Request<'_>, answer: Answer) {
        self.make(&request, answer);
    }

    fn answers_later(&self) -> bool {
        true
    }

    fn interrupt(&self) {
        self.loops.interrupt();
    }
}

debug_fields!(Http: loops);

/// The rest is for the host, the outbox and the connections in use.
fn idle_max(files_max: Option<u64>) -> usize {
    let quarter = files_max.map_or(u64::MAX, |files| files / 4);
    usize::try_from(quarter).unwrap_or(IDLE_MAX).min(IDLE_MAX)
}

/// How many idle connections are kept in all, where the process may open four times as many files. Ten
/// thousand receivers are served without a new connection for each attempt; beyond, those used longest
/// ago are closed.
const IDLE_MAX: usize = 16_384;

/// How many attempts to one host and port are in flight at most.
pub(crate) const HOST_IN_FLIGHT_MAX: usize = 100;

const SETTINGS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_connections_leave_files_to_others() {
        for (files_max, expected) in
            [(None, IDLE_MAX), (Some(1 << 20), IDLE_MAX), (Some(1_024), 256), (Some(1), 0)]
        {
            assert_eq!(idle_max(files_max), expected, "{files_max:?}");
        }
    }
}
