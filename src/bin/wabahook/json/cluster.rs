//! The hosts of a cluster, as `/healthz` shows them.

use serde::{Deserialize, Serialize};

/// A host among others that serve the same store.
#[derive(Serialize, Deserialize)]
pub(crate) struct ClusterJson {
    /// The name of this host.
    pub(crate) host: String,
    /// The shards that this host serves.
    pub(crate) shards: Vec<u16>,
    pub(crate) hosts: Vec<ClusterHostJson>,
    /// The shards that no host serves at the moment.
    pub(crate) without_owner: Vec<u16>,
}

/// Which shards are in an answer about all accounts.
#[derive(Serialize, Deserialize)]
pub(crate) struct IncludedShardsJson {
    pub(crate) included: Vec<u16>,
    /// Those that had no owner.
    pub(crate) missing: Vec<u16>,
}

/// A live host.
#[derive(Serialize, Deserialize)]
pub(crate) struct ClusterHostJson {
    pub(crate) name: String,
    pub(crate) shards: Vec<u16>,
}
