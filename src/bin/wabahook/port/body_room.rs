//! The memory for request bodies that are being read. Each room has a bound in bytes and a bound for each holder:
//! an account, or the network of a stranger. A room for strangers makes space for a new body by cutting the
//! oldest unfinished body of the network that holds most, so unfinished bodies keep no finished one out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::connections::network_of;

/// Memory is reserved in steps of this many bytes.
const STEP: usize = 16 * 1024;

/// Whose body it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum BodyHolder {
    Account(String),
    /// The network of a sender that is not authenticated yet.
    Stranger(IpAddr),
}

impl fmt::Display for BodyHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BodyHolder::Account(account) => write!(f, "account {account}"),
            BodyHolder::Stranger(network) => network.fmt(f),
        }
    }
}

impl BodyHolder {
    pub(crate) fn stranger(address: IpAddr) -> BodyHolder {
        BodyHolder::Stranger(network_of(address))
    }
}

/// What a full room does with a body that grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenFull {
    Refuse,
    /// Cuts an unfinished body to make space.
    Cut,
}

/// The bodies being read, and their memory.
#[derive(Clone)]
pub(crate) struct BodyRoom(Arc<Mutex<RoomTable>>);

/// The memory of one body, until it is dropped.
pub(crate) struct BodyShare {
    room: BodyRoom,
    id: u64,
    reserved: usize,
    cut: Arc<Notify>,
}

/// Every step takes about the same time however many bodies are open: a crowd of them must not delay the others,
/// who wait for the same lock.
struct RoomTable {
    bytes_max: usize,
    holder_bytes_max: usize,
    when_full: WhenFull,
    next_id: u64,
    bytes: usize,
    bodies: HashMap<u64, HeldBody>,
    holders: BTreeMap<BodyHolder, HolderBodies>,
    /// The holders of unfinished bodies, by the memory of these.
    heaviest: BTreeSet<(usize, BodyHolder)>,
}

/// The bodies of one holder.
#[derive(Default)]
struct HolderBodies {
    count: usize,
    bytes: usize,
    unfinished_bytes: usize,
    /// Those that are unfinished and have memory, by id and so by age.
    unfinished: BTreeSet<u64>,
}

struct HeldBody {
    holder: BodyHolder,
    bytes: usize,
    is_whole: bool,
    cut: Arc<Notify>,
}

impl BodyRoom {
    pub(crate) fn new(bytes_max: usize, holder_bytes_max: usize, when_full: WhenFull) -> BodyRoom {
        let table = RoomTable {
            bytes_max,
            holder_bytes_max,
            when_full,
            next_id: 0,
            bytes: 0,
            bodies: HashMap::new(),
            holders: BTreeMap::new(),
            heaviest: BTreeSet::new(),
        };
        BodyRoom(Arc::new(Mutex::new(table)))
    }

    /// A share without memory yet.
    pub(crate) fn open(&self, holder: BodyHolder) -> BodyShare {
        let cut = Arc::new(Notify::new());
        let body = HeldBody { holder, bytes: 0, is_whole: false, cut: Arc::clone(&cut) };
        let mut table = self.0.lock();
        let id = table.next_id;
        table.next_id += 1;
        table.insert(id, body);
        BodyShare { room: self.clone(), id, reserved: 0, cut }
    }
}

impl BodyShare {
    /// Whether there is memory for a body of so many bytes.
    pub(crate) fn grow_to(&mut self, bytes: usize) -> bool {
        if bytes <= self.reserved {
            return true;
        }
        let wanted = bytes.next_multiple_of(STEP);
        let has_grown = self.room.0.lock().grow(self.id, wanted - self.reserved);
        if has_grown {
            self.reserved = wanted;
        }
        has_grown
    }

    /// The body is complete, so it can no longer be cut.
    pub(crate) fn finish(&self) {
        self.room.0.lock().change(self.id, |body| body.is_whole = true);
    }

    /// Resolves when the body was cut for another one.
    pub(crate) async fn cut(&self) {
        self.cut.notified().await;
    }
}

impl Drop for BodyShare {
    fn drop(&mut self) {
        self.room.0.lock().remove(self.id);
    }
}

impl RoomTable {
    fn grow(&mut self, id: u64, more: usize) -> bool {
        let Some(holder) = self.bodies.get(&id).map(|body| body.holder.clone()) else {
            return false;
        };
        while self.held_by(&holder) + more > self.holder_bytes_max {
            if !self.cut_one(id, &holder) {
                return false;
            }
        }
        while self.bytes + more > self.bytes_max {
            let heaviest = self.heaviest.last().map(|(_, holder)| holder.clone());
            if !heaviest.is_some_and(|heaviest| self.cut_one(id, &heaviest)) {
                return false;
            }
        }
        self.change(id, |body| body.bytes += more)
    }

    fn held_by(&self, holder: &BodyHolder) -> usize {
        self.holders.get(holder).map_or(0, |own| own.bytes)
    }

    /// Cuts the oldest unfinished body of a holder that holds memory. `growing` is not cut for itself.
    fn cut_one(&mut self, growing: u64, holder: &BodyHolder) -> bool {
        if self.when_full == WhenFull::Refuse {
            return false;
        }
        let own = self.holders.get(holder);
        let oldest = own.and_then(|own| own.unfinished.iter().find(|id| **id != growing).copied());
        let Some(body) = oldest.and_then(|id| self.remove(id)) else { return false };
        body.cut.notify_one();
        true
    }

    /// Changes a body. Returns whether it is there.
    fn change(&mut self, id: u64, change: impl FnOnce(&mut HeldBody)) -> bool {
        let Some(mut body) = self.remove(id) else { return false };
        change(&mut body);
        self.insert(id, body);
        true
    }

    fn insert(&mut self, id: u64, body: HeldBody) {
        self.bytes += body.bytes;
        let own = self.holders.entry(body.holder.clone()).or_default();
        own.count += 1;
        own.bytes += body.bytes;
        if body.is_unfinished() {
            self.heaviest.remove(&(own.unfinished_bytes, body.holder.clone()));
            own.unfinished.insert(id);
            own.unfinished_bytes += body.bytes;
            self.heaviest.insert((own.unfinished_bytes, body.holder.clone()));
        }
        self.bodies.insert(id, body);
    }

    fn remove(&mut self, id: u64) -> Option<HeldBody> {
        let body = self.bodies.remove(&id)?;
        self.bytes -= body.bytes;
        let own = self.holders.get_mut(&body.holder)?;
        own.count -= 1;
        own.bytes -= body.bytes;
        if own.unfinished.remove(&id) {
            self.heaviest.remove(&(own.unfinished_bytes, body.holder.clone()));
            own.unfinished_bytes -= body.bytes;
            if own.unfinished_bytes > 0 {
                self.heaviest.insert((own.unfinished_bytes, body.holder.clone()));
            }
        }
        if own.count == 0 {
            self.holders.remove(&body.holder);
        }
        Some(body)
    }
}

impl HeldBody {
    fn is_unfinished(&self) -> bool {
        !self.is_whole && self.bytes > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 8 * STEP;

    fn stranger(host: u8) -> BodyHolder {
        BodyHolder::Stranger(IpAddr::from([192, 0, 2, host]))
    }

    fn held(room: &BodyRoom) -> usize {
        room.0.lock().bytes
    }

    fn is_held(share: &BodyShare) -> bool {
        share.room.0.lock().bodies.contains_key(&share.id)
    }

    #[test]
    fn bodies_share_memory_and_give_it_back() {
        let room = BodyRoom::new(MAX, MAX, WhenFull::Refuse);
        let mut first = room.open(BodyHolder::Account("acme".to_owned()));
        let mut second = room.open(BodyHolder::Account("beta".to_owned()));
        assert!(first.grow_to(1) && first.grow_to(STEP) && first.grow_to(6 * STEP));
        assert_eq!(held(&room), 6 * STEP);
        assert!(second.grow_to(2 * STEP));
        assert!(!second.grow_to(2 * STEP + 1) && is_held(&first));
        drop(first);
        assert!(second.grow_to(MAX));
        drop(second);
        assert_eq!(held(&room), 0);
        let table = room.0.lock();
        assert!(table.bodies.is_empty() && table.holders.is_empty() && table.heaviest.is_empty());
    }

    #[test]
    fn one_account_leaves_memory_to_the_others() {
        let room = BodyRoom::new(MAX, MAX / 2, WhenFull::Refuse);
        let open = |name: &str| room.open(BodyHolder::Account(name.to_owned()));
        let (mut one, mut other, mut beta) = (open("acme"), open("acme"), open("beta"));
        assert!(one.grow_to(MAX / 2) && !other.grow_to(1));
        assert!(beta.grow_to(MAX / 2));
    }

    #[test]
    fn the_oldest_unfinished_body_of_the_heaviest_network_is_cut() {
        let room = BodyRoom::new(MAX, MAX, WhenFull::Cut);
        let mut light = room.open(stranger(1));
        let mut heavy: Vec<_> = (0..3).map(|_| room.open(stranger(2))).collect();
        assert!(light.grow_to(STEP) && heavy.iter_mut().all(|body| body.grow_to(2 * STEP)));
        let mut new = room.open(stranger(3));
        assert!(new.grow_to(2 * STEP));
        assert!(is_held(&light) && !is_held(&heavy[0]) && is_held(&heavy[1]));
        assert!(!heavy[0].grow_to(3 * STEP), "a body that was cut takes nothing");
    }

    #[test]
    fn whole_bodies_are_never_cut() {
        let room = BodyRoom::new(MAX, MAX, WhenFull::Cut);
        let mut whole = room.open(stranger(1));
        assert!(whole.grow_to(MAX));
        whole.finish();
        let mut new = room.open(stranger(2));
        assert!(!new.grow_to(1) && is_held(&whole));
        drop(whole);
        assert!(new.grow_to(1));
    }

    #[test]
    fn seventy_four_unfinished_bodies_keep_nobody_out() {
        let room = BodyRoom::new(MAX, MAX, WhenFull::Cut);
        let mut crowd: Vec<_> = (0..74).map(|_| room.open(stranger(1))).collect();
        assert!(crowd.iter_mut().all(|body| body.grow_to(4 * STEP)));
        let mut meta = room.open(stranger(2));
        assert!(meta.grow_to(2 * STEP));
        meta.finish();
        assert!(crowd.iter().filter(|body| is_held(body)).count() <= 2);
        assert!(is_held(&meta) && held(&room) <= MAX);
    }
}
