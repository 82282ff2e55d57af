//! The content of an open database in memory. What this owner wrote it knows, and a database that it found is read
//! whole once several values were asked for: one scan costs less than a round trip for each.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::store::{KeyValue, Operation};

/// From this point read on a database is read whole.
const READS_BEFORE_FETCH: u32 = 5;

/// A larger database is not kept in memory. A generation of the outbox takes less.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// What is in memory of a database.
pub(super) enum Mirror {
    /// Nothing; so many values were read one by one.
    Absent {
        reads: u32,
    },
    /// It is being read; what was written since is to be applied to it.
    Loading {
        written: Vec<CommitEffect>,
    },
    Whole {
        content: BTreeMap<Vec<u8>, Vec<u8>>,
        bytes: usize,
    },
    TooLarge,
}

impl Mirror {
    /// That of a database that was created empty.
    pub(super) fn empty() -> Mirror {
        Mirror::Whole { content: BTreeMap::new(), bytes: 0 }
    }

    /// The value of a key, if it is known whether there is one.
    pub(super) fn get(&self, key: &[u8]) -> Option<Option<Vec<u8>>> {
        match self {
            Mirror::Whole { content, .. } => Some(content.get(key).cloned()),
            _ => None,
        }
    }

    /// Whether a key is known not to be in it.
    pub(super) fn lacks(&self, key: &[u8]) -> bool {
        matches!(self, Mirror::Whole { content, .. } if !content.contains_key(key))
    }

    /// Keys and values in order, from a key on, if they are known: at most `limit`.
    pub(super) fn page(&self, from: &[u8], limit: usize) -> Option<Vec<KeyValue>> {
        let Mirror::Whole { content, .. } = self else { return None };
        let range = content.range::<[u8], _>((Bound::Included(from), Bound::Unbounded));
        Some(range.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    /// The last key from `from` to `to`, if it is known whether there is one.
    pub(super) fn last(&self, from: &[u8], to: &[u8]) -> Option<Option<KeyValue>> {
        let Mirror::Whole { content, .. } = self else { return None };
        if from > to {
            return Some(None);
        }
        let range = (Bound::Included(from), Bound::Included(to));
        let last = content.range::<[u8], _>(range).next_back();
        Some(last.map(|(key, value)| (key.clone(), value.clone())))
    }

    /// Counts a point read. Returns whether the caller has to read the database whole now.
    pub(super) fn begin_fetch(&mut self) -> bool {
        let Mirror::Absent { reads } = self else { return false };
        *reads += 1;
        if *reads < READS_BEFORE_FETCH {
            return false;
        }
        *self = Mirror::Loading { written: Vec::new() };
        true
    }

    /// What was read whole; `None` if it could not be read.
    pub(super) fn end_fetch(&mut self, fetched: Option<Vec<KeyValue>>) {
        let Mirror::Loading { written } = self else { return };
        let written = std::mem::take(written);
        *self = match fetched {
            Some(pairs) => {
                let bytes = pairs.iter().map(|(key, value)| key.len() + value.len()).sum();
                Mirror::Whole { content: pairs.into_iter().collect(), bytes }
            }
            None => Mirror::Absent { reads: 0 },
        };
        written.into_iter().for_each(|effect| self.write(effect));
    }

    /// Whether so many bytes are too many to keep.
    pub(super) fn is_too_large(bytes: usize) -> bool {
        bytes > BYTES_MAX
    }

    pub(super) fn give_up(&mut self) {
        *self = Mirror::TooLarge;
    }

    /// Follows what was written to the database.
    pub(super) fn write(&mut self, effect: CommitEffect) {
        match self {
            Mirror::Loading { written } => written.push(effect),
            Mirror::Whole { content, bytes } => {
                for key in effect.gone {
                    let before = content.remove(&key);
                    *bytes -= before.map_or(0, |before| key.len() + before.len());
                }
                for (key, value) in effect.puts {
                    let key_bytes = key.len();
                    *bytes += key_bytes + value.len();
                    let before = content.insert(key, value);
                    *bytes -= before.map_or(0, |before| key_bytes + before.len());
                }
                if Mirror::is_too_large(*bytes) {
                    self.give_up();
                }
            }
            Mirror::Absent { .. } | Mirror::TooLarge => {}
        }
    }
}

/// What a commit leaves under each of its keys. The last operation on a key wins, so the two parts are disjoint.
pub(super) struct CommitEffect {
    pub(super) puts: Vec<KeyValue>,
    pub(super) gone: Vec<Vec<u8>>,
    /// Whether it only puts keys that are known to be new. If that is wrong, the server refuses the commit.
    pub(super) is_append: bool,
}

impl CommitEffect {
    pub(super) fn of(operations: Vec<Operation>, mirror: &Mirror) -> CommitEffect {
        let mut last = BTreeMap::new();
        for operation in operations {
            match operation {
                Operation::Put(key, value) => last.insert(key, Some(value)),
                Operation::Remove(key) => last.insert(key, None),
            };
        }
        let mut effect = CommitEffect { puts: Vec::new(), gone: Vec::new(), is_append: true };
        for (key, value) in last {
            effect.is_append = effect.is_append && value.is_some() && mirror.lacks(&key);
            match value {
                Some(value) => effect.puts.push((key, value)),
                None => effect.gone.push(key),
            }
        }
        effect
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &str, value: &str) -> KeyValue {
        (key.into(), value.into())
    }

    fn put(key: &str, value: &str) -> Operation {
        Operation::Put(key.into(), value.into())
    }

    fn write(mirror: &mut Mirror, operations: Vec<Operation>) {
        mirror.write(CommitEffect::of(operations, mirror));
    }

    #[test]
    fn what_is_written_while_it_is_read_wins() {
        let mut mirror = Mirror::Absent { reads: 0 };
        for _ in 1..READS_BEFORE_FETCH {
            assert!(!mirror.begin_fetch());
        }
        assert!(mirror.begin_fetch());
        assert!(!mirror.begin_fetch(), "one reader is enough");
        write(&mut mirror, vec![put("a", "new"), Operation::Remove("b".into())]);
        assert_eq!(mirror.get(b"a"), None, "it is not known yet");
        mirror.end_fetch(Some(vec![pair("a", "old"), pair("b", "old"), pair("c", "old")]));
        assert_eq!(mirror.page(b"", 9), Some(vec![pair("a", "new"), pair("c", "old")]));
        assert_eq!(mirror.last(b"a", b"b"), Some(Some(pair("a", "new"))));
        assert_eq!(mirror.get(b"b"), Some(None));
    }

    #[test]
    fn a_large_database_is_not_kept() {
        let mut mirror = Mirror::empty();
        for n in 0..65_u8 {
            write(&mut mirror, vec![Operation::Put(vec![n], vec![0; 1024 * 1024])]);
        }
        assert_eq!(mirror.get(&[1]), None);
        let mut replaced = Mirror::empty();
        for _ in 0..65 {
            write(&mut replaced, vec![Operation::Put(vec![1], vec![0; 1024 * 1024])]);
        }
        assert!(replaced.get(&[1]).is_some(), "what is replaced takes nothing");
    }

    #[test]
    fn the_last_operation_on_a_key_is_its_effect() {
        let operations =
            vec![put("a", "1"), Operation::Remove("b".into()), put("a", "2"), put("b", "3")];
        let mut mirror = Mirror::empty();
        let effect = CommitEffect::of(operations.clone(), &mirror);
        assert_eq!(effect.puts, [pair("a", "2"), pair("b", "3")]);
        assert!(effect.gone.is_empty() && effect.is_append);
        write(&mut mirror, vec![put("b", "0")]);
        let is_append =
            |operations, mirror: &Mirror| CommitEffect::of(operations, mirror).is_append;
        assert!(!is_append(operations, &mirror), "b is replaced");
        assert!(is_append(vec![put("c", "4")], &mirror));
        assert!(!is_append(vec![Operation::Remove("c".into())], &mirror));
        assert!(!is_append(vec![put("c", "4")], &Mirror::Absent { reads: 0 }));
    }
}
