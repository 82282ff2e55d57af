//! Serializes a value as the text of its `Display`, for the feature `serde`.

use std::fmt::Display;

use serde::Serializer;

pub(crate) fn serialize<T: Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}
