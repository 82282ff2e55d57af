//! A consistent copy of a running engine's directory. The subscriptions are read at the moment when the outbox is
//! sealed, so no event of the copy is owed to a subscription that the copy does not know.

use std::path::Path;

use super::data_directory;
use super::shared::Shared;
use crate::error::{Error, Result};
use crate::store::Sled;

impl Shared {
    pub(super) fn backup(&self, directory: &Path) -> Result<()> {
        self.check_open()?;
        if self.dispatch_state.lock().is_stalled() {
            return Err(Error::Refused { why: "the device refuses writes".to_owned() });
        }
        data_directory::begin_backup(directory)?;
        let target = Sled::new(directory);
        // No subscription is changed between the two.
        let mut book = self.book.lock();
        let outbox = self.outbox.snapshot()?;
        book.as_mut().ok_or(Error::Closed)?.copy_to(&target)?;
        drop(book);
        outbox.copy_to(&target)?;
        drop(target);
        data_directory::finish_backup(directory)
    }
}
