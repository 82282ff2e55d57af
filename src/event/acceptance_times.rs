//! When events were accepted, by sequence, in a table that stays small however many events there are. Sequences and
//! times ascend together, so an entry stands for a run of events. Old entries are merged into newer ones, and an
//! event then counts as up to a few thousandths of its age younger than it is, never as older.

/// Two neighbouring entries are merged if the time between them is less than this fraction of their age.
const GAP_PART: i64 = 1_024;

/// Entries nearer to each other than this are merged at whatever age, in milliseconds.
const GAP_MIN_MS: i64 = 100;

/// Entries that a table may gain before it is thinned again.
const GROWTH: usize = 1_024;

/// The acceptance times of events, in milliseconds of one clock. Monotonic times before the start of the process are
/// negative.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AcceptanceTimes {
    /// The last sequence of each run and its time; both ascend.
    runs: Vec<(u64, i64)>,
    /// How many runs the last thinning left.
    thinned: usize,
}

impl AcceptanceTimes {
    /// Records `at_ms` as the time of acceptance of all events up to `sequence` that have none yet.
    pub(crate) fn note(&mut self, sequence: u64, at_ms: i64) {
        match self.runs.last_mut() {
            Some((last, _)) if *last >= sequence => {}
            Some((last, last_ms)) if *last_ms >= at_ms => *last = sequence,
            _ => self.runs.push((sequence, at_ms)),
        }
        if self.runs.len() > 2 * self.thinned + GROWTH {
            self.thin(at_ms);
        }
    }

    /// The times of all events, which may be in any order, at `now_ms`. A time in the future counts as now, and an
    /// event was accepted no earlier than those before it, so that a clock set back ages nothing.
    pub(crate) fn recovered(mut runs: Vec<(u64, i64)>, now_ms: i64) -> AcceptanceTimes {
        runs.sort_unstable();
        let mut latest_ms = i64::MIN;
        for (_, at_ms) in &mut runs {
            latest_ms = latest_ms.max((*at_ms).min(now_ms));
            *at_ms = latest_ms;
        }
        let mut times = AcceptanceTimes { runs, thinned: 0 };
        times.thin(now_ms);
        times
    }

    /// Merges runs that are less than [`GAP_MIN_MS`] apart into one with the last sequence and the highest time. There
    /// must be no other runs between these sequences. [`recovered`](AcceptanceTimes::recovered) then makes a time at most that much later.
    pub(crate) fn merge_near(runs: &mut Vec<(u64, i64)>) {
        runs.sort_unstable();
        let mut first_ms = runs.first().map_or(0, |(_, at_ms)| *at_ms);
        runs.dedup_by(|(sequence, at_ms), (last, highest_ms)| {
            let is_near = at_ms.abs_diff(first_ms) < GAP_MIN_MS.unsigned_abs();
            match is_near {
                true => (*last, *highest_ms) = (*sequence, (*highest_ms).max(*at_ms)),
                false => first_ms = *at_ms,
            }
            is_near
        });
    }

    /// The same times on another clock, which shows `by_ms` more.
    pub(crate) fn moved(mut self, by_ms: i64) -> AcceptanceTimes {
        self.runs.iter_mut().for_each(|(_, at_ms)| *at_ms = at_ms.saturating_add(by_ms));
        self
    }

    /// When an event was accepted; `None` for one that is not noted yet.
    pub(crate) fn of(&self, sequence: u64) -> Option<i64> {
        let run = self.runs.partition_point(|(last, _)| *last < sequence);
        self.runs.get(run).map(|(_, at_ms)| *at_ms)
    }

    /// The last event that was accepted at `at_ms` or before.
    pub(crate) fn last_by(&self, at_ms: i64) -> Option<u64> {
        let run = self.runs.partition_point(|(_, run_ms)| *run_ms <= at_ms).checked_sub(1)?;
        self.runs.get(run).map(|(last, _)| *last)
    }

    fn thin(&mut self, now_ms: i64) {
        let mut later_ms = None;
        let mut newest_first = std::mem::take(&mut self.runs);
        newest_first.reverse();
        newest_first.retain(|(_, at_ms)| {
            let gap_ms = (now_ms.saturating_sub(*at_ms) / GAP_PART).max(GAP_MIN_MS);
            let stays = later_ms.is_none_or(|later_ms: i64| later_ms - at_ms >= gap_ms);
            if stays {
                later_ms = Some(*at_ms);
            }
            stays
        });
        newest_first.reverse();
        self.thinned = newest_first.len();
        self.runs = newest_first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_events_keep_their_exact_times() {
        let mut times = AcceptanceTimes::default();
        for (sequence, at_ms) in [(3, -50), (4, 0), (9, 0), (12, 7), (12, 9)] {
            times.note(sequence, at_ms);
        }
        let all: Vec<_> = [1, 3, 4, 9, 10, 12, 13].map(|sequence| times.of(sequence)).into();
        let expected = [Some(-50), Some(-50), Some(0), Some(0), Some(7), Some(7), None];
        assert_eq!(all, expected);
        assert_eq!(
            [-51, -50, 6, 7].map(|at_ms| times.last_by(at_ms)),
            [None, Some(3), Some(9), Some(12)]
        );
    }

    #[test]
    fn a_month_of_events_fits_and_none_counts_as_too_old() {
        let mut times = AcceptanceTimes::default();
        let month_ms = 30 * 24 * 3_600_000;
        let events = || (0..month_ms / 1_000).map(|second| (second as u64, second * 1_000));
        events().for_each(|(sequence, at_ms)| times.note(sequence, at_ms));
        assert!(times.runs.len() < 24_000, "{} runs", times.runs.len());
        for (sequence, at_ms) in events().step_by(997) {
            let counted_ms = times.of(sequence).unwrap();
            let late_ms = (month_ms - at_ms) / 256 + 200;
            assert!((at_ms..=at_ms + late_ms).contains(&counted_ms), "{sequence}: {counted_ms}");
        }
    }

    #[test]
    fn near_times_are_merged_and_none_counts_as_older() {
        let all: Vec<_> = (1..=1_000).map(|sequence| (sequence, sequence as i64 * 10)).collect();
        let mut merged = all.clone();
        AcceptanceTimes::merge_near(&mut merged);
        assert_eq!((merged.len(), merged[0], merged[99]), (100, (10, 100), (1_000, 10_000)));
        let (mut set_back, mut far) = (vec![(2, 40), (1, 90), (3, -10)], vec![(1, 5_000), (2, 7)]);
        AcceptanceTimes::merge_near(&mut set_back);
        AcceptanceTimes::merge_near(&mut far);
        assert_eq!((set_back, far), (vec![(2, 90), (3, -10)], vec![(1, 5_000), (2, 7)]));
        let of = |runs| AcceptanceTimes::recovered(runs, 10_000);
        let (exact, merged) = (of(all), of(merged));
        for sequence in 1..=1_000 {
            let (exact_ms, merged_ms) = (exact.of(sequence).unwrap(), merged.of(sequence).unwrap());
            assert!((exact_ms - 100..=exact_ms + 200).contains(&merged_ms), "{sequence}");
            assert!(merged_ms >= sequence as i64 * 10, "{sequence} is older than it is");
        }
    }

    #[test]
    fn events_of_a_clock_that_jumped_age_by_nothing() {
        let runs = vec![(7, 5_000), (5, 1_000), (6, 9_000_000), (8, 6_000)];
        let times = AcceptanceTimes::recovered(runs, 20_000);
        let all: Vec<_> = (5..=9).map(|sequence| times.of(sequence)).collect();
        assert_eq!(all, [Some(1_000), Some(20_000), Some(20_000), Some(20_000), None]);
        assert_eq!(times.moved(-20_000).of(5), Some(-19_000));
    }
}
