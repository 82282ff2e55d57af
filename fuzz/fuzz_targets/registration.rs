//! Any calls of the gateways' APIs, one after another. Each answer is JSON and no internal error, there
//! is no panic, the registrations of another account stay unchanged, and what was registered can be
//! sent.
#![no_main]

use std::sync::{Arc, LazyLock};

use http::{Method, Request};
use libfuzzer_sys::fuzz_target;
use serde::de::IgnoredAny;
use wabahook::registration::Registration;
use wabahook::testing::Stepped;
use wabahook::store::Memory;
use wabahook::{Account, Config, Engine, Event, SubscriptionInfo, Reply, Transport};

/// The prefix of a gateway's paths, and the header of its key.
struct Gateway(&'static str, &'static str);

const GATEWAYS: [Gateway; 8] = [
    Gateway("/v2/webhook/", "authorization"),
    Gateway("/v2/webhooks", "authorization"),
    Gateway("/v1/configs/webhook", "whizard-key"),
    Gateway("/v1/configs/webhook", "d360-api-key"),
    Gateway("/waba_webhook", "d360-api-key"),
    Gateway("/multi_webhook", "d360-api-key"),
    Gateway("/webhooks", "authorization"),
    Gateway("/", "authorization"),
];

const METHODS: [Method; 5] =
    [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

/// Both accounts begin with a webhook at every gateway.
const BEGUN: [(&str, &str, &str); 5] = [
    (
        "/v2/webhook/register",
        "authorization",
        r#"{"method":"POST","url":"https://crm.example/hook","name":"crm","webhookEvents":["ADD_TAG"],
           "wabaNumbers":["919999999999","918888888888"]}"#,
    ),
    ("/v1/configs/webhook", "whizard-key", r#"{"url":"https://premises.example/hook"}"#),
    ("/waba_webhook", "d360-api-key", r#"{"url":"https://waba.example/hook"}"#),
    (
        "/multi_webhook",
        "d360-api-key",
        r#"{"enabled":true,"destinations":[{"name":"crm","url":"https://crm.example/hook"}]}"#,
    ),
    ("/webhooks", "authorization", r#"{"url":"https://session.example/hook"}"#),
];

/// Acknowledges everything, which must have a host and use TLS.
struct Willing;

impl Transport for Willing {
    fn send(&self, request: &wabahook::Request<'_>) -> Reply {
        assert!(request.url.host().is_some_and(|host| !host.is_empty()), "{request:?}");
        assert!(request.url.scheme_str() == Some("https"), "{request:?}");
        Reply::status(200)
    }

    fn interrupt(&self) {}
}

struct Desk {
    engine: Engine,
    stepped: Stepped,
    registration: Registration,
}

/// The store of an engine with the webhooks of both accounts. It is made once, because that takes longer
/// than the calls of an input.
static STORED: LazyLock<Memory> = LazyLock::new(|| {
    let store = Memory::default();
    let desk = Desk::on(&store);
    for key in ["acme-key", "other-key"] {
        for (path, header, body) in BEGUN {
            let status = desk.call(&Method::POST, path, header, key, body.as_bytes());
            assert!(status == Some(200) || status == Some(201), "{path}: {status:?}");
        }
    }
    drop(desk);
    store
});

impl Desk {
    fn on(store: &Memory) -> Desk {
        let acme = Account::new("acme").api_key("acme-key").waba("1", ["919999999999"]);
        let other = Account::new("other").api_key("other-key").waba("2", ["918888888888"]);
        let config = Config::new("unused").store(Arc::new(store.clone()));
        let config = config.account(acme).account(other).transport(Arc::new(Willing));
        let (engine, stepped) = Stepped::open(config).expect("an engine");
        Desk { registration: Registration::new(engine.clone()), engine, stepped }
    }

    /// The status of the answer; `None` for an invalid path.
    fn call(
        &self,
        method: &Method,
        path: &str,
        header: &str,
        key: &str,
        body: &[u8],
    ) -> Option<u16> {
        let request = Request::builder().method(method).uri(path).header(header, key);
        let response = self.registration.respond(&request.body(body).ok()?);
        let status = response.status().as_u16();
        assert!(status < 500, "{method} {path}: {status}");
        let json = serde_json::from_slice::<IgnoredAny>(response.body());
        assert!(json.is_ok(), "{method} {path}: {json:?}");
        Some(status)
    }

    /// Everything that an account registered.
    fn of(&self, account: &str) -> Vec<Arc<SubscriptionInfo>> {
        self.engine.subscriptions_of(account)
    }

    /// Delivers an event to every matching subscription.
    fn deliver(&self, event_type: &str) {
        let event = Event::new(event_type, r#"{"n":1}"#).account("acme").number("919999999999");
        drop(self.engine.publish(event).expect("accepted"));
        while self.stepped.commit().expect("a group") {}
        self.stepped.tick();
        let mut begun = self.stepped.begin();
        while let Some(attempt) = begun {
            begun = self.stepped.complete(attempt);
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let desk = Desk::on(&STORED.crash());
    let bystanders = desk.of("other");
    for call in data.split(|byte| *byte == 0).take(8) {
        // One letter for method and gateway, then the rest of the path to the end of the line, then the body.
        let Some((route, call)) = call.split_first() else { continue };
        let line_end = call.iter().position(|byte| *byte == b'\n').unwrap_or(call.len());
        let (tail, body) = call.split_at(line_end);
        let body = body.strip_prefix(b"\n").unwrap_or(body);
        let Ok(tail) = std::str::from_utf8(tail) else { continue };
        let route = usize::from(route.wrapping_sub(b'A'));
        let method = &METHODS[route / GATEWAYS.len() % METHODS.len()];
        let Gateway(path, header) = &GATEWAYS[route % GATEWAYS.len()];
        desk.call(method, &format!("{path}{tail}"), header, "acme-key", body);
    }
    let after = desk.of("other");
    assert_eq!(after.len(), bystanders.len(), "another account's webhooks changed in number");
    assert!(after.iter().zip(&bystanders).all(|(after, before)| Arc::ptr_eq(after, before)));
    for event_type in ["ADD_TAG", "MESSAGE_RECEIVED"] {
        desk.deliver(event_type);
    }
});
