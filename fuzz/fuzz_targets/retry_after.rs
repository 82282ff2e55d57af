//! Any text as a receiver's `Retry-After` gives a wait of at most a day or none, and never a panic.
//! Seconds have the value of their digits, a date gives a shorter wait the later it is read, and every
//! date that can be written can be read.
#![no_main]

use std::time::{Duration, UNIX_EPOCH};

use libfuzzer_sys::fuzz_target;
use wabahook::testing::retry_after_ms;

const DAY_MS: u64 = 24 * 3_600_000;
/// The end of the year 9999, the last that an HTTP date can name.
const DATE_END_SECONDS: u64 = 253_402_300_800;

/// The digits' value without arithmetic that could overflow: more than six are more than a day.
fn expected_ms(digits: &str) -> u64 {
    let digits = digits.trim_start_matches('0');
    let seconds = if digits.len() > 6 { u64::MAX / 1_000 } else { digits.parse().unwrap_or(0) };
    (seconds * 1_000).min(DAY_MS)
}

fuzz_target!(|data: &[u8]| {
    let Some((moment, value)) = data.split_first_chunk::<8>() else { return };
    let wall_ms = u64::from_le_bytes(*moment);

    let date_ms = wall_ms % (DATE_END_SECONDS * 1_000) / 1_000 * 1_000;
    let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(date_ms));
    let ahead_ms = u64::from(value.first().copied().unwrap_or_default()) * 1_000;
    let read_ms = retry_after_ms(&date, date_ms.saturating_sub(ahead_ms));
    assert_eq!(read_ms, Some(ahead_ms.min(date_ms)), "{date}");

    // As in the transport, a value must be visible ASCII.
    let Ok(header) = http::HeaderValue::from_bytes(value) else { return };
    let Ok(text) = header.to_str() else { return };
    let read_ms = retry_after_ms(text, wall_ms);
    let digits = text.trim();
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        assert_eq!(read_ms, Some(expected_ms(digits)), "{text:?}");
        return;
    }
    let later_ms = retry_after_ms(text, wall_ms.saturating_add(60_000));
    assert_eq!(read_ms.is_some(), later_ms.is_some(), "{text:?}");
    let (Some(read_ms), Some(later_ms)) = (read_ms, later_ms) else { return };
    assert!(later_ms <= read_ms && read_ms <= DAY_MS, "{text:?}: {read_ms}, then {later_ms}");
});
