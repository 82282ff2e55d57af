//! The flat body of the on-premises WhatsApp Business API (v1): `contacts`, `messages`, `statuses` and `errors`
//! at the top, without the number, which the receiver knows from its URL. Each list keeps its bytes.

use super::object::ObjectWriter;
use super::update::MetaUpdate;
use crate::event::StoredEvent;

const LISTS: [&str; 4] = ["contacts", "messages", "statuses", "errors"];

/// The body for a change of the field `messages`; the on-premises client knew no other.
pub(super) fn body(event: &StoredEvent) -> Option<String> {
    let update = MetaUpdate::read(&event.payload).filter(|update| update.field == "messages")?;
    let has_updates = LISTS.iter().skip(1).any(|list| update.value.value(list).is_some());
    let body = LISTS
        .iter()
        .fold(ObjectWriter::new(), |body, list| body.raw(list, update.value.value(list)));
    has_updates.then(|| body.finish())
}
