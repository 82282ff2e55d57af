//! Decides whether anything was lost: for every accepted event and every endpoint that wants it,
//! who has it, who is still owed it, and what cannot be accounted for.
//!
//! Leaves to others: watching receivers (`receivers`) and the engine process (`stage`). Invariant:
//! a delivery counts as delivered only by the receiver's own record, never by the engine's word;
//! what no record, dead letter or debt explains is lost.

use std::collections::{BTreeSet, HashMap};

use wabahook::EventId;

use super::endpoints::{Endpoint, Place};
use super::report::{AcceptedEvent, Lane};

/// One request as its receiver answered it.
#[derive(Debug, Clone)]
pub(super) struct Exchange {
    pub(super) endpoint: usize,
    pub(super) event: EventId,
    pub(super) event_type: String,
    pub(super) place: Place,
    /// `x-webhook-attempt`.
    pub(super) attempt: u32,
    pub(super) status: u16,
    /// When it was answered, in milliseconds since the Unix epoch.
    pub(super) at_ms: u64,
    /// CRC-32 of the body.
    pub(super) checksum: u32,
}

/// Everything the demo knows of the show.
#[derive(Debug)]
pub(super) struct Ledger {
    endpoints: &'static [Endpoint],
    events: HashMap<EventId, Known>,
    sides: Vec<Side>,
    accepted: u64,
    owed: u64,
    forged: u64,
    cut: Option<Cut>,
}

/// What is known of an event.
#[derive(Debug)]
struct Known {
    /// Who wants it, by place in the cast, by the demo's own reading of the filters.
    wanted_by: Vec<usize>,
    /// When it was published and its checksum; `None` where the kill cut off its receipt and a
    /// receiver was the first to tell of it.
    published: Option<(u64, u32)>,
    /// To how many the receipt says that it is owed.
    said_owed: Option<usize>,
}

/// What is known of an endpoint.
#[derive(Debug, Default)]
struct Side {
    acknowledged: HashMap<EventId, Exchange>,
    dead: HashMap<EventId, String>,
    /// The last answer of each event that was refused for good, and when.
    refused: HashMap<EventId, u64>,
    repeated: u64,
    /// Retries counted by engine processes that are gone, and by the one that lives.
    retried_before: u64,
    lane: Option<Lane>,
    /// Whether it was disabled: what was published after that is not owed to it.
    gone: bool,
}

/// The span around a kill in which a dead letter could become durable and nobody be told.
#[derive(Debug)]
struct Cut {
    from_ms: u64,
    until_ms: Option<u64>,
}

/// The sums shown while the show goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Sums {
    pub(super) accepted: u64,
    pub(super) owed: u64,
    pub(super) delivered: u64,
    pub(super) retried: u64,
    pub(super) dead: u64,
    pub(super) waiting: u64,
}

/// One endpoint's account. `owed` is the sum of `delivered`, `dead`, `waiting` and `lost`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Tally {
    pub(super) owed: u64,
    pub(super) delivered: u64,
    pub(super) retried: u64,
    pub(super) dead: u64,
    pub(super) waiting: u64,
    pub(super) lost: Vec<EventId>,
    /// Acknowledgements beyond the first of the same event.
    pub(super) repeated: u64,
    /// Dead letters that the kill kept from being announced.
    pub(super) unannounced: u64,
    /// Events that came here although the filter does not match them.
    pub(super) misrouted: u64,
    /// Events whose bytes differ from those published.
    pub(super) altered: u64,
    /// From publish to acknowledgement of deliveries that took one attempt, ascending.
    pub(super) first_try_ms: Vec<u64>,
    /// From the first acknowledgement to the last, in milliseconds.
    pub(super) active_ms: u64,
}

/// The account of the whole show.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Verdict {
    /// Events known to be accepted.
    pub(super) events: u64,
    /// Of these, events whose receipt the kill cut off: durable all the same.
    pub(super) unreceipted: u64,
    /// Accepted events for which the engine named another number of deliveries than the filters.
    pub(super) misjudged: u64,
    /// Requests whose signature did not verify.
    pub(super) forged: u64,
    /// By place in the cast.
    pub(super) tallies: Vec<Tally>,
}

/// How long before the kill a dead letter may have been made durable with its notice not yet out:
/// the engine process reports within milliseconds, a loaded machine takes longer.
const NOTICE_LAG_MS: u64 = 2_000;

impl Ledger {
    pub(super) fn new(endpoints: &'static [Endpoint]) -> Ledger {
        Ledger {
            endpoints,
            events: HashMap::new(),
            sides: endpoints.iter().map(|_| Side::default()).collect(),
            accepted: 0,
            owed: 0,
            forged: 0,
            cut: None,
        }
    }

    /// The engine process says that an event is on the device.
    pub(super) fn accepted(&mut self, id: EventId, published_ms: u64, said: &AcceptedEvent) {
        let wanted_by = self.wanted_by(&said.event_type, &said.place);
        self.accepted += 1;
        self.owed += u64::from(said.owed);
        let published = Some((published_ms, said.checksum));
        let said_owed = usize::try_from(said.owed).ok();
        self.events.insert(id, Known { wanted_by, published, said_owed });
    }

    /// The engine process says that an endpoint wants no more.
    pub(super) fn disabled(&mut self, endpoint: usize) {
        if let Some(side) = self.sides.get_mut(endpoint) {
            side.gone = true;
        }
    }

    /// Whether an event is owed to one that wants it, who may have been gone when it was accepted. That
    /// only the receipt knows, because the notice of the end may come later than it; of an event
    /// without a receipt it is taken for granted, unless it came there.
    fn is_owed(&self, id: &EventId, known: &Known, place: usize) -> bool {
        known.said_owed == Some(known.wanted_by.len())
            || self.sides.get(place).is_none_or(|side| !side.gone || side.has_seen(id))
    }

    /// A receiver answered a request.
    pub(super) fn answered(&mut self, exchange: Exchange) {
        let (id, place) = (exchange.event, exchange.endpoint);
        if !self.events.contains_key(&id) {
            let wanted_by = self.wanted_by(&exchange.event_type, &exchange.place);
            self.events.insert(id, Known { wanted_by, published: None, said_owed: None });
        }
        let Some(side) = self.sides.get_mut(place) else { return };
        match exchange.status {
            200..=299 if side.acknowledged.contains_key(&id) => side.repeated += 1,
            200..=299 => {
                side.acknowledged.insert(id, exchange);
            }
            408 | 425 | 429 => {}
            400..=499 => {
                side.refused.insert(id, exchange.at_ms);
            }
            _ => {}
        }
    }

    /// A receiver got a request whose signature does not verify.
    pub(super) fn forged(&mut self) {
        self.forged += 1;
    }

    /// The engine process says that a delivery is a dead letter.
    pub(super) fn died(&mut self, endpoint: usize, id: EventId, reason: String) {
        if let Some(side) = self.sides.get_mut(endpoint) {
            side.dead.insert(id, reason);
        }
    }

    /// The engine process says how its lanes are.
    pub(super) fn lanes(&mut self, lanes: &[Lane]) {
        for lane in lanes {
            if let Some(side) = self.sides.get_mut(lane.endpoint) {
                side.lane = Some(*lane);
            }
        }
    }

    /// The engine process was killed: what it knew only in memory is gone.
    pub(super) fn killed(&mut self, at_ms: u64) {
        self.cut = Some(Cut { from_ms: at_ms.saturating_sub(NOTICE_LAG_MS), until_ms: None });
        for side in &mut self.sides {
            side.retried_before += side.lane.take().map_or(0, |lane| lane.retried);
        }
    }

    /// An engine process listens to notices again.
    pub(super) fn listening(&mut self, at_ms: u64) {
        if let Some(cut) = &mut self.cut {
            cut.until_ms.get_or_insert(at_ms);
        }
    }

    /// Forgets one acknowledgement, as if the delivery had been lost on its way. It takes one of an
    /// endpoint with no debts in the open, where nothing could stand in for it.
    pub(super) fn forget_one(&mut self) -> Option<EventId> {
        let tallies = self.verdict().tallies;
        let settled = tallies.iter().position(|t| t.delivered > 0 && t.waiting == 0)?;
        let side = self.sides.get_mut(settled)?;
        let id = side.acknowledged.keys().min().copied()?;
        side.acknowledged.remove(&id);
        side.lane = side.lane.map(|lane| Lane { owed: 0, ..lane });
        Some(id)
    }

    pub(super) fn sums(&self) -> Sums {
        let delivered: u64 = self.sides.iter().map(|s| s.acknowledged.len() as u64).sum();
        let dead: u64 = self.sides.iter().map(|s| s.dead.len() as u64).sum();
        Sums {
            accepted: self.accepted,
            owed: self.owed,
            delivered,
            retried: self.sides.iter().map(Side::retried).sum(),
            dead,
            waiting: self.owed.saturating_sub(delivered + dead),
        }
    }

    /// Adds it all up.
    pub(super) fn verdict(&self) -> Verdict {
        let places = 0..self.endpoints.len();
        let unreceipted = self.events.values().filter(|known| known.published.is_none()).count();
        let is_misjudged = |(id, known): &(&EventId, &Known)| {
            let owed = || known.wanted_by.iter().filter(|place| self.is_owed(id, known, **place));
            known.said_owed.is_some_and(|said| said != owed().count())
        };
        let misjudged = self.events.iter().filter(is_misjudged).count() as u64;
        Verdict {
            events: self.events.len() as u64,
            unreceipted: unreceipted as u64,
            misjudged,
            forged: self.forged,
            tallies: places.zip(&self.sides).map(|(place, side)| self.tally(place, side)).collect(),
        }
    }

    fn tally(&self, place: usize, side: &Side) -> Tally {
        let mut tally =
            Tally { repeated: side.repeated, retried: side.retried(), ..Tally::default() };
        let mut open = BTreeSet::new();
        for (id, known) in &self.events {
            if !known.wanted_by.contains(&place) || !self.is_owed(id, known, place) {
                continue;
            }
            tally.owed += 1;
            if let Some(exchange) = side.acknowledged.get(id) {
                tally.delivered += 1;
                tally.take(known, exchange);
            } else if side.dead.contains_key(id) {
                tally.dead += 1;
            } else if side.refused.get(id).is_some_and(|at_ms| self.in_the_cut(*at_ms)) {
                tally.dead += 1;
                tally.unannounced += 1;
            } else {
                open.insert(*id);
            }
        }
        // Which of the open ones the engine still owes it does not say; it says how many. Those
        // that it does not owe are lost, and the oldest are the likeliest.
        let owed_now = side.lane.map_or(0, |lane| lane.owed);
        tally.waiting = owed_now.min(open.len() as u64);
        let lost = open.len() - usize::try_from(tally.waiting).unwrap_or(open.len());
        tally.lost = open.into_iter().take(lost).collect();
        tally.misrouted = self.misrouted(place, side);
        tally.first_try_ms.sort_unstable();
        let moments = || side.acknowledged.values().map(|exchange| exchange.at_ms);
        tally.active_ms = moments().max().unwrap_or(0).saturating_sub(moments().min().unwrap_or(0));
        tally
    }

    fn misrouted(&self, place: usize, side: &Side) -> u64 {
        let unwanted = |id: &&EventId| {
            self.events.get(*id).is_none_or(|known| !known.wanted_by.contains(&place))
        };
        let seen: BTreeSet<_> =
            side.acknowledged.keys().chain(side.refused.keys()).chain(side.dead.keys()).collect();
        seen.iter().filter(|id| unwanted(id)).count() as u64
    }

    fn in_the_cut(&self, at_ms: u64) -> bool {
        self.cut.as_ref().is_some_and(|cut| {
            at_ms >= cut.from_ms && cut.until_ms.is_none_or(|until_ms| at_ms <= until_ms)
        })
    }

    fn wanted_by(&self, event_type: &str, place: &Place) -> Vec<usize> {
        let wanting = self.endpoints.iter().enumerate();
        wanting.filter(|(_, e)| e.wants(event_type, place)).map(|(at, _)| at).collect()
    }
}

impl Side {
    fn has_seen(&self, id: &EventId) -> bool {
        self.acknowledged.contains_key(id)
            || self.refused.contains_key(id)
            || self.dead.contains_key(id)
    }

    fn retried(&self) -> u64 {
        self.retried_before + self.lane.map_or(0, |lane| lane.retried)
    }
}

impl Tally {
    fn take(&mut self, known: &Known, exchange: &Exchange) {
        let Some((published_ms, checksum)) = known.published else { return };
        self.altered += u64::from(checksum != exchange.checksum);
        if exchange.attempt == 1 {
            self.first_try_ms.push(exchange.at_ms.saturating_sub(published_ms));
        }
    }

    /// The latency that this many percent of first tries stayed within, in milliseconds.
    pub(super) fn percentile_ms(&self, percent: usize) -> Option<u64> {
        let rank = (self.first_try_ms.len() * percent).div_ceil(100);
        self.first_try_ms.get(rank.saturating_sub(1)).copied()
    }

    /// Deliveries a second while it was being delivered to.
    pub(super) fn per_s(&self) -> u64 {
        (self.delivered * 1_000).checked_div(self.active_ms).unwrap_or(0)
    }
}

impl Verdict {
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

    /// Places in the cast.
    const AUDIT_LOG: usize = 0;
    const CRM: usize = 1;
    const OLD_TYPO: usize = 7;
    const OLD_CRM: usize = 9;

    fn id(n: u64) -> EventId {
        format!("evt_{:016x}{n:016x}", 1).parse().unwrap()
    }

    fn place(number: &str) -> Place {
        Place::Number(number.into())
    }

    fn accept(ledger: &mut Ledger, n: u64, event_type: &str, number: &str, owed: u32) {
        let said = AcceptedEvent {
            id: id(n).to_string(),
            event_type: event_type.into(),
            place: place(number),
            owed,
            checksum: 5,
        };
        ledger.accepted(id(n), 1_000, &said);
    }

    fn exchange(endpoint: usize, n: u64, status: u16, at_ms: u64) -> Exchange {
        Exchange {
            endpoint,
            event: id(n),
            event_type: "MESSAGE_RECEIVED".into(),
            place: place("919000000004"),
            attempt: 1,
            status,
            at_ms,
            checksum: 5,
        }
    }

    /// Two events that the audit log and the CRM want, both delivered to both.
    fn settled() -> Ledger {
        let mut ledger = Ledger::new(ENDPOINTS);
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
        let verdict = settled().verdict();
        assert!(verdict.is_good());
        assert_eq!((verdict.events, verdict.lost()), (2, 0));
        let tally = &verdict.tallies[CRM];
        assert_eq!((tally.owed, tally.delivered, tally.per_s()), (2, 2, 200));
        assert_eq!((tally.percentile_ms(50), tally.percentile_ms(99)), (Some(10), Some(20)));
        assert_eq!(verdict.tallies[OLD_CRM], Tally::default());
    }

    #[test]
    fn a_delivery_that_no_record_explains_is_lost_and_named() {
        let mut ledger = settled();
        accept(&mut ledger, 3, "MESSAGE_RECEIVED", "919000000004", 2);
        ledger.answered(exchange(AUDIT_LOG, 3, 200, 1_100));
        let verdict = ledger.verdict();
        assert_eq!(verdict.tallies[CRM].lost, [id(3)]);
        assert!(!verdict.is_good() && verdict.tallies[AUDIT_LOG].lost.is_empty());
    }

    #[test]
    fn a_failed_answer_and_the_engine_s_word_are_no_delivery() {
        let mut ledger = settled();
        accept(&mut ledger, 3, "MESSAGE_RECEIVED", "919000000004", 2);
        ledger.answered(exchange(AUDIT_LOG, 3, 200, 1_100));
        ledger.answered(exchange(CRM, 3, 503, 1_100));
        ledger.lanes(&[Lane { endpoint: CRM, owed: 0, retried: 1 }]);
        assert_eq!(ledger.verdict().lost(), 1);
        ledger.lanes(&[Lane { endpoint: CRM, owed: 1, retried: 1 }]);
        let verdict = ledger.verdict();
        assert_eq!((verdict.lost(), verdict.tallies[CRM].waiting), (0, 1));
        assert_eq!(verdict.tallies[AUDIT_LOG].waiting, 0);
    }

    #[test]
    fn what_an_endpoint_was_not_owed_because_it_was_gone_is_not_lost_and_all_else_is() {
        let mut ledger = settled();
        accept(&mut ledger, 3, "MESSAGE_RECEIVED", "919000000004", 1);
        accept(&mut ledger, 4, "MESSAGE_RECEIVED", "919000000004", 2);
        for n in [3, 4] {
            ledger.answered(exchange(AUDIT_LOG, n, 200, 1_100));
        }
        let verdict = ledger.verdict();
        assert_eq!((verdict.lost(), verdict.misjudged), (2, 1), "nobody said that it was gone");
        ledger.disabled(CRM);
        let verdict = ledger.verdict();
        assert_eq!((verdict.lost(), verdict.misjudged), (1, 0));
        assert_eq!((&verdict.tallies[CRM].lost, verdict.tallies[CRM].owed), (&vec![id(4)], 3));
        assert_eq!((verdict.tallies[AUDIT_LOG].owed, verdict.tallies[AUDIT_LOG].delivered), (4, 4));
    }

    #[test]
    fn debts_explain_no_more_than_their_number() {
        let mut ledger = Ledger::new(ENDPOINTS);
        for n in 1..=5 {
            accept(&mut ledger, n, "CALL_MISSED", "919000000002", 2);
            ledger.answered(exchange(AUDIT_LOG, n, 200, 2_000));
        }
        ledger.lanes(&[Lane { endpoint: OLD_CRM, owed: 3, retried: 9 }]);
        let verdict = ledger.verdict();
        assert_eq!(verdict.tallies[OLD_CRM].waiting, 3);
        assert_eq!(verdict.tallies[OLD_CRM].lost, [id(1), id(2)]);
        assert_eq!(verdict.tallies[AUDIT_LOG].delivered, 5);
    }

    #[test]
    fn a_forgotten_acknowledgement_is_found() {
        let mut ledger = settled();
        assert_eq!(ledger.forget_one(), Some(id(1)));
        let verdict = ledger.verdict();
        assert_eq!(verdict.tallies[AUDIT_LOG].lost, [id(1)]);
        assert_eq!(verdict.tallies[CRM].delivered, 2);
    }

    #[test]
    fn a_dead_letter_is_known_by_its_notice_and_near_a_kill_by_the_receiver_s_refusal() {
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
                ledger.died(OLD_TYPO, id(9), "status:404".into());
            }
            let verdict = ledger.verdict();
            assert_eq!(verdict.tallies[AUDIT_LOG].delivered, 3);
            (verdict.tallies[OLD_TYPO].dead, verdict.lost())
        };
        assert_eq!(dead_and_lost(None, true, 5_000), (1, 0));
        assert_eq!(dead_and_lost(None, false, 5_000), (0, 1));
        assert_eq!(dead_and_lost(Some(5_010), false, 5_000), (1, 0));
        assert_eq!(dead_and_lost(Some(9_000), false, 5_000), (0, 1));
        assert_eq!(dead_and_lost(Some(5_010), false, 6_000), (0, 1));
    }

    #[test]
    fn an_event_whose_receipt_was_cut_off_is_owed_to_all_who_want_it() {
        let mut ledger = settled();
        ledger.answered(exchange(AUDIT_LOG, 7, 200, 3_000));
        let verdict = ledger.verdict();
        assert_eq!((verdict.events, verdict.unreceipted), (3, 1));
        assert_eq!(verdict.tallies[CRM].lost, [id(7)]);
        assert_eq!(verdict.tallies[OLD_CRM].owed, 0);
    }

    #[test]
    fn a_wrong_address_an_altered_body_and_a_forgery_are_not_good() {
        let mut misrouted = settled();
        misrouted.answered(exchange(OLD_TYPO, 1, 200, 1_050));
        assert_eq!(misrouted.verdict().tallies[OLD_TYPO].misrouted, 1);
        let mut altered = settled();
        accept(&mut altered, 3, "CALL_MISSED", "919000000004", 1);
        altered.answered(Exchange { checksum: 6, ..exchange(AUDIT_LOG, 3, 200, 1_050) });
        assert_eq!(altered.verdict().tallies[AUDIT_LOG].altered, 1);
        let mut forged = settled();
        forged.forged();
        let mut misjudged = settled();
        accept(&mut misjudged, 1, "MESSAGE_RECEIVED", "919000000004", 7);
        for ledger in [misrouted, altered, forged, misjudged] {
            assert!(!ledger.verdict().is_good());
            assert_eq!(ledger.verdict().lost(), 0);
            assert_eq!(ledger.verdict().tallies[CRM].delivered, 2);
        }
    }

    #[test]
    fn a_repeat_is_counted_once_as_delivered_and_retries_survive_the_kill() {
        let mut ledger = settled();
        ledger.answered(exchange(CRM, 1, 200, 1_200));
        ledger.lanes(&[Lane { endpoint: CRM, owed: 1, retried: 4 }]);
        ledger.killed(2_000);
        ledger.lanes(&[Lane { endpoint: CRM, owed: 0, retried: 3 }]);
        let tally = &ledger.verdict().tallies[CRM];
        assert_eq!((tally.delivered, tally.repeated, tally.retried), (2, 1, 7));
        assert_eq!(ledger.sums().retried, 7);
        assert_eq!(ledger.verdict().tallies[AUDIT_LOG].repeated, 0);
    }
}
