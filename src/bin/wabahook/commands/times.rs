//! Times on the command line: a date and time, a date, or how long ago.

use wabahook::clock::{Clock, SystemClock};

use crate::timestamp::from_rfc3339;

/// A time in milliseconds since the Unix epoch.
pub(crate) fn time(text: &str) -> Result<u64, String> {
    time_at(text, SystemClock::new().wall_ms()).ok_or_else(|| {
        "expected a time such as 2026-01-31T12:00:00Z, a date such as 2026-01-31, or how long ago: \
         30m, 24h, 7d"
            .to_owned()
    })
}

fn time_at(text: &str, now_ms: u64) -> Option<u64> {
    let date = || from_rfc3339(&format!("{text}T00:00:00Z"));
    from_rfc3339(text).or_else(date).or_else(|| Some(now_ms.saturating_sub(span_ms(text)?)))
}

/// `90s`, `30m`, `24h` or `7d`.
fn span_ms(text: &str) -> Option<u64> {
    const UNITS: [(char, u64); 4] =
        [('s', 1_000), ('m', 60_000), ('h', 3_600_000), ('d', 86_400_000)];
    let (_, unit_ms) = UNITS.into_iter().find(|(unit, _)| text.ends_with(*unit))?;
    let count: u64 = text.get(..text.len() - 1)?.parse().ok()?;
    count.checked_mul(unit_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_time_a_date_or_a_span() {
        const DAY_MS: u64 = 86_400_000;
        let noon_ms = from_rfc3339("2026-01-31T12:00:00Z").unwrap();
        let at = |text: &str| time_at(text, noon_ms);
        assert_eq!(at("2026-01-31T12:00:00Z"), Some(noon_ms));
        assert_eq!(at("2026-01-31"), Some(noon_ms - DAY_MS / 2));
        assert_eq!(at("1d"), Some(noon_ms - DAY_MS));
        assert_eq!((at("90s"), at("30m")), (Some(noon_ms - 90_000), Some(noon_ms - 1_800_000)));
        for text in ["", "d", "yesterday", "1w", "-1d", "2026-13-01", "99999999999999999999d"] {
            assert_eq!(at(text), None, "{text}");
        }
        assert!(time("soon").unwrap_err().contains("24h"));
    }
}
