//! `POST /admin/backup`: writes a copy of the data directory on the host's machine, for the operator.

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;

use crate::host::{HostState, off_thread};
use crate::http_error::HttpError;
use crate::json::{BackupJson, parse, utf8};
use crate::response::json;

const BODY_BYTES_MAX: usize = 16 * 1024;

/// `POST /admin/backup`.
pub(crate) async fn backup(
    State(host): State<Arc<HostState>>,
    request: Request,
) -> Result<Response, HttpError> {
    let (caller, body) = host.admit(request, BODY_BYTES_MAX).await?;
    caller.require_operator()?;
    let BackupJson { directory } = parse(utf8(&body.bytes)?)?;
    let path = PathBuf::from(&directory);
    if !path.is_absolute() {
        return Err(HttpError::invalid("directory", "expected an absolute path"));
    }
    let permit = Arc::clone(&host.shared.backups).try_acquire_owned();
    let permit = permit.map_err(|_| HttpError::busy("a backup is being written already"))?;
    let written = off_thread(move || {
        let written = host.engine.backup(&path);
        drop(permit);
        written
    });
    written.await??;
    tracing::info!(directory, "a backup was written");
    Ok(json(StatusCode::CREATED, &BackupJson { directory }))
}
