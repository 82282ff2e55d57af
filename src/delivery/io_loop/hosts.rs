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
    in_use: usize,
    in_use_by_account: HashMap<u64, usize>,
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

/// Attempts that wait for a turn at a destination. Accounts take turns, because many of them may use the same service,
/// and one of them may have thousands of attempts there.
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

    /// The attempt whose turn it is, with its account, among the accounts that may have one.
    fn pop(&mut self, may_have: impl Fn(u64) -> bool) -> Option<(u64, AttemptRef)> {
        let place = self.turns.iter().position(|account| may_have(*account))?;
        let account = self.turns.remove(place)?;
        let own = self.by_account.get_mut(&account)?;
        let attempt = own.pop_front()?;
        if own.is_empty() {
            self.by_account.remove(&account);
        } else {
            self.turns.push_back(account);
        }
        Some((account, attempt))
    }

    fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }
}

impl HostEntry {
    /// Takes a turn for an account, if there is one. One account leaves an eighth of them to the others, because many
    /// customers use the same service and one of them may have slow endpoints there.
    pub(super) fn take_turn(&mut self, account: u64, most: usize) -> bool {
        let has_turn = self.in_use < most && is_below_share(&self.in_use_by_account, account, most);
        if has_turn {
            self.count_turn(account);
        }
        has_turn
    }

    /// Counts a turn that an account takes over from an attempt that ended.
    pub(super) fn count_turn(&mut self, account: u64) {
        self.in_use += 1;
        *self.in_use_by_account.entry(account).or_default() += 1;
    }

    pub(super) fn give_turn_back(&mut self, account: u64) {
        self.in_use = self.in_use.saturating_sub(1);
        if let Some(own) = self.in_use_by_account.get_mut(&account) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                self.in_use_by_account.remove(&account);
            }
        }
    }

    /// The waiting attempt that may have the next turn, and its account.
    pub(super) fn next_waiting(&mut self, most: usize) -> Option<(u64, AttemptRef)> {
        let HostEntry { waiting, in_use_by_account, .. } = self;
        waiting.pop(|account| is_below_share(in_use_by_account, account, most))
    }
}

/// Whether an account has less than seven eighths of the turns.
fn is_below_share(in_use: &HashMap<u64, usize>, account: u64, most: usize) -> bool {
    in_use.get(&account).is_none_or(|own| *own < most - most / 8)
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
            in_use_by_account: HashMap::default(),
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
        let order: Vec<_> =
            std::iter::from_fn(|| waiting.pop(|_| true)).map(|(_, one)| one.slot).collect();
        assert_eq!(order, [0, 10, 1, 11, 2, 3]);
        assert!(waiting.is_empty() && waiting.by_account.is_empty());
    }

    #[test]
    fn one_account_leaves_turns_to_others() {
        let mut table = HostTable::default();
        let number = table.find(&key("shared.example"));
        let host = table.host(number).unwrap();
        let taken = (0..100).filter(|_| host.take_turn(1, 100)).count();
        assert_eq!(taken, 88);
        let attempt = |slot| AttemptRef { slot, serial: 0 };
        host.waiting.push(1, attempt(1));
        assert_eq!(host.next_waiting(100), None, "it has its share");
        assert!((0..12).all(|_| host.take_turn(2, 100)), "the others' turns are free");
        assert!(!host.take_turn(3, 100), "all are taken");
        host.waiting.push(3, attempt(3));
        host.give_turn_back(2);
        assert_eq!(host.next_waiting(100), Some((3, attempt(3))), "the first one still waits");
        host.give_turn_back(1);
        assert_eq!(host.next_waiting(100), Some((1, attempt(1))));
        assert!(host.take_turn(1, 100), "one of its own came back");
        // With a few turns there is no part to leave.
        let few = table.find(&key("few.example"));
        let host = table.host(few).unwrap();
        assert_eq!((0..9).filter(|_| host.take_turn(1, 7)).count(), 7);
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
