//! Where a backup is written.

use serde::{Deserialize, Serialize};

/// A directory of the host's machine.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BackupJson {
    pub(crate) directory: String,
}
