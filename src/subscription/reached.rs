//! Decides how the subscriptions travel that an event reaches: few with the event, many shared.
//!
//! Leaves to others: which they are (`routing`). Invariant: they are ascending, each once.

use std::ops::Deref;
use std::sync::Arc;

use smallvec::SmallVec;

use super::SubscriptionId;

/// So many lie within the event: a list of a few on the heap, made by whoever publishes and given back by
/// another thread, is among the thousands of small blocks for which an allocator pauses now and then.
pub(crate) const FEW_MAX: usize = 16;

/// Subscriptions being gathered.
pub(crate) type Found = SmallVec<[SubscriptionId; FEW_MAX]>;

/// Whom an event reaches.
#[derive(Debug, Clone)]
pub(crate) enum Reached {
    /// Up to [`FEW_MAX`].
    Few(Found),
    /// Any number, shared by the events that reach the same.
    Many(Arc<[SubscriptionId]>),
}

impl Deref for Reached {
    type Target = [SubscriptionId];

    fn deref(&self) -> &[SubscriptionId] {
        match self {
            Reached::Few(ids) => ids,
            Reached::Many(ids) => ids,
        }
    }
}

impl From<Found> for Reached {
    fn from(ids: Found) -> Reached {
        if ids.spilled() { Reached::Many(Arc::from(ids.as_slice())) } else { Reached::Few(ids) }
    }
}

impl FromIterator<SubscriptionId> for Reached {
    fn from_iter<I: IntoIterator<Item = SubscriptionId>>(ids: I) -> Reached {
        ids.into_iter().collect::<Found>().into()
    }
}

impl PartialEq for Reached {
    fn eq(&self, other: &Reached) -> bool {
        match (self, other) {
            (Reached::Many(one), Reached::Many(other)) if Arc::ptr_eq(one, other) => true,
            _ => **self == **other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reached(count: usize) -> Reached {
        (0..u32::try_from(count).unwrap()).map(SubscriptionId).collect()
    }

    #[test]
    fn few_lie_within_and_many_are_shared() {
        assert!(matches!(reached(FEW_MAX), Reached::Few(_)));
        assert!(matches!(reached(FEW_MAX + 1), Reached::Many(_)));
        assert_eq!(reached(FEW_MAX + 1).len(), FEW_MAX + 1);
    }

    #[test]
    fn what_is_reached_is_the_same_however_it_lies() {
        let shared = Reached::Many(reached(3).to_vec().into());
        assert!(shared == reached(3) && shared == shared.clone());
        assert!(shared != reached(4) && reached(20) == reached(20));
    }
}
