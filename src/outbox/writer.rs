//! Writes groups to the newest generation.
//!
//! A group is one commit of the store: its batches are applied in order and are durable together.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::store::{Batch, Database, StoreFailure};

use super::commit_event::OwedEvent;
use super::cursor::Cursor;
use super::generations::{EventCount, Generation, GenerationStart, Generations};
use super::group::{CommitGroup, batches};

pub(super) struct GroupWriter {
    pub(super) generations: Arc<Generations>,
    pub(super) cursor: Cursor,
}

pub(super) struct FailedWrite {
    pub(super) group: CommitGroup,
    pub(super) error: Error,
}

impl GroupWriter {
    /// Applies and syncs a group, and counts it in its generation.
    pub(super) fn write(&self, group: &mut CommitGroup) -> Result<()> {
        let (bytes, pages) = (group.bytes(), group.pages());
        self.commit(batches(std::mem::take(&mut group.operations), &group.atomic))?;
        group.synced = bytes > 0;
        self.count(&group.owed, |generation| {
            generation.bytes += bytes;
            generation.pages += pages;
        });
        Ok(())
    }

    /// Counts events that are now on the device in the newest generation, and changes what else is known of it.
    pub(super) fn count(&self, owed: &[OwedEvent], change: impl FnOnce(&mut Generation)) {
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let counts = owed.iter().map(|OwedEvent { event, targets }| EventCount {
            sequence: event.id.sequence(),
            deliveries: narrow(targets.len()),
            payload_bytes: narrow(event.payload.len()),
            account: self.generations.accounts().refer(&event.account),
        });
        let generation = self.cursor.generation;
        self.generations.update(|index| index.add_events(generation, counts.clone()));
        self.generations.change(self.cursor.generation, |generation| {
            generation.events += owed.len() as u64;
            generation.owed += counts.map(|count| u64::from(count.deliveries)).sum::<u64>();
            change(generation);
        });
    }

    fn commit(&self, batches: Vec<Batch>) -> Result<()> {
        if batches.is_empty() {
            return Ok(());
        }
        let closed = || Error::store("writing a group", StoreFailure::Closed);
        let database = self.generations.active().ok_or_else(closed)?;
        commit_all(&*database, batches)
    }

    /// Begins the next generation. Where the store refuses, the current one takes more until the next try.
    pub(super) fn begin_generation(&mut self) -> Result<()> {
        let sealed = self.cursor.generation;
        if self.generations.active().is_none() {
            return Ok(());
        }
        if self.generations.begin(&mut self.cursor, sealed + 1)? == GenerationStart::Begun {
            self.generations.close_sealed(sealed);
        }
        Ok(())
    }
}

pub(super) fn commit_all(database: &dyn Database, batches: Vec<Batch>) -> Result<()> {
    if batches.is_empty() {
        return Ok(());
    }
    database.commit(batches).map_err(|failure| Error::store("writing a group", failure))
}
