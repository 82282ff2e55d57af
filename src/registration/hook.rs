//! Decides how a webhook of the WhatsApp API's own kind is read and shown, a URL and headers, and how
//! the two gateways that have such webhooks say no: in the `meta` shape.
//!
//! Leaves to others: which URLs each gateway takes, whose webhook it is and what it is owed. Invariant:
//! `http_code` is the status of the answer, and no message holds a header's value or a path of this
//! machine (I9).

use http::header::WWW_AUTHENTICATE;
use http::{HeaderValue, Method, Response, StatusCode, Uri};
use serde_json::{Map, Value, json};

use super::answer;
use super::fields::{Object, Problem, text};
use crate::account::Account;
use crate::engine::Engine;
use crate::error::Error;
use crate::subscription::{Registered, Subscription, Target};

/// What a gateway answers: a body, or why there is none.
pub(super) type Answer = Result<Value, Refusal>;

/// A request that is not honoured.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    message: String,
    field: Option<String>,
    /// The methods that the route has, where another was used.
    allowed: &'static [Method],
}

impl Refusal {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Refusal {
        Refusal { status, message: message.into(), field: None, allowed: &[] }
    }

    /// The request is malformed, or does not fit how things stand.
    pub(super) fn bad_request(message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, message)
    }

    /// The key is missing, or nobody's.
    pub(super) fn unknown_key(header: &str) -> Refusal {
        let message = format!("{header}: missing or not the key of an account");
        Refusal::new(StatusCode::UNAUTHORIZED, message)
    }

    /// The route has other methods.
    pub(super) fn method(allowed: &'static [Method]) -> Refusal {
        let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "this route has other methods");
        Refusal { allowed, ..refusal }
    }

    /// No webhook has been set.
    pub(super) fn unset() -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, "no webhook is set; set one with POST")
    }

    /// Names the field from the outside in (`destinations[1].url`).
    pub(super) fn within(mut self, outer: &str) -> Refusal {
        if let Some(field) = &mut self.field {
            *field = format!("{outer}.{field}");
            self.message = format!("{outer}.{}", self.message);
        }
        self
    }

    fn response(self) -> Response<Vec<u8>> {
        let code = self.status.as_u16();
        let mut meta = Map::new();
        meta.insert("success".to_owned(), false.into());
        meta.insert("http_code".to_owned(), code.into());
        meta.insert("developer_message".to_owned(), self.message.into());
        if self.status.is_client_error() {
            meta.insert("details".to_owned(), self.field.into_iter().collect());
        }
        let mut response = answer::json(self.status, &json!({"meta": meta}));
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("ApiKey");
            response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
        }
        match self.allowed {
            [] => response,
            allowed => answer::allowing(response, allowed),
        }
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Refusal {
        let refusal = Refusal::bad_request(problem.to_string());
        Refusal { field: problem.field, ..refusal }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        let status = match error {
            // How many there are is left out: the limit is for the webhooks of all accounts.
            Error::TooLarge { field, limit, .. } => {
                return Problem::at(&field, format!("over the limit of {limit}")).into();
            }
            Error::Invalid { .. } => StatusCode::BAD_REQUEST,
            Error::Forbidden { .. } => StatusCode::FORBIDDEN,
            Error::NotFound { .. } => StatusCode::NOT_FOUND,
            Error::NameTaken { .. } => StatusCode::CONFLICT,
            Error::Unknown { .. }
            | Error::Refused { .. }
            | Error::Closed
            | Error::Poisoned { .. } => StatusCode::SERVICE_UNAVAILABLE,
            // Its text may name paths of this machine.
            _ => {
                let message = "the store failed; what was set before is in force";
                return Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, message);
            }
        };
        let refusal = Refusal::new(status, error.to_string());
        Refusal { field: error.field().map(str::to_owned), ..refusal }
    }
}

/// A refusal that is not of the two gateways' own making, in their shape.
pub(super) fn refusal(status: StatusCode, message: &str) -> Response<Vec<u8>> {
    Refusal::new(status, message).response()
}

/// The response that carries an answer.
pub(super) fn response(answer: Answer) -> Response<Vec<u8>> {
    match answer {
        Ok(body) => answer::json(StatusCode::OK, &body),
        Err(refusal) => refusal.response(),
    }
}

/// A webhook as a request gives it.
#[derive(Debug)]
pub(super) struct Hook {
    target: Target,
}

/// What a request changes of a webhook: what it leaves out stays.
#[derive(Debug)]
pub(super) struct Amendment {
    url: Option<Target>,
    headers: Option<Vec<(String, String)>>,
}

/// How a gateway's webhooks are read.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    pub(super) engine: &'a Engine,
    pub(super) account: &'a Account,
    /// What a gateway asks of a URL beyond what the engine does: refused with what is expected.
    pub(super) check_url: fn(&Uri) -> Result<(), &'static str>,
}

const URL_EXPECTED: &str = "an absolute URL, such as https://www.example.com/webhook";
const HEADERS_EXPECTED: &str = "an object of texts, such as {\"authorization\": \"Basic ...\"}";

impl Reader<'_> {
    /// Reads `url`, which must be there, and `headers`.
    pub(super) fn hook(&self, object: &Object<'_>) -> Result<Hook, Refusal> {
        let target = self.url(object)?;
        let mut target = target.ok_or_else(|| object.missing("url", URL_EXPECTED))?;
        target.set_headers(headers(object)?.unwrap_or_default());
        self.check(&target)?;
        Ok(Hook { target })
    }

    /// Reads `url` and `headers`, either of which may be left out.
    pub(super) fn amendment(&self, object: &Object<'_>) -> Result<Amendment, Refusal> {
        Ok(Amendment { url: self.url(object)?, headers: headers(object)? })
    }

    fn url(&self, object: &Object<'_>) -> Result<Option<Target>, Refusal> {
        let Some(text) = object.text("url", URL_EXPECTED)? else { return Ok(None) };
        let target = Target::new(&text)?;
        self.check(&target)?;
        let refused = |expected| Problem::at("url", format!("expected {expected}"));
        (self.check_url)(target.url()).map_err(refused)?;
        Ok(Some(target))
    }

    /// Asks the engine here already, where the place of the webhook in its request is known.
    fn check(&self, target: &Target) -> Result<(), Error> {
        let subscription = Subscription::to_target(target.clone()).account(self.account.name());
        self.engine.check_subscription(subscription)
    }
}

fn headers(object: &Object<'_>) -> Result<Option<Vec<(String, String)>>, Problem> {
    let Some(given) = object.inner("headers", "headers.")? else { return Ok(None) };
    let each = given.pairs().map(|(name, raw)| {
        Ok((name.to_owned(), text(&format!("headers.{name}"), raw, HEADERS_EXPECTED)?))
    });
    each.collect::<Result<_, Problem>>().map(Some)
}

impl Hook {
    /// The subscription that has this webhook: the one before, of which all stays that its gateway
    /// cannot say, or a fresh one.
    pub(super) fn subscription(
        self,
        before: Option<&Registered>,
        fresh: impl FnOnce(Target) -> Subscription,
    ) -> Subscription {
        let Some(before) = before else { return fresh(self.target) };
        let headers = self.target.headers().to_vec();
        Amendment { url: Some(self.target), headers: Some(headers) }.subscription(before)
    }
}

impl Amendment {
    /// The subscription as it is after this.
    pub(super) fn subscription(self, before: &Registered) -> Subscription {
        let mut subscription = Subscription::from(before);
        if let Some(url) = self.url {
            subscription.target.take_url_of(&url);
        }
        if let Some(headers) = self.headers {
            subscription.target.set_headers(headers);
        }
        subscription
    }
}

/// A webhook as it is shown: with its headers as they were given, because both gateways show them to
/// whoever holds the key.
pub(super) fn shown(target: &Target) -> Map<String, Value> {
    let headers = target.headers().iter();
    let headers = headers.map(|(name, value)| (name.clone(), Value::from(value.as_str())));
    let mut shown = Map::new();
    shown.insert("url".to_owned(), target.url().to_string().into());
    shown.insert("headers".to_owned(), Value::Object(headers.collect()));
    shown
}
