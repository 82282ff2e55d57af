//! Adds parameters to a URL. The URL's own query is not changed, and a receiver that decodes a parameter gets
//! exactly the bytes that were given.

use crate::text::hex_digits;

use http::Uri;
use http::uri::InvalidUri;

pub(super) fn with_parameters<'a>(
    url: &Uri,
    parameters: impl IntoIterator<Item = (&'a str, &'a [u8])>,
) -> Result<Uri, InvalidUri> {
    let mut text = url.to_string();
    let mut separator = match url.query() {
        None => "?",
        Some(own) if own.is_empty() || own.ends_with('&') => "",
        Some(_) => "&",
    };
    for (name, value) in parameters {
        text.push_str(separator);
        push_encoded(&mut text, name.as_bytes());
        text.push('=');
        push_encoded(&mut text, value);
        separator = "&";
    }
    text.parse()
}

pub(super) fn encoded_bytes(value: &[u8]) -> usize {
    value.iter().map(|byte| if is_unreserved(*byte) { 1 } else { 3 }).sum()
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// All but the unreserved characters of RFC 3986 as `%` and two hexadecimal digits: no decoder reads
/// that otherwise, and a space is never a plus.
fn push_encoded(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        if is_unreserved(*byte) {
            text.push(char::from(*byte));
        } else {
            text.push('%');
            text.extend(hex_digits(*byte).map(|digit| char::from(digit.to_ascii_uppercase())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, parameters: &[(&str, &[u8])], expected: &str) {
        let url = url.parse().unwrap();
        let made = with_parameters(&url, parameters.iter().copied()).unwrap();
        assert_eq!(made, expected);
    }

    #[test]
    fn parameters_come_after_the_urls_own_which_stay_as_they_stand() {
        let one: &[(&str, &[u8])] = &[("a", b"1")];
        check("https://crm.example/hook", one, "https://crm.example/hook?a=1");
        check("https://crm.example", one, "https://crm.example/?a=1");
        check("https://crm.example/?", one, "https://crm.example/?a=1");
        check("https://crm.example/?x=%2f+y", one, "https://crm.example/?x=%2f+y&a=1");
        check("https://crm.example/?x&", one, "https://crm.example/?x&a=1");
        check("https://crm.example/?x", &[], "https://crm.example/?x");
    }

    #[test]
    fn whatever_a_url_may_not_hold_is_encoded() {
        let given: &[(&str, &[u8])] = &[("a b&", "\u{e4}=+/%".as_bytes()), ("raw", b"\xff\0-._~")];
        let expected = "https://crm.example/?a%20b%26=%C3%A4%3D%2B%2F%25&raw=%FF%00-._~";
        check("https://crm.example/", given, expected);
        assert_eq!(encoded_bytes(given[0].1), "%C3%A4%3D%2B%2F%25".len());
        assert_eq!(encoded_bytes(given[1].1), "%FF%00-._~".len());
    }
}
