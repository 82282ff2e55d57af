//! What an engine tells of events and their deliveries afterwards: the search for events, the trace of one event put
//! together from what is owed, what is kept and the history, and the newest attempts.

pub(super) mod history;
pub(super) mod query;
pub(super) mod recent_attempts;
pub(super) mod traces;
