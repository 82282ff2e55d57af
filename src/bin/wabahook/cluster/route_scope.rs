//! Which engines a request is about, by its method and path. It knows every route of the host that is not about one
//! account; all others, the gateways' included, are of the account whose key they bring.

use axum::http::Method;
use wabahook::Accounts;

use crate::json::{PurgeJson, parse, utf8};

/// Which engines a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RouteScope {
    /// None in particular.
    Any,
    /// A callback of Meta, which may be of several accounts.
    Callback,
    /// The account of the key, or the one that the operator names; without one, all of them as it says.
    Account(OfAll),
    /// For the operator: the engine that owns the accounts.
    Directory,
    /// For the operator: an account, wherever it is.
    NamedAccount(String),
    /// For the operator: an account, wherever it is, and then the engine that owns the accounts.
    NamedAccountThenDirectory(String),
    /// For the operator: every account.
    EveryAccount,
    /// For the operator: the audit log, which every host keeps for itself.
    AuditLog,
    /// For the operator: every host; their answers are added.
    EveryHost,
    /// The engines of this host.
    ThisHost,
}

/// What the operator gets who names no account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OfAll {
    /// The pages of all engines, one after the other.
    List,
    /// The sums of their counters.
    Sum,
    /// The account that the body names; without one, the sums.
    Purge,
    /// The answer of the first shard that has the item.
    First,
    /// A stream of all.
    Stream,
    /// Whatever any of them answers: the route is about one account.
    Any,
    /// A refusal: two shards may have the same id, so the operator must name the account.
    Refuse,
}

/// Which engines a request is about.
pub(super) fn scope_of(method: &Method, path: &str) -> RouteScope {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    match parts.as_slice() {
        [""] | ["console", ..] | ["openapi.json"] => RouteScope::Any,
        ["meta", "webhook"] if *method == Method::POST => RouteScope::Callback,
        ["meta", "webhook"] | ["admin", "backup"] => RouteScope::Any,
        ["metrics"] => RouteScope::ThisHost,
        ["admin", "accounts"] if is_read => RouteScope::EveryAccount,
        ["admin", "accounts", id] if is_read => RouteScope::NamedAccount((*id).to_owned()),
        ["admin", "accounts", id, "forget" | "move"] => {
            RouteScope::NamedAccountThenDirectory((*id).to_owned())
        }
        ["admin", "accounts", ..] | ["admin", "unowned"] => RouteScope::Directory,
        ["admin", "audit"] => RouteScope::AuditLog,
        ["admin", "reload"] => RouteScope::EveryHost,
        _ => RouteScope::Account(of_all(is_read, &parts)),
    }
}

fn of_all(is_read: bool, parts: &[&str]) -> OfAll {
    match parts {
        ["purge"] => OfAll::Purge,
        ["stats"] | ["deliveries", "cancel"] | ["dead-letters", "replay" | "discard"] => OfAll::Sum,
        ["notices"] => OfAll::Stream,
        ["subscriptions" | "deliveries" | "dead-letters" | "events"] if is_read => OfAll::List,
        ["dead-letters" | "events", _] if is_read => OfAll::First,
        ["subscriptions", "pause" | "resume"] => OfAll::Any,
        ["subscriptions", _, ..] => OfAll::Refuse,
        _ => OfAll::Any,
    }
}

/// The id of the account that a purge names in its body, by its id or its name.
pub(super) fn purged_account(body: &[u8], accounts: &Accounts) -> Option<String> {
    let named = parse::<PurgeJson>(utf8(body).ok()?).ok()?.account?;
    let found = accounts.get(&named).or_else(|| accounts.named(&named));
    Some(found.map_or(named, |account| account.id().to_owned()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use wabahook::store::Memory;
    use wabahook::{Account, Config, Engine};

    use super::*;

    fn scope(line: &str) -> RouteScope {
        let (method, path) = line.split_once(' ').unwrap();
        scope_of(&method.parse().unwrap(), path)
    }

    #[test]
    fn each_route_finds_its_engines() {
        let named = |id: &str| RouteScope::NamedAccount(id.to_owned());
        let ended = |id: &str| RouteScope::NamedAccountThenDirectory(id.to_owned());
        for (line, expected) in [
            ("GET /", RouteScope::Any),
            ("GET /console/app.js", RouteScope::Any),
            ("GET /meta/webhook", RouteScope::Any),
            ("POST /meta/webhook", RouteScope::Callback),
            ("GET /admin/accounts", RouteScope::EveryAccount),
            ("POST /admin/accounts", RouteScope::Directory),
            ("GET /admin/accounts/acct_1", named("acct_1")),
            ("PATCH /admin/accounts/acct_1", RouteScope::Directory),
            ("POST /admin/accounts/acct_1/keys", RouteScope::Directory),
            ("DELETE /admin/accounts/acct_1/keys/key_1", RouteScope::Directory),
            ("POST /admin/accounts/acct_1/forget", ended("acct_1")),
            ("POST /admin/accounts/acct_1/move", ended("acct_1")),
            ("GET /admin/audit", RouteScope::AuditLog),
            ("POST /admin/reload", RouteScope::EveryHost),
            ("GET /metrics", RouteScope::ThisHost),
            ("POST /events", RouteScope::Account(OfAll::Any)),
            ("GET /events", RouteScope::Account(OfAll::List)),
            ("GET /events/x", RouteScope::Account(OfAll::First)),
            ("GET /stats", RouteScope::Account(OfAll::Sum)),
            ("GET /notices", RouteScope::Account(OfAll::Stream)),
            ("POST /purge", RouteScope::Account(OfAll::Purge)),
            ("GET /dead-letters", RouteScope::Account(OfAll::List)),
            ("GET /dead-letters/x", RouteScope::Account(OfAll::First)),
            ("POST /dead-letters/replay", RouteScope::Account(OfAll::Sum)),
            ("GET /subscriptions", RouteScope::Account(OfAll::List)),
            ("POST /subscriptions", RouteScope::Account(OfAll::Any)),
            ("POST /subscriptions/pause", RouteScope::Account(OfAll::Any)),
            ("GET /subscriptions/1", RouteScope::Account(OfAll::Refuse)),
            ("POST /subscriptions/1/test", RouteScope::Account(OfAll::Refuse)),
            ("POST /v2/webhook/register", RouteScope::Account(OfAll::Any)),
            ("POST /webhooks/5/test", RouteScope::Account(OfAll::Any)),
        ] {
            assert_eq!(scope(line), expected, "{line}");
        }
    }

    #[test]
    fn a_purge_goes_to_the_account_that_its_body_names() {
        let config = Config::new("memory").store(Arc::new(Memory::default()));
        let engine = Engine::open(config.account(Account::new("acme"))).unwrap();
        let id = engine.accounts().named("acme").unwrap().id().to_owned();
        for (body, expected) in [
            (format!(r#"{{"account": "{id}"}}"#), Some(id.as_str())),
            (r#"{"account": "acme", "contact": "1"}"#.to_owned(), Some(id.as_str())),
            (r#"{"account": "unknown"}"#.to_owned(), Some("unknown")),
            (r#"{"contact": "1"}"#.to_owned(), None),
            (r#"{"account": 1}"#.to_owned(), None),
        ] {
            let found = purged_account(body.as_bytes(), engine.accounts());
            assert_eq!(found.as_deref(), expected, "{body}");
        }
    }
}
