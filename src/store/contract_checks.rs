//! The checks of the store contract, for each implementation. The test of the PostgreSQL store includes this file.

use std::ops::ControlFlow;

use super::{BATCH_OPERATIONS_MAX, Batch, Database, Store, StoreFailure, VALUE_BYTES_MAX};

/// A batch of writes.
pub(super) fn batch(pairs: &[(&str, &str)]) -> Batch {
    let mut batch = Batch::default();
    for (key, value) in pairs {
        batch.put(*key, *value);
    }
    batch
}

/// The keys of a prefix, from one on.
pub(super) fn keys(database: &dyn Database, prefix: &str, from: &str) -> Vec<String> {
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

/// Runs all checks on a store that is empty.
pub(super) fn check(store: &dyn Store) {
    check_order_and_ranges(store);
    check_batches(store);
    check_databases(store);
}
