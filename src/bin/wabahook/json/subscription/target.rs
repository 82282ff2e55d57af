//! Where and how the requests of a subscription go: method, headers, query, body, authorization, body
//! format and TLS. A listing shows names and no values, because any value may be a credential (I9).

use axum::http::Method;
use serde::{Deserialize, Serialize};
use wabahook::{Authorization, BodyFormat, PayloadFormat, Tls};

use crate::json::problem::JsonProblem;
use crate::json::values::{Word, Words};

/// What the header `authorization` is made of. A listing has only the type.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AuthorizationJson {
    #[serde(rename = "type")]
    kind: Word<AuthorizationKind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
}

#[derive(Clone, Copy, PartialEq)]
enum AuthorizationKind {
    Basic,
    Bearer,
}

/// TLS settings that differ from the host's own.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TlsJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    roots_pem: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_certificate_pem: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_key_pem: Option<String>,
}

/// Which TLS settings a subscription has.
#[derive(Serialize, Deserialize)]
pub(crate) struct TlsListing {
    roots: bool,
    client_certificate: bool,
}

impl Words for Method {
    const WORDS: &'static [(&'static str, Method)] = &[
        ("GET", Method::GET),
        ("POST", Method::POST),
        ("PUT", Method::PUT),
        ("DELETE", Method::DELETE),
        ("PATCH", Method::PATCH),
        ("HEAD", Method::HEAD),
    ];
}

impl Words for BodyFormat {
    const WORDS: &'static [(&'static str, BodyFormat)] =
        &[("JSON", BodyFormat::Json), ("FORM_DATA", BodyFormat::FormData)];
}

impl Words for PayloadFormat {
    const WORDS: &'static [(&'static str, PayloadFormat)] =
        &[("gateway", PayloadFormat::Gateway), ("meta", PayloadFormat::Meta)];
}

impl Words for AuthorizationKind {
    const WORDS: &'static [(&'static str, AuthorizationKind)] =
        &[("BASIC", AuthorizationKind::Basic), ("BEARER", AuthorizationKind::Bearer)];
}

impl AuthorizationJson {
    pub(in crate::json) fn of(authorization: &Authorization) -> AuthorizationJson {
        let kind = match authorization {
            Authorization::Basic(_) => AuthorizationKind::Basic,
            _ => AuthorizationKind::Bearer,
        };
        AuthorizationJson { kind: Word(kind), payload: None }
    }

    pub(in crate::json) fn authorization(self) -> Result<Authorization, JsonProblem> {
        let payload = self.payload.ok_or_else(|| JsonProblem::missing("authorization.payload"))?;
        Ok(match self.kind.0 {
            AuthorizationKind::Basic => Authorization::basic(payload),
            AuthorizationKind::Bearer => Authorization::bearer(payload),
        })
    }
}

impl TlsJson {
    pub(in crate::json) fn tls(self) -> Result<Tls, JsonProblem> {
        let tls = self.roots_pem.map_or_else(Tls::default, |pem| Tls::default().roots(pem));
        match (self.client_certificate_pem, self.client_key_pem) {
            (Some(certificate), Some(key)) => Ok(tls.client(certificate, key)),
            (None, None) => Ok(tls),
            (Some(_), None) => Err(JsonProblem::missing("tls.client_key_pem")),
            (None, Some(_)) => Err(JsonProblem::missing("tls.client_certificate_pem")),
        }
    }
}

impl TlsListing {
    pub(in crate::json) fn of(tls: &Tls) -> TlsListing {
        TlsListing { roots: tls.roots_pem.is_some(), client_certificate: tls.client.is_some() }
    }
}
