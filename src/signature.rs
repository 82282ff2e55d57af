//! Decides how bytes are signed on their way out and checked on their way in: Standard Webhooks
//! `v1` and, with the feature `v1a`, `v1a`; and Meta's `X-Hub-Signature-256`.
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

#[cfg(feature = "v1a")]
mod asymmetric;

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
    standard: Key,
    hub: HmacSha256,
}

/// What Standard Webhooks signs with.
#[derive(Clone)]
enum Key {
    /// `v1`.
    Shared(HmacSha256),
    /// `v1a`; in a box, because few subscriptions have one.
    #[cfg(feature = "v1a")]
    Private(Box<ed25519_dalek::SigningKey>),
}

impl Signer {
    /// Keys both schemes: Standard Webhooks with the ed25519 key of a `whsk_` secret (`v1a`) or with
    /// [`Secret::signing_key`] (`v1`), Meta's with the secret's text.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a secret that cannot sign, as [`Secret::signing_key`] says; for a public
    /// key; and for a `whsk_` secret that holds no ed25519 key, or without the feature `v1a`.
    pub fn new(secret: &Secret) -> Result<Signer> {
        let standard = match secret.is_asymmetric() {
            true => private(secret)?,
            false => Key::Shared(keyed(&secret.signing_key()?)?),
        };
        Ok(Signer { standard, hub: keyed(secret.reveal())? })
    }

    /// One value of `webhook-signature`: `v1,` and the base64 HMAC-SHA256 of
    /// `{id}.{timestamp}.{body}`, or `v1a,` and its base64 ed25519 signature. The timestamp is the
    /// attempt's, in seconds since the Unix epoch.
    pub fn standard(&self, id: &str, timestamp_s: u64, body: &[u8]) -> String {
        let timestamp = timestamp_s.to_string();
        match &self.standard {
            Key::Shared(mac) => {
                let mac = standard_mac(mac.clone(), id, &timestamp, body);
                encoded(V1, &mac.finalize().into_bytes())
            }
            #[cfg(feature = "v1a")]
            Key::Private(key) => {
                encoded(V1A, &asymmetric::sign(key, &signed_parts(id, &timestamp, body)))
            }
        }
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

#[cfg(feature = "v1a")]
fn private(secret: &Secret) -> Result<Key> {
    asymmetric::private(secret).map(|key| Key::Private(Box::new(key)))
}

#[cfg(not(feature = "v1a"))]
fn private(_secret: &Secret) -> Result<Key> {
    let expected = "another secret than whsk_ and whpk_: this build lacks the feature v1a";
    Err(Error::invalid("secret", "[redacted]", expected))
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
    /// The receiver's own secret is of no use: it is empty, too long, or holds no key after its prefix.
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
/// signatures one must fit, so that a secret can be rotated; those of other versions are skipped. A
/// `whpk_` public key, or the `whsk_` key it belongs to, checks `v1a` (with the feature `v1a`); every
/// other secret checks `v1`.
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
    let check = Check::new(secret).ok_or(Refusal::Secret)?;
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
    let version = check.version();
    let candidates = signature.split_ascii_whitespace().filter_map(|s| s.strip_prefix(version));
    let mut decoded = candidates.filter_map(|encoded| STANDARD.decode(encoded).ok());
    let parts = signed_parts(id, timestamp, body);
    if decoded.any(|signature| check.fits(&parts, &signature)) {
        Ok(())
    } else {
        Err(Refusal::Mismatch)
    }
}

/// What a receiver checks Standard Webhooks with.
enum Check {
    Shared(HmacSha256),
    #[cfg(feature = "v1a")]
    Public(Box<ed25519_dalek::VerifyingKey>),
}

impl Check {
    fn new(secret: &Secret) -> Option<Check> {
        #[cfg(feature = "v1a")]
        if secret.is_asymmetric() {
            return asymmetric::public(secret).map(|key| Check::Public(Box::new(key)));
        }
        keyed(&secret.signing_key().ok()?).ok().map(Check::Shared)
    }

    fn version(&self) -> &'static str {
        match self {
            Check::Shared(_) => V1,
            #[cfg(feature = "v1a")]
            Check::Public(_) => V1A,
        }
    }

    fn fits(&self, parts: &[&[u8]], signature: &[u8]) -> bool {
        match self {
            Check::Shared(mac) => {
                let mut mac = mac.clone();
                parts.iter().for_each(|part| mac.update(part));
                mac.verify_slice(signature).is_ok()
            }
            #[cfg(feature = "v1a")]
            Check::Public(key) => asymmetric::fits(key, parts, signature),
        }
    }
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
    signed_parts(id, timestamp, body).iter().for_each(|part| mac.update(part));
    mac
}

/// What Standard Webhooks signs, in parts.
fn signed_parts<'a>(id: &'a str, timestamp: &'a str, body: &'a [u8]) -> [&'a [u8]; 5] {
    [id.as_bytes(), b".", timestamp.as_bytes(), b".", body]
}

fn encoded(version: &str, signature: &[u8]) -> String {
    let mut value = String::with_capacity(version.len() + signature.len().div_ceil(3) * 4);
    value.push_str(version);
    STANDARD.encode_string(signature, &mut value);
    value
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
const V1: &str = "v1,";
#[cfg(feature = "v1a")]
const V1A: &str = "v1a,";

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

    /// Svix's vector for key pairs: the same message as the first one of Standard Webhooks.
    #[cfg(feature = "v1a")]
    const PAIR: [&str; 3] = [
        "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==",
        "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=",
        "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==",
    ];

    #[cfg(feature = "v1a")]
    #[test]
    fn the_published_vector_of_key_pairs_is_signed_and_verified() {
        let [private, public, expected] = PAIR;
        let (_, id, timestamp_s, body, shared) = VECTORS[0];
        let signer = Signer::new(&Secret::new(private)).unwrap();
        assert_eq!(signer.standard(id, timestamp_s, body.as_bytes()), expected);
        let both = format!("{shared} {expected}");
        let received = Received { id, timestamp: "1614265330", signature: &both };
        let verdict = |text: &str, body: &str| {
            verify(&Secret::new(text), &received, body.as_bytes(), timestamp_s, TOLERANCE_S)
        };
        for text in [private, public, VECTORS[0].0] {
            assert_eq!(verdict(text, body), Ok(()), "{text}");
            assert_eq!(verdict(text, "another body"), Err(Refusal::Mismatch), "{text}");
        }
        assert_eq!(verdict(VECTORS[1].0, body), Err(Refusal::Mismatch));
        let alone = &private["whsk_".len()..][..40];
        let alone = STANDARD.decode(alone).unwrap();
        let another = format!("whsk_{}", STANDARD.encode([&alone[..], &[0; 2]].concat()));
        assert_eq!(verdict(&another, body), Err(Refusal::Mismatch), "a key by its private half");
    }

    #[cfg(feature = "v1a")]
    #[test]
    fn a_key_of_a_pair_that_is_none_is_refused_without_being_shown() {
        let received = Received { id: "a", timestamp: "1", signature: "v1a,AA==" };
        let [private, public, _] = PAIR;
        let mut torn = STANDARD.decode(&private["whsk_".len()..]).unwrap();
        torn[40] ^= 1;
        let torn = format!("whsk_{}", STANDARD.encode(torn));
        for text in ["whsk_", "whsk_!!!", "whsk_aGk=", "whpk_", "whpk_aGk=", torn.as_str()] {
            let secret = Secret::new(text);
            assert_eq!(verify(&secret, &received, b"", 1, 1), Err(Refusal::Secret), "{text:?}");
            assert_eq!(Signer::new(&secret).unwrap_err().field(), Some("secret"));
        }
        let signer = Signer::new(&Secret::new(public)).unwrap_err();
        assert!(!signer.to_string().contains("1SiA4"), "a public key signs nothing: {signer}");
    }

    #[cfg(not(feature = "v1a"))]
    #[test]
    fn key_pairs_are_refused_by_a_build_without_them() {
        let received = Received { id: "a", timestamp: "1", signature: "v1a,AA==" };
        for text in ["whsk_hidden", "whpk_hidden"] {
            let secret = Secret::new(text);
            let error = Signer::new(&secret).unwrap_err().to_string();
            assert!(error.contains("feature v1a") && !error.contains("hidden"), "{error}");
            assert_eq!(verify(&secret, &received, b"", 1, 1), Err(Refusal::Secret));
        }
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
