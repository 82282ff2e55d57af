//! Whether events are admitted. The bounds of the outbox count events that are owed. An account may use half of
//! them, and no more than is left for the others. So nothing is refused while there is certainly room, and nothing
//! admitted while there is certainly none.

use wabahook::Error;

use super::delivery_state::DeliveryState;
use super::model::{Model, Presence, Waiting};
use super::plan::{Draft, account_of};

impl Model {
    /// Events were published, and admitted or given back.
    pub fn admitted(&mut self, drafts: Vec<Draft>, receipt: Result<Waiting, Error>) {
        let max = self.limits.outbox_events_max;
        let account = account_of(drafts[0].number);
        let count =
            drafts.iter().filter(|draft| account_of(draft.number) == account).count() as u64;
        let others = drafts.len() as u64 - count;
        let all = self.owed_events(|_| true);
        let (of_first, of_others) =
            (self.owed_events(|of| of == account), self.owed_events(|of| of != account));
        match receipt {
            Ok(receipt) => {
                assert!(all.0 + count + others <= max, "{all:?} owed, {max} at most, and admitted");
                self.publish(drafts, receipt);
            }
            Err(Error::Busy { .. } | Error::LimitReached { .. }) => {
                self.counts.busy += drafts.len() as u64;
                let half = max.div_ceil(2);
                // No account owes more than is left for the others.
                let is_full = all.1 + count + others > max
                    || of_first.1 + count + all.1 > max
                    || (others > 0 && of_others.1 + others + all.1 > max)
                    || of_first.1 + count > half
                    || (others > 0 && of_others.1 + others > half);
                assert!(
                    is_full,
                    "{all:?} owed, {of_first:?} of {account}, {max} at most, and refused"
                );
            }
            Err(error) => panic!("refused with {error}"),
        }
    }

    /// How many events of some accounts certainly count for the bounds, and how many may.
    fn owed_events(&self, of: impl Fn(&str) -> bool) -> (u64, u64) {
        let (mut least, mut most) = (0, 0);
        for (place, event) in self.events.iter().enumerate() {
            if !of(account_of(event.draft.number)) {
                continue;
            }
            let deliveries = self.deliveries.range((place, 0)..=(place, u32::MAX));
            let is_late = self.cancelled_lately.contains(&place);
            let (mut surely, mut maybe) = (false, is_late || event.there == Presence::Waiting);
            for (_, delivery) in deliveries {
                let states = || delivery.now.iter().chain(&delivery.durable);
                surely |= states().all(DeliveryState::is_owed) && delivery.queued.is_empty();
                maybe |= states().any(DeliveryState::is_owed);
            }
            least += u64::from(surely && event.there == Presence::Yes);
            most += u64::from(maybe);
        }
        (least, most)
    }
}
