//! Tests of the store contract: one suite, run on each implementation.

use super::contract_checks::{batch, check, keys};
use super::*;

#[test]
fn memory_keeps_the_contract() {
    check(&Memory::default());
}

#[test]
fn sled_keeps_the_contract() {
    let directory = tempfile::tempdir().unwrap();
    check(&Sled::new(directory.path()));
}

#[test]
fn sled_removes_an_unfinished_snapshot_at_open() {
    let directory = tempfile::tempdir().unwrap();
    let store = Sled::new(directory.path());
    store.open("one").unwrap().write(vec![batch(&[("key", "value")])]).unwrap();
    std::fs::write(directory.path().join("one/snap.0000000000000000.generating"), b"").unwrap();
    assert_eq!(store.open("one").unwrap().get(b"key").unwrap().unwrap(), b"value");
}

#[test]
fn sled_creates_databases_while_its_threads_hold_files() {
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                // A directory in memory: syncs return at once there, so a file that sled's threads have not released
                // yet is found.
                let memory = std::path::Path::new("/dev/shm");
                let directory = match memory.is_dir() {
                    true => tempfile::tempdir_in(memory).unwrap(),
                    false => tempfile::tempdir().unwrap(),
                };
                let store = Sled::new(directory.path());
                let bystander = store.open("bystander").unwrap();
                for n in 0..20 {
                    let made = store.open(&format!("made-{n}"));
                    made.unwrap().write(vec![batch(&[("key", "value")])]).unwrap();
                }
                assert_eq!(store.list().unwrap().len(), 21);
                assert_eq!(bystander.get(b"key").unwrap(), None);
            });
        }
    });
}

#[test]
fn sled_finishes_an_interrupted_removal() {
    let directory = tempfile::tempdir().unwrap();
    let store = Sled::new(directory.path());
    let bystander = store.open("two").unwrap();
    std::fs::create_dir(directory.path().join("removed-one")).unwrap();
    std::fs::write(directory.path().join("removed-one/conf"), b"half of it").unwrap();
    assert_eq!(store.list().unwrap(), ["two"]);
    assert!(!directory.path().join("removed-one").exists());
    drop(store.open("one").unwrap());
    store.remove("one").unwrap();
    assert_eq!(store.list().unwrap(), ["two"]);
    assert_eq!(bystander.get(b"key").unwrap(), None);
}

#[test]
fn sled_reports_damage_as_a_failure() {
    let directory = tempfile::tempdir().unwrap();
    let store = Sled::new(directory.path());
    let bystander = store.open("two").unwrap();
    bystander.write(vec![batch(&[("key", "untouched")])]).unwrap();
    let database = store.open("one").unwrap();
    (0..200).for_each(|n| {
        let mut one = Batch::default();
        one.put(format!("key{n}"), vec![7; 1000]);
        database.write(vec![one]).unwrap();
    });
    database.commit(Vec::new()).unwrap();
    drop(database);
    let file = directory.path().join("one/conf");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[10] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    assert!(matches!(store.open("one"), Err(StoreFailure::Damaged(_))));
    assert_eq!(bystander.get(b"key").unwrap().unwrap(), b"untouched");
}

/// Thirty records, of which some are only in the log and not in the snapshot.
fn closed_with_thirty_records(directory: &std::path::Path) -> (Sled, std::path::PathBuf) {
    let store = Sled::new(directory);
    for part in 0..2 {
        let database = store.open("one").unwrap();
        (0..15).for_each(|n| {
            database.write(vec![batch(&[(&format!("key{part}-{n}"), "value")])]).unwrap();
        });
        database.commit(Vec::new()).unwrap();
    }
    drop(store.open("one").unwrap());
    let mut snapshots: Vec<_> = std::fs::read_dir(directory.join("one"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("snap."))
        .collect();
    snapshots.sort();
    (store, snapshots.pop().unwrap())
}

/// A snapshot is derived from the log, so damage to it loses nothing.
#[test]
fn sled_reads_its_log_where_the_snapshot_is_damaged() {
    let directory = tempfile::tempdir().unwrap();
    let (store, snapshot) = closed_with_thirty_records(directory.path());
    let bystander = store.open("two").unwrap();
    bystander.write(vec![batch(&[("key", "untouched")])]).unwrap();
    let whole = std::fs::read(&snapshot).unwrap();
    let mut damages: Vec<Vec<u8>> = vec![Vec::new(), whole[..whole.len() / 2].to_vec()];
    damages.extend((0..whole.len()).step_by(5).map(|byte| {
        let mut flipped = whole.clone();
        flipped[byte] ^= 1 << (byte % 8);
        flipped
    }));
    for damaged in damages {
        std::fs::write(&snapshot, &damaged).unwrap();
        let database = store.open("one").unwrap();
        assert_eq!(keys(&*database, "key", "").len(), 30);
        drop(database);
        let again = store.open("one").unwrap();
        assert_eq!(keys(&*again, "key", "").len(), 30);
    }
    assert_eq!(bystander.get(b"key").unwrap().unwrap(), b"untouched");
}
