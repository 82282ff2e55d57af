//! How an attempt gets a new connection: its TLS settings are read, its name is looked up, and the addresses that the
//! guard admits are tried in turn.
//!
//! Nothing here waits: what takes time comes back as a command, a readiness or a deadline.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use smallvec::SmallVec;

use super::Command;
use super::connections::{OpenError, open_error};
use super::event_loop::EventLoop;
use super::exchange::{Ready, failure};
use super::hosts::AttemptRef;
use super::loop_attempt::{Connecting, Stage};
use crate::delivery::attempt_source::{AttemptEnd, Shortage};
use crate::delivery::guard::{Host, classify_host};
use crate::delivery::name_lookup::{Addresses, Lookup};
use crate::delivery::tls::Identity;
use crate::subscription::Tls;
use crate::transport::Failure;

/// How long after an address the next one is tried in parallel, in milliseconds.
pub(super) const NEXT_ADDRESS_MS: u64 = 250;

/// How long all addresses of a name together may take, in milliseconds. A network in order needs a
/// fraction of a second.
const CONNECT_MS_MAX: u64 = 10_000;

/// How many addresses of a name are tried.
const ADDRESSES_MAX: usize = 16;

/// How many TLS settings a loop holds ready.
const IDENTITIES_MAX: usize = 1_024;

impl EventLoop {
    /// The identity that an attempt's settings make; has it read where it is not known.
    pub(super) fn identity(&mut self, slot: usize) -> Option<Arc<Identity>> {
        let reference = self.reference(slot)?;
        let tls = self.attempts.get(slot)?.request.tls().map(Arc::clone);
        let key = identity_key(tls.as_ref());
        if let Some((_, identity)) = self.identities.read.get(&key) {
            return Some(Arc::clone(identity));
        }
        self.set_stage(slot, Stage::WaitingForIdentity);
        let waiting = self.identities.waiting.entry(key).or_default();
        waiting.push(reference);
        if waiting.len() == 1 {
            let (shared, handle) = (Arc::clone(&self.shared), self.handle.clone());
            let is_running = self.shared.lookups.run(move || {
                let identity = shared.identities.identity(tls.as_deref()).ok();
                // The last reference to what is shared must not end on one of its own threads.
                drop(shared);
                handle.tell(Command::IdentityRead(tls, identity));
            });
            if !is_running {
                self.identities.waiting.remove(&key);
                self.end(slot, AttemptEnd::Uncounted(Shortage::Threads));
            }
        }
        None
    }

    /// Settings were read: those who wait for them go on.
    pub(super) fn on_identity(&mut self, tls: Option<Arc<Tls>>, identity: Option<Arc<Identity>>) {
        let key = identity_key(tls.as_ref());
        let waiting = self.identities.waiting.remove(&key).unwrap_or_default();
        let is_read = identity.is_some();
        if let Some(identity) = identity {
            if self.identities.read.len() >= IDENTITIES_MAX {
                self.identities.read.clear();
            }
            self.identities.read.insert(key, (tls, identity));
        }
        for reference in waiting {
            if !self.is_current(reference) {
                continue;
            }
            if is_read {
                self.guarded_attempt(reference.slot, EventLoop::admit);
            } else {
                // Certificates of a subscription could be read when it was registered; the machine's take a file.
                self.end(reference.slot, AttemptEnd::Uncounted(Shortage::Files));
            }
        }
    }

    pub(super) fn resolve(&mut self, slot: usize) {
        let Some(attempt) = self.attempts.get(slot) else { return };
        let name = attempt.request.authority().host();
        #[cfg(test)]
        assert_ne!(name, "panics.test", "a test wants it");
        if let Host::Address(address) = classify_host(name) {
            return self.dial(slot, &[address]);
        }
        let (name, account) = (name.to_ascii_lowercase(), attempt.account);
        let found = self.shared.lookups.look_up(&name, account, self.number.0, &self.name_listener);
        match found {
            Lookup::Known(addresses) => self.dial(slot, &addresses),
            Lookup::NoThread => self.end(slot, AttemptEnd::Uncounted(Shortage::Threads)),
            Lookup::Pending => {
                let waiting = self.waiting_for_name.entry(name.clone()).or_default();
                if let Some(attempt) = self.attempts.get_mut(slot) {
                    waiting.push(AttemptRef { slot, serial: attempt.serial });
                    attempt.stage = Stage::WaitingForName(name);
                }
            }
        }
    }

    /// A name was looked up: those who wait for it go on.
    pub(super) fn on_resolved(&mut self, name: &str, addresses: Option<&Addresses>) {
        let waiting = self.waiting_for_name.remove(name).unwrap_or_default();
        for reference in waiting {
            if self.is_current(reference) {
                self.guarded_attempt(reference.slot, |this, slot| match addresses {
                    Some(addresses) => this.dial(slot, addresses),
                    None => this.end(slot, AttemptEnd::Uncounted(Shortage::Files)),
                });
            }
        }
    }

    /// Begins a connection to the first of these addresses that the guard admits.
    fn dial(&mut self, slot: usize, found: &[IpAddr]) {
        let guard = Arc::clone(&self.shared.guard);
        let mut refused = None;
        let admitted: Vec<IpAddr> = found
            .iter()
            .copied()
            .filter(|address| match guard.admit(*address) {
                Ok(()) => true,
                Err(rule) => {
                    refused.get_or_insert(rule);
                    false
                }
            })
            .collect();
        if admitted.is_empty() {
            let guarded = refused.map(|rule| Failure::Guard(rule.as_str().to_owned()));
            return self.fail(slot, guarded.unwrap_or(Failure::Dns));
        }
        self.start_timing(slot);
        let Some(attempt) = self.attempts.get_mut(slot) else { return };
        let last_good = attempt.host.and_then(|host| self.hosts.host(host)?.last_good);
        let default = if attempt.request.is_https() { 443 } else { 80 };
        let port = attempt.request.authority().port_u16().unwrap_or(default);
        let left = in_turns(&admitted, last_good);
        let left = left.into_iter().map(|address| SocketAddr::new(address, port)).collect();
        let until_ms = attempt.deadline_ms.min(self.now_ms.saturating_add(CONNECT_MS_MAX));
        let connecting = Connecting { left, sockets: SmallVec::new(), until_ms };
        attempt.stage = Stage::Connecting(Box::new(connecting));
        self.try_next_address(slot);
    }

    pub(super) fn try_next_address(&mut self, slot: usize) {
        loop {
            let Some(attempt) = self.attempts.get_mut(slot) else { return };
            let (Stage::Connecting(connecting), Some(host)) = (&mut attempt.stage, attempt.host)
            else {
                return;
            };
            let Some(address) = connecting.left.pop_front() else {
                if connecting.sockets.is_empty() {
                    return self.fail(slot, Failure::Connect);
                }
                self.deadlines.set(slot, connecting.until_ms);
                return;
            };
            let hosts = &mut self.hosts;
            match self.connections.open(address, host, slot, self.now_ms, hosts) {
                Ok(number) => {
                    connecting.sockets.push(number);
                    let is_last = connecting.left.is_empty();
                    let next_ms = self.now_ms.saturating_add(NEXT_ADDRESS_MS);
                    let due_ms = if is_last { u64::MAX } else { next_ms };
                    self.deadlines.set(slot, connecting.until_ms.min(due_ms));
                    return;
                }
                Err(OpenError::Unreachable) => {}
                Err(OpenError::Short(shortage)) => {
                    return self.end(slot, AttemptEnd::Uncounted(shortage));
                }
            }
        }
    }

    pub(super) fn on_connecting(&mut self, slot: usize, number: usize, ready: Ready) {
        let Some(connection) = self.connections.find(number) else { return };
        match connection.stream.is_connected() {
            Ok(false) => {}
            Ok(true) => self.on_connected(slot, number, ready),
            Err(error) => {
                let address = SocketAddr::new(connection.address, 0);
                let shortage = match open_error(&error, address) {
                    OpenError::Short(shortage) => Some(shortage),
                    OpenError::Unreachable => None,
                };
                self.connections.close(number, &mut self.hosts);
                if let Some(shortage) = shortage {
                    return self.end(slot, AttemptEnd::Uncounted(shortage));
                }
                if let Some(attempt) = self.attempts.get_mut(slot)
                    && let Stage::Connecting(connecting) = &mut attempt.stage
                {
                    connecting.sockets.retain(|socket| *socket != number);
                }
                self.try_next_address(slot);
            }
        }
    }

    /// The first connection to one of the addresses is made: the others are given up.
    fn on_connected(&mut self, slot: usize, number: usize, ready: Ready) {
        let Some(attempt) = self.attempts.get_mut(slot) else { return };
        if let Stage::Connecting(connecting) = &mut attempt.stage {
            for other in std::mem::take(&mut connecting.sockets) {
                if other != number {
                    self.connections.close(other, &mut self.hosts);
                }
            }
        }
        self.deadlines.set(slot, attempt.deadline_ms);
        let Some(connection) = self.connections.find(number) else { return };
        // Without this a small part of a request may wait for an acknowledgement.
        let _ = connection.stream.socket().set_nodelay(true);
        if let Some(host) = self.hosts.host(connection.host) {
            host.last_good = Some(connection.address);
        }
        if let Some(identity) = &attempt.identity {
            match identity.session(attempt.request.authority().host()) {
                Ok(session) => connection.stream.secure(session),
                Err(error) => {
                    self.connections.close(number, &mut self.hosts);
                    return self.fail(slot, failure(&error));
                }
            }
        }
        self.begin_exchange(slot, number, false, ready);
    }

    /// An attempt no longer waits for a name; where nobody does, the look-up need not begin.
    pub(super) fn leave_name(&mut self, slot: usize, name: &str) {
        let Some(waiting) = self.waiting_for_name.get_mut(name) else { return };
        waiting.retain(|reference| reference.slot != slot);
        if waiting.is_empty() {
            self.waiting_for_name.remove(name);
            self.shared.lookups.give_up(name, self.number.0);
        }
    }
}

/// The key of TLS settings in a loop: the address at which they are stored.
fn identity_key(tls: Option<&Arc<Tls>>) -> usize {
    tls.map_or(0, |tls| Arc::as_ptr(tls).addr())
}

/// The two families in turns, beginning with the one that the system prefers, and before all the address that
/// worked last: where one family leads nowhere, the other is tried second and not ninth.
fn in_turns(found: &[IpAddr], last_good: Option<IpAddr>) -> Vec<IpAddr> {
    let is_v6_first = found.first().is_some_and(IpAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        found.iter().copied().partition(|address| address.is_ipv6() == is_v6_first);
    let longer = first.len().max(second.len());
    let turns = (0..longer).flat_map(|n| [first.get(n).copied(), second.get(n).copied()]);
    let last_good = last_good.filter(|address| found.contains(address));
    let others = turns.flatten().filter(|address| Some(*address) != last_good);
    last_good.into_iter().chain(others).take(ADDRESSES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_families_take_turns_and_what_worked_last_is_first() {
        for (found, last_good, expected) in [
            (vec!["8.8.8.8"], None, vec!["8.8.8.8"]),
            (vec!["::a", "::b", "1.1.1.1"], None, vec!["::a", "1.1.1.1", "::b"]),
            (vec!["1.1.1.1", "1.1.1.2", "::a"], None, vec!["1.1.1.1", "::a", "1.1.1.2"]),
            (vec!["::a", "::b", "1.1.1.1"], Some("1.1.1.1"), vec!["1.1.1.1", "::a", "::b"]),
            (vec!["::a", "1.1.1.1"], Some("9.9.9.9"), vec!["::a", "1.1.1.1"]),
        ] {
            let last_good = last_good.map(|text: &str| text.parse().unwrap());
            assert_eq!(in_turns(&addresses(&found), last_good), addresses(&expected));
        }
        assert_eq!(in_turns(&[IpAddr::from([8, 8, 8, 8]); 40], None).len(), ADDRESSES_MAX);
    }
}
