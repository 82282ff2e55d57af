//! What happens while the device refuses writes.
//!
//! The publishers of the failed group get [`Error::Unknown`], at once or, where the store is on another machine, if
//! the outcome is still unknown after 10 s. New publishers are refused; records and removals are kept. The newest
//! generation is opened again until the device accepts a write. Then it is known whether the failed group's events
//! exist. Where another owner has taken over the store, the engine ends instead.

use std::time::Duration;

use crate::clock::{Clock, millis};
use crate::error::{Error, Result};
use crate::store::{Operation, StoreFailure};

use super::admission::QueueAdmission;
use super::batch::{CommandReceiver, PendingBatch};
use super::codec;
use super::command::{AcceptedEvents, SubmissionSender, answer_all};
use super::commit_event::{CommitEvent, CommitListener, GroupTotals};
use super::group::{CommitGroup, batches};
use super::writer::{FailedWrite, GroupWriter, commit_all};

/// The pause before the first try to open the generation again. Each try doubles it.
const REOPEN_AFTER: Duration = Duration::from_millis(100);
const REOPEN_AFTER_MAX: Duration = Duration::from_secs(5);

/// The longest pause where the store is on another machine: a server that took over should not wait for us.
const REMOTE_REOPEN_AFTER_MAX: Duration = Duration::from_millis(500);

/// For how long the receipts of a failed group stay unresolved where the store is on another machine, because a
/// failover usually ends sooner. Publishers that learn the outcome do not publish again.
const OUTCOME_WAIT: Duration = Duration::from_secs(10);

pub(super) struct Stall<'a> {
    pub(super) writer: &'a mut GroupWriter,
    pub(super) receiver: &'a CommandReceiver,
    pub(super) admission: &'a QueueAdmission,
    pub(super) listener: &'a mut CommitListener,
    pub(super) clock: &'a dyn Clock,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GroupOutcome {
    Exists,
    Gone,
}

impl Stall<'_> {
    /// Waits until the device accepts writes again. Returns what has to be written then, which may have been
    /// written before; `None` if the engine stops first.
    pub(super) fn wait(
        mut self,
        failed: FailedWrite,
        mut batch: PendingBatch,
    ) -> Result<Option<PendingBatch>> {
        let FailedWrite { mut group, error } = failed;
        if matches!(error, Error::NotOwner) {
            let refused = Error::Refused { why: error.to_string() };
            answer_group(&mut group, &refused);
            batch.fail_record_waiters(&refused);
            return Err(error);
        }
        self.writer.cursor.dropped_letters.append(&mut group.dropped);
        for letter in group.revived.iter().chain(&group.discarded) {
            // Their records are written again, so they are dead letters again until then.
            let mut letters = self.writer.cursor.letters.lock();
            letters.keep(letter.at_wall_ms, letter.delivery, letter.generation);
        }
        let why = error.to_string();
        let unknown = Error::Unknown { why: why.clone() };
        if !self.writer.generations.is_remote() {
            answer_group(&mut group, &unknown);
        }
        batch.fail_record_waiters(&unknown);
        // Before anybody is told, so that the time counts from then at the latest.
        let answer_at_ms = self.clock.monotonic_ms() + millis(OUTCOME_WAIT);
        self.admission.stall(why.clone());
        (self.listener)(CommitEvent::Stalled(why));
        // A stop that came with the group counts: the thread that closes the engine waits for it, however
        // long the device refuses.
        batch.forget_events();
        let outcome = self.reopen(&mut batch, &mut group, (answer_at_ms, &unknown));
        match &outcome {
            Ok(Some(GroupOutcome::Exists)) => accept_group(&mut group.answers),
            Ok(Some(GroupOutcome::Gone)) => {
                answer_group(&mut group, &Error::Refused { why: error.to_string() });
            }
            Ok(None) | Err(_) => answer_group(&mut group, &unknown),
        }
        if outcome?.is_none() {
            return Ok(None);
        }
        self.admission.resume();
        (self.listener)(CommitEvent::Resumed);
        Ok(Some(batch))
    }

    /// Opens the generation until the device accepts a write, and returns whether the group exists; `None` if the
    /// engine stops first. What waits for the outcome gets `unknown` at `answer_at_ms`.
    fn reopen(
        &mut self,
        kept: &mut PendingBatch,
        group: &mut CommitGroup,
        (answer_at_ms, unknown): (u64, &Error),
    ) -> Result<Option<GroupOutcome>> {
        let is_remote = self.writer.generations.is_remote();
        let pause_max = if is_remote { REMOTE_REOPEN_AFTER_MAX } else { REOPEN_AFTER_MAX };
        let (mut pause, mut took_ms) = (REOPEN_AFTER, 0);
        loop {
            self.writer.generations.deactivate();
            kept.fill_while_stalled(self.receiver, self.admission, pause);
            if kept.stop {
                return Ok(None);
            }
            let began_ms = self.clock.monotonic_ms();
            // Nobody is answered during a try, and a server that is silent makes each last for seconds.
            if began_ms.saturating_add(took_ms) >= answer_at_ms {
                answer_group(group, unknown);
            }
            let reopened = self.writer.generations.reopen(self.writer.cursor.generation);
            match reopened.and_then(|()| self.resolve_failed_group(group)) {
                Ok(outcome) => return Ok(Some(outcome)),
                Err(Error::Damaged { record, why }) => return Err(Error::Damaged { record, why }),
                Err(Error::NotOwner) => return Err(Error::NotOwner),
                Err(_) => pause = (pause * 2).min(pause_max),
            }
            took_ms = self.clock.monotonic_ms().saturating_sub(began_ms);
        }
    }

    /// Finds out whether the events of a failed group exist. If so they are owed, as their publishers were told
    /// they may be; if not, everything left of them is removed. Changes nothing but the device until the device
    /// has accepted a write, so that it can be called again.
    fn resolve_failed_group(&mut self, group: &CommitGroup) -> Result<GroupOutcome> {
        let failed = |failure| Error::store("looking for a failed group", failure);
        let generations = &self.writer.generations;
        let database = generations.active().ok_or_else(|| failed(StoreFailure::Closed))?;
        // Copies do not count as existing: their originals are still there.
        let last = group.head_keys.last().filter(|_| !group.owed.is_empty());
        let exists = match last {
            Some(key) => database.get(key).map_err(failed)?.is_some(),
            None => false,
        };
        // Written in any case: a device that only serves reads has not recovered. The sync also covers events
        // that may so far exist in the memory of the machine only.
        let mut operations = vec![self.writer.cursor.meta.write()?];
        if !exists {
            let keys = group.head_keys.iter().chain(&group.dedup_page_keys);
            operations.extend(keys.cloned().map(Operation::Remove));
        }
        commit_all(&*database, batches(operations, &[]))?;
        let pages = codec::count_pages(&*database)?;
        if !exists {
            let dedup = &mut self.writer.cursor.dedup;
            group.dedup_keys.iter().for_each(|key| dedup.forget(*key));
        }
        let owed = if exists { group.owed.clone() } else { Vec::new() };
        self.writer.count(&owed, |generation| generation.pages = pages);
        let accepted = owed.len() as u64;
        let totals = GroupTotals { accepted, ..GroupTotals::default() };
        if exists && !group.traced.is_empty() {
            (self.listener)(CommitEvent::Traced(group.traced.clone()));
        }
        (self.listener)(CommitEvent::Group(totals, owed));
        Ok(if exists { GroupOutcome::Exists } else { GroupOutcome::Gone })
    }
}

/// Resolves the receipts of a group that are still open with an error.
fn answer_group(group: &mut CommitGroup, error: &Error) {
    let answers = std::mem::take(&mut group.answers);
    answer_all(answers.iter().map(|(sender, _)| (sender, Err(error.clone()))));
}

/// Resolves the receipts of a group whose events exist.
pub(super) fn accept_group(answers: &mut [(SubmissionSender, AcceptedEvents)]) {
    let answers = answers.iter_mut();
    answer_all(answers.map(|(sender, accepted)| (&*sender, Ok(std::mem::take(accepted)))));
}
