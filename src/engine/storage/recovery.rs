//! Opens an engine on what the last one left: the book, the outbox, and everything still owed. A delivery
//! that was owed is owed again (I3), and held if its subscription is unknown.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock};

use parking_lot::{Condvar, Mutex, RwLock};
use roaring::{RoaringBitmap, RoaringTreemap};

use super::data_directory::HISTORY;
use super::{data_directory, migration};
use crate::account::{AccountState, Accounts};
use crate::book::{HeldSubscription, LoadedSubscriptions, SubscriptionStore};
use crate::config::{Config, Limits};
use crate::delivery::{AttemptSource, Guard, Http, ProxyTransport, destination_number};
use crate::dispatch::{DispatchLimits, Dispatcher, StepContext};
use crate::engine::accounts::{declarations, usage};
use crate::engine::accounts::{held, lane_state};
use crate::engine::commit_events;
use crate::engine::events::recent_attempts::RecentAttempts;
use crate::engine::shared::{DispatchState, Shared};
use crate::engine::subscriptions::table::{ActiveSubscription, SubscriptionTable};
use crate::engine::threads::io_threads::IssuedAttempts;
use crate::engine::threads::{background, timekeeper};
use crate::error::{Error, Result};
use crate::history::{History, HistoryBounds};
use crate::notice::{Notice, NoticeBroadcaster};
use crate::outbox::{self, AccountShares, CommitterParts, OutboxOptions, RecoveredOutbox};
use crate::process::file_limit;
use crate::stats::EngineCounters;
use crate::store::Store;
use crate::subscription::{Ordering, SubscriptionId, SubscriptionInfo};
use crate::transport::Transport;

pub(in crate::engine) fn open(config: Config) -> Result<Arc<Shared>> {
    let (shared, unstarted) = prepare(config)?;
    let weak = Arc::downgrade(&shared);
    shared.notices.find_subscriptions_with(Box::new(move |id| weak.upgrade()?.find_for_log(id)));
    let clock = Arc::clone(&shared.clock);
    let owed = commit_events::owed_query(Arc::downgrade(&shared));
    let listener = commit_events::commit_listener(Arc::downgrade(&shared));
    shared.store.on_event(commit_events::store_listener(Arc::downgrade(&shared)));
    shared.outbox.start(unstarted, Arc::clone(&clock), owed, listener)?;
    background::start(&shared)?;
    timekeeper::start(&shared)?;
    if let Some(http) = &shared.http {
        let source = Arc::clone(&shared) as Arc<dyn AttemptSource>;
        http.serve(&source).map_err(Error::thread)?;
    }
    let jumped = Arc::downgrade(&shared);
    clock.on_jump(Arc::new(move || {
        if let Some(shared) = jumped.upgrade() {
            // Under the lock the timekeeper either waits or has not read the clock yet.
            let _state = shared.dispatch_state.lock();
            shared.timer.notify_all();
        }
    }));
    Ok(shared)
}

/// Opens everything and starts no thread.
pub(in crate::engine) fn prepare(config: Config) -> Result<(Arc<Shared>, CommitterParts)> {
    config.check()?;
    let (transport, http) = transport(&config)?;
    let answers_later = transport.answers_later();
    let threads = if http.is_some() { config.limits.io_threads } else { 1 };
    let dispatch_limits = dispatch_limits(&config.limits, answers_later, threads);
    let (lock, store) = data_directory::claimed_store(&config)?;
    migration::check_complete(&*store)?;
    let LoadedSubscriptions { store: mut book, mut subscriptions, accounts, held, set_aside } =
        data_directory::open_book(&store, &config, lock.is_some())?;
    let accounts = declarations::open(&mut book, accounts, &mut subscriptions, &config)?;
    let shares = shares(&config, &accounts, dispatch_limits.in_flight_max);
    let (opened, recovered) = read_outbox(&config, &store, &shares, &subscriptions)?;
    let subscriptions = without_removed(&mut book, subscriptions, &recovered)?;
    let mut dispatcher = Dispatcher::new(dispatch_limits);
    usage::set_in_flight_limits(&mut dispatcher, &shares);
    let is_removed = |one: &HeldSubscription| recovered.removed.contains(&one.id);
    let (removed, held): (Vec<_>, Vec<_>) = held.into_iter().partition(is_removed);
    removed.iter().try_for_each(|one| book.remove(one.id))?;
    let (subscription_table, held) = serve(subscriptions, held, &accounts);
    let counters = EngineCounters::default();
    let told = set_aside.into_iter().map(|(name, why)| Notice::SetAside { name, why });
    let mut initial_notices: Vec<Notice> = told.collect();
    initial_notices.extend(held);
    initial_notices.extend(owe_again(
        &mut dispatcher,
        (&subscription_table, &accounts),
        recovered,
        &config,
        &counters,
    ));

    let notices = NoticeBroadcaster::new(config.limits.notices_max, initial_notices);
    let wakers = notices.host_calls("wabahook-wakers", "the waker of a receipt panicked");
    let (outbox, unstarted) = opened.prepare(&config.limits, Arc::new(wakers));
    let dispatch_state = DispatchState::new(dispatcher, answers_later, Arc::clone(&store));
    let shared = Arc::new(Shared {
        notices,
        callbacks: Mutex::default(),
        dropped_letters: Mutex::default(),
        recent_attempts: RecentAttempts::new(&config.limits),
        history: open_history(&config)?,
        issued: IssuedAttempts::new(config.limits.io_threads),
        limits: config.limits,
        catalogue: config.catalogue,
        accounts,
        shares,
        clock: Arc::clone(&config.clock),
        guard: Arc::new(Guard::new(config.network.clone())),
        network: config.network,
        transport,
        counters,
        workers_started: AtomicU64::default(),
        jobs: OnceLock::new(),
        http,
        yields_cpu: AtomicBool::default(),
        book: Mutex::new(Some(book)),
        subscriptions: RwLock::new(subscription_table),
        outbox,
        dispatch_state: Mutex::new(dispatch_state),
        work: Condvar::new(),
        timer: Condvar::new(),
        threads_ended: Condvar::new(),
        ended: OnceLock::new(),
        store,
        directory_lock: Mutex::new(lock),
        closing: Mutex::default(),
        closed: Condvar::new(),
    });
    Ok((shared, unstarted))
}

fn read_outbox(
    config: &Config,
    store: &Arc<dyn Store>,
    shares: &Arc<AccountShares>,
    subscriptions: &[SubscriptionInfo],
) -> Result<(outbox::OpenedOutbox, RecoveredOutbox)> {
    let options = OutboxOptions {
        store: Arc::clone(store),
        catalogue: &config.catalogue,
        limits: &config.limits,
        on_damage: config.on_damage,
        ordered: ordered(subscriptions),
        shares: Arc::clone(shares),
        clock: &*config.clock,
    };
    options.read()
}

fn open_history(config: &Config) -> Result<Option<History>> {
    let Limits { history_bytes_max: bytes_max, history_age_max, .. } = config.limits;
    if bytes_max == 0 {
        return Ok(None);
    }
    let age_max_ms = u64::try_from(history_age_max.as_millis()).unwrap_or(u64::MAX);
    let bounds = HistoryBounds { bytes_max, age_max_ms };
    let path = config.path.join(HISTORY);
    let opened = History::open(&path, bounds, Arc::clone(&config.clock));
    let opened = opened.map_err(|error| Error::Directory {
        path,
        doing: "opening the history",
        source: Arc::new(error),
    });
    opened.map(Some)
}

/// A transport, and again the built-in one if it is that.
type ChosenTransport = (Arc<dyn Transport>, Option<Arc<Http>>);

fn transport(config: &Config) -> Result<ChosenTransport> {
    if let Some(given) = &config.transport {
        return Ok((Arc::clone(given), None));
    }
    if let Some(proxied) = ProxyTransport::new(&config.network)? {
        return Ok((Arc::new(proxied), None));
    }
    let Limits { lane_in_flight_max: idle_max, io_threads, host_in_flight_max, .. } = config.limits;
    let http = Http::new(config.network.clone(), idle_max, Arc::clone(&config.clock))?;
    let http = http.io_threads(io_threads).host_in_flight_max(host_in_flight_max);
    let http = Arc::new(http.in_flight_max(in_flight_max(&config.limits)));
    Ok((Arc::clone(&http) as Arc<dyn Transport>, Some(http)))
}

/// The subscriptions whose deliveries need the key of their event.
fn ordered(subscriptions: &[SubscriptionInfo]) -> RoaringBitmap {
    let per_key = subscriptions.iter().filter(|one| one.policy.ordering == Ordering::PerKey);
    per_key.map(|one| one.id.0).collect()
}

/// Completes removals whose tombstone is durable while the book still lists the subscription, and releases
/// its dependents.
fn without_removed(
    book: &mut SubscriptionStore,
    subscriptions: Vec<SubscriptionInfo>,
    recovered: &RecoveredOutbox,
) -> Result<Vec<SubscriptionInfo>> {
    let (removed, mut kept): (Vec<_>, Vec<_>) =
        subscriptions.into_iter().partition(|one| recovered.removed.contains(&one.id));
    let waits_in_vain = |one: &SubscriptionInfo| {
        one.policy.after.is_some_and(|main| recovered.removed.contains(&main))
    };
    for one in kept.iter_mut().filter(|one| waits_in_vain(one)) {
        one.clear_after();
        book.put(one)?;
    }
    removed.iter().try_for_each(|one| book.remove(one.id))?;
    Ok(kept)
}

/// The subscriptions in force, and a notice for each that this build cannot serve.
fn serve(
    subscriptions: Vec<SubscriptionInfo>,
    mut held: Vec<HeldSubscription>,
    accounts: &Accounts,
) -> (SubscriptionTable, Vec<Notice>) {
    let mut subscription_table = SubscriptionTable::default();
    for one in subscriptions {
        let (id, name) = (one.id, Some((one.account.clone(), one.name.clone())));
        match ActiveSubscription::new(one) {
            Ok(active) => subscription_table.put(active),
            Err(error) => held.push(HeldSubscription { id, name, why: error.to_string() }),
        }
    }
    let tell = |HeldSubscription { id, name, why }| {
        subscription_table.hold(id, name.clone());
        let shown =
            |account: String| accounts.get(&account).map_or(account, |one| one.name.clone());
        let name = name.map(|(account, name)| (shown(account), name));
        Notice::NotServed { subscription: id, name, why }
    };
    let notices = held.into_iter().map(tell).collect();
    (subscription_table, notices)
}

/// Owes what was owed before. Returns the notices for the host: parts of the outbox that were set aside,
/// and deliveries held for unknown subscriptions.
fn owe_again(
    dispatcher: &mut Dispatcher,
    (subscription_table, accounts): (&SubscriptionTable, &Accounts),
    recovered: RecoveredOutbox,
    config: &Config,
    counters: &EngineCounters,
) -> Vec<Notice> {
    let (now_ms, wall_ms) = (config.clock.monotonic_ms(), config.clock.wall_ms());
    let RecoveredOutbox {
        mut owed,
        retries,
        accepted,
        keys,
        health,
        cancelled,
        letters_dropped,
        set_aside,
        keys_dropped,
        ..
    } = recovered;
    counters.cancelled.add(cancelled);
    counters.letters_dropped.add(letters_dropped);
    counters.recovered.add(owed.values().map(roaring::RoaringTreemap::len).sum());
    let told = set_aside.into_iter().map(|(name, why)| Notice::SetAside { name, why });
    let mut initial_notices: Vec<Notice> = told.collect();
    if let Some(dropped) = keys_dropped {
        counters.keys_dropped.add(dropped.keys);
        initial_notices.push(Notice::DedupKeysDropped(dropped.keys));
    }
    // A removed subscription without owed deliveries; its tombstone is already gone.
    owed.retain(|_, sequences| !sequences.is_empty());
    for (id, sequences) in &owed {
        if subscription_table.get(*id).is_none() {
            initial_notices.push(Notice::Held { subscription: *id, deliveries: sequences.len() });
        }
    }
    let context = StepContext { now_ms, wall_ms, random: 0 };
    dispatcher.recovered_times(accepted, context);
    let (retries, replays): (Vec<_>, Vec<_>) =
        retries.into_iter().partition(|(_, state)| state.attempts > 0);
    initial_notices.extend(held_accounts(subscription_table, accounts, &owed));
    for (delivery, state) in retries {
        if let Some(sequences) = owed.get_mut(&delivery.subscription) {
            sequences.remove(delivery.sequence);
        }
        let key_hash = keys.get(&delivery.sequence).copied().unwrap_or(0);
        dispatcher.recovered_retry(delivery, key_hash, &state, now_ms, wall_ms);
    }
    // Ordered by id, so that a simulation repeats exactly.
    let mut owed: Vec<_> = owed.into_iter().collect();
    owed.sort_unstable_by_key(|(id, _)| *id);
    for (id, sequences) in owed {
        dispatcher.recovered(id, sequences, &keys);
    }
    for (delivery, state) in replays {
        dispatcher.recovered_replay(delivery, &state, context);
    }
    // Policies are set last: an ordered lane then queues everything it owes by sequence, retries and
    // first attempts alike.
    for one in subscription_table.all() {
        dispatcher.set_lane(
            one.id,
            &one.account,
            one.policy.clone(),
            lane_state(accounts, &one),
            &keys,
        );
        dispatcher.set_destination(one.id, destination_number(one.target.authority()));
    }
    let mut health: Vec<_> = health.into_iter().collect();
    health.sort_unstable_by_key(|(id, _)| *id);
    for (id, health) in health {
        dispatcher.recovered_health(id, &health, now_ms, wall_ms);
    }
    dispatcher.hold_recovered_dependents();
    initial_notices
}

fn shares(config: &Config, accounts: &Accounts, in_flight_max: usize) -> Arc<AccountShares> {
    let defaults = config.account_limits.clone();
    let shares = AccountShares::new(&config.limits, in_flight_max, defaults);
    for account in accounts.list().iter().filter(|account| !account.is_removed()) {
        shares.put(account.id(), account.own_limits().clone());
    }
    Arc::new(shares)
}

/// A notice for each account that is not active and is owed deliveries.
fn held_accounts(
    subscription_table: &SubscriptionTable,
    accounts: &Accounts,
    owed: &HashMap<SubscriptionId, RoaringTreemap>,
) -> Vec<Notice> {
    let inactive = accounts.list().into_iter().filter(|one| one.state != AccountState::Active);
    let owed_to = |one: &SubscriptionInfo| owed.get(&one.id).map_or(0, RoaringTreemap::len);
    let told = inactive.filter_map(|account| {
        let own = subscription_table.of_account(account.id());
        let deliveries = own.iter().map(|one| owed_to(one)).sum();
        (deliveries > 0).then(|| held(&account, deliveries))
    });
    told.collect()
}

fn in_flight_max(limits: &Limits) -> usize {
    limits.in_flight_max.unwrap_or_else(file_limit::in_flight_max)
}

fn dispatch_limits(limits: &Limits, answers_later: bool, threads: usize) -> DispatchLimits {
    let threads_max = if answers_later { usize::MAX } else { limits.transport_threads };
    DispatchLimits {
        lane_in_flight_max: limits.lane_in_flight_max,
        in_flight_max: in_flight_max(limits).min(threads_max),
        threads,
    }
}
