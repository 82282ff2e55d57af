//! Decides what the on-premises WhatsApp Business API answers.
//!
//! Leaves to others: keeping the webhooks (`engine`) and what their requests look like
//! (`delivery::request`). Invariant (I9): an account sees and changes its own webhooks of this gateway
//! alone.

use http::Response;

use super::answer;
use super::call::Call;

/// Whether a path belongs to this gateway.
pub(super) fn serves(path: &str) -> bool {
    path == "/v1/configs/webhook"
}

/// The answer to a call of this gateway.
pub(super) fn answer(call: &Call<'_>) -> Response<Vec<u8>> {
    answer::no_route(call.path)
}
