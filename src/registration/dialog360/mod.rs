//! 360dialog's registration API: the main webhooks of a number and of a WABA, and further destinations
//! that follow them. An account sees and changes only its own webhooks of this gateway (I9).

mod destinations;
mod key;
mod key_webhooks;
mod levels;
mod options;
mod request;
#[cfg(test)]
mod tests;

use http::{Response, StatusCode};

use self::key::Dialog360Key;
pub use self::options::Dialog360;
use self::request::Dialog360Request;
use super::gateway_http::GatewayRequest;
use super::webhook_config::{self, ConfigError, ConfigResult};

/// The header that shows the key.
pub(super) const KEY: &str = "d360-api-key";

/// Whether a path belongs to this gateway alone; it shares one more with another gateway.
pub(super) fn serves(path: &str) -> bool {
    path == "/waba_webhook" || path == "/multi_webhook" || path.starts_with("/multi_webhook/")
}

pub(super) fn respond(http: &GatewayRequest<'_>, options: &Dialog360) -> Response<Vec<u8>> {
    webhook_config::response(result(http, options))
}

fn result(http: &GatewayRequest<'_>, options: &Dialog360) -> ConfigResult {
    let account = http.account(KEY).ok_or_else(|| ConfigError::unknown_key(KEY))?;
    let key = Dialog360Key::new(http.engine.accounts(), account);
    let request = Dialog360Request { http, key, options };
    match http.path {
        "/v1/configs/webhook" => levels::number(&request),
        "/waba_webhook" => levels::waba(&request),
        "/multi_webhook" => destinations::all(&request),
        path => match path.strip_prefix("/multi_webhook/") {
            Some(name) if !name.is_empty() && !name.contains('/') => {
                destinations::one(&request, name)
            }
            _ => Err(ConfigError::new(StatusCode::NOT_FOUND, format!("unknown route {path}"))),
        },
    }
}
