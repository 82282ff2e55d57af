//! Decides where a subscription's attempts go and which headers the host adds to them.
//!
//! Leaves to others: whether an address may be reached (`delivery::guard`), and the bytes of a
//! request (`delivery::request`). Invariant: a target's URL is absolute, has a host and carries no
//! credentials; its headers cannot break or forge the request.

use std::fmt;

use http::{HeaderName, HeaderValue, Uri};

use crate::error::{Error, Result};

/// Where and how a delivery is sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    url: Uri,
    headers: Vec<(String, String)>,
}

/// The headers that the engine writes itself; a host that could set them could forge or break a
/// request.
const RESERVED: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "webhook-id",
    "webhook-signature",
    "webhook-timestamp",
    "x-hub-signature-256",
    "x-webhook-attempt",
    "x-webhook-event",
    "x-webhook-number",
    "x-webhook-signature",
];

/// Bounds what one subscription may add to each request: 64 headers, 8 KiB of names and values.
const HEADERS_MAX: usize = 64;
const HEADER_BYTES_MAX: usize = 8 * 1024;
const URL_BYTES_MAX: usize = 2 * 1024;

impl Target {
    pub(crate) fn new(url: &str) -> Result<Target> {
        let refused = |expected: &str| Error::invalid("url", redacted(url), expected);
        if url.len() > URL_BYTES_MAX {
            return Err(refused("a URL of at most 2048 bytes"));
        }
        if url.contains('#') {
            return Err(refused("a URL without a fragment"));
        }
        let absolute = "an absolute URL in ASCII, such as https://crm.example/hook";
        let uri: Uri = url.parse().map_err(|_| refused(absolute))?;
        if !matches!(uri.scheme_str(), Some("https" | "http")) {
            return Err(refused("an absolute https:// URL, such as https://crm.example/hook"));
        }
        let authority = uri.authority().ok_or_else(|| refused(absolute))?;
        if authority.as_str().contains('@') {
            return Err(refused("a URL without user name and password; use a header for them"));
        }
        let port_is_readable = match authority.as_str().rsplit_once(':') {
            Some((_, port)) if !port.ends_with(']') => port.parse::<u16>().is_ok_and(|p| p > 0),
            _ => true,
        };
        if authority.host().is_empty() || !port_is_readable {
            return Err(refused(absolute));
        }
        Ok(Target { url: uri, headers: Vec::new() })
    }

    pub(crate) fn add_header(&mut self, name: String, value: String) {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(&name));
        self.headers.push((name, value));
    }

    /// Checks the headers; `url` was checked when the target was made.
    pub(crate) fn check(&self) -> Result<()> {
        let bytes: usize = self.headers.iter().map(|(n, v)| n.len() + v.len()).sum();
        if self.headers.len() > HEADERS_MAX || bytes > HEADER_BYTES_MAX {
            let given = format!("{} headers, {bytes} bytes", self.headers.len());
            return Err(Error::invalid("headers", given, "at most 64 headers and 8 KiB in all"));
        }
        for (name, value) in &self.headers {
            let lower = name.to_ascii_lowercase();
            if HeaderName::from_bytes(lower.as_bytes()).is_err() {
                return Err(Error::invalid("headers", name, "a header name of RFC 9110"));
            }
            if RESERVED.contains(&lower.as_str()) {
                let expected = "a header that the engine does not write itself";
                return Err(Error::invalid("headers", name, expected));
            }
            if HeaderValue::from_str(value).is_err() {
                let expected = "a value of visible ASCII characters, spaces and tabs";
                return Err(Error::invalid(format!("headers.{name}"), "[redacted]", expected));
            }
        }
        Ok(())
    }

    /// The URL.
    pub fn url(&self) -> &Uri {
        &self.url
    }

    /// The headers that the host adds, in the order given. Their values may be credentials.
    pub fn headers(&self) -> &[(String, String)] {
        &self.headers
    }
}

/// Hides a password that somebody wrote into a URL.
fn redacted(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => {
            let head = url.get(..scheme + 3).unwrap_or_default();
            format!("{head}[redacted]{}", url.get(at..).unwrap_or_default())
        }
        _ => url.to_owned(),
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("Target")
            .field("url", &self.url.to_string())
            .field("header_names", &names)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absolute_urls_are_taken_as_they_stand() {
        for url in [
            "https://crm.example/hook",
            "http://127.0.0.1:9100/a?b=c",
            "https://[2001:db8::1]:8443/",
            "https://crm.example",
        ] {
            assert!(Target::new(url).is_ok(), "{url}");
        }
    }

    #[test]
    fn urls_that_cannot_be_called_safely_are_refused() {
        for url in [
            "",
            "crm.example/hook",
            "/hook",
            "ftp://crm.example/",
            "https://",
            "https://u:hidden@crm.example/",
            "https://crm.example/#part",
            "https://crm.example:0/",
            "https://crm.example:99999/",
            "https://crm.example:/",
            "https://crm .example/",
            "https://crm.example/\r\nx: y",
            &format!("https://crm.example/{}", "a".repeat(3000)),
        ] {
            let error = Target::new(url).unwrap_err();
            assert_eq!(error.field(), Some("url"), "{url}");
            assert!(!error.to_string().contains("hidden"), "{error}");
        }
    }

    fn check_header(name: &str, value: &str, acceptable: bool) {
        let mut target = Target::new("https://crm.example/").unwrap();
        target.add_header(name.into(), value.into());
        assert_eq!(target.check().is_ok(), acceptable, "{name}: {value}");
    }

    #[test]
    fn headers_that_break_or_forge_a_request_are_refused() {
        check_header("x-tenant", "acme", true);
        check_header("Authorization", "Bearer abc", true);
        check_header("Host", "other", false);
        check_header("Content-Length", "3", false);
        check_header("Webhook-Id", "x", false);
        check_header("x y", "z", false);
        check_header("x-a", "one\r\nx-b: two", false);
        check_header("x-a", &"v".repeat(9000), false);
    }

    #[test]
    fn debug_shows_no_header_value_and_a_later_header_replaces() {
        let mut target = Target::new("https://crm.example/").unwrap();
        target.add_header("X-Key".into(), "one".into());
        target.add_header("x-key".into(), "hidden".into());
        assert_eq!(target.headers().len(), 1);
        assert!(!format!("{target:?}").contains("hidden"));
    }
}
