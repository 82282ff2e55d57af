//! Which connections the host keeps open. A connection is unauthenticated until a request on it has a valid
//! API key or signature. Unauthenticated connections have a bounded share of all connections, and when it is
//! full, a new connection replaces the oldest of them. So connections that only hold a place, or send a byte
//! now and then, keep nobody out, and authenticated ones are never closed for others.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// How long a new connection may take to send the head of its first request.
const FIRST_HEAD_MAX: Duration = Duration::from_secs(10);

/// How many connections may be open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConnectionLimits {
    pub(crate) total: usize,
    /// From one address, or one IPv6 network of 64 bits.
    pub(crate) per_address: usize,
}

/// The open connections.
pub(crate) struct ClientConnections(Mutex<ConnectionTable>);

/// What happened to a new connection.
pub(crate) enum ConnectionAdmission {
    Admitted(ClientConnection),
    /// An older connection was closed for it.
    Replaced(ClientConnection),
    /// Every connection that could be closed for it is authenticated.
    Refused,
}

/// An open connection, until it is dropped.
pub(crate) struct ClientConnection {
    /// Of the client, or of the proxy in front of this host.
    pub(crate) address: IpAddr,
    id: u64,
    connections: Arc<ClientConnections>,
    replaced: Arc<Notify>,
    requests: AtomicU64,
    is_in_request: AtomicBool,
}

/// Every look-up takes about the same time however many connections are open: while a crowd connects, each accept
/// delays those that wait behind it.
struct ConnectionTable {
    limits: ConnectionLimits,
    next_id: u64,
    open: HashMap<u64, ConnectionEntry>,
    /// By id, and so by age.
    unauthenticated: BTreeSet<u64>,
    by_network: HashMap<IpAddr, NetworkConnections>,
}

struct ConnectionEntry {
    network: IpAddr,
    replaced: Arc<Notify>,
}

#[derive(Default)]
struct NetworkConnections {
    open: usize,
    unauthenticated: BTreeSet<u64>,
}

impl ClientConnections {
    pub(crate) fn new(limits: ConnectionLimits) -> Arc<ClientConnections> {
        let table = ConnectionTable {
            limits,
            next_id: 0,
            open: HashMap::new(),
            unauthenticated: BTreeSet::new(),
            by_network: HashMap::new(),
        };
        Arc::new(ClientConnections(Mutex::new(table)))
    }

    pub(crate) fn open(self: &Arc<ClientConnections>, address: IpAddr) -> ConnectionAdmission {
        let replaced = Arc::new(Notify::new());
        let opened = self.0.lock().open(network_of(address), Arc::clone(&replaced));
        let Some((id, has_replaced)) = opened else { return ConnectionAdmission::Refused };
        let (connections, requests) = (Arc::clone(self), AtomicU64::new(0));
        let is_in_request = AtomicBool::new(false);
        let connection =
            ClientConnection { address, id, connections, replaced, requests, is_in_request };
        match has_replaced {
            true => ConnectionAdmission::Replaced(connection),
            false => ConnectionAdmission::Admitted(connection),
        }
    }
}

impl ClientConnection {
    /// The head of a request is complete.
    pub(super) fn request_began(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.is_in_request.store(true, Ordering::Relaxed);
    }

    /// The response of the request begins.
    pub(super) fn request_ended(&self) {
        self.is_in_request.store(false, Ordering::Relaxed);
    }

    /// How many requests came so far.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(super) fn is_in_request(&self) -> bool {
        self.is_in_request.load(Ordering::Relaxed)
    }

    /// A request on it has a valid key or signature.
    pub(crate) fn authenticated(&self) {
        self.connections.0.lock().authenticate(self.id);
    }

    /// Resolves when the host closes the connection: for a newer one, or because no request came.
    pub(crate) async fn closed_by_host(&self) {
        let no_request = async {
            tokio::time::sleep(FIRST_HEAD_MAX).await;
            if self.requests() > 0 {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = self.replaced.notified() => {}
            () = no_request => {}
        }
    }
}

impl Drop for ClientConnection {
    fn drop(&mut self) {
        self.connections.0.lock().remove(self.id);
    }
}

impl ConnectionTable {
    /// The id of the new connection, and whether it replaces another.
    fn open(&mut self, network: IpAddr, replaced: Arc<Notify>) -> Option<(u64, bool)> {
        let ConnectionLimits { total, per_address } = self.limits;
        let of_network = self.by_network.get(&network);
        let is_crowded =
            self.open.len() >= total || self.unauthenticated.len() >= unauthenticated_max(total);
        let mut has_replaced = false;
        if of_network.is_some_and(|own| own.open >= per_address) {
            let oldest = of_network.and_then(|own| own.unauthenticated.first().copied());
            self.replace(oldest?);
            has_replaced = true;
        } else if is_crowded {
            self.replace(self.unauthenticated.first().copied()?);
            has_replaced = true;
        }
        let id = self.next_id;
        self.next_id += 1;
        self.open.insert(id, ConnectionEntry { network, replaced });
        self.unauthenticated.insert(id);
        let of_network = self.by_network.entry(network).or_default();
        of_network.open += 1;
        of_network.unauthenticated.insert(id);
        Some((id, has_replaced))
    }

    /// Closes a connection for another one.
    fn replace(&mut self, id: u64) {
        if let Some(entry) = self.remove(id) {
            entry.replaced.notify_one();
        }
    }

    fn remove(&mut self, id: u64) -> Option<ConnectionEntry> {
        let entry = self.open.remove(&id)?;
        self.unauthenticated.remove(&id);
        if let Entry::Occupied(mut of_network) = self.by_network.entry(entry.network) {
            of_network.get_mut().open -= 1;
            of_network.get_mut().unauthenticated.remove(&id);
            if of_network.get().open == 0 {
                of_network.remove();
            }
        }
        Some(entry)
    }

    fn authenticate(&mut self, id: u64) {
        self.unauthenticated.remove(&id);
        let network = self.open.get(&id).map(|entry| entry.network);
        if let Some(own) = network.and_then(|network| self.by_network.get_mut(&network)) {
            own.unauthenticated.remove(&id);
        }
    }
}

/// A quarter of all connections is reserved for authenticated ones.
fn unauthenticated_max(total: usize) -> usize {
    (total - total / 4).max(1)
}

/// A client with IPv6 usually controls a whole /64 network, so its addresses count as one.
pub(super) fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(host: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, host])
    }

    fn connections(total: usize, per_address: usize) -> Arc<ClientConnections> {
        ClientConnections::new(ConnectionLimits { total, per_address })
    }

    fn open(connections: &Arc<ClientConnections>, host: u8) -> Option<ClientConnection> {
        match connections.open(address(host)) {
            ConnectionAdmission::Admitted(connection)
            | ConnectionAdmission::Replaced(connection) => Some(connection),
            ConnectionAdmission::Refused => None,
        }
    }

    fn is_open(connections: &Arc<ClientConnections>, connection: &ClientConnection) -> bool {
        connections.0.lock().open.contains_key(&connection.id)
    }

    #[test]
    fn a_new_connection_replaces_the_oldest_silent_one() {
        let connections = connections(8, 8);
        let silent: Vec<_> = (0..6).filter_map(|_| open(&connections, 1)).collect();
        assert!(matches!(connections.open(address(2)), ConnectionAdmission::Replaced(_)));
        assert!(!is_open(&connections, &silent[0]) && is_open(&connections, &silent[1]));
    }

    #[test]
    fn an_authenticated_connection_is_never_replaced() {
        let connections = connections(4, 4);
        let known = open(&connections, 1).unwrap();
        known.authenticated();
        let silent: Vec<_> = (0..50).filter_map(|_| open(&connections, 2)).collect();
        assert_eq!(silent.len(), 50);
        assert!(is_open(&connections, &known));
        assert_eq!(connections.0.lock().open.len(), 4);
        silent.iter().for_each(ClientConnection::authenticated);
        assert!(open(&connections, 3).is_none(), "all are authenticated");
    }

    #[test]
    fn one_address_takes_no_more_than_its_share() {
        let connections = connections(100, 3);
        let other = open(&connections, 2).unwrap();
        let crowd: Vec<_> = (0..10).filter_map(|_| open(&connections, 1)).collect();
        assert_eq!(crowd.iter().filter(|one| is_open(&connections, one)).count(), 3);
        assert!(is_open(&connections, &other));
        drop(crowd);
        let table = connections.0.lock();
        assert_eq!((table.open.len(), table.by_network.len()), (1, 1));
        assert_eq!(table.unauthenticated.len(), 1);
    }

    #[test]
    fn the_addresses_of_an_ipv6_network_count_as_one() {
        let one: IpAddr = "2001:db8::1".parse().unwrap();
        assert_eq!(network_of(one), network_of("2001:db8::ffff:1".parse().unwrap()));
        assert_ne!(network_of(one), network_of("2001:db8:0:1::1".parse().unwrap()));
        assert_eq!(network_of("::ffff:192.0.2.1".parse().unwrap()), address(1));
    }
}
