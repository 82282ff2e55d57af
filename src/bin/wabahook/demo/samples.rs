//! Decides what the demo publishes: the bodies of `docs/samples`, round after round.
//!
//! Leaves to others: publishing. Invariant: payloads are the samples' own bytes, or what
//! `inbound::cloud_api` makes of a callback; each event gets a dedup key of its own, because the
//! same message comes again in every round and is meant to.

use serde_json::Value;
use wabahook::inbound::cloud_api;
use wabahook::{Accounts, Catalogue, Event};

use super::endpoints::Place;

/// An event ready to be published, and what the demo says of it.
pub(super) struct Prepared {
    pub(super) event: Event,
    pub(super) event_type: String,
    pub(super) place: Place,
    pub(super) checksum: u32,
}

/// One body of `docs/samples`.
struct Sample {
    name: &'static str,
    body: &'static [u8],
    source: Source,
}

/// Who sent a body, and so what it becomes.
enum Source {
    /// Meta: split by `inbound::cloud_api`.
    Meta,
    /// A gateway: one event of this type, in the gateway's own vocabulary, for this number.
    Gateway(&'static str, &'static str),
}

/// The events of the `turn`th body, all published by one call. `seed` tells runs apart.
pub(super) fn prepare(turn: u64, seed: u64, accounts: &Accounts) -> Result<Vec<Prepared>, String> {
    let count = SAMPLES.len() as u64;
    let sample = usize::try_from(turn % count).ok().and_then(|place| SAMPLES.get(place));
    let Some(sample) = sample else { return Ok(Vec::new()) };
    let events = match sample.source {
        Source::Meta => {
            let callback = cloud_api::events(sample.body, accounts)
                .map_err(|error| format!("sample {}: {error}", sample.name))?;
            let events = callback.events.into_iter();
            events.map(|event| (place_of(event.payload()), event)).collect::<Vec<_>>()
        }
        Source::Gateway(event_type, number) => {
            let event = Event::new(event_type, sample.body).number(number);
            vec![(Some(Place::Number(number.into())), event)]
        }
    };
    let catalogue = Catalogue::default();
    let prepared = events.into_iter().enumerate().map(|(part, (place, event))| {
        let event_type = catalogue
            .canonical(event.event_type())
            .map_err(|error| format!("sample {}: {error}", sample.name))?;
        Ok(Prepared {
            event_type: event_type.as_str().to_owned(),
            place: place.ok_or_else(|| format!("sample {}: no number and no WABA", sample.name))?,
            checksum: crc32fast::hash(event.payload()),
            event: event.dedup_key(format!("{seed}-{turn}-{part}")),
        })
    });
    prepared.collect()
}

/// Where a callback of Meta's shape belongs, read from its bytes alone.
pub(super) fn place_of(payload: &[u8]) -> Option<Place> {
    let body: Value = serde_json::from_slice(payload).ok()?;
    let text = |path: &str| body.pointer(path).and_then(Value::as_str).map(str::to_owned);
    let number = text("/entry/0/changes/0/value/metadata/display_phone_number");
    number.map(Place::Number).or_else(|| text("/entry/0/id").map(Place::Waba))
}

macro_rules! sample {
    ($name:literal, $source:expr) => {
        Sample {
            name: $name,
            body: include_bytes!(concat!("../../../../docs/samples/", $name, ".json")),
            source: $source,
        }
    };
}

const SAMPLES: &[Sample] = &[
    sample!("cloud_message_text", Source::Meta),
    sample!("cloud_status_sent", Source::Meta),
    sample!("cloud_status_read", Source::Meta),
    sample!("cloud_template_status_rejected", Source::Meta),
    sample!("cloud_batch_two_wabas_three_numbers", Source::Meta),
    sample!("cloud_escaped_raw_bytes", Source::Meta),
    sample!("doubletick_message_received", Source::Gateway("Message Received", "919000000001")),
    sample!("doubletick_add_tag", Source::Gateway("Tag added", "919000000001")),
    sample!("doubletick_template_update", Source::Gateway("Template Updated", "919000000001")),
    sample!(
        "doubletick_widget_lead_received",
        Source::Gateway("Lead Received from Widget", "919000000001")
    ),
    sample!(
        "gateway_connection_connected",
        Source::Gateway("connection.connected", "919000000002")
    ),
    sample!("gateway_message_received", Source::Gateway("message.received", "919000000002")),
    sample!("gowa_message", Source::Gateway("message", "919000000003")),
    sample!("onprem_message_text", Source::Gateway("MESSAGE_RECEIVED", "919000000003")),
    sample!("onprem_statuses_batch", Source::Gateway("MESSAGE_STATUS_UPDATE", "919000000003")),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_in_the_folder_is_published() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/samples");
        let mut on_disk: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter_map(|name| name.strip_suffix(".json").map(str::to_owned))
            .collect();
        on_disk.sort();
        let mut published: Vec<_> = SAMPLES.iter().map(|sample| sample.name.to_owned()).collect();
        published.sort();
        assert_eq!(published, on_disk);
    }

    #[test]
    fn a_callback_belongs_to_its_number_and_without_one_to_its_waba() {
        let place =
            |name: &str| place_of(SAMPLES.iter().find(|sample| sample.name == name).unwrap().body);
        let number = Place::Number("972123456789".into());
        assert_eq!(place("cloud_message_text"), Some(number));
        let waba = Place::Waba("102290129340398".into());
        assert_eq!(place("cloud_template_status_rejected"), Some(waba));
        assert_eq!(place("doubletick_add_tag"), None);
    }
}
