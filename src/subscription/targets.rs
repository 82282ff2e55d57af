//! The subscriptions that an event goes to, as found by `routing`: ids in ascending order, each once. A
//! few are stored inline, many are shared between events.

use std::ops::Deref;
use std::sync::Arc;

use smallvec::SmallVec;

use super::SubscriptionId;

/// How many ids are stored inline. Small heap lists that one thread allocates and another frees add to
/// the many small blocks for which an allocator pauses now and then.
pub(crate) const FEW_MAX: usize = 16;

/// Ids while they are collected.
pub(crate) type TargetIds = SmallVec<[SubscriptionId; FEW_MAX]>;

/// The subscriptions that an event goes to.
#[derive(Debug, Clone)]
pub(crate) enum Targets {
    /// Up to [`FEW_MAX`].
    Few(TargetIds),
    /// Any number, shared by events with the same targets.
    Many(Arc<[SubscriptionId]>),
}

impl Deref for Targets {
    type Target = [SubscriptionId];

    fn deref(&self) -> &[SubscriptionId] {
        match self {
            Targets::Few(ids) => ids,
            Targets::Many(ids) => ids,
        }
    }
}

impl From<TargetIds> for Targets {
    fn from(ids: TargetIds) -> Targets {
        if ids.spilled() { Targets::Many(Arc::from(ids.as_slice())) } else { Targets::Few(ids) }
    }
}

impl FromIterator<SubscriptionId> for Targets {
    fn from_iter<I: IntoIterator<Item = SubscriptionId>>(ids: I) -> Targets {
        ids.into_iter().collect::<TargetIds>().into()
    }
}

impl PartialEq for Targets {
    fn eq(&self, other: &Targets) -> bool {
        match (self, other) {
            (Targets::Many(one), Targets::Many(other)) if Arc::ptr_eq(one, other) => true,
            _ => **self == **other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(count: usize) -> Targets {
        (0..u32::try_from(count).unwrap()).map(SubscriptionId).collect()
    }

    #[test]
    fn few_are_inline_and_many_are_shared() {
        assert!(matches!(targets(FEW_MAX), Targets::Few(_)));
        assert!(matches!(targets(FEW_MAX + 1), Targets::Many(_)));
        assert_eq!(targets(FEW_MAX + 1).len(), FEW_MAX + 1);
    }

    #[test]
    fn equality_ignores_how_the_ids_are_stored() {
        let shared = Targets::Many(targets(3).to_vec().into());
        assert!(shared == targets(3) && shared == shared.clone());
        assert!(shared != targets(4) && targets(20) == targets(20));
    }
}
