//! Tests of the store contract: one suite, run on each implementation.

use std::ops::ControlFlow;

use super::*;

fn batch(pairs: &[(&str, &str)]) -> Batch {
    let mut batch = Batch::default();
    for (key, value) in pairs {
        batch.put(*key, *value);
    }
    batch
}

fn keys(database: &dyn Database, prefix: &str, from: &str) -> Vec<String> {
    let mut keys = Vec::new();
    database
        .scan(prefix.as_bytes(), from.as_bytes(), &mut |key, _| {
            keys.push(String::from_utf8(key.to_vec()).unwrap());
            ControlFlow::Continue(())
        })
        .unwrap();
    keys
}

fn check_order_and_ranges(store: &dyn Store) {
    let database = store.open("order").unwrap();
    let unordered = batch(&[("b2", "2"), ("a", "0"), ("b1", "1"), ("c", "3"), ("b3", "4")]);
    database.commit(vec![unordered]).unwrap();
    assert_eq!(keys(&*database, "b", ""), ["b1", "b2", "b3"]);
    assert_eq!(keys(&*database, "b", "b2"), ["b2", "b3"]);
    assert_eq!(database.last(b"b", b"b2z").unwrap().unwrap().0, b"b2");
    assert_eq!(database.last(b"b", b"b").unwrap(), None);
    let mut first = None;
    database
        .scan(b"b", b"", &mut |key, value| {
            first = Some((key.to_vec(), value.to_vec()));
            ControlFlow::Break(())
        })
        .unwrap();
    assert_eq!(first.unwrap(), (b"b1".to_vec(), b"1".to_vec()));
}

fn check_batches(store: &dyn Store) {
    let database = store.open("batches").unwrap();
    database.write(vec![batch(&[("bystander", "untouched")])]).unwrap();
    let mut last_wins = batch(&[("key", "one"), ("key", "two")]);
    last_wins.put("gone", "soon");
    last_wins.remove("gone");
    database.write(vec![last_wins]).unwrap();
    assert_eq!(database.get(b"key").unwrap().unwrap(), b"two");
    assert_eq!(database.get(b"gone").unwrap(), None);

    let mut large = batch(&[("half", "applied")]);
    large.put("large", vec![0; VALUE_BYTES_MAX + 1]);
    assert!(matches!(database.write(vec![large]), Err(StoreFailure::Limit { .. })));
    let mut many = Batch::default();
    (0..=BATCH_OPERATIONS_MAX).for_each(|n| many.put(format!("many{n}"), ""));
    assert!(matches!(database.write(vec![many]), Err(StoreFailure::Limit { .. })));
    assert_eq!(database.get(b"half").unwrap(), None, "a refused batch leaves nothing");
    assert_eq!(database.get(b"bystander").unwrap().unwrap(), b"untouched");
}

fn check_databases(store: &dyn Store) {
    let database = store.open("x1").unwrap();
    database.write(vec![batch(&[("key", "value")])]).unwrap();
    database.commit(Vec::new()).unwrap();
    assert!(matches!(store.open("x1"), Err(StoreFailure::InUse)));
    let bystander = store.open("x2").unwrap();
    bystander.write(vec![batch(&[("key", "untouched")])]).unwrap();
    let names = store.list().unwrap();
    assert!(names.contains(&"x1".to_owned()) && names.contains(&"x2".to_owned()));
    drop(database);
    assert_eq!(store.open("x1").unwrap().get(b"key").unwrap().unwrap(), b"value");
    store.remove("x1").unwrap();
    store.remove("x1").unwrap();
    assert_eq!(store.open("x1").unwrap().get(b"key").unwrap(), None);
    assert_eq!(bystander.get(b"key").unwrap().unwrap(), b"untouched");
}

fn check(store: &dyn Store) {
    check_order_and_ranges(store);
    check_batches(store);
    check_databases(store);
}

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
                // In memory, where no sync gives the threads time to release a file.
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
