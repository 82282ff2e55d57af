//! The data directory has one owner and one format, and holds nothing that is not ours.

use std::fs;

use wabahook::{Config, Engine, Error, Event, Limits, Notice, OnDamage};

use crate::world::{DEADLINE, quick};

#[test]
fn a_directory_that_is_open_is_refused_and_untouched() {
    let directory = tempfile::tempdir().unwrap();
    let engine = Engine::open(Config::new(directory.path())).unwrap();
    engine.subscribe(quick("crm.invalid")).unwrap();
    let error = Engine::open(Config::new(directory.path())).unwrap_err();
    assert!(matches!(&error, Error::InUse { path } if path == directory.path()), "{error}");
    assert_eq!(engine.subscriptions().len(), 1);
    engine.close(DEADLINE).unwrap();
    assert_eq!(Engine::open(Config::new(directory.path())).unwrap().subscriptions().len(), 1);
}

#[test]
fn another_format_is_refused_by_its_number() {
    for number in [2, 3, 7] {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("format"), format!("wabahook {number}\n")).unwrap();
        let error = Engine::open(Config::new(directory.path())).unwrap_err();
        let is_named = matches!(error, Error::UnsupportedFormat { found, supported: 4, .. } if found == number);
        assert!(is_named, "{error}");
        assert!(error.to_string().contains("the wabahook that wrote it"), "{error}");
        assert!(!directory.path().join("book").exists());
    }
}

/// `fsck` keeps that directory in the root of a volume.
#[test]
fn a_volume_root_with_lost_and_found_is_accepted() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("lost+found")).unwrap();
    fs::write(directory.path().join("lost+found/#12"), "x").unwrap();
    for subscriptions in 0..2 {
        let engine = Engine::open(Config::new(directory.path())).unwrap();
        assert_eq!(engine.subscriptions().len(), subscriptions);
        engine.subscribe(quick("crm.invalid")).unwrap();
        engine.close(DEADLINE).unwrap();
    }
    assert_eq!(fs::read(directory.path().join("lost+found/#12")).unwrap(), b"x");
}

/// The mode of every file and directory in a data directory, except `lost+found`.
#[cfg(unix)]
fn modes(path: &std::path::Path) -> Vec<(std::path::PathBuf, u32)> {
    use std::os::unix::fs::PermissionsExt;
    let mut all = vec![(path.to_owned(), fs::metadata(path).unwrap().permissions().mode() & 0o777)];
    if path.is_dir() && path.file_name().unwrap() != "lost+found" {
        let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        all.extend(entries.flat_map(|path| modes(&path)));
    }
    all
}

#[cfg(unix)]
fn check_private(path: &std::path::Path) {
    for (path, mode) in modes(path) {
        let expected = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, expected, "{}: {mode:o}", path.display());
    }
}

/// Files are created private, and made private at open if a copy made them readable.
#[test]
#[cfg(unix)]
fn only_its_owner_can_read_a_data_directory() {
    use std::os::unix::fs::PermissionsExt;
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("data");
    let run = || {
        let limits = Limits::default().history_bytes_max(1 << 20);
        let engine = Engine::open(Config::new(&path).limits(limits)).unwrap();
        engine.subscribe(quick("crm.invalid")).unwrap();
        let event = Event::new("ADD_TAG", "{}").number("919999999999");
        engine.publish(event).unwrap().wait().unwrap();
        check_private(&path);
        engine.close(DEADLINE).unwrap();
    };
    run();
    for (path, _) in modes(&path) {
        let mode = if path.is_dir() { 0o755 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    run();
    check_private(&path);
}

#[test]
fn a_directory_of_something_else_is_not_taken_over() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("photo.jpg"), "x").unwrap();
    let error = Engine::open(Config::new(directory.path())).unwrap_err();
    assert!(error.to_string().contains("photo.jpg"), "{error}");
    fs::remove_file(directory.path().join("photo.jpg")).unwrap();
    fs::write(directory.path().join("format"), "something else").unwrap();
    let error = Engine::open(Config::new(directory.path())).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
}

#[test]
fn a_directory_that_cannot_be_made_or_written_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "x").unwrap();
    for path in [file.clone(), file.join("below"), "/proc/wabahook-data".into()] {
        let error = Engine::open(Config::new(&path)).unwrap_err();
        assert!(matches!(error, Error::Directory { .. }), "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}

/// Mode bits do not stop the superuser, so the check is skipped, with a message, where the tests run
/// as one.
#[test]
#[cfg(unix)]
fn a_directory_without_write_permission_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data");
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o555)).unwrap();
    match Engine::open(Config::new(&path)) {
        Err(error) => {
            assert!(matches!(&error, Error::Directory { .. }), "{error}");
            assert!(error.to_string().contains("denied"), "{error}");
        }
        Ok(_) => println!("skipped: mode bits do not bind this user"),
    }
}

/// Flips a bit in a file, as a failing disk would.
fn damage(file: &std::path::Path) {
    let mut bytes = fs::read(file).unwrap();
    bytes[10] ^= 1;
    fs::write(file, bytes).unwrap();
}

#[test]
fn a_damaged_subscription_store_is_rebuilt_on_request() {
    let directory = tempfile::tempdir().unwrap();
    let config = || Config::new(directory.path());
    let engine = Engine::open(config()).unwrap();
    let id = engine.subscribe(quick("crm.invalid")).unwrap();
    let gone = engine.subscribe(quick("gone.invalid")).unwrap();
    engine.unsubscribe(gone).unwrap();
    engine.close(DEADLINE).unwrap();
    damage(&directory.path().join("book/conf"));
    let text = Engine::open(config()).unwrap_err().to_string();
    assert!(text.contains("book") && text.contains("SetAside"), "{text}");
    let engine = Engine::open(config().on_damage(OnDamage::SetAside)).unwrap();
    let [kept] = engine.subscriptions().try_into().unwrap();
    assert_eq!((kept.id, kept.name.as_str()), (id, "crm.invalid"));
    let notice = engine.notices().try_next().unwrap();
    assert!(
        matches!(&notice, Notice::SetAside { name, .. } if name == "damaged-book"),
        "{notice:?}"
    );
    assert!(engine.subscribe(quick("new.invalid")).unwrap() > gone, "ids are not given twice");
}

#[test]
fn a_damaged_generation_is_named_and_subscriptions_survive() {
    let directory = tempfile::tempdir().unwrap();
    let config = || Config::new(directory.path());
    let engine = Engine::open(config()).unwrap();
    engine.subscribe(quick("crm.invalid")).unwrap();
    let event = Event::new("ADD_TAG", "{}").number("919999999999");
    let before = engine.publish(event.clone()).unwrap().wait().unwrap();
    engine.close(DEADLINE).unwrap();
    damage(&directory.path().join("outbox-0000000000000001/conf"));
    let text = Engine::open(config()).unwrap_err().to_string();
    assert!(text.contains("generation 1"), "{text}");
    let engine = Engine::open(config().on_damage(OnDamage::SetAside)).unwrap();
    assert_eq!(engine.subscriptions().len(), 1);
    let notice = engine.notices().try_next().unwrap();
    let name = "damaged-outbox-0000000000000001";
    assert!(matches!(&notice, Notice::SetAside { name: n, .. } if n == name), "{notice:?}");
    assert!(directory.path().join(name).join("db").exists());
    let after = engine.publish(event).unwrap().wait().unwrap();
    assert_ne!(after.id, before.id, "a new incarnation begins");
    assert_eq!(after.owed, 1);
}

#[test]
fn a_store_damaged_with_its_log_keeps_the_readable_lines() {
    let directory = tempfile::tempdir().unwrap();
    let config = || Config::new(directory.path());
    let engine = Engine::open(config()).unwrap();
    let ids = ["one.invalid", "two.invalid", "three.invalid"]
        .map(|host| engine.subscribe(quick(host)).unwrap());
    let event = || Event::new("ADD_TAG", "{}").number("919999999999");
    engine.publish(event()).unwrap().wait().unwrap();
    engine.close(DEADLINE).unwrap();
    damage(&directory.path().join("book/conf"));
    let log = directory.path().join("book.log");
    let text = fs::read_to_string(&log).unwrap();
    fs::write(&log, text.replacen("two.invalid", "two\u{1}invalid", 1)).unwrap();
    let text = Engine::open(config()).unwrap_err().to_string();
    assert!(text.contains("line 3") && text.contains("OnDamage::SetAside"), "{text}");
    let engine = Engine::open(config().on_damage(OnDamage::SetAside)).unwrap();
    let kept: Vec<_> = engine.subscriptions().iter().map(|one| one.id).collect();
    assert_eq!(kept, [ids[0], ids[2]]);
    let notices = engine.notices();
    let told: Vec<_> = std::iter::from_fn(|| notices.try_next()).collect();
    let is_aside = |notice: &Notice, wanted: &str| {
        matches!(notice, Notice::SetAside { name, why }
            if name == wanted && (wanted == "damaged-book" || why.contains("3 (")))
    };
    for name in ["damaged-book", "damaged-book.log"] {
        assert!(told.iter().any(|notice| is_aside(notice, name)), "{told:?}");
    }
    let held = |notice: &Notice| matches!(notice, Notice::Held { subscription, .. } if *subscription == ids[1]);
    assert!(told.iter().any(held), "{told:?}");
    assert!(engine.subscribe(quick("two.invalid")).unwrap().0 > 1_000_000);
    engine.close(DEADLINE).unwrap();
    let engine = Engine::open(config()).unwrap();
    assert_eq!(engine.subscriptions().len(), 3);
    let names = fs::read_dir(directory.path()).unwrap().map(|one| one.unwrap().file_name());
    let aside = names.filter(|name| name.to_string_lossy().starts_with("damaged-")).count();
    assert_eq!(aside, 2, "the book and its log, once");
    engine.close(DEADLINE).unwrap();
}
