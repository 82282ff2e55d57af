//! One request for every operation of the OpenAPI document, so that a new route fails the test until it has one here.
//! Each is sent by an account about its own things, by an account about another's, and by the operator.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use wabahook::registration::Registration;

use super::{Run, callback, own_marker};
use crate::client::Answer;
use crate::host_process::OPERATOR;
use crate::meta_callbacks::signature;

/// An operation with one way to authenticate and one type of body.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Operation {
    pub(super) method: String,
    pub(super) path: String,
    /// The security scheme; empty without one.
    scheme: String,
    is_lines: bool,
}

/// No webhook has it.
const NO_ID: &str = "4000000000";

/// A request of an operation.
struct RouteRequest {
    path: String,
    body: String,
}

impl RouteRequest {
    /// The same with an account named in the query.
    fn about(self, account: &str) -> RouteRequest {
        let mark = if self.path.contains('?') { '&' } else { '?' };
        RouteRequest { path: format!("{}{mark}account={account}", self.path), ..self }
    }
}

/// All operations of the document that a host serves.
pub(super) fn operations(document: &Value) -> Vec<Operation> {
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let schemes = operation["security"].as_array().unwrap().iter();
            let mut schemes: Vec<String> =
                schemes.flat_map(|one| one.as_object().unwrap().keys().cloned()).collect();
            if schemes.is_empty() {
                schemes.push(String::new());
            }
            let has_lines = !operation["requestBody"]["content"]["application/x-ndjson"].is_null();
            for scheme in schemes {
                for is_lines in [false, true].into_iter().take(1 + usize::from(has_lines)) {
                    let (method, path) = (method.to_uppercase(), path.clone());
                    operations.push(Operation { method, path, scheme: scheme.clone(), is_lines });
                }
            }
        }
    }
    // What is made comes before what is read, and what ends comes last.
    operations.sort_by_key(Operation::rank);
    operations
}

impl Operation {
    /// When it is sent among all others.
    fn rank(&self) -> u8 {
        let ends = ["/dead-letters/discard", "/deliveries/cancel", "/purge"];
        match (self.method.as_str(), self.path.as_str()) {
            ("DELETE", _) => 4,
            ("POST", path) if ends.contains(&path) => 3,
            ("POST", "/dead-letters/replay") => 2,
            ("POST" | "PUT", _) => 0,
            _ => 1,
        }
    }

    pub(super) fn is_of_operator(&self) -> bool {
        self.path.starts_with("/admin/")
    }

    pub(super) fn removes_account(&self) -> bool {
        self.method == "DELETE" && self.path == "/admin/accounts/{id}"
    }

    /// Whether it is about one thing that an id of the host's names.
    fn names_one(&self) -> bool {
        let is_in_path = self.path.contains("{id}") || self.path.contains("{webhookId}");
        is_in_path || self.path == "/v2/webhook/deregister"
    }

    /// Whether the operator's key is of use. A gateway's routes know customers only.
    fn takes_operator(&self) -> bool {
        self.scheme == "ApiKey" && !Registration::PATHS.contains(&self.path.as_str())
    }

    fn is_open(&self) -> bool {
        self.scheme.is_empty() || self.scheme == "MetaSignature"
    }

    fn headers<'a>(&self, key: &'a str, signed: &'a str) -> Vec<(&'static str, &'a str)> {
        let kind = if self.is_lines { "application/x-ndjson" } else { "application/json" };
        let mut headers = vec![("content-type", kind)];
        headers.extend(match self.scheme.as_str() {
            "" => None,
            "ApiKey" => Some(("authorization", key)),
            "WhizardKey" => Some(("whizard-key", key)),
            "D360ApiKey" => Some(("d360-api-key", key)),
            "MetaSignature" => Some(("x-hub-signature-256", signed)),
            other => panic!("no header for {other}"),
        });
        headers
    }
}

impl Run {
    /// Sends a request of an operation with a key, and notes that the operation was answered.
    fn send(&mut self, operation: &Operation, key: &str, request: &RouteRequest) -> Answer {
        let signed = signature("app-secret", &request.body);
        let headers = operation.headers(key, &signed);
        let (method, body) = (&operation.method, request.body.as_bytes());
        let answer = self.served.request(method, &request.path, &headers, body);
        assert!(answer.status < 500, "{operation:?} {answer:?}");
        if (200..300).contains(&answer.status) {
            self.exercised.insert((operation.clone(), key == OPERATOR));
        }
        answer
    }

    /// An account sends a request about its own things, or about those of `whose`.
    pub(super) fn call(&mut self, operation: &Operation, n: usize, whose: usize) {
        let what = format!("{} {} about account {whose}", operation.method, operation.path);
        let request = self.request_of(operation, n, whose);
        let others = self.others_of(n);
        let key = self.accounts[n].key.clone();
        let answer = self.send(operation, &key, &request);
        if !operation.is_open() {
            self.check(&what, n, &answer);
        }
        self.check_others(&what, n, &others);
        let is_done = answer.status < 300;
        if operation.is_of_operator() {
            assert_eq!(answer.status, 403, "{what}: {answer:?}");
        } else if n != whose && operation.names_one() {
            assert!(!is_done, "{what}: {answer:?}");
        }
        if n != whose && !operation.is_open() {
            let request = request.about(&self.accounts[whose].id);
            let answer = self.send(operation, &key, &request);
            assert!(answer.status == 403 || !operation.takes_operator(), "{what}: {answer:?}");
            self.check(&what, n, &answer);
            self.check_others(&what, n, &others);
        }
    }

    /// The operator sends a request about the things of `whose`, with a body about account `n`.
    pub(super) fn call_as_operator(&mut self, operation: &Operation, n: usize, whose: usize) {
        if !operation.takes_operator() {
            return;
        }
        let mut request = self.request_of(operation, n, whose);
        if !operation.is_of_operator() {
            request = request.about(&self.accounts[n].id);
        }
        let others = self.others_of(n);
        let answer = self.send(operation, OPERATOR, &request);
        let what = format!("{} {} of the operator", operation.method, operation.path);
        if !operation.is_of_operator() {
            self.check(&what, n, &answer);
        }
        if n == whose {
            self.check_others(&what, n, &others);
        }
        // A new key is shown once, in the answer to its own request.
        for one in &self.accounts {
            assert!(!answer.body.contains(&one.key), "{what} shows a key");
        }
    }

    /// What must stay as it is whatever an account does: the webhooks and dead letters of others.
    fn others_of(&self, n: usize) -> (Vec<Value>, BTreeSet<String>) {
        let own = &self.accounts[n].id;
        let mut others = self.served.items("/subscriptions?limit=1000", OPERATOR);
        others.retain(|one| one["account"] != **own);
        others.iter_mut().for_each(|one| drop(one.as_object_mut().unwrap().remove("health")));
        let ids: BTreeSet<_> = others.iter().map(|one| one["id"].to_string()).collect();
        let letters = self.served.items("/dead-letters?limit=1000", OPERATOR).into_iter();
        let letters = letters.filter(|one| ids.contains(&one["subscription"].to_string()));
        (others, letters.map(|one| one["id"].to_string()).collect())
    }

    fn check_others(&self, what: &str, n: usize, before: &(Vec<Value>, BTreeSet<String>)) {
        let after = self.others_of(n);
        assert_eq!(before.0, after.0, "{what} by account {n} changes webhooks of others");
        assert!(before.1.is_subset(&after.1), "{what} by account {n} ends dead letters of others");
    }

    /// The ids of an account's webhooks with a profile, the oldest first.
    fn webhooks_of(&self, n: usize, profile: &str) -> Vec<String> {
        let path = format!("/subscriptions?limit=1000&account={}", self.accounts[n].id);
        let items = self.served.items(&path, OPERATOR).into_iter();
        let items = items.filter(|one| one["profile"] == profile);
        items.map(|one| one["id"].to_string()).collect()
    }

    /// The value of a member in the first item of a list of an account.
    fn first_of(&self, n: usize, list: &str, member: &str) -> String {
        let mark = if list.contains('?') { '&' } else { '?' };
        let path = format!("{list}{mark}account={}", self.accounts[n].id);
        let listed = self.served.get(&path, OPERATOR).json();
        listed["items"][0][member].as_str().unwrap_or("none").to_owned()
    }

    /// A request of an operation with the body of one account about the things of another.
    fn request_of(&mut self, operation: &Operation, n: usize, whose: usize) -> RouteRequest {
        self.published += 1;
        let count = self.published;
        let id = match operation.path.as_str() {
            path if path.starts_with("/subscriptions/{id}") => {
                let own = self.webhooks_of(whose, "wabahook");
                // The first webhook is needed again.
                if operation.method == "DELETE" {
                    own.last().cloned()
                } else {
                    own.first().cloned()
                }
            }
            path if path.starts_with("/v2/webhook/") => {
                self.webhooks_of(whose, "doubletick").first().cloned()
            }
            path if path.starts_with("/webhooks/{id}") => {
                self.webhooks_of(whose, "session").first().cloned()
            }
            "/events/{id}" => Some(self.first_of(whose, "/events?contact=contact", "id")),
            "/dead-letters/{id}" => Some(self.first_of(whose, "/dead-letters", "id")),
            path if path.starts_with("/admin/accounts/") => Some(self.accounts[whose].id.clone()),
            _ => None,
        };
        let id = id.unwrap_or_else(|| NO_ID.to_owned());
        let path = operation.path.replace("{id}", &id).replace("{webhookId}", &id);
        let path = path.replace("{dest_name}", &own_marker(whose));
        let path = path.replace("{key_id}", &self.key_of(whose));
        let path = path + self.query_of(operation, whose).as_str();
        let body = self.body_of(operation, (n, whose), count, &id);
        let body = body.as_str().map_or_else(|| body.to_string(), str::to_owned);
        RouteRequest { path, body }
    }

    fn query_of(&self, operation: &Operation, whose: usize) -> String {
        let number = &self.accounts[whose].number;
        match (operation.method.as_str(), operation.path.as_str()) {
            ("GET", "/events") => format!("?contact=contact&number={number}"),
            ("GET", "/deliveries") => format!("?number={number}"),
            ("GET", "/dead-letters") => format!("?number={number}&limit=1000"),
            ("GET", "/meta/webhook") => {
                "?hub.mode=subscribe&hub.verify_token=verify-token&hub.challenge=1".to_owned()
            }
            _ => String::new(),
        }
    }

    /// The last key of an account that is not its first.
    fn key_of(&self, n: usize) -> String {
        let shown = self.served.get(&format!("/admin/accounts/{}", self.accounts[n].id), OPERATOR);
        let keys = shown.json()["keys"].as_array().map_or_else(Vec::new, Clone::clone);
        let other = keys.iter().rev().find(|key| key["name"] == "another");
        other.map_or_else(|| "key_0".to_owned(), |key| key["id"].as_str().unwrap().to_owned())
    }

    /// The body; a text is sent as it is.
    fn body_of(
        &self,
        operation: &Operation,
        (n, whose): (usize, usize),
        count: usize,
        id: &str,
    ) -> Value {
        let (marker, number) = (own_marker(n), self.accounts[n].number.clone());
        let url = self.receiver.url(&format!("/{marker}/{count}"));
        let event = || json!({"type": "MESSAGE_RECEIVED", "number": number, "key": "contact", "payload": {"of": marker}});
        let destination = |name: &str| json!({"name": name, "url": url});
        let ids: Vec<u64> = [n, whose]
            .iter()
            .filter_map(|one| self.webhooks_of(*one, "wabahook").first()?.parse().ok())
            .collect();
        let letter = self.first_of(whose, "/dead-letters", "id");
        match (operation.method.as_str(), operation.path.as_str()) {
            ("GET" | "DELETE", path) if path != "/v2/webhook/deregister" => json!(""),
            ("POST", "/events") if operation.is_lines => {
                Value::String(format!("{}\n{}\n", event(), event()))
            }
            ("POST", "/events") => event(),
            ("POST", "/subscriptions/{id}/match") => {
                json!({"type": "MESSAGE_RECEIVED", "number": number, "payload": {"of": marker}})
            }
            ("POST", "/meta/webhook") => Value::String(callback(&number, &marker, count)),
            ("POST", "/subscriptions") => {
                json!({"name": format!("{marker}-{count}"), "url": url, "events": "*", "numbers": "*"})
            }
            ("PATCH", "/subscriptions/{id}") => json!({"description": format!("{marker} {count}")}),
            ("POST", "/subscriptions/{id}/secret") => json!({"overlap_ms": 1_000}),
            ("POST", "/subscriptions/pause" | "/subscriptions/resume") => json!({"ids": ids}),
            (
                "POST",
                "/subscriptions/{id}/test"
                | "/subscriptions/{id}/pause"
                | "/subscriptions/{id}/resume"
                | "/webhooks/{id}/test",
            ) => json!(""),
            ("POST", "/dead-letters/replay" | "/dead-letters/discard") if letter == "none" => {
                json!({"reason": "status:404"})
            }
            ("POST", "/dead-letters/replay" | "/dead-letters/discard") => json!({"ids": [letter]}),
            ("POST", "/deliveries/cancel") => json!({"number": self.accounts[whose].number}),
            ("POST", "/purge") => json!({"number": self.accounts[whose].number}),
            ("POST", "/admin/accounts") => {
                json!({"name": format!("{marker} {count}"), "wabas": [], "state": "suspended"})
            }
            ("PATCH", "/admin/accounts/{id}") => {
                json!({"limits": {"notice_listeners_max": 8 + count % 8}})
            }
            ("POST", "/admin/accounts/{id}/keys") => json!({"name": "another"}),
            ("POST", "/admin/accounts/{id}/move") => json!({"to": self.accounts[n].id}),
            ("POST", "/admin/accounts/{id}/forget" | "/admin/reload") => json!({}),
            ("POST", "/admin/backup") => {
                json!({"directory": self.directory.path(&format!("backup-{count}"))})
            }
            ("POST", "/v2/webhook/register") | ("POST" | "PATCH", "/v2/webhook/{webhookId}") => {
                json!({"method": "POST", "url": url, "name": format!("{marker}-doubletick"), "bodyFormat": "JSON",
                    "webhookEvents": ["MESSAGE_RECEIVED"], "wabaNumbers": [number]})
            }
            ("DELETE", "/v2/webhook/deregister") => {
                let own = self.webhooks_of(whose, "doubletick");
                json!({"webhookId": own.last().map_or(id, String::as_str)})
            }
            ("POST", "/v1/configs/webhook" | "/waba_webhook") => json!({"url": url}),
            ("POST", "/multi_webhook") => {
                json!({"enabled": true, "destinations": [destination(&marker)]})
            }
            ("PUT", "/multi_webhook") => {
                json!({"destinations": [destination(&format!("{marker}-more"))]})
            }
            ("PATCH", "/multi_webhook") => destination(&marker),
            ("POST", "/webhooks") => json!({"url": url, "events": ["message.received"]}),
            ("PATCH", "/webhooks/{id}") => json!({"url": url}),
            other => panic!("no request for {other:?}: add one here"),
        }
    }
}
