//! The mark of a forwarded request, in a header: which shard it is for, from whose address it came, and a signature with
//! the cluster's key. It says that the request must be served here or refused, and never forwarded again. It gives no
//! right to anything else: the request brings its own API key, which is checked again where it is served.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use wabahook::Secret;
use wabahook::signature::{Signer, verify_hub};

/// The header of the mark.
pub(super) const FORWARDED: HeaderName = HeaderName::from_static("x-wabahook-forwarded");

/// In the refusal of a request because of its mark. Nothing was done with the request.
pub(super) const MARK_REFUSED: HeaderName = HeaderName::from_static("x-wabahook-forwarded-refused");

/// How far the clocks of two hosts may differ.
const CLOCK_DIFFERENCE_MAX_S: u64 = 300;

/// Where a forwarded request is to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ForwardTarget {
    Shard(u16),
    /// Any shard of this host: the request is about the host itself.
    Host,
}

/// What the mark of a request says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ForwardMark {
    pub(super) target: ForwardTarget,
    /// The address of the client.
    pub(super) client: IpAddr,
}

impl ForwardMark {
    /// The value of the header for a request.
    pub(super) fn header(
        &self,
        key: &Secret,
        method: &Method,
        uri: &Uri,
        now_s: u64,
    ) -> Option<HeaderValue> {
        let says = self.text(now_s);
        let signature = Signer::new(key).ok()?.hub(signed(&says, method, uri).as_bytes());
        HeaderValue::from_str(&format!("{says} {signature}")).ok()
    }

    /// The mark of a request; an error where it has one that this cluster did not make.
    pub(super) fn read(
        key: &Secret,
        (method, uri, headers): (&Method, &Uri, &HeaderMap),
        now_s: u64,
    ) -> Result<Option<ForwardMark>, &'static str> {
        let Some(header) = headers.get(FORWARDED) else { return Ok(None) };
        let header = header.to_str().map_err(|_| "it is not text")?;
        let (says, signature) = header.rsplit_once(' ').ok_or("it has no signature")?;
        verify_hub(key, signature, signed(says, method, uri).as_bytes()).map_err(
            |_| "its signature is not of this cluster: cluster.key must be the same at all hosts",
        )?;
        let parts: Vec<&str> = says.split(' ').collect();
        let [target, client, at] = parts.as_slice() else { return Err("it has another form") };
        let at: u64 = at.parse().map_err(|_| "it has no time")?;
        if at.abs_diff(now_s) > CLOCK_DIFFERENCE_MAX_S {
            return Err("it is too old, or the clocks of the hosts differ by more than 5 minutes");
        }
        let client = client.parse().map_err(|_| "it has no address")?;
        let target = match *target {
            "host" => ForwardTarget::Host,
            shard => ForwardTarget::Shard(shard.parse().map_err(|_| "it has no shard")?),
        };
        Ok(Some(ForwardMark { target, client }))
    }

    fn text(&self, now_s: u64) -> String {
        match self.target {
            ForwardTarget::Shard(shard) => format!("{shard} {} {now_s}", self.client),
            ForwardTarget::Host => format!("host {} {now_s}", self.client),
        }
    }
}

fn signed(says: &str, method: &Method, uri: &Uri) -> String {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    format!("{says} {method} {path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: u64 = 1_700_000_000;

    fn key() -> Secret {
        Secret::new("the key of the cluster")
    }

    fn read(
        key: &Secret,
        header: &HeaderValue,
        (method, path): (Method, &str),
        now_s: u64,
    ) -> Result<Option<ForwardMark>, &'static str> {
        let headers = HeaderMap::from_iter([(FORWARDED, header.clone())]);
        ForwardMark::read(key, (&method, &path.parse().unwrap(), &headers), now_s)
    }

    #[test]
    fn a_mark_is_read_by_the_same_cluster_only() {
        let client = "10.0.0.9".parse().unwrap();
        for target in [ForwardTarget::Shard(7), ForwardTarget::Host] {
            let mark = ForwardMark { target, client };
            let uri: Uri = "http://10.0.0.7:7001/events?a=b".parse().unwrap();
            let header = mark.header(&key(), &Method::POST, &uri, AT).unwrap();
            let same = (Method::POST, "/events?a=b");
            assert_eq!(read(&key(), &header, same.clone(), AT + 200), Ok(Some(mark)));
            let other = Secret::new("the key of another one");
            assert!(read(&other, &header, same.clone(), AT).is_err());
            assert!(read(&key(), &header, same, AT + 301).unwrap_err().contains("old"));
            assert!(read(&key(), &header, (Method::GET, "/events?a=b"), AT).is_err());
            assert!(read(&key(), &header, (Method::POST, "/events"), AT).is_err());
            let text = header.to_str().unwrap().replacen('7', "8", 1).replacen("host", "3", 1);
            let changed = HeaderValue::from_str(&text).unwrap();
            assert!(read(&key(), &changed, (Method::POST, "/events?a=b"), AT).is_err());
        }
    }

    #[test]
    fn most_requests_have_no_mark() {
        let uri: Uri = "/events".parse().unwrap();
        let none = ForwardMark::read(&key(), (&Method::GET, &uri, &HeaderMap::new()), AT);
        assert_eq!(none, Ok(None));
        for wrong in ["", "x", "7 10.0.0.9 1", "sha256=00"] {
            let header = HeaderValue::from_static(wrong);
            assert!(read(&key(), &header, (Method::GET, "/events"), AT).is_err(), "{wrong}");
        }
    }
}
