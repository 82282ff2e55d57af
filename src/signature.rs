//! Decides how bytes are signed on their way out and checked on their way in: Standard Webhooks
//! `v1`, and Meta's `X-Hub-Signature-256`.
//!
//! Leaves to others: which headers carry the signatures (`delivery::request`) and what a refusal
//! is answered with (`inbound`, the host). Invariants: what is signed or checked are the exact
//! bytes sent, never a parsed form of them; comparisons take the same time wherever the first
//! difference lies; no error and no `Debug` shows a key, a body or a signature (I9).
//!
//! A receiver checks what wabahook sent it:
//!
//! ```
//! use wabahook::Secret;
//! use wabahook::signature::{Received, Signer, TOLERANCE_S, verify};
//!
//! let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
//! let body = br#"{"test": 2432232314}"#;
//! let signature = Signer::new(&secret)?.standard("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
//!
//! let received = Received {
//!     id: "msg_p5jXN8AQM9LWM0D4loKWxJek", // the header webhook-id
//!     timestamp: "1614265330",            // webhook-timestamp
//!     signature: &signature,              // webhook-signature
//! };
//! let now_s = 1_614_265_335;
//! assert!(verify(&secret, &received, body, now_s, TOLERANCE_S).is_ok());
//! assert!(verify(&secret, &received, b"another body", now_s, TOLERANCE_S).is_err());
//! # Ok::<(), wabahook::Error>(())
//! ```

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::error::{Error, Result};
use crate::subscription::Secret;

type HmacSha256 = Hmac<Sha256>;

/// How far a timestamp may lie from the receiver's clock, in seconds, either way: what every
/// Standard Webhooks library allows.
pub const TOLERANCE_S: u64 = 300;

/// Signs with one secret, keyed once: a signature clones the keyed state.
#[derive(Clone)]
pub struct Signer {
    standard: HmacSha256,
    hub: HmacSha256,
}

impl Signer {
    /// Keys both schemes: `v1` with [`Secret::signing_key`], Meta's with the secret's text.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a secret that cannot sign, as [`Secret::signing_key`] says.
    pub fn new(secret: &Secret) -> Result<Signer> {
        let key = secret.signing_key()?;
        Ok(Signer { standard: keyed(&key)?, hub: keyed(secret.reveal())? })
    }

    /// The value of `webhook-signature`: `v1,` and the base64 HMAC-SHA256 of
    /// `{id}.{timestamp}.{body}`. The timestamp is the attempt's, in seconds since the Unix epoch.
    pub fn standard(&self, id: &str, timestamp_s: u64, body: &[u8]) -> String {
        let mac = standard_mac(self.standard.clone(), id, &timestamp_s.to_string(), body);
        let mut value = String::from("v1,");
        STANDARD.encode_string(mac.finalize().into_bytes(), &mut value);
        value
    }

    /// The value of `x-hub-signature-256`: `sha256=` and the lower-case hexadecimal HMAC-SHA256 of
    /// the body.
    pub fn hub(&self, body: &[u8]) -> String {
        let mut mac = self.hub.clone();
        mac.update(body);
        let mut value = String::with_capacity(HUB_PREFIX.len() + 64);
        value.push_str(HUB_PREFIX);
        for byte in mac.finalize().into_bytes() {
            for nibble in [byte >> 4, byte & 0xf] {
                value.push(char::from_digit(nibble.into(), 16).unwrap_or('0'));
            }
        }
        value
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer([redacted])")
    }
}

/// The headers of Standard Webhooks as a receiver got them.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// `webhook-id`.
    pub id: &'a str,
    /// `webhook-timestamp`, in seconds since the Unix epoch.
    pub timestamp: &'a str,
    /// `webhook-signature`: one or more signatures, separated by spaces.
    pub signature: &'a str,
}

/// Why a signature was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The receiver's own secret cannot sign: it is empty, too long, or not base64 after `whsec_`.
    Secret,
    /// A header is missing or unreadable.
    Malformed,
    /// The timestamp is older than the tolerance: a replay, or a clock that is wrong.
    TooOld,
    /// The timestamp lies further ahead than the tolerance.
    TooNew,
    /// No signature of a known version fits the bytes.
    Mismatch,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::Secret => "the secret cannot be used to check a signature",
            Refusal::Malformed => "a signature header is missing or unreadable",
            Refusal::TooOld => "the timestamp is too old",
            Refusal::TooNew => "the timestamp lies in the future",
            Refusal::Mismatch => "the signature does not fit the body",
        })
    }
}

impl std::error::Error for Refusal {}

/// Checks a request signed by Standard Webhooks, on the body exactly as received.
///
/// `now_s` is the receiver's time in seconds since the Unix epoch. A timestamp up to `tolerance_s`
/// seconds away from it, either way, passes; [`TOLERANCE_S`] is what others use. Of several
/// signatures one must fit, so that a secret can be rotated; versions other than `v1` are skipped.
///
/// # Errors
/// A [`Refusal`] that says why.
pub fn verify(
    secret: &Secret,
    received: &Received<'_>,
    body: &[u8],
    now_s: u64,
    tolerance_s: u64,
) -> Result<(), Refusal> {
    let key = secret.signing_key().map_err(|_| Refusal::Secret)?;
    let keyed = keyed(&key).map_err(|_| Refusal::Secret)?;
    let Received { id, timestamp, signature } = *received;
    // A dot inside the id could move the border between id, timestamp and body.
    if id.is_empty() || id.contains('.') || !timestamp.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Refusal::Malformed);
    }
    let sent_s: u64 = timestamp.parse().map_err(|_| Refusal::Malformed)?;
    if now_s.saturating_sub(sent_s) > tolerance_s {
        return Err(Refusal::TooOld);
    }
    if sent_s.saturating_sub(now_s) > tolerance_s {
        return Err(Refusal::TooNew);
    }
    let mac = standard_mac(keyed, id, timestamp, body);
    let candidates = signature.split_ascii_whitespace().filter_map(|s| s.strip_prefix("v1,"));
    let fits = candidates
        .filter_map(|encoded| STANDARD.decode(encoded).ok())
        .any(|candidate| mac.clone().verify_slice(&candidate).is_ok());
    if fits { Ok(()) } else { Err(Refusal::Mismatch) }
}

/// Checks the value of `X-Hub-Signature-256` on the body exactly as received. The key is the
/// secret's text as given: for Meta's callbacks the app secret.
///
/// ```
/// use wabahook::Secret;
/// use wabahook::signature::verify_hub;
/// let header = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
/// let secret = Secret::new("It's a Secret to Everybody");
/// assert!(verify_hub(&secret, header, b"Hello, World!").is_ok());
/// assert!(verify_hub(&secret, header, b"Hello, World?").is_err());
/// ```
///
/// # Errors
/// A [`Refusal`] that says why. An empty secret is refused, because anybody could sign with it.
pub fn verify_hub(secret: &Secret, header: &str, body: &[u8]) -> Result<(), Refusal> {
    if secret.reveal().is_empty() {
        return Err(Refusal::Secret);
    }
    let hex = header.trim().strip_prefix(HUB_PREFIX).ok_or(Refusal::Malformed)?;
    let candidate = hex_bytes(hex).ok_or(Refusal::Malformed)?;
    let mut mac = keyed(secret.reveal()).map_err(|_| Refusal::Secret)?;
    mac.update(body);
    mac.verify_slice(&candidate).map_err(|_| Refusal::Mismatch)
}

fn keyed(key: &[u8]) -> Result<HmacSha256> {
    // HMAC takes keys of any length; the error exists for the sake of other MACs.
    HmacSha256::new_from_slice(key)
        .map_err(|_| Error::invalid("secret", "[redacted]", "a secret of 1 to 512 bytes"))
}

fn standard_mac(mut mac: HmacSha256, id: &str, timestamp: &str, body: &[u8]) -> HmacSha256 {
    for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
        mac.update(part);
    }
    mac
}

/// Reads the 64 hexadecimal digits of a SHA-256.
fn hex_bytes(hex: &str) -> Option<[u8; 32]> {
    let mut bytes = [0_u8; 32];
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    if pairs.len() != bytes.len() || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

const HUB_PREFIX: &str = "sha256=";

#[cfg(test)]
mod tests {
    use super::*;

    /// The published vectors of Standard Webhooks' Go and Rust libraries.
    const VECTORS: [(&str, &str, u64, &str, &str); 2] = [
        (
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        ),
        (
            "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
            1_649_367_553,
            r#"{"email":"test@example.com","username":"test_user"}"#,
            "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
        ),
    ];

    #[test]
    fn the_published_vectors_of_standard_webhooks_are_signed_and_verified() {
        for (secret, id, timestamp_s, body, expected) in VECTORS {
            let secret = Secret::new(secret);
            let signer = Signer::new(&secret).unwrap();
            // The second signature shows that the first left the keyed template as it was.
            for _ in 0..2 {
                assert_eq!(signer.standard(id, timestamp_s, body.as_bytes()), expected);
            }
            let timestamp = timestamp_s.to_string();
            let received = Received { id, timestamp: &timestamp, signature: expected };
            let verdict = verify(&secret, &received, body.as_bytes(), timestamp_s, TOLERANCE_S);
            assert_eq!(verdict, Ok(()), "{id}");
        }
    }

    #[test]
    fn the_published_vector_of_the_hub_form_is_signed_and_verified() {
        let secret = Secret::new("It's a Secret to Everybody");
        let expected = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        assert_eq!(Signer::new(&secret).unwrap().hub(b"Hello, World!"), expected);
        assert_eq!(verify_hub(&secret, expected, b"Hello, World!"), Ok(()));
    }

    #[test]
    fn a_callback_is_checked_on_its_raw_bytes_and_not_on_what_they_mean() {
        let body = include_bytes!("../docs/samples/cloud_escaped_raw_bytes.json");
        let header = "sha256=22f082dfc4f2a5322f7a46a6c30ce8ef1c0fecae06c9e11fd6819c63f186aa69";
        let secret = Secret::new("app-secret");
        assert_eq!(verify_hub(&secret, header, body), Ok(()));
        let value: serde_json::Value = serde_json::from_slice(body).unwrap();
        let rewritten = serde_json::to_vec(&value).unwrap();
        assert_eq!(verify_hub(&secret, header, &rewritten), Err(Refusal::Mismatch));
    }

    fn check_hub(header: &str, expected: Result<(), Refusal>) {
        let secret = Secret::new("It's a Secret to Everybody");
        assert_eq!(verify_hub(&secret, header, b"Hello, World!"), expected, "{header:?}");
    }

    #[test]
    fn hub_headers_are_read_strictly() {
        let hex = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        check_hub(&format!("sha256={hex}"), Ok(()));
        check_hub(&format!(" sha256={hex} "), Ok(()));
        check_hub(&format!("sha256={}", hex.to_uppercase()), Ok(()));
        check_hub(&format!("sha256={}8", &hex[..63]), Err(Refusal::Mismatch));
        check_hub(&format!("sha256={}", "0".repeat(64)), Err(Refusal::Mismatch));
        for malformed in ["", "sha256=", hex, "sha1=75", "sha256=7571", &format!("sha256={hex}00")]
        {
            check_hub(malformed, Err(Refusal::Malformed));
        }
        check_hub(&format!("sha256=zz{}", &hex[2..]), Err(Refusal::Malformed));
        let empty = Secret::new("");
        assert_eq!(verify_hub(&empty, &format!("sha256={hex}"), b""), Err(Refusal::Secret));
    }

    const SIGNED_AT_S: u64 = 1_614_265_330;

    fn check(change: impl Fn(&mut Received<'_>, &mut u64), expected: Result<(), Refusal>) {
        let (secret, id, _, body, signature) = VECTORS[0];
        let mut received = Received { id, timestamp: "1614265330", signature };
        let mut now_s = SIGNED_AT_S;
        change(&mut received, &mut now_s);
        let secret = Secret::new(secret);
        let verdict = verify(&secret, &received, body.as_bytes(), now_s, TOLERANCE_S);
        assert_eq!(verdict, expected, "{received:?} at {now_s}");
    }

    #[test]
    fn a_timestamp_passes_up_to_the_tolerance_either_way() {
        check(|_, now_s| *now_s += 300, Ok(()));
        check(|_, now_s| *now_s -= 300, Ok(()));
        check(|_, now_s| *now_s += 301, Err(Refusal::TooOld));
        check(|_, now_s| *now_s -= 301, Err(Refusal::TooNew));
        check(|_, now_s| *now_s = 0, Err(Refusal::TooNew));
        check(|_, now_s| *now_s = u64::MAX, Err(Refusal::TooOld));
        check(|received, _| received.timestamp = "1614265331", Err(Refusal::Mismatch));
    }

    #[test]
    fn headers_that_cannot_be_read_are_refused() {
        for timestamp in ["", "+1614265330", "1614265330.0", "-1", "99999999999999999999", "now"] {
            check(|received, _| received.timestamp = timestamp, Err(Refusal::Malformed));
        }
        check(|received, _| received.id = "", Err(Refusal::Malformed));
        check(|received, _| received.id = "msg.1614265330", Err(Refusal::Malformed));
    }

    #[test]
    fn one_fitting_signature_of_several_is_enough_and_unknown_versions_are_skipped() {
        let good = VECTORS[0].4;
        let other = VECTORS[1].4;
        for (list, expected) in [
            (format!("{other} {good}"), Ok(())),
            (format!("v1a,AAAA {good} v2,x"), Ok(())),
            (format!("v1, v1 v1,!!! {good}"), Ok(())),
            (other.to_owned(), Err(Refusal::Mismatch)),
            (good.replace("v1,", "v1a,"), Err(Refusal::Mismatch)),
            (good.replace("v1,", "V1,"), Err(Refusal::Mismatch)),
            (good[..20].to_owned(), Err(Refusal::Mismatch)),
            (String::new(), Err(Refusal::Mismatch)),
        ] {
            let (secret, id, _, body, _) = VECTORS[0];
            let received = Received { id, timestamp: "1614265330", signature: &list };
            let body = body.as_bytes();
            let verdict = verify(&Secret::new(secret), &received, body, SIGNED_AT_S, TOLERANCE_S);
            assert_eq!(verdict, expected, "{list:?}");
        }
    }

    #[test]
    fn a_secret_that_cannot_sign_is_refused_and_none_is_shown() {
        let received = Received { id: "a", timestamp: "1", signature: "v1,AA==" };
        for text in ["", "whsec_", "whsec_!!!"] {
            let secret = Secret::new(text);
            assert_eq!(verify(&secret, &received, b"", 1, 1), Err(Refusal::Secret), "{text:?}");
            assert_eq!(Signer::new(&secret).unwrap_err().field(), Some("secret"));
        }
        let signer = Signer::new(&Secret::new("hush-hush")).unwrap();
        assert!(!format!("{signer:?}").contains("hush"));
    }

    #[test]
    fn the_two_schemes_use_the_decoded_key_and_the_text() {
        let signer = Signer::new(&Secret::new("whsec_aGk=")).unwrap();
        let mut text = HmacSha256::new_from_slice(b"whsec_aGk=").unwrap();
        text.update(b"body");
        let mut decoded = HmacSha256::new_from_slice(b"hi").unwrap();
        decoded.update(b"id.7.body");
        let hub = hex_bytes(&signer.hub(b"body")[HUB_PREFIX.len()..]).unwrap();
        assert!(text.verify_slice(&hub).is_ok());
        let standard = signer.standard("id", 7, b"body");
        assert!(decoded.verify_slice(&STANDARD.decode(&standard[3..]).unwrap()).is_ok());
    }
}
