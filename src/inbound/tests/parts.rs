//! A callback is split among those who serve its accounts.

use proptest::prelude::*;

use super::properties::any_callback;
use super::*;
use crate::inbound::cloud_api::split;

/// Where the two accounts of [`two`] are served; what nobody owns is counted at the first.
fn place(account: Option<&str>) -> u16 {
    u16::from(account == Some("acct_beta"))
}

/// What of an event does not depend on how its callback was split: all but the ordering key, which a user id in another
/// account's change may replace, and the payload of a part, which holds all contacts of a change that is alone.
fn compared(callback: &Callback) -> Vec<String> {
    let of_event = |event: &Event| {
        let line = line(event);
        let words: Vec<&str> = line.split(' ').collect();
        let raw = (!event.is_part).then(|| payload(event).to_owned());
        format!("{:?} {:?} {raw:?}", &words[..4.min(words.len())], event.dedup_key)
    };
    callback.events.iter().map(of_event).collect()
}

fn check_parts(body: &str) -> Vec<u16> {
    let accounts = two();
    let parts = split(body.as_bytes(), &accounts, place).unwrap();
    let whole = read_events(body, &accounts);
    let mut seen = Vec::new();
    for (at, part) in &parts {
        let part = read_events(std::str::from_utf8(part).unwrap(), &accounts);
        for event in &part.events {
            assert_eq!(place(event.account.as_deref()), *at, "{}", line(event));
        }
        seen.extend(compared(&part));
    }
    let mut expected = compared(&whole);
    seen.sort();
    expected.sort();
    assert_eq!(seen, expected, "{body}");
    parts.into_keys().collect()
}

#[test]
fn the_batch_goes_to_both_owners() {
    assert_eq!(check_parts(BATCH), [0, 1]);
}

#[test]
fn a_callback_of_one_place_is_unchanged() {
    let body = r#" { "entry" : [ {"id":"100000000000002","changes":[{"field":"flows","value":{}}, {"field":"x"}]} ] } "#;
    let parts = split(body.as_bytes(), &two(), place).unwrap();
    assert_eq!(parts, [(1, body.as_bytes().to_vec())].into());
    for body in [r#"{"entry":[]}"#, r#"{"entry":[{"id":"9"}]}"#, r#"{"entry":[7,{"a":1,"a":2}]}"#] {
        let parts = split(body.as_bytes(), &two(), place).unwrap();
        assert_eq!(parts, [(0, body.as_bytes().to_vec())].into(), "{body}");
    }
}

#[test]
fn one_entry_may_be_of_two_accounts() {
    let change = |number: &str| {
        json!({"field": "messages", "value": {
            "metadata": {"display_phone_number": number}, "messages": [{"from": "91", "id": number}],
        }})
    };
    let changes = ["919000000001", "919000000003", "919000000002"].map(change);
    let body = json!({"object": "w", "entry": [{"id": "1", "time": 5, "changes": changes}]});
    assert_eq!(check_parts(&body.to_string()), [0, 1]);
}

#[test]
fn what_is_no_callback_is_refused() {
    for body in ["", "[]", "{}", r#"{"entry":7}"#] {
        assert!(split(body.as_bytes(), &two(), place).is_err(), "{body}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn the_parts_hold_what_the_whole_holds(body in any_callback()) {
        check_parts(&body.to_string());
    }
}
