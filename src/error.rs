//! Decides what can go wrong for a host, named by what the host can do about it.
//!
//! Leaves to others: what a receiver did. A failing endpoint is an [`Outcome`](crate::Outcome),
//! never an `Err`. Invariant (I9): no variant carries a secret or a payload into `Display` or
//! `Debug`; events that are handed back print their type and sizes only.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::event::Event;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, and so what the host can do. Each variant says what became of the engine.
///
/// ```
/// use wabahook::{Error, Event};
///
/// /// What a host does with the answer of `publish`.
/// fn advice(error: &Error) -> &'static str {
///     match error {
///         Error::Busy { .. } => "the events are in here: hold the sender back, try again",
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
    /// An argument is not acceptable. Correct it and call again; nothing was stored and the engine
    /// is unchanged.
    Invalid {
        /// The argument or field, as the caller knows it.
        field: String,
        /// What was given, shortened; never a secret or a payload.
        given: String,
        /// What would be right.
        expected: String,
    },
    /// The account may not use this number, WABA or subscription. The engine is unchanged.
    Forbidden {
        /// The argument or field that names what is not the account's.
        field: String,
        /// What was given.
        given: String,
    },
    /// The queue of events waiting for the device is full. Publish again later: the events are
    /// here, nothing of them was stored.
    Busy {
        /// The events, given back in the order in which they came.
        events: Vec<Event>,
        /// Which bound was reached.
        reason: String,
    },
    /// Larger than could ever be accepted. Split it or raise the limit; nothing was stored.
    TooLarge {
        /// What is too large.
        field: String,
        /// Its size, in the unit that `field` names.
        given: u64,
        /// The limit in force.
        limit: u64,
    },
    /// Nothing with this id or name belongs to the account. The engine is unchanged.
    NotFound {
        /// What was looked for.
        what: &'static str,
        /// The id or name given.
        given: String,
    },
    /// The name is taken by another subscription of the account. The engine is unchanged.
    NameTaken {
        /// The name given.
        name: String,
    },
    /// Another engine, in this process or another, has the directory open. Nothing was touched.
    InUse {
        /// The data directory.
        path: PathBuf,
    },
    /// A newer wabahook wrote the directory. Open it with that version; nothing was touched.
    NewerFormat {
        /// The data directory.
        path: PathBuf,
        /// The format version found.
        found: u32,
        /// The newest format version that this build reads.
        supported: u32,
    },
    /// The directory cannot be used as it is (missing rights, not a directory, no space). Nothing
    /// that was accepted is lost; put the cause right and open again.
    Directory {
        /// The data directory or the file in it.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the operating system said.
        source: Arc<std::io::Error>,
    },
    /// The store failed. What was accepted before is on the device. Put the cause right and call
    /// again: the engine opens what failed again by itself.
    Store {
        /// What was being done.
        doing: &'static str,
        /// What the store said.
        source: crate::store::Failure,
    },
    /// A stored record cannot be read. The record is named; the rest was left as it is.
    Damaged {
        /// Which record, by kind and key.
        record: String,
        /// What is wrong with it.
        why: String,
    },
    /// The write of this event's group failed half-way: it may yet be delivered. Publish again
    /// with the same dedup key; the engine says in its notices how it went on.
    Unknown {
        /// Why the group failed.
        why: String,
    },
    /// The device refused before this was written: nothing of it was stored. The engine tries the
    /// device again by itself; publish again later.
    Refused {
        /// What the device said.
        why: String,
    },
    /// The engine was closed. What it had accepted is on the device and goes on at the next open.
    Closed,
    /// A thread of the engine failed and the engine stopped. Nothing durable is lost: drop it and
    /// open it again.
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

    pub(crate) fn store(doing: &'static str, source: crate::store::Failure) -> Error {
        Error::Store { doing, source }
    }

    /// Whether something stored cannot be read, however it was found.
    pub(crate) fn is_damage(&self) -> bool {
        use crate::store::Failure;
        matches!(self, Error::Damaged { .. } | Error::Store { source: Failure::Damaged(_), .. })
    }

    /// Adds what somebody can do about damage, and what is lost by it.
    pub(crate) fn advised(mut self, advice: &str) -> Error {
        if let Error::Damaged { why, .. } = &mut self {
            *why = format!("{why}; {advice}");
        }
        self
    }

    /// The events that were not accepted, given back; empty unless this is [`Error::Busy`].
    ///
    /// ```
    /// use wabahook::{Error, Event};
    /// let error = Error::Busy { events: vec![Event::new("ADD_TAG", "{}")], reason: "full".into() };
    /// assert_eq!(error.into_events().len(), 1);
    /// ```
    pub fn into_events(self) -> Vec<Event> {
        match self {
            Error::Busy { events, .. } => events,
            _ => Vec::new(),
        }
    }

    /// The argument or field at fault, where there is one.
    pub fn field(&self) -> Option<&str> {
        match self {
            Error::Invalid { field, .. }
            | Error::Forbidden { field, .. }
            | Error::TooLarge { field, .. } => Some(field),
            Error::NameTaken { .. } => Some("name"),
            _ => None,
        }
    }

    /// Names the field from the outside in, as a caller of a batch needs it (`events[3].number`).
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

/// Cuts what was given to a length that fits a log line, at a character boundary.
fn shortened(given: &str) -> String {
    const KEPT: usize = 80;
    if given.chars().count() <= KEPT {
        return given.to_owned();
    }
    let mut kept: String = given.chars().take(KEPT).collect();
    kept.push_str("...");
    kept
}

/// What somebody can do about a refusal of the operating system.
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
                write!(f, "{field}: {given:?} is not acceptable; expected {expected}")
            }
            Error::Forbidden { field, given } => {
                write!(f, "{field}: {given:?} does not belong to this account")
            }
            Error::Busy { events, reason } => {
                write!(f, "busy: {reason}; {} event(s) given back, try again later", events.len())
            }
            Error::TooLarge { field, given, limit } => {
                write!(f, "{field}: {given} is over the limit of {limit}")
            }
            Error::NotFound { what, given } => write!(f, "no {what} {given:?} in this account"),
            Error::NameTaken { name } => {
                write!(f, "name: {name:?} is taken by another subscription of this account")
            }
            Error::InUse { path } => {
                write!(f, "data directory {} is already open in another engine", path.display())
            }
            Error::NewerFormat { path, found, supported } => write!(
                f,
                "data directory {} has format version {found}; this build reads up to {supported}: \
                 open it with a newer wabahook",
                path.display()
            ),
            Error::Directory { path, doing, source } => {
                write!(f, "{doing} {}: {source}{}", path.display(), advice(source))
            }
            Error::Store { doing, source } => {
                write!(f, "store failed while {doing}: {source}")?;
                match source {
                    crate::store::Failure::Io(error) => f.write_str(advice(error)),
                    _ => Ok(()),
                }
            }
            Error::Damaged { record, why } => write!(f, "stored {record} is damaged: {why}"),
            Error::Unknown { why } => write!(
                f,
                "unknown whether the event was stored ({why}); it may yet be delivered: publish \
                 again with the same dedup key"
            ),
            Error::Refused { why } => {
                write!(f, "not stored: the device refuses ({why}) and is tried again; try later")
            }
            Error::Closed => f.write_str("the engine is closed"),
            Error::Poisoned { why } => {
                write!(f, "the engine stopped ({why}); what it had accepted is safe: open it again")
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
    fn an_error_names_the_field_what_was_given_and_what_would_be_right() {
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
    fn what_was_given_is_shortened_at_a_character_boundary() {
        let Error::Invalid { given, .. } = Error::invalid("name", "ä".repeat(500), "less") else {
            panic!("another variant")
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
    fn errors_cross_threads_and_hide_payloads() {
        fn crosses<T: Send + Sync + 'static>() {}
        crosses::<Error>();
        let busy =
            Error::Busy { events: vec![Event::new("T", "hidden-payload")], reason: "full".into() };
        assert!(!format!("{busy:?} {busy}").contains("hidden-payload"));
    }
}
