//! A hint about the name of an accepted event type: it is unknown, perhaps with the known name that it resembles, or
//! only a host publishes it.

use std::fmt;

/// A hint about the name of an event type, for the person who wrote it. The name is accepted as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeHint {
    name: String,
    reason: HintReason,
}

/// The reason of a hint.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HintReason {
    /// The catalogue does not know the name.
    Unknown {
        /// The known name that resembles it most, if one does.
        nearest: Option<String>,
    },
    /// No callback of Meta becomes an event of this type.
    PublishOnly,
}

impl TypeHint {
    pub(super) fn unknown(name: &str, nearest: Option<&str>) -> TypeHint {
        let reason = HintReason::Unknown { nearest: nearest.map(str::to_owned) };
        TypeHint { name: name.to_owned(), reason }
    }

    pub(super) fn publish_only(name: &str) -> TypeHint {
        TypeHint { name: name.to_owned(), reason: HintReason::PublishOnly }
    }

    /// The name as it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The reason of the hint.
    pub fn reason(&self) -> &HintReason {
        &self.reason
    }
}

impl fmt::Display for TypeHint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match &self.reason {
            HintReason::Unknown { nearest: Some(nearest) } => {
                write!(f, "{name}: did you mean {nearest}?")
            }
            HintReason::Unknown { nearest: None } => {
                write!(f, "{name}: unknown event type; it means only events published by this name")
            }
            HintReason::PublishOnly => {
                write!(f, "{name}: no callback of Meta becomes this type; it must be published")
            }
        }
    }
}

/// The most edits between a name and one that it may be meant for.
const EDITS_MAX: usize = 3;

/// The known name with the fewest edits to a name, in any case: at most one for every four of its bytes.
pub(super) fn nearest<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let edits_max = EDITS_MAX.min(name.len() / 4);
    let folded = name.to_ascii_lowercase();
    // The length alone rules out most names, at no cost.
    let candidates = known.filter(|one| one.len().abs_diff(name.len()) <= edits_max);
    let counted = candidates
        .map(|one| (strsim::osa_distance(&folded, &one.to_ascii_lowercase()), one))
        .filter(|(edits, _)| *edits <= edits_max);
    counted.min().map(|(_, one)| one)
}
