//! Changing the secret of a subscription.

use serde::{Deserialize, Serialize};

use super::values::Whole;

/// The new secret, where one is given, and for how long the old one stays valid.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RotationJson {
    pub(crate) secret: Option<String>,
    pub(crate) overlap_ms: Whole<u64>,
}

/// The only answer that holds a secret.
#[derive(Serialize, Deserialize)]
pub(crate) struct NewSecretJson {
    pub(crate) id: u32,
    pub(crate) secret: String,
}
