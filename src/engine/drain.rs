//! Decides how values and effects travel between the rooms: from the outbox to the dispatcher, from
//! there to the workers and back.
//!
//! Leaves to others: which attempt is next, what a reply means, what is written. Invariant: nothing
//! waits for the device or the network while the drive is locked, and no thread polls.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::MutexGuard;

use super::core::{Core, Drive};
use super::recent::Ended;
use super::registry::Served;
use crate::attempt::{Attempt, DeliveryId, Failure, Made, Outcome, Reason, Record, Reply, Tried};
use crate::delivery::{Source, Template};
use crate::dispatch::{self, Completed, Judged};
use crate::error::{Error, Result};
use crate::event::StoredEvent;
use crate::notice::Notice;
use crate::outbox::{Committed, Owed, Owing, Sink, Totals};
use crate::subscription::{State, SubscriptionId};
use crate::threads;

/// After how long without an attempt a worker ends, as long as others are left.
const IDLE: Duration = Duration::from_secs(10);

/// How many idle workers stay, so that the first attempt after a pause starts at once.
pub(super) const WORKERS_KEPT: usize = 2;

impl Source for Core {
    fn next(&self) -> Option<Attempt> {
        let mut drive = self.drive.lock();
        loop {
            if drive.closing {
                return self.end_worker(drive);
            }
            if let Some(attempt) = self.take_attempt(&mut drive) {
                return Some(attempt);
            }
            drive.idle += 1;
            let idled = self.work.wait_for(&mut drive, IDLE).timed_out();
            drive.idle -= 1;
            if idled && drive.workers > WORKERS_KEPT && drive.workers_wanted() == 0 {
                return self.end_worker(drive);
            }
        }
    }

    fn steps_back(&self) -> bool {
        self.company.load(Ordering::Relaxed)
    }

    fn attempt(&self, attempt: Attempt) -> Made {
        let Some(served) = self.registry.read().served(attempt.delivery.subscription) else {
            // Removed a moment ago: what it was owed is cancelled already.
            return Failure::Interrupted.into();
        };
        match self.outbox.event(attempt.delivery.sequence) {
            Ok(event) => {
                let wall_ms = self.clock.wall_ms();
                let (id, number) = (attempt.delivery.subscription, attempt.number);
                // A transport of the host's own may tell what it does, and finds itself in here.
                let span =
                    tracing::debug_span!("attempt", event = %event.id, subscription = %id, number);
                let reply = span.in_scope(|| self.send(&served.template, &event, number, wall_ms));
                Made { reply, event_type: Some(event.kind.clone()) }
            }
            Err(Error::Closed) => Failure::Interrupted.into(),
            Err(error) if self.waits_for_the_device(&error) => Failure::Interrupted.into(),
            Err(error) => {
                self.board.tell(&Notice::Faulty { why: error.to_string() });
                Failure::Internal.into()
            }
        }
    }

    fn complete(&self, attempt: Attempt, made: Made) -> Option<Attempt> {
        let Made { reply, event_type } = made;
        let id = attempt.delivery.subscription;
        let served = self.registry.read().served(id);
        let judged =
            served.as_deref().map(|served| dispatch::judge(&reply, &served.registered.policy));
        let judged = judged.unwrap_or(Judged { outcome: Outcome::Interrupted, disable: None });
        let reason = reason(&judged.outcome);
        let now_ms = self.clock.monotonic_ms();
        let (wall_ms, chance) = (self.clock.wall_ms(), self.clock.chance());
        let mut drive = self.drive.lock();
        let completed = drive.dispatcher.complete(attempt, judged, now_ms, wall_ms, chance);
        if completed.record.is_some() {
            drive.note_end();
        }
        // Whoever keeps in the book that a lane is disabled waits for the device: no attempt waits
        // with it (I4).
        let keeps_book = completed.disabled.is_some();
        drive.keeping_book += usize::from(keeps_book);
        let next = if drive.closing || keeps_book { None } else { drive.next_attempt(now_ms) };
        self.rouse(&drive);
        // Sent, remembered and counted under the lock, so that whoever asks what is owed finds every
        // end that the answer leaves out in the queue, among the newest attempts and in the counters.
        let took_ms = completed.took_ms;
        let tried = reason.clone().map(|why| tried(attempt, why, &reply, took_ms, wall_ms));
        self.record(tried, &completed);
        self.count(&reply, &completed);
        let event = self.outbox.id_of(attempt.delivery.sequence);
        let record = completed.record.as_ref();
        let at_ms = wall_ms;
        let forgotten = self.recent.remember(Ended {
            attempt,
            event,
            event_type,
            reply,
            reason,
            record,
            at_ms,
            took_ms,
        });
        drop(drive);
        drop(forgotten);
        trace(attempt, &completed);
        self.follow(id, completed);
        if keeps_book {
            self.drive.lock().keeping_book -= 1;
        }
        next
    }
}

impl Core {
    /// Makes the attempt `number` of an event and returns what came back.
    pub(super) fn send(
        &self,
        template: &Template,
        event: &StoredEvent,
        number: u32,
        wall_ms: u64,
    ) -> Reply {
        match template.request(event, number, wall_ms, &self.catalogue) {
            Ok(request) => self.transport.send(&request),
            Err(failure) => Reply::Failed(failure),
        }
    }

    /// The next attempt, where one is ready.
    pub(super) fn take_attempt(&self, drive: &mut Drive) -> Option<Attempt> {
        let attempt = drive.next_attempt(self.clock.monotonic_ms())?;
        self.rouse(drive);
        Some(attempt)
    }

    /// Has everything written that the end of an attempt changed, its history first.
    fn record(&self, tried: Option<Record>, completed: &Completed) {
        let Completed { record, with, health, .. } = completed;
        // An attempt that changed nothing, because its subscription is removed, has no history.
        let tried = tried.filter(|_| record.is_some());
        for single in tried.into_iter().chain(health.clone()) {
            self.outbox.record(single);
        }
        match record {
            Some(record) if with.is_empty() => self.outbox.record(record.clone()),
            Some(record) => {
                let together = std::iter::once(record).chain(with).cloned().collect();
                self.outbox.record_together(together);
            }
            None => {}
        }
    }

    /// Whether an event cannot be read because the device refuses: its delivery goes back to its
    /// lane, and nothing of the attempt is counted or told.
    fn waits_for_the_device(&self, error: &Error) -> bool {
        let refuses = self.drive.lock().note_unread();
        // A generation that was being opened again may be open by now.
        refuses || matches!(error, Error::Unknown { .. })
    }

    fn count(&self, reply: &Reply, completed: &Completed) {
        if !matches!(reply, Reply::Failed(Failure::Interrupted)) {
            self.counters.attempts.add(1);
            self.counters.attempt_durations.note(completed.took_ms);
        }
        for record in completed.record.iter().chain(&completed.with) {
            match record {
                Record::Settle(_) | Record::SettleMain(_) => self.counters.delivered.add(1),
                // Revived by the host and not by an attempt.
                Record::Revive(_) | Record::Tried(..) | Record::Health(..) => {}
                Record::Retry(..) => self.counters.retried.add(1),
                Record::Dead(_) => self.counters.dead.add(1),
            }
        }
    }

    /// Tells the host what the end of an attempt brought about.
    fn follow(&self, id: SubscriptionId, completed: Completed) {
        let Completed { record, with, disabled, .. } = completed;
        for record in record.iter().chain(&with) {
            if let Record::Dead(letter) = record {
                self.board.tell(&Notice::Died {
                    event: self.outbox.id_of(letter.delivery.sequence),
                    subscription: letter.delivery.subscription,
                    reason: letter.reason.clone(),
                });
            }
        }
        if let Some(reason) = disabled {
            self.disable(id, reason);
        }
    }

    /// Keeps that a receiver is gone. Its lane is disabled already, and is so again here: a call of the
    /// host that had the book in between has set it to something else. If this is not made durable,
    /// the next attempt after a restart finds it out again.
    fn disable(&self, id: SubscriptionId, reason: Reason) {
        let mut book = self.book.lock();
        let Some(served) = self.registry.read().served(id) else { return };
        let mut registered = (*served.registered).clone();
        if registered.state == State::Disabled {
            // Another attempt that was under way at the same time has said so already.
            return;
        }
        registered.state = State::Disabled;
        let kept = match book.as_mut() {
            Some(book) => book.put(&registered),
            None => Err(Error::Closed),
        };
        if let Err(error) = kept {
            self.board.tell(&Notice::Faulty { why: error.to_string() });
        }
        if let Ok(served) = Served::new(registered) {
            self.enforce_all(vec![(served, HashMap::new())]);
        }
        drop(book);
        self.board.tell(&Notice::Disabled { subscription: id, reason });
    }

    /// Wakes a worker if one is idle and wanted, and the timekeeper if it sleeps too long or a
    /// worker is missing.
    pub(super) fn rouse(&self, drive: &Drive) {
        let wanted = drive.workers_wanted();
        if drive.idle > 0 && drive.workers_serving() - drive.idle < wanted {
            self.work.notify_one();
        }
        let sooner = match (drive.dispatcher.next_wake_ms(), drive.timer_due_ms) {
            (Some(due_ms), Some(set_ms)) => due_ms < set_ms,
            (due_ms, None) => due_ms.is_some(),
            (None, Some(_)) => false,
        };
        if sooner || drive.workers_serving() < wanted {
            self.timer.notify_one();
        }
    }

    fn end_worker(&self, mut drive: MutexGuard<'_, Drive>) -> Option<Attempt> {
        drive.workers -= 1;
        drop(drive);
        self.quiet.notify_all();
        None
    }

    fn committed(&self, committed: Committed) {
        match committed {
            Committed::Group(totals, owed) => self.owe(totals, &owed),
            Committed::Revived(deliveries) => self.owe_again(&deliveries),
            Committed::Settled(mains) => {
                let mut drive = self.drive.lock();
                drive.dispatcher.settled(&mains);
                self.rouse(&drive);
            }
            Committed::Stalled(why) => {
                self.drive.lock().stall(self.limits.queue_events_max);
                self.board.tell(&Notice::Stalled { why });
            }
            Committed::Resumed => {
                let mut drive = self.drive.lock();
                drive.stall = None;
                self.rouse(&drive);
                drop(drive);
                self.board.tell(&Notice::Resumed);
            }
            Committed::Company(is_kept) => self.company.store(is_kept, Ordering::Relaxed),
            Committed::LettersDropped(letters) => {
                self.counters.letters_dropped.add(letters);
                self.board.tell(&Notice::LettersDropped(letters));
            }
            Committed::KeysDropped(dropped) => {
                self.counters.keys_dropped.add(dropped.keys);
                if dropped.begins {
                    self.board.tell(&Notice::KeysDropped(dropped.keys));
                }
            }
            Committed::Faulty(why) => self.board.tell(&Notice::Faulty { why }),
            Committed::Failed(why) => self.poison(&why),
        }
    }

    /// Dead letters that the host revived. The committer leaves those of removed subscriptions out;
    /// should a lane be gone all the same, what it is owed is cancelled as everything else was.
    fn owe_again(&self, deliveries: &[DeliveryId]) {
        let mut drive = self.drive.lock();
        for delivery in drive.dispatcher.revived(deliveries) {
            self.outbox.cancel([delivery.sequence].into_iter().collect());
            self.counters.cancelled.add(1);
        }
        self.counters.replayed.add(deliveries.len() as u64);
        self.rouse(&drive);
    }

    /// Owes and counts what a group brought, in one step for whoever reads the counters.
    fn owe(&self, totals: Totals, owed: &[Owed]) {
        let Totals { accepted, unrouted, duplicates, synced, took_ms } = totals;
        self.outbox.keep_at_hand(owed);
        let mut drive = self.drive.lock();
        for run in owed.chunk_by(is_followed_by) {
            let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
            let sequences = first.event.id.sequence()..=last.event.id.sequence();
            let keys: Vec<u64> = run.iter().map(|owed| owed.event.key_hash).collect();
            // Their subscriptions were removed after the match; the tombstones are on the device.
            let cancelled = drive.dispatcher.accepted(sequences, &keys, &first.targets);
            self.counters.cancelled.add(cancelled);
        }
        self.counters.accepted.add(accepted);
        self.counters.unrouted.add(unrouted);
        self.counters.duplicates.add(duplicates);
        if synced {
            self.counters.groups.add(1);
            self.counters.group_durations.note(took_ms);
        }
        self.rouse(&drive);
        drop(drive);
        if synced {
            tracing::debug!(accepted, duplicates, took_ms, "a group is on the device");
        }
    }
}

/// Tells of an attempt that ended, and of the breaker where it opened or closed. An attempt that
/// succeeds is nothing above debug.
fn trace(attempt: Attempt, completed: &Completed) {
    let DeliveryId { sequence, subscription } = attempt.delivery;
    let (number, took_ms) = (attempt.number, completed.took_ms);
    tracing::debug!(%subscription, sequence, number, took_ms, outcome = completed.kind(), "attempt ended");
    match completed.trips {
        None => {}
        Some(0) => tracing::info!(%subscription, "the endpoint answers again: its breaker closed"),
        Some(1) => {
            tracing::warn!(%subscription, "the endpoint keeps failing: its breaker opened");
        }
        Some(trips) => tracing::debug!(%subscription, trips, "the breaker's probe failed"),
    }
}

/// Why an attempt failed; `None` where it did not.
pub(super) fn reason(outcome: &Outcome) -> Option<Reason> {
    match outcome {
        Outcome::Delivered | Outcome::Interrupted => None,
        Outcome::Retry { reason, .. } | Outcome::Dead(reason) | Outcome::Gone(reason) => {
            Some(reason.clone())
        }
    }
}

fn tried(attempt: Attempt, reason: Reason, reply: &Reply, took_ms: u64, at_ms: u64) -> Record {
    let excerpt = match reply {
        Reply::Answered(answer) => answer.excerpt.clone(),
        Reply::Failed(_) => Vec::new(),
    };
    let number = attempt.number;
    Record::Tried(attempt.delivery, Tried { number, at_ms, took_ms, reason, excerpt })
}

/// Whether an event comes right after another one and is owed to the same targets.
fn is_followed_by(one: &Owed, next: &Owed) -> bool {
    next.event.id.sequence() == one.event.id.sequence() + 1 && one.targets == next.targets
}

/// What the committer tells an engine, for as long as there is one.
pub(super) fn sink(core: Weak<Core>) -> Sink {
    Box::new(move |committed| {
        if let Some(core) = core.upgrade() {
            core.committed(committed);
        }
    })
}

/// What an engine still owes, for as long as there is one.
pub(super) fn owing(core: Weak<Core>) -> Owing {
    Box::new(move |sequences| {
        let core = core.upgrade();
        core.map(|core| core.drive.lock().dispatcher.owed_among(sequences)).unwrap_or_default()
    })
}

/// Starts the thread that makes deliveries due, notices stuck attempts and adds workers.
pub(super) fn start_timekeeper(core: &Arc<Core>) -> Result<()> {
    let failed = |error: std::io::Error| Error::Poisoned { why: error.to_string() };
    core.drive.lock().timekeeper_runs = true;
    let kept = Arc::clone(core);
    threads::start("wabahook-timekeeper", None, move || keep_time(&kept)).map(drop).map_err(failed)
}

/// Tells the engine when the timekeeper ends, also by a panic, which poisons it.
struct TimekeeperEnds<'a>(&'a Core);

impl Drop for TimekeeperEnds<'_> {
    fn drop(&mut self) {
        self.0.drive.lock().timekeeper_runs = false;
        self.0.quiet.notify_all();
        if std::thread::panicking() {
            self.0.poison("the timekeeper panicked");
        }
    }
}

fn keep_time(core: &Arc<Core>) {
    let _ends = TimekeeperEnds(core);
    let mut drive = core.drive.lock();
    while !drive.closing {
        let now_ms = core.clock.monotonic_ms();
        mark_time(core, &mut drive, now_ms, &|| {
            core.crew.start(Arc::clone(core) as Arc<dyn Source>)
        });
        match drive.timer_due_ms {
            Some(due_ms) if due_ms <= now_ms => continue,
            Some(due_ms) => {
                core.timer.wait_for(&mut drive, Duration::from_millis(due_ms - now_ms));
            }
            None => core.timer.wait(&mut drive),
        }
    }
}

/// One turn of the timekeeper: what time alone changes, and the workers that are missing.
pub(super) fn mark_time(
    core: &Core,
    drive: &mut MutexGuard<'_, Drive>,
    now_ms: u64,
    start: StartWorker<'_>,
) {
    drive.dispatcher.tick(now_ms);
    if let Some(stuck) = newly_spent(drive) {
        MutexGuard::unlocked(drive, || {
            core.board.tell(&Notice::StuckBudgetSpent { stuck });
        });
    }
    if add_workers(core, drive, start) {
        core.rouse(drive);
    }
    if drive.idle > 0 {
        core.work.notify_one();
    }
    drive.timer_due_ms = drive.dispatcher.next_wake_ms();
}

/// Starts one more worker.
type StartWorker<'a> = &'a dyn Fn() -> std::io::Result<()>;

/// The number of stuck attempts, when their budget has just been spent.
fn newly_spent(drive: &mut Drive) -> Option<usize> {
    let spent = drive.dispatcher.stuck_budget_spent();
    let newly = spent && !drive.told_spent;
    drive.told_spent = spent;
    newly.then(|| drive.dispatcher.stuck())
}

/// Starts the workers that are missing. Where the system refuses a thread, those there are go on.
fn add_workers(core: &Core, drive: &mut MutexGuard<'_, Drive>, start: StartWorker<'_>) -> bool {
    let missing = drive.workers_missing();
    for _ in 0..missing {
        if let Err(error) = start() {
            let why = format!("no thread for another worker: {error}");
            MutexGuard::unlocked(drive, || core.board.tell(&Notice::Faulty { why }));
            return false;
        }
        drive.workers += 1;
    }
    missing > 0
}
