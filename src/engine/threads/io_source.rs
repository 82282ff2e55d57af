//! The engine as the source of the I/O threads: at each exchange it ends the attempts that they bring and gives
//! them the next ones, under one lock of the dispatch state for all of them. Requests are built on the I/O thread,
//! without that lock. An event that is not in memory is read by the background thread, and its attempt is given
//! out at a later exchange.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::io_threads::{IoThread, IssuedAttempt, PreparedAttempt};
use crate::attempt::{Attempt, AttemptEnd};
use crate::delivery::{
    AttemptSource, Demand, EndedAttempt, LoopId, NextAttempt, OutgoingRequest, WakeLoop,
};
use crate::engine::attempts::{CompletedAttempt, interrupted};
use crate::engine::shared::{DispatchState, Job, Shared};
use crate::engine::subscriptions::table::ActiveSubscription;
use crate::event::StoredEvent;
use crate::transport::{Failure, Reply, Shortage};

impl DispatchState {
    /// Up to `room` attempts for an I/O thread, those whose event was read first.
    fn take_for_io(&mut self, from: LoopId, room: usize, now_ms: u64) -> Vec<PreparedAttempt> {
        if !self.is_owner() {
            return Vec::new();
        }
        let prepared = self.io.threads.get_mut(&from).map(|thread| &mut thread.prepared);
        let mut taken: Vec<_> = prepared
            .map_or_else(Vec::new, |prepared| prepared.drain(..room.min(prepared.len())).collect());
        while taken.len() < room {
            let Some(attempt) = self.next_attempt_of(from, now_ms) else { break };
            taken.push(PreparedAttempt { attempt, event: None });
        }
        taken
    }
}

impl AttemptSource for Shared {
    fn attach(&self, from: LoopId, wake: WakeLoop) {
        let thread = IoThread { wake, is_idle: false, is_running: true, prepared: VecDeque::new() };
        self.dispatch_state.lock().io.threads.insert(from, thread);
    }

    fn exchange(
        &self,
        from: LoopId,
        ended: &mut Vec<EndedAttempt>,
        room: usize,
        next: &mut Vec<NextAttempt>,
    ) -> Demand {
        let issued = ended.drain(..).filter_map(|EndedAttempt { token, end }| {
            let IssuedAttempt { attempt, event } = self.issued.take(from, token)?;
            Some(CompletedAttempt { attempt, end, event: Some(event) })
        });
        let mut completed: Vec<_> = issued.collect();
        loop {
            let wanted = room - next.len();
            let ended = self.with_random(completed);
            let now_ms = self.clock.monotonic_ms();
            let mut state = self.dispatch_state.lock();
            let effects = self.end_attempts(&mut state, ended);
            let (mut taken, mut demand) = (Vec::new(), Demand::Over);
            if !state.closing {
                (taken, demand) = (state.take_for_io(from, wanted, now_ms), Demand::Open);
                if taken.len() < wanted {
                    state.io.set_idle(from);
                }
                self.wake_workers(&mut state);
            }
            drop(state);
            let is_enough = taken.len() < wanted;
            completed = self.issue(from, &effects.settled, taken, next);
            self.finish_ends(effects);
            if completed.is_empty() && (is_enough || next.len() >= room) {
                return demand;
            }
        }
    }

    fn detach(&self, from: LoopId, has_panicked: bool) {
        let lost = self.issued.take_all(from).into_iter().map(|issued| CompletedAttempt {
            attempt: issued.attempt,
            end: AttemptEnd::Uncounted(Shortage::Panic),
            event: None,
        });
        let lost = self.with_random(lost);
        let mut state = self.dispatch_state.lock();
        let effects = self.end_attempts(&mut state, lost);
        if let Some(thread) = state.io.threads.get_mut(&from) {
            (thread.is_running, thread.is_idle) = (false, false);
        }
        drop(state);
        self.threads_ended.notify_all();
        self.finish_ends(effects);
        if has_panicked {
            self.poison("an I/O thread panicked");
        }
    }
}

impl Shared {
    /// Builds the requests of attempts. Returns those that ended without a request.
    fn issue(
        &self,
        from: LoopId,
        settled: &[u64],
        taken: Vec<PreparedAttempt>,
        next: &mut Vec<NextAttempt>,
    ) -> Vec<CompletedAttempt> {
        let sequences = taken.iter().map(|one| one.attempt.delivery.sequence);
        let cached = self.outbox.cached_events(settled, sequences);
        if taken.is_empty() {
            return Vec::new();
        }
        let subscriptions = self.subscriptions.read();
        let find = |one: &PreparedAttempt| subscriptions.get(one.attempt.delivery.subscription);
        let actives: Vec<_> = taken.iter().map(find).collect();
        drop(subscriptions);
        let mut ended = Vec::new();
        for ((PreparedAttempt { attempt, event }, cached), active) in
            taken.into_iter().zip(cached).zip(actives)
        {
            // Without its subscription, its deliveries are already cancelled.
            let Some(active) = active else {
                ended.push(interrupted(attempt));
                continue;
            };
            match event.or(cached) {
                None => self.submit_job(Job::Read(from, attempt)),
                Some(event) => match self.outgoing(attempt, &active, &event) {
                    Ok(request) => {
                        let issued = IssuedAttempt { attempt, event: (&*event).into() };
                        let account = active.account_number;
                        let token = self.issued.issue(from, issued);
                        next.extend(token.map(|token| NextAttempt { token, request, account }));
                    }
                    Err(failure) => {
                        let end = AttemptEnd::Reply(Reply::Failed(failure));
                        let event = Some((&*event).into());
                        ended.push(CompletedAttempt { attempt, end, event });
                    }
                },
            }
        }
        ended
    }

    fn outgoing(
        &self,
        attempt: Attempt,
        active: &ActiveSubscription,
        event: &Arc<StoredEvent>,
    ) -> Result<OutgoingRequest, Failure> {
        let (number, wall_ms) = (attempt.number, self.clock.wall_ms());
        let request = active.template.request(event, number, wall_ms, &self.catalogue)?;
        OutgoingRequest::new(&request, Some(event), active.tls.as_ref())
    }

    /// Reads the event of an attempt, and gives the attempt out at the next exchange.
    pub(in crate::engine) fn read_for(&self, thread: LoopId, attempt: Attempt) {
        let read = || self.outbox.event(attempt.delivery.sequence);
        let read = catch_unwind(AssertUnwindSafe(read));
        let unread = match &read {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(self.unread(attempt, error)),
            Err(_) => {
                let end = AttemptEnd::Uncounted(Shortage::Panic);
                Some(CompletedAttempt { attempt, end, event: None })
            }
        };
        let unread = self.with_random(unread);
        let mut state = self.dispatch_state.lock();
        let effects = self.end_attempts(&mut state, unread);
        if let (Ok(Ok(event)), Some(thread)) = (read, state.io.threads.get_mut(&thread)) {
            thread.prepared.push_back(PreparedAttempt { attempt, event: Some(event) });
        }
        self.wake_workers(&mut state);
        drop(state);
        self.finish_ends(effects);
    }
}
