//! Durations as whole milliseconds, for stored records and JSON.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer};

use crate::clock::millis;

pub(crate) fn serialize<S: Serializer>(span: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(millis(*span))
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    u64::deserialize(from).map(Duration::from_millis)
}
