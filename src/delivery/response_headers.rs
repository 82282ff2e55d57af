//! What the headers of a response ask for.
//!
//! Both are functions of the header's value and the time of the attempt.

use std::time::UNIX_EPOCH;

use http::header::HeaderName;

use crate::transport::DeliveryControl;

/// The header with which a receiver gives up a delivery or disables its subscription.
pub(super) const DELIVERY_CONTROL: HeaderName = HeaderName::from_static("webhook-delivery");

/// What the header `webhook-delivery` asks for; an unknown word asks for nothing.
pub(super) fn control(value: &str) -> Option<DeliveryControl> {
    match value.trim() {
        word if word.eq_ignore_ascii_case("disable") => Some(DeliveryControl::Disable),
        word if word.eq_ignore_ascii_case("abort-message") => Some(DeliveryControl::AbortMessage),
        _ => None,
    }
}

/// What a `Retry-After` asks for, in milliseconds from `wall_ms`: seconds, or an HTTP date. A date
/// that has passed asks for nothing (0); more than a day is cut to a day, or a receiver's mistake
/// would delay its deliveries without end. An unreadable value counts as none.
pub(crate) fn retry_after_ms(value: &str, wall_ms: u64) -> Option<u64> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // Digits that do not fit are a very large number of seconds.
        let seconds = value.parse::<u64>().unwrap_or(u64::MAX);
        return Some(seconds.saturating_mul(1_000).min(RETRY_AFTER_MAX_MS));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    let since_epoch = date.duration_since(UNIX_EPOCH).unwrap_or_default();
    let date_ms = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
    Some(date_ms.saturating_sub(wall_ms).min(RETRY_AFTER_MAX_MS))
}

const RETRY_AFTER_MAX_MS: u64 = 24 * 3_600_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// Wed, 21 Oct 2015 07:28:00 GMT.
    const DATE_MS: u64 = 1_445_412_480_000;

    fn check_retry_after(value: &str, expected_ms: Option<u64>) {
        assert_eq!(retry_after_ms(value, DATE_MS), expected_ms, "{value:?}");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_at_most_a_day() {
        check_retry_after("120", Some(120_000));
        check_retry_after(" 7 ", Some(7_000));
        check_retry_after("0", Some(0));
        check_retry_after("86400", Some(RETRY_AFTER_MAX_MS));
        check_retry_after("86401", Some(RETRY_AFTER_MAX_MS));
        check_retry_after("99999999999999999999999", Some(RETRY_AFTER_MAX_MS));
        check_retry_after("Wed, 21 Oct 2015 07:28:30 GMT", Some(30_000));
        check_retry_after("Wednesday, 21-Oct-15 07:29:00 GMT", Some(60_000));
        check_retry_after("Wed Oct 21 07:29:00 2015", Some(60_000));
        check_retry_after("Wed, 21 Oct 2015 07:27:59 GMT", Some(0));
        check_retry_after("Thu, 01 Jan 1970 00:00:00 GMT", Some(0));
        check_retry_after("Fri, 31 Dec 9999 23:59:59 GMT", Some(RETRY_AFTER_MAX_MS));
    }

    #[test]
    fn an_unreadable_retry_after_counts_as_none() {
        for value in ["", " ", "soon", "-1", "1.5", "+5", "5 s", "Wed, 21 Oct 2015"] {
            check_retry_after(value, None);
        }
    }
}
