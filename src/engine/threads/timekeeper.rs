//! The thread that does what only time causes: deliveries that become due, lanes that may try again,
//! workers that are missing. It sleeps until the dispatcher's next deadline and is woken when an earlier
//! one appears, so it never polls. A panic of this thread poisons the engine.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::MutexGuard;

use super::worker_pool;
use crate::engine::shared::{DispatchState, Shared};
use crate::error::{Error, Result};
use crate::notice::Notice;
use crate::process::threads;
use crate::stats::Bound;
use crate::transport::Shortage;

pub(in crate::engine) fn start(shared: &Arc<Shared>) -> Result<()> {
    shared.dispatch_state.lock().timekeeper_runs = true;
    let held = Arc::clone(shared);
    threads::start("wabahook-timekeeper", None, move || run(&held)).map(drop).map_err(Error::thread)
}

/// Clears `timekeeper_runs` when the thread ends, also by a panic.
struct EndOnDrop<'a>(&'a Shared);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.dispatch_state.lock().timekeeper_runs = false;
        self.0.threads_ended.notify_all();
        if std::thread::panicking() {
            self.0.poison("the timekeeper panicked");
        }
    }
}

fn run(shared: &Arc<Shared>) {
    let _end = EndOnDrop(shared);
    let mut state = shared.dispatch_state.lock();
    while !state.closing {
        let now_ms = shared.clock.monotonic_ms();
        tick(shared, &mut state, now_ms, &|| worker_pool::start_worker(shared));
        match state.timer_due_ms {
            // More is due; others may take the lock in between.
            Some(due_ms) if due_ms <= now_ms => MutexGuard::bump(&mut state),
            Some(due_ms) => {
                let span = Duration::from_millis(due_ms - now_ms);
                shared.timer.wait_for(&mut state, span);
            }
            None => shared.timer.wait(&mut state),
        }
    }
}

type StartWorker<'a> = &'a dyn Fn() -> std::io::Result<()>;

pub(in crate::engine) fn tick(
    shared: &Shared,
    state: &mut MutexGuard<'_, DispatchState>,
    now_ms: u64,
    start: StartWorker<'_>,
) {
    state.dispatcher.tick(now_ms);
    shared.counters.cancelled.add(state.dispatcher.take_cancelled());
    shared.end_expired(state, now_ms);
    if shared.http.is_none() {
        add_workers(shared, state, start);
    }
    shared.wake_workers(state);
    if let Some(bound) = state.bounds.unreported.take() {
        MutexGuard::unlocked(state, || {
            shared.notices.send(&Notice::BoundReached { bound });
        });
    }
    if state.idle > 0 {
        shared.work.notify_one();
    }
    state.timer_due_ms = state.dispatcher.next_timer_ms();
}

/// Starts the missing workers. If the system refuses a thread, the existing workers carry on.
fn add_workers(shared: &Shared, state: &mut MutexGuard<'_, DispatchState>, start: StartWorker<'_>) {
    let missing = state.workers_wanted().saturating_sub(state.workers);
    for _ in 0..missing {
        if start().is_err() {
            let now_ms = shared.clock.monotonic_ms();
            state.bounds.note(Bound::Shortage(Shortage::Threads), now_ms);
            return;
        }
        state.workers += 1;
    }
}
