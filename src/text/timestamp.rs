//! Moments as text: RFC 3339 with milliseconds, in UTC.

use jiff::Timestamp;

/// Formats milliseconds since the Unix epoch. A moment after the year 9999, which only a wrong clock gives,
/// becomes the last one before it.
pub(crate) fn rfc3339(wall_ms: u64) -> String {
    let moment = i64::try_from(wall_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    format!("{:.3}", moment.unwrap_or(Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_formatted_to_the_millisecond() {
        for (wall_ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_700_000_000_123, "2023-11-14T22:13:20.123Z"),
            (1_735_689_600_000, "2025-01-01T00:00:00.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(wall_ms), text);
        }
        assert!(rfc3339(u64::MAX).starts_with("9999-12-30T22:00:00"));
    }
}
