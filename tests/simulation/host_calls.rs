//! What the host's calls change: policies, pauses, removals, replays. When a call has returned, its
//! effect is durable.

use wabahook::{Notice, SubscriptionState};

use super::delivery_state::DeliveryState;
use super::lane::Lane;
use super::model::{Key, Model, Queued};
use super::plan::Terms;
use super::retention::Since;

impl Model {
    pub fn removed(&mut self, id: u32, told: &mut Vec<Notice>) {
        let sub = self.subs.get_mut(&id).unwrap();
        (sub.removed, sub.removing) = (true, false);
        sub.lane = Lane::fresh(false);
        let (mut least, mut most) = (0, 0);
        for (key, delivery) in self.deliveries.iter_mut().filter(|((_, sub), _)| *sub == id) {
            least += u64::from(delivery.is_owed());
            most += u64::from(delivery.may_be_owed());
            delivery.in_flight = false;
            if delivery.may_be_owed() {
                self.cancelled_lately.insert(key.0);
                delivery.become_durably(DeliveryState::Cancelled);
            }
        }
        let notice = told.iter().position(|notice| {
            matches!(notice, Notice::Cancelled { subscription, .. } if subscription.0 == id)
        });
        let said = match notice.map(|notice| told.remove(notice)) {
            Some(Notice::Cancelled { deliveries, .. }) => deliveries,
            _ => 0,
        };
        assert!((least..=most).contains(&said), "{said} cancelled of {id}, not {least} to {most}");
        self.counts.cancelled += said;
        self.open_gates_of(id);
    }

    /// An attempt in flight when an ordering begins blocks its key, whatever was published before it.
    pub fn go_on_first(&mut self, id: u32) {
        let of_lane = self.deliveries.iter_mut().filter(|((_, sub), _)| *sub == id);
        of_lane.for_each(|(_, delivery)| delivery.first |= delivery.in_flight);
    }

    /// The host changed a subscription.
    pub fn changed(&mut self, id: u32, terms: Terms, clocks: (u64, u64)) {
        let sub = self.subs.get_mut(&id).unwrap();
        let main = sub.main();
        sub.changed(terms);
        if main != sub.main() {
            self.look_at_gates_of(id);
        }
        self.save_health(id, clocks);
    }

    pub fn resumed(&mut self, id: u32, clocks: (u64, u64)) {
        let sub = self.subs.get_mut(&id).unwrap();
        let before = std::mem::replace(&mut sub.state, SubscriptionState::Active);
        if before != SubscriptionState::Active {
            sub.lane.begin_anew();
            self.save_health(id, clocks);
        }
    }

    fn save_health(&mut self, id: u32, clocks: (u64, u64)) {
        self.subs.get_mut(&id).unwrap().lane.save(clocks);
        self.queue.push_back(Queued::Health(id));
    }

    /// Dead letters are owed again.
    pub fn replayed(&mut self, keys: &[Key]) {
        self.counts.replayed += keys.len() as u64;
        for key in keys {
            let delivery = self.deliveries.get_mut(key).unwrap();
            delivery.revived = true;
            delivery.since = Since::now(self.clocks, true);
            delivery.become_durably(DeliveryState::fresh());
        }
        keys.iter().for_each(|key| self.decide_dependency(*key));
    }
}
