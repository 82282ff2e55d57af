//! The steps of one attempt: its TLS settings, its turn at the host, its connection, its exchange, its end.
//!
//! A connection leads to an address that the guard admitted a moment ago. The attempt's time starts with the
//! first packet to the receiver: what it waits for before that is ours, and ends uncounted.

use super::event_loop::EventLoop;
use super::exchange::{Ending, Exchange, Ready, Turn, failure};
use super::hosts::{AttemptRef, ConnectionKey};
use super::loop_attempt::{Exchanging, Stage};
use super::stream::Handshake;
use crate::delivery::attempt_source::{AttemptEnd, Shortage};
use crate::delivery::http1::Reuse;
use crate::transport::{Failure, Reply};

/// How long the rest of a response is read once its status is known, in milliseconds.
const DRAIN_MS_MAX: u64 = 250;

impl EventLoop {
    /// Whether an attempt has not ended.
    pub(super) fn is_current(&self, reference: AttemptRef) -> bool {
        self.attempts.get(reference.slot).is_some_and(|known| known.serial == reference.serial)
    }

    pub(super) fn reference(&self, slot: usize) -> Option<AttemptRef> {
        self.attempts.get(slot).map(|attempt| AttemptRef { slot, serial: attempt.serial })
    }

    pub(super) fn set_stage(&mut self, slot: usize, stage: Stage) {
        if let Some(attempt) = self.attempts.get_mut(slot) {
            attempt.stage = stage;
        }
    }

    /// Gives an attempt its turn at its destination, or lets it wait for that.
    pub(super) fn admit(&mut self, slot: usize) {
        let Some(attempt) = self.attempts.get(slot) else { return };
        let (is_https, authority) =
            (attempt.request.is_https(), attempt.request.authority().clone());
        let identity = if is_https {
            let Some(identity) = self.identity(slot) else { return };
            Some(identity)
        } else {
            None
        };
        let number = identity.as_ref().map_or(0, |identity| identity.number());
        let number = self.hosts.find(&ConnectionKey { identity: number, is_https, authority });
        let account = self.attempts.get(slot).map_or(0, |attempt| attempt.account);
        let Some(reference) = self.reference(slot) else { return };
        let host_in_flight_max = self.host_in_flight_max;
        let Some(host) = self.hosts.host(number) else { return };
        let has_turn = host.take_turn(account, host_in_flight_max);
        if !has_turn {
            host.waiting.push(account, reference);
        }
        if let Some(attempt) = self.attempts.get_mut(slot) {
            attempt.identity = identity;
            attempt.host = Some(number);
            attempt.has_turn = has_turn;
            attempt.stage = Stage::WaitingForTurn;
        }
        if has_turn {
            self.connect(slot);
        }
    }

    /// Finds a connection for an attempt that has its turn: an idle one, or a new one.
    pub(super) fn connect(&mut self, slot: usize) {
        let Some(attempt) = self.attempts.get(slot) else { return };
        let Some(host) = attempt.host else { return };
        if attempt.needs_fresh {
            // The others are likely to be as stale.
            self.connections.close_idle_at(host, &mut self.hosts);
        } else {
            let hosts = &mut self.hosts;
            let idle = self.connections.take(host, slot, self.now_ms, hosts, &mut self.scratch);
            if let Some(connection) = idle {
                self.start_timing(slot);
                return self.start_exchange(slot, connection, true);
            }
        }
        self.resolve(slot);
    }

    /// The time of the attempt counts from here.
    pub(super) fn start_timing(&mut self, slot: usize) {
        let Some(attempt) = self.attempts.get_mut(slot) else { return };
        if !attempt.is_timed {
            attempt.is_timed = true;
            attempt.deadline_ms = self.now_ms.saturating_add(attempt.request.timeout_ms());
            self.deadlines.set(slot, attempt.deadline_ms);
        }
    }

    /// The system says that something can be done with a connection.
    pub(super) fn on_ready(&mut self, number: usize, ready: Ready) {
        let Some(slot) = self.connections.attempt(number) else {
            return self.connections.check_idle(number, &mut self.hosts, &mut self.scratch);
        };
        match self.attempts.get(slot).map(|attempt| &attempt.stage) {
            Some(Stage::Connecting(known)) if known.sockets.contains(&number) => {
                self.on_connecting(slot, number, ready);
            }
            Some(Stage::Exchanging(known)) if known.connection == number => self.drive(slot, ready),
            _ => self.connections.close(number, &mut self.hosts),
        }
    }

    fn start_exchange(&mut self, slot: usize, connection: usize, is_reused: bool) {
        let ready = Ready { can_read: false, can_write: true, is_closing: false };
        self.begin_exchange(slot, connection, is_reused, ready);
    }

    pub(super) fn begin_exchange(
        &mut self,
        slot: usize,
        connection: usize,
        is_reused: bool,
        ready: Ready,
    ) {
        let Some(attempt) = self.attempts.get_mut(slot) else { return };
        let exchange = Exchange::new(&attempt.request, is_reused);
        let is_handshaking = attempt.request.is_https() && !is_reused;
        let is_draining = false;
        attempt.stage =
            Stage::Exchanging(Exchanging { connection, exchange, is_handshaking, is_draining });
        self.drive(slot, Ready { can_write: true, ..ready });
    }

    /// Goes on with the handshake and the exchange as far as the connection allows.
    fn drive(&mut self, slot: usize, mut ready: Ready) {
        let Some(attempt) = self.attempts.get_mut(slot) else { return };
        let Stage::Exchanging(exchanging) = &mut attempt.stage else { return };
        let number = exchanging.connection;
        let Some(connection) = self.connections.find(number) else { return };
        if exchanging.is_handshaking {
            let exchange = &mut exchanging.exchange;
            let mut ending = None;
            let shaken = connection.stream.shake_hands(&mut self.scratch, &mut |bytes| {
                ending = ending.take().or_else(|| exchange.feed(bytes));
            });
            match shaken {
                Err(error) => return self.finish(slot, number, Ending::Failed(failure(&error))),
                Ok(Handshake::Blocked) => return,
                Ok(Handshake::Complete) => exchanging.is_handshaking = false,
            }
            if let Some(ending) = ending {
                return self.finish(slot, number, ending);
            }
            ready.can_write = true;
        }
        let stream = &mut connection.stream;
        let turn = exchanging.exchange.drive(stream, &attempt.request, ready, &mut self.scratch);
        match turn {
            Turn::Wait => {
                if exchanging.exchange.is_sent() {
                    attempt.request.release();
                }
            }
            Turn::Yield => self.unfinished.push(number),
            Turn::Drain => {}
            Turn::Over(ending) => return self.finish(slot, number, ending),
        }
        if turn != Turn::Wait && exchanging.exchange.has_status() && !exchanging.is_draining {
            exchanging.is_draining = true;
            let drained_ms = self.now_ms.saturating_add(DRAIN_MS_MAX);
            self.deadlines.set(slot, attempt.deadline_ms.min(drained_ms));
        }
    }

    /// The exchange over a connection is over.
    fn finish(&mut self, slot: usize, connection: usize, ending: Ending) {
        let response = match ending {
            Ending::Response(response, Reuse::Keep) => {
                self.connections.keep(connection, self.now_ms, &mut self.hosts);
                response
            }
            Ending::Response(response, Reuse::Close) => {
                self.connections.close(connection, &mut self.hosts);
                response
            }
            Ending::Failed(failure) => {
                self.connections.close(connection, &mut self.hosts);
                return self.fail(slot, failure);
            }
            Ending::Stale => {
                self.connections.close(connection, &mut self.hosts);
                if let Some(attempt) = self.attempts.get_mut(slot) {
                    attempt.needs_fresh = true;
                    attempt.stage = Stage::WaitingForTurn;
                }
                return self.connect(slot);
            }
        };
        self.end_without_connection(slot, AttemptEnd::Reply(Reply::Response(response)));
    }

    /// The time of an attempt, or of a part of it, is over.
    pub(super) fn on_due(&mut self, slot: usize) {
        let Some(attempt) = self.attempts.get_mut(slot) else { return };
        match std::mem::replace(&mut attempt.stage, Stage::New) {
            Stage::Connecting(connecting) if self.now_ms < connecting.until_ms => {
                attempt.stage = Stage::Connecting(connecting);
                self.try_next_address(slot);
            }
            Stage::Connecting(connecting) => {
                attempt.stage = Stage::Connecting(connecting);
                self.fail(slot, Failure::Timeout);
            }
            Stage::Exchanging(exchanging) => {
                let ending = exchanging.exchange.give_up(Failure::Timeout);
                self.finish(slot, exchanging.connection, ending);
            }
            Stage::WaitingForName(name) => {
                let has_begun = self.shared.lookups.is_running(&name);
                self.leave_name(slot, &name);
                if has_begun {
                    self.fail(slot, Failure::Dns);
                } else {
                    self.end(slot, AttemptEnd::Uncounted(Shortage::Lookups));
                }
            }
            Stage::WaitingForTurn => {
                self.end(slot, AttemptEnd::Uncounted(Shortage::HostConnections));
            }
            Stage::New | Stage::WaitingForIdentity => {
                self.end(slot, AttemptEnd::Uncounted(Shortage::Threads));
            }
        }
    }

    pub(super) fn fail(&mut self, slot: usize, failure: Failure) {
        self.end(slot, AttemptEnd::Reply(Reply::Failed(failure)));
    }

    /// Ends an attempt and closes the connections that it has.
    pub(super) fn end(&mut self, slot: usize, end: AttemptEnd) {
        match self.attempts.get(slot).map(|attempt| &attempt.stage) {
            Some(Stage::Connecting(connecting)) => {
                for number in connecting.sockets.clone() {
                    self.connections.close(number, &mut self.hosts);
                }
            }
            Some(Stage::Exchanging(exchanging)) => {
                let number = exchanging.connection;
                if self.connections.attempt(number) == Some(slot) {
                    self.connections.close(number, &mut self.hosts);
                }
            }
            _ => {}
        }
        self.end_without_connection(slot, end);
    }

    /// Ends an attempt whose connection is settled, and gives its turn to the next one.
    fn end_without_connection(&mut self, slot: usize, end: AttemptEnd) {
        let Some(attempt) = self.attempts.try_remove(slot) else { return };
        self.deadlines.clear(slot);
        if let Some(number) = attempt.host.filter(|_| attempt.has_turn) {
            self.pass_turn(number, attempt.account);
        }
        self.tell_end(attempt.origin, end);
    }

    fn pass_turn(&mut self, number: usize, account: u64) {
        let most = self.host_in_flight_max;
        let Some(host) = self.hosts.host(number) else { return };
        host.give_turn_back(account);
        while let Some((account, next)) = host.next_waiting(most) {
            let attempt = self.attempts.get_mut(next.slot);
            if let Some(attempt) = attempt.filter(|attempt| attempt.serial == next.serial) {
                host.count_turn(account);
                attempt.has_turn = true;
                self.admitted.push(next);
                return;
            }
        }
    }
}
