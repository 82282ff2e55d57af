//! The data directory: one owner, one format, and nothing in it that is not ours.

use std::fs;

use wabahook::{Config, Engine, Error};

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
    assert!(matches!(error, Error::NewerFormat { found: 7, supported: 1, .. }), "{error}");
    assert!(error.to_string().contains("newer wabahook"), "{error}");
    assert!(!directory.path().join("book").exists());
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
