//! The last file of the audit log. It keeps the newest entries of each account when older files are removed.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use super::{FILES_MAX, id_of, path, private_file, text_of};
use crate::json::AuditEntryJson;

/// Moves the newest entries of each account from the file that is about to be removed to the file of kept ones,
/// which has at most this size. Does nothing while there is no such file.
pub(super) fn keep(directory: &Path, bytes_max: u64) -> io::Result<()> {
    let removed = text_of(directory, FILES_MAX - 1)?;
    if removed.is_empty() {
        return Ok(());
    }
    let before = text_of(directory, FILES_MAX)?;
    // After a crash before the renames some of them are kept already.
    let last = before.lines().rev().find_map(id_of);
    let removed = removed.lines().filter(|line| id_of(line) > last);
    let lines: Vec<&str> = before.lines().chain(removed).collect();
    let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
    let kept = newest_of_each(&lines, bytes_max);
    let text: String = kept.into_iter().flat_map(|line| [line, "\n"]).collect();
    let part = directory.join("audit.part");
    let mut file = private_file().write(true).truncate(true).open(&part)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(part, path(directory, FILES_MAX))
}

/// The newest lines of each account, in their order. Each account gets the same number of bytes, halved until all of it
/// fits.
fn newest_of_each<'l>(lines: &[&'l str], bytes_max: usize) -> Vec<&'l str> {
    let owners = lines.iter().map(|line| {
        let entry: AuditEntryJson = serde_json::from_str(line).ok()?;
        entry.accounts().next().map(str::to_owned)
    });
    let owners: Vec<_> = owners.collect();
    let mut share = bytes_max;
    loop {
        let (mut used, mut total) = (HashMap::new(), 0);
        let mut kept = Vec::new();
        for (line, owner) in lines.iter().zip(&owners).rev() {
            let own: &mut usize = used.entry(owner).or_default();
            *own += line.len() + 1;
            if *own <= share {
                total += line.len() + 1;
                kept.push(*line);
            }
        }
        if total <= bytes_max {
            kept.reverse();
            return kept;
        }
        share /= 2;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::tests::entry;
    use super::*;
    use crate::json::AuditChangeJson;

    /// What the operator did to an account.
    fn line(id: u64, account: &str) -> String {
        let changes = vec![AuditChangeJson::of_account(account, Value::Null, Value::Null)];
        let entry = AuditEntryJson { id, account: None, changes, ..entry("/admin/accounts") };
        serde_json::to_string(&entry).unwrap()
    }

    #[test]
    fn lines_that_are_kept_already_are_kept_once() {
        let directory = tempfile::tempdir().unwrap();
        let read = || fs::read_to_string(path(directory.path(), FILES_MAX)).unwrap();
        let removed = [line(1, "acme"), line(2, "beta")].join("\n") + "\n";
        fs::write(path(directory.path(), FILES_MAX - 1), &removed).unwrap();
        // The renames that follow the first time are missing, as after a crash.
        for _ in 0..2 {
            keep(directory.path(), 10_000).unwrap();
            assert_eq!(read(), removed);
        }
    }

    #[test]
    fn each_account_keeps_its_newest() {
        let mut lines: Vec<String> = (1..=100).map(|id| line(id, "noisy")).collect();
        lines.insert(0, line(0, "quiet"));
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let kept = newest_of_each(&lines, 1_000);
        assert!(kept.iter().map(|line| line.len() + 1).sum::<usize>() <= 1_000);
        assert_eq!((kept.first(), kept.last()), (lines.first(), lines.last()));
        assert_eq!(newest_of_each(&lines, 1 << 20), lines, "all fit");
    }
}
