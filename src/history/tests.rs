//! What is written is found by each of its keys, also after a restart, until it ends by age, by size or by a purge.

use std::fs;
use std::path::Path;

use super::segments::Segments;
use super::*;
use crate::attempt::Reason;
use crate::clock::ManualClock;
use crate::event::{StoredEvent, WabaNumber};
use crate::subscription::SubscriptionId;

const BOUNDS: HistoryBounds = HistoryBounds { bytes_max: 1 << 30, age_max_ms: 86_400_000 };
const DAY_MS: u64 = 86_400_000;
const NOW_MS: u64 = 1_700_000_000_000;

fn accepted(sequence: u64, contact: u64, at_ms: u64) -> HistoryEvent {
    let event = StoredEvent {
        id: EventId::new(7, sequence),
        number: WabaNumber::from_digits(919_000_000_001),
        key_hash: contact,
        accepted_at_ms: at_ms,
        payload: format!("{{\"id\":\"wamid.{sequence:06}\"}}").into_bytes(),
        ..StoredEvent::example()
    };
    let dedup = dedup_hash(&format!("wamid.{sequence:06}"));
    let hashes = HistoryHashes { dedup, contact_number: 0 };
    HistoryEvent { event: Arc::new(event), targets: [SubscriptionId(3)].into(), hashes }
}

fn entry(sequence: u64, contact: u64, at_ms: u64) -> HistoryEntry {
    HistoryEntry::Accepted((&accepted(sequence, contact, at_ms)).into())
}

fn attempt(sequence: u64, at_ms: u64) -> HistoryEntry {
    let step = DeliveryStep::Attempt(AttemptEntry {
        number: 1,
        at_ms,
        took_ms: 12,
        status: Some(404),
        reason: Some(Reason::Status(404)),
        will_retry: false,
        excerpt: b"no wamid.secret here".to_vec(),
    });
    HistoryEntry::delivery(EventId::new(7, sequence), SubscriptionId(3), step)
}

fn found(segments: &Segments, query: HistoryQuery) -> Vec<u64> {
    let found = segments.find(&query, None, 100, 10_000).unwrap();
    assert_eq!(found.next, None);
    found.entries.iter().map(|(_, entry)| entry.id().sequence()).collect()
}

fn open(directory: &Path) -> Segments {
    Segments::open(directory, BOUNDS).unwrap()
}

fn check_queries(segments: &Segments) {
    let query = HistoryQuery::default;
    assert_eq!(found(segments, query()), [3, 2, 1]);
    assert_eq!(
        found(segments, HistoryQuery { accounts: Some(vec!["acme".into()]), ..query() }),
        [3, 2, 1]
    );
    assert_eq!(
        found(segments, HistoryQuery { accounts: Some(vec!["beta".into()]), ..query() }),
        [0; 0]
    );
    assert_eq!(found(segments, HistoryQuery { key_hash: Some(50), ..query() }), [3, 1]);
    let number = WabaNumber::from_digits(919_000_000_001);
    assert_eq!(found(segments, HistoryQuery { number, ..query() }), [3, 2, 1]);
    let message_id = Some("wamid.000002".to_owned());
    assert_eq!(found(segments, HistoryQuery { message_id, ..query() }), [2]);
    let dedup_hash = Some(dedup_hash("wamid.000001"));
    assert_eq!(found(segments, HistoryQuery { dedup_hash, ..query() }), [1]);
    assert_eq!(
        found(segments, HistoryQuery { event_type: Some("received".into()), ..query() }),
        [3, 2, 1]
    );
    assert_eq!(found(segments, HistoryQuery { since_ms: Some(NOW_MS + 2), ..query() }), [3, 2]);
    let of_second = segments.entries_of(EventId::new(7, 2)).unwrap();
    assert_eq!(of_second, [entry(2, 51, NOW_MS + 2), attempt(2, NOW_MS + 4)]);
    assert_eq!(segments.entries_of(EventId::new(8, 2)).unwrap(), Vec::new());
    assert!(segments.has_accepted(EventId::new(7, 3), NOW_MS + 3).unwrap());
}

#[test]
fn entries_are_found_by_each_key_also_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let segments = open(directory.path());
    let first = [entry(1, 50, NOW_MS + 1), entry(2, 51, NOW_MS + 2), entry(3, 50, NOW_MS + 3)];
    segments.append(&first, NOW_MS).unwrap();
    segments.append(&[attempt(2, NOW_MS + 4)], NOW_MS).unwrap();
    check_queries(&segments);
    drop(segments);
    // Killed: the segment has no index, and its end is cut off.
    let log = directory.path().join("000000000001.log");
    let mut bytes = fs::read(&log).unwrap();
    bytes.extend_from_slice(&[200, 0, 0, 0, 1, 2]);
    fs::write(&log, bytes).unwrap();
    check_queries(&open(directory.path()));
    // A damaged index is built again.
    fs::write(directory.path().join("000000000001.idx"), b"damaged").unwrap();
    check_queries(&open(directory.path()));
    check_queries(&open(directory.path()));
}

#[test]
fn a_search_has_pages_and_reads_a_bounded_number() {
    let directory = tempfile::tempdir().unwrap();
    let bounds = HistoryBounds { bytes_max: 16 * 4_000, ..BOUNDS };
    let segments = Segments::open(directory.path(), bounds).unwrap();
    for sequence in 1..=100 {
        segments.append(&[entry(sequence, sequence % 2 + 1, NOW_MS)], NOW_MS).unwrap();
    }
    assert!(segment::used_numbers(directory.path()).unwrap().len() > 2);
    for read_max in [7, 1_000] {
        let (mut before, mut sequences) = (None, Vec::new());
        loop {
            let query = HistoryQuery { key_hash: Some(1), ..HistoryQuery::default() };
            let page = segments.find(&query, before, 9, read_max).unwrap();
            assert!(page.entries.len() <= 9);
            sequences.extend(page.entries.iter().map(|(_, entry)| entry.id().sequence()));
            before = page.next;
            if before.is_none() {
                break;
            }
        }
        assert_eq!(sequences, (1..=50).rev().map(|half| half * 2).collect::<Vec<u64>>());
    }
}

/// Two accounts talk to the same contact by one number, and one of them much more.
#[test]
fn a_search_of_an_account_reads_its_own_entries_alone() {
    let directory = tempfile::tempdir().unwrap();
    let bounds = HistoryBounds { bytes_max: 16 * 4_000, ..BOUNDS };
    let segments = Segments::open(directory.path(), bounds).unwrap();
    let append = |account: &str, sequence| {
        let mut entry = AcceptedEntry::from(&accepted(sequence, 1, NOW_MS));
        entry.account = account.to_owned();
        segments.append(&[HistoryEntry::Accepted(entry)], NOW_MS).unwrap();
    };
    append("beta", 1);
    (2..=200).for_each(|sequence| append("acme", sequence));
    assert!(segment::used_numbers(directory.path()).unwrap().len() > 2);
    let number = WabaNumber::from_digits(919_000_000_001);
    for query in [
        HistoryQuery { key_hash: Some(1), ..HistoryQuery::default() },
        HistoryQuery { number, ..HistoryQuery::default() },
        HistoryQuery::default(),
    ] {
        let of_all = segments.find(&query, None, 1_000, 1_000).unwrap();
        assert!(of_all.entries.len() > 100 && of_all.next.is_none(), "{query:?}");
        let of_beta = HistoryQuery { accounts: Some(vec!["beta".into()]), ..query };
        let page = segments.find(&of_beta, None, 9, 1).unwrap();
        assert_eq!((page.entries.len(), page.next), (1, None), "{of_beta:?}");
    }
}

#[test]
fn the_oldest_end_by_size_and_by_age() {
    let directory = tempfile::tempdir().unwrap();
    let bounds = HistoryBounds { bytes_max: 64_000, age_max_ms: DAY_MS };
    let segments = Segments::open(directory.path(), bounds).unwrap();
    for sequence in 1..=1_000 {
        segments.append(&[entry(sequence, 0, NOW_MS + sequence)], NOW_MS + sequence).unwrap();
        assert!(segments.bytes() <= 64_000, "{}", segments.bytes());
    }
    let kept = segments.find(&HistoryQuery::default(), None, 1_000, 1_000).unwrap().entries;
    assert!(kept.len() > 50 && kept.len() < 900, "{}", kept.len());
    assert_eq!(kept[0].1.id().sequence(), 1_000);
    // The open segment is completed by its age, and removed with the others.
    segments.append(&[entry(1_001, 0, NOW_MS + DAY_MS)], NOW_MS + DAY_MS).unwrap();
    segments.trim(NOW_MS + 3 * DAY_MS).unwrap();
    let kept = segments.find(&HistoryQuery::default(), None, 1_000, 1_000).unwrap().entries;
    assert_eq!(kept.len(), 0, "{kept:?}");
}

#[test]
fn a_purge_erases_the_bytes_of_a_contact_and_of_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(NOW_MS, 7));
    let history = History::open(directory.path(), BOUNDS, clock).unwrap();
    history.accepted(vec![accepted(1, 50, NOW_MS), accepted(2, 51, NOW_MS)], Vec::new());
    history.record(vec![attempt(1, NOW_MS)]);
    let query = || HistoryQuery { key_hash: Some(50), ..HistoryQuery::default() };
    assert_eq!(history.purge(query()).unwrap(), 1);
    assert_eq!(history.purge(query()).unwrap(), 0);
    assert_eq!(history.entries_of(EventId::new(7, 1)).unwrap(), Vec::new());
    assert_eq!(history.entries_of(EventId::new(7, 2)).unwrap(), [entry(2, 51, NOW_MS)]);
    history.close();
    assert_eq!(history.dropped(), 0);
    let bytes = fs::read(directory.path().join("000000000001.log")).unwrap();
    let has = |text: &[u8]| bytes.windows(text.len()).any(|part| part == text);
    assert!(has(b"wamid.000002") && !has(b"wamid.000001") && !has(b"wamid.secret"));
    let again =
        History::open(directory.path(), BOUNDS, Arc::new(ManualClock::new(NOW_MS, 7))).unwrap();
    assert_eq!(again.entries_of(EventId::new(7, 1)).unwrap(), Vec::new());
    assert!(again.has_accepted(EventId::new(7, 2), NOW_MS).unwrap());
    again.close();
}

#[test]
fn what_does_not_fit_into_the_queue_is_dropped_and_counted() {
    let directory = tempfile::tempdir().unwrap();
    let history =
        History::open(directory.path(), BOUNDS, Arc::new(ManualClock::new(NOW_MS, 7))).unwrap();
    history.close();
    history.record(vec![attempt(1, NOW_MS), attempt(2, NOW_MS)]);
    history.accepted(vec![accepted(1, 50, NOW_MS)], Vec::new());
    assert_eq!(history.dropped(), 3);
    assert!(history.purge(HistoryQuery::default()).is_err());
}

/// The stored bytes of an entry of version 2.
#[test]
fn the_stored_layout_does_not_change() {
    let shown: Vec<String> =
        attempt(9, 5).encode().unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(shown.concat(), GOLDEN);
}

const GOLDEN: &str =
    "022dba7493020709030001050c01fb94010100fb940100146e6f2077616d69642e7365637265742068657265";
