//! Checks sled's snapshots before sled reads them. A snapshot holds where the log's records are, so that
//! sled need not read all of the log at open. It is derived from the log, yet sled refuses to open a
//! database with a damaged one.
//!
//! Layout, of sled 0.34: a body, its length before compression (8 bytes), the CRC-32 of the body
//! (4 bytes, little-endian). sled reads the file with the greatest name.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const PREFIX: &str = "snap.";
const UNFINISHED: &str = ".generating";

/// What follows the body.
const LENGTH_BYTES: usize = 8;
const CHECKSUM_BYTES: usize = 4;

/// Moves damaged snapshots of a database out of sled's sight, and removes unfinished ones, which an
/// open on a full disk leaves. All are moved if the newest is damaged: an older one does not know
/// what changed in the log since, and sled would lose that silently.
pub(super) fn set_damaged_aside(database: &Path) -> io::Result<()> {
    let mut whole = Vec::<(PathBuf, String)>::new();
    for entry in fs::read_dir(database)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if !name.starts_with(PREFIX) {
            continue;
        }
        match name.ends_with(UNFINISHED) {
            true => fs::remove_file(entry.path())?,
            false => whole.push((entry.path(), name)),
        }
    }
    whole.sort_unstable();
    let Some((newest, _)) = whole.last() else { return Ok(()) };
    if is_whole(&fs::read(newest)?) {
        return Ok(());
    }
    for (path, name) in &whole {
        let snapshot = path.display();
        tracing::warn!(%snapshot, "a damaged snapshot was set aside; the log is read whole instead");
        fs::rename(path, database.join(format!("damaged-{name}")))?;
    }
    Ok(())
}

fn is_whole(snapshot: &[u8]) -> bool {
    let Some((rest, checksum)) = snapshot.split_last_chunk::<CHECKSUM_BYTES>() else {
        return false;
    };
    let Some((body, _)) = rest.split_last_chunk::<LENGTH_BYTES>() else { return false };
    !body.is_empty() && crc32fast::hash(body) == u32::from_le_bytes(*checksum)
}
