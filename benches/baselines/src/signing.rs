//! The signature of a baseline, as in Standard Webhooks, over the bytes that are sent.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// The value of `webhook-signature`.
pub(crate) fn signature(id: &str, timestamp_s: u64, payload: &[u8]) -> String {
    #[expect(clippy::expect_used, reason = "a key of any length is accepted")]
    let mut mac = Hmac::<Sha256>::new_from_slice(b"the secret of the baselines").expect("any key");
    mac.update(format!("{id}.{timestamp_s}.").as_bytes());
    mac.update(payload);
    format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()))
}

/// Seconds since the Unix epoch.
pub(crate) fn now_s() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
