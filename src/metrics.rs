//! Decides how what is counted reads as Prometheus text: names, types, units, labels.
//!
//! Leaves to others: counting (`stats`), and who may see which subscription (the host, which passes in
//! those that it shows). Invariants: the number of series is bounded, however many subscriptions there are;
//! every family has its help and its type, and no series comes twice; nothing of a payload, a secret or
//! a URL is in it (I9).
//!
//! Any host can serve it, under any route:
//!
//! ```
//! use wabahook::{Config, Engine, Subscription, metrics};
//! # let directory = tempfile::tempdir()?;
//! let engine = Engine::open(Config::new(directory.path()))?;
//! engine.subscribe(Subscription::to("https://crm.example/hook")?.name("crm"))?;
//! let text = metrics::exposition(&engine.stats(), &engine.subscriptions());
//! assert!(text.contains("\nwabahook_subscription_info{subscription=\"1\",name=\"crm\"} 1\n"));
//! assert!(text.contains("\nwabahook_events_accepted_total 0\n"));
//! // Answer with it, as `content-type: text/plain; version=0.0.4; charset=utf-8`.
//! assert!(metrics::CONTENT_TYPE.starts_with("text/plain"));
//! # engine.close(std::time::Duration::from_secs(10))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fmt::{Display, Write};
use std::sync::Arc;

use crate::stats::{Durations, LaneStats, Stats};
use crate::subscription::{Registered, State};

/// The content type of what [`exposition`] returns.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How many subscriptions have series of their own: those registered first, because theirs then stay
/// the same from one reading to the next. The others are summed as `subscription="other"`, in gauges
/// alone: a sum of counters would fall when one of them is removed, and be read as a restart.
pub const SUBSCRIPTIONS_MAX: usize = 100;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
}

#[derive(Clone, Copy)]
enum Unit {
    /// As it is.
    Count,
    /// Milliseconds, told in seconds.
    Milliseconds,
}

use Kind::{Counter, Gauge};
use Unit::{Count, Milliseconds};

/// One number of the engine: name, type, help, where it is read.
type Whole = (&'static str, Kind, &'static str, fn(&Stats) -> u64);

const WHOLE: [Whole; 25] = [
    (
        "events_accepted_total",
        Counter,
        "Events accepted: on the device, or wanted by nobody.",
        |s| s.accepted,
    ),
    ("events_duplicate_total", Counter, "Events answered with an earlier event's id.", |s| {
        s.duplicates
    }),
    (
        "events_unrouted_total",
        Counter,
        "Events that nobody asked for, or whose number or WABA nobody owns.",
        |s| s.unrouted,
    ),
    ("events_busy_total", Counter, "Events given back because the queue was full.", |s| s.busy),
    ("deliveries_delivered_total", Counter, "Deliveries that their receivers acknowledged.", |s| {
        s.delivered
    }),
    ("deliveries_dead_total", Counter, "Deliveries given up.", |s| s.dead),
    (
        "deliveries_cancelled_total",
        Counter,
        "Deliveries cancelled because their subscription was removed.",
        |s| s.cancelled,
    ),
    (
        "deliveries_recovered_total",
        Counter,
        "Deliveries found owed when the engine was opened.",
        |s| s.recovered,
    ),
    ("attempts_total", Counter, "Attempts made.", |s| s.attempts),
    (
        "attempts_retried_total",
        Counter,
        "Attempts that failed and were or will be followed by another.",
        |s| s.retried,
    ),
    ("groups_total", Counter, "Groups written, each made durable by one sync.", |s| s.groups),
    ("dead_letters_replayed_total", Counter, "Dead letters owed again at somebody's wish.", |s| {
        s.replayed
    }),
    ("dead_letters_dropped_total", Counter, "Dead letters dropped over their bounds.", |s| {
        s.letters_dropped
    }),
    ("dedup_keys_dropped_total", Counter, "Dedup keys dropped before their window ended.", |s| {
        s.keys_dropped
    }),
    ("deliveries_owed", Gauge, "Deliveries owed now, at any stage.", |s| s.owed),
    (
        "deliveries_held",
        Gauge,
        "Deliveries held now: their subscription is neither known nor removed.",
        |s| s.held,
    ),
    ("attempts_in_flight", Gauge, "Attempts under way now.", |s| s.in_flight),
    ("attempts_stuck", Gauge, "Attempts under way now that go unanswered for long.", |s| s.stuck),
    ("workers", Gauge, "Worker threads now, busy, idle and stuck.", |s| s.workers),
    ("queue_events", Gauge, "Events waiting for the device now.", |s| s.queued_events),
    ("queue_bytes", Gauge, "Payload bytes waiting for the device now.", |s| s.queued_bytes),
    ("outbox_events", Gauge, "Events that lie in the outbox now.", |s| s.outbox_events),
    ("outbox_bytes", Gauge, "Bytes of keys and values in the outbox now.", |s| s.outbox_bytes),
    ("outbox_generations", Gauge, "Generations of the outbox now.", |s| s.generations),
    ("subscriptions", Gauge, "Subscriptions now, of all accounts.", |s| s.subscriptions),
];

/// One number of a subscription: name, type, unit, help, where it is read.
type Own = (&'static str, Kind, Unit, &'static str, fn(&LaneStats) -> u64);

const OWN: [Own; 11] = [
    ("deliveries_delivered_total", Counter, Count, "Deliveries that it acknowledged.", |lane| {
        lane.delivered
    }),
    ("deliveries_dead_total", Counter, Count, "Its deliveries that were given up.", |lane| {
        lane.dead
    }),
    ("attempts_retried_total", Counter, Count, "Its attempts that another follows.", |lane| {
        lane.retried
    }),
    ("deliveries_owed", Gauge, Count, "Deliveries owed to it now.", |lane| lane.owed),
    ("deliveries_retrying", Gauge, Count, "Its deliveries that failed and wait.", |lane| {
        lane.retrying
    }),
    ("deliveries_blocked", Gauge, Count, "Its deliveries that wait for others.", |lane| {
        lane.blocked
    }),
    ("attempts_in_flight", Gauge, Count, "Its attempts under way now.", |lane| lane.in_flight),
    ("failures_in_row", Gauge, Count, "Attempts failed since one was acknowledged.", |lane| {
        lane.failures_in_row
    }),
    (
        "failing_seconds",
        Gauge,
        Milliseconds,
        "For how long there has been nothing but failure.",
        |lane| lane.failing_for_ms,
    ),
    ("breaker_trips", Gauge, Count, "How often its breaker opened in a row; 0: closed.", |lane| {
        lane.breaker_trips
    }),
    ("rest_seconds", Gauge, Milliseconds, "How much longer it is left alone.", |lane| {
        lane.rests_for_ms
    }),
];

/// Which of them may be added up.
const ADDS_UP: [&str; 4] =
    ["deliveries_owed", "deliveries_retrying", "deliveries_blocked", "attempts_in_flight"];

/// What the engine counts, as Prometheus text of the format 0.0.4: the whole engine's counters, and
/// the live side of these subscriptions, which are in the order of their ids. A host with several
/// accounts passes in those of the account that asks.
///
/// At most [`SUBSCRIPTIONS_MAX`] subscriptions have series of their own. Counts begin at 0 when the
/// engine is opened.
pub fn exposition(stats: &Stats, subscriptions: &[Arc<Registered>]) -> String {
    let mut text = Exposition(String::with_capacity(16 * 1024));
    text.head("build_info", "gauge", "The version of wabahook that runs.");
    text.series("build_info", &[("version", &env!("CARGO_PKG_VERSION"))], 1_u8);
    for (name, kind, help, read) in WHOLE {
        text.head(name, kind.as_str(), help);
        text.series(name, &[], read(stats));
    }
    let attempts = "How long attempts took until they were answered or had failed.";
    text.histogram("attempt_duration_seconds", attempts, &stats.attempt_durations);
    let groups = "How long groups took to be written and synced.";
    text.histogram("group_duration_seconds", groups, &stats.group_durations);
    text.states(subscriptions);
    text.names(subscriptions);
    let (shown, rest) = subscriptions.split_at(subscriptions.len().min(SUBSCRIPTIONS_MAX));
    for own in OWN {
        text.lanes(own, stats, shown, rest);
    }
    text.0
}

/// The text as far as it is written.
struct Exposition(String);

impl Exposition {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.put(format_args!("# HELP wabahook_{name} {help}\n# TYPE wabahook_{name} {kind}\n"));
    }

    fn series(&mut self, name: &str, labels: &[(&str, &dyn Display)], value: impl Display) {
        self.put(format_args!("wabahook_{name}"));
        for (place, (label, value)) in labels.iter().enumerate() {
            let opens = if place == 0 { '{' } else { ',' };
            self.put(format_args!("{opens}{label}=\"{}\"", escaped(&value.to_string())));
        }
        let closes = if labels.is_empty() { "" } else { "}" };
        self.put(format_args!("{closes} {value}\n"));
    }

    fn histogram(&mut self, name: &str, help: &str, durations: &Durations) {
        self.head(name, "histogram", help);
        let bucket = format!("{name}_bucket");
        let mut count = 0;
        let bounds = Durations::BOUNDS_MS.map(bound).into_iter().chain(["+Inf".to_owned()]);
        for (bound, more) in bounds.zip(durations.counts) {
            count += more;
            self.series(&bucket, &[("le", &bound)], count);
        }
        self.series(&format!("{name}_sum"), &[], seconds(durations.sum_ms));
        // Not counted again: a reader must find it equal to the last bucket.
        self.series(&format!("{name}_count"), &[], count);
    }

    fn states(&mut self, subscriptions: &[Arc<Registered>]) {
        self.head("subscription_states", "gauge", "Subscriptions shown here, by state.");
        for state in [State::Active, State::Paused, State::Disabled] {
            let count = subscriptions.iter().filter(|one| one.state == state).count();
            self.series("subscription_states", &[("state", &state.as_str())], count);
        }
    }

    /// Names may change; were they labels of the other series, those would begin anew with each change.
    fn names(&mut self, subscriptions: &[Arc<Registered>]) {
        self.head("subscription_info", "gauge", "What a subscription is called.");
        for one in subscriptions.iter().take(SUBSCRIPTIONS_MAX) {
            let labels: [(&str, &dyn Display); 2] =
                [("subscription", &one.id), ("name", &shown_name(one))];
            self.series("subscription_info", &labels, 1_u8);
        }
    }

    fn lanes(
        &mut self,
        own: Own,
        stats: &Stats,
        shown: &[Arc<Registered>],
        rest: &[Arc<Registered>],
    ) {
        let (name, kind, unit, help, read) = own;
        let full = format!("subscription_{name}");
        self.head(&full, kind.as_str(), help);
        let value = |one: &Arc<Registered>| stats.lane(one.id).map_or(0, read);
        for one in shown {
            self.series(&full, &[("subscription", &one.id)], unit.told(value(one)));
        }
        if !rest.is_empty() && ADDS_UP.contains(&name) {
            let sum = rest.iter().map(value).sum();
            self.series(&full, &[("subscription", &"other")], unit.told(sum));
        }
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        // A String takes everything.
        let _ = self.0.write_fmt(text);
    }
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Counter => "counter",
            Gauge => "gauge",
        }
    }
}

impl Unit {
    fn told(self, value: u64) -> String {
        match self {
            Count => value.to_string(),
            Milliseconds => seconds(value),
        }
    }
}

/// A subscription without a name has its URL for one, of which no more than the host is shown: what
/// follows it may be a secret, and readings are kept for long.
fn shown_name(one: &Registered) -> &str {
    let named_by_url = one.name.contains("://");
    let host = one.target.url().host().filter(|_| named_by_url);
    host.unwrap_or(&one.name)
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1_000, ms % 1_000)
}

/// The value of the label `le`, in its shortest form, as every client library writes it.
fn bound(ms: u64) -> String {
    let text = seconds(ms);
    let text = text.trim_end_matches('0').trim_end_matches('.');
    text.to_owned()
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::config::Config;
    use crate::engine::Engine;
    use crate::store::Memory;
    use crate::subscription::Subscription;
    use crate::subscription::SubscriptionId;

    /// A family as it reads: type, and the value of each series by its name and labels.
    struct Family {
        kind: String,
        series: BTreeMap<String, f64>,
    }

    /// Reads the text as strictly as a scraper may: head before series, nothing twice, no blank line.
    fn parse(text: &str) -> BTreeMap<String, Family> {
        assert!(text.ends_with('\n'));
        let mut families: BTreeMap<String, Family> = BTreeMap::new();
        let (mut lines, mut current) = (text.lines().peekable(), String::new());
        while let Some(line) = lines.next() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').unwrap();
                assert!(name.starts_with("wabahook_") && help.ends_with('.'), "{line}");
                let kind = lines.next().and_then(|l| l.strip_prefix("# TYPE ")).unwrap();
                let kind = kind.strip_prefix(&format!("{name} ")).unwrap().to_owned();
                let family = Family { kind, series: BTreeMap::new() };
                assert!(families.insert(name.to_owned(), family).is_none(), "{name} comes twice");
                current = name.to_owned();
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let family = families.get_mut(&current).unwrap();
            let ends: &[&str] =
                if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(ends.iter().any(|end| name == format!("{current}{end}")), "{line}");
            assert_eq!(family.kind == "counter", name.ends_with("_total"), "{line}");
            assert!(series.ends_with('}') == series.contains('{'), "{line}");
            let value: f64 = value.parse().unwrap();
            assert!(
                family.series.insert(series.to_owned(), value).is_none(),
                "{series} comes twice"
            );
        }
        families
    }

    fn engine(subscriptions: usize) -> Engine {
        let config = Config::new("unused").store(Arc::new(Memory::default()));
        let engine = Engine::open(config).unwrap();
        for n in 0..subscriptions {
            let url = format!("https://receiver-{n}.example/secret-path");
            engine.subscribe(Subscription::to(url).unwrap().name(format!("n{n}"))).unwrap();
        }
        engine
    }

    fn lane(id: u32, owed: u64) -> LaneStats {
        let subscription = SubscriptionId(id);
        LaneStats {
            subscription,
            owed,
            delivered: 7,
            failing_for_ms: 1_500,
            ..LaneStats::default()
        }
    }

    #[test]
    fn every_counter_has_its_family_and_a_histogram_adds_up() {
        let mut stats = Stats { accepted: 3, queued_bytes: 9, ..Stats::default() };
        stats.attempt_durations.counts[0] = 2;
        stats.attempt_durations.counts[14] = 1;
        stats.attempt_durations.sum_ms = 70_001;
        let families = parse(&exposition(&stats, &[]));
        let value = |family: &str, series: &str| families[family].series[series];
        assert_eq!(value("wabahook_events_accepted_total", "wabahook_events_accepted_total"), 3.0);
        assert_eq!(value("wabahook_queue_bytes", "wabahook_queue_bytes"), 9.0);
        let name = "wabahook_attempt_duration_seconds";
        assert_eq!(families[name].kind, "histogram");
        assert_eq!(value(name, &format!("{name}_bucket{{le=\"0.001\"}}")), 2.0);
        assert_eq!(value(name, &format!("{name}_bucket{{le=\"60\"}}")), 2.0);
        assert_eq!(value(name, &format!("{name}_bucket{{le=\"+Inf\"}}")), 3.0);
        assert_eq!(value(name, &format!("{name}_count")), 3.0);
        assert_eq!(value(name, &format!("{name}_sum")), 70.001);
        let bystander = "wabahook_group_duration_seconds";
        assert_eq!(value(bystander, &format!("{bystander}_count")), 0.0);
    }

    #[test]
    fn series_are_bounded_and_what_is_not_shown_is_summed_in_gauges_alone() {
        let engine = engine(SUBSCRIPTIONS_MAX + 2);
        let stats =
            Stats { lanes: vec![lane(1, 5), lane(101, 2), lane(102, 4)], ..Stats::default() };
        let families = parse(&exposition(&stats, &engine.subscriptions()));
        let owed = &families["wabahook_subscription_deliveries_owed"].series;
        let of =
            |id: &str| format!("wabahook_subscription_deliveries_owed{{subscription=\"{id}\"}}");
        assert_eq!(owed.len(), SUBSCRIPTIONS_MAX + 1);
        assert_eq!((owed[&of("1")], owed[&of("2")], owed[&of("other")]), (5.0, 0.0, 6.0));
        let delivered = &families["wabahook_subscription_deliveries_delivered_total"].series;
        assert_eq!(delivered.len(), SUBSCRIPTIONS_MAX);
        let failing = "wabahook_subscription_failing_seconds";
        assert_eq!(families[failing].series[&format!("{failing}{{subscription=\"1\"}}")], 1.5);
        let states = &families["wabahook_subscription_states"].series;
        assert_eq!(states["wabahook_subscription_states{state=\"active\"}"], 102.0);
    }

    #[test]
    fn names_are_escaped_and_urls_are_not_there() {
        let engine = engine(1);
        let hostile = Subscription::to("https://hostile.example/secret-path").unwrap();
        engine.subscribe(hostile.name("a\"} 1\\")).unwrap();
        let nameless = Subscription::to("https://nameless.example/secret-path").unwrap();
        engine.subscribe(nameless).unwrap();
        let text = exposition(&engine.stats(), &engine.subscriptions());
        assert!(text.contains("subscription=\"2\",name=\"a\\\"} 1\\\\\"} 1\n"), "{text}");
        assert!(text.contains("subscription=\"3\",name=\"nameless.example\"} 1\n"), "{text}");
        assert!(!text.contains("secret-path"));
        parse(&text);
    }

    #[test]
    fn a_reading_shows_the_subscriptions_it_is_given_and_no_other() {
        let engine = engine(2);
        let own = &engine.subscriptions()[..1];
        let stats = Stats { lanes: vec![lane(1, 1), lane(2, 1)], ..Stats::default() };
        let families = parse(&exposition(&stats, own));
        let shown: BTreeSet<_> = families.values().flat_map(|f| f.series.keys()).collect();
        assert!(shown.iter().any(|series| series.contains("subscription=\"1\"")));
        assert!(shown.iter().all(|series| !series.contains("subscription=\"2\"")));
    }
}
