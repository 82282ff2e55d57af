//! Any bytes as the body of any call of the gateways' APIs: an answer that is no fault of ours, never
//! a panic, and the other account's subscription stays as it was.
#![no_main]

use std::sync::{Arc, LazyLock};

use http::{Method, Request};
use libfuzzer_sys::fuzz_target;
use wabahook::registration::Registration;
use wabahook::stepping::Stepped;
use wabahook::store::Memory;
use wabahook::{Account, Config, Engine, Subscription};

const ROUTES: [(Method, &str, &str); 24] = [
    (Method::POST, "/v2/webhook/register", "authorization"),
    (Method::POST, "/v2/webhook/1", "authorization"),
    (Method::POST, "/v2/webhook/2", "authorization"),
    (Method::GET, "/v2/webhooks", "authorization"),
    (Method::DELETE, "/v2/webhook/deregister", "authorization"),
    (Method::GET, "/v1/configs/webhook", "whizard-key"),
    (Method::POST, "/v1/configs/webhook", "whizard-key"),
    (Method::GET, "/v1/configs/webhook", "d360-api-key"),
    (Method::POST, "/v1/configs/webhook", "d360-api-key"),
    (Method::GET, "/waba_webhook", "d360-api-key"),
    (Method::POST, "/waba_webhook", "d360-api-key"),
    (Method::GET, "/multi_webhook", "d360-api-key"),
    (Method::POST, "/multi_webhook", "d360-api-key"),
    (Method::PUT, "/multi_webhook", "d360-api-key"),
    (Method::PATCH, "/multi_webhook", "d360-api-key"),
    (Method::DELETE, "/multi_webhook/crm", "d360-api-key"),
    (Method::GET, "/webhooks", "authorization"),
    (Method::POST, "/webhooks", "authorization"),
    (Method::GET, "/webhooks/1", "authorization"),
    (Method::PATCH, "/webhooks/1", "authorization"),
    (Method::PATCH, "/webhooks/2", "authorization"),
    (Method::DELETE, "/webhooks/2", "authorization"),
    (Method::GET, "/webhooks/2/logs", "authorization"),
    (Method::POST, "/unknown", "authorization"),
];

static ENGINE: LazyLock<Engine> = LazyLock::new(|| {
    let acme = Account::new("acme").api_key("acme-key").waba("1", ["919999999999"]);
    let other = Account::new("other").api_key("other-key").waba("2", ["918888888888"]);
    let config = Config::new("unused").store(Arc::new(Memory::default()));
    let (engine, stepped) =
        Stepped::open(config.account(acme).account(other).allow_http(true)).expect("a new engine");
    std::mem::forget(stepped);
    let bystander = Subscription::to("http://other.example/hook").expect("a URL");
    engine.subscribe(bystander.account("other").name("bystander")).expect("a subscription");
    engine
});

fuzz_target!(|data: &[u8]| {
    let Some((route, body)) = data.split_first() else { return };
    let (method, path, key) = &ROUTES[usize::from(*route) % ROUTES.len()];
    let request = Request::builder()
        .method(method)
        .uri(*path)
        .header(*key, "acme-key")
        .header("content-type", "application/json")
        .body(body)
        .expect("a request");
    let response = Registration::new(ENGINE.clone()).answer(&request);
    assert!(response.status().as_u16() < 500, "{method} {path}: {}", response.status());
    let of_others = ENGINE.subscriptions_of("other");
    assert!(of_others.len() == 1 && of_others[0].name == "bystander");
    let own = ENGINE.subscriptions_of("acme");
    if own.len() > 64 {
        own.iter().for_each(|one| drop(ENGINE.unsubscribe(one.id)));
    }
});
