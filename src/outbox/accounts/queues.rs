//! The submissions that wait for the committer, by account: accounts take turns, so that one with thousands of them
//! does not delay the others' (I4).
//!
//! The submissions of one account keep their order. Records of deliveries that no thread waits for take effect in the
//! order sent and do not wait for submissions. Any other command is a barrier, because it may promise something about
//! everything sent before it: nothing after it is looked at until everything before it was taken.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::outbox::command::{CommitterCommand, QueuedSize, Submission};

/// What was taken from the channel and is not in a batch yet.
#[derive(Default)]
pub(in crate::outbox) struct AccountQueues {
    queues: HashMap<Arc<str>, VecDeque<(Submission, QueuedSize)>>,
    /// The accounts with submissions, in the order of their turns.
    turns: VecDeque<Arc<str>>,
    barrier: Option<CommitterCommand>,
}

impl AccountQueues {
    pub(in crate::outbox) fn is_empty(&self) -> bool {
        self.turns.is_empty() && self.barrier.is_none()
    }

    pub(in crate::outbox) fn has_barrier(&self) -> bool {
        self.barrier.is_some()
    }

    /// Sorts a command in. Returns it if it is to be taken at once.
    pub(in crate::outbox) fn sort(
        &mut self,
        command: CommitterCommand,
    ) -> Option<CommitterCommand> {
        match command {
            CommitterCommand::Publish(submission, size) => {
                match only_account(&submission) {
                    Some(account) => self.push(account, submission, size),
                    None => self.barrier = Some(CommitterCommand::Publish(submission, size)),
                }
                None
            }
            // Who waits only for the records before it has them now, and keeps nobody else waiting.
            CommitterCommand::Change(records, waiter) if records.is_empty() => {
                Some(CommitterCommand::Change(records, waiter))
            }
            barrier if barrier.is_awaited() => {
                self.barrier = Some(barrier);
                None
            }
            at_once => Some(at_once),
        }
    }

    fn push(&mut self, account: Arc<str>, submission: Submission, size: QueuedSize) {
        let queue = self.queues.entry(Arc::clone(&account)).or_default();
        if queue.is_empty() {
            self.turns.push_back(account);
        }
        queue.push_back((submission, size));
    }

    /// The submission of the account whose turn it is, or the barrier after the last one.
    pub(in crate::outbox) fn next(&mut self) -> Option<CommitterCommand> {
        let Some(account) = self.turns.pop_front() else { return self.barrier.take() };
        let queue = self.queues.get_mut(&account)?;
        let (submission, size) = queue.pop_front()?;
        match queue.is_empty() {
            true => drop(self.queues.remove(&account)),
            false => self.turns.push_back(account),
        }
        Some(CommitterCommand::Publish(submission, size))
    }
}

/// The account of a submission, if all its events have the same.
fn only_account(submission: &Submission) -> Option<Arc<str>> {
    let (first, others) = submission.events.split_first()?;
    let account = &first.event.account;
    let is_same = others.iter().all(|routed| routed.event.account == *account);
    is_same.then(|| Arc::clone(account))
}

#[cfg(test)]
mod tests {
    use smallvec::SmallVec;

    use super::*;
    use crate::outbox::command::SubmissionSender;
    use crate::outbox::tests::routed;
    use crate::receipt::receipt_pair;

    fn publish(accounts: &[&str], payload: u8) -> CommitterCommand {
        let event = |account: &&str| {
            let mut routed = routed(vec![payload], &[1]);
            routed.event.account = (*account).into();
            routed
        };
        let events = accounts.iter().map(event).collect();
        let sender = SubmissionSender::Many(receipt_pair().0);
        let submission = Submission { events, claims: SmallVec::new(), sender };
        let size = submission.queued_size();
        CommitterCommand::Publish(submission, size)
    }

    /// The payload of each submission in the order in which they are taken; 0 for another command.
    fn order(queues: &mut AccountQueues) -> Vec<u8> {
        let payload = |command| match command {
            CommitterCommand::Publish(submission, _) => submission.events[0].event.payload[0],
            _ => 0,
        };
        std::iter::from_fn(|| queues.next()).map(payload).collect()
    }

    #[test]
    fn accounts_take_turns_and_each_keeps_its_order() {
        let mut queues = AccountQueues::default();
        for payload in 1..=4 {
            assert!(queues.sort(publish(&["noisy"], payload)).is_none());
        }
        assert!(queues.sort(publish(&["quiet"], 11)).is_none());
        assert!(queues.sort(publish(&["quiet"], 12)).is_none());
        assert_eq!(order(&mut queues), [1, 11, 2, 12, 3, 4]);
        assert!(queues.is_empty() && queues.queues.is_empty());
    }

    #[test]
    fn a_barrier_comes_after_everything_before_it() {
        let mut queues = AccountQueues::default();
        for (account, payload) in [("noisy", 1), ("noisy", 2), ("quiet", 11)] {
            assert!(queues.sort(publish(&[account], payload)).is_none());
        }
        assert!(queues.sort(CommitterCommand::Cancel([7].into_iter().collect())).is_some());
        assert!(queues.sort(CommitterCommand::Stop).is_none() && queues.has_barrier());
        assert_eq!(order(&mut queues), [1, 11, 2, 0]);
        assert!(queues.sort(publish(&["noisy"], 1)).is_none());
        let (sender, _receipt) = receipt_pair();
        let settled = CommitterCommand::Change(SmallVec::new(), Some(sender));
        assert!(queues.sort(settled).is_some() && !queues.has_barrier(), "it is no barrier");
        assert_eq!(order(&mut queues), [1]);
        // Of several accounts: it must come neither before nor after what each of them has sent.
        assert!(queues.sort(publish(&["noisy"], 1)).is_none());
        assert!(queues.sort(publish(&["quiet", "noisy"], 5)).is_none() && queues.has_barrier());
        assert_eq!(order(&mut queues), [1, 5]);
        assert!(queues.is_empty());
    }
}
