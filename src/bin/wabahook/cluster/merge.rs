//! Makes one answer of those of several engines: sums of counters, lists one after the other, and Prometheus text with
//! the shard in a label. Pure.

use std::cmp::Reverse;

use serde_json::{Map, Value};

use crate::json::IncludedShardsJson;

/// The sum of two answers: numbers are added, lists joined without repeating a text, and of anything else the first
/// counts.
pub(super) fn added(one: Value, other: Value) -> Value {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => Value::Object(added_members(one, other)),
        (Value::Array(mut one), Value::Array(other)) => {
            let is_new = |item: &Value| !item.is_string() || !one.contains(item);
            let new: Vec<Value> = other.into_iter().filter(is_new).collect();
            one.extend(new);
            Value::Array(one)
        }
        (Value::Number(one), Value::Number(other)) => match (one.as_u64(), other.as_u64()) {
            (Some(one), Some(other)) => Value::from(one.saturating_add(other)),
            _ => Value::Number(one),
        },
        (Value::Null, other) => other,
        (one, _) => one,
    }
}

fn added_members(mut one: Map<String, Value>, other: Map<String, Value>) -> Map<String, Value> {
    for (name, value) in other {
        let sum = match one.remove(&name) {
            Some(before) => added(before, value),
            None => value,
        };
        one.insert(name, sum);
    }
    one
}

/// Keeps the subscriptions of `/stats` that are worst: those failing for the longest time, then those with the most dead
/// letters and the longest backlog.
pub(super) fn keep_worst(stats: &mut Value, count: usize) {
    let Some(Value::Array(all)) = stats.get_mut("subscriptions") else { return };
    let rank = |one: &Value| {
        let figure = |name: &str| one.get(name).and_then(Value::as_u64).unwrap_or_default();
        Reverse((figure("failing_for_ms"), figure("dead"), figure("owed")))
    };
    all.sort_by_cached_key(rank);
    all.truncate(count);
}

/// Says in an answer which shards are in it.
pub(super) fn with_shards(answer: &mut Value, shards: &IncludedShardsJson) {
    if let Value::Object(members) = answer {
        let shards = serde_json::to_value(shards).unwrap_or_default();
        members.insert("shards".to_owned(), shards);
    }
}

/// Prometheus text of several shards as one: each sample gets a label `shard`, and the samples of a metric stand together.
pub(super) fn exposition(shards: &[(u16, String)]) -> String {
    let mut metrics: Vec<(String, Vec<&str>, Vec<String>)> = Vec::new();
    for (shard, text) in shards {
        let mut current = 0;
        for line in text.lines().filter(|line| !line.is_empty()) {
            match line.strip_prefix("# ") {
                Some(comment) => {
                    let name = comment.split(' ').nth(1).unwrap_or_default();
                    let known = metrics.iter().position(|(known, ..)| known == name);
                    current = known.unwrap_or_else(|| {
                        metrics.push((name.to_owned(), Vec::new(), Vec::new()));
                        metrics.len() - 1
                    });
                    if let Some((_, comments, _)) = metrics.get_mut(current)
                        && !comments.contains(&line)
                    {
                        comments.push(line);
                    }
                }
                None => {
                    if let Some((.., samples)) = metrics.get_mut(current) {
                        samples.push(labelled(line, *shard));
                    }
                }
            }
        }
    }
    let mut out = String::new();
    for (_, comments, samples) in metrics {
        let lines = comments.into_iter().map(str::to_owned).chain(samples);
        lines.for_each(|line| {
            out.push_str(&line);
            out.push('\n');
        });
    }
    out
}

fn labelled(sample: &str, shard: u16) -> String {
    let end_of_name = sample.find(['{', ' ']).unwrap_or(sample.len());
    let (name, rest) = sample.split_at(end_of_name);
    match rest.strip_prefix('{') {
        Some(labels) if labels.starts_with('}') => format!("{name}{{shard=\"{shard}\"{labels}"),
        Some(labels) => format!("{name}{{shard=\"{shard}\",{labels}"),
        None => format!("{name}{{shard=\"{shard}\"}}{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn counters_are_summed_and_lists_joined() {
        let one = json!({"accepted": 3, "reasons": ["files"], "subscriptions": [{"id": 1}]});
        let other = json!({"accepted": 4, "owed": 2, "reasons": ["files", "queue"],
            "subscriptions": [{"id": 1}], "cursor": null});
        assert_eq!(
            added(one, other),
            json!({"accepted": 7, "owed": 2, "reasons": ["files", "queue"],
                "subscriptions": [{"id": 1}, {"id": 1}], "cursor": null})
        );
    }

    #[test]
    fn the_worst_subscriptions_of_all_are_kept() {
        let of = |id: u64, failing: u64, dead: u64| json!({"id": id, "failing_for_ms": failing, "dead": dead, "owed": 0});
        let mut stats = json!({"subscriptions": [of(1, 0, 5), of(2, 9, 0), of(3, 0, 6)]});
        keep_worst(&mut stats, 2);
        assert_eq!(stats, json!({"subscriptions": [of(2, 9, 0), of(3, 0, 6)]}));
    }

    #[test]
    fn an_answer_says_which_shards_are_in_it() {
        let mut answer = json!({"items": []});
        let shards = IncludedShardsJson { included: vec![0, 2], missing: vec![1] };
        with_shards(&mut answer, &shards);
        assert_eq!(answer, json!({"items": [], "shards": {"included": [0, 2], "missing": [1]}}));
    }

    #[test]
    fn samples_of_one_metric_stand_together() {
        let text = |n: u32| {
            format!(
                "# HELP a Counts.\n# TYPE a counter\na {n}\n# TYPE b gauge\nb{{x=\"1\"}} {n}\nb{{}} 0\n"
            )
        };
        let expected = "# HELP a Counts.\n# TYPE a counter\na{shard=\"0\"} 1\na{shard=\"7\"} 2\n\
                        # TYPE b gauge\nb{shard=\"0\",x=\"1\"} 1\nb{shard=\"0\"} 0\n\
                        b{shard=\"7\",x=\"1\"} 2\nb{shard=\"7\"} 0\n";
        assert_eq!(exposition(&[(0, text(1)), (7, text(2))]), expected);
    }
}
