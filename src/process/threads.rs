//! Starts the engine's threads, and sets how the calling thread is scheduled.
//!
//! A thread in batch mode has, on Linux, the policy `SCHED_BATCH` (sched(7)). It gets the same share of the CPU
//! as before, but when it is woken it waits until the running thread sleeps or has used its share: a few
//! milliseconds if that thread never sleeps. Without batch mode a thread is scheduled like the one that
//! started it.
#![allow(clippy::disallowed_methods, reason = "the only file that starts threads")]

use std::fs::File;
use std::io::{self, Read, Seek};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// Starts a named thread, with a stack of `stack_bytes` or the default size.
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
    thread.spawn(work)
}

/// Runs `work` on a thread of its own and waits for it. Fails where the system refuses the thread; `work` has not run
/// then.
#[cfg(feature = "postgres")]
pub(crate) fn run_on_another<T: Send>(
    name: &str,
    work: impl FnOnce() -> T + Send,
) -> io::Result<T> {
    std::thread::scope(|scope| {
        let started = Builder::new().name(name.to_owned()).spawn_scoped(scope, work)?;
        Ok(started.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// Checks that the system grants so many threads at a time, for code that cannot handle a refusal.
pub(crate) fn check_available(count: usize) -> io::Result<()> {
    let (release, released) = crossbeam_channel::bounded::<()>(0);
    let begin = |_| {
        let released = released.clone();
        start("wabahook-probe", None, move || {
            let _ = released.recv();
        })
    };
    let started: Vec<_> = (0..count).map(begin).collect();
    drop(release);
    started.into_iter().try_for_each(|thread| thread.map(|thread| drop(thread.join())))
}

/// Runs `work`. On Linux the system may wake threads started by it up to `slack` late, so that it can combine wake-ups
/// (`PR_SET_TIMERSLACK` of prctl(2)). The calling thread is as before afterwards.
pub(crate) fn with_timer_slack<T>(slack: Duration, work: impl FnOnce() -> T) -> T {
    let before = timer_slack_ns();
    set_timer_slack_ns(u64::try_from(slack.as_nanos()).ok());
    let result = work();
    set_timer_slack_ns(before);
    result
}

#[cfg(target_os = "linux")]
fn timer_slack_ns() -> Option<u64> {
    rustix::thread::current_timer_slack().ok()
}

#[cfg(not(target_os = "linux"))]
fn timer_slack_ns() -> Option<u64> {
    None
}

#[cfg(target_os = "linux")]
fn set_timer_slack_ns(slack_ns: Option<u64>) {
    // Without a value the default is set. A refusal only costs wake-ups.
    let _ = rustix::thread::set_current_timer_slack(slack_ns.and_then(std::num::NonZeroU64::new));
}

#[cfg(not(target_os = "linux"))]
fn set_timer_slack_ns(_slack_ns: Option<u64>) {}

/// The scheduling of the calling thread. A change that the system refuses is ignored: only latency depends
/// on it.
#[derive(Debug)]
pub(crate) struct ThreadScheduling {
    /// Whether the thread started with the default policy. Another one was chosen by the host and stays.
    is_default: bool,
    is_batch: bool,
}

impl ThreadScheduling {
    /// That of the calling thread, which must not be in batch mode.
    pub(crate) fn of_this_thread() -> ThreadScheduling {
        ThreadScheduling { is_default: has_default_policy(), is_batch: false }
    }

    /// Switches batch mode of the calling thread on or off.
    pub(crate) fn set_batch(&mut self, is_batch: bool) {
        if self.is_default && is_batch != self.is_batch {
            set_policy(is_batch);
            self.is_batch = is_batch;
        }
    }
}

/// Measures how long the calling thread waits for a CPU, from the second number of Linux's schedstat (the
/// kernel's `sched-stats.rst`). Keeps a file open.
#[derive(Debug)]
pub(crate) struct CpuWaitMeter {
    file: Option<File>,
    last_ns: u64,
}

const SCHEDSTAT: &str = "/proc/thread-self/schedstat";

impl CpuWaitMeter {
    pub(crate) fn of_this_thread() -> CpuWaitMeter {
        let mut meter = CpuWaitMeter { file: File::open(SCHEDSTAT).ok(), last_ns: 0 };
        meter.read_us();
        meter
    }

    /// How long the calling thread was ready to run without a CPU since the last call, in microseconds; 0 on systems
    /// that do not report it.
    pub(crate) fn read_us(&mut self) -> u64 {
        let now_ns = self.read_ns().unwrap_or(self.last_ns);
        let since_ns = now_ns.saturating_sub(self.last_ns);
        self.last_ns += since_ns;
        since_ns / 1_000
    }

    fn read_ns(&mut self) -> Option<u64> {
        let file = self.file.as_mut()?;
        let mut text = [0; 64];
        file.rewind().ok()?;
        let read = file.read(&mut text).ok()?;
        std::str::from_utf8(text.get(..read)?).ok()?.split_whitespace().nth(1)?.parse().ok()
    }
}

#[cfg(target_os = "linux")]
fn has_default_policy() -> bool {
    use thread_priority::{NormalThreadSchedulePolicy, ThreadSchedulePolicy};

    let default = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Other);
    thread_priority::thread_schedule_policy().is_ok_and(|policy| policy == default)
}

#[cfg(target_os = "linux")]
fn set_policy(batch: bool) {
    use thread_priority::{NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy};

    let priority = rustix::process::getpriority_process(None).ok().and_then(priority_of_nice);
    let Some(priority) = priority else { return };
    let policy = match batch {
        true => NormalThreadSchedulePolicy::Batch,
        false => NormalThreadSchedulePolicy::Other,
    };
    let _ = thread_priority::set_thread_priority_and_policy(
        thread_priority::thread_native_id(),
        ThreadPriority::Crossplatform(priority),
        ThreadSchedulePolicy::Normal(policy),
    );
}

#[cfg(not(target_os = "linux"))]
fn has_default_policy() -> bool {
    false
}

#[cfg(not(target_os = "linux"))]
fn set_policy(_: bool) {}

/// The value of `thread_priority` for a nice value. The crate sets both together, and the nice value must not
/// change: it maps the 40 nice values to 99 down to 0.
#[cfg(target_os = "linux")]
fn priority_of_nice(nice: i32) -> Option<thread_priority::ThreadPriorityValue> {
    // 99 * (1 - (nice + 20.5) / 39), the middle of the range that maps to this nice value.
    let priority = (99 * (37 - 2 * nice) + 39) / 78;
    thread_priority::ThreadPriorityValue::try_from(u8::try_from(priority.clamp(0, 99)).ok()?).ok()
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;
    use std::fs;
    use std::sync::atomic::{AtomicBool, Ordering};
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
    fn batch_mode_keeps_the_nice_value_and_affects_one_thread() {
        let (own_policy, nice) = scheduling();
        assert_eq!(own_policy, SCHED_OTHER);
        let (tell, told) = crossbeam_channel::unbounded();
        let name = "wabahook-tested";
        let started = start(name, Some(64 * 1024), move || {
            assert_eq!(std::thread::current().name(), Some(name));
            let mut of_it = ThreadScheduling::of_this_thread();
            for is_batch in [false, true, true, false, true] {
                of_it.set_batch(is_batch);
                tell.send(scheduling()).unwrap();
            }
            // The policy is no longer the default one.
            let mut of_it = ThreadScheduling::of_this_thread();
            of_it.set_batch(true);
            of_it.set_batch(false);
            tell.send(scheduling()).unwrap();
        });
        started.unwrap().join().unwrap();
        let policies: Vec<_> =
            told.into_iter().map(|(policy, of_it)| (policy, of_it == nice)).collect();
        let (usual, batch) = ((SCHED_OTHER, true), (SCHED_BATCH, true));
        assert_eq!(policies, [usual, batch, batch, usual, batch, batch]);
        assert_eq!(scheduling(), (own_policy, nice));
    }

    #[test]
    fn waiting_for_a_shared_core_is_measured() {
        let cores = std::thread::available_parallelism().unwrap().get();
        let started = std::time::Instant::now();
        let waited = AtomicBool::new(false);
        let share = || {
            let mut meter = CpuWaitMeter::of_this_thread();
            while !waited.load(Ordering::Relaxed) {
                assert!(started.elapsed() < std::time::Duration::from_secs(20), "no thread waited");
                if meter.read_us() > 0 {
                    waited.store(true, Ordering::Relaxed);
                }
            }
        };
        std::thread::scope(|scope| (0..=cores).for_each(|_| drop(scope.spawn(share))));
        assert!(waited.into_inner());
    }

    #[test]
    fn every_nice_value_maps_to_itself() {
        let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Batch);
        for nice in -20..20 {
            let priority = ThreadPriority::Crossplatform(priority_of_nice(nice).unwrap());
            assert_eq!(priority.to_posix(policy).unwrap(), nice);
        }
    }
}
