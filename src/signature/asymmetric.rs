//! The key pairs of Standard Webhooks `v1a` (ed25519): parsing, signing, verifying.
//!
//! A private key with a foreign public half is refused, because signatures made with it would reveal it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::ed25519::signature::MultipartSigner as _;
use ed25519_dalek::{Signature, SigningKey, VerifyingKey};

use crate::error::{Error, Result};
use crate::secret::Secret;

/// The key of a `whsk_` secret: 64 bytes for the private and the public half, or 32 for the private half alone.
pub(super) fn private(secret: &Secret) -> Result<SigningKey> {
    let expected = "whsk_ and padded base64 of an ed25519 key of 64 bytes, or of its first 32";
    let bytes = decoded(secret, Secret::PRIVATE_PREFIX);
    let key = bytes.and_then(|bytes| match bytes.len() {
        32 => SigningKey::try_from(bytes.as_slice()).ok(),
        _ => SigningKey::from_keypair_bytes(&bytes.try_into().ok()?).ok(),
    });
    key.ok_or_else(|| Error::invalid("secret", "[redacted]", expected))
}

/// The key of a `whpk_` text, or the public half of a `whsk_` secret.
pub(super) fn public(secret: &Secret) -> Option<VerifyingKey> {
    match decoded(secret, Secret::PUBLIC_PREFIX) {
        Some(bytes) => VerifyingKey::try_from(bytes.as_slice()).ok(),
        None => private(secret).ok().map(|key| key.verifying_key()),
    }
}

pub(super) fn sign(key: &SigningKey, parts: &[&[u8]]) -> [u8; 64] {
    key.multipart_sign(parts).to_bytes()
}

/// Verifies strictly, so that what passes here passes in every other library.
pub(super) fn matches(key: &VerifyingKey, parts: &[&[u8]], signature: &[u8]) -> bool {
    let signature = Signature::from_slice(signature);
    signature.is_ok_and(|signature| key.verify_strict(&parts.concat(), &signature).is_ok())
}

fn decoded(secret: &Secret, prefix: &str) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(secret.reveal()).ok()?;
    STANDARD.decode(text.strip_prefix(prefix)?).ok()
}
