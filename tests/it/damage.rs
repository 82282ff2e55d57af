//! Damaged files of a generation or of the subscription store are refused with an error that names the
//! part and says what to do, or are set aside with a notice. Nothing is missing without a notice
//! (I3, I8).
//!
//! One directory of three generations is made, and each case damages a copy of it. One subscription is
//! owed everything, so damage can lose it. Another has received everything and must get nothing again.

use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use wabahook::clock::ManualClock;
use wabahook::{Config, Engine, Error, Event, Limits, Notice, OnDamage};

use crate::support::wait_until;
use crate::world::{BEGIN_WALL_MS, DEADLINE, quick};
use wabahook::testing::{ScriptedReply, ScriptedTransport};

const GENERATIONS: u64 = 3;
const GENERATION_BYTES: u64 = 120_000;
/// At how many offsets of a log a bit is flipped, and a page zeroed.
const PLACES: u64 = 6;
const CRM: &str = "crm.invalid";
const BYSTANDER: &str = "bystander.invalid";

/// One kind of damage, and how it is made.
type Damage = (&'static str, fn(&Path));

/// Damage to the directory of one database.
const DAMAGES: [Damage; 15] = [
    ("db cut to half", |database| cut(&database.join("db"), |used| used / 2)),
    ("db cut to nothing", |database| cut(&database.join("db"), |_| 0)),
    ("db cut by its last bytes", |database| cut(&database.join("db"), |used| used - 50)),
    ("db removed", |database| fs::remove_file(database.join("db")).unwrap()),
    ("a directory in the place of db", |database| in_place(&database.join("db"), true)),
    ("a page of zeros in db", |database| overwrite(database, |used| used / 2 / 4096 * 4096, 4096)),
    ("a page of zeros early in db", |database| overwrite(database, |_| 4096, 4096)),
    ("a page of zeros at the head of db", |database| overwrite(database, |_| 0, 4096)),
    ("a bit flipped in the head of db", |database| flip(&database.join("db"), |_| 9)),
    ("a bit flipped within db", |database| flip(&database.join("db"), |used| used / 3)),
    ("a bit flipped near the end of db", |database| flip(&database.join("db"), |used| used - 200)),
    ("an unfinished snapshot", |database| {
        fs::write(database.join("snap.00000000000000AA.generating"), "half").unwrap();
    }),
    ("the snapshot cut", |database| cut(&snapshot(database), |used| used / 2)),
    ("a bit flipped in the snapshot", |database| flip(&snapshot(database), |used| used / 2)),
    ("conf removed", |database| fs::remove_file(database.join("conf")).unwrap()),
];

/// Damage to the directory's own entry.
const DAMAGES_OF_PLACE: [Damage; 2] = [
    ("the directory removed", |database| fs::remove_dir_all(database).unwrap()),
    ("a file in the place of the directory", |database| in_place(database, false)),
];

fn used_bytes(file: &Path) -> u64 {
    let bytes = fs::read(file).unwrap();
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1)
}

fn cut(file: &Path, to: fn(u64) -> u64) {
    let bytes = to(used_bytes(file));
    OpenOptions::new().write(true).open(file).unwrap().set_len(bytes).unwrap();
}

fn overwrite(database: &Path, from: fn(u64) -> u64, bytes: usize) {
    let path = database.join("db");
    overwrite_at(&path, from(used_bytes(&path)), bytes);
}

fn overwrite_at(path: &Path, from: u64, bytes: usize) {
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(from)).unwrap();
    file.write_all(&vec![0; bytes]).unwrap();
}

fn flip(path: &Path, place: fn(u64) -> u64) {
    flip_at(path, place(used_bytes(path)));
}

fn flip_at(path: &Path, place: u64) {
    let mut file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(place)).unwrap();
    let mut byte = [0];
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(place)).unwrap();
    file.write_all(&[byte[0] ^ 4]).unwrap();
}

fn snapshot(database: &Path) -> PathBuf {
    let entries = fs::read_dir(database).unwrap().map(|entry| entry.unwrap().path());
    let named = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("snap.");
    entries.filter(named).max().expect("a snapshot")
}

fn in_place(path: &Path, directory: bool) {
    if directory {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    } else {
        fs::remove_dir_all(path).unwrap();
        fs::write(path, "not a directory").unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let new = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &new),
            false => assert!(fs::copy(&path, &new).is_ok(), "{}", path.display()),
        }
    }
}

fn config(path: &Path) -> (Config, Arc<ScriptedTransport>) {
    let receivers = Arc::new(ScriptedTransport::default());
    let limits = Limits::default().generation_bytes(GENERATION_BYTES);
    let clock = Arc::new(ManualClock::new(BEGIN_WALL_MS, 11));
    let config = Config::new(path).limits(limits).clock(clock).transport(receivers.clone());
    (config, receivers)
}

/// The directory that each case copies, and what it owes.
struct Sound {
    directory: tempfile::TempDir,
    /// The payloads owed to `CRM`, and the generation that was the newest when each was accepted.
    owed: Vec<(String, u64)>,
}

/// Made once and opened twice, so that there are snapshots of later states, too.
fn sound() -> &'static Sound {
    static SOUND: OnceLock<Sound> = OnceLock::new();
    SOUND.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let mut owed = Vec::new();
        for session in 1..=2 {
            let (config, receivers) = config(directory.path());
            receivers.script(CRM, &[ScriptedReply::Hangs]);
            let engine = Engine::open(config).unwrap();
            engine.subscribe(quick(CRM).events(["ADD_TAG"])).unwrap();
            engine.subscribe(quick(BYSTANDER).events(["ORDER"])).unwrap();
            let mut generation = engine.stats().generations;
            fill(&engine, &mut owed, generation);
            while session == 2 && generation < GENERATIONS {
                fill(&engine, &mut owed, generation);
                generation = engine.stats().generations;
            }
            if session == 2 {
                fill(&engine, &mut owed, generation);
            }
            let settled = engine.stats().delivered as usize;
            assert_eq!(receivers.wait_for(BYSTANDER, settled).len(), settled);
            // One attempt hangs until it is interrupted.
            engine.close(Duration::ZERO).unwrap();
        }
        Sound { directory, owed }
    })
}

/// Publishes some events for each subscription. The bystander's are well within the generation.
fn fill(engine: &Engine, owed: &mut Vec<(String, u64)>, generation: u64) {
    let publish = |kind: &str, payload: &str| {
        let event = Event::new(kind, payload).number("919999999999");
        engine.publish(event).unwrap().wait_timeout(DEADLINE).unwrap().unwrap();
    };
    for place in 0..6 {
        let payload = format!("{} {}", owed.len(), "x".repeat(3_000));
        publish("ADD_TAG", &payload);
        owed.push((payload, generation));
        if place == 2 && engine.stats().outbox_bytes % GENERATION_BYTES < GENERATION_BYTES / 2 {
            let before = engine.stats().delivered;
            publish("ORDER", "{}");
            assert!(wait_until(|| engine.stats().delivered > before), "the bystander is served");
        }
    }
}

/// What an engine on a damaged copy does.
struct Outcome {
    /// Payloads that arrived, of those owed.
    arrived: Vec<String>,
    /// Its notices.
    told: Vec<String>,
}

fn opened(path: &Path, on_damage: OnDamage) -> Result<Outcome, Error> {
    let (config, receivers) = config(path);
    let engine = Engine::open(config.on_damage(on_damage))?;
    let notices = engine.notices();
    let mut told = Vec::new();
    let is_settled = wait_until(|| engine.stats().owed == 0);
    assert!(is_settled, "{:?}", engine.stats());
    while let Some(notice) = notices.try_next() {
        told.push(format!("{notice:?}"));
        if let Notice::SetAside { name, why } = notice {
            assert!(why.contains("go on") || why.contains("no "), "{name}: {why}");
        }
    }
    let names: Vec<_> = engine.subscriptions().iter().map(|one| one.name.clone()).collect();
    assert_eq!(names, [CRM, BYSTANDER], "the subscriptions survive");
    assert!(receivers.at(BYSTANDER).is_empty(), "what had ended came back");
    let accepted = engine.publish(Event::new("ADD_TAG", "after").number("919999999999"))?;
    assert_eq!(accepted.wait_timeout(DEADLINE).unwrap()?.owed, 1);
    let arrived = receivers.at(CRM).into_iter().map(|one| String::from_utf8(one.body).unwrap());
    let arrived = arrived.filter(|payload| payload != "after").collect();
    engine.close(DEADLINE).unwrap();
    Ok(Outcome { arrived, told })
}

/// Damages the database `name` in each way, and checks what the engine reports.
fn check(name: &str, part: &str, damages: &[Damage]) -> usize {
    let is_found = |(what, damage): &&Damage| check_one(name, part, what, damage);
    damages.iter().filter(is_found).count()
}

/// Checks what the engine reports about one damage. Returns whether it refused to open.
fn check_one(name: &str, part: &str, what: &str, damage: impl Fn(&Path)) -> bool {
    let (sound, case) = (sound(), format!("{what} of {name}"));
    let copied = tempfile::tempdir().unwrap();
    let path = copied.path().join("data");
    copy(sound.directory.path(), &path);
    damage(&path.join(name));
    let refused = opened(&path, OnDamage::Refuse);
    if let Err(error) = &refused {
        let text = error.to_string();
        for said in [part, name, "OnDamage::SetAside", "on_damage = \"set_aside\"", "not touched"] {
            assert!(text.contains(said), "{case}: {text:?} does not say {said:?}");
        }
        assert!(opened(&path, OnDamage::Refuse).is_err(), "{case}: refused once only");
    }
    let is_refused = refused.is_err();
    let outcome = refused.unwrap_or_else(|_| opened(&path, OnDamage::SetAside).unwrap());
    judge(&case, name, sound, &outcome);
    println!("{case}: {} of {} arrive", outcome.arrived.len(), sound.owed.len());
    is_refused
}

/// Everything that is missing was reported, and was in the part that was set aside.
fn judge(case: &str, name: &str, sound: &Sound, outcome: &Outcome) {
    let mut unique = outcome.arrived.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), outcome.arrived.len(), "{case}: a delivery twice");
    let is_missing = |one: &&(String, u64)| !outcome.arrived.contains(&one.0);
    let missing: Vec<_> = sound.owed.iter().filter(is_missing).collect();
    let number =
        name.strip_prefix("outbox-").map(|digits| u64::from_str_radix(digits, 16).unwrap());
    let told = outcome.told.iter().any(|told| told.contains("SetAside") && told.contains(name));
    if !missing.is_empty() {
        assert!(told, "{case}: {} are missing and nobody was told", missing.len());
    }
    for (payload, generation) in missing {
        // The newest generation begins shortly after the group that filled the previous one.
        let near = number.is_some_and(|number| [number, number - 1].contains(generation));
        assert!(near, "{case}: {} of generation {generation} is missing", &payload[..9]);
    }
}

#[test]
fn damage_of_a_sealed_generation_is_reported_and_contained() {
    let found = check("outbox-0000000000000002", "generation 2", &DAMAGES);
    assert!(found >= 8, "{found} found");
    for name in ["outbox-0000000000000001", "outbox-0000000000000002"] {
        assert_eq!(check(name, "generation ", &DAMAGES_OF_PLACE), 2);
    }
}

#[test]
fn damage_of_the_newest_generation_is_reported_and_contained() {
    let found = check("outbox-0000000000000003", "generation 3", &DAMAGES);
    assert!(found >= 8, "{found} found");
    assert_eq!(check("outbox-0000000000000003", "generation 3", &DAMAGES_OF_PLACE), 2);
}

#[test]
fn damage_of_the_subscription_store_costs_nothing() {
    let found = check("book", "book of subscriptions", &DAMAGES);
    assert!(found >= 5, "{found} found");
    assert_eq!(check("book", "book of subscriptions", &DAMAGES_OF_PLACE), 2);
}

#[test]
fn damage_of_dedup_keys_costs_no_event() {
    assert_eq!(check("dedup", "database of dedup keys", &DAMAGES_OF_PLACE), 2);
}

/// A bit or a page, at offsets spread over the log.
fn check_anywhere(name: &str, places: u64) {
    let mut found = 0;
    for place in 0..places {
        let at = |used: u64| (used - 1) * place / places + place % 7;
        found += usize::from(check_one(name, "generation ", &format!("bit {place}"), |database| {
            flip_at(&database.join("db"), at(used_bytes(&database.join("db"))));
        }));
        found +=
            usize::from(check_one(name, "generation ", &format!("page {place}"), |database| {
                let used = used_bytes(&database.join("db"));
                overwrite_at(&database.join("db"), at(used) / 4096 * 4096, 4096);
            }));
    }
    println!("{name}: {found} of {} found", 2 * places);
    assert!(found as u64 > places, "{found} found");
}

#[test]
fn damage_anywhere_in_a_log_is_reported_or_costs_nothing() {
    for name in ["outbox-0000000000000002", "outbox-0000000000000003"] {
        check_anywhere(name, PLACES);
    }
}
