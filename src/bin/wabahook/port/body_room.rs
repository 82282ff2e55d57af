//! The memory for request bodies that are being read. Each room has a bound in bytes and a bound for each holder:
//! an account, or the network of a stranger. A room for strangers makes space for a new body by cutting the
//! oldest unfinished body of the network that holds most, so unfinished bodies keep no finished one out.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::connections::network_of;

/// Memory is reserved in steps of this many bytes.
const STEP: usize = 16 * 1024;

/// Whose body it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
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

struct RoomTable {
    bytes_max: usize,
    holder_bytes_max: usize,
    when_full: WhenFull,
    next_id: u64,
    bytes: usize,
    /// By id, and so by age.
    bodies: BTreeMap<u64, HeldBody>,
}

struct HeldBody {
    holder: BodyHolder,
    bytes: usize,
    is_whole: bool,
    cut: Arc<Notify>,
}

impl BodyRoom {
    pub(crate) fn new(bytes_max: usize, holder_bytes_max: usize, when_full: WhenFull) -> BodyRoom {
        let bodies = BTreeMap::new();
        let (next_id, bytes) = (0, 0);
        let table = RoomTable { bytes_max, holder_bytes_max, when_full, next_id, bytes, bodies };
        BodyRoom(Arc::new(Mutex::new(table)))
    }

    /// A share without memory yet.
    pub(crate) fn open(&self, holder: BodyHolder) -> BodyShare {
        let cut = Arc::new(Notify::new());
        let body = HeldBody { holder, bytes: 0, is_whole: false, cut: Arc::clone(&cut) };
        let mut table = self.0.lock();
        let id = table.next_id;
        table.next_id += 1;
        table.bodies.insert(id, body);
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

    /// All of the body is there: it is not cut any more.
    pub(crate) fn finish(&self) {
        if let Some(body) = self.room.0.lock().bodies.get_mut(&self.id) {
            body.is_whole = true;
        }
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
            if !self.cut_one(id, |held| *held == holder) {
                return false;
            }
        }
        while self.bytes + more > self.bytes_max {
            let heaviest = self.heaviest_holder();
            if !self.cut_one(id, |held| heaviest.as_ref() == Some(held)) {
                return false;
            }
        }
        let Some(body) = self.bodies.get_mut(&id) else { return false };
        body.bytes += more;
        self.bytes += more;
        true
    }

    fn held_by(&self, holder: &BodyHolder) -> usize {
        let own = self.bodies.values().filter(|body| body.holder == *holder);
        own.map(|body| body.bytes).sum()
    }

    /// Of those with an unfinished body, the holder of most memory.
    fn heaviest_holder(&self) -> Option<BodyHolder> {
        let mut held = BTreeMap::<&BodyHolder, usize>::new();
        for body in self.bodies.values().filter(|body| !body.is_whole) {
            *held.entry(&body.holder).or_default() += body.bytes;
        }
        held.into_iter().max_by_key(|(_, bytes)| *bytes).map(|(holder, _)| holder.clone())
    }

    /// Cuts the oldest unfinished body that fits and holds memory. `growing` is not cut for itself.
    fn cut_one(&mut self, growing: u64, fits: impl Fn(&BodyHolder) -> bool) -> bool {
        if self.when_full == WhenFull::Refuse {
            return false;
        }
        let is_victim = |(id, body): &(&u64, &HeldBody)| {
            **id != growing && !body.is_whole && body.bytes > 0 && fits(&body.holder)
        };
        let Some(id) = self.bodies.iter().find(is_victim).map(|(id, _)| *id) else {
            return false;
        };
        if let Some(body) = self.remove(id) {
            body.cut.notify_one();
        }
        true
    }

    fn remove(&mut self, id: u64) -> Option<HeldBody> {
        let body = self.bodies.remove(&id)?;
        self.bytes -= body.bytes;
        Some(body)
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
