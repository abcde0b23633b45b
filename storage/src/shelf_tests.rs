use super::*;
use crate::codec;
use crate::fixtures::assert_pinned;
use crate::memory_fs::{Faults, MemoryDisk};
use crate::tables::Sums;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};

type Model = BTreeMap<Vec<u8>, Bytes>;

fn place(fs: Arc<dyn FileSystem>) -> Place {
    Place { fs, dir: "state/shelf-1".into(), segment_bytes: 20_000 }
}

fn empty(disk: &MemoryDisk) -> Shelf {
    Shelf::open(place(disk.mount()), &Manifest::default(), false).unwrap()
}

fn key(prefix: &[u8], number: u64) -> Vec<u8> {
    [prefix, &number.to_be_bytes()].concat()
}

/// The next rows of some series, and the oldest of some gone.
struct History {
    rng: StdRng,
    model: Model,
    next: u64,
}

impl History {
    fn new(seed: u64) -> Self {
        History { rng: StdRng::seed_from_u64(seed), model: Model::new(), next: 0 }
    }

    fn changes(&mut self, entries: u64) -> Vec<RawChange> {
        let mut changes = BTreeMap::new();
        for prefix in [&[16][..], &[18], &[33, 0]] {
            let gone = if prefix == [16] { 0 } else { self.rng.random_range(0..entries as usize) };
            let oldest = self.model.range(prefix.to_vec()..after_prefix(prefix)).take(gone);
            changes.extend(oldest.map(|(key, _)| (key.clone(), None)));
            for number in self.next..self.next + entries {
                let mut value = vec![0; self.rng.random_range(0..3_000)];
                // Half of it can be compressed, half cannot.
                let half = value.len() / 2;
                self.rng.fill(&mut value[half..]);
                changes.insert(key(prefix, number), Some(Bytes::from(value)));
            }
        }
        self.next += entries;
        for (key, value) in &changes {
            match value {
                Some(value) => drop(self.model.insert(key.clone(), value.clone())),
                None => drop(self.model.remove(key)),
            }
        }
        changes.into_iter().collect()
    }
}

fn rows(shelf: &Shelf) -> Model {
    shelf.range(FIRST, END).map(Result::unwrap).collect()
}

fn sums_of(shelf: &Shelf) -> Sums {
    let mut sums = Sums::default();
    shelf.manifest().add_to(&mut sums);
    sums
}

fn sums(model: &Model) -> Sums {
    let mut sums = Sums::default();
    model.iter().for_each(|(key, value)| sums.add(key, value));
    sums
}

#[test]
fn it_is_a_map_whatever_the_size_of_its_files() {
    for seed in 0..6 {
        let disk = MemoryDisk::new();
        let (mut shelf, mut history) = (empty(&disk), History::new(seed));
        for round in 0..25 {
            let written = shelf.write(&history.changes(1 + round % 9)).unwrap();
            shelf.clear(&written.obsolete);
            if round % 5 == 4 {
                shelf = Shelf::open(place(disk.mount()), &written.manifest, round % 10 == 4).unwrap();
            }
            let model = &history.model;
            assert_eq!(rows(&shelf), *model, "seed {seed}, round {round}");
            assert_eq!(sums_of(&shelf), sums(model), "seed {seed}, round {round}");
            let rng = &mut history.rng;
            for _ in 0..20 {
                let prefix = [&[16][..], &[18], &[33, 0]][rng.random_range(0..3)];
                let (a, b) = (rng.random_range(0..=history.next), rng.random_range(0..=history.next));
                let (from, until) = (key(prefix, a.min(b)), key(prefix, a.max(b)));
                assert_eq!(shelf.get(&from).unwrap(), model.get(&from).cloned());
                let between = model.range(from.clone()..until.clone());
                let found = shelf.range(&from, &until).map(Result::unwrap).collect::<Model>();
                assert!(found.iter().eq(between.clone()), "seed {seed}, round {round}");
                let last = between.last().map(|(key, value)| (key.clone(), value.clone()));
                assert_eq!(shelf.last(&from, &until).unwrap(), last);
                let before = model.range(..until.clone()).next_back();
                let before = before.map(|(key, value)| (key.clone(), value.clone()));
                assert_eq!(shelf.last(&[], &until).unwrap(), before);
            }
        }
        let sealed = shelf.manifest().sealed();
        assert!(sealed.files().count() > 5, "{sealed:?}");
        assert!(sealed.0[1].files[0].number > 1, "files of removed rows are gone");
        let loose: Model = shelf.loose().map(Result::unwrap).collect();
        let shared =
            Shelf::adopt(Place { dir: "elsewhere".into(), ..place(disk.mount()) }, &shelf.sealed()).unwrap();
        let mut all = rows(&shared);
        all.extend(loose);
        assert_eq!(all, history.model);
    }
}

/// The manifest is what counts: a crash before it was stored leaves the files as they were before.
#[test]
fn what_no_manifest_names_never_happened_and_a_snapshot_keeps_its_files() {
    let disk = MemoryDisk::new();
    let fs = disk.mount();
    let (shelf, mut history) = (empty(&disk), History::new(1));
    let stored = shelf.write(&history.changes(20)).unwrap().manifest;
    let before = history.model.clone();
    // Seals the files that were open, and a snapshot shares them.
    shelf.write(&history.changes(20)).unwrap();
    let sealed = shelf.sealed();
    for (name, _) in sealed.manifest.files() {
        link_or_copy(&*fs, &sealed.path(&name), &Path::new("state").join(&name)).unwrap();
    }
    let shared = Sealed { dir: "state".into(), ..sealed };
    let reopened = Shelf::open(place(fs.clone()), &stored, false).unwrap();
    assert_eq!(rows(&reopened), before);
    // Other rows than those that the crash took.
    let mut other = History { model: before, next: 20, rng: StdRng::seed_from_u64(99) };
    reopened.write(&other.changes(20)).unwrap();
    assert_eq!(rows(&reopened), other.model);
    verify(&*fs, &shared, true).unwrap();
}

#[test]
fn a_write_whose_manifest_was_not_stored_may_be_repeated() {
    let disk = MemoryDisk::new();
    let (shelf, mut history) = (empty(&disk), History::new(2));
    let changes = history.changes(20);
    let first = shelf.write(&changes).unwrap().manifest;
    assert_eq!(shelf.write(&changes).unwrap().manifest, first);
    assert_eq!(rows(&shelf), history.model);
    let again = |value: &'static [u8]| shelf.write(&[(key(&[16], 3), Some(Bytes::from(value)))]);
    assert!(matches!(again(b"another"), Err(StorageError::Stopped(_))));
    let removed = shelf.write(&[(key(&[16], 3), None)]);
    assert!(matches!(removed, Err(StorageError::Stopped(_))), "not the oldest");
}

/// Files of a shelf and their lengths.
/// A series whose every file goes with the write that begins the next one, as receipts do that are not kept any longer.
#[test]
fn a_new_file_never_has_the_name_of_one_that_goes() {
    let disk = MemoryDisk::new();
    let shelf = empty(&disk);
    let mut rng = StdRng::seed_from_u64(3);
    let mut rows_from = |first: u64| -> Vec<RawChange> {
        // Two of them fill a file.
        let row = |number| {
            let mut value = vec![0; 30_000];
            rng.fill(&mut value[..]);
            (key(&[18], number), Some(Bytes::from(value)))
        };
        (first..first + 4).map(row).collect()
    };
    let (old, new) = (rows_from(0), rows_from(4));
    shelf.write(&old).unwrap();
    assert!(shelf.manifest().files().all(|(_, state)| state.sealed), "a new row goes to a new file");
    let gone = old.into_iter().map(|(key, _)| (key, None));
    let written = shelf.write(&gone.chain(new.clone()).collect::<Vec<_>>()).unwrap();
    assert!(!written.obsolete.is_empty());
    shelf.clear(&written.obsolete);
    let shelf = Shelf::open(place(disk.mount()), &written.manifest, true).unwrap();
    let new: Model = new.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    assert_eq!(rows(&shelf), new);
    assert_eq!(sums_of(&shelf), sums(&new));
}

fn files(disk: &MemoryDisk) -> Vec<(PathBuf, usize)> {
    let paths = disk.paths().into_iter().filter(|path| path.extension().is_some_and(|e| e == SUFFIX));
    paths.map(|path| (path.clone(), disk.contents(&path).unwrap().len())).collect()
}

/// A start finds damage in what was not sealed; a reading of everything finds it anywhere; and so does whoever
/// reads the row.
#[test]
fn a_flipped_bit_is_found_and_named() {
    let disk = MemoryDisk::new();
    let (shelf, mut history) = (empty(&disk), History::new(3));
    let manifest = shelf.write(&history.changes(30)).unwrap().manifest;
    drop(shelf);
    let is_sealed = |path: &Path| manifest.files().any(|(name, state)| path.ends_with(&name) && state.sealed);
    let mut rng = StdRng::seed_from_u64(4);
    for (path, length) in files(&disk) {
        for _ in 0..20 {
            let at = rng.random_range(0..length);
            let damaged = disk.fork();
            damaged.damage(&path, |bytes| bytes[at] ^= 1 << (at % 8));
            let open = |whole| Shelf::open(place(damaged.mount()), &manifest, whole);
            let names_it =
                |error: &StorageError| matches!(error, StorageError::Corrupt { file, .. } if *file == path);
            assert!(open(true).is_err_and(|e| names_it(&e)), "byte {at} of {}", path.display());
            match open(false) {
                Err(error) => assert!(names_it(&error), "{error}"),
                Ok(shelf) => {
                    assert!(is_sealed(&path), "{} is not sealed", path.display());
                    assert!(!damage::is_marked(&*damaged.mount(), Path::new("state")));
                    let scrubbed = shelf.scrub(&|_| Ok(()));
                    assert!(scrubbed.is_err_and(|e| names_it(&e)), "byte {at} of {}", path.display());
                    assert!(shelf.damage().is_some_and(|error| names_it(&error)));
                    assert!(damage::is_marked(&*damaged.mount(), Path::new("state")));
                    // No row is given that is not as it was written.
                    let shelf = open(false).unwrap();
                    for (key, value) in &history.model {
                        match shelf.get(key) {
                            Ok(found) => assert_eq!(found.as_ref(), Some(value)),
                            Err(error) => assert!(names_it(&error), "{error}"),
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_file_that_is_missing_or_short_is_found_at_the_start() {
    let disk = MemoryDisk::new();
    let (shelf, mut history) = (empty(&disk), History::new(5));
    let manifest = shelf.write(&history.changes(30)).unwrap().manifest;
    drop(shelf);
    for (path, length) in files(&disk) {
        for kept in [0, 7, length / 2, length - 1] {
            let damaged = disk.fork();
            damaged.damage(&path, |bytes| bytes.truncate(kept));
            assert!(Shelf::open(place(damaged.mount()), &manifest, false).is_err(), "{kept} of {length}");
        }
        let damaged = disk.fork();
        damaged.mount().remove(&path).unwrap();
        assert!(Shelf::open(place(damaged.mount()), &manifest, false).is_err());
    }
}

/// What is sealed is synced, so that a snapshot may count on it.
#[test]
fn sealed_files_survive_a_loss_of_power() {
    for seed in 0..10 {
        let disk = MemoryDisk::new();
        let (shelf, mut history) = (empty(&disk), History::new(seed));
        shelf.write(&history.changes(80)).unwrap();
        let sealed = shelf.sealed();
        assert!(sealed.manifest.files().count() > 2);
        disk.lose_power(&mut StdRng::seed_from_u64(seed));
        verify(&*disk.mount(), &sealed, true).unwrap();
    }
}

/// What a failed sync left in the page cache the next sync takes for clean: only bytes in another file become durable.
#[test]
fn a_file_whose_sync_failed_is_not_synced_again() {
    const ENOSPC: i32 = 28;
    let disk = MemoryDisk::new();
    let (shelf, mut history) = (empty(&disk), History::new(6));
    let stored = shelf.write(&history.changes(2)).unwrap().manifest;
    assert!(stored.files().all(|(_, state)| !state.sealed));
    let changes = history.changes(40);
    disk.set_faults(Faults { fail_sync: Some((1, ENOSPC)), ..Faults::default() });
    let Err(error) = shelf.write(&changes) else { panic!("the sync failed") };
    assert!(matches!(&error, StorageError::Stopped(why) if why.contains("syncing")), "{error}");
    assert!(!error.is_no_room(), "or the checkpointer tries it again");
    let shelf = Shelf::open(place(disk.mount()), &stored, false).unwrap();
    shelf.write(&changes).unwrap();
    assert_eq!(rows(&shelf), history.model);
    let sealed = shelf.sealed();
    assert!(sealed.manifest.files().count() > 2);
    for seed in 0..20 {
        let disk = disk.fork();
        disk.lose_power(&mut StdRng::seed_from_u64(seed));
        verify(&*disk.mount(), &sealed, true).unwrap();
    }
}

/// Files of a shelf and the list of them, as a release wrote them.
#[test]
fn files_and_their_list_stay_readable() {
    let small = |disk: &MemoryDisk| Place { segment_bytes: 64, ..place(disk.mount()) };
    let disk = MemoryDisk::new();
    let shelf = Shelf::open(small(&disk), &Manifest::default(), false).unwrap();
    let row =
        |prefix: u8, number: u64| (key(&[prefix], number), Some(Bytes::from(format!("row {number:030}"))));
    for number in 1..=5 {
        shelf.write(&[row(16, number), row(17, number)]).unwrap();
    }
    shelf.write(&[(key(&[17], 1), None)]).unwrap();
    let manifest = shelf.manifest();
    let listed = assert_pinned("shelf-manifest", &codec::encode_serde(&manifest));
    let pinned: Manifest = codec::decode_serde::<_, { codec::VALUE_LIMIT }>("list", &listed).unwrap();
    assert_eq!(pinned, manifest);

    let other = MemoryDisk::new();
    let fs = other.mount();
    fs.create_dir_all(&small(&disk).dir).unwrap();
    let mut kinds = BTreeSet::new();
    for (name, state) in manifest.files() {
        let path = small(&disk).dir.join(&name);
        let bytes =
            assert_pinned(&format!("shelf-{}", name.replace('.', "-")), &disk.contents(&path).unwrap());
        fs.create_new(&path).unwrap().write_all_at(&bytes, 0).unwrap();
        kinds.insert(state.sealed);
    }
    assert_eq!(kinds, BTreeSet::from([false, true]), "{manifest:?}");
    let found = rows(&Shelf::open(small(&other), &pinned, true).unwrap());
    assert_eq!(found, rows(&shelf));
    assert_eq!(found.len(), 9);
}
