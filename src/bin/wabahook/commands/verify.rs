//! `wabahook verify`: which signatures of a kept delivery are valid, and the likely reason where one is not.
//! The body is checked as it is in the file. The secret comes from the environment, a file or a prompt, and
//! is shown nowhere (I9).

use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use wabahook::Secret;
use wabahook::clock::{Clock, SystemClock};
use wabahook::signature::{SignatureError, SignatureHeaders, TOLERANCE, verify, verify_hub};

use super::option_file::file_text;
use super::screen::{counted, printable, say, say_json};
use super::webhooks::secret_of;
use crate::command_error::{CommandError, CommandResult};

/// The command line of `verify`.
#[derive(Args)]
pub(crate) struct VerifyArgs {
    /// The body exactly as received; - is stdin
    #[arg(long, value_name = "FILE")]
    body: PathBuf,
    /// A file with the headers, one per line: `name: value`
    #[arg(long, value_name = "FILE")]
    headers: Option<PathBuf>,
    /// One header; may be given several times
    #[arg(long, value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// The environment variable with the secret
    #[arg(
        long,
        value_name = "NAME",
        default_value = "WABAHOOK_SECRET",
        conflicts_with = "secret_file"
    )]
    secret_env: String,
    /// The file with the secret
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// When it was received, in seconds since the Unix epoch [default: now]
    #[arg(long, value_name = "SECONDS")]
    at: Option<u64>,
    /// How far its timestamp may lie from that time, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = TOLERANCE.as_secs())]
    tolerance_s: u64,
    /// Print JSON, errors included
    #[arg(long)]
    pub(crate) json: bool,
}

/// One check and its result.
struct SignatureCheck {
    name: &'static str,
    /// What is wrong, and the likely reason.
    problem: Option<String>,
}

/// What was received, and what to check it with.
struct ReceivedDelivery {
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    secret: String,
    now_s: u64,
    tolerance_s: u64,
}

const STANDARD: &str = "webhook-signature";
const HUB: &str = "x-hub-signature-256";

/// Checks every signature; fails when one is invalid.
pub(crate) fn run(args: &VerifyArgs) -> CommandResult {
    let case = ReceivedDelivery {
        headers: headers(args)?,
        body: body(&args.body)?,
        secret: secret(args)?,
        now_s: args.at.unwrap_or_else(|| SystemClock::new().wall_ms() / 1_000),
        tolerance_s: args.tolerance_s,
    };
    let checks = case.checks()?;
    let failed = checks.iter().filter(|check| check.problem.is_some()).count();
    tell(&checks, args.json);
    match failed {
        0 => Ok(()),
        _ => Err(CommandError::Run(format!("{failed} of {} signatures are invalid", checks.len()))),
    }
}

impl ReceivedDelivery {
    fn checks(&self) -> CommandResult<Vec<SignatureCheck>> {
        let mut checks = Vec::new();
        if let Some(signature) = self.header(STANDARD) {
            checks.push(SignatureCheck { name: STANDARD, problem: self.standard(signature) });
        }
        // Meta's form needs the secret; a public key alone cannot check it.
        if let Some(signature) = self.header(HUB).filter(|_| !self.secret.starts_with("whpk_")) {
            checks.push(SignatureCheck { name: HUB, problem: self.hub(signature) });
        }
        if checks.is_empty() {
            let message = format!(
                "neither {STANDARD} nor {HUB} is in {}: is the webhook registered with a secret, and \
                 were all headers kept?",
                counted(self.headers.len() as u64, "header", "headers")
            );
            return Err(CommandError::Run(message));
        }
        Ok(checks)
    }

    fn standard(&self, signature: &str) -> Option<String> {
        let (id, timestamp) = (self.header("webhook-id"), self.header("webhook-timestamp"));
        let (Some(id), Some(timestamp)) = (id, timestamp) else {
            return Some("webhook-id or webhook-timestamp is missing; both are signed".to_owned());
        };
        let received = SignatureHeaders { id, timestamp, signature };
        let fits = |secret: &Secret, body: &[u8], now_s: u64| {
            verify(secret, &received, body, now_s, Duration::from_secs(self.tolerance_s))
        };
        let refusal = fits(&Secret::new(&self.secret), &self.body, self.now_s).err()?;
        let sent_s = timestamp.parse().unwrap_or(self.now_s);
        Some(match refusal {
            SignatureError::TooOld | SignatureError::TooNew => {
                let (apart_s, tolerance_s) = (self.now_s.abs_diff(sent_s), self.tolerance_s);
                let rest = match fits(&Secret::new(&self.secret), &self.body, sent_s) {
                    Ok(()) => {
                        "the signature itself is valid: for an old delivery, give the time of \
                               its arrival with --at"
                    }
                    Err(_) => "the signature is invalid, too",
                };
                format!("{refusal}: {apart_s} s apart, {tolerance_s} s allowed; {rest}")
            }
            SignatureError::Mismatch => {
                let fits_otherwise =
                    |secret: &Secret, body: &[u8]| fits(secret, body, sent_s).is_ok();
                format!("{refusal}; {}", self.reason(fits_otherwise))
            }
            SignatureError::Malformed => {
                format!("{refusal}: webhook-id may hold no dot, webhook-timestamp is digits")
            }
            other => other.to_string(),
        })
    }

    fn hub(&self, signature: &str) -> Option<String> {
        let refusal = verify_hub(&Secret::new(&self.secret), signature, &self.body).err()?;
        Some(match refusal {
            SignatureError::Mismatch => {
                let fits =
                    |secret: &Secret, body: &[u8]| verify_hub(secret, signature, body).is_ok();
                format!("{refusal}; {}", self.reason(fits))
            }
            SignatureError::Malformed => {
                format!("{refusal}: expected sha256= and 64 hexadecimal digits")
            }
            other => other.to_string(),
        })
    }

    /// The most common mistakes of receivers, tried one after the other.
    fn reason(&self, fits: impl Fn(&Secret, &[u8]) -> bool) -> String {
        let (body, secret) = (self.body.as_slice(), Secret::new(&self.secret));
        if let Some(shorter) = body.strip_suffix(b"\r\n").or_else(|| body.strip_suffix(b"\n"))
            && fits(&secret, shorter)
        {
            return "it is valid without the line break at the end of the file, which was added when \
                    the body was kept"
                .to_owned();
        }
        let text = self.secret.as_str();
        if text.trim() != text && fits(&Secret::new(text.trim()), body) {
            return "it is valid without the spaces around the secret".to_owned();
        }
        let (other, how) = match text.strip_prefix("whsec_") {
            Some(rest) => (rest.to_owned(), "the secret without its whsec_"),
            None => (format!("whsec_{text}"), "whsec_ before the secret"),
        };
        if fits(&Secret::new(other), body) {
            return format!("it is valid with {how}");
        }
        match rewritten(body).filter(|compact| fits(&secret, compact)) {
            Some(_) => "it is valid for the same JSON written compactly: the body was parsed and \
                        written again; keep the bytes as they came"
                .to_owned(),
            None => "the secret is another one, or the body differs from what was sent".to_owned(),
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        let header = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        header.map(|(_, value)| value.as_str())
    }
}

/// The same JSON without its spaces.
fn rewritten(body: &[u8]) -> Option<Vec<u8>> {
    let value: Value = serde_json::from_slice(body).ok()?;
    serde_json::to_vec(&value).ok()
}

fn tell(checks: &[SignatureCheck], json: bool) {
    if json {
        let shape = |check: &SignatureCheck| json!({"check": check.name, "valid": check.problem.is_none(), "problem": check.problem});
        say_json(&json!({ "checks": checks.iter().map(shape).collect::<Vec<_>>() }));
        return;
    }
    for check in checks {
        let result = check.problem.as_deref().unwrap_or("valid");
        say(&format!("{}: {}", check.name, printable(result)));
    }
}

fn body(path: &Path) -> CommandResult<Vec<u8>> {
    let mut body = Vec::new();
    let read = match path == Path::new("-") {
        true => io::stdin().read_to_end(&mut body).map(drop),
        false => std::fs::read(path).map(|bytes| body = bytes),
    };
    read.map_err(|error| CommandError::Usage(format!("--body: {}: {error}", path.display())))?;
    Ok(body)
}

fn headers(args: &VerifyArgs) -> CommandResult<Vec<(String, String)>> {
    let mut lines = args.header.clone();
    if let Some(path) = &args.headers {
        let text = file_text("--headers", path)?;
        lines.extend(text.lines().map(str::to_owned));
    }
    if lines.is_empty() {
        let message = "no headers were given: name a file with --headers, or each with --header";
        return Err(CommandError::Usage(message.to_owned()));
    }
    Ok(lines.iter().filter_map(|line| header(line)).collect())
}

/// `name: value`, also as `curl -v` prints it. A request line and empty lines are skipped.
fn header(line: &str) -> Option<(String, String)> {
    let line = line.trim_start_matches(['<', '>', ' ']);
    let (name, value) = line.split_once(':')?;
    let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    is_name.then(|| (name.to_owned(), value.trim().to_owned()))
}

/// The secret from the file, the environment, or the terminal.
fn secret(args: &VerifyArgs) -> CommandResult<String> {
    if let Some(secret) = secret_of(None, args.secret_file.as_deref())? {
        return Ok(secret);
    }
    if let Ok(text) = std::env::var(&args.secret_env) {
        return Ok(text);
    }
    if io::stdin().is_terminal() && args.body != Path::new("-") {
        eprint!("secret: ");
        let typed = console::Term::stderr().read_secure_line();
        return typed.map_err(|error| CommandError::Usage(format!("secret: {error}")));
    }
    let name = &args.secret_env;
    Err(CommandError::Usage(format!(
        "no secret: set {name}, or name another variable with --secret-env or a file with --secret-file"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use wabahook::signature::Signer;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const SENT_S: u64 = 1_700_000_000;

    fn case(signed: &str, kept: &str, secret: &str, now_s: u64) -> ReceivedDelivery {
        let signer = Signer::new(&Secret::new(SECRET)).unwrap();
        let header = |name: &str, value: String| (name.to_owned(), value);
        ReceivedDelivery {
            headers: vec![
                header("Webhook-Id", "evt_1".to_owned()),
                header("webhook-timestamp", SENT_S.to_string()),
                header(STANDARD, signer.standard("evt_1", SENT_S, signed.as_bytes())),
                header(HUB, signer.hub(signed.as_bytes())),
            ],
            body: kept.as_bytes().to_vec(),
            secret: secret.to_owned(),
            now_s,
            tolerance_s: TOLERANCE.as_secs(),
        }
    }

    fn check(case: &ReceivedDelivery, standard: Option<&str>, hub: Option<&str>) {
        let checks = case.checks().unwrap();
        assert_eq!(checks.len(), 2);
        for (check, says) in checks.iter().zip([standard, hub]) {
            let problem = check.problem.as_deref();
            assert_eq!(problem.is_some(), says.is_some(), "{}: {problem:?}", check.name);
            let (problem, says) = (problem.unwrap_or_default(), says.unwrap_or_default());
            assert!(problem.contains(says), "{}: {problem} does not say {says}", check.name);
            assert!(!problem.contains("MfKQ9r8"), "{problem}");
        }
    }

    #[test]
    fn an_invalid_signature_has_its_likely_reason() {
        let body = "{\"a\":1}";
        check(&case(body, body, SECRET, SENT_S), None, None);
        let late = "1000 s apart, 300 s allowed; the signature itself is valid";
        check(&case(body, body, SECRET, SENT_S + 1_000), Some(late), None);
        let other = Some("another one");
        check(&case(body, "{\"a\":2}", SECRET, SENT_S), other, other);
        check(&case(body, body, "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", SENT_S), other, other);
        let line_break = Some("line break at the end");
        check(&case(body, "{\"a\":1}\n", SECRET, SENT_S), line_break, line_break);
        let compact = Some("written compactly");
        check(&case(body, "{ \"a\": 1 }", SECRET, SENT_S), compact, compact);
        let bare = Some("with whsec_ before");
        check(&case(body, body, "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", SENT_S), bare, bare);
    }

    #[test]
    fn a_public_key_checks_no_hmac() {
        let mut case =
            case("{}", "{}", "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=", SENT_S);
        let checks = case.checks().unwrap();
        assert_eq!(checks.iter().map(|check| check.name).collect::<Vec<_>>(), [STANDARD]);
        assert!(checks[0].problem.is_some(), "it was signed by a secret");
        case.headers.retain(|(name, _)| name == HUB);
        assert!(case.checks().is_err());
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut case = case("{}", "{}", SECRET, SENT_S);
        case.headers.remove(0);
        check(&case, Some("webhook-id or webhook-timestamp is missing"), None);
        case.headers.clear();
        assert!(case.checks().is_err_and(|failure| failure.message().contains("neither")));
    }

    #[test]
    fn headers_are_read_as_curl_prints_them() {
        let read = |line: &str| header(line).map(|(name, value)| format!("{name}={value}"));
        assert_eq!(read("webhook-id: evt_1").as_deref(), Some("webhook-id=evt_1"));
        assert_eq!(read("> Webhook-Id:evt_1\r").as_deref(), Some("Webhook-Id=evt_1"));
        assert_eq!(read("POST /hook HTTP/1.1"), None);
        assert_eq!(read(""), None);
    }
}
