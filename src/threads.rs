//! Decides how the engine's own threads are named and scheduled.
//!
//! Leaves to others: what they do, and the readers of an open, which end before it does (`recovery`). Invariant: a thread of the engine that is woken does not take the core
//! from the thread of the host that woke it, where the system can be asked for that.
//!
//! On Linux the threads have the policy for batch work (`SCHED_BATCH` of sched(7)): such a thread gets as
//! much of the CPU as another one, but waits until whoever runs sleeps or has had its share. `publish`
//! wakes the committer, and every answer wakes a worker; with the usual policy one call of `publish` in
//! a thousand took five times as long.

use std::io;
use std::thread::{Builder, JoinHandle};

/// Starts a thread with a name and, where it is given, a stack of so many bytes.
pub(crate) fn start(
    name: &str,
    stack_bytes: Option<usize>,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let thread = Builder::new().name(name.to_owned());
    let thread = match stack_bytes {
        Some(bytes) => thread.stack_size(bytes),
        None => thread,
    };
    thread.spawn(move || {
        step_back();
        work();
    })
}

/// Lets the calling thread wait for those that run when it is woken. Where that cannot be had it goes on
/// as it is: nothing depends on it but how long the host's calls take.
#[cfg(target_os = "linux")]
fn step_back() {
    use thread_priority::{NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy};

    let priority = rustix::process::getpriority_process(None).ok().and_then(priority_of_nice);
    let Some(priority) = priority else { return };
    let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Batch);
    let _ = thread_priority::set_thread_priority_and_policy(
        thread_priority::thread_native_id(),
        ThreadPriority::Crossplatform(priority),
        policy,
    );
}

#[cfg(not(target_os = "linux"))]
fn step_back() {}

/// What `thread_priority` calls a nice value, which it sets together with the policy and which is to stay
/// as it is: it spreads the 40 nice values over 0 to 99, the other way round.
#[cfg(target_os = "linux")]
fn priority_of_nice(nice: i32) -> Option<thread_priority::ThreadPriorityValue> {
    // 99 * (1 - (nice + 20.5) / 39), which is the middle of what is taken for this nice value.
    let priority = (99 * (37 - 2 * nice) + 39) / 78;
    thread_priority::ThreadPriorityValue::try_from(u8::try_from(priority.clamp(0, 99)).ok()?).ok()
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;
    use std::fs;
    use thread_priority::{NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy};

    /// The policy and the nice value of the calling thread, as proc(5) gives them.
    fn scheduling() -> (u32, i32) {
        let stat = fs::read_to_string("/proc/thread-self/stat").unwrap();
        // The name in brackets may hold spaces.
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        (fields[38].parse().unwrap(), fields[16].parse().unwrap())
    }

    const SCHED_OTHER: u32 = 0;
    const SCHED_BATCH: u32 = 3;

    #[test]
    fn a_thread_of_ours_steps_back_and_the_one_that_starts_it_stays_as_it_is() {
        let (own_policy, nice) = scheduling();
        let (tell, told) = crossbeam_channel::bounded(1);
        let name = "wabahook-tested";
        let started = start(name, Some(64 * 1024), move || {
            let name = std::thread::current().name().map(str::to_owned);
            tell.send((scheduling(), name)).unwrap();
        });
        started.unwrap().join().unwrap();
        assert_eq!(told.recv().unwrap(), ((SCHED_BATCH, nice), Some(name.to_owned())));
        assert_eq!(scheduling(), (own_policy, nice));
        assert_eq!(own_policy, SCHED_OTHER);
    }

    #[test]
    fn every_nice_value_is_set_to_itself() {
        let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Batch);
        for nice in -20..20 {
            let priority = ThreadPriority::Crossplatform(priority_of_nice(nice).unwrap());
            assert_eq!(priority.to_posix(policy).unwrap(), nice);
        }
    }
}
