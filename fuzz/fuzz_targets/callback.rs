//! Any bytes as the body of a Meta callback give events or a refusal and never a panic. The payloads of
//! the events are valid JSON.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use wabahook::inbound::cloud_api;
use wabahook::{Account, Config, Engine};

static ENGINE: LazyLock<Engine> = LazyLock::new(|| {
    let store = std::sync::Arc::new(wabahook::store::Memory::default());
    let acme = Account::new("acme").api_key("acme-key").waba("123065260884961", ["919999999999"]);
    let other = Account::new("other").api_key("other-key").waba("2", ["918888888888"]);
    let config = Config::new("unused").store(store).account(acme).account(other);
    let (engine, stepped) = wabahook::testing::Stepped::open(config).expect("a new engine");
    std::mem::forget(stepped);
    engine
});

fuzz_target!(|body: &[u8]| {
    let Ok(callback) = cloud_api::events(body, ENGINE.accounts()) else { return };
    for event in &callback.events {
        let json = serde_json::from_slice::<serde::de::IgnoredAny>(event.payload());
        assert!(json.is_ok(), "an event says what is no JSON: {json:?}");
    }
});
