//! A consistent copy of a running engine's directory. The subscriptions are read at the moment when the outbox is
//! sealed, so no event of the copy is owed to a subscription that the copy does not know.

use std::path::Path;

use super::data_directory;
use super::data_directory::HISTORY;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::store::Sled;

impl Engine {
    /// Writes a copy of everything durable into an empty or missing directory, which an engine can open: the
    /// subscriptions, the accounts, and every event acknowledged before the call with what it owes. Changes during
    /// the copy may or may not be in it; deliveries that end meanwhile are owed in the copy. The history of events
    /// is copied too, if there is one. Events are accepted and delivered meanwhile, and no disk is freed. Blocks; it
    /// reads the whole outbox.
    ///
    /// Never open the copy while this engine runs with the same receivers: both would deliver what is owed.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a directory that is not empty; [`Error::Directory`] or [`Error::Store`] when a device
    /// refuses. What is left in the directory then is no backup, and no engine opens it.
    ///
    /// ```
    /// # use wabahook::{Config, Engine, Event, Subscription};
    /// # let (directory, elsewhere) = (tempfile::tempdir()?, tempfile::tempdir()?);
    /// # let engine = Engine::open(Config::new(directory.path()))?;
    /// engine.backup(elsewhere.path().join("copy"))?;
    /// # engine.close(std::time::Duration::from_secs(10))?;
    /// let restored = Engine::open(Config::new(elsewhere.path().join("copy")))?;
    /// # restored.close(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn backup(&self, directory: impl AsRef<Path>) -> Result<()> {
        let directory = directory.as_ref();
        let shared = &self.shared;
        shared.check_open()?;
        if shared.dispatch_state.lock().is_stalled() {
            return Err(Error::Refused { why: "the device refuses writes".to_owned() });
        }
        data_directory::begin_backup(directory)?;
        let target = Sled::new(directory);
        // No subscription is changed between the two.
        let mut book = shared.book.lock();
        let outbox = shared.outbox.snapshot()?;
        book.as_mut().ok_or(Error::Closed)?.copy_to(&target)?;
        drop(book);
        outbox.copy_to(&target)?;
        drop(target);
        if let Some(history) = &shared.history {
            let copy = directory.join(HISTORY);
            let failed = |error| Error::directory("copying the history to", &copy, error);
            history.copy_to(&copy).map_err(failed)?;
        }
        data_directory::finish_backup(directory)
    }
}
