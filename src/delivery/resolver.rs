//! Decides which addresses an attempt connects to: what the name stands for, if the guard admits
//! all of it.
//!
//! Leaves to others: the connection itself, which goes to exactly the addresses returned here, so
//! that no second lookup can answer differently. The system's lookup cannot be given a deadline, so
//! threads of their own do it, and an attempt stops waiting when its time is over. Invariants: no
//! address is returned that the guard did not see just now; a name takes at most one of at most
//! [`LOOKUPS_MAX`] threads, so that one that hangs delays no other; at most [`NAMES_MAX`] answers
//! are remembered.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use http::Uri;
use parking_lot::{Condvar, Mutex};

use super::guard::{Guard, Host, Rule, host_of};
use crate::clock::Clock;
use crate::threads;

/// Looks up names and asks the guard.
pub(super) struct Names {
    guard: Arc<Guard>,
    shared: Arc<Shared>,
}

struct Shared {
    ask: Box<Ask>,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    work: Condvar,
}

/// Asks the system what a name stands for, for as long as that takes.
pub(super) type Ask = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

#[derive(Default)]
struct State {
    known: HashMap<String, Known>,
    /// Who waits for which name, be it asked for already or still in the queue.
    waiting: HashMap<String, Vec<Sender<Answer>>>,
    queue: VecDeque<String>,
    threads: usize,
    idle: usize,
    over: bool,
}

struct Known {
    answer: Answer,
    until_ms: u64,
}

/// The addresses of a name; none when it could not be looked up.
type Answer = Arc<[IpAddr]>;

impl Names {
    /// Names as the system knows them.
    pub(super) fn new(guard: Arc<Guard>, clock: Arc<dyn Clock>) -> Names {
        let ask = |host: &str| {
            let found = (host, 0).to_socket_addrs()?;
            Ok(found.map(|address| address.ip()).collect())
        };
        Names::answered_by(Box::new(ask), guard, clock)
    }

    /// Names as this says.
    pub(super) fn answered_by(ask: Box<Ask>, guard: Arc<Guard>, clock: Arc<dyn Clock>) -> Names {
        let (state, work) = <(Mutex<State>, Condvar)>::default();
        Names { guard, shared: Arc::new(Shared { ask, clock, state, work }) }
    }

    /// Where the URL's host is to be reached, in the order in which the addresses are to be tried.
    ///
    /// One refused address refuses them all: a name that mixes public and internal addresses is an
    /// attack, or a mistake that would leak into the internal network sooner or later.
    pub(super) fn addresses(
        &self,
        url: &Uri,
        until_ms: u64,
    ) -> Result<Vec<SocketAddr>, LookupError> {
        let by_scheme = if url.scheme_str() == Some("https") { 443 } else { 80 };
        let port = url.port_u16().unwrap_or(by_scheme);
        let found = match host_of(url) {
            Host::Address(address) => Arc::from([address]),
            Host::Name | Host::Ambiguous => {
                self.look_up(url.host().unwrap_or_default(), until_ms)?
            }
        };
        for address in &*found {
            self.guard.admit(*address).map_err(LookupError::Refused)?;
        }
        if found.is_empty() {
            return Err(LookupError::NotFound);
        }
        Ok(in_turns(&found).map(|address| SocketAddr::new(address, port)).collect())
    }

    /// Ends all waiting, and the threads as soon as the system lets them.
    pub(super) fn interrupt(&self) {
        let mut state = self.shared.state.lock();
        state.over = true;
        state.queue.clear();
        state.waiting.clear();
        drop(state);
        self.shared.work.notify_all();
    }

    fn look_up(&self, host: &str, until_ms: u64) -> Result<Answer, LookupError> {
        let host = host.to_ascii_lowercase();
        let now_ms = self.shared.clock.monotonic_ms();
        let answer = match self.known_or_asked(host, now_ms)? {
            Ok(known) => return Ok(known),
            Err(answer) => answer,
        };
        let left = Duration::from_millis(until_ms.saturating_sub(now_ms));
        answer.recv_timeout(left).map_err(|error| match error {
            RecvTimeoutError::Timeout => LookupError::TimedOut,
            RecvTimeoutError::Disconnected => LookupError::Interrupted,
        })
    }

    /// What is known of a name, or else where the answer will come.
    fn known_or_asked(
        &self,
        host: String,
        now_ms: u64,
    ) -> Result<Result<Answer, Receiver<Answer>>, LookupError> {
        let mut state = self.shared.state.lock();
        if state.over {
            return Err(LookupError::Interrupted);
        }
        if let Some(known) = state.known.get(&host).filter(|known| now_ms < known.until_ms) {
            return Ok(Ok(Arc::clone(&known.answer)));
        }
        let (tell, answer) = bounded(1);
        if let Some(others) = state.waiting.get_mut(&host) {
            others.push(tell);
            return Ok(Err(answer));
        }
        if state.queue.len() >= state.idle && state.threads < LOOKUPS_MAX {
            let started = start_thread(Arc::clone(&self.shared));
            if started.is_ok() {
                state.threads += 1;
            } else if state.threads == 0 {
                return Err(LookupError::NotFound);
            }
        }
        state.waiting.insert(host.clone(), vec![tell]);
        state.queue.push_back(host);
        drop(state);
        self.shared.work.notify_one();
        Ok(Err(answer))
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.interrupt();
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Names").field("guard", &self.guard).finish_non_exhaustive()
    }
}

/// The two families in turns, beginning with the system's first choice: where one of them leads
/// nowhere, the other is tried second and not ninth.
fn in_turns(found: &[IpAddr]) -> impl Iterator<Item = IpAddr> {
    let v6_first = found.first().is_some_and(IpAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        found.iter().copied().partition(|address| address.is_ipv6() == v6_first);
    let longer = first.len().max(second.len());
    let turns = (0..longer).flat_map(move |n| [first.get(n).copied(), second.get(n).copied()]);
    turns.flatten().take(ADDRESSES_MAX)
}

fn start_thread(shared: Arc<Shared>) -> io::Result<()> {
    threads::start("wabahook-lookup", Some(STACK_BYTES), move || work(&shared)).map(drop)
}

/// Answers one name after the other, and ends when for a while there was none.
fn work(shared: &Shared) {
    let mut state = shared.state.lock();
    while !state.over {
        let Some(host) = state.queue.pop_front() else {
            state.idle += 1;
            let idled = shared.work.wait_for(&mut state, IDLE).timed_out();
            state.idle -= 1;
            if idled && state.queue.is_empty() {
                break;
            }
            continue;
        };
        drop(state);
        // A name that has no addresses and one that cannot be asked for are tried again alike.
        let answer: Answer = (shared.ask)(&host).unwrap_or_default().into();
        let now_ms = shared.clock.monotonic_ms();
        state = shared.state.lock();
        state.learn(host, &answer, now_ms);
    }
    state.threads -= 1;
}

impl State {
    /// Remembers an answer for a while and tells it to all who wait for it.
    fn learn(&mut self, host: String, answer: &Answer, now_ms: u64) {
        for tell in self.waiting.remove(&host).unwrap_or_default() {
            // Whoever had no more time has gone.
            let _ = tell.send(Arc::clone(answer));
        }
        if self.known.len() >= NAMES_MAX {
            self.known.retain(|_, known| now_ms < known.until_ms);
        }
        if self.known.len() >= NAMES_MAX {
            self.known.clear();
        }
        let keep_ms = if answer.is_empty() { FAILED_KEEP_MS } else { FOUND_KEEP_MS };
        let known = Known { answer: Arc::clone(answer), until_ms: now_ms.saturating_add(keep_ms) };
        self.known.insert(host, known);
    }
}

/// Why a name led nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LookupError {
    NotFound,
    TimedOut,
    Interrupted,
    Refused(Rule),
}

impl fmt::Display for LookupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LookupError::NotFound => f.write_str("the name could not be looked up"),
            LookupError::TimedOut => f.write_str("looking up the name took too long"),
            LookupError::Interrupted => f.write_str("the lookup was interrupted"),
            LookupError::Refused(rule) => write!(f, "refused by the guard: {rule}"),
        }
    }
}

impl std::error::Error for LookupError {}

impl From<LookupError> for ureq::Error {
    fn from(error: LookupError) -> ureq::Error {
        ureq::Error::Other(Box::new(error))
    }
}

/// How many addresses of a name are tried.
const ADDRESSES_MAX: usize = 16;

/// How many names are looked up at once. A name that hangs holds a thread for as long as the system
/// tries, some 10 s; this many may hang before another name waits for its turn.
const LOOKUPS_MAX: usize = 32;

/// How many names are remembered.
const NAMES_MAX: usize = 4_096;

/// How long an answer is remembered, in milliseconds. The system does not say how long it may be.
const FOUND_KEEP_MS: u64 = 30_000;

/// How long it is remembered that a name was not found, in milliseconds: what else it is owed at
/// this moment need not ask again, and the next try comes after a second or later.
const FAILED_KEEP_MS: u64 = 1_000;

/// After how long without a name a thread ends.
const IDLE: Duration = Duration::from_secs(10);

/// The system's lookup runs on it, with name services that a machine may have added.
const STACK_BYTES: usize = 512 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Manual;
    use crate::config::Network;
    use std::thread;

    const LONG_MS: u64 = 10_000;

    /// Names answered by a script; it is given the name and how many were asked before.
    struct Bed {
        names: Arc<Names>,
        clock: Arc<Manual>,
        asked: Receiver<String>,
    }

    fn bed(
        allow: &[&str],
        script: impl Fn(&str, usize) -> Vec<IpAddr> + Send + Sync + 'static,
    ) -> Bed {
        let allow = allow.iter().map(|range| range.parse().unwrap()).collect();
        let guard = Arc::new(Guard::new(Network { allow, allow_http: true, ..Network::default() }));
        let clock = Arc::new(Manual::new(0, 1));
        let (tell, asked) = crossbeam_channel::unbounded();
        let count = Mutex::new(0);
        let ask = move |host: &str| {
            let before = std::mem::replace(&mut *count.lock(), 0);
            *count.lock() = before + 1;
            let _ = tell.send(host.to_owned());
            Ok(script(host, before))
        };
        let shown = Arc::clone(&clock) as Arc<dyn Clock>;
        let names = Arc::new(Names::answered_by(Box::new(ask), guard, shown));
        Bed { names, clock, asked }
    }

    impl Bed {
        fn addresses(&self, url: &str) -> Result<Vec<SocketAddr>, LookupError> {
            let until_ms = self.clock.monotonic_ms() + LONG_MS;
            self.names.addresses(&url.parse().unwrap(), until_ms)
        }

        fn aside(&self, url: &str) -> Receiver<Result<Vec<SocketAddr>, LookupError>> {
            let (tell, found) = bounded(1);
            let (names, url) = (Arc::clone(&self.names), url.parse().unwrap());
            thread::spawn(move || tell.send(names.addresses(&url, LONG_MS)));
            found
        }
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn sockets(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn literals_are_taken_as_they_stand_and_nobody_is_asked() {
        let bed = bed(&["192.0.2.0/24", "2001:db8::/32"], |_, _| Vec::new());
        for (url, expected) in [
            ("http://192.0.2.1/", "192.0.2.1:80"),
            ("https://192.0.2.1/", "192.0.2.1:443"),
            ("https://192.0.2.1:8443/", "192.0.2.1:8443"),
            ("http://[2001:db8::1]:9000/a", "[2001:db8::1]:9000"),
        ] {
            assert_eq!(bed.addresses(url), Ok(sockets(&[expected])), "{url}");
        }
        assert!(bed.asked.try_recv().is_err());
    }

    #[test]
    fn one_refused_address_among_admitted_ones_refuses_them_all() {
        let answers = [
            (vec!["8.8.8.8", "127.0.0.1"], Ok(2)),
            (vec!["8.8.8.8", "10.0.0.1"], Err(LookupError::Refused(Rule::Private))),
            (vec!["10.0.0.1", "8.8.8.8"], Err(LookupError::Refused(Rule::Private))),
            (vec!["127.0.0.1", "fd00::1"], Err(LookupError::Refused(Rule::UniqueLocal))),
            (vec![], Err(LookupError::NotFound)),
        ];
        for (answer, expected) in answers {
            let given = ips(&answer);
            let bed = bed(&["127.0.0.1/32"], move |_, _| given.clone());
            let found = bed.addresses("http://mixed.example/").map(|found| found.len());
            assert_eq!(found, expected, "{answer:?}");
        }
    }

    #[test]
    fn an_answer_is_remembered_for_a_while_and_a_changed_one_is_judged_anew() {
        let bed = bed(&[], |host, before| match (host, before) {
            ("rebound.example", 0) | ("other.example", _) => ips(&["8.8.8.8"]),
            _ => ips(&["169.254.169.254"]),
        });
        let found = Ok(sockets(&["8.8.8.8:80"]));
        assert_eq!(bed.addresses("http://rebound.example/"), found);
        bed.clock.advance_ms(FOUND_KEEP_MS - 1);
        assert_eq!(bed.addresses("http://Rebound.Example/"), found);
        assert_eq!(bed.asked.len(), 1);
        bed.clock.advance_ms(1);
        let refused = Err(LookupError::Refused(Rule::LinkLocal));
        assert_eq!(bed.addresses("http://rebound.example/"), refused);
        assert_eq!(bed.addresses("http://other.example/"), found);
        assert_eq!(bed.asked.len(), 3);
    }

    #[test]
    fn a_name_that_was_not_found_is_asked_for_again_soon() {
        let bed = bed(&[], |_, before| if before == 0 { Vec::new() } else { ips(&["8.8.8.8"]) });
        for _ in 0..2 {
            assert_eq!(bed.addresses("http://new.example/"), Err(LookupError::NotFound));
        }
        assert_eq!(bed.asked.len(), 1);
        bed.clock.advance_ms(FAILED_KEEP_MS);
        assert!(bed.addresses("http://new.example/").is_ok());
    }

    #[test]
    fn a_name_that_hangs_holds_one_thread_and_delays_no_other() {
        let (release, held) = bounded::<()>(0);
        let bed = bed(&[], move |host, _| {
            if host == "hangs.example" {
                let _ = held.recv();
            }
            ips(&["8.8.8.8"])
        });
        let waiting: Vec<_> = (0..3).map(|_| bed.aside("http://hangs.example/")).collect();
        assert_eq!(bed.asked.recv_timeout(IDLE).unwrap(), "hangs.example");
        assert!(bed.addresses("http://other.example/").is_ok());
        let no_time = bed.names.addresses(&"http://hangs.example/".parse().unwrap(), 20);
        assert_eq!(no_time, Err(LookupError::TimedOut));
        assert_eq!(bed.asked.try_recv().unwrap(), "other.example");
        assert!(bed.asked.try_recv().is_err());
        drop(release);
        for found in waiting {
            assert!(found.recv_timeout(IDLE).unwrap().is_ok());
        }
    }

    #[test]
    fn an_interrupt_ends_those_who_wait_and_refuses_later_ones() {
        let (release, held) = bounded::<()>(0);
        let bed = bed(&[], move |_, _| {
            let _ = held.recv();
            Vec::new()
        });
        let waiting = bed.aside("http://hangs.example/");
        bed.asked.recv_timeout(IDLE).unwrap();
        bed.names.interrupt();
        let interrupted = Err(LookupError::Interrupted);
        assert_eq!(waiting.recv_timeout(IDLE).unwrap(), interrupted);
        assert_eq!(bed.addresses("http://other.example/"), interrupted);
        drop(release);
    }

    #[test]
    fn the_families_take_turns_and_the_systems_first_choice_is_first() {
        for (found, expected) in [
            (vec!["8.8.8.8"], vec!["8.8.8.8"]),
            (vec!["::a", "::b", "1.1.1.1"], vec!["::a", "1.1.1.1", "::b"]),
            (vec!["1.1.1.1", "1.1.1.2", "::a"], vec!["1.1.1.1", "::a", "1.1.1.2"]),
        ] {
            let turns: Vec<_> = in_turns(&ips(&found)).collect();
            assert_eq!(turns, ips(&expected));
        }
        assert_eq!(in_turns(&vec![IpAddr::from([8, 8, 8, 8]); 40]).count(), ADDRESSES_MAX);
    }

    #[test]
    fn an_error_names_the_rule_and_no_address() {
        let text = LookupError::Refused(Rule::LinkLocal).to_string();
        assert!(text.contains("link_local"));
        assert!(!text.contains("169"));
    }
}
