//! Dates and times of RFC 3339, to the millisecond. What is written parses to the same time.

use jiff::Timestamp;

/// Milliseconds since the Unix epoch as a date and time of RFC 3339. A time after the year 9999, which only
/// a wrong clock gives, becomes the last one of that year.
pub(crate) fn rfc3339(wall_ms: u64) -> String {
    let time = i64::try_from(wall_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    format!("{:.3}", time.unwrap_or(Timestamp::MAX))
}

/// A date and time of RFC 3339 in milliseconds since the Unix epoch; `None` where it is not one, or lies
/// before the epoch. Fractions of a millisecond are dropped.
pub(crate) fn from_rfc3339(text: &str) -> Option<u64> {
    let time: Timestamp = text.parse().ok()?;
    let since_epoch = time >= Timestamp::UNIX_EPOCH;
    since_epoch.then(|| u64::try_from(time.as_millisecond()).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_times_are_parsed_back() {
        for (wall_ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_700_000_000_123, "2023-11-14T22:13:20.123Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(wall_ms), text);
            assert_eq!(from_rfc3339(text), Some(wall_ms), "{text}");
        }
    }

    #[test]
    fn other_forms_are_parsed_and_wrong_ones_are_not() {
        for (text, wall_ms) in [
            ("2023-11-14T22:13:20Z", 1_700_000_000_000),
            ("2023-11-14 22:13:20.5z", 1_700_000_000_500),
            ("2023-11-15T03:43:20.1239999+05:30", 1_700_000_000_123),
            ("2023-11-14T14:13:20-08:00", 1_700_000_000_000),
        ] {
            assert_eq!(from_rfc3339(text), Some(wall_ms), "{text}");
        }
        for text in [
            "",
            "2023-11-14",
            "2023-11-14T22:13:20",
            "2023-13-14T22:13:20Z",
            "2023-02-29T22:13:20Z",
            "2023-11-14T24:13:20Z",
            "2023-11-14T22:13:20.Z",
            "2023-11-14T22:13:20.5",
            "2023-11-14T22:13:20Zz",
            "+023-11-14T22:13:20Z",
            "1969-12-31T23:59:59Z",
            "1969-12-31T23:59:59.9999Z",
            "1700000000000",
            "2023-11-14T22:13:20+25:60",
            "2023-11-1\u{e4}T22:13:20Z",
        ] {
            assert_eq!(from_rfc3339(text), None, "{text}");
        }
    }

    #[test]
    fn times_after_the_year_9999_become_its_last() {
        let last_ms = from_rfc3339("9999-12-30T22:00:00.999Z").unwrap();
        assert_eq!(rfc3339(last_ms), "9999-12-30T22:00:00.999Z");
        for beyond_ms in [i64::MAX as u64, u64::MAX] {
            assert_eq!(rfc3339(beyond_ms), rfc3339(last_ms + 1_000 - last_ms % 1_000 - 1));
        }
    }
}
