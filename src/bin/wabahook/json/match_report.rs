//! The answer of `POST /subscriptions/{id}/match`: whether an event would match, by every check that decides.

use serde::{Deserialize, Serialize};
use wabahook::{ConditionReport, MatchReport};

/// Whether an event would match a subscription, and why not.
#[derive(Serialize, Deserialize)]
pub(crate) struct MatchReportJson {
    pub(crate) matches: bool,
    pub(crate) checks: MatchChecksJson,
    /// The first part of the condition that does not hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failing_part: Option<String>,
    pub(crate) message: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) hints: Vec<String>,
}

/// The result of each check.
#[derive(Serialize, Deserialize)]
pub(crate) struct MatchChecksJson {
    /// Whether the subscription is not disabled.
    pub(crate) active: bool,
    #[serde(rename = "type")]
    pub(crate) event_type: bool,
    pub(crate) number: bool,
    /// Whether no other webhook of its gateway takes precedence.
    pub(crate) precedence: bool,
    /// Whether the condition holds; `null` without one.
    pub(crate) condition: Option<bool>,
}

impl MatchReportJson {
    pub(crate) fn of(report: MatchReport, hints: Vec<String>) -> MatchReportJson {
        let message = message(&report);
        let has_condition = report.condition != ConditionReport::None;
        let checks = MatchChecksJson {
            active: report.is_active,
            event_type: report.type_matches,
            number: report.number_matches,
            precedence: report.is_first,
            condition: has_condition.then(|| report.condition.is_met()),
        };
        let failing_part = match report.condition {
            ConditionReport::Fails { part } => Some(part),
            _ => None,
        };
        MatchReportJson { matches: report.matches, checks, failing_part, message, hints }
    }
}

/// The first check that fails, as a sentence.
fn message(report: &MatchReport) -> String {
    let text = match &report.condition {
        _ if !report.is_active => "the subscription is disabled and is owed no new events",
        _ if !report.type_matches => "the filter does not have the type of the event",
        _ if !report.number_matches => "the filter does not have the number of the event",
        _ if !report.is_first => "another webhook of the same gateway takes precedence",
        ConditionReport::Fails { part } => return format!("{part} does not hold for the payload"),
        ConditionReport::Unparsable(why) => return format!("the condition does not hold: {why}"),
        _ if report.matches => "the event matches",
        _ => "the event does not match",
    };
    text.to_owned()
}
