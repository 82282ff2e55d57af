//! Decides what the on-premises WhatsApp Business API answers, and on which terms its webhooks are
//! served.
//!
//! Leaves to others: keeping the webhooks (`engine`) and what their requests look like
//! (`delivery::request`). Invariant (I9): an account sees and changes its own webhook of this gateway
//! alone.

use http::{Method, Response, Uri};
use serde_json::Value;

use super::call::Call;
use super::fields::{Object, utf8};
use super::hook::{self, Answer, Hook, Reader, Refusal};
use crate::account::Account;
use crate::engine::Change;
use crate::subscription::{
    Accept, Breaker, Policy, Profile, Registered, Retried, Retry, Subscription,
};

/// The header that shows the key.
const KEY: &str = "whizard-key";

/// The name of the one webhook that an account has here.
const NAME: &str = "WhatsApp Business API";

/// Whether a path belongs to this gateway.
pub(super) fn serves(path: &str) -> bool {
    path == "/v1/configs/webhook"
}

/// The answer to a call of this gateway.
pub(super) fn answer(call: &Call<'_>) -> Response<Vec<u8>> {
    hook::response(answered(call))
}

fn answered(call: &Call<'_>) -> Answer {
    let account = call.account(KEY).ok_or_else(|| Refusal::unknown_key(KEY))?;
    match *call.method {
        Method::GET => {
            let all = call.engine.subscriptions_of(account.name());
            let set = all.iter().find(|one| is_hook(one)).ok_or_else(Refusal::unset)?;
            Ok(Value::Object(hook::shown(&set.target)))
        }
        Method::POST => {
            let reader = Reader { engine: call.engine, account, check_url };
            let body = Object::read(utf8(call.body)?, &["url", "headers"])?;
            set(call, account, reader.hook(&body)?)
        }
        _ => Err(Refusal::method(&[Method::GET, Method::POST])),
    }
}

fn set(call: &Call<'_>, account: &Account, hook: Hook) -> Answer {
    let (_, shown) = call.engine.change(account.name(), |standing| {
        let before = standing.subscriptions.iter().find(|one| is_hook(one));
        let subscription = hook.subscription(before.map(|one| &**one), |target| {
            let fresh = Subscription::to_target(target).name(NAME);
            fresh.profile(Profile::BusinessApi).policy(policy())
        });
        let subscription = subscription.numbers_or_all(account.bound_number().map(|one| [one]));
        let shown = hook::shown(&subscription.target);
        let change = match before {
            Some(before) => Change::Replace(before.id, subscription),
            None => Change::Create(subscription),
        };
        Ok::<_, Refusal>((vec![change], shown))
    })?;
    Ok(Value::Object(shown))
}

fn is_hook(registered: &Registered) -> bool {
    registered.profile == Profile::BusinessApi && registered.name == NAME
}

/// `http://` is another matter: where the host's configuration admits it, it does so on any port.
fn check_url(url: &Uri) -> Result<(), &'static str> {
    match url.port_u16() {
        Some(port) if port != 443 && url.scheme_str() == Some("https") => {
            Err("an https:// URL on port 443, the only one that this gateway calls")
        }
        _ => Ok(()),
    }
}

/// Whatever is not exactly 200 is tried again, 3 s later and 3 s more each time, up to 15 min. Its
/// documents contradict each other on for how long (24 hours, or without end): 7 days, after which the
/// schedule has long reached its cap. A breaker would stretch the schedule, and a receiver written for
/// this gateway knows no header that ends deliveries.
fn policy() -> Policy {
    Policy {
        retry: Retry::Linear { step_ms: 3_000, max_ms: 900_000 },
        age_max_ms: 7 * 24 * 3_600_000,
        accept: Accept::Only200,
        retried: Retried::All,
        breaker: Breaker { failures: None, ..Breaker::default() },
        disable_after_ms: None,
        obeys_receiver: false,
        ..Policy::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registration::trial::{Answered, Desk, NUMBER};
    use crate::subscription::{Level, Secret, State};

    const PATH: &str = "/v1/configs/webhook";
    const ACME: (&str, &str) = ("WHIZARD-KEY", "acme-key");
    const BETA: (&str, &str) = ("WHIZARD-KEY", "beta-key");
    const JSON: (&str, &str) = ("Content-Type", "application/json");

    /// Setting a webhook with Basic auth, as the gateway's document shows it.
    const EXAMPLE: &str = r#"{ "url": "https://www.example.com/webhook", "headers": { "Authorization": "Basic dGVzdHVzZXI6dGVzdHBhc3M=" }}"#;

    fn set(desk: &Desk, body: &str) -> Answered {
        desk.call("POST", PATH, &[ACME, JSON], body)
    }

    fn read(desk: &Desk) -> Answered {
        desk.call("GET", PATH, &[ACME, JSON], "")
    }

    #[test]
    fn the_documented_examples_are_answered_as_documented() {
        let desk = Desk::new();
        read(&desk).assert_refused(404, None);
        let expected: Value = serde_json::from_str(EXAMPLE).unwrap();
        assert_eq!(set(&desk, EXAMPLE), Answered { status: 200, body: expected.clone() });
        assert_eq!(read(&desk), Answered { status: 200, body: expected });
        set(&desk, r#"{"url": "www.example.com/webhook"}"#).assert_refused(400, Some("url"));
        assert_eq!(read(&desk).body["url"], "https://www.example.com/webhook");
        desk.call("GET", PATH, &[BETA], "").assert_refused(404, None);
    }

    #[test]
    fn the_webhook_is_one_subscription_to_the_numbers_of_the_key_on_the_gateways_terms() {
        let desk = Desk::new();
        let bystander = desk.call("POST", PATH, &[BETA], r#"{"url":"https://beta.example/"}"#);
        assert_eq!(bystander.body, json!({"url": "https://beta.example/", "headers": {}}));
        let beta = desk.listed("beta");
        set(&desk, EXAMPLE);
        let hook = desk.named("acme", NAME);
        assert_eq!((hook.profile, hook.level), (Profile::BusinessApi, Level::Beside));
        assert_eq!(hook.filter.events, None);
        assert_eq!(hook.filter.numbers, Some([NUMBER.parse().unwrap()].into()));
        assert_eq!(desk.named("beta", NAME).filter.numbers, None, "its key is bound to none");
        assert_eq!((hook.policy.accept, hook.policy.retried), (Accept::Only200, Retried::All));
        assert_eq!(hook.policy.retry, Retry::Linear { step_ms: 3_000, max_ms: 900_000 });
        assert_eq!(desk.listed("beta"), beta);
    }

    #[test]
    fn setting_it_again_replaces_url_and_headers_and_keeps_what_the_host_added() {
        let desk = Desk::new();
        set(&desk, EXAMPLE);
        let id = desk.named("acme", NAME).id;
        let secret = Secret::new("whsec_aGlkZGVuLXNlY3JldA==");
        desk.engine.rotate_secret(id, Some(secret.clone()), 0).unwrap();
        desk.engine.pause(id).unwrap();
        let other = json!({"url": "https://other.example/hook", "headers": {}});
        assert_eq!(set(&desk, r#"{"url":"https://other.example/hook"}"#).body, other);
        assert_eq!(read(&desk).body, other);
        let hook = desk.named("acme", NAME);
        assert_eq!((hook.id, hook.state), (id, State::Paused));
        assert!(hook.secret == Some(secret));
        assert_eq!(desk.engine.subscriptions().len(), 1);
    }

    fn check_refused(body: &str, field: Option<&str>) {
        let desk = Desk::new();
        desk.call("POST", PATH, &[BETA], EXAMPLE);
        set(&desk, EXAMPLE);
        let before = (desk.listed("acme"), desk.listed("beta"));
        set(&desk, body).assert_refused(400, field);
        assert_eq!((desk.listed("acme"), desk.listed("beta")), before, "{body}");
    }

    #[test]
    fn a_body_that_is_not_right_is_refused_by_its_field_and_changes_nothing() {
        check_refused("", None);
        check_refused("[]", None);
        check_refused("{\"url\":", None);
        check_refused("{}", Some("url"));
        check_refused(r#"{"url":null}"#, Some("url"));
        check_refused(r#"{"url":5}"#, Some("url"));
        check_refused(r#"{"url":""}"#, Some("url"));
        check_refused(r#"{"url":"https://a.example/","url":"https://b.example/"}"#, Some("url"));
        check_refused(r#"{"url":"https://a.example/","urls":[]}"#, Some("urls"));
        check_refused(r#"{"url":"https://a.example/","headers":"x: y"}"#, Some("headers"));
        check_refused(r#"{"url":"https://a.example/","headers":{"x":1}}"#, Some("headers.x"));
        let injected = r#"{"url":"https://a.example/","headers":{"x":"hidden\r\ny: z"}}"#;
        check_refused(injected, Some("headers.x"));
        check_refused(r#"{"url":"https://a.example/","headers":{"x y":"z"}}"#, Some("headers"));
        check_refused(r#"{"url":"https://a.example/","headers":{"Host":"b"}}"#, Some("headers"));
        check_refused(
            r#"{"url":"https://a.example/","headers":{"webhook-id":"b"}}"#,
            Some("headers"),
        );
        check_refused(r#"{"url":"https://user:hidden@a.example/"}"#, Some("url"));
        check_refused(r#"{"url":"http://a.example/"}"#, Some("url"));
        check_refused(r#"{"url":"ftp://a.example/"}"#, Some("url"));
        check_refused(r#"{"url":"https://10.0.0.1/"}"#, Some("url"));
        check_refused(r#"{"url":"https://[::1]/"}"#, Some("url"));
        check_refused(r#"{"url":"https://a.example:8443/"}"#, Some("url"));
        check_refused(r#"{"url":"https://a.example:80/"}"#, Some("url"));
    }

    #[test]
    fn port_443_may_be_named_and_a_host_name_may_hold_an_underscore() {
        let desk = Desk::new();
        for url in ["https://a.example:443/hook", "https://a_b.example/hook?c=d"] {
            let answer = set(&desk, &json!({ "url": url }).to_string());
            assert_eq!((answer.status, &answer.body["url"]), (200, &json!(url)));
        }
    }

    #[test]
    fn where_the_host_admits_http_it_does_on_any_port_and_https_keeps_its_rule() {
        let desk = Desk::with(|config| config.allow_http(true));
        assert_eq!(set(&desk, r#"{"url":"http://a.example:9100/"}"#).status, 200);
        let refused = set(&desk, r#"{"url":"https://a.example:9100/"}"#);
        refused.assert_refused(400, Some("url"));
        assert_eq!(read(&desk).body["url"], "http://a.example:9100/");
    }

    #[test]
    fn a_key_that_is_missing_or_nobodys_is_refused_whatever_it_asks_for() {
        let desk = Desk::new();
        set(&desk, EXAMPLE);
        let before = desk.listed("acme");
        for headers in [&[][..], &[("whizard-key", "acme-ke")], &[("authorization", "acme-key")]] {
            for method in ["GET", "POST", "DELETE"] {
                desk.call(method, PATH, headers, "{}").assert_refused(401, None);
            }
        }
        assert_eq!(desk.listed("acme"), before);
    }

    #[test]
    fn other_methods_are_refused_by_naming_those_there_are() {
        let desk = Desk::new();
        for method in ["PUT", "PATCH", "DELETE", "HEAD"] {
            desk.call(method, PATH, &[ACME], EXAMPLE).assert_refused(405, None);
            let response = desk.response(method, PATH, &[ACME], EXAMPLE);
            assert_eq!(response.headers()["allow"], "GET, POST");
        }
        assert_eq!(desk.listed("acme"), [""; 0]);
    }

    #[test]
    fn a_name_that_another_subscription_has_taken_is_a_conflict_and_a_full_book_is_refused() {
        let desk = Desk::with(|config| {
            config.limits(crate::config::Limits { subscriptions_max: 1, ..Default::default() })
        });
        let taken = Subscription::to("https://crm.example/").unwrap().account("acme").name(NAME);
        let taken = desk.engine.subscribe(taken).unwrap();
        read(&desk).assert_refused(404, None);
        set(&desk, EXAMPLE).assert_refused(409, Some("name"));
        desk.engine.revise(taken, |one| Ok(Subscription::from(one).name("crm"))).unwrap();
        set(&desk, EXAMPLE).assert_refused(400, Some("subscriptions"));
        assert_eq!(desk.engine.subscriptions().len(), 1);
    }

    #[test]
    fn a_closed_engine_says_so_and_names_no_path() {
        let desk = Desk::new();
        desk.engine.close(std::time::Duration::from_secs(10)).unwrap();
        let answer = set(&desk, EXAMPLE);
        assert_eq!((answer.status, &answer.body["meta"]["http_code"]), (503, &json!(503)));
        assert_eq!(answer.body["meta"].get("details"), None);
    }
}
