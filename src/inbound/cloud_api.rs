//! Callbacks of Meta's Cloud API: [`verify`] the signature, then [`publish`] the body, or turn it into
//! [`events`] to publish them yourself. [`challenge`] answers Meta's verification of the callback URL.

pub use super::malformed::MalformedCallback;
pub use super::publish::{CallbackError, CallbackReceipt, publish};
pub use super::reader::{Callback, UnownedUpdates, events};
pub use super::split::split;
pub use super::verification::{VerificationError, challenge, check_secret, verify};
