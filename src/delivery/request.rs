//! Builds the exact request of an attempt: method, URL, headers in their order, signatures and body. It is a
//! function of the subscription, the event, the attempt's number and its time, and the signatures are made on
//! the bytes that carry the event (I6). The transport adds the headers that belong to the connection.
//! `docs/requests.md` lists all of it.

use std::borrow::Cow;
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Method, Uri};

use super::content::{Composer, Content, compact};
use super::form::form;
use super::query::{encoded_bytes, with_parameters};
use super::tls;
use crate::error::{Error, Result};
use crate::event::{Catalogue, StoredEvent};
use crate::profile::Profile;
use crate::signature::Signer;
use crate::subscription::{BodyFormat, SubscriptionInfo, Target, Tls};
use crate::text::debug_fields;
use crate::transport::{Failure, Request};

/// What all requests of one subscription share, prepared once: a request is made from it without
/// parsing a name or keying a signature again.
#[derive(Clone)]
pub(crate) struct Template {
    method: Method,
    url: Uri,
    tls: Option<Box<Tls>>,
    timeout: Duration,
    headers: Vec<(HeaderName, HeaderValue)>,
    signers: Option<Signers>,
    profile: Profile,
    carrier: Carrier,
    composer: Composer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carrier {
    Json,
    Form,
    /// One parameter of the query: GET and HEAD have no body.
    Query,
}

#[derive(Clone)]
struct Signers {
    newest: Signer,
    /// Older secrets that also sign, each until a moment of wall time.
    retiring: Vec<(Signer, u64)>,
}

/// What of a request differs from event to event, before it is signed.
struct Carried<'a> {
    url: Cow<'a, Uri>,
    content_type: Option<HeaderValue>,
    body: Cow<'a, [u8]>,
    /// What is signed in place of the body.
    parameter: Option<Cow<'a, [u8]>>,
}

/// The largest event that a query carries, in bytes as it is sent: servers refuse longer lines.
const PARAMETER_BYTES_MAX: usize = 8 * 1024;
/// The longest path and query with an event in it: proxies and servers refuse longer lines.
const LINE_BYTES_MAX: usize = 15 * 1024;
const PARAMETER: &str = "payload";

impl Template {
    /// Refuses what no request could carry: a header that HTTP does not allow, a secret that
    /// cannot sign, a client certificate that is not its key's.
    pub(crate) fn new(subscription: &SubscriptionInfo) -> Result<Template> {
        let SubscriptionInfo { target, policy, profile, .. } = subscription;
        target.tls().map_or(Ok(()), tls::check)?;
        let carrier = Carrier::of(target);
        Ok(Template {
            method: target.method().clone(),
            url: url_with_query(target, carrier)?,
            tls: target.tls().cloned().map(Box::new),
            timeout: policy.timeout,
            headers: fixed_headers(target, carrier)?,
            signers: Signers::of(subscription)?,
            profile: *profile,
            carrier,
            composer: Composer::new(subscription),
        })
    }

    /// The request of the attempt `number` (from 1) that starts at `wall_ms`, the event named in the
    /// vocabulary of the subscription's gateway. [`Failure::TooLarge`] where no request may carry it.
    pub(crate) fn request<'a>(
        &'a self,
        event: &'a StoredEvent,
        number: u32,
        wall_ms: u64,
        catalogue: &'a Catalogue,
    ) -> std::result::Result<Request<'a>, Failure> {
        let id = event.id.to_string();
        let name = catalogue.name_in(self.profile, &event.event_type);
        let content = self.composer.content(event, name);
        let name = content.name;
        let carried = self.carry(content, &id)?;
        let mut headers = Vec::with_capacity(self.headers.len() + OWN_HEADERS_MAX);
        headers.extend(carried.content_type.map(|content_type| (CONTENT_TYPE, content_type)));
        headers.extend_from_slice(&self.headers);
        let signed = carried.parameter.as_ref().unwrap_or(&carried.body);
        let timestamp_s = wall_ms / 1_000;
        headers.push((WEBHOOK_ID, visible(&id)));
        headers.push((WEBHOOK_TIMESTAMP, timestamp_s.into()));
        if let Some(signers) = &self.signers {
            let signature = signers.standard(&id, wall_ms, signed);
            headers.push((WEBHOOK_SIGNATURE, visible(&signature)));
        }
        headers.push((X_WEBHOOK_EVENT, visible(name)));
        if let Some(waba_number) = event.number {
            headers.push((X_WEBHOOK_NUMBER, waba_number.digits().into()));
        }
        headers.push((X_WEBHOOK_ATTEMPT, number.into()));
        if let Some(signers) = &self.signers {
            let hub = visible(&signers.newest.hub(signed));
            if self.profile == Profile::Session {
                headers.push((X_WEBHOOK_SIGNATURE, hub.clone()));
            }
            headers.push((X_HUB_SIGNATURE_256, hub));
        }
        Ok(Request {
            method: self.method.clone(),
            url: carried.url.into_owned(),
            headers,
            body: carried.body,
            tls: self.tls.as_deref().map(Cow::Borrowed),
            timeout: self.timeout,
            wall_ms,
        })
    }

    fn carry<'a>(
        &'a self,
        content: Content<'a>,
        id: &str,
    ) -> std::result::Result<Carried<'a>, Failure> {
        let url = Cow::Borrowed(&self.url);
        match self.carrier {
            Carrier::Json => {
                let body = self.composer.json(content);
                Ok(Carried { url, content_type: None, body, parameter: None })
            }
            Carrier::Form => {
                let form = form(&self.composer.members(&content), id);
                let content_type = Some(visible(&form.content_type));
                Ok(Carried { url, content_type, body: Cow::Owned(form.body), parameter: None })
            }
            Carrier::Query => {
                let said = compact(self.composer.json(content));
                if encoded_bytes(&said) > PARAMETER_BYTES_MAX {
                    return Err(Failure::TooLarge);
                }
                let url = with_parameters(&self.url, [(PARAMETER, &*said)]).ok();
                let fits = |url: &Uri| {
                    url.path_and_query().is_some_and(|line| line.as_str().len() <= LINE_BYTES_MAX)
                };
                let url = Cow::Owned(url.filter(fits).ok_or(Failure::TooLarge)?);
                let body = Cow::Borrowed(&[][..]);
                Ok(Carried { url, content_type: None, body, parameter: Some(said) })
            }
        }
    }
}

// Without path, query, headers and secrets (I9).
debug_fields!(Template: method, url.host());

impl Carrier {
    fn of(target: &Target) -> Carrier {
        match (target.method(), target.body_format()) {
            (&Method::GET | &Method::HEAD, _) => Carrier::Query,
            (_, BodyFormat::Json) => Carrier::Json,
            (_, BodyFormat::FormData) => Carrier::Form,
        }
    }
}

impl Signers {
    fn of(subscription: &SubscriptionInfo) -> Result<Option<Signers>> {
        let Some(newest) = &subscription.secret else { return Ok(None) };
        let retiring = subscription.retiring.iter();
        let retiring = retiring.map(|one| Ok((Signer::new(&one.secret)?, one.until_ms)));
        let retiring = retiring.collect::<Result<_>>()?;
        Ok(Some(Signers { newest: Signer::new(newest)?, retiring }))
    }

    /// One signature for each secret that signs at this moment, the newest first.
    fn standard(&self, id: &str, wall_ms: u64, signed: &[u8]) -> String {
        let timestamp_s = wall_ms / 1_000;
        let mut signature = self.newest.standard(id, timestamp_s, signed);
        for (signer, _) in self.retiring.iter().filter(|(_, until_ms)| wall_ms < *until_ms) {
            signature.push(' ');
            signature.push_str(&signer.standard(id, timestamp_s, signed));
        }
        signature
    }
}

/// The target's URL with what it adds to the query. Where the query carries the event, that wins over
/// a parameter of the same name.
fn url_with_query(target: &Target, carrier: Carrier) -> Result<Uri> {
    let kept = |name: &str| carrier != Carrier::Query || name != PARAMETER;
    let added: Vec<_> = target.query().iter().filter(|(name, _)| kept(name)).collect();
    if added.is_empty() {
        return Ok(target.url().clone());
    }
    let added = added.into_iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let expected = "parameters that a URL has room for";
    with_parameters(target.url(), added)
        .map_err(|_| Error::invalid("query", "[redacted]", expected))
}

/// The headers that do not change from one request to the next: the content type of JSON, unless the
/// target sets its own; the target's; its authorization, which wins over one among them. A form tells
/// its own content type, and a request without a body has none but the target's.
fn fixed_headers(target: &Target, carrier: Carrier) -> Result<Vec<(HeaderName, HeaderValue)>> {
    let mut headers = Vec::new();
    if carrier == Carrier::Json {
        headers.push((CONTENT_TYPE, HeaderValue::from_static("application/json")));
    }
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
    if carrier == Carrier::Form {
        headers.retain(|(name, _)| *name != CONTENT_TYPE);
    }
    if let Some(authorization) = target.authorization() {
        headers.retain(|(name, _)| *name != AUTHORIZATION);
        headers.push((AUTHORIZATION, authorization.header_value()?));
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
const X_WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("x-webhook-signature");
/// A form's content type, and those above.
const OWN_HEADERS_MAX: usize = 9;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Catalogue, EventId};
    use crate::secret::Secret;
    use crate::signature::{SignatureHeaders, verify, verify_hub};
    use crate::subscription::{
        Authorization, Filter, Policy, Precedence, RetiringSecret, Subscription, SubscriptionId,
        SubscriptionState,
    };

    const SENT_WALL_MS: u64 = 1_700_000_001_999;

    fn registered(subscription: Subscription) -> SubscriptionInfo {
        SubscriptionInfo {
            id: SubscriptionId(1),
            account: "acme".to_owned(),
            name: "crm".to_owned(),
            filter: Filter::default(),
            target: subscription.target,
            policy: Policy { timeout: Duration::from_millis(4_321), ..Policy::default() },
            secret: subscription.secret,
            retiring: Vec::new(),
            profile: subscription.profile,
            precedence: Precedence::default(),
            state: SubscriptionState::default(),
            disabled_reason: None,
            created_at_ms: 0,
            description: None,
        }
    }

    fn event() -> StoredEvent {
        StoredEvent {
            id: EventId::new(0xabc, 7),
            number: Some("+91 99999 99999".parse().unwrap()),
            accepted_at_ms: 1_700_000_000_123,
            payload: b" {\"text\" : \"\\u00e4\\/\"}\n".to_vec(),
            ..StoredEvent::example()
        }
    }

    fn to() -> Subscription {
        Subscription::to("https://crm.example/hook?a=b").unwrap()
    }

    fn catalogue() -> &'static Catalogue {
        static CATALOGUE: std::sync::LazyLock<Catalogue> =
            std::sync::LazyLock::new(Catalogue::default);
        &CATALOGUE
    }

    /// The request of the first attempt.
    fn request<'a>(template: &'a Template, event: &'a StoredEvent) -> Request<'a> {
        template.request(event, 1, SENT_WALL_MS, catalogue()).unwrap()
    }

    fn template(subscription: Subscription) -> Template {
        Template::new(&registered(subscription)).unwrap()
    }

    /// The signature at this place of the header must be of this secret, over this body.
    fn check_signature(request: &Request<'_>, secret: &str, place: usize, body: &[u8]) {
        let signatures = value(request, "webhook-signature").unwrap();
        let received = SignatureHeaders {
            id: value(request, "webhook-id").unwrap(),
            timestamp: value(request, "webhook-timestamp").unwrap(),
            signature: signatures.split(' ').nth(place).unwrap(),
        };
        let now_s = SENT_WALL_MS / 1_000;
        assert_eq!(verify(&Secret::new(secret), &received, body, now_s, Duration::ZERO), Ok(()));
    }

    fn check_hub(request: &Request<'_>, secret: &str, body: &[u8]) {
        let hub = value(request, "x-hub-signature-256").unwrap();
        assert_eq!(verify_hub(&Secret::new(secret), hub, body), Ok(()));
    }

    fn value<'a>(request: &'a Request<'_>, wanted: &str) -> Option<&'a str> {
        let found = request.headers.iter().find(|(name, _)| name == wanted);
        found.map(|(_, value)| value.to_str().unwrap())
    }

    fn lines(request: &Request<'_>) -> Vec<String> {
        let line = |(name, value): &(HeaderName, HeaderValue)| {
            format!("{name}: {}", value.to_str().unwrap())
        };
        request.headers.iter().map(line).collect()
    }

    #[test]
    fn a_request_carries_the_exact_payload_and_names_the_event() {
        let event = event();
        let template = template(to());
        let request = template.request(&event, 3, SENT_WALL_MS, catalogue()).unwrap();
        assert_eq!(request.method, Method::POST);
        assert_eq!(request.url, "https://crm.example/hook?a=b");
        assert_eq!(*request.body, *event.payload);
        assert_eq!(
            (request.timeout, request.wall_ms),
            (Duration::from_millis(4_321), SENT_WALL_MS)
        );
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
        let template = template(to());
        let lines = lines(&request(&template, &event));
        assert!(lines.iter().all(|line| !line.starts_with("x-webhook-number")), "{lines:?}");
        assert_eq!(lines.len(), 5);
    }

    #[test]
    fn the_hosts_headers_come_with_it_and_may_set_the_content_type() {
        let subscription = to()
            .header("Authorization", "Bearer hidden-token")
            .header("Content-Type", "application/vnd.acme+json");
        let event = event();
        let template = template(subscription);
        let request = request(&template, &event);
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
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let event = event();
        let template = template(to().secret(secret));
        let request = request(&template, &event);
        check_signature(&request, secret, 0, &request.body);
        check_hub(&request, secret, &request.body);
        assert!(!format!("{template:?} {request:?}").contains("MfKQ"));
    }

    #[test]
    fn requests_differ_only_in_attempt_time_and_signature() {
        let event = event();
        let template = template(to().secret("hush"));
        let first = lines(&request(&template, &event));
        assert_eq!(first, lines(&request(&template, &event)));
        let second = template.request(&event, 2, SENT_WALL_MS + 60_000, catalogue()).unwrap();
        let second = lines(&second);
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
            (to().secret("whsk_hidden"), "secret"),
            (to().secret("whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="), "secret"),
        ] {
            let error = Template::new(&registered(subscription)).unwrap_err();
            assert_eq!(error.field(), Some(field));
            assert!(!format!("{error} {error:?}").contains("hidden"));
        }
    }

    fn check_query(payload: &str, url: &str) {
        let event = StoredEvent { payload: payload.into(), ..event() };
        for method in [Method::GET, Method::HEAD] {
            let subscription = to().method(method.clone()).secret("hush").query("payload", "2");
            let template = template(subscription);
            let request = request(&template, &event);
            assert_eq!((&request.method, &*request.body), (&method, &b""[..]));
            assert_eq!(request.url, format!("https://crm.example/hook?a=b&payload={url}").as_str());
            assert_eq!(value(&request, "content-type"), None);
        }
    }

    #[test]
    fn get_and_head_carry_the_event_as_compact_json() {
        check_query(" { \"a b\" : 1.0 }\n", "%7B%22a%20b%22%3A1.0%7D");
        check_query("no json", "no%20json");
        check_query("", "");
    }

    #[test]
    fn get_and_head_sign_the_decoded_parameter() {
        let event = event();
        let subscription = to().method(Method::GET).secret("hush");
        let template = template(subscription);
        let request = request(&template, &event);
        let signed = br#"{"text":"\u00e4\/"}"#;
        check_signature(&request, "hush", 0, signed);
        check_hub(&request, "hush", signed);
    }

    #[test]
    fn an_event_too_large_for_a_query_is_sent_by_other_methods() {
        let text = |letters: usize| StoredEvent {
            payload: format!(" \"{}\"", "a".repeat(letters)).into(),
            ..event()
        };
        let (fits, exceeds) = (text(8_192 - 6), text(8_192 - 5));
        let dense = StoredEvent { payload: "\u{e4}".repeat(1_366).into(), ..event() };
        let long = (0..4).fold(to(), |long, n| long.query(n.to_string(), "&".repeat(1_000)));
        for method in [Method::GET, Method::HEAD] {
            let alone = template(to().method(method.clone()));
            let url = request(&alone, &fits).url.to_string();
            assert!(url.len() > 8_192, "{}", url.len());
            let beside = template(long.clone().method(method));
            for (template, event) in [(&alone, &exceeds), (&alone, &dense), (&beside, &fits)] {
                let refused = template.request(event, 1, SENT_WALL_MS, catalogue());
                assert_eq!(refused.unwrap_err(), Failure::TooLarge);
            }
        }
        let template = template(to());
        assert_eq!(*request(&template, &exceeds).body, *exceeds.payload);
    }

    fn check_body(subscription: Subscription, payload: &[u8], expected: &str) {
        let event = StoredEvent { payload: payload.to_vec(), ..event() };
        let template = template(subscription);
        let request = request(&template, &event);
        assert_eq!(std::str::from_utf8(&request.body).unwrap(), expected);
    }

    #[test]
    fn keys_of_the_event_win_over_those_of_the_target() {
        let added = || to().body("b", "[ 2 ]").body("static", "\"\\u00e4\"").body("payload", "0");
        let merged = r#"{"b":1.0,"a":"x","static":"\u00e4","payload":0}"#;
        check_body(added(), br#" {"b": 1.0, "a" : "x"} "#, merged);
        check_body(added(), b"{}", r#"{"b":[ 2 ],"static":"\u00e4","payload":0}"#);
        let beside = r#"{"payload":[1],"b":[ 2 ],"static":"\u00e4"}"#;
        check_body(added(), b"[1]", beside);
        check_body(added(), b"\xff", r#"{"payload":"/w==","b":[ 2 ],"static":"\u00e4"}"#);
    }

    #[test]
    fn a_form_has_the_boundary_of_its_event() {
        let subscription = to()
            .header("Content-Type", "text/plain")
            .header("x-tenant", "acme")
            .body_format(BodyFormat::FormData);
        let event = event();
        let template = template(subscription);
        let request = request(&template, &event);
        let boundary = "wabahook-evt_0000000000000abc0000000000000007";
        let content_type = format!("content-type: multipart/form-data; boundary={boundary}");
        assert_eq!(lines(&request)[..2], [content_type.as_str(), "x-tenant: acme"]);
        let head = "Content-Disposition: form-data; name=\"text\"";
        let body = format!("--{boundary}\r\n{head}\r\n\r\n\u{e4}/\r\n--{boundary}--\r\n");
        assert_eq!(*request.body, *body.as_bytes());
    }

    #[test]
    fn authorization_wins_over_a_header_and_is_not_shown() {
        let subscription = Subscription::to("https://crm.example/hidden?key=hidden")
            .unwrap()
            .header("Authorization", "Bearer hidden-one")
            .authorization(Authorization::basic("user:hidden"));
        let event = event();
        let template = template(subscription);
        let request = request(&template, &event);
        let lines = lines(&request);
        let found: Vec<_> = lines.iter().filter(|line| line.starts_with("authorization")).collect();
        assert_eq!(found, ["authorization: Basic dXNlcjpoaWRkZW4="]);
        assert!(!format!("{template:?} {request:?}").contains("hidden"));
        assert!(!format!("{template:?} {request:?}").contains("dXNlcjpo"));
    }

    #[test]
    fn the_session_gateways_envelope_says_the_same_at_every_attempt() {
        let session = || to().profile(Profile::Session).secret("hush");
        let from = r#"{"event_type":"message.received","device_id":"919999999999","#;
        let at = r#""timestamp":"2023-11-14T22:13:20.123Z","#;
        let enveloped = format!("{from}{at}\"data\":{{\"text\" : \"\\u00e4\\/\"}}}}");
        check_body(session(), &event().payload, &enveloped);
        let added = session().body("data", "1").body("static", "2");
        check_body(added, b"text", &format!("{from}{at}\"data\":\"text\",\"static\":2}}"));
        let event = StoredEvent { number: None, ..event() };
        let template = template(session());
        let first = request(&template, &event);
        let second = template.request(&event, 2, SENT_WALL_MS + 60_000, catalogue()).unwrap();
        assert_eq!(first.body, second.body);
        assert!(first.body.starts_with(br#"{"event_type":"message.received","device_id":"acme","#));
        assert_eq!(value(&first, "x-webhook-event"), Some("message.received"));
        let hub = value(&first, "x-hub-signature-256").unwrap();
        assert_eq!(value(&first, "x-webhook-signature"), Some(hub));
        check_hub(&first, "hush", &first.body);
    }

    #[test]
    fn other_profiles_send_the_payload_unchanged() {
        let event = event();
        for profile in [Profile::DoubleTick, Profile::BusinessApi, Profile::Dialog360] {
            let subscription = to().profile(profile).secret("hush");
            let template = template(subscription);
            let request = request(&template, &event);
            assert_eq!(*request.body, *event.payload, "{profile:?}");
            assert_eq!(value(&request, "x-webhook-event"), Some("MESSAGE_RECEIVED"));
            assert_eq!(value(&request, "x-webhook-signature"), None);
            assert!(value(&request, "x-hub-signature-256").is_some());
        }
    }

    #[test]
    #[cfg(feature = "tls")]
    fn what_is_said_of_tls_goes_to_the_transport() {
        let root = rcgen::generate_simple_self_signed(["crm.example".to_owned()]).unwrap();
        let tls = Tls::default().roots(root.cert.pem());
        let given = template(to().tls(tls.clone()));
        let event = event();
        assert_eq!(request(&given, &event).tls.as_deref(), Some(&tls));
        let plain = template(to());
        assert_eq!(request(&plain, &event).tls, None);
    }

    fn check_signers(newest: &str, retiring: &[(&str, u64)], expected: &[&str]) {
        let retiring = retiring.iter().map(|(text, until_ms)| RetiringSecret {
            secret: Secret::new(*text),
            until_ms: *until_ms,
        });
        let registered =
            SubscriptionInfo { retiring: retiring.collect(), ..registered(to().secret(newest)) };
        let event = event();
        let template = Template::new(&registered).unwrap();
        let request = request(&template, &event);
        let signature = value(&request, "webhook-signature").unwrap();
        assert_eq!(signature.split(' ').count(), expected.len(), "{signature}");
        for (place, text) in expected.iter().enumerate() {
            check_signature(&request, text, place, &request.body);
        }
        check_hub(&request, newest, &request.body);
    }

    #[test]
    fn retiring_secrets_sign_beside_the_newest_until_their_moment() {
        check_signers("new", &[], &["new"]);
        check_signers("new", &[("old", SENT_WALL_MS + 1)], &["new", "old"]);
        check_signers("new", &[("old", SENT_WALL_MS)], &["new"]);
        let two = [("older", 0), ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", u64::MAX)];
        check_signers("new", &two, &["new", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]);
    }

    #[cfg(feature = "v1a")]
    #[test]
    fn a_private_key_signs_v1a_beside_a_shared_secret() {
        let private = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ\
            6p9lMicMFs6Kvg==";
        let public = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";
        check_signers(private, &[("old", u64::MAX)], &[public, "old"]);
        check_signers("new", &[(private, u64::MAX)], &["new", public]);
    }
}
