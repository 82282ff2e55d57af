//! "Where is this message?": what became of an event, by what a support person knows of it.

use std::time::Instant;

use serde_json::{Value, json};

use crate::host_process::{ACME, BETA, HostProcess};
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
    let answer = served.get(&format!("/events?{query}"), key);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["items"].as_array().unwrap().clone()
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

#[test]
fn a_message_is_found_wherever_it_is() {
    let (place, served) = HostProcess::fresh();
    let (good, refusing, dead) =
        (Receiver::answering(200), Receiver::answering(503), Receiver::answering(404));
    let slow = json!({"events": ["ADD_TAG"], "name": "slow",
        "retry": {"kind": "linear", "step_ms": 600_000, "max_ms": 600_000}});
    served.subscribe(
        ACME,
        &good.url("/good"),
        json!({"events": ["MESSAGE_RECEIVED"], "name": "good"}),
    );
    served.subscribe(ACME, &refusing.url("/slow"), slow);
    served.subscribe(ACME, &dead.url("/dead"), json!({"events": ["REMOVE_TAG"], "name": "dead"}));
    let kinds = ["MESSAGE_RECEIVED", "ADD_TAG", "REMOVE_TAG", "NOBODY_WANTS_IT"];
    let expected = ["delivered", "retrying", "dead", "no_subscriber", "unknown"];
    let count = if cfg!(debug_assertions) { 200 } else { 1_000 };
    let ids: Vec<String> = (0..count).map(|n| format!("wamid.FIND{n:06}")).collect();
    for (n, id) in ids.iter().enumerate().filter(|(n, _)| n % 5 != 4) {
        let answer = served.post("/events", ACME, message(id, kinds[n % 5], "919812300001"));
        assert_eq!(answer.status, 202, "{answer:?}");
        if n % 50 == 0 {
            let again = served.post("/events", ACME, message(id, kinds[n % 5], "919812300001"));
            assert_eq!(again.json()["duplicate"], true, "{again:?}");
        }
    }
    served.until(|stats| {
        let of = |name: &str| stats[name].as_u64().unwrap();
        let each = count as u64 / 5;
        of("delivered") == each && of("dead") == each && of("retried") >= 1
    });
    served.until(|_| (0..5).all(|n| state(&served, &ids[n]) == expected[n]));
    let mut times = Vec::new();
    for (n, id) in ids.iter().enumerate() {
        let started = Instant::now();
        let found = state(&served, id);
        times.push(started.elapsed());
        // The breaker of the refusing endpoint holds the others back.
        let is_right = found == expected[n % 5] || (n % 5 == 1 && found == "owed");
        assert!(is_right, "{id}: {found}");
    }
    times.sort_unstable();
    let ms = |time: std::time::Duration| time.as_secs_f64() * 1000.0;
    let p99 = ms(times[times.len() * 99 / 100]);
    println!("find: {count} message ids, median {:.1} ms, p99 {p99:.1} ms", ms(times[count / 2]));
    assert_eq!(find(&served, &format!("message_id={}", ids[0]), ACME)[0]["duplicates"], 1);

    check_one(&served, &ids);
    let by_key = find(&served, &format!("dedup_key={}", ids[2]), ACME);
    assert_eq!((by_key.len(), &by_key[0]["state"]), (1, &json!("dead")));
    let page = served.get("/events?contact=919812300001&type=message_rec&limit=30", ACME).json();
    assert_eq!(page["items"].as_array().unwrap().len(), 30);
    let rest = format!(
        "contact=919812300001&type=message_rec&cursor={}",
        page["cursor"].as_str().unwrap()
    );
    assert_eq!(find(&served, &rest, ACME).len(), (count / 5 - 30).min(100));
    assert_eq!(find(&served, "number=919000000001&since=2099-01-01T00:00:00Z", ACME).len(), 0);
    assert_eq!(find(&served, &format!("message_id={}", ids[0]), BETA).len(), 0);

    // What is owed and dead is found after a restart, and the history too.
    served.kill();
    let served = place.start();
    for (n, id) in ids.iter().enumerate().take(5) {
        let found = state(&served, id);
        assert!(found == expected[n] || n == 1 && found == "owed", "{id}: {found}");
    }
    let purged = served.post("/purge", ACME, json!({"contact": "919812300001"}).to_string());
    assert_eq!(purged.status, 202, "{purged:?}");
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
    assert_eq!(
        (&delivery["subscription_name"], &delivery["state"]),
        (&json!("dead"), &json!("dead"))
    );
    assert_eq!(
        (&delivery["reason"], &delivery["history"][0]["status"]),
        (&json!("status:404"), &json!(404))
    );
    assert!(whole["payload"].as_str().unwrap().contains(&ids[2]), "{whole}");
    served.get(&path, BETA).assert_refused(404, "not_found", None);
    served.get("/events/evt_00000000000000000000000000000000", ACME).assert_refused(
        404,
        "not_found",
        None,
    );
    served.get("/events/nothing", ACME).assert_refused(404, "not_found", None);
}
