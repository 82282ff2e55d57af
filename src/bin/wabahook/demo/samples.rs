//! What the demo publishes: the bodies of `docs/samples`, in rounds. Payloads are the samples' own bytes, or
//! what `inbound::cloud_api` makes of a callback. Each event has its own dedup key, because the same message
//! is published again in every round.

use serde_json::Value;
use wabahook::inbound::cloud_api;
use wabahook::{Accounts, Catalogue, Event};

use super::endpoints::NumberOrWaba;
use super::report::AcceptedEvent;

/// One body of `docs/samples`.
struct SampleBody {
    name: &'static str,
    body: &'static [u8],
    source: SampleSource,
}

/// Who sent a body, which decides what it becomes.
enum SampleSource {
    /// Meta: split by `inbound::cloud_api`.
    Meta,
    /// A gateway: one event of this type, in the gateway's own vocabulary, for this number.
    Gateway(&'static str, &'static str),
}

/// The events of body number `turn`, published by one call, and what the ledger needs of each; its id and deliveries
/// are not known yet. `seed` distinguishes processes.
pub(super) fn prepare(
    turn: u64,
    seed: u64,
    accounts: &Accounts,
) -> Result<Vec<(Event, AcceptedEvent)>, String> {
    let count = SAMPLES.len() as u64;
    let sample = usize::try_from(turn % count).ok().and_then(|index| SAMPLES.get(index));
    let Some(sample) = sample else { return Ok(Vec::new()) };
    let events = match sample.source {
        SampleSource::Meta => {
            let callback = cloud_api::events(sample.body, accounts)
                .map_err(|error| format!("sample {}: {error}", sample.name))?;
            let events = callback.events.into_iter();
            events.map(|event| (owner_of(event.payload()), event)).collect::<Vec<_>>()
        }
        SampleSource::Gateway(event_type, number) => {
            let event = Event::new(event_type, sample.body).number(number);
            vec![(Some(NumberOrWaba::Number(number.into())), event)]
        }
    };
    let catalogue = Catalogue::default();
    let prepared = events.into_iter().enumerate().map(|(part, (owner, event))| {
        let event_type = catalogue
            .canonical(event.event_type())
            .map_err(|error| format!("sample {}: {error}", sample.name))?;
        let described = AcceptedEvent {
            id: String::new(),
            event_type: event_type.as_str().to_owned(),
            owner: owner.ok_or_else(|| format!("sample {}: no number and no WABA", sample.name))?,
            owed: 0,
            checksum: crc32fast::hash(event.payload()),
        };
        Ok((event.dedup_key(format!("{seed}-{turn}-{part}")), described))
    });
    prepared.collect()
}

/// The number or the WABA of a callback of Meta's shape.
pub(super) fn owner_of(payload: &[u8]) -> Option<NumberOrWaba> {
    let body: Value = serde_json::from_slice(payload).ok()?;
    let text = |path: &str| body.pointer(path).and_then(Value::as_str).map(str::to_owned);
    let number = text("/entry/0/changes/0/value/metadata/display_phone_number");
    number.map(NumberOrWaba::Number).or_else(|| text("/entry/0/id").map(NumberOrWaba::Waba))
}

macro_rules! sample {
    ($name:literal, $source:expr) => {
        SampleBody {
            name: $name,
            body: include_bytes!(concat!("../../../../docs/samples/", $name, ".json")),
            source: $source,
        }
    };
}

const SAMPLES: &[SampleBody] = &[
    sample!("cloud_message_text", SampleSource::Meta),
    sample!("cloud_status_sent", SampleSource::Meta),
    sample!("cloud_status_read", SampleSource::Meta),
    sample!("cloud_template_status_rejected", SampleSource::Meta),
    sample!("cloud_batch_two_wabas_three_numbers", SampleSource::Meta),
    sample!("cloud_escaped_raw_bytes", SampleSource::Meta),
    sample!(
        "doubletick_message_received",
        SampleSource::Gateway("Message Received", "919000000001")
    ),
    sample!("doubletick_add_tag", SampleSource::Gateway("Tag added", "919000000001")),
    sample!(
        "doubletick_template_update",
        SampleSource::Gateway("Template Updated", "919000000001")
    ),
    sample!(
        "doubletick_widget_lead_received",
        SampleSource::Gateway("Lead Received from Widget", "919000000001")
    ),
    sample!(
        "gateway_connection_connected",
        SampleSource::Gateway("connection.connected", "919000000002")
    ),
    sample!("gateway_message_received", SampleSource::Gateway("message.received", "919000000002")),
    sample!("gowa_message", SampleSource::Gateway("message", "919000000003")),
    sample!("onprem_message_text", SampleSource::Gateway("MESSAGE_RECEIVED", "919000000003")),
    sample!(
        "onprem_statuses_batch",
        SampleSource::Gateway("MESSAGE_STATUS_UPDATE", "919000000003")
    ),
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
    fn a_callback_has_a_number_or_a_waba() {
        let owner =
            |name: &str| owner_of(SAMPLES.iter().find(|sample| sample.name == name).unwrap().body);
        let number = NumberOrWaba::Number("972123456789".into());
        assert_eq!(owner("cloud_message_text"), Some(number));
        let waba = NumberOrWaba::Waba("102290129340398".into());
        assert_eq!(owner("cloud_template_status_rejected"), Some(waba));
        assert_eq!(owner("doubletick_add_tag"), None);
    }
}
