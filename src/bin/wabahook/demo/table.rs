//! The texts of the demo: the lines of progress, the table at the end, and the sentence that says whether
//! anything was lost. Each is a function of the figures.

use std::fmt::Write as _;

use indicatif::HumanCount;

use super::endpoints::DemoEndpoint;
use super::ledger::{DemoResult, EndpointTally, ProgressTotals};

/// A number with its thousands separated.
fn grouped(number: u64) -> String {
    HumanCount(number).to_string()
}

/// Milliseconds as seconds with one decimal.
pub(super) fn seconds(span_ms: u64) -> String {
    format!("{}.{} s", span_ms / 1_000, span_ms % 1_000 / 100)
}

/// The progress in two lines.
pub(super) fn progress(
    elapsed_ms: u64,
    show_ms: u64,
    totals: &ProgressTotals,
    rates: [u64; 2],
) -> String {
    const WIDTH: u64 = 40;
    let done = (elapsed_ms.min(show_ms) * WIDTH).checked_div(show_ms).unwrap_or(0);
    let bar: String = (0..WIDTH).map(|at| if at < done { '#' } else { '.' }).collect();
    let [accepted_per_s, delivered_per_s] = rates;
    format!(
        "{:>7}  [{bar}]  {} events/s in, {} deliveries/s out\n{}",
        seconds(elapsed_ms),
        grouped(accepted_per_s),
        grouped(delivered_per_s),
        figures(totals)
    )
}

/// The progress in one line, where stdout is not a terminal.
pub(super) fn progress_line(elapsed_ms: u64, totals: &ProgressTotals, rates: [u64; 2]) -> String {
    let [_, delivered_per_s] = rates;
    let rate = grouped(delivered_per_s);
    format!("{:>7}{}, {rate} deliveries/s", seconds(elapsed_ms), figures(totals))
}

fn figures(totals: &ProgressTotals) -> String {
    format!(
        "  accepted {}  owed {}  delivered {}  retried {}  dead {}  waiting {}",
        grouped(totals.accepted),
        grouped(totals.owed),
        grouped(totals.delivered),
        grouped(totals.retried),
        grouped(totals.dead),
        grouped(totals.waiting)
    )
}

pub(super) fn endpoint_list(endpoints: &[DemoEndpoint]) -> String {
    let rows = endpoints
        .iter()
        .map(|endpoint| [endpoint.name.to_owned(), endpoint.story.to_owned(), endpoint.filter()]);
    let header = ["endpoint", "what it does", "subscribed to"].map(str::to_owned);
    columns(&std::iter::once(header).chain(rows).collect::<Vec<_>>(), 3)
}

const COLUMNS: [&str; 11] = [
    "endpoint",
    "what it does",
    "owed",
    "delivered",
    "retried",
    "dead",
    "waiting",
    "repeats",
    "per s",
    "p50 ms",
    "p99 ms",
];

/// The result of every endpoint, and the totals.
pub(super) fn table(endpoints: &[DemoEndpoint], result: &DemoResult) -> String {
    let mut rows = vec![COLUMNS.map(str::to_owned)];
    for (endpoint, tally) in endpoints.iter().zip(&result.tallies) {
        rows.push(row(endpoint.name, endpoint.story, tally));
    }
    rows.push(row("all", "", &total(result)));
    columns(&rows, 2)
}

fn row(name: &str, story: &str, tally: &EndpointTally) -> [String; COLUMNS.len()] {
    let latency = |percent| tally.percentile_ms(percent).map_or("-".to_owned(), grouped);
    [
        name.to_owned(),
        story.to_owned(),
        grouped(tally.owed),
        grouped(tally.delivered),
        grouped(tally.retried),
        grouped(tally.dead),
        grouped(tally.waiting),
        grouped(tally.repeated),
        grouped(tally.per_s()),
        latency(50),
        latency(99),
    ]
}

/// Rows in columns: the first `words` aligned left, the figures after them right.
fn columns<const N: usize>(rows: &[[String; N]], words: usize) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.len().max(*width);
        }
    }
    let mut text = String::new();
    for row in rows {
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let cell = if column < words {
                format!("{cell:<width$}  ")
            } else {
                format!("{cell:>width$}  ")
            };
            text.push_str(&cell);
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// The totals of all endpoints, with rates and latencies over all deliveries.
fn total(result: &DemoResult) -> EndpointTally {
    let mut total = EndpointTally::default();
    for tally in &result.tallies {
        total.owed += tally.owed;
        total.delivered += tally.delivered;
        total.retried += tally.retried;
        total.dead += tally.dead;
        total.waiting += tally.waiting;
        total.repeated += tally.repeated;
        total.unannounced += tally.unannounced;
        total.misrouted += tally.misrouted;
        total.altered += tally.altered;
        total.lost.extend(&tally.lost);
        total.first_try_ms.extend(&tally.first_try_ms);
        total.active_ms = total.active_ms.max(tally.active_ms);
    }
    total.first_try_ms.sort_unstable();
    total
}

/// What the table does not show: why deliveries wait, what the kill did, and what is wrong.
pub(super) fn remarks(endpoints: &[DemoEndpoint], result: &DemoResult) -> String {
    let mut text = String::new();
    let mut line = |words: String| {
        let _ = writeln!(text, "{words}");
    };
    for (endpoint, tally) in endpoints.iter().zip(&result.tallies).filter(|(_, t)| t.waiting > 0) {
        let why = endpoint.behaviour.why_it_waits().unwrap_or("the demo ended first");
        let waiting = grouped(tally.waiting);
        line(format!("{}: {waiting} waiting on disk ({why})", endpoint.name));
    }
    let total = total(result);
    let unreceipted = grouped(result.unreceipted);
    let unannounced = grouped(total.unannounced);
    if result.unreceipted > 0 {
        line(format!("{unreceipted} events were durable although the kill cut off their receipt"));
    }
    if total.unannounced > 0 {
        line(format!("{unannounced} dead letters lost their notice to the kill"));
    }
    if total.repeated > 0 {
        let repeated = grouped(total.repeated);
        line(format!("{repeated} arrived again with the same webhook-id (at-least-once delivery)"));
    }
    line(format!(
        "checked by the receivers: {} wrong signatures, {} altered payloads, {} at the wrong \
         endpoint, {} miscounted by the engine",
        result.forged, total.altered, total.misrouted, result.misjudged
    ));
    let lost = endpoints.iter().zip(&result.tallies).flat_map(|(endpoint, tally)| {
        tally.lost.iter().map(|id| format!("lost: {id} at {}", endpoint.name))
    });
    lost.take(LOST_SHOWN_MAX).for_each(line);
    text
}

const LOST_SHOWN_MAX: usize = 10;

/// The sentence that says whether anything was lost, across what was killed.
pub(super) fn sentence(result: &DemoResult, killed: &str) -> String {
    let total = total(result);
    format!(
        "{} lost: {} events accepted, {} deliveries owed, {} delivered, {} dead letters, {} \
         waiting, across {killed}.",
        grouped(result.lost() as u64),
        grouped(result.events),
        grouped(total.owed),
        grouped(total.delivered),
        grouped(total.dead),
        grouped(total.waiting)
    )
}

#[cfg(test)]
mod tests {
    use super::super::endpoints::ENDPOINTS;
    use super::*;

    fn result() -> DemoResult {
        let mut tallies: Vec<EndpointTally> =
            ENDPOINTS.iter().map(|_| EndpointTally::default()).collect();
        tallies[0] = EndpointTally {
            owed: 1_500,
            delivered: 1_500,
            first_try_ms: (1..=100).collect(),
            active_ms: 3_000,
            ..EndpointTally::default()
        };
        tallies[9] = EndpointTally {
            owed: 70,
            retried: 12,
            dead: 20,
            waiting: 50,
            ..EndpointTally::default()
        };
        DemoResult { events: 1_500, tallies, ..DemoResult::default() }
    }

    #[test]
    fn thousands_are_separated_and_spans_are_seconds() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
        assert_eq!((seconds(0), seconds(12_345)), ("0.0 s".into(), "12.3 s".into()));
    }

    #[test]
    fn the_sentence_names_every_outcome() {
        assert_eq!(
            sentence(&result(), "one kill -9"),
            "0 lost: 1,500 events accepted, 1,570 deliveries owed, 1,500 delivered, 20 dead \
             letters, 50 waiting, across one kill -9."
        );
    }

    #[test]
    fn the_table_has_a_row_for_each_endpoint_and_a_total() {
        let table = table(ENDPOINTS, &result());
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 12);
        let ends: std::collections::BTreeSet<usize> = lines.iter().map(|l| l.len()).collect();
        assert_eq!(ends.len(), 1, "{table}");
        let figures = |line: usize| {
            lines[line].split_whitespace().rev().take(9).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(figures(1), ["99", "50", "500", "0", "0", "0", "0", "1,500", "1,500"]);
        assert_eq!(figures(10), ["-", "-", "0", "0", "50", "20", "12", "0", "70"]);
        assert_eq!(figures(11), ["99", "50", "500", "0", "50", "20", "12", "1,500", "1,570"]);
    }

    #[test]
    fn remarks_explain_waiting_and_name_the_lost() {
        let mut result = result();
        let quiet = remarks(ENDPOINTS, &result);
        assert!(quiet.contains("old-crm: 50 waiting on disk (connection refused"), "{quiet}");
        assert!(!quiet.contains("lost"), "{quiet}");
        let id = |n: u64| format!("evt_{n:032x}").parse().unwrap();
        result.tallies[1].lost = (0..30).map(id).collect();
        let loud = remarks(ENDPOINTS, &result);
        assert_eq!(loud.matches("lost: evt_").count(), LOST_SHOWN_MAX);
        assert!(loud.contains(" at crm"), "{loud}");
    }

    #[test]
    fn progress_ends_with_a_full_bar() {
        let text = progress(25_000, 20_000, &ProgressTotals::default(), [1, 2]);
        assert!(text.contains(&"#".repeat(40)) && !text.contains("#."), "{text}");
        assert_eq!(progress(0, 20_000, &ProgressTotals::default(), [1, 2]).matches('#').count(), 0);
    }
}
