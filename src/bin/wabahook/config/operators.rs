//! The operator's keys. There are few, so a request's key is compared with each of them.

use wabahook::KeyDigest;

/// The operator's keys, each with the name that the audit log shows.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct OperatorKeys(Vec<(String, KeyDigest)>);

impl OperatorKeys {
    /// Keys named by their place.
    pub(crate) fn new(digests: Vec<KeyDigest>) -> OperatorKeys {
        let name = |place: usize| match place {
            0 => "operator".to_owned(),
            place => format!("operator_{}", place + 1),
        };
        let named = digests.into_iter().enumerate().map(|(place, digest)| (name(place), digest));
        OperatorKeys(named.collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn contains(&self, digest: &KeyDigest) -> bool {
        self.0.iter().any(|(_, known)| known == digest)
    }

    /// The name of a key; `None` for a wrong one. Takes the same time for every wrong key.
    pub(crate) fn name_of(&self, key: &[u8]) -> Option<&str> {
        let given = KeyDigest::of(key);
        let mut found = None;
        for (name, digest) in &self.0 {
            if digest.same_as(&given) {
                found = Some(name.as_str());
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_a_name_of_its_own() {
        let keys = OperatorKeys::new(vec![KeyDigest::of(b"first"), KeyDigest::of(b"second")]);
        assert_eq!(keys.name_of(b"first"), Some("operator"));
        assert_eq!(keys.name_of(b"second"), Some("operator_2"));
        assert_eq!((keys.name_of(b"third"), keys.name_of(b"")), (None, None));
        assert_eq!(OperatorKeys::default().name_of(b""), None);
    }
}
