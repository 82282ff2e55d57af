//! Decides which connections are kept for the next attempt, how many and for how long, and breaks
//! those in use when the engine closes.
//!
//! Leaves to others: making them (`dialer`) and what passes over them (`exchange`). Invariants
//! (I10): at most [`IDLE_MAX`] idle connections are kept, and no more than half of the files that the
//! process may open, of each place at most `per_place_max`, none longer than [`IDLE_AGE_MAX_MS`]; one
//! that was kept is given out to the same place alone, which includes the TLS identity; once
//! interrupted, the pool gives out none and admits none.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Weak};
use std::time::Duration;

use foldhash::HashMap;
use http::Uri;
use http::uri::{Authority, Scheme};
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::connection::Connection;
use crate::clock::Clock;
use crate::threads;

/// Where a connection leads, and as whom. Two places never share a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Place {
    /// Which roots are trusted and which client certificate is shown.
    pub(super) identity: u64,
    pub(super) is_https: bool,
    /// Host and port; compared without regard to case.
    pub(super) authority: Authority,
}

impl Place {
    /// Where a URL leads; `None` where it names no host.
    pub(super) fn of(url: &Uri, identity: u64) -> Option<Place> {
        let is_https = url.scheme() == Some(&Scheme::HTTPS);
        Some(Place { identity, is_https, authority: url.authority()?.clone() })
    }
}

/// The connections to all receivers.
pub(super) struct Pool {
    shared: Arc<Shared>,
    per_place_max: usize,
    idle_max: usize,
}

struct Shared {
    clock: Arc<dyn Clock>,
    idle: Mutex<Idle>,
    /// Wakes the reaper when the pool ends.
    ended: Condvar,
    live: Arc<Mutex<Live>>,
}

/// The connections that nobody uses at the moment.
#[derive(Default)]
struct Idle {
    /// The list of a place whose connections are all in use stays, empty, for when they come back.
    by_place: HashMap<Place, Vec<Kept>>,
    /// The same, in the order in which they were put here.
    in_order: BTreeMap<u64, (Place, u64)>,
    puts: u64,
    has_reaper: bool,
    over: bool,
}

struct Kept {
    number: u64,
    connection: Connection,
}

/// The sockets of all connections, idle or in use, so that they can be shut down.
#[derive(Default)]
struct Live {
    sockets: HashMap<u64, Weak<TcpStream>>,
    opened: u64,
    interrupted: bool,
}

/// Says that a connection lives, until it is dropped.
pub(super) struct Alive {
    live: Arc<Mutex<Live>>,
    number: u64,
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.live.lock().sockets.remove(&self.number);
    }
}

impl Pool {
    /// A pool that keeps up to `per_place_max` idle connections for each place.
    pub(super) fn new(per_place_max: usize, clock: Arc<dyn Clock>) -> Pool {
        let (idle, ended, live) = <(Mutex<Idle>, Condvar, Arc<Mutex<Live>>)>::default();
        let shared = Arc::new(Shared { clock, idle, ended, live });
        Pool { shared, per_place_max, idle_max: idle_max(files_max()) }
    }

    /// Registers a socket before anything is sent over it. An error after an interrupt.
    pub(super) fn admit(&self, stream: &Arc<TcpStream>) -> io::Result<Alive> {
        let mut live = self.shared.live.lock();
        if live.interrupted {
            return Err(io::ErrorKind::NotConnected.into());
        }
        live.opened += 1;
        let number = live.opened;
        live.sockets.insert(number, Arc::downgrade(stream));
        Ok(Alive { live: Arc::clone(&self.shared.live), number })
    }

    /// A kept connection to this place that is still open: the one used last, which is the least
    /// likely to have been closed meanwhile.
    pub(super) fn take(&self, place: &Place) -> Option<Connection> {
        loop {
            let now_ms = self.shared.clock.monotonic_ms();
            let mut connection = self.shared.idle.lock().take(place)?;
            let age_ms = now_ms.saturating_sub(connection.opened_ms);
            if age_ms < AGE_MAX_MS && connection.is_open() {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection for the next attempt, if there is room for it at its place. Where there is
    /// none anywhere, the one unused for longest makes room.
    pub(super) fn put(&self, place: &Place, connection: Connection) {
        let now_ms = self.shared.clock.monotonic_ms();
        let mut idle = self.shared.idle.lock();
        if idle.over || idle.at(place) >= self.per_place_max {
            drop(idle);
            return;
        }
        let oldest = if idle.in_order.len() >= self.idle_max { idle.take_oldest() } else { None };
        idle.keep(place, connection, now_ms);
        let wants_reaper = !std::mem::replace(&mut idle.has_reaper, true);
        drop(idle);
        // Closes a connection, which should not happen under the lock.
        drop(oldest);
        if wants_reaper && start_reaper(Arc::clone(&self.shared)).is_err() {
            // Connections are then kept until they are taken and found to be old.
            self.shared.idle.lock().has_reaper = false;
        }
    }

    /// Closes what is kept for this place.
    pub(super) fn discard(&self, place: &Place) {
        let mut idle = self.shared.idle.lock();
        let discarded: Vec<_> = std::iter::from_fn(|| idle.take(place)).collect();
        drop(idle);
        drop(discarded);
    }

    /// Closes all that is kept, where the process may open no more files. False if there was nothing.
    pub(super) fn make_room(&self) -> bool {
        let mut idle = self.shared.idle.lock();
        let (by_place, in_order) =
            (std::mem::take(&mut idle.by_place), std::mem::take(&mut idle.in_order));
        drop(idle);
        drop(by_place);
        !in_order.is_empty()
    }

    /// Breaks the attempts under way and refuses every later one.
    pub(super) fn interrupt(&self) {
        let mut live = self.shared.live.lock();
        live.interrupted = true;
        let sockets: Vec<_> = live.sockets.values().filter_map(Weak::upgrade).collect();
        drop(live);
        for socket in sockets {
            // Fails where the other side has closed it already.
            let _ = socket.shutdown(Shutdown::Both);
        }
        self.end();
    }

    pub(super) fn is_interrupted(&self) -> bool {
        self.shared.live.lock().interrupted
    }

    fn end(&self) {
        self.shared.idle.lock().over = true;
        self.make_room();
        self.shared.ended.notify_all();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("per_place_max", &self.per_place_max).finish_non_exhaustive()
    }
}

impl Idle {
    fn at(&self, place: &Place) -> usize {
        self.by_place.get(place).map_or(0, Vec::len)
    }

    fn keep(&mut self, place: &Place, connection: Connection, now_ms: u64) {
        self.puts += 1;
        let number = self.puts;
        self.in_order.insert(number, (place.clone(), now_ms));
        let kept = Kept { number, connection };
        if self.by_place.len() >= PLACES_MAX {
            self.by_place.retain(|_, at_place| !at_place.is_empty());
        }
        match self.by_place.get_mut(place) {
            Some(others) => others.push(kept),
            None => {
                self.by_place.insert(place.clone(), vec![kept]);
            }
        }
    }

    fn take(&mut self, place: &Place) -> Option<Connection> {
        let kept = self.by_place.get_mut(place)?.pop()?;
        self.in_order.remove(&kept.number);
        Some(kept.connection)
    }

    /// Takes out the one that was put here longest ago, and with the last of a place the place.
    fn take_oldest(&mut self) -> Option<Connection> {
        let (_, (place, _)) = self.in_order.pop_first()?;
        let at_place = self.by_place.get_mut(&place)?;
        // Those of one place are taken from the end, so the first is the oldest.
        let oldest = (!at_place.is_empty()).then(|| at_place.remove(0))?;
        if at_place.is_empty() {
            self.by_place.remove(&place);
        }
        Some(oldest.connection)
    }

    /// Takes out those that are too old, and says how long the next has left.
    fn take_expired(&mut self, now_ms: u64) -> (Vec<Connection>, Option<u64>) {
        let mut expired = Vec::new();
        while let Some((_, (_, since_ms))) = self.in_order.first_key_value() {
            let left_ms = (since_ms + IDLE_AGE_MAX_MS).saturating_sub(now_ms);
            if left_ms > 0 {
                return (expired, Some(left_ms));
            }
            expired.extend(self.take_oldest());
        }
        self.by_place.clear();
        (expired, None)
    }
}

/// How many files the process may open; none where there is no limit.
#[cfg(unix)]
fn files_max() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

/// How many files the process may open; none where there is no limit.
#[cfg(not(unix))]
fn files_max() -> Option<u64> {
    None
}

/// The other half is for the host, the outbox and the connections in use.
fn idle_max(files_max: Option<u64>) -> usize {
    let half = files_max.map_or(u64::MAX, |files| files / 2);
    usize::try_from(half).unwrap_or(IDLE_MAX).min(IDLE_MAX)
}

fn start_reaper(shared: Arc<Shared>) -> io::Result<()> {
    threads::start("wabahook-reaper", Some(STACK_BYTES), move || reap(&shared)).map(drop)
}

/// Closes what has been idle for too long, and ends when there is nothing left to close.
fn reap(shared: &Shared) {
    let mut idle = shared.idle.lock();
    while !idle.over {
        let (expired, left_ms) = idle.take_expired(shared.clock.monotonic_ms());
        if !expired.is_empty() {
            MutexGuard::unlocked(&mut idle, || drop(expired));
            continue;
        }
        let Some(left_ms) = left_ms else { break };
        shared.ended.wait_for(&mut idle, Duration::from_millis(left_ms));
    }
    idle.has_reaper = false;
}

/// How many idle connections are kept in all, where the process may open twice as many files. Ten
/// thousand receivers are served without a new connection for each attempt; beyond, those used longest
/// ago are closed.
const IDLE_MAX: usize = 16_384;

/// How many lists there may be before the empty ones go.
const PLACES_MAX: usize = 4 * IDLE_MAX;

/// How long an idle connection is kept, in milliseconds: shorter than what proxies and firewalls
/// commonly allow, and what lies open for longer serves nobody.
const IDLE_AGE_MAX_MS: u64 = 30_000;

/// How long a connection is used, in milliseconds, so that a name that leads elsewhere is followed.
const AGE_MAX_MS: u64 = 300_000;

const STACK_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Manual;
    use std::io::Read;
    use std::net::TcpListener;

    struct Bed {
        pool: Pool,
        clock: Arc<Manual>,
        listener: TcpListener,
    }

    impl Bed {
        fn new(per_place_max: usize) -> Bed {
            let clock = Arc::new(Manual::new(0, 1));
            let pool = Pool::new(per_place_max, Arc::clone(&clock) as Arc<dyn Clock>);
            Bed { pool, clock, listener: TcpListener::bind("127.0.0.1:0").unwrap() }
        }

        /// A connection, and its other end.
        fn connection(&self) -> (Connection, TcpStream) {
            let stream = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
            let stream = Arc::new(stream);
            let alive = self.pool.admit(&stream).unwrap();
            let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
            (Connection::new(stream, alive, clock), self.listener.accept().unwrap().0)
        }

        /// Keeps a connection to a place; gives its other end.
        fn put(&self, place: &Place) -> TcpStream {
            let (connection, other_end) = self.connection();
            self.pool.put(place, connection);
            other_end
        }

        fn idle(&self) -> usize {
            self.pool.shared.idle.lock().in_order.len()
        }
    }

    fn place(n: usize) -> Place {
        let authority = format!("r{n}.example").parse().unwrap();
        Place { identity: 0, is_https: false, authority }
    }

    fn is_closed(mut other_end: &TcpStream) -> bool {
        other_end.read(&mut [0]).is_ok_and(|bytes| bytes == 0)
    }

    #[test]
    fn a_connection_is_given_out_to_its_place_alone_and_once() {
        let bed = Bed::new(4);
        let _other_end = bed.put(&place(0));
        let elsewhere = [
            place(1),
            Place { identity: 1, ..place(0) },
            Place { is_https: true, ..place(0) },
            Place { authority: "r0.example:81".parse().unwrap(), ..place(0) },
        ];
        for other in &elsewhere {
            assert!(bed.pool.take(other).is_none(), "{other:?}");
        }
        let same = Place { authority: "R0.EXAMPLE".parse().unwrap(), ..place(0) };
        assert!(bed.pool.take(&same).is_some());
        assert!(bed.pool.take(&same).is_none());
    }

    #[test]
    fn a_connection_that_was_closed_or_speaks_unasked_is_not_given_out() {
        use std::io::Write;
        let bed = Bed::new(4);
        let open = bed.put(&place(0));
        drop(bed.put(&place(0)));
        let mut talking = bed.put(&place(0));
        talking.write_all(b"x").unwrap();
        let bystander = bed.put(&place(1));
        assert!(bed.pool.take(&place(0)).is_some());
        assert_eq!(bed.idle(), 1);
        assert!(bed.pool.take(&place(1)).is_some());
        drop((open, bystander));
    }

    #[test]
    fn a_place_keeps_its_share_and_the_oldest_makes_room_for_another() {
        let mut bed = Bed::new(2);
        bed.pool.idle_max = 4;
        let ends: Vec<_> = (0..3).map(|_| bed.put(&place(0))).collect();
        assert_eq!(bed.idle(), 2);
        assert!(is_closed(&ends[2]));
        let others: Vec<_> = (1..4).map(|n| bed.put(&place(n))).collect();
        assert_eq!(bed.idle(), 4);
        assert!(is_closed(&ends[0]));
        for n in 0..4 {
            assert!(bed.pool.take(&place(n)).is_some(), "{n}");
        }
        drop(others);
    }

    #[test]
    fn idle_connections_leave_half_of_the_files_to_others() {
        for (files_max, expected) in
            [(None, IDLE_MAX), (Some(1 << 20), IDLE_MAX), (Some(1_024), 512), (Some(1), 0)]
        {
            assert_eq!(idle_max(files_max), expected, "{files_max:?}");
        }
    }

    #[test]
    fn places_that_nobody_has_a_connection_to_are_forgotten() {
        let bed = Bed::new(1);
        let _other_end = bed.put(&place(0));
        let (mut connection, _its_end) = bed.connection();
        for n in 1..=2 * PLACES_MAX {
            bed.pool.put(&place(n), connection);
            connection = bed.pool.take(&place(n)).unwrap();
        }
        assert!(bed.pool.shared.idle.lock().by_place.len() <= PLACES_MAX);
        assert!(bed.pool.take(&place(0)).is_some());
    }

    #[test]
    fn what_is_idle_for_too_long_is_closed_and_what_is_younger_is_not() {
        let bed = Bed::new(2);
        let old = bed.put(&place(0));
        bed.clock.advance_ms(IDLE_AGE_MAX_MS / 2);
        let _young = bed.put(&place(1));
        bed.clock.advance_ms(IDLE_AGE_MAX_MS / 2);
        // The reaper wakes by itself after half a minute; what wakes it here is not time.
        bed.pool.shared.ended.notify_all();
        assert!(is_closed(&old));
        assert!(bed.pool.take(&place(0)).is_none());
        assert!(bed.pool.take(&place(1)).is_some());
    }

    #[test]
    fn a_connection_is_not_used_for_ever() {
        let bed = Bed::new(2);
        let (connection, _other_end) = bed.connection();
        bed.clock.advance_ms(AGE_MAX_MS);
        bed.pool.put(&place(0), connection);
        let _young = bed.put(&place(1));
        assert!(bed.pool.take(&place(0)).is_none());
        assert!(bed.pool.take(&place(1)).is_some());
    }

    #[test]
    fn room_is_made_of_what_is_idle_and_not_of_what_is_in_use() {
        let bed = Bed::new(2);
        let (in_use, _its_end) = bed.connection();
        assert!(!bed.pool.make_room());
        let idle = bed.put(&place(0));
        assert!(bed.pool.make_room());
        assert!(is_closed(&idle));
        assert_eq!(bed.pool.shared.live.lock().sockets.len(), 1);
        drop(in_use);
        assert_eq!(bed.pool.shared.live.lock().sockets.len(), 0);
    }

    #[test]
    fn an_interrupted_pool_breaks_what_is_in_use_and_gives_out_and_admits_nothing() {
        let (bed, other) = (Bed::new(2), Bed::new(2));
        let idle = bed.put(&place(0));
        let (in_use, its_end) = bed.connection();
        let bystander = other.put(&place(0));
        assert!(!bed.pool.is_interrupted());
        bed.pool.interrupt();
        assert!(bed.pool.is_interrupted());
        assert!(is_closed(&idle) && is_closed(&its_end));
        bed.pool.put(&place(0), in_use);
        assert!(bed.pool.take(&place(0)).is_none());
        let stream = TcpStream::connect(bed.listener.local_addr().unwrap()).unwrap();
        assert!(bed.pool.admit(&Arc::new(stream)).is_err());
        assert!(other.pool.take(&place(0)).is_some());
        drop(bystander);
    }
}
