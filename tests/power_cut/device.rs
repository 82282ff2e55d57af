//! What a device holds after a power cut, in a pessimistic file system. A change of a file is durable
//! once an `fsync` or `fdatasync` of that file has ended that began after the change. A name is durable
//! once an `fsync` of its directory has ended.
//!
//! The model is stricter than ext4, xfs or btrfs, which also write the name of a new file that is
//! synced. Here a synced file in a directory that was not synced is lost. The length of a file is part
//! of its content. `sync_file_range` has no effect.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use crate::trace::{Call, Moment, Trace};

/// Which of the changes that were not synced have reached the device anyway.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Unsynced {
    /// None.
    Lost,
    /// Any of them, as devices and page caches write out of order: each page of each write at random
    /// by this seed, and names in order up to a random one.
    Torn(u64),
    /// All of them, as after a crash of the process.
    Kept,
}

/// How many bytes devices and page caches write at a time.
const PAGE_BYTES: usize = 4096;

#[derive(Debug, Clone, Copy)]
enum Change {
    /// The data of that call, at that offset.
    Write(usize, u64),
    Length(u64),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Entry {
    File(usize),
    Directory,
}

/// A change of the names in a directory.
#[derive(Debug, Clone)]
struct Naming {
    path: String,
    entry: Option<Entry>,
    /// The former name of a directory, with everything in it.
    was: Option<String>,
}

/// Changes that are not synced, after those that are.
#[derive(Debug)]
struct Unwritten<T> {
    synced: usize,
    changes: Vec<T>,
}

impl<T> Default for Unwritten<T> {
    fn default() -> Unwritten<T> {
        Unwritten { synced: 0, changes: Vec::new() }
    }
}

impl<T> Unwritten<T> {
    /// How many changes there were, including those that are synced.
    fn end(&self) -> usize {
        self.synced + self.changes.len()
    }

    /// Makes the changes up to that one durable. Another sync may have done so for some.
    fn take_to(&mut self, end: usize) -> impl Iterator<Item = T> + '_ {
        let count = end.saturating_sub(self.synced);
        self.synced += count;
        self.changes.drain(..count)
    }
}

#[derive(Debug, Default)]
struct File {
    durable: Vec<u8>,
    unsynced: Unwritten<Change>,
    length: u64,
}

struct Descriptor {
    entry: Entry,
    position: u64,
    appends: bool,
}

/// The device below one directory, changed by calls.
pub struct Device<'a> {
    trace: &'a Trace,
    root: String,
    files: Vec<File>,
    /// Names as the process sees them.
    seen: BTreeMap<String, Entry>,
    /// Names as the device holds them.
    durable: BTreeMap<String, Entry>,
    /// Names changed and not synced, by directory.
    namings: HashMap<String, Unwritten<Naming>>,
    descriptors: HashMap<u32, Descriptor>,
    /// For each sync in progress, up to which change it covers.
    covered: HashMap<usize, (Entry, usize)>,
}

impl<'a> Device<'a> {
    /// An empty device where only `root` is durable.
    pub fn new(trace: &'a Trace, root: &str) -> Device<'a> {
        Device {
            trace,
            root: root.to_owned(),
            files: Vec::new(),
            seen: BTreeMap::from([(root.to_owned(), Entry::Directory)]),
            durable: BTreeMap::new(),
            namings: HashMap::new(),
            descriptors: HashMap::new(),
            covered: HashMap::new(),
        }
    }

    /// Applies the next moment.
    pub fn meet(&mut self, moment: Moment) {
        match moment {
            Moment::Begins(call) => {
                if let Call::Sync { fd, path } = &self.trace.calls[call] {
                    let entry = self.descriptors[fd].entry;
                    let end = match entry {
                        Entry::File(file) => self.files[file].unsynced.end(),
                        Entry::Directory => self.namings.get(path).map_or(0, Unwritten::end),
                    };
                    self.covered.insert(call, (entry, end));
                }
            }
            Moment::Ends(call) => self.end(call),
        }
    }

    fn end(&mut self, number: usize) {
        let trace = self.trace;
        match &trace.calls[number] {
            Call::Open { path, fd, creates, empties, appends } => {
                self.open(path, *fd, *creates, *empties, *appends);
            }
            Call::Write { fd, offset, data } => {
                let descriptor = self.descriptors.get_mut(fd).expect("it is open");
                let Entry::File(file) = descriptor.entry else { panic!("a write to a directory") };
                let file = &mut self.files[file];
                let here = if descriptor.appends { file.length } else { descriptor.position };
                let offset = offset.unwrap_or(here);
                descriptor.position = offset + data.len() as u64;
                file.length = file.length.max(descriptor.position);
                file.unsynced.changes.push(Change::Write(number, offset));
            }
            Call::Length { fd, bytes } => {
                let Entry::File(file) = self.descriptors[fd].entry else { panic!("no file") };
                self.files[file].length = *bytes;
                self.files[file].unsynced.changes.push(Change::Length(*bytes));
            }
            Call::Sync { path, .. } => self.sync(number, path),
            Call::Rename { from, to } => {
                let entry = self.seen.remove(from).expect("what is renamed is there");
                assert_eq!(parent(from), parent(to), "moving {from} is not understood");
                if entry == Entry::Directory {
                    self.rename_directory(from, to);
                } else {
                    self.name(from, None);
                    self.name(to, Some(entry));
                }
            }
            Call::Remove { path } => self.name(path, None),
            Call::MakeDirectory { path } => self.name(path, Some(Entry::Directory)),
            Call::Said(_) | Call::Nothing => {}
        }
    }

    fn open(&mut self, path: &str, fd: u32, creates: bool, empties: bool, appends: bool) {
        if !self.seen.contains_key(path) {
            assert!(creates, "{path} is opened and was never made");
            self.files.push(File::default());
            self.name(path, Some(Entry::File(self.files.len() - 1)));
        }
        let entry = self.seen[path];
        if let (Entry::File(file), true) = (entry, empties) {
            self.files[file].length = 0;
            self.files[file].unsynced.changes.push(Change::Length(0));
        }
        self.descriptors.insert(fd, Descriptor { entry, position: 0, appends });
    }

    fn name(&mut self, path: &str, entry: Option<Entry>) {
        match entry {
            Some(entry) => self.seen.insert(path.to_owned(), entry),
            None => self.seen.remove(path),
        };
        let naming = Naming { path: path.to_owned(), entry, was: None };
        self.namings.entry(parent(path).to_owned()).or_default().changes.push(naming);
    }

    fn rename_directory(&mut self, from: &str, to: &str) {
        let open = self.namings.iter().any(|(path, names)| {
            (path == from || is_below(path, from)) && !names.changes.is_empty()
        });
        assert!(!open, "{from} gets another name before the names in it are synced");
        move_all(&mut self.seen, from, to);
        let entry = Some(Entry::Directory);
        let naming = Naming { path: to.to_owned(), entry, was: Some(from.to_owned()) };
        self.namings.entry(parent(to).to_owned()).or_default().changes.push(naming);
    }

    fn sync(&mut self, call: usize, path: &str) {
        match self.covered.remove(&call).expect("it began") {
            (Entry::File(file), end) => {
                let File { durable, unsynced, .. } = &mut self.files[file];
                for change in unsynced.take_to(end) {
                    apply(durable, change, self.trace, || true);
                }
            }
            (Entry::Directory, end) => {
                let namings = self.namings.entry(path.to_owned()).or_default();
                namings.take_to(end).for_each(|naming| rename(&mut self.durable, naming));
            }
        }
    }

    /// Writes what the device holds at this moment into an empty directory.
    pub fn write_image(&self, unsynced: Unsynced, into: &Path) {
        let mut chance = Chance(if let Unsynced::Torn(seed) = unsynced { seed | 1 } else { 0 });
        let torn = unsynced != Unsynced::Lost;
        let mut names = self.durable.clone();
        if torn {
            let mut directories: Vec<_> = self.namings.iter().collect();
            directories.sort_by_key(|(path, _)| path.as_str());
            for (_, namings) in directories {
                let all = namings.changes.len();
                let kept = if unsynced == Unsynced::Kept { all } else { chance.below(all + 1) };
                namings.changes[..kept]
                    .iter()
                    .for_each(|naming| rename(&mut names, naming.clone()));
            }
        }
        // In order, so that a directory comes before its contents.
        for (path, entry) in &names {
            let place = into.join(path[self.root.len()..].trim_start_matches('/'));
            if !place.parent().is_some_and(Path::is_dir) {
                continue;
            }
            match entry {
                Entry::Directory => fs::create_dir(&place).unwrap(),
                Entry::File(file) => {
                    let mut content = self.files[*file].durable.clone();
                    if torn {
                        for change in &self.files[*file].unsynced.changes {
                            apply(&mut content, *change, self.trace, || {
                                unsynced == Unsynced::Kept || chance.below(2) == 0
                            });
                        }
                    }
                    fs::write(&place, content).unwrap();
                }
            }
        }
    }
}

/// Applies those pages of a change that count.
fn apply(content: &mut Vec<u8>, change: Change, trace: &Trace, mut counts: impl FnMut() -> bool) {
    match change {
        Change::Length(bytes) => {
            if counts() {
                content.resize(usize::try_from(bytes).unwrap(), 0);
            }
        }
        Change::Write(call, offset) => {
            let Call::Write { data, .. } = &trace.calls[call] else { panic!("not a write") };
            let mut at = usize::try_from(offset).unwrap();
            let mut rest = &data[..];
            while !rest.is_empty() {
                let (page, after) = rest.split_at((PAGE_BYTES - at % PAGE_BYTES).min(rest.len()));
                if counts() {
                    content.resize(content.len().max(at + page.len()), 0);
                    content[at..at + page.len()].copy_from_slice(page);
                }
                (at, rest) = (at + page.len(), after);
            }
        }
    }
}

fn is_below(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

fn move_all(names: &mut BTreeMap<String, Entry>, from: &str, to: &str) {
    names.remove(from);
    names.insert(to.to_owned(), Entry::Directory);
    let below: Vec<String> = names.keys().filter(|path| is_below(path, from)).cloned().collect();
    for path in below {
        if let Some(entry) = names.remove(&path) {
            names.insert(format!("{to}{}", &path[from.len()..]), entry);
        }
    }
}

fn rename(names: &mut BTreeMap<String, Entry>, naming: Naming) {
    if let Some(was) = naming.was {
        return move_all(names, &was, &naming.path);
    }
    match naming.entry {
        Some(entry) => names.insert(naming.path, entry),
        None => names.remove(&naming.path),
    };
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// A pseudo-random sequence, the same for the same seed.
pub struct Chance(pub u64);

impl Chance {
    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }
}
