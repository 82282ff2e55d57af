//! The data directory: one owner, one format, and nothing in it that is not ours.

use std::fs;

use wabahook::{Config, Engine, Error, Event, Notice, OnDamage};

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
fn a_newer_format_is_refused_by_its_number_and_untouched() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("format"), "wabahook 7\n").unwrap();
    let error = Engine::open(Config::new(directory.path())).unwrap_err();
    assert!(matches!(error, Error::NewerFormat { found: 7, supported: 3, .. }), "{error}");
    assert!(error.to_string().contains("newer wabahook"), "{error}");
    assert!(!directory.path().join("book").exists());
}

#[test]
fn an_older_format_is_read_and_an_older_build_refuses_it_from_then_on() {
    let directory = tempfile::tempdir().unwrap();
    let format = directory.path().join("format");
    let engine = Engine::open(Config::new(directory.path())).unwrap();
    engine.subscribe(quick("crm")).unwrap();
    engine.close(DEADLINE).unwrap();
    drop(engine);
    fs::write(&format, "wabahook 1\n").unwrap();
    let engine = Engine::open(Config::new(directory.path())).unwrap();
    assert_eq!(engine.subscriptions().len(), 1);
    assert_eq!(fs::read_to_string(&format).unwrap(), "wabahook 3\n");
    assert!(!directory.path().join("format.new").exists());
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

/// A process without rights cannot be had where the tests run as the superuser, whom no mode bits
/// stop: the check then says so.
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
fn a_damaged_book_is_named_and_rebuilt_from_its_log_when_that_is_wished() {
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
fn a_damaged_generation_is_named_and_the_subscriptions_survive_it() {
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
fn a_book_damaged_with_its_log_is_set_aside_once_and_the_lines_that_can_be_read_are_taken() {
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
