//! The engine's counters as Prometheus text.
//!
//! The number of series is bounded, however many subscriptions there are. The text contains no payload, no
//! secret and no URL (I9). The host decides which subscriptions it shows to whom by what it passes in.
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
use std::time::Duration;

use super::{DurationHistogram, LaneStats, Stats};
use crate::account::AccountInfo;
use crate::clock::millis;
use crate::subscription::{SubscriptionInfo, SubscriptionState};

/// The content type of what [`exposition`] returns.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How many subscriptions have series of their own: those registered first, so that their series stay the same
/// from one scrape to the next. The others are summed as `subscription="other"`, only in gauges: a sum of
/// counters would fall when a subscription is removed, and would look like a restart.
pub const SUBSCRIPTIONS_MAX: usize = 100;

/// How many accounts have series of their own: the oldest ones. See [`SUBSCRIPTIONS_MAX`].
pub const ACCOUNTS_MAX: usize = 1_000;

/// A figure of the engine or of a subscription. One whose name ends in `_seconds` is read in milliseconds.
struct Metric<T: 'static> {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    read: fn(&T) -> u64,
}

impl<T> Metric<T> {
    fn shown(&self, value: u64) -> String {
        match self.name.ends_with("_seconds") {
            true => seconds(value),
            false => value.to_string(),
        }
    }
}

const GAUGE: &str = "gauge";

const fn gauge<T>(name: &'static str, help: &'static str, read: fn(&T) -> u64) -> Metric<T> {
    Metric { name, kind: GAUGE, help, read }
}

const fn counter<T>(name: &'static str, help: &'static str, read: fn(&T) -> u64) -> Metric<T> {
    Metric { name, kind: "counter", help, read }
}

const ENGINE_METRICS: &[Metric<Stats>] = &[
    counter(
        "events_accepted_total",
        "Events accepted: written to the device, or without a subscriber.",
        |s| s.accepted,
    ),
    counter("events_duplicate_total", "Events answered with an earlier event's id.", |s| {
        s.duplicates
    }),
    counter("events_unrouted_total", "Events without a subscriber.", |s| s.unrouted),
    counter(
        "condition_unparsable_total",
        "Events with a payload that a condition could not read.",
        |s| s.condition_unparsable,
    ),
    counter(
        "events_unowned_total",
        "Events of callbacks whose number and WABA no account owns.",
        |s| s.unowned,
    ),
    counter("callbacks_refused_signature_total", "Callbacks without a valid signature.", |s| {
        s.callbacks_refused_signature
    }),
    counter(
        "callbacks_refused_verify_token_total",
        "Requests to verify the callback URL without a valid verify token.",
        |s| s.callbacks_refused_verify_token,
    ),
    counter("callbacks_refused_malformed_total", "Callbacks whose body is not a callback.", |s| {
        s.callbacks_refused_malformed
    }),
    counter(
        "callback_parts_malformed_total",
        "Malformed parts of callbacks whose other parts were accepted.",
        |s| s.callback_parts_malformed,
    ),
    counter(
        "events_busy_total",
        "Events given back because a bound, or a limit of their account, was reached.",
        |s| s.busy,
    ),
    counter("deliveries_delivered_total", "Deliveries that their receivers acknowledged.", |s| {
        s.delivered
    }),
    counter("deliveries_dead_total", "Deliveries that became dead letters.", |s| s.dead),
    counter(
        "deliveries_cancelled_total",
        "Deliveries cancelled because their subscription was removed.",
        |s| s.cancelled,
    ),
    counter(
        "deliveries_recovered_total",
        "Deliveries that were owed when the engine was opened.",
        |s| s.recovered,
    ),
    counter("attempts_total", "Attempts made.", |s| s.attempts),
    counter("attempts_retried_total", "Attempts that failed and are followed by another.", |s| {
        s.retried
    }),
    counter("groups_total", "Groups written, each with one sync.", |s| s.groups),
    gauge("dead_letters", "Dead letters kept now.", |s| s.dead_letters),
    counter("dead_letters_replayed_total", "Dead letters replayed.", |s| s.replayed),
    counter("dead_letters_discarded_total", "Dead letters discarded by the host.", |s| {
        s.letters_discarded
    }),
    counter("purged_total", "Deliveries and dead letters ended by a purge.", |s| s.purged),
    counter("dead_letters_dropped_total", "Dead letters dropped over their limits.", |s| {
        s.letters_dropped
    }),
    counter(
        "dedup_keys_dropped_total",
        "Dedup keys dropped before the end of their window.",
        |s| s.keys_dropped,
    ),
    counter(
        "history_dropped_total",
        "Events and attempts that the history could not keep in time.",
        |s| s.history_dropped,
    ),
    gauge("history_bytes", "Bytes of the history of events on the device now.", |s| {
        s.history_bytes
    }),
    gauge("deliveries_owed", "Deliveries owed now, in any state.", |s| s.owed),
    gauge(
        "deliveries_held",
        "Deliveries held now: their subscription is neither known nor removed.",
        |s| s.held,
    ),
    gauge("attempts_in_flight", "Attempts in flight now.", |s| s.in_flight),
    gauge("attempts_in_flight_max", "How many attempts may be in flight.", |s| s.in_flight_max),
    counter(
        "attempts_uncounted_total",
        "Attempts that do not count, because something of ours was short.",
        |s| s.uncounted,
    ),
    gauge("stalled", "1 while the store refuses writes or does not answer, otherwise 0.", |s| {
        s.stalled
    }),
    gauge("transport_threads", "Threads of the host's own transport now.", |s| s.transport_threads),
    gauge("queue_events", "Events waiting to be written now.", |s| s.queued_events),
    gauge("queue_bytes", "Payload bytes waiting to be written now.", |s| s.queued_bytes),
    gauge("owed_events", "Events with a delivery that is owed now.", |s| s.owed_events),
    gauge("owed_bytes", "Payload bytes of events that are owed now.", |s| s.owed_bytes),
    gauge("outbox_events", "Events on the device now.", |s| s.outbox_events),
    gauge("outbox_bytes", "Bytes of keys and values on the device now.", |s| s.outbox_bytes),
    gauge("outbox_generations", "Generations of the outbox now.", |s| s.generations),
    gauge("subscriptions", "Subscriptions now.", |s| s.subscriptions),
];

const LANE_METRICS: &[Metric<LaneStats>] = &[
    counter("deliveries_delivered_total", "Deliveries that it acknowledged.", |l| l.delivered),
    counter("deliveries_dead_total", "Its deliveries that became dead letters.", |l| l.dead),
    counter("attempts_retried_total", "Its attempts that are followed by another.", |l| l.retried),
    gauge("deliveries_owed", "Deliveries owed to it now.", |l| l.owed),
    gauge("deliveries_retrying", "Its deliveries that wait for a retry.", |l| l.retrying),
    gauge("deliveries_blocked", "Its deliveries that wait for others.", |l| l.blocked),
    gauge("attempts_in_flight", "Its attempts in flight now.", |l| l.in_flight),
    gauge("failures_in_row", "Failed attempts since the last acknowledged one.", |l| {
        l.failures_in_row
    }),
    gauge("failing_seconds", "For how long every attempt has failed.", |l| millis(l.failing_for)),
    gauge("breaker_trips", "How often its breaker opened in a row; 0 is closed.", |l| {
        l.breaker_trips
    }),
    gauge("rest_seconds", "For how much longer no attempt is made.", |l| millis(l.rests_for)),
];

/// The gauges that are summed for subscriptions without series of their own.
const SUMMED: [&str; 4] =
    ["deliveries_owed", "deliveries_retrying", "deliveries_blocked", "attempts_in_flight"];

/// Formats the counters as Prometheus text, format 0.0.4: those of the whole engine, and the live figures of
/// these subscriptions, sorted by id. A host with several accounts passes the subscriptions of the account that
/// asks.
///
/// At most [`SUBSCRIPTIONS_MAX`] subscriptions have series of their own. Counters start at 0 when the engine is
/// opened.
pub fn exposition(stats: &Stats, subscriptions: &[Arc<SubscriptionInfo>]) -> String {
    let mut text = Exposition(String::with_capacity(16 * 1024));
    text.head("build_info", "gauge", "The version of wabahook that runs.");
    text.series("build_info", &[("version", &env!("CARGO_PKG_VERSION"))], 1_u8);
    text.figures(ENGINE_METRICS.iter(), stats);
    let attempts = "How long attempts took until they were answered or failed.";
    text.histogram("attempt_duration_seconds", attempts, &stats.attempt_durations);
    let groups = "How long groups took to be written and synced.";
    text.histogram("group_duration_seconds", groups, &stats.group_durations);
    text.subscriptions(stats, subscriptions);
    text.0
}

/// The metrics of [`stats_of`](crate::Engine::stats_of) an account.
const ACCOUNT_METRICS: [&str; 12] = [
    "events_accepted_total",
    "events_unrouted_total",
    "deliveries_delivered_total",
    "deliveries_dead_total",
    "attempts_retried_total",
    "deliveries_owed",
    "attempts_in_flight",
    "queue_events",
    "owed_events",
    "owed_bytes",
    "dead_letters",
    "subscriptions",
];

/// Formats the counters of one account, as [`stats_of`](crate::Engine::stats_of) gives them, and the live figures of
/// its subscriptions. Series of the engine as a whole are left out.
pub fn account_exposition(stats: &Stats, subscriptions: &[Arc<SubscriptionInfo>]) -> String {
    let mut text = Exposition(String::with_capacity(16 * 1024));
    text.figures(account_metrics(), stats);
    text.subscriptions(stats, subscriptions);
    text.0
}

fn account_metrics() -> impl Iterator<Item = &'static Metric<Stats>> {
    ENGINE_METRICS.iter().filter(|metric| ACCOUNT_METRICS.contains(&metric.name))
}

/// Formats the counters of several accounts, as [`stats_by_account`](crate::Engine::stats_by_account) gives them, with
/// the id of each as the label `account`. It follows [`exposition`], for a caller who may see all accounts.
///
/// At most [`ACCOUNTS_MAX`] accounts have series of their own; the gauges of the others are summed as
/// `account="other"`.
///
/// ```
/// use wabahook::{Account, Config, Engine, metrics};
/// # let directory = tempfile::tempdir()?;
/// let engine = Engine::open(Config::new(directory.path()).account(Account::new("acme")))?;
/// let mut text = metrics::exposition(&engine.stats(), &engine.subscriptions());
/// text.push_str(&metrics::accounts_exposition(&engine.stats_by_account()));
/// let acme = engine.accounts().named("acme").unwrap();
/// assert!(text.contains(&format!("\nwabahook_account_deliveries_owed{{account=\"{}\"}} 0\n", acme.id())));
/// # engine.close(std::time::Duration::from_secs(10))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn accounts_exposition(accounts: &[(Arc<AccountInfo>, Stats)]) -> String {
    let mut text = Exposition(String::with_capacity(16 * 1024));
    let (shown, rest) = accounts.split_at(accounts.len().min(ACCOUNTS_MAX));
    text.head("account_info", "gauge", "The name and the state of an account.");
    for (account, _) in shown {
        let state = account.state.as_str();
        let labels: [(&str, &dyn Display); 3] =
            [("account", &account.id), ("name", &account.name), ("state", &state)];
        text.series("account_info", &labels, 1_u8);
    }
    for metric in account_metrics() {
        let &Metric { name, kind, help, read } = metric;
        let full = format!("account_{name}");
        text.head(&full, kind, help);
        for (account, stats) in shown {
            text.series(&full, &[("account", &account.id)], metric.shown(read(stats)));
        }
        if !rest.is_empty() && kind == GAUGE {
            let sum: u64 = rest.iter().map(|(_, stats)| read(stats)).sum();
            text.series(&full, &[("account", &"other")], metric.shown(sum));
        }
    }
    text.0
}

/// The text written so far.
struct Exposition(String);

impl Exposition {
    fn figures(&mut self, metrics: impl Iterator<Item = &'static Metric<Stats>>, stats: &Stats) {
        for metric in metrics {
            self.head(metric.name, metric.kind, metric.help);
            self.series(metric.name, &[], metric.shown((metric.read)(stats)));
        }
    }

    fn subscriptions(&mut self, stats: &Stats, subscriptions: &[Arc<SubscriptionInfo>]) {
        self.states(subscriptions);
        self.names(subscriptions);
        let (shown, rest) = subscriptions.split_at(subscriptions.len().min(SUBSCRIPTIONS_MAX));
        for metric in LANE_METRICS {
            self.lanes(metric, stats, shown, rest);
        }
    }

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

    fn histogram(&mut self, name: &str, help: &str, durations: &DurationHistogram) {
        self.head(name, "histogram", help);
        let bucket = format!("{name}_bucket");
        let mut count = 0;
        let bounds = DurationHistogram::BOUNDS.map(bound).into_iter().chain(["+Inf".to_owned()]);
        for (bound, more) in bounds.zip(durations.counts) {
            count += more;
            self.series(&bucket, &[("le", &bound)], count);
        }
        self.series(&format!("{name}_sum"), &[], seconds(millis(durations.sum)));
        // Not read again: it must equal the last bucket.
        self.series(&format!("{name}_count"), &[], count);
    }

    fn states(&mut self, subscriptions: &[Arc<SubscriptionInfo>]) {
        self.head("subscription_states", "gauge", "The subscriptions shown here, by state.");
        for state in
            [SubscriptionState::Active, SubscriptionState::Paused, SubscriptionState::Disabled]
        {
            let count = subscriptions.iter().filter(|one| one.state == state).count();
            self.series("subscription_states", &[("state", &state.as_str())], count);
        }
    }

    /// A series of its own, because names may change and a label that changes starts a new series.
    fn names(&mut self, subscriptions: &[Arc<SubscriptionInfo>]) {
        self.head("subscription_info", "gauge", "The name of a subscription.");
        for one in subscriptions.iter().take(SUBSCRIPTIONS_MAX) {
            let labels: [(&str, &dyn Display); 2] =
                [("subscription", &one.id), ("name", &shown_name(one))];
            self.series("subscription_info", &labels, 1_u8);
        }
    }

    fn lanes(
        &mut self,
        metric: &Metric<LaneStats>,
        stats: &Stats,
        shown: &[Arc<SubscriptionInfo>],
        rest: &[Arc<SubscriptionInfo>],
    ) {
        let &Metric { name, kind, help, read } = metric;
        let full = format!("subscription_{name}");
        self.head(&full, kind, help);
        let value = |one: &Arc<SubscriptionInfo>| stats.lane(one.id).map_or(0, read);
        for one in shown {
            self.series(&full, &[("subscription", &one.id)], metric.shown(value(one)));
        }
        if !rest.is_empty() && SUMMED.contains(&name) {
            let sum = rest.iter().map(value).sum();
            self.series(&full, &[("subscription", &"other")], metric.shown(sum));
        }
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.0.write_fmt(text);
    }
}

/// A subscription without a name is named by its URL. Only the host of it is shown, because the rest may hold a
/// secret.
fn shown_name(one: &SubscriptionInfo) -> &str {
    let named_by_url = one.name.contains("://");
    let host = one.target.url().host().filter(|_| named_by_url);
    host.unwrap_or(&one.name)
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1_000, ms % 1_000)
}

/// The value of the label `le` in its shortest form, as client libraries write it.
fn bound(bound: Duration) -> String {
    let text = seconds(millis(bound));
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
    use crate::account::Account;
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
            failing_for: Duration::from_millis(1_500),
            ..LaneStats::default()
        }
    }

    #[test]
    fn every_counter_has_its_family_and_a_histogram_adds_up() {
        let mut stats = Stats { accepted: 3, queued_bytes: 9, ..Stats::default() };
        stats.attempt_durations.counts[0] = 2;
        stats.attempt_durations.counts[14] = 1;
        stats.attempt_durations.sum = Duration::from_millis(70_001);
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
    fn series_are_bounded_and_the_rest_is_summed_in_gauges_only() {
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
    fn accounts_have_bounded_series_and_the_rest_is_summed() {
        let engine = engine(0);
        for n in 0..ACCOUNTS_MAX + 2 {
            engine.create_account(Account::new(format!("account {n}"))).unwrap();
        }
        let mut stats = engine.stats_by_account();
        let ids: Vec<_> = stats.iter().map(|(account, _)| account.id().to_owned()).collect();
        for place in [0, ACCOUNTS_MAX, ACCOUNTS_MAX + 1] {
            stats[place].1.owed = place as u64;
            stats[place].1.delivered = 5;
        }
        let families = parse(&accounts_exposition(&stats));
        let owed = &families["wabahook_account_deliveries_owed"].series;
        let of = |id: &str| format!("wabahook_account_deliveries_owed{{account=\"{id}\"}}");
        assert_eq!(owed.len(), ACCOUNTS_MAX + 1);
        let rest = stats.len() - ACCOUNTS_MAX;
        let sum: u64 = stats.iter().skip(ACCOUNTS_MAX).map(|(_, stats)| stats.owed).sum();
        assert!(rest >= 2 && sum > 0);
        assert_eq!((owed[&of(&ids[0])], owed[&of("other")]), (0.0, sum as f64));
        let delivered = &families["wabahook_account_deliveries_delivered_total"].series;
        assert_eq!(delivered.len(), ACCOUNTS_MAX, "a sum of counters could fall");
        assert_eq!(families["wabahook_account_info"].series.len(), ACCOUNTS_MAX);
    }

    #[test]
    fn names_are_escaped_and_urls_do_not_appear() {
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
    fn only_the_given_subscriptions_are_shown() {
        let engine = engine(2);
        let own = &engine.subscriptions()[..1];
        let stats = Stats { lanes: vec![lane(1, 1), lane(2, 1)], ..Stats::default() };
        let families = parse(&exposition(&stats, own));
        let shown: BTreeSet<_> = families.values().flat_map(|f| f.series.keys()).collect();
        assert!(shown.iter().any(|series| series.contains("subscription=\"1\"")));
        assert!(shown.iter().all(|series| !series.contains("subscription=\"2\"")));
    }
}
