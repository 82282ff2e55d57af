//! A desk at which the gateways' APIs are called in tests: two accounts and no receiver.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use serde_json::Value;

use super::Registration;
use crate::account::Account;
use crate::attempt::Reply;
use crate::config::Config;
use crate::delivery::{Request as Attempt, Transport};
use crate::engine::Engine;
use crate::store::Memory;
use crate::subscription::Registered;

pub(super) const NUMBER: &str = "919999999999";
pub(super) const OTHER_NUMBER: &str = "918888888888";
pub(super) const WABA: u64 = 123_065_260_884_961;

/// Acknowledges everything.
struct Willing;

impl Transport for Willing {
    fn send(&self, _: &Attempt<'_>) -> Reply {
        Reply::status(200)
    }

    fn interrupt(&self) {}
}

/// An engine with its registration.
pub(super) struct Desk {
    pub(super) engine: Engine,
    pub(super) registration: Registration,
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = self.engine.close(Duration::from_secs(10));
    }
}

/// What was answered.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answered {
    pub(super) status: u16,
    pub(super) body: Value,
}

impl Desk {
    /// The key `acme-key` is bound to one of two numbers, `beta-key` to none of three numbers under two
    /// WABAs.
    pub(super) fn new() -> Desk {
        Desk::with(|config| config)
    }

    pub(super) fn with(change: impl FnOnce(Config) -> Config) -> Desk {
        let acme = Account::new("acme").api_key("acme-key");
        let acme = acme.waba(WABA.to_string(), [NUMBER, OTHER_NUMBER]).bound_to(NUMBER);
        let beta = Account::new("beta").api_key("beta-key");
        let beta = beta.waba("2", ["917777777777"]).waba("three", ["916666666666", "915555555555"]);
        Desk::of([acme, beta], change)
    }

    pub(super) fn of(
        accounts: impl IntoIterator<Item = Account>,
        change: impl FnOnce(Config) -> Config,
    ) -> Desk {
        let config = Config::new("unused").store(Arc::new(Memory::default()));
        let config = accounts.into_iter().fold(config, Config::account);
        let engine = Engine::open(change(config.transport(Arc::new(Willing)))).unwrap();
        Desk { registration: Registration::new(engine.clone()), engine }
    }

    pub(super) fn response(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> Response<Vec<u8>> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.registration.answer(&request.body(body).unwrap());
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(response.headers()["cache-control"], "no-store");
        response
    }

    pub(super) fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> Answered {
        let response = self.response(method, path, headers, body);
        let body = serde_json::from_slice(response.body()).unwrap();
        Answered { status: response.status().as_u16(), body }
    }

    /// Everything that an account registered, told apart well enough to see whether anything changed.
    pub(super) fn listed(&self, account: &str) -> Vec<String> {
        let line = |one: &Arc<Registered>| {
            let Registered { id, name, filter, target, policy, level, state, .. } = &**one;
            let headers = target.headers();
            format!("{id} {name} {filter:?} {target:?} {headers:?} {policy:?} {level:?} {state:?}")
        };
        self.engine.subscriptions_of(account).iter().map(line).collect()
    }

    /// The subscription of a name.
    pub(super) fn named(&self, account: &str, name: &str) -> Arc<Registered> {
        let all = self.engine.subscriptions_of(account);
        let found = all.iter().find(|one| one.name == name);
        Arc::clone(found.unwrap_or_else(|| panic!("there is no {name:?} of {account}")))
    }
}

impl Answered {
    /// Refused in the `meta` shape, with this status and the field at fault, if any.
    pub(super) fn assert_refused(&self, status: u16, field: Option<&str>) {
        let meta = &self.body["meta"];
        assert_eq!((self.status, &meta["http_code"]), (status, &status.into()), "{}", self.body);
        assert_eq!(meta["success"], false, "{}", self.body);
        let message = meta["developer_message"].as_str().unwrap();
        assert!(!message.is_empty() && !message.contains("hidden"), "{message}");
        assert_eq!(self.body.as_object().unwrap().len(), 1);
        let fields: Vec<_> = field.into_iter().map(Value::from).collect();
        assert_eq!(meta["details"], Value::from(fields), "{}", self.body);
        assert!(field.is_none_or(|field| message.starts_with(field)), "{message}");
    }
}
