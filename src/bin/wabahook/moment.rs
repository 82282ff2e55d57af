//! Decides how moments are written and read: RFC 3339, to the millisecond.
//!
//! Leaves to others: what happened then. Invariant: what is written reads back as the same moment.

/// Milliseconds since the Unix epoch as a date and time of RFC 3339, by Howard Hinnant's
/// `civil_from_days` counted from 1 March of year 0.
pub(crate) fn rfc3339(wall_ms: u64) -> String {
    let (days, ms) = (wall_ms / 86_400_000 + 719_468, wall_ms % 86_400_000);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute) = (ms / 3_600_000, ms / 60_000 % 60);
    let (second, ms) = (ms / 1_000 % 60, ms % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// The moment that a date and time of RFC 3339 names, in milliseconds since the Unix epoch; `None`
/// where it names none, or one before the epoch. Parts of a millisecond are dropped.
pub(crate) fn from_rfc3339(text: &str) -> Option<u64> {
    let (date, rest) = (text.get(..10)?, text.get(10..)?);
    let (time, rest) = (rest.get(1..9)?, rest.get(9..)?);
    let separated = matches!(text.as_bytes().get(10), Some(b'T' | b't' | b' '));
    let [year, month, day] = parts(date, b'-', [4, 2, 2])?;
    let [hour, minute, second] = parts(time, b':', [2, 2, 2])?;
    let in_range = (1..=12).contains(&month)
        && (1..=days_of(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    if !separated || !in_range {
        return None;
    }
    let (ms, zone) = fraction_ms(rest)?;
    // From 1 March of year 0, as `rfc3339` counts.
    let (march_year, from_march) =
        if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let leaps = march_year / 4 - march_year / 100 + march_year / 400;
    let days = 365 * march_year + leaps + (153 * from_march + 2) / 5 + day - 1;
    let seconds = days.checked_sub(719_468)? * 86_400 + hour * 3_600 + minute * 60 + second;
    let local_ms = i64::try_from(seconds * 1_000 + ms).ok()?;
    u64::try_from(local_ms - offset_ms(zone)?).ok()
}

/// Three numbers of so many digits each.
fn parts(text: &str, separator: u8, lengths: [usize; 3]) -> Option<[u64; 3]> {
    let mut split = text.split(char::from(separator));
    let mut next = |length| digits(split.next()?, length);
    let [a, b, c] = lengths;
    let all = [next(a)?, next(b)?, next(c)?];
    split.next().is_none().then_some(all)
}

fn digits(text: &str, length: usize) -> Option<u64> {
    let plain = text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok())?
}

/// The milliseconds of a fraction of a second, and what comes after it.
fn fraction_ms(rest: &str) -> Option<(u64, &str)> {
    let Some(fraction) = rest.strip_prefix('.') else { return Some((0, rest)) };
    let end = fraction.find(|c: char| !c.is_ascii_digit())?;
    let (shown, zone) = fraction.split_at_checked(end).filter(|_| end > 0)?;
    let ms = shown.bytes().chain(*b"00").take(3).fold(0, |ms, d| ms * 10 + u64::from(d - b'0'));
    Some((ms, zone))
}

fn offset_ms(zone: &str) -> Option<i64> {
    let sign = match zone.as_bytes().first()? {
        b'Z' | b'z' if zone.len() == 1 => return Some(0),
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    let (hours, minutes) = (digits(hours, 2)?, digits(minutes, 2)?);
    let minutes = i64::try_from(hours * 60 + minutes).ok().filter(|m| *m < 24 * 60)?;
    Some(sign * minutes * 60_000)
}

fn days_of(year: u64, month: u64) -> u64 {
    match month {
        2 => {
            let leap =
                year.is_multiple_of(400) || (year.is_multiple_of(4) && !year.is_multiple_of(100));
            28 + u64::from(leap)
        }
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339_and_read_back() {
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
    fn other_forms_of_a_moment_are_read_and_what_is_none_is_not() {
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
            "2023-11-14T22:13:20+0530",
            "2023-11-14T22:13:20Zz",
            "+023-11-14T22:13:20Z",
            "1969-12-31T23:59:59Z",
            "1700000000000",
            "2023-11-1\u{e4}T22:13:20Z",
        ] {
            assert_eq!(from_rfc3339(text), None, "{text}");
        }
    }
}
