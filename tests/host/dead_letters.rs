//! Dead letters and deliveries over HTTP: listed page by page, read, replayed.

use serde_json::{Value, json};

use crate::client::assert_members;
use crate::host_process::{ACME, BETA, HostProcess, OPERATOR, line};
use crate::receiver::Receiver;

#[test]
fn dead_letters_are_listed_read_and_replayed() {
    let (place, served) = HostProcess::fresh();
    let (dead, other) = (Receiver::answering(404), Receiver::answering(200));
    let id = served.subscribe(ACME, &dead.url("/dead"), json!({}));
    served.subscribe(ACME, &other.url("/bystander"), json!({}));
    served.subscribe(BETA, &other.url("/beta"), json!({}));
    let published: Vec<_> = (0..3).map(|n| served.post("/events", ACME, line(n)).json()).collect();
    let listed = served.until_listed(ACME, 3);
    assert_eq!(served.paged_items("/dead-letters?", ACME, 1), listed);
    let first = &listed[0];
    assert!(published.iter().any(|one| one["id"] == first["event_id"]), "{first}");
    assert_members(
        first,
        json!({"subscription": id, "attempts": 1, "reason": "status:404", "status": 404}),
    );
    assert!(first["at"].as_str().is_some_and(|at| at.ends_with('Z')), "{first}");
    let path = format!("/dead-letters/{}", first["id"].as_str().unwrap());
    let whole = served.get(&path, ACME).json();
    assert_eq!(whole["id"], first["id"]);
    let history = whole["history"].as_array().unwrap();
    assert_eq!((history.len(), &history[0]["number"]), (1, &json!(1)));
    assert_eq!(history[0]["reason"], "status:404");

    assert_eq!(served.items("/dead-letters", BETA), [] as [Value; 0]);
    served.get(&path, BETA).assert_refused(404, "not_found", None);
    served.get("/dead-letters/nothing", ACME).assert_refused(404, "not_found", None);
    let replay = |served: &HostProcess, key: &str, body: Value| {
        let answer = served.post("/dead-letters/replay", key, body.to_string()).with_status(202);
        answer.json()["replayed"].as_u64().unwrap()
    };
    let of_first = json!({"ids": [first["id"]]});
    assert_eq!(replay(&served, BETA, of_first.clone()), 0, "another account's");
    let foreign = json!({"subscription": id}).to_string();
    served.post("/dead-letters/replay", BETA, foreign).assert_refused(404, "not_found", None);
    assert_eq!(replay(&served, ACME, json!({"reason": "timeout"})), 0);
    assert_eq!(replay(&served, ACME, json!({"since": "2200-01-01T00:00:00Z"})), 0);
    assert_eq!(served.items("/dead-letters?reason=status:404", ACME), listed);
    assert_eq!(served.items("/dead-letters?reason=gate", ACME), [] as [Value; 0]);
    assert_eq!(served.items(&format!("/dead-letters?subscription={id}"), ACME), listed);

    dead.answer(200);
    dead.arrived();
    assert_eq!(replay(&served, ACME, of_first.clone()), 1);
    assert_eq!(dead.next().id(), first["event_id"].as_str().unwrap());
    assert_eq!(replay(&served, ACME, of_first), 0, "it is no letter any more");
    served.until(|stats| stats["owed"] == 0);
    served.kill();
    let served = place.start();
    assert_eq!(served.items("/dead-letters", ACME), listed[1..]);
    let rest = json!({"subscription": id, "since": "2020-01-01T00:00:00Z"});
    assert_eq!(replay(&served, ACME, rest), 2);
    // The first may arrive again: its settlement may not be durable yet.
    served.until(|stats| stats["delivered"].as_u64() >= Some(2) && stats["owed"] == 0);
    assert_eq!(served.items("/dead-letters", ACME), [] as [Value; 0]);
}

#[test]
fn deliveries_are_listed_by_state_to_their_account() {
    let (_place, served) = HostProcess::fresh();
    let (failing, dead) = (Receiver::answering(503), Receiver::answering(404));
    let slow = json!({"retry": {"kind": "linear", "step_ms": 600_000, "max_ms": 600_000}});
    let fails = served.subscribe(ACME, &failing.url("/fails"), slow);
    let waits = served.subscribe(ACME, &dead.url("/waits"), json!({"after": fails}));
    let paused = served.subscribe(ACME, &dead.url("/paused"), json!({}));
    let gone = served.subscribe(ACME, &dead.url("/dead"), json!({}));
    let beta = served.subscribe(BETA, &dead.url("/beta"), json!({}));
    for (id, key) in [(paused, ACME), (beta, BETA)] {
        served.post(&format!("/subscriptions/{id}/pause"), key, "").with_status(200);
    }
    assert_eq!(served.post("/events", ACME, line(1)).json()["owed"], 4);
    let of_beta = r#"{"type":"T","number":"919000000003","payload":{}}"#;
    assert_eq!(served.post("/events", BETA, of_beta).json()["owed"], 1);
    served.until_listed(ACME, 1);
    served.until(|stats| stats["retried"] == 1);
    let listed = served.items("/deliveries", ACME);
    let shown: Vec<_> = listed.iter().map(|one| (&one["subscription"], &one["state"])).collect();
    let expected = [(fails, "retrying"), (waits, "blocked"), (paused, "blocked"), (gone, "dead")];
    let expected = expected.map(|(id, state)| (json!(id), json!(state)));
    assert_eq!(shown, expected.iter().map(|(id, state)| (id, state)).collect::<Vec<_>>());
    assert!(listed[0]["due_at"].is_string() && listed[0]["attempts"] == 1, "{listed:?}");
    assert_eq!((&listed[3]["reason"], &listed[1]["due_at"]), (&json!("status:404"), &json!(null)));
    let paged = served.paged_items("/deliveries?", ACME, 1);
    // Two readings of the clock may give due times a millisecond apart.
    assert_eq!((&paged[0]["subscription"], &paged[1..]), (&json!(fails), &listed[1..]));
    assert_eq!(served.paged_items("/deliveries?state=blocked,dead&", ACME, 1), listed[1..]);
    assert_eq!(served.items("/deliveries?state=owed", ACME), [] as [Value; 0]);
    assert_eq!(served.items(&format!("/deliveries?subscription={paused}"), ACME), listed[2..3]);
    let theirs = served.items("/deliveries", BETA);
    assert_eq!((theirs.len(), &theirs[0]["subscription"]), (1, &json!(beta)));
}

#[test]
fn wrong_listings_and_replays_are_refused_by_field() {
    let (_place, served) = HostProcess::fresh();
    for (path, field) in [
        ("/dead-letters?limit=0", "limit"),
        ("/dead-letters?cursor=hidden", "cursor"),
        ("/dead-letters?cursor=evt_00000000000000070000000000000009.3", "cursor"),
        ("/dead-letters?subscription=hidden", "subscription"),
        ("/dead-letters?colour=hidden", "colour"),
        ("/deliveries?state=hidden", "state"),
        ("/deliveries?cursor=owed.1", "cursor"),
        ("/deliveries?limit=1001", "limit"),
    ] {
        let answer = served.get(path, ACME);
        answer.assert_refused(400, "invalid", Some(field));
        assert!(!answer.body.contains("hidden"), "{answer:?}");
    }
    let replay = |body: &str| served.post("/dead-letters/replay", ACME, body);
    replay("{}").assert_refused(400, "invalid", None);
    replay("").assert_refused(400, "invalid", None);
    replay(r#"{"ids":["x"]}"#).assert_refused(400, "invalid", Some("ids[0]"));
    replay(r#"{"since":"yesterday"}"#).assert_refused(400, "invalid", Some("since"));
    for (method, path) in [
        ("GET", "/deliveries"),
        ("GET", "/dead-letters"),
        ("GET", "/dead-letters/x"),
        ("POST", "/dead-letters/replay"),
    ] {
        let answer = served.request(method, path, &[], b"{}");
        answer.assert_refused(401, "unauthorized", None);
    }
}

#[test]
fn what_is_no_longer_wanted_is_discarded_cancelled_and_purged() {
    let (place, served) = HostProcess::fresh();
    let (dead, other) = (Receiver::answering(404), Receiver::answering(200));
    let id = served.subscribe(ACME, &dead.url("/dead"), json!({}));
    let paused = served.subscribe(ACME, &other.url("/paused"), json!({}));
    let bystander = served.subscribe(BETA, &dead.url("/bystander"), json!({}));
    served.post(&format!("/subscriptions/{paused}/pause"), ACME, "");
    for n in 0..3 {
        served.post("/events", ACME, line(n));
    }
    let _ = bystander;
    let listed = served.until_listed(ACME, 3);
    let end = |served: &HostProcess, path: &str, key: &str, body: Value| {
        let answer = served.post(path, key, body.to_string()).with_status(202);
        answer.json()
    };
    let one = json!({"ids": [listed[0]["id"]], "subscription": id});
    let foreign = served.post("/dead-letters/discard", BETA, one.to_string());
    foreign.assert_refused(404, "not_found", None);
    assert_eq!(end(&served, "/dead-letters/discard", ACME, one), json!({"discarded": 1}));
    served.post("/dead-letters/discard", ACME, "{}").assert_refused(400, "invalid", None);
    let cancel = json!({"subscription": paused, "state": ["retrying"]});
    assert_eq!(end(&served, "/deliveries/cancel", ACME, cancel), json!({"cancelled": 0}));
    let cancel = json!({"subscription": paused});
    let foreign = served.post("/deliveries/cancel", BETA, cancel.to_string());
    foreign.assert_refused(404, "not_found", None);
    assert_eq!(end(&served, "/deliveries/cancel", ACME, cancel), json!({"cancelled": 3}));
    served.post("/deliveries/cancel", ACME, "{}").assert_refused(400, "invalid", None);
    let purge = json!({"number": "919000000001"});
    let foreign = served.post("/purge", BETA, purge.to_string());
    foreign.assert_refused(403, "forbidden", Some("number"));
    assert_eq!(end(&served, "/purge", ACME, purge), json!({"purged": 2, "erased": 3}));
    served.post("/purge", ACME, "{}").assert_refused(400, "invalid", None);
    let stats = served.get("/stats", ACME).json();
    let counts = ["letters_discarded", "cancelled", "purged", "owed"].map(|name| &stats[name]);
    assert_eq!(counts, [&json!(3), &json!(3), &json!(2), &json!(0)]);
    served.kill();
    let served = place.start();
    assert_eq!(served.items("/deliveries", ACME), [] as [Value; 0]);
}

/// What can match nothing is refused, in place of an answer of 0; and an empty text is no filter that all match.
#[test]
fn a_filter_that_can_match_nothing_is_refused() {
    let (_place, served) = HostProcess::operated();
    let dead = Receiver::answering(404);
    let own = served.subscribe(ACME, &dead.url("/dead"), json!({}));
    let bystander = served.subscribe(BETA, &dead.url("/bystander"), json!({}));
    served.post("/events", ACME, line(0));
    served.until_listed(ACME, 1);
    let (replay, discard) = ("/dead-letters/replay", "/dead-letters/discard");
    let cancel = "/deliveries/cancel";
    for (path, body, status, field) in [
        ("/purge", json!({"contact": ""}), 400, Some("contact")),
        ("/purge", json!({"contacts": "15550001111"}), 400, Some("contacts")),
        ("/purge", json!({"number": "919000000003"}), 403, Some("number")),
        (replay, json!({"subscription": 999}), 404, None),
        (discard, json!({"subscription": 999}), 404, None),
        (discard, json!({"subscription": bystander}), 404, None),
        (discard, json!({"reason": ""}), 400, Some("reason")),
        (discard, json!({"event_type": ""}), 400, Some("event_type")),
        (discard, json!({"number": ""}), 400, Some("number")),
        (discard, json!({"number": "+"}), 400, Some("number")),
        (discard, json!({"reasons": "expired"}), 400, Some("reasons")),
        (cancel, json!({"subscription": 999}), 404, None),
        (cancel, json!({"state": ["dead"]}), 400, Some("state")),
        (cancel, json!({"state": []}), 400, Some("state")),
        (cancel, json!({"reason": ""}), 400, Some("reason")),
    ] {
        let code = match status {
            400 => "invalid",
            403 => "forbidden",
            _ => "not_found",
        };
        let answer = served.post(path, ACME, body.to_string());
        assert_eq!(answer.status, status, "{path} {body}: {answer:?}");
        answer.assert_refused(status, code, field);
        if status == 404 {
            let answer = served.post(path, OPERATOR, json!({"subscription": 999}).to_string());
            answer.assert_refused(404, "not_found", None);
        }
    }
    assert_eq!(served.items("/dead-letters", ACME).len(), 1, "nothing ended");
    let own = json!({"subscription": own, "number": "919000000002"}).to_string();
    let answer = served.post(discard, ACME, own);
    assert_eq!((answer.status, answer.json()), (202, json!({"discarded": 0})));
}

/// A cursor names a dead letter. One of another account is like one that does not exist, or a caller could find out
/// which ones do.
#[test]
fn a_cursor_names_only_a_letter_of_its_account() {
    let (_place, served) = HostProcess::fresh();
    let dead = Receiver::answering(404);
    let id = served.subscribe(ACME, &dead.url("/acme"), json!({}));
    served.subscribe(BETA, &dead.url("/beta"), json!({}));
    let beta = r#"{"type":"T","number":"919000000003","payload":1}"#;
    (0..2).for_each(|_| assert_eq!(served.post("/events", BETA, beta).status, 202));
    (0..2).for_each(|n| assert_eq!(served.post("/events", ACME, line(n)).status, 202));
    let acme = served.until_listed(ACME, 2);
    served.until_listed(BETA, 2);
    let foreign = acme[0]["id"].as_str().unwrap();
    let refused = |list: &str| {
        let answer = served.get(&format!("{list}{foreign}"), BETA);
        answer.assert_refused(400, "invalid", Some("cursor"));
    };
    refused("/dead-letters?cursor=");
    refused("/deliveries?cursor=dead.");
    // A letter of a removed subscription is still the account's.
    served.delete(&format!("/subscriptions/{id}"), ACME).with_status(204);
    refused("/dead-letters?cursor=");
    let rest = served.items(&format!("/dead-letters?cursor={foreign}"), ACME);
    assert_eq!((rest.len(), &rest[0]["id"]), (1, &acme[1]["id"]));
    assert_eq!(served.paged_items("/dead-letters?", ACME, 1).len(), 2);
    assert_eq!(served.paged_items("/dead-letters?", BETA, 1).len(), 2);
}
