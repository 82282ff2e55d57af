//! Each change belongs to one account.

use serde_json::{Value, json};

use super::*;

fn check_route(accounts: &Accounts, waba: Value, metadata: Value, expected: Option<&str>) {
    let value = json!({"metadata": metadata, "messages": [{"from": "91", "id": "m"}]});
    let change = json!({"field": "messages", "value": value});
    let given = json!({"entry": [{"id": waba, "changes": [change]}]}).to_string();
    let callback = read_events(&given, accounts);
    let routes: Vec<String> = lines(&callback)
        .iter()
        .map(|line| line.split(' ').skip(1).take(3).collect::<Vec<_>>().join(" "))
        .collect();
    let expected: Vec<&str> = expected.into_iter().cycle().take(2).collect();
    assert_eq!(routes, expected, "{given}");
    assert_eq!(unowned(&callback), 2 - u64::try_from(routes.len()).unwrap(), "{given}");
}

#[test]
fn the_number_decides_before_the_waba() {
    let two = two();
    let (first, second) = (json!("100000000000001"), json!("100000000000002"));
    let shown = |number: &str| json!({"display_phone_number": number});
    for (waba, metadata, expected) in [
        (&first, shown("+91 90000-00001"), Some("acme 919000000001 100000000000001")),
        (
            &first,
            json!({"display_phone_number": 919000000001_u64}),
            Some("acme 919000000001 100000000000001"),
        ),
        // The configured id wins over the display number.
        (
            &first,
            json!({"display_phone_number": "919000000003", "phone_number_id": "200000000000002"}),
            Some("acme 919000000002 100000000000001"),
        ),
        (
            &first,
            json!({"phone_number_id": "200000000000002"}),
            Some("acme 919000000002 100000000000001"),
        ),
        // The number decides, and the event does not name another account's WABA.
        (&second, shown("919000000001"), Some("acme 919000000001 -")),
        (&json!(100000000000001_u64), json!({}), Some("acme - 100000000000001")),
        (&first, json!(null), Some("acme - 100000000000001")),
        (&first, json!({"display_phone_number": null}), Some("acme - 100000000000001")),
        (&second, json!("shapeless"), Some("beta - 100000000000002")),
        // A number that no account owns belongs to the owner of its WABA.
        (&first, shown("919000000009"), Some("acme 919000000009 100000000000001")),
        // So does one that cannot be read, and then no webhook of another number gets it.
        (&first, shown("unknown"), Some("acme - -")),
        (&first, json!({"display_phone_number": {}}), Some("acme - -")),
        (&first, json!({"phone_number_id": "9"}), Some("acme - -")),
        // Neither number nor WABA is owned.
        (&json!("9"), shown("919000000009"), None),
        (&json!("9"), json!({"phone_number_id": "9"}), None),
        (&json!("9"), json!({}), None),
        (&json!(null), json!({}), None),
    ] {
        check_route(&two, waba.clone(), metadata, expected);
    }
}

#[test]
fn the_default_account_owns_everything() {
    let open = open();
    check_route(
        &open,
        json!("9"),
        json!({"display_phone_number": "919000000009"}),
        Some("default 919000000009 9"),
    );
    check_route(&open, json!("9"), json!({"display_phone_number": "x"}), Some("default - 9"));
    check_route(&open, json!(null), json!({}), Some("default - -"));
    check_route(&open, json!(""), json!({}), Some("default - -"));
}

#[test]
fn unowned_changes_are_counted_and_others_unchanged() {
    let beta = accounts(vec![Account::new("beta").waba("100000000000002", ["919000000003"])]);
    let callback = read_events(BATCH, &beta);
    let all = read_events(BATCH, &two());
    assert_eq!(unowned(&callback), 6);
    let seen: Vec<_> =
        callback.unowned.iter().map(|one| (one.number.as_deref(), one.events)).collect();
    assert_eq!(seen, [(Some("919000000001"), 3), (Some("919000000002"), 3)]);
    assert!(callback.unowned.iter().all(|one| one.waba.as_deref() == Some("100000000000001")));
    assert_eq!(lines(&callback), lines(&all)[6..]);
    let payloads = |callback: &Callback| -> Vec<Vec<u8>> {
        callback.events.iter().map(|event| event.payload.clone()).collect()
    };
    assert_eq!(payloads(&callback), payloads(&all)[6..]);
}

fn check_raw(entry: Value, routed_by: &str) {
    let bystander = json!({"id": "100000000000002", "changes": [{"field": "x"}]});
    let body = json!({"entry": [entry, bystander]}).to_string();
    let callback = read_events(&body, &two());
    let seen = lines(&callback);
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(seen[0].starts_with(&format!("RAW_CLOUD_API_WEBHOOK {routed_by} - ")), "{seen:?}");
    assert_eq!(value_of(&callback.events[0]), json!({"entry": [entry]}));
    assert_eq!(value_of(&callback.events[1]), json!({"entry": [bystander]}));
}

#[test]
fn unknown_fields_and_shapes_become_raw_events() {
    let waba = "100000000000001";
    let by_waba = "acme - 100000000000001";
    let by_number = "acme 919000000001 100000000000001";
    let value = json!({"metadata": {"display_phone_number": "919000000001"},
        "messages": [{"id": "m"}]});
    for (change, routed_by) in [
        (json!({"field": "a_field_of_tomorrow", "value": {"event": "X"}}), by_waba),
        (json!({"field": "messages", "value": [1]}), by_waba),
        (json!({"field": "messages"}), by_waba),
        (json!({"field": 5, "value": value}), by_number),
        (json!({"value": value}), by_number),
        (json!({"field": "a_field_of_tomorrow", "value": value}), by_number),
        (json!("no object"), by_waba),
        (json!(null), by_waba),
    ] {
        check_raw(json!({"id": waba, "changes": [change]}), routed_by);
    }
    check_raw(json!({"id": waba, "messaging": [{"sender": 1}]}), by_waba);
    check_raw(json!({"id": waba, "changes": {"field": "messages"}}), by_waba);
}

/// The account, number and WABA of a change's raw event; a bystander of another account comes with it.
fn check_owner(accounts: &Accounts, waba: &str, change: Value, expected: Option<&str>) {
    let bystander = json!({"id": "100000000000002", "changes": [{"field": "x"}]});
    let body = json!({"entry": [{"id": waba, "changes": [change]}, bystander]}).to_string();
    let callback = read_events(&body, accounts);
    let mut lines = lines(&callback);
    let last = lines.pop().unwrap();
    assert!(last.starts_with("RAW_CLOUD_API_WEBHOOK beta - 100000000000002 "), "{last}");
    let seen = lines.pop();
    let seen =
        seen.as_ref().map(|line| line.split(' ').skip(1).take(3).collect::<Vec<_>>().join(" "));
    assert_eq!(seen.as_deref(), expected, "{body}");
    assert_eq!(unowned(&callback) > 0, expected.is_none(), "{body}");
}

/// Brazil, Mexico and Argentina write a mobile number with and without a further digit.
#[test]
fn a_number_in_another_spelling_is_the_configured_one() {
    let all = accounts(vec![
        Account::new("acme").waba("1", ["5554996000222", "525511112222", "5491122223333"]),
        Account::new("beta").waba("100000000000002", ["5554996000333"]),
    ]);
    let change = |number: &str| {
        json!({"field": "calls", "value": {
        "metadata": {"display_phone_number": number, "phone_number_id": "7"}}})
    };
    for (waba, given, expected) in [
        ("1", "555496000222", Some("acme 5554996000222 1")),
        ("1", "5215511112222", Some("acme 525511112222 1")),
        ("1", "541122223333", Some("acme 5491122223333 1")),
        // No number of the account in either spelling: the WABA decides.
        ("1", "555496000999", Some("acme 555496000999 1")),
        ("1", "551199999999", Some("acme 551199999999 1")),
        // Another account owns the number.
        ("1", "5554996000333", Some("beta 5554996000333 -")),
        ("9", "555496000333", Some("beta 5554996000333 -")),
        ("9", "555496000999", None),
    ] {
        check_owner(&all, waba, change(given), expected);
    }
}

#[test]
fn a_change_about_a_number_names_it_outside_metadata() {
    let two = two();
    let (first, waba) = ("100000000000001", "acme 919000000002 100000000000001");
    let number = json!({"display_phone_number": "+91 90000 00002"});
    let id = json!({"phone_number_id": "200000000000002"});
    let settings = json!({"type": "phone_number_settings", "phone_number_settings": id});
    let alert = json!({"entity_type": "PHONE_NUMBER", "entity_id": 200000000000002_u64});
    for (field, value, expected) in [
        ("security", number.clone(), waba),
        ("phone_number_quality_update", number.clone(), waba),
        ("phone_number_name_update", number.clone(), waba),
        ("account_settings_update", settings, waba),
        ("messaging_handovers", json!({"recipient": number}), waba),
        ("messaging_handovers", json!({"recipient": id}), waba),
        ("account_alerts", alert, waba),
        ("account_update", json!({"phone_number": "919000000002", "event": "X"}), waba),
        // Not about a number.
        ("account_update", json!({"event": "X"}), "acme - 100000000000001"),
        (
            "account_alerts",
            json!({"entity_type": "WABA", "entity_id": 200000000000002_u64}),
            "acme - 100000000000001",
        ),
        // About a number that is not known: no webhook of another number gets it.
        (
            "account_settings_update",
            json!({"phone_number_settings": {"phone_number_id": "9"}}),
            "acme - -",
        ),
        (
            "security",
            json!({"display_phone_number": "919000000009"}),
            "acme 919000000009 100000000000001",
        ),
    ] {
        check_owner(&two, first, json!({"field": field, "value": value}), Some(expected));
    }
}

#[test]
fn a_change_about_a_customers_waba_belongs_to_its_owner() {
    let two = two();
    let change = |field: &str, waba: Value| json!({"field": field, "value": {"event": "PARTNER_ADDED", "waba_info": {"waba_id": waba}}});
    for field in ["account_update", "partner_solutions"] {
        // The entry has the id of the partner's business.
        let acme = Some("acme - 100000000000001");
        check_owner(&two, "7", change(field, json!("100000000000001")), acme);
        check_owner(&two, "7", change(field, json!(100000000000001_u64)), acme);
        check_owner(&two, "100000000000002", change(field, json!("100000000000001")), acme);
        // About a WABA that nobody owns: not for the owner of the entry's.
        check_owner(&two, "100000000000001", change(field, json!("7")), None);
        check_owner(&two, "100000000000001", change(field, json!(null)), acme);
    }
}

#[test]
fn unowned_sources_are_named_without_control_characters() {
    let change = json!({"field": "x", "value": {"metadata": {"phone_number_id": "9\n9"}}});
    let waba = format!("{}\u{7}", "7".repeat(100));
    let body = json!({"entry": [{"id": waba, "changes": [change, change, {"field": "y"}]}]});
    let unowned = read_events(&body.to_string(), &two()).unowned;
    let seen: Vec<_> = unowned.iter().map(|one| (one.number.as_deref(), one.events)).collect();
    assert_eq!(seen, [(None, 1), (Some("99"), 2)]);
    assert_eq!(unowned[0].waba.as_ref().map(String::len), Some(64));
}
