//! The body of a request before it is read as JSON: decompressed within a bound, without a byte order mark,
//! and the pairs of a form. Nothing here knows the fields of a gateway.

use std::borrow::Cow;
use std::io::Read;

use flate2::read::{MultiGzDecoder, ZlibDecoder};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};

use super::BODY_BYTES_MAX;
use super::fields::Problem;
use crate::text::hex_byte;

/// Why a body cannot be decoded: the status and the message of the response.
pub(super) type BodyError = (StatusCode, String);

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The body without compression and byte order mark, at most [`BODY_BYTES_MAX`] bytes.
pub(super) fn decoded<'a>(body: &'a [u8], headers: &HeaderMap) -> Result<Cow<'a, [u8]>, BodyError> {
    let encoding = headers.get(CONTENT_ENCODING).map(|value| value.as_bytes().to_ascii_lowercase());
    let plain = match encoding.as_deref() {
        None | Some(b"" | b"identity") => Cow::Borrowed(body),
        Some(b"gzip" | b"x-gzip") => Cow::Owned(inflated(MultiGzDecoder::new(body))?),
        Some(b"deflate") => Cow::Owned(inflated(ZlibDecoder::new(body))?),
        Some(_) => {
            let message = "content-encoding: expected gzip, deflate or identity";
            return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, message.to_owned()));
        }
    };
    if plain.len() > BODY_BYTES_MAX {
        let message = format!("the body is over the limit of {BODY_BYTES_MAX} bytes");
        return Err((StatusCode::PAYLOAD_TOO_LARGE, message));
    }
    Ok(match plain {
        Cow::Borrowed(bytes) => Cow::Borrowed(unmarked(bytes)),
        Cow::Owned(bytes) => Cow::Owned(unmarked(&bytes).to_vec()),
    })
}

/// One byte more than allowed is read, so that a body over the limit is noticed and no larger one is held.
fn inflated(from: impl Read) -> Result<Vec<u8>, BodyError> {
    let mut bytes = Vec::new();
    let read = from.take(BODY_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
    let malformed = |_| {
        let message = "the body is not compressed as content-encoding says";
        (StatusCode::BAD_REQUEST, message.to_owned())
    };
    read.map(|_| bytes).map_err(malformed)
}

fn unmarked(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes)
}

/// The fields of a body that is a form by its content type, in their order; `None` for any other body.
pub(super) fn form_pairs(
    body: &str,
    headers: &HeaderMap,
) -> Option<Result<Vec<(String, String)>, Problem>> {
    let content_type = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let (kind, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
    let kind = kind.trim().to_ascii_lowercase();
    let pairs = match kind.as_str() {
        // `curl -d` names this type for JSON too.
        "application/x-www-form-urlencoded" if body.trim_start().starts_with('{') => return None,
        "application/x-www-form-urlencoded" => urlencoded_pairs(body),
        "multipart/form-data" => boundary(parameters).and_then(|one| multipart_pairs(body, &one)),
        _ => return None,
    };
    let malformed = || Problem::of_body(format!("the body is not {kind}"));
    Some(pairs.ok_or_else(malformed))
}

fn urlencoded_pairs(body: &str) -> Option<Vec<(String, String)>> {
    let pairs = body.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decoded = |text: &str| percent_decoded(&text.replace('+', " "));
        Some((decoded(name)?, decoded(value)?))
    });
    pairs.collect()
}

/// The boundary among the parameters of a content type.
fn boundary(parameters: &str) -> Option<String> {
    let each = parameters.split(';').filter_map(|one| one.trim().split_once('='));
    let mut found = each.filter(|(name, _)| name.eq_ignore_ascii_case("boundary"));
    let (_, value) = found.next()?;
    Some(value.trim_matches('"').to_owned()).filter(|value| !value.is_empty())
}

fn multipart_pairs(body: &str, boundary: &str) -> Option<Vec<(String, String)>> {
    let framed = format!("\r\n{body}");
    let delimiter = format!("\r\n--{boundary}");
    let mut pairs = Vec::new();
    // The text before the first delimiter is not a part.
    for part in framed.split(&delimiter).skip(1) {
        if part.starts_with("--") {
            return Some(pairs);
        }
        let (head, value) = part.split_once("\r\n\r\n")?;
        pairs.push((part_name(head)?, value.to_owned()));
    }
    None
}

/// The name that the head of a part gives it.
fn part_name(head: &str) -> Option<String> {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(name, _)| name.eq_ignore_ascii_case("content-disposition"))?;
    let mut parameters = value.split(';').filter_map(|one| one.trim().split_once('='));
    let (_, name) = parameters.find(|(name, _)| name.eq_ignore_ascii_case("name"))?;
    Some(name.trim_matches('"').to_owned())
}

/// The percent-decoded text, if it is valid.
pub(super) fn percent_decoded(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        decoded.push(match byte {
            b'%' => hex_byte([rest.next()?, rest.next()?])?,
            byte => byte,
        });
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};

    use super::*;

    fn encoded_as(name: &str, body: &[u8]) -> (HeaderMap, Vec<u8>) {
        let headers = HeaderMap::from_iter([(CONTENT_ENCODING, name.parse().unwrap())]);
        let bytes = match name {
            "deflate" => {
                let mut to = ZlibEncoder::new(Vec::new(), Compression::default());
                to.write_all(body).unwrap();
                to.finish().unwrap()
            }
            _ => {
                let mut to = GzEncoder::new(Vec::new(), Compression::default());
                to.write_all(body).unwrap();
                to.finish().unwrap()
            }
        };
        (headers, bytes)
    }

    #[test]
    fn a_compressed_body_is_read_within_the_bound() {
        for name in ["gzip", "x-gzip", "deflate", "GZIP"] {
            let (headers, bytes) = encoded_as(name, b"\xef\xbb\xbf{}");
            assert_eq!(&*decoded(&bytes, &headers).unwrap(), b"{}", "{name}");
            let (headers, bytes) = encoded_as(name, &vec![b' '; 100 * BODY_BYTES_MAX]);
            assert_eq!(decoded(&bytes, &headers).unwrap_err().0, 413, "{name}");
            assert_eq!(decoded(b"{}", &headers).unwrap_err().0, 400, "{name}");
        }
        let headers = HeaderMap::from_iter([(CONTENT_ENCODING, "br".parse().unwrap())]);
        assert_eq!(decoded(b"", &headers).unwrap_err().0, 415);
        assert_eq!(&*decoded(b"\xef\xbb\xbf[]", &HeaderMap::new()).unwrap(), b"[]");
    }

    fn check_form(content_type: &str, body: &str, expected: Option<&[(&str, &str)]>) {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, content_type.parse().unwrap())]);
        let pairs = form_pairs(body, &headers).unwrap().ok();
        let pairs = pairs
            .as_ref()
            .map(|pairs| pairs.iter().map(|(name, value)| (&**name, &**value)).collect::<Vec<_>>());
        assert_eq!(pairs.as_deref(), expected, "{body:?}");
    }

    #[test]
    fn the_fields_of_a_form_are_read_in_their_order() {
        let urlencoded = "application/x-www-form-urlencoded; charset=utf-8";
        let pairs = [("url", "https://a/?b=c"), ("events", "a b"), ("events", "")];
        check_form(urlencoded, "url=https%3A%2F%2Fa%2F%3Fb=c&events=a+b&&events", Some(&pairs));
        check_form(urlencoded, "", Some(&[]));
        check_form(urlencoded, "a=%f", None);
        let by_curl = HeaderMap::from_iter([(CONTENT_TYPE, urlencoded.parse().unwrap())]);
        assert!(form_pairs(" {\"url\": \"https://a/?b=c\"}", &by_curl).is_none());
        let multipart = "multipart/form-data; boundary=\"x-1\"";
        let part = "--x-1\r\nContent-Disposition: form-data; name=\"url\"\r\n\r\nhttps://a/\r\n";
        let end = "--x-1--\r\n";
        check_form(multipart, &format!("{part}{end}"), Some(&[("url", "https://a/")]));
        check_form(multipart, end, Some(&[]));
        check_form(multipart, part, None);
        check_form("multipart/form-data", &format!("{part}{end}"), None);
        let other = HeaderMap::from_iter([(CONTENT_TYPE, "application/json".parse().unwrap())]);
        assert!(form_pairs("{}", &other).is_none() && form_pairs("", &HeaderMap::new()).is_none());
    }
}
