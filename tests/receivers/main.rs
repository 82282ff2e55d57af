//! Real programs as receivers: public libraries and a public server verify the signature of every sample that an
//! engine delivers to them. `tests/install-receivers` installs them; one that is not installed is skipped with a
//! reason. With `WABAHOOK_RECEIVERS`, the folder they were installed to, every one that it lists must work.
mod program;
#[path = "../support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};

use wabahook::inbound::cloud_api;
use wabahook::policy::{Policy, RetryOn};
use wabahook::{Config, Engine, Event, Subscription, SubscriptionId};

use program::{Installation, Program};
use support::{DEADLINE, wait_until};

/// Every program by its name in the list of the installed ones.
const NAMES: [&str; 7] = [
    "pywa",
    "kapso",
    "adnanh-webhook",
    "standardwebhooks-python",
    "standardwebhooks-node",
    "svix-python",
    "svix-node",
];

const FOREIGN: &str = "SIGNED_WITH_ANOTHER_SECRET";
const NUMBER: &str = "919999999999";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every sample of a body, in order of its path.
fn samples() -> Vec<(PathBuf, Vec<u8>)> {
    let folder = root().join("docs/samples");
    let folders = [folder.join("callbacks"), folder];
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap());
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

fn engine(directory: &Path) -> Engine {
    let config = Config::new(directory).allow_addresses(["127.0.0.0/8".parse().unwrap()]);
    Engine::open(config.allow_http(true)).unwrap()
}

/// The samples to the program, and one event that another secret signs.
fn subscribe(engine: &Engine, program: &Program) -> [SubscriptionId; 2] {
    let policy = Policy::default().attempts_max(Some(1)).retry_on(RetryOn::Transient);
    let to = |name: &str, secret: &str| {
        let to = Subscription::to(&program.url).unwrap().policy(policy.clone());
        to.name(format!("{} {name}", program.name)).secret(secret)
    };
    let foreign = to("foreign", program::FOREIGN_SECRET).events([FOREIGN]);
    let types = engine.catalogue().types();
    let known = to("own", program::SECRET).events(types.iter().map(|(kind, _)| kind.as_str()));
    [known, foreign].map(|one| engine.subscribe(one).unwrap())
}

/// Publishes every sample: callbacks as Meta sends them, other bodies as events. Returns how many events that are.
fn publish_samples(engine: &Engine) -> usize {
    let mut events = 0;
    for (path, body) in samples() {
        let name = path.file_name().unwrap().to_str().unwrap();
        if cloud_api::events(&body, engine.accounts()).is_ok() {
            let receipt = cloud_api::publish(engine, &body).unwrap().unwrap();
            events += receipt.wait_timeout(DEADLINE).unwrap().unwrap().len();
        } else {
            let event = Event::new("TEST", body).number(NUMBER).dedup_key(name);
            engine.publish(event).unwrap().wait_timeout(DEADLINE).unwrap().unwrap();
            events += 1;
        }
    }
    events
}

#[test]
fn every_program_verifies_every_sample() {
    let installation = Installation::find(root());
    let programs: Vec<Program> = NAMES.iter().filter_map(|name| installation.start(name)).collect();
    let directory = tempfile::tempdir().unwrap();
    let engine = engine(directory.path());
    let subscriptions: Vec<_> = programs.iter().map(|one| subscribe(&engine, one)).collect();
    let events = publish_samples(&engine);
    assert!(events > 90, "{events} events");
    let foreign = Event::new(FOREIGN, r#"{"entry":[]}"#).number(NUMBER);
    engine.publish(foreign).unwrap().wait_timeout(DEADLINE).unwrap().unwrap();
    let ended = wait_until(|| engine.stats().owed == 0);
    let stats = engine.stats();
    for (program, [own, foreign]) in programs.iter().zip(subscriptions) {
        let [own, foreign] = [own, foreign].map(|id| stats.lane(id).unwrap());
        println!(
            "{}: {} of {events} deliveries verified, {} refused; {} of 1 with another secret refused",
            program.name, own.delivered, own.dead, foreign.dead
        );
        let verdict = (own.delivered, own.dead, foreign.delivered, foreign.dead);
        assert_eq!(verdict, (events as u64, 0, 0, 1), "{}: {}", program.name, program.said());
    }
    assert!(ended, "{} deliveries are still owed", stats.owed);
    engine.close(DEADLINE).unwrap();
}
