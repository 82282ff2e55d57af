//! What went wrong: the answer of the host's own routes, and what a command prints with `--json`.

use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
pub(crate) struct ErrorJson {
    pub(crate) error: ErrorDetailJson,
}

/// What is inside of an error.
#[derive(Serialize, Deserialize)]
pub(crate) struct ErrorDetailJson {
    pub(crate) code: String,
    pub(crate) message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) field: Option<String>,
}
