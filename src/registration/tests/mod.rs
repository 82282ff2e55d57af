//! Promises of all gateways: whatever two accounts do in turn, neither sees or changes what belongs to the
//! other. A gateway adds its calls to [`OPERATIONS`]. The values that an account stores are marked with its
//! name; ids, names and numbers in a request may be those of the other account.

mod guard;
mod tolerance;

use std::sync::Arc;

use http::header::ORIGIN;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::test_support::{GatewayResponse, TestGateway};
use super::{BODY_BYTES_MAX, Registration};
use crate::account::Account;
use crate::subscription::SubscriptionInfo;

fn two_accounts() -> TestGateway {
    TestGateway::of([ACME.account(), BETA.account()], |config| config)
}

/// An account of the property.
#[derive(Debug)]
struct Party {
    name: &'static str,
    key: &'static str,
    waba: &'static str,
    numbers: &'static [&'static str],
}

const ACME: Party = Party {
    name: "acme",
    key: "acme-key",
    waba: "100000000000001",
    numbers: &["919999999999", "918888888888"],
};
const BETA: Party =
    Party { name: "beta", key: "beta-key", waba: "100000000000002", numbers: &["917777777777"] };

impl Party {
    fn account(&self) -> Account {
        Account::new(self.name).api_key(self.key).waba(self.waba, self.numbers)
    }

    /// A text that only this account stores.
    fn mark(&self) -> String {
        format!("marked-by-{}", self.name)
    }
}

/// The random parts of one call.
struct DrawnRequest {
    caller: &'static Party,
    other: &'static Party,
    /// An id: the caller's, the other's or unknown.
    id: u32,
    /// A name that both accounts use.
    name: &'static str,
    /// Whether the call also names the other's numbers.
    reaches_over: bool,
}

impl DrawnRequest {
    fn new(is_beta: bool, id: u32, name: usize, reaches_over: bool) -> DrawnRequest {
        let (caller, other) = if is_beta { (&BETA, &ACME) } else { (&ACME, &BETA) };
        DrawnRequest { caller, other, id, name: NAMES[name], reaches_over }
    }

    /// A request with the caller's key, shown as DoubleTick's clients do.
    fn doubletick(&self, method: &str, path: &str, body: &Value) -> Request<Vec<u8>> {
        let request = Request::builder().method(method).uri(path);
        request.header("authorization", self.caller.key).body(body.to_string().into()).unwrap()
    }

    fn doubletick_webhook(&self) -> Value {
        let others = if self.reaches_over { self.other.numbers } else { &[] };
        let mark = self.caller.mark();
        let numbers = [self.caller.numbers, others].concat();
        json!({
            "method": "POST", "url": format!("https://hooks.example/{mark}"), "name": self.name,
            "headers": {"x-mark": mark}, "webhookEvents": ["ADD_TAG", mark],
            "wabaNumbers": numbers,
        })
    }

    /// A request with the caller's key in the header of a gateway that has one of its own.
    fn keyed(&self, key: &str, method: &str, path: &str, body: &Value) -> Request<Vec<u8>> {
        let request = Request::builder().method(method).uri(path).header(key, self.caller.key);
        request.body(body.to_string().into()).unwrap()
    }

    fn dialog360(&self, method: &str, path: &str, body: &Value) -> Request<Vec<u8>> {
        self.keyed("d360-api-key", method, path, body)
    }

    /// A webhook with a URL and headers; with `reaches_over` at a port that neither gateway allows.
    fn hook(&self) -> Value {
        let (mark, port) = (self.caller.mark(), if self.reaches_over { ":8443" } else { "" });
        json!({"url": format!("https://hooks.example{port}/{mark}"), "headers": {"x-mark": mark}})
    }

    /// A request of a session gateway's client about the webhook with this id.
    fn session(&self, method: &str, of_it: &str, body: &Value) -> Request<Vec<u8>> {
        let path = format!("/webhooks/{}{of_it}", self.id);
        self.keyed("authorization", method, &path, body)
    }

    /// A webhook of the session gateway; with `reaches_over` its event is a pattern.
    fn session_webhook(&self) -> Value {
        let mark = self.caller.mark();
        let event = if self.reaches_over && self.id > 0 { "message.*" } else { &mark };
        let url = format!("https://hooks.example/{mark}");
        json!({"url": url, "secret": mark, "events": [event]})
    }

    /// A further destination, under a name that the other account may use.
    fn destination(&self) -> Value {
        let mark = self.caller.mark();
        json!({"name": self.name, "url": format!("https://hooks.example/{mark}")})
    }
}

const NAMES: [&str; 3] = ["crm", "log", "bot"];

type GatewayOperation = (&'static str, fn(&DrawnRequest) -> Request<Vec<u8>>);

/// Every kind of call of every gateway.
const OPERATIONS: &[GatewayOperation] = &[
    ("session gateway: create", |drawn| {
        drawn.keyed("authorization", "POST", "/webhooks", &drawn.session_webhook())
    }),
    ("session gateway: list", |drawn| {
        drawn.keyed("authorization", "GET", "/webhooks", &json!(null))
    }),
    ("session gateway: get", |drawn| drawn.session("GET", "", &json!(null))),
    ("session gateway: patch", |drawn| drawn.session("PATCH", "", &drawn.session_webhook())),
    ("session gateway: test", |drawn| drawn.session("POST", "/test", &json!(null))),
    ("session gateway: logs", |drawn| drawn.session("GET", "/logs", &json!(null))),
    ("DoubleTick: register", |drawn| {
        drawn.doubletick("POST", "/v2/webhook/register", &drawn.doubletick_webhook())
    }),
    ("DoubleTick: edit", |drawn| {
        let path = format!("/v2/webhook/{}", drawn.id);
        drawn.doubletick("POST", &path, &drawn.doubletick_webhook())
    }),
    ("DoubleTick: list", |drawn| {
        drawn.doubletick("GET", "/v2/webhooks?sortBy=url&sortDirection=DESC", &json!(null))
    }),
    ("DoubleTick: deregister", |drawn| {
        let body = json!({"webhookId": drawn.id.to_string()});
        drawn.doubletick("DELETE", "/v2/webhook/deregister", &body)
    }),
    ("WhatsApp Business API: read", |drawn| {
        drawn.keyed("whizard-key", "GET", "/v1/configs/webhook", &json!(null))
    }),
    ("WhatsApp Business API: set", |drawn| {
        drawn.keyed("whizard-key", "POST", "/v1/configs/webhook", &drawn.hook())
    }),
    ("360dialog: read the number's", |drawn| {
        drawn.dialog360("GET", "/v1/configs/webhook", &json!(null))
    }),
    ("360dialog: set the number's", |drawn| {
        drawn.dialog360("POST", "/v1/configs/webhook", &drawn.hook())
    }),
    ("360dialog: read the WABA's", |drawn| drawn.dialog360("GET", "/waba_webhook", &json!(null))),
    ("360dialog: set the WABA's", |drawn| {
        let mark = drawn.caller.mark();
        let meant = if drawn.reaches_over { drawn.other } else { drawn.caller };
        let url = format!("https://hooks.example/{mark}");
        let body = json!({"url": url, "waba_id": meant.waba, "override_all": drawn.id < 4});
        drawn.dialog360("POST", "/waba_webhook", &body)
    }),
    ("360dialog: enable or disable", |drawn| {
        drawn.dialog360("POST", "/multi_webhook", &json!({"enabled": drawn.id % 4 != 3}))
    }),
    ("360dialog: append", |drawn| {
        let body = json!({"destinations": [drawn.destination()]});
        drawn.dialog360("PUT", "/multi_webhook", &body)
    }),
    ("360dialog: change", |drawn| drawn.dialog360("PATCH", "/multi_webhook", &drawn.destination())),
    ("360dialog: list", |drawn| drawn.dialog360("GET", "/multi_webhook", &json!(null))),
    ("360dialog: delete", |drawn| {
        let path = format!("/multi_webhook/{}", drawn.name);
        drawn.dialog360("DELETE", &path, &json!(null))
    }),
    ("session gateway: delete", |drawn| drawn.session("DELETE", "", &json!(null))),
];

/// Makes a call and asserts that it shows and changes nothing of the other account.
fn check_apart(
    gateway: &TestGateway,
    operation: &GatewayOperation,
    drawn: &DrawnRequest,
) -> GatewayResponse {
    let (what, request) = (operation.0, (operation.1)(drawn));
    let before = gateway.engine.subscriptions_of(drawn.other.name);
    let answered = gateway.respond(&request);
    let after = gateway.engine.subscriptions_of(drawn.other.name);
    let same =
        |(one, other): (&Arc<SubscriptionInfo>, &Arc<SubscriptionInfo>)| Arc::ptr_eq(one, other);
    let unchanged = before.len() == after.len() && before.iter().zip(&after).all(same);
    assert!(unchanged, "{what} by {} changed {before:?} to {after:?}", drawn.caller.name);
    let asked = String::from_utf8_lossy(request.body());
    let hidden = [&[drawn.other.name, drawn.other.key, drawn.other.waba], drawn.other.numbers];
    for hidden in hidden.concat() {
        // A response may repeat the caller's own text.
        let leaks = answered.text.contains(hidden) && !asked.contains(hidden);
        assert!(!leaks, "{what} by {} shows {hidden}: {}", drawn.caller.name, answered.text);
    }
    let marked = answered.text.contains(&drawn.other.mark());
    assert!(!marked, "{what} by {} shows the other's: {}", drawn.caller.name, answered.text);
    answered
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn two_accounts_never_see_or_change_each_others_webhooks(
        turns in prop::collection::vec(
            (any::<bool>(), 0..OPERATIONS.len(), 0..8_u32, 0..NAMES.len(), any::<bool>()),
            1..80,
        ),
    ) {
        let gateway = two_accounts();
        for (is_beta, operation, id, name, reaches_over) in turns {
            let drawn = DrawnRequest::new(is_beta, id, name, reaches_over);
            check_apart(&gateway, &OPERATIONS[operation], &drawn);
        }
    }
}

#[test]
fn each_operation_both_succeeds_and_fails() {
    let gateway = two_accounts();
    let mut answers = vec![(false, false); OPERATIONS.len()];
    let mut made = 0;
    for (name, id) in (0..NAMES.len()).flat_map(|name| (0..8).map(move |id| (name, id))) {
        for is_beta in [false, true] {
            for (operation, answers) in OPERATIONS.iter().zip(&mut answers) {
                let drawn = DrawnRequest::new(is_beta, id, name, id % 2 == 0);
                let is_success = check_apart(&gateway, operation, &drawn).status < 300;
                *answers = (answers.0 | is_success, answers.1 | !is_success);
                made += 1;
            }
        }
    }
    assert_eq!(made, NAMES.len() * 8 * 2 * OPERATIONS.len());
    for ((what, _), (honoured, refused)) in OPERATIONS.iter().zip(answers) {
        // A list never fails, and 360dialog shows also that no webhook is set.
        let never_fails = what.ends_with("list") || what.ends_with("read the number's");
        assert!(honoured && (refused || never_fails), "{what}: {honoured} {refused}");
    }
}

/// The path with its parameters filled in.
fn concrete(path: &str) -> String {
    let segments = path.split('/');
    let filled = segments.map(|one| if one.starts_with('{') { "7" } else { one });
    filled.collect::<Vec<_>>().join("/")
}

/// What `Allow` names at each of [`Registration::PATHS`].
const ALLOWED: [&str; 12] = [
    "POST",
    "DELETE",
    "POST, PATCH",
    "GET, HEAD",
    "GET, POST, HEAD",
    "GET, POST, HEAD",
    "GET, POST, PUT, PATCH, HEAD",
    "DELETE",
    "GET, POST, HEAD, OPTIONS",
    "GET, PATCH, DELETE, HEAD, OPTIONS",
    "GET, HEAD, OPTIONS",
    "POST, OPTIONS",
];

/// The status in the body of an error, and its message.
fn said<'a>(path: &str, body: &'a Value) -> (&'a Value, &'a Value) {
    match path.split('/').nth(1).unwrap() {
        "v2" => (&body["statusCode"], &body["message"]),
        "webhooks" => (&body["code"], &body["error"]),
        _ => (&body["meta"]["http_code"], &body["meta"]["developer_message"]),
    }
}

#[test]
fn every_path_names_its_methods_in_allow() {
    let gateway = two_accounts();
    assert_eq!(Registration::PATHS.len(), ALLOWED.len());
    let methods = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE"];
    let paths = Registration::PATHS.iter().zip(ALLOWED);
    // At a path of two gateways, the header of the key tells them apart.
    let both = paths.flat_map(|of| ["d360-api-key", "x-other"].map(|key| (of, key)));
    let both = both.filter(|((path, _), key)| *key != "x-other" || path.starts_with("/v1/"));
    for ((path, allowed), key) in both {
        let path = concrete(path);
        assert!(Registration::serves(&path), "{path}");
        let call = |method: &str| {
            let request = Request::builder().method(method).uri(&path);
            let request = ["authorization", "whizard-key", key]
                .into_iter()
                .fold(request, |request, name| request.header(name, ACME.key));
            gateway.respond(&request.body(Vec::new()).unwrap())
        };
        for method in methods {
            let answered = call(method);
            let is_allowed = allowed.split(", ").any(|known| known == method);
            assert_eq!(answered.status != 405, is_allowed, "{method} {path}: {answered:?}");
            let told = answered.headers.get("allow").map(|allow| allow.to_str().unwrap());
            assert_eq!(told, Some(allowed).filter(|_| !is_allowed), "{method} {path}");
            // A HEAD has no body.
            let has_code = is_allowed || method == "HEAD" || *said(&path, &answered.body).0 == 405;
            assert!(has_code, "{method} {path}: {answered:?}");
        }
    }
    assert!(gateway.engine.subscriptions().is_empty());
}

#[test]
fn a_servers_own_errors_have_the_gateways_shape() {
    let gateway = two_accounts();
    let origin = HeaderMap::from_iter([(ORIGIN, HeaderValue::from_static("https://app.example"))]);
    let status = StatusCode::TOO_MANY_REQUESTS;
    for path in Registration::PATHS {
        let refusal =
            gateway.registration.error_response(&concrete(path), &origin, status, "later");
        let body: Value = serde_json::from_slice(refusal.body()).unwrap();
        let (code, said) = said(path, &body);
        assert_eq!(refusal.status(), status, "{path}");
        assert_eq!(code, &json!(429), "{path}");
        assert_eq!(said, &json!("later"), "{path}");
        let readable = refusal.headers().contains_key("access-control-allow-origin");
        assert_eq!(readable, path.starts_with("/webhooks"), "{path}");
    }
    let nobodys = gateway.registration.error_response("/elsewhere", &origin, status, "later");
    assert_eq!(nobodys.status(), 404);
}

#[test]
fn only_a_test_of_a_webhook_waits_for_a_receiver() {
    for (method, path, waits) in [
        (Method::POST, "/webhooks/1/test", true),
        (Method::GET, "/webhooks/1/test", false),
        (Method::POST, "/webhooks/1/logs", false),
        (Method::POST, "/webhooks/1/2/test", false),
        (Method::POST, "/v2/webhook/test", false),
        (Method::DELETE, "/multi_webhook/test", false),
    ] {
        assert_eq!(Registration::waits_for_receiver(&method, path), waits, "{method} {path}");
    }
}

#[test]
fn a_body_over_the_limit_is_refused_in_the_gateways_shape() {
    let gateway = two_accounts();
    let check = |path: &str, key: &str, length: usize| {
        let request = Request::post(path).header(key, ACME.key).body(vec![b'['; length]).unwrap();
        gateway.respond(&request)
    };
    let doubletick = check("/v2/webhook/register", "authorization", BODY_BYTES_MAX + 1);
    assert_eq!((doubletick.status, &doubletick.body["statusCode"]), (413, &json!(413)));
    for key in ["whizard-key", "d360-api-key"] {
        let refused = check("/v1/configs/webhook", key, BODY_BYTES_MAX + 1);
        assert_eq!((refused.status, &refused.body["meta"]["http_code"]), (413, &json!(413)));
        assert_eq!(refused.body["meta"]["success"], false);
    }
    let session = check("/webhooks", "authorization", 10 * BODY_BYTES_MAX);
    assert_eq!((session.status, &session.body["code"]), (413, &json!(413)));
    assert_eq!(session.body["status"], false);
    assert_eq!(check("/v2/webhook/register", "authorization", BODY_BYTES_MAX).status, 400);
    assert_eq!(check("/elsewhere", "authorization", BODY_BYTES_MAX + 1).status, 404);
    assert!(gateway.engine.subscriptions().is_empty());
}
