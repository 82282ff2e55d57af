//! Decides how the heads of events are packed into pages: an event is visible iff its head is.
//!
//! Leaves to others: the payloads (`page`) and what a delivery came to (`recovery`). Invariant: the
//! head pages of one group are one unit; each says how many there are, and a reader takes all of
//! them or none (I2), so a unit may be larger than one batch of the store.
//!
//! Layout of a page: the envelope of `store::record`, version 1, then [`PageV1`] in bincode 1.3.3
//! with variable-length integers. Its key holds the sequence of its first head.

use std::collections::HashMap;
use std::sync::Arc;

use roaring::{RoaringBitmap, RoaringTreemap};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::event::{Catalogue, EventType, WabaNumber};
use crate::store::record;
use crate::store::{Database, Pair, VALUE_BYTES_MAX};

use super::keys;
use super::page::{self, Location, Stream};

const VERSION: u8 = 1;

/// A set of targets that takes more bytes than this lies in the payload pages.
const INLINE_BYTES_MAX: usize = 512;

/// What a page's fixed part and envelope take at most.
const FIXED_BYTES: usize = 96;

/// What one head takes at most, its integers at full length.
const HEAD_BYTES_MAX: usize = 5 + 9 + 3 * 3 + 9 + 9 + 5 + 5 + 5 + 5;

/// Everything about an event but its payload.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Head {
    pub(super) sequence: u64,
    pub(super) accepted_wall_ms: u64,
    pub(super) account: Arc<str>,
    pub(super) kind: EventType,
    pub(super) number: Option<WabaNumber>,
    pub(super) waba: Option<String>,
    pub(super) key_hash: u64,
    /// Shared by the heads whose sets are known to be the same.
    pub(super) targets: Arc<RoaringBitmap>,
    pub(super) payload: Location,
}

#[derive(Debug, Serialize, Deserialize)]
struct PageV1 {
    /// The unit that the page belongs to, by a number of its own.
    unit: u64,
    /// How many pages the unit has.
    unit_pages: u32,
    first_sequence: u64,
    first_payload_page: u64,
    accepted_wall_ms: u64,
    /// Accounts, types and WABA ids, each once.
    texts: Vec<String>,
    /// Sets of targets, each once.
    targets: Vec<TargetsV1>,
    heads: Vec<HeadV1>,
}

impl PageV1 {
    fn sequence_of(&self, head: &HeadV1) -> u64 {
        self.first_sequence + u64::from(head.sequence)
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum TargetsV1 {
    /// In roaring's portable format.
    Inline(Vec<u8>),
    /// The same bytes, in the payload pages.
    Stored(Location),
}

#[derive(Debug, Serialize, Deserialize)]
struct HeadV1 {
    /// From the page's first sequence.
    sequence: u32,
    /// From the page's moment; an event that was copied keeps its own.
    accepted_ms: u64,
    account: u16,
    kind: u16,
    /// 0 where there is none, else the place in `texts` plus 1.
    waba: u16,
    /// 0 where there is none.
    number: u64,
    key_hash: u64,
    targets: u32,
    /// From the page's first payload page.
    payload_page: u32,
    payload_offset: u32,
    payload_length: u32,
}

/// Packs the heads of one unit.
#[derive(Default)]
pub(super) struct Packer {
    done: Vec<PageV1>,
    open: Open,
    /// The set packed last, which the next head often shares, and its bytes.
    last: Option<(Arc<RoaringBitmap>, Vec<u8>)>,
}

/// The page being filled.
#[derive(Default)]
struct Open {
    page: Option<PageV1>,
    bytes: usize,
    text_places: HashMap<String, u16>,
    target_places: HashMap<Vec<u8>, u32>,
    /// The set added last, and its place.
    last: Option<(Arc<RoaringBitmap>, u32)>,
}

impl Packer {
    /// Adds a head; sequences ascend. A large set of targets goes into `stream`.
    pub(super) fn add(&mut self, head: &Head, stream: &mut Stream) -> Result<()> {
        let last = self.last.take().filter(|(set, _)| Arc::ptr_eq(set, &head.targets));
        let targets = match last {
            Some((_, targets)) => targets,
            None => portable(&head.targets)?,
        };
        if !self.open.has_room(head, &targets) {
            self.end_page();
        }
        let added = self.open.add(head, &targets, stream);
        self.last = Some((Arc::clone(&head.targets), targets));
        added
    }

    /// Ends the page, so that the next head opens one of its own and is found by its exact key.
    pub(super) fn end_page(&mut self) {
        self.done.extend(std::mem::take(&mut self.open).page);
    }

    /// The pages of the unit, with their keys. Without heads there are none.
    pub(super) fn into_pages(mut self, unit: u64) -> Result<Vec<Pair>> {
        self.done.extend(self.open.page.take());
        let unit_pages = u32::try_from(self.done.len()).unwrap_or(u32::MAX);
        let pages = self.done.into_iter().map(|page| {
            let page = PageV1 { unit, unit_pages, ..page };
            let key = keys::numbered(keys::HEADS, page.first_sequence);
            let sealed = record::encode(VERSION, &page);
            Ok((key, sealed.map_err(|why| damaged(page.first_sequence, why))?))
        });
        pages.collect()
    }
}

impl Open {
    /// Moments are kept from the page's on, so a head from before it opens a page of its own.
    fn has_room(&self, head: &Head, targets: &[u8]) -> bool {
        let later =
            self.page.as_ref().is_none_or(|page| page.accepted_wall_ms <= head.accepted_wall_ms);
        later && self.bytes + self.growth(head, targets) <= VALUE_BYTES_MAX
    }

    /// How many bytes the head can add to the page, counted high.
    fn growth(&self, head: &Head, targets: &[u8]) -> usize {
        let text =
            |text: &str| if self.text_places.contains_key(text) { 0 } else { text.len() + 5 };
        let set = if self.place_of(&head.targets, targets).is_some() {
            0
        } else {
            targets.len().min(INLINE_BYTES_MAX) + 24
        };
        let waba = head.waba.as_deref().map_or(0, text);
        HEAD_BYTES_MAX + text(&head.account) + text(head.kind.as_str()) + waba + set
    }

    fn add(&mut self, head: &Head, targets: &[u8], stream: &mut Stream) -> Result<()> {
        let growth = self.growth(head, targets);
        let mut page = self.page.take().unwrap_or_else(|| {
            self.bytes = FIXED_BYTES;
            PageV1 {
                unit: 0,
                unit_pages: 0,
                first_sequence: head.sequence,
                first_payload_page: head.payload.page,
                accepted_wall_ms: head.accepted_wall_ms,
                texts: Vec::new(),
                targets: Vec::new(),
                heads: Vec::new(),
            }
        });
        let from = |base: u64, n: u64| {
            let offset = n.checked_sub(base).and_then(|offset| u32::try_from(offset).ok());
            offset.ok_or_else(|| damaged(head.sequence, "it lies too far from its page".to_owned()))
        };
        let packed = HeadV1 {
            sequence: from(page.first_sequence, head.sequence)?,
            accepted_ms: head.accepted_wall_ms.saturating_sub(page.accepted_wall_ms),
            account: self.text_place(&mut page, &head.account),
            kind: self.text_place(&mut page, head.kind.as_str()),
            waba: head.waba.as_deref().map_or(0, |waba| self.text_place(&mut page, waba) + 1),
            number: head.number.map_or(0, WabaNumber::digits),
            key_hash: head.key_hash,
            targets: self.target_place(&mut page, &head.targets, targets, stream),
            payload_page: from(page.first_payload_page, head.payload.page)?,
            payload_offset: head.payload.offset,
            payload_length: head.payload.length,
        };
        page.heads.push(packed);
        self.bytes += growth;
        self.page = Some(page);
        Ok(())
    }

    fn text_place(&mut self, page: &mut PageV1, text: &str) -> u16 {
        if let Some(place) = self.text_places.get(text) {
            return *place;
        }
        // A page of 7 KiB holds far fewer texts than a u16 counts.
        let place = u16::try_from(page.texts.len()).unwrap_or(u16::MAX);
        page.texts.push(text.to_owned());
        self.text_places.insert(text.to_owned(), place);
        place
    }

    /// The place of a set that is in the page already.
    fn place_of(&self, set: &Arc<RoaringBitmap>, targets: &[u8]) -> Option<u32> {
        let last = self.last.as_ref().filter(|(last, _)| Arc::ptr_eq(last, set));
        last.map(|(_, place)| place).or_else(|| self.target_places.get(targets)).copied()
    }

    fn target_place(
        &mut self,
        page: &mut PageV1,
        set: &Arc<RoaringBitmap>,
        targets: &[u8],
        stream: &mut Stream,
    ) -> u32 {
        let known = self.place_of(set, targets);
        let place = known.unwrap_or_else(|| {
            let place = u32::try_from(page.targets.len()).unwrap_or(u32::MAX);
            page.targets.push(if targets.len() > INLINE_BYTES_MAX {
                TargetsV1::Stored(stream.append(targets))
            } else {
                TargetsV1::Inline(targets.to_vec())
            });
            self.target_places.insert(targets.to_vec(), place);
            place
        });
        self.last = Some((Arc::clone(set), place));
        place
    }
}

/// What a head page says together: the unit it belongs to, and its events by whom they are for.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) unit: u64,
    pub(super) unit_pages: u32,
    /// The sequences of the events that have the same targets, and those targets.
    pub(super) events: Vec<(RoaringTreemap, Arc<RoaringBitmap>)>,
    /// The hash of the key of each event that has one and is for somebody who needs it.
    pub(super) keyed: Vec<(u64, u64, Arc<RoaringBitmap>)>,
    pub(super) payload_bytes: u64,
}

/// The head of an event that lies in this generation.
pub(super) fn find(database: &dyn Database, catalogue: &Catalogue, sequence: u64) -> Result<Head> {
    let missing = || Error::Damaged {
        record: format!("head of event {sequence}"),
        why: "it is missing".to_owned(),
    };
    let page = page_around(database, sequence)?.ok_or_else(missing)?;
    let first_sequence = page.first_sequence;
    // A page holds hundreds of heads, and the one is read for every delivery out of a backlog.
    let packed = page.heads.iter().find(|head| page.sequence_of(head) == sequence);
    let packed = packed.ok_or_else(missing)?;
    let nowhere = || points_nowhere(first_sequence);
    let set = page.targets.get(packed.targets as usize).ok_or_else(nowhere)?;
    let targets = target_set(database, first_sequence, set)?;
    let kind = page.texts.get(usize::from(packed.kind)).ok_or_else(nowhere)?;
    let kind = catalogue.canonical(kind).map_err(|_| nowhere())?;
    expand(&page, packed, kind, targets).ok_or_else(nowhere)
}

/// The hash of the key of every event in the page that would hold `sequence`; none when there is no
/// such page.
pub(super) fn key_hashes(database: &dyn Database, sequence: u64) -> Result<Vec<(u64, u64)>> {
    let Some(page) = page_around(database, sequence)? else { return Ok(Vec::new()) };
    Ok(page.heads.iter().map(|head| (page.sequence_of(head), head.key_hash)).collect())
}

/// The page that would hold the head of an event; none when there is no such page.
fn page_around(database: &dyn Database, sequence: u64) -> Result<Option<PageV1>> {
    let found = database.last(keys::HEADS, &keys::numbered(keys::HEADS, sequence));
    let found = found.map_err(|failure| Error::store("reading a head page", failure))?;
    let Some((key, sealed)) = found else { return Ok(None) };
    let Some(first_sequence) = keys::number_of(&key) else { return Ok(None) };
    decode(first_sequence, &sealed).map(Some)
}

/// Reads a head page, which is done for every page there is when an engine is opened. Each head is
/// checked as [`find`] would, and none is built. The keys
/// are of events that are for any of `ordered`.
pub(super) fn read(
    database: &dyn Database,
    catalogue: &Catalogue,
    ordered: &RoaringBitmap,
    first_sequence: u64,
    sealed: &[u8],
) -> Result<Page> {
    let page = decode(first_sequence, sealed)?;
    let sets = page.targets.iter().map(|set| target_set(database, first_sequence, set));
    let mut events: Vec<_> =
        sets.map(|set| Ok((RoaringTreemap::new(), set?))).collect::<Result<_>>()?;
    let are_kinds: Vec<bool> =
        page.texts.iter().map(|text| catalogue.canonical(text).is_ok()).collect();
    let is_text = |place: u16| usize::from(place) < page.texts.len();
    let (mut payload_bytes, mut keyed) = (0, Vec::new());
    for head in &page.heads {
        let is_kind = are_kinds.get(usize::from(head.kind)).is_some_and(|is_kind| *is_kind);
        let is_waba = head.waba.checked_sub(1).is_none_or(is_text);
        let set = events.get_mut(head.targets as usize);
        let (sequences, targets) = set
            .filter(|_| is_kind && is_waba && is_text(head.account))
            .ok_or_else(|| points_nowhere(first_sequence))?;
        sequences.insert(page.sequence_of(head));
        if head.key_hash != 0 && !targets.is_disjoint(ordered) {
            keyed.push((page.sequence_of(head), head.key_hash, Arc::clone(targets)));
        }
        payload_bytes += u64::from(head.payload_length);
    }
    Ok(Page { unit: page.unit, unit_pages: page.unit_pages, events, keyed, payload_bytes })
}

fn decode(first_sequence: u64, sealed: &[u8]) -> Result<PageV1> {
    record::decode(VERSION, sealed).map_err(|why| damaged(first_sequence, why))
}

fn points_nowhere(first_sequence: u64) -> Error {
    damaged(first_sequence, "a head in it points nowhere".to_owned())
}

fn target_set(
    database: &dyn Database,
    first_sequence: u64,
    set: &TargetsV1,
) -> Result<Arc<RoaringBitmap>> {
    let read_back;
    let bytes = match set {
        TargetsV1::Inline(bytes) => bytes,
        TargetsV1::Stored(location) => {
            read_back = page::read(database, *location)?;
            &read_back
        }
    };
    RoaringBitmap::deserialize_from(bytes.as_slice())
        .map(Arc::new)
        .map_err(|error| damaged(first_sequence, format!("its targets cannot be read: {error}")))
}

fn expand(
    page: &PageV1,
    head: &HeadV1,
    kind: EventType,
    targets: Arc<RoaringBitmap>,
) -> Option<Head> {
    let text = |place: u16| page.texts.get(usize::from(place));
    Some(Head {
        sequence: page.sequence_of(head),
        accepted_wall_ms: page.accepted_wall_ms + head.accepted_ms,
        account: text(head.account)?.as_str().into(),
        kind,
        number: WabaNumber::from_digits(head.number),
        waba: match head.waba.checked_sub(1) {
            Some(place) => Some(text(place)?.clone()),
            None => None,
        },
        key_hash: head.key_hash,
        targets,
        payload: Location {
            page: page.first_payload_page + u64::from(head.payload_page),
            offset: head.payload_offset,
            length: head.payload_length,
        },
    })
}

fn portable(targets: &RoaringBitmap) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(targets.serialized_size());
    targets
        .serialize_into(&mut bytes)
        .map_err(|error| Error::Damaged { record: "targets".to_owned(), why: error.to_string() })?;
    Ok(bytes)
}

fn damaged(first_sequence: u64, why: String) -> Error {
    Error::Damaged { record: format!("head page {first_sequence}"), why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Batch, Memory, Store};

    fn head(sequence: u64, targets: impl IntoIterator<Item = u32>) -> Head {
        Head {
            sequence,
            accepted_wall_ms: 1_700_000_000_000,
            account: "acme".into(),
            kind: Catalogue::default().canonical("MESSAGE_RECEIVED").unwrap(),
            number: "919999999999".parse().ok().filter(|_| !sequence.is_multiple_of(3)),
            waba: sequence.is_multiple_of(2).then(|| format!("waba-{}", sequence % 7)),
            key_hash: sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            targets: Arc::new(targets.into_iter().collect()),
            payload: Location { page: 10 + sequence, offset: 5, length: 100 },
        }
    }

    /// Packs, stores and reads back: every head is found as it was, and all pages together have the
    /// same events for the same targets.
    fn check(heads: &[Head]) -> (Arc<dyn Database>, Vec<Page>) {
        let database = Memory::default().open("one").unwrap();
        let mut stream = Stream::new(1_000_000);
        let mut packer = Packer::default();
        heads.iter().for_each(|head| packer.add(head, &mut stream).unwrap());
        let mut read_back = Vec::new();
        let pages = packer.into_pages(77).unwrap();
        for (key, value) in stream.into_pages().0.into_iter().chain(pages.clone()) {
            let mut batch = Batch::default();
            batch.put(key, value);
            database.apply(batch).unwrap();
        }
        for (key, sealed) in pages {
            let first = keys::number_of(&key).unwrap();
            read_back.push(
                read(&*database, &Catalogue::default(), &RoaringBitmap::new(), first, &sealed)
                    .unwrap(),
            );
        }
        let mut events: Vec<(u64, &Arc<RoaringBitmap>)> = Vec::new();
        for (sequences, targets) in read_back.iter().flat_map(|page: &Page| &page.events) {
            events.extend(sequences.iter().map(|sequence| (sequence, targets)));
        }
        events.sort_by_key(|(sequence, _)| *sequence);
        let expected: Vec<_> = heads.iter().map(|head| (head.sequence, &head.targets)).collect();
        assert_eq!(events, expected);
        let payload_bytes: u64 = read_back.iter().map(|page| page.payload_bytes).sum();
        assert_eq!(payload_bytes, 100 * heads.len() as u64);
        for head in heads {
            let found = find(&*database, &Catalogue::default(), head.sequence).unwrap();
            assert_eq!(&found, head);
        }
        (database, read_back)
    }

    #[test]
    fn heads_read_back_as_they_were_over_many_pages() {
        let heads: Vec<Head> = (1..2_000_u32).map(|n| head(n.into(), [1, 5, n % 40 + 7])).collect();
        let (_, pages) = check(&heads);
        assert!(pages.len() > 5, "{} pages", pages.len());
        for page in &pages {
            assert_eq!((page.unit, page.unit_pages as usize), (77, pages.len()));
        }
    }

    #[test]
    fn heads_with_targets_of_their_own_are_found_and_a_gap_is_named() {
        let heads: Vec<Head> = (1..500_u32)
            .map(|n| head(u64::from(n) * 2, (0..n * 10).map(|id| id * 11 + n)))
            .collect();
        let (database, _) = check(&heads);
        let error = find(&*database, &Catalogue::default(), 301).unwrap_err().to_string();
        assert!(error.contains("head of event 301"), "{error}");
    }

    #[test]
    fn ten_thousand_scattered_targets_do_not_outgrow_a_page() {
        let heads: Vec<Head> =
            (1..50_u32).map(|n| head(n.into(), (0..10_000).map(|id| id * 11 + n))).collect();
        check(&heads);
    }

    #[test]
    fn long_names_cut_a_page_and_do_not_outgrow_it() {
        let heads: Vec<Head> = (1..300_u32)
            .map(|n| Head {
                account: format!("{n}{}", "a".repeat(120)).into(),
                ..head(n.into(), [n])
            })
            .collect();
        check(&heads);
    }

    #[test]
    fn heads_that_share_a_set_read_back_as_those_with_a_set_of_their_own() {
        let sets: Vec<_> = [vec![1, 2], (0..2_000).map(|id| id * 9).collect(), vec![3]]
            .into_iter()
            .map(|ids: Vec<u32>| Arc::new(ids.into_iter().collect::<RoaringBitmap>()))
            .collect();
        let five_each = sets.iter().cycle().flat_map(|set| std::iter::repeat_n(set, 5));
        let shared: Vec<Head> = (1..900)
            .zip(five_each)
            .map(|(n, set)| Head { targets: Arc::clone(set), ..head(n, []) })
            .collect();
        let own: Vec<Head> = shared
            .iter()
            .map(|head| Head { targets: Arc::new((*head.targets).clone()), ..head.clone() })
            .collect();
        check(&shared);
        check(&own);
    }

    #[test]
    fn a_damaged_page_is_named() {
        let mut packer = Packer::default();
        packer.add(&head(77, [1]), &mut Stream::new(1)).unwrap();
        let (_, mut sealed) = packer.into_pages(9).unwrap().remove(0);
        sealed[20] ^= 1;
        let database = Memory::default().open("one").unwrap();
        let error = read(&*database, &Catalogue::default(), &RoaringBitmap::new(), 77, &sealed)
            .unwrap_err();
        assert!(error.to_string().contains("head page 77"), "{error}");
    }

    #[test]
    fn a_head_that_points_nowhere_is_damage_to_whoever_reads_it() {
        type Change = fn(&mut HeadV1);
        let changes: [Change; 4] = [
            |head| head.account = 9,
            |head| head.kind = 9,
            |head| head.waba = 9,
            |head| head.targets = 9,
        ];
        for change in changes {
            let database = Memory::default().open("one").unwrap();
            let mut packer = Packer::default();
            packer.add(&head(2, [1]), &mut Stream::new(1)).unwrap();
            packer.open.page.iter_mut().flat_map(|page| &mut page.heads).for_each(change);
            let (key, sealed) = packer.into_pages(9).unwrap().remove(0);
            let mut batch = Batch::default();
            batch.put(key, sealed.clone());
            database.apply(batch).unwrap();
            let catalogue = Catalogue::default();
            let errors = [
                read(&*database, &catalogue, &RoaringBitmap::new(), 2, &sealed).unwrap_err(),
                find(&*database, &catalogue, 2).unwrap_err(),
            ];
            for error in errors {
                assert!(error.to_string().contains("points nowhere"), "{error}");
            }
        }
    }

    #[test]
    fn the_bytes_of_a_page_are_frozen() {
        let mut packer = Packer::default();
        packer.add(&head(5, [3]), &mut Stream::new(1)).unwrap();
        let (key, sealed) = packer.into_pages(9).unwrap().remove(0);
        assert_eq!(key, b"h\0\0\0\0\0\0\0\x05");
        let hex: String = sealed.iter().map(|byte| format!("{byte:02x}")).collect();
        let golden = "016bb17ffe0901050ffd0068e5cf8b010000020461636d65104d4553534147455f5245\
                      4345495645440100123a3000000100000000000000100000000300010000000100fdff\
                      ef4534d6000000fd696c747c9f60151700000564";
        assert_eq!(hex, golden);
    }
}
