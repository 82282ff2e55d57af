//! The policy of a subscription over HTTP, and pausing and resuming it.

use serde_json::json;

use crate::client::assert_members;
use crate::host_process::{ACME, BETA, HostProcess, line};
use crate::receiver::Receiver;
use crate::support::wait_until;

#[test]
fn a_policy_is_listed_as_given_also_after_a_restart() {
    let (place, served) = HostProcess::fresh();
    let receiver = Receiver::answering(200);
    let bystander = served.subscribe(BETA, &receiver.url("/beta"), json!({}));
    let main = served.subscribe(ACME, &receiver.url("/main"), json!({}));
    let terms = json!({
        "retry": {"kind": "list", "delays_ms": [0, 5_000], "attempts": 7, "max_age_ms": 60_000},
        "retry_on_timeout": false, "timeout_ms": 2_000, "accept": "200",
        "retry_on": "all", "honor_delivery_control": false, "ordering": "per_key",
        "rate_limit": {"events": 5, "per_ms": 1_000}, "after": main,
        "breaker": {"failures": 3, "initial_ms": 10, "max_ms": 20}, "disable_after_ms": "never",
        "retrying_max": 9,
    });
    let id = served.subscribe(ACME, &receiver.url("/extra"), terms.clone());
    let path = format!("/subscriptions/{id}");
    let check = |served: &HostProcess| {
        let item = served.get(&path, ACME).json();
        for (name, value) in terms.as_object().unwrap() {
            assert_eq!(&item[name], value, "{name}");
        }
        let other = served.get(&format!("/subscriptions/{bystander}"), BETA).json();
        assert_members(
            &other,
            json!({"ordering": "none", "after": null, "rate_limit": null, "retrying_max": 1_000}),
        );
    };
    check(&served);
    assert!(served.signal("TERM").success());
    let served = place.start();
    check(&served);
    let body = |after: u64| {
        let url = receiver.url("/x");
        json!({"name": "x", "url": url, "events": "*", "numbers": "*", "after": after}).to_string()
    };
    for after in [id, bystander, 99] {
        let answer = served.post("/subscriptions", ACME, body(after));
        answer.assert_refused(400, "invalid", Some("after"));
    }
    let unknown = served.post("/subscriptions", ACME, body(99)).body;
    let foreign = served.post("/subscriptions", ACME, body(bystander)).body;
    assert_eq!(foreign, unknown.replace("99", &bystander.to_string()), "one answer for both");
    served.delete(&format!("/subscriptions/{main}"), ACME).with_status(204);
    assert_eq!(served.get(&path, ACME).json()["after"], json!(null));
}

#[test]
fn a_paused_subscription_keeps_deliveries_across_a_kill() {
    let (place, served) = HostProcess::fresh();
    let (receiver, other) = (Receiver::answering(200), Receiver::answering(200));
    let id = served.subscribe(ACME, &receiver.url("/hook"), json!({}));
    let bystander = served.subscribe(ACME, &other.url("/bystander"), json!({}));
    let post = |served: &HostProcess, key: &str, verb: &str| {
        served.post(&format!("/subscriptions/{id}/{verb}"), key, "")
    };
    let answer = post(&served, ACME, "pause");
    assert_eq!((answer.status, &answer.json()["state"]), (200, &json!("paused")));
    assert_eq!(served.post("/events", ACME, line(1)).json()["owed"], 2);
    served.until(|stats| stats["delivered"] == 1);
    served.kill();
    let served = place.start();
    let item = served.get(&format!("/subscriptions/{id}"), ACME).json();
    assert_eq!((&item["state"], &item["health"]["owed"]), (&json!("paused"), &json!(1)));
    for verb in ["pause", "resume"] {
        post(&served, BETA, verb).assert_refused(404, "not_found", None);
        served.post(&format!("/subscriptions/99/{verb}"), ACME, "").assert_refused(
            404,
            "not_found",
            None,
        );
    }
    assert_eq!(served.get(&format!("/subscriptions/{id}"), ACME).json()["state"], "paused");
    assert!(receiver.arrived().is_empty());
    let answer = post(&served, ACME, "resume");
    assert_eq!((answer.status, &answer.json()["state"]), (200, &json!("active")));
    assert_eq!(served.all_arrived(&receiver).len(), 1);
    let item = served.get(&format!("/subscriptions/{bystander}"), ACME).json();
    assert_eq!(item["state"], "active");
}

#[test]
fn a_disabled_subscription_says_why_after_a_kill() {
    let (place, served) = HostProcess::fresh();
    let (gone, other) = (Receiver::answering(410), Receiver::answering(200));
    let id = served.subscribe(ACME, &gone.url("/gone"), json!({}));
    let bystander = served.subscribe(ACME, &other.url("/bystander"), json!({}));
    let item =
        |served: &HostProcess, id: u64| served.get(&format!("/subscriptions/{id}"), ACME).json();
    assert_eq!(item(&served, id).get("reason"), None);
    assert_eq!(served.post("/events", ACME, line(1)).json()["owed"], 2);
    assert!(wait_until(|| item(&served, id)["state"] == "disabled"), "not disabled");
    assert_eq!(item(&served, id)["reason"], "status:410");
    served.all_arrived(&other);
    served.kill();
    let served = place.start();
    let after = item(&served, id);
    assert_members(&after, json!({"state": "disabled", "reason": "status:410"}));
    assert_eq!(item(&served, bystander).get("reason"), None);
    let resumed = served.post(&format!("/subscriptions/{id}/resume"), ACME, "").json();
    assert_eq!((&resumed["state"], resumed.get("reason")), (&json!("active"), None));
}
