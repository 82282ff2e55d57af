//! Decides how a connection for an attempt is come by: a kept one, or a new one to an address that
//! the guard admits, within the attempt's time.
//!
//! Leaves to others: what a name stands for (`resolver`), what TLS requires (`tls`), the exchange
//! itself (`exchange`). Invariant: a new connection leads to an address that was admitted a moment
//! ago, and a kept one to one that was admitted when it was made.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::uri::Scheme;
use ureq::config::Config;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{ConnectionDetails, Connector, NextTimeout};

use super::connection::Connection;
use super::exchange::{Exchange, whole_ms};
use super::pool::{Place, Pool};
use super::resolver::Names;
use super::tls::Identity;
use crate::clock::Clock;

/// Makes connections for one TLS identity.
pub(super) struct Dialer {
    pub(super) pool: Arc<Pool>,
    pub(super) names: Arc<Names>,
    pub(super) identity: Arc<Identity>,
    pub(super) clock: Arc<dyn Clock>,
}

impl Connector for Dialer {
    type Out = Exchange;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _chained: Option<()>,
    ) -> Result<Option<Exchange>, ureq::Error> {
        let place = self.place(details.uri)?;
        let exchange = |connection, reused, place| {
            let (pool, clock) = (Arc::clone(&self.pool), Arc::clone(&self.clock));
            Ok(Some(Exchange::new(connection, reused, place, pool, clock)))
        };
        if is_afresh(details.config) {
            // The others that were kept are likely to be as stale.
            self.pool.discard(&place);
        } else if let Some(kept) = self.pool.take(&place) {
            return exchange(kept, true, place);
        }
        let until_ms = self.clock.monotonic_ms().saturating_add(whole_ms(details.timeout));
        let addresses = self.names.addresses(details.uri, until_ms)?;
        let connection = self.dial(&addresses, until_ms).and_then(|connection| {
            self.identity.secured(connection, place.is_https, details.uri, until_ms)
        });
        match connection {
            Ok(connection) => exchange(connection, false, place),
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                Err(ureq::Error::Timeout(details.timeout.reason))
            }
            Err(error) => Err(ureq::Error::Io(error)),
        }
    }
}

impl Dialer {
    fn place(&self, url: &Uri) -> Result<Place, ureq::Error> {
        let is_https = url.scheme() == Some(&Scheme::HTTPS);
        let authority = url.authority().cloned().ok_or(ureq::Error::HostNotFound)?;
        Ok(Place { identity: self.identity.number(), is_https, authority })
    }

    /// Tries the addresses one after the other. Each has half of what is left, so that one that
    /// swallows packets leaves time for the others; the last has all of it.
    fn dial(&self, addresses: &[SocketAddr], until_ms: u64) -> io::Result<Connection> {
        let until_ms = until_ms.min(self.clock.monotonic_ms().saturating_add(CONNECT_MS_MAX));
        let mut failed = io::Error::from(ErrorKind::AddrNotAvailable);
        for (n, address) in addresses.iter().enumerate() {
            let left_ms = until_ms.saturating_sub(self.clock.monotonic_ms());
            if left_ms == 0 {
                return Err(ErrorKind::TimedOut.into());
            }
            let is_last = n + 1 == addresses.len();
            let share_ms = if is_last { left_ms } else { share_ms(left_ms) };
            match self.connect_to(address, Duration::from_millis(share_ms)) {
                Ok(connection) => return Ok(connection),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    fn connect_to(&self, address: &SocketAddr, most: Duration) -> io::Result<Connection> {
        let stream = match TcpStream::connect_timeout(address, most) {
            Err(error) if is_out_of_files(&error) && self.pool.make_room() => {
                TcpStream::connect_timeout(address, most)?
            }
            result => result?,
        };
        stream.set_nodelay(true)?;
        let stream = Arc::new(stream);
        let alive = self.pool.admit(&stream)?;
        Ok(Connection::new(stream, alive, Arc::clone(&self.clock)))
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").field("identity", &self.identity.number()).finish_non_exhaustive()
    }
}

/// An idle age of zero, which is otherwise no setting of ours, asks for a new connection.
pub(super) const AFRESH: Duration = Duration::ZERO;

fn is_afresh(config: &Config) -> bool {
    config.max_idle_age() == AFRESH
}

fn share_ms(left_ms: u64) -> u64 {
    (left_ms / 2).max(SHARE_MS_MIN).min(left_ms)
}

/// The process, or the system, may open no more files.
fn is_out_of_files(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    cfg!(unix) && matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}

/// Looks nothing up: ureq asks for each request, and most need no new connection.
#[derive(Debug)]
pub(super) struct Later;

impl Resolver for Later {
    fn resolve(
        &self,
        _url: &Uri,
        _config: &Config,
        _timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        Ok(self.empty())
    }
}

/// How long all addresses of a name together may take, in milliseconds. A network in order needs a
/// fraction of a second; a longer wait holds a thread for a receiver that is not there.
const CONNECT_MS_MAX: u64 = 10_000;

const SHARE_MS_MIN: u64 = 250;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_half_of_what_is_left_and_never_more_than_that_or_a_moment() {
        for (left_ms, expected_ms) in
            [(10_000, 5_000), (600, 300), (400, 250), (250, 250), (100, 100), (1, 1)]
        {
            assert_eq!(share_ms(left_ms), expected_ms, "{left_ms}");
        }
    }
}
