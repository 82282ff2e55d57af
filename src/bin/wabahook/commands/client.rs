//! Decides how commands talk to a running host: where it is, which key they show, and what its
//! answers mean for the exit code.
//!
//! Leaves to others: what is asked. Invariant (I9): the API key comes from the environment, goes to
//! the host named by `--url` and to no other place, and is in no message.

use std::io::Read;
use std::time::Duration;

use axum::http::{Method, Request, StatusCode, Uri, header};
use clap::Args;
use serde_json::Value;
use ureq::{Agent, Body};

use crate::failure::Failure;

/// Which host, and as whom.
#[derive(Args)]
pub(crate) struct Reach {
    /// The running host
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7001", env = "WABAHOOK_URL")]
    url: String,
    /// The environment variable that holds the account's API key
    #[arg(long, value_name = "NAME", default_value = "WABAHOOK_API_KEY")]
    key_env: String,
    /// How long an answer may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout_s: u64,
    /// Print JSON, errors included
    #[arg(long)]
    pub(crate) json: bool,
}

/// A host that may be running.
pub(crate) struct Client {
    agent: Agent,
    url: String,
    /// Not shown by anything: this has no `Debug`.
    key: String,
}

/// The longest answer that is read: 1,000 dead letters or some 10,000 webhooks.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

impl Reach {
    /// Reads the key. Nothing is sent yet.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        let url = self.url.trim_end_matches('/').to_owned();
        let parsed: Result<Uri, _> = url.parse();
        let known =
            |uri: &Uri| uri.host().is_some() && matches!(uri.scheme_str(), Some("http" | "https"));
        if !parsed.is_ok_and(|uri| known(&uri)) {
            let message =
                format!("--url: {url:?} is no URL of a host, such as http://127.0.0.1:7001");
            return Err(Failure::Usage(message));
        }
        let name = &self.key_env;
        let key = std::env::var(name).ok().filter(|key| !key.trim().is_empty()).ok_or_else(|| {
            Failure::Unauthorized(format!(
                "{name} is not set: export {name}=KEY with the account's API key, or name another \
                 variable with --key-env"
            ))
        })?;
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            // A host on loopback is not reached through a proxy.
            .proxy(None)
            .timeout_connect(Some(Duration::from_secs(5)))
            .timeout_recv_response(Some(Duration::from_secs(self.timeout_s)))
            .build()
            .new_agent();
        Ok(Client { agent, url, key: key.trim().to_owned() })
    }
}

impl Client {
    pub(crate) fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, Failure> {
        let mut request = self.agent.get(format!("{}{path}", self.url));
        for (name, value) in query {
            request = request.query(name, value);
        }
        let sent = request.header(header::AUTHORIZATION, self.shown_key()).call();
        self.read(sent)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.send(Method::POST, path, "application/json", body.to_string().into_bytes())
    }

    pub(crate) fn delete(&self, path: &str) -> Result<Value, Failure> {
        self.send(Method::DELETE, path, "application/json", Vec::new())
    }

    /// Sends a body and reads the answer; `null` where there is none.
    pub(crate) fn send(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
    ) -> Result<Value, Failure> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header(header::AUTHORIZATION, self.shown_key())
            .header(header::CONTENT_TYPE, content_type)
            .body(body);
        let request = request.map_err(|_| self.unusable())?;
        self.read(self.agent.run(request))
    }

    /// An answer that goes on until the host stops.
    pub(crate) fn stream(&self, path: &str) -> Result<impl Read + Send + use<>, Failure> {
        let request = self.agent.get(format!("{}{path}", self.url));
        let sent = request.header(header::AUTHORIZATION, self.shown_key()).call();
        let answer = sent.map_err(|error| self.unreachable(&error))?;
        if answer.status() != StatusCode::OK {
            let status = answer.status();
            return Err(refused(status, &text(answer.into_body()).unwrap_or_default()));
        }
        Ok(answer.into_body().into_reader())
    }

    fn read(
        &self,
        sent: Result<axum::http::Response<Body>, ureq::Error>,
    ) -> Result<Value, Failure> {
        let answer = sent.map_err(|error| self.unreachable(&error))?;
        let status = answer.status();
        let text = text(answer.into_body()).map_err(|error| self.unreachable(&error))?;
        if !status.is_success() {
            return Err(refused(status, &text));
        }
        if text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).map_err(|_| {
            let url = &self.url;
            Failure::Run(format!("{url} answers, but not as a wabahook host: see --url"))
        })
    }

    fn shown_key(&self) -> String {
        format!("Bearer {}", self.key)
    }

    fn unusable(&self) -> Failure {
        Failure::Usage(format!("the API key or --url {:?} cannot be sent in a request", self.url))
    }

    /// What the transport says names no header, so no key is in it.
    fn unreachable(&self, error: &ureq::Error) -> Failure {
        let url = &self.url;
        match error {
            ureq::Error::Http(_) | ureq::Error::BadUri(_) => self.unusable(),
            ureq::Error::Timeout(_) => Failure::Unreachable(format!(
                "{url} did not answer in time; what was asked may have been done all the same"
            )),
            _ => Failure::Unreachable(format!(
                "no host answers at {url} ({error}): start one with wabahook serve, or say where it \
                 is with --url"
            )),
        }
    }
}

fn text(body: Body) -> Result<String, ureq::Error> {
    let mut body = body;
    body.with_config().limit(ANSWER_BYTES_MAX).lossy_utf8(true).read_to_string()
}

/// What a refusal of the host means for whoever typed the command.
fn refused(status: StatusCode, text: &str) -> Failure {
    let answer: Value = serde_json::from_str(text).unwrap_or_default();
    let message = answer.pointer("/error/message").and_then(Value::as_str);
    let said = message.map_or_else(|| format!("the host answered {status}"), str::to_owned);
    match status {
        StatusCode::UNAUTHORIZED => Failure::Unauthorized(format!(
            "{said} (the key is taken from the environment: see --key-env)"
        )),
        StatusCode::NOT_FOUND => Failure::NotFound(said),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Failure::Busy(said),
        _ => Failure::Run(said),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_the_code_that_says_what_to_do() {
        let body = r#"{"error":{"code":"x","message":"because"}}"#;
        for (status, code) in [(400, 1), (401, 4), (403, 1), (404, 5), (409, 1), (429, 6), (503, 6)]
        {
            let failure = refused(StatusCode::from_u16(status).unwrap(), body);
            assert_eq!(failure.exit_code(), code, "{status}");
            assert!(failure.message().starts_with("because"));
        }
        let plain = refused(StatusCode::BAD_GATEWAY, "<html>");
        assert_eq!(plain, Failure::Run("the host answered 502 Bad Gateway".to_owned()));
    }
}
