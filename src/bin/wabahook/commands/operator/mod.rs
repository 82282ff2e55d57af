//! The commands for the operator's key.

pub(crate) mod accounts;
pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod reload;
pub(crate) mod unowned;
