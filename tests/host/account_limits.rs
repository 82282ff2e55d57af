//! The limits of an account: its own 429 or 409 with the name of the limit, and nothing for the neighbour.

use serde_json::{Value, json};

use crate::client::{Answer, Pending};
use crate::host_process::{ACME, BETA, CONFIGURATION, HostDirectory, HostProcess, OPERATOR};
use crate::receiver::Receiver;

/// A host with an operator, whose account `acme` has these limits, in TOML.
fn start(limits: &str) -> (HostDirectory, HostProcess) {
    let acme = format!("api_key = \"acme-key\"\nlimits = {{ {limits} }}");
    let configuration = CONFIGURATION.replacen("api_key = \"acme-key\"", &acme, 1);
    HostDirectory::operated(&configuration).serving()
}

fn publish(served: &HostProcess, key: &str) -> Answer {
    let number = if key == ACME { "919000000001" } else { "919000000003" };
    let event = json!({"type": "ADD_TAG", "number": number, "payload": {}});
    served.post("/events", key, event.to_string())
}

fn account_of(served: &HostProcess, name: &str) -> Value {
    let mut accounts = served.items("/admin/accounts", OPERATOR).into_iter();
    accounts.find(|account| account["name"] == name).unwrap()
}

#[test]
fn owed_events_and_subscriptions_are_limited_by_account() {
    let (place, served) = start("owed_events_max = 2, subscriptions_max = 1");
    let receiver = Receiver::answering(500);
    served.subscribe(ACME, &receiver.url("/acme"), json!({}));
    let one_more =
        json!({"name": "more", "url": receiver.url("/more"), "events": "*", "numbers": "*"})
            .to_string();
    let refused = served.post("/subscriptions", ACME, &one_more);
    refused.assert_refused(409, "limit_reached", Some("subscriptions_max"));
    refused.assert_says(&["uses 1 of 1"]);
    for _ in 0..2 {
        publish(&served, ACME).with_status(202);
    }
    let refused = publish(&served, ACME);
    refused.assert_refused(429, "limit_reached", Some("owed_events_max"));
    refused.assert_says(&["uses 2 of 2"]);
    assert_eq!(refused.header("retry-after"), Some("1"));
    let beta = Receiver::answering(200);
    served.subscribe(BETA, &beta.url("/beta"), json!({}));
    assert!((0..10).all(|_| publish(&served, BETA).status == 202), "the neighbour is not affected");
    (0..10).for_each(|_| drop(beta.next()));
    let acme = account_of(&served, "acme");
    assert_eq!(acme["usage"]["owed_events"], 2);
    assert_eq!(acme["limits"]["owed_events_max"], 2);
    // A reload of the configuration raises it.
    let path = place.path("wabahook.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("owed_events_max = 2", "owed_events_max = 3")).unwrap();
    served.post("/admin/reload", OPERATOR, "").with_status(200);
    assert_eq!(account_of(&served, "acme")["usage"]["limits"]["owed_events_max"], 3);
    publish(&served, ACME).with_status(202);
    publish(&served, ACME).assert_refused(429, "limit_reached", Some("owed_events_max"));
}

#[test]
fn rates_tests_and_listeners_are_limited_by_account() {
    let (_place, served) = start(
        "publish_rate = { events = 1, per_ms = 60000 }, tests_per_minute = 1, notice_listeners_max = 1",
    );
    let receiver = Receiver::answering(200);
    let [acme, beta] = [(ACME, "/acme"), (BETA, "/beta")]
        .map(|(key, path)| (key, served.subscribe(key, &receiver.url(path), json!({}))));
    publish(&served, ACME).with_status(202);
    let refused = publish(&served, ACME);
    refused.assert_refused(429, "limit_reached", Some("publish_rate"));
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((50..=60).contains(&seconds), "{seconds} s");
    let test = |(key, id): (&str, u64)| served.post(&format!("/subscriptions/{id}/test"), key, "");
    test(acme).with_status(200);
    test(acme).assert_refused(429, "limit_reached", Some("tests_per_minute"));
    let listen =
        |key: &str| Pending::open(served.address, "GET", "/notices", &[("authorization", key)], 0);
    let mut first = listen(ACME);
    first.until_it_says("200 OK");
    listen(ACME).answer().assert_refused(429, "limit_reached", Some("notice_listeners_max"));
    for _ in 0..3 {
        assert_eq!((publish(&served, BETA).status, test(beta).status), (202, 200));
    }
    let mut neighbours: Vec<_> = (0..3).map(|_| listen(BETA)).collect();
    neighbours.iter_mut().for_each(|neighbour| neighbour.until_it_says("200 OK"));
}

#[test]
fn the_operator_sets_the_limits_of_an_account() {
    let (_place, served) = start("subscriptions_max = 1");
    let gamma = r#"{"name":"gamma","limits":{"subscriptions_max":0,"tests_per_minute":3}}"#;
    let created = served.post("/admin/accounts", OPERATOR, gamma).json();
    let (id, key) = (created["id"].as_str().unwrap(), created["api_key"].as_str().unwrap());
    let crm = json!({"name": "crm", "url": "https://crm.example/", "events": "*", "numbers": "*"});
    let subscribe = || served.post("/subscriptions", key, crm.to_string());
    subscribe().assert_refused(409, "limit_reached", Some("subscriptions_max"));
    let change = |limits: &str| {
        let body = format!("{{\"limits\":{limits}}}");
        let headers = [("authorization", OPERATOR)];
        served.request("PATCH", &format!("/admin/accounts/{id}"), &headers, body.as_bytes())
    };
    let changed = change(r#"{"subscriptions_max":2}"#).json();
    assert_eq!(changed["usage"]["limits"]["subscriptions_max"], 2, "{changed}");
    assert_eq!(changed["limits"]["tests_per_minute"], 3, "what is not given stays");
    subscribe().with_status(201);
    let changed = change("null").json();
    assert!(changed["limits"]["tests_per_minute"].is_null(), "{changed}");
    assert_eq!(changed["usage"]["limits"]["tests_per_minute"], 60);
    let refused = change(r#"{"in_flight_max":0}"#);
    assert_eq!(refused.status, 400, "{refused:?}");
    refused.assert_says(&["in_flight_max"]);
}
