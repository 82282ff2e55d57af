//! What all host processes reported, and the verdict on it: everything accepted was delivered, and nothing that was
//! refused.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub struct Ledger {
    accepted: BTreeSet<String>,
    refused: BTreeSet<String>,
    unknown: u64,
    delivered: BTreeMap<String, u64>,
}

impl Ledger {
    /// Notes a line of a process.
    pub fn hear(&mut self, line: &str) {
        match line.split_once(' ') {
            Some(("accepted", tag)) => drop(self.accepted.insert(tag.to_owned())),
            Some(("refused", tag)) => drop(self.refused.insert(tag.to_owned())),
            Some(("unknown", _)) => self.unknown += 1,
            Some(("delivered", tag)) => *self.delivered.entry(tag.to_owned()).or_default() += 1,
            _ => {}
        }
    }

    /// Everything that is owed was delivered by now.
    pub fn judge(&self) -> Result<String, String> {
        let lost: Vec<_> =
            self.accepted.iter().filter(|tag| !self.delivered.contains_key(*tag)).collect();
        if !lost.is_empty() {
            let first: Vec<_> = lost.iter().take(5).collect();
            return Err(format!("{} accepted events were lost: {first:?}", lost.len()));
        }
        let wrong: Vec<_> =
            self.refused.iter().filter(|tag| self.delivered.contains_key(*tag)).collect();
        if !wrong.is_empty() {
            return Err(format!("{} refused events were delivered: {wrong:?}", wrong.len()));
        }
        let repeated: u64 = self.delivered.values().map(|times| times - 1).sum();
        Ok(format!(
            "{} accepted, 0 lost, {} refused, {} unknown, {repeated} deliveries repeated",
            self.accepted.len(),
            self.refused.len(),
            self.unknown
        ))
    }
}
