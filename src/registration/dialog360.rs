//! Decides what 360dialog answers.
//!
//! Leaves to others: keeping the webhooks (`engine`) and what their requests look like
//! (`delivery::request`). Invariant (I9): an account sees and changes its own webhooks of this gateway
//! alone.

use http::Response;

use super::answer;
use super::call::Call;

/// The header that shows the key.
pub(super) const KEY: &str = "d360-api-key";

/// Whether a path belongs to this gateway, beside the one it shares with another.
pub(super) fn serves(path: &str) -> bool {
    path == "/waba_webhook" || path == "/multi_webhook" || path.starts_with("/multi_webhook/")
}

/// The answer to a call of this gateway.
pub(super) fn answer(call: &Call<'_>) -> Response<Vec<u8>> {
    answer::no_route(call.path)
}
