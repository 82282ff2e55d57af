//! Any bytes as a stored record with a valid checksum. The engine opens or reports the damage. It never
//! panics, also not when everything that it found is read and delivered.
#![no_main]

use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use wabahook::clock::ManualClock;
use wabahook::testing::Stepped;
use wabahook::store::{Batch, Memory, Store};
use wabahook::{
    Config, DeadLetterFilter, DeliveryFilter, Event, Reply, Request, Subscription, Transport,
};

/// Answers by the receiver's name, so that every kind of record is written.
struct Scripted;

impl Transport for Scripted {
    fn send(&self, request: &Request<'_>) -> Reply {
        Reply::status(match request.url.host() {
            Some("refuses.example") => 404,
            Some("fails.example") => 503,
            _ => 200,
        })
    }

    fn interrupt(&self) {}
}

fn config(store: &Memory) -> Config {
    let clock = Arc::new(ManualClock::new(1_700_000_000_000, 7));
    Config::new("unu").store(Arc::new(store.clone())).clock(clock).transport(Arc::new(Scripted))
}

/// A database's name, a key and its value.
type Stored = (String, Vec<u8>, Vec<u8>);

/// The store of an engine that did a little of everything.
static STORED: LazyLock<Vec<Stored>> = LazyLock::new(|| {
    let store = Memory::default();
    let (engine, stepped) = Stepped::open(config(&store)).expect("a new engine");
    for name in ["takes", "refuses", "fails"] {
        let url = format!("https://{name}.example/hook");
        let subscription = Subscription::to(url).expect("a URL").name(name).secret("hush");
        engine.subscribe(subscription).expect("a subscription");
    }
    for n in 0..3_u32 {
        let event = Event::new("ADD_TAG", format!("{{\"n\":{n}}}")).number("919999999999");
        let event = event.key("contact").dedup_key(n.to_string());
        drop(engine.publish(event).expect("accepted"));
    }
    for _ in 0..40 {
        while stepped.commit().expect("a group") {}
        stepped.tick();
        let mut begun = stepped.begin();
        while let Some(attempt) = begun {
            begun = stepped.complete(attempt);
        }
    }
    drop((engine, stepped));
    read(&store)
});

fn read(store: &Memory) -> Vec<Stored> {
    let mut all = Vec::new();
    for name in store.list().expect("names") {
        let database = store.open(&name).expect("a database");
        let mut keep = |key: &[u8], value: &[u8]| {
            all.push((name.clone(), key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        };
        database.scan(&[], &[], &mut keep).expect("records");
    }
    all
}

fn sealed(version: u8, body: &[u8]) -> Vec<u8> {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[version]);
    hasher.update(body);
    [&[version][..], &hasher.finalize().to_le_bytes(), body].concat()
}

fuzz_target!(|data: &[u8]| {
    let [place, with_version, version, body @ ..] = data else { return };
    let place = usize::from(*place) % STORED.len();
    let store = Memory::default();
    for (at, (name, key, value)) in STORED.iter().enumerate() {
        let version = if with_version % 8 == 0 { *version } else { value[0] };
        let value = if at == place { sealed(version, body) } else { value.clone() };
        let database = store.open(name).expect("a database");
        let mut batch = Batch::default();
        batch.put(key.clone(), value);
        database.commit(vec![batch]).expect("a record");
    }
    let Ok((engine, stepped)) = Stepped::open(config(&store)) else { return };
    drop(engine.deliveries(&DeliveryFilter::default(), None, 100));
    drop(engine.dead_letters(&DeadLetterFilter::default(), None, 100));
    for _ in 0..4 {
        drop(stepped.commit());
        stepped.tick();
        let mut begun = stepped.begin();
        while let Some(attempt) = begun {
            begun = stepped.complete(attempt);
        }
    }
});
