//! Records what requests change. A route may say what it changed, in an extension of its response; otherwise the
//! subscriptions of the account are compared before and after, which also covers the gateways' APIs.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::Method;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use serde_json::Value;
use wabahook::SubscriptionInfo;
use wabahook::clock::{Clock, SystemClock};

use super::changes_between;
use crate::caller::Caller;
use crate::host::{HostRef, HostState, off_thread, remote};
use crate::json::{AuditChangeJson, AuditEntryJson, SubscriptionListing, TimestampJson};

/// The counts of a response are shorter.
const RESULT_BYTES_MAX: usize = 16 * 1024;

/// Subscriptions by id.
type Snapshot = BTreeMap<u32, Arc<SubscriptionInfo>>;

/// Runs a request, and appends to the audit log what it changed.
pub(crate) async fn record_changes(host: HostRef, request: Request, next: Next) -> Response {
    if host.shared.audit.is_none() || !may_change(&request) {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let Some(caller) = host.known_caller(&parts) else {
        return next.run(Request::from_parts(parts, body)).await;
    };
    let before = snapshot(&host, &caller);
    let mut entry = entry(&caller, &parts);
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
        (None, None) => changes(&before, &snapshot(&host, &caller), &entry),
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
    !reads && !is_traffic && !path.ends_with("/test") && !path.ends_with("/match")
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

/// The subscriptions of the account that a request is about.
fn snapshot(host: &HostState, caller: &Caller) -> Snapshot {
    let own = caller.scope().map(|account| host.engine.subscriptions_of(account));
    own.into_iter().flatten().map(|one| (one.id.0, one)).collect()
}

/// The subscriptions that differ. Of two requests at the same time, each is shown its own where its path names a
/// subscription.
fn changes(before: &Snapshot, after: &Snapshot, entry: &AuditEntryJson) -> Vec<AuditChangeJson> {
    let named = entry.path.strip_prefix("/subscriptions/").and_then(|rest| rest.split('/').next());
    let named = named.and_then(|id| id.parse::<u32>().ok());
    let of = |state: Option<&Arc<SubscriptionInfo>>| state.map_or(Value::Null, |one| shown(one));
    changes_between(before, after, |id, before, after| {
        let change =
            || AuditChangeJson::between("subscription", &id.to_string(), of(before), of(after));
        named.is_none_or(|named| named == *id).then(change)
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
