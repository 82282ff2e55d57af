//! The account of a key: its WABAs and numbers, and the event types of the catalogue.

use serde::{Deserialize, Serialize};

use super::admin::AccountWabaJson;

#[derive(Serialize, Deserialize)]
pub(crate) struct AccountJson {
    pub(crate) name: String,
    pub(crate) wabas: Vec<AccountWabaJson>,
    pub(crate) event_types: Vec<EventTypeJson>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct EventTypeJson {
    pub(crate) name: String,
    /// The name of its trigger in a gateway's own console.
    pub(crate) label: Option<String>,
    /// `callbacks` if callbacks of Meta become events of it, `publish` if only `POST /events` publishes them.
    pub(crate) source: String,
}
