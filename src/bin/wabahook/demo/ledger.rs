//! The ledger of the demo: for every accepted event and every endpoint that wants it, whether it was delivered,
//! is dead, is still owed, or is lost. A delivery counts as delivered only by the receiver's own record, never
//! by a report of the engine; what no record, dead letter or owed delivery explains is lost.

use std::collections::{BTreeSet, HashMap, HashSet};

use wabahook::EventId;

use super::endpoints::{DemoEndpoint, NumberOrWaba};
use super::report::{AcceptedEvent, LaneReport};

/// One request and the response of its receiver.
#[derive(Debug, Clone)]
pub(super) struct AnsweredRequest {
    pub(super) endpoint: usize,
    pub(super) event: EventId,
    pub(super) event_type: String,
    pub(super) owner: NumberOrWaba,
    /// `x-webhook-attempt`.
    pub(super) attempt: u32,
    pub(super) status: u16,
    /// When it was answered, in milliseconds since the Unix epoch.
    pub(super) at_ms: u64,
    /// CRC-32 of the body.
    pub(super) checksum: u32,
}

/// Everything the demo knows.
#[derive(Debug, Default)]
pub(super) struct DeliveryLedger {
    endpoints: &'static [DemoEndpoint],
    events: HashMap<EventId, LedgerEvent>,
    sides: Vec<LedgerEndpoint>,
    accepted: u64,
    owed: u64,
    /// Requests with a wrong signature.
    pub(super) forged: u64,
    /// From when to when a dead letter could become durable without its notice, because of a kill.
    kill_window: Option<(u64, u64)>,
}

/// What is known of an event.
#[derive(Debug)]
struct LedgerEvent {
    /// The endpoints that want it, by index, computed by the demo itself.
    wanted_by: Vec<usize>,
    /// When it was published, and its checksum; `None` where the kill cut off its receipt and only a receiver
    /// reported it.
    published: Option<(u64, u32)>,
    /// How many deliveries its receipt says it owes.
    said_owed: Option<usize>,
}

/// What is known of an endpoint.
#[derive(Debug, Default)]
struct LedgerEndpoint {
    acknowledged: HashMap<EventId, AnsweredRequest>,
    dead: HashSet<EventId>,
    /// When the last response of each permanently refused event was sent.
    refused: HashMap<EventId, u64>,
    repeated: u64,
    /// Retries counted by engine processes that are gone.
    retried_before: u64,
    lane: Option<LaneReport>,
    /// Whether it was disabled: later events are not owed to it.
    is_disabled: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ProgressTotals {
    pub(super) accepted: u64,
    pub(super) owed: u64,
    pub(super) delivered: u64,
    pub(super) retried: u64,
    pub(super) dead: u64,
    pub(super) waiting: u64,
}

/// The result of one endpoint. `owed` is the sum of `delivered`, `dead`, `waiting` and `lost`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct EndpointTally {
    pub(super) owed: u64,
    pub(super) delivered: u64,
    pub(super) retried: u64,
    pub(super) dead: u64,
    pub(super) waiting: u64,
    pub(super) lost: Vec<EventId>,
    /// Acknowledgements after the first of the same event.
    pub(super) repeated: u64,
    /// Dead letters whose notice the kill cut off.
    pub(super) unannounced: u64,
    /// Events that arrived although the filter does not match them.
    pub(super) misrouted: u64,
    /// Events whose bytes differ from those published.
    pub(super) altered: u64,
    /// The latencies of deliveries with one attempt, ascending.
    pub(super) first_try_ms: Vec<u64>,
    /// From the first acknowledgement to the last, in milliseconds.
    pub(super) active_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct DemoResult {
    /// Events known to be accepted.
    pub(super) events: u64,
    /// Those of them whose receipt was lost in the kill. They are durable too.
    pub(super) unreceipted: u64,
    /// Accepted events whose receipt has another number of deliveries than the filters give.
    pub(super) misjudged: u64,
    /// Requests whose signature did not verify.
    pub(super) forged: u64,
    /// By the index of the endpoint.
    pub(super) tallies: Vec<EndpointTally>,
}

/// How long before the kill a dead letter may have become durable without its report: the engine process
/// reports within milliseconds, on a loaded machine later.
const NOTICE_LAG_MS: u64 = 2_000;

impl DeliveryLedger {
    pub(super) fn new(endpoints: &'static [DemoEndpoint]) -> DeliveryLedger {
        DeliveryLedger {
            endpoints,
            sides: endpoints.iter().map(|_| LedgerEndpoint::default()).collect(),
            ..DeliveryLedger::default()
        }
    }

    /// The engine process reports that an event is on the device.
    pub(super) fn accepted(&mut self, id: EventId, published_ms: u64, said: &AcceptedEvent) {
        let wanted_by = self.wanted_by(&said.event_type, &said.owner);
        self.accepted += 1;
        self.owed += u64::from(said.owed);
        let published = Some((published_ms, said.checksum));
        let said_owed = usize::try_from(said.owed).ok();
        self.events.insert(id, LedgerEvent { wanted_by, published, said_owed });
    }

    /// The engine process reports that an endpoint was disabled.
    pub(super) fn disabled(&mut self, endpoint: usize) {
        if let Some(side) = self.sides.get_mut(endpoint) {
            side.is_disabled = true;
        }
    }

    /// Whether an event is owed to an endpoint that wants it, which may have been disabled when it was
    /// accepted. Only the receipt shows that, because the notice may come later. Without a receipt, a disabled
    /// endpoint is assumed to have been disabled before, unless it has seen the event.
    fn is_owed(&self, id: &EventId, known: &LedgerEvent, index: usize) -> bool {
        known.said_owed == Some(known.wanted_by.len())
            || self.sides.get(index).is_none_or(|side| !side.is_disabled || side.has_seen(id))
    }

    /// A receiver responded to a request.
    pub(super) fn answered(&mut self, exchange: AnsweredRequest) {
        let (id, index) = (exchange.event, exchange.endpoint);
        if !self.events.contains_key(&id) {
            let wanted_by = self.wanted_by(&exchange.event_type, &exchange.owner);
            self.events.insert(id, LedgerEvent { wanted_by, published: None, said_owed: None });
        }
        let Some(side) = self.sides.get_mut(index) else { return };
        match exchange.status {
            200..=299 if side.acknowledged.contains_key(&id) => side.repeated += 1,
            200..=299 => {
                side.acknowledged.insert(id, exchange);
            }
            400..=499 if ![408, 425, 429].contains(&exchange.status) => {
                side.refused.insert(id, exchange.at_ms);
            }
            _ => {}
        }
    }

    /// The engine process reports a dead letter.
    pub(super) fn died(&mut self, endpoint: usize, id: EventId) {
        if let Some(side) = self.sides.get_mut(endpoint) {
            side.dead.insert(id);
        }
    }

    /// The engine process reports its lanes.
    pub(super) fn lanes(&mut self, lanes: &[LaneReport]) {
        for lane in lanes {
            if let Some(side) = self.sides.get_mut(lane.endpoint) {
                side.lane = Some(*lane);
            }
        }
    }

    /// The engine process was killed: what it had only in memory is gone.
    pub(super) fn killed(&mut self, at_ms: u64) {
        self.kill_window = Some((at_ms.saturating_sub(NOTICE_LAG_MS), u64::MAX));
        for side in &mut self.sides {
            side.retried_before += side.lane.take().map_or(0, |lane| lane.retried);
        }
    }

    /// An engine process reports notices again.
    pub(super) fn listening(&mut self, at_ms: u64) {
        if let Some((_, until_ms)) = &mut self.kill_window {
            *until_ms = at_ms.min(*until_ms);
        }
    }

    /// Forgets one acknowledgement, as if the delivery had been lost. It takes one of an endpoint without
    /// waiting deliveries, which would hide the loss.
    pub(super) fn forget_one(&mut self) -> Option<EventId> {
        let tallies = self.result().tallies;
        let settled = tallies.iter().position(|t| t.delivered > 0 && t.waiting == 0)?;
        let side = self.sides.get_mut(settled)?;
        let id = side.acknowledged.keys().min().copied()?;
        side.acknowledged.remove(&id);
        side.lane = side.lane.map(|lane| LaneReport { owed: 0, ..lane });
        Some(id)
    }

    pub(super) fn totals(&self) -> ProgressTotals {
        let delivered: u64 = self.sides.iter().map(|s| s.acknowledged.len() as u64).sum();
        let dead: u64 = self.sides.iter().map(|s| s.dead.len() as u64).sum();
        ProgressTotals {
            accepted: self.accepted,
            owed: self.owed,
            delivered,
            retried: self.sides.iter().map(LedgerEndpoint::retried).sum(),
            dead,
            waiting: self.owed.saturating_sub(delivered + dead),
        }
    }

    /// Computes the result.
    pub(super) fn result(&self) -> DemoResult {
        let indexes = 0..self.endpoints.len();
        let unreceipted = self.events.values().filter(|known| known.published.is_none()).count();
        let is_misjudged = |(id, known): &(&EventId, &LedgerEvent)| {
            let owed = || known.wanted_by.iter().filter(|index| self.is_owed(id, known, **index));
            known.said_owed.is_some_and(|said| said != owed().count())
        };
        let misjudged = self.events.iter().filter(is_misjudged).count() as u64;
        DemoResult {
            events: self.events.len() as u64,
            unreceipted: unreceipted as u64,
            misjudged,
            forged: self.forged,
            tallies: indexes
                .zip(&self.sides)
                .map(|(index, side)| self.tally(index, side))
                .collect(),
        }
    }

    fn tally(&self, index: usize, side: &LedgerEndpoint) -> EndpointTally {
        let mut tally = EndpointTally {
            repeated: side.repeated,
            retried: side.retried(),
            ..EndpointTally::default()
        };
        let mut open = BTreeSet::new();
        for (id, known) in &self.events {
            if !known.wanted_by.contains(&index) || !self.is_owed(id, known, index) {
                continue;
            }
            tally.owed += 1;
            if let Some(exchange) = side.acknowledged.get(id) {
                tally.delivered += 1;
                if let Some((published_ms, checksum)) = known.published {
                    tally.altered += u64::from(checksum != exchange.checksum);
                    if exchange.attempt == 1 {
                        tally.first_try_ms.push(exchange.at_ms.saturating_sub(published_ms));
                    }
                }
            } else if side.dead.contains(id) {
                tally.dead += 1;
            } else if side.refused.get(id).is_some_and(|at_ms| self.is_in_kill_window(*at_ms)) {
                tally.dead += 1;
                tally.unannounced += 1;
            } else {
                open.insert(*id);
            }
        }
        // The engine reports how many of the open ones it still owes, not which. The others are lost, most
        // likely the oldest.
        let owed_now = side.lane.map_or(0, |lane| lane.owed);
        tally.waiting = owed_now.min(open.len() as u64);
        let lost = open.len() - usize::try_from(tally.waiting).unwrap_or(open.len());
        tally.lost = open.into_iter().take(lost).collect();
        tally.misrouted = self.misrouted(index, side);
        tally.first_try_ms.sort_unstable();
        let moments = || side.acknowledged.values().map(|exchange| exchange.at_ms);
        tally.active_ms = moments().max().unwrap_or(0).saturating_sub(moments().min().unwrap_or(0));
        tally
    }

    fn misrouted(&self, index: usize, side: &LedgerEndpoint) -> u64 {
        let unwanted = |id: &&EventId| {
            self.events.get(*id).is_none_or(|known| !known.wanted_by.contains(&index))
        };
        let seen: BTreeSet<_> =
            side.acknowledged.keys().chain(side.refused.keys()).chain(&side.dead).collect();
        seen.iter().filter(|id| unwanted(id)).count() as u64
    }

    fn is_in_kill_window(&self, at_ms: u64) -> bool {
        self.kill_window.is_some_and(|(from_ms, until_ms)| (from_ms..=until_ms).contains(&at_ms))
    }

    fn wanted_by(&self, event_type: &str, owner: &NumberOrWaba) -> Vec<usize> {
        let wanting = self.endpoints.iter().enumerate();
        wanting.filter(|(_, e)| e.wants(event_type, owner)).map(|(at, _)| at).collect()
    }
}

impl LedgerEndpoint {
    fn has_seen(&self, id: &EventId) -> bool {
        self.acknowledged.contains_key(id)
            || self.refused.contains_key(id)
            || self.dead.contains(id)
    }

    fn retried(&self) -> u64 {
        self.retried_before + self.lane.map_or(0, |lane| lane.retried)
    }
}

impl EndpointTally {
    /// This percentile of the latencies, in milliseconds.
    pub(super) fn percentile_ms(&self, percent: usize) -> Option<u64> {
        let rank = (self.first_try_ms.len() * percent).div_ceil(100);
        self.first_try_ms.get(rank.saturating_sub(1)).copied()
    }

    /// Deliveries per second between the first and the last.
    pub(super) fn per_s(&self) -> u64 {
        (self.delivered * 1_000).checked_div(self.active_ms).unwrap_or(0)
    }
}

impl DemoResult {
    /// How many deliveries are lost.
    pub(super) fn lost(&self) -> usize {
        self.tallies.iter().map(|tally| tally.lost.len()).sum()
    }

    /// Whether every promise was kept.
    pub(super) fn is_good(&self) -> bool {
        let wrong: u64 = self.tallies.iter().map(|t| t.misrouted + t.altered).sum();
        self.lost() == 0 && wrong + self.misjudged + self.forged == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::endpoints::ENDPOINTS;

    /// Indexes of endpoints.
    const AUDIT_LOG: usize = 0;
    const CRM: usize = 1;
    const OLD_TYPO: usize = 7;
    const OLD_CRM: usize = 9;

    fn id(n: u64) -> EventId {
        format!("evt_{:016x}{n:016x}", 1).parse().unwrap()
    }

    fn owner(number: &str) -> NumberOrWaba {
        NumberOrWaba::Number(number.into())
    }

    fn accept(ledger: &mut DeliveryLedger, n: u64, event_type: &str, number: &str, owed: u32) {
        let said = AcceptedEvent {
            id: id(n).to_string(),
            event_type: event_type.into(),
            owner: owner(number),
            owed,
            checksum: 5,
        };
        ledger.accepted(id(n), 1_000, &said);
    }

    fn exchange(endpoint: usize, n: u64, status: u16, at_ms: u64) -> AnsweredRequest {
        AnsweredRequest {
            endpoint,
            event: id(n),
            event_type: "MESSAGE_RECEIVED".into(),
            owner: owner("919000000004"),
            attempt: 1,
            status,
            at_ms,
            checksum: 5,
        }
    }

    /// Two events, both delivered to the audit log and the CRM.
    fn settled() -> DeliveryLedger {
        let mut ledger = DeliveryLedger::new(ENDPOINTS);
        for n in [1, 2] {
            accept(&mut ledger, n, "MESSAGE_RECEIVED", "919000000004", 2);
            for endpoint in [AUDIT_LOG, CRM] {
                ledger.answered(exchange(endpoint, n, 200, 1_000 + 10 * n));
            }
        }
        ledger
    }

    #[test]
    fn all_delivered_is_nothing_lost() {
        let result = settled().result();
        assert!(result.is_good());
        assert_eq!((result.events, result.lost()), (2, 0));
        let tally = &result.tallies[CRM];
        assert_eq!((tally.owed, tally.delivered, tally.per_s()), (2, 2, 200));
        assert_eq!((tally.percentile_ms(50), tally.percentile_ms(99)), (Some(10), Some(20)));
        assert_eq!(result.tallies[OLD_CRM], EndpointTally::default());
    }

    #[test]
    fn an_unexplained_delivery_is_lost_and_named() {
        let mut ledger = settled();
        accept(&mut ledger, 3, "MESSAGE_RECEIVED", "919000000004", 2);
        ledger.answered(exchange(AUDIT_LOG, 3, 200, 1_100));
        let result = ledger.result();
        assert_eq!(result.tallies[CRM].lost, [id(3)]);
        assert!(!result.is_good() && result.tallies[AUDIT_LOG].lost.is_empty());
    }

    #[test]
    fn only_a_receiver_s_record_counts_as_delivered() {
        let mut ledger = settled();
        accept(&mut ledger, 3, "MESSAGE_RECEIVED", "919000000004", 2);
        ledger.answered(exchange(AUDIT_LOG, 3, 200, 1_100));
        ledger.answered(exchange(CRM, 3, 503, 1_100));
        ledger.lanes(&[LaneReport { endpoint: CRM, owed: 0, retried: 1 }]);
        assert_eq!(ledger.result().lost(), 1);
        ledger.lanes(&[LaneReport { endpoint: CRM, owed: 1, retried: 1 }]);
        let result = ledger.result();
        assert_eq!((result.lost(), result.tallies[CRM].waiting), (0, 1));
        assert_eq!(result.tallies[AUDIT_LOG].waiting, 0);
    }

    #[test]
    fn events_after_a_disabling_are_not_lost() {
        let mut ledger = settled();
        accept(&mut ledger, 3, "MESSAGE_RECEIVED", "919000000004", 1);
        accept(&mut ledger, 4, "MESSAGE_RECEIVED", "919000000004", 2);
        for n in [3, 4] {
            ledger.answered(exchange(AUDIT_LOG, n, 200, 1_100));
        }
        let result = ledger.result();
        assert_eq!((result.lost(), result.misjudged), (2, 1), "it is not known to be disabled");
        ledger.disabled(CRM);
        let result = ledger.result();
        assert_eq!((result.lost(), result.misjudged), (1, 0));
        assert_eq!((&result.tallies[CRM].lost, result.tallies[CRM].owed), (&vec![id(4)], 3));
        assert_eq!((result.tallies[AUDIT_LOG].owed, result.tallies[AUDIT_LOG].delivered), (4, 4));
    }

    #[test]
    fn owed_deliveries_explain_no_more_than_their_number() {
        let mut ledger = DeliveryLedger::new(ENDPOINTS);
        for n in 1..=5 {
            accept(&mut ledger, n, "CALL_MISSED", "919000000002", 2);
            ledger.answered(exchange(AUDIT_LOG, n, 200, 2_000));
        }
        ledger.lanes(&[LaneReport { endpoint: OLD_CRM, owed: 3, retried: 9 }]);
        let result = ledger.result();
        assert_eq!(result.tallies[OLD_CRM].waiting, 3);
        assert_eq!(result.tallies[OLD_CRM].lost, [id(1), id(2)]);
        assert_eq!(result.tallies[AUDIT_LOG].delivered, 5);
    }

    #[test]
    fn a_forgotten_acknowledgement_is_found() {
        let mut ledger = settled();
        assert_eq!(ledger.forget_one(), Some(id(1)));
        let result = ledger.result();
        assert_eq!(result.tallies[AUDIT_LOG].lost, [id(1)]);
        assert_eq!(result.tallies[CRM].delivered, 2);
    }

    #[test]
    fn a_dead_letter_near_a_kill_needs_no_notice() {
        let dead_and_lost = |kill: Option<u64>, told: bool, refused_at_ms: u64| {
            let mut ledger = settled();
            accept(&mut ledger, 9, "TEMPLATE_UPDATE", "919000000001", 2);
            ledger.answered(exchange(AUDIT_LOG, 9, 200, 1_100));
            ledger.answered(exchange(OLD_TYPO, 9, 404, refused_at_ms));
            if let Some(at_ms) = kill {
                ledger.killed(at_ms);
                ledger.listening(at_ms + 100);
            }
            if told {
                ledger.died(OLD_TYPO, id(9));
            }
            let result = ledger.result();
            assert_eq!(result.tallies[AUDIT_LOG].delivered, 3);
            (result.tallies[OLD_TYPO].dead, result.lost())
        };
        assert_eq!(dead_and_lost(None, true, 5_000), (1, 0));
        assert_eq!(dead_and_lost(None, false, 5_000), (0, 1));
        assert_eq!(dead_and_lost(Some(5_010), false, 5_000), (1, 0));
        assert_eq!(dead_and_lost(Some(9_000), false, 5_000), (0, 1));
        assert_eq!(dead_and_lost(Some(5_010), false, 6_000), (0, 1));
    }

    #[test]
    fn an_event_without_a_receipt_is_owed_to_all() {
        let mut ledger = settled();
        ledger.answered(exchange(AUDIT_LOG, 7, 200, 3_000));
        let result = ledger.result();
        assert_eq!((result.events, result.unreceipted), (3, 1));
        assert_eq!(result.tallies[CRM].lost, [id(7)]);
        assert_eq!(result.tallies[OLD_CRM].owed, 0);
    }

    #[test]
    fn misrouted_altered_and_forged_requests_are_found() {
        let mut misrouted = settled();
        misrouted.answered(exchange(OLD_TYPO, 1, 200, 1_050));
        assert_eq!(misrouted.result().tallies[OLD_TYPO].misrouted, 1);
        let mut altered = settled();
        accept(&mut altered, 3, "CALL_MISSED", "919000000004", 1);
        altered.answered(AnsweredRequest { checksum: 6, ..exchange(AUDIT_LOG, 3, 200, 1_050) });
        assert_eq!(altered.result().tallies[AUDIT_LOG].altered, 1);
        let mut forged = settled();
        forged.forged += 1;
        let mut misjudged = settled();
        accept(&mut misjudged, 1, "MESSAGE_RECEIVED", "919000000004", 7);
        for ledger in [misrouted, altered, forged, misjudged] {
            assert!(!ledger.result().is_good());
            assert_eq!(ledger.result().lost(), 0);
            assert_eq!(ledger.result().tallies[CRM].delivered, 2);
        }
    }

    #[test]
    fn repeats_count_once_and_retries_survive_the_kill() {
        let mut ledger = settled();
        ledger.answered(exchange(CRM, 1, 200, 1_200));
        ledger.lanes(&[LaneReport { endpoint: CRM, owed: 1, retried: 4 }]);
        ledger.killed(2_000);
        ledger.lanes(&[LaneReport { endpoint: CRM, owed: 0, retried: 3 }]);
        let tally = &ledger.result().tallies[CRM];
        assert_eq!((tally.delivered, tally.repeated, tally.retried), (2, 1, 7));
        assert_eq!(ledger.totals().retried, 7);
        assert_eq!(ledger.result().tallies[AUDIT_LOG].repeated, 0);
    }
}
