//! How serde writes a value whose own form would be another, for `#[serde(with = "..")]`.

/// Durations as whole milliseconds, for stored records and JSON.
pub(crate) mod duration_ms {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    use crate::clock::millis;

    pub(crate) fn serialize<S: Serializer>(span: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(millis(*span))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}

/// A value as the text of its `Display`.
#[cfg(feature = "serde")]
pub(crate) mod display {
    use std::fmt::Display;

    use serde::Serializer;

    pub(crate) fn serialize<T: Display, S: Serializer>(
        value: &T,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }
}
