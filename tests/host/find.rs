//! "Where is this message?": what became of an event, by what a support person knows of it.

use std::time::Instant;

use serde_json::{Value, json};

use crate::client::assert_members;
use crate::host_process::{ACME, BETA, HostDirectory, HostProcess, line};
use crate::receiver::Receiver;

/// A message as an event, whose text decides who gets it.
fn message(id: &str, event_type: &str, contact: &str) -> String {
    let payload = json!({"messages": [{"from": contact, "id": id, "type": "text"}]});
    json!({
        "type": event_type, "number": "919000000001", "key": contact, "dedup_key": id, "payload": payload,
    })
    .to_string()
}

fn find(served: &HostProcess, query: &str, key: &str) -> Vec<Value> {
    served.items(&format!("/events?{query}"), key)
}

/// The state of the only event with a message id.
fn state(served: &HostProcess, id: &str) -> String {
    let found = find(served, &format!("message_id={id}"), ACME);
    match found.as_slice() {
        [] => "unknown".to_owned(),
        [one] => one["state"].as_str().unwrap().to_owned(),
        more => panic!("{id}: {} events", more.len()),
    }
}

/// How often each message is published, its event type, and where it is then. The last is a duplicate.
const KINDS: [(usize, &str, &str); 6] = [
    (1, "MESSAGE_RECEIVED", "delivered"),
    (1, "ADD_TAG", "retrying"),
    (1, "REMOVE_TAG", "dead"),
    (1, "NOBODY_WANTS_IT", "no_subscriber"),
    (0, "MESSAGE_RECEIVED", "unknown"),
    (2, "MESSAGE_RECEIVED", "delivered"),
];

/// Message ids of each kind in turn, in an order and with texts that nothing predicts.
fn random_ids(count: usize) -> Vec<String> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..count).map(|_| format!("wamid.HBgM{:016x}{:016x}", next(), next())).collect()
}

fn kind(n: usize) -> (usize, &'static str, &'static str) {
    KINDS[n % KINDS.len()]
}

/// Publishes each message as often as its kind says.
fn publish_all(served: &HostProcess, ids: &[String]) {
    for (n, id) in ids.iter().enumerate() {
        let (times, event_type, _) = kind(n);
        for time in 0..times {
            let answer = served
                .post("/events", ACME, message(id, event_type, "919812300001"))
                .with_status(202);
            assert_eq!(answer.json()["duplicate"] == true, time > 0, "{answer:?}");
        }
    }
}

/// Looks all messages up, in another order than they were published in, and prints how long that takes.
fn look_up_all(served: &HostProcess, ids: &[String]) {
    let count = ids.len();
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|n| &ids[*n]);
    let mut times = Vec::new();
    for n in order {
        let started = Instant::now();
        let found = state(served, &ids[n]);
        times.push(started.elapsed());
        assert_eq!(found, kind(n).2, "{}", ids[n]);
    }
    times.sort_unstable();
    let ms = |time: std::time::Duration| time.as_secs_f64() * 1000.0;
    let p99 = ms(times[times.len() * 99 / 100]);
    println!(
        "find: {count} random message ids, median {:.1} ms, p99 {p99:.1} ms",
        ms(times[count / 2])
    );
}

/// The time of each look-up is printed:
/// `cargo test --release --all-features --test host a_message_is_found -- --nocapture`.
#[test]
fn a_message_is_found_wherever_it_is() {
    let (place, served) = HostProcess::fresh();
    let (good, refusing, dead) =
        (Receiver::answering(200), Receiver::answering(503), Receiver::answering(404));
    let slow = json!({"events": ["ADD_TAG"], "name": "slow", "breaker": "never",
        "retry": {"kind": "linear", "step_ms": 600_000, "max_ms": 600_000}});
    served.subscribe(
        ACME,
        &good.url("/good"),
        json!({"events": ["MESSAGE_RECEIVED"], "name": "good"}),
    );
    served.subscribe(ACME, &refusing.url("/slow"), slow);
    served.subscribe(ACME, &dead.url("/dead"), json!({"events": ["REMOVE_TAG"], "name": "dead"}));
    let count = if cfg!(debug_assertions) { 198 } else { 1_002 };
    let ids = random_ids(count);
    publish_all(&served, &ids);
    served.until(|stats| {
        let of = |name: &str| stats[name].as_u64().unwrap();
        let each = (count / KINDS.len()) as u64;
        of("delivered") == 2 * each && of("dead") == each && of("retried") == each
    });
    served.until(|_| (0..6).all(|n| state(&served, &ids[n]) == kind(n).2));
    look_up_all(&served, &ids);
    assert_eq!(find(&served, &format!("message_id={}", ids[5]), ACME)[0]["duplicates"], 1);
    assert_eq!(find(&served, &format!("message_id={}", ids[0]), ACME)[0]["duplicates"], 0);

    check_one(&served, &ids);
    let by_key = find(&served, &format!("dedup_key={}", ids[2]), ACME);
    assert_eq!((by_key.len(), &by_key[0]["state"]), (1, &json!("dead")));
    let page = served.get("/events?contact=919812300001&type=message_rec&limit=30", ACME).json();
    assert_eq!(page["items"].as_array().unwrap().len(), 30);
    let rest = format!(
        "contact=919812300001&type=message_rec&cursor={}",
        page["cursor"].as_str().unwrap()
    );
    assert_eq!(find(&served, &rest, ACME).len(), (count / 3 - 30).min(100));
    assert_eq!(find(&served, "number=919000000001&since=2099-01-01T00:00:00Z", ACME).len(), 0);
    assert_eq!(find(&served, &format!("message_id={}", ids[0]), BETA).len(), 0);

    // What is owed and dead is found after a restart, and the history too.
    served.kill();
    let served = place.start();
    for (n, id) in ids.iter().enumerate().take(6) {
        let found = state(&served, id);
        assert!(found == kind(n).2 || n == 1 && found == "owed", "{id}: {found}");
    }
    served.post("/purge", ACME, json!({"contact": "919812300001"}).to_string()).with_status(202);
    assert_eq!(
        find(&served, "contact=919812300001", ACME).len(),
        0,
        "nothing of a contact is left"
    );
}

/// One event with its payload and its attempts.
fn check_one(served: &HostProcess, ids: &[String]) {
    let dead = &find(served, &format!("message_id={}", ids[2]), ACME)[0];
    assert_eq!(dead["payload"], Value::Null);
    let path = format!("/events/{}", dead["id"].as_str().unwrap());
    let whole = served.get(&path, ACME).json();
    let delivery = &whole["deliveries"][0];
    assert_members(delivery, json!({"subscription_name": "dead", "state": "dead"}));
    assert_eq!(delivery["reason"], "status:404");
    assert_eq!(delivery["history"][0]["status"], 404);
    assert!(whole["payload"].as_str().unwrap().contains(&ids[2]), "{whole}");
    served.get(&path, BETA).assert_refused(404, "not_found", None);
    served.get("/events/evt_00000000000000000000000000000000", ACME).assert_refused(
        404,
        "not_found",
        None,
    );
    served.get("/events/nothing", ACME).assert_refused(404, "not_found", None);
}

/// One account owes more than is read for a page. Another one finds its own event on the first.
#[test]
fn a_search_reads_no_backlog_of_another_account() {
    let (_place, served) = HostDirectory::with("[limits]\nhistory_bytes_max = 0").serving();
    let receiver = Receiver::answering(200);
    for key in [ACME, BETA] {
        let id = served.subscribe(key, &receiver.url("/"), json!({}));
        served.post(&format!("/subscriptions/{id}/pause"), key, "").with_status(200);
    }
    let beta = r#"{"type":"T","number":"919000000003","payload":1}"#;
    let own = served.post("/events", BETA, beta).json();
    let lines: Vec<_> = (0..2_100).map(line).collect();
    served.post_lines(ACME, &lines.join("\n")).with_status(202);
    let page = served.get("/events?limit=1000", BETA).json();
    assert_eq!((&page["items"][0]["id"], &page["cursor"]), (&own["id"], &Value::Null), "{page}");
    assert_eq!(served.paged_items("/events?", ACME, 1_000).len(), 2_100);
}

/// A list shows no payload, but what reads an event has it in memory. One request must not hold thousands of them.
#[test]
fn a_page_of_large_events_is_short() {
    for limits in ["", "[limits]\nhistory_bytes_max = 0"] {
        let (_place, served) = HostDirectory::with(limits).serving();
        let receiver = Receiver::answering(200);
        let id = served.subscribe(ACME, &receiver.url("/"), json!({}));
        served.post(&format!("/subscriptions/{id}/pause"), ACME, "").with_status(200);
        let payload = "x".repeat(1024 * 1024);
        let large = |number: &str| json!({"type": "T", "number": number, "payload": payload});
        for _ in 0..12 {
            let event = large("919000000001").to_string();
            served.post("/events", ACME, event).with_status(202);
        }
        served.post("/events", BETA, large("919000000003").to_string()).with_status(202);
        let page = served.get("/events?limit=1000", ACME);
        assert!((1..12).contains(&page.items().len()), "{}", page.items().len());
        assert_eq!(served.paged_items("/events?", ACME, 1_000).len(), 12);
        let bystander = served.paged_items("/events?", BETA, 1_000);
        assert_eq!(bystander.len(), usize::from(limits.is_empty()), "without a subscriber");
    }
}
