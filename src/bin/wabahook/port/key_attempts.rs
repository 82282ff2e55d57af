//! Slows down senders of wrong API keys. Each network may try a few keys at once and then one a second: the
//! answers to further ones wait. Right keys never wait, so others behind the same proxy are not affected.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use parking_lot::Mutex;
use wabahook::clock::{Clock, SystemClock};

use super::connections::network_of;

/// How many wrong keys are answered at once.
const BURST: u64 = 10;
/// After that, one wrong key is answered per interval.
const INTERVAL_MS: u64 = 1_000;
/// The longest that an answer waits.
const WAIT_MAX_MS: u64 = 10_000;
/// How many networks are remembered. Beyond it the one that waited least is forgotten.
const NETWORKS_MAX: usize = 4_096;

/// The networks that sent wrong keys.
pub(crate) struct KeyAttempts {
    clock: SystemClock,
    table: Mutex<AttemptTable>,
}

/// When the wrong keys of each network are paid for, in milliseconds.
#[derive(Default)]
struct AttemptTable(HashMap<IpAddr, u64>);

impl KeyAttempts {
    pub(crate) fn new() -> KeyAttempts {
        KeyAttempts { clock: SystemClock::new(), table: Mutex::default() }
    }

    /// Waits before the answer to a wrong key.
    pub(crate) async fn slow_down(&self, address: IpAddr) {
        let wait = self.table.lock().wrong_key(network_of(address), self.clock.monotonic_ms());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

impl AttemptTable {
    /// Counts a wrong key and returns how long its answer waits.
    fn wrong_key(&mut self, network: IpAddr, now_ms: u64) -> Duration {
        if self.0.len() >= NETWORKS_MAX && !self.0.contains_key(&network) {
            self.make_room(now_ms);
        }
        let paid_ms = self.0.entry(network).or_insert(now_ms);
        let owed_max_ms = BURST * INTERVAL_MS + WAIT_MAX_MS;
        *paid_ms = ((*paid_ms).max(now_ms) + INTERVAL_MS).min(now_ms + owed_max_ms);
        let ahead_ms = *paid_ms - now_ms;
        Duration::from_millis(ahead_ms.saturating_sub(BURST * INTERVAL_MS))
    }

    fn make_room(&mut self, now_ms: u64) {
        self.0.retain(|_, paid_ms| *paid_ms > now_ms);
        if self.0.len() < NETWORKS_MAX {
            return;
        }
        let least = self.0.iter().min_by_key(|(_, paid_ms)| **paid_ms).map(|(one, _)| *one);
        if let Some(network) = least {
            self.0.remove(&network);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    #[test]
    fn later_wrong_keys_wait() {
        let mut table = AttemptTable::default();
        for _ in 0..BURST {
            assert_eq!(table.wrong_key(network(1), 5_000), Duration::ZERO);
        }
        assert_eq!(table.wrong_key(network(1), 5_000), Duration::from_secs(1));
        assert_eq!(table.wrong_key(network(1), 5_000), Duration::from_secs(2));
        assert_eq!(table.wrong_key(network(2), 5_000), Duration::ZERO, "of another network");
        assert_eq!(table.wrong_key(network(1), 8_000), Duration::ZERO, "three seconds later");
        for _ in 0..3_000 {
            assert!(table.wrong_key(network(1), 8_000) <= Duration::from_millis(WAIT_MAX_MS));
        }
        assert_eq!(table.wrong_key(network(1), 60_000), Duration::ZERO);
    }

    #[test]
    fn the_table_is_bounded_and_keeps_the_worst() {
        let mut table = AttemptTable::default();
        for _ in 0..100 {
            table.wrong_key(network(0), 0);
        }
        for number in 1..20_000 {
            table.wrong_key(network(number), 0);
            assert!(table.0.len() <= NETWORKS_MAX);
        }
        assert!(!table.wrong_key(network(0), 0).is_zero());
    }
}
