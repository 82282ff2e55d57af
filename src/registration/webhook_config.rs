//! Webhooks as the WhatsApp Business API and 360dialog know them: a URL and headers. Both gateways report
//! errors in the same `meta` shape, whose `http_code` equals the HTTP status, except that 360dialog has
//! shapes of its own for 401 and 409. No error message holds a
//! header's value or a path of this machine (I9).

use http::header::WWW_AUTHENTICATE;
use http::{HeaderValue, Method, Response, StatusCode, Uri};
use serde_json::{Map, Value, json};

use super::fields::{Problem, RequestObject, text};
use super::gateway_http::{json_response, with_allow};
use crate::account::AccountInfo;
use crate::engine::Engine;
use crate::error::Error;
use crate::subscription::{Subscription, SubscriptionInfo, Target};

/// The body of a successful response, or the error.
pub(super) type ConfigResult = Result<Value, ConfigError>;

/// The shapes in which a gateway reports errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ErrorShape {
    /// `{"meta"}` for every status.
    Meta,
    /// As 360dialog's own description has it: 401 `{"error"}`, 409 `{"message"}`, `{"meta"}` for the rest.
    Dialog360,
}

/// Why a request is refused.
#[derive(Debug)]
pub(super) struct ConfigError {
    status: StatusCode,
    message: String,
    field: Option<String>,
    /// The methods of the route, where the request used another.
    allowed: &'static [Method],
}

impl ConfigError {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> ConfigError {
        ConfigError { status, message: message.into(), field: None, allowed: &[] }
    }

    /// The request is malformed, or conflicts with the present state.
    pub(super) fn bad_request(message: impl Into<String>) -> ConfigError {
        ConfigError::new(StatusCode::BAD_REQUEST, message)
    }

    pub(super) fn unknown_key(header: &str) -> ConfigError {
        let message = format!("{header}: missing or not the key of an account");
        ConfigError::new(StatusCode::UNAUTHORIZED, message)
    }

    pub(super) fn method(allowed: &'static [Method]) -> ConfigError {
        let error =
            ConfigError::new(StatusCode::METHOD_NOT_ALLOWED, "this route has other methods");
        ConfigError { allowed, ..error }
    }

    /// The gateway has no such path.
    pub(super) fn unknown_route(path: &str) -> ConfigError {
        ConfigError::new(StatusCode::NOT_FOUND, format!("unknown route {path}"))
    }

    pub(super) fn unset() -> ConfigError {
        ConfigError::new(StatusCode::NOT_FOUND, "no webhook is set; set one with POST")
    }

    /// Puts the outer field in front of the field's name, as in `destinations[1].url`.
    pub(super) fn within(mut self, outer: &str) -> ConfigError {
        if let Some(field) = &mut self.field {
            *field = format!("{outer}.{field}");
            self.message = format!("{outer}.{}", self.message);
        }
        self
    }

    fn response(self, shape: ErrorShape) -> Response<Vec<u8>> {
        let body = match (shape, self.status) {
            (ErrorShape::Dialog360, StatusCode::UNAUTHORIZED) => json!({"error": self.message}),
            (ErrorShape::Dialog360, StatusCode::CONFLICT) => json!({"message": self.message}),
            _ => json!({"meta": self.meta()}),
        };
        let mut response = json_response(self.status, &body);
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("ApiKey");
            response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
        }
        match self.allowed {
            [] => response,
            allowed => with_allow(response, allowed),
        }
    }

    fn meta(&self) -> Map<String, Value> {
        let mut meta = Map::new();
        meta.insert("success".to_owned(), false.into());
        meta.insert("http_code".to_owned(), self.status.as_u16().into());
        meta.insert("developer_message".to_owned(), self.message.as_str().into());
        if self.status.is_client_error() {
            let field = self.field.iter().map(String::as_str);
            meta.insert("details".to_owned(), field.collect());
        }
        meta
    }
}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> ConfigError {
        let error = ConfigError::bad_request(problem.to_string());
        ConfigError { field: problem.field, ..error }
    }
}

impl From<Error> for ConfigError {
    fn from(error: Error) -> ConfigError {
        let status = match error {
            // The count is left out, because the limit covers the webhooks of all accounts (I9).
            Error::TooLarge { field, limit, .. } => {
                return Problem::at(&field, format!("over the limit of {limit}")).into();
            }
            Error::Invalid { .. } => StatusCode::BAD_REQUEST,
            Error::Forbidden { .. } => StatusCode::FORBIDDEN,
            Error::NotFound { .. } => StatusCode::NOT_FOUND,
            Error::NameTaken { .. } | Error::LimitReached { .. } => StatusCode::CONFLICT,
            Error::Unknown { .. }
            | Error::Refused { .. }
            | Error::NotOwner
            | Error::Closed
            | Error::Poisoned { .. } => StatusCode::SERVICE_UNAVAILABLE,
            // The error's text may name paths of this machine.
            _ => {
                let message = "the store failed; the previous setting stays in force";
                return ConfigError::new(StatusCode::INTERNAL_SERVER_ERROR, message);
            }
        };
        let field = error.field().map(str::to_owned);
        ConfigError { field, ..ConfigError::new(status, error.to_string()) }
    }
}

/// The response to a request that the server refuses before a gateway sees it.
pub(super) fn error_response(
    status: StatusCode,
    message: &str,
    shape: ErrorShape,
) -> Response<Vec<u8>> {
    ConfigError::new(status, message).response(shape)
}

pub(super) fn response(result: ConfigResult, shape: ErrorShape) -> Response<Vec<u8>> {
    match result {
        Ok(body) => json_response(StatusCode::OK, &body),
        Err(error) => error.response(shape),
    }
}

/// The changes of a request to a webhook. Absent fields stay.
#[derive(Debug)]
pub(super) struct WebhookConfigPatch {
    url: Option<Target>,
    headers: Option<Vec<(String, String)>>,
}

/// Reads and checks the webhooks in a gateway's requests.
#[derive(Clone, Copy)]
pub(super) struct WebhookConfigReader<'a> {
    pub(super) engine: &'a Engine,
    pub(super) account: &'a AccountInfo,
    /// The gateway's own rule for URLs, beyond the engine's; its error says what is expected.
    pub(super) check_url: fn(&Uri) -> Result<(), &'static str>,
}

const URL_EXPECTED: &str = "an absolute URL, such as https://www.example.com/webhook";
const HEADERS_EXPECTED: &str = "an object of texts, such as {\"authorization\": \"Basic ...\"}";

impl WebhookConfigReader<'_> {
    /// Reads `url`, which is required, and `headers`.
    pub(super) fn config(&self, object: &RequestObject<'_>) -> Result<Target, ConfigError> {
        let target = self.url(object)?;
        let mut target = target.ok_or_else(|| object.missing("url", URL_EXPECTED))?;
        target.set_headers(headers(object)?.unwrap_or_default());
        self.check(&target)?;
        Ok(target)
    }

    /// Reads `url` and `headers`, both optional.
    pub(super) fn patch(
        &self,
        object: &RequestObject<'_>,
    ) -> Result<WebhookConfigPatch, ConfigError> {
        Ok(WebhookConfigPatch { url: self.url(object)?, headers: headers(object)? })
    }

    fn url(&self, object: &RequestObject<'_>) -> Result<Option<Target>, ConfigError> {
        let Some(text) = object.text("url", URL_EXPECTED)? else { return Ok(None) };
        let target = Target::new(&text)?;
        self.check(&target)?;
        let problem = |expected| Problem::at("url", format!("expected {expected}"));
        (self.check_url)(target.url()).map_err(problem)?;
        Ok(Some(target))
    }

    /// Checks the target while the place of the webhook in its request is known.
    fn check(&self, target: &Target) -> Result<(), Error> {
        let subscription = Subscription::to_target(target.clone()).account(self.account.id());
        self.engine.check_subscription(subscription)
    }
}

fn headers(object: &RequestObject<'_>) -> Result<Option<Vec<(String, String)>>, Problem> {
    let Some(given) = object.inner("headers", "headers.")? else { return Ok(None) };
    let each = given.pairs().filter(|(_, raw)| raw.get() != "null").map(|(name, raw)| {
        Ok((name.to_owned(), text(&format!("headers.{name}"), raw, HEADERS_EXPECTED)?))
    });
    each.collect::<Result<_, Problem>>().map(Some)
}

/// The subscription with this target: the previous one, which keeps what the gateway's API cannot express, or a
/// new one.
pub(super) fn subscription(
    target: Target,
    before: Option<&SubscriptionInfo>,
    fresh: impl FnOnce(Target) -> Subscription,
) -> Subscription {
    let Some(before) = before else { return fresh(target) };
    let headers = target.headers().to_vec();
    WebhookConfigPatch { url: Some(target), headers: Some(headers) }.subscription(before)
}

impl WebhookConfigPatch {
    /// The subscription after the change.
    pub(super) fn subscription(self, before: &SubscriptionInfo) -> Subscription {
        let mut subscription = Subscription::from(before);
        if let Some(url) = self.url {
            subscription.target.set_url_from(&url);
        }
        if let Some(headers) = self.headers {
            subscription.target.set_headers(headers);
        }
        subscription
    }
}

/// A webhook as it is shown. The headers are shown as given, because both gateways show them to the
/// holder of the key.
pub(super) fn shown(target: &Target) -> Map<String, Value> {
    let headers = target.headers().iter();
    let headers = headers.map(|(name, value)| (name.clone(), Value::from(value.as_str())));
    let mut shown = Map::new();
    shown.insert("url".to_owned(), target.url().to_string().into());
    shown.insert("headers".to_owned(), Value::Object(headers.collect()));
    shown
}
