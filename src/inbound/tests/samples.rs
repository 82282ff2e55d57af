//! The identity of every kind of callback in `docs/samples`, changed at random.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::Value;

use super::*;
use crate::event::RAW_CLOUD_API_WEBHOOK;

/// Every sample of a callback, by its file's name.
pub(super) static SAMPLES: LazyLock<Vec<(String, Value)>> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/samples");
    let mut samples = Vec::new();
    for folder in [folder.join("callbacks"), folder] {
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "json") {
                let body = serde_json::from_slice(&std::fs::read(&path).unwrap());
                // One sample is valid JSON that serde_json cannot hold as a value.
                let Ok(body) = body else { continue };
                samples.push((path.file_name().unwrap().to_str().unwrap().to_owned(), body));
            }
        }
    }
    samples.retain(|(_, body): &(String, Value)| body["entry"].is_array());
    samples.sort_by(|one, other| one.0.cmp(&other.0));
    samples
});

/// The paths of all scalar values in the changes of a callback.
fn leaves(body: &Value) -> Vec<String> {
    fn collect(path: &str, value: &Value, leaves: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                members.iter().for_each(|(name, v)| collect(&format!("{path}/{name}"), v, leaves));
            }
            Value::Array(all) => {
                all.iter()
                    .enumerate()
                    .for_each(|(i, v)| collect(&format!("{path}/{i}"), v, leaves));
            }
            _ => leaves.push(path.to_owned()),
        }
    }
    let mut all = Vec::new();
    for (index, entry) in body["entry"].as_array().unwrap().iter().enumerate() {
        collect(&format!("/entry/{index}/changes"), &entry["changes"], &mut all);
    }
    all
}

/// Another value of the same kind.
fn mutate(value: &mut Value, seed: u32) {
    *value = match &*value {
        Value::Number(number) => (number.as_f64().unwrap() + f64::from(seed) + 1.0).into(),
        Value::Bool(given) => (!given).into(),
        Value::Null => seed.into(),
        // A digit, so that numbers and ids stay what they are.
        other => format!("{}{}", other.as_str().unwrap(), seed % 10).into(),
    };
}

/// The path of the update that a leaf belongs to: `/entry/0/changes/0/value/messages/0`.
fn update_of(body: &Value, leaf: &str) -> Option<String> {
    let parts: Vec<&str> = leaf.split('/').collect();
    let field = body.pointer(&format!("{}/field", change_of(leaf)))?;
    let is_list = ["messages", "statuses"].contains(parts.get(6)?) && parts.len() > 8;
    (field == "messages" && is_list).then(|| parts[..8].join("/"))
}

/// The path of the change that a leaf belongs to.
fn change_of(leaf: &str) -> String {
    leaf.split('/').take(5).collect::<Vec<_>>().join("/")
}

/// The members that identify an update of a plain shape; `None` where every byte does.
fn identifying(update: &Value) -> Option<&'static [&'static str]> {
    let text = |name: &str| update[name].as_str().unwrap_or_default();
    let is_status = update.get("status").is_some();
    let plain_types = ["text", "image", "reaction", "sticker", "interactive"];
    let plain_statuses = ["sent", "delivered", "read", "played"];
    let is_special = ["recipient_type", "payment", "group_id", "errors", "edit"];
    if is_special.iter().any(|name| update.get(name).is_some()) {
        return None;
    }
    if is_status && plain_statuses.contains(&text("status")) {
        return Some(&["id", "status", "recipient_id", "recipient_user_id"]);
    }
    (!is_status && plain_types.contains(&text("type"))).then_some(&["id", "type"])
}

/// Whether a change of this leaf makes its update another one.
fn matters(body: &Value, leaf: &str) -> bool {
    let Some(update) = update_of(body, leaf) else { return false };
    match identifying(body.pointer(&update).unwrap()) {
        None => true,
        Some(members) => members.iter().any(|name| format!("{update}/{name}") == leaf),
    }
}

/// The typed event of the update at this path, and the raw event of its change.
fn events_of(body: &Value) -> HashMap<String, Vec<(String, String)>> {
    let callback = read_events(&body.to_string(), &open());
    assert_eq!(callback.malformed_parts, 0);
    let mut by_kind: HashMap<_, Vec<_>> = HashMap::new();
    for event in &callback.events {
        let identity = (event.kind.clone(), event.dedup_key.clone().unwrap());
        by_kind.entry(event.kind.clone()).or_default().push(identity);
    }
    by_kind
}

/// How many dedup keys of a callback's typed or whole events another callback lacks.
fn new_identities(before: &Value, after: &Value, kind: EventKind) -> usize {
    let [before, after] = [before, after].map(events_of);
    let of = |events: &HashMap<String, Vec<(String, String)>>| -> HashSet<String> {
        let of_kind = events
            .iter()
            .filter(|(name, _)| (*name == RAW_CLOUD_API_WEBHOOK) == (kind == EventKind::Whole));
        of_kind.flat_map(|(_, all)| all).map(|(_, dedup_key)| dedup_key.clone()).collect()
    };
    of(&after).difference(&of(&before)).count()
}

#[derive(Clone, Copy, PartialEq)]
enum EventKind {
    Typed,
    Whole,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_update_is_another_event_and_a_repeated_one_is_not(
        sample in any::<Index>(), leaf in any::<Index>(), seed in 0..1_000_000_u32,
    ) {
        let (name, before) = sample.get(&SAMPLES);
        let leaves = leaves(before);
        let leaf = leaf.get(&leaves);
        let mut after = before.clone();
        mutate(after.pointer_mut(leaf).unwrap(), seed);
        prop_assert_eq!(new_identities(before, &before.clone(), EventKind::Typed), 0, "{} again", name);
        let raw = new_identities(before, &after, EventKind::Whole);
        prop_assert_eq!(raw, 1, "{} with another {}", name, leaf);
        let is_of = |name: &str| before.pointer(&format!("{}/{name}", change_of(leaf)));
        let has_messages = is_of("value/messages/0").is_some();
        let has_updates = has_messages && is_of("field").is_some_and(|field| field == "messages");
        if leaf.ends_with("metadata/display_phone_number") && has_updates {
            let typed = new_identities(before, &after, EventKind::Typed);
            prop_assert!(typed >= 1, "{name} at another number");
        }
        if matters(before, leaf) {
            let typed = new_identities(before, &after, EventKind::Typed);
            prop_assert_eq!(typed, 1, "{} with another {}", name, leaf);
        }
    }

    /// One update in two callbacks: alone, and with others around it.
    #[test]
    fn an_update_is_the_same_whatever_is_around_it(one in any::<Index>(), other in any::<Index>()) {
        let (name, alone) = one.get(&SAMPLES);
        let (_, other) = other.get(&SAMPLES);
        let mut together = other.clone();
        let entries = together["entry"].as_array_mut().unwrap();
        entries.extend(alone["entry"].as_array().unwrap().iter().cloned());
        prop_assert_eq!(new_identities(&together, alone, EventKind::Typed), 0, "{}", name);
        prop_assert_eq!(new_identities(&together, alone, EventKind::Whole), 0, "{}", name);
    }
}

/// No two different updates of all samples have one identity.
#[test]
fn different_updates_of_all_samples_are_different_events() {
    let mut seen: HashMap<(String, String), (String, String)> = HashMap::new();
    assert!(SAMPLES.len() >= 35, "{}", SAMPLES.len());
    for (name, body) in SAMPLES.iter() {
        for event in read_events(&body.to_string(), &open()).events {
            let identity = (event.kind.clone(), event.dedup_key.clone().unwrap());
            let payload = payload(&event).to_owned();
            if let Some((other, before)) = seen.insert(identity, (name.clone(), payload.clone())) {
                assert_eq!(payload, before, "{} of {name} is taken for one of {other}", event.kind);
            }
        }
    }
}
