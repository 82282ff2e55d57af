//! I1, I2 and I3 on a full disk: a memory file system of a few MB, mounted in a user namespace of the
//! test and filled to the last page by a ballast file.
//!
//! The program starts itself again under `unshare -rm`. Where that or the mount is not permitted it
//! prints `skipped` with the reason.
#[cfg(target_os = "linux")]
#[expect(dead_code, reason = "a part of the world of the integration tests is enough here")]
#[path = "it/world.rs"]
mod world;

#[cfg(target_os = "linux")]
#[path = "support/mod.rs"]
mod support;

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("full_disk skipped: it needs the user namespaces of Linux");
}

#[cfg(target_os = "linux")]
fn main() {
    linux::main();
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs::{self, File, OpenOptions};
    use std::io::{ErrorKind, Write};
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use wabahook::clock::ManualClock;
    use wabahook::policy::{Breaker, Policy, Retry};
    use wabahook::{
        Accepted, Config, Engine, Error, Event, Limits, Notice, Notices, OnDamage, Subscription,
    };

    use crate::support::{is_wanted, wait_until};
    use wabahook::testing::{ScriptedReply, ScriptedTransport};

    use crate::world::{BEGIN_WALL_MS, DEADLINE, quick};

    /// Set inside the namespace, to the directory where it may mount.
    const INSIDE: &str = "WABAHOOK_FULL_DISK_INSIDE";
    const DISK_BYTES: u64 = 12 * 1024 * 1024;
    const PAGE_BYTES: u64 = 4096;

    pub fn main() {
        if let Some(below) = std::env::var_os(INSIDE) {
            return inside(Path::new(&below));
        }
        if !is_wanted("full_disk") {
            return;
        }
        let below = tempfile::tempdir().unwrap();
        if let Err(why) = may_mount(below.path()) {
            println!("full_disk skipped: {why}");
            return;
        }
        let program = std::env::current_exe().unwrap();
        let ended = unshared(&program).env(INSIDE, below.path()).status().unwrap();
        assert!(ended.success(), "in the namespace: {ended}");
    }

    fn unshared(program: &Path) -> Command {
        let mut command = Command::new("unshare");
        command.arg("-rm").arg(program);
        command
    }

    fn may_mount(below: &Path) -> Result<(), String> {
        let mut tried = unshared(Path::new("mount"));
        let output = tried.args(["-t", "tmpfs", "tmpfs"]).arg(below).output();
        let output = output.map_err(|error| format!("unshare does not start: {error}"))?;
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if output.status.success() {
            Ok(())
        } else {
            Err(format!("no namespace to mount in: {said}"))
        }
    }

    type Scenario = (&'static str, fn(&Disk));

    fn inside(below: &Path) {
        let scenarios: [Scenario; 4] = [
            ("a disk that fills up under an engine", fills_up_under_an_engine),
            ("a disk that fills up between generations", fills_up_between_generations),
            ("an open on a full disk", is_full_at_open),
            ("a first open on a full disk", is_full_at_the_first_open),
        ];
        for (place, (name, scenario)) in scenarios.into_iter().enumerate() {
            let disk = Disk::mount(below.join(place.to_string()));
            scenario(&disk);
            println!("full_disk: {name} ... ok");
        }
    }

    /// A small disk, and the file that fills it.
    struct Disk(PathBuf);

    impl Disk {
        fn mount(at: PathBuf) -> Disk {
            fs::create_dir(&at).unwrap();
            let size = format!("size={DISK_BYTES}");
            let mounted =
                Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&at).status();
            assert!(mounted.unwrap().success(), "mounting {}", at.display());
            Disk(at)
        }

        fn data(&self) -> PathBuf {
            self.0.join("data")
        }

        fn ballast(&self) -> PathBuf {
            self.0.join("ballast")
        }

        /// Fills all space except so many bytes.
        fn fill(&self, left_bytes: u64) {
            let mut ballast = File::create(self.ballast()).unwrap();
            let mut filled = 0;
            loop {
                match ballast.write(&[0; PAGE_BYTES as usize]) {
                    Ok(written) => filled += written as u64,
                    Err(error) => break assert_eq!(error.kind(), ErrorKind::StorageFull),
                }
            }
            assert!(filled > left_bytes, "the disk was too full: {filled} bytes");
            let ballast = OpenOptions::new().write(true).open(self.ballast()).unwrap();
            ballast.set_len(filled - left_bytes).unwrap();
        }

        fn empty(&self) {
            fs::remove_file(self.ballast()).unwrap();
        }

        /// Names with this text in the data directory and one level below.
        fn found(&self, part: &str) -> Vec<PathBuf> {
            let list = |path: &Path| -> Vec<PathBuf> {
                let entries = fs::read_dir(path).into_iter().flatten();
                entries.map(|entry| entry.unwrap().path()).collect()
            };
            let top = list(&self.data());
            let below: Vec<_> = top.iter().flat_map(|path| list(path)).collect();
            let named = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().contains(part);
            top.into_iter().chain(below).filter(named).collect()
        }
    }

    struct Host {
        engine: Engine,
        receivers: Arc<ScriptedTransport>,
        clock: Arc<ManualClock>,
    }

    fn config(path: &Path) -> (Config, Arc<ScriptedTransport>, Arc<ManualClock>) {
        let receivers = Arc::new(ScriptedTransport::default());
        let clock = Arc::new(ManualClock::new(BEGIN_WALL_MS, 11));
        let config = Config::new(path).clock(clock.clone()).transport(receivers.clone());
        (config, receivers, clock)
    }

    fn open(path: &Path) -> Host {
        let (config, receivers, clock) = config(path);
        Host { engine: Engine::open(config).unwrap(), receivers, clock }
    }

    fn event(kind: &str, place: usize) -> Event {
        let payload = format!("{place:08}{}", "x".repeat(6_000));
        Event::new(kind, payload).number("919999999999").dedup_key(format!("{kind} {place}"))
    }

    impl Host {
        fn publish(&self, kind: &str, place: usize) -> Result<Accepted, Error> {
            let receipt = self.engine.publish(event(kind, place))?;
            receipt.wait_timeout(DEADLINE).expect("an answer in time")
        }

        fn wait_until(&self, what: &str, is_so: impl Fn(&wabahook::Stats) -> bool) {
            let in_time = wait_until(|| is_so(&self.engine.stats()));
            assert!(in_time, "{what}: {:?}", self.engine.stats());
        }
    }

    fn wait_for(notices: &Notices, what: &str, is_it: impl Fn(&Notice) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let notice = notices.next_timeout(left).unwrap_or_else(|| panic!("{what} in time"));
            if is_it(&notice) {
                return;
            }
        }
    }

    fn to(host: &str, kind: &str) -> Subscription {
        quick(host).events([kind])
    }

    /// Long enough to need space.
    fn large(host: &str) -> Subscription {
        let numbers = (0..2_000_u64).map(|n| (919_000_000_000 + n).to_string());
        quick(host).events(["LATE"]).numbers(numbers)
    }

    fn assert_says_what_to_do(error: &Error) {
        let text = error.to_string();
        for part in ["No space left", "free some space", "is safe"] {
            assert!(text.contains(part), "{text:?} does not say {part:?}");
        }
    }

    fn fills_up_under_an_engine(disk: &Disk) {
        let host = open(&disk.data());
        let crm = host.engine.subscribe(to("crm.invalid", "ADD_TAG")).unwrap();
        let bystander = host.engine.subscribe(to("bystander.invalid", "ORDER")).unwrap();
        host.receivers
            .script("bystander.invalid", &[ScriptedReply::Status(503), ScriptedReply::Status(200)]);
        let notices = host.engine.notices();
        let aside = host.publish("ORDER", 0).unwrap();
        host.wait_until("the bystander's first attempt", |stats| stats.retried == 1);
        let mut accepted = Vec::new();
        (0..20).for_each(|place| accepted.push(host.publish("ADD_TAG", place).unwrap().id));

        disk.fill(0);
        let refused = 'refused: {
            for place in 20..2_000 {
                match host.publish("ADD_TAG", place) {
                    Ok(one) => accepted.push(one.id),
                    Err(error) => break 'refused (place, error),
                }
            }
            panic!("a full disk took 2,000 events");
        };
        let (place, error) = refused;
        assert!(matches!(error, Error::Unknown { .. }), "{error}");
        assert!(error.to_string().contains("No space left"), "{error}");
        wait_for(&notices, "a stall", |notice| matches!(notice, Notice::Stalled { .. }));
        let busy = host.engine.publish(event("ADD_TAG", place)).unwrap_err();
        assert!(busy.to_string().contains("the device refuses"), "{busy}");
        assert_eq!(busy.into_events().len(), 1, "the event comes back");
        let late = host.engine.subscribe(large("late.invalid")).unwrap_err();
        assert_says_what_to_do(&late);
        assert_eq!(host.engine.subscriptions().len(), 2);
        // Events accepted before are delivered while the disk is full.
        host.clock.advance(Duration::from_millis(2_000));
        let attempts = host.receivers.wait_for("bystander.invalid", 2);
        assert!(attempts.iter().all(|attempt| attempt.id == aside.id.to_string()), "{attempts:?}");
        host.receivers.wait_for("crm.invalid", accepted.len());

        disk.empty();
        wait_for(&notices, "going on", |notice| matches!(notice, Notice::Resumed));
        let again = host.publish("ADD_TAG", place).unwrap();
        assert!(again.duplicate || again.id.sequence() > accepted.last().unwrap().sequence());
        accepted.push(again.id);
        let next = host.publish("ADD_TAG", place + 1).unwrap();
        assert!(next.id.sequence() > again.id.sequence(), "ids rise");
        accepted.push(next.id);
        let late = host.engine.subscribe(large("late.invalid")).unwrap();
        assert!(late > bystander && bystander > crm);
        let arrived = host.receivers.wait_for("crm.invalid", accepted.len());
        let mut arrived: Vec<_> = arrived.into_iter().map(|arrival| arrival.id).collect();
        let mut wanted: Vec<_> = accepted.iter().map(ToString::to_string).collect();
        arrived.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(arrived, wanted, "each accepted event once");
        host.wait_until("every end", |stats| stats.owed == 0);
        host.engine.close(DEADLINE).unwrap();

        let host = open(&disk.data());
        assert_eq!(host.engine.stats().recovered, 0, "what ended while it was full ended");
        let ids: Vec<_> = host.engine.subscriptions().iter().map(|one| one.id).collect();
        assert_eq!(ids, [crm, bystander, late]);
        let after = host.publish("ADD_TAG", place + 2).unwrap();
        assert!(after.id.sequence() > next.id.sequence(), "ids rise");
        host.receivers.wait_for("crm.invalid", 1);
        assert!(host.receivers.at("bystander.invalid").is_empty());
        host.engine.close(DEADLINE).unwrap();
    }

    /// Generations of a few events, so that the disk is full when one is begun or copied.
    fn fills_up_between_generations(disk: &Disk) {
        for left in [0, 1, 8, 40, 80, 120, 140, 200, 300] {
            let (config, receivers, _) = config(&disk.data());
            receivers.script("crm.invalid", &[ScriptedReply::Hangs]);
            let limits = Limits::default().generation_bytes(60_000);
            let engine = Engine::open(config.limits(limits)).unwrap();
            engine.subscribe(to("crm.invalid", "ADD_TAG")).unwrap();
            engine.subscribe(to("bystander.invalid", "ORDER")).unwrap();
            let notices = engine.notices();
            let publish = |kind: &str, place: usize| {
                engine.publish(event(kind, place))?.wait_timeout(DEADLINE).expect("in time")
            };
            let mut owed = 5;
            (0..5).for_each(|place| assert!(publish("ADD_TAG", place).is_ok()));
            disk.fill(left * PAGE_BYTES);
            let refused = (5..2_000).find_map(|place| match publish("ADD_TAG", place) {
                Ok(_) => {
                    owed += 1;
                    None
                }
                Err(error) => Some((place, error)),
            });
            let (place, error) = refused.expect("the disk is full");
            assert!(matches!(error, Error::Unknown { .. } | Error::Busy { .. }), "{error}");
            disk.empty();
            wait_for(&notices, "going on", |notice| matches!(notice, Notice::Resumed));
            // The unknown event is there once, from its first group or from this one.
            publish("ADD_TAG", place).unwrap();
            assert!(!publish("ADD_TAG", place + 1).unwrap().duplicate);
            owed += 2;
            assert_eq!(engine.stats().owed, owed, "with {left} pages left");
            publish("ORDER", 0).unwrap();
            receivers.wait_for("bystander.invalid", 1);
            engine.close(Duration::ZERO).unwrap();
            let host = open(&disk.data());
            host.wait_until("every end", |stats| stats.owed == 0);
            assert_eq!(host.engine.stats().recovered, owed, "with {left} pages left");
            assert_eq!(host.receivers.at("crm.invalid").len() as u64, owed);
            assert!(host.receivers.at("bystander.invalid").is_empty());
            host.engine.close(DEADLINE).unwrap();
            fs::remove_dir_all(disk.data()).unwrap();
        }
    }

    /// How many bytes are left at each try, so that every step of an open meets the full disk.
    const LEFT: [u64; 9] = [0, 1, 4, 32, 96, 128, 160, 256, 512];

    fn is_full_at_open(disk: &Disk) {
        const OWED: u64 = 40;
        let host = open(&disk.data());
        let breaker = Breaker::default().failures(None);
        let retry =
            Retry::Linear { step: Duration::from_millis(1_000), max: Duration::from_millis(3_000) };
        let unbroken = Policy::default().breaker(breaker).retry(retry);
        let to_crm = to("crm.invalid", "ADD_TAG").policy(unbroken);
        let crm = host.engine.subscribe(to_crm).unwrap();
        host.engine.subscribe(to("bystander.invalid", "ORDER")).unwrap();
        host.receivers.script("crm.invalid", &[ScriptedReply::Status(503)]);
        for place in 0..OWED {
            host.publish("ADD_TAG", place as usize).unwrap();
        }
        host.receivers.wait_for("crm.invalid", OWED as usize);
        host.engine.close(DEADLINE).unwrap();
        let (mut refused, mut left_over) = (0, 0);
        for (left, on_damage) in LEFT.iter().flat_map(|left| {
            [(left * PAGE_BYTES, OnDamage::Refuse), (left * PAGE_BYTES, OnDamage::SetAside)]
        }) {
            disk.fill(left);
            let (config, receivers, _) = config(&disk.data());
            receivers.script("crm.invalid", &[ScriptedReply::Status(503)]);
            match Engine::open(config.on_damage(on_damage)) {
                Ok(engine) => engine.close(DEADLINE).unwrap(),
                Err(error) => {
                    assert_says_what_to_do(&error);
                    refused += 1;
                    left_over += disk.found(".generating").len();
                }
            }
            assert!(disk.found("damaged-").is_empty(), "{left} bytes were left");
            disk.empty();
            let host = open(&disk.data());
            assert_eq!(host.engine.stats().owed, OWED, "after {left} bytes were left");
            assert_eq!(host.engine.subscriptions().len(), 2);
            host.engine.close(DEADLINE).unwrap();
        }
        println!("full_disk: {refused} opens refused, {left_over} unfinished snapshots left");
        assert!(refused > 0, "no open met a full disk");
        let host = open(&disk.data());
        host.clock.advance(Duration::from_millis(10_000));
        let arrived = host.receivers.wait_for("crm.invalid", OWED as usize);
        assert!(arrived.iter().all(|arrival| arrival.event_type() == "ADD_TAG"));
        assert!(host.receivers.at("bystander.invalid").is_empty());
        host.engine.unsubscribe(crm).unwrap();
        host.engine.close(DEADLINE).unwrap();
    }

    fn is_full_at_the_first_open(disk: &Disk) {
        let mut refused = 0;
        for left in LEFT.map(|pages| pages * PAGE_BYTES) {
            disk.fill(left);
            match Engine::open(config(&disk.data()).0) {
                Ok(engine) => engine.close(DEADLINE).unwrap(),
                Err(error) => {
                    assert_says_what_to_do(&error);
                    refused += 1;
                }
            }
            disk.empty();
            let host = open(&disk.data());
            host.engine.subscribe(to("crm.invalid", "ADD_TAG")).unwrap();
            host.publish("ADD_TAG", 0).unwrap();
            host.receivers.wait_for("crm.invalid", 1);
            assert!(host.receivers.at("bystander.invalid").is_empty());
            host.engine.close(DEADLINE).unwrap();
            fs::remove_dir_all(disk.data()).unwrap();
        }
        assert!(refused > 0, "no open met a full disk");
    }
}
