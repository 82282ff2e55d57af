//! What every event of the crash test looks like, which receivers it matches and what each answers, as
//! functions of the event's tag. A payload can be made again from its tag, so a receiver knows whether
//! it is complete.

use std::time::Duration;

use wabahook::policy::{Ordering, Policy, Retry};
use wabahook::{Event, Limits, Subscription};

/// Accepts everything at the first attempt.
pub const SOUND: &str = "sound";
/// Refuses half of the first attempts with 503 and accepts the second.
pub const SHAKY: &str = "shaky";
/// Refuses an eighth of the events with 404.
pub const REFUSING: &str = "refusing";
/// Fails 30 % of the attempts with 503, and gets the events of a key one after the other.
pub const ORDERED: &str = "ordered";
/// Matches few events and accepts none before the last check. What it is owed must outlive every kill
/// and every generation.
pub const BYSTANDER: &str = "bystander";

pub const HOSTS: [&str; 5] = [SOUND, SHAKY, REFUSING, ORDERED, BYSTANDER];

/// How many threads publish and replay.
pub const PUBLISHERS: u32 = 4;

/// How many events one call of `publish_many` has.
pub const MANY: u32 = 50;

const RARE: &str = "ADD_TAG";
const USUAL: &str = "MESSAGE_RECEIVED";

/// The tags of one call: `round.thread.number/size`, then `.place` for each of its events.
pub fn tags(call: &str) -> Vec<String> {
    (0..size(call)).map(|place| format!("{call}.{place}")).collect()
}

/// The call that published an event.
pub fn call(tag: &str) -> &str {
    tag.rsplit_once('.').unwrap().0
}

/// How many events a call has.
pub fn size(call: &str) -> u32 {
    call.rsplit_once('/').unwrap().1.parse().unwrap()
}

pub fn event(tag: &str) -> Event {
    let kind = if is_rare(tag) { RARE } else { USUAL };
    let event = Event::new(kind, payload(tag)).number("919999999999").key(key_and_place(tag).0);
    if has_key(tag) { event.dedup_key(tag) } else { event }
}

/// A fifth of the events published alone have a dedup key.
pub fn has_key(tag: &str) -> bool {
    size(call(tag)) == 1 && hash(tag).is_multiple_of(5)
}

/// The tag of a complete payload.
pub fn tag_of(body: &[u8]) -> Option<String> {
    let end = body.iter().position(|byte| *byte == b'\n')?;
    let tag = std::str::from_utf8(body.get(..end)?).ok()?;
    let (call, _) = tag.rsplit_once('.')?;
    call.rsplit_once('/')?.1.parse::<u32>().ok()?;
    (payload(tag) == body).then(|| tag.to_owned())
}

pub fn wants(host: &str, tag: &str) -> bool {
    match host {
        BYSTANDER => is_rare(tag),
        ORDERED => !is_rare(tag),
        _ => true,
    }
}

/// The key of an event, which is the thread that publishes it, and its place among the events of that key.
pub fn key_and_place(tag: &str) -> (String, [u32; 3]) {
    let numbers: Vec<u32> = tag.split(['.', '/']).map(|number| number.parse().unwrap()).collect();
    (numbers[1].to_string(), [numbers[0], numbers[2], numbers[4]])
}

/// What a receiver answers to an attempt. One that refused an event may accept its replay.
pub fn status(host: &str, tag: &str, attempt: u32, is_replayed: bool) -> u16 {
    match host {
        SHAKY if attempt == 1 && hash(tag).is_multiple_of(2) => 503,
        REFUSING if is_replayed && hash(tag) % 16 == 3 => 200,
        REFUSING if hash(tag) % 8 == 3 => 404,
        ORDERED if hash(&format!("{tag} {attempt}")) % 10 < 3 => 503,
        BYSTANDER => 503,
        _ => 200,
    }
}

/// Which publisher replays a dead letter, because no two may do so at once.
pub fn replayer(id: &str) -> u64 {
    hash(id) % u64::from(PUBLISHERS)
}

/// Whether a delivery needs no more attempts after this answer.
pub fn is_final(status: u16) -> bool {
    status != 503
}

pub fn subscription(host: &str) -> Subscription {
    let delay_ms = if host == BYSTANDER { 3_600_000 } else { 30 };
    let retry = Retry::List { delays: vec![Duration::from_millis(delay_ms)] };
    let subscription = Subscription::to(format!("https://{host}/hook")).unwrap();
    let ordering = if host == ORDERED { Ordering::PerKey } else { Ordering::None };
    let policy = Policy::default().retry(retry).ordering(ordering);
    let subscription = subscription.name(host).policy(policy);
    match host {
        BYSTANDER => subscription.events([RARE]),
        ORDERED => subscription.events([USUAL]),
        _ => subscription,
    }
}

/// Small generations, so that each run begins several and copies from old ones, and a small cache, so
/// that deliveries read from the device.
pub fn limits() -> Limits {
    // More than can die between listing a dead letter and replaying it.
    let dead_letters_max = 1_000;
    let (generation_bytes, cache_bytes_max) = (200_000, 256 * 1024);
    Limits::default()
        .generation_bytes(generation_bytes)
        .cache_bytes_max(cache_bytes_max)
        .dead_letters_max(dead_letters_max)
}

fn is_rare(tag: &str) -> bool {
    hash(tag) % 41 == 7
}

fn payload(tag: &str) -> Vec<u8> {
    let hash = hash(tag);
    let is_long = size(call(tag)) == 1 && hash % 4 == 1;
    let bytes = 100 + (hash >> 8) as usize % if is_long { 30_000 } else { 1_500 };
    let mut payload = format!("{tag}\n").into_bytes();
    let from = payload.len();
    payload.resize(from + bytes, 0);
    fastrand::Rng::with_seed(hash).fill(&mut payload[from..]);
    payload
}

/// FNV-1a with its halves folded, so that every residue is uniform.
fn hash(text: &str) -> u64 {
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, mix);
    (hash ^ (hash >> 29)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 3
}
