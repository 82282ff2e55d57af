//! Promises of 360dialog's API: its responses, and the state of its webhooks.

mod refusals;

use std::time::Duration;

use serde_json::{Value, json};

use super::key_webhooks;
use crate::account::Account;
use crate::engine::SubscriptionChange;
use crate::profile::Profile;
use crate::registration::test_support::{GatewayResponse, NUMBER, OTHER_NUMBER, TestGateway, WABA};
use crate::registration::{Dialog360, Registration};
use crate::secret::Secret;
use crate::subscription::{
    Accept, Policy, Precedence, Retry, RetryOn, Subscription, SubscriptionId,
};

const ACME: (&str, &str) = ("D360-API-KEY", "acme-key");
const BETA: (&str, &str) = ("D360-API-KEY", "beta-key");
const MULTI: &str = "/multi_webhook";
const NUMBER_PATH: &str = "/v1/configs/webhook";
const WABA_PATH: &str = "/waba_webhook";

const STARTED: &str = "Operation started successfully";
const URL: &str = r#"{"url":"https://example.com/webhook"}"#;

fn acme(gateway: &TestGateway, method: &str, path: &str, body: impl ToString) -> GatewayResponse {
    gateway.call(method, path, &[ACME], body.to_string())
}

fn assert_done(answer: &GatewayResponse, message: &str) {
    assert_eq!((answer.status, &answer.body), (200, &json!({ "message": message })));
}

fn assert_is(answer: &GatewayResponse, body: Value) {
    assert_eq!((answer.status, &answer.body), (200, &body));
}

fn destination(name: &str) -> Value {
    json!({"name": name, "url": format!("https://{}.example/hook", name.to_lowercase())})
}

fn enable(gateway: &TestGateway, names: &[&str]) {
    let destinations: Vec<_> = names.iter().map(|name| destination(name)).collect();
    let body = json!({"enabled": true, "destinations": destinations});
    assert_done(&acme(gateway, "POST", MULTI, body), STARTED);
}

fn names(gateway: &TestGateway) -> Vec<String> {
    let list = acme(gateway, "GET", MULTI, "").body["destinations"].as_array().unwrap().clone();
    list.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
}

fn append(gateway: &TestGateway, names: &[&str]) -> GatewayResponse {
    let destinations: Vec<_> = names.iter().map(|name| destination(name)).collect();
    acme(gateway, "PUT", MULTI, json!({ "destinations": destinations }))
}

/// The precedence of a webhook, and the webhook that it waits for.
fn stands(gateway: &TestGateway, name: &str) -> (Precedence, Option<SubscriptionId>) {
    let one = gateway.named("acme", name);
    (one.precedence, one.policy.after)
}

fn id(gateway: &TestGateway, name: &str) -> SubscriptionId {
    gateway.named("acme", name).id
}

/// Gives the other account a webhook of each kind, which acme's calls must not change.
fn with_bystander(gateway: &TestGateway) -> Vec<String> {
    gateway.call("POST", NUMBER_PATH, &[BETA], URL);
    gateway.call("POST", WABA_PATH, &[BETA], URL);
    let enabled = json!({"enabled": true, "destinations": [destination("crm")]});
    gateway.call("POST", MULTI, &[BETA], enabled.to_string());
    gateway.listed("beta")
}

#[test]
fn the_webhook_of_a_number_is_set_and_shown_as_documented() {
    let gateway = TestGateway::new();
    let beta = with_bystander(&gateway);
    assert_is(&acme(&gateway, "GET", NUMBER_PATH, ""), json!({}));
    let shown = json!({"url": "https://example.com/webhook", "headers": {}});
    assert_is(&acme(&gateway, "POST", NUMBER_PATH, URL), shown.clone());
    assert_is(&acme(&gateway, "GET", NUMBER_PATH, ""), shown);
    let hook = gateway.named("acme", key_webhooks::NUMBER);
    assert_eq!((hook.profile, hook.precedence), (Profile::Dialog360, Precedence::Number));
    assert_eq!(hook.filter.numbers, Some([NUMBER.parse().unwrap()].into()));
    assert_eq!(hook.filter.events, None);
    let Policy { accept, retry_on, timeout, age_max, .. } = hook.policy;
    assert_eq!((accept, retry_on), (Accept::Only200, RetryOn::All));
    assert_eq!((timeout, age_max), (Duration::from_secs(5), Duration::from_secs(7 * 24 * 3_600)));
    assert!(matches!(hook.policy.retry, Retry::Exponential { .. }));
    assert_eq!(gateway.listed("beta"), beta);
}

#[test]
fn the_webhook_of_a_waba_is_set_and_shown_as_documented() {
    let gateway = TestGateway::new();
    let beta = with_bystander(&gateway);
    acme(&gateway, "GET", WABA_PATH, "").assert_refused(404, None);
    let body = json!({"url": "https://example.com/webhook", "headers": {"X-Tenant": "acme"}});
    let message = "Webhook will be set for waba_id: 123065260884961";
    assert_done(&acme(&gateway, "POST", WABA_PATH, body), message);
    let shown = json!({
        "url": "https://example.com/webhook", "headers": {"X-Tenant": "acme"},
        "waba_id": WABA, "numbers_on_this_waba": [NUMBER, OTHER_NUMBER],
    });
    assert_is(&acme(&gateway, "GET", WABA_PATH, ""), shown);
    let hook = gateway.named("acme", key_webhooks::WABA);
    assert_eq!((hook.precedence, &hook.filter.numbers), (Precedence::Waba, &None));
    assert_eq!(gateway.listed("beta"), beta);
}

#[test]
fn waba_id_is_a_number_or_a_text_and_the_keys_own() {
    let gateway = TestGateway::new();
    let with = |waba_id: Value| json!({"url": "https://example.com/", "waba_id": waba_id});
    for waba_id in [json!(WABA), json!(WABA.to_string()), Value::Null] {
        assert_eq!(acme(&gateway, "POST", WABA_PATH, with(waba_id)).status, 200);
    }
    let before = gateway.listed("acme");
    for waba_id in [json!(2), json!("three"), json!(""), json!(-1), json!(1.5), json!([WABA])] {
        acme(&gateway, "POST", WABA_PATH, with(waba_id)).assert_refused(400, Some("waba_id"));
    }
    assert_eq!(gateway.listed("acme"), before);
}

#[test]
fn two_gateways_on_one_path_keep_separate_webhooks() {
    let gateway = TestGateway::new();
    acme(&gateway, "POST", NUMBER_PATH, URL);
    let other = [("WHIZARD-KEY", "acme-key")];
    gateway.call("GET", NUMBER_PATH, &other, "").assert_refused(404, None);
    gateway.call("POST", NUMBER_PATH, &other, r#"{"url":"https://premises.example/"}"#);
    assert_eq!(acme(&gateway, "GET", NUMBER_PATH, "").body["url"], "https://example.com/webhook");
    assert_eq!(gateway.engine.subscriptions_of("acme").len(), 2);
}

#[test]
fn every_operation_on_destinations_works_as_documented() {
    let gateway = TestGateway::new();
    let beta = with_bystander(&gateway);
    assert_is(&acme(&gateway, "GET", MULTI, ""), json!({"enabled": false, "destinations": []}));
    let example = r#"{"enabled":true,"destinations":[{"name":"NewWebhook","url":"https://new.example/hook","headers":{"Content-Type":"application/json"}}]}"#;
    assert_done(&acme(&gateway, "POST", MULTI, example), STARTED);
    let new = json!({
        "name": "NewWebhook", "url": "https://new.example/hook",
        "headers": {"Content-Type": "application/json"},
    });
    assert_is(&acme(&gateway, "GET", MULTI, ""), json!({"enabled": true, "destinations": [new]}));
    assert_done(&append(&gateway, &["crm", "CRM"]), STARTED);
    let patch = json!({"name": "crm", "headers": {"X-Token": "t"}});
    assert_done(&acme(&gateway, "PATCH", MULTI, patch), STARTED);
    let patch = json!({"name": "CRM", "url": "https://moved.example/"});
    assert_done(&acme(&gateway, "PATCH", MULTI, patch), STARTED);
    assert_done(&acme(&gateway, "PATCH", MULTI, json!({"name": "CRM"})), STARTED);
    let listed = acme(&gateway, "GET", MULTI, "").body["destinations"].clone();
    let crm = json!({
        "name": "crm", "url": "https://crm.example/hook", "headers": {"X-Token": "t"},
    });
    let moved = json!({"name": "CRM", "url": "https://moved.example/", "headers": {}});
    assert_eq!(listed, json!([new, crm, moved]));
    let deleted = "Destination deleted successfully";
    assert_done(&acme(&gateway, "DELETE", "/multi_webhook/CRM", ""), deleted);
    assert_eq!(names(&gateway), ["NewWebhook", "crm"]);
    assert_eq!(gateway.listed("beta"), beta);
}

#[test]
fn the_name_of_a_deleted_destination_is_percent_decoded() {
    let gateway = TestGateway::new();
    enable(&gateway, &[]);
    for (name, path) in [("a b/c", "a%20b%2Fc"), ("100%", "100%25"), ("caf\u{e9}", "caf%C3%a9")] {
        let body = json!({"destinations": [{"name": name, "url": "https://a.example/"}]});
        assert_done(&acme(&gateway, "PUT", MULTI, body), STARTED);
        append(&gateway, &["bystander"]);
        let path = format!("{MULTI}/{path}");
        assert_eq!(acme(&gateway, "DELETE", &path, "").status, 200, "{path}");
        assert_eq!(names(&gateway), ["bystander"]);
        acme(&gateway, "DELETE", &path, "").assert_refused(404, None);
    }
    for path in
        ["/multi_webhook/%", "/multi_webhook/%f", "/multi_webhook/%ff", "/multi_webhook/%+1"]
    {
        acme(&gateway, "DELETE", path, "").assert_refused(400, None);
    }
    for path in ["/multi_webhook//", "/multi_webhook/a/b", "/multi_webhook/bystander//"] {
        acme(&gateway, "DELETE", path, "").assert_refused(404, None);
    }
    assert_eq!(names(&gateway), ["bystander"]);
}

#[test]
fn disabling_keeps_the_destinations() {
    let gateway = TestGateway::new();
    acme(&gateway, "POST", NUMBER_PATH, URL);
    enable(&gateway, &["one", "two"]);
    let main = id(&gateway, key_webhooks::NUMBER);
    let one = key_webhooks::name_of_destination("one");
    for _ in 0..2 {
        assert_done(&acme(&gateway, "POST", MULTI, json!({"enabled": false})), STARTED);
        assert_eq!(stands(&gateway, &one), (Precedence::Masked, Some(main)));
    }
    assert_eq!(acme(&gateway, "GET", MULTI, "").body["enabled"], false);
    let too_many = json!({"enabled": true, "destinations": [destination("a"), destination("b")]});
    acme(&gateway, "POST", MULTI, too_many).assert_refused(400, Some("destinations"));
    let taken = json!({"enabled": true, "destinations": [destination("two")]});
    acme(&gateway, "POST", MULTI, taken).assert_refused(409, None);
    assert_eq!(acme(&gateway, "GET", MULTI, "").body["enabled"], false);
    enable(&gateway, &["three"]);
    assert_eq!(names(&gateway), ["one", "two", "three"]);
    assert_eq!(stands(&gateway, &one), (Precedence::Number, Some(main)));
    assert_eq!(stands(&gateway, key_webhooks::NUMBER), (Precedence::Number, None));
}

#[test]
fn the_longest_name_is_accepted() {
    let gateway = TestGateway::new();
    let name = "n".repeat(100);
    let list =
        json!({"enabled": true, "destinations": [{"name": name, "url": "https://a.example/"}]});
    assert_done(&acme(&gateway, "POST", MULTI, list), STARTED);
    assert_eq!(names(&gateway), [name]);
}

#[test]
fn destinations_follow_the_main_webhook_in_force() {
    let gateway = TestGateway::new();
    let beta = with_bystander(&gateway);
    enable(&gateway, &["one", "two"]);
    let both =
        || ["one", "two"].map(|name| stands(&gateway, &key_webhooks::name_of_destination(name)));
    assert_eq!(both(), [(Precedence::Independent, None); 2], "there is no main one");
    acme(&gateway, "POST", WABA_PATH, URL);
    let waba = id(&gateway, key_webhooks::WABA);
    assert_eq!(both(), [(Precedence::Waba, Some(waba)); 2]);
    acme(&gateway, "POST", NUMBER_PATH, URL);
    let number = id(&gateway, key_webhooks::NUMBER);
    assert_eq!(both(), [(Precedence::Number, Some(number)); 2], "a number beats its WABA");
    let waba_body =
        |overrides: bool| json!({"url": "https://w.example/", "override_all": overrides});
    acme(&gateway, "POST", WABA_PATH, waba_body(true));
    assert_eq!(both(), [(Precedence::Waba, Some(waba)); 2]);
    assert_eq!(stands(&gateway, key_webhooks::NUMBER), (Precedence::Masked, None));
    acme(&gateway, "POST", NUMBER_PATH, URL);
    assert_eq!(both(), [(Precedence::Number, Some(number)); 2], "a later write wins again");
    assert_eq!(stands(&gateway, key_webhooks::NUMBER), (Precedence::Number, None));
    acme(&gateway, "POST", WABA_PATH, waba_body(true));
    acme(&gateway, "POST", WABA_PATH, waba_body(false));
    assert_eq!(both(), [(Precedence::Number, Some(number)); 2], "it is a fallback again");
    assert_eq!(id(&gateway, key_webhooks::WABA), waba);
    assert_eq!(id(&gateway, key_webhooks::NUMBER), number);
    append(&gateway, &["three"]);
    let three = key_webhooks::name_of_destination("three");
    assert_eq!(stands(&gateway, &three), (Precedence::Number, Some(number)));
    assert_eq!(gateway.listed("beta"), beta);
}

#[test]
fn destinations_wait_only_if_configured() {
    let mut gateway = TestGateway::new();
    acme(&gateway, "POST", NUMBER_PATH, URL);
    enable(&gateway, &["one"]);
    let (number, name) =
        (id(&gateway, key_webhooks::NUMBER), key_webhooks::name_of_destination("one"));
    assert_eq!(stands(&gateway, &name), (Precedence::Number, Some(number)));
    let options = Dialog360 { destinations_wait: false, ..Dialog360::default() };
    gateway.registration = Registration::new(gateway.engine.clone()).dialog360(options).unwrap();
    assert_eq!(stands(&gateway, &name), (Precedence::Number, Some(number)), "what is set stays");
    acme(&gateway, "POST", NUMBER_PATH, URL);
    assert_eq!(stands(&gateway, &name), (Precedence::Number, None));
    append(&gateway, &["two"]);
    let two = key_webhooks::name_of_destination("two");
    assert_eq!(stands(&gateway, &two), (Precedence::Number, None));
}

#[test]
fn the_maximum_is_configurable_up_to_16() {
    let mut gateway = TestGateway::new();
    let of = |gateway: &TestGateway, destinations_max| {
        let options = Dialog360 { destinations_max, ..Dialog360::default() };
        Registration::new(gateway.engine.clone()).dialog360(options)
    };
    assert_eq!(of(&gateway, 17).unwrap_err().field(), Some("dialog360.destinations_max"));
    gateway.registration = of(&gateway, 16).unwrap();
    acme(&gateway, "POST", NUMBER_PATH, URL);
    let all: Vec<String> = (0..16).map(|place| format!("d{place}")).collect();
    enable(&gateway, &all.iter().map(String::as_str).collect::<Vec<_>>());
    append(&gateway, &["more"]).assert_refused(400, Some("destinations"));
    gateway.registration = of(&gateway, 0).unwrap();
    assert_done(&acme(&gateway, "POST", MULTI, json!({"enabled": false})), STARTED);
    enable(&gateway, &[]);
    assert_eq!(names(&gateway).len(), 16, "those that are there stay");
}

#[test]
fn at_most_sixteen_subscriptions_wait_for_one() {
    let mut gateway = TestGateway::new();
    let options = Dialog360 { destinations_max: 16, ..Dialog360::default() };
    gateway.registration = Registration::new(gateway.engine.clone()).dialog360(options).unwrap();
    acme(&gateway, "POST", NUMBER_PATH, URL);
    let main = id(&gateway, key_webhooks::NUMBER);
    for place in 0..14 {
        let waits = Subscription::to("https://crm.example/").unwrap().account("acme");
        gateway.engine.subscribe(waits.name(format!("w{place}")).after(main)).unwrap();
    }
    enable(&gateway, &[]);
    let before = gateway.listed("acme");
    append(&gateway, &["one", "two", "three"]).assert_refused(400, Some("after"));
    assert_eq!(gateway.listed("acme"), before);
    assert_done(&append(&gateway, &["one", "two"]), STARTED);
}

#[test]
fn removing_the_main_webhook_frees_its_destinations() {
    let gateway = TestGateway::new();
    acme(&gateway, "POST", NUMBER_PATH, URL);
    enable(&gateway, &["one"]);
    acme(&gateway, "POST", WABA_PATH, URL);
    gateway.engine.unsubscribe(id(&gateway, key_webhooks::NUMBER)).unwrap();
    let one = key_webhooks::name_of_destination("one");
    assert_eq!(stands(&gateway, &one), (Precedence::Independent, None));
    assert_eq!(stands(&gateway, key_webhooks::WABA), (Precedence::Waba, None));
    acme(&gateway, "POST", WABA_PATH, URL);
    assert_eq!(stands(&gateway, &one), (Precedence::Waba, Some(id(&gateway, key_webhooks::WABA))));
}

#[test]
fn setting_a_webhook_again_keeps_the_hosts_settings() {
    let gateway = TestGateway::new();
    acme(&gateway, "POST", NUMBER_PATH, URL);
    enable(&gateway, &["one"]);
    let one = key_webhooks::name_of_destination("one");
    let secret = Secret::new("whsec_aGlkZGVuLXNlY3JldC1vZi10aGUtdGVzdA==");
    for name in [key_webhooks::NUMBER, &one] {
        gateway
            .engine
            .rotate_secret(id(&gateway, name), Some(secret.clone()), Duration::ZERO)
            .unwrap();
    }
    acme(&gateway, "POST", NUMBER_PATH, r#"{"url":"https://moved.example/"}"#);
    acme(&gateway, "PATCH", MULTI, json!({"name": "one", "url": "https://moved.example/"}));
    for name in [key_webhooks::NUMBER, &one] {
        let hook = gateway.named("acme", name);
        assert!(hook.secret.as_ref() == Some(&secret), "{name}");
        assert_eq!(hook.target.url(), "https://moved.example/");
    }
}

#[test]
fn an_unbound_key_means_all_numbers() {
    let gateway = TestGateway::new();
    assert_eq!(gateway.call("POST", NUMBER_PATH, &[BETA], URL).status, 200);
    assert_eq!(gateway.named("beta", key_webhooks::NUMBER).filter.numbers, None);
    let set = gateway.call("POST", WABA_PATH, &[BETA], URL);
    assert_done(&set, "Webhook will be set for all numbers of the account");
    let shown = gateway.call("GET", WABA_PATH, &[BETA], "").body;
    assert_eq!(shown.get("waba_id"), None);
    let all = json!(["917777777777", "916666666666", "915555555555"]);
    assert_eq!(shown["numbers_on_this_waba"], all);
    let named = json!({"url": "https://example.com/", "waba_id": 2}).to_string();
    gateway.call("POST", WABA_PATH, &[BETA], named).assert_refused(400, Some("waba_id"));
}

#[test]
fn a_bound_key_means_the_waba_of_its_number() {
    let account = Account::new("acme").api_key("acme-key").waba("2", ["917777777777"]);
    let account = account.waba("three", ["916666666666", "915555555555"]);
    let gateway = TestGateway::of([account.bound_to("915555555555")], |config| config);
    let set = acme(&gateway, "POST", WABA_PATH, URL);
    assert_done(&set, "Webhook will be set for waba_id: three");
    let shown = acme(&gateway, "GET", WABA_PATH, "").body;
    assert_eq!(shown["waba_id"], "three");
    assert_eq!(shown["numbers_on_this_waba"], json!(["915555555555", "916666666666"]));
    let numbers = ["915555555555", "916666666666"].map(|number| number.parse().unwrap());
    assert_eq!(gateway.named("acme", key_webhooks::WABA).filter.numbers, Some(numbers.into()));
    acme(&gateway, "POST", NUMBER_PATH, URL);
    let of_number = gateway.named("acme", key_webhooks::NUMBER).filter.numbers.clone();
    assert_eq!(of_number, Some([numbers[0]].into()));
}

#[test]
fn allowed_http_works_on_any_port_without_underscores() {
    let gateway = TestGateway::with(|config| config.allow_http(true));
    let with = |url: &str| acme(&gateway, "POST", NUMBER_PATH, json!({ "url": url }));
    assert_eq!(with("http://a.example:9100/hook").status, 200);
    with("https://a.example:9100/hook").assert_refused(400, Some("url"));
    with("http://a_b.example:9100/hook").assert_refused(400, Some("url"));
    assert_eq!(
        gateway.named("acme", key_webhooks::NUMBER).target.url(),
        "http://a.example:9100/hook"
    );
}

#[test]
fn a_change_can_refer_to_what_it_creates() {
    let gateway = TestGateway::new();
    let made = |name: &str| Subscription::to("https://a.example/").unwrap().name(name);
    let (ids, ()) = gateway
        .engine
        .change("acme", |account_snapshot| {
            let main = account_snapshot.fresh_id;
            let changes = [made("main"), made("waits").after(main)].map(SubscriptionChange::Create);
            Ok::<_, crate::error::Error>((changes.into(), ()))
        })
        .unwrap();
    assert_eq!(gateway.named("acme", "waits").policy.after, Some(ids[0]));
    assert_eq!(gateway.named("acme", "main").id, ids[0]);
}
