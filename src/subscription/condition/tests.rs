//! What conditions mean, how they are refused, and their bounds.

use proptest::prelude::*;

use super::*;

const MESSAGE: &str = include_str!("../../../docs/samples/cloud_message_text.json");
const MESSAGE_AT: &str = "/entry/0/changes/0/value/messages/0";

fn check(condition: &str, payload: &str, expected: bool) {
    let condition = Condition::parse(condition).unwrap();
    assert_eq!(condition.is_met_by(payload.as_bytes()), expected, "{condition} of {payload}");
}

#[test]
fn a_condition_reads_the_payload_of_a_callback() {
    let at = |inner: &str, test: &str| format!(r#"{{"pointer":"{MESSAGE_AT}{inner}",{test}}}"#);
    check(&at("/type", r#""eq":"text""#), MESSAGE, true);
    check(&at("/type", r#""in":["image","text"]"#), MESSAGE, true);
    check(&at("/text/body", r#""prefix":"Body""#), MESSAGE, true);
    check(&at("/text/body", r#""prefix":"body""#), MESSAGE, false);
    check(&at("/referral", r#""exists":false"#), MESSAGE, true);
    check(&at("/timestamp", r#""gte":1697043223,"lt":1697043224"#), MESSAGE, true);
    check(&at("/timestamp", r#""gt":1697043223"#), MESSAGE, false);
    let cut = include_str!("../../../docs/samples/callbacks/lone_surrogate.json");
    check(&at("/type", r#""eq":"text""#), cut, true);
}

#[test]
fn every_test_holds_for_its_own_kind_of_value() {
    let payload = r#"{"s":"abc","n":5,"f":1.0,"z":null,"b":true,"o":{},"a":[1,[2]],"big":18446744073709551615,
        "minus":"-2.5","":7,"x/y":1,"x~y":2,"01":3}"#;
    for (pointer, test, expected) in [
        ("/s", r#""eq":"abc""#, true),
        ("/s", r#""eq":"ab""#, false),
        ("/n", r#""eq":5"#, true),
        ("/n", r#""eq":5.0"#, true),
        ("/n", r#""eq":"5""#, false),
        ("/f", r#""eq":1"#, true),
        ("/z", r#""eq":null"#, true),
        ("/z", r#""exists":true"#, true),
        ("/none", r#""eq":null"#, false),
        ("/none", r#""exists":true"#, false),
        ("/none", r#""exists":false"#, true),
        ("/b", r#""eq":true"#, true),
        ("/b", r#""in":[false,null]"#, false),
        ("/o", r#""exists":true"#, true),
        ("/o", r#""eq":"{}""#, false),
        ("/a/1/0", r#""eq":2"#, true),
        ("/a/01/0", r#""exists":true"#, false),
        ("/a/-", r#""exists":true"#, false),
        ("/big", r#""eq":18446744073709551615"#, true),
        ("/big", r#""gt":9223372036854775807"#, true),
        ("/minus", r#""lt":-2"#, true),
        ("/s", r#""lt":1000"#, false),
        ("/n", r#""prefix":"5""#, false),
        ("/n", r#""gt":4,"lte":5"#, true),
        ("/n", r#""gt":4,"lt":5"#, false),
        ("/", r#""eq":7"#, true),
        ("/x~1y", r#""eq":1"#, true),
        ("/x~0y", r#""eq":2"#, true),
        ("/01", r#""eq":3"#, true),
        ("", r#""exists":true"#, true),
    ] {
        check(&format!(r#"{{"pointer":"{pointer}",{test}}}"#), payload, expected);
    }
}

#[test]
fn and_or_and_not_combine_conditions() {
    let [yes, no] = [r#"{"pointer":"/a","eq":1}"#, r#"{"pointer":"/a","eq":2}"#];
    for (condition, expected) in [
        (format!(r#"{{"and":[{yes},{yes}]}}"#), true),
        (format!(r#"{{"and":[{yes},{no}]}}"#), false),
        (format!(r#"{{"or":[{no},{yes}]}}"#), true),
        (format!(r#"{{"or":[{no},{no}]}}"#), false),
        (format!(r#"{{"not":{no}}}"#), true),
        (format!(r#"{{"not":{{"and":[{yes},{{"not":{no}}}]}}}}"#), false),
    ] {
        check(&condition, r#"{"a":1}"#, expected);
    }
    // A payload that cannot be read meets nothing.
    for broken in ["", "not JSON", "{\"a\":1", "{}{}"] {
        check(&format!(r#"{{"not":{no}}}"#), broken, false);
    }
}

#[test]
fn the_failing_part_is_named() {
    let condition = r#"{"and":[{"pointer":"/a","exists":true},{"or":[{"pointer":"/b","eq":1},
        {"pointer":"/b","eq":2}]},{"not":{"pointer":"/c","eq":1}},{"pointer":"/d","gt":1,"lt":5}]}"#;
    let condition = Condition::parse(condition).unwrap();
    for (payload, failing) in [
        (r#"{}"#, Some("condition.and[0].exists")),
        (r#"{"a":1}"#, Some("condition.and[1].or")),
        (r#"{"a":1,"b":2,"c":1}"#, Some("condition.and[2].not")),
        (r#"{"a":1,"b":2,"d":1}"#, Some("condition.and[3].gt")),
        (r#"{"a":1,"b":2,"d":9}"#, Some("condition.and[3].lt")),
        (r#"{"a":1,"b":2,"d":3}"#, None),
    ] {
        let payload = ParsedPayload::parse(payload.as_bytes()).unwrap();
        assert_eq!(condition.failing_part(&payload).as_deref(), failing);
        assert_eq!(condition.holds(&payload), failing.is_none());
    }
}

fn check_refused(condition: &str, field: &str, says: &str) {
    let refused = Condition::parse(condition).unwrap_err();
    assert_eq!(refused.field(), Some(field), "{condition}");
    assert!(refused.to_string().contains(says), "{refused} does not say {says:?}");
}

#[test]
fn a_refusal_names_the_place_and_the_byte() {
    check_refused("", "condition", "not JSON, at line 1 column 0");
    check_refused(r#"{"and":[}"#, "condition", "not JSON, at line 1 column 9");
    check_refused("[]", "condition", "an array at byte 0");
    check_refused("{}", "condition", "an object at byte 0");
    check_refused(r#"{"pointer":"/a"}"#, "condition", "a test next to");
    check_refused(r#"{"and":[]}"#, "condition.and", "an array at byte 7");
    check_refused(r#"{"and":{}}"#, "condition.and", "an object at byte 7");
    check_refused(r#"{"xor":[]}"#, "condition.xor", "at byte 1");
    check_refused(r#"{"or":[{"pointer":"a","eq":1}]}"#, "condition.or[0].pointer", "at byte 18");
    check_refused(r#"{"pointer":"/a~2","eq":1}"#, "condition.pointer", "a JSON pointer");
    check_refused(r#"{"pointer":1,"eq":1}"#, "condition.pointer", "a number at byte 11");
    check_refused(
        r#"{"not":{"pointer":"/a","gt":"5"}}"#,
        "condition.not.gt",
        "a string at byte 28",
    );
    check_refused(r#"{"pointer":"/a","eq":[1]}"#, "condition.eq", "an array at byte 21");
    check_refused(r#"{"pointer":"/a","in":[1,{}]}"#, "condition.in[1]", "an object at byte 24");
    check_refused(r#"{"pointer":"/a","in":[]}"#, "condition.in", "at least one");
    check_refused(r#"{"pointer":"/a","exists":1}"#, "condition.exists", "true or false");
    check_refused(r#"{"pointer":"/a","prefix":1}"#, "condition.prefix", "a string");
    check_refused(r#"{"pointer":"/a","matches":".*"}"#, "condition.matches", "one of exists");
    check_refused(r#"{"pointer":"/a","eq":1,"eq":2}"#, "condition.eq", "each member once");
    check_refused(r#"{"and":[{"pointer":"/a","eq":1}],"or":[]}"#, "condition", "\"and\", \"or\"");
}

#[test]
fn a_condition_over_a_bound_is_refused() {
    let test = r#"{"pointer":"/a","eq":1}"#;
    let nested =
        |levels: usize| format!("{}{test}{}", r#"{"not":"#.repeat(levels), "}".repeat(levels));
    assert!(Condition::parse(&nested(7)).is_ok());
    check_refused(&nested(8), &format!("condition{}", ".not".repeat(8)), "limit of 8");
    let many = |tests: usize| format!(r#"{{"and":[{}]}}"#, vec![test; tests].join(","));
    assert!(Condition::parse(&many(64)).is_ok());
    check_refused(&many(65), "condition.tests", "limit of 64");
    let list =
        |values: usize| format!(r#"{{"pointer":"/a","in":[{}]}}"#, vec!["1"; values].join(","));
    assert!(Condition::parse(&list(256)).is_ok());
    check_refused(&list(257), "condition.in", "limit of 256");
    let deep = |parts: usize| format!(r#"{{"pointer":"{}","eq":1}}"#, "/a".repeat(parts));
    assert!(Condition::parse(&deep(32)).is_ok());
    check_refused(&deep(33), "condition.pointer", "limit of 32");
    let long = format!(r#"{{"pointer":"/a","eq":"{}"}}"#, "x".repeat(8_200));
    check_refused(&long, "condition", "limit of 8192");
}

proptest! {
    /// Reading, evaluating and explaining never panic, and a text that was read is read again to the same.
    #[test]
    fn any_text_is_read_or_refused(text in r#"[\[\]{}":,/~a01\\u -]{0,60}"#, payload in ".{0,40}") {
        if let Ok(condition) = Condition::parse(&text) {
            prop_assert_eq!(&Condition::parse(condition.as_str()).unwrap(), &condition);
            condition.is_met_by(payload.as_bytes());
        }
        let _ = ParsedPayload::parse(text.as_bytes());
    }

    /// A condition and its negation never hold together, and one of them always holds for JSON.
    #[test]
    fn a_negation_is_the_opposite(value in 0..4_i64, bound in 0..4_i64, name in "[ab]") {
        let payload = format!(r#"{{"{name}":{value}}}"#);
        let test = format!(r#"{{"pointer":"/a","gte":{bound}}}"#);
        let not = format!(r#"{{"not":{test}}}"#);
        let [holds, negated] = [test, not].map(|one| Condition::parse(&one).unwrap().is_met_by(payload.as_bytes()));
        prop_assert_ne!(holds, negated);
        prop_assert_eq!(holds, name == "a" && value >= bound);
    }
}
