//! Copies a database into another one, of the same or of another store.

use std::ops::ControlFlow;

use super::{BATCH_OPERATIONS_MAX, Batch, Database, StoreFailure, VALUE_BYTES_MAX, Visit};

/// How many bytes are read before they are written: a full batch of the longest values.
const BATCH_BYTES_MAX: usize = BATCH_OPERATIONS_MAX * VALUE_BYTES_MAX;

/// Copies every record. All of them are durable when this returns. What is written to `from` meanwhile is copied or
/// not.
pub(crate) fn copy_database(from: &dyn Database, to: &dyn Database) -> Result<(), StoreFailure> {
    let (mut batch, mut bytes, mut failed) = (Batch::default(), 0, None);
    let visit: &mut Visit<'_> = &mut |key, value| {
        batch.put(key, value);
        bytes += key.len() + value.len();
        if batch.len() < BATCH_OPERATIONS_MAX && bytes < BATCH_BYTES_MAX {
            return ControlFlow::Continue(());
        }
        bytes = 0;
        match to.write(vec![std::mem::take(&mut batch)]) {
            Ok(()) => ControlFlow::Continue(()),
            Err(failure) => {
                failed = Some(failure);
                ControlFlow::Break(())
            }
        }
    };
    from.scan(b"", b"", visit)?;
    if let Some(failure) = failed {
        return Err(failure);
    }
    to.commit(vec![batch])?;
    if let Some(records) = from.expected_records() {
        to.set_expected_records(records);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Memory, Store};

    #[test]
    fn a_copy_has_every_record() {
        let store = Memory::default();
        let (from, to) = (store.open("from").unwrap(), store.open("to").unwrap());
        for first in 0..5_u8 {
            let mut batch = Batch::default();
            for second in 0..200_u8 {
                batch.put([first, second], vec![second; usize::from(second)]);
            }
            from.commit(vec![batch]).unwrap();
        }
        copy_database(&*from, &*to).unwrap();
        let records = |database: &dyn Database| {
            let mut records = Vec::new();
            let visit: &mut Visit<'_> = &mut |key, value| {
                records.push((key.to_vec(), value.to_vec()));
                ControlFlow::Continue(())
            };
            database.scan(b"", b"", visit).unwrap();
            records
        };
        assert_eq!(records(&*to).len(), 1_000);
        assert_eq!(records(&*to), records(&*from));
    }
}
