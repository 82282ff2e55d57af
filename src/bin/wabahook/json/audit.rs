//! An entry of the audit log: who changed what, from where, and what it was before and after. Credentials are left
//! out as in listings, and of a URL the query is left out too (I9).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use wabahook::clock::{Clock, SystemClock};

use super::values::TimestampJson;

/// A change that a request made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct AuditEntryJson {
    /// Counted up from 1. It is the first member, so that a reader of the file finds it fast.
    pub(crate) id: u64,
    pub(crate) at: TimestampJson,
    /// The name of the key.
    pub(crate) key: String,
    /// The account that the request was about, if it was about one.
    #[serde(default)]
    pub(crate) account: Option<String>,
    /// The name of the account now; not in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) account_name: Option<String>,
    /// The host of the cluster that wrote it; not in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) host: Option<String>,
    /// The address of the client, or of the proxy in front.
    pub(crate) address: String,
    pub(crate) method: String,
    pub(crate) path: String,
    #[serde(default)]
    pub(crate) changes: Vec<AuditChangeJson>,
}

/// One thing that was changed. Of a change, `before` and `after` have the members that differ, and of a list the
/// items that differ.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct AuditChangeJson {
    /// `subscription`, `account`, ..
    pub(crate) what: String,
    pub(crate) id: String,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub(crate) before: Value,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub(crate) after: Value,
}

const ACCOUNT: &str = "account";

/// Longer members are replaced by their length: a filter may have 50,000 numbers.
const MEMBER_BYTES_MAX: usize = 2 * 1024;

impl AuditEntryJson {
    /// A reload of the configuration by SIGHUP.
    pub(crate) fn of_hangup(changes: Vec<AuditChangeJson>) -> AuditEntryJson {
        AuditEntryJson {
            id: 0,
            at: TimestampJson(SystemClock::new().wall_ms()),
            key: "configuration".to_owned(),
            account: None,
            account_name: None,
            host: None,
            address: String::new(),
            method: "SIGHUP".to_owned(),
            path: "/admin/reload".to_owned(),
            changes,
        }
    }

    /// The accounts that it is about: the one that the request named, and those that it changed.
    pub(crate) fn accounts(&self) -> impl Iterator<Item = &str> {
        let changed = self.changes.iter().filter(|change| change.what == ACCOUNT);
        self.account.as_deref().into_iter().chain(changed.map(|change| change.id.as_str()))
    }
}

impl AuditChangeJson {
    /// The change of an account.
    pub(crate) fn of_account(id: &str, before: Value, after: Value) -> AuditChangeJson {
        AuditChangeJson::between(ACCOUNT, id, before, after)
    }

    /// What differs between two states, `null` for one that does not exist.
    pub(crate) fn between(what: &str, id: &str, before: Value, after: Value) -> AuditChangeJson {
        let (mut before, mut after) = (before, after);
        if let (Value::Object(old), Value::Object(new)) = (&mut before, &mut after) {
            let same: Vec<String> = old
                .iter()
                .filter(|(name, value)| new.get(*name) == Some(value))
                .map(|(name, _)| name.clone())
                .collect();
            for name in same {
                old.remove(&name);
                new.remove(&name);
            }
            for (name, value) in old.iter_mut() {
                if let (Value::Array(old), Some(Value::Array(new))) = (value, new.get_mut(name)) {
                    retain_differing(old, new);
                }
            }
        }
        shorten(&mut before);
        shorten(&mut after);
        AuditChangeJson { what: what.to_owned(), id: id.to_owned(), before, after }
    }
}

/// Removes the items that both lists have.
fn retain_differing(old: &mut Vec<Value>, new: &mut Vec<Value>) {
    let texts = |list: &[Value]| list.iter().map(Value::to_string).collect::<BTreeSet<_>>();
    let (before, after) = (texts(old), texts(new));
    old.retain(|item| !after.contains(&item.to_string()));
    new.retain(|item| !before.contains(&item.to_string()));
}

fn shorten(state: &mut Value) {
    let Value::Object(members) = state else { return };
    for (name, value) in members.iter_mut() {
        if name == "url"
            && let Value::String(url) = value
        {
            *url = without_query(url);
        }
        let length = value.to_string().len();
        if length > MEMBER_BYTES_MAX {
            *value = Value::String(format!("({length} bytes)"));
        }
    }
}

/// A query and a user name may be credentials.
fn without_query(url: &str) -> String {
    let (url, query) = url.split_once('?').map_or((url, ""), |(url, _)| (url, "?.."));
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}{query}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_has_the_members_that_differ() {
        let before = json!({"name": "crm", "url": "https://a/?token=hidden", "state": "active"});
        let after = json!({"name": "crm", "url": "https://u:hidden@b:8/x", "state": "active"});
        let change = AuditChangeJson::between("subscription", "7", before, after);
        let expected = json!({
            "what": "subscription", "id": "7",
            "before": {"url": "https://a/?.."}, "after": {"url": "https://b:8/x"},
        });
        assert_eq!(serde_json::to_value(&change).unwrap(), expected);
        let created = AuditChangeJson::between("subscription", "7", Value::Null, json!({"a": 1}));
        assert_eq!(
            serde_json::to_value(&created).unwrap(),
            json!({"what": "subscription", "id": "7", "after": {"a": 1}})
        );
    }

    #[test]
    fn a_changed_list_has_the_items_that_differ() {
        let before = json!({"numbers": ["1", "2"], "events": ["A"]});
        let after = json!({"numbers": ["2", "3"], "events": "*"});
        let change = AuditChangeJson::between("subscription", "7", before, after);
        assert_eq!(change.before, json!({"numbers": ["1"], "events": ["A"]}));
        assert_eq!(change.after, json!({"numbers": ["3"], "events": "*"}));
    }

    #[test]
    fn a_long_member_is_its_length() {
        let numbers = vec!["919999999999"; 50_000];
        let after = json!({"numbers": numbers});
        let change = AuditChangeJson::between("subscription", "7", Value::Null, after);
        assert_eq!(change.after["numbers"], "(750001 bytes)");
    }
}
