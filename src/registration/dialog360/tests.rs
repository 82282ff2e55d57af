//! Promises of 360dialog's API: what it answers, and how its webhooks then stand.

use serde_json::{Value, json};

use super::hooks;
use crate::account::Account;
use crate::engine::Change;
use crate::registration::trial::{Answered, Desk, NUMBER, OTHER_NUMBER, WABA};
use crate::registration::{Dialog360, Registration};
use crate::subscription::{
    Accept, Level, Policy, Profile, Retried, Retry, Secret, Subscription, SubscriptionId,
};

const ACME: (&str, &str) = ("D360-API-KEY", "acme-key");
const BETA: (&str, &str) = ("D360-API-KEY", "beta-key");
const MULTI: &str = "/multi_webhook";
const NUMBER_PATH: &str = "/v1/configs/webhook";
const WABA_PATH: &str = "/waba_webhook";

const STARTED: &str = "Operation started successfully";
const URL: &str = r#"{"url":"https://example.com/webhook"}"#;

fn acme(desk: &Desk, method: &str, path: &str, body: impl ToString) -> Answered {
    desk.call(method, path, &[ACME], body.to_string())
}

fn assert_done(answer: &Answered, message: &str) {
    assert_eq!((answer.status, &answer.body), (200, &json!({ "message": message })));
}

fn assert_is(answer: &Answered, body: Value) {
    assert_eq!((answer.status, &answer.body), (200, &body));
}

fn destination(name: &str) -> Value {
    json!({"name": name, "url": format!("https://{}.example/hook", name.to_lowercase())})
}

fn enable(desk: &Desk, names: &[&str]) {
    let destinations: Vec<_> = names.iter().map(|name| destination(name)).collect();
    let body = json!({"enabled": true, "destinations": destinations});
    assert_done(&acme(desk, "POST", MULTI, body), STARTED);
}

fn names(desk: &Desk) -> Vec<String> {
    let list = acme(desk, "GET", MULTI, "").body["destinations"].as_array().unwrap().clone();
    list.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
}

fn append(desk: &Desk, names: &[&str]) -> Answered {
    let destinations: Vec<_> = names.iter().map(|name| destination(name)).collect();
    acme(desk, "PUT", MULTI, json!({ "destinations": destinations }))
}

/// The level of a webhook, and whom it waits for.
fn stands(desk: &Desk, name: &str) -> (Level, Option<SubscriptionId>) {
    let one = desk.named("acme", name);
    (one.level, one.policy.after)
}

fn id(desk: &Desk, name: &str) -> SubscriptionId {
    desk.named("acme", name).id
}

/// Another account with a webhook of each kind, to be left alone by all that acme does.
fn with_bystander(desk: &Desk) -> Vec<String> {
    desk.call("POST", NUMBER_PATH, &[BETA], URL);
    desk.call("POST", WABA_PATH, &[BETA], URL);
    let enabled = json!({"enabled": true, "destinations": [destination("crm")]});
    desk.call("POST", MULTI, &[BETA], enabled.to_string());
    desk.listed("beta")
}

#[test]
fn the_webhook_of_a_number_is_set_and_shown_as_documented() {
    let desk = Desk::new();
    let beta = with_bystander(&desk);
    acme(&desk, "GET", NUMBER_PATH, "").assert_refused(404, None);
    let shown = json!({"url": "https://example.com/webhook", "headers": {}});
    assert_is(&acme(&desk, "POST", NUMBER_PATH, URL), shown.clone());
    assert_is(&acme(&desk, "GET", NUMBER_PATH, ""), shown);
    let hook = desk.named("acme", hooks::NUMBER);
    assert_eq!((hook.profile, hook.level), (Profile::Dialog360, Level::Number));
    assert_eq!(hook.filter.numbers, Some([NUMBER.parse().unwrap()].into()));
    assert_eq!(hook.filter.events, None);
    let Policy { accept, retried, timeout_ms, age_max_ms, .. } = hook.policy;
    assert_eq!((accept, retried), (Accept::Only200, Retried::All));
    assert_eq!((timeout_ms, age_max_ms), (5_000, 7 * 24 * 3_600_000));
    assert!(matches!(hook.policy.retry, Retry::Exponential { .. }));
    assert_eq!(desk.listed("beta"), beta);
}

#[test]
fn the_webhook_of_a_waba_is_set_and_shown_as_documented() {
    let desk = Desk::new();
    let beta = with_bystander(&desk);
    acme(&desk, "GET", WABA_PATH, "").assert_refused(404, None);
    let body = json!({"url": "https://example.com/webhook", "headers": {"X-Tenant": "acme"}});
    let message = "Webhook will be set for waba_id: 123065260884961";
    assert_done(&acme(&desk, "POST", WABA_PATH, body), message);
    let shown = json!({
        "url": "https://example.com/webhook", "headers": {"X-Tenant": "acme"},
        "waba_id": WABA, "numbers_on_this_waba": [NUMBER, OTHER_NUMBER],
    });
    assert_is(&acme(&desk, "GET", WABA_PATH, ""), shown);
    let hook = desk.named("acme", hooks::WABA);
    assert_eq!((hook.level, &hook.filter.numbers), (Level::Waba, &None));
    assert_eq!(desk.listed("beta"), beta);
}

#[test]
fn the_waba_may_be_named_as_a_number_or_a_text_and_must_be_the_keys_own() {
    let desk = Desk::new();
    let with = |waba_id: Value| json!({"url": "https://example.com/", "waba_id": waba_id});
    for waba_id in [json!(WABA), json!(WABA.to_string()), Value::Null] {
        assert_eq!(acme(&desk, "POST", WABA_PATH, with(waba_id)).status, 200);
    }
    let before = desk.listed("acme");
    for waba_id in [json!(2), json!("three"), json!(""), json!(-1), json!(1.5), json!([WABA])] {
        acme(&desk, "POST", WABA_PATH, with(waba_id)).assert_refused(400, Some("waba_id"));
    }
    assert_eq!(desk.listed("acme"), before);
}

#[test]
fn the_webhook_of_the_same_path_under_the_other_gateways_header_is_another_one() {
    let desk = Desk::new();
    acme(&desk, "POST", NUMBER_PATH, URL);
    let other = [("WHIZARD-KEY", "acme-key")];
    desk.call("GET", NUMBER_PATH, &other, "").assert_refused(404, None);
    desk.call("POST", NUMBER_PATH, &other, r#"{"url":"https://premises.example/"}"#);
    assert_eq!(acme(&desk, "GET", NUMBER_PATH, "").body["url"], "https://example.com/webhook");
    assert_eq!(desk.engine.subscriptions_of("acme").len(), 2);
}

#[test]
fn destinations_are_enabled_listed_appended_changed_and_deleted_as_documented() {
    let desk = Desk::new();
    let beta = with_bystander(&desk);
    assert_is(&acme(&desk, "GET", MULTI, ""), json!({"enabled": false, "destinations": []}));
    let example = r#"{"enabled":true,"destinations":[{"name":"NewWebhook","url":"https://new.example/hook","headers":{"Content-Type":"application/json"}}]}"#;
    assert_done(&acme(&desk, "POST", MULTI, example), STARTED);
    let new = json!({
        "name": "NewWebhook", "url": "https://new.example/hook",
        "headers": {"Content-Type": "application/json"},
    });
    assert_is(&acme(&desk, "GET", MULTI, ""), json!({"enabled": true, "destinations": [new]}));
    assert_done(&append(&desk, &["crm", "CRM"]), STARTED);
    let patch = json!({"name": "crm", "headers": {"X-Token": "t"}});
    assert_done(&acme(&desk, "PATCH", MULTI, patch), STARTED);
    let patch = json!({"name": "CRM", "url": "https://moved.example/"});
    assert_done(&acme(&desk, "PATCH", MULTI, patch), STARTED);
    assert_done(&acme(&desk, "PATCH", MULTI, json!({"name": "CRM"})), STARTED);
    let listed = acme(&desk, "GET", MULTI, "").body["destinations"].clone();
    let crm = json!({
        "name": "crm", "url": "https://crm.example/hook", "headers": {"X-Token": "t"},
    });
    let moved = json!({"name": "CRM", "url": "https://moved.example/", "headers": {}});
    assert_eq!(listed, json!([new, crm, moved]));
    let deleted = "Destination deleted successfully";
    assert_done(&acme(&desk, "DELETE", "/multi_webhook/CRM", ""), deleted);
    assert_eq!(names(&desk), ["NewWebhook", "crm"]);
    assert_eq!(desk.listed("beta"), beta);
}

#[test]
fn the_name_of_a_deleted_destination_is_percent_decoded() {
    let desk = Desk::new();
    enable(&desk, &[]);
    for (name, path) in [("a b/c", "a%20b%2Fc"), ("100%", "100%25"), ("caf\u{e9}", "caf%C3%a9")] {
        let body = json!({"destinations": [{"name": name, "url": "https://a.example/"}]});
        assert_done(&acme(&desk, "PUT", MULTI, body), STARTED);
        append(&desk, &["bystander"]);
        let path = format!("{MULTI}/{path}");
        assert_eq!(acme(&desk, "DELETE", &path, "").status, 200, "{path}");
        assert_eq!(names(&desk), ["bystander"]);
        acme(&desk, "DELETE", &path, "").assert_refused(404, None);
    }
    for path in
        ["/multi_webhook/%", "/multi_webhook/%f", "/multi_webhook/%ff", "/multi_webhook/%+1"]
    {
        acme(&desk, "DELETE", path, "").assert_refused(400, None);
    }
    for path in ["/multi_webhook/", "/multi_webhook/a/b", "/multi_webhook/bystander/"] {
        acme(&desk, "DELETE", path, "").assert_refused(404, None);
    }
    assert_eq!(names(&desk), ["bystander"]);
}

/// With two destinations there, a request is refused and nothing of it is applied.
fn check_refused(method: &str, path: &str, body: impl ToString, status: u16, field: Option<&str>) {
    let desk = Desk::new();
    enable(&desk, &["one", "two"]);
    let (before, beta) = (desk.listed("acme"), with_bystander(&desk));
    let body = body.to_string();
    acme(&desk, method, path, &body).assert_refused(status, field);
    assert_eq!((desk.listed("acme"), desk.listed("beta")), (before, beta), "{body}");
    assert_eq!(acme(&desk, "GET", MULTI, "").body["enabled"], true);
}

#[test]
fn what_conflicts_with_what_is_there_is_refused_and_nothing_is_partly_applied() {
    let list = |names: &[&str]| {
        let list: Vec<_> = names.iter().map(|name| destination(name)).collect();
        json!({ "destinations": list })
    };
    check_refused("POST", MULTI, json!({"enabled": true}), 409, None);
    let again = json!({"enabled": true, "destinations": [destination("three")]});
    check_refused("POST", MULTI, again, 409, None);
    check_refused("PUT", MULTI, list(&["one"]), 409, None);
    check_refused("PUT", MULTI, list(&["three", "two"]), 409, None);
    check_refused("PUT", MULTI, list(&["three", "three"]), 409, None);
    check_refused("PUT", MULTI, list(&["three", "four"]), 400, Some("destinations"));
    check_refused("PUT", MULTI, list(&["a", "b", "c", "d"]), 400, Some("destinations"));
    check_refused("PATCH", MULTI, json!({"name": "One", "url": "https://a.example/"}), 404, None);
    check_refused("DELETE", "/multi_webhook/One", Value::Null, 404, None);
    check_refused("DELETE", "/multi_webhook/three", Value::Null, 404, None);
}

#[test]
fn before_multi_webhook_is_enabled_nothing_can_be_appended_changed_or_deleted() {
    let desk = Desk::new();
    let requests = [
        ("PUT", MULTI, json!({"destinations": [destination("one")]})),
        ("PATCH", MULTI, json!({"name": "one", "url": "https://a.example/"})),
        ("DELETE", "/multi_webhook/one", Value::Null),
    ];
    for (method, path, body) in &requests {
        acme(&desk, method, path, body).assert_refused(400, None);
    }
    enable(&desk, &["one"]);
    assert_done(&acme(&desk, "POST", MULTI, json!({"enabled": false})), STARTED);
    let before = desk.listed("acme");
    for (method, path, body) in &requests {
        acme(&desk, method, path, body).assert_refused(400, None);
    }
    assert_eq!((desk.listed("acme"), names(&desk)), (before, vec!["one".to_owned()]));
}

#[test]
fn disabling_keeps_the_destinations_and_enabling_again_counts_them() {
    let desk = Desk::new();
    acme(&desk, "POST", NUMBER_PATH, URL);
    enable(&desk, &["one", "two"]);
    let main = id(&desk, hooks::NUMBER);
    let one = hooks::name_of_destination("one");
    for _ in 0..2 {
        assert_done(&acme(&desk, "POST", MULTI, json!({"enabled": false})), STARTED);
        assert_eq!(stands(&desk, &one), (Level::Masked, Some(main)));
    }
    assert_eq!(acme(&desk, "GET", MULTI, "").body["enabled"], false);
    let too_many = json!({"enabled": true, "destinations": [destination("a"), destination("b")]});
    acme(&desk, "POST", MULTI, too_many).assert_refused(400, Some("destinations"));
    let taken = json!({"enabled": true, "destinations": [destination("two")]});
    acme(&desk, "POST", MULTI, taken).assert_refused(409, None);
    assert_eq!(acme(&desk, "GET", MULTI, "").body["enabled"], false);
    enable(&desk, &["three"]);
    assert_eq!(names(&desk), ["one", "two", "three"]);
    assert_eq!(stands(&desk, &one), (Level::Number, Some(main)));
    assert_eq!(stands(&desk, hooks::NUMBER), (Level::Number, None));
}

fn check_malformed(method: &str, path: &str, body: impl ToString, field: Option<&str>) {
    check_refused(method, path, body, 400, field);
}

#[test]
fn urls_and_headers_that_cannot_be_are_refused_on_every_route() {
    let bad = [
        (json!({}), "url"),
        (json!({"url": null}), "url"),
        (json!({"url": 5}), "url"),
        (json!({"url": ["https://a.example/"]}), "url"),
        (json!({"url": "example.com/webhook"}), "url"),
        (json!({"url": "http://a.example/"}), "url"),
        (json!({"url": "https://a.example:8443/"}), "url"),
        (json!({"url": "https://a.example:443/"}), "url"),
        (json!({"url": "https://a_b.example/"}), "url"),
        (json!({"url": "https://sub.a_b.example/"}), "url"),
        (json!({"url": "https://user:hidden@a.example/"}), "url"),
        (json!({"url": "https://192.168.0.1/"}), "url"),
        (json!({"url": "https://a.example/#part"}), "url"),
        (json!({"url": "https://a.example/\r\nx: y"}), "url"),
        (json!({"url": "https://a.example/", "headers": []}), "headers"),
        (json!({"url": "https://a.example/", "headers": {"x": {}}}), "headers.x"),
        (json!({"url": "https://a.example/", "headers": {"x": "hidden\r\ny: z"}}), "headers.x"),
        (json!({"url": "https://a.example/", "headers": {"x:y": "z"}}), "headers"),
        (json!({"url": "https://a.example/", "headers": {"Content-Length": "1"}}), "headers"),
        (json!({"url": "https://a.example/", "header": {}}), "header"),
    ];
    for (mut hook, field) in bad {
        check_malformed("POST", NUMBER_PATH, &hook, Some(field));
        check_malformed("POST", WABA_PATH, &hook, Some(field));
        hook["name"] = json!("three");
        let within = format!("destinations[1].{field}");
        let list = json!({"destinations": [destination("four"), hook]});
        check_malformed("PUT", MULTI, list, Some(&within));
    }
    for (patch, field) in [
        (json!({"name": "one", "url": "https://a.example:80/"}), "url"),
        (json!({"name": "one", "url": "http://a.example/"}), "url"),
        (json!({"name": "one", "url": false}), "url"),
        (json!({"name": "one", "headers": {"Host": "b"}}), "headers"),
        (json!({"name": "one", "enabled": false}), "enabled"),
        (json!({"name": 1}), "name"),
        (json!({"url": "https://a.example/"}), "name"),
    ] {
        check_malformed("PATCH", MULTI, patch, Some(field));
    }
}

#[test]
fn bodies_that_are_no_right_request_are_refused_by_their_field() {
    for text in ["", "[]", "null", "{\"enabled\":", "{} {}", "\u{1}"] {
        for (method, path) in
            [("POST", MULTI), ("PUT", MULTI), ("PATCH", MULTI), ("POST", WABA_PATH)]
        {
            check_malformed(method, path, text, None);
        }
    }
    check_malformed("POST", MULTI, "{}", Some("enabled"));
    check_malformed("POST", MULTI, r#"{"enabled":"true"}"#, Some("enabled"));
    check_malformed("POST", MULTI, r#"{"enabled":1}"#, Some("enabled"));
    check_malformed("POST", MULTI, r#"{"enabled":true,"enabled":false}"#, Some("enabled"));
    check_malformed("POST", MULTI, r#"{"enabled":true,"names":[]}"#, Some("names"));
    let disabling = json!({"enabled": false, "destinations": [destination("three")]});
    check_malformed("POST", MULTI, disabling, Some("destinations"));
    check_malformed("PUT", MULTI, "{}", Some("destinations"));
    check_malformed("PUT", MULTI, r#"{"destinations":[]}"#, Some("destinations"));
    check_malformed("PUT", MULTI, r#"{"destinations":{}}"#, Some("destinations"));
    check_malformed("PUT", MULTI, r#"{"destinations":["three"]}"#, Some("destinations[0]"));
    let unnamed = r#"{"destinations":[{"url":"https://a.example/"}]}"#;
    check_malformed("PUT", MULTI, unnamed, Some("destinations[0].name"));
    for name in ["", "a\nb", &"n".repeat(101)] {
        let list = json!({"destinations": [{"name": name, "url": "https://a.example/"}]});
        check_malformed("PUT", MULTI, list, Some("destinations[0].name"));
    }
    let overriding = |value: Value| json!({"url": "https://a.example/", "override_all": value});
    check_malformed("POST", WABA_PATH, overriding(json!("yes")), Some("override_all"));
    check_malformed("POST", WABA_PATH, overriding(json!(0)), Some("override_all"));
}

#[test]
fn a_name_of_the_longest_length_is_taken() {
    let desk = Desk::new();
    let name = "n".repeat(100);
    let list =
        json!({"enabled": true, "destinations": [{"name": name, "url": "https://a.example/"}]});
    assert_done(&acme(&desk, "POST", MULTI, list), STARTED);
    assert_eq!(names(&desk), [name]);
}

#[test]
fn a_key_that_is_missing_or_nobodys_is_refused_on_every_route() {
    let desk = Desk::new();
    let beta = with_bystander(&desk);
    let routes = [MULTI, "/multi_webhook/crm", WABA_PATH];
    for headers in [&[][..], &[("d360-api-key", "beta-ke")], &[("whizard-key", "beta-key")]] {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            for path in routes {
                desk.call(method, path, headers, "{}").assert_refused(401, None);
            }
        }
    }
    desk.call("GET", NUMBER_PATH, &[("d360-api-key", "x")], "").assert_refused(401, None);
    assert_eq!(desk.listed("beta"), beta);
}

#[test]
fn other_methods_are_refused_by_naming_those_there_are() {
    let desk = Desk::new();
    for (method, path, allowed) in [
        ("DELETE", MULTI, "GET, POST, PUT, PATCH"),
        ("GET", "/multi_webhook/crm", "DELETE"),
        ("PUT", NUMBER_PATH, "GET, POST"),
        ("DELETE", WABA_PATH, "GET, POST"),
    ] {
        acme(&desk, method, path, "{}").assert_refused(405, None);
        let response = desk.response(method, path, &[ACME], "{}");
        assert_eq!(response.headers()["allow"], allowed);
    }
}

#[test]
fn one_account_never_sees_or_changes_the_webhooks_of_another() {
    let desk = Desk::new();
    let beta = with_bystander(&desk);
    for path in [NUMBER_PATH, WABA_PATH] {
        acme(&desk, "GET", path, "").assert_refused(404, None);
    }
    assert_eq!(names(&desk), [""; 0]);
    enable(&desk, &["mine"]);
    acme(&desk, "DELETE", "/multi_webhook/crm", "").assert_refused(404, None);
    let patch = json!({"name": "crm", "url": "https://stolen.example/"});
    acme(&desk, "PATCH", MULTI, patch).assert_refused(404, None);
    assert_done(&append(&desk, &["crm"]), STARTED);
    assert_done(&acme(&desk, "POST", MULTI, json!({"enabled": false})), STARTED);
    assert_eq!(desk.listed("beta"), beta);
}

#[test]
fn further_destinations_follow_the_main_webhook_that_is_in_force() {
    let desk = Desk::new();
    let beta = with_bystander(&desk);
    enable(&desk, &["one", "two"]);
    let both = || ["one", "two"].map(|name| stands(&desk, &hooks::name_of_destination(name)));
    assert_eq!(both(), [(Level::Beside, None); 2], "there is no main one");
    acme(&desk, "POST", WABA_PATH, URL);
    let waba = id(&desk, hooks::WABA);
    assert_eq!(both(), [(Level::Waba, Some(waba)); 2]);
    acme(&desk, "POST", NUMBER_PATH, URL);
    let number = id(&desk, hooks::NUMBER);
    assert_eq!(both(), [(Level::Number, Some(number)); 2], "a number beats its WABA");
    let waba_body =
        |overrides: bool| json!({"url": "https://w.example/", "override_all": overrides});
    acme(&desk, "POST", WABA_PATH, waba_body(true));
    assert_eq!(both(), [(Level::Waba, Some(waba)); 2]);
    assert_eq!(stands(&desk, hooks::NUMBER), (Level::Masked, None));
    acme(&desk, "POST", NUMBER_PATH, URL);
    assert_eq!(both(), [(Level::Number, Some(number)); 2], "a later write wins again");
    assert_eq!(stands(&desk, hooks::NUMBER), (Level::Number, None));
    acme(&desk, "POST", WABA_PATH, waba_body(true));
    acme(&desk, "POST", WABA_PATH, waba_body(false));
    assert_eq!(both(), [(Level::Number, Some(number)); 2], "it is a fallback again");
    assert_eq!((id(&desk, hooks::WABA), id(&desk, hooks::NUMBER)), (waba, number));
    append(&desk, &["three"]);
    let three = hooks::name_of_destination("three");
    assert_eq!(stands(&desk, &three), (Level::Number, Some(number)));
    assert_eq!(desk.listed("beta"), beta);
}

#[test]
fn with_the_switch_off_further_destinations_wait_for_nobody() {
    let mut desk = Desk::new();
    acme(&desk, "POST", NUMBER_PATH, URL);
    enable(&desk, &["one"]);
    let (number, name) = (id(&desk, hooks::NUMBER), hooks::name_of_destination("one"));
    assert_eq!(stands(&desk, &name), (Level::Number, Some(number)));
    let options = Dialog360 { destinations_wait: false, ..Dialog360::default() };
    desk.registration = Registration::new(desk.engine.clone()).dialog360(options).unwrap();
    assert_eq!(stands(&desk, &name), (Level::Number, Some(number)), "what is set stays");
    acme(&desk, "POST", NUMBER_PATH, URL);
    assert_eq!(stands(&desk, &name), (Level::Number, None));
    append(&desk, &["two"]);
    let two = hooks::name_of_destination("two");
    assert_eq!(stands(&desk, &two), (Level::Number, None));
}

#[test]
fn the_maximum_is_configurable_up_to_what_may_wait_for_one() {
    let mut desk = Desk::new();
    let of = |desk: &Desk, destinations_max| {
        let options = Dialog360 { destinations_max, ..Dialog360::default() };
        Registration::new(desk.engine.clone()).dialog360(options)
    };
    assert_eq!(of(&desk, 17).unwrap_err().field(), Some("dialog360.destinations_max"));
    desk.registration = of(&desk, 16).unwrap();
    acme(&desk, "POST", NUMBER_PATH, URL);
    let all: Vec<String> = (0..16).map(|place| format!("d{place}")).collect();
    enable(&desk, &all.iter().map(String::as_str).collect::<Vec<_>>());
    append(&desk, &["more"]).assert_refused(400, Some("destinations"));
    desk.registration = of(&desk, 0).unwrap();
    assert_done(&acme(&desk, "POST", MULTI, json!({"enabled": false})), STARTED);
    enable(&desk, &[]);
    assert_eq!(names(&desk).len(), 16, "those that are there stay");
}

#[test]
fn no_more_than_sixteen_wait_for_one_whoever_registered_them() {
    let mut desk = Desk::new();
    let options = Dialog360 { destinations_max: 16, ..Dialog360::default() };
    desk.registration = Registration::new(desk.engine.clone()).dialog360(options).unwrap();
    acme(&desk, "POST", NUMBER_PATH, URL);
    let main = id(&desk, hooks::NUMBER);
    for place in 0..14 {
        let waits = Subscription::to("https://crm.example/").unwrap().account("acme");
        desk.engine.subscribe(waits.name(format!("w{place}")).after(main)).unwrap();
    }
    enable(&desk, &[]);
    let before = desk.listed("acme");
    append(&desk, &["one", "two", "three"]).assert_refused(400, Some("after"));
    assert_eq!(desk.listed("acme"), before);
    assert_done(&append(&desk, &["one", "two"]), STARTED);
}

#[test]
fn a_main_webhook_that_the_host_removes_leaves_its_destinations_beside_all_others() {
    let desk = Desk::new();
    acme(&desk, "POST", NUMBER_PATH, URL);
    enable(&desk, &["one"]);
    acme(&desk, "POST", WABA_PATH, URL);
    desk.engine.unsubscribe(id(&desk, hooks::NUMBER)).unwrap();
    let one = hooks::name_of_destination("one");
    assert_eq!(stands(&desk, &one), (Level::Beside, None));
    assert_eq!(stands(&desk, hooks::WABA), (Level::Waba, None));
    acme(&desk, "POST", WABA_PATH, URL);
    assert_eq!(stands(&desk, &one), (Level::Waba, Some(id(&desk, hooks::WABA))));
}

#[test]
fn setting_a_webhook_again_keeps_what_only_the_host_can_say() {
    let desk = Desk::new();
    acme(&desk, "POST", NUMBER_PATH, URL);
    enable(&desk, &["one"]);
    let one = hooks::name_of_destination("one");
    let secret = Secret::new("whsec_aGlkZGVuLXNlY3JldA==");
    for name in [hooks::NUMBER, &one] {
        desk.engine.rotate_secret(id(&desk, name), Some(secret.clone()), 0).unwrap();
    }
    acme(&desk, "POST", NUMBER_PATH, r#"{"url":"https://moved.example/"}"#);
    acme(&desk, "PATCH", MULTI, json!({"name": "one", "url": "https://moved.example/"}));
    for name in [hooks::NUMBER, &one] {
        let hook = desk.named("acme", name);
        assert!(hook.secret.as_ref() == Some(&secret), "{name}");
        assert_eq!(hook.target.url(), "https://moved.example/");
    }
}

#[test]
fn a_key_bound_to_no_number_stands_for_all_and_names_a_waba_only_where_there_is_one() {
    let desk = Desk::new();
    assert_eq!(desk.call("POST", NUMBER_PATH, &[BETA], URL).status, 200);
    assert_eq!(desk.named("beta", hooks::NUMBER).filter.numbers, None);
    let set = desk.call("POST", WABA_PATH, &[BETA], URL);
    assert_done(&set, "Webhook will be set for all numbers of the account");
    let shown = desk.call("GET", WABA_PATH, &[BETA], "").body;
    assert_eq!(shown.get("waba_id"), None);
    let all = json!(["917777777777", "916666666666", "915555555555"]);
    assert_eq!(shown["numbers_on_this_waba"], all);
    let named = json!({"url": "https://example.com/", "waba_id": 2}).to_string();
    desk.call("POST", WABA_PATH, &[BETA], named).assert_refused(400, Some("waba_id"));
}

#[test]
fn of_several_wabas_the_one_of_the_keys_number_is_meant() {
    let account = Account::new("acme").api_key("acme-key").waba("2", ["917777777777"]);
    let account = account.waba("three", ["916666666666", "915555555555"]);
    let desk = Desk::of([account.bound_to("915555555555")], |config| config);
    let set = acme(&desk, "POST", WABA_PATH, URL);
    assert_done(&set, "Webhook will be set for waba_id: three");
    let shown = acme(&desk, "GET", WABA_PATH, "").body;
    assert_eq!(shown["waba_id"], "three");
    assert_eq!(shown["numbers_on_this_waba"], json!(["915555555555", "916666666666"]));
    let numbers = ["915555555555", "916666666666"].map(|number| number.parse().unwrap());
    assert_eq!(desk.named("acme", hooks::WABA).filter.numbers, Some(numbers.into()));
    acme(&desk, "POST", NUMBER_PATH, URL);
    let of_number = desk.named("acme", hooks::NUMBER).filter.numbers.clone();
    assert_eq!(of_number, Some([numbers[0]].into()));
}

#[test]
fn where_the_host_admits_http_it_does_on_any_port_and_underscores_stay_refused() {
    let desk = Desk::with(|config| config.allow_http(true));
    let with = |url: &str| acme(&desk, "POST", NUMBER_PATH, json!({ "url": url }));
    assert_eq!(with("http://a.example:9100/hook").status, 200);
    with("https://a.example:9100/hook").assert_refused(400, Some("url"));
    with("http://a_b.example:9100/hook").assert_refused(400, Some("url"));
    assert_eq!(desk.named("acme", hooks::NUMBER).target.url(), "http://a.example:9100/hook");
}

#[test]
fn a_name_that_another_subscription_has_taken_is_a_conflict_and_nothing_is_partly_applied() {
    let desk = Desk::new();
    let taken = Subscription::to("https://crm.example/").unwrap().account("acme");
    desk.engine.subscribe(taken.name(hooks::name_of_destination("two"))).unwrap();
    enable(&desk, &[]);
    let before = desk.listed("acme");
    append(&desk, &["one", "two"]).assert_refused(409, Some("name"));
    assert_eq!((desk.listed("acme"), names(&desk)), (before, Vec::<String>::new()));
}

#[test]
fn what_is_created_can_be_named_in_the_same_change() {
    let desk = Desk::new();
    let made = |name: &str| Subscription::to("https://a.example/").unwrap().name(name);
    let (ids, ()) = desk
        .engine
        .change("acme", |standing| {
            let main = standing.fresh_id;
            let changes = [made("main"), made("waits").after(main)].map(Change::Create);
            Ok::<_, crate::error::Error>((changes.into(), ()))
        })
        .unwrap();
    assert_eq!(desk.named("acme", "waits").policy.after, Some(ids[0]));
    assert_eq!(desk.named("acme", "main").id, ids[0]);
}
