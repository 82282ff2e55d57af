//! An attempt as the loop sees it, and how far it is.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use super::exchange::Exchange;
use crate::delivery::attempt_source::AttemptToken;
use crate::delivery::http1::OutgoingRequest;
use crate::delivery::tls::Identity;
use crate::transport::Answer;

pub(super) struct LoopAttempt {
    pub(super) request: OutgoingRequest,
    pub(super) account: u64,
    pub(super) origin: Origin,
    /// Distinguishes it from earlier attempts in the same slot.
    pub(super) serial: u64,
    /// Its TLS settings, if it is encrypted.
    pub(super) identity: Option<Arc<Identity>>,
    /// The number of its destination, once that is known.
    pub(super) host: Option<usize>,
    /// Whether it is among the attempts that use a connection of its destination.
    pub(super) has_turn: bool,
    pub(super) stage: Stage,
    pub(super) deadline_ms: u64,
    /// Whether the deadline counts from the first packet to the receiver.
    pub(super) is_timed: bool,
    /// An idle connection turned out to be stale: it needs a new one.
    pub(super) needs_fresh: bool,
}

/// The receiver of the result.
pub(super) enum Origin {
    Source(AttemptToken),
    Caller(Answer),
}

/// What an attempt does at present.
pub(super) enum Stage {
    New,
    WaitingForIdentity,
    WaitingForTurn,
    WaitingForName(String),
    Connecting(Box<Connecting>),
    Exchanging(Exchanging),
}

/// Addresses tried in turn. A later one is tried while an earlier one is slow.
pub(super) struct Connecting {
    pub(super) left: VecDeque<SocketAddr>,
    pub(super) sockets: SmallVec<[usize; 2]>,
    pub(super) until_ms: u64,
}

pub(super) struct Exchanging {
    pub(super) connection: usize,
    pub(super) exchange: Exchange,
    pub(super) is_handshaking: bool,
    pub(super) is_draining: bool,
}

impl LoopAttempt {
    pub(super) fn new(
        request: OutgoingRequest,
        account: u64,
        origin: Origin,
        serial: u64,
        deadline_ms: u64,
    ) -> LoopAttempt {
        LoopAttempt {
            request,
            account,
            origin,
            serial,
            identity: None,
            host: None,
            has_turn: false,
            stage: Stage::New,
            deadline_ms,
            is_timed: false,
            needs_fresh: false,
        }
    }
}
