//! Names that hang, with a DNS server of the test's own: they delay no delivery to other names, and nothing is
//! counted as a timeout of their receivers.
//!
//! The program starts itself again under `unshare -Urnm`, where it has a network without anybody else, may listen
//! at port 53 and may replace `/etc/resolv.conf`. Where that is not permitted it prints `skipped` with the reason.
#[cfg(target_os = "linux")]
#[path = "../support/mod.rs"]
mod support;

#[cfg(target_os = "linux")]
mod server;

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("dns skipped: it needs the namespaces of Linux");
}

#[cfg(target_os = "linux")]
fn main() {
    linux::main();
}

#[cfg(target_os = "linux")]
mod linux {
    use std::net::TcpListener;
    use std::path::Path;
    use std::process::Command;
    use std::time::{Duration, Instant};

    use wabahook::{Config, Engine, Event, Failure, Reason, Subscription, SubscriptionId};

    use crate::server;
    use crate::support::http_receiver::{OK, Receiver, say};
    use crate::support::{DEADLINE, is_wanted, wait_until};

    /// Set inside the namespaces, to a directory for files.
    const INSIDE: &str = "WABAHOOK_DNS_INSIDE";
    const HEALTHY: usize = 20;
    const HANGING: usize = 200;
    /// The resolver tries once, and long enough that a name counts as hanging.
    const RESOLV_CONF: &str = "nameserver 127.0.0.1\noptions timeout:2 attempts:1\n";
    const SET_UP: &str = "ip link set lo up && mount --bind \"$0/resolv.conf\" /etc/resolv.conf && \
         mount --bind \"$0/nsswitch.conf\" /etc/nsswitch.conf";

    pub fn main() {
        if let Some(files) = std::env::var_os(INSIDE) {
            return inside(Path::new(&files));
        }
        if !is_wanted("dns") {
            return;
        }
        let files = tempfile::tempdir().unwrap();
        std::fs::write(files.path().join("resolv.conf"), RESOLV_CONF).unwrap();
        std::fs::write(files.path().join("nsswitch.conf"), "hosts: files dns\n").unwrap();
        let tried = unshared("sh").args(["-c", SET_UP]).arg(files.path()).output();
        match tried {
            Err(error) => return println!("dns skipped: unshare does not start: {error}"),
            Ok(output) if !output.status.success() => {
                let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                return println!("dns skipped: no namespaces: {why}");
            }
            Ok(_) => {}
        }
        let run = format!("{SET_UP} && exec \"$1\"");
        let program = std::env::current_exe().unwrap();
        let mut inside = unshared("sh");
        inside.args(["-c", &run]).arg(files.path()).arg(program).env(INSIDE, files.path());
        let ended = inside.status().unwrap();
        assert!(ended.success(), "in the namespaces: {ended}");
    }

    fn unshared(program: &str) -> Command {
        let mut command = Command::new("unshare");
        command.arg("-Urnm").arg(program);
        command
    }

    fn inside(files: &Path) {
        server::start();
        let network = Names::new(files);
        let alone = network.deliver_to_new_names(0);
        network.publish("TO_HANGING");
        let asked = wait_until(|| server::hanging_asked() >= HANGING);
        assert!(asked, "only {} names were asked for", server::hanging_asked());
        let beside = network.deliver_to_new_names(1);
        println!("dns: 20 names alone {alone:?}, beside 200 that hang {beside:?}");
        // Until each has hung, and once more.
        let failed = || network.hanging.iter().all(|id| !network.failures(*id).is_empty());
        assert!(wait_until(failed), "a look-up does not end");
        let after = network.deliver_to_new_names(2);
        println!("dns: beside 200 that hung before {after:?}");
        // Without turns it would be tens of seconds. That it is 10 ms shows the output of a quiet machine.
        let most = alone + Duration::from_secs(1);
        assert!(beside < most && after < most, "{alone:?} alone, {beside:?}, {after:?}");
        for id in &network.hanging {
            let reasons = network.failures(*id);
            let is_dns = |reason: &Reason| matches!(reason, Reason::Failed(Failure::Dns));
            assert!(reasons.iter().all(is_dns), "{reasons:?}");
        }
        network.engine.close(Duration::ZERO).unwrap();
        println!("dns: names that hang delay no others ... ok");
    }

    /// An engine with receivers behind names, and with names that hang.
    struct Names {
        engine: Engine,
        receiver: Receiver,
        hanging: Vec<SubscriptionId>,
    }

    impl Names {
        fn new(files: &Path) -> Names {
            let listener = TcpListener::bind("0.0.0.0:0").unwrap();
            let receiver = Receiver::over(listener, |one| Some(Box::new(one)), |_| say(OK));
            let config = Config::new(files.join("data")).allow_http(true);
            let ranges = ["127.0.0.0/8".parse().unwrap()];
            let engine = Engine::open(config.allow_addresses(ranges)).unwrap();
            let mut names = Names { engine, receiver, hanging: Vec::new() };
            let hanging = |n| names.at(&format!("hanging-{n}"), "TO_HANGING");
            let ids = (0..HANGING).map(|n| names.engine.subscribe(hanging(n)).unwrap());
            names.hanging = ids.collect();
            names
        }

        fn at(&self, name: &str, kind: &str) -> Subscription {
            let url = format!("http://{name}.test:{}/hook", self.receiver.address.port());
            Subscription::to(url).unwrap().name(name).events([kind])
        }

        fn publish(&self, kind: &str) {
            let event = Event::new(kind, "{}").number("919999999999");
            self.engine.publish(event).unwrap().wait().unwrap();
        }

        /// How long an event takes to all of twenty names that were never looked up.
        fn deliver_to_new_names(&self, round: usize) -> Duration {
            let kind = format!("TO_HEALTHY_{round}");
            let healthy = (0..HEALTHY).map(|n| self.at(&format!("healthy-{round}-{n}"), &kind));
            let ids = self.engine.subscribe_many(healthy.collect::<Vec<_>>()).unwrap();
            let begun = Instant::now();
            self.publish(&kind);
            (0..HEALTHY).for_each(|_| drop(self.receiver.next()));
            let took = begun.elapsed();
            let delivered = || {
                let stats = self.engine.stats();
                ids.iter().all(|id| stats.lane(*id).is_some_and(|lane| lane.delivered == 1))
            };
            assert!(wait_until(delivered));
            let stats = self.engine.stats();
            for id in ids {
                let lane = stats.lane(id).unwrap();
                assert_eq!((lane.retried, lane.failures_in_row), (0, 0), "{lane:?}");
            }
            assert!(took < DEADLINE);
            took
        }

        /// Why the attempts of a subscription failed.
        fn failures(&self, id: SubscriptionId) -> Vec<Reason> {
            let recent = self.engine.recent_attempts(id, 10);
            recent.into_iter().filter_map(|attempt| attempt.reason).collect()
        }
    }
}
