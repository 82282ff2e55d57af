//! Records what requests change. A route may say what it changed, in an extension of its response; otherwise the
//! subscriptions that a request can change are compared before and after, which also covers the gateways' APIs. Where
//! those are all of the account, they are collected on a thread of its own share, since there may be many (I4).

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::Response;
use serde_json::Value;
use wabahook::clock::{Clock, SystemClock};
use wabahook::registration::Registration;
use wabahook::{SubscriptionId, SubscriptionInfo};

use super::changes_between;
use crate::caller::Caller;
use crate::host::{HostRef, authenticated, off_thread, remote};
use crate::json::{AuditChangeJson, AuditEntryJson, SubscriptionListing, TimestampJson};

/// The counts of a response are shorter.
const RESULT_BYTES_MAX: usize = 16 * 1024;

/// Subscriptions by id.
type Snapshot = BTreeMap<u32, Arc<SubscriptionInfo>>;

/// Which subscriptions a request can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// None, or the route says what changed.
    Nothing,
    One(SubscriptionId),
    /// The one that the response's `location` names.
    Created,
    /// Any of the account.
    All,
}

impl Scope {
    fn of(path: &str) -> Scope {
        match path.strip_prefix("/subscriptions") {
            Some("") => Scope::Created,
            Some("/pause" | "/resume") => Scope::All,
            Some(rest) if rest.starts_with('/') => Scope::named(path),
            _ if Registration::serves(path) => Scope::All,
            _ => Scope::Nothing,
        }
    }

    /// The subscription whose path this is.
    fn named(path: &str) -> Scope {
        let id = path.strip_prefix("/subscriptions/").and_then(|rest| rest.split('/').next());
        let id = id.and_then(|id| id.parse().ok());
        id.map_or(Scope::Nothing, |id| Scope::One(SubscriptionId(id)))
    }

    /// The same once the request was answered.
    fn after(self, response: &Response) -> Scope {
        let location = response.headers().get(header::LOCATION).and_then(|path| path.to_str().ok());
        match self {
            Scope::Created => location.map_or(Scope::Nothing, Scope::named),
            other => other,
        }
    }
}

/// Runs a request, and appends to the audit log what it changed.
pub(crate) async fn record_changes(host: HostRef, request: Request, next: Next) -> Response {
    if host.shared.audit.is_none() || !may_change(&request) {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let Some(caller) = host.known_caller(&parts) else {
        return next.run(Request::from_parts(parts, body)).await;
    };
    authenticated(&parts.extensions, caller.key_holder());
    let mut entry = entry(&caller, &parts);
    let scope = Scope::of(&entry.path);
    let before = snapshot(&host, &caller, scope).await;
    let mut response = next.run(Request::from_parts(parts, body)).await;
    if !response.status().is_success() {
        return response;
    }
    let told = response.extensions_mut().remove::<Vec<AuditChangeJson>>();
    entry.changes = match (told, counted(&entry.path)) {
        (Some(told), _) => told,
        (None, Some(what)) => {
            let (result, again) = result_of(response).await;
            response = again;
            // Counting changes nothing.
            if result.get("dry_run") == Some(&Value::Bool(true)) {
                return response;
            }
            vec![AuditChangeJson::between(what, "", Value::Null, result)]
        }
        (None, None) => {
            let after = snapshot(&host, &caller, scope.after(&response)).await;
            changes(&before, &after)
        }
    };
    let append = move || host.shared.audit.as_ref().map(|audit| audit.append_or_log(entry));
    let _ = off_thread(append).await;
    response
}

/// Whether a request may change anything. Events are no changes, and a test delivery changes nothing.
fn may_change(request: &Request) -> bool {
    let path = request.uri().path();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let is_traffic = path == "/events" || path.starts_with("/events/") || path == "/meta/webhook";
    // A webhook named so is removed at such a path.
    let is_trial =
        request.method() == Method::POST && (path.ends_with("/test") || path.ends_with("/match"));
    !reads && !is_traffic && !is_trial
}

/// What a request ended or repeated, where its response says how many. The filter of the request is not kept: it may
/// name a contact that was just purged.
fn counted(path: &str) -> Option<&'static str> {
    match path {
        "/dead-letters/replay" | "/dead-letters/discard" => Some("dead letters"),
        "/deliveries/cancel" | "/purge" => Some("deliveries"),
        _ => None,
    }
}

/// The object in a response, and the response again.
async fn result_of(response: Response) -> (Value, Response) {
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, RESULT_BYTES_MAX).await.unwrap_or_default();
    let result = serde_json::from_slice(&bytes).unwrap_or_default();
    (result, Response::from_parts(parts, Body::from(bytes)))
}

fn entry(caller: &Caller, parts: &Parts) -> AuditEntryJson {
    AuditEntryJson {
        id: 0,
        at: TimestampJson(SystemClock::new().wall_ms()),
        key: caller.key_name().to_owned(),
        account: caller.scope().map(str::to_owned),
        account_name: None,
        host: None,
        address: remote(&parts.extensions).to_string(),
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        changes: Vec::new(),
    }
}

/// The subscriptions of the caller that a request can change, as they are now.
async fn snapshot(host: &HostRef, caller: &Caller, scope: Scope) -> Snapshot {
    let by_id = |one: Arc<SubscriptionInfo>| (one.id.0, one);
    match (scope, caller.scope().map(str::to_owned)) {
        (Scope::One(id), _) => {
            let own = host.engine.subscription(id).filter(|one| caller.sees(&one.account));
            own.map(by_id).into_iter().collect()
        }
        (Scope::All, Some(account)) => {
            let engine = host.engine.clone();
            let all = off_thread(move || {
                engine.subscriptions_of(&account).into_iter().map(by_id).collect()
            });
            all.await.unwrap_or_default()
        }
        _ => Snapshot::new(),
    }
}

/// The subscriptions that differ.
fn changes(before: &Snapshot, after: &Snapshot) -> Vec<AuditChangeJson> {
    let of = |state: Option<&Arc<SubscriptionInfo>>| state.map_or(Value::Null, |one| shown(one));
    changes_between(before, after, |id, before, after| {
        Some(AuditChangeJson::between("subscription", &id.to_string(), of(before), of(after)))
    })
}

/// A subscription as it is listed, without its live figures.
fn shown(subscription: &SubscriptionInfo) -> Value {
    let listing = SubscriptionListing::of(subscription, None);
    let mut value = serde_json::to_value(listing).unwrap_or_default();
    if let Value::Object(members) = &mut value {
        members.retain(|name, value| name != "health" && !value.is_null());
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn a_request_is_compared_by_what_it_can_change() {
        let seven = Scope::One(SubscriptionId(7));
        for (path, expected) in [
            ("/subscriptions", Scope::Created),
            ("/subscriptions/7", seven),
            ("/subscriptions/7/secret", seven),
            ("/subscriptions/x", Scope::Nothing),
            ("/subscriptions/pause", Scope::All),
            ("/subscriptions/resume", Scope::All),
            ("/webhooks/7", Scope::All),
            ("/v1/configs/webhook", Scope::All),
            ("/admin/accounts", Scope::Nothing),
            ("/purge", Scope::Nothing),
            ("/subscriptionsx", Scope::Nothing),
            ("/unknown", Scope::Nothing),
        ] {
            assert_eq!(Scope::of(path), expected, "{path}");
        }
        let mut response = Response::new(Body::empty());
        assert_eq!(Scope::Created.after(&response), Scope::Nothing);
        let location = HeaderValue::from_static("/subscriptions/7");
        response.headers_mut().insert(header::LOCATION, location);
        assert_eq!(Scope::Created.after(&response), seven);
        assert_eq!(Scope::All.after(&response), Scope::All);
    }
}
