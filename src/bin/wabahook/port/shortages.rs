//! Recent shortages of the host itself, which `/healthz` lists: it gave events back, or had no file for a new
//! connection. Events refused to a single account do not count when the host has several accounts; a refused callback
//! always counts, because it may carry events of many accounts. The engine knows the shortages of attempts.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use wabahook::clock::{Clock, SystemClock};

use super::body_room::BodyHolder;

/// How long a shortage is listed after it was last seen.
const TOLD_MS: u64 = 60_000;

pub(crate) struct Shortages {
    clock: SystemClock,
    /// Who got events back, and when last: the last two.
    busy: Mutex<Vec<(Option<BodyHolder>, u64)>>,
    /// When a file was missing last, in milliseconds from 1; 0 is never.
    files_ms: AtomicU64,
}

impl Shortages {
    pub(crate) fn new() -> Shortages {
        Shortages { clock: SystemClock::new(), busy: Mutex::default(), files_ms: AtomicU64::new(0) }
    }

    /// Events were given back because the host is busy.
    pub(crate) fn note_busy(&self, holder: Option<BodyHolder>) {
        let now_ms = self.now_ms();
        let mut busy = self.busy.lock();
        busy.retain(|(one, _)| *one != holder);
        busy.push((holder, now_ms));
        if busy.len() > 2 {
            busy.remove(0);
        }
    }

    /// A connection could not be accepted for want of a file.
    pub(crate) fn note_files(&self) {
        self.files_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// The shortages of the last minute. `has_several` says whether there are several accounts.
    pub(crate) fn reasons(&self, has_several: impl FnOnce() -> bool) -> Vec<&'static str> {
        self.reasons_at(self.now_ms(), has_several)
    }

    fn reasons_at(&self, now_ms: u64, has_several: impl FnOnce() -> bool) -> Vec<&'static str> {
        let is_recent = |at_ms: u64| at_ms > 0 && now_ms.saturating_sub(at_ms) < TOLD_MS;
        // Of each, whether it is an account.
        let recent: Vec<bool> = self
            .busy
            .lock()
            .iter()
            .filter(|(_, at_ms)| is_recent(*at_ms))
            .map(|(holder, _)| matches!(holder, Some(BodyHolder::Account(_))))
            .collect();
        let is_busy = match recent.as_slice() {
            [] => false,
            [true] => !has_several(),
            _ => true,
        };
        let all = [("busy", is_busy), ("files", is_recent(self.files_ms.load(Ordering::Relaxed)))];
        all.into_iter().filter(|(_, is_told)| *is_told).map(|(name, _)| name).collect()
    }

    fn now_ms(&self) -> u64 {
        self.clock.monotonic_ms() + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_is_told_for_a_minute() {
        let shortages = Shortages::new();
        assert!(shortages.reasons(|| false).is_empty());
        shortages.note_files();
        let now_ms = shortages.now_ms();
        assert_eq!(shortages.reasons_at(now_ms, || false), ["files"]);
        let account = |name: &str| Some(BodyHolder::Account(name.to_owned()));
        shortages.note_busy(account("acme"));
        assert_eq!(shortages.reasons_at(now_ms, || false), ["busy", "files"]);
        assert!(shortages.reasons_at(now_ms + TOLD_MS + 10, || false).is_empty());
    }

    #[test]
    fn a_callback_given_back_makes_the_host_busy() {
        let address = std::net::Ipv4Addr::LOCALHOST.into();
        for holder in [None, Some(BodyHolder::stranger(address))] {
            let shortages = Shortages::new();
            shortages.note_busy(holder);
            assert_eq!(shortages.reasons(|| true), ["busy"]);
        }
    }

    #[test]
    fn one_of_several_accounts_makes_nobody_busy() {
        let shortages = Shortages::new();
        let account = |name: &str| Some(BodyHolder::Account(name.to_owned()));
        for _ in 0..3 {
            shortages.note_busy(account("acme"));
        }
        assert!(shortages.reasons(|| true).is_empty());
        assert_eq!(shortages.reasons(|| false), ["busy"], "the only account");
        shortages.note_busy(account("beta"));
        shortages.note_busy(account("gamma"));
        assert_eq!(shortages.reasons(|| true), ["busy"]);
        assert!(shortages.busy.lock().len() <= 2);
    }
}
