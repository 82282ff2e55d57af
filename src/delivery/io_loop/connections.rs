//! The sockets of a loop: made without waiting, kept while idle within bounds, and closed.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use super::LoopLimits;
use super::deadlines::Deadlines;
use super::hosts::HostTable;
use super::stream::Stream;
use crate::delivery::attempt_source::Shortage;
use crate::process::file_limit::is_out_of_files;

/// One socket.
pub(super) struct LoopConnection {
    pub(super) stream: Stream,
    /// The number of the place that it leads to.
    pub(super) host: usize,
    pub(super) address: IpAddr,
    /// Which attempt uses it.
    pub(super) attempt: Option<usize>,
    opened_ms: u64,
}

/// Why a socket could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OpenError {
    Short(Shortage),
    /// The system knows that the address cannot be reached.
    Unreachable,
}

/// All sockets of a loop.
pub(super) struct Connections {
    poll: Poll,
    all: Slab<LoopConnection>,
    /// Until when each idle connection is kept.
    idle: Deadlines,
    idle_count: usize,
    limits: LoopLimits,
}

/// How long an idle connection is kept, in milliseconds: shorter than what proxies and firewalls
/// commonly allow.
const IDLE_AGE_MAX_MS: u64 = 30_000;

/// How long a connection is used, in milliseconds, so that a name that leads elsewhere is followed.
const AGE_MAX_MS: u64 = 300_000;

impl Connections {
    pub(super) fn new(poll: Poll, limits: LoopLimits) -> Connections {
        Connections { poll, all: Slab::new(), idle: Deadlines::default(), idle_count: 0, limits }
    }

    /// Waits until a socket is ready, or so long. A signal ends the wait.
    pub(super) fn wait(&mut self, events: &mut Events, most: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(events, most) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            result => result,
        }
    }

    pub(super) fn find(&mut self, number: usize) -> Option<&mut LoopConnection> {
        self.all.get_mut(number)
    }

    pub(super) fn attempt(&self, number: usize) -> Option<usize> {
        self.all.get(number)?.attempt
    }

    /// Begins a connection. Where the process may open no more files, idle ones make room once.
    pub(super) fn open(
        &mut self,
        address: SocketAddr,
        host: usize,
        attempt: usize,
        now_ms: u64,
        hosts: &mut HostTable,
    ) -> Result<usize, OpenError> {
        let socket = match TcpStream::connect(address) {
            Err(error) if is_out_of_files(&error) && self.idle_count > 0 => {
                self.close_idle(hosts);
                TcpStream::connect(address)
            }
            result => result,
        };
        let mut socket = socket.map_err(|error| open_error(&error, address))?;
        let entry = self.all.vacant_entry();
        let number = entry.key();
        self.poll
            .registry()
            .register(&mut socket, Token(number), Interest::READABLE | Interest::WRITABLE)
            .map_err(|_| OpenError::Short(Shortage::Memory))?;
        entry.insert(LoopConnection {
            stream: Stream::new(socket),
            host,
            address: address.ip(),
            attempt: Some(attempt),
            opened_ms: now_ms,
        });
        Ok(number)
    }

    /// Takes an idle connection to a place that can carry another request.
    pub(super) fn take(
        &mut self,
        host: usize,
        attempt: usize,
        now_ms: u64,
        hosts: &mut HostTable,
        scratch: &mut [u8],
    ) -> Option<usize> {
        loop {
            let number = hosts.host(host)?.idle.pop()?;
            self.forget_idle(number);
            let Some(connection) = self.all.get_mut(number) else { continue };
            let is_young = now_ms.saturating_sub(connection.opened_ms) < AGE_MAX_MS;
            if is_young && connection.stream.is_quiet(scratch) {
                connection.attempt = Some(attempt);
                return Some(number);
            }
            self.all.try_remove(number);
        }
    }

    /// Keeps a connection for the next attempt, if its host has room. If there are too many in all, the one that
    /// was unused for longest is closed.
    pub(super) fn keep(&mut self, number: usize, now_ms: u64, hosts: &mut HostTable) {
        let Some(connection) = self.all.get_mut(number) else { return };
        connection.attempt = None;
        let Some(host) = hosts.host(connection.host) else { return };
        if host.idle.len() >= self.limits.idle_per_host_max || self.limits.idle_max == 0 {
            self.all.try_remove(number);
            return;
        }
        host.idle.push(number);
        self.idle.set(number, now_ms.saturating_add(IDLE_AGE_MAX_MS));
        self.idle_count += 1;
        let in_use = self.all.len().saturating_sub(self.idle_count);
        let unused = self.limits.in_flight_max.saturating_sub(in_use);
        if self.idle_count > self.limits.idle_max + unused
            && let Some(oldest) = self.idle.pop_first()
        {
            self.close(oldest, hosts);
        }
    }

    pub(super) fn close(&mut self, number: usize, hosts: &mut HostTable) {
        let Some(connection) = self.all.try_remove(number) else { return };
        if connection.attempt.is_none() {
            self.forget_idle(number);
            if let Some(host) = hosts.host(connection.host) {
                host.idle.retain(|idle| *idle != number);
            }
        }
    }

    /// Closes what is idle at a place.
    pub(super) fn close_idle_at(&mut self, host: usize, hosts: &mut HostTable) {
        let idle = hosts.host(host).map(|host| std::mem::take(&mut host.idle));
        for number in idle.into_iter().flatten() {
            self.forget_idle(number);
            self.all.try_remove(number);
        }
    }

    /// Something happened to an idle connection: it is closed, unless TLS alone was concerned.
    pub(super) fn check_idle(&mut self, number: usize, hosts: &mut HostTable, scratch: &mut [u8]) {
        let Some(connection) = self.all.get_mut(number) else { return };
        if connection.attempt.is_none() && !connection.stream.is_quiet(scratch) {
            self.close(number, hosts);
        }
    }

    /// Closes what has been idle for too long.
    pub(super) fn close_expired(&mut self, now_ms: u64, hosts: &mut HostTable) {
        while let Some(expired) = self.idle.pop(now_ms) {
            self.close(expired, hosts);
        }
    }

    /// When the next idle connection has been so for too long.
    pub(super) fn next_expiry_ms(&self) -> Option<u64> {
        self.idle.next_ms()
    }

    pub(super) fn close_all(&mut self, hosts: &mut HostTable) {
        self.close_idle(hosts);
        self.all.clear();
    }

    fn close_idle(&mut self, hosts: &mut HostTable) {
        while let Some(oldest) = self.idle.pop_first() {
            self.close(oldest, hosts);
        }
    }

    fn forget_idle(&mut self, number: usize) {
        self.idle.clear(number);
        self.idle_count = self.idle_count.saturating_sub(1);
    }
}

/// The failure of an attempt whose socket could not be opened.
pub(super) fn open_error(error: &io::Error, address: SocketAddr) -> OpenError {
    if is_out_of_files(error) {
        return OpenError::Short(Shortage::Files);
    }
    match error.kind() {
        io::ErrorKind::OutOfMemory => OpenError::Short(Shortage::Memory),
        // A machine without IPv6 reports this for every v6 address.
        io::ErrorKind::AddrNotAvailable if address.is_ipv4() => OpenError::Short(Shortage::Ports),
        _ if is_out_of_buffers(error) => OpenError::Short(Shortage::Memory),
        _ => OpenError::Unreachable,
    }
}

/// The system has no room for another socket's buffers.
fn is_out_of_buffers(error: &io::Error) -> bool {
    const ENOBUFS: i32 = 105;
    cfg!(target_os = "linux") && error.raw_os_error() == Some(ENOBUFS)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use rustix::io::Errno;

    use super::super::hosts::ConnectionKey;
    use super::*;

    #[test]
    fn a_shortage_of_ours_is_no_failure_of_the_address() {
        let (v4, v6) = ("192.0.2.1:9".parse().unwrap(), "[2001:db8::1]:9".parse().unwrap());
        for (errno, address, expected) in [
            (Errno::MFILE, v4, OpenError::Short(Shortage::Files)),
            (Errno::NFILE, v6, OpenError::Short(Shortage::Files)),
            (Errno::NOMEM, v4, OpenError::Short(Shortage::Memory)),
            (Errno::NOBUFS, v4, OpenError::Short(Shortage::Memory)),
            (Errno::ADDRNOTAVAIL, v4, OpenError::Short(Shortage::Ports)),
            (Errno::ADDRNOTAVAIL, v6, OpenError::Unreachable),
            (Errno::CONNREFUSED, v4, OpenError::Unreachable),
            (Errno::NETUNREACH, v6, OpenError::Unreachable),
            (Errno::ACCESS, v4, OpenError::Unreachable),
        ] {
            let error = io::Error::from_raw_os_error(errno.raw_os_error());
            assert_eq!(open_error(&error, address), expected, "{errno:?}");
        }
    }

    #[test]
    fn idle_connections_may_use_what_attempts_leave() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        for (in_flight_max, expected) in [(0, 1), (2, 3), (9, 4)] {
            let limits = LoopLimits {
                idle_per_host_max: 9,
                idle_max: 1,
                in_flight_max,
                host_in_flight_max: 9,
            };
            let mut hosts = HostTable::default();
            let key = ConnectionKey {
                identity: 0,
                is_https: false,
                authority: address.to_string().parse().unwrap(),
            };
            let host = hosts.find(&key);
            let mut connections = Connections::new(Poll::new().unwrap(), limits);
            let open = |attempt| connections.open(address, host, attempt, 0, &mut hosts).unwrap();
            let all: Vec<_> = (0..4).map(open).collect();
            all.into_iter().for_each(|number| connections.keep(number, 0, &mut hosts));
            assert_eq!(connections.all.len(), expected, "at most {in_flight_max} attempts");
        }
    }
}
