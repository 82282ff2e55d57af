//! Requests and responses of DoubleTick's clients: the documented examples, the rules, and bad input.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, Request};
use serde_json::{Value, json};

use crate::config::Config;
use crate::engine::{DeliveryFilter, DeliveryState};
use crate::error::Error;
use crate::event::{Catalogue, Event};
use crate::notice::Notice;
use crate::outcome::Reason;
use crate::profile::Profile;
use crate::registration::test_support::{DEADLINE, GatewayResponse, TestGateway};
use crate::secret::Secret;
use crate::subscription::{
    Authorization, BodyFormat, Policy, Subscription, SubscriptionId, SubscriptionInfo,
    SubscriptionState,
};
use crate::transport::Transport;
use crate::transport::{Failure, Reply};

const ACME: &str = "acme-key";
const BETA: &str = "beta-key";
const REGISTER: &str = "/v2/webhook/register";

/// A gateway with two bystanders: a webhook of another account, and a subscription of acme's that the host
/// made.
struct Guarded {
    gateway: TestGateway,
    bystanders: Vec<Arc<SubscriptionInfo>>,
}

impl Guarded {
    fn new() -> Guarded {
        Guarded::on(TestGateway::new())
    }

    fn on(gateway: TestGateway) -> Guarded {
        let beta = body(json!({"name": "beta's", "wabaNumbers": ["917777777777"]}));
        let request = request("POST", REGISTER, Some(BETA), &beta.to_string());
        assert_eq!(gateway.respond(&request).status, 201);
        let own = Subscription::to("https://own.example/").unwrap().name("own").account("acme");
        gateway.engine.subscribe(own.events(["REMOVE_TAG"])).unwrap();
        let bystanders = gateway.engine.subscriptions();
        Guarded { gateway, bystanders }
    }

    /// Makes a call, and asserts that it left the bystanders alone.
    fn call(&self, method: &str, path: &str, key: Option<&str>, text: &str) -> GatewayResponse {
        let answered = self.gateway.respond(&request(method, path, key, text));
        for bystander in &self.bystanders {
            let after = self.gateway.engine.subscription(bystander.id).unwrap();
            assert!(Arc::ptr_eq(bystander, &after), "{method} {path} changed {after:?}");
        }
        answered
    }

    fn acme(&self, method: &str, path: &str, body: &Value) -> GatewayResponse {
        self.call(method, path, Some(ACME), &body.to_string())
    }

    fn register(&self, body: &Value) -> GatewayResponse {
        self.acme("POST", REGISTER, body)
    }

    /// Acme's webhooks, without the bystander.
    fn webhooks(&self) -> Vec<Arc<SubscriptionInfo>> {
        let all = self.gateway.engine.subscriptions_of("acme");
        all.into_iter().filter(|one| one.name != "own").collect()
    }

    /// Registers a webhook and returns it.
    fn registered(&self, more: Value) -> Arc<SubscriptionInfo> {
        let body = body(more);
        let answered = self.register(&body);
        assert_eq!(answered.status, 201, "{answered:?}");
        self.webhooks().into_iter().find(|one| body["name"] == one.name).unwrap()
    }
}

fn request(method: &str, path: &str, key: Option<&str>, text: &str) -> Request<Vec<u8>> {
    let request = Request::builder().method(method).uri(path);
    let request = key.into_iter().fold(request, |one, key| one.header("authorization", key));
    request.body(text.as_bytes().to_vec()).unwrap()
}

/// The smallest body with these fields replaced or added; `null` removes a field.
fn body(more: Value) -> Value {
    let mut body = json!({
        "method": "POST", "url": "https://crm.example/hook", "name": "crm",
        "webhookEvents": ["ADD_TAG"], "wabaNumbers": ["+919999999999"],
    });
    for (name, value) in more.as_object().unwrap() {
        match value {
            Value::Null => drop(body.as_object_mut().unwrap().remove(name)),
            value => body[name] = value.clone(),
        }
    }
    body
}

/// The documented example, verbatim.
const EXAMPLE: &str = r#"{
  "method": "GET",
  "headers": { "newKeyHeader": "New Value Header" },
  "body": { "newKeyBody": "New Value Body" },
  "query": { "newKeyQuery": "New Value Query" },
  "authorization": {
      "type": "BASIC",
      "payload": "some-secure-token"
  },
  "url": "https://your-callback-url.com",
  "bodyFormat": "JSON",
  "webhookEvents": ["ADD_TAG"],
  "retryOnTimeout": true,
  "name": "Test Webhook",
  "wabaNumbers": ["waba_number1", "waba_number2", "waba_number3"]
}"#;

fn assert_refused(answered: &GatewayResponse, status: u16, error: &str, says: &[&str]) {
    assert_eq!(answered.status, status, "{answered:?}");
    let message = answered.body["message"].as_str().unwrap();
    let shape = json!({"message": message, "error": error, "statusCode": status});
    assert_eq!(answered.body, shape, "the documented shape and nothing else");
    for part in says {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
    assert!(!message.contains("hidden"), "{message:?} repeats a value");
}

fn rows(numbers: &[&str], events: &[&str]) -> Value {
    let row = |number, event| json!({"wabaNumber": number, "webhookEventType": event});
    let of = |number| events.iter().map(move |event| row(number, event));
    numbers.iter().flat_map(of).collect()
}

#[test]
fn the_documented_example_is_registered_field_by_field() {
    let guarded = Guarded::new();
    let answered = guarded.register(&serde_json::from_str(EXAMPLE).unwrap());
    let none = json!({
        "validWebhooks": [], "invalidWebhooks": [],
        "invalidWabaNumbers": ["waba_number1", "waba_number2", "waba_number3"],
    });
    assert_eq!((answered.status, answered.body), (201, none), "placeholders are nobody's numbers");
    assert!(guarded.webhooks().is_empty(), "nothing valid stores nothing");

    let example = EXAMPLE.replace("waba_number1", "+919999999999");
    let answered = guarded.call("POST", REGISTER, Some(ACME), &example);
    let expected = json!({
        "validWebhooks": [{"wabaNumber": "+919999999999", "webhookEventType": "ADD_TAG"}],
        "invalidWebhooks": [],
        "invalidWabaNumbers": ["waba_number2", "waba_number3"],
    });
    assert_eq!((answered.status, answered.body), (201, expected));
    let webhook = guarded.webhooks().pop().unwrap();
    let target = &webhook.target;
    let pair = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    assert_eq!(
        (target.method(), target.url().host()),
        (&Method::GET, Some("your-callback-url.com"))
    );
    assert_eq!(target.headers(), pair("newKeyHeader", "New Value Header"));
    assert_eq!(target.body(), pair("newKeyBody", "\"New Value Body\""));
    assert_eq!(target.query(), pair("newKeyQuery", "New Value Query"));
    assert_eq!(target.authorization(), Some(&Authorization::basic("some-secure-token")));
    assert_eq!(target.body_format(), BodyFormat::Json);
    assert_eq!(webhook.policy, Policy { retry_on_timeout: true, ..Policy::default() });
    assert_eq!((webhook.name.as_str(), webhook.profile), ("Test Webhook", Profile::DoubleTick));
    assert_eq!(webhook.secret, None);
    assert_eq!(shown(&webhook), (vec!["ADD_TAG".into()], vec!["919999999999".into()]));
    assert!(!format!("{webhook:?}").contains("some-secure-token"));
}

/// The filter of a webhook, as texts.
fn shown(webhook: &SubscriptionInfo) -> (Vec<String>, Vec<String>) {
    let (events, numbers) = (webhook.filter.events.iter(), webhook.filter.numbers.iter());
    let events = events.flatten().map(ToString::to_string).collect();
    (events, numbers.flatten().map(ToString::to_string).collect())
}

#[test]
fn optional_fields_have_documented_defaults() {
    let guarded = Guarded::new();
    let webhook = guarded.registered(json!({}));
    let target = &webhook.target;
    assert!(target.headers().is_empty() && target.query().is_empty() && target.body().is_empty());
    assert_eq!((target.authorization(), target.body_format()), (None, BodyFormat::Json));
    assert!(!webhook.policy.retry_on_timeout);
    for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD"] {
        let webhook = guarded.registered(json!({"method": method, "name": method}));
        assert_eq!(webhook.target.method().as_str(), method);
    }
    let webhook = guarded.registered(json!({
        "name": "other choices", "bodyFormat": "FORM_DATA", "retryOnTimeout": false,
        "authorization": {"type": "BEARER", "payload": "hidden-token"},
        "headers": {"authorization": "Bearer lower", "x-n": 7, "x-yes": true, "x-none": null},
        "query": {"a": "b c", "n": 1.50, "no": false, "none": null},
        "body": {"text": "x", "deep": {"a": [1, null]}, "none": null},
    }));
    let target = &webhook.target;
    assert_eq!(target.body_format(), BodyFormat::FormData);
    assert_eq!(target.authorization(), Some(&Authorization::bearer("hidden-token")));
    let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    };
    let sorted = |given: &[(String, String)]| -> BTreeSet<(String, String)> {
        given.iter().cloned().collect()
    };
    let set = |given: &[(&str, &str)]| sorted(&pairs(given));
    let headers = [("authorization", "Bearer lower"), ("x-n", "7"), ("x-yes", "true")];
    assert_eq!(sorted(target.headers()), set(&headers));
    assert_eq!(sorted(target.query()), set(&[("a", "b c"), ("n", "1.5"), ("no", "false")]));
    let body = [("text", "\"x\""), ("deep", "{\"a\":[1,null]}"), ("none", "null")];
    assert_eq!(sorted(target.body()), set(&body));
    let nothing = json!({"name": "no authorization", "authorization": {}, "headers": {}});
    assert_eq!(guarded.registered(nothing).target.authorization(), None);
}

#[test]
fn valid_pairs_are_registered_and_the_rest_reported() {
    let cases = [
        // Two numbers and two events are four rows and one webhook.
        (
            json!(["+919999999999", "918888888888"]),
            json!(["ADD_TAG", "MESSAGE_RECEIVED"]),
            rows(&["+919999999999", "918888888888"], &["ADD_TAG", "MESSAGE_RECEIVED"]),
            rows(&[], &[]),
            json!([]),
        ),
        // An unknown event is left out at each number.
        (
            json!(["+919999999999", "+918888888888"]),
            json!(["INVALID_EVENT", "ADD_TAG", "message_received"]),
            rows(&["+919999999999", "+918888888888"], &["ADD_TAG"]),
            rows(&["+919999999999", "+918888888888"], &["INVALID_EVENT", "message_received"]),
            json!([]),
        ),
        // Another account's number and a text that is not a number get the same response.
        (
            json!(["917777777777", "+91 99999-99999", "911111111111", "", "12"]),
            json!(["ADD_TAG"]),
            rows(&["+91 99999-99999"], &["ADD_TAG"]),
            rows(&[], &[]),
            json!(["917777777777", "911111111111", "", "12"]),
        ),
        // Different spellings are reported once, as first written, in numbers and in events.
        (
            json!(["919999999999", "+919999999999", "x", "x"]),
            json!(["COVERSATION_OPENED", "CONVERSATION_OPENED", "Tag added", "ADD_TAG", "?", "?"]),
            rows(&["919999999999"], &["COVERSATION_OPENED", "Tag added"]),
            rows(&["919999999999"], &["?"]),
            json!(["x"]),
        ),
        // A body without a valid pair succeeds and stores nothing.
        (
            json!(["919999999999"]),
            json!(["X"]),
            rows(&[], &[]),
            rows(&["919999999999"], &["X"]),
            json!([]),
        ),
        (
            json!(["917777777777"]),
            json!(["ADD_TAG"]),
            rows(&[], &[]),
            rows(&[], &[]),
            json!(["917777777777"]),
        ),
    ];
    for (numbers, events, valid, invalid, foreign) in cases {
        let guarded = Guarded::new();
        let given = json!({"wabaNumbers": numbers, "webhookEvents": events});
        let answered = guarded.register(&body(given));
        let expected = json!({
            "validWebhooks": valid, "invalidWebhooks": invalid, "invalidWabaNumbers": foreign,
        });
        assert_eq!((answered.status, answered.body), (201, expected));
        let webhooks = guarded.webhooks();
        let pairs = valid.as_array().unwrap().len();
        assert_eq!(webhooks.len(), usize::from(pairs > 0));
        let covered = webhooks.iter().map(|one| shown(one)).map(|(e, n)| e.len() * n.len());
        assert_eq!(covered.sum::<usize>(), pairs);
    }
}

#[test]
fn every_documented_event_and_trigger_is_accepted() {
    let events = [
        "ADD_TAG",
        "MESSAGE_RECEIVED",
        "MESSAGE_STATUS_UPDATE",
        "CHAT_ASSIGNED_TO_AGENT",
        "CHAT_UNASSIGNED",
        "UPDATE_CUSTOMER_CUSTOM_FIELD",
        "WIDGET_LEAD_RECEIVED",
        "VERIFIED_WIDGET_LEAD_RECEIVED",
        "NEW_LEAD",
        "RAW_CLOUD_API_WEBHOOK",
        "CLOSE_CONVERSATION",
        "TEMPLATE_UPDATE",
        "REMOVE_TAG",
        "CALL_TO_WHATSAPP_MESSAGE_RECEIVED",
        "CUSTOMER_BUSINESS_CHAT_OPEN",
    ];
    let triggers = [
        ("Message Status Update", "MESSAGE_STATUS_UPDATE"),
        ("Message Received", "MESSAGE_RECEIVED"),
        ("Chat Assigned to Agent", "CHAT_ASSIGNED_TO_AGENT"),
        ("Chat Unassigned", "CHAT_UNASSIGNED"),
        ("Lead Received from Widget", "WIDGET_LEAD_RECEIVED"),
        ("Verified Lead Received from Widget", "VERIFIED_WIDGET_LEAD_RECEIVED"),
        ("First Time Message Trigger from Customer", "NEW_LEAD"),
        ("Customer Custom Field Updated", "UPDATE_CUSTOMER_CUSTOM_FIELD"),
        ("Template Updated", "TEMPLATE_UPDATE"),
        ("Tag added", "ADD_TAG"),
        ("Tag removed", "REMOVE_TAG"),
        ("COVERSATION_OPENED", "CONVERSATION_OPENED"),
        ("CONVERSATION_OPENED", "CONVERSATION_OPENED"),
        ("message.received", "MESSAGE_RECEIVED"),
    ];
    let guarded = Guarded::new();
    for (given, named) in events.iter().map(|name| (*name, *name)).chain(triggers) {
        let more = json!({"name": format!("one of {given}"), "webhookEvents": [given]});
        assert_eq!(shown(&guarded.registered(more)).0, [named], "{given}");
    }
    let given: Vec<_> = triggers.iter().map(|(given, _)| *given).collect();
    let all = guarded.registered(json!({"name": "all triggers", "webhookEvents": given}));
    assert_eq!(shown(&all).0.len(), 12, "eleven triggers and one with two spellings");
    let id = all.id.to_string();
    let answered = guarded.acme("DELETE", "/v2/webhook/deregister", &json!({"webhookId": id}));
    assert_eq!((answered.status, answered.body), (201, json!({})));
    assert!(guarded.gateway.engine.subscription(all.id).is_none());
}

#[test]
fn the_catalogue_is_data() {
    let unknown = Guarded::new().register(&body(json!({"webhookEvents": ["order.placed"]})));
    assert_eq!(unknown.body["invalidWebhooks"], rows(&["+919999999999"], &["order.placed"]));
    let catalogue = Catalogue::default().with("ORDER_PLACED", ["order.placed"]);
    let guarded = Guarded::on(TestGateway::with(|config| config.catalogue(catalogue)));
    let known = guarded.register(&body(json!({"webhookEvents": ["order.placed"]})));
    assert_eq!(known.body["validWebhooks"], rows(&["+919999999999"], &["order.placed"]));
    assert_eq!(known.body["invalidWebhooks"], json!([]));
}

/// Registers and edits with each text; both are refused as malformed and store nothing.
fn check_malformed(texts: impl IntoIterator<Item = (Vec<u8>, &'static str)>) {
    let guarded = Guarded::new();
    guarded.registered(json!({"name": "taken"}));
    let edited = guarded.registered(json!({"name": "edited"}));
    let edit = format!("/v2/webhook/{}", edited.id);
    for (text, says) in texts {
        for path in [REGISTER, &edit] {
            let mut request = request("POST", path, Some(ACME), "");
            request.body_mut().extend(&text);
            assert_refused(&guarded.gateway.respond(&request), 400, "Bad Request", &[says]);
        }
    }
    assert_eq!(guarded.webhooks().len(), 2);
    let mut others = guarded.bystanders.iter().chain([&edited]);
    let same = |one: &Arc<SubscriptionInfo>| {
        Arc::ptr_eq(one, &guarded.gateway.engine.subscription(one.id).unwrap())
    };
    assert!(others.all(same), "a refused edit changes nothing");
}

#[test]
fn a_malformed_field_is_400_by_name_and_stores_nothing() {
    let cases = [
        ("method", json!(null), "method: missing"),
        ("method", json!("get"), "method: "),
        ("method", json!("hidden"), "GET, POST, PUT, DELETE, PATCH, HEAD"),
        ("method", json!(["GET"]), "method: found an array"),
        ("headers", json!("hidden"), "headers: found a string"),
        ("headers", json!({"x-a": {"hidden": 1}}), "headers.x-a: found an object"),
        ("headers", json!({"x-a": "hidden\r\nx-b: 1"}), "headers.x-a: "),
        ("headers", json!({"x-a": "h\u{e4}"}), "headers.x-a: "),
        ("headers", json!({"x a": "1"}), "headers: "),
        ("headers", json!({"x-a\r\nx-b": "1"}), "headers: "),
        ("headers", json!({"": "1"}), "headers: "),
        ("headers", json!({"x-a": "1", "X-A": "2"}), "given twice"),
        ("body", json!(["hidden"]), "body: found an array"),
        ("query", json!(7), "query: found a number"),
        ("query", json!({"a": ["hidden"]}), "query.a: found an array"),
        ("authorization", json!("hidden"), "authorization: found a string"),
        ("authorization", json!({"type": "DIGEST", "payload": "hidden"}), "BASIC, BEARER"),
        ("authorization", json!({"type": "BEARER", "payload": 7}), "found a number"),
        ("authorization", json!({"type": "BEARER", "payload": "hidden\r\nx: y"}), "payload: "),
        ("authorization", json!({"type": "BASIC", "payload": "h\u{e4}"}), "payload: "),
        ("url", json!(null), "url: missing"),
        ("url", json!(7), "url: found a number"),
        ("url", json!("crm.example/hidden"), "url: "),
        ("url", json!("/hidden"), "url: "),
        ("url", json!("ftp://crm.example/hidden"), "https://"),
        ("url", json!("https://user:hidden@crm.example/"), "without user name and password"),
        ("url", json!("https://crm.example/#hidden"), "without a fragment"),
        ("url", json!("https://crm.example:0/"), "url: "),
        ("url", json!("https://crm.example:99999/"), "url: "),
        ("url", json!("https://crm.example/\r\nx: hidden"), "url: "),
        ("url", json!(format!("https://crm.example/{}", "a".repeat(3_000))), "2048"),
        ("bodyFormat", json!("XML"), "JSON, FORM_DATA"),
        ("bodyFormat", json!(1), "bodyFormat: found a number"),
        ("webhookEvents", json!(null), "webhookEvents: missing"),
        ("webhookEvents", json!([]), "webhookEvents: found an empty array"),
        ("webhookEvents", json!("ADD_TAG"), "webhookEvents: found a string"),
        ("webhookEvents", json!(["ADD_TAG", 7]), "webhookEvents[1]: found a number"),
        ("retryOnTimeout", json!("true"), "retryOnTimeout: found a string"),
        ("name", json!(null), "name: missing"),
        ("name", json!(""), "name: "),
        ("name", json!("n".repeat(129)), "1 to 128 bytes"),
        ("name", json!("a\u{0}b"), "name: "),
        ("name", json!("taken"), "name: taken"),
        ("wabaNumbers", json!(null), "wabaNumbers: missing"),
        ("wabaNumbers", json!([]), "wabaNumbers: found an empty array"),
    ];
    let written = |field: &str, value| body(json!({field: value})).to_string().into_bytes();
    check_malformed(cases.map(|(field, value, says)| (written(field, value), says)));
}

#[test]
fn a_body_that_is_not_a_json_object_is_400() {
    let deep = format!("{{\"body\":{}", "{\"a\":".repeat(100_000));
    check_malformed([
        (b"".to_vec(), "not JSON"),
        (b"hidden".to_vec(), "not JSON"),
        (b"[]".to_vec(), "found an array"),
        (b"{".to_vec(), "not JSON"),
        (b"{\"name\":\"a\",\"name\":\"b\"}".to_vec(), "name: given twice"),
        (b"{\"name\":\"\xff\"}".to_vec(), "UTF-8"),
        ("[".repeat(200_000).into_bytes(), "found text that is not JSON"),
        (deep.into_bytes(), "not JSON"),
    ]);
}

#[test]
fn a_policy_violation_is_422_whatever_its_numbers() {
    let guarded = Guarded::new();
    let many = |count: usize| -> Value {
        let pair = |place: usize| (format!("x-{place}"), json!("v"));
        Value::Object((0..count).map(pair).collect())
    };
    for (field, value, says) in [
        ("url", json!("http://crm.example/hook"), "https://"),
        ("url", json!("https://127.0.0.1/hook"), "loopback"),
        ("url", json!("https://10.0.0.7:8443/"), "private"),
        ("url", json!("https://169.254.169.254/latest"), "url: "),
        ("url", json!("https://[::1]/"), "loopback"),
        ("url", json!("https://0x7f.1/"), "url: "),
        ("headers", json!({"Host": "other.example"}), "headers: "),
        ("headers", json!({"webhook-signature": "v1,hidden"}), "webhook-signature"),
        ("headers", json!({"Content-Length": "3"}), "headers: "),
        ("headers", json!({"x-a": "v".repeat(9_000)}), "8 KiB"),
        ("headers", many(65), "at most 64"),
        ("query", many(65), "at most 64"),
        ("query", json!({"": "v"}), "query: "),
        ("body", many(65), "at most 64"),
        ("body", json!({"a": "v".repeat(70_000)}), "body: "),
        (
            "authorization",
            json!({"type": "BEARER", "payload": "p".repeat(9_000)}),
            "authorization.payload",
        ),
        ("webhookEvents", json!(["ADD_TAG", "E".repeat(129)]), "webhookEvents[1]"),
    ] {
        for numbers in [json!(["919999999999"]), json!(["917777777777"])] {
            let refused = guarded.register(&body(json!({field: value, "wabaNumbers": numbers})));
            assert_refused(&refused, 422, "Unprocessable Entity", &[says]);
        }
    }
    assert!(guarded.webhooks().is_empty());
    // This gateway allows ports and public addresses.
    for (name, url) in [("port", "https://crm.example:8443/"), ("address", "https://8.8.8.8/")] {
        guarded.registered(json!({"name": name, "url": url}));
    }
    let allowed = Guarded::on(TestGateway::with(|config: Config| config.allow_http(true)));
    allowed.registered(json!({"url": "http://crm.example:8080/hook"}));
}

#[test]
fn an_answer_has_a_bound() {
    let guarded = Guarded::new();
    let names = |count: usize| (0..count).map(|place| format!("E{place}")).collect::<Vec<_>>();
    let numbers = json!(["919999999999", "918888888888"]);
    let of = |count| body(json!({"wabaNumbers": numbers, "webhookEvents": names(count)}));
    assert_eq!(
        guarded.register(&of(25_000)).body["invalidWebhooks"].as_array().unwrap().len(),
        50_000
    );
    let refused = guarded.register(&of(25_001));
    assert_refused(&refused, 422, "Unprocessable Entity", &["50002 pairs", "at most 50000"]);
}

#[test]
fn a_missing_or_unknown_key_is_refused_as_documented() {
    let guarded = Guarded::new();
    let id = guarded.registered(json!({})).id;
    let expected = json!({
        "message": "Invalid public api key", "error": "Unauthorized", "statusCode": 401,
    });
    for key in [None, Some(""), Some("wrong"), Some("acme-ke"), Some("Bearer"), Some("acme-key ,")]
    {
        for (method, path, text) in [
            ("POST", REGISTER, body(json!({"name": "new"})).to_string()),
            ("POST", &format!("/v2/webhook/{id}"), body(json!({"name": "new"})).to_string()),
            ("GET", "/v2/webhooks", String::new()),
            ("DELETE", "/v2/webhook/deregister", json!({"webhookId": id.to_string()}).to_string()),
        ] {
            let answered = guarded.call(method, path, key, &text);
            assert_eq!((answered.status, &answered.body), (401, &expected), "{key:?} {path}");
        }
    }
    assert_eq!(guarded.webhooks().len(), 1);
    assert_eq!(guarded.webhooks()[0].name, "crm");
}

#[test]
fn unknown_paths_and_methods_use_the_same_shape() {
    let guarded = Guarded::new();
    for path in ["/v2/webhook/", "/v2/webhook/1/2", "/v2/templates", "/V2"] {
        let refused = guarded.acme("POST", path, &body(json!({})));
        assert_refused(&refused, 404, "Not Found", &[&format!("Cannot POST {path}")]);
    }
    for (method, path, allow) in [
        ("GET", REGISTER, "POST"),
        ("PUT", "/v2/webhook/1", "POST, PATCH"),
        ("GET", "/v2/webhook/1", "POST, PATCH"),
        ("POST", "/v2/webhook/deregister", "DELETE"),
        ("POST", "/v2/webhooks", "GET, HEAD"),
        ("OPTIONS", "/v2/webhooks", "GET, HEAD"),
    ] {
        let refused = guarded.acme(method, path, &body(json!({})));
        assert_refused(&refused, 405, "Method Not Allowed", &[method, path]);
        assert_eq!(refused.headers["allow"], allow, "{method} {path}");
    }
    assert!(guarded.webhooks().is_empty());
}

#[test]
fn an_edit_keeps_what_a_body_cannot_express() {
    for method in ["POST", "PATCH"] {
        let guarded = Guarded::new();
        let first = guarded.registered(json!({
            "headers": {"x-a": "1"}, "query": {"a": "1"}, "body": {"a": 1}, "retryOnTimeout": true,
            "authorization": {"type": "BASIC", "payload": "u:p"}, "bodyFormat": "FORM_DATA",
        }));
        let second = guarded.registered(json!({"name": "second"}));
        guarded
            .gateway
            .engine
            .rotate_secret(first.id, Some(Secret::new("s3cret")), Duration::ZERO)
            .unwrap();
        guarded.gateway.engine.pause(first.id).unwrap();
        let path = format!("/v2/webhook/{}", first.id);
        let edit = body(json!({
            "method": "PUT", "url": "https://new.example/", "name": "renamed",
            "webhookEvents": ["Message Received", "NEW_LEAD"], "wabaNumbers": ["918888888888", "x"],
        }));
        let answered = guarded.acme(method, &path, &edit);
        let valid = rows(&["918888888888"], &["Message Received", "NEW_LEAD"]);
        let expected =
            json!({"validWebhooks": valid, "invalidWebhooks": [], "invalidWabaNumbers": ["x"]});
        assert_eq!((answered.status, answered.body), (201, expected));
        let after = guarded.gateway.engine.subscription(first.id).unwrap();
        let target = &after.target;
        assert_eq!((after.name.as_str(), target.method()), ("renamed", &Method::PUT));
        assert_eq!(target.url().to_string(), "https://new.example/");
        assert!(
            target.headers().is_empty() && target.query().is_empty() && target.body().is_empty()
        );
        assert_eq!((target.authorization(), target.body_format()), (None, BodyFormat::Json));
        assert!(!after.policy.retry_on_timeout && after.secret.is_some());
        assert_eq!(
            (after.state, after.created_at_ms),
            (SubscriptionState::Paused, first.created_at_ms)
        );
        let events = vec!["MESSAGE_RECEIVED".to_owned(), "NEW_LEAD".to_owned()];
        assert_eq!(shown(&after), (events, vec!["918888888888".to_owned()]));

        // It may keep its own name but not use another's; a body without a valid pair changes nothing.
        assert_eq!(guarded.acme(method, &path, &edit).status, 201);
        let before = guarded.gateway.engine.subscription(first.id).unwrap();
        let taken = guarded.acme(method, &path, &body(json!({"name": "second"})));
        assert_refused(&taken, 400, "Bad Request", &["name: taken"]);
        let nothing = json!({"name": "nothing", "wabaNumbers": ["917777777777"]});
        assert_eq!(guarded.acme(method, &path, &body(nothing)).status, 201);
        let taken = json!({"name": "second", "wabaNumbers": ["917777777777"]});
        assert_eq!(guarded.acme(method, &path, &body(taken)).status, 400);
        for known in [&before, &second] {
            let after = guarded.gateway.engine.subscription(known.id).unwrap();
            assert!(Arc::ptr_eq(known, &after), "{after:?}");
        }
    }
}

#[test]
fn foreign_and_unknown_ids_get_the_same_response() {
    let guarded = Guarded::new();
    let own = guarded.registered(json!({}));
    let [beta, other_way] = [0, 1].map(|place| guarded.bystanders[place].id.to_string());
    let padded = format!("0{}", own.id);
    let signed = format!("+{}", own.id);
    let spellings = ["999", "4294967296", "-1", "crm", "", " 1", &padded, &signed];
    let ids = [&beta, &other_way].map(String::as_str).into_iter().chain(spellings);
    for id in ids {
        let refused = guarded.acme("DELETE", "/v2/webhook/deregister", &json!({"webhookId": id}));
        assert_refused(&refused, 404, "Not Found", &["webhookId: unknown webhook"]);
        if !id.is_empty() && !id.contains(' ') {
            let path = format!("/v2/webhook/{id}");
            let edited = guarded.acme("POST", &path, &body(json!({"name": "new"})));
            assert_eq!(edited.body, refused.body, "{id}");
        }
    }
    for (given, says) in [
        (json!({}), "webhookId: missing"),
        (json!({"webhookId": null}), "webhookId: missing"),
        (json!({"webhookId": [own.id.0]}), "webhookId: found an array"),
        (json!([]), "found an array"),
    ] {
        let refused = guarded.acme("DELETE", "/v2/webhook/deregister", &given);
        assert_refused(&refused, 400, "Bad Request", &[says]);
    }
    // A name of another gateway's webhook of the account is in use; another account's is free.
    let taken = guarded.register(&body(json!({"name": "own"})));
    assert_refused(&taken, 400, "Bad Request", &["name: taken"]);
    guarded.registered(json!({"name": "beta's"}));
    let after = guarded.gateway.engine.subscription(own.id).unwrap();
    assert!(Arc::ptr_eq(&own, &after));
}

#[test]
fn the_list_shows_the_accounts_webhooks_in_order() {
    let guarded = Guarded::new();
    assert_eq!(guarded.acme("GET", "/v2/webhooks", &json!(null)).body, json!([]));
    let numbers = json!(["+919999999999", "+918888888888"]);
    let b = guarded.registered(json!({
        "name": "b", "url": "https://a.example/hook", "wabaNumbers": numbers,
        "webhookEvents": ["Tag added", "NEW_LEAD"], "headers": {"x-key": "hidden"},
        "authorization": {"type": "BEARER", "payload": "hidden"},
    }));
    guarded.registered(json!({"name": "a", "url": "https://c.example/hook"}));
    guarded
        .registered(json!({"name": "C", "url": "https://b.example/hook", "wabaNumbers": numbers}));
    let listed = guarded.acme("GET", "/v2/webhooks", &json!(null));
    assert_eq!(listed.status, 201, "as documented");
    let item = json!({
        "webhookId": b.id.to_string(), "url": "https://a.example/hook",
        "eventTypes": ["ADD_TAG", "NEW_LEAD"], "wabaNumbers": ["918888888888", "919999999999"],
        "integrationCount": 4, "createdBy": "acme", "name": "b",
    });
    assert_eq!(listed.body[2], item);
    assert!(!listed.text.contains("hidden") && !listed.text.contains("own"), "{}", listed.text);
    let names = |query: &str| -> Vec<String> {
        let listed = guarded.acme("GET", &format!("/v2/webhooks{query}"), &json!(null));
        let items = listed.body.as_array().unwrap().iter();
        items.map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    };
    for (query, order) in [
        ("", ["C", "a", "b"]),
        ("?", ["C", "a", "b"]),
        ("?sortDirection=DESC", ["b", "a", "C"]),
        ("?sortBy=name&sortDirection=ASC", ["C", "a", "b"]),
        ("?sortBy=url", ["b", "C", "a"]),
        ("?sortBy=url&sortDirection=DESC", ["a", "C", "b"]),
        ("?sortBy=createdBy&sortDirection=DESC", ["b", "a", "C"]),
        ("?sortBy=integrationCount", ["a", "C", "b"]),
        ("?sortDirection=DESC&sortBy=integrationCount", ["b", "C", "a"]),
    ] {
        assert_eq!(names(query), order, "{query}");
    }
    for (query, says) in [
        ("?sortBy=hidden", "sortBy: expected one of name"),
        ("?sortBy=", "sortBy: "),
        ("?sortDirection=desc", "sortDirection: expected one of ASC, DESC"),
        ("?sortBy=name&sortBy=url", "sortBy: given twice"),
    ] {
        let refused = guarded.acme("GET", &format!("/v2/webhooks{query}"), &json!(null));
        assert_refused(&refused, 400, "Bad Request", &[says]);
    }
    let beta = guarded.call("GET", "/v2/webhooks", Some(BETA), "");
    assert_eq!((beta.body[0]["name"].as_str(), beta.body[1].as_str()), (Some("beta's"), None));
    let everything = |b: &SubscriptionInfo| {
        let all = Subscription::to(b.target.url().to_string())?.account("acme").name("b");
        Ok::<_, Error>(all.profile(Profile::DoubleTick))
    };
    guarded.gateway.engine.revise(b.id, everything).unwrap();
    let widened = guarded.acme("GET", "/v2/webhooks?sortDirection=DESC", &json!(null)).body;
    assert_eq!(
        (&widened[0]["eventTypes"], &widened[0]["wabaNumbers"]),
        (&json!(["*"]), &json!(["*"]))
    );
}

#[test]
fn a_full_store_and_a_closed_engine_use_the_same_shape() {
    let guarded = Guarded::on(TestGateway::with(|config| {
        let limits = crate::config::Limits { subscriptions_max: 3, ..Default::default() };
        config.limits(limits)
    }));
    let id = guarded.registered(json!({})).id;
    let full = guarded.register(&body(json!({"name": "one more"})));
    assert_refused(&full, 422, "Unprocessable Entity", &["subscriptions: over the limit of 3"]);
    guarded.gateway.engine.close(Duration::from_secs(10)).unwrap();
    for (method, path, given) in [
        ("POST", REGISTER, body(json!({"name": "late"}))),
        ("POST", &format!("/v2/webhook/{id}"), body(json!({}))),
        ("DELETE", "/v2/webhook/deregister", json!({"webhookId": id.to_string()})),
    ] {
        let refused = guarded.acme(method, path, &given);
        assert_refused(&refused, 503, "Service Unavailable", &["cannot be changed"]);
    }
}

/// Times out, except: `connect` is unreachable, `busy` answers with 429, the bystander succeeds.
struct Mute;

impl Transport for Mute {
    fn send(&self, request: &crate::transport::Request<'_>) -> Reply {
        match request.url.host() {
            Some("connect.example") => Reply::Failed(Failure::Connect),
            Some("busy.example") => Reply::status(429),
            Some("timeout.example") => Reply::Failed(Failure::Timeout),
            _ => Reply::status(200),
        }
    }

    fn interrupt(&self) {}
}

#[test]
fn a_timeout_is_retried_only_if_requested() {
    let gateway = TestGateway::with(|config| config.transport(Arc::new(Mute)));
    let guarded = Guarded::on(gateway);
    let notices = guarded.gateway.engine.notices();
    let made = ["timeout", "connect", "busy"].into_iter().flat_map(|host| {
        [true, false].map(|retry_on_timeout| {
            let webhook = guarded.registered(json!({
                "name": format!("{host} {retry_on_timeout}"), "retryOnTimeout": retry_on_timeout,
                "url": format!("https://{host}.example/"),
            }));
            (webhook.id, host == "timeout" && !retry_on_timeout)
        })
    });
    let made: Vec<(SubscriptionId, bool)> = made.collect();
    guarded.registered(json!({"name": "bystander", "url": "https://fine.example/"}));
    let event = Event::new("Tag added", "{}").account("acme").number("919999999999");
    assert_eq!(guarded.gateway.engine.publish(event).unwrap().wait().unwrap().owed, 7);
    let started = Instant::now();
    for (id, is_dead) in made {
        let expected = if is_dead { DeliveryState::Dead } else { DeliveryState::Retrying };
        let of_it = DeliveryFilter::default().subscription(id);
        let state = || guarded.gateway.engine.deliveries(&of_it, None, 9).unwrap().items.pop();
        while state().map(|delivery| delivery.state) != Some(expected) {
            assert!(started.elapsed() < DEADLINE, "{id}: {:?}", state());
            std::thread::yield_now();
        }
        if is_dead {
            let reason = Reason::Failed(Failure::Timeout);
            let died = std::iter::repeat_with(|| notices.next_timeout(DEADLINE).unwrap());
            let mut died = died.take(3);
            let is_it = |one: Notice| {
                matches!(one, Notice::DeadLettered { subscription, reason: of, .. }
                if subscription == id && of == reason)
            };
            assert!(died.any(is_it));
        }
    }
    guarded.gateway.wait_until(|stats| (stats.delivered, stats.dead) == (1, 1));
}
