//! Turns sled's errors and panics into [`StoreFailure`]s.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::store::StoreFailure;

/// Runs a call of sled. A panic inside sled unwinds and leaves no state of ours half-changed; the
/// caller drops the database after any failed write.
pub(super) fn guarded<T>(
    doing: &str,
    call: impl FnOnce() -> Result<T, ::sled::Error>,
) -> Result<T, StoreFailure> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(failure(error)),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            let text = text.unwrap_or("no message");
            Err(match system_error_in(text) {
                Some(error) => StoreFailure::io(error),
                None => StoreFailure::Damaged(format!("sled panicked while {doing} ({text})")),
            })
        }
    }
}

fn failure(error: ::sled::Error) -> StoreFailure {
    match error {
        ::sled::Error::Io(error) if is_lock_conflict(&error) => StoreFailure::InUse,
        ::sled::Error::Io(error) if tells_damage(&error) => {
            StoreFailure::Damaged(error.to_string())
        }
        ::sled::Error::Io(error) => StoreFailure::io(error),
        // Not the database, but sled's threads, which all databases of the process share.
        ::sled::Error::ReportableBug(why) if why.contains("IO thread") => {
            StoreFailure::io(io::Error::other(format!("{why} (the process must be restarted)")))
        }
        other => StoreFailure::Damaged(other.to_string()),
    }
}

/// Whether a file is shorter than it was, or of another kind.
fn tells_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{IsADirectory, NotADirectory, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | IsADirectory | NotADirectory)
}

/// How sled panics when memory is short: crossbeam's panic over the null pointer that it is given for a table, and
/// sled's own over a buffer.
const OUT_OF_MEMORY: [&str; 2] =
    ["converting zero into `Owned`", "failed to allocate critical IO buffer"];

/// What the operating system refused, if that is what sled panicked about: for some refusals, such as
/// that of a thread, sled has no error. They are no damage, which would cost the database. A missing
/// file is.
fn system_error_in(panic: &str) -> Option<io::Error> {
    if OUT_OF_MEMORY.iter().any(|text| panic.contains(text)) {
        return Some(io::ErrorKind::OutOfMemory.into());
    }
    // As `Debug` and `Display` print an error of the system.
    let (_, rest) = panic.split_once("Os { code: ").or_else(|| panic.split_once("(os error "))?;
    let code = rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
    let error = io::Error::from_raw_os_error(code);
    let is_damage = tells_damage(&error) || error.kind() == io::ErrorKind::NotFound;
    (!is_damage).then_some(error)
}

/// sled reports a lock held by another owner as an error of kind `Other`, told apart only by its
/// text.
fn is_lock_conflict(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
        || error.to_string().contains("could not acquire lock")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_panic(text: &str, expected: Option<i32>) {
        let failed = guarded::<()>("opening", || std::panic::panic_any(text.to_owned()));
        match failed.unwrap_err() {
            StoreFailure::Io(error) => assert_eq!(error.raw_os_error(), expected, "{text}"),
            StoreFailure::Damaged(why) => assert_eq!(expected, None, "{why}"),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_shortage_that_sled_panics_over_is_no_damage() {
        // As `unwrap` prints a refused thread, and `{}` a refused file.
        let thread = "called `Result::unwrap()` on an `Err` value: Os { code: 11, kind: WouldBlock, \
                      message: \"Resource temporarily unavailable\" }";
        check_panic(thread, Some(11));
        check_panic("Io(Os { code: 12, kind: OutOfMemory, message: \"no memory\" })", Some(12));
        check_panic("open file at \"x/db\": Too many open files (os error 24)", Some(24));
        check_panic("tried to serialize Uninitialized", None);
        for text in OUT_OF_MEMORY {
            let memory = system_error_in(text).unwrap();
            assert_eq!(memory.kind(), io::ErrorKind::OutOfMemory, "{text}");
        }
        check_panic("unwrap: Os { code: 2, kind: NotFound, message: \"No such file\" }", None);
        check_panic("unwrap: Os { code: 21, kind: IsADirectory, message: \"\" }", None);
    }

    #[test]
    fn a_broken_thread_pool_of_sled_is_no_damage() {
        let broken = ::sled::Error::ReportableBug("IO thread unexpectedly panicked".to_owned());
        assert!(matches!(failure(broken), StoreFailure::Io(_)));
        let damaged = ::sled::Error::Corruption { at: None, bt: () };
        assert!(matches!(failure(damaged), StoreFailure::Damaged(_)));
    }
}
