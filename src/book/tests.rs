//! The subscription store over the memory store, with and without its log.

use std::time::Duration;

use super::database::{part_key, subscription_key};
use super::*;
use crate::event::WabaNumber;
use crate::profile::Profile;
use crate::secret::Secret;
use crate::store::{Batch, FaultInjectingStore, FaultPlan, Memory};
use crate::subscription::{Accept, Filter, Policy, Precedence, Retry, SubscriptionState, Target};

fn info(id: u32, numbers: u64) -> SubscriptionInfo {
    let catalogue = Catalogue::default();
    let mut target = Target::new("https://crm.example:8443/hook?a=b").unwrap();
    target.add_header("X-Tenant".into(), "acme".into());
    SubscriptionInfo {
        id: SubscriptionId(id),
        account: "acme".into(),
        name: format!("crm {id}"),
        filter: Filter {
            events: Some(
                ["ADD_TAG", "x.y"].iter().map(|name| catalogue.canonical(name).unwrap()).collect(),
            ),
            numbers: (numbers > 0).then(|| {
                (0..numbers)
                    .map(|n| WabaNumber::from_digits(919_000_000_000 + n).unwrap())
                    .collect()
            }),
            condition: None,
        },
        target,
        policy: Policy {
            retry: Retry::List { delays: [0, 5].map(Duration::from_millis).to_vec() },
            accept: Accept::Only200,
            ..Policy::default()
        },
        secret: Some(Secret::new("hush")),
        retiring: Vec::new(),
        profile: Profile::Wabahook,
        precedence: Precedence::Independent,
        state: SubscriptionState::Paused,
        disabled_reason: None,
        created_at_ms: 77,
        description: None,
    }
}

/// A directory, and the path of a log in it.
fn new_log() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("book.log");
    (directory, log)
}

/// Opens a book over a store that fails by this plan.
fn open_failing(memory: &Memory, log: Option<&Path>) -> (LoadedSubscriptions, Arc<FaultPlan>) {
    let faults = Arc::new(FaultPlan::default());
    let store = FaultInjectingStore::new(Arc::new(memory.clone()), Arc::clone(&faults));
    let catalogue = Catalogue::default();
    let loaded = SubscriptionStore::open(Arc::new(store), log, &catalogue, OnDamage::Refuse);
    (loaded.unwrap(), faults)
}

/// The key of the first part of a subscription's record.
fn first_part(id: u32) -> Vec<u8> {
    part_key(&subscription_key(SubscriptionId(id)), 0)
}

fn try_open(
    store: &Memory,
    log: Option<&Path>,
) -> Result<(SubscriptionStore, Vec<SubscriptionInfo>)> {
    let (store, catalogue) = (Arc::new(store.clone()), Catalogue::default());
    let loaded = SubscriptionStore::open(store, log, &catalogue, OnDamage::Refuse)?;
    Ok((loaded.store, loaded.subscriptions))
}

fn open(store: &Memory, log: &Path) -> (SubscriptionStore, Vec<SubscriptionInfo>) {
    try_open(store, Some(log)).unwrap()
}

fn after_crash(store: &Memory) -> (SubscriptionStore, Vec<SubscriptionInfo>) {
    try_open(&store.crash(), None).unwrap()
}

#[test]
fn subscriptions_survive_a_crash() {
    let store = Memory::default();
    let (mut book, none) = try_open(&store, None).unwrap();
    assert!(none.is_empty());
    let bystander = info(1, 0);
    book.put(&bystander).unwrap();
    book.put(&info(2, 5_000)).unwrap();
    let (_, all) = after_crash(&store);
    assert_eq!(all, [bystander.clone(), info(2, 5_000)]);
    assert_eq!(all[1].secret, Some(Secret::new("hush")));
    book.put(&info(2, 3)).unwrap();
    assert_eq!(after_crash(&store).1, [bystander.clone(), info(2, 3)]);
    book.remove(SubscriptionId(2)).unwrap();
    assert_eq!(after_crash(&store).1, [bystander]);
}

/// Also when the database is lost and rebuilt from the log.
#[test]
fn changes_apply_together_or_not_at_all() {
    let (_directory, log) = new_log();
    let (mut book, _) = open(&Memory::default(), &log);
    let note = |text| BookChange::note("acme", "multi", text);
    (1..=3).for_each(|id| book.put(&info(id, 2)).unwrap());
    let (two, four) = (info(2, 1), info(4, 0));
    // Without a compaction, whose new file this directory stands in the way of.
    let in_the_way = log.with_extension("new");
    std::fs::create_dir_all(in_the_way.join("x")).unwrap();
    let removal = BookChange::Remove(SubscriptionId(1));
    book.apply(vec![BookChange::put(&two), BookChange::put(&four), note("on"), removal]).unwrap();
    drop(book);
    let written = std::fs::read(&log).unwrap();
    std::fs::remove_dir_all(&in_the_way).unwrap();
    let (mut book, all) = open(&Memory::default(), &log);
    assert_eq!(all, [two, info(3, 2), four]);
    let on = [("multi".to_owned(), "on".to_owned())].into();
    assert_eq!(book.notes_of("acme").unwrap(), on);
    assert!(book.notes_of("other").unwrap().is_empty());
    book.apply(vec![note("")]).unwrap();
    assert!(book.notes_of("acme").unwrap().is_empty());
    drop(book);
    // With the last line cut off, none of the four applies.
    std::fs::write(&log, &written[..written.len() - 1]).unwrap();
    let (mut book, all) = open(&Memory::default(), &log);
    assert_eq!(all, [info(1, 2), info(2, 2), info(3, 2)]);
    assert!(book.notes_of("acme").unwrap().is_empty());
}

/// Neither the log nor the database is written, and another subscription is untouched.
#[test]
fn an_unchanged_subscription_writes_nothing() {
    let (_directory, log) = new_log();
    let memory = Memory::default();
    let (loaded, faults) = open_failing(&memory, Some(&log));
    let mut book = loaded.store;
    let bystander = info(2, 3);
    [&info(1, 900), &bystander].into_iter().for_each(|one| book.put(one).unwrap());
    book.apply(vec![BookChange::note("acme", "multi", "on")]).unwrap();
    let (operations, text) = (faults.operations(), std::fs::read(&log).unwrap());
    book.put(&info(1, 900)).unwrap();
    let note = BookChange::note("acme", "multi", "on");
    let removal = BookChange::Remove(SubscriptionId(9));
    book.apply(vec![BookChange::put(&bystander), note, removal]).unwrap();
    assert_eq!(faults.operations(), operations);
    assert_eq!(std::fs::read(&log).unwrap(), text);
    book.put(&info(1, 899)).unwrap();
    assert!(faults.operations() > operations);
    assert_eq!(after_crash(&memory).1, [info(1, 899), bystander]);
}

#[test]
fn an_id_is_never_assigned_twice() {
    let store = Memory::default();
    let (mut book, _) = try_open(&store, None).unwrap();
    assert_eq!(book.fresh_id(), SubscriptionId(1));
    book.put(&info(1, 0)).unwrap();
    book.remove(SubscriptionId(1)).unwrap();
    assert_eq!(book.fresh_id(), SubscriptionId(2));
    assert_eq!(after_crash(&store).0.fresh_id(), SubscriptionId(2));
}

#[test]
fn a_subscription_too_large_for_one_batch_is_refused() {
    let store = Memory::default();
    let (mut book, _) = try_open(&store, None).unwrap();
    book.put(&info(1, 4)).unwrap();
    assert!(book.put(&info(1, 200_000)).is_err());
    assert_eq!(after_crash(&store).1, [info(1, 4)]);
}

#[test]
fn a_damaged_subscription_is_named() {
    let store = Memory::default();
    let (mut book, _) = try_open(&store, None).unwrap();
    book.put(&info(5, 0)).unwrap();
    let database = Arc::clone(&book.database().unwrap().database);
    drop(book);
    let key = first_part(5);
    let mut part = database.get(&key).unwrap().unwrap();
    part[12] ^= 1;
    let mut batch = Batch::default();
    batch.put(key, part);
    database.write(vec![batch]).unwrap();
    drop(database);
    let error = try_open(&store, None).unwrap_err().to_string();
    assert!(error.contains("subscription 5"), "{error}");
}

#[test]
fn a_lost_database_is_rebuilt_from_its_log() {
    let (_directory, log) = new_log();
    let (mut book, _) = open(&Memory::default(), &log);
    (1..=300).for_each(|id| book.put(&info(id, 2)).unwrap());
    book.put(&info(2, 900)).unwrap();
    (3..=300).for_each(|id| book.remove(SubscriptionId(id)).unwrap());
    drop(book);
    let (book, all) = open(&Memory::default(), &log);
    assert_eq!(all, [info(1, 2), info(2, 900)]);
    assert_eq!(all[0].secret, Some(Secret::new("hush")));
    assert_eq!(book.fresh_id(), SubscriptionId(301), "removed ids stay assigned");
}

/// One sync for each batch and not for each subscription.
#[test]
fn a_rebuild_writes_many_subscriptions_per_batch() {
    let (_directory, log) = new_log();
    let (mut book, _) = open(&Memory::default(), &log);
    (1..=300).for_each(|id| book.put(&info(id, 2)).unwrap());
    drop(book);
    let (loaded, faults) = open_failing(&Memory::default(), Some(&log));
    let all: Vec<_> = (1..=300).map(|id| info(id, 2)).collect();
    assert_eq!(loaded.subscriptions, all);
    assert_eq!(faults.operations(), 6, "three batches, each with its sync");
}

#[test]
fn a_silently_lost_record_comes_back_from_the_log() {
    let (_directory, log) = new_log();
    let store = Memory::default();
    let (mut book, _) = open(&store, &log);
    (1..=2).for_each(|id| book.put(&info(id, 2)).unwrap());
    let mut batch = Batch::default();
    batch.remove(first_part(1));
    book.database().unwrap().database.write(vec![batch]).unwrap();
    drop(book);
    let (_, all) = open(&store, &log);
    assert_eq!(all, [info(1, 2), info(2, 2)]);
}

#[test]
fn a_truncated_or_damaged_log_is_rewritten() {
    let (_directory, log) = new_log();
    let (mut book, _) = open(&Memory::default(), &log);
    (1..=2).for_each(|id| book.put(&info(id, 0)).unwrap());
    drop(book);
    let text = std::fs::read(&log).unwrap();
    std::fs::write(&log, &text[..text.len() - 9]).unwrap();
    let store = Memory::default();
    assert_eq!(open(&store, &log).1, [info(1, 0)]);
    let mut damaged = std::fs::read(&log).unwrap();
    damaged[3] = b'#';
    std::fs::write(&log, damaged).unwrap();
    assert_eq!(open(&store, &log).1, [info(1, 0)], "the database is whole");
    assert_eq!(LogContents::read(&log).unwrap().unwrap().subscriptions.len(), 1);
}

#[test]
fn after_a_failed_write_the_store_recovers_what_was_confirmed() {
    let (_directory, log) = new_log();
    for fails_after in 0..2 {
        let (memory, faults) = (Memory::default(), Arc::new(FaultPlan::default()));
        let store = FaultInjectingStore::new(Arc::new(memory.clone()), Arc::clone(&faults));
        let store = Arc::new(store);
        let _ = std::fs::remove_file(&log);
        let catalogue = Catalogue::default();
        let open =
            || SubscriptionStore::open(store.clone(), Some(&log), &catalogue, OnDamage::Refuse);
        let mut book = open().unwrap().store;
        (1..=3).for_each(|id| book.put(&info(id, 2)).unwrap());
        faults.fail_after_effect(fails_after);
        assert!(book.put(&info(2, 900)).is_err());
        assert!(book.put(&info(4, 1)).is_err(), "the device still refuses");
        assert!(book.remove(SubscriptionId(3)).is_err());
        faults.heal();
        let fresh = book.fresh_id();
        book.put(&info(fresh.0, 5)).unwrap();
        let expected = [info(1, 2), info(2, 2), info(fresh.0, 5)];
        drop(book);
        assert_eq!(open().unwrap().subscriptions, expected, "{fails_after}");
        assert_eq!(open().unwrap().store.fresh_id(), SubscriptionId(fresh.0 + 1));
    }
}

#[test]
fn a_damaged_log_without_a_database_is_salvaged_once() {
    let (directory, log) = new_log();
    let (mut book, _) = open(&Memory::default(), &log);
    (1..=3).for_each(|id| book.put(&info(id, 0)).unwrap());
    drop(book);
    let text = std::fs::read_to_string(&log).unwrap();
    let damaged = text.replacen("{\"put\":{\"id\":2", "{\"put\":{#id\":2", 1);
    std::fs::write(&log, &damaged).unwrap();
    let refused = try_open(&Memory::default(), Some(&log)).unwrap_err().to_string();
    assert!(refused.contains("line 3") && refused.contains("SetAside"), "{refused}");
    let store = Arc::new(Memory::default());
    let open = |store: Arc<Memory>| {
        let catalogue = Catalogue::default();
        SubscriptionStore::open(store, Some(&log), &catalogue, OnDamage::SetAside).unwrap()
    };
    let loaded = open(Arc::clone(&store));
    assert_eq!(loaded.subscriptions, [info(1, 0), info(3, 0)]);
    assert!(loaded.store.fresh_id().0 > 1_000_000, "lost ids are not assigned again");
    let [(name, why)] = loaded.set_aside.try_into().unwrap();
    assert!(name == "damaged-book.log" && why.contains("3 ("), "{name}: {why}");
    assert!(!why.contains("hush"), "{why}");
    drop(loaded.store);
    assert!(open(store).set_aside.is_empty(), "the log is whole now");
    // As after a crash between the copy and the new log.
    std::fs::write(&log, &damaged).unwrap();
    open(Arc::new(Memory::default()));
    let names = std::fs::read_dir(directory.path()).unwrap();
    let copies = names
        .filter(|one| one.as_ref().unwrap().file_name().to_string_lossy().starts_with("damaged-"));
    assert_eq!(copies.count(), 1);
    assert_eq!(std::fs::read_to_string(directory.path().join(name)).unwrap(), damaged);
}

#[test]
fn a_log_of_another_version_is_refused() {
    let (_directory, log) = new_log();
    let (mut book, _) = open(&Memory::default(), &log);
    book.put(&info(1, 0)).unwrap();
    drop(book);
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.starts_with(r#"{"wabahook_book_log":4,"next_id":1}"#), "{text}");
    for version in [3, 5] {
        let other = text.replacen("log\":4", &format!("log\":{version}"), 1);
        std::fs::write(&log, other).unwrap();
        let error = try_open(&Memory::default(), Some(&log)).unwrap_err().to_string();
        assert!(error.contains(&format!("version {version}")), "{error}");
    }
}

#[test]
#[cfg(unix)]
fn only_its_owner_can_read_the_log() {
    use std::os::unix::fs::PermissionsExt;
    let (_directory, log) = new_log();
    open(&Memory::default(), &log);
    assert_eq!(std::fs::metadata(&log).unwrap().permissions().mode() & 0o777, 0o600);
}

fn with_secret(id: u32, numbers: u64, secret: &str) -> SubscriptionInfo {
    SubscriptionInfo { secret: Some(Secret::new(secret)), ..info(id, numbers) }
}

#[test]
fn the_log_is_bounded_by_a_multiple_of_its_contents() {
    let (_directory, log) = new_log();
    let store = Memory::default();
    let (mut book, _) = open(&store, &log);
    book.put(&info(1, 2)).unwrap();
    let size = || std::fs::metadata(&log).unwrap().len();
    let line = size();
    for numbers in 0..1_000 {
        book.put(&info(2, 1 + numbers % 2)).unwrap();
        assert!(size() <= 64 * 1024 + 4 * line, "{} bytes after {numbers} changes", size());
    }
    (3..400).for_each(|id| book.put(&info(id, 2)).unwrap());
    (3..400).for_each(|id| book.remove(SubscriptionId(id)).unwrap());
    drop(book);
    // The log alone restores what is in force, and no id again.
    let (book, all) = open(&Memory::default(), &log);
    assert_eq!(all, [info(1, 2), info(2, 2)]);
    assert_eq!(book.fresh_id(), SubscriptionId(400));
}

#[test]
fn a_replaced_or_removed_secret_leaves_the_log() {
    let (_directory, log) = new_log();
    let (mut book, _) = open(&Memory::default(), &log);
    let has = |text: &str| std::fs::read_to_string(&log).unwrap().contains(text);
    book.put(&with_secret(1, 1, "of the bystander")).unwrap();
    book.put(&with_secret(2, 1, "the first")).unwrap();
    book.put(&with_secret(2, 1, "the second")).unwrap();
    assert!(!has("the first") && has("the second"));
    let mut authorized = with_secret(2, 1, "the second");
    authorized.target.add_header("X-Token".into(), "the token".into());
    book.put(&authorized).unwrap();
    book.remove(SubscriptionId(2)).unwrap();
    assert!(!has("the second") && !has("the token") && has("of the bystander"));
    drop(book);
    assert_eq!(open(&Memory::default(), &log).1, [with_secret(1, 1, "of the bystander")]);
}

/// A compaction that fails costs nothing: neither the change nor those after it.
#[test]
fn a_failed_compaction_of_the_log_loses_nothing() {
    let (_directory, log) = new_log();
    let store = Memory::default();
    let (mut book, _) = open(&store, &log);
    book.put(&with_secret(1, 1, "the first")).unwrap();
    // A directory in the place of the new file.
    let in_the_way = log.with_extension("new");
    std::fs::create_dir_all(in_the_way.join("x")).unwrap();
    book.put(&with_secret(1, 1, "the second")).unwrap();
    std::fs::remove_dir_all(&in_the_way).unwrap();
    book.put(&info(2, 1)).unwrap();
    assert!(!std::fs::read_to_string(&log).unwrap().contains("the first"));
    drop(book);
    let expected = [with_secret(1, 1, "the second"), info(2, 1)];
    assert_eq!(open(&Memory::default(), &log).1, expected);
    assert_eq!(open(&store, &log).1, expected);
}

/// The record of a subscription with its last byte, the length of an absent text, made unreadable for
/// this build, as another build could write it.
fn write_unknown_record(store: &Memory, id: u32) -> Vec<u8> {
    let database = store.open("book").unwrap();
    let key = first_part(id);
    let record = database.get(&key).unwrap().unwrap();
    let (version, body) = crate::store::record::unseal(&record).unwrap();
    let unknown = [&body[..body.len() - 1], &[9]].concat();
    let sealed = crate::store::record::seal(version, &unknown);
    let mut batch = Batch::default();
    batch.put(key, sealed.clone());
    database.commit(vec![batch]).unwrap();
    sealed
}

#[test]
fn a_record_of_another_build_is_held_and_the_rest_is_read() {
    let (_directory, log) = new_log();
    let store = Memory::default();
    let (mut book, _) = open(&store, &log);
    (1..=2).for_each(|id| book.put(&info(id, 2)).unwrap());
    drop(book);
    std::fs::remove_file(&log).unwrap();
    let record = write_unknown_record(&store, 1);
    let (mut book, all) = open(&store, &log);
    assert_eq!(all, [info(2, 2)]);
    book.put(&info(3, 0)).unwrap();
    drop(book);
    assert_eq!(held(&store, &log), [(1, None)]);
    // Neither the database nor a rebuild from the log changes the record.
    let rebuilt = Memory::default();
    assert_eq!(open(&rebuilt, &log).1, [info(2, 2), info(3, 0)]);
    for store in [&store, &rebuilt] {
        let kept = store.open("book").unwrap().get(&first_part(1)).unwrap();
        assert_eq!(kept.as_ref(), Some(&record));
    }
    let (mut book, _) = open(&store, &log);
    book.put(&info(1, 2)).unwrap();
    drop(book);
    assert_eq!(open(&store, &log).1, [info(1, 2), info(2, 2), info(3, 0)]);
}

/// The ids and names of the subscriptions that cannot be served.
fn held(store: &Memory, log: &Path) -> Vec<(u32, Option<String>)> {
    let (store, catalogue) = (Arc::new(store.clone()), Catalogue::default());
    let loaded = SubscriptionStore::open(store, Some(log), &catalogue, OnDamage::Refuse).unwrap();
    loaded.held.into_iter().map(|one| (one.id.0, one.name.map(|(_, name)| name))).collect()
}

#[test]
fn a_stored_url_that_is_no_longer_valid_is_held() {
    let (_directory, log) = new_log();
    let (mut book, _) = open(&Memory::default(), &log);
    (1..=2).for_each(|id| book.put(&info(id, 2)).unwrap());
    drop(book);
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::write(&log, text.replacen("https://crm.example", "gopher://crm example", 1)).unwrap();
    let store = Memory::default();
    assert_eq!(open(&store, &log).1, [info(2, 2)]);
    assert_eq!(held(&store, &log), [(1, Some("crm 1".to_owned()))]);
    assert_eq!(open(&store, &log).1, [info(2, 2)]);
}

/// Also where a change of the same subscription failed before its removal, whose undoing must not
/// bring it back.
#[test]
fn a_refused_removal_is_final_whatever_failed_before() {
    let memory = Memory::default();
    let (loaded, faults) = open_failing(&memory, None);
    let mut book = loaded.store;
    (1..=2).for_each(|id| book.put(&info(id, 2)).unwrap());
    faults.fail_after_effect(0);
    assert!(book.put(&info(1, 3)).is_err());
    assert!(book.remove(SubscriptionId(1)).is_err());
    faults.heal();
    book.put(&info(3, 0)).unwrap();
    assert_eq!(after_crash(&memory).1, [info(2, 2), info(3, 0)]);
}
