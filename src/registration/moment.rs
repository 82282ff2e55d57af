//! Decides how a gateway writes a moment: RFC 3339, in UTC, to the second.
//!
//! Leaves to others: what happened then. Invariant (I6): the text is a function of the moment.

/// A moment in milliseconds since the Unix epoch, such as `2025-12-17T10:30:00Z`. One after the year
/// 9999, which only a clock that is wrong can give, is the last one before.
pub(super) fn rfc3339(wall_ms: u64) -> String {
    let seconds = (wall_ms / 1_000).min(LAST_S);
    let (day, of_day) = (seconds / DAY_S, seconds % DAY_S);
    let (year, month, of_month) = date(day);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{of_month:02}T{hour:02}:{minute:02}:{second:02}Z")
}

const DAY_S: u64 = 86_400;
/// The last second of the year 9999.
const LAST_S: u64 = 253_402_300_799;
/// Days from the first of March of the year 0 to the Unix epoch.
const EPOCH_DAY: u64 = 719_468;
/// Days in the 400 years after which the calendar repeats.
const ERA_DAYS: u64 = 146_097;

/// Year, month and day of a day since the Unix epoch. Years are counted from March on, so that the
/// leap day is the last one of its year and months before it have the same lengths every year.
fn date(day: u64) -> (u64, u64, u64) {
    let day = day + EPOCH_DAY;
    let (era, of_era) = (day / ERA_DAYS, day % ERA_DAYS);
    let leap_days = of_era / 1_460 + of_era / 146_096 - of_era / 36_524;
    let year_of_era = (of_era - leap_days) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    (era * 400 + year_of_era + u64::from(month <= 2), month, of_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_dates_of_the_calendar_with_its_leap_days() {
        for (wall_ms, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (86_399_999, "1970-01-01T23:59:59Z"),
            (68_169_600_000, "1972-02-29T00:00:00Z"),
            (68_256_000_000, "1972-03-01T00:00:00Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
            (1_700_000_000_123, "2023-11-14T22:13:20Z"),
            (1_765_967_400_000, "2025-12-17T10:30:00Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59Z"),
            (u64::MAX, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(wall_ms), text);
        }
    }

    #[test]
    fn each_day_of_four_centuries_follows_the_one_before() {
        let mut before = date(0);
        for day in 1..=ERA_DAYS {
            let (year, month, of_month) = date(day);
            let (year_before, month_before, day_before) = before;
            let leap = year_before % 4 == 0 && (year_before % 100 != 0 || year_before % 400 == 0);
            let length = match month_before {
                2 if leap => 29,
                2 => 28,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            let expected = match (day_before == length, month_before) {
                (false, _) => (year_before, month_before, day_before + 1),
                (true, 12) => (year_before + 1, 1, 1),
                (true, _) => (year_before, month_before + 1, 1),
            };
            before = (year, month, of_month);
            assert_eq!(before, expected);
        }
    }
}
