//! Decides whether Meta sent a callback, and what answers Meta's question whether we are there.
//!
//! Leaves to others: the HTTP around it. Invariant (I9): secrets are compared in constant time and
//! no refusal shows what was given or what would have been right.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::signature::{Refusal, verify_hub};
use crate::subscription::Secret;

/// Why a request is not taken for Meta's. Nothing of it may be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// The request has no `X-Hub-Signature-256`. Answer 401.
    SignatureMissing,
    /// The header is not `sha256=` and 64 hexadecimal digits. Answer 401.
    SignatureMalformed,
    /// The signature was not made with this secret over these bytes. Answer 401.
    SignatureWrong,
    /// The configured app secret or verify token is empty, with which anyone could sign.
    /// Configure one.
    SecretEmpty,
    /// `hub.mode` is not `subscribe`. Answer 403.
    ModeUnknown,
    /// `hub.verify_token` is missing or is not the one configured. Answer 403.
    TokenWrong,
    /// `hub.challenge` is missing, so there is nothing to answer with. Answer 403.
    ChallengeMissing,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refused::SignatureMissing => "x-hub-signature-256: missing; expected sha256=<hex>",
            Refused::SignatureMalformed => {
                "x-hub-signature-256: not a signature; expected sha256= and 64 hexadecimal digits"
            }
            Refused::SignatureWrong => {
                "x-hub-signature-256: does not match; expected the HMAC-SHA256 of the bytes as \
                 they were sent, made with the app secret"
            }
            Refused::SecretEmpty => {
                "the app secret or verify token is empty; expected the one configured at Meta"
            }
            Refused::ModeUnknown => "hub.mode: missing or unknown; expected subscribe",
            Refused::TokenWrong => {
                "hub.verify_token: missing or wrong; expected the configured verify token"
            }
            Refused::ChallengeMissing => "hub.challenge: missing; expected the text to answer with",
        })
    }
}

impl std::error::Error for Refused {}

/// Checks `X-Hub-Signature-256` against the body's bytes as they came, before anything reads them:
/// Meta's JSON has escapes that do not survive being written again.
///
/// The comparison takes the same time wherever the signatures differ. Hexadecimal digits are read
/// in either case.
///
/// # Errors
/// [`Refused`], by what is wrong with the header, or because `app_secret` is empty.
///
/// ```
/// use wabahook::{Secret, inbound::cloud_api::{Refused, verify}};
/// let app_secret = Secret::new("app-secret");
/// let header = format!("sha256={}", "0".repeat(64));
/// assert_eq!(verify(&app_secret, Some(&header), b"{}"), Err(Refused::SignatureWrong));
/// assert_eq!(verify(&app_secret, None, b"{}"), Err(Refused::SignatureMissing));
/// ```
pub fn verify(app_secret: &Secret, header: Option<&str>, body: &[u8]) -> Result<(), Refused> {
    let header = header.ok_or(Refused::SignatureMissing)?;
    verify_hub(app_secret, header, body).map_err(|refusal| match refusal {
        Refusal::Malformed => Refused::SignatureMalformed,
        Refusal::Secret => Refused::SecretEmpty,
        _ => Refused::SignatureWrong,
    })
}

/// Answers Meta's verification request: the text to send back, as `text/plain` with status 200.
///
/// Takes the pairs of the query string, already percent-decoded; of a name that comes twice the
/// first counts. The request carries no signature: the token alone speaks for it.
///
/// # Errors
/// [`Refused`], by which parameter is at fault, or because `verify_token` is empty.
///
/// ```
/// use wabahook::{Secret, inbound::cloud_api::challenge};
/// let query = [("hub.mode", "subscribe"), ("hub.challenge", "1158201444"), ("hub.verify_token", "t")];
/// assert_eq!(challenge(query, &Secret::new("t"))?, "1158201444");
/// # Ok::<(), wabahook::inbound::cloud_api::Refused>(())
/// ```
pub fn challenge<'a>(
    query: impl IntoIterator<Item = (&'a str, &'a str)>,
    verify_token: &Secret,
) -> Result<String, Refused> {
    let (mut mode, mut token, mut answer) = (None, None, None);
    for (name, value) in query {
        match name {
            "hub.mode" => mode.get_or_insert(value),
            "hub.verify_token" => token.get_or_insert(value),
            "hub.challenge" => answer.get_or_insert(value),
            _ => continue,
        };
    }
    if verify_token.reveal().is_empty() {
        return Err(Refused::SecretEmpty);
    }
    if mode != Some("subscribe") {
        return Err(Refused::ModeUnknown);
    }
    // Digests have one length, so that the comparison does not tell the length of the token.
    let shown = Sha256::digest(token.ok_or(Refused::TokenWrong)?);
    let expected = Sha256::digest(verify_token.reveal());
    if !bool::from(shown.ct_eq(&expected)) {
        return Err(Refused::TokenWrong);
    }
    answer.map(str::to_owned).ok_or(Refused::ChallengeMissing)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = include_bytes!("../../docs/samples/cloud_escaped_raw_bytes.json");
    /// From docs/samples/SOURCES.md, for the key "app-secret".
    const SIGNATURE: &str = "22f082dfc4f2a5322f7a46a6c30ce8ef1c0fecae06c9e11fd6819c63f186aa69";

    fn check_verify(header: Option<&str>, expected: Result<(), Refused>) {
        assert_eq!(verify(&Secret::new("app-secret"), header, BODY), expected, "{header:?}");
    }

    #[test]
    fn a_signature_over_the_raw_bytes_is_accepted_in_either_case_of_its_digits() {
        check_verify(Some(&format!("sha256={SIGNATURE}")), Ok(()));
        check_verify(Some(&format!("sha256={}", SIGNATURE.to_uppercase())), Ok(()));
    }

    #[test]
    fn anything_else_is_refused_by_what_is_wrong_with_it() {
        let flipped = SIGNATURE.replacen("22", "23", 1);
        for (header, refusal) in [
            (format!("sha256={flipped}"), Refused::SignatureWrong),
            (format!("sha256={}", "0".repeat(64)), Refused::SignatureWrong),
            (SIGNATURE.to_owned(), Refused::SignatureMalformed),
            (format!("sha1={SIGNATURE}"), Refused::SignatureMalformed),
            (format!("SHA256={SIGNATURE}"), Refused::SignatureMalformed),
            ("sha256=".to_owned(), Refused::SignatureMalformed),
            (format!("sha256={}", &SIGNATURE[..62]), Refused::SignatureMalformed),
            (format!("sha256={SIGNATURE}00"), Refused::SignatureMalformed),
            (format!("sha256={}+f", &SIGNATURE[..62]), Refused::SignatureMalformed),
            (format!("sha256={}\u{e9}", &SIGNATURE[..62]), Refused::SignatureMalformed),
        ] {
            check_verify(Some(&header), Err(refusal));
        }
        check_verify(None, Err(Refused::SignatureMissing));
    }

    #[test]
    fn another_secret_other_bytes_and_no_secret_are_refused() {
        let header = format!("sha256={SIGNATURE}");
        let with = |secret: &str, body: &[u8]| verify(&Secret::new(secret), Some(&header), body);
        let mut changed = BODY.to_vec();
        *changed.last_mut().unwrap() ^= 1;
        assert_eq!(with("app-secret", &changed), Err(Refused::SignatureWrong));
        assert_eq!(with("app-secret2", BODY), Err(Refused::SignatureWrong));
        assert_eq!(with("", BODY), Err(Refused::SecretEmpty));
        let written_again: serde_json::Value = serde_json::from_slice(BODY).unwrap();
        let written_again = serde_json::to_vec(&written_again).unwrap();
        assert_eq!(with("app-secret", &written_again), Err(Refused::SignatureWrong));
    }

    fn check_challenge(query: &[(&str, &str)], expected: Result<&str, Refused>) {
        let answered = challenge(query.iter().copied(), &Secret::new("hook token"));
        assert_eq!(answered.as_deref(), expected.as_ref().map(|text| &**text), "{query:?}");
    }

    #[test]
    fn the_challenge_is_echoed_to_the_right_token_and_to_no_other() {
        let mode = ("hub.mode", "subscribe");
        let token = ("hub.verify_token", "hook token");
        let asked = ("hub.challenge", "1158201444");
        check_challenge(&[mode, asked, token], Ok("1158201444"));
        check_challenge(&[token, ("other", "x"), mode, asked], Ok("1158201444"));
        for wrong in ["", "hook", "hook token ", "Hook token"] {
            let wrong = ("hub.verify_token", wrong);
            check_challenge(&[mode, asked, wrong], Err(Refused::TokenWrong));
            check_challenge(&[wrong, token, mode, asked], Err(Refused::TokenWrong));
        }
        check_challenge(&[mode, asked], Err(Refused::TokenWrong));
        check_challenge(&[mode, token], Err(Refused::ChallengeMissing));
        check_challenge(&[asked, token], Err(Refused::ModeUnknown));
        check_challenge(&[("hub.mode", "unsubscribe"), asked, token], Err(Refused::ModeUnknown));
        assert_eq!(
            challenge([mode, asked, ("hub.verify_token", "")], &Secret::new("")),
            Err(Refused::SecretEmpty)
        );
    }

    #[test]
    fn a_refusal_names_its_field() {
        for (refusal, field) in [
            (Refused::SignatureMissing, "x-hub-signature-256"),
            (Refused::SignatureMalformed, "x-hub-signature-256"),
            (Refused::SignatureWrong, "x-hub-signature-256"),
            (Refused::SecretEmpty, "app secret"),
            (Refused::ModeUnknown, "hub.mode"),
            (Refused::TokenWrong, "hub.verify_token"),
            (Refused::ChallengeMissing, "hub.challenge"),
        ] {
            assert!(refusal.to_string().contains(field), "{refusal}");
        }
    }
}
