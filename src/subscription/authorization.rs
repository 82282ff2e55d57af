//! The header `authorization` of a subscription's requests. `Debug` never shows it (I9), and a checked
//! one is a valid header value.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;

use crate::error::{Error, Result};
use crate::secret::Secret;

/// Credentials that the receiver expects.
///
/// ```
/// use wabahook::{Authorization, Subscription};
/// let crm = Subscription::to("https://crm.example/hook")?
///     .authorization(Authorization::bearer("the-receivers-token"));
/// # let _ = crm;
/// # Ok::<(), wabahook::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Authorization {
    /// HTTP Basic (RFC 7617). A payload with a colon is `user:password` and gets encoded; one without a
    /// colon counts as already encoded, because base64 has no colon.
    Basic(Secret),
    /// A bearer token (RFC 6750), with or without the word `Bearer` in front.
    Bearer(Secret),
}

/// The longest payload, in bytes. Tokens with claims have a few thousand.
const PAYLOAD_BYTES_MAX: usize = 8 * 1024;
const EXPECTED: &str = "visible ASCII characters, spaces and tabs";

impl Authorization {
    /// HTTP Basic with `user:password`, or with both already encoded.
    pub fn basic(payload: impl Into<String>) -> Authorization {
        Authorization::Basic(Secret::new(payload))
    }

    /// A bearer token.
    pub fn bearer(payload: impl Into<String>) -> Authorization {
        Authorization::Bearer(Secret::new(payload))
    }

    /// The header's value, marked as sensitive.
    pub(crate) fn header_value(&self) -> Result<HeaderValue> {
        let text = match self {
            Authorization::Basic(payload) => {
                let payload = payload.reveal();
                match payload.contains(&b':') {
                    true => format!("Basic {}", STANDARD.encode(payload)),
                    false => format!("Basic {}", String::from_utf8_lossy(payload)),
                }
            }
            Authorization::Bearer(payload) => {
                let payload = String::from_utf8_lossy(payload.reveal());
                let bare = payload.split_at_checked("Bearer ".len());
                let bare = bare.filter(|(word, _)| word.eq_ignore_ascii_case("Bearer "));
                format!("Bearer {}", bare.map_or(&*payload, |(_, token)| token.trim()))
            }
        };
        let mut value = HeaderValue::from_str(&text).map_err(|_| refused(EXPECTED))?;
        value.set_sensitive(true);
        Ok(value)
    }

    pub(super) fn check(&self) -> Result<()> {
        let (Authorization::Basic(payload) | Authorization::Bearer(payload)) = self;
        let bytes = payload.reveal().len();
        if bytes == 0 || bytes > PAYLOAD_BYTES_MAX {
            return Err(refused("1 to 8192 bytes"));
        }
        let is_visible = self.header_value()?.to_str().is_ok();
        if is_visible { Ok(()) } else { Err(refused(EXPECTED)) }
    }
}

fn refused(expected: &str) -> Error {
    Error::invalid("authorization.payload", "[redacted]", expected)
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Authorization::Basic(_) => "Basic([redacted])",
            Authorization::Bearer(_) => "Bearer([redacted])",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(authorization: Authorization, expected: &str) {
        let value = authorization.header_value().unwrap();
        assert_eq!(value.to_str().unwrap(), expected);
        assert!(value.is_sensitive() && authorization.check().is_ok());
        assert!(!format!("{authorization:?}").contains("hidden"));
    }

    #[test]
    fn basic_payloads_are_encoded_and_bearer_is_written_once() {
        check(Authorization::basic("user:hidden"), "Basic dXNlcjpoaWRkZW4=");
        check(Authorization::basic("dXNlcjpoaWRkZW4="), "Basic dXNlcjpoaWRkZW4=");
        check(Authorization::bearer("hidden"), "Bearer hidden");
        check(Authorization::bearer("bearer hidden"), "Bearer hidden");
        check(Authorization::bearer("Bear"), "Bearer Bear");
    }

    #[test]
    fn invalid_header_values_are_refused_and_not_shown() {
        for payload in ["", "hidden\r\nx", "hidden\u{fc}", &"h".repeat(9_000)] {
            for given in [Authorization::bearer(payload), Authorization::basic(payload)] {
                let error = given.check().unwrap_err();
                assert_eq!(error.field(), Some("authorization.payload"));
                assert!(!error.to_string().contains("hidden"), "{error}");
            }
        }
        // An encoded payload may hold any text.
        assert!(Authorization::basic("user:Z\u{fc}rich").check().is_ok());
    }
}
