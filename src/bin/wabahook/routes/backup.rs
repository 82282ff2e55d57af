//! `POST /admin/backup`: writes a copy of the data directory on the host's machine, for the operator: what the engine
//! keeps, and the audit log.

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::Request;
use axum::http::StatusCode;

use crate::host::{HostRef, off_thread};
use crate::http_error::{HttpError, RouteResult};
use crate::json::{BackupJson, parse, utf8};
use crate::response::json;

const BODY_BYTES_MAX: usize = 16 * 1024;

/// `POST /admin/backup`.
pub(crate) async fn backup(host: HostRef, request: Request) -> RouteResult {
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
        let _permit = permit;
        host.engine.backup(&path)?;
        match &host.shared.audit {
            Some(audit) => audit.copy_to(&path).map_err(|error| no_audit_log(&error)),
            None => Ok(()),
        }
    });
    written.await??;
    tracing::info!(directory, "a backup was written");
    Ok(json(StatusCode::CREATED, &BackupJson { directory }))
}

/// The copy of the engine is whole and can be opened; the audit log is not in it.
fn no_audit_log(error: &std::io::Error) -> HttpError {
    let message = format!("the backup has no audit log, which cannot be copied: {error}");
    HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
}
