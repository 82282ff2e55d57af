//! What a loop knows of each destination: idle connections, how many are in use, who waits for one, and which address
//! worked last.
//!
//! A destination is a host and port as they were written, with the TLS settings, so no connection is used by a
//! request that has other settings (a different client certificate, other roots). Destinations that are not used are
//! forgotten.

use std::collections::VecDeque;
use std::net::IpAddr;

use foldhash::HashMap;
use http::uri::Authority;
use slab::Slab;

/// Where a connection leads, and with which TLS settings. Two of these never share a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ConnectionKey {
    /// Which roots are trusted and which client certificate is shown.
    pub(super) identity: u64,
    pub(super) is_https: bool,
    /// Host and port; compared without regard to case.
    pub(super) authority: Authority,
}

/// One destination and its connections.
#[derive(Debug)]
pub(super) struct HostEntry {
    key: ConnectionKey,
    /// Idle connections, the one used last at the end: the least likely to have been closed meanwhile.
    pub(super) idle: Vec<usize>,
    /// Attempts that have a connection or are about to.
    pub(super) in_use: usize,
    /// Attempts that wait until one of these ends.
    pub(super) waiting: WaitingAttempts,
    pub(super) last_good: Option<IpAddr>,
}

/// An attempt that may have ended meanwhile: another one may have its slot then, with another serial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AttemptRef {
    pub(super) slot: usize,
    pub(super) serial: u64,
}

/// Attempts that wait for a turn at a destination. Accounts take turns, because many of them may use the same service, and
/// one of them may have thousands of attempts there.
#[derive(Debug, Default)]
pub(super) struct WaitingAttempts {
    by_account: HashMap<u64, VecDeque<AttemptRef>>,
    turns: VecDeque<u64>,
}

impl WaitingAttempts {
    pub(super) fn push(&mut self, account: u64, attempt: AttemptRef) {
        let own = self.by_account.entry(account).or_default();
        if own.is_empty() {
            self.turns.push_back(account);
        }
        own.push_back(attempt);
    }

    /// The attempt whose turn it is.
    pub(super) fn pop(&mut self) -> Option<AttemptRef> {
        let account = self.turns.pop_front()?;
        let own = self.by_account.get_mut(&account)?;
        let attempt = own.pop_front();
        if own.is_empty() {
            self.by_account.remove(&account);
        } else {
            self.turns.push_back(account);
        }
        attempt
    }

    fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }
}

/// All destinations of a loop.
#[derive(Debug, Default)]
pub(super) struct HostTable {
    by_key: HashMap<ConnectionKey, usize>,
    hosts: Slab<HostEntry>,
    /// The number of destinations at which unused ones are removed next.
    crowded_at: usize,
}

/// How many destinations there may be before the unused ones are removed.
const HOSTS_MAX: usize = 65_536;

impl HostTable {
    /// The number of a destination, which stays the same as long as it is in use.
    pub(super) fn find(&mut self, key: &ConnectionKey) -> usize {
        if let Some(number) = self.by_key.get(key) {
            return *number;
        }
        if self.hosts.len() >= self.crowded_at.max(HOSTS_MAX) {
            self.forget_unused();
            // If most are in use, the next removal is put off.
            self.crowded_at = self.hosts.len() * 2;
        }
        let number = self.hosts.insert(HostEntry {
            key: key.clone(),
            idle: Vec::new(),
            in_use: 0,
            waiting: WaitingAttempts::default(),
            last_good: None,
        });
        self.by_key.insert(key.clone(), number);
        number
    }

    pub(super) fn host(&mut self, number: usize) -> Option<&mut HostEntry> {
        self.hosts.get_mut(number)
    }

    fn forget_unused(&mut self) {
        let by_key = &mut self.by_key;
        self.hosts.retain(|_, host| {
            let is_used = host.in_use > 0 || !host.idle.is_empty() || !host.waiting.is_empty();
            if !is_used {
                by_key.remove(&host.key);
            }
            is_used
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(authority: &str) -> ConnectionKey {
        ConnectionKey { identity: 0, is_https: false, authority: authority.parse().unwrap() }
    }

    #[test]
    fn a_destination_is_its_settings_scheme_and_authority() {
        let mut table = HostTable::default();
        let number = table.find(&key("a.example"));
        assert_eq!(table.find(&key("A.EXAMPLE")), number);
        for other in [
            key("b.example"),
            key("a.example:81"),
            ConnectionKey { identity: 1, ..key("a.example") },
            ConnectionKey { is_https: true, ..key("a.example") },
        ] {
            assert_ne!(table.find(&other), number, "{other:?}");
        }
    }

    #[test]
    fn accounts_take_turns_at_a_destination() {
        let mut waiting = WaitingAttempts::default();
        let attempt = |slot| AttemptRef { slot, serial: 0 };
        (0..4).for_each(|slot| waiting.push(1, attempt(slot)));
        (10..12).for_each(|slot| waiting.push(2, attempt(slot)));
        let order: Vec<_> = std::iter::from_fn(|| waiting.pop()).map(|one| one.slot).collect();
        assert_eq!(order, [0, 10, 1, 11, 2, 3]);
        assert!(waiting.is_empty() && waiting.by_account.is_empty());
    }

    #[test]
    fn only_unused_destinations_are_removed() {
        let mut table = HostTable::default();
        let number = table.find(&key("used.example"));
        table.host(number).unwrap().idle.push(1);
        for n in 0..HOSTS_MAX + 10 {
            table.find(&key(&format!("h{n}.example")));
        }
        assert!(table.hosts.len() <= HOSTS_MAX);
        assert_eq!(table.find(&key("used.example")), number);
    }
}
