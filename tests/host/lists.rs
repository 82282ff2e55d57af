//! Lists that scale: filters by members, pages, order, unknown parameters, and changes of many at once.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::client::assert_members;
use crate::host_process::{ACME, BETA, HostProcess, line};
use crate::receiver::Receiver;

fn page(served: &HostProcess, path: &str) -> Value {
    let answer = served.get(path, ACME);
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer.json()
}

/// The members of this name of all items, page after page.
fn members(served: &HostProcess, path: &str, limit: usize, member: &str) -> Vec<Value> {
    served.paged_items(path, ACME, limit).iter().map(|item| item[member].clone()).collect()
}

fn change(served: &HostProcess, path: &str, body: Value) -> Value {
    let answer = served.post(path, ACME, body.to_string());
    assert_eq!(answer.status, 202, "{path}: {answer:?}");
    answer.json()
}

#[test]
fn subscriptions_are_filtered_sorted_and_paged() {
    let (_place, served) = HostProcess::fresh();
    let add = |name: &str, url: &str, more: Value| {
        served.subscribe(ACME, url, {
            let mut body = more;
            body["name"] = json!(name);
            body
        })
    };
    let crm = add("CRM", "https://crm.example/hook", json!({"events": ["MESSAGE_RECEIVED"]}));
    let audit =
        add("audit", "https://audit.example/hook", json!({"description": "for the CRM team"}));
    let books = add(
        "books",
        "https://books.example/",
        json!({"numbers": ["919000000001"], "events": ["ADD_TAG"]}),
    );
    served.subscribe(BETA, "https://beta.example/", json!({}));
    let ids = |query: &str| members(&served, &format!("/subscriptions?{query}"), 2, "id");
    assert_eq!(ids(""), [crm, audit, books]);
    assert_eq!(ids("sort=name"), [audit, books, crm]);
    assert_eq!(ids("name=crm"), [crm]);
    assert_eq!(ids("search=crm"), [crm, audit]);
    assert_eq!(ids(&format!("search={books}")), [books]);
    assert_eq!(ids("url=AUDIT.example"), [audit]);
    assert_eq!(ids("events=message"), [crm, audit]);
    assert_eq!(ids("numbers=9190"), [crm, audit, books]);
    assert_eq!(ids("numbers=002"), [crm, audit]);
    assert_eq!(ids("health=failing"), [] as [u64; 0]);
    assert_eq!(page(&served, "/subscriptions?limit=1")["total"], 3);
    // A subscription that is removed does not disturb the pages that follow.
    let first = page(&served, "/subscriptions?limit=1&sort=name");
    served.delete(&format!("/subscriptions/{audit}"), ACME).with_status(204);
    let next = format!("/subscriptions?sort=name&cursor={}", first["cursor"].as_str().unwrap());
    assert_eq!(page(&served, &next)["items"][0]["id"], books);
}

#[test]
fn unknown_parameters_are_refused_by_name() {
    let (_place, served) = HostProcess::fresh();
    let id = served.subscribe(ACME, "https://crm.example/hook", json!({}));
    let attempts = format!("/subscriptions/{id}/attempts");
    for path in ["/subscriptions", "/deliveries", "/dead-letters", "/events", &attempts, "/stats"] {
        let answer = served.get(&format!("{path}?colour=hidden"), ACME);
        answer.assert_refused(400, "invalid", Some("colour"));
        answer.assert_says(&["unknown parameter; expected one of", "account"]);
        assert!(!answer.body.contains("hidden"), "{answer:?}");
    }
    served.get("/subscriptions?sort=size", ACME).assert_refused(400, "invalid", Some("sort"));
    served.get("/subscriptions?cursor=x", ACME).assert_refused(400, "invalid", Some("cursor"));
    served.get("/dead-letters?since=today", ACME).assert_refused(400, "invalid", Some("since"));
}

#[test]
fn deliveries_say_what_they_wait_for() {
    let (_place, served) = HostProcess::fresh();
    let refusing = Receiver::answering(503);
    let slow =
        json!({"name": "crm", "retry": {"kind": "linear", "step_ms": 600_000, "max_ms": 600_000}});
    let id = served.subscribe(ACME, &refusing.url("/hook"), slow);
    let paused = served.subscribe(ACME, "https://paused.example/", json!({"name": "paused"}));
    served.post(&format!("/subscriptions/{paused}/pause"), ACME, "");
    served.post("/events", ACME, line(1));
    refusing.next();
    served.until(|stats| stats["retried"] == 1);
    let of = |query: &str| served.items(&format!("/deliveries?{query}"), ACME);
    served.until(|_| of("state=retrying")[0]["reason"] == "status:503");
    let retrying = &of("state=retrying")[0];
    assert_members(retrying, json!({"subscription": id, "subscription_name": "crm"}));
    assert_eq!(retrying["event_type"], "MESSAGE_RECEIVED");
    assert!(retrying["number"].is_string() && retrying["due_at"].is_string(), "{retrying}");
    assert!(retrying["accepted_at"].is_string());
    // When an attempt is due is known to a millisecond or so.
    let undated = |query: &str| {
        let mut items = of(query);
        items.iter_mut().for_each(|item| drop(item["due_at"].take()));
        items
    };
    assert_eq!(undated("reason=STATUS"), undated("state=retrying"));
    assert_eq!(of("event_type=message").len(), 2);
    assert_eq!(of("event_type=tag").len(), 0);
    assert_eq!(of("number=9190").len(), 2);
    // A webhook is given by its id or its name.
    assert_eq!(undated(&format!("subscription={id}")), undated("subscription=crm"));
    assert_eq!(of("subscription=crm").len(), 1);
    let unknown = served.get("/deliveries?subscription=nobody", ACME);
    unknown.assert_refused(400, "invalid", Some("subscription"));
    // Counted first; another account's are untouched.
    let only = json!({"reason": "503", "dry_run": true});
    assert_eq!(
        change(&served, "/deliveries/cancel", only),
        json!({"cancelled": 1, "dry_run": true})
    );
    assert_eq!(of("").len(), 2);
    assert_eq!(
        change(&served, "/deliveries/cancel", json!({"reason": "503"})),
        json!({"cancelled": 1})
    );
    assert_eq!(of("").len(), 1);
}

#[test]
fn many_are_changed_at_once_and_counted_first() {
    let (_place, served) = HostProcess::fresh();
    let dead = Receiver::answering(404);
    let ids: Vec<u64> = (0..3)
        .map(|n| {
            served.subscribe(ACME, &dead.url(&format!("/{n}")), json!({"name": format!("crm {n}")}))
        })
        .collect();
    let bystander = served.subscribe(BETA, &dead.url("/beta"), json!({"name": "crm beta"}));
    served.post("/events", ACME, line(1));
    served.until_listed(ACME, 3);
    let letters = |query: &str| served.items(&format!("/dead-letters?{query}"), ACME).len();
    assert_eq!(letters("reason=404"), 3);
    assert_eq!(letters("reason=timeout"), 0);
    assert_eq!(letters("event_type=tag"), 0);
    assert_eq!(letters("since=2020-01-01T00:00:00Z"), 3);
    assert_eq!(letters("until=2020-01-01T00:00:00Z"), 0);
    let replay = |body: Value| change(&served, "/dead-letters/replay", body);
    let counted = json!({"replayed": 3, "dry_run": true});
    assert_eq!(replay(json!({"reason": "404", "dry_run": true})), counted);
    assert_eq!(letters(""), 3);
    let discard = |body: Value| change(&served, "/dead-letters/discard", body);
    let one = json!({"subscription": ids[0], "dry_run": true});
    assert_eq!(discard(one), json!({"discarded": 1, "dry_run": true}));

    let pause = |body: Value| change(&served, "/subscriptions/pause", body);
    assert_eq!(
        pause(json!({"search": "crm", "dry_run": true})),
        json!({"changed": 3, "dry_run": true})
    );
    assert_eq!(pause(json!({"ids": [ids[0]]})), json!({"changed": 1}));
    assert_eq!(pause(json!({"search": "crm"})), json!({"changed": 2}));
    let states = members(&served, "/subscriptions?", 10, "state");
    assert_eq!(states, ["paused", "paused", "paused"]);
    assert_eq!(served.get(&format!("/subscriptions/{bystander}"), BETA).json()["state"], "active");
    assert_eq!(
        change(&served, "/subscriptions/resume", json!({"state": "paused"})),
        json!({"changed": 3})
    );
    let nothing = served.post("/subscriptions/pause", ACME, json!({"dry_run": true}).to_string());
    nothing.assert_refused(400, "invalid", None);
}

#[test]
fn the_worst_webhooks_come_first_in_the_stats() {
    let (_place, served) = HostProcess::fresh();
    let (dead, good) = (Receiver::answering(404), Receiver::answering(200));
    served.subscribe(ACME, &good.url("/good"), json!({"name": "good"}));
    served.subscribe(ACME, &dead.url("/dead"), json!({"name": "dead"}));
    served.post("/events", ACME, line(1));
    served.until(|stats| stats["dead_letters"] == 1 && stats["delivered"] == 1);
    let stats = page(&served, "/stats?worst=1");
    assert_eq!(stats["subscription_count"], 2);
    assert_eq!(stats["subscriptions"][0]["name"], "dead");
    assert_eq!(stats["subscriptions"].as_array().unwrap().len(), 1);
    assert_eq!(stats["dead_letters"], 1);
    assert_eq!(stats["subscriptions"][0]["account_name"], Value::Null);
}

#[test]
fn an_open_circuit_breaker_is_failing_too() {
    let (_place, served) = HostProcess::fresh();
    let (refusing, good) = (Receiver::answering(503), Receiver::answering(200));
    let breaker = json!({"failures": 1, "initial_ms": 600_000, "max_ms": 600_000});
    let id =
        served.subscribe(ACME, &refusing.url("/"), json!({"name": "down", "breaker": breaker}));
    served.subscribe(ACME, &good.url("/"), json!({"name": "good"}));
    served.post("/events", ACME, line(1));
    let ids = |health: &str| members(&served, &format!("/subscriptions?health={health}"), 2, "id");
    served.until(|_| ids("breaker_open") == [id]);
    assert_eq!(ids("failing"), [id]);
    let with_attempts = page(&served, &format!("/subscriptions/{id}?attempts=5"));
    assert_eq!(with_attempts["attempts"][0]["reason"], "status:503");
    assert_eq!(page(&served, &format!("/subscriptions/{id}"))["attempts"], Value::Null);
}

/// The next attempt of a delivery is not before the circuit breaker of its webhook lets one start.
#[test]
fn the_next_attempt_waits_for_an_open_breaker() {
    let (_place, served) = HostProcess::fresh();
    let receiver = Receiver::answering(503);
    let breaker = json!({
        "retry": {"kind": "linear", "step_ms": 1_000, "max_ms": 1_000},
        "breaker": {"failures": 1, "initial_ms": 3_600_000, "max_ms": 3_600_000},
    });
    served.subscribe(ACME, &receiver.url("/"), breaker);
    let event = r#"{"type":"T","number":"919000000001","payload":1}"#;
    let id = served.post("/events", ACME, event).json()["id"].as_str().unwrap().to_owned();
    served.until(|stats| stats["retried"] == 1);
    let list = served.get("/deliveries?state=retrying", ACME).json();
    let trace = served.get(&format!("/events/{id}"), ACME).json();
    let (listed, traced) = (&list["items"][0], &trace["deliveries"][0]);
    let time = |text: &Value| text.as_str().unwrap().parse::<Timestamp>().unwrap();
    for item in [listed, traced] {
        // An hour less the jitter of a fifth is 48 minutes.
        let waited = time(&item["due_at"]).duration_since(time(&listed["accepted_at"])).as_secs();
        assert!((2_400..=4_800).contains(&waited), "{item}");
    }
}
