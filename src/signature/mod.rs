//! Signing and verifying requests: Standard Webhooks `v1` and, with the feature `v1a`, `v1a`; and Meta's
//! `X-Hub-Signature-256`.
//!
//! Signatures cover the exact bytes sent, never a parsed form of them. Comparisons take the same time wherever
//! the first difference lies. No error and no `Debug` shows a key, a body or a signature (I9).
//!
//! A receiver checks what wabahook sent it:
//!
//! ```
//! use wabahook::Secret;
//! use wabahook::signature::{SignatureHeaders, Signer, TOLERANCE, verify};
//!
//! let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
//! let body = br#"{"test": 2432232314}"#;
//! let signature = Signer::new(&secret)?.standard("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
//!
//! let received = SignatureHeaders {
//!     id: "msg_p5jXN8AQM9LWM0D4loKWxJek", // the header webhook-id
//!     timestamp: "1614265330",            // webhook-timestamp
//!     signature: &signature,              // webhook-signature
//! };
//! let now_s = 1_614_265_335;
//! assert!(verify(&secret, &received, body, now_s, TOLERANCE).is_ok());
//! assert!(verify(&secret, &received, b"another body", now_s, TOLERANCE).is_err());
//! # Ok::<(), wabahook::Error>(())
//! ```

#[cfg(feature = "v1a")]
mod asymmetric;

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::error::{Error, Result};
use crate::secret::Secret;
use crate::text::{hex_byte, push_hex};

type HmacSha256 = Hmac<Sha256>;

/// How far a timestamp may differ from the receiver's clock, either way: what every Standard Webhooks library
/// allows.
pub const TOLERANCE: Duration = Duration::from_secs(300);

/// Signs with one secret. The secret is keyed once; each signature clones the keyed state.
#[derive(Clone)]
pub struct Signer {
    standard: StandardKey,
    hub: HmacSha256,
}

/// The key for Standard Webhooks.
#[derive(Clone)]
enum StandardKey {
    /// `v1`.
    Shared(HmacSha256),
    /// `v1a`; boxed, because few subscriptions use it.
    #[cfg(feature = "v1a")]
    Private(Box<ed25519_dalek::SigningKey>),
}

impl Signer {
    /// Prepares both schemes: Standard Webhooks with the ed25519 key of a `whsk_` secret (`v1a`) or with
    /// [`Secret::signing_key`] (`v1`), and Meta's with the secret's text.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a secret that cannot sign (see [`Secret::signing_key`]), for a public key, and for
    /// a `whsk_` secret without an ed25519 key or without the feature `v1a`.
    pub fn new(secret: &Secret) -> Result<Signer> {
        let standard = match secret.is_asymmetric() {
            true => private(secret)?,
            false => StandardKey::Shared(keyed(&secret.signing_key()?)?),
        };
        Ok(Signer { standard, hub: keyed(secret.reveal())? })
    }

    /// One value of `webhook-signature`: `v1,` and the base64 HMAC-SHA256 of
    /// `{id}.{timestamp}.{body}`, or `v1a,` and its base64 ed25519 signature. The timestamp is
    /// the attempt's, in seconds since the Unix epoch.
    pub fn standard(&self, id: &str, timestamp_s: u64, body: &[u8]) -> String {
        let timestamp = timestamp_s.to_string();
        match &self.standard {
            StandardKey::Shared(mac) => {
                let mac = standard_mac(mac.clone(), id, &timestamp, body);
                encoded(V1, &mac.finalize().into_bytes())
            }
            #[cfg(feature = "v1a")]
            StandardKey::Private(key) => {
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
        push_hex(&mut value, &mac.finalize().into_bytes());
        value
    }
}

#[cfg(feature = "v1a")]
fn private(secret: &Secret) -> Result<StandardKey> {
    asymmetric::private(secret).map(|key| StandardKey::Private(Box::new(key)))
}

#[cfg(not(feature = "v1a"))]
fn private(_secret: &Secret) -> Result<StandardKey> {
    let expected = "a secret without whsk_ or whpk_: this build lacks the feature v1a";
    Err(Error::invalid("secret", "[redacted]", expected))
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer([redacted])")
    }
}

/// The headers of Standard Webhooks, as received.
#[derive(Debug, Clone, Copy)]
pub struct SignatureHeaders<'a> {
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
pub enum SignatureError {
    /// The receiver's own secret is unusable: it is empty, too long, or has no key after its prefix.
    Secret,
    /// A header is missing or unreadable.
    Malformed,
    /// The timestamp is older than the tolerance: a replayed request, or a wrong clock.
    TooOld,
    /// The timestamp is further in the future than the tolerance.
    TooNew,
    /// No signature of a known version matches the body.
    Mismatch,
}

impl fmt::Display for SignatureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SignatureError::Secret => "the secret cannot be used to check a signature",
            SignatureError::Malformed => "a signature header is missing or unreadable",
            SignatureError::TooOld => "the timestamp is too old",
            SignatureError::TooNew => "the timestamp is in the future",
            SignatureError::Mismatch => "the signature does not match the body",
        })
    }
}

impl std::error::Error for SignatureError {}

/// Verifies a request signed by Standard Webhooks, on the body exactly as received.
///
/// `now_s` is the receiver's time in seconds since the Unix epoch. A timestamp may differ from it by `tolerance`,
/// in whole seconds, either way; [`TOLERANCE`] is the usual value. One of several signatures must match, so that
/// a secret can be rotated; signatures of other versions are skipped. A `whpk_` public key, or its `whsk_`
/// private key, verifies `v1a` (with the feature `v1a`); every other secret verifies `v1`.
///
/// # Errors
/// A [`SignatureError`] with the reason.
pub fn verify(
    secret: &Secret,
    received: &SignatureHeaders<'_>,
    body: &[u8],
    now_s: u64,
    tolerance: Duration,
) -> Result<(), SignatureError> {
    let verifier = Verifier::new(secret).ok_or(SignatureError::Secret)?;
    let SignatureHeaders { id, timestamp, signature } = *received;
    // A dot inside the id could shift the boundary between id, timestamp and body.
    if id.is_empty() || id.contains('.') || !timestamp.bytes().all(|b| b.is_ascii_digit()) {
        return Err(SignatureError::Malformed);
    }
    let tolerance_s = tolerance.as_secs();
    let sent_s: u64 = timestamp.parse().map_err(|_| SignatureError::Malformed)?;
    if now_s.saturating_sub(sent_s) > tolerance_s {
        return Err(SignatureError::TooOld);
    }
    if sent_s.saturating_sub(now_s) > tolerance_s {
        return Err(SignatureError::TooNew);
    }
    let version = verifier.version();
    let candidates = signature.split_ascii_whitespace().filter_map(|s| s.strip_prefix(version));
    let mut decoded = candidates.filter_map(|encoded| STANDARD.decode(encoded).ok());
    let parts = signed_parts(id, timestamp, body);
    if decoded.any(|signature| verifier.matches(&parts, &signature)) {
        Ok(())
    } else {
        Err(SignatureError::Mismatch)
    }
}

/// The receiver's key for Standard Webhooks.
enum Verifier {
    Shared(HmacSha256),
    #[cfg(feature = "v1a")]
    Public(Box<ed25519_dalek::VerifyingKey>),
}

impl Verifier {
    fn new(secret: &Secret) -> Option<Verifier> {
        #[cfg(feature = "v1a")]
        if secret.is_asymmetric() {
            return asymmetric::public(secret).map(|key| Verifier::Public(Box::new(key)));
        }
        keyed(&secret.signing_key().ok()?).ok().map(Verifier::Shared)
    }

    fn version(&self) -> &'static str {
        match self {
            Verifier::Shared(_) => V1,
            #[cfg(feature = "v1a")]
            Verifier::Public(_) => V1A,
        }
    }

    fn matches(&self, parts: &[&[u8]], signature: &[u8]) -> bool {
        match self {
            Verifier::Shared(mac) => {
                let mut mac = mac.clone();
                parts.iter().for_each(|part| mac.update(part));
                mac.verify_slice(signature).is_ok()
            }
            #[cfg(feature = "v1a")]
            Verifier::Public(key) => asymmetric::matches(key, parts, signature),
        }
    }
}

/// Verifies the value of `X-Hub-Signature-256` on the body exactly as received. The key is the secret's text as
/// given; for Meta's callbacks it is the app secret.
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
/// A [`SignatureError`] with the reason. An empty secret is refused, because anybody could sign with it.
pub fn verify_hub(secret: &Secret, header: &str, body: &[u8]) -> Result<(), SignatureError> {
    if secret.reveal().is_empty() {
        return Err(SignatureError::Secret);
    }
    let hex = header.trim().strip_prefix(HUB_PREFIX).ok_or(SignatureError::Malformed)?;
    let candidate = hex_bytes(hex).ok_or(SignatureError::Malformed)?;
    let mut mac = keyed(secret.reveal()).map_err(|_| SignatureError::Secret)?;
    mac.update(body);
    mac.verify_slice(&candidate).map_err(|_| SignatureError::Mismatch)
}

fn keyed(key: &[u8]) -> Result<HmacSha256> {
    // HMAC accepts keys of any length; the error exists for other MACs.
    HmacSha256::new_from_slice(key)
        .map_err(|_| Error::invalid("secret", "[redacted]", "a secret of 1 to 512 bytes"))
}

fn standard_mac(mut mac: HmacSha256, id: &str, timestamp: &str, body: &[u8]) -> HmacSha256 {
    signed_parts(id, timestamp, body).iter().for_each(|part| mac.update(part));
    mac
}

/// The parts that Standard Webhooks signs.
fn signed_parts<'a>(id: &'a str, timestamp: &'a str, body: &'a [u8]) -> [&'a [u8]; 5] {
    [id.as_bytes(), b".", timestamp.as_bytes(), b".", body]
}

fn encoded(version: &str, signature: &[u8]) -> String {
    let mut value = String::with_capacity(version.len() + signature.len().div_ceil(3) * 4);
    value.push_str(version);
    STANDARD.encode_string(signature, &mut value);
    value
}

/// Decodes the 64 hexadecimal digits of a SHA-256.
fn hex_bytes(hex: &str) -> Option<[u8; 32]> {
    let mut bytes = [0_u8; 32];
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    if pairs.len() != bytes.len() || !rest.is_empty() {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(pairs) {
        *byte = hex_byte(*digits)?;
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
    fn standard_webhooks_vectors_are_signed_and_verified() {
        for (secret, id, timestamp_s, body, expected) in VECTORS {
            let secret = Secret::new(secret);
            let signer = Signer::new(&secret).unwrap();
            // The second signature shows that the first left the keyed template as it was.
            for _ in 0..2 {
                assert_eq!(signer.standard(id, timestamp_s, body.as_bytes()), expected);
            }
            let timestamp = timestamp_s.to_string();
            let received = SignatureHeaders { id, timestamp: &timestamp, signature: expected };
            let verdict = verify(&secret, &received, body.as_bytes(), timestamp_s, TOLERANCE);
            assert_eq!(verdict, Ok(()), "{id}");
        }
    }

    #[test]
    fn the_hub_vector_is_signed_and_verified() {
        let secret = Secret::new("It's a Secret to Everybody");
        let expected = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        assert_eq!(Signer::new(&secret).unwrap().hub(b"Hello, World!"), expected);
        assert_eq!(verify_hub(&secret, expected, b"Hello, World!"), Ok(()));
    }

    /// Svix's vector for key pairs: the same message as the first vector of Standard Webhooks.
    #[cfg(feature = "v1a")]
    const PAIR: [&str; 3] = [
        "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==",
        "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=",
        "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==",
    ];

    #[cfg(feature = "v1a")]
    #[test]
    fn the_key_pair_vector_is_signed_and_verified() {
        let [private, public, expected] = PAIR;
        let (_, id, timestamp_s, body, shared) = VECTORS[0];
        let signer = Signer::new(&Secret::new(private)).unwrap();
        assert_eq!(signer.standard(id, timestamp_s, body.as_bytes()), expected);
        let both = format!("{shared} {expected}");
        let received = SignatureHeaders { id, timestamp: "1614265330", signature: &both };
        let verdict = |text: &str, body: &str| {
            verify(&Secret::new(text), &received, body.as_bytes(), timestamp_s, TOLERANCE)
        };
        for text in [private, public, VECTORS[0].0] {
            assert_eq!(verdict(text, body), Ok(()), "{text}");
            assert_eq!(verdict(text, "another body"), Err(SignatureError::Mismatch), "{text}");
        }
        assert_eq!(verdict(VECTORS[1].0, body), Err(SignatureError::Mismatch));
        let alone = &private["whsk_".len()..][..40];
        let alone = STANDARD.decode(alone).unwrap();
        let another = format!("whsk_{}", STANDARD.encode([&alone[..], &[0; 2]].concat()));
        assert_eq!(
            verdict(&another, body),
            Err(SignatureError::Mismatch),
            "a key by its private half"
        );
    }

    #[cfg(feature = "v1a")]
    #[test]
    fn an_invalid_key_pair_is_refused_and_not_shown() {
        let received = SignatureHeaders { id: "a", timestamp: "1", signature: "v1a,AA==" };
        let [private, public, _] = PAIR;
        let mut torn = STANDARD.decode(&private["whsk_".len()..]).unwrap();
        torn[40] ^= 1;
        let torn = format!("whsk_{}", STANDARD.encode(torn));
        for text in ["whsk_", "whsk_!!!", "whsk_aGk=", "whpk_", "whpk_aGk=", torn.as_str()] {
            let secret = Secret::new(text);
            assert_eq!(
                verify(&secret, &received, b"", 1, TOLERANCE),
                Err(SignatureError::Secret),
                "{text:?}"
            );
            assert_eq!(Signer::new(&secret).unwrap_err().field(), Some("secret"));
        }
        let signer = Signer::new(&Secret::new(public)).unwrap_err();
        assert!(!signer.to_string().contains("1SiA4"), "a public key signs nothing: {signer}");
    }

    #[cfg(not(feature = "v1a"))]
    #[test]
    fn key_pairs_need_the_feature_v1a() {
        let received = SignatureHeaders { id: "a", timestamp: "1", signature: "v1a,AA==" };
        for text in ["whsk_hidden", "whpk_hidden"] {
            let secret = Secret::new(text);
            let error = Signer::new(&secret).unwrap_err().to_string();
            assert!(error.contains("feature v1a") && !error.contains("hidden"), "{error}");
            assert_eq!(verify(&secret, &received, b"", 1, TOLERANCE), Err(SignatureError::Secret));
        }
    }

    #[test]
    fn a_callback_is_verified_on_its_raw_bytes() {
        let body = include_bytes!("../../docs/samples/cloud_escaped_raw_bytes.json");
        let header = "sha256=22f082dfc4f2a5322f7a46a6c30ce8ef1c0fecae06c9e11fd6819c63f186aa69";
        let secret = Secret::new("app-secret");
        assert_eq!(verify_hub(&secret, header, body), Ok(()));
        let value: serde_json::Value = serde_json::from_slice(body).unwrap();
        let rewritten = serde_json::to_vec(&value).unwrap();
        assert_eq!(verify_hub(&secret, header, &rewritten), Err(SignatureError::Mismatch));
    }

    fn check_hub(header: &str, expected: Result<(), SignatureError>) {
        let secret = Secret::new("It's a Secret to Everybody");
        assert_eq!(verify_hub(&secret, header, b"Hello, World!"), expected, "{header:?}");
    }

    #[test]
    fn hub_headers_are_read_strictly() {
        let hex = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        check_hub(&format!("sha256={hex}"), Ok(()));
        check_hub(&format!(" sha256={hex} "), Ok(()));
        check_hub(&format!("sha256={}", hex.to_uppercase()), Ok(()));
        check_hub(&format!("sha256={}8", &hex[..63]), Err(SignatureError::Mismatch));
        check_hub(&format!("sha256={}", "0".repeat(64)), Err(SignatureError::Mismatch));
        for malformed in ["", "sha256=", hex, "sha1=75", "sha256=7571", &format!("sha256={hex}00")]
        {
            check_hub(malformed, Err(SignatureError::Malformed));
        }
        check_hub(&format!("sha256=zz{}", &hex[2..]), Err(SignatureError::Malformed));
        let empty = Secret::new("");
        assert_eq!(verify_hub(&empty, &format!("sha256={hex}"), b""), Err(SignatureError::Secret));
    }

    const SIGNED_AT_S: u64 = 1_614_265_330;

    fn check(
        change: impl Fn(&mut SignatureHeaders<'_>, &mut u64),
        expected: Result<(), SignatureError>,
    ) {
        let (secret, id, _, body, signature) = VECTORS[0];
        let mut received = SignatureHeaders { id, timestamp: "1614265330", signature };
        let mut now_s = SIGNED_AT_S;
        change(&mut received, &mut now_s);
        let secret = Secret::new(secret);
        let verdict = verify(&secret, &received, body.as_bytes(), now_s, TOLERANCE);
        assert_eq!(verdict, expected, "{received:?} at {now_s}");
    }

    #[test]
    fn a_timestamp_passes_up_to_the_tolerance_either_way() {
        check(|_, now_s| *now_s += 300, Ok(()));
        check(|_, now_s| *now_s -= 300, Ok(()));
        check(|_, now_s| *now_s += 301, Err(SignatureError::TooOld));
        check(|_, now_s| *now_s -= 301, Err(SignatureError::TooNew));
        check(|_, now_s| *now_s = 0, Err(SignatureError::TooNew));
        check(|_, now_s| *now_s = u64::MAX, Err(SignatureError::TooOld));
        check(|received, _| received.timestamp = "1614265331", Err(SignatureError::Mismatch));
    }

    #[test]
    fn unreadable_headers_are_refused() {
        for timestamp in ["", "+1614265330", "1614265330.0", "-1", "99999999999999999999", "now"] {
            check(|received, _| received.timestamp = timestamp, Err(SignatureError::Malformed));
        }
        check(|received, _| received.id = "", Err(SignatureError::Malformed));
        check(|received, _| received.id = "msg.1614265330", Err(SignatureError::Malformed));
    }

    #[test]
    fn one_matching_signature_of_several_is_enough() {
        let good = VECTORS[0].4;
        let other = VECTORS[1].4;
        for (list, expected) in [
            (format!("{other} {good}"), Ok(())),
            (format!("v1a,AAAA {good} v2,x"), Ok(())),
            (format!("v1, v1 v1,!!! {good}"), Ok(())),
            (other.to_owned(), Err(SignatureError::Mismatch)),
            (good.replace("v1,", "v1a,"), Err(SignatureError::Mismatch)),
            (good.replace("v1,", "V1,"), Err(SignatureError::Mismatch)),
            (good[..20].to_owned(), Err(SignatureError::Mismatch)),
            (String::new(), Err(SignatureError::Mismatch)),
        ] {
            let (secret, id, _, body, _) = VECTORS[0];
            let received = SignatureHeaders { id, timestamp: "1614265330", signature: &list };
            let body = body.as_bytes();
            let verdict = verify(&Secret::new(secret), &received, body, SIGNED_AT_S, TOLERANCE);
            assert_eq!(verdict, expected, "{list:?}");
        }
    }

    #[test]
    fn an_unusable_secret_is_refused_and_not_shown() {
        let received = SignatureHeaders { id: "a", timestamp: "1", signature: "v1,AA==" };
        for text in ["", "whsec_", "whsec_!!!", "whsec_YQ==", "hush\n"] {
            let secret = Secret::new(text);
            assert_eq!(
                verify(&secret, &received, b"", 1, TOLERANCE),
                Err(SignatureError::Secret),
                "{text:?}"
            );
            assert_eq!(Signer::new(&secret).unwrap_err().field(), Some("secret"));
        }
        let signer = Signer::new(&Secret::new("hush-hush")).unwrap();
        assert!(!format!("{signer:?}").contains("hush"));
    }

    #[test]
    fn the_two_schemes_use_the_decoded_key_and_the_text() {
        let key = b"24 bytes of a secret key";
        let secret = format!("whsec_{}", STANDARD.encode(key));
        let signer = Signer::new(&Secret::new(secret.as_str())).unwrap();
        let mut text = HmacSha256::new_from_slice(secret.as_bytes()).unwrap();
        text.update(b"body");
        let mut decoded = HmacSha256::new_from_slice(key).unwrap();
        decoded.update(b"id.7.body");
        let hub = hex_bytes(&signer.hub(b"body")[HUB_PREFIX.len()..]).unwrap();
        assert!(text.verify_slice(&hub).is_ok());
        let standard = signer.standard("id", 7, b"body");
        assert!(decoded.verify_slice(&STANDARD.decode(&standard[3..]).unwrap()).is_ok());
    }
}
