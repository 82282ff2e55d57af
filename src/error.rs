//! The errors of the library, one variant for each thing that a host can do about one.
//!
//! A failing receiver is an [`Outcome`](crate::Outcome), never an `Err`. No variant contains a secret or a
//! payload (I9).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The result of this crate's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong. Each variant documents what the host can do and what state the engine is in.
///
/// ```
/// use wabahook::Error;
///
/// /// What a host does when `publish` or its receipt fails.
/// fn advice(error: &Error) -> &'static str {
///     match error {
///         Error::Busy { .. } | Error::LimitReached { .. } => "hold the sender back and try again",
///         Error::Invalid { .. } | Error::Forbidden { .. } | Error::TooLarge { .. } => "refuse it",
///         Error::Unknown { .. } | Error::Refused { .. } => "publish it again, same dedup key",
///         _ => "open the engine again",
///     }
/// }
/// assert_eq!(advice(&Error::Unknown { why: "no space".into() }), "publish it again, same dedup key");
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Error {
    /// An argument is invalid. Correct it and call again; nothing was stored and the engine is unchanged.
    Invalid {
        /// The argument or field, as the caller knows it.
        field: String,
        /// The given value, shortened; never a secret or a payload.
        given: String,
        /// What would be valid.
        expected: String,
    },
    /// The account may not use this number, WABA or subscription. The engine is unchanged.
    Forbidden {
        /// The argument or field at fault.
        field: String,
        /// The given value.
        given: String,
    },
    /// A bound of the engine as a whole is reached, such as that of the queue of events waiting for the device.
    /// Nothing was stored; [`PublishError`](crate::PublishError) gives the events back. Publish them again later.
    Busy {
        /// Which bound was reached.
        reason: String,
    },
    /// The account reached one of its own [limits](crate::AccountLimits); other accounts are not affected. Nothing
    /// was stored; [`PublishError`](crate::PublishError) gives the events back.
    LimitReached {
        /// The name of the limit, as in [`AccountLimits`](crate::AccountLimits) or
        /// [`AccountBounds`](crate::AccountBounds).
        limit: &'static str,
        /// How much of it the account uses.
        used: u64,
        /// How much it may use.
        allowed: u64,
        /// When the same call may succeed; `None` if only a change of the account's makes room, such as the removal
        /// of a subscription.
        retry_after: Option<Duration>,
    },
    /// Larger than the limit allows. Split it or raise the limit; nothing was stored.
    TooLarge {
        /// What is too large.
        field: String,
        /// Its size, in the unit that `field` names.
        given: u64,
        /// The limit in force.
        limit: u64,
    },
    /// The account has nothing with this id or name. The engine is unchanged.
    NotFound {
        /// What was looked up.
        what: &'static str,
        /// The given id or name.
        given: String,
    },
    /// Another subscription of the account has this name. The engine is unchanged.
    NameTaken {
        /// The given name.
        name: String,
    },
    /// Another engine, in this process or another, has the directory open. Nothing was changed.
    InUse {
        /// The data directory.
        path: PathBuf,
    },
    /// Another version of wabahook wrote the directory or store in a format that this one does not read. Open it
    /// with that version; nothing was touched.
    UnsupportedFormat {
        /// The data directory; `None` where a store was given.
        path: Option<PathBuf>,
        /// The format version found.
        found: u32,
        /// The format version that this build reads.
        supported: u32,
    },
    /// The directory is unusable: missing permissions, not a directory, no space. Nothing that was accepted is
    /// lost. Remove the cause and open it again.
    Directory {
        /// The data directory or the file in it.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the operating system said.
        source: Arc<std::io::Error>,
    },
    /// The store failed. What was accepted before is on the device. Remove the cause and call again; the engine
    /// reopens what failed by itself.
    Store {
        /// What was being done.
        doing: &'static str,
        /// What the store said.
        source: crate::store::StoreFailure,
    },
    /// A stored record is unreadable. Everything was left as it is.
    Damaged {
        /// Which record, by kind and key.
        record: String,
        /// What is wrong with it.
        why: String,
    },
    /// The write of this event's group failed half-way, so the event may still be delivered. Publish it again with
    /// the same dedup key. A notice reports how the engine continues.
    Unknown {
        /// Why the group failed.
        why: String,
    },
    /// The device refused writes before this was written. Nothing of it was stored. The engine retries the device
    /// by itself; publish again later.
    Refused {
        /// What the device said.
        why: String,
    },
    /// Another host has taken over the store, and this engine has stopped. What it accepted is safe and is
    /// delivered there. Publish there, or open the engine again to wait for the ownership.
    NotOwner,
    /// The engine was closed. What it accepted is on the device and is delivered after the next open.
    Closed,
    /// A thread of the engine failed and the engine stopped. Nothing durable is lost. Drop it and open it again.
    Poisoned {
        /// What failed.
        why: String,
    },
}

impl Error {
    pub(crate) fn invalid(
        field: impl Into<String>,
        given: impl fmt::Display,
        expected: impl Into<String>,
    ) -> Error {
        Error::Invalid {
            field: field.into(),
            given: shortened(&given.to_string()),
            expected: expected.into(),
        }
    }

    pub(crate) fn forbidden(field: impl Into<String>, given: impl fmt::Display) -> Error {
        Error::Forbidden { field: field.into(), given: shortened(&given.to_string()) }
    }

    pub(crate) fn directory(doing: &'static str, path: &Path, source: std::io::Error) -> Error {
        Error::Directory { path: path.to_owned(), doing, source: Arc::new(source) }
    }

    pub(crate) fn store(doing: &'static str, source: crate::store::StoreFailure) -> Error {
        match source {
            crate::store::StoreFailure::Fenced => Error::NotOwner,
            source => Error::Store { doing, source },
        }
    }

    /// A thread of the engine could not be started.
    pub(crate) fn thread(error: std::io::Error) -> Error {
        Error::store("starting a thread", crate::store::StoreFailure::io(error))
    }

    /// Whether stored data is unreadable.
    pub(crate) fn is_damage(&self) -> bool {
        use crate::store::StoreFailure;
        matches!(
            self,
            Error::Damaged { .. } | Error::Store { source: StoreFailure::Damaged(_), .. }
        )
    }

    /// Adds what an operator can do about damage, and what is lost.
    pub(crate) fn advised(mut self, advice: &str) -> Error {
        if let Error::Damaged { why, .. } = &mut self {
            *why = format!("{why}; {advice}");
        }
        self
    }

    /// The argument or field at fault, if there is one.
    pub fn field(&self) -> Option<&str> {
        match self {
            Error::Invalid { field, .. }
            | Error::Forbidden { field, .. }
            | Error::TooLarge { field, .. } => Some(field),
            Error::NameTaken { .. } => Some("name"),
            Error::LimitReached { limit, .. } => Some(limit),
            _ => None,
        }
    }

    /// Prefixes the field with the outer one, for batches (`events[3].number`).
    pub(crate) fn within(mut self, outer: &str) -> Error {
        if let Error::Invalid { field, .. }
        | Error::Forbidden { field, .. }
        | Error::TooLarge { field, .. } = &mut self
        {
            *field = format!("{outer}.{field}");
        }
        self
    }
}

/// Cuts a value to a length that fits a log line, at a character boundary.
fn shortened(given: &str) -> String {
    const KEPT: usize = 80;
    if given.chars().count() <= KEPT {
        return given.to_owned();
    }
    let mut kept: String = given.chars().take(KEPT).collect();
    kept.push_str("...");
    kept
}

/// What an operator can do about an error of the operating system.
fn advice(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    match error.kind() {
        StorageFull | QuotaExceeded => "; free some space and try again: what was accepted is safe",
        PermissionDenied | ReadOnlyFilesystem => {
            "; let this process read and write there and try again: what was accepted is safe"
        }
        _ => "",
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Invalid { field, given, expected } => {
                write!(f, "{field}: {given:?} is invalid; expected {expected}")
            }
            Error::Forbidden { field, given } => {
                write!(f, "{field}: {given:?} does not belong to this account")
            }
            Error::Busy { reason } => write!(f, "busy: {reason}; try again later"),
            Error::LimitReached { limit, used, allowed, retry_after } => {
                write!(f, "{limit}: the account uses {used} of {allowed}")?;
                match retry_after {
                    Some(_) => f.write_str("; try again later"),
                    None => Ok(()),
                }
            }
            Error::TooLarge { field, given, limit } => {
                write!(f, "{field}: {given} is over the limit of {limit}")
            }
            Error::NotFound { what, given } => write!(f, "no {what} {given:?} in this account"),
            Error::NameTaken { name } => {
                write!(f, "name: another subscription of this account is named {name:?}")
            }
            Error::InUse { path } => {
                write!(f, "data directory {} is already open in another engine", path.display())
            }
            Error::UnsupportedFormat { path, found, supported } => {
                match path {
                    Some(path) => write!(f, "data directory {}", path.display())?,
                    None => f.write_str("the store")?,
                }
                write!(
                    f,
                    " has format version {found}; this build reads version {supported}: open it with the wabahook \
                     that wrote it"
                )
            }
            Error::Directory { path, doing, source } => {
                write!(f, "{doing} {}: {source}{}", path.display(), advice(source))
            }
            Error::Store { doing, source } => {
                write!(f, "store failed while {doing}: {source}")?;
                match source {
                    crate::store::StoreFailure::Io(error) => f.write_str(advice(error)),
                    _ => Ok(()),
                }
            }
            Error::Damaged { record, why } => write!(f, "stored {record} is damaged: {why}"),
            Error::Unknown { why } => write!(
                f,
                "unknown whether the event was stored ({why}); it may still be delivered: publish it \
                 again with the same dedup key"
            ),
            Error::Refused { why } => {
                write!(
                    f,
                    "not stored: the device refuses writes ({why}) and is retried; try again later"
                )
            }
            Error::NotOwner => f.write_str(
                "another host has taken over this store; what was accepted is safe and is delivered there",
            ),
            Error::Closed => f.write_str("the engine is closed"),
            Error::Poisoned { why } => {
                write!(f, "the engine stopped ({why}); what it accepted is safe: open it again")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Directory { source, .. } => Some(source.as_ref()),
            Error::Store { source, .. } => Some(source),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    fn check(error: Error, says: &[&str]) {
        let text = error.to_string();
        for part in says {
            assert!(text.contains(part), "{text:?} does not say {part:?}");
        }
    }

    #[test]
    fn an_error_names_field_value_and_expectation() {
        check(
            Error::invalid("number", "91x", "7 to 15 digits"),
            &["number", "91x", "7 to 15 digits"],
        );
        check(
            Error::TooLarge { field: "payload".into(), given: 5, limit: 4 },
            &["payload", "5", "4"],
        );
    }

    #[test]
    fn a_format_is_that_of_a_directory_or_of_the_store() {
        let error = |path| Error::UnsupportedFormat { path, found: 9, supported: 4 };
        check(error(Some("data".into())), &["data directory data has", "9", "4"]);
        check(error(None), &["the store has format version 9"]);
    }

    #[test]
    fn a_value_is_shortened_at_a_character_boundary() {
        let Error::Invalid { given, .. } = Error::invalid("name", "ä".repeat(500), "less") else {
            panic!("not Invalid")
        };
        assert_eq!(given.chars().count(), 83);
    }

    #[test]
    fn a_source_is_kept() {
        let error =
            Error::directory("creating", Path::new("/x"), std::io::Error::other("no such luck"));
        assert!(error.source().is_some_and(|s| s.to_string().contains("no such luck")));
    }

    #[test]
    fn errors_cross_threads() {
        fn crosses<T: Send + Sync + 'static>() {}
        crosses::<Error>();
    }
}
