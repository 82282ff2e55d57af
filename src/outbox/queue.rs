//! Decides when a command wakes the committer.
//!
//! Leaves to others: what is asked (`committer`) and what goes into a group together (`taken`). Invariant: a
//! command that somebody waits for is seen at once; one that nobody waits for wakes a committer that has
//! nothing to do, and no other.
//!
//! A group of records alone waits for company. Were it woken by each of them, every delivery would cost
//! two switches between threads, one of them while the worker that brings the record holds the drive.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use parking_lot::{Condvar, Mutex};

use super::committer::Command;

/// The committer's end, and that of everybody else.
pub(super) fn queue() -> (Queue, Waiting) {
    let (sender, commands) = crossbeam_channel::unbounded();
    let lingering = Arc::<Lingering>::default();
    (Queue { sender, lingering: Arc::clone(&lingering) }, Waiting { commands, lingering })
}

/// Where commands are sent.
#[derive(Clone)]
pub(super) struct Queue {
    sender: Sender<Command>,
    lingering: Arc<Lingering>,
}

/// Where the committer takes them from.
pub(super) struct Waiting {
    pub(super) commands: Receiver<Command>,
    lingering: Arc<Lingering>,
}

#[derive(Default)]
struct Lingering {
    /// Whether the committer waits for company and not in the channel.
    is_on: AtomicBool,
    /// Held by the committer from before it says so until it waits.
    begins: Mutex<()>,
    over: Condvar,
}

impl Queue {
    /// Sends a command. The channel has no bound of its own: admission is the bound. It is closed only
    /// with the engine, and then what was promised resolves as closed, because the command is dropped.
    pub(super) fn send(&self, command: Command) {
        let is_awaited = command.is_awaited();
        let _ = self.sender.send(command);
        if !is_awaited {
            return;
        }
        // Either this sees that the committer lingers, or the committer sees the command: each writes
        // before it reads what the other writes.
        fence(Ordering::SeqCst);
        if self.lingering.is_on.load(Ordering::Relaxed) {
            drop(self.lingering.begins.lock());
            self.lingering.over.notify_one();
        }
    }
}

impl Waiting {
    /// Waits for a command that somebody waits for, `most` at the longest. `is_wanted` takes what is in
    /// the queue and says whether to wait at all.
    pub(super) fn linger(&self, most: Duration, is_wanted: impl FnOnce() -> bool) {
        let Lingering { is_on, begins, over } = &*self.lingering;
        let mut begun = begins.lock();
        is_on.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if is_wanted() {
            over.wait_for(&mut begun, most);
        }
        is_on.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attempt::{DeliveryId, Record};
    use crate::receipt::promise;
    use crate::subscription::SubscriptionId;
    use std::time::Instant;

    /// No test takes as long; one that waits for it has failed.
    const DEADLINE: Duration = Duration::from_secs(60);

    fn record(sequence: u64) -> Record {
        Record::Settle(DeliveryId { sequence, subscription: SubscriptionId(1) })
    }

    #[test]
    fn what_somebody_waits_for_ends_the_lingering_however_they_meet() {
        let (queue, waiting) = queue();
        for n in 0..2_000 {
            let sent = queue.clone();
            let sender = std::thread::spawn(move || {
                sent.send(Command::RecordAndTell(record(n), promise().0));
            });
            let started = Instant::now();
            waiting.linger(DEADLINE, || waiting.commands.is_empty());
            assert!(started.elapsed() < DEADLINE, "the command was not seen");
            assert!(waiting.commands.try_recv().is_ok());
            sender.join().unwrap();
        }
    }

    #[test]
    fn what_nobody_waits_for_does_not_end_it_and_is_there_afterwards() {
        let (queue, waiting) = queue();
        let few = Duration::from_millis(20);
        let started = Instant::now();
        waiting.linger(few, || {
            queue.send(Command::Record(record(1)));
            queue.send(Command::Cancel([2].into_iter().collect()));
            true
        });
        assert!(started.elapsed() >= few);
        assert_eq!(waiting.commands.len(), 2);
        waiting.linger(DEADLINE, || false);
        assert_eq!(waiting.commands.len(), 2);
    }
}
