//! Look-ups with a scripted resolver.

use super::*;
use crate::clock::ManualClock;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

/// A test that waits for longer than this fails.
const DEADLINE: Duration = Duration::from_secs(20);

struct Bed {
    lookups: LookupThreads,
    clock: Arc<ManualClock>,
    /// Names in the order in which the system was asked for them.
    asked: Receiver<String>,
    listener: LookupListener,
    answers: Receiver<(String, Addresses)>,
}

/// Names that start with `hangs` wait until the sender is dropped.
fn bed(script: impl Fn(&str) -> Vec<IpAddr> + Send + Sync + 'static) -> (Bed, Sender<()>) {
    let (release, held) = bounded::<()>(0);
    let (tell, asked) = unbounded();
    let clock = Arc::new(ManualClock::new(0, 1));
    let passing = Arc::clone(&clock);
    let ask = move |host: &str| {
        tell.send(host.to_owned()).unwrap();
        if host.starts_with("hangs") {
            let _ = held.recv();
            passing.advance(Duration::from_millis(HUNG_MS));
            return Ok(Vec::new());
        }
        Ok(script(host))
    };
    let shown = Arc::clone(&clock) as Arc<dyn Clock>;
    let idle_max = Duration::from_millis(100);
    let lookups = LookupThreads::with_idle_max(Box::new(ask), shown, idle_max);
    let (answer, answers) = unbounded();
    let listener: LookupListener = Arc::new(move |host, addresses| {
        let _ = answer.send((host.to_owned(), addresses.cloned().unwrap_or_default()));
    });
    (Bed { lookups, clock, asked, listener, answers }, release)
}

impl Bed {
    fn look_up(&self, host: &str) -> Lookup {
        self.lookups.look_up(host, 0, 0, &self.listener)
    }

    /// The addresses of a name, once they are known.
    fn resolve(&self, host: &str) -> Addresses {
        match self.look_up(host) {
            Lookup::Known(addresses) => addresses,
            Lookup::Pending => {
                let (answered, addresses) = self.answers.recv_timeout(DEADLINE).unwrap();
                assert_eq!(answered, host);
                addresses
            }
            Lookup::NoThread => panic!("no thread"),
        }
    }

    fn asked(&self) -> usize {
        self.asked.try_iter().count()
    }
}

fn ip(last: u8) -> Vec<IpAddr> {
    vec![IpAddr::from([8, 8, 8, last])]
}

#[test]
fn an_answer_is_fresh_then_stale_then_forgotten() {
    let count = Mutex::new(0);
    let (bed, _release) = bed(move |_| {
        *count.lock() += 1;
        ip(*count.lock())
    });
    assert_eq!(*bed.resolve("a.example"), ip(1));
    bed.clock.advance(Duration::from_millis(FOUND_KEEP_MS - 1));
    assert_eq!(*bed.resolve("a.example"), ip(1));
    assert_eq!(bed.asked(), 1);
    bed.clock.advance(Duration::from_millis(1));
    assert_eq!(bed.look_up("a.example"), Lookup::Known(ip(1).into()));
    assert_eq!(bed.asked.recv_timeout(DEADLINE).unwrap(), "a.example");
    bed.clock.advance(Duration::from_millis(FOUND_KEEP_MS + STALE_KEEP_MS));
    assert_ne!(*bed.resolve("a.example"), ip(1));
}

#[test]
fn a_name_that_was_not_found_is_asked_for_again_soon() {
    let (bed, _release) = bed(|_| Vec::new());
    assert!(bed.resolve("new.example").is_empty());
    assert_eq!(bed.look_up("new.example"), Lookup::Known(Vec::new().into()));
    bed.clock.advance(Duration::from_millis(FAILED_KEEP_MS));
    assert_eq!(bed.look_up("new.example"), Lookup::Pending);
    assert_eq!(bed.answers.recv_timeout(DEADLINE).unwrap().0, "new.example");
}

#[test]
fn a_name_is_looked_up_once_for_all_who_wait() {
    let (bed, release) = bed(|_| ip(1));
    for number in [0, 1, 1, 2] {
        let found = bed.lookups.look_up("hangs.example", 0, number, &bed.listener);
        assert_eq!(found, Lookup::Pending);
    }
    assert_eq!(bed.asked.recv_timeout(DEADLINE).unwrap(), "hangs.example");
    assert!(bed.lookups.is_running("hangs.example"));
    assert_eq!(*bed.resolve("other.example"), ip(1));
    drop(release);
    for _ in 0..3 {
        assert_eq!(bed.answers.recv_timeout(DEADLINE).unwrap().0, "hangs.example");
    }
    assert!(bed.answers.try_recv().is_err());
    assert_eq!(bed.asked.try_iter().collect::<Vec<_>>(), ["other.example"]);
}

#[test]
fn names_that_hung_leave_threads_to_names_that_were_never_tried() {
    let (bed, release) = bed(|_| ip(1));
    let hanging: Vec<String> = (0..SLOW_THREADS_MAX + 4).map(|n| format!("hangs{n}")).collect();
    for host in &hanging {
        assert_eq!(bed.look_up(host), Lookup::Pending);
    }
    for _ in &hanging {
        bed.asked.recv_timeout(DEADLINE).unwrap();
    }
    drop(release);
    for _ in &hanging {
        bed.answers.recv_timeout(DEADLINE).unwrap();
    }
    bed.clock.advance(Duration::from_millis(FAILED_KEEP_MS));
    let state = || bed.lookups.shared.state.lock();
    assert!(hanging.iter().all(|host| state().known[host].has_hung));
    state().slow_running = SLOW_THREADS_MAX;
    assert_eq!(bed.look_up(&hanging[0]), Lookup::Pending);
    assert_eq!(*bed.resolve("fine.example"), ip(1));
    assert_eq!(bed.asked.try_iter().collect::<Vec<_>>(), ["fine.example"]);
    assert!(!bed.lookups.is_running(&hanging[0]));
    assert!(!bed.lookups.give_up(&hanging[0], 0));
    state().slow_running = 0;
    assert_eq!(bed.look_up(&hanging[1]), Lookup::Pending);
    assert_eq!(bed.answers.recv_timeout(DEADLINE).unwrap().0, hanging[1]);
    assert_eq!(bed.asked.try_iter().collect::<Vec<_>>(), [hanging[1].clone()]);
}

#[test]
fn hanging_names_of_some_accounts_leave_threads_to_another() {
    let (bed, release) = bed(|_| ip(1));
    let hanging: Vec<(u64, String)> =
        (0..3 * THREADS_MAX as u64).map(|n| (n % 3, format!("hangs{n}"))).collect();
    for (account, host) in &hanging {
        let pending = bed.lookups.look_up(host, *account, 0, &bed.listener);
        assert_eq!(pending, Lookup::Pending);
    }
    for _ in 0..THREADS_MAX / 2 {
        bed.asked.recv_timeout(DEADLINE).unwrap();
    }
    assert_eq!(bed.lookups.look_up("fine.example", 9, 0, &bed.listener), Lookup::Pending);
    let answered = bed.answers.recv_timeout(Duration::from_secs(5)).map(|(host, _)| host);
    assert_eq!(answered.as_deref(), Ok("fine.example"));
    // They are asked for none the less, as the ones before end.
    drop(release);
    for _ in &hanging {
        bed.answers.recv_timeout(DEADLINE).unwrap();
    }
    assert!(bed.lookups.shared.state.lock().running.is_empty());
}

/// Names of an account until it may not have another one looked up. Returns how many run.
fn fill(state: &mut LookupState, account: u64) -> usize {
    (0..2 * THREADS_MAX).for_each(|n| state.ask(&format!("{account}-{n}.example"), account));
    std::iter::from_fn(|| state.next_name()).count()
}

#[test]
fn any_account_that_asks_for_a_name_has_it_looked_up() {
    let mut state = LookupState::new();
    fill(&mut state, 1);
    state.ask("shared.example", 1);
    assert!(state.next_name().is_none(), "the first account is at its bound");
    state.ask("shared.example", 2);
    let name = state.next_name().map(|name| (name.account, name.host));
    assert_eq!(name, Some((2, "shared.example".to_owned())));
    // It is looked up once, and the names of the first account go on.
    state.ask("shared.example", 3);
    assert!(state.next_name().is_none());
    state.learn("shared.example", Vec::new().into(), HUNG_MS, 0);
    while let Some(account) = state.running.keys().next().copied() {
        state.end_running(&RunningName { account, host: String::new(), is_slow: false });
    }
    let rest: Vec<_> = std::iter::from_fn(|| state.next_name()).map(|name| name.host).collect();
    assert!(!rest.is_empty() && !rest.iter().any(|host| host == "shared.example"));
}

#[test]
fn a_name_that_hung_is_slow_in_every_queue() {
    let mut state = LookupState::new();
    fill(&mut state, 1);
    state.ask("hangs.example", 1);
    state.ask("hangs.example", 2);
    let running = state.next_name().unwrap();
    state.end_running(&running);
    state.learn("hangs.example", Vec::new().into(), HUNG_MS, 0);
    state.ask("hangs.example", 2);
    state.running.clear();
    state.slow_running = SLOW_THREADS_MAX;
    let hosts = std::iter::from_fn(|| state.next_name()).map(|name| name.host);
    assert!(!hosts.into_iter().any(|host| host == "hangs.example"));
}

#[test]
fn accounts_share_the_threads_that_the_system_grants() {
    let mut state = LookupState::new();
    (0..15).for_each(|_| state.note_start(true));
    state.note_start(false);
    assert_eq!(fill(&mut state, 1), 14);
    state.ask("fine.example", 2);
    assert_eq!(state.next_name().unwrap().host, "fine.example");
    // Once it grants more, they are shared alike.
    state.note_start(true);
    assert_eq!(std::iter::from_fn(|| state.next_name()).count(), 0, "one is left to others");
    state.note_start(true);
    assert_eq!(std::iter::from_fn(|| state.next_name()).count(), 1);
}

// Where the system refused threads, it may grant more before another name is asked for.
#[test]
fn threads_are_started_while_names_wait() {
    let (bed, _release) = bed(|_| ip(1));
    let mut state = bed.lookups.shared.state.lock();
    ["hangs1", "hangs2"].into_iter().for_each(|host| state.ask(host, 0));
    drop(state);
    assert_eq!(bed.look_up("hangs3"), Lookup::Pending);
    let mut asked: Vec<_> = (0..3).map(|_| bed.asked.recv_timeout(DEADLINE).unwrap()).collect();
    asked.sort();
    assert_eq!(asked, ["hangs1", "hangs2", "hangs3"]);
}

#[test]
fn a_thread_that_idled_looks_for_a_name_before_it_ends() {
    let (bed, _release) = bed(|_| ip(1));
    bed.resolve("a.example");
    let mut state = bed.lookups.shared.state.lock();
    state.known.get_mut("a.example").unwrap().has_hung = true;
    // Nothing wakes the thread.
    state.ask("a.example", 0);
    drop(state);
    assert_eq!(bed.asked.recv_timeout(DEADLINE).unwrap(), "a.example");
    assert_eq!(bed.asked.recv_timeout(DEADLINE).unwrap(), "a.example");
}

#[test]
fn accounts_take_turns_and_a_name_is_queued_once() {
    let mut queue = FairQueue::default();
    for (account, host) in [(1, "a"), (1, "b"), (1, "c"), (2, "x"), (1, "a"), (3, "y"), (2, "c")] {
        queue.push(account, host.to_owned());
    }
    let mut pop = |most| queue.pop(|account| account <= most).map(|(_, host)| host);
    assert_eq!(pop(9).as_deref(), Some("a"));
    assert_eq!(pop(1).as_deref(), Some("b"), "the others may not");
    let order: Vec<_> = std::iter::from_fn(|| pop(9)).collect();
    assert_eq!(order, ["x", "y", "c", "c"], "once for each account that asks");
    assert!(queue.queued.is_empty());
}

#[test]
fn other_work_is_done_and_a_panic_in_it_costs_nothing() {
    let (bed, _release) = bed(|_| ip(1));
    let (tell, told) = bounded(1);
    assert!(bed.lookups.run(|| panic!("a bug of ours")));
    assert!(bed.lookups.run(move || tell.send(7).unwrap()));
    assert_eq!(told.recv_timeout(DEADLINE).unwrap(), 7);
    assert_eq!(*bed.resolve("a.example"), ip(1));
}
