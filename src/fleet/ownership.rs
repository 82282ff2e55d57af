//! What a host does about the ownership of shards, decided from what the server says: which hosts are live and which
//! leases are held. Every host decides for itself, and the leases settle races. A shard is handed over only while every
//! other shard has an owner, so at most one is without an owner because of it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::rendezvous::preferred_hosts;
use crate::store::ClusterView;

/// After so long without an owner a shard is taken by any host, because the host that should own it seems unable to.
const FREE_MAX: Duration = Duration::from_secs(6);

/// What to do now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct OwnershipStep {
    /// Shards to take.
    pub(super) take: Vec<u16>,
    /// A shard to give up, because another live host should own it.
    pub(super) hand_over: Option<u16>,
}

/// What this host holds.
#[derive(Debug, Default)]
pub(super) struct HeldShards {
    pub(super) open: BTreeSet<u16>,
    /// Being opened or closed.
    pub(super) changing: BTreeSet<u16>,
}

/// Decides the next step of the host `own`.
pub(super) fn next_step(own: &str, view: &ClusterView, held: &HeldShards) -> OwnershipStep {
    if !view.hosts.iter().any(|host| host.is_own) {
        // Its announcement has ended or another process has its name, so others do not count on it.
        return OwnershipStep::default();
    }
    let hosts: Vec<&str> = view.hosts.iter().map(|host| host.name.as_str()).collect();
    let shards = u16::try_from(view.leases.len()).unwrap_or(u16::MAX);
    let owners = preferred_hosts(shards, &hosts);
    let preferred = |shard: u16| owners.get(usize::from(shard)).copied();
    let is_mine = |shard: u16| held.open.contains(&shard) || held.changing.contains(&shard);
    let free = view.leases.iter().filter(|lease| lease.owner().is_none() && !is_mine(lease.shard));
    let take = free.clone().filter(|lease| {
        preferred(lease.shard) == Some(own) || lease.free_for.is_some_and(|time| time > FREE_MAX)
    });
    let take = take.map(|lease| lease.shard).collect();
    let is_settled = free.count() == 0 && held.changing.is_empty();
    let elsewhere = held.open.iter().find(|shard| preferred(**shard).is_some_and(|to| to != own));
    OwnershipStep { take, hand_over: elsewhere.copied().filter(|_| is_settled) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::{ClusterHost, ShardLease};

    /// A model of hosts on one server, with time in ticks of 250 ms.
    struct Model {
        shards: u16,
        /// For each host whether it lives.
        hosts: Vec<(String, bool)>,
        /// The owner of each shard, and for how many ticks it has been without one.
        leases: Vec<(Option<usize>, u32)>,
    }

    impl Model {
        fn new(shards: u16, hosts: usize) -> Model {
            let hosts = (0..hosts).map(|host| (format!("host-{host}"), host == 0)).collect();
            Model { shards, hosts, leases: vec![(None, 0); usize::from(shards)] }
        }

        /// As the server has it for a host of this name.
        fn view(&self, own: &str) -> ClusterView {
            let live = self.hosts.iter().filter(|(_, lives)| *lives);
            let hosts = live.map(|(name, _)| ClusterHost {
                name: name.clone(),
                address: String::new(),
                is_own: name == own,
            });
            let leases =
                (0..self.shards).zip(&self.leases).map(|(shard, (owner, free))| ShardLease {
                    shard,
                    host: owner.map_or_else(String::new, |host| self.hosts[host].0.clone()),
                    free_for: owner.is_none().then(|| Duration::from_millis(250) * *free),
                });
            ClusterView { hosts: hosts.collect(), leases: leases.collect() }
        }

        fn held_by(&self, host: usize) -> HeldShards {
            let all = (0..self.shards).zip(&self.leases);
            let open = all.filter(|(_, (owner, _))| *owner == Some(host)).map(|(shard, _)| shard);
            HeldShards { open: open.collect(), changing: BTreeSet::new() }
        }

        /// Lets every live host do its next step.
        fn tick(&mut self) {
            for host in 0..self.hosts.len() {
                let (name, lives) = self.hosts[host].clone();
                if !lives {
                    continue;
                }
                let step = next_step(&name, &self.view(&name), &self.held_by(host));
                for shard in step.take {
                    let lease = &mut self.leases[usize::from(shard)];
                    assert_eq!(lease.0, None, "{name} takes what another host has");
                    *lease = (Some(host), 0);
                }
                if let Some(shard) = step.hand_over {
                    assert!(self.leases.iter().all(|(owner, _)| owner.is_some()));
                    self.leases[usize::from(shard)] = (None, 0);
                }
            }
            self.leases.iter_mut().filter(|(owner, _)| owner.is_none()).for_each(|one| one.1 += 1);
        }

        fn set(&mut self, host: usize, lives: bool) {
            self.hosts[host].1 = lives;
            for lease in self.leases.iter_mut().filter(|(owner, _)| *owner == Some(host)) {
                if !lives {
                    *lease = (None, 0);
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        // Whatever hosts come and go: once they stay, each shard gets to the host that should own it.
        #[test]
        fn every_shard_gets_to_its_host(
            changes in prop::collection::vec((0_usize..4, any::<bool>(), 0_usize..6), 0..12),
        ) {
            let mut model = Model::new(16, 4);
            for (host, lives, ticks) in changes {
                model.set(host, lives);
                (0..ticks).for_each(|_| model.tick());
            }
            model.set(3, true);
            (0..40).for_each(|_| model.tick());
            let live: Vec<&str> =
                model.hosts.iter().filter(|(_, lives)| *lives).map(|(name, _)| name.as_str()).collect();
            let owners: Vec<&str> = model
                .leases
                .iter()
                .map(|(owner, _)| owner.map_or("nobody", |host| model.hosts[host].0.as_str()))
                .collect();
            prop_assert_eq!(owners, preferred_hosts(16, &live));
        }
    }

    fn two_hosts() -> Model {
        let mut model = Model::new(16, 2);
        model.tick();
        model.set(1, true);
        model
    }

    #[test]
    fn a_host_that_comes_gets_half_one_at_a_time() {
        let mut model = two_hosts();
        for _ in 0..8 {
            model.tick();
            let without_owner = model.leases.iter().filter(|(owner, _)| owner.is_none()).count();
            assert!(without_owner <= 1, "{without_owner} shards have no owner");
        }
        model.tick();
        assert_eq!((model.held_by(0).open.len(), model.held_by(1).open.len()), (8, 8));
    }

    #[test]
    fn the_shards_of_a_dead_host_are_taken_at_once() {
        let mut model = two_hosts();
        (0..20).for_each(|_| model.tick());
        model.set(1, false);
        model.tick();
        assert_eq!(model.held_by(0).open.len(), 16);
    }

    #[test]
    fn nothing_is_handed_over_while_a_shard_changes_hands() {
        let model = two_hosts();
        let held = HeldShards { changing: BTreeSet::from([3]), ..model.held_by(0) };
        assert_eq!(next_step("host-0", &model.view("host-0"), &held), OwnershipStep::default());
        assert!(next_step("host-0", &model.view("host-0"), &model.held_by(0)).hand_over.is_some());
    }

    #[test]
    fn any_host_takes_what_has_long_been_without_an_owner() {
        let mut model = two_hosts();
        let mine = |step: OwnershipStep| step.take.len();
        model.leases = vec![(None, 1); 16];
        let soon = mine(next_step("host-0", &model.view("host-0"), &HeldShards::default()));
        model.leases = vec![(None, 30); 16];
        let later = mine(next_step("host-0", &model.view("host-0"), &HeldShards::default()));
        assert_eq!((soon, later), (8, 16));
    }

    #[test]
    fn a_host_whose_announcement_ended_does_nothing() {
        let model = two_hosts();
        let step = next_step("host-9", &model.view("host-9"), &HeldShards::default());
        assert_eq!(step, OwnershipStep::default());
    }

    // A second process of the same name would serve shards at an address that no host knows.
    #[test]
    fn a_process_whose_name_is_taken_does_nothing() {
        let mut model = two_hosts();
        model.leases = vec![(None, 30); 16];
        let step = next_step("host-0", &model.view("another process"), &HeldShards::default());
        assert_eq!(step, OwnershipStep::default());
    }
}
