//! A thread for what an attempt's end or start needs from the device, so that no attempt waits with it (I4):
//! writing to the book that a subscription is disabled, and reading an event that is not in memory. An engine
//! without threads does it at once. A panic of this thread poisons the engine.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};

use crossbeam_channel::{Receiver, unbounded};

use crate::engine::shared::{Job, Shared};
use crate::error::{Error, Result};
use crate::process::threads;

pub(in crate::engine) fn start(shared: &Arc<Shared>) -> Result<()> {
    let (sender, jobs) = unbounded();
    let weak = Arc::downgrade(shared);
    threads::start("wabahook-background", None, move || run(&weak, &jobs))
        .map_err(Error::thread)?;
    let _ = shared.jobs.set(sender);
    Ok(())
}

fn run(shared: &Weak<Shared>, jobs: &Receiver<Job>) {
    while let Ok(job) = jobs.recv() {
        let Some(shared) = shared.upgrade() else { return };
        let done = catch_unwind(AssertUnwindSafe(|| shared.do_job(job)));
        shared.dispatch_state.lock().jobs -= 1;
        shared.threads_ended.notify_all();
        if done.is_err() {
            shared.poison("the background thread panicked");
        }
    }
}

impl Shared {
    /// Has a job done, by the background thread if there is one.
    pub(in crate::engine) fn submit_job(&self, job: Job) {
        let Some(sender) = self.jobs.get() else { return self.do_job(job) };
        self.dispatch_state.lock().jobs += 1;
        // Fails only where the thread has ended with the engine.
        if sender.send(job).is_err() {
            self.dispatch_state.lock().jobs -= 1;
        }
    }

    fn do_job(&self, job: Job) {
        match job {
            Job::Disable(id, reason) => self.disable(id, reason),
            Job::Read(thread, attempt) => self.read_for(thread, attempt),
        }
    }
}
