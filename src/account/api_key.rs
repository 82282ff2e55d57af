//! API keys. A key is shown once, when it is made; what is kept of it is its SHA-256 digest, by which it is found
//! in a hash table. So what a request costs does not grow with the number of accounts.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::clock::fill_random;
use crate::error::{Error, Result};
use crate::secret::Secret;
use crate::text::{hex, hex_byte};

/// What a key made here begins with, so that people and scanners recognize it.
const KEY_PREFIX: &str = "wak_";

/// The SHA-256 digest of an API key.
///
/// ```
/// use wabahook::KeyDigest;
/// let digest = KeyDigest::of(b"acme-key");
/// assert!(digest.is_of(b"acme-key") && !digest.is_of(b"beta-key"));
/// assert_eq!(digest.to_hex().parse::<KeyDigest>()?, digest);
/// # Ok::<(), wabahook::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyDigest([u8; 32]);

impl KeyDigest {
    /// The digest of a key.
    pub fn of(key: &[u8]) -> KeyDigest {
        KeyDigest(Sha256::digest(key).into())
    }

    /// Whether it is the digest of this key. Takes the same time whichever byte differs.
    pub fn is_of(&self, key: &[u8]) -> bool {
        self.same_as(&KeyDigest::of(key))
    }

    /// Whether two digests are the same. Takes the same time whichever byte differs.
    pub fn same_as(&self, other: &KeyDigest) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    /// The digest as 64 hexadecimal digits, as `sha256sum` prints it.
    pub fn to_hex(&self) -> String {
        hex(&self.0)
    }
}

impl FromStr for KeyDigest {
    type Err = Error;

    fn from_str(given: &str) -> Result<KeyDigest> {
        let refused = || Error::invalid("sha256", "[redacted]", "64 hexadecimal digits");
        let (pairs, rest) = given.as_bytes().as_chunks::<2>();
        let bytes: Option<Vec<u8>> = pairs.iter().map(|pair| hex_byte(*pair)).collect();
        let bytes = bytes.filter(|_| rest.is_empty()).ok_or_else(refused)?;
        Ok(KeyDigest(bytes.try_into().map_err(|_| refused())?))
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDigest([redacted])")
    }
}

/// An API key of an account, without the key itself.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ApiKey {
    /// Its id, unique in the account.
    pub id: String,
    /// What it is for, in the words of the person who made it.
    pub name: String,
    /// When it was made, or first read from the configuration, in milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    /// From when on it is refused, in milliseconds since the Unix epoch.
    pub expires_at_ms: Option<u64>,
    /// Whether the host's configuration has it. Then it is removed there.
    pub is_declared: bool,
    pub(crate) digest: KeyDigest,
    /// When it was last used; 0 for never. Shared by all copies.
    last_used_ms: Arc<AtomicU64>,
}

impl ApiKey {
    /// A new key of 32 random bytes, to be given to [`Account::api_key`](crate::Account::api_key) and shown once.
    ///
    /// # Errors
    /// [`Error::Poisoned`] if the system gives no random bytes.
    pub fn generate() -> Result<Secret> {
        fresh_key()
    }

    /// The same key as if it was never used.
    #[cfg(feature = "postgres")]
    pub(crate) fn unused(&self) -> ApiKey {
        ApiKey { last_used_ms: Arc::default(), ..self.clone() }
    }

    pub(crate) fn new(id: String, name: String, digest: KeyDigest, created_at_ms: u64) -> ApiKey {
        ApiKey {
            id,
            name,
            created_at_ms,
            expires_at_ms: None,
            is_declared: false,
            digest,
            last_used_ms: Arc::default(),
        }
    }

    /// When a request last had it, in milliseconds since the Unix epoch; `None` for never. A use since the
    /// account was last changed is forgotten when the engine is closed.
    pub fn last_used_at_ms(&self) -> Option<u64> {
        Some(self.last_used_ms.load(Ordering::Relaxed)).filter(|at_ms| *at_ms > 0)
    }

    pub(crate) fn note_use(&self, at_ms: u64) {
        self.last_used_ms.store(at_ms, Ordering::Relaxed);
    }

    /// Whether it is accepted at this time.
    pub fn is_valid_at(&self, wall_ms: u64) -> bool {
        self.expires_at_ms.is_none_or(|expires_at_ms| wall_ms < expires_at_ms)
    }
}

/// A new key of 32 random bytes.
pub(crate) fn fresh_key() -> Result<Secret> {
    let mut bytes = [0_u8; 32];
    fill_random(&mut bytes).map_err(|error| Error::Poisoned { why: error.to_string() })?;
    Ok(Secret::new(format!("{KEY_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))))
}

/// Whether a request can bring the key in a header. An empty one would let in requests without a key.
pub(super) fn is_usable_key(key: &Secret) -> bool {
    !key.reveal().is_empty() && !key.has_stray_characters()
}

/// The key of a header's value: `<key>` or `Bearer <key>`.
pub fn key_in_header(value: &[u8]) -> &[u8] {
    let value = value.trim_ascii();
    let scheme = value.split_at_checked("Bearer ".len());
    let bearer = scheme.filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"Bearer "));
    bearer.map_or(value, |(_, key)| key.trim_ascii())
}
