//! Signing secrets and API keys. Code that signs or compares can read one; nothing that prints can
//! (I9): `Debug` shows `[redacted]`, and there is no `Display`.

use std::fmt;
use std::ops::RangeInclusive;

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

/// The longest secret, in bytes.
const BYTES_MAX: usize = 512;

/// How many bytes Standard Webhooks asks of a symmetric key.
const STANDARD_KEY_BYTES: RangeInclusive<usize> = 24..=64;

impl Secret {
    /// The prefix of a Standard Webhooks secret; the key follows in base64.
    pub const STANDARD_PREFIX: &str = "whsec_";

    /// The prefix of a private key that signs Standard Webhooks `v1a`; the ed25519 key follows in
    /// base64.
    pub const PRIVATE_PREFIX: &str = "whsk_";

    /// The prefix of the public key that belongs to it, which can check such signatures and not make
    /// them.
    pub const PUBLIC_PREFIX: &str = "whpk_";

    /// Holds the text as given.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into().into_boxed_str())
    }

    /// The text's bytes.
    pub(crate) fn reveal(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The text, to show to its owner once. Never log it.
    pub fn reveal_text(&self) -> &str {
        &self.0
    }

    /// Whether it has characters that come from a file or a copy and are meant by nobody: line ends
    /// and other control characters, a byte order mark, spaces around it.
    pub(crate) fn has_stray_characters(&self) -> bool {
        let is_stray = |c: char| c.is_control() || c == '\u{feff}';
        self.0.trim().len() != self.0.len() || self.0.contains(is_stray)
    }

    /// Whether it is a private or public key of a key pair.
    pub(crate) fn is_asymmetric(&self) -> bool {
        self.0.starts_with(Self::PRIVATE_PREFIX) || self.0.starts_with(Self::PUBLIC_PREFIX)
    }

    /// The key of Standard Webhooks `v1`: the decoded bytes after `whsec_`, or else the text itself.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty secret, for one with line ends or surrounding spaces, for a
    /// `whsec_` secret that is not padded base64 of 24 to 64 bytes, and for a key of a key pair,
    /// which `v1` cannot use.
    pub fn signing_key(&self) -> Result<Vec<u8>> {
        let expected = "whsec_ and padded base64 of 24 to 64 bytes, or another text of 1 to 512 bytes \
                        without line ends or surrounding spaces";
        let refused = || Error::invalid("secret", "[redacted]", expected);
        let has_length = (1..=BYTES_MAX).contains(&self.0.len());
        if !has_length || self.has_stray_characters() || self.is_asymmetric() {
            return Err(refused());
        }
        let Some(encoded) = self.0.strip_prefix(Self::STANDARD_PREFIX) else {
            return Ok(self.0.as_bytes().to_vec());
        };
        let key = STANDARD.decode(encoded).ok();
        key.filter(|key| STANDARD_KEY_BYTES.contains(&key.len())).ok_or_else(refused)
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
    fn a_standard_secret_is_decoded_and_any_other_used_as_text() {
        let key = b"24 bytes of a secret key";
        let standard = format!("whsec_{}", STANDARD.encode(key));
        assert_eq!(Secret::new(standard).signing_key().unwrap(), key);
        assert_eq!(Secret::new("plain secret").signing_key().unwrap(), b"plain secret");
    }

    #[test]
    fn a_secret_that_cannot_sign_is_refused_and_not_shown() {
        let (short, long) = (STANDARD.encode([7; 23]), STANDARD.encode([7; 65]));
        let lengths = [format!("whsec_{short}"), format!("whsec_{long}"), "x".repeat(513)];
        let stray =
            ["hush\n", "hush\r\n", " hush", "hu\nsh", "hush\t", "\u{feff}hush", "\u{a0}hush"];
        let malformed =
            ["", "whsec_", "whsec_!!!", "whsec_aGk", "whsk_aGk=", "whpk_aGk=", "whsec_YQ=="];
        let lengths = lengths.iter().map(String::as_str);
        for given in lengths.chain(stray).chain(malformed) {
            let error = Secret::new(given).signing_key().unwrap_err();
            assert_eq!(error.field(), Some("secret"));
            assert!(error.to_string().contains("\"[redacted]\" is invalid"));
        }
        assert!(!format!("{:?}", Secret::new("hush")).contains("hush"));
    }
}
