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
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
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
        let place = Place::of(details.uri, self.identity.number());
        let place = place.ok_or(ureq::Error::HostNotFound)?;
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
        let socket = || Socket::new(Domain::for_address(*address), Type::STREAM, None);
        let socket = match socket() {
            Err(error) if is_out_of_files(&error) && self.pool.make_room() => socket()?,
            result => result?,
        };
        let stream = Arc::new(TcpStream::from(socket));
        // Before it connects, so that an interrupt ends that, too.
        let alive = self.pool.admit(&stream)?;
        SockRef::from(&*stream).connect_timeout(&SockAddr::from(*address), most)?;
        stream.set_nodelay(true)?;
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

// Linux alone says which connections are being made, and drops what a full queue has no room for.
#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;
    use crate::clock::System;
    use crate::config::{Network, Roots};
    use crate::delivery::guard::Guard;
    use crate::delivery::tls::Identities;
    use std::fs;
    use std::net::TcpListener;
    use std::sync::mpsc::channel;
    use std::thread;
    use std::time::Instant;

    /// What is seen later than this never comes; shorter than a connect may take.
    const DEADLINE: Duration = Duration::from_millis(CONNECT_MS_MAX / 2);

    fn dialer() -> Dialer {
        let clock: Arc<dyn Clock> = Arc::new(System::new());
        let guard = Arc::new(Guard::new(Network::default()));
        Dialer {
            pool: Arc::new(Pool::new(4, Arc::clone(&clock))),
            names: Arc::new(Names::new(guard, Arc::clone(&clock))),
            identity: Identities::new(Roots::Bundled).identity(None).unwrap(),
            clock,
        }
    }

    /// An address that swallows packets: its queue of connections is full. Holds what fills it.
    fn swallowing() -> (SocketAddr, TcpListener, Vec<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let address = listener.local_addr().unwrap();
        let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(100)).ok();
        let filling: Vec<_> = std::iter::from_fn(connect).take(100).collect();
        assert!(filling.len() < 100, "the queue has no end");
        (address, listener, filling)
    }

    #[test]
    fn an_address_has_half_of_what_is_left_and_never_more_than_that_or_a_moment() {
        for (left_ms, expected_ms) in
            [(10_000, 5_000), (600, 300), (400, 250), (250, 250), (100, 100), (1, 1)]
        {
            assert_eq!(share_ms(left_ms), expected_ms, "{left_ms}");
        }
    }

    #[test]
    fn an_address_that_swallows_packets_leaves_time_for_the_next_and_alone_ends_in_time() {
        let (silent, _listener, _filling) = swallowing();
        let good = TcpListener::bind("127.0.0.1:0").unwrap();
        let dialer = dialer();
        let in_ms = |ms| dialer.clock.monotonic_ms() + ms;
        assert!(dialer.dial(&[silent, good.local_addr().unwrap()], in_ms(800)).is_ok());
        let error = dialer.dial(&[silent, silent], in_ms(400)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(dialer.dial(&[good.local_addr().unwrap()], in_ms(400)).is_ok());
    }

    #[test]
    fn an_interrupt_ends_the_wait_for_a_connection() {
        let (silent, _listener, _filling) = swallowing();
        let (dialer, other) = (Arc::new(dialer()), dialer());
        let (tell, failed) = channel();
        let dialing = Arc::clone(&dialer);
        thread::spawn(move || tell.send(dialing.dial(&[silent], u64::MAX).unwrap_err()));
        let started = Instant::now();
        while !is_connecting(silent.port()) {
            assert!(started.elapsed() < DEADLINE, "nobody connects");
            thread::yield_now();
        }
        dialer.pool.interrupt();
        failed.recv_timeout(DEADLINE).unwrap();
        let good = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(dialer.dial(&[good], u64::MAX).unwrap_err().kind(), ErrorKind::NotConnected);
        assert!(!other.pool.is_interrupted());
    }

    /// Whether a connection to this port of 127.0.0.1 is being made, as the system's table says.
    fn is_connecting(port: u16) -> bool {
        let sought = format!(" 0100007F:{port:04X} 02 ");
        fs::read_to_string("/proc/net/tcp").unwrap().contains(&sought)
    }
}
