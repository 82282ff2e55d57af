//! What each account holds of the outbox, so that no account takes what the others need (I4): its share of what is
//! bounded, its submissions that wait, and the account of each event.

pub(super) mod events;
pub(super) mod queues;
pub(super) mod shares;
