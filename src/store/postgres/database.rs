//! One open table as a [`Database`] of the contract. A commit is one statement, which writes all of its batches or
//! none; where its outcome is unknown the database refuses writes until it is opened again.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio_postgres::types::Type;
use tokio_postgres::{Error, Row};

use super::mirror::{CommitEffect, Mirror};
use super::runtime::on_waiting_thread;
use super::session::{CommitStatements, Parameter, Session};
use super::{PostgresState, STATEMENT_DEADLINE, sql};
use crate::store::{Batch, Database, KeyValue, Operation, StoreFailure, Visit};
use crate::text::debug_fields;

/// How many rows are read at a time.
const PAGE_ROWS: usize = 512;

pub(super) struct PostgresDatabase {
    shared: Arc<PostgresState>,
    name: String,
    table: String,
    mirror: Mutex<Mirror>,
    has_failed: AtomicBool,
    /// The statements of commits, and the epoch of the session that prepared them.
    prepared: Mutex<Option<(i64, CommitStatements)>>,
}

impl PostgresDatabase {
    /// Opens the table of a database, and creates it where it is missing.
    pub(super) fn open(
        shared: &Arc<PostgresState>,
        name: &str,
    ) -> Result<PostgresDatabase, StoreFailure> {
        let table = shared.connector.table(name);
        let exists = shared.names()?.iter().any(|found| found == name);
        if !exists {
            shared.create_table(name)?;
        }
        let mirror = if exists { Mirror::Absent { reads: 0 } } else { Mirror::empty() };
        Ok(PostgresDatabase {
            shared: Arc::clone(shared),
            name: name.to_owned(),
            table,
            mirror: Mutex::new(mirror),
            has_failed: AtomicBool::new(false),
            prepared: Mutex::default(),
        })
    }

    /// Writes operations in one commit.
    fn write(&self, operations: Vec<Operation>) -> Result<(), StoreFailure> {
        let effect = CommitEffect::of(operations, &self.mirror.lock());
        let session = self.shared.session()?;
        session.take_warning();
        let outcome = match self.send(&session, &effect) {
            Ok(true) if session.take_warning() => {
                // The server gave up waiting for the standby. What the next epoch confirms covers this commit.
                session.fail();
                Err(StoreFailure::io(std::io::Error::other("the standby has not confirmed")))
            }
            Ok(true) => Ok(()),
            // Another thread has given the session up and taken a new epoch of the same ownership.
            Ok(false) if session.has_failed() => {
                Err(StoreFailure::io(std::io::Error::other("the session was replaced")))
            }
            Ok(false) => {
                self.shared.ownership.lose();
                Err(StoreFailure::Fenced)
            }
            Err(failure) => Err(failure),
        };
        if outcome.is_err() {
            self.has_failed.store(true, Ordering::Release);
        }
        outcome.map(|()| self.mirror.lock().write(effect))
    }

    /// Sends what a commit writes. Returns whether this store is still the owner.
    fn send(&self, session: &Session, effect: &CommitEffect) -> Result<bool, StoreFailure> {
        let statements = self.statements(session)?;
        let commit = session.commit(&statements, effect);
        session.checked(self.shared.sessions.run(STATEMENT_DEADLINE, commit))
    }

    fn statements(&self, session: &Session) -> Result<CommitStatements, StoreFailure> {
        let mut prepared = self.prepared.lock();
        if let Some((epoch, statements)) = &*prepared
            && *epoch == session.epoch()
        {
            return Ok(statements.clone());
        }
        let prepare = session.prepare_commit(&self.table);
        let statements = session.checked(self.shared.sessions.run(STATEMENT_DEADLINE, prepare))?;
        *prepared = Some((session.epoch(), statements.clone()));
        Ok(statements)
    }

    /// Reads on the present session, and once more on a new one if that one is broken.
    fn read(&self, text: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, StoreFailure> {
        let on = |session: Arc<Session>| {
            let reading = session.read(text, parameters);
            session.checked(self.shared.sessions.run(STATEMENT_DEADLINE, reading))
        };
        on_waiting_thread(|| match on(self.shared.session()?) {
            Err(StoreFailure::Io(_)) => on(self.shared.session()?),
            read => read,
        })
    }

    /// Keys and values in order from `from` on and below `end`, at most a page of them.
    fn page(&self, from: &[u8], end: Option<&[u8]>) -> Result<Vec<KeyValue>, StoreFailure> {
        if let Some(mut page) = self.mirror.lock().page(from, PAGE_ROWS) {
            page.retain(|(key, _)| end.is_none_or(|end| key.as_slice() < end));
            return Ok(page);
        }
        let limit = i64::try_from(PAGE_ROWS).unwrap_or(i64::MAX);
        let parameters: [Parameter<'_>; 3] =
            [(&from, Type::BYTEA), (&limit, Type::INT8), (&end, Type::BYTEA)];
        let rows = self.read(&sql::page(&self.table), &parameters)?;
        rows.iter().map(pair_in).collect()
    }

    /// Reads the whole table, if it is small enough to keep. One statement streams it, where pages would each wait for the
    /// one before.
    fn fetch(&self) -> Result<(), StoreFailure> {
        let fetched = self.whole();
        let mut mirror = self.mirror.lock();
        match fetched {
            Ok(Some(pairs)) => mirror.end_fetch(Some(pairs)),
            Ok(None) => mirror.give_up(),
            Err(failure) => {
                mirror.end_fetch(None);
                return Err(failure);
            }
        }
        Ok(())
    }

    /// All keys and values; `None` where they are too many to keep.
    fn whole(&self) -> Result<Option<Vec<KeyValue>>, StoreFailure> {
        let size = self.read(sql::SIZE, &[(&self.table, Type::TEXT)])?;
        let size: i64 = size.first().map_or(Ok(0), |row| row.try_get(0)).map_err(unreadable)?;
        // Up to a half may be rows that are gone.
        if Mirror::is_too_large(usize::try_from(size / 2).unwrap_or(usize::MAX)) {
            return Ok(None);
        }
        let rows = self.read(&sql::whole(&self.table), &[])?;
        rows.iter().map(pair_in).collect::<Result<_, _>>().map(Some)
    }

    /// Calls `visit` with each pair of a prefix, from a key on, page by page.
    fn each_pair(
        &self,
        prefix: &[u8],
        from: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreFailure> {
        let (mut next, end) = (prefix.max(from).to_vec(), end_of(prefix));
        loop {
            let page = self.page(&next, end.as_deref())?;
            for (key, value) in &page {
                if let ControlFlow::Break(()) = visit(key, value) {
                    return Ok(());
                }
            }
            match page.last().filter(|_| page.len() == PAGE_ROWS) {
                // The next greater key.
                Some((key, _)) => next = [key.as_slice(), &[0]].concat(),
                None => return Ok(()),
            }
        }
    }
}

impl Drop for PostgresDatabase {
    fn drop(&mut self) {
        self.shared.open.lock().remove(&self.name);
    }
}

debug_fields!(PostgresDatabase: name);

impl Database for PostgresDatabase {
    fn commit(&self, batches: Vec<Batch>) -> Result<(), StoreFailure> {
        batches.iter().try_for_each(Batch::check)?;
        if self.has_failed.load(Ordering::Acquire) {
            return Err(StoreFailure::Closed);
        }
        let operations: Vec<_> = batches.into_iter().flat_map(Batch::into_operations).collect();
        if operations.is_empty() {
            return self.shared.ownership.check();
        }
        on_waiting_thread(|| self.write(operations))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFailure> {
        if let Some(known) = self.mirror.lock().get(key) {
            return Ok(known);
        }
        on_waiting_thread(|| {
            let fetches = self.mirror.lock().begin_fetch();
            if fetches {
                self.fetch()?;
                if let Some(known) = self.mirror.lock().get(key) {
                    return Ok(known);
                }
            }
            let rows = self.read(&sql::get(&self.table), &[(&key, Type::BYTEA)])?;
            rows.first().map(|row| row.try_get(0)).transpose().map_err(unreadable)
        })
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreFailure> {
        self.each_pair(prefix, from, visit)
    }

    fn last(&self, prefix: &[u8], to: &[u8]) -> Result<Option<KeyValue>, StoreFailure> {
        if let Some(known) = self.mirror.lock().last(prefix, to) {
            return Ok(known.filter(|(key, _)| key.starts_with(prefix)));
        }
        let parameters: [Parameter<'_>; 2] = [(&prefix, Type::BYTEA), (&to, Type::BYTEA)];
        let rows = self.read(&sql::last(&self.table), &parameters)?;
        let last = rows.first().map(pair_in).transpose()?;
        Ok(last.filter(|(key, _)| key.starts_with(prefix)))
    }
}

/// The first key after all those with a prefix; `None` if there is no such key.
pub(super) fn end_of(prefix: &[u8]) -> Option<Vec<u8>> {
    let kept = prefix.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut end = prefix.get(..=kept)?.to_vec();
    *end.last_mut()? += 1;
    Some(end)
}

pub(super) fn pair_in(row: &Row) -> Result<KeyValue, StoreFailure> {
    Ok((row.try_get(0).map_err(unreadable)?, row.try_get(1).map_err(unreadable)?))
}

#[allow(clippy::needless_pass_by_value, reason = "passed to map_err")]
fn unreadable(error: Error) -> StoreFailure {
    StoreFailure::Damaged(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_above_all_its_keys() {
        assert_eq!(end_of(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(end_of(b"a\xff"), Some(b"b".to_vec()));
        assert_eq!(end_of(b""), None);
        assert_eq!(end_of(b"\xff\xff"), None);
    }
}
