//! Decides how the engine's own threads are named, and how one of them steps back.
//!
//! Leaves to others: what they do and when one steps back (`outbox::company`), and the readers of an
//! open, which end before it does (`outbox::recovery`). Invariant: a thread that does not step back is
//! scheduled as the thread that started it.
//!
//! One that steps back has, on Linux, the policy for batch work (`SCHED_BATCH` of sched(7)): it gets as
//! much of the CPU as another one, but when it is woken it waits until whoever runs sleeps or has had
//! its share. Beside a thread that never sleeps that is a few milliseconds.

use std::fs::File;
use std::io::{self, Read, Seek};
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
    thread.spawn(work)
}

/// How the calling thread is scheduled. What cannot be had stays as it is: nothing depends on it but how
/// long things take.
#[derive(Debug)]
pub(crate) struct Scheduling {
    /// Whether it began with the usual policy. Any other is the host's wish.
    is_usual: bool,
    steps_back: bool,
}

impl Scheduling {
    /// That of the calling thread, which must not have stepped back.
    pub(crate) fn of_this_thread() -> Scheduling {
        Scheduling { is_usual: has_usual_policy(), steps_back: false }
    }

    /// Has the calling thread step back, or no longer.
    pub(crate) fn step_back(&mut self, does: bool) {
        if self.is_usual && does != self.steps_back {
            set_policy(does);
            self.steps_back = does;
        }
    }
}

/// What Linux says of the calling thread's waits for a core: the second number of schedstat (the kernel's
/// `sched-stats.rst`), in nanoseconds since the thread began. Keeps a file open.
#[derive(Debug)]
pub(crate) struct Waits {
    file: Option<File>,
    told_ns: u64,
}

const SCHEDSTAT: &str = "/proc/thread-self/schedstat";

impl Waits {
    pub(crate) fn of_this_thread() -> Waits {
        let mut waits = Waits { file: File::open(SCHEDSTAT).ok(), told_ns: 0 };
        waits.read_us();
        waits
    }

    /// For how many microseconds the calling thread could run and had no core, since this was asked
    /// last. 0 where the system does not say.
    pub(crate) fn read_us(&mut self) -> u64 {
        let now_ns = self.read_ns().unwrap_or(self.told_ns);
        let since_ns = now_ns.saturating_sub(self.told_ns);
        self.told_ns += since_ns;
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
fn has_usual_policy() -> bool {
    use thread_priority::{NormalThreadSchedulePolicy, ThreadSchedulePolicy};

    let usual = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Other);
    thread_priority::thread_schedule_policy().is_ok_and(|policy| policy == usual)
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
fn has_usual_policy() -> bool {
    false
}

#[cfg(not(target_os = "linux"))]
fn set_policy(_: bool) {}

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
    fn a_thread_steps_back_and_forth_at_its_nice_value_and_the_one_that_started_it_stays_as_it_is()
    {
        let (own_policy, nice) = scheduling();
        assert_eq!(own_policy, SCHED_OTHER);
        let (tell, told) = crossbeam_channel::unbounded();
        let name = "wabahook-tested";
        let started = start(name, Some(64 * 1024), move || {
            assert_eq!(std::thread::current().name(), Some(name));
            let mut of_it = Scheduling::of_this_thread();
            for steps_back in [false, true, true, false, true] {
                of_it.step_back(steps_back);
                tell.send(scheduling()).unwrap();
            }
            // Somebody else has set its policy now.
            let mut of_it = Scheduling::of_this_thread();
            of_it.step_back(true);
            of_it.step_back(false);
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
    fn a_thread_that_has_to_share_its_core_is_told_that_it_waited() {
        let cores = std::thread::available_parallelism().unwrap().get();
        let started = std::time::Instant::now();
        let waited = AtomicBool::new(false);
        let share = || {
            let mut waits = Waits::of_this_thread();
            while !waited.load(Ordering::Relaxed) {
                assert!(started.elapsed() < std::time::Duration::from_secs(20), "nobody waited");
                if waits.read_us() > 0 {
                    waited.store(true, Ordering::Relaxed);
                }
            }
        };
        std::thread::scope(|scope| (0..=cores).for_each(|_| drop(scope.spawn(share))));
        assert!(waited.into_inner());
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
