//! The envelope of every stored value: a version, a checksum and the body. A body is returned only if
//! its checksum holds, so damage that the database does not notice is found here.
//!
//! Layout: version (1 byte), CRC-32 of version and body (4 bytes, little-endian), body.

use serde::Serialize;
use serde::de::DeserializeOwned;

use bincode::Options as _;

/// The bytes that the envelope adds.
pub(crate) const ENVELOPE_BYTES: usize = 5;

pub(crate) fn seal(version: u8, body: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(ENVELOPE_BYTES + body.len());
    sealed.extend_from_slice(&[0; ENVELOPE_BYTES]);
    sealed.extend_from_slice(body);
    put_envelope(version, &mut sealed);
    sealed
}

/// Seals the body that follows the first [`ENVELOPE_BYTES`] of a record, by writing the envelope there.
pub(crate) fn put_envelope(version: u8, record: &mut [u8]) {
    if let Some((envelope, body)) = record.split_first_chunk_mut::<ENVELOPE_BYTES>() {
        let [a, b, c, d] = checksum(version, body).to_le_bytes();
        *envelope = [version, a, b, c, d];
    }
}

/// The version and body of a sealed record, or what is wrong with it.
pub(crate) fn unseal(sealed: &[u8]) -> Result<(u8, &[u8]), String> {
    let Some((&[version, a, b, c, d], body)) = sealed.split_first_chunk::<ENVELOPE_BYTES>() else {
        return Err(format!("{} bytes are too few for a record", sealed.len()));
    };
    if checksum(version, body) != u32::from_le_bytes([a, b, c, d]) {
        return Err("its checksum is wrong".to_owned());
    }
    Ok((version, body))
}

/// Seals a value in bincode.
pub(crate) fn encode<T: Serialize>(version: u8, value: &T) -> Result<Vec<u8>, String> {
    let mut sealed = vec![0; ENVELOPE_BYTES];
    layout().serialize_into(&mut sealed, value).map_err(|error| error.to_string())?;
    put_envelope(version, &mut sealed);
    Ok(sealed)
}

/// Opens a value of the given version.
pub(crate) fn decode<T: DeserializeOwned>(version: u8, sealed: &[u8]) -> Result<T, String> {
    let (found, body) = unseal(sealed)?;
    if found != version {
        return Err(format!("it has version {found}, this build reads {version}"));
    }
    layout().deserialize(body).map_err(|error| error.to_string())
}

/// Variable-length integers, no trailing bytes, and a bound on what a length prefix may claim.
fn layout() -> impl bincode::Options {
    bincode::DefaultOptions::new().with_limit(1 << 20)
}

fn checksum(version: u8, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[version]);
    hasher.update(body);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_record_are_frozen() {
        let sealed = seal(1, b"body");
        assert_eq!(sealed, [1, 0x03, 0x0a, 0xae, 0x01, b'b', b'o', b'd', b'y'].as_slice());
        assert_eq!(unseal(&sealed).unwrap(), (1, &b"body"[..]));
    }

    #[test]
    fn every_single_flipped_bit_is_found() {
        let sealed = seal(3, b"a body of some length");
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(unseal(&damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_short_or_long_record_or_another_version_is_refused() {
        assert!(unseal(&[1, 2, 3]).is_err());
        let sealed = encode(2, &(7_u64, "text")).unwrap();
        assert!(decode::<(u64, String)>(1, &sealed).unwrap_err().contains("version 2"));
        assert_eq!(decode::<(u64, String)>(2, &sealed).unwrap(), (7, "text".to_owned()));
        let longer = encode(2, &(7_u64, "text", 1_u8)).unwrap();
        assert!(decode::<(u64, String)>(2, &longer).is_err());
    }
}
