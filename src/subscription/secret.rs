//! Decides how a secret is held: readable by the code that signs, and by nothing that prints.
//!
//! Leaves to others: what is signed with it (`signature`). Invariant (I9): `Debug` never shows it,
//! and there is no `Display`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::error::{Error, Result};

/// A signing secret or an API key.
///
/// ```
/// use wabahook::Secret;
/// let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
/// assert_eq!(format!("{secret:?}"), "Secret([redacted])");
/// assert_eq!(secret.signing_key()?.len(), 24);
/// # Ok::<(), wabahook::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

/// A secret that was replaced, and goes on signing for a while, so that a receiver can change over.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retiring {
    /// The secret.
    pub secret: Secret,
    /// Until when it signs, in milliseconds since the Unix epoch.
    pub until_ms: u64,
}

impl Secret {
    /// The prefix of a Standard Webhooks secret; what follows is the key in base64.
    pub const STANDARD_PREFIX: &str = "whsec_";

    /// The prefix of a private key that signs Standard Webhooks `v1a`; what follows is the ed25519 key
    /// in base64.
    pub const PRIVATE_PREFIX: &str = "whsk_";

    /// The prefix of the public key that goes with it: it checks such signatures and makes none.
    pub const PUBLIC_PREFIX: &str = "whpk_";

    /// Holds the text as given.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into().into_boxed_str())
    }

    /// The text's bytes. Name it where it is used, so that a reader sees each place.
    pub(crate) fn reveal(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The text, to be shown once to whom it belongs, and never logged.
    pub fn reveal_text(&self) -> &str {
        &self.0
    }

    /// Whether it is a key of a key pair, private or public.
    pub(crate) fn is_asymmetric(&self) -> bool {
        self.0.starts_with(Self::PRIVATE_PREFIX) || self.0.starts_with(Self::PUBLIC_PREFIX)
    }

    /// The key of Standard Webhooks `v1`: the decoded bytes after `whsec_`, else the text itself.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a `whsec_` secret is not padded base64, or any secret is empty; and for
    /// a key of a key pair, which `v1` has no use for.
    pub fn signing_key(&self) -> Result<Vec<u8>> {
        let expected =
            "whsec_ and padded base64 of 24 to 64 bytes, or another text of 1 to 512 bytes";
        let refused = || Error::invalid("secret", "[redacted]", expected);
        if self.0.is_empty() || self.0.len() > 512 || self.is_asymmetric() {
            return Err(refused());
        }
        let Some(encoded) = self.0.strip_prefix(Self::STANDARD_PREFIX) else {
            return Ok(self.0.as_bytes().to_vec());
        };
        STANDARD.decode(encoded).ok().filter(|key| !key.is_empty()).ok_or_else(refused)
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Secret {
        Secret::new(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Secret {
        Secret::new(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standard_secret_is_decoded_and_another_is_taken_as_it_stands() {
        assert_eq!(Secret::new("whsec_aGk=").signing_key().unwrap(), b"hi");
        assert_eq!(Secret::new("plain secret").signing_key().unwrap(), b"plain secret");
    }

    #[test]
    fn a_secret_that_cannot_sign_is_refused_without_being_shown() {
        for given in
            ["", "whsec_", "whsec_!!!", "whsec_aGk", "whsk_aGk=", "whpk_aGk=", &"x".repeat(513)]
        {
            let error = Secret::new(given).signing_key().unwrap_err();
            assert_eq!(error.field(), Some("secret"));
            assert!(error.to_string().contains("\"[redacted]\" is not acceptable"));
        }
        assert!(!format!("{:?}", Secret::new("hush")).contains("hush"));
    }
}
