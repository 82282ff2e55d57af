//! Which connections the host keeps open. A connection is replaceable until a request on it has a valid API key or
//! signature. Replaceable connections have a bounded share of all connections, and when it is full, a new connection
//! replaces the oldest of them. So connections that only hold a place, or send a byte now and then, keep nobody out.
//! Authenticated ones are kept in a crowd, but only so many of each account, and never so many that a new connection
//! finds no place: the oldest ones above that are replaceable again.

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

/// An account has at most this part of all connections that are kept in a crowd.
const PART_OF_ACCOUNT: usize = 8;

/// Whose key or signature a request has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyHolder<'a> {
    Account(&'a str),
    /// The operator, Meta, or another host.
    Host,
}

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
    /// Every connection that could be closed for it is kept.
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
    replaceable: BTreeSet<u64>,
    by_network: HashMap<IpAddr, NetworkConnections>,
    /// The connections of each account that are kept.
    kept_of_account: HashMap<String, BTreeSet<u64>>,
}

struct ConnectionEntry {
    network: IpAddr,
    replaced: Arc<Notify>,
    /// The account among whose kept connections it is.
    account: Option<String>,
}

#[derive(Default)]
struct NetworkConnections {
    open: usize,
    replaceable: BTreeSet<u64>,
}

impl ClientConnections {
    pub(crate) fn new(limits: ConnectionLimits) -> Arc<ClientConnections> {
        let table = ConnectionTable {
            limits,
            next_id: 0,
            open: HashMap::new(),
            replaceable: BTreeSet::new(),
            by_network: HashMap::new(),
            kept_of_account: HashMap::new(),
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
    pub(crate) fn authenticated(&self, holder: KeyHolder<'_>) {
        self.connections.0.lock().authenticate(self.id, holder);
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
            self.open.len() >= total || self.replaceable.len() >= three_quarters(total);
        let mut has_replaced = false;
        if of_network.is_some_and(|own| own.open >= per_address) {
            let oldest = of_network.and_then(|own| own.replaceable.first().copied());
            self.replace(oldest?);
            has_replaced = true;
        } else if is_crowded {
            self.replace(self.replaceable.first().copied()?);
            has_replaced = true;
        }
        let id = self.next_id;
        self.next_id += 1;
        self.open.insert(id, ConnectionEntry { network, replaced, account: None });
        self.by_network.entry(network).or_default().open += 1;
        self.make_replaceable(id);
        Some((id, has_replaced))
    }

    /// Closes a connection for another one.
    fn replace(&mut self, id: u64) {
        if let Some(entry) = self.remove(id) {
            entry.replaced.notify_one();
        }
    }

    fn remove(&mut self, id: u64) -> Option<ConnectionEntry> {
        self.leave_account(id);
        let entry = self.open.remove(&id)?;
        self.replaceable.remove(&id);
        if let Entry::Occupied(mut of_network) = self.by_network.entry(entry.network) {
            of_network.get_mut().open -= 1;
            of_network.get_mut().replaceable.remove(&id);
            if of_network.get().open == 0 {
                of_network.remove();
            }
        }
        Some(entry)
    }

    /// Keeps a connection in a crowd. Above the share of its account, or of all, the account's oldest one is
    /// replaceable again.
    fn authenticate(&mut self, id: u64, holder: KeyHolder<'_>) {
        let Some(entry) = self.open.get_mut(&id) else { return };
        let network = entry.network;
        if let KeyHolder::Account(account) = holder {
            if entry.account.as_deref() == Some(account) {
                return;
            }
            self.leave_account(id);
            if let Some(entry) = self.open.get_mut(&id) {
                entry.account = Some(account.to_owned());
            }
            self.kept_of_account.entry(account.to_owned()).or_default().insert(id);
        }
        self.replaceable.remove(&id);
        if let Some(own) = self.by_network.get_mut(&network) {
            own.replaceable.remove(&id);
        }
        let KeyHolder::Account(account) = holder else { return };
        let Some(own) = self.kept_of_account.get(account) else { return };
        let kept = self.open.len() - self.replaceable.len();
        let share_max = self.limits.total.div_ceil(PART_OF_ACCOUNT);
        let is_over = own.len() > share_max || kept > three_quarters(self.limits.total);
        if let Some(oldest) = own.first().copied().filter(|_| is_over) {
            self.leave_account(oldest);
            self.make_replaceable(oldest);
        }
    }

    fn make_replaceable(&mut self, id: u64) {
        let Some(entry) = self.open.get(&id) else { return };
        self.replaceable.insert(id);
        self.by_network.entry(entry.network).or_default().replaceable.insert(id);
    }

    /// Removes a connection from the kept ones of its account.
    fn leave_account(&mut self, id: u64) {
        let entry = self.open.get_mut(&id);
        let Some(account) = entry.and_then(|entry| entry.account.take()) else { return };
        if let Entry::Occupied(mut own) = self.kept_of_account.entry(account) {
            own.get_mut().remove(&id);
            if own.get().is_empty() {
                own.remove();
            }
        }
    }
}

/// A quarter of all connections is reserved for kept ones, and another for new ones.
fn three_quarters(total: usize) -> usize {
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
    fn an_authenticated_connection_is_kept_in_a_crowd() {
        let connections = connections(16, 16);
        let known = open(&connections, 1).unwrap();
        known.authenticated(KeyHolder::Account("acme"));
        let silent: Vec<_> = (0..50).filter_map(|_| open(&connections, 2)).collect();
        assert_eq!(silent.len(), 50);
        assert!(is_open(&connections, &known));
        assert_eq!(connections.0.lock().open.len(), 13);
    }

    /// A key that opens as many connections as it can keeps neither strangers nor other accounts out.
    #[test]
    fn one_account_keeps_no_more_than_its_share() {
        let connections = connections(16, 16);
        let quiet = open(&connections, 1).unwrap();
        quiet.authenticated(KeyHolder::Account("quiet"));
        let meta = open(&connections, 1).unwrap();
        meta.authenticated(KeyHolder::Host);
        let noisy: Vec<_> = (0..100).filter_map(|_| open(&connections, 2)).collect();
        for _ in 0..2 {
            noisy.iter().for_each(|one| one.authenticated(KeyHolder::Account("noisy")));
        }
        assert_eq!(connections.0.lock().kept_of_account["noisy"].len(), 2);
        let strangers: Vec<_> = (0..50).filter_map(|_| open(&connections, 3)).collect();
        assert_eq!(strangers.len(), 50, "none is refused");
        assert!(is_open(&connections, &quiet) && is_open(&connections, &meta));
        drop((noisy, quiet));
        let table = connections.0.lock();
        assert!(table.kept_of_account.is_empty(), "what was closed is not counted");
    }

    #[test]
    fn many_accounts_leave_a_place_to_a_new_connection() {
        let connections = connections(16, 16);
        let names: Vec<_> = (0..40).map(|n| format!("account {n}")).collect();
        let open_one = |name: &String| {
            let one = open(&connections, 1)?;
            one.authenticated(KeyHolder::Account(name));
            Some(one)
        };
        let all: Vec<_> = names.iter().filter_map(open_one).collect();
        assert_eq!(all.len(), 40);
        assert!(open(&connections, 2).is_some());
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
        assert_eq!(table.replaceable.len(), 1);
    }

    #[test]
    fn the_addresses_of_an_ipv6_network_count_as_one() {
        let one: IpAddr = "2001:db8::1".parse().unwrap();
        assert_eq!(network_of(one), network_of("2001:db8::ffff:1".parse().unwrap()));
        assert_ne!(network_of(one), network_of("2001:db8:0:1::1".parse().unwrap()));
        assert_eq!(network_of("::ffff:192.0.2.1".parse().unwrap()), address(1));
    }
}
