//! Verifies that Meta sent a callback, and answers Meta's verification request. Secrets are compared in
//! constant time, and no error shows what was given or what was expected (I9).

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::secret::Secret;
use crate::signature::{SignatureError, verify_hub};

/// Why a request is not from Meta. Nothing of it may be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum VerificationError {
    /// The request has no `X-Hub-Signature-256`. Answer 401.
    SignatureMissing,
    /// The header is not `sha256=` and 64 hexadecimal digits. Answer 401.
    SignatureMalformed,
    /// The signature was not made with this secret over these bytes. Answer 401.
    SignatureWrong,
    /// The configured app secret or verify token is empty, so anyone could sign. Configure one.
    SecretEmpty,
    /// The configured app secret or verify token begins or ends with a space or a line end, which is not
    /// part of it at Meta. Files and environment variables often add one.
    SecretPadded,
    /// `hub.mode` is not `subscribe`. Answer 403.
    ModeUnknown,
    /// `hub.verify_token` is missing or is not the one configured. Answer 403.
    TokenWrong,
    /// `hub.challenge` is missing, so there is nothing to echo. Answer 403.
    ChallengeMissing,
}

impl fmt::Display for VerificationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            VerificationError::SignatureMissing => "x-hub-signature-256: missing; expected sha256=<hex>",
            VerificationError::SignatureMalformed => {
                "x-hub-signature-256: not a signature; expected sha256= and 64 hexadecimal digits"
            }
            VerificationError::SignatureWrong => {
                "x-hub-signature-256: does not match; expected the HMAC-SHA256 of the bytes as \
                 they were sent, made with the app secret"
            }
            VerificationError::SecretEmpty => {
                "the app secret or verify token is empty; expected the one configured at Meta"
            }
            VerificationError::SecretPadded => {
                "the app secret or verify token begins or ends with a space or a line end; expected \
                 the text alone"
            }
            VerificationError::ModeUnknown => "hub.mode: missing or unknown; expected subscribe",
            VerificationError::TokenWrong => {
                "hub.verify_token: missing or wrong; expected the configured verify token"
            }
            VerificationError::ChallengeMissing => "hub.challenge: missing; expected the text to answer with",
        })
    }
}

impl std::error::Error for VerificationError {}

/// Checks an app secret or a verify token as it is configured.
///
/// # Errors
/// [`VerificationError::SecretEmpty`] and [`VerificationError::SecretPadded`].
pub fn check_secret(secret: &Secret) -> Result<(), VerificationError> {
    let secret = secret.reveal();
    if secret.is_empty() {
        return Err(VerificationError::SecretEmpty);
    }
    match secret.trim_ascii().len() == secret.len() {
        true => Ok(()),
        false => Err(VerificationError::SecretPadded),
    }
}

/// Checks `X-Hub-Signature-256` against the raw bytes of the body, with one of these app secrets: several
/// while a secret is rotated, or for several apps of Meta. Check before parsing: Meta's JSON has escapes
/// that serializing again does not reproduce.
///
/// The comparison takes constant time, whichever secret matches. Hexadecimal digits are accepted in either
/// case.
///
/// # Errors
/// [`VerificationError`] when the header is missing, malformed or wrong, or a secret is unusable.
///
/// ```
/// use wabahook::{Secret, inbound::cloud_api::{VerificationError, verify}};
/// let app_secret = Secret::new("app-secret");
/// let header = format!("sha256={}", "0".repeat(64));
/// let wrong = VerificationError::SignatureWrong;
/// assert_eq!(verify([&app_secret], Some(&header), b"{}"), Err(wrong));
/// let missing = VerificationError::SignatureMissing;
/// assert_eq!(verify([&app_secret], None, b"{}"), Err(missing));
/// ```
pub fn verify<'s>(
    app_secrets: impl IntoIterator<Item = &'s Secret>,
    header: Option<&str>,
    body: &[u8],
) -> Result<(), VerificationError> {
    let header = header.ok_or(VerificationError::SignatureMissing)?;
    let mut verified = Err(VerificationError::SecretEmpty);
    for app_secret in app_secrets {
        check_secret(app_secret)?;
        let one = verify_hub(app_secret, header, body).map_err(|refusal| match refusal {
            SignatureError::Malformed => VerificationError::SignatureMalformed,
            SignatureError::Secret => VerificationError::SecretEmpty,
            _ => VerificationError::SignatureWrong,
        });
        if verified.is_err() {
            verified = one;
        }
    }
    verified
}

/// Answers Meta's verification request with the text to send back, as `text/plain` with status 200.
///
/// Takes the percent-decoded pairs of the query string; the first of a repeated name counts. The request
/// carries no signature: only the token proves its sender.
///
/// # Errors
/// [`VerificationError`] names the parameter at fault, or an empty `verify_token`.
///
/// ```
/// use wabahook::{Secret, inbound::cloud_api::challenge};
/// let query = [("hub.mode", "subscribe"), ("hub.challenge", "1158201444"), ("hub.verify_token", "t")];
/// assert_eq!(challenge(query, &Secret::new("t"))?, "1158201444");
/// # Ok::<(), wabahook::inbound::cloud_api::VerificationError>(())
/// ```
pub fn challenge<'a>(
    query: impl IntoIterator<Item = (&'a str, &'a str)>,
    verify_token: &Secret,
) -> Result<String, VerificationError> {
    let (mut mode, mut token, mut answer) = (None, None, None);
    for (name, value) in query {
        match name {
            "hub.mode" => mode.get_or_insert(value),
            "hub.verify_token" => token.get_or_insert(value),
            "hub.challenge" => answer.get_or_insert(value),
            _ => continue,
        };
    }
    check_secret(verify_token)?;
    if mode != Some("subscribe") {
        return Err(VerificationError::ModeUnknown);
    }
    // Digests have one length, so that the comparison does not tell the length of the token.
    let shown = Sha256::digest(token.ok_or(VerificationError::TokenWrong)?);
    let expected = Sha256::digest(verify_token.reveal());
    if !bool::from(shown.ct_eq(&expected)) {
        return Err(VerificationError::TokenWrong);
    }
    answer.map(str::to_owned).ok_or(VerificationError::ChallengeMissing)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = include_bytes!("../../docs/samples/cloud_escaped_raw_bytes.json");
    /// From docs/samples/SOURCES.md, for the key "app-secret".
    const SIGNATURE: &str = "22f082dfc4f2a5322f7a46a6c30ce8ef1c0fecae06c9e11fd6819c63f186aa69";

    fn check_verify(header: Option<&str>, expected: Result<(), VerificationError>) {
        assert_eq!(verify([&Secret::new("app-secret")], header, BODY), expected, "{header:?}");
    }

    #[test]
    fn a_signature_over_the_raw_bytes_is_accepted() {
        check_verify(Some(&format!("sha256={SIGNATURE}")), Ok(()));
        check_verify(Some(&format!("sha256={}", SIGNATURE.to_uppercase())), Ok(()));
    }

    #[test]
    fn other_signatures_are_refused_by_their_fault() {
        let flipped = SIGNATURE.replacen("22", "23", 1);
        for (header, refusal) in [
            (format!("sha256={flipped}"), VerificationError::SignatureWrong),
            (format!("sha256={}", "0".repeat(64)), VerificationError::SignatureWrong),
            (SIGNATURE.to_owned(), VerificationError::SignatureMalformed),
            (format!("sha1={SIGNATURE}"), VerificationError::SignatureMalformed),
            (format!("SHA256={SIGNATURE}"), VerificationError::SignatureMalformed),
            ("sha256=".to_owned(), VerificationError::SignatureMalformed),
            (format!("sha256={}", &SIGNATURE[..62]), VerificationError::SignatureMalformed),
            (format!("sha256={SIGNATURE}00"), VerificationError::SignatureMalformed),
            (format!("sha256={}+f", &SIGNATURE[..62]), VerificationError::SignatureMalformed),
            (format!("sha256={}\u{e9}", &SIGNATURE[..62]), VerificationError::SignatureMalformed),
        ] {
            check_verify(Some(&header), Err(refusal));
        }
        check_verify(None, Err(VerificationError::SignatureMissing));
    }

    #[test]
    fn other_secrets_and_bytes_are_refused() {
        let header = format!("sha256={SIGNATURE}");
        let with = |secret: &str, body: &[u8]| verify([&Secret::new(secret)], Some(&header), body);
        let mut changed = BODY.to_vec();
        *changed.last_mut().unwrap() ^= 1;
        assert_eq!(with("app-secret", &changed), Err(VerificationError::SignatureWrong));
        assert_eq!(with("app-secret2", BODY), Err(VerificationError::SignatureWrong));
        assert_eq!(with("", BODY), Err(VerificationError::SecretEmpty));
        let written_again: serde_json::Value = serde_json::from_slice(BODY).unwrap();
        let written_again = serde_json::to_vec(&written_again).unwrap();
        assert_eq!(with("app-secret", &written_again), Err(VerificationError::SignatureWrong));
    }

    #[test]
    fn any_of_several_secrets_verifies() {
        let header = format!("sha256={SIGNATURE}");
        let [own, old, app] = ["app-secret", "old", "other-app"].map(Secret::new);
        let with = |secrets: &[&Secret]| verify(secrets.iter().copied(), Some(&header), BODY);
        assert_eq!(with(&[&old, &own]), Ok(()));
        assert_eq!(with(&[&own, &app, &old]), Ok(()));
        assert_eq!(with(&[&old, &app]), Err(VerificationError::SignatureWrong));
        assert_eq!(with(&[]), Err(VerificationError::SecretEmpty));
        // One unusable secret is a mistake of the configuration, whatever the others are.
        assert_eq!(with(&[&own, &Secret::new("")]), Err(VerificationError::SecretEmpty));
    }

    #[test]
    fn stray_line_ends_and_spaces_around_secrets_are_refused() {
        let header = format!("sha256={SIGNATURE}");
        for padded in ["app-secret\n", "app-secret\r\n", " app-secret", "app-secret "] {
            let secret = Secret::new(padded);
            let padded = Err(VerificationError::SecretPadded);
            assert_eq!(check_secret(&secret), padded);
            assert_eq!(verify([&secret], Some(&header), BODY), padded);
            let query = [("hub.mode", "subscribe"), ("hub.verify_token", "app-secret")];
            assert_eq!(challenge(query, &secret).map(drop), padded);
        }
        assert_eq!(check_secret(&Secret::new("app secret")), Ok(()));
    }

    fn check_challenge(query: &[(&str, &str)], expected: Result<&str, VerificationError>) {
        let answered = challenge(query.iter().copied(), &Secret::new("hook token"));
        assert_eq!(answered.as_deref(), expected.as_ref().map(|text| &**text), "{query:?}");
    }

    #[test]
    fn the_challenge_is_echoed_for_the_right_token_alone() {
        let mode = ("hub.mode", "subscribe");
        let token = ("hub.verify_token", "hook token");
        let asked = ("hub.challenge", "1158201444");
        check_challenge(&[mode, asked, token], Ok("1158201444"));
        check_challenge(&[token, ("other", "x"), mode, asked], Ok("1158201444"));
        for wrong in ["", "hook", "hook token ", "Hook token"] {
            let wrong = ("hub.verify_token", wrong);
            check_challenge(&[mode, asked, wrong], Err(VerificationError::TokenWrong));
            check_challenge(&[wrong, token, mode, asked], Err(VerificationError::TokenWrong));
        }
        check_challenge(&[mode, asked], Err(VerificationError::TokenWrong));
        check_challenge(&[mode, token], Err(VerificationError::ChallengeMissing));
        check_challenge(&[asked, token], Err(VerificationError::ModeUnknown));
        check_challenge(
            &[("hub.mode", "unsubscribe"), asked, token],
            Err(VerificationError::ModeUnknown),
        );
        assert_eq!(
            challenge([mode, asked, ("hub.verify_token", "")], &Secret::new("")),
            Err(VerificationError::SecretEmpty)
        );
    }

    #[test]
    fn an_error_names_its_field() {
        for (refusal, field) in [
            (VerificationError::SignatureMissing, "x-hub-signature-256"),
            (VerificationError::SignatureMalformed, "x-hub-signature-256"),
            (VerificationError::SignatureWrong, "x-hub-signature-256"),
            (VerificationError::SecretEmpty, "app secret"),
            (VerificationError::SecretPadded, "app secret"),
            (VerificationError::ModeUnknown, "hub.mode"),
            (VerificationError::TokenWrong, "hub.verify_token"),
            (VerificationError::ChallengeMissing, "hub.challenge"),
        ] {
            assert!(refusal.to_string().contains(field), "{refusal}");
        }
    }
}
