//! A notice: one line of the stream `GET /notices`.

use serde::{Deserialize, Serialize};

use super::values::TimestampJson;

#[derive(Serialize, Deserialize, Default)]
pub(crate) struct NoticeJson {
    pub(crate) at: TimestampJson,
    pub(crate) kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subscription: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) event_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) count: Option<u64>,
}
