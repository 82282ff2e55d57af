//! The gateways' APIs on an engine in memory, for the tests of all gateways.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Request};
use serde_json::Value;

use super::Registration;
use crate::account::Account;
use crate::config::Config;
use crate::engine::Engine;
use crate::stats::Stats;
use crate::store::Memory;
use crate::subscription::SubscriptionInfo;
use crate::testing::{DEADLINE, ScriptedReply, ScriptedTransport, is_within};

pub(super) const NUMBER: &str = "919999999999";
pub(super) const OTHER_NUMBER: &str = "918888888888";
pub(super) const BETA_NUMBER: &str = "917777777777";
pub(super) const WABA: u64 = 123_065_260_884_961;

pub(super) struct TestGateway {
    pub(super) engine: Engine,
    pub(super) registration: Registration,
    pub(super) receivers: Arc<ScriptedTransport>,
    /// Subscriptions that no request may change.
    pub(super) bystanders: Vec<Arc<SubscriptionInfo>>,
}

impl Drop for TestGateway {
    fn drop(&mut self) {
        let _ = self.engine.close(Duration::from_secs(10));
    }
}

#[derive(Debug, Clone)]
pub(super) struct GatewayResponse {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
    pub(super) body: Value,
}

impl TestGateway {
    pub(super) fn new() -> TestGateway {
        TestGateway::with(|config| config)
    }

    /// The key `acme-key` is bound to one of two numbers, `beta-key` to none of three numbers under two
    /// WABAs.
    pub(super) fn with(configure: impl FnOnce(Config) -> Config) -> TestGateway {
        let acme = Account::new("acme").api_key("acme-key");
        let acme = acme.waba(WABA.to_string(), [NUMBER, OTHER_NUMBER]).bound_to(NUMBER);
        let beta = Account::new("beta").api_key("beta-key");
        let beta = beta.waba("2", [BETA_NUMBER]).waba("three", ["916666666666", "915555555555"]);
        TestGateway::of([acme, beta], configure)
    }

    pub(super) fn of(
        accounts: impl IntoIterator<Item = Account>,
        configure: impl FnOnce(Config) -> Config,
    ) -> TestGateway {
        let receivers = ScriptedTransport::new(|_| ScriptedReply::Says(200, "what it said"));
        let receivers = Arc::new(receivers);
        let config = Config::new("unused").store(Arc::new(Memory::default()));
        let config = accounts.into_iter().fold(config, Config::account);
        let engine = Engine::open(configure(config.transport(receivers.clone()))).unwrap();
        let registration = Registration::new(engine.clone());
        TestGateway { registration, engine, receivers, bystanders: Vec::new() }
    }

    pub(super) fn respond(&self, request: &Request<Vec<u8>>) -> GatewayResponse {
        let (parts, body) = self.registration.respond(request).into_parts();
        for bystander in &self.bystanders {
            let after = self.engine.subscription(bystander.id).unwrap();
            assert!(Arc::ptr_eq(bystander, &after), "{request:?} changed {after:?}");
        }
        let text = String::from_utf8(body).unwrap();
        let body = match text.as_str() {
            "" => Value::Null,
            text => {
                assert_eq!(parts.headers["content-type"], "application/json");
                assert_eq!(parts.headers["cache-control"], "no-store");
                serde_json::from_str(text).unwrap()
            }
        };
        GatewayResponse { status: parts.status.as_u16(), headers: parts.headers, text, body }
    }

    pub(super) fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> GatewayResponse {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.respond(&request.body(body.as_ref().to_vec()).unwrap())
    }

    /// Waits until the engine's counters satisfy a condition.
    pub(super) fn wait_until(&self, is_met: impl Fn(&Stats) -> bool) {
        let in_time = is_within(DEADLINE, || is_met(&self.engine.stats()));
        assert!(in_time, "not in time: {:?}", self.engine.stats());
    }

    /// Every subscription of an account as a line that shows any change.
    pub(super) fn listed(&self, account: &str) -> Vec<String> {
        let line = |one: &Arc<SubscriptionInfo>| {
            let SubscriptionInfo { id, name, filter, target, policy, precedence, state, .. } =
                &**one;
            let headers = target.headers();
            format!(
                "{id} {name} {filter:?} {target:?} {headers:?} {policy:?} {precedence:?} {state:?}"
            )
        };
        self.engine.subscriptions_of(account).iter().map(line).collect()
    }

    pub(super) fn named(&self, account: &str, name: &str) -> Arc<SubscriptionInfo> {
        let all = self.engine.subscriptions_of(account);
        let found = all.iter().find(|one| one.name == name);
        Arc::clone(found.unwrap_or_else(|| panic!("{account} has no {name:?}")))
    }
}

impl GatewayResponse {
    /// An error with this status and the field at fault, if any, in the `meta` shape; 360dialog has other
    /// shapes for 401 and 409.
    pub(super) fn assert_refused(&self, status: u16, field: Option<&str>) {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.body.as_object().unwrap().len(), 1);
        let meta = &self.body["meta"];
        let message = match (status, meta) {
            (401, Value::Null) => &self.body["error"],
            (409, Value::Null) => &self.body["message"],
            _ => {
                assert_eq!(meta["http_code"], status, "{}", self.body);
                assert_eq!(meta["success"], false, "{}", self.body);
                let fields: Vec<_> = field.into_iter().map(Value::from).collect();
                assert_eq!(meta["details"], Value::from(fields), "{}", self.body);
                &meta["developer_message"]
            }
        };
        let message = message.as_str().unwrap();
        assert!(!message.is_empty() && !message.contains("hidden"), "{message}");
        assert!(field.is_none_or(|field| message.starts_with(field)), "{message}");
    }
}
