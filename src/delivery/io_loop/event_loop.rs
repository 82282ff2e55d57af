//! The thread itself: it waits for readiness, commands and deadlines, and exchanges attempts with the source.
//!
//! Each step of an attempt runs guarded: a panic ends that attempt, uncounted, and the loop goes on.

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use crossbeam_channel::Receiver;
use mio::event::Event;
use mio::{Events, Poll, Token};
use slab::Slab;

use super::connections::Connections;
use super::deadlines::Deadlines;
use super::exchange::Ready;
use super::hosts::{AttemptRef, HostTable};
use super::loop_attempt::{LoopAttempt, Origin};
use super::{Command, LoopHandle, LoopLimits, LoopShared};
use crate::delivery::attempt_source::{
    AttemptEnd, AttemptSource, Demand, EXCHANGE_MAX, EndedAttempt, LoopId, NextAttempt, Shortage,
};
use crate::delivery::http1::OutgoingRequest;
use crate::delivery::name_lookup::LookupListener;
use crate::delivery::tls::Identity;
use crate::subscription::Tls;
use crate::transport::{Failure, Reply};

/// The token of wake-ups by other threads.
pub(super) const WAKE: Token = Token(usize::MAX);

/// How many sockets are looked at after one wait.
pub(super) const EVENTS_MAX: usize = if cfg!(test) { 32 } else { 256 };

/// How much is read at once. One buffer serves all connections of a loop.
const SCRATCH_BYTES: usize = 32 * 1024;

/// How many exchanges with the source follow each other before the sockets have their turn.
const EXCHANGES_MAX: usize = 4;

/// How many attempts an exchange begins while more sockets are ready than were looked at. Single events of prompt lanes
/// are among the first of these, because such lanes queue ahead of the others of their account.
pub(super) const BEHIND_MAX: usize = 8;

/// A loop with fewer attempts in flight begins as many as it can get. With more it begins one for each that ended, unless
/// it has nothing else to do: the CPU is then not what holds it up. More in flight than that would only wait in
/// the buffers of sockets, and cost the caches of the CPU.
const FEW_IN_FLIGHT: usize = 128;

/// One I/O thread.
pub(super) struct EventLoop {
    pub(super) number: LoopId,
    pub(super) handle: LoopHandle,
    pub(super) shared: Arc<LoopShared>,
    pub(super) connections: Connections,
    pub(super) host_in_flight_max: usize,
    pub(super) attempts: Slab<LoopAttempt>,
    pub(super) serials: u64,
    pub(super) hosts: HostTable,
    pub(super) deadlines: Deadlines,
    /// Attempts that got their turn at a busy host.
    pub(super) admitted: Vec<AttemptRef>,
    /// Connections that have more to do at once.
    pub(super) unfinished: Vec<usize>,
    /// Attempts that wait for a name.
    pub(super) waiting_for_name: HashMap<String, Vec<AttemptRef>>,
    pub(super) name_listener: LookupListener,
    pub(super) identities: IdentityCache,
    pub(super) scratch: Vec<u8>,
    pub(super) now_ms: u64,
    source: Option<Arc<dyn AttemptSource>>,
    ended: Vec<EndedAttempt>,
    next: Vec<NextAttempt>,
    commands: Receiver<Command>,
    demand: Demand,
    /// The source may have attempts that were not taken.
    has_more: bool,
    /// More sockets are ready than were looked at. Few attempts begin then: their responses would wait behind all of
    /// theirs, and those of prompt receivers with them.
    is_behind: bool,
    /// No socket was ready at the last wait.
    is_slack: bool,
    is_stopped: bool,
}

/// TLS settings that were read, and attempts that wait for others.
#[derive(Default)]
pub(super) struct IdentityCache {
    /// By the address of the settings. They are kept so that no others get that address; `None` for the default.
    pub(super) read: HashMap<usize, (Option<Arc<Tls>>, Arc<Identity>)>,
    pub(super) waiting: HashMap<usize, Vec<AttemptRef>>,
}

impl EventLoop {
    pub(super) fn new(
        number: LoopId,
        poll: Poll,
        handle: LoopHandle,
        commands: Receiver<Command>,
        shared: &Arc<LoopShared>,
        limits: LoopLimits,
    ) -> EventLoop {
        let told = handle.clone();
        let name_listener: LookupListener = Arc::new(move |host, addresses| {
            told.tell(Command::Resolved(host.to_owned(), addresses.cloned()));
        });
        EventLoop {
            number,
            handle,
            shared: Arc::clone(shared),
            connections: Connections::new(poll, limits),
            host_in_flight_max: limits.host_in_flight_max,
            attempts: Slab::new(),
            serials: 0,
            hosts: HostTable::default(),
            deadlines: Deadlines::default(),
            admitted: Vec::new(),
            unfinished: Vec::new(),
            waiting_for_name: HashMap::new(),
            name_listener,
            identities: IdentityCache::default(),
            scratch: vec![0; SCRATCH_BYTES],
            now_ms: shared.clock.monotonic_ms(),
            source: None,
            ended: Vec::new(),
            next: Vec::new(),
            commands,
            demand: Demand::Open,
            has_more: false,
            is_behind: false,
            is_slack: false,
            is_stopped: false,
        }
    }

    /// Runs until its source is over or the transport is dropped.
    pub(super) fn run(mut self) {
        let ran = catch_unwind(AssertUnwindSafe(|| self.run_to_end()));
        if let Some(source) = &self.source {
            source.detach(self.number, !matches!(ran, Ok(Ok(()))));
        }
        for command in self.commands.try_iter() {
            if let Command::Begin(_, answer) = command {
                answer.reply(Reply::Failed(Failure::Interrupted));
            }
        }
    }

    fn run_to_end(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        while !self.is_over() {
            self.wait(&mut events)?;
            self.look_at_clock();
            self.is_behind = events.iter().count() >= EVENTS_MAX;
            for event in &events {
                self.on_event(event);
            }
            self.obey();
            self.go_on();
            self.pass_time();
            self.exchange();
        }
        Ok(())
    }

    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        self.connections.wait(events, self.patience())?;
        if self.has_more && self.attempts.len() >= FEW_IN_FLIGHT && self.has_none_ready(events) {
            // A receiver on this machine may have been waiting for this core.
            thread::yield_now();
            self.connections.wait(events, Some(Duration::ZERO))?;
        }
        self.is_slack = self.has_none_ready(events);
        Ok(())
    }

    fn has_none_ready(&self, events: &Events) -> bool {
        self.unfinished.is_empty() && events.iter().all(|event| event.token() == WAKE)
    }

    fn is_over(&self) -> bool {
        self.is_stopped || self.demand == Demand::Over && self.attempts.is_empty()
    }

    /// How long to wait at most; `None` for as long as nothing happens.
    fn patience(&self) -> Option<Duration> {
        if self.has_more || !self.unfinished.is_empty() {
            return Some(Duration::ZERO);
        }
        let due_ms = [self.deadlines.next_ms(), self.connections.next_expiry_ms()];
        let next_ms = due_ms.into_iter().flatten().min()?;
        Some(Duration::from_millis(next_ms.saturating_sub(self.now_ms)))
    }

    fn on_event(&mut self, event: &Event) {
        if event.token() == WAKE {
            // A source that wakes has attempts.
            self.has_more = true;
            return;
        }
        let ready = Ready {
            can_read: event.is_readable(),
            can_write: event.is_writable(),
            is_closing: event.is_read_closed() || event.is_error(),
        };
        self.guarded(event.token().0, |this, connection| this.on_ready(connection, ready));
        if self.ended.len() >= EXCHANGE_MAX {
            self.exchange_once();
        }
    }

    /// Runs a step of what uses a connection; a panic ends the attempt and the connection.
    fn guarded(&mut self, connection: usize, step: impl FnOnce(&mut EventLoop, usize)) {
        if catch_unwind(AssertUnwindSafe(|| step(self, connection))).is_err() {
            let attempt = self.connections.attempt(connection);
            self.connections.close(connection, &mut self.hosts);
            if let Some(slot) = attempt {
                self.end(slot, AttemptEnd::Uncounted(Shortage::Panic));
            }
        }
        self.start_admitted();
    }

    /// Runs a step of an attempt; a panic ends it.
    pub(super) fn guarded_attempt(
        &mut self,
        slot: usize,
        step: impl FnOnce(&mut EventLoop, usize),
    ) {
        if catch_unwind(AssertUnwindSafe(|| step(self, slot))).is_err() {
            self.end(slot, AttemptEnd::Uncounted(Shortage::Panic));
        }
    }

    fn start_admitted(&mut self) {
        while let Some(admitted) = self.admitted.pop() {
            if self.is_current(admitted) {
                self.guarded_attempt(admitted.slot, EventLoop::connect);
            }
        }
    }

    /// Does what other threads ask for.
    fn obey(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Begin(request, answer) => {
                    self.look_at_clock();
                    self.begin(*request, 0, Origin::Caller(answer));
                }
                Command::Serve(source) => {
                    source.attach(self.number, Arc::clone(&self.handle.wake));
                    self.source = Some(source);
                    self.has_more = true;
                }
                Command::Resolved(host, addresses) => self.on_resolved(&host, addresses.as_ref()),
                Command::IdentityRead(tls, identity) => self.on_identity(tls, identity),
                Command::Interrupt => self.interrupt(),
                Command::Stop => {
                    self.interrupt();
                    self.is_stopped = true;
                }
            }
            self.start_admitted();
        }
    }

    /// Continues with connections that used up their share of the last turn.
    fn go_on(&mut self) {
        for connection in std::mem::take(&mut self.unfinished) {
            let ready = Ready { can_read: true, can_write: true, is_closing: false };
            self.guarded(connection, |this, connection| this.on_ready(connection, ready));
        }
    }

    fn pass_time(&mut self) {
        while let Some(slot) = self.deadlines.pop(self.now_ms) {
            self.guarded_attempt(slot, EventLoop::on_due);
            self.start_admitted();
        }
        self.connections.close_expired(self.now_ms, &mut self.hosts);
    }

    fn begin(&mut self, request: OutgoingRequest, account: u64, origin: Origin) {
        let is_interrupted = self.shared.is_interrupted.load(Ordering::Relaxed);
        if is_interrupted {
            let interrupted = AttemptEnd::Reply(Reply::Failed(Failure::Interrupted));
            return self.tell_end(origin, interrupted);
        }
        self.serials += 1;
        let deadline_ms = self.now_ms.saturating_add(request.timeout_ms());
        let attempt = LoopAttempt::new(request, account, origin, self.serials, deadline_ms);
        let slot = self.attempts.insert(attempt);
        self.deadlines.set(slot, deadline_ms);
        self.guarded_attempt(slot, EventLoop::admit);
        self.start_admitted();
    }

    pub(super) fn tell_end(&mut self, origin: Origin, end: AttemptEnd) {
        match origin {
            Origin::Source(token) => self.ended.push(EndedAttempt { token, end }),
            Origin::Caller(answer) => answer.reply(end.into_reply()),
        }
    }

    fn interrupt(&mut self) {
        let slots: Vec<usize> = self.attempts.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            self.end(slot, AttemptEnd::Reply(Reply::Failed(Failure::Interrupted)));
        }
        self.admitted.clear();
        self.connections.close_all(&mut self.hosts);
    }

    /// Exchanges attempts with the source as long as there are any, or for a while. While it is behind, a few attempts
    /// begin all the same: receivers that send byte by byte could keep it behind for as long as they like.
    fn exchange(&mut self) {
        for _ in 0..EXCHANGES_MAX {
            if self.ended.is_empty() && !self.has_more {
                return;
            }
            self.exchange_once();
            if self.ended.is_empty() && self.is_behind {
                return;
            }
        }
    }

    /// Reads the clock again. It is called before attempts begin, because their time counts from then and the thread may
    /// have been stopped since this turn began.
    fn look_at_clock(&mut self) {
        self.now_ms = self.shared.clock.monotonic_ms();
    }

    /// How many attempts may begin at the next exchange.
    fn room(&mut self) -> usize {
        let is_slack = std::mem::take(&mut self.is_slack);
        match self.attempts.len() {
            _ if self.is_stopped => 0,
            _ if self.is_behind => BEHIND_MAX,
            in_flight if is_slack || in_flight < FEW_IN_FLIGHT => EXCHANGE_MAX,
            _ => self.ended.len().clamp(1, EXCHANGE_MAX),
        }
    }

    fn exchange_once(&mut self) {
        self.has_more = false;
        let Some(source) = self.source.clone() else { return };
        let room = self.room();
        let later = self.ended.split_off(self.ended.len().min(EXCHANGE_MAX));
        let mut next = std::mem::take(&mut self.next);
        self.demand = source.exchange(self.number, &mut self.ended, room, &mut next);
        self.ended.clear();
        self.ended.extend(later);
        self.has_more = !self.is_stopped && next.len() >= room;
        self.look_at_clock();
        for NextAttempt { token, request, account } in next.drain(..) {
            self.begin(request, account, Origin::Source(token));
        }
        self.next = next;
    }
}
