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
            Err(StoreFailure::Damaged(format!("sled panicked while {doing} ({text})")))
        }
    }
}

fn failure(error: ::sled::Error) -> StoreFailure {
    match error {
        ::sled::Error::Io(error) if is_lock_conflict(&error) => StoreFailure::InUse,
        // A file is shorter than it was, or of another kind.
        ::sled::Error::Io(error)
            if matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::IsADirectory
                    | io::ErrorKind::NotADirectory
            ) =>
        {
            StoreFailure::Damaged(error.to_string())
        }
        ::sled::Error::Io(error) => StoreFailure::io(error),
        other => StoreFailure::Damaged(other.to_string()),
    }
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
