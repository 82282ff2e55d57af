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

use http::header::AUTHORIZATION;
use http::{HeaderMap, Response};

use self::key::Dialog360Key;
pub use self::options::Dialog360;
use self::request::Dialog360Request;
use super::gateway_http::GatewayRequest;
use super::webhook_config::{self, ConfigError, ConfigResult, ErrorShape};

pub(super) const KEY: &str = "d360-api-key";

/// The header of a request that shows a key of this gateway. Some clients send `Authorization: Bearer`.
pub(super) fn key_header(headers: &HeaderMap) -> Option<&'static str> {
    let is_bearer = |value: &http::HeaderValue| {
        let scheme = value.as_bytes().get(..7);
        scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"Bearer "))
    };
    let bearer = || headers.get(AUTHORIZATION).filter(|value| is_bearer(value));
    let own = headers.contains_key(KEY).then_some(KEY);
    own.or_else(|| bearer().map(|_| "authorization"))
}

pub(super) fn respond(http: &GatewayRequest<'_>, options: &Dialog360) -> Response<Vec<u8>> {
    webhook_config::response(result(http, options), ErrorShape::Dialog360)
}

fn result(http: &GatewayRequest<'_>, options: &Dialog360) -> ConfigResult {
    let account = key_header(http.headers).and_then(|header| http.account(header));
    let account = account.ok_or_else(|| ConfigError::unknown_key(KEY))?;
    let key = Dialog360Key::new(http.engine.accounts(), &account);
    let request = Dialog360Request { http, key, options };
    match http.path {
        "/v1/configs/webhook" => levels::number(&request),
        "/waba_webhook" => levels::waba(&request),
        "/multi_webhook" => destinations::all(&request),
        path => match path.strip_prefix("/multi_webhook/") {
            Some(name) if !name.is_empty() && !name.contains('/') => {
                destinations::one(&request, name)
            }
            _ => Err(ConfigError::unknown_route(http.given_path)),
        },
    }
}
