//! Which shard an account belongs to, and which host should own each shard: rendezvous hashing with equal shares. Every
//! host computes the same answer from the same list of hosts, so no host decides for others. The hash is part of the
//! stored layout: another one would look for accounts in shards that do not have them.

use std::cmp::Reverse;
use std::collections::BTreeMap;

/// The shard of an account.
pub(crate) fn shard_of(account: &str, shards: u16) -> u16 {
    let shard = hash(account.as_bytes()) % u64::from(shards.max(1));
    u16::try_from(shard).unwrap_or_default()
}

/// The host that should own each shard, in the order of the shards; empty without hosts. Each pair of a shard and a
/// host has a score, and the highest scores win as long as the host has not got its share. So hosts differ by at most
/// one shard, and few shards move when a host comes or goes.
pub(crate) fn preferred_hosts<'h>(shards: u16, hosts: &[&'h str]) -> Vec<&'h str> {
    let mut scored: Vec<_> = (0..shards)
        .flat_map(|shard| hosts.iter().map(move |host| (score(shard, host), shard, *host)))
        .collect();
    scored.sort_unstable_by_key(|(score, shard, host)| (Reverse(*score), *shard, *host));
    let count = hosts.len().max(1);
    let (share, mut one_more) = (usize::from(shards) / count, usize::from(shards) % count);
    let (mut owners, mut owned) = (BTreeMap::new(), BTreeMap::<&str, usize>::new());
    for (_, shard, host) in scored {
        let has = owned.entry(host).or_default();
        let is_full = *has > share || (*has == share && one_more == 0);
        if is_full || owners.contains_key(&shard) {
            continue;
        }
        one_more -= usize::from(*has == share);
        *has += 1;
        owners.insert(shard, host);
    }
    owners.into_values().collect()
}

fn score(shard: u16, host: &str) -> u64 {
    hash(&[host.as_bytes(), &shard.to_be_bytes()].concat())
}

/// FNV-1a with the finalizer of splitmix64, which spreads names that differ in one letter.
fn hash(bytes: &[u8]) -> u64 {
    let fnv = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mixed = (fnv ^ (fnv >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn counts(shards: u16, hosts: &[&str]) -> Vec<usize> {
        let owners = preferred_hosts(shards, hosts);
        assert_eq!(owners.len(), usize::from(shards));
        hosts.iter().map(|host| owners.iter().filter(|owner| *owner == host).count()).collect()
    }

    // The assignment is stored implicitly: accounts are found by it after every restart.
    #[test]
    fn accounts_keep_their_shards() {
        let shards = ["acct_1", "acct_2", "acct_00ff", ""].map(|account| shard_of(account, 16));
        assert_eq!(shards, [9, 7, 3, 11]);
        assert_eq!(shard_of("acct_1", 1), 0);
    }

    #[test]
    fn a_thousand_accounts_spread_over_two_hosts() {
        let owners = preferred_hosts(16, &["host-a", "host-b"]);
        for seed in 0..20 {
            let accounts = (0..1_000).map(|n| format!("acct_{seed:08x}{n:08x}"));
            let of_a =
                accounts.filter(|one| owners[usize::from(shard_of(one, 16))] == "host-a").count();
            assert!((400..=600).contains(&of_a), "{of_a} of 1000");
        }
    }

    #[test]
    fn without_hosts_nobody_owns_anything() {
        assert!(preferred_hosts(16, &[]).is_empty());
    }

    proptest! {
        #[test]
        fn shares_differ_by_at_most_one(
            names in prop::collection::btree_set("[a-z]{1,8}", 1..9),
            shards in 1_u16..65,
        ) {
            let hosts: Vec<&str> = names.iter().map(String::as_str).collect();
            let counts = counts(shards, &hosts);
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            prop_assert!(most - least <= 1, "{counts:?}");
        }

        #[test]
        fn the_order_of_the_hosts_does_not_matter(
            names in prop::collection::btree_set("[a-z]{1,8}", 1..6),
        ) {
            let hosts: Vec<&str> = names.iter().map(String::as_str).collect();
            let reversed: Vec<&str> = hosts.iter().rev().copied().collect();
            prop_assert_eq!(preferred_hosts(16, &hosts), preferred_hosts(16, &reversed));
        }

        // All shards of a host that goes must move. Others move only to keep the shares equal.
        #[test]
        fn few_shards_move_when_a_host_goes(
            names in prop::collection::btree_set("[a-z]{3,8}", 3..7),
        ) {
            let hosts: Vec<&str> = names.iter().map(String::as_str).collect();
            let (gone, left) = hosts.split_first().unwrap();
            let (before, after) = (preferred_hosts(64, &hosts), preferred_hosts(64, left));
            let moved = before.iter().zip(&after).filter(|(was, is)| was != is && was != &gone);
            prop_assert!(moved.count() <= 64 / 4);
        }
    }

    #[test]
    fn every_account_is_in_a_shard_that_exists() {
        let used: BTreeSet<u16> = (0..1_000).map(|n| shard_of(&format!("acct_{n}"), 16)).collect();
        assert_eq!(used, (0..16).collect());
    }
}
