//! Head pages. A head is everything about an event but its payload bytes; an event exists if its head does.
//!
//! The head pages of one group are one unit. Each page says how many pages the unit has, and a reader takes
//! all of them or none (I2), so a unit may be larger than one batch of the store.
//!
//! Layout of a page: the envelope of `store::record`, version 1, then [`PageV1`] in bincode 1.3.3 with
//! variable-length integers. Its key holds the sequence of its first head.

use std::collections::HashMap;
use std::sync::Arc;

use roaring::{RoaringBitmap, RoaringTreemap};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::event::{Catalogue, EventId, EventType, StoredEvent, WabaNumber};
use crate::store::record;
use crate::store::{Database, KeyValue, VALUE_BYTES_MAX};
use crate::subscription::SubscriptionId;

use super::keys;
use super::payload::{self, PayloadLocation, PayloadWriter};

mod owners;

pub(crate) use owners::HeadOwner;
pub(crate) use owners::owners;

const VERSION: u8 = 1;

/// A target set of more bytes than this is stored in the payload pages.
const INLINE_BYTES_MAX: usize = 512;

/// An upper bound for the fixed part and the envelope of a page.
const FIXED_BYTES: usize = 96;

/// An upper bound for one head, with every integer at full length.
const HEAD_BYTES_MAX: usize = 5 + 9 + 3 * 3 + 9 + 9 + 5 + 5 + 5 + 5;

/// An event as its head describes it: its payload is still to be read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct EventHead {
    /// The event, with an empty payload.
    pub(crate) event: StoredEvent,
    pub(crate) targets: Arc<RoaringBitmap>,
    pub(crate) payload: PayloadLocation,
}

#[derive(Debug, Serialize, Deserialize)]
struct PageV1 {
    /// The number of the unit that the page belongs to.
    unit: u64,
    unit_pages: u32,
    first_sequence: u64,
    first_payload_page: u64,
    accepted_at_ms: u64,
    /// Accounts, event types and WABA ids, each once.
    texts: Vec<String>,
    /// Target sets, each once.
    targets: Vec<TargetsV1>,
    heads: Vec<HeadV1>,
}

impl PageV1 {
    fn starting_at(event: &StoredEvent, payload: PayloadLocation) -> PageV1 {
        PageV1 {
            unit: 0,
            unit_pages: 0,
            first_sequence: event.id.sequence(),
            first_payload_page: payload.page,
            accepted_at_ms: event.accepted_at_ms,
            texts: Vec::new(),
            targets: Vec::new(),
            heads: Vec::new(),
        }
    }

    fn sequence_of(&self, head: &HeadV1) -> u64 {
        self.first_sequence + u64::from(head.sequence)
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum TargetsV1 {
    /// In roaring's portable format.
    Inline(Vec<u8>),
    /// The same bytes, in the payload pages.
    Stored(PayloadLocation),
}

impl TargetsV1 {
    fn stored(&self) -> Option<&PayloadLocation> {
        match self {
            TargetsV1::Inline(_) => None,
            TargetsV1::Stored(location) => Some(location),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct HeadV1 {
    /// Relative to the page's first sequence.
    sequence: u32,
    /// Relative to the page's time; a copied event keeps its own time.
    accepted_ms: u64,
    account: u16,
    event_type: u16,
    /// The index in `texts` plus 1, or 0 for none.
    waba: u16,
    /// 0 for none.
    number: u64,
    key_hash: u64,
    targets: u32,
    /// Relative to the page's first payload page.
    payload_page: u32,
    payload_offset: u32,
    payload_length: u32,
}

/// The targets of an event as a head page stores them, and where the page being filled already has them:
/// the next event often has the same targets.
#[derive(Debug, Default)]
pub(crate) struct PackedTargets {
    /// A bitmap in roaring's portable format.
    bytes: Vec<u8>,
    /// The page of the packer that has the set, and its index in that page.
    packed: Option<(usize, u32)>,
}

impl PackedTargets {
    pub(crate) fn new(targets: &RoaringBitmap) -> Result<PackedTargets> {
        let mut bytes = Vec::with_capacity(targets.serialized_size());
        let written = targets.serialize_into(&mut bytes);
        written.map_err(|error| super::damaged("targets", error.to_string()))?;
        Ok(PackedTargets { bytes, packed: None })
    }

    pub(crate) fn of(targets: &[SubscriptionId]) -> Result<PackedTargets> {
        PackedTargets::new(&targets.iter().map(|target| target.0).collect())
    }
}

/// Packs the heads of one unit into pages.
#[derive(Default)]
pub(crate) struct HeadPacker {
    finished: Vec<PageV1>,
    open: OpenHeadPage,
}

/// The page being filled.
#[derive(Default)]
struct OpenHeadPage {
    page: Option<PageV1>,
    /// An upper bound for the size of the page.
    bytes: usize,
    text_indexes: HashMap<String, u16>,
    target_indexes: HashMap<Vec<u8>, u32>,
}

impl HeadPacker {
    /// Adds the head of an event whose payload is at `payload`. Sequences ascend. A large target set goes
    /// into `payloads`. `targets` may be used again for other events of this packer, and for no other packer.
    pub(crate) fn add(
        &mut self,
        event: &StoredEvent,
        targets: &mut PackedTargets,
        payload: PayloadLocation,
        payloads: &mut PayloadWriter,
    ) -> Result<()> {
        let mut known = self.index_of(targets);
        if !self.open.has_room(event, targets, known) {
            self.end_page();
            known = None;
        }
        let index = self.open.add(event, targets, known, payload, payloads)?;
        targets.packed = Some((self.finished.len(), index));
        Ok(())
    }

    /// The index of a set that the page being filled already has.
    fn index_of(&self, targets: &PackedTargets) -> Option<u32> {
        match targets.packed {
            Some((page, index)) if page == self.finished.len() => Some(index),
            _ => self.open.target_indexes.get(&targets.bytes).copied(),
        }
    }

    /// Ends the page, so that the next head begins its own page and is found by its exact key.
    pub(crate) fn end_page(&mut self) {
        self.finished.extend(std::mem::take(&mut self.open).page);
    }

    /// The pages of the unit, with their keys; empty without heads.
    pub(crate) fn into_pages(mut self, unit: u64) -> Result<Vec<KeyValue>> {
        self.end_page();
        let unit_pages = u32::try_from(self.finished.len()).unwrap_or(u32::MAX);
        let pages = self.finished.into_iter().map(|page| {
            let page = PageV1 { unit, unit_pages, ..page };
            let key = keys::numbered(keys::HEADS, page.first_sequence);
            let sealed = record::encode(VERSION, &page);
            Ok((key, sealed.map_err(|why| damaged(page.first_sequence, why))?))
        });
        pages.collect()
    }
}

impl OpenHeadPage {
    /// Times are stored relative to the page's, so an earlier event needs its own page.
    fn has_room(&self, event: &StoredEvent, targets: &PackedTargets, known: Option<u32>) -> bool {
        let page = self.page.as_ref();
        page.is_none_or(|page| page.accepted_at_ms <= event.accepted_at_ms)
            && self.bytes + self.growth(event, targets, known) <= VALUE_BYTES_MAX
    }

    /// An upper bound for the bytes that a head adds to the page.
    fn growth(&self, event: &StoredEvent, targets: &PackedTargets, known: Option<u32>) -> usize {
        let text =
            |text: &str| if self.text_indexes.contains_key(text) { 0 } else { text.len() + 5 };
        let set = match known {
            Some(_) => 0,
            None => targets.bytes.len().min(INLINE_BYTES_MAX) + 24,
        };
        let waba = event.waba.as_deref().map_or(0, text);
        HEAD_BYTES_MAX + text(&event.account) + text(event.event_type.as_str()) + waba + set
    }

    /// Adds a head and returns the index of its target set in the page.
    fn add(
        &mut self,
        event: &StoredEvent,
        targets: &PackedTargets,
        known: Option<u32>,
        payload: PayloadLocation,
        payloads: &mut PayloadWriter,
    ) -> Result<u32> {
        let (growth, sequence) = (self.growth(event, targets, known), event.id.sequence());
        let mut page = self.page.take().unwrap_or_else(|| {
            self.bytes = FIXED_BYTES;
            PageV1::starting_at(event, payload)
        });
        let relative = |base: u64, n: u64| {
            let offset = n.checked_sub(base).and_then(|offset| u32::try_from(offset).ok());
            offset.ok_or_else(|| damaged(sequence, "it is too far from its page".to_owned()))
        };
        let waba = event.waba.as_deref();
        let targets =
            known.unwrap_or_else(|| self.add_targets(&mut page, &targets.bytes, payloads));
        let head = HeadV1 {
            sequence: relative(page.first_sequence, sequence)?,
            accepted_ms: event.accepted_at_ms.saturating_sub(page.accepted_at_ms),
            account: self.text_index(&mut page, &event.account),
            event_type: self.text_index(&mut page, event.event_type.as_str()),
            waba: waba.map_or(0, |waba| self.text_index(&mut page, waba) + 1),
            number: event.number.map_or(0, WabaNumber::digits),
            key_hash: event.key_hash,
            targets,
            payload_page: relative(page.first_payload_page, payload.page)?,
            payload_offset: payload.offset,
            payload_length: payload.length,
        };
        page.heads.push(head);
        self.bytes += growth;
        self.page = Some(page);
        Ok(targets)
    }

    fn text_index(&mut self, page: &mut PageV1, text: &str) -> u16 {
        if let Some(index) = self.text_indexes.get(text) {
            return *index;
        }
        // A page of 7 KiB holds far fewer texts than a u16 counts.
        let index = u16::try_from(page.texts.len()).unwrap_or(u16::MAX);
        page.texts.push(text.to_owned());
        self.text_indexes.insert(text.to_owned(), index);
        index
    }

    fn add_targets(
        &mut self,
        page: &mut PageV1,
        targets: &[u8],
        payloads: &mut PayloadWriter,
    ) -> u32 {
        let index = u32::try_from(page.targets.len()).unwrap_or(u32::MAX);
        page.targets.push(if targets.len() > INLINE_BYTES_MAX {
            TargetsV1::Stored(payloads.append(targets))
        } else {
            TargetsV1::Inline(targets.to_vec())
        });
        self.target_indexes.insert(targets.to_vec(), index);
        index
    }
}

/// The events of a head page, grouped by their targets, as recovery needs them.
#[derive(Debug)]
pub(crate) struct HeadPage {
    pub(crate) unit: u64,
    pub(crate) unit_pages: u32,
    /// Sequences of events with the same targets, and those targets.
    pub(crate) events: Vec<(RoaringTreemap, Arc<RoaringBitmap>)>,
    /// Sequence, key hash and targets of each event that has a key and a target that needs it.
    pub(crate) keyed: Vec<(u64, u64, Arc<RoaringBitmap>)>,
    pub(crate) sizes: Vec<EventSize>,
    /// What `EventSize::account` refers to.
    pub(crate) texts: Vec<String>,
    /// When events were accepted, in wall time: the last sequence of each run with the same time.
    pub(crate) accepted: Vec<(u64, i64)>,
    /// The last payload page that the heads refer to.
    pub(crate) last_payload_page: u64,
}

/// What an event counts against the limits of its account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EventSize {
    pub(crate) sequence: u64,
    pub(crate) payload_bytes: u32,
    /// The index of the account's name in the texts of the page.
    pub(crate) account: u16,
}

/// Finds the head of an event in its generation.
pub(crate) fn find(
    database: &dyn Database,
    catalogue: &Catalogue,
    id: EventId,
) -> Result<EventHead> {
    let sequence = id.sequence();
    let missing = || super::damaged(format!("head of event {sequence}"), "it is missing");
    let page = page_around(database, sequence)?.ok_or_else(missing)?;
    // Only the one head is built: a page has hundreds, and a backlog reads one page per delivery.
    let head = page.heads.iter().find(|head| page.sequence_of(head) == sequence);
    let head = head.ok_or_else(missing)?;
    let invalid = || bad_reference(page.first_sequence);
    let set = page.targets.get(head.targets as usize).ok_or_else(invalid)?;
    let targets = target_set(database, page.first_sequence, set)?;
    let event_type = page.texts.get(usize::from(head.event_type)).ok_or_else(invalid)?;
    let event_type = catalogue.canonical(event_type).map_err(|_| invalid())?;
    page.expand(head, id, event_type, targets).ok_or_else(invalid)
}

/// The page that would contain the head of an event.
fn page_around(database: &dyn Database, sequence: u64) -> Result<Option<PageV1>> {
    let found = database.last(keys::HEADS, &keys::numbered(keys::HEADS, sequence));
    let found = found.map_err(|failure| Error::store("reading a head page", failure))?;
    let Some((key, sealed)) = found else { return Ok(None) };
    let Some(first_sequence) = keys::number_of(&key) else { return Ok(None) };
    decode(first_sequence, &sealed).map(Some)
}

/// Reads a head page. An open reads every page, so heads are checked as in [`find`] but not built. `ordered`
/// are the subscriptions that need the keys of their events.
pub(crate) fn read(
    database: &dyn Database,
    catalogue: &Catalogue,
    ordered: &RoaringBitmap,
    first_sequence: u64,
    sealed: &[u8],
) -> Result<HeadPage> {
    let page = decode(first_sequence, sealed)?;
    let sets = page.targets.iter().map(|set| target_set(database, first_sequence, set));
    let mut events: Vec<_> =
        sets.map(|set| Ok((RoaringTreemap::new(), set?))).collect::<Result<_>>()?;
    let are_types: Vec<bool> =
        page.texts.iter().map(|text| catalogue.canonical(text).is_ok()).collect();
    let is_text = |index: u16| usize::from(index) < page.texts.len();
    let (mut sizes, mut keyed, mut accepted) = (Vec::new(), Vec::new(), Vec::new());
    let stored = page.targets.iter().filter_map(TargetsV1::stored);
    let mut last_payload_page = stored.map(PayloadLocation::last_page).max().unwrap_or(0);
    for head in &page.heads {
        let is_type = are_types.get(usize::from(head.event_type)).is_some_and(|is_type| *is_type);
        let is_waba = head.waba.checked_sub(1).is_none_or(is_text);
        let set = events.get_mut(head.targets as usize);
        let (sequences, targets) = set
            .filter(|_| is_type && is_waba && is_text(head.account))
            .ok_or_else(|| bad_reference(first_sequence))?;
        sequences.insert(page.sequence_of(head));
        if head.key_hash != 0 && !targets.is_disjoint(ordered) {
            keyed.push((page.sequence_of(head), head.key_hash, Arc::clone(targets)));
        }
        let (sequence, payload_bytes) = (page.sequence_of(head), head.payload_length);
        sizes.push(EventSize { sequence, payload_bytes, account: head.account });
        let at_ms = page.accepted_at_ms.saturating_add(head.accepted_ms);
        let at_ms = i64::try_from(at_ms).unwrap_or(i64::MAX);
        match accepted.last_mut() {
            Some((last, last_ms)) if *last_ms == at_ms => *last = page.sequence_of(head),
            _ => accepted.push((page.sequence_of(head), at_ms)),
        }
        last_payload_page = last_payload_page.max(page.payload_of(head).last_page());
    }
    let PageV1 { unit, unit_pages, texts, .. } = page;
    let page =
        HeadPage { unit, unit_pages, events, keyed, sizes, texts, accepted, last_payload_page };
    Ok(page)
}

impl PageV1 {
    fn expand(
        &self,
        head: &HeadV1,
        id: EventId,
        event_type: EventType,
        targets: Arc<RoaringBitmap>,
    ) -> Option<EventHead> {
        let text = |index: u16| self.texts.get(usize::from(index));
        let event = StoredEvent {
            id,
            account: text(head.account)?.as_str().into(),
            event_type,
            number: WabaNumber::from_digits(head.number),
            waba: match head.waba.checked_sub(1) {
                Some(index) => Some(text(index)?.clone()),
                None => None,
            },
            key_hash: head.key_hash,
            accepted_at_ms: self.accepted_at_ms + head.accepted_ms,
            payload: Vec::new(),
        };
        Some(EventHead { event, targets, payload: self.payload_of(head) })
    }

    fn payload_of(&self, head: &HeadV1) -> PayloadLocation {
        PayloadLocation {
            page: self.first_payload_page + u64::from(head.payload_page),
            offset: head.payload_offset,
            length: head.payload_length,
        }
    }
}

fn decode(first_sequence: u64, sealed: &[u8]) -> Result<PageV1> {
    record::decode(VERSION, sealed).map_err(|why| damaged(first_sequence, why))
}

fn bad_reference(first_sequence: u64) -> Error {
    damaged(first_sequence, "a head refers to an entry that is missing".to_owned())
}

fn target_set(
    database: &dyn Database,
    first_sequence: u64,
    set: &TargetsV1,
) -> Result<Arc<RoaringBitmap>> {
    let stored;
    let bytes = match set {
        TargetsV1::Inline(bytes) => bytes,
        TargetsV1::Stored(location) => {
            stored = payload::read(database, *location)?;
            &stored
        }
    };
    RoaringBitmap::deserialize_from(bytes.as_slice())
        .map(Arc::new)
        .map_err(|error| damaged(first_sequence, format!("its targets cannot be read: {error}")))
}

fn damaged(first_sequence: u64, why: String) -> Error {
    super::damaged(format!("head page {first_sequence}"), why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Batch, Memory, Store};

    fn head(sequence: u64, targets: impl IntoIterator<Item = u32>) -> EventHead {
        let event = StoredEvent {
            id: EventId::new(1, sequence),
            number: "919999999999".parse().ok().filter(|_| !sequence.is_multiple_of(3)),
            waba: sequence.is_multiple_of(2).then(|| format!("waba-{}", sequence % 7)),
            key_hash: sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            accepted_at_ms: 1_700_000_000_000,
            ..StoredEvent::example()
        };
        let payload = PayloadLocation { page: 10 + sequence, offset: 5, length: 100 };
        EventHead { event, targets: Arc::new(targets.into_iter().collect()), payload }
    }

    fn put(database: &dyn Database, key: Vec<u8>, value: Vec<u8>) {
        let mut batch = Batch::default();
        batch.put(key, value);
        database.write(vec![batch]).unwrap();
    }

    fn read_page(database: &dyn Database, first_sequence: u64, sealed: &[u8]) -> Result<HeadPage> {
        let (catalogue, ordered) = (Catalogue::default(), RoaringBitmap::new());
        read(database, &catalogue, &ordered, first_sequence, sealed)
    }

    /// Packs, stores and reads back: every head is found unchanged, and all pages together have the same
    /// events for the same targets. Heads next to each other that share a set are packed with one.
    fn check(heads: &[EventHead]) -> (Arc<dyn Database>, Vec<HeadPage>) {
        let database = Memory::default().open("one").unwrap();
        let mut payloads = PayloadWriter::new(1_000_000);
        let mut packer = HeadPacker::default();
        let mut last: Option<(&EventHead, PackedTargets)> = None;
        for head in heads {
            let shared = last.take().filter(|(last, _)| Arc::ptr_eq(&last.targets, &head.targets));
            let packed = shared.map(|(_, packed)| packed);
            let mut packed = packed.unwrap_or_else(|| PackedTargets::new(&head.targets).unwrap());
            packer.add(&head.event, &mut packed, head.payload, &mut payloads).unwrap();
            last = Some((head, packed));
        }
        let pages = packer.into_pages(77).unwrap();
        for (key, value) in payloads.into_pages().0.into_iter().chain(pages.clone()) {
            put(&*database, key, value);
        }
        let pages = pages.iter().map(|(key, sealed)| {
            read_page(&*database, keys::number_of(key).unwrap(), sealed).unwrap()
        });
        let pages: Vec<HeadPage> = pages.collect();
        let mut events: Vec<(u64, &Arc<RoaringBitmap>)> = Vec::new();
        for (sequences, targets) in pages.iter().flat_map(|page| &page.events) {
            events.extend(sequences.iter().map(|sequence| (sequence, targets)));
        }
        events.sort_by_key(|(sequence, _)| *sequence);
        let expected: Vec<_> =
            heads.iter().map(|head| (head.event.id.sequence(), &head.targets)).collect();
        assert_eq!(events, expected);
        let sizes = pages.iter().flat_map(|page| page.sizes.iter().map(move |size| (page, size)));
        let found = sizes.map(|(page, size)| {
            let account = page.texts[usize::from(size.account)].as_str();
            (size.sequence, size.payload_bytes, account)
        });
        let expected =
            heads.iter().map(|head| (head.event.id.sequence(), 100, &*head.event.account));
        assert_eq!(found.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        for head in heads {
            assert_eq!(&find(&*database, &Catalogue::default(), head.event.id).unwrap(), head);
        }
        (database, pages)
    }

    #[test]
    fn heads_read_back_unchanged_over_many_pages() {
        let heads: Vec<EventHead> =
            (1..2_000_u32).map(|n| head(n.into(), [1, 5, n % 40 + 7])).collect();
        let (_, pages) = check(&heads);
        assert!(pages.len() > 5, "{} pages", pages.len());
        for page in &pages {
            assert_eq!((page.unit, page.unit_pages as usize), (77, pages.len()));
        }
    }

    #[test]
    fn heads_with_their_own_targets_are_found_and_a_gap_is_named() {
        let heads: Vec<EventHead> = (1..500_u32)
            .map(|n| head(u64::from(n) * 2, (0..n * 10).map(|id| id * 11 + n)))
            .collect();
        let (database, _) = check(&heads);
        let error = find(&*database, &Catalogue::default(), EventId::new(1, 301));
        let error = error.unwrap_err().to_string();
        assert!(error.contains("head of event 301"), "{error}");
    }

    #[test]
    fn ten_thousand_scattered_targets_do_not_outgrow_a_page() {
        let heads: Vec<EventHead> =
            (1..50_u32).map(|n| head(n.into(), (0..10_000).map(|id| id * 11 + n))).collect();
        check(&heads);
    }

    #[test]
    fn long_account_names_do_not_outgrow_a_page() {
        let heads: Vec<EventHead> = (1..300_u32)
            .map(|n| {
                let mut head = head(n.into(), [n]);
                head.event.account = format!("{n}{}", "a".repeat(120)).into();
                head
            })
            .collect();
        check(&heads);
    }

    #[test]
    fn heads_with_a_shared_set_read_back_like_those_with_their_own() {
        let sets: Vec<_> = [vec![1, 2], (0..2_000).map(|id| id * 9).collect(), vec![3]]
            .into_iter()
            .map(|ids: Vec<u32>| Arc::new(ids.into_iter().collect::<RoaringBitmap>()))
            .collect();
        let five_each = sets.iter().cycle().flat_map(|set| std::iter::repeat_n(set, 5));
        let shared: Vec<EventHead> = (1..900)
            .zip(five_each)
            .map(|(n, set)| EventHead { targets: Arc::clone(set), ..head(n, []) })
            .collect();
        let own: Vec<EventHead> = shared
            .iter()
            .map(|head| EventHead { targets: Arc::new((*head.targets).clone()), ..head.clone() })
            .collect();
        check(&shared);
        check(&own);
    }

    /// A packer with the head of one event, which has no payload pages.
    fn packed(head: &EventHead) -> HeadPacker {
        let mut packer = HeadPacker::default();
        let mut targets = PackedTargets::new(&head.targets).unwrap();
        let mut payloads = PayloadWriter::new(1);
        packer.add(&head.event, &mut targets, head.payload, &mut payloads).unwrap();
        packer
    }

    #[test]
    fn a_damaged_page_is_named() {
        let (_, mut sealed) = packed(&head(77, [1])).into_pages(9).unwrap().remove(0);
        sealed[20] ^= 1;
        let database = Memory::default().open("one").unwrap();
        let error = read_page(&*database, 77, &sealed).unwrap_err();
        assert!(error.to_string().contains("head page 77"), "{error}");
    }

    #[test]
    fn a_head_with_a_bad_reference_is_damage_to_every_reader() {
        type HeadChange = fn(&mut HeadV1);
        let changes: [HeadChange; 4] = [
            |head| head.account = 9,
            |head| head.event_type = 9,
            |head| head.waba = 9,
            |head| head.targets = 9,
        ];
        for change in changes {
            let database = Memory::default().open("one").unwrap();
            let mut packer = packed(&head(2, [1]));
            packer.open.page.iter_mut().flat_map(|page| &mut page.heads).for_each(change);
            let (key, sealed) = packer.into_pages(9).unwrap().remove(0);
            put(&*database, key, sealed.clone());
            let errors = [
                read_page(&*database, 2, &sealed).unwrap_err(),
                find(&*database, &Catalogue::default(), EventId::new(1, 2)).unwrap_err(),
            ];
            for error in errors {
                assert!(error.to_string().contains("entry that is missing"), "{error}");
            }
        }
    }

    #[test]
    fn the_bytes_of_a_page_are_pinned() {
        let (key, sealed) = packed(&head(5, [3])).into_pages(9).unwrap().remove(0);
        assert_eq!(key, b"h\0\0\0\0\0\0\0\x05");
        let hex = crate::text::hex(&sealed);
        let golden = "016bb17ffe0901050ffd0068e5cf8b010000020461636d65104d4553534147455f5245\
                      4345495645440100123a3000000100000000000000100000000300010000000100fdff\
                      ef4534d6000000fd696c747c9f60151700000564";
        assert_eq!(hex, golden);
    }
}
