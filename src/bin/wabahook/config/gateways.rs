//! The options of the gateways' APIs, under their own names.

use serde::Deserialize;
use wabahook::registration::{Dialog360, SessionGateway};

/// The limits of 360dialog's API, under its own names.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Dialog360Table {
    destinations_max: Option<usize>,
    destinations_wait: Option<bool>,
}

impl Dialog360Table {
    pub(super) fn read(&self) -> Result<Dialog360, String> {
        let mut dialog360 = Dialog360::default();
        dialog360.destinations_max = self.destinations_max.unwrap_or(dialog360.destinations_max);
        dialog360.destinations_wait = self.destinations_wait.unwrap_or(dialog360.destinations_wait);
        dialog360.check().map_err(|error| error.to_string())?;
        Ok(dialog360)
    }
}

/// The options of the session gateway's API.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct SessionTable {
    cors_origins: Option<Vec<String>>,
}

impl SessionTable {
    pub(super) fn read(self) -> Result<SessionGateway, String> {
        let mut session = SessionGateway::default();
        session.cors_origins = self.cors_origins.unwrap_or(session.cors_origins);
        session.check().map_err(|error| error.to_string())?;
        Ok(session)
    }
}
