//! A consistent copy of the outbox. The newest generation is sealed, so everything that was acknowledged before is
//! in sealed generations, which are only read from then on. None is removed until the copy is made, because what is
//! alive in a removed one would be in a newer generation that is not copied.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::store::{Database, Store, StoreFailure};

use super::Outbox;
use super::command::{CommitterCommand, SealedOutbox};
use super::committer::Committer;
use super::dedup::database::DEDUP_DATABASE;
use super::generations::{self, Generations, RemovalHold};

pub(crate) struct OutboxSnapshot {
    sealed: SealedOutbox,
    generations: Arc<Generations>,
    _hold: RemovalHold,
}

impl Outbox {
    /// Seals what was sent before.
    ///
    /// # Errors
    /// [`Error::Refused`] while the device refuses writes.
    pub(crate) fn snapshot(&self) -> Result<OutboxSnapshot> {
        let hold = self.generations.hold_removals();
        let sealed = self.wait(self.ask(CommitterCommand::Seal))?;
        Ok(OutboxSnapshot { sealed, generations: Arc::clone(&self.generations), _hold: hold })
    }
}

impl OutboxSnapshot {
    /// Writes the copy into an empty store.
    pub(crate) fn copy_to(&self, target: &dyn Store) -> Result<()> {
        for number in &self.sealed.numbers {
            let from = self.generations.database(*number)?;
            copy(&*from, target, &generations::name_of(*number))?;
        }
        copy(&*self.sealed.dedup_database, target, DEDUP_DATABASE)
    }
}

fn copy(from: &dyn Database, target: &dyn Store, name: &str) -> Result<()> {
    let copied = target.open(name).and_then(|to| crate::store::copy_database(from, &*to));
    copied.map_err(|failure| Error::store("writing the backup", failure))
}

impl Committer {
    /// Seals the newest generation and answers which ones are sealed.
    pub(super) fn seal(&mut self) -> Result<SealedOutbox> {
        let newest = self.writer.cursor.generation;
        self.writer.begin_generation()?;
        let is_sealed = self.writer.cursor.generation > newest;
        let dedup_database = self.compactor.dedup_database.handle(&self.writer.generations);
        let (true, Some(dedup_database)) = (is_sealed, dedup_database) else {
            let why = StoreFailure::io(std::io::Error::other("the device refuses writes"));
            return Err(Error::store("sealing a generation", why));
        };
        let numbers = self.writer.generations.sealed_numbers();
        Ok(SealedOutbox { numbers, dedup_database })
    }
}
