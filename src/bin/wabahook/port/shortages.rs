//! Recent shortages of the host itself, which `/healthz` lists: it gave events back, or had no file for a new
//! connection. The engine knows the shortages of attempts.

use std::sync::atomic::{AtomicU64, Ordering};

use wabahook::clock::{Clock, SystemClock};

/// How long a shortage is listed after it was last seen.
const TOLD_MS: u64 = 60_000;

/// When each shortage was seen last, in milliseconds from 1; 0 is never.
pub(crate) struct Shortages {
    clock: SystemClock,
    busy_ms: AtomicU64,
    files_ms: AtomicU64,
}

impl Shortages {
    pub(crate) fn new() -> Shortages {
        let never = || AtomicU64::new(0);
        Shortages { clock: SystemClock::new(), busy_ms: never(), files_ms: never() }
    }

    /// Events were given back because the host is busy.
    pub(crate) fn note_busy(&self) {
        self.busy_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// A connection could not be accepted for want of a file.
    pub(crate) fn note_files(&self) {
        self.files_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// The shortages of the last minute.
    pub(crate) fn reasons(&self) -> Vec<&'static str> {
        self.reasons_at(self.now_ms())
    }

    fn reasons_at(&self, now_ms: u64) -> Vec<&'static str> {
        let is_recent = |at_ms: &AtomicU64| {
            let at_ms = at_ms.load(Ordering::Relaxed);
            at_ms > 0 && now_ms.saturating_sub(at_ms) < TOLD_MS
        };
        let all = [("busy", &self.busy_ms), ("files", &self.files_ms)];
        all.into_iter().filter(|(_, at_ms)| is_recent(at_ms)).map(|(name, _)| name).collect()
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
        assert!(shortages.reasons().is_empty());
        shortages.note_files();
        let now_ms = shortages.now_ms();
        assert_eq!(shortages.reasons_at(now_ms), ["files"]);
        shortages.note_busy();
        assert_eq!(shortages.reasons_at(now_ms), ["busy", "files"]);
        assert!(shortages.reasons_at(now_ms + TOLD_MS + 10).is_empty());
    }
}
