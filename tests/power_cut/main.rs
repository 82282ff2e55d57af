//! I1 across power cuts, checked below sled: what was acknowledged before the cut is there after it,
//! byte for byte, and every image opens. The test also proves that it would notice a missing sync.
//!
//! A child process publishes payloads of 100 B, 20 KB and 2 MB under `strace`, in two sessions and over
//! several generations with stragglers that are copied forward. From the recorded calls the content of
//! the device at any moment is rebuilt, with only what a sync had covered (see `device`), and the
//! library opens it. Then the same with `Durability::Process`, where at least one acknowledged event
//! must be missing or one image unreadable.
//!
//! By default a sample of the moments by a fixed seed (`WABAHOOK_POWER_SEED`) is tried. With
//! `WABAHOOK_POWER_CUTS=all` it is every moment, which takes minutes, and with a number so many. Needs
//! Linux and `strace`, and prints `skipped` with the reason where these are missing.
//!
//! With `WABAHOOK_POWER_TORN=1` each moment is tried again with a device that wrote any pages of what
//! was not synced, in any order. A few of these cuts may fail, which docs/durability.md states as a
//! limit.
#[cfg(target_os = "linux")]
mod device;
#[cfg(target_os = "linux")]
#[path = "../support/mod.rs"]
mod support;
#[cfg(target_os = "linux")]
mod trace;
#[cfg(target_os = "linux")]
mod workload;

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("skipped: power cuts are rebuilt from a record that only Linux's strace makes");
}

#[cfg(target_os = "linux")]
fn main() {
    linux::main();
}

#[cfg(target_os = "linux")]
mod linux {
    use std::path::{Path, PathBuf};
    use std::process::{Command, Stdio};

    use wabahook::Durability;

    use crate::device::{Chance, Device, Unsynced};
    use crate::support::is_wanted;
    use crate::trace::{Call, Moment, TRACED, Trace};
    use crate::workload::{self, Promised};

    /// Tells the child where to publish and how durably.
    const CHILD: &str = "WABAHOOK_POWER_CHILD";
    const CUTS: &str = "WABAHOOK_POWER_CUTS";
    const SEED: &str = "WABAHOOK_POWER_SEED";
    const TORN: &str = "WABAHOOK_POWER_TORN";

    /// How many moments are tried by default, and how many without syncs.
    const CUTS_SAMPLED: usize = 240;
    const CUTS_OF_CONTROL: usize = 12;

    pub fn main() {
        if let Some(path) = std::env::var_os(CHILD) {
            let durability = match std::env::args().nth(1).as_deref() {
                Some("process") => Durability::Process,
                _ => Durability::Power,
            };
            return workload::run(Path::new(&path), durability);
        }
        if !is_wanted("power_cut") {
            return;
        }
        if let Err(why) = strace_runs() {
            println!("power_cut skipped: {why}");
            return;
        }
        let seed = std::env::var(SEED).map_or(11, |seed| seed.parse().expect("a number"));
        let cuts = match std::env::var(CUTS).as_deref() {
            Ok("all") => usize::MAX,
            Ok(number) => number.parse().expect("a number, or `all`"),
            Err(_) => CUTS_SAMPLED,
        };
        let synced = tried(Durability::Power, cuts, seed);
        println!("power_cut: with sync_data, seed {seed}: {}", synced.told());
        let control = tried(Durability::Process, cuts.min(CUTS_OF_CONTROL), seed);
        println!("power_cut: without sync_data, the control: {}", control.told());
        assert!(synced.wrong.is_empty(), "with sync_data {} cuts went wrong", synced.wrong.len());
        assert!(synced.owed_most > 15, "too little was owed to find a loss: {}", synced.owed_most);
        assert!(!control.wrong.is_empty(), "the test does not see that syncs are left out");
    }

    fn strace_runs() -> Result<(), String> {
        let output = Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).output();
        let output = output.map_err(|error| format!("strace does not start: {error}"))?;
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if output.status.success() { Ok(()) } else { Err(format!("strace may not trace: {said}")) }
    }

    /// What the tried moments of one record showed.
    #[derive(Default)]
    struct Tried {
        moments: usize,
        cuts: usize,
        acknowledged: usize,
        owed_most: usize,
        unopened: usize,
        wrong: Vec<String>,
        torn: usize,
        torn_wrong: usize,
    }

    impl Tried {
        fn told(&self) -> String {
            let Tried { moments, cuts, acknowledged, owed_most, unopened, wrong, .. } = self;
            let (torn, torn_wrong) = (self.torn, self.torn_wrong);
            let lost = wrong.len() - unopened;
            format!(
                "{cuts} cuts at {moments} moments, {acknowledged} events acknowledged, up to \
                 {owed_most} owed at a cut: {lost} cuts lost something, {unopened} did not open; \
                 {torn_wrong} of {torn} torn ones went wrong"
            )
        }
    }

    fn tried(durability: Durability, cuts: usize, seed: u64) -> Tried {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap().join("root");
        std::fs::create_dir(&root).unwrap();
        let text = recorded(&root, directory.path(), durability);
        let root = root.to_str().unwrap();
        let trace = Trace::read(&text, root);
        drop(text);
        let chosen = chosen(&trace, cuts, seed);
        let mut tried = Tried { moments: trace.moments.len(), ..Tried::default() };
        let mut device = Device::new(&trace, root);
        let mut promised = Promised::default();
        for (place, moment) in trace.moments.iter().enumerate() {
            device.meet(*moment);
            if let Moment::Begins(call) = moment
                && let Call::Said(said) = &trace.calls[*call]
            {
                promised.hear(said);
            }
            if chosen.binary_search(&place).is_ok() {
                tried.cut(&device, Unsynced::Lost, &promised, place);
                if std::env::var_os(TORN).is_some() {
                    tried.cut(&device, Unsynced::Torn(seed + place as u64), &promised, place);
                }
            }
        }
        tried.acknowledged = promised.accepted();
        tried
    }

    impl Tried {
        fn cut(&mut self, device: &Device<'_>, unsynced: Unsynced, promised: &Promised, at: usize) {
            let image = tempfile::tempdir().unwrap();
            device.write_image(unsynced, image.path());
            // The library creates its directory if the power was cut before it was durable.
            let result = workload::check(&data_directory(image.path()), promised);
            let is_torn = unsynced != Unsynced::Lost;
            self.cuts += usize::from(!is_torn);
            self.torn += usize::from(is_torn);
            self.owed_most = self.owed_most.max(promised.owed());
            if let (Err(why), true) = (&result, is_torn) {
                self.torn_wrong += 1;
                println!("power_cut: cut at moment {at}, {unsynced:?}: {why}");
            } else if let Err(why) = result {
                self.unopened += usize::from(why.contains("does not open"));
                let whole = tempfile::tempdir().unwrap();
                device.write_image(Unsynced::Kept, whole.path());
                let killed = workload::check(&data_directory(whole.path()), promised);
                let why = format!("cut at moment {at}: {why}; a kill -9 there: {killed:?}");
                println!("power_cut: {why}");
                self.wrong.push(why);
            }
        }
    }

    /// Two levels below what is durable from the start, both created by the library.
    fn data_directory(root: &Path) -> PathBuf {
        root.join("host/outbox")
    }

    fn recorded(root: &Path, beside: &Path, durability: Durability) -> String {
        let record = beside.join("record");
        let child = Command::new("strace")
            .args(["-f", "-y", "-xx", "-s", "4000000", "-e", &format!("trace={TRACED}"), "-o"])
            .arg(&record)
            .arg(std::env::current_exe().unwrap())
            .arg(if durability == Durability::Process { "process" } else { "power" })
            .env(CHILD, data_directory(root))
            .stdout(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stderr);
        assert!(child.status.success(), "the child failed: {said}");
        std::fs::read_to_string(record).unwrap()
    }

    /// The moments of the cuts. Most can be lost just before a sync ends, so all of these come first.
    fn chosen(trace: &Trace, cuts: usize, seed: u64) -> Vec<usize> {
        let is_sync = |moment: &Moment| matches!(moment, Moment::Ends(call) if matches!(trace.calls[*call], Call::Sync { .. }));
        let of_interest = |moment: &Moment| match moment {
            Moment::Begins(call) => matches!(trace.calls[*call], Call::Said(_)),
            Moment::Ends(call) => !matches!(trace.calls[*call], Call::Said(_) | Call::Nothing),
        };
        let places = 0..trace.moments.len();
        let all: Vec<usize> = places.filter(|place| of_interest(&trace.moments[*place])).collect();
        if cuts >= all.len() {
            return all;
        }
        let before_sync = |place: &&usize| trace.moments.get(**place + 1).is_some_and(is_sync);
        let before: Vec<usize> = all.iter().filter(before_sync).copied().collect();
        let mut chance = Chance(seed | 1);
        let mut chosen: Vec<usize> = (0..cuts)
            .map(|n| {
                let from = if n % 2 == 0 && !before.is_empty() { &before } else { &all };
                from[chance.below(from.len())]
            })
            .collect();
        chosen.sort_unstable();
        chosen.dedup();
        chosen
    }
}
