//! Counts something that may happen thousands of times a second and is reported at most once a minute.

/// The time between two reports.
const REPORT_INTERVAL_MS: u64 = 60_000;

/// What happened since the last report.
#[derive(Debug, Default)]
pub(crate) struct MinuteCount {
    unreported: u64,
    reported_at_ms: Option<u64>,
}

impl MinuteCount {
    /// Counts, and returns how many to report; `None` if the last report was within the last minute.
    pub(crate) fn add(&mut self, count: u64, now_ms: u64) -> Option<u64> {
        self.unreported += count;
        let is_due = |at_ms: u64| now_ms.saturating_sub(at_ms) >= REPORT_INTERVAL_MS;
        if !self.reported_at_ms.is_none_or(is_due) {
            return None;
        }
        self.reported_at_ms = Some(now_ms);
        Some(std::mem::take(&mut self.unreported))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_reported_once_a_minute_with_its_count() {
        let mut count = MinuteCount::default();
        let reports: Vec<_> = (0..180).filter_map(|n| count.add(10, n * 1_000)).collect();
        assert_eq!(reports, [10, 600, 600]);
    }
}
