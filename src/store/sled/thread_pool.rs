//! sled's pool of threads, which all databases of the process share.
//!
//! Its seven threads wait for work for a second at a time, a constant of sled's, so an idle process
//! wakes seven times a second. How late the system may wake a thread is inherited from the thread that starts it. So the
//! pool is started here, before any database needs it, by a thread that allows much delay. Work still wakes it at once.

use std::path::Path;
use std::sync::Once;
use std::time::Duration;

use super::errors::guarded;
use super::{UNFINISHED, config, open_unlocked, remove_directory};
use crate::process::threads;
use crate::store::{StoreFailure, private};

/// How late a thread of the pool may notice that it had no work for a second.
const TIMER_SLACK: Duration = Duration::from_secs(60);

static STARTED: Once = Once::new();

/// Starts the pool, once in the process, by writing a database in `root` that is removed again. Where that fails,
/// sled starts the pool when it first needs it.
pub(super) fn start(root: &Path) {
    STARTED.call_once(|| {
        let path = root.join(format!("pool.{UNFINISHED}"));
        let _ = threads::with_timer_slack(TIMER_SLACK, || write_database(&path));
        let _ = remove_directory(&path);
    });
}

/// Writes a database, which makes sled use its pool.
fn write_database(path: &Path) -> Result<(), StoreFailure> {
    remove_directory(path)?;
    private::create_directories(path).map_err(StoreFailure::io)?;
    // Without the flusher, whose timers must not be late.
    let tree = open_unlocked(&config(path).flush_every_ms(None))?;
    guarded("starting its threads", move || {
        tree.insert(b"", b"")?;
        tree.flush().map(drop)
    })
}
