//! Publishers that wait for the device: so many calls are waiting at any time, on a thread each or on a few threads
//! that keep many receipts, like an event loop.

use std::collections::VecDeque;
use std::thread;
use std::time::{Duration, Instant};

use wabahook::{Accepted, Engine, Event, Receipt};

use super::Outcome;

/// How many bytes each event has.
pub(crate) const PAYLOAD_BYTES: usize = 1024;

#[derive(Clone, Copy)]
pub(crate) struct Publishers {
    /// How many calls wait at a time.
    pub(crate) waiting: usize,
    pub(crate) threads: usize,
    /// Events of one call.
    pub(crate) together: usize,
}

impl Publishers {
    /// A thread for each call that waits.
    pub(crate) fn on_threads(threads: usize) -> Publishers {
        Publishers { waiting: threads, threads, together: 1 }
    }

    /// Publishes for `span`. Returns how long each call waited.
    pub(crate) fn publish(self, engine: &Engine, span: Duration) -> Outcome<Vec<Duration>> {
        let end = Instant::now() + span;
        thread::scope(|scope| {
            let start = |_| scope.spawn(|| self.publish_on_one(engine, end));
            let threads: Vec<_> = (0..self.threads).map(start).collect();
            let mut all = Vec::new();
            for thread in threads {
                all.extend(thread.join().map_err(|_| "a publisher panicked")??);
            }
            Ok(all)
        })
    }

    fn publish_on_one(self, engine: &Engine, end: Instant) -> Outcome<Vec<Duration>> {
        let (mut waits, mut waiting) = (Vec::new(), VecDeque::new());
        while Instant::now() < end || !waiting.is_empty() {
            while waiting.len() < self.waiting / self.threads && Instant::now() < end {
                waiting.push_back((Instant::now(), Waiting::begin(engine, self.together)?));
            }
            if let Some((started, oldest)) = waiting.pop_front() {
                oldest.wait()?;
                waits.push(started.elapsed());
            }
        }
        Ok(waits)
    }
}

/// What a publisher waits for.
enum Waiting {
    One(Receipt),
    Many(Receipt<Vec<Accepted>>),
}

impl Waiting {
    fn begin(engine: &Engine, together: usize) -> Outcome<Waiting> {
        let event =
            || Event::new("MESSAGE_RECEIVED", vec![b'7'; PAYLOAD_BYTES]).number("919999999999");
        if together == 1 {
            return Ok(Waiting::One(engine.publish(event())?));
        }
        let events = (0..together).map(|_| event()).collect();
        Ok(Waiting::Many(engine.publish_many(events)?))
    }

    fn wait(self) -> wabahook::Result<()> {
        match self {
            Waiting::One(receipt) => receipt.wait().map(drop),
            Waiting::Many(receipt) => receipt.wait().map(drop),
        }
    }
}
