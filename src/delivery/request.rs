//! Decides the exact request of an attempt: its headers, their order, its signatures, its body.
//!
//! Leaves to others: sending it (`transport`) and the headers that belong to the connection.
//! Invariant (I6): a request is a function of the subscription, the event, the attempt's number
//! and its time; the body is the payload byte for byte, and the signatures are made on those bytes.

use std::borrow::Cow;

use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Method, Uri};

use super::tls;
use super::transport::Request;
use crate::error::{Error, Result};
use crate::event::StoredEvent;
use crate::signature::Signer;
use crate::subscription::{Registered, Target, Tls};

/// What all requests of one subscription share, prepared once: a request is made from it without
/// parsing a name or keying a signature again.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    url: Uri,
    timeout_ms: u64,
    headers: Vec<(HeaderName, HeaderValue)>,
    signer: Option<Signer>,
    tls: Option<Box<Tls>>,
}

impl Template {
    /// Refuses what no request could carry: a header that HTTP does not allow, a secret that
    /// cannot sign, a client certificate that is not its key's.
    pub(crate) fn new(subscription: &Registered) -> Result<Template> {
        let Registered { target, policy, secret, .. } = subscription;
        target.tls().map_or(Ok(()), tls::check)?;
        Ok(Template {
            url: target.url().clone(),
            timeout_ms: policy.timeout_ms,
            headers: fixed_headers(target)?,
            signer: secret.as_ref().map(Signer::new).transpose()?,
            tls: target.tls().cloned().map(Box::new),
        })
    }

    /// The request of the attempt `number` (from 1) that starts at `wall_ms`.
    pub(crate) fn request<'a>(
        &'a self,
        event: &'a StoredEvent,
        number: u32,
        wall_ms: u64,
    ) -> Request<'a> {
        let mut headers = Vec::with_capacity(self.headers.len() + OWN_HEADERS_MAX);
        headers.extend_from_slice(&self.headers);
        let id = event.id.to_string();
        let timestamp_s = wall_ms / 1_000;
        headers.push((WEBHOOK_ID, visible(&id)));
        headers.push((WEBHOOK_TIMESTAMP, timestamp_s.into()));
        if let Some(signer) = &self.signer {
            let signature = signer.standard(&id, timestamp_s, &event.payload);
            headers.push((WEBHOOK_SIGNATURE, visible(&signature)));
        }
        headers.push((X_WEBHOOK_EVENT, visible(event.kind.as_str())));
        if let Some(waba_number) = event.number {
            headers.push((X_WEBHOOK_NUMBER, waba_number.digits().into()));
        }
        headers.push((X_WEBHOOK_ATTEMPT, number.into()));
        if let Some(signer) = &self.signer {
            headers.push((X_HUB_SIGNATURE_256, visible(&signer.hub(&event.payload))));
        }
        Request {
            method: Method::POST,
            url: self.url.clone(),
            headers,
            body: Cow::Borrowed(&event.payload),
            tls: self.tls.as_deref(),
            timeout_ms: self.timeout_ms,
            wall_ms,
        }
    }
}

/// The headers that do not change from one request to the next: the content type, unless the
/// target sets its own, and the target's.
fn fixed_headers(target: &Target) -> Result<Vec<(HeaderName, HeaderValue)>> {
    let mut headers = vec![(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    for (name, value) in target.headers() {
        let parsed = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| Error::invalid("headers", name, "a header name of RFC 9110"))?;
        let mut value = HeaderValue::from_str(value).map_err(|_| {
            let expected = "a value of visible ASCII characters, spaces and tabs";
            Error::invalid(format!("headers.{name}"), "[redacted]", expected)
        })?;
        // Whatever prints headers then leaves the value out: it may be a credential (I9).
        value.set_sensitive(true);
        if parsed == CONTENT_TYPE {
            headers.retain(|(known, _)| *known != CONTENT_TYPE);
        }
        headers.push((parsed, value));
    }
    Ok(headers)
}

/// A header value from text that is visible ASCII by construction: an event's id, a signature in
/// base64 or hexadecimal, or an event type, which is checked when it is made.
#[expect(clippy::expect_used, reason = "an event type that exists is visible ASCII")]
fn visible(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("visible ASCII")
}

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const X_WEBHOOK_EVENT: HeaderName = HeaderName::from_static("x-webhook-event");
const X_WEBHOOK_NUMBER: HeaderName = HeaderName::from_static("x-webhook-number");
const X_WEBHOOK_ATTEMPT: HeaderName = HeaderName::from_static("x-webhook-attempt");
const X_HUB_SIGNATURE_256: HeaderName = HeaderName::from_static("x-hub-signature-256");
const OWN_HEADERS_MAX: usize = 7;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Catalogue, EventId};
    use crate::signature::{Received, verify, verify_hub};
    use crate::subscription::{
        Filter, Level, Policy, Profile, Secret, State, Subscription, SubscriptionId,
    };

    const SENT_WALL_MS: u64 = 1_700_000_001_999;

    fn registered(subscription: Subscription) -> Registered {
        Registered {
            id: SubscriptionId(1),
            account: "acme".to_owned(),
            name: "crm".to_owned(),
            filter: Filter::default(),
            target: subscription.target,
            policy: Policy { timeout_ms: 4_321, ..Policy::default() },
            secret: subscription.secret,
            retiring: Vec::new(),
            profile: Profile::default(),
            level: Level::default(),
            state: State::default(),
            created_at_ms: 0,
        }
    }

    fn event() -> StoredEvent {
        StoredEvent {
            id: EventId::new(0xabc, 7),
            account: "acme".to_owned(),
            kind: Catalogue::default().canonical("Message Received").unwrap(),
            number: Some("+91 99999 99999".parse().unwrap()),
            waba: None,
            key_hash: 0,
            accepted_wall_ms: 0,
            payload: b" {\"text\" : \"\\u00e4\\/\"}\n".to_vec(),
        }
    }

    fn to() -> Subscription {
        Subscription::to("https://crm.example/hook?a=b").unwrap()
    }

    fn lines(request: &Request<'_>) -> Vec<String> {
        let line = |(name, value): &(HeaderName, HeaderValue)| {
            format!("{name}: {}", value.to_str().unwrap())
        };
        request.headers.iter().map(line).collect()
    }

    #[test]
    fn a_request_carries_the_payload_byte_for_byte_and_names_the_event() {
        let event = event();
        let template = Template::new(&registered(to())).unwrap();
        let request = template.request(&event, 3, SENT_WALL_MS);
        assert_eq!(request.method, Method::POST);
        assert_eq!(request.url, "https://crm.example/hook?a=b");
        assert_eq!(*request.body, *event.payload);
        assert_eq!((request.timeout_ms, request.wall_ms), (4_321, SENT_WALL_MS));
        assert_eq!(
            lines(&request),
            [
                "content-type: application/json",
                "webhook-id: evt_0000000000000abc0000000000000007",
                "webhook-timestamp: 1700000001",
                "x-webhook-event: MESSAGE_RECEIVED",
                "x-webhook-number: 919999999999",
                "x-webhook-attempt: 3",
            ]
        );
    }

    #[test]
    fn an_event_without_a_number_has_no_number_header() {
        let event = StoredEvent { number: None, ..event() };
        let template = Template::new(&registered(to())).unwrap();
        let lines = lines(&template.request(&event, 1, SENT_WALL_MS));
        assert!(lines.iter().all(|line| !line.starts_with("x-webhook-number")), "{lines:?}");
        assert_eq!(lines.len(), 5);
    }

    #[test]
    fn the_hosts_headers_come_with_it_and_may_set_the_content_type() {
        let subscription = to()
            .header("Authorization", "Bearer hidden-token")
            .header("Content-Type", "application/vnd.acme+json");
        let event = event();
        let template = Template::new(&registered(subscription)).unwrap();
        let request = template.request(&event, 1, SENT_WALL_MS);
        let lines = lines(&request);
        assert_eq!(
            lines[..3],
            [
                "authorization: Bearer hidden-token",
                "content-type: application/vnd.acme+json",
                "webhook-id: evt_0000000000000abc0000000000000007",
            ]
        );
        assert!(!format!("{template:?} {request:?}").contains("hidden"));
    }

    #[test]
    fn both_signatures_fit_the_body_and_the_secret_is_not_shown() {
        let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let event = event();
        let subscription = to().secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let template = Template::new(&registered(subscription)).unwrap();
        let request = template.request(&event, 1, SENT_WALL_MS);
        let value = |wanted: &str| {
            let found = request.headers.iter().find(|(name, _)| name == wanted).unwrap();
            found.1.to_str().unwrap()
        };
        let received = Received {
            id: value("webhook-id"),
            timestamp: value("webhook-timestamp"),
            signature: value("webhook-signature"),
        };
        assert_eq!(verify(&secret, &received, &request.body, 1_700_000_001, 0), Ok(()));
        assert_eq!(verify_hub(&secret, value("x-hub-signature-256"), &request.body), Ok(()));
        assert!(!format!("{template:?} {request:?}").contains("MfKQ"));
    }

    #[test]
    fn the_same_arguments_make_the_same_request_and_another_attempt_only_differs_where_it_must() {
        let event = event();
        let template = Template::new(&registered(to().secret("hush"))).unwrap();
        let first = lines(&template.request(&event, 1, SENT_WALL_MS));
        assert_eq!(first, lines(&template.request(&event, 1, SENT_WALL_MS)));
        let second = lines(&template.request(&event, 2, SENT_WALL_MS + 60_000));
        let changed: Vec<_> = first.iter().zip(&second).filter(|(a, b)| a != b).collect();
        let names: Vec<_> = changed.iter().map(|(a, _)| a.split(':').next().unwrap()).collect();
        assert_eq!(names, ["webhook-timestamp", "webhook-signature", "x-webhook-attempt"]);
    }

    #[test]
    fn what_no_request_could_carry_is_refused_without_being_shown() {
        for (subscription, field) in [
            (to().header("x y", "1"), "headers"),
            (to().header("x-a", "hidden\r\nx-b: 1"), "headers.x-a"),
            (to().secret("whsec_hidden!"), "secret"),
            (to().secret(""), "secret"),
        ] {
            let error = Template::new(&registered(subscription)).unwrap_err();
            assert_eq!(error.field(), Some(field));
            assert!(!format!("{error} {error:?}").contains("hidden"));
        }
    }
}
