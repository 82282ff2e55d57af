//! The registration API of the on-premises WhatsApp Business API, and the policy of its webhooks. An
//! account has one webhook here and sees and changes no other (I9).

use std::time::Duration;

use http::{Method, Response, Uri};
use serde_json::Value;

use super::fields::{RequestObject, utf8};
use super::gateway_http::GatewayRequest;
use super::webhook_config::{self, ConfigError, ConfigResult, ErrorShape, WebhookConfigReader};
use crate::account::AccountInfo;
use crate::engine::SubscriptionChange;
use crate::profile::Profile;
use crate::subscription::{
    Accept, Breaker, PayloadFormat, Policy, Retry, RetryOn, Subscription, SubscriptionInfo, Target,
};

/// The header that shows the key.
pub(super) const KEY: &str = "whizard-key";

/// The subscription name of the account's only webhook here.
const NAME: &str = "WhatsApp Business API";

const PATH: &str = "/v1/configs/webhook";

pub(super) fn respond(request: &GatewayRequest<'_>) -> Response<Vec<u8>> {
    webhook_config::response(result(request), ErrorShape::Meta)
}

fn result(request: &GatewayRequest<'_>) -> ConfigResult {
    let account = &*request.account(KEY).ok_or_else(|| ConfigError::unknown_key(KEY))?;
    if request.path != PATH {
        return Err(ConfigError::unknown_route(request.given_path));
    }
    match *request.method {
        Method::GET => {
            let all = request.engine.subscriptions_of(account.id());
            let set = all.iter().find(|one| is_hook(one)).ok_or_else(ConfigError::unset)?;
            Ok(Value::Object(webhook_config::shown(&set.target)))
        }
        Method::POST => {
            let reader = WebhookConfigReader { engine: request.engine, account, check_url };
            let body = RequestObject::read(utf8(request.body)?, &["url", "headers", "payload"])?;
            set(request, account, reader.config(&body)?, body.word("payload")?)
        }
        _ => Err(ConfigError::method(&[Method::GET, Method::POST])),
    }
}

fn set(
    request: &GatewayRequest<'_>,
    account: &AccountInfo,
    target: Target,
    payload: Option<PayloadFormat>,
) -> ConfigResult {
    let (_, shown) = request.engine.change(account.id(), |account_snapshot| {
        let before = account_snapshot.subscriptions.iter().find(|one| is_hook(one));
        let before = before.map(|one| &**one);
        let subscription = webhook_config::subscription(target, before, |target| {
            let fresh = Subscription::to_target(target).name(NAME);
            fresh.profile(Profile::BusinessApi).policy(policy())
        });
        let subscription = payload.into_iter().fold(subscription, Subscription::payload);
        let subscription = subscription.numbers_or_all(account.bound_number().map(|one| [one]));
        let shown = webhook_config::shown(&subscription.target);
        let change = match before {
            Some(before) => SubscriptionChange::Replace(before.id, subscription),
            None => SubscriptionChange::Create(subscription),
        };
        Ok::<_, ConfigError>((vec![change], shown))
    })?;
    Ok(Value::Object(shown))
}

fn is_hook(registered: &SubscriptionInfo) -> bool {
    registered.profile == Profile::BusinessApi && registered.name == NAME
}

/// Where the host's configuration allows `http://`, it does so on any port.
fn check_url(url: &Uri) -> Result<(), &'static str> {
    match url.port_u16() {
        Some(port) if port != 443 && url.scheme_str() == Some("https") => {
            Err("an https:// URL on port 443, the only one that this gateway calls")
        }
        _ => Ok(()),
    }
}

/// Any status but 200 is retried after 3 s, then after 3 s more each time, up to 15 min. The gateway's
/// documents contradict each other on the duration (24 hours, or without end): here 7 days. A circuit
/// breaker would stretch the schedule, and receivers written for this gateway know no header that ends
/// deliveries.
fn policy() -> Policy {
    Policy {
        retry: Retry::Linear {
            step: Duration::from_millis(3_000),
            max: Duration::from_millis(900_000),
        },
        age_max: Duration::from_millis(7 * 24 * 3_600_000),
        accept: Accept::Only200,
        retry_on: RetryOn::All,
        breaker: Breaker { failures: None, ..Breaker::default() },
        disable_after: None,
        honor_delivery_control: false,
        ..Policy::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registration::test_support::{GatewayResponse, NUMBER, TestGateway};
    use crate::secret::Secret;
    use crate::subscription::{Precedence, SubscriptionState};

    const ACME: (&str, &str) = ("WHIZARD-KEY", "acme-key");
    const BETA: (&str, &str) = ("WHIZARD-KEY", "beta-key");
    const JSON: (&str, &str) = ("Content-Type", "application/json");

    /// Setting a webhook with Basic auth, as the gateway's document shows it.
    const EXAMPLE: &str = r#"{ "url": "https://www.example.com/webhook", "headers": { "Authorization": "Basic dGVzdHVzZXI6dGVzdHBhc3M=" }}"#;

    fn set(gateway: &TestGateway, body: &str) -> GatewayResponse {
        gateway.call("POST", PATH, &[ACME, JSON], body)
    }

    fn read(gateway: &TestGateway) -> GatewayResponse {
        gateway.call("GET", PATH, &[ACME, JSON], "")
    }

    #[test]
    fn the_documented_examples_work_as_documented() {
        let gateway = TestGateway::new();
        read(&gateway).assert_refused(404, None);
        let expected: Value = serde_json::from_str(EXAMPLE).unwrap();
        for response in [set(&gateway, EXAMPLE), read(&gateway)] {
            assert_eq!((response.status, &response.body), (200, &expected));
        }
        set(&gateway, r#"{"url": "www.example.com/webhook"}"#).assert_refused(400, Some("url"));
        assert_eq!(read(&gateway).body["url"], "https://www.example.com/webhook");
        gateway.call("GET", PATH, &[BETA], "").assert_refused(404, None);
    }

    #[test]
    fn the_webhook_is_one_subscription_with_the_gateways_policy() {
        let gateway = TestGateway::new();
        let bystander = gateway.call("POST", PATH, &[BETA], r#"{"url":"https://beta.example/"}"#);
        assert_eq!(bystander.body, json!({"url": "https://beta.example/", "headers": {}}));
        let beta = gateway.listed("beta");
        set(&gateway, EXAMPLE);
        let hook = gateway.named("acme", NAME);
        assert_eq!(hook.profile, Profile::BusinessApi);
        assert_eq!(hook.precedence, Precedence::Independent);
        assert_eq!(hook.filter.events, None);
        assert_eq!(hook.filter.numbers, Some([NUMBER.parse().unwrap()].into()));
        assert_eq!(gateway.named("beta", NAME).filter.numbers, None, "its key is bound to none");
        assert_eq!((hook.policy.accept, hook.policy.retry_on), (Accept::Only200, RetryOn::All));
        let (step, max) = (Duration::from_secs(3), Duration::from_secs(900));
        assert_eq!(hook.policy.retry, Retry::Linear { step, max });
        assert_eq!(gateway.listed("beta"), beta);
    }

    #[test]
    fn setting_it_again_keeps_what_the_host_added() {
        let gateway = TestGateway::new();
        set(&gateway, EXAMPLE);
        let id = gateway.named("acme", NAME).id;
        let secret = Secret::new("whsec_aGlkZGVuLXNlY3JldC1vZi10aGUtdGVzdA==");
        gateway.engine.rotate_secret(id, Some(secret.clone()), Duration::ZERO).unwrap();
        gateway.engine.pause(id).unwrap();
        let other = json!({"url": "https://other.example/hook", "headers": {}});
        assert_eq!(set(&gateway, r#"{"url":"https://other.example/hook"}"#).body, other);
        assert_eq!(read(&gateway).body, other);
        let hook = gateway.named("acme", NAME);
        assert_eq!((hook.id, hook.state), (id, SubscriptionState::Paused));
        assert!(hook.secret == Some(secret));
        assert_eq!(gateway.engine.subscriptions().len(), 1);
    }

    fn check_refused(body: &str, field: Option<&str>) {
        let gateway = TestGateway::new();
        gateway.call("POST", PATH, &[BETA], EXAMPLE);
        set(&gateway, EXAMPLE);
        let before = (gateway.listed("acme"), gateway.listed("beta"));
        set(&gateway, body).assert_refused(400, field);
        assert_eq!((gateway.listed("acme"), gateway.listed("beta")), before, "{body}");
    }

    #[test]
    fn an_invalid_body_is_refused_by_field_and_changes_nothing() {
        check_refused("", None);
        check_refused("[]", None);
        check_refused("{\"url\":", None);
        check_refused("{}", Some("url"));
        check_refused(r#"{"url":null}"#, Some("url"));
        check_refused(r#"{"url":""}"#, Some("url"));
        check_refused(r#"{"url":"https://a.example/","url":"https://b.example/"}"#, Some("url"));
        check_refused(r#"{"url":"https://a.example/","headers":"x: y"}"#, Some("headers"));
        check_refused(r#"{"url":"https://a.example/","headers":{"x":1}}"#, Some("headers.x"));
        check_refused(r#"{"url":"https://a.example/","headers":{"x y":"z"}}"#, Some("headers"));
        check_refused(r#"{"url":"https://a.example/","headers":{"Host":"b"}}"#, Some("headers"));
        check_refused(
            r#"{"url":"https://a.example/","headers":{"webhook-id":"b"}}"#,
            Some("headers"),
        );
        check_refused(r#"{"url":"ftp://a.example/"}"#, Some("url"));
        check_refused(r#"{"url":"https://10.0.0.1/"}"#, Some("url"));
        check_refused(r#"{"url":"https://[::1]/"}"#, Some("url"));
        check_refused(r#"{"url":"https://a.example:8443/"}"#, Some("url"));
        check_refused(r#"{"url":"https://a.example:80/"}"#, Some("url"));
    }

    #[test]
    fn port_443_and_underscores_are_allowed() {
        let gateway = TestGateway::new();
        for url in ["https://a.example:443/hook", "https://a_b.example/hook?c=d"] {
            let answer = set(&gateway, &json!({ "url": url }).to_string());
            assert_eq!((answer.status, &answer.body["url"]), (200, &json!(url)));
        }
    }

    #[test]
    fn allowed_http_works_on_any_port() {
        let gateway = TestGateway::with(|config| config.allow_http(true));
        assert_eq!(set(&gateway, r#"{"url":"http://a.example:9100/"}"#).status, 200);
        let refused = set(&gateway, r#"{"url":"https://a.example:9100/"}"#);
        refused.assert_refused(400, Some("url"));
        assert_eq!(read(&gateway).body["url"], "http://a.example:9100/");
    }

    #[test]
    fn a_missing_or_unknown_key_is_refused() {
        let gateway = TestGateway::new();
        set(&gateway, EXAMPLE);
        let before = gateway.listed("acme");
        for headers in [&[][..], &[("whizard-key", "acme-ke")], &[("authorization", "acme-key")]] {
            for method in ["GET", "POST", "DELETE"] {
                gateway.call(method, PATH, headers, "{}").assert_refused(401, None);
            }
        }
        assert_eq!(gateway.listed("acme"), before);
    }

    #[test]
    fn a_used_name_is_a_conflict_and_a_full_store_is_refused() {
        let gateway = TestGateway::with(|config| {
            config.limits(crate::config::Limits { subscriptions_max: 1, ..Default::default() })
        });
        let taken = Subscription::to("https://crm.example/").unwrap().account("acme").name(NAME);
        let taken = gateway.engine.subscribe(taken).unwrap();
        read(&gateway).assert_refused(404, None);
        set(&gateway, EXAMPLE).assert_refused(409, Some("name"));
        gateway
            .engine
            .revise(taken, |one| Ok::<_, crate::error::Error>(Subscription::from(one).name("crm")))
            .unwrap();
        set(&gateway, EXAMPLE).assert_refused(400, Some("subscriptions"));
        assert_eq!(gateway.engine.subscriptions().len(), 1);
    }

    #[test]
    fn a_closed_engine_is_503_without_paths() {
        let gateway = TestGateway::new();
        gateway.engine.close(std::time::Duration::from_secs(10)).unwrap();
        let answer = set(&gateway, EXAMPLE);
        assert_eq!((answer.status, &answer.body["meta"]["http_code"]), (503, &json!(503)));
        assert_eq!(answer.body["meta"].get("details"), None);
    }
}
