//! How old the deliveries of a backlog are. The age of a delivery counts from the acceptance of its event, or from
//! its replay. What was never tried keeps no time of its own: the dispatcher's table of acceptance times has it.

use roaring::RoaringTreemap;

use super::Backlog;
use crate::event::AcceptanceTimes;

/// Replays of more batches than this are merged, so that their times stay few.
const BATCHES_MAX: usize = 64;

/// When owed deliveries were replayed.
#[derive(Debug, Default)]
pub(super) struct ReplayTimes {
    /// The monotonic time of each batch, ascending, and its deliveries.
    batches: Vec<(i64, RoaringTreemap)>,
}

impl ReplayTimes {
    pub(super) fn note(&mut self, sequence: u64, at_ms: i64) {
        self.forget(sequence);
        let place = self.batches.partition_point(|(batch_ms, _)| *batch_ms < at_ms);
        match self.batches.get_mut(place) {
            Some((batch_ms, batch)) if *batch_ms == at_ms => drop(batch.insert(sequence)),
            _ => self.batches.insert(place, (at_ms, [sequence].into_iter().collect())),
        }
        if self.batches.len() > BATCHES_MAX {
            self.merge();
        }
    }

    /// Merges the two batches nearest to each other. The deliveries of the earlier one count as younger.
    fn merge(&mut self) {
        let gaps = self.batches.windows(2).map(|two| match two {
            [(earlier_ms, _), (later_ms, _)] => later_ms.saturating_sub(*earlier_ms),
            _ => i64::MAX,
        });
        let Some((place, _)) = gaps.enumerate().min_by_key(|(_, gap_ms)| *gap_ms) else { return };
        let (_, earlier) = self.batches.remove(place);
        if let Some((_, later)) = self.batches.get_mut(place) {
            *later |= earlier;
        }
    }

    pub(super) fn forget(&mut self, sequence: u64) {
        for (_, batch) in &mut self.batches {
            batch.remove(sequence);
        }
        self.batches.retain(|(_, batch)| !batch.is_empty());
    }

    fn of(&self, sequence: u64) -> Option<i64> {
        self.batches.iter().find(|(_, batch)| batch.contains(sequence)).map(|(at_ms, _)| *at_ms)
    }

    fn oldest(&self) -> Option<i64> {
        self.batches.first().map(|(at_ms, _)| *at_ms)
    }

    /// The deliveries that were replayed at `at_ms` or before.
    fn by(&self, at_ms: i64) -> RoaringTreemap {
        let batches = self.batches.iter().take_while(|(batch_ms, _)| *batch_ms <= at_ms);
        batches.fold(RoaringTreemap::new(), |all, (_, batch)| all | batch)
    }
}

impl Backlog {
    /// From when the age of a delivery counts; `None` for an event that was accepted just now.
    pub(crate) fn counts_from(&self, sequence: u64, times: &AcceptanceTimes) -> Option<i64> {
        let failed = self.retries.get(&sequence).map(|retrying| retrying.counts_from_ms);
        failed.or_else(|| self.replays.of(sequence)).or_else(|| times.of(sequence))
    }

    /// From when the age of the oldest delivery counts.
    pub(crate) fn oldest(&self, times: &AcceptanceTimes) -> Option<i64> {
        let replayed = self.replays.by(i64::MAX);
        let first = |set: &RoaringTreemap| match replayed.is_empty() {
            true => set.min(),
            false => set.iter().find(|sequence| !replayed.contains(*sequence)),
        };
        let never_tried = [&self.pending.set, &self.blocked.set].map(first).into_iter().flatten();
        let in_flight = self.in_flight.iter().copied();
        let failed = self.retries.values().map(|retrying| retrying.counts_from_ms);
        let others = never_tried.chain(in_flight);
        let others = others.filter_map(|sequence| self.counts_from(sequence, times));
        failed.chain(others).chain(self.replays.oldest()).min()
    }

    /// Deliveries whose age counts from `by_ms` or before and that are not in flight, at most `count_max`.
    pub(crate) fn counting_from_by(
        &self,
        by_ms: i64,
        times: &AcceptanceTimes,
        count_max: usize,
    ) -> Vec<u64> {
        let is_owed = |sequence: &u64| {
            self.pending.set.contains(*sequence) || self.blocked.set.contains(*sequence)
        };
        let mut found: Vec<u64> =
            self.replays.by(by_ms).iter().filter(is_owed).take(count_max).collect();
        let failed = self.retries.iter().filter(|(_, retrying)| retrying.counts_from_ms <= by_ms);
        let failed = failed.map(|(sequence, _)| *sequence);
        found.extend(failed.filter(|sequence| !self.is_in_flight(*sequence)).take(count_max));
        if let Some(last) = times.last_by(by_ms) {
            let replayed = self.replays.by(i64::MAX);
            for set in [&self.pending.set, &self.blocked.set] {
                let never_tried = set.iter().take_while(|sequence| *sequence <= last);
                let never_replayed = never_tried.filter(|sequence| !replayed.contains(*sequence));
                found.extend(never_replayed.take(count_max));
            }
        }
        found.sort_unstable();
        found.truncate(count_max);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replays_keep_their_times_and_few_batches() {
        let mut replays = ReplayTimes::default();
        for sequence in 0..200 {
            replays.note(sequence, i64::try_from(sequence).unwrap() * 1_000);
        }
        replays.note(0, 77);
        assert_eq!((replays.batches.len(), replays.oldest()), (BATCHES_MAX, Some(77)));
        assert!((0..200).all(|sequence| replays.of(sequence).is_some()));
        replays.forget(0);
        assert_eq!(replays.of(0), None);
        let all = replays.by(i64::MAX);
        assert_eq!((all.len(), all.min()), (199, Some(1)));
        assert!(replays.of(1).unwrap() >= 1_000, "never older than it is");
    }
}
