//! A host with one loop per core that embeds the engine. Each loop takes events from its inbox,
//! publishes them, and checks its receipts in between. It only waits for its inbox, and keeps each event
//! until its receipt says that it is durable.
//!
//! ```sh
//! cargo run --release --example thread_per_core -- --seconds 10 --rate 20000 --data target
//! ```

mod support;

use std::collections::VecDeque;
use std::thread;
use std::time::Duration;

use crossbeam_channel::RecvTimeoutError;
use support::{Figures, Load, Outcome, Receiver};
use wabahook::{Engine, Error, Event, Receipt};

/// How many events a loop publishes before it checks its receipts.
const TURN_MAX: usize = 64;
/// How long a loop waits for its inbox while receipts are open, which resolve within the time of a write
/// and a sync.
const REST: Duration = Duration::from_millis(1);
const CLOSE_MAX: Duration = Duration::from_secs(10);

fn main() -> Outcome {
    let load = Load::from_arguments()?;
    let directory = support::directory()?;
    let receiver = Receiver::start()?;
    let engine = support::open(&directory, &receiver)?;

    let cores = thread::available_parallelism()?.get();
    let mut inboxes = Vec::with_capacity(cores);
    let mut loops = Vec::with_capacity(cores);
    for _ in 0..cores {
        let (inbox, incoming) = crossbeam_channel::unbounded();
        inboxes.push(inbox);
        // An engine is a cheap handle. Each loop has its own and shares nothing else.
        let mut core = Core::new(engine.clone());
        loops.push(thread::spawn(move || core.run(&incoming).map(|()| core.figures)));
    }
    load.run(|numbers| {
        for n in numbers {
            let inbox = inboxes.get(usize::try_from(n)? % cores).ok_or("no such core")?;
            inbox.send(support::line(n))?;
        }
        Ok(())
    })?;
    drop(inboxes);

    let mut figures = Figures::default();
    for running in loops {
        figures.join(running.join().map_err(|_| "a loop panicked")??);
    }
    let published = figures.published;
    let delivered = receiver.collect(published, support::END_MAX);
    figures.print("thread_per_core", delivered);
    engine.close(CLOSE_MAX)?;
    if published == load.events() { Ok(()) } else { Err(format!("{published} published").into()) }
}

/// One loop.
struct Core {
    engine: Engine,
    /// Events that were given back or must be published again. They go first.
    held: VecDeque<Event>,
    /// Open receipts, each with its event, in publish order.
    open: VecDeque<(Receipt, Event)>,
    figures: Figures,
}

impl Core {
    fn new(engine: Engine) -> Core {
        let (held, open) = (VecDeque::new(), VecDeque::new());
        Core { engine, held, open, figures: Figures::default() }
    }

    /// Runs until the inbox is closed and every event is durable.
    fn run(&mut self, incoming: &crossbeam_channel::Receiver<String>) -> Outcome {
        let (mut is_closed, mut rests) = (false, 0);
        while !(is_closed && self.held.is_empty() && self.open.is_empty()) {
            let is_full = self.take_turn(incoming)?;
            self.settle()?;
            if is_full {
                continue;
            }
            rests += 1;
            match incoming.recv_timeout(REST) {
                Ok(line) => self.held.push_back(event(&line)?),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    is_closed = true;
                    // Waiting for a closed inbox returns at once.
                    thread::park_timeout(REST);
                }
            }
        }
        let sleeps = support::sleeps_of_this_thread();
        self.figures.slept_elsewhere = sleeps.map(|sleeps| sleeps.saturating_sub(rests));
        Ok(())
    }

    /// Publishes what is held, then what arrived. True if there is more.
    fn take_turn(&mut self, incoming: &crossbeam_channel::Receiver<String>) -> Outcome<bool> {
        for _ in 0..TURN_MAX {
            let next = match self.held.pop_front() {
                Some(event) => event,
                None => match incoming.try_recv() {
                    Ok(line) => event(&line)?,
                    Err(_) => return Ok(false),
                },
            };
            // Kept until it is durable. A host whose upstream keeps it needs no copy.
            let copy = next.clone();
            match self.figures.time(|| self.engine.publish(next)) {
                Ok(receipt) => self.open.push_back((receipt, copy)),
                Err(error) if error.is_busy() => {
                    self.held.push_front(copy);
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    /// Takes the receipts that have resolved. They resolve in publish order, so it stops at the first open
    /// one.
    fn settle(&mut self) -> Outcome {
        self.figures.is_ahead_by(self.open.len());
        while self.open.front().is_some_and(|(receipt, _)| receipt.is_done()) {
            let Some((receipt, event)) = self.open.pop_front() else { break };
            // It is resolved, so this returns at once.
            match receipt.wait() {
                Ok(_accepted) => self.figures.published += 1,
                Err(Error::Unknown { .. } | Error::Refused { .. }) => self.held.push_back(event),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn event(line: &str) -> Outcome<Event> {
    Ok(support::event(line).ok_or("a line that tells of no event")?)
}
