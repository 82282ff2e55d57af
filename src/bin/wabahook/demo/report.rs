//! What the engine process reports to the demo, one JSON line each. An `Accepted` line is written after the
//! receipt of its events resolved, so those events are on the device (I1).

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use super::endpoints::NumberOrWaba;

/// One line from the engine process. Endpoints are named by their index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum EngineReport {
    Opened {
        /// Deliveries found owed on the device.
        recovered: u64,
        /// Subscriptions found on the device.
        subscriptions: u64,
        /// How long opening took, in milliseconds.
        took_ms: u64,
    },
    /// Events that are on the device, published by one call.
    Accepted {
        /// When `publish` was called, in milliseconds since the Unix epoch.
        published_ms: u64,
        events: Vec<AcceptedEvent>,
    },
    /// A delivery is a dead letter.
    Died {
        /// The event's id.
        event: String,
        endpoint: usize,
    },
    /// A subscription was disabled by its receiver.
    Disabled { endpoint: usize, reason: String },
    /// Another notice of the engine, for the screen.
    Noted { text: String },
    /// The figures of the lanes.
    Progress { lanes: Vec<LaneReport> },
    /// Publishing is over.
    Draining,
    /// The engine is closed; these are its last figures.
    Closed { lanes: Vec<LaneReport> },
    /// The engine process gave up.
    Failed { why: String },
}

/// One accepted event, with what shows who must get it and that it arrived unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AcceptedEvent {
    pub(super) id: String,
    #[serde(rename = "type")]
    pub(super) event_type: String,
    pub(super) owner: NumberOrWaba,
    /// How many deliveries it owes, by its receipt.
    pub(super) owed: u32,
    /// CRC-32 of the payload as published.
    pub(super) checksum: u32,
}

/// The engine's figures of one endpoint since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LaneReport {
    pub(super) endpoint: usize,
    /// Deliveries owed now.
    pub(super) owed: u64,
    /// Failed attempts that were or will be retried.
    pub(super) retried: u64,
}

impl EngineReport {
    /// Writes the whole line and flushes it.
    pub(super) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        to.write_all(&line)?;
        to.flush()
    }

    /// Reads a line; `None` where a kill cut it off.
    pub(super) fn read(line: &str) -> Option<EngineReport> {
        serde_json::from_str(line).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_back_and_half_a_line_is_not() {
        let report = EngineReport::Accepted {
            published_ms: 7,
            events: vec![AcceptedEvent {
                id: "evt_1".into(),
                event_type: "ADD_TAG".into(),
                owner: NumberOrWaba::Waba("1".into()),
                owed: 2,
                checksum: 3,
            }],
        };
        let mut line = Vec::new();
        report.write(&mut line).unwrap();
        let text = String::from_utf8(line).unwrap();
        assert_eq!(EngineReport::read(text.trim_end()), Some(report));
        assert_eq!(EngineReport::read(&text[..text.len() - 5]), None);
    }
}
