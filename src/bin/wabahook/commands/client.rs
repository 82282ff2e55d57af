//! How commands talk to a running host: its URL, the API key, and what its responses mean for the exit
//! code. The API key comes from the environment, is sent only to the host of `--url`, and is in no
//! message (I9).

use std::ffi::OsString;
use std::io::Read;
use std::time::Duration;

use axum::http::{Method, Request, StatusCode, Uri, header};
use clap::Args;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use ureq::{Agent, Body};

use super::screen::{counted, say, say_json, table};
use crate::command_error::{CommandError, CommandResult};
use crate::json::{CountJson, ErrorJson, JsonPage};
use crate::query::encoded;

/// Which host, and with which key.
#[derive(Args)]
pub(crate) struct HostOptions {
    /// The running host
    #[arg(
        long,
        global = true,
        value_name = "URL",
        default_value = "http://127.0.0.1:7001",
        env = "WABAHOOK_URL"
    )]
    url: String,
    /// The environment variable that holds the API key
    #[arg(long, global = true, value_name = "NAME", default_value = "WABAHOOK_API_KEY")]
    key_env: String,
    /// With the operator's key: only of this account
    #[arg(id = "of_account", long = "account", global = true, value_name = "ID|NAME")]
    account: Option<String>,
    /// How long a response may take, in seconds
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 60)]
    timeout_s: u64,
    /// Print JSON, errors included
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// The options of [`HostOptions`] that have a value, and those that have none.
const WITH_VALUE: [&str; 4] = ["--url", "--key-env", "--account", "--timeout-s"];
const WITHOUT_VALUE: [&str; 1] = ["--json"];

/// A command line whose options of [`HostOptions`] stand at its end, so that they may be given anywhere.
pub(crate) fn host_options_last(line: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let (mut rest, mut options, mut line) = (Vec::new(), Vec::new(), line);
    while let Some(word) = line.next() {
        let text = word.to_str().unwrap_or_default().to_owned();
        let name = text.split('=').next().unwrap_or_default();
        if text == "--" {
            options.extend([word]);
            options.extend(line);
            break;
        }
        let has_value = WITH_VALUE.contains(&name);
        if has_value || WITHOUT_VALUE.contains(&text.as_str()) {
            options.push(word);
            if has_value && text == name {
                options.extend(line.next());
            }
        } else {
            rest.push(word);
        }
    }
    rest.extend(options);
    rest
}

/// A client of a running host.
pub(crate) struct ApiClient {
    agent: Agent,
    url: String,
    /// The account that each request names.
    account: Option<String>,
    /// A secret: this type has no `Debug`.
    key: String,
}

/// The longest page of the host.
const PAGE: usize = 1_000;

/// The longest response that is read: 1,000 dead letters or some 10,000 webhooks.
const RESPONSE_BYTES_MAX: u64 = 64 * 1024 * 1024;

impl HostOptions {
    /// Prints a response: as JSON with `--json`, else the text.
    pub(crate) fn say(
        &self,
        response: &Value,
        text: impl FnOnce() -> CommandResult<String>,
    ) -> CommandResult {
        match self.json {
            true => say_json(response),
            false => say(&text()?),
        };
        Ok(())
    }

    /// Prints a response: as JSON with `--json`, else the text of what it holds.
    pub(crate) fn say_as<T: DeserializeOwned>(
        &self,
        client: &ApiClient,
        response: &Value,
        text: impl FnOnce(&T) -> String,
    ) -> CommandResult {
        self.say(response, || Ok(text(&client.typed(response)?)))
    }

    /// Prints one page of a list: as JSON with `--json`, else as a table, or the text `none` if it has no items.
    pub(crate) fn say_page<T: DeserializeOwned>(
        &self,
        client: &ApiClient,
        response: &Value,
        titles: &[&str],
        row: fn(&T) -> Vec<String>,
        none: &str,
    ) -> CommandResult {
        self.say_as(client, response, |page: &JsonPage<T>| {
            let rows: Vec<_> = page.items.iter().map(row).collect();
            if rows.is_empty() { none.to_owned() } else { table(titles, &rows) }
        })
    }

    /// Prints how many a request changed, as in `replayed: 3 dead letters`.
    pub(crate) fn say_count(
        &self,
        client: &ApiClient,
        response: &Value,
        done: &str,
        (one, many): (&str, &str),
    ) -> CommandResult {
        self.say_as(client, response, |ended: &CountJson| {
            let would_be = if ended.dry_run { "would be " } else { "" };
            format!("{would_be}{done}: {}", counted(ended.count(), one, many))
        })
    }

    /// Reads the key. Nothing is sent yet.
    pub(crate) fn client(&self) -> CommandResult<ApiClient> {
        let url = self.url.trim_end_matches('/').to_owned();
        let parsed: Result<Uri, _> = url.parse();
        let known =
            |uri: &Uri| uri.host().is_some() && matches!(uri.scheme_str(), Some("http" | "https"));
        if !parsed.is_ok_and(|uri| known(&uri)) {
            let message =
                format!("--url: {url:?} is not the URL of a host, such as http://127.0.0.1:7001");
            return Err(CommandError::Usage(message));
        }
        let name = &self.key_env;
        let key = std::env::var(name).ok().filter(|key| !key.trim().is_empty()).ok_or_else(|| {
            CommandError::Unauthorized(format!(
                "{name} is not set: export {name}=KEY with the account's API key, or name another \
                 variable with --key-env"
            ))
        })?;
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            // A proxy does not reach a host on loopback.
            .proxy(None)
            .timeout_connect(Some(Duration::from_secs(5)))
            .timeout_recv_response(Some(Duration::from_secs(self.timeout_s)))
            .build()
            .new_agent();
        let account = self.account.clone();
        Ok(ApiClient { agent, url, account, key: key.trim().to_owned() })
    }
}

impl ApiClient {
    pub(crate) fn get(&self, path: &str, query: &[(&str, &str)]) -> CommandResult<Value> {
        let mut request = self.agent.get(self.address(path));
        for (name, value) in query {
            request = request.query(name, value);
        }
        let sent = request.header(header::AUTHORIZATION, self.authorization()).call();
        self.read(sent)
    }

    pub(crate) fn post(&self, path: &str, body: &impl Serialize) -> CommandResult<Value> {
        self.send_json(Method::POST, path, body)
    }

    /// The question before a request that ends things, with the number that its dry run counts.
    pub(crate) fn count_question(
        &self,
        path: &str,
        dry_run: &impl Serialize,
        action: &str,
        (one, many): (&str, &str),
    ) -> CommandResult<String> {
        let found: CountJson = self.typed(&self.post(path, dry_run)?)?;
        Ok(format!("{action} {}?", counted(found.count(), one, many)))
    }

    fn send_json(&self, method: Method, path: &str, body: &impl Serialize) -> CommandResult<Value> {
        let body = serde_json::to_vec(body).map_err(|e| CommandError::Run(e.to_string()))?;
        self.send(method, path, "application/json", body)
    }

    /// The pages of a list as one, up to so many items.
    pub(crate) fn list(
        &self,
        path: &str,
        query: &[(&str, Option<&str>)],
        count_max: usize,
    ) -> CommandResult<Value> {
        let (mut items, mut cursor) = (Vec::new(), String::new());
        while items.len() < count_max {
            let limit = (count_max - items.len()).min(PAGE).to_string();
            let mut page_query = vec![("limit", limit.as_str()), ("cursor", cursor.as_str())];
            page_query.extend(query.iter().filter_map(|(name, value)| Some((*name, (*value)?))));
            let page: JsonPage<Value> = self.typed(&self.get(path, &page_query)?)?;
            items.extend(page.items);
            match page.cursor {
                Some(next) => cursor = next,
                None => break,
            }
        }
        Ok(json!({ "items": items }))
    }

    pub(crate) fn patch(&self, path: &str, body: &impl Serialize) -> CommandResult<Value> {
        self.send_json(Method::PATCH, path, body)
    }

    pub(crate) fn delete(&self, path: &str) -> CommandResult<Value> {
        self.send(Method::DELETE, path, "application/json", Vec::new())
    }

    /// Sends a body and reads the response; `null` where it is empty.
    pub(crate) fn send(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
    ) -> CommandResult<Value> {
        let request = Request::builder()
            .method(method)
            .uri(self.address(path))
            .header(header::AUTHORIZATION, self.authorization())
            .header(header::CONTENT_TYPE, content_type)
            .body(body);
        let request = request.map_err(|_| self.unusable())?;
        self.read(self.agent.run(request))
    }

    /// A response that goes on until the host stops.
    pub(crate) fn stream(&self, path: &str) -> CommandResult<impl Read + Send + use<>> {
        let request = self.agent.get(self.address(path));
        let sent = request.header(header::AUTHORIZATION, self.authorization()).call();
        let response = sent.map_err(|error| self.unreachable(&error))?;
        if response.status() != StatusCode::OK {
            let status = response.status();
            return Err(refused(status, &text(response.into_body()).unwrap_or_default()));
        }
        Ok(response.into_body().into_reader())
    }

    /// A response in its type.
    pub(crate) fn typed<T: DeserializeOwned>(&self, response: &Value) -> CommandResult<T> {
        T::deserialize(response).map_err(|_| self.other_server())
    }

    fn read(&self, sent: Result<axum::http::Response<Body>, ureq::Error>) -> CommandResult<Value> {
        let response = sent.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let text = text(response.into_body()).map_err(|error| self.unreachable(&error))?;
        if !status.is_success() {
            return Err(refused(status, &text));
        }
        if text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).map_err(|_| self.other_server())
    }

    fn other_server(&self) -> CommandError {
        let url = &self.url;
        CommandError::Run(format!("{url} does not answer like a wabahook host: see --url"))
    }

    /// The URL of a path, with the account that is named.
    fn address(&self, path: &str) -> String {
        let account = self.account.iter().map(|account| format!("?account={}", encoded(account)));
        format!("{}{path}{}", self.url, account.collect::<String>())
    }

    fn authorization(&self) -> String {
        format!("Bearer {}", self.key)
    }

    fn unusable(&self) -> CommandError {
        CommandError::Usage(format!(
            "the API key or --url {:?} cannot be sent in a request",
            self.url
        ))
    }

    /// The transport's messages have no header in them, so no key either.
    fn unreachable(&self, error: &ureq::Error) -> CommandError {
        let url = &self.url;
        match error {
            ureq::Error::Http(_) | ureq::Error::BadUri(_) => self.unusable(),
            ureq::Error::Timeout(_) => CommandError::Unreachable(format!(
                "{url} did not answer in time; the request may have been carried out"
            )),
            _ => CommandError::Unreachable(format!(
                "no host answers at {url} ({error}): start one with wabahook serve, or name it with \
                 --url"
            )),
        }
    }
}

fn text(body: Body) -> Result<String, ureq::Error> {
    let mut body = body;
    body.with_config().limit(RESPONSE_BYTES_MAX).lossy_utf8(true).read_to_string()
}

/// The error for a response that is not a success.
fn refused(status: StatusCode, text: &str) -> CommandError {
    let error = serde_json::from_str::<ErrorJson>(text).map(|body| body.error);
    let is_unknown = error.as_ref().is_ok_and(|error| error.code == "unknown");
    let said = error.map_or_else(|_| format!("the host answered {status}"), |e| e.message);
    // The host may have done what was asked, as one that does not answer.
    if is_unknown {
        return CommandError::Unreachable(said);
    }
    let said = match status {
        StatusCode::UNAUTHORIZED => {
            format!("{said} (the key is taken from the environment: see --key-env)")
        }
        _ => said,
    };
    CommandError::of_status(status.as_u16(), said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_options_may_stand_anywhere() {
        let last = |line: &str| {
            let words = host_options_last(line.split(' ').map(OsString::from));
            words.join(std::ffi::OsStr::new(" ")).into_string().unwrap()
        };
        let moved = "wabahook dead list --limit 3 --url http://a --json";
        assert_eq!(last("wabahook --url http://a dead --json list --limit 3"), moved);
        assert_eq!(last("wabahook --url=http://a find x"), "wabahook find x --url=http://a");
        assert_eq!(last("wabahook --json find -- --url"), "wabahook find --json -- --url");
        assert_eq!(last("wabahook find --url"), "wabahook find --url");
        assert_eq!(last("wabahook --account a find x"), "wabahook find x --account a");
        assert_eq!(encoded("Shop & Co 7"), "Shop%20%26%20Co%207");
    }

    #[test]
    fn each_status_has_its_exit_code() {
        let body = r#"{"error":{"code":"x","message":"because"}}"#;
        for (status, code) in [
            (400, 2),
            (401, 4),
            (403, 4),
            (404, 5),
            (409, 1),
            (413, 2),
            (429, 6),
            (500, 1),
            (502, 3),
            (503, 6),
            (504, 3),
        ] {
            let failure = refused(StatusCode::from_u16(status).unwrap(), body);
            assert_eq!(failure.exit_code(), code, "{status}");
            assert!(failure.message().starts_with("because"));
        }
        let unknown =
            refused(StatusCode::SERVICE_UNAVAILABLE, &body.replace("\"x\"", "\"unknown\""));
        assert_eq!(unknown.exit_code(), 3, "it may have been done");
        let plain = refused(StatusCode::BAD_GATEWAY, "<html>");
        let expected = "the host answered 502 Bad Gateway".to_owned();
        assert_eq!(plain, CommandError::Unreachable(expected));
    }
}
