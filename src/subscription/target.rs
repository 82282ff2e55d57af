//! Where a subscription's deliveries are sent, and what the host adds to the requests. A target's URL is
//! absolute, has a host and carries no credentials, and the additions can neither break nor forge a
//! request. Which addresses may be reached is checked at delivery.

use std::fmt;

use http::{HeaderName, HeaderValue, Method, Uri};
use serde_json::value::RawValue;

use super::host_name::with_ascii_host;
use super::{Authorization, PayloadFormat, Tls};
use crate::error::{Error, Result};

/// Where and how a delivery is sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    url: Uri,
    pub(crate) method: Method,
    headers: Vec<(String, String)>,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) body: Vec<(String, String)>,
    pub(crate) authorization: Option<Authorization>,
    pub(crate) body_format: BodyFormat,
    pub(crate) payload: PayloadFormat,
    pub(crate) tls: Option<Tls>,
}

/// How a request carries its event.
///
/// ```
/// use wabahook::{BodyFormat, Subscription};
/// let form = Subscription::to("https://crm.example/hook")?
///     .body_format(BodyFormat::FormData)
///     .query("source", "wabahook")
///     .body("tenant", "\"acme\"")
///     .header("x-tenant", "acme");
/// # let _ = form;
/// # Ok::<(), wabahook::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum BodyFormat {
    /// As JSON: the payload byte for byte, unless the subscription adds keys to it.
    #[default]
    Json,
    /// As `multipart/form-data` (RFC 7578): one field per key of the payload.
    FormData,
}

/// The methods that a target may use.
const METHODS: [Method; 6] =
    [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::HEAD];

/// The headers that the engine writes itself. A host that set them could forge or break a request.
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

/// What one subscription may add to each request: 64 headers with 8 KiB of names and values,
const HEADERS_MAX: usize = 64;
const HEADER_BYTES_MAX: usize = 8 * 1024;
const URL_BYTES_MAX: usize = 2 * 1024;
/// and as many query parameters and body keys, with these bytes.
pub(crate) const EXTRAS_MAX: usize = 64;
const QUERY_BYTES_MAX: usize = 4 * 1024;
const BODY_BYTES_MAX: usize = 64 * 1024;

impl Target {
    /// The bytes of its texts.
    pub(super) fn text_bytes(&self) -> usize {
        let pairs = self.headers.iter().chain(&self.query).chain(&self.body);
        let url = self.url.host().map_or(0, str::len)
            + self.url.path_and_query().map_or(0, |one| one.as_str().len());
        url + pairs.map(|(name, value)| name.len() + value.len()).sum::<usize>()
    }

    pub(crate) fn new(url: &str) -> Result<Target> {
        let refused = |expected: &str| Error::invalid("url", redacted(url), expected);
        let named = with_ascii_host(url).ok_or_else(|| {
            refused("a host name that DNS can carry: labels of 1 to 63 characters, 253 together")
        });
        let url = &*named?;
        if url.contains('#') {
            return Err(refused("a URL without a fragment, which is # and what follows it"));
        }
        let absolute = "an absolute URL, such as https://crm.example/hook, with other characters after its host as %C3%A4";
        if !url.is_ascii() {
            return Err(refused(absolute));
        }
        let uri: Uri = url.parse().map_err(|_| refused(absolute))?;
        // As it is shown: with the slash of an empty path.
        if uri.to_string().len() > URL_BYTES_MAX {
            return Err(refused("a URL of at most 2048 bytes"));
        }
        if !matches!(uri.scheme_str(), Some("https" | "http")) {
            return Err(refused("an absolute https:// URL, such as https://crm.example/hook"));
        }
        let authority = uri.authority().ok_or_else(|| refused(absolute))?;
        if authority.as_str().contains('@') {
            return Err(refused("a URL without user name and password; use a header for them"));
        }
        let port_is_readable = match authority.as_str().rsplit_once(':') {
            // `parse` alone takes a sign, too.
            Some((_, port)) if !port.ends_with(']') => {
                port.bytes().all(|b| b.is_ascii_digit()) && port.parse().is_ok_and(|p: u16| p > 0)
            }
            _ => true,
        };
        if authority.host().is_empty() || !port_is_readable {
            return Err(refused(absolute));
        }
        Ok(Target {
            url: uri,
            method: Method::POST,
            headers: Vec::new(),
            query: Vec::new(),
            body: Vec::new(),
            authorization: None,
            body_format: BodyFormat::default(),
            payload: PayloadFormat::default(),
            tls: None,
        })
    }

    /// A copy with another URL.
    pub(crate) fn at(&self, url: &str) -> Result<Target> {
        Ok(Target { url: Target::new(url)?.url, ..self.clone() })
    }

    pub(crate) fn add_header(&mut self, name: String, value: String) {
        self.headers.retain(|(present, _)| !present.eq_ignore_ascii_case(&name));
        self.headers.push((name, value));
    }

    /// Takes the URL of another target.
    pub(crate) fn set_url_from(&mut self, other: &Target) {
        self.url = other.url.clone();
    }

    /// Replaces all added headers.
    pub(crate) fn set_headers(&mut self, headers: Vec<(String, String)>) {
        self.headers.clear();
        headers.into_iter().for_each(|(name, value)| self.add_header(name, value));
    }

    /// Checks everything but the URL, which was checked when the target was created.
    pub(crate) fn check(&self) -> Result<()> {
        if !METHODS.contains(&self.method) {
            let expected = "GET, POST, PUT, DELETE, PATCH or HEAD";
            return Err(Error::invalid("method", &self.method, expected));
        }
        self.check_headers()?;
        check_extras("query", &self.query, QUERY_BYTES_MAX)?;
        check_extras("body", &self.body, BODY_BYTES_MAX)?;
        for (name, value) in &self.body {
            if serde_json::from_str::<&RawValue>(value).is_err() {
                return Err(Error::invalid(format!("body.{name}"), "[redacted]", "a JSON value"));
            }
        }
        self.authorization.as_ref().map_or(Ok(()), Authorization::check)
    }

    fn check_headers(&self) -> Result<()> {
        let bytes: usize = self.headers.iter().map(|(n, v)| n.len() + v.len()).sum();
        if self.headers.len() > HEADERS_MAX || bytes > HEADER_BYTES_MAX {
            let given = format!("{} headers, {bytes} bytes", self.headers.len());
            return Err(Error::invalid("headers", given, "at most 64 headers with 8 KiB in total"));
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
            if !is_visible_ascii(value) {
                let expected = "a value of visible ASCII characters, spaces and tabs";
                return Err(Error::invalid(format!("headers.{name}"), "[redacted]", expected));
            }
        }
        Ok(())
    }

    /// Whether requests go to the same URL with the same credentials, so that what is known of the endpoint
    /// still holds.
    pub(crate) fn has_same_endpoint(&self, other: &Target) -> bool {
        self.url == other.url && self.authorization == other.authorization && self.tls == other.tls
    }

    /// The URL.
    pub fn url(&self) -> &Uri {
        &self.url
    }

    /// The host and port, as the URL has them.
    pub(crate) fn authority(&self) -> &str {
        self.url.authority().map_or("", |authority| authority.as_str())
    }

    /// The method. Defaults to POST.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The added headers, in the order given. Their values may be credentials.
    pub fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    /// The parameters added to the URL's own query, in the order given.
    pub fn query(&self) -> &[(String, String)] {
        &self.query
    }

    /// The keys added to the body, with values as JSON text. The event's own keys win.
    pub fn body(&self) -> &[(String, String)] {
        &self.body
    }

    /// The header `authorization` of each request. It wins over one among the added headers.
    pub fn authorization(&self) -> Option<&Authorization> {
        self.authorization.as_ref()
    }

    /// How the body is written. Defaults to JSON.
    pub fn body_format(&self) -> BodyFormat {
        self.body_format
    }

    /// What it receives for an update of Meta.
    pub fn payload(&self) -> PayloadFormat {
        self.payload
    }

    /// TLS settings that differ from the engine's.
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }
}

/// Whether every receiver reads a header value alike: bytes above 127 are Latin-1 to some and UTF-8 to
/// others.
pub(super) fn is_visible_ascii(value: &str) -> bool {
    HeaderValue::from_str(value).is_ok_and(|value| value.to_str().is_ok())
}

fn check_extras(field: &str, extras: &[(String, String)], bytes_max: usize) -> Result<()> {
    let bytes: usize = extras.iter().map(|(name, value)| name.len() + value.len()).sum();
    if extras.len() > EXTRAS_MAX || bytes > bytes_max {
        let given = format!("{} entries, {bytes} bytes", extras.len());
        let expected = format!("at most {EXTRAS_MAX} entries with {bytes_max} bytes in total");
        return Err(Error::invalid(field, given, expected));
    }
    for (index, (name, _)) in extras.iter().enumerate() {
        if name.is_empty() || name.chars().any(char::is_control) {
            return Err(Error::invalid(field, name, "names without control characters"));
        }
        if extras.iter().take(index).any(|(earlier, _)| earlier == name) {
            return Err(Error::invalid(field, name, "each name once"));
        }
    }
    Ok(())
}

/// The scheme, host and port of a URL: its other parts may be credentials (I9).
fn redacted(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let is_plain = host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._[]:+".contains(&b));
    match scheme {
        "https" | "http" if is_plain => format!("{scheme}://{host}"),
        _ => "[not shown]".to_owned(),
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("Target")
            .field("method", &self.method)
            .field("url", &redacted(&self.url.to_string()))
            .field("header_names", &names)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absolute_urls_are_accepted() {
        for url in [
            "https://crm.example/hook",
            "http://127.0.0.1:9100/a?b=c",
            "https://[2001:db8::1]:8443/",
            "https://crm.example",
            "https://b\u{fc}ro.example/hook",
        ] {
            assert!(Target::new(url).is_ok(), "{url}");
        }
    }

    #[test]
    fn an_endpoint_is_its_url_authorization_and_tls() {
        let target = || Target::new("https://crm.example/a").unwrap();
        let authorization = Some(Authorization::basic("user:password"));
        let tls = Some(Tls::default().roots("pem"));
        for other in [
            Target::new("https://crm.example/b").unwrap(),
            Target { authorization, ..target() },
            Target { tls, ..target() },
        ] {
            assert!(!target().has_same_endpoint(&other), "{other:?}");
        }
        let other = Target { method: Method::PUT, ..target() };
        assert!(target().has_same_endpoint(&other));
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
            "https://crm.example:+443/hidden",
            "https://crm.example/hidden\u{e4}",
            "https://crm.example/hidden?key=hidden#part",
            "https://:hidden@crm.example/hidden",
            "hidden",
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
        check_header("x-a", "Z\u{fc}rich", false);
        check_header("x-a", "\u{7f}", false);
        check_header("x-a", " a\tb~", true);
    }

    #[test]
    fn debug_shows_no_header_value_and_a_later_header_replaces() {
        let mut target = Target::new("https://crm.example/").unwrap();
        target.add_header("X-Key".into(), "one".into());
        target.add_header("x-key".into(), "hidden".into());
        assert_eq!(target.headers().len(), 1);
        let target = Target { url: "https://crm.example/hidden?hidden".parse().unwrap(), ..target };
        let shown = format!("{target:?}");
        assert!(!shown.contains("hidden") && shown.contains("https://crm.example"), "{shown}");
    }
}
